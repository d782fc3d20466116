//! A host's part in a task.

use darter_api::session::Purpose;

/// A host's part in a task. There are millions: what most of them have none of is not
/// stored in them, and what they have in common only once; 2 bytes.
#[derive(Debug, Default)]
pub(in crate::core) struct Member {
    pub(in crate::core) purpose: Purpose,
    pub(super) marks: Marks,
}

/// What is true of a member, a bit each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks(u8);

impl Marks {
    pub(super) const WANTS: u8 = 1;
    /// See [`Member::hurry`].
    const HURRIES: u8 = 1 << 1;
    /// See [`Member::set_idle`].
    const IDLE: u8 = 1 << 2;
    /// It is one of the task's newcomers.
    pub(super) const NEW: u8 = 1 << 3;
    /// It holds all.
    pub(super) const ALL: u8 = 1 << 4;

    pub(super) const fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    /// What it was before.
    pub(super) const fn set(&mut self, mark: u8, so: bool) -> bool {
        let before = self.has(mark);
        self.0 = if so { self.0 | mark } else { self.0 & !mark };
        before
    }
}

impl Member {
    pub(in crate::core) const fn wants(&self) -> bool {
        self.marks.has(Marks::WANTS)
    }

    /// Whether it reads the source for somebody who waits, and not for a preheat alone; what was
    /// so before.
    pub(in crate::core) const fn hurry(&mut self, so: bool) -> bool {
        self.marks.set(Marks::HURRIES, so)
    }

    /// Whether it holds and wants nothing; what was so when it was last looked at.
    pub(in crate::core) const fn set_idle(&mut self, so: bool) -> bool {
        self.marks.set(Marks::IDLE, so)
    }

    /// It is no newcomer any more.
    pub(in crate::core) const fn settled(&mut self) {
        self.marks.set(Marks::NEW, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_takes_few_bytes() {
        assert_eq!(size_of::<Member>(), 2);
    }
}

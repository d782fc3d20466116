//! The credentials that the clients of one download brought.
//!
//! They are used for this node's own reads of that content's source, and for nothing
//! else: no message to a peer or a scheduler is made from them. Invariant: at most
//! [`MOST`] are kept, the one that worked among them.

use parking_lot::Mutex;

use crate::credential::Credential;

/// Credentials kept for one download; clients beyond that read by the others'.
const MOST: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    kept: Mutex<Vec<Credential>>,
}

impl Credentials {
    /// Takes one more client's.
    pub(super) fn add(&self, credential: Option<Credential>) {
        let Some(credential) = credential else { return };
        let mut kept = self.kept.lock();
        if !kept.contains(&credential) && kept.len() < MOST {
            kept.push(credential);
        }
    }

    /// What to try, in this order; the last is the source's own.
    pub(super) fn candidates(&self) -> Vec<Option<Credential>> {
        let kept = self.kept.lock();
        kept.iter().cloned().map(Some).chain([None]).collect()
    }

    /// This one was accepted: it is tried first from now on.
    pub(super) fn worked(&self, credential: &Credential) {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|one| one == credential) {
            kept[..=at].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn bounded_and_the_one_that_worked_comes_first() {
        let credentials = Credentials::default();
        let one =
            |n: usize| Credential::new(HeaderValue::from_str(&format!("Bearer {n}")).unwrap());
        credentials.add(None);
        for n in 0..10 {
            credentials.add(Some(one(n)));
            credentials.add(Some(one(n)));
        }
        credentials.worked(&one(2));
        let order: Vec<_> = [2, 0, 1, 3]
            .into_iter()
            .map(|n| Some(one(n)))
            .chain([None])
            .collect();
        assert_eq!(credentials.candidates(), order);
    }
}

//! Which of several schedulers has a task: rendezvous hashing (Thaler and
//! Ravishankar, 1998).
//!
//! Every host orders the same names for a task the same way. A name that comes or goes
//! moves the tasks of that name alone.

use std::{cmp::Ordering, fmt, hash, sync::Arc};

use crate::{digest::Digest, task::TaskId};

/// A scheduler by the URL under which all hosts know it. Cheap to clone.
///
/// Two spellings of one address are two names, whose tasks have two owners.
#[derive(Clone)]
pub struct SchedulerName {
    url: Arc<str>,
    point: u64,
}

impl SchedulerName {
    /// The scheduler at `url`.
    pub fn new(url: &str) -> Self {
        let url = url.trim_end_matches('/').to_ascii_lowercase();
        let point = point(&Digest::sha256(url.as_bytes()));
        let url = url.into();
        Self { url, point }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How early this name is in the order of a task: of several the smallest has it.
    pub fn rank(&self, task: &TaskId) -> u64 {
        mix(self.point ^ mix(point(task.digest())))
    }
}

impl PartialEq for SchedulerName {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for SchedulerName {}

impl PartialOrd for SchedulerName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SchedulerName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.url.cmp(&other.url)
    }
}

impl hash::Hash for SchedulerName {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.url.hash(state);
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// A digest's first eight bytes; they are as good as chance.
fn point(digest: &Digest) -> u64 {
    let bytes = digest.as_bytes().iter().take(8);
    bytes.fold(0, |point, byte| point << 8 | u64::from(*byte))
}

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014): every bit of the input changes
/// half of the output's.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(names: &[SchedulerName], task: &TaskId) -> usize {
        let ranks = names.iter().enumerate();
        let best = ranks.min_by_key(|(_, name)| name.rank(task));
        best.expect("there are names").0
    }

    #[test]
    fn tasks_spread_evenly_and_only_those_of_a_name_that_goes_move() {
        let name = |number| SchedulerName::new(&format!("http://10.0.0.{number}:4000"));
        let names: Vec<SchedulerName> = (0..10).map(name).collect();
        let mut shares = [0; 10];
        for number in 0..10_000_u32 {
            let task = TaskId::of_content(Digest::sha256(&number.to_be_bytes()));
            let home = first(&names, &task);
            shares[home] += 1;
            let without = &names[..9];
            let after = first(without, &task);
            assert!(home == 9 || after == home, "{task} moved");
        }
        assert!(
            shares.iter().all(|share| (850..1150).contains(share)),
            "{shares:?}"
        );
    }

    /// All members of a cluster have to agree, whatever their version.
    #[test]
    fn ranks_are_part_of_the_wire() {
        let task = TaskId::of_content(Digest::sha256(b"x"));
        let name = SchedulerName::new("HTTP://10.0.0.2:8002/");
        assert_eq!(name.url(), "http://10.0.0.2:8002");
        assert_eq!(name.rank(&task), 0xdc49_2a07_e38c_2018);
    }
}

//! Which hosts a wish means.

use std::{collections::HashSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::host::HostId;

/// Which hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One seed; a single host where there is no seed.
    #[default]
    SingleSeedPeer,
    /// All seeds.
    AllSeedPeers,
    /// Seeds and peers.
    AllPeers,
}

/// A host, for who chooses among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its public key.
    pub host: HostId,
    /// For people.
    pub name: String,
    /// Where it is.
    pub ip: IpAddr,
    /// Whether it is a seed.
    pub seed: bool,
}

/// A wish's hosts, in the wish's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// Of these.
    pub scope: Scope,
    /// Those at these addresses; all where there are none.
    pub ips: Vec<IpAddr>,
    /// Without addresses: so many; 0 is no limit.
    pub count: usize,
    /// Without either: so many of a hundred, rounded up; 0 is no limit.
    pub percentage: usize,
}

impl Choice {
    /// Whether every host of the scope is meant, and the scope is more than one.
    pub fn is_of_all(&self) -> bool {
        let is_some = self.count > 0 || (1..100).contains(&self.percentage);
        self.scope != Scope::SingleSeedPeer && self.ips.is_empty() && !is_some
    }

    /// Those that are meant, the first ones where not all are, and what of the wish is not
    /// here, in words.
    pub fn among(&self, present: Vec<Present>) -> (Vec<Present>, Vec<String>) {
        let mut hosts = self.in_scope(present);
        if !self.ips.is_empty() {
            return at(&self.ips, hosts);
        }
        let here = hosts.len();
        let most = match self.scope {
            Scope::SingleSeedPeer => 1,
            _ if self.count > 0 => self.count,
            _ if self.percentage > 0 => (here * self.percentage).div_ceil(100),
            _ => here,
        };
        hosts.truncate(most);
        let too_few = (most > here && here > 0).then(|| {
            let missing = most - here;
            format!("{most} hosts are wanted, and {here} are here: {missing} are missing")
        });
        (hosts, too_few.into_iter().collect())
    }

    fn in_scope(&self, present: Vec<Present>) -> Vec<Present> {
        let has_seed = present.iter().any(|host| host.seed);
        let is_meant = |host: &Present| match self.scope {
            // Without seeds any host is as good as one: it shares what it has.
            Scope::SingleSeedPeer => host.seed || !has_seed,
            Scope::AllSeedPeers => host.seed,
            Scope::AllPeers => true,
        };
        present.into_iter().filter(is_meant).collect()
    }
}

/// The hosts at these addresses, and at which of them nobody is.
fn at(ips: &[IpAddr], mut hosts: Vec<Present>) -> (Vec<Present>, Vec<String>) {
    let wanted: HashSet<IpAddr> = ips.iter().map(IpAddr::to_canonical).collect();
    hosts.retain(|host| wanted.contains(&host.ip.to_canonical()));
    let here: HashSet<IpAddr> = hosts.iter().map(|host| host.ip.to_canonical()).collect();
    let mut told = HashSet::new();
    let unknown = ips.iter().map(IpAddr::to_canonical);
    let unknown = unknown.filter(|ip| !here.contains(ip) && told.insert(*ip));
    let missing = unknown.map(|ip| format!("no host is at {ip}")).collect();
    (hosts, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeKey;

    fn present(seed: u8, is_seed: bool) -> Present {
        Present {
            host: NodeKey::from_seed([seed; 32]).id(),
            name: format!("n{seed}"),
            ip: [10, 0, 0, seed].into(),
            seed: is_seed,
        }
    }

    fn all() -> Vec<Present> {
        vec![present(1, true), present(2, false), present(3, false)]
    }

    fn scope(scope: Scope) -> Choice {
        Choice {
            scope,
            ..Choice::default()
        }
    }

    fn names(choice: &Choice, present: &[Present]) -> Vec<String> {
        let (chosen, _) = choice.among(present.to_vec());
        chosen.into_iter().map(|host| host.name).collect()
    }

    #[test]
    fn who_is_meant() {
        let all = all();
        assert_eq!(names(&scope(Scope::SingleSeedPeer), &all), ["n1"]);
        assert_eq!(names(&scope(Scope::AllSeedPeers), &all), ["n1"]);
        assert_eq!(names(&scope(Scope::AllPeers), &all).len(), 3);
        // Without a seed one host is as good, but there are no seeds to have all of.
        assert_eq!(names(&scope(Scope::SingleSeedPeer), &all[1..]), ["n2"]);
        assert!(names(&scope(Scope::AllSeedPeers), &all[1..]).is_empty());
        let some = Choice {
            count: 2,
            percentage: 100,
            ..scope(Scope::AllPeers)
        };
        assert_eq!(names(&some, &all), ["n1", "n2"]);
        let half = Choice {
            percentage: 34,
            ..scope(Scope::AllPeers)
        };
        assert_eq!(names(&half, &all), ["n1", "n2"]);
    }

    #[test]
    fn what_is_not_here_is_said() {
        let by_address = Choice {
            ips: vec![
                [10, 0, 0, 3].into(),
                [10, 0, 0, 9].into(),
                [10, 0, 0, 9].into(),
            ],
            count: 1,
            ..scope(Scope::AllPeers)
        };
        let (here, missing) = by_address.among(all());
        let nobody = "no host is at 10.0.0.9".to_owned();
        assert_eq!((here, missing), (vec![present(3, false)], vec![nobody]));
        let many = Choice {
            count: 10,
            ..scope(Scope::AllPeers)
        };
        let (here, missing) = many.among(all());
        let why = "10 hosts are wanted, and 3 are here: 7 are missing".to_owned();
        assert_eq!((here.len(), missing), (3, vec![why]));
    }

    #[test]
    fn some_are_not_all() {
        let of = |count, percentage| Choice {
            count,
            percentage,
            ..scope(Scope::AllPeers)
        };
        assert!(of(0, 0).is_of_all() && of(0, 100).is_of_all());
        assert!(!of(1, 0).is_of_all() && !of(0, 99).is_of_all());
        assert!(!scope(Scope::SingleSeedPeer).is_of_all());
    }
}

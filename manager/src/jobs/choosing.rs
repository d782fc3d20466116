//! Which hosts a wish for some means, where a cluster has several schedulers.
//!
//! Nothing here owns state. Each scheduler knows the hosts that have a session with it; what is
//! chosen is chosen among all of them, and each chosen host is asked for at the first scheduler
//! that has it. A scheduler that can't be asked has no hosts of its own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use darter_api::{
    HostId,
    preheat::{Choice, Present},
    wire::v1::{self, operations_client::OperationsClient},
};
use tonic::{Status, transport::Channel};

/// Hosts in one answer; a scheduler gives no more.
const PAGE: u32 = 1000;
/// For a scheduler to name its hosts.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// Hosts of one scheduler that are looked at.
const MOST_HOSTS: usize = 100_000;

/// Who is to have it, and at which scheduler each is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) hosts: Vec<v1::PreheatHost>,
    /// Places of schedulers in the order that they were asked in, and whom each is to ask.
    pub(super) parts: Vec<(usize, Vec<Bytes>)>,
    /// What of the wish is nowhere, in words.
    pub(super) missing: Vec<String>,
}

/// Chooses among the hosts of all schedulers, each of which says whom it has.
pub(super) fn choose(choice: &Choice, known: &[Vec<Present>]) -> Chosen {
    let mut home: HashMap<HostId, usize> = HashMap::new();
    let mut all: HashMap<HostId, Present> = HashMap::new();
    for (scheduler, hosts) in known.iter().enumerate() {
        for host in hosts {
            home.entry(host.host).or_insert(scheduler);
            // A role is a cluster's setting; one scheduler may not have heard of it yet.
            let is_seed = |known: &mut Present| known.seed |= host.seed;
            let entry = all.entry(host.host).and_modify(is_seed);
            entry.or_insert_with(|| host.clone());
        }
    }
    let mut all: Vec<Present> = all.into_values().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name).then(a.host.cmp(&b.host)));
    let (chosen, missing) = choice.among(all);
    let mut parts: BTreeMap<usize, Vec<Bytes>> = BTreeMap::new();
    for host in &chosen {
        let scheduler = home.get(&host.host).copied().unwrap_or_default();
        parts.entry(scheduler).or_default().push(key(&host.host));
    }
    Chosen {
        hosts: chosen.iter().map(shown).collect(),
        parts: parts.into_iter().collect(),
        missing,
    }
}

/// All hosts that a scheduler has a session with.
pub(super) async fn hosts_of(
    mut scheduler: OperationsClient<Channel>,
) -> Result<Vec<Present>, Status> {
    let mut known = Vec::new();
    let mut seen = HashSet::new();
    let mut after = Bytes::new();
    while known.len() < MOST_HOSTS {
        let request = v1::HostsRequest {
            after: after.clone(),
            limit: PAGE,
        };
        let page = scheduler.hosts(request).await?.into_inner().hosts;
        let Some(last) = page.last().map(|host| host.host.clone()) else {
            break;
        };
        let is_last = page.len() < PAGE as usize;
        known.extend(page.into_iter().filter_map(present));
        // A page that leads back to an earlier one would never end.
        if is_last || !seen.insert(last.clone()) {
            break;
        }
        after = last;
    }
    Ok(known)
}

/// A host that is there and can be ordered.
fn present(host: v1::HostSummary) -> Option<Present> {
    let address: SocketAddr = host.address.parse().ok()?;
    let here = Present {
        host: HostId::try_from(host.host.as_ref()).ok()?,
        name: host.name,
        ip: address.ip(),
        seed: host.seed,
    };
    Some(here).filter(|_| !host.resting)
}

fn key(host: &HostId) -> Bytes {
    Bytes::copy_from_slice(host.as_bytes())
}

fn shown(host: &Present) -> v1::PreheatHost {
    v1::PreheatHost {
        host: key(&host.host),
        name: host.name.clone(),
        ip: host.ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{NodeKey, preheat::Scope};

    use super::*;

    fn host(number: u8) -> Present {
        Present {
            host: NodeKey::from_seed([number; 32]).id(),
            name: format!("n{number}"),
            ip: [10, 0, 0, number].into(),
            seed: number == 4,
        }
    }

    /// Two schedulers of which each has a host that the other can't be reached by.
    fn known() -> [Vec<Present>; 2] {
        [[1, 2, 3].map(host).to_vec(), [2, 3, 4].map(host).to_vec()]
    }

    fn keys(numbers: &[u8]) -> Vec<Bytes> {
        let keys = numbers.iter().map(|number| key(&host(*number).host));
        keys.collect()
    }

    #[test]
    fn some_are_chosen_among_all() {
        let of = |spoil: fn(&mut Choice)| {
            let mut choice = Choice {
                scope: Scope::AllPeers,
                ..Choice::default()
            };
            spoil(&mut choice);
            let Chosen { parts, missing, .. } = choose(&choice, &known());
            (parts, missing)
        };
        let nothing = Vec::<String>::new;
        let (first, both) = (
            keys(&[1, 2, 3]),
            vec![(0, keys(&[1, 2, 3])), (1, keys(&[4]))],
        );
        assert_eq!(of(|it| it.count = 3), (vec![(0, first.clone())], nothing()));
        assert_eq!(of(|it| it.count = 4), (both.clone(), nothing()));
        // Three of four, and not three quarters of either scheduler's.
        assert_eq!(of(|it| it.percentage = 75), (vec![(0, first)], nothing()));
        let (parts, missing) = of(|it| it.count = 5);
        let why = "5 hosts are wanted, and 4 are here: 1 are missing".to_owned();
        assert_eq!((parts, missing), (both, vec![why]));
        let (parts, missing) =
            of(|it| it.ips = [4, 9].map(|last| [10, 0, 0, last].into()).to_vec());
        let why = "no host is at 10.0.0.9".to_owned();
        assert_eq!((parts, missing), (vec![(1, keys(&[4]))], vec![why]));
        // The only seed is another scheduler's.
        let seed = of(|it| it.scope = Scope::SingleSeedPeer);
        assert_eq!(seed, (vec![(1, keys(&[4]))], nothing()));
        let nowhere = of(|it| it.ips = vec![[10, 0, 0, 9].into()]);
        assert!(nowhere.0.is_empty(), "{nowhere:?}");
    }

    #[test]
    fn who_rests_can_not_be_ordered() {
        let summary = v1::HostSummary {
            host: key(&host(1).host),
            name: "n1".to_owned(),
            address: "10.0.0.1:8001".to_owned(),
            ..v1::HostSummary::default()
        };
        assert_eq!(present(summary.clone()), Some(host(1)));
        let resting = v1::HostSummary {
            resting: true,
            ..summary
        };
        assert_eq!(present(resting), None);
    }
}

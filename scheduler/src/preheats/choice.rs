//! Which hosts are to have an image.

use std::net::IpAddr;

use darter_api::wire::v1::PreheatScope;

use super::Wish;
use crate::core::Present;

/// Those that are meant, and what of the wish is not here, in words.
pub(super) fn chosen(wish: &Wish, present: &[Present]) -> (Vec<Present>, Vec<String>) {
    let here = present.iter();
    let present: Vec<Present> = here
        .filter(|host| !wish.except.contains(&host.host))
        .cloned()
        .collect();
    let seeds: Vec<Present> = present.iter().filter(|host| host.seed).cloned().collect();
    let mut hosts = match wish.scope {
        // Without seeds any host is as good as one: it shares what it has.
        PreheatScope::SingleSeedPeer if seeds.is_empty() => present,
        PreheatScope::SingleSeedPeer | PreheatScope::AllSeedPeers => seeds,
        PreheatScope::AllPeers => present,
    };
    let canonical = |ip: &IpAddr| ip.to_canonical();
    if !wish.ips.is_empty() {
        let wanted: Vec<IpAddr> = wish.ips.iter().map(canonical).collect();
        hosts.retain(|host| wanted.contains(&canonical(&host.ip)));
        let is_here = |ip: &IpAddr| hosts.iter().any(|host| canonical(&host.ip) == *ip);
        let unknown = wanted.into_iter().filter(|ip| !is_here(ip));
        let missing = unknown.map(|ip| format!("no host is at {ip}")).collect();
        return (hosts, missing);
    }
    let most = match wish.scope {
        PreheatScope::SingleSeedPeer => 1,
        _ if wish.count > 0 => wish.count,
        _ if wish.percentage > 0 => (hosts.len() * wish.percentage).div_ceil(100),
        _ => hosts.len(),
    };
    let here = hosts.len();
    hosts.truncate(most);
    let too_few = (most > here && here > 0).then(|| {
        let missing = most - here;
        format!("{most} hosts are wanted, and {here} are here: {missing} are missing")
    });
    (hosts, too_few.into_iter().collect())
}

/// Who is to find out what the image is made of, one after the other: seeds, which are there for
/// the registries, before others.
pub(super) fn resolvers(present: &[Present], targets: &[Present], most: usize) -> Vec<Present> {
    let seeds = present.iter().filter(|host| host.seed);
    let others = targets.iter().filter(|host| !host.seed);
    seeds.chain(others).take(most).cloned().collect()
}

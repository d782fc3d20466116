//! Who has to be reached from this node: registries, schedulers, a manager, other peers.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use darter_proxy::upstream::{UpstreamOptions, Upstreams};
use futures::{StreamExt as _, stream};
use hyper::Uri;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{Patient, certificates::words, finding::Finding};
use crate::config::Config;

/// For a connection over the network.
const REMOTE: Duration = Duration::from_secs(3);
/// Questions at the same time.
const AT_ONCE: usize = 16;
/// Of a long list of peers, how many are asked.
const MOST_PEERS: usize = 64;
/// Registries take tokens from clocks that differ by so much and no more.
/// <https://github.com/distribution/distribution/blob/v2.8.3/registry/auth/token/token.go> (`Leeway`)
const WRONG_CLOCK: Duration = Duration::from_secs(60);
/// A `Date` is to a second, and an answer is a while on its way.
const NEAR: Duration = Duration::from_secs(5);

/// How far a registry's clock is from ours.
pub(super) struct Skew {
    name: String,
    by: Duration,
    /// Whether ours is the later one.
    we_are_ahead: bool,
}

/// Asks every registry whether it is there, and what time it is.
pub(super) async fn upstreams(config: &Config) -> (Vec<Finding>, Vec<Skew>) {
    let ask = |options: &UpstreamOptions| upstream(options.clone());
    let asked: Vec<_> = config.proxy.upstreams.iter().map(ask).collect();
    let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let (findings, skews): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    (findings, skews.into_iter().flatten().collect())
}

async fn upstream(options: UpstreamOptions) -> (Finding, Option<Skew>) {
    let name = options.name.clone();
    let built = Upstreams::new(
        std::slice::from_ref(&options),
        &darter_runtime::Tasks::new(),
    );
    let Some(upstream) = built.ok().and_then(|list| list.default_upstream().cloned()) else {
        let found = format!("{name} makes no sense");
        let finding = Finding::wrong("upstream", found, "mend proxy.upstreams");
        return (finding, None);
    };
    let base = upstream.base().clone();
    let asked = SystemTime::now();
    let probe = match upstream.probe().await {
        Ok(probe) => probe,
        Err(cause) => {
            let cause = words(&cause);
            let found = format!("{name}: {base} can't be asked: {cause}");
            return (Finding::wrong("upstream", found, cure(&cause)), None);
        }
    };
    let here = asked + asked.elapsed().unwrap_or_default() / 2;
    let skew = probe.date.map(|there| Skew {
        by: here
            .duration_since(there)
            .or_else(|_| there.duration_since(here))
            .unwrap_or_default(),
        we_are_ahead: here > there,
        name: name.clone(),
    });
    let status = probe.status.as_u16();
    let finding = match status {
        200 | 401 => Finding::ok("upstream", format!("{name}: {base} answers")),
        429 | 500.. => Finding::warning(
            "upstream",
            format!("{name}: {base} answers {}", probe.status),
            "it is busy or ill: cached images are served meanwhile",
        ),
        _ => Finding::wrong(
            "upstream",
            format!(
                "{name}: {base} answers {}: no registry is there",
                probe.status
            ),
            "mend its `url` in proxy.upstreams, or --upstream NAME=URL",
        ),
    };
    (finding, skew)
}

/// What helps against a failed question.
fn cure(cause: &str) -> &'static str {
    if cause.contains("UnknownIssuer") || cause.contains("certificate") {
        "name the PEM file of its authority: `ca` of the entry in proxy.upstreams"
    } else if cause.contains("lookup") || cause.contains("dns") {
        "its name is not known here: mend the name, or this machine's DNS"
    } else if cause.contains("refused") {
        "nobody listens there: mend its URL, or start it"
    } else {
        "see that this machine may reach it (routes, firewalls, an HTTP proxy between)"
    }
}

/// Our clock beside the nearest one that was told: where one agrees, ours is right.
pub(super) fn clock(skews: &[Skew]) -> Finding {
    let Some(nearest) = skews.iter().min_by_key(|skew| skew.by) else {
        return Finding::skipped("clock", "no registry told its time");
    };
    let (name, by) = (&nearest.name, Duration::from_secs(nearest.by.as_secs()));
    let side = if nearest.we_are_ahead {
        "ahead of"
    } else {
        "behind"
    };
    let found = format!("this clock is {by:?} {side} {name}'s");
    let todo = "set it, and keep it right: timedatectl set-ntp true";
    if nearest.by > WRONG_CLOCK {
        let found = format!("{found}: tokens and certificates fail");
        Finding::wrong("clock", found, todo)
    } else if nearest.by > NEAR {
        Finding::warning("clock", found, todo)
    } else {
        Finding::ok("clock", format!("as {name} has it"))
    }
}

/// Schedulers, manager, authority, peers.
pub(super) async fn cluster(patient: &Patient) -> Vec<Finding> {
    let proxy = &patient.config.proxy;
    let mut findings = Vec::new();
    for url in &proxy.schedulers {
        findings.push(
            service(
                "scheduler",
                url,
                "pulls go on with the neighbours and registries that are known",
            )
            .await,
        );
    }
    if let Some(url) = &proxy.manager {
        findings.push(service("manager", url, "the schedulers that are known stay").await);
    }
    if let Some(address) = &patient.config.cluster.join {
        let url = format!("https://{address}");
        findings.push(service("authority", &url, "the certificate is not renewed").await);
    }
    if !proxy.peers.is_empty() {
        findings.push(peers(&proxy.peers).await);
    }
    // `standalone` has a scheduler of its own, which no flag names.
    let sessions = patient.vitals.metric("darter_proxy_peer_sessions");
    let is_alone = proxy.schedulers.is_empty()
        && proxy.peers.is_empty()
        && proxy.manager.is_none()
        && sessions.is_none_or(|sessions| sessions == 0.0);
    if is_alone {
        findings.push(Finding::ok(
            "neighbours",
            "none are configured: this is a pull-through mirror that works alone",
        ));
    } else {
        findings.push(neighbours(patient));
    }
    findings
}

async fn service(check: &'static str, url: &str, meanwhile: &str) -> Finding {
    let Some(place) = place(url) else {
        let found = format!("{url} names no host and port");
        return Finding::wrong(check, found, "mend the URL");
    };
    match connect(&place).await {
        Ok(()) => Finding::ok(check, format!("{url} is there")),
        Err(cause) => Finding::wrong(
            check,
            format!("{url} can't be reached: {cause}; {meanwhile}"),
            format!("start it, mend its URL, or open {place} in the firewalls between"),
        ),
    }
}

/// `host:port` of a URL.
fn place(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let port = match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("https")) => 443,
        (None, _) => 80,
    };
    Some(format!("{}:{port}", uri.host()?))
}

async fn connect(place: &str) -> std::io::Result<()> {
    match timeout(REMOTE, TcpStream::connect(place)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// How many of a list of peers answer.
async fn peers(list: &[String]) -> Finding {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for entry in list {
        let name = entry.strip_prefix("dns:").unwrap_or(entry);
        if let Ok(Ok(found)) = timeout(REMOTE, lookup_host(name)).await {
            addresses.extend(found);
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MOST_PEERS);
    let total = addresses.len();
    let asked = addresses.into_iter().map(|address| async move {
        let answer = connect(&address.to_string()).await;
        answer.is_err().then(|| address.to_string())
    });
    let silent: Vec<String> = stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    if total == 0 {
        let found = "proxy.peers stands for no address";
        return Finding::wrong("peers", found, "mend the list, or this machine's DNS");
    }
    if silent.is_empty() {
        return Finding::ok("peers", format!("all {total} of proxy.peers answer"));
    }
    let found = format!(
        "{} of {total} do not answer: {}",
        silent.len(),
        silent.join(", ")
    );
    let todo = "start them, or take them off proxy.peers on all nodes";
    if silent.len() == total {
        Finding::wrong("peers", found, todo)
    } else {
        Finding::warning("peers", found, todo)
    }
}

/// What the proxy itself says: a port that answers may still be of another cluster.
fn neighbours(patient: &Patient) -> Finding {
    let sessions = patient.vitals.metric("darter_proxy_peer_sessions");
    let links = patient.vitals.metric("darter_proxy_peer_links");
    let (Some(sessions), Some(links)) = (sessions, links) else {
        return Finding::skipped("neighbours", "only a proxy that runs can tell");
    };
    let found = format!("sessions with schedulers: {sessions}, links to peers: {links}");
    // A home is asked for a session when something of its is wanted.
    if sessions > 0.0 || !patient.config.proxy.peers.is_empty() {
        return Finding::ok("neighbours", found);
    }
    Finding::wrong(
        "neighbours",
        format!("{found}: this node pulls on its own"),
        "see the proxy's log: a scheduler that can't be reached, or one of another cluster (--join, --token-file)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn level(seconds: &[u64]) -> Level {
        let skews: Vec<Skew> = seconds
            .iter()
            .map(|by| Skew {
                name: "docker.io".to_owned(),
                by: Duration::from_secs(*by),
                we_are_ahead: true,
            })
            .collect();
        clock(&skews).level
    }

    #[test]
    fn one_registry_that_agrees_is_enough() {
        assert_eq!(level(&[]), Level::Skipped);
        assert_eq!(level(&[3]), Level::Ok);
        assert_eq!(level(&[20]), Level::Warning);
        assert_eq!(level(&[3600]), Level::Wrong);
        assert_eq!(level(&[3600, 1]), Level::Ok);
    }
}

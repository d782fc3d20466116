//! Which schedulers there are: named, known to the manager, or every host of a list of
//! peers.
//!
//! Owner of state: the task that follows a list. Failure: what can't be asked or resolved
//! changes nothing; the last list stands.

use std::{collections::BTreeSet, net::SocketAddr, str::FromStr, time::Duration};

use darter_api::SchedulerName;
use darter_runtime::{Tasks, tls::Connector};
use tokio::sync::{mpsc, watch};

use super::SessionEvent;

/// Names of peers are resolved so often.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// For one name to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Schedulers of one list; those beyond are left out, the same ones by all hosts.
const MOST_LISTED: usize = 1024;

/// Schedulers, as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Their names, in order.
    pub names: Vec<SchedulerName>,
    /// Whether sessions are to stand only while something goes on.
    pub on_demand: bool,
}

impl List {
    /// Of these URLs.
    pub fn new<U: AsRef<str>>(urls: impl IntoIterator<Item = U>, on_demand: bool) -> Self {
        let names = urls.into_iter().map(|url| SchedulerName::new(url.as_ref()));
        let names: BTreeSet<SchedulerName> = names.collect();
        let names = names.into_iter().take(MOST_LISTED).collect();
        Self { names, on_demand }
    }
}

/// An entry of a list of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// `10.0.0.1:4000`: the peer port of one host.
    Address(SocketAddr),
    /// `dns:darter.svc:4000`: the peer ports of all addresses of a name. Of a name that has
    /// addresses of both families only IPv4 counts: a host that is in the list twice would
    /// be two schedulers to the others.
    Name(String, u16),
}

/// An entry that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `ADDRESS:PORT` nor `dns:NAME:PORT`")]
pub struct ListError(String);

impl FromStr for PeerAddress {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        let wrong = || ListError(text.to_owned());
        let Some(named) = text.strip_prefix("dns:") else {
            let address: SocketAddr = text.parse().map_err(|_| wrong())?;
            let fine = address.port() != 0 && !address.ip().is_unspecified();
            return fine.then_some(Self::Address(address)).ok_or_else(wrong);
        };
        let (name, port) = named.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if port == 0 || name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
            return Err(wrong());
        }
        Ok(Self::Name(name.to_owned(), port))
    }
}

/// Where the list comes from.
#[derive(Debug)]
pub enum Schedulers {
    /// It stands in the configuration.
    Named(List),
    /// A manager knows.
    Managed(watch::Receiver<Vec<String>>),
    /// Every peer is a scheduler for the contents that are at home with it.
    Peers(Peers),
}

impl Schedulers {
    /// Tells the list, now and whenever it changes, until the group ends.
    pub(super) fn follow(self, events: mpsc::Sender<SessionEvent>, tasks: &Tasks) {
        match self {
            // The channel is new: there is room.
            Self::Named(list) => drop(events.try_send(SessionEvent::Listed(list))),
            Self::Managed(urls) => drop(tasks.spawn("schedulers", managed(urls, events))),
            Self::Peers(peers) => {
                let list = peers.list();
                drop(events.try_send(SessionEvent::Listed(list.clone())));
                if peers.has_names() {
                    tasks.spawn("peers", peers.follow(list, events));
                }
            }
        }
    }
}

async fn managed(mut urls: watch::Receiver<Vec<String>>, events: mpsc::Sender<SessionEvent>) {
    loop {
        let list = List::new(urls.borrow_and_update().iter(), false);
        if events.send(SessionEvent::Listed(list)).await.is_err() {
            return;
        }
        if urls.changed().await.is_err() {
            return;
        }
    }
}

/// A list of peers, names resolved.
#[derive(Debug)]
pub struct Peers {
    entries: Vec<(PeerAddress, Vec<SocketAddr>)>,
    /// Of the URLs.
    scheme: &'static str,
    on_demand: bool,
}

impl Peers {
    /// Resolves all names, each for two seconds at most; the peers are spoken to as this
    /// connector does.
    pub async fn resolve(
        entries: Vec<PeerAddress>,
        connector: &Connector,
        on_demand: bool,
    ) -> Self {
        let entries = entries.into_iter().map(|entry| (entry, Vec::new()));
        let mut peers = Self {
            entries: entries.collect(),
            scheme: connector.scheme(),
            on_demand,
        };
        peers.again().await;
        peers
    }

    fn has_names(&self) -> bool {
        let is_name = |entry: &PeerAddress| matches!(entry, PeerAddress::Name(..));
        self.entries.iter().any(|(entry, _)| is_name(entry))
    }

    async fn again(&mut self) {
        let lookups = self.entries.iter().map(|(entry, _)| lookup(entry));
        let found = futures::future::join_all(lookups).await;
        for ((_, addresses), found) in self.entries.iter_mut().zip(found) {
            if let Some(found) = found {
                *addresses = found;
            }
        }
    }

    fn list(&self) -> List {
        let addresses = self.entries.iter().flat_map(|(_, addresses)| addresses);
        let urls = addresses.map(|address| format!("{}://{address}", self.scheme));
        List::new(urls, self.on_demand)
    }

    async fn follow(mut self, mut last: List, events: mpsc::Sender<SessionEvent>) {
        loop {
            tokio::time::sleep(RESOLVE_EVERY).await;
            self.again().await;
            let list = self.list();
            if list != last {
                tracing::info!(peers = list.names.len(), "the list of peers has changed");
                last = list.clone();
                if events.send(SessionEvent::Listed(list)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The addresses of an entry; `None` when they can't be told right now.
async fn lookup(entry: &PeerAddress) -> Option<Vec<SocketAddr>> {
    let (name, port) = match entry {
        PeerAddress::Address(address) => return Some(vec![*address]),
        PeerAddress::Name(name, port) => (name.as_str(), *port),
    };
    let asked = tokio::net::lookup_host((name, port));
    let cause = match tokio::time::timeout(RESOLVE_TIMEOUT, asked).await {
        Ok(Ok(found)) => return one_family(found.collect()),
        Ok(Err(cause)) => cause.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(name, cause, "peers can't be resolved; the last list stands");
    None
}

/// Those of one family; `None` when there are none at all.
fn one_family(mut found: Vec<SocketAddr>) -> Option<Vec<SocketAddr>> {
    if found.iter().any(SocketAddr::is_ipv4) {
        found.retain(SocketAddr::is_ipv4);
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_addresses_or_names() {
        let address = "10.0.0.1:4000".parse().unwrap();
        let named = PeerAddress::Name("darter.svc".to_owned(), 4000);
        assert_eq!("10.0.0.1:4000".parse(), Ok(PeerAddress::Address(address)));
        assert!("[::1]:4000".parse::<PeerAddress>().is_ok());
        assert_eq!("dns:darter.svc:4000".parse(), Ok(named));
        for wrong in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "0.0.0.0:4000",
            "node-1:4000",
            "http://10.0.0.1:4000",
            "dns:darter.svc",
            "dns::4000",
            "dns:a/b:4000",
            "dns:a:70000",
        ] {
            assert!(wrong.parse::<PeerAddress>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_listed_once() {
        let entries = ["dns:localhost:4000", "127.0.0.1:4000", "127.0.0.2:4000"];
        let entries = entries.map(|entry| entry.parse().unwrap()).to_vec();
        let peers = Peers::resolve(entries, &Connector::plain(), true).await;
        let urls = ["http://127.0.0.1:4000", "http://127.0.0.2:4000"];
        assert_eq!(peers.list(), List::new(urls, true));
    }

    #[test]
    fn a_host_of_two_families_is_listed_once() {
        let four: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let six: SocketAddr = "[fd00::1]:1".parse().unwrap();
        assert_eq!(one_family(vec![six, four]), Some(vec![four]));
        assert_eq!(one_family(vec![six]), Some(vec![six]));
        assert_eq!(one_family(vec![]), None);
    }
}

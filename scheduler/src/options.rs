//! The scheduler's section of the configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use darter_api::{
    ClusterName,
    configuration::{Rule, SchedulerSettings, Weights},
};
use serde::{Deserialize, Serialize};

/// Settings of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where peers connect. Default 127.0.0.1:8002; anything but loopback asks for
    /// `insecure`.
    pub listen: SocketAddr,
    /// The address that the manager tells proxies, where it is not the one listened on.
    /// Default none.
    pub advertise: Option<SocketAddr>,
    /// The host's name, for people. Default: the system's.
    pub name: Option<String>,
    /// The manager's gRPC, as a URL: the scheduler is shown there, and proxies find it.
    /// Default none.
    pub manager: Option<String>,
    /// The cluster of schedulers and peers that it belongs to, by the name that the manager has for
    /// it. Default none: the manager finds it by address and name.
    pub cluster: Option<ClusterName>,
    /// The directory of its key. Default `/var/lib/darter/scheduler`.
    pub data: PathBuf,
    /// Speak plain text beyond loopback. Default false.
    pub insecure: bool,
    /// Neighbours of a host for one task. Default 20.
    pub degree: usize,
    /// Members of a task in each data centre (`proxy.locality.idc`) that get neighbours in
    /// other ones: more are faster, and bring more copies over the border. 0 is a mesh across
    /// all borders, which is fastest where they cost nothing. Default 1.
    pub gateways: usize,
    /// Hosts that may read one task's source at the same time, by grants or by their own
    /// leave; others that begin are told to stop. Default 16.
    pub source_budget: usize,
    /// A host that neither holds nor wants anything of a task it was introduced to is
    /// forgotten after half of this at least, and this at most. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub member_ttl: Duration,
    /// Who may what; the first rule that fits decides. Default none: everybody may
    /// download, seeds read the source first.
    pub rules: Vec<Rule>,
    /// What counts how much when neighbours are chosen.
    pub weights: Weights,
    /// After its start it waits so long for hosts to come back before it grants a read
    /// of the source. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// After its start it refuses managers' preheats for so long, so that all hosts means all.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub preheat_settle: Duration,
    /// A lease that is not accepted within this goes to another host. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub accept_timeout: Duration,
    /// An accepted lease whose source sends nothing for so long goes to another host.
    /// Default 5 s.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// A lease that makes no progress for so long goes to another host. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub lease_timeout: Duration,
    /// Hosts that read disjoint pieces of one task's source at the same time, where the
    /// source serves ranges; worth it where the source feeds more than one link. Default 2.
    pub source_holders: usize,
    /// While fewer hosts are connected, one host reads a source: few hosts gain nothing from
    /// a second reader. What all readers' streams have passed and nobody has or reads, after a reader
    /// was lost, is for another one all the same. Default 8.
    pub source_holders_from: usize,
    /// While fewer hosts wait for a content beside its reader, it has no second one. That is decided
    /// when half of the reader's first run has come, or 400 ms after its first byte: what is granted
    /// then is not taken back for a second reader. Default 3.
    pub source_waiters: usize,
    /// A host that failed to read a task's source is not asked again for so long.
    /// Default 30 s.
    #[serde(with = "humantime_serde")]
    pub refusal_memory: Duration,
}

impl Options {
    /// These, but for what a manager has set.
    #[must_use]
    pub fn overlaid(&self, set: &SchedulerSettings) -> Self {
        let count = |set: Option<u32>, own: usize| set.map_or(own, |set| set as usize);
        Self {
            degree: count(set.degree, self.degree),
            gateways: count(set.gateways, self.gateways),
            source_budget: count(set.source_budget, self.source_budget),
            source_holders: count(set.source_holders, self.source_holders),
            weights: set.weights.clone().unwrap_or_else(|| self.weights.clone()),
            rules: set.rules.clone().unwrap_or_else(|| self.rules.clone()),
            ..self.clone()
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8002)),
            advertise: None,
            name: None,
            manager: None,
            cluster: None,
            data: PathBuf::from("/var/lib/darter/scheduler"),
            insecure: false,
            degree: 20,
            gateways: 1,
            source_budget: 16,
            member_ttl: Duration::from_secs(600),
            rules: Vec::new(),
            weights: Weights::default(),
            settle: Duration::from_secs(1),
            preheat_settle: Duration::from_secs(10),
            accept_timeout: Duration::from_millis(500),
            first_byte_timeout: Duration::from_secs(5),
            lease_timeout: Duration::from_secs(10),
            source_holders: 2,
            source_holders_from: 8,
            source_waiters: 3,
            refusal_memory: Duration::from_secs(30),
        }
    }
}

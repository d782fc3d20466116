//! Whether the proxy runs, and what it says of itself.

use std::{fs::File, io, path::Path, time::Duration};

use rustix::fs::FlockOperation;
use tokio::time::timeout;

use super::finding::Finding;
use crate::{
    config::Config,
    http::{client, get},
    setup::reachable,
};

/// For a port of this machine to answer.
pub(super) const LOCAL: Duration = Duration::from_secs(2);

pub(super) struct Vitals {
    owner: Owner,
    /// What `/metrics` says.
    metrics: Option<String>,
}

/// Who has the data directory.
enum Owner {
    Somebody,
    Nobody,
    Unknown(io::Error),
}

impl Vitals {
    pub(super) async fn take(config: &Config) -> Self {
        let url = format!("http://{}/metrics", reachable(config.operations.listen));
        let metrics = timeout(LOCAL, get(&client(), &url)).await;
        let metrics = metrics.ok().and_then(Result::ok);
        Self {
            owner: owner(&config.proxy.data),
            metrics: metrics.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Whether a process has the data directory.
    pub(super) const fn runs(&self) -> bool {
        matches!(self.owner, Owner::Somebody)
    }

    /// A gauge without labels.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        let mut lines = self.metrics.as_deref()?.lines();
        lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    pub(super) fn finding(&self, config: &Config) -> Finding {
        let data = config.proxy.data.display();
        let operations = config.operations.listen;
        match &self.owner {
            Owner::Somebody if self.metrics.is_some() => {
                Finding::ok("process", format!("a proxy runs on {data}"))
            }
            Owner::Somebody => Finding::warning(
                "process",
                format!("a proxy runs on {data}, but does not answer on {operations}"),
                "give doctor the flags it was started with (--operations-listen)",
            ),
            Owner::Nobody => Finding::wrong(
                "process",
                format!("no proxy runs on {data}"),
                "start it: darter proxy, or darter standalone; or give doctor its --data",
            ),
            Owner::Unknown(cause) => Finding::warning(
                "process",
                format!("whether a proxy runs on {data} can't be told: {cause}"),
                "run doctor as the user that the proxy runs as, or as root",
            ),
        }
    }
}

/// Asks for the store's lock and gives it back at once.
fn owner(data: &Path) -> Owner {
    let file = match File::open(data.join("store/lock")) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Owner::Nobody,
        Err(cause) => return Owner::Unknown(cause),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Owner::Nobody,
        Err(rustix::io::Errno::WOULDBLOCK) => Owner::Somebody,
        Err(cause) => Owner::Unknown(cause.into()),
    }
}

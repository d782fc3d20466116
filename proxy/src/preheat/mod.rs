//! Contents that a scheduler orders this host to have, before anybody pulls them.
//!
//! [`resolve`] finds out what an image is made of, once for all hosts, and [`files`] which
//! versions of files there are; [`have`] gets it into the store, behind foreground pulls, and
//! says of each content itself whether the store holds it whole.
//!
//! Owner of state: one actor has the runs, a bounded number ([`runs`]), each a task of its own that
//! ends with its order's time, with a stop, or with the node. A credential that an order brings
//! goes to the registry that the order names and is forgotten with the run. Failure: what can't
//! be had is said with its reason; a run whose scheduler has gone ends by its time.

mod files;
mod have;
pub(crate) mod resolve;
mod runs;
mod sign_in;

pub(crate) use resolve::registry;

use std::time::Duration;

use darter_api::{
    SchedulerName,
    preheat::{Order, PreheatOrder, PreheatReport, Report, Subject},
    session::PeerMessage,
};
use darter_runtime::Tasks;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::mpsc;

use crate::{
    files::Files,
    mirror::Mirror,
    rights::Rights,
    session::{Ordered, Session},
    store::Store,
    swarm::driver::Swarm,
    upstream::Upstreams,
};
use runs::Runs;
use sign_in::SignIn;

/// To find out what an image is made of, or which versions of files there are.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How a content's preheat ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `held`, `failed`.
    outcome: &'static str,
}

/// Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    contents: Family<Outcome, Counter>,
}

impl Metrics {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Contents that were to be had ahead of time";
        registry.register("preheated_contents", help, self.contents.clone());
    }

    fn ended(&self, outcome: &'static str, contents: usize) {
        let count = self.contents.get_or_create(&Outcome { outcome });
        count.inc_by(contents as u64);
    }
}

/// What a preheat needs of its host. Cheap to clone.
#[derive(Clone)]
pub struct Preheater {
    /// Gets contents.
    pub swarm: Swarm,
    /// Has them.
    pub store: Store,
    /// Answers what a tag is and gives manifests.
    pub mirror: Mirror,
    /// Who may read what, at the registry.
    pub rights: Rights,
    /// The closed list of registries.
    pub upstreams: Upstreams,
    /// The rules by which files are shared.
    pub files: Files,
    /// Where orders come from and reports go.
    pub session: Session,
    /// Counts.
    pub metrics: Metrics,
    /// What all runs end with.
    pub tasks: Tasks,
}

impl Preheater {
    /// Takes orders from now on, until its tasks end.
    pub fn start(self) {
        if let Some(orders) = self.session.take_orders() {
            let tasks = self.tasks.clone();
            tasks.spawn("preheats", self.run(orders));
        }
    }

    async fn run(self, mut orders: mpsc::Receiver<Ordered>) {
        let mut runs = Runs::default();
        while let Some((name, order)) = orders.recv().await {
            let key = (name, order.run);
            if matches!(order.what, Order::Stop) {
                runs.stop(&key);
                continue;
            }
            let Some(place) = runs.begin(key.clone()) else {
                self.refuse(&key.0, &order);
                continue;
            };
            let preheater = self.clone();
            self.tasks.spawn("preheat", async move {
                tokio::select! {
                    () = preheater.obey(&key.0, order) => {}
                    () = place.stopped() => {}
                }
            });
        }
    }

    async fn obey(&self, name: &SchedulerName, order: PreheatOrder) {
        let run = order.run;
        match order.what {
            Order::Resolve {
                subject,
                authorization,
            } => {
                let resolve = async {
                    match subject {
                        Subject::Image(image) => self.resolve(image, &authorization).await,
                        Subject::Files(urls) => self.resolve_files(&urls).await,
                    }
                };
                let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, resolve).await;
                let report = resolved.unwrap_or_else(|_| Report::Unresolved {
                    digest: None,
                    why: "its source does not answer in time".to_owned(),
                    elsewhere: true,
                });
                self.report(name, run, report);
            }
            Order::Have(have) => self.have(name, run, have).await,
            Order::Stop => {}
        }
    }

    fn refuse(&self, name: &SchedulerName, order: &PreheatOrder) {
        let why = "the host has too many preheats under way".to_owned();
        let report = match order.what {
            Order::Resolve { .. } => Report::Unresolved {
                digest: None,
                why,
                elsewhere: true,
            },
            Order::Have(_) | Order::Stop => Report::Lacks { digest: None, why },
        };
        self.report(name, order.run, report);
    }

    fn report(&self, name: &SchedulerName, run: u64, what: Report) {
        let report = PreheatReport { run, what };
        self.session.send(name, PeerMessage::Preheat(report));
    }
}

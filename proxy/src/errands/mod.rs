//! What a manager has every host do, through the schedulers: say what an image is made of, drop
//! contents, forget a tag.
//!
//! Owner of state: one actor has the errands, one after the other, and nothing of them
//! afterwards. Each is about this host's own store and memory, asks no registry, and is
//! answered with what really became of it. Failure: an errand that does not fit in the queue is
//! lost, which its scheduler notices in time.

mod images;

use darter_api::{
    PieceSet, SchedulerName, TaskId,
    errand::{Dropped, Errand, ErrandOrder, ErrandReport, ErrandResult},
    preheat::ImageName,
    session::{PeerMessage, Reference},
};
use darter_runtime::Tasks;
use tokio::sync::mpsc;

use crate::{
    mirror::Mirror,
    preheat::registry,
    session::{Sent, Session},
    store::{Removal, Store},
    upstream::Upstreams,
};
use images::{made_of, needed_by_pinned};

/// What errands need of their host. Cheap to clone.
#[derive(Clone)]
pub struct Errands {
    /// Has the contents.
    pub store: Store,
    /// Remembers tags.
    pub mirror: Mirror,
    /// The closed list of registries.
    pub upstreams: Upstreams,
    /// Where errands come from and reports go.
    pub session: Session,
    /// What it ends with.
    pub tasks: Tasks,
}

impl Errands {
    /// Does errands from now on, until its tasks end.
    pub fn start(self) {
        if let Some(orders) = self.session.take_errands() {
            let tasks = self.tasks.clone();
            tasks.spawn("errands", self.run(orders));
        }
    }

    async fn run(self, mut orders: mpsc::Receiver<Sent>) {
        while let Some((name, order)) = orders.recv().await {
            self.do_one(&name, order).await;
        }
    }

    async fn do_one(&self, name: &SchedulerName, order: ErrandOrder) {
        let (run, errands) = (order.run, self.clone());
        let work = tokio::task::spawn_blocking(move || errands.result(order.errand));
        let result = work.await.unwrap_or_else(|_| {
            let why = "the host could not do it";
            ErrandResult::Refused(why.to_owned())
        });
        let report = ErrandReport { run, result };
        self.session.send(name, PeerMessage::Errand(report));
    }

    /// Does it; reads and writes files.
    fn result(&self, errand: Errand) -> ErrandResult {
        match errand {
            Errand::Contents(image) => {
                let roots = self.roots(&image);
                ErrandResult::Contents(made_of(&self.store, &roots))
            }
            Errand::Drop { tasks, spare } => {
                ErrandResult::Dropped(drop_all(&self.store, &tasks, spare))
            }
            Errand::ForgetTag(image) => self.forget(&image),
        }
    }

    /// The manifests that an image's name stands for here.
    fn roots(&self, image: &ImageName) -> Vec<TaskId> {
        let digests = match &image.reference {
            Reference::Digest(digest) => vec![*digest],
            Reference::Tag(tag) => {
                let upstream = registry(&self.upstreams, &image.registry);
                upstream.map_or_else(Vec::new, |upstream| {
                    let (name, repository) = (upstream.name(), &image.repository);
                    self.mirror.remembered_tag(name, repository, tag)
                })
            }
        };
        digests.into_iter().map(TaskId::of_content).collect()
    }

    fn forget(&self, image: &ImageName) -> ErrandResult {
        let Reference::Tag(tag) = &image.reference else {
            return ErrandResult::Refused("a digest stands for itself".to_owned());
        };
        let Some(upstream) = registry(&self.upstreams, &image.registry) else {
            return ErrandResult::Forgotten(None);
        };
        let name = upstream.name();
        self.mirror.forget_tag(name, &image.repository, tag);
        ErrandResult::Forgotten(Some(name.clone()))
    }
}

fn drop_all(store: &Store, tasks: &[TaskId], spare: bool) -> Dropped {
    let needed = if spare {
        needed_by_pinned(store, tasks)
    } else {
        Default::default()
    };
    let mut all = Dropped::default();
    for (place, task) in (0..).zip(tasks) {
        let places: &mut PieceSet = if needed.contains(task) {
            &mut all.needed
        } else {
            match store.remove(task) {
                Removal::Absent => continue,
                Removal::Dropped => &mut all.dropped,
                Removal::Growing => &mut all.in_use,
            }
        };
        places.insert(place);
    }
    let dropped = all.dropped.len();
    tracing::info!(
        dropped,
        of = tasks.len(),
        "contents are dropped as a manager wished"
    );
    all
}

#[cfg(test)]
mod tests;

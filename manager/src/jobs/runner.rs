//! Has jobs done: takes them from the table, asks a scheduler, and writes what hosts say.
//!
//! Owner of state: each job's task has its progress until it is written, at most every
//! half second and at once at the end. Failure: a stream that is cut is asked for again, at
//! the next scheduler, until the job's time is over; a job whose lease is lost is somebody
//! else's, and nothing more is written of it; a manager that stops gives its jobs back.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::Uri;
use bytes::Bytes;
use darter_api::{
    MemberKind,
    preheat::Present,
    wire::v1::{self, operations_client::OperationsClient, preheats_client::PreheatsClient},
};
use darter_runtime::{Tasks, tls::Connector};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    Jobs, Progress, Secret, State,
    choosing::{self, Chosen},
    progress::Whose,
    table::{Claimed, Lease},
};
use crate::{
    credentials::{CredentialError, Credentials},
    members::{Known, Members},
    metrics::Metrics,
    scheduler::{WayError, connect},
};

/// Jobs that a manager runs at the same time.
const MOST_RUNNING: usize = 16;
/// Between looks for jobs that others left.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes of a job that goes on.
const WRITE: Duration = Duration::from_millis(500);
/// Between attempts; hosts come back to a scheduler that restarted within this.
const AGAIN: Duration = Duration::from_secs(2);
/// Without any scheduler for so long a job fails.
const NOBODY: Duration = Duration::from_secs(15);
/// Bytes of one word of a scheduler.
const MOST_EVENT: usize = 16 * 1024 * 1024;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) jobs: Jobs,
    pub(crate) members: Arc<Members>,
    pub(crate) connector: Connector,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    /// What its names in leases begin with, another one for each process.
    pub(crate) owner: String,
    /// A new job is there.
    pub(crate) wake: Arc<Notify>,
}

/// A job that is run, for who asks schedulers for it.
struct Running<'a> {
    job: &'a Claimed,
    progress: &'a parking_lot::Mutex<&'a mut Progress>,
    /// There is something to be written.
    changes: &'a Notify,
}

/// How an attempt ended.
enum End {
    /// All has been said.
    Said,
    Cut,
}

/// An attempt did not begin, or its stream was cut.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Way(#[from] WayError),
    /// Others could read it on the way.
    #[error("what signs in at the registry is not sent in plain text to another host")]
    PlainSecret,
    /// The job's credential can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("the scheduler can't do it")]
    Status(#[source] Box<tonic::Status>),
}

impl From<tonic::Status> for AskError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Runner {
    /// Runs jobs until its tasks end.
    pub(crate) fn start(self) {
        let tasks = self.tasks.clone();
        tasks.spawn_vital("jobs", self.run());
    }

    async fn run(self) {
        let slots = Arc::new(Semaphore::new(MOST_RUNNING));
        let mut claims = 0_u64;
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            // A database that fails is logged and counted there, and asked again.
            // A name for each claim: a job of its own whose lease ran out while it was busy is
            // lost by the earlier run, not shared with it.
            claims += 1;
            let owner = format!("{}-{claims}", self.owner);
            let claimed = self.jobs.claim(&owner, OffsetDateTime::now_utc()).await;
            if let Ok(Some(job)) = claimed {
                let runner = self.clone();
                // Its last words are written while the manager stops.
                self.tasks.spawn_draining("job", async move {
                    runner.run_one(job).await;
                    drop(slot);
                });
                continue;
            }
            drop(slot);
            let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
        }
    }

    async fn run_one(&self, mut job: Claimed) {
        let id = job.id;
        tracing::info!(id, of = %job.wish.subject, "a preheat begins");
        let left = job.deadline - OffsetDateTime::now_utc();
        let deadline = Instant::now() + Duration::try_from(left).unwrap_or_default();
        let mut progress = std::mem::take(&mut job.progress);
        let (changes, lost) = (Notify::new(), CancellationToken::new());
        let state = {
            let shared = parking_lot::Mutex::new(&mut progress);
            let running = Running {
                job: &job,
                progress: &shared,
                changes: &changes,
            };
            let work = async {
                let attempts = self.attempts(&running);
                if tokio::time::timeout_at(deadline, attempts).await.is_err() {
                    shared.lock().give_up("it did not come in the job's time");
                }
            };
            tokio::select! {
                () = work => None,
                lease = self.keep(&job, &shared, &changes) => Some(lease),
                () = self.tasks.token().cancelled() => {
                    // Another manager goes on, or this one after its restart.
                    let _ = self.jobs.give_back(id, &job.owner).await;
                    lost.cancel();
                    None
                }
            }
        };
        let state = match state {
            _ if lost.is_cancelled() => return,
            Some(Lease::Lost) => {
                tracing::warn!(id, "another manager has a job that was this one's");
                return;
            }
            Some(_) => {
                progress.give_up("the job was cancelled");
                State::Cancelled
            }
            None if progress.is_success() => State::Success,
            None => State::Failure,
        };
        self.finish(&job, state, &progress).await;
    }

    /// Writes the end until the database takes it, or the lease would be over.
    async fn finish(&self, job: &Claimed, state: State, progress: &Progress) {
        let id = job.id;
        for _ in 0..5 {
            let now = OffsetDateTime::now_utc();
            let done = self.jobs.finish(id, &job.owner, state, progress, now).await;
            match done {
                Ok(true) => {
                    tracing::info!(id, state = state.as_str(), "a preheat has ended");
                    self.metrics.job_ended(state.as_str());
                    return;
                }
                Ok(false) => {
                    tracing::warn!(id, "another manager has a job that was this one's");
                    return;
                }
                Err(_) => {}
            }
            tokio::time::sleep(WRITE).await;
        }
    }

    /// Keeps the lease and writes what is new; ends when the job is not to go on.
    async fn keep(
        &self,
        job: &Claimed,
        progress: &parking_lot::Mutex<&mut Progress>,
        changes: &Notify,
    ) -> Lease {
        let mut ticks = tokio::time::interval(WRITE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let changed = futures::FutureExt::now_or_never(changes.notified()).is_some();
            let news = changed.then(|| progress.lock().clone());
            let now = OffsetDateTime::now_utc();
            let renewed = self.jobs.renew(job.id, &job.owner, news.as_ref(), now);
            match renewed.await {
                Ok(Lease::Holds) => last = Instant::now(),
                Ok(other) => return other,
                // Without a word for so long another manager may have it.
                Err(_) if last.elapsed() > super::table::LEASE => return Lease::Lost,
                Err(_) => changes.notify_one(),
            }
        }
    }

    /// Asks schedulers until one has said all, or there is none.
    async fn attempts(&self, running: &Running<'_>) {
        let Running {
            job,
            progress,
            changes,
        } = running;
        let mut somebody = Instant::now();
        for turn in 0.. {
            let now = OffsetDateTime::now_utc();
            let cluster = &job.wish.cluster;
            let active = self.members.active(MemberKind::Scheduler, cluster, now);
            let active = active.await.unwrap_or_default();
            if !active.is_empty() {
                let member = &active[turn % active.len()];
                somebody = Instant::now();
                match self.ask_all(turn % active.len(), &active, running).await {
                    Ok(End::Said) => return,
                    Ok(End::Cut) => tracing::warn!(
                        id = job.id,
                        scheduler = member.address,
                        "the scheduler left a preheat"
                    ),
                    Err(AskError::Status(status))
                        if status.code() == tonic::Code::InvalidArgument =>
                    {
                        progress.lock().give_up(status.message());
                        return;
                    }
                    Err(error @ (AskError::PlainSecret | AskError::Credential(_))) => {
                        progress.lock().give_up(&error.to_string());
                        return;
                    }
                    Err(error) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::warn!(
                            id = job.id,
                            scheduler = member.address,
                            cause,
                            "the scheduler can't preheat"
                        );
                    }
                }
            } else if somebody.elapsed() > NOBODY {
                let why = format!("no scheduler of the cluster `{cluster}` is there");
                progress.lock().give_up(&why);
                changes.notify_one();
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks one scheduler for all hosts, then the others for those that only they have: a host
    /// has a session with every scheduler, unless it can't reach it.
    async fn ask_all(
        &self,
        first: usize,
        active: &[Known],
        running: &Running<'_>,
    ) -> Result<End, AskError> {
        if active.len() > 1 && !running.job.wish.choice().is_of_all() {
            return self.ask_chosen(first, active, running).await;
        }
        let asked = &active[first];
        let end = self.ask(asked, running, Whose::First, Vec::new()).await?;
        if matches!(end, End::Cut) {
            return Ok(end);
        }
        for other in active.iter().filter(|other| other.host != asked.host) {
            match self.ask(other, running, Whose::Further, Vec::new()).await {
                Ok(End::Said) => {}
                Ok(End::Cut) => return Ok(End::Cut),
                // One that can't be reached, or that has just started, has no hosts of its own.
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    let (id, scheduler) = (running.job.id, &other.address);
                    tracing::warn!(id, scheduler, cause, "a further scheduler can't be asked");
                }
            }
        }
        Ok(End::Said)
    }

    /// Chooses among the hosts of all schedulers, and asks each for those that are its part.
    async fn ask_chosen(
        &self,
        first: usize,
        active: &[Known],
        running: &Running<'_>,
    ) -> Result<End, AskError> {
        let mut order = active.to_vec();
        order.rotate_left(first);
        let hosts = futures::future::join_all(order.iter().map(|one| self.hosts_of(one))).await;
        let (mut here, mut known) = (Vec::new(), Vec::new());
        for (scheduler, hosts) in order.iter().zip(hosts) {
            match hosts {
                Ok(hosts) => {
                    here.push(scheduler);
                    known.push(hosts);
                }
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    let (id, scheduler) = (running.job.id, &scheduler.address);
                    tracing::warn!(id, scheduler, cause, "a scheduler does not name its hosts");
                }
            }
        }
        if here.is_empty() {
            // It says itself why it can't.
            return self.ask(&order[0], running, Whose::First, Vec::new()).await;
        }
        let choice = running.job.wish.choice();
        let Chosen {
            hosts,
            parts,
            missing,
        } = choosing::choose(&choice, &known);
        running.progress.lock().choose(hosts, missing);
        running.changes.notify_one();
        let mut whose = Whose::Chosen;
        for (at, only) in parts {
            let end = self.ask(here[at], running, whose, only).await?;
            if matches!(end, End::Cut) {
                return Ok(end);
            }
            whose = Whose::Further;
        }
        Ok(End::Said)
    }

    async fn hosts_of(&self, scheduler: &Known) -> Result<Vec<Present>, AskError> {
        let channel = connect(&self.connector, scheduler)?;
        let hosts = choosing::hosts_of(OperationsClient::new(channel));
        let late = |_| tonic::Status::deadline_exceeded("it does not answer");
        let hosts = tokio::time::timeout(choosing::PATIENCE, hosts).await;
        Ok(hosts.map_err(late)??)
    }

    /// Asks a scheduler, for these hosts alone where there are any.
    async fn ask(
        &self,
        scheduler: &Known,
        running: &Running<'_>,
        whose: Whose,
        only: Vec<Bytes>,
    ) -> Result<End, AskError> {
        let Running {
            job,
            progress,
            changes,
        } = running;
        let url = &scheduler.address;
        let secret = match (job.wish.subject.registry(), &job.wish.credential) {
            (Some(registry), Some(name)) => self.credentials.secret(name, registry).await?,
            (Some(_), None) => job.secret.clone(),
            (None, _) => Secret::default(),
        };
        if secret.reveal().is_some() && !may_carry_secrets(&self.connector, url) {
            return Err(AskError::PlainSecret);
        }
        let channel = connect(&self.connector, scheduler)?;
        let mut client = PreheatsClient::new(channel).max_decoding_message_size(MOST_EVENT);
        let left = job.deadline - OffsetDateTime::now_utc();
        let left = Duration::try_from(left).unwrap_or_default();
        let mut request: v1::PreheatRequest = job.wish.request(&secret, left);
        if whose == Whose::Further && only.is_empty() {
            request.except = progress.lock().all_hosts();
        }
        request.only = only;
        let mut events = client.preheat(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            let done = progress.lock().take(event, whose);
            changes.notify_one();
            if done {
                return Ok(End::Said);
            }
        }
        Ok(End::Cut)
    }
}

/// Whether what goes to `url` is read by nobody else: it is encrypted, or stays on this host.
fn may_carry_secrets(connector: &Connector, url: &str) -> bool {
    if connector.scheme() == "https" {
        return true;
    }
    let url = url.parse::<Uri>().ok();
    let host = url.as_ref().and_then(Uri::host).unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    ip.parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_plain_text_stay_on_this_host() {
        let plain = Connector::plain();
        for near in ["http://127.0.0.1:8002", "http://[::1]:8002"] {
            assert!(may_carry_secrets(&plain, near), "{near}");
        }
        let far = ["http://10.0.0.1:8002", "http://[fd00::1]:8002"];
        for far in far.into_iter().chain(["http://127.0.0.1.x:1", "", "x"]) {
            assert!(!may_carry_secrets(&plain, far), "{far}");
        }
    }
}

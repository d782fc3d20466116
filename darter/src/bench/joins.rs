//! Joins of fresh contents, and how long their answers take.
//!
//! An answer is the first neighbours or the grant for the content that was joined; who has
//! it says at once that it holds all, so that the next one finds holders.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use darter_runtime::Tasks;
use futures::future::join_all;

use super::{
    measure::{Answer, Delays},
    peer::{Crowd, Unanswered},
};

/// A join without an answer by then counts as unanswered.
const LIMIT: Duration = Duration::from_secs(10);
/// Hosts that join one content, about.
const SWARM: usize = 1000;

pub(super) struct Joins {
    crowd: Arc<Crowd>,
    count: usize,
    next: AtomicUsize,
}

impl Joins {
    pub(super) fn new(crowd: Arc<Crowd>, count: usize) -> Arc<Self> {
        let next = AtomicUsize::new(0);
        Arc::new(Self { crowd, count, next })
    }

    /// As fast as they are answered, `at_once` at a time.
    pub(super) async fn fast(self: &Arc<Self>, at_once: usize, tasks: &Tasks) -> Result<Delays> {
        let end = self.next.load(Ordering::Relaxed) + self.count;
        let began = Instant::now();
        let workers = (0..at_once.max(1)).map(|_| {
            let joins = Arc::clone(self);
            tasks.spawn("joins", async move {
                let mut delays = Vec::new();
                loop {
                    let number = joins.next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return delays;
                    }
                    delays.push(joins.one(number).await);
                }
            })
        });
        let mut delays = Vec::new();
        for worker in join_all(workers.collect::<Vec<_>>()).await {
            delays.extend(worker?.unwrap_or_default());
        }
        self.next.store(end, Ordering::Relaxed);
        Ok(Delays::new(delays, began.elapsed().as_secs_f64()))
    }

    /// So many a second, whether they are answered or not.
    pub(super) async fn steady(self: &Arc<Self>, rate: u32, tasks: &Tasks) -> Result<Delays> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let began = Instant::now();
        let mut under_way = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            ticks.tick().await;
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let joins = Arc::clone(self);
            under_way.push(tasks.spawn("join", async move { joins.one(number).await }));
        }
        let mut delays = Vec::with_capacity(self.count);
        for join in join_all(under_way).await {
            delays.push(join?.unwrap_or(Answer::None));
        }
        Ok(Delays::new(delays, began.elapsed().as_secs_f64()))
    }

    async fn one(&self, number: usize) -> Answer {
        let hosts = self.crowd.len();
        let swarm = SWARM.min(hosts);
        // Neighbouring numbers are other hosts and the same content.
        let (content, host) = (number / swarm, number.wrapping_mul(7919) % hosts);
        let begin = Instant::now();
        let answer = self.crowd.join(host, content);
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(())) => Answer::After(begin.elapsed().as_secs_f64()),
            Ok(Err(Unanswered::Lost)) => Answer::Lost,
            Ok(Err(Unanswered::Late)) | Err(_) => Answer::None,
        }
    }
}

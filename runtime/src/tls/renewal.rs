//! New certificates in time, in the running process.
//!
//! Owner of state: one task a node. A certificate is renewed after two thirds of its life,
//! give or take, so that nodes that joined together don't come together. A renewal that fails
//! is tried again until it succeeds; the old certificate is shown meanwhile, and when it has
//! ended, new connections fail at the other end. Certificates end by the wall clock, which goes
//! on while a machine sleeps and which may be set: it is looked at once a minute.

use std::{
    error::Error,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use darter_api::NodeKey;

use super::{
    Authority, AuthorityError, Certificate, Credentials, CredentialsError, Fingerprint, JoinError,
    ObtainError, join,
    options::{self, Place},
};
use crate::Tasks;

/// When a certificate is renewed, as a part of its life.
const DUE: std::ops::Range<f64> = 0.6..0.7;
/// Between attempts: a twentieth of the life, but from the first to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(600));
/// Between looks at a file that somebody else renews.
const LOOK: Duration = Duration::from_secs(2);
/// Before a file that was of no use is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between looks at the wall clock.
const TICK: Duration = Duration::from_secs(60);

/// Where a node's next certificate comes from.
#[derive(Debug)]
pub enum Source {
    /// From a file that somebody else writes.
    File(PathBuf),
    /// From an authority in this process, for so long each.
    Authority(Arc<Authority>, Duration),
    /// From the cluster's authority, of which this node is a member.
    Registrar(Registrar),
}

/// Where a member asks, and as whom.
#[derive(Debug)]
pub struct Registrar {
    /// `HOST:PORT`.
    pub(super) address: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) key: Arc<NodeKey>,
    pub(super) place: Place,
}

/// There is no new certificate yet.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("the authority gives none")]
    Join(#[from] JoinError),
    #[error("the file can't be used")]
    File(#[source] ObtainError),
    #[error("the authority can't sign")]
    Authority(#[source] AuthorityError),
    #[error("what came is of no use")]
    Certificate(#[from] super::CertificateError),
    #[error("what came can't be shown")]
    Credentials(#[from] CredentialsError),
}

impl Source {
    async fn fetch(&self, credentials: &Credentials) -> Result<Certificate, RenewalError> {
        match self {
            Self::File(path) => options::read_certificate(path).map_err(RenewalError::File),
            Self::Authority(authority, life) => {
                let pem = authority
                    .issue(&credentials.host(), *life)
                    .map_err(RenewalError::Authority)?;
                Ok(Certificate::from_pem(pem.as_bytes())?)
            }
            Self::Registrar(registrar) => {
                let Registrar {
                    address,
                    fingerprint,
                    key,
                    place,
                } = registrar;
                let joined = join::request(address, *fingerprint, key, None).await?;
                // Shown even if the disk does not take it.
                if let Err(cause) = place.keep(&joined) {
                    let cause = &cause as &dyn Error;
                    tracing::warn!(cause, "the node's certificate can't be kept");
                }
                Ok(joined.certificate)
            }
        }
    }

    /// Waits until the certificate that is shown now is to be replaced.
    async fn due(&self, shown: &Certificate) {
        match self {
            Self::File(_) => tokio::time::sleep(LOOK).await,
            _ => {
                let at = shown.life().mul_f64(rand::random_range(DUE));
                until(shown.issued + at, SystemTime::now).await;
            }
        }
    }

    /// Waits before it is asked again after a failure.
    async fn pause(&self, shown: &Certificate) {
        let few = rand::random_range(0.8..1.2);
        match self {
            Self::File(_) => tokio::time::sleep(LOOK_AGAIN.mul_f64(few)).await,
            _ => {
                let wait = (shown.life() / 20).clamp(AGAIN.0, AGAIN.1);
                // Too short to be told by a clock that may be set back by a year.
                tokio::time::sleep(wait.mul_f64(few)).await;
            }
        }
    }
}

/// Waits until the clock says so.
async fn until(at: SystemTime, now: impl Fn() -> SystemTime) {
    while let Ok(left) = at.duration_since(now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(TICK)).await;
    }
}

/// Renews what `credentials` show, which is `shown` now, from `source` until the group ends.
pub fn keep(credentials: &Credentials, shown: Certificate, source: Source, tasks: &Tasks) {
    let credentials = credentials.clone();
    tasks.spawn("certificate", async move {
        let mut shown = shown;
        loop {
            source.due(&shown).await;
            shown = renew(&credentials, &shown, &source).await;
        }
    });
}

/// The next certificate, once it is shown.
async fn renew(credentials: &Credentials, shown: &Certificate, source: &Source) -> Certificate {
    loop {
        match fresh(credentials, shown, source).await {
            Ok(None) => return shown.clone(),
            Ok(Some(next)) => {
                tracing::info!(life = ?next.life(), "the node's certificate was renewed");
                return next;
            }
            Err(cause) => {
                let left = shown.expires.duration_since(SystemTime::now());
                let cause = &cause as &dyn Error;
                tracing::warn!(cause, left = ?left.unwrap_or_default(), "the node's certificate can't be renewed");
            }
        }
        source.pause(shown).await;
    }
}

/// A certificate that is not the one shown, and is shown now.
async fn fresh(
    credentials: &Credentials,
    shown: &Certificate,
    source: &Source,
) -> Result<Option<Certificate>, RenewalError> {
    let next = source.fetch(credentials).await?;
    if next == *shown {
        return Ok(None);
    }
    credentials.replace(&next)?;
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Days pass for the wall clock, of which the process's own clock knows nothing.
    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_is_noticed_within_a_minute() {
        let begin = tokio::time::Instant::now();
        let (wall, slept) = (SystemTime::now(), AtomicU64::default());
        let now = || wall + begin.elapsed() + Duration::from_secs(slept.load(Ordering::Relaxed));
        let day = Duration::from_secs(86_400);
        let mut waits = std::pin::pin!(until(wall + 2 * day, now));
        let hour = tokio::time::timeout(Duration::from_secs(3_600), waits.as_mut());
        assert!(hour.await.is_err());
        slept.store(3 * day.as_secs(), Ordering::Relaxed);
        let woke = tokio::time::timeout(TICK, waits).await;
        assert!(woke.is_ok());
    }
}

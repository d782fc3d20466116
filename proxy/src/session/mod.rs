//! The session with a scheduler: one stream, for ever made again.
//!
//! Owner of state: the session's task. A scheduler that says nothing for
//! [`SILENCE`] is dead. An outbox that is full means that the scheduler does not read:
//! the session is dropped, and the next one begins with a whole inventory.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use darter_api::{
    NodeKey,
    session::{Hello, PeerMessage, SchedulerMessage},
    wire::{
        MAX_MESSAGE_BYTES, session_challenge,
        v1::{self, peer_message, scheduler_client::SchedulerClient, scheduler_message},
    },
};
use darter_runtime::{
    Tasks,
    tls::{Connector, EndpointError},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::transfer::Metrics;

/// Messages that wait for the scheduler to read them.
const OUTBOX: usize = 4096;
/// A scheduler says something every second.
const SILENCE: Duration = Duration::from_secs(3);
/// For a connection and the handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts, growing from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Tasks in one inventory message: far under the size of a message.
const INVENTORY: usize = 1000;

/// What happened to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The hello was accepted.
    Up,
    /// The scheduler spoke.
    Message(Box<SchedulerMessage>),
    /// It ended; another one is being made.
    Down,
}

/// The way to the scheduler. Cheap to clone.
#[derive(Clone, Default)]
pub struct Session {
    outbox: Arc<ArcSwapOption<mpsc::Sender<v1::PeerMessage>>>,
}

#[cfg(test)]
impl Session {
    /// One that stands, and what is said in it.
    pub(crate) fn recorded() -> (Self, mpsc::Receiver<v1::PeerMessage>) {
        let (outbox, said) = mpsc::channel(OUTBOX);
        let outbox = Arc::new(ArcSwapOption::from_pointee(outbox));
        (Self { outbox }, said)
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the scheduler's URL")]
    Url(#[from] EndpointError),
    #[error("the scheduler can't be reached")]
    Connect(#[source] tonic::transport::Error),
    #[error("the scheduler ended the session")]
    Status(#[source] Box<tonic::Status>),
    #[error("the scheduler speaks nonsense")]
    Wire(#[source] darter_api::wire::WireError),
    #[error("the scheduler does not answer")]
    Silent,
    #[error("the stream ended")]
    Ended,
}

impl Session {
    /// Keeps a session with the first of `urls` that can be had; the list may change,
    /// which a session that stands does not mind. `hello` is said each time with a new
    /// epoch.
    pub fn start(
        urls: watch::Receiver<Vec<String>>,
        hello: Hello,
        key: Arc<NodeKey>,
        connector: Connector,
        events: mpsc::Sender<SessionEvent>,
        tasks: &Tasks,
        metrics: Metrics,
    ) -> Self {
        let session = Self::default();
        let keeper = Keeper {
            urls,
            hello,
            key,
            connector,
            events,
            metrics,
            session: session.clone(),
        };
        tasks.spawn("session", keeper.keep());
        session
    }

    /// Says something, if the session stands.
    pub fn send(&self, message: &PeerMessage) {
        let Some(outbox) = self.outbox.load_full() else {
            return;
        };
        for part in parts(message) {
            if outbox.try_send((&part).into()).is_err() {
                self.outbox.store(None);
                return;
            }
        }
    }
}

/// An inventory in messages of a bounded size; anything else as it is.
fn parts(message: &PeerMessage) -> Vec<PeerMessage> {
    let PeerMessage::Inventory { holdings, last } = message else {
        return vec![message.clone()];
    };
    let chunks = holdings.chunks(INVENTORY).count().max(1);
    (0..chunks)
        .map(|at| PeerMessage::Inventory {
            holdings: holdings
                .chunks(INVENTORY)
                .nth(at)
                .unwrap_or_default()
                .to_vec(),
            last: *last && at + 1 == chunks,
        })
        .collect()
}

struct Keeper {
    urls: watch::Receiver<Vec<String>>,
    hello: Hello,
    key: Arc<NodeKey>,
    connector: Connector,
    events: mpsc::Sender<SessionEvent>,
    metrics: Metrics,
    session: Session,
}

impl Keeper {
    async fn keep(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let urls = self.urls.borrow_and_update().clone();
            for url in &urls {
                let mut stood = false;
                let ended = self.one(url, &mut stood).await;
                self.session.outbox.store(None);
                if stood {
                    self.metrics.sessions.dec();
                    tracing::warn!(%url, cause = &ended as &dyn std::error::Error, "the session with the scheduler ended");
                    let _ = self.events.send(SessionEvent::Down).await;
                    wait = BACKOFF.0;
                } else {
                    tracing::debug!(%url, cause = &ended as &dyn std::error::Error, "no session with the scheduler");
                }
            }
            let pause = wait.mul_f64(rand::random_range(0.7..1.3));
            // A changed list is tried at once; one that nobody changes any more never is.
            let changed = async {
                if self.urls.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => wait = (wait * 2).min(BACKOFF.1),
                () = changed => wait = BACKOFF.0,
            }
        }
    }

    async fn one(&self, url: &str, stood: &mut bool) -> SessionError {
        self.metrics.session_attempts.inc();
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.open(url)).await;
        let (mut inbound, outbox) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(cause)) => return cause,
            Err(_) => return SessionError::Silent,
        };
        self.session.outbox.store(Some(Arc::new(outbox)));
        *stood = true;
        self.metrics.sessions.inc();
        tracing::info!(%url, "the session with the scheduler stands");
        let _ = self.events.send(SessionEvent::Up).await;
        loop {
            if self.session.outbox.load().is_none() {
                return SessionError::Silent;
            }
            match next(&mut inbound).await {
                Ok(message) => {
                    let _ = self
                        .events
                        .send(SessionEvent::Message(Box::new(message)))
                        .await;
                }
                Err(cause) => return cause,
            }
        }
    }

    async fn open(
        &self,
        url: &str,
    ) -> Result<
        (
            tonic::Streaming<v1::SchedulerMessage>,
            mpsc::Sender<v1::PeerMessage>,
        ),
        SessionError,
    > {
        let channel = self
            .connector
            .endpoint(url)?
            .connect_timeout(OPEN_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .connect_with_connector(self.connector.clone())
            .await
            .map_err(SessionError::Connect)?;
        let mut client = SchedulerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let status = |status| SessionError::Status(Box::new(status));
        let mut inbound = client
            .session(ReceiverStream::new(messages))
            .await
            .map_err(status)?
            .into_inner();
        let first = inbound
            .next()
            .await
            .ok_or(SessionError::Ended)?
            .map_err(status)?;
        let Some(scheduler_message::Kind::Challenge(challenge)) = first.kind else {
            return Err(SessionError::Ended);
        };
        let hello = v1::PeerMessage {
            kind: Some(peer_message::Kind::Hello(self.hello(&challenge.nonce))),
        };
        outbox.try_send(hello).map_err(|_| SessionError::Ended)?;
        let welcome = next(&mut inbound).await?;
        if !matches!(welcome, SchedulerMessage::Welcome { .. }) {
            return Err(SessionError::Ended);
        }
        let _ = self
            .events
            .send(SessionEvent::Message(Box::new(welcome)))
            .await;
        Ok((inbound, outbox))
    }

    fn hello(&self, nonce: &[u8]) -> v1::Hello {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let epoch = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let signature = self.key.sign(&session_challenge(nonce, epoch));
        let hello = Hello {
            epoch,
            ..self.hello.clone()
        };
        v1::Hello {
            signature: signature.to_vec().into(),
            ..(&hello).into()
        }
    }
}

async fn next(
    inbound: &mut tonic::Streaming<v1::SchedulerMessage>,
) -> Result<SchedulerMessage, SessionError> {
    let message = tokio::time::timeout(SILENCE, inbound.next())
        .await
        .map_err(|_| SessionError::Silent)?
        .ok_or(SessionError::Ended)?
        .map_err(|status| SessionError::Status(Box::new(status)))?;
    message.try_into().map_err(SessionError::Wire)
}

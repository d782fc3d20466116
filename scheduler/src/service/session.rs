//! A session: a host's hello, then what it says, until it goes.

use std::{pin::Pin, time::Duration};

use darter_api::{
    HostId,
    session::{Hello, PeerMessage},
    wire::{
        session_challenge,
        v1::{self, peer_message, scheduler_message, scheduler_server::Scheduler as SchedulerRpc},
    },
};
use darter_runtime::{Tasks, server::PeerIdentity};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::actor::Inbound;

/// Messages that wait for one host.
pub(super) const OUTBOX: usize = 4096;
/// Bytes that a host may send before they are read, 94 contents of an inventory; more take a round
/// trip each time. With TLS and HTTP/2 around them they fit into the 4 KiB that TLS reads at once:
/// beside a part of a record its buffer grows, and so does HTTP/2's list of what waits, for good.
/// 10,000 sessions of 200 contents took 40 MiB more with a MiB each.
pub(super) const WINDOW: u32 = 3584;
/// For a hello to come.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) type Frame = Result<v1::SchedulerMessage, Status>;
/// What waits in an outbox, which has room for dozens even while it is empty.
pub(super) type Parcel = Box<Frame>;

/// Sessions, as gRPC has them.
pub(super) struct Service {
    inbox: mpsc::Sender<Inbound>,
    tasks: Tasks,
}

impl Service {
    /// Its sessions' events go to `inbox`.
    pub(super) const fn new(inbox: mpsc::Sender<Inbound>, tasks: Tasks) -> Self {
        Self { inbox, tasks }
    }
}

#[tonic::async_trait]
impl SchedulerRpc for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::PeerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let nonce: [u8; 32] = rand::random();
        let challenge = v1::Challenge {
            nonce: nonce.to_vec().into(),
        };
        let challenge = v1::SchedulerMessage {
            kind: Some(scheduler_message::Kind::Challenge(challenge)),
        };
        let _ = sender.try_send(Box::new(Ok(challenge)));
        let proof = match request.extensions().get() {
            Some(PeerIdentity(host)) => Proof::Certificate(*host),
            None => Proof::Signature(nonce),
        };
        let session = session(request.into_inner(), proof, sender, self.inbox.clone());
        self.tasks.spawn("session", session);
        let parcels = ReceiverStream::new(receiver);
        Ok(Response::new(Box::pin(parcels.map(|parcel| *parcel))))
    }
}

/// What proves the id that a hello names.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// The connection's certificate is this host's.
    Certificate(HostId),
    /// In plain text: its signature over this nonce.
    Signature([u8; 32]),
}

impl Proof {
    fn covers(self, hello: &Hello, signature: &[u8]) -> bool {
        match self {
            Self::Certificate(host) => hello.host == host,
            Self::Signature(nonce) => hello
                .host
                .verify(&session_challenge(&nonce, hello.epoch), signature),
        }
    }
}

async fn session(
    mut inbound: Streaming<v1::PeerMessage>,
    proof: Proof,
    sender: mpsc::Sender<Parcel>,
    inbox: mpsc::Sender<Inbound>,
) {
    // On the heap: what is needed once would stay as long as the session.
    let begun = Box::pin(begin(&mut inbound, proof, sender, &inbox)).await;
    let Some((host, epoch, over)) = begun else {
        return;
    };
    loop {
        let next = tokio::select! {
            biased;
            () = over.cancelled() => break,
            next = inbound.next() => next,
        };
        let Some(Ok(message)) = next else { break };
        match PeerMessage::try_from(message).map(Box::new) {
            Ok(message) => {
                // A send has room for the largest event twice, in a session that stays for long.
                let Ok(place) = inbox.reserve().await else {
                    return;
                };
                place.send(Inbound::Message(host, epoch, message));
            }
            Err(cause) => {
                tracing::warn!(?host, %cause, "a peer speaks nonsense; its session ends");
                break;
            }
        }
    }
    tracing::info!(?host, "a peer has gone");
    if let Ok(place) = inbox.reserve().await {
        place.send(Inbound::Down(host, epoch));
    }
}

/// Who has come, once the actor knows it, and what ends the session.
async fn begin(
    inbound: &mut Streaming<v1::PeerMessage>,
    proof: Proof,
    sender: mpsc::Sender<Parcel>,
    inbox: &mpsc::Sender<Inbound>,
) -> Option<(HostId, u64, CancellationToken)> {
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, greeting(inbound, proof)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(status)) => {
            tracing::warn!(%status, "a session is refused");
            let _ = sender.try_send(Box::new(Err(status)));
            return None;
        }
        Err(_) => return None,
    };
    let (host, epoch) = (hello.host, hello.epoch);
    tracing::info!(?host, name = hello.name, role = ?hello.role, address = %hello.address, "a peer has come");
    // The outbox is the actor's alone, so that its drop of it ends the stream, and this with it.
    let over = CancellationToken::new();
    let up = Inbound::Up(hello, sender, over.clone().drop_guard());
    inbox.send(up).await.ok()?;
    Some((host, epoch, over))
}

/// The hello, if it proves the id that it names.
async fn greeting(inbound: &mut Streaming<v1::PeerMessage>, proof: Proof) -> Result<Hello, Status> {
    let first = inbound
        .next()
        .await
        .ok_or_else(|| Status::aborted("no hello"))??;
    let Some(peer_message::Kind::Hello(hello)) = first.kind else {
        return Err(Status::invalid_argument("the first message is a hello"));
    };
    let signature = hello.signature.clone();
    let hello =
        Hello::try_from(hello).map_err(|cause| Status::invalid_argument(cause.to_string()))?;
    if !proof.covers(&hello, &signature) {
        return Err(Status::unauthenticated(
            "the hello does not prove its host id",
        ));
    }
    Ok(hello)
}

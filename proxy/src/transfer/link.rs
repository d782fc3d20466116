//! Links: one stream a pair of hosts, for all tasks, with both ends proven.
//!
//! Owner of state: [`Links`] owns which links stand. Where both hosts dialled, the link
//! that the smaller HostId dialled stands. An outbox that is full means that the
//! neighbour does not read: its link is dropped, and it may dial again.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use darter_api::{
    HostId, NodeKey,
    link::LinkMessage,
    session::Neighbour,
    wire::{
        MAX_MESSAGE_BYTES, link_challenge,
        v1::{
            LinkFrame, LinkHello, LinkProof,
            link_frame::Kind,
            peer_client::PeerClient,
            peer_server::{Peer, PeerServer},
        },
    },
};
use darter_runtime::{
    Tasks,
    server::PeerIdentity,
    tls::{Connector, EndpointError},
};
use dashmap::DashMap;
use futures::Stream;
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Metrics;

/// Frames that wait for a neighbour to read them.
const OUTBOX: usize = 1024;
/// For a connection and its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The larger HostId waits so long for the smaller one to dial.
const YIELD: Duration = Duration::from_millis(250);
/// Links at the same time; more are refused.
const MAX_LINKS: usize = 4096;
/// Hosts whose addresses are remembered; the one that was asked for longest ago goes.
const MOST_ADDRESSES: u64 = 4 * MAX_LINKS as u64;

/// What happened to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It stands, or was replaced by another one: subscriptions start anew.
    Up(HostId),
    /// It broke, or could not be made.
    Down(HostId),
    /// The neighbour spoke.
    Message(HostId, LinkMessage),
}

/// All links of a host. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    key: Arc<NodeKey>,
    connector: Connector,
    addresses: Cache<HostId, SocketAddr>,
    live: DashMap<HostId, Live>,
    most: usize,
    next: AtomicU64,
    events: mpsc::Sender<LinkEvent>,
    tasks: Tasks,
    metrics: Metrics,
}

struct Live {
    generation: u64,
    dialled_by: HostId,
    outbox: mpsc::Sender<LinkFrame>,
    end: CancellationToken,
}

/// Why a link was not made.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the neighbour's address")]
    Address(#[from] EndpointError),
    #[error("the neighbour can't be reached")]
    Connect(#[source] tonic::transport::Error),
    #[error("the neighbour refuses the link")]
    Refused(#[source] Box<Status>),
    #[error("the neighbour did not prove its id")]
    Unproven,
    #[error("the handshake took too long")]
    Timeout,
    #[error("this host has as many links as it may")]
    Full,
}

impl Links {
    /// Links of the host with this key; what happens goes to `events`.
    pub fn new(
        key: Arc<NodeKey>,
        connector: Connector,
        events: mpsc::Sender<LinkEvent>,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        Self::bounded(key, connector, events, tasks, metrics, MAX_LINKS)
    }

    /// The same, with so many links at most.
    pub(super) fn bounded(
        key: Arc<NodeKey>,
        connector: Connector,
        events: mpsc::Sender<LinkEvent>,
        tasks: Tasks,
        metrics: Metrics,
        most: usize,
    ) -> Self {
        let addresses = Cache::builder()
            .max_capacity(MOST_ADDRESSES)
            .eviction_policy(EvictionPolicy::lru());
        Self(Arc::new(Inner {
            key,
            connector,
            addresses: addresses.build(),
            live: DashMap::new(),
            most,
            next: AtomicU64::new(1),
            events,
            tasks,
            metrics,
        }))
    }

    /// What connects to other hosts.
    pub fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// The gRPC service that accepts links.
    pub fn service(&self) -> PeerServer<impl Peer> {
        PeerServer::new(Accept(self.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Where a host's peer port is, as far as was told.
    pub fn address(&self, host: &HostId) -> Option<SocketAddr> {
        self.0.addresses.get(host)
    }

    /// Notes where hosts' peer ports are.
    pub fn note(&self, neighbours: &[Neighbour]) {
        for neighbour in neighbours {
            self.0.addresses.insert(neighbour.host, neighbour.address);
        }
    }

    /// Makes a link unless it stands; [`LinkEvent::Up`] or [`LinkEvent::Down`] follows.
    pub fn dial(&self, neighbour: &Neighbour) {
        let (links, host, address) = (self.clone(), neighbour.host, neighbour.address);
        self.0.addresses.insert(host, address);
        self.0.tasks.spawn("dial", async move {
            if links.own() > host && !links.stands(&host) {
                tokio::time::sleep(YIELD).await;
            }
            if links.stands(&host) {
                links.tell(LinkEvent::Up(host)).await;
                return;
            }
            if let Err(cause) = links.connect(host, address).await {
                tracing::debug!(?host, %address, cause = &cause as &dyn std::error::Error, "no link");
                if !links.stands(&host) {
                    links.tell(LinkEvent::Down(host)).await;
                }
            }
        });
    }

    /// Sends a message, if the link stands.
    pub fn send(&self, host: &HostId, message: &LinkMessage) {
        let full = match self.0.live.get(host) {
            Some(live) => live.outbox.try_send(message.into()).is_err(),
            None => false,
        };
        if full {
            self.hang_up(host);
        }
    }

    /// Ends a link; [`LinkEvent::Down`] follows.
    pub fn hang_up(&self, host: &HostId) {
        if let Some(live) = self.0.live.get(host) {
            live.end.cancel();
        }
    }

    fn own(&self) -> HostId {
        self.0.key.id()
    }

    fn stands(&self, host: &HostId) -> bool {
        self.0.live.contains_key(host)
    }

    async fn tell(&self, event: LinkEvent) {
        // The receiver ends with the whole proxy.
        let _ = self.0.events.send(event).await;
    }

    async fn connect(&self, host: HostId, address: SocketAddr) -> Result<(), LinkError> {
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let open = async {
            let connector = self.0.connector.clone().expecting(host);
            let channel = connector
                .to_address(address)?
                .connect_timeout(HANDSHAKE_TIMEOUT)
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(2))
                .keep_alive_while_idle(true)
                .connect_with_connector(connector)
                .await
                .map_err(LinkError::Connect)?;
            let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let nonce = self.greet(&outbox)?;
            let inbound = client.link(ReceiverStream::new(frames)).await;
            let mut inbound = inbound
                .map_err(|status| LinkError::Refused(Box::new(status)))?
                .into_inner();
            let proven = self.handshake(&mut inbound, &outbox, &nonce).await?;
            if proven != host {
                return Err(LinkError::Unproven);
            }
            Ok(inbound)
        };
        let inbound = tokio::time::timeout(HANDSHAKE_TIMEOUT, open)
            .await
            .map_err(|_| LinkError::Timeout)??;
        self.run(host, self.own(), inbound, outbox).await
    }

    fn greet(&self, outbox: &mpsc::Sender<LinkFrame>) -> Result<[u8; 32], LinkError> {
        let nonce: [u8; 32] = rand::random();
        let hello = LinkHello {
            host: self.own().as_bytes().to_vec().into(),
            nonce: nonce.to_vec().into(),
        };
        send_frame(outbox, Kind::Hello(hello))?;
        Ok(nonce)
    }

    /// Proves both ends to each other; the other's id.
    async fn handshake(
        &self,
        inbound: &mut Streaming<LinkFrame>,
        outbox: &mpsc::Sender<LinkFrame>,
        nonce: &[u8],
    ) -> Result<HostId, LinkError> {
        let Some(Kind::Hello(hello)) = next_frame(inbound).await else {
            return Err(LinkError::Unproven);
        };
        let other = HostId::try_from(&hello.host[..]).map_err(|_| LinkError::Unproven)?;
        if other == self.own() || hello.nonce.len() != 32 {
            return Err(LinkError::Unproven);
        }
        let signature = self
            .0
            .key
            .sign(&link_challenge(&hello.nonce, &self.own(), &other));
        let proof = LinkProof {
            signature: signature.to_vec().into(),
        };
        send_frame(outbox, Kind::Proof(proof))?;
        let Some(Kind::Proof(proof)) = next_frame(inbound).await else {
            return Err(LinkError::Unproven);
        };
        let proven = other.verify(
            &link_challenge(nonce, &other, &self.own()),
            &proof.signature,
        );
        proven.then_some(other).ok_or(LinkError::Unproven)
    }

    /// Runs a proven link until it ends, unless another one stands that must stay.
    async fn run(
        &self,
        host: HostId,
        dialled_by: HostId,
        mut inbound: Streaming<LinkFrame>,
        outbox: mpsc::Sender<LinkFrame>,
    ) -> Result<(), LinkError> {
        let Some((generation, end)) = self.enlist(host, dialled_by, outbox)? else {
            return Ok(());
        };
        self.tell(LinkEvent::Up(host)).await;
        let read = async {
            while let Some(Ok(frame)) = inbound.next().await {
                match LinkMessage::try_from(frame) {
                    Ok(message) => self.tell(LinkEvent::Message(host, message)).await,
                    Err(cause) => {
                        tracing::warn!(?host, %cause, "a neighbour speaks nonsense; its link ends");
                        return;
                    }
                }
            }
        };
        end.run_until_cancelled(read).await;
        let ended = self
            .0
            .live
            .remove_if(&host, |_, live| live.generation == generation);
        if ended.is_some() {
            self.0.metrics.links.dec();
            self.tell(LinkEvent::Down(host)).await;
        }
        Ok(())
    }

    /// Takes a link among those that stand; `None` if another one to the same host must stay.
    fn enlist(
        &self,
        host: HostId,
        dialled_by: HostId,
        outbox: mpsc::Sender<LinkFrame>,
    ) -> Result<Option<(u64, CancellationToken)>, LinkError> {
        if self.0.live.len() >= self.0.most && !self.stands(&host) {
            self.0.metrics.links_refused.inc();
            return Err(LinkError::Full);
        }
        let generation = self.0.next.fetch_add(1, Ordering::Relaxed);
        let end = self.0.tasks.token().child_token();
        let live = Live {
            generation,
            dialled_by,
            outbox,
            end: end.clone(),
        };
        match self.0.live.entry(host) {
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert(live);
                self.0.metrics.links.inc();
            }
            dashmap::Entry::Occupied(mut occupied) => {
                let standing = occupied.get();
                // The same dialler again means that it lost the old link before we did.
                if standing.dialled_by < dialled_by {
                    return Ok(None);
                }
                occupied.insert(live).end.cancel();
            }
        }
        Ok(Some((generation, end)))
    }
}

fn send_frame(outbox: &mpsc::Sender<LinkFrame>, kind: Kind) -> Result<(), LinkError> {
    let frame = LinkFrame { kind: Some(kind) };
    outbox.try_send(frame).map_err(|_| LinkError::Unproven)
}

async fn next_frame(inbound: &mut Streaming<LinkFrame>) -> Option<Kind> {
    inbound.next().await?.ok()?.kind
}

/// Accepts links.
struct Accept(Links);

#[tonic::async_trait]
impl Peer for Accept {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkFrame, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkFrame>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let certified = request.extensions().get().map(|PeerIdentity(host)| *host);
        let mut inbound = request.into_inner();
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let links = self.0.clone();
        let nonce = links
            .greet(&outbox)
            .map_err(|_| Status::internal("no outbox"))?;
        self.0.0.tasks.spawn("accepted link", async move {
            let handshake = links.handshake(&mut inbound, &outbox, &nonce);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(host)) if certified.is_some_and(|certified| certified != host) => {
                    tracing::warn!(
                        ?host,
                        ?certified,
                        "an incoming link is refused: the certificate is another host's"
                    );
                }
                Ok(Ok(host)) => {
                    if let Err(cause) = links.run(host, host, inbound, outbox).await {
                        tracing::debug!(?host, %cause, "an incoming link is refused");
                    }
                }
                Ok(Err(cause)) => tracing::debug!(%cause, "an incoming link is refused"),
                Err(_) => tracing::debug!("an incoming link did not shake hands in time"),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames).map(Ok))))
    }
}

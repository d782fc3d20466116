//! Preheats of images and files, for managers: gRPC in, orders to hosts, their reports back.
//!
//! Served where a manager is configured, to those managers that this one names: other members of
//! the TLS cluster are refused, since what they order, hosts fetch with the credential that comes
//! with it. In plain text nobody proves who he is. Owner of state: the scheduler's actor has the
//! [`Runs`]; each ends with its stream. Nothing is remembered of it: a manager whose stream
//! was cut asks again, and hosts that hold everything say so at once.

mod answer;
mod backlog;
mod choice;
mod run;
mod runs;
mod secrets;
mod turns;

use std::{collections::HashSet, net::IpAddr, pin::Pin};

use axum::Router;
use darter_api::{
    HostId,
    preheat::{Authorization, Choice, MOST_PIN_SECONDS, MOST_TIMEOUT_SECONDS, Subject},
    wire::{
        WireError,
        v1::{
            self,
            preheats_server::{Preheats, PreheatsServer},
        },
    },
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{managers::Managers, service::Inbound};
pub(crate) use runs::Runs;

/// Events that wait for a manager on their way; more wait in the run.
const EVENTS: usize = 1024;
/// Addresses in one wish.
const MOST_IPS: usize = 4096;
/// Hosts that a wish names, or excepts.
const MOST_NAMED: usize = 100_000;
/// Bytes of a wish.
const MOST_WISH: usize = 4 * 1024 * 1024;

pub(crate) type Frame = Result<v1::PreheatEvent, Status>;
pub(crate) type Events = mpsc::Sender<Frame>;

/// An image or files, and who is to have them.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) subject: Subject,
    pub(crate) authorization: Authorization,
    pub(crate) choice: Choice,
    /// These are with other schedulers.
    pub(crate) except: HashSet<HostId>,
    /// Where there are any: these and no others, which the manager has chosen.
    pub(crate) only: Vec<HostId>,
    /// No limit where it is 0.
    pub(crate) hosts_at_once: usize,
    pub(crate) contents_at_once: u32,
    pub(crate) pin_seconds: u64,
    pub(crate) timeout_seconds: u64,
}

impl TryFrom<v1::PreheatRequest> for Wish {
    type Error = WireError;

    fn try_from(value: v1::PreheatRequest) -> Result<Self, WireError> {
        let ips = value.ips.iter().map(|ip| ip.parse::<IpAddr>());
        let ips: Result<Vec<IpAddr>, _> = ips.collect();
        let invalid = WireError::Invalid;
        let scope = v1::PreheatScope::try_from(value.scope);
        let except = named(&value.except).ok_or(invalid("except"))?;
        if value.percentage > 100 {
            return Err(invalid("percentage"));
        }
        if value.pin_seconds > MOST_PIN_SECONDS {
            return Err(invalid("pin_seconds"));
        }
        if value.timeout_seconds > MOST_TIMEOUT_SECONDS {
            return Err(invalid("timeout_seconds"));
        }
        Ok(Self {
            subject: (value.image, value.files).try_into()?,
            authorization: Authorization::checked(value.authorization)
                .ok_or(invalid("authorization"))?,
            choice: Choice {
                scope: scope.map_err(|_| invalid("scope"))?.into(),
                ips: ips
                    .ok()
                    .filter(|ips| ips.len() <= MOST_IPS)
                    .ok_or(invalid("ips"))?,
                count: value.count as usize,
                percentage: value.percentage as usize,
            },
            except: except.into_iter().collect(),
            only: named(&value.only).ok_or(invalid("only"))?,
            hosts_at_once: value.hosts_at_once as usize,
            contents_at_once: value.contents_at_once,
            pin_seconds: value.pin_seconds,
            timeout_seconds: value.timeout_seconds,
        })
    }
}

/// Hosts by their keys; none where there are too many, or where one is no key.
fn named(keys: &[bytes::Bytes]) -> Option<Vec<HostId>> {
    if keys.len() > MOST_NAMED {
        return None;
    }
    let keys = keys.iter().map(|raw| HostId::try_from(raw.as_ref()).ok());
    keys.collect()
}

/// The gRPC service, to be served beside the sessions.
pub(crate) fn service(inbox: mpsc::Sender<Inbound>, managers: Managers) -> Router {
    let service = PreheatsServer::new(Service { inbox, managers });
    let service = service.max_decoding_message_size(MOST_WISH);
    tonic::service::Routes::new(service)
        .into_axum_router()
        .reset_fallback()
}

struct Service {
    inbox: mpsc::Sender<Inbound>,
    managers: Managers,
}

#[tonic::async_trait]
impl Preheats for Service {
    type PreheatStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn preheat(
        &self,
        request: Request<v1::PreheatRequest>,
    ) -> Result<Response<Self::PreheatStream>, Status> {
        self.managers.check(&request, "preheats")?;
        let wish = Wish::try_from(request.into_inner());
        let wish = wish.map_err(|cause| Status::invalid_argument(cause.to_string()))?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let begin = Inbound::Preheat(wish, events);
        let gone = |_| Status::unavailable("the scheduler is shutting down");
        self.inbox.send(begin).await.map_err(gone)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;
    use darter_runtime::server::PeerIdentity;
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn members_that_are_no_managers_are_refused() {
        let id = |seed| NodeKey::from_seed([seed; 32]).id();
        let (inbox, mut taken) = mpsc::channel(4);
        let (_, managers) = watch::channel(vec![id(1)]);
        let managers = Managers(managers);
        let service = Service { inbox, managers };
        let image = v1::PreheatImage {
            registry: "docker.io".to_owned(),
            repository: "library/app".to_owned(),
            platforms: Vec::new(),
            reference: Some(v1::preheat_image::Reference::Tag("1".to_owned())),
        };
        let ask = async |host: Option<HostId>| {
            let mut request = Request::new(v1::PreheatRequest {
                image: Some(image.clone()),
                ..v1::PreheatRequest::default()
            });
            if let Some(host) = host {
                request.extensions_mut().insert(PeerIdentity(host));
            }
            service.preheat(request).await.map(drop)
        };
        let refused = ask(Some(id(2))).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(taken.try_recv().is_err());
        ask(Some(id(1))).await.unwrap();
        ask(None).await.unwrap();
        assert!(taken.try_recv().is_ok() && taken.try_recv().is_ok());
    }
}

//! Sessions against a real scheduler, and against nobody.

use std::net::SocketAddr;

use darter_api::{HostId, session::Role};
use darter_runtime::tls::Security;
use darter_scheduler::Scheduler;
use prometheus_client::registry::Registry;

use super::*;

struct Peer {
    session: Session,
    events: mpsc::Receiver<SessionEvent>,
    tasks: Tasks,
    host: HostId,
}

impl Peer {
    fn start(list: List) -> Self {
        let key = Arc::new(NodeKey::from_seed([5; 32]));
        let host = key.id();
        let hello = Hello {
            host,
            epoch: 0,
            name: "peer".to_owned(),
            address: ([127, 0, 0, 1], 4000).into(),
            role: Role::Peer,
            locality: darter_api::session::Locality::default(),
            upload_slots: 4,
            cores: None,
            shares: true,
            version: String::new(),
        };
        let (sender, events) = mpsc::channel(64);
        let tasks = Tasks::new();
        let schedulers = Schedulers::Named(list);
        let metrics = Metrics::default();
        let session = Session::start(
            schedulers,
            hello,
            key,
            Connector::plain(),
            sender,
            &tasks,
            metrics,
        );
        Self {
            session,
            events,
            tasks,
            host,
        }
    }

    async fn event(&mut self) -> SessionEvent {
        let wait = Duration::from_secs(10);
        let event = tokio::time::timeout(wait, self.events.recv()).await;
        event.expect("something happens").expect("sessions live")
    }

    /// The next event that is no message.
    async fn change(&mut self) -> SessionEvent {
        loop {
            match self.event().await {
                SessionEvent::Message(..) => {}
                event => return event,
            }
        }
    }
}

async fn scheduler(dir: &std::path::Path, listen: SocketAddr) -> (Scheduler, Tasks) {
    let tasks = Tasks::new();
    let options = darter_scheduler::Options {
        listen,
        data: dir.to_owned(),
        ..darter_scheduler::Options::default()
    };
    let mut registry = Registry::default();
    let scheduler = Scheduler::start(options, &Security::Plain, &tasks, &mut registry).await;
    (scheduler.unwrap(), tasks)
}

#[tokio::test]
async fn a_scheduler_that_is_not_there_refuses_and_is_found_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (first, first_tasks) = scheduler(dir.path(), any).await;
    let address = first.address();
    first_tasks.stop(Duration::from_secs(60)).await;

    let list = List::new([format!("http://{address}")], false);
    let name = list.names[0].clone();
    let mut peer = Peer::start(list.clone());
    assert_eq!(peer.change().await, SessionEvent::Listed(list));
    peer.session.open(&name);
    assert_eq!(peer.change().await, SessionEvent::Refused(name.clone()));

    let (again, again_tasks) = scheduler(dir.path(), address).await;
    let mut change = peer.change().await;
    while change == SessionEvent::Refused(name.clone()) {
        change = peer.change().await;
    }
    assert_eq!(change, SessionEvent::Up(name.clone()));
    assert_ne!(again.id(), peer.host);

    again_tasks.stop(Duration::from_secs(60)).await;
    assert_eq!(peer.change().await, SessionEvent::Down(name));
    assert!(peer.tasks.stop(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_session_that_is_closed_says_its_last_words_and_nothing_of_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (scheduler, scheduler_tasks) = scheduler(dir.path(), any).await;
    let list = List::new([format!("http://{}", scheduler.address())], true);
    let name = list.names[0].clone();
    let mut peer = Peer::start(list.clone());
    assert_eq!(peer.change().await, SessionEvent::Listed(list));
    peer.session.open(&name);
    assert_eq!(peer.change().await, SessionEvent::Up(name.clone()));
    peer.session.send(&name, PeerMessage::Resting);
    peer.session.close(&name);

    peer.session.open(&name);
    assert_eq!(peer.change().await, SessionEvent::Up(name));
    assert!(peer.tasks.stop(Duration::from_secs(60)).await);
    assert!(scheduler_tasks.stop(Duration::from_secs(60)).await);
}

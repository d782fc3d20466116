//! Contents whose size their source does not tell.

use darter_api::{
    Lengths, PieceSet,
    session::{Holding, Join, LeaseEnd, Purpose, Role},
};

use super::{super::*, lab::*};

struct Lab(Cluster, Timestamp);

impl Lab {
    fn new(hosts: u8) -> Self {
        let options = Options {
            source_holders_from: 2,
            source_waiters: 0,
            ..Options::default()
        };
        let key = NodeKey::from_seed([1; 32]);
        let mut cluster = Cluster::new(options, key, Timestamp::ZERO, 0, 1);
        for name in 1..=hosts {
            let hello = hello(name, 1, Role::Peer);
            cluster.handle(Timestamp::ZERO, Event::HostUp(hello));
        }
        // Past its settling time.
        Self(cluster, Timestamp::ZERO + Duration::from_secs(2))
    }

    fn says(&mut self, name: u8, message: PeerMessage) -> Vec<Command> {
        self.1 = self.1 + Duration::from_millis(10);
        let host = host(name);
        self.0.handle(self.1, Event::Message { host, message })
    }

    fn size(&mut self, name: u8) -> Option<u64> {
        self.size_of(name, task(1))
    }

    fn size_of(&mut self, name: u8, task: TaskId) -> Option<u64> {
        let said = self.says(name, PeerMessage::SizeWanted { task });
        let answer = said.into_iter().find_map(|command| match command.message {
            SchedulerMessage::Size { size, .. } if command.host == host(name) => Some(size),
            _ => None,
        });
        answer.expect("who asks is answered")
    }

    fn joins(&mut self, name: u8) -> Vec<(HostId, std::ops::Range<u32>)> {
        let join = Join {
            task: open(),
            lengths: Lengths::open(),
            held: PieceSet::new(),
            origin: origin(),
            purpose: Purpose::Pull,
        };
        granted(&self.says(name, PeerMessage::Join(join)))
    }
}

fn open() -> TaskId {
    task(1).opened()
}

fn granted(said: &[Command]) -> Vec<(HostId, std::ops::Range<u32>)> {
    let grants = said.iter().filter_map(|command| match &command.message {
        SchedulerMessage::Grant(grant) => Some((command.host, grant.pieces.clone())),
        _ => None,
    });
    grants.collect()
}

#[test]
fn who_asks_is_told_what_a_member_knows() {
    let mut lab = Lab::new(3);
    assert_eq!(lab.size(1), None);
    // That it is read says nothing of its size.
    lab.joins(1);
    assert_eq!(lab.size(2), None);
    let holding = Holding {
        task: task(1),
        lengths: lengths(),
        held: PieceSet::full(PIECES),
        reading: PieceSet::new(),
        wanted: false,
        origin: Some(origin()),
    };
    let holdings = vec![holding];
    let last = false;
    lab.says(1, PeerMessage::Inventory { holdings, last });
    assert_eq!(lab.size(2), Some(lengths().size()));
}

#[test]
fn what_has_no_end_yet_has_no_size() {
    let mut lab = Lab::new(2);
    let end = Lengths::open().pieces();
    lab.joins(1);
    lab.joins(2);
    assert_eq!(lab.size_of(2, open()), None);
    let mut counted = |held: PieceSet| {
        lab.says(1, PeerMessage::Progress { task: open(), held });
        let hosts = lab.0.hosts_after(lab.1, None, 10);
        let graph = lab.0.graph(&open()).unwrap();
        assert_eq!(graph.pieces(), None);
        let node = graph.nodes.iter().find(|node| node.host == host(1));
        let held = graph.held(node.unwrap());
        let known = hosts.iter().find(|known| known.host == host(1)).unwrap();
        (known.bytes, held)
    };
    assert_eq!(counted(PieceSet::from_range(0..3)), (3 << 20, 3));
    // It knows the end, and lacks what is before it.
    let mut held = PieceSet::from_range(0..3);
    held.insert_range(9..end);
    assert_eq!(counted(held), (3 << 20, 3));
    // It has all of it, which counts with its size.
    assert_eq!(counted(PieceSet::full(end)), (0, end));
}

#[test]
fn one_host_reads_it_to_its_end_and_another_goes_on_if_that_one_fails() {
    let mut lab = Lab::new(3);
    let (task, end) = (open(), Lengths::open().pieces());
    let [(reader, pieces)] = lab.joins(1).try_into().unwrap();
    assert_eq!((reader, pieces), (host(1), 0..end));
    // Nobody gets a part of it, though a known size would be shared.
    assert_eq!(lab.joins(2), []);
    assert_eq!(lab.joins(3), []);
    lab.says(1, PeerMessage::LeaseAccepted { task });
    let ranges = true;
    let said = lab.says(1, PeerMessage::LeaseFirstByte { task, ranges });
    assert_eq!(granted(&said), []);
    let held = PieceSet::from_range(0..3);
    lab.says(1, PeerMessage::Progress { task, held });
    let pieces = PieceSet::from_range(3..end);
    let why = LeaseEnd::Unreachable;
    let said = lab.says(1, PeerMessage::LeaseReturned { task, pieces, why });
    let [(reader, pieces)] = granted(&said).try_into().unwrap();
    assert!(reader != host(1));
    assert_eq!(pieces, 3..end);
    // Who has come to the end holds all that lies past it: nothing is left to be read.
    let name = if reader == host(2) { 2 } else { 3 };
    lab.says(name, PeerMessage::LeaseAccepted { task });
    let held = PieceSet::from_range(3..end);
    let said = lab.says(name, PeerMessage::Progress { task, held });
    assert_eq!(granted(&said), []);
    assert_eq!(lab.0.counts().leases, 0);
    lab.1 = lab.1 + Duration::from_secs(60);
    assert_eq!(granted(&lab.0.tick(lab.1)), []);
}

#[test]
fn what_a_dead_reader_left_in_the_middle_goes_to_who_reads_on() {
    let mut lab = Lab::new(3);
    let (task, end) = (open(), Lengths::open().pieces());
    for name in 1..=3 {
        lab.joins(name);
    }
    lab.says(1, PeerMessage::LeaseAccepted { task });
    let ranges = true;
    lab.says(1, PeerMessage::LeaseFirstByte { task, ranges });
    for (name, read) in [(1, 8), (2, 5)] {
        let held = PieceSet::from_range(0..read);
        lab.says(name, PeerMessage::Progress { task, held });
    }
    let (host, epoch) = (host(1), 1);
    let said = lab.0.handle(lab.1, Event::HostDown { host, epoch });
    let [(reader, pieces)] = granted(&said).try_into().unwrap();
    assert!(pieces.start >= 8 && pieces.end == end, "{pieces:?}");
    // What it had may be with others, and is not. Of a content with a size another host
    // would fetch what the reader has passed.
    lab.1 = lab.1 + Duration::from_millis(400);
    let said = lab.0.tick(lab.1);
    assert_eq!(granted(&said), [(reader, 5..pieces.start)]);
}

//! Who finds out the size of a content whose source does not tell it.

use darter_api::{
    PieceSet,
    session::{Holding, Role, Sizing},
};

use super::{super::*, rules::*};

struct Lab(Cluster);

impl Lab {
    fn new() -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let mut cluster = Cluster::new(Options::default(), key, Timestamp::ZERO, 0, 1);
        for name in 1..=3 {
            let hello = hello(name, 1, Role::Peer);
            cluster.handle(Timestamp::ZERO, Event::HostUp(hello));
        }
        Self(cluster)
    }

    /// The answer, in so many seconds: a size, and whether to read.
    fn says(&mut self, second: u64, name: u8, state: Sizing) -> Option<(Option<u64>, bool)> {
        let now = Timestamp::ZERO + Duration::from_secs(second);
        let message = PeerMessage::Sizing {
            task: task(1),
            state,
        };
        let host = host(name);
        let said = self.0.handle(now, Event::Message { host, message });
        said.into_iter().find_map(|command| match command.message {
            SchedulerMessage::Size { size, read, .. } if command.host == host => Some((size, read)),
            _ => None,
        })
    }
}

#[test]
fn one_host_reads_it_and_the_others_wait() {
    let mut lab = Lab::new();
    assert_eq!(lab.says(0, 1, Sizing::Asks), Some((None, true)));
    for second in 1..10 {
        assert_eq!(lab.says(second, 2, Sizing::Asks), Some((None, false)));
        assert_eq!(lab.says(second, 1, Sizing::Reads), None);
    }
    let now = Timestamp::ZERO + Duration::from_secs(10);
    let holding = Holding {
        task: task(1),
        lengths: lengths(),
        held: PieceSet::full(PIECES),
        reading: PieceSet::new(),
        wanted: false,
        origin: Some(origin()),
    };
    let message = PeerMessage::Inventory {
        holdings: vec![holding],
        last: false,
    };
    let host = host(1);
    lab.0.handle(now, Event::Message { host, message });
    let size = Some(lengths().size());
    assert_eq!(lab.says(10, 2, Sizing::Asks), Some((size, false)));
}

#[test]
fn a_reader_that_is_silent_gives_up_or_leaves_is_replaced() {
    let mut lab = Lab::new();
    assert_eq!(lab.says(0, 1, Sizing::Asks), Some((None, true)));
    assert_eq!(lab.says(3, 2, Sizing::Asks), Some((None, false)));
    assert_eq!(lab.says(4, 2, Sizing::Asks), Some((None, true)));
    assert_eq!(lab.says(5, 3, Sizing::Asks), Some((None, false)));
    assert_eq!(lab.says(5, 2, Sizing::GaveUp), None);
    assert_eq!(lab.says(6, 3, Sizing::Asks), Some((None, true)));
    let (now, host) = (Timestamp::ZERO + Duration::from_secs(7), host(3));
    lab.0.handle(now, Event::HostDown { host, epoch: 1 });
    assert_eq!(lab.says(7, 1, Sizing::Asks), Some((None, true)));
}

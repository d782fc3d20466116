//! Who hears of what anybody may read.

use darter_api::{
    PieceSet,
    session::{Observation, PublicContent, Reference, Role},
};

use super::{super::*, lab::*};

const SECOND: Duration = Duration::from_secs(1);

struct Lab {
    cluster: Cluster,
    now: Timestamp,
}

impl Lab {
    fn new() -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let mut cluster = Cluster::new(Options::default(), key, Timestamp::ZERO, 0, 1);
        for name in 1..=3 {
            let hello = hello(name, 1, Role::Peer);
            cluster.handle(Timestamp::ZERO, Event::HostUp(hello));
        }
        let now = Timestamp::ZERO + 5 * SECOND;
        Self { cluster, now }
    }

    fn says(&mut self, name: u8, message: PeerMessage) -> Vec<(HostId, Vec<PublicContent>)> {
        let host = host(name);
        public(
            self.cluster
                .handle(self.now, Event::Message { host, message }),
        )
    }

    fn reads(&mut self, name: u8, number: u8) {
        let seen = Observation {
            upstream: origin().upstream,
            repository: origin().repository,
            reference: Reference::Digest(*task(number).digest()),
            digest: *task(number).digest(),
            media_type: String::new(),
            size: Some(7),
            public: true,
            age_ms: 0,
        };
        let told = self.says(name, PeerMessage::Observed(seen));
        assert!(told.is_empty(), "news are gathered");
    }

    fn wakes(&mut self) -> Vec<(HostId, Vec<PublicContent>)> {
        self.now = self.now + Duration::from_millis(100);
        public(self.cluster.tick(self.now))
    }
}

fn public(commands: Vec<Command>) -> Vec<(HostId, Vec<PublicContent>)> {
    let told = commands
        .into_iter()
        .filter_map(|command| match command.message {
            SchedulerMessage::Public {
                upstream,
                repository,
                contents,
            } => {
                assert_eq!(
                    (upstream, repository),
                    (origin().upstream, origin().repository)
                );
                Some((command.host, contents))
            }
            _ => None,
        });
    told.collect()
}

fn interest(numbers: &[u8]) -> PeerMessage {
    let tasks = numbers.iter().map(|number| (task(*number), lengths()));
    PeerMessage::Interest {
        tasks: tasks.collect(),
        origin: origin(),
    }
}

fn content(number: u8, age_ms: u64) -> PublicContent {
    PublicContent {
        digest: *task(number).digest(),
        size: Some(7),
        age_ms,
    }
}

#[test]
fn who_follows_a_repository_hears_in_one_message_what_was_read_there() {
    let mut lab = Lab::new();
    assert!(lab.says(1, interest(&[1, 2])).is_empty());
    lab.reads(3, 1);
    lab.reads(3, 2);
    let told = lab.wakes();
    assert_eq!(told.len(), 1, "host 2 does not follow, and 3 neither");
    assert_eq!(told[0].0, host(1));
    assert_eq!(told[0].1.len(), 2);
    assert!(lab.wakes().is_empty(), "once");
}

#[test]
fn the_first_news_are_told_at_once_and_more_a_moment_later() {
    let mut lab = Lab::new();
    lab.says(1, interest(&[1, 2, 3]));
    let due = |lab: &Lab| lab.cluster.followed.due().map(|due| due.since(lab.now));
    lab.reads(3, 1);
    assert_eq!(due(&lab), Some(Duration::ZERO));
    assert_eq!(public(lab.cluster.tick(lab.now)).len(), 1);
    assert_eq!(due(&lab), None);
    lab.reads(3, 2);
    lab.reads(3, 3);
    assert!(due(&lab) > Some(Duration::from_millis(10)));
    assert!(public(lab.cluster.tick(lab.now)).is_empty());
    assert_eq!(lab.wakes()[0].1.len(), 2);
}

#[test]
fn what_is_known_is_the_answer_to_an_interest_while_it_is_fresh() {
    let mut lab = Lab::new();
    lab.reads(3, 1);
    lab.now = lab.now + 100 * SECOND;
    let told = lab.says(1, interest(&[1, 2]));
    assert_eq!(told, [(host(1), vec![content(1, 100_000)])]);
    let told = lab.says(2, join(1, PieceSet::new()));
    assert_eq!(told, [(host(2), vec![content(1, 100_000)])]);
    lab.now = lab.now + 200 * SECOND;
    assert!(lab.says(1, interest(&[1, 2])).is_empty());
}

#[test]
fn what_is_no_blob_or_not_public_is_told_to_nobody() {
    let mut lab = Lab::new();
    lab.says(1, interest(&[1, 2]));
    for (public, media_type, reference) in [
        (false, "", Reference::Digest(*task(1).digest())),
        (
            true,
            "application/json",
            Reference::Digest(*task(1).digest()),
        ),
        (true, "", Reference::Tag("1".to_owned())),
    ] {
        let seen = Observation {
            upstream: origin().upstream,
            repository: origin().repository,
            reference,
            digest: *task(1).digest(),
            media_type: media_type.to_owned(),
            size: None,
            public,
            age_ms: 0,
        };
        lab.says(3, PeerMessage::Observed(seen));
    }
    assert!(lab.wakes().is_empty());
}

#[test]
fn who_has_gone_follows_nothing() {
    let mut lab = Lab::new();
    lab.says(1, interest(&[1]));
    let gone = Event::HostDown {
        host: host(1),
        epoch: 1,
    };
    lab.cluster.handle(lab.now, gone);
    lab.reads(3, 1);
    assert!(lab.wakes().is_empty());
    assert_eq!(lab.cluster.followed.len(), 0);
}

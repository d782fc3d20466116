//! Every message survives the wire, and nothing invalid passes it.

use std::sync::Arc;

use prost::Message as _;

use super::*;
use crate::{link::*, session::*, *};

fn task() -> TaskId {
    Digest::sha256(b"content").into()
}

fn lengths() -> Lengths {
    Lengths::of(100_000_000).expect("under the limit")
}

fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().expect("valid"),
        repository: "library/app".parse().expect("valid"),
        kind: OriginKind::Blob,
        private: true,
    }
}

fn pieces() -> PieceSet {
    [0, 1, 2, 7, 9, 10].into_iter().collect()
}

fn observation(reference: Reference) -> Observation {
    Observation {
        upstream: origin().upstream,
        repository: origin().repository,
        reference,
        digest: Digest::sha256(b"manifest"),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        size: Some(7),
        public: true,
        age_ms: 12,
    }
}

fn grant() -> Grant {
    let (scheduler, holder) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    Grant::sign(
        &scheduler,
        holder.id(),
        task(),
        lengths(),
        3..9,
        1_700_000_000_000,
    )
}

#[test]
fn texts_that_schedulers_keep_are_short() {
    type Change = fn(&mut Hello, String);
    let changes: [(&str, usize, Change); 4] = [
        ("name", 255, |hello, text| hello.name = text),
        ("host_group", 255, |hello, text| {
            hello.locality.host_group = text
        }),
        ("idc", 255, |hello, text| hello.locality.idc = text),
        ("location", 255, |hello, text| {
            hello.locality.location = text
        }),
    ];
    let Some(PeerMessage::Hello(hello)) = peer_messages().into_iter().next() else {
        panic!("a hello comes first");
    };
    for (field, most, change) in changes {
        for (length, fits) in [(most, true), (most + 1, false)] {
            let mut hello = hello.clone();
            change(&mut hello, "x".repeat(length));
            let read = Hello::try_from(v1::Hello::from(&hello));
            let expected = if fits {
                Ok(hello)
            } else {
                Err(WireError::Invalid(field))
            };
            assert_eq!(read, expected);
        }
    }
    let long = observation(Reference::Tag("x".repeat(129)));
    let read = Observation::try_from(v1::Observation::from(&long));
    assert_eq!(read, Err(WireError::Invalid("tag")));
    let mut long = observation(Reference::Tag("x".repeat(128)));
    long.media_type = "x".repeat(256);
    let read = Observation::try_from(v1::Observation::from(&long));
    assert_eq!(read, Err(WireError::Invalid("media_type")));
}

fn peer_messages() -> Vec<PeerMessage> {
    let host = NodeKey::from_seed([3; 32]).id();
    vec![
        PeerMessage::Hello(Hello {
            host,
            epoch: 9,
            name: "node-1".into(),
            address: "127.0.0.1:4000".parse().expect("valid"),
            role: Role::Seed,
            locality: Locality {
                host_group: "r1".into(),
                idc: "ams".into(),
                location: "eu|ams|1".into(),
            },
            upload_slots: 4,
            cores: Some(8),
            shares: false,
            version: "0.1.0".to_owned(),
        }),
        PeerMessage::Inventory {
            holdings: vec![Holding {
                task: task(),
                lengths: lengths(),
                held: pieces(),
                reading: PieceSet::from_range(4..6),
                wanted: true,
                origin: Some(origin()),
            }],
            last: true,
        },
        PeerMessage::Interest {
            tasks: vec![(task(), lengths())],
            origin: origin(),
        },
        PeerMessage::Join(Join {
            task: task(),
            lengths: lengths(),
            held: pieces(),
            origin: origin(),
            purpose: Purpose::Preheat,
        }),
        PeerMessage::Progress {
            task: task(),
            held: pieces(),
        },
        PeerMessage::Starved {
            task: task(),
            pieces: pieces(),
        },
        PeerMessage::Done { task: task() },
        PeerMessage::Leave { task: task() },
        PeerMessage::LeaseAccepted { task: task() },
        PeerMessage::LeaseFirstByte {
            task: task(),
            ranges: true,
        },
        PeerMessage::LeaseReturned {
            task: task(),
            pieces: pieces(),
            why: LeaseEnd::WrongSize,
        },
        PeerMessage::SelfLeased {
            task: task(),
            pieces: pieces(),
        },
        PeerMessage::Load {
            uploads: 1,
            downloads: 2,
            upload_bytes: 3,
        },
        PeerMessage::Report {
            neighbour: host,
            task: task(),
            complaint: Complaint::Rot,
        },
        PeerMessage::Parents {
            parents: vec![ParentReport {
                host,
                pieces: 3,
                bytes: 3 << 20,
                busy_us: 90_000,
                failures: 1,
                rot: 2,
                given_up: true,
            }],
        },
        PeerMessage::Evicted {
            tasks: vec![task()],
        },
        PeerMessage::SizeWanted { task: task() },
        PeerMessage::Join(Join {
            task: task().opened(),
            lengths: Lengths::open(),
            held: PieceSet::from_range(3..Lengths::open().pieces()),
            origin: origin(),
            purpose: Purpose::Pull,
        }),
        PeerMessage::ExcerptsWanted {
            task: task(),
            lengths: lengths(),
            origin: origin(),
        },
        PeerMessage::Moved {
            tasks: vec![task()],
        },
        PeerMessage::Resting,
        PeerMessage::Observed(observation(Reference::Tag("1.0".into()))),
        PeerMessage::Lookup {
            id: 5,
            upstream: origin().upstream,
            repository: origin().repository,
            reference: Reference::Digest(Digest::sha256(b"x")),
        },
    ]
}

fn scheduler_messages() -> Vec<SchedulerMessage> {
    let host = NodeKey::from_seed([3; 32]).id();
    vec![
        SchedulerMessage::Welcome {
            scheduler: host,
            trusted: vec![host],
        },
        SchedulerMessage::Heartbeat,
        SchedulerMessage::Neighbours {
            task: task(),
            add: vec![Neighbour {
                host,
                address: "[::1]:4000".parse().expect("valid"),
                role: Role::Peer,
            }],
            remove: vec![host],
        },
        SchedulerMessage::Grant(grant()),
        SchedulerMessage::Revoked {
            task: task(),
            pieces: pieces(),
        },
        SchedulerMessage::Fetch {
            task: task(),
            lengths: lengths(),
            origin: origin(),
            purpose: Purpose::Seed,
        },
        SchedulerMessage::Mismatch {
            task: task(),
            lengths: lengths(),
        },
        SchedulerMessage::Unavailable {
            task: task(),
            why: LeaseEnd::Refused,
            forbidden: true,
        },
        SchedulerMessage::Found {
            id: 5,
            observation: Some(observation(Reference::Digest(Digest::sha256(b"x")))),
        },
        SchedulerMessage::Size {
            task: task(),
            size: Some(7),
        },
        SchedulerMessage::ExcerptsFrom {
            task: task(),
            seed: None,
            source: true,
        },
        SchedulerMessage::ExcerptsFrom {
            task: task(),
            seed: Some(ExcerptSeed {
                neighbour: Neighbour {
                    host,
                    address: "[::1]:4000".parse().expect("valid"),
                    role: Role::Seed,
                },
                grant: grant(),
            }),
            source: false,
        },
        SchedulerMessage::Public {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            contents: vec![PublicContent {
                digest: Digest::sha256(b"x"),
                size: Some(9),
                age_ms: 1,
            }],
        },
    ]
}

#[test]
fn session_messages_survive_the_wire() {
    for message in peer_messages() {
        let bytes = v1::PeerMessage::from(&message).encode_to_vec();
        let back = v1::PeerMessage::decode(&bytes[..]).expect("decodes");
        assert_eq!(PeerMessage::try_from(back), Ok(message));
    }
    for message in scheduler_messages() {
        let bytes = v1::SchedulerMessage::from(&message).encode_to_vec();
        let back = v1::SchedulerMessage::decode(&bytes[..]).expect("decodes");
        assert_eq!(SchedulerMessage::try_from(back), Ok(message));
    }
}

#[test]
fn link_messages_survive_the_wire() {
    for message in [
        LinkMessage::Subscribe {
            task: task(),
            lengths: lengths(),
            waits: false,
        },
        LinkMessage::Unsubscribe { task: task() },
        LinkMessage::Have {
            task: task(),
            pieces: pieces(),
        },
        LinkMessage::Lost {
            task: task(),
            pieces: pieces(),
        },
        LinkMessage::Reading {
            task: task(),
            pieces: PieceSet::new(),
        },
    ] {
        let bytes = v1::LinkFrame::from(&message).encode_to_vec();
        let back = v1::LinkFrame::decode(&bytes[..]).expect("decodes");
        assert_eq!(LinkMessage::try_from(back), Ok(message));
    }
}

#[test]
fn an_excerpt_survives_the_wire() {
    let excerpt = Excerpt {
        origin: origin(),
        grant: grant(),
    };
    let wire = v1::Excerpt::from(&excerpt);
    let back = v1::Excerpt::decode(&wire.encode_to_vec()[..]).expect("decodes");
    assert_eq!(Excerpt::try_from(back), Ok(excerpt));
    let without = v1::Excerpt {
        grant: None,
        ..wire
    };
    assert_eq!(Excerpt::try_from(without), Err(WireError::Missing("grant")));
}

#[test]
fn a_proof_survives_the_wire() {
    let holder = NodeKey::from_seed([2; 32]);
    let statement = Statement::sign(
        &holder,
        &task(),
        &lengths(),
        PieceIndex(4),
        PieceDigest([7; 32]),
    );
    let proof = Proof {
        grant: Arc::new(grant()),
        statement,
    };
    let bytes = v1::Proof::from(&proof).encode_to_vec();
    let back = Proof::try_from(v1::Proof::decode(&bytes[..]).expect("decodes")).expect("valid");
    assert_eq!(back, proof);
    assert!(
        back.verify(&task(), &lengths(), PieceIndex(4), |_| true)
            .is_ok()
    );
}

#[test]
fn hostile_fields_are_named() {
    let sets = [vec![1], vec![0, 0], vec![u32::MAX, 2], vec![0, 1 << 21]];
    for gaps_and_lengths in sets {
        let set = v1::PieceSet { gaps_and_lengths };
        assert_eq!(PieceSet::try_from(set), Err(WireError::Invalid("pieces")));
    }
    let mut wide: v1::Grant = (&grant()).into();
    wide.end_piece = 100_000;
    assert_eq!(Grant::try_from(wide), Err(WireError::Invalid("pieces")));
    let mut odd: v1::Grant = (&grant()).into();
    odd.lengths = Some(v1::Lengths {
        size: 10,
        piece_length: 1,
    });
    assert_eq!(Grant::try_from(odd), Err(WireError::Invalid("lengths")));
    let bare = v1::PeerMessage { kind: None };
    assert_eq!(PeerMessage::try_from(bare), Err(WireError::Missing("kind")));
}

#[test]
fn a_message_tells_of_a_bounded_number_of_contents() {
    let told = |count: usize| {
        let (tasks, both) = (vec![task(); count], vec![(task(), lengths()); count]);
        [
            PeerMessage::Evicted {
                tasks: tasks.clone(),
            },
            PeerMessage::Moved { tasks },
            PeerMessage::Interest {
                tasks: both,
                origin: origin(),
            },
        ]
    };
    for message in told(1024) {
        let read = PeerMessage::try_from(v1::PeerMessage::from(&message));
        assert_eq!(read, Ok(message));
    }
    for message in told(1025) {
        let read = PeerMessage::try_from(v1::PeerMessage::from(&message));
        assert_eq!(read, Err(WireError::Invalid("tasks")));
    }
}

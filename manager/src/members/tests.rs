//! Time is an argument: nothing here waits.

use darter_api::{NodeKey, Place as Where};

use super::*;
use crate::database::tests::{Place, on_both};

const GRACE: Duration = Duration::from_secs(6);
const START: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

fn at(seconds: i64) -> OffsetDateTime {
    START + time::Duration::seconds(seconds)
}

fn scheduler(seed: u8) -> Member {
    Member {
        kind: MemberKind::Scheduler,
        host: NodeKey::from_seed([seed; 32]).id(),
        address: format!("http://10.0.0.{seed}:8002"),
        version: "0.1.0".to_owned(),
        place: Where {
            name: format!("scheduler-{seed}"),
            ..Where::default()
        },
    }
}

fn here() -> ClusterName {
    ClusterName::default()
}

async fn open(place: &Place) -> Members {
    Members::open(place.open().await, GRACE).await.unwrap()
}

/// The schedulers: name, and whether they are active.
async fn listed(members: &Members, now: OffsetDateTime) -> Vec<(String, bool)> {
    let list = members.list(MemberKind::Scheduler, now).await.unwrap();
    list.into_iter()
        .map(|known| (known.name, known.active))
        .collect()
}

#[tokio::test]
async fn a_silent_member_expires_and_comes_back() {
    on_both("a_silent_member_expires_and_comes_back", async |place| {
        let members = open(place).await;
        let stream = members.new_stream(at(0));
        members
            .beat(&scheduler(1), &here(), stream, at(0))
            .await
            .unwrap();
        let name = || "scheduler-1".to_owned();
        assert_eq!(listed(&members, at(5)).await, [(name(), true)]);
        // Before any sweep, too.
        assert_eq!(listed(&members, at(6)).await, [(name(), false)]);
        members.sweep(at(6)).await.unwrap();
        assert_eq!(listed(&members, at(5)).await, [(name(), false)]);

        let moved = Member {
            address: "http://10.0.0.99:8002".to_owned(),
            ..scheduler(1)
        };
        members.beat(&moved, &here(), stream, at(7)).await.unwrap();
        let list = members.list(MemberKind::Scheduler, at(7)).await.unwrap();
        assert_eq!(list.len(), 1);
        assert!(list[0].active);
        assert_eq!(
            (list[0].address.as_str(), list[0].seen_at),
            ("http://10.0.0.99:8002", at(7))
        );
    })
    .await;
}

#[tokio::test]
async fn the_end_of_an_old_stream_removes_nobody_who_came_back() {
    on_both(
        "the_end_of_an_old_stream_removes_nobody_who_came_back",
        async |place| {
            let members = open(place).await;
            let (old, new) = (members.new_stream(at(0)), members.new_stream(at(0)));
            let member = scheduler(1);
            members.beat(&member, &here(), old, at(0)).await.unwrap();
            members.beat(&member, &here(), new, at(1)).await.unwrap();
            let late = members.beat(&member, &here(), old, at(1)).await;
            assert!(matches!(late, Err(BeatError::Superseded)), "{late:?}");
            members.end(member.kind, member.host, old).await.unwrap();
            assert!(listed(&members, at(1)).await[0].1);
            members.end(member.kind, member.host, new).await.unwrap();
            assert!(!listed(&members, at(1)).await[0].1);
        },
    )
    .await;
}

#[tokio::test]
async fn a_restart_keeps_members_for_the_rest_of_their_grace() {
    on_both(
        "a_restart_keeps_members_for_the_rest_of_their_grace",
        async |place| {
            let (first, second) = (scheduler(2), scheduler(1));
            let old = {
                let members = open(place).await;
                let old = members.new_stream(at(0));
                members.beat(&first, &here(), old, at(0)).await.unwrap();
                let other = members.new_stream(at(0));
                members.beat(&second, &here(), other, at(3)).await.unwrap();
                members.end(second.kind, second.host, other).await.unwrap();
                old
            };
            let members = open(place).await;
            let names = |list: Vec<(String, bool)>| list.into_iter().map(|(name, _)| name);
            let order: Vec<String> = names(listed(&members, at(4)).await).collect();
            assert_eq!(order, ["scheduler-2", "scheduler-1"], "in order of arrival");
            let active = |list: Vec<(String, bool)>| -> Vec<bool> {
                list.into_iter().map(|(_, active)| active).collect()
            };
            assert_eq!(active(listed(&members, at(4)).await), [true, false]);
            assert_eq!(active(listed(&members, at(6)).await), [false, false]);
            // A stream of the new process is newer than any of the old one.
            let stream = members.new_stream(at(0));
            members.beat(&first, &here(), stream, at(7)).await.unwrap();
            members.end(first.kind, first.host, old).await.unwrap();
            assert_eq!(active(listed(&members, at(7)).await), [true, false]);
        },
    )
    .await;
}

#[tokio::test]
async fn kinds_are_apart_and_the_long_gone_are_forgotten() {
    on_both(
        "kinds_are_apart_and_the_long_gone_are_forgotten",
        async |place| {
            let members = open(place).await;
            let seed = Member {
                kind: MemberKind::SeedPeer,
                address: "10.0.0.1:4000".to_owned(),
                ..scheduler(1)
            };
            let stream = members.new_stream(at(0));
            members
                .beat(&scheduler(1), &here(), stream, at(0))
                .await
                .unwrap();
            members.beat(&seed, &here(), stream, at(100)).await.unwrap();
            let seeds = members.list(MemberKind::SeedPeer, at(100)).await.unwrap();
            assert_eq!(seeds.len(), 1);
            members.sweep(at(100)).await.unwrap();
            let gauge = |kind, state| {
                let group = Group { kind, state };
                members
                    .database
                    .metrics()
                    .members
                    .get_or_create(&group)
                    .get()
            };
            assert_eq!(gauge("scheduler", "inactive"), 1);
            assert_eq!(gauge("seed-peer", "active"), 1);

            let week = i64::try_from(FORGOTTEN_AFTER.as_secs()).unwrap();
            members.sweep(at(week + 50)).await.unwrap();
            assert_eq!(listed(&members, at(week + 50)).await, []);
            let seeds = members.list(MemberKind::SeedPeer, at(week + 50)).await;
            assert_eq!(seeds.unwrap().len(), 1);
        },
    )
    .await;
}

#[tokio::test]
async fn the_newest_stream_speaks_at_whichever_manager() {
    on_both(
        "the_newest_stream_speaks_at_whichever_manager",
        async |place| {
            let (one, other) = (open(place).await, open(place).await);
            let member = scheduler(1);
            let old = one.new_stream(at(0));
            one.beat(&member, &here(), old, at(0)).await.unwrap();
            let new = other.new_stream(at(1));
            other.beat(&member, &here(), new, at(1)).await.unwrap();
            let late = one.beat(&member, &here(), old, at(2)).await;
            assert!(matches!(late, Err(BeatError::Superseded)), "{late:?}");
            one.end(member.kind, member.host, old).await.unwrap();
            assert!(listed(&one, at(2)).await[0].1);
        },
    )
    .await;
}

#[tokio::test]
async fn a_member_is_of_the_cluster_of_its_last_beat() {
    on_both(
        "a_member_is_of_the_cluster_of_its_last_beat",
        async |place| {
            let members = open(place).await;
            let (member, east) = (scheduler(1), "east".parse().unwrap());
            let stream = members.new_stream(at(0));
            let of = async |cluster: &ClusterName, now| {
                let active = members.active(MemberKind::Scheduler, cluster, now).await;
                active.unwrap().len()
            };
            members.beat(&member, &here(), stream, at(0)).await.unwrap();
            assert_eq!((of(&here(), at(0)).await, of(&east, at(0)).await), (1, 0));
            members.beat(&member, &east, stream, at(1)).await.unwrap();
            assert_eq!((of(&here(), at(1)).await, of(&east, at(1)).await), (0, 1));
            assert_eq!(of(&east, at(7)).await, 0, "it has expired");
        },
    )
    .await;
}

//! What only this host has, and who is offered it.

use std::collections::BTreeMap;

use darter_api::{Digest, HostId, PieceIndex, PieceSet, TaskId, Timestamp, link::LinkMessage};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{
    super::{bits::Bits, offers::Offers, open::Open, state::Subscriber, *},
    rules::{Lab, PIECES, have, host, lengths, neighbours, start, task},
};
use crate::limits::Class;

/// Pieces that the host announced to `name`.
fn told(commands: &[Command], name: u8) -> PieceSet {
    let mut all = PieceSet::new();
    for command in commands {
        if let Command::Link {
            host: to,
            message: LinkMessage::Have { pieces, .. },
        } = command
            && *to == host(name)
        {
            all.union_with(pieces);
        }
    }
    all
}

#[test]
fn what_only_a_neighbour_had_that_is_gone_is_offered_again() {
    for ends_by_link in [true, false] {
        let mut lab = Lab::with_session();
        lab.handle(start(PieceSet::full(PIECES)));
        lab.handle(neighbours(&[1, 2, 3], &[]));
        let mut offered = PieceSet::new();
        let mut others = PieceSet::new();
        for name in [1, 2, 3] {
            lab.handle(Event::LinkUp(host(name)));
            let said = subscribe(&mut lab, name);
            offered.union_with(&told(&said, 1));
            others.union_with(&told(&said, 2));
            others.union_with(&told(&said, 3));
        }
        // The first takes what it was offered, and leaves with it.
        assert!(!offered.is_empty());
        let said = lab.handle(have(1, offered.clone()));
        others.union_with(&told(&said, 2));
        others.union_with(&told(&said, 3));
        let mut lost = offered;
        lost.subtract(&others);
        assert!(!lost.is_empty(), "nobody else was told of them");
        let gone = if ends_by_link {
            Event::LinkDown(host(1))
        } else {
            let (task, pieces, host) = (task(), lost.clone(), host(1));
            let message = LinkMessage::Lost { task, pieces };
            Event::Link { host, message }
        };
        let mut said = lab.handle(gone);
        // The others take nothing: they wait for just these. (After 1.5 s they would have
        // been offered all else.)
        for _ in 0..12 {
            said.extend(lab.pass(100));
        }
        let mut again = told(&said, 2);
        again.union_with(&told(&said, 3));
        assert!(!lost.intersection(&again).is_empty(), "{lost:?}, {again:?}");
    }
}

pub(super) fn subscribe(lab: &mut Lab, name: u8) -> Vec<Command> {
    subscribes(lab, name, true)
}

pub(super) fn subscribes(lab: &mut Lab, name: u8, waits: bool) -> Vec<Command> {
    let (task, lengths, host) = (task(), lengths(), host(name));
    let message = LinkMessage::Subscribe {
        task,
        lengths,
        waits,
    };
    lab.handle(Event::Link { host, message })
}

/// A host that holds all, and three that subscribed to it.
fn giver() -> (Lab, Vec<Command>) {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::full(PIECES)));
    lab.handle(neighbours(&[1, 2, 3], &[]));
    let mut said = Vec::new();
    for name in [1, 2, 3] {
        lab.handle(Event::LinkUp(host(name)));
        said.extend(subscribe(&mut lab, name));
    }
    (lab, said)
}

#[test]
fn who_subscribes_once_more_is_not_offered_what_it_has() {
    let (mut lab, _) = giver();
    let half = PieceSet::from_range(0..PIECES / 2);
    for name in [1, 2, 3] {
        lab.handle(have(name, half.clone()));
    }
    let mut said = Vec::new();
    for name in [1, 2, 3] {
        said.extend(subscribe(&mut lab, name));
    }
    said.extend(lab.pass(1000));
    for name in [1, 2, 3] {
        let offered = told(&said, name);
        assert!(!offered.is_empty(), "it is offered the other half");
        assert!(offered.intersection(&half).is_empty(), "{offered:?}");
    }
}

#[test]
fn who_subscribes_once_more_hears_again_of_its_open_offers() {
    let (mut lab, said) = giver();
    let offered = told(&said, 2);
    let again = told(&subscribe(&mut lab, 2), 2);
    assert!(!offered.is_empty());
    assert!(
        offered.intersection(&again) == offered,
        "{offered:?}, {again:?}"
    );
}

#[test]
fn pieces_that_nobody_takes_do_not_hold_up_the_others() {
    let (now, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let mut others = BTreeMap::new();
    for name in [1, 2, 3] {
        let mut other = Subscriber::default();
        other.tell(&PieceSet::from_range(0..32));
        others.insert(host(name), other);
    }
    let mut offers = Offers::default();
    offers.add(&PieceSet::from_range(0..64), &others);
    offers.make(now, &mut others, &mut Open::default(), &mut rng);
    for name in [1, 2, 3] {
        let open = offers.open_to(&host(name));
        assert!((5..=6).contains(&open.len()), "to {name}: {open:?}");
        assert!(open.iter().all(|piece| piece >= 32), "to {name}: {open:?}");
    }
}

#[test]
fn who_gives_out_pieces_itself_is_offered_none_that_another_could_spread() {
    let (now, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let subscriber = |name| {
        let gives = name == 1;
        (
            host(name),
            Subscriber {
                gives,
                ..Subscriber::default()
            },
        )
    };
    let mut others: BTreeMap<_, _> = [1, 2, 3].map(subscriber).into();
    let (mut offers, mut open) = (Offers::default(), Open::default());
    offers.add(&PieceSet::from_range(0..64), &others);
    offers.make(now, &mut others, &mut open, &mut rng);
    assert!(offers.open_to(&host(1)).is_empty());
    assert!(!offers.open_to(&host(2)).is_empty() && !offers.open_to(&host(3)).is_empty());
    others.remove(&host(2));
    if let Some(third) = others.get_mut(&host(3)) {
        third.known = Bits::from(&PieceSet::from_range(0..64));
    }
    offers.close_all(&mut open);
    offers.count_unknown(&BTreeMap::new());
    offers.make(now, &mut others, &mut open, &mut rng);
    assert!(
        !offers.open_to(&host(1)).is_empty(),
        "nobody else lacks any"
    );
}

#[test]
fn who_promises_pieces_gives_them_out_whenever_it_subscribes() {
    for promises_first in [true, false] {
        let mut lab = Lab::with_session();
        lab.handle(start(PieceSet::new()));
        lab.handle(neighbours(&[1, 2], &[]));
        lab.handle(Event::LinkUp(host(1)));
        let promise = || {
            let (task, pieces) = (task(), PieceSet::from_range(0..2));
            let message = LinkMessage::Reading { task, pieces };
            let host = host(1);
            Event::Link { host, message }
        };
        if promises_first {
            lab.handle(promise());
        }
        subscribe(&mut lab, 1);
        subscribe(&mut lab, 2);
        if !promises_first {
            lab.handle(promise());
        }
        let subscribers = &lab.node.state.tasks[&task()].announcer.subscribers;
        assert!(subscribers[&host(1)].gives, "first: {promises_first}");
        assert!(!subscribers[&host(2)].gives);
    }
}

#[test]
fn what_others_have_is_not_offered_while_another_task_gives_out_enough() {
    let (now, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let mut others: BTreeMap<HostId, Subscriber> = BTreeMap::new();
    for name in [1, 2] {
        others.entry(host(name)).or_default();
    }
    if let Some(first) = others.get_mut(&host(1)) {
        first.known = Bits::from(&PieceSet::from_range(0..64));
    }
    let mut offers = Offers::default();
    offers.add(&PieceSet::from_range(0..64), &others);
    let mut open = Open::default();
    for own in 0..4 {
        open.add(Class::Foreground, &host(3), own);
    }
    offers.make(now, &mut others, &mut open, &mut rng);
    assert!(!offers.is_open(), "the uplink has enough to do");
    open.remove(Class::Foreground, &host(3), 4);
    offers.make(now, &mut others, &mut open, &mut rng);
    assert_eq!(offers.open_to(&host(2)).len(), 1);
    assert_eq!(open.all(), 4);
    offers.close_all(&mut open);
    assert_eq!(open.all(), 3);
}

#[test]
fn what_does_not_spread_is_given_to_another() {
    let (begin, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let at = |millis| begin + Duration::from_millis(millis);
    let hosts = || (1..=3).map(host);
    let mut others: BTreeMap<HostId, Subscriber> =
        hosts().map(|host| (host, Subscriber::default())).collect();
    let (mut offers, mut open) = (Offers::default(), Open::default());
    let piece = PieceSet::from_range(0..1);
    offers.add(&piece, &others);
    let mut takers = Vec::new();
    for millis in [0, 1100] {
        offers.expire(at(millis), Duration::from_secs(9), &mut others, &mut open);
        offers.make(at(millis), &mut others, &mut open, &mut rng);
        let offered = |host: &HostId| !offers.open_to(host).is_empty();
        let taker = hosts().find(offered).unwrap();
        let subscriber = others.get_mut(&taker).unwrap();
        subscriber.known.union_with(&piece);
        offers.heard(at(millis + 50), &taker, &piece, Some(subscriber), &mut open);
        takers.push(taker);
        offers.expire(
            at(millis + 900),
            Duration::from_secs(9),
            &mut others,
            &mut open,
        );
        assert!(!offers.waits(3), "it has a second to spread");
    }
    assert_ne!(takers[0], takers[1]);
    let third = hosts().find(|host| !takers.contains(host)).unwrap();
    let subscriber = others.get_mut(&third).unwrap();
    subscriber.known.union_with(&piece);
    offers.heard(at(1300), &third, &piece, Some(subscriber), &mut open);
    offers.expire(at(9000), Duration::from_secs(9), &mut others, &mut open);
    assert!(!offers.waits(3) && !offers.is_open(), "it has spread");
}

/// A piece far ahead that one of so many subscribers has taken, some time ago.
struct Unspread {
    offers: Offers,
    others: BTreeMap<HostId, Subscriber>,
    open: Open,
    rng: SmallRng,
    taker: HostId,
}

const FAR: u32 = 100;

impl Unspread {
    fn among(hosts: u8) -> Self {
        let mut rng = SmallRng::seed_from_u64(1);
        let hosts = (1..=hosts).map(|name| (host(name), Subscriber::default()));
        let mut others: BTreeMap<HostId, Subscriber> = hosts.collect();
        let (mut offers, mut open) = (Offers::default(), Open::default());
        let far = PieceSet::from_range(FAR..FAR + 1);
        offers.add(&far, &others);
        offers.make(millis(0), &mut others, &mut open, &mut rng);
        let offered = |host: &&HostId| !offers.open_to(host).is_empty();
        let taker = *others.keys().find(offered).unwrap();
        let subscriber = others.get_mut(&taker).unwrap();
        subscriber.known.union_with(&far);
        offers.heard(millis(50), &taker, &far, Some(subscriber), &mut open);
        Self {
            offers,
            others,
            open,
            rng,
            taker,
        }
    }

    /// One of those that lack it.
    fn other(&mut self) -> &mut Subscriber {
        let mut others = self.others.iter_mut();
        let other = others.find(|(host, _)| **host != self.taker);
        other.unwrap().1
    }

    fn look(&mut self, at: u64) {
        let (others, open) = (&mut self.others, &mut self.open);
        let never = Duration::from_secs(9);
        self.offers.expire(millis(at), never, others, open);
    }

    fn offered(&mut self, at: u64) -> PieceSet {
        self.look(at);
        let (others, open) = (&mut self.others, &mut self.open);
        self.offers.make(millis(at), others, open, &mut self.rng);
        let mut all = PieceSet::new();
        for host in self.others.keys() {
            all.union_with(&self.offers.open_to(host));
        }
        all
    }
}

fn millis(millis: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(millis)
}

#[test]
fn who_asks_in_order_wants_nothing_far_ahead() {
    for (hosts, again) in [(3, false), (20, true)] {
        let mut it = Unspread::among(hosts);
        it.look(2000);
        assert_eq!(it.offers.waits(20), again, "of many, some want rare ones");
        let nearly = PieceSet::from_range(0..FAR - 8);
        it.other().known.union_with(&nearly);
        it.look(2100);
        assert!(it.offers.waits(20), "one has come so far");
    }
}

#[test]
fn what_is_far_ahead_goes_again_after_what_nobody_has() {
    let mut it = Unspread::among(3);
    it.look(2000);
    let new = PieceSet::from_range(200..205);
    it.offers.add(&new, &it.others);
    let mut all = new.clone();
    all.union_with(&PieceSet::from_range(FAR..FAR + 1));
    assert_eq!(it.offered(2000), all, "there is room for it as well");

    let mut it = Unspread::among(3);
    it.look(2000);
    let many = PieceSet::from_range(200..206);
    it.offers.add(&many, &it.others);
    assert_eq!(it.offered(2000), many, "there is none while six are open");
}

#[test]
fn tasks_share_what_hosts_bear_of_offers() {
    let (now, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let hosts = || (1..=10).map(|name| (host(name), Subscriber::default()));
    let (mut ones, mut twos): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (hosts().collect(), hosts().collect());
    let (mut one, mut two, mut open) = (Offers::default(), Offers::default(), Open::default());
    one.add(&PieceSet::from_range(0..64), &ones);
    one.make(now, &mut ones, &mut open, &mut rng);
    assert_eq!(open.all(), 16, "few for ten hosts");
    two.add(&PieceSet::from_range(0..64), &twos);
    two.make(now, &mut twos, &mut open, &mut rng);
    assert_eq!(open.all(), 20, "two for each host of both");
    let taken = one.open_to(&host(1));
    one.heard(now, &host(1), &taken, ones.get_mut(&host(1)), &mut open);
    one.make(now, &mut ones, &mut open, &mut rng);
    assert_eq!(
        open.to(&host(1)),
        2 - taken.len() as usize,
        "it has more than its share"
    );
    two.make(now, &mut twos, &mut open, &mut rng);
    assert_eq!(open.to(&host(1)), 2, "the other has not");
}

#[test]
fn what_nobody_waits_for_takes_no_offers_from_what_somebody_does() {
    let (now, mut rng) = (Timestamp::ZERO, SmallRng::seed_from_u64(1));
    let hosts = || (1..=10).map(|name| (host(name), Subscriber::default()));
    let (mut ones, mut twos): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (hosts().collect(), hosts().collect());
    let (mut ahead, mut pull, mut open) = (Offers::default(), Offers::default(), Open::default());
    let opened =
        |offers: &Offers| -> u32 { (1..=10).map(|name| offers.open_to(&host(name)).len()).sum() };
    ahead.set_class(Class::Background, &mut open);
    ahead.add(&PieceSet::from_range(0..64), &ones);
    ahead.make(now, &mut ones, &mut open, &mut rng);
    assert_eq!(opened(&ahead), 16, "all of it while nothing else is there");
    pull.add(&PieceSet::from_range(0..64), &twos);
    pull.make(now, &mut twos, &mut open, &mut rng);
    assert_eq!(opened(&pull), 16, "as many as alone");
    for name in 1..=10 {
        let taken = ahead.open_to(&host(name));
        let subscriber = ones.get_mut(&host(name)).unwrap();
        subscriber.known.union_with(&taken);
        ahead.heard(now, &host(name), &taken, Some(subscriber), &mut open);
    }
    ahead.make(now, &mut ones, &mut open, &mut rng);
    assert_eq!(opened(&ahead), 1, "it gives way");
    ahead.set_class(Class::Foreground, &mut open);
    ahead.make(now, &mut ones, &mut open, &mut rng);
    assert!(opened(&ahead) > 1, "somebody waits for it now");
    ahead.close_all(&mut open);
    pull.close_all(&mut open);
    assert_eq!(open.all(), 0);
}

#[test]
fn what_is_given_out_counts_as_its_readers_or_neighbours_wait_for_it() {
    let mut lab = Lab::with_session();
    let Event::Start {
        task: id,
        lengths,
        origin,
        held,
        ..
    } = start(PieceSet::from_range(0..1))
    else {
        unreachable!()
    };
    let purpose = Purpose::Preheat;
    lab.handle(Event::Start {
        task: id,
        lengths,
        origin,
        held,
        purpose,
    });
    lab.handle(neighbours(&[1, 2], &[]));
    assert_eq!(lab.node.class_of(&id), Class::Background);
    lab.handle(Event::LinkUp(host(1)));
    subscribes(&mut lab, 1, false);
    lab.node.state.tasks.get_mut(&id).unwrap().download = None;
    assert_eq!(
        lab.node.class_of(&id),
        Class::Background,
        "it has all, and nobody waits for it"
    );
    lab.handle(Event::LinkUp(host(2)));
    subscribes(&mut lab, 2, true);
    assert_eq!(lab.node.class_of(&id), Class::Foreground);
}

/// What each of these was told of, task by task.
fn all_told(commands: &[Command], told: &mut BTreeMap<TaskId, PieceSet>) {
    for command in commands {
        if let Command::Link {
            message: LinkMessage::Have { task, pieces },
            ..
        } = command
        {
            told.entry(*task).or_default().union_with(pieces);
        }
    }
}

/// A seed of several layers whose subscribers were full with what the first ones offered, when the last
/// one was read and done with: nobody would hear of it.
#[test]
fn what_waits_for_its_first_offer_is_not_forgotten() {
    let mut lab = Lab::with_session();
    let tasks = [1_u8, 2, 3].map(|name| TaskId::of_content(Digest::sha256(&[name])));
    let mut open: BTreeMap<TaskId, PieceSet> = BTreeMap::new();
    for id in tasks {
        for name in [1, 2, 3] {
            lab.handle(Event::LinkUp(host(name)));
            let (task, lengths, host) = (id, lengths(), host(name));
            let waits = true;
            let message = LinkMessage::Subscribe {
                task,
                lengths,
                waits,
            };
            all_told(&lab.handle(Event::Link { host, message }), &mut open);
        }
        let Event::Start {
            lengths,
            origin,
            held,
            purpose,
            ..
        } = start(PieceSet::new())
        else {
            unreachable!("it makes one")
        };
        let task = id;
        lab.handle(Event::Start {
            task,
            lengths,
            origin,
            held,
            purpose,
        });
        for piece in 0..PIECES {
            let piece = PieceIndex(piece);
            all_told(&lab.handle(Event::SourcePiece { task, piece }), &mut open);
        }
        all_told(&lab.handle(Event::Committed { task }), &mut open);
    }
    assert!(
        tasks.iter().any(|id| !open.contains_key(id)),
        "the hosts are full before the last one: {open:?}"
    );
    // Each takes what it was offered, at once.
    let mut all = open.clone();
    for _ in 0..PIECES {
        let mut new = BTreeMap::new();
        for (task, pieces) in std::mem::take(&mut open) {
            for name in [1, 2, 3] {
                let (pieces, host) = (pieces.clone(), host(name));
                let message = LinkMessage::Have { task, pieces };
                all_told(&lab.handle(Event::Link { host, message }), &mut new);
            }
        }
        all_told(&lab.pass(100), &mut new);
        for (task, pieces) in &new {
            all.entry(*task).or_default().union_with(pieces);
        }
        open = new;
    }
    for id in tasks {
        let given = all.get(&id).map_or(0, PieceSet::len);
        assert_eq!(given, PIECES, "of {id:?}");
    }
}

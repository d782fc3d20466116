//! How soon slow hosts are found, and taken back.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    super::*,
    field::{Field, id},
};

const HOSTS: u16 = 40;
const SLOW: u16 = 7;

/// A swarm in which every child uses eight parents a second; samples spread by `noise`
/// around 20 ms a MiB.
struct Swarm {
    field: Field,
    rng: SmallRng,
    noise: f64,
}

impl Swarm {
    fn new(noise: f64) -> Self {
        let mut field = Field::new(Options::default());
        for name in 0..HOSTS {
            field.in_zone(name, "");
            field.joins(name);
        }
        Self {
            field,
            rng: SmallRng::seed_from_u64(5),
            noise,
        }
    }

    /// One second, in which each host is `factor` times as slow as usual.
    fn second(&mut self, factor: impl Fn(u16) -> f64) {
        self.field.pass(1000);
        for child in 0..HOSTS {
            let mut parents = Vec::new();
            for _ in 0..8 {
                let parent = self.rng.random_range(0..HOSTS);
                let chance = self.rng.random_range(-1.0..1.0) * self.noise;
                let micros = 20_000.0 * factor(parent) * f64::exp(chance);
                parents.push((parent, Some(micros as u64)));
            }
            parents.sort_unstable();
            parents.dedup_by_key(|(parent, _)| *parent);
            self.field.reports(child, &parents);
        }
    }

    fn is_bad(&self, name: u16) -> bool {
        self.field.cluster.is_bad(&id(name))
    }

    fn bad(&self) -> Vec<u16> {
        (0..HOSTS).filter(|name| self.is_bad(*name)).collect()
    }

    /// Seconds until the slow host's standing is this.
    fn seconds_until(&mut self, bad: bool, factor: impl Fn(u16) -> f64) -> u32 {
        for second in 1..=120 {
            self.second(&factor);
            if self.is_bad(SLOW) == bad {
                return second;
            }
        }
        panic!("not within two minutes");
    }
}

fn slow_by(factor: f64) -> impl Fn(u16) -> f64 {
    move |name| if name == SLOW { factor } else { 1.0 }
}

#[test]
fn a_host_that_is_always_slow_is_found() {
    for noise in [0.0, 0.3, 0.7] {
        let mut swarm = Swarm::new(noise);
        let seconds = swarm.seconds_until(true, slow_by(10.0));
        println!("always ten times slower, noise {noise}: found after {seconds} s");
        assert!(seconds <= 5, "{seconds} s at noise {noise}");
        for _ in 0..60 {
            swarm.second(slow_by(10.0));
        }
        assert_eq!(swarm.bad(), [SLOW], "and nobody else");
    }
}

#[test]
fn a_host_that_turns_slow_is_found_and_taken_back() {
    for (noise, factor) in [(0.0, 10.0), (0.3, 10.0), (0.3, 5.0), (0.7, 10.0)] {
        let mut swarm = Swarm::new(noise);
        for _ in 0..30 {
            swarm.second(|_| 1.0);
        }
        assert!(swarm.bad().is_empty(), "nobody is slow at noise {noise}");
        let found = swarm.seconds_until(true, slow_by(factor));
        let back = swarm.seconds_until(false, |_| 1.0);
        println!(
            "turns {factor} times slower, noise {noise}: found after {found} s, back after {back} s"
        );
        assert!(found <= 5 && back <= 5);
    }
}

#[test]
fn several_slow_hosts_do_not_hide_each_other() {
    let mut swarm = Swarm::new(0.3);
    let slow = |name: u16| if name % 10 == 7 { 10.0 } else { 1.0 };
    for _ in 0..20 {
        swarm.second(slow);
    }
    assert_eq!(swarm.bad(), [7, 17, 27, 37]);
}

#[test]
fn a_swarm_that_slows_down_as_a_whole_accuses_nobody() {
    let mut swarm = Swarm::new(0.3);
    for _ in 0..30 {
        swarm.second(|_| 1.0);
    }
    for _ in 0..60 {
        swarm.second(|_| 10.0);
    }
    assert!(swarm.bad().is_empty(), "{:?}", swarm.bad());
}

#[test]
fn two_children_are_not_enough() {
    let mut swarm = Swarm::new(0.0);
    for _ in 0..30 {
        swarm.second(|_| 1.0);
    }
    for child in [1, 2, 1, 2] {
        swarm.field.reports(child, &[(SLOW, None)]);
    }
    assert!(!swarm.is_bad(SLOW));
    swarm.field.reports(3, &[(SLOW, None)]);
    assert!(swarm.is_bad(SLOW), "failures count as slowness");
}

#[test]
fn a_bad_host_gets_one_child_every_thirty_seconds() {
    let mut swarm = Swarm::new(0.0);
    swarm.seconds_until(true, slow_by(10.0));
    let mut field = swarm.field;
    field.links.clear();
    let mut last = field.now;
    let mut children = 0;
    for name in HOSTS..HOSTS + 120 {
        field.in_zone(name, "");
        field.joins(name);
        let met = field.links.contains(&(id(SLOW), id(name)));
        if met {
            assert!(field.now.since(last) >= Duration::from_secs(29));
            last = field.now;
            children += 1;
        }
        field.pass(1000);
    }
    assert!((1..=4).contains(&children), "{children} in two minutes");
}

#[test]
fn a_host_that_nobody_uses_any_more_is_taken_back_by_its_probe() {
    let mut swarm = Swarm::new(0.0);
    swarm.seconds_until(true, slow_by(10.0));
    let found = swarm.field.now;
    let mut probe = None;
    for name in HOSTS.. {
        let field = &mut swarm.field;
        field.pass(1000);
        field.in_zone(name, "");
        field.joins(name);
        if field.links.contains(&(id(SLOW), id(name))) {
            probe = probe.or(Some(name));
        }
        let Some(probe) = probe else { continue };
        let others = (10..14).map(|parent| (parent, Some(20_000)));
        let parents: Vec<_> = others.chain([(SLOW, Some(20_000))]).collect();
        field.reports(probe, &parents);
        if !swarm.is_bad(SLOW) {
            break;
        }
    }
    let seconds = swarm.field.now.since(found).as_secs();
    println!("nobody uses it any more: back after {seconds} s");
    assert!(seconds <= 40, "{seconds} s");
}

#[test]
fn a_slow_host_is_better_than_none() {
    let mut swarm = Swarm::new(0.0);
    swarm.seconds_until(true, slow_by(10.0));
    let mut field = swarm.field;
    let task = super::lab::task(9);
    let held = darter_api::PieceSet::full(super::lab::PIECES);
    field.joins_task(SLOW, task, held);
    field.in_zone(99, "");
    field.links.clear();
    field.joins_task(99, task, darter_api::PieceSet::new());
    assert!(field.links.contains(&(id(99), id(SLOW))));
}

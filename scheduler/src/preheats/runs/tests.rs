//! A manager's wish, hosts that answer, and what the manager hears.

use darter_api::{
    NodeKey,
    preheat::{Authorization, ImageName, Subject},
    session::Reference,
    wire::v1::{self, PreheatScope},
};
use tokio::sync::mpsc;

use super::*;
use crate::preheats::Frame;

fn host(seed: u8) -> HostId {
    NodeKey::from_seed([seed; 32]).id()
}

fn present(seed: u8, is_seed: bool) -> Present {
    Present {
        host: host(seed),
        name: format!("n{seed}"),
        ip: [10, 0, 0, seed].into(),
        seed: is_seed,
    }
}

fn all() -> Vec<Present> {
    vec![present(1, true), present(2, false), present(3, false)]
}

fn wish(scope: PreheatScope) -> Wish {
    Wish {
        subject: Subject::Image(ImageName {
            registry: "docker.io".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: Vec::new(),
        }),
        authorization: Authorization::default(),
        scope,
        except: HashSet::new(),
        ips: Vec::new(),
        count: 0,
        percentage: 0,
        hosts_at_once: 0,
        contents_at_once: 0,
        pin_seconds: 0,
        timeout_seconds: 0,
    }
}

fn contents() -> Vec<Content> {
    let content = |text: &[u8]| Content {
        digest: Digest::sha256(text),
        size: 1,
        kind: OriginKind::Blob,
        url: None,
    };
    vec![content(b"a"), content(b"b")]
}

/// What a host says that found out what the image is, with this token.
fn resolved(token: &str) -> Report {
    Report::Resolved {
        upstream: "docker.io".parse().unwrap(),
        contents: contents(),
        token: Authorization::new(token.to_owned()),
    }
}

struct Lab {
    runs: Runs,
    events: mpsc::Receiver<Frame>,
    id: u64,
}

impl Lab {
    fn begin(wish: Wish) -> (Self, Vec<Command>) {
        let (sender, events) = mpsc::channel(64);
        let mut runs = Runs::new(7);
        let commands = runs.begin(wish, all(), sender);
        (
            Self {
                runs,
                events,
                id: 7,
            },
            commands,
        )
    }

    fn says(&mut self, seed: u8, what: Report) -> Vec<Command> {
        let report = PreheatReport { run: self.id, what };
        self.runs.report(host(seed), report, |_, _| false)
    }

    fn resolved(&mut self, seed: u8) -> Vec<Command> {
        self.says(seed, resolved(""))
    }

    /// What the manager hears, in short.
    fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok(Ok(event)) = self.events.try_recv() {
            heard.push(match event.kind.unwrap() {
                Kind::Hosts(hosts) => format!("hosts {}", hosts.hosts.len()),
                Kind::Contents(list) => format!("contents {}", list.contents.len()),
                Kind::Held(held) => format!("held {}", held.digests.len()),
                Kind::Failed(failed) => format!("failed {}", failed.why),
                Kind::Done(_) => "done".to_owned(),
            });
        }
        heard
    }
}

fn orders(commands: &[Command]) -> Vec<(HostId, &'static str)> {
    let order = |command: &Command| match &command.message {
        SchedulerMessage::Preheat(order) => Some((
            command.host,
            match order.what {
                Order::Resolve { .. } => "resolve",
                Order::Have(_) => "have",
                Order::Stop => "stop",
            },
        )),
        _ => None,
    };
    commands.iter().filter_map(order).collect()
}

#[test]
fn every_host_has_its_say() {
    let (mut lab, commands) = Lab::begin(wish(PreheatScope::AllPeers));
    assert_eq!(orders(&commands), [(host(1), "resolve")]);
    let commands = lab.resolved(1);
    assert_eq!(orders(&commands).len(), 3);
    assert_eq!(lab.heard(), ["hosts 3", "contents 2"]);
    let digests: Vec<Digest> = contents().iter().map(|one| one.digest).collect();
    lab.says(1, Report::Held(digests.clone()));
    lab.says(2, Report::Held(vec![digests[0]]));
    let full = Report::Lacks {
        digest: Some(digests[1]),
        why: "full".to_owned(),
    };
    lab.says(2, full);
    assert_eq!(lab.heard(), ["held 2", "held 1", "failed full"]);
    assert!(lab.runs.gone(host(3)).is_empty());
    assert_eq!(lab.heard(), ["failed the host has left", "done"]);
    assert!(lab.runs.runs.is_empty());
}

#[test]
fn who_leaves_before_the_image_is_known_has_failed() {
    for (leaver, resolver) in [(2, 1), (1, 2)] {
        let (mut lab, _) = Lab::begin(wish(PreheatScope::AllPeers));
        lab.runs.gone(host(leaver));
        let asked: Vec<HostId> = orders(&lab.resolved(resolver))
            .iter()
            .map(|one| one.0)
            .collect();
        assert_eq!(asked, [host(resolver), host(3)]);
        for seed in [resolver, 3] {
            let digests = contents().iter().map(|one| one.digest).collect();
            lab.says(seed, Report::Held(digests));
        }
        let heard = [
            "hosts 3",
            "failed the host has left",
            "contents 2",
            "held 2",
            "held 2",
            "done",
        ];
        assert_eq!(lab.heard(), heard, "{leaver}");
    }
}

#[test]
fn another_host_resolves_where_one_can_not_and_nobody_where_nobody_can() {
    let unresolved = |elsewhere| Report::Unresolved {
        digest: None,
        why: "no".to_owned(),
        elsewhere,
    };
    let (mut lab, _) = Lab::begin(wish(PreheatScope::AllPeers));
    assert_eq!(
        orders(&lab.says(1, unresolved(true))),
        [(host(2), "resolve")]
    );
    // Its turn is over.
    assert!(lab.resolved(1).is_empty());
    assert_eq!(orders(&lab.runs.gone(host(2))), [(host(3), "resolve")]);
    lab.says(3, unresolved(true));
    assert_eq!(
        lab.heard(),
        ["hosts 3", "failed the host has left", "failed no", "done"]
    );

    let (mut lab, _) = Lab::begin(wish(PreheatScope::AllPeers));
    lab.says(1, unresolved(false));
    assert_eq!(lab.heard(), ["hosts 3", "failed no", "done"]);
}

#[test]
fn hosts_take_turns_and_stop_when_the_manager_goes() {
    let (mut lab, _) = Lab::begin(Wish {
        hosts_at_once: 1,
        ..wish(PreheatScope::AllPeers)
    });
    assert_eq!(orders(&lab.resolved(1)), [(host(1), "have")]);
    let none = Report::Lacks {
        digest: None,
        why: "no".to_owned(),
    };
    assert_eq!(orders(&lab.says(1, none)), [(host(2), "have")]);
    drop(lab.events);
    assert_eq!(orders(&lab.runs.beat()), [(host(2), "stop")]);
    assert!(lab.runs.runs.is_empty());
}

#[test]
fn who_is_meant() {
    let names = |wish: &Wish, present: &[Present]| -> Vec<String> {
        let (chosen, _) = chosen(wish, present);
        chosen.into_iter().map(|host| host.name).collect()
    };
    let all = all();
    assert_eq!(names(&wish(PreheatScope::SingleSeedPeer), &all), ["n1"]);
    assert_eq!(names(&wish(PreheatScope::AllSeedPeers), &all), ["n1"]);
    assert_eq!(names(&wish(PreheatScope::AllPeers), &all).len(), 3);
    // Without a seed one host is as good, but there are no seeds to have all of.
    assert_eq!(
        names(&wish(PreheatScope::SingleSeedPeer), &all[1..]),
        ["n2"]
    );
    assert!(names(&wish(PreheatScope::AllSeedPeers), &all[1..]).is_empty());
    let some = Wish {
        count: 2,
        percentage: 100,
        ..wish(PreheatScope::AllPeers)
    };
    assert_eq!(names(&some, &all), ["n1", "n2"]);
    let half = Wish {
        percentage: 34,
        ..wish(PreheatScope::AllPeers)
    };
    assert_eq!(names(&half, &all), ["n1", "n2"]);
    let by_address = Wish {
        ips: vec![[10, 0, 0, 3].into(), [10, 0, 0, 9].into()],
        count: 1,
        ..wish(PreheatScope::AllPeers)
    };
    let (here, missing) = chosen(&by_address, &all);
    let nobody = "no host is at 10.0.0.9".to_owned();
    assert_eq!((here, missing), (vec![all[2].clone()], vec![nobody]));
    let many = Wish {
        count: 10,
        ..wish(PreheatScope::AllPeers)
    };
    let (here, missing) = chosen(&many, &all);
    let why = "10 hosts are wanted, and 3 are here: 7 are missing".to_owned();
    assert_eq!((here.len(), missing), (3, vec![why]));

    let (mut lab, commands) = Lab::begin(Wish {
        ips: vec![[10, 0, 0, 9].into()],
        ..wish(PreheatScope::AllPeers)
    });
    assert!(commands.is_empty());
    let heard = [
        "hosts 0",
        "failed no host is at 10.0.0.9",
        "failed no host that is meant is here",
        "done",
    ];
    assert_eq!(lab.heard(), heard);
}

#[test]
fn more_hosts_than_are_here_are_no_success() {
    let (mut lab, _) = Lab::begin(Wish {
        count: 10,
        ..wish(PreheatScope::AllPeers)
    });
    let why = "failed 10 hosts are wanted, and 3 are here: 7 are missing";
    assert_eq!(lab.heard(), ["hosts 3", why]);
}

#[test]
fn times_are_bounded() {
    let wished = |pin_seconds, timeout_seconds| {
        let request = v1::PreheatRequest {
            image: Some(v1::PreheatImage {
                registry: "docker.io".to_owned(),
                repository: "library/app".to_owned(),
                platforms: Vec::new(),
                reference: Some(v1::preheat_image::Reference::Tag("1".to_owned())),
            }),
            pin_seconds,
            timeout_seconds,
            ..v1::PreheatRequest::default()
        };
        Wish::try_from(request).is_ok()
    };
    assert!(wished(365 * 24 * 3600, 24 * 3600));
    assert!(!wished(365 * 24 * 3600 + 1, 0));
    assert!(!wished(u64::MAX, 0));
    assert!(!wished(0, 24 * 3600 + 1));
}

#[test]
fn a_manager_that_reads_slowly_hears_all_of_it() {
    let (sender, mut events) = mpsc::channel(3);
    let mut runs = Runs::new(7);
    let hosts: Vec<Present> = (1..=100).map(|seed| present(seed, seed == 1)).collect();
    runs.begin(wish(PreheatScope::AllPeers), hosts, sender);
    let mut says = |seed: u8, what: Report| {
        let report = PreheatReport { run: 7, what };
        runs.report(host(seed), report, |_, _| false);
    };
    says(1, resolved(""));
    for content in contents() {
        for seed in 1..=99 {
            says(seed, Report::Held(vec![content.digest]));
        }
    }
    let full = Report::Lacks {
        digest: None,
        why: "full".to_owned(),
    };
    says(100, full);
    let (mut held, mut failed, mut is_done) = (0, 0, false);
    for _ in 0..200 {
        while let Ok(Ok(event)) = events.try_recv() {
            assert!(!is_done, "the end is the last");
            match event.kind.unwrap() {
                Kind::Held(some) => held += some.digests.len(),
                Kind::Failed(_) => failed += 1,
                Kind::Done(_) => is_done = true,
                Kind::Hosts(all) => assert_eq!(all.hosts.len(), 100),
                Kind::Contents(all) => assert_eq!(all.contents.len(), 2),
            }
        }
        assert!(runs.beat().is_empty());
    }
    assert_eq!((held, failed, is_done), (198, 1, true));
    assert!(runs.runs.is_empty());
}

#[test]
fn a_manager_that_reads_nothing_has_called_it_off() {
    let (sender, events) = mpsc::channel(1);
    let mut runs = Runs::new(7);
    runs.begin(wish(PreheatScope::AllPeers), all(), sender);
    let report = PreheatReport {
        run: 7,
        what: resolved(""),
    };
    let commands = runs.report(host(1), report, |_, _| false);
    assert_eq!(orders(&commands).len(), 3);
    let mut stopped = Vec::new();
    for _ in 0..100 {
        stopped.extend(runs.beat());
    }
    assert_eq!(orders(&stopped).len(), 3);
    assert!(orders(&stopped).iter().all(|(_, what)| *what == "stop"));
    assert!(runs.runs.is_empty());
    drop(events);
}

#[test]
fn whom_other_schedulers_have_is_not_asked() {
    let mut others = wish(PreheatScope::AllPeers);
    others.except = [host(1), host(2)].into();
    let (mut lab, commands) = Lab::begin(others.clone());
    assert_eq!(lab.heard(), ["hosts 1"]);
    // Who finds out what the image is may be anybody.
    assert_eq!(orders(&commands), [(host(1), "resolve")]);
    assert_eq!(orders(&lab.resolved(1)), [(host(3), "have")]);

    others.except.insert(host(3));
    let (mut lab, commands) = Lab::begin(others);
    assert!(commands.is_empty());
    assert_eq!(lab.heard(), ["hosts 0", "done"], "nobody failed");
}

/// What each host is given to sign in with.
fn told(commands: &[Command]) -> Vec<(HostId, String)> {
    let told = |command: &Command| match &command.message {
        SchedulerMessage::Preheat(PreheatOrder {
            what: Order::Have(have),
            ..
        }) => {
            assert!(have.private);
            let text = have.authorization.reveal().unwrap_or_default();
            Some((command.host, text.to_owned()))
        }
        _ => None,
    };
    commands.iter().filter_map(told).collect()
}

fn signed_in() -> Wish {
    Wish {
        authorization: Authorization::new("Basic p".to_owned()),
        ..wish(PreheatScope::AllPeers)
    }
}

#[test]
fn the_password_goes_to_seeds_and_a_token_to_others() {
    let (mut lab, _) = Lab::begin(signed_in());
    let commands = lab.says(1, resolved("Bearer t"));
    let of = |seed, text: &str| (host(seed), text.to_owned());
    let all = [of(1, "Basic p"), of(2, "Bearer t"), of(3, "Bearer t")];
    assert_eq!(told(&commands), all);
}

#[test]
fn without_a_token_the_others_begin_when_the_seeds_have_all() {
    let (mut lab, _) = Lab::begin(signed_in());
    let of = |seed, text: &str| (host(seed), text.to_owned());
    assert_eq!(told(&lab.resolved(1)), [of(1, "Basic p")]);
    let digests: Vec<Digest> = contents().iter().map(|one| one.digest).collect();
    assert!(lab.says(1, Report::Held(digests[..1].to_vec())).is_empty());
    let commands = lab.says(1, Report::Held(digests[1..].to_vec()));
    assert_eq!(told(&commands), [of(2, ""), of(3, "")]);

    // A seed that leaves holds nobody up: the others say themselves what they lack.
    let (mut lab, _) = Lab::begin(signed_in());
    lab.resolved(1);
    assert_eq!(told(&lab.runs.gone(host(1))), [of(2, ""), of(3, "")]);
}

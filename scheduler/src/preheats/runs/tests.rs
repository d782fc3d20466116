//! A manager's wish, hosts that answer, and what the manager hears.

use std::collections::HashSet;

use darter_api::{
    Digest, NodeKey, OriginKind,
    preheat::{
        Authorization, Choice, Content, ImageName, Order, PreheatOrder, Report, Scope, Subject,
    },
    session::{Reference, SchedulerMessage},
    wire::v1::{self, preheat_event::Kind},
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

fn wish(scope: Scope) -> Wish {
    Wish {
        subject: Subject::Image(ImageName {
            registry: "docker.io".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: Vec::new(),
        }),
        authorization: Authorization::default(),
        choice: Choice {
            scope,
            ..Choice::default()
        },
        except: HashSet::new(),
        only: Vec::new(),
        hosts_at_once: 0,
        contents_at_once: 0,
        pin_seconds: 0,
        timeout_seconds: 0,
    }
}

fn contents() -> Vec<Content> {
    let content = |text: &[u8], kind| Content {
        digest: Digest::sha256(text),
        size: 1,
        kind,
        url: None,
    };
    vec![
        content(b"a", OriginKind::Manifest),
        content(b"b", OriginKind::Blob),
    ]
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
    let (mut lab, commands) = Lab::begin(wish(Scope::AllPeers));
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
        let (mut lab, _) = Lab::begin(wish(Scope::AllPeers));
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
    let (mut lab, _) = Lab::begin(wish(Scope::AllPeers));
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

    let (mut lab, _) = Lab::begin(wish(Scope::AllPeers));
    lab.says(1, unresolved(false));
    assert_eq!(lab.heard(), ["hosts 3", "failed no", "done"]);
}

#[test]
fn hosts_take_turns_and_stop_when_the_manager_goes() {
    let (mut lab, _) = Lab::begin(Wish {
        hosts_at_once: 1,
        ..wish(Scope::AllPeers)
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
fn nobody_is_no_success() {
    let mut nobody = wish(Scope::AllPeers);
    nobody.choice.ips = vec![[10, 0, 0, 9].into()];
    let (mut lab, commands) = Lab::begin(nobody);
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
    let mut many = wish(Scope::AllPeers);
    many.choice.count = 10;
    let (mut lab, _) = Lab::begin(many);
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
    runs.begin(wish(Scope::AllPeers), hosts, sender);
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
    runs.begin(wish(Scope::AllPeers), all(), sender);
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
    let mut others = wish(Scope::AllPeers);
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
        ..wish(Scope::AllPeers)
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

#[test]
fn a_seed_that_hangs_does_not_hold_a_job_up() {
    let (sender, _events) = mpsc::channel(64);
    let mut runs = Runs::new(7);
    let hosts = vec![present(1, true), present(2, true), present(3, false)];
    runs.begin(signed_in(), hosts, sender);
    let mut says = |seed: u8, what: Report| {
        let report = PreheatReport { run: 7, what };
        runs.report(host(seed), report, |_, _| false)
    };
    assert_eq!(told(&says(1, resolved(""))).len(), 2, "the seeds read");
    let digests = contents().iter().map(|one| one.digest).collect();
    let commands = says(2, Report::Held(digests));
    assert_eq!(told(&commands), [(host(3), String::new())]);

    // The only one that reads.
    let (mut lab, _) = Lab::begin(signed_in());
    lab.resolved(1);
    let waits = (0..1000).position(|_| !lab.runs.beat().is_empty());
    assert!(waits.is_some_and(|beats| beats > 30), "{waits:?}");
}

#[test]
fn who_a_rule_forbids_reads_for_nobody() {
    let (mut lab, _) = Lab::begin(signed_in());
    let report = PreheatReport {
        run: lab.id,
        what: resolved(""),
    };
    let forbids = |one: &HostId, _: &Origin| *one == host(1);
    let commands = lab.runs.report(host(1), report, forbids);
    let of = |seed| (host(seed), "Basic p".to_owned());
    assert_eq!(told(&commands), [of(2), of(3)]);
    let heard = ["hosts 3", "contents 2", "failed a rule forbids it"];
    assert_eq!(lab.heard(), heard);
}

#[test]
fn an_answer_is_about_what_was_asked() {
    let odd = |spoil: fn(&mut Vec<Content>)| {
        let mut contents = contents();
        spoil(&mut contents);
        Report::Resolved {
            upstream: "docker.io".parse().unwrap(),
            contents,
            token: Authorization::default(),
        }
    };
    let files = |contents: &mut Vec<Content>| contents[1].url = Some("http://h/a".to_owned());
    let (mut lab, _) = Lab::begin(wish(Scope::AllPeers));
    assert_eq!(orders(&lab.says(1, odd(files))), [(host(2), "resolve")]);
    assert_eq!(
        orders(&lab.says(2, odd(|contents| contents.reverse()))),
        [(host(3), "resolve")]
    );
    let twice = |contents: &mut Vec<Content>| contents[1].digest = contents[0].digest;
    assert!(lab.says(3, odd(twice)).is_empty());
    let heard = ["hosts 3", "failed it names a content twice", "done"];
    assert_eq!(lab.heard(), heard);

    // A seed that is not meant itself is named in words.
    let mut others = wish(Scope::AllPeers);
    others.except = [host(1), host(3)].into();
    let (mut lab, _) = Lab::begin(others);
    lab.runs.gone(host(2));
    lab.says(1, odd(files));
    let why = "failed n1: it answers with files where an image is meant";
    assert_eq!(
        lab.heard(),
        ["hosts 1", "failed the host has left", why, "done"]
    );
}

#[test]
fn who_says_nothing_of_an_image_is_followed_by_the_next() {
    let (mut lab, _) = Lab::begin(wish(Scope::AllPeers));
    let commands = (0..200).find_map(|_| Some(lab.runs.beat()).filter(|all| !all.is_empty()));
    assert_eq!(
        orders(&commands.unwrap()),
        [(host(1), "stop"), (host(2), "resolve")]
    );
    assert!(lab.resolved(1).is_empty(), "too late");
    assert_eq!(orders(&lab.resolved(2)).len(), 3);
}

#[test]
fn whom_the_manager_has_chosen() {
    let mut some = wish(Scope::SingleSeedPeer);
    some.only = vec![host(3), host(9), host(2)];
    let (mut lab, commands) = Lab::begin(some.clone());
    assert_eq!(lab.heard(), ["hosts 2", "failed the host has left"]);
    assert_eq!(orders(&commands), [(host(1), "resolve")]);
    assert_eq!(
        orders(&lab.resolved(1)),
        [(host(2), "have"), (host(3), "have")]
    );
    some.only = vec![host(9)];
    let (mut lab, commands) = Lab::begin(some);
    assert!(commands.is_empty());
    let heard = ["hosts 0", "failed the host has left", "done"];
    assert_eq!(lab.heard(), heard);
}

#[test]
fn a_long_list_does_not_go_to_all_hosts_at_once() {
    let (sender, _events) = mpsc::channel(64);
    let mut runs = Runs::new(7);
    let address = |number: u16| std::net::Ipv4Addr::from(u32::from(number));
    let key = |number: u16| {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        HostId::from_bytes(seed)
    };
    let host = |number: u16| Present {
        host: key(number),
        name: number.to_string(),
        ip: address(number).into(),
        seed: false,
    };
    let hosts: Vec<Present> = (0..5000).map(host).collect();
    let urls: Vec<String> = (0..100)
        .map(|number| format!("http://h/{number}?{}", "x".repeat(4000)))
        .collect();
    let files = Wish {
        subject: Subject::Files(urls.clone()),
        ..wish(Scope::AllPeers)
    };
    let asked = runs.begin(files, hosts, sender);
    let content = |url: String| Content {
        digest: Digest::sha256(url.as_bytes()),
        size: 1,
        kind: OriginKind::Blob,
        url: Some(url),
    };
    let what = Report::Resolved {
        upstream: "h".parse().unwrap(),
        contents: urls.into_iter().map(content).collect(),
        token: Authorization::default(),
    };
    let report = PreheatReport { run: 7, what };
    let first = runs.report(asked[0].host, report, |_, _| false).len();
    assert!((10..200).contains(&first), "{first} orders of 400 KB");
    let beats = (0..1000).map(|_| runs.beat().len());
    let all: usize = beats.take_while(|orders| *orders > 0).sum();
    assert_eq!(first + all, 5000);
}

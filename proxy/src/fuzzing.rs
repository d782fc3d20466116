//! What must hold of everything that clients, registries and peers say to a proxy: targets of
//! `hack/fuzz.sh`, and of tests over the inputs that are kept.
//!
//! Only in tests and under libFuzzer. A target takes one input and panics where something
//! does not hold.

use crate::{clients, mirror, preheat, session::PeerAddress, upstream};
pub use crate::{
    intercept::fuzzing::proxy_target,
    mirror::fuzzing::{range, route},
    store::fuzzing::journal,
    swarm::core::fuzzing::node,
    transfer::fuzzing::piece_reply,
    upstream::fuzzing::{challenge, redirect},
};

/// A name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("route", route),
    ("range", range),
    ("proxy_target", proxy_target),
    ("challenge", challenge),
    ("redirect", redirect),
    ("registry_reply", registry_reply),
    ("credentials", credentials),
    ("journal", journal),
    ("piece_reply", piece_reply),
    ("node", node),
];

/// What registries reply: manifests, token servers' answers, heads, links of lists; the first
/// byte says which.
pub fn registry_reply(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            mirror::fuzzing::manifest(rest);
            preheat::resolve::fuzzing::manifest(rest);
        }
        1 => upstream::fuzzing::token(rest),
        2 => upstream::fuzzing::reply(rest),
        _ => mirror::fuzzing::link(rest),
    }
}

/// Files of users, Docker's configuration, what clients show, proxies' URLs and lists of
/// peers; the first byte says which.
pub fn credentials(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 5 {
        0 => clients::fuzzing::htpasswd(rest),
        1 => upstream::fuzzing::docker_config(rest),
        2 => mirror::fuzzing::authorization(rest),
        3 => upstream::fuzzing::way(rest),
        _ => {
            let text = std::str::from_utf8(rest).unwrap_or_default();
            match text.parse() {
                Ok(PeerAddress::Address(address)) => {
                    assert!(address.port() != 0 && !address.ip().is_unspecified());
                }
                Ok(PeerAddress::Name(name, port)) => {
                    assert!(port != 0 && !name.contains(['/', '@', ':']));
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_are_kept() {
        for (target, run) in TARGETS {
            replay::replay(target, *run);
        }
    }
}

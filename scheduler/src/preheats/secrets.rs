//! Who is told what signs in at the registry.
//!
//! A job may bring a user's password, or a token. It goes to the hosts that find out what the
//! image is, and to its readers: the seeds that are to have it, or a few hosts where there are
//! none, of those that no rule forbids it. A registry that gives tokens has given the first one
//! of them a token for pulling from this repository, which ends within minutes: that goes to all
//! others, and so does a token that the job brought, if it says that it lives as shortly. Without
//! either the others get nothing, and begin when a reader has all of it: no lease is offered to
//! who would be refused, and who holds a content gives it to all that the scheduler introduces.
//!
//! Hosts make tokens, and no manager or scheduler: which token servers a registry may name, and
//! by which authority it is trusted, is in the hosts' lists of registries alone.

use std::collections::HashSet;

use darter_api::{
    HostId,
    preheat::{Authorization, Present},
};

/// Hosts that read a registry with the job's own password where no seed is meant.
const READERS: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Secrets {
    /// As the job brought it.
    brought: Authorization,
    readers: HashSet<HostId>,
    /// For all others.
    token: Authorization,
}

impl Secrets {
    /// `token` is what the registry gave for what the job brought, if anything; `targets` are
    /// hosts that may have it.
    pub(super) fn new(brought: &Authorization, token: Authorization, targets: &[Present]) -> Self {
        let seeds = targets.iter().filter(|host| host.seed);
        let mut readers: HashSet<HostId> = seeds.map(|host| host.host).collect();
        if readers.is_empty() {
            let few = targets.iter().take(READERS);
            readers = few.map(|host| host.host).collect();
        }
        let token = match brought.is_short_lived() {
            true => brought.clone(),
            false if token.is_token() => token,
            false => Authorization::default(),
        };
        Self {
            brought: brought.clone(),
            readers,
            token,
        }
    }

    /// What a host is given.
    pub(super) fn of(&self, host: &HostId) -> Authorization {
        match self.readers.contains(host) {
            true => self.brought.clone(),
            false => self.token.clone(),
        }
    }

    /// Whether something signs in at all.
    pub(super) fn are_there(&self) -> bool {
        self.brought.reveal().is_some()
    }

    /// Whether a host could read the registry with what it is given.
    pub(super) fn let_read(&self, host: &HostId) -> bool {
        !self.are_there() || self.of(host).reveal().is_some()
    }
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;

    use super::*;

    fn host(seed: u8) -> HostId {
        NodeKey::from_seed([seed; 32]).id()
    }

    fn told(brought: &str, token: &str, seeds: &[u8]) -> Vec<String> {
        let said = |text: &str| Authorization::new(text.to_owned());
        let target = |number: u8| Present {
            host: host(number),
            name: String::new(),
            ip: [10, 0, 0, number].into(),
            seed: seeds.contains(&number),
        };
        let targets: Vec<Present> = (1..=5).map(target).collect();
        let secrets = Secrets::new(&said(brought), said(token), &targets);
        let of = |host: &Present| {
            let given = secrets.of(&host.host);
            given.reveal().unwrap_or("-").to_owned()
        };
        targets.iter().map(of).collect()
    }

    #[test]
    fn a_password_goes_to_few() {
        let (password, token) = ("Basic p", "Bearer t");
        // {"iat":1000,"exp":1300}
        let short = "Bearer e30.eyJpYXQiOjEwMDAsImV4cCI6MTMwMH0.c2ln";
        // The seeds that are meant, and no other.
        assert_eq!(
            told(password, token, &[2, 9]),
            [token, password, token, token, token]
        );
        assert_eq!(told(password, "", &[2]), ["-", password, "-", "-", "-"]);
        assert_eq!(
            told(password, token, &[]),
            [password, password, password, token, token]
        );
        assert_eq!(told(short, "", &[2]), [short; 5]);
        // Nobody knows what else it opens, and for how long.
        assert_eq!(told(token, "", &[2]), ["-", token, "-", "-", "-"]);
        assert_eq!(told("", "", &[2]), ["-"; 5]);
        // What a host calls a token and is none goes nowhere.
        assert_eq!(told(password, password, &[2])[0], "-");
    }
}

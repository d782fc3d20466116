//! Who is told what signs in at the registry.
//!
//! A job may bring a user's password. It goes to the hosts that find out what the image is, and
//! to its readers: the seeds that are to have it, or a few hosts where there are none. A registry
//! that gives tokens has given the first one of them a token for pulling from this repository,
//! which ends within minutes: that goes to all others. Where a registry gives none, the others
//! get nothing, and begin when the readers have ended: no lease is offered to who would be
//! refused, and who holds a content gives it to all that the scheduler introduces.
//!
//! Hosts make tokens, and no manager or scheduler: which token servers a registry may name, and
//! by which authority it is trusted, is in the hosts' lists of registries alone.

use std::collections::HashSet;

use darter_api::{HostId, preheat::Authorization};

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
    /// `token` is what the registry gave for what the job brought, if anything.
    pub(super) fn new(
        brought: &Authorization,
        token: Authorization,
        targets: &[HostId],
        seeds: &HashSet<HostId>,
    ) -> Self {
        let meant = targets.iter().filter(|host| seeds.contains(host));
        let mut readers: HashSet<HostId> = meant.copied().collect();
        if readers.is_empty() {
            readers = targets.iter().take(READERS).copied().collect();
        }
        let token = match brought.is_token() {
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
        let targets: Vec<HostId> = (1..=5).map(host).collect();
        let seeds = seeds.iter().map(|seed| host(*seed)).collect();
        let secrets = Secrets::new(&said(brought), said(token), &targets, &seeds);
        let of = |host| secrets.of(host).reveal().unwrap_or("-").to_owned();
        targets.iter().map(of).collect()
    }

    #[test]
    fn a_password_goes_to_few() {
        let (password, token) = ("Basic p", "Bearer t");
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
        assert_eq!(told(token, "", &[2]), [token; 5]);
        assert_eq!(told("", "", &[2]), ["-"; 5]);
        // What a host calls a token and is none goes nowhere.
        assert_eq!(told(password, password, &[2])[0], "-");
    }
}

//! Docker's `config.json`, as Docker reads it.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Login, header};
use crate::credential::Secret;

/// What is read of Docker's `config.json`.
#[derive(Deserialize)]
struct Docker {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// What Docker's configuration has for a registry.
pub(in crate::upstream) enum Found {
    Login(Login),
    /// The name of a credential helper, not checked.
    Helper(String),
}

/// What a `config.json` has for a registry of these names.
pub(in crate::upstream) fn in_docker_config(text: &[u8], names: &[String]) -> Option<Found> {
    let docker: Docker = serde_json::from_slice(text).ok()?;
    docker.find(names)
}

impl Docker {
    /// As Docker does: the host's own helper, the store of all, then what is written down.
    fn find(mut self, names: &[String]) -> Option<Found> {
        fn host(key: &str) -> &str {
            let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
            bare.split('/').next().unwrap_or(bare)
        }
        let is_ours = |key: &str| names.iter().any(|name| name == host(key));
        if let Some((_, helper)) = self.helpers.drain().find(|(key, _)| is_ours(key)) {
            return Some(Found::Helper(helper));
        }
        let written = self.auths.into_iter().find(|(key, _)| is_ours(key));
        let login = written.and_then(|(_, auth)| auth.login());
        match (login, self.store) {
            (Some(login), _) => Some(Found::Login(login)),
            (None, Some(store)) => Some(Found::Helper(store)),
            (None, None) => None,
        }
    }
}

impl Auth {
    fn login(self) -> Option<Login> {
        if let Some(token) = self
            .identitytoken
            .filter(|token| !token.reveal().is_empty())
        {
            return Some(Login::Identity(token));
        }
        let auth = self.auth?;
        let is_pair = STANDARD
            .decode(auth.reveal())
            .is_ok_and(|pair| pair.contains(&b':'));
        is_pair.then(|| header("Basic", auth.reveal()).map(Login::Basic))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_configuration_as_docker_reads_it() {
        let find = |text: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            serde_json::from_str::<Docker>(text).unwrap().find(&names)
        };
        let text = r#"{"auths": {"r.test:5000": {"auth": "bWU6cHc="}, "https://index.docker.io/v1/": {"auth": "bWU6aHVi"},
            "id.test": {"auth": "", "identitytoken": "refresh"}, "odd.test": {"auth": "%%%"}},
            "credHelpers": {"123.ecr.test": "ecr-login"}}"#;
        for (name, wanted) in [
            ("r.test:5000", Login::basic("me", "pw")),
            ("index.docker.io", Login::basic("me", "hub")),
            ("id.test", Some(Login::Identity(Secret::from("refresh")))),
            ("odd.test", None),
            ("r.test", None),
        ] {
            let found = match find(text, &[name]) {
                Some(Found::Login(login)) => Some(login),
                _ => None,
            };
            assert_eq!(found, wanted, "{name}");
        }
        let helped = find(text, &["123.ecr.test"]);
        assert!(matches!(helped, Some(Found::Helper(name)) if name == "ecr-login"));
        let store = find(
            r#"{"auths": {"r.test": {}}, "credsStore": "pass"}"#,
            &["r.test"],
        );
        assert!(matches!(store, Some(Found::Helper(name)) if name == "pass"));
    }
}

//! What signs in at registries for preheats, kept where the manager runs and called by a name.
//!
//! Owner of state: the files. A job names a credential, the database keeps the name, and the file
//! is read each time that hosts are asked, so that it may rotate. Nothing of it is shown but who
//! signs in where. A credential is for one registry: whoever may post jobs could else have it sent
//! to another one. Failure: a job whose credential can't be read ends with the reason.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use darter_api::preheat::{Authorization, MOST_AUTHORIZATION};
use serde::{Deserialize, Serialize};

use crate::jobs::Secret;

/// A user of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCredential {
    /// As jobs call it.
    pub name: String,
    /// The registry that it is for, as images name it: `harbor.example.com`.
    pub registry: String,
    /// The user.
    pub username: String,
    /// A file with the password; it may rotate.
    pub password_file: PathBuf,
}

/// As it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    name: String,
    registry: String,
    username: String,
}

/// A credential can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("no credential is called `{0}`")]
    Unknown(String),
    #[error("the credential `{name}` is for {registry} alone")]
    Elsewhere { name: String, registry: String },
    #[error("the password of the credential `{name}` can't be read")]
    Unreadable {
        name: String,
        #[source]
        cause: io::Error,
    },
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials(Arc<[StoredCredential]>);

impl Credentials {
    pub(crate) fn new(all: Vec<StoredCredential>) -> Self {
        Self(all.into())
    }

    /// A name that stands for several.
    pub(crate) fn doubled(&self) -> Option<&str> {
        let mut names = BTreeSet::new();
        let mut all = self.0.iter().map(|one| one.name.as_str());
        all.find(|name| !names.insert(*name))
    }

    pub(crate) fn shown(&self) -> Vec<Shown> {
        let show = |one: &StoredCredential| Shown {
            name: one.name.clone(),
            registry: one.registry.clone(),
            username: one.username.clone(),
        };
        self.0.iter().map(show).collect()
    }

    /// The one of this name, if it is for this registry.
    pub(crate) fn find(
        &self,
        name: &str,
        registry: &str,
    ) -> Result<&StoredCredential, CredentialError> {
        let found = self.0.iter().find(|one| one.name == name);
        let found = found.ok_or_else(|| CredentialError::Unknown(name.to_owned()))?;
        if found.registry.eq_ignore_ascii_case(registry) {
            Ok(found)
        } else {
            Err(CredentialError::Elsewhere {
                name: name.to_owned(),
                registry: found.registry.clone(),
            })
        }
    }

    /// What signs in now.
    pub(crate) async fn secret(
        &self,
        name: &str,
        registry: &str,
    ) -> Result<Secret, CredentialError> {
        let found = self.find(name, registry)?;
        let unreadable = |cause| CredentialError::Unreadable {
            name: name.to_owned(),
            cause,
        };
        let text = tokio::fs::read_to_string(&found.password_file).await;
        let text = text.map_err(unreadable)?;
        let password = text.trim_end_matches(['\r', '\n']);
        let pair = BASE64_STANDARD.encode(format!("{}:{password}", found.username));
        let header = Some(format!("Basic {pair}")).filter(|_| !password.is_empty());
        let header = header.and_then(Authorization::checked);
        header.ok_or_else(|| {
            let what = format!("it is empty, or makes more than {MOST_AUTHORIZATION} bytes");
            unreadable(io::Error::new(io::ErrorKind::InvalidData, what))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_is_for_its_registry_and_read_when_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let stored = StoredCredential {
            name: "harbor".to_owned(),
            registry: "harbor.example.com".to_owned(),
            username: "u".to_owned(),
            password_file: file.clone(),
        };
        let all = Credentials::new(vec![stored.clone()]);
        let signs_in = async |registry: &str| {
            let secret = all.secret("harbor", registry).await;
            secret.map(|secret| secret.reveal().unwrap_or_default().to_owned())
        };
        assert!(signs_in("harbor.example.com").await.is_err(), "no file");
        std::fs::write(&file, "p\n").unwrap();
        assert_eq!(signs_in("Harbor.example.com").await.unwrap(), "Basic dTpw");
        std::fs::write(&file, "q").unwrap();
        assert_eq!(signs_in("harbor.example.com").await.unwrap(), "Basic dTpx");
        std::fs::write(&file, "\n").unwrap();
        assert!(signs_in("harbor.example.com").await.is_err(), "no password");
        let elsewhere = signs_in("evil.example.com").await.unwrap_err();
        assert!(matches!(elsewhere, CredentialError::Elsewhere { .. }));
        assert!(all.find("other", "harbor.example.com").is_err());
        assert_eq!(all.doubled(), None);
        let twice = Credentials::new(vec![stored.clone(), stored]);
        assert_eq!(twice.doubled(), Some("harbor"));
    }
}

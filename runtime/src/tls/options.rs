//! The cluster's section of the configuration, and becoming a member by it.
//!
//! A part that joins keeps `cluster.crt` and `cluster-ca.crt` beside its key and starts from
//! them the next time, with or without the authority. Failure: a refusal ends the start; an
//! authority that can't be reached is waited for, for [`PATIENCE`].

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use darter_api::NodeKey;
use serde::{Deserialize, Serialize};

use super::{
    Certificate, CertificateError, Credentials, CredentialsError, Fingerprint, JoinError, Security,
    Token, TokenError, certificate,
    join::{self, Joined},
    renewal::{self, Registrar, Source},
};
use crate::{
    Tasks,
    identity::{self, IdentityError, write_private},
};

/// The certificate of a node that joined, in the data directory of its part.
pub const CERTIFICATE: &str = "cluster.crt";
const AUTHORITY: &str = "cluster-ca.crt";
/// How long a start waits for an authority: parts of a cluster start together.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(500);

/// How this process is a member of a cluster. Default: it is none, and its parts speak plain
/// text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where the cluster's authority gives certificates, `HOST:PORT`. Default none.
    pub join: Option<String>,
    /// What lets this node in, as `darter ca token` prints it; needed once. Default none.
    pub token: Option<Token>,
    /// A file with such a token, read where one is needed. Default none.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that others are checked against, where nothing is joined.
    /// Default none.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate for this node's key, where nothing is joined; read again as
    /// it changes. Default none.
    pub certificate: Option<PathBuf>,
}

/// A node does not become a member.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// Settings that don't go together.
    #[error("[cluster]: {0}")]
    Options(&'static str),
    /// A file can't be used.
    #[error("[cluster]: can't {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// A file holds something else.
    #[error("[cluster]: {path}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: CertificateError,
    },
    /// A file holds no token.
    #[error("[cluster]: {path}")]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: TokenError,
    },
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Certificate, key and authority don't go together.
    #[error("[cluster]")]
    Credentials(#[from] CredentialsError),
    /// The authority gives no certificate.
    #[error("[cluster]")]
    Join(#[from] JoinError),
}

impl Options {
    /// Whether there is a cluster at all.
    pub const fn is_member(&self) -> bool {
        self.certificate.is_some() || self.join.is_some()
    }

    /// What is wrong with them, if anything is.
    pub fn mistake(&self) -> Option<&'static str> {
        if self.ca.is_some() != self.certificate.is_some() {
            return Some("`ca` and `certificate` go together");
        }
        if self.join.is_some() && self.ca.is_some() {
            return Some("a node that joins needs no `ca` and `certificate`");
        }
        if self.join.is_none() && (self.token.is_some() || self.token_file.is_some()) {
            return Some("a token is of no use without `join`");
        }
        None
    }

    /// How the part whose key is in `data` speaks with others; what it shows is renewed until
    /// the group ends.
    ///
    /// # Errors
    /// When there is no certificate to be had, or it is of no use.
    pub async fn obtain(&self, data: &Path, tasks: &Tasks) -> Result<Security, ObtainError> {
        if let Some(mistake) = self.mistake() {
            return Err(ObtainError::Options(mistake));
        }
        if let Some(address) = &self.join {
            return self.join(address, data, tasks).await;
        }
        let (Some(ca), Some(certificate)) = (&self.ca, &self.certificate) else {
            return Ok(Security::Plain);
        };
        let key = identity::load_or_create(data)?;
        let shown = read_certificate(certificate)?;
        let credentials = Credentials::new(&key, &shown, &read(ca)?)?;
        renewal::keep(
            &credentials,
            shown,
            Source::File(certificate.clone()),
            tasks,
        );
        Ok(Security::Tls(credentials))
    }

    async fn join(
        &self,
        address: &str,
        data: &Path,
        tasks: &Tasks,
    ) -> Result<Security, ObtainError> {
        let key = Arc::new(identity::load_or_create(data)?);
        let place = Place::new(data);
        let of_this_cluster = |stored: &(Credentials, Certificate, Fingerprint)| {
            let token = self.token.as_ref();
            token.is_none_or(|token| *token.fingerprint() == stored.2)
        };
        let stored = place.stored(&key).filter(of_this_cluster);
        let (credentials, shown, fingerprint) = match stored {
            Some(stored) => stored,
            None => {
                let (fingerprint, secret) = self.introduction(&place)?;
                let joined = ask(address, fingerprint, &key, secret).await?;
                place.keep(&joined)?;
                let authority = joined.authority.as_bytes();
                let credentials = Credentials::new(&key, &joined.certificate, authority)?;
                tracing::info!(host = %key.id(), %address, "this node is a member of the cluster");
                (credentials, joined.certificate, fingerprint)
            }
        };
        let source = Source::Registrar(Registrar {
            address: address.to_owned(),
            fingerprint,
            key,
            place,
        });
        renewal::keep(&credentials, shown, source, tasks);
        Ok(Security::Tls(credentials))
    }

    /// By what the authority is known, and what lets this node in. A member whose certificate
    /// has expired needs no token.
    fn introduction(&self, place: &Place) -> Result<(Fingerprint, Option<String>), ObtainError> {
        if let Some(token) = self.token()? {
            return Ok((*token.fingerprint(), Some(token.secret())));
        }
        let known = place.fingerprint();
        let known = known.ok_or(ObtainError::Options("`join` needs a token the first time"))?;
        Ok((known, None))
    }

    fn token(&self) -> Result<Option<Token>, ObtainError> {
        if self.token.is_some() {
            return Ok(self.token.clone());
        }
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        text.parse().map(Some).map_err(|cause| ObtainError::Token {
            path: path.clone(),
            cause,
        })
    }
}

async fn ask(
    address: &str,
    fingerprint: Fingerprint,
    key: &NodeKey,
    secret: Option<String>,
) -> Result<Joined, JoinError> {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        match join::request(address, fingerprint, key, secret.clone()).await {
            Err(cause) if cause.is_retryable() && tokio::time::Instant::now() < give_up => {
                let cause = &cause as &dyn std::error::Error;
                tracing::warn!(cause, "no certificate yet");
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Where a node that joined keeps what it was given.
#[derive(Debug, Clone)]
pub(super) struct Place {
    certificate: PathBuf,
    authority: PathBuf,
}

impl Place {
    fn new(data: &Path) -> Self {
        Self {
            certificate: data.join(CERTIFICATE),
            authority: data.join(AUTHORITY),
        }
    }

    /// What is kept, if it still counts.
    fn stored(&self, key: &NodeKey) -> Option<(Credentials, Certificate, Fingerprint)> {
        let shown = Certificate::from_pem(&std::fs::read(&self.certificate).ok()?).ok()?;
        if !shown.is_valid_at(SystemTime::now()) {
            return None;
        }
        let authority = std::fs::read(&self.authority).ok()?;
        match Credentials::new(key, &shown, &authority) {
            Ok(credentials) => Some((credentials, shown, self.fingerprint()?)),
            Err(cause) => {
                let cause = &cause as &dyn std::error::Error;
                tracing::warn!(cause, path = %self.certificate.display(), "another certificate is asked for");
                None
            }
        }
    }

    /// Of the authority of the last time.
    fn fingerprint(&self) -> Option<Fingerprint> {
        let authority = certificate::all_of(&std::fs::read(&self.authority).ok()?).ok()?;
        authority.first().map(|der| Fingerprint::of(der))
    }

    pub(super) fn keep(&self, joined: &Joined) -> Result<(), ObtainError> {
        for (path, content) in [
            (&self.authority, &joined.authority),
            (&self.certificate, &joined.pem),
        ] {
            write_private(path, content.as_bytes()).map_err(|cause| ObtainError::File {
                what: "write",
                path: path.clone(),
                cause,
            })?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ObtainError> {
    std::fs::read(path).map_err(|cause| ObtainError::File {
        what: "read",
        path: path.to_owned(),
        cause,
    })
}

pub(super) fn read_certificate(path: &Path) -> Result<Certificate, ObtainError> {
    Certificate::from_pem(&read(path)?).map_err(|cause| ObtainError::Certificate {
        path: path.to_owned(),
        cause,
    })
}

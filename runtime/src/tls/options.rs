//! The cluster's section of the configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Certificate, CertificateError, Credentials, CredentialsError, Security,
    renewal::{self, Source},
};
use crate::{
    Tasks,
    identity::{self, IdentityError},
};

/// How this process is a member of a cluster. Default: it is none, and its parts speak plain
/// text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// PEM file of the authorities that others are checked against. Default none.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate for this node's key; read again as it changes. Default
    /// none.
    pub certificate: Option<PathBuf>,
}

/// A node does not become a member.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// Settings that don't go together.
    #[error("[cluster]: {0}")]
    Options(&'static str),
    /// A file can't be read.
    #[error("[cluster]: can't read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
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
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Certificate, key and authority don't go together.
    #[error("[cluster]")]
    Credentials(#[from] CredentialsError),
}

impl Options {
    /// Whether there is a cluster at all.
    pub const fn is_member(&self) -> bool {
        self.certificate.is_some()
    }

    /// What is wrong with them, if anything is.
    pub fn mistake(&self) -> Option<&'static str> {
        match (&self.ca, &self.certificate) {
            (Some(_), Some(_)) | (None, None) => None,
            _ => Some("`ca` and `certificate` go together"),
        }
    }

    /// How the part whose key is in `data` speaks with others; what it shows is renewed until
    /// the group ends.
    ///
    /// # Errors
    /// When there is no certificate to be had, or it is of no use.
    pub fn obtain(&self, data: &Path, tasks: &Tasks) -> Result<Security, ObtainError> {
        if let Some(mistake) = self.mistake() {
            return Err(ObtainError::Options(mistake));
        }
        let (Some(ca), Some(certificate)) = (&self.ca, &self.certificate) else {
            return Ok(Security::Plain);
        };
        let key = identity::load_or_create(data)?;
        let roots = read(ca)?;
        let shown = read_certificate(certificate)?;
        let credentials = Credentials::new(&key, &shown, &roots)?;
        renewal::keep(
            &credentials,
            shown,
            Source::File(certificate.clone()),
            tasks,
        );
        Ok(Security::Tls(credentials))
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, ObtainError> {
    std::fs::read(path).map_err(|cause| ObtainError::File {
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

//! The interception's CA, as people and trust stores look at it. Nothing is made here.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use darter_api::Digest;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Options,
    ca::{Authority, CERTIFICATE_FILE, CaError, KEY_FILE},
};

/// A CA that signs for listed registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    /// The PEM file with its certificate.
    pub certificate: PathBuf,
    /// The PEM file with its key.
    pub key: PathBuf,
    /// What the certificate's file holds.
    pub pem: String,
    /// The certificate's subject, for people.
    pub subject: String,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` has it, without
    /// the colons.
    pub fingerprint: String,
    /// When clients stop believing it.
    pub expires: SystemTime,
    /// Whether others than the key's owner may read it.
    pub is_key_open: bool,
}

/// Reads the CA that `options` name, or the one in `data`; none if none is made yet.
///
/// # Errors
/// When the files can't be read, or are no authority.
pub fn inspect(options: &Options, data: &Path) -> Result<Option<CaFacts>, CaError> {
    let (certificate, key) = match (&options.ca_certificate, &options.ca_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (None, None) => (data.join(CERTIFICATE_FILE), data.join(KEY_FILE)),
        _ => return Err(CaError::Half),
    };
    let is_made = options.ca_certificate.is_some() || certificate.exists();
    if !is_made {
        return Ok(None);
    }
    if !key.exists() {
        return Err(CaError::KeyLost { certificate, key });
    }
    let authority = Authority::load(&certificate, &key)?;
    let not_one = || CaError::Content {
        what: "certificate",
        path: certificate.clone(),
        cause: None,
    };
    let read = |cause| CaError::File {
        what: "read",
        path: certificate.clone(),
        cause,
    };
    let der = authority.chain.first().ok_or_else(not_one)?;
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| not_one())?;
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let mode = std::fs::metadata(&key).map_err(read)?.permissions().mode();
    Ok(Some(CaFacts {
        pem: std::fs::read_to_string(&certificate).map_err(read)?,
        subject: parsed.subject().to_string(),
        fingerprint: Digest::sha256(der).hex(),
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(expires),
        is_key_open: mode & 0o077 != 0,
        certificate,
        key,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_made_and_one_that_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::default();
        assert_eq!(inspect(&options, dir.path()).unwrap(), None);
        Authority::load_or_create(dir.path()).unwrap();
        let facts = inspect(&options, dir.path()).unwrap().unwrap();
        assert!(!facts.is_key_open);
        assert!(facts.subject.contains("Darter interception CA"));
        assert_eq!(facts.fingerprint.len(), 64);
        assert!(facts.expires > SystemTime::now());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&facts.key, open).unwrap();
        assert!(inspect(&options, dir.path()).unwrap().unwrap().is_key_open);
        std::fs::remove_file(&facts.key).unwrap();
        assert!(inspect(&options, dir.path()).is_err());
    }
}

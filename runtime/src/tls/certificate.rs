//! What a certificate says: whose key it is for, and when it is valid.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darter_api::HostId;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// An Ed25519 key's SubjectPublicKeyInfo before its 32 bytes (RFC 8410, section 4).
const ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Certificates begin so long before they are made: clocks differ.
pub(super) const BACKDATED: Duration = Duration::from_secs(3600);

/// A text or file is no node's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not in PEM form.
    #[error("no certificate in PEM form")]
    Pem,
    /// Not X.509.
    #[error("not an X.509 certificate")]
    Parse,
    /// For a key of another kind.
    #[error("not for an Ed25519 key, so no node's certificate")]
    Key,
}

/// A node's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// As it is shown.
    pub der: CertificateDer<'static>,
    /// Whose it is.
    pub host: HostId,
    /// When it was made.
    pub issued: SystemTime,
    /// Until when it counts.
    pub expires: SystemTime,
}

impl Certificate {
    /// Reads one from its DER form.
    ///
    /// # Errors
    /// When it is no node's certificate.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let host = host_of(&der).ok_or(CertificateError::Key)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| CertificateError::Parse)?;
        let validity = parsed.validity();
        let issued = time(validity.not_before.timestamp()) + BACKDATED;
        let expires = time(validity.not_after.timestamp());
        Ok(Self {
            der,
            host,
            issued,
            expires,
        })
    }

    /// The first certificate of a PEM text.
    ///
    /// # Errors
    /// When there is none, or it is no node's.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let first = CertificateDer::pem_slice_iter(pem).next();
        let der = first.and_then(Result::ok).ok_or(CertificateError::Pem)?;
        Self::from_der(der)
    }

    /// Whether it still counts then.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.expires
    }

    /// How long it lives in all.
    pub fn life(&self) -> Duration {
        self.expires.duration_since(self.issued).unwrap_or_default()
    }
}

/// Whose key a certificate is for; `None` if not a node's.
pub fn host_of(certificate: &CertificateDer<'_>) -> Option<HostId> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let key = parsed.subject_public_key_info();
    HostId::try_from(key.as_ref().strip_prefix(&ED25519)?).ok()
}

/// A certificate's time; one before 1970 has passed anyway.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// All certificates of a PEM text.
pub(super) fn all_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(CertificateError::Pem),
    }
}

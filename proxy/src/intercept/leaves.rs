//! Certificates of listed hosts, made when first asked for.
//!
//! All have one key, which lives as long as the process. The cache is bounded: it holds
//! only listed hosts, and each for a day.

use std::{fmt, sync::Arc, time::Duration};

use moka::sync::Cache;
use prometheus_client::metrics::counter::Counter;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ca::{Authority, CaError, validate};

/// How many hosts' certificates are kept.
const KEPT: u64 = 1024;
/// How long one is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long one is valid: longer than kept, shorter than clients object to.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// No certificate could be made for a host.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeafError {
    /// The certificate can't be signed.
    #[error("the certificate can't be made")]
    Make(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("the certificate can't be used")]
    Use(#[from] rustls::Error),
}

/// Makes and keeps certificates.
pub(super) struct Leaves {
    authority: Authority,
    key: KeyPair,
    kept: Cache<String, Arc<ServerConfig>>,
    issued: Counter,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaves(..)")
    }
}

impl Leaves {
    /// Signed by `authority`.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn new(authority: Authority, issued: Counter) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let kept = Cache::builder()
            .max_capacity(KEPT)
            .time_to_live(KEPT_FOR)
            .build();
        Ok(Self {
            authority,
            key,
            kept,
            issued,
        })
    }

    /// How to speak TLS as `host`: a name, or an IP address without brackets.
    ///
    /// # Errors
    /// When no certificate can have that name.
    pub(super) fn config(&self, host: &str) -> Result<Arc<ServerConfig>, Arc<LeafError>> {
        self.kept
            .try_get_with_by_ref(host, || self.make(host).map(Arc::new))
    }

    fn make(&self, host: &str) -> Result<ServerConfig, LeafError> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // A common name has at most 64 characters (RFC 5280, appendix A.1).
        let name = if host.len() <= 64 { host } else { "Darter" };
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validate(&mut params, LIFE);
        let leaf = params.signed_by(&self.key, &self.authority.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.authority.chain.iter().cloned());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.issued.inc();
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path()).unwrap();
        let issued = Counter::default();
        let leaves = Leaves::new(authority, issued.clone()).unwrap();
        let long = format!("{}.example", "a".repeat(63));
        for host in ["docker.io", "10.0.0.1", "::1", "my_registry", &long] {
            let first = leaves.config(host).unwrap();
            assert!(Arc::ptr_eq(&first, &leaves.config(host).unwrap()), "{host}");
        }
        assert_eq!(issued.get(), 5);
    }
}

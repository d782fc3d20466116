//! A certificate authority of the test's own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

/// Signs certificates; its own lies in a file that clients are told to trust.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    dir: PathBuf,
}

/// A certificate with its key, as files and in memory.
#[derive(Debug)]
pub struct Identity {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// DER.
    pub der: CertificateDer<'static>,
    /// PKCS #8.
    pub key_der: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one, with its files in `dir`.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        std::fs::write(dir.join("authority.pem"), certificate.pem())?;
        Ok(Self {
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            dir: dir.to_owned(),
        })
    }

    /// The file to trust.
    pub fn file(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    /// A certificate for `localhost` and 127.0.0.1, for servers and clients; `name` names
    /// its files.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn issue(&self, name: &str) -> Result<Identity> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let file = |end: &str| self.dir.join(format!("{name}.{end}"));
        std::fs::write(file("pem"), signed.pem())?;
        std::fs::write(file("key"), key.serialize_pem())?;
        let key_der = PrivateKeyDer::try_from(key.serialize_der());
        Ok(Identity {
            certificate: file("pem"),
            key: file("key"),
            der: signed.der().clone(),
            key_der: key_der.ok().context("a PKCS #8 key")?,
        })
    }

    /// How a server with this certificate speaks TLS; `only_ours` asks clients for a
    /// certificate of this authority too.
    ///
    /// # Errors
    /// When certificate and key don't fit.
    pub fn server(&self, identity: &Identity, only_ours: bool) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if only_ours {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone())?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![identity.der.clone()];
        let config = builder.with_single_cert(chain, identity.key_der.clone_key())?;
        Ok(Arc::new(config))
    }

    /// How a client that trusts this authority, and nobody else, speaks TLS.
    ///
    /// # Errors
    /// When the authority's own certificate is no good.
    pub fn client(&self) -> Result<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

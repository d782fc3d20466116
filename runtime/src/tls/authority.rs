//! The cluster's certificate authority: a key and a certificate in a directory.
//!
//! Owner of state: the directory, `ca.key` (mode 0600) and `ca.crt`. The key is written
//! first; a crash before the certificate leaves a key that the next start certifies. Whoever
//! has the key can let anybody into the cluster.

use std::{
    fmt, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use darter_api::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{AUTHORITY_NAME, Fingerprint, NODE_NAME, certificate};
use crate::identity::write_private;

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";
/// Of the authority itself: all nodes have to be told of another one.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Of a node's certificate: long enough for a weekend without the authority.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3 * 24 * 3600);

/// There is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file can't be used.
    #[error("the cluster's authority: can't {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// There is one already, and it must not be lost.
    #[error("{0} holds an authority already")]
    Exists(PathBuf),
    /// A file is not what it should be.
    #[error("{path} holds no {what} of an authority")]
    Content {
        /// What was expected.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A certificate can't be made.
    #[error("the cluster's authority can't sign")]
    Sign(#[source] rcgen::Error),
    /// The own port's key is refused.
    #[error("the authority's own port has no usable key")]
    Key(#[source] rustls::Error),
}

/// Signs the certificates of one cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    dir: PathBuf,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.dir.display())
    }
}

/// A node's public key, which is its name.
struct NodeKey<'a>(&'a HostId);

impl PublicKeyData for NodeKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl Authority {
    /// Makes a new one in `dir`.
    ///
    /// # Errors
    /// When there is one, or the directory can't be written to.
    pub fn create(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(CERTIFICATE);
        if path.try_exists().map_err(file("look for", &path))? {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        let key_path = dir.join(KEY);
        if !key_path.try_exists().map_err(file("look for", &key_path))? {
            let key =
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
            let pem = key.serialize_pem();
            write_private(&key_path, pem.as_bytes()).map_err(file("write", &key_path))?;
        }
        let pem = certify(&read_key(&key_path)?).map_err(AuthorityError::Sign)?;
        write_public(&path, &pem).map_err(file("write", &path))?;
        Self::load(dir)
    }

    /// The one in `dir`.
    ///
    /// # Errors
    /// When it is not there or not understood.
    pub fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(CERTIFICATE);
        let wrong = |what| AuthorityError::Content {
            what,
            path: path.clone(),
        };
        let pem = std::fs::read_to_string(&path).map_err(file("read", &path))?;
        let der = certificate::all_of(pem.as_bytes())
            .map_err(|_| wrong("certificate in PEM form"))?
            .swap_remove(0);
        let key = read_key(&dir.join(KEY))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| wrong("certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(wrong("certificate for the key beside it"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| wrong("certificate"))?;
        Ok(Self {
            issuer,
            pem,
            dir: dir.to_owned(),
            der,
        })
    }

    /// The one in `dir`, made if there is none.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub fn load_or_create(dir: &Path) -> Result<Self, AuthorityError> {
        match Self::create(dir) {
            Err(AuthorityError::Exists(_)) => Self::load(dir),
            created => created,
        }
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its certificate, for everybody to check others against.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a token carries, so that the joiner knows the authority when it sees it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// A certificate for a node's key, in PEM form, valid from now on for `life`.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn issue(&self, host: &HostId, life: Duration) -> Result<String, AuthorityError> {
        let mut params = leaf(NODE_NAME, &host.short(), life)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&NodeKey(host), &self.issuer);
        Ok(signed.map_err(AuthorityError::Sign)?.pem())
    }

    /// What its own port shows: a key that nobody else has seen, and the chain with the
    /// authority's certificate, whose fingerprint joiners know.
    pub(super) fn port_certificate(&self) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let mut params = leaf(AUTHORITY_NAME, "authority", LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key, &self.issuer);
        let chain = vec![
            signed.map_err(AuthorityError::Sign)?.der().clone(),
            self.der.clone(),
        ];
        let der = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)
            .map_err(AuthorityError::Key)?;
        Ok(CertifiedKey::new(chain, key))
    }
}

/// A certificate of somebody who signs no others.
fn leaf(name: &str, common: &str, life: Duration) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(AuthorityError::Sign)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    validate(&mut params, life);
    Ok(params)
}

fn certify(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    // In one trust store their subjects must differ.
    let name = format!("Darter cluster {:08x}", rand::random::<u32>());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validate(&mut params, LIFE);
    Ok(params.self_signed(key)?.pem())
}

/// Valid from an hour ago for `life` from now on, under a serial number of its own.
fn validate(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - certificate::BACKDATED).into();
    params.not_after = (now + life.min(LIFE)).into();
    let mut serial = rand::random::<[u8; 16]>();
    // Positive, and without leading zeros (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError + use<> {
    let path = path.to_owned();
    move |cause| AuthorityError::File { what, path, cause }
}

fn read_key(path: &Path) -> Result<KeyPair, AuthorityError> {
    let pem = std::fs::read_to_string(path).map_err(file("read", path))?;
    KeyPair::from_pem(&pem).map_err(|_| AuthorityError::Content {
        what: "private key in PEM form",
        path: path.to_owned(),
    })
}

/// Writes a file for everybody to read, whole or not at all.
fn write_public(path: &Path, content: &str) -> io::Result<()> {
    write_private(path, content.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

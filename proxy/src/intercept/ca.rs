//! The authority that signs for listed hosts: `ca.key` and `ca.crt` in the data
//! directory, made at the first start, or files of the operator's.
//!
//! The key is written first, mode 0600. A crash between the two files costs nothing: a
//! certificate is made anew from its key; a key is never made for a certificate, since
//! people may trust that one already.

use std::{
    fmt, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use darter_runtime::identity::write_private;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::{InconsistentKeys, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

pub(super) const KEY_FILE: &str = "ca.key";
pub(super) const CERTIFICATE_FILE: &str = "ca.crt";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Ten years: whoever trusts it has put it into trust stores by hand.
const LIFE: Duration = DAY.saturating_mul(3650);

/// There is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file can't be used.
    #[error("the interception's CA: can't {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// The certificate has lost its key.
    #[error(
        "the interception's CA: {certificate} is there but {key} is not; bring the key back, or remove the certificate to have both made anew"
    )]
    KeyLost {
        /// The certificate's file.
        certificate: PathBuf,
        /// The missing one.
        key: PathBuf,
    },
    /// A file is not what it should be.
    #[error("the interception's CA: {path} holds no {what}")]
    Content {
        /// What was expected.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// How it failed.
        #[source]
        cause: Option<rcgen::Error>,
    },
    /// Key and certificate belong to different authorities.
    #[error("the interception's CA: {key} is not the key of {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
    /// No key or certificate can be made.
    #[error("the interception's CA can't be made")]
    Make(#[source] rcgen::Error),
    /// One of the two files of the operator's is named, the other is not.
    #[error("`ca_certificate` and `ca_key` belong together")]
    Half,
}

/// Signs certificates of hosts.
pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Sent behind every leaf: the signing certificate first.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl Authority {
    /// The authority in `dir`, which is made if there is none.
    ///
    /// # Errors
    /// When the files can't be read, made or understood.
    pub(super) fn load_or_create(dir: &Path) -> Result<Self, CaError> {
        let (key_path, path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        let has = |path: &Path| path.try_exists().map_err(file("look for", path));
        match (has(&key_path)?, has(&path)?) {
            (true, true) => {}
            (false, true) => {
                return Err(CaError::KeyLost {
                    certificate: path,
                    key: key_path,
                });
            }
            (has_key, false) => {
                if !has_key {
                    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
                    let pem = key.map_err(CaError::Make)?.serialize_pem();
                    write_private(&key_path, pem.as_bytes()).map_err(file("write", &key_path))?;
                }
                let certificate = certify(&read_key(&key_path)?).map_err(CaError::Make)?;
                write_public(&path, &certificate).map_err(file("write", &path))?;
            }
        }
        Self::load(&path, &key_path)
    }

    /// An authority of the operator's. The certificate's file may hold the chain up to
    /// the root, the signing certificate first.
    ///
    /// # Errors
    /// When the files can't be read, or are no authority.
    pub(super) fn load(path: &Path, key_path: &Path) -> Result<Self, CaError> {
        let not = |what, cause| CaError::Content {
            what,
            path: path.to_owned(),
            cause,
        };
        let pem = std::fs::read(path).map_err(file("read", path))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| not("certificate in PEM form", None))?;
        let first = chain
            .first()
            .ok_or_else(|| not("certificate in PEM form", None))?;
        let key = read_key(key_path)?;
        if !is_key_of(&key, &chain) {
            return Err(CaError::Mismatch {
                certificate: path.to_owned(),
                key: key_path.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(first, key)
            .map_err(|cause| not("certificate", Some(cause)))?;
        let usages = issuer.key_usages();
        if !usages.is_empty() && !usages.contains(&KeyUsagePurpose::KeyCertSign) {
            return Err(not("certificate that may sign others", None));
        }
        Ok(Self { issuer, chain })
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError + use<> {
    let path = path.to_owned();
    move |cause| CaError::File { what, path, cause }
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let pem = std::fs::read_to_string(path).map_err(file("read", path))?;
    KeyPair::from_pem(&pem).map_err(|cause| CaError::Content {
        what: "private key in PEM form",
        path: path.to_owned(),
        cause: Some(cause),
    })
}

fn is_key_of(key: &KeyPair, chain: &[CertificateDer<'static>]) -> bool {
    let Ok(der) = PrivateKeyDer::try_from(key.serialize_der()) else {
        return false;
    };
    let Ok(signing) = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der) else {
        return false;
    };
    let both = CertifiedKey::new(chain.to_vec(), signing);
    matches!(
        both.keys_match(),
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown))
    )
}

fn certify(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    // Nodes have CAs of their own; in one trust store their subjects must differ.
    let name = format!("Darter interception CA {:08x}", rand::random::<u32>());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validate(&mut params, LIFE);
    Ok(params.self_signed(key)?.pem())
}

/// Valid from yesterday (clocks differ) for `life`, under a serial number of its own.
pub(super) fn validate(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
    let mut serial = rand::random::<[u8; 16]>();
    // Positive, and without leading zeros (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// Writes a file for everybody to read, whole or not at all.
fn write_public(path: &Path, content: &str) -> io::Result<()> {
    write_private(path, content.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn made_once_with_a_private_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(dir.path()).unwrap();
        let second = Authority::load_or_create(dir.path()).unwrap();
        assert_eq!(first.chain, second.chain);
        assert_eq!(mode(&dir.path().join(KEY_FILE)), 0o600);
        assert_eq!(mode(&dir.path().join(CERTIFICATE_FILE)), 0o644);
    }

    #[test]
    fn half_an_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        let second = Authority::load_or_create(dir.path()).unwrap();
        let key = |authority: &Authority| authority.issuer.key().serialize_der();
        assert_eq!(key(&first), key(&second));
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        let lost = Authority::load_or_create(dir.path());
        assert!(matches!(lost, Err(CaError::KeyLost { .. })));
    }

    #[test]
    fn what_is_no_authority() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::load_or_create(one.path()).unwrap();
        Authority::load_or_create(other.path()).unwrap();
        let (certificate, key) = (one.path().join(CERTIFICATE_FILE), one.path().join(KEY_FILE));
        let mixed = Authority::load(&certificate, &other.path().join(KEY_FILE));
        assert!(matches!(mixed, Err(CaError::Mismatch { .. })));

        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut leaf = CertificateParams::new(vec!["host".to_owned()]).unwrap();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = leaf.self_signed(&leaf_key).unwrap();
        std::fs::write(&certificate, leaf.pem()).unwrap();
        std::fs::write(&key, leaf_key.serialize_pem()).unwrap();
        let server = Authority::load(&certificate, &key);
        assert!(matches!(server, Err(CaError::Content { .. })));

        std::fs::write(&key, "garbage").unwrap();
        let garbage = Authority::load(&certificate, &key);
        assert!(matches!(garbage, Err(CaError::Content { .. })));
    }
}

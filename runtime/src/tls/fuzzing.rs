//! What must hold of everything that lets a node into a cluster.

use rustls_pki_types::CertificateDer;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Certificate, MemberRecord, Token, TokenRecord, certificate,
    registrar::{CertificateRequest, Issued, Refusal},
};

/// Tokens, requests for certificates and their answers, certificates, the authority's files;
/// the first byte says which.
pub fn joining(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            let token = std::str::from_utf8(rest)
                .ok()
                .and_then(|text| text.parse().ok());
            if let Some(token) = token {
                let token: Token = token;
                assert_eq!(token.reveal().parse(), Ok(token.clone()));
                // Somebody may have made one of the other.
                let shown = format!("{token:?}").replace(&token.fingerprint().to_string(), "");
                assert!(!shown.contains(&token.secret()));
            }
        }
        1 => {
            written_again::<CertificateRequest>(rest);
            written_again::<Issued>(rest);
            written_again::<Refusal>(rest);
            written_again::<TokenRecord>(rest);
            written_again::<MemberRecord>(rest);
        }
        2 => {
            let read = Certificate::from_der(CertificateDer::from(rest.to_vec()));
            if let Ok(read) = read {
                assert_eq!(certificate::host_of(&read.der), Some(read.host));
                // A life that makes no sense is none.
                read.life();
            }
        }
        _ => {
            if let Ok(all) = certificate::all_of(rest) {
                let first = all.into_iter().next().map(Certificate::from_der);
                assert_eq!(first, Some(Certificate::from_pem(rest)));
            }
        }
    }
}

fn written_again<T: Serialize + DeserializeOwned>(text: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(text) else {
        return;
    };
    let text = serde_json::to_string(&value).expect("it was text");
    let again: T = serde_json::from_str(&text).expect("it is what was written");
    assert_eq!(serde_json::to_string(&again).ok(), Some(text));
}

//! What must hold of every target that a client of the proxy names.

use http::Uri;

use super::target::Target;

/// CONNECT's targets and absolute ones: a name or an address in one way to write it, and a
/// port.
pub fn proxy_target(data: &[u8]) {
    let Ok(uri) = Uri::try_from(data) else {
        return;
    };
    if let Some(target) = Target::of_connect(&uri) {
        check(&target);
        let again = format!("{}:{}", target.url_host(), target.port);
        let again: Uri = again.parse().expect("it was one");
        assert_eq!(Target::of_connect(&again), Some(target));
    }
    if let Some(target) = Target::of_absolute(&uri) {
        check(&target);
        let again: Uri = format!("{}/", target.origin()).parse().expect("it was one");
        assert_eq!(Target::of_absolute(&again), Some(target));
    }
}

fn check(target: &Target) {
    let host = &target.host;
    assert!(target.port > 0 && !host.is_empty() && host.len() <= 253);
    assert!(host.is_ascii() && !host.bytes().any(|b| b.is_ascii_uppercase()));
    assert!(!host.contains(['@', '/', '%', '[', ']', ' ', '\\']));
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    assert!(is_address || !host.contains(':'));
}

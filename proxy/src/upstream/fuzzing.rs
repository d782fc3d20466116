//! What must hold of everything that a registry, its token server, or a file of credentials
//! says: where this proxy goes then is on a closed list.

use std::{net::IpAddr, sync::LazyLock};

use darter_api::Repository;
use http::{HeaderValue, Response, StatusCode, Uri, header};

use super::{
    own::{self, Found, Login},
    policy::{Follow, Policy, is_public},
    registry, request,
    token::{self, Challenge},
    way::Via,
};

/// A registry's base, its token servers and where it may redirect.
type Entry = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const LISTED: &[&str] = &["https://10.0.0.5:5000"];
const ENTRIES: [Entry; 4] = [
    ("https://registry-1.docker.io", &["tokens.other.org"], &[]),
    ("http://r.example.com:5000", &["r.example.com:5001"], &[]),
    (
        "https://r.example.co.uk",
        &[],
        &["cdn.internal", "192.168.7.0/24"],
    ),
    ("https://10.0.0.5:5000", &[], &["[fd00::1]:9000"]),
];

static POLICIES: LazyLock<Vec<(Uri, Policy)>> = LazyLock::new(|| {
    let own = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.to_string())
            .collect::<Vec<_>>()
    };
    let listed = LISTED.iter().map(|text| text.parse().expect("a URL"));
    let listed: Vec<Uri> = listed.collect();
    let made = ENTRIES.iter().map(|(base, realms, redirects)| {
        let base: Uri = base.parse().expect("a URL");
        let plain = base.scheme_str() == Some("http");
        let policy = Policy::new(&base, plain, &own(realms), &own(redirects), &listed);
        (base, policy.expect("a list"))
    });
    made.collect()
});

fn port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str()? {
        "http" => Some(uri.port_u16().unwrap_or(80)),
        "https" => Some(uri.port_u16().unwrap_or(443)),
        _ => None,
    }
}

/// `WWW-Authenticate`: the URL that is asked is of the very host that was allowed.
pub fn challenge(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let Some(challenge) = Challenge::parse(&value) else {
        return;
    };
    let repository: Repository = "library/a".parse().expect("a name");
    let Ok(realm) = challenge.realm.parse::<Uri>() else {
        return;
    };
    for (_, policy) in POLICIES
        .iter()
        .filter(|(_, policy)| policy.allows_realm(&realm))
    {
        for repository in [Some(&repository), None] {
            let Some(url) = challenge.url(repository) else {
                continue;
            };
            let host = |uri: &Uri| uri.host().map(str::to_lowercase);
            assert_eq!((host(&url), port(&url)), (host(&realm), port(&realm)));
            assert_eq!(url.scheme(), realm.scheme());
            assert!(policy.allows_realm(&url));
        }
    }
}

/// `Location`, the first byte saying whose: what is followed leads to a listed place, or to
/// nobody's inside.
pub fn redirect(data: &[u8]) {
    let Some((which, location)) = data.split_first() else {
        return;
    };
    let Ok(value) = HeaderValue::from_bytes(location) else {
        return;
    };
    let (base, policy) = &POLICIES[usize::from(*which) % ENTRIES.len()];
    let mut reply = Response::new(());
    reply.headers_mut().insert(header::LOCATION, value);
    let Ok(target) = request::location(base, &reply) else {
        return;
    };
    let follow = policy.follow(&target);
    if follow == Follow::Never {
        return;
    }
    // As the one that connects understands it.
    let host = target
        .host()
        .expect("it is followed")
        .trim_matches(['[', ']']);
    let understood = url::Url::parse(&target.to_string()).expect("it was one");
    let is_same = understood
        .host_str()
        .map(|host| host.trim_matches(['[', ']']));
    assert_eq!(is_same.map(str::to_lowercase), Some(host.to_lowercase()));
    assert!(understood.username().is_empty() && understood.password().is_none());
    if follow == Follow::Public {
        assert_eq!(target.scheme_str(), Some("https"));
        assert!(host.parse::<IpAddr>().map_or(true, is_public));
    } else {
        assert!(
            (base.scheme() == target.scheme() && base.host() == target.host())
                || host.starts_with("10.0.0.5")
                || host.starts_with("192.168.7.")
                || host.eq_ignore_ascii_case("cdn.internal")
                || host == "fd00::1"
        );
    }
}

/// The heads of a registry's replies: the first byte says of which status, each line is a
/// header's value.
pub(crate) fn reply(data: &[u8]) {
    let Some((status, rest)) = data.split_first() else {
        return;
    };
    let mut reply = Response::new(());
    if status & 1 == 1 {
        *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let names = [
        header::CONTENT_RANGE,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::RETRY_AFTER,
        header::ACCEPT_RANGES,
    ];
    for (name, value) in names.into_iter().zip(rest.split(|b| *b == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            reply.headers_mut().insert(name, value);
        }
    }
    let stat = registry::stat_of(&reply);
    assert!(
        stat.media_type
            .as_ref()
            .is_none_or(|text| text.len() <= 255)
    );
    if let (Some((start, Some(size))), true) = (registry::content_range(&reply), status & 1 == 1) {
        assert_eq!(stat.size, Some(size));
        assert!(start < size, "it begins behind its end");
    }
    let wait = request::retry_after(reply.headers());
    assert!(wait.is_none_or(|wait| wait.as_secs() <= 3600));
}

/// A token server's answer: its token makes a header that is not shown, and lives for
/// between a second and an hour.
pub(crate) fn token(data: &[u8]) {
    if let Some((header, life)) = token::parse(data).and_then(token::Reply::token) {
        assert!(header.is_sensitive() && header.as_bytes().starts_with(b"Bearer "));
        assert!((1..=3600).contains(&life.as_secs()));
    }
}

/// Docker's configuration and a helper's answer: what is found makes headers that are not
/// shown.
pub(crate) fn docker_config(data: &[u8]) {
    let names = ["docker.io", "index.docker.io", "r.test:5000"].map(str::to_owned);
    let found = own::in_docker_config(data, &names);
    let answered = own::answered(data).and_then(own::Answer::login);
    let found = found.and_then(|found| match found {
        Found::Login(login) => Some(login),
        Found::Helper(_) => None,
    });
    for login in found.into_iter().chain(answered) {
        match login {
            Login::Basic(value) | Login::Bearer(value) => assert!(value.is_sensitive()),
            Login::Identity(_) => {}
        }
    }
}

/// Proxies towards registries: what is wrong with one does not repeat its password.
pub(crate) fn way(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(via) = Via::parse(text) {
        let shown = format!("{via:?}");
        let at = text.find('@').map(|at| &text[..at]);
        let password = at.and_then(|before| before.rsplit_once(':'));
        let is_long = |password: &&str| password.len() > 12;
        if let Some(password) = password.map(|(_, password)| password).filter(is_long) {
            assert!(!shown.contains(password), "{shown}");
        }
    }
}

//! What must hold of every request, and of what registries say to be passed on.

use std::{ops::Range, sync::LazyLock};

use darter_api::UpstreamName;
use darter_runtime::Tasks;
use http::{HeaderMap, HeaderValue, Uri, header};

use super::{
    login, manifests,
    range::{Wanted, wanted},
    relay,
    route::{self, Kind, Target},
};
use crate::{
    manifest::Manifest,
    upstream::{UpstreamOptions, Upstreams},
};

const NAMES: [&str; 3] = ["docker.io", "ghcr.io", "r:5000"];

static UPSTREAMS: LazyLock<Upstreams> = LazyLock::new(|| {
    let options = [
        "docker.io",
        "ghcr.io=https://ghcr.io",
        "r:5000=http://127.0.0.1:1/base",
    ];
    Upstreams::new(&options.map(UpstreamOptions::parse), &Tasks::new())
        .expect("the list makes sense")
});

/// Paths and queries: only listed upstreams are meant, and what they are asked for is a path
/// of theirs. The first byte says whether the port has an upstream of its own.
pub fn route(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let Ok(uri) = Uri::try_from(text) else {
        return;
    };
    let fixed: Option<UpstreamName> = (kind & 1 == 1).then(|| NAMES[1].parse().expect("a name"));
    let Ok((upstream, target)) = route::route(&UPSTREAMS, fixed.as_ref(), &uri) else {
        return;
    };
    let name = upstream.name();
    assert!(NAMES.contains(&name.as_str()));
    if let Some(fixed) = &fixed {
        assert_eq!(name, fixed);
    } else if let Some(ns) = &target.ns {
        assert_eq!(UPSTREAMS.resolve(ns).map(|one| one.name()), Some(name));
    }
    if let Some(repository) = target.kind.repository() {
        assert!(!repository.as_str().contains(".."));
    }
    assert_eq!(path_of(&target.kind), target.path);
    assert!(target.query.iter().all(|query| !query.starts_with("ns=")));
    // As it is asked for, by whatever way of the mirror.
    let query = target.query.iter().map(|query| format!("?{query}"));
    let below = format!("/v2/{}{}", target.path, query.collect::<String>());
    let base = upstream.base().to_string();
    let asked = format!("{}{below}", base.trim_end_matches('/'));
    let asked: Uri = asked.parse().expect("it makes a URL");
    assert_eq!(asked.authority(), upstream.base().authority());
    assert!(asked.path().ends_with(&format!("/v2/{}", target.path)));
}

/// The way to write it.
fn path_of(kind: &Kind) -> String {
    use darter_api::session::Reference;
    match kind {
        Kind::Moved | Kind::Base => String::new(),
        Kind::Manifest(name, Reference::Tag(tag)) => format!("{name}/manifests/{tag}"),
        Kind::Manifest(name, Reference::Digest(digest)) => format!("{name}/manifests/{digest}"),
        Kind::Blob(name, digest) => format!("{name}/blobs/{digest}"),
        Kind::Tags(name) => format!("{name}/tags/list"),
        Kind::Referrers(name, digest) => format!("{name}/referrers/{digest}"),
        Kind::Catalog => "_catalog".to_owned(),
    }
}

/// `Range` headers over a content of a size that the first eight bytes say.
pub fn range(data: &[u8]) {
    let Some((size, text)) = data.split_first_chunk::<8>() else {
        return;
    };
    let size = u64::from_be_bytes(*size);
    let Ok(value) = HeaderValue::from_bytes(text) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::RANGE, value)]);
    match wanted(&headers, size) {
        Wanted::Part(range) => {
            assert!(range.start < range.end && range.end <= size, "{range:?}");
            // As the client would have to read it of the reply.
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&text).expect("it is one");
            let again = HeaderMap::from_iter([(header::RANGE, value)]);
            assert_eq!(wanted(&again, size), Wanted::Part(range));
        }
        Wanted::Parts(ranges) => {
            let inside = |range: &Range<u64>| range.start < range.end && range.end <= size;
            assert!(ranges.len() > 1 && ranges.iter().all(inside), "{ranges:?}");
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert!(bytes <= size, "{ranges:?}");
        }
        Wanted::Unsatisfiable => assert!(text.starts_with(b"bytes=")),
        Wanted::Whole => {}
    }
}

/// `Link` headers of lists, which must lead back to the mirror.
pub(crate) fn link(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let target = Target {
        kind: Kind::Catalog,
        path: "_catalog".to_owned(),
        query: None,
        prefix: "ghcr.io/".to_owned(),
        ns: Some("ghcr.io".to_owned()),
    };
    if let Some(own) = relay::own_link(&target, text) {
        let own = own.as_bytes();
        assert!(own.starts_with(b"</v2/ghcr.io/"));
        let end = own.iter().position(|b| *b == b'>').expect("it is closed");
        assert!(own[..end].ends_with(b"ns=ghcr.io"));
    }
}

/// Manifests and indexes: what others are told of them is bounded, and none of it is larger
/// than a content can be.
pub(crate) fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else {
        return;
    };
    for (_, tasks) in manifests::named(&manifest) {
        assert!(tasks.len() <= manifests::MAX_DESCRIPTORS);
        for (task, lengths) in tasks {
            assert!(lengths.size() <= darter_api::lengths::MAX_SIZE);
            assert_eq!(task.to_string().parse(), Ok(task));
        }
    }
}

/// What a client shows: what is for the registry is shown as it came, or as the pair that
/// the mirror's own token stands for.
pub(crate) fn authorization(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.clone())]);
    if let Some(shown) = login::shown(&headers) {
        let shown = shown.header();
        assert!(shown.is_sensitive());
        let is_pair = shown.as_bytes().starts_with(b"Basic ");
        assert!(shown == value || is_pair);
    }
}

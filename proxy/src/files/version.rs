//! What tells the versions of a file apart, and what its source says of one.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// A modification so long before the reply is told from one after it: times have whole seconds
/// (RFC 9110, section 8.8.2.2).
const STEADY: Duration = Duration::from_secs(1);

/// Of the headers that are kept with a version.
const MAX_HEADERS: usize = 4096;

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) length: u64,
    validator: Validator,
    /// What its source says of it, for clients.
    pub(super) headers: HeaderMap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Validator {
    /// A strong one, as it is written.
    Etag(HeaderValue),
    Modified(HeaderValue),
}

impl Version {
    /// From the reply to a HEAD; none if it can't be told from others, or is not for everybody
    /// to keep.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let is_plain = |name| {
            let value: Option<&HeaderValue> = headers.get(name);
            value.is_none_or(|value| value == "identity")
        };
        let kept = status == StatusCode::OK
            && is_plain(header::CONTENT_ENCODING)
            && is_plain(header::TRANSFER_ENCODING)
            && !headers.contains_key(header::SET_COOKIE)
            && !says(headers, &header::CACHE_CONTROL, &["no-store", "private"])
            && varies_by_nothing(headers);
        if !kept {
            return None;
        }
        let shown = shown(headers);
        let bytes: usize = shown.values().map(HeaderValue::len).sum();
        (bytes <= MAX_HEADERS).then_some(())?;
        Some(Self {
            length: text(headers, &header::CONTENT_LENGTH)?.parse().ok()?,
            validator: Validator::of(headers)?,
            headers: shown,
        })
    }

    /// What names it beside where it is.
    pub(super) fn identity(&self) -> Vec<u8> {
        let (kind, value) = match &self.validator {
            Validator::Etag(value) => ("etag", value),
            Validator::Modified(value) => ("modified", value),
        };
        let mut identity = format!("{} {kind} ", self.length).into_bytes();
        identity.extend_from_slice(value.as_bytes());
        identity
    }

    /// The header that lets a source give this version only.
    pub(super) fn condition(&self) -> (HeaderName, HeaderValue) {
        match &self.validator {
            Validator::Etag(value) => (header::IF_MATCH, value.clone()),
            Validator::Modified(value) => (header::IF_UNMODIFIED_SINCE, value.clone()),
        }
    }

    /// Whether a reply's headers are this version's.
    pub(super) fn is(&self, headers: &HeaderMap) -> bool {
        match &self.validator {
            Validator::Etag(value) => headers.get(header::ETAG) == Some(value),
            Validator::Modified(value) => headers.get(header::LAST_MODIFIED) == Some(value),
        }
    }

    /// Whether a client that has a part of what its `If-Range` names may have the rest of this.
    pub(super) fn goes_on_from(&self, if_range: Option<&HeaderValue>) -> bool {
        let (Validator::Etag(own) | Validator::Modified(own)) = &self.validator;
        if_range.is_none_or(|value| value == own)
    }
}

impl Validator {
    fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(tag) = headers.get(header::ETAG) {
            let strong = tag.as_bytes().starts_with(b"\"");
            return strong.then(|| Self::Etag(tag.clone()));
        }
        let time = |name| httpdate::parse_http_date(text(headers, name)?).ok();
        let (modified, now) = (time(&header::LAST_MODIFIED)?, time(&header::DATE)?);
        let steady = now.duration_since(modified).is_ok_and(|age| age >= STEADY);
        let value = headers.get(header::LAST_MODIFIED)?;
        steady.then(|| Self::Modified(value.clone()))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether one of these words is in a header's list.
fn says(headers: &HeaderMap, name: &HeaderName, words: &[&str]) -> bool {
    let values = headers.get_all(name).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split([',', '=', ' ']))
        .any(|word| {
            words
                .iter()
                .any(|known| word.trim().eq_ignore_ascii_case(known))
        })
}

/// Whether anybody who asks so gets the same: encodings are not asked for.
fn varies_by_nothing(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::VARY).iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("*").split(','))
        .all(|name| {
            let name = name.trim();
            name.is_empty() || name.eq_ignore_ascii_case("accept-encoding")
        })
}

/// What of the source's headers is the file's own.
fn shown(headers: &HeaderMap) -> HeaderMap {
    let names = [
        header::CONTENT_TYPE,
        header::CONTENT_DISPOSITION,
        header::CONTENT_LANGUAGE,
        header::ETAG,
        header::LAST_MODIFIED,
        header::CACHE_CONTROL,
        header::EXPIRES,
        header::VARY,
    ];
    let mut shown = HeaderMap::new();
    for name in names {
        for value in headers.get_all(&name) {
            shown.append(name.clone(), value.clone());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(more: &[(&'static str, &str)]) -> Option<Version> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-length", "9"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        Version::of(StatusCode::OK, &headers)
    }

    #[test]
    fn only_what_everybody_gets_and_can_be_told_apart() {
        let old = ("last-modified", "Sun, 06 Nov 1994 08:49:36 GMT");
        assert!(version(&[("etag", "\"a\"")]).is_some());
        assert!(version(&[old]).is_some());
        let tag = ("etag", "\"a\"");
        for not in [
            vec![],
            vec![("etag", "W/\"a\""), old],
            vec![("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
            vec![tag, ("set-cookie", "a=b")],
            vec![tag, ("cache-control", "max-age=3, Private")],
            vec![tag, ("cache-control", "no-store")],
            vec![tag, ("vary", "Accept-Encoding, Cookie")],
            vec![tag, ("vary", "*")],
            vec![tag, ("content-encoding", "gzip")],
            vec![tag, ("content-length", "x")],
        ] {
            assert_eq!(version(&not), None, "{not:?}");
        }
        assert!(version(&[tag, ("vary", "accept-encoding")]).is_some());
    }

    #[test]
    fn versions_are_told_apart() {
        let one = version(&[("etag", "\"a\"")]).unwrap();
        let other = version(&[("etag", "\"b\"")]).unwrap();
        let longer = version(&[("etag", "\"a\""), ("content-length", "10")]).unwrap();
        assert_ne!(one.identity(), other.identity());
        assert_ne!(one.identity(), longer.identity());
        assert!(one.is(&one.headers) && !one.is(&other.headers));
        assert!(one.goes_on_from(None) && one.goes_on_from(one.headers.get("etag")));
        assert!(!one.goes_on_from(other.headers.get("etag")));
        assert_eq!(one.condition().0, "if-match");
    }
}

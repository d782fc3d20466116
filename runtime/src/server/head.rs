//! Heads of HTTP/1.1 messages: those plain requests that the server answers itself.
//!
//! Pure. What is not a plain `GET` or `HEAD` without a body, in origin form, is left to
//! hyper, byte for byte as it came: so there is one parser for everything that can be
//! understood in two ways (RFC 9112, section 11).

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    response::Parts,
};

/// Headers of a plain request at most; clients send about ten.
const MAX_HEADERS: usize = 64;

/// Headers that make a request not plain: those that say something of its connection or
/// announce a body.
pub(super) const NOT_PLAIN: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::TE,
    header::TRAILER,
];

/// What the first bytes of a connection, or those after a response, are.
#[derive(Debug)]
pub(super) enum Asked {
    /// The beginning of a plain request, perhaps.
    More,
    /// A plain request, and the length of its head in bytes.
    Plain(Box<Request<()>>, usize),
    /// Something else.
    Else,
}

/// Looks at what has come so far.
pub(super) fn read(bytes: &[u8]) -> Asked {
    let begins = |method: &[u8]| {
        let common = bytes.len().min(method.len());
        bytes[..common] == method[..common]
    };
    if !begins(b"GET /") && !begins(b"HEAD /") {
        return Asked::Else;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => match plain(&parsed) {
            Some(request) => Asked::Plain(Box::new(request), length),
            None => Asked::Else,
        },
        Ok(httparse::Status::Partial) => Asked::More,
        Err(_) => Asked::Else,
    }
}

fn plain(parsed: &httparse::Request<'_, '_>) -> Option<Request<()>> {
    let method = match parsed.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    if parsed.version? != 1 {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    let kept = headers
        .get(header::CONNECTION)
        .is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
    if hosts != 1 || !kept || NOT_PLAIN.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = parsed.path?.parse::<Uri>().ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some(request)
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
}

/// How a response's body is sent; `exact` is its length, where that is known.
pub(super) fn framing(method: &Method, parts: &Parts, exact: Option<u64>) -> Framing {
    let never = parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    if never || method == Method::HEAD {
        return Framing::None;
    }
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    match length.or(exact) {
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Whether the response asks for the connection to be closed.
pub(super) fn closes(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONNECTION);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Writes a response's head.
pub(super) fn write(parts: &Parts, framing: Framing, close: bool, out: &mut BytesMut) {
    let reason = parts.status.canonical_reason().unwrap_or("");
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        if *name != header::TRANSFER_ENCODING && *name != header::CONNECTION {
            line(name.as_str(), value.as_bytes(), out);
        }
    }
    if !parts.headers.contains_key(header::DATE) {
        let now = httpdate::fmt_http_date(std::time::SystemTime::now());
        line("date", now.as_bytes(), out);
    }
    match framing {
        Framing::Length(length) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {
            line("content-length", length.to_string().as_bytes(), out);
        }
        Framing::Chunked => line("transfer-encoding", b"chunked", out),
        Framing::Length(_) | Framing::None => {}
    }
    if close {
        line("connection", b"close", out);
    }
    out.extend_from_slice(b"\r\n");
}

fn line(name: &str, value: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(head: &str) -> bool {
        matches!(read(head.as_bytes()), Asked::Plain(..))
    }

    #[test]
    fn a_plain_request_is_read_to_its_end() {
        let head = "GET /v2/?ns=docker.io HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n";
        let more = format!("{head}GET /next");
        let Asked::Plain(request, length) = read(more.as_bytes()) else {
            panic!("it is plain");
        };
        assert_eq!(length, head.len());
        assert_eq!(request.uri(), "/v2/?ns=docker.io");
        assert_eq!(request.headers()["range"], "bytes=0-1");
        for end in 0..head.len() {
            assert!(
                matches!(read(&head.as_bytes()[..end]), Asked::More),
                "{end}"
            );
        }
    }

    #[test]
    fn what_has_a_body_or_speaks_of_its_connection_is_not_plain() {
        assert!(is_plain(
            "HEAD / HTTP/1.1\r\nhost: x\r\nconnection: Keep-Alive\r\n\r\n"
        ));
        let others = [
            "POST / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\nhost: x\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
        ];
        for head in others {
            assert!(matches!(read(head.as_bytes()), Asked::Else), "{head:?}");
        }
    }

    #[test]
    fn a_head_says_how_long_its_body_is() {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        let get = Method::GET;
        assert_eq!(framing(&get, &parts, None), Framing::Chunked);
        assert_eq!(framing(&get, &parts, Some(3)), Framing::Length(3));
        assert_eq!(framing(&Method::HEAD, &parts, Some(3)), Framing::None);
        parts.status = StatusCode::NOT_MODIFIED;
        assert_eq!(framing(&get, &parts, Some(3)), Framing::None);
        parts.status = StatusCode::PARTIAL_CONTENT;
        parts
            .headers
            .insert(header::DATE, HeaderValue::from_static("then"));
        let mut out = BytesMut::new();
        write(&parts, Framing::Length(3), true, &mut out);
        let wanted = "HTTP/1.1 206 Partial Content\r\ndate: then\r\ncontent-length: 3\r\n\
            connection: close\r\n\r\n";
        assert_eq!(out, wanted.as_bytes());
    }
}

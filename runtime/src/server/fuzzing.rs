//! What must hold of every head of a request.

use http::{Method, Version, header};

use super::head::{Asked, NOT_PLAIN, read};

/// Heads: a plain one says nothing that could be understood in two ways, ends where it says,
/// and is waited for until it is whole.
pub fn request_head(data: &[u8]) {
    let Asked::Plain(request, length) = read(data) else {
        return;
    };
    let head = &data[..length];
    let whole = |bytes: &[u8]| matches!(read(bytes), Asked::Plain(_, same) if same == length);
    assert!(head.ends_with(b"\n") && whole(head));
    // The last bytes, one by one, and some earlier ends.
    let ends = (length.saturating_sub(64)..length).chain((0..length).step_by(37));
    for end in ends {
        assert!(matches!(read(&data[..end]), Asked::More), "{end}");
    }
    assert!(matches!(*request.method(), Method::GET | Method::HEAD));
    assert_eq!(request.version(), Version::HTTP_11);
    assert!(request.uri().path().starts_with('/') && request.uri().authority().is_none());
    let headers = request.headers();
    assert_eq!(headers.get_all(header::HOST).iter().count(), 1);
    assert!(NOT_PLAIN.iter().all(|name| !headers.contains_key(name)));

    let mut printed = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in headers {
        printed.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    printed.extend(b"\r\n");
    let Asked::Plain(again, _) = read(&printed) else {
        panic!("{:?} is not plain", String::from_utf8_lossy(&printed));
    };
    assert_eq!(again.uri(), request.uri());
    assert_eq!(again.headers(), request.headers());
}

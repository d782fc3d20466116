//! Several ranges of a content in one reply: `multipart/byteranges` (RFC 9110, section 14.6).
//!
//! A client that asks for several ranges may be given a whole content instead, but one that reads
//! a few parts of a large one wants these alone.

use std::ops::Range;

use bytes::Bytes;
use darter_runtime::server::span::Span;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::content::ReadError;

type Body = BoxStream<'static, Result<Span, ReadError>>;

/// The parts of one reply.
pub(super) struct Multipart {
    /// What no content has in it, but by a chance of one in 2^128.
    boundary: String,
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Multipart {
    /// These ranges, of which there is one at least, of a content of `size` bytes.
    pub(super) fn new(ranges: Vec<Range<u64>>, size: u64) -> Self {
        let boundary = format!("{:032x}", rand::random::<u128>());
        Self {
            boundary,
            ranges,
            size,
        }
    }

    /// Of the reply.
    pub(super) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Bytes of the whole body.
    pub(super) fn length(&self) -> u64 {
        let parts = self.ranges.iter().enumerate().map(|(number, range)| {
            let head = self.head(number, range).len() as u64;
            head + range.end - range.start
        });
        parts.sum::<u64>() + self.end().len() as u64
    }

    /// The body: `begun` is the first range, `read` begins the others, each when it is its turn.
    pub(super) fn body(
        self,
        begun: Body,
        read: impl Fn(Range<u64>) -> Body + Send + 'static,
    ) -> Body {
        let end = self.end();
        let ranges = self.ranges.clone();
        let mut begun = Some(begun);
        let parts = stream::iter(ranges.into_iter().enumerate());
        let parts = parts.flat_map(move |(number, range)| {
            let head = text(self.head(number, &range));
            let bytes = begun.take().unwrap_or_else(|| read(range));
            head.chain(bytes).boxed()
        });
        let mut failed = false;
        // After an error nothing more is right.
        parts
            .chain(text(end))
            .take_while(move |item| {
                let goes_on = !failed;
                failed |= item.is_err();
                std::future::ready(goes_on)
            })
            .boxed()
    }

    fn head(&self, number: usize, range: &Range<u64>) -> String {
        let line = if number == 0 { "" } else { "\r\n" };
        let (boundary, place) = (&self.boundary, content_range(range, self.size));
        format!(
            "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {place}\r\n\r\n"
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

fn text(text: String) -> Body {
    stream::iter([Ok(Span::Bytes(Bytes::from(text)))]).boxed()
}

/// Of a header `Content-Range`.
pub(super) fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    const CONTENT: &[u8] = b"0123456789abcdef";

    fn read(range: Range<u64>) -> Body {
        let bytes = &CONTENT[range.start as usize..range.end as usize];
        stream::iter([Ok(Span::Bytes(Bytes::from_static(bytes)))]).boxed()
    }

    #[tokio::test]
    async fn the_body_is_as_long_as_it_says_and_has_the_parts_in_order() {
        let parts = Multipart::new(vec![10..12, 0..3, 3..4], CONTENT.len() as u64);
        let (length, kind) = (parts.length(), parts.media_type());
        let boundary = kind.rsplit_once('=').unwrap().1.to_owned();
        let body = parts.body(read(10..12), read);
        let body = body.and_then(|span| async {
            match span {
                Span::Bytes(bytes) => Ok(bytes),
                Span::File(_) => unreachable!("all of it is in memory"),
            }
        });
        let body: Vec<Bytes> = body.try_collect().await.unwrap();
        let body = String::from_utf8(body.concat()).unwrap();
        assert_eq!(body.len() as u64, length);
        let part = |place: &str, bytes: &str| {
            format!(
                "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {place}/16\r\n\r\n{bytes}\r\n"
            )
        };
        let (first, second, third) = (part("10-11", "ab"), part("0-2", "012"), part("3-3", "3"));
        assert_eq!(body, format!("{first}{second}{third}--{boundary}--\r\n"));
    }

    #[tokio::test]
    async fn nothing_follows_an_error() {
        let parts = Multipart::new(vec![0..3, 3..4], CONTENT.len() as u64);
        let broken = stream::iter([Err(ReadError::ShuttingDown)]).boxed();
        let body: Vec<_> = parts.body(broken, read).collect().await;
        assert_eq!(body.len(), 2);
        assert!(body[0].is_ok() && body[1].is_err());
    }
}

//! Bodies that are parts of files.
//!
//! A body made of [`Span`]s says where its bytes lie instead of holding them: the server
//! hands them from the page cache to the socket (`sendfile(2)`) where it speaks HTTP itself
//! ([`super::direct`]), and reads them where hyper has to have them in memory (HTTP/2, TLS,
//! unusual requests). Owner of state: the stream is in the response's extensions and in its
//! body at once; whoever comes first takes it.

use std::{
    any::Any,
    fmt,
    fs::File,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use futures::{
    Stream,
    stream::{BoxStream, StreamExt as _},
};
use http::Response;
use parking_lot::Mutex;

/// Bytes read at once where a span is not sent from its file.
const READ: u64 = 256 * 1024;

/// The next bytes of a body.
#[derive(Debug)]
pub enum Span {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    File(FileSpan),
}

/// A part of a file that stays as it is until it was sent.
pub struct FileSpan {
    file: Arc<File>,
    range: Range<u64>,
    /// Dropped when the last byte was given to the kernel.
    keep: Option<Box<dyn Any + Send + Sync>>,
}

/// A stream of spans; an error ends the body short.
pub type Spans = BoxStream<'static, Result<Span, BoxError>>;

/// In a response's extensions: its body as spans.
#[derive(Clone)]
pub(super) struct Offer(Arc<Mutex<Option<Spans>>>);

/// The same body for who wants bytes.
enum Reading {
    Offered(Offer),
    Taken {
        spans: Spans,
        rest: Option<FileSpan>,
    },
}

impl FileSpan {
    /// `range` of `file`, which has to reach so far.
    pub const fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self {
            file,
            range,
            keep: None,
        }
    }

    /// Holds on to something until the last byte was given to the kernel.
    #[must_use]
    pub fn keeping(mut self, keep: impl Any + Send + Sync) -> Self {
        self.keep = Some(Box::new(keep));
        self
    }

    /// Bytes.
    pub const fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All its bytes, in memory.
    ///
    /// # Errors
    /// When the file can't be read, or ends too soon.
    pub fn read(mut self) -> io::Result<Bytes> {
        self.read_next(u64::MAX)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) const fn start(&self) -> u64 {
        self.range.start
    }

    /// The first `bytes` of it are done.
    pub(super) const fn advance(&mut self, bytes: u64) {
        self.range.start += bytes;
    }

    /// Reads the next bytes, at most `most`; none at its end.
    ///
    /// # Errors
    /// When the file can't be read, or ends too soon.
    pub(super) fn read_next(&mut self, most: u64) -> io::Result<Bytes> {
        let length = usize::try_from(self.len().min(most)).map_err(io::Error::other)?;
        let mut buffer: Vec<u8> = Vec::with_capacity(length);
        while buffer.len() < length {
            let at = self.range.start + buffer.len() as u64;
            let spare = rustix::buffer::spare_capacity(&mut buffer);
            match rustix::io::pread(&*self.file, spare, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        // The buffer may have had room for more than was asked for.
        buffer.truncate(length);
        self.advance(length as u64);
        let keep = self.keep.take_if(|_| self.range.is_empty());
        Ok(match keep {
            Some(keep) => Bytes::from_owner(Kept {
                bytes: buffer,
                _keep: keep,
            }),
            None => buffer.into(),
        })
    }
}

/// The last bytes of a span; what it keeps goes when they are written.
struct Kept {
    bytes: Vec<u8>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Span {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(span) => span.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All its bytes, in memory.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read(self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::File(span) => span.read(),
        }
    }
}

/// Gives a response a body of spans.
pub fn set_spans(response: &mut Response<Body>, spans: Spans) {
    let offer = Offer(Arc::new(Mutex::new(Some(spans))));
    *response.body_mut() = Body::from_stream(Reading::Offered(offer.clone()));
    response.extensions_mut().insert(offer);
}

impl Offer {
    /// The body, unless it was taken before.
    pub(super) fn take(&self) -> Option<Spans> {
        self.0.lock().take()
    }
}

impl Stream for Reading {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut *self {
                Self::Offered(offer) => {
                    let spans = offer.take();
                    let spans = spans.unwrap_or_else(|| futures::stream::empty().boxed());
                    *self = Self::Taken { spans, rest: None };
                }
                Self::Taken { spans, rest } => {
                    if let Some(span) = rest {
                        let bytes = span.read_next(READ);
                        if span.is_empty() || bytes.is_err() {
                            *rest = None;
                        }
                        return Poll::Ready(Some(bytes.map_err(BoxError::from)));
                    }
                    return Poll::Ready(match std::task::ready!(spans.poll_next_unpin(context)) {
                        Some(Ok(Span::Bytes(bytes))) => Some(Ok(bytes)),
                        Some(Ok(Span::File(span))) => {
                            *rest = Some(span).filter(|span| !span.is_empty());
                            continue;
                        }
                        Some(Err(error)) => Some(Err(error)),
                        None => None,
                    });
                }
            }
        }
    }
}

impl fmt::Debug for FileSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSpan({:?})", self.range)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Offer")
    }
}

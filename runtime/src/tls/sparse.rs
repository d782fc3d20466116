//! A server's end of a TLS connection that has no buffers while nothing moves.
//!
//! rustls' usual interface keeps 4 KiB for what comes next for as long as a connection lives: 40 MiB of
//! ten thousand silent ones. With its unbuffered interface what comes and goes has room until it is
//! taken. The protocol and its checks are rustls' own either way, with the same configuration. Each byte
//! is copied once more: this is for many connections that say little.
//!
//! Owner of state: [`SparseStream`]. Invariants: nothing is read while something decrypted waits to
//! be taken; of what is written at most one record waits for the socket. One task reads and writes:
//! who reads sends what is left to be sent, and is woken for it. Failure: after an error, of which the
//! other end is told if the socket has room for it, nothing more is read from the socket or written;
//! what came whole before is still given. The end of the socket without TLS's own end is an error.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    },
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Read at once.
const READ: usize = 4096;
/// Encrypted at once: a record's worth (RFC 8446, section 5.1).
const WRITE: usize = 16 * 1024;
/// What a record's head, tag and kind need, and some message of TLS' own before it.
const MARGIN: usize = 256;
/// What may have come of a message of TLS' own that is not whole; a record is shorter.
const MOST: usize = 64 * 1024;

/// See the module.
pub struct SparseStream {
    socket: TcpStream,
    tls: UnbufferedServerConnection,
    /// Came, and is no whole record yet.
    incoming: Vec<u8>,
    /// Decrypted, and not taken yet.
    plain: BytesMut,
    /// Encrypted, and not sent yet.
    outgoing: BytesMut,
    stands: Stands,
    /// The other end was told that nothing more comes.
    said_end: bool,
}

/// Whether anything more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// TLS' own end came.
    Ended,
    Failed,
}

/// What is to be told the other end.
#[derive(Clone, Copy)]
enum Word<'a> {
    Nothing,
    Bytes(&'a [u8]),
    End,
}

/// What could not be put into the room that there was.
enum Refused {
    Needs(usize),
    Failed(io::Error),
}

impl std::fmt::Debug for SparseStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SparseStream({:?}, {:?})", self.socket, self.stands)
    }
}

impl SparseStream {
    /// Shakes hands. Not cancel-safe: the connection is lost.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub(super) async fn accept(config: Arc<ServerConfig>, socket: TcpStream) -> io::Result<Self> {
        let mut stream = Self {
            socket,
            tls: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            incoming: Vec::new(),
            plain: BytesMut::new(),
            outgoing: BytesMut::new(),
            stands: Stands::Open,
            said_end: false,
        };
        std::future::poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    /// What the other end has shown, which was checked.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.tls.peer_certificates()
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(context))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(context))?;
        }
    }

    /// Reads once, and takes what is whole of it.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            let held = self.incoming.len();
            self.incoming.resize(held + READ, 0);
            let read = self.socket.try_read(&mut self.incoming[held..]);
            let came = read.as_ref().map_or(0, |came| *came);
            self.incoming.truncate(held + came);
            let taken = match read {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.process(Word::Nothing),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    self.give_back();
                    continue;
                }
                Err(cause) => Err(cause),
            };
            self.give_back();
            return Poll::Ready(taken.inspect_err(|_| self.fail(context)));
        }
    }

    /// Nothing more is to come or go but TLS' alert, if there is one: the error is what counts.
    fn fail(&mut self, context: &mut Context<'_>) {
        self.stands = Stands::Failed;
        let _ = self.poll_send(context);
    }

    fn give_back(&mut self) {
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = Pin::new(&mut self.socket).poll_write(context, &self.outgoing);
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.advance(sent),
            }
        }
        self.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Takes what came, and says this after what TLS has to say itself.
    fn process(&mut self, word: Word<'_>) -> io::Result<()> {
        let cause = match self.take(word) {
            Ok(()) if self.incoming.len() <= MOST => return Ok(()),
            Ok(()) => io::Error::other("a message of TLS without an end"),
            Err(cause) => cause,
        };
        self.stands = Stands::Failed;
        self.encode_alert()?;
        Err(cause)
    }

    fn take(&mut self, word: Word<'_>) -> io::Result<()> {
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    let encode = |room: &mut [u8]| Ok(message.encode(room)?);
                    append(&mut self.outgoing, MARGIN, encode)?;
                }
                // It goes before anything that is said later.
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::PeerClosed => self.stands = Stands::Ended,
                ConnectionState::WriteTraffic(mut traffic) => {
                    match word {
                        Word::Nothing => {}
                        Word::Bytes(bytes) => {
                            let encrypt = |room: &mut [u8]| Ok(traffic.encrypt(bytes, room)?);
                            append(&mut self.outgoing, bytes.len() + MARGIN, encrypt)?;
                        }
                        Word::End => {
                            let end = |room: &mut [u8]| Ok(traffic.queue_close_notify(room)?);
                            append(&mut self.outgoing, MARGIN, end)?;
                        }
                    }
                    self.incoming.drain(..discard);
                    return Ok(());
                }
                ConnectionState::Closed | ConnectionState::BlockedHandshake => {
                    self.incoming.drain(..discard);
                    return match word {
                        Word::Bytes(_) => Err(io::ErrorKind::BrokenPipe.into()),
                        Word::Nothing | Word::End => Ok(()),
                    };
                }
                _ => return Err(io::Error::other("no other state without early data")),
            }
            self.incoming.drain(..discard);
        }
    }

    /// What TLS has to say of an error. It comes before anything that may have come after that.
    fn encode_alert(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            let status = self.tls.process_tls_records(&mut self.incoming);
            let Ok(ConnectionState::EncodeTlsData(mut message)) = status.state else {
                break;
            };
            let encode = |room: &mut [u8]| Ok(message.encode(room)?);
            append(&mut self.outgoing, MARGIN, encode)?;
        }
        Ok(())
    }
}

/// Lets `write` write behind what is there, with so much room or what it says it needs.
fn append(
    outgoing: &mut BytesMut,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Refused>,
) -> io::Result<()> {
    let held = outgoing.len();
    loop {
        outgoing.resize(held + room, 0);
        let written = write(&mut outgoing[held..]);
        outgoing.truncate(held + written.as_ref().map_or(0, |written| *written));
        match written {
            Ok(_) => return Ok(()),
            Err(Refused::Needs(bytes)) if bytes > room => room = bytes,
            Err(Refused::Needs(_)) => return Err(io::Error::other("no room is enough")),
            Err(Refused::Failed(cause)) => return Err(cause),
        }
    }
}

fn invalid(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

impl From<EncodeError> for Refused {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Needs(required_size)
            }
            error => Self::Failed(io::Error::other(error)),
        }
    }
}

impl From<EncryptError> for Refused {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Needs(required_size)
            }
            error => Self::Failed(io::Error::other(error)),
        }
    }
}

impl AsyncRead for SparseStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.is_empty() {
                let length = self.plain.len().min(buffer.remaining());
                buffer.put_slice(&self.plain[..length]);
                self.plain.advance(length);
                if self.plain.is_empty() {
                    self.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            match self.stands {
                Stands::Open => {}
                Stands::Ended => return Poll::Ready(Ok(())),
                Stands::Failed => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            // Who only reads sends what TLS answers, too.
            if let Poll::Ready(Err(cause)) = self.poll_send(context) {
                self.stands = Stands::Failed;
                return Poll::Ready(Err(cause));
            }
            match ready!(self.poll_receive(context)) {
                Err(cause) if self.plain.is_empty() => return Poll::Ready(Err(cause)),
                _ => {}
            }
        }
    }
}

impl AsyncWrite for SparseStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stands == Stands::Failed || self.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_send(context))?;
        let bytes = &bytes[..bytes.len().min(WRITE)];
        self.process(Word::Bytes(bytes))
            .inspect_err(|_| self.fail(context))?;
        match self.poll_send(context) {
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stands != Stands::Failed && !self.said_end {
            self.said_end = true;
            self.process(Word::End)?;
        }
        ready!(self.poll_send(context))?;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(context)) {
            // The other end was quicker.
            Err(cause) if cause.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

#[cfg(test)]
mod tests;

//! Kept connections to parents, and the little HTTP/1.1 that pieces need.
//!
//! Owner of state: [`Parents`] owns the connections that nobody uses; one that is in use
//! belongs to its request. The one that was opened first is used first. A connection is given
//! back only after a whole reply, and is closed when dropped in the middle of one. Failure: one
//! that the parent has closed meanwhile is replaced by a new one, once, before a byte of a reply
//! has come.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use darter_api::GROUP_BYTES;
use darter_runtime::tls::{Connector, Stream};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::MEDIA_TYPE_HEADER;

/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Less than a parent keeps an idle connection (30 s).
const KEPT: Duration = Duration::from_secs(20);
/// Unused connections to one parent.
const MOST_UNUSED: usize = 16;
/// Of a reply's head, in bytes.
const MOST_HEAD: usize = 8 * 1024;
/// Headers of a reply.
const MOST_HEADERS: usize = 32;
/// Of the body of a refusal, in bytes; more is not read away.
const MOST_REFUSAL: u64 = 4 * 1024;

/// See the module. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Parents {
    unused: Arc<Mutex<HashMap<SocketAddr, Vec<Unused>>>>,
    /// Whom a connection is being made to ahead of the first request.
    opening: Arc<Mutex<HashSet<SocketAddr>>>,
    connector: Connector,
}

#[derive(Debug)]
struct Unused {
    connection: Connection,
    since: Instant,
}

impl Unused {
    /// Whether the parent keeps its end as well.
    fn is_kept(&self) -> bool {
        self.since.elapsed() < KEPT
    }
}

/// A connection to a parent is being made ahead of the first request.
struct Opening<'a> {
    all: &'a Mutex<HashSet<SocketAddr>>,
    address: SocketAddr,
}

impl<'a> Opening<'a> {
    /// `None` where one is being made already.
    fn begin(all: &'a Mutex<HashSet<SocketAddr>>, address: SocketAddr) -> Option<Self> {
        let is_first = all.lock().insert(address);
        is_first.then_some(Self { all, address })
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.address);
    }
}

/// The head of a reply.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Of the body, in bytes.
    pub(super) length: u64,
    /// Of a manifest.
    pub(super) media_type: Option<String>,
    kept: bool,
}

impl Parents {
    /// Connects to parents so.
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            unused: Arc::default(),
            opening: Arc::default(),
            connector,
        }
    }

    /// Sends a request's head and reads the reply's.
    ///
    /// # Errors
    /// When the parent can't be reached, or does not speak HTTP/1.1.
    pub(super) async fn ask(
        &self,
        address: SocketAddr,
        request: &str,
    ) -> io::Result<(Connection, Head)> {
        if let Some(mut connection) = self.take(address)
            && let Ok(head) = connection.ask(request).await
        {
            return Ok((connection, head));
        }
        let mut connection = Connection::open(&self.connector, address).await?;
        let head = connection.ask(request).await?;
        Ok((connection, head))
    }

    /// Connects to a parent that will be asked for pieces, unless a connection is kept: while
    /// links are quiet it takes one round trip, and TCP learns how short that is. Linux makes a connection
    /// that was opened behind full queues send in the smallest of bursts for minutes (`tcp_tso_rtt_log` in
    /// its ip-sysctl.rst: the least round trip of `tcp_min_rtt_wlen` decides).
    ///
    /// # Errors
    /// When the parent can't be reached.
    pub(super) async fn prepare(&self, address: SocketAddr) -> io::Result<()> {
        let is_kept = |unused: &Vec<Unused>| unused.iter().any(Unused::is_kept);
        if self.unused.lock().get(&address).is_some_and(is_kept) {
            return Ok(());
        }
        let Some(_opening) = Opening::begin(&self.opening, address) else {
            return Ok(());
        };
        let opened = Connection::open(&self.connector, address).await?;
        self.keep(address, opened);
        Ok(())
    }

    /// The one that was opened first.
    fn take(&self, address: SocketAddr) -> Option<Connection> {
        let mut all = self.unused.lock();
        let unused = all.get_mut(&address)?;
        unused.sort_unstable_by_key(|one| Reverse(one.connection.opened));
        loop {
            let mut first = unused.pop()?;
            if first.is_kept() && first.connection.is_quiet() {
                return Some(first.connection);
            }
        }
    }

    /// Keeps a connection whose reply was read whole.
    pub(super) fn give_back(&self, address: SocketAddr, mut connection: Connection, head: &Head) {
        if !head.kept || connection.has_more() {
            return;
        }
        connection.buffer = Vec::new();
        connection.given = 0;
        connection.wake_after(1);
        self.keep(address, connection);
    }

    fn keep(&self, address: SocketAddr, connection: Connection) {
        let mut all = self.unused.lock();
        all.retain(|_, unused| {
            unused.retain(Unused::is_kept);
            !unused.is_empty()
        });
        let unused = all.entry(address).or_default();
        if unused.len() < MOST_UNUSED {
            let since = Instant::now();
            unused.push(Unused { connection, since });
        }
    }
}

/// One connection, and what was read of it too early.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Stream,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    given: usize,
    /// So many bytes wake a reader.
    low_water: u32,
    opened: Instant,
}

impl Connection {
    async fn open(connector: &Connector, address: SocketAddr) -> io::Result<Self> {
        let socket = timeout(CONNECT_TIMEOUT, connector.connect(address)).await??;
        Ok(Self {
            socket,
            buffer: Vec::new(),
            given: 0,
            low_water: 1,
            opened: Instant::now(),
        })
    }

    /// Whether nothing came that was not asked for, not even its end.
    fn is_quiet(&mut self) -> bool {
        self.socket.is_quiet()
    }

    fn has_more(&self) -> bool {
        self.given < self.buffer.len()
    }

    async fn ask(&mut self, request: &str) -> io::Result<Head> {
        self.buffer.clear();
        self.given = 0;
        self.socket.write_all(request.as_bytes()).await?;
        loop {
            if let Some((head, length)) = parse(&self.buffer)? {
                self.given = length;
                return Ok(head);
            }
            if self.buffer.len() >= MOST_HEAD {
                return Err(invalid("its reply has too long a head"));
            }
            // Groups follow in the same buffer.
            self.buffer.reserve_exact(GROUP_BYTES as usize);
            let room = (MOST_HEAD - self.buffer.len()) as u64;
            let mut socket = (&mut self.socket).take(room);
            if socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until `length` bytes that were not given out are there, or the end, and says how
    /// many came new; 0 when they all are. Cancel-safe.
    pub(super) async fn read_towards(&mut self, length: usize) -> io::Result<u64> {
        let there = self.buffer.len() - self.given;
        self.wake_after(length.saturating_sub(there));
        self.read_some(length).await
    }

    /// As [`Connection::read_towards`], without waiting for all of them.
    pub(super) async fn read_any(&mut self, length: usize) -> io::Result<u64> {
        self.wake_after(1);
        self.read_some(length).await
    }

    fn wake_after(&mut self, bytes: usize) {
        let bytes = bytes.clamp(1, GROUP_BYTES as usize) as u32;
        if self.low_water != bytes {
            self.socket.wake_after(bytes);
            self.low_water = bytes;
        }
    }

    async fn read_some(&mut self, length: usize) -> io::Result<u64> {
        let there = self.buffer.len() - self.given;
        if there >= length {
            return Ok(0);
        }
        if self.given > 0 {
            self.buffer.drain(..self.given);
            self.given = 0;
        }
        self.buffer.reserve_exact(length - there);
        let missing = (length - there) as u64;
        let mut socket = (&mut self.socket).take(missing);
        match socket.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            got => Ok(got as u64),
        }
    }

    /// Gives out the next `length` bytes, which [`Connection::read_towards`] has read.
    pub(super) fn next(&mut self, length: usize) -> &[u8] {
        let start = self.given;
        self.given = (start + length).min(self.buffer.len());
        &self.buffer[start..self.given]
    }

    /// Reads the body of a refusal away; whether it was.
    pub(super) async fn read_away(&mut self, head: &Head) -> bool {
        if head.length > MOST_REFUSAL {
            return false;
        }
        let length = head.length as usize;
        loop {
            match self.read_towards(length).await {
                Ok(0) => {
                    self.next(length);
                    return true;
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A reply's head and its length in bytes, when all of it is there.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut reply = httparse::Response::new(&mut headers);
    let length = match reply.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid("its reply is not HTTP/1.1")),
    };
    let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok());
    let find = |name: &str| {
        let mut headers = reply.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body = find("content-length").and_then(|value| value.parse().ok());
    let (Some(status), Some(body), Some(1)) = (status, body, reply.version) else {
        return Err(invalid("its reply has no length"));
    };
    let media_type = find(MEDIA_TYPE_HEADER).filter(|text| text.len() <= 255);
    let head = Head {
        status,
        length: body,
        media_type: media_type.map(str::to_owned),
        kept: find("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")),
    };
    Ok(Some((head, length)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nDarter-Media-Type: a/b\r\n\r\n";
        for end in 0..head.len() {
            assert!(parse(&head[..end]).unwrap().is_none());
        }
        let (parsed, length) = parse(head).unwrap().unwrap();
        assert_eq!((parsed.length, length), (12, head.len()));
        assert_eq!(parsed.media_type.as_deref(), Some("a/b"));
        assert!(parsed.kept);
    }

    #[tokio::test]
    async fn a_connection_that_was_made_ahead_is_used_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parents = Parents::new(Connector::plain());
        let (first, second) = tokio::join!(parents.prepare(address), parents.prepare(address));
        first.and(second).unwrap();
        let (_ahead, from) = listener.accept().await.unwrap();
        let later = Connection::open(&parents.connector, address).await.unwrap();
        let (_later, _) = listener.accept().await.unwrap();
        parents.keep(address, later);
        let name = |connection: Connection| match connection.socket {
            Stream::Plain(socket) => socket.local_addr().unwrap(),
            Stream::Tls(_) => unreachable!("it is plain text"),
        };
        assert_eq!(name(parents.take(address).unwrap()), from);
        assert!(parents.take(address).is_some(), "the later one");
        assert!(parents.take(address).is_none(), "one was made ahead");

        parents.prepare(address).await.unwrap();
        let _kept = listener.accept().await.unwrap();
        for unused in parents.unused.lock().get_mut(&address).unwrap() {
            unused.since -= KEPT;
        }
        parents.prepare(address).await.unwrap();
        let fresh = parents
            .take(address)
            .expect("the other is not kept any more");
        let (_fresh, from) = listener.accept().await.unwrap();
        assert_eq!(name(fresh), from);

        drop(listener);
        assert!(parents.prepare(address).await.is_err());
        assert!(parents.opening.lock().is_empty());
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let wrong: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
        ];
        for bytes in wrong {
            assert!(parse(bytes).is_err());
        }
    }
}

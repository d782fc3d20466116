//! A registry of a script: good by itself, and as bad as a test wants it.
//!
//! It speaks HTTP/1.1 over plain sockets, so that it can do what no HTTP library does:
//! fall silent, cut a body, reset a connection. It remembers every request, and counts
//! the body bytes that left.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes written at once.
const CHUNK: usize = 64 * 1024;

/// Bytes that no compressor makes smaller.
pub(crate) fn content(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// A request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Which connection brought it.
    pub(crate) connection: usize,
    /// How many of this method and path came before.
    pub(crate) before: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    /// The first byte that is asked for.
    pub(crate) fn start(&self) -> u64 {
        let range = self
            .header("range")
            .and_then(|text| text.strip_prefix("bytes="));
        let start = range.and_then(|text| text.split('-').next()?.parse().ok());
        start.unwrap_or(0)
    }
}

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    /// Until the connection ends.
    UntilEnd,
}

/// How a reply ends.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// As it should, and the connection stays.
    Good,
    /// Not a byte ever comes.
    Silent,
    /// The connection ends instead of a reply.
    HangUp,
    /// A header byte every so often.
    Drip(Duration),
    /// After so many bytes of the body.
    Fin(usize),
    Rst(usize),
    Stall(usize),
    /// So many bytes of the body, and more once the gate is open.
    Gate(usize, watch::Receiver<bool>),
    /// All of it, after a while.
    Late(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) framing: Framing,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            framing: Framing::Length,
            end: End::Good,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn silent() -> Self {
        Self::new(200).end(End::Silent)
    }
}

/// What of a repository a caller must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Public,
    /// A token that anybody gets.
    AnonymousToken,
    /// This Authorization value; an anonymous token is given, and is not enough.
    Bearer(String),
    /// This Authorization value; no token server is named.
    Basic(String),
}

#[derive(Debug, Clone)]
struct Repository {
    access: Access,
    contents: HashMap<String, (Bytes, &'static str)>,
}

/// What a good registry has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    repositories: HashMap<String, Repository>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories
            .entry(name.to_owned())
            .or_insert_with(|| Repository {
                access: Access::Public,
                contents: HashMap::new(),
            })
    }

    pub(crate) fn access(mut self, repository: &str, access: Access) -> Self {
        self.repository(repository).access = access;
        self
    }

    pub(crate) fn blob(mut self, repository: &str, bytes: &Bytes) -> Self {
        let path = format!("blobs/{}", Digest::sha256(bytes));
        let blob = (bytes.clone(), "application/octet-stream");
        self.repository(repository).contents.insert(path, blob);
        self
    }

    pub(crate) fn manifest(mut self, repository: &str, tag: &str, bytes: &Bytes) -> Self {
        let path = |reference: &str| format!("manifests/{reference}");
        let digest = Digest::sha256(bytes).to_string();
        let contents = &mut self.repository(repository).contents;
        for reference in [tag, &digest] {
            contents.insert(path(reference), (bytes.clone(), MANIFEST_TYPE));
        }
        self
    }

    /// Any content below a repository's name.
    pub(crate) fn raw(
        mut self,
        repository: &str,
        path: &str,
        bytes: &Bytes,
        media_type: &'static str,
    ) -> Self {
        let content = (bytes.clone(), media_type);
        self.repository(repository)
            .contents
            .insert(path.to_owned(), content);
        self
    }

    /// What a good registry says.
    fn reply(&self, seen: &Seen, own: SocketAddr) -> Reply {
        if seen.path == "/token" {
            let repository = seen.query.split("repository%3A").nth(1).unwrap_or_default();
            let repository = repository.split("%3A").next().unwrap_or_default();
            let token = format!("anonymous-{}", repository.replace("%2F", "/"));
            let body = format!("{{\"token\":\"{token}\",\"expires_in\":300}}");
            return Reply::new(200).body(body);
        }
        let Some((name, path)) = self.split(&seen.path) else {
            return unknown("NAME_UNKNOWN");
        };
        let repository = &self.repositories[name];
        if let Some(refusal) = refusal(&repository.access, name, seen, own) {
            return refusal;
        }
        match repository.contents.get(path) {
            Some((bytes, media_type)) => found(seen, bytes, media_type),
            None => unknown("BLOB_UNKNOWN"),
        }
    }

    fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = path.strip_prefix("/v2/")?;
        ["/blobs/", "/manifests/", "/tags/", "/referrers/"]
            .iter()
            .find_map(|word| {
                let at = rest.find(word)?;
                Some((&rest[..at], &rest[at + 1..]))
            })
            .filter(|(name, _)| self.repositories.contains_key(*name))
    }
}

fn unknown(code: &str) -> Reply {
    Reply::new(404).body(format!("{{\"errors\":[{{\"code\":\"{code}\"}}]}}"))
}

/// The registry's own words when it refuses.
pub(crate) const OWN_WORDS: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"scripted: you may not"}]}"#;

fn refusal(access: &Access, name: &str, seen: &Seen, own: SocketAddr) -> Option<Reply> {
    let shown = seen.header("authorization");
    let anonymous = format!("Bearer anonymous-{name}");
    let (wanted, challenge) = match access {
        Access::Public => return None,
        Access::AnonymousToken => (anonymous.as_str(), None),
        Access::Bearer(wanted) => (wanted.as_str(), None),
        Access::Basic(wanted) => (wanted.as_str(), Some("Basic realm=\"scripted\"".to_owned())),
    };
    if shown == Some(wanted) {
        return None;
    }
    let challenge = challenge.unwrap_or_else(|| {
        format!(
            "Bearer realm=\"http://{own}/token\",service=\"scripted\",scope=\"repository:{name}:pull\""
        )
    });
    let reply = Reply::new(401)
        .header("WWW-Authenticate", challenge)
        .header("Content-Type", "application/json")
        .body(OWN_WORDS);
    Some(reply)
}

fn found(seen: &Seen, bytes: &Bytes, media_type: &str) -> Reply {
    let digest = Digest::sha256(bytes).to_string();
    let reply = |status| {
        Reply::new(status)
            .header("Content-Type", media_type)
            .header("Docker-Content-Digest", digest.clone())
    };
    let range = seen
        .header("range")
        .and_then(|text| text.strip_prefix("bytes="));
    let Some((start, end)) = range.and_then(|text| text.split_once('-')) else {
        return reply(200).body(bytes.clone());
    };
    let size = bytes.len();
    let start: usize = start.parse().expect("the proxy asks for plain ranges");
    let end = end.parse().map_or(size, |last: usize| (last + 1).min(size));
    if start >= size {
        return reply(416).header("Content-Range", format!("bytes */{size}"));
    }
    reply(206)
        .header("Content-Range", format!("bytes {start}-{}/{size}", end - 1))
        .body(bytes.slice(start..end))
}

type Twist = dyn Fn(&Seen, Reply) -> Reply + Send + Sync;

/// The running registry. It ends with the tasks it was started in.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    shelf: Shelf,
    twist: Box<Twist>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    tasks: Tasks,
}

impl Registry {
    /// A good one.
    pub(crate) async fn good(shelf: Shelf, tasks: &Tasks) -> Self {
        Self::twisted(shelf, tasks, |_, reply| reply).await
    }

    /// One whose replies `twist` changes.
    pub(crate) async fn twisted(
        shelf: Shelf,
        tasks: &Tasks,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::at("127.0.0.1", shelf, tasks, twist).await
    }

    /// One at another address of this machine.
    pub(crate) async fn at(
        host: &str,
        shelf: Shelf,
        tasks: &Tasks,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let registry = Self(Arc::new(Inner {
            address: listener.local_addr().expect("a bound listener"),
            shelf,
            twist: Box::new(twist),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            tasks: tasks.clone(),
        }));
        let accepting = registry.clone();
        tasks.spawn("scripted registry", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let one = accepting.clone();
                let connection = accepting.0.connections.fetch_add(1, Ordering::SeqCst);
                let tasks = &accepting.0.tasks;
                tasks.spawn("scripted connection", async move {
                    // The proxy hanging up is part of the play.
                    let _ = one.converse(socket, connection).await;
                });
            }
        });
        registry
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    /// Body bytes that left.
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().clone()
    }

    /// The requests of a method whose path has this in it.
    pub(crate) fn asked(&self, method: &str, part: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|one| one.is(method, part));
        seen
    }

    async fn converse(&self, mut socket: TcpStream, connection: usize) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut buffer = Vec::new();
        loop {
            let Some(mut seen) = read_head(&mut socket, &mut buffer, connection).await? else {
                return Ok(());
            };
            {
                let mut all = self.0.seen.lock();
                let same = |one: &&Seen| one.method == seen.method && one.path == seen.path;
                seen.before = all.iter().filter(same).count();
                all.push(seen.clone());
            }
            let good = match seen.method.as_str() {
                HELLO => Reply::new(400).framing(Framing::UntilEnd),
                _ => self.0.shelf.reply(&seen, self.0.address),
            };
            let reply = (self.0.twist)(&seen, good);
            if !self.play(&mut socket, &seen, reply).await? {
                return Ok(());
            }
        }
    }

    /// Sends a reply; whether the connection stays.
    async fn play(&self, socket: &mut TcpStream, seen: &Seen, reply: Reply) -> io::Result<bool> {
        match &reply.end {
            End::Silent => return std::future::pending().await,
            End::HangUp => return Ok(false),
            End::Late(time) => tokio::time::sleep(*time).await,
            End::Drip(pause) => {
                for byte in head(&reply).into_bytes() {
                    socket.write_all(&[byte]).await?;
                    tokio::time::sleep(*pause).await;
                }
                return Ok(false);
            }
            _ => {}
        }
        socket.write_all(head(&reply).as_bytes()).await?;
        if seen.method == "HEAD" {
            return Ok(true);
        }
        let mut end = reply.body.len();
        if let End::Fin(at) | End::Rst(at) | End::Stall(at) | End::Gate(at, _) = &reply.end {
            end = end.min(*at);
        }
        self.send(socket, &reply.body[..end], reply.framing).await?;
        match reply.end {
            End::Fin(_) => return Ok(false),
            End::Rst(_) => {
                socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
            End::Stall(_) => return std::future::pending().await,
            End::Gate(_, mut gate) => {
                let _ = gate.wait_for(|open| *open).await;
                self.send(socket, &reply.body[end..], reply.framing).await?;
            }
            _ => {}
        }
        match reply.framing {
            Framing::Chunked => socket.write_all(b"0\r\n\r\n").await?,
            Framing::UntilEnd => return Ok(false),
            Framing::Length => {}
        }
        Ok(true)
    }

    async fn send(&self, socket: &mut TcpStream, body: &[u8], framing: Framing) -> io::Result<()> {
        for chunk in body.chunks(CHUNK) {
            if framing == Framing::Chunked {
                let size = format!("{:x}\r\n", chunk.len());
                socket.write_all(size.as_bytes()).await?;
            }
            socket.write_all(chunk).await?;
            self.0.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            if framing == Framing::Chunked {
                socket.write_all(b"\r\n").await?;
            }
        }
        socket.flush().await
    }
}

fn head(reply: &Reply) -> String {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.framing {
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", reply.body.len())),
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::UntilEnd => head.push_str("Connection: close\r\n"),
    }
    head + "\r\n"
}

/// The method of who begins with TLS. Real servers tell them at once that this is none; who is
/// told nothing tries for as long as its handshake may take.
const HELLO: &str = "ClientHello";

async fn read_head(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> io::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
        if buffer.first() == Some(&0x16) {
            return Ok(Some(Seen {
                method: HELLO.to_owned(),
                path: String::new(),
                query: String::new(),
                headers: Vec::new(),
                body: String::new(),
                connection,
                before: 0,
            }));
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut seen = Seen {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: String::new(),
        connection,
        before: 0,
    };
    let length = seen
        .header("content-length")
        .and_then(|text| text.parse().ok());
    let length: usize = length.unwrap_or(0);
    while buffer.len() < length {
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body: Vec<u8> = buffer.drain(..length).collect();
    seen.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(seen))
}

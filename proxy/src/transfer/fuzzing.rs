//! What must hold of every reply of a parent: nothing but the content reaches the store.

use std::{
    io,
    ops::Range,
    sync::{Arc, LazyLock},
    time::Duration,
};

use darter_api::{
    Digest, End, Grant, Lengths, NodeKey, PieceDigest, PieceIndex, Proof, Statement, TaskId,
    proof::GroupDigest, wire::v1,
};
use darter_runtime::tls::Connector;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::{
    client::{PieceClient, Sink, Wanted},
    parents,
};
use crate::limits::{Class, Limits};

/// A content, one of its pieces, and the reply that is right.
struct Case {
    content: Vec<u8>,
    task: TaskId,
    lengths: Lengths,
    index: PieceIndex,
    /// The bytes of the piece.
    range: Range<u64>,
    reply: Vec<u8>,
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 % 253) as u8).collect()
}

impl Case {
    /// The last piece of a content of so many bytes.
    fn new(task: TaskId, size: usize) -> Self {
        let lengths = Lengths::of(size as u64).expect("within the limit");
        let index = PieceIndex(lengths.pieces() - 1);
        let range = lengths.piece_range(index);
        let content = content(size);
        let body = match task.proves_itself(&lengths) {
            true => vec![0; 4],
            false => {
                let groups = groups(&content[range.start as usize..]);
                let digest = PieceDigest::of(&groups);
                let mut body = proved(task, lengths, index, digest);
                body.extend(groups.iter().flat_map(|group| group.0));
                body
            }
        };
        Self::replied(content, (task, lengths, index), range, body)
    }

    /// A piece of a content of so many bytes whose size was not known when it began, with its end.
    fn open(size: usize, index: PieceIndex) -> Self {
        let content = content(size);
        let task = TaskId::from(Digest::sha256(&content)).opened();
        let lengths = Lengths::open();
        let size = size as u64;
        let whole = lengths.piece_range(index);
        let range = whole.start.min(size)..whole.end.min(size);
        let groups = groups(&content[range.start as usize..range.end as usize]);
        let mut body = match range.is_empty() {
            true => vec![0; 4],
            false => proved(task, lengths, index, PieceDigest::of(&groups)),
        };
        let past = End::piece_of(size).expect("it may be so long");
        body.extend(proved(task, lengths, past, PieceDigest::of_end(size)));
        body.extend(size.to_be_bytes());
        body.extend(groups.iter().flat_map(|group| group.0));
        Self::replied(content, (task, lengths, index), range, body)
    }

    fn replied(
        content: Vec<u8>,
        (task, lengths, index): (TaskId, Lengths, PieceIndex),
        range: Range<u64>,
        mut body: Vec<u8>,
    ) -> Self {
        body.extend(&content[range.start as usize..range.end as usize]);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let reply = [head.as_bytes(), &body].concat();
        Self {
            content,
            task,
            lengths,
            index,
            range,
            reply,
        }
    }
}

fn groups(bytes: &[u8]) -> Vec<GroupDigest> {
    bytes.chunks(64 * 1024).map(GroupDigest::of).collect()
}

/// A statement by who granted itself all of it, and how long that is.
fn proved(task: TaskId, lengths: Lengths, index: PieceIndex, digest: PieceDigest) -> Vec<u8> {
    let key = NodeKey::from_seed([1; 32]);
    let pieces = 0..lengths.pieces();
    let grant = Arc::new(Grant::sign(&key, key.id(), task, lengths, pieces, 5));
    let statement = Statement::sign(&key, &task, &lengths, index, digest);
    let proof = v1::Proof::from(&Proof { grant, statement }).encode_to_vec();
    [&(proof.len() as u32).to_be_bytes(), &proof[..]].concat()
}

/// One that is proved by its own digest, and two by a statement: of two groups, and a small file; and
/// two with the end of the content: its last piece, and one past that.
static CASES: LazyLock<[Case; 5]> = LazyLock::new(|| {
    let blob = |size| Case::new(TaskId::from(Digest::sha256(&content(size))), size);
    let file = Case::new(TaskId::of_file(b"http://h/f"), 40);
    let open = |piece| Case::open((1024 + 64) * 1024 + 10, PieceIndex(piece));
    [
        blob(40),
        blob((256 + 64) * 1024 + 10),
        file,
        open(1),
        open(5),
    ]
});

/// Makes a reply of the one that is right: four bytes each say what is done where.
fn spoil(right: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut reply = right.to_vec();
    for [kind, high, low, by] in changes.as_chunks::<4>().0 {
        let offset = usize::from(u16::from_be_bytes([*high, *low])) % (reply.len() + 1);
        // From the front, or the back.
        let at = if kind & 0x80 == 0 {
            offset
        } else {
            reply.len() - offset
        };
        let end = reply.len().min(at + usize::from(*by));
        match kind % 5 {
            0 if at < reply.len() => reply[at] ^= by,
            1 => reply.truncate(at),
            2 => drop(reply.drain(at..end)),
            3 => reply.insert(at, *by),
            4 => drop(reply.splice(at..at, reply[at..end].to_vec())),
            _ => {}
        }
    }
    reply
}

/// The first byte says which content is asked for, and whether the rest is the reply or the
/// changes of the right one.
pub fn piece_reply(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let case = match kind & 12 {
        0 => &CASES[usize::from(kind & 1)],
        4 => &CASES[2],
        _ => &CASES[3 + usize::from(kind & 1)],
    };
    let reply = match kind & 2 {
        0 => spoil(&case.reply, rest),
        _ => rest.to_vec(),
    };
    head(&reply);
    thread_local! {
        static PARENT: (Runtime, TcpListener) = parent().expect("a port on this host");
    }
    PARENT.with(|(runtime, listener)| runtime.block_on(fetch(case, &reply, listener)));
}

fn parent() -> io::Result<(Runtime, TcpListener)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    Ok((runtime, listener))
}

/// A head is waited for until it is whole, and read no further.
fn head(reply: &[u8]) {
    let Ok(Some((_, length))) = parents::parse(reply) else {
        return;
    };
    assert!(length <= reply.len());
    for end in length.saturating_sub(64)..length {
        assert!(matches!(parents::parse(&reply[..end]), Ok(None)), "{end}");
    }
}

/// What the store would get.
struct Taken<'a> {
    content: &'a [u8],
    bytes: u64,
}

impl Sink for Taken<'_> {
    fn verified(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        assert_eq!(
            self.content.get(at..at + bytes.len()),
            Some(bytes),
            "wrong bytes"
        );
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

async fn fetch(case: &Case, reply: &[u8], listener: &TcpListener) {
    let address = listener.local_addr().expect("it is bound");
    let own = NodeKey::from_seed([2; 32]).id();
    let client = PieceClient::new(own, Connector::plain(), Limits::default());
    let wanted = Wanted {
        address,
        task: case.task,
        lengths: case.lengths,
        index: case.index,
        stall_after: Duration::from_secs(5),
        class: Class::Foreground,
    };
    let mut taken = Taken {
        content: &case.content,
        bytes: 0,
    };
    let fetched = client.fetch(&wanted, |grant| grant.is_self_lease(), &mut taken);
    let (fetched, served) = tokio::join!(fetched, serve(listener, reply));
    drop(served);
    if let Ok(fetched) = &fetched {
        let piece = case.range.end - case.range.start;
        assert_eq!(taken.bytes, piece, "it is whole");
        let end = fetched.end.as_ref().map(|end| end.size);
        let known = case.task.is_open().then_some(case.content.len() as u64);
        assert_eq!(end, known, "its end is the content's");
    }
    if reply == case.reply {
        fetched.expect("the reply is right");
    }
}

/// Answers one request so, whatever it was.
async fn serve(listener: &TcpListener, reply: &[u8]) -> io::Result<TcpStream> {
    let (mut socket, _) = listener.accept().await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    // Who has seen enough may be gone.
    let written = socket.write_all(reply).await;
    written.and(socket.shutdown().await)?;
    Ok(socket)
}

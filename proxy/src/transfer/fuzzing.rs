//! What must hold of every reply of a parent: nothing but the content reaches the store.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use darter_api::{
    Digest, Grant, Lengths, NodeKey, PieceDigest, PieceIndex, Proof, Statement, TaskId,
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
    reply: Vec<u8>,
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 % 253) as u8).collect()
}

impl Case {
    /// The last piece of a content of so many bytes.
    fn new(task: TaskId, size: usize) -> Self {
        let content = content(size);
        let lengths = Lengths::of(size as u64).expect("within the limit");
        let index = PieceIndex(lengths.pieces() - 1);
        let range = lengths.piece_range(index);
        let piece = &content[range.start as usize..];
        let mut body = Vec::new();
        if task.proves_itself(&lengths) {
            body.extend([0; 4]);
        } else {
            let key = NodeKey::from_seed([1; 32]);
            let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
            let pieces = 0..lengths.pieces();
            let grant = Arc::new(Grant::sign(&key, key.id(), task, lengths, pieces, 5));
            let digest = PieceDigest::of(&groups);
            let statement = Statement::sign(&key, &task, &lengths, index, digest);
            let proof = v1::Proof::from(&Proof { grant, statement }).encode_to_vec();
            body.extend((proof.len() as u32).to_be_bytes());
            body.extend(proof);
            body.extend(groups.iter().flat_map(|group| group.0));
        }
        body.extend(piece);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let reply = [head.as_bytes(), &body].concat();
        Self {
            content,
            task,
            lengths,
            index,
            reply,
        }
    }
}

/// One that is proved by its own digest, and two by a statement: of two groups, and a small file.
static CASES: LazyLock<[Case; 3]> = LazyLock::new(|| {
    let blob = |size| Case::new(TaskId::from(Digest::sha256(&content(size))), size);
    let file = Case::new(TaskId::of_file(b"http://h/f"), 40);
    [blob(40), blob((256 + 64) * 1024 + 10), file]
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
    let case = match kind & 4 {
        0 => &CASES[usize::from(kind & 1)],
        _ => &CASES[2],
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
    let piece = case.lengths.piece_bytes(case.index);
    if fetched.is_ok() {
        assert_eq!(taken.bytes, piece, "it is whole");
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

//! What the demo says in the end.

use std::fmt::Write as _;

use bytesize::ByteSize;
use serde::Serialize;

use super::pull::Pulled;

/// More than this left the registry for nothing.
const MAX_COPIES: f64 = 1.05;

/// The demo's result; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) ok: bool,
    /// The last peer's.
    seconds: f64,
    /// What one plain pull took on this machine: no swarm delivers sooner than its source.
    bound_seconds: f64,
    /// Bytes that left the registry, in images.
    origin_copies: f64,
    /// Bytes that would have left it without Darter.
    plain_bytes: u64,
    peers: Vec<PeerReport>,
}

/// One peer's row.
#[derive(Debug, Serialize)]
pub(super) struct PeerReport {
    name: String,
    seconds: f64,
    #[serde(skip)]
    mib_a_second: f64,
    first_byte_ms: f64,
    bytes_from_source: u64,
    bytes_from_peers: u64,
    bytes_from_cache: u64,
}

impl PeerReport {
    pub(super) fn new(
        name: String,
        pulled: &Pulled,
        size: u64,
        [source, peers, cache]: [u64; 3],
    ) -> Self {
        let seconds = pulled.elapsed.as_secs_f64();
        Self {
            name,
            seconds,
            mib_a_second: size as f64 / f64::from(1 << 20) / seconds,
            first_byte_ms: pulled.first_byte.as_secs_f64() * 1000.0,
            bytes_from_source: source,
            bytes_from_peers: peers,
            bytes_from_cache: cache,
        }
    }
}

impl Report {
    pub(super) fn new(
        seconds: f64,
        bound_seconds: f64,
        sent: u64,
        size: u64,
        peers: Vec<PeerReport>,
    ) -> Self {
        let origin_copies = sent as f64 / size as f64;
        Self {
            // A wrong digest has ended the demo before this.
            ok: origin_copies <= MAX_COPIES,
            seconds,
            bound_seconds,
            origin_copies,
            plain_bytes: size * peers.len() as u64,
            peers,
        }
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let size = |bytes: u64| ByteSize::b(bytes).to_string();
        let _ = writeln!(
            text,
            "{:10} {:>8} {:>8} {:>11} {:>12} {:>12} {:>12}",
            "peer", "seconds", "MiB/s", "first byte", "from source", "from peers", "from cache"
        );
        for peer in &self.peers {
            let _ = writeln!(
                text,
                "{:10} {:>8.2} {:>8.0} {:>8.1} ms {:>12} {:>12} {:>12}",
                peer.name,
                peer.seconds,
                peer.mib_a_second,
                peer.first_byte_ms,
                size(peer.bytes_from_source),
                size(peer.bytes_from_peers),
                size(peer.bytes_from_cache)
            );
        }
        let _ = writeln!(
            text,
            "\nThe registry sent {:.3} copies of the image; without Darter it would have sent {} ({}).",
            self.origin_copies,
            self.peers.len(),
            size(self.plain_bytes)
        );
        let _ = writeln!(
            text,
            "All peers were done after {:.2} s, every digest right; one plain pull takes {:.2} s here, which is the bound.",
            self.seconds, self.bound_seconds
        );
        text
    }
}

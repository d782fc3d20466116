//! What must hold of every name, message and proof that others may send: targets of
//! `hack/fuzz.sh`, and of tests over the inputs that are kept.
//!
//! Only in tests and under libFuzzer. A target takes one input and panics where something
//! does not hold.

use std::{
    fmt::{Debug, Display},
    str::FromStr,
    sync::{Arc, LazyLock},
};

use prost::Message;

use crate::{
    Digest, Grant, HostId, Lengths, Member, NodeKey, PieceDigest, PieceIndex, PieceSet, Proof,
    Repository, Statement, TaskId, UpstreamName,
    configuration::Configuration,
    lengths::MAX_PIECES,
    link::LinkMessage,
    membership::PartUrl,
    preheat::{PreheatOrder, PreheatReport},
    session::{PeerMessage, SchedulerMessage},
    wire::v1,
};

/// A name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("names", names), ("wire", wire), ("proof", proof)];

/// Digests and names: what is taken is what is printed, and can't leave its place in a path
/// or a URL.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(digest) = printed_again::<Digest>(text) {
        assert_eq!(digest.to_string(), text, "there is one way to write it");
        assert_eq!(digest.as_bytes().len(), digest.algorithm().digest_len());
        assert_eq!(digest.hex().len(), 2 * digest.algorithm().digest_len());
        assert_eq!(text.parse(), Ok(TaskId::from(digest)));
    }
    printed_again::<HostId>(text);
    if let Some(name) = printed_again::<Repository>(text) {
        assert_eq!(name.as_str(), text);
        assert!(text.len() <= 255 && !text.contains(".."));
        for component in text.split('/') {
            let word = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            assert!(word(component.bytes().next()) && word(component.bytes().last()));
        }
    }
    if let Some(name) = printed_again::<UpstreamName>(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains("..") && is_authority(text));
    }
    if let Some(url) = printed_again::<PartUrl>(text) {
        let text = url.to_string();
        let authority = text.split_once("://").map(|(_, rest)| rest);
        assert!(authority.is_some_and(is_authority));
    }
}

/// Nothing in it ends the authority of a URL, or begins one's user.
fn is_authority(text: &str) -> bool {
    let ends = |b: u8| b"/?#@%\\ ".contains(&b) || b.is_ascii_control();
    text.is_ascii() && !text.bytes().any(ends)
}

fn printed_again<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let again = value.to_string().parse().ok();
    assert_eq!(again.as_ref(), Some(&value), "{value}");
    Some(value)
}

/// Messages of sessions, links, beats and settings, the first byte saying which: what is
/// taken is sent on unchanged, and its sets of pieces are within bounds.
pub fn wire(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 | 1 => {
            if let Some(message) = sent_again::<v1::PeerMessage, PeerMessage>(message) {
                sets_of(&message).into_iter().for_each(check_set);
            }
        }
        2 => {
            let message = sent_again::<v1::SchedulerMessage, SchedulerMessage>(message);
            match message {
                Some(SchedulerMessage::Grant(grant)) => check_grant(&grant),
                Some(SchedulerMessage::Revoked { pieces, .. }) => check_set(&pieces),
                _ => {}
            }
        }
        3 => {
            let message = sent_again::<v1::LinkFrame, LinkMessage>(message);
            if let Some(
                LinkMessage::Have { pieces, .. }
                | LinkMessage::Lost { pieces, .. }
                | LinkMessage::Reading { pieces, .. },
            ) = message
            {
                check_set(&pieces);
            }
        }
        4 => drop(sent_again::<v1::PreheatOrder, PreheatOrder>(message)),
        5 => drop(sent_again::<v1::PreheatReport, PreheatReport>(message)),
        6 => {
            if let Some(member) = sent_again::<v1::Beat, Member>(message) {
                assert!(member.has_valid_address());
            }
        }
        _ => {
            let configuration = sent_again::<v1::Configuration, Configuration>(message);
            assert!(configuration.is_none_or(|one| one.check().is_ok()));
        }
    }
}

/// The sets of pieces in a message.
fn sets_of(message: &PeerMessage) -> Vec<&PieceSet> {
    match message {
        PeerMessage::Inventory { holdings, .. } => holdings
            .iter()
            .flat_map(|holding| [&holding.held, &holding.reading])
            .collect(),
        PeerMessage::Join(join) => vec![&join.held],
        PeerMessage::Progress { held: pieces, .. }
        | PeerMessage::Starved { pieces, .. }
        | PeerMessage::LeaseReturned { pieces, .. }
        | PeerMessage::SelfLeased { pieces, .. } => vec![pieces],
        _ => Vec::new(),
    }
}

fn check_set(pieces: &PieceSet) {
    assert!(pieces.end() <= MAX_PIECES);
    assert!(pieces.runs().iter().all(|run| run.start < run.end));
    let apart = |pair: &[std::ops::Range<u32>]| pair[0].end < pair[1].start;
    assert!(pieces.runs().windows(2).all(apart));
}

fn check_grant(grant: &Grant) {
    assert!(grant.pieces.start < grant.pieces.end);
    assert!(grant.pieces.end <= grant.lengths.pieces());
}

fn sent_again<W, T>(bytes: &[u8]) -> Option<T>
where
    W: Message + Default + for<'a> From<&'a T>,
    T: TryFrom<W> + PartialEq + Debug,
{
    let value = T::try_from(W::decode(bytes).ok()?).ok()?;
    let sent = W::from(&value).encode_to_vec();
    let again = W::decode(&sent[..])
        .ok()
        .and_then(|wire| wire.try_into().ok());
    assert_eq!(again.as_ref(), Some(&value));
    Some(value)
}

/// A proof that holds, and what it is for.
struct Held {
    proof: Proof,
    task: TaskId,
    lengths: Lengths,
    wire: Vec<u8>,
}

static HELD: LazyLock<Held> = LazyLock::new(|| {
    let (scheduler, holder) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    let task = TaskId::from(Digest::sha256(b"content"));
    let lengths = Lengths::of(10_000_000).expect("under the limit");
    let grant = Grant::sign(&scheduler, holder.id(), task, lengths, 0..10, 7);
    let (index, digest) = (PieceIndex(3), PieceDigest([9; 32]));
    let statement = Statement::sign(&holder, &task, &lengths, index, digest);
    let grant = Arc::new(grant);
    let proof = Proof { grant, statement };
    let wire = v1::Proof::from(&proof).encode_to_vec();
    Held {
        proof,
        task,
        lengths,
        wire,
    }
});

/// Proofs: none is believed but the one that was signed. The input is taken for a proof, and
/// for changes of one that holds: each three bytes of it are a place (two) and what changes.
pub fn proof(data: &[u8]) {
    if let Some(proof) = sent_again::<v1::Proof, Proof>(data) {
        check_grant(&proof.grant);
    }
    let held = &*HELD;
    let mut spoilt = held.wire.clone();
    for [high, low, change] in data.as_chunks::<3>().0 {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % spoilt.len();
        spoilt[at] ^= change;
    }
    let Some(spoilt) = sent_again::<v1::Proof, Proof>(&spoilt) else {
        return;
    };
    for index in [PieceIndex(3), spoilt.statement.index] {
        let believed = spoilt.verify(&held.task, &held.lengths, index, |_| true);
        let is_right = spoilt == held.proof;
        assert_eq!(believed.is_ok(), is_right, "{spoilt:?}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_are_kept() {
        for (target, run) in TARGETS {
            replay::replay(target, *run);
        }
    }
}

//! What must hold of the store's own files, whatever a crash or somebody left in them.

use super::{
    journal::{Ledger, Record},
    pins,
};

/// Journals: what is replayed lies within the content, and replays again. The first byte says
/// whether the rest is a journal's bytes, or records to be framed: each a length (two bytes)
/// and a body; or lines of the file of pins.
pub fn journal(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => replayed(rest),
        1 => {
            for line in String::from_utf8_lossy(rest).lines() {
                if let Some((task, until)) = pins::parse(line) {
                    let again = format!("{until} {task}");
                    assert_eq!(pins::parse(&again), Some((task, until)));
                }
            }
        }
        _ => replayed(&framed(rest)),
    }
}

fn framed(mut records: &[u8]) -> Vec<u8> {
    let mut journal = Vec::new();
    while let Some((length, rest)) = records.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (body, rest) = rest.split_at(length);
        journal.extend((body.len() as u32).to_be_bytes());
        journal.extend(&blake3::hash(body).as_bytes()[..4]);
        journal.extend(body);
        written_again(body);
        records = rest;
    }
    journal
}

fn written_again(body: &[u8]) {
    if let Some(record) = Record::decode_body(body) {
        let written = record.encode();
        let (again, length) = Record::decode(&written).expect("it was just written");
        assert_eq!((again, length), (record, written.len()));
    }
}

fn replayed(journal: &[u8]) {
    let Some((header, ledger, length)) = Ledger::replay(journal) else {
        return;
    };
    assert!(length <= journal.len());
    let pieces = header.lengths().expect("a ledger has a geometry").pieces();
    assert!(ledger.held.end() <= pieces);
    for piece in ledger.held.iter() {
        assert!(ledger.get(darter_api::PieceIndex(piece)).is_some());
    }
    let (again, same, all) = Ledger::replay(&journal[..length]).expect("it holds");
    assert_eq!((again, all), (header, length));
    assert_eq!((same.held, same.durable), (ledger.held, ledger.durable));
}

//! Messages of the session between a peer and a scheduler: [`parts`] are what they are made of,
//! [`inventory`] what a host holds, [`peer`] what peers say, [`scheduler`] what schedulers say.

mod inventory;
mod parts;
mod peer;
mod scheduler;

use super::{
    WireError,
    common::{some, task},
    v1,
};
use crate::{
    HostId, Lengths, PieceSet, TaskId,
    session::{Complaint, LeaseEnd, Purpose, Role},
};

/// Contents in one message at most, many times what hosts send; each takes more memory than bytes in it.
const MOST_TOLD: usize = 1 << 10;

macro_rules! enums {
    ($($plain:ident { $($variant:ident = $wire:ident),* })*) => {$(
        impl From<$plain> for v1::$plain {
            fn from(value: $plain) -> Self {
                match value { $($plain::$variant => Self::$wire),* }
            }
        }
        impl From<v1::$plain> for $plain {
            fn from(value: v1::$plain) -> Self {
                match value { $(v1::$plain::$wire => Self::$variant),* }
            }
        }
    )*};
}
enums! {
    Role { Peer = Peer, Seed = Seed }
    Purpose { Pull = Pull, Seed = Seeding, Preheat = Preheat }
    LeaseEnd {
        NotNeeded = NotNeeded, Refused = Refused, Missing = Missing,
        Unreachable = Unreachable, WrongSize = WrongSize
    }
    Complaint { Unreachable = HostUnreachable, Slow = Slow, Rot = Rot }
}

fn enumeration<W: TryFrom<i32>, T: From<W>>(raw: i32, field: &'static str) -> Result<T, WireError> {
    W::try_from(raw)
        .map(T::from)
        .map_err(|_| WireError::Invalid(field))
}

fn role(raw: i32) -> Result<Role, WireError> {
    enumeration::<v1::Role, _>(raw, "role")
}

fn purpose(raw: i32) -> Result<Purpose, WireError> {
    enumeration::<v1::Purpose, _>(raw, "purpose")
}

fn lease_end(raw: i32) -> Result<LeaseEnd, WireError> {
    enumeration::<v1::LeaseEnd, _>(raw, "why")
}

fn tasks(texts: &[String]) -> Result<Vec<TaskId>, WireError> {
    few(texts, "tasks")?;
    texts.iter().map(|text| task(text)).collect()
}

/// Whether these are no more than a message may tell of.
fn few<T>(told: &[T], field: &'static str) -> Result<(), WireError> {
    match told.len() <= MOST_TOLD {
        true => Ok(()),
        false => Err(WireError::Invalid(field)),
    }
}

fn id_bytes(host: &HostId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(host.as_bytes())
}

fn task_frame(task: &TaskId) -> v1::Task {
    v1::Task {
        task: task.to_string(),
    }
}

fn task_pieces(task: &TaskId, pieces: &PieceSet) -> v1::TaskPieces {
    v1::TaskPieces {
        task: task.to_string(),
        pieces: some(pieces.into()),
    }
}

fn task_lengths(task: &TaskId, lengths: &Lengths) -> v1::TaskLengths {
    v1::TaskLengths {
        task: task.to_string(),
        lengths: some(lengths.into()),
    }
}

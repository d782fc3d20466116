//! Frames of the link between two peers. Its handshake frames are the driver's.

use super::{
    WireError,
    common::{pieces, required, sized, some, task},
    v1::{self, link_frame::Kind},
};
use crate::{PieceSet, TaskId, link::LinkMessage};

fn task_pieces(task: &TaskId, pieces: &PieceSet) -> v1::LinkPieces {
    v1::LinkPieces {
        task: task.to_string(),
        pieces: some(pieces.into()),
    }
}

impl From<&LinkMessage> for v1::LinkFrame {
    fn from(message: &LinkMessage) -> Self {
        let kind = match message {
            LinkMessage::Subscribe {
                task,
                lengths,
                waits,
            } => Kind::Subscribe(v1::Subscribe {
                task: task.to_string(),
                lengths: some(lengths.into()),
                for_others: !waits,
            }),
            LinkMessage::Unsubscribe { task } => Kind::Unsubscribe(v1::LinkTask {
                task: task.to_string(),
            }),
            LinkMessage::Have { task, pieces } => Kind::Have(task_pieces(task, pieces)),
            LinkMessage::Lost { task, pieces } => Kind::Lost(task_pieces(task, pieces)),
            LinkMessage::Reading { task, pieces } => Kind::Reading(task_pieces(task, pieces)),
        };
        Self { kind: some(kind) }
    }
}

impl TryFrom<v1::LinkFrame> for LinkMessage {
    type Error = WireError;

    fn try_from(frame: v1::LinkFrame) -> Result<Self, WireError> {
        Ok(match required(frame.kind, "kind")? {
            Kind::Hello(_) | Kind::Proof(_) => return Err(WireError::Invalid("kind")),
            Kind::Subscribe(v) => {
                let (task, lengths) = sized(&v.task, v.lengths)?;
                let waits = !v.for_others;
                Self::Subscribe {
                    task,
                    lengths,
                    waits,
                }
            }
            Kind::Unsubscribe(v) => Self::Unsubscribe {
                task: task(&v.task)?,
            },
            Kind::Have(v) => Self::Have {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
            Kind::Lost(v) => Self::Lost {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
            Kind::Reading(v) => Self::Reading {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
        })
    }
}

//! What peers say.

use super::{
    super::{
        WireError,
        common::{digest, host, origin, parse, pieces, required, short, sized, some, task},
        v1::{self, peer_message::Kind as Up},
    },
    enumeration, few, id_bytes, inventory, lease_end, task_frame, task_lengths, task_pieces, tasks,
};
use crate::session::{MOST_TAG, PeerMessage, Reference};

impl From<&PeerMessage> for v1::PeerMessage {
    fn from(message: &PeerMessage) -> Self {
        let kind = match message {
            PeerMessage::Hello(hello) => Up::Hello(hello.into()),
            PeerMessage::Inventory { holdings, last } => {
                Up::Inventory(inventory::pack(holdings, *last))
            }
            PeerMessage::Interest { tasks, origin } => Up::Interest(v1::Interest {
                tasks: tasks.iter().map(|(t, l)| task_lengths(t, l)).collect(),
                origin: some(origin.into()),
            }),
            PeerMessage::Join(join) => Up::Join(join.into()),
            PeerMessage::Progress { task, held } => Up::Progress(task_pieces(task, held)),
            PeerMessage::Starved { task, pieces } => Up::Starved(task_pieces(task, pieces)),
            PeerMessage::Done { task } => Up::Done(task_frame(task)),
            PeerMessage::Leave { task } => Up::Leave(task_frame(task)),
            PeerMessage::LeaseAccepted { task } => Up::LeaseAccepted(task_frame(task)),
            PeerMessage::LeaseFirstByte { task, ranges } => Up::LeaseFirstByte(v1::FirstByte {
                task: task.to_string(),
                ranges: *ranges,
            }),
            PeerMessage::LeaseReturned { task, pieces, why } => {
                Up::LeaseReturned(v1::LeaseReturned {
                    task: task.to_string(),
                    pieces: some(pieces.into()),
                    why: v1::LeaseEnd::from(*why).into(),
                })
            }
            PeerMessage::SelfLeased { task, pieces } => Up::SelfLeased(task_pieces(task, pieces)),
            PeerMessage::Load {
                uploads,
                downloads,
                upload_bytes,
            } => Up::Load(v1::Load {
                uploads: *uploads,
                downloads: *downloads,
                upload_bytes: *upload_bytes,
            }),
            PeerMessage::Report {
                neighbour,
                task,
                complaint,
            } => Up::Report(v1::Report {
                neighbour: id_bytes(neighbour),
                task: task.to_string(),
                complaint: v1::Complaint::from(*complaint).into(),
            }),
            PeerMessage::Parents { parents } => Up::Parents(v1::Parents {
                parents: parents.iter().map(Into::into).collect(),
            }),
            PeerMessage::Evicted { tasks } => Up::Evicted(v1::Tasks {
                tasks: tasks.iter().map(ToString::to_string).collect(),
            }),
            PeerMessage::SizeWanted { task } => Up::SizeWanted(task_frame(task)),
            PeerMessage::Moved { tasks } => Up::Moved(v1::Tasks {
                tasks: tasks.iter().map(ToString::to_string).collect(),
            }),
            PeerMessage::ExcerptsWanted {
                task,
                lengths,
                origin,
            } => Up::ExcerptsWanted(v1::ExcerptsWanted {
                task: task.to_string(),
                lengths: some(lengths.into()),
                origin: some(origin.into()),
            }),
            PeerMessage::Preheat(report) => Up::Preheat(report.into()),
            PeerMessage::Errand(report) => Up::Errand(report.into()),
            PeerMessage::Resting => Up::Resting(v1::Resting {}),
            PeerMessage::Observed(seen) => Up::Observed(seen.into()),
            PeerMessage::Lookup {
                id,
                upstream,
                repository,
                reference,
            } => {
                use v1::lookup::Reference as Wire;
                Up::Lookup(v1::Lookup {
                    id: *id,
                    upstream: upstream.to_string(),
                    repository: repository.to_string(),
                    reference: some(match reference {
                        Reference::Tag(tag) => Wire::Tag(tag.clone()),
                        Reference::Digest(digest) => Wire::Member(digest.to_string()),
                    }),
                })
            }
        };
        Self { kind: some(kind) }
    }
}

impl TryFrom<v1::PeerMessage> for PeerMessage {
    type Error = WireError;

    fn try_from(value: v1::PeerMessage) -> Result<Self, WireError> {
        Ok(match required(value.kind, "kind")? {
            Up::Hello(v) => Self::Hello(v.try_into()?),
            Up::Inventory(v) => Self::Inventory {
                last: v.last,
                holdings: inventory::unpack(v)?,
            },
            Up::Interest(v) => {
                few(&v.tasks, "tasks")?;
                let tasks = v.tasks.into_iter().map(|t| sized(&t.task, t.lengths));
                Self::Interest {
                    tasks: tasks.collect::<Result<_, WireError>>()?,
                    origin: origin(v.origin)?,
                }
            }
            Up::Join(v) => Self::Join(v.try_into()?),
            Up::Progress(v) => Self::Progress {
                task: task(&v.task)?,
                held: pieces(v.pieces)?,
            },
            Up::Starved(v) => Self::Starved {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
            Up::Done(v) => Self::Done {
                task: task(&v.task)?,
            },
            Up::Leave(v) => Self::Leave {
                task: task(&v.task)?,
            },
            Up::LeaseAccepted(v) => Self::LeaseAccepted {
                task: task(&v.task)?,
            },
            Up::LeaseFirstByte(v) => Self::LeaseFirstByte {
                task: task(&v.task)?,
                ranges: v.ranges,
            },
            Up::LeaseReturned(v) => Self::LeaseReturned {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
                why: lease_end(v.why)?,
            },
            Up::SelfLeased(v) => Self::SelfLeased {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
            Up::Load(v) => Self::Load {
                uploads: v.uploads,
                downloads: v.downloads,
                upload_bytes: v.upload_bytes,
            },
            Up::Report(v) => Self::Report {
                neighbour: host(&v.neighbour)?,
                task: task(&v.task)?,
                complaint: enumeration::<v1::Complaint, _>(v.complaint, "complaint")?,
            },
            Up::Parents(v) => {
                few(&v.parents, "parents")?;
                let parents = v.parents.into_iter().map(TryInto::try_into);
                Self::Parents {
                    parents: parents.collect::<Result<_, _>>()?,
                }
            }
            Up::Evicted(v) => Self::Evicted {
                tasks: tasks(&v.tasks)?,
            },
            Up::Moved(v) => Self::Moved {
                tasks: tasks(&v.tasks)?,
            },
            Up::ExcerptsWanted(v) => {
                let (task, lengths) = sized(&v.task, v.lengths)?;
                let origin = origin(v.origin)?;
                Self::ExcerptsWanted {
                    task,
                    lengths,
                    origin,
                }
            }
            Up::Preheat(v) => Self::Preheat(v.try_into()?),
            Up::Errand(v) => Self::Errand(v.try_into()?),
            Up::Resting(v1::Resting {}) => Self::Resting,
            Up::Observed(v) => Self::Observed(v.try_into()?),
            Up::SizeWanted(v) => Self::SizeWanted {
                task: task(&v.task)?,
            },
            Up::Lookup(v) => {
                use v1::lookup::Reference as Wire;
                Self::Lookup {
                    id: v.id,
                    upstream: parse(&v.upstream, "upstream")?,
                    repository: parse(&v.repository, "repository")?,
                    reference: match required(v.reference, "reference")? {
                        Wire::Tag(tag) => Reference::Tag(short(tag, MOST_TAG, "tag")?),
                        Wire::Member(member) => Reference::Digest(digest(&member)?),
                    },
                }
            }
        })
    }
}

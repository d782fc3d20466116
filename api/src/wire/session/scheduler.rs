//! What schedulers say.

use super::{
    super::{
        WireError,
        common::{host, origin, parse, pieces, required, sized, some, task},
        v1::{self, scheduler_message::Kind as Down},
    },
    id_bytes, lease_end, purpose, task_lengths, task_pieces,
};
use crate::session::{ExcerptSeed, SchedulerMessage};

impl From<&SchedulerMessage> for v1::SchedulerMessage {
    fn from(message: &SchedulerMessage) -> Self {
        let kind = match message {
            SchedulerMessage::Welcome { scheduler, trusted } => Down::Welcome(v1::Welcome {
                scheduler: id_bytes(scheduler),
                trusted: trusted.iter().map(id_bytes).collect(),
            }),
            SchedulerMessage::Heartbeat => Down::Heartbeat(v1::Heartbeat {}),
            SchedulerMessage::Neighbours { task, add, remove } => {
                Down::Neighbours(v1::Neighbours {
                    task: task.to_string(),
                    add: add.iter().map(Into::into).collect(),
                    remove: remove.iter().map(id_bytes).collect(),
                })
            }
            SchedulerMessage::Grant(grant) => Down::Grant(grant.into()),
            SchedulerMessage::Revoked { task, pieces } => Down::Revoked(task_pieces(task, pieces)),
            SchedulerMessage::Fetch {
                task,
                lengths,
                origin,
                purpose,
            } => Down::Fetch(v1::Fetch {
                task: task.to_string(),
                lengths: some(lengths.into()),
                origin: some(origin.into()),
                purpose: v1::Purpose::from(*purpose).into(),
            }),
            SchedulerMessage::Mismatch { task, lengths } => {
                Down::Mismatch(task_lengths(task, lengths))
            }
            SchedulerMessage::Unavailable {
                task,
                why,
                forbidden,
            } => Down::Unavailable(v1::Unavailable {
                task: task.to_string(),
                why: v1::LeaseEnd::from(*why).into(),
                forbidden: *forbidden,
            }),
            SchedulerMessage::Found { id, observation } => Down::Found(v1::Found {
                id: *id,
                observation: observation.as_ref().map(Into::into),
            }),
            SchedulerMessage::ExcerptsFrom { task, seed, source } => {
                Down::ExcerptsFrom(v1::ExcerptsFrom {
                    task: task.to_string(),
                    seed: seed.as_ref().map(|seed| (&seed.neighbour).into()),
                    grant: seed.as_ref().map(|seed| (&seed.grant).into()),
                    source: *source,
                })
            }
            SchedulerMessage::Preheat(order) => Down::Preheat(order.into()),
            SchedulerMessage::Errand(order) => Down::Errand(order.into()),
            SchedulerMessage::Size { task, size } => Down::Size(v1::Size {
                task: task.to_string(),
                size: *size,
            }),
            SchedulerMessage::Public {
                upstream,
                repository,
                contents,
            } => Down::Public(v1::Public {
                upstream: upstream.to_string(),
                repository: repository.to_string(),
                contents: contents.iter().map(Into::into).collect(),
            }),
        };
        Self { kind: some(kind) }
    }
}

impl TryFrom<v1::SchedulerMessage> for SchedulerMessage {
    type Error = WireError;

    fn try_from(value: v1::SchedulerMessage) -> Result<Self, WireError> {
        Ok(match required(value.kind, "kind")? {
            Down::Challenge(_) => return Err(WireError::Invalid("kind")),
            Down::Welcome(v) => Self::Welcome {
                scheduler: host(&v.scheduler)?,
                trusted: v
                    .trusted
                    .iter()
                    .map(|raw| host(raw))
                    .collect::<Result<_, _>>()?,
            },
            Down::Heartbeat(_) => Self::Heartbeat,
            Down::Neighbours(v) => Self::Neighbours {
                task: task(&v.task)?,
                add: v
                    .add
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
                remove: v
                    .remove
                    .iter()
                    .map(|raw| host(raw))
                    .collect::<Result<_, _>>()?,
            },
            Down::Grant(v) => Self::Grant(v.try_into()?),
            Down::Revoked(v) => Self::Revoked {
                task: task(&v.task)?,
                pieces: pieces(v.pieces)?,
            },
            Down::Fetch(v) => {
                let (task, lengths) = sized(&v.task, v.lengths)?;
                Self::Fetch {
                    task,
                    lengths,
                    origin: origin(v.origin)?,
                    purpose: purpose(v.purpose)?,
                }
            }
            Down::Mismatch(v) => {
                let (task, lengths) = sized(&v.task, v.lengths)?;
                Self::Mismatch { task, lengths }
            }
            Down::Unavailable(v) => Self::Unavailable {
                task: task(&v.task)?,
                why: lease_end(v.why)?,
                forbidden: v.forbidden,
            },
            Down::Found(v) => Self::Found {
                id: v.id,
                observation: v.observation.map(TryInto::try_into).transpose()?,
            },
            Down::ExcerptsFrom(v) => Self::ExcerptsFrom {
                task: task(&v.task)?,
                seed: match (v.seed, v.grant) {
                    (Some(neighbour), Some(grant)) => Some(ExcerptSeed {
                        neighbour: neighbour.try_into()?,
                        grant: grant.try_into()?,
                    }),
                    (None, None) => None,
                    _ => return Err(WireError::Missing("grant")),
                },
                source: v.source,
            },
            Down::Preheat(v) => Self::Preheat(v.try_into()?),
            Down::Errand(v) => Self::Errand(v.try_into()?),
            Down::Size(v) => Self::Size {
                task: task(&v.task)?,
                size: v.size,
            },
            Down::Public(v) => Self::Public {
                upstream: parse(&v.upstream, "upstream")?,
                repository: parse(&v.repository, "repository")?,
                contents: v
                    .contents
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
            },
        })
    }
}

//! Messages of the session between a peer and a scheduler.

use super::{
    WireError,
    common::{digest, host, lengths, origin, parse, pieces, required, some, task},
    v1::{self, peer_message::Kind as Up, scheduler_message::Kind as Down},
};
use crate::{
    HostId, Lengths, PieceSet, TaskId,
    session::{
        Complaint, ExcerptSeed, Hello, Holding, Join, LeaseEnd, Locality, Neighbour, Observation,
        ParentReport, PeerMessage, PublicContent, Purpose, Reference, Role, SchedulerMessage,
        Sizing,
    },
};

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
    Sizing { Asks = Asks, Reads = Reads, GaveUp = GaveUp }
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
    texts.iter().map(|text| task(text)).collect()
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

/// Bytes of a version, for people, are few and of one line.
fn shown(version: &str) -> String {
    let shown = version.chars().filter(|one| one.is_ascii_graphic());
    shown.take(64).collect()
}

/// The hello's signature is the driver's to add: see [`super::session_challenge`].
impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            host: id_bytes(&hello.host),
            epoch: hello.epoch,
            name: hello.name.clone(),
            address: hello.address.to_string(),
            role: v1::Role::from(hello.role).into(),
            locality: some(v1::Locality {
                host_group: hello.locality.host_group.clone(),
                idc: hello.locality.idc.clone(),
                location: hello.locality.location.clone(),
            }),
            upload_slots: hello.upload_slots,
            signature: bytes::Bytes::new(),
            cores: hello.cores.unwrap_or(0),
            withholds: !hello.shares,
            version: hello.version.clone(),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(value: v1::Hello) -> Result<Self, WireError> {
        let locality = value.locality.unwrap_or_default();
        Ok(Self {
            host: host(&value.host)?,
            epoch: value.epoch,
            name: value.name,
            address: parse(&value.address, "address")?,
            role: role(value.role)?,
            locality: Locality {
                host_group: locality.host_group,
                idc: locality.idc,
                location: locality.location,
            },
            upload_slots: value.upload_slots,
            cores: Some(value.cores).filter(|cores| *cores > 0),
            shares: !value.withholds,
            version: shown(&value.version),
        })
    }
}

impl From<&ParentReport> for v1::ParentReport {
    fn from(report: &ParentReport) -> Self {
        Self {
            host: id_bytes(&report.host),
            pieces: report.pieces,
            bytes: report.bytes,
            busy_us: report.busy_us,
            failures: report.failures,
            rot: report.rot,
            given_up: report.given_up,
        }
    }
}

impl TryFrom<v1::ParentReport> for ParentReport {
    type Error = WireError;

    fn try_from(value: v1::ParentReport) -> Result<Self, WireError> {
        Ok(Self {
            host: host(&value.host)?,
            pieces: value.pieces,
            bytes: value.bytes,
            busy_us: value.busy_us,
            failures: value.failures,
            rot: value.rot,
            given_up: value.given_up,
        })
    }
}

impl From<&Holding> for v1::Holding {
    fn from(holding: &Holding) -> Self {
        Self {
            task: holding.task.to_string(),
            lengths: some((&holding.lengths).into()),
            held: some((&holding.held).into()),
            reading: some((&holding.reading).into()),
            wanted: holding.wanted,
            origin: holding.origin.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Holding> for Holding {
    type Error = WireError;

    fn try_from(value: v1::Holding) -> Result<Self, WireError> {
        Ok(Self {
            task: task(&value.task)?,
            lengths: lengths(value.lengths)?,
            held: pieces(value.held)?,
            reading: pieces(value.reading)?,
            wanted: value.wanted,
            origin: value.origin.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&Join> for v1::Join {
    fn from(join: &Join) -> Self {
        Self {
            task: join.task.to_string(),
            lengths: some((&join.lengths).into()),
            held: some((&join.held).into()),
            origin: some((&join.origin).into()),
            purpose: v1::Purpose::from(join.purpose).into(),
        }
    }
}

impl TryFrom<v1::Join> for Join {
    type Error = WireError;

    fn try_from(value: v1::Join) -> Result<Self, WireError> {
        Ok(Self {
            task: task(&value.task)?,
            lengths: lengths(value.lengths)?,
            held: pieces(value.held)?,
            origin: origin(value.origin)?,
            purpose: purpose(value.purpose)?,
        })
    }
}

impl From<&Observation> for v1::Observation {
    fn from(seen: &Observation) -> Self {
        use v1::observation::Reference as Wire;
        Self {
            upstream: seen.upstream.to_string(),
            repository: seen.repository.to_string(),
            reference: some(match &seen.reference {
                Reference::Tag(tag) => Wire::Tag(tag.clone()),
                Reference::Digest(digest) => Wire::Member(digest.to_string()),
            }),
            digest: seen.digest.to_string(),
            media_type: seen.media_type.clone(),
            size: seen.size,
            public: seen.public,
            age_ms: seen.age_ms,
        }
    }
}

impl TryFrom<v1::Observation> for Observation {
    type Error = WireError;

    fn try_from(value: v1::Observation) -> Result<Self, WireError> {
        use v1::observation::Reference as Wire;
        Ok(Self {
            upstream: parse(&value.upstream, "upstream")?,
            repository: parse(&value.repository, "repository")?,
            reference: match required(value.reference, "reference")? {
                Wire::Tag(tag) => Reference::Tag(tag),
                Wire::Member(member) => Reference::Digest(digest(&member)?),
            },
            digest: digest(&value.digest)?,
            media_type: value.media_type,
            size: value.size,
            public: value.public,
            age_ms: value.age_ms,
        })
    }
}

impl From<&PeerMessage> for v1::PeerMessage {
    fn from(message: &PeerMessage) -> Self {
        let kind = match message {
            PeerMessage::Hello(hello) => Up::Hello(hello.into()),
            PeerMessage::Inventory { holdings, last } => Up::Inventory(v1::Inventory {
                holdings: holdings.iter().map(Into::into).collect(),
                last: *last,
            }),
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
            PeerMessage::Sizing { task, state } => Up::Sizing(v1::Unsized {
                task: task.to_string(),
                state: v1::Sizing::from(*state).into(),
            }),
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
                holdings: v
                    .holdings
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
                last: v.last,
            },
            Up::Interest(v) => Self::Interest {
                tasks: v
                    .tasks
                    .into_iter()
                    .map(|t| Ok((task(&t.task)?, lengths(t.lengths)?)))
                    .collect::<Result<_, WireError>>()?,
                origin: origin(v.origin)?,
            },
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
            Up::Parents(v) => Self::Parents {
                parents: v
                    .parents
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
            },
            Up::Evicted(v) => Self::Evicted {
                tasks: tasks(&v.tasks)?,
            },
            Up::Moved(v) => Self::Moved {
                tasks: tasks(&v.tasks)?,
            },
            Up::ExcerptsWanted(v) => Self::ExcerptsWanted {
                task: task(&v.task)?,
                lengths: lengths(v.lengths)?,
                origin: origin(v.origin)?,
            },
            Up::Preheat(v) => Self::Preheat(v.try_into()?),
            Up::Errand(v) => Self::Errand(v.try_into()?),
            Up::Resting(v1::Resting {}) => Self::Resting,
            Up::Observed(v) => Self::Observed(v.try_into()?),
            Up::Sizing(v) => Self::Sizing {
                task: task(&v.task)?,
                state: enumeration::<v1::Sizing, _>(v.state, "state")?,
            },
            Up::Lookup(v) => {
                use v1::lookup::Reference as Wire;
                Self::Lookup {
                    id: v.id,
                    upstream: parse(&v.upstream, "upstream")?,
                    repository: parse(&v.repository, "repository")?,
                    reference: match required(v.reference, "reference")? {
                        Wire::Tag(tag) => Reference::Tag(tag),
                        Wire::Member(member) => Reference::Digest(digest(&member)?),
                    },
                }
            }
        })
    }
}

impl From<&Neighbour> for v1::Neighbour {
    fn from(neighbour: &Neighbour) -> Self {
        Self {
            host: id_bytes(&neighbour.host),
            address: neighbour.address.to_string(),
            role: v1::Role::from(neighbour.role).into(),
        }
    }
}

impl TryFrom<v1::Neighbour> for Neighbour {
    type Error = WireError;

    fn try_from(value: v1::Neighbour) -> Result<Self, WireError> {
        Ok(Self {
            host: host(&value.host)?,
            address: parse(&value.address, "address")?,
            role: role(value.role)?,
        })
    }
}

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
            SchedulerMessage::Delete { task } => Down::Delete(task_frame(task)),
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
            SchedulerMessage::Size { task, size, read } => Down::Size(v1::Size {
                task: task.to_string(),
                size: *size,
                read: *read,
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

impl From<&PublicContent> for v1::PublicContent {
    fn from(content: &PublicContent) -> Self {
        Self {
            digest: content.digest.to_string(),
            size: content.size,
            age_ms: content.age_ms,
        }
    }
}

impl TryFrom<v1::PublicContent> for PublicContent {
    type Error = WireError;

    fn try_from(value: v1::PublicContent) -> Result<Self, WireError> {
        Ok(Self {
            digest: digest(&value.digest)?,
            size: value.size,
            age_ms: value.age_ms,
        })
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
            Down::Fetch(v) => Self::Fetch {
                task: task(&v.task)?,
                lengths: lengths(v.lengths)?,
                origin: origin(v.origin)?,
                purpose: purpose(v.purpose)?,
            },
            Down::Delete(v) => Self::Delete {
                task: task(&v.task)?,
            },
            Down::Mismatch(v) => Self::Mismatch {
                task: task(&v.task)?,
                lengths: lengths(v.lengths)?,
            },
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
                read: v.read,
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

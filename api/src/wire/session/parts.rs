//! What messages are made of.

use super::{
    super::{
        WireError,
        common::{digest, host, origin, parse, pieces, required, short, sized, some},
        v1,
    },
    id_bytes, purpose, role,
};
use crate::{
    membership::{MOST_NAME, MOST_WHERE},
    session::{
        Hello, Holding, Join, Locality, MOST_MEDIA_TYPE, MOST_TAG, Neighbour, Observation,
        ParentReport, PublicContent, Reference,
    },
};

/// Bytes of a version, for people, are few and of one line.
fn shown(version: &str) -> String {
    let shown = version.chars().filter(|one| one.is_ascii_graphic());
    shown.take(64).collect()
}

/// The hello's signature is the driver's to add: see [`crate::wire::session_challenge`].
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
            name: short(value.name, MOST_NAME, "name")?,
            address: parse(&value.address, "address")?,
            role: role(value.role)?,
            locality: Locality {
                host_group: short(locality.host_group, MOST_WHERE, "host_group")?,
                idc: short(locality.idc, MOST_WHERE, "idc")?,
                location: short(locality.location, MOST_WHERE, "location")?,
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
        let (task, lengths) = sized(&value.task, value.lengths)?;
        Ok(Self {
            task,
            lengths,
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
        let (task, lengths) = sized(&value.task, value.lengths)?;
        Ok(Self {
            task,
            lengths,
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
                Wire::Tag(tag) => Reference::Tag(short(tag, MOST_TAG, "tag")?),
                Wire::Member(member) => Reference::Digest(digest(&member)?),
            },
            digest: digest(&value.digest)?,
            media_type: short(value.media_type, MOST_MEDIA_TYPE, "media_type")?,
            size: value.size,
            public: value.public,
            age_ms: value.age_ms,
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

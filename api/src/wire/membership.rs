//! Beats of members to their manager.

use super::{
    WireError,
    common::{host, short},
    v1,
};
use crate::membership::{MOST_NAME, MOST_VERSION, MOST_WHERE, Member, MemberKind, Place};

impl From<MemberKind> for v1::MemberKind {
    fn from(kind: MemberKind) -> Self {
        match kind {
            MemberKind::Scheduler => Self::Scheduler,
            MemberKind::SeedPeer => Self::SeedPeer,
        }
    }
}

impl From<&Place> for v1::Place {
    fn from(place: &Place) -> Self {
        let cluster = place.cluster.as_ref().map(ToString::to_string);
        let address = place.address.map(|address| address.to_string());
        Self {
            cluster: cluster.unwrap_or_default(),
            name: place.name.clone(),
            address: address.unwrap_or_default(),
            idc: place.idc.clone(),
            location: place.location.clone(),
        }
    }
}

impl TryFrom<v1::Place> for Place {
    type Error = WireError;

    fn try_from(value: v1::Place) -> Result<Self, WireError> {
        let parsed = |text: String| Some(text).filter(|text| !text.is_empty());
        let cluster = parsed(value.cluster).map(|name| name.parse()).transpose();
        let address = parsed(value.address).map(|text| text.parse()).transpose();
        Ok(Self {
            cluster: cluster.map_err(|_| WireError::Invalid("cluster"))?,
            name: short(value.name, MOST_NAME, "name")?,
            address: address.map_err(|_| WireError::Invalid("place.address"))?,
            idc: short(value.idc, MOST_WHERE, "idc")?,
            location: short(value.location, MOST_WHERE, "location")?,
        })
    }
}

impl From<&Member> for v1::Beat {
    fn from(member: &Member) -> Self {
        Self {
            kind: v1::MemberKind::from(member.kind).into(),
            host: bytes::Bytes::copy_from_slice(member.host.as_bytes()),
            address: member.address.clone(),
            version: member.version.clone(),
            place: Some((&member.place).into()),
        }
    }
}

impl TryFrom<v1::Beat> for Member {
    type Error = WireError;

    fn try_from(beat: v1::Beat) -> Result<Self, WireError> {
        let kind = match v1::MemberKind::try_from(beat.kind) {
            Ok(v1::MemberKind::Scheduler) => MemberKind::Scheduler,
            Ok(v1::MemberKind::SeedPeer) => MemberKind::SeedPeer,
            Err(_) => return Err(WireError::Invalid("kind")),
        };
        if beat.version.len() > MOST_VERSION {
            return Err(WireError::Invalid("version"));
        }
        let member = Self {
            kind,
            host: host(&beat.host)?,
            address: beat.address,
            version: beat.version,
            place: beat.place.unwrap_or_default().try_into()?,
        };
        if !member.has_valid_address() {
            return Err(WireError::Invalid("address"));
        }
        Ok(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeKey;

    #[test]
    fn a_beat_survives_the_wire_and_nonsense_does_not() {
        let member = Member {
            kind: MemberKind::SeedPeer,
            host: NodeKey::from_seed([1; 32]).id(),
            address: "10.0.0.7:4000".to_owned(),
            version: "0.1.0".to_owned(),
            place: Place {
                cluster: Some("east".parse().expect("a name")),
                name: "node-7".to_owned(),
                address: Some([10, 0, 0, 7].into()),
                idc: "fra1".to_owned(),
                location: "eu|de".to_owned(),
            },
        };
        let beat = v1::Beat::from(&member);
        assert_eq!(Member::try_from(beat.clone()), Ok(member));
        type Spoil = fn(&mut v1::Beat);
        fn place(beat: &mut v1::Beat) -> &mut v1::Place {
            beat.place.get_or_insert_default()
        }
        let spoilt: [(&str, Spoil); 11] = [
            ("kind", |beat| beat.kind = 9),
            ("host", |beat| {
                beat.host = bytes::Bytes::from_static(b"short")
            }),
            ("name", |beat| place(beat).name = "x".repeat(MOST_NAME + 1)),
            ("idc", |beat| place(beat).idc = "x".repeat(MOST_WHERE + 1)),
            ("location", |beat| {
                place(beat).location = "x".repeat(MOST_WHERE + 1)
            }),
            ("cluster", |beat| place(beat).cluster = "East".to_owned()),
            ("place.address", |beat| {
                place(beat).address = "here".to_owned()
            }),
            ("version", |beat| {
                beat.version = "x".repeat(MOST_VERSION + 1)
            }),
            ("address", |beat| beat.address = "nowhere".to_owned()),
            ("address", |beat| beat.address = "0.0.0.0:4000".to_owned()),
            // A scheduler's address is a URL.
            ("address", |beat| {
                beat.kind = v1::MemberKind::Scheduler.into()
            }),
        ];
        for (field, spoil) in spoilt {
            let mut beat = beat.clone();
            spoil(&mut beat);
            assert_eq!(Member::try_from(beat), Err(WireError::Invalid(field)));
        }
    }
}

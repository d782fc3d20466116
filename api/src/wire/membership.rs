//! Beats of members to their manager.

use super::{WireError, common::host, v1};
use crate::membership::{MOST_NAME, MOST_VERSION, Member, MemberKind};

impl From<MemberKind> for v1::MemberKind {
    fn from(kind: MemberKind) -> Self {
        match kind {
            MemberKind::Scheduler => Self::Scheduler,
            MemberKind::SeedPeer => Self::SeedPeer,
        }
    }
}

impl From<&Member> for v1::Beat {
    fn from(member: &Member) -> Self {
        Self {
            kind: v1::MemberKind::from(member.kind).into(),
            host: bytes::Bytes::copy_from_slice(member.host.as_bytes()),
            name: member.name.clone(),
            address: member.address.clone(),
            version: member.version.clone(),
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
        if beat.name.len() > MOST_NAME {
            return Err(WireError::Invalid("name"));
        }
        if beat.version.len() > MOST_VERSION {
            return Err(WireError::Invalid("version"));
        }
        let member = Self {
            kind,
            host: host(&beat.host)?,
            name: beat.name,
            address: beat.address,
            version: beat.version,
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
            name: "node-7".to_owned(),
            address: "10.0.0.7:4000".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let beat = v1::Beat::from(&member);
        assert_eq!(Member::try_from(beat.clone()), Ok(member));
        type Spoil = fn(&mut v1::Beat);
        let spoilt: [(&str, Spoil); 7] = [
            ("kind", |beat| beat.kind = 9),
            ("host", |beat| {
                beat.host = bytes::Bytes::from_static(b"short")
            }),
            ("name", |beat| beat.name = "x".repeat(MOST_NAME + 1)),
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

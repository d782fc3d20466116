//! Whom a cluster claims.
//!
//! Pure: a node's own word about where it stands ([`Place`]) against the scopes of all clusters.
//! A cluster that the node names is its cluster. Else the strongest fit decides: an address in a
//! range, the narrowest first; then the host's name, the longest pattern first; then the data
//! centre; then the location, the longest first. Of equal fits the first cluster by name has it,
//! and who fits nowhere is the default cluster's.

use std::cmp::Reverse;

use darter_api::{
    ClusterName, Place,
    membership::{MOST_NAME, MOST_WHERE},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Entries of one kind.
const MOST_ENTRIES: usize = 1000;

/// Whom a cluster claims; of each kind any one that fits is enough.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scopes {
    /// Ranges of addresses: `10.1.0.0/16`.
    pub(crate) cidrs: Vec<IpNet>,
    /// Names of hosts, case aside; a `*` stands for anything: `node-*.east.example.com`.
    pub(crate) hostnames: Vec<String>,
    /// Data centres.
    pub(crate) idcs: Vec<String>,
    /// Locations and all that lies in them: `eu|de` has `eu|de|room-1`.
    pub(crate) locations: Vec<String>,
}

/// Scopes make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScopesError {
    #[error("`{0}` has at most {MOST_ENTRIES} entries")]
    Many(&'static str),
    #[error("an entry of `{0}` is empty or too long")]
    Entry(&'static str),
}

/// How well a cluster fits; what stands later is stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Parts of the location.
    Location(usize),
    Idc,
    /// Letters of the pattern.
    Hostname(usize),
    /// Bits of the range.
    Cidr(u8),
}

impl Scopes {
    pub(crate) fn check(&self) -> Result<(), ScopesError> {
        if self.cidrs.len() > MOST_ENTRIES {
            return Err(ScopesError::Many("cidrs"));
        }
        for (field, list, most) in [
            ("hostnames", &self.hostnames, MOST_NAME),
            ("idcs", &self.idcs, MOST_WHERE),
            ("locations", &self.locations, MOST_WHERE),
        ] {
            if list.len() > MOST_ENTRIES {
                return Err(ScopesError::Many(field));
            }
            let wrong = |entry: &String| entry.is_empty() || entry.len() > most;
            if list.iter().any(wrong) {
                return Err(ScopesError::Entry(field));
            }
        }
        Ok(())
    }

    fn fit(&self, place: &Place) -> Option<Fit> {
        let address = place.address.map(|address| address.to_canonical());
        let cidrs = self.cidrs.iter();
        let ranges = cidrs.filter(|range| address.is_some_and(|ip| range.contains(&ip)));
        let names = self.hostnames.iter();
        let names = names.filter(|pattern| fits(pattern, &place.name));
        let idc = self.idcs.contains(&place.idc).then_some(Fit::Idc);
        let locations = self.locations.iter();
        let locations = locations.filter(|location| lies_in(location, &place.location));
        let all = ranges
            .map(|range| Fit::Cidr(range.prefix_len()))
            .chain(names.map(|pattern| Fit::Hostname(letters(pattern))))
            .chain(idc)
            .chain(locations.map(|location| Fit::Location(location.split('|').count())));
        all.max()
    }
}

/// The cluster of a node that names none, of `(name, scopes)`.
pub(super) fn claimed<'a>(
    clusters: impl Iterator<Item = (&'a ClusterName, &'a Scopes)>,
    place: &Place,
) -> Option<&'a ClusterName> {
    let fits = clusters.filter_map(|(name, scopes)| Some((scopes.fit(place)?, Reverse(name))));
    fits.max().map(|(_, Reverse(name))| name)
}

/// Bytes of a pattern that stand for themselves.
fn letters(pattern: &str) -> usize {
    pattern.bytes().filter(|byte| *byte != b'*').count()
}

/// Whether a name fits a pattern, in time linear in both but for the pattern's stars.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else {
        return pattern == name;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether a location is this one or one in it.
fn lies_in(outer: &str, inner: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|') || outer.ends_with('|'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(cidr: &str, hostname: &str, idc: &str, location: &str) -> Scopes {
        let list = |text: &str| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        };
        Scopes {
            cidrs: list(cidr)
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            hostnames: list(hostname),
            idcs: list(idc),
            locations: list(location),
        }
    }

    fn place(address: &str, name: &str, idc: &str, location: &str) -> Place {
        Place {
            cluster: None,
            name: name.to_owned(),
            address: address.parse().ok(),
            idc: idc.to_owned(),
            location: location.to_owned(),
        }
    }

    #[test]
    fn the_strongest_fit_decides_and_the_first_of_equals() {
        let clusters = [
            ("b-wide", scopes("10.0.0.0/8", "", "", "")),
            ("narrow", scopes("10.1.0.0/16", "", "", "")),
            ("east", scopes("", "*.east.example.com", "", "")),
            ("rack", scopes("", "node-*.rack1.east.example.com", "", "")),
            ("fra", scopes("", "", "fra1", "")),
            ("eu", scopes("", "", "", "eu")),
            ("de", scopes("", "", "", "eu|de")),
            ("a-wide", scopes("10.0.0.0/8", "", "", "")),
        ];
        let named: Vec<(ClusterName, Scopes)> = clusters
            .into_iter()
            .map(|(name, scopes)| (name.parse().unwrap(), scopes))
            .collect();
        let of = |place: Place| {
            let all = named.iter().map(|(name, scopes)| (name, scopes));
            claimed(all, &place)
                .map_or("-", ClusterName::as_str)
                .to_owned()
        };
        assert_eq!(
            of(place("10.1.2.3", "x.east.example.com", "fra1", "")),
            "narrow"
        );
        assert_eq!(of(place("::ffff:10.1.2.3", "", "", "")), "narrow");
        assert_eq!(
            of(place("10.2.2.3", "x.east.example.com", "", "")),
            "a-wide"
        );
        assert_eq!(
            of(place("192.0.2.1", "X.East.Example.com", "fra1", "")),
            "east"
        );
        assert_eq!(
            of(place("", "node-7.rack1.east.example.com", "", "")),
            "rack"
        );
        assert_eq!(of(place("", "x", "fra1", "eu|de")), "fra");
        assert_eq!(of(place("", "x", "", "eu|de|room")), "de");
        assert_eq!(of(place("", "x", "", "eu|denmark")), "eu");
        assert_eq!(of(place("", "x", "", "europe")), "-");
        assert_eq!(of(place("", "", "", "")), "-");
    }

    #[test]
    fn patterns() {
        for (pattern, name, wanted) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many = Scopes {
            idcs: vec!["x".to_owned(); MOST_ENTRIES + 1],
            ..Scopes::default()
        };
        assert_eq!(many.check(), Err(ScopesError::Many("idcs")));
        let mut empty = scopes("", "", "", "x");
        empty.hostnames.push(String::new());
        assert_eq!(empty.check(), Err(ScopesError::Entry("hostnames")));
        assert_eq!(Scopes::default().check(), Ok(()));
    }
}

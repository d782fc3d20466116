//! `Range` headers (RFC 9110, section 14).

use std::ops::Range;

use http::HeaderMap;

use crate::content::Excerpt;

/// Ranges of one request; who asks for more gets all. (podman asks for 1024 at most.)
const MOST_RANGES: usize = 1024;

/// What a client wants of a content of a known size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, too many, or one that is not understood.
    Whole,
    /// One range.
    Part(Range<u64>),
    /// Several ranges, as asked for: each is not empty, and all of them are no longer than the
    /// content.
    Parts(Vec<Range<u64>>),
    /// Ranges that lie outside.
    Unsatisfiable,
}

/// One range, before the size is known.
#[derive(Debug, Clone, Copy)]
enum Spec {
    /// The last bytes, so many.
    Suffix(u64),
    /// From here on.
    From(u64),
    /// From here to there, both inside.
    Between(u64, u64),
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.trim().split_once('-')?;
        Some(match (first.trim(), last.trim()) {
            ("", suffix) => Self::Suffix(suffix.parse().ok()?),
            (start, "") => Self::From(start.parse().ok()?),
            (start, last) => {
                let (start, last) = (start.parse().ok()?, last.parse().ok()?);
                (start <= last).then_some(Self::Between(start, last))?
            }
        })
    }

    /// The bytes of a content that it asks for; none where it lies outside.
    fn of(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Suffix(length) => size.saturating_sub(length)..size,
            Self::From(start) => start..size,
            Self::Between(start, last) => start..last.saturating_add(1).min(size),
        };
        (range.start < range.end).then_some(range)
    }

    /// How many bytes it is at most; `None` when that depends on the content.
    const fn length(self) -> Option<u64> {
        match self {
            Self::Suffix(length) => Some(length),
            Self::From(_) => None,
            Self::Between(start, last) => Some((last - start).saturating_add(1)),
        }
    }
}

/// The ranges of a request; `None` when all is to be sent.
fn specs(headers: &HeaderMap) -> Option<Vec<Spec>> {
    let text = headers.get(http::header::RANGE)?.to_str().ok()?;
    let ranges = text.strip_prefix("bytes=")?.split(',');
    let specs: Option<Vec<Spec>> = ranges.take(MOST_RANGES + 1).map(Spec::parse).collect();
    specs.filter(|specs| specs.len() <= MOST_RANGES)
}

pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Wanted {
    let Some(specs) = specs(headers) else {
        return Wanted::Whole;
    };
    let mut parts: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.of(size)).collect();
    let lengths = parts.iter().map(|part| part.end - part.start);
    let bytes = lengths.fold(0, u64::saturating_add);
    match (parts.len(), bytes) {
        (0, _) => Wanted::Unsatisfiable,
        (1, _) => Wanted::Part(parts.remove(0)),
        // Ranges that overlap again and again would make a small request a huge reply (RFC 9110,
        // section 14.2).
        (_, bytes) if bytes > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// Whether less than all of it is asked for, whatever its size.
pub(super) fn is_part(headers: &HeaderMap) -> bool {
    specs(headers).is_some_and(|specs| !matches!(specs[..], [Spec::From(0)]))
}

/// How little is asked for, if every range has an end. Open ranges are how clients fetch all of a
/// content, in chunks or after a cut; they read a part of each and hang up.
pub(super) fn excerpt(headers: &HeaderMap) -> Option<Excerpt> {
    let specs = specs(headers)?;
    let lengths: Option<Vec<u64>> = specs.iter().map(|spec| spec.length()).collect();
    let bytes = lengths?.into_iter().fold(0, u64::saturating_add);
    let ranges = specs.len();
    Some(Excerpt { ranges, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_open_suffix_and_odd_ones() {
        let ask = |text: &str, size| {
            let mut headers = HeaderMap::new();
            headers.insert("range", text.parse().unwrap());
            wanted(&headers, size)
        };
        for (text, part) in [
            ("bytes=0-", Wanted::Part(0..100)),
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=10-19", Wanted::Part(10..20)),
            ("bytes=90-1000", Wanted::Part(90..100)),
            ("bytes=-5", Wanted::Part(95..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=0-1,5-6", Wanted::Parts(vec![0..2, 5..7])),
            (
                "bytes=50-,-3, 0-1",
                Wanted::Parts(vec![50..100, 97..100, 0..2]),
            ),
            ("bytes=0-1,100-", Wanted::Part(0..2)),
            ("bytes=100-,200-300", Wanted::Unsatisfiable),
            ("bytes=0-,0-", Wanted::Whole),
            ("bytes=0-1,x", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=9-3", Wanted::Whole),
            ("bytes=x-", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            (
                "bytes=18446744073709551615-18446744073709551615",
                Wanted::Unsatisfiable,
            ),
            ("bytes=0-18446744073709551615", Wanted::Part(0..100)),
        ] {
            assert_eq!(ask(text, 100), part, "{text}");
        }
        assert_eq!(ask("bytes=0-", 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(&HeaderMap::new(), 100), Wanted::Whole);
    }

    #[test]
    fn all_from_the_first_byte_on_is_no_part() {
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("range", text.parse().unwrap());
            is_part(&headers)
        };
        for part in ["bytes=1-", "bytes=0-0", "bytes=-5", "bytes=0-,0-"] {
            assert!(ask(part), "{part}");
        }
        for all in ["bytes=0-", "bytes= 0-", "bytes=x-", "lines=1-2", "bytes="] {
            assert!(!ask(all), "{all}");
        }
        assert!(!is_part(&HeaderMap::new()));
    }

    #[test]
    fn only_ranges_with_an_end_are_an_excerpt() {
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("range", text.parse().unwrap());
            excerpt(&headers).map(|excerpt| (excerpt.ranges, excerpt.bytes))
        };
        assert_eq!(ask("bytes=0-0"), Some((1, 1)));
        assert_eq!(ask("bytes=-47"), Some((1, 47)));
        assert_eq!(ask("bytes=0-9,20-29,-5"), Some((3, 25)));
        assert_eq!(ask("bytes=0-18446744073709551615"), Some((1, u64::MAX)));
        for whole in ["bytes=0-", "bytes=5-", "bytes=0-9,20-", "bytes=9-3", "x"] {
            assert_eq!(ask(whole), None, "{whole}");
        }
        let many = |ranges: usize| format!("bytes={}0-0", "0-0,".repeat(ranges - 1));
        assert_eq!(ask(&many(MOST_RANGES)), Some((1024, 1024)));
        assert_eq!(ask(&many(MOST_RANGES + 1)), None);
        assert_eq!(excerpt(&HeaderMap::new()), None);
    }
}

//! `Range` headers (RFC 9110, section 14).

use std::ops::Range;

use http::HeaderMap;

/// What a client wants of a content of a known size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, several, or one that is not understood.
    Whole,
    /// One range.
    Part(Range<u64>),
    /// A range that lies outside.
    Unsatisfiable,
}

pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Wanted {
    let text = headers
        .get(http::header::RANGE)
        .and_then(|value| value.to_str().ok());
    let Some(text) = text.and_then(|text| text.strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    // Several ranges may be answered by the whole; a wrong single one would corrupt.
    let Some((first, last)) = text.trim().split_once('-').filter(|_| !text.contains(',')) else {
        return Wanted::Whole;
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => match suffix.parse::<u64>() {
            Ok(0) => Wanted::Unsatisfiable,
            Ok(_) if size == 0 => Wanted::Unsatisfiable,
            Ok(length) => Wanted::Part(size.saturating_sub(length)..size),
            Err(_) => Wanted::Whole,
        },
        (start, end) => {
            let Ok(start) = start.parse::<u64>() else {
                return Wanted::Whole;
            };
            let end = match end {
                "" => size,
                text => match text.parse::<u64>() {
                    Ok(last) if last >= start => last.saturating_add(1).min(size),
                    _ => return Wanted::Whole,
                },
            };
            if start >= size {
                Wanted::Unsatisfiable
            } else {
                Wanted::Part(start..end)
            }
        }
    }
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
            ("bytes=0-1,5-6", Wanted::Whole),
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
}

//! When clients come.
//!
//! Written as `at once`, `within 4s`, `waves of 20%` (each wave comes when the one before
//! it is done), or `poisson 50/s`.

use std::{fmt, str::FromStr, time::Duration};

use serde::Deserialize;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Arrival {
    /// All at the same moment.
    #[default]
    AtOnce,
    /// Evenly within this.
    Within(Duration),
    /// So many percent at a time; the next ones when these are done.
    Waves(f64),
    /// By chance, so many a second on average.
    Poisson(f64),
}

/// Why a text is no arrival.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no arrival: `at once`, `within 4s`, `waves of 20%` or `poisson 50/s`")]
pub struct ArrivalError(String);

impl Arrival {
    /// Hosts of a wave, of `peers` in all; all of them where there are no waves.
    pub(crate) fn wave(&self, peers: usize) -> usize {
        match self {
            Self::Waves(percent) => share(peers, *percent).max(1),
            _ => peers.max(1),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "at once" {
            return Some(Self::AtOnce);
        }
        let number = |text: &str| {
            let number: f64 = text.parse().ok()?;
            // A million seconds, or clients a second, are more than anybody can mean.
            (number > 0.0 && number <= 1e6).then_some(number)
        };
        if let Some(span) = text.strip_prefix("within ") {
            let seconds = number(span.strip_suffix('s')?)?;
            return Some(Self::Within(Duration::from_secs_f64(seconds)));
        }
        if let Some(percent) = text.strip_prefix("waves of ") {
            let percent = number(percent.strip_suffix('%')?)?;
            return (percent <= 100.0).then_some(Self::Waves(percent));
        }
        let rate = text.strip_prefix("poisson ")?.strip_suffix("/s")?;
        number(rate).map(Self::Poisson)
    }
}

impl FromStr for Arrival {
    type Err = ArrivalError;

    fn from_str(text: &str) -> Result<Self, ArrivalError> {
        Self::parse(text).ok_or_else(|| ArrivalError(text.to_owned()))
    }
}

impl TryFrom<String> for Arrival {
    type Error = ArrivalError;

    fn try_from(text: String) -> Result<Self, ArrivalError> {
        text.parse()
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce => f.write_str("at once"),
            Self::Within(span) => write!(f, "within {}s", span.as_secs_f64()),
            Self::Waves(percent) => write!(f, "waves of {percent}%"),
            Self::Poisson(rate) => write!(f, "poisson {rate}/s"),
        }
    }
}

/// So many percent of a number of hosts, rounded.
pub(crate) fn share(hosts: usize, percent: f64) -> usize {
    ((hosts as f64 * percent / 100.0).round() as usize).min(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "at once",
            "within 4s",
            "waves of 20%",
            "poisson 50/s",
            "within 0.5s",
        ] {
            let arrival: Arrival = text.parse().expect(text);
            assert_eq!(arrival.to_string(), text);
        }
        for text in [
            "",
            "now",
            "within 4",
            "waves of 101%",
            "poisson 0/s",
            "poisson NaN/s",
        ] {
            assert!(text.parse::<Arrival>().is_err(), "{text}");
        }
    }
}

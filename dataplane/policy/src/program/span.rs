//! Durations, written `720h`, `30m`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::ParseError;

/// A length of time in whole seconds, at most [`Span::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(u64);

impl Span {
    /// The longest: ten years of 365 days.
    pub const MAX: Span = Span(10 * 365 * 86_400);

    /// A span of `seconds`, at most [`Span::MAX`].
    pub fn seconds(seconds: u64) -> Self {
        Span(seconds.min(Self::MAX.0))
    }

    /// The length in seconds.
    pub fn as_seconds(self) -> u64 {
        self.0
    }

    /// Whether it is none.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Duration::from_secs(span.0)
    }
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        // Hours are not turned into days: 720h is how a lease is written.
        let mut left = self.0;
        for (unit, size) in UNITS.iter().skip(1) {
            if left >= *size {
                write!(f, "{}{unit}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = || {
            ParseError(format!(
                "`{text}` is not a length of time: write 720h, 30m, 45s, 7d or 1h30m, at most 10 years"
            ))
        };
        let mut total = 0u64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let (_, size) = UNITS
                .iter()
                .find(|(unit, _)| after.starts_with(unit))
                .ok_or_else(refuse)?;
            let number: u64 = number.parse().map_err(|_| refuse())?;
            let seconds = number.checked_mul(*size).ok_or_else(refuse)?;
            total = total.checked_add(seconds).ok_or_else(refuse)?;
            rest = after.get(1..).unwrap_or("");
        }
        if total > Self::MAX.0 {
            return Err(refuse());
        }
        Ok(Span(total))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, seconds, again) in [
            ("720h", 2_592_000, "720h"),
            ("7d", 604_800, "168h"),
            ("1h30m", 5400, "1h30m"),
            ("45s", 45, "45s"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.as_seconds(), seconds);
            assert_eq!(span.to_string(), again);
            assert_eq!(again.parse::<Span>().unwrap(), span);
        }
        for wrong in [
            "",
            "h",
            "12",
            "-1h",
            "1w",
            "1 h",
            "99999999999999999999h",
            "11y",
            "90000h1s5",
            "3651d",
        ] {
            let error = wrong.parse::<Span>().unwrap_err();
            assert!(
                error.to_string().contains("not a length of time"),
                "{wrong}: {error}"
            );
        }
    }
}

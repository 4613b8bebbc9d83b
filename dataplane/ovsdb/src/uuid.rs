//! Row and transaction identifiers.

use std::fmt;
use std::str::FromStr;

/// A 128-bit identifier (RFC 4122) of a row or of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid([u8; 16]);

/// Why a text is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a UUID; expected 8-4-4-4-12 hexadecimal digits")]
pub struct UuidError {
    /// The text, cut when long.
    pub text: String,
}

const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

impl Uuid {
    /// All zero: "no transaction" in `monitor_cond_since`.
    pub const ZERO: Self = Self([0; 16]);

    /// Whether this is [`Uuid::ZERO`].
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || UuidError {
            text: crate::clip::clip(text),
        };
        let groups_fit = text.split('-').map(str::len).eq(GROUPS);
        let digits_fit = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if !groups_fit || !digits_fit {
            return Err(refuse());
        }
        let digits: String = text.chars().filter(|&character| character != '-').collect();
        let number = u128::from_str_radix(&digits, 16).map_err(|_| refuse())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", u128::from_be_bytes(self.0));
        let mut rest = digits.as_str();
        for (index, &length) in GROUPS.iter().enumerate() {
            let (group, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
            if index > 0 {
                formatter.write_str("-")?;
            }
            formatter.write_str(group)?;
            rest = tail;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_usual_form() {
        let text = "31507d34-600f-435c-ae77-46ac8b04969c";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        assert!(
            "00000000-0000-0000-0000-000000000000"
                .parse::<Uuid>()
                .unwrap()
                .is_zero()
        );
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "31507d34600f435cae7746ac8b04969c",
            "31507d34-600f-435c-ae77-46ac8b04969",
            "31507d34-600f-435c-ae77-46ac8b04969g",
            "+1507d34-600f-435c-ae77-46ac8b04969c",
            "31507d34-600f-435c-ae77-46ac8b0496é",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }
}

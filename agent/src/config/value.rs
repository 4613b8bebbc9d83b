//! Value types of the configuration; each refuses bad input where it is read, so that errors have their line.

use std::time::Duration;

use portcullis_ovs::{FailMode, FinalAction};
use serde::{Deserialize, Deserializer, de};

/// A duration as text: `"500ms"`, `"10s"`, `"5m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let refuse = || {
            de::Error::custom(format!(
                "`{text}` is not a duration: write \"500ms\", \"10s\" or \"5m\""
            ))
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let milliseconds = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            _ => None,
        };
        milliseconds
            .map(|ms| DurationText(Duration::from_millis(ms)))
            .ok_or_else(refuse)
    }
}

/// Permission bits in octal: `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if bits <= 0o777 => Ok(Mode(bits)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is not a mode: write octal digits, as in \"0660\""
            ))),
        }
    }
}

/// The value of `fail_mode`: `"keep"` or `"secure"`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct FailModeText(#[serde(with = "FailModeWords")] pub FailMode);

/// The words for [`FailMode`].
#[derive(Deserialize)]
#[serde(remote = "FailMode", rename_all = "lowercase")]
enum FailModeWords {
    Keep,
    Secure,
}

/// `"normal"` or `{ goto_table = N }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Final(pub FinalAction);

impl<'de> Deserialize<'de> for Final {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Goto {
            goto_table: u8,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Final;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"normal\" or { goto_table = N }")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Final, E> {
                match v {
                    "normal" => Ok(Final(FinalAction::Normal)),
                    _ => Err(E::custom(format!(
                        "`{v}` is not an action: write \"normal\" or {{ goto_table = N }}"
                    ))),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Final, A::Error> {
                let goto = Goto::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Final(FinalAction::GotoTable(goto.goto_table)))
            }
        }
        d.deserialize_any(Visitor)
    }
}

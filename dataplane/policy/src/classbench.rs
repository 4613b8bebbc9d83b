//! ClassBench filter sets as policies, to compile published rules for a target.
//!
//! ClassBench (Taylor and Turner, "ClassBench: A Packet Classification Benchmark", IEEE/ACM Transactions on Networking
//! 15(3), 2007) writes one filter a line; the first that matches wins:
//!
//! ```text
//! @192.0.2.0/24   198.51.100.7/32   0 : 65535   80 : 80   0x06/0xFF   0x0000/0x0000
//! ```
//!
//! source prefix, destination prefix, source ports, destination ports, protocol and its mask, TCP flags and their mask.
//! Fields are separated by blanks or tabs; empty lines and lines that begin with `#` are skipped. As is usual in
//! five-tuple classification, flags are checked for form and ignored, and so is what follows them.
//!
//! A filter has no action of its own in this format. Here it has the opposite of the default, or what the line's last
//! word says when that is `allow` or `deny`. Bits of an address beyond its prefix length are masked off: they take no
//! part in matching, and published sets differ in whether they clear them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::direction::Direction;
use crate::effective::{Entry, Policy, Tier};
use crate::matcher::{Families, Matcher, Ranges};
use crate::types::{Family, PortRange, Protocol, Verdict};

/// Why a line is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field} `{text}`: {why}")]
pub struct LineError {
    /// Number of the line, from 1.
    pub line: usize,
    /// Which part of it: `source prefix`, `protocol`.
    pub field: &'static str,
    /// That part as written, at most 60 characters of it; empty when it is missing.
    pub text: String,
    /// What is wrong and what was expected.
    pub why: String,
}

/// The words of a line, taken one field at a time.
struct Line<'a> {
    number: usize,
    words: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
}

impl<'a> Line<'a> {
    fn refuse<T>(&self, field: &'static str, text: &str, why: impl Into<String>) -> Result<T, LineError> {
        Err(LineError {
            line: self.number,
            field,
            text: text.chars().take(60).collect(),
            why: why.into(),
        })
    }

    fn prefix(&mut self, field: &'static str) -> Result<Vec<IpNet>, LineError> {
        let text = self.words.next().unwrap_or_default();
        let parsed = text
            .split_once('/')
            .and_then(|(address, length)| Some((address.parse::<Ipv4Addr>().ok()?, decimal(length)?)));
        let Some((address, length)) = parsed else {
            return self.refuse(field, text, "expected an IPv4 prefix, as in 192.0.2.0/24");
        };
        let net = u8::try_from(length)
            .ok()
            .and_then(|length| Ipv4Net::new(address, length).ok());
        match net {
            Some(net) if net.prefix_len() == 0 => Ok(Vec::new()),
            Some(net) => Ok(vec![net.trunc().into()]),
            None => self.refuse(field, text, "expected a prefix length from 0 to 32"),
        }
    }

    fn ports(&mut self, field: &'static str) -> Result<Ranges, LineError> {
        let words: [&str; 3] = std::array::from_fn(|_| self.words.next().unwrap_or_default());
        let text = words.join(" ");
        let text = text.trim_end();
        let [low, colon, high] = words;
        let (":", Some(low), Some(high)) = (colon, decimal(low), decimal(high)) else {
            return self.refuse(field, text, "expected a range, as in 1024 : 65535");
        };
        let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high)) else {
            return self.refuse(field, text, "expected ports from 0 to 65535");
        };
        if low > high {
            return self.refuse(
                field,
                text,
                format!("the range is backwards: expected {high} : {low}"),
            );
        }
        Ok(Ranges::from_ports(&[PortRange { low, high }]))
    }

    fn protocol(&mut self) -> Result<Protocol, LineError> {
        const FIELD: &str = "protocol";
        let text = self.words.next().unwrap_or_default();
        let Some((value, mask)) = masked(text) else {
            return self.refuse(
                FIELD,
                text,
                "expected a number and a mask, as in 0x06/0xFF or 0x00/0x00",
            );
        };
        match (u8::try_from(value), mask) {
            (Ok(number), 0xff) => Ok(Protocol::Number(number)),
            (Ok(_), 0) => Ok(Protocol::Any),
            (Err(_), _) => self.refuse(FIELD, text, "expected a number from 0x00 to 0xFF"),
            (Ok(_), _) => self.refuse(
                FIELD,
                text,
                "expected mask 0xFF, for one protocol, or 0x00, for any",
            ),
        }
    }

    /// The flags, for their form, and what the last word says of the action.
    fn rest(&mut self, otherwise: Verdict) -> Result<Verdict, LineError> {
        let action = |word: &str| word.parse::<Verdict>().ok();
        if let Some(text) = self.words.next_if(|word| action(word).is_none())
            && masked(text).is_none_or(|(value, mask)| value.max(mask) > 0xffff)
        {
            return self.refuse("flags", text, "expected flags and a mask, as in 0x1000/0x1000");
        }
        Ok(self.words.by_ref().last().and_then(action).unwrap_or(otherwise))
    }
}

/// Digits only: no sign, no blanks.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are a number too, and out of every range.
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// Value and mask of a field written `0x06/0xFF`.
fn masked(text: &str) -> Option<(u32, u32)> {
    let hex = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        all.then(|| u32::from_str_radix(digits, 16).unwrap_or(u32::MAX))
    };
    let (value, mask) = text.split_once('/')?;
    Some((hex(value)?, hex(mask)?))
}

fn filter(number: usize, text: &str, otherwise: Verdict) -> Result<Entry, LineError> {
    let mut line = Line {
        number,
        words: text
            .strip_prefix('@')
            .unwrap_or(text)
            .split_whitespace()
            .peekable(),
    };
    if !text.starts_with('@') {
        return line.refuse(
            "filter",
            text,
            "expected a line that begins with @, or a comment with #",
        );
    }
    let local = line.prefix("source prefix")?;
    let remote = line.prefix("destination prefix")?;
    let src_ports = line.ports("source ports")?;
    let dst_ports = line.ports("destination ports")?;
    let protocol = line.protocol()?;
    let action = line.rest(otherwise)?;
    let matcher = Matcher {
        families: Families::only(Family::V4),
        protocol,
        dst_ports,
        src_ports,
        remote,
        local,
        ..Matcher::everything()
    };
    Ok(Entry {
        tier: Tier::Endpoint,
        origin: format!("filter/{number}").into(),
        reason: Arc::from(""),
        action,
        matcher: matcher.into(),
    })
}

/// A filter set as an egress policy over five-tuples: local is the source, remote the destination, and a filter's
/// entry is named `filter/N` after its line. The first line that is not a filter is the error.
pub fn parse(text: &str, default: Verdict) -> Result<Policy, LineError> {
    let otherwise = match default {
        Verdict::Allow => Verdict::Deny,
        Verdict::Deny => Verdict::Allow,
    };
    let lines = (1..).zip(text.lines().map(str::trim));
    let entries = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| filter(number, line, otherwise))
        .collect::<Result<_, _>>()?;
    Ok(Policy {
        entries,
        five_tuple: true,
        ..Policy::constant(Direction::Egress, default)
    })
}

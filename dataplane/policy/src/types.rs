//! The value types of a rule. Each parses strictly and prints as it is written in a document.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::endpoint::Declared;
use crate::protocols;

/// Why a value was refused. The text says what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

fn refuse<T>(text: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(text.into()))
}

/// What a rule, a row or a whole policy decides about a packet.
///
/// Code asks [`passes`](Self::passes) instead of comparing with `Allow`, and matches without a wildcard where it
/// encodes a verdict: a verdict that lets a part of the packets pass, such as a rate limit, then is a compile error
/// wherever it has to be thought of, and nowhere taken for `Deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet passes this policy.
    Allow,
    /// The packet is dropped.
    Deny,
}

impl Verdict {
    /// `Allow` if `passes` is true, else `Deny`.
    #[inline]
    pub const fn from_passes(passes: bool) -> Self {
        if passes { Verdict::Allow } else { Verdict::Deny }
    }

    /// Whether it is `Allow`.
    #[inline]
    pub const fn passes(self) -> bool {
        match self {
            Verdict::Allow => true,
            Verdict::Deny => false,
        }
    }

    /// Whether no packet passes.
    #[inline]
    pub const fn denies(self) -> bool {
        !self.passes()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        })
    }
}

impl FromStr for Verdict {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "allow" => Ok(Verdict::Allow),
            "deny" => Ok(Verdict::Deny),
            _ => refuse(format!("`{s}` is not an action: write allow or deny")),
        }
    }
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Version 4 (RFC 791).
    V4,
    /// Version 6 (RFC 8200).
    V6,
}

impl Family {
    /// Both versions, 4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The version of an address.
    pub fn from_address(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Address width in bits.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

impl TryFrom<u8> for Family {
    type Error = ParseError;
    fn try_from(n: u8) -> Result<Self, ParseError> {
        match n {
            4 => Ok(Family::V4),
            6 => Ok(Family::V6),
            _ => refuse(format!("{n} is not an IP version: write 4 or 6")),
        }
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u8(if *self == Family::V4 { 4 } else { 6 })
    }
}

impl<'de> Deserialize<'de> for Family {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Family::try_from(u8::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// A number in decimal digits, and nothing else: no sign, and no leading zero, which may mean octal.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| digits && !leading_zero)
}

/// An IP protocol, or any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// Every IP protocol, known or not.
    #[default]
    Any,
    /// The protocol with this number (IANA protocol numbers).
    Number(u8),
}

#[allow(missing_docs, reason = "the constants are IANA protocol numbers")]
impl Protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const SCTP: u8 = 132;
    pub const ICMP: u8 = 1;
    pub const ICMPV6: u8 = 58;

    /// Whether a protocol number is one whose headers begin with two 16-bit ports.
    pub fn has_ports(number: u8) -> bool {
        matches!(number, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// The name used in documents, or the number.
    pub fn name(number: u8) -> String {
        protocols::name_of(number).map_or_else(|| number.to_string(), str::to_string)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Any => f.write_str("any"),
            Protocol::Number(n) => f.write_str(&Self::name(*n)),
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        if s == "any" {
            return Ok(Protocol::Any);
        }
        match (protocols::number_of(s), decimal::<u8>(s)) {
            (Some(n), _) | (None, Some(n)) => Ok(Protocol::Number(n)),
            (None, None) => refuse(format!(
                "`{s}` is not a protocol: write any, a number from 0 to 255, or its IANA name, as in tcp, udp, icmp, \
                 icmpv6, esp, gre, vrrp"
            )),
        }
    }
}

/// An inclusive range of ports; one port is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port of the range.
    pub low: u16,
    /// Last port, not below `low`.
    pub high: u16,
}

impl PortRange {
    fn port(text: &str) -> Result<u16, ParseError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match decimal::<u16>(text) {
            Some(n) => Ok(n),
            None if digits && text.len() > 1 && text.starts_with('0') => refuse(format!(
                "`{text}` is not a port: it begins with 0, which may mean octal; write {}",
                match text.trim_start_matches('0') {
                    "" => "0",
                    rest => rest,
                }
            )),
            None if digits => refuse(format!("port {text} is out of range: ports are 0 to 65535")),
            None => refuse(format!(
                "`{text}` is not a port: write a number from 0 to 65535, or a range \"low-high\""
            )),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

impl FromStr for PortRange {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (low, high) = match s.split_once('-') {
            Some((low, high)) => {
                let port = |text: &str| {
                    Self::port(text.trim()).map_err(|error| ParseError(format!("in range `{s}`: {error}")))
                };
                (port(low)?, port(high)?)
            }
            None => {
                let port = Self::port(s.trim())?;
                (port, port)
            }
        };
        if low > high {
            return refuse(format!("range {s} is backwards: write {high}-{low}"));
        }
        Ok(PortRange { low, high })
    }
}

/// A MAC address (EUI-48), one endpoint's: not a group address, not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address as the number whose six octets it is.
    pub fn to_u64(self) -> u64 {
        self.0.iter().fold(0, |n, octet| (n << 8) | u64::from(*octet))
    }

    /// The IPv6 link-local address a host forms from this MAC (RFC 4291, appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        std::net::Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair(a ^ 2, b),
            pair(c, 0xff),
            pair(0xfe, d),
            pair(e, f),
        )
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = s.split(':').collect();
        let mut octets = [0u8; 6];
        let well_formed = parts.len() == 6
            && parts.iter().zip(octets.iter_mut()).all(|(part, octet)| {
                part.len() == 2 && u8::from_str_radix(part, 16).map(|value| *octet = value).is_ok()
            });
        if !well_formed {
            return refuse(format!(
                "`{s}` is not a MAC address: write six octets, as in 02:00:00:00:00:01"
            ));
        }
        if octets[0] & 1 == 1 {
            return refuse(format!(
                "{s} is a group address: an endpoint's MAC has an even first octet"
            ));
        }
        if octets == [0; 6] {
            return refuse(format!("{s} cannot be an endpoint's MAC"));
        }
        Ok(MacAddr(octets))
    }
}

/// A prefix without host bits; an address alone is a prefix of full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StrictPrefix(pub IpNet);

impl StrictPrefix {
    /// The IPv4 prefix that this one stands for, if it is of IPv4-mapped IPv6 addresses (`::ffff:0:0/96`, RFC 4291): such
    /// addresses are written in programs, and no packet has them.
    pub fn mapped(self) -> Option<StrictPrefix> {
        let IpNet::V6(net) = self.0 else { return None };
        let v4 = net.addr().to_ipv4_mapped()?;
        let length = net.prefix_len().checked_sub(96)?;
        Some(StrictPrefix(IpNet::new(v4.into(), length).ok()?))
    }
}

impl fmt::Display for StrictPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl FromStr for StrictPrefix {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let net = match (s.parse::<IpAddr>(), s.parse::<IpNet>()) {
            (Ok(address), _) => IpNet::from(address),
            (_, Ok(net)) => net,
            _ => {
                return refuse(format!(
                    "`{s}` is not an address or prefix: write 192.0.2.0/24, 192.0.2.10, 2001:db8::/32"
                ));
            }
        };
        if net != net.trunc() {
            return refuse(format!("prefix {s} has host bits: write {}", net.trunc()));
        }
        Ok(StrictPrefix(net))
    }
}

/// A resource's or rule's name: 1 to 63 of letters, digits, `.`, `_`, `-`, beginning with a letter or digit.
/// Cheap to clone: every change copies maps with thousands of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(std::sync::Arc<str>);

impl Name {
    /// A name that the code itself gives: it must be one that [`FromStr`] takes.
    pub(crate) fn fixed(text: &'static str) -> Self {
        Name(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let starts = s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if s.len() > 63 {
            return refuse(format!(
                "{} bytes are too long for a name: use 1 to 63 letters, digits, `.`, `_` or `-`, a letter or digit first",
                s.len()
            ));
        }
        if !starts || !s.bytes().all(legal) {
            return refuse(format!(
                "`{s}` is not a name: use 1 to 63 letters, digits, `.`, `_` or `-`, a letter or digit first"
            ));
        }
        Ok(Name(s.into()))
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An ICMP or ICMPv6 type, and perhaps a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpMatch {
    /// Number of the message type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The code; every code when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Serde through `Display`/`FromStr`, taking unsigned numbers as their text.
macro_rules! serde_as_text {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$type, E> {
                        v.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, v: u64) -> Result<$type, E> {
                        self.visit_str(&v.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, v: i64) -> Result<$type, E> {
                        self.visit_str(&v.to_string())
                    }
                }
                d.deserialize_any(Text)
            }
        }
    };
}

serde_as_text!(Protocol, "a protocol name or number");
serde_as_text!(MacAddr, "a MAC address");
serde_as_text!(StrictPrefix, "an address or prefix");
serde_as_text!(Name, "a name");
serde_as_text!(Declared, "a MAC or an address");

// One port is written as a number, a range as text: programs that read the document back want it so.
impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high {
            s.serialize_u16(self.low)
        } else {
            s.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Port;
        impl Visitor<'_> for Port {
            type Value = PortRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or a range \"low-high\"")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<PortRange, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<PortRange, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<PortRange, E> {
                Err(E::custom(format!(
                    "port {v} is out of range: ports are 0 to 65535"
                )))
            }
        }
        d.deserialize_any(Port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_parse_strictly() {
        assert_eq!(
            "25".parse::<PortRange>().unwrap(),
            PortRange { low: 25, high: 25 }
        );
        assert_eq!(
            "0-65535".parse::<PortRange>().unwrap(),
            PortRange { low: 0, high: 65535 }
        );
        for bad in [
            "70000", "-1", "", "2-1", "a", "1-", "+25", "1-2-3", "025", "0x19", "00", "1-02",
        ] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn prefixes_refuse_host_bits_and_say_the_right_one() {
        let error = "198.51.100.1/24".parse::<StrictPrefix>().unwrap_err();
        assert!(error.to_string().contains("198.51.100.0/24"), "{error}");
        assert_eq!(
            "2001:db8::10".parse::<StrictPrefix>().unwrap().0.prefix_len(),
            128
        );
    }

    #[test]
    fn a_leading_zero_is_told() {
        let error = |text: &str| text.parse::<PortRange>().unwrap_err().to_string();
        assert_eq!(
            error("025"),
            "`025` is not a port: it begins with 0, which may mean octal; write 25"
        );
        assert!(error("00").ends_with("write 0"));
    }

    #[test]
    fn protocols_are_names_or_numbers() {
        let protocol = |text: &str| text.parse::<Protocol>();
        for (text, number, printed) in [
            ("esp", 50, "esp"),
            ("50", 50, "esp"),
            ("ESP", 50, "esp"),
            ("ipv6-icmp", 58, "icmpv6"),
            ("255", 255, "255"),
        ] {
            assert_eq!(protocol(text), Ok(Protocol::Number(number)), "{text}");
            assert_eq!(Protocol::Number(number).to_string(), printed);
        }
        for wrong in ["", "256", "+6", "06", "-1", "0x6", "tcp ", "none"] {
            assert!(protocol(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mapped_prefixes_have_an_ipv4_form() {
        let mapped = |text: &str| {
            text.parse::<StrictPrefix>()
                .unwrap()
                .mapped()
                .map(|p| p.to_string())
        };
        assert_eq!(mapped("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(mapped("::ffff:192.0.2.0/120").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(mapped("::ffff:0:0/96").as_deref(), Some("0.0.0.0/0"));
        for other in [
            "::/0",
            "::/64",
            "::ffff:0:0:0/96",
            "192.0.2.1",
            "64:ff9b::192.0.2.1",
        ] {
            assert_eq!(mapped(other), None, "{other}");
        }
    }

    #[test]
    fn macs_are_unicast() {
        assert!("02:00:00:00:00:01".parse::<MacAddr>().is_ok());
        for bad in [
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad} was accepted");
        }
        let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::ff:fe00:1");
    }
}

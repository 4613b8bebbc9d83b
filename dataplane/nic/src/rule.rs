//! A rule for a NIC: which frames it drops.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// IP version of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say which")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both versions, in the order in which rules are made.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// EtherType of its packets.
    #[must_use]
    pub const fn ether_type(self) -> u16 {
        match self {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }

    /// The bits of an address of this version, as a mask.
    #[must_use]
    pub const fn bits(self) -> u128 {
        match self {
            Family::V4 => 0xffff_ffff,
            Family::V6 => u128::MAX,
        }
    }
}

/// Addresses: those that agree with `value` where `mask` has ones. The default is every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address {
    /// No bits outside the mask.
    pub value: u128,
    /// Bits that count; an IPv4 address has the lower 32.
    pub mask: u128,
}

impl Address {
    /// Whether it leaves out no address.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.mask == 0
    }

    /// Whether some address is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        (self.value ^ other.value) & self.mask & other.mask == 0
    }

    /// Whether every address of `other` is one of its own.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.mask & !other.mask == 0 && self.meets(other)
    }
}

/// How a rule matches a port of TCP, UDP or SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port, and packets without ports.
    Any,
    /// This port and no other.
    Exact(u16),
    /// Ports that agree with `value` where `mask` has ones, which are the upper bits.
    Masked {
        /// No bits outside the mask.
        value: u16,
        /// Ones where bits count.
        mask: u16,
    },
    /// From one port to another, both included.
    Range {
        /// The lowest of them.
        low: u16,
        /// The highest of them.
        high: u16,
    },
}

/// Which of the frames that a port receives its NIC drops.
#[allow(missing_docs, reason = "the names are those of the headers' fields")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub family: Family,
    /// Protocol of the packet: 6 (TCP), 17 (UDP), 132 (SCTP), or any.
    pub protocol: Option<u8>,
    pub src: Address,
    pub dst: Address,
    /// Source port; [`PortMatch::Any`] without a protocol.
    pub src_port: PortMatch,
    /// Destination port; [`PortMatch::Any`] without a protocol.
    pub dst_port: PortMatch,
}

impl Rule {
    /// Whether it asks for a port.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        self.src_port != PortMatch::Any || self.dst_port != PortMatch::Any
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortMatch::Any => f.write_str("any"),
            PortMatch::Exact(port) => write!(f, "{port}"),
            PortMatch::Masked { value, mask } => write!(f, "{value:#06x}/{mask:#06x}"),
            PortMatch::Range { low, high } => write!(f, "{low}-{high}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })?;
        match self.protocol {
            None => {}
            Some(6) => f.write_str(" tcp")?,
            Some(17) => f.write_str(" udp")?,
            Some(132) => f.write_str(" sctp")?,
            Some(other) => write!(f, " protocol {other}")?,
        }
        for (name, address) in [("src", self.src), ("dst", self.dst)] {
            if !address.is_any() {
                write!(f, " {name} ")?;
                address_out(f, self.family, address)?;
            }
        }
        for (name, port) in [("src_port", self.src_port), ("dst_port", self.dst_port)] {
            if port != PortMatch::Any {
                write!(f, " {name} {port}")?;
            }
        }
        Ok(())
    }
}

fn address_out(f: &mut fmt::Formatter<'_>, family: Family, address: Address) -> fmt::Result {
    match family {
        Family::V4 => {
            let text = |bits: u128| Ipv4Addr::from_bits(bits as u32);
            write!(f, "{}/{}", text(address.value), text(address.mask))
        }
        Family::V6 => {
            let text = Ipv6Addr::from_bits;
            write!(f, "{}/{}", text(address.value), text(address.mask))
        }
    }
}

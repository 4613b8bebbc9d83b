//! The rows of one class: what the encoder writes, the proof reads and a backend lowers to its wire format.

use std::fmt;

use ipnet::IpNet;
use portcullis_policy::{Action, Decider, Family, Protocol};
use serde::Serialize;

/// What a row says about the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameMatch {
    /// Any frame.
    Any,
    /// ARP.
    Arp,
    /// IP of this version.
    Ip(Family),
    /// This EtherType, behind the tags that are parsed.
    EtherType(u16),
}

/// What a row says about a port, or an ICMP type or code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Any.
    Any,
    /// `port & mask == value`.
    Masked {
        /// The value, zero outside the mask.
        value: u16,
        /// The mask.
        mask: u16,
    },
    /// `low <= port <= high`.
    Range {
        /// First.
        low: u16,
        /// Last.
        high: u16,
    },
}

impl PortMatch {
    /// Whether `n` matches.
    pub fn hits(self, n: u16) -> bool {
        match self {
            PortMatch::Any => true,
            PortMatch::Masked { value, mask } => n & mask == value,
            PortMatch::Range { low, high } => low <= n && n <= high,
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortMatch::Any => f.write_str("*"),
            PortMatch::Masked {
                value,
                mask: u16::MAX,
            } => write!(f, "{value}"),
            PortMatch::Masked { value, mask } => write!(f, "{value:#06x}/{mask:#06x}"),
            PortMatch::Range { low, high } => write!(f, "{low}-{high}"),
        }
    }
}

/// The key of a row of a policy stage, beside the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The frame.
    pub frame: FrameMatch,
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// `Some(true)`: later fragments only; `Some(false)`: everything but them.
    pub later: Option<bool>,
    /// TCP flags: value and mask.
    pub flags: Option<(u16, u16)>,
    /// Remote id, as the `remote` stage gives it.
    pub remote: Option<u32>,
    /// Local prefix.
    pub local: Option<IpNet>,
    /// Source port, or ICMP type.
    pub src: PortMatch,
    /// Destination port, or ICMP code.
    pub dst: PortMatch,
}

impl RowKey {
    /// Matches every frame.
    pub const ANY: RowKey = RowKey {
        frame: FrameMatch::Any,
        protocol: None,
        later: None,
        flags: None,
        remote: None,
        local: None,
        src: PortMatch::Any,
        dst: PortMatch::Any,
    };
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.frame {
            FrameMatch::Any => f.write_str("any")?,
            FrameMatch::Arp => f.write_str("arp")?,
            FrameMatch::Ip(family) => write!(f, "{family}")?,
            FrameMatch::EtherType(t) => write!(f, "ethertype={t:#06x}")?,
        }
        if let Some(protocol) = self.protocol {
            let name = Protocol::name(protocol);
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                write!(f, " protocol={name}")?;
            } else {
                write!(f, " {name}")?;
            }
        }
        match self.later {
            Some(true) => f.write_str(" later-fragment")?,
            Some(false) => f.write_str(" not-later-fragment")?,
            None => {}
        }
        if let Some((value, mask)) = self.flags {
            write!(f, " flags={value:#05x}/{mask:#05x}")?;
        }
        if let Some(remote) = self.remote {
            write!(f, " remote={remote}")?;
        }
        if let Some(local) = self.local {
            write!(f, " local={local}")?;
        }
        let icmp = matches!(self.protocol, Some(Protocol::ICMP | Protocol::ICMPV6));
        let (src, dst) = if icmp { ("type", "code") } else { ("src", "dst") };
        for (name, port) in [(src, self.src), (dst, self.dst)] {
            if port != PortMatch::Any {
                write!(f, " {name}={port}")?;
            }
        }
        Ok(())
    }
}

/// One row of a policy stage. Higher priorities win; rows of equal priority never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRow {
    /// Its priority.
    pub priority: u16,
    /// What it matches.
    pub key: RowKey,
    /// The verdict.
    pub action: Action,
    /// What decided it, so that a hit can be attributed.
    pub by: Decider,
}

/// One row of a `remote` stage: the longest prefix wins. Addresses without a row have id 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteRow {
    /// The prefix.
    pub prefix: IpNet,
    /// The id of the set of rules whose remote prefixes hold these addresses.
    pub id: u32,
}

/// The rows of one class on one stage model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Rows of the remote stage.
    pub remote: Vec<RemoteRow>,
    /// Rows of the policy stage, highest priority first.
    pub policy: Vec<PolicyRow>,
    /// Rows that expanding each rule into prefixes on its own would have taken.
    pub naive: u64,
}

impl Program {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.remote.len() + self.policy.len()
    }
}

/// Something a target cannot do: a value, never silence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[error("{table} of {target} cannot enforce {rule}: {why}")]
pub struct Unsupported {
    /// The target or stage model.
    pub target: String,
    /// The rule, endpoint or feature.
    pub rule: String,
    /// The table.
    pub table: String,
    /// The reason, and what would help.
    pub why: String,
}

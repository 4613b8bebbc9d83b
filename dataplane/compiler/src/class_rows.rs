//! The rows of one class: what the encoder writes, the proof reads and a backend lowers to its wire format.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_policy::{Decider, Family, Protocol, Verdict};
use serde::Serialize;

use crate::proof::Coverage;

/// What a row says about the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameMatch {
    /// Any frame, not only IP.
    Any,
    /// EtherType 0x0806 (RFC 826).
    Arp,
    /// IP of this version.
    Ip(Family),
    /// IP of either version, where a table has a key for it.
    AnyIp,
    /// This EtherType, behind the tags that are parsed.
    EtherType(u16),
    /// What the parser of a target marks as impossible to judge ([`StageModel::unreadable`]): a chain of headers it
    /// cannot follow, protocol 0, a header too short to show its ports, flags or type, a TCP fragment at offset 1.
    ///
    /// [`StageModel::unreadable`]: crate::StageModel::unreadable
    Unreadable,
}

/// What a row says about a port, or an ICMP type or code.
#[allow(missing_docs, reason = "`low` and `high` are the ends of the range")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Any port, and packets without ports.
    Any,
    /// `port & mask == value`.
    Masked {
        /// The value, zero outside the mask.
        value: u16,
        /// Ones where bits count.
        mask: u16,
    },
    /// `low <= port <= high`.
    Range { low: u16, high: u16 },
    /// `code & mask == value`, for the code that a [`CodeStage`] gave the port.
    Code {
        /// The value, zero outside the mask.
        value: u64,
        /// Ones where bits count.
        mask: u64,
    },
}

impl PortMatch {
    /// Matches this port alone.
    pub const fn exactly(port: u16) -> Self {
        PortMatch::Masked {
            value: port,
            mask: u16::MAX,
        }
    }

    /// Whether port `n` with code `code` matches.
    pub fn hits(self, n: u16, code: u64) -> bool {
        match self {
            PortMatch::Any => true,
            PortMatch::Masked { value, mask } => n & mask == value,
            PortMatch::Range { low, high } => low <= n && n <= high,
            PortMatch::Code { value, mask } => code & mask == value,
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
            PortMatch::Code { value, mask } => write!(f, "code {value:#x}/{mask:#x}"),
        }
    }
}

/// What a row says about the other side's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemoteMatch {
    /// Any address, of both versions.
    Any,
    /// The id that the `remote` stage gave it.
    Id(u32),
    /// Addresses in this prefix.
    Prefix(IpNet),
}

/// The key of a row of a policy stage, beside the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// ARP, IP, an EtherType, or any frame.
    pub frame: FrameMatch,
    /// IP protocol number; any when absent.
    pub protocol: Option<u8>,
    /// `Some(true)`: later fragments only; `Some(false)`: everything but them.
    pub later: Option<bool>,
    /// TCP flags: value and mask.
    pub flags: Option<(u16, u16)>,
    /// The other side's address.
    pub remote: RemoteMatch,
    /// Prefix of the endpoint's own address; any when absent.
    pub local: Option<IpNet>,
    /// Source port, or ICMP type.
    pub src: PortMatch,
    /// Destination port, or ICMP code.
    pub dst: PortMatch,
}

impl RowKey {
    /// The key that matches every frame.
    pub const ANY: RowKey = RowKey {
        frame: FrameMatch::Any,
        protocol: None,
        later: None,
        flags: None,
        remote: RemoteMatch::Any,
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
            FrameMatch::AnyIp => f.write_str("ip")?,
            FrameMatch::EtherType(t) => write!(f, "ethertype={t:#06x}")?,
            FrameMatch::Unreadable => f.write_str("unreadable")?,
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
        match self.remote {
            RemoteMatch::Any => {}
            RemoteMatch::Id(id) => write!(f, " remote={id}")?,
            RemoteMatch::Prefix(prefix) => write!(f, " remote={prefix}")?,
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

/// One row of a policy stage. Higher priorities win; rows of equal priority that overlap have equal verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRow {
    /// Of the rows that match, the one with the highest number wins.
    pub priority: u32,
    /// Packets that the row decides.
    pub key: RowKey,
    /// The verdict; with `words`, the verdict on destination ports whose block has no word.
    pub action: Verdict,
    /// The destination port's bit in this set of words decides, where its block has a word.
    pub words: Option<u16>,
    /// What decided it, so that a hit can be attributed.
    pub by: Decider,
}

/// One row of a `words` stage: the verdicts on 64 neighbouring ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WordRow {
    /// Which set of words of its class.
    pub set: u16,
    /// Block of 64 ports: `port >> 6`.
    pub block: u16,
    /// Bit `port & 63` is set when the port is allowed.
    pub word: u64,
}

/// One row of a code stage: port → code. Higher priorities win; ports without a row have code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeRow {
    /// Of the rows that match, the one with the highest number wins.
    pub priority: u32,
    /// The ports, never a code.
    pub port: PortMatch,
    /// Code that the ports get.
    pub code: u64,
}

/// A stage that gives ports codes, shared by all classes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodeStage {
    /// Its rows. Packets of protocols that show no ports have code 0.
    pub rows: Vec<CodeRow>,
    /// The code of later fragments, which show no ports; it takes one row above all others when not 0.
    pub later: u64,
    /// Width of the codes, in bits.
    pub width: u8,
}

/// The code stages of a target: one for source and one for destination ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Codes {
    /// Codes of source ports.
    pub src: CodeStage,
    /// Codes of destination ports.
    pub dst: CodeStage,
}

/// One row of a `remote` stage: the longest prefix wins. Addresses without a row have id 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteRow {
    /// Addresses that get the id.
    pub prefix: IpNet,
    /// The id of the set of rules whose remote prefixes hold these addresses.
    pub id: u32,
}

/// The rows of one class on one stage model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassRows {
    /// Rows of the remote stage.
    pub remote: Vec<RemoteRow>,
    /// Rows of the policy stage, highest priority first.
    pub policy: Vec<PolicyRow>,
    /// Rows of the words stage.
    pub words: Vec<WordRow>,
    /// The code stages that its rows refer to, if they do.
    pub codes: Option<Arc<Codes>>,
    /// Whether rows of equal verdict were merged, so that a hit tells the verdict and not always the rule.
    pub merged: bool,
    /// Whether these rows stand above those of the class's base and leave to them what they do not match.
    pub overlay: bool,
    /// Rows that expanding each rule into prefixes on its own would have taken.
    pub naive: u64,
    /// At a partial point: rules that are not written as they are, and why.
    pub shortfalls: Vec<Shortfall>,
    /// At a partial point: how much of each rule that denies is enforced, as proved.
    pub coverage: Option<Arc<Coverage>>,
}

/// A rule that a partial point does not hold as it is: one that denies is left out, one that allows is written wider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// The entry of the policy that is written otherwise, or its default.
    pub by: Decider,
    /// What the table lacks, or what its parser hides.
    pub why: String,
}

impl ClassRows {
    /// How many rows it has of its own: those of the code stages are shared.
    pub fn rows(&self) -> usize {
        self.remote.len() + self.policy.len() + self.words.len()
    }

    /// These rows of an overlay and those of its base, in one table.
    pub fn over(&self, base: &Self) -> Self {
        let mut all = base.clone();
        all.policy = self.policy.iter().chain(&base.policy).copied().collect();
        all
    }

    /// Whether both lead every packet to the policy stage in the same way: with the same remote id, words and codes. Only
    /// then can the rows of one become those of the other in place: the order of writing (highest priority first, then
    /// deletions from the lowest) is right for one table, and wrong for two that speak of each other.
    pub fn leads_like(&self, other: &Self) -> bool {
        self.remote == other.remote && self.words == other.words && self.codes == other.codes
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
    /// Name of the table.
    pub table: String,
    /// The reason, and what would help.
    pub why: String,
}

//! How much of each rule that denies a partial point enforces.

use std::collections::BTreeMap;

use std::fmt::Write as _;

use portcullis_policy::{Decider, Fragment, Frame, IpPacket, L4, Packet, Protocol, TCP_ACK, TCP_SYN};

use crate::model::PacketKind;

/// What a partial point enforces of a policy: each rule that denies something, in the policy's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    /// By what decides: rules, then the default, then the verdict on later fragments.
    pub rules: BTreeMap<Decider, RuleCoverage>,
}

/// What of the packets that a rule denies is denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleCoverage {
    /// Whether some of them are.
    pub denies: bool,
    /// Kinds of packets of which some pass, each with one of them.
    pub passes: BTreeMap<PacketKind, Passing>,
}

/// A packet that a rule denies and a partial point lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passing {
    /// One such packet, at the lowest addresses and ports that are like it.
    pub packet: Packet,
    /// The rule whose row lets it pass; `None` where no row matches it.
    pub by: Option<Decider>,
}

/// How much of a rule is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// Every packet that it denies is denied.
    Whole,
    /// Some are, and some pass.
    Part,
    /// All of them pass.
    None,
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Extent::Whole => "whole",
            Extent::Part => "part",
            Extent::None => "none",
        })
    }
}

impl RuleCoverage {
    /// How much of the rule is enforced.
    pub fn extent(&self) -> Extent {
        match (self.denies, self.passes.is_empty()) {
            (_, true) => Extent::Whole,
            (true, false) => Extent::Part,
            (false, false) => Extent::None,
        }
    }
}

impl Coverage {
    /// Notes that packets of a kind that `by` denies are denied, or that this one passes.
    pub(super) fn note(&mut self, by: Decider, kind: PacketKind, passes: Option<Passing>) {
        let rule = self.rules.entry(by).or_default();
        match passes {
            None => rule.denies = true,
            Some(passing) => {
                rule.passes.entry(kind).or_insert(passing);
            }
        }
    }
}

/// A packet in words, as an example of a kind: `tcp to port 25 that opens a connection, with IPv4 options`.
pub fn example(packet: &Packet, kind: PacketKind) -> String {
    let mut text = match &packet.frame {
        Frame::Arp => "ARP".to_string(),
        Frame::Rarp => "RARP".to_string(),
        Frame::Other => "a frame of another EtherType".to_string(),
        Frame::Opaque => "IP behind tags that are not parsed".to_string(),
        Frame::Ip(ip) => ip_example(ip),
    };
    text += match kind {
        PacketKind::IpOptions => ", with IPv4 options",
        PacketKind::ExtensionHeaders => ", with an IPv6 extension header",
        PacketKind::LaterFragments | PacketKind::Plain | PacketKind::Sctp | PacketKind::NotIp => "",
    };
    text
}

fn ip_example(ip: &IpPacket) -> String {
    let version = if ip.remote.is_ipv4() { "IPv4" } else { "IPv6" };
    let protocol = ip.protocol.map_or_else(|| "unknown".to_string(), Protocol::name);
    let mut text = match protocol.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("{version} protocol {protocol}"),
        false => format!("{version} {protocol}"),
    };
    let _ = match ip.l4 {
        L4::Ports { src, dst, flags } | L4::Begun { src, dst, flags } => {
            let opens = ip.protocol == Some(Protocol::TCP) && flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            let end = if opens { " that opens a connection" } else { "" };
            match src {
                0 => write!(text, " to port {dst}{end}"),
                _ => write!(text, " from port {src} to port {dst}{end}"),
            }
        }
        L4::Icmp { kind, code } => write!(text, " type {kind} code {code}"),
        L4::Short | L4::Nothing => Ok(()),
    };
    for (word, address) in [("remote", ip.remote), ("local", ip.local)] {
        if !address.is_unspecified() {
            let _ = write!(text, ", {word} address {address}");
        }
    }
    if let Fragment::Later { .. } = ip.fragment {
        text.push_str(", a later fragment");
    }
    text
}

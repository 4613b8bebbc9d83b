//! Partial points: policy stages that cannot hold a whole policy, and deny a part of what it denies.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use portcullis_policy::View;
use serde::{Deserialize, Serialize};

/// Packets of one kind, as a parser may or may not tell them from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacketKind {
    /// IP packets without fragments, options or extension headers.
    Plain,
    /// Fragments but the first: payload stands where ports would.
    LaterFragments,
    /// IPv4 packets with options: a parser that does not read the header length takes options for ports.
    IpOptions,
    /// IPv6 packets with extension headers: a parser that does not follow them shows the first one's number as protocol.
    ExtensionHeaders,
    /// SCTP packets, where a parser does not show their ports.
    Sctp,
    /// Frames that carry neither IP nor ARP.
    NotIp,
}

impl PacketKind {
    /// The kinds whose ports a parser may show wrongly, so that a row for a port may match them.
    pub const OBSCURE: [PacketKind; 4] = [
        PacketKind::LaterFragments,
        PacketKind::IpOptions,
        PacketKind::ExtensionHeaders,
        PacketKind::Sctp,
    ];

    /// As `accept` names it.
    pub fn name(self) -> &'static str {
        match self {
            PacketKind::Plain => "plain",
            PacketKind::LaterFragments => "later-fragments",
            PacketKind::IpOptions => "ip-options",
            PacketKind::ExtensionHeaders => "extension-headers",
            PacketKind::Sctp => "sctp",
            PacketKind::NotIp => "not-ip",
        }
    }
}

/// In words, in the plural.
impl fmt::Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PacketKind::Plain => "plain packets",
            PacketKind::LaterFragments => "later fragments",
            PacketKind::IpOptions => "packets with IPv4 options",
            PacketKind::ExtensionHeaders => "packets with IPv6 extension headers",
            PacketKind::Sctp => "SCTP packets",
            PacketKind::NotIp => "frames that are neither IP nor ARP",
        })
    }
}

impl FromStr for PacketKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = PacketKind::OBSCURE.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| {
            let names: Vec<String> = PacketKind::OBSCURE
                .iter()
                .map(|kind| format!("`{}`", kind.name()))
                .collect();
            format!("`{text}` is not one of {}", names.join(", "))
        })
    }
}

/// What holds for a stage model whose policy stages are partial points.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PartialPoint {
    /// Packets that rows may deny although the policy lets them pass (overreach). Of those that are not accepted, none is denied
    /// that the policy lets pass.
    pub accept: BTreeSet<PacketKind>,
}

impl PartialPoint {
    /// The policy that its rows are held to: every packet as it is. First fragments that cut off the TCP header are what the policy
    /// denies, as on targets that do not show them (RFC 1858): a parser may find nothing in them.
    pub const VIEW: View = View {
        begun_header: false,
        ..View::FULL
    };

    /// Whether rows may deny packets of this kind against the policy.
    pub fn accepts(&self, kind: PacketKind) -> bool {
        self.accept.contains(&kind)
    }
}

//! The reference verdict of a policy for one packet.
//!
//! Written for clarity, not speed: it is the oracle that compilers and targets are compared with.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::direction::Direction;
use crate::effective::{Decider, Entry, Policy};
use crate::intervals::starts;
use crate::matcher::FlagMatch;
use crate::types::{Family, Protocol, Verdict};

/// The EtherType of RARP (RFC 903).
pub const RARP: u16 = 0x8035;
/// SYN in the TCP flags (RFC 9293).
pub const TCP_SYN: u16 = 0x02;
/// ACK in the TCP flags (RFC 9293).
pub const TCP_ACK: u16 = 0x10;

/// A packet as a policy sees it, from the endpoint's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// What the frame carries.
    pub frame: Frame,
}

/// What a frame carries behind its VLAN tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// EtherType 0x0806 (RFC 826).
    Arp,
    /// EtherType 0x8035 (RFC 903).
    Rarp,
    /// Neither IP nor ARP, and not a known carrier of IP.
    Other,
    /// IP that cannot be reached: more tags than can be parsed, MPLS, PPPoE, a broken IP header.
    Opaque,
    /// IPv4 or IPv6, as far as its headers show.
    Ip(IpPacket),
}

/// The headers of an IP packet, seen from the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPacket {
    /// Address of the endpoint: source of what it sends.
    pub local: IpAddr,
    /// Address of the other side.
    pub remote: IpAddr,
    /// The protocol behind all extension headers; `None` when the chain cannot be parsed.
    pub protocol: Option<u8>,
    /// Whether it is whole, or which fragment.
    pub fragment: Fragment,
    /// The beginning of the payload.
    pub l4: L4,
}

impl IpPacket {
    /// The beginning of the payload as a view shows it.
    pub fn shown(&self, view: View) -> L4 {
        match self.l4 {
            L4::Begun { src, dst, flags } if view.begun_header => L4::Ports { src, dst, flags },
            L4::Begun { .. } => L4::Short,
            other => other,
        }
    }

    /// Whether it is a later fragment.
    pub fn is_later(&self) -> bool {
        matches!(self.fragment, Fragment::Later { .. })
    }
}

/// Which fragment of a datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// The datagram is not fragmented.
    Whole,
    /// The first of several.
    First,
    /// A later one; its offset in units of 8 bytes (RFC 791).
    Later {
        /// Fragment offset, from 1.
        offset: u16,
    },
}

/// What the payload shows of itself.
#[allow(missing_docs, reason = "`src` and `dst` are ports")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP, UDP, SCTP ports; flags are TCP's, zero otherwise.
    Ports {
        src: u16,
        dst: u16,
        /// TCP flags, bit 0 FIN; 0 for other protocols.
        flags: u16,
    },
    /// The same of a first fragment that shows them although its header goes on in the next one.
    Begun {
        src: u16,
        dst: u16,
        /// TCP flags, bit 0 FIN; 0 for other protocols.
        flags: u16,
    },
    /// ICMP or ICMPv6, by the packet's version and protocol.
    Icmp {
        /// Message type, first byte of the header.
        kind: u8,
        /// Code, second byte of the header.
        code: u8,
    },
    /// Too short to show its ports, flags or type.
    Short,
    /// A protocol without any of these, or a later fragment.
    Nothing,
}

/// What a target can see of a packet. The verdict on what it cannot see is the safe one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// It sees fragment offsets, not only "first" and "later".
    pub fragment_offset: bool,
    /// It tells a header that is too short from one whose ports (and flags) are all zero.
    pub short_header: bool,
    /// It shows ports and flags of a first fragment whose header is not whole. Where it does not, such a fragment is one
    /// that is too short.
    pub begun_header: bool,
    /// It tells the protocol of later IPv6 fragments. Where it does not, they have one verdict: they pass when a
    /// fragment of any protocol does, since without its first fragment, which is judged, nothing can be
    /// reassembled, and receivers discard overlapping IPv6 fragments (RFC 5722).
    pub later_v6_protocol: bool,
    /// It finds the protocol behind IPv6 extension headers. Where it may show the number of the first one instead, packets that
    /// show such a number are denied: any protocol could be behind it.
    pub ipv6_extension_headers: bool,
    /// It shows ports of SCTP. Where it may show other numbers in their place, SCTP packets pass when packets of every port
    /// would.
    pub sctp_ports: bool,
    /// The TCP flags it shows, as a mask: 12 bits with the reserved ones, or the 8 flags from FIN to CWR (RFC 9293).
    pub tcp_flags: u16,
}

/// The TCP flags (RFC 9293), with the reserved bits.
pub const TCP_FLAGS: u16 = 0xfff;

/// The IPv6 extension headers behind which ports are found: hop-by-hop options, routing, fragment, authentication (RFC 4302),
/// destination options (RFC 8200, section 4).
pub const IPV6_EXTENSIONS: [u8; 5] = [0, 43, IPV6_FRAGMENT, 51, 60];

/// What a target that does not tell the protocol of later IPv6 fragments shows instead: the fragment header's own
/// number (RFC 8200).
pub const IPV6_FRAGMENT: u8 = 44;

impl View {
    /// Sees everything: the policy's own meaning.
    pub const FULL: View = View {
        fragment_offset: true,
        short_header: true,
        begun_header: true,
        later_v6_protocol: true,
        ipv6_extension_headers: true,
        sctp_ports: true,
        tcp_flags: TCP_FLAGS,
    };

    /// Whether this number in the place of the protocol leaves open which protocol it is.
    pub fn hides_protocol(self, family: Family, shown: u8) -> bool {
        // Protocol 0 is the hop-by-hop header: a chain that ends there has no end.
        shown == 0
            || (family == Family::V6 && !self.ipv6_extension_headers && IPV6_EXTENSIONS.contains(&shown))
    }
}

fn first_match(
    entries: &[(u32, &Entry)],
    default: Verdict,
    hit: impl Fn(&Entry) -> bool,
) -> (Verdict, Decider) {
    entries
        .iter()
        .find(|(_, entry)| hit(entry))
        .map_or((default, Decider::Default), |(index, entry)| {
            (entry.action, Decider::Entry(*index))
        })
}

fn hits_ports(entry: &Entry, protocol: u8, src: u16, dst: u16, flags: u16) -> bool {
    let opening = protocol == Protocol::TCP && flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    entry.matcher.src_ports.contains(src)
        && entry.matcher.dst_ports.contains(dst)
        && (entry.matcher.flags == FlagMatch::Any || !opening)
}

fn hits_icmp(entry: &Entry, kind: u8, code: u8) -> bool {
    entry
        .matcher
        .icmp
        .is_none_or(|m| m.kind == kind && m.code.is_none_or(|c| c == code))
}

/// Source and destination ports that stand for all that these entries tell apart.
fn distinct_ports(candidates: &[(u32, &Entry)]) -> impl Iterator<Item = (u16, u16)> {
    let matchers = || candidates.iter().map(|(_, entry)| &*entry.matcher);
    let sources = starts(matchers().flat_map(|m| m.src_ports.iter()), u16::MAX);
    let destinations = starts(matchers().flat_map(|m| m.dst_ports.iter()), u16::MAX);
    sources
        .into_iter()
        .flat_map(move |src| destinations.clone().into_iter().map(move |dst| (src, dst)))
}

impl Policy {
    /// The verdict on a packet, and what decided it, on a target that sees as much as `view` says.
    pub fn judge(&self, packet: &Packet, view: View) -> (Verdict, Decider) {
        if !self.may_deny() {
            // Nothing can be evaded where nothing is denied.
            return match &packet.frame {
                Frame::Ip(ip) => self.judge_permissive(ip),
                Frame::Arp => (Verdict::Allow, Decider::Arp),
                _ => (Verdict::Allow, Decider::Default),
            };
        }
        match &packet.frame {
            Frame::Arp => (Verdict::Allow, Decider::Arp),
            Frame::Rarp if self.direction == Direction::Egress => (Verdict::Allow, Decider::Rarp),
            Frame::Rarp => (self.default, Decider::Default),
            Frame::Other => (self.default, Decider::Default),
            Frame::Opaque => (Verdict::Deny, Decider::Evasion),
            Frame::Ip(ip) if ip.is_later() && ip.remote.is_ipv6() && !view.later_v6_protocol => {
                self.judge_later_unknown(ip, view)
            }
            Frame::Ip(ip) => match ip.protocol {
                Some(protocol) if !view.hides_protocol(Family::from_address(ip.remote), protocol) => {
                    self.judge_ip(ip, protocol, view)
                }
                _ => (Verdict::Deny, Decider::Evasion),
            },
        }
    }

    fn judge_permissive(&self, ip: &IpPacket) -> (Verdict, Decider) {
        let Some(protocol) = ip.protocol else {
            return (Verdict::Allow, Decider::Default);
        };
        let candidates = self.candidates(ip, protocol);
        match ip.l4 {
            L4::Ports { src, dst, flags } | L4::Begun { src, dst, flags } if self.shows_ports(protocol) => {
                first_match(&candidates, self.default, |e| {
                    hits_ports(e, protocol, src, dst, flags)
                })
            }
            L4::Icmp { kind, code } => first_match(&candidates, self.default, |e| hits_icmp(e, kind, code)),
            L4::Nothing if !ip.is_later() => first_match(&candidates, self.default, |_| true),
            _ => (Verdict::Allow, Decider::Default),
        }
    }

    fn candidates(&self, ip: &IpPacket, protocol: u8) -> Vec<(u32, &Entry)> {
        (0u32..)
            .zip(&self.entries)
            .filter(|(_, e)| e.matcher.fragments || !ip.is_later())
            .filter(|(_, e)| e.matcher.matches_addresses(protocol, ip.local, ip.remote))
            .collect()
    }

    fn judge_ip(&self, ip: &IpPacket, protocol: u8, view: View) -> (Verdict, Decider) {
        let candidates = self.candidates(ip, protocol);
        let is_icmp = self.shows_icmp(protocol, Family::from_address(ip.remote));
        if let Fragment::Later { offset } = ip.fragment {
            if self.shows_ports(protocol) {
                return self.judge_later_ports(&candidates, protocol, offset, view);
            }
            if is_icmp {
                return self.judge_later_icmp(&candidates);
            }
            return first_match(&candidates, self.default, |_| true);
        }
        if self.hides_ports(protocol, view) {
            return self.judge_any_port(&candidates, protocol);
        }
        if self.shows_ports(protocol) {
            return match ip.shown(view) {
                // Of other protocols, five-tuples alone show ports, and they are never too short.
                L4::Ports {
                    src: 0,
                    dst: 0,
                    flags,
                } if flags & view.tcp_flags == 0 && !view.short_header && Protocol::has_ports(protocol) => {
                    (Verdict::Deny, Decider::Evasion)
                }
                L4::Ports { src, dst, flags } => first_match(&candidates, self.default, |e| {
                    hits_ports(e, protocol, src, dst, flags)
                }),
                _ => (Verdict::Deny, Decider::Evasion),
            };
        }
        if is_icmp {
            return match if ip.l4 == L4::Short && !view.short_header {
                L4::Icmp { kind: 0, code: 0 }
            } else {
                ip.l4
            } {
                L4::Icmp { kind, code } => {
                    first_match(&candidates, self.default, |e| hits_icmp(e, kind, code))
                }
                _ => (Verdict::Deny, Decider::Evasion),
            };
        }
        first_match(&candidates, self.default, |_| true)
    }

    /// Denied when every port is denied, essentials aside; TCP also where a fragment could turn a reply into an opening.
    fn judge_later_ports(
        &self,
        candidates: &[(u32, &Entry)],
        protocol: u8,
        offset: u16,
        view: View,
    ) -> (Verdict, Decider) {
        if protocol == Protocol::TCP && view.fragment_offset && offset == 1 {
            return (Verdict::Deny, Decider::Evasion);
        }
        let mut passes = false;
        for (src, dst) in distinct_ports(candidates) {
            let verdict = |flags| {
                first_match(candidates, self.default, |e| {
                    hits_ports(e, protocol, src, dst, flags)
                })
                .0
            };
            let (opening, other) = (verdict(TCP_SYN), verdict(TCP_ACK));
            if protocol == Protocol::TCP && !view.fragment_offset && opening != other {
                return (Verdict::Deny, Decider::Evasion);
            }
            passes |= other.passes() || opening.passes();
        }
        (Verdict::from_passes(passes), Decider::Fragment)
    }

    /// Whether packets of this protocol have ports that a target does not show.
    pub fn hides_ports(&self, protocol: u8, view: View) -> bool {
        protocol == Protocol::SCTP && !view.sctp_ports && !self.five_tuple
    }

    /// Passes when packets of every port would; decided by the first entry that gives this verdict to some of them.
    fn judge_any_port(&self, candidates: &[(u32, &Entry)], protocol: u8) -> (Verdict, Decider) {
        let verdicts: Vec<(Verdict, Decider)> = distinct_ports(candidates)
            .map(|(src, dst)| first_match(candidates, self.default, |e| hits_ports(e, protocol, src, dst, 0)))
            .collect();
        let verdict = Verdict::from_passes(verdicts.iter().all(|(verdict, _)| verdict.passes()));
        let deciders = verdicts.into_iter().filter(|(own, _)| *own == verdict);
        (
            verdict,
            deciders.map(|(_, by)| by).min().unwrap_or(Decider::Default),
        )
    }

    /// Passes when a fragment of any protocol would: of those the entries name, or of one that none names.
    fn judge_later_unknown(&self, ip: &IpPacket, view: View) -> (Verdict, Decider) {
        let named: BTreeSet<u8> = self
            .entries
            .iter()
            .filter_map(|e| match e.matcher.protocol {
                Protocol::Number(n) => Some(n),
                Protocol::Any => None,
            })
            .chain([Protocol::TCP])
            .collect();
        let unnamed = (1..=255u8).find(|n| !named.contains(n) && !view.hides_protocol(Family::V6, *n));
        let fragment = Fragment::Later { offset: 2 };
        let passes = named
            .iter()
            .copied()
            .chain(unnamed)
            .filter(|n| !view.hides_protocol(Family::V6, *n))
            .any(|protocol| {
                let one = IpPacket {
                    protocol: Some(protocol),
                    fragment,
                    l4: L4::Nothing,
                    ..ip.clone()
                };
                self.judge_ip(&one, protocol, View::FULL).0.passes()
            });
        (Verdict::from_passes(passes), Decider::Fragment)
    }

    fn judge_later_icmp(&self, candidates: &[(u32, &Entry)]) -> (Verdict, Decider) {
        let passes = (0..=255u8).any(|kind| {
            (0..=255u8).any(|code| {
                first_match(candidates, self.default, |e| hits_icmp(e, kind, code))
                    .0
                    .passes()
            })
        });
        (Verdict::from_passes(passes), Decider::Fragment)
    }
}

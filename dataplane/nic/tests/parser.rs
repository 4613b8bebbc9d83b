//! A NIC's parser, as far as it is stated: everything that it may take a frame for.

use portcullis_nic::{Family, Follows, Kind, LaterFragments, ParserFacts, PortMatch, Rule, Tags};
use std::collections::BTreeSet;

/// One thing that a NIC may take a frame for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub family: Family,
    pub protocol: u8,
    pub src: u128,
    pub dst: u128,
    /// Source and destination port, where it sees some.
    pub ports: Option<[u16; 2]>,
}

impl View {
    pub fn meets(&self, rule: &Rule) -> bool {
        let holds = |port: PortMatch, given: u16| match port {
            PortMatch::Any => true,
            PortMatch::Exact(one) => one == given,
            PortMatch::Masked { value, mask } => given & mask == value,
            PortMatch::Range { low, high } => (low..=high).contains(&given),
        };
        let ports = match self.ports {
            Some([src, dst]) => holds(rule.src_port, src) && holds(rule.dst_port, dst),
            None => !rule.has_ports(),
        };
        self.family == rule.family
            && rule.protocol.is_none_or(|protocol| protocol == self.protocol)
            && self.src & rule.src.mask == rule.src.value
            && self.dst & rule.dst.mask == rule.dst.value
            && ports
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// What a NIC may take a frame for. Kinds that are accepted may be dropped, so that what it takes them for does not matter.
pub fn views(frame: &[u8], facts: ParserFacts, accept: &BTreeSet<Kind>) -> Vec<View> {
    let mut at = 12;
    loop {
        match (half(frame, at), facts.tags) {
            (Some(0x8100 | 0x88a8), Tags::NotMatched) => return Vec::new(),
            (Some(0x8100 | 0x88a8), _) | (Some(0x9100), Tags::Unknown) => at += 4,
            (Some(0x0800), _) => return ipv4(&frame[at + 2..], facts, accept).unwrap_or_default(),
            (Some(0x86dd), _) => return ipv6(&frame[at + 2..], facts, accept).unwrap_or_default(),
            _ => return Vec::new(),
        }
    }
}

/// The version and the lengths in the header are not looked at: a NIC need not.
fn ipv4(packet: &[u8], facts: ParserFacts, accept: &BTreeSet<Kind>) -> Option<Vec<View>> {
    let header = packet.get(..20)?;
    let length = usize::from(header[0] & 15) * 4;
    let view = View {
        family: Family::V4,
        protocol: header[9],
        src: number(&header[12..16]),
        dst: number(&header[16..20]),
        ports: None,
    };
    let mut places = vec![length.max(20)];
    if facts.ip_options == Follows::Unknown && length != 20 {
        if accept.contains(&Kind::IpOptions) {
            return None;
        }
        places.push(20);
    }
    let fragment = half(header, 6)?;
    let fragment = (fragment & 0x1fff, fragment & 0x2000 != 0);
    Some(l4(view, packet, &places, fragment, facts, accept))
}

fn ipv6(packet: &[u8], facts: ParserFacts, accept: &BTreeSet<Kind>) -> Option<Vec<View>> {
    let header = packet.get(..40)?;
    let (mut next, mut at, mut fragment) = (header[6], 40, (0, false));
    let mut seen = 0;
    while matches!(next, 0 | 43 | 60 | 44) && seen < 15 {
        if facts.extension_headers == Follows::Unknown && accept.contains(&Kind::ExtensionHeaders) {
            return None;
        }
        let [follows, length] = *packet.get(at..at + 2)? else {
            return None;
        };
        if next == 44 {
            let offset = half(packet, at + 2)?;
            at += 8;
            next = follows;
            // The kernel calls a packet in one fragment a fragment, too.
            fragment = (offset >> 3, true);
            break;
        }
        at += (usize::from(length) + 1) * 8;
        next = follows;
        seen += 1;
    }
    let view = View {
        family: Family::V6,
        protocol: next,
        src: number(&header[8..24]),
        dst: number(&header[24..40]),
        ports: None,
    };
    Some(l4(view, packet, &[at], fragment, facts, accept))
}

fn l4(
    view: View,
    packet: &[u8],
    places: &[usize],
    (offset, is_fragment): (u16, bool),
    facts: ParserFacts,
    accept: &BTreeSet<Kind>,
) -> Vec<View> {
    let read = || {
        let ports = places
            .iter()
            .map(|at| Some([half(packet, *at)?, half(packet, *at + 2)?]));
        ports
            .map(|ports| Some(ports.unwrap_or([0, 0])))
            .collect::<Vec<_>>()
    };
    let is_fragment = is_fragment || offset != 0;
    let ports: Vec<Option<[u16; 2]>> = match facts.later_fragments {
        LaterFragments::ZeroPorts if is_fragment => vec![Some([0, 0])],
        LaterFragments::Never if offset != 0 => vec![None],
        LaterFragments::Unknown if offset != 0 && accept.contains(&Kind::LaterFragments) => Vec::new(),
        LaterFragments::Unknown if is_fragment => read().into_iter().chain([None, Some([0, 0])]).collect(),
        _ => read(),
    };
    let view = |ports| View {
        ports,
        ..view.clone()
    };
    ports.into_iter().map(view).collect()
}

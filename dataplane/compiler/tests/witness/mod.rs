//! A second opinion on rows: read one by one, the plain and slow way. Knows what rows are and what a parser shows of a
//! packet, and nothing of the encoder or the proof.
#![allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "each test uses its part and fails by panicking"
)]

pub mod pipeline;
pub mod target;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_compiler::model::{ActionModel, Field, MatchKind, Role};
use portcullis_compiler::{
    ClassRows, Compiler, FrameMatch, Intent, PolicyRow, PortMatch, RemoteMatch, StageModel,
};
use portcullis_policy::{
    Decider, Direction, Document, Entry, Family, Fragment, Frame, IPV6_FRAGMENT, IpPacket, L4, Packet,
    Policy, Protocol, Verdict,
};

/// What the parser of a target shows of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownFields {
    pub ether_type: u16,
    pub unreadable: bool,
    pub protocol: u8,
    pub later: bool,
    pub flags: u16,
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    /// Source port, or ICMP type.
    pub src: u16,
    /// Destination port, or ICMP code.
    pub dst: u16,
}

/// An EtherType that no model and no rule knows.
const UNKNOWN: u16 = 0x88cc;

impl ShownFields {
    fn frame(ether_type: u16) -> Self {
        ShownFields {
            ether_type,
            unreadable: false,
            protocol: 0,
            later: false,
            flags: 0,
            local: None,
            remote: None,
            src: 0,
            dst: 0,
        }
    }

    /// What a packet looks like on a target; several where the same packet can come in several frames.
    pub fn new(packet: &Packet, model: &StageModel) -> Vec<Self> {
        match &packet.frame {
            Frame::Arp => vec![Self::frame(0x0806)],
            Frame::Rarp => vec![Self::frame(0x8035)],
            Frame::Other => vec![Self::frame(UNKNOWN)],
            Frame::Opaque if model.unreadable => vec![ShownFields {
                unreadable: true,
                ..Self::frame(0x8847)
            }],
            Frame::Opaque => model.opaque_ethertypes.iter().map(|t| Self::frame(*t)).collect(),
            Frame::Ip(ip)
                if ip.protocol == Some(Protocol::SCTP) && !ip.is_later() && !model.view.sctp_ports =>
            {
                Self::any_ports(&Self::ip(ip, model))
            }
            Frame::Ip(ip) => vec![Self::ip(ip, model)],
        }
    }

    /// Where a parser does not show ports, it may show zeros, the true ones, or bytes of something else.
    fn any_ports(shown: &Self) -> Vec<Self> {
        let ports = [(shown.src, shown.dst), (0, 0), (1, 25), (25, 1), (0xffff, 80)];
        let with = |(src, dst)| ShownFields { src, dst, ..*shown };
        ports.map(with).into()
    }

    fn ip(ip: &IpPacket, model: &StageModel) -> Self {
        let view = model.view;
        let v6 = ip.remote.is_ipv6();
        let later = ip.is_later();
        let hidden = later && v6 && !view.later_v6_protocol;
        let rewrites = view.fragment_offset
            && ip.protocol == Some(Protocol::TCP)
            && ip.fragment == (Fragment::Later { offset: 1 });
        let begun = matches!(ip.l4, L4::Begun { .. });
        let short = view.short_header && !later && (ip.l4 == L4::Short || (begun && !view.begun_header));
        let broken = matches!(ip.protocol, None | Some(0));
        let (src, dst, flags) = match ip.l4 {
            L4::Ports { src, dst, flags } => (src, dst, flags),
            L4::Begun { src, dst, flags } if view.begun_header => (src, dst, flags),
            L4::Icmp { kind, code } => (kind.into(), code.into(), 0),
            L4::Begun { .. } | L4::Short | L4::Nothing => (0, 0, 0),
        };
        ShownFields {
            unreadable: model.unreadable && !hidden && (broken || rewrites || short),
            protocol: if hidden {
                IPV6_FRAGMENT
            } else {
                ip.protocol.unwrap_or(0)
            },
            later,
            flags,
            local: Some(ip.local),
            remote: Some(ip.remote),
            src,
            dst,
            ..Self::frame(if v6 { 0x86dd } else { 0x0800 })
        }
    }

    fn family(&self) -> Option<Family> {
        self.remote.map(Family::from_address)
    }
}

/// What the rows of a class say about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// A verdict, and what the row that gives it names as its reason; none where a bit of a word decides.
    Verdict(Verdict, Option<Decider>),
    Nothing,
    /// Rows of equal priority disagree.
    Quarrel,
}

impl Says {
    pub fn action(self) -> Option<Verdict> {
        match self {
            Says::Verdict(action, _) => Some(action),
            _ => None,
        }
    }
}

/// The rows of one class, and those of every class.
pub struct Rows<'a> {
    program: &'a ClassRows,
    sorted: Vec<&'a PolicyRow>,
}

impl<'a> Rows<'a> {
    pub fn new(program: &'a ClassRows, fixed: &'a [PolicyRow]) -> Self {
        let mut sorted: Vec<&PolicyRow> = fixed.iter().chain(&program.policy).collect();
        sorted.sort_by_key(|row| std::cmp::Reverse(row.priority));
        Rows { program, sorted }
    }

    /// What the rows say about a packet.
    pub fn judge(&self, shown: &ShownFields) -> Says {
        let id = shown.remote.map_or(0, |address| remote_id(self.program, address));
        let codes = codes(self.program, shown);
        let mut best: Option<(u32, Verdict, Option<Decider>)> = None;
        for row in &self.sorted {
            match best {
                Some((priority, ..)) if row.priority < priority => break,
                _ if !matches(row, shown, id, codes) => {}
                None => {
                    let (action, by) = self.action(row, shown);
                    best = Some((row.priority, action, by));
                }
                Some((_, action, _)) if action == self.action(row, shown).0 => {}
                Some(_) => return Says::Quarrel,
            }
        }
        best.map_or(Says::Nothing, |(_, action, by)| Says::Verdict(action, by))
    }

    fn action(&self, row: &PolicyRow, shown: &ShownFields) -> (Verdict, Option<Decider>) {
        let Some(set) = row.words else {
            return (row.action, Some(row.by));
        };
        let block = shown.dst >> 6;
        let mut words = self
            .program
            .words
            .iter()
            .filter(|w| w.set == set && w.block == block);
        let action = match words.next() {
            Some(word) if word.word >> (shown.dst & 63) & 1 == 1 => Verdict::Allow,
            Some(_) => Verdict::Deny,
            None => row.action,
        };
        (action, None)
    }
}

/// The id of the longest prefix.
fn remote_id(program: &ClassRows, address: IpAddr) -> u32 {
    let hits = program.remote.iter().filter(|row| row.prefix.contains(&address));
    hits.max_by_key(|row| row.prefix.prefix_len())
        .map_or(0, |row| row.id)
}

/// What the code stages give a packet, source first.
fn codes(program: &ClassRows, shown: &ShownFields) -> (u64, u64) {
    let Some(codes) = &program.codes else {
        return (0, 0);
    };
    let of = |stage: &portcullis_compiler::CodeStage, port: u16| {
        if shown.later && stage.later != 0 {
            return stage.later;
        }
        let hits = stage.rows.iter().filter(|row| row.port.hits(port, 0));
        hits.max_by_key(|row| row.priority).map_or(0, |row| row.code)
    };
    (of(&codes.src, shown.src), of(&codes.dst, shown.dst))
}

fn matches(row: &PolicyRow, shown: &ShownFields, id: u32, codes: (u64, u64)) -> bool {
    let key = &row.key;
    (match key.frame {
        FrameMatch::Any => true,
        FrameMatch::Arp => shown.ether_type == 0x0806,
        FrameMatch::Ip(family) => shown.family() == Some(family),
        FrameMatch::AnyIp => shown.family().is_some(),
        FrameMatch::EtherType(t) => shown.ether_type == t,
        FrameMatch::Unreadable => shown.unreadable,
    }) && key.protocol.is_none_or(|p| shown.protocol == p)
        && key.later.is_none_or(|later| shown.later == later)
        && key.flags.is_none_or(|(value, mask)| shown.flags & mask == value)
        && (match key.remote {
            RemoteMatch::Any => true,
            RemoteMatch::Id(wanted) => wanted == id,
            RemoteMatch::Prefix(prefix) => shown.remote.is_some_and(|a| prefix.contains(&a)),
        })
        && key
            .local
            .is_none_or(|prefix| shown.local.is_some_and(|a| prefix.contains(&a)))
        && key.src.hits(shown.src, codes.0)
        && key.dst.hits(shown.dst, codes.1)
}

/// Whether a target of this model could take these rows at all; panics with the row that it could not.
pub fn well_formed(program: &ClassRows, fixed: &[PolicyRow], model: &StageModel, direction: Direction) {
    let table = model.table(Role::Policy, direction).expect("a policy table");
    let floor = fixed.iter().map(|row| row.priority).min().unwrap_or(u32::MAX);
    let mut seen = BTreeSet::new();
    for row in fixed.iter().chain(&program.policy) {
        let key = &row.key;
        let fail = |why: &str| -> ! { panic!("{} {direction}: {why}: {} {key}", model.name, row.priority) };
        if row.priority == 0 || row.priority > model.priority_max {
            fail("priority out of range");
        }
        if !seen.insert((row.priority, *key)) {
            fail("twice the same row");
        }
        let has = |field| table.key(field).is_some();
        let kind = |field| table.key(field).map(|k| k.kind);
        if key.frame == FrameMatch::Unreadable && !has(Field::Unreadable) {
            fail("no mark");
        }
        if (key.protocol.is_some() && !has(Field::Protocol)) || (key.later.is_some() && !has(Field::Later)) {
            fail("no such key");
        }
        if let Some((value, mask)) = key.flags
            && (key.protocol != Some(Protocol::TCP) || value & !mask != 0 || mask > 0xfff)
        {
            fail("flags");
        }
        let family = match key.frame {
            FrameMatch::Ip(family) => Some(family),
            _ => None,
        };
        if let RemoteMatch::Prefix(prefix) = key.remote
            && (family != Some(Family::from_address(prefix.addr())) || !has(Field::RemoteIpv4))
        {
            fail("remote prefix");
        }
        if let RemoteMatch::Id(id) = key.remote {
            let width = table.key(Field::RemoteId).map_or(0, |k| u32::from(k.width));
            if id == 0 || u64::from(id) >> width != 0 {
                fail("remote id");
            }
        }
        if key
            .local
            .is_some_and(|p| family != Some(Family::from_address(p.addr())) || !has(Field::LocalIpv4))
        {
            fail("local prefix");
        }
        let icmp = matches!(
            (key.protocol, family),
            (Some(Protocol::ICMP), Some(Family::V4)) | (Some(Protocol::ICMPV6), Some(Family::V6))
        );
        let ported = key.protocol.is_some_and(Protocol::has_ports) && family.is_some();
        let fields = if icmp {
            [(key.src, Field::IcmpType, 0xff), (key.dst, Field::IcmpCode, 0xff)]
        } else {
            [
                (key.src, Field::SrcPort, u16::MAX),
                (key.dst, Field::DstPort, u16::MAX),
            ]
        };
        for (port, field, full) in fields {
            let fits = match (port, kind(field)) {
                (PortMatch::Any, _) => true,
                (PortMatch::Code { value, mask }, _) => program.codes.is_some() && value & !mask == 0,
                _ if !icmp && !ported => false,
                (PortMatch::Masked { value, mask }, Some(MatchKind::Ternary)) => {
                    // Of a type or code, eight bits exist.
                    value & !mask == 0 && mask != 0 && value <= full
                }
                (PortMatch::Masked { value, mask }, Some(MatchKind::Exact | MatchKind::Optional)) => {
                    mask & full == full && value <= full
                }
                (PortMatch::Range { low, high }, Some(MatchKind::Range)) => low <= high && high <= full,
                _ => false,
            };
            if !fits {
                fail("port");
            }
        }
        if row.words.is_some() && !table.actions.contains(&ActionModel::Words) {
            fail("words");
        }
    }
    let above = program.policy.iter().map(|row| row.priority).max().unwrap_or(0);
    assert!(
        above < floor,
        "{}: {above} is not below the rows of every class",
        model.name
    );
    assert!(
        program
            .policy
            .is_sorted_by_key(|row| std::cmp::Reverse(row.priority))
    );
}

/// One packet of IP.
pub fn ip(local: &str, remote: &str, protocol: u8, l4: L4) -> Packet {
    Packet {
        frame: Frame::Ip(IpPacket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            protocol: Some(protocol),
            fragment: Fragment::Whole,
            l4,
        }),
    }
}

/// The same as a later fragment.
pub fn later(packet: &Packet, offset: u16) -> Packet {
    let Frame::Ip(ip) = &packet.frame else {
        return packet.clone();
    };
    Packet {
        frame: Frame::Ip(IpPacket {
            fragment: Fragment::Later { offset },
            l4: L4::Nothing,
            ..ip.clone()
        }),
    }
}

/// Numbers that look random and are the same every time (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }

    pub fn port(&mut self) -> u16 {
        self.below(1 << 16) as u16
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// What a document means for targets.
pub fn intent(document: &Document) -> Arc<Intent> {
    Compiler::default()
        .resolve(document, 1)
        .expect("room for its classes")
}

/// Packets on every side of every bound that these policies draw: all of them, or `most` at random.
pub fn grid(policies: &[&Policy], most: usize, random: &mut Random) -> Vec<Packet> {
    let entries = || policies.iter().flat_map(|p| &p.entries);
    let ports = |of: &dyn Fn(&Entry) -> Vec<(u16, u16)>| -> Vec<u16> {
        let bounds = entries().flat_map(of).flat_map(|(low, high)| [low, high]);
        let near = bounds.flat_map(|n| [n.saturating_sub(1), n, n.saturating_add(1)]);
        near.chain([0, u16::MAX])
            .collect::<BTreeSet<u16>>()
            .into_iter()
            .collect()
    };
    let src = ports(&|e| e.matcher.src_ports.iter().collect());
    let dst = ports(&|e| e.matcher.dst_ports.iter().collect());
    let addresses = |of: &dyn Fn(&Entry) -> Vec<IpNet>, v6: bool| -> Vec<IpAddr> {
        let inside = entries().flat_map(of).filter(|p| p.addr().is_ipv6() == v6);
        let mut list: BTreeSet<IpAddr> = inside.flat_map(|p| around(&p)).collect();
        let (zero, other) = if v6 {
            ("::", "2001:db8:ffff::1")
        } else {
            ("0.0.0.0", "203.0.113.1")
        };
        list.extend([zero.parse::<IpAddr>().unwrap(), other.parse().unwrap()]);
        list.into_iter().collect()
    };
    let named = entries().filter_map(|e| match e.matcher.protocol {
        Protocol::Number(n) => Some(n),
        Protocol::Any => None,
    });
    let protocols: BTreeSet<u8> = named.chain([0, 1, 6, 17, 47, 58, 132]).collect();
    let kinds: BTreeSet<(u8, u8)> = entries()
        .filter_map(|e| e.matcher.icmp)
        .flat_map(|m| {
            let code = m.code.unwrap_or(0);
            [
                (m.kind, code),
                (m.kind, code.wrapping_add(1)),
                (m.kind.wrapping_add(1), code),
            ]
        })
        .chain([(0, 0), (255, 255)])
        .collect();
    let mut packets = vec![
        Packet { frame: Frame::Arp },
        Packet { frame: Frame::Rarp },
        Packet { frame: Frame::Other },
        Packet { frame: Frame::Opaque },
    ];
    for v6 in [false, true] {
        let remotes = addresses(&|e| e.matcher.remote.clone(), v6);
        let locals = addresses(&|e| e.matcher.local.clone(), v6);
        for protocol in &protocols {
            let payloads = payloads(*protocol, v6, &src, &dst, &kinds);
            let all = remotes.len() * locals.len() * payloads.len();
            let packet = |n: usize| {
                let (l4, fragment) = payloads[n % payloads.len()];
                let n = n / payloads.len();
                Packet {
                    frame: Frame::Ip(IpPacket {
                        local: locals[n % locals.len()],
                        remote: remotes[n / locals.len()],
                        protocol: (*protocol != 0).then_some(*protocol),
                        fragment,
                        l4,
                    }),
                }
            };
            let share = most / (2 * protocols.len()) + 1;
            if all <= share {
                packets.extend((0..all).map(packet));
            } else {
                packets.extend((0..share).map(|_| packet(random.below(all as u64) as usize)));
            }
        }
    }
    packets
}

/// The ends of a prefix and their neighbours.
fn around(prefix: &IpNet) -> Vec<IpAddr> {
    match prefix {
        IpNet::V4(p) => {
            let (low, high) = (u32::from(p.network()), u32::from(p.broadcast()));
            let ends = [low.wrapping_sub(1), low, high, high.wrapping_add(1)];
            ends.map(|a| IpAddr::V4(a.into())).to_vec()
        }
        IpNet::V6(p) => {
            let (low, high) = (u128::from(p.network()), u128::from(p.broadcast()));
            let ends = [low.wrapping_sub(1), low, high, high.wrapping_add(1)];
            ends.map(|a| IpAddr::V6(a.into())).to_vec()
        }
    }
}

fn payloads(
    protocol: u8,
    v6: bool,
    src: &[u16],
    dst: &[u16],
    kinds: &BTreeSet<(u8, u8)>,
) -> Vec<(L4, Fragment)> {
    let mut list = vec![
        (L4::Nothing, Fragment::Later { offset: 1 }),
        (L4::Nothing, Fragment::Later { offset: 2 }),
    ];
    let icmp = matches!((protocol, v6), (Protocol::ICMP, false) | (Protocol::ICMPV6, true));
    if Protocol::has_ports(protocol) {
        list.push((L4::Short, Fragment::Whole));
        let flags: &[u16] = if protocol == Protocol::TCP {
            &[0x02, 0x10, 0x12, 0x00]
        } else {
            &[0]
        };
        for src in src {
            for dst in dst {
                for flags in flags {
                    let l4 = L4::Ports {
                        src: *src,
                        dst: *dst,
                        flags: *flags,
                    };
                    list.extend([(l4, Fragment::Whole), (l4, Fragment::First)]);
                }
            }
        }
    } else if icmp {
        list.push((L4::Short, Fragment::Whole));
        list.extend(kinds.iter().map(|(kind, code)| {
            let l4 = L4::Icmp {
                kind: *kind,
                code: *code,
            };
            (l4, Fragment::Whole)
        }));
    } else {
        list.push((L4::Nothing, Fragment::Whole));
    }
    list
}

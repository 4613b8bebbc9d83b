//! One proof obligation: a policy, its rows in order, and what they refer to.

use std::sync::Arc;

use portcullis_policy::{
    Family, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, TCP_ACK, TCP_SYN, Verdict,
};

use super::Counterexample;
use super::parser_view::ParserView;
use super::ports::{CodeMaps, Coding};
use crate::class_rows::{ClassRows, FrameMatch, PolicyRow, PortMatch, RemoteMatch, WordRow};

/// Either equal or a packet that shows they are not.
pub(super) type Proof<T = ()> = Result<T, Box<Counterexample>>;

/// A policy, rows that shall mean the same, and what they refer to.
pub(super) struct Case<'a> {
    pub policy: &'a Policy,
    pub program: &'a ClassRows,
    pub fixed: &'a [PolicyRow],
    pub parser: &'a ParserView,
    /// The rows for every class and those of this one, highest priority first.
    pub rows: Vec<&'a PolicyRow>,
    /// The code stages, where a row asks for codes.
    pub codes: Option<Arc<CodeMaps>>,
    /// The words by set and block, where a row asks for words.
    pub words: Vec<WordRow>,
    /// A row asks for remote ids.
    pub by_id: bool,
    /// A row names addresses or ids.
    pub by_address: bool,
    /// Whatever bears the parser's mark is denied by a row above everything that could disagree.
    pub marked_denied: bool,
}

/// What rows see of a packet beside its addresses and protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Point {
    pub later: bool,
    pub marked: bool,
    pub src_code: u64,
    pub dst_code: u64,
}

impl<'a> Case<'a> {
    /// Puts the question, or answers it at once where codes are asked for that nothing gives with certainty.
    pub fn new(
        policy: &'a Policy,
        program: &'a ClassRows,
        fixed: &'a [PolicyRow],
        parser: &'a ParserView,
        maps: impl FnOnce(&Arc<crate::class_rows::Codes>) -> Arc<CodeMaps>,
    ) -> Proof<Self> {
        let mut rows: Vec<&PolicyRow> = fixed.iter().chain(&program.policy).collect();
        // Stable, and nearly sorted: rows come highest first.
        rows.sort_by_key(|row| std::cmp::Reverse(row.priority));
        let by_code = |port: fn(&PolicyRow) -> PortMatch| {
            rows.iter().any(|r| matches!(port(r), PortMatch::Code { .. }))
        };
        let (src_codes, dst_codes) = (by_code(|r| r.key.src), by_code(|r| r.key.dst));
        let mut codes = None;
        if src_codes || dst_codes {
            let Some(stages) = &program.codes else {
                return Err(unsure(policy, parser, Family::V4, 0, TCP_PORTS));
            };
            let maps = maps(stages);
            if let Some(port) = maps.src.unsure().filter(|_| src_codes) {
                return Err(unsure(policy, parser, Family::V4, 0, (port, 1)));
            }
            if let Some(port) = maps.dst.unsure().filter(|_| dst_codes) {
                return Err(unsure(policy, parser, Family::V4, 0, (1, port)));
            }
            codes = Some(maps);
        }
        let mut words = Vec::new();
        if rows.iter().any(|r| r.words.is_some()) {
            words.clone_from(&program.words);
            words.sort_unstable();
            words.dedup();
        }
        let by_id = rows.iter().any(|r| matches!(r.key.remote, RemoteMatch::Id(_)));
        let by_address = rows
            .iter()
            .any(|r| r.key.remote != RemoteMatch::Any || r.key.local.is_some());
        Ok(Case {
            marked_denied: parser.unreadable && marked_denied(&rows),
            policy,
            program,
            fixed,
            parser,
            rows,
            codes,
            words,
            by_id,
            by_address,
        })
    }

    /// Compares: the reference verdict has the last word.
    pub fn confirm(&self, packet: Packet, got: Option<Verdict>) -> Proof {
        let (wanted, _) = self.policy.judge(&packet, self.parser.view);
        if got == Some(wanted) {
            return Ok(());
        }
        Err(Box::new(Counterexample { packet, wanted, got }))
    }

    /// Source port codes of packets that show ports.
    pub fn src_coding(&self) -> Coding<'_> {
        self.codes
            .as_ref()
            .map_or(Coding::Constant(0), |c| Coding::ByPort(&c.src))
    }

    /// Destination port codes of packets that show ports.
    pub fn dst_coding(&self) -> Coding<'_> {
        self.codes
            .as_ref()
            .map_or(Coding::Constant(0), |c| Coding::ByPort(&c.dst))
    }

    /// A packet whose ports and flags rows see as zeros, with the codes it has.
    pub fn blank(&self, ported: bool, marked: bool) -> Point {
        let code = |coding: Coding<'_>| match coding {
            Coding::ByPort(map) if ported => map.code(0).unwrap_or(0),
            _ => 0,
        };
        Point {
            later: false,
            marked,
            src_code: code(self.src_coding()),
            dst_code: code(self.dst_coding()),
        }
    }

    pub fn later(&self, marked: bool) -> Point {
        let codes = self.codes.as_ref();
        Point {
            later: true,
            marked,
            src_code: codes.map_or(0, |c| c.src.later),
            dst_code: codes.map_or(0, |c| c.dst.later),
        }
    }

    /// The verdict of the highest of these rows, in their order, on a packet that shows zeros and whose addresses and
    /// protocol they match; `None` when none matches or equals disagree.
    pub fn at(&self, rows: impl Iterator<Item = &'a PolicyRow>, point: Point) -> Option<Verdict> {
        let mut best: Option<(u32, Option<Verdict>)> = None;
        for row in rows {
            if best.is_some_and(|(priority, _)| priority > row.priority) {
                break;
            }
            if !point.hits(row) {
                continue;
            }
            let says = self.word_verdict(row, 0);
            best = Some((
                row.priority,
                match best {
                    Some((_, before)) => before.filter(|a| says == Some(*a)),
                    None => says,
                },
            ));
        }
        best.and_then(|(_, action)| action)
    }

    /// The words of a set, by block; those of one block are neighbours.
    pub fn set(&self, set: u16) -> &[WordRow] {
        let from = self.words.partition_point(|w| w.set < set);
        let to = self.words.partition_point(|w| w.set <= set);
        self.words.get(from..to).unwrap_or(&[])
    }

    fn word_verdict(&self, row: &PolicyRow, dst: u16) -> Option<Verdict> {
        let Some(set) = row.words else {
            return Some(row.action);
        };
        let mut here = self.set(set).iter().filter(|w| w.block == dst >> 6);
        match (here.next(), here.next()) {
            (None, _) => Some(row.action),
            (Some(one), None) => Some(bit(one.word, dst)),
            (Some(_), Some(_)) => None,
        }
    }
}

/// What a word says about a port of its block.
pub(super) fn bit(word: u64, port: u16) -> Verdict {
    Verdict::from_passes(word >> (port & 63) & 1 == 1)
}

impl Point {
    fn hits(self, row: &PolicyRow) -> bool {
        let k = &row.key;
        (k.frame != FrameMatch::Unreadable || self.marked)
            && k.later.is_none_or(|want| want == self.later)
            && k.flags.is_none_or(|(value, _)| value == 0)
            && k.src.hits(0, self.src_code)
            && k.dst.hits(0, self.dst_code)
    }
}

/// Whether one row denies whatever bears the mark and none that disagrees stands as high. Rows come highest first.
fn marked_denied(rows: &[&PolicyRow]) -> bool {
    for row in rows {
        let denies = row.action.denies() && row.words.is_none();
        if row.key.frame == FrameMatch::Unreadable && denies && super::linear::is_bare(&row.key) {
            return row.key.later.is_none()
                && rows
                    .iter()
                    .take_while(|r| r.priority >= row.priority)
                    .all(|r| r.key.frame == FrameMatch::Arp || (r.action.denies() && r.words.is_none()));
        }
    }
    false
}

/// Ports of no meaning, for a packet that shows that nothing is certain.
const TCP_PORTS: (u16, u16) = (1, 1);

/// A packet about which nothing is certain, whatever its ports.
pub(super) fn unsure(
    policy: &Policy,
    parser: &ParserView,
    family: Family,
    remote: u128,
    (src, dst): (u16, u16),
) -> Box<Counterexample> {
    let spot = AddressPair {
        family,
        local: 0,
        remote,
    };
    let flags = if policy.five_tuple { 0 } else { TCP_ACK };
    let packet = spot.packet(Protocol::TCP, Fragment::Whole, L4::Ports { src, dst, flags });
    let (wanted, _) = policy.judge(&packet, parser.view);
    Box::new(Counterexample {
        packet,
        wanted,
        got: None,
    })
}

/// A pair of addresses, as numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddressPair {
    pub family: Family,
    pub local: u128,
    pub remote: u128,
}

impl AddressPair {
    pub fn packet(self, protocol: impl Into<Option<u8>>, fragment: Fragment, l4: L4) -> Packet {
        Packet {
            frame: Frame::Ip(IpPacket {
                local: super::addresses::address(self.family, self.local),
                remote: super::addresses::address(self.family, self.remote),
                protocol: protocol.into(),
                fragment,
                l4,
            }),
        }
    }
}

/// Whether these TCP flags open a connection.
pub(super) fn is_opening(flags: u16) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

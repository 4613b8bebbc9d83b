//! Slices of a class: what of its entries and rows can matter to one protocol at one pair of addresses.
//!
//! A slice forgets the protocol, the IP version and the addresses, so that UDP of IPv6 is often the same slice as UDP
//! of IPv4, in a thousand classes. Slices that were proved are remembered, by their whole content.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasherDefault, Hasher};

use portcullis_policy::{Entry, FlagMatch, Protocol, Verdict};

use super::case::{Case, bit};
use super::ports::{Coding, Run, runs};
use super::sweep::{Flags, Outcome, Space, Sweep};
use crate::class_rows::{FrameMatch, PolicyRow, PortMatch};

/// What packets of a protocol show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketShape {
    /// Ports, and flags if it is TCP.
    Ports {
        /// Whether it is TCP.
        flags: bool,
    },
    Icmp,
    Point,
    /// Numbers in the place of ports that may be anything.
    HiddenPorts,
    /// The number of an extension header in the place of the protocol: a chain of headers without an end, or one that the
    /// parser does not follow.
    Broken,
}

/// The entries and rows that can matter to one protocol, as indexes; both in order.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub protocol: u8,
    pub kind: PacketShape,
    /// Later fragments that hide their protocol pass if those of this one would.
    pub named: bool,
    pub entries: Vec<u32>,
    pub rows: Vec<u32>,
    /// The verdict where no entry matches, if it is not the policy's.
    default: Option<Verdict>,
}

impl Slice {
    pub fn new(protocol: u8, kind: PacketShape, named: bool) -> Self {
        Slice {
            protocol,
            kind,
            named,
            entries: Vec::new(),
            rows: Vec::new(),
            default: None,
        }
    }

    /// The same rows, compared with one verdict for every packet.
    pub fn of_one_verdict(&self, verdict: Verdict) -> Self {
        Slice {
            entries: Vec::new(),
            default: Some(verdict),
            ..self.clone()
        }
    }

    pub fn entries<'a>(&self, case: &Case<'a>) -> impl Iterator<Item = &'a Entry> {
        let all = &case.policy.entries;
        self.entries.iter().filter_map(|i| all.get(*i as usize))
    }

    pub fn rows<'a>(&self, case: &Case<'a>) -> impl Iterator<Item = &'a PolicyRow> {
        self.rows
            .iter()
            .filter_map(|i| case.rows.get(*i as usize).copied())
    }

    /// The rows that whole, readable packets can match.
    fn readable<'a>(&self, case: &Case<'a>) -> impl Iterator<Item = &'a PolicyRow> {
        let flags = self.kind == PacketShape::Ports { flags: true };
        self.rows(case).filter(move |r| {
            r.key.later != Some(true)
                && r.key.frame != FrameMatch::Unreadable
                && (flags || r.key.flags.is_none_or(|(value, _)| value == 0))
        })
    }

    fn is_icmp(&self) -> bool {
        self.kind == PacketShape::Icmp
    }

    /// The space in which entries and rows are compared.
    pub fn space(&self, case: &Case<'_>) -> Space {
        Space {
            last: if self.is_icmp() { 255 } else { u16::MAX },
            flags: self.kind == PacketShape::Ports { flags: true },
            blank: Protocol::has_ports(self.protocol)
                && !case.parser.view.short_header
                && self.kind != PacketShape::HiddenPorts,
            shown_flags: case.parser.view.tcp_flags,
            default: self.default.unwrap_or(case.policy.default),
        }
    }

    /// Everything that its proof depends on, as numbers.
    fn key(&self, case: &Case<'_>, key: &mut Vec<u64>) {
        let space = self.space(case);
        let default = number(space.default);
        let [icmp, flags, blank] = [self.is_icmp(), space.flags, space.blank].map(u64::from);
        key.clear();
        key.push((self.entries.len() as u64) << 4 | icmp << 3 | flags << 2 | blank << 1 | default);
        key.push(case.codes.as_ref().map_or(0, |c| c.serial));
        for entry in self.entries(case) {
            entry_key(entry, self.is_icmp(), key);
        }
        for row in self.readable(case) {
            row_key(row, space.flags, case, key);
        }
    }

    /// Gives entries and rows to a sweep.
    fn load(&self, case: &Case<'_>, sweep: &mut Sweep) {
        let space = self.space(case);
        sweep.clear();
        for entry in self.entries(case) {
            load_entry(entry, self.is_icmp(), space.flags, sweep);
        }
        let (src, dst) = self.codings(case);
        for row in self.readable(case) {
            load_row(row, case, (src, dst), space, sweep);
        }
    }

    /// The codes of its ports.
    pub fn codings<'c>(&self, case: &'c Case<'_>) -> (Coding<'c>, Coding<'c>) {
        match self.kind {
            PacketShape::Ports { .. } | PacketShape::HiddenPorts => (case.src_coding(), case.dst_coding()),
            _ => (Coding::Constant(0), Coding::Constant(0)),
        }
    }
}

/// A verdict in the lowest bit of a key.
fn number(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Allow => 1,
        Verdict::Deny => 0,
    }
}

fn entry_key(entry: &Entry, icmp: bool, key: &mut Vec<u64>) {
    let m = &entry.matcher;
    let action = number(entry.action);
    let whole = u64::from(!m.fragments);
    if icmp {
        let (kind, code) = m
            .icmp
            .map_or((256, 256), |i| (i.kind.into(), i.code.map_or(256, u64::from)));
        key.push(kind << 32 | code << 16 | whole << 1 | action);
        return;
    }
    let not_opening = u64::from(m.flags == FlagMatch::NotOpening);
    let at = key.len();
    key.push(0);
    let mut count = [0u64; 2];
    for (ports, count) in [&m.src_ports, &m.dst_ports].into_iter().zip(&mut count) {
        for (low, high) in ports.iter() {
            *count += 1;
            key.push(u64::from(low) << 16 | u64::from(high));
        }
    }
    if let Some(head) = key.get_mut(at) {
        *head = count[0] << 40 | count[1] << 8 | whole << 2 | not_opening << 1 | action;
    }
}

fn row_key(row: &PolicyRow, flags: bool, case: &Case<'_>, key: &mut Vec<u64>) {
    let port = |p: PortMatch| match p {
        PortMatch::Any => (0u64, 0u64),
        PortMatch::Masked { value, mask } => (1, u64::from(value) << 16 | u64::from(mask)),
        PortMatch::Range { low, high } => (2, u64::from(low) << 16 | u64::from(high)),
        PortMatch::Code { .. } => (3, 0),
    };
    let ((src, src_bits), (dst, dst_bits)) = (port(row.key.src), port(row.key.dst));
    let asked = row.key.flags.filter(|_| flags);
    let action = number(row.action);
    let marks =
        u64::from(row.words.is_some()) << 6 | u64::from(asked.is_some()) << 5 | src << 3 | dst << 1 | action;
    key.push(u64::from(row.priority) << 8 | marks);
    key.push(src_bits << 32 | dst_bits);
    if let Some((value, mask)) = asked {
        key.push(u64::from(value) << 16 | u64::from(mask));
    }
    for p in [row.key.src, row.key.dst] {
        if let PortMatch::Code { value, mask } = p {
            key.extend([value, mask]);
        }
    }
    if let Some(set) = row.words {
        let words = case.set(set);
        key.push(words.len() as u64);
        key.extend(words.iter().flat_map(|w| [u64::from(w.block), w.word]));
    }
}

/// Gives an entry to a sweep: its ports, or its type and code.
fn load_entry(entry: &Entry, icmp: bool, flags: bool, sweep: &mut Sweep) {
    let m = &entry.matcher;
    if icmp {
        let one =
            |n: Option<u8>, pool: &mut Vec<Run>| pool.push(n.map_or((0, 255), |n| (n.into(), n.into())));
        let (kind, code) = (m.icmp.map(|i| i.kind), m.icmp.and_then(|i| i.code));
        sweep.entry(
            (entry.action, m.fragments),
            Flags::Any,
            |pool| one(kind, pool),
            |pool| one(code, pool),
        );
        return;
    }
    let asked = match m.flags {
        FlagMatch::NotOpening if flags => Flags::NotOpening,
        _ => Flags::Any,
    };
    sweep.entry(
        (entry.action, m.fragments),
        asked,
        |pool| pool.extend(m.src_ports.iter()),
        |pool| pool.extend(m.dst_ports.iter()),
    );
}

/// Gives a row to a sweep; one that asks words once for each verdict.
fn load_row(
    row: &PolicyRow,
    case: &Case<'_>,
    (src, dst): (Coding<'_>, Coding<'_>),
    space: Space,
    sweep: &mut Sweep,
) {
    let flags = match row.key.flags {
        Some((value, mask)) if space.flags => Flags::Masked(value, mask),
        _ => Flags::Any,
    };
    let from = |pool: &mut Vec<Run>| runs(row.key.src, src, space.last, pool);
    if row.words.is_none() {
        let to = |pool: &mut Vec<Run>| runs(row.key.dst, dst, space.last, pool);
        sweep.row(Some(row.action), row.priority, flags, from, to);
        return;
    }
    for (says, ports) in worded(row, case, dst, space.last) {
        sweep.row(says, row.priority, flags, from, |pool| pool.extend(ports));
    }
}

/// The destination ports of a row that asks words, by what it says about them: allow, deny, nothing certain.
pub(super) fn worded(
    row: &PolicyRow,
    case: &Case<'_>,
    dst: Coding<'_>,
    last: u16,
) -> Vec<(Option<Verdict>, Vec<Run>)> {
    let mut ports = Vec::new();
    runs(row.key.dst, dst, last, &mut ports);
    let words = row.words.map_or(&[][..], |set| case.set(set));
    let mut parts = [Some(Verdict::Allow), Some(Verdict::Deny), None].map(|says| (says, Vec::<Run>::new()));
    for (low, high) in ports {
        let mut at = low;
        loop {
            let block = at >> 6;
            let from = words.partition_point(|w| w.block < block);
            let mut here = words.iter().skip(from).take_while(|w| w.block == block);
            let (says, end) = match (here.next(), here.next()) {
                (None, _) => {
                    let next = words
                        .get(from)
                        .and_then(|w| w.block.checked_mul(64))
                        .filter(|n| *n > at);
                    (Some(row.action), next.map_or(high, |n| high.min(n - 1)))
                }
                (Some(one), None) => {
                    let says = bit(one.word, at);
                    let same = (at..=high.min(at | 63)).take_while(|p| bit(one.word, *p) == says);
                    (Some(says), same.last().unwrap_or(at))
                }
                (Some(_), Some(_)) => (None, high.min(at | 63)),
            };
            if let Some((_, runs)) = parts.iter_mut().find(|(s, _)| *s == says) {
                match runs.last_mut() {
                    Some(before) if u32::from(before.1) + 1 == u32::from(at) => before.1 = end,
                    _ => runs.push((at, end)),
                }
            }
            match end.checked_add(1) {
                Some(next) if next <= high => at = next,
                _ => break,
            }
        }
    }
    parts.into_iter().filter(|(_, runs)| !runs.is_empty()).collect()
}

/// Words of memory that remembered slices may take: 16 MiB.
const MEMORY: usize = 2 << 20;

/// Slices that were proved, with what they mean for later fragments.
#[derive(Debug, Default)]
pub(super) struct Memo {
    known: HashMap<Box<[u64]>, Outcome, BuildHasherDefault<Fold>>,
    words: usize,
    key: Vec<u64>,
    sweep: Sweep,
}

impl Memo {
    /// What the entries of a slice mean, whatever its rows say. Never remembered: it proves nothing.
    pub fn outcome_of_entries(&mut self, slice: &Slice, case: &Case<'_>) -> Outcome {
        slice.load(case, &mut self.sweep);
        let compared = self
            .sweep
            .compare(slice.space(case), |_| Ok::<(), Infallible>(()));
        match compared {
            Ok(outcome) => outcome,
            Err(never) => match never {},
        }
    }

    /// Proves a slice of ports or of types and codes, unless it was proved before.
    pub fn prove<E>(
        &mut self,
        slice: &Slice,
        case: &Case<'_>,
        differ: impl FnMut(super::sweep::Spot) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        slice.key(case, &mut self.key);
        if let Some(outcome) = self.known.get(self.key.as_slice()) {
            return Ok(*outcome);
        }
        slice.load(case, &mut self.sweep);
        let outcome = self.sweep.compare(slice.space(case), differ)?;
        if self.words + self.key.len() > MEMORY {
            self.known.clear();
            self.words = 0;
        }
        // A slice takes its key and about as much again for its place in the table.
        self.words += self.key.len() + 8;
        self.known.insert(self.key.as_slice().into(), outcome);
        Ok(outcome)
    }
}

/// A fast hash of whole words. Collisions only cost time: slices are compared by content.
#[derive(Debug, Default)]
pub(super) struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_ne_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

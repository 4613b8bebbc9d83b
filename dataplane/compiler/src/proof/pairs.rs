//! The engine for thousands of pairs of prefixes, over packets that are plain five-tuples.
//!
//! Entries and rows are two lists of boxes in which the first that holds a packet decides. They mean the same when, for
//! each entry and each row that disagree, whatever both hold is held by entries before the one or rows above the other.
//! Nearly always one box does that, and it is known beforehand: let `below(x)` be the place in the other list from
//! which on nothing can decide about packets that `x` holds. An entry and a row need no look when the row is below what
//! covers the entry, or the entry behind what covers the row.

use portcullis_policy::{Fragment, L4, Verdict};

use super::addresses::{Addresses, Set, last, ones};
use super::boxes::{BoxOf, DIMENSIONS, List, Piece, Runs, Sets};
use super::case::{AddressPair, Case, Proof};
use super::cells::Slices;
use super::linear::decide;
use super::ports::{Coding, Run, runs};
use super::slice::{PacketShape, Slice, worded};
use crate::class_rows::FrameMatch;

/// Boxes that a search for a cover of many boxes may cut one into before it leaves it to the search by pairs.
const PIECES: usize = 1000;

/// Proves one IP version of a five-tuple class.
pub(super) fn prove(case: &Case<'_>, addresses: &Addresses) -> Proof {
    let mut plane = Plane::new(case, addresses);
    let mut slices = Slices::new(case, addresses.family);
    let everything = 0..case.policy.entries.len() + case.rows.len();
    for slice in slices.fill(case, everything) {
        if !case.marked_denied || !case.parser.marks_protocol(addresses.family, slice.protocol) {
            plane.slice(slice)?;
        }
    }
    Ok(())
}

/// Numbers for all addresses that no bound tells apart.
struct Axis(Vec<u128>);

impl Axis {
    fn from_sets(sets: &[Set]) -> Self {
        let mut cuts = vec![0];
        for set in sets {
            if let Set::Ranges(ranges) = set {
                cuts.extend(
                    ranges
                        .iter()
                        .flat_map(|(first, end)| [Some(*first), end.checked_add(1)])
                        .flatten(),
                );
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        Axis(cuts)
    }

    fn runs(&self, set: &Set, last: u128) -> Runs {
        let cell = |n: u128| self.0.partition_point(|cut| *cut <= n).saturating_sub(1) as u32;
        match set {
            Set::All => vec![(0, cell(last))],
            Set::Ranges(ranges) => ranges
                .iter()
                .map(|(first, end)| (cell(*first), cell(*end)))
                .collect(),
        }
    }

    fn address(&self, cell: u32) -> u128 {
        self.0.get(cell as usize).copied().unwrap_or(0)
    }
}

/// The boxes of a class in one IP version.
struct Plane<'c, 'a> {
    case: &'c Case<'a>,
    addresses: &'c Addresses,
    remote: Axis,
    local: Axis,
    sets: Sets,
}

/// A row in a list, and where it stands.
struct Rank {
    priority: u32,
    first: u32,
}

impl<'c, 'a> Plane<'c, 'a> {
    fn new(case: &'c Case<'a>, addresses: &'c Addresses) -> Self {
        Plane {
            case,
            addresses,
            remote: Axis::from_sets(&addresses.remote),
            local: Axis::from_sets(&addresses.local),
            sets: Sets::default(),
        }
    }

    /// The box of an item of these ports; `None` when it holds nothing.
    fn boxed(&mut self, item: usize, src: &[Run], dst: &[Run]) -> Option<BoxOf> {
        let end = last(self.addresses.family);
        let remote = self.remote.runs(self.addresses.remote.get(item)?, end);
        let local = self.local.runs(self.addresses.local.get(item)?, end);
        let ports = |runs: &[Run]| runs.iter().map(|(a, b)| (u32::from(*a), u32::from(*b))).collect();
        self.number([remote, local, ports(src), ports(dst)])
    }

    fn number(&mut self, runs: [Runs; DIMENSIONS]) -> Option<BoxOf> {
        let mut own = [0; DIMENSIONS];
        for (d, (number, runs)) in own.iter_mut().zip(runs).enumerate() {
            if runs.is_empty() {
                return None;
            }
            *number = self.sets.number(d, runs);
        }
        Some(own)
    }

    /// All packets of a slice, or those whose ports are zero.
    fn whole(&mut self, last_port: u16) -> Option<BoxOf> {
        let end = last(self.addresses.family);
        let (remote, local) = (self.remote.runs(&Set::All, end), self.local.runs(&Set::All, end));
        let ports = vec![(0, u32::from(last_port))];
        self.number([remote, local, ports.clone(), ports])
    }

    fn entries(&mut self, slice: &Slice) -> List {
        let mut list = List::default();
        if slice.kind == PacketShape::Broken {
            if let Some(whole) = self.whole(0) {
                list.push(whole, Some(Verdict::Deny));
            }
            return list;
        }
        if let Some(whole) = self.whole(u16::MAX) {
            if slice.space(self.case).blank
                && let Some(zero) = self.whole(0)
            {
                list.push(zero, Some(Verdict::Deny));
            }
            for (index, entry) in slice.entries.iter().zip(slice.entries(self.case)) {
                let (src, dst): (Vec<Run>, Vec<Run>) = (
                    entry.matcher.src_ports.iter().collect(),
                    entry.matcher.dst_ports.iter().collect(),
                );
                if let Some(own) = self.boxed(*index as usize, &src, &dst) {
                    list.push(own, Some(entry.action));
                }
            }
            list.push(whole, Some(self.case.policy.default));
        }
        list
    }

    /// The rows, and for each those of its priority that stand before it.
    fn rows(&mut self, slice: &Slice) -> (List, Vec<Rank>) {
        let case = self.case;
        let broken = slice.kind == PacketShape::Broken;
        let end = if broken { 0 } else { u16::MAX };
        let (src, dst) = if broken {
            (Coding::Constant(0), Coding::Constant(0))
        } else {
            (case.src_coding(), case.dst_coding())
        };
        let mut list = List::default();
        let mut ranks: Vec<Rank> = Vec::new();
        let entries = case.policy.entries.len();
        let mut from = Vec::new();
        for (index, row) in slice.rows.iter().zip(slice.rows(case)) {
            let k = &row.key;
            let marked =
                case.parser.unreadable && case.parser.marks_protocol(self.addresses.family, slice.protocol);
            let shown = k.frame != FrameMatch::Unreadable || marked;
            if !shown || k.later == Some(true) || k.flags.is_some_and(|(value, _)| value != 0) {
                continue;
            }
            from.clear();
            runs(k.src, src, end, &mut from);
            let parts = match row.words {
                Some(_) => worded(row, case, dst, end),
                None => {
                    let mut to = Vec::new();
                    runs(k.dst, dst, end, &mut to);
                    vec![(Some(row.action), to)]
                }
            };
            for (says, to) in parts {
                if let Some(own) = self.boxed(entries + *index as usize, &from, &to) {
                    let first = match ranks.last() {
                        Some(before) if before.priority == row.priority => before.first,
                        _ => ranks.len() as u32,
                    };
                    list.push(own, says);
                    ranks.push(Rank {
                        priority: row.priority,
                        first,
                    });
                }
            }
        }
        if let Some(whole) = self.whole(end) {
            list.push(whole, None);
        }
        (list, ranks)
    }

    fn slice(&mut self, slice: &Slice) -> Proof {
        let mut entries = self.entries(slice);
        let (mut rows, ranks) = self.rows(slice);
        self.ties(slice, &mut rows, &ranks)?;
        let holding_entry = first_holding(&self.sets, &rows, &mut entries);
        let holding_row = first_holding(&self.sets, &entries, &mut rows);
        let row_below = below(&self.sets, &entries, &rows, &holding_row, &holding_entry);
        let entry_below = below(&self.sets, &rows, &entries, &holding_entry, &holding_row);
        // Rows by the entry from which on none can decide about their packets.
        let mut ending: Vec<Vec<u32>> = vec![Vec::new(); entries.boxes.len()];
        for (row, entry) in (0u32..).zip(&entry_below) {
            if let Some(list) = ending.get_mut(*entry as usize) {
                list.push(row);
            }
        }
        let mut open = vec![0u64; rows.boxes.len().div_ceil(64)];
        for (entry, (row_below, ending)) in row_below.iter().zip(&ending).enumerate().rev() {
            let entry = entry as u32;
            for row in ending {
                if let Some(word) = open.get_mut(*row as usize / 64) {
                    *word |= 1 << (row % 64);
                }
            }
            let near = open.get(..=*row_below as usize / 64).unwrap_or(&open);
            for row in ones(near)
                .map(|row| row as u32)
                .take_while(|row| row <= row_below)
            {
                if entries.says.get(entry as usize) != rows.says.get(row as usize) {
                    self.pair(slice, (&mut entries, entry), (&mut rows, row))?;
                }
            }
        }
        Ok(())
    }

    /// An entry and a row that disagree: whatever both hold must be held above one of them.
    fn pair(&mut self, slice: &Slice, entries: (&mut List, u32), rows: (&mut List, u32)) -> Proof {
        let mut both = [entries, rows];
        let mut common = None;
        for (list, at) in &both {
            let Some(own) = list.boxes.get(*at as usize) else {
                return Ok(());
            };
            common = match common {
                None => Some(*own),
                Some(other) => match self.sets.meet(&other, own) {
                    Some(common) => Some(common),
                    None => return Ok(()),
                },
            };
        }
        let Some(common) = common else { return Ok(()) };
        for (list, at) in &mut both {
            if list.holding(&self.sets, &common).is_some_and(|first| first < *at) {
                return Ok(());
            }
        }
        let mut covers = Vec::new();
        for (list, at) in &mut both {
            let near = list.meeting(&self.sets, &common, 0, *at);
            covers.extend(near.iter().filter_map(|i| list.boxes.get(*i as usize).copied()));
        }
        self.uncovered(slice, &common, &covers)
    }

    /// Rows of equal priority that disagree: whatever both hold must be held by rows of higher priority.
    fn ties(&mut self, slice: &Slice, rows: &mut List, ranks: &[Rank]) -> Proof {
        for (index, rank) in (0u32..).zip(ranks) {
            if rank.first == index {
                continue;
            }
            let (Some(own), Some(says)) = (
                rows.boxes.get(index as usize).copied(),
                rows.says.get(index as usize).copied(),
            ) else {
                continue;
            };
            let group = rows.says.get(rank.first as usize..index as usize).unwrap_or(&[]);
            if group.iter().all(|other| *other == says) {
                continue;
            }
            for other in rows.meeting(&self.sets, &own, rank.first, index) {
                if rows.says.get(other as usize) == Some(&says) {
                    continue;
                }
                let other = rows.boxes.get(other as usize).copied();
                let Some(common) = other.and_then(|o| self.sets.meet(&own, &o)) else {
                    continue;
                };
                let near = rows.meeting(&self.sets, &common, 0, rank.first);
                let covers: Vec<BoxOf> = near
                    .iter()
                    .filter_map(|i| rows.boxes.get(*i as usize).copied())
                    .collect();
                self.uncovered(slice, &common, &covers)?;
            }
        }
        Ok(())
    }

    /// A packet that this box holds and none of the covers does is a counter-example.
    fn uncovered(&self, slice: &Slice, common: &BoxOf, covers: &[BoxOf]) -> Proof {
        let Some([remote, local, src, dst]) = self.sets.uncovered(self.sets.pieces(common), covers) else {
            return Ok(());
        };
        let place = AddressPair {
            family: self.addresses.family,
            local: self.local.address(local),
            remote: self.remote.address(remote),
        };
        let l4 = if slice.kind == PacketShape::Broken {
            L4::Nothing
        } else {
            L4::Ports {
                src: src as u16,
                dst: dst as u16,
                flags: 0,
            }
        };
        let packet = place.packet(slice.protocol, Fragment::Whole, l4);
        let got = decide(self.case.program, self.case.fixed, &packet, self.case.parser);
        self.case.confirm(packet, got.map(|(_, action)| action))
    }
}

/// For each box of `own`, the first of `other` that holds it, and whether it is just the same.
fn first_holding(sets: &Sets, own: &List, other: &mut List) -> Vec<(u32, bool)> {
    let none = other.boxes.len() as u32;
    own.boxes
        .iter()
        .map(|b| match other.equal(b) {
            Some(same) => (same, true),
            None => (other.holding(sets, b).unwrap_or(none), false),
        })
        .collect()
}

/// For each box of `own`, the place in `other` behind which nothing can decide about what it holds: that of the first
/// box that holds it, or that of the last of several boxes within it that cover it together.
fn below(sets: &Sets, own: &List, other: &List, held: &[(u32, bool)], holders: &[(u32, bool)]) -> Vec<u32> {
    let mut within: Vec<Vec<u32>> = vec![Vec::new(); own.boxes.len()];
    for (index, (holder, _)) in (0u32..).zip(holders) {
        if let Some(list) = within.get_mut(*holder as usize) {
            list.push(index);
        }
    }
    let covered = |(own, ((holder, same), within)): (&BoxOf, (&(u32, bool), &Vec<u32>))| {
        if *same {
            return *holder;
        }
        let mut left: Vec<Piece> = sets.pieces(own);
        for index in within.iter().take_while(|i| *i < holder) {
            let Some(cover) = other.boxes.get(*index as usize) else {
                break;
            };
            left = left.iter().flat_map(|piece| sets.without(piece, cover)).collect();
            if left.is_empty() {
                return *index;
            }
            if left.len() > PIECES {
                break;
            }
        }
        *holder
    };
    own.boxes
        .iter()
        .zip(held.iter().zip(&within))
        .map(covered)
        .collect()
}

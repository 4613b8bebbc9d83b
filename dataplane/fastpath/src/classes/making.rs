//! Compilation of a class: rows to port lines and row lists.

use std::collections::HashMap;

use portcullis_policy::intervals::paint;
use portcullis_policy::{Direction, Verdict};

use super::short_circuit::Way;
use super::step::{Axis, SkipRange, Step};
use super::{ALLOW, Addresses, Class, END, GROUPS, LIST, NEXT, PROTOCOLS, Ports, SHAPES, STATES, Wanted};
use crate::port_map::Bitmaps;
use crate::remote::Remotes;
use crate::row::{Cond, NO_SLOT, Row};
use crate::table::{Key, Table};

/// Entries of all lists of a line, beyond which the line is one list.
const MOST: usize = 1 << 16;
/// Different steps behind one, beyond which rows are left to lists; and steps of a shape, beyond which no more are put
/// behind others.
const BRANCHES: usize = 32;
const STEPS: usize = 256;

/// What all packets of a shape have in common.
struct Shape {
    family: usize,
    state: usize,
    group: usize,
}

impl Shape {
    fn from_number(number: usize) -> Shape {
        Shape {
            family: number / GROUPS / STATES,
            state: number / GROUPS % STATES,
            group: number % GROUPS,
        }
    }

    /// Bits of [`small`] that are the same in all packets of the shape, and what they are.
    fn fixed(&self) -> (u64, u64) {
        let (mut value, mut known) = match self.family {
            0 => (0x0800, 0xffff),
            1 => (0x86dd, 0xffff),
            _ => (0, 0),
        };
        if let Some(protocol) = PROTOCOLS.get(self.group) {
            value |= u64::from(*protocol) << 16;
            known |= 0xff << 16;
        }
        // A header that is not there shows nothing. What cannot be read may have been looked at before it failed.
        if self.group != 0 || self.state == 1 {
            known |= 0xfff << 24;
        }
        if !matches!(self.group, 3 | 4) || self.state == 1 {
            known |= 0xffff << 36;
        }
        known |= 1 << 53;
        match self.state {
            0 => known |= 1 << 52,
            1 => {
                value |= 1 << 52;
                known |= 1 << 52;
            }
            _ => value |= 1 << 53,
        }
        (value, known)
    }

    fn has_ports(&self) -> bool {
        self.group < 3 && self.state != 1
    }

    /// Whether a row may match a packet of this shape.
    fn meets(&self, row: &Wanted) -> bool {
        let (value, known) = self.fixed();
        let (wanted, mask) = row.small;
        if (value ^ wanted) & mask & known != 0 {
            return false;
        }
        // Neither IPv4 nor IPv6; none of the protocols that have shapes of their own.
        let ether_type =
            self.family == 2 && mask & 0xffff == 0xffff && matches!(wanted & 0xffff, 0x0800 | 0x86dd);
        let protocol = self.group == PROTOCOLS.len()
            && mask >> 16 & 0xff == 0xff
            && PROTOCOLS.contains(&((wanted >> 16) as u8));
        !(ether_type || protocol) && (self.has_ports() || (row.src_port.holds(0) && row.dst_port.holds(0)))
    }

    /// Whether packets of this shape have what is looked at.
    fn has(&self, axis: Axis) -> bool {
        match axis {
            Axis::DstPort | Axis::SrcPort => self.has_ports(),
            Axis::Remote => true,
            Axis::SrcV4 | Axis::DstV4 => self.family == 0,
            Axis::SrcV6 | Axis::DstV6 => self.family == 1,
        }
    }

    /// Whether a row that may match decides by the destination port alone, `after` looks at more.
    fn is_decided_by(&self, row: &Wanted, addresses: &[Addresses], after: After) -> bool {
        let (_, known) = self.fixed();
        let settled = |(axis, bits, (value, mask)): (Axis, u32, (u128, u128))| {
            if mask == 0 {
                true
            } else if self.has(axis) {
                after.has(axis) && is_prefix(mask, bits)
            } else {
                value == 0
            }
        };
        let asked = row.addresses.and_then(|a| addresses.get(a as usize));
        let src_settled = row.src_port == Ports::ANY
            || !self.has_ports()
            || (after.has(Axis::SrcPort) && row.src_port.bits.1 == 0);
        row.small.1 & !known == 0
            && (row.remote.1 == 0 || (after.has(Axis::Remote) && row.remote.1 == u16::MAX))
            && src_settled
            && row.dst_port.bits.1 == 0
            && asked.is_none_or(|a| a.each().into_iter().all(settled))
    }
}

fn is_prefix(mask: u128, bits: u32) -> bool {
    let shifted = mask << (128 - bits);
    shifted.leading_ones() == shifted.count_ones()
}

impl Addresses {
    /// What is looked at, its bits, and value and mask of them.
    fn each(&self) -> [(Axis, u32, (u128, u128)); 4] {
        let wide = |(value, mask): (u32, u32)| (u128::from(value), u128::from(mask));
        [
            (Axis::SrcV4, 32, wide(self.src4)),
            (Axis::DstV4, 32, wide(self.dst4)),
            (Axis::SrcV6, 128, self.src6),
            (Axis::DstV6, 128, self.dst6),
        ]
    }
}

/// What was looked at before: rows that are left hold by it.
#[derive(Clone, Copy, Default)]
struct After(u8);

impl After {
    fn has(self, axis: Axis) -> bool {
        self.0 & 1 << axis as u8 != 0
    }

    fn and(self, axis: Axis) -> After {
        After(self.0 | 1 << axis as u8)
    }
}

/// Compiles rows in falling precedence. Rows that ask for another class are not among them.
pub fn compile(table: Table, rows: &[&Row], remotes: Remotes, maps: &mut Bitmaps) -> Class {
    let mut addresses = Vec::new();
    let wanted: Vec<Wanted> = rows
        .iter()
        .map(|row| wanted(table, row, &mut addresses))
        .collect();
    let mut making = Making {
        rows: &wanted,
        addresses: &addresses,
        lists: Vec::new(),
        known: HashMap::new(),
        steps: Vec::new(),
        known_steps: HashMap::new(),
        short: HashMap::new(),
        looks: 0,
        maps,
    };
    let mut shapes = [0u16; SHAPES];
    for (number, place) in shapes.iter_mut().enumerate() {
        let shape = Shape::from_number(number);
        let met = (0..wanted.len()).filter(|i| wanted.get(*i).is_some_and(|row| shape.meets(row)));
        making.looks = 0;
        // A shape has some hundred steps at most.
        let first = making.step(&shape, met.collect(), After::default());
        *place = making.shorter(&shape, first, &remotes, table.direction()) as u16;
    }
    let lists = making.lists.into_boxed_slice();
    Class {
        shapes,
        steps: making.steps.into(),
        needs_remote: wanted.iter().any(|w| w.remote.1 != 0),
        rows: if lists.is_empty() {
            Box::default()
        } else {
            wanted.into()
        },
        addresses: addresses.into(),
        lists,
        remotes,
    }
}

fn wanted(table: Table, row: &Row, addresses: &mut Vec<Addresses>) -> Wanted {
    let masked = |key, bits: u32| match row.cond(table, key) {
        Some(Cond::Mask { value, mask }) => {
            let all = (1u128 << bits) - 1;
            ((value & all) as u64, (mask & all) as u64)
        }
        _ => (0, 0),
    };
    let mut bits = (0, 0);
    for (key, width, shift) in [
        (Key::EtherType, 16, 0),
        (Key::Protocol, 8, 16),
        (Key::TcpFlags, 12, 24),
        (Key::IcmpType, 8, 36),
        (Key::IcmpCode, 8, 44),
        (Key::Later, 1, 52),
        (Key::Unreadable, 1, 53),
    ] {
        let (value, mask) = masked(key, width);
        bits = (bits.0 | value << shift, bits.1 | mask << shift);
    }
    let wide = |key| match row.cond(table, key) {
        Some(Cond::Mask { value, mask }) => (value, mask),
        _ => (0, 0),
    };
    let narrow = |key| {
        let (value, mask) = masked(key, 32);
        (value as u32, mask as u32)
    };
    let asked = Addresses {
        src4: narrow(Key::SrcIpv4),
        dst4: narrow(Key::DstIpv4),
        src6: wide(Key::SrcIpv6),
        dst6: wide(Key::DstIpv6),
    };
    let place = (asked != Addresses::default()).then(|| {
        addresses.push(asked);
        (addresses.len() - 1) as u32
    });
    let remote = masked(Key::RemoteId, 16);
    let verdict = match row.action.verdict() {
        Verdict::Allow => ALLOW,
        Verdict::Deny => 0,
    };
    Wanted {
        small: bits,
        remote: (remote.0 as u16, remote.1 as u16),
        src_port: Ports::from_cond(row.cond(table, Key::SrcPort)),
        dst_port: Ports::from_cond(row.cond(table, Key::DstPort)),
        addresses: place,
        leaf: verdict | row.slot.min(NO_SLOT),
    }
}

struct Making<'a> {
    rows: &'a [Wanted],
    addresses: &'a [Addresses],
    lists: Vec<u32>,
    known: HashMap<Vec<u32>, u32>,
    steps: Vec<Step>,
    known_steps: HashMap<(Axis, Vec<(u128, u32)>), usize>,
    /// Short cuts to steps that several shapes begin with.
    short: HashMap<(usize, bool), usize>,
    /// Steps of the shape at hand.
    looks: usize,
    maps: &'a mut Bitmaps,
}

impl Making<'_> {
    /// The place of the step for rows of a shape that are left after others.
    fn step(&mut self, shape: &Shape, met: Vec<usize>, after: After) -> usize {
        self.looks += 1;
        for axis in Axis::BEFORE {
            if shape.has(axis)
                && !after.has(axis)
                && let Some(pieces) = self.branches(shape, &met, axis, after)
            {
                return self.placed(axis, pieces);
            }
        }
        let pieces = self.pieces(shape, &met, after);
        self.placed(Axis::DstPort, pieces)
    }

    fn placed(&mut self, axis: Axis, pieces: Vec<(u128, u32)>) -> usize {
        let (steps, maps) = (&mut self.steps, &mut *self.maps);
        let known = self.known_steps.entry((axis, pieces));
        *known.or_insert_with_key(|(axis, pieces)| {
            steps.push(Step::new(*axis, pieces, maps));
            steps.len() - 1
        })
    }

    /// The step to begin with in place of another: a short cut, where there is one.
    fn shorter(&mut self, shape: &Shape, first: usize, remotes: &Remotes, direction: Direction) -> usize {
        // What others than IPv4 packets have for addresses says nothing.
        let is_ipv4 = shape.family == 0;
        if let Some(known) = self.short.get(&(first, is_ipv4)) {
            return *known;
        }
        let (mut way, mut at) = (Way::default(), first);
        let known = &self.known_steps;
        let made = |at: usize| {
            known
                .iter()
                .find(|(_, place)| **place == at)
                .map(|(made, _)| made)
        };
        while let Some((axis, pieces)) = made(at)
            && let Some(next) = way.go_on(*axis, pieces, is_ipv4.then_some(remotes), direction)
        {
            at = (next & !NEXT) as usize;
        }
        let other = NEXT | first as u32;
        let mut place = first;
        if at != first {
            let step = match (way.one_interval(), made(at)) {
                (Some((first, count)), Some((Axis::DstPort, pieces))) => {
                    let leaf = other;
                    Step::but(SkipRange { first, count, leaf }, pieces, self.maps)
                }
                _ => Step::ShortCircuit(Box::new(way.look(NEXT | at as u32, other))),
            };
            self.steps.push(step);
            place = self.steps.len() - 1;
        }
        self.short.insert((first, is_ipv4), place);
        place
    }

    /// What a row asks of what is looked at, when it is everything between two values.
    fn asks(&self, row: &Wanted, axis: Axis) -> Option<(u128, u128)> {
        match axis {
            Axis::DstPort => None,
            Axis::SrcPort => (row.src_port != Ports::ANY && row.src_port.bits.1 == 0)
                .then_some((row.src_port.low.into(), row.src_port.high.into())),
            Axis::Remote => (row.remote.1 == u16::MAX).then_some((row.remote.0.into(), row.remote.0.into())),
            address => {
                let all = self.addresses.get(row.addresses? as usize)?.each();
                let (_, bits, (value, mask)) = all.into_iter().find(|(axis, ..)| *axis == address)?;
                let rest = u128::MAX >> (128 - bits) & !mask;
                (mask != 0 && is_prefix(mask, bits)).then_some((value, value | rest))
            }
        }
    }

    /// Pieces of a step whose leaves name those for the rows that hold there; none when no row asks, or too many
    /// different ones would be behind it.
    fn branches(
        &mut self,
        shape: &Shape,
        met: &[usize],
        axis: Axis,
        after: After,
    ) -> Option<Vec<(u128, u32)>> {
        let row = |i: &usize| self.rows.get(*i).and_then(|row| self.asks(row, axis));
        let asked: Vec<(usize, Option<(u128, u128)>)> = met.iter().map(|i| (*i, row(i))).collect();
        let starts = starts(axis, asked.iter().filter_map(|(_, range)| *range));
        if starts.len() < 2 || self.looks > STEPS {
            return None;
        }
        let mut sets: Vec<Vec<usize>> = Vec::new();
        let mut places: Vec<(u128, usize)> = Vec::new();
        for start in starts {
            let holds =
                |range: Option<(u128, u128)>| range.is_none_or(|(low, high)| low <= start && start <= high);
            let left: Vec<usize> = asked.iter().filter(|(_, r)| holds(*r)).map(|(i, _)| *i).collect();
            let known = sets.iter().position(|set| *set == left);
            places.push((start, known.unwrap_or(sets.len())));
            if known.is_none() {
                sets.push(left);
            }
            if sets.len() > BRANCHES {
                return None;
            }
        }
        let next: Vec<u32> = sets
            .into_iter()
            .map(|left| NEXT | self.step(shape, left, after.and(axis)) as u32)
            .collect();
        let mut pieces: Vec<(u128, u32)> = places
            .into_iter()
            .filter_map(|(start, set)| Some((start, *next.get(set)?)))
            .collect();
        pieces.dedup_by_key(|(_, leaf)| *leaf);
        Some(pieces)
    }

    fn pieces(&mut self, shape: &Shape, met: &[usize], after: After) -> Vec<(u128, u32)> {
        let bounds = |i: &usize| {
            self.rows.get(*i).map_or((0, 0), |w| {
                (u128::from(w.dst_port.low), u128::from(w.dst_port.high))
            })
        };
        let decides = |i: &usize| {
            self.rows
                .get(*i)
                .is_some_and(|w| shape.is_decided_by(w, self.addresses, after))
        };
        let (plain, open): (Vec<usize>, Vec<usize>) = met.iter().partition(|i| decides(i));
        let ranges: Vec<(u128, u128)> = plain.iter().map(bounds).collect();
        let painted = paint(&ranges, u128::from(u16::MAX));
        // Every place where a row begins or ends that needs a look at more than the port.
        let mut starts: Vec<u128> = painted.iter().map(|(start, _)| *start).collect();
        let edges = open.iter().map(bounds).flat_map(|(low, high)| [low, high + 1]);
        starts.extend(edges.filter(|e| *e <= u128::from(u16::MAX)));
        starts.sort_unstable();
        starts.dedup();
        let decider = |start: u128| {
            let at = painted.partition_point(|(s, _)| *s <= start);
            let owner = painted.get(at.wrapping_sub(1)).and_then(|(_, owner)| *owner);
            owner.and_then(|o| plain.get(o)).copied()
        };
        let before = |start: u128, decider: Option<usize>| -> Vec<u32> {
            let upto = decider.unwrap_or(usize::MAX);
            let covers = |i: &&usize| {
                let (low, high) = bounds(i);
                low <= start && start <= high
            };
            let above = open.iter().take_while(|i| **i < upto);
            above.filter(covers).map(|i| *i as u32).collect()
        };
        let pieces: Vec<(u128, Option<usize>, Vec<u32>)> = starts
            .iter()
            .map(|start| {
                let decider = decider(*start);
                (*start, decider, before(*start, decider))
            })
            .collect();
        let entries: usize = pieces.iter().map(|(_, _, list)| list.len()).sum();
        if entries > MOST {
            let all = met.iter().map(|i| *i as u32).collect();
            return vec![(0, self.leaf(None, all))];
        }
        let mut leaves: Vec<(u128, u32)> = Vec::new();
        for (start, decider, list) in pieces {
            let leaf = self.leaf(decider, list);
            if leaves.last().is_none_or(|(_, last)| *last != leaf) {
                leaves.push((start, leaf));
            }
        }
        leaves
    }

    fn leaf(&mut self, decider: Option<usize>, mut list: Vec<u32>) -> u32 {
        let direct = decider.and_then(|d| self.rows.get(d)).map_or(NO_SLOT, |w| w.leaf);
        if list.is_empty() {
            return direct;
        }
        list.push(decider.map_or(END, |d| d as u32));
        let lists = &mut self.lists;
        *self.known.entry(list).or_insert_with_key(|list| {
            let at = lists.len() as u32;
            lists.extend(list);
            // A decider ends its list as well: it holds whatever the packet.
            if list.last() != Some(&END) {
                lists.push(END);
            }
            LIST | at
        })
    }
}

/// Where something begins or ends: 0, and the edges of ranges.
fn starts(axis: Axis, ranges: impl Iterator<Item = (u128, u128)>) -> Vec<u128> {
    let last = match axis {
        Axis::SrcV6 | Axis::DstV6 => u128::MAX,
        Axis::SrcV4 | Axis::DstV4 => u128::from(u32::MAX),
        Axis::DstPort | Axis::SrcPort | Axis::Remote => u128::from(u16::MAX),
    };
    let mut starts = vec![0];
    for (low, high) in ranges {
        starts.push(low);
        starts.extend((high < last).then(|| high + 1));
    }
    starts.sort_unstable();
    starts.dedup();
    starts
}

//! Short circuit: skips the lookups in front of the destination port when they cannot change the verdict.
//!
//! Rows that ask for source ports or for prefixes are about few of them in most classes. One look at all of those at once
//! tells that a packet is none that they are about: two vector compares, and what is usual goes on behind the looks that
//! would have said so one after the other. Everything else goes the long way, which knows all.

use portcullis_policy::Direction;

use super::step::{Axis, Packet};
use crate::remote::Remotes;

/// Intervals that are compared at once.
const PORTS: usize = 16;
const ADDRESSES: usize = 8;

/// What is unusual, each interval by its first value and how many there are; of 0 values when there are fewer.
#[derive(Debug, Default)]
pub struct ShortCircuit {
    ports: ([u16; PORTS], [u16; PORTS]),
    addresses: ([u32; ADDRESSES], [u32; ADDRESSES]),
    /// Whether addresses are those of the destination.
    is_destination: bool,
    /// What comes next for what is usual, and for all else.
    usual: u32,
    other: u32,
}

/// Not 0 when a value is in one of some intervals. As wide as values, so that vector code has no need to narrow it.
macro_rules! is_in {
    ($value:expr, $intervals:expr, $width:ty) => {{
        let (firsts, counts) = &$intervals;
        let mut found: $width = 0;
        for (first, count) in firsts.iter().zip(counts) {
            found |= <$width>::from($value.wrapping_sub(*first) < *count);
        }
        found
    }};
}

impl ShortCircuit {
    #[inline(always)]
    pub fn leaf(&self, packet: &impl Packet) -> u32 {
        let [source, _] = packet.ports();
        let [from, to] = packet.ipv4();
        let address = if self.is_destination { to } else { from };
        // A branch: what comes next does not wait for this.
        if is_in!(source, self.ports, u16) == 0 && is_in!(address, self.addresses, u32) == 0 {
            self.usual
        } else {
            self.other
        }
    }
}

/// Pieces of an axis: where each begins, and what it has.
pub type Pieces = [(u128, u32)];

/// What is found out on the way along the looks of a shape.
#[derive(Debug, Default)]
pub struct Way {
    ports: Vec<(u16, u16)>,
    addresses: Vec<(u32, u32)>,
    of: Option<Axis>,
}

impl Way {
    /// What comes after a look for what is usual, when all that is unusual there can be compared with the rest. `remotes`
    /// are those of IPv4 packets.
    pub fn go_on(
        &mut self,
        axis: Axis,
        pieces: &Pieces,
        remotes: Option<&Remotes>,
        direction: Direction,
    ) -> Option<u32> {
        match axis {
            Axis::SrcPort => {
                let (usual, others) = split(pieces, u16::MAX.into())?;
                let fits = self.ports.len() + others.len() <= PORTS;
                let all = others
                    .into_iter()
                    .map(|(first, count)| (first as u16, count as u16));
                fits.then(|| self.ports.extend(all))?;
                Some(usual)
            }
            Axis::SrcV4 | Axis::DstV4 => self.addresses(axis, pieces),
            Axis::Remote => {
                let leaf = |id: u16| {
                    let at = pieces.partition_point(|(start, _)| *start <= id.into());
                    pieces.get(at.wrapping_sub(1)).map(|(_, leaf)| *leaf)
                };
                let mut placed: Vec<(u128, u32)> = Vec::new();
                for (start, id) in remotes?.pieces_ipv4()? {
                    placed.push((start.into(), leaf(id)?));
                }
                placed.dedup_by_key(|(_, leaf)| *leaf);
                let axis = match direction {
                    Direction::Egress => Axis::DstV4,
                    Direction::Ingress => Axis::SrcV4,
                };
                self.addresses(axis, &placed)
            }
            Axis::DstPort | Axis::SrcV6 | Axis::DstV6 => None,
        }
    }

    fn addresses(&mut self, axis: Axis, pieces: &Pieces) -> Option<u32> {
        let (usual, others) = split(pieces, u32::MAX.into())?;
        if self.of.is_some_and(|of| of != axis) || self.addresses.len() + others.len() > ADDRESSES {
            return None;
        }
        self.of = Some(axis);
        let all = others
            .into_iter()
            .map(|(first, count)| (first as u32, count as u32));
        self.addresses.extend(all);
        Some(usual)
    }

    /// Whether only source ports are looked at, all in one interval.
    pub fn one_interval(&self) -> Option<(u16, u16)> {
        match self.ports.as_slice() {
            [one] if self.of.is_none() => Some(*one),
            _ => None,
        }
    }

    /// The look that stands for all of them.
    pub fn look(&self, usual: u32, other: u32) -> ShortCircuit {
        let mut look = ShortCircuit {
            is_destination: self.of == Some(Axis::DstV4),
            usual,
            other,
            ..ShortCircuit::default()
        };
        fill(&mut look.ports, &self.ports);
        fill(&mut look.addresses, &self.addresses);
        look
    }
}

fn fill<T: Copy, const N: usize>((firsts, counts): &mut ([T; N], [T; N]), from: &[(T, T)]) {
    for ((first, count), (a, b)) in firsts.iter_mut().zip(counts).zip(from) {
        (*first, *count) = (*a, *b);
    }
}

/// The leaf of most values, and the intervals of all others.
fn split(pieces: &Pieces, last: u128) -> Option<(u32, Vec<(u128, u128)>)> {
    let ends = pieces.iter().skip(1).map(|(start, _)| *start).chain([last + 1]);
    let ranges: Vec<(u128, u128, u32)> = pieces
        .iter()
        .zip(ends)
        .map(|((start, leaf), end)| (*start, end - start, *leaf))
        .collect();
    let of = |leaf: u32| {
        ranges
            .iter()
            .filter(move |(.., l)| *l == leaf)
            .map(|(_, count, _)| *count)
            .sum::<u128>()
    };
    let usual = ranges
        .iter()
        .map(|(.., leaf)| *leaf)
        .max_by_key(|leaf| (of(*leaf), *leaf))?;
    let mut others: Vec<(u128, u128)> = Vec::new();
    for (start, count, _) in ranges.iter().filter(|(.., leaf)| *leaf != usual) {
        match others.last_mut() {
            Some((first, before)) if *first + *before == *start => *before += count,
            _ => others.push((*start, *count)),
        }
    }
    Some((usual, others))
}

//! One lookup step: a port, the id of a prefix, or an address.

use portcullis_policy::Direction;

use crate::frame::Fields;
use crate::header_subset::HeaderSubset;
use crate::port_map::{Bitmaps, PortMap};
use crate::remote::Remotes;
use crate::space::Space;

use super::short_circuit::ShortCircuit;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Axis {
    DstPort,
    SrcPort,
    /// The id of the other side's prefix.
    Remote,
    SrcV4,
    DstV4,
    SrcV6,
    DstV6,
}

impl Axis {
    /// Those that are looked at before the destination port, when rows ask for them, in this order.
    pub const BEFORE: [Axis; 6] = [
        Axis::SrcPort,
        Axis::Remote,
        Axis::DstV4,
        Axis::SrcV4,
        Axis::DstV6,
        Axis::SrcV6,
    ];
}

/// A look. What it finds is a leaf: a verdict, a list, or the next look.
///
/// Those that most packets meet are told apart in [`super::Class`], by branches that are known beforehand: a jump to one of
/// many kinds is not, and costs more than the look.
#[derive(Debug)]
pub enum Step {
    /// At the destination port, but for a few source ports.
    Destination(SkipRange, PortMap),
    /// At the source port.
    Source(PortMap),
    /// At the id of the other side's prefix.
    Remote(PortMap),
    Address(Box<AddressLookup>),
    /// At whether everything is as usual.
    ShortCircuit(Box<ShortCircuit>),
}

/// Source ports with which the next look is another one: from the first, so many. None of them by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SkipRange {
    pub first: u16,
    pub count: u16,
    pub leaf: u32,
}

/// A look at an address.
#[derive(Debug)]
pub enum AddressLookup {
    SrcV4(Space<u32, u32>),
    DstV4(Space<u32, u32>),
    SrcV6(Space<u128, u32>),
    DstV6(Space<u128, u32>),
}

/// What can be looked at.
pub trait Packet {
    /// Source and destination port.
    fn ports(&self) -> [u16; 2];
    fn ipv4(&self) -> [u32; 2];
    fn ipv6(&self) -> [u128; 2];
    /// The id of the other side's prefix.
    fn remote(&self, remotes: &Remotes, direction: Direction) -> u16;
}

impl Packet for Fields {
    #[inline(always)]
    fn ports(&self) -> [u16; 2] {
        [self.src_port, self.dst_port]
    }

    #[inline(always)]
    fn ipv4(&self) -> [u32; 2] {
        [self.src_ipv4, self.dst_ipv4]
    }

    #[inline(always)]
    fn ipv6(&self) -> [u128; 2] {
        [self.src_ipv6, self.dst_ipv6]
    }

    #[inline(always)]
    fn remote(&self, remotes: &Remotes, direction: Direction) -> u16 {
        remotes.find(self, direction)
    }
}

impl Packet for HeaderSubset {
    #[inline(always)]
    fn ports(&self) -> [u16; 2] {
        [self.src_port, self.dst_port]
    }

    #[inline(always)]
    fn ipv4(&self) -> [u32; 2] {
        [self.src_ipv4, self.dst_ipv4]
    }

    #[inline(always)]
    fn ipv6(&self) -> [u128; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn remote(&self, remotes: &Remotes, direction: Direction) -> u16 {
        remotes.find_ipv4(self.src_ipv4, self.dst_ipv4, direction)
    }
}

impl SkipRange {
    /// The leaf of a packet with one of these source ports, or what a line says.
    #[inline(always)]
    pub fn or_line(&self, line: &PortMap, packet: &impl Packet) -> u32 {
        let [source, destination] = packet.ports();
        if source.wrapping_sub(self.first) < self.count {
            self.leaf
        } else {
            line.leaf(destination)
        }
    }
}

impl Step {
    /// Of pieces: where each begins (the first at 0, rising), and its leaf.
    pub fn new(axis: Axis, pieces: &[(u128, u32)], maps: &mut Bitmaps) -> Step {
        let mut line = || {
            let narrow: Vec<(u16, u32)> = pieces
                .iter()
                .map(|(start, leaf)| (*start as u16, *leaf))
                .collect();
            PortMap::new(&narrow, maps)
        };
        let v4 = || Space::from_pieces(pieces.iter().map(|(start, leaf)| (*start as u32, *leaf)));
        let v6 = || Space::from_pieces(pieces.iter().copied());
        let address = |place| Step::Address(Box::new(place));
        match axis {
            Axis::DstPort => Step::Destination(SkipRange::default(), line()),
            Axis::SrcPort => Step::Source(line()),
            Axis::Remote => Step::Remote(line()),
            Axis::SrcV4 => address(AddressLookup::SrcV4(v4())),
            Axis::DstV4 => address(AddressLookup::DstV4(v4())),
            Axis::SrcV6 => address(AddressLookup::SrcV6(v6())),
            Axis::DstV6 => address(AddressLookup::DstV6(v6())),
        }
    }

    /// A look at the destination port, but for some source ports.
    pub fn but(except: SkipRange, pieces: &[(u128, u32)], maps: &mut Bitmaps) -> Step {
        match Step::new(Axis::DstPort, pieces, maps) {
            Step::Destination(_, line) => Step::Destination(except, line),
            other => other,
        }
    }

    /// The leaf of a packet; one that leads nowhere when there is none.
    #[inline(always)]
    pub fn leaf(&self, packet: &impl Packet, remotes: &Remotes, direction: Direction) -> u32 {
        match self {
            Step::Destination(except, line) => except.or_line(line, packet),
            Step::ShortCircuit(usual) => usual.leaf(packet),
            Step::Source(line) => line.leaf(packet.ports()[0]),
            Step::Remote(line) => line.leaf(packet.remote(remotes, direction)),
            Step::Address(place) => place.leaf(packet),
        }
    }

    /// Bytes that it takes, without a shared bitmap.
    pub fn bytes(&self) -> usize {
        size_of::<Step>()
            + match self {
                // A line is in its step.
                Step::Destination(_, line) | Step::Source(line) | Step::Remote(line) => {
                    line.bytes() - size_of::<PortMap>()
                }
                Step::ShortCircuit(usual) => size_of_val(&**usual),
                Step::Address(place) => size_of::<AddressLookup>() + place.bytes(),
            }
    }
}

impl AddressLookup {
    #[inline(never)]
    fn leaf(&self, packet: &impl Packet) -> u32 {
        let found = match self {
            AddressLookup::SrcV4(space) => space.find(packet.ipv4()[0]),
            AddressLookup::DstV4(space) => space.find(packet.ipv4()[1]),
            AddressLookup::SrcV6(space) => space.find(packet.ipv6()[0]),
            AddressLookup::DstV6(space) => space.find(packet.ipv6()[1]),
        };
        found.unwrap_or(u32::MAX)
    }

    fn bytes(&self) -> usize {
        match self {
            AddressLookup::SrcV4(space) | AddressLookup::DstV4(space) => space.bytes(),
            AddressLookup::SrcV6(space) | AddressLookup::DstV6(space) => space.bytes(),
        }
    }
}

//! One look at a packet: at a port, at the id of a prefix, or at an address.

use crate::brief::Brief;
use crate::frame::Fields;
use crate::line::{Bitmaps, Line};
use crate::remote::Remotes;
use crate::space::Space;

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
#[derive(Debug)]
pub enum Step {
    DstPort(Line),
    SrcPort(Line),
    Remote(Line),
    SrcV4(Space<u32, u32>),
    DstV4(Space<u32, u32>),
    SrcV6(Space<u128, u32>),
    DstV6(Space<u128, u32>),
}

/// What can be looked at.
pub trait Packet {
    /// Source and destination port.
    fn ports(&self) -> [u16; 2];
    /// Source and destination.
    fn ipv4(&self) -> [u32; 2];
    /// Source and destination.
    fn ipv6(&self) -> [u128; 2];
    /// The id of the other side's prefix.
    fn remote(&self, remotes: &Remotes, egress: bool) -> u16;
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
    fn remote(&self, remotes: &Remotes, egress: bool) -> u16 {
        remotes.find(self, egress)
    }
}

impl Packet for Brief {
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
    fn remote(&self, remotes: &Remotes, egress: bool) -> u16 {
        remotes.find_ipv4(self.src_ipv4, self.dst_ipv4, egress)
    }
}

impl Step {
    /// Of pieces: where each begins (the first at 0, rising), and its leaf.
    pub fn of(axis: Axis, pieces: &[(u128, u32)], maps: &mut Bitmaps) -> Step {
        let mut line = || {
            let narrow: Vec<(u16, u32)> = pieces
                .iter()
                .map(|(start, leaf)| (*start as u16, *leaf))
                .collect();
            Line::of(&narrow, maps)
        };
        let v4 = || Space::of(pieces.iter().map(|(start, leaf)| (*start as u32, *leaf)));
        let v6 = || Space::of(pieces.iter().copied());
        match axis {
            Axis::DstPort => Step::DstPort(line()),
            Axis::SrcPort => Step::SrcPort(line()),
            Axis::Remote => Step::Remote(line()),
            Axis::SrcV4 => Step::SrcV4(v4()),
            Axis::DstV4 => Step::DstV4(v4()),
            Axis::SrcV6 => Step::SrcV6(v6()),
            Axis::DstV6 => Step::DstV6(v6()),
        }
    }

    /// The leaf of a packet; one that leads nowhere when there is none.
    #[inline(always)]
    pub fn leaf(&self, packet: &impl Packet, remotes: &Remotes, egress: bool) -> u32 {
        let found = match self {
            Step::DstPort(line) => return line.leaf(packet.ports()[1]),
            Step::SrcPort(line) => return line.leaf(packet.ports()[0]),
            Step::Remote(line) => return line.leaf(packet.remote(remotes, egress)),
            Step::SrcV4(space) => space.find(packet.ipv4()[0]),
            Step::DstV4(space) => space.find(packet.ipv4()[1]),
            Step::SrcV6(space) => space.find(packet.ipv6()[0]),
            Step::DstV6(space) => space.find(packet.ipv6()[1]),
        };
        found.unwrap_or(u32::MAX)
    }

    /// Bytes that it takes, without a shared bitmap.
    pub fn bytes(&self) -> usize {
        size_of::<Step>()
            + match self {
                Step::DstPort(line) | Step::SrcPort(line) | Step::Remote(line) => line.bytes(),
                Step::SrcV4(space) | Step::DstV4(space) => space.bytes(),
                Step::SrcV6(space) | Step::DstV6(space) => space.bytes(),
            }
    }
}

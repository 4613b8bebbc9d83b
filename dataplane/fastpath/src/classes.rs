//! A compiled class of one direction: the verdict for each packet of its endpoints.
//!
//! Packets have 54 *shapes*: IPv4, IPv6 or neither; readable, later fragment or unreadable; protocol. A shape has a
//! line over destination ports. Where one row decides a whole piece, the leaf says verdict and counter; else it names
//! a list of rows, in falling precedence, of which the first that holds decides. Where rows ask for source ports or
//! prefixes, a look at those comes first ([`Step`]), and its leaves name the next. What is usual takes a short cut past
//! those looks (`usual`).

mod making;
mod short_circuit;
mod step;

use portcullis_policy::{Direction, Verdict};

use crate::frame::Fields;
use crate::header_subset::HeaderSubset;
use crate::remote::Remotes;
use crate::row::{Cond, Decision, NO_SLOT};

pub use making::compile;
use step::{Packet, Step};

const FAMILIES: usize = 3;
const STATES: usize = 3;
const PROTOCOLS: [u8; 5] = [6, 17, 132, 1, 58];
const GROUPS: usize = PROTOCOLS.len() + 1;
const SHAPES: usize = FAMILIES * STATES * GROUPS;
/// A leaf is a list: its place is in the lower bits. Else bit 30 is the verdict, and the lower bits are the counter.
const LIST: u32 = 1 << 31;
const ALLOW: u32 = 1 << 30;
/// Both bits: the lower ones are the place of the next step.
const NEXT: u32 = LIST | ALLOW;
/// The end of a list: no row holds, and the table's default action denies.
const END: u32 = u32::MAX;

impl Decision {
    #[inline(always)]
    fn from_leaf(leaf: u32) -> Decision {
        Decision {
            verdict: if leaf & ALLOW != 0 {
                Verdict::Allow
            } else {
                Verdict::Deny
            },
            slot: leaf & NO_SLOT,
        }
    }
}

/// What the lines say of a packet: a verdict and its counter, or that there is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf(u32);

impl Leaf {
    /// Denied without a row that could count it.
    pub const DENIED: Leaf = Leaf(NO_SLOT);

    #[inline(always)]
    pub fn is_list(self) -> bool {
        self.0 & LIST != 0
    }

    /// Whether it is a verdict, and that one.
    #[inline(always)]
    pub fn is_allowed(self) -> bool {
        self.0 & (LIST | ALLOW) == ALLOW
    }

    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0 & NO_SLOT
    }

    /// What it says where it is no list.
    #[inline(always)]
    pub fn decision(self) -> Decision {
        Decision::from_leaf(self.0)
    }

    /// One that is allowed when both are. For no more: its counter is neither's.
    #[inline(always)]
    pub fn and(self, other: Leaf) -> Leaf {
        Leaf((self.0 | other.0) & LIST | self.0 & other.0 & ALLOW)
    }
}

/// A row of a policy table, ready to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    /// EtherType, protocol, flags, ICMP type and code, `later`, `unreadable`: value and mask.
    small: (u64, u64),
    remote: (u16, u16),
    src_port: Ports,
    dst_port: Ports,
    addresses: Option<u32>,
    leaf: u32,
}

/// A condition on a port: bounds, and bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    low: u16,
    high: u16,
    bits: (u16, u16),
}

impl Ports {
    const ANY: Ports = Ports {
        low: 0,
        high: u16::MAX,
        bits: (0, 0),
    };

    fn from_cond(cond: Option<Cond>) -> Ports {
        match cond {
            None => Ports::ANY,
            Some(Cond::Range { low, high }) => Ports {
                low: low as u16,
                high: high as u16,
                bits: (0, 0),
            },
            Some(Cond::Mask { value, mask }) => {
                let (value, mask) = (value as u16, mask as u16);
                if mask.leading_ones() == mask.count_ones() {
                    Ports {
                        low: value,
                        high: value | !mask,
                        bits: (0, 0),
                    }
                } else {
                    Ports {
                        bits: (value, mask),
                        ..Ports::ANY
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn holds(&self, port: u16) -> bool {
        self.low <= port && port <= self.high && port & self.bits.1 == self.bits.0
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Addresses {
    src4: (u32, u32),
    dst4: (u32, u32),
    src6: (u128, u128),
    dst6: (u128, u128),
}

impl Addresses {
    fn hold(&self, f: &Fields) -> bool {
        f.src_ipv4 & self.src4.1 == self.src4.0
            && f.dst_ipv4 & self.dst4.1 == self.dst4.0
            && f.src_ipv6 & self.src6.1 == self.src6.0
            && f.dst_ipv6 & self.dst6.1 == self.dst6.0
    }
}

#[derive(Debug)]
pub struct Class {
    /// The first look at each shape.
    shapes: [u16; SHAPES],
    steps: Box<[Step]>,
    rows: Box<[Wanted]>,
    addresses: Box<[Addresses]>,
    lists: Box<[u32]>,
    remotes: Remotes,
    needs_remote: bool,
}

#[inline(always)]
fn small(f: &Fields) -> u64 {
    u64::from(f.ether_type)
        | u64::from(f.protocol) << 16
        | u64::from(f.tcp_flags) << 24
        | u64::from(f.icmp_type) << 36
        | u64::from(f.icmp_code) << 44
        | u64::from(f.later) << 52
        | u64::from(f.unreadable) << 53
}

#[inline(always)]
fn shape(f: &Fields) -> usize {
    let family = match f.ether_type {
        0x0800 => 0,
        0x86dd => 1,
        _ => 2,
    };
    let state = match (f.unreadable, f.later) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    };
    let group = match f.protocol {
        6 => 0,
        17 => 1,
        132 => 2,
        1 => 3,
        58 => 4,
        _ => 5,
    };
    (family * STATES + state) * GROUPS + group
}

impl Class {
    /// What happens to a packet of this class.
    #[inline(always)]
    pub fn judge(&self, fields: &Fields, direction: Direction) -> Decision {
        let leaf = self.leaf(shape(fields), fields, direction);
        if leaf & LIST == 0 {
            Decision::from_leaf(leaf)
        } else {
            self.search(leaf & !LIST, fields, direction)
        }
    }

    /// What the lines say of a packet of which little was looked at.
    #[inline(always)]
    pub fn leaf_of(&self, headers: &HeaderSubset, direction: Direction) -> Leaf {
        Leaf(self.leaf(headers.shape(), headers, direction))
    }

    /// A verdict or a list. No closures here: they would be compiled for any CPU, and not for the one at hand.
    #[inline(always)]
    fn leaf(&self, shape: usize, packet: &impl Packet, direction: Direction) -> u32 {
        let Some(first) = self.shapes.get(shape) else {
            return NO_SLOT;
        };
        let mut at = usize::from(*first);
        // The way of most packets: no loop, and no jump to one of many.
        let mut step = self.steps.get(at);
        if let Some(Step::ShortCircuit(usual)) = step {
            at = (usual.leaf(packet) & !NEXT) as usize;
            step = self.steps.get(at);
        }
        if let Some(Step::Destination(except, line)) = step {
            let leaf = except.or_line(line, packet);
            if leaf < NEXT {
                return leaf;
            }
            at = (leaf & !NEXT) as usize;
        }
        // A step comes after those behind it, so that this ends.
        loop {
            let Some(step) = self.steps.get(at) else {
                return NO_SLOT;
            };
            let leaf = step.leaf(packet, &self.remotes, direction);
            if leaf < NEXT {
                return leaf;
            }
            at = (leaf & !NEXT) as usize;
        }
    }

    #[inline(never)]
    fn search(&self, at: u32, fields: &Fields, direction: Direction) -> Decision {
        let remote = if self.needs_remote {
            self.remotes.find(fields, direction)
        } else {
            0
        };
        let packed = small(fields);
        let list = self.lists.get(at as usize..).unwrap_or(&[]);
        for place in list.iter().take_while(|p| **p != END) {
            let Some(row) = self.rows.get(*place as usize) else {
                break;
            };
            let holds = packed & row.small.1 == row.small.0
                && remote & row.remote.1 == row.remote.0
                && row.dst_port.holds(fields.dst_port)
                && row.src_port.holds(fields.src_port)
                && row
                    .addresses
                    .and_then(|a| self.addresses.get(a as usize))
                    .is_none_or(|a| a.hold(fields));
            if holds {
                return Decision::from_leaf(row.leaf);
            }
        }
        Decision::UNMATCHED
    }

    /// Bytes that it takes, without bitmaps that it shares.
    pub fn bytes(&self) -> usize {
        size_of::<Class>()
            + self.steps.iter().map(Step::bytes).sum::<usize>()
            + self.rows.len() * size_of::<Wanted>()
            + self.addresses.len() * size_of::<Addresses>()
            + self.lists.len() * size_of::<u32>()
            + self.remotes.bytes()
    }
}

//! Source guard of one attachment point (port and VLAN): MACs, addresses, and those inside neighbour discovery.
//!
//! Guards of endpoints differ in little but the MACs and addresses that they name. So what rows ask for is a [`Shape`] that
//! points share, and a point of its own has the counters of its rows, and the values that the shape leaves open.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use portcullis_policy::Verdict;

use crate::frame::{Fields, Kind};
use crate::header_subset::HeaderSubset;
use crate::path::DropReason;
use crate::row::{Action, NO_SLOT, Row};
use crate::table::{Key, Table};

/// Where the value of a row is that points do not share: at a place among a point's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Value {
    Zero,
    Narrow(u32),
    /// Two words, the higher one first.
    Mac(u32),
    /// Four words, the highest first.
    Wide(u32),
}

/// What a row asks of a MAC or of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Own<T> {
    value: Value,
    mask: T,
}

/// Value and mask, the same for all points of a shape.
type Masked<T> = (T, T);

#[derive(Debug, PartialEq, Eq, Hash)]
struct MacRow {
    mac: Own<u64>,
    malformed: Masked<u8>,
    action: Action,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AddressRow {
    address: Own<u128>,
    mac: Own<u64>,
    kind: Masked<u8>,
    protocol: Masked<u8>,
    src_port: Masked<u16>,
    dst_port: Masked<u16>,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NdRow {
    target: Own<u128>,
    mac: Own<u64>,
    nd_mac: Own<u64>,
    nd_type: Masked<u8>,
    hidden: Masked<u8>,
    unspecified: Masked<u8>,
    has_mac: Masked<u8>,
    verdict: Verdict,
}

/// The guard's rows without their values, each table in falling precedence.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    macs: Box<[MacRow]>,
    addresses: Box<[AddressRow]>,
    neighbours: Box<[NdRow]>,
}

/// Shapes in use, so that guards with the same rows have one.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashSet<Arc<Shape>>,
    swept: usize,
}

/// The guard of a point.
#[derive(Debug)]
pub struct Guard {
    shape: Arc<Shape>,
    /// Counters of all rows, then the values.
    words: Box<[u32]>,
}

/// What a guard needs to know of a frame.
pub trait Sender {
    fn src_mac(&self) -> u64;
    fn kind(&self) -> Kind;
    fn protocol(&self) -> u8;
    fn ports(&self) -> [u16; 2];
    /// Source address of the packet.
    fn address(&self) -> u128;
    /// Whether it is an ARP frame that is malformed or has another sender MAC than the frame.
    fn is_malformed(&self) -> bool;
    /// The parsed frame, if it is neighbour discovery.
    fn neighbour(&self) -> Option<&Fields>;
}

impl Sender for Fields {
    fn src_mac(&self) -> u64 {
        self.src_mac
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn ports(&self) -> [u16; 2] {
        [self.src_port, self.dst_port]
    }

    fn address(&self) -> u128 {
        match self.kind {
            Kind::Arp if self.arp_sender == 0 => u128::from(self.arp_target),
            Kind::Arp => u128::from(self.arp_sender),
            Kind::Ipv4 => u128::from(self.src_ipv4),
            Kind::Ipv6 => self.src_ipv6,
            _ => 0,
        }
    }

    fn is_malformed(&self) -> bool {
        // An ARP that names another sender than the frame does is none (RFC 826).
        self.arp_malformed || (self.kind == Kind::Arp && self.arp_sender_mac != self.src_mac)
    }

    fn neighbour(&self) -> Option<&Fields> {
        (self.nd_type != 0).then_some(self)
    }
}

impl Sender for HeaderSubset {
    #[inline(always)]
    fn src_mac(&self) -> u64 {
        self.src_mac
    }

    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind::Ipv4
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        if self.is_tcp { 6 } else { 17 }
    }

    #[inline(always)]
    fn ports(&self) -> [u16; 2] {
        [self.src_port, self.dst_port]
    }

    #[inline(always)]
    fn address(&self) -> u128 {
        u128::from(self.src_ipv4)
    }

    #[inline(always)]
    fn is_malformed(&self) -> bool {
        false
    }

    #[inline(always)]
    fn neighbour(&self) -> Option<&Fields> {
        None
    }
}

/// What a guard says: the counters of the rows that were hit, and why the frame goes no further, when it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    pub slots: [u32; 3],
    pub dropped: Option<DropReason>,
}

#[inline(always)]
fn is<T: Copy + PartialEq + std::ops::BitAnd<Output = T>>(given: T, (value, mask): Masked<T>) -> bool {
    given & mask == value
}

impl Guard {
    /// Compiles rows in falling precedence.
    pub fn compile(macs: &[&Row], addresses: &[&Row], neighbours: &[&Row], shapes: &mut Shapes) -> Guard {
        let all = macs.iter().chain(addresses).chain(neighbours);
        let slots: Vec<u32> = all.map(|row| row.slot).collect();
        let mut words = Words {
            first: slots.len(),
            all: slots,
        };
        let shape = Shape {
            macs: macs.iter().map(|r| mac_row(r, &mut words)).collect(),
            addresses: addresses.iter().map(|r| address_row(r, &mut words)).collect(),
            neighbours: neighbours.iter().map(|r| nd_row(r, &mut words)).collect(),
        };
        Guard {
            shape: shapes.of(shape),
            words: words.all.into(),
        }
    }

    #[inline(always)]
    fn word(&self, place: u32) -> u32 {
        self.words.get(place as usize).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn value(&self, value: Value) -> u128 {
        match value {
            Value::Zero => 0,
            Value::Narrow(at) => self.word(at).into(),
            Value::Mac(at) => (u64::from(self.word(at)) << 32 | u64::from(self.word(at + 1))).into(),
            Value::Wide(at) => (at..at + 4).fold(0, |v, at| v << 32 | u128::from(self.word(at))),
        }
    }

    #[inline(always)]
    fn is_mac(&self, given: u64, own: Own<u64>) -> bool {
        own.mask == 0 || u128::from(given & own.mask) == self.value(own.value)
    }

    #[inline(always)]
    fn is_address(&self, given: u128, own: Own<u128>) -> bool {
        own.mask == 0 || given & own.mask == self.value(own.value)
    }

    /// Checks a frame of a guarded sender.
    pub fn check(&self, f: &impl Sender) -> Checked {
        let Shape {
            macs,
            addresses,
            neighbours,
        } = &*self.shape;
        let mut checked = Checked {
            slots: [NO_SLOT; 3],
            dropped: Some(DropReason::GuardMac),
        };
        let slot = |at: usize| self.words.get(at).copied().unwrap_or(NO_SLOT);
        let (mac, malformed) = (f.src_mac(), u8::from(f.is_malformed()));
        let met = |r: &MacRow| self.is_mac(mac, r.mac) && is(malformed, r.malformed);
        let Some((at, row)) = macs.iter().enumerate().find(|(_, r)| met(r)) else {
            return checked;
        };
        checked.slots[0] = slot(at);
        match row.action {
            Action::Allow => checked.dropped = None,
            Action::CheckAddresses => {}
            _ => return checked,
        }
        if checked.dropped.is_none() {
            return checked;
        }
        checked.dropped = Some(DropReason::GuardAddress);
        let (address, kind, protocol, [src_port, dst_port]) =
            (f.address(), f.kind() as u8, f.protocol(), f.ports());
        let met = |r: &AddressRow| {
            is(kind, r.kind)
                && is(protocol, r.protocol)
                && is(src_port, r.src_port)
                && is(dst_port, r.dst_port)
                && self.is_mac(mac, r.mac)
                && self.is_address(address, r.address)
        };
        let Some((at, row)) = addresses.iter().enumerate().find(|(_, r)| met(r)) else {
            return checked;
        };
        checked.slots[1] = slot(macs.len() + at);
        if !row.verdict.passes() {
            return checked;
        }
        let Some(f) = f.neighbour() else {
            checked.dropped = None;
            return checked;
        };
        checked.dropped = Some(DropReason::GuardNeighbour);
        let unspecified = u8::from(f.kind == Kind::Ipv6 && f.src_ipv6 == 0);
        let met = |r: &NdRow| {
            is(f.nd_type, r.nd_type)
                && is(u8::from(f.nd_hidden), r.hidden)
                && is(unspecified, r.unspecified)
                && is(u8::from(f.nd_has_mac), r.has_mac)
                && self.is_mac(mac, r.mac)
                && self.is_mac(f.nd_mac, r.nd_mac)
                && self.is_address(f.nd_target, r.target)
        };
        let Some((at, row)) = neighbours.iter().enumerate().find(|(_, r)| met(r)) else {
            return checked;
        };
        checked.slots[2] = slot(macs.len() + addresses.len() + at);
        if row.verdict.passes() {
            checked.dropped = None;
        }
        checked
    }

    /// Bytes that it takes, without its shape.
    pub fn bytes(&self) -> usize {
        size_of::<Guard>() + self.words.len() * size_of::<u32>()
    }

    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }
}

impl Shape {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Shape>()
            + self.macs.len() * size_of::<MacRow>()
            + self.addresses.len() * size_of::<AddressRow>()
            + self.neighbours.len() * size_of::<NdRow>()
    }
}

impl Shapes {
    fn of(&mut self, shape: Shape) -> Arc<Shape> {
        if let Some(known) = self.known.get(&shape) {
            return Arc::clone(known);
        }
        let made = Arc::new(shape);
        self.known.insert(Arc::clone(&made));
        // What nobody has any more goes, now and then.
        if self.known.len() > 2 * self.swept + 16 {
            self.known.retain(|shape| Arc::strong_count(shape) > 1);
            self.swept = self.known.len();
        }
        made
    }
}

/// The words of a point, while they are put together.
struct Words {
    all: Vec<u32>,
    first: usize,
}

/// Values that are looked through for one that is there already.
const ALIKE: usize = 64;

impl Words {
    /// Where words are: put there, if they are not among the first values already.
    fn place(&mut self, words: &[u32]) -> u32 {
        let values = self.all.get(self.first..).unwrap_or(&[]);
        let mut windows = values.windows(words.len()).take(ALIKE);
        let at = match windows.position(|w| w == words) {
            Some(at) => self.first + at,
            None => {
                self.all.extend(words);
                self.all.len() - words.len()
            }
        };
        at as u32
    }

    fn mac(&mut self, table: Table, row: &Row, key: Key) -> Own<u64> {
        let (value, mask) = row.masked(table, key, 48).unwrap_or((0, 0));
        let value = match value {
            0 => Value::Zero,
            value => Value::Mac(self.place(&[(value >> 32) as u32, value as u32])),
        };
        let mask = mask as u64;
        Own { value, mask }
    }

    fn address(&mut self, table: Table, row: &Row, key: Key) -> Own<u128> {
        let (value, mask) = row.masked(table, key, 128).unwrap_or((0, 0));
        let value = match value {
            0 => Value::Zero,
            value if value >> 32 == 0 => Value::Narrow(self.place(&[value as u32])),
            value => Value::Wide(self.place(&[96, 64, 32, 0].map(|shift| (value >> shift) as u32))),
        };
        Own { value, mask }
    }
}

fn masked<T: TryFrom<u128> + Default>(table: Table, row: &Row, key: Key, bits: u32) -> Masked<T> {
    let (value, mask) = row.masked(table, key, bits).unwrap_or((0, 0));
    (
        T::try_from(value).unwrap_or_default(),
        T::try_from(mask).unwrap_or_default(),
    )
}

fn mac_row(row: &Row, words: &mut Words) -> MacRow {
    let table = Table::Guard;
    MacRow {
        mac: words.mac(table, row, Key::SrcMac),
        malformed: masked(table, row, Key::ArpMalformed, 1),
        action: row.action,
    }
}

fn address_row(row: &Row, words: &mut Words) -> AddressRow {
    let table = Table::GuardAddress;
    AddressRow {
        address: words.address(table, row, Key::GuardAddress),
        mac: words.mac(table, row, Key::SrcMac),
        kind: masked(table, row, Key::Kind, 3),
        protocol: masked(table, row, Key::Protocol, 8),
        src_port: masked(table, row, Key::SrcPort, 16),
        dst_port: masked(table, row, Key::DstPort, 16),
        verdict: row.action.verdict(),
    }
}

fn nd_row(row: &Row, words: &mut Words) -> NdRow {
    let table = Table::GuardNd;
    NdRow {
        target: words.address(table, row, Key::NdTarget),
        mac: words.mac(table, row, Key::SrcMac),
        nd_mac: words.mac(table, row, Key::NdMac),
        nd_type: masked(table, row, Key::NdType, 8),
        hidden: masked(table, row, Key::NdHidden, 1),
        unspecified: masked(table, row, Key::SrcUnspecified, 1),
        has_mac: masked(table, row, Key::NdHasMac, 1),
        verdict: row.action.verdict(),
    }
}

//! The guard of one plug (port and VLAN): MACs, addresses, and what is said in neighbour discovery.

use crate::frame::{Fields, Kind};
use crate::path::{Drop, Tally};
use crate::row::{Action, Row};
use crate::table::{Key, Table};

/// Value and mask.
type Masked<T> = (T, T);

#[derive(Debug)]
struct MacRow {
    mac: Masked<u64>,
    malformed: Masked<u8>,
    action: Action,
    slot: u32,
}

#[derive(Debug)]
struct AddressRow {
    address: Masked<u128>,
    mac: Masked<u64>,
    kind: Masked<u8>,
    protocol: Masked<u8>,
    src_port: Masked<u16>,
    dst_port: Masked<u16>,
    allow: bool,
    slot: u32,
}

#[derive(Debug)]
struct NdRow {
    target: Masked<u128>,
    mac: Masked<u64>,
    nd_mac: Masked<u64>,
    nd_type: Masked<u8>,
    hidden: Masked<u8>,
    unspecified: Masked<u8>,
    has_mac: Masked<u8>,
    allow: bool,
    slot: u32,
}

/// The rows of one plug, each table in falling precedence.
#[derive(Debug, Default)]
pub struct Guard {
    macs: Box<[MacRow]>,
    addresses: Box<[AddressRow]>,
    neighbours: Box<[NdRow]>,
}

fn masked<T: TryFrom<u128> + Default>(table: Table, row: &Row, key: Key, bits: u32) -> Masked<T> {
    let (value, mask) = row.masked(table, key, bits).unwrap_or((0, 0));
    (
        T::try_from(value).unwrap_or_default(),
        T::try_from(mask).unwrap_or_default(),
    )
}

#[inline(always)]
fn is<T: Copy + PartialEq + std::ops::BitAnd<Output = T>>(given: T, wanted: Masked<T>) -> bool {
    given & wanted.1 == wanted.0
}

impl Guard {
    /// Compiles rows in falling precedence.
    pub fn compile(macs: &[&Row], addresses: &[&Row], neighbours: &[&Row]) -> Guard {
        Guard {
            macs: macs.iter().map(|r| mac_row(r)).collect(),
            addresses: addresses.iter().map(|r| address_row(r)).collect(),
            neighbours: neighbours.iter().map(|r| nd_row(r)).collect(),
        }
    }

    /// Whether a guarded sender may send this; why not.
    pub fn check(&self, f: &Fields, bytes: u32, tally: &mut impl Tally) -> Result<(), Drop> {
        // An ARP that names another sender than the frame does is none (RFC 826).
        let malformed = f.arp_malformed || (f.kind == Kind::Arp && f.arp_sender_mac != f.src_mac);
        let met = |r: &&MacRow| is(f.src_mac, r.mac) && is(u8::from(malformed), r.malformed);
        let row = self.macs.iter().find(met).ok_or(Drop::GuardMac)?;
        tally.hit(row.slot, bytes);
        match row.action {
            Action::Allow => return Ok(()),
            Action::CheckAddresses => {}
            _ => return Err(Drop::GuardMac),
        }
        let address = match f.kind {
            Kind::Arp if f.arp_sender == 0 => u128::from(f.arp_target),
            Kind::Arp => u128::from(f.arp_sender),
            Kind::Ipv4 => u128::from(f.src_ipv4),
            Kind::Ipv6 => f.src_ipv6,
            _ => 0,
        };
        let met = |r: &&AddressRow| {
            is(address, r.address)
                && is(f.src_mac, r.mac)
                && is(f.kind as u8, r.kind)
                && is(f.protocol, r.protocol)
                && is(f.src_port, r.src_port)
                && is(f.dst_port, r.dst_port)
        };
        let row = self.addresses.iter().find(met).ok_or(Drop::GuardAddress)?;
        tally.hit(row.slot, bytes);
        if !row.allow {
            return Err(Drop::GuardAddress);
        }
        if f.nd_type == 0 {
            return Ok(());
        }
        let unspecified = u8::from(f.kind == Kind::Ipv6 && f.src_ipv6 == 0);
        let met = |r: &&NdRow| {
            is(f.nd_target, r.target)
                && is(f.src_mac, r.mac)
                && is(f.nd_mac, r.nd_mac)
                && is(f.nd_type, r.nd_type)
                && is(u8::from(f.nd_hidden), r.hidden)
                && is(unspecified, r.unspecified)
                && is(u8::from(f.nd_has_mac), r.has_mac)
        };
        let row = self.neighbours.iter().find(met).ok_or(Drop::GuardNeighbour)?;
        tally.hit(row.slot, bytes);
        row.allow.then_some(()).ok_or(Drop::GuardNeighbour)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Guard>()
            + self.macs.len() * size_of::<MacRow>()
            + self.addresses.len() * size_of::<AddressRow>()
            + self.neighbours.len() * size_of::<NdRow>()
    }
}

fn mac_row(row: &Row) -> MacRow {
    let table = Table::Guard;
    MacRow {
        mac: masked(table, row, Key::SrcMac, 48),
        malformed: masked(table, row, Key::ArpMalformed, 1),
        action: row.action,
        slot: row.slot,
    }
}

fn address_row(row: &Row) -> AddressRow {
    let table = Table::GuardAddress;
    AddressRow {
        address: masked(table, row, Key::GuardAddress, 128),
        mac: masked(table, row, Key::SrcMac, 48),
        kind: masked(table, row, Key::Kind, 3),
        protocol: masked(table, row, Key::Protocol, 8),
        src_port: masked(table, row, Key::SrcPort, 16),
        dst_port: masked(table, row, Key::DstPort, 16),
        allow: row.action == Action::Allow,
        slot: row.slot,
    }
}

fn nd_row(row: &Row) -> NdRow {
    let table = Table::GuardNd;
    NdRow {
        target: masked(table, row, Key::NdTarget, 128),
        mac: masked(table, row, Key::SrcMac, 48),
        nd_mac: masked(table, row, Key::NdMac, 48),
        nd_type: masked(table, row, Key::NdType, 8),
        hidden: masked(table, row, Key::NdHidden, 1),
        unspecified: masked(table, row, Key::SrcUnspecified, 1),
        has_mac: masked(table, row, Key::NdHasMac, 1),
        allow: row.action == Action::Allow,
        slot: row.slot,
    }
}

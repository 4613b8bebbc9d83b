//! Remote stage of a class: longest-prefix match of an address to a remote id.

use portcullis_policy::Direction;
use portcullis_policy::intervals::paint;

use crate::frame::Fields;
use crate::row::{Action, Cond, Row};
use crate::space::Space;
use crate::table::{Key, Table};

/// A row whose masks are no prefixes, or that more than one EtherType meets.
#[derive(Debug)]
struct Odd {
    ether_type: (u16, u16),
    v4: (u32, u32),
    v6: (u128, u128),
    id: u16,
}

/// The rows of one class. Without prefixes it takes no memory but this.
#[derive(Debug, Default)]
pub struct Remotes {
    v4: Option<Box<Space<u32, u16>>>,
    v6: Option<Box<Space<u128, u16>>>,
    /// All rows in falling precedence, when some are not intervals of one address family.
    odd: Box<[Odd]>,
}

/// Rows in falling precedence.
pub fn compile(table: Table, rows: &[&Row]) -> Remotes {
    let (k4, k6) = keys(table);
    let all: Vec<Odd> = rows.iter().map(|row| odd(table, row, k4, k6)).collect();
    let plain = |o: &Odd| match o.ether_type {
        (0x0800, 0xffff) => o.v6.1 == 0 && is_prefix(u128::from(o.v4.1), 32),
        (0x86dd, 0xffff) => o.v4.1 == 0 && is_prefix(o.v6.1, 128),
        _ => false,
    };
    if !all.iter().all(plain) {
        return Remotes {
            odd: all.into(),
            ..Remotes::default()
        };
    }
    let of = |ether_type: u16, last: u128, range: fn(&Odd) -> (u128, u128)| {
        let own: Vec<&Odd> = all.iter().filter(|o| o.ether_type.0 == ether_type).collect();
        let ranges: Vec<(u128, u128)> = own.iter().map(|o| range(o)).collect();
        let pieces = paint(&ranges, last);
        let id = |owner: &Option<usize>| owner.and_then(|o| own.get(o)).map_or(0, |o| o.id);
        let ids: Vec<u16> = pieces.iter().map(|(_, owner)| id(owner)).collect();
        (!own.is_empty()).then_some((pieces, ids))
    };
    let v4 = of(0x0800, u128::from(u32::MAX), |o| {
        (u128::from(o.v4.0), u128::from(o.v4.0 | !o.v4.1))
    });
    let v6 = of(0x86dd, u128::MAX, |o| (o.v6.0, o.v6.0 | !o.v6.1));
    Remotes {
        v4: v4.map(|(pieces, ids)| {
            let starts = pieces.iter().map(|(start, _)| *start as u32);
            Box::new(Space::from_pieces(starts.zip(ids)))
        }),
        v6: v6.map(|(pieces, ids)| {
            let starts = pieces.iter().map(|(start, _)| *start);
            Box::new(Space::from_pieces(starts.zip(ids)))
        }),
        odd: Box::default(),
    }
}

fn keys(table: Table) -> (Key, Key) {
    if table == Table::EgressRemote {
        (Key::DstIpv4, Key::DstIpv6)
    } else {
        (Key::SrcIpv4, Key::SrcIpv6)
    }
}

fn odd(table: Table, row: &Row, k4: Key, k6: Key) -> Odd {
    let masked = |key| match row.cond(table, key) {
        Some(Cond::Mask { value, mask }) => (value, mask),
        _ => (0, 0),
    };
    let (ether_type, v4, v6) = (masked(Key::EtherType), masked(k4), masked(k6));
    Odd {
        ether_type: (ether_type.0 as u16, ether_type.1 as u16),
        v4: (v4.0 as u32, v4.1 as u32),
        v6,
        id: match row.action {
            Action::SetRemoteId(id) => id,
            _ => 0,
        },
    }
}

fn is_prefix(mask: u128, bits: u32) -> bool {
    let shifted = if bits == 128 { mask } else { mask << (128 - bits) };
    shifted.leading_ones() == shifted.count_ones()
}

impl Remotes {
    /// The remote id of a frame, 0 when no row matches.
    #[inline]
    pub fn find(&self, fields: &Fields, direction: Direction) -> u16 {
        let (v4, v6) = match direction {
            Direction::Egress => (fields.dst_ipv4, fields.dst_ipv6),
            Direction::Ingress => (fields.src_ipv4, fields.src_ipv6),
        };
        if !self.odd.is_empty() {
            let met = |o: &&Odd| {
                fields.ether_type & o.ether_type.1 == o.ether_type.0
                    && v4 & o.v4.1 == o.v4.0
                    && v6 & o.v6.1 == o.v6.0
            };
            return self.odd.iter().find(met).map_or(0, |o| o.id);
        }
        match fields.ether_type {
            0x0800 => self.v4.as_ref().map_or(0, |space| space.find(v4).unwrap_or(0)),
            0x86dd => self.v6.as_ref().map_or(0, |space| space.find(v6).unwrap_or(0)),
            _ => 0,
        }
    }

    /// The same for an IPv4 packet.
    #[inline]
    pub fn find_ipv4(&self, src: u32, dst: u32, direction: Direction) -> u16 {
        if self.odd.is_empty() {
            let address = match direction {
                Direction::Egress => dst,
                Direction::Ingress => src,
            };
            return match &self.v4 {
                Some(space) => space.find(address).unwrap_or(0),
                None => 0,
            };
        }
        let fields = Fields {
            ether_type: 0x0800,
            src_ipv4: src,
            dst_ipv4: dst,
            ..Fields::default()
        };
        self.find(&fields, direction)
    }

    /// Where ids change among IPv4 addresses, and the id from there on; `None` when they are no intervals.
    pub fn pieces_ipv4(&self) -> Option<Vec<(u32, u16)>> {
        if !self.odd.is_empty() {
            return None;
        }
        let Some(space) = &self.v4 else {
            return Some(vec![(0, 0)]);
        };
        Some(space.pieces().collect())
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let v4 = self.v4.as_ref().map_or(0, |s| s.bytes() + size_of_val(&**s));
        let v6 = self.v6.as_ref().map_or(0, |s| s.bytes() + size_of_val(&**s));
        v4 + v6 + self.odd.len() * size_of::<Odd>()
    }
}

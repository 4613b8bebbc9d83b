//! Match items of `rte_flow` rules and their byte patterns.

use crate::info::MacAddress;
use portcullis_dpdk_sys as sys;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A value of which some bits count: a packet matches when it has the same ones where `mask` has ones.
/// [`Default`]: none count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked<T> {
    /// Bits outside the mask do not matter.
    pub value: T,
    /// The bits that count.
    pub mask: T,
    /// The end of a range that begins with `value`, if it is one. Few devices take ranges.
    pub last: Option<T>,
}

/// A field of a header.
pub trait Field: sealed::Sealed + Copy {
    /// The mask of an exact match.
    const ALL: Self;
    /// The mask that matches anything.
    const NONE: Self;
    /// Puts it at the start of `place`, as on the wire.
    fn put(self, place: &mut [u8]);
}

/// A field of which often only the first bits count.
pub trait Address: Field {
    /// `length` ones, then zeros; all ones when the field is shorter.
    fn ones(length: u8) -> Self;
}

mod sealed {
    /// Keeps others from adding fields.
    pub trait Sealed {}
}

macro_rules! field {
    ($type:ty, $all:expr, $none:expr, $bytes:expr) => {
        impl sealed::Sealed for $type {}
        impl Field for $type {
            const ALL: Self = $all;
            const NONE: Self = $none;
            fn put(self, place: &mut [u8]) {
                let bytes = $bytes(self);
                place[..bytes.len()].copy_from_slice(&bytes);
            }
        }
    };
}

field!(u8, u8::MAX, 0, u8::to_be_bytes);
field!(u16, u16::MAX, 0, u16::to_be_bytes);
field!(
    MacAddress,
    MacAddress([0xff; 6]),
    MacAddress([0; 6]),
    |mac: MacAddress| mac.0
);
field!(
    Ipv4Addr,
    Ipv4Addr::BROADCAST,
    Ipv4Addr::UNSPECIFIED,
    |ip: Ipv4Addr| ip.octets()
);
field!(
    Ipv6Addr,
    Ipv6Addr::from_bits(u128::MAX),
    Ipv6Addr::UNSPECIFIED,
    |ip: Ipv6Addr| ip.octets()
);

impl Address for Ipv4Addr {
    fn ones(length: u8) -> Self {
        Self::from_bits(u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0))
    }
}

impl Address for Ipv6Addr {
    fn ones(length: u8) -> Self {
        Self::from_bits(
            u128::MAX
                .checked_shl(128 - u32::from(length.min(128)))
                .unwrap_or(0),
        )
    }
}

impl<T: Field> Masked<T> {
    /// Matches this value alone.
    #[must_use]
    pub fn exact(value: T) -> Self {
        Self {
            value,
            mask: T::ALL,
            last: None,
        }
    }

    /// Matches values from `low` to `high`, both included.
    #[must_use]
    pub fn range(low: T, high: T) -> Self {
        Self {
            last: Some(high),
            ..Self::exact(low)
        }
    }
}

impl<T: Address> Masked<T> {
    /// The first `length` bits count.
    #[must_use]
    pub fn prefix(value: T, length: u8) -> Self {
        Self {
            value,
            mask: T::ones(length),
            last: None,
        }
    }
}

impl<T: Field> Default for Masked<T> {
    fn default() -> Self {
        Self {
            value: T::NONE,
            mask: T::NONE,
            last: None,
        }
    }
}

/// Ethernet header; the default matches any.
#[allow(missing_docs, reason = "`src` and `dst` are the addresses of the header")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Eth {
    pub dst: Masked<MacAddress>,
    pub src: Masked<MacAddress>,
    /// Ethertype; with VLAN tags, that of the outermost.
    pub ether_type: Masked<u16>,
}

/// VLAN tag (802.1Q), behind Ethernet or another tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vlan {
    /// Priority, DEI and, in the lower 12 bits, the VLAN.
    pub tci: Masked<u16>,
    /// Ethertype of what follows.
    pub inner_type: Masked<u16>,
}

/// IPv4 header; options are not matched.
#[allow(missing_docs, reason = "`src` and `dst` are the addresses of the header")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ipv4 {
    pub src: Masked<Ipv4Addr>,
    pub dst: Masked<Ipv4Addr>,
    /// Protocol of what follows.
    pub protocol: Masked<u8>,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub tos: Masked<u8>,
    /// Flags and offset of fragments: with mask `0x3fff`, value 0 is what is not a fragment.
    pub fragment: Masked<u16>,
}

/// IPv6 header; what follows it is matched by the next item.
#[allow(missing_docs, reason = "`src` and `dst` are the addresses of the header")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ipv6 {
    pub src: Masked<Ipv6Addr>,
    pub dst: Masked<Ipv6Addr>,
    /// Protocol of what follows.
    pub next_header: Masked<u8>,
}

/// TCP header; options are not matched.
#[allow(missing_docs, reason = "`src` and `dst` are the ports of the header")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcp {
    pub src: Masked<u16>,
    pub dst: Masked<u16>,
    /// Flags, from CWR (0x80) to FIN (0x01).
    pub flags: Masked<u8>,
}

/// Ports of UDP or SCTP.
#[allow(missing_docs, reason = "`src` and `dst` are the ports of the header")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    pub src: Masked<u16>,
    pub dst: Masked<u16>,
}

/// One header in a pattern. What is not said matches anything.
#[allow(missing_docs, reason = "the names are those of the headers")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    Eth(Eth),
    Vlan(Vlan),
    Ipv4(Ipv4),
    Ipv6(Ipv6),
    Tcp(Tcp),
    Udp(Ports),
    Sctp(Ports),
}

/// A header three times: values, the bits that count, and the ends of ranges if there are some.
pub(super) struct Header {
    pub(super) value: Vec<u8>,
    pub(super) mask: Vec<u8>,
    /// A field without a range has its value here as well.
    pub(super) last: Vec<u8>,
    pub(super) has_range: bool,
}

impl Header {
    fn new(size: sys::pc_flow_item_size) -> Self {
        Self {
            value: vec![0; size as usize],
            mask: vec![0; size as usize],
            last: vec![0; size as usize],
            has_range: false,
        }
    }

    /// Puts `field` at `offset`.
    fn with<T: Field>(mut self, offset: usize, field: Masked<T>) -> Self {
        field.value.put(&mut self.value[offset..]);
        field.mask.put(&mut self.mask[offset..]);
        field.last.unwrap_or(field.value).put(&mut self.last[offset..]);
        self.has_range |= field.last.is_some();
        self
    }
}

impl Item {
    /// Its name, as in DPDK's documentation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Eth(_) => "eth",
            Self::Vlan(_) => "vlan",
            Self::Ipv4(_) => "ipv4",
            Self::Ipv6(_) => "ipv6",
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Sctp(_) => "sctp",
        }
    }

    pub(super) fn kind(&self) -> sys::rte_flow_item_type {
        match self {
            Self::Eth(_) => sys::RTE_FLOW_ITEM_TYPE_ETH,
            Self::Vlan(_) => sys::RTE_FLOW_ITEM_TYPE_VLAN,
            Self::Ipv4(_) => sys::RTE_FLOW_ITEM_TYPE_IPV4,
            Self::Ipv6(_) => sys::RTE_FLOW_ITEM_TYPE_IPV6,
            Self::Tcp(_) => sys::RTE_FLOW_ITEM_TYPE_TCP,
            Self::Udp(_) => sys::RTE_FLOW_ITEM_TYPE_UDP,
            Self::Sctp(_) => sys::RTE_FLOW_ITEM_TYPE_SCTP,
        }
    }

    /// DPDK's items for it; each begins with the header as it is on the wire (shim.c asserts that).
    pub(super) fn header(&self) -> Header {
        match self {
            Self::Eth(eth) => Header::new(sys::PC_FLOW_ITEM_ETH_SIZE)
                .with(0, eth.dst)
                .with(6, eth.src)
                .with(12, eth.ether_type),
            Self::Vlan(vlan) => Header::new(sys::PC_FLOW_ITEM_VLAN_SIZE)
                .with(0, vlan.tci)
                .with(2, vlan.inner_type),
            Self::Ipv4(ip) => Header::new(sys::PC_FLOW_ITEM_IPV4_SIZE)
                .with(1, ip.tos)
                .with(6, ip.fragment)
                .with(9, ip.protocol)
                .with(12, ip.src)
                .with(16, ip.dst),
            Self::Ipv6(ip) => Header::new(sys::PC_FLOW_ITEM_IPV6_SIZE)
                .with(6, ip.next_header)
                .with(8, ip.src)
                .with(24, ip.dst),
            Self::Tcp(tcp) => Header::new(sys::PC_FLOW_ITEM_TCP_SIZE)
                .with(0, tcp.src)
                .with(2, tcp.dst)
                .with(13, tcp.flags),
            Self::Udp(ports) => Header::new(sys::PC_FLOW_ITEM_UDP_SIZE)
                .with(0, ports.src)
                .with(2, ports.dst),
            Self::Sctp(ports) => Header::new(sys::PC_FLOW_ITEM_SCTP_SIZE)
                .with(0, ports.src)
                .with(2, ports.dst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Eth, Header, Ipv4, Ipv6, Item, MacAddress, Masked, Ports, Tcp, Vlan};
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn headers_are_as_on_the_wire() {
        let Header { value, mask, .. } = Item::Eth(Eth {
            dst: Masked::exact(MacAddress([1, 2, 3, 4, 5, 6])),
            ether_type: Masked::exact(0x0800),
            ..Eth::default()
        })
        .header();
        assert_eq!(value[..14], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(
            mask[..14],
            [255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 255]
        );
        assert!(value[14..].iter().chain(&mask[14..]).all(|byte| *byte == 0));

        let Header { value, mask, .. } = Item::Ipv4(Ipv4 {
            src: Masked::prefix(Ipv4Addr::new(192, 0, 2, 1), 24),
            protocol: Masked::exact(6),
            fragment: Masked {
                mask: 0x3fff,
                ..Masked::default()
            },
            ..Ipv4::default()
        })
        .header();
        assert_eq!(
            value,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0]
        );
        assert_eq!(
            mask,
            [
                0, 0, 0, 0, 0, 0, 0x3f, 255, 0, 255, 0, 0, 255, 255, 255, 0, 0, 0, 0, 0
            ]
        );

        let Header { value, mask, .. } = Item::Tcp(Tcp {
            dst: Masked::exact(443),
            flags: Masked {
                value: 0x02,
                mask: 0x12,
                last: None,
            },
            ..Tcp::default()
        })
        .header();
        assert_eq!((value[2..4].to_vec(), value[13]), (vec![1, 187], 0x02));
        assert_eq!((mask[2..4].to_vec(), mask[13]), (vec![255, 255], 0x12));
    }

    #[test]
    fn a_range_ends_in_a_header_of_its_own() {
        let ports = Ports {
            src: Masked::exact(7),
            dst: Masked::range(20, 30),
        };
        let header = Item::Udp(ports).header();
        assert!(header.has_range && !Item::Udp(Ports::default()).header().has_range);
        assert_eq!(header.value[..4], [0, 7, 0, 20]);
        assert_eq!(header.last[..4], [0, 7, 0, 30]);
        assert_eq!(header.mask[..4], [255; 4]);
    }

    #[test]
    fn what_is_not_said_has_no_bit_that_counts() {
        for item in [
            Item::Eth(Eth::default()),
            Item::Vlan(Vlan::default()),
            Item::Ipv4(Ipv4::default()),
            Item::Ipv6(Ipv6::default()),
            Item::Tcp(Tcp::default()),
            Item::Udp(Ports::default()),
            Item::Sctp(Ports::default()),
        ] {
            assert!(
                item.header().mask.iter().all(|byte| *byte == 0),
                "{}",
                item.name()
            );
        }
    }

    #[test]
    fn prefixes_of_every_length_have_that_many_ones() {
        for length in 0..=32 {
            let masked = Masked::prefix(Ipv4Addr::LOCALHOST, length);
            assert_eq!(masked.mask.to_bits().leading_ones(), u32::from(length));
            assert_eq!(masked.mask.to_bits().count_ones(), u32::from(length));
        }
        for length in 0..=128 {
            let masked = Masked::prefix(Ipv6Addr::LOCALHOST, length);
            assert_eq!(masked.mask.to_bits().leading_ones(), u32::from(length));
            assert_eq!(masked.mask.to_bits().count_ones(), u32::from(length));
        }
        assert_eq!(Masked::prefix(Ipv4Addr::LOCALHOST, 200).mask, Ipv4Addr::BROADCAST);
    }
}

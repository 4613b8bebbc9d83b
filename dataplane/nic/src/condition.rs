//! A policy row as conditions on fields, and how it meets a set of packets.

use portcullis_fastpath::{Action, Cond, EgressRows, Key, Row, Table};
use portcullis_policy::Verdict;
use portcullis_policy::intervals::IntervalSet;

use crate::carve::Headers;
use crate::rule::{Address, Family};

/// Ports, as a normal list of intervals.
pub type Ports = IntervalSet<u16>;

/// Bits that a field has to have: value and mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bits {
    value: u128,
    mask: u128,
}

impl Bits {
    const fn hold(self, field: u128) -> bool {
        field & self.mask == self.value
    }

    const fn is_any(self) -> bool {
        self.mask == 0
    }
}

/// How the packets of a row and of a set meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// No packet is in both.
    Apart,
    /// The row may match some packets of the set.
    Partly,
    /// The row matches every packet of the set, if its ports do.
    Whole,
}

impl Meeting {
    /// How they meet if two fields have to meet.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Meeting::Apart, _) | (_, Meeting::Apart) => Meeting::Apart,
            (Meeting::Whole, Meeting::Whole) => Meeting::Whole,
            _ => Meeting::Partly,
        }
    }

    /// Of a field that is known.
    const fn known(holds: bool) -> Self {
        if holds { Meeting::Whole } else { Meeting::Apart }
    }

    /// Of a field that may be anything.
    const fn unknown(bits: Bits) -> Self {
        if bits.is_any() {
            Meeting::Whole
        } else {
            Meeting::Partly
        }
    }
}

/// What a row asks of the packets of one class.
#[derive(Debug, Clone)]
pub struct Condition {
    ether_type: Bits,
    unreadable: Bits,
    later: Bits,
    protocol: Bits,
    flags: Bits,
    remote: Bits,
    icmp: [Bits; 2],
    src: [Bits; 2],
    dst: [Bits; 2],
    /// Source ports; `None` where they cannot be written as intervals.
    pub src_ports: Option<Ports>,
    /// Destination ports; `None` where they cannot be written as intervals.
    pub dst_ports: Option<Ports>,
    /// Whether it asks for a field that is not known here.
    asks_for_more: bool,
    /// What happens to packets that match.
    pub verdict: Verdict,
    /// Where the switch counts packets that match.
    pub slot: u32,
}

/// The fields that are looked at here, beside those by which a row is one of the class. A row that asks for another is taken to meet some
/// packets of every set.
const KNOWN: [Key; 16] = [
    Key::Class,
    Key::Overlay,
    Key::EtherType,
    Key::Unreadable,
    Key::Protocol,
    Key::Later,
    Key::TcpFlags,
    Key::RemoteId,
    Key::SrcIpv4,
    Key::SrcIpv6,
    Key::DstIpv4,
    Key::DstIpv6,
    Key::SrcPort,
    Key::DstPort,
    Key::IcmpType,
    Key::IcmpCode,
];

/// Most intervals of ports that a mask is written as.
const INTERVALS: usize = 64;

impl Condition {
    /// What a row of `egress_policy` asks for, beside class and overlay.
    pub fn new(row: &Row) -> Self {
        let bits = |key| match row.cond(Table::EgressPolicy, key) {
            None => Bits::default(),
            Some(Cond::Mask { value, mask }) => Bits { value, mask },
            // The P4 program has no ranges but of ports; one would be a value, or could not be relied on.
            Some(Cond::Range { low, .. }) => Bits {
                value: low,
                mask: u128::MAX,
            },
        };
        Condition {
            ether_type: bits(Key::EtherType),
            unreadable: bits(Key::Unreadable),
            later: bits(Key::Later),
            protocol: bits(Key::Protocol),
            flags: bits(Key::TcpFlags),
            remote: bits(Key::RemoteId),
            icmp: [bits(Key::IcmpType), bits(Key::IcmpCode)],
            src: [bits(Key::SrcIpv4), bits(Key::SrcIpv6)],
            dst: [bits(Key::DstIpv4), bits(Key::DstIpv6)],
            src_ports: ports(row.cond(Table::EgressPolicy, Key::SrcPort)),
            dst_ports: ports(row.cond(Table::EgressPolicy, Key::DstPort)),
            asks_for_more: row.conds.iter().any(|(at, _)| {
                let key = Table::EgressPolicy.keys().get(usize::from(*at));
                !key.is_some_and(|key| KNOWN.contains(key))
            }),
            verdict: match row.action {
                Action::Allow => Verdict::Allow,
                _ => Verdict::Deny,
            },
            slot: row.slot,
        }
    }

    /// How it meets a set of packets, ports aside.
    pub fn meets(&self, headers: &Headers, remotes: &Remotes) -> Meeting {
        let family = Meeting::known(self.ether_type.hold(headers.family.ether_type().into()));
        if family == Meeting::Apart {
            return family;
        }
        let protocol = match headers.protocol {
            Some(protocol) => Meeting::known(self.protocol.hold(protocol.into())),
            None => Meeting::unknown(self.protocol),
        };
        let unreadable = Meeting::known(self.unreadable.hold(headers.unreadable.into()));
        let later = match headers.later {
            Some(later) => Meeting::known(self.later.hold(later.into())),
            None => Meeting::unknown(self.later),
        };
        // What does not carry ICMP has type and code 0, and what does not carry TCP has no flags.
        let icmp = match headers.protocol {
            Some(6 | 17 | 132) => Meeting::known(self.icmp.iter().all(|bits| bits.hold(0))),
            _ => Meeting::unknown(self.icmp[0]).and(Meeting::unknown(self.icmp[1])),
        };
        let flags = match headers.protocol {
            Some(17 | 132) => Meeting::known(self.flags.hold(0)),
            _ => Meeting::unknown(self.flags),
        };
        let others = match self.asks_for_more {
            true => Meeting::Partly,
            false => Meeting::Whole,
        };
        [
            others,
            unreadable,
            later,
            icmp,
            flags,
            address(self.src, headers.family, headers.src),
            address(self.dst, headers.family, headers.dst),
            remotes.meet(self.remote, headers),
        ]
        .into_iter()
        .fold(protocol, Meeting::and)
    }

    /// What it does to frames with an EtherType that the switch cannot read; `None` if it matches none.
    pub fn meets_unreadable(&self, ether_type: u16) -> Option<Unreadable> {
        if !self.ether_type.hold(ether_type.into()) || !self.unreadable.hold(1) {
            return None;
        }
        let others = [self.later, self.protocol, self.flags, self.remote];
        let addresses = self.src.iter().chain(&self.dst);
        let others = others.iter().chain(&self.icmp).chain(addresses);
        let is_any = |ports: &Option<Ports>| ports.as_ref().is_some_and(Ports::is_all);
        let is_whole = others.into_iter().all(|bits| bits.is_any())
            && !self.asks_for_more
            && is_any(&self.src_ports)
            && is_any(&self.dst_ports);
        Some(match (self.verdict.denies(), is_whole) {
            (false, _) => Unreadable::Allowed,
            (true, true) => Unreadable::Denied,
            (true, false) => Unreadable::DeniedInPart,
        })
    }

    /// The packets that it asks for, of one family: what a rule on a NIC can say of it. `None` where it asks for none of that family,
    /// or for what no rule can say.
    pub fn headers(&self, family: Family) -> Result<Headers, NotSaid> {
        if !self.ether_type.hold(family.ether_type().into()) {
            return Err(NotSaid::Family);
        }
        if self.asks_for_more {
            return Err(NotSaid::Other);
        }
        if self.unreadable.mask != 0 && self.unreadable.value != 0 {
            return Err(NotSaid::Unreadable);
        }
        if self.later.mask != 0 && self.later.value != 0 {
            return Err(NotSaid::Later);
        }
        if self.icmp.iter().any(|bits| !bits.is_any()) {
            return Err(NotSaid::Icmp);
        }
        if !self.flags.is_any() {
            return Err(NotSaid::Flags);
        }
        let [own, other] = match family {
            Family::V4 => [0, 1],
            Family::V6 => [1, 0],
        };
        if !(self.src[other].hold(0) && self.dst[other].hold(0)) {
            return Err(NotSaid::Family);
        }
        let (src_ports, dst_ports) = match (&self.src_ports, &self.dst_ports) {
            (Some(src), Some(dst)) => (src.clone(), dst.clone()),
            _ => return Err(NotSaid::PortMask),
        };
        let protocol = match (self.protocol.mask & 0xff, self.protocol.value) {
            (0, _) => None,
            (0xff, value) => Some(value as u8),
            _ => return Err(NotSaid::Protocol),
        };
        let has_ports = !(src_ports.is_all() && dst_ports.is_all());
        if has_ports && !matches!(protocol, Some(6 | 17 | 132)) {
            return Err(NotSaid::Protocol);
        }
        let address = |bits: Bits| Address {
            value: bits.value & family.bits(),
            mask: bits.mask & family.bits(),
        };
        Ok(Headers {
            family,
            protocol,
            src: address(self.src[own]),
            dst: address(self.dst[own]),
            src_ports,
            dst_ports,
            // A rule without ports matches fragments as well.
            later: has_ports.then_some(false),
            unreadable: false,
        })
    }

    /// Whether it is about fragments behind the first one as well: their ports are 0.
    pub fn takes_fragments(&self) -> bool {
        self.later.is_any()
    }

    /// The remote id that it asks for, if it asks for one.
    pub fn remote(&self) -> Option<u16> {
        (self.remote.mask & 0xffff == 0xffff).then_some(self.remote.value as u16)
    }

    /// Whether it asks for anything of the other side's prefix.
    pub fn asks_for_remote(&self) -> bool {
        !self.remote.is_any()
    }
}

/// What a row does to frames that the switch cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It denies them all.
    Denied,
    /// It denies some of them, and says nothing of the others.
    DeniedInPart,
    /// It lets some pass.
    Allowed,
}

/// What of a row no rule on a NIC says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotSaid {
    /// It is about other packets.
    Family,
    /// Frames that cannot be read.
    Unreadable,
    /// Fragments behind the first one, and no whole packets.
    Later,
    /// Types or codes of ICMP or ICMPv6.
    Icmp,
    /// Flags of TCP, such as those of an answer.
    Flags,
    /// A protocol that a rule cannot name.
    Protocol,
    /// A mask of ports that is no prefix.
    PortMask,
    /// A field that is not known to this part of the program.
    Other,
}

fn ports(cond: Option<Cond>) -> Option<Ports> {
    match cond {
        None => Some(Ports::all()),
        Some(Cond::Range { low, high }) => {
            let low = u16::try_from(low).ok()?;
            Some(Ports::interval(
                low,
                u16::try_from(high).unwrap_or(u16::MAX).max(low),
            ))
        }
        Some(Cond::Mask { value, mask }) => {
            let (value, mask) = (value as u16, mask as u16);
            // Bits below the lowest that counts make an interval; those above that do not count say how many there are.
            let low = mask.trailing_zeros().min(16);
            let free = !mask & !((1u32 << low) - 1) as u16;
            if free.count_ones() > INTERVALS.ilog2() {
                return None;
            }
            let last = ((1u32 << low) - 1) as u16;
            let mut some = 0u16;
            let mut found = Vec::new();
            loop {
                let start = value | some;
                found.push((start, start | last));
                some = some.wrapping_sub(free) & free;
                if some == 0 {
                    break;
                }
            }
            Ports::from_intervals(found)
        }
    }
}

fn address(bits: [Bits; 2], family: Family, set: Address) -> Meeting {
    let [own, other] = match family {
        Family::V4 => bits,
        Family::V6 => [bits[1], bits[0]],
    };
    let own = Address {
        value: own.value & family.bits(),
        mask: own.mask & family.bits(),
    };
    // Fields that a packet lacks are 0.
    match (other.hold(0), own.meets(set), own.covers(set)) {
        (false, ..) | (_, false, _) => Meeting::Apart,
        (_, _, true) => Meeting::Whole,
        _ => Meeting::Partly,
    }
}

/// Which remote ids the destinations of a class have.
#[derive(Debug, Clone, Default)]
pub struct Remotes {
    /// In falling precedence: EtherType, addresses of IPv4 and IPv6, id.
    rows: Vec<(Bits, [Bits; 2], u16)>,
}

impl Remotes {
    /// What rows of `egress_remote` say.
    pub fn new(rows: &EgressRows) -> Self {
        let bits = |row: &Row, key| match row.cond(Table::EgressRemote, key) {
            Some(Cond::Mask { value, mask }) => Bits { value, mask },
            _ => Bits::default(),
        };
        let row = |row: &Row| {
            let id = match row.action {
                Action::SetRemoteId(id) => id,
                _ => 0,
            };
            let addresses = [bits(row, Key::DstIpv4), bits(row, Key::DstIpv6)];
            (bits(row, Key::EtherType), addresses, id)
        };
        Remotes {
            rows: rows.remotes.iter().map(row).collect(),
        }
    }

    /// How a condition on the remote id meets packets.
    fn meet(&self, wanted: Bits, headers: &Headers) -> Meeting {
        if wanted.is_any() {
            return Meeting::Whole;
        }
        let (mut some, mut all) = (false, true);
        for id in self.ids(headers) {
            let holds = wanted.hold(id.into());
            (some, all) = (some || holds, all && holds);
        }
        match (some, all) {
            (false, _) => Meeting::Apart,
            (true, true) => Meeting::Whole,
            (true, false) => Meeting::Partly,
        }
    }

    /// The ids that destinations of packets may have.
    fn ids(&self, headers: &Headers) -> Vec<u16> {
        let mut ids = Vec::new();
        for (ether_type, bits, id) in &self.rows {
            if !ether_type.hold(headers.family.ether_type().into()) {
                continue;
            }
            match address(*bits, headers.family, headers.dst) {
                Meeting::Apart => {}
                Meeting::Partly => ids.push(*id),
                Meeting::Whole => {
                    ids.push(*id);
                    return ids;
                }
            }
        }
        ids.push(0);
        ids
    }

    /// The prefixes of a family whose destinations all have this id, but for those of which a part has another one.
    pub fn prefixes(&self, id: u16, family: Family) -> Vec<Address> {
        let own = |bits: &[Bits; 2]| {
            let (bits, other) = match family {
                Family::V4 => (bits[0], bits[1]),
                Family::V6 => (bits[1], bits[0]),
            };
            other.hold(0).then_some(Address {
                value: bits.value & family.bits(),
                mask: bits.mask & family.bits(),
            })
        };
        let of_family = self
            .rows
            .iter()
            .filter(|(ether_type, ..)| ether_type.hold(family.ether_type().into()));
        let found = of_family
            .filter(|(_, _, given)| *given == id)
            .filter_map(|(_, bits, _)| own(bits));
        found
            .filter(|prefix| self.has_one_id(*prefix, id, family))
            .collect()
    }

    fn has_one_id(&self, dst: Address, id: u16, family: Family) -> bool {
        let headers = Headers {
            dst,
            ..Headers::all(family)
        };
        self.ids(&headers).iter().all(|found| *found == id)
    }
}

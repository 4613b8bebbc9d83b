//! The pipeline: parse, attach, roles, guard, egress policy, L2, then deliver and ingress policy for every copy.

use portcullis_policy::{Direction, PerDirection};

use crate::classes::{Class, Leaf};
use crate::frame::{Fields, Kind};
use crate::guard::Guard;
use crate::header_subset::HeaderSubset;
use crate::ports::Port;
use crate::roles::{Role, is_reserved};
use crate::row::{Decision, NO_SLOT};
use crate::tables::Snapshot;

/// Why a frame, or one copy of it, is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// No row for this port and VLAN as a sender.
    UnknownSender,
    /// A router's or DHCP server's frame from an endpoint without that role.
    NoRole,
    /// The source MAC, or a MAC inside an ARP frame, is not the sender's.
    GuardMac,
    /// The source address is not the sender's.
    GuardAddress,
    /// Neighbour discovery for an address that is not the sender's.
    GuardNeighbour,
    /// Denied by the policy of the sender's class.
    EgressPolicy,
    /// Sent to a group address that bridges do not forward (IEEE 802.1Q, table 8-1).
    ReservedGroup,
    /// A unicast packet in a multicast or broadcast frame.
    UnicastInGroup,
    /// No port receives it.
    NoReceiver,
    /// It would leave by the port it came from.
    Hairpin,
    /// No row for this port and VLAN as a receiver.
    UnknownReceiver,
    /// Denied by the policy of the receiver's class.
    IngressPolicy,
}

impl DropReason {
    /// Every reason, in the order of counters and metrics.
    pub const ALL: [DropReason; 13] = [
        DropReason::Runt,
        DropReason::UnknownSender,
        DropReason::NoRole,
        DropReason::GuardMac,
        DropReason::GuardAddress,
        DropReason::GuardNeighbour,
        DropReason::EgressPolicy,
        DropReason::ReservedGroup,
        DropReason::UnicastInGroup,
        DropReason::NoReceiver,
        DropReason::Hairpin,
        DropReason::UnknownReceiver,
        DropReason::IngressPolicy,
    ];

    /// The value of the label `reason` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Runt => "runt",
            DropReason::UnknownSender => "unknown_sender",
            DropReason::NoRole => "no_role",
            DropReason::GuardMac => "guard_mac",
            DropReason::GuardAddress => "guard_address",
            DropReason::GuardNeighbour => "guard_neighbour",
            DropReason::EgressPolicy => "egress_policy",
            DropReason::ReservedGroup => "reserved_group",
            DropReason::UnicastInGroup => "unicast_in_group",
            DropReason::NoReceiver => "no_receiver",
            DropReason::Hairpin => "hairpin",
            DropReason::UnknownReceiver => "unknown_receiver",
            DropReason::IngressPolicy => "ingress_policy",
        }
    }
}

/// Counts hits and drops; each worker has its own.
pub trait Tally {
    /// A frame of `bytes` bytes hit a row. [`crate::NO_SLOT`] counts nothing.
    fn hit(&mut self, slot: u32, bytes: u32);
    /// A frame received at `in_port`, or a copy of it, is dropped.
    fn dropped(&mut self, in_port: u16, why: DropReason);
}

/// The ports a frame is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports<'a> {
    /// None: the frame is dropped.
    None,
    /// This port and no other.
    One(u16),
    /// The ports in the caller's list.
    Many(&'a [u16]),
}

impl Ports<'_> {
    /// The ports, one after another.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let (one, many): (Option<u16>, &[u16]) = match self {
            Ports::None => (None, &[]),
            Ports::One(port) => (Some(*port), &[]),
            Ports::Many(list) => (None, list),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

/// Group of every port with a row, and of the uplinks, behind which MACs may be that no row names.
const EVERYBODY: u32 = 1;
const UNKNOWN: u32 = 2;
/// The group bit of a MAC address (IEEE 802).
const GROUP: u64 = 0x0100_0000_0000;

impl Snapshot {
    /// Forwards a frame received at `in_port`. Several ports are put into `list`.
    #[inline(always)]
    pub fn process<'a>(
        &self,
        frame: &[u8],
        in_port: u16,
        list: &'a mut Vec<u16>,
        tally: &mut impl Tally,
    ) -> Ports<'a> {
        let look = self.look(self.port(in_port), frame);
        match look.go(in_port, frame.len(), tally) {
            Forwarding::To(port) => Ports::One(port),
            Forwarding::Nowhere => Ports::None,
            Forwarding::Unknown => self.whole(frame, in_port, list, tally),
        }
    }

    /// The first half of [`Snapshot::process`]: what is to be found of a frame without a decision. Those of several frames
    /// one after the other keep a CPU busy that would wait for the memory of each. `behind` is what [`Snapshot::port`] says
    /// of the port it came in at.
    #[inline(always)]
    pub fn look<'a>(&'a self, behind: Option<&'a Port>, frame: &[u8]) -> Prefetch<'a> {
        let Some(headers) = HeaderSubset::from_frame(frame) else {
            return Prefetch::NOTHING;
        };
        let from = behind.map(|port| port.point(headers.vlan));
        let to = if headers.dst_mac & GROUP == 0 {
            self.station(headers.dst_mac)
        } else {
            None
        };
        let receives = to.and_then(|port| self.point(port, headers.vlan)?.receives);
        Prefetch {
            headers: Some(headers),
            guard: from.and_then(|point| point.guard.as_deref()),
            to,
            classes: PerDirection {
                egress: from.and_then(|point| point.sends).map(|class| self.egress(class)),
                ingress: receives.map(|class| self.ingress(class)),
            },
        }
    }

    /// The way of a frame that is parsed whole.
    #[inline(always)]
    pub fn whole<'a>(
        &self,
        frame: &[u8],
        in_port: u16,
        list: &'a mut Vec<u16>,
        tally: &mut impl Tally,
    ) -> Ports<'a> {
        let mut fields = Fields::default();
        if !fields.read(frame) {
            tally.dropped(in_port, DropReason::Runt);
            return Ports::None;
        }
        let bytes = frame.len() as u32;
        let group = match self.sender(&fields, in_port, bytes, tally) {
            Ok(To::One(port)) => {
                return match self.receiver(&fields, in_port, port, bytes, tally) {
                    Ok(()) => Ports::One(port),
                    Err(why) => {
                        tally.dropped(in_port, why);
                        Ports::None
                    }
                };
            }
            Ok(To::Group(group)) => group,
            Err(why) => {
                tally.dropped(in_port, why);
                return Ports::None;
            }
        };
        self.copies(&fields, in_port, group, bytes, list, tally)
    }

    #[inline(never)]
    fn copies<'a>(
        &self,
        fields: &Fields,
        in_port: u16,
        group: u32,
        bytes: u32,
        list: &'a mut Vec<u16>,
        tally: &mut impl Tally,
    ) -> Ports<'a> {
        list.clear();
        let members = self.group(group);
        if members.is_empty() {
            tally.dropped(in_port, DropReason::NoReceiver);
        }
        for port in members {
            match self.receiver(fields, in_port, *port, bytes, tally) {
                Ok(()) => list.push(*port),
                // A flood comes by the port it came from, and by ports outside the VLAN.
                Err(DropReason::Hairpin | DropReason::UnknownReceiver) => {}
                Err(why) => tally.dropped(in_port, why),
            }
        }
        Ports::Many(list)
    }

    #[inline(always)]
    fn sender(&self, f: &Fields, in_port: u16, bytes: u32, tally: &mut impl Tally) -> Result<To, DropReason> {
        let point = self.point(in_port, f.vlan).ok_or(DropReason::UnknownSender)?;
        let class = point.sends.ok_or(DropReason::UnknownSender)?;
        let role = f.role();
        if role != Role::None {
            let roles = point.roles.as_deref();
            let Decision { verdict, slot } = roles.map_or(Decision::UNMATCHED, |roles| roles.check(role));
            tally.hit(slot, bytes);
            if !verdict.passes() {
                return Err(if role == Role::Bridge {
                    DropReason::ReservedGroup
                } else {
                    DropReason::NoRole
                });
            }
        }
        if let Some(guard) = &point.guard {
            let checked = guard.check(f);
            for slot in checked.slots {
                tally.hit(slot, bytes);
            }
            if let Some(why) = checked.dropped {
                return Err(why);
            }
        }
        // Class 0: nothing is denied.
        if class != 0 {
            let Decision { verdict, slot } = self.egress(class).judge(f, Direction::Egress);
            tally.hit(slot, bytes);
            if !verdict.passes() {
                return Err(DropReason::EgressPolicy);
            }
        }
        if f.dst_mac & GROUP == 0 {
            return Ok(match self.station(f.dst_mac) {
                Some(port) => To::One(port),
                None => To::Group(self.mac_table(f.dst_mac).map_or(UNKNOWN, u32::from)),
            });
        }
        to_many(f)
    }

    #[inline(always)]
    fn receiver(
        &self,
        f: &Fields,
        in_port: u16,
        out_port: u16,
        bytes: u32,
        tally: &mut impl Tally,
    ) -> Result<(), DropReason> {
        if in_port == out_port {
            return Err(DropReason::Hairpin);
        }
        let point = self.point(out_port, f.vlan).ok_or(DropReason::UnknownReceiver)?;
        let class = point.receives.ok_or(DropReason::UnknownReceiver)?;
        if class != 0 {
            let Decision { verdict, slot } = self.ingress(class).judge(f, Direction::Ingress);
            tally.hit(slot, bytes);
            if !verdict.passes() {
                return Err(DropReason::IngressPolicy);
            }
        }
        Ok(())
    }
}

/// What was found of a frame whose short form is enough: [`Snapshot::look`].
#[derive(Debug, Clone, Copy)]
pub struct Prefetch<'a> {
    headers: Option<HeaderSubset>,
    guard: Option<&'a Guard>,
    to: Option<u16>,
    /// Egress class of the sender and ingress class of the receiver, where there are some.
    classes: PerDirection<Option<&'a Class>>,
}

impl Prefetch<'_> {
    /// Of a frame that has to be looked at whole.
    pub const NOTHING: Prefetch<'static> = Prefetch {
        headers: None,
        guard: None,
        to: None,
        classes: PerDirection {
            egress: None,
            ingress: None,
        },
    };

    /// The second half, for most frames: to one receiver, with rows of which the lines know enough. Nothing is counted before
    /// that is sure.
    #[inline(always)]
    pub fn go(&self, in_port: u16, length: usize, tally: &mut impl Tally) -> Forwarding {
        let Some(f) = &self.headers else {
            return Forwarding::Unknown;
        };
        let bytes = length as u32;
        // No closures here: they would be compiled for any CPU, and not for the one at hand.
        let sent = match self.classes.egress {
            Some(class) => class.leaf_of(f, Direction::Egress),
            None => Leaf::DENIED,
        };
        let received = match self.classes.ingress {
            Some(class) => class.leaf_of(f, Direction::Ingress),
            None => Leaf::DENIED,
        };
        // Nearly all frames: what is allowed at both ends, looked at all at once. Of anything else why is to be told.
        if let Some(port) = self.to
            && port != in_port
            && sent.and(received).is_allowed()
        {
            let mut guarded = true;
            if let Some(guard) = self.guard {
                let checked = guard.check(f);
                guarded = checked.dropped.is_none();
                if guarded {
                    for slot in checked.slots {
                        tally.hit(slot, bytes);
                    }
                }
            }
            if guarded {
                tally.hit(sent.slot(), bytes);
                tally.hit(received.slot(), bytes);
                return Forwarding::To(port);
            }
        }
        let leaves = PerDirection {
            egress: sent,
            ingress: received,
        };
        self.counted(f, leaves, in_port, bytes, tally)
    }

    /// Why a frame goes nowhere, step by step; or that the lines do not know.
    #[inline(never)]
    fn counted(
        &self,
        f: &HeaderSubset,
        leaves: PerDirection<Leaf>,
        in_port: u16,
        bytes: u32,
        tally: &mut impl Tally,
    ) -> Forwarding {
        let (sent, received) = (leaves.egress, leaves.ingress);
        if f.dst_mac & GROUP != 0 {
            return Forwarding::Unknown;
        }
        let mut hits = Hits {
            slots: [NO_SLOT; 5],
            bytes,
        };
        if self.classes.egress.is_none() {
            return hits.dropped(in_port, DropReason::UnknownSender, tally);
        }
        if let Some(guard) = self.guard {
            let checked = guard.check(f);
            [hits.slots[2], hits.slots[3], hits.slots[4]] = checked.slots;
            if let Some(why) = checked.dropped {
                return hits.dropped(in_port, why, tally);
            }
        }
        if sent.is_list() {
            return Forwarding::Unknown;
        }
        hits.slots[0] = sent.slot();
        if !sent.is_allowed() {
            return hits.dropped(in_port, DropReason::EgressPolicy, tally);
        }
        let Some(port) = self.to else {
            return Forwarding::Unknown;
        };
        if port == in_port {
            return hits.dropped(in_port, DropReason::Hairpin, tally);
        }
        if self.classes.ingress.is_none() {
            return hits.dropped(in_port, DropReason::UnknownReceiver, tally);
        }
        if received.is_list() {
            return Forwarding::Unknown;
        }
        hits.slots[1] = received.slot();
        if !received.is_allowed() {
            return hits.dropped(in_port, DropReason::IngressPolicy, tally);
        }
        hits.count(tally);
        Forwarding::To(port)
    }
}

/// The result of forwarding a frame by its header subset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Send it to this port.
    To(u16),
    /// Dropped, and counted as such.
    Nowhere,
    /// The header subset is not enough: parse it whole with [`Snapshot::whole`].
    Unknown,
}

/// Rows that a frame hit: of the sender's policy and the receiver's, then of the guard.
struct Hits {
    slots: [u32; 5],
    bytes: u32,
}

impl Hits {
    fn count(&self, tally: &mut impl Tally) {
        for slot in self.slots {
            tally.hit(slot, self.bytes);
        }
    }

    fn dropped(&self, in_port: u16, why: DropReason, tally: &mut impl Tally) -> Forwarding {
        self.count(tally);
        tally.dropped(in_port, why);
        Forwarding::Nowhere
    }
}

/// Receivers of a frame, before their ingress policies.
enum To {
    One(u16),
    Group(u32),
}

fn to_many(f: &Fields) -> Result<To, DropReason> {
    let dst = f.dst_mac;
    if is_reserved(dst) {
        return Err(DropReason::ReservedGroup);
    }
    let for_one = match f.kind {
        Kind::Broken => true,
        Kind::Ipv4 => f.dst_ipv4 >> 28 != 0xe && f.dst_ipv4 != u32::MAX,
        Kind::Ipv6 => f.dst_ipv6 >> 120 != 0xff,
        _ => false,
    };
    if for_one {
        return Err(DropReason::UnicastInGroup);
    }
    Ok(To::Group(EVERYBODY))
}

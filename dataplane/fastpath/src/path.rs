//! A frame's way: parse, attach, guard, egress policy, L2; then for every copy deliver and ingress policy.

use crate::brief::Brief;
use crate::frame::{Fields, Kind};
use crate::row::NO_SLOT;
use crate::tables::Snapshot;

/// Why a frame, or one copy of it, goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Drop {
    /// Shorter than an Ethernet header.
    Runt,
    /// Nobody said what is behind this port and VLAN.
    UnknownSender,
    /// Not a MAC of the sender, or an ARP that lies.
    GuardMac,
    /// Not an address of the sender.
    GuardAddress,
    /// Neighbour discovery that speaks for somebody else.
    GuardNeighbour,
    /// The sender's policy.
    EgressPolicy,
    /// For a group that no bridge forwards (IEEE 802.1Q, table 8-1).
    ReservedGroup,
    /// A packet for one in a frame for many.
    UnicastInGroup,
    /// No port would get it.
    NoReceiver,
    /// To the port it came from.
    Hairpin,
    /// Nobody said who receives at this port and VLAN.
    UnknownReceiver,
    /// The receiver's policy.
    IngressPolicy,
}

impl Drop {
    /// Every reason.
    pub const ALL: [Drop; 12] = [
        Drop::Runt,
        Drop::UnknownSender,
        Drop::GuardMac,
        Drop::GuardAddress,
        Drop::GuardNeighbour,
        Drop::EgressPolicy,
        Drop::ReservedGroup,
        Drop::UnicastInGroup,
        Drop::NoReceiver,
        Drop::Hairpin,
        Drop::UnknownReceiver,
        Drop::IngressPolicy,
    ];

    /// Its name, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Drop::Runt => "runt",
            Drop::UnknownSender => "unknown_sender",
            Drop::GuardMac => "guard_mac",
            Drop::GuardAddress => "guard_address",
            Drop::GuardNeighbour => "guard_neighbour",
            Drop::EgressPolicy => "egress_policy",
            Drop::ReservedGroup => "reserved_group",
            Drop::UnicastInGroup => "unicast_in_group",
            Drop::NoReceiver => "no_receiver",
            Drop::Hairpin => "hairpin",
            Drop::UnknownReceiver => "unknown_receiver",
            Drop::IngressPolicy => "ingress_policy",
        }
    }
}

/// Where hits and drops are counted: a worker has its own.
pub trait Tally {
    /// A row was hit by a frame of so many bytes. [`crate::NO_SLOT`] counts nothing.
    fn hit(&mut self, slot: u32, bytes: u32);
    /// A frame that came in at a port goes nowhere, or a copy of it does not.
    fn dropped(&mut self, in_port: u16, why: Drop);
}

/// The ports a frame goes out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports<'a> {
    /// None.
    None,
    /// One.
    One(u16),
    /// Those that were put into the list.
    Many(&'a [u16]),
}

impl Ports<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let (one, many): (Option<u16>, &[u16]) = match self {
            Ports::None => (None, &[]),
            Ports::One(port) => (Some(*port), &[]),
            Ports::Many(list) => (None, list),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

/// Group of every port that somebody named, and of those that may have a MAC no row names.
const EVERYBODY: u32 = 1;
const UNKNOWN: u32 = 2;
/// The bit of a MAC that is for many.
const GROUP: u64 = 0x0100_0000_0000;

impl Snapshot {
    /// Where a frame goes that came in at a port. `list` is room for the ports when they are several.
    #[inline(always)]
    pub fn process<'a>(
        &self,
        frame: &[u8],
        in_port: u16,
        list: &'a mut Vec<u16>,
        tally: &mut impl Tally,
    ) -> Ports<'a> {
        let bytes = frame.len() as u32;
        if let Some(brief) = Brief::of(frame) {
            match self.brief(&brief, in_port, bytes, tally) {
                Short::To(port) => return Ports::One(port),
                Short::Dropped(why) => {
                    tally.dropped(in_port, why);
                    return Ports::None;
                }
                Short::Longer => {}
            }
        }
        self.whole(frame, in_port, list, tally)
    }

    /// The way of a frame that was parsed whole.
    #[inline(always)]
    fn whole<'a>(
        &self,
        frame: &[u8],
        in_port: u16,
        list: &'a mut Vec<u16>,
        tally: &mut impl Tally,
    ) -> Ports<'a> {
        let mut fields = Fields::default();
        if !fields.read(frame) {
            tally.dropped(in_port, Drop::Runt);
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

    /// The way of most frames: from a sender without guard, to one receiver, with rows of which the lines know enough.
    /// Nothing is counted before that is sure.
    #[inline(always)]
    fn brief(&self, f: &Brief, in_port: u16, bytes: u32, tally: &mut impl Tally) -> Short {
        let Some(from) = self.plug(in_port, f.vlan) else {
            return Short::Dropped(Drop::UnknownSender);
        };
        let Some(sends) = from.sends else {
            return Short::Dropped(Drop::UnknownSender);
        };
        if from.guard.is_some() || f.dst_mac & GROUP != 0 {
            return Short::Longer;
        }
        let mut slots = [NO_SLOT; 2];
        // Class 0: nothing is denied.
        if sends != 0 {
            let Some(verdict) = self.egress(sends).judge_brief(f, true) else {
                return Short::Longer;
            };
            if !verdict.allow {
                tally.hit(verdict.slot, bytes);
                return Short::Dropped(Drop::EgressPolicy);
            }
            slots[0] = verdict.slot;
        }
        let Some(port) = self.station(f.dst_mac) else {
            return Short::Longer;
        };
        if port == in_port {
            tally.hit(slots[0], bytes);
            return Short::Dropped(Drop::Hairpin);
        }
        let to = self.plug(port, f.vlan);
        let Some(receives) = to.and_then(|plug| plug.receives) else {
            tally.hit(slots[0], bytes);
            return Short::Dropped(Drop::UnknownReceiver);
        };
        let mut allow = true;
        if receives != 0 {
            let Some(verdict) = self.ingress(receives).judge_brief(f, false) else {
                return Short::Longer;
            };
            (allow, slots[1]) = (verdict.allow, verdict.slot);
        }
        for slot in slots {
            tally.hit(slot, bytes);
        }
        if allow {
            Short::To(port)
        } else {
            Short::Dropped(Drop::IngressPolicy)
        }
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
            tally.dropped(in_port, Drop::NoReceiver);
        }
        for port in members {
            match self.receiver(fields, in_port, *port, bytes, tally) {
                Ok(()) => list.push(*port),
                // A flood comes by the port it came from, and by ports outside the VLAN.
                Err(Drop::Hairpin | Drop::UnknownReceiver) => {}
                Err(why) => tally.dropped(in_port, why),
            }
        }
        Ports::Many(list)
    }

    #[inline(always)]
    fn sender(&self, f: &Fields, in_port: u16, bytes: u32, tally: &mut impl Tally) -> Result<To, Drop> {
        let plug = self.plug(in_port, f.vlan).ok_or(Drop::UnknownSender)?;
        let class = plug.sends.ok_or(Drop::UnknownSender)?;
        if let Some(guard) = &plug.guard {
            guard.check(f, bytes, tally)?;
        }
        // Class 0: nothing is denied.
        if class != 0 {
            let verdict = self.egress(class).judge(f, true);
            tally.hit(verdict.slot, bytes);
            if !verdict.allow {
                return Err(Drop::EgressPolicy);
            }
        }
        if f.dst_mac & GROUP == 0 {
            return Ok(match self.station(f.dst_mac) {
                Some(port) => To::One(port),
                None => To::Group(UNKNOWN),
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
    ) -> Result<(), Drop> {
        if in_port == out_port {
            return Err(Drop::Hairpin);
        }
        let plug = self.plug(out_port, f.vlan).ok_or(Drop::UnknownReceiver)?;
        let class = plug.receives.ok_or(Drop::UnknownReceiver)?;
        if class != 0 {
            let verdict = self.ingress(class).judge(f, false);
            tally.hit(verdict.slot, bytes);
            if !verdict.allow {
                return Err(Drop::IngressPolicy);
            }
        }
        Ok(())
    }
}

/// What became of a frame by the short way.
enum Short {
    /// Out of a port.
    To(u16),
    /// Nowhere.
    Dropped(Drop),
    /// More of it has to be looked at.
    Longer,
}

/// Where a frame goes if receivers may be sent it.
enum To {
    One(u16),
    Group(u32),
}

fn to_many(f: &Fields) -> Result<To, Drop> {
    let dst = f.dst_mac;
    if dst & 0xffff_ffff_fff0 == 0x0180_c200_0000 || dst & 0xffff_ffff_fffe == 0x0100_0ccc_cccc {
        return Err(Drop::ReservedGroup);
    }
    let for_one = match f.kind {
        Kind::Broken => true,
        Kind::Ipv4 => f.dst_ipv4 >> 28 != 0xe && f.dst_ipv4 != u32::MAX,
        Kind::Ipv6 => f.dst_ipv6 >> 120 != 0xff,
        _ => false,
    };
    if for_one {
        return Err(Drop::UnicastInGroup);
    }
    Ok(To::Group(EVERYBODY))
}

//! What a parser shows of one protocol at one pair of addresses, and what rows do with it.

use portcullis_policy::{
    Entry, Family, FlagMatch, Fragment, Frame, IpPacket, L4, Packet, Protocol, TCP_ACK, TCP_SYN, Verdict,
    intervals,
};

use super::super::addresses::address;
use super::super::ports::{Coding, Run, runs};
use crate::class_rows::{PolicyRow, PortMatch};

/// What rows do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Deny,
    Pass,
    /// Rows of one priority disagree.
    Unsure,
}

/// What rows do with packets of which a parser may show anything inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) may_deny: bool,
    pub(super) may_pass: bool,
}

impl Range {
    pub(super) const NOTHING: Range = Range {
        may_deny: false,
        may_pass: false,
    };

    pub(super) fn add(&mut self, says: Says) {
        self.may_deny |= says != Says::Pass;
        self.may_pass |= says != Says::Deny;
    }

    pub(super) fn join(self, other: Self) -> Self {
        Range {
            may_deny: self.may_deny || other.may_deny,
            may_pass: self.may_pass || other.may_pass,
        }
    }
}

/// What a parser shows of the inside of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside {
    pub(super) src: u16,
    pub(super) dst: u16,
    pub(super) flags: u16,
    pub(super) later: bool,
}

pub(super) fn says(rows: &[&PolicyRow], inside: Inside) -> Says {
    deciding(rows, inside).0
}

/// What rows do with a packet, and the first that matches it.
pub(super) fn deciding<'r>(rows: &[&'r PolicyRow], inside: Inside) -> (Says, Option<&'r PolicyRow>) {
    let hits = |row: &&&PolicyRow| {
        row.key.later.is_none_or(|later| later == inside.later)
            && row
                .key
                .flags
                .is_none_or(|(value, mask)| inside.flags & mask == value)
            && row.key.src.hits(inside.src, 0)
            && row.key.dst.hits(inside.dst, 0)
    };
    let mut hits = rows.iter().filter(hits);
    let Some(first) = hits.next() else {
        return (Says::Pass, None);
    };
    let mut equals = hits.take_while(|row| row.priority == first.priority);
    let says = match first.action {
        _ if equals.any(|row| row.action != first.action) => Says::Unsure,
        Verdict::Allow => Says::Pass,
        Verdict::Deny => Says::Deny,
    };
    (says, Some(first))
}

/// Where the numbers of a dimension begin to mean something else.
pub(super) fn cuts(
    entries: impl Iterator<Item = Run>,
    rows: impl Iterator<Item = PortMatch>,
    last: u16,
) -> Vec<u16> {
    let mut intervals: Vec<Run> = entries.collect();
    for port in rows {
        runs(port, Coding::Constant(0), last, &mut intervals);
    }
    intervals::starts(intervals, last)
}

/// Values of the TCP flags that stand for all that rows and policies tell apart.
pub(super) fn flag_values(rows: &[&PolicyRow], protocol: u8) -> Vec<u16> {
    if protocol != Protocol::TCP {
        return vec![0];
    }
    let masks = rows.iter().filter_map(|row| row.key.flags).map(|(_, mask)| mask);
    let bits = masks.fold(TCP_SYN | TCP_ACK, |all, mask| all | mask);
    let mut values = vec![0];
    for bit in (0..16).map(|n| 1u16 << n).filter(|bit| bits & bit != 0) {
        let with: Vec<u16> = values.iter().map(|value| value | bit).collect();
        values.extend(with);
    }
    values
}

/// What one protocol is at one pair of addresses.
pub(super) struct Slice<'a> {
    pub(super) family: Family,
    pub(super) protocol: u8,
    pub(super) remote: u128,
    pub(super) local: u128,
    pub(super) entries: Vec<(u32, &'a Entry)>,
    /// Rows that packets can match which show this protocol.
    pub(super) rows: Vec<&'a PolicyRow>,
    /// Rows that packets can match which show an extension header instead.
    pub(super) stray: Vec<Vec<&'a PolicyRow>>,
}

impl Slice<'_> {
    pub(super) fn is_icmp(&self) -> bool {
        matches!(
            (self.protocol, self.family),
            (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6)
        )
    }

    pub(super) fn last(&self) -> u16 {
        match self.is_icmp() {
            true => 255,
            false => u16::MAX,
        }
    }

    pub(super) fn packet(&self, fragment: Fragment, l4: L4) -> Packet {
        Packet {
            frame: Frame::Ip(IpPacket {
                local: address(self.family, self.local),
                remote: address(self.family, self.remote),
                protocol: Some(self.protocol),
                fragment,
                l4,
            }),
        }
    }

    pub(super) fn l4(&self, inside: Inside) -> L4 {
        let Inside { src, dst, flags, .. } = inside;
        if Protocol::has_ports(self.protocol) {
            L4::Ports { src, dst, flags }
        } else if self.is_icmp() {
            L4::Icmp {
                kind: u8::try_from(src).unwrap_or(u8::MAX),
                code: u8::try_from(dst).unwrap_or(u8::MAX),
            }
        } else {
            L4::Nothing
        }
    }

    pub(super) fn hits(&self, entry: &Entry, inside: Inside) -> bool {
        let m = &entry.matcher;
        if Protocol::has_ports(self.protocol) {
            let opens = self.protocol == Protocol::TCP && inside.flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            return m.src_ports.contains(inside.src)
                && m.dst_ports.contains(inside.dst)
                && (m.flags == FlagMatch::Any || !opens);
        }
        let icmp = m.icmp.filter(|_| self.is_icmp());
        icmp.is_none_or(|icmp| {
            u16::from(icmp.kind) == inside.src && icmp.code.is_none_or(|code| u16::from(code) == inside.dst)
        })
    }

    /// The source and destination intervals of the entries.
    pub(super) fn intervals(&self) -> (Vec<Run>, Vec<Run>) {
        let (mut src, mut dst) = (Vec::new(), Vec::new());
        for (_, entry) in &self.entries {
            let m = &entry.matcher;
            if Protocol::has_ports(self.protocol) {
                src.extend(m.src_ports.iter());
                dst.extend(m.dst_ports.iter());
            } else if let Some(icmp) = m.icmp.filter(|_| self.is_icmp()) {
                let one = |n: u8| (u16::from(n), u16::from(n));
                src.push(one(icmp.kind));
                dst.extend(icmp.code.map(one));
            }
        }
        (src, dst)
    }
}

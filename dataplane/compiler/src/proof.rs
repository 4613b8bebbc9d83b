//! The proof: do these rows mean that policy, on every packet?
//!
//! Exact, not sampled: each dimension is cut at every bound that the policy or a row mentions, so that within
//! a cell neither can change its mind, and one representative of each cell is judged by both. Cells that the
//! same entries and rows reach are judged once. Shares no code with the encoder: it reads rows and policy.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_policy::{
    Action, Entry, Family, FlagMatch, Fragment, Frame, IPV6_FRAGMENT, IpPacket, L4, Packet, Policy, Protocol,
    TCP_ACK, TCP_SYN, View,
};

use crate::model::StageModel;
use crate::program::{FrameMatch, PolicyRow, Program};

/// A packet on which rows and policy differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The packet.
    pub packet: Packet,
    /// What the policy says.
    pub wanted: Action,
    /// What the rows say; `None` when no row matches or two of equal priority disagree.
    pub got: Option<Action>,
}

impl std::fmt::Display for Counterexample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the policy says {} and the rows say ", self.wanted)?;
        match self.got {
            Some(action) => write!(f, "{action}")?,
            None => f.write_str("nothing certain")?,
        }
        write!(f, " for {:?}", self.packet.frame)
    }
}

/// The verdict of the highest matching row; `None` when there is none or equals disagree.
fn top<'a>(rows: impl Iterator<Item = &'a PolicyRow>) -> Option<Action> {
    let mut best: Option<(u16, Option<Action>)> = None;
    for row in rows {
        best = match best {
            Some((priority, action)) if priority > row.priority => Some((priority, action)),
            Some((priority, action)) if priority == row.priority => {
                Some((priority, action.filter(|a| *a == row.action)))
            }
            _ => Some((row.priority, Some(row.action))),
        };
    }
    best.and_then(|(_, action)| action)
}

fn reach_frame(row: &PolicyRow, family: Family) -> bool {
    match row.key.frame {
        FrameMatch::Any => true,
        FrameMatch::Ip(f) => f == family,
        FrameMatch::Arp | FrameMatch::EtherType(_) => false,
    }
}

/// Checks `program` and the rows that hold for every class against `policy` on `model`.
pub fn prove(
    policy: &Policy,
    program: &Program,
    fixed: &[PolicyRow],
    model: &StageModel,
) -> Result<(), Box<Counterexample>> {
    if !policy.may_deny() {
        // Such a class is never sent through the policy stage; a row would be a mistake.
        return match program.policy.first() {
            None => Ok(()),
            Some(row) => Err(Box::new(Counterexample {
                packet: Packet { frame: Frame::Other },
                wanted: Action::Allow,
                got: Some(row.action),
            })),
        };
    }
    let rows: Vec<&PolicyRow> = fixed.iter().chain(&program.policy).collect();
    not_ip(policy, &rows, model)?;
    for family in Family::BOTH {
        let reaching: Vec<&PolicyRow> = rows.iter().copied().filter(|r| reach_frame(r, family)).collect();
        Prover {
            policy,
            program,
            model,
            family,
        }
        .addresses(&reaching)?;
    }
    Ok(())
}

fn not_ip(policy: &Policy, rows: &[&PolicyRow], model: &StageModel) -> Result<(), Box<Counterexample>> {
    // 0x88cc stands for every EtherType that no row names.
    let unnamed = 0x88cc_u16;
    let types: BTreeSet<u16> = rows
        .iter()
        .filter_map(|r| match r.key.frame {
            FrameMatch::EtherType(t) => Some(t),
            _ => None,
        })
        .chain(model.opaque_ethertypes.iter().copied())
        .chain([unnamed])
        .collect();
    let blank = |r: &&PolicyRow| {
        let k = r.key;
        k.protocol.is_none() && k.later != Some(true) && k.flags.is_none() && k.local.is_none()
    };
    let check = |frame: Frame, hit: &dyn Fn(FrameMatch) -> bool| {
        let got = top(rows.iter().copied().filter(blank).filter(|r| hit(r.key.frame)));
        let packet = Packet { frame };
        let (wanted, _) = policy.judge(&packet, model.view);
        if got == Some(wanted) {
            Ok(())
        } else {
            Err(Box::new(Counterexample { packet, wanted, got }))
        }
    };
    check(Frame::Arp, &|f| matches!(f, FrameMatch::Any | FrameMatch::Arp))?;
    for t in types {
        let frame = if model.opaque_ethertypes.contains(&t) {
            Frame::Opaque
        } else {
            Frame::Other
        };
        check(frame, &|f| f == FrameMatch::Any || f == FrameMatch::EtherType(t))?;
    }
    Ok(())
}

struct Prover<'a> {
    policy: &'a Policy,
    program: &'a Program,
    model: &'a StageModel,
    family: Family,
}

/// One pair of addresses and what reaches it.
struct Place<'a> {
    local: IpAddr,
    remote: IpAddr,
    entries: Vec<&'a Entry>,
    rows: Vec<&'a PolicyRow>,
}

impl<'a> Prover<'a> {
    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    /// The first address of every cell that these prefixes cut the space into.
    fn cuts(&self, prefixes: impl Iterator<Item = IpNet>) -> Vec<IpAddr> {
        let number = |address: IpAddr| match address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        let last = if self.family == Family::V4 {
            u128::from(u32::MAX)
        } else {
            u128::MAX
        };
        let mut cuts: BTreeSet<u128> = BTreeSet::from([0]);
        for prefix in prefixes.filter(|p| Family::of(p.addr()) == self.family) {
            cuts.insert(number(prefix.network()));
            cuts.extend(number(prefix.broadcast()).checked_add(1).filter(|n| *n <= last));
        }
        cuts.into_iter().map(|n| self.address(n)).collect()
    }

    fn addresses(&self, rows: &[&'a PolicyRow]) -> Result<(), Box<Counterexample>> {
        let entries: Vec<&Entry> = self
            .policy
            .entries
            .iter()
            .filter(|e| e.matcher.families.contains(self.family))
            .collect();
        let table = self
            .program
            .remote
            .iter()
            .filter(|r| Family::of(r.prefix.addr()) == self.family);
        let remotes = self.cuts(
            entries
                .iter()
                .flat_map(|e| e.matcher.remote.iter().copied())
                .chain(table.map(|r| r.prefix)),
        );
        let locals = self.cuts(
            entries
                .iter()
                .flat_map(|e| e.matcher.local.iter().copied())
                .chain(rows.iter().filter_map(|r| r.key.local)),
        );
        let within = |list: &[IpNet], a: IpAddr| list.is_empty() || list.iter().any(|p| p.contains(&a));
        let mut judged = HashSet::new();
        for remote in &remotes {
            let id = self.remote_id(*remote);
            let near: Vec<usize> = (0..entries.len())
                .filter(|i| within(&entries[*i].matcher.remote, *remote))
                .collect();
            for local in &locals {
                let e: Vec<usize> = near
                    .iter()
                    .copied()
                    .filter(|i| within(&entries[*i].matcher.local, *local))
                    .collect();
                let r: Vec<usize> = (0..rows.len())
                    .filter(|i| {
                        let key = &rows[*i].key;
                        key.remote.is_none_or(|want| want == id)
                            && key.local.is_none_or(|p| p.contains(local))
                    })
                    .collect();
                if judged.insert((e.clone(), r.clone())) {
                    let place = Place {
                        local: *local,
                        remote: *remote,
                        entries: e.iter().map(|i| entries[*i]).collect(),
                        rows: r.iter().map(|i| rows[*i]).collect(),
                    };
                    self.protocols(&place)?;
                }
            }
        }
        Ok(())
    }

    fn remote_id(&self, address: IpAddr) -> u32 {
        let hits = self.program.remote.iter().filter(|r| r.prefix.contains(&address));
        hits.max_by_key(|r| r.prefix.prefix_len()).map_or(0, |r| r.id)
    }

    fn protocols(&self, place: &Place<'a>) -> Result<(), Box<Counterexample>> {
        let all = &place.rows;
        let mut numbers: BTreeSet<u8> = place
            .entries
            .iter()
            .filter_map(|e| match e.matcher.protocol {
                Protocol::Number(n) => Some(n),
                Protocol::Any => None,
            })
            .chain(place.rows.iter().filter_map(|r| r.key.protocol))
            .chain([
                Protocol::TCP,
                Protocol::UDP,
                Protocol::SCTP,
                Protocol::ICMP,
                Protocol::ICMPV6,
            ])
            .collect();
        // One stands for all that nobody names.
        numbers.extend((0..=255).find(|n| !numbers.contains(n)));
        for protocol in numbers {
            let place = Place {
                entries: place
                    .entries
                    .iter()
                    .copied()
                    .filter(|e| {
                        matches!(e.matcher.protocol, Protocol::Any)
                            || e.matcher.protocol == Protocol::Number(protocol)
                    })
                    .collect(),
                rows: place
                    .rows
                    .iter()
                    .copied()
                    .filter(|r| r.key.protocol.is_none_or(|p| p == protocol))
                    .collect(),
                ..*place
            };
            self.later(&place, all, protocol)?;
            self.ports(&place, protocol)?;
        }
        Ok(())
    }

    /// Later fragments: targets show them with zero ports, flags, type and code; of IPv6 perhaps as protocol 44.
    fn later(
        &self,
        place: &Place<'a>,
        all: &[&'a PolicyRow],
        protocol: u8,
    ) -> Result<(), Box<Counterexample>> {
        let hidden = self.family == Family::V6 && !self.model.view.later_v6_protocol;
        let shown = if hidden { IPV6_FRAGMENT } else { protocol };
        let got = top(all.iter().copied().filter(|r| {
            let k = &r.key;
            k.protocol.is_none_or(|p| p == shown)
                && k.later != Some(false)
                && flags_hit(k.flags, 0)
                && k.src.hits(0)
                && k.dst.hits(0)
        }));
        // Offset 2, because offset 1 of TCP is Evasion's on targets that see offsets.
        let fragment = Fragment::Later { offset: 2 };
        self.compare(place, protocol, fragment, L4::Nothing, got)
    }

    fn compare(
        &self,
        place: &Place<'a>,
        protocol: u8,
        fragment: Fragment,
        l4: L4,
        got: Option<Action>,
    ) -> Result<(), Box<Counterexample>> {
        let (local, remote) = (place.local, place.remote);
        let ip = IpPacket {
            local,
            remote,
            protocol: Some(protocol),
            fragment,
            l4,
        };
        let packet = Packet { frame: Frame::Ip(ip) };
        let (wanted, _) = self.policy.judge(&packet, self.model.view);
        if got == Some(wanted) {
            Ok(())
        } else {
            Err(Box::new(Counterexample { packet, wanted, got }))
        }
    }

    fn ports(&self, place: &Place<'a>, protocol: u8) -> Result<(), Box<Counterexample>> {
        let rows: Vec<&PolicyRow> = place
            .rows
            .iter()
            .copied()
            .filter(|r| r.key.later != Some(true))
            .collect();
        let icmp = match self.family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        } == protocol;
        if !icmp && !Protocol::has_ports(protocol) {
            let got = top(rows
                .iter()
                .copied()
                .filter(|r| r.key.flags.is_none() && r.key.src.hits(0) && r.key.dst.hits(0)));
            return self.compare(place, protocol, Fragment::Whole, L4::Nothing, got);
        }
        let last = if icmp { 255 } else { u16::MAX };
        let sources = cells(place, &rows, last, &|e| extent(e, icmp).0, &|r| r.key.src);
        let flags: Vec<u16> = if protocol == Protocol::TCP {
            flag_cells(&rows)
        } else {
            vec![0]
        };
        let mut seen = HashSet::new();
        for src in sources {
            let near = Place {
                entries: place
                    .entries
                    .iter()
                    .copied()
                    .filter(|e| inside(&extent(e, icmp).0, src))
                    .collect(),
                rows: rows.iter().copied().filter(|r| r.key.src.hits(src)).collect(),
                ..*place
            };
            let reach: (Vec<*const Entry>, Vec<*const PolicyRow>) = (
                near.entries.iter().map(|e| std::ptr::from_ref(*e)).collect(),
                near.rows.iter().map(|r| std::ptr::from_ref(*r)).collect(),
            );
            // Source 0 is a cell of its own: a header of zeros may mean one that is too short.
            if seen.insert(reach) || src == 0 {
                self.line(&near, protocol, icmp, src, last, &flags)?;
            }
        }
        Ok(())
    }

    fn line(
        &self,
        place: &Place<'a>,
        protocol: u8,
        icmp: bool,
        src: u16,
        last: u16,
        flags: &[u16],
    ) -> Result<(), Box<Counterexample>> {
        for dst in cells(place, &place.rows, last, &|e| extent(e, icmp).1, &|r| r.key.dst) {
            let entries: Vec<&Entry> = place
                .entries
                .iter()
                .copied()
                .filter(|e| inside(&extent(e, icmp).1, dst))
                .collect();
            let rows: Vec<&PolicyRow> = place
                .rows
                .iter()
                .copied()
                .filter(|r| r.key.dst.hits(dst))
                .collect();
            for flag in flags {
                let got = top(rows.iter().copied().filter(|r| flags_hit(r.key.flags, *flag)));
                if got == Some(self.wanted(&entries, protocol, src, dst, *flag)) {
                    continue;
                }
                let l4 = if icmp {
                    L4::Icmp {
                        kind: src as u8,
                        code: dst as u8,
                    }
                } else {
                    L4::Ports {
                        src,
                        dst,
                        flags: *flag,
                    }
                };
                self.compare(place, protocol, Fragment::Whole, l4, got)?;
            }
        }
        Ok(())
    }

    /// The policy's verdict, quickly: first of the entries that reach this cell. Where it differs from the
    /// rows the reference verdict has the last word.
    fn wanted(&self, entries: &[&Entry], protocol: u8, src: u16, dst: u16, flags: u16) -> Action {
        let ports = Protocol::has_ports(protocol);
        if ports && !self.model.view.short_header && src == 0 && dst == 0 && flags == 0 {
            return Action::Deny;
        }
        let opening = protocol == Protocol::TCP && flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        let hit = entries
            .iter()
            .find(|e| e.matcher.flags == FlagMatch::Any || !opening);
        hit.map_or(self.policy.default, |e| e.action)
    }
}

fn flags_hit(want: Option<(u16, u16)>, flags: u16) -> bool {
    want.is_none_or(|(value, mask)| flags & mask == value)
}

/// Inclusive intervals.
type Intervals = Vec<(u16, u16)>;

/// Source and destination intervals of an entry; type and code for ICMP.
fn extent(entry: &Entry, icmp: bool) -> (Intervals, Intervals) {
    let m = &entry.matcher;
    if !icmp {
        return (m.src_ports.iter().collect(), m.dst_ports.iter().collect());
    }
    let one = |n: u8| vec![(u16::from(n), u16::from(n))];
    match m.icmp {
        None => (vec![(0, 255)], vec![(0, 255)]),
        Some(i) => (one(i.kind), i.code.map_or_else(|| vec![(0, 255)], one)),
    }
}

fn inside(intervals: &[(u16, u16)], n: u16) -> bool {
    intervals.iter().any(|(low, high)| *low <= n && n <= *high)
}

/// The first number of every cell along one port dimension. Numbers 0 and 1 are always cells.
fn cells(
    place: &Place<'_>,
    rows: &[&PolicyRow],
    last: u16,
    of_entry: &dyn Fn(&Entry) -> Vec<(u16, u16)>,
    of_row: &dyn Fn(&PolicyRow) -> crate::program::PortMatch,
) -> Vec<u16> {
    use crate::program::PortMatch;
    let mut cuts: BTreeSet<u16> = BTreeSet::from([0, 1]);
    let mut cut = |low: u16, high: u16| {
        cuts.insert(low);
        cuts.extend(high.checked_add(1));
    };
    for entry in &place.entries {
        of_entry(entry).into_iter().for_each(|(low, high)| cut(low, high));
    }
    for row in rows {
        match of_row(row) {
            PortMatch::Any => {}
            PortMatch::Range { low, high } => cut(low, high),
            // A prefix mask is an interval; any other mask is cut at every number it could tell apart.
            PortMatch::Masked { value, mask } if mask.leading_ones() + mask.trailing_zeros() >= 16 => {
                cut(value, value | !mask);
            }
            PortMatch::Masked { .. } => (0..=last).for_each(|n| cut(n, n)),
        }
    }
    cuts.into_iter().filter(|n| *n <= last).collect()
}

/// One value of the 12 TCP flag bits for each way in which rows and policy can tell them apart.
fn flag_cells(rows: &[&PolicyRow]) -> Vec<u16> {
    let told: BTreeSet<(u16, u16)> = rows
        .iter()
        .filter_map(|r| r.key.flags)
        .chain([(TCP_SYN, TCP_SYN | TCP_ACK), (0, 0xfff)])
        .collect();
    if told.len() == 2 {
        // The two that are always told apart, and nothing else: no flag, opening, any other.
        return vec![0, 1, TCP_SYN];
    }
    let mut seen = HashSet::new();
    (0..0x1000u16)
        .filter(|flags| {
            seen.insert(
                told.iter()
                    .map(|t| flags_hit(Some(*t), *flags))
                    .collect::<Vec<bool>>(),
            )
        })
        .collect()
}

/// The remote id that the rows give an address, and the row that gives it.
pub fn remote_row(program: &Program, address: IpAddr) -> Option<&crate::program::RemoteRow> {
    program
        .remote
        .iter()
        .filter(|r| r.prefix.contains(&address))
        .max_by_key(|r| r.prefix.prefix_len())
}

/// The row that decides about one packet: what a correct target does. `None` when no row matches.
pub fn deciding_row<'a>(
    program: &'a Program,
    fixed: &'a [PolicyRow],
    packet: &Packet,
    view: View,
) -> Option<&'a PolicyRow> {
    let hit = |row: &&PolicyRow| -> bool {
        let k = &row.key;
        match &packet.frame {
            Frame::Arp => matches!(k.frame, FrameMatch::Any | FrameMatch::Arp) && k.protocol.is_none(),
            Frame::Other | Frame::Opaque => k.frame == FrameMatch::Any && k.protocol.is_none(),
            Frame::Ip(ip) => {
                let (src, dst, flags) = match ip.l4 {
                    L4::Ports { src, dst, flags } => (src, dst, flags),
                    L4::Icmp { kind, code } => (u16::from(kind), u16::from(code), 0),
                    L4::Short | L4::Nothing => (0, 0, 0),
                };
                let later = matches!(ip.fragment, Fragment::Later { .. });
                let hidden = later && ip.remote.is_ipv6() && !view.later_v6_protocol;
                let shown = if hidden {
                    IPV6_FRAGMENT
                } else {
                    ip.protocol.unwrap_or(0)
                };
                let id = || remote_row(program, ip.remote).map_or(0, |r| r.id);
                reach_frame(row, Family::of(ip.remote))
                    && k.protocol.is_none_or(|p| shown == p)
                    && k.later.is_none_or(|want| want == later)
                    && flags_hit(k.flags, flags)
                    && k.remote.is_none_or(|want| want == id())
                    && k.local.is_none_or(|p| p.contains(&ip.local))
                    && k.src.hits(src)
                    && k.dst.hits(dst)
            }
        }
    };
    fixed
        .iter()
        .chain(&program.policy)
        .filter(hit)
        .max_by_key(|r| r.priority)
}

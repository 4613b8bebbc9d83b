//! The proof that a partial point denies only what the policy denies, whatever its parser shows, and the account of how much of
//! it.
//!
//! Every packet is looked at: all addresses, protocols, ports and flags, cut where an entry or a row changes its mind, in each of
//! its kinds ([`PacketKind`]). Where a parser may show anything in the place of ports, every pair of ports is tried. A packet that
//! the policy lets pass must meet no row that denies, unless its kind is accepted; one that it denies and that some answer of
//! the parser lets pass is a gap of the rule that denies it.

use std::collections::HashSet;

use ipnet::IpNet;
use portcullis_policy::{
    Decider, Entry, Family, Fragment, Frame, IPV6_EXTENSIONS, IPV6_FRAGMENT, L4, Packet, Policy, Protocol,
    RARP, Verdict, intervals,
};

use super::addresses::{address, last};
use super::coverage::{Coverage, Passing};
use super::{Counterexample, is_bare};
use crate::class_rows::{ClassRows, FrameMatch, PolicyRow, PortMatch, RemoteMatch};
use crate::model::{Field, PacketKind, PartialPoint, Role, StageModel};

mod shown;
use shown::{Inside, Range, Says, Slice, cuts, deciding, flag_values, says};

/// Comparisons of a packet with a row that one proof may take: a few seconds.
const MOST: u64 = 200_000_000;

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproved {
    /// A packet that the policy lets pass and the rows may deny.
    Differs(Box<Counterexample>),
    /// It would take too long.
    TooLarge,
}

/// Proves the rows of a partial point against a policy, and tells what they enforce of it.
pub fn prove(
    policy: &Policy,
    program: &ClassRows,
    model: &StageModel,
    partial: &PartialPoint,
) -> Result<Coverage, Unproved> {
    let mut rows: Vec<&PolicyRow> = program.policy.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.priority));
    let table = model.table(Role::Policy, policy.direction);
    let mut proof = Proof {
        policy,
        rows,
        model,
        partial,
        later_key: table.is_some_and(|t| t.key(Field::Later).is_some()),
        coverage: Coverage::default(),
        seen: HashSet::new(),
        spots: HashSet::new(),
        left: MOST,
    };
    if !policy.may_deny() {
        return match proof.rows.first() {
            None => Ok(proof.coverage),
            Some(_) => Err(differs(Packet { frame: Frame::Other }, None)),
        };
    }
    if !program.remote.is_empty() || !program.words.is_empty() || proof.rows.iter().any(|r| !is_plain(r)) {
        return Err(differs(Packet { frame: Frame::Other }, None));
    }
    proof.not_ip()?;
    for family in Family::BOTH {
        proof.family(family)?;
    }
    Ok(proof.coverage)
}

fn differs(packet: Packet, got: Option<Verdict>) -> Unproved {
    Unproved::Differs(Box::new(Counterexample {
        packet,
        wanted: Verdict::Allow,
        got,
    }))
}

/// Whether a row is of the kind that partial points have: no ids, words or codes, and ports, types and flags only where it names
/// the protocol that has them.
fn is_plain(row: &PolicyRow) -> bool {
    let key = &row.key;
    let coded = |port| matches!(port, PortMatch::Code { .. });
    let inside = key.src != PortMatch::Any || key.dst != PortMatch::Any;
    let has_numbers = match (key.protocol, key.frame) {
        (Some(Protocol::ICMP), FrameMatch::Ip(Family::V4)) => true,
        (Some(Protocol::ICMPV6), FrameMatch::Ip(Family::V6)) => true,
        (Some(number), FrameMatch::Ip(_) | FrameMatch::AnyIp) => Protocol::has_ports(number),
        _ => false,
    };
    let about_ip = matches!(key.frame, FrameMatch::Ip(_) | FrameMatch::AnyIp);
    row.words.is_none()
        && !coded(key.src)
        && !coded(key.dst)
        && !matches!(key.remote, RemoteMatch::Id(_))
        && key.frame != FrameMatch::Unreadable
        && (!inside || has_numbers)
        && (key.flags.is_none() || (has_numbers && key.protocol == Some(Protocol::TCP)))
        && (about_ip || is_bare(key))
}

fn passed(packet: Packet) -> Passing {
    Passing { packet, by: None }
}

/// A proof under way.
struct Proof<'a> {
    policy: &'a Policy,
    rows: Vec<&'a PolicyRow>,
    model: &'a StageModel,
    partial: &'a PartialPoint,
    later_key: bool,
    coverage: Coverage,
    /// Slices that were looked at: version, protocol, indexes of entries and rows.
    seen: HashSet<(Family, u8, Vec<u32>, Vec<u32>)>,
    /// Pairs of addresses that were looked at: version, indexes of entries and rows.
    spots: HashSet<(Family, Vec<u32>, Vec<u32>)>,
    /// Comparisons that it may still take.
    left: u64,
}

impl<'a> Proof<'a> {
    fn spend(&mut self, cells: usize, rows: usize) -> Result<(), Unproved> {
        let cost = (cells as u64).saturating_mul(rows as u64 + 1);
        self.left = self.left.checked_sub(cost).ok_or(Unproved::TooLarge)?;
        Ok(())
    }

    /// ARP, RARP, and each EtherType that a row names.
    fn not_ip(&mut self) -> Result<(), Unproved> {
        let named = self.rows.iter().filter_map(|row| match row.key.frame {
            FrameMatch::EtherType(number) => Some(number),
            _ => None,
        });
        let mut types: Vec<u16> = named.chain([RARP]).collect();
        types.extend(
            (0x0600..=u16::MAX).find(|number| !types.contains(number) && !super::READ.contains(number)),
        );
        let mut frames = vec![(Frame::Arp, 0x0806)];
        frames.extend(
            types
                .iter()
                .filter(|t| !super::READ.contains(t))
                .map(|t| match *t {
                    RARP => (Frame::Rarp, RARP),
                    other => (Frame::Other, other),
                }),
        );
        for (frame, number) in frames {
            let hit = |row: &&PolicyRow| match row.key.frame {
                FrameMatch::Any => true,
                FrameMatch::Arp => number == 0x0806,
                FrameMatch::EtherType(t) => t == number,
                FrameMatch::Ip(_) | FrameMatch::AnyIp | FrameMatch::Unreadable => false,
            };
            let rows: Vec<&PolicyRow> = self.rows.iter().copied().filter(hit).collect();
            let inside = Inside {
                src: 0,
                dst: 0,
                flags: 0,
                later: false,
            };
            let got = says(&rows, inside);
            let packet = Packet { frame };
            let (wanted, by) = self.policy.judge(&packet, PartialPoint::VIEW);
            match (wanted, got) {
                (Verdict::Allow, Says::Pass) => {}
                (Verdict::Allow, _) => return Err(differs(packet, Some(Verdict::Deny))),
                // IP that the policy lets pass may be carried by such a frame, in LLC or behind tags that the parser does not know.
                (Verdict::Deny, Says::Deny) if self.passes_some_ip() => {
                    return Err(differs(Packet { frame: Frame::Opaque }, Some(Verdict::Deny)));
                }
                (Verdict::Deny, Says::Deny) => self.coverage.note(by, PacketKind::NotIp, None),
                (Verdict::Deny, _) => self.coverage.note(by, PacketKind::NotIp, Some(passed(packet))),
            }
        }
        Ok(())
    }

    /// Whether the policy lets any IP packet pass, essentials of IP among them.
    fn passes_some_ip(&self) -> bool {
        self.policy.default.passes() || self.policy.entries.iter().any(|entry| entry.action.passes())
    }

    /// Where a list of prefixes changes, among the addresses of one version.
    fn starts(&self, family: Family, prefixes: impl Iterator<Item = IpNet>) -> Vec<u128> {
        let own = prefixes.filter(|p| Family::from_address(p.addr()) == family);
        let range = |p: IpNet| (intervals::number(p.network()), intervals::number(p.broadcast()));
        intervals::starts(own.map(range), last(family))
    }

    fn family(&mut self, family: Family) -> Result<(), Unproved> {
        let policy = self.policy;
        let remote_rows = self.rows.iter().filter_map(|row| match row.key.remote {
            RemoteMatch::Prefix(prefix) => Some(prefix),
            RemoteMatch::Any | RemoteMatch::Id(_) => None,
        });
        let matchers = || policy.entries.iter().map(|e| &e.matcher);
        let remotes = self.starts(
            family,
            matchers()
                .flat_map(|m| m.remote.iter().copied())
                .chain(remote_rows),
        );
        let local_rows = self.rows.iter().filter_map(|row| row.key.local);
        let locals = self.starts(
            family,
            matchers().flat_map(|m| m.local.iter().copied()).chain(local_rows),
        );
        let protocols = self.protocols(family);
        for remote in &remotes {
            for local in &locals {
                self.spend(1, policy.entries.len() + self.rows.len())?;
                self.spot(family, *remote, *local, &protocols)?;
            }
        }
        Ok(())
    }

    /// Protocols that stand for all.
    fn protocols(&self, family: Family) -> Vec<u8> {
        let named = self
            .policy
            .entries
            .iter()
            .filter_map(|e| match e.matcher.protocol {
                Protocol::Number(number) => Some(number),
                Protocol::Any => None,
            });
        let of_rows = self.rows.iter().filter_map(|row| row.key.protocol);
        let usual = [
            Protocol::TCP,
            Protocol::UDP,
            Protocol::SCTP,
            Protocol::ICMP,
            Protocol::ICMPV6,
        ];
        let mut all: Vec<u8> = named.chain(of_rows).chain(usual).collect();
        all.extend((1..=u8::MAX).find(|number| !all.contains(number) && !IPV6_EXTENSIONS.contains(number)));
        all.sort_unstable();
        all.dedup();
        // What ends in the number of a header that others follow is no packet that a policy lets pass, or one of its own.
        all.retain(|number| *number != 0 && (family == Family::V4 || !IPV6_EXTENSIONS.contains(number)));
        all
    }

    /// All protocols at one pair of addresses.
    fn spot(&mut self, family: Family, remote: u128, local: u128, protocols: &[u8]) -> Result<(), Unproved> {
        let (at, own) = (address(family, remote), address(family, local));
        let holds = |prefix: Option<IpNet>, a| prefix.is_none_or(|p: IpNet| p.contains(&a));
        let here = |row: &PolicyRow| {
            let remote = match row.key.remote {
                RemoteMatch::Prefix(prefix) => Some(prefix),
                RemoteMatch::Any | RemoteMatch::Id(_) => None,
            };
            let ether_type = match family {
                Family::V4 => 0x0800,
                Family::V6 => 0x86dd,
            };
            let frame = match row.key.frame {
                FrameMatch::Any | FrameMatch::AnyIp => true,
                FrameMatch::Ip(version) => version == family,
                FrameMatch::EtherType(number) => number == ether_type,
                FrameMatch::Arp | FrameMatch::Unreadable => false,
            };
            frame && holds(remote, at) && holds(row.key.local, own)
        };
        let rows: Vec<(u32, &'a PolicyRow)> = (0u32..)
            .zip(self.rows.iter().copied())
            .filter(|(_, row)| here(row))
            .collect();
        let showing = |number: u8| -> Vec<(u32, &'a PolicyRow)> {
            let shown = rows
                .iter()
                .filter(|(_, r)| r.key.protocol.is_none_or(|p| p == number));
            shown.copied().collect()
        };
        let stray = self.stray_numbers(family);
        let within = |prefixes: &[IpNet], a| prefixes.is_empty() || prefixes.iter().any(|p| p.contains(&a));
        let applies = |e: &Entry| {
            let m = &e.matcher;
            m.families.contains(family) && within(&m.remote, at) && within(&m.local, own)
        };
        let entries_here: Vec<(u32, &'a Entry)> = (0u32..)
            .zip(&self.policy.entries)
            .filter(|(_, e)| applies(e))
            .collect();
        // Most pairs of addresses are like others.
        let spot = (
            family,
            entries_here.iter().map(|(n, _)| *n).collect(),
            rows.iter().map(|(n, _)| *n).collect(),
        );
        if !self.spots.insert(spot) {
            return Ok(());
        }
        for protocol in protocols {
            self.spend(1, entries_here.len() + rows.len() * (1 + stray.len()))?;
            let entries: Vec<(u32, &'a Entry)> = entries_here
                .iter()
                .filter(|(_, e)| {
                    let of = e.matcher.protocol;
                    of == Protocol::Any || of == Protocol::Number(*protocol)
                })
                .copied()
                .collect();
            let own_rows = showing(*protocol);
            let strays: Vec<Vec<(u32, &'a PolicyRow)>> =
                stray.iter().map(|number| showing(*number)).collect();
            let numbers = |rows: &[(u32, &PolicyRow)]| rows.iter().map(|(n, _)| *n).collect::<Vec<u32>>();
            let mut key = numbers(&own_rows);
            for rows in &strays {
                key.push(u32::MAX);
                key.extend(numbers(rows));
            }
            let entry_numbers: Vec<u32> = entries.iter().map(|(n, _)| *n).collect();
            if !self.seen.insert((family, *protocol, entry_numbers, key)) {
                continue;
            }
            let plain = |rows: Vec<(u32, &'a PolicyRow)>| rows.into_iter().map(|(_, row)| row).collect();
            let slice = Slice {
                family,
                protocol: *protocol,
                remote,
                local,
                entries,
                rows: plain(own_rows),
                stray: strays.into_iter().map(plain).collect(),
            };
            self.slice(&slice)?;
        }
        Ok(())
    }

    /// Numbers that a packet of this version may show in the place of its protocol.
    fn stray_numbers(&self, family: Family) -> Vec<u8> {
        let view = self.model.view;
        match family {
            Family::V4 => Vec::new(),
            Family::V6 if !view.ipv6_extension_headers => IPV6_EXTENSIONS.to_vec(),
            Family::V6 if !view.later_v6_protocol => vec![IPV6_FRAGMENT],
            Family::V6 => Vec::new(),
        }
    }

    /// What rows do with packets that show these rows' protocol and anything behind it.
    fn anything(
        &mut self,
        slice: &Slice<'_>,
        rows: &[&PolicyRow],
        later: &[bool],
    ) -> Result<Range, Unproved> {
        if rows.iter().all(|row| row.action == Verdict::Allow) {
            return Ok(Range {
                may_pass: true,
                ..Range::NOTHING
            });
        }
        let sources = cuts(std::iter::empty(), rows.iter().map(|r| r.key.src), slice.last());
        let destinations = cuts(std::iter::empty(), rows.iter().map(|r| r.key.dst), slice.last());
        let flags = flag_values(rows, slice.protocol);
        self.spend(
            sources.len() * destinations.len() * flags.len() * later.len(),
            rows.len(),
        )?;
        let mut range = Range::NOTHING;
        for src in &sources {
            for dst in &destinations {
                for flags in &flags {
                    for later in later {
                        let inside = Inside {
                            src: *src,
                            dst: *dst,
                            flags: *flags,
                            later: *later,
                        };
                        range.add(says(rows, inside));
                    }
                }
            }
        }
        Ok(range)
    }

    /// One protocol at one pair of addresses, in all kinds of packets.
    fn slice(&mut self, slice: &Slice<'a>) -> Result<(), Unproved> {
        let shows_numbers = Protocol::has_ports(slice.protocol) || slice.is_icmp();
        let hides_ports = slice.protocol == Protocol::SCTP && !self.model.view.sctp_ports;
        let (from_entries, to_entries) = slice.intervals();
        let of_rows = |port: fn(&PolicyRow) -> PortMatch| slice.rows.iter().map(move |row| port(row));
        let sources = cuts(from_entries.into_iter(), of_rows(|r| r.key.src), slice.last());
        let destinations = cuts(to_entries.into_iter(), of_rows(|r| r.key.dst), slice.last());
        let flags = flag_values(&slice.rows, slice.protocol);
        let cells = sources.len() * destinations.len() * flags.len();
        self.spend(cells, slice.rows.len() + slice.entries.len())?;
        let certain = shows_numbers && !hides_ports;
        let mut passing: Option<L4> = None;
        let mut denied: Vec<(Decider, L4)> = Vec::new();
        for src in &sources {
            for dst in &destinations {
                for flags in &flags {
                    let inside = Inside {
                        src: *src,
                        dst: *dst,
                        flags: *flags,
                        later: false,
                    };
                    let hit = slice.entries.iter().find(|(_, e)| slice.hits(e, inside));
                    let (wanted, by) = hit.map_or((self.policy.default, Decider::Default), |(index, e)| {
                        (e.action, Decider::Entry(*index))
                    });
                    let l4 = slice.l4(inside);
                    match wanted {
                        Verdict::Allow => passing = passing.or(Some(l4)),
                        Verdict::Deny if denied.iter().any(|(other, _)| *other == by) => {}
                        Verdict::Deny => denied.push((by, l4)),
                    }
                    if !certain {
                        continue;
                    }
                    let packet = || slice.packet(Fragment::Whole, l4);
                    let (says, row) = deciding(&slice.rows, inside);
                    match (wanted, says) {
                        (Verdict::Allow, Says::Pass) => {}
                        (Verdict::Allow, _) => return Err(differs(packet(), Some(Verdict::Deny))),
                        (Verdict::Deny, Says::Deny) => self.coverage.note(by, PacketKind::Plain, None),
                        (Verdict::Deny, _) => {
                            let passing = Passing {
                                packet: packet(),
                                by: row.map(|row| row.by),
                            };
                            self.coverage.note(by, PacketKind::Plain, Some(passing));
                        }
                    }
                }
            }
        }
        let own = self.anything(slice, &slice.rows, &[false])?;
        if !certain {
            let kind = if hides_ports {
                PacketKind::Sctp
            } else {
                PacketKind::Plain
            };
            self.obscure(slice, kind, own, passing, &denied)?;
        }
        if slice.family == Family::V4 && !self.model.ipv4_options {
            self.obscure(slice, PacketKind::IpOptions, own, passing, &denied)?;
        }
        if slice.family == Family::V6 && !self.model.view.ipv6_extension_headers {
            let range = self.with_stray(slice, own)?;
            self.obscure(slice, PacketKind::ExtensionHeaders, range, passing, &denied)?;
        }
        self.later(slice)
    }

    /// What rows do with packets that have IPv6 extension headers in front of this protocol.
    fn with_stray(&mut self, slice: &Slice<'a>, own: Range) -> Result<Range, Unproved> {
        let mut range = match self.model.ipv6_first_header {
            true => Range::NOTHING,
            false => own,
        };
        for rows in &slice.stray {
            range = range.join(self.anything(slice, rows, &[false])?);
        }
        Ok(range)
    }

    /// Packets of one kind, of which a parser may show anything inside.
    fn obscure(
        &mut self,
        slice: &Slice<'_>,
        kind: PacketKind,
        range: Range,
        passing: Option<L4>,
        denied: &[(Decider, L4)],
    ) -> Result<(), Unproved> {
        if let Some(l4) = passing
            && range.may_deny
            && !self.partial.accepts(kind)
        {
            return Err(differs(slice.packet(Fragment::Whole, l4), Some(Verdict::Deny)));
        }
        for (by, l4) in denied {
            let passes = range.may_pass.then(|| passed(slice.packet(Fragment::Whole, *l4)));
            self.coverage.note(*by, kind, passes);
        }
        Ok(())
    }

    fn later(&mut self, slice: &Slice<'a>) -> Result<(), Unproved> {
        let packet = slice.packet(Fragment::Later { offset: 2 }, L4::Nothing);
        let (wanted, by) = self.policy.judge(&packet, PartialPoint::VIEW);
        let marked = self.later_key && (slice.family == Family::V4 || self.model.view.ipv6_extension_headers);
        // Where the key may be missing on some, either answer is possible.
        let later: &[bool] = if marked { &[true] } else { &[false, true] };
        let first_header = slice.family == Family::V6
            && self.model.ipv6_first_header
            && !self.model.view.ipv6_extension_headers;
        let mut range = match first_header {
            true => Range::NOTHING,
            false => self.anything(slice, &slice.rows, later)?,
        };
        for rows in &slice.stray {
            range = range.join(self.anything(slice, rows, later)?);
        }
        match wanted {
            Verdict::Allow if range.may_deny && !self.partial.accepts(PacketKind::LaterFragments) => {
                Err(differs(packet, Some(Verdict::Deny)))
            }
            Verdict::Allow => Ok(()),
            Verdict::Deny => {
                let passes = range.may_pass.then(|| passed(packet));
                self.coverage.note(by, PacketKind::LaterFragments, passes);
                Ok(())
            }
        }
    }
}

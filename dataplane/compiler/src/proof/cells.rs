//! The engine for most classes: for each set of entries and rows that some pair of addresses reaches, every protocol.

use portcullis_policy::{
    Entry, Family, Fragment, IPV6_EXTENSIONS, IPV6_FRAGMENT, L4, Packet, Protocol, Verdict,
};

use super::addresses::{Addresses, ones};
use super::case::{AddressPair, Case, Point, Proof};
use super::slice::{Memo, PacketShape, Slice};
use super::sweep::Spot;
use crate::class_rows::FrameMatch;

/// The slices of one IP version of a class, filled for one pair of addresses after the other.
pub(super) struct Slices {
    family: Family,
    list: Vec<Slice>,
    /// Where the slice of each protocol is.
    slots: [Option<u16>; 256],
}

/// What packets of a protocol show.
fn kind_of(case: &Case<'_>, family: Family, protocol: u8) -> PacketShape {
    if case.parser.view.hides_protocol(family, protocol) {
        PacketShape::Broken
    } else if case.policy.hides_ports(protocol, case.parser.view) {
        PacketShape::HiddenPorts
    } else if case.policy.shows_ports(protocol) {
        PacketShape::Ports {
            flags: protocol == Protocol::TCP && !case.policy.five_tuple,
        }
    } else if case.policy.shows_icmp(protocol, family) {
        PacketShape::Icmp
    } else {
        PacketShape::Point
    }
}

impl Slices {
    /// One for each protocol that entries or rows name, that has ports or ICMP types, or that stands for all others.
    pub fn new(case: &Case<'_>, family: Family) -> Self {
        // Whether it is named, and whether an entry does.
        let mut named = [(false, false); 256];
        let mut name = |protocol: u8, by_entry: bool| {
            if let Some(slot) = named.get_mut(usize::from(protocol)) {
                *slot = (true, slot.1 | by_entry);
            }
        };
        for protocol in [0, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6] {
            name(protocol, false);
        }
        name(Protocol::TCP, true);
        if case.parser.hides_later(family) {
            name(IPV6_FRAGMENT, false);
        }
        let view = case.parser.view;
        for protocol in IPV6_EXTENSIONS
            .into_iter()
            .filter(|p| view.hides_protocol(family, *p))
        {
            name(protocol, false);
        }
        for row in &case.rows {
            if let Some(protocol) = row.key.protocol {
                name(protocol, false);
            }
        }
        for entry in &case.policy.entries {
            if let Protocol::Number(protocol) = entry.matcher.protocol {
                name(protocol, true);
            }
        }
        // Stands for all that no entry names; the other for all that rows do not name either.
        let mut shown = (1..=u8::MAX).filter(|n| !view.hides_protocol(family, *n));
        let mut unnamed = shown.clone();
        let others = shown.find(|n| named.get(usize::from(*n)).is_some_and(|(_, by_entry)| !by_entry));
        let unnamed = unnamed.find(|n| named.get(usize::from(*n)).is_some_and(|(known, _)| !known));
        let mut slices = Slices {
            family,
            list: Vec::new(),
            slots: [None; 256],
        };
        for (protocol, ((known, by_entry), slot)) in (0..=u8::MAX).zip(named.iter().zip(&mut slices.slots)) {
            if *known || Some(protocol) == others || Some(protocol) == unnamed {
                let decides = protocol != 0 && (*by_entry || Some(protocol) == others);
                *slot = u16::try_from(slices.list.len()).ok();
                slices
                    .list
                    .push(Slice::new(protocol, kind_of(case, family, protocol), decides));
            }
        }
        slices
    }

    fn each(&mut self, protocol: Option<u8>, mut add: impl FnMut(&mut Slice)) {
        match protocol {
            None => self.list.iter_mut().for_each(add),
            Some(protocol) => {
                let slot = self.slots.get(usize::from(protocol)).copied().flatten();
                if let Some(slice) = slot.and_then(|at| self.list.get_mut(usize::from(at))) {
                    add(slice);
                }
            }
        }
    }

    /// Fills the slices with the entries and rows of these numbers: entries first, then rows.
    pub fn fill(&mut self, case: &Case<'_>, members: impl Iterator<Item = usize>) -> &[Slice] {
        for slice in &mut self.list {
            slice.entries.clear();
            slice.rows.clear();
        }
        let entries = &case.policy.entries;
        for member in members {
            if let Some(entry) = entries.get(member) {
                if entry.matcher.families.contains(self.family) {
                    let protocol = match entry.matcher.protocol {
                        Protocol::Any => None,
                        Protocol::Number(n) => Some(n),
                    };
                    self.each(protocol, |slice| slice.entries.push(member as u32));
                }
            } else if let Some(row) = member
                .checked_sub(entries.len())
                .and_then(|r| Some((r, case.rows.get(r)?)))
            {
                let reaches = match row.1.key.frame {
                    FrameMatch::Any | FrameMatch::AnyIp => true,
                    FrameMatch::Unreadable => case.parser.unreadable,
                    FrameMatch::Ip(family) => family == self.family,
                    FrameMatch::Arp | FrameMatch::EtherType(_) => false,
                };
                if reaches {
                    self.each(row.1.key.protocol, |slice| slice.rows.push(row.0 as u32));
                }
            }
        }
        &self.list
    }
}

/// Hears of a packet, what the entries and what the rows say about it where that differs. Its error ends the proof.
pub(super) type Report<'r> = &'r dyn Fn(Packet, Verdict, Option<Verdict>) -> Proof;

/// Compares one IP version of a class, cell by cell.
pub(super) fn compare(
    case: &Case<'_>,
    family: Family,
    addresses: Option<&Addresses>,
    memo: &mut Memo,
    report: Report<'_>,
) -> Proof {
    let mut slices = Slices::new(case, family);
    match addresses {
        None => {
            let everything = 0..case.policy.entries.len() + case.rows.len();
            let place = AddressPair {
                family,
                local: 0,
                remote: 0,
            };
            Cell { case, place, report }.compare(slices.fill(case, everything), memo)
        }
        Some(addresses) => addresses.visit(|place, members| {
            Cell { case, place, report }.compare(slices.fill(case, ones(members)), memo)
        }),
    }
}

/// One pair of addresses, standing for all that reach the same entries and rows.
struct Cell<'c, 'a> {
    case: &'c Case<'a>,
    place: AddressPair,
    report: Report<'c>,
}

impl Cell<'_, '_> {
    fn compare(&self, slices: &[Slice], memo: &mut Memo) -> Proof {
        let hidden = self.case.parser.hides_later(self.place.family);
        let mut passes = false;
        for slice in slices {
            let own = self.slice(slice, hidden, memo)?;
            passes |= own && slice.named;
        }
        if hidden && !self.case.policy.five_tuple {
            self.hidden(slices, passes)?;
        }
        Ok(())
    }

    /// Compares one protocol. Tells whether its later fragments pass where they do not hide it.
    fn slice(&self, slice: &Slice, hidden: bool, memo: &mut Memo) -> Proof<bool> {
        let case = self.case;
        let fragments = !case.policy.five_tuple && !hidden;
        let at_offset = |offset| Fragment::Later { offset };
        let (passes, torn) = match slice.kind {
            PacketShape::Broken => {
                let wanted = Verdict::Deny;
                let is_marked = case.parser.marks_protocol(self.place.family, slice.protocol);
                let shown = |point: Point| match is_marked {
                    true => self.marked(point),
                    false => Some(Point {
                        marked: false,
                        ..point
                    }),
                };
                let whole = shown(case.blank(false, true));
                self.check(slice, wanted, Fragment::Whole, L4::Nothing, whole)?;
                if fragments {
                    let later = shown(case.later(true));
                    self.check(slice, wanted, at_offset(2), L4::Nothing, later)?;
                }
                return Ok(false);
            }
            PacketShape::Point => {
                let says = |entry: Option<&Entry>| entry.map_or(case.policy.default, |e| e.action);
                let wanted = says(slice.entries(case).next());
                self.check(
                    slice,
                    wanted,
                    Fragment::Whole,
                    L4::Nothing,
                    Some(case.blank(false, false)),
                )?;
                let later = says(slice.entries(case).find(|e| e.matcher.fragments));
                (later.passes(), false)
            }
            PacketShape::HiddenPorts => (self.hidden_ports(slice, memo)?, false),
            PacketShape::Ports { .. } | PacketShape::Icmp => {
                let outcome = memo.prove(slice, case, |spot| self.differs(slice, spot))?;
                if case.parser.view.short_header && !case.policy.five_tuple {
                    let ported = slice.kind != PacketShape::Icmp;
                    let blank = self.marked(case.blank(ported, true));
                    self.check(slice, Verdict::Deny, Fragment::Whole, L4::Short, blank)?;
                }
                (outcome.passes, outcome.torn)
            }
        };
        if fragments {
            let tcp = slice.kind == PacketShape::Ports { flags: true };
            let offsets = case.parser.view.fragment_offset;
            let allowed = passes && !(tcp && torn && !offsets);
            let wanted = Verdict::from_passes(allowed);
            self.check(slice, wanted, at_offset(2), L4::Nothing, Some(case.later(false)))?;
            if tcp && offsets {
                self.check(
                    slice,
                    Verdict::Deny,
                    at_offset(1),
                    L4::Nothing,
                    self.marked(case.later(true)),
                )?;
            }
        }
        Ok(passes)
    }

    /// Compares a protocol whose ports a parser may show as anything: rows must give one verdict to all of them, allow only if
    /// packets of every port pass. Tells whether its later fragments pass.
    fn hidden_ports(&self, slice: &Slice, memo: &mut Memo) -> Proof<bool> {
        let outcome = memo.outcome_of_entries(slice, self.case);
        let rows = slice.of_one_verdict(Verdict::from_passes(!outcome.denies));
        memo.prove(&rows, self.case, |spot| self.differs(slice, spot))?;
        // It may also show no ports at all, which then have no code.
        let wanted = Verdict::from_passes(!outcome.denies);
        let without = Some(self.case.blank(false, false));
        self.check(slice, wanted, Fragment::Whole, L4::Nothing, without)?;
        Ok(outcome.passes)
    }

    /// What rows see of a packet that cannot be judged: with the mark where the parser makes it. `None` when it is
    /// known already that such packets are denied.
    fn marked(&self, point: Point) -> Option<Point> {
        let marked = point.marked && self.case.parser.unreadable;
        (!self.case.marked_denied).then_some(Point { marked, ..point })
    }

    fn check(
        &self,
        slice: &Slice,
        wanted: Verdict,
        fragment: Fragment,
        l4: L4,
        point: Option<Point>,
    ) -> Proof {
        let Some(point) = point else { return Ok(()) };
        let got = self.case.at(slice.rows(self.case), point);
        if got == Some(wanted) {
            return Ok(());
        }
        (self.report)(self.place.packet(slice.protocol, fragment, l4), wanted, got)
    }

    fn differs(&self, slice: &Slice, spot: Spot) -> Proof {
        let l4 = if slice.kind == PacketShape::Icmp {
            L4::Icmp {
                kind: spot.src as u8,
                code: spot.dst as u8,
            }
        } else {
            L4::Ports {
                src: spot.src,
                dst: spot.dst,
                flags: spot.flags,
            }
        };
        let packet = self.place.packet(slice.protocol, Fragment::Whole, l4);
        (self.report)(packet, spot.wanted, spot.got)
    }

    /// Later fragments of IPv6 that do not show their protocol.
    fn hidden(&self, slices: &[Slice], passes: bool) -> Proof {
        let wanted = Verdict::from_passes(passes);
        let Some(shown) = slices.iter().find(|s| s.protocol == IPV6_FRAGMENT) else {
            return Ok(());
        };
        let got = self.case.at(shown.rows(self.case), self.case.later(false));
        if got == Some(wanted) {
            return Ok(());
        }
        let fragment = Fragment::Later { offset: 2 };
        (self.report)(
            self.place.packet(Protocol::TCP, fragment, L4::Nothing),
            wanted,
            got,
        )
    }
}

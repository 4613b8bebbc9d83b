//! Rows of a partial point: they deny a part of what the policy denies, whatever its parser shows.
//!
//! Entries are written in their order, and where a table cannot write one exactly, an entry that allows is written wider and an
//! entry that denies is left out. So a packet that the policy lets pass meets the row of the entry that lets it pass before any
//! row that denies. Three more rules keep that true for packets whose ports a parser may show wrongly ([`PacketKind::OBSCURE`]),
//! unless their kind is accepted:
//!
//! - what allows ports of a protocol allows all of them, and what denies ports of it is left out where anything below it allows;
//! - where the table has a key for later fragments, one row for each IP version lets them pass instead;
//! - rows that let the numbers of IPv6 extension headers pass stand above what denies every protocol.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_policy::{
    Decider, Entry, Family, FlagMatch, IPV6_EXTENSIONS, IPV6_FRAGMENT, Matcher, Policy, Protocol, Ranges,
    Verdict,
};

use super::{Attribution, broken, cells, shift};
use crate::class_rows::{
    ClassRows, FrameMatch, PolicyRow, PortMatch, RemoteMatch, RowKey, Shortfall, Unsupported,
};
use crate::model::{Field, MatchKind, PacketKind, PartialPoint, Role, StageModel, TableModel};

mod naming;
mod prune;
use naming::product;

/// Rows that one policy may take before it is refused.
const MOST: usize = 1 << 16;

/// What the table of a partial point can match, and what its parser shows.
struct Point<'a> {
    model: &'a StageModel,
    table: &'a TableModel,
    partial: &'a PartialPoint,
}

/// One row before priorities are given. Those of one level never disagree where they overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Draft {
    key: RowKey,
    action: Verdict,
    by: Decider,
}

/// Why an entry is not written as it is.
type Reason = String;

/// Lowers a policy to a partial point.
pub(super) fn lower(
    policy: &Policy,
    model: &StageModel,
    partial: &PartialPoint,
    attribution: Attribution,
) -> Result<ClassRows, Unsupported> {
    let refuse = |table: &str, why: String| Unsupported {
        target: model.name.clone(),
        rule: format!("the {} policy", policy.direction),
        table: table.to_string(),
        why,
    };
    let Some(table) = model.table(Role::Policy, policy.direction) else {
        let why = format!(
            "no table of this target sees {} traffic: enforce it on another target",
            policy.direction
        );
        return Err(refuse(&format!("{}_policy", policy.direction), why));
    };
    if policy.five_tuple {
        let why =
            "policies of five-tuples are not written for partial points: use a target with a whole table";
        return Err(refuse(&table.name, why.to_string()));
    }
    let point = Point {
        model,
        table,
        partial,
    };
    let mut writer = Writer {
        point: &point,
        policy,
        rows: Vec::new(),
        shortfalls: Vec::new(),
        unaccepted: BTreeMap::new(),
    };
    writer.write().map_err(|why| refuse(&table.name, why))?;
    let Writer { rows, shortfalls, .. } = writer;
    let mut rows = prune::prune(rows, attribution);
    if point.has(Field::IsIp) {
        rows = prune::join_versions(rows, |row| {
            // ICMP has a protocol for each version.
            let icmp = matches!(row.key.protocol, Some(Protocol::ICMP | Protocol::ICMPV6));
            !icmp && point.may_hold(&row.key, row.action).is_none()
        });
    }
    let levels = levels(&rows, model.priorities());
    let levels = levels.map_err(|needed| {
        refuse(
            &table.name,
            format!(
                "its rows need {needed} priorities, and {} to {} have room for fewer",
                model.priority_min, model.priority_max
            ),
        )
    })?;
    let mut rows: Vec<PolicyRow> = rows
        .into_iter()
        .zip(levels)
        .map(|(row, priority)| PolicyRow {
            priority,
            key: row.key,
            action: row.action,
            words: None,
            by: row.by,
        })
        .collect();
    rows.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.key.cmp(&b.key)));
    rows.dedup_by(|next, kept| (next.priority, next.key) == (kept.priority, kept.key));
    shift(&mut rows, model);
    Ok(ClassRows {
        policy: rows,
        naive: cells::naive(policy),
        merged: attribution == Attribution::Class,
        shortfalls,
        ..ClassRows::default()
    })
}

/// A priority for each row, the first the highest, counted from 1: one for each decider, or for each run of one verdict where there
/// are too few. An error is how many there would have to be.
fn levels(rows: &[Draft], most: u32) -> Result<Vec<u32>, u32> {
    let by_run = |same: fn(&Draft, &Draft) -> bool| -> Vec<u32> {
        let mut level = 1;
        let mut levels = vec![level; rows.len()];
        for (at, pair) in rows.windows(2).enumerate().rev() {
            if let [above, below] = pair {
                level += u32::from(!same(above, below));
            }
            if let Some(own) = levels.get_mut(at) {
                *own = level;
            }
        }
        levels
    };
    let fits = |levels: &Vec<u32>| levels.first().is_none_or(|highest| *highest <= most);
    let fine = by_run(|a, b| (a.by, a.action) == (b.by, b.action));
    if fits(&fine) {
        return Ok(fine);
    }
    let coarse = by_run(|a, b| a.action == b.action);
    match fits(&coarse) {
        true => Ok(coarse),
        false => Err(coarse.first().copied().unwrap_or(0)),
    }
}

impl Point<'_> {
    fn has(&self, field: Field) -> bool {
        self.table.key(field).is_some()
    }

    fn kind(&self, field: Field) -> Option<MatchKind> {
        self.table.key(field).map(|key| key.kind)
    }

    fn masked(&self, field: Field) -> bool {
        matches!(self.kind(field), Some(MatchKind::Ternary | MatchKind::Lpm))
    }

    /// Whether rows can tell later fragments of this version by a key.
    fn marks_later(&self, family: Family) -> bool {
        self.has(Field::Later) && (family == Family::V4 || self.model.view.ipv6_extension_headers)
    }

    /// Whether packets with IPv6 extension headers show the first one's number as their protocol, all of them.
    fn shows_first_header(&self) -> bool {
        self.model.ipv6_first_header && !self.model.view.ipv6_extension_headers
    }

    /// The kinds of packets of a protocol that may show ports that are not theirs and that rows must not deny by them.
    fn unsure(&self, family: Family, protocol: Protocol) -> Vec<PacketKind> {
        let view = self.model.view;
        let holds = |kind: &PacketKind| match kind {
            // What shows the number of an extension header meets no row of another protocol.
            PacketKind::LaterFragments | PacketKind::ExtensionHeaders
                if family == Family::V6 && self.shows_first_header() =>
            {
                false
            }
            PacketKind::LaterFragments => !self.marks_later(family),
            PacketKind::IpOptions => family == Family::V4 && !self.model.ipv4_options,
            PacketKind::ExtensionHeaders => family == Family::V6 && !view.ipv6_extension_headers,
            PacketKind::Sctp => protocol == Protocol::Number(Protocol::SCTP) && !view.sctp_ports,
            PacketKind::Plain | PacketKind::NotIp => false,
        };
        let mut kinds = PacketKind::OBSCURE.to_vec();
        kinds.retain(|kind| holds(kind) && !self.partial.accepts(*kind));
        kinds
    }

    /// Numbers of IPv6 extension headers that packets which rows must not deny may show in the place of their protocol.
    fn stray_protocols(&self) -> Vec<u8> {
        let accepts = |kind| self.partial.accepts(kind);
        let view = self.model.view;
        let later = !self.marks_later(Family::V6) && !accepts(PacketKind::LaterFragments);
        if !view.ipv6_extension_headers && (later || !accepts(PacketKind::ExtensionHeaders)) {
            return IPV6_EXTENSIONS.to_vec();
        }
        let fragments = later && !view.later_v6_protocol;
        fragments.then_some(IPV6_FRAGMENT).into_iter().collect()
    }

    /// Whether the key of a row is one that the restrictions of the table allow.
    fn may_hold(&self, key: &RowKey, action: Verdict) -> Option<Reason> {
        let row = PolicyRow {
            priority: 1,
            key: *key,
            action,
            words: None,
            by: Decider::Default,
        };
        let (_, restriction) = broken(self.table, std::slice::from_ref(&row), true)?;
        Some(format!("the P4 program restricts rows: `{}`", restriction.text))
    }
}

/// Writes entries, the first first.
struct Writer<'a> {
    point: &'a Point<'a>,
    policy: &'a Policy,
    rows: Vec<Draft>,
    shortfalls: Vec<Shortfall>,
    /// Rules that deny and are left out, and the kinds of packets that would have to be accepted.
    unaccepted: BTreeMap<u32, BTreeSet<PacketKind>>,
}

/// One of something for each IP version.
#[derive(Debug, Default)]
struct PerFamily<T> {
    v4: T,
    v6: T,
}

/// Why a rule that denies is left out, for kinds of packets that are not accepted.
fn left_out(kinds: &BTreeSet<PacketKind>) -> Reason {
    let words: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    let names: Vec<String> = kinds.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
    format!(
        "its rows could deny {} that the policy lets pass, since the parser may show other ports for them: to accept that, set \
         accept = [{}]",
        words.join(", "),
        names.join(", ")
    )
}

fn too_many(rule: &str) -> Reason {
    format!("{rule} takes more than {MOST} rows: use fewer prefixes and ranges")
}

/// Whether an entry looks at more than addresses and the protocol.
fn looks_inside(m: &Matcher) -> bool {
    !m.is_of_all_ports() || m.icmp.is_some() || m.flags != FlagMatch::Any || !m.fragments
}

impl Writer<'_> {
    fn write(&mut self) -> Result<(), Reason> {
        let policy = self.policy;
        let mut opened: PerFamily<(bool, bool)> = PerFamily::default();
        for (index, entry) in (0u32..).zip(&policy.entries) {
            for family in Family::BOTH
                .into_iter()
                .filter(|f| entry.matcher.families.contains(*f))
            {
                let opened = match family {
                    Family::V4 => &mut opened.v4,
                    Family::V6 => &mut opened.v6,
                };
                self.let_obscure_pass(family, &entry.matcher, opened)?;
                match entry.action {
                    Verdict::Allow => self.write_allow(family, index, entry)?,
                    Verdict::Deny => self.write_deny(family, index, entry),
                }
            }
            if self.rows.len() > MOST {
                return Err(format!(
                    "its rules take more than {MOST} rows: use fewer prefixes and ranges"
                ));
            }
        }
        if policy.default.denies() {
            self.default();
        }
        for (index, kinds) in std::mem::take(&mut self.unaccepted) {
            self.fall_short(Decider::Entry(index), left_out(&kinds));
        }
        Ok(())
    }

    fn push(&mut self, key: RowKey, action: Verdict, by: Decider) {
        self.rows.push(Draft { key, action, by });
    }

    /// Lets packets pass, with a wider row where the table may not hold this one.
    fn allow(&mut self, key: RowKey, by: Decider) -> Result<(), Reason> {
        let mut wide = key;
        let steps: [fn(&mut RowKey); 5] = [
            |key| key.flags = None,
            |key| (key.src, key.dst) = (PortMatch::Any, PortMatch::Any),
            |key| (key.remote, key.local) = (RemoteMatch::Any, None),
            |key| (key.protocol, key.later) = (None, None),
            |key| key.frame = FrameMatch::Any,
        ];
        let mut steps = steps.iter();
        while let Some(why) = self.point.may_hold(&wide, Verdict::Allow) {
            let Some(step) = steps.next() else {
                return Err(format!("no row may let packets pass: {why}"));
            };
            step(&mut wide);
            self.fall_short(by, why);
        }
        self.push(wide, Verdict::Allow, by);
        Ok(())
    }

    /// The default, of IP alone: a frame that is no IP to the parser may carry IP behind tags, or be one that the policy lets pass.
    fn default(&mut self) {
        for family in Family::BOTH {
            let key = RowKey {
                frame: FrameMatch::Ip(family),
                ..RowKey::ANY
            };
            match self.point.may_hold(&key, Verdict::Deny) {
                None => self.push(key, Verdict::Deny, Decider::Default),
                Some(why) => self.fall_short(Decider::Default, why),
            }
        }
    }

    fn fall_short(&mut self, by: Decider, why: Reason) {
        let shortfall = Shortfall { by, why };
        if !self.shortfalls.contains(&shortfall) {
            self.shortfalls.push(shortfall);
        }
    }

    /// Rows for packets that entries from here on cannot tell from others: later fragments by their key, and packets that show an
    /// extension header for a protocol. Each once, in front of the first entry that they could miss.
    fn let_obscure_pass(
        &mut self,
        family: Family,
        m: &Matcher,
        (later, stray): &mut (bool, bool),
    ) -> Result<(), Reason> {
        let frame = FrameMatch::Ip(family);
        let names_protocol = m.protocol != Protocol::Any;
        let hidden = family == Family::V6 && !self.point.model.view.later_v6_protocol;
        let marked =
            self.point.marks_later(family) && !self.point.partial.accepts(PacketKind::LaterFragments);
        if !*later && marked && (looks_inside(m) || (hidden && names_protocol)) {
            *later = true;
            let key = RowKey {
                frame,
                later: Some(true),
                ..RowKey::ANY
            };
            self.allow(key, Decider::Fragment)?;
        }
        if !*stray && family == Family::V6 && names_protocol {
            *stray = true;
            for number in self.point.stray_protocols() {
                let key = RowKey {
                    frame,
                    protocol: Some(number),
                    ..RowKey::ANY
                };
                self.allow(key, Decider::Evasion)?;
            }
        }
        Ok(())
    }

    fn write_allow(&mut self, family: Family, index: u32, entry: &Entry) -> Result<(), Reason> {
        let named = self.point.name_wider(family, &entry.matcher);
        for why in &named.differs {
            self.fall_short(Decider::Entry(index), why.clone());
        }
        if named.rows() > MOST {
            return Err(too_many(&entry.origin));
        }
        let mut rows = product(family, &entry.matcher, &named);
        rows.try_for_each(|key| self.allow(key, Decider::Entry(index)))
    }

    fn write_deny(&mut self, family: Family, index: u32, entry: &Entry) {
        let by = Decider::Entry(index);
        let m = &*entry.matcher;
        let unsure = self.point.unsure(family, m.protocol);
        if !unsure.is_empty() && looks_inside(m) && self.passes_below(family, index, m) {
            self.unaccepted.entry(index).or_default().extend(unsure);
            return;
        }
        let named = match self.point.name_exactly(family, m) {
            Ok(named) => named,
            Err(why) => return self.fall_short(by, why),
        };
        for why in &named.differs {
            self.fall_short(by, why.clone());
        }
        if named.rows() > MOST {
            return self.fall_short(by, too_many(&entry.origin));
        }
        for key in product(family, m, &named) {
            match self.point.may_hold(&key, Verdict::Deny) {
                None => self.push(key, Verdict::Deny, by),
                Some(why) => self.fall_short(by, why),
            }
        }
    }

    /// Whether anything that an entry looks at could pass by what stands below it.
    fn passes_below(&self, family: Family, index: u32, m: &Matcher) -> bool {
        let outside = Matcher {
            families: portcullis_policy::Families::only(family),
            dst_ports: Ranges::all(),
            src_ports: Ranges::all(),
            icmp: None,
            flags: FlagMatch::Any,
            ..m.clone()
        };
        let below = self.policy.entries.iter().skip(index as usize + 1);
        let mut allows = below.filter(|e| e.action.passes());
        self.policy.default.passes() || allows.any(|e| e.matcher.meets(&outside, false))
    }
}

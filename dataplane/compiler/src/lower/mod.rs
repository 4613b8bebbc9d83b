//! The encoder: from a policy to rows of the stages of a [`StageModel`], in the fewest rows it can find.
//!
//! Two ways to encode one IP version of a class, chosen by cost:
//!
//! - *planes* (`planes.rs`): the class is flattened to coloured partitions, per protocol, addresses and flags, each
//!   written as the smallest table there is (multi-colour ORTC for masks, intervals for ranges, words of 64 ports
//!   where there are such). Best for tables of ports.
//! - *rules* (`rules.rs`): a row for each rule, or each product of its ranges and prefixes. Best where rules name
//!   many pairs of prefixes; with port codes (`codes.rs`) it takes one row a rule.
//!
//! Remote prefixes are keys of the policy stage or go through the `remote` stage, whichever takes fewer rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{
    Decider, Direction, Family, IPV6_EXTENSIONS, IPV6_FRAGMENT, Policy, Protocol, RARP, TCP_ACK, TCP_SYN,
    Verdict,
};
use serde::{Deserialize, Serialize};

use crate::class_rows::{
    ClassRows, Codes, FrameMatch, PolicyRow, PortMatch, RemoteRow, RowKey, Unsupported, WordRow,
};
use crate::model::{Field, KeyModel, MatchKind, Role, StageModel, TableModel};
use crate::restriction::Restriction;
use crate::row::{FieldMatch, Owner, policy_row};

mod capabilities;
mod cells;
mod codes;
mod encode;
mod layers;
pub mod ortc;
mod overlay;
mod partial;
mod plane;
mod planes;
mod regions;
mod rules;

pub(crate) use capabilities::Capabilities;
use codes::Coding;
pub(crate) use encode::Cache;

/// Priority of the row that catches all of a class.
const CATCH_ALL: u32 = 1;
/// Priority of the row that lets an endpoint's RARP announcements pass.
const ANNOUNCEMENTS: u32 = 2;
/// Lowest priority of what is above it.
const BASE: u32 = 10;
/// An overlay of at most this many rows is not compared with the policy written as a whole.
const FEW: usize = 24;

/// TCP flags of segments that open a connection, as a row names them.
const OPENING: (u16, u16) = (TCP_SYN, TCP_SYN | TCP_ACK);
/// The two rows that together match all other segments.
const NOT_OPENING: [Option<(u16, u16)>; 2] =
    [Some((0, TCP_SYN)), Some((TCP_SYN | TCP_ACK, TCP_SYN | TCP_ACK))];

/// What a hit on a row tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribution {
    /// The rule that decided.
    #[default]
    Rule,
    /// The class and the verdict; takes fewer rows.
    Class,
}

/// Priority of the rows that hold for every class, above all others. Priorities are counted from 1 here; [`shift`] moves them to
/// those that the model has.
fn fixed_priority(model: &StageModel) -> u32 {
    let count = model.priorities();
    count.saturating_sub(count / 12).min(1 << 30)
}

/// Moves priorities that are counted from 1 to those of the model.
fn shift(rows: &mut [PolicyRow], model: &StageModel) {
    let below = model.priority_min.saturating_sub(1);
    for row in rows {
        row.priority += below;
    }
}

/// Priorities of a class's rows are below this.
fn ceiling(model: &StageModel, direction: Direction) -> u32 {
    let table = model.table(Role::Policy, direction);
    match table {
        Some(t) if t.key(Field::Overlay).is_some() => overlay::floor(model),
        _ => fixed_priority(model),
    }
}

/// The rows that hold for every class that may deny something: ARP passes; what hides its ports does not. A partial point has none.
pub fn fixed_rows(model: &StageModel) -> Vec<PolicyRow> {
    if model.partial.is_some() {
        return Vec::new();
    }
    let mut rows = fixed_from_one(model);
    shift(&mut rows, model);
    rows
}

fn fixed_from_one(model: &StageModel) -> Vec<PolicyRow> {
    let row = |action, by, key| PolicyRow {
        priority: fixed_priority(model),
        key,
        action,
        words: None,
        by,
    };
    let frame = |frame| RowKey { frame, ..RowKey::ANY };
    let deny = |key| row(portcullis_policy::Verdict::Deny, Decider::Evasion, key);
    let mut rows = vec![row(
        portcullis_policy::Verdict::Allow,
        Decider::Arp,
        frame(FrameMatch::Arp),
    )];
    // Even where there is a mark: a parser that does not follow these headers sees nothing to mark.
    rows.extend(hidden_protocols(model).map(deny));
    if model.unreadable {
        rows.push(deny(frame(FrameMatch::Unreadable)));
        return rows;
    }
    let opaque = model.opaque_ethertypes.iter();
    rows.extend(opaque.map(|t| deny(frame(FrameMatch::EtherType(*t)))));
    for family in Family::BOTH {
        let ip = frame(FrameMatch::Ip(family));
        let endless = RowKey {
            protocol: Some(0),
            ..ip
        };
        if rows.iter().all(|row| row.key != endless) {
            rows.push(deny(endless));
        }
        // A header that is too short shows as zeros.
        let ported = [Protocol::TCP, Protocol::UDP].into_iter();
        for protocol in ported.chain(model.view.sctp_ports.then_some(Protocol::SCTP)) {
            rows.push(deny(RowKey {
                protocol: Some(protocol),
                later: Some(false),
                flags: (protocol == Protocol::TCP).then_some((0, model.view.tcp_flags)),
                src: zero(model, Field::SrcPort),
                dst: zero(model, Field::DstPort),
                ..ip
            }));
        }
    }
    rows
}

/// Packets that show the number of an IPv6 extension header in the place of their protocol, where a parser may do that.
fn hidden_protocols(model: &StageModel) -> impl Iterator<Item = RowKey> {
    let view = model.view;
    let extensions = IPV6_EXTENSIONS.into_iter();
    extensions
        .filter(move |number| !view.ipv6_extension_headers && view.hides_protocol(Family::V6, *number))
        .map(move |number| RowKey {
            frame: FrameMatch::Ip(Family::V6),
            protocol: Some(number),
            // Later fragments may be shown with the fragment header's number; they have a verdict of their own then.
            later: (number == IPV6_FRAGMENT && !view.later_v6_protocol).then_some(false),
            ..RowKey::ANY
        })
}

/// Port 0, as the key of this field matches it.
fn zero(model: &StageModel, field: Field) -> PortMatch {
    let ranges = |k: &KeyModel| k.kind == MatchKind::Range;
    let policy = model.tables.iter().filter(|t| t.stage == Role::Policy);
    if policy.filter_map(|t| t.key(field)).any(ranges) {
        PortMatch::Range { low: 0, high: 0 }
    } else {
        PortMatch::exactly(0)
    }
}

/// Rows of one IP version of one class.
#[derive(Debug, Default)]
struct Part {
    remote: Vec<RemoteRow>,
    policy: Vec<PolicyRow>,
    words: Vec<WordRow>,
    coded: bool,
}

impl Part {
    fn rows(&self) -> usize {
        self.remote.len() + self.policy.len() + self.words.len()
    }
}

/// Why one way of encoding gave no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Declined {
    /// It would take this many tables or rows.
    TooLarge(String),
    /// It would take this many priorities, and the model has room for fewer.
    Priorities(u32),
    /// It cannot express the policy exactly.
    Inexact,
}

/// Port codes that classes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedCodes {
    src: Coding,
    dst: Coding,
    codes: Arc<Codes>,
}

/// The port sets that rules of many prefixes name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PortSets {
    src: BTreeSet<Vec<(u16, u16)>>,
    dst: BTreeSet<Vec<(u16, u16)>>,
}

impl PortSets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.src.is_empty() && self.dst.is_empty()
    }

    /// Adds those of another; whether there were new ones.
    pub fn join(&mut self, other: &Self) -> bool {
        let before = self.src.len() + self.dst.len();
        self.src.extend(other.src.iter().cloned());
        self.dst.extend(other.dst.iter().cloned());
        self.src.len() + self.dst.len() > before
    }

    /// Adds those of a policy that save more rows than their codes take.
    pub fn add(&mut self, policy: &Policy, capabilities: &Capabilities) {
        let mut saved: [BTreeMap<Vec<(u16, u16)>, usize>; 2] = Default::default();
        for entry in &policy.entries {
            let rows = rules::direct_rows(policy, capabilities, entry);
            let products = Family::BOTH
                .iter()
                .filter(|f| entry.matcher.families.contains(**f))
                .count()
                * entry.matcher.remote.len().max(1)
                * entry.matcher.local.len().max(1);
            let named = [&entry.matcher.src_ports, &entry.matcher.dst_ports];
            for (sets, ports) in saved
                .iter_mut()
                .zip(named)
                .filter(|(_, ports)| rows > 1 && !ports.is_all())
            {
                *sets.entry(ports.iter().collect()).or_default() += (rows - 1) * products;
            }
        }
        let [src, dst] = saved;
        for (sets, saved, kind) in [
            (&mut self.src, src, capabilities.src),
            (&mut self.dst, dst, capabilities.dst),
        ] {
            let pays = saved
                .into_iter()
                .filter(|(set, rows)| codes::stage_rows(set, kind) < *rows);
            sets.extend(pays.map(|(set, _)| set));
        }
    }
}

impl SharedCodes {
    /// Codes for these sets; `None` where the model has no code stages or not enough bits.
    pub fn new(sets: &PortSets, model: &StageModel) -> Option<Self> {
        let capabilities = Direction::BOTH
            .iter()
            .find_map(|d| Capabilities::new(model, *d))?;
        let (src_bits, dst_bits) = capabilities.codes?;
        let src = Coding::new(&sets.src, capabilities.src, src_bits)?;
        let dst = Coding::new(&sets.dst, capabilities.dst, dst_bits)?;
        let codes = Arc::new(Codes {
            src: src.stage.clone(),
            dst: dst.stage.clone(),
        });
        Some(SharedCodes { src, dst, codes })
    }

    /// Rows of both stages.
    pub fn rows(&self) -> usize {
        self.src.rows() + self.dst.rows()
    }

    /// What programs refer to.
    pub fn codes(&self) -> &Arc<Codes> {
        &self.codes
    }
}

/// The first of these rows that breaks a restriction of its table. `of_class`: they name a class, where the table has one.
pub fn broken<'r>(
    table: &'r TableModel,
    rows: &'r [PolicyRow],
    of_class: bool,
) -> Option<(&'r PolicyRow, &'r Restriction)> {
    if table.restrictions.is_empty() {
        return None;
    }
    rows.iter().find_map(|row| {
        let mut shown = policy_row(table, Owner::Every, Some(""), row);
        if of_class && table.key(Field::Class).is_some() {
            shown
                .keys
                .push((Field::Class, FieldMatch::Attachment(String::new())));
        }
        let broken = table.restrictions.iter().find(|r| r.is_broken_by(&shown))?;
        Some((row, broken))
    })
}

/// Why a policy cannot be on a table whose restrictions its rows break.
fn restricted(model: &StageModel, policy: &Policy, rows: &[PolicyRow]) -> Option<Unsupported> {
    let table = model.table(Role::Policy, policy.direction)?;
    let (row, restriction) = broken(table, rows, true)?;
    Some(Unsupported {
        target: model.name.clone(),
        rule: policy.origin(row.by),
        table: table.name.clone(),
        why: format!(
            "the P4 program restricts the rows of this table, and one of this rule's would break `{}`: change the rule, or enforce \
             it on another target",
            restriction.text
        ),
    })
}

/// Encodes one policy, each hit attributed to its rule, without port codes. The rows are not proved yet.
pub fn lower(policy: &Policy, model: &StageModel) -> Result<ClassRows, Unsupported> {
    Encoder::new(model, None).lower(policy, Attribution::Rule, &mut Cache::default())
}

/// Encodes policies for one model.
#[derive(Debug, Clone)]
pub(crate) struct Encoder<'a> {
    model: &'a StageModel,
    capabilities: BTreeMap<Direction, Capabilities>,
    codes: Option<&'a SharedCodes>,
}

impl<'a> Encoder<'a> {
    /// For a model, with the codes its code stages hold, if any.
    pub fn new(model: &'a StageModel, codes: Option<&'a SharedCodes>) -> Self {
        let capabilities = Direction::BOTH
            .iter()
            .filter_map(|d| Some((*d, Capabilities::new(model, *d)?)));
        Encoder {
            model,
            capabilities: capabilities.collect(),
            codes,
        }
    }

    /// The rows of a policy.
    pub fn lower(
        &self,
        policy: &Policy,
        attribution: Attribution,
        cache: &mut Cache,
    ) -> Result<ClassRows, Unsupported> {
        let mut program = ClassRows {
            naive: cells::naive(policy),
            merged: attribution == Attribution::Class,
            ..ClassRows::default()
        };
        if !policy.may_deny() {
            return Ok(program);
        }
        if let Some(partial) = &self.model.partial {
            return partial::lower(policy, self.model, partial, attribution);
        }
        let capabilities = self
            .capabilities
            .get(&policy.direction)
            .ok_or_else(|| Unsupported {
                target: self.model.name.clone(),
                rule: format!("the {} policy", policy.direction),
                table: format!("{}_policy", policy.direction),
                why: format!(
                    "no table of this target sees {} traffic with its class: enforce it on another target",
                    policy.direction
                ),
            })?;
        if let Some(unsupported) = capabilities.lacks(policy, self.model) {
            return Err(unsupported);
        }
        let mut flat = planes::Planes::new(policy, self.model, capabilities, attribution, cache);
        let mut coded = false;
        for family in Family::BOTH {
            let part = self.part(policy, capabilities, family, &mut flat)?;
            coded |= part.coded;
            program.remote.extend(part.remote);
            program.policy.extend(part.policy);
            program.words.extend(part.words);
        }
        program.policy.push(PolicyRow {
            priority: CATCH_ALL,
            key: RowKey::ANY,
            action: policy.default,
            words: None,
            by: Decider::Default,
        });
        if policy.direction == Direction::Egress && policy.default.denies() {
            program.policy.push(PolicyRow {
                priority: ANNOUNCEMENTS,
                key: RowKey {
                    frame: FrameMatch::EtherType(RARP),
                    ..RowKey::ANY
                },
                action: Verdict::Allow,
                words: None,
                by: Decider::Rarp,
            });
        }
        program
            .policy
            .sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.key.cmp(&b.key)));
        // Rules of equal verdict may come to one row, which is the first one's.
        program.policy.dedup_by(|next, kept| {
            (next.priority, next.key, next.action) == (kept.priority, kept.key, kept.action)
        });
        program.remote.sort_unstable();
        program.words.sort_unstable();
        program.words.dedup();
        // A bit of a word tells the verdict, not the rule.
        program.merged |= !program.words.is_empty();
        program.codes = self.codes.filter(|_| coded).map(|c| Arc::clone(c.codes()));
        shift(&mut program.policy, self.model);
        match restricted(self.model, policy, &program.policy) {
            Some(unsupported) => Err(unsupported),
            None => Ok(program),
        }
    }

    /// The rows that make a base the policy, where they are fewer than the policy's own; `None` where the model has no
    /// overlays or the policy is written as a whole.
    pub fn overlay(&self, policy: &Policy, base: &Policy, cache: &mut Cache) -> Option<ClassRows> {
        let table = self.model.table(Role::Policy, policy.direction)?;
        let capabilities = self.capabilities.get(&policy.direction)?;
        table.key(Field::Overlay)?;
        if self.model.partial.is_some() {
            return None;
        }
        let hidden = !self.model.view.sctp_ports && (policy.names_sctp_ports() || base.names_sctp_ports());
        if !policy.may_deny()
            || !base.may_deny()
            || hidden
            || capabilities.lacks(policy, self.model).is_some()
        {
            return None;
        }
        let mut rows = overlay::lower(policy, base, self.model, capabilities, cache).ok()?;
        shift(&mut rows, self.model);
        let mut whole = || self.lower(policy, Attribution::Rule, cache);
        if rows.len() > FEW && whole().is_ok_and(|whole| whole.rows() <= rows.len()) {
            return None;
        }
        Some(ClassRows {
            policy: rows,
            naive: cells::naive(policy),
            overlay: true,
            ..ClassRows::default()
        })
    }

    /// The cheapest rows of one IP version.
    fn part(
        &self,
        policy: &Policy,
        capabilities: &Capabilities,
        family: Family,
        flat: &mut planes::Planes<'_>,
    ) -> Result<Part, Unsupported> {
        let flattened = flat.part(family);
        // A row for each rule is the least that writing it rule by rule takes.
        let entries = policy
            .entries
            .iter()
            .filter(|e| e.matcher.families.contains(family));
        if let Ok(part) = &flattened
            && part.rows() <= entries.count()
        {
            return flattened.map_err(|_| self.declined(policy, ""));
        }
        let by_rule = rules::part(policy, self.model, capabilities, family, self.codes);
        match (flattened, by_rule) {
            (Ok(planes), Ok(rules)) if self.prefer(capabilities, &rules, &planes) => Ok(rules),
            (Ok(planes), _) => Ok(planes),
            (Err(_), Ok(rules)) => Ok(rules),
            (Err(Declined::TooLarge(why)), Err(_)) => Err(self.declined(policy, &why)),
            (Err(Declined::Priorities(needed)), Err(_)) => Err(self.unprioritized(policy, needed)),
            (Err(Declined::Inexact), Err(_)) => Err(self.declined(policy, "its rules")),
        }
    }

    fn prefer(&self, capabilities: &Capabilities, rules: &Part, planes: &Part) -> bool {
        let weight = if capabilities.few_masks { 4 } else { 1 };
        rules.rows() * weight < planes.rows()
    }

    fn unprioritized(&self, policy: &Policy, needed: u32) -> Unsupported {
        let (low, high) = (self.model.priority_min, self.model.priority_max);
        Unsupported {
            why: format!(
                "its rows need {needed} priorities, which {low} to {high} have no room for: let rows have more of them \
                 (priority_min, priority_max), or use fewer prefix lengths and rules that overlap less"
            ),
            ..self.declined(policy, "")
        }
    }

    fn declined(&self, policy: &Policy, what: &str) -> Unsupported {
        let table = self.model.table(Role::Policy, policy.direction);
        Unsupported {
            target: self.model.name.clone(),
            rule: format!("the {} policy", policy.direction),
            table: table.map_or_else(String::new, |t| t.name.clone()),
            why: format!("{what}: use fewer prefixes, or fewer distinct prefix lengths"),
        }
    }
}

//! What is known of every rule across the policies it is in, and what of that is worth a word.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::describe::{does, done, is_catch_all, list, part};
use super::examine::{Budget, Examined, Standing, rule_of};
use super::{Finding, FindingKind};
use crate::direction::{Direction, PerDirection};
use crate::effective::{Decider, Entry, Policy, Tier};
use crate::matcher::Matcher;
use crate::types::{Family, Protocol, Verdict};
use crate::{replies, shadow};

/// What a rule leans on when ICMP errors, which are replies, would pass without it.
const ERRORS: &str = "icmp-errors";

/// A mandatory rule that decides part of a rule otherwise.
struct Overruling {
    by: Arc<str>,
    /// Which part, in words.
    part: String,
}

/// A rule, over all policies seen so far.
struct Record {
    tier: Tier,
    action: Verdict,
    /// It says why it is there, or is the "everything else" of its list.
    deliberate: bool,
    catch_all: bool,
    /// It decides some packet in some policy.
    matched: bool,
    /// Without it some packet would be decided otherwise in some policy, or nothing can be said of it.
    needed: bool,
    /// Nothing can be said of it.
    unknown: bool,
    /// What decides all it matches, where it decides nothing.
    never_by: Vec<Arc<str>>,
    /// All of those are mandatory rules of the other action.
    defeated: bool,
    /// What would decide the same, where it decides something.
    same_by: Vec<Arc<str>>,
    /// Those of other tiers are among them.
    same_elsewhere: bool,
    /// Rules that name something are among them: neither a default nor an "everything else".
    same_specific: bool,
    /// Rules whose presence makes it redundant, replies included.
    leans_on: BTreeSet<Arc<str>>,
    /// Mandatory rules that decide part of it otherwise; absent when not asked yet.
    overruled: Option<Vec<Overruling>>,
}

impl Record {
    fn from_entry(entry: &Entry) -> Self {
        let catch_all = is_catch_all(&entry.matcher);
        Record {
            tier: entry.tier,
            action: entry.action,
            deliberate: !entry.reason.is_empty() || catch_all,
            catch_all,
            matched: false,
            needed: false,
            unknown: false,
            never_by: Vec::new(),
            defeated: true,
            same_by: Vec::new(),
            same_elsewhere: false,
            same_specific: false,
            leans_on: BTreeSet::new(),
            overruled: None,
        }
    }

    fn never_matches(&self) -> bool {
        !self.unknown && !self.matched && !self.never_by.is_empty()
    }

    /// It never matches, and no reply needs it.
    fn is_idle(&self) -> bool {
        self.never_matches() && !self.needed
    }

    fn is_redundant(&self) -> bool {
        !self.unknown && self.matched && !self.needed
    }

    fn is_closed(&self) -> bool {
        self.unknown || (self.matched && self.needed)
    }

    /// Whether to say that it is redundant: not of what is there on purpose.
    fn is_worth_a_word(&self) -> bool {
        match self.tier {
            // It holds whatever the tiers below say tomorrow.
            Tier::Mandatory => !self.same_elsewhere,
            _ => !(self.action.denies() && self.deliberate) || self.same_specific,
        }
    }
}

/// Every rule seen, by where it was written.
pub(super) struct Ledger {
    records: HashMap<Arc<str>, Record>,
    /// Entries of which nothing new will be found, by direction and where their match is held.
    settled: HashMap<(Direction, usize), Arc<Matcher>>,
    budget: Budget,
}

/// Whether what was found of an entry holds in every policy of a document that has it: it is about mandatory rules alone, which
/// stand in each of them above all others, or about their replies alone, beside those to ICMP.
fn holds_everywhere(policy: &Policy, entry: &Entry, standing: &Standing) -> bool {
    let entries = |by: &[usize], hold: fn(&Entry) -> bool| {
        by.iter()
            .all(|index| policy.entries.get(*index).is_some_and(hold))
    };
    match (standing, entry.tier) {
        (Standing::Same(by), Tier::Mandatory) => {
            let by: Option<Vec<usize>> = by.iter().copied().collect();
            by.is_some_and(|by| entries(&by, |other| other.tier == Tier::Mandatory))
        }
        (Standing::Taken(by), _) => {
            let errors = [Protocol::ICMP, Protocol::ICMPV6].map(Protocol::Number);
            let beside = entry.matcher.protocol != Protocol::Any && !errors.contains(&entry.matcher.protocol);
            let mandatory = |other: &Entry| rule_of(&other.origin).starts_with("mandatory/");
            beside && mandatory(entry) && entries(by, mandatory)
        }
        _ => false,
    }
}

/// The rules of a policy that allow some packet of an IP version, each once.
fn allowing(policy: &Policy, family: Family) -> Vec<Arc<str>> {
    let rules = policy
        .entries
        .iter()
        .filter(|e| matches!(e.tier, Tier::Mandatory | Tier::Endpoint | Tier::Baseline));
    let mut names: Vec<Arc<str>> = Vec::new();
    for (rule, families) in shadow::allowing(rules) {
        if families.contains(family) {
            note(&mut names, Arc::clone(&rule.origin));
        }
    }
    names
}

fn note(list: &mut Vec<Arc<str>>, name: Arc<str>) {
    if !list.contains(&name) {
        list.push(name);
    }
}

impl Ledger {
    pub(super) fn new() -> Self {
        Ledger {
            records: HashMap::new(),
            settled: HashMap::new(),
            budget: Budget::WHOLE,
        }
    }

    /// Takes in a policy, as far as it is about rules that `wanted` holds for. Where redundancy is not `asked` for,
    /// a rule that decides something is taken for needed.
    pub(super) fn add(&mut self, policy: &Policy, wanted: impl Fn(&str) -> bool, asked: bool) {
        let mut examined = None;
        for (index, entry) in policy.entries.iter().enumerate() {
            let rule = rule_of(&entry.origin);
            let generated = entry.tier == Tier::Essential
                || matches!(&*entry.origin, "replies/icmp-errors" | "replies/default");
            if generated || !wanted(rule) || self.records.get(rule).is_some_and(Record::is_closed) {
                continue;
            }
            let place = (policy.direction, Arc::as_ptr(&entry.matcher) as usize);
            if self.settled.contains_key(&place) {
                continue;
            }
            let examined = examined.get_or_insert_with(|| Examined::new(policy));
            let standing = examined.standing(index, &mut self.budget);
            if holds_everywhere(policy, entry, &standing) {
                self.settled.insert(place, Arc::clone(&entry.matcher));
            }
            let record = self
                .records
                .entry(rule.into())
                .or_insert_with(|| Record::from_entry(entry));
            if entry.tier == Tier::Replies {
                reply_standing(record, policy, &standing);
            } else {
                // Its replies may have been met first.
                record.tier = entry.tier;
                own_standing(record, policy, entry, &standing, asked);
                if matches!(entry.tier, Tier::Endpoint | Tier::Unlock) && record.overruled.is_none() {
                    let overruling = examined.overruling(index, &mut self.budget);
                    record.overruled = Some(overrulings(policy, entry, overruling.unwrap_or_default()));
                }
            }
        }
    }

    /// Takes in that rules which allow something let ICMP errors come back. A rule alone in that is needed; of several, each
    /// leans on another one.
    pub(super) fn add_errors(&mut self, policies: &PerDirection<Policy>) {
        for policy in policies {
            let other = &policies[policy.direction.opposite()];
            let named = Family::BOTH.map(|family| (family, allowing(other, family)));
            let mut examined = None;
            self.leans_on_errors(&named);
            for (family, names) in &named {
                if !self.is_news(names) {
                    continue;
                }
                let errors = (0..).zip(&policy.entries);
                let mut errors =
                    errors.filter(|(_, e)| replies::is_error(e) && e.matcher.families.contains(*family));
                let matters = errors.any(|(index, _)| {
                    let examined = examined.get_or_insert_with(|| Examined::new(policy));
                    let standing = examined.standing(index, &mut self.budget);
                    matches!(standing, Standing::Matters | Standing::Unknown)
                });
                if matters {
                    self.lets_errors_in(names);
                }
            }
        }
    }

    /// Takes in that a rule which is redundant because ICMP errors pass anyway leans on the rules that let these in: one of
    /// each IP version has to stay.
    fn leans_on_errors(&mut self, named: &[(Family, Vec<Arc<str>>); 2]) {
        let keepers: Vec<&Arc<str>> = named.iter().filter_map(|(_, names)| names.first()).collect();
        if keepers.is_empty() {
            return;
        }
        for record in self.records.values_mut().filter(|r| !r.is_closed()) {
            if record.leans_on.contains(ERRORS) {
                record.leans_on.extend(keepers.iter().map(|k| Arc::clone(k)));
            }
        }
    }

    /// Whether it is not recorded yet that these rules let errors in.
    fn is_news(&self, names: &[Arc<str>]) -> bool {
        names.iter().any(|name| {
            let record = self.records.get(name);
            record.is_some_and(|record| match names.iter().find(|n| *n != name) {
                None => !record.needed,
                Some(other) => !record.leans_on.contains(other),
            })
        })
    }

    fn lets_errors_in(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(record) = self.records.get_mut(name) {
                match names.iter().find(|n| *n != name) {
                    None => record.needed = true,
                    Some(other) => {
                        record.leans_on.insert(Arc::clone(other));
                    }
                }
            }
        }
    }

    /// What is worth a word.
    pub(super) fn close(self, found: &mut BTreeSet<Finding>) {
        let dispensable = self.dispensable();
        for (at, record) in &self.records {
            let never = record.never_matches();
            if dispensable.contains(at) {
                found.insert(if never {
                    never_matches(at, record)
                } else {
                    changes_nothing(at, record)
                });
            }
            let shown = !never || (record.tier == Tier::Unlock && !record.defeated);
            if let Some(overruled) = record.overruled.as_ref().filter(|list| shown && !list.is_empty())
                && !record.catch_all
            {
                found.insert(overridden(at, record, overruled));
            }
        }
    }

    /// The rules that never match and the redundant ones, worth a word or not.
    #[cfg(test)]
    pub(super) fn idle(&self) -> [BTreeSet<String>; 2] {
        let those = |hold: fn(&Record) -> bool| {
            let held = self.records.iter().filter(|(_, record)| hold(record));
            held.map(|(at, _)| at.to_string()).collect()
        };
        [those(Record::never_matches), those(Record::is_redundant)]
    }

    /// What the budget still holds, and of how many rules nothing can be said.
    #[cfg(test)]
    pub(super) fn left(&self) -> (Budget, usize) {
        (self.budget, self.records.values().filter(|r| r.unknown).count())
    }

    /// The rules that never match, and the redundant ones worth a word, so chosen that all of them can go together: none of them
    /// leans on another one. First those that never match, which lean on others by their replies alone.
    fn dispensable(&self) -> BTreeSet<Arc<str>> {
        let mut chosen: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut leant_on: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut candidates: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| record.is_idle() || (record.is_redundant() && record.is_worth_a_word()))
            .collect();
        candidates.sort_unstable_by_key(|(at, record)| (!record.is_idle(), *at));
        for (at, record) in candidates {
            if leant_on.contains(at) || !record.leans_on.is_disjoint(&chosen) {
                continue;
            }
            chosen.insert(Arc::clone(at));
            leant_on.extend(record.leans_on.iter().cloned());
        }
        chosen
    }
}

fn leans<'i>(record: &mut Record, policy: &Policy, by: impl Iterator<Item = &'i usize>) {
    for other in by.filter_map(|index| policy.entries.get(*index)) {
        record.leans_on.insert(rule_of(&other.origin).into());
    }
}

fn reply_standing(record: &mut Record, policy: &Policy, standing: &Standing) {
    match standing {
        Standing::Never(_) => {}
        Standing::Taken(by) => leans(record, policy, by.iter()),
        Standing::Same(by) => leans(record, policy, by.iter().flatten()),
        Standing::Matters | Standing::Unknown => record.needed = true,
    }
}

fn own_standing(record: &mut Record, policy: &Policy, entry: &Entry, standing: &Standing, asked: bool) {
    match standing {
        Standing::Never(by) => {
            for other in by.iter().filter_map(|index| policy.entries.get(*index)) {
                if other.origin != entry.origin {
                    record.defeated &= other.tier == Tier::Mandatory && other.action != entry.action;
                    note(&mut record.never_by, Arc::clone(&other.origin));
                }
            }
        }
        Standing::Same(by) => {
            record.matched = true;
            record.needed |= !asked;
            for index in by {
                let other = index.and_then(|i| policy.entries.get(i));
                record.same_elsewhere |= other.is_none_or(|o| o.tier != entry.tier);
                record.same_specific |= other.is_some_and(|o| !is_catch_all(&o.matcher));
                let name = match other {
                    Some(other) => Arc::clone(&other.origin),
                    None => policy.origin(Decider::Default).into(),
                };
                record.leans_on.insert(rule_of(&name).into());
                note(&mut record.same_by, name);
            }
        }
        Standing::Matters => {
            record.matched = true;
            record.needed = true;
        }
        // Only of replies.
        Standing::Taken(_) => {}
        Standing::Unknown => record.unknown = true,
    }
}

/// The mandatory rules found, each once; a rule's last entry is the one as it was written.
fn overrulings(policy: &Policy, entry: &Entry, found: Vec<(usize, bool)>) -> Vec<Overruling> {
    let mut list: Vec<Overruling> = Vec::new();
    for (index, all) in found {
        let Some(mandatory) = policy.entries.get(index) else {
            continue;
        };
        let Some(shared) = mandatory.matcher.intersect(&entry.matcher) else {
            continue;
        };
        list.retain(|o| o.by != mandatory.origin);
        let rest = if all {
            ""
        } else {
            ", as far as mandatory rules before it leave it"
        };
        list.push(Overruling {
            by: Arc::clone(&mandatory.origin),
            part: format!("{}{rest}", part(&shared, &entry.matcher)),
        });
    }
    list
}

fn names(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn never_matches(at: &str, record: &Record) -> Finding {
    let by = names(&record.never_by);
    let listed = list(by.iter().cloned(), ", ");
    let (kind, text) = if record.tier == Tier::Unlock && record.defeated {
        let verb = if by.len() == 1 {
            does(opposite(record.action))
        } else {
            deny_or_allow(record.action)
        };
        (
            FindingKind::Defeated,
            format!(
                "has no effect: {listed} {verb} all it is about, and no unlock overrides a mandatory rule"
            ),
        )
    } else {
        let takes = if by.len() == 1 { "takes" } else { "together take" };
        (
            FindingKind::NeverMatches,
            format!("can never match: {listed} before it {takes} all it would match"),
        )
    };
    Finding {
        at: at.to_string(),
        kind,
        by,
        text,
    }
}

fn opposite(action: Verdict) -> Verdict {
    match action {
        Verdict::Allow => Verdict::Deny,
        Verdict::Deny => Verdict::Allow,
    }
}

/// What several rules of the other action do.
fn deny_or_allow(action: Verdict) -> &'static str {
    match action {
        Verdict::Allow => "deny",
        Verdict::Deny => "allow",
    }
}

fn changes_nothing(at: &str, record: &Record) -> Finding {
    let by = names(&record.same_by);
    Finding {
        at: at.to_string(),
        kind: FindingKind::Redundant,
        text: format!(
            "changes nothing: all it decides is {} anyway by {}",
            done(record.action),
            list(by.iter().cloned(), ", ")
        ),
        by,
    }
}

fn overridden(at: &str, record: &Record, overruled: &[Overruling]) -> Finding {
    let verb = does(opposite(record.action));
    let parts = list(
        overruled.iter().map(|o| format!("{} {verb} {}", o.by, o.part)),
        "; ",
    );
    let (kind, text) = if record.tier == Tier::Unlock {
        (
            FindingKind::PartlyDefeated,
            format!("has only part of its effect: {parts}; no unlock overrides a mandatory rule"),
        )
    } else {
        (FindingKind::Overridden, format!("is partly overridden: {parts}"))
    };
    Finding {
        at: at.to_string(),
        kind,
        by: overruled.iter().map(|o| o.by.to_string()).collect(),
        text,
    }
}

//! The rules on one port's NIC, as a state machine: what is there, what should be, and in which order one becomes the other.
//!
//! A change of the switch's tables has three steps here. [`Offload::before`] destroys the rules that the change makes wrong; then the
//! switch forwards by the change; [`Offload::after`] lets [`Offload::step`] create rules again. So the NIC never drops what the policy
//! allows, and while a rule is missing the switch drops in its place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_fastpath::NO_SLOT;

use crate::api::{FlowApi, FlowCount, Until};
use crate::capabilities::Capabilities;
use crate::facts::{Kind, ParserFacts};
use crate::lower::{Bounds, Lowered, Memo, Senders, is_still_denied};
use crate::probe::{Probed, Traffic, probe};
use crate::rule::Rule;

/// What rules dropped in the place of a row of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets that the NIC dropped and counted.
    pub packets: u64,
    /// Bytes, as the NIC counts them; 0 where it does not.
    pub bytes: u64,
}

/// What all NICs of a switch have dropped and counted, by the counters of rows.
#[derive(Debug, Default)]
pub struct Counts(RwLock<HashMap<u32, Count>>);

impl Counts {
    /// What was dropped for a row.
    pub fn of(&self, slot: u32) -> Count {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(&slot).copied().unwrap_or_default()
    }

    fn add(&self, slot: u32, more: Count) {
        if more == Count::default() {
            return;
        }
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let sum = counts.entry(slot).or_default();
        sum.packets = sum.packets.wrapping_add(more.packets);
        sum.bytes = sum.bytes.wrapping_add(more.bytes);
    }
}

/// What is configured of a port's NIC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What its parser is stated to do; `None` where nothing is.
    pub facts: Option<ParserFacts>,
    /// Frames that it may drop beyond the policy.
    pub accept: BTreeSet<Kind>,
    /// Rules that it may have at most; `None`: as many as it takes.
    pub most: Option<usize>,
}

/// A rule on the NIC.
#[derive(Debug)]
struct Installed<H> {
    handle: H,
    /// Counters of the rows whose packets it takes.
    slots: BTreeSet<u32>,
    /// Whether what it counts is one row's.
    is_counted: bool,
    last: FlowCount,
}

/// Whether [`Offload::step`] is worth calling again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    More,
    /// Nothing can be done now. Rules may be missing.
    Done,
    /// The tables have changed meanwhile, or the rules are not wanted yet.
    Stale,
}

/// The rules on one port's NIC.
#[derive(Debug)]
pub struct Offload<A: FlowApi> {
    pub(crate) driver: String,
    api: A,
    pub(crate) settings: Settings,
    pub(crate) probed: Probed,
    /// Number of the present senders: each change brings one more.
    epoch: u64,
    senders: Arc<Senders>,
    is_published: bool,
    pub(crate) lowered: Arc<Lowered>,
    lowered_epoch: u64,
    installed: BTreeMap<Rule, Installed<A::Handle>>,
    pub(crate) refused: BTreeMap<Rule, Refused>,
    /// Rules that are missing, the one that is worth most first; `None` when that has to be found out anew.
    missing: Option<VecDeque<Rule>>,
    /// Rules that it had when it took no more.
    pub(crate) full_at: Option<usize>,
    /// Why rules could not be removed, although all were flushed; none are created as long as that is so.
    pub(crate) stuck: Option<String>,
    seen_resets: u64,
    pub(crate) moves: Moves,
    counts: HashMap<u32, Count>,
    shared: Arc<Counts>,
    /// Rows of which something was dropped that nobody counted.
    lossy: HashSet<u32>,
    /// Rules that could not be read. One that fails again is kept and not counted.
    unread: HashSet<Rule>,
    looks: u32,
    /// Looks until the NIC is asked again what it takes, and how many it will be the next time.
    again: Option<(u32, u32)>,
    /// Packets that each row denied since the last look, in hardware and software.
    heat: HashMap<u32, u64>,
    seen: HashMap<u32, u64>,
}

/// What the NIC said of a rule that it did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub why: String,
    /// How long that stands.
    pub until: Until,
}

/// How often rules came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moves {
    /// Rules that the NIC took, those that came again included.
    pub created: u64,
    /// Rules destroyed, because the policy changed or for a rule with more hits.
    pub destroyed: u64,
    /// Rules that the NIC refused.
    pub refused: u64,
    /// Rules destroyed for one with more hits.
    pub replaced: u64,
    /// Times that the port reset and lost its rules.
    pub resets: u64,
}

/// Packets between two looks by which a rule has to be ahead to replace another.
const HYSTERESIS: u64 = 100;
/// Looks after which a NIC without room is tried once more.
const TRY_FOR_ROOM: u32 = 16;
/// Looks until a NIC that was not ready is asked again, at most.
const LONGEST: u32 = 600;

impl<A: FlowApi> Offload<A> {
    /// Removes what an earlier program left on the NIC, and asks it what it takes. The switch does not forward yet.
    pub fn new(driver: String, mut api: A, settings: Settings, shared: Arc<Counts>) -> Self {
        // A driver that cannot flush its rules is not asked for any.
        let probed = match api.flush() {
            Ok(()) => probe(&mut api, Traffic::None),
            Err(refusal) => Probed {
                refused: vec![refusal.why],
                ..Probed::default()
            },
        };
        let mut offload = Offload {
            driver,
            seen_resets: api.resets(),
            api,
            settings,
            stuck: probed.stuck.clone(),
            probed,
            epoch: 0,
            senders: Arc::default(),
            is_published: true,
            lowered: Arc::default(),
            lowered_epoch: 0,
            installed: BTreeMap::new(),
            refused: BTreeMap::new(),
            missing: None,
            full_at: None,
            moves: Moves::default(),
            counts: HashMap::new(),
            shared,
            lossy: HashSet::new(),
            unread: HashSet::new(),
            looks: 0,
            again: None,
            heat: HashMap::new(),
            seen: HashMap::new(),
        };
        offload.ask_again_later();
        offload
    }

    /// Whether rules can be put on the NIC.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.probed.capabilities.drop && self.settings.facts.is_some()
    }

    /// Whether rules can be put on the NIC, or may be later.
    #[must_use]
    pub fn may_be_on(&self) -> bool {
        self.settings.facts.is_some() && (self.probed.capabilities.drop || self.again.is_some())
    }

    /// What the NIC takes, as far as it is known.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.probed.capabilities
    }

    /// What rules have to keep to.
    #[must_use]
    pub fn bounds(&self) -> Bounds<'_> {
        Bounds {
            facts: self.settings.facts.unwrap_or_default(),
            accept: &self.settings.accept,
        }
    }

    /// Whether what is known of rows is about the tables by which the switch forwards.
    pub(crate) fn is_current(&self) -> bool {
        self.is_published && (self.lowered_epoch == self.epoch || !self.is_on())
    }

    /// The switch is about to let other senders send, or to judge them by other rows: destroys rules that would drop too much then.
    pub fn before(&mut self, senders: Arc<Senders>, memo: &mut Memo) {
        self.epoch += 1;
        self.is_published = false;
        self.missing = None;
        let bounds = Bounds {
            facts: self.settings.facts.unwrap_or_default(),
            accept: &self.settings.accept,
        };
        let mut is_wrong = |rule: &Rule, slots: &BTreeSet<u32>| {
            is_still_denied(rule, &senders, bounds, memo).is_none_or(|now| now != *slots)
        };
        let wrong: Vec<Rule> = self
            .installed
            .iter()
            .filter(|(rule, installed)| is_wrong(rule, &installed.slots))
            .map(|(rule, _)| rule.clone())
            .collect();
        self.senders = senders;
        for rule in wrong {
            self.remove(&rule);
        }
        if self.stuck.is_some() {
            self.flush(true);
        }
    }

    /// The switch forwards by what [`Offload::before`] was given.
    pub fn after(&mut self) {
        self.is_published = true;
    }

    /// The senders whose rules are not known yet, and their epoch for [`Offload::lowered`]; `None` while a change is on its way.
    #[must_use]
    pub fn to_lower(&self) -> Option<(u64, Arc<Senders>)> {
        let is_known = self.lowered_epoch == self.epoch;
        (self.is_on() && self.is_published && !is_known).then(|| (self.epoch, Arc::clone(&self.senders)))
    }

    /// Takes the rules that were lowered for the senders of an epoch. They are dropped if there are newer senders.
    pub fn lowered(&mut self, epoch: u64, lowered: Arc<Lowered>) {
        if epoch != self.epoch {
            return;
        }
        self.lowered = lowered;
        self.lowered_epoch = epoch;
        self.missing = None;
        let lowered = &self.lowered;
        self.refused.retain(|rule, _| lowered.rules.contains_key(rule));
        self.unread.retain(|rule| lowered.rules.contains_key(rule));
        self.lossy.retain(|slot| lowered.rows.contains_key(slot));
    }

    /// Creates the one rule that is worth most among those that are missing, if there is room or it is worth more than another.
    pub fn step(&mut self) -> Step {
        if !self.is_on() || !self.is_published || self.lowered_epoch != self.epoch {
            return Step::Stale;
        }
        if self.stuck.is_some() {
            self.flush(true);
            if self.stuck.is_some() {
                return Step::Done;
            }
        }
        let Some((rule, slots)) = self.next() else {
            return Step::Done;
        };
        match self.is_full() {
            false => self.create(&rule, &slots),
            true => self.replace(&rule, &slots),
        }
    }

    fn is_full(&self) -> bool {
        let here = self.installed.len();
        let configured = self.settings.most.is_some_and(|most| here >= most);
        configured || self.full_at.is_some_and(|full| here >= full)
    }

    /// The missing rule whose rows deny most.
    fn next(&mut self) -> Option<(Rule, BTreeSet<u32>)> {
        if self.missing.is_none() {
            self.missing = Some(self.ordered());
        }
        let rule = self.missing.as_mut()?.pop_front()?;
        let slots = self.lowered.rules.get(&rule)?.clone();
        Some((rule, slots))
    }

    fn ordered(&self) -> VecDeque<Rule> {
        let is_missing = |rule: &Rule| !self.installed.contains_key(rule) && !self.refused.contains_key(rule);
        // Of equal ones, those of rows that need few rules.
        let worth = |(_, slots): &(&Rule, &BTreeSet<u32>)| {
            let rows = slots.iter().filter_map(|slot| self.lowered.rows.get(slot));
            let many = rows.map(|row| row.rules.len()).min().unwrap_or(usize::MAX);
            (std::cmp::Reverse(self.heat_of(slots)), many)
        };
        let missing = self.lowered.rules.iter().filter(|(rule, _)| is_missing(rule));
        let mut missing: Vec<(&Rule, &BTreeSet<u32>)> = missing.collect();
        missing.sort_by_cached_key(worth);
        missing.into_iter().map(|(rule, _)| rule.clone()).collect()
    }

    fn heat_of(&self, slots: &BTreeSet<u32>) -> u64 {
        slots.iter().filter_map(|slot| self.heat.get(slot)).sum()
    }

    /// Puts a rule in the place of the coldest one whose hits are known, if it is worth twice as much and not just a little. If the NIC
    /// does not take it, the other one comes back.
    fn replace(&mut self, rule: &Rule, slots: &BTreeSet<u32>) -> Step {
        let coldest = self.installed.iter().filter(|(_, there)| there.is_counted);
        let coldest = coldest.min_by_key(|(_, there)| self.heat_of(&there.slots));
        let Some((cold, there)) = coldest else {
            return Step::Done;
        };
        let (cold, of_cold) = (cold.clone(), there.slots.clone());
        let least = self
            .heat_of(&of_cold)
            .saturating_mul(2)
            .saturating_add(HYSTERESIS);
        if self.heat_of(slots) <= least {
            return Step::Done;
        }
        let (full, missing) = (self.full_at, self.missing.take());
        self.remove(&cold);
        self.missing = missing;
        if self.stuck.is_some() {
            return Step::Done;
        }
        self.create(rule, slots);
        if self.installed.contains_key(rule) {
            self.moves.replaced += 1;
            self.full_at = full;
            return Step::More;
        }
        // It is tried no more until something else changes.
        if let Some(refused) = self.refused.get_mut(rule) {
            refused.until = Until::Always;
        }
        self.full_at = None;
        self.create(&cold, &of_cold);
        self.full_at = full;
        Step::More
    }

    fn create(&mut self, rule: &Rule, slots: &BTreeSet<u32>) -> Step {
        let can_be_read = self.probed.capabilities.count && !self.unread.contains(rule);
        let is_counted = can_be_read && slots.len() == 1 && !slots.contains(&NO_SLOT);
        match self.api.create(rule, is_counted) {
            Ok(handle) => {
                self.moves.created += 1;
                if !is_counted {
                    self.lossy.extend(slots);
                }
                let installed = Installed {
                    handle,
                    slots: slots.clone(),
                    is_counted,
                    last: FlowCount {
                        packets: Some(0),
                        bytes: Some(0),
                    },
                };
                self.installed.insert(rule.clone(), installed);
                Step::More
            }
            Err(refusal) => {
                self.moves.refused += 1;
                let until = refusal.until;
                if until == Until::ThereIsRoom {
                    self.full_at = Some(self.installed.len());
                }
                let why = refusal.why;
                self.refused.insert(rule.clone(), Refused { why, until });
                match until {
                    Until::Always => Step::More,
                    // Others would be refused as well.
                    Until::ThereIsRoom | Until::Later => Step::Done,
                }
            }
        }
    }

    /// Destroys a rule. If the NIC does not, all are flushed.
    fn remove(&mut self, rule: &Rule) {
        self.read(rule);
        let Some(there) = self.installed.remove(rule) else {
            return;
        };
        self.moves.destroyed += 1;
        self.missing = None;
        if let Err(refusal) = self.api.destroy(there.handle) {
            self.stuck = Some(format!("cannot remove a rule ({rule}): {}", refusal.why));
            self.flush(true);
        }
        // Where a rule went, there is room.
        self.full_at = None;
        self.refused.retain(|_, refused| refused.until == Until::Always);
    }

    /// Removes all rules. Those of a port that has reset are not read: the driver may not know them any more.
    fn flush(&mut self, can_be_read: bool) {
        let rules: Vec<Rule> = self.installed.keys().cloned().collect();
        for rule in rules.iter().filter(|_| can_be_read) {
            self.read(rule);
        }
        match self.api.flush() {
            Ok(()) => {
                self.installed.clear();
                self.missing = None;
                self.stuck = None;
                self.full_at = None;
            }
            Err(refusal) => {
                self.stuck = Some(format!(
                    "rules cannot be removed from the NIC, which may drop what is allowed: {}",
                    refusal.why
                ));
            }
        }
    }

    /// Begins a look: sees whether the port has reset, and whether a NIC that was not ready is now.
    pub fn look(&mut self) {
        if self.api.resets() != self.seen_resets {
            self.seen_resets = self.api.resets();
            self.moves.resets += 1;
            self.again = None;
            self.restart();
        } else if let Some((left, next)) = self.again {
            self.again = Some((left.saturating_sub(1), next));
            if left == 0 {
                self.restart();
            }
        }
        // What was refused for now is tried again; where there was no room, by one rule more from time to time.
        self.refused.retain(|_, refused| refused.until == Until::Always);
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(TRY_FOR_ROOM) {
            self.full_at = self.full_at.map(|full| full.max(self.installed.len()) + 1);
        }
        self.missing = None;
    }

    /// Reads counters of some rules behind the one that was read last. Returns the last one, or nothing if there are no more.
    pub fn read_some(&mut self, behind: Option<&Rule>, most: usize) -> Option<Rule> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = behind.map_or(Unbounded, Excluded);
        let some: Vec<Rule> = self
            .installed
            .range((from, Unbounded))
            .take(most)
            .map(|(r, _)| r.clone())
            .collect();
        for rule in &some {
            // It is created once more. If that does not help, it does not count.
            if !self.read(rule) && self.unread.insert(rule.clone()) {
                self.remove(rule);
            }
        }
        some.last().filter(|_| some.len() == most).cloned()
    }

    /// Ends a look: `denied` is how many packets the switch itself has denied for a row.
    pub fn warm(&mut self, denied: &dyn Fn(u32) -> u64) {
        self.heat.clear();
        let mut seen = HashMap::new();
        for slot in self.lowered.rows.keys() {
            let now = denied(*slot).saturating_add(self.count(*slot).packets);
            let before = self.seen.get(slot).copied().unwrap_or(now);
            self.heat.insert(*slot, now.saturating_sub(before));
            seen.insert(*slot, now);
        }
        self.seen = seen;
    }

    /// Begins anew on a NIC that has lost its rules, or was not ready.
    fn restart(&mut self) {
        for there in self.installed.values() {
            // What it counted since it was read last is lost.
            self.lossy.extend(&there.slots);
        }
        self.flush(false);
        self.refused.clear();
        self.full_at = None;
        if self.stuck.is_none() {
            let before = std::mem::take(&mut self.probed.without_address);
            self.probed = probe(&mut self.api, Traffic::Flows(before));
            self.stuck.clone_from(&self.probed.stuck);
        }
        self.ask_again_later();
        self.lowered_epoch = self.epoch.wrapping_sub(1);
    }

    /// A NIC that takes nothing for now is asked again, less and less often.
    fn ask_again_later(&mut self) {
        let is_worth_it = !self.probed.capabilities.drop && self.probed.is_for_now;
        let next = self.again.map_or(1, |(_, next)| next);
        self.again = is_worth_it.then(|| (next, next.saturating_mul(2).min(LONGEST)));
    }

    /// Adds what a rule has counted to its row. `false` if it should count, and cannot be read.
    fn read(&mut self, rule: &Rule) -> bool {
        let Some(there) = self.installed.get_mut(rule).filter(|there| there.is_counted) else {
            return true;
        };
        let slot = there.slots.first().copied().unwrap_or(NO_SLOT);
        let Ok(now) = self.api.query(&there.handle) else {
            there.is_counted = false;
            self.lossy.insert(slot);
            return false;
        };
        let more = |now: Option<u64>, last: Option<u64>| match (now, last) {
            // A counter that went back has begun anew.
            (Some(now), Some(last)) if now < last => now,
            (Some(now), last) => now - last.unwrap_or(0).min(now),
            (None, _) => 0,
        };
        let count = Count {
            packets: more(now.packets, there.last.packets),
            bytes: more(now.bytes, there.last.bytes),
        };
        let sum = self.counts.entry(slot).or_default();
        sum.packets = sum.packets.wrapping_add(count.packets);
        sum.bytes = sum.bytes.wrapping_add(count.bytes);
        self.shared.add(slot, count);
        if now.packets.is_none() {
            // From now on it is not known what it drops.
            there.is_counted = false;
            self.lossy.insert(slot);
        }
        there.last = FlowCount {
            packets: now.packets.or(there.last.packets),
            bytes: now.bytes.or(there.last.bytes),
        };
        true
    }

    /// What rules of this port have dropped for a row that they count for.
    #[must_use]
    pub fn count(&self, slot: u32) -> Count {
        self.counts.get(&slot).copied().unwrap_or_default()
    }

    /// Whether the row's counter has everything that was dropped for it.
    pub(crate) fn is_counted(&self, slot: u32) -> bool {
        self.stuck.is_none() && !self.lossy.contains(&slot)
    }

    /// Each rule on the NIC, with the counters of the rows whose packets it takes, and whether it counts for one of them.
    pub fn installed(&self) -> impl Iterator<Item = (&Rule, &BTreeSet<u32>, bool)> {
        let all = self.installed.iter();
        all.map(|(rule, there)| (rule, &there.slots, there.is_counted))
    }

    /// The NIC itself; for tests, to see what is on it.
    #[doc(hidden)]
    pub fn api(&mut self) -> &mut A {
        &mut self.api
    }
}

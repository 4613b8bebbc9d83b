//! The rules on one port's NIC, as a state machine: what is there, what should be, and in which order one becomes the other.
//!
//! A change of the switch's tables has three steps here. [`Offload::before`] destroys the rules that the change makes wrong; then the
//! switch forwards by the change; [`Offload::after`] lets [`Offload::step`] create rules again. So the NIC never drops what the policy
//! allows, and while a rule is missing the switch drops in its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_fastpath::NO_SLOT;

use crate::api::{FlowApi, FlowCount};
use crate::capabilities::Capabilities;
use crate::facts::{Kind, ParserFacts};
use crate::lower::{Bounds, Lowered, Senders, is_still_denied};
use crate::probe::{Probed, probe};
use crate::rule::Rule;

/// What rules dropped in the place of a row of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, as the NIC counts them; 0 where it does not.
    pub bytes: u64,
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

/// What [`Offload::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// All is as it can be for now.
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
    /// Which senders it is about: one more with each change.
    epoch: u64,
    senders: Arc<Senders>,
    is_published: bool,
    pub(crate) lowered: Arc<Lowered>,
    lowered_epoch: u64,
    installed: BTreeMap<Rule, Installed<A::Handle>>,
    pub(crate) refused: BTreeMap<Rule, Refused>,
    /// Rules that it had when it took no more.
    pub(crate) full_at: Option<usize>,
    /// Why rules could not be removed, although all were flushed; none are created as long as that is so.
    pub(crate) stuck: Option<String>,
    seen_resets: u64,
    pub(crate) moves: Moves,
    counts: HashMap<u32, Count>,
    /// Packets that each row denied since the last look, in hardware and software.
    heat: HashMap<u32, u64>,
    seen: HashMap<u32, u64>,
}

/// What the NIC said of a rule that it did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub why: String,
    /// There may be room later.
    pub is_for_now: bool,
}

/// How often rules came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moves {
    /// Rules created.
    pub created: u64,
    /// Rules destroyed, because the policy changed or for a rule with more hits.
    pub destroyed: u64,
    /// Rules that the NIC refused.
    pub refused: u64,
    /// Rules destroyed for one with more hits.
    pub replaced: u64,
    /// Times that the port lost its rules.
    pub resets: u64,
}

impl<A: FlowApi> Offload<A> {
    /// Removes what an earlier program left on the NIC, and asks it what it takes.
    pub fn new(driver: String, mut api: A, settings: Settings) -> Self {
        // A driver that cannot flush its rules is not asked for any.
        let probed = match api.flush() {
            Ok(()) => probe(&mut api),
            Err(refusal) => Probed {
                refused: vec![refusal.why],
                ..Probed::default()
            },
        };
        Offload {
            driver,
            seen_resets: api.resets(),
            api,
            settings,
            probed,
            epoch: 0,
            senders: Arc::default(),
            is_published: true,
            lowered: Arc::default(),
            lowered_epoch: 0,
            installed: BTreeMap::new(),
            refused: BTreeMap::new(),
            full_at: None,
            stuck: None,
            moves: Moves::default(),
            counts: HashMap::new(),
            heat: HashMap::new(),
            seen: HashMap::new(),
        }
    }

    /// Whether rules can be put on the NIC.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.probed.capabilities.drop && self.settings.facts.is_some()
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

    /// The switch is about to let other senders send, or to judge them by other rows: destroys rules that would drop too much then.
    pub fn before(&mut self, senders: Arc<Senders>) {
        self.epoch += 1;
        self.is_published = false;
        let bounds = Bounds {
            facts: self.settings.facts.unwrap_or_default(),
            accept: &self.settings.accept,
        };
        let is_wrong = |rule: &Rule, slots: &BTreeSet<u32>| {
            is_still_denied(rule, &senders, bounds).is_none_or(|now| now != *slots)
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
            self.flush();
        }
    }

    /// The switch forwards by what [`Offload::before`] was given.
    pub fn after(&mut self) {
        self.is_published = true;
    }

    /// Who sends, and the number of changes until now; `None` while a change is on its way, or if the rules are known already.
    #[must_use]
    pub fn to_lower(&self) -> Option<(u64, Arc<Senders>)> {
        let is_known = self.lowered_epoch == self.epoch;
        (self.is_on() && self.is_published && !is_known).then(|| (self.epoch, Arc::clone(&self.senders)))
    }

    /// Takes the rules for the senders after so many changes.
    pub fn lowered(&mut self, epoch: u64, lowered: Lowered) {
        if epoch == self.epoch {
            self.lowered = Arc::new(lowered);
            self.lowered_epoch = epoch;
            let lowered = &self.lowered;
            self.refused.retain(|rule, _| lowered.rules.contains_key(rule));
        }
    }

    /// Creates the one rule that is worth most among those that are missing, if there is room or it is worth more than another.
    pub fn step(&mut self) -> Step {
        if !self.is_on() || !self.is_published || self.lowered_epoch != self.epoch {
            return Step::Stale;
        }
        if self.stuck.is_some() {
            self.flush();
            return Step::Done;
        }
        let Some((rule, slots)) = self.next() else {
            return Step::Done;
        };
        if self.is_full() && !self.makes_room(&rule, &slots) {
            return Step::Done;
        }
        self.create(rule, slots)
    }

    fn is_full(&self) -> bool {
        let here = self.installed.len();
        let configured = self.settings.most.is_some_and(|most| here >= most);
        configured || self.full_at.is_some_and(|full| here >= full)
    }

    /// The missing rule whose rows deny most.
    fn next(&self) -> Option<(Rule, BTreeSet<u32>)> {
        let missing = self
            .lowered
            .rules
            .iter()
            .filter(|(rule, _)| !self.installed.contains_key(*rule) && !self.refused.contains_key(*rule));
        // Of equal ones, those of rows that need few rules.
        let worth = |(rule, slots): &(&Rule, &BTreeSet<u32>)| {
            let rules = slots.iter().filter_map(|slot| self.lowered.rows.get(slot));
            let many = rules.map(|row| row.rules.len()).min().unwrap_or(usize::MAX);
            (std::cmp::Reverse(self.heat_of(slots)), many, (*rule).clone())
        };
        let best = missing.min_by_key(worth)?;
        Some((best.0.clone(), best.1.clone()))
    }

    fn heat_of(&self, slots: &BTreeSet<u32>) -> u64 {
        slots.iter().filter_map(|slot| self.heat.get(slot)).sum()
    }

    /// Destroys the coldest rule whose hits are known, if the new one is worth twice as much and not just a little.
    fn makes_room(&mut self, rule: &Rule, slots: &BTreeSet<u32>) -> bool {
        let coldest = self.installed.iter().filter(|(_, there)| there.is_counted);
        let coldest = coldest.min_by_key(|(_, there)| self.heat_of(&there.slots));
        let Some((cold, worth)) = coldest.map(|(cold, there)| (cold.clone(), self.heat_of(&there.slots)))
        else {
            return false;
        };
        if cold == *rule || self.heat_of(slots) <= worth.saturating_mul(2).saturating_add(HYSTERESIS) {
            return false;
        }
        self.remove(&cold);
        self.moves.replaced += 1;
        self.stuck.is_none()
    }

    fn create(&mut self, rule: Rule, slots: BTreeSet<u32>) -> Step {
        let is_counted = self.probed.capabilities.count && slots.len() == 1 && !slots.contains(&NO_SLOT);
        match self.api.create(&rule, is_counted) {
            Ok(handle) => {
                self.moves.created += 1;
                let last = FlowCount {
                    packets: Some(0),
                    bytes: Some(0),
                };
                let installed = Installed {
                    handle,
                    slots,
                    is_counted,
                    last,
                };
                self.installed.insert(rule, installed);
                Step::More
            }
            Err(refusal) => {
                self.moves.refused += 1;
                if refusal.is_for_now {
                    self.full_at = Some(self.installed.len());
                }
                let refused = Refused {
                    why: refusal.why,
                    is_for_now: refusal.is_for_now,
                };
                self.refused.insert(rule, refused);
                if refusal.is_for_now {
                    Step::Done
                } else {
                    Step::More
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
        if let Err(refusal) = self.api.destroy(there.handle) {
            self.stuck = Some(format!("cannot remove a rule ({rule}): {}", refusal.why));
            self.flush();
        }
        // Where a rule went, there is room.
        self.full_at = None;
        self.refused.retain(|_, refused| !refused.is_for_now);
    }

    fn flush(&mut self) {
        let rules: Vec<Rule> = self.installed.keys().cloned().collect();
        for rule in &rules {
            self.read(rule);
        }
        match self.api.flush() {
            Ok(()) => {
                self.installed.clear();
                self.stuck = None;
                self.full_at = None;
            }
            Err(refusal) => {
                let why = format!(
                    "rules cannot be removed from the NIC, which may drop what is allowed: {}",
                    refusal.why
                );
                self.stuck = Some(why);
            }
        }
    }

    /// Reads counters, and sees whether the port has reset. `denied` is how many packets the switch itself has denied for a row.
    pub fn look(&mut self, denied: &dyn Fn(u32) -> u64) {
        if self.api.resets() != self.seen_resets {
            self.seen_resets = self.api.resets();
            self.moves.resets += 1;
            self.restart();
        }
        let rules: Vec<Rule> = self.installed.keys().cloned().collect();
        let mut lost = false;
        for rule in &rules {
            lost |= !self.read(rule);
        }
        if lost {
            self.moves.resets += 1;
            self.restart();
        }
        self.warm(denied);
        // What was refused for now is tried again.
        self.refused.retain(|_, refused| !refused.is_for_now);
        if self.full_at.is_some_and(|full| full > self.installed.len()) {
            self.full_at = None;
        }
    }

    /// Begins anew on a NIC that has lost rules.
    fn restart(&mut self) {
        self.stuck = None;
        self.flush();
        self.installed.clear();
        self.refused.clear();
        self.full_at = None;
        if self.stuck.is_none() {
            self.probed = probe(&mut self.api);
        }
        self.lowered_epoch = self.epoch.wrapping_sub(1);
    }

    fn warm(&mut self, denied: &dyn Fn(u32) -> u64) {
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

    /// Adds what a rule has counted to its row. `false` if the rule is not on the NIC any more.
    fn read(&mut self, rule: &Rule) -> bool {
        let Some(there) = self.installed.get_mut(rule).filter(|there| there.is_counted) else {
            return true;
        };
        let Ok(now) = self.api.query(&there.handle) else {
            return false;
        };
        let more = |now: Option<u64>, last: Option<u64>| match (now, last) {
            // A counter that went back has begun anew.
            (Some(now), Some(last)) if now < last => now,
            (Some(now), last) => now - last.unwrap_or(0).min(now),
            (None, _) => 0,
        };
        let slot = there.slots.first().copied().unwrap_or(NO_SLOT);
        let sum = self.counts.entry(slot).or_default();
        sum.packets = sum.packets.wrapping_add(more(now.packets, there.last.packets));
        sum.bytes = sum.bytes.wrapping_add(more(now.bytes, there.last.bytes));
        if now.packets.is_none() {
            // From now on it is not known what it drops.
            there.is_counted = false;
        }
        there.last = now;
        true
    }

    /// What rules have dropped for a row that they count for.
    #[must_use]
    pub fn count(&self, slot: u32) -> Count {
        self.counts.get(&slot).copied().unwrap_or_default()
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

/// Packets between two looks by which a rule has to be ahead to replace another.
const HYSTERESIS: u64 = 100;

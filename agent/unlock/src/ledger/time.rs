//! What time does to unlocks, and closings that come from beside.

use portcullis_policy::{Document, Name};

use super::unlock::{MINUTE, State, Unlock};
use super::{AGENT, Change, Ledger, StrikeKey, Strikes};
use crate::clock::Moment;
use crate::judge::{Known, unmet};

/// Milliseconds by which the clocks may drift apart between two readings; beyond that, one of them was set.
const SET: u64 = 1000;

impl Ledger {
    /// What time does: leases end, notices are given, graces and quarantines are over.
    pub fn tick(&mut self, document: &Document, now: &Moment) -> Vec<Change> {
        let mut changes = self.tick_closing(document, now);
        changes.extend(self.tick_rest(now));
        changes
    }

    /// What time closes: leases, graces and bypasses that are over. It opens nothing, so that it may be done before it is
    /// stored.
    pub fn tick_closing(&mut self, document: &Document, now: &Moment) -> Vec<Change> {
        self.end_bypasses(now);
        let mut changes = Vec::new();
        for id in self.due(now) {
            let Some(unlock) = self.live.get(&id).filter(|unlock| unlock.state.is_open()) else {
                continue;
            };
            let mut unlock = Unlock::clone(unlock);
            if unlock.ends.is_some_and(|end| end.has_come(now)) {
                unlock.enter(State::Expired, "the lease ended", AGENT, now);
                changes.push(self.changed(unlock, "unlock.expire", AGENT));
            } else if unlock.lost().is_some_and(|until| until.has_come(now)) {
                let why = unlock.reason.split("; revoked in").next().unwrap_or_default();
                let why = why.to_string();
                changes.extend(self.revoked(document, unlock, &why, AGENT, None, now));
            }
        }
        if !changes.is_empty() {
            self.orphans(document, &mut changes, now);
        }
        changes
    }

    /// What time closes of what a program requires: `now` and ages go on. Each grant is looked at in every minute, those whose
    /// turn was after `since`; all of them after a minute, and when somebody set the clock. Like
    /// [`tick_closing`](Self::tick_closing) it opens nothing.
    pub fn tick_required(&mut self, document: &Document, since: &Moment, now: &Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in self.to_judge(since, now) {
            let Some(unlock) = self.live.get(&id).cloned() else {
                continue;
            };
            let known = Known {
                document,
                ledger: self,
                now: *now,
            };
            if let Some(why) = unmet(&unlock, &known) {
                changes.push(self.ended(Unlock::clone(&unlock), why, now));
            }
        }
        if !changes.is_empty() {
            self.orphans(document, &mut changes, now);
        }
        changes
    }

    /// The grants whose turn came after one moment and up to another.
    fn to_judge(&self, since: &Moment, now: &Moment) -> Vec<Name> {
        let went = now.boot_ms.saturating_sub(since.boot_ms);
        let by_wall = now.wall_ms.saturating_sub(since.wall_ms);
        let set = by_wall.abs_diff(i64::try_from(went).unwrap_or(i64::MAX)) > SET;
        let whole = since.boot != now.boot || went >= MINUTE || set;
        let (from, to) = (since.boot_ms % MINUTE, now.boot_ms % MINUTE);
        let due = |phase: u64| match from <= to {
            true => from < phase && phase <= to,
            false => from < phase || phase <= to,
        };
        let turn = self.timed.iter().filter(|(phase, _)| whole || due(*phase));
        turn.map(|(_, id)| id.clone()).collect()
    }

    /// Milliseconds until the next turn of a grant to be judged by the time.
    pub(super) fn next_judged_ms(&self, now: &Moment) -> Option<u64> {
        let at = now.boot_ms % MINUTE;
        let left = |phase: u64| {
            if phase > at {
                phase - at
            } else {
                phase + MINUTE - at
            }
        };
        self.timed.iter().map(|(phase, _)| left(*phase)).min()
    }

    /// What time does besides: notices are given, quarantines are over.
    pub fn tick_rest(&mut self, now: &Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in self.due(now) {
            let Some(unlock) = self.live.get(&id) else {
                continue;
            };
            let mut unlock = Unlock::clone(unlock);
            let ended = unlock.state.has_ended();
            if unlock.state == State::Active && unlock.notice.is_some_and(|at| at.has_come(now)) {
                unlock.notice = None;
                unlock.enter(State::Expiring, "the lease ends soon", AGENT, now);
                changes.push(self.changed(unlock, "unlock.expiring", AGENT));
            } else if ended && unlock.quarantine.is_some_and(|until| until.has_surely_come(now)) {
                unlock.quarantine = None;
                changes.push(self.changed(unlock, "unlock.quarantine_over", AGENT));
            }
        }
        changes
    }

    /// Lets closings hold that were made from an earlier state of this ledger, while it became what it is; returns what
    /// else ends with them.
    pub fn overlay(&mut self, document: &Document, closings: &[Change], now: &Moment) -> Vec<Change> {
        let mut changes = closings.to_vec();
        for change in closings {
            let mut unlock = Unlock::clone(&change.unlock);
            let here = self.live.get(&unlock.id).map_or(0, |unlock| unlock.revision);
            unlock.revision = unlock.revision.max(here + 1);
            self.put(unlock);
        }
        self.orphans(document, &mut changes, now);
        changes.split_off(closings.len())
    }

    /// Sets how often a program was revoked, as a closing has it.
    pub fn set_strikes(&mut self, key: &StrikeKey, strikes: Option<Strikes>) {
        match strikes {
            Some(strikes) => drop(self.strikes.insert(key.clone(), strikes)),
            None => drop(self.strikes.remove(key)),
        }
    }
}

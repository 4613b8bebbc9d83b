//! What time does to unlocks, and closings that come from beside.

use portcullis_policy::Document;

use super::unlock::{State, Unlock};
use super::{AGENT, Change, Ledger, StrikeKey, Strikes};
use crate::clock::Moment;

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
            } else if unlock.failing.is_some_and(|(_, until)| until.has_come(now)) {
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

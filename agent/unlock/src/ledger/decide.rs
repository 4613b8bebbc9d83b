//! Decisions of people: approve, reject, renew, release, revoke.

use std::sync::Arc;

use portcullis_policy::{Document, Name, Program, Span};

use super::basis::tenant_of;
use super::step::{lease, lease_of, program_of, wrong_state};
use super::unlock::{Renewal, State, Unlock};
use super::{Change, Judgement, Ledger, Refusal, Strikes, Subject};
use crate::clock::{Deadline, Moment};
use crate::judge::{Known, judge, manual, unmet};

/// Seconds for which checks hold whose program does not say how often they are made.
const FRESH: u64 = 3600;
/// Seconds after its end in which an unlock can be revoked.
const LATELY: u64 = 30 * 86_400;

/// When the checks that an approval rests on are made again: at once if they are older than they may get in a grant of the
/// program, else when they would be.
fn stale(unlock: &Unlock, program: &Program, now: &Moment) -> Option<Deadline> {
    if program.checks.is_empty() {
        return None;
    }
    let every = program.lease.recheck_every.map(Span::as_seconds);
    let fresh = every.unwrap_or(FRESH);
    let made = unlock.checks.iter().map(|check| check.at).min();
    let age = made.map_or(fresh, |made| {
        now.seconds().saturating_sub(made).max(0).cast_unsigned()
    });
    let left = fresh.saturating_sub(age);
    (left == 0 || every.is_some()).then(|| now.after(left))
}

impl Ledger {
    /// An operator approves, a request or a renewal. What would not be granted now is refused.
    pub fn approve(
        &mut self,
        document: &Document,
        id: &Name,
        reason: &str,
        by: &str,
        now: &Moment,
    ) -> Result<Vec<Change>, Refusal> {
        let mut unlock = self.in_state(id, "awaiting approval", "approved", |s| {
            s == State::AwaitingApproval || s.is_open()
        })?;
        let renewal = unlock.renewal.take();
        if renewal.is_none() && unlock.state.is_open() {
            return Err(wrong_state(&unlock, "awaiting approval", "approved"));
        }
        let program = program_of(document, &unlock.program)?;
        let known = Known {
            document,
            ledger: self,
            now: *now,
        };
        if let Judgement::Fails(why) | Judgement::Unmet(why) = judge(&unlock, &unlock.checks, &known) {
            return Err(Refusal::Unmet {
                id: id.clone(),
                program: unlock.program.clone(),
                why,
            });
        }
        if let Some(needed) = self.needed(program, &unlock.endpoint, now).next() {
            return Err(Refusal::Needs {
                endpoint: unlock.endpoint.clone(),
                program: unlock.program.clone(),
                needed: needed.clone(),
            });
        }
        unlock.approved = true;
        if let Some(renewal) = renewal {
            let reason = if reason.is_empty() { "renewed" } else { reason };
            return Ok(vec![self.renewed(
                unlock,
                program,
                renewal.lease_seconds,
                (reason, by),
                now,
            )]);
        }
        let reason = if reason.is_empty() { "approved" } else { reason };
        unlock.recheck = stale(&unlock, program, now);
        Ok(self.activate(document, unlock, program, reason, by, now))
    }

    /// An operator rejects, a request or a renewal.
    pub fn reject(&mut self, id: &Name, reason: &str, by: &str, now: &Moment) -> Result<Change, Refusal> {
        let mut unlock = self.in_state(id, "not granted yet", "rejected", |s| !s.has_ended())?;
        let renewal = unlock.renewal.take();
        if renewal.is_none() && unlock.state.is_open() {
            return Err(wrong_state(&unlock, "not granted yet", "rejected"));
        }
        if reason.is_empty() {
            return Err(Refusal::NoReason);
        }
        if renewal.is_some() {
            unlock.reason = format!("no renewal: {reason}");
            return Ok(self.changed(unlock, "unlock.reject_renewal", by));
        }
        unlock.enter(State::Rejected, reason, by, now);
        Ok(self.changed(unlock, "unlock.reject", by))
    }

    /// Its lease begins anew, and its checks are due at once; an operator has to approve that first, unless the
    /// caller may do so.
    pub fn renew(
        &mut self,
        document: &Document,
        id: &Name,
        lease_seconds: Option<u64>,
        (by, may_approve): (&str, bool),
        now: &Moment,
    ) -> Result<Change, Refusal> {
        let mut unlock = self.in_state(id, "active", "renewed", State::is_open)?;
        let program = program_of(document, &unlock.program)?;
        if !program.lease.renewable {
            return Err(Refusal::NotRenewable(unlock.program));
        }
        if !unlock.is_open(now) {
            return Err(wrong_state(&unlock, "active", "renewed"));
        }
        let lease_seconds = lease_of(program, &unlock.program, lease_seconds)?;
        let asked = Unlock {
            lease_seconds,
            ..unlock.clone()
        };
        let known = Known {
            document,
            ledger: self,
            now: *now,
        };
        if let Some(why) = unmet(&asked, &known) {
            return Err(Refusal::Unmet {
                id: id.clone(),
                program: unlock.program.clone(),
                why,
            });
        }
        let manual = manual(&asked, &asked.checks, &known);
        if manual && !may_approve {
            unlock.renewal = Some(Renewal {
                lease_seconds,
                by: by.to_string(),
                at: now.seconds(),
            });
            unlock.reason = format!(
                "a renewal for {} waits for approval",
                Span::seconds(lease_seconds)
            );
            return Ok(self.changed(unlock, "unlock.request_renewal", by));
        }
        unlock.approved |= manual;
        Ok(self.renewed(unlock, program, lease_seconds, ("renewed", by), now))
    }

    fn renewed(
        &mut self,
        mut unlock: Unlock,
        program: &Program,
        lease_seconds: u64,
        (reason, by): (&str, &str),
        now: &Moment,
    ) -> Change {
        unlock.lease_seconds = lease_seconds.min(program.lease.longest().as_seconds());
        unlock.renewals += 1;
        unlock.renewal = None;
        lease(&mut unlock, program, now);
        if !program.checks.is_empty() || program.require.is_some() {
            unlock.recheck = Some(now.after(0));
        }
        unlock.enter(State::Active, reason, by, now);
        self.changed(unlock, "unlock.renew", by)
    }

    /// The tenant gives it back, or takes the request back.
    pub fn release(
        &mut self,
        document: &Document,
        id: &Name,
        by: &str,
        now: &Moment,
    ) -> Result<Vec<Change>, Refusal> {
        let mut unlock = self.in_state(id, "under way", "released", |s| !s.has_ended())?;
        // Nobody avoids a revocation by being quicker.
        if unlock.state.is_open() && unlock.failing.is_some() {
            unlock.enter(State::Released, "given back while its checks failed", by, now);
            self.strike(document, &mut unlock, now);
        } else {
            unlock.enter(State::Released, "given back", by, now);
        }
        let mut changes = vec![self.changed(unlock, "unlock.release", by)];
        self.orphans(document, &mut changes, now);
        Ok(changes)
    }

    /// An operator takes it back; with `quarantine`, its openings are denied above everything for the program's time.
    pub fn revoke(
        &mut self,
        document: &Document,
        id: &Name,
        (reason, quarantine): (&str, bool),
        by: &str,
        now: &Moment,
    ) -> Result<Vec<Change>, Refusal> {
        let unlock = self.in_state(id, "active", "revoked", State::is_open)?;
        if reason.is_empty() {
            return Err(Refusal::NoReason);
        }
        let program = program_of(document, &unlock.program)?;
        let span = program.quarantine.filter(|_| quarantine);
        Ok(self.revoked(document, unlock, reason, by, span, now))
    }

    /// [`revoke`](Self::revoke) of one that ended recently, by whatever cause: ending it first avoids nothing. What was
    /// granted under the same program on the endpoint since then ends with it.
    pub fn revoke_ended(
        &mut self,
        document: &Document,
        ended: &Unlock,
        (reason, quarantine): (&str, bool),
        by: &str,
        now: &Moment,
    ) -> Result<Vec<Change>, Refusal> {
        let at = ended
            .ended_at
            .filter(|_| ended.state.has_ended() && ended.granted_at.is_some());
        let lately = at.is_some_and(|at| now.seconds().saturating_sub(at) <= LATELY.cast_signed());
        if !lately {
            return Err(Refusal::LongOver {
                id: ended.id.clone(),
                state: ended.state,
                lately: Span::seconds(LATELY),
            });
        }
        if reason.is_empty() {
            return Err(Refusal::NoReason);
        }
        let program = program_of(document, &ended.program)?;
        let mut unlock = ended.clone();
        unlock.enter(State::Revoked, reason, by, now);
        unlock.ended_at = at;
        // Another tenant that has the endpoint now has nothing to do with it.
        let endpoint = document.endpoints.get(&ended.endpoint);
        let its_own = endpoint.is_none_or(|endpoint| tenant_of(document, endpoint) == ended.tenant);
        if let Some(span) = program.quarantine.filter(|_| quarantine && its_own) {
            unlock.quarantine = Some(now.after(span.as_seconds()));
        }
        if !unlock.struck {
            self.strike(document, &mut unlock, now);
        }
        let mut changes = vec![self.changed(unlock, "unlock.revoke", by)];
        let since: Vec<Arc<Unlock>> = self.of_endpoint(ended.endpoint.as_str()).cloned().collect();
        for other in since
            .iter()
            .filter(|other| its_own && other.program == ended.program)
        {
            let mut other = Unlock::clone(other);
            if other.state.is_open() {
                other.enter(State::Revoked, reason, by, now);
                changes.push(self.changed(other, "unlock.revoke", by));
            } else if !other.state.has_ended() {
                other.enter(State::Rejected, reason, by, now);
                changes.push(self.changed(other, "unlock.reject", by));
            }
        }
        self.orphans(document, &mut changes, now);
        Ok(changes)
    }

    /// Counts the end of an unlock as a revocation, against its tenant, and against its endpoint unless that is no longer the
    /// tenant's.
    pub(super) fn strike(&mut self, document: &Document, unlock: &mut Unlock, now: &Moment) {
        unlock.struck = true;
        let program = document.programs.get(&unlock.program);
        let cooldowns = program.map(|p| &p.limits.cooldown_after_revoke);
        let tenant = (!unlock.tenant.is_empty()).then(|| Subject::Tenant(unlock.tenant.clone()));
        let is = document.endpoints.get(&unlock.endpoint);
        let own = unlock.tenant.is_empty() || is.is_some_and(|is| tenant_of(document, is) == unlock.tenant);
        let endpoint = own.then(|| Subject::Endpoint(unlock.endpoint.clone()));
        for subject in [endpoint, tenant].into_iter().flatten() {
            let key = (subject, unlock.program.clone());
            let times = self.strikes.get(&key).map_or(0, |s| s.times).saturating_add(1);
            let nth = cooldowns.and_then(|list| list.get(times as usize - 1).or_else(|| list.last()));
            let until = nth.map(|span| now.after(span.as_seconds()));
            self.strikes.insert(key, Strikes { times, until });
        }
    }
}

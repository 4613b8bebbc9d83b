//! Transitions of unlocks: requests, results of checks, leases.

use std::sync::Arc;

use portcullis_policy::{Document, Name, Program, Rule, Span};

use super::basis::{Basis, covers, open_alike, tenant_of};
use super::follow::local;
use super::unlock::{Checked, SAMPLES, State, Unlock};
use super::{AGENT, Change, Judgement, Ledger, Refusal, Request};
use crate::clock::{Deadline, Moment};
use crate::evidence::Evidence;
use crate::judge::{Known, by_time, judge, unmet};

/// Seconds after which checks that did not pass are made again. After the last a request is rejected of which a check is
/// undetermined; those of an active unlock are made again after the last one's time.
const RETRIES: [u64; 4] = [10, 60, 300, 1800];
/// Seconds for which checks of an active unlock may be undetermined, at least.
const UNKNOWN: u64 = 3600;
/// A check that was not made is made again after this, in seconds.
const NOT_MADE: u64 = 60;
/// The longest time before its end in which an unlock counts as expiring when its program says nothing.
const NOTICE: u64 = 72 * 3600;

impl Ledger {
    /// Takes a request in; its checks are due at once.
    pub fn request(
        &mut self,
        document: &Document,
        request: Request,
        now: &Moment,
    ) -> Result<Change, Refusal> {
        let program = program_of(document, &request.program)?;
        // It may have got another tenant since the caller was looked at.
        let endpoint = document.endpoints.get(&request.endpoint);
        if endpoint.is_none_or(|endpoint| tenant_of(document, endpoint) != request.tenant) {
            return Err(Refusal::NoEndpoint(request.endpoint));
        }
        if self.live.contains_key(&request.id) {
            return Err(Refusal::IdInUse(request.id));
        }
        let lease_seconds = lease_of(program, &request.program, request.lease_seconds)?;
        let stand = self.obstacles(
            document,
            &request.endpoint,
            &request.tenant,
            &request.program,
            now,
        );
        if let Some(first) = stand.into_iter().next() {
            return Err(first);
        }
        let mut unlock = Unlock {
            state: State::Checking,
            lease_seconds,
            recheck: Some(now.after(0)),
            ..blank(request, now)
        };
        let by = unlock.requested_by.clone();
        unlock.enter(State::Checking, "requested", &by, now);
        Ok(self.changed(unlock, "unlock.request", &by))
    }

    /// Takes the evidence that a follow-up waits for.
    pub fn supply(&mut self, id: &Name, request: Request, now: &Moment) -> Result<Change, Refusal> {
        let mut unlock = self.in_state(id, "waiting for evidence", "given evidence", |s| {
            s == State::Requested
        })?;
        unlock.evidence = request.evidence;
        unlock.opens = request.opens;
        unlock.recheck = Some(now.after(0));
        unlock.enter(State::Checking, "evidence submitted", &request.by, now);
        Ok(self.changed(unlock, "unlock.request", &request.by))
    }

    /// Judges an unlock by checks that were made for `basis`. When that is not what there is any more, they say nothing,
    /// and are made again.
    pub fn checked(
        &mut self,
        document: &Document,
        id: &Name,
        basis: &Basis,
        checks: Vec<Checked>,
        now: &Moment,
    ) -> Vec<Change> {
        let Some(unlock) = self.live.get(id).filter(|u| !u.state.has_ended()).cloned() else {
            return Vec::new();
        };
        let Some(is) = Basis::new(document, &unlock) else {
            return Vec::new();
        };
        if !basis.same_checks(&is) || !basis.same_place(&is) {
            let mut unlock = Unlock::clone(&unlock);
            unlock.recheck = Some(now.after(0));
            return vec![self.changed(unlock, "unlock.check", AGENT)];
        }
        let known = Known {
            document,
            ledger: self,
            now: *now,
        };
        let judgement = judge(&unlock, &checks, &known);
        self.judged(document, id, checks, &judgement, now)
    }

    /// Takes the judgement of an unlock and the checks that it rests on. The unlock may have ended: then nothing happens.
    pub fn judged(
        &mut self,
        document: &Document,
        id: &Name,
        checks: Vec<Checked>,
        judgement: &Judgement,
        now: &Moment,
    ) -> Vec<Change> {
        let Some(unlock) = self.live.get(id).filter(|u| !u.state.has_ended()) else {
            return Vec::new();
        };
        let Some(program) = document.programs.get(&unlock.program) else {
            return Vec::new();
        };
        let mut unlock = Unlock::clone(unlock);
        unlock.checks = checks;
        match unlock.state {
            State::Checking => self.first_judged(document, unlock, program, judgement, now),
            State::Active | State::Expiring => self.judged_again(document, unlock, program, judgement, now),
            // Whoever decides sees the newest checks.
            _ => {
                unlock.recheck = None;
                vec![self.changed(unlock, "unlock.check", AGENT)]
            }
        }
    }

    fn first_judged(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        judgement: &Judgement,
        now: &Moment,
    ) -> Vec<Change> {
        unlock.recheck = None;
        match judgement {
            Judgement::Holds { manual: true } => {
                unlock.basis = Basis::new(document, &unlock);
                unlock.enter(
                    State::AwaitingApproval,
                    "the checks passed; an operator decides",
                    AGENT,
                    now,
                );
                vec![self.changed(unlock, "unlock.await", AGENT)]
            }
            Judgement::Holds { manual: false } => {
                self.activate(document, unlock, program, "the checks passed", AGENT, now)
            }
            Judgement::Fails(why) | Judgement::Unmet(why) => {
                unlock.enter(State::Rejected, why, AGENT, now);
                vec![self.changed(unlock, "unlock.reject", AGENT)]
            }
            Judgement::NotMade(why) => {
                unlock.recheck = Some(now.after(NOT_MADE));
                unlock.reason = format!("{why}; tried again in {}", Span::seconds(NOT_MADE));
                vec![self.changed(unlock, "unlock.check", AGENT)]
            }
            Judgement::Unknown(why) => {
                let wait = RETRIES.get(unlock.attempts as usize);
                unlock.attempts += 1;
                match wait {
                    Some(wait) => {
                        unlock.recheck = Some(now.after(*wait));
                        unlock.reason = format!("{why}; tried again in {}", Span::seconds(*wait));
                        vec![self.changed(unlock, "unlock.check", AGENT)]
                    }
                    None => {
                        let why = format!("{why}, {} times in a row: request it again", unlock.attempts);
                        unlock.enter(State::Rejected, why, AGENT, now);
                        vec![self.changed(unlock, "unlock.reject", AGENT)]
                    }
                }
            }
        }
    }

    fn judged_again(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        judgement: &Judgement,
        now: &Moment,
    ) -> Vec<Change> {
        unlock.recheck = program
            .lease
            .recheck_every
            .map(|every| now.after(every.as_seconds()));
        let (why, fails) = match judgement {
            Judgement::Holds { manual } => {
                (unlock.attempts, unlock.failed) = (0, None);
                if unlock.failing.take().is_some() {
                    unlock.reason = "the checks pass again".to_string();
                }
                return self.holds_again(document, unlock, program, *manual, now);
            }
            // Nobody's fault, and nothing that time mends.
            Judgement::Unmet(why) => {
                unlock.enter(State::Revoked, why, AGENT, now);
                let mut changes = vec![self.changed(unlock, "unlock.revoke", AGENT)];
                self.orphans(document, &mut changes, now);
                return changes;
            }
            // Neither a failure nor the end of one.
            Judgement::NotMade(why) => {
                unlock.recheck = Some(now.after(NOT_MADE));
                unlock.reason = format!("{why}; tried again in {}", Span::seconds(NOT_MADE));
                return vec![self.changed(unlock, "unlock.check", AGENT)];
            }
            Judgement::Fails(why) => (why, true),
            Judgement::Unknown(why) => (why, false),
        };
        not_passed(&mut unlock, program, fails, now);
        if unlock.lost().is_some_and(|until| until.has_come(now)) {
            return self.revoked(document, unlock, why, AGENT, None, now);
        }
        let left = Span::seconds(soonest(&unlock, fails, now));
        unlock.reason = format!("{why}; revoked in {left} if it stays so");
        vec![self.changed(unlock, "unlock.check", AGENT)]
    }

    /// A grant holds by what there is now.
    fn holds_again(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        manual: bool,
        now: &Moment,
    ) -> Vec<Change> {
        let is = Basis::new(document, &unlock);
        let changed = unlock.basis.is_some() && unlock.basis != is;
        match crate::evidence::rules(program, unlock.program.as_str(), &unlock.evidence) {
            Ok(opens) => {
                unlock.approved &= open_alike(&opens, &unlock.opens);
                unlock.opens = opens;
            }
            Err(_) => return vec![self.changed(unlock, "unlock.check", AGENT)],
        }
        unlock.basis = is;
        unlock.moved = false;
        cover(&mut unlock, document, program);
        if changed && manual && !unlock.approved {
            let mut changes = vec![self.asked_again(unlock, false, now)];
            self.orphans(document, &mut changes, now);
            return changes;
        }
        vec![self.changed(unlock, "unlock.check", AGENT)]
    }

    pub(super) fn activate(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        reason: &str,
        by: &str,
        now: &Moment,
    ) -> Vec<Change> {
        let lacking = self.needed(program, &unlock.endpoint, now).next().cloned();
        if let Some(needed) = lacking {
            let why = format!("it needs `{needed}`, which is not active any more");
            unlock.enter(State::Rejected, why, AGENT, now);
            return vec![self.changed(unlock, "unlock.reject", AGENT)];
        }
        unlock.granted_at = Some(now.seconds());
        unlock.attempts = 0;
        unlock.by_time = by_time(document, program);
        unlock.basis = Basis::new(document, &unlock);
        cover(&mut unlock, document, program);
        lease(&mut unlock, program, now);
        let every = program.lease.recheck_every;
        let every = every.map(|every| now.after(every.as_seconds()));
        unlock.recheck = unlock.recheck.or(every);
        unlock.enter(State::Active, reason, by, now);
        let granted = self.changed(unlock, "unlock.activate", by);
        let parent = Arc::clone(&granted.unlock);
        let mut changes = vec![granted];
        changes.extend(
            program
                .follow_up
                .iter()
                .filter_map(|next| self.follow_up(document, &parent, next, now)),
        );
        changes
    }

    /// Opens the request that follows a grant, unless something stands against it.
    fn follow_up(
        &mut self,
        document: &Document,
        parent: &Unlock,
        name: &Name,
        now: &Moment,
    ) -> Option<Change> {
        let program = document.programs.get(name)?;
        let stand = self.obstacles(document, &parent.endpoint, &parent.tenant, name, now);
        let id = following(&parent.id, name)?;
        if !stand.is_empty() || self.live.contains_key(&id) {
            return None;
        }
        let (evidence, opens) = inherited(program, parent, name);
        let request = Request {
            id,
            program: name.clone(),
            endpoint: parent.endpoint.clone(),
            tenant: parent.tenant.clone(),
            evidence,
            opens: opens.clone().unwrap_or_default(),
            lease_seconds: None,
            by: parent.requested_by.clone(),
        };
        let mut unlock = Unlock {
            lease_seconds: program.lease.default.as_seconds(),
            ..blank(request, now)
        };
        let why = format!("follows `{}` ({})", parent.program, parent.id);
        if opens.is_some() {
            unlock.recheck = Some(now.after(0));
            unlock.enter(State::Checking, why, AGENT, now);
        } else {
            unlock.enter(
                State::Requested,
                format!("{why}: evidence is missing"),
                AGENT,
                now,
            );
        }
        Some(self.changed(unlock, "unlock.request", AGENT))
    }

    pub(super) fn revoked(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        reason: &str,
        by: &str,
        quarantine: Option<Span>,
        now: &Moment,
    ) -> Vec<Change> {
        unlock.enter(State::Revoked, reason, by, now);
        unlock.quarantine = quarantine.map(|span| now.after(span.as_seconds()));
        self.strike(document, &mut unlock, now);
        let mut changes = vec![self.changed(unlock, "unlock.revoke", by)];
        self.orphans(document, &mut changes, now);
        changes
    }

    /// Ends what would not be granted beside unlocks that changed: what needs one that is no longer active on its endpoint,
    /// and what requires something of unlocks that is false now; and what depends on that, and so on.
    pub fn orphans(&mut self, document: &Document, changes: &mut Vec<Change>, now: &Moment) {
        let mut from = 0;
        while let Some(changed) = changes.get(from).map(|change| Arc::clone(&change.unlock)) {
            from += 1;
            for unlock in self.dependents(document, &changed) {
                let Some(program) = document.programs.get(&unlock.program) else {
                    continue;
                };
                let known = Known {
                    document,
                    ledger: self,
                    now: *now,
                };
                let needed = self.needed(program, &unlock.endpoint, now).next();
                let why = match needed {
                    Some(needed) => Some(format!("it needs `{needed}`, which ended")),
                    None => unmet(&unlock, &known),
                };
                let Some(why) = why else { continue };
                let mut unlock = Unlock::clone(&unlock);
                unlock.enter(State::Revoked, why, AGENT, now);
                changes.push(self.changed(unlock, "unlock.revoke", AGENT));
            }
        }
    }

    /// The open unlocks whose grant may depend on one that changed. A revocation counts on every endpoint of the tenant.
    fn dependents(&self, document: &Document, changed: &Unlock) -> Vec<Arc<Unlock>> {
        let depends = |unlock: &&Arc<Unlock>| {
            let program = document.programs.get(&unlock.program);
            program.is_some_and(|program| {
                let needs = !changed.state.is_open() && program.needs.contains(&changed.program);
                needs
                    || program
                        .require
                        .as_ref()
                        .is_some_and(|text| text.contains("unlocks"))
            })
        };
        let here = self.of_endpoint(changed.endpoint.as_str());
        let here = here.filter(|unlock| unlock.state.is_open()).filter(depends);
        let mut found: Vec<Arc<Unlock>> = here.cloned().collect();
        if changed.struck && !changed.tenant.is_empty() {
            let elsewhere = self.live.values().filter(|unlock| {
                unlock.tenant == changed.tenant
                    && unlock.endpoint != changed.endpoint
                    && unlock.state.is_open()
            });
            found.extend(elsewhere.filter(depends).cloned());
        }
        found
    }

    pub(super) fn in_state(
        &self,
        id: &Name,
        wanted: &'static str,
        action: &'static str,
        holds: impl Fn(State) -> bool,
    ) -> Result<Unlock, Refusal> {
        let unlock = self.live.get(id).ok_or_else(|| Refusal::NoUnlock(id.clone()))?;
        if holds(unlock.state) {
            Ok(Unlock::clone(unlock))
        } else {
            Err(wrong_state(unlock, wanted, action))
        }
    }

    pub(super) fn changed(&mut self, mut unlock: Unlock, action: &'static str, by: &str) -> Change {
        unlock.revision += 1;
        Change {
            action,
            by: by.to_string(),
            unlock: self.put(unlock),
        }
    }
}

pub(super) fn wrong_state(unlock: &Unlock, wanted: &'static str, action: &'static str) -> Refusal {
    Refusal::WrongState {
        id: unlock.id.clone(),
        state: unlock.state,
        wanted,
        action,
    }
}

pub(super) fn program_of<'a>(document: &'a Document, name: &Name) -> Result<&'a Program, Refusal> {
    let program = document.programs.get(name).map(AsRef::as_ref);
    program.ok_or_else(|| Refusal::NoProgram(name.clone()))
}

/// How long a lease is to be.
pub(super) fn lease_of(program: &Program, name: &Name, asked: Option<u64>) -> Result<u64, Refusal> {
    let most = program.lease.longest();
    match asked {
        None | Some(0) => Ok(program.lease.default.as_seconds()),
        Some(asked) if asked > most.as_seconds() => Err(Refusal::TooLong {
            program: name.clone(),
            asked: Span::seconds(asked),
            most,
        }),
        Some(asked) => Ok(asked),
    }
}

/// Lets a grant open for the addresses that its checks were about.
fn cover(unlock: &mut Unlock, document: &Document, program: &Program) {
    if let Some(endpoint) = document.endpoints.get(&unlock.endpoint) {
        unlock.covers = covers(program, &endpoint.addresses, &unlock.evidence);
        unlock.local = local(unlock.covers.as_deref(), &endpoint.addresses, &endpoint.addresses);
    }
}

/// The earlier of two deadlines.
fn earlier(one: Deadline, other: Deadline) -> Deadline {
    if other.wall_ms < one.wall_ms { other } else { one }
}

/// Notes that checks of a grant failed, or were undetermined: they are made again soon, ever more seldom. A grant is lost when
/// three in a row failed and the program's grace is over, or when three in a row did not pass and an hour is over, too. So no
/// single answer ends one, and who makes answers undetermined between those that fail wins an hour at most.
fn not_passed(unlock: &mut Unlock, program: &Program, fails: bool, now: &Moment) {
    let grace = program.lease.grace.as_seconds();
    unlock.attempts = unlock.attempts.saturating_add(1);
    let hour = now.after(grace.max(UNKNOWN));
    unlock.failing = Some(match unlock.failing {
        Some((since, until)) => (since, earlier(until, hour)),
        None => (now.seconds(), hour),
    });
    let grace = now.after(grace);
    unlock.failed = fails.then(|| match unlock.failed {
        Some((times, until)) => (times.saturating_add(1), earlier(until, grace)),
        None => (1, grace),
    });
    let again = now.after(retry(unlock.attempts));
    let again = [unlock.recheck, unlock.lost()]
        .into_iter()
        .flatten()
        .fold(again, earlier);
    unlock.recheck = Some(again);
}

/// Seconds after which checks are made again that did not pass so often.
fn retry(attempts: u32) -> u64 {
    let last = RETRIES.len() - 1;
    let nth = usize::try_from(attempts).unwrap_or(last).saturating_sub(1);
    RETRIES.get(nth.min(last)).copied().unwrap_or(UNKNOWN)
}

/// Seconds after which a grant is lost if its checks go on as they did.
fn soonest(unlock: &Unlock, fails: bool, now: &Moment) -> u64 {
    let (times, until) = match (fails, unlock.failed, unlock.failing) {
        (true, Some((times, until)), _) => (times, until),
        (_, _, Some((_, until))) => (unlock.attempts, until),
        _ => return 0,
    };
    let more = 0..SAMPLES.saturating_sub(times);
    let samples: u64 = more.map(|n| retry(unlock.attempts.saturating_add(n))).sum();
    until.left_ms(now).div_ceil(1000).max(samples)
}

/// How long before its end notice is given of a lease, in seconds.
pub(super) fn notice(program: &Program, length: u64) -> u64 {
    let set = program.lease.notice;
    set.map_or((length / 10).min(NOTICE), Span::as_seconds)
}

/// Lets the lease of an unlock begin.
pub(super) fn lease(unlock: &mut Unlock, program: &Program, now: &Moment) {
    let length = unlock.lease_seconds;
    let notice = notice(program, length);
    unlock.ends = Some(now.after(length));
    unlock.notice = (notice > 0).then(|| now.after(length.saturating_sub(notice)));
}

/// The evidence of equal name that another unlock was granted for; with what it opens, if no evidence is missing.
fn inherited(program: &Program, parent: &Unlock, name: &Name) -> (Evidence, Option<Vec<Rule>>) {
    let mut submitted = parent.evidence.submitted();
    submitted.retain(|key, _| program.evidence.iter().any(|field| field.name == *key));
    let opens = |evidence: Evidence| {
        let rules = crate::evidence::rules(program, name.as_str(), &evidence);
        rules.ok().map(|rules| (evidence, rules))
    };
    let read = crate::evidence::parse(program, &submitted).ok();
    match read.and_then(opens) {
        Some((evidence, rules)) => (evidence, Some(rules)),
        None => (Evidence::default(), None),
    }
}

/// The id of a request that follows another.
fn following(parent: &Name, program: &Name) -> Option<Name> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{parent}/{program}"));
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("u-{digits}").parse().ok()
}

/// A request that nothing became of yet.
fn blank(request: Request, now: &Moment) -> Unlock {
    Unlock {
        id: request.id,
        program: request.program,
        endpoint: request.endpoint,
        tenant: request.tenant,
        state: State::Requested,
        reason: String::new(),
        requested_by: request.by,
        requested_at: now.seconds(),
        granted_at: None,
        ended_at: None,
        lease_seconds: 0,
        ends: None,
        notice: None,
        evidence: request.evidence,
        opens: request.opens,
        checks: Vec::new(),
        recheck: None,
        attempts: 0,
        failing: None,
        quarantine: None,
        renewals: 0,
        revision: 0,
        history: Vec::new(),
        basis: None,
        covers: None,
        local: None,
        approved: false,
        struck: false,
        renewal: None,
        moved: false,
        failed: None,
        by_time: false,
    }
}

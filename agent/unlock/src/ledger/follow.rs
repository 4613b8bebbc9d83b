//! Effects of a policy change on unlocks: a grant depends on its inputs.
//!
//! | what changed | what happens, in the same commit |
//! |---|---|
//! | the endpoint's tenant | the unlock ends; while its checks fail, that counts as a revocation |
//! | labels or anything else that `require` reads | it is evaluated; when it is false, the unlock ends |
//! | openings, approval, durations | judged by what the checks found last |
//! | addresses, checks | the checks are made again; until then what they were made for stays open, and nothing else |
//! | scope | `checked` closes at once what was opened unchecked; `all` opens it, after a person's approval if there is one |
//! | MACs, attachments | judged by what the checks found last, which are made again; rules tell no MAC from another, so that the new place is open meanwhile, and [`notes`](super::notes) say so |

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;
use portcullis_policy::{Approval, Document, Name, Program, StrictPrefix};

use super::basis::{Basis, covers, open_alike, opens_as, tenant_of};
use super::step::notice;
use super::unlock::{State, Unlock};
use super::{AGENT, Change, Judgement, Ledger, StrikeKey, Subject};
use crate::clock::{Deadline, Moment};
use crate::judge::{Known, by_time, judge, unmet};

/// The name in a difference between two maps.
fn name_of<'a, V>(difference: &DiffItem<'a, 'a, Name, V>) -> &'a Name {
    match difference {
        DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
        DiffItem::Update { new: (name, _), .. } => name,
    }
}

impl Ledger {
    /// Lets unlocks follow a change of the policy.
    pub fn follow(&mut self, before: &Document, document: &Document, now: &Moment) -> Vec<Change> {
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        let mut left: BTreeSet<&Name> = BTreeSet::new();
        for difference in before.endpoints.diff(&document.endpoints) {
            let name = name_of(&difference);
            touched.extend(self.by_endpoint.get(name).into_iter().flatten().cloned());
            match difference {
                DiffItem::Add(name, _) => drop(self.since.insert(name.clone(), now.seconds())),
                DiffItem::Remove(name, was) => {
                    self.since.remove(name);
                    if !tenant_of(before, was).is_empty() {
                        left.insert(name);
                    }
                }
                DiffItem::Update {
                    old: (_, was),
                    new: (name, is),
                } => {
                    if tenant_of(before, was) != tenant_of(document, is) {
                        self.since.insert(name.clone(), now.seconds());
                        if !tenant_of(before, was).is_empty() {
                            left.insert(name);
                        }
                    }
                }
            }
        }
        if !left.is_empty() {
            // They go on counting against the tenant.
            let gone = |key: &StrikeKey| matches!(&key.0, Subject::Endpoint(name) if left.contains(name));
            let gone: Vec<StrikeKey> = self.strikes.keys().filter(|key| gone(key)).cloned().collect();
            for key in gone {
                self.strikes.remove(&key);
            }
        }
        let programs: BTreeSet<&Name> = before
            .programs
            .diff(&document.programs)
            .map(|difference| name_of(&difference))
            .collect();
        if !programs.is_empty() {
            let of_them = self
                .live
                .values()
                .filter(|unlock| programs.contains(&unlock.program));
            touched.extend(of_them.map(|unlock| unlock.id.clone()));
        }
        self.look_again(document, touched, now)
    }

    /// [`follow`](Self::follow), when the previous policy is unknown: every unlock is checked.
    pub fn follow_all(&mut self, document: &Document, now: &Moment) -> Vec<Change> {
        let all = self.live.keys().cloned().collect();
        self.look_again(document, all, now)
    }

    fn look_again(&mut self, document: &Document, touched: BTreeSet<Name>, now: &Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in touched {
            // Others ended it already.
            let Some(unlock) = self.live.get(&id).cloned() else {
                continue;
            };
            let before = changes.len();
            changes.extend(self.followed(document, Unlock::clone(&unlock), now));
            if changes.len() > before {
                let mut more = changes.split_off(before);
                self.orphans(document, &mut more, now);
                changes.append(&mut more);
            }
        }
        changes
    }

    fn followed(&mut self, document: &Document, unlock: Unlock, now: &Moment) -> Option<Change> {
        let endpoint = document.endpoints.get(&unlock.endpoint);
        let foreign = endpoint.is_some_and(|endpoint| tenant_of(document, endpoint) != unlock.tenant);
        if unlock.state.has_ended() {
            // A quarantine outlives its endpoint, which may come back; another tenant has nothing to do with it.
            return foreign.then(|| self.lifted(unlock));
        }
        if endpoint.is_none() {
            return Some(self.left_behind(document, unlock, "the endpoint is gone", now));
        }
        if foreign {
            return Some(self.left_behind(document, unlock, "the endpoint has another tenant", now));
        }
        let Some(program) = document.programs.get(&unlock.program) else {
            return Some(self.ended(unlock, "the program is gone", now));
        };
        match unlock.state.is_open() {
            true => self.open_followed(document, unlock, program, now),
            false => self.asked_followed(document, unlock, program, now),
        }
    }

    fn lifted(&mut self, mut unlock: Unlock) -> Change {
        unlock.quarantine = None;
        self.changed(unlock, "unlock.quarantine_over", AGENT)
    }

    /// Ends an unlock whose endpoint its tenant does not have any more. While its checks fail that counts as a revocation, as
    /// giving it back does.
    fn left_behind(&mut self, document: &Document, mut unlock: Unlock, why: &str, now: &Moment) -> Change {
        if !unlock.state.is_open() || unlock.failing.is_none() {
            return self.ended(unlock, why, now);
        }
        unlock.enter(
            State::Revoked,
            format!("{why}, while its checks failed"),
            AGENT,
            now,
        );
        self.strike(document, &mut unlock, now);
        self.changed(unlock, "unlock.revoke", AGENT)
    }

    /// Ends an unlock without blame.
    pub(super) fn ended(&mut self, mut unlock: Unlock, why: impl Into<String>, now: &Moment) -> Change {
        let (state, action) = match unlock.state.is_open() {
            true => (State::Revoked, "unlock.revoke"),
            false => (State::Rejected, "unlock.reject"),
        };
        unlock.enter(state, why, AGENT, now);
        self.changed(unlock, action, AGENT)
    }

    /// A request that is not decided.
    fn asked_followed(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        now: &Moment,
    ) -> Option<Change> {
        let basis = Basis::new(document, &unlock);
        if unlock.state == State::Requested || (unlock.basis.is_some() && unlock.basis == basis) {
            return None;
        }
        let opens = crate::evidence::rules(program, unlock.program.as_str(), &unlock.evidence);
        let Ok(opens) = opens else {
            let why = "its evidence does not say what the changed program opens: request it again";
            return Some(self.ended(unlock, why, now));
        };
        let lease_seconds = unlock.lease_seconds.min(program.lease.longest().as_seconds());
        let same = open_alike(&opens, &unlock.opens) && lease_seconds == unlock.lease_seconds;
        if unlock.state == State::Checking && same {
            // Checks that are being made for what was are made again when they come back.
            return None;
        }
        (unlock.opens, unlock.lease_seconds) = (opens, lease_seconds);
        unlock.recheck = Some(now.after(0));
        if unlock.state == State::AwaitingApproval {
            let why = "the program or the endpoint changed: it is checked again";
            unlock.enter(State::Checking, why, AGENT, now);
        }
        Some(self.changed(unlock, "unlock.check", AGENT))
    }

    fn open_followed(
        &mut self,
        document: &Document,
        mut unlock: Unlock,
        program: &Program,
        now: &Moment,
    ) -> Option<Change> {
        let is = Basis::new(document, &unlock)?;
        let known = Known {
            document,
            ledger: self,
            now: *now,
        };
        if let Some(why) = unmet(&unlock, &known) {
            return Some(self.ended(unlock, why, now));
        }
        let needed = self.needed(program, &unlock.endpoint, now).next().cloned();
        if let Some(needed) = needed {
            let why = format!("it needs `{needed}`, which is not active");
            return Some(self.ended(unlock, why, now));
        }
        let before = unlock.clone();
        unlock.by_time = by_time(document, program);
        if let Some(was) = unlock.basis.as_ref().filter(|was| **was == is) {
            unlock.local = local(unlock.covers.as_deref(), &was.addresses, &is.addresses);
            return (unlock != before).then(|| self.changed(unlock, "unlock.follow", AGENT));
        }
        let Ok(opens) = crate::evidence::rules(program, unlock.program.as_str(), &unlock.evidence) else {
            let why = "its evidence does not say what the changed program opens: request it again";
            return Some(self.ended(unlock, why, now));
        };
        shorten(&mut unlock, program);
        if program.checks.is_empty() {
            (unlock.covers, unlock.local) = (None, None);
            unlock.moved = false;
            unlock.checks.clear();
            (unlock.failing, unlock.failed) = (None, None);
        }
        // A grant of a version that did not note it was judged by something like this.
        let was = unlock.basis.clone().unwrap_or_else(|| {
            let mut was = is.clone();
            was.all = false;
            was
        });
        // What was opened without a check is closed as soon as the program says so.
        if was.all && !is.all {
            unlock.covers = covers(program, &was.addresses, &unlock.evidence);
        }
        unlock.moved |= !was.same_place(&is) && !program.checks.is_empty();
        let again = unlock.basis.is_none() || !was.same_place(&is) || !was.same_checks(&is);
        let due = unlock.recheck.is_some_and(|at| at.has_come(now));
        if again && !program.checks.is_empty() && !due {
            unlock.recheck = Some(now.after(0));
        }
        unlock.approved &= open_alike(&opens, &unlock.opens) && (was.all || !is.all);
        if program.approval == Approval::Manual && !unlock.approved {
            let again = again && !program.checks.is_empty();
            (unlock.opens, unlock.basis) = (opens, Some(is));
            return Some(self.asked_again(unlock, again, now));
        }
        let judgement = match was.same_checks(&is) || program.checks.is_empty() {
            true => judge(
                &unlock,
                &unlock.checks,
                &Known {
                    document,
                    ledger: self,
                    now: *now,
                },
            ),
            false => Judgement::Unknown("the checks are made again".to_string()),
        };
        if let Judgement::Holds { manual } = judgement {
            // Until the checks are made again, a grant of such a version keeps none: nothing of it is new.
            let noted = unlock.basis.is_some() || program.checks.is_empty();
            unlock.opens = opens;
            if !program.checks.is_empty() {
                // What was checked stays known when the basis moves on.
                let moved = unlock.covers.is_none() && was.addresses != is.addresses;
                if moved && !was.addresses.is_empty() {
                    unlock.covers = Some(was.addresses.clone());
                }
                if is.all && noted {
                    unlock.covers = None;
                }
                unlock.local = local(unlock.covers.as_deref(), &was.addresses, &is.addresses);
            }
            unlock.basis = noted.then_some(is);
            if manual && !unlock.approved && noted {
                return Some(self.asked_again(unlock, false, now));
            }
            if let Some(every) = program.lease.recheck_every {
                let due = now.after(every.as_seconds());
                unlock.recheck = Some(unlock.recheck.map_or(due, |before| before.min(due)));
            }
        } else {
            // What was judged stays, as far as the program opens it still.
            unlock
                .opens
                .retain(|rule| opens.iter().any(|new| opens_as(new, rule)));
            unlock.local = local(unlock.covers.as_deref(), &was.addresses, &is.addresses);
        }
        (unlock != before).then(|| self.changed(unlock, "unlock.follow", AGENT))
    }

    /// A person has to decide about what was open; `again`, when its checks were made.
    pub(super) fn asked_again(&mut self, mut unlock: Unlock, again: bool, now: &Moment) -> Change {
        (unlock.ends, unlock.notice, unlock.failing) = (None, None, None);
        unlock.failed = None;
        (unlock.approved, unlock.renewal) = (false, None);
        unlock.attempts = 0;
        unlock.recheck = again.then(|| now.after(0));
        let why = "the program or the endpoint changed: an operator decides again";
        let (state, action) = match again {
            true => (State::Checking, "unlock.check"),
            false => (State::AwaitingApproval, "unlock.await"),
        };
        unlock.enter(state, why, AGENT, now);
        self.changed(unlock, action, AGENT)
    }
}

/// Which of the addresses that an endpoint has now a grant opens for: those that it was judged for. All of them when absent.
pub(super) fn local(
    covers: Option<&[StrictPrefix]>,
    judged: &[StrictPrefix],
    now: &[StrictPrefix],
) -> Option<Vec<StrictPrefix>> {
    let allowed = covers.unwrap_or(judged);
    // An endpoint that declares no address may use any.
    if covers.is_none() && judged.is_empty() {
        return None;
    }
    if now.is_empty() {
        return Some(allowed.to_vec());
    }
    let within = |address: &StrictPrefix| allowed.iter().any(|one| one.0.contains(&address.0));
    if now.iter().all(within) {
        return None;
    }
    let common = now.iter().flat_map(|address| {
        allowed.iter().filter_map(move |one| match () {
            () if one.0.contains(&address.0) => Some(*address),
            () if address.0.contains(&one.0) => Some(*one),
            () => None,
        })
    });
    let common: BTreeSet<StrictPrefix> = common.collect();
    Some(common.into_iter().collect())
}

/// Ends a lease that is longer than its program allows now when the longest one would have ended.
fn shorten(unlock: &mut Unlock, program: &Program) {
    let longest = program.lease.longest().as_seconds();
    let Some(excess) = unlock
        .lease_seconds
        .checked_sub(longest)
        .filter(|excess| *excess > 0)
    else {
        return;
    };
    unlock.lease_seconds = longest;
    unlock.ends = unlock.ends.map(|end| earlier(end, excess));
    let notice = notice(program, longest);
    // One that was given is not given again.
    unlock.notice = unlock.notice.and(unlock.ends).map(|end| earlier(end, notice));
}

fn earlier(deadline: Deadline, seconds: u64) -> Deadline {
    let ms = seconds.saturating_mul(1000);
    Deadline {
        wall_ms: deadline
            .wall_ms
            .saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)),
        boot_ms: deadline.boot_ms.saturating_sub(ms),
        ..deadline
    }
}

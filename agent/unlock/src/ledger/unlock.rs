//! One unlock.

use portcullis_policy::{CheckResult, Grant, GrantKind, Matcher, Name, Rule, StrictPrefix};
use serde::{Deserialize, Serialize};

use super::basis::Basis;
use crate::clock::{Deadline, Moment};
use crate::evidence::Evidence;

/// Transitions that are kept of one unlock.
const KEPT: usize = 64;
/// Checks in a row that have to fail, or to be undetermined, before that ends a grant.
pub(super) const SAMPLES: u32 = 3;
/// How often what depends on the time is evaluated, in milliseconds.
pub(super) const MINUTE: u64 = 60_000;

/// Where an unlock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A follow-up that waits for evidence.
    Requested,
    /// Its checks are being made.
    Checking,
    /// An operator has to decide.
    AwaitingApproval,
    /// Its ports are open.
    Active,
    /// Its ports are open, and it ends soon.
    Expiring,
    /// Closed at the end of its lease.
    Expired,
    /// It was not granted.
    Rejected,
    /// It was taken back.
    Revoked,
    /// The tenant gave it back.
    Released,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [State; 9] = [
        State::Requested,
        State::Checking,
        State::AwaitingApproval,
        State::Active,
        State::Expiring,
        State::Expired,
        State::Rejected,
        State::Revoked,
        State::Released,
    ];

    /// The name in the database, in metrics and in expressions.
    pub fn name(self) -> &'static str {
        match self {
            State::Requested => "requested",
            State::Checking => "checking",
            State::AwaitingApproval => "awaiting_approval",
            State::Active => "active",
            State::Expiring => "expiring",
            State::Expired => "expired",
            State::Rejected => "rejected",
            State::Revoked => "revoked",
            State::Released => "released",
        }
    }

    /// The one with a name.
    pub fn named(name: &str) -> Option<Self> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether its ports are open.
    pub fn is_open(self) -> bool {
        matches!(self, State::Active | State::Expiring)
    }

    /// Whether nothing can become of it any more.
    pub fn has_ended(self) -> bool {
        matches!(
            self,
            State::Expired | State::Rejected | State::Revoked | State::Released
        )
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// As the program calls it.
    pub name: String,
    /// Kind of the check, for example `fcrdns`.
    pub kind: String,
    /// What the check found when it was made last.
    pub result: CheckResult,
    /// What was found, as a person reads it.
    pub detail: String,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// It is undetermined because it was not made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_made: bool,
}

/// A state that an unlock came into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state it came into.
    pub state: State,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// Who or what moved it, as in the audit log: `uid 0`, `agent`.
    pub by: String,
    /// The reason for people; empty when there is nothing to add.
    pub reason: String,
}

/// A request under a program, and the lease it holds once granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlock {
    /// Id of the unlock, such as `u-1`.
    pub id: Name,
    /// The program that it was requested under.
    pub program: Name,
    /// The endpoint that it is for.
    pub endpoint: Name,
    /// The endpoint's tenant when it was requested.
    pub tenant: String,
    /// Where it stands; `history` has how it came there.
    pub state: State,
    /// Why it stands there, as the customer reads it.
    pub reason: String,
    /// Who requested it, as in the audit log.
    pub requested_by: String,
    /// When, in seconds since the Unix epoch.
    pub requested_at: i64,
    /// When its ports were opened first.
    pub granted_at: Option<i64>,
    /// When it ended, in seconds since the Unix epoch; none while it is under way.
    pub ended_at: Option<i64>,
    /// How long it was asked to last, in seconds.
    pub lease_seconds: u64,
    /// When its lease ends; once granted.
    pub ends: Option<Deadline>,
    /// From when it counts as expiring.
    pub notice: Option<Deadline>,
    /// Evidence in normal form, by name.
    pub evidence: Evidence,
    /// Rules that it opens while it is active.
    pub opens: Vec<Rule>,
    /// The checks as they came out last.
    pub checks: Vec<Checked>,
    /// When they are made (again).
    pub recheck: Option<Deadline>,
    /// How often in a row they did not pass.
    pub attempts: u32,
    /// Since when they do not pass, in seconds since the Unix epoch, and until when that is borne whatever the reason.
    pub failing: Option<(i64, Deadline)>,
    /// Until when its openings are denied above everything.
    pub quarantine: Option<Deadline>,
    /// How often it was renewed.
    pub renewals: u32,
    /// Changes with every change.
    pub revision: u64,
    /// States it came through, oldest first.
    pub history: Vec<Transition>,
    /// What it was judged by last; none before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// The addresses that its checks were about; all that the endpoint had when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<Vec<StrictPrefix>>,
    /// The addresses of the endpoint that it opens for; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Vec<StrictPrefix>>,
    /// Whether a person approved what it opens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// Whether its end counted as a revocation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub struck: bool,
    /// A renewal that a person has to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// Whether MACs or attachments of the endpoint changed and its checks have not passed since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// How many checks in a row failed, and until when that is borne.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(u32, Deadline)>,
    /// Whether what its program requires can become false by time alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_time: bool,
}

/// A renewal that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// How long the lease is to be, in seconds.
    pub lease_seconds: u64,
    /// Who asked for it.
    pub by: String,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
}

impl Unlock {
    /// Whether its ports are open at a moment: granted, and its lease has not ended.
    pub fn is_open(&self, now: &Moment) -> bool {
        self.state.is_open() && self.ends.is_some_and(|end| !end.has_come(now))
    }

    pub(super) fn enter(&mut self, state: State, reason: impl Into<String>, by: &str, now: &Moment) {
        self.state = state;
        self.reason = reason.into();
        if state.has_ended() {
            self.ended_at = Some(now.seconds());
            (self.recheck, self.notice, self.failing) = (None, None, None);
            (self.renewal, self.failed) = (None, None);
        }
        self.history.push(Transition {
            state,
            at: now.seconds(),
            by: by.to_string(),
            reason: self.reason.clone(),
        });
        if self.history.len() > KEPT {
            // The first tells how it began.
            self.history.remove(1);
        }
    }

    /// When it is revoked for its checks; none as long as too few of them did not pass.
    pub(super) fn lost(&self) -> Option<Deadline> {
        let failed = self.failed.filter(|(times, _)| *times >= SAMPLES);
        let failing = self.failing.filter(|_| self.attempts >= SAMPLES);
        let both = [failed.map(|(_, until)| until), failing.map(|(_, until)| until)];
        both.into_iter().flatten().min_by_key(|until| until.wall_ms)
    }

    /// At which time of every minute what its program requires is evaluated, in milliseconds; none when time changes
    /// nothing about it. Leases do not all end at the same time of a minute.
    pub(super) fn phase(&self) -> Option<u64> {
        let ends = self.ends.filter(|_| self.by_time && self.state.is_open())?;
        Some(ends.boot_ms % MINUTE)
    }

    /// What it opens, for the addresses that it opens for.
    pub fn rules(&self) -> Vec<Rule> {
        let Some(local) = &self.local else {
            return self.opens.clone();
        };
        let narrowed = self.opens.iter().cloned().map(|rule| Rule {
            local: local.clone(),
            ..rule
        });
        // An empty list would be every address; a rule of one IP version may have no address left.
        narrowed
            .filter(|rule| !rule.local.is_empty() && Matcher::from_rule(rule).is_some())
            .collect()
    }

    /// Whether a person approved it, by what its history says.
    pub(super) fn was_approved(&self) -> bool {
        self.history.windows(2).any(|pair| match pair {
            [before, after] => before.state == State::AwaitingApproval && after.state == State::Active,
            _ => false,
        })
    }

    /// What it does to its endpoint.
    pub(super) fn grant(&self) -> Option<Grant> {
        let (quarantine, ends) = match (self.state.is_open(), self.ends, self.quarantine) {
            (true, Some(ends), _) => (false, ends),
            (false, _, Some(until)) => (true, until),
            _ => return None,
        };
        let rules: Vec<Rule> = match quarantine {
            true => {
                let denied = self.opens.iter().cloned().map(|rule| Rule {
                    action: portcullis_policy::Verdict::Deny,
                    reason: format!("quarantine of {}: {}", self.id, self.reason)
                        .chars()
                        .take(256)
                        .collect(),
                    ..rule
                });
                denied.collect()
            }
            false => self.rules(),
        };
        if rules.is_empty() {
            return None;
        }
        Some(Grant {
            unlock: self.id.clone(),
            program: self.program.clone(),
            rules,
            kind: match quarantine {
                true => GrantKind::Quarantine,
                false => GrantKind::Unlock,
            },
            ends: u64::try_from(ends.seconds()).unwrap_or(0),
        })
    }

    /// The next moments, by the wall clock and by the other one, at which something becomes of it by itself.
    pub(super) fn next(&self) -> Option<(i64, u64)> {
        let ends = self.ends.filter(|_| self.state.is_open());
        let all = [ends, self.notice, self.recheck, self.lost(), self.quarantine];
        let all = || all.into_iter().flatten();
        Some((all().map(|d| d.wall_ms).min()?, all().map(|d| d.boot_ms).min()?))
    }

    /// [`Deadline::resumed`] of all its deadlines.
    pub(super) fn resume(&mut self, seen: &Moment, now: &Moment) {
        let resumed = |deadline: &mut Deadline| *deadline = deadline.resumed(seen, now);
        let own = [
            &mut self.ends,
            &mut self.notice,
            &mut self.recheck,
            &mut self.quarantine,
        ];
        own.into_iter().flatten().for_each(resumed);
        if let Some((_, until)) = &mut self.failing {
            *until = until.resumed(seen, now);
        }
        if let Some((_, until)) = &mut self.failed {
            *until = until.resumed(seen, now);
        }
    }
}

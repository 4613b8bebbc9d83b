//! The life of unlocks: a state machine with time as an argument.
//!
//! ```text
//! requested → checking → awaiting approval → active → expiring → expired
//!                     └───────────┴─────▶ rejected       └─────▶ revoked, released
//! ```
//!
//! A [`Ledger`] holds every unlock that is under way, in maps that copies share: an agent tries what it is asked on a
//! copy, makes the [`Change`]s durable, and only then lets the copy take the ledger's place. What has ended is in the
//! changes once more and then forgotten.

mod basis;
mod bypass;
mod decide;
mod follow;
mod notes;
mod refusal;
mod step;
mod time;
mod unlock;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use portcullis_policy::{Document, Grant, Limits, Name, Program, Rule, Span};
use serde::{Deserialize, Serialize};

use crate::clock::{Deadline, Moment};
use crate::evidence::Evidence;

pub use basis::{Basis, tenant_of};
pub use bypass::{Bypass, BypassChange, TooManyBypasses};
pub use notes::notes;
pub use refusal::Refusal;
pub use unlock::{Checked, Renewal, State, Transition, Unlock};

/// What became of an unlock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened, as the audit log has it: `unlock.request`, `unlock.activate`, …
    pub action: &'static str,
    /// Who did it; [`AGENT`] for what happens by itself.
    pub by: String,
    /// The unlock after it.
    pub unlock: Arc<Unlock>,
}

/// Who does what happens by itself.
pub const AGENT: &str = "agent";

/// Whom revocations count against.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An endpoint, as long as it keeps its tenant.
    Endpoint(Name),
    /// A tenant, whatever becomes of its endpoints.
    Tenant(String),
}

/// Whom revocations count against, and under which program.
pub type StrikeKey = (Subject, Name);

/// How often a program was revoked, and until when no request is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strikes {
    /// Revocations so far, which lengthen the next wait.
    pub times: u32,
    /// End of the wait; none once it is over.
    pub until: Option<Deadline>,
}

/// A request as it comes in, its evidence read.
#[allow(missing_docs, reason = "the type of `endpoint` says it")]
#[derive(Debug, Clone)]
pub struct Request {
    /// A fresh id, such as `u-1`.
    pub id: Name,
    /// The program that it is requested under.
    pub program: Name,
    pub endpoint: Name,
    /// The endpoint's tenant; empty without one.
    pub tenant: String,
    /// Evidence in normal form, by name.
    pub evidence: Evidence,
    /// Rules that it opens, never more than the program's.
    pub opens: Vec<Rule>,
    /// How long, in seconds; the program's default when absent.
    pub lease_seconds: Option<u64>,
    /// Who requests it, as in the audit log.
    pub by: String,
}

/// What a request, or an active unlock, comes to when its checks were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// All that is asked for holds.
    Holds {
        /// An operator has to approve it.
        manual: bool,
    },
    /// A check failed, or what the program requires does not hold because of one.
    Fails(String),
    /// What the program requires does not hold, whatever the checks say: no grace is given.
    Unmet(String),
    /// Something could not be found out.
    Unknown(String),
    /// A check was not made, for want of a resolver or a place: that says nothing of the world.
    NotMade(String),
}

/// Every unlock that is under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    live: OrdMap<Name, Arc<Unlock>>,
    by_endpoint: OrdMap<Name, OrdSet<Name>>,
    by_tenant: OrdMap<(String, Name), u32>,
    due_by_wall: OrdSet<(i64, Name)>,
    due_by_boot: OrdSet<(u64, Name)>,
    /// Grants that are judged every minute, by their turn in it.
    timed: OrdSet<(u64, Name)>,
    /// How many of a tenant are under way.
    of_tenant: OrdMap<String, u32>,
    /// How many may be; no limit when absent.
    most_of_tenant: Option<u32>,
    grants: OrdMap<Name, Arc<Vec<Grant>>>,
    bypasses: OrdMap<Name, Arc<Bypass>>,
    strikes: OrdMap<StrikeKey, Strikes>,
    /// Since when endpoints are their tenants', in seconds since the Unix epoch.
    since: OrdMap<Name, i64>,
}

impl Ledger {
    /// The ledger of an earlier run: every unlock that had not ended, or is in quarantine; how often what was revoked;
    /// since when endpoints are their tenants'; and when somebody looked last. When the machine was started again
    /// meanwhile, deadlines are on its new clock: all of them have to be stored again before the next moment is.
    pub fn restore(
        unlocks: impl IntoIterator<Item = Unlock>,
        strikes: impl IntoIterator<Item = (StrikeKey, Strikes)>,
        since: impl IntoIterator<Item = (Name, i64)>,
        seen: &Moment,
        now: &Moment,
    ) -> Self {
        let mut ledger = Ledger {
            since: since.into_iter().collect(),
            ..Ledger::default()
        };
        for mut unlock in unlocks {
            unlock.resume(seen, now);
            // A version before this one did not note who approved.
            unlock.approved |= unlock.basis.is_none() && unlock.was_approved();
            ledger.put(unlock);
        }
        for (key, mut strike) in strikes {
            strike.until = strike.until.map(|until| until.resumed(seen, now));
            ledger.strikes.insert(key, strike);
        }
        ledger
    }

    /// Lets every tenant have so many unlocks under way, whatever programs allow.
    pub fn limit_tenants(&mut self, most: u32) {
        self.most_of_tenant = Some(most);
    }

    /// An unlock that is under way.
    pub fn get(&self, id: &str) -> Option<&Arc<Unlock>> {
        self.live.get(id)
    }

    /// Those of an endpoint that are under way.
    pub fn of_endpoint<'a>(&'a self, endpoint: &str) -> impl Iterator<Item = &'a Arc<Unlock>> {
        let ids = self.by_endpoint.get(endpoint).into_iter().flatten();
        ids.filter_map(|id| self.live.get(id))
    }

    /// All that are under way.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Unlock>> {
        self.live.values()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no unlock is under way.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Since when an endpoint is its tenant's, in seconds since the Unix epoch.
    pub fn since(&self, endpoint: &str) -> Option<i64> {
        self.since.get(endpoint).copied()
    }

    /// What unlocks and bypasses do to endpoints, for the compiler.
    pub fn grants(&self) -> &OrdMap<Name, Arc<Vec<Grant>>> {
        &self.grants
    }

    /// [`grants`](Self::grants) without those whose time is over, which nobody has noticed yet.
    pub fn grants_at(&self, now: &Moment) -> OrdMap<Name, Arc<Vec<Grant>>> {
        let mut ledger = self.clone();
        for id in self.due(now) {
            let over = self
                .live
                .get(&id)
                .filter(|u| u.state.is_open() && !u.is_open(now));
            if let Some(unlock) = over {
                ledger.take(&id);
                ledger.grant(&unlock.endpoint);
            }
        }
        ledger.end_bypasses(now);
        ledger.grants
    }

    /// How often a program was revoked on an endpoint.
    pub fn strikes(&self, endpoint: &Name, program: &Name) -> Option<&Strikes> {
        self.strikes
            .get(&(Subject::Endpoint(endpoint.clone()), program.clone()))
    }

    /// How often a program was revoked on any endpoint of a tenant; none for endpoints without a tenant.
    pub fn strikes_of_tenant(&self, tenant: &str, program: &Name) -> Option<&Strikes> {
        self.strikes
            .get(&(Subject::Tenant(tenant.to_string()), program.clone()))
    }

    /// How often each program was revoked, by endpoint and by tenant.
    pub fn all_strikes(&self) -> impl Iterator<Item = (&StrikeKey, &Strikes)> {
        self.strikes.iter()
    }

    /// What became of strikes since an earlier ledger; none for those that are gone.
    pub fn strikes_since(&self, before: &Ledger) -> Vec<(StrikeKey, Option<Strikes>)> {
        use imbl::ordmap::DiffItem::{Add, Remove, Update};
        let difference = before.strikes.diff(&self.strikes);
        difference
            .map(|item| match item {
                Add(key, strikes)
                | Update {
                    new: (key, strikes), ..
                } => (key.clone(), Some(*strikes)),
                Remove(key, _) => (key.clone(), None),
            })
            .collect()
    }

    /// Milliseconds until something happens by itself; none when nothing is due.
    pub fn next_ms(&self, now: &Moment) -> Option<u64> {
        let wall = self
            .due_by_wall
            .get_min()
            .map(|(at, _)| at.saturating_sub(now.wall_ms));
        let boot = self
            .due_by_boot
            .get_min()
            .map(|(at, _)| at.saturating_sub(now.boot_ms));
        let wall = wall.map(|left| u64::try_from(left).unwrap_or(0));
        [wall, boot, self.next_bypass_ms(now), self.next_judged_ms(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Those whose checks are due.
    pub fn to_check(&self, now: &Moment) -> Vec<Name> {
        let due = self.due(now).into_iter();
        due.filter(|id| {
            let recheck = self.live.get(id).and_then(|unlock| unlock.recheck);
            recheck.is_some_and(|at| at.has_come(now))
        })
        .collect()
    }

    /// Those that something is due of, by one of the clocks.
    fn due(&self, now: &Moment) -> OrdSet<Name> {
        let wall = self.due_by_wall.iter().take_while(|(at, _)| *at <= now.wall_ms);
        let boot = self.due_by_boot.iter().take_while(|(at, _)| *at <= now.boot_ms);
        wall.map(|(_, id)| id)
            .chain(boot.map(|(_, id)| id))
            .cloned()
            .collect()
    }

    /// What stands against a request, besides its evidence.
    pub fn obstacles(
        &self,
        document: &Document,
        endpoint: &Name,
        tenant: &str,
        name: &Name,
        now: &Moment,
    ) -> Vec<Refusal> {
        let Some(program) = document.programs.get(name) else {
            return vec![Refusal::NoProgram(name.clone())];
        };
        let mut found = Vec::new();
        found.extend(self.over_limit(&program.limits, endpoint, tenant, name));
        let of_tenant = self.strikes_of_tenant(tenant, name);
        let both = [
            (format!("`{endpoint}`"), self.strikes(endpoint, name)),
            (format!("an endpoint of tenant `{tenant}`"), of_tenant),
        ];
        for (on, strikes) in both {
            if let Some(strikes) = strikes
                && let Some(until) = strikes.until.filter(|until| !until.has_surely_come(now))
            {
                let wall = until.wall_ms.saturating_sub(now.wall_ms).max(0) as u64;
                let boot = until.boot_ms.saturating_sub(now.boot_ms);
                found.push(Refusal::CoolingDown {
                    on,
                    program: name.clone(),
                    times: strikes.times,
                    left: Span::seconds(wall.max(boot).div_ceil(1000)),
                });
                break;
            }
        }
        found.extend(self.needed(program, endpoint, now).map(|needed| Refusal::Needs {
            endpoint: endpoint.clone(),
            program: name.clone(),
            needed: needed.clone(),
        }));
        found
    }

    fn over_limit(&self, limits: &Limits, endpoint: &Name, tenant: &str, name: &Name) -> Vec<Refusal> {
        let mut found = Vec::new();
        let limit = limits.per_endpoint.unwrap_or(1);
        let of_program = self.of_endpoint(endpoint.as_str());
        let have = of_program
            .filter(|u| u.program == *name && !u.state.has_ended())
            .count();
        let have = u32::try_from(have).unwrap_or(u32::MAX);
        if have >= limit {
            found.push(Refusal::PerEndpoint {
                endpoint: endpoint.clone(),
                program: name.clone(),
                have,
                limit,
            });
        }
        let have = self.of_tenant.get(tenant).copied().unwrap_or(0);
        if let Some(limit) = self
            .most_of_tenant
            .filter(|limit| !tenant.is_empty() && have >= *limit)
        {
            found.push(Refusal::Tenant {
                tenant: tenant.to_string(),
                have,
                limit,
            });
        }
        let key = (tenant.to_string(), name.clone());
        let have = self.by_tenant.get(&key).copied().unwrap_or(0);
        if let Some(limit) = limits
            .per_tenant
            .filter(|limit| !tenant.is_empty() && have >= *limit)
        {
            found.push(Refusal::PerTenant {
                tenant: tenant.to_string(),
                program: name.clone(),
                have,
                limit,
            });
        }
        found
    }

    /// Programs that one needs and that are not active on an endpoint.
    fn needed<'a>(
        &'a self,
        program: &'a Program,
        endpoint: &'a Name,
        now: &'a Moment,
    ) -> impl Iterator<Item = &'a Name> {
        let is_active = move |name: &Name| {
            self.of_endpoint(endpoint.as_str())
                .any(|unlock| unlock.program == *name && unlock.is_open(now))
        };
        program.needs.iter().filter(move |name| !is_active(name))
    }

    /// Keeps an unlock, or what it has become; forgets it when nothing can become of it any more.
    fn put(&mut self, unlock: Unlock) -> Arc<Unlock> {
        let unlock = Arc::new(unlock);
        self.take(&unlock.id);
        let forgotten = unlock.state.has_ended() && unlock.quarantine.is_none();
        if !forgotten {
            let id = unlock.id.clone();
            if let Some((wall, boot)) = unlock.next() {
                self.due_by_wall.insert((wall, id.clone()));
                self.due_by_boot.insert((boot, id.clone()));
            }
            if let Some(phase) = unlock.phase() {
                self.timed.insert((phase, id.clone()));
            }
            if !unlock.state.has_ended() {
                *self.by_tenant.entry(under(&unlock)).or_default() += 1;
                *self.of_tenant.entry(unlock.tenant.clone()).or_default() += 1;
            }
            self.by_endpoint
                .entry(unlock.endpoint.clone())
                .or_default()
                .insert(id.clone());
            self.live.insert(id, Arc::clone(&unlock));
        }
        self.grant(&unlock.endpoint);
        unlock
    }

    fn take(&mut self, id: &Name) {
        let Some(old) = self.live.remove(id) else {
            return;
        };
        if let Some((wall, boot)) = old.next() {
            self.due_by_wall.remove(&(wall, id.clone()));
            self.due_by_boot.remove(&(boot, id.clone()));
        }
        if let Some(phase) = old.phase() {
            self.timed.remove(&(phase, id.clone()));
        }
        if !old.state.has_ended() {
            less(&mut self.by_tenant, under(&old));
            less(&mut self.of_tenant, old.tenant.clone());
        }
        if let Some(ids) = self.by_endpoint.get_mut(&old.endpoint) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_endpoint.remove(&old.endpoint);
            }
        }
    }

    /// Brings the grants of an endpoint in line with its unlocks and its bypass.
    fn grant(&mut self, endpoint: &Name) {
        let unlocks = self.of_endpoint(endpoint.as_str());
        let unlocks = unlocks.filter_map(|unlock| unlock.grant());
        let grants: Vec<Grant> = unlocks.chain(self.bypass_grant(endpoint)).collect();
        if grants.is_empty() {
            self.grants.remove(endpoint);
        } else if self.grants.get(endpoint).is_none_or(|before| **before != grants) {
            self.grants.insert(endpoint.clone(), Arc::new(grants));
        }
    }
}

fn less<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K) {
    match counts.get(&key).copied().unwrap_or(0).saturating_sub(1) {
        0 => counts.remove(&key),
        left => counts.insert(key, left),
    };
}

fn under(unlock: &Unlock) -> (String, Name) {
    (unlock.tenant.clone(), unlock.program.clone())
}

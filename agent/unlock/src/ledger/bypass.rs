//! Bypasses: an operator lets everything of one endpoint pass for a bounded time, to rule the policy out as the cause of an
//! outage.
//!
//! An endpoint has one at most. It ends by either clock, whichever comes first, like a lease; with the endpoint; and when the
//! endpoint gets another tenant. A quarantine holds through it.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use portcullis_policy::{Document, Grant, Name};
use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::clock::{Deadline, Moment};

/// The bypass of one endpoint.
#[allow(missing_docs, reason = "the type of `endpoint` says it")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    pub endpoint: Name,
    /// Why, as the operator wrote it.
    pub reason: String,
    /// The operator, as in the audit log.
    pub by: String,
    /// When, in seconds since the Unix epoch.
    pub started_at: i64,
    /// Its end, by the earlier of both clocks.
    pub ends: Deadline,
}

/// A bypass that was started, or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BypassChange {
    /// The bypass as it was while it held.
    pub bypass: Arc<Bypass>,
    /// Whether it holds now.
    pub started: bool,
}

impl BypassChange {
    /// Whether it ended by time, and not by an operator.
    pub fn expired(&self, now: &Moment) -> bool {
        !self.started && self.bypass.ends.has_come(now)
    }
}

/// How many bypasses there are, against how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} bypasses are all the agent's [limits] allow at a time: end one, or raise limits.bypasses")]
pub struct TooManyBypasses {
    /// How many there may be.
    pub limit: usize,
}

impl Ledger {
    /// The bypass of an endpoint.
    pub fn bypass(&self, endpoint: &str) -> Option<&Arc<Bypass>> {
        self.bypasses.get(endpoint)
    }

    /// Bypasses that hold, by endpoint.
    pub fn bypasses(&self) -> &OrdMap<Name, Arc<Bypass>> {
        &self.bypasses
    }

    /// Takes up the bypasses of an earlier run: see [`restore`](Self::restore).
    pub fn restore_bypasses(
        &mut self,
        bypasses: impl IntoIterator<Item = Bypass>,
        seen: &Moment,
        now: &Moment,
    ) {
        for mut bypass in bypasses {
            bypass.ends = bypass.ends.resumed(seen, now);
            self.put_bypass(bypass);
        }
    }

    /// Starts a bypass, in the place of the endpoint's present one. There may be `limit` at a time.
    pub fn start_bypass(&mut self, bypass: Bypass, limit: usize) -> Result<(), TooManyBypasses> {
        if !self.bypasses.contains_key(&bypass.endpoint) && self.bypasses.len() >= limit {
            return Err(TooManyBypasses { limit });
        }
        self.put_bypass(bypass);
        Ok(())
    }

    fn put_bypass(&mut self, bypass: Bypass) {
        let endpoint = bypass.endpoint.clone();
        self.bypasses.insert(endpoint.clone(), Arc::new(bypass));
        self.grant(&endpoint);
    }

    /// Ends the bypass of an endpoint; false when there is none.
    pub fn end_bypass(&mut self, endpoint: &Name) -> bool {
        let there = self.bypasses.remove(endpoint).is_some();
        if there {
            self.grant(endpoint);
        }
        there
    }

    /// Ends what is over by one of the clocks; false when nothing is.
    pub fn end_bypasses(&mut self, now: &Moment) -> bool {
        let over = self.bypasses.values().filter(|b| b.ends.has_come(now));
        let over: Vec<Name> = over.map(|b| b.endpoint.clone()).collect();
        for endpoint in &over {
            self.end_bypass(endpoint);
        }
        !over.is_empty()
    }

    /// Ends the bypasses of endpoints that a change of the policy removes, or gives to another tenant.
    pub fn end_bypasses_with(&mut self, before: &Document, after: &Document) {
        let tenant = |document: &Document, name: &Name| {
            let endpoint = document.endpoints.get(name)?;
            Some(endpoint.labels.get(&*document.tenant_label).cloned())
        };
        let gone = self.bypasses.keys().filter(|name| {
            let is = tenant(after, name);
            is.is_none() || tenant(before, name) != is
        });
        let gone: Vec<Name> = gone.cloned().collect();
        for name in &gone {
            self.end_bypass(name);
        }
    }

    /// What became of bypasses since another state of this ledger. One that was replaced is only among those that began.
    pub fn bypasses_since(&self, before: &Ledger) -> Vec<BypassChange> {
        let change = |difference: DiffItem<'_, '_, Name, Arc<Bypass>>| {
            let (bypass, started) = match difference {
                DiffItem::Add(_, bypass) | DiffItem::Update { new: (_, bypass), .. } => (bypass, true),
                DiffItem::Remove(_, bypass) => (bypass, false),
            };
            BypassChange {
                bypass: Arc::clone(bypass),
                started,
            }
        };
        before.bypasses.diff(&self.bypasses).map(change).collect()
    }

    /// What an endpoint's bypass does to it.
    pub(super) fn bypass_grant(&self, endpoint: &Name) -> Option<Grant> {
        let bypass = self.bypasses.get(endpoint)?;
        let ends = u64::try_from(bypass.ends.seconds()).unwrap_or(0);
        Some(Grant::bypass(endpoint, &bypass.reason, ends))
    }

    /// Milliseconds until the first bypass ends.
    pub(super) fn next_bypass_ms(&self, now: &Moment) -> Option<u64> {
        self.bypasses.values().map(|b| b.ends.left_ms(now)).min()
    }
}

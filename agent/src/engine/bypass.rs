//! What the engine does with bypasses: they are part of the ledger, and of every change of it. Starting one is a change like
//! that of an unlock, ending one is a closing.

use std::sync::Arc;

use portcullis_policy::Name;
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Bypass, BypassChange, Ledger};
use serde_json::json;

use super::Who;
use crate::store::{Change, Entry, Key, Kind, SideWrites};

/// The actor of a bypass's end: the agent, when its time was over.
pub(super) fn who(change: &BypassChange, by: &Who, now: &Moment) -> Who {
    match change.expired(now) {
        true => Who::agent(),
        false => by.clone(),
    }
}

/// What it is to the audit log.
pub(super) fn entry(change: &BypassChange, by: &Who, now: &Moment, generation: u64) -> Entry {
    let bypass = &change.bypass;
    let action = match (change.started, change.expired(now)) {
        (true, _) => "bypass.start",
        (false, true) => "bypass.expire",
        (false, false) => "bypass.end",
    };
    let by = who(change, by, now);
    let detail = json!({
        "reason": bypass.reason,
        "started_by": bypass.by,
        "started_at": bypass.started_at,
        "ends_at": bypass.ends.seconds(),
    });
    Entry {
        at_ms: now.wall_ms,
        actor: by.name,
        role: by.role,
        action: action.to_string(),
        subject: format!("endpoints/{}", bypass.endpoint),
        detail: detail.to_string(),
        generation,
        evidence: None,
    }
}

/// What a commit writes of bypasses.
pub(super) fn note(side: &mut SideWrites, changes: &[BypassChange]) {
    let write = |change: &BypassChange| {
        let bypass = change.started.then(|| change.bypass.clone());
        (change.bypass.endpoint.clone(), bypass)
    };
    side.bypasses = changes.iter().map(write).collect();
}

/// [`note`] of a change of the policy, with its entries of the audit log; returns what it ended.
pub(super) fn note_ended(
    side: &mut SideWrites,
    before: &Ledger,
    after: &Ledger,
    now: &Moment,
    generation: u64,
) -> Vec<BypassChange> {
    let changes = after.bypasses_since(before);
    note(side, &changes);
    let entries = changes
        .iter()
        .map(|change| entry(change, &Who::agent(), now, generation));
    side.audit.extend(entries);
    changes
}

/// Lets ends hold that came while the ledger became what it is. A bypass that somebody ended is over, whatever was started
/// meanwhile in its place; one whose time was over leaves the one that began in its place. Returns those: their rows in the
/// store have to be written once more, behind the end.
pub(super) fn overlay(
    ledger: &mut Ledger,
    ended: &[BypassChange],
    now: &Moment,
) -> Vec<(Name, Option<Arc<Bypass>>)> {
    let mut kept = Vec::new();
    for change in ended {
        let endpoint = &change.bypass.endpoint;
        match ledger.bypass(endpoint.as_str()) {
            Some(other) if change.expired(now) && *other != change.bypass => {
                kept.push((endpoint.clone(), Some(Arc::clone(other))));
            }
            _ => {
                ledger.end_bypass(endpoint);
            }
        }
    }
    kept
}

/// The bypasses that changed, as a generation names them.
pub(super) fn keys_of(changes: &[BypassChange]) -> impl Iterator<Item = (Change, Key)> {
    changes.iter().map(|change| {
        let key = Key {
            kind: Kind::Bypass,
            name: change.bypass.endpoint.to_string(),
        };
        match change.started {
            true => (Change::Created, key),
            false => (Change::Deleted, key),
        }
    })
}

/// Writes it to the log.
pub(super) fn log(changes: &[BypassChange], by: &Who, now: &Moment) {
    for change in changes {
        let (endpoint, reason) = (&change.bypass.endpoint, &change.bypass.reason);
        let by = who(change, by, now).name;
        match change.started {
            true => {
                let by = &change.bypass.by;
                let seconds = change.bypass.ends.left_ms(now) / 1000;
                tracing::warn!(%endpoint, by, reason, seconds, "the policy of an endpoint is bypassed");
            }
            false => tracing::info!(%endpoint, by, reason, "a bypass is over"),
        }
    }
}

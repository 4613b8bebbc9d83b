//! Refusals in the audit log: the first ones of a caller in a minute as they come, and the rest of that minute as one entry
//! with their count. Callers beyond a bound are one caller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::Entry;

/// Refusals of a caller that are logged one by one, within [`MINUTE`].
const ALONE: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Callers that are distinguished at a time.
const APART: usize = 64;
/// The actor of an entry for all others.
const OTHERS: &str = "others";

/// The refusals of a caller.
#[derive(Debug)]
struct Seen {
    since: Instant,
    logged: u32,
    /// The last one that was not logged, and how many were not.
    rest: Option<(Entry, u64)>,
}

/// The refusals of the last minute, by caller.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<String, Seen>);

impl Refusals {
    /// Returns an entry that is to be logged now. A refusal that is only counted is not; what is no refusal always is.
    pub fn take(&mut self, entry: Entry, now: Instant) -> Option<Entry> {
        if !entry.action.ends_with(".refused") {
            return Some(entry);
        }
        let apart = self.0.contains_key(&entry.actor) || self.0.len() < APART;
        let (caller, alone) = match apart {
            true => (entry.actor.clone(), ALONE),
            false => (OTHERS.to_string(), 0),
        };
        let seen = self.0.entry(caller).or_insert(Seen {
            since: now,
            logged: 0,
            rest: None,
        });
        if seen.logged < alone {
            seen.logged += 1;
            return Some(entry);
        }
        let count = seen.rest.as_ref().map_or(0, |(_, count)| *count);
        seen.rest = Some((entry, count + 1));
        None
    }

    /// Returns the entries for minutes that are over, or for all minutes.
    pub fn due(&mut self, now: Instant, all: bool) -> Vec<Entry> {
        let over = |seen: &Seen| all || now.saturating_duration_since(seen.since) >= MINUTE;
        if !self.0.values().any(over) {
            return Vec::new();
        }
        let callers = std::mem::take(&mut self.0).into_iter();
        let (over, goes_on): (BTreeMap<String, Seen>, _) = callers.partition(|(_, seen)| over(seen));
        self.0 = goes_on;
        let rest = over.into_iter();
        rest.filter_map(|(caller, seen)| seen.rest.map(|(entry, count)| summary(caller, entry, count)))
            .collect()
    }
}

/// The entry for some refusals, of which one is the last.
fn summary(caller: String, last: Entry, count: u64) -> Entry {
    let mut detail: serde_json::Value = serde_json::from_str(&last.detail).unwrap_or_default();
    match detail.as_object_mut() {
        Some(fields) => drop(fields.insert("count".to_string(), count.into())),
        None => detail = serde_json::json!({ "count": count }),
    }
    Entry {
        actor: caller,
        detail: detail.to_string(),
        ..last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(actor: &str, action: &str) -> Entry {
        Entry {
            at_ms: 0,
            actor: actor.to_string(),
            role: "tenant".to_string(),
            action: action.to_string(),
            subject: "endpoints/a".to_string(),
            detail: r#"{"why":"no"}"#.to_string(),
            generation: 1,
            evidence: None,
        }
    }

    fn count(entry: &Entry) -> u64 {
        let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
        assert_eq!(detail["why"], "no");
        detail["count"].as_u64().unwrap()
    }

    #[test]
    fn the_first_are_logged_and_the_rest_is_counted() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let mut logged = 0;
        for n in 0..1000 {
            let action = ["unlock.request.refused", "unlock.release.refused"][n % 2];
            logged += u32::from(refusals.take(refusal("a", action), now).is_some());
        }
        assert_eq!(logged, ALONE);
        assert!(
            refusals
                .take(refusal("b", "unlock.request.refused"), now)
                .is_some()
        );
        assert!(refusals.take(refusal("a", "unlock.request"), now).is_some());
        assert!(refusals.due(now, false).is_empty(), "the minute goes on");
        let rest = refusals.due(now + MINUTE, false);
        assert_eq!(rest.len(), 1);
        assert_eq!((rest[0].actor.as_str(), count(&rest[0])), ("a", 980));
        // The next minute begins anew.
        assert!(
            refusals
                .take(refusal("a", "unlock.request.refused"), now)
                .is_some()
        );
        assert!(refusals.due(now, true).is_empty());
    }

    #[test]
    fn no_number_of_callers_writes_much() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let mut logged = 0;
        for n in 0..10_000 {
            let entry = refusal(&format!("oidc {n}"), "unlock.request.refused");
            logged += u64::from(refusals.take(entry, now).is_some());
        }
        let rest = refusals.due(now, true);
        assert_eq!((logged, rest.len()), (APART as u64, 1));
        assert_eq!(
            (rest[0].actor.as_str(), count(&rest[0])),
            (OTHERS, 10_000 - logged)
        );
    }
}

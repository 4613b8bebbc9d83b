//! Values that expressions can see.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cel::objects::{Key, Map, Value as Cel};
use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use portcullis_policy::CheckResult;
use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, Value};

/// What an expression reads as `checks.NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckFacts {
    /// `result`; `passed` follows from it.
    pub result: CheckResult,
    /// What was found, as a person reads it.
    pub detail: String,
}

/// `unlocks.PROGRAM`, of the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnlockFacts {
    /// Whether the unlock is open: active or expiring.
    pub active: bool,
    /// `state`, in a word; `none` for a program of which the endpoint has no unlock.
    pub state: String,
    /// Seconds since it was granted; 0 before that.
    pub age: u64,
    /// `revocations`: how often unlocks of the program were revoked on the endpoint, or on any of its tenant's.
    pub revocations: u32,
}

/// `endpoint` in expressions; each field is the one of that name.
#[allow(missing_docs, reason = "the names are those of the variables")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointFacts {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Seconds since the endpoint is its present tenant's.
    pub age: u64,
    /// Addresses and prefixes as texts.
    pub addresses: Vec<String>,
    pub profiles: Vec<String>,
}

/// All that expressions see. Checks that are not here are undetermined, programs that are not here have no unlock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// `endpoint`: the one the unlock is for.
    pub endpoint: EndpointFacts,
    /// `evidence`, by the names the program declares.
    pub evidence: Evidence,
    /// What came of the checks, by their names.
    pub checks: BTreeMap<String, CheckFacts>,
    /// The endpoint's unlocks, by program.
    pub unlocks: BTreeMap<String, UnlockFacts>,
    /// `tenant`: the value of the endpoint's tenant label.
    pub tenant: String,
    /// `now`, in seconds since the Unix epoch.
    pub now: u64,
    /// `request.lease`: seconds that are asked for.
    pub lease: u64,
}

/// What an expression names, so that nothing else is made for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    pub(super) variables: BTreeSet<String>,
    pub(super) checks: BTreeSet<String>,
    pub(super) programs: BTreeSet<String>,
    /// `now`, or an age.
    pub(super) time: bool,
    /// The detail of a check.
    pub(super) detail: bool,
}

fn text(text: &str) -> Cel {
    Cel::String(Arc::new(text.to_string()))
}

fn texts(list: &[String]) -> Cel {
    Cel::List(Arc::new(list.iter().map(|t| text(t)).collect()))
}

fn seconds(seconds: u64) -> Cel {
    // A length that has no number is as long as any.
    let most = i64::MAX / 2_000;
    Cel::Duration(TimeDelta::seconds(
        i64::try_from(seconds).unwrap_or(most).min(most),
    ))
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Cel)>) -> Cel {
    let map: HashMap<Key, Cel> = entries
        .into_iter()
        .map(|(name, value)| (Key::String(Arc::new(name.to_string())), value))
        .collect();
    Cel::Map(Map { map: Arc::new(map) })
}

fn value(value: &Value) -> Cel {
    match value {
        Value::Integer(number) => Cel::Int(*number),
        Value::Boolean(yes) => Cel::Bool(*yes),
        Value::Date(day) => Cel::Timestamp(day.and_time(NaiveTime::MIN).and_utc().fixed_offset()),
        other => text(&other.to_string()),
    }
}

impl Facts {
    /// The variables that are named, as CEL has them.
    pub(super) fn variables(&self, named: &Named) -> Vec<(&'static str, Cel)> {
        let mut variables = Vec::new();
        let mut add = |name: &'static str, make: &dyn Fn() -> Cel| {
            if named.variables.contains(name) {
                variables.push((name, make()));
            }
        };
        add("endpoint", &|| {
            let endpoint = &self.endpoint;
            let labels = endpoint
                .labels
                .iter()
                .map(|(key, label)| (key.as_str(), text(label)));
            map([
                ("name", text(&endpoint.name)),
                ("labels", map(labels)),
                ("age", seconds(endpoint.age)),
                ("addresses", texts(&endpoint.addresses)),
                ("profiles", texts(&endpoint.profiles)),
            ])
        });
        add("evidence", &|| {
            map(self.evidence.iter().map(|(name, v)| (name, value(v))))
        });
        add("checks", &|| {
            map(named.checks.iter().map(|name| {
                let (result, detail) = match self.checks.get(name) {
                    Some(check) => (check.result, check.detail.as_str()),
                    None => (CheckResult::Undetermined, ""),
                };
                let fields = [
                    ("result", text(result.name())),
                    ("passed", Cel::Bool(result == CheckResult::Passed)),
                    ("detail", text(detail)),
                ];
                (name.as_str(), map(fields))
            }))
        });
        add("unlocks", &|| {
            let none = UnlockFacts {
                state: "none".to_string(),
                ..UnlockFacts::default()
            };
            map(named.programs.iter().map(|name| {
                let unlock = self.unlocks.get(name).unwrap_or(&none);
                let fields = [
                    ("active", Cel::Bool(unlock.active)),
                    ("state", text(&unlock.state)),
                    ("age", seconds(unlock.age)),
                    ("revocations", Cel::Int(i64::from(unlock.revocations))),
                ];
                (name.as_str(), map(fields))
            }))
        });
        add("tenant", &|| text(&self.tenant));
        add("now", &|| {
            let now = i64::try_from(self.now)
                .ok()
                .and_then(|now| DateTime::from_timestamp(now, 0));
            Cel::Timestamp(now.unwrap_or(DateTime::<Utc>::MAX_UTC).fixed_offset())
        });
        add("request", &|| map([("lease", seconds(self.lease))]));
        variables
    }
}

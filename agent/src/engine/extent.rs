//! How large a policy may become: the limits of resources, and of what a change puts into one of them.

use portcullis_policy::{Endpoint, Rule};

use super::ChangeError;
use super::edit::Edited;
use crate::config::Limits;
use crate::store::Kind;

/// Refuses an edit whose result, in what it changed, is larger than the limits allow. What was there before stays.
pub(super) fn within(edited: &Edited, limits: &Limits) -> Result<(), ChangeError> {
    let document = &edited.document;
    for (what, count, limit) in [
        ("profiles", document.profiles.len(), limits.profiles),
        ("endpoints", document.endpoints.len(), limits.endpoints),
        ("programs", document.programs.len(), limits.programs),
    ] {
        most(|| what.to_string(), what, count, limit)?;
    }
    let list = |what: &str, rules: &[Rule]| {
        most(
            || format!("rules in {what}"),
            "list_rules",
            rules.len(),
            limits.list_rules,
        )
    };
    for (_, key) in &edited.changes {
        match key.kind {
            Kind::Baseline => {
                list("baseline", &document.baseline)?;
                list("mandatory", &document.mandatory)?;
            }
            Kind::Profile => {
                let profile = document.profiles.get(key.name.as_str());
                profile.map_or(Ok(()), |profile| list(&key.to_string(), &profile.rules))?;
            }
            Kind::Endpoint => {
                let endpoint = document.endpoints.get(key.name.as_str());
                let count = endpoint.map_or(0, |endpoint| matches(endpoint));
                let what = || format!("matches of the rules of {key}");
                most(what, "endpoint_matches", count, limits.endpoint_matches)?;
            }
            Kind::Program | Kind::Unlock | Kind::Bypass => {}
        }
    }
    Ok(())
}

fn most(
    what: impl FnOnce() -> String,
    setting: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), ChangeError> {
    match count > limit {
        true => Err(ChangeError::TooMany {
            what: what(),
            setting,
            count,
            limit,
        }),
        false => Ok(()),
    }
}

/// Rows that an endpoint's own rules would take if each were written out: a rule counts once for every combination of its port
/// ranges, source port ranges and prefixes.
fn matches(endpoint: &Endpoint) -> usize {
    let of = |rule: &Rule| {
        [
            rule.ports.len(),
            rule.source_ports.len(),
            rule.remote.len(),
            rule.local.len(),
        ]
        .into_iter()
        .fold(1_usize, |product, length| product.saturating_mul(length.max(1)))
    };
    endpoint
        .rules
        .iter()
        .fold(0, |sum, rule| sum.saturating_add(of(rule)))
}

//! How large a policy may become: the limits of resources, and of what a change puts into one of them.

use portcullis_policy::{Document, Endpoint, Rule};

use super::ChangeError;
use super::edit::Edited;
use crate::config::Limits;
use crate::store::Kind;

/// Refuses an edit whose result, in what it changed, is larger than the limits allow. What was there before stays, also where a
/// limit was set below it: an edit that adds none is not refused for how many there are.
pub(super) fn within(before: &Document, edited: &Edited, limits: &Limits) -> Result<(), ChangeError> {
    let document = &edited.document;
    for (what, had, count, limit) in [
        (
            "profiles",
            before.profiles.len(),
            document.profiles.len(),
            limits.profiles,
        ),
        (
            "endpoints",
            before.endpoints.len(),
            document.endpoints.len(),
            limits.endpoints,
        ),
        (
            "programs",
            before.programs.len(),
            document.programs.len(),
            limits.programs,
        ),
    ] {
        if count > had {
            most(|| what.to_string(), what, count, limit)?;
        }
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

#[cfg(test)]
mod tests {
    use super::super::edit::{Edit, apply};
    use super::*;

    #[test]
    fn a_limit_below_what_is_there_refuses_no_removal_and_no_other_edit() {
        let yaml = "version: portcullis/v1\nendpoints:\n  a: {attachments: [{interface: a}]}\n  b: {attachments: [{interface: b}]}\n";
        let before = Document::from_yaml(yaml).unwrap();
        let limits = Limits {
            endpoints: 1,
            ..Limits::default()
        };
        let edit =
            |name: &str, endpoint| apply(&before, Edit::Endpoint(name.parse().unwrap(), endpoint), &limits);
        let endpoint = || Endpoint::clone(&before.endpoints["b"]);
        assert_eq!(edit("a", None).unwrap().changes.len(), 1);
        let mut altered = endpoint();
        altered.labels.insert("rack".parse().unwrap(), "7".to_string());
        assert_eq!(edit("b", Some(altered)).unwrap().changes.len(), 1);
        let mut third = endpoint();
        third.attachments.clear();
        let refused = edit("c", Some(third)).unwrap_err();
        assert!(
            matches!(
                refused,
                ChangeError::TooMany {
                    count: 3,
                    limit: 1,
                    ..
                }
            ),
            "{refused}"
        );
    }
}

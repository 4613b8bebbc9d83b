//! What the settings and the state of each target cost policy traffic.

use portcullis_backend::{Check, Cost, Outcome, SessionState, TargetHandle, TargetStatus, cause};
use portcullis_proto::v1;

use super::status::ApiError;

/// A table that is fuller than this, in percent, may soon refuse a change.
const NEARLY_FULL: u64 = 90;
/// Rules that a check names.
const NAMED: usize = 5;

/// Looks at every target at once.
pub(super) async fn list(targets: &[TargetHandle]) -> Result<v1::ListTargetChecksResponse, ApiError> {
    let ask = |target: &TargetHandle| {
        let target = target.clone();
        tokio::spawn(async move { (target.checkup().await, target) })
    };
    let asked: Vec<_> = targets.iter().map(ask).collect();
    let mut response = v1::ListTargetChecksResponse::default();
    for answer in asked {
        let (settings, target) = answer.await.map_err(|_| ApiError::Lost)?;
        let mut checks = from_status(&target.status());
        match settings {
            Ok(settings) => checks.extend(settings),
            Err(error) => checks.push(Check::unknown("settings", error.to_string())),
        }
        let name = target.name();
        response
            .checks
            .extend(checks.into_iter().map(|check| check_out(name, check)));
    }
    Ok(response)
}

/// What the status says of any kind of target.
fn from_status(status: &TargetStatus) -> Vec<Check> {
    let mut list = vec![session(status)];
    // How the bridge's fail mode is set is looked at with the other settings.
    let exposures = status.exposures.iter().filter(|e| e.cause != cause::FAIL_MODE);
    list.extend(exposures.map(|e| Check::costs("exposure", Cost::Safety, &e.what, &e.remedy)));
    list.push(unsupported(status));
    list.push(left(status));
    list.push(room(status));
    list
}

fn session(status: &TargetStatus) -> Check {
    const NAME: &str = "session";
    match status.state {
        SessionState::InSync => Check::fine(NAME, format!("InSync, generation {}", status.applied)),
        state => Check::costs(
            NAME,
            Cost::Safety,
            format!(
                "{state}: generation {} is wanted, and {} is in force",
                status.wanted, status.applied
            ),
            match status.detail.as_str() {
                "" => "`portcullis status` shows how it goes on",
                detail => detail,
            },
        ),
    }
}

fn unsupported(status: &TargetStatus) -> Check {
    const NAME: &str = "rules";
    let names: Vec<&str> = status
        .unsupported
        .iter()
        .map(|u| u.rule.as_str())
        .take(NAMED)
        .collect();
    match status.unsupported.len() {
        0 => Check::fine(NAME, "the target can enforce everything that it is asked to"),
        // Each may or may not bear on what this policy says.
        count => Check::unknown(
            NAME,
            format!(
                "status lists {count} things that the target cannot do, with the reason for each: {}",
                names.join(", ")
            ),
        ),
    }
}

fn left(status: &TargetStatus) -> Check {
    const NAME: &str = "rules left to others";
    match status.left.names().len() {
        0 => Check::fine(NAME, "none"),
        count => Check::costs(
            NAME,
            Cost::Speed,
            format!("{count} rules found no room and are enforced by targets nearer to the endpoints"),
            "`portcullis status --placement` shows which, and what would make room",
        ),
    }
}

fn room(status: &TargetStatus) -> Check {
    const NAME: &str = "tables";
    let fullest = status
        .tables
        .iter()
        .filter_map(|table| Some((table, table.size.filter(|s| *s > 0)?)));
    let Some((table, size)) = fullest.max_by_key(|(table, size)| table.rows * 1000 / size) else {
        return Check::fine(NAME, "no table has a limit");
    };
    let use_of = format!("{} has {} of {size} rows", table.table, table.rows);
    match table.rows * 100 >= size * NEARLY_FULL {
        true => Check::costs(
            NAME,
            Cost::Safety,
            format!("{use_of}: a change that needs more rows is refused, or leaves rules to other targets"),
            "fewer prefixes and own rules, or a larger table; `portcullis plan` shows what a change takes",
        ),
        false => Check::fine(NAME, use_of),
    }
}

fn check_out(target: &str, check: Check) -> v1::TargetCheck {
    let (result, what, remedy) = match check.outcome {
        Outcome::Fine(how) => (v1::TargetCheckResult::Fine, how, String::new()),
        Outcome::Costs { cost, what, remedy } => match cost {
            Cost::Safety => (v1::TargetCheckResult::CostsSafety, what, remedy),
            Cost::Speed => (v1::TargetCheckResult::CostsSpeed, what, remedy),
        },
        Outcome::Unknown(why) => (v1::TargetCheckResult::Unknown, why, String::new()),
    };
    v1::TargetCheck {
        target: target.to_string(),
        name: check.name.to_string(),
        result: result.into(),
        what,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use portcullis_backend::{Exposure, TableUse};

    use super::*;

    fn costly(status: &TargetStatus) -> Vec<(&'static str, Cost)> {
        let cost = |check: Check| match check.outcome {
            Outcome::Costs { cost, .. } => Some((check.name, cost)),
            _ => None,
        };
        from_status(status).into_iter().filter_map(cost).collect()
    }

    #[test]
    fn a_target_in_sync_costs_nothing_by_its_status() {
        let table = |rows| TableUse {
            table: "acl".to_string(),
            number: None,
            rows,
            size: Some(100),
            reserve: 0,
        };
        let mut status = TargetStatus {
            state: SessionState::InSync,
            tables: vec![table(89)],
            ..TargetStatus::default()
        };
        assert_eq!(costly(&status), []);
        status.tables.push(table(90));
        assert_eq!(costly(&status), [("tables", Cost::Safety)]);
        let exposure = |cause: &str| Exposure {
            cause: cause.to_string(),
            what: "it passes everything".to_string(),
            remedy: "close it".to_string(),
            open: true,
        };
        status.tables.clear();
        status.exposures = vec![exposure(cause::FAIL_MODE), exposure("hairpin")];
        assert_eq!(costly(&status), [("exposure", Cost::Safety)]);
        status.state = SessionState::Disconnected;
        status.exposures.clear();
        assert_eq!(costly(&status), [("session", Cost::Safety)]);
    }
}

//! What checks and expressions together say of an unlock. Pure: everything that is known is an argument.

use std::collections::BTreeMap;

use portcullis_policy::{Approval, Document, Endpoint, Program};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::expression::{
    CheckFacts, CheckResult as Word, EndpointFacts, Expression, ExpressionError, Facts, Scope, UnlockFacts,
};
use portcullis_unlock::ledger::{CheckResult, Checked, Judgement, Ledger, Unlock};

/// What is known when an unlock is judged.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The policy.
    pub document: &'a Document,
    /// The other unlocks.
    pub ledger: &'a Ledger,
    /// When the endpoint was created, in seconds since the Unix epoch.
    pub created: i64,
    /// The time.
    pub now: Moment,
}

fn age(since: i64, now: i64) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

fn facts(unlock: &Unlock, endpoint: &Endpoint, checks: &[Checked], known: &Known<'_>) -> Facts {
    let now = known.now.seconds();
    let word = |result| match result {
        CheckResult::Passed => Word::Passed,
        CheckResult::Failed => Word::Failed,
        CheckResult::Undetermined => Word::Undetermined,
    };
    let check = |checked: &Checked| {
        let facts = CheckFacts {
            result: word(checked.result),
            detail: checked.detail.clone(),
        };
        (checked.name.clone(), facts)
    };
    let mut unlocks: BTreeMap<String, UnlockFacts> = BTreeMap::new();
    for name in known.document.programs.keys() {
        let revocations = known
            .ledger
            .strikes(&unlock.endpoint, name)
            .map_or(0, |s| s.times);
        let of_program = known.ledger.of_endpoint(unlock.endpoint.as_str());
        let of_program = of_program.filter(|other| other.program == *name && other.id != unlock.id);
        // The one that is open, if any is.
        let found = of_program.max_by_key(|other| (other.is_open(&known.now), other.requested_at));
        let facts = UnlockFacts {
            active: found.is_some_and(|other| other.is_open(&known.now)),
            state: found.map_or_else(String::new, |other| other.state.name().to_string()),
            age: found
                .and_then(|other| other.granted_at)
                .map_or(0, |at| age(at, now)),
            revocations,
        };
        unlocks.insert(name.to_string(), facts);
    }
    Facts {
        endpoint: EndpointFacts {
            name: unlock.endpoint.to_string(),
            labels: endpoint.labels.clone(),
            age: age(known.created, now),
            addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
            profiles: endpoint.profiles.iter().map(ToString::to_string).collect(),
        },
        evidence: unlock.evidence.clone(),
        checks: checks.iter().map(check).collect(),
        unlocks,
        tenant: unlock.tenant.clone(),
        now: u64::try_from(now).unwrap_or(0),
        lease: unlock.lease_seconds,
    }
}

/// The checks of which one failing is enough.
fn decisive<'a>(program: &'a Program, checks: &'a [Checked]) -> impl Iterator<Item = &'a Checked> {
    let advisory = |name: &str| program.checks.iter().any(|c| c.advisory && c.name() == name);
    checks.iter().filter(move |checked| !advisory(&checked.name))
}

/// What an unlock comes to.
pub fn judge(unlock: &Unlock, checks: &[Checked], known: &Known<'_>) -> Judgement {
    let program = known.document.programs.get(&unlock.program);
    let endpoint = known.document.endpoints.get(&unlock.endpoint);
    let (Some(program), Some(endpoint)) = (program, endpoint) else {
        return Judgement::Fails("its program or its endpoint is gone".to_string());
    };
    let told = |wanted: CheckResult| {
        let found = decisive(program, checks).filter(|c| c.result == wanted);
        found
            .map(|c| format!("check {}: {}", c.name, c.detail))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let failed = told(CheckResult::Failed);
    if !failed.is_empty() {
        return Judgement::Fails(failed);
    }
    let unknown = told(CheckResult::Undetermined);
    if !unknown.is_empty() {
        return Judgement::Unknown(unknown);
    }
    let facts = facts(unlock, endpoint, checks, known);
    let scope = Scope::of(program, known.document.programs.keys().map(|name| name.as_str()));
    let holds =
        |text: &str| -> Result<bool, ExpressionError> { Expression::compile(text, &scope)?.evaluate(&facts) };
    // An expression over a check that could not be made says nothing.
    let doubtful = || checks.iter().any(|c| c.result == CheckResult::Undetermined);
    if let Some(text) = &program.require {
        match holds(text) {
            Ok(true) => {}
            Ok(false) if doubtful() => return Judgement::Unknown("a check could not be made".to_string()),
            Ok(false) => return Judgement::Fails(format!("what the program requires does not hold: {text}")),
            Err(error) => {
                return Judgement::Fails(format!("what the program requires cannot be told: {error}"));
            }
        }
    }
    let manual = match &program.approval {
        Approval::Automatic => false,
        Approval::Manual => true,
        // What cannot be told is for a person.
        Approval::ManualIf(text) => holds(text).unwrap_or(true),
    };
    Judgement::Holds { manual }
}

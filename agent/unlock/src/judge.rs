//! Judgement of an unlock from its checks and the expressions of its program. Pure: everything known is an argument.

use std::collections::BTreeMap;

use portcullis_policy::{Approval, CheckResult, Document, Endpoint, Program};

use crate::clock::Moment;
use crate::expression::{CheckFacts, EndpointFacts, Expression, ExpressionError, Facts, Scope, UnlockFacts};
use crate::ledger::{Checked, Judgement, Ledger, Unlock};

/// How a reason begins that goes on with the text of an expression.
const REQUIRES: &str = "what the program requires ";

/// A reason without what a program requires, of which the program's author may not want to say more.
pub fn undisclosed(reason: &str) -> String {
    let Some((before, rest)) = reason.split_once(REQUIRES) else {
        return reason.to_string();
    };
    let what = rest.split_once(':').map_or(rest, |(what, _)| what);
    format!("{before}{REQUIRES}{what}")
}

/// Checks that could not be made of which every outcome is tried, to find out whether they matter.
const TRIED: usize = 5;

/// What is known when an unlock is judged.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The policy in force, with the programs.
    pub document: &'a Document,
    /// All unlocks that are under way.
    pub ledger: &'a Ledger,
    /// Wall time and time since boot.
    pub now: Moment,
}

fn age(since: i64, now: i64) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

fn facts(unlock: &Unlock, endpoint: &Endpoint, checks: &[Checked], known: &Known<'_>) -> Facts {
    let now = known.now.seconds();
    let check = |checked: &Checked| {
        let facts = CheckFacts {
            result: checked.result,
            detail: checked.detail.clone(),
        };
        (checked.name.clone(), facts)
    };
    let mut unlocks: BTreeMap<String, UnlockFacts> = BTreeMap::new();
    for name in known.document.programs.keys() {
        let strikes = [
            known.ledger.strikes(&unlock.endpoint, name),
            known.ledger.strikes_of_tenant(&unlock.tenant, name),
        ];
        let revocations = strikes.into_iter().flatten().map(|s| s.times).max().unwrap_or(0);
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
            age: age(known.ledger.since(unlock.endpoint.as_str()).unwrap_or(now), now),
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

/// An expression of a program, and what it is evaluated over.
struct Question<'a> {
    text: &'a str,
    expression: Result<Expression, ExpressionError>,
    facts: Facts,
}

impl<'a> Question<'a> {
    fn new(
        text: &'a str,
        unlock: &Unlock,
        (program, endpoint): (&Program, &Endpoint),
        checks: &[Checked],
        known: &Known<'_>,
    ) -> Self {
        let scope = Scope::new(program, known.document.programs.keys().map(|name| name.as_str()));
        Question {
            text,
            expression: Expression::compile(text, &scope),
            facts: facts(unlock, endpoint, checks, known),
        }
    }

    fn holds(&self) -> Result<bool, ExpressionError> {
        self.expression.clone()?.evaluate(&self.facts)
    }

    /// Why it does not hold, in words.
    fn why_not(&self, answer: &Result<bool, ExpressionError>) -> String {
        match answer {
            Err(error) => format!("{REQUIRES}cannot be evaluated: {error}"),
            Ok(_) => format!("{REQUIRES}does not hold: {}", self.text),
        }
    }

    /// Whether it is false, or fails, whatever the result of some checks would be. Of many checks not every combination is
    /// tried: all passed, and all failed. The detail of a check stays as it is known; what one says that was not made is open.
    fn never_holds(&self, free: &[&str]) -> bool {
        let Ok(expression) = &self.expression else {
            return true;
        };
        let named: Vec<&str> = free
            .iter()
            .copied()
            .filter(|name| expression.checks().any(|named| named == *name))
            .collect();
        let is_known = |name: &&str| self.facts.checks.contains_key(*name);
        if expression.reads_detail() && !named.iter().all(is_known) {
            return false;
        }
        let combinations: Vec<u32> = match named.len() {
            few if few <= TRIED => (0..1 << few).collect(),
            _ => vec![0, u32::MAX],
        };
        combinations.into_iter().all(|bits| {
            let mut facts = self.facts.clone();
            for (at, name) in named.iter().enumerate() {
                let passed = bits
                    .checked_shr(u32::try_from(at).unwrap_or(0).min(31))
                    .unwrap_or(0)
                    & 1
                    == 1;
                let result = if passed {
                    CheckResult::Passed
                } else {
                    CheckResult::Failed
                };
                let known = facts.checks.remove(*name);
                let detail = known.map_or_else(String::new, |known| known.detail);
                facts
                    .checks
                    .insert((*name).to_string(), CheckFacts { result, detail });
            }
            !matches!(expression.evaluate(&facts), Ok(true))
        })
    }
}

/// Whether what a program requires can become false by time alone, so that it is evaluated every minute; not where the program
/// says how often, and has no checks that this is about.
pub fn by_time(document: &Document, program: &Program) -> bool {
    let own = program.checks.is_empty() && program.lease.recheck_every.is_some();
    program.require.as_ref().is_some_and(|text| {
        let scope = Scope::new(program, document.programs.keys().map(|name| name.as_str()));
        // What cannot be compiled does not hold, whatever the time is.
        !own && Expression::compile(text, &scope).is_ok_and(|expression| expression.reads_time())
    })
}

/// Why an unlock would not be granted now, whatever its checks say: what its program requires is false for another reason.
pub fn unmet(unlock: &Unlock, known: &Known<'_>) -> Option<String> {
    let program = known.document.programs.get(&unlock.program)?;
    let endpoint = known.document.endpoints.get(&unlock.endpoint)?;
    let text = program.require.as_ref()?;
    let of = (program.as_ref(), endpoint.as_ref());
    let question = Question::new(text, unlock, of, &unlock.checks, known);
    let answer = question.holds();
    if matches!(answer, Ok(true)) {
        return None;
    }
    let checks: Vec<&str> = program
        .checks
        .iter()
        .map(portcullis_policy::Check::name)
        .collect();
    question.never_holds(&checks).then(|| question.why_not(&answer))
}

/// Whether a person has to approve an unlock whose checks passed.
pub fn manual(unlock: &Unlock, checks: &[Checked], known: &Known<'_>) -> bool {
    let program = known.document.programs.get(&unlock.program);
    let endpoint = known.document.endpoints.get(&unlock.endpoint);
    let (Some(program), Some(endpoint)) = (program, endpoint) else {
        return true;
    };
    match &program.approval {
        Approval::Automatic => false,
        Approval::Manual => true,
        // What cannot be evaluated is for a person.
        Approval::ManualIf(text) => Question::new(text, unlock, (program, endpoint), checks, known)
            .holds()
            .unwrap_or(true),
    }
}

/// Judges an unlock by what its checks found.
pub fn judge(unlock: &Unlock, checks: &[Checked], known: &Known<'_>) -> Judgement {
    let program = known.document.programs.get(&unlock.program);
    let endpoint = known.document.endpoints.get(&unlock.endpoint);
    let (Some(program), Some(endpoint)) = (program, endpoint) else {
        return Judgement::Unmet("its program or its endpoint is gone".to_string());
    };
    if let Some(why) = unmet(unlock, known) {
        return Judgement::Unmet(why);
    }
    let found = |wanted: CheckResult| {
        let found = decisive(program, checks).filter(|c| c.result == wanted);
        found
            .map(|c| format!("check {}: {}", c.name, c.detail))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let failed = found(CheckResult::Failed);
    if !failed.is_empty() {
        return Judgement::Fails(failed);
    }
    // What an undetermined check cannot change is not put off by it.
    let doubtful = checks.iter().filter(|c| c.result == CheckResult::Undetermined);
    let doubtful: Vec<&str> = doubtful.map(|c| c.name.as_str()).collect();
    let required = program.require.as_ref().map(|text| {
        let question = Question::new(text, unlock, (program, endpoint), checks, known);
        let answer = question.holds();
        let holds = matches!(answer, Ok(true));
        (
            holds,
            !holds && question.never_holds(&doubtful),
            question.why_not(&answer),
        )
    });
    if let Some((false, true, why)) = required {
        return Judgement::Fails(why);
    }
    let unknown = found(CheckResult::Undetermined);
    let not_made = checks.iter().any(|check| check.not_made);
    let judgement = |why| match not_made {
        true => Judgement::NotMade(why),
        false => Judgement::Unknown(why),
    };
    if !unknown.is_empty() {
        return judgement(unknown);
    }
    if let Some((false, ..)) = required {
        return judgement("a check could not be made".to_string());
    }
    Judgement::Holds {
        manual: manual(unlock, checks, known),
    }
}

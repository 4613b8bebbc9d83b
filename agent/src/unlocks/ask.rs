//! Builds questions from the checks of a program, and asks them.

use std::net::IpAddr;

use portcullis_checks::{Answer, Checker, Question};
use portcullis_policy::{Check, CheckKind, CheckResult, Endpoint, Program};
use portcullis_unlock::evidence::{Evidence, Value};
use portcullis_unlock::ledger::Checked;
use tokio_util::task::AbortOnDropHandle;

/// The addresses of an endpoint that are one host's, not a prefix's.
pub(super) fn hosts(endpoint: &Endpoint) -> Vec<IpAddr> {
    let whole = endpoint
        .addresses
        .iter()
        .filter(|a| a.0.prefix_len() == a.0.max_prefix_len());
    whole.map(|a| a.0.addr()).collect()
}

/// `endpoint`, or evidence that is an address.
fn addresses(name: &str, endpoint: &Endpoint, evidence: &Evidence) -> Option<Vec<IpAddr>> {
    if name == "endpoint" {
        return Some(hosts(endpoint));
    }
    match evidence.get(name)? {
        Value::Address(address) => Some(vec![*address]),
        _ => None,
    }
}

/// What a check asks; `None` when evidence that it needs was not submitted.
fn question(kind: &CheckKind, endpoint: &Endpoint, evidence: &Evidence) -> Option<Question> {
    let text = |name: &str| evidence.get(name).map(ToString::to_string);
    let at = |name: &str| addresses(name, endpoint, evidence);
    Some(match kind {
        CheckKind::Fcrdns { address, hostname } => Question::Fcrdns {
            addresses: at(address)?,
            hostname: text(hostname)?,
        },
        CheckKind::Ptr { address, hostname } => Question::Ptr {
            addresses: at(address)?,
            hostname: match hostname {
                Some(name) => Some(text(name)?),
                None => None,
            },
        },
        CheckKind::Address { hostname, must_have } => Question::Address {
            hostname: text(hostname)?,
            must_have: match must_have {
                Some(name) => Some(at(name)?),
                None => None,
            },
        },
        CheckKind::Spf {
            domain,
            must_allow,
            accept_any,
        } => Question::Spf {
            domain: text(domain)?,
            addresses: at(must_allow)?,
            sender: None,
            accept_any: *accept_any,
        },
        CheckKind::Dmarc { domain, policy } => Question::Dmarc {
            domain: text(domain)?,
            policy: *policy,
        },
        CheckKind::Dkim { domain, selector } => Question::Dkim {
            domain: text(domain)?,
            selector: text(selector)?,
        },
        CheckKind::Banner { port, contains } => Question::Banner {
            addresses: hosts(endpoint),
            port: *port,
            contains: contains.clone(),
        },
    })
}

/// What stands for what a check found that asks about a secret: programs that do are refused, and those of earlier versions stay.
const SECRET: &str = "what was found is not shown: it is about evidence that is secret";

async fn one(checker: Checker, check: Check, question: Option<Question>, secret: bool, at: i64) -> Checked {
    let answer = match &question {
        Some(question) => checker.ask(question).await,
        None => Answer {
            result: CheckResult::Undetermined,
            detail: "evidence that it needs was not submitted".to_string(),
            not_made: false,
        },
    };
    Checked {
        name: check.name().to_string(),
        kind: check.kind.word().to_string(),
        result: answer.result,
        detail: if secret { SECRET.to_string() } else { answer.detail },
        at,
        not_made: answer.not_made,
    }
}

/// Makes every check of a program, at once.
pub(super) async fn ask(
    checker: &Checker,
    program: &Program,
    endpoint: &Endpoint,
    evidence: &Evidence,
    at: i64,
) -> Vec<Checked> {
    let mut tasks = Vec::with_capacity(program.checks.len());
    for check in &program.checks {
        let question = question(&check.kind, endpoint, evidence);
        let secret = check
            .kind
            .names()
            .iter()
            .any(|(_, name, _)| evidence.is_secret(name));
        // Who waits no longer ends them.
        tasks.push(AbortOnDropHandle::new(tokio::spawn(one(
            checker.clone(),
            check.clone(),
            question,
            secret,
            at,
        ))));
    }
    let mut checks = Vec::with_capacity(tasks.len());
    for (task, check) in tasks.into_iter().zip(&program.checks) {
        checks.push(task.await.unwrap_or_else(|error| Checked {
            name: check.name().to_string(),
            kind: check.kind.word().to_string(),
            result: CheckResult::Undetermined,
            detail: format!("the check ended without an answer: {error}"),
            at,
            not_made: true,
        }));
    }
    checks
}

//! Conversion of unlocks and programs to messages.

use portcullis_policy::{
    Approval, CheckKind, CheckResult, Disclose, Document, EvidenceType, Name, Program, Verdict,
};
use portcullis_proto::v1;
use portcullis_unlock::evidence;
use portcullis_unlock::judge::undisclosed;
use portcullis_unlock::ledger::{State as UnlockState, Unlock, notes};

use super::convert;
use crate::access::{Caller, Role};
use crate::engine::ClosingState;

/// A state as a message has it.
pub(super) fn state_out(state: UnlockState) -> v1::UnlockState {
    match state {
        UnlockState::Requested => v1::UnlockState::Requested,
        UnlockState::Checking => v1::UnlockState::Checking,
        UnlockState::AwaitingApproval => v1::UnlockState::AwaitingApproval,
        UnlockState::Active => v1::UnlockState::Active,
        UnlockState::Expiring => v1::UnlockState::Expiring,
        UnlockState::Expired => v1::UnlockState::Expired,
        UnlockState::Rejected => v1::UnlockState::Rejected,
        UnlockState::Revoked => v1::UnlockState::Revoked,
        UnlockState::Released => v1::UnlockState::Released,
    }
}

/// The state that a message names.
pub(super) fn state_in(state: v1::UnlockState) -> Option<UnlockState> {
    UnlockState::ALL
        .into_iter()
        .find(|known| state_out(*known) == state)
}

fn result(result: CheckResult) -> v1::CheckResult {
    match result {
        CheckResult::Passed => v1::CheckResult::Passed,
        CheckResult::Failed => v1::CheckResult::Failed,
        CheckResult::Undetermined => v1::CheckResult::Undetermined,
    }
}

/// An unlock; secrets of its evidence stay where they are.
pub(super) fn unlock(unlock: &Unlock, document: &Document) -> v1::Unlock {
    let program = document.programs.get(&unlock.program);
    let seconds = |deadline: Option<portcullis_unlock::clock::Deadline>| deadline.map_or(0, |d| d.seconds());
    v1::Unlock {
        id: unlock.id.to_string(),
        program: unlock.program.to_string(),
        endpoint: unlock.endpoint.to_string(),
        tenant: unlock.tenant.clone(),
        state: state_out(unlock.state).into(),
        reason: unlock.reason.clone(),
        requested_by: unlock.requested_by.clone(),
        requested_at: unlock.requested_at,
        granted_at: unlock.granted_at.unwrap_or(0),
        expires_at: seconds(unlock.ends),
        ended_at: unlock.ended_at.unwrap_or(0),
        // Without its program nobody knows which of it is secret beyond what was marked when it was submitted.
        evidence: program
            .map(|program| unlock.evidence.shown(program).into_iter().collect())
            .unwrap_or_default(),
        checks: unlock
            .checks
            .iter()
            .map(|check| v1::CheckOutcome {
                name: check.name.clone(),
                kind: check.kind.clone(),
                result: result(check.result).into(),
                detail: check.detail.clone(),
                at: check.at,
            })
            .collect(),
        recheck_at: seconds(unlock.recheck),
        failing_since: unlock.failing.map_or(0, |(since, _)| since),
        quarantined_until: seconds(unlock.quarantine),
        opens: unlock.rules().iter().map(convert::rule_out).collect(),
        history: unlock
            .history
            .iter()
            .map(|transition| v1::Transition {
                state: state_out(transition.state).into(),
                at: transition.at,
                by: transition.by.clone(),
                reason: transition.reason.clone(),
            })
            .collect(),
        etag: format!("r{}", unlock.revision),
        renewals: unlock.renewals,
        closing: None,
        renewal_awaits_approval: unlock.renewal.is_some(),
        notes: notes(unlock, document),
    }
}

/// How much of a program a caller is shown.
pub(super) fn disclosed(program: Option<&Program>, caller: &Caller) -> Disclose {
    match caller.role {
        Role::Tenant => program.map_or(Disclose::Evidence, |program| program.disclose),
        _ => Disclose::Full,
    }
}

/// As a caller may see it: what a tenant submitted is not shown to the tenant that has the endpoint now, and of what its
/// program requires no tenant is shown more than the program discloses.
pub(super) fn for_caller(mut unlock: v1::Unlock, document: &Document, caller: &Caller) -> v1::Unlock {
    if caller.tenant.as_ref().is_none_or(|own| *own == unlock.tenant) {
        let program = document.programs.get(unlock.program.as_str());
        if disclosed(program.map(AsRef::as_ref), caller) != Disclose::Full {
            unlock.reason = undisclosed(&unlock.reason);
            for transition in &mut unlock.history {
                transition.reason = undisclosed(&transition.reason);
            }
        }
        return unlock;
    }
    let before = || "by the tenant before".to_string();
    (unlock.tenant, unlock.requested_by) = (String::new(), String::new());
    unlock.reason = before();
    unlock.evidence.clear();
    unlock.checks.clear();
    unlock.notes.clear();
    for transition in &mut unlock.history {
        (transition.by, transition.reason) = (String::new(), before());
    }
    unlock
}

/// How far a closing got.
pub(super) fn closing(state: ClosingState) -> v1::Closing {
    v1::Closing {
        applied: state.applied,
        durable: state.durable,
        waits_for: state.waits_for,
    }
}

fn check_in_words(kind: &CheckKind) -> String {
    match kind {
        CheckKind::Fcrdns { address, hostname } => {
            format!("reverse DNS of {address} leads to {hostname} and back")
        }
        CheckKind::Ptr { address, hostname } => match hostname {
            Some(hostname) => format!("reverse DNS of {address} is {hostname}"),
            None => format!("{address} has reverse DNS"),
        },
        CheckKind::Address { hostname, must_have } => match must_have {
            Some(address) => format!("{hostname} has {address} in DNS"),
            None => format!("{hostname} has an address in DNS"),
        },
        CheckKind::Spf {
            domain,
            must_allow,
            accept_any,
        } => {
            let how = if *accept_any {
                ""
            } else {
                ", by a term that does not pass any address"
            };
            format!("SPF of {domain} lets {must_allow} send{how}")
        }
        CheckKind::Dmarc { domain, policy } => match policy {
            Some(policy) => format!("DMARC of {domain} is {policy:?} or stricter").to_lowercase(),
            None => format!("{domain} has DMARC"),
        },
        CheckKind::Dkim { domain, selector } => format!("{domain} has a DKIM key under {selector}"),
        CheckKind::Banner { port, contains } => match contains {
            Some(text) => format!("TCP port {port} greets with `{text}`"),
            None => format!("TCP port {port} greets"),
        },
    }
}

fn evidence_out(field: &portcullis_policy::EvidenceField) -> v1::EvidenceDescription {
    let mut described = v1::EvidenceDescription {
        name: field.name.clone(),
        r#type: field.kind.name().to_string(),
        prompt: field.prompt.clone(),
        required: field.required,
        secret: field.secret,
        constraint: evidence::constraint(field),
        ..v1::EvidenceDescription::default()
    };
    match &field.kind {
        EvidenceType::Enum { values } => described.values.clone_from(values),
        EvidenceType::Integer { min, max } => (described.min, described.max) = (*min, *max),
        EvidenceType::Text {
            min_length,
            max_length,
            pattern,
        } => {
            (described.min_length, described.max_length) = (*min_length, *max_length);
            described.pattern = pattern.clone().unwrap_or_default();
        }
        _ => {}
    }
    described
}

/// A program: enough for a form, and what of the rest is disclosed.
pub(super) fn program(name: &Name, program: &Program, shown: Disclose) -> v1::ProgramDescription {
    let opens = program.opens.iter().enumerate().filter_map(|(n, opening)| {
        let name: Name = format!("opens-{n}").parse().ok()?;
        Some(convert::rule_out(&opening.rule(
            name,
            Verdict::Allow,
            &program.title,
        )))
    });
    let seconds = |span: Option<portcullis_policy::Span>| span.map_or(0, portcullis_policy::Span::as_seconds);
    v1::ProgramDescription {
        name: name.to_string(),
        title: program.title.clone(),
        opens: opens.collect(),
        evidence: program.evidence.iter().map(evidence_out).collect(),
        checks: program
            .checks
            .iter()
            .filter(|_| shown >= Disclose::Checks)
            .map(|check| check_in_words(&check.kind))
            .collect(),
        needs: program.needs.iter().map(ToString::to_string).collect(),
        require: program
            .require
            .clone()
            .filter(|_| shown == Disclose::Full)
            .unwrap_or_default(),
        approval: match &program.approval {
            Approval::Automatic => "automatic".to_string(),
            Approval::Manual => "manual".to_string(),
            Approval::ManualIf(text) if shown == Disclose::Full => format!("manual_if: {text}"),
            Approval::ManualIf(_) => "manual_if".to_string(),
        },
        lease_default_seconds: program.lease.default.as_seconds(),
        lease_max_seconds: program.lease.longest().as_seconds(),
        renewable: program.lease.renewable,
        recheck_every_seconds: seconds(program.lease.recheck_every),
        scope: program.scope.as_str().to_string(),
    }
}

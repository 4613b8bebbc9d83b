//! Views of unlocks and programs.

use std::collections::BTreeMap;

use portcullis_policy::Span;
use portcullis_policy::text::plain;
use portcullis_proto::v1;
use serde::Serialize;

use super::policy::RuleView;
use super::time::utc;
use crate::table::{Grid, facts};
use crate::term::View;

/// A moment for people; nothing for none.
pub(super) fn time(seconds: i64) -> String {
    match seconds {
        0 => String::new(),
        seconds => utc(seconds),
    }
}

fn some(seconds: i64) -> Option<i64> {
    (seconds != 0).then_some(seconds)
}

fn span(seconds: u64) -> String {
    match seconds {
        0 => String::new(),
        seconds => Span::seconds(seconds).to_string(),
    }
}

fn state(number: i32) -> &'static str {
    match v1::UnlockState::try_from(number) {
        Ok(v1::UnlockState::Requested) => "requested",
        Ok(v1::UnlockState::Checking) => "checking",
        Ok(v1::UnlockState::AwaitingApproval) => "awaiting approval",
        Ok(v1::UnlockState::Active) => "active",
        Ok(v1::UnlockState::Expiring) => "expiring",
        Ok(v1::UnlockState::Expired) => "expired",
        Ok(v1::UnlockState::Rejected) => "rejected",
        Ok(v1::UnlockState::Revoked) => "revoked",
        Ok(v1::UnlockState::Released) => "released",
        Ok(v1::UnlockState::Unspecified) | Err(_) => "unknown",
    }
}

fn result(number: i32) -> &'static str {
    match v1::CheckResult::try_from(number) {
        Ok(v1::CheckResult::Passed) => "passed",
        Ok(v1::CheckResult::Failed) => "failed",
        Ok(v1::CheckResult::Undetermined) => "undetermined",
        Ok(v1::CheckResult::Unspecified) | Err(_) => "unknown",
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckView {
    /// As the program calls it.
    pub name: String,
    pub kind: String,
    /// passed, failed or undetermined.
    pub result: &'static str,
    pub detail: String,
    pub at: i64,
}

/// A state that an unlock came into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransitionView {
    pub state: &'static str,
    pub at: i64,
    pub by: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlockView {
    pub id: String,
    pub program: String,
    pub endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    pub state: &'static str,
    pub reason: String,
    pub requested_by: String,
    /// When, in seconds since the Unix epoch; so are all moments.
    pub requested_at: i64,
    /// When it was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<i64>,
    /// When its lease ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// What was submitted, without secrets.
    pub evidence: BTreeMap<String, String>,
    /// The checks as they came out last.
    pub checks: Vec<CheckView>,
    /// When they are made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck_at: Option<i64>,
    /// Since when they fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<i64>,
    /// Until when its openings are denied above everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined_until: Option<i64>,
    pub opens: Vec<RuleView>,
    pub history: Vec<TransitionView>,
    /// How often it was renewed.
    pub renewals: u32,
    /// Whether an operator has to approve a renewal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub renewal_awaits_approval: bool,
    /// What it does not open, and what is open before it is checked again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How far a closing got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing: Option<ClosingView>,
}

/// How far a closing got by the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClosingView {
    /// Every target confirmed it.
    pub applied: bool,
    /// A restart of the agent does not open it again.
    pub durable: bool,
    /// What it waits for.
    pub waits_for: Vec<String>,
}

impl ClosingView {
    /// In words: what holds, and what is to come.
    pub(super) fn words(&self) -> String {
        let state = match (self.applied, self.durable) {
            (true, true) => "applied on every target, and durable",
            (true, false) => {
                "applied on every target, not durable yet: a restart of the agent would open it again"
            }
            (false, true) => "durable, not applied on every target yet",
            (false, false) => "ordered, neither applied on every target nor durable yet",
        };
        let waits = self.waits_for.iter().map(|what| format!("; waits for {what}"));
        format!("{state}{}", waits.collect::<String>())
    }
}

impl From<v1::Closing> for ClosingView {
    fn from(closing: v1::Closing) -> Self {
        ClosingView {
            applied: closing.applied,
            durable: closing.durable,
            waits_for: closing.waits_for,
        }
    }
}

impl From<v1::Unlock> for UnlockView {
    fn from(unlock: v1::Unlock) -> Self {
        let check = |check: v1::CheckOutcome| CheckView {
            name: check.name,
            kind: check.kind,
            result: result(check.result),
            detail: check.detail,
            at: check.at,
        };
        let transition = |transition: v1::Transition| TransitionView {
            state: state(transition.state),
            at: transition.at,
            by: transition.by,
            reason: transition.reason,
        };
        UnlockView {
            id: unlock.id,
            program: unlock.program,
            endpoint: unlock.endpoint,
            tenant: unlock.tenant,
            state: state(unlock.state),
            reason: unlock.reason,
            requested_by: unlock.requested_by,
            requested_at: unlock.requested_at,
            granted_at: some(unlock.granted_at),
            expires_at: some(unlock.expires_at),
            ended_at: some(unlock.ended_at),
            evidence: unlock.evidence.into_iter().collect(),
            checks: unlock.checks.into_iter().map(check).collect(),
            recheck_at: some(unlock.recheck_at),
            failing_since: some(unlock.failing_since),
            quarantined_until: some(unlock.quarantined_until),
            opens: unlock.opens.into_iter().map(RuleView::from).collect(),
            history: unlock.history.into_iter().map(transition).collect(),
            renewals: unlock.renewals,
            renewal_awaits_approval: unlock.renewal_awaits_approval,
            notes: unlock.notes,
            closing: unlock.closing.map(ClosingView::from),
        }
    }
}

impl UnlockView {
    /// Where it stands, and whether its renewal waits.
    fn stands(&self) -> String {
        match self.renewal_awaits_approval {
            true => format!("{}, renewal awaits approval", self.state),
            false => self.state.to_string(),
        }
    }
}

impl View for UnlockView {
    fn text(&self, width: Option<u16>) -> String {
        let moment = |at: Option<i64>| time(at.unwrap_or(0));
        let evidence: Vec<String> = self
            .evidence
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let opens: Vec<String> = self.opens.iter().map(RuleView::opens).collect();
        let mut pairs = vec![
            ("id", self.id.clone()),
            ("program", self.program.clone()),
            ("endpoint", self.endpoint.clone()),
            ("tenant", self.tenant.clone()),
            ("state", self.stands()),
            ("reason", self.reason.clone()),
            ("opens", opens.join("; ")),
            ("note", self.notes.join("; ")),
            (
                "requested",
                format!("{} by {}", time(self.requested_at), self.requested_by),
            ),
            ("granted", moment(self.granted_at)),
            ("expires", moment(self.expires_at)),
            ("ended", moment(self.ended_at)),
            ("next check", moment(self.recheck_at)),
            ("failing since", moment(self.failing_since)),
            ("quarantine", moment(self.quarantined_until)),
        ];
        // A line each: none of them looks like two.
        let names = std::iter::once("evidence").chain(std::iter::repeat(""));
        pairs.extend(names.zip(evidence));
        let closing = self.closing.as_ref().map_or(String::new(), ClosingView::words);
        pairs.push(("closing", closing));
        let mut text = facts(&pairs);
        let mut checks = Grid::new(&["CHECK", "RESULT", "DETAIL"]);
        for check in &self.checks {
            checks.row([check.name.clone(), check.result.to_string(), check.detail.clone()]);
        }
        if !checks.is_empty() {
            text.push('\n');
            text.push_str(&checks.text(width));
        }
        let mut history = Grid::new(&["AT", "STATE", "BY", "REASON"]);
        for transition in &self.history {
            history.row([
                time(transition.at),
                transition.state.to_string(),
                transition.by.clone(),
                transition.reason.clone(),
            ]);
        }
        text.push('\n');
        text.push_str(&history.text(width));
        text
    }
}

/// An unlock on a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UnlockLine(pub UnlockView);

impl View for UnlockLine {
    fn text(&self, _: Option<u16>) -> String {
        let unlock = &self.0;
        let line = format!(
            "{} {} {} {}: {}",
            unlock.id, unlock.endpoint, unlock.program, unlock.state, unlock.reason
        );
        format!("{}\n", plain(&line))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlocksView {
    /// The newest request first.
    pub unlocks: Vec<UnlockView>,
}

impl View for UnlocksView {
    fn text(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["ID", "ENDPOINT", "PROGRAM", "STATE", "EXPIRES", "REASON"]);
        for unlock in &self.unlocks {
            grid.row([
                unlock.id.clone(),
                unlock.endpoint.clone(),
                unlock.program.clone(),
                unlock.stands(),
                time(unlock.expires_at.unwrap_or(0)),
                unlock.reason.clone(),
            ]);
        }
        match grid.is_empty() {
            true => "no unlocks\n".to_string(),
            false => grid.text(width),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvidenceView {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// What a person is asked.
    pub prompt: String,
    /// Whether a request without it is refused.
    pub required: bool,
    /// Secret evidence is never shown again.
    pub secret: bool,
    /// What it must be, in words.
    pub constraint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramView {
    pub name: String,
    pub title: String,
    pub opens: Vec<RuleView>,
    /// What it asks for.
    pub evidence: Vec<EvidenceView>,
    pub checks: Vec<String>,
    /// Programs that must be active.
    pub needs: Vec<String>,
    /// What must be true.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub require: String,
    pub approval: String,
    /// Its lease when the request says nothing, in seconds.
    pub lease_default_seconds: u64,
    /// Its longest lease, in seconds.
    pub lease_max_seconds: u64,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How often checks are made again, in seconds; 0 for never.
    pub recheck_every_seconds: u64,
    /// Which of the endpoint's addresses are opened: checked or all.
    pub scope: String,
}

impl From<v1::ProgramDescription> for ProgramView {
    fn from(program: v1::ProgramDescription) -> Self {
        let evidence = |field: v1::EvidenceDescription| EvidenceView {
            name: field.name,
            kind: field.r#type,
            prompt: field.prompt,
            required: field.required,
            secret: field.secret,
            constraint: field.constraint,
        };
        ProgramView {
            name: program.name,
            title: program.title,
            opens: program.opens.into_iter().map(RuleView::from).collect(),
            evidence: program.evidence.into_iter().map(evidence).collect(),
            checks: program.checks,
            needs: program.needs,
            require: program.require,
            approval: program.approval,
            lease_default_seconds: program.lease_default_seconds,
            lease_max_seconds: program.lease_max_seconds,
            renewable: program.renewable,
            recheck_every_seconds: program.recheck_every_seconds,
            scope: program.scope,
        }
    }
}

impl ProgramView {
    fn opened(&self) -> String {
        self.opens
            .iter()
            .map(RuleView::opens)
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn whole(&self, width: Option<u16>) -> String {
        let renewable = if self.renewable { ", renewable" } else { "" };
        let lease = format!(
            "{}, at most {}{renewable}",
            span(self.lease_default_seconds),
            span(self.lease_max_seconds)
        );
        let scope = match (self.scope.as_str(), self.checks.is_empty()) {
            (_, true) => "",
            ("all", false) => "all addresses of the endpoint, also those that no check is about",
            (_, false) => "addresses of the endpoint that checks were about",
        };
        let mut text = facts(&[
            ("program", self.name.clone()),
            ("title", self.title.clone()),
            ("opens", self.opened()),
            ("needs", self.needs.join(", ")),
            ("requires", self.require.clone()),
            ("approval", self.approval.clone()),
            ("lease", lease),
            ("checked", self.checks.join("; ")),
            ("opens for", scope.to_string()),
            ("again every", span(self.recheck_every_seconds)),
        ]);
        let mut grid = Grid::new(&["EVIDENCE", "NEEDED", "WHAT", "PROMPT"]);
        for field in &self.evidence {
            let needed = if field.required { "yes" } else { "no" };
            let secret = if field.secret { ", secret" } else { "" };
            let what = format!("{}{secret}", field.constraint);
            grid.row([field.name.clone(), needed.to_string(), what, field.prompt.clone()]);
        }
        if !grid.is_empty() {
            text.push('\n');
            text.push_str(&grid.text(width));
        }
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramsView {
    pub programs: Vec<ProgramView>,
    /// One, with all that it asks for.
    #[serde(skip)]
    whole: bool,
}

impl ProgramsView {
    /// Of an answer; `whole` shows all that each asks for.
    pub fn new(programs: Vec<v1::ProgramDescription>, whole: bool) -> Self {
        ProgramsView {
            programs: programs.into_iter().map(ProgramView::from).collect(),
            whole,
        }
    }
}

impl View for ProgramsView {
    fn text(&self, width: Option<u16>) -> String {
        if self.whole {
            return self.programs.iter().map(|program| program.whole(width)).collect();
        }
        let mut grid = Grid::new(&["PROGRAM", "OPENS", "APPROVAL", "LEASE", "TITLE"]);
        for program in &self.programs {
            grid.row([
                program.name.clone(),
                program.opened(),
                program.approval.clone(),
                span(program.lease_default_seconds),
                program.title.clone(),
            ]);
        }
        match grid.is_empty() {
            true => "no programs\n".to_string(),
            false => grid.text(width),
        }
    }
}

/// A program that would open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WayView {
    pub program: ProgramView,
    /// What stands against a request now.
    pub obstacles: Vec<String>,
    /// An unlock under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlock: Option<UnlockView>,
}

/// Why a port is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyView {
    pub blocked: bool,
    /// The rule that decides.
    pub rule: String,
    pub reason: String,
    pub tier: String,
    pub explanation: String,
    /// What would open it.
    pub ways: Vec<WayView>,
}

impl From<v1::WhyBlockedResponse> for WhyView {
    fn from(answer: v1::WhyBlockedResponse) -> Self {
        let way = |way: v1::WayToOpen| WayView {
            program: way.program.unwrap_or_default().into(),
            obstacles: way.obstacles,
            unlock: way.unlock.map(UnlockView::from),
        };
        WhyView {
            blocked: answer.blocked,
            rule: answer.rule,
            reason: answer.reason,
            tier: answer.tier,
            explanation: answer.explanation,
            ways: answer.ways.into_iter().map(way).collect(),
        }
    }
}

impl View for WhyView {
    fn text(&self, width: Option<u16>) -> String {
        let mut text = format!("{}\n", self.explanation);
        for way in &self.ways {
            text.push('\n');
            text.push_str(&way.program.whole(width));
            for obstacle in &way.obstacles {
                text.push_str(&format!("not now: {obstacle}\n"));
            }
            if let Some(unlock) = &way.unlock {
                text.push_str(&format!(
                    "under way: {} is {}, {}\n",
                    unlock.id, unlock.state, unlock.reason
                ));
            }
        }
        text
    }
}

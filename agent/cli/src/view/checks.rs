//! View of `doctor`: what the settings and the state of each target cost policy traffic.

use portcullis_proto::v1;
use serde::Serialize;

use crate::table::Grid;
use crate::term::View;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// It costs neither safety nor speed.
    Ok,
    /// Packets may pass that the policy denies.
    Safety,
    /// Packets take longer than they need to.
    Speed,
    /// It could not be looked at.
    Unknown,
}

impl Found {
    fn text(self) -> &'static str {
        match self {
            Found::Ok => "ok",
            Found::Safety => "costs safety",
            Found::Speed => "costs speed",
            Found::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckView {
    pub target: String,
    /// What was looked at: `fail mode`, `flow limit`.
    pub check: String,
    pub result: Found,
    /// How it stands, and what follows from it; why it is unknown.
    pub what: String,
    /// The command or setting that changes it; empty where nothing is to be changed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChecksView {
    /// By target, in a fixed order.
    pub checks: Vec<CheckView>,
}

impl From<v1::ListTargetChecksResponse> for ChecksView {
    fn from(answer: v1::ListTargetChecksResponse) -> Self {
        let check = |c: v1::TargetCheck| CheckView {
            result: match c.result() {
                v1::TargetCheckResult::Fine => Found::Ok,
                v1::TargetCheckResult::CostsSafety => Found::Safety,
                v1::TargetCheckResult::CostsSpeed => Found::Speed,
                v1::TargetCheckResult::Unknown | v1::TargetCheckResult::Unspecified => Found::Unknown,
            },
            target: c.target,
            check: c.name,
            what: c.what,
            remedy: c.remedy,
        };
        ChecksView {
            checks: answer.checks.into_iter().map(check).collect(),
        }
    }
}

impl ChecksView {
    /// Whether packets may pass that the policy denies.
    pub fn costs_safety(&self) -> bool {
        self.checks.iter().any(|check| check.result == Found::Safety)
    }
}

impl View for ChecksView {
    fn text(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["TARGET", "CHECK", "RESULT", "HOW IT STANDS"]);
        for check in &self.checks {
            grid.row([
                check.target.clone(),
                check.check.clone(),
                check.result.text().to_string(),
                check.what.clone(),
            ]);
        }
        if grid.is_empty() {
            return "there is no target\n".to_string();
        }
        let mut text = grid.text(width);
        for check in self.checks.iter().filter(|check| !check.remedy.is_empty()) {
            text += &format!("\n{}, {}:\n  {}\n", check.target, check.check, check.remedy);
        }
        text
    }
}

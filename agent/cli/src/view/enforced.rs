//! View of what a partial point enforces of each rule.

use portcullis_compiler::Enforced;
use serde::Serialize;

use crate::table::Grid;

/// Packets that a rule denies and a partial point lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassingView {
    /// `plain`, `later-fragments`, `ip-options`, `extension-headers`, `sctp` or `not-ip`.
    pub kind: String,
    /// One of them, in words.
    pub example: String,
}

/// What a partial point enforces of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnforcedView {
    pub class: u32,
    /// What endpoints send, `egress`, or receive, `ingress`.
    pub direction: String,
    pub rule: String,
    /// `whole`, `part` or `none` of the packets that it denies.
    pub enforced: String,
    /// Packets that it denies and that pass here, by kind.
    pub passes: Vec<PassingView>,
    /// Why they pass; empty where none does.
    pub why: String,
}

impl EnforcedView {
    pub fn new(enforced: &Enforced) -> Self {
        let passes = enforced.passes.iter();
        EnforcedView {
            class: enforced.class.0,
            direction: enforced.direction.to_string(),
            rule: enforced.rule.clone(),
            enforced: enforced.extent.to_string(),
            passes: passes
                .map(|(kind, example)| PassingView {
                    kind: kind.name().to_string(),
                    example: example.clone(),
                })
                .collect(),
            why: enforced.why.clone(),
        }
    }

    /// A table of rules, and why packets pass, each reason once.
    pub fn text(all: &[Self], width: Option<u16>) -> String {
        if all.is_empty() {
            return String::new();
        }
        let mut grid = Grid::new(&["#CLASS", "RULE", "ENFORCED", "PASSES", "FOR EXAMPLE"]);
        for rule in all {
            let kinds: Vec<&str> = rule.passes.iter().map(|p| p.kind.as_str()).collect();
            grid.row([
                rule.class.to_string(),
                rule.rule.clone(),
                rule.enforced.clone(),
                kinds.join(", "),
                rule.passes.first().map(|p| p.example.clone()).unwrap_or_default(),
            ]);
        }
        let mut text = format!("\n{}", grid.text(width));
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for rule in all.iter().filter(|rule| !rule.why.is_empty()) {
            match reasons.iter_mut().find(|(why, _)| *why == rule.why) {
                None => reasons.push((&rule.why, vec![&rule.rule])),
                Some((_, rules)) if rules.contains(&rule.rule.as_str()) => {}
                Some((_, rules)) => rules.push(&rule.rule),
            }
        }
        for (why, rules) in reasons {
            text += &format!("{}: {why}\n", rules.join(", "));
        }
        text
    }
}

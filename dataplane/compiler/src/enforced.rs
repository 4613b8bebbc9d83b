//! What a partial point enforces of each rule, in words.

use std::collections::BTreeSet;

use portcullis_policy::{Decider, Direction, Family, Frame, Packet, Policy, Protocol};

use crate::class::ClassId;
use crate::class_rows::ClassRows;
use crate::compilation::Compilation;
use crate::model::PacketKind;
use crate::proof::{Coverage, Extent, RuleCoverage, example};

/// How much of one rule a partial point enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    /// The class whose policy it is.
    pub class: ClassId,
    /// Whether the policy is about what endpoints send or receive.
    pub direction: Direction,
    /// The rule, as `baseline/smtp`, or the default.
    pub rule: String,
    /// Every packet that it denies, some, or none.
    pub extent: Extent,
    /// The packets that pass although it denies them: of each kind one, in words.
    pub passes: Vec<(PacketKind, String)>,
    /// What the table lacks or the parser hides, so that they pass; empty where none does.
    pub why: String,
}

impl Compilation {
    /// What is enforced of each rule that denies something, where the policy stages are partial points.
    pub fn enforced(&self) -> Vec<Enforced> {
        let covered = self
            .compiled()
            .filter_map(|(id, c)| Some((*id, c, c.program.coverage.as_ref()?)));
        covered
            .flat_map(|(id, c, coverage)| of_class(id, &c.class.policy, &c.program, coverage))
            .collect()
    }
}

/// What the proved rows of a class enforce of each rule that denies something; nothing where they are not of a partial point.
pub fn of_rows(id: ClassId, policy: &Policy, rows: &ClassRows) -> Vec<Enforced> {
    let coverage = rows.coverage.as_deref();
    coverage.map_or_else(Vec::new, |coverage| of_class(id, policy, rows, coverage))
}

fn of_class(id: ClassId, policy: &Policy, rows: &ClassRows, coverage: &Coverage) -> Vec<Enforced> {
    let rules = coverage.rules.iter();
    rules
        .map(|(by, rule)| Enforced {
            class: id,
            direction: policy.direction,
            rule: policy.origin(*by),
            extent: rule.extent(),
            passes: rule
                .passes
                .iter()
                .map(|(kind, passing)| (*kind, example(&passing.packet, *kind)))
                .collect(),
            why: why(*by, rule, policy, rows),
        })
        .collect()
}

/// Why packets pass that a rule denies: what its own row lacks, what is written wider above it, what the parser hides.
fn why(by: Decider, rule: &RuleCoverage, policy: &Policy, rows: &ClassRows) -> String {
    if rule.passes.is_empty() {
        return String::new();
    }
    let lacks = |by: Decider| {
        rows.shortfalls
            .iter()
            .filter(move |s| s.by == by)
            .map(|s| s.why.as_str())
    };
    let mut reasons: BTreeSet<String> = lacks(by).map(str::to_string).collect();
    if let Some(passing) = rule.passes.get(&PacketKind::Plain) {
        let wider = passing
            .by
            .or_else(|| written_wider(by, &passing.packet, policy, rows));
        if let Some(wider) = wider.filter(|wider| *wider != by) {
            reasons.insert(format!(
                "{} stands above it and is written wider: {}",
                policy.origin(wider),
                lacks(wider).collect::<Vec<_>>().join("; ")
            ));
        }
    }
    let hidden = rule
        .passes
        .keys()
        .filter(|kind| PacketKind::OBSCURE.contains(kind));
    let hidden: Vec<String> = hidden.map(ToString::to_string).collect();
    if !hidden.is_empty() {
        reasons.insert(format!(
            "the parser may show other ports or another protocol for {}",
            hidden.join(", ")
        ));
    }
    if rule.passes.contains_key(&PacketKind::NotIp) {
        reasons
            .insert("frames that are no IP to the parser may carry IP that the policy lets pass".to_string());
    }
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

/// The first rule above another that is written wider and may let a packet pass: its row is left out where nothing below it denies.
fn written_wider(by: Decider, packet: &Packet, policy: &Policy, rows: &ClassRows) -> Option<Decider> {
    let Frame::Ip(ip) = &packet.frame else {
        return None;
    };
    let above = match by {
        Decider::Entry(index) => index as usize,
        _ => policy.entries.len(),
    };
    let entries = (0u32..).zip(policy.entries.iter().take(above));
    let differs = |index: u32| rows.shortfalls.iter().any(|s| s.by == Decider::Entry(index));
    let mut wider = entries.filter(|(index, e)| {
        let m = &e.matcher;
        e.action.passes()
            && differs(*index)
            && ip.protocol.is_some_and(|protocol| {
                m.protocol == Protocol::Any || m.protocol == Protocol::Number(protocol)
            })
            && m.families.contains(Family::from_address(ip.remote))
    });
    wider.next().map(|(index, _)| Decider::Entry(index))
}

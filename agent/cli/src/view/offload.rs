//! View of offload: which cached flows of each rule are carried out in hardware.

use portcullis_proto::v1;
use serde::Serialize;

use super::hits::UnavailableView;
use super::policy::direction;
use crate::table::Grid;
use crate::term::View;

/// How many flows, or packets of them, by what carries them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CarriedView {
    /// The NIC, in whole.
    pub hardware: u64,
    /// The NIC finds the flow, and software acts.
    pub partly: u64,
    /// The kernel's traffic control, in software.
    pub tc: u64,
    /// The switch itself, in software.
    pub software: u64,
}

impl CarriedView {
    fn total(self) -> u64 {
        self.hardware + self.partly + self.tc + self.software
    }
}

/// The cached flows of one rule for one class on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleOffloadView {
    pub target: String,
    /// Direction as seen from the endpoint: `egress` or `ingress`.
    pub direction: Option<&'static str>,
    pub rule: String,
    /// What the rows do to the packets: `allow` or `deny`.
    pub action: String,
    /// The class; 0 where the rule is about no class in particular.
    pub class: u32,
    /// Some of the endpoints that share the class.
    pub endpoints: Vec<String>,
    /// How many share it.
    pub endpoint_count: u32,
    /// Either `yes`, `partly`, `no`, or `not seen`: no flow of it is cached.
    pub offloaded: &'static str,
    pub flows: CarriedView,
    /// Packets that met those flows since they were cached.
    pub packets: CarriedView,
}

/// Flows of a target whose rules are not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownFlowsView {
    pub why: String,
    pub flows: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetOffloadView {
    pub target: String,
    /// Whether the switch is set to offload.
    pub is_on: bool,
    pub flows: CarriedView,
    pub unknown: Vec<UnknownFlowsView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffloadView {
    pub targets: Vec<TargetOffloadView>,
    /// In the agent's order.
    pub rules: Vec<RuleOffloadView>,
    /// Targets that have no flow cache, or could not be asked.
    pub unavailable: Vec<UnavailableView>,
}

fn carried(counts: Option<v1::Carried>) -> CarriedView {
    let counts = counts.unwrap_or_default();
    CarriedView {
        hardware: counts.hardware,
        partly: counts.partly,
        tc: counts.tc,
        software: counts.software,
    }
}

fn offloaded(flows: CarriedView) -> &'static str {
    match flows {
        flows if flows.total() == 0 => "not seen",
        flows if flows.hardware == flows.total() => "yes",
        flows if flows.hardware + flows.partly > 0 => "partly",
        _ => "no",
    }
}

impl From<v1::ListOffloadResponse> for OffloadView {
    fn from(answer: v1::ListOffloadResponse) -> Self {
        let unknown = |u: v1::UnknownFlows| UnknownFlowsView {
            why: u.why,
            flows: u.flows,
        };
        let target = |t: v1::TargetOffload| TargetOffloadView {
            target: t.target,
            is_on: t.is_on,
            flows: carried(t.flows),
            unknown: t.unknown.into_iter().map(unknown).collect(),
        };
        let rule = |r: v1::RuleOffload| RuleOffloadView {
            target: r.target,
            direction: direction(r.direction),
            rule: r.rule,
            action: r.action,
            class: r.class,
            endpoints: r.endpoints,
            endpoint_count: r.endpoint_count,
            offloaded: offloaded(carried(r.flows)),
            flows: carried(r.flows),
            packets: carried(r.packets),
        };
        OffloadView {
            targets: answer.targets.into_iter().map(target).collect(),
            rules: answer.rules.into_iter().map(rule).collect(),
            unavailable: answer
                .unavailable
                .into_iter()
                .map(UnavailableView::from)
                .collect(),
        }
    }
}

impl TargetOffloadView {
    /// What there is beside the rules.
    fn text(&self) -> String {
        let CarriedView {
            hardware,
            partly,
            tc,
            software,
        } = self.flows;
        let mut text = format!(
            "{}: {} cached flows: {hardware} in hardware, {partly} partly, {tc} in tc, {software} in the switch\n",
            self.target,
            self.flows.total(),
        );
        if !self.is_on {
            text += &format!(
                "{}: the switch is set not to offload. `ovs-vsctl set Open_vSwitch . other_config:hw-offload=true` and a restart of \
                 ovs-vswitchd change it\n",
                self.target
            );
        }
        for UnknownFlowsView { why, flows } in &self.unknown {
            text += &format!("{}: of {flows} flows no rule is known: {why}\n", self.target);
        }
        text
    }
}

impl View for OffloadView {
    fn text(&self, width: Option<u16>) -> String {
        let columns = [
            "TARGET",
            "DIRECTION",
            "RULE",
            "ACTION",
            "OFFLOADED",
            "#HARDWARE",
            "#PARTLY",
            "#TC",
            "#SOFTWARE",
            "#PACKETS",
            "#OF THEM IN HARDWARE",
            "#CLASS",
        ];
        let mut grid = Grid::new(&columns);
        for rule in &self.rules {
            let flows = rule.flows;
            let counts = [flows.hardware, flows.partly, flows.tc, flows.software];
            let [hardware, partly, tc, software] = counts.map(|n| n.to_string());
            grid.row([
                rule.target.clone(),
                rule.direction.unwrap_or_default().to_string(),
                rule.rule.clone(),
                rule.action.clone(),
                rule.offloaded.to_string(),
                hardware,
                partly,
                tc,
                software,
                rule.packets.total().to_string(),
                rule.packets.hardware.to_string(),
                match rule.class {
                    0 => String::new(),
                    class => class.to_string(),
                },
            ]);
        }
        let mut text = grid.text(width);
        for target in &self.targets {
            text += &target.text();
        }
        for UnavailableView { target, why } in &self.unavailable {
            text += &format!("{target}: {why}\n");
        }
        text
    }
}

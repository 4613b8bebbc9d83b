//! View of offload: what of each rule is carried out in hardware.

use portcullis_proto::v1;
use serde::Serialize;

use super::hits::UnavailableView;
use super::policy::direction;
use crate::table::Grid;
use crate::term::View;

/// How many flows, rules at ports, or packets of them, by what carries them out.
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

/// One rule for one class on one target.
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
    /// Why not all of it is in hardware, as far as that is known.
    pub why: Vec<String>,
    /// Whether hits of the rule include every packet that hardware drops of it.
    pub is_counted: bool,
}

/// How the NIC of a port of an embedded switch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicView {
    pub port: u32,
    pub driver: String,
    /// Why nothing is offloaded; empty where rules can be.
    pub off: String,
    /// What rules the NIC takes, in words.
    pub takes: String,
    pub installed: u64,
    pub wanted: u64,
    pub is_full: bool,
    /// What is wrong; empty where nothing is.
    pub fault: String,
    /// Since the switch started.
    pub created: u64,
    pub destroyed: u64,
    pub refused: u64,
    pub replaced: u64,
    pub resets: u64,
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
    /// What flows are: `cached flows`, or `ports` where a rule denies something.
    pub unit: &'static str,
    pub flows: CarriedView,
    pub unknown: Vec<UnknownFlowsView>,
    /// NICs of an embedded switch.
    pub nics: Vec<NicView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffloadView {
    pub targets: Vec<TargetOffloadView>,
    /// In the agent's order.
    pub rules: Vec<RuleOffloadView>,
    /// Targets that neither cache flows nor have NICs of their own, or could not be asked.
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

impl From<v1::NicOffload> for NicView {
    fn from(nic: v1::NicOffload) -> Self {
        NicView {
            port: nic.port,
            driver: nic.driver,
            off: nic.off,
            takes: nic.takes,
            installed: nic.installed,
            wanted: nic.wanted,
            is_full: nic.is_full,
            fault: nic.fault,
            created: nic.created,
            destroyed: nic.destroyed,
            refused: nic.refused,
            replaced: nic.replaced,
            resets: nic.resets,
        }
    }
}

impl NicView {
    fn text(&self, target: &str) -> String {
        let NicView {
            port,
            driver,
            installed,
            wanted,
            ..
        } = self;
        let head = format!("{target}: NIC of port {port} ({driver})");
        if !self.fault.is_empty() {
            return format!("{head}: FAULT: {}\n", self.fault);
        }
        if !self.off.is_empty() {
            return format!("{head}: nothing is offloaded: {}\n", self.off);
        }
        let full = if self.is_full {
            ", and has no room for more"
        } else {
            ""
        };
        format!(
            "{head}: has {installed} of {wanted} rules{full}; it takes {}\n",
            self.takes
        )
    }
}

impl From<v1::ListOffloadResponse> for OffloadView {
    fn from(answer: v1::ListOffloadResponse) -> Self {
        let unknown = |u: v1::UnknownFlows| UnknownFlowsView {
            why: u.why,
            flows: u.flows,
        };
        let target = |t: v1::TargetOffload| TargetOffloadView {
            unit: match t.unit() {
                v1::OffloadUnit::Ports => "ports",
                _ => "cached flows",
            },
            target: t.target,
            is_on: t.is_on,
            flows: carried(t.flows),
            unknown: t.unknown.into_iter().map(unknown).collect(),
            nics: t.nics.into_iter().map(NicView::from).collect(),
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
            why: r.why,
            is_counted: r.is_counted,
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

impl RuleOffloadView {
    /// Why not all of it is in hardware, and what its hits lack.
    fn why(&self) -> String {
        let uncounted = "hits lack what the NIC drops".to_string();
        let lack = (!self.is_counted).then_some(uncounted);
        let all: Vec<String> = self.why.iter().cloned().chain(lack).collect();
        all.join("; ")
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
        if self.unit == "ports" {
            let head = format!(
                "{}: of {} rules at ports, {hardware} are in hardware, {partly} partly, {software} in the switch alone\n",
                self.target,
                self.flows.total(),
            );
            let nics = self.nics.iter().map(|nic| nic.text(&self.target));
            return head + &nics.collect::<String>();
        }
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
            "WHY NOT",
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
                rule.why(),
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

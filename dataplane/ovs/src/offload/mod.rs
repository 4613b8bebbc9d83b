//! Which of the flows that the datapath has cached are carried out in hardware, by rule.
//!
//! ```text
//! `dpctl/dump-flows -m` ──megaflow──▶ a packet of each flow ──walk──▶ rows it meets ──query::by_rule──▶ rules
//! ```
//!
//! A cached flow looks at every bit that decided which rows its packets meet, so that one packet of it stands for all. Pure.

mod megaflow;
mod walk;

use std::collections::{BTreeSet, HashMap};

use portcullis_backend::{Carried, Hit, Offload, RuleOffload};
use portcullis_compiler::{CompileError, Intent, RowCache};
use portcullis_openflow::{Field, Instruction};

use crate::flow::FlowKey;
use crate::ports::{Ports, SwitchPort};
use crate::query::{Counted, by_rule};
use crate::tables::Pipeline;

use megaflow::{Carrier, Megaflow, Unread, parse};
use walk::{Tables, Walk};

/// Flows, then packets, each in the order of [`Carried`].
const COUNTS: usize = 8;
/// Ports of other bridges are not this target's.
const ELSEWHERE: &str = "they enter by a port that is not of this bridge: another bridge's, or a tunnel's";

const UNREADABLE: &str = "this agent cannot read all that they match";

/// The cached flows of one bridge and the rows that they come from.
pub(crate) struct Cached {
    offload: Offload,
    at: HashMap<FlowKey, Counted<COUNTS>>,
}

impl Cached {
    /// Reads a dump. `rows` are those that the switch has.
    pub(crate) fn new<'a>(
        dump: &str,
        rows: impl Iterator<Item = (FlowKey, &'a [Instruction])>,
        ports: &Ports,
        pipeline: &Pipeline,
    ) -> Self {
        let by_name = ports.ports.values().map(|port| (port.name.as_str(), port));
        let by_name: HashMap<&str, &SwitchPort> = by_name.collect();
        let tables = Tables::new(rows, pipeline);
        let mut cached = Cached {
            offload: Offload::default(),
            at: HashMap::new(),
        };
        // `other_config:vlan-limit` is 1, or Open vSwitch looks behind two.
        let tags = match ports.ports.values().any(|port| port.parses_one_tag) {
            true => 1,
            false => 2,
        };
        for flow in dump.lines().filter_map(|line| parse(line, tags)) {
            match flow {
                Ok(flow) => cached.add(flow, &tables, ports, &by_name),
                Err(why @ Unread::Recirculated) => cached.unknown(&why.to_string()),
                // Not the text itself: each flow may have another one.
                Err(Unread::Part(_)) => cached.unknown(UNREADABLE),
            }
        }
        cached
    }

    fn unknown(&mut self, why: &str) {
        *self.offload.unknown.entry(why.to_string()).or_default() += 1;
    }

    fn add(
        &mut self,
        mut flow: Megaflow,
        tables: &Tables<'_>,
        ports: &Ports,
        by_name: &HashMap<&str, &SwitchPort>,
    ) {
        let Some(from) = by_name.get(flow.in_port.as_str()) else {
            return self.unknown(ELSEWHERE);
        };
        flow.header.set(Field::InPort, u128::from(from.number));
        self.offload.flows += carried(flow.carrier, 1);
        let walk = tables.walk(flow.header);
        let sends = flow
            .actions
            .split(',')
            .filter_map(|name| by_name.get(name.trim()));
        let sends = sends.map(|port| port.number).collect();
        let drops = flow.actions == "drop";
        if let Some(why) = doubt(&walk, from.number, drops, &sends, ports) {
            return self.unknown(why);
        }
        let flows = list(carried(flow.carrier, 1));
        let packets = list(carried(flow.carrier, flow.packets));
        for (key, drops) in walk.rows {
            let counted = self.at.entry(key).or_insert(Counted {
                drops,
                counts: [0; COUNTS],
            });
            for (sum, count) in counted.counts.iter_mut().zip(flows.into_iter().chain(packets)) {
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// The answer, by rule.
    pub(crate) fn by_rule(
        self,
        is_on: bool,
        intent: &Intent,
        ports: &Ports,
        programs: &mut RowCache,
        pipeline: &Pipeline,
    ) -> Result<Offload, CompileError> {
        let rules = by_rule(&self.at, intent, ports, programs, pipeline)?;
        let rule = |(hit, counts): (Hit, [u64; COUNTS])| {
            let [hardware, partly, tc, software, packets @ ..] = counts;
            let [in_hardware, in_part, in_tc, in_software] = packets;
            RuleOffload {
                rule: Hit {
                    packets: packets
                        .iter()
                        .fold(0, |sum: u64, count| sum.saturating_add(*count)),
                    ..hit
                },
                flows: Carried {
                    hardware,
                    partly,
                    tc,
                    software,
                },
                packets: Carried {
                    hardware: in_hardware,
                    partly: in_part,
                    tc: in_tc,
                    software: in_software,
                },
                why: BTreeSet::new(),
                is_counted: true,
            }
        };
        Ok(Offload {
            is_on,
            rules: rules.into_iter().map(rule).collect(),
            ..self.offload
        })
    }
}

fn carried(carrier: Carrier, count: u64) -> Carried {
    let mut carried = Carried::default();
    match carrier {
        Carrier::Hardware => carried.hardware = count,
        Carrier::Partly => carried.partly = count,
        Carrier::TrafficControl => carried.tc = count,
        Carrier::Software => carried.software = count,
    }
    carried
}

fn list(carried: Carried) -> [u64; 4] {
    [carried.hardware, carried.partly, carried.tc, carried.software]
}

/// Why the rows that a packet meets here may not be those that the flow was made from, which sends it by the ports `sends`.
fn doubt(walk: &Walk, from: u32, drops: bool, sends: &BTreeSet<u32>, ports: &Ports) -> Option<&'static str> {
    // The switch sends nothing back by the port that it came from.
    let outputs: BTreeSet<u32> = walk
        .outputs
        .iter()
        .copied()
        .filter(|port| *port != from)
        .collect();
    // Behind an uplink may be another bridge, and what that does is in the flow.
    let is_managed = |number: &u32| {
        ports
            .ports
            .get(number)
            .is_some_and(|port| port.policed().is_some())
    };
    let is_elsewhere = match outputs.iter().all(is_managed) {
        true => outputs != *sends || outputs.is_empty() != drops,
        false => !sends.is_subset(&outputs),
    };
    if !walk.whole {
        Some("they go on in tables of others, or by the bridge's own forwarding (NORMAL)")
    } else if is_elsewhere {
        Some(
            "their rows do something else: rows changed since they were cached, a port is down, a mirror copies them, or they come from a \
             packet whose headers were cut short",
        )
    } else {
        None
    }
}

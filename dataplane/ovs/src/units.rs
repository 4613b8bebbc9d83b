//! Everything the bridge shall hold, in units that are made and dropped together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use portcullis_backend::machine::{Desired, Unit};
use portcullis_compiler::{Class, ClassId, CompileError, Fingerprint, Intent, Program, Programs};
use portcullis_openflow::Match;
use portcullis_policy::Direction;

use crate::config::UnknownPorts;
use crate::flow::{Flow, FlowBody, FlowKey, Writer};
use crate::ports::{Ports, Role, SwitchPort};
use crate::tables::flood::Receivers;
use crate::tables::{Pipeline, Table, attach, deliver, frame, guard, l2, output, policy, remote};

/// A unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitId {
    /// The rows of every table that never change.
    Frame,
    /// The rows that hold for every class.
    Fixed,
    /// Ports that nobody knows yet.
    Unknown,
    /// One class.
    Class(ClassId),
    /// One port.
    Port(u32),
    /// Receivers of a VLAN, one part of them.
    Flood(u16, u32),
}

/// Builds units, and takes over those whose input did not change.
#[derive(Debug)]
pub struct Units {
    pipeline: Pipeline,
    unknown_ports: UnknownPorts,
    ports: HashMap<u32, (SwitchPort, Unit<FlowKey, FlowBody>)>,
    /// A class edited in place keeps its id and has another fingerprint.
    classes: HashMap<ClassId, (Fingerprint, Unit<FlowKey, FlowBody>)>,
    steady: Option<[Unit<FlowKey, FlowBody>; 2]>,
    unknown: Option<(ClassId, Unit<FlowKey, FlowBody>)>,
    flood: Option<(Receivers, FloodUnits)>,
}

type FloodUnits = Vec<((u16, u32), Unit<FlowKey, FlowBody>)>;

impl Units {
    /// For a pipeline; ports that nobody knows yet are unmanaged.
    pub fn new(pipeline: Pipeline) -> Self {
        Self::with(pipeline, UnknownPorts::Unmanaged)
    }

    /// For a pipeline, and what ports may send that nobody knows yet.
    pub fn with(pipeline: Pipeline, unknown_ports: UnknownPorts) -> Self {
        Units {
            pipeline,
            unknown_ports,
            ports: HashMap::new(),
            classes: HashMap::new(),
            steady: None,
            unknown: None,
            flood: None,
        }
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The desired state of the bridge.
    pub fn build(
        &mut self,
        intent: &Intent,
        ports: &Ports,
        programs: &mut Programs,
    ) -> Result<Desired<UnitId, FlowKey, FlowBody>, CompileError> {
        let writer = Writer {
            generation: intent.generation,
        };
        let mut desired = Desired::new();
        let mut used: BTreeMap<ClassId, &Arc<Class>> = BTreeMap::new();
        let policed = ports.ports.values().filter_map(SwitchPort::policed);
        for id in policed
            .flat_map(|p| Direction::BOTH.into_iter().flat_map(|d| p.stack(d)))
            .map(|rung| rung.class)
            .chain([intent.unmanaged.0])
        {
            if let Some(class) = intent.classes.get(&id) {
                used.insert(id, class);
            }
        }
        let [frame, fixed] = self.steady(programs, &writer)?;
        desired.insert(UnitId::Frame, frame);
        desired.insert(UnitId::Fixed, fixed);
        desired.insert(UnitId::Unknown, self.unknown(intent.unmanaged.0, &writer));
        self.classes.retain(|id, _| used.contains_key(id));
        for (id, class) in used {
            let unit = match self.classes.get(&id) {
                Some((fingerprint, unit)) if *fingerprint == class.fingerprint => Arc::clone(unit),
                _ => {
                    let rows = class_rows(class, &*programs.get(class)?, &self.pipeline, &writer)?;
                    let unit = Arc::new(rows);
                    self.classes.insert(id, (class.fingerprint, Arc::clone(&unit)));
                    unit
                }
            };
            desired.insert(UnitId::Class(id), unit);
        }
        self.ports.retain(|number, _| ports.ports.contains_key(number));
        for port in ports.ports.values() {
            desired.insert(UnitId::Port(port.number), self.port(port, &writer));
        }
        for (id, unit) in self.flood(ports, &writer) {
            desired.insert(UnitId::Flood(id.0, id.1), unit);
        }
        Ok(desired)
    }

    fn steady(
        &mut self,
        programs: &Programs,
        writer: &Writer,
    ) -> Result<[Unit<FlowKey, FlowBody>; 2], CompileError> {
        if let Some(known) = &self.steady {
            return Ok(known.clone());
        }
        let pipeline = self.pipeline;
        let fixed = Direction::BOTH.iter().flat_map(|direction| {
            let rows = programs.fixed().iter();
            rows.map(|row| policy::row(None, *direction, row, &pipeline, writer))
        });
        let fixed: Vec<Flow> = fixed.collect::<Result<_, _>>()?;
        let made = [Arc::new(frame(&pipeline, writer)), Arc::new(fixed)];
        self.steady = Some(made.clone());
        Ok(made)
    }

    fn unknown(&mut self, egress: ClassId, writer: &Writer) -> Unit<FlowKey, FlowBody> {
        match &self.unknown {
            Some((class, unit)) if *class == egress => Arc::clone(unit),
            _ => {
                let unit = Arc::new(match self.unknown_ports {
                    UnknownPorts::Unmanaged => attach::unknown(egress, &self.pipeline, writer),
                    UnknownPorts::Drop => {
                        vec![writer.drop(Table::Attach, attach::UNKNOWN, Match::new())]
                    }
                });
                self.unknown = Some((egress, Arc::clone(&unit)));
                unit
            }
        }
    }

    fn port(&mut self, port: &SwitchPort, writer: &Writer) -> Unit<FlowKey, FlowBody> {
        if let Some((before, unit)) = self.ports.get(&port.number)
            && before == port
        {
            return Arc::clone(unit);
        }
        let unit = Arc::new(port_rows(port, &self.pipeline, writer));
        self.ports.insert(port.number, (port.clone(), Arc::clone(&unit)));
        unit
    }

    fn flood(&mut self, ports: &Ports, writer: &Writer) -> FloodUnits {
        let receivers = Receivers::of(ports.ports.values().filter(|p| p.policed().is_some()));
        if let Some((before, units)) = &self.flood
            && *before == receivers
        {
            return units.clone();
        }
        let rows = receivers.rows(&self.pipeline, writer);
        let units: FloodUnits = rows
            .into_iter()
            .map(|(id, row)| (id, Arc::new(vec![row])))
            .collect();
        self.flood = Some((receivers, units.clone()));
        units
    }
}

/// The rows of one class.
fn class_rows(
    class: &Class,
    program: &Program,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Result<Vec<Flow>, policy::Unmatchable> {
    let direction = class.policy.direction;
    let remotes = program
        .remote
        .iter()
        .map(|r| Ok(remote::row(class.id, direction, r, pipeline, writer)));
    let policies = program
        .policy
        .iter()
        .map(|r| policy::row(Some(class.id), direction, r, pipeline, writer));
    remotes.chain(policies).collect()
}

/// The rows of one port.
fn port_rows(port: &SwitchPort, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let mut rows = attach::rows(port, pipeline, writer);
    if let Role::Policed(policed) = &port.role {
        if policed.guarded() {
            rows.extend(guard::rows(port, policed, pipeline, writer));
        }
        rows.extend(policed.macs.iter().map(|mac| l2::row(*mac, port.number, writer)));
        let stack = policed.stack(Direction::Ingress).into_iter();
        rows.extend(stack.map(|rung| deliver::row(port.number, rung, pipeline, writer)));
        rows.extend(output::rows(port, writer));
    }
    rows
}

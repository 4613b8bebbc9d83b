//! Desired rows of the bridge, in units that are added and removed together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_backend::Overlays;
use portcullis_backend::machine::{Desired, Unit};
use portcullis_compiler::row::Owner;
use portcullis_compiler::{Class, ClassId, ClassRows, CompileError, Fingerprint, Intent, RowCache};
use portcullis_policy::{Direction, MacAddr};

use crate::flow::{Flow, FlowBody, FlowKey, Writer};
use crate::ports::{Ports, Role, SwitchPort};
use crate::tables::flood::Receivers;
use crate::tables::{
    Exit, Forwarding, Pipeline, attach, deliver, frame, guard, l2, learn, output, policy, remote,
};

/// A part of the rows that is compiled and replaced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitId {
    /// The rows of every table that never change.
    Frame,
    /// The rows that hold for every class.
    Fixed,
    /// MACs that are not learned as others are: those that no endpoint may claim here, and shared ones.
    Withheld,
    /// The policy rows of one class.
    Class(ClassId),
    /// The dispatch rows of one port.
    Port(u32),
    /// Receivers of a VLAN, one part of them.
    Flood(u16, u32),
}

/// Builds units, and takes over those whose input did not change.
#[derive(Debug)]
pub struct Units {
    pipeline: Pipeline,
    ports: HashMap<u32, (SwitchPort, Overlays, Rows)>,
    /// A class edited in place keeps its id and has another fingerprint.
    classes: HashMap<ClassId, (Fingerprint, Rows)>,
    steady: Option<[Rows; 2]>,
    withheld: Option<([Arc<BTreeSet<MacAddr>>; 2], Rows)>,
    /// What the units kept here were built for.
    forwarding: Forwarding,
    flood: Option<(Receivers, FloodUnits)>,
}

type Rows = Unit<FlowKey, FlowBody>;
type FloodUnits = Vec<((u16, u32), Rows)>;

impl Units {
    /// Nothing is built until the first intent.
    pub fn new(pipeline: Pipeline) -> Self {
        Units {
            pipeline,
            ports: HashMap::new(),
            classes: HashMap::new(),
            steady: None,
            withheld: None,
            forwarding: Forwarding::default(),
            flood: None,
        }
    }

    /// The pipeline that units are built for.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The desired state of the bridge.
    pub fn build(
        &mut self,
        intent: &Intent,
        ports: &Ports,
        programs: &mut RowCache,
    ) -> Result<Desired<UnitId, FlowKey, FlowBody>, CompileError> {
        let writer = Writer {
            generation: intent.generation,
        };
        let mut desired = Desired::new();
        let led_to_now: BTreeSet<ClassId> = ports.ports.values().flat_map(led_to).collect();
        let overlays = Overlays::among(led_to_now.iter().copied(), intent, programs)?;
        let bases = led_to_now.iter().filter_map(|id| overlays.below(*id));
        let used: BTreeMap<ClassId, &Arc<Class>> = led_to_now
            .iter()
            .copied()
            .chain(bases)
            .filter_map(|id| Some((id, intent.classes.get(&id)?)))
            .collect();
        self.forward(ports.forwarding);
        let [frame, fixed] = self.steady(programs, &writer)?;
        desired.insert(UnitId::Frame, frame);
        desired.insert(UnitId::Fixed, fixed);
        desired.insert(UnitId::Withheld, self.withheld(ports, &writer));
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
            let overlays = overlays.of(led_to(port));
            desired.insert(UnitId::Port(port.number), self.port(port, overlays, &writer));
        }
        for (id, unit) in self.flood(ports, &writer) {
            desired.insert(UnitId::Flood(id.0, id.1), unit);
        }
        Ok(desired)
    }

    fn steady(&mut self, programs: &RowCache, writer: &Writer) -> Result<[Rows; 2], CompileError> {
        if let Some(known) = &self.steady {
            return Ok(known.clone());
        }
        let (pipeline, forwarding) = (self.pipeline, self.forwarding);
        let fixed = Direction::BOTH.iter().flat_map(|direction| {
            let rows = programs.fixed().iter();
            rows.map(|row| policy::row(Owner::Every, *direction, row, &pipeline, writer))
        });
        let fixed: Vec<Flow> = fixed.collect::<Result<_, _>>()?;
        let made = [Arc::new(frame(forwarding, &pipeline, writer)), Arc::new(fixed)];
        self.steady = Some(made.clone());
        Ok(made)
    }

    /// Nothing is taken over when the bridge forwards in another way.
    fn forward(&mut self, forwarding: Forwarding) {
        if self.forwarding != forwarding {
            self.forwarding = forwarding;
            self.steady = None;
            self.flood = None;
            self.ports.clear();
        }
    }

    fn withheld(&mut self, ports: &Ports, writer: &Writer) -> Rows {
        let now = [&ports.withheld, &ports.shared];
        if let Some((before, unit)) = &self.withheld
            && before.iter().eq(now)
        {
            return Arc::clone(unit);
        }
        let withheld = ports.withheld.iter().map(|mac| learn::withheld(*mac, writer));
        let shared = ports.shared.iter();
        let shared = shared.map(|mac| learn::shared(*mac, &self.pipeline, writer));
        let unit = Arc::new(withheld.chain(shared).collect::<Vec<Flow>>());
        self.withheld = Some((now.map(Arc::clone), Arc::clone(&unit)));
        unit
    }

    fn port(&mut self, port: &SwitchPort, overlays: Overlays, writer: &Writer) -> Rows {
        if let Some((before, stood_on, unit)) = self.ports.get(&port.number)
            && (before, stood_on) == (port, &overlays)
        {
            return Arc::clone(unit);
        }
        let unit = Arc::new(port_rows(
            port,
            &overlays,
            self.forwarding,
            &self.pipeline,
            writer,
        ));
        self.ports
            .insert(port.number, (port.clone(), overlays, Arc::clone(&unit)));
        unit
    }

    fn flood(&mut self, ports: &Ports, writer: &Writer) -> FloodUnits {
        let receivers = Receivers::new(ports.ports.values(), self.forwarding.exit);
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
    program: &ClassRows,
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
        .map(|r| policy::row(Owner::new(class.id, program), direction, r, pipeline, writer));
    remotes.chain(policies).collect()
}

/// The classes that rows of a port lead to, now or when unlocks end.
fn led_to(port: &SwitchPort) -> impl Iterator<Item = ClassId> + '_ {
    let policed = port.policed().into_iter();
    let chains = policed.flat_map(|p| Direction::BOTH.into_iter().flat_map(|d| p.expiry_chain(d)));
    chains.map(|timed_row| timed_row.class)
}

/// The rows of one port.
fn port_rows(
    port: &SwitchPort,
    overlays: &Overlays,
    forwarding: Forwarding,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Vec<Flow> {
    let mut rows = attach::rows(port, overlays, forwarding, pipeline, writer);
    rows.extend(port.macs().iter().flat_map(|mac| l2::rows(*mac, port, writer)));
    match &port.role {
        Role::ManagedPort(policed) => {
            rows.extend(guard::rows(port, policed, pipeline, writer));
            rows.extend(learn::rows(port, policed, forwarding, pipeline, writer));
            let stack = policed.expiry_chain(Direction::Ingress).into_iter();
            rows.extend(
                stack.map(|timed_row| deliver::row(port.number, timed_row, overlays, pipeline, writer)),
            );
            rows.extend(output::rows(port, pipeline, writer));
        }
        Role::Uplink => {
            rows.extend(learn::uplink(port, pipeline, writer));
            rows.push(deliver::uplink(port.number, forwarding.exit, pipeline, writer));
            if forwarding.exit == Exit::Uplinks {
                rows.extend(output::rows(port, pipeline, writer));
            }
        }
    }
    rows
}

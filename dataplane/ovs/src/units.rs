//! Desired rows of the bridge, in units that are added and removed together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
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
    ports: HashMap<u32, (SwitchPort, Overlays, Part)>,
    /// A class edited in place keeps its id and has another fingerprint.
    classes: HashMap<ClassId, (Fingerprint, Part)>,
    steady: Option<[Part; 2]>,
    withheld: Option<([Arc<BTreeSet<MacAddr>>; 2], Part)>,
    /// What the units kept here were built for.
    forwarding: Forwarding,
    flood: Option<(Receivers, FloodUnits)>,
    built: Option<Built>,
}

/// What was built last.
#[derive(Debug, Default)]
struct Built {
    rows: Rows,
    /// The classes of its intent.
    classes: OrdMap<ClassId, Arc<Class>>,
    /// How many rows lead to each class, and how many overlays stand on it.
    uses: BTreeMap<ClassId, usize>,
    /// The overlays among them.
    overlays: Overlays,
}

impl Built {
    /// Makes its classes those of an intent. Returns those that are gone, to which no row may lead after the update; `None` when
    /// one in use is another than it was.
    fn follow(&mut self, intent: &Intent) -> Option<Vec<ClassId>> {
        let mut gone = Vec::new();
        for item in self.classes.diff(&intent.classes) {
            match item {
                DiffItem::Update { old, new } if self.uses.contains_key(old.0) => {
                    let below = |class: &Class| class.base.as_ref().map(|base| base.id);
                    let same = old.1.fingerprint == new.1.fingerprint && below(old.1) == below(new.1);
                    same.then_some(())?;
                }
                DiffItem::Remove(id, _) => gone.push(*id),
                DiffItem::Add(..) | DiffItem::Update { .. } => {}
            }
        }
        self.classes = intent.classes.clone();
        Some(gone)
    }
}

type Part = Unit<FlowKey, FlowBody>;
type Rows = Desired<UnitId, FlowKey, FlowBody>;
type FloodUnits = Vec<((u16, u32), Part)>;

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
            built: None,
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
    ) -> Result<Rows, CompileError> {
        let writer = Writer {
            generation: intent.generation,
        };
        self.forward(ports.forwarding);
        let [frame, fixed] = self.steady(programs, &writer)?;
        let withheld = self.withheld(ports, &writer);
        let mut built = Built {
            rows: Rows::from_iter([
                (UnitId::Frame, frame),
                (UnitId::Fixed, fixed),
                (UnitId::Withheld, withheld),
            ]),
            classes: intent.classes.clone(),
            ..Built::default()
        };
        for (id, unit) in self.flood(ports, &writer) {
            built.rows.insert(UnitId::Flood(id.0, id.1), unit);
        }
        for class in ports.ports.values().flat_map(led_to) {
            self.lead_to(&mut built, class, programs, &writer)?;
        }
        self.classes.retain(|id, _| built.uses.contains_key(id));
        self.ports.retain(|number, _| ports.ports.contains_key(number));
        for port in ports.ports.values() {
            self.port(&mut built, port, &writer);
        }
        let rows = built.rows.clone();
        self.built = Some(built);
        Ok(rows)
    }

    /// The same, where nothing changed since the last time but the classes of these ports, and classes are what they were.
    pub fn update(
        &mut self,
        intent: &Intent,
        ports: &Ports,
        changed: &BTreeSet<u32>,
        programs: &mut RowCache,
    ) -> Result<Rows, CompileError> {
        let mut built = self.built.take().unwrap_or_default();
        let followed = built.follow(intent).filter(|_| !built.rows.is_empty());
        let Some(gone) = followed else {
            return self.build(intent, ports, programs);
        };
        let writer = Writer {
            generation: intent.generation,
        };
        let changed: Vec<&SwitchPort> = changed.iter().filter_map(|n| ports.ports.get(n)).collect();
        let before = changed.iter().filter_map(|port| self.ports.get(&port.number));
        let before: Vec<ClassId> = before.flat_map(|(port, ..)| led_to(port)).collect();
        for class in changed.iter().copied().flat_map(led_to) {
            self.lead_to(&mut built, class, programs, &writer)?;
        }
        for class in before {
            self.leave(&mut built, class);
        }
        if gone.iter().any(|id| built.uses.contains_key(id)) {
            return self.build(intent, ports, programs);
        }
        for port in changed {
            self.port(&mut built, port, &writer);
        }
        let rows = built.rows.clone();
        self.built = Some(built);
        Ok(rows)
    }

    /// A row leads to a class, or an overlay stands on it: its rows are there, and those of the class below.
    fn lead_to(
        &mut self,
        built: &mut Built,
        id: ClassId,
        programs: &mut RowCache,
        writer: &Writer,
    ) -> Result<(), CompileError> {
        let uses = built.uses.entry(id).or_default();
        *uses += 1;
        if *uses > 1 {
            return Ok(());
        }
        let Some(class) = built.classes.get(&id).cloned() else {
            return Ok(());
        };
        let program = programs.get(&class)?;
        let unit = match self.classes.get(&id) {
            Some((fingerprint, unit)) if *fingerprint == class.fingerprint => Arc::clone(unit),
            _ => {
                let unit = Arc::new(class_rows(&class, &program, &self.pipeline, writer)?);
                self.classes.insert(id, (class.fingerprint, Arc::clone(&unit)));
                unit
            }
        };
        built.rows.insert(UnitId::Class(id), unit);
        built.overlays.note(&class, &program);
        match built.overlays.below(id) {
            Some(base) => self.lead_to(built, base, programs, writer),
            None => Ok(()),
        }
    }

    /// A row does not lead to a class any more.
    fn leave(&mut self, built: &mut Built, id: ClassId) {
        let Some(uses) = built.uses.get_mut(&id) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        built.uses.remove(&id);
        built.rows.remove(&UnitId::Class(id));
        self.classes.remove(&id);
        let below = built.overlays.below(id);
        built.overlays.forget(id);
        if let Some(base) = below {
            self.leave(built, base);
        }
    }

    fn steady(&mut self, programs: &RowCache, writer: &Writer) -> Result<[Part; 2], CompileError> {
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

    fn withheld(&mut self, ports: &Ports, writer: &Writer) -> Part {
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

    /// Sets the rows of a port whose classes are led to.
    fn port(&mut self, built: &mut Built, port: &SwitchPort, writer: &Writer) {
        let overlays = built.overlays.of(led_to(port));
        let unit = match self.ports.get(&port.number) {
            Some((before, stood_on, unit)) if (before, stood_on) == (port, &overlays) => Arc::clone(unit),
            _ => {
                let rows = port_rows(port, &overlays, self.forwarding, &self.pipeline, writer);
                let unit = Arc::new(rows);
                let known = (port.clone(), overlays, Arc::clone(&unit));
                self.ports.insert(port.number, known);
                unit
            }
        };
        built.rows.insert(UnitId::Port(port.number), unit);
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

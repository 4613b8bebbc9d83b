//! Desired rows of a device, in units that are added and removed together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_backend::delta::Key;
use portcullis_backend::machine::{Desired, Unit};
use portcullis_backend::{OutOfNumbers, Overlays};
use portcullis_compiler::compilation::{Compilation, Demand, Found, Left, Part, Refusal, Step};
use portcullis_compiler::model::{Field, Role};
use portcullis_compiler::{
    Attribution, Class, ClassId, CompileError, EndpointIntent, Fingerprint, Intent, RowCache, StageModel,
    Unsupported,
};
use portcullis_policy::{Decider, Direction, Name};

use crate::attachment_points::{At, AttachmentPoint, AttachmentPoints};
use crate::device::{Device, Inexpressible};
use crate::entry::{Does, End, Row, RowKey};
use crate::limits;
use crate::own;

mod recovered;
mod scope;
use recovered::{Seen, recovered};
pub(crate) use scope::is_tagged;
use scope::{here, named_ports, unmanaged_ports};

/// A part of the rows that is compiled and replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitId {
    /// The rows that hold for every class, and those of tables without classes.
    Shared,
    /// The rows of one class.
    Class(ClassId),
    /// One port or VLAN of it.
    AttachmentPoint(At),
    /// All multicast groups of the device.
    Groups,
}

/// Why there are no rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The compiler has no rows for the policy on this target.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A table is too small.
    #[error("a table of {target} is too small: {refusal}; the old rows stay")]
    Full {
        /// The numbers, and what would make it fit.
        refusal: Box<Refusal>,
        /// Name of the target.
        target: String,
    },
    /// The class key is too narrow.
    #[error("the class key of {target} is too narrow: {lack}; the old rows stay")]
    Numbers {
        /// Class ids needed, and those there are.
        lack: OutOfNumbers,
        /// Name of the target.
        target: String,
    },
    /// The program has no words for a row.
    #[error("the P4 program cannot hold a row: {0}")]
    Inexpressible(#[from] Inexpressible),
}

impl BuildError {
    /// As a target tells what it cannot do.
    pub fn unsupported(&self, target: &str) -> Option<Unsupported> {
        let (rule, table) = match self {
            BuildError::Compile(CompileError::Unsupported(value)) => return Some(value.clone()),
            BuildError::Compile(_) => return None,
            BuildError::Full { refusal, .. } => ("the policy as a whole", refusal.table.clone()),
            BuildError::Numbers { .. } => ("the policy as a whole", "class".to_string()),
            BuildError::Inexpressible(lack) => ("the policy as a whole", lack.table.clone()),
        };
        Some(Unsupported {
            target: target.to_string(),
            rule: rule.to_string(),
            table,
            why: self.to_string(),
        })
    }
}

/// A row, and what a hit on it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributed {
    /// Whether it decides for what endpoints send or receive.
    pub direction: Direction,
    /// The class it decides for.
    pub class: Option<ClassId>,
    /// Path of the rule, for example `profiles/web/http`.
    pub rule: String,
    /// What decided, in the policy of the class.
    pub decider: Option<Decider>,
    /// Either `allow` or `deny`.
    pub action: String,
}

/// What an intent comes to on a device.
#[derive(Debug)]
pub struct Built {
    /// Desired rows by unit.
    pub desired: Desired<UnitId, RowKey, Does>,
    /// What the target cannot do.
    pub unsupported: Vec<Unsupported>,
    /// Steps taken because a table was too small.
    pub steps: Vec<Step>,
    /// What classes leave to nearer targets.
    pub left: BTreeMap<ClassId, Left>,
    /// The same by rule, each with its name for people.
    left_rules: BTreeMap<limits::LeftRule, String>,
    /// What hits on rows of the policy stages tell.
    pub hits: Attributions,
    /// The classes that are written as overlays.
    pub overlays: Overlays,
}

impl Built {
    /// The classes that have rows, or leave all that they deny.
    fn placed(&self) -> BTreeSet<ClassId> {
        let hits = self.hits.classes.values().chain([&self.hits.shared]);
        let held = hits.flat_map(|hits| hits.values().filter_map(|hit| hit.class));
        held.chain(self.left.keys().copied()).collect()
    }

    /// Rules that are left to nearer targets by this and not by another, as plans name them: those that are there `after` the change.
    pub(crate) fn leaves_more_than(
        &self,
        other: Option<&Built>,
        after: &Built,
        intent: &Intent,
    ) -> Vec<String> {
        let placed = after.placed();
        let classes: Vec<&Arc<Class>> = intent
            .classes
            .values()
            .filter(|c| placed.contains(&c.id))
            .collect();
        let is_there = |(direction, rule, whose): &limits::LeftRule| {
            let mut here = classes
                .iter()
                .filter(|class| class.policy.direction == *direction);
            here.any(|class| match whose {
                Some(id) => class.id == *id && class.policy.default.denies(),
                None => {
                    let leaves = self
                        .left
                        .get(&class.id)
                        .is_some_and(|left| left.rules.contains(rule));
                    let mut denials = class.policy.entries.iter().filter(|entry| entry.action.denies());
                    leaves && denials.any(|entry| *entry.origin == **rule)
                }
            })
        };
        let is_new = |rule: &limits::LeftRule| other.is_none_or(|other| !other.left_rules.contains_key(rule));
        let rules = self.left_rules.iter();
        rules
            .filter(|(rule, _)| is_new(rule) && is_there(rule))
            .map(|((direction, ..), name)| format!("{direction} {name}"))
            .collect()
    }

    /// A class as the rows enforce it for an endpoint: without what it leaves to nearer targets. `None` where nothing remains.
    pub(crate) fn held<'i>(
        &'i self,
        class: &'i Arc<Class>,
        endpoint: &Name,
        points: &AttachmentPoints,
    ) -> Option<&'i Arc<Class>> {
        let is_behind = points.policed_behind.contains(endpoint);
        match self.left.get(&class.id).filter(|_| is_behind) {
            Some(left) => left.held.as_ref(),
            None => Some(class),
        }
    }
}

/// What hits on rows tell.
type Hits = HashMap<RowKey, Attributed>;

/// What hits on all rows tell. Those of a class are shared with the builder: a change costs what it changes.
#[derive(Debug, Clone, Default)]
pub struct Attributions {
    classes: HashMap<u32, Arc<Hits>>,
    shared: Arc<Hits>,
}

impl Attributions {
    /// What a hit on a row tells; nothing for rows of stages that decide nothing.
    pub fn get(&self, key: &RowKey) -> Option<&Attributed> {
        let of_class = key.class().and_then(|class| self.classes.get(&class)?.get(key));
        of_class.or_else(|| self.shared.get(key))
    }
}

/// A class as it was built: by what, from which whole policy, how it was merged.
type Made = (Source, Unit<RowKey, Does>, Arc<Hits>);

type Source = (Fingerprint, Option<Fingerprint>, bool);

fn source(compilation: &Compilation, id: &ClassId) -> Source {
    let compiled = &compilation.classes[id];
    let whole = compilation.left.get(id).map(|left| left.class.fingerprint);
    (compiled.class.fingerprint, whole, compiled.program.merged)
}

/// Builds units, and takes over those whose input did not change.
#[derive(Debug, Default)]
pub struct Units {
    /// Whether the server keeps the ends that rows carry.
    keeps_ends: bool,
    /// Rows of others in each table, by its name.
    taken: BTreeMap<String, u64>,
    /// What was left to nearer targets by the last build.
    left: BTreeSet<Part>,
    /// How many packets rules deny, under the device's class numbers.
    demand: Demand,
    /// Rows that an earlier run of the agent left, from which the next build finds what it left to nearer targets.
    seen: Option<Seen>,
    classes: HashMap<ClassId, Made>,
    points: HashMap<At, (AttachmentPoint, Overlays, Unit<RowKey, Does>)>,
}

/// Compiles what is about this target, and fits it into its tables.
pub fn compile(
    intent: &Intent,
    points: &AttachmentPoints,
    target: &str,
    programs: &mut RowCache,
    found: Found<'_>,
) -> Result<Compilation, BuildError> {
    let here = here(intent, points, target, !by_class(programs.model()));
    let elsewhere = |endpoint: &EndpointIntent| points.policed_behind.contains(&endpoint.name);
    let unmanaged = unmanaged_ports(points).into_keys().collect();
    let found = Found {
        unmanaged: &unmanaged,
        ..found
    };
    let compilation = Compilation::beside(&here, programs, Attribution::Rule, found, elsewhere)?;
    match compilation.refusals.first() {
        Some(refusal) => Err(BuildError::Full {
            refusal: Box::new(refusal.clone()),
            target: target.to_string(),
        }),
        None => Ok(compilation),
    }
}

impl Units {
    /// For a server that keeps the ends that rows carry, or one that does not.
    pub fn new(keeps_ends: bool) -> Self {
        Units {
            keeps_ends,
            ..Units::default()
        }
    }

    /// Without anything built, for a server that keeps the ends that rows carry, or one that does not, beside the same rows of
    /// others.
    pub fn anew(&self, keeps_ends: bool) -> Self {
        Units {
            taken: self.taken.clone(),
            left: self.left.clone(),
            demand: self.demand.clone(),
            ..Units::new(keeps_ends)
        }
    }

    /// Sets how many rows of others each table holds; whether that is news.
    pub fn set_taken(&mut self, taken: &BTreeMap<String, u64>) -> bool {
        let is_news = self.taken != *taken;
        self.taken.clone_from(taken);
        is_news
    }

    /// Sets how many packets rules deny; whether that is news.
    pub fn set_demand(&mut self, demand: Demand) -> bool {
        let is_news = self.demand != demand;
        self.demand = demand;
        is_news
    }

    /// Takes rows that an earlier run of the agent left: the next build leaves to nearer targets what these do. Whether there
    /// are any.
    pub fn recover(&mut self, seen: &[Row]) -> bool {
        if seen.is_empty() {
            return false;
        }
        self.seen = Some(Seen::new(seen));
        true
    }

    /// Whether rows carry their ends.
    pub fn keeps_ends(&self) -> bool {
        self.keeps_ends
    }

    /// The desired state of a device.
    pub fn build(
        &mut self,
        device: &Device,
        intent: &Intent,
        points: &AttachmentPoints,
        target: &str,
        programs: &mut RowCache,
    ) -> Result<Built, BuildError> {
        if let Some(seen) = self.seen.take() {
            self.left = recovered(device, intent, points, target, programs, &seen)?;
        }
        let found = Found {
            taken: &self.taken,
            left: &self.left,
            demand: &self.demand,
            ..Found::default()
        };
        let compilation = compile(intent, points, target, programs, found)?;
        self.left = compilation.parts_left();
        let mut ports = named_ports(intent, target);
        ports.extend(unmanaged_ports(points));
        let port = |name: &str| ports.get(name).copied();
        let mut unsupported = compilation.unplaced.clone();
        let mut left_rules = BTreeMap::new();
        if !(compilation.unsupported.is_empty() && compilation.steps.is_empty()) {
            let here = here(intent, points, target, !by_class(programs.model()));
            left_rules = limits::left_rules(&here, &compilation);
            unsupported.extend(limits::not_held(&here, &compilation));
            unsupported.extend(limits::left(&left_rules, &compilation, target));
        }
        let mut built = Built {
            desired: Desired::new(),
            unsupported,
            left_rules,
            steps: compilation.steps.clone(),
            left: compilation.left.clone(),
            hits: Attributions::default(),
            overlays: Overlays::default(),
        };
        if by_class(&device.model) {
            self.classes(device, &compilation, &port, &mut built)?;
        } else {
            shared(device, &compilation, &port, &|_| true, &mut built)?;
        }
        self.points
            .retain(|at, (point, ..)| points.points.get(at) == Some(point));
        if device.is_own() {
            let mut overlays = Overlays::default();
            for compiled in compilation.classes.values() {
                overlays.note(&compiled.class, &compiled.program);
            }
            let gone = compilation.left.iter().filter(|(_, left)| left.held.is_none());
            gone.for_each(|(id, _)| overlays.leave(*id));
            for point in points.points.values() {
                let overlays = overlays.of(point.all_classes());
                built.desired.insert(
                    UnitId::AttachmentPoint(point.at),
                    self.point(device, point, overlays)?,
                );
            }
            built.overlays = overlays;
            built
                .desired
                .insert(UnitId::Groups, Arc::new(own::groups(device, points)?));
            if !self.keeps_ends {
                built.unsupported.extend(limits::not_ended(points, target));
            }
        } else {
            built.unsupported.extend(limits::not_ended(points, target));
            built.unsupported.extend(limits::not_guarded(points, target));
            built.unsupported.extend(limits::not_held_back(points, target));
            built
                .unsupported
                .extend(limits::not_shown(device, &compilation, target));
            built.unsupported.extend(limits::in_part(&compilation, target));
            built
                .unsupported
                .extend(limits::not_tagged(points, &device.model, target));
            built.unsupported.extend(limits::not_read(device, target));
            built.unsupported.extend(limits::not_counted(device, target));
            if !by_class(&device.model) {
                built.unsupported.extend(limits::not_by_vlan(points, target));
                built.unsupported.extend(limits::not_apart(points, target));
                built.unsupported.extend(limits::not_by_address(points, target));
            }
        }
        Ok(built)
    }

    fn point(
        &mut self,
        device: &Device,
        point: &AttachmentPoint,
        overlays: Overlays,
    ) -> Result<Unit<RowKey, Does>, Inexpressible> {
        if let Some((_, stood_on, unit)) = self.points.get(&point.at)
            && *stood_on == overlays
        {
            return Ok(Arc::clone(unit));
        }
        let mut rows = own::plug_rows(device, point, &overlays)?;
        if self.keeps_ends {
            rows.iter_mut()
                .for_each(|row| carry_ends(device, point, &overlays, row));
        }
        let unit = Arc::new(rows);
        self.points
            .insert(point.at, (point.clone(), overlays, Arc::clone(&unit)));
        Ok(unit)
    }

    /// Rows by class, so that a class that did not change is not looked at.
    fn classes(
        &mut self,
        device: &Device,
        compilation: &Compilation,
        port: &dyn Fn(&str) -> Option<u32>,
        built: &mut Built,
    ) -> Result<(), BuildError> {
        let changed = |id: &ClassId, units: &Self| {
            let made = units.classes.get(id);
            made.is_none_or(|(from, ..)| *from != source(compilation, id))
        };
        self.classes.retain(|id, _| compilation.classes.contains_key(id));
        let stale: BTreeSet<ClassId> = compilation
            .classes
            .keys()
            .filter(|id| changed(id, self))
            .copied()
            .collect();
        let mut made: BTreeMap<ClassId, (Vec<Row>, Hits)> = BTreeMap::new();
        let some = Compilation {
            classes: compilation
                .classes
                .iter()
                .filter(|(id, _)| stale.contains(id))
                .map(|(id, c)| (*id, c.clone()))
                .collect(),
            ..compilation.clone()
        };
        let rows = lowered(device, &some, port)?;
        for (row, class, hit) in rows {
            let Some(class) = class else { continue };
            let (rows, hits) = made.entry(class).or_default();
            hits.extend(hit.map(|hit| (row.0.clone(), hit)));
            rows.push(row);
        }
        for id in stale {
            let (rows, hits) = made.remove(&id).unwrap_or_default();
            let made = (source(compilation, &id), Arc::new(rows), Arc::new(hits));
            self.classes.insert(id, made);
        }
        for (id, (_, unit, hits)) in &self.classes {
            built.desired.insert(UnitId::Class(*id), Arc::clone(unit));
            built.hits.classes.insert(id.0, Arc::clone(hits));
        }
        // The rows without a class, once.
        let none = Compilation {
            classes: compilation
                .classes
                .iter()
                .map(|(id, c)| {
                    let mut c = c.clone();
                    c.program = Arc::default();
                    (*id, c)
                })
                .collect(),
            ..compilation.clone()
        };
        shared(device, &none, port, &|class| class.is_none(), built)
    }
}

/// Whether the policy stages have classes, so that rows belong to one.
pub(crate) fn by_class(model: &StageModel) -> bool {
    Direction::BOTH.iter().all(|d| {
        model
            .table(Role::Policy, *d)
            .is_none_or(|t| t.key(Field::Class).is_some())
    })
}

type Lowered = (Row, Option<ClassId>, Option<Attributed>);

fn lowered(
    device: &Device,
    compilation: &Compilation,
    port: &dyn Fn(&str) -> Option<u32>,
) -> Result<Vec<Lowered>, BuildError> {
    let mut rows = Vec::new();
    for placed in compilation.rows() {
        let row = device.lower(&placed.row, port)?;
        let table = device.model.tables.iter().find(|t| t.name == placed.row.table);
        let direction = table
            .filter(|t| t.stage == Role::Policy)
            .map(|t| t.direction.unwrap_or(Direction::Egress));
        let hit = direction.zip(placed.rule).map(|(direction, rule)| Attributed {
            direction,
            class: placed.class,
            rule,
            decider: placed.by,
            action: placed.row.action.to_string(),
        });
        rows.push((row, placed.class, hit));
    }
    Ok(rows)
}

/// Puts rows into one unit.
fn shared(
    device: &Device,
    compilation: &Compilation,
    port: &dyn Fn(&str) -> Option<u32>,
    wanted: &dyn Fn(Option<ClassId>) -> bool,
    built: &mut Built,
) -> Result<(), BuildError> {
    let (mut rows, mut hits) = (Vec::new(), Hits::new());
    for (row, class, hit) in lowered(device, compilation, port)? {
        if wanted(class) {
            hits.extend(hit.map(|hit| (row.0.clone(), hit)));
            rows.push(row);
        }
    }
    built.hits.shared = Arc::new(hits);
    built.desired.insert(UnitId::Shared, Arc::new(rows));
    Ok(())
}

/// Lets a row that leads a port to a class carry what the class becomes as unlocks end.
fn carry_ends(device: &Device, point: &AttachmentPoint, overlays: &Overlays, (key, does): &mut Row) {
    let stage = device.table(key.table()).map(|table| table.stage);
    let direction = match stage {
        Some(Role::Attach) => Direction::Egress,
        Some(Role::Deliver) => Direction::Ingress,
        _ => return,
    };
    let mut class = point.classes[direction];
    let mut ends = Vec::new();
    for transition in &point.transitions {
        let next = transition.classes[direction];
        if next != class {
            ends.push(End {
                at: transition.at,
                value: own::lead(overlays.lead(next)),
            });
            class = next;
        }
    }
    if let Does::Action { id, params } = does {
        *does = Does::action(*id, std::mem::take(params), ends);
    }
}

#[cfg(test)]
mod tests;

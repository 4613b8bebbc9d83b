//! Which rules a target holds when its tables are too small for all of them.
//!
//! The others are left to a target that is nearer to the endpoints and holds every policy whole. What is left is a [`Part`]: a rule
//! that denies, of every class that has it, or the default of a class. Its entries are taken out of the policies, and the rest is
//! encoded and proved like any policy. A policy without some of its denials denies less and never more, so that each verdict of the
//! target is right or left open, and every rule that stays denies what it denied.
//!
//! The plan is stable: what was left stays left until the tables have room for it beside a reserve, and what was held stays until a
//! table overflows. Then the last parts in rank go, until the reserve is free.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use portcullis_policy::{Decider, Direction, Entry, Policy, Tier, Verdict, canonical};

use super::{Compilation, Compiled, Placed, cost, cost_of};
use crate::capacity::Step;
use crate::class::{Class, ClassId, EndpointIntent, Fingerprint, Intent};
use crate::class_rows::ClassRows;
use crate::lower::Attribution;
use crate::model::{Field, Role, TableModel};
use crate::row::RowAction;
use crate::row_cache::{CompileError, RowCache};

/// A part of policies that is held or left as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A rule that denies, by direction and name (`baseline/smtp`), in every class whose endpoints all have a nearer target.
    Rule(Direction, Arc<str>),
    /// The default of a class and of the classes that stand on it.
    Default(ClassId),
}

impl Part {
    /// The name that a policy has for it.
    fn name(&self, policy: &Policy) -> String {
        match self {
            Part::Rule(_, name) => name.to_string(),
            Part::Default(_) => policy.origin(Decider::Default),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Rule(direction, name) => write!(f, "{direction} {name}"),
            Part::Default(class) => write!(f, "the default of class {class}"),
        }
    }
}

/// How many packets each part denies, a minute: what is denied often is held before what is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// By direction and rule, in all classes.
    pub rules: BTreeMap<(Direction, String), u64>,
    /// By class, of its default.
    pub defaults: BTreeMap<ClassId, u64>,
}

/// Packets a minute from which on a rule is worth a move: one a second.
const WORTH: u64 = 60;
/// A rule takes the place of others that deny this many times fewer packets.
const TIMES: u64 = 4;
/// Rules that one plan moves for what they deny.
const PROMOTED: usize = 16;

impl Demand {
    fn of(&self, part: &Part) -> u64 {
        let found = match part {
            Part::Rule(direction, name) => self.rules.get(&(*direction, name.to_string())),
            Part::Default(class) => self.defaults.get(class),
        };
        found.copied().unwrap_or(0)
    }

    /// Its order of magnitude, so that small changes move nothing.
    fn level(&self, part: &Part) -> u32 {
        (self.of(part) / WORTH)
            .checked_ilog(TIMES)
            .map_or(0, |level| level + 1)
    }
}

/// What a class leaves to nearer targets.
#[derive(Debug, Clone)]
pub struct Left {
    /// The class with its whole policy.
    pub class: Arc<Class>,
    /// The class as its rows enforce it here; absent where they enforce nothing.
    pub held: Option<Arc<Class>>,
    /// The rules that are left, the default among them, under their names.
    pub rules: BTreeSet<String>,
    /// The ports that they are left of, where rows name ports: others may have the same class and its whole policy.
    pub ports: BTreeSet<String>,
}

impl Left {
    /// What decides in the whole policy, for each entry of the one that is held.
    pub fn places(&self) -> Vec<Option<u32>> {
        let identity = |entry: &Entry| {
            let (matcher, origin) = (Arc::as_ptr(&entry.matcher), Arc::as_ptr(&entry.origin));
            (matcher as usize, origin.cast::<u8>() as usize, entry.action)
        };
        let whole = (0u32..).zip(&self.class.policy.entries);
        let whole: HashMap<_, u32> = whole.map(|(at, entry)| (identity(entry), at)).collect();
        let held = self.held.iter().flat_map(|held| &held.policy.entries);
        held.map(|entry| whole.get(&identity(entry)).copied()).collect()
    }
}

/// What is left, and the classes without it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The parts that are left, each with the table that has no room for it.
    parts: BTreeMap<Part, String>,
    classes: BTreeMap<ClassId, (Left, Option<Compiled>)>,
}

/// Parts that are left and do not fit, after which no more are tried.
const MISFITS: usize = 256;

/// Costs, by the place of a table in the model.
type Costs = Vec<u64>;

/// What each table may hold; nothing where only memory bounds it.
type Limits = Vec<Option<u64>>;

/// A class that can be left in part or as a whole.
#[derive(Debug)]
struct Movable {
    full: Compiled,
    /// Its parts, and those of the class that it stands on, by rank.
    parts: BTreeSet<usize>,
}

/// A class without some parts, and its rows; nothing where they would deny nothing.
pub(crate) type Weakened = Option<(Arc<Class>, Arc<ClassRows>)>;

/// What parts are left, what each class takes of the tables then, and all together.
#[derive(Debug, Clone)]
struct State {
    left: BTreeSet<usize>,
    classes: BTreeMap<ClassId, Costs>,
    total: Costs,
}

/// What classes take when one part is left or taken back, and all together.
type Shifted = (Vec<(ClassId, Costs)>, Costs);

impl State {
    fn shift(&mut self, part: usize, (classes, total): Shifted) {
        if !self.left.remove(&part) {
            self.left.insert(part);
        }
        self.classes.extend(classes);
        self.total = total;
    }
}

/// Plans what one target leaves.
#[derive(Debug)]
pub(super) struct Planner<'c> {
    tables: &'c [TableModel],
    attribution: Attribution,
    /// Whether packets are led to a class by rows that change apart from its own.
    by_class: bool,
    fixed: Vec<u64>,
    movable: BTreeMap<ClassId, Movable>,
    /// By rank: the first are held first.
    parts: Vec<Part>,
    demand: &'c Demand,
    /// The classes that have a part, by rank.
    holders: Vec<Vec<ClassId>>,
    /// What cannot be left.
    stays: Costs,
}

impl<'c> Planner<'c> {
    /// `elsewhere`: whether a target nearer to an endpoint enforces its whole policy.
    pub(super) fn new(
        compilation: &'c Compilation,
        intent: &Intent,
        programs: &mut RowCache,
        attribution: Attribution,
        demand: &'c Demand,
        elsewhere: &impl Fn(&EndpointIntent) -> bool,
    ) -> Result<Self, CompileError> {
        let tables = &compilation.model.tables;
        let stay = staying(compilation, intent, elsewhere);
        let policies = |t: &&TableModel| t.stage == Role::Policy;
        let mut planner = Planner {
            tables,
            attribution,
            by_class: tables
                .iter()
                .filter(policies)
                .any(|t| t.key(Field::Class).is_some()),
            fixed: tables.iter().map(|t| cost_of(t, &compilation.fixed)).collect(),
            movable: BTreeMap::new(),
            parts: Vec::new(),
            demand,
            holders: Vec::new(),
            stays: vec![0; tables.len()],
        };
        planner.stays = planner.shared(compilation);
        let behind = ports_behind(intent, elsewhere);
        for (id, compiled) in &compilation.classes {
            let program = planner.smallest(&compiled.class, &compiled.program, programs)?;
            let with_ports = |ports: BTreeSet<String>| Compiled {
                program: Arc::clone(&program),
                ports,
                ..compiled.clone()
            };
            // Where rows name ports, some ports of a class can have fewer than others.
            let (movable, stays) = match planner.by_class {
                true if stay.contains(id) => (None, Some(compiled.ports.clone())),
                true => (Some(compiled.ports.clone()), None),
                false => {
                    let (movable, stays) = compiled.ports.iter().cloned().partition(|p| behind.contains(p));
                    (
                        Some(movable).filter(|ports: &BTreeSet<_>| !ports.is_empty()),
                        Some(stays),
                    )
                }
            };
            if let Some(ports) = stays {
                planner.add_costs(&with_ports(ports));
            }
            if let Some(ports) = movable {
                let movable = Movable {
                    full: with_ports(ports),
                    parts: BTreeSet::new(),
                };
                planner.movable.insert(*id, movable);
            }
        }
        planner.rank();
        Ok(planner)
    }

    /// What a table holds whatever the classes are: rows of code stages, and those of every class where they stand once.
    fn shared(&self, compilation: &Compilation) -> Costs {
        let stands_once = |t: &TableModel| t.stage == Role::Policy && t.key(Field::Class).is_some();
        let (tables, fixed) = (self.tables.iter(), &self.fixed);
        tables
            .zip(fixed)
            .map(|(table, fixed)| match table.stage {
                Role::SrcCode | Role::DstCode => compilation.table_use(table).cost,
                _ if stands_once(table) && !compilation.classes.is_empty() => *fixed,
                _ => 0,
            })
            .collect()
    }

    /// The rows of a class that take the least room and lead packets as the others do.
    fn smallest(
        &self,
        class: &Class,
        rows: &Arc<ClassRows>,
        programs: &mut RowCache,
    ) -> Result<Arc<ClassRows>, CompileError> {
        if self.attribution == Attribution::Class {
            return Ok(Arc::clone(rows));
        }
        let merged = match programs.tried(class, Attribution::Class) {
            Ok(merged) => merged,
            Err(CompileError::Unsupported(_)) => return Ok(Arc::clone(rows)),
            Err(error) => return Err(error),
        };
        let is_smaller = merged.rows() < rows.rows() && merged.leads_like(rows);
        Ok(if is_smaller { merged } else { Arc::clone(rows) })
    }

    /// Finds the parts of the classes that can be left, and puts them in order: what mandatory rules and revoked unlocks deny first,
    /// then what denies the most packets, then the rules of the most classes, defaults last.
    fn rank(&mut self) {
        let mut ranked: BTreeMap<Part, (bool, usize)> = BTreeMap::new();
        for movable in self.movable.values() {
            for (part, tier) in parts_of(&movable.full.class) {
                let (is_first, classes) = ranked.entry(part).or_default();
                *is_first |= matches!(tier, Some(Tier::Quarantine | Tier::Mandatory));
                *classes += 1;
            }
        }
        let mut parts: Vec<(Part, (bool, usize))> = ranked.into_iter().collect();
        parts.sort_by(|(a, (a_first, a_classes)), (b, (b_first, b_classes))| {
            let rank = |part: &Part, is_first: bool, classes: usize| {
                let is_default = matches!(part, Part::Default(_));
                (
                    !is_first,
                    Reverse(self.demand.level(part)),
                    is_default,
                    Reverse(classes),
                )
            };
            let (a_rank, b_rank) = (rank(a, *a_first, *a_classes), rank(b, *b_first, *b_classes));
            a_rank.cmp(&b_rank).then(a.cmp(b))
        });
        let rank: HashMap<Part, usize> = (0usize..)
            .zip(&parts)
            .map(|(at, (part, _))| (part.clone(), at))
            .collect();
        for movable in self.movable.values_mut() {
            let class = &movable.full.class;
            let base = class.base.as_ref().filter(|_| movable.full.program.overlay);
            let all = parts_of(class).chain(base.into_iter().flat_map(|base| parts_of(base)));
            movable.parts = all.filter_map(|(part, _)| rank.get(&part).copied()).collect();
        }
        self.holders = vec![Vec::new(); parts.len()];
        for (id, movable) in &self.movable {
            for at in &movable.parts {
                if let Some(holders) = self.holders.get_mut(*at) {
                    holders.push(*id);
                }
            }
        }
        self.parts = parts.into_iter().map(|(part, _)| part).collect();
    }

    fn add_costs(&mut self, compiled: &Compiled) {
        let costs = self.costs(compiled);
        for (sum, cost) in self.stays.iter_mut().zip(costs) {
            *sum += cost;
        }
    }

    /// What a class takes of each table.
    fn costs(&self, compiled: &Compiled) -> Costs {
        let direction = compiled.class.policy.direction;
        let tables = self.tables.iter().zip(&self.fixed);
        tables
            .map(|(table, fixed)| {
                // Where rows name ports, those of every class stand at each port.
                let repeated = table.stage == Role::Policy
                    && table.serves(direction)
                    && table.key(Field::Class).is_none();
                let repeated = if repeated {
                    fixed * compiled.ports.len() as u64
                } else {
                    0
                };
                cost(table, compiled) + repeated
            })
            .collect()
    }

    /// What is left of a class without these parts.
    fn weakened(
        &self,
        id: ClassId,
        left: &BTreeSet<usize>,
        programs: &mut RowCache,
    ) -> Result<Option<Compiled>, CompileError> {
        let Some(movable) = self.movable.get(&id) else {
            return Ok(None);
        };
        let full = &movable.full;
        let own = movable
            .parts
            .intersection(left)
            .filter_map(|at| self.parts.get(*at));
        let own: Vec<Part> = own.cloned().collect();
        if own.is_empty() {
            return Ok(Some(full.clone()));
        }
        let key = (full.class.fingerprint, self.attribution, own);
        let weakened = match programs.weakened(&key) {
            Some(known) => known,
            None => {
                let made = self.weaken(full, &key.2, left, programs)?;
                programs.keep_weakened(key, made.clone());
                made
            }
        };
        Ok(weakened.map(|(class, program)| Compiled {
            class,
            program,
            ports: full.ports.clone(),
        }))
    }

    fn weaken(
        &self,
        full: &Compiled,
        own: &[Part],
        left: &BTreeSet<usize>,
        programs: &mut RowCache,
    ) -> Result<Weakened, CompileError> {
        // Rows of an overlay are met together with those of the class below.
        let base = full.class.base.as_ref().filter(|_| full.program.overlay);
        if let Some(base) = base
            && self.weakened(base.id, left, programs)?.is_none()
        {
            return Ok(None);
        }
        let parts: BTreeSet<&Part> = own.iter().collect();
        match without(&full.class, &parts) {
            None => Ok(None),
            Some(class) => self.encoded(class, full, programs),
        }
    }

    /// The rows of a class without some parts; nothing where packets would have to be led to them in another way than to the full
    /// ones, which changes apart from them.
    fn encoded(
        &self,
        class: Class,
        full: &Compiled,
        programs: &mut RowCache,
    ) -> Result<Weakened, CompileError> {
        let rows = match programs.tried(&class, self.attribution) {
            Ok(rows) => rows,
            Err(CompileError::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let leads_like = rows.leads_like(&full.program) && rows.overlay == full.program.overlay;
        if self.by_class && !leads_like {
            return Ok(None);
        }
        let program = self.smallest(&class, &rows, programs)?;
        Ok(Some((Arc::new(class), program)))
    }

    /// What a class takes without these parts.
    fn taken(
        &self,
        id: ClassId,
        left: &BTreeSet<usize>,
        programs: &mut RowCache,
    ) -> Result<Costs, CompileError> {
        let held = self.weakened(id, left, programs)?;
        Ok(held.map_or_else(|| vec![0; self.tables.len()], |held| self.costs(&held)))
    }

    /// What the tables hold without these parts.
    fn state(&self, left: BTreeSet<usize>, programs: &mut RowCache) -> Result<State, CompileError> {
        let mut state = State {
            left,
            classes: BTreeMap::new(),
            total: self.stays.clone(),
        };
        for id in self.movable.keys() {
            let costs = self.taken(*id, &state.left, programs)?;
            state
                .total
                .iter_mut()
                .zip(&costs)
                .for_each(|(sum, cost)| *sum += cost);
            state.classes.insert(*id, costs);
        }
        Ok(state)
    }

    /// What the tables would hold if one part were left that is not, or the other way round.
    fn shifted(&self, state: &State, part: usize, programs: &mut RowCache) -> Result<Shifted, CompileError> {
        let mut left = state.left.clone();
        if !left.remove(&part) {
            left.insert(part);
        }
        let mut total = state.total.clone();
        let mut classes = Vec::new();
        for id in self.holders.get(part).into_iter().flatten() {
            let costs = self.taken(*id, &left, programs)?;
            let before = state.classes.get(id);
            for (at, (sum, cost)) in total.iter_mut().zip(&costs).enumerate() {
                let before = before.and_then(|before| before.get(at)).copied().unwrap_or(0);
                *sum = (*sum + cost).saturating_sub(before);
            }
            classes.push((*id, costs));
        }
        Ok((classes, total))
    }

    /// Whether every table has room for this.
    fn fits(costs: &Costs, limits: &Limits) -> bool {
        let mut both = costs.iter().zip(limits);
        both.all(|(cost, limit)| limit.is_none_or(|limit| *cost <= limit))
    }

    /// What to leave, when this was left until now.
    pub(super) fn plan(self, before: &BTreeSet<Part>, programs: &mut RowCache) -> Result<Plan, CompileError> {
        let all: BTreeSet<usize> = (0..self.parts.len()).collect();
        let is_left = |at: &usize| self.parts.get(*at).is_some_and(|part| before.contains(part));
        let mut state = self.state(all.iter().copied().filter(is_left).collect(), programs)?;
        let least = self.state(all, programs)?.total;
        let limits = self.limits(&state.total, &least);
        let sizes = self.tables.iter().map(|table| table.size).collect();
        if !Self::fits(&state.total, &sizes) {
            state = self.spill(&state.left, &limits, programs)?;
        }
        self.promote(&mut state, &limits, programs)?;
        self.fill(&mut state, &limits, programs)?;
        self.finish(&state.left, programs)
    }

    /// What each table may hold: less than its size by the reserve, but not less than it holds `now` if that is no more than its size,
    /// nor than the `least` that it can hold.
    fn limits(&self, now: &Costs, least: &Costs) -> Limits {
        let tables = self.tables.iter().zip(now.iter().zip(least));
        tables
            .map(|(table, (now, least))| {
                let size = table.size?;
                let beside = size.saturating_sub(table.reserve);
                Some(match (*now <= size, *least <= beside) {
                    (true, _) => beside.max(*now),
                    (false, true) => beside,
                    (false, false) => size.max(*least),
                })
            })
            .collect()
    }

    /// Leaves the last parts in rank until the tables have room and their reserve is free.
    fn spill(
        &self,
        before: &BTreeSet<usize>,
        limits: &Limits,
        programs: &mut RowCache,
    ) -> Result<State, CompileError> {
        let held: Vec<usize> = (0..self.parts.len()).filter(|at| !before.contains(at)).collect();
        let without_last = |count: usize| -> BTreeSet<usize> {
            let going = held.iter().rev().take(count);
            before.iter().chain(going).copied().collect()
        };
        // The fewest that have to go: costs fall with each.
        let (mut too_few, mut enough) = (0, held.len());
        while too_few + 1 < enough {
            let middle = too_few.midpoint(enough);
            let state = self.state(without_last(middle), programs)?;
            match Self::fits(&state.total, limits) {
                true => enough = middle,
                false => too_few = middle,
            }
        }
        self.state(without_last(enough), programs)
    }

    /// Holds what is left and denies many packets in the place of parts that deny few: those of the lowest rank, as many as it takes.
    fn promote(
        &self,
        state: &mut State,
        limits: &Limits,
        programs: &mut RowCache,
    ) -> Result<(), CompileError> {
        let demand = |at: usize| self.parts.get(at).map_or(0, |part| self.demand.of(part));
        let worth: Vec<usize> = state
            .left
            .iter()
            .copied()
            .filter(|at| demand(*at) >= WORTH)
            .collect();
        for at in worth.into_iter().take(PROMOTED) {
            let is_less = |other: &usize| *other > at && demand(*other).saturating_mul(TIMES) <= demand(at);
            // The last is the one of the lowest rank.
            let held = (0..self.parts.len()).filter(|other| !state.left.contains(other));
            let mut going: Vec<usize> = held.filter(is_less).collect();
            let mut trial = state.clone();
            trial.shift(at, self.shifted(&trial, at, programs)?);
            while !Self::fits(&trial.total, limits)
                && let Some(other) = going.pop()
            {
                trial.shift(other, self.shifted(&trial, other, programs)?);
            }
            if Self::fits(&trial.total, limits) {
                *state = trial;
            }
        }
        Ok(())
    }

    /// Takes back, in rank, the parts that fit beside the reserve.
    fn fill(&self, state: &mut State, limits: &Limits, programs: &mut RowCache) -> Result<(), CompileError> {
        let mut misfits = 0;
        for at in state.left.clone() {
            if misfits >= MISFITS {
                break;
            }
            if self.is_full_for(at, &state.total, limits) {
                continue;
            }
            let with = self.shifted(state, at, programs)?;
            match Self::fits(&with.1, limits) {
                true => state.shift(at, with),
                false => misfits += 1,
            }
        }
        Ok(())
    }

    /// Whether the policy table that a part would have rows in has no room for one.
    fn is_full_for(&self, part: usize, total: &Costs, limits: &Limits) -> bool {
        let Some(direction) = self.parts.get(part).and_then(|part| self.direction(part)) else {
            return false;
        };
        let mut tables = self.tables.iter().zip(total.iter().zip(limits));
        tables.any(|(table, (cost, limit))| {
            let is_its = table.stage == Role::Policy && table.serves(direction);
            is_its && limit.is_some_and(|limit| *cost >= limit)
        })
    }

    fn direction(&self, part: &Part) -> Option<Direction> {
        match part {
            Part::Rule(direction, _) => Some(*direction),
            Part::Default(id) => {
                let own = self.movable.get(id).map(|movable| &movable.full.class);
                let above = || {
                    self.movable
                        .values()
                        .map(|m| &m.full.class)
                        .find(|class| root(class) == *id)
                };
                Some(own.or_else(above)?.policy.direction)
            }
        }
    }

    /// The classes without what they leave.
    fn finish(&self, left: &BTreeSet<usize>, programs: &mut RowCache) -> Result<Plan, CompileError> {
        let mut plan = Plan::default();
        for part in left.iter().filter_map(|at| self.parts.get(*at)) {
            let table = |direction| {
                let policies = |t: &&TableModel| t.stage == Role::Policy && t.serves(direction);
                self.tables.iter().find(policies)
            };
            let table = self.direction(part).and_then(table);
            plan.parts
                .insert(part.clone(), table.map_or_else(String::new, |t| t.name.clone()));
        }
        for (id, movable) in self.movable.iter().filter(|(_, m)| !m.parts.is_disjoint(left)) {
            let held = self.weakened(*id, left, programs)?;
            let full = &movable.full.class;
            let ours = |part: &Part| {
                let place = movable.parts.iter().find(|at| self.parts.get(**at) == Some(part));
                held.is_none() || place.is_some_and(|at| left.contains(at))
            };
            let parts = parts_of(full).filter(|(part, _)| ours(part));
            let rules = parts.map(|(part, _)| part.name(&full.policy));
            let left = Left {
                class: Arc::clone(full),
                held: held.as_ref().map(|held| Arc::clone(&held.class)),
                rules: rules.collect(),
                ports: movable.full.ports.clone(),
            };
            plan.classes.insert(*id, (left, held));
        }
        Ok(plan)
    }
}

/// The ports of endpoints that another target enforces the policies of, too.
fn ports_behind(intent: &Intent, elsewhere: &impl Fn(&EndpointIntent) -> bool) -> BTreeSet<String> {
    let behind = intent.endpoints.values().filter(|e| elsewhere(e));
    let attachments = behind.flat_map(|endpoint| &endpoint.attachments);
    attachments.map(ToString::to_string).collect()
}

/// The classes of which nothing can be left: an endpoint of theirs has no nearer target, or they stand on such a class.
fn staying(
    compilation: &Compilation,
    intent: &Intent,
    elsewhere: &impl Fn(&EndpointIntent) -> bool,
) -> BTreeSet<ClassId> {
    let mut stay: BTreeSet<ClassId> = intent.unmanaged.into_iter().collect();
    for endpoint in intent.endpoints.values().filter(|e| !elsewhere(e)) {
        let later = endpoint.transitions.iter().flat_map(|t| t.classes);
        stay.extend(endpoint.classes.into_iter().chain(later));
    }
    let stands_on = |compiled: &Compiled| {
        let base = compiled.class.base.as_ref().filter(|_| compiled.program.overlay);
        base.map(|base| (compiled.class.id, base.id))
    };
    let pairs: Vec<(ClassId, ClassId)> = compilation.classes.values().filter_map(stands_on).collect();
    let mut known = 0;
    while known != stay.len() {
        known = stay.len();
        for (overlay, base) in &pairs {
            if stay.contains(overlay) || stay.contains(base) {
                stay.extend([*overlay, *base]);
            }
        }
    }
    stay
}

/// Whose default a class has: that of the class it stands on, as it is without unlocks and rules of the endpoint.
fn root(class: &Class) -> ClassId {
    class.base.as_ref().map_or(class.id, |base| base.id)
}

/// The parts that a class has, each with its tier.
fn parts_of(class: &Class) -> impl Iterator<Item = (Part, Option<Tier>)> + '_ {
    let policy = &class.policy;
    let denies = policy.entries.iter().filter(|entry| entry.action.denies());
    let rules = denies.map(|entry| {
        let rule = Part::Rule(policy.direction, Arc::clone(&entry.origin));
        (rule, Some(entry.tier))
    });
    let default = policy
        .default
        .denies()
        .then(|| (Part::Default(root(class)), None));
    rules.chain(default)
}

/// A policy without some of its denials, in canonical form: rows that are remembered name entries by their places in it.
fn denying_less(policy: &Policy, root: ClassId, left: &BTreeSet<&Part>) -> Policy {
    let goes = |entry: &&Entry| {
        let rule = Part::Rule(policy.direction, Arc::clone(&entry.origin));
        entry.action.denies() && left.contains(&rule)
    };
    canonical(&Policy {
        entries: policy.entries.iter().filter(|e| !goes(e)).cloned().collect(),
        default: match left.contains(&Part::Default(root)) {
            true => Verdict::Allow,
            false => policy.default,
        },
        ..policy.clone()
    })
}

/// A class without some of its denials; nothing where none remains.
fn without(class: &Class, left: &BTreeSet<&Part>) -> Option<Class> {
    let root = root(class);
    let policy = denying_less(&class.policy, root, left);
    if !policy.may_deny() {
        return None;
    }
    let base = class.base.as_ref().and_then(|base| {
        let policy = denying_less(&base.policy, root, left);
        let fingerprint = Fingerprint::from_policy(&policy);
        policy.may_deny().then(|| {
            Arc::new(Class {
                id: base.id,
                policy,
                fingerprint,
                base: None,
            })
        })
    });
    let own = Fingerprint::from_policy(&policy);
    let fingerprint = base.as_ref().map_or(own, |base| own.over(base.fingerprint));
    Some(Class {
        id: class.id,
        policy,
        fingerprint,
        base,
    })
}

impl Compilation {
    /// Takes out of the classes what a plan leaves; what remains is proved.
    pub(super) fn leave(
        &mut self,
        plan: Plan,
        attribution: Attribution,
        programs: &mut RowCache,
    ) -> Result<(), CompileError> {
        let mut held = BTreeSet::new();
        for (id, (mut left, compiled)) in plan.classes {
            if let Some(whole) = self.classes.get_mut(&id) {
                whole.ports.retain(|port| !left.ports.contains(port));
                if whole.ports.is_empty() {
                    self.classes.remove(&id);
                }
            }
            let proved = compiled.map(|compiled| {
                let program = programs.get_as(&compiled.class, attribution)?;
                Ok(Compiled { program, ..compiled })
            });
            match proved {
                None => {}
                Some(Ok(compiled)) => {
                    held.insert(compiled.class.fingerprint);
                    held.extend(compiled.class.base.as_ref().map(|base| base.fingerprint));
                    match self.classes.contains_key(&id) {
                        true => self.apart.insert(id, compiled),
                        false => self.classes.insert(id, compiled),
                    };
                }
                // It cannot be proved what a part of it denies: all of it is left.
                Some(Err(CompileError::Unsupported(_))) => {
                    let all = parts_of(&left.class).map(|(part, _)| part.name(&left.class.policy));
                    left.rules = all.collect();
                    left.held = None;
                }
                Some(Err(error)) => return Err(error),
            }
            self.left.insert(id, left);
        }
        programs.hold(held);
        let steps = plan.parts.into_iter();
        self.steps
            .extend(steps.map(|(part, table)| Step::Left { part, table }));
        Ok(())
    }

    /// The part of the policies that a row is of, where it denies for one.
    pub fn part(&self, placed: &Placed) -> Option<Part> {
        let class = &self.classes.get(&placed.class?)?.class;
        let denies = placed.row.action == RowAction::Verdict(Verdict::Deny);
        match placed.by.filter(|_| denies)? {
            Decider::Entry(index) => {
                let entry = class.policy.entries.get(index as usize)?;
                Some(Part::Rule(class.policy.direction, Arc::clone(&entry.origin)))
            }
            Decider::Default => Some(Part::Default(root(class))),
            _ => None,
        }
    }

    /// What is left to nearer targets, to be handed to the next compilation.
    pub fn parts_left(&self) -> BTreeSet<Part> {
        let parts = self.steps.iter().filter_map(|step| match step {
            Step::Left { part, .. } => Some(part.clone()),
            Step::Merged { .. } => None,
        });
        parts.collect()
    }
}

//! The planner: what one target leaves, from what each part costs and denies.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_policy::{Direction, Tier};

use super::super::{Compilation, Compiled, Site, cost, cost_of};
use super::{Demand, Left, Part, TIMES, WORTH, part_of, parts_of, root, sites_behind, staying, without};
use crate::class::{Class, ClassId, EndpointIntent, Intent};
use crate::class_rows::ClassRows;
use crate::lower::Attribution;
use crate::model::{Field, Role, TableModel};
use crate::row_cache::{CompileError, RowCache};

mod state;
use state::{Costs, Limits, Shifted, State, fits};

/// Rules that one plan moves for what they deny.
const PROMOTED: usize = 16;

/// What is left, and the classes without it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The parts that are left, each with the table that has no room for it.
    pub(super) parts: BTreeMap<Part, String>,
    pub(super) classes: BTreeMap<ClassId, (Left, Option<Compiled>)>,
}

/// Parts that are left and do not fit, after which no more are tried.
const MISFITS: usize = 256;

/// A class that can be left in part or as a whole.
#[derive(Debug)]
struct Movable {
    full: Compiled,
    /// Its parts, and those of the class that it stands on, by rank.
    parts: BTreeSet<usize>,
}

/// A class without some parts, and its rows; nothing where they would deny nothing.
pub(crate) type Weakened = Option<(Arc<Class>, Arc<ClassRows>)>;

/// Plans what one target leaves.
#[derive(Debug)]
pub(crate) struct Planner<'c> {
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
    /// About the rows that a part has in its policy table, by rank: those that deny for it where nothing is left.
    rows: Vec<u64>,
    /// What cannot be left.
    stays: Costs,
}

impl<'c> Planner<'c> {
    /// `elsewhere`: whether a target nearer to an endpoint enforces its whole policy.
    pub(crate) fn new(
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
            rows: Vec::new(),
            stays: vec![0; tables.len()],
        };
        planner.stays = planner.shared(compilation);
        let behind = match planner.by_class {
            true => BTreeSet::new(),
            false => sites_behind(intent, elsewhere),
        };
        for (id, compiled) in &compilation.classes {
            let program = planner.smallest(&compiled.class, &compiled.program, programs)?;
            let with_sites = |sites: BTreeSet<Site>| Compiled {
                program: Arc::clone(&program),
                sites,
                ..compiled.clone()
            };
            // Where rows name ports, some ports of a class can have fewer than others.
            let (movable, stays) = match planner.by_class {
                true if stay.contains(id) => (None, Some(compiled.sites.clone())),
                true => (Some(compiled.sites.clone()), None),
                false => {
                    let (movable, stays) = compiled.sites.iter().cloned().partition(|p| behind.contains(p));
                    (
                        Some(movable).filter(|sites: &BTreeSet<_>| !sites.is_empty()),
                        Some(stays),
                    )
                }
            };
            if let Some(sites) = stays {
                planner.add_costs(&with_sites(sites));
            }
            if let Some(sites) = movable {
                let movable = Movable {
                    full: with_sites(sites),
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
        self.parts = parts.into_iter().map(|(part, _)| part).collect();
        self.index(&rank);
    }

    /// Notes which classes have a part, and about how many rows it has in them.
    fn index(&mut self, rank: &HashMap<Part, usize>) {
        self.holders = vec![Vec::new(); self.parts.len()];
        for (id, movable) in &self.movable {
            for at in &movable.parts {
                if let Some(holders) = self.holders.get_mut(*at) {
                    holders.push(*id);
                }
            }
        }
        self.rows = vec![0; self.parts.len()];
        for movable in self.movable.values() {
            let (class, copies) = (&movable.full.class, movable.full.sites.len().max(1) as u64);
            for row in &movable.full.program.policy {
                let part = part_of(class, row.by).filter(|_| row.action.denies());
                if let Some(rows) = part.and_then(|part| self.rows.get_mut(*rank.get(&part)?)) {
                    *rows += copies;
                }
            }
        }
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
                    fixed * compiled.sites.len() as u64
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
        let weakened = match programs.weakened(&key, &full.class) {
            Some(known) => known,
            None => {
                let made = self.weaken(full, &key.2, left, programs)?;
                programs.keep_weakened(key, &full.class, made.clone());
                made
            }
        };
        Ok(weakened.map(|(class, program)| Compiled {
            class,
            program,
            sites: full.sites.clone(),
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
        let shifted = self.shifted_within(state, part, &Limits::new(), programs)?;
        Ok(shifted.unwrap_or_else(|| (Vec::new(), state.total.clone())))
    }

    /// The same, or nothing as soon as the classes looked at so far take more than there is: each has to be encoded with the part, and
    /// a rule that all classes have may not fit after a few.
    fn shifted_within(
        &self,
        state: &State,
        part: usize,
        limits: &Limits,
        programs: &mut RowCache,
    ) -> Result<Option<Shifted>, CompileError> {
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
            if !fits(&total, limits) {
                return Ok(None);
            }
        }
        Ok(Some((classes, total)))
    }

    /// What to leave, when this was left until now.
    pub(crate) fn plan(self, before: &BTreeSet<Part>, programs: &mut RowCache) -> Result<Plan, CompileError> {
        let all: BTreeSet<usize> = (0..self.parts.len()).collect();
        let is_left = |at: &usize| self.parts.get(*at).is_some_and(|part| before.contains(part));
        let mut state = self.state(all.iter().copied().filter(is_left).collect(), programs)?;
        let least = self.state(all, programs)?.total;
        let limits = self.limits(&state.total, &least);
        let sizes = self.tables.iter().map(|table| table.size).collect();
        if !fits(&state.total, &sizes) {
            state = self.spill(state, &limits, programs)?;
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
    fn spill(&self, now: State, limits: &Limits, programs: &mut RowCache) -> Result<State, CompileError> {
        let before = now.left;
        let held: Vec<usize> = (0..self.parts.len()).filter(|at| !before.contains(at)).collect();
        let without_last = |count: usize| -> BTreeSet<usize> {
            let going = held.iter().rev().take(count);
            before.iter().chain(going).copied().collect()
        };
        // About as many as have to go, by the rows that they have; what fits after all is taken back later.
        let mut total = now.total;
        let mut going = held.iter().rev().take_while(|at| {
            let is_over = !fits(&total, limits);
            self.subtract(**at, &mut total);
            is_over
        });
        let mut count = going.by_ref().count();
        loop {
            let state = self.state(without_last(count), programs)?;
            if fits(&state.total, limits) || count >= held.len() {
                return Ok(state);
            }
            count = (count + (count / 4).max(1)).min(held.len());
        }
    }

    /// Takes about what a part has off the policy tables that it is in.
    fn subtract(&self, part: usize, total: &mut Costs) {
        let rows = self.rows.get(part).copied().unwrap_or(0);
        let direction = self.parts.get(part).and_then(|part| self.direction(part));
        for (table, cost) in self.tables.iter().zip(total) {
            if table.stage == Role::Policy && direction.is_some_and(|d| table.serves(d)) {
                *cost = cost.saturating_sub(rows);
            }
        }
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
            while !fits(&trial.total, limits)
                && let Some(other) = going.pop()
            {
                trial.shift(other, self.shifted(&trial, other, programs)?);
            }
            if fits(&trial.total, limits) {
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
            match self.shifted_within(state, at, limits, programs)? {
                Some(with) => state.shift(at, with),
                None => misfits += 1,
            }
        }
        Ok(())
    }

    /// Whether the policy table that a part would have rows in has no room for them.
    fn is_full_for(&self, part: usize, total: &Costs, limits: &Limits) -> bool {
        let Some(direction) = self.parts.get(part).and_then(|part| self.direction(part)) else {
            return false;
        };
        let mut tables = self.tables.iter().zip(total.iter().zip(limits));
        tables.any(|(table, (cost, limit))| {
            let is_its = table.stage == Role::Policy && table.serves(direction);
            // Its rows, and those that let something pass above it, take about as much as it had.
            let rows = self.rows.get(part).copied().unwrap_or(0).max(1);
            is_its && limit.is_some_and(|limit| cost.saturating_add(rows) > limit)
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
                sites: movable.full.sites.clone(),
            };
            plan.classes.insert(*id, (left, held));
        }
        Ok(plan)
    }
}

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

/// What is left, and what each part would need to be held beside the others: rows in the table that lacks them most.
#[derive(Debug, Default)]
pub(super) struct Plan {
    parts: BTreeMap<Part, Needs>,
    classes: BTreeMap<ClassId, (Left, Option<Compiled>)>,
}

/// What a part that is left would need.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    table: String,
    rows: u64,
    free: u64,
}

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

/// A class without some parts: its rows, or nothing where they would deny nothing.
type Weakened = Option<Compiled>;

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
    /// What cannot be left.
    stays: Costs,
    tried: HashMap<(ClassId, Vec<usize>), Weakened>,
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
            stays: vec![0; tables.len()],
            tried: HashMap::new(),
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
        &mut self,
        id: ClassId,
        left: &BTreeSet<usize>,
        programs: &mut RowCache,
    ) -> Result<Weakened, CompileError> {
        let Some(movable) = self.movable.get(&id) else {
            return Ok(None);
        };
        let own: Vec<usize> = movable.parts.intersection(left).copied().collect();
        if own.is_empty() {
            return Ok(Some(movable.full.clone()));
        }
        let key = (id, own);
        if let Some(known) = self.tried.get(&key) {
            return Ok(known.clone());
        }
        let full = movable.full.clone();
        let base = full.class.base.as_ref().filter(|_| full.program.overlay);
        let has_base = match base {
            Some(base) => self.weakened(base.id, left, programs)?.is_some(),
            None => true,
        };
        let parts: BTreeSet<&Part> = key.1.iter().filter_map(|at| self.parts.get(*at)).collect();
        let held = match without(&full.class, &parts).filter(|_| has_base) {
            None => None,
            Some(class) => self.encoded(class, &full, programs)?,
        };
        self.tried.insert(key, held.clone());
        Ok(held)
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
        Ok(Some(Compiled {
            class: Arc::new(class),
            program,
            ports: full.ports.clone(),
        }))
    }

    /// What the tables hold without these parts.
    fn total(&mut self, left: &BTreeSet<usize>, programs: &mut RowCache) -> Result<Costs, CompileError> {
        let mut total = self.stays.clone();
        let ids: Vec<ClassId> = self.movable.keys().copied().collect();
        for id in ids {
            if let Some(held) = self.weakened(id, left, programs)? {
                let costs = self.costs(&held);
                total.iter_mut().zip(costs).for_each(|(sum, cost)| *sum += cost);
            }
        }
        Ok(total)
    }

    /// Whether every table has room for this.
    fn fits(costs: &Costs, limits: &Limits) -> bool {
        let mut both = costs.iter().zip(limits);
        both.all(|(cost, limit)| limit.is_none_or(|limit| *cost <= limit))
    }

    /// What to leave, when this was left until now.
    pub(super) fn plan(
        mut self,
        before: &BTreeSet<Part>,
        programs: &mut RowCache,
    ) -> Result<Plan, CompileError> {
        let all: BTreeSet<usize> = (0..self.parts.len()).collect();
        let is_left = |at: &usize| self.parts.get(*at).is_some_and(|part| before.contains(part));
        let mut left: BTreeSet<usize> = all.iter().copied().filter(is_left).collect();
        let now = self.total(&left, programs)?;
        let least = self.total(&all, programs)?;
        let limits = self.limits(&now, &least);
        let sizes = self.tables.iter().map(|table| table.size).collect();
        if !Self::fits(&now, &sizes) {
            left = self.spill(&left, &limits, programs)?;
        }
        let mut plan = Plan::default();
        self.promote(&mut left, &limits, programs)?;
        self.fill(&mut left, &limits, &mut plan, programs)?;
        self.finish(&left, &mut plan, programs)?;
        Ok(plan)
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
        &mut self,
        before: &BTreeSet<usize>,
        limits: &Limits,
        programs: &mut RowCache,
    ) -> Result<BTreeSet<usize>, CompileError> {
        let held: Vec<usize> = (0..self.parts.len()).filter(|at| !before.contains(at)).collect();
        let without_last = |count: usize| -> BTreeSet<usize> {
            let going = held.iter().rev().take(count);
            before.iter().chain(going).copied().collect()
        };
        // The fewest that have to go: costs fall with each.
        let (mut too_few, mut enough) = (0, held.len());
        while too_few + 1 < enough {
            let middle = too_few.midpoint(enough);
            let total = self.total(&without_last(middle), programs)?;
            match Self::fits(&total, limits) {
                true => enough = middle,
                false => too_few = middle,
            }
        }
        Ok(without_last(enough))
    }

    /// Holds what is left and denies many packets in the place of parts that deny few: those of the lowest rank, as many as it takes.
    fn promote(
        &mut self,
        left: &mut BTreeSet<usize>,
        limits: &Limits,
        programs: &mut RowCache,
    ) -> Result<(), CompileError> {
        let demands: Vec<u64> = self.parts.iter().map(|part| self.demand.of(part)).collect();
        let demand = |at: usize| demands.get(at).copied().unwrap_or(0);
        let worth: Vec<usize> = left.iter().copied().filter(|at| demand(*at) >= WORTH).collect();
        for at in worth.into_iter().take(PROMOTED) {
            let mut trial = left.clone();
            trial.remove(&at);
            let is_less = |other: &usize| *other > at && demand(*other).saturating_mul(TIMES) <= demand(at);
            let held = (0..self.parts.len()).filter(|other| !left.contains(other));
            // The last is the one of the lowest rank.
            let mut going: Vec<usize> = held.filter(is_less).collect();
            let mut fits = Self::fits(&self.total(&trial, programs)?, limits);
            while !fits && let Some(other) = going.pop() {
                trial.insert(other);
                fits = Self::fits(&self.total(&trial, programs)?, limits);
            }
            if fits {
                *left = trial;
            }
        }
        Ok(())
    }

    /// Takes back, in rank, the parts that fit beside the reserve, and notes what the others would need.
    fn fill(
        &mut self,
        left: &mut BTreeSet<usize>,
        limits: &Limits,
        plan: &mut Plan,
        programs: &mut RowCache,
    ) -> Result<(), CompileError> {
        let mut now = self.total(left, programs)?;
        for at in left.clone() {
            left.remove(&at);
            let with = self.total(left, programs)?;
            if Self::fits(&with, limits) {
                now = with;
                continue;
            }
            left.insert(at);
            if let (Some(part), Some(needs)) = (self.parts.get(at), self.needs(&now, &with, limits)) {
                plan.parts.insert(part.clone(), needs);
            }
        }
        Ok(())
    }

    /// The table that lacks most room for what is added.
    fn needs(&self, now: &Costs, with: &Costs, limits: &Limits) -> Option<Needs> {
        let tables = self.tables.iter().zip(limits).zip(now.iter().zip(with));
        let lacking = tables.filter_map(|((table, limit), (now, with))| {
            let room = (*limit)?;
            let lack = with.checked_sub(room).filter(|lack| *lack > 0)?;
            let needs = Needs {
                table: table.name.clone(),
                rows: with.saturating_sub(*now),
                free: room.saturating_sub(*now),
            };
            Some((lack, needs))
        });
        lacking.max_by_key(|(lack, _)| *lack).map(|(_, needs)| needs)
    }

    /// The classes without what they leave.
    fn finish(
        &mut self,
        left: &BTreeSet<usize>,
        plan: &mut Plan,
        programs: &mut RowCache,
    ) -> Result<(), CompileError> {
        let ids: Vec<ClassId> = self.movable.keys().copied().collect();
        for id in ids {
            let held = self.weakened(id, left, programs)?;
            let Some(movable) = self.movable.get(&id).filter(|m| !m.parts.is_disjoint(left)) else {
                continue;
            };
            let full = &movable.full.class;
            let ours = |part: &Part| {
                let place = movable.parts.iter().find(|at| self.parts.get(**at) == Some(part));
                held.is_none() || place.is_some_and(|at| left.contains(at))
            };
            let parts = parts_of(full).filter(|(part, _)| ours(part));
            let rules = parts.map(|(part, _)| match part {
                Part::Rule(_, name) => name.to_string(),
                Part::Default(_) => full.policy.origin(Decider::Default),
            });
            let left = Left {
                class: Arc::clone(full),
                held: held.as_ref().map(|held| Arc::clone(&held.class)),
                rules: rules.collect(),
                ports: movable.full.ports.clone(),
            };
            plan.classes.insert(id, (left, held));
        }
        Ok(())
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
    let base = base.filter(|base| base.fingerprint != own);
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
        for (id, (left, compiled)) in plan.classes {
            if let Some(whole) = self.classes.get_mut(&id) {
                whole.ports.retain(|port| !left.ports.contains(port));
                if whole.ports.is_empty() {
                    self.classes.remove(&id);
                }
            }
            if let Some(compiled) = compiled {
                let program = programs.get_as(&compiled.class, attribution)?;
                held.insert(compiled.class.fingerprint);
                held.extend(compiled.class.base.as_ref().map(|base| base.fingerprint));
                let compiled = Compiled { program, ..compiled };
                match self.classes.contains_key(&id) {
                    true => self.apart.insert(id, compiled),
                    false => self.classes.insert(id, compiled),
                };
            }
            self.left.insert(id, left);
        }
        programs.hold(held);
        let steps = plan.parts.into_iter().map(|(part, needs)| Step::Left {
            part,
            table: needs.table,
            needs: needs.rows,
            free: needs.free,
        });
        self.steps.extend(steps);
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

//! Which rules a target holds when its tables are too small for all of them.
//!
//! The others are left to a target that is nearer to the endpoints and holds every policy whole. What is left is a [`Part`]: a rule
//! that denies, of every class that has it, or the default of a class. Its entries are taken out of the policies, and the rest is
//! encoded and proved like any policy. A policy without some of its denials denies less and never more, so that each verdict of the
//! target is right or left open, and every rule that stays denies what it denied.
//!
//! The plan is stable: what was left stays left until the tables have room for it beside a reserve, and what was held stays until a
//! table overflows. Then the last parts in rank go, until the reserve is free.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use portcullis_policy::{Decider, Direction, Entry, Policy, Tier, Verdict, canonical};

use super::{Compilation, Compiled, Placed, Site};
use crate::capacity::Step;
use crate::class::{Class, ClassId, EndpointIntent, Fingerprint, Intent};
use crate::lower::Attribution;
use crate::row::RowAction;
use crate::row_cache::{CompileError, RowCache};

mod planner;
use planner::Plan;
pub(crate) use planner::{Planner, Weakened};

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
pub(super) const WORTH: u64 = 60;
/// A rule takes the place of others that deny this many times fewer packets.
const TIMES: u64 = 4;

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
    /// The sites that they are left of, where rows name ports: others may have the same class and its whole policy.
    pub sites: BTreeSet<Site>,
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

/// The part of a class that something decides for.
fn part_of(class: &Class, by: Decider) -> Option<Part> {
    match by {
        Decider::Entry(index) => {
            let entry = class.policy.entries.get(index as usize)?;
            Some(Part::Rule(class.policy.direction, Arc::clone(&entry.origin)))
        }
        Decider::Default => Some(Part::Default(root(class))),
        _ => None,
    }
}

/// The sites of endpoints that another target enforces the policies of, too.
fn sites_behind(intent: &Intent, elsewhere: &impl Fn(&EndpointIntent) -> bool) -> BTreeSet<Site> {
    let behind = intent.endpoints.values().filter(|e| elsewhere(e));
    let sites = behind.flat_map(|endpoint| endpoint.attachments.iter().flat_map(|a| Site::at(a, endpoint)));
    sites.collect()
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
                whole.sites.retain(|site| !left.sites.contains(site));
                if whole.sites.is_empty() {
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
        part_of(class, placed.by.filter(|_| denies)?)
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

//! Compilation of all classes for one target: rows per table, and the steps taken when a table is too small.
//!
//! The ladder, each step with its reason: rows of equal verdict are merged, class by class, where that saves most;
//! then rules are left to a target nearer to all their endpoints that holds every policy whole (`placement.rs`); then the
//! target is refused, with the numbers and with what would make it fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{Decider, Direction};

pub use crate::capacity::{Refusal, Saving, Step, TableUse};
use crate::class::{Class, ClassId, EndpointIntent, Intent};
use crate::class_rows::{ClassRows, Codes, PolicyRow, PortMatch, Unsupported};
use crate::lower::{Attribution, fixed_rows};
use crate::model::{Field, Role, StageModel, TableModel, Weight};
use crate::row::{Owner, Row, code_rows, policy_row, range_lines, remote_row, word_row};
use crate::row_cache::{CompileError, RowCache};

mod ladder;
pub(crate) mod placement;
mod site;
pub use placement::{Demand, Left, Part};
pub use site::Site;

/// How rows name the server ports without an endpoint when they are compiled for no switch, which would have their numbers.
pub const UNMANAGED_PORTS: &str = "each port without an endpoint";

/// A class and its proved rows.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The class, with its policy.
    pub class: Arc<Class>,
    /// The rows that enforce its policy, as proved.
    pub program: Arc<ClassRows>,
    /// Where a table has no class: the sites that get these rows. Every row names a port there, so that no row meets what
    /// enters by an uplink.
    pub sites: BTreeSet<Site>,
}

/// All classes of an intent on one stage model.
#[derive(Debug, Clone)]
pub struct Compilation {
    /// The model the rows are for.
    pub model: StageModel,
    /// The classes with rows on this target.
    pub classes: BTreeMap<ClassId, Compiled>,
    /// Where rows name ports: those of classes of which other ports have the whole policy, with less of it.
    pub apart: BTreeMap<ClassId, Compiled>,
    /// The code stages they share.
    pub codes: Option<Arc<Codes>>,
    /// The rows that hold for every class.
    pub fixed: Vec<PolicyRow>,
    /// What could not be expressed, by class.
    pub unsupported: Vec<(ClassId, Unsupported)>,
    /// Endpoints whose packets the rows of a table cannot tell from those of others.
    pub unplaced: Vec<Unsupported>,
    /// The steps of the ladder that were taken.
    pub steps: Vec<Step>,
    /// What classes leave to nearer targets.
    pub left: BTreeMap<ClassId, Left>,
    /// Why the whole is refused, if it is.
    pub refusals: Vec<Refusal>,
}

/// What a device has beside the rows of an intent.
#[derive(Debug, Clone, Copy)]
pub struct Found<'f> {
    /// Names of server ports without an endpoint, where tables have no class.
    pub unmanaged: &'f BTreeSet<String>,
    /// How many rows of others each table holds, by its name.
    pub taken: &'f BTreeMap<String, u64>,
    /// What was left to nearer targets until now: it stays there until there is room beside the reserve.
    pub left: &'f BTreeSet<Part>,
    /// How many packets each part denies, where that is counted.
    pub demand: &'f Demand,
    /// Whether tables have a size; otherwise they hold everything.
    pub bounded: bool,
}

impl Default for Found<'_> {
    fn default() -> Self {
        Found {
            unmanaged: &NO_PORTS,
            taken: &NO_ROWS,
            left: &NO_PARTS,
            demand: &NO_DEMAND,
            bounded: true,
        }
    }
}

static NO_PORTS: BTreeSet<String> = BTreeSet::new();
static NO_ROWS: BTreeMap<String, u64> = BTreeMap::new();
static NO_PARTS: BTreeSet<Part> = BTreeSet::new();
static NO_DEMAND: Demand = Demand {
    rules: BTreeMap::new(),
    defaults: BTreeMap::new(),
};

/// A row with its class and rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The row, by fields of the model.
    pub row: Row,
    /// Its class; `None` when it holds for every class.
    pub class: Option<ClassId>,
    /// The rule that decides; `None` where no one rule does.
    pub rule: Option<String>,
    /// What decides, in the whole policy of the class.
    pub by: Option<Decider>,
}

impl Compilation {
    /// Compiles, proves and fits an intent. `unmanaged` are names of server ports without an endpoint, where tables have
    /// no class. `elsewhere` tells whether a target nearer to an endpoint enforces its whole policy.
    pub fn new(
        intent: &Intent,
        programs: &mut RowCache,
        attribution: Attribution,
        unmanaged: &BTreeSet<String>,
        elsewhere: impl Fn(&EndpointIntent) -> bool,
    ) -> Result<Self, CompileError> {
        let found = Found {
            unmanaged,
            ..Found::default()
        };
        Self::beside(intent, programs, attribution, found, elsewhere)
    }

    /// The same on a device as it was found.
    pub fn beside(
        intent: &Intent,
        programs: &mut RowCache,
        attribution: Attribution,
        found: Found<'_>,
        elsewhere: impl Fn(&EndpointIntent) -> bool,
    ) -> Result<Self, CompileError> {
        let mut model = programs.model().clone();
        for table in &mut model.tables {
            let others = found.taken.get(&table.name).copied().unwrap_or(0);
            let size = table.size.filter(|_| found.bounded);
            let beside = size.map(|size| size.saturating_sub(others));
            table.size = beside
                .into_iter()
                .chain(table.most.filter(|_| found.bounded))
                .min();
            // Beside a reserve there has to be room for rows.
            table.reserve = table.reserve.min(table.size.map_or(0, |size| size / 2));
        }
        programs.share_codes(intent.enforced().map(AsRef::as_ref));
        let mut wanted: BTreeSet<ClassId> = intent.enforced().map(|class| class.id).collect();
        let mut compilation = Compilation {
            fixed: fixed_rows(&model),
            model,
            classes: BTreeMap::new(),
            apart: BTreeMap::new(),
            codes: None,
            unsupported: Vec::new(),
            unplaced: Vec::new(),
            steps: Vec::new(),
            left: BTreeMap::new(),
            refusals: Vec::new(),
        };
        // The classes that overlays stand on have lower numbers or higher ones.
        while let Some(id) = wanted.pop_first() {
            let Some(class) = intent.classes.get(&id) else {
                continue;
            };
            let compiled = match programs.get_as(class, attribution) {
                Ok(program) => Compiled {
                    class: Arc::clone(class),
                    program,
                    sites: BTreeSet::new(),
                },
                Err(CompileError::Unsupported(unsupported)) => {
                    compilation.unsupported.push((id, unsupported));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let base = class.base.as_ref().filter(|_| compiled.program.overlay);
            let base = base.map(|base| base.id);
            wanted.extend(base.filter(|base| !compilation.classes.contains_key(base)));
            compilation.classes.insert(id, compiled);
        }
        compilation.codes = programs.codes().cloned();
        compilation.place(intent, found.unmanaged);
        compilation.fit(intent, programs, attribution, found, elsewhere)?;
        Ok(compilation)
    }

    /// Whether a direction's policy stage matches ports instead of classes.
    fn by_port(&self, direction: Direction) -> bool {
        let table = self.model.table(Role::Policy, direction);
        table.is_some_and(|t| t.key(Field::Class).is_none())
    }

    /// Every class with its rows; twice where not all of its ports have the same.
    pub fn compiled(&self) -> impl Iterator<Item = (&ClassId, &Compiled)> {
        self.classes.iter().chain(&self.apart)
    }

    /// All rows that decide about packets of a class: those of an overlay, and those of the class that it stands on.
    pub fn rows_that_decide(&self, compiled: &Compiled) -> Arc<ClassRows> {
        let base = compiled.class.base.as_ref().filter(|_| compiled.program.overlay);
        match base.and_then(|base| self.classes.get(&base.id)) {
            Some(base) => Arc::new(compiled.program.over(&base.program)),
            None => Arc::clone(&compiled.program),
        }
    }

    /// What a table will hold.
    pub fn table_use(&self, table: &TableModel) -> TableUse {
        let here = |c: &&Compiled| table.serves(c.class.policy.direction);
        let classes = || self.compiled().map(|(_, compiled)| compiled).filter(here);
        let (rows, cost) = match table.stage {
            Role::Policy => {
                let (fixed, fixed_cost) = (self.fixed.len() as u64, cost_of(table, &self.fixed));
                let times = self.fixed_copies(table);
                let count = |c: &Compiled| placed_cost(table, c, &c.program.policy, Weight::Row);
                let rows: u64 = classes().map(count).sum();
                let costs: u64 = classes().map(|c| cost(table, c)).sum();
                (rows + fixed * times, costs + fixed_cost * times)
            }
            Role::Remote => both(classes().map(|c| c.program.remote.len() as u64).sum()),
            Role::Words => both(classes().map(|c| c.program.words.len() as u64).sum()),
            Role::SrcCode | Role::DstCode => both(self.code_rows(table).len() as u64),
            _ => (0, 0),
        };
        TableUse {
            table: table.name.clone(),
            rows,
            cost,
            size: table.size,
        }
    }

    /// Every table that can hold rows of classes, in pipeline order.
    pub fn tables(&self) -> Vec<TableUse> {
        let ours = |t: &&TableModel| {
            matches!(
                t.stage,
                Role::Policy | Role::Remote | Role::Words | Role::SrcCode | Role::DstCode
            )
        };
        self.model
            .tables
            .iter()
            .filter(ours)
            .map(|t| self.table_use(t))
            .collect()
    }

    /// How often the rows that hold for every class stand in a table; tables of partial points have none.
    fn fixed_copies(&self, table: &TableModel) -> u64 {
        let here = || {
            let all = self.compiled().map(|(_, compiled)| compiled);
            all.filter(|c| table.serves(c.class.policy.direction))
        };
        if table.key(Field::Class).is_some() {
            return u64::from(here().next().is_some());
        }
        here().map(|c| c.sites.len() as u64).sum()
    }

    fn code_rows(&self, table: &TableModel) -> Vec<Row> {
        let stage = self.codes.as_ref().map(|codes| match table.stage {
            Role::SrcCode => &codes.src,
            _ => &codes.dst,
        });
        stage.map(|stage| code_rows(table, stage)).unwrap_or_default()
    }

    /// Every row, by table in pipeline order; rows of every class first, then by class and falling priority.
    pub fn rows(&self) -> Vec<Placed> {
        let mut placed = Vec::new();
        let plain = |row| Placed {
            row,
            class: None,
            rule: None,
            by: None,
        };
        for table in &self.model.tables {
            let here = || {
                self.compiled()
                    .filter(|(_, c)| table.serves(c.class.policy.direction))
            };
            match table.stage {
                Role::SrcCode | Role::DstCode => placed.extend(self.code_rows(table).into_iter().map(plain)),
                Role::Remote => {
                    for (id, c) in here() {
                        placed.extend(c.program.remote.iter().map(|row| Placed {
                            row: remote_row(table, *id, row),
                            class: Some(*id),
                            rule: None,
                            by: None,
                        }));
                    }
                }
                Role::Words => {
                    for (id, c) in here() {
                        placed.extend(c.program.words.iter().map(|row| Placed {
                            row: word_row(table, *id, row),
                            class: Some(*id),
                            rule: None,
                            by: None,
                        }));
                    }
                }
                Role::Policy => self.policy_rows(table, &mut placed),
                _ => {}
            }
        }
        placed
    }

    fn policy_rows(&self, table: &TableModel, placed: &mut Vec<Placed>) {
        let here: Vec<(&ClassId, &Compiled)> = self
            .compiled()
            .filter(|(_, c)| table.serves(c.class.policy.direction))
            .collect();
        let classes = table.key(Field::Class).is_some();
        let Some((_, any)) = here.first() else { return };
        let mut places: BTreeMap<ClassId, Vec<Option<u32>>> = BTreeMap::new();
        let mut whole = |by: Decider, class: Option<ClassId>, c: &Compiled| {
            let left = class.and_then(|id| Some((id, self.left.get(&id)?)));
            let is_held = |left: &Left| left.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &c.class));
            match (by, left.filter(|(_, left)| is_held(left))) {
                (Decider::Entry(index), Some((id, left))) => {
                    let places = places.entry(id).or_insert_with(|| left.places());
                    places.get(index as usize).copied().flatten().map(Decider::Entry)
                }
                (by, _) => Some(by),
            }
        };
        let mut put = |row: &PolicyRow, class: Option<ClassId>, c: &Compiled, site: Option<&Site>| {
            let owner = class.filter(|_| classes);
            let owner = owner.map_or(Owner::Every, |class| Owner::new(class, &c.program));
            let Some(narrowed) = site.map_or(Some(*row), |site| site.narrow(row)) else {
                return;
            };
            placed.push(Placed {
                row: policy_row(table, owner, site.map(|site| site.port.as_str()), &narrowed),
                class,
                rule: Some(c.class.policy.origin(row.by)),
                by: whole(row.by, class, c),
            });
        };
        if classes {
            // Any class can name their rules.
            self.fixed.iter().for_each(|row| put(row, None, any, None));
        }
        for (id, c) in &here {
            if classes {
                c.program
                    .policy
                    .iter()
                    .for_each(|row| put(row, Some(**id), c, None));
            } else {
                for site in &c.sites {
                    let rows = self.fixed.iter().chain(&c.program.policy);
                    rows.for_each(|row| put(row, Some(**id), c, Some(site)));
                }
            }
        }
    }
}

fn both(rows: u64) -> (u64, u64) {
    (rows, rows)
}

/// What rows of a class's policy cost in a table, each as often as it stands there.
fn placed_cost(table: &TableModel, compiled: &Compiled, rows: &[PolicyRow], weight: Weight) -> u64 {
    if table.key(Field::Class).is_some() {
        return weigh(weight, rows);
    }
    site::sum_at(&compiled.sites, rows, |row| row_cost(weight, row))
}

/// What a class costs in a table.
fn cost(table: &TableModel, compiled: &Compiled) -> u64 {
    if !table.serves(compiled.class.policy.direction) {
        return 0;
    }
    match table.stage {
        Role::Policy => placed_cost(table, compiled, &compiled.program.policy, table.weight),
        Role::Remote => compiled.program.remote.len() as u64,
        Role::Words => compiled.program.words.len() as u64,
        _ => 0,
    }
}

fn cost_of(table: &TableModel, rows: &[PolicyRow]) -> u64 {
    weigh(table.weight, rows)
}

fn weigh(weight: Weight, rows: &[PolicyRow]) -> u64 {
    match weight {
        // Not row by row: this is asked of every class several times per change.
        Weight::Row => rows.len() as u64,
        Weight::RangeLines => rows.iter().map(|row| row_cost(weight, row)).sum(),
    }
}

fn row_cost(weight: Weight, row: &PolicyRow) -> u64 {
    let lines = |port: PortMatch| match port {
        PortMatch::Range { low, high } => range_lines(low.into(), high.into(), 16),
        _ => 1,
    };
    match weight {
        Weight::Row => 1,
        Weight::RangeLines => lines(row.key.src) * lines(row.key.dst),
    }
}

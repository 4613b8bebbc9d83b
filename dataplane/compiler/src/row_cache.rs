//! Proved rows, cached per class.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_policy::{Direction, Entry};

use crate::class::{Class, ClassId, Fingerprint, Intent};
use crate::class_rows::{ClassRows, PolicyRow, Unsupported};
use crate::compilation::Part;
use crate::compilation::placement::Weakened;
use crate::lower::{Attribution, Cache, Capabilities, Encoder, PortSets, SharedCodes, fixed_rows};
use crate::model::{PartialPoint, Role, StageModel};
use crate::proof::partial::{self, Unproved};
use crate::proof::{Counterexample, Prover};

/// A class, how its hits are attributed, and the parts that are left of it.
type WeakKey = (Fingerprint, Attribution, Vec<Part>);

/// Rows that were only encoded and are remembered for each class.
const TRIED: usize = 4;

/// Why an intent has no rows on a target. Nothing was changed.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The target cannot do it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The rows are not the policy: a bug of the compiler. The change is refused.
    #[error(
        "the compiled rows of class {class} differ from its policy on {model}; the change is refused and the old \
         state stays; please report this: {example}"
    )]
    Unproved {
        class: ClassId,
        model: String,
        /// Packet that rows and policy judge differently.
        example: Box<Counterexample>,
    },
}

/// Rows of classes on one stage model: compiled once, proved before they are handed out.
#[derive(Debug)]
pub struct RowCache {
    model: StageModel,
    fixed: Vec<PolicyRow>,
    codes: Option<SharedCodes>,
    known: HashMap<(Fingerprint, Attribution), Arc<ClassRows>>,
    /// At a partial point: classes without rows, so that they are not tried again with every change.
    refused: HashMap<(Fingerprint, Attribution), Unsupported>,
    /// Rows that were only encoded, to see how many they are.
    tried: HashMap<(Fingerprint, Attribution), Result<Arc<ClassRows>, Unsupported>>,
    /// Classes without parts that are left to nearer targets, with rows that were only encoded; and the whole class that each was made
    /// of, whose id and names it has.
    weakened: HashMap<WeakKey, (Arc<Class>, Weakened)>,
    /// Classes without the rules that are left to nearer targets, which are in no intent.
    held: BTreeSet<Fingerprint>,
    /// What was proved since it was asked for last, for others to adopt.
    fresh: Vec<Proved>,
    /// Classes that use them.
    coded: BTreeSet<Fingerprint>,
    gains: HashMap<Fingerprint, Option<Gain>>,
    cache: Cache,
    prover: Prover,
}

/// The rows of a class as they were proved, to be adopted by other [`RowCache`] of the same model.
#[derive(Debug, Clone)]
pub struct Proved((Fingerprint, Attribution), Arc<ClassRows>);

/// What port codes save a class, and the port sets it needs codes for.
#[derive(Debug)]
struct Gain {
    rows: usize,
    sets: Arc<PortSets>,
}

impl Gain {
    fn new(class: &Class, model: &StageModel, cache: &mut Cache) -> Option<Self> {
        let policy = &class.policy;
        let prefixed = |e: &&Entry| !e.matcher.remote.is_empty() || !e.matcher.local.is_empty();
        // Only rules with prefixes are written rule by rule; tables of ports are smaller flattened.
        if !policy.may_deny() || policy.entries.iter().filter(prefixed).nth(1).is_none() {
            return None;
        }
        let mut sets = PortSets::default();
        sets.add(policy, &Capabilities::new(model, policy.direction)?);
        let codes = SharedCodes::new(&sets, model).filter(|_| !sets.is_empty())?;
        let with = Encoder::new(model, Some(&codes))
            .lower(policy, Attribution::Rule, cache)
            .ok()?;
        with.codes.as_ref()?;
        // A class that fits no other way gains whatever it takes.
        let without = Encoder::new(model, None).lower(policy, Attribution::Rule, cache);
        let rows = without
            .map_or(usize::MAX / 2, |p| p.rows())
            .checked_sub(with.rows())?;
        (rows > 0).then(|| Gain {
            rows,
            sets: Arc::new(sets),
        })
    }
}

impl RowCache {
    /// An empty cache; the model's fixed rows are made at once.
    pub fn new(model: StageModel) -> Self {
        let fixed = fixed_rows(&model);
        RowCache {
            prover: Prover::new(&model, fixed.clone()),
            fixed,
            model,
            codes: None,
            known: HashMap::new(),
            refused: HashMap::new(),
            tried: HashMap::new(),
            weakened: HashMap::new(),
            held: BTreeSet::new(),
            fresh: Vec::new(),
            coded: BTreeSet::new(),
            gains: HashMap::new(),
            cache: Cache::default(),
        }
    }

    /// The model the rows are for.
    pub fn model(&self) -> &StageModel {
        &self.model
    }

    /// The rows that hold for every class.
    pub fn fixed(&self) -> &[PolicyRow] {
        &self.fixed
    }

    /// The proved rows of a class, each hit attributed to its rule.
    pub fn get(&mut self, class: &Class) -> Result<Arc<ClassRows>, CompileError> {
        self.get_as(class, Attribution::Rule)
    }

    /// The proved rows of a class.
    pub fn get_as(
        &mut self,
        class: &Class,
        attribution: Attribution,
    ) -> Result<Arc<ClassRows>, CompileError> {
        let key = (class.fingerprint, attribution);
        if let Some(program) = self.known.get(&key) {
            return Ok(Arc::clone(program));
        }
        if let Some(unsupported) = self.refused.get(&key) {
            return Err(CompileError::Unsupported(unsupported.clone()));
        }
        let made = self.make(class, attribution);
        if let (Err(CompileError::Unsupported(unsupported)), true) = (&made, self.model.partial.is_some()) {
            self.refused.insert(key, unsupported.clone());
        }
        let program = Arc::new(made?);
        self.known.insert(key, Arc::clone(&program));
        // With port codes the rows of a class depend on the other classes.
        if self.codes.is_none() {
            self.fresh.push(Proved(key, Arc::clone(&program)));
        }
        Ok(program)
    }

    /// The rows of a class, which nothing has proved: to see how many they are.
    pub(crate) fn tried(
        &mut self,
        class: &Class,
        attribution: Attribution,
    ) -> Result<Arc<ClassRows>, CompileError> {
        let key = (class.fingerprint, attribution);
        if let Some(rows) = self.known.get(&key) {
            return Ok(Arc::clone(rows));
        }
        if !self.tried.contains_key(&key) {
            let rows = self.encode(class, attribution).map(Arc::new);
            self.tried.insert(key, rows);
        }
        let rows = self.tried.get(&key).cloned();
        Ok(rows.transpose()?.unwrap_or_default())
    }

    /// A class without some parts, if it was made of this very class.
    pub(crate) fn weakened(&self, key: &WeakKey, whole: &Arc<Class>) -> Option<Weakened> {
        let (made_of, weakened) = self.weakened.get(key)?;
        // Another class of the same meaning has another id, and other names.
        Arc::ptr_eq(made_of, whole).then(|| weakened.clone())
    }

    /// Remembers a class without some parts.
    pub(crate) fn keep_weakened(&mut self, key: WeakKey, whole: &Arc<Class>, weakened: Weakened) {
        self.weakened.insert(key, (Arc::clone(whole), weakened));
    }

    /// Keeps the rows of these classes, which are in no intent, until it is called again.
    pub(crate) fn hold(&mut self, classes: BTreeSet<Fingerprint>) {
        self.held = classes;
    }

    /// Encodes a class, over its base if it has one and the model has overlays: without rows if it means the same.
    fn encode(&mut self, class: &Class, attribution: Attribution) -> Result<ClassRows, Unsupported> {
        if let Some(base) = &class.base {
            let encoder = Encoder::new(&self.model, None);
            if let Some(overlay) = encoder.overlay(&class.policy, &base.policy, &mut self.cache) {
                return Ok(overlay);
            }
        }
        let is_coded = self.coded.contains(&class.fingerprint);
        let codes = self.codes.as_ref().filter(|_| is_coded);
        Encoder::new(&self.model, codes).lower(&class.policy, attribution, &mut self.cache)
    }

    /// Encodes and proves a class.
    fn make(&mut self, class: &Class, attribution: Attribution) -> Result<ClassRows, CompileError> {
        let rows = self.encode(class, attribution)?;
        match class.base.as_ref().filter(|_| rows.overlay) {
            None => self.proved(class, rows),
            Some(base) => {
                let below = self.get(base)?;
                self.proved(class, rows.over(&below))?;
                Ok(rows)
            }
        }
    }

    /// The rows that decide about packets of a class, those of its base among them.
    pub fn whole(&mut self, class: &Class) -> Result<Arc<ClassRows>, CompileError> {
        let rows = self.get(class)?;
        match &class.base {
            Some(base) if rows.overlay => Ok(Arc::new(rows.over(&*self.get(base)?))),
            _ => Ok(rows),
        }
    }

    /// Whether the rows of one class can become those of another in place, under one id, on this model. The encoder takes
    /// the cheapest of several ways to write a class, so that a rule without prefixes can decide whether prefixes go through
    /// the `remote` stage: only the rows can tell. What cannot be compiled is not edited, nor are overlays: they change with
    /// the class below.
    pub fn edits(&mut self, old: &Class, new: &Class) -> bool {
        match (self.get(old), self.get(new)) {
            (Ok(old), Ok(new)) => !old.overlay && !new.overlay && old.leads_like(&new),
            _ => false,
        }
    }

    fn proved(&mut self, class: &Class, program: ClassRows) -> Result<ClassRows, CompileError> {
        if let Some(point) = &self.model.partial {
            return self.proved_in_part(class, program, point);
        }
        match self.prover.prove(&class.policy, &program) {
            Ok(()) => Ok(program),
            Err(example) => Err(CompileError::Unproved {
                class: class.id,
                model: self.model.name.clone(),
                example,
            }),
        }
    }

    /// The rows of a partial point, with what they cover.
    fn proved_in_part(
        &self,
        class: &Class,
        program: ClassRows,
        point: &PartialPoint,
    ) -> Result<ClassRows, CompileError> {
        match partial::prove(&class.policy, &program, &self.model, point) {
            Ok(coverage) => Ok(ClassRows {
                coverage: Some(Arc::new(coverage)),
                ..program
            }),
            Err(Unproved::Differs(example)) => Err(CompileError::Unproved {
                class: class.id,
                model: self.model.name.clone(),
                example,
            }),
            Err(Unproved::TooLarge) => {
                let direction = class.policy.direction;
                let table = self.model.table(Role::Policy, direction);
                Err(CompileError::Unsupported(Unsupported {
                    target: self.model.name.clone(),
                    rule: format!("the {direction} policy"),
                    table: table.map_or_else(String::new, |t| t.name.clone()),
                    why: "its rules name too many prefixes and ports to prove what a partial point denies of them: use fewer, or \
                          enforce it on another target"
                        .to_string(),
                }))
            }
        }
    }

    /// What was proved since this was asked last.
    pub fn take_proved(&mut self) -> Vec<Proved> {
        std::mem::take(&mut self.fresh)
    }

    /// Takes over what others of the same model proved, so that it is not proved again.
    pub fn adopt(&mut self, proved: Vec<Proved>) {
        if self.codes.is_none() {
            let proved = proved.into_iter().map(|Proved(key, program)| (key, program));
            self.known.extend(proved);
        }
    }

    /// Compiles and proves every class of an intent, so that a later [`get`](Self::get) cannot fail. Port codes are
    /// shared between the classes here: they are used when they save rows over all classes together.
    pub fn check(&mut self, intent: &Intent) -> Result<(), CompileError> {
        self.share_codes(intent.enforced().map(AsRef::as_ref));
        intent.enforced().try_for_each(|class| self.get(class).map(drop))
    }

    /// Decides which classes use port codes, and makes the codes. A pure function of the classes: a restart decides
    /// the same.
    pub fn share_codes<'a>(&mut self, classes: impl Iterator<Item = &'a Class>) {
        if self.model.table(Role::DstCode, Direction::Egress).is_none()
            && self.model.table(Role::DstCode, Direction::Ingress).is_none()
        {
            return;
        }
        let mut gaining: Vec<(usize, Fingerprint, Arc<PortSets>)> = Vec::new();
        for class in classes {
            if let Some(gain) = self.gain(class) {
                gaining.push((gain.rows, class.fingerprint, Arc::clone(&gain.sets)));
            }
        }
        gaining.sort_unstable_by(|(a, x, _), (b, y, _)| b.cmp(a).then(x.cmp(y)));
        let mut sets = PortSets::default();
        let mut shared: Option<SharedCodes> = None;
        let mut coded = BTreeSet::new();
        let mut saved = 0usize;
        for (rows, fingerprint, more) in gaining {
            let before = sets.clone();
            if sets.join(&more) {
                match SharedCodes::new(&sets, &self.model) {
                    Some(codes) => shared = Some(codes),
                    None => {
                        // No bits left for its ports.
                        sets = before;
                        continue;
                    }
                }
            }
            coded.insert(fingerprint);
            saved = saved.saturating_add(rows);
        }
        if shared.as_ref().is_none_or(|codes| saved <= codes.rows()) {
            coded.clear();
            shared = None;
        }
        if shared != self.codes || coded != self.coded {
            let stale: BTreeSet<Fingerprint> = self.coded.union(&coded).copied().collect();
            self.known
                .retain(|(fingerprint, _), _| !stale.contains(fingerprint));
            self.tried.clear();
            self.weakened.clear();
            self.codes = shared;
            self.coded = coded;
        }
    }

    /// What port codes would save a class, were they for it alone.
    fn gain(&mut self, class: &Class) -> Option<&Gain> {
        let known = self.gains.entry(class.fingerprint);
        known
            .or_insert_with(|| Gain::new(class, &self.model, &mut self.cache))
            .as_ref()
    }

    /// The code stages in use.
    pub fn codes(&self) -> Option<&Arc<crate::class_rows::Codes>> {
        self.codes.as_ref().map(SharedCodes::codes)
    }

    /// Forgets what no intent of these uses, when there are many such rows: looking for them takes a walk over all classes.
    pub fn keep(&mut self, intents: &[&Intent]) {
        let classes = intents.iter().map(|intent| intent.classes.len()).max();
        let many = classes.map_or(0, |classes| classes + classes / 8 + 64);
        let many = many + self.held.len();
        if self.tried.len().max(self.weakened.len()) > many.saturating_mul(TRIED) {
            self.tried.clear();
            self.weakened.clear();
        }
        if self.known.len().max(self.gains.len()).max(self.refused.len()) <= many {
            return;
        }
        let used: std::collections::HashSet<Fingerprint> = intents
            .iter()
            .flat_map(|i| i.classes.values())
            .map(|c| c.fingerprint)
            .chain(self.held.iter().copied())
            .collect();
        self.known
            .retain(|(fingerprint, _), _| used.contains(fingerprint));
        self.gains.retain(|fingerprint, _| used.contains(fingerprint));
        self.refused
            .retain(|(fingerprint, _), _| used.contains(fingerprint));
        self.fresh
            .retain(|Proved((fingerprint, _), _)| used.contains(fingerprint));
    }
}

//! One resolution: from the difference of two documents to the difference of their intents.
//!
//! First every affected source says which policies it wants, which decides what becomes a new class and what is an
//! existing one, edited in place or not. Then `members` moves sources between classes, and `settle` brings the intent's
//! classes in line with their members.

mod members;
mod settle;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use portcullis_policy::{
    Document, Endpoint, Lists, Matcher, Name, PerDirection, Policy, Reserved, Verdict, canonical,
    takes_link_local,
};

use super::affected::{Difference, same_for_everybody};
use super::compiler::{Combo, Compiler, Source, Use, falls_of};
use super::ids::OutOfClasses;
use super::{Changes, Class, ClassId, EndpointIntent, Fingerprint, Intent};

/// No class in either direction: where an endpoint comes from that is new, and goes to that is removed.
const OPEN: PerDirection<ClassId> = PerDirection {
    egress: ClassId::OPEN,
    ingress: ClassId::OPEN,
};

/// What a source asks for in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A class there is, or the open one.
    Class(ClassId),
    /// The class to be made with this index.
    New(usize),
}

/// A source whose policies were resolved in this round.
struct Resolved {
    wants: PerDirection<Want>,
    /// Policies of those that want a class there is: its rules may have other names now.
    policies: PerDirection<Option<Policy>>,
}

/// A policy that no class has.
struct NewClass {
    fingerprint: Fingerprint,
    policy: Policy,
    /// What the policy is without the endpoint's own rules and unlocks.
    base: Option<Want>,
    /// Whose policy came first.
    named: Source,
    movers: Movers,
}

/// Where the endpoints of a new policy come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Movers {
    None,
    /// So many from one class.
    From(ClassId, u32),
    /// From several, or from nowhere.
    Mixed,
}

impl Movers {
    fn and(self, from: Option<ClassId>) -> Self {
        match (self, from.filter(|id| *id != ClassId::OPEN)) {
            (Movers::None, Some(id)) => Movers::From(id, 1),
            (Movers::From(before, n), Some(id)) if before == id => Movers::From(id, n + 1),
            _ => Movers::Mixed,
        }
    }
}

pub(super) struct Round<'a> {
    compiler: &'a mut Compiler,
    /// The document that was resolved last.
    was: &'a Document,
    document: &'a Document,
    generation: u64,
    /// Whether every target can turn the rows of one class into those of another in place.
    edits: &'a dyn Fn(&Class, &Class) -> bool,
    /// Whether the rules for everybody differ, or there were none before.
    everybody: bool,
    /// Profiles that came, went or changed.
    profiles: HashSet<Name>,
    resolved: HashMap<Source, Resolved>,
    new: Vec<NewClass>,
    by_fingerprint: HashMap<Fingerprint, usize>,
    /// Classes there are that somebody asked for.
    asked: HashSet<ClassId>,
    /// Combinations that endpoints with rules of their own stand on, as far as they were looked at.
    stood_on: HashSet<Combo>,
    /// What was resolved last.
    before: Arc<Intent>,
    /// Fingerprints of classes that policies were found in.
    found: HashMap<ClassId, Fingerprint>,
    /// Classes that may have lost or won somebody, or whose rules may have other names.
    touched: BTreeSet<ClassId>,
}

impl<'a> Round<'a> {
    /// Resolves a document and leaves the compiler where the next one begins.
    pub(super) fn run(
        compiler: &mut Compiler,
        document: &Document,
        generation: u64,
        edits: &dyn Fn(&Class, &Class) -> bool,
    ) -> Result<Arc<Intent>, OutOfClasses> {
        let last = compiler.last.take();
        let first = last.is_none();
        let (before, intent) = last.unwrap_or_default();
        if first {
            compiler.lists = Lists::from_document(document);
        } else {
            compiler.lists.follow(&before, document);
        }
        let everybody = first || !same_for_everybody(&before, document);
        let difference = Difference::new(compiler, &before, document, everybody);
        let mut round = Round {
            compiler,
            was: &before,
            document,
            generation,
            edits,
            everybody,
            profiles: difference.profiles.iter().map(|name| (*name).clone()).collect(),
            resolved: HashMap::new(),
            new: Vec::new(),
            by_fingerprint: HashMap::new(),
            asked: HashSet::new(),
            stood_on: HashSet::new(),
            before: Arc::clone(&intent),
            found: HashMap::new(),
            touched: BTreeSet::new(),
        };
        let next = Arc::new(round.intent(&intent, &difference, first)?);
        compiler.last = Some((document.clone(), Arc::clone(&next)));
        Ok(next)
    }

    fn intent(
        &mut self,
        before: &Intent,
        difference: &Difference<'_>,
        first: bool,
    ) -> Result<Intent, OutOfClasses> {
        // First what everybody wants, since that decides which classes are edited in place.
        let unmanaged = self.everybody.then(|| self.want_unmanaged(before, first));
        for one in difference.endpoints.iter().filter(|one| one.rules) {
            if let Some(endpoint) = one.new {
                self.want(one.name, endpoint, before.endpoints.get(one.name));
            }
        }
        let made = self.make(before)?;
        let link_local = if first || self.takes_link_local(difference) {
            self.document.link_local_exceptions()
        } else {
            before.link_local.clone()
        };
        let mut next = Intent {
            generation: self.generation,
            link_local,
            reserved: Arc::clone(&self.document.reserved),
            changed: Changes {
                since: before.generation,
                ..Changes::default()
            },
            ..before.clone()
        };
        if let Some(wants) = unmanaged {
            let was = before.unmanaged;
            next.unmanaged = wants.map(|want| class_of(want, &made));
            self.rebind(&Source::Unmanaged, was, next.unmanaged);
            self.count(was, next.unmanaged);
        }
        self.bind_combos(&made);
        for one in &difference.endpoints {
            self.apply(one, &made, &mut next);
        }
        self.drop_combos(difference);
        self.settle(&made, &mut next);
        Ok(next)
    }

    /// Whether the link-local addresses that are reserved or declared may be others now.
    fn takes_link_local(&self, difference: &Difference<'_>) -> bool {
        let none = Reserved::default();
        let reserved = [&*self.was.reserved, &*self.document.reserved];
        let endpoints = difference.endpoints.iter().flat_map(|one| [one.old, one.new]);
        (reserved[0] != reserved[1] && reserved.iter().any(|r| takes_link_local(r, None)))
            || endpoints.flatten().any(|e| takes_link_local(&none, Some(e)))
    }

    /// What ports without an endpoint want.
    fn want_unmanaged(&mut self, before: &Intent, first: bool) -> PerDirection<Want> {
        let lists = &self.compiler.lists;
        let policies = PerDirection::from_fn(|d| lists.unmanaged(self.document, d));
        let wants = self.resolve(&Source::Unmanaged, &policies, PerDirection::default());
        self.tally(wants, (!first).then_some(before.unmanaged));
        wants
    }

    fn want(&mut self, name: &Name, endpoint: &Endpoint, before: Option<&Arc<EndpointIntent>>) {
        let source = Source::new(name, endpoint, self.document);
        let combo: Combo = endpoint.profiles.as_slice().into();
        let bases = self.want_profiles(&combo);
        let wants = match &source {
            Source::Endpoint(_) => {
                self.stand_on(&combo, bases);
                let policies = self.compiler.lists.both(self.document, name.as_str(), endpoint);
                self.resolve(&source, &policies, bases.map(Some))
            }
            _ => bases,
        };
        self.tally(wants, before.map(|e| e.classes));
        let was = before.map_or(&[][..], |e| e.transitions.as_slice());
        for (number, (_, grants)) in (0..).zip(falls_of(self.document, name)) {
            let lists = &self.compiler.lists;
            let policies = lists.both_under(self.document, name.as_str(), endpoint, &grants);
            let source = Source::ScheduledTransition(name.clone(), number);
            let wants = self.resolve(&source, &policies, bases.map(Some));
            self.tally(wants, was.get(number as usize).map(|f| f.classes));
        }
    }

    /// Counts a combination that endpoints with rules of their own stand on, as one that moves.
    fn stand_on(&mut self, combo: &Combo, wants: PerDirection<Want>) {
        if self.stood_on.insert(Arc::clone(combo)) {
            let bound = self.compiler.combos.get(combo).filter(|bound| bound.bases > 0);
            let before = bound.map(|bound| bound.classes);
            self.tally(wants, before);
        }
    }

    /// What endpoints without rules of their own want that bind these profiles.
    fn want_profiles(&mut self, combo: &Combo) -> PerDirection<Want> {
        let source = Source::Profiles(Arc::clone(combo));
        let resolved = self.resolved.get(&source).map(|resolved| resolved.wants);
        let steady = || Some(self.steady(combo)?.map(Want::Class));
        resolved.or_else(steady).unwrap_or_else(|| {
            let endpoint = Endpoint {
                profiles: combo.to_vec(),
                ..Endpoint::default()
            };
            let policies = self.compiler.lists.both(self.document, "", &endpoint);
            self.resolve(&source, &policies, PerDirection::default())
        })
    }

    /// The classes of profiles that did not change.
    fn steady(&self, combo: &Combo) -> Option<PerDirection<ClassId>> {
        let same = !self.everybody && combo.iter().all(|name| !self.profiles.contains(name));
        let bound = self.compiler.combos.get(combo).filter(|_| same)?;
        Some(bound.classes)
    }

    fn resolve(
        &mut self,
        source: &Source,
        policies: &PerDirection<Policy>,
        bases: PerDirection<Option<Want>>,
    ) -> PerDirection<Want> {
        let interned = policies
            .as_ref()
            .zip(bases)
            .map(|(policy, base)| self.intern(source, policy, base));
        let wants = interned.as_ref().map(|(want, _)| *want);
        let policies = interned.map(|(_, policy)| policy);
        self.resolved.insert(source.clone(), Resolved { wants, policies });
        wants
    }

    fn intern(&mut self, source: &Source, policy: &Policy, base: Option<Want>) -> (Want, Option<Policy>) {
        if !policy.may_deny() {
            return (Want::Class(ClassId::OPEN), None);
        }
        let policy = canonical(policy);
        let own = Fingerprint::of_canonical(&policy);
        let below = base.and_then(|base| self.fingerprint_of(base));
        if let Some(base) = base.filter(|_| below == Some(own)) {
            // Its own rules and unlocks change nothing.
            return (base, Some(policy));
        }
        let base = base.filter(|_| below.is_some());
        let fingerprint = below.map_or(own, |below| own.over(below));
        let limit = self.compiler.ids.limit();
        if let Some(id) = self.compiler.known.get(&fingerprint).filter(|id| id.0 <= limit) {
            self.found.insert(*id, fingerprint);
            return (Want::Class(*id), Some(policy));
        }
        let next = self.new.len();
        let index = *self.by_fingerprint.entry(fingerprint).or_insert(next);
        if index == next {
            self.new.push(NewClass {
                fingerprint,
                policy,
                base,
                named: source.clone(),
                movers: Movers::None,
            });
        }
        (Want::New(index), None)
    }

    /// The fingerprint of a class that may be a base; the open class is none.
    fn fingerprint_of(&self, want: Want) -> Option<Fingerprint> {
        match want {
            Want::Class(ClassId::OPEN) => None,
            Want::Class(id) => {
                let before = || Some(self.before.classes.get(&id)?.fingerprint);
                self.found.get(&id).copied().or_else(before)
            }
            Want::New(index) => self.new.get(index).map(|new| new.fingerprint),
        }
    }

    fn tally(&mut self, wants: PerDirection<Want>, before: Option<PerDirection<ClassId>>) {
        for (direction, want) in wants.each() {
            match want {
                Want::Class(id) => {
                    self.asked.insert(id);
                }
                Want::New(index) => {
                    if let Some(new) = self.new.get_mut(index) {
                        new.movers = new.movers.and(before.map(|classes| classes[direction]));
                    }
                }
            }
        }
    }

    /// Gives every new policy a class: the one it succeeds, or one with another id.
    fn make(&mut self, intent: &Intent) -> Result<Vec<ClassId>, OutOfClasses> {
        let mut made = Vec::with_capacity(self.new.len());
        for new in &self.new {
            let id = match self.succeeded(new, &made, intent) {
                Some(class) => {
                    self.compiler.known.remove(&class.fingerprint);
                    class.id
                }
                None => {
                    let (uses, restored) = (&self.compiler.uses, &self.compiler.restored);
                    let in_use = |id| uses.contains_key(&id) || restored.contains(&id);
                    self.compiler.ids.take(in_use)?
                }
            };
            self.compiler.known.insert(new.fingerprint, id);
            self.compiler.uses.entry(id).or_default().named = Some(new.named.clone());
            self.touched.insert(id);
            made.push(id);
        }
        Ok(made)
    }

    /// The class that is edited in place to become a new one.
    fn succeeded<'i>(&self, new: &NewClass, made: &[ClassId], intent: &'i Intent) -> Option<&'i Class> {
        let Movers::From(id, movers) = new.movers else {
            return None;
        };
        let all = |used: &Use| used.endpoints + used.bases == movers;
        let whole = self.compiler.uses.get(&id).is_some_and(all);
        let class = intent
            .classes
            .get(&id)
            .filter(|_| whole && !self.asked.contains(&id))?;
        let next = || Class {
            id,
            policy: new.policy.clone(),
            fingerprint: new.fingerprint,
            base: new.base.and_then(|base| self.base(base, made, intent)),
        };
        // Where rows of overlays stand on those of a class, both change together: not in place.
        let stands = |above: &&Arc<Class>| above.base.as_ref().is_some_and(|base| base.id == id);
        let free = || {
            intent
                .classes
                .values()
                .filter(stands)
                .all(|above| (self.edits)(above, above))
        };
        // What is cheap to find out comes first: targets compile both classes to tell.
        let fits = id.0 <= self.compiler.ids.limit()
            && same_prefixes(&class.policy, &new.policy)
            && free()
            && (self.edits)(class, &next());
        fits.then_some(class)
    }
}

impl Round<'_> {
    /// A class that others stand on, as it will be; made before them.
    fn base(&self, want: Want, made: &[ClassId], intent: &Intent) -> Option<Arc<Class>> {
        let index = match want {
            Want::Class(id) => return intent.classes.get(&id).cloned(),
            Want::New(index) => index,
        };
        let (new, id) = (self.new.get(index)?, made.get(index)?);
        Some(Arc::new(Class {
            id: *id,
            policy: new.policy.clone(),
            fingerprint: new.fingerprint,
            base: None,
        }))
    }
}

fn class_of(want: Want, made: &[ClassId]) -> ClassId {
    match want {
        Want::Class(id) => id,
        // Every new class was made.
        Want::New(index) => made.get(index).copied().unwrap_or_default(),
    }
}

/// Whether what two policies have with prefixes is the same. If not, no target can lead packets to their entries in the
/// same way.
fn same_prefixes(a: &Policy, b: &Policy) -> bool {
    fn prefixed(policy: &Policy) -> Vec<(Verdict, &Matcher)> {
        let named = policy.entries.iter().map(|e| (e.action, &*e.matcher));
        let mut list: Vec<_> = named
            .filter(|(_, m)| !m.remote.is_empty() || !m.local.is_empty())
            .collect();
        list.sort_unstable();
        list
    }
    a.direction == b.direction && a.five_tuple == b.five_tuple && prefixed(a) == prefixed(b)
}

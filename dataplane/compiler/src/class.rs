//! Classes: endpoints with equal policy share one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use portcullis_policy::{
    Attachment, Direction, Document, Endpoint, MacAddr, Name, Policy, StrictPrefix, effective, unmanaged,
};
use sha2::{Digest, Sha256};

/// Names a class on every target. 0 is the class of those to whom nothing is denied; it has no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Nothing is denied.
    pub const OPEN: ClassId = ClassId(0);
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// SHA-256 of a policy in canonical form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a policy. Reasons do not count: they change nothing that a packet could tell.
    pub fn of(policy: &Policy) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("v1 {} {}\n", policy.direction, policy.default));
        for entry in &policy.entries {
            let m = &entry.matcher;
            let ranges = |r: &portcullis_policy::Ranges| {
                r.iter()
                    .map(|(low, high)| format!("{low}-{high}"))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            hash.update(format!(
                "{} {} {} v4={} v6={} {} dst={} src={} remote={:?} local={:?} icmp={:?} flags={:?}\n",
                entry.tier,
                entry.origin,
                entry.action,
                m.families.v4,
                m.families.v6,
                m.protocol,
                ranges(&m.dst_ports),
                ranges(&m.src_ports),
                m.remote,
                m.local,
                m.icmp.map(|i| (i.kind, i.code)),
                m.flags,
            ));
        }
        Fingerprint(hash.finalize().into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One distinct verdict function of a direction.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    /// Its id, stable across restarts, never used again for another.
    pub id: ClassId,
    /// Its policy.
    pub policy: Policy,
    /// The policy's fingerprint.
    pub fingerprint: Fingerprint,
}

/// An endpoint as targets need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointIntent {
    /// Its name.
    pub name: Name,
    /// Where it plugs in.
    pub attachments: Vec<Attachment>,
    /// Its MACs.
    pub macs: Vec<MacAddr>,
    /// Its addresses.
    pub addresses: Vec<StrictPrefix>,
    /// Whether it may send only with those.
    pub source_guard: bool,
    /// Class of what it sends.
    pub egress: ClassId,
    /// Class of what it is sent.
    pub ingress: ClassId,
}

impl EndpointIntent {
    /// Its class in a direction.
    pub fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}

/// The desired state of one generation, the same for every target.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// Number of the committed desired state.
    pub generation: u64,
    /// Every class in use.
    pub classes: BTreeMap<ClassId, Arc<Class>>,
    /// Every endpoint.
    pub endpoints: BTreeMap<Name, Arc<EndpointIntent>>,
    /// Classes of ports without an endpoint, egress and ingress.
    pub unmanaged: (ClassId, ClassId),
}

impl Default for ClassId {
    fn default() -> Self {
        ClassId::OPEN
    }
}

/// Resolves documents into intents and keeps class ids stable.
#[derive(Debug, Clone)]
pub struct Compiler {
    next: u32,
    known: HashMap<Fingerprint, ClassId>,
    last: Option<(Document, Arc<Intent>)>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new(1, [])
    }
}

impl Compiler {
    /// One that knows the classes of an earlier run, and the first id that was never used.
    pub fn new(next: u32, known: impl IntoIterator<Item = (Fingerprint, ClassId)>) -> Self {
        let known: HashMap<Fingerprint, ClassId> = known.into_iter().collect();
        let above = known.values().map(|id| id.0 + 1).max().unwrap_or(1);
        Compiler {
            next: next.max(above).max(1),
            known,
            last: None,
        }
    }

    /// The first class id that was never used: persist it with the classes.
    pub fn next_id(&self) -> u32 {
        self.next
    }

    /// Resolves a document. What did not change since the last one is taken over.
    pub fn resolve(&mut self, document: &Document, generation: u64) -> Arc<Intent> {
        let last = self.last.take();
        let same_rules = last.as_ref().is_some_and(|(before, _)| {
            before.mandatory == document.mandatory
                && before.baseline == document.baseline
                && before.defaults == document.defaults
                && before.unmanaged == document.unmanaged
                && before.profiles == document.profiles
        });
        let mut round = Round {
            compiler: self,
            document,
            classes: HashMap::new(),
            by_profiles: HashMap::new(),
            before: last.as_ref().filter(|_| same_rules).map(|(d, i)| (d, i.as_ref())),
        };
        let open = [Direction::Egress, Direction::Ingress].map(|d| round.class(unmanaged(document, d)));
        let endpoints = round.endpoints();
        let mut used: Vec<ClassId> = endpoints
            .values()
            .flat_map(|e| [e.egress, e.ingress])
            .chain(open)
            .collect();
        used.sort_unstable();
        used.dedup();
        let classes = used
            .into_iter()
            .filter_map(|id| Some((id, round.find(id)?)))
            .collect();
        let intent = Arc::new(Intent {
            generation,
            classes,
            endpoints,
            unmanaged: (open[0], open[1]),
        });
        self.known = intent.classes.values().map(|c| (c.fingerprint, c.id)).collect();
        self.last = Some((document.clone(), Arc::clone(&intent)));
        intent
    }
}

/// One resolution.
struct Round<'a> {
    compiler: &'a mut Compiler,
    document: &'a Document,
    classes: HashMap<ClassId, Arc<Class>>,
    by_profiles: HashMap<&'a [Name], (ClassId, ClassId)>,
    before: Option<(&'a Document, &'a Intent)>,
}

impl<'a> Round<'a> {
    fn find(&self, id: ClassId) -> Option<Arc<Class>> {
        let earlier = || self.before.and_then(|(_, intent)| intent.classes.get(&id));
        self.classes.get(&id).or_else(earlier).cloned()
    }

    fn class(&mut self, policy: Policy) -> ClassId {
        if !policy.may_deny() {
            return ClassId::OPEN;
        }
        let fingerprint = Fingerprint::of(&policy);
        let id = match self.compiler.known.get(&fingerprint) {
            Some(id) => *id,
            None => {
                let id = ClassId(self.compiler.next);
                self.compiler.next += 1;
                self.compiler.known.insert(fingerprint, id);
                id
            }
        };
        self.classes.entry(id).or_insert_with(|| {
            Arc::new(Class {
                id,
                policy,
                fingerprint,
            })
        });
        id
    }

    /// Every endpoint; those that did not change are the ones of before. Both maps are sorted by name, so that one
    /// walk through them finds the differences.
    fn endpoints(&mut self) -> BTreeMap<Name, Arc<EndpointIntent>> {
        let mut before = self.before.map(|(document, intent)| {
            document
                .endpoints
                .iter()
                .zip(intent.endpoints.values())
                .peekable()
        });
        let mut resolved = Vec::with_capacity(self.document.endpoints.len());
        for (name, endpoint) in &self.document.endpoints {
            let same = before.as_mut().and_then(|before| {
                while before.next_if(|((earlier, _), _)| *earlier < name).is_some() {}
                let ((_, was), done) = before.next_if(|((earlier, _), _)| *earlier == name)?;
                (Arc::ptr_eq(was, endpoint) || was == endpoint).then(|| Arc::clone(done))
            });
            resolved.push((
                name.clone(),
                same.unwrap_or_else(|| self.endpoint(name, endpoint)),
            ));
        }
        resolved.into_iter().collect()
    }

    fn endpoint(&mut self, name: &Name, endpoint: &'a Endpoint) -> Arc<EndpointIntent> {
        let (egress, ingress) = self.classes_of(name, endpoint);
        Arc::new(EndpointIntent {
            name: name.clone(),
            attachments: endpoint.attachments.clone(),
            macs: endpoint.macs.clone(),
            addresses: endpoint.addresses.clone(),
            source_guard: endpoint.source_guard,
            egress,
            ingress,
        })
    }

    fn classes_of(&mut self, name: &Name, endpoint: &'a Endpoint) -> (ClassId, ClassId) {
        // Without rules of its own an endpoint is what its profiles make it.
        if endpoint.rules.is_empty()
            && let Some(known) = self.by_profiles.get(endpoint.profiles.as_slice())
        {
            return *known;
        }
        let document = self.document;
        let [egress, ingress] =
            Direction::BOTH.map(|d| self.class(effective(document, name.as_str(), endpoint, d)));
        if endpoint.rules.is_empty() {
            self.by_profiles.insert(&endpoint.profiles, (egress, ingress));
        }
        (egress, ingress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(endpoints: &[(&str, &str)]) -> Document {
        let mut text = "version: portcullis/v1\nprofiles: {p: {default: {ingress: deny}}, q: {default: {egress: deny}}}\nendpoints:\n  zz: {}\n".to_string();
        for (name, profile) in endpoints {
            text.push_str(&format!("  {name}: {{profiles: [{profile}]}}\n"));
        }
        Document::from_yaml(&text).unwrap()
    }

    fn essence(intent: &Intent) -> Vec<(String, Vec<Option<Fingerprint>>)> {
        let fingerprint = |id: ClassId| intent.classes.get(&id).map(|c| c.fingerprint);
        let of = |e: &Arc<EndpointIntent>| vec![fingerprint(e.egress), fingerprint(e.ingress)];
        intent
            .endpoints
            .iter()
            .map(|(name, e)| (name.to_string(), of(e)))
            .collect()
    }

    #[test]
    fn what_is_taken_over_is_what_would_be_resolved_anew() {
        let mut compiler = Compiler::default();
        let steps: [&[(&str, &str)]; 7] = [
            &[("b", "p"), ("d", "q")],
            &[("a", "q"), ("b", "p"), ("c", "p"), ("d", "q")],
            &[("a", "q"), ("b", "q"), ("d", "q")],
            &[("d", "q")],
            &[],
            &[("a", "p"), ("zzz", "q")],
            &[("a", "p"), ("zzz", "p")],
        ];
        for (generation, step) in (1..).zip(steps) {
            let document = document(step);
            let intent = compiler.resolve(&document, generation);
            let anew = Compiler::default().resolve(&document, generation);
            assert_eq!(essence(&intent), essence(&anew), "{step:?}");
            assert_eq!(intent.classes.len(), anew.classes.len(), "{step:?}");
        }
    }

    #[test]
    fn what_did_not_change_is_the_very_same() {
        let mut compiler = Compiler::default();
        let before = compiler.resolve(&document(&[("a", "p"), ("b", "p")]), 1);
        let after = compiler.resolve(&document(&[("a", "p"), ("b", "q")]), 2);
        assert!(Arc::ptr_eq(&before.endpoints["a"], &after.endpoints["a"]));
        assert_ne!(before.endpoints["b"], after.endpoints["b"]);
        assert_eq!(before.endpoints["a"].ingress, after.endpoints["a"].ingress);
    }
}

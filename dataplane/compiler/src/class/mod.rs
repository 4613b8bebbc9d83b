//! Classes: endpoints with equal policy share one.

mod affected;
mod compiler;
mod fingerprint;
mod ids;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use portcullis_policy::{
    Attachment, Declared, EndpointRole, LinkLocal, MOST_EXCEPTIONS, MacAddr, MaskedV6, Name, PerDirection,
    Policy, Reserved, StrictPrefix,
};

use crate::class_rows::Unsupported;

pub use compiler::Compiler;
pub use fingerprint::Fingerprint;
pub use ids::OutOfClasses;

/// Names a class on every target. 0 is the class of those to whom nothing is denied; it has no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class to whose members nothing is denied.
    pub const OPEN: ClassId = ClassId(0);
}

impl Default for ClassId {
    fn default() -> Self {
        ClassId::OPEN
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One distinct verdict function of a direction.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    /// Its id, stable across restarts. A class edited in place keeps it: see [`Compiler::resolve`]. Rows that are
    /// remembered belong to the fingerprint, not to the id.
    pub id: ClassId,
    /// Its policy in canonical form, under the names that one of its members has for the rules. Another member's own
    /// names stand at the same places of [`canonical`](portcullis_policy::canonical) of its effective policy.
    pub policy: Policy,
    /// Digest of the canonical policy, and of that of the base if there is one: equal ones have equal digests.
    pub fingerprint: Fingerprint,
    /// What the policy is without the rules and unlocks of the endpoint itself, if that denies anything and is not the
    /// same. A target with overlays writes the difference above the rows of the base. Its rules may have had other names
    /// since: the class of this id in the intent has those of now.
    pub base: Option<Arc<Class>>,
}

/// An endpoint as targets need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointIntent {
    /// Name of the endpoint.
    pub name: Name,
    /// Where it plugs in.
    pub attachments: Vec<Attachment>,
    /// MACs that the endpoint declares.
    pub macs: Vec<MacAddr>,
    /// Addresses and prefixes that the endpoint declares.
    pub addresses: Vec<StrictPrefix>,
    /// The scope in which its MACs and addresses are its alone.
    pub network: Name,
    /// Those of its MACs and addresses that other endpoints of its network have, too; see
    /// [`shares_mac`](Self::shares_mac).
    pub shared: Vec<Declared>,
    /// What it may send beside what any server sends; see [`has_role`](Self::has_role).
    pub roles: BTreeSet<EndpointRole>,
    /// Whether it may send only with its MACs and addresses.
    pub source_guard: bool,
    /// Which link-local addresses the source guard lets it use.
    pub link_local: LinkLocal,
    /// Classes of what it sends and of what it receives.
    pub classes: PerDirection<ClassId>,
    /// What its classes become by themselves as its unlocks end, if nobody changes anything: rising in time.
    pub transitions: Vec<ScheduledTransition>,
}

/// What an endpoint's classes are from a moment on, when unlocks have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduledTransition {
    /// The moment, in seconds since the Unix epoch.
    pub at: u64,
    /// The endpoint's classes from then on.
    pub classes: PerDirection<ClassId>,
}

impl EndpointIntent {
    /// Whether another one differs in nothing but its classes, now or when unlocks end.
    pub fn differs_in_classes_only(&self, other: &Self) -> bool {
        let moved = EndpointIntent {
            classes: other.classes,
            transitions: other.transitions.clone(),
            ..self.clone()
        };
        moved == *other
    }

    /// Whether it may send what this role sends.
    pub fn has_role(&self, role: EndpointRole) -> bool {
        self.roles.contains(&role)
    }

    /// The link-local addresses of an intent that it may not choose by itself; nothing when it may choose none.
    pub fn link_local_exceptions(&self, intent: &Intent) -> Option<Arc<[MaskedV6]>> {
        let any = self.link_local == LinkLocal::Any;
        intent.link_local.clone().filter(|_| any)
    }

    /// Whether other endpoints of its network have this MAC, too: frames for it go to the port that used it last, or to
    /// all of them.
    pub fn shares_mac(&self, mac: MacAddr) -> bool {
        self.shared.contains(&Declared::Mac(mac))
    }

    /// Whether other endpoints of its network have this address or prefix, too.
    pub fn shares_address(&self, prefix: StrictPrefix) -> bool {
        self.shared.contains(&Declared::Address(prefix))
    }
}

/// The desired state of one generation, the same for every target. Its maps share what did not change with those of
/// the intent before, so that [`OrdMap::diff`] of any two of them is quick.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// Number of the committed desired state.
    pub generation: u64,
    /// Every class in use.
    pub classes: OrdMap<ClassId, Arc<Class>>,
    /// Those that nothing has, and that others stand on.
    pub bases_only: OrdSet<ClassId>,
    /// Every endpoint of the document, by name.
    pub endpoints: OrdMap<Name, Arc<EndpointIntent>>,
    /// Classes of ports without an endpoint.
    pub unmanaged: PerDirection<ClassId>,
    /// MACs and addresses that are no endpoint's, and addresses of DHCP servers. Not part of `changed`: compare it with
    /// that of the intent before.
    pub reserved: Arc<Reserved>,
    /// Link-local addresses that no endpoint may choose by itself; absent when none may choose any. Not part of `changed`.
    pub link_local: Option<Arc<[MaskedV6]>>,
    /// What is not as in the intent before.
    pub changed: Changes,
}

impl Intent {
    /// What a target that learns no link-local addresses says in its status where guarded endpoints have IPv6 addresses.
    pub fn link_local_limits(&self, target: &str) -> Unsupported {
        let why = match &self.link_local {
            Some(_) => "an endpoint may use a link-local address that another one chose first: this target does not learn who \
                        did; `link_local: strict` lets an endpoint use only those of its MACs and declared ones"
                .to_string(),
            None => format!(
                "more than {MOST_EXCEPTIONS} link-local addresses are reserved or declared: every endpoint may use only those of \
                 its MACs (EUI-64) and those that it declares"
            ),
        };
        Unsupported {
            target: target.to_string(),
            rule: "link_local: any".to_string(),
            table: "guard".to_string(),
            why,
        }
    }

    /// The classes that endpoints and ports without an endpoint have, now or when unlocks end. A target without overlays
    /// needs no others.
    pub fn enforced(&self) -> impl Iterator<Item = &Arc<Class>> {
        let classes = self.classes.values();
        classes.filter(|class| !self.bases_only.contains(&class.id))
    }

    /// What of a newer intent can be closed with the classes of this one: for a target that holds this one and cannot hold
    /// the newer. An endpoint whose policy is another there is what it is when every unlock has ended, if it has unlocks:
    /// that may close more than the newer intent does, and opens nothing. `None` when that changes nothing.
    pub fn narrowed(&self, newer: &Intent) -> Option<Intent> {
        let policies = |intent: &Intent, of: &EndpointIntent| {
            let fingerprint = |id| intent.classes.get(&id).map(|class| class.fingerprint);
            of.classes.map(fingerprint)
        };
        let mut endpoints = self.endpoints.clone();
        let mut changed = false;
        for (name, endpoint) in &self.endpoints {
            let Some(last) = endpoint.transitions.last() else {
                continue;
            };
            let same = newer
                .endpoints
                .get(name)
                .is_some_and(|other| policies(self, endpoint) == policies(newer, other));
            if !same {
                let mut endpoint = EndpointIntent::clone(endpoint);
                endpoint.classes = last.classes;
                endpoint.transitions.clear();
                endpoints.insert(name.clone(), Arc::new(endpoint));
                changed = true;
            }
        }
        changed.then(|| Intent {
            endpoints,
            changed: Changes::default(),
            ..self.clone()
        })
    }
}

/// How an intent differs from the one its compiler resolved before. Whoever did not see that very intent looks at
/// everything instead; an intent that was only tried, and never set, was not seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Generation of the intent before; 0 when there was none, and everything is listed.
    pub since: u64,
    /// Endpoints that came, went, or are not what they were; ascending.
    pub endpoints: Vec<Name>,
    /// Classes that came, went, were edited in place, or whose rules have other names; ascending.
    pub classes: Vec<ClassId>,
}

//! Ports under an intent, as far as every kind of target resolves them: what holds at a port, and what became of endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::{ClassId, EndpointIntent, Intent, ScheduledTransition, Unsupported};
use portcullis_policy::{EndpointRole, MacAddr, MaskedV6, Name, PerDirection, StrictPrefix};

use crate::status::Pending;

/// Endpoints of a class that are named with a hit.
pub const NAMED: usize = 16;

/// What holds at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPolicy {
    /// The endpoint; none for an uplink or an unmanaged port.
    pub endpoint: Option<Name>,
    /// MACs it may send with.
    pub guard_macs: Vec<MacAddr>,
    /// Addresses it may send with.
    pub addresses: Vec<StrictPrefix>,
    /// Whether it is held to them.
    pub guard: bool,
    /// Link-local addresses that it may not choose by itself; absent when it may choose none.
    pub link_local: Option<Arc<[MaskedV6]>>,
    /// What it may send beside what any server sends.
    pub roles: BTreeSet<EndpointRole>,
    /// The classes of what its server sends and is sent.
    pub classes: PerDirection<ClassId>,
    /// What these become as unlocks end, if nobody changes anything: rising in time, each later than the moment that the port
    /// [was moved to](Self::move_to).
    pub transitions: Vec<ScheduledTransition>,
}

impl PortPolicy {
    /// Of a port where nothing is denied: an uplink.
    pub fn open() -> Self {
        PortPolicy {
            endpoint: None,
            guard_macs: Vec::new(),
            addresses: Vec::new(),
            guard: false,
            link_local: None,
            roles: BTreeSet::new(),
            classes: PerDirection::from_fn(|_| ClassId::OPEN),
            transitions: Vec::new(),
        }
    }

    /// Of a server's port without an endpoint.
    pub fn unmanaged(intent: &Intent) -> Self {
        PortPolicy {
            classes: intent.unmanaged,
            ..PortPolicy::open()
        }
    }

    /// Of an endpoint's port. `own`: the MACs of its attachment there, which count instead of the endpoint's if there are any.
    pub fn from_endpoint(endpoint: &EndpointIntent, own: &[MacAddr], intent: &Intent) -> Self {
        PortPolicy {
            endpoint: Some(endpoint.name.clone()),
            guard_macs: if own.is_empty() { &endpoint.macs } else { own }.to_vec(),
            addresses: endpoint.addresses.clone(),
            guard: endpoint.source_guard,
            link_local: endpoint.link_local_exceptions(intent),
            roles: endpoint.roles.clone(),
            classes: endpoint.classes,
            transitions: endpoint.transitions.clone(),
        }
    }

    /// Makes it what it is at a time since the Unix epoch: unlocks that have ended by then open nothing.
    pub fn move_to(&mut self, wall: Duration) {
        let passed = self
            .transitions
            .partition_point(|transition| is_past(transition, wall));
        if let Some(last) = self.transitions.drain(..passed).next_back() {
            self.classes = last.classes;
        }
    }

    /// Whether its classes become others by themselves no later than a time since the Unix epoch.
    pub fn is_due(&self, wall: Duration) -> bool {
        self.transitions.first().is_some_and(|first| is_past(first, wall))
    }

    /// Every class that it has now or will have.
    pub fn all_classes(&self) -> impl Iterator<Item = ClassId> {
        let later = self.transitions.iter().flat_map(|transition| transition.classes);
        self.classes.into_iter().chain(later)
    }

    /// Whether its packets pass the guard.
    pub fn guarded(&self) -> bool {
        self.guard && !(self.guard_macs.is_empty() && self.addresses.is_empty())
    }

    /// Whether its endpoint has a role.
    pub fn has_role(&self, role: EndpointRole) -> bool {
        self.roles.contains(&role)
    }

    /// Whether a target that learns no addresses lets it use a link-local one that another chose first. Where none may choose,
    /// because too many are reserved or declared, some that could otherwise are among them.
    fn is_open_to_link_local(&self, intent: &Intent) -> bool {
        let chooses = self.link_local.is_some() || intent.link_local.is_none();
        let v6 = self.addresses.iter().any(|prefix| prefix.0.addr().is_ipv6());
        self.guarded() && !self.guard_macs.is_empty() && v6 && chooses
    }
}

fn is_past(transition: &ScheduledTransition, wall: Duration) -> bool {
    Duration::from_secs(transition.at) <= wall
}

/// The endpoints at ports whose classes become others by themselves no later than a time since the Unix epoch.
pub fn due<'a>(ports: impl Iterator<Item = &'a PortPolicy>, wall: Duration) -> BTreeSet<Name> {
    let due = ports.filter(|port| port.is_due(wall));
    due.filter_map(|port| port.endpoint.clone()).collect()
}

/// The endpoints of each class, up to 16 of them: those whose ports lead to it. A port comes with the name that it has without an
/// endpoint, in parentheses.
pub fn members<'a>(ports: impl Iterator<Item = (&'a PortPolicy, String)>) -> BTreeMap<ClassId, Vec<String>> {
    let mut members: BTreeMap<ClassId, Vec<String>> = BTreeMap::new();
    for (port, place) in ports {
        let name = port.endpoint.as_ref().map_or(place, ToString::to_string);
        for class in port.classes {
            let list = members.entry(class).or_default();
            if list.len() < NAMED && list.last() != Some(&name) {
                list.push(name.clone());
            }
        }
    }
    members
}

/// What became of the endpoints that are meant for a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// Name of the target, as in `[[target]]`.
    pub target: String,
    /// Endpoints with at least one port here.
    pub realized: u64,
    /// Endpoints that wait for something.
    pub pending: Vec<Pending>,
    /// What this target cannot do for some of them.
    pub unsupported: Vec<Unsupported>,
}

impl Resolution {
    /// On a target, of nothing yet.
    pub fn new(target: &str) -> Self {
        Resolution {
            target: target.to_string(),
            ..Resolution::default()
        }
    }

    /// An endpoint, or one attachment of it, waits for something.
    pub fn waits(&mut self, endpoint: &Name, why: String) {
        self.pending.push(Pending {
            endpoint: endpoint.to_string(),
            why,
        });
    }

    /// The target cannot do something: the rule, the table that would, and why.
    pub fn cannot(&mut self, rule: String, table: &str, why: String) {
        self.unsupported.push(Unsupported {
            target: self.target.clone(),
            rule,
            table: table.to_string(),
            why,
        });
    }

    /// The target does not learn who uses a link-local address first. Names that if it matters at any of the ports.
    pub fn learns_no_link_local<'a>(
        &mut self,
        mut ports: impl Iterator<Item = &'a PortPolicy>,
        intent: &Intent,
    ) {
        if ports.any(|port| port.is_open_to_link_local(intent)) {
            self.unsupported.push(intent.link_local_limits(&self.target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn unlocked() -> PortPolicy {
        let classes = |egress| PerDirection {
            egress: ClassId(egress),
            ingress: ClassId(egress + 1),
        };
        let transition = |at, egress| ScheduledTransition {
            at,
            classes: classes(egress),
        };
        PortPolicy {
            endpoint: Some("web".parse().unwrap()),
            classes: classes(10),
            transitions: vec![transition(100, 20), transition(200, 30)],
            ..PortPolicy::open()
        }
    }

    #[test]
    fn unlocks_that_have_ended_open_nothing() {
        let mut port = unlocked();
        assert!(!port.is_due(at(99)) && port.is_due(at(100)));
        assert_eq!(due([&port].into_iter(), at(150)).len(), 1);
        port.move_to(at(99));
        assert_eq!((port.classes.egress, port.transitions.len()), (ClassId(10), 2));
        let classes: Vec<u32> = port.all_classes().map(|class| class.0).collect();
        assert_eq!(classes, [10, 11, 20, 21, 30, 31]);
        port.move_to(at(100));
        assert_eq!((port.classes.egress, port.transitions.len()), (ClassId(20), 1));
        port.move_to(at(900));
        assert_eq!((port.classes.ingress, port.transitions.len()), (ClassId(31), 0));
        assert!(due([&port].into_iter(), at(900)).is_empty());
    }

    #[test]
    fn a_class_names_its_first_members_once() {
        let open = PortPolicy::open();
        let ports = (0..40).map(|n| (&open, format!("(port {n})")));
        let web = unlocked();
        let members = members(ports.chain([(&web, String::new())]));
        assert_eq!(
            members[&ClassId::OPEN].len(),
            NAMED,
            "egress and ingress are one class"
        );
        assert_eq!(members[&ClassId(10)], ["web"]);
    }
}

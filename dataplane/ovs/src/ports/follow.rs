//! The ports of the next intent where it differs from the last one in nothing but classes: the usual change, an own rule or an
//! unlock. Then nothing is looked up anew: the work grows with the endpoints that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use portcullis_backend::PortPolicy;
use portcullis_compiler::{EndpointIntent, Intent};
use portcullis_policy::{Direction, Name};

use super::{Attachments, Ports, Role};
use crate::expiry;

/// The endpoints whose classes differ between two intents.
#[derive(Debug)]
pub struct OtherClasses(BTreeMap<Name, Arc<EndpointIntent>>);

impl OtherClasses {
    /// `None` when the intents differ in more than that.
    pub fn between(from: &Intent, to: &Intent) -> Option<Self> {
        let same = from.unmanaged == to.unmanaged
            && from.link_local == to.link_local
            && from.reserved == to.reserved;
        if !same {
            return None;
        }
        let changed = from.endpoints.diff(&to.endpoints).map(|item| match item {
            DiffItem::Update { old, new } if old.1.differs_in_classes_only(new.1) => {
                Some((new.0.clone(), Arc::clone(new.1)))
            }
            _ => None,
        });
        changed.collect::<Option<_>>().map(OtherClasses)
    }
}

impl Attachments {
    /// Makes the index one of the newer intent.
    pub fn follow(&mut self, changed: &OtherClasses) {
        for (name, endpoint) in &changed.0 {
            for attachment in &endpoint.attachments {
                let entry = match (&attachment.interface, &attachment.iface_id) {
                    (Some(interface), _) => self.by_interface.get_mut(interface),
                    (None, Some(id)) => self.by_iface_id.get_mut(id),
                    (None, None) => None,
                };
                if let Some((_, known)) = entry.filter(|(_, known)| known.name == *name) {
                    *known = Arc::clone(endpoint);
                }
            }
        }
    }
}

impl Ports {
    /// Makes these ports those of the newer intent, at a moment since the Unix epoch. Returns the numbers of those that changed;
    /// `None` when more than their classes changes, and then they are as they were.
    pub fn follow(&mut self, changed: &OtherClasses, wall: Duration) -> Option<BTreeSet<u32>> {
        let mut policies = BTreeMap::new();
        for port in self.ports.values() {
            let Some(policed) = port.policed() else { continue };
            let endpoint = policed.endpoint.as_ref().and_then(|name| changed.0.get(name));
            if endpoint.is_none() && !policed.is_due(wall) {
                continue;
            }
            let mut policy = policed.policy.clone();
            if let Some(endpoint) = endpoint {
                policy.classes = endpoint.classes;
                policy.transitions.clone_from(&endpoint.transitions);
            }
            policy.move_to(wall);
            // What no row carries is named beside the ports.
            if has_beyond(&policy) || has_beyond(&policed.policy) {
                return None;
            }
            policies.insert(port.number, policy);
        }
        let numbers = policies.keys().copied().collect();
        for (number, policy) in policies {
            if let Some(Role::ManagedPort(policed)) = self.ports.get_mut(&number).map(|port| &mut port.role) {
                policed.policy = policy;
            }
        }
        Some(numbers)
    }
}

fn has_beyond(policy: &PortPolicy) -> bool {
    Direction::BOTH
        .iter()
        .any(|direction| expiry::beyond(policy.classes[*direction], &policy.transitions, *direction) > 0)
}

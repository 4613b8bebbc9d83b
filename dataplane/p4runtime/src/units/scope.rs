//! What of an intent is about one device: its endpoints and ports, and the classes that they use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use portcullis_compiler::{ClassId, EndpointIntent, Intent};
use portcullis_policy::{Attachment, IdentifiedBy, Name};

use crate::attachment_points::{At, AttachmentPoint, AttachmentPoints, meant};

/// What of an intent is about this target: its endpoints, their attachments here, the classes they use. Ports of servers
/// without an endpoint have rows of their own; uplinks have none. Where rows name ports (`by_port`), a VLAN of one has none.
pub(super) fn here(intent: &Intent, points: &AttachmentPoints, target: &str, by_port: bool) -> Intent {
    let unmanaged = points.points.values().any(|p| p.endpoint.is_none() && !p.uplink)
        || (by_port && !points.tagged_servers.is_empty());
    let whole_port = |p: &&AttachmentPoint| p.by == IdentifiedBy::Address || !by_port || !is_tagged(p.at.1);
    let named = points.all().filter(whole_port);
    let named: HashMap<&Name, &AttachmentPoint> =
        named.filter_map(|p| Some((p.endpoint.as_ref()?, p))).collect();
    // An attachment that cannot be here, at an uplink say, has none.
    let is_here = |name: &Name, at: At| {
        let point = points.points.get(&at);
        point.is_some_and(|point| point.endpoint.as_ref() == Some(name))
    };
    let has_rows = |name: &Name, a: &Attachment| {
        let vlan = a.vlan.vid();
        a.port.is_some_and(|port| match a.by {
            _ if !by_port => true,
            IdentifiedBy::Port => !is_tagged(vlan) && is_here(name, (port, vlan)),
            IdentifiedBy::Address => points.by_address.contains_key(&((port, vlan), name.clone())),
        })
    };
    let here = |(name, endpoint): (&Name, &Arc<EndpointIntent>)| {
        let point = named.get(name)?;
        let attachments = || meant(endpoint, target).filter(|a| has_rows(name, a));
        let same = endpoint.classes == point.classes
            && endpoint.transitions == point.transitions
            && attachments().count() == endpoint.attachments.len();
        let endpoint = match same {
            true => Arc::clone(endpoint),
            // Unlocks may have ended since the intent was made.
            false => Arc::new(EndpointIntent {
                classes: point.classes,
                transitions: point.transitions.clone(),
                attachments: attachments().cloned().collect(),
                ..EndpointIntent::clone(endpoint)
            }),
        };
        Some((name.clone(), endpoint))
    };
    let endpoints: OrdMap<Name, Arc<EndpointIntent>> = intent.endpoints.iter().filter_map(here).collect();
    // Rows of the classes that unlocks fall to are there before they end: then there is room for them, and an end is a
    // change of the rows that lead to a class. Where rows name ports, a class that no port has yet has no rows.
    let of_servers = intent.unmanaged.into_iter().filter(|_| unmanaged);
    let used: BTreeSet<ClassId> = points
        .policies()
        .flat_map(|p| p.all_classes().take(if by_port { 2 } else { usize::MAX }))
        .chain(of_servers)
        .collect();
    let mut classes = OrdMap::new();
    let mut bases_only = OrdSet::new();
    for (id, class) in intent.classes.iter().filter(|(id, _)| used.contains(id)) {
        classes.insert(*id, Arc::clone(class));
        if let Some(base) = class.base.as_ref().filter(|base| !used.contains(&base.id)) {
            classes.insert(base.id, Arc::clone(base));
            bases_only.insert(base.id);
        }
    }
    Intent {
        generation: intent.generation,
        classes,
        bases_only,
        endpoints,
        unmanaged: if unmanaged {
            intent.unmanaged
        } else {
            Default::default()
        },
        reserved: Arc::clone(&intent.reserved),
        link_local: intent.link_local.clone(),
        ..Intent::default()
    }
}

/// The numbers of attachments, as rows without classes name them.
pub(super) fn named_ports(intent: &Intent, target: &str) -> BTreeMap<String, u32> {
    let endpoints = intent.endpoints.values();
    endpoints
        .flat_map(|e| meant(e, target))
        .filter_map(|a| Some((a.to_string(), a.port?)))
        .collect()
}

/// The numbers of server ports without an endpoint, as rows without classes name them.
pub(super) fn unmanaged_ports(points: &AttachmentPoints) -> BTreeMap<String, u32> {
    let alone = points
        .points
        .values()
        .filter(|p| p.endpoint.is_none() && !p.uplink);
    let ports = alone.map(|point| point.at.0);
    ports
        .chain(points.tagged_servers.iter().copied())
        .map(|port| (format!("port {port} without an endpoint"), port))
        .collect()
}

/// Whether a VLAN is one that frames name in a tag.
pub(crate) fn is_tagged(vlan: Option<u16>) -> bool {
    vlan.is_some_and(|vid| vid != 0)
}

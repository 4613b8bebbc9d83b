//! Endpoints behind one port whose packets are distinguished by their addresses.
//!
//! A row for an address of an endpoint is right only if nothing else behind the port can send with it. So the targets behind the port
//! have to hold the endpoint's policy whole and to guard the sources of all their endpoints, and ports of theirs without an endpoint
//! have to be closed. Where one of these is missing the endpoint has no rows here, and waits with the reason.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use portcullis_compiler::{EndpointIntent, Intent};
use portcullis_policy::{Attachment, Name};

use super::{AttachmentPoint, AttachmentPoints, KnownPorts, PortSpace};
use crate::behind::Inner;

/// An endpoint and its point at a port that others may share.
type Sharing<'i> = (&'i EndpointIntent, AttachmentPoint);

/// What is attached to the targets behind one port.
#[derive(Debug, Default)]
struct Behind<'i> {
    /// The first endpoint that is not held to its addresses.
    unguarded: Option<&'i Name>,
    /// Every address, with its endpoint.
    addresses: Vec<(IpNet, &'i Name)>,
}

impl<'i> Behind<'i> {
    /// Endpoints of which an address is another's, too (in another network), each with the other.
    fn clashes(&mut self) -> BTreeMap<&'i Name, &'i Name> {
        self.addresses.sort_unstable();
        let mut clashes = BTreeMap::new();
        // A prefix sorts before all that lie in it.
        let mut around: Vec<(IpNet, &Name)> = Vec::new();
        for (prefix, name) in &self.addresses {
            around.retain(|(outer, _)| outer.contains(prefix));
            for (_, other) in around.iter().filter(|(_, other)| other != name) {
                clashes.entry(*name).or_insert(*other);
                clashes.entry(*other).or_insert(*name);
            }
            around.push((*prefix, name));
        }
        clashes
    }
}

/// Finds the points of endpoints that share ports.
pub(super) fn resolve(
    found: &mut AttachmentPoints,
    sharing: Vec<Sharing<'_>>,
    intent: &Intent,
    known: &KnownPorts,
    space: PortSpace,
) {
    if sharing.is_empty() {
        return;
    }
    if !space.by_address {
        let why = "by address: this switch leads each port and VLAN to one policy; attach the endpoint by port, on a VLAN of its own";
        for (endpoint, point) in sharing {
            found
                .resolution
                .waits(&endpoint.name, format!("port {}, {why}", point.at.0));
        }
        return;
    }
    found.shared_ports = sharing.iter().map(|(_, point)| point.at.0).collect();
    let mut behind = all_behind(&found.shared_ports, intent, known);
    let clashes: BTreeMap<u32, BTreeMap<&Name, &Name>> = behind
        .iter_mut()
        .map(|(port, behind)| (*port, behind.clashes()))
        .collect();
    let is_open = has_open_ports(intent);
    let by_port = found.points.values().filter_map(|point| point.endpoint.clone());
    let by_port: BTreeSet<Name> = by_port.collect();
    let mut realized: BTreeSet<&Name> = BTreeSet::new();
    for (endpoint, point) in sharing {
        let port = point.at.0;
        let name = &endpoint.name;
        let mut at_port = found.points.range((port, None)..=(port, Some(u16::MAX)));
        let whole = at_port.next().map(|(_, point)| point);
        let unguarded = behind.get(&port).and_then(|behind| behind.unguarded);
        let clash = clashes.get(&port).and_then(|clashes| clashes.get(name));
        let why = if !found.policed_behind.contains(name) {
            Some("no target behind it holds the policy of the endpoint whole and guards its sources: attach the endpoint to one, and \
                  set `links` in its [[target]]".to_string())
        } else if let Some(whole) = whole {
            let other = whole
                .endpoint
                .as_ref()
                .map_or("an uplink".to_string(), ToString::to_string);
            let has_all = match whole.at.1 {
                None | Some(0) => ", and all of the port has its policy",
                Some(_) => "",
            };
            Some(format!(
                "{other} is attached to it by port{has_all}: write `by: address` there, too"
            ))
        } else if is_open {
            Some(
                "ports without an endpoint behind it may send with any address: write `unmanaged: deny`"
                    .to_string(),
            )
        } else if let Some(other) = unguarded {
            Some(format!(
                "{other} is behind it, too, and may send with any address: give it addresses and source_guard: true, at a target that guards \
                 sources"
            ))
        } else {
            clash.map(|other| {
                format!("{other} is behind it, too, and has the same address: attach one of them elsewhere")
            })
        };
        match why {
            Some(why) => found
                .resolution
                .waits(name, format!("port {port}, by address: {why}")),
            None => {
                if !by_port.contains(name) {
                    realized.insert(name);
                }
                found.by_address.insert((point.at, name.clone()), point);
            }
        }
    }
    found.resolution.realized += realized.len() as u64;
}

/// Whether ports of servers without an endpoint may send anything.
fn has_open_ports(intent: &Intent) -> bool {
    let class = intent.classes.get(&intent.unmanaged.egress);
    class.is_none_or(|class| !(class.policy.entries.is_empty() && class.policy.default.denies()))
}

/// What is behind each of these ports.
fn all_behind<'i>(
    ports: &BTreeSet<u32>,
    intent: &'i Intent,
    known: &KnownPorts,
) -> BTreeMap<u32, Behind<'i>> {
    let mut inner: BTreeMap<&str, (&Inner, Vec<u32>)> = BTreeMap::new();
    for port in ports {
        for target in known.behind.get(port).into_iter().flatten() {
            let (_, ports) = inner
                .entry(target.target.as_str())
                .or_insert((target, Vec::new()));
            ports.push(*port);
        }
    }
    // The ports that an attachment leads to, each with whether the target there guards sources.
    let ports_of = |attachment: &Attachment| {
        let named = attachment
            .target
            .as_deref()
            .map(|name| inner.get(name).into_iter().collect());
        let candidates: Vec<&(&Inner, Vec<u32>)> = named.unwrap_or_else(|| inner.values().collect());
        let has = candidates
            .into_iter()
            .filter(|(target, _)| target.may_have(attachment));
        has.flat_map(|(target, ports)| ports.iter().map(|port| (*port, target.is_whole)))
            .collect::<Vec<(u32, bool)>>()
    };
    let mut all: BTreeMap<u32, Behind<'i>> = BTreeMap::new();
    for endpoint in intent.endpoints.values() {
        let mut reached: BTreeMap<u32, bool> = BTreeMap::new();
        for (port, guards) in endpoint.attachments.iter().flat_map(ports_of) {
            *reached.entry(port).or_default() |= guards;
        }
        for (port, guards) in reached {
            let behind = all.entry(port).or_default();
            if !guards || !endpoint.source_guard || endpoint.addresses.is_empty() {
                behind.unguarded.get_or_insert(&endpoint.name);
            }
            let addresses = endpoint.addresses.iter().map(|prefix| (prefix.0, &endpoint.name));
            behind.addresses.extend(addresses);
        }
    }
    all
}

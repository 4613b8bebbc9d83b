//! Resolves the ports of the device: attachments of endpoints, uplinks, and ports without an endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::time::Duration;

use portcullis_backend::{PortPolicy, Resolution};
use portcullis_compiler::{EndpointIntent, Intent};
use portcullis_policy::{Attachment, IdentifiedBy, MacAddr, Name};

use crate::behind::{Inner, nearer};

mod by_address;

/// The ports of a switch that the configuration names; a P4Runtime device cannot be asked for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownPorts {
    /// Name of the target, for messages.
    pub target: String,
    /// Ports that are no servers: nothing is denied there, and every VLAN passes.
    pub uplinks: BTreeSet<u32>,
    /// Ports of servers, with or without an endpoint: those without one are unmanaged, and untagged.
    pub servers: BTreeSet<u32>,
    /// Targets that are cabled to a port, nearer to the endpoints.
    pub behind: BTreeMap<u32, Vec<Inner>>,
}

/// What a device can tell of the ports that attachments name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSpace {
    /// The highest port number.
    pub max: u128,
    /// Whether rows of the policy name the endpoint's addresses beside the port.
    pub by_address: bool,
}

impl PortSpace {
    /// Ports up to a number, each with one endpoint on a VLAN.
    pub fn up_to(max: u128) -> Self {
        PortSpace {
            max,
            by_address: false,
        }
    }
}

/// A port, and the VLAN of it that is meant: 0 for frames without a tag, any when absent.
pub type At = (u32, Option<u16>);

/// Frames without a tag, and those whose tag names no VLAN.
const UNTAGGED: Option<u16> = Some(0);

/// What is behind a port: what holds there, and where frames for it go. Its fields are read as those of its policy are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentPoint {
    /// Port and VLAN on it.
    pub at: At,
    /// What tells its packets from those of others at the port.
    pub by: IdentifiedBy,
    /// The policy of the server or uplink behind the port and VLAN.
    pub policy: PortPolicy,
    /// Whether the port is an uplink, which no policy holds for.
    pub uplink: bool,
    /// The network of the endpoint.
    pub network: Option<Name>,
    /// MACs that frames are delivered to here and at no other port.
    pub macs: Vec<MacAddr>,
}

impl Deref for AttachmentPoint {
    type Target = PortPolicy;

    fn deref(&self) -> &PortPolicy {
        &self.policy
    }
}

impl AttachmentPoint {
    /// Where nothing is delivered to a known MAC.
    fn new(at: At, policy: PortPolicy) -> Self {
        AttachmentPoint {
            at,
            by: IdentifiedBy::Port,
            policy,
            uplink: false,
            network: None,
            macs: Vec::new(),
        }
    }
}

/// Everything that is behind the ports of a switch under an intent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachmentPoints {
    /// By port and VLAN.
    pub points: BTreeMap<At, AttachmentPoint>,
    /// Endpoints whose addresses distinguish them from others at their port, by port, VLAN and name.
    pub by_address: BTreeMap<(At, Name), AttachmentPoint>,
    /// Ports with endpoints that are attached by address, also where these have to wait: no other rows hold there.
    pub shared_ports: BTreeSet<u32>,
    /// Ports of servers where endpoints are on VLANs only. Where rows name whole ports, these have the policy of ports without
    /// an endpoint.
    pub tagged_servers: BTreeSet<u32>,
    /// Endpoints that a target behind their ports polices whole, so that a table which is too small may leave them to it.
    pub policed_behind: BTreeSet<Name>,
    /// MACs that are at several ports.
    pub several: BTreeMap<MacAddr, BTreeSet<u32>>,
    /// What became of the endpoints. What is unsupported holds for our own program: it learns no MACs and no addresses, and tells
    /// networks apart by VLAN alone.
    pub resolution: Resolution,
}

impl AttachmentPoints {
    /// Where an endpoint is.
    pub fn of<'a>(&'a self, endpoint: &'a Name) -> impl Iterator<Item = &'a AttachmentPoint> {
        self.all().filter(move |p| p.endpoint.as_ref() == Some(endpoint))
    }

    /// Every point, those that share a port included.
    pub fn all(&self) -> impl Iterator<Item = &AttachmentPoint> {
        self.points.values().chain(self.by_address.values())
    }

    /// Every policy, to be changed.
    pub fn policies_mut(&mut self) -> impl Iterator<Item = &mut PortPolicy> {
        let all = self.points.values_mut().chain(self.by_address.values_mut());
        all.map(|point| &mut point.policy)
    }

    /// What is behind the ports at a moment since the Unix epoch: unlocks that have ended by then open nothing.
    pub fn at(mut self, wall: Duration) -> Self {
        self.policies_mut().for_each(|policy| policy.move_to(wall));
        self
    }

    /// What holds at the ports.
    pub fn policies(&self) -> impl Iterator<Item = &PortPolicy> {
        self.all().map(|point| &point.policy)
    }

    /// Every port that has a point, once each.
    pub fn ports(&self) -> BTreeSet<u32> {
        self.points.keys().map(|(port, _)| *port).collect()
    }
}

/// The attachments of an endpoint that are meant for a target.
pub fn meant<'a>(endpoint: &'a EndpointIntent, target: &'a str) -> impl Iterator<Item = &'a Attachment> {
    endpoint
        .attachments
        .iter()
        .filter(move |a| a.target.as_deref() == Some(target))
}

/// Finds out who is where.
pub fn resolve(intent: &Intent, known: &KnownPorts, space: PortSpace) -> AttachmentPoints {
    let port_max = space.max;
    let mut found = AttachmentPoints {
        resolution: Resolution::new(&known.target),
        ..AttachmentPoints::default()
    };
    let exists = |port: &&u32| u128::from(**port) <= port_max;
    for port in known.uplinks.iter().chain(&known.servers).filter(|p| !exists(p)) {
        let why = format!("port {port} cannot be: the ports of this switch go to {port_max}");
        found
            .resolution
            .cannot("uplinks and servers".to_string(), "attach", why);
    }
    for port in known.uplinks.iter().filter(exists) {
        let point = AttachmentPoint {
            uplink: true,
            ..AttachmentPoint::new((*port, None), PortPolicy::open())
        };
        found.points.insert(point.at, point);
    }
    let mut sharing = Vec::new();
    for endpoint in intent.endpoints.values() {
        let attachments: Vec<&Attachment> = meant(endpoint, &known.target).collect();
        let mut realized = false;
        for attachment in attachments {
            match place(attachment, known, port_max) {
                Ok(at) if attachment.by == IdentifiedBy::Address => {
                    let point = AttachmentPoint {
                        by: attachment.by,
                        macs: Vec::new(),
                        ..point(endpoint, attachment, at, intent)
                    };
                    sharing.push((endpoint.as_ref(), point));
                }
                Ok(at) => {
                    realized = true;
                    let point = point(endpoint, attachment, at, intent);
                    found.points.insert(at, point);
                }
                Err(why) => found.resolution.waits(&endpoint.name, why),
            }
        }
        found.resolution.realized += u64::from(realized);
        if !nearer(endpoint, known, true).is_empty() {
            found.policed_behind.insert(endpoint.name.clone());
        }
    }
    by_address::resolve(&mut found, sharing, intent, known, space);
    let mut taken = found.ports();
    taken.extend(&found.shared_ports);
    let tagged = |port: &&u32| {
        let mut vlans = found.points.keys().filter(|at| at.0 == **port);
        taken.contains(port)
            && !found.shared_ports.contains(port)
            && vlans.all(|(_, vlan)| vlan.is_some_and(|vid| vid != 0))
    };
    found.tagged_servers = known.servers.iter().filter(tagged).copied().collect();
    let servers = known.servers.iter().filter(exists);
    for port in servers.filter(|port| !taken.contains(port)) {
        let point = AttachmentPoint::new((*port, UNTAGGED), PortPolicy::unmanaged(intent));
        found.points.insert(point.at, point);
    }
    without_macs(&mut found);
    claim(&mut found);
    let policies = found.points.values().map(|point| &point.policy);
    found.resolution.learns_no_link_local(policies, intent);
    found.resolution.pending.sort_unstable();
    found
}

fn place(attachment: &Attachment, known: &KnownPorts, port_max: u128) -> Result<At, String> {
    let Some(port) = attachment.port else {
        return Err(format!(
            "{attachment} is not valid on a P4Runtime target: set `port`, the number of its port"
        ));
    };
    if u128::from(port) > port_max {
        return Err(format!("{attachment} cannot be: its ports go to {port_max}"));
    }
    if known.uplinks.contains(&port) {
        return Err(format!("{attachment} is an uplink in the agent's configuration"));
    }
    Ok((port, attachment.vlan.vid()))
}

fn point(endpoint: &EndpointIntent, attachment: &Attachment, at: At, intent: &Intent) -> AttachmentPoint {
    let policy = PortPolicy::from_endpoint(endpoint, &attachment.macs, intent);
    AttachmentPoint {
        network: Some(endpoint.network.clone()),
        macs: policy.guard_macs.clone(),
        ..AttachmentPoint::new(at, policy)
    }
}

fn not_delivered(resolution: &mut Resolution, whose: &str, why: String) {
    resolution.cannot(format!("deliver/{whose}"), "l2", why);
}

/// Servers of which no MAC is known: what is sent to one MAC does not reach them.
fn without_macs(found: &mut AttachmentPoints) {
    let mut unmanaged: Vec<String> = Vec::new();
    for point in found.points.values().filter(|p| !p.uplink && p.macs.is_empty()) {
        match &point.endpoint {
            Some(name) => not_delivered(
                &mut found.resolution,
                name.as_str(),
                format!(
                    "it declares no MACs, and this switch learns none: frames for one MAC do not reach port {}; declare its \
                     macs",
                    point.at.0
                ),
            ),
            None => unmanaged.push(point.at.0.to_string()),
        }
    }
    if !unmanaged.is_empty() {
        let why = format!(
            "no endpoint is attached to port {}, and this switch learns no MACs: frames for one MAC do not reach it; declare \
             an endpoint with its macs",
            unmanaged.join(", ")
        );
        not_delivered(&mut found.resolution, "(unmanaged)", why);
    }
}

/// Where MACs are. Frames for one that is at several ports (`shared`, or an endpoint with several attachments) go to all of
/// them. Endpoints of two networks may have the same MAC; where they are on the same VLAN, too, the first gets its frames.
fn claim(found: &mut AttachmentPoints) {
    let mut places: HashMap<MacAddr, Vec<At>> = HashMap::new();
    for point in found.points.values() {
        for mac in &point.macs {
            places.entry(*mac).or_default().push(point.at);
        }
    }
    let several: BTreeMap<MacAddr, Vec<At>> = places.into_iter().filter(|(_, at)| at.len() > 1).collect();
    for (mac, places) in several {
        let kept = apart(found, mac, &places);
        let ports: BTreeSet<u32> = kept.iter().map(|at| at.0).collect();
        // One port has it, on several VLANs.
        let only = kept.first().filter(|_| ports.len() == 1);
        for at in places.iter().filter(|at| Some(*at) != only) {
            if let Some(point) = found.points.get_mut(at) {
                point.macs.retain(|has| *has != mac);
            }
        }
        if only.is_none() {
            found.several.insert(mac, ports);
        }
    }
}

/// The places of a MAC where frames for it may go without reaching another network.
fn apart(found: &mut AttachmentPoints, mac: MacAddr, places: &[At]) -> Vec<At> {
    let overlaps = |a: &At, b: &At| a.1.is_none() || b.1.is_none() || a.1 == b.1;
    let mut kept: Vec<At> = Vec::new();
    for at in places {
        let Some(point) = found.points.get(at) else {
            continue;
        };
        let other = kept
            .iter()
            .filter(|first| overlaps(first, at))
            .filter_map(|first| found.points.get(first))
            .find(|first| first.network != point.network);
        let named =
            |point: &AttachmentPoint| point.endpoint.as_ref().map_or(String::new(), ToString::to_string);
        match other {
            None => kept.push(*at),
            Some(first) => {
                let why = format!(
                    "{} of another network has its MAC {mac} on the same VLAN, and this switch tells networks apart by VLAN: \
                     frames for it go to port {} alone; give each network a VLAN of its own",
                    named(first),
                    first.at.0
                );
                let whose = named(point);
                not_delivered(&mut found.resolution, &whose, why);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_compiler::{ClassId, Compiler};
    use portcullis_policy::{Document, EndpointRole};

    const DOCUMENT: &str = r#"
version: portcullis/v1
unmanaged: deny
endpoints:
  web: {attachments: [{port: 1, target: tor}, {interface: web}], macs: ["02:00:00:00:00:01"]}
  two: {attachments: [{port: 2, target: tor}, {port: 3, target: tor}], macs: ["02:00:00:00:00:02"]}
  tagged: {attachments: [{port: 4, vlan: 7, target: tor}], source_guard: false, macs: ["02:00:00:00:00:04"]}
  trunk: {attachments: [{port: 6, vlan: any, target: tor}], roles: [router]}
  lost: {attachments: [{port: 600, target: tor}]}
  up: {attachments: [{port: 9, target: tor}]}
  named: {attachments: [{interface: x, target: tor}]}
  other: {attachments: [{port: 1, target: else}]}
"#;

    #[test]
    fn everybody_is_found_or_waits_for_a_reason() {
        let document = Document::from_yaml(DOCUMENT).unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let known = KnownPorts {
            target: "tor".to_string(),
            uplinks: [9].into(),
            servers: [1, 5].into(),
            ..KnownPorts::default()
        };
        let found = resolve(&intent, &known, PortSpace::up_to(511));
        let at: Vec<At> = found.points.keys().copied().collect();
        assert_eq!(
            at,
            [
                (1, UNTAGGED),
                (2, UNTAGGED),
                (3, UNTAGGED),
                (4, Some(7)),
                (5, UNTAGGED),
                (6, None),
                (9, None)
            ]
        );
        assert_eq!(found.resolution.realized, 4);
        let why: Vec<String> = found
            .resolution
            .pending
            .iter()
            .map(|p| format!("{}: {}", p.endpoint, p.why))
            .collect();
        assert_eq!(
            why,
            [
                "lost: port 600 cannot be: its ports go to 511",
                "named: interface x is not valid on a P4Runtime target: set `port`, the number of its port",
                "up: port 9 is an uplink in the agent's configuration",
            ]
        );
        let point = |port, vlan| &found.points[&(port, vlan)];
        assert!(point(1, UNTAGGED).guarded() && point(1, UNTAGGED).roles.is_empty());
        assert!(!point(4, Some(7)).guarded() && point(4, Some(7)).macs.len() == 1);
        assert_eq!(point(6, None).roles, [EndpointRole::Router].into());
        // Its one MAC may be at either port.
        let two: MacAddr = "02:00:00:00:00:02".parse().unwrap();
        assert_eq!(found.several, [(two, [2, 3].into())].into());
        assert!(point(2, UNTAGGED).guarded() && point(2, UNTAGGED).macs.is_empty());
        assert_eq!(point(5, UNTAGGED).classes, intent.unmanaged);
        assert!(point(9, None).uplink && point(9, None).classes.egress == ClassId::OPEN);
    }

    fn found(endpoints: &str) -> AttachmentPoints {
        let document = format!("version: portcullis/v1\nendpoints:\n{endpoints}");
        let document = Document::from_yaml(&document).unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let known = KnownPorts {
            target: "tor".to_string(),
            uplinks: [9].into(),
            servers: [1, 2, 7, 8].into(),
            ..KnownPorts::default()
        };
        resolve(&intent, &known, PortSpace::up_to(511))
    }

    fn reasons(found: &AttachmentPoints) -> Vec<String> {
        let list = found.resolution.unsupported.iter();
        list.map(|u| format!("{}: {}", u.rule, u.why)).collect()
    }

    #[test]
    fn what_is_not_known_of_link_local_addresses_is_reported() {
        let server = |n: usize, more: &str| {
            format!(
                "  e{n}: {{attachments: [{{port: {n}, target: tor}}], macs: ['02:00:00:00:00:{n:02x}'], addresses: [{more}]}}\n"
            )
        };
        let of = |endpoints: &str| {
            let mut said = reasons(&found(endpoints));
            said.retain(|why| why.starts_with("link_local: any"));
            said.concat()
        };
        assert_eq!(
            of(&server(1, "192.0.2.1")),
            "",
            "no IPv6, no link-local addresses"
        );
        assert!(of(&server(1, "'2001:db8::1'")).contains("does not learn who did"));
        assert_eq!(
            of(&server(
                1,
                "'2001:db8::1'], link_local: strict, labels: {a: b}, profiles: ["
            )),
            ""
        );
        let many: Vec<String> = (1..=70).map(|n| format!("'fe80::a:0:0:{n:x}'")).collect();
        assert!(of(&server(1, &many.join(", "))).contains("more than 64 link-local addresses"));
        let points = found(&server(1, &many.join(", ")));
        assert!(points.points.values().all(|point| point.link_local.is_none()));
    }

    #[test]
    fn what_no_frame_reaches_is_reported() {
        let found = found("  silent: {attachments: [{port: 1, target: tor}], addresses: [192.0.2.1]}\n");
        assert_eq!(
            reasons(&found),
            [
                "deliver/silent: it declares no MACs, and this switch learns none: frames for one MAC do not reach port 1; \
                 declare its macs",
                "deliver/(unmanaged): no endpoint is attached to port 2, 7, 8, and this switch learns no MACs: frames for one \
                 MAC do not reach it; declare an endpoint with its macs",
            ]
        );
    }

    #[test]
    fn a_shared_mac_is_at_every_port_of_those_who_share_it() {
        let mac = "00:00:5e:00:01:0a";
        let found = found(&format!(
            "  a: {{attachments: [{{port: 1, target: tor}}], macs: [\"{mac}\"], shared: [\"{mac}\"], labels: {{tenant: t}}}}\n  \
             b: {{attachments: [{{port: 2, target: tor}}], macs: [\"{mac}\"], shared: [\"{mac}\"], labels: {{tenant: t}}}}\n"
        ));
        assert_eq!(found.several, [(mac.parse().unwrap(), [1, 2].into())].into());
        assert!(found.points.values().all(|p| p.macs.is_empty()));
        assert_eq!(reasons(&found).len(), 1, "the ports without an endpoint");
    }

    #[test]
    fn networks_with_the_same_mac_are_apart_by_their_vlan() {
        let mac = "02:00:00:00:00:01";
        let endpoint = |name: &str, at: &str| {
            format!(
                "  {name}: {{attachments: [{{{at}, target: tor}}], macs: [\"{mac}\"], network: {name}}}\n"
            )
        };
        let apart = found(
            &[
                endpoint("a", "port: 1, vlan: 5"),
                endpoint("b", "port: 2, vlan: 6"),
            ]
            .concat(),
        );
        assert_eq!(apart.several, [(mac.parse().unwrap(), [1, 2].into())].into());
        let one_port = found(
            &[
                endpoint("a", "port: 1, vlan: 5"),
                endpoint("b", "port: 1, vlan: 6"),
            ]
            .concat(),
        );
        assert!(one_port.several.is_empty());
        assert_eq!(one_port.points[&(1, Some(5))].macs.len(), 1);
        assert!(
            one_port.points[&(1, Some(6))].macs.is_empty(),
            "one row leads to the port"
        );
        let mixed = found(
            &[
                endpoint("a", "port: 1, vlan: 5"),
                endpoint("b", "port: 2, vlan: any"),
            ]
            .concat(),
        );
        assert!(mixed.several.is_empty() && mixed.points[&(2, None)].macs.is_empty());
        let told = reasons(&mixed).concat();
        assert!(
            told.contains("deliver/b: a of another network has its MAC 02:00:00:00:00:01"),
            "{told}"
        );
    }
}

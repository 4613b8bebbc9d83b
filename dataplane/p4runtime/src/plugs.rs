//! Who is behind which port of the switch: the attachments of endpoints, uplinks, and servers without an endpoint.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use portcullis_backend::Pending;
use portcullis_compiler::{ClassId, EndpointIntent, Fall, Intent, Unsupported};
use portcullis_policy::{Attachment, MacAddr, Name, StrictPrefix};

/// The ports of a switch that the configuration names; a P4Runtime device cannot be asked for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownPorts {
    /// The target's name.
    pub target: String,
    /// Ports that are no servers: nothing is denied there.
    pub uplinks: BTreeSet<u32>,
    /// Ports of servers, with or without an endpoint: those without one are unmanaged.
    pub servers: BTreeSet<u32>,
}

/// A port, and the VLAN of it that is meant; all of it when absent.
pub type At = (u32, Option<u16>);

/// What is behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// Where.
    pub at: At,
    /// The endpoint; none for an uplink or an unmanaged port.
    pub endpoint: Option<Name>,
    /// Not a server.
    pub uplink: bool,
    /// MACs frames are delivered to.
    pub macs: Vec<MacAddr>,
    /// MACs it may send with.
    pub guard_macs: Vec<MacAddr>,
    /// Addresses it may send with.
    pub addresses: Vec<StrictPrefix>,
    /// Whether it is held to them.
    pub guard: bool,
    /// Class of what it sends.
    pub egress: ClassId,
    /// Class of what it is sent.
    pub ingress: ClassId,
    /// What these become as unlocks end, if nobody changes anything: rising in time.
    pub falls: Vec<Fall>,
}

impl Plug {
    /// Whether its packets pass the guard.
    pub fn guarded(&self) -> bool {
        self.guard && !(self.guard_macs.is_empty() && self.addresses.is_empty())
    }

    /// Whether a MAC may be here that no row names.
    pub fn has_unknown_macs(&self) -> bool {
        self.uplink || self.macs.is_empty() || !self.guard
    }

    fn open(at: At) -> Self {
        Plug {
            at,
            endpoint: None,
            uplink: false,
            macs: Vec::new(),
            guard_macs: Vec::new(),
            addresses: Vec::new(),
            guard: false,
            egress: ClassId::OPEN,
            ingress: ClassId::OPEN,
            falls: Vec::new(),
        }
    }

    /// Every class that it has now or will have.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> {
        let later = self.falls.iter().flat_map(|fall| [fall.egress, fall.ingress]);
        [self.egress, self.ingress].into_iter().chain(later)
    }
}

/// Everything that is behind the ports of a switch under an intent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plugs {
    /// By port and VLAN.
    pub plugs: BTreeMap<At, Plug>,
    /// Endpoints that wait for something.
    pub pending: Vec<Pending>,
    /// What cannot be done here for some of them.
    pub unsupported: Vec<Unsupported>,
    /// Endpoints with at least one port here.
    pub realized: u64,
}

impl Plugs {
    /// Where an endpoint is.
    pub fn of<'a>(&'a self, endpoint: &'a Name) -> impl Iterator<Item = &'a Plug> {
        self.plugs
            .values()
            .filter(move |p| p.endpoint.as_ref() == Some(endpoint))
    }

    /// What is behind the ports at a moment since the Unix epoch: unlocks that have ended by then open nothing.
    pub fn at(mut self, wall: Duration) -> Self {
        for plug in self.plugs.values_mut() {
            let passed = plug
                .falls
                .partition_point(|fall| Duration::from_secs(fall.at) <= wall);
            if let Some(fall) = plug.falls.drain(..passed).next_back() {
                (plug.egress, plug.ingress) = (fall.egress, fall.ingress);
            }
        }
        self
    }

    /// The endpoints whose classes become others by themselves no later than a moment since the Unix epoch.
    pub fn due(&self, wall: Duration) -> BTreeSet<Name> {
        let first = |plug: &Plug| plug.falls.first().map(|fall| Duration::from_secs(fall.at));
        let due = self
            .plugs
            .values()
            .filter(|p| first(p).is_some_and(|at| at <= wall));
        due.filter_map(|plug| plug.endpoint.clone()).collect()
    }

    /// Every port, once.
    pub fn ports(&self) -> BTreeSet<u32> {
        self.plugs.keys().map(|(port, _)| *port).collect()
    }
}

/// The attachments of an endpoint that are meant for a target.
pub fn meant<'a>(endpoint: &'a EndpointIntent, target: &'a str) -> impl Iterator<Item = &'a Attachment> {
    endpoint
        .attachments
        .iter()
        .filter(move |a| a.target.as_deref() == Some(target))
}

/// Finds out who is where. `port_max`: the highest port number that the switch can have.
pub fn resolve(intent: &Intent, known: &KnownPorts, port_max: u128) -> Plugs {
    let mut found = Plugs::default();
    for port in &known.uplinks {
        let plug = Plug {
            uplink: true,
            ..Plug::open((*port, None))
        };
        found.plugs.insert(plug.at, plug);
    }
    for endpoint in intent.endpoints.values() {
        let attachments: Vec<&Attachment> = meant(endpoint, &known.target).collect();
        let here = attachments.iter().filter(|a| a.port.is_some()).count();
        let mut realized = false;
        for attachment in attachments {
            match place(attachment, known, port_max) {
                // Untagged frames and all frames of a port are one key here.
                Ok(at)
                    if found
                        .plugs
                        .get(&at)
                        .is_some_and(|p| p.endpoint.as_ref() != Some(&endpoint.name)) =>
                {
                    found.unsupported.push(Unsupported {
                        target: known.target.clone(),
                        rule: format!("endpoint {}", endpoint.name),
                        table: "attach".to_string(),
                        why: format!(
                            "{attachment} is another endpoint's: this target tells only VLANs of a port apart"
                        ),
                    });
                }
                Ok(at) => {
                    realized = true;
                    let plug = plug(endpoint, attachment, at, here == 1);
                    found.plugs.insert(at, plug);
                }
                Err(why) => found.pending.push(Pending {
                    endpoint: endpoint.name.to_string(),
                    why,
                }),
            }
        }
        found.realized += u64::from(realized);
        if realized {
            found.unsupported.extend(endpoint.not_enforced(&known.target));
        }
    }
    let taken = found.ports();
    for port in known.servers.iter().filter(|port| !taken.contains(port)) {
        let plug = Plug {
            egress: intent.unmanaged.0,
            ingress: intent.unmanaged.1,
            ..Plug::open((*port, None))
        };
        found.plugs.insert(plug.at, plug);
    }
    claim(&mut found, &known.target);
    found.pending.sort_unstable();
    found
}

fn place(attachment: &Attachment, known: &KnownPorts, port_max: u128) -> Result<At, String> {
    let Some(port) = attachment.port else {
        return Err(format!(
            "{attachment} says nothing to a P4Runtime switch: write port, the number of its port"
        ));
    };
    if u128::from(port) > port_max {
        return Err(format!("{attachment} cannot be: its ports go to {port_max}"));
    }
    if known.uplinks.contains(&port) {
        return Err(format!("{attachment} is an uplink in the agent's configuration"));
    }
    // A port without a VLAN is taken whole here.
    Ok((port, attachment.vlan.vid().filter(|vid| *vid != 0)))
}

fn plug(endpoint: &EndpointIntent, attachment: &Attachment, at: At, alone: bool) -> Plug {
    let own = &attachment.macs;
    let guard_macs = if own.is_empty() { &endpoint.macs } else { own };
    // Which of its MACs is here is not said: the frame goes wherever it may be.
    let macs = if own.is_empty() && !alone {
        Vec::new()
    } else {
        guard_macs.clone()
    };
    Plug {
        at,
        endpoint: Some(endpoint.name.clone()),
        uplink: false,
        macs,
        guard_macs: guard_macs.clone(),
        addresses: endpoint.addresses.clone(),
        guard: endpoint.source_guard,
        egress: endpoint.egress,
        ingress: endpoint.ingress,
        falls: endpoint.falls.clone(),
    }
}

/// A MAC is delivered to one port: the first that has it. Of endpoints that share it, or are in networks of their own,
/// the others get no frames for it, and that is reported.
fn claim(found: &mut Plugs, target: &str) {
    let unsupported = &mut found.unsupported;
    let mut taken: HashMap<MacAddr, (At, Option<Name>)> = HashMap::new();
    for plug in found.plugs.values_mut() {
        let (at, endpoint) = (plug.at, plug.endpoint.clone());
        plug.macs.retain(|mac| match taken.entry(*mac) {
            Entry::Vacant(free) => {
                free.insert((at, endpoint.clone()));
                true
            }
            Entry::Occupied(first) => {
                let (first_at, first_endpoint) = first.get();
                if let Some(name) = endpoint.as_ref().filter(|_| *first_endpoint != endpoint) {
                    unsupported.push(Unsupported {
                        target: target.to_string(),
                        rule: format!("endpoint {name}"),
                        table: "deliver".to_string(),
                        why: format!(
                            "frames for {mac}, which several endpoints declare, go to port {} alone",
                            first_at.0
                        ),
                    });
                }
                false
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_compiler::Compiler;
    use portcullis_policy::Document;

    const DOCUMENT: &str = r#"
version: portcullis/v1
unmanaged: deny
endpoints:
  web: {attachments: [{port: 1, target: tor}, {interface: web}], macs: ["02:00:00:00:00:01"]}
  two: {attachments: [{port: 2, target: tor}, {port: 3, target: tor}], macs: ["02:00:00:00:00:02"]}
  tagged: {attachments: [{port: 4, vlan: 7, target: tor}], source_guard: false, macs: ["02:00:00:00:00:04"]}
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
        };
        let found = resolve(&intent, &known, 511);
        let at: Vec<At> = found.plugs.keys().copied().collect();
        assert_eq!(
            at,
            [
                (1, None),
                (2, None),
                (3, None),
                (4, Some(7)),
                (5, None),
                (9, None)
            ]
        );
        assert_eq!(found.realized, 3);
        let why: Vec<String> = found
            .pending
            .iter()
            .map(|p| format!("{}: {}", p.endpoint, p.why))
            .collect();
        assert_eq!(
            why,
            [
                "lost: port 600 cannot be: its ports go to 511",
                "named: interface x says nothing to a P4Runtime switch: write port, the number of its port",
                "up: port 9 is an uplink in the agent's configuration",
            ]
        );
        let plug = |port, vlan| &found.plugs[&(port, vlan)];
        assert!(plug(1, None).guarded() && !plug(1, None).has_unknown_macs());
        // Its one MAC may be at either port.
        assert!(plug(2, None).guarded() && plug(2, None).has_unknown_macs());
        assert!(!plug(4, Some(7)).guarded() && plug(4, Some(7)).has_unknown_macs());
        assert_eq!(plug(5, None).egress, intent.unmanaged.0);
        assert!(plug(9, None).uplink && plug(9, None).egress == ClassId::OPEN);
    }
}

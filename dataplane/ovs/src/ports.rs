//! Which port of the bridge is what: the attachments of endpoints, uplinks, and ports without an endpoint.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::Pending;
use portcullis_compiler::{ClassId, EndpointIntent, Fall, Intent, Unsupported};
use portcullis_openflow::port::widen;
use portcullis_ovsdb::{Bridge, Interface, Port, Switch, VlanMode};
use portcullis_policy::{Attachment, Direction, MacAddr, Name, StrictPrefix};

use crate::config::Config;
use crate::expiry::{self, Rung};

/// The VLANs of a port, as Open vSwitch's Port table has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vlans {
    /// One VLAN, without a tag on the wire.
    Access(u16),
    /// Tagged VLANs, and perhaps a native one. Native 0: frames of no VLAN.
    Trunk {
        /// VLAN of untagged frames.
        native: u16,
        /// Whether the native VLAN leaves with a tag.
        native_tagged: bool,
        /// The VLANs it carries; every one when absent.
        only: Option<Vec<u16>>,
    },
}

impl Vlans {
    /// VLAN of frames that come without a tag.
    pub fn native(&self) -> u16 {
        match self {
            Vlans::Access(vid) => *vid,
            Vlans::Trunk { native, .. } => *native,
        }
    }

    /// Whether frames without a tag may pass: a trunk with a list carries them only when it names VLAN 0.
    pub fn takes_untagged(&self) -> bool {
        match self {
            Vlans::Trunk {
                native: 0,
                only: Some(vids),
                ..
            } => vids.contains(&0),
            _ => true,
        }
    }

    /// The VLANs it is in; `None` for every one.
    pub fn members(&self) -> Option<Vec<u16>> {
        match self {
            Vlans::Access(vid) => Some(vec![*vid]),
            Vlans::Trunk { only: None, .. } => None,
            Vlans::Trunk {
                native,
                only: Some(vids),
                ..
            } => {
                let mut all = vids.clone();
                if self.takes_untagged() && !all.contains(native) {
                    all.push(*native);
                }
                Some(all)
            }
        }
    }

    fn of(port: &Port) -> Result<Self, String> {
        let only = (!port.trunks.is_empty()).then(|| port.trunks.clone());
        let native = port.tag.unwrap_or(0);
        Ok(match (&port.vlan_mode, port.tag) {
            (Some(VlanMode::Access), _) | (None, Some(_)) => Vlans::Access(native),
            (Some(VlanMode::Trunk) | None, _) => Vlans::Trunk {
                native: 0,
                native_tagged: false,
                only,
            },
            (Some(VlanMode::NativeTagged), _) => Vlans::Trunk {
                native,
                native_tagged: true,
                only,
            },
            (Some(VlanMode::NativeUntagged), _) => Vlans::Trunk {
                native,
                native_tagged: false,
                only,
            },
            (Some(other), _) => return Err(format!("{other:?}")),
        })
    }
}

/// Whoever is behind a policed port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policed {
    /// The endpoint; none for an unmanaged port.
    pub endpoint: Option<Name>,
    /// MACs frames are delivered to; learned when empty.
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
    /// What these become as unlocks end, if nobody changes anything: rising in time, each later than the moment for which
    /// this was found.
    pub falls: Vec<Fall>,
}

impl Policed {
    /// The rows that lead to its class in a direction.
    pub fn stack(&self, direction: Direction) -> Vec<Rung> {
        expiry::stack(self.class(direction), &self.falls, direction)
    }

    /// Its class in a direction.
    pub fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }

    /// Whether its packets pass the guard.
    pub fn guarded(&self) -> bool {
        self.guard && !(self.guard_macs.is_empty() && self.addresses.is_empty())
    }

    /// Whether the switch learns its MACs: those it has, or may have besides the declared ones, are not known.
    pub fn learns(&self) -> bool {
        self.macs.is_empty() || !self.guard
    }
}

/// What a port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Not a server: an uplink, the bridge itself, a patch, a tunnel.
    Free,
    /// Policed.
    Policed(Policed),
}

/// A port of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchPort {
    /// OpenFlow port number.
    pub number: u32,
    /// Interface name.
    pub name: String,
    /// Its VLANs.
    pub vlans: Vlans,
    /// What it is.
    pub role: Role,
}

impl SwitchPort {
    /// Whoever is behind it, when it is policed.
    pub fn policed(&self) -> Option<&Policed> {
        match &self.role {
            Role::Policed(policed) => Some(policed),
            Role::Free => None,
        }
    }
}

/// The ports of a bridge under an intent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    /// By number.
    pub ports: BTreeMap<u32, SwitchPort>,
    /// Endpoints that wait for something.
    pub pending: Vec<Pending>,
    /// What this bridge cannot do for some of them.
    pub unsupported: Vec<Unsupported>,
    /// Endpoints with at least one port here.
    pub realized: u64,
}

impl Ports {
    /// The ports of an endpoint.
    pub fn of(&self, endpoint: &Name) -> Vec<&SwitchPort> {
        let here = |p: &&SwitchPort| p.policed().is_some_and(|x| x.endpoint.as_ref() == Some(endpoint));
        self.ports.values().filter(here).collect()
    }

    /// The ports whose classes become others by themselves, each with the moment at which they do so first.
    pub fn falling(&self) -> impl Iterator<Item = (&SwitchPort, u64)> {
        let first = |p: &SwitchPort| Some(p.policed()?.falls.first()?.at);
        self.ports.values().filter_map(move |p| Some((p, first(p)?)))
    }
}

/// Finds attachments by what an interface says of itself. Built once per intent.
#[derive(Debug, Default)]
pub struct Attachments {
    by_interface: HashMap<String, (usize, Arc<EndpointIntent>)>,
    by_iface_id: HashMap<String, (usize, Arc<EndpointIntent>)>,
}

impl Attachments {
    /// The attachments of an intent that could be on this target.
    pub fn of(intent: &Intent, target: &str) -> Self {
        let mut index = Attachments::default();
        for endpoint in intent.endpoints.values() {
            for (at, attachment) in endpoint.attachments.iter().enumerate() {
                if attachment.target.as_deref().is_some_and(|t| t != target) {
                    continue;
                }
                let entry = (at, Arc::clone(endpoint));
                match (&attachment.interface, &attachment.iface_id) {
                    (Some(name), _) => index.by_interface.insert(name.clone(), entry),
                    (None, Some(id)) => index.by_iface_id.insert(id.clone(), entry),
                    (None, None) => None,
                };
            }
        }
        index
    }

    fn find(&self, interface: &Interface) -> Option<&(usize, Arc<EndpointIntent>)> {
        self.by_interface
            .get(&interface.name)
            .or_else(|| interface.iface_id().and_then(|id| self.by_iface_id.get(id)))
    }
}

/// Interface types that are no servers by themselves.
const FREE_KINDS: [&str; 14] = [
    "internal",
    "patch",
    "vxlan",
    "geneve",
    "gre",
    "ip6gre",
    "gtpu",
    "lisp",
    "stt",
    "erspan",
    "ip6erspan",
    "bareudp",
    "srv6",
    "vxlan-gpe",
];

/// Sorts the bridge's ports, as they are at a moment since the Unix epoch.
pub fn resolve(
    switch: &Switch,
    bridge: &Bridge,
    intent: &Intent,
    index: &Attachments,
    config: &Config,
    wall: Duration,
) -> Ports {
    let mut round = Round {
        config,
        wall,
        intent,
        index,
        found: Ports::default(),
        seen: HashSet::new(),
        shared: HashMap::new(),
    };
    round.count(bridge);
    for port in bridge.ports.values() {
        for interface in port.interfaces.values() {
            round.interface(port, interface);
        }
    }
    round.claims();
    let here = intent.endpoints.values().filter(|e| round.seen.contains(&e.name));
    let not_enforced: Vec<Unsupported> = here.filter_map(|e| e.not_enforced(&config.name)).collect();
    round.found.unsupported.extend(not_enforced);
    round.pending();
    round.double_tags(switch);
    round.found
}

struct Round<'a> {
    config: &'a Config,
    wall: Duration,
    intent: &'a Intent,
    index: &'a Attachments,
    found: Ports,
    /// Endpoints with an interface here, realized or not.
    seen: HashSet<Name>,
    /// How many interfaces each endpoint has here.
    shared: HashMap<Name, usize>,
}

impl Round<'_> {
    fn count(&mut self, bridge: &Bridge) {
        for interface in bridge.ports.values().flat_map(|p| p.interfaces.values()) {
            if let Some((_, endpoint)) = self.index.find(interface) {
                *self.shared.entry(endpoint.name.clone()).or_default() += 1;
            }
        }
    }

    fn unsupported(&mut self, rule: String, table: &str, why: String) {
        let target = self.config.name.clone();
        self.found.unsupported.push(Unsupported {
            target,
            rule,
            table: table.to_string(),
            why,
        });
    }

    fn interface(&mut self, port: &Port, interface: &Interface) {
        let attached = self.index.find(interface).cloned();
        if let Some((_, endpoint)) = &attached {
            self.seen.insert(endpoint.name.clone());
        }
        let Some(number) = interface.ofport else {
            if let Some((_, endpoint)) = attached {
                let why = match &interface.error {
                    Some(error) => format!("interface {} failed: {error}", interface.name),
                    None => format!("interface {} has no port number yet", interface.name),
                };
                self.found.pending.push(Pending {
                    endpoint: endpoint.name.to_string(),
                    why,
                });
            }
            return;
        };
        let vlans = Vlans::of(port).unwrap_or_else(|mode| {
            self.unsupported(
                format!("port {}", port.name),
                "attach",
                format!("vlan_mode {mode} cannot be policed: its frames are dropped; use access, trunk or native-*"),
            );
            Vlans::Trunk { native: 0, native_tagged: false, only: Some(Vec::new()) }
        });
        let free = self.config.is_uplink(&interface.name) || FREE_KINDS.contains(&interface.kind.as_str());
        let role = match attached {
            Some((at, endpoint)) => Role::Policed(self.endpoint(&endpoint, at, interface)),
            None if free => Role::Free,
            None => Role::Policed(self.unmanaged(interface)),
        };
        if port.bond() && role != Role::Free {
            self.unsupported(
                format!("bond {}", port.name),
                "output",
                format!(
                    "interface {} is policed by itself: frames to it are not balanced over the bond",
                    interface.name
                ),
            );
        }
        let number = u16::try_from(number).map_or(number, widen);
        self.found.ports.insert(
            number,
            SwitchPort {
                number,
                name: interface.name.clone(),
                vlans,
                role,
            },
        );
    }

    /// Its classes now, and what they become.
    fn classes(&mut self, endpoint: &EndpointIntent) -> ([ClassId; 2], Vec<Fall>) {
        let moment = |fall: &Fall| Duration::from_secs(fall.at) <= self.wall;
        let passed = endpoint.falls.partition_point(moment);
        let (past, falls) = endpoint.falls.split_at(passed);
        let now = match past.last() {
            Some(fall) => [fall.egress, fall.ingress],
            None => [endpoint.egress, endpoint.ingress],
        };
        for (direction, class) in Direction::BOTH.into_iter().zip(now) {
            let beyond = expiry::beyond(class, falls, direction);
            if beyond > 0 {
                self.unsupported(
                    format!("the latest {beyond} {direction} ends of unlocks of {}", endpoint.name),
                    "attach",
                    format!(
                        "{} ends are written as rows that end by themselves: if the agent is away, what ends later is \
                         closed with the last of them",
                        expiry::ENDS
                    ),
                );
            }
        }
        (now, falls.to_vec())
    }

    fn endpoint(&mut self, endpoint: &EndpointIntent, at: usize, interface: &Interface) -> Policed {
        let ([egress, ingress], falls) = self.classes(endpoint);
        let own = endpoint
            .attachments
            .get(at)
            .map_or(&[][..], |a: &Attachment| &a.macs);
        let told: Option<MacAddr> = interface.attached_mac().and_then(|m| m.parse().ok());
        let alone = self.shared.get(&endpoint.name).copied().unwrap_or(0) <= 1;
        let guard_macs = match (own.is_empty(), endpoint.macs.is_empty()) {
            (false, _) => own.to_vec(),
            (true, false) => endpoint.macs.clone(),
            (true, true) => told.into_iter().collect(),
        };
        let macs = match (own.is_empty(), alone, told) {
            (false, _, _) | (true, true, _) => guard_macs.clone(),
            (true, false, Some(mac)) if guard_macs.contains(&mac) => vec![mac],
            // Which of its MACs is here is not said: the switch finds out.
            (true, false, _) => Vec::new(),
        };
        Policed {
            endpoint: Some(endpoint.name.clone()),
            macs,
            guard_macs,
            addresses: endpoint.addresses.clone(),
            guard: endpoint.source_guard,
            egress,
            ingress,
            falls,
        }
    }

    fn unmanaged(&self, interface: &Interface) -> Policed {
        Policed {
            endpoint: None,
            macs: interface
                .attached_mac()
                .and_then(|m| m.parse().ok())
                .into_iter()
                .collect(),
            guard_macs: Vec::new(),
            addresses: Vec::new(),
            guard: false,
            egress: self.intent.unmanaged.0,
            ingress: self.intent.unmanaged.1,
            falls: Vec::new(),
        }
    }

    /// A MAC is delivered to one port: endpoints before unmanaged ports, then the lower number. Of endpoints that share
    /// it, or are in networks of their own, the others get no frames for it, and that is reported.
    fn claims(&mut self) {
        let mut taken: HashMap<MacAddr, (String, Option<Name>)> = HashMap::new();
        let mut lost: Vec<(Name, MacAddr, String)> = Vec::new();
        for managed in [true, false] {
            for port in self.found.ports.values_mut() {
                if let Role::Policed(policed) = &mut port.role
                    && policed.endpoint.is_some() == managed
                {
                    let (name, endpoint) = (&port.name, &policed.endpoint);
                    policed.macs.retain(|mac| match taken.entry(*mac) {
                        Entry::Vacant(free) => {
                            free.insert((name.clone(), endpoint.clone()));
                            true
                        }
                        Entry::Occupied(first) => {
                            let (at, by) = first.get();
                            let other = endpoint.as_ref().filter(|_| by != endpoint);
                            lost.extend(other.map(|endpoint| (endpoint.clone(), *mac, at.clone())));
                            false
                        }
                    });
                }
            }
        }
        for (endpoint, mac, at) in lost {
            self.unsupported(
                format!("endpoint {endpoint}"),
                "deliver",
                format!("frames for {mac}, which several endpoints declare, go to interface {at} alone"),
            );
        }
    }

    fn pending(&mut self) {
        let realized: HashSet<&Name> = self
            .found
            .ports
            .values()
            .filter_map(|p| p.policed())
            .filter_map(|p| p.endpoint.as_ref())
            .collect();
        self.found.realized = realized.len() as u64;
        for endpoint in self.intent.endpoints.values() {
            let meant = |a: &&Attachment| match &a.target {
                Some(target) => *target == self.config.name,
                None => a.port.is_none(),
            };
            let attachments: Vec<String> = endpoint
                .attachments
                .iter()
                .filter(meant)
                .map(ToString::to_string)
                .collect();
            if !attachments.is_empty() && !self.seen.contains(&endpoint.name) {
                let numbered = endpoint
                    .attachments
                    .iter()
                    .filter(meant)
                    .any(|a| a.port.is_some());
                let why = if numbered {
                    format!(
                        "{} says nothing to Open vSwitch: write interface or iface_id",
                        attachments.join(", ")
                    )
                } else {
                    format!("{} is not plugged in", attachments.join(", "))
                };
                self.found.pending.push(Pending {
                    endpoint: endpoint.name.to_string(),
                    why,
                });
            }
        }
        self.found.pending.sort_unstable();
    }

    fn double_tags(&mut self, switch: &Switch) {
        // vswitchd.conf.db(5): 1 by default, 0 for as many as the datapath can.
        let limit = switch.other_config.get("vlan-limit").map_or("1", String::as_str);
        if limit == "1" {
            self.unsupported(
                "frames with two VLAN tags".to_string(),
                "attach",
                "this switch parses one tag (other_config:vlan-limit=1): from and to endpoints with any deny they are \
                 dropped; `ovs-vsctl set Open_vSwitch . other_config:vlan-limit=2` and a restart of ovs-vswitchd let \
                 them be judged"
                    .to_string(),
            );
        }
    }
}

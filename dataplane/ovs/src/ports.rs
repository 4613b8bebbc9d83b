//! Resolves the ports of the bridge: attachments of endpoints, uplinks, and ports without an endpoint.
//!
//! An interface that an endpoint's attachment names is a server port. Without one it is an uplink if `uplinks` of the
//! target names it, or if its type is one that no server has (`UPLINK_KINDS`: the bridge itself and other internal
//! interfaces, patches, tunnels). Every other interface is a server port without an endpoint: unmanaged.

mod bypass;
mod claims;
mod follow;
#[cfg(test)]
mod tests;
mod vlans;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{PortPolicy, Resolution};
use portcullis_compiler::{EndpointIntent, Intent};
use portcullis_openflow::port::widen;
use portcullis_ovsdb::{Bridge, Datapath, Interface, LinkState, Port, Switch};
use portcullis_policy::{Attachment, Direction, MacAddr, Name, Vlan};

use crate::config::{Config, FinalAction};
use crate::expiry::{self, TimedRow};
use crate::tables::{Exit, Forwarding};

pub use follow::OtherClasses;
pub use vlans::Vlans;

/// A server's port: what holds there, and where frames for it go. Its fields are read as those of its policy are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedPort {
    /// The policy of the server or uplink behind the port.
    pub policy: PortPolicy,
    /// MACs frames are delivered to; learned when empty.
    pub macs: Vec<MacAddr>,
    /// Declared MACs that other ports have too, or may have: frames for them go to the port that used them last.
    pub roaming: Vec<MacAddr>,
    /// Ports of the same attachment: they take over what this one taught, and the reverse.
    pub siblings: Vec<u32>,
}

impl Deref for ManagedPort {
    type Target = PortPolicy;

    fn deref(&self) -> &PortPolicy {
        &self.policy
    }
}

impl ManagedPort {
    /// The rows that lead to its class in a direction.
    pub fn expiry_chain(&self, direction: Direction) -> Vec<TimedRow> {
        expiry::expiry_chain(self.classes[direction], &self.transitions, direction)
    }

    /// Whether the switch learns its MACs: those it has, or may have besides the declared ones, are not known.
    pub fn learns(&self) -> bool {
        self.guard_macs.is_empty() || !self.guard
    }

    /// Whether the switch learns anything from it.
    pub fn teaches(&self) -> bool {
        self.learns() || !self.roaming.is_empty()
    }
}

/// Whether a port is a server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// An uplink, or what is treated as one: the bridge itself, a patch, a tunnel. No policy holds here.
    Uplink,
    /// A server's port: frames from and to it are judged.
    ManagedPort(Box<ManagedPort>),
}

/// A port of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchPort {
    /// OpenFlow number of the port.
    pub number: u32,
    /// Name of the interface.
    pub name: String,
    /// VLANs that the port carries, and how.
    pub vlans: Vlans,
    /// Whether the switch parses one tag, so that a second shows as the EtherType of the frame.
    pub parses_one_tag: bool,
    /// Whether its link is up, as far as the switch says. The switch learns nothing from a port without a link, and
    /// forgets what it learned.
    pub up: bool,
    /// The MAC of the host's own interface, where it is one.
    pub own: Option<MacAddr>,
    /// Whether it is a server's.
    pub role: Role,
}

impl SwitchPort {
    /// The server's port, if it is one.
    pub fn policed(&self) -> Option<&ManagedPort> {
        match &self.role {
            Role::ManagedPort(policed) => Some(policed),
            Role::Uplink => None,
        }
    }

    /// Declared MACs that frames are delivered to here.
    pub fn macs(&self) -> &[MacAddr] {
        match &self.role {
            Role::ManagedPort(policed) => &policed.macs,
            Role::Uplink => self.own.as_slice(),
        }
    }
}

/// The ports of a bridge under an intent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    /// Every port, by OpenFlow number.
    pub ports: BTreeMap<u32, SwitchPort>,
    /// What became of the endpoints.
    pub resolution: Resolution,
    /// How the bridge forwards.
    pub forwarding: Forwarding,
    /// MACs that are not learned from any server port: reserved ones, and those of endpoints without a port here.
    pub withheld: Arc<BTreeSet<MacAddr>>,
    /// MACs that endpoints share, with ports here and maybe elsewhere: at whichever port used them last, uplinks too.
    pub shared: Arc<BTreeSet<MacAddr>>,
}

impl Ports {
    /// The ports of an endpoint.
    pub fn of(&self, endpoint: &Name) -> Vec<&SwitchPort> {
        let here = |p: &&SwitchPort| p.policed().is_some_and(|x| x.endpoint.as_ref() == Some(endpoint));
        self.ports.values().filter(here).collect()
    }

    /// What holds at the ports of servers.
    pub fn policies(&self) -> impl Iterator<Item = &PortPolicy> {
        self.ports
            .values()
            .filter_map(|port| Some(&port.policed()?.policy))
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
    pub fn new(intent: &Intent, target: &str) -> Self {
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
const UPLINK_KINDS: [&str; 14] = [
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
///
/// OVSDB keeps link states and the MACs of interfaces in memory only (`ephemeral` in its schema): after a start of
/// ovsdb-server they are absent until ovs-vswitchd writes them again. Meanwhile they are as they were before.
pub fn resolve(
    switch: &Switch,
    bridge: &Bridge,
    intent: &Intent,
    index: &Attachments,
    config: &Config,
    wall: Duration,
    before: &Ports,
) -> Ports {
    let mut round = Round {
        config,
        wall,
        intent,
        index,
        before,
        found: Ports {
            resolution: Resolution::new(&config.name),
            ..Ports::default()
        },
        // vswitchd.conf.db(5): 1 by default, 0 for as many as the datapath can.
        parses_one_tag: switch
            .other_config
            .get("vlan-limit")
            .is_none_or(|limit| limit == "1"),
        seen: HashSet::new(),
        plugged: HashMap::new(),
    };
    round.count(bridge);
    for port in bridge.ports.values() {
        for interface in port.interfaces.values() {
            round.interface(port, interface);
        }
    }
    round.doubles();
    claims::settle(&mut round.found, intent);
    round.pending();
    round.double_tags();
    round.cut_short(bridge);
    round.found.forwarding = round.forwarding(bridge);
    round.link_local();
    for (rule, why) in bypass::found(bridge, &round.found) {
        round.found.resolution.cannot(rule, "output", why);
    }
    round.found
}

struct Round<'a> {
    config: &'a Config,
    before: &'a Ports,
    wall: Duration,
    intent: &'a Intent,
    index: &'a Attachments,
    found: Ports,
    parses_one_tag: bool,
    /// Endpoints with an interface here, realized or not.
    seen: HashSet<Name>,
    /// The interfaces of each endpoint here, by attachment.
    plugged: HashMap<Name, BTreeMap<usize, Vec<String>>>,
}

impl Round<'_> {
    fn count(&mut self, bridge: &Bridge) {
        for interface in bridge.ports.values().flat_map(|p| p.interfaces.values()) {
            if let Some((at, endpoint)) = self.index.find(interface) {
                let of = self.plugged.entry(endpoint.name.clone()).or_default();
                of.entry(*at).or_default().push(interface.name.clone());
            }
        }
    }

    /// Link-local addresses that endpoints choose by themselves are nobody's to the switch.
    fn link_local(&mut self) {
        let ports = self.found.ports.values();
        let policies = ports.filter_map(|port| Some(&port.policed()?.policy));
        self.found.resolution.learns_no_link_local(policies, self.intent);
    }

    /// One attachment that several interfaces say they are.
    fn doubles(&mut self) {
        let mut doubles: Vec<(String, Vec<String>)> = Vec::new();
        for (name, attachments) in &self.plugged {
            let several = attachments.values().filter(|names| names.len() > 1);
            doubles.extend(several.map(|names| (name.to_string(), names.clone())));
        }
        doubles.sort_unstable();
        for (endpoint, names) in doubles {
            let siblings: Vec<u32> = self
                .found
                .ports
                .values()
                .filter(|port| names.contains(&port.name))
                .map(|port| port.number)
                .collect();
            for number in &siblings {
                if let Some(SwitchPort {
                    role: Role::ManagedPort(policed),
                    ..
                }) = self.found.ports.get_mut(number)
                {
                    policed.siblings = siblings.iter().filter(|n| *n != number).copied().collect();
                }
            }
            self.unsupported(
                format!("the interfaces {} of {endpoint}", names.join(" and ")),
                "deliver",
                format!(
                    "there are {} with one iface-id: frames for the endpoint go to the one whose link is up and that sent \
                     last; unplug the others when a migration is over",
                    names.len()
                ),
            );
        }
    }

    /// How frames leave that go to uplinks: by NORMAL only where a bond is among them.
    fn forwarding(&mut self, bridge: &Bridge) -> Forwarding {
        let is_uplink = |name: &String| {
            let ports = self.found.ports.values();
            let mut named = ports.filter(|port| port.name == *name);
            named.any(|port| port.role == Role::Uplink)
        };
        let bonds = bridge.ports.values().filter(|port| port.bond());
        let bond = bonds
            .filter(|port| port.interfaces.keys().any(is_uplink))
            .map(|port| port.name.clone())
            .next();
        let exit = match (self.config.final_action, &bond) {
            (FinalAction::GotoTable(number), _) => Exit::Table(number),
            (FinalAction::Normal, Some(_)) => Exit::Normal,
            (FinalAction::Normal, None) => Exit::Uplinks,
        };
        Forwarding {
            exit,
            link_control: bridge.forward_bpdu(),
            learned: self.config.learned_macs,
            two_parsers: bridge.datapath() == Datapath::Kernel,
        }
    }

    fn unsupported(&mut self, rule: String, table: &str, why: String) {
        self.found.resolution.cannot(rule, table, why);
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
                self.found.resolution.waits(&endpoint.name, why);
            }
            return;
        };
        let vlans = Vlans::from_port(port).unwrap_or_else(|mode| {
            self.unsupported(
                format!("port {}", port.name),
                "attach",
                format!("vlan_mode {mode} cannot be policed: its frames are dropped; use access, trunk or native-*"),
            );
            Vlans::Trunk { native: 0, native_tagged: false, only: Some(Vec::new()) }
        });
        let uplink =
            self.config.is_uplink(&interface.name) || UPLINK_KINDS.contains(&interface.kind.as_str());
        let any = attached
            .as_ref()
            .and_then(|(at, endpoint)| endpoint.attachments.get(*at))
            .is_some_and(|attachment| attachment.vlan == Vlan::Any);
        let role = match attached {
            Some((at, endpoint)) => Role::ManagedPort(Box::new(self.endpoint(&endpoint, at, interface))),
            None if uplink => Role::Uplink,
            None => Role::ManagedPort(Box::new(self.unmanaged(interface))),
        };
        let vlans = match &role {
            Role::ManagedPort(policed) if !any => self.server_vlans(port, policed, vlans),
            _ => vlans,
        };
        if port.bond() && role != Role::Uplink {
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
        let before = self.before.ports.get(&number);
        let before = before.filter(|port| port.name == interface.name);
        let up = match &interface.link_state {
            Some(state) => *state != LinkState::Down,
            None => before.is_none_or(|port| port.up),
        };
        // Only an internal interface is the host's own.
        let own = match (
            &interface.mac_in_use,
            interface.kind == "internal" && role == Role::Uplink,
        ) {
            (_, false) => None,
            (Some(mac), true) => mac.parse().ok(),
            (None, true) => before.and_then(|port| port.own),
        };
        self.found.ports.insert(
            number,
            SwitchPort {
                number,
                name: interface.name.clone(),
                vlans,
                parses_one_tag: self.parses_one_tag,
                up,
                own,
                role,
            },
        );
    }

    /// The VLANs of a server's port that is no trunk. What is lost is named if somebody made it a trunk on purpose.
    fn server_vlans(&mut self, port: &Port, policed: &ManagedPort, vlans: Vlans) -> Vlans {
        let on_purpose = !port.trunks.is_empty() || port.vlan_mode.is_some();
        let left = vlans.clone().of_server();
        if on_purpose && left != vlans && vlans.members() != Some(Vec::new()) {
            let who = match &policed.endpoint {
                Some(name) => format!("write `vlan: any` in the attachment of {name}"),
                None => "declare an endpoint with `vlan: any` for it, or list it in `uplinks`".to_string(),
            };
            self.unsupported(
                format!("tagged frames of port {}", port.name),
                "attach",
                format!("the bridge has it as a trunk, and its frames with other tags are dropped: {who}"),
            );
        }
        left
    }

    /// What holds at an endpoint's port now. Names the ends of unlocks that no row carries.
    fn policy(&mut self, endpoint: &EndpointIntent, own: &[MacAddr]) -> PortPolicy {
        let mut policy = PortPolicy::from_endpoint(endpoint, own, self.intent);
        policy.move_to(self.wall);
        for (direction, class) in policy.classes.each() {
            let beyond = expiry::beyond(class, &policy.transitions, direction);
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
        policy
    }

    fn endpoint(&mut self, endpoint: &EndpointIntent, at: usize, interface: &Interface) -> ManagedPort {
        let own = endpoint
            .attachments
            .get(at)
            .map_or(&[][..], |a: &Attachment| &a.macs);
        let mut policy = self.policy(endpoint, own);
        let attached: Option<MacAddr> = interface.attached_mac().and_then(|m| m.parse().ok());
        let plugged = self.plugged.get(&endpoint.name);
        let alone = plugged.is_none_or(|of| of.values().map(Vec::len).sum::<usize>() <= 1);
        // A port whose MACs are declared nowhere has the one that it was plugged in with.
        if policy.guard_macs.is_empty() {
            policy.guard_macs.extend(attached);
        }
        let guard_macs = &policy.guard_macs;
        let macs = match (own.is_empty(), alone, attached) {
            (false, _, _) | (true, true, _) => guard_macs.clone(),
            (true, false, Some(mac)) if guard_macs.contains(&mac) => vec![mac],
            // Which of its MACs is here is not said: the switch finds out.
            (true, false, _) => guard_macs.clone(),
        };
        ManagedPort {
            policy,
            macs,
            roaming: Vec::new(),
            siblings: Vec::new(),
        }
    }

    fn unmanaged(&self, interface: &Interface) -> ManagedPort {
        ManagedPort {
            policy: PortPolicy::unmanaged(self.intent),
            macs: interface
                .attached_mac()
                .and_then(|m| m.parse().ok())
                .into_iter()
                .collect(),
            roaming: Vec::new(),
            siblings: Vec::new(),
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
        self.found.resolution.realized = realized.len() as u64;
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
                        "{} is not valid on an Open vSwitch target: set `interface` or `iface_id`",
                        attachments.join(", ")
                    )
                } else {
                    format!("{} is not plugged in", attachments.join(", "))
                };
                self.found.resolution.waits(&endpoint.name, why);
            }
        }
        self.found.resolution.pending.sort_unstable();
    }

    fn cut_short(&mut self, bridge: &Bridge) {
        if bridge.datapath() == Datapath::Kernel {
            self.unsupported(
                "packets whose headers are cut short, or whose lengths are wrong".to_string(),
                "datapath",
                "the kernel's datapath does not go by the lengths in IP headers: such a packet may pass, for its receiver to discard, and \
                 what ovs-vswitchd decides about one holds for well-formed packets with the same header until the cached flow ends, 10 s \
                 after its last packet. So one of them may drop others like it, and one of ICMP may let denied types of ICMP pass, or another MAC in neighbour discovery for the sender's own address"
                    .to_string(),
            );
        }
    }

    fn double_tags(&mut self) {
        if self.parses_one_tag {
            self.unsupported(
                "frames with two VLAN tags".to_string(),
                "attach",
                "this switch parses one tag (other_config:vlan-limit=1): from and to endpoints with any deny they are \
                 dropped; `ovs-vsctl set Open_vSwitch . other_config:vlan-limit=2` and a restart of ovs-vswitchd let \
                 them be judged"
                    .to_string(),
            );
        } else {
            self.unsupported(
                "priority tags of servers".to_string(),
                "attach",
                "this switch parses several tags (other_config:vlan-limit), and its caches do not tell a frame with a \
                 priority tag from one with a second tag behind it: both are dropped where they come from an endpoint \
                 without `vlan: any`; `ovs-vsctl set Open_vSwitch . other_config:vlan-limit=1` and a restart of \
                 ovs-vswitchd let priority tags pass"
                    .to_string(),
            );
        }
    }
}

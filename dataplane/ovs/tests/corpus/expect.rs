//! What ought to arrive where: the reference verdict, the source guard and the receivers of a frame.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portcullis_policy::{
    Direction, Document, Endpoint, Frame as Judged, IpPacket, L4, LinkLocal, MacAddr, Packet, Policy,
    Protocol, Verdict, View, Vlan, effective, unmanaged,
};

use super::craft::{Content, Frame, IpSays};
use super::services::{needed_role, vlan_id};
use super::{Host, INTERNET, Mac, control};

/// How a switch forwards what its policies let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Open vSwitch: MACs are learned, and what nobody has goes to the uplink; it has no fields for some things.
    Normal,
    /// Our P4 program: declared MACs, and the uplinks for all others.
    Groups,
}

/// A document as the switch should enforce it.
pub struct World {
    forwarding: Forwarding,
    document: Document,
    policies: BTreeMap<(Host, bool), Policy>,
    view: View,
    vlan_limit: usize,
}

/// Where a frame should arrive, or the place where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub receivers: BTreeSet<Host>,
    /// Whether the source guard of the switch ends it.
    pub guarded: bool,
    /// What the switch has no field for, where a difference may come from that.
    pub unseen: Option<&'static str>,
    /// The verdicts on the way, for the reader of a failure.
    pub why: Vec<String>,
}

impl World {
    pub fn new(document: Document, view: View, vlan_limit: usize) -> Self {
        let mut policies = BTreeMap::new();
        for host in Host::all().filter(|h| *h != INTERNET) {
            for direction in Direction::BOTH {
                let policy = match document.endpoints.get(host.name()) {
                    Some(endpoint) => effective(&document, host.name(), endpoint, direction),
                    None => unmanaged(&document, direction),
                };
                policies.insert((host, direction == Direction::Egress), policy);
            }
        }
        World {
            forwarding: Forwarding::Normal,
            document,
            policies,
            view,
            vlan_limit,
        }
    }

    /// On a switch that forwards in another way.
    pub fn forwarded_by(self, forwarding: Forwarding) -> Self {
        World { forwarding, ..self }
    }

    /// Who gets a frame for one MAC.
    fn owners(&self, dst: Mac, vlan: VlanWay) -> Vec<Host> {
        let owner = Host::all().find(|h| h.mac() == dst);
        match self.forwarding {
            Forwarding::Normal => {
                // A MAC is known in the VLANs of its port.
                let known = owner.filter(|h| vlan != VlanWay::Tagged || self.trunk(*h));
                vec![known.unwrap_or(INTERNET)]
            }
            Forwarding::Groups => match owner.filter(|h| self.endpoint(*h).is_some()) {
                Some(declared) => vec![declared],
                None => vec![INTERNET],
            },
        }
    }

    /// Whether frames of a VLAN (0: without one) come from a host and go to it.
    fn is_attached(&self, host: Host, vlan: u16) -> bool {
        match self.endpoint(host) {
            _ if host == INTERNET || self.forwarding == Forwarding::Normal => true,
            Some(endpoint) => {
                let vids = endpoint.attachments.iter().map(|a| a.vlan.vid());
                vids.into_iter().any(|vid| vid.is_none_or(|vid| vid == vlan))
            }
            None => vlan == 0,
        }
    }

    /// Whether a host has the role that a frame needs.
    fn has_role(&self, host: Host, frame: &Frame, content: &Content) -> bool {
        if host == INTERNET || self.forwarding == Forwarding::Normal {
            return true;
        }
        let has = |role| self.endpoint(host).is_some_and(|e| e.roles.contains(&role));
        match needed_role(content) {
            _ if reserved(frame) => false,
            Some(role) => has(role),
            None => true,
        }
    }

    /// Whether a host's port takes every tag.
    fn trunk(&self, host: Host) -> bool {
        let attachments = self.endpoint(host).into_iter().flat_map(|e| &e.attachments);
        attachments.into_iter().any(|a| a.vlan == Vlan::Any)
    }

    fn endpoint(&self, host: Host) -> Option<&Endpoint> {
        self.document.endpoints.get(host.name()).map(AsRef::as_ref)
    }

    /// What the frame carries, as far as the tags let it be seen.
    fn seen<'a>(&self, frame: &'a Frame) -> &'a Content {
        let parsed = |tpid: u16| matches!(tpid, 0x8100 | 0x88a8);
        let visible = frame.tags.len() <= self.vlan_limit && frame.tags.iter().all(|(tpid, _)| parsed(*tpid));
        if visible {
            &frame.content
        } else {
            &Content::Encapsulated
        }
    }

    fn judge(&self, host: Host, direction: Direction, content: &Content, why: &mut Vec<String>) -> bool {
        let Some(policy) = self.policies.get(&(host, direction == Direction::Egress)) else {
            return true;
        };
        let (action, by) = policy.judge(&packet(content, direction), self.view);
        why.push(format!(
            "{direction} of {}: {action} by {}",
            host.name(),
            policy.origin(by)
        ));
        action == Verdict::Allow
    }

    pub fn expected(&self, frame: &Frame) -> Expected {
        let from = frame.route.from;
        let vlan = VlanWay::new(frame, self.forwarding);
        let content = self.seen(frame);
        let mut why = Vec::new();
        // Its caches take a frame with a second tag for one without, where the first is removed on the way out.
        let behind = vlan == VlanWay::Behind && self.vlan_limit > 1 && (from == INTERNET || self.trunk(from));
        let behind = behind.then_some("a second tag behind one that it removes");
        let unseen = frame
            .unseen
            .or(behind)
            .filter(|_| self.forwarding == Forwarding::Normal);
        let none = |guarded: bool, unseen: Option<&'static str>, why: Vec<String>| Expected {
            receivers: BTreeSet::new(),
            guarded,
            unseen,
            why,
        };
        let vid = vlan_id(frame);
        if !self.is_attached(from, vid) {
            why.push(format!("{} does not send on VLAN {vid}", from.name()));
            return none(false, unseen, why);
        }
        if !self.has_role(from, frame, content) {
            why.push(format!("{} lacks the role for it", from.name()));
            return none(false, unseen, why);
        }
        if self.forwarding == Forwarding::Normal && from != INTERNET {
            let priority = vlan == VlanWay::Priority && self.vlan_limit == 1;
            if !self.trunk(from) && vlan != VlanWay::None && !priority {
                why.push(format!("{} has a port without tags", from.name()));
                return none(false, unseen, why);
            }
            let roles = self.endpoint(from).map(|e| e.roles.clone()).unwrap_or_default();
            if let Some(what) = control::speaks_for_the_network(frame, content, &roles) {
                why.push(format!("{} is no server's to send", what));
                return none(false, unseen, why);
            }
        }
        if let Some(endpoint) = self.endpoint(from).filter(|e| e.source_guard) {
            if let Err(breach) = guard(endpoint, frame, content) {
                why.push(format!("guard of {}: {breach}", from.name()));
                return none(unseen.is_none(), unseen, why);
            }
            if let Err(breach) = guard(endpoint, frame, &frame.content) {
                why.push(format!("guard of {}: {breach}", from.name()));
                return none(false, Some("the source behind more tags than are parsed"), why);
            }
        }
        if !self.judge(from, Direction::Egress, content, &mut why) {
            return none(false, unseen, why);
        }
        let group = frame.route.dst[0] & 1 == 1;
        let candidates: Vec<Host> = if reserved(frame) {
            why.push("a group that bridges keep to themselves".to_string());
            Vec::new()
        } else if group {
            if hides_unicast(content) {
                why.push("no group address in a group frame".to_string());
                return none(false, unseen, why);
            }
            Host::all().filter(|h| *h != from).collect()
        } else {
            let owners = self.owners(frame.route.dst, vlan).into_iter();
            owners.filter(|h| *h != from).collect()
        };
        let receivers = candidates
            .into_iter()
            .filter(|h| self.is_attached(*h, vid))
            .filter(|h| *h == INTERNET || self.trunk(*h) || vlan.reaches_untagged())
            .filter(|h| self.judge(*h, Direction::Ingress, content, &mut why))
            .collect();
        Expected {
            receivers,
            guarded: false,
            unseen,
            why,
        }
    }
}

/// What the tags of a frame make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VlanWay {
    /// The target does not look at it here.
    Any,
    None,
    /// A priority tag, and no tag behind it.
    Priority,
    /// The EtherType of a tag where the switch parses none.
    Hidden,
    /// A tag behind a priority tag.
    Behind,
    /// A tag of a VLAN.
    Tagged,
}

impl VlanWay {
    fn new(frame: &Frame, forwarding: Forwarding) -> Self {
        if forwarding == Forwarding::Groups {
            return VlanWay::Any;
        }
        let is_tag = |tag: &(u16, u16)| matches!(tag.0, 0x8100 | 0x88a8);
        let bare = frame.content == Content::BareTag;
        match frame.tags.as_slice() {
            [] if bare => VlanWay::Hidden,
            [first, ..] if !is_tag(first) => VlanWay::None,
            [] => VlanWay::None,
            [(_, 0)] if bare => VlanWay::Behind,
            [(_, 0), second, ..] if is_tag(second) => VlanWay::Behind,
            [(_, 0), ..] => VlanWay::Priority,
            _ => VlanWay::Tagged,
        }
    }

    /// Whether it reaches a port without tags from one that has every VLAN.
    fn reaches_untagged(self) -> bool {
        !matches!(self, VlanWay::Tagged | VlanWay::Behind)
    }
}

/// Groups that bridges keep to themselves: IEEE 802.1Q table 8-1, and Cisco's (`other_config:forward-bpdu`).
fn reserved(frame: &Frame) -> bool {
    let dst = frame.route.dst;
    let ieee = dst[..5] == [0x01, 0x80, 0xc2, 0, 0] && dst[5] <= 0x0f;
    let cisco = dst[..5] == [0x01, 0x00, 0x0c, 0xcc, 0xcc];
    ieee || cisco
}

/// A link-local address that an endpoint may have chosen by itself: in fe80::/64, not one that looks written by hand, and not
/// one that is formed from a MAC.
fn chosen(endpoint: &Endpoint, address: IpAddr) -> bool {
    let IpAddr::V6(v6) = address else { return false };
    let [0xfe80, 0, 0, 0, a, b, c, _] = v6.segments() else {
        return false;
    };
    let by_hand = [a, b, c] == [0, 0, 0];
    let from_a_mac = b & 0xff == 0xff && c >> 8 == 0xfe;
    endpoint.link_local == LinkLocal::Any && !endpoint.macs.is_empty() && !by_hand && !from_a_mac
}

/// An IP packet that is not known to be meant for a group.
fn hides_unicast(content: &Content) -> bool {
    match content {
        Content::BrokenIp => true,
        Content::Ip(ip) => match ip.dst {
            IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast(),
            IpAddr::V6(a) => !a.is_multicast(),
        },
        Content::Arp(_) | Content::Rarp | Content::Other | Content::Encapsulated | Content::BareTag => false,
    }
}

/// The packet from the endpoint's side.
pub fn packet(content: &Content, direction: Direction) -> Packet {
    let frame = match content {
        Content::Arp(_) => Judged::Arp,
        Content::Rarp => Judged::Rarp,
        Content::Other => Judged::Other,
        Content::Encapsulated | Content::BareTag | Content::BrokenIp => Judged::Opaque,
        Content::Ip(ip) => {
            let (local, remote) = match direction {
                Direction::Egress => (ip.src, ip.dst),
                Direction::Ingress => (ip.dst, ip.src),
            };
            Judged::Ip(IpPacket {
                local,
                remote,
                protocol: ip.protocol,
                fragment: ip.fragment,
                l4: ip.l4,
            })
        }
    };
    Packet { frame }
}

/// Whether a guarded endpoint may send this: its own MAC, its own addresses, ARP and neighbour discovery included.
fn guard(endpoint: &Endpoint, frame: &Frame, content: &Content) -> Result<(), &'static str> {
    let own_mac = |mac: Mac| endpoint.macs.is_empty() || endpoint.macs.contains(&MacAddr(mac));
    if !own_mac(frame.route.src) {
        return Err("foreign MAC");
    }
    let known = !endpoint.addresses.is_empty();
    let has_v6 = endpoint.addresses.iter().any(|p| p.0.addr().is_ipv6());
    let link_local = IpAddr::V6(MacAddr(frame.route.src).link_local());
    let own = |address: IpAddr| {
        !known
            || endpoint.addresses.iter().any(|p| p.0.contains(&address))
            || (has_v6 && (address == link_local || chosen(endpoint, address)))
    };
    match content {
        Content::Arp(arp) if !arp.well_formed => Err("ARP that does not show its sender"),
        Content::Arp(arp) if arp.sha != frame.route.src => Err("foreign hardware address in ARP"),
        Content::Arp(arp) => {
            let asks_for_own = arp.spa.is_unspecified() && own(arp.tpa.into());
            if own(arp.spa.into()) || asks_for_own {
                Ok(())
            } else {
                Err("foreign protocol address in ARP")
            }
        }
        Content::Encapsulated | Content::BareTag if known => Err("what carries IP unseen"),
        Content::BrokenIp if known => Err("IP that does not show its source"),
        Content::Ip(ip) if known => {
            let unset = not_configured_yet(ip, has_v6);
            if !own(ip.src) && !unset {
                return Err("foreign address");
            }
            nd_guard(ip, own, own_mac)
        }
        _ => Ok(()),
    }
}

/// DHCP (RFC 2131) and ICMPv6 from the unspecified address (RFC 4861, 4862).
fn not_configured_yet(ip: &IpSays, has_v6: bool) -> bool {
    let dhcp = matches!(ip.l4, L4::Ports { src: 68, dst: 67, .. }) && ip.protocol == Some(Protocol::UDP);
    let icmp6 = ip.protocol == Some(Protocol::ICMPV6) && has_v6;
    ip.src.is_unspecified() && if ip.src.is_ipv4() { dhcp } else { icmp6 }
}

fn nd_guard(
    ip: &IpSays,
    own: impl Fn(IpAddr) -> bool,
    own_mac: impl Fn(Mac) -> bool,
) -> Result<(), &'static str> {
    let Some(nd) = ip.nd else { return Ok(()) };
    let own_option = nd.mac.is_none_or(own_mac);
    let own_target = own(nd.target.into());
    match (nd.kind, ip.src.is_unspecified()) {
        (135, true) if nd.mac.is_some() => Err("duplicate address detection with an option"),
        (135, true) if !own_target => Err("duplicate address detection of a foreign address"),
        (136, true) => Err("advertisement from the unspecified address"),
        (136, _) if !own_target => Err("advertisement of a foreign address"),
        _ if !own_option => Err("foreign hardware address in neighbour discovery"),
        _ => Ok(()),
    }
}

//! Endpoints: attachments, MACs and addresses, and what no endpoint may declare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::document::Rule;
use crate::types::{MacAddr, Name, ParseError, StrictPrefix, decimal};

/// The highest VLAN (IEEE 802.1Q; 4095 is reserved).
const MAX_VLAN: u16 = 4094;

/// Which frames of a port are an endpoint's, by their outermost VLAN tag. Where one endpoint takes a VLAN of a port and
/// another takes any, the frames of that VLAN belong to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Vlan {
    /// On a switch port: frames without a tag, and frames whose tag names no VLAN (priority-tagged). On an OVS interface:
    /// the VLAN of its port's `tag`, else the same. Written as nothing, or 0.
    #[default]
    Untagged,
    /// Frames of this VLAN, 1 to 4094.
    Id(u16),
    /// Every frame of the port, with whatever tags: a trunk. Written `any`.
    Any,
}

impl Vlan {
    /// The VLAN of a number: 0 stands for no tag.
    pub fn numbered(vid: u64) -> Result<Self, ParseError> {
        match u16::try_from(vid) {
            Ok(0) => Ok(Vlan::Untagged),
            Ok(vid) if vid <= MAX_VLAN => Ok(Vlan::Id(vid)),
            _ => Err(ParseError(format!(
                "{vid} is not a VLAN: write 1 to {MAX_VLAN}, 0 for untagged frames, or any for every frame"
            ))),
        }
    }

    /// The VLAN id that frames carry: 0 for those without a tag, nothing where it does not matter.
    pub fn vid(self) -> Option<u16> {
        match self {
            Vlan::Untagged => Some(0),
            Vlan::Id(vid) => Some(vid),
            Vlan::Any => None,
        }
    }

    fn is_untagged(&self) -> bool {
        *self == Vlan::Untagged
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vlan::Untagged => f.write_str("0"),
            Vlan::Id(vid) => write!(f, "{vid}"),
            Vlan::Any => f.write_str("any"),
        }
    }
}

impl FromStr for Vlan {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match decimal::<u64>(s) {
            Some(vid) => Vlan::numbered(vid),
            None if s == "any" => Ok(Vlan::Any),
            None => Err(ParseError(format!(
                "`{s}` is not a VLAN: write 1 to {MAX_VLAN}, 0 for untagged frames, or any for every frame"
            ))),
        }
    }
}

impl Serialize for Vlan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.vid() {
            Some(vid) => s.serialize_u16(vid),
            None => s.serialize_str("any"),
        }
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Vlan;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN from 0 to 4094, or any")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Vlan, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Vlan, E> {
                Vlan::numbered(v).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Vlan, E> {
                v.to_string().parse().map_err(E::custom)
            }
            // `vlan:` with nothing behind it, as with every other field that may be absent.
            fn visit_unit<E: de::Error>(self) -> Result<Vlan, E> {
                Ok(Vlan::Untagged)
            }
        }
        d.deserialize_any(Written)
    }
}

/// What tells an endpoint's packets from those of others at a port of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentifiedBy {
    /// The port, and the VLAN on it: no other endpoint is there.
    #[default]
    Port,
    /// Their addresses: other endpoints are behind the same port, and a nearer target guards the sources of all of them.
    Address,
}

impl IdentifiedBy {
    /// The word in documents, for example `address`.
    pub fn as_str(self) -> &'static str {
        match self {
            IdentifiedBy::Port => "port",
            IdentifiedBy::Address => "address",
        }
    }

    fn is_port(&self) -> bool {
        *self == IdentifiedBy::Port
    }
}

impl FromStr for IdentifiedBy {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "port" => Ok(IdentifiedBy::Port),
            "address" => Ok(IdentifiedBy::Address),
            _ => Err(ParseError(format!(
                "`{s}` does not tell endpoints apart: write port, or address where several are behind one port"
            ))),
        }
    }
}

/// Where an endpoint plugs in: exactly one of `interface`, `iface_id` and `port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of an OVS interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Value of an OVS interface's `external_ids:iface-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iface_id: Option<String>,
    /// Number of a port of a switch, as the data plane has it; `target` names the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Which frames are the endpoint's, by their outermost tag. A number goes with `port` only; an interface's own VLANs
    /// are set in OVS.
    #[serde(default, skip_serializing_if = "Vlan::is_untagged")]
    pub vlan: Vlan,
    /// Name of a configured target; any target that has the interface when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What tells its packets from those of others at the port; `address` goes with `port` only.
    #[serde(default, skip_serializing_if = "IdentifiedBy::is_port")]
    pub by: IdentifiedBy,
    /// MACs behind this attachment, when the endpoint has several attachments; all of the endpoint's when absent, which is
    /// empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.interface, &self.iface_id, self.port) {
            (Some(name), ..) => write!(f, "interface {name}")?,
            (None, Some(id), _) => write!(f, "iface-id {id}")?,
            (None, None, Some(port)) => write!(f, "port {port}")?,
            (None, None, None) => f.write_str("nothing")?,
        }
        match self.vlan {
            Vlan::Untagged => {}
            Vlan::Id(vid) => write!(f, ", VLAN {vid}")?,
            Vlan::Any => f.write_str(", any VLAN")?,
        }
        match self.by {
            IdentifiedBy::Port => Ok(()),
            IdentifiedBy::Address => f.write_str(", by address"),
        }
    }
}

/// What an endpoint may send beside what any server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointRole {
    /// Router advertisements, redirects, and IGMP and MLD queries.
    Router,
    /// What DHCP and DHCPv6 servers send.
    DhcpServer,
}

impl EndpointRole {
    /// Every role, in the order of the documents.
    pub const ALL: [EndpointRole; 2] = [EndpointRole::Router, EndpointRole::DhcpServer];

    /// The word in documents, for example `dhcp-server`.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointRole::Router => "router",
            EndpointRole::DhcpServer => "dhcp-server",
        }
    }
}

impl fmt::Display for EndpointRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EndpointRole {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == s);
        found.ok_or_else(|| ParseError(format!("`{s}` is not a role: write router or dhcp-server")))
    }
}

/// Which IPv6 link-local addresses a guarded endpoint may send with, beside those that it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkLocal {
    /// Those of its MACs (EUI-64), and with its own MAC those that no other endpoint has (RFC 7217).
    #[default]
    Any,
    /// The ones of its MACs alone.
    Strict,
}

impl LinkLocal {
    fn is_default(&self) -> bool {
        *self == LinkLocal::Any
    }
}

impl fmt::Display for LinkLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkLocal::Any => "any",
            LinkLocal::Strict => "strict",
        })
    }
}

impl FromStr for LinkLocal {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "any" => Ok(LinkLocal::Any),
            "strict" => Ok(LinkLocal::Strict),
            _ => Err(ParseError(format!(
                "`{s}` does not say which link-local addresses: write any or strict"
            ))),
        }
    }
}

/// A MAC or an address that an endpoint declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Declared {
    /// A MAC address, unicast.
    Mac(MacAddr),
    /// An address or a prefix.
    Address(StrictPrefix),
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Declared::Mac(mac) => mac.fmt(f),
            Declared::Address(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Declared {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        // No text is both: six groups of two digits are no IPv6 address.
        let parts = s.split(':');
        if parts.clone().count() == 6 && parts.clone().all(|part| part.len() == 2) {
            return s.parse().map(Declared::Mac);
        }
        s.parse().map(Declared::Address).map_err(|_: ParseError| {
            ParseError(format!(
                "`{s}` is not a MAC or an address: write one that the endpoint declares, as in 00:00:5e:00:01:0a or 192.0.2.10"
            ))
        })
    }
}

/// The network of endpoints that name none.
pub fn default_network() -> Name {
    static DEFAULT: LazyLock<Name> = LazyLock::new(|| Name::fixed("default"));
    DEFAULT.clone()
}

fn is_default_network(network: &Name) -> bool {
    network.as_str() == "default"
}

/// A server whose ports are policed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Where it plugs in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// MAC addresses that it sends with and receives at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
    /// Its addresses and prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<StrictPrefix>,
    /// The scope in which its MACs and addresses are its alone.
    #[serde(default = "default_network", skip_serializing_if = "is_default_network")]
    pub network: Name,
    /// Those of its MACs and addresses that other endpoints of the network declare, too, and say so (VRRP).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<Declared>,
    /// What it may send beside what any server sends.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<EndpointRole>,
    /// Names of profiles, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Name>,
    /// Its own rules, before its profiles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Key-value pairs without a meaning to rules; one may name the tenant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it may send only with its MACs and addresses. `true` when absent.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub source_guard: bool,
    /// Which link-local addresses the source guard lets it use.
    #[serde(default, skip_serializing_if = "LinkLocal::is_default")]
    pub link_local: LinkLocal,
}

fn yes() -> bool {
    true
}

impl Default for Endpoint {
    fn default() -> Self {
        Endpoint {
            attachments: Vec::new(),
            macs: Vec::new(),
            addresses: Vec::new(),
            network: default_network(),
            shared: Vec::new(),
            roles: BTreeSet::new(),
            profiles: Vec::new(),
            rules: Vec::new(),
            labels: BTreeMap::new(),
            source_guard: true,
            link_local: LinkLocal::default(),
        }
    }
}

impl Endpoint {
    /// Whether it says that others declare this MAC or address, too.
    pub fn shares(&self, declared: Declared) -> bool {
        self.shared.contains(&declared)
    }
}

/// What no endpoint may declare.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserved {
    /// MACs that are no endpoint's: a gateway's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
    /// Addresses that are no endpoint's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<StrictPrefix>,
    /// Addresses of DHCP and DHCPv6 servers. An endpoint may declare one if it has the role `dhcp-server`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp: Vec<StrictPrefix>,
}

impl Reserved {
    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.macs.is_empty() && self.addresses.is_empty() && self.dhcp.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_numbers_or_any() {
        for (json, vlan) in [
            ("0", Vlan::Untagged),
            ("null", Vlan::Untagged),
            ("1", Vlan::Id(1)),
            ("4094", Vlan::Id(4094)),
            ("\"7\"", Vlan::Id(7)),
            ("\"any\"", Vlan::Any),
        ] {
            assert_eq!(serde_json::from_str::<Vlan>(json).unwrap(), vlan, "{json}");
        }
        for vlan in [Vlan::Untagged, Vlan::Id(7), Vlan::Any] {
            let json = serde_json::to_string(&vlan).unwrap();
            assert_eq!(serde_json::from_str::<Vlan>(&json).unwrap(), vlan);
            assert_eq!(vlan.to_string().parse::<Vlan>().unwrap(), vlan);
        }
        for wrong in ["4095", "65536", "-1", "\"ANY\"", "\"\"", "1.5", "true", "\"+1\""] {
            assert!(serde_json::from_str::<Vlan>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Vlan::Any.vid(), None);
        assert_eq!((Vlan::Untagged.vid(), Vlan::Id(7).vid()), (Some(0), Some(7)));
    }

    #[test]
    fn what_is_absent_is_written_as_nothing() {
        assert_eq!("default".parse(), Ok(default_network()));
        let endpoint: Endpoint =
            serde_json::from_str(r#"{"network": "default", "link_local": "any"}"#).unwrap();
        assert_eq!(endpoint, Endpoint::default());
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), "{}");
        let attachment: Attachment = serde_json::from_str(r#"{"port": 1, "vlan": 0}"#).unwrap();
        assert_eq!(serde_json::to_string(&attachment).unwrap(), r#"{"port":1}"#);
    }

    #[test]
    fn macs_and_addresses_are_told_apart() {
        let mac: Declared = "00:00:5e:00:01:0a".parse().unwrap();
        assert!(matches!(mac, Declared::Mac(_)));
        for text in ["192.0.2.10", "2001:db8::10", "2001:db8::/64", "::1"] {
            let address: Declared = text.parse().unwrap();
            assert!(matches!(address, Declared::Address(_)), "{text}");
            assert_eq!(address.to_string(), text);
        }
        for wrong in ["", "web", "01:00:5e:00:00:01", "00:00:5e:00:01"] {
            assert!(wrong.parse::<Declared>().is_err(), "{wrong}");
        }
    }
}

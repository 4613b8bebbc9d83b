//! Views of the policy: baseline, profiles, endpoints, document.

use std::collections::BTreeMap;

use portcullis_proto::v1;
use serde::Serialize;

use super::bypass::BypassView;
use super::count;
use crate::table::{Grid, facts};
use crate::term::View;

/// `allow`, `deny`, or nothing where it is not set.
pub(super) fn action(number: i32) -> Option<&'static str> {
    match v1::Action::try_from(number) {
        Ok(v1::Action::Allow) => Some("allow"),
        Ok(v1::Action::Deny) => Some("deny"),
        Ok(v1::Action::Unspecified) | Err(_) => None,
    }
}

/// `egress`, `ingress`, or nothing where it is not set.
pub(super) fn direction(number: i32) -> Option<&'static str> {
    match v1::Direction::try_from(number) {
        Ok(v1::Direction::Egress) => Some("egress"),
        Ok(v1::Direction::Ingress) => Some("ingress"),
        Ok(v1::Direction::Unspecified) | Err(_) => None,
    }
}

/// An ICMP type and perhaps a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IcmpView {
    #[serde(rename = "type")]
    pub kind: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleView {
    pub name: String,
    /// Either `allow` or `deny`; absent when the agent sends one unknown here.
    pub action: Option<&'static str>,
    /// Either `egress` or `ingress`; absent for both.
    pub direction: Option<&'static str>,
    pub protocol: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpView>,
    /// IP version, 4 or 6; absent for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl From<v1::Rule> for RuleView {
    fn from(rule: v1::Rule) -> Self {
        RuleView {
            name: rule.name,
            action: action(rule.action),
            direction: direction(rule.direction),
            protocol: if rule.protocol.is_empty() {
                "any".to_string()
            } else {
                rule.protocol
            },
            ports: rule.ports,
            source_ports: rule.source_ports,
            remote: rule.remote,
            local: rule.local,
            icmp: rule.icmp.map(|i| IcmpView {
                kind: i.r#type,
                code: i.code,
            }),
            ip: (rule.ip != 0).then_some(rule.ip),
            reason: rule.reason,
        }
    }
}

impl RuleView {
    /// What it opens, in words.
    pub(super) fn opens(&self) -> String {
        format!("{} {}", self.direction.unwrap_or_default(), self.matches())
    }

    /// What it matches, in words.
    fn matches(&self) -> String {
        let mut parts = vec![self.protocol.clone()];
        if let Some(icmp) = &self.icmp {
            parts.push(format!("type {}", icmp.kind));
            parts.extend(icmp.code.map(|code| format!("code {code}")));
        }
        let lists = [
            ("port", &self.ports),
            ("source port", &self.source_ports),
            ("remote", &self.remote),
            ("local", &self.local),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            parts.push(format!("{name} {}", list.join(",")));
        }
        parts.extend(self.ip.map(|ip| format!("IPv{ip}")));
        parts.join(" ")
    }

    fn cells(&self) -> [String; 5] {
        let or_none = |text: Option<&str>| text.unwrap_or_default().to_string();
        [
            self.name.clone(),
            or_none(self.action),
            or_none(self.direction),
            self.matches(),
            self.reason.clone(),
        ]
    }
}

fn rules_text(rules: &[RuleView], width: Option<u16>) -> String {
    let mut grid = Grid::new(&["RULE", "ACTION", "DIRECTION", "MATCH", "REASON"]);
    rules.iter().for_each(|rule| grid.row(rule.cells()));
    grid.text(width)
}

fn rules(list: Vec<v1::Rule>) -> Vec<RuleView> {
    list.into_iter().map(RuleView::from).collect()
}

/// A default per direction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DefaultsView {
    /// Of what endpoints send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<&'static str>,
    /// Of what they are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<&'static str>,
}

impl From<Option<v1::Defaults>> for DefaultsView {
    fn from(defaults: Option<v1::Defaults>) -> Self {
        let defaults = defaults.unwrap_or_default();
        DefaultsView {
            egress: action(defaults.egress),
            ingress: action(defaults.ingress),
        }
    }
}

impl std::fmt::Display for DefaultsView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = [("egress", self.egress), ("ingress", self.ingress)];
        let parts: Vec<String> = set
            .iter()
            .filter_map(|(name, action)| action.map(|a| format!("{name} {a}")))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// What no endpoint may declare.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ReservedView {
    pub macs: Vec<String>,
    pub addresses: Vec<String>,
    /// Addresses of DHCP servers.
    pub dhcp: Vec<String>,
}

impl From<v1::Reserved> for ReservedView {
    fn from(reserved: v1::Reserved) -> Self {
        ReservedView {
            macs: reserved.macs,
            addresses: reserved.addresses,
            dhcp: reserved.dhcp,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaselineView {
    /// Verdicts where no rule matches.
    pub defaults: DefaultsView,
    /// `baseline`, `allow` or `deny`.
    pub unmanaged: &'static str,
    /// What no endpoint may declare.
    pub reserved: ReservedView,
    pub mandatory: Vec<RuleView>,
    pub rules: Vec<RuleView>,
    /// Changes with every change.
    pub etag: String,
}

impl From<v1::Baseline> for BaselineView {
    fn from(baseline: v1::Baseline) -> Self {
        BaselineView {
            defaults: baseline.defaults.into(),
            unmanaged: match v1::Unmanaged::try_from(baseline.unmanaged) {
                Ok(v1::Unmanaged::Allow) => "allow",
                Ok(v1::Unmanaged::Deny) => "deny",
                Ok(v1::Unmanaged::Baseline | v1::Unmanaged::Unspecified) | Err(_) => "baseline",
            },
            reserved: baseline.reserved.unwrap_or_default().into(),
            mandatory: rules(baseline.mandatory),
            rules: rules(baseline.rules),
            etag: baseline.etag,
        }
    }
}

impl View for BaselineView {
    fn text(&self, width: Option<u16>) -> String {
        let mut text = facts(&[
            ("defaults", self.defaults.to_string()),
            ("ports without an endpoint", self.unmanaged.to_string()),
            ("reserved macs", self.reserved.macs.join(", ")),
            ("reserved addresses", self.reserved.addresses.join(", ")),
            ("DHCP servers", self.reserved.dhcp.join(", ")),
        ]);
        let mut grid = Grid::new(&["TIER", "RULE", "ACTION", "DIRECTION", "MATCH", "REASON"]);
        for (tier, rules) in [("mandatory", &self.mandatory), ("baseline", &self.rules)] {
            rules
                .iter()
                .for_each(|rule| grid.row([tier.to_string()].into_iter().chain(rule.cells())));
        }
        if !grid.is_empty() {
            text.push('\n');
        }
        text + &grid.text(width)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileView {
    pub name: String,
    /// Default verdicts that the profile sets.
    pub default: DefaultsView,
    /// Its rules in their order.
    pub rules: Vec<RuleView>,
    /// Changes with every change.
    pub etag: String,
}

impl From<v1::Profile> for ProfileView {
    fn from(profile: v1::Profile) -> Self {
        ProfileView {
            name: profile.name,
            default: profile.defaults.into(),
            rules: rules(profile.rules),
            etag: profile.etag,
        }
    }
}

impl View for ProfileView {
    fn text(&self, width: Option<u16>) -> String {
        let mut text = facts(&[
            ("profile", self.name.clone()),
            ("default", self.default.to_string()),
        ]);
        if !self.rules.is_empty() {
            text.push('\n');
        }
        text + &rules_text(&self.rules, width)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfilesView {
    pub profiles: Vec<ProfileView>,
}

impl View for ProfilesView {
    fn text(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["PROFILE", "DEFAULT", "#RULES", "NAMES"]);
        for p in &self.profiles {
            let names: Vec<&str> = p.rules.iter().map(|r| r.name.as_str()).collect();
            grid.row([
                p.name.clone(),
                p.default.to_string(),
                p.rules.len().to_string(),
                names.join(", "),
            ]);
        }
        if grid.is_empty() {
            "no profiles\n".to_string()
        } else {
            grid.text(width)
        }
    }
}

/// Which frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VlanView {
    Any,
    #[serde(untagged)]
    Id(u32),
}

/// Where an endpoint plugs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachmentView {
    /// Name of an interface.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub iface_id: String,
    /// Number of a port of a switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// The VLAN of that port, or `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanView>,
    /// Name of a target.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// What tells its packets from those of others at the port, where that is not the port: `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
}

impl std::fmt::Display for AttachmentView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.interface.as_str(), self.port) {
            ("", Some(port)) => write!(f, "port {port}")?,
            ("", None) => write!(f, "iface-id {}", self.iface_id)?,
            (interface, _) => f.write_str(interface)?,
        }
        match self.vlan {
            Some(VlanView::Id(vlan)) => write!(f, ", VLAN {vlan}")?,
            Some(VlanView::Any) => f.write_str(", any VLAN")?,
            None => {}
        }
        if let Some(by) = self.by {
            write!(f, ", by {by}")?;
        }
        if self.target.is_empty() {
            Ok(())
        } else {
            write!(f, " on {}", self.target)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointView {
    pub name: String,
    /// Where it plugs in.
    pub attachments: Vec<AttachmentView>,
    pub macs: Vec<String>,
    /// Its addresses and prefixes.
    pub addresses: Vec<String>,
    /// The scope in which its MACs and addresses are its alone.
    pub network: String,
    /// Those that others of its network declare, too.
    pub shared: Vec<String>,
    /// What it may send beside what any server sends.
    pub roles: Vec<&'static str>,
    /// Its profiles in their order.
    pub profiles: Vec<String>,
    pub rules: Vec<RuleView>,
    pub labels: BTreeMap<String, String>,
    /// Whether it may send only with its MACs and addresses.
    pub source_guard: bool,
    /// Which link-local addresses the guard lets it use: `any` or `strict`.
    pub link_local: &'static str,
    /// Changes with every change.
    pub etag: String,
    /// The bypass of its policy, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<BypassView>,
}

impl From<v1::Endpoint> for EndpointView {
    fn from(endpoint: v1::Endpoint) -> Self {
        let attachment = |a: v1::Attachment| AttachmentView {
            interface: a.interface,
            iface_id: a.iface_id,
            port: a.port,
            vlan: if a.any_vlan {
                Some(VlanView::Any)
            } else {
                a.vlan.map(VlanView::Id)
            },
            target: a.target,
            by: match v1::IdentifiedBy::try_from(a.by) {
                Ok(v1::IdentifiedBy::Unspecified | v1::IdentifiedBy::Port) => None,
                Ok(v1::IdentifiedBy::Address) => Some("address"),
                Err(_) => Some("unknown"),
            },
            macs: a.macs,
        };
        let role = |number: i32| match v1::EndpointRole::try_from(number) {
            Ok(v1::EndpointRole::Router) => "router",
            Ok(v1::EndpointRole::DhcpServer) => "dhcp-server",
            Ok(v1::EndpointRole::Unspecified) | Err(_) => "unknown",
        };
        EndpointView {
            name: endpoint.name,
            attachments: endpoint.attachments.into_iter().map(attachment).collect(),
            macs: endpoint.macs,
            addresses: endpoint.addresses,
            network: if endpoint.network.is_empty() {
                "default".to_string()
            } else {
                endpoint.network
            },
            shared: endpoint.shared,
            roles: endpoint.roles.into_iter().map(role).collect(),
            profiles: endpoint.profiles,
            rules: rules(endpoint.rules),
            labels: endpoint.labels.into_iter().collect(),
            source_guard: endpoint.source_guard.unwrap_or(true),
            link_local: match v1::LinkLocal::try_from(endpoint.link_local) {
                Ok(v1::LinkLocal::Strict) => "strict",
                Ok(v1::LinkLocal::Any | v1::LinkLocal::Unspecified) | Err(_) => "any",
            },
            etag: endpoint.etag,
            bypass: endpoint.bypass.map(BypassView::from),
        }
    }
}

impl EndpointView {
    fn attachments(&self) -> String {
        self.attachments
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn labels(&self) -> String {
        self.labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A text that says more than the usual.
fn unless(usual: &str, text: &str) -> String {
    if text == usual { "" } else { text }.to_string()
}

impl View for EndpointView {
    fn text(&self, width: Option<u16>) -> String {
        let mut text = facts(&[
            ("endpoint", self.name.clone()),
            ("attachments", self.attachments()),
            ("macs", self.macs.join(", ")),
            ("addresses", self.addresses.join(", ")),
            ("network", unless("default", &self.network)),
            ("shared", self.shared.join(", ")),
            ("roles", self.roles.join(", ")),
            ("profiles", self.profiles.join(", ")),
            ("labels", self.labels()),
            (
                "source guard",
                if self.source_guard { "on" } else { "off" }.to_string(),
            ),
            ("link-local addresses", unless("any", self.link_local)),
            (
                "bypass",
                self.bypass.as_ref().map(BypassView::words).unwrap_or_default(),
            ),
        ]);
        if !self.rules.is_empty() {
            text.push('\n');
        }
        text + &rules_text(&self.rules, width)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointsView {
    pub endpoints: Vec<EndpointView>,
}

impl View for EndpointsView {
    fn text(&self, width: Option<u16>) -> String {
        let columns = [
            "ENDPOINT",
            "ATTACHMENTS",
            "MACS",
            "ADDRESSES",
            "PROFILES",
            "#RULES",
            "LABELS",
        ];
        let mut grid = Grid::new(&columns);
        for e in &self.endpoints {
            grid.row([
                e.name.clone(),
                e.attachments(),
                e.macs.join(", "),
                e.addresses.join(", "),
                e.profiles.join(", "),
                e.rules.len().to_string(),
                e.labels(),
            ]);
        }
        if grid.is_empty() {
            return "no endpoints\n".to_string();
        }
        grid.text(width) + &format!("{}\n", count(self.endpoints.len(), "endpoint"))
    }
}

/// The document as a value. For people it is the YAML that the agent wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct DocumentView {
    pub value: serde_json::Value,
    #[serde(skip)]
    pub yaml: String,
}

impl View for DocumentView {
    fn text(&self, _: Option<u16>) -> String {
        self.yaml.clone()
    }
}

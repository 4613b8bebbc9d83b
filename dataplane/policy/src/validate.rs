//! Validation that involves the whole document.

use std::collections::{BTreeMap, HashMap};

use crate::document::{Document, Rule, VERSION};
use crate::endpoint::{Attachment, Declared, Endpoint, IdentifiedBy, Vlan};
use crate::matcher::Matcher;
use crate::types::{Name, Protocol, StrictPrefix};

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field: `endpoints.web1.addresses[0]`.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The text cannot be read as YAML or JSON.
    #[error("not a readable document: {0}")]
    Syntax(String),
    /// Fields are wrong; at least one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Fields(Vec<FieldError>),
}

impl DocumentError {
    /// The wrong fields; a document that cannot be read has one, with an empty path.
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            DocumentError::Syntax(problem) => {
                vec![FieldError {
                    path: String::new(),
                    problem: problem.clone(),
                }]
            }
            DocumentError::Fields(fields) => fields.clone(),
        }
    }
}

/// Longest `reason`, in bytes.
const MAX_REASON: usize = 1024;
/// Most rules in one list.
const MAX_RULES: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    pub(crate) fn fail(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.errors.push(FieldError {
            path: path.into(),
            problem: problem.into(),
        });
    }

    fn rules(&mut self, path: &str, rules: &[Rule]) {
        if rules.len() > MAX_RULES {
            self.fail(path, format!("has {} rules: at most {MAX_RULES}", rules.len()));
            return;
        }
        let mut seen: HashMap<&Name, usize> = HashMap::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let at = || format!("{path}[{index}]");
            if let Some(first) = seen.insert(&rule.name, index) {
                self.fail(
                    format!("{}.name", at()),
                    format!(
                        "`{}` is the name of {path}[{first}] already: rename one",
                        rule.name
                    ),
                );
            }
            self.rule(&at, rule);
        }
    }

    pub(crate) fn rule(&mut self, at: &dyn Fn() -> String, rule: &Rule) {
        let has_ports = matches!(rule.protocol, Protocol::Number(n) if Protocol::has_ports(n));
        for (field, ports) in [("ports", &rule.ports), ("source_ports", &rule.source_ports)] {
            if !ports.is_empty() && !has_ports {
                self.fail(
                    format!("{}.{field}", at()),
                    format!(
                        "protocol {} has no ports: set protocol to tcp, udp or sctp",
                        rule.protocol
                    ),
                );
            }
        }
        if rule.protocol == Protocol::Number(0) {
            self.fail(
                format!("{}.protocol", at()),
                "0 is the IPv6 hop-by-hop header, which no packet ends with: name the protocol behind it",
            );
        }
        let is_icmp = matches!(rule.protocol, Protocol::Number(Protocol::ICMP | Protocol::ICMPV6));
        if rule.icmp.is_some() && !is_icmp {
            self.fail(
                format!("{}.icmp", at()),
                format!(
                    "protocol {} has no ICMP type: set protocol to icmp or icmpv6",
                    rule.protocol
                ),
            );
        }
        for (field, prefixes) in [("remote", &rule.remote), ("local", &rule.local)] {
            self.unmapped(&|| format!("{}.{field}", at()), prefixes);
        }
        if rule.reason.len() > MAX_REASON {
            self.fail(
                format!("{}.reason", at()),
                format!("is longer than {MAX_REASON} bytes"),
            );
        }
        if Matcher::from_rule(rule).is_none() {
            self.fail(
                at(),
                "can never match: its protocol, ip, remote and local leave no IP version; \
                 icmp is IPv4 only, icmpv6 is IPv6 only, prefixes limit the rule to their own versions",
            );
        }
    }

    /// IPv4 addresses are written as such.
    pub(crate) fn unmapped(&mut self, at: &dyn Fn() -> String, prefixes: &[StrictPrefix]) {
        for (index, prefix) in prefixes.iter().enumerate() {
            if let Some(v4) = prefix.mapped() {
                self.fail(
                    format!("{}[{index}]", at()),
                    format!("{prefix} is IPv4 inside IPv6, which no packet carries: write {v4}"),
                );
            }
        }
    }

    fn attachment(&mut self, path: &str, attachment: &Attachment) {
        let named = usize::from(attachment.interface.is_some())
            + usize::from(attachment.iface_id.is_some())
            + usize::from(attachment.port.is_some());
        if named > 1 {
            self.fail(
                path,
                "names more than one of interface, iface_id and port: keep one",
            );
        }
        if attachment.port.is_some() && attachment.target.is_none() {
            self.fail(
                format!("{path}.target"),
                "is missing: a port number means nothing without the switch it is of",
            );
        }
        if matches!(attachment.vlan, Vlan::Id(_)) && attachment.port.is_none() {
            self.fail(
                format!("{path}.vlan"),
                "goes with port: an interface's VLANs are set in OVS; write any for an interface that is a trunk",
            );
        }
        if attachment.by == IdentifiedBy::Address && attachment.port.is_none() {
            self.fail(
                format!("{path}.by"),
                "goes with port: an interface has one endpoint",
            );
        }
        match (&attachment.interface, &attachment.iface_id) {
            (Some(name), None) if name.is_empty() || name.len() > 255 => {
                self.fail(
                    format!("{path}.interface"),
                    "is not an interface name: 1 to 255 bytes",
                );
            }
            (None, Some(id)) if id.is_empty() || id.len() > 255 => {
                self.fail(format!("{path}.iface_id"), "is not an iface-id: 1 to 255 bytes");
            }
            (None, None) if attachment.port.is_none() => self.fail(
                path,
                "names nothing to attach to: set interface, iface_id, or port with target",
            ),
            _ => {}
        }
    }

    fn endpoint(&mut self, path: &str, endpoint: &Endpoint, document: &Document) {
        for (index, profile) in endpoint.profiles.iter().enumerate() {
            if !document.profiles.contains_key(profile) {
                self.fail(
                    format!("{path}.profiles[{index}]"),
                    format!("there is no profile `{profile}`: define it or remove the reference"),
                );
            }
            if endpoint
                .profiles
                .iter()
                .take(index)
                .any(|earlier| earlier == profile)
            {
                self.fail(
                    format!("{path}.profiles[{index}]"),
                    format!("`{profile}` is bound twice"),
                );
            }
        }
        for (index, attachment) in endpoint.attachments.iter().enumerate() {
            self.attachment(&format!("{path}.attachments[{index}]"), attachment);
            for (k, mac) in attachment.macs.iter().enumerate() {
                if !endpoint.macs.contains(mac) {
                    self.fail(
                        format!("{path}.attachments[{index}].macs[{k}]"),
                        format!("{mac} is not among the endpoint's macs: add it there"),
                    );
                }
            }
        }
        self.by_address(path, endpoint);
        for (index, declared) in endpoint.shared.iter().enumerate() {
            let own = match declared {
                Declared::Mac(mac) => endpoint.macs.contains(mac),
                Declared::Address(prefix) => endpoint.addresses.contains(prefix),
            };
            if !own {
                self.fail(
                    format!("{path}.shared[{index}]"),
                    format!("{declared} is not among the endpoint's macs and addresses: add it there, too"),
                );
            }
        }
        self.hosts(&format!("{path}.addresses"), &endpoint.addresses);
        for key in endpoint.labels.keys() {
            if key.is_empty() || key.len() > 255 {
                self.fail(
                    format!("{path}.labels"),
                    format!("`{key}` is not a label key: 1 to 255 bytes"),
                );
            }
        }
        self.rules(&format!("{path}.rules"), &endpoint.rules);
    }

    /// An endpoint that is attached by address needs addresses that it alone sends with.
    fn by_address(&mut self, path: &str, endpoint: &Endpoint) {
        let mut attachments = endpoint.attachments.iter().enumerate();
        let Some((index, _)) = attachments.find(|(_, a)| a.by == IdentifiedBy::Address) else {
            return;
        };
        let shares = |address: &&StrictPrefix| endpoint.shares(Declared::Address(**address));
        let shared = endpoint.addresses.iter().find(shares);
        let problem = if endpoint.addresses.is_empty() {
            "needs addresses: nothing else tells the endpoint from others at the port".to_string()
        } else if !endpoint.source_guard {
            "needs source_guard: without it others could send with its addresses".to_string()
        } else if let Some(shared) = shared {
            format!("needs addresses that no other endpoint has, and {shared} is in `shared`")
        } else {
            return;
        };
        self.fail(format!("{path}.attachments[{index}].by"), problem);
    }

    /// An attachment belongs to one endpoint, and so do a MAC and an address of a network.
    fn claims(&mut self, document: &Document) {
        type AttachmentKey<'a> = (Option<&'a str>, Option<&'a str>, Option<(u32, Vlan)>);
        let mut attachments: BTreeMap<AttachmentKey<'_>, Vec<Place<'_>>> = BTreeMap::new();
        for (name, endpoint) in &document.endpoints {
            for (index, attachment) in endpoint.attachments.iter().enumerate() {
                let path = format!("endpoints.{name}.attachments[{index}]");
                let target = attachment.target.as_deref();
                // What an interface is, is one place, whichever VLANs of it are meant.
                let port = attachment.port.map(|port| (port, attachment.vlan));
                let plug = (
                    attachment.interface.as_deref(),
                    attachment.iface_id.as_deref(),
                    port,
                );
                let claims = attachments.entry(plug).or_default();
                // An attachment that names no target is found on every one.
                let clash = claims.iter().find(|other| {
                    let is_there = other.target.is_none() || target.is_none() || other.target == target;
                    is_there && !(other.name != name && are_apart(other.attachment, attachment))
                });
                if let Some(other) = clash {
                    self.fail(path.clone(), claimed(attachment, &other.path, other.name == name));
                }
                claims.push(Place {
                    name,
                    attachment,
                    target,
                    path,
                });
            }
        }
        self.declared(document);
    }
}

/// An attachment and whose it is.
struct Place<'a> {
    name: &'a Name,
    attachment: &'a Attachment,
    target: Option<&'a str>,
    path: String,
}

/// Whether the addresses of their endpoints tell two attachments of one place apart.
fn are_apart(a: &Attachment, b: &Attachment) -> bool {
    [a, b].iter().all(|a| a.by == IdentifiedBy::Address)
}

fn claimed(attachment: &Attachment, other: &str, is_own: bool) -> String {
    let apart = match attachment.port {
        Some(_) if !is_own => {
            "; where several endpoints are behind one port, write `by: address` in the attachment of each"
        }
        _ => "",
    };
    format!("{attachment} is claimed by {other} already{apart}")
}

/// Whether two attachments are one place: an attachment that names no target is found on every one.
fn same_place(a: &Attachment, b: &Attachment) -> bool {
    a.interface == b.interface
        && a.iface_id == b.iface_id
        && a.port == b.port
        && (a.port.is_none() || a.vlan == b.vlan)
        && (a.target.is_none() || b.target.is_none() || a.target == b.target)
}

impl Check {
    /// What [`claims`](Self::claims) checks, for one endpoint against all.
    fn claims_of(&mut self, name: &Name, endpoint: &Endpoint, document: &Document) {
        let path = format!("endpoints.{name}");
        for (index, attachment) in endpoint.attachments.iter().enumerate() {
            let within = endpoint
                .attachments
                .iter()
                .take(index)
                .position(|a| same_place(a, attachment));
            let elsewhere = || {
                document.endpoints.iter().find_map(|(other, e)| {
                    let clashes = |a: &Attachment| same_place(a, attachment) && !are_apart(a, attachment);
                    let at = e.attachments.iter().position(clashes)?;
                    (other != name).then(|| format!("endpoints.{other}.attachments[{at}]"))
                })
            };
            let is_own = within.is_some();
            let taken = within
                .map(|at| format!("{path}.attachments[{at}]"))
                .or_else(elsewhere);
            if let Some(taken) = taken {
                self.fail(
                    format!("{path}.attachments[{index}]"),
                    claimed(attachment, &taken, is_own),
                );
            }
        }
        self.declared_of(name, endpoint, document);
    }

    fn done(self) -> Result<(), DocumentError> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(DocumentError::Fields(self.errors))
        }
    }
}

impl Document {
    /// Checks what the types of the fields cannot: references, names, claims, rules that cannot match.
    pub fn validate(&self) -> Result<(), DocumentError> {
        let mut check = Check::default();
        if self.version != VERSION {
            check.fail(
                "version",
                format!("`{}` is not known: write {VERSION}", self.version),
            );
        }
        check.reserved(&self.reserved);
        check.rules("mandatory", &self.mandatory);
        check.rules("baseline", &self.baseline);
        for (name, profile) in &self.profiles {
            check.rules(&format!("profiles.{name}.rules"), &profile.rules);
        }
        for (name, endpoint) in &self.endpoints {
            check.endpoint(&format!("endpoints.{name}"), endpoint, self);
        }
        check.claims(self);
        check.programs(self);
        check.done()
    }

    /// [`validate`](Self::validate) for a document in which only programs were added, changed or removed.
    pub fn validate_programs(&self) -> Result<(), DocumentError> {
        let mut check = Check::default();
        check.programs(self);
        check.done()
    }

    /// [`validate`](Self::validate) for a document in which only this endpoint changed; it may be absent.
    pub fn validate_endpoint(&self, name: &Name) -> Result<(), DocumentError> {
        let mut check = Check::default();
        if let Some(endpoint) = self.endpoints.get(name) {
            check.endpoint(&format!("endpoints.{name}"), endpoint, self);
            check.claims_of(name, endpoint, self);
        }
        check.done()
    }

    /// [`validate`](Self::validate) for a document in which only this profile was added or changed.
    pub fn validate_profile(&self, name: &Name) -> Result<(), DocumentError> {
        let mut check = Check::default();
        if let Some(profile) = self.profiles.get(name) {
            check.rules(&format!("profiles.{name}.rules"), &profile.rules);
        }
        check.done()
    }

    /// [`validate`](Self::validate) for a document in which only the rules for everybody changed.
    pub fn validate_baseline(&self) -> Result<(), DocumentError> {
        let mut check = Check::default();
        check.reserved(&self.reserved);
        check.reserved_of_none(self);
        check.rules("mandatory", &self.mandatory);
        check.rules("baseline", &self.baseline);
        check.done()
    }
}

#[cfg(test)]
mod tests;

//! Between the API's messages and the policy's types. What cannot be converted is an error with the field's path;
//! nothing is dropped or guessed.

use std::str::FromStr;
use std::sync::Arc;

use portcullis_policy::{
    Attachment, Direction, Endpoint, EndpointRole, Family, FieldError, IcmpMatch, IdentifiedBy, LinkLocal,
    Name, ParseError, PerDirection, Profile, Protocol, Reserved, Rule, Unmanaged, Verdict, Vlan,
    default_network,
};
use portcullis_proto::v1;
use portcullis_unlock::ledger::Bypass;

use crate::access::{Caller, Role};
use crate::engine::Baseline;

use super::status::ApiError;

/// Collects what is wrong while converting, so that one answer names all of it.
#[derive(Debug, Default)]
pub(super) struct Fields {
    errors: Vec<FieldError>,
}

impl Fields {
    pub(super) fn fail(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.errors.push(FieldError {
            path: path.into(),
            problem: problem.into(),
        });
    }

    /// The value, unless something was wrong.
    pub(super) fn done<T>(self, value: Option<T>) -> Result<T, ApiError> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ApiError::Fields(self.errors)),
        }
    }

    pub(super) fn parse<T: FromStr<Err = ParseError>>(&mut self, path: &str, text: &str) -> Option<T> {
        text.parse()
            .map_err(|error: ParseError| self.fail(path, error.to_string()))
            .ok()
    }

    fn list<T: FromStr<Err = ParseError>>(&mut self, path: &str, texts: &[String]) -> Option<Vec<T>> {
        let parsed: Vec<Option<T>> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| self.parse(&format!("{path}[{i}]"), text))
            .collect();
        parsed.into_iter().collect()
    }

    fn byte(&mut self, path: &str, number: u32) -> Option<u8> {
        let byte = u8::try_from(number).ok();
        if byte.is_none() {
            self.fail(path, format!("{number} is out of range: write 0 to 255"));
        }
        byte
    }

    pub(super) fn port(&mut self, path: &str, number: u32) -> Option<u16> {
        let port = u16::try_from(number).ok();
        if port.is_none() {
            self.fail(
                path,
                format!("port {number} is out of range: ports are 0 to 65535"),
            );
        }
        port
    }

    pub(super) fn icmp(&mut self, path: &str, icmp: &v1::IcmpMatch) -> Option<IcmpMatch> {
        let kind = self.byte(&format!("{path}.type"), icmp.r#type);
        let code = icmp.code.map(|code| self.byte(&format!("{path}.code"), code));
        Some(IcmpMatch {
            kind: kind?,
            code: code.map_or(Some(None), |c| c.map(Some))?,
        })
    }

    /// `Some(None)` for 0, which means both.
    pub(super) fn family(&mut self, path: &str, number: u32) -> Option<Option<Family>> {
        match number {
            0 => Some(None),
            4 => Some(Some(Family::V4)),
            6 => Some(Some(Family::V6)),
            other => {
                self.fail(
                    path,
                    format!("{other} is not an IP version: write 4 or 6, or 0 for both"),
                );
                None
            }
        }
    }

    pub(super) fn direction(&mut self, path: &str, direction: i32) -> Option<Direction> {
        match v1::Direction::try_from(direction) {
            Ok(v1::Direction::Egress) => Some(Direction::Egress),
            Ok(v1::Direction::Ingress) => Some(Direction::Ingress),
            _ => {
                self.fail(path, "is required: DIRECTION_EGRESS or DIRECTION_INGRESS");
                None
            }
        }
    }

    fn action(&mut self, path: &str, action: i32) -> Option<Verdict> {
        let action = self.maybe_action(path, action)?;
        if action.is_none() {
            self.fail(path, "is required: ACTION_ALLOW or ACTION_DENY");
        }
        action
    }

    /// `Some(None)` when it is not set.
    fn maybe_action(&mut self, path: &str, action: i32) -> Option<Option<Verdict>> {
        match v1::Action::try_from(action) {
            Ok(v1::Action::Allow) => Some(Some(Verdict::Allow)),
            Ok(v1::Action::Deny) => Some(Some(Verdict::Deny)),
            Ok(v1::Action::Unspecified) => Some(None),
            Err(_) => {
                self.fail(
                    path,
                    format!("{action} is not an action: write ACTION_ALLOW or ACTION_DENY"),
                );
                None
            }
        }
    }

    fn rule(&mut self, path: &str, rule: v1::Rule) -> Option<Rule> {
        let at = |field: &str| format!("{path}.{field}");
        let protocol = match rule.protocol.as_str() {
            "" => Some(Protocol::Any),
            text => self.parse(&at("protocol"), text),
        };
        let name = self.parse(&at("name"), &rule.name);
        let action = self.action(&at("action"), rule.action);
        let direction = self.direction(&at("direction"), rule.direction);
        let ports = self.list(&at("ports"), &rule.ports);
        let source_ports = self.list(&at("source_ports"), &rule.source_ports);
        let remote = self.list(&at("remote"), &rule.remote);
        let local = self.list(&at("local"), &rule.local);
        let icmp = rule.icmp.as_ref().map(|icmp| self.icmp(&at("icmp"), icmp));
        let ip = self.family(&at("ip"), rule.ip);
        let lists = [&rule.ports, &rule.source_ports, &rule.remote, &rule.local];
        let narrowed = rule.icmp.is_some() || lists.iter().any(|list| !list.is_empty());
        match (rule.protocol.as_str(), narrowed, rule.match_all) {
            ("", false, false) => self.fail(
                at("match_all"),
                "is required where protocol, ports and prefixes are empty: set it if the rule is to match every packet",
            ),
            ("" | "any", false, true) | (_, _, false) => {}
            _ => self.fail(
                at("match_all"),
                "says every packet, and the rule names protocol, ports or prefixes: leave one of both out",
            ),
        }
        Some(Rule {
            name: name?,
            action: action?,
            direction: direction?,
            protocol: protocol?,
            ports: ports?,
            source_ports: source_ports?,
            remote: remote?,
            local: local?,
            icmp: icmp.map_or(Some(None), |i| i.map(Some))?,
            ip: ip?,
            reason: rule.reason,
        })
    }

    fn rules(&mut self, path: &str, rules: Vec<v1::Rule>) -> Option<Vec<Rule>> {
        let converted: Vec<Option<Rule>> = rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| self.rule(&format!("{path}[{i}]"), rule))
            .collect();
        converted.into_iter().collect()
    }

    fn vlan(&mut self, path: &str, number: Option<u32>, any: bool) -> Option<Vlan> {
        match (number, any) {
            (Some(_), true) => {
                self.fail(path, "any_vlan says every VLAN: leave vlan empty, or any_vlan");
                None
            }
            (None, true) => Some(Vlan::Any),
            (number, false) => Vlan::numbered(number.unwrap_or(0).into())
                .map_err(|error| self.fail(path, error.to_string()))
                .ok(),
        }
    }

    fn role(&mut self, path: &str, role: i32) -> Option<EndpointRole> {
        match v1::EndpointRole::try_from(role) {
            Ok(v1::EndpointRole::Router) => Some(EndpointRole::Router),
            Ok(v1::EndpointRole::DhcpServer) => Some(EndpointRole::DhcpServer),
            Ok(v1::EndpointRole::Unspecified) | Err(_) => {
                let problem =
                    format!("{role} is not a role: write ENDPOINT_ROLE_ROUTER or ENDPOINT_ROLE_DHCP_SERVER");
                self.fail(path, problem);
                None
            }
        }
    }

    fn by(&mut self, path: &str, by: i32) -> Option<IdentifiedBy> {
        match v1::IdentifiedBy::try_from(by) {
            Ok(v1::IdentifiedBy::Unspecified | v1::IdentifiedBy::Port) => Some(IdentifiedBy::Port),
            Ok(v1::IdentifiedBy::Address) => Some(IdentifiedBy::Address),
            Err(_) => {
                let problem = format!(
                    "{by} does not tell endpoints apart: write IDENTIFIED_BY_PORT or IDENTIFIED_BY_ADDRESS"
                );
                self.fail(path, problem);
                None
            }
        }
    }

    fn link_local(&mut self, path: &str, link_local: i32) -> Option<LinkLocal> {
        match v1::LinkLocal::try_from(link_local) {
            Ok(v1::LinkLocal::Unspecified | v1::LinkLocal::Any) => Some(LinkLocal::Any),
            Ok(v1::LinkLocal::Strict) => Some(LinkLocal::Strict),
            Err(_) => {
                let problem = format!(
                    "{link_local} does not say which link-local addresses: write LINK_LOCAL_ANY or LINK_LOCAL_STRICT"
                );
                self.fail(path, problem);
                None
            }
        }
    }

    fn reserved(&mut self, path: &str, reserved: &v1::Reserved) -> Option<Reserved> {
        let macs = self.list(&format!("{path}.macs"), &reserved.macs);
        let addresses = self.list(&format!("{path}.addresses"), &reserved.addresses);
        let dhcp = self.list(&format!("{path}.dhcp"), &reserved.dhcp);
        Some(Reserved {
            macs: macs?,
            addresses: addresses?,
            dhcp: dhcp?,
        })
    }

    fn attachment(&mut self, path: &str, attachment: v1::Attachment) -> Option<Attachment> {
        let macs = self.list(&format!("{path}.macs"), &attachment.macs);
        let set = |text: String| if text.is_empty() { None } else { Some(text) };
        let vlan = self.vlan(&format!("{path}.vlan"), attachment.vlan, attachment.any_vlan);
        let by = self.by(&format!("{path}.by"), attachment.by);
        Some(Attachment {
            interface: set(attachment.interface),
            iface_id: set(attachment.iface_id),
            port: attachment.port,
            vlan: vlan?,
            target: set(attachment.target),
            by: by?,
            macs: macs?,
        })
    }
}

/// The message of a request, which must be there.
fn required<T>(path: &str, message: Option<T>) -> Result<T, ApiError> {
    message.ok_or_else(|| ApiError::field(path, "is required"))
}

/// A name in a request.
pub(super) fn name(path: &str, text: &str) -> Result<Name, ApiError> {
    let mut fields = Fields::default();
    let name = fields.parse(path, text);
    fields.done(name)
}

/// The baseline of a request and its etag.
pub(super) fn baseline(message: Option<v1::Baseline>) -> Result<(Baseline, String), ApiError> {
    let message = required("baseline", message)?;
    let mut fields = Fields::default();
    let defaults = message.defaults.unwrap_or_default();
    let egress = fields.action("baseline.defaults.egress", defaults.egress);
    let ingress = fields.action("baseline.defaults.ingress", defaults.ingress);
    let unmanaged = match v1::Unmanaged::try_from(message.unmanaged) {
        Ok(v1::Unmanaged::Baseline) => Some(Unmanaged::Baseline),
        Ok(v1::Unmanaged::Allow) => Some(Unmanaged::Allow),
        Ok(v1::Unmanaged::Deny) => Some(Unmanaged::Deny),
        _ => {
            let problem = "is required: UNMANAGED_BASELINE, UNMANAGED_ALLOW or UNMANAGED_DENY";
            fields.fail("baseline.unmanaged", problem);
            None
        }
    };
    let mandatory = fields.rules("baseline.mandatory", message.mandatory);
    let rules = fields.rules("baseline.rules", message.rules);
    let reserved = fields.reserved("baseline.reserved", &message.reserved.unwrap_or_default());
    let whole = || {
        let defaults = PerDirection {
            egress: egress?,
            ingress: ingress?,
        };
        Some(Baseline {
            defaults,
            unmanaged: unmanaged?,
            reserved: reserved?,
            mandatory: mandatory?,
            rules: rules?,
        })
    };
    let whole = whole();
    Ok((fields.done(whole)?, message.etag))
}

/// The profile of a request, its name and its etag.
pub(super) fn profile(message: Option<v1::Profile>) -> Result<(Name, Profile, String), ApiError> {
    let message = required("profile", message)?;
    let mut fields = Fields::default();
    let name = fields.parse("profile.name", &message.name);
    let set = message.defaults.unwrap_or_default();
    let egress = fields.maybe_action("profile.defaults.egress", set.egress);
    let ingress = fields.maybe_action("profile.defaults.ingress", set.ingress);
    let rules = fields.rules("profile.rules", message.rules);
    let whole = || {
        let profile = Profile {
            default: PerDirection {
                egress: egress?,
                ingress: ingress?,
            },
            rules: rules?,
        };
        Some((name?, profile))
    };
    let whole = whole();
    let (name, profile) = fields.done(whole)?;
    Ok((name, profile, message.etag))
}

/// The endpoint of a request, its name and its etag.
pub(super) fn endpoint(message: Option<v1::Endpoint>) -> Result<(Name, Endpoint, String), ApiError> {
    let message = required("endpoint", message)?;
    let mut fields = Fields::default();
    let name = fields.parse("endpoint.name", &message.name);
    let attachments: Vec<Option<Attachment>> = message
        .attachments
        .into_iter()
        .enumerate()
        .map(|(i, a)| fields.attachment(&format!("endpoint.attachments[{i}]"), a))
        .collect();
    let macs = fields.list("endpoint.macs", &message.macs);
    let addresses = fields.list("endpoint.addresses", &message.addresses);
    let profiles = fields.list("endpoint.profiles", &message.profiles);
    let rules = fields.rules("endpoint.rules", message.rules);
    let network = match message.network.as_str() {
        "" => Some(default_network()),
        text => fields.parse("endpoint.network", text),
    };
    let shared = fields.list("endpoint.shared", &message.shared);
    let roles: Vec<Option<EndpointRole>> = message
        .roles
        .iter()
        .enumerate()
        .map(|(i, role)| fields.role(&format!("endpoint.roles[{i}]"), *role))
        .collect();
    let link_local = fields.link_local("endpoint.link_local", message.link_local);
    let whole = || {
        let endpoint = Endpoint {
            attachments: attachments.into_iter().collect::<Option<_>>()?,
            macs: macs?,
            addresses: addresses?,
            network: network?,
            shared: shared?,
            roles: roles.into_iter().collect::<Option<_>>()?,
            profiles: profiles?,
            rules: rules?,
            labels: message.labels.into_iter().collect(),
            source_guard: message.source_guard.unwrap_or(true),
            link_local: link_local?,
        };
        Some((name?, endpoint))
    };
    let whole = whole();
    let (name, endpoint) = fields.done(whole)?;
    Ok((name, endpoint, message.etag))
}

/// Paths of the document as paths of the message: `endpoints.web1.macs[0]` in a call that carries one endpoint is
/// `endpoint.macs[0]`. Each pair is a beginning in the document and its beginning in the message.
pub(super) fn as_message_paths(fields: Vec<FieldError>, paths: &[(&str, &str)]) -> Vec<FieldError> {
    let renamed = |path: &str| {
        paths.iter().find_map(|(document, message)| {
            let rest = path.strip_prefix(document)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{message}{rest}"))
        })
    };
    let rename = |field: FieldError| FieldError {
        path: renamed(&field.path).unwrap_or(field.path),
        ..field
    };
    fields.into_iter().map(rename).collect()
}

pub(super) fn action_out(action: Verdict) -> v1::Action {
    match action {
        Verdict::Allow => v1::Action::Allow,
        Verdict::Deny => v1::Action::Deny,
    }
}

pub(super) fn direction_out(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Egress => v1::Direction::Egress,
        Direction::Ingress => v1::Direction::Ingress,
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) fn rule_out(rule: &Rule) -> v1::Rule {
    v1::Rule {
        name: rule.name.to_string(),
        action: action_out(rule.action).into(),
        direction: direction_out(rule.direction).into(),
        protocol: rule.protocol.to_string(),
        ports: texts(&rule.ports),
        source_ports: texts(&rule.source_ports),
        remote: texts(&rule.remote),
        local: texts(&rule.local),
        icmp: rule.icmp.map(|icmp| v1::IcmpMatch {
            r#type: icmp.kind.into(),
            code: icmp.code.map(u32::from),
        }),
        ip: rule
            .ip
            .map_or(0, |family| if family == Family::V4 { 4 } else { 6 }),
        reason: rule.reason.clone(),
        match_all: matches_all(rule),
    }
}

/// Whether a rule names no protocol, port or prefix.
fn matches_all(rule: &Rule) -> bool {
    rule.protocol == Protocol::Any
        && rule.ports.is_empty()
        && rule.source_ports.is_empty()
        && rule.remote.is_empty()
        && rule.local.is_empty()
}

fn rules_out(rules: &[Rule]) -> Vec<v1::Rule> {
    rules.iter().map(rule_out).collect()
}

pub(super) fn baseline_out(baseline: &Baseline, etag: String) -> v1::Baseline {
    let unmanaged = match baseline.unmanaged {
        Unmanaged::Baseline => v1::Unmanaged::Baseline,
        Unmanaged::Allow => v1::Unmanaged::Allow,
        Unmanaged::Deny => v1::Unmanaged::Deny,
    };
    v1::Baseline {
        mandatory: rules_out(&baseline.mandatory),
        rules: rules_out(&baseline.rules),
        defaults: Some(v1::Defaults {
            egress: action_out(baseline.defaults.egress).into(),
            ingress: action_out(baseline.defaults.ingress).into(),
        }),
        unmanaged: unmanaged.into(),
        etag,
        reserved: (!baseline.reserved.is_empty()).then(|| v1::Reserved {
            macs: texts(&baseline.reserved.macs),
            addresses: texts(&baseline.reserved.addresses),
            dhcp: texts(&baseline.reserved.dhcp),
        }),
    }
}

pub(super) fn profile_out(name: &Name, profile: &Arc<Profile>, etag: String) -> v1::Profile {
    let set = |action: Option<Verdict>| action.map_or(v1::Action::Unspecified, action_out).into();
    v1::Profile {
        name: name.to_string(),
        defaults: Some(v1::Defaults {
            egress: set(profile.default.egress),
            ingress: set(profile.default.ingress),
        }),
        rules: rules_out(&profile.rules),
        etag,
    }
}

fn role_out(role: EndpointRole) -> v1::EndpointRole {
    match role {
        EndpointRole::Router => v1::EndpointRole::Router,
        EndpointRole::DhcpServer => v1::EndpointRole::DhcpServer,
    }
}

pub(super) fn endpoint_out(
    name: &Name,
    endpoint: &Arc<Endpoint>,
    etag: String,
    bypass: Option<v1::Bypass>,
) -> v1::Endpoint {
    let attachment = |a: &Attachment| v1::Attachment {
        interface: a.interface.clone().unwrap_or_default(),
        iface_id: a.iface_id.clone().unwrap_or_default(),
        port: a.port,
        vlan: match a.vlan {
            Vlan::Id(vid) => Some(vid.into()),
            Vlan::Untagged | Vlan::Any => None,
        },
        any_vlan: a.vlan == Vlan::Any,
        by: match a.by {
            IdentifiedBy::Port => v1::IdentifiedBy::Unspecified,
            IdentifiedBy::Address => v1::IdentifiedBy::Address,
        }
        .into(),
        target: a.target.clone().unwrap_or_default(),
        macs: texts(&a.macs),
    };
    v1::Endpoint {
        name: name.to_string(),
        attachments: endpoint.attachments.iter().map(attachment).collect(),
        macs: texts(&endpoint.macs),
        addresses: texts(&endpoint.addresses),
        profiles: texts(&endpoint.profiles),
        rules: rules_out(&endpoint.rules),
        labels: endpoint.labels.clone().into_iter().collect(),
        source_guard: Some(endpoint.source_guard),
        etag,
        network: if endpoint.network == default_network() {
            String::new()
        } else {
            endpoint.network.to_string()
        },
        shared: texts(&endpoint.shared),
        roles: endpoint.roles.iter().map(|role| role_out(*role).into()).collect(),
        link_local: match endpoint.link_local {
            LinkLocal::Any => v1::LinkLocal::Unspecified,
            LinkLocal::Strict => v1::LinkLocal::Strict,
        }
        .into(),
        bypass,
    }
}

/// A bypass as a caller may see it: a tenant does not see who the operator is.
pub(super) fn bypass_for(caller: &Caller, bypass: &Bypass) -> v1::Bypass {
    let mut shown = bypass_out(bypass);
    if caller.role == Role::Tenant {
        shown.by = Role::Operator.to_string();
    }
    shown
}

pub(super) fn bypass_out(bypass: &Bypass) -> v1::Bypass {
    v1::Bypass {
        endpoint: bypass.endpoint.to_string(),
        reason: bypass.reason.clone(),
        by: bypass.by.clone(),
        started_at: bypass.started_at,
        ends_at: bypass.ends.seconds(),
    }
}

//! Explain: the verdict for a packet, the deciding rule, and the rows that enforce it on each target.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use portcullis_backend::{TargetHandle, Trace};
use portcullis_policy::intervals::{IntervalSet, number};
use portcullis_policy::{
    Decider, Direction, Endpoint, Entry, Family, Fragment, Frame, IcmpMatch, IpPacket, L4, Name, Packet,
    Policy, Protocol, TCP_ACK, TCP_SYN, Verdict, View, effective,
};
use portcullis_proto::v1;

use super::Api;
use super::convert::{self, Fields};
use super::status::ApiError;
use crate::access::{Caller, Role};
use crate::store::{Key, Kind};

/// How long a target may take to be asked.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Source port when none is given.
const SOURCE_PORT: u32 = 40_000;

/// A question with its fields read.
#[derive(Debug)]
pub(super) struct ExplainQuery {
    pub(super) endpoint: Name,
    pub(super) direction: Direction,
    pub(super) protocol: u8,
    family: Family,
    remote: Option<IpAddr>,
    local: Option<IpAddr>,
    l4: L4,
}

pub(super) fn read(request: &v1::ExplainRequest) -> Result<ExplainQuery, ApiError> {
    let mut fields = Fields::default();
    let endpoint = fields.parse("endpoint", &request.endpoint);
    let direction = fields.direction("direction", request.direction);
    let protocol = protocol(&mut fields, &request.protocol);
    let remote = address(&mut fields, "remote", &request.remote);
    let local = address(&mut fields, "local", &request.local);
    let family = family(&mut fields, request, protocol, remote.flatten(), local.flatten());
    let l4 = protocol.and_then(|protocol| l4(&mut fields, request, protocol));
    let whole = || {
        Some(ExplainQuery {
            endpoint: endpoint?,
            direction: direction?,
            protocol: protocol?,
            family: family?,
            remote: remote?,
            local: local?,
            l4: l4?,
        })
    };
    let whole = whole();
    fields.done(whole)
}

fn protocol(fields: &mut Fields, text: &str) -> Option<u8> {
    match text.parse::<Protocol>() {
        Ok(Protocol::Number(number)) => Some(number),
        Ok(Protocol::Any) => {
            fields.fail("protocol", "a packet has one protocol: write it instead of any");
            None
        }
        Err(_) if text.is_empty() => {
            fields.fail(
                "protocol",
                "is required: its IANA name, as in tcp, udp, icmp, icmpv6, esp, or a number",
            );
            None
        }
        Err(error) => {
            fields.fail("protocol", error.to_string());
            None
        }
    }
}

fn address(fields: &mut Fields, path: &str, text: &str) -> Option<Option<IpAddr>> {
    if text.is_empty() {
        return Some(None);
    }
    match text.parse::<IpAddr>() {
        Ok(address) if address.to_canonical() != address => {
            let v4 = address.to_canonical();
            fields.fail(
                path,
                format!("{address} is IPv4 inside IPv6, which no packet carries: write {v4}"),
            );
            None
        }
        Ok(address) => Some(Some(address)),
        Err(_) => {
            fields.fail(
                path,
                format!("`{text}` is not an address: write 192.0.2.10 or 2001:db8::10"),
            );
            None
        }
    }
}

/// The IP version that addresses, `ip` and the protocol agree on; 4 when none tells.
fn family(
    fields: &mut Fields,
    request: &v1::ExplainRequest,
    protocol: Option<u8>,
    remote: Option<IpAddr>,
    local: Option<IpAddr>,
) -> Option<Family> {
    let by_protocol = match protocol {
        Some(Protocol::ICMP) => Some(Family::V4),
        Some(Protocol::ICMPV6) => Some(Family::V6),
        _ => None,
    };
    let told = [
        ("remote", remote.map(Family::from_address)),
        ("local", local.map(Family::from_address)),
        ("ip", fields.family("ip", request.ip)?),
        ("protocol", by_protocol),
    ];
    let mut agreed = None;
    for (path, family) in told {
        match (agreed, family) {
            (None, told) => agreed = told,
            (Some(before), Some(now)) if before != now => {
                fields.fail(
                    path,
                    format!("means {now}, and what stands before it {before}: make them one"),
                );
                return None;
            }
            _ => {}
        }
    }
    Some(agreed.unwrap_or(Family::V4))
}

fn l4(fields: &mut Fields, request: &v1::ExplainRequest, protocol: u8) -> Option<L4> {
    let name = Protocol::name(protocol);
    if request.established && protocol != Protocol::TCP {
        fields.fail(
            "established",
            format!("{name} has no connections that a packet shows: only tcp has"),
        );
        return None;
    }
    if !matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) && request.icmp.is_some() {
        fields.fail(
            "icmp",
            format!("{name} has no ICMP type: set protocol to icmp or icmpv6"),
        );
        return None;
    }
    if Protocol::has_ports(protocol) {
        let dst = fields.port("port", request.port);
        let src = fields.port("source_port", request.source_port.unwrap_or(SOURCE_PORT));
        let flags = match protocol {
            Protocol::TCP if request.established => TCP_ACK,
            Protocol::TCP => TCP_SYN,
            _ => 0,
        };
        return Some(L4::Ports {
            src: src?,
            dst: dst?,
            flags,
        });
    }
    if request.port != 0 || request.source_port.is_some() {
        fields.fail(
            "port",
            format!("{name} has no ports: set protocol to tcp, udp or sctp"),
        );
        return None;
    }
    let echo = IcmpMatch {
        kind: if protocol == Protocol::ICMP { 8 } else { 128 },
        code: None,
    };
    match protocol {
        Protocol::ICMP | Protocol::ICMPV6 => {
            let icmp = request
                .icmp
                .as_ref()
                .map_or(Some(echo), |icmp| fields.icmp("icmp", icmp))?;
            Some(L4::Icmp {
                kind: icmp.kind,
                code: icmp.code.unwrap_or(0),
            })
        }
        _ => Some(L4::Nothing),
    }
}

/// An address outside these prefixes; `None` when they leave none.
fn unnamed<'a>(family: Family, prefixes: impl Iterator<Item = &'a IpNet>) -> Option<IpAddr> {
    let (first, last): (IpAddr, IpAddr) = match family {
        Family::V4 => (
            Ipv4Addr::new(203, 0, 113, 1).into(),
            Ipv4Addr::new(223, 255, 255, 255).into(),
        ),
        Family::V6 => (
            Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x3fff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff).into(),
        ),
    };
    let taken = IntervalSet::from_prefixes(prefixes.filter(|p| p.prefix_len() > 0), family);
    let free = |from: u128, to: u128| {
        let all = IntervalSet::interval(from, to);
        let left = match &taken {
            Some(taken) => all.difference(taken)?,
            None => all,
        };
        Some(left.bounds().0)
    };
    // From a documentation prefix upwards; below it only where nothing above is left.
    let found = free(number(first), number(last)).or_else(|| free(1 << 24, number(first)))?;
    Some(match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(found).ok()?).into(),
        Family::V6 => Ipv6Addr::from_bits(found).into(),
    })
}

pub(super) fn packet(
    question: &ExplainQuery,
    endpoint: &Endpoint,
    policy: &Policy,
) -> Result<IpPacket, ApiError> {
    let everywhere = |path| ApiError::field(path, "rules name every address: say which one is meant");
    let remotes = || policy.entries.iter().flat_map(|e: &Entry| &e.matcher.remote);
    let locals = || policy.entries.iter().flat_map(|e: &Entry| &e.matcher.local);
    let remote = match question.remote {
        Some(remote) => remote,
        None => unnamed(question.family, remotes()).ok_or_else(|| everywhere("remote"))?,
    };
    let own = || {
        endpoint
            .addresses
            .iter()
            .map(|a| a.0.addr())
            .find(|a| Family::from_address(*a) == question.family)
    };
    let local = match question.local.or_else(own) {
        Some(local) => local,
        None => unnamed(question.family, locals()).ok_or_else(|| everywhere("local"))?,
    };
    Ok(IpPacket {
        local,
        remote,
        protocol: Some(question.protocol),
        fragment: Fragment::Whole,
        l4: question.l4,
    })
}

fn in_words(direction: Direction, packet: &IpPacket) -> String {
    let protocol = Protocol::name(packet.protocol.unwrap_or_default());
    let (from, to) = match direction {
        Direction::Egress => (packet.local, packet.remote),
        Direction::Ingress => (packet.remote, packet.local),
    };
    match packet.l4 {
        L4::Ports { src, dst, flags } => {
            let opens = match flags {
                TCP_SYN => ", opening a connection",
                TCP_ACK => ", of an established connection",
                _ => "",
            };
            let at = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
            format!(
                "{direction}: {protocol} from {} to {}{opens}",
                at(from, src),
                at(to, dst)
            )
        }
        L4::Icmp { kind, code } => {
            format!("{direction}: {protocol} type {kind} code {code} from {from} to {to}")
        }
        L4::Begun { .. } | L4::Short | L4::Nothing => {
            format!("{direction}: protocol {protocol} from {from} to {to}")
        }
    }
}

/// Whether the source guard lets the endpoint send from this address.
fn guarded(endpoint: &Endpoint, direction: Direction, local: IpAddr) -> bool {
    let own = endpoint.addresses.iter().any(|a| a.0.contains(&local));
    let link_local = endpoint
        .macs
        .iter()
        .any(|mac| IpAddr::V6(mac.link_local()) == local);
    direction == Direction::Egress
        && endpoint.source_guard
        && !endpoint.addresses.is_empty()
        && !own
        && !link_local
}

struct Decision {
    verdict: Verdict,
    tier: String,
    rule: String,
    reason: String,
}

fn judge(name: &Name, endpoint: &Endpoint, policy: &Policy, packet: &IpPacket) -> Decision {
    if guarded(endpoint, policy.direction, packet.local) {
        return Decision {
            verdict: Verdict::Deny,
            tier: "guard".to_string(),
            rule: format!("guard/{name}"),
            reason: format!(
                "{name} may send only with its own addresses, and {} is none",
                packet.local
            ),
        };
    }
    let frame = Packet {
        frame: Frame::Ip(packet.clone()),
    };
    let (verdict, decider) = policy.judge(&frame, View::FULL);
    let entry = match decider {
        Decider::Entry(index) => policy.entries.get(index as usize),
        _ => None,
    };
    let tier = match (entry, decider) {
        (Some(entry), _) => entry.tier.to_string(),
        (None, Decider::Default) => "default".to_string(),
        (None, _) => "evasion".to_string(),
    };
    let reason = entry.map(|e| e.reason.to_string()).unwrap_or_default();
    Decision {
        verdict,
        tier,
        rule: policy.origin(decider),
        reason,
    }
}

async fn ask(target: TargetHandle, trace: Trace, nearer: BTreeSet<String>) -> v1::TargetExplanation {
    let rows = match tokio::time::timeout(TIMEOUT, target.explain(trace)).await {
        Ok(rows) => rows.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    };
    let (rows, unavailable) = match rows {
        Ok(rows) => (rows, String::new()),
        Err(why) => (Vec::new(), why),
    };
    let row = |r: portcullis_backend::EnforcingRow| v1::EnforcingRow {
        table: r.table,
        row: r.row,
        present: r.present,
        packets: r.packets,
        bytes: r.bytes,
    };
    v1::TargetExplanation {
        target: target.name().to_string(),
        rows: rows.into_iter().map(row).collect(),
        unavailable,
        nearer: nearer.into_iter().collect(),
    }
}

/// A tenant is told the verdict, and nothing of the switches.
pub(super) async fn explain(
    api: &Api,
    caller: &Caller,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, ApiError> {
    let question = read(&request)?;
    let base = api.engine().read(|state| state.base());
    let name = &question.endpoint;
    let endpoint = base.document.endpoints.get(name);
    caller.may_reach(name.as_str(), endpoint.map(|e| &e.labels))?;
    let endpoint = endpoint.ok_or_else(|| {
        ApiError::NotFound(Key {
            kind: Kind::Endpoint,
            name: name.to_string(),
        })
    })?;
    let policy = effective(&base.document, name.as_str(), endpoint, question.direction);
    let packet = packet(&question, endpoint, &policy)?;
    let decision = judge(name, endpoint, &policy, &packet);
    let trace = Trace {
        endpoint: name.clone(),
        direction: question.direction,
        packet: packet.clone(),
    };
    let handles = match caller.role {
        Role::Tenant => &[],
        _ => api.targets().handles(),
    };
    let placed = base.intent.endpoints.get(name);
    let nearer =
        |target: &TargetHandle| placed.map_or_else(BTreeSet::new, |endpoint| target.nearer(endpoint));
    let mut handles: Vec<_> = handles.iter().map(|target| (nearer(target), target)).collect();
    // The nearest first; otherwise as configured.
    handles.sort_by_key(|(nearer, _)| nearer.len());
    let asked: Vec<_> = handles
        .into_iter()
        .map(|(nearer, target)| tokio::spawn(ask(target.clone(), trace.clone(), nearer)))
        .collect();
    let mut targets = Vec::with_capacity(asked.len());
    for answer in asked {
        targets.push(answer.await.map_err(|_| ApiError::Lost)?);
    }
    Ok(v1::ExplainResponse {
        verdict: convert::action_out(decision.verdict).into(),
        tier: decision.tier,
        rule: decision.rule,
        reason: decision.reason,
        packet: in_words(question.direction, &packet),
        class: base
            .intent
            .endpoints
            .get(name)
            .map_or(0, |e| e.classes[question.direction].0),
        targets,
        bypass: base
            .ledger
            .bypass(name.as_str())
            .map(|bypass| convert::bypass_for(caller, bypass)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed_by(family: Family, prefixes: &[&str]) -> Option<String> {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        unnamed(family, prefixes.iter()).map(|a| a.to_string())
    }

    #[test]
    fn an_address_that_no_rule_names() {
        assert_eq!(unnamed_by(Family::V4, &[]).unwrap(), "203.0.113.1");
        assert_eq!(unnamed_by(Family::V4, &["0.0.0.0/0"]).unwrap(), "203.0.113.1");
        assert_eq!(
            unnamed_by(Family::V4, &["203.0.112.0/22", "203.0.116.0/32"]).unwrap(),
            "203.0.116.1"
        );
        assert_eq!(unnamed_by(Family::V4, &["128.0.0.0/1"]).unwrap(), "1.0.0.0");
        assert_eq!(unnamed_by(Family::V4, &["128.0.0.0/1", "0.0.0.0/1"]), None);
        assert_eq!(unnamed_by(Family::V6, &["2001:db8::/32"]).unwrap(), "2001:db9::");
    }
}

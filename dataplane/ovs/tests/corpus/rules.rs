//! Frames around every rule of every document: ports, types and prefixes at their bounds and one beyond.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_policy::{Direction, PortRange, Protocol, Rule};

use super::craft::{ACK, Corpus, SYN, Segment, icmp, ip, nd, raw, route, sctp, tcp, udp};
use super::documents::cases;
use super::{Host, INTERNET, MAIL, WEB};

/// A port that no rule names.
const HIGH: u16 = 40123;
/// Whom solicitations ask for.
const SOMEBODY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x42);

pub fn add(corpus: &mut Corpus) {
    let mut seen = HashSet::new();
    for case in cases() {
        let document = case.document();
        let endpoints = document.endpoints.values().flat_map(|e| &e.rules);
        let profiles = document.profiles.values().flat_map(|p| &p.rules);
        for rule in document
            .mandatory
            .iter()
            .chain(document.baseline.iter())
            .chain(endpoints)
            .chain(profiles)
        {
            for v6 in [false, true] {
                around(rule, v6, corpus, &mut seen);
            }
        }
    }
    every_type_and_protocol(corpus);
}

/// The bounds of these ranges and their neighbours.
fn bounds(ranges: &[PortRange]) -> BTreeSet<u16> {
    ranges
        .iter()
        .flat_map(|r| {
            [
                r.low.checked_sub(1),
                Some(r.low),
                Some(r.high),
                r.high.checked_add(1),
            ]
        })
        .flatten()
        .collect()
}

/// First and last address of these prefixes and their neighbours, or only one inside.
fn addresses(prefixes: impl Iterator<Item = IpNet>, v6: bool, neutral: IpAddr) -> Vec<IpAddr> {
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let back = |n: u128| {
        if v6 {
            IpAddr::from(n.to_be_bytes())
        } else {
            IpAddr::from((n as u32).to_be_bytes())
        }
    };
    let mut list = vec![neutral];
    for net in prefixes.filter(|n| n.addr().is_ipv6() == v6) {
        let (low, high) = (number(net.network()), number(net.broadcast()));
        list.extend([low, high, low.wrapping_sub(1), high.wrapping_add(1)].map(back));
    }
    list.dedup();
    list
}

/// The messages a rule is about, at the bounds of its ports or types.
fn segments(rule: &Rule, v6: bool) -> Vec<(String, Segment)> {
    let protocols: Vec<u8> = match rule.protocol {
        Protocol::Number(n) => vec![n],
        Protocol::Any => vec![Protocol::TCP, Protocol::UDP, 47],
    };
    let inside = |ranges: &[PortRange]| ranges.first().map_or(HIGH, |r| r.low);
    let mut pairs: Vec<(u16, u16)> = Vec::new();
    let edge = bounds(&rule.ports).into_iter().chain([0, 65535]);
    pairs.extend(edge.map(|dst| (inside(&rule.source_ports), dst)));
    pairs.extend(
        bounds(&rule.source_ports)
            .into_iter()
            .map(|src| (src, inside(&rule.ports))),
    );
    pairs.push((HIGH, inside(&rule.ports)));
    pairs.sort_unstable();
    pairs.dedup();
    let mut list = Vec::new();
    for protocol in protocols {
        match protocol {
            Protocol::TCP => {
                for (s, d) in &pairs {
                    for (name, flags) in [("SYN", SYN), ("ACK", ACK)] {
                        list.push((format!("tcp {s}>{d} {name}"), tcp(*s, *d, flags)));
                    }
                }
            }
            Protocol::UDP => list.extend(pairs.iter().map(|(s, d)| (format!("udp {s}>{d}"), udp(*s, *d)))),
            Protocol::SCTP => list.extend(pairs.iter().map(|(s, d)| (format!("sctp {s}>{d}"), sctp(*s, *d)))),
            Protocol::ICMP | Protocol::ICMPV6 => {
                let kind = rule.icmp.map_or(8, |m| m.kind);
                for k in [kind.saturating_sub(1), kind, kind + 1] {
                    for code in [0, 1, 255] {
                        match (v6, k, code) {
                            (true, 135, 0) => list.push(("solicitation".into(), nd(135, SOMEBODY, None))),
                            // Advertisements name their sender: they are in `guard`.
                            (true, 136, 0) => {}
                            _ => list.push((format!("icmp {k}/{code}"), icmp(v6, k, code))),
                        }
                    }
                }
            }
            other => list.push((format!("protocol {other}"), raw(other))),
        }
    }
    list
}

/// The same message the other way round: what a reply looks like.
fn reversed(segment: &Segment) -> Segment {
    let mut reply = segment.clone();
    if Protocol::has_ports(segment.protocol) {
        reply.bytes[..4].rotate_left(2);
        if let portcullis_policy::L4::Ports { src, dst, .. } = &mut reply.l4 {
            std::mem::swap(src, dst);
        }
    }
    reply
}

fn around(rule: &Rule, v6: bool, corpus: &mut Corpus, seen: &mut HashSet<String>) {
    if rule
        .ip
        .is_some_and(|f| v6 != (f == portcullis_policy::Family::V6))
    {
        return;
    }
    let segments = segments(rule, v6);
    let remotes = addresses(rule.remote.iter().map(|p| p.0), v6, INTERNET.ip(v6));
    for endpoint in [WEB, MAIL] {
        let locals = addresses(rule.local.iter().map(|p| p.0), v6, endpoint.ip(v6));
        for (remote, local) in remotes
            .iter()
            .map(|r| (*r, endpoint.ip(v6)))
            .chain(locals.iter().skip(1).map(|l| (INTERNET.ip(v6), *l)))
        {
            for (name, segment) in &segments {
                let reply = reversed(segment);
                let (out, back) = match rule.direction {
                    Direction::Egress => (segment, &reply),
                    Direction::Ingress => (&reply, segment),
                };
                for (from, to, src, dst, message) in [
                    (endpoint, INTERNET, local, remote, out),
                    (INTERNET, endpoint, remote, local, back),
                ] {
                    let what = format!(
                        "{} {src} > {dst} around {name} ({:?})",
                        path(from, to),
                        message.l4
                    );
                    if seen.insert(format!("{what} {}", message.protocol)) {
                        corpus.ip(what, route(from, to), &ip(src, dst), message);
                    }
                }
            }
        }
    }
    between(&segments, v6, corpus, seen);
}

/// Between the two: the sender's egress policy, then the receiver's ingress policy.
fn between(segments: &[(String, Segment)], v6: bool, corpus: &mut Corpus, seen: &mut HashSet<String>) {
    for (from, to) in [(WEB, MAIL), (MAIL, WEB)] {
        for (name, segment) in segments {
            for message in [segment.clone(), reversed(segment)] {
                let what = format!("{} v6={v6} around {name} ({:?})", path(from, to), message.l4);
                if seen.insert(format!("{what} {}", message.protocol)) {
                    corpus.ip(what, route(from, to), &ip(from.ip(v6), to.ip(v6)), &message);
                }
            }
        }
    }
}

fn path(from: Host, to: Host) -> String {
    format!("{}→{}", from.name(), to.name())
}

fn every_type_and_protocol(corpus: &mut Corpus) {
    for v6 in [false, true] {
        for (from, to) in [(WEB, INTERNET), (INTERNET, WEB)] {
            let packet = ip(from.ip(v6), to.ip(v6));
            // Solicitations and advertisements have bodies: they are among the neighbour discovery frames.
            for kind in (0..=255u8).filter(|k| !(v6 && (135..=136).contains(k))) {
                corpus.ip(
                    format!("{} v6={v6} icmp type {kind}", path(from, to)),
                    route(from, to),
                    &packet,
                    &icmp(v6, kind, 0),
                );
            }
            let special: &[u8] = if v6 { &[0, 43, 44, 51, 58, 60] } else { &[1] };
            for protocol in (0..=255u8).filter(|p| !Protocol::has_ports(*p) && !special.contains(p)) {
                corpus.ip(
                    format!("{} v6={v6} protocol {protocol}", path(from, to)),
                    route(from, to),
                    &packet,
                    &raw(protocol),
                );
            }
        }
    }
}

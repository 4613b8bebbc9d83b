//! Partial points: whatever a parser shows, rows deny nothing that the policy lets pass, but for kinds of packets that are accepted;
//! and what the account of a rule calls denied is denied.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use portcullis_compiler::lower::lower;
use portcullis_compiler::model::{Field, KeyModel, MatchKind, PacketKind, PartialPoint};
use portcullis_compiler::proof::partial::{Unproved, prove};
use portcullis_compiler::proof::{Coverage, Extent};
use portcullis_compiler::{ClassRows, FrameMatch, PolicyRow, RemoteMatch, StageModel};
use portcullis_policy::{
    Decider, Direction, Document, Family, Fragment, Frame, IPV6_EXTENSIONS, IPV6_FRAGMENT, IpPacket, L4,
    Packet, Policy, Protocol, Verdict, effective,
};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};

use crate::support::{document, packet, policy};

/// Keys that a vendor's table may lack.
const OPTIONAL: [Field; 9] = [
    Field::Later,
    Field::TcpFlags,
    Field::SrcPort,
    Field::DstPort,
    Field::IcmpType,
    Field::IcmpCode,
    Field::RemoteIpv6,
    Field::LocalIpv4,
    Field::LocalIpv6,
];

/// A vendor's table that lacks some keys, of whose parser some facts are known, with some kinds accepted.
fn models() -> impl Strategy<Value = StageModel> {
    let lacking = prop::sample::subsequence(OPTIONAL.to_vec(), 0..OPTIONAL.len());
    let joint = any::<bool>();
    let facts = any::<[bool; 5]>();
    let accept = prop::sample::subsequence(PacketKind::OBSCURE.to_vec(), 0..=4);
    let short = any::<bool>();
    (lacking, facts, accept, short, joint).prop_map(|(lacking, facts, accept, short, joint)| {
        let mut model = partial(&lacking, &accept);
        [
            model.view.ipv6_extension_headers,
            model.view.sctp_ports,
            model.view.later_v6_protocol,
            model.ipv4_options,
            model.ipv6_first_header,
        ] = facts;
        for table in &mut model.tables {
            // As SAI has it: IP of either version.
            table.keys.extend(joint.then_some(KeyModel {
                field: Field::IsIp,
                kind: MatchKind::Optional,
                width: 1,
            }));
            for key in &mut table.keys {
                if short && matches!(key.field, Field::RemoteIpv6 | Field::LocalIpv6) {
                    key.width = 32;
                }
            }
        }
        model
    })
}

/// One ACL table without these keys, of whose parser nothing is known.
fn partial(lacking: &[Field], accept: &[PacketKind]) -> StageModel {
    let mut model = StageModel::named("acl-ternary").unwrap();
    model.view.later_v6_protocol = false;
    for table in &mut model.tables {
        table.size = None;
        table.keys.retain(|key| !lacking.contains(&key.field));
    }
    model.partial = Some(PartialPoint {
        accept: accept.iter().copied().collect(),
    });
    model.check().unwrap();
    model
}

fn accepts(model: &StageModel, kind: PacketKind) -> bool {
    model.partial.as_ref().is_some_and(|point| point.accepts(kind))
}

/// What a parser shows of an IP packet.
#[derive(Debug, Clone, Copy)]
struct Shown {
    protocol: u8,
    later: bool,
    src: u16,
    dst: u16,
    flags: u16,
}

/// How a parser answers where it may say anything.
#[derive(Debug, Clone, Copy)]
struct Answer {
    protocol: Option<u8>,
    later: bool,
    src: u16,
    dst: u16,
    flags: u16,
}

fn answers() -> impl Strategy<Value = Answer> {
    let protocol = prop::option::of(prop::sample::select(IPV6_EXTENSIONS.to_vec()));
    let port = || prop::sample::select(vec![0u16, 1, 22, 25, 80, 443, 1024, 40000, 65535, 3, 8, 128, 135]);
    let flags = prop::sample::select(vec![0u16, 0x02, 0x10, 0x12, 0xfff]);
    (protocol, any::<bool>(), port(), port(), flags).prop_map(|(protocol, later, src, dst, flags)| Answer {
        protocol,
        later,
        src,
        dst,
        flags,
    })
}

/// Kinds that a packet is of. `dressed`: it has IPv4 options, or IPv6 extension headers beside those of fragments.
fn kinds(ip: &IpPacket, model: &StageModel, dressed: bool) -> BTreeSet<PacketKind> {
    let v4 = ip.remote.is_ipv4();
    let mut kinds = BTreeSet::new();
    if ip.is_later() {
        kinds.insert(PacketKind::LaterFragments);
    } else if v4 && dressed && !model.ipv4_options {
        kinds.insert(PacketKind::IpOptions);
    } else if !v4 && (dressed || ip.fragment == Fragment::First) && !model.view.ipv6_extension_headers {
        kinds.insert(PacketKind::ExtensionHeaders);
    }
    if ip.protocol == Some(Protocol::SCTP) && !model.view.sctp_ports && !ip.is_later() {
        kinds.insert(PacketKind::Sctp);
    }
    if kinds.is_empty() {
        kinds.insert(PacketKind::Plain);
    }
    kinds
}

/// What a parser that follows only the model's facts may show, `None` for a packet that no policy lets pass.
fn show(ip: &IpPacket, model: &StageModel, dressed: bool, answer: Answer) -> Option<Shown> {
    let v6 = ip.remote.is_ipv6();
    // No IPv6 packet ends in an extension header.
    let real = ip
        .protocol
        .filter(|number| !v6 || !IPV6_EXTENSIONS.contains(number))?;
    let has_headers = v6 && (dressed || ip.fragment != Fragment::Whole);
    let lost = has_headers && !model.view.ipv6_extension_headers;
    let protocol = match answer.protocol {
        Some(number) if lost => number,
        None if lost && model.ipv6_first_header => {
            IPV6_EXTENSIONS[usize::from(answer.src) % IPV6_EXTENSIONS.len()]
        }
        Some(_) if v6 && ip.is_later() && !model.view.later_v6_protocol => IPV6_FRAGMENT,
        _ => real,
    };
    let later = if lost { answer.later } else { ip.is_later() };
    let hidden = real == Protocol::SCTP && !model.view.sctp_ports;
    let options = !v6 && dressed && !model.ipv4_options;
    let (src, dst, flags) = match ip.l4 {
        _ if ip.is_later() || lost || hidden || options => (answer.src, answer.dst, answer.flags),
        L4::Ports { src, dst, flags } | L4::Begun { src, dst, flags } => (src, dst, flags),
        L4::Icmp { kind, code } => (kind.into(), code.into(), 0),
        L4::Short | L4::Nothing => (answer.src, answer.dst, answer.flags),
    };
    Some(Shown {
        protocol,
        later,
        src,
        dst,
        flags,
    })
}

/// The verdict of rows, the highest first, on what is shown: row by row.
fn verdict(rows: &[PolicyRow], ip: &IpPacket, shown: Shown) -> Option<Verdict> {
    let hits = |row: &&PolicyRow| {
        let key = &row.key;
        (match key.frame {
            FrameMatch::Any | FrameMatch::AnyIp => true,
            FrameMatch::Ip(family) => family == Family::from_address(ip.remote),
            _ => false,
        }) && key.protocol.is_none_or(|p| p == shown.protocol)
            && key.later.is_none_or(|later| later == shown.later)
            && key.flags.is_none_or(|(value, mask)| shown.flags & mask == value)
            && (match key.remote {
                RemoteMatch::Any => true,
                RemoteMatch::Prefix(prefix) => prefix.contains(&ip.remote),
                RemoteMatch::Id(_) => panic!("no ids here"),
            })
            && key.local.is_none_or(|prefix| prefix.contains(&ip.local))
            && key.src.hits(shown.src, 0)
            && key.dst.hits(shown.dst, 0)
    };
    rows.iter().find(hits).map(|row| row.action)
}

/// Whether what a parser shows of some packet makes rows deny it against the policy.
fn is_wrong(
    policy: &Policy,
    rows: &[PolicyRow],
    model: &StageModel,
    (packet, dressed, answer): &(Packet, bool, Answer),
) -> bool {
    let Frame::Ip(ip) = &packet.frame else {
        return false;
    };
    let passes = policy.judge(packet, PartialPoint::VIEW).0.passes();
    let accepted = kinds(ip, model, *dressed)
        .iter()
        .any(|kind| accepts(model, *kind));
    let shown = show(ip, model, *dressed, *answer);
    let denied = shown.is_some_and(|shown| verdict(rows, ip, shown) == Some(Verdict::Deny));
    passes && !accepted && denied
}

/// Whether a packet that the account calls denied passes.
fn is_hidden(
    policy: &Policy,
    (rows, coverage): (&[PolicyRow], &Coverage),
    model: &StageModel,
    (packet, dressed, answer): &(Packet, bool, Answer),
) -> Option<Decider> {
    let Frame::Ip(ip) = &packet.frame else { return None };
    let (wanted, by) = policy.judge(packet, PartialPoint::VIEW);
    if wanted.passes() || by == Decider::Evasion {
        return None;
    }
    let shown = show(ip, model, *dressed, *answer)?;
    let passes = verdict(rows, ip, shown) != Some(Verdict::Deny);
    let known = coverage.rules.get(&by).map(|rule| &rule.passes);
    let kinds = kinds(ip, model, *dressed);
    let named = known.is_some_and(|known| kinds.iter().any(|kind| known.contains_key(kind)));
    (passes && !named).then_some(by)
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]

    #[test]
    fn rows_of_a_partial_point_are_sound_whatever_its_parser_shows(
        document in document(),
        model in models(),
        seen in prop::collection::vec((packet(), any::<bool>(), answers()), 150),
        broken in any::<prop::sample::Index>(),
    ) {
        let policy = policy(&document, Direction::Egress);
        let program = lower(&policy, &model).unwrap();
        let point = model.partial.clone().unwrap();
        let coverage = match prove(&policy, &program, &model, &point) {
            Ok(coverage) => coverage,
            Err(Unproved::Differs(example)) => {
                return Err(TestCaseError::fail(format!("{example}\n{policy:#?}\n{program:#?}\n{model:#?}")));
            }
            Err(Unproved::TooLarge) => return Err(TestCaseError::fail("too large")),
        };
        for one in &seen {
            prop_assert!(!is_wrong(&policy, &program.policy, &model, one), "{one:?}\n{policy:#?}\n{program:#?}\n{model:#?}");
            let hidden = is_hidden(&policy, (&program.policy, &coverage), &model, one);
            prop_assert_eq!(hidden, None, "{:?}\n{:#?}\n{:#?}\n{:#?}", one, policy, program, coverage);
        }
        // One row turned round, or taken out.
        if program.policy.is_empty() {
            return Ok(());
        }
        let at = broken.index(program.policy.len());
        let mut other = program.clone();
        match program.policy[at].action {
            Verdict::Allow => other.policy[at].action = Verdict::Deny,
            Verdict::Deny => drop(other.policy.remove(at)),
        }
        let refuted = prove(&policy, &other, &model, &point);
        if let Some(one) = seen.iter().find(|one| is_wrong(&policy, &other.policy, &model, one)) {
            prop_assert!(matches!(refuted, Err(Unproved::Differs(_))), "{one:?} is denied against {policy:#?}\n{other:#?}");
        }
        if let Ok(coverage) = refuted {
            for one in &seen {
                prop_assert_eq!(is_hidden(&policy, (&other.policy, &coverage), &model, one), None, "{:?}", one);
            }
        }
    }
}

/// What an endpoint with these rules may send, everything else by default.
fn sends(rules: &Value, default: &str) -> Policy {
    let document = json!({
        "version": "portcullis/v1",
        "defaults": {"egress": default, "ingress": default},
        "endpoints": {"e": {"rules": rules}},
    });
    let document = Document::from_yaml(&document.to_string()).unwrap();
    effective(&document, "e", &document.endpoints["e"], Direction::Egress)
}

/// The table of a vendor: neither a fragment bit nor TCP flags nor ICMP codes.
fn vendor(accept: &[PacketKind]) -> StageModel {
    partial(&[Field::Later, Field::TcpFlags, Field::IcmpCode], accept)
}

fn rows(policy: &Policy, model: &StageModel) -> (ClassRows, Coverage) {
    let rows = lower(policy, model).unwrap();
    let coverage = prove(policy, &rows, model, model.partial.as_ref().unwrap()).unwrap();
    (rows, coverage)
}

fn smtp() -> Value {
    json!([{"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ["25"]}])
}

#[test]
fn a_port_is_closed_where_what_its_row_may_hit_is_accepted() {
    let policy = sends(&smtp(), "allow");
    let (none, coverage) = rows(&policy, &vendor(&[]));
    assert_eq!(none.policy, []);
    assert_eq!(coverage.rules[&Decider::Entry(0)].extent(), Extent::None);
    let why = &none.shortfalls[0].why;
    assert!(
        why.contains("later fragments, packets with IPv4 options"),
        "{why}"
    );
    assert!(
        why.contains(r#"accept = ["later-fragments", "ip-options", "extension-headers"]"#),
        "{why}"
    );

    // IPv4 needs these two, IPv6 the extension headers.
    let (v4, coverage) = rows(
        &policy,
        &vendor(&[PacketKind::LaterFragments, PacketKind::IpOptions]),
    );
    assert_eq!(v4.policy.len(), 1);
    let rule = &coverage.rules[&Decider::Entry(0)];
    assert_eq!(rule.extent(), Extent::Part);
    let all = [
        PacketKind::LaterFragments,
        PacketKind::IpOptions,
        PacketKind::ExtensionHeaders,
    ];
    let (both, coverage) = rows(&policy, &vendor(&all));
    assert_eq!(both.policy.len(), 2, "{both:?}");
    let rule = &coverage.rules[&Decider::Entry(0)];
    let passes: Vec<PacketKind> = rule.passes.keys().copied().collect();
    assert_eq!(passes, [PacketKind::IpOptions, PacketKind::ExtensionHeaders]);
}

#[test]
fn a_rule_without_ports_needs_nothing_accepted() {
    let rules = json!([
        {"name": "gre", "action": "deny", "direction": "egress", "protocol": "47"},
        {"name": "bad", "action": "deny", "direction": "egress", "remote": ["198.51.100.0/24"]},
    ]);
    let (held, coverage) = rows(&sends(&rules, "allow"), &vendor(&[]));
    assert_eq!(held.policy.len(), 3, "{held:?}");
    assert_eq!(coverage.rules[&Decider::Entry(1)].extent(), Extent::Whole);
    // Of IPv6, the protocol may stand behind headers that are not followed.
    let passes: Vec<PacketKind> = coverage.rules[&Decider::Entry(0)]
        .passes
        .keys()
        .copied()
        .collect();
    assert_eq!(passes, [PacketKind::LaterFragments, PacketKind::ExtensionHeaders]);
}

/// What a parser takes for no IP may carry some: in LLC and SNAP, or behind tags.
#[test]
fn frames_that_are_no_ip_to_a_parser_are_not_denied() {
    let rules = json!([{"name": "web", "action": "allow", "direction": "egress", "protocol": "tcp", "ports": ["80"]}]);
    let policy = sends(&rules, "deny");
    let model = vendor(&PacketKind::OBSCURE);
    let (mut held, coverage) = rows(&policy, &model);
    assert!(
        held.policy
            .iter()
            .all(|row| matches!(row.key.frame, FrameMatch::Ip(_))),
        "{held:?}"
    );
    assert!(
        coverage.rules[&Decider::Default]
            .passes
            .contains_key(&PacketKind::NotIp)
    );
    // A row that denies them is refuted, be it about every frame or about those with a VLAN tag.
    for frame in [FrameMatch::Any, FrameMatch::EtherType(0x8100)] {
        let last = held.policy.last_mut().unwrap();
        assert_eq!(last.action, Verdict::Deny);
        last.key.frame = frame;
        let refuted = prove(&policy, &held, &model, model.partial.as_ref().unwrap());
        assert!(
            matches!(refuted, Err(Unproved::Differs(_))),
            "{frame:?}: {refuted:?}"
        );
    }
}

#[test]
fn a_rule_of_too_many_rows_is_left_out_by_name_before_they_are_made() {
    let prefixes = |of: &str| {
        (0..250)
            .step_by(2)
            .map(|n| format!("{of}.{n}.0/24"))
            .collect::<Vec<_>>()
    };
    let mut rules = smtp();
    rules.as_array_mut().unwrap().push(json!({
        "name": "many", "action": "deny", "direction": "egress", "protocol": "udp", "ports": ["1-65534"],
        "remote": prefixes("198.18"), "local": prefixes("198.19"),
    }));
    let policy = sends(&rules, "allow");
    let rows = lower(&policy, &vendor(&PacketKind::OBSCURE)).unwrap();
    assert_eq!(rows.policy.len(), 2, "{}", rows.policy.len());
    let many = rows
        .shortfalls
        .iter()
        .find(|s| s.by == Decider::Entry(1))
        .unwrap();
    assert!(
        many.why.contains("endpoints/e/many takes more than 65536 rows"),
        "{}",
        many.why
    );
}

#[test]
fn what_a_table_cannot_tell_apart_passes_and_is_named() {
    // Replies from port 80 pass by their flags, and everything else is denied.
    let rules = json!([{"name": "web", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": ["80"]}]);
    let all = PacketKind::OBSCURE;
    let (held, coverage) = rows(&sends(&rules, "deny"), &vendor(&all));
    let default = &coverage.rules[&Decider::Default];
    assert_eq!(default.extent(), Extent::Part);
    let Frame::Ip(example) = &default.passes[&PacketKind::Plain].packet.frame else {
        panic!()
    };
    // The example is what the flags would have told: a segment that opens a connection.
    assert!(
        matches!(example.l4, L4::Ports { src: 80, flags, .. } if flags & 0x12 == 0x02),
        "{example:?}"
    );
    assert!(
        held.shortfalls.iter().any(|s| s.why.contains("TCP flags")),
        "{held:?}"
    );
    let (whole, coverage) = rows(&sends(&rules, "deny"), &partial(&[Field::Later], &all));
    assert_eq!(
        coverage.rules[&Decider::Default].passes.get(&PacketKind::Plain),
        None,
        "{whole:?}"
    );
}

//! What a parser may hide: the protocol behind IPv6 extension headers, and the ports of SCTP. Whatever it shows in their place, a
//! packet that the policy denies is denied.

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::proof::{deciding_row, prove};
use portcullis_compiler::{ClassRows, StageModel};
use portcullis_policy::{
    Direction, Document, Fragment, Frame, IPV6_EXTENSIONS, IpPacket, L4, Packet, Policy, Protocol, Verdict,
    effective,
};
use serde_json::{Value, json};

/// What an endpoint with these rules may send.
fn policy(rules: &Value) -> Policy {
    let document = json!({"version": "portcullis/v1", "endpoints": {"e": {"rules": rules}}});
    let document = Document::from_yaml(&document.to_string()).unwrap();
    effective(&document, "e", &document.endpoints["e"], Direction::Egress)
}

/// One vendor-like table, of whose parser nothing is known.
fn unknown() -> StageModel {
    StageModel::named("acl-ternary").unwrap()
}

/// Its rows for a policy, which are proved.
fn rows(policy: &Policy, model: &StageModel) -> ClassRows {
    let rows = lower(policy, model).unwrap();
    prove(policy, &rows, &fixed_rows(model), model).unwrap();
    rows
}

/// What the rows say of a packet whose parser shows this.
fn says(rows: &ClassRows, model: &StageModel, v6: bool, protocol: u8, (src, dst): (u16, u16)) -> Verdict {
    let (local, remote) = match v6 {
        false => ("192.0.2.1", "198.51.100.1"),
        true => ("2001:db8::1", "2001:db8::2"),
    };
    let frame = Frame::Ip(IpPacket {
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        protocol: Some(protocol),
        fragment: Fragment::Whole,
        l4: L4::Ports { src, dst, flags: 0 },
    });
    let fixed = fixed_rows(model);
    deciding_row(rows, &fixed, &Packet { frame }, model).unwrap().1
}

fn deny(protocol: &str, ports: &[&str]) -> Value {
    json!([{"name": "closed", "action": "deny", "direction": "egress", "protocol": protocol, "ports": ports}])
}

#[test]
fn a_port_is_closed_behind_extension_headers_that_a_parser_may_not_follow() {
    let policy = policy(&deny("tcp", &["25"]));
    let (blind, mut sighted) = (unknown(), unknown());
    sighted.view.ipv6_extension_headers = true;
    // Hop-by-hop options, routing, fragment, authentication (RFC 4302), destination options.
    for number in [0, 43, 44, 51, 60] {
        let shown = |model, v6| says(&rows(&policy, model), model, v6, number, (1, 1));
        assert_eq!(shown(&blind, true), Verdict::Deny, "header {number}");
        // These are headers of IPv6: IPv4 has protocols of the same numbers, but for hop-by-hop options.
        let other = Verdict::from_passes(number != 0);
        assert_eq!(shown(&blind, false), other, "protocol {number} of IPv4");
        assert_eq!(
            shown(&sighted, true),
            other,
            "header {number} where they are followed"
        );
    }
    // A parser that follows some of them shows what is behind.
    let rows = rows(&policy, &blind);
    assert_eq!(says(&rows, &blind, true, Protocol::TCP, (1, 25)), Verdict::Deny);
    assert_eq!(says(&rows, &blind, true, Protocol::TCP, (1, 80)), Verdict::Allow);
}

/// A parser with a mark that does not follow these headers has nothing to mark.
#[test]
fn a_mark_does_not_stand_for_headers_that_are_not_followed() {
    let policy = policy(&deny("tcp", &["25"]));
    for name in ["p4-range", "p4-ternary"] {
        let mut model = StageModel::named(name).unwrap();
        model.view.ipv6_extension_headers = false;
        let rows = rows(&policy, &model);
        for number in IPV6_EXTENSIONS {
            let said = says(&rows, &model, true, number, (1, 1));
            assert_eq!(said, Verdict::Deny, "{name}: header {number}");
        }
        // Without these rows the proof fails.
        let mut fixed = fixed_rows(&model);
        fixed.retain(|row| row.key.protocol != Some(0));
        let example = prove(&policy, &rows, &fixed, &model).unwrap_err();
        let Frame::Ip(ip) = &example.packet.frame else {
            panic!("{example}")
        };
        assert_eq!(ip.protocol, Some(0), "{example}");
    }
}

#[test]
fn sctp_passes_where_every_port_does_whatever_a_parser_shows() {
    let model = unknown();
    let shown = [(0, 0), (5000, 80), (80, 5000), (25, 25)];
    let every = [
        (deny("tcp", &["25", "80"]), Verdict::Allow),
        (deny("sctp", &["80"]), Verdict::Deny),
        (deny("udp", &["0-65535"]), Verdict::Allow),
    ];
    for (rules, wanted) in every {
        let rows = rows(&policy(&rules), &model);
        for (v6, ports) in [false, true]
            .into_iter()
            .flat_map(|v6| shown.map(|ports| (v6, ports)))
        {
            let said = says(&rows, &model, v6, Protocol::SCTP, ports);
            assert_eq!(said, wanted, "ports {ports:?}, IPv6 {v6}, {rules:?}");
        }
    }
    // Two rules that open every port between them, under one that would close some.
    let open = |name: &str, ports: &str| json!({"name": name, "action": "allow", "direction": "egress", "protocol": "sctp", "ports": [ports]});
    let closed = json!({"name": "c", "action": "deny", "direction": "egress", "protocol": "sctp"});
    let rules = json!([open("a", "0-1000"), open("b", "1001-65535"), closed, {"name": "d", "action": "deny", "direction": "egress", "protocol": "udp"}]);
    let all = rows(&policy(&rules), &model);
    assert_eq!(says(&all, &model, false, Protocol::SCTP, (0, 0)), Verdict::Allow);
}

#[test]
fn rows_that_name_hidden_ports_or_miss_a_header_are_refuted() {
    let model = unknown();
    let sighted = {
        let mut model = unknown();
        (model.view.ipv6_extension_headers, model.view.sctp_ports) = (true, true);
        model
    };
    // What a parser that shows everything is given, on one that may not.
    let of_sighted = |rules: &Value, fixed: &StageModel| {
        let policy = policy(rules);
        let rows = lower(&policy, &sighted).unwrap();
        prove(&policy, &rows, &fixed_rows(fixed), &model)
    };
    let example = of_sighted(&deny("sctp", &["80"]), &model).unwrap_err();
    assert_eq!(
        (example.wanted, example.got),
        (Verdict::Deny, Some(Verdict::Allow))
    );
    of_sighted(&deny("tcp", &["25"]), &model).unwrap();
    let example = of_sighted(&deny("tcp", &["25"]), &sighted).unwrap_err();
    let Frame::Ip(ip) = &example.packet.frame else {
        panic!("{example}")
    };
    let header = ip
        .protocol
        .filter(|n| IPV6_EXTENSIONS.contains(n) || *n == Protocol::SCTP);
    assert!(header.is_some(), "{example}");
}

//! What is written is what is read: nothing empty means everything, and no value becomes another in silence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_policy::{Document, DocumentError, Name, findings};

const HEAD: &str = "version: portcullis/v1\n";

/// The one field that is wrong, and why.
fn wrong(body: &str) -> (String, String) {
    let error = Document::from_yaml(&format!("{HEAD}{body}")).unwrap_err();
    let DocumentError::Fields(fields) = &error else {
        panic!("{body}: {error}");
    };
    assert_eq!(fields.len(), 1, "{body}: {error}");
    (fields[0].path.clone(), fields[0].problem.clone())
}

#[test]
fn empty_match_lists_are_refused_everywhere() {
    let rule = "{name: r, action: deny, direction: egress, protocol: tcp, ports: [1], ";
    for field in ["ports", "source_ports", "remote", "local"] {
        let rule = rule.replace("ports: [1], ", if field == "ports" { "" } else { "ports: [1], " });
        for (list, at) in [
            (format!("mandatory: [{rule}{field}: []}}]"), "mandatory[0]"),
            (format!("baseline: [{rule}{field}: []}}]"), "baseline[0]"),
            (
                format!("profiles: {{p: {{rules: [{rule}{field}: []}}]}}}}"),
                "profiles.p.rules[0]",
            ),
            (
                format!("endpoints: {{e: {{rules: [{rule}{field}: []}}]}}}}"),
                "endpoints.e.rules[0]",
            ),
        ] {
            let (path, problem) = wrong(&list);
            assert_eq!(path, format!("{at}.{field}"));
            assert_eq!(problem, "is empty: name at least one, or leave the field out");
        }
    }
    for field in ["ports", "remote"] {
        let program = format!(
            "programs: {{p: {{opens: [{{direction: egress, protocol: tcp, {field}: []}}], lease: {{default: 1h}}}}}}"
        );
        assert_eq!(wrong(&program).0, format!("programs.p.opens[0].{field}"));
    }
    let attached = "endpoints: {e: {attachments: [{interface: e, macs: []}]}}";
    assert_eq!(wrong(attached).0, "endpoints.e.attachments[0].macs");
    let program = "programs: {p: {opens: [{direction: egress, protocol: tcp, ports: [1]}], lease: {default: 1h}, \
                   evidence: [{name: u, type: url, schemes: []}]}}";
    assert!(wrong(program).1.starts_with("is empty"));
    // Other empty lists mean none.
    let none = "mandatory: []\nbaseline: []\nprofiles: {p: {rules: []}}\nreserved: {macs: [], addresses: [], dhcp: []}\n\
                endpoints: {e: {attachments: [], macs: [], addresses: [], shared: [], roles: [], profiles: [], rules: []}}\n";
    Document::from_yaml(&format!("{HEAD}{none}")).unwrap();
}

#[test]
fn ipv4_inside_ipv6_is_refused_everywhere() {
    for (body, path, form) in [
        (
            "baseline: [{name: r, action: deny, direction: egress, remote: [192.0.2.1, '::ffff:192.0.2.1']}]",
            "baseline[0].remote[1]",
            "192.0.2.1",
        ),
        (
            "profiles: {p: {rules: [{name: r, action: deny, direction: egress, local: ['::ffff:a00:0/104']}]}}",
            "profiles.p.rules[0].local[0]",
            "10.0.0.0/8",
        ),
        (
            "endpoints: {e: {addresses: ['::ffff:192.0.2.1']}}",
            "endpoints.e.addresses[0]",
            "192.0.2.1",
        ),
        (
            "reserved: {addresses: ['::ffff:192.0.2.1']}",
            "reserved.addresses[0]",
            "192.0.2.1",
        ),
        (
            "programs: {p: {opens: [{direction: egress, protocol: tcp, ports: [1], remote: ['::ffff:0:0/96']}], lease: {default: 1h}}}",
            "programs.p.opens[0].remote[0]",
            "0.0.0.0/0",
        ),
    ] {
        let (at, problem) = wrong(body);
        assert_eq!(at, path);
        assert!(
            problem.ends_with(&format!("which no packet carries: write {form}")),
            "{problem}"
        );
    }
}

#[test]
fn errors_say_what_was_written() {
    let port = |written: &str| {
        let (path, problem) = wrong(&format!(
            "baseline: [{{name: r, action: deny, direction: egress, protocol: tcp, ports: [{written}]}}]"
        ));
        assert_eq!(path, "baseline[0].ports[0]");
        assert!(problem.contains(&format!("`{written}`")), "{problem}");
    };
    for written in [
        "025",
        "0o31",
        "0x19",
        "1e3",
        "1_000",
        "25.0",
        "1.50",
        "+25",
        "no",
        "yes",
        "off",
        "2026-11-27",
        ".inf",
    ] {
        port(written);
    }
    for (body, path, written) in [
        (
            "endpoints: {e: {labels: {a: 1.50, b: true}}}",
            "endpoints.e.labels.b",
            "true",
        ),
        (
            "endpoints: {e: {attachments: [{port: 0x3, target: t}]}}",
            "endpoints.e.attachments[0].port",
            "0x3",
        ),
        (
            "endpoints: {e: {attachments: [{port: 3, vlan: 007, target: t}]}}",
            "endpoints.e.attachments[0].vlan",
            "007",
        ),
        (
            "endpoints: {e: {source_guard: no}}",
            "endpoints.e.source_guard",
            "no",
        ),
        (
            "baseline: [{name: r, action: no, direction: egress}]",
            "baseline[0].action",
            "no",
        ),
        (
            "baseline: [{name: r, action: deny, direction: egress, protocol: 0x6}]",
            "baseline[0].protocol",
            "0x6",
        ),
        (
            "baseline: [{name: r, action: deny, direction: egress, ip: 04}]",
            "baseline[0].ip",
            "04",
        ),
        (
            "baseline: [{name: r, action: deny, direction: egress, protocol: icmp, icmp: {type: 010}}]",
            "baseline[0].icmp.type",
            "010",
        ),
    ] {
        let (at, problem) = wrong(body);
        assert_eq!(at, path);
        assert!(problem.contains(written), "{body}: {problem}");
    }
}

#[test]
fn texts_are_kept_as_written() {
    let text = format!(
        "{HEAD}endpoints: {{e: {{profiles: [010, 1e3], labels: {{a: 010, b: no, c: 1.50, d: 0x1F, e: 2026-11-27}}}}}}\n\
                        profiles: {{010: {{}}, 1e3: {{}}}}\n"
    );
    let document = Document::from_yaml(&text).unwrap();
    let endpoint = &document.endpoints[&"e".parse::<Name>().unwrap()];
    let labels: Vec<&str> = endpoint.labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["010", "no", "1.50", "0x1F", "2026-11-27"]);
    let profiles: Vec<&str> = endpoint.profiles.iter().map(Name::as_str).collect();
    assert_eq!(profiles, ["010", "1e3"]);
}

#[test]
fn protocols_have_their_names() {
    let rules = ["esp", "AH", "gre", "ipip", "igmp", "ospf", "vrrp", "89", "253"].map(|protocol| {
        format!("  - {{name: r-{protocol}, action: deny, direction: egress, protocol: {protocol}}}\n")
    });
    let document = Document::from_yaml(&format!("{HEAD}baseline:\n{}", rules.concat())).unwrap();
    let names: Vec<String> = document
        .baseline
        .iter()
        .map(|rule| rule.protocol.to_string())
        .collect();
    assert_eq!(
        names,
        ["esp", "ah", "gre", "ipip", "igmp", "ospf", "vrrp", "ospf", "253"]
    );
}

#[test]
fn findings_come_in_the_documents_order() {
    let rules: String = (1..=12)
        .map(|n| format!("  - {{name: r{n}, action: deny, direction: egress, protocol: tcp, ports: [25]}}\n"))
        .collect();
    let own = |name: &str| {
        format!(
            "  {name}: {{rules: [{{name: z, action: deny, direction: egress, protocol: tcp, ports: [25]}}, \
             {{name: a, action: deny, direction: egress, protocol: tcp, ports: [25]}}]}}\n"
        )
    };
    let text = format!(
        "{HEAD}baseline:\n{rules}endpoints:\n{}{}",
        own("vm10"),
        own("vm9")
    );
    let found = findings(&Document::from_yaml(&text).unwrap());
    let places: Vec<&str> = found.iter().map(|f| f.at.as_str()).collect();
    let mut expected: Vec<String> = (2..=12).map(|n| format!("baseline/r{n}")).collect();
    expected.extend(["vm9/z", "vm9/a", "vm10/z", "vm10/a"].map(|at| format!("endpoints/{at}")));
    expected.retain(|at| places.contains(&at.as_str()));
    assert_eq!(places, expected);
    assert!(
        places.contains(&"baseline/r10") && places.contains(&"endpoints/vm10/a"),
        "{places:?}"
    );
}

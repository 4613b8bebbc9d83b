//! Whose MACs and addresses are: one endpoint's of a network, shared by all that say so, or reserved.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_policy::{
    Direction, Document, DocumentError, Endpoint, EndpointRole, Fragment, Frame, IpPacket, L4, LinkLocal,
    Name, Packet, Verdict, View, Vlan, effective,
};
use proptest::prelude::*;

fn document(endpoints: &str) -> String {
    format!(
        "version: portcullis/v1\nreserved: {{macs: ['00:00:5e:00:01:01'], addresses: [192.0.2.1, '2001:db8::1', 'fe80::5'], \
         dhcp: [192.0.2.2]}}\nendpoints:\n{endpoints}"
    )
}

fn errors(result: Result<(), DocumentError>) -> Vec<String> {
    let error = result.err();
    error.map_or(Vec::new(), |e| {
        e.fields().iter().map(ToString::to_string).collect()
    })
}

/// What is wrong with endpoints; the last one is also checked by itself, with the same result.
fn wrong(endpoints: &str) -> Vec<String> {
    let (document, _) = Document::parse(&document(endpoints)).unwrap();
    let all = errors(document.validate());
    let (last, _) = document.endpoints.get_max().unwrap();
    assert_eq!(errors(document.validate_endpoint(last)), all, "{endpoints}");
    all
}

#[test]
fn an_address_is_one_endpoints() {
    let one = |what: &str| {
        wrong(&format!(
            "  a: {{addresses: [10.0.0.1, 10.1.0.0/16]}}\n  b: {{addresses: [{what}]}}\n"
        ))
    };
    assert!(one("10.0.0.2, 10.2.0.0/16, '2001:db8::a'").is_empty());
    assert_eq!(
        one("10.0.0.1"),
        ["endpoints.b.addresses[0]: 10.0.0.1 is claimed by endpoints.a.addresses[0] already"]
    );
    assert_eq!(
        one("10.1.2.0/24"),
        [
            "endpoints.b.addresses[0]: 10.1.2.0/24 has addresses in common with 10.1.0.0/16 of endpoints.a.addresses[1]"
        ]
    );
    assert_eq!(
        one("10.2.0.1, 10.0.0.0/8"),
        [
            "endpoints.b.addresses[1]: 10.0.0.0/8 has addresses in common with 10.0.0.1 of endpoints.a.addresses[0]"
        ]
    );
    // One endpoint's own prefixes may lie in each other.
    assert!(wrong("  a: {addresses: [10.0.0.0/8, 10.0.0.1, 10.0.0.1]}\n").is_empty());
}

#[test]
fn networks_are_scopes() {
    let two = |a: &str, b: &str| {
        let endpoint = |name, network| {
            format!("  {name}: {{{network}macs: ['02:00:00:00:00:01'], addresses: [192.168.0.10]}}\n")
        };
        wrong(&(endpoint("a", a) + &endpoint("b", b)))
    };
    assert!(two("network: red, ", "network: blue, ").is_empty());
    assert!(two("", "network: blue, ").is_empty());
    assert_eq!(two("", "network: default, ").len(), 2);
    assert_eq!(two("network: red, ", "network: red, ").len(), 2);
}

#[test]
fn what_is_shared_is_shared_by_all_of_one_tenant() {
    let vrrp = "macs: ['00:00:5e:00:01:0a'], addresses: [192.0.2.10]";
    let both = "shared: ['00:00:5e:00:01:0a', 192.0.2.10]";
    let acme = "labels: {tenant: acme}";
    let two = |a: &str, b: &str| wrong(&format!("  a: {{{vrrp}{a}}}\n  b: {{{vrrp}{b}}}\n"));
    assert!(two(&format!(", {both}, {acme}"), &format!(", {both}, {acme}")).is_empty());
    assert!(two(&format!(", {both}"), &format!(", {both}")).is_empty());
    let one_sided = "every endpoint that declares it lists it in `shared`, or none may share it";
    for (a, b) in [(both, ""), ("", both)] {
        let errors = two(&format!(", {acme}, {a}"), &format!(", {acme}, {b}"));
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors.iter().all(|e| e.ends_with(one_sided)), "{errors:?}");
    }
    let errors = two(
        &format!(", {both}, {acme}"),
        &format!(", {both}, labels: {{tenant: other}}"),
    );
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].contains("by another tenant (`other` here, `acme` there, by label tenant)"),
        "{errors:?}"
    );
    let errors = two(&format!(", {both}, {acme}"), &format!(", {both}"));
    assert!(
        errors[0].contains("(none here, `acme` there, by label tenant)"),
        "{errors:?}"
    );
    // The third one says no.
    let three = format!("  a: {{{vrrp}, {both}}}\n  b: {{{vrrp}, {both}}}\n  c: {{{vrrp}}}\n");
    assert_eq!(wrong(&three).len(), 2);
    // What is shared is declared.
    assert_eq!(
        wrong("  a: {addresses: [192.0.2.0/28], shared: [192.0.2.10]}\n")[0],
        "endpoints.a.shared[0]: 192.0.2.10 is not among the endpoint's macs and addresses: add it there, too"
    );
}

#[test]
fn tenants_are_told_by_the_label_that_is_set() {
    let endpoint = "{addresses: [10.0.0.1], shared: [10.0.0.1], labels: {customer: ";
    let text = document(&format!("  a: {endpoint}x}}}}\n  b: {endpoint}y}}}}\n"));
    let (mut document, _) = Document::parse(&text).unwrap();
    assert!(document.validate().is_ok());
    document.tenant_label = "customer".into();
    assert_eq!(errors(document.validate()).len(), 1);
}

#[test]
fn what_is_reserved_is_nobodys() {
    let one = |what: &str| wrong(&format!("  a: {{{what}}}\n"));
    assert_eq!(
        one("macs: ['00:00:5e:00:01:01']"),
        ["endpoints.a.macs[0]: 00:00:5e:00:01:01 is reserved (reserved.macs[0]): no endpoint may declare it"]
    );
    assert_eq!(
        one("addresses: [192.0.2.1]"),
        [
            "endpoints.a.addresses[0]: 192.0.2.1 is reserved (reserved.addresses[0]): no endpoint may declare it"
        ]
    );
    assert_eq!(
        one("addresses: ['2001:db8::/64']"),
        [
            "endpoints.a.addresses[0]: 2001:db8::/64 has addresses in common with 2001:db8::1, which is reserved \
          (reserved.addresses[1]): no endpoint may declare it"
        ]
    );
    assert_eq!(one("addresses: ['fe80::5'], network: red").len(), 1);
    assert_eq!(
        one("addresses: [192.0.2.2]"),
        [
            "endpoints.a.addresses[0]: 192.0.2.2 is reserved (reserved.dhcp[0]): only an endpoint with the role dhcp-server \
          may declare it"
        ]
    );
    assert!(one("addresses: [192.0.2.2], roles: [dhcp-server]").is_empty());
    assert_eq!(one("addresses: [192.0.2.2], roles: [router]").len(), 1);
    assert_eq!(one("addresses: [192.0.2.0/30], roles: [dhcp-server]").len(), 1);
}

#[test]
fn reserving_what_is_declared_is_told_where_it_is_reserved() {
    let (mut document, _) = Document::parse(&document("  a: {addresses: [10.0.0.0/24]}\n")).unwrap();
    assert!(document.validate_baseline().is_ok());
    let mut reserved = portcullis_policy::Reserved::clone(&document.reserved);
    reserved.addresses.push("10.0.0.1".parse().unwrap());
    document.reserved = reserved.into();
    assert_eq!(
        errors(document.validate_baseline()),
        ["reserved.addresses[3]: 10.0.0.0/24 is declared by endpoints.a.addresses[0]: remove it there first"]
    );
}

#[test]
fn no_host_has_such_an_address() {
    for address in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.0.0.0/8",
        "224.0.0.1",
        "239.0.0.0/8",
        "224.0.0.0/4",
        "255.255.255.255",
        "'::'",
        "'::1'",
        "'ff02::1'",
        "'ff00::/8'",
    ] {
        let errors = wrong(&format!("  a: {{addresses: [10.0.0.1, {address}]}}\n"));
        assert!(
            matches!(&errors[..], [one] if one.starts_with("endpoints.a.addresses[1]: ") && one.contains("no host can have it")),
            "{address}: {errors:?}"
        );
        let text = format!("version: portcullis/v1\nreserved: {{dhcp: [{address}]}}\n");
        let errors = errors_of(&text);
        assert!(errors[0].starts_with("reserved.dhcp[0]: "), "{errors:?}");
    }
    let some = "addresses: [10.0.0.0/8, 223.255.255.255, 240.0.0.1, 'fe80::1', '2001:db9::/32', '::2']";
    assert!(wrong(&format!("  a: {{{some}}}\n")).is_empty());
    // Hosts are in these, too.
    let (document, _) =
        Document::parse("version: portcullis/v1\nendpoints: {a: {addresses: [0.0.0.0/0, '::/0']}}\n")
            .unwrap();
    assert!(document.validate().is_ok());
}

fn errors_of(text: &str) -> Vec<String> {
    errors(Document::parse(text).unwrap().0.validate())
}

#[test]
fn what_is_written_is_read_back() {
    let endpoints = "  a:\n    attachments: [{port: 3, vlan: any, target: tor}, {interface: a, vlan: any}, {port: 3, vlan: 7, target: tor}]\n    \
                     macs: ['00:00:5e:00:01:0a']\n    addresses: [192.0.2.10]\n    network: red\n    \
                     shared: [192.0.2.10, '00:00:5e:00:01:0a']\n    roles: [dhcp-server, router]\n    link_local: strict\n";
    let document = Document::from_yaml(&document(endpoints)).unwrap();
    let endpoint: &Endpoint = &document.endpoints[&"a".parse::<Name>().unwrap()];
    let vlans: Vec<Vlan> = endpoint.attachments.iter().map(|a| a.vlan).collect();
    assert_eq!(vlans, [Vlan::Any, Vlan::Any, Vlan::Id(7)]);
    assert_eq!(
        (endpoint.network.as_str(), endpoint.link_local),
        ("red", LinkLocal::Strict)
    );
    assert!(EndpointRole::ALL.iter().all(|role| endpoint.roles.contains(role)));
    assert_eq!(document.reserved.dhcp.len(), 1);
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(Document::from_yaml(&json).unwrap(), document);
}

#[test]
fn wrong_words_are_told_with_their_place() {
    for (text, path, problem) in [
        (
            "roles: [gateway]",
            "endpoints.a.roles[0]",
            "unknown variant `gateway`",
        ),
        (
            "link_local: loose",
            "endpoints.a.link_local",
            "unknown variant `loose`",
        ),
        ("network: 'a b'", "endpoints.a.network", "`a b` is not a name"),
        (
            "shared: [web]",
            "endpoints.a.shared[0]",
            "`web` is not a MAC or an address",
        ),
        (
            "attachments: [{port: 1, target: t, vlan: all}]",
            "endpoints.a.attachments[0].vlan",
            "`all` is not a VLAN",
        ),
        (
            "attachments: [{port: 1, target: t, vlan: 4095}]",
            "endpoints.a.attachments[0].vlan",
            "4095 is not a VLAN",
        ),
    ] {
        let error = Document::parse(&document(&format!("  a: {{{text}}}\n"))).unwrap_err();
        let fields = error.fields();
        assert_eq!(fields[0].path, path);
        assert!(fields[0].problem.starts_with(problem), "{}", fields[0]);
    }
    assert_eq!(
        wrong("  a: {attachments: [{interface: a, vlan: 7}]}\n"),
        [
            "endpoints.a.attachments[0].vlan: goes with port: an interface's VLANs are set in OVS; write any for an interface \
          that is a trunk"
        ]
    );
    // An interface is one place, whichever of its VLANs are meant.
    assert_eq!(
        wrong("  a: {attachments: [{interface: a}]}\n  b: {attachments: [{interface: a, vlan: any}]}\n")
            .len(),
        1
    );
}

/// A prefix of a small space, so that prefixes meet.
fn prefix() -> impl Strategy<Value = String> {
    let v4 = (0u32..16, 28u8..=32).prop_map(|(low, len)| {
        let mask = u32::MAX << (32 - u32::from(len));
        format!("{}/{len}", std::net::Ipv4Addr::from((0x0a00_0000 | low) & mask))
    });
    let v6 = (0u128..8, 125u8..=128).prop_map(|(low, len)| {
        let mask = u128::MAX << (128 - u32::from(len));
        format!(
            "{}/{len}",
            std::net::Ipv6Addr::from(((0x2001_0db8_u128 << 96) | low) & mask)
        )
    });
    prop_oneof![v4, v6]
}

proptest! {
    /// Both ways of looking agree with looking at every pair.
    #[test]
    fn clashes_are_found_exactly(
        lists in prop::collection::vec((prop::collection::vec((prefix(), any::<bool>()), 0..4), 0u8..3, any::<bool>()), 1..5)
    ) {
        let mut document = Document::default();
        for (number, (addresses, tenant, other_network)) in lists.iter().enumerate() {
            let shared = addresses.iter().filter(|(_, shared)| *shared);
            let endpoint = Endpoint {
                network: if *other_network { "red" } else { "default" }.parse().unwrap(),
                labels: [("tenant".to_string(), tenant.to_string())].into(),
                addresses: addresses.iter().map(|(text, _)| text.parse().unwrap()).collect(),
                shared: shared.map(|(text, _)| text.parse().unwrap()).collect(),
                ..Endpoint::default()
            };
            document.endpoints.insert(format!("e{number}").parse().unwrap(), endpoint.into());
        }
        let all: Vec<(&Name, &Endpoint)> = document.endpoints.iter().map(|(n, e)| (n, &**e)).collect();
        let mut expected = Vec::new();
        for (at, (name, endpoint)) in all.iter().enumerate() {
            for (index, own) in endpoint.addresses.iter().enumerate() {
                let clash = all.iter().take(at).any(|(_, other)| other.addresses.iter().any(|theirs| {
                    let meet = own.0.contains(&theirs.0) || theirs.0.contains(&own.0);
                    let shared = |e: &Endpoint, p| e.shares(portcullis_policy::Declared::Address(p));
                    let legal = shared(endpoint, *own) && shared(other, *theirs) && endpoint.labels == other.labels;
                    meet && endpoint.network == other.network && !legal
                }));
                if clash {
                    expected.push(format!("endpoints.{name}.addresses[{index}]"));
                }
            }
        }
        let found = document.validate().err().map(|e| e.fields()).unwrap_or_default();
        let paths: Vec<String> = found.iter().map(|f| f.path.clone()).collect();
        prop_assert_eq!(paths, expected);
        let (last, _) = all[all.len() - 1];
        let of_last: Vec<_> = found.into_iter().filter(|f| f.path.starts_with(&format!("endpoints.{last}."))).collect();
        let alone = document.validate_endpoint(last).err().map(|e| e.fields()).unwrap_or_default();
        prop_assert_eq!(alone, of_last);
    }
}

/// A DHCP server that the operator names may be written to directly under default deny, and no other address.
#[test]
fn a_reserved_dhcp_server_is_reached_under_default_deny() {
    let document = Document::from_yaml(
        "version: portcullis/v1\ndefaults: {egress: deny, ingress: deny}\nreserved: {dhcp: [192.0.2.53]}\nendpoints: {e: {}}\n",
    )
    .unwrap();
    let endpoint = &document.endpoints["e"];
    let policy = effective(&document, "e", endpoint, Direction::Egress);
    let verdict = |remote: [u8; 4]| {
        let frame = Frame::Ip(IpPacket {
            local: [192, 0, 2, 1].into(),
            remote: remote.into(),
            protocol: Some(17),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: 68,
                dst: 67,
                flags: 0,
            },
        });
        policy.judge(&Packet { frame }, View::FULL).0
    };
    assert_eq!(verdict([192, 0, 2, 53]), Verdict::Allow);
    assert_eq!(verdict([192, 0, 2, 54]), Verdict::Deny);
}

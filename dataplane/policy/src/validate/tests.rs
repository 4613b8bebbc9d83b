use super::*;
use crate::types::MacAddr;

const DOCUMENT: &str = r#"
version: portcullis/v1
profiles:
  web: {rules: [{name: http, action: allow, direction: ingress, protocol: tcp, ports: [80]}]}
endpoints:
  a: {attachments: [{interface: a}], macs: ["02:00:00:00:00:01"], profiles: [web]}
  b: {attachments: [{interface: b, target: one}, {iface_id: x}], macs: ["02:00:00:00:00:02"]}
"#;

/// Changes `b` and compares what both checks say about it.
fn both(change: impl FnOnce(&mut Endpoint)) -> Vec<String> {
    let mut document = Document::from_yaml(DOCUMENT).unwrap();
    let name: Name = "b".parse().unwrap();
    let mut endpoint = Endpoint::clone(&document.endpoints[&name]);
    change(&mut endpoint);
    document.endpoints.insert(name.clone(), endpoint.into());
    let texts = |result: Result<(), DocumentError>| -> Vec<String> {
        result
            .err()
            .map(|e| e.fields().iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    };
    let one = texts(document.validate_endpoint(&name));
    assert_eq!(one, texts(document.validate()));
    one
}

#[test]
fn one_endpoint_is_checked_as_the_whole_document_is() {
    let mac = |text: &str| text.parse::<MacAddr>().unwrap();
    assert!(both(|_| ()).is_empty());
    assert_eq!(
        both(|e| e.macs.push(mac("02:00:00:00:00:01"))),
        ["endpoints.b.macs[1]: 02:00:00:00:00:01 is claimed by endpoints.a.macs[0] already"]
    );
    assert_eq!(both(|e| e.macs.push(mac("02:00:00:00:00:02"))).len(), 1);
    assert_eq!(
        both(|e| e.attachments[0].interface = Some("a".to_string())),
        ["endpoints.b.attachments[0]: interface a is claimed by endpoints.a.attachments[0] already"]
    );
    assert_eq!(both(|e| e.attachments.push(e.attachments[1].clone())).len(), 1);
    assert!(
        both(|e| e.attachments.push(Attachment {
            target: Some("two".to_string()),
            ..e.attachments[0].clone()
        }))
        .is_empty()
    );
    assert_eq!(both(|e| e.profiles.push("none".parse().unwrap())).len(), 1);
    let plug = |port, vlan, target: Option<&str>| Attachment {
        interface: None,
        iface_id: None,
        port,
        vlan,
        target: target.map(str::to_string),
        by: IdentifiedBy::Port,
        macs: Vec::new(),
    };
    assert!(both(|e| e.attachments.push(plug(Some(3), Vlan::Id(4094), Some("tor")))).is_empty());
    for (wrong, why) in [
        (
            plug(Some(3), Vlan::Untagged, None),
            "endpoints.b.attachments[2].target: is missing",
        ),
        (
            plug(None, Vlan::Id(1), Some("tor")),
            "endpoints.b.attachments[2].vlan: goes with port",
        ),
        (
            plug(None, Vlan::Untagged, None),
            "endpoints.b.attachments[2]: names nothing to attach to",
        ),
    ] {
        let errors = both(|e| e.attachments.push(wrong));
        assert!(errors.iter().any(|e| e.starts_with(why)), "{why}: {errors:?}");
    }
    let twice = both(|e| {
        e.attachments.push(plug(Some(3), Vlan::Untagged, Some("tor")));
        e.attachments.push(plug(Some(3), Vlan::Untagged, Some("tor")));
    });
    assert_eq!(
        twice,
        ["endpoints.b.attachments[3]: port 3 is claimed by endpoints.b.attachments[2] already"]
    );
    let apart = both(|e| {
        for (port, vlan) in [
            (3, Vlan::Untagged),
            (4, Vlan::Untagged),
            (3, Vlan::Id(7)),
            (3, Vlan::Id(8)),
            (3, Vlan::Any),
        ] {
            e.attachments.push(plug(Some(port), vlan, Some("tor")));
        }
    });
    assert!(apart.is_empty(), "{apart:?}");
}

#[test]
fn endpoints_behind_one_port_are_told_apart_by_addresses_that_are_theirs() {
    let document = |a: &str, b: &str| {
        let text = format!(
            "version: portcullis/v1\nendpoints:\n  a: {{attachments: [{{port: 1, target: tor{a}}}], addresses: [192.0.2.1]}}\n  \
                 b: {{attachments: [{{port: 1, target: tor{b}\n"
        );
        match Document::from_yaml(&text) {
            Ok(document) => {
                let one = document.validate_endpoint(&"b".parse().unwrap());
                assert_eq!(one, Ok(()));
                String::new()
            }
            Err(error) => error.to_string(),
        }
    };
    let by = ", by: address";
    let b = |rest: &str| format!("{by}}}], {rest}}}");
    assert_eq!(document(by, &b("addresses: [192.0.2.2]")), "");
    for (a, b, why) in [
        (
            "",
            b("addresses: [192.0.2.2]"),
            "attachments[0]: port 1, by address is claimed by",
        ),
        (
            by,
            "}], addresses: [192.0.2.2]}".to_string(),
            "write `by: address` in the attachment of each",
        ),
        (
            by,
            b("macs: ['02:00:00:00:00:01']"),
            "endpoints.b.attachments[0].by: needs addresses",
        ),
        (
            by,
            b("addresses: [192.0.2.2], source_guard: false"),
            "endpoints.b.attachments[0].by: needs source_guard",
        ),
        (
            by,
            b("addresses: [192.0.2.2], shared: [192.0.2.2]"),
            "needs addresses that no other endpoint has, and 192.0.2.2 is in `shared`",
        ),
        (
            by,
            format!("{by}}}, {{port: 1, target: tor{by}}}], addresses: [192.0.2.2]}}"),
            "endpoints.b.attachments[1]: port 1, by address is claimed by endpoints.b.attachments[0] already",
        ),
        (
            by,
            format!("{by}}}, {{interface: x{by}}}], addresses: [192.0.2.2]}}"),
            "endpoints.b.attachments[1].by: goes with port",
        ),
    ] {
        let found = document(a, &b);
        assert!(found.contains(why), "{why}: {found}");
    }
}

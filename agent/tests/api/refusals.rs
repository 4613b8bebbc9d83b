//! Requests of resources that are refused, with the field that is wrong.

use portcullis_proto::v1;

use crate::api::resources::full_rule;
use crate::api::support::*;

#[tokio::test]
async fn a_rule_that_matches_everything_must_say_so() {
    let mut rig = Rig::new().await;
    let with = |rule: v1::Rule| v1::Endpoint {
        rules: vec![rule],
        ..endpoint("a", 1)
    };
    let all = v1::Rule {
        protocol: String::new(),
        ports: Vec::new(),
        ..rule("all", v1::Action::Deny, v1::Direction::Ingress)
    };
    for bare in [all.clone(), v1::Rule { ip: 6, ..all.clone() }] {
        let error = rig.client.provision(with(bare.clone())).await.unwrap_err();
        assert_eq!(fields(&error), ["endpoint.rules[0].match_all"]);
        let meant = v1::Rule {
            match_all: true,
            ..bare
        };
        rig.client.provision(with(meant)).await.unwrap();
    }
    // What is read says so, and can be written back.
    let read = rig.client.endpoint("a").await.unwrap();
    assert!(read.rules[0].match_all && read.rules[0].protocol == "any");
    rig.client.provision(read).await.unwrap();
    for narrow in [
        v1::Rule {
            protocol: "gre".to_string(),
            ..all.clone()
        },
        v1::Rule {
            remote: vec!["192.0.2.0/24".to_string()],
            ..all.clone()
        },
    ] {
        rig.client.provision(with(narrow.clone())).await.unwrap();
        let both = v1::Rule {
            match_all: true,
            ..narrow
        };
        let error = rig.client.provision(with(both)).await.unwrap_err();
        assert_eq!(fields(&error), ["endpoint.rules[0].match_all"]);
    }
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let mut rig = Rig::with_document().await;
    let before = rig.seen().await;
    let bad = v1::Rule {
        name: "no name".to_string(),
        action: 0,
        direction: 9,
        protocol: "tpc".to_string(),
        ports: vec!["25".to_string(), "70000".to_string(), "20-10".to_string()],
        source_ports: vec!["x".to_string()],
        remote: vec!["198.51.100.1/24".to_string()],
        local: vec!["nowhere".to_string()],
        icmp: Some(v1::IcmpMatch {
            r#type: 256,
            code: Some(300),
        }),
        ip: 5,
        match_all: true,
        ..Default::default()
    };
    let wrong = v1::Endpoint {
        name: "-x".to_string(),
        macs: vec!["02:00:00:00:00:09".to_string(), "01:00:00:00:00:00".to_string()],
        addresses: vec!["192.0.2.1/24".to_string()],
        attachments: vec![v1::Attachment {
            macs: vec!["zz".to_string()],
            vlan: Some(4095),
            ..Default::default()
        }],
        network: "a b".to_string(),
        shared: vec!["web".to_string()],
        roles: vec![1, 9, 0],
        link_local: 7,
        rules: vec![bad],
        ..Default::default()
    };
    let error = rig.client.provision(wrong).await.unwrap_err();
    assert_eq!(
        fields(&error),
        [
            "endpoint.name",
            "endpoint.attachments[0].macs[0]",
            "endpoint.attachments[0].vlan",
            "endpoint.macs[1]",
            "endpoint.addresses[0]",
            "endpoint.rules[0].protocol",
            "endpoint.rules[0].name",
            "endpoint.rules[0].action",
            "endpoint.rules[0].direction",
            "endpoint.rules[0].ports[1]",
            "endpoint.rules[0].ports[2]",
            "endpoint.rules[0].source_ports[0]",
            "endpoint.rules[0].remote[0]",
            "endpoint.rules[0].local[0]",
            "endpoint.rules[0].icmp.type",
            "endpoint.rules[0].icmp.code",
            "endpoint.rules[0].ip",
            "endpoint.rules[0].match_all",
            "endpoint.network",
            "endpoint.shared[0]",
            "endpoint.roles[1]",
            "endpoint.roles[2]",
            "endpoint.link_local",
        ]
    );
    // What only the whole policy tells.
    let clash = v1::Endpoint {
        attachments: vec![v1::Attachment {
            interface: "web1".to_string(),
            ..Default::default()
        }],
        macs: vec!["02:00:00:00:00:02".to_string()],
        profiles: vec!["none".to_string()],
        ..endpoint("new", 9)
    };
    let error = rig.client.provision(clash).await.unwrap_err();
    assert_eq!(
        fields(&error),
        [
            "endpoint.profiles[0]",
            "endpoint.attachments[0]",
            "endpoint.macs[0]"
        ]
    );
    assert!(
        error.message().contains("endpoints.mail1.macs[0]"),
        "{}",
        error.message()
    );
    let nowhere = v1::Endpoint {
        attachments: vec![v1::Attachment::default()],
        ..endpoint("new", 9)
    };
    assert_eq!(
        fields(&rig.client.provision(nowhere).await.unwrap_err()),
        ["endpoint.attachments[0]"]
    );
    let profile = v1::Profile {
        name: "p".to_string(),
        defaults: Some(v1::Defaults {
            egress: 7,
            ingress: 0,
        }),
        rules: vec![v1::Rule {
            protocol: String::new(),
            ..full_rule()
        }],
        etag: "r9".to_string(),
    };
    let create = v1::CreateProfileRequest {
        profile: Some(profile.clone()),
    };
    let error = rig.client.profiles.create_profile(create).await.unwrap_err();
    assert_eq!(fields(&error), ["profile.defaults.egress"]);
    let profile = v1::Profile {
        defaults: None,
        etag: String::new(),
        ..profile
    };
    let create = v1::CreateProfileRequest {
        profile: Some(profile),
    };
    let error = rig.client.profiles.create_profile(create).await.unwrap_err();
    assert_eq!(
        fields(&error),
        ["profile.rules[0].ports", "profile.rules[0].source_ports"]
    );
    // Messages that are not there, and names that are none.
    let error = rig
        .client
        .profiles
        .create_profile(v1::CreateProfileRequest::default())
        .await
        .unwrap_err();
    assert_eq!(fields(&error), ["profile"]);
    let error = rig
        .client
        .endpoints
        .provision(v1::ProvisionRequest::default())
        .await
        .unwrap_err();
    assert_eq!(fields(&error), ["endpoint"]);
    let error = rig
        .client
        .baseline
        .update_baseline(v1::UpdateBaselineRequest::default())
        .await
        .unwrap_err();
    assert_eq!(fields(&error), ["baseline"]);
    assert_eq!(fields(&rig.client.endpoint("").await.unwrap_err()), ["name"]);
    assert_eq!(rig.seen().await, before);
}

//! The document as a whole.

use std::sync::atomic::Ordering;

use portcullis_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::support::*;

/// Bad input, the field it is told with, and a part of what is said.
const BAD: &[(&str, &str, &str)] = &[
    ("version: portcullis/v1\nspeed: 1", "speed", "unknown field"),
    (
        "version: portcullis/v1\nendpoints: {a: {mac: x}}",
        "endpoints.a.mac",
        "unknown field",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, ports: [70000]}]",
        "baseline[0].ports[0]",
        "out of range",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, ports: [\"20-10\"]}]",
        "baseline[0].ports[0]",
        "10-20",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, ports: []}]",
        "baseline[0].ports",
        "is empty",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, ports: [025]}]",
        "baseline[0].ports[0]",
        "`025` is not a port",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, ports: [no]}]",
        "baseline[0].ports[0]",
        "`no` is not a port",
    ),
    (
        "version: portcullis/v1\nbaseline: [{name: x, action: deny, direction: egress, protocol: tcp, remote: [\"::ffff:192.0.2.0/120\"]}]",
        "baseline[0].remote[0]",
        "write 192.0.2.0/24",
    ),
    (
        "version: portcullis/v1\nprofiles: {p: {rules: [{name: x, action: deny, direction: egress, remote: [192.0.2.1/24]}]}}",
        "profiles.p.rules[0].remote[0]",
        "192.0.2.0/24",
    ),
    (
        "version: portcullis/v1\nendpoints: {a: {addresses: [10.0.0.1/8]}}",
        "endpoints.a.addresses[0]",
        "10.0.0.0/8",
    ),
    (
        "version: portcullis/v1\nmandatory: [{name: x, action: deny, direction: egress}, {name: x, action: deny, direction: ingress}]",
        "mandatory[1].name",
        "already",
    ),
    (
        "version: portcullis/v1\nendpoints: {a: {profiles: [none]}}",
        "endpoints.a.profiles[0]",
        "there is no profile",
    ),
    (
        "version: portcullis/v1\nendpoints: {a: {attachments: [{interface: i}]}, b: {attachments: [{interface: i}]}}",
        "endpoints.b.attachments[0]",
        "claimed by endpoints.a.attachments[0]",
    ),
    (
        "version: portcullis/v1\nendpoints: {a: {macs: [\"02:00:00:00:00:09\"]}, b: {macs: [\"02:00:00:00:00:09\"]}}",
        "endpoints.b.macs[0]",
        "claimed by endpoints.a.macs[0]",
    ),
    ("version: portcullis/v2", "version", "portcullis/v1"),
    ("", "document", "empty"),
    ("version: [", "document", ""),
    (
        "version: portcullis/v1\nendpoints: {a: {}, a: {}}",
        "document",
        "duplicate",
    ),
    ("- 1", "document", ""),
];

#[tokio::test]
async fn bad_input_is_told_by_field_and_changes_nothing() {
    let mut rig = Rig::with_document().await;
    let before = rig.seen().await;
    for (document, field, part) in BAD {
        let error = rig.client.apply(document).await.unwrap_err();
        assert_eq!(fields(&error), [*field], "{document}: {}", error.message());
        assert!(
            error.message().to_lowercase().contains(part),
            "{document}: {}",
            error.message()
        );
        let plan = v1::PlanRequest {
            document: document.to_string(),
            ..Default::default()
        };
        assert_eq!(fields(&rig.client.policy.plan(plan).await.unwrap_err()), [*field]);
    }
    assert_eq!(rig.seen().await, before);
}

#[tokio::test]
async fn an_empty_document_over_a_full_one_must_be_meant() {
    let mut rig = Rig::with_document().await;
    let before = rig.seen().await;
    let empty = || v1::ApplyDocumentRequest {
        document: "version: portcullis/v1".to_string(),
        ..Default::default()
    };
    let error = rig.client.policy.apply_document(empty()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("--allow-empty") && error.message().contains("2 endpoints"),
        "{error:?}"
    );
    assert_eq!(rig.seen().await, before);
    // Merged, it says nothing.
    let merged = v1::ApplyDocumentRequest {
        merge: true,
        ..empty()
    };
    assert_eq!(
        rig.client
            .policy
            .apply_document(merged)
            .await
            .unwrap()
            .into_inner()
            .generation,
        1
    );
    let meant = v1::ApplyDocumentRequest {
        allow_empty: true,
        ..empty()
    };
    let done = rig
        .client
        .policy
        .apply_document(meant)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        done.deleted,
        ["profiles/web", "endpoints/mail1", "endpoints/web1"]
    );
    assert_eq!((done.generation, done.changed), (2, vec!["baseline".to_string()]));
    assert_eq!(
        rig.client
            .policy
            .apply_document(empty())
            .await
            .unwrap()
            .into_inner()
            .generation,
        2
    );
}

#[tokio::test]
async fn what_is_read_back_is_what_was_applied() {
    let mut rig = Rig::new().await;
    let tricky = DOCUMENT.replace("spam", "a: b # c \\\" 'd' 0x1f\\n- e").replace(
        "tenant: acme",
        "tenant: \"yes\", n: \"1e3\", empty: \"\", s: \" x \", t: \"~\", u: \"ü→\"",
    );
    let first = rig.client.apply(&tricky).await.unwrap();
    assert_eq!(
        first.created,
        ["profiles/web", "endpoints/mail1", "endpoints/web1"]
    );
    assert_eq!(first.changed, ["baseline"]);
    let read = rig.client.document().await;
    assert_eq!(read.generation, 1);
    let again = rig.client.apply(&read.document).await.unwrap();
    let nothing = (again.created.len(), again.changed.len(), again.deleted.len());
    assert_eq!((again.generation, nothing), (1, (0, 0, 0)), "{}", read.document);
    let web1 = rig.client.endpoint("web1").await.unwrap();
    assert_eq!(
        (web1.labels["tenant"].as_str(), web1.labels["n"].as_str()),
        ("yes", "1e3")
    );
    assert_eq!(rig.fake.intents.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn merging_keeps_what_is_not_named() {
    let mut rig = Rig::with_document().await;
    let merge = |document: &str| v1::ApplyDocumentRequest {
        document: format!("version: portcullis/v1\n{document}"),
        merge: true,
        ..Default::default()
    };
    let request = merge("endpoints: {new: {profiles: [web]}, mail1: {macs: [\"02:00:00:00:00:02\"]}}");
    let done = rig
        .client
        .policy
        .apply_document(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (done.created, done.changed),
        (
            vec!["endpoints/new".to_string()],
            vec!["endpoints/mail1".to_string()]
        )
    );
    assert!(done.deleted.is_empty());
    let refused = rig
        .client
        .policy
        .apply_document(merge("baseline: []"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().starts_with("baseline would be empty"),
        "{refused:?}"
    );
    let meant = v1::ApplyDocumentRequest {
        allow_empty: true,
        ..merge("baseline: []")
    };
    let done = rig
        .client
        .policy
        .apply_document(meant)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(done.changed, ["baseline"]);
    assert!(rig.client.document().await.document.contains("web1"));
    let error = rig
        .client
        .policy
        .apply_document(merge("endpoints: {bad: {profiles: [none]}}"))
        .await
        .unwrap_err();
    assert_eq!(fields(&error), ["endpoints.bad.profiles[0]"]);
    let version = v1::ApplyDocumentRequest {
        document: "version: other".to_string(),
        merge: true,
        ..Default::default()
    };
    assert_eq!(
        fields(&rig.client.policy.apply_document(version).await.unwrap_err()),
        ["version"]
    );
}

#[tokio::test]
async fn checking_and_planning_change_nothing() {
    let mut rig = Rig::with_document().await;
    let before = rig.seen().await;
    let next = DOCUMENT
        .replace("ports: [25]", "ports: [25, 465]")
        .replace("web1:", "web2:");
    let check = v1::ApplyDocumentRequest {
        document: next.clone(),
        validate_only: true,
        ..Default::default()
    };
    let checked = rig
        .client
        .policy
        .apply_document(check)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (checked.generation, checked.created),
        (1, vec!["endpoints/web2".to_string()])
    );
    assert_eq!(checked.deleted, ["endpoints/web1"]);

    let ask = |rows| v1::PlanRequest {
        document: next.clone(),
        merge: false,
        rows,
    };
    let plan = rig.client.policy.plan(ask(true)).await.unwrap().into_inner();
    assert_eq!(
        (plan.created, plan.changed),
        (vec!["endpoints/web2".to_string()], vec!["baseline".to_string()])
    );
    assert!(plan.classes_now > 0 && plan.classes_after > 0);
    let [target] = plan.targets.as_slice() else {
        panic!("{:?}", plan.targets)
    };
    assert_eq!(
        (target.target.as_str(), target.unavailable.as_str()),
        ("fake", "")
    );
    assert_eq!((target.tables[0].add, target.tables[0].size), (2, 7));
    assert_eq!(target.rows.len(), 1);
    let plan = rig.client.policy.plan(ask(false)).await.unwrap().into_inner();
    assert!(plan.targets[0].rows.is_empty());
    rig.fake.deaf.store(true, Ordering::Relaxed);
    let plan = rig.client.policy.plan(ask(true)).await.unwrap().into_inner();
    assert!(
        plan.targets[0].unavailable.contains("Disconnected"),
        "{:?}",
        plan.targets
    );
    assert_eq!(rig.seen().await, before);
}

#[tokio::test]
async fn what_a_target_cannot_do_is_refused_as_a_whole() {
    let mut rig = Rig::with_document().await;
    let before = rig.seen().await;
    let classes = rig.fake.newest().classes.keys().copied().collect::<Vec<_>>();
    let bad = DOCUMENT
        .replace("name: smtp", "name: impossible")
        .replace("mail1", "mail2");
    let check = v1::ApplyDocumentRequest {
        document: bad.clone(),
        validate_only: true,
        ..Default::default()
    };
    for request in [
        check,
        v1::ApplyDocumentRequest {
            document: bad,
            ..Default::default()
        },
    ] {
        let error = rig.client.policy.apply_document(request).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
        let details = error.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(
            (metadata["target"].as_str(), metadata["rule"].as_str()),
            ("fake", "baseline/impossible")
        );
        assert_eq!(
            (metadata["table"].as_str(), metadata["why"].as_str()),
            ("egress_policy", "this target cannot")
        );
    }
    let unproved = rig
        .client
        .apply(&DOCUMENT.replace("name: smtp", "name: unproved"))
        .await
        .unwrap_err();
    assert_eq!(unproved.code(), Code::Internal);
    assert!(
        unproved.message().contains("the change is refused"),
        "{}",
        unproved.message()
    );
    assert_eq!(rig.seen().await, before);
    // The next change goes on from where things were: the classes that stay keep their ids.
    rig.client.provision(endpoint("new", 7)).await.unwrap();
    let after = rig.fake.newest();
    assert_eq!(after.generation, 2);
    assert_eq!(after.classes.keys().copied().collect::<Vec<_>>(), classes);
}

#[tokio::test]
async fn findings_are_told() {
    let mut rig = Rig::new().await;
    let shadowed = "version: portcullis/v1\nbaseline:\n  - {name: a, action: deny, direction: egress}\n  - {name: b, action: deny, direction: egress, protocol: tcp}\n";
    let wanted = [v1::Finding {
        at: "baseline/b".to_string(),
        kind: "never_matches".to_string(),
        by: vec!["baseline/a".to_string()],
        text: "can never match: baseline/a before it takes all it would match".to_string(),
    }];
    let plan = v1::PlanRequest {
        document: shadowed.to_string(),
        ..Default::default()
    };
    let planned = rig.client.policy.plan(plan).await.unwrap().into_inner();
    assert_eq!(planned.findings, wanted);
    let check = v1::ApplyDocumentRequest {
        document: shadowed.to_string(),
        validate_only: true,
        ..Default::default()
    };
    let checked = rig.client.policy.apply_document(check).await.unwrap();
    assert_eq!(checked.into_inner().findings, wanted);
    let done = rig.client.apply(shadowed).await.unwrap();
    assert_eq!(done.findings, wanted);
    // Asked about what holds already, it is told again; without the rule, nothing is.
    assert_eq!(rig.client.apply(shadowed).await.unwrap().findings, wanted);
    let sound = shadowed.replace(
        "name: a, action: deny, direction: egress}",
        "name: a, action: deny, direction: ingress}",
    );
    assert_eq!(rig.client.apply(&sound).await.unwrap().findings, []);
}

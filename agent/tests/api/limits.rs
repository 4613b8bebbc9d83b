//! Pages, and what is too much.

use std::sync::atomic::Ordering;

use portcullis_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::support::*;

#[tokio::test]
async fn lists_have_pages() {
    let mut rig = Rig::new().await;
    for i in 0..25u8 {
        let labels = [(
            "tenant".to_string(),
            if i % 2 == 0 { "acme" } else { "other" }.to_string(),
        )]
        .into();
        let e = v1::Endpoint {
            labels,
            ..endpoint(&format!("e{i:02}"), i)
        };
        rig.client.provision(e).await.unwrap();
    }
    let ask = |page_size, page_token: &str, label: &str| v1::ListRequest {
        page_size,
        page_token: page_token.to_string(),
        label: label.to_string(),
    };
    let mut names = Vec::new();
    let mut token = String::new();
    let mut pages = 0;
    loop {
        let page = rig
            .client
            .endpoints
            .list_endpoints(ask(10, &token, ""))
            .await
            .unwrap()
            .into_inner();
        names.extend(page.endpoints.into_iter().map(|e| e.name));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        if pages == 1 {
            // In between, one on a page that was read goes and one on it comes; one on the next page goes.
            for name in ["e03", "e12"] {
                rig.client
                    .endpoints
                    .release(v1::ReleaseRequest {
                        name: name.to_string(),
                    })
                    .await
                    .unwrap();
            }
            rig.client.provision(endpoint("e021", 99)).await.unwrap();
        }
    }
    let expected: Vec<String> = (0..25).filter(|i| *i != 12).map(|i| format!("e{i:02}")).collect();
    assert_eq!((names, pages), (expected, 3));

    let acme = rig
        .client
        .endpoints
        .list_endpoints(ask(5, "", "tenant=acme"))
        .await
        .unwrap()
        .into_inner();
    assert!(acme.endpoints.iter().all(|e| e.labels["tenant"] == "acme") && acme.endpoints.len() == 5);
    let token = acme.next_page_token;
    let next = rig
        .client
        .endpoints
        .list_endpoints(ask(0, &token, "tenant=acme"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((next.endpoints.len(), next.next_page_token.as_str()), (7, ""));
    for (request, field) in [
        (ask(0, &token, "tenant=other"), "page_token"),
        (ask(0, "garbage", ""), "page_token"),
        (ask(0, "", "tenant"), "label"),
        (ask(0, "", "=acme"), "label"),
    ] {
        assert_eq!(
            fields(&rig.client.endpoints.list_endpoints(request).await.unwrap_err()),
            [field]
        );
    }
    assert_eq!(
        fields(
            &rig.client
                .profiles
                .list_profiles(ask(0, "", "a=b"))
                .await
                .unwrap_err()
        ),
        ["label"]
    );
    assert!(
        rig.client
            .profiles
            .list_profiles(ask(0, "", ""))
            .await
            .unwrap()
            .into_inner()
            .profiles
            .is_empty()
    );
}

#[tokio::test]
async fn limits_are_told_with_numbers() {
    let mut rig = Rig::new().await;
    for i in 0..10 {
        let profile = v1::Profile {
            name: format!("p{i}"),
            ..Default::default()
        };
        rig.client
            .profiles
            .create_profile(v1::CreateProfileRequest {
                profile: Some(profile),
            })
            .await
            .unwrap();
    }
    let profile = v1::Profile {
        name: "more".to_string(),
        ..Default::default()
    };
    let error = rig
        .client
        .profiles
        .create_profile(v1::CreateProfileRequest {
            profile: Some(profile),
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(
        error.message(),
        "11 profiles are more than the 10 that the agent allows (limits.profiles)"
    );
    assert_eq!(rig.seen().await.0, 10);
}

#[tokio::test]
async fn a_change_that_takes_long_holds_no_reader_up_and_the_queue_is_bounded() {
    let mut rig = Rig::with_document().await;
    let held = Held::new(&rig.fake);
    let call = |i: u8| {
        let mut client = rig.client.clone();
        tokio::spawn(async move { client.provision(endpoint(&format!("e{i}"), i)).await })
    };
    // One that is being made, which leaves the queue empty, and then four that wait; which of the five others is
    // refused, is a matter of order.
    let begun = rig.fake.checks.load(Ordering::Relaxed);
    let mut calls = vec![call(0)];
    while rig.fake.checks.load(Ordering::Relaxed) == begun {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    calls.extend((1..6).map(call));
    assert_eq!(rig.client.document().await.generation, 1);
    while calls.iter().filter(|call| call.is_finished()).count() < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    held.let_go();
    let mut refused = Vec::new();
    for call in calls {
        refused.extend(call.await.unwrap().err());
    }
    let [error] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(error.message(), "4 changes are waiting already: try again");
    assert!(error.get_error_details().retry_info().is_some());
    assert_eq!(rig.client.document().await.generation, 6);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_with_numbers() {
    let mut rig = Rig::new().await;
    let large = format!("version: portcullis/v1 # {}", "x".repeat(1 << 20));
    let error = rig.client.apply(&large).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    assert!(error.message().contains("1048576 bytes"), "{}", error.message());
}

async fn merge(rig: &Rig, document: String) -> Result<v1::ApplyDocumentResponse, tonic::Status> {
    let request = v1::ApplyDocumentRequest {
        document,
        merge: true,
        ..Default::default()
    };
    let mut policy = rig.client.policy.clone();
    Ok(policy.apply_document(request).await?.into_inner())
}

#[tokio::test]
async fn what_a_change_puts_into_one_resource_is_bounded() {
    let mut rig = Rig::with("[limits]\nlist_rules = 2\nendpoint_matches = 12\nprograms = 1\n").await;
    let rules = |names: &[&str], more: &str| {
        let rule = |name: &&str| {
            format!(
                "  - {{name: {name}, action: allow, direction: egress, protocol: tcp, ports: [1, 3]{more}}}\n"
            )
        };
        names.iter().map(rule).collect::<String>()
    };
    let head = "version: portcullis/v1\n";
    let refused = |error: tonic::Status, text: &str, setting: &str| {
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert_eq!(error.message(), text);
        let details = error.get_error_details();
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, setting);
    };
    for list in ["baseline", "mandatory"] {
        let fits = format!("{head}{list}:\n{}", rules(&["a", "b"], ""));
        merge(&rig, fits).await.unwrap();
        let fuller = format!("{head}{list}:\n{}", rules(&["a", "b", "c"], ""));
        let error = merge(&rig, fuller).await.unwrap_err();
        let text = format!("3 rules in {list} are more than the 2 that the agent allows (limits.list_rules)");
        refused(error, &text, "limits.list_rules");
    }
    let web = format!(
        "{head}profiles:\n  web:\n    rules:\n{}",
        rules(&["a", "b", "c"], "")
    );
    let error = merge(&rig, web.replace("\n  - ", "\n    - ")).await.unwrap_err();
    let text = "3 rules in profiles/web are more than the 2 that the agent allows (limits.list_rules)";
    refused(error, text, "limits.list_rules");

    let rule = |prefixes: u8| v1::Rule {
        name: "a".to_string(),
        action: v1::Action::Allow.into(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        ports: vec!["1".to_string(), "3".to_string(), "5-7".to_string()],
        remote: (0..prefixes).map(|n| format!("192.0.2.{n}/32")).collect(),
        ..Default::default()
    };
    let with = |prefixes: u8| v1::Endpoint {
        rules: vec![rule(prefixes)],
        ..endpoint("e1", 1)
    };
    rig.client.provision(with(4)).await.unwrap();
    let text = "15 matches of the rules of endpoints/e1 are more than the 12 that the agent allows (limits.endpoint_matches)";
    refused(
        rig.client.provision(with(5)).await.unwrap_err(),
        text,
        "limits.endpoint_matches",
    );
    let program = |name: &str| {
        format!(
            "  {name}: {{opens: [{{direction: egress, protocol: tcp, ports: [25]}}], lease: {{default: 1h, max: 1h}}}}\n"
        )
    };
    let both = format!("{head}programs:\n{}{}", program("a"), program("b"));
    let error = merge(&rig, both).await.unwrap_err();
    let text = "2 programs are more than the 1 that the agent allows (limits.programs)";
    refused(error, text, "limits.programs");
}

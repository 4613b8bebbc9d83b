//! One resource at a time.

use portcullis_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::support::*;

fn get(name: &str) -> v1::GetRequest {
    v1::GetRequest {
        name: name.to_string(),
    }
}

fn delete(name: &str, etag: &str) -> v1::DeleteRequest {
    v1::DeleteRequest {
        name: name.to_string(),
        etag: etag.to_string(),
    }
}

/// A rule that sets every field.
pub fn full_rule() -> v1::Rule {
    v1::Rule {
        ports: vec!["25".to_string(), "10000-20000".to_string()],
        source_ports: vec!["1024-65535".to_string()],
        remote: vec!["198.51.100.0/24".to_string()],
        local: vec!["192.0.2.10".to_string()],
        ip: 4,
        reason: "why: \"so\"".to_string(),
        ..rule("full", v1::Action::Deny, v1::Direction::Egress)
    }
}

fn icmp_rule() -> v1::Rule {
    v1::Rule {
        protocol: "icmp".to_string(),
        ports: vec![],
        icmp: Some(v1::IcmpMatch {
            r#type: 8,
            code: Some(0),
        }),
        ip: 4,
        ..rule("ping", v1::Action::Allow, v1::Direction::Ingress)
    }
}

#[tokio::test]
async fn a_profile_lives_and_dies() {
    let mut rig = Rig::new().await;
    let profiles = &mut rig.client.profiles;
    let profile = v1::Profile {
        name: "mail".to_string(),
        defaults: Some(v1::Defaults {
            egress: 0,
            ingress: v1::Action::Deny.into(),
        }),
        rules: vec![full_rule(), icmp_rule()],
        etag: String::new(),
    };
    let create = v1::CreateProfileRequest {
        profile: Some(profile.clone()),
    };
    let made = profiles
        .create_profile(create.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.generation, 1);
    let read = profiles.get_profile(get("mail")).await.unwrap().into_inner();
    assert_eq!(
        read,
        v1::Profile {
            etag: made.etag.clone(),
            ..profile.clone()
        }
    );
    assert_eq!(
        profiles.create_profile(create).await.unwrap_err().code(),
        Code::AlreadyExists
    );

    // The same again is no change; something else is one, and makes the etag stale.
    let update = |p: &v1::Profile| v1::UpdateProfileRequest {
        profile: Some(p.clone()),
    };
    assert_eq!(
        profiles.update_profile(update(&read)).await.unwrap().into_inner(),
        made
    );
    let changed = v1::Profile {
        rules: vec![icmp_rule()],
        ..read.clone()
    };
    let second = profiles
        .update_profile(update(&changed))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(second.generation, 2);
    assert_ne!(second.etag, made.etag);
    let stale = profiles.update_profile(update(&read)).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let info = stale.get_error_details();
    assert_eq!(info.error_info().unwrap().metadata["etag"], second.etag);

    let stranger = v1::Profile {
        name: "other".to_string(),
        ..profile
    };
    assert_eq!(
        profiles
            .update_profile(update(&stranger))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    assert_eq!(
        profiles.get_profile(get("other")).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        profiles
            .delete_profile(delete("other", ""))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    assert_eq!(
        profiles
            .delete_profile(delete("mail", "r1"))
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );
    let gone = profiles
        .delete_profile(delete("mail", &second.etag))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        gone,
        v1::Committed {
            generation: 3,
            etag: String::new()
        }
    );
    assert_eq!(
        profiles.get_profile(get("mail")).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_profile_in_use_stays() {
    let mut rig = Rig::with_document().await;
    let error = rig
        .client
        .profiles
        .delete_profile(delete("web", ""))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error
            .message()
            .contains("profiles/web is bound to 1 endpoints (web1)"),
        "{}",
        error.message()
    );
    let details = error.get_error_details();
    assert_eq!(
        details.precondition_failure().unwrap().violations[0].subject,
        "profiles/web"
    );
    assert_eq!(rig.seen().await.0, 1);
}

#[tokio::test]
async fn an_endpoint_lives_and_dies() {
    let mut rig = Rig::with_document().await;
    let full = v1::Endpoint {
        profiles: vec!["web".to_string()],
        rules: vec![full_rule()],
        labels: [("tenant".to_string(), "acme".to_string())].into(),
        source_guard: Some(false),
        attachments: vec![
            v1::Attachment {
                iface_id: "x-1".to_string(),
                target: "fake".to_string(),
                ..Default::default()
            },
            v1::Attachment {
                interface: "vm7".to_string(),
                macs: vec!["02:00:00:00:01:07".to_string()],
                any_vlan: true,
                ..Default::default()
            },
        ],
        network: "red".to_string(),
        shared: vec!["198.51.100.7".to_string(), "02:00:00:00:01:07".to_string()],
        roles: vec![
            v1::EndpointRole::Router.into(),
            v1::EndpointRole::DhcpServer.into(),
        ],
        link_local: v1::LinkLocal::Strict.into(),
        ..endpoint("vm7", 7)
    };
    let create = v1::CreateEndpointRequest {
        endpoint: Some(full.clone()),
    };
    let made = rig
        .client
        .endpoints
        .create_endpoint(create.clone())
        .await
        .unwrap()
        .into_inner();
    let read = rig.client.endpoint("vm7").await.unwrap();
    assert_eq!(
        read,
        v1::Endpoint {
            etag: made.etag.clone(),
            ..full
        }
    );
    let again = rig.client.endpoints.create_endpoint(create).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let with_etag = v1::CreateEndpointRequest {
        endpoint: Some(v1::Endpoint {
            name: "vm8".to_string(),
            ..read.clone()
        }),
    };
    let error = rig.client.endpoints.create_endpoint(with_etag).await.unwrap_err();
    assert_eq!(fields(&error), ["endpoint.etag"]);

    let update = v1::UpdateEndpointRequest {
        endpoint: Some(v1::Endpoint {
            profiles: vec![],
            ..read.clone()
        }),
    };
    let second = rig
        .client
        .endpoints
        .update_endpoint(update.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(second.generation, made.generation + 1);
    assert_eq!(
        rig.client
            .endpoints
            .update_endpoint(update)
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );
    assert_eq!(rig.fake.newest().generation, second.generation);
    let gone = rig
        .client
        .endpoints
        .delete_endpoint(delete("vm7", &second.etag))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(gone.etag, "");
    assert_eq!(
        rig.client
            .endpoints
            .delete_endpoint(delete("vm7", ""))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn provision_and_release_may_be_repeated() {
    let mut rig = Rig::new().await;
    let first = rig.client.provision(endpoint("a", 1)).await.unwrap();
    assert_eq!(rig.client.provision(endpoint("a", 1)).await.unwrap(), first);
    let second = rig.client.provision(endpoint("a", 2)).await.unwrap();
    assert_eq!(second.generation, first.generation + 1);
    let stale = v1::Endpoint {
        etag: first.etag,
        ..endpoint("a", 3)
    };
    assert_eq!(
        rig.client.provision(stale).await.unwrap_err().code(),
        Code::Aborted
    );
    let gone = v1::Endpoint {
        etag: second.etag,
        ..endpoint("b", 4)
    };
    assert_eq!(
        rig.client.provision(gone).await.unwrap_err().code(),
        Code::Aborted
    );

    let release = || v1::ReleaseRequest {
        name: "a".to_string(),
    };
    let released = rig
        .client
        .endpoints
        .release(release())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(released.generation, second.generation + 1);
    assert_eq!(
        rig.client
            .endpoints
            .release(release())
            .await
            .unwrap()
            .into_inner(),
        released
    );
    // Made again, it is another one: the old etags are stale.
    let again = rig.client.provision(endpoint("a", 2)).await.unwrap();
    assert_eq!(again.generation, released.generation + 1);
    assert_eq!(rig.fake.intents.lock().unwrap().len() as u64, again.generation);
}

#[tokio::test]
async fn the_baseline_is_one_resource() {
    let mut rig = Rig::new().await;
    let read = rig
        .client
        .baseline
        .get_baseline(v1::GetBaselineRequest {})
        .await
        .unwrap()
        .into_inner();
    let allow: i32 = v1::Action::Allow.into();
    assert_eq!(
        read.defaults,
        Some(v1::Defaults {
            egress: allow,
            ingress: allow
        })
    );
    let update = |b: v1::Baseline| v1::UpdateBaselineRequest {
        baseline: Some(b),
        allow_empty: false,
    };
    let changed = v1::Baseline {
        mandatory: vec![full_rule()],
        rules: vec![rule("smtp", v1::Action::Deny, v1::Direction::Egress)],
        defaults: Some(v1::Defaults {
            egress: v1::Action::Deny.into(),
            ingress: allow,
        }),
        unmanaged: v1::Unmanaged::Deny.into(),
        etag: read.etag.clone(),
        reserved: Some(v1::Reserved {
            macs: vec!["00:00:5e:00:01:01".to_string()],
            addresses: vec!["192.0.2.1".to_string(), "2001:db8::/64".to_string()],
            dhcp: vec!["192.0.2.2".to_string()],
        }),
    };
    let made = rig
        .client
        .baseline
        .update_baseline(update(changed.clone()))
        .await
        .unwrap()
        .into_inner();
    let now = rig
        .client
        .baseline
        .get_baseline(v1::GetBaselineRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        now,
        v1::Baseline {
            etag: made.etag,
            ..changed.clone()
        }
    );
    assert_eq!(
        rig.client
            .baseline
            .update_baseline(update(changed.clone()))
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );

    // What is left out would change what holds, so nothing may be left out.
    let error = rig
        .client
        .baseline
        .update_baseline(update(v1::Baseline::default()))
        .await
        .unwrap_err();
    assert_eq!(
        fields(&error),
        [
            "baseline.defaults.egress",
            "baseline.defaults.ingress",
            "baseline.unmanaged"
        ]
    );
    let twice = v1::Baseline {
        rules: vec![full_rule(), full_rule()],
        etag: String::new(),
        ..changed
    };
    let error = rig
        .client
        .baseline
        .update_baseline(update(twice.clone()))
        .await
        .unwrap_err();
    assert_eq!(fields(&error), ["baseline.rules[1].name"]);
    let wrong = v1::Baseline {
        reserved: Some(v1::Reserved {
            macs: vec!["x".to_string()],
            addresses: vec!["0.0.0.0/33".to_string()],
            dhcp: vec!["y".to_string()],
        }),
        ..twice.clone()
    };
    let error = rig
        .client
        .baseline
        .update_baseline(update(wrong))
        .await
        .unwrap_err();
    assert_eq!(
        fields(&error),
        [
            "baseline.reserved.macs[0]",
            "baseline.reserved.addresses[0]",
            "baseline.reserved.dhcp[0]"
        ]
    );
    let twice = v1::Baseline {
        mandatory: twice.rules,
        rules: vec![],
        ..twice
    };
    let refused = rig
        .client
        .baseline
        .update_baseline(update(twice.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .starts_with("baseline would be empty, and its 1 rules"),
        "{refused:?}"
    );
    let meant = v1::UpdateBaselineRequest {
        allow_empty: true,
        ..update(twice)
    };
    let error = rig.client.baseline.update_baseline(meant).await.unwrap_err();
    assert_eq!(fields(&error), ["baseline.mandatory[1].name"]);
    assert_eq!(rig.seen().await.0, 1);
}

//! Bypasses through the API: who may, what they lift, how they end, and what is left of them.

use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::bypass_service_client::BypassServiceClient;
use tonic::Code;

use crate::api::closing::*;
use crate::api::database::*;
use crate::api::support::*;
use crate::api::unlock_rig::*;

fn api(u: &Unlocks, token: &str) -> BypassServiceClient<Line> {
    BypassServiceClient::new(with(&u.channel, token))
}

fn wanted(endpoint: &str, seconds: u64) -> v1::StartBypassRequest {
    v1::StartBypassRequest {
        endpoint: endpoint.to_string(),
        seconds,
        reason: "is it the policy?".to_string(),
    }
}

async fn start(u: &Unlocks, endpoint: &str, seconds: u64) -> v1::StartBypassResponse {
    let answer = api(u, "operator").start_bypass(wanted(endpoint, seconds)).await;
    answer.unwrap().into_inner()
}

async fn end(u: &Unlocks, endpoint: &str) -> Result<v1::EndBypassResponse, tonic::Status> {
    let request = v1::EndBypassRequest {
        endpoint: endpoint.to_string(),
    };
    Ok(api(u, "operator").end_bypass(request).await?.into_inner())
}

async fn list(u: &Unlocks) -> Vec<String> {
    let answer = api(u, "viewer").list_bypasses(v1::ListBypassesRequest {}).await;
    let bypasses = answer.unwrap().into_inner().bypasses;
    bypasses.into_iter().map(|bypass| bypass.endpoint).collect()
}

/// Entries of the audit log about bypasses.
async fn logged(u: &mut Unlocks) -> Vec<String> {
    let actions = u.actions().await;
    actions.into_iter().filter(|a| a.contains(" bypass.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_until_it_is_ended_by_hand() {
    let mut u = Unlocks::new().await;
    // Mandatory, baseline; and another endpoint.
    assert!(!u.passes("mail1", 6667) && !u.passes("mail1", 465));
    let before = u.rig.fake.newest().endpoints["mail1"].clone();
    let started = start(&u, "mail1", 600).await;
    let bypass = started.bypass.unwrap();
    assert_eq!(
        (bypass.by.as_str(), bypass.ends_at - bypass.started_at),
        ("token operator", 600)
    );
    u.until_passes("mail1", 6667, true).await;
    assert!(u.passes("mail1", 465) && !u.passes("web1", 6667));
    let intent = u.rig.fake.newest();
    let bypassed = &intent.endpoints["mail1"];
    assert_eq!(intent.generation, started.generation);
    // The switch closes it by itself, to what was before; guard, addresses and roles stay.
    assert_eq!(bypassed.transitions.len(), 1);
    let transition = bypassed.transitions[0];
    assert_eq!(transition.at, u64::try_from(bypass.ends_at).unwrap());
    assert_eq!(transition.classes, before.classes);
    let mut same = portcullis_compiler::EndpointIntent::clone(bypassed);
    same.classes = before.classes;
    same.transitions.clear();
    assert_eq!(same, *before);

    // It is shown wherever the policy is.
    assert_eq!(list(&u).await, ["mail1"]);
    let line = with(&u.channel, "viewer");
    let mut targets = v1::target_service_client::TargetServiceClient::new(line.clone());
    let status = targets.list_targets(v1::ListTargetsRequest {}).await.unwrap();
    assert_eq!(status.into_inner().bypasses, std::slice::from_ref(&bypass));
    let mut endpoints = v1::endpoint_service_client::EndpointServiceClient::new(line.clone());
    let named = v1::GetRequest {
        name: "mail1".to_string(),
    };
    let shown = endpoints.get_endpoint(named).await.unwrap().into_inner();
    assert_eq!(shown.bypass, Some(bypass.clone()));
    let question = v1::ExplainRequest {
        endpoint: "mail1".to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port: 6667,
        ..Default::default()
    };
    let mut policy = v1::policy_service_client::PolicyServiceClient::new(line);
    let told = policy.explain(question.clone()).await.unwrap().into_inner();
    assert_eq!(
        (told.tier.as_str(), told.rule.as_str(), told.reason.as_str()),
        ("bypass", "bypass/mail1", "is it the policy?")
    );
    assert_eq!(told.bypass, Some(bypass.clone()));
    // A tenant is not told who the operator is.
    let line = with(&u.channel, "tenant");
    let mut tenant = v1::policy_service_client::PolicyServiceClient::new(line);
    let told = tenant.explain(question.clone()).await.unwrap().into_inner();
    let by = "operator".to_string();
    assert_eq!(told.bypass, Some(v1::Bypass { by, ..bypass }));
    let mut planner = v1::policy_service_client::PolicyServiceClient::new(with(&u.channel, "operator"));
    let request = v1::PlanRequest {
        document: PROGRAMS.to_string(),
        ..Default::default()
    };
    let plan = planner.plan(request).await.unwrap().into_inner();
    assert!(plan.changed.is_empty() && plan.bypasses.len() == 1, "{plan:?}");

    let ended = end(&u, "mail1").await.unwrap();
    let closing = ended.closing.unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    assert!(!u.passes("mail1", 6667), "applied is what the target holds");
    assert_eq!(*u.rig.fake.newest().endpoints["mail1"], *before);
    assert_eq!(end(&u, "mail1").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        policy.explain(question).await.unwrap().into_inner().tier,
        "mandatory"
    );
    u.restart().await;
    assert!(list(&u).await.is_empty());
    assert_eq!(
        logged(&mut u).await,
        [
            "token operator bypass.start endpoints/mail1",
            "token operator bypass.end endpoints/mail1",
            "token operator bypass.end.refused endpoints/mail1",
        ]
    );
    intact(&mut u).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_may_and_what_is_wrong_is_named() {
    let mut u = Unlocks::new().await;
    for role in ["provisioner", "tenant", "viewer"] {
        let refused = api(&u, role).start_bypass(wanted("mail1", 60)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role}");
        let request = v1::EndBypassRequest {
            endpoint: "mail1".to_string(),
        };
        let refused = api(&u, role).end_bypass(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role}");
    }
    let refused = api(&u, "tenant").list_bypasses(v1::ListBypassesRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let mut operator = api(&u, "operator");
    let nothing = v1::StartBypassRequest::default();
    let status = operator.start_bypass(nothing).await.unwrap_err();
    assert_eq!(fields(&status), ["endpoint", "seconds", "reason"]);
    let status = operator.start_bypass(wanted("mail1", 3601)).await.unwrap_err();
    assert_eq!(fields(&status), ["seconds"]);
    let long = v1::StartBypassRequest {
        reason: "x".repeat(1025),
        ..wanted("mail1", 60)
    };
    assert_eq!(
        fields(&operator.start_bypass(long).await.unwrap_err()),
        ["reason"]
    );
    let missing = operator.start_bypass(wanted("gone", 60)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(list(&u).await.is_empty() && !u.passes("mail1", 6667));
    assert_eq!(
        logged(&mut u).await,
        ["token operator bypass.start.refused endpoints/gone"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_by_itself_also_across_restarts() {
    let mut u = Unlocks::new().await;
    let began = tokio::time::Instant::now();
    start(&u, "mail1", 6).await;
    start(&u, "web1", 600).await;
    let kept = api(&u, "operator")
        .list_bypasses(v1::ListBypassesRequest {})
        .await;
    let kept = kept.unwrap().into_inner().bypasses;
    u.restart().await;
    let again = api(&u, "operator")
        .list_bypasses(v1::ListBypassesRequest {})
        .await;
    let again = again.unwrap().into_inner().bypasses;
    if began.elapsed() < Duration::from_secs(5) {
        assert_eq!(again, kept, "with what is left of its time");
        u.until_passes("mail1", 6667, true).await;
    }
    u.until_passes("mail1", 6667, false).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    u.until_passes("web1", 6667, true).await;
    assert_eq!(list(&u).await, ["web1"]);
    until_store(&mut u, "stored", |s| s.waiting == 0).await;
    assert!(
        logged(&mut u)
            .await
            .contains(&"agent bypass.expire endpoints/mail1".to_string())
    );
    // The agent is not there when it ends.
    start(&u, "mail1", 2).await;
    u.rig.agent.take().unwrap().stop().await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    u.begin().await;
    u.until_passes("mail1", 6667, false).await;
    let intents = u.rig.fake.intents.lock().unwrap().clone();
    assert!(
        intents.iter().all(|intent| !passes(intent, "mail1", 6667)),
        "not even for a moment"
    );
    u.until_passes("web1", 6667, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_holds_through_it() {
    let mut u = Unlocks::new().await;
    u.good_dns();
    let unlock = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::Active]).await;
    let quarantined = v1::DecideUnlockRequest {
        quarantine: true,
        ..revoke(&unlock.id)
    };
    u.api.revoke(quarantined).await.unwrap();
    start(&u, "mail1", 600).await;
    u.until_passes("mail1", 6667, true).await;
    assert!(!u.passes("mail1", 25), "what the quarantine denies");
    // And one that comes while there is a bypass.
    let other = active(&mut u, "web1", 3600).await;
    start(&u, "web1", 600).await;
    u.until_passes("web1", 6667, true).await;
    u.api.revoke(revoke(&other.id)).await.unwrap();
    assert!(
        u.passes("web1", 465),
        "a revocation without a quarantine denies nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_endpoint_and_another_tenant() {
    let mut u = Unlocks::new().await;
    start(&u, "mail1", 600).await;
    start(&u, "web1", 600).await;
    u.apply(&PROGRAMS.replace("tenant: other", "tenant: third"))
        .await
        .unwrap();
    assert_eq!(list(&u).await, ["mail1"]);
    u.until_passes("web1", 6667, false).await;
    // A change that leaves the tenant leaves the bypass.
    u.apply(&PROGRAMS.replace("192.0.2.20", "192.0.2.21"))
        .await
        .unwrap();
    assert_eq!(list(&u).await, ["mail1"]);
    u.apply(&PROGRAMS.replace("mail1", "mail2")).await.unwrap();
    assert!(list(&u).await.is_empty());
    u.restart().await;
    assert!(list(&u).await.is_empty());
    let ended = "agent bypass.end endpoints/mail1".to_string();
    assert!(logged(&mut u).await.contains(&ended));
    intact(&mut u).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_a_start_and_holds_up_no_end() {
    let (small, folder) = Small::new(24);
    let mut u = Unlocks::inside(folder).await;
    start(&u, "mail1", 600).await;
    start(&u, "web1", 4).await;
    small.fill();
    let refused = api(&u, "operator")
        .start_bypass(wanted("web1", 600))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    let closing = end(&u, "mail1").await.unwrap().closing.unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    assert!(!u.passes("mail1", 6667));
    u.until_passes("web1", 6667, false).await;
    // Ended from the first intent on.
    u.restart().await;
    u.until_passes("mail1", 6667, false).await;
    let intents = u.rig.fake.intents.lock().unwrap().clone();
    assert!(intents.iter().all(|intent| !passes(intent, "mail1", 6667)));
    small.free();
    until_store(&mut u, "stored", |s| s.waiting == 0 && s.problem.is_empty()).await;
    u.restart().await;
    assert!(list(&u).await.is_empty());
    intact(&mut u).await;
    drop(u);
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_as_many_as_the_limits_say() {
    let mut u = Unlocks::new().await;
    u.apply(&PROGRAMS.replace("programs:", "  third: {}\nprograms:"))
        .await
        .unwrap();
    start(&u, "mail1", 600).await;
    start(&u, "web1", 600).await;
    let refused = api(&u, "operator")
        .start_bypass(wanted("third", 600))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("limits.bypasses"), "{refused:?}");
    // Another one in the place of the first is no more than there may be.
    let again = start(&u, "mail1", 900).await.bypass.unwrap();
    assert!(again.ends_at > again.started_at + 600);
    end(&u, "web1").await.unwrap();
    start(&u, "third", 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_has_none() {
    let mut u = Unlocks::new().await;
    start(&u, "mail1", 600).await;
    until_store(&mut u, "stored", |s| s.waiting == 0).await;
    let backup = u.rig.folder.path().join("backup.db");
    done(&command(
        u.rig.folder.path(),
        &["backup", backup.to_str().unwrap()],
    ));
    after(&mut u, |folder| {
        done(&command(folder, &["restore", backup.to_str().unwrap()]));
    })
    .await;
    u.until_passes("mail1", 6667, false).await;
    assert!(list(&u).await.is_empty());
    intact(&mut u).await;
}

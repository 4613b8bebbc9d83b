//! Unlocks through the API: evidence, checks against a real DNS server, approval, leases, restarts, and the audit log.

use std::time::Duration;

use portcullis_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::support::*;
use crate::api::unlock_rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn from_missing_evidence_to_open_ports_and_back() {
    let mut u = Unlocks::new().await;
    assert!(!u.passes("mail1", 25));
    let refused = u
        .api
        .request_unlock(smtp(&[("volume_per_day", "0"), ("colour", "red")]))
        .await
        .unwrap_err();
    let mut wrong = fields(&refused);
    wrong.sort();
    assert_eq!(
        wrong,
        [
            "evidence.colour",
            "evidence.consent",
            "evidence.hostname",
            "evidence.purpose",
            "evidence.volume_per_day"
        ]
    );
    // Reverse DNS does not lead anywhere yet.
    let unlock = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    assert_eq!(unlock.state(), v1::UnlockState::Checking);
    let unlock = u.until(&unlock.id, &[v1::UnlockState::Rejected]).await;
    assert!(unlock.reason.contains("check fcrdns"), "{}", unlock.reason);
    assert!(!u.passes("mail1", 25));

    u.good_dns();
    let unlock = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    let unlock = u.until(&unlock.id, &[v1::UnlockState::Active]).await;
    assert!(
        unlock
            .checks
            .iter()
            .all(|c| c.result() == v1::CheckResult::Passed),
        "{unlock:#?}"
    );
    assert_eq!(unlock.checks.len(), 2);
    assert!(!unlock.evidence.contains_key("contact"), "a secret is shown");
    u.until_passes("mail1", 25, true).await;
    assert!(!u.passes("web1", 25), "only the endpoint it was granted to");
    // One at a time.
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "PER_ENDPOINT"
    );
    // The rows revert by themselves to the class of an endpoint without it.
    let intent = u.rig.fake.newest();
    let endpoint = &intent.endpoints["mail1"];
    assert_eq!(endpoint.transitions.len(), 1);
    assert_eq!(
        endpoint.transitions[0].at,
        u64::try_from(unlock.expires_at).unwrap()
    );
    assert_eq!(
        endpoint.transitions[0].classes.egress,
        intent.endpoints["web1"].classes.egress
    );

    // A restart continues where it was.
    u.restart().await;
    assert_eq!(u.get(&unlock.id).await.state(), v1::UnlockState::Active);
    u.until_passes("mail1", 25, true).await;

    let revoke = v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: "complaints".to_string(),
        quarantine: true,
    };
    let nothing = v1::DecideUnlockRequest {
        reason: String::new(),
        ..revoke.clone()
    };
    assert_eq!(fields(&u.api.revoke(nothing).await.unwrap_err()), ["reason"]);
    let revoked = u.api.revoke(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.state(), v1::UnlockState::Revoked);
    assert!(revoked.quarantined_until > revoked.ended_at);
    u.until_passes("mail1", 25, false).await;
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert_eq!(
        refused
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "COOLING_DOWN"
    );
    assert!(refused.get_error_details().retry_info().is_some());
    u.restart().await;
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert!(refused.message().contains("revoked"), "{refused:?}");

    let actions = u.actions().await;
    let seen = |what: &str| actions.iter().any(|action| action.contains(what));
    for what in [
        "token operator policy.change generations/1",
        "token operator unlock.request.refused endpoints/mail1",
        "token operator unlock.request unlocks/",
        "agent unlock.reject unlocks/",
        "agent unlock.activate unlocks/",
        "token operator unlock.revoke unlocks/",
    ] {
        assert!(seen(what), "{what}: {actions:#?}");
    }
    let exported: Vec<v1::AuditEntry> = {
        let mut stream = u
            .audit
            .export_audit(v1::ExportAuditRequest { after: 0 })
            .await
            .unwrap()
            .into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.unwrap() {
            entries.push(entry);
        }
        entries
    };
    assert!(
        exported.iter().all(|e| !e.detail.contains("hunter2")),
        "a secret is in the audit log"
    );
    assert!(
        exported
            .windows(2)
            .all(|w| w[1].previous_hash == w[0].hash && w[1].number == w[0].number + 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_and_an_operator_decides() {
    let mut u = Unlocks::new().await;
    let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::Active, v1::UnlockState::Expiring])
        .await;
    u.until_passes("mail1", 465, true).await;
    let ended = u.until(&unlock.id, &[v1::UnlockState::Expired]).await;
    u.until_passes("mail1", 465, false).await;
    assert!(
        ended.ended_at >= ended.expires_at && ended.ended_at <= ended.expires_at + 10,
        "{ended:#?}"
    );
    // A longer lease than the program allows.
    let long = v1::RequestUnlockRequest {
        lease_seconds: 101 * 3600,
        ..game("mail1")
    };
    assert_eq!(
        fields(&u.api.request_unlock(long).await.unwrap_err()),
        ["lease_seconds"]
    );

    u.good_dns();
    let mut much = GOOD;
    much[2].1 = "2000";
    let unlock = u.api.request_unlock(smtp(&much)).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::AwaitingApproval]).await;
    assert!(!u.passes("mail1", 25));
    let decide = |reason: &str| v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: reason.to_string(),
        quarantine: false,
    };
    // A viewer may not, and nor may the tenant.
    for token in ["viewer", "tenant", "provisioner"] {
        let refused = u.as_caller(token).approve(decide("")).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{token}");
    }
    let approved = u
        .api
        .approve(decide("known customer"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(approved.state(), v1::UnlockState::Active);
    assert_eq!(approved.reason, "known customer");
    let again = u.api.approve(decide("")).await.unwrap_err();
    assert_eq!(
        again
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "WRONG_STATE"
    );
    u.until_passes("mail1", 25, true).await;
    // The tenant gives it back.
    let id = v1::UnlockRequest {
        id: unlock.id.clone(),
    };
    let released = u.as_caller("tenant").release(id).await.unwrap().into_inner();
    assert_eq!(released.state(), v1::UnlockState::Released);
    u.until_passes("mail1", 25, false).await;

    // What the program requires does not hold.
    let mut huge = GOOD;
    huge[2].1 = "9000";
    let unlock = u.api.request_unlock(smtp(&huge)).await.unwrap().into_inner();
    let rejected = u.until(&unlock.id, &[v1::UnlockState::Rejected]).await;
    assert!(rejected.reason.contains("requires"), "{}", rejected.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_reach_their_own_and_are_told_why_it_is_closed() {
    let mut u = Unlocks::new().await;
    let (mut acme, mut other) = (u.as_caller("tenant"), u.as_caller("other"));
    let denied = other.request_unlock(game("mail1")).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let nowhere = other.request_unlock(game("nowhere")).await.unwrap_err();
    assert_eq!(
        nowhere.code(),
        Code::PermissionDenied,
        "whether there is one is not told"
    );
    let unlock = acme.request_unlock(game("mail1")).await.unwrap().into_inner();
    assert_eq!(
        (unlock.tenant.as_str(), unlock.requested_by.as_str()),
        ("acme", "token tenant")
    );
    let id = || v1::UnlockRequest {
        id: unlock.id.clone(),
    };
    assert_eq!(
        other.get_unlock(id()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        other.release(id()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let listed = |answer: v1::ListUnlocksResponse| answer.unlocks.len();
    let all = v1::ListUnlocksRequest::default();
    assert_eq!(
        listed(acme.list_unlocks(all.clone()).await.unwrap().into_inner()),
        1
    );
    assert_eq!(
        listed(other.list_unlocks(all.clone()).await.unwrap().into_inner()),
        0
    );
    let foreign = v1::ListUnlocksRequest {
        tenant: "acme".to_string(),
        ..all
    };
    assert_eq!(
        other.list_unlocks(foreign).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let why = |endpoint: &str, port| v1::WhyBlockedRequest {
        endpoint: endpoint.to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port,
        remote: String::new(),
    };
    let answer = acme.why_blocked(why("mail1", 25)).await.unwrap().into_inner();
    assert!(answer.blocked);
    assert_eq!(
        (answer.rule.as_str(), answer.reason.as_str()),
        ("baseline/smtp", "against spam")
    );
    let names: Vec<&str> = answer
        .ways
        .iter()
        .map(|w| w.program.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["smtp"]);
    assert_eq!(answer.ways[0].program.as_ref().unwrap().evidence.len(), 5);
    assert_eq!(
        answer.explanation,
        "TCP port 25 from mail1 is blocked by baseline/smtp: against spam. It can be opened by a request under: smtp."
    );
    let answer = acme.why_blocked(why("mail1", 6667)).await.unwrap().into_inner();
    assert!(answer.blocked && answer.ways.is_empty());
    assert!(
        answer.explanation.contains("nothing opens it"),
        "{}",
        answer.explanation
    );
    assert!(
        !acme
            .why_blocked(why("mail1", 80))
            .await
            .unwrap()
            .into_inner()
            .blocked
    );
    assert_eq!(
        acme.why_blocked(why("web1", 25)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    // Denials are in the audit log.
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let actions = u.actions().await;
        if actions
            .iter()
            .any(|a| a.starts_with("token other unlock.request.refused endpoints/nowhere"))
        {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{actions:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

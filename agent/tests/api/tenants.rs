//! What a tenant can read of a program, and how much it can ask for.

use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::UnlockState as State;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::unlock_rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_not_told_what_a_program_requires_unless_it_says_so() {
    let mut u = Unlocks::new().await;
    let require = "invoice_paid";
    let described = async |u: &Unlocks, token: &str| {
        let request = v1::DescribeProgramRequest {
            program: "smtp".to_string(),
        };
        let answer = u.as_caller(token).describe_program(request).await.unwrap();
        answer.into_inner().programs.remove(0)
    };
    let shown = described(&u, "operator").await;
    assert!(
        shown.require.contains(require) && shown.approval.contains("1000"),
        "{shown:?}"
    );
    let shown = described(&u, "tenant").await;
    assert_eq!(
        (shown.require.as_str(), shown.approval.as_str()),
        ("", "manual_if")
    );
    assert_eq!((shown.checks.len(), shown.evidence.len()), (2, 5), "{shown:?}");
    assert_eq!(shown.evidence[2].max, Some(100_000));
    let why = v1::WhyBlockedRequest {
        endpoint: "mail1".to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port: 25,
        remote: String::new(),
    };
    let ways = u
        .as_caller("tenant")
        .why_blocked(why)
        .await
        .unwrap()
        .into_inner()
        .ways;
    assert!(
        ways.iter()
            .all(|way| way.program.as_ref().unwrap().require.is_empty())
    );

    // Nor does a refusal say it, nor what became of an unlock.
    u.good_dns();
    let mut much = GOOD;
    much[2] = ("volume_per_day", "6000");
    let asked = u
        .as_caller("tenant")
        .request_unlock(smtp(&much))
        .await
        .unwrap()
        .into_inner();
    u.until(&asked.id, &[State::Rejected]).await;
    let seen = u
        .as_caller("tenant")
        .get_unlock(id(&asked))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(seen.reason, "what the program requires does not hold");
    assert!(!format!("{seen:?}").contains("5000"), "{seen:?}");
    assert!(u.get(&asked.id).await.reason.contains("5000"));
    let granted = granted(&mut u, smtp(&GOOD)).await;
    let short = PROGRAMS.replace(
        "require: 'endpoint.labels",
        "require: 'request.lease < duration(\"1000h\") && endpoint.labels",
    );
    u.apply(&short).await.unwrap();
    let renew = v1::RenewUnlockRequest {
        id: granted.id.clone(),
        lease_seconds: 2000 * 3600,
    };
    let refused = u.as_caller("tenant").renew(renew.clone()).await.unwrap_err();
    assert_eq!(stands(&refused), "UNMET");
    assert!(!format!("{refused:?}").contains("1000h"), "{refused:?}");
    assert!(u.api.renew(renew).await.unwrap_err().message().contains("1000h"));

    // A program may say more, or less.
    u.apply(&PROGRAMS.replace("    quarantine: 24h", "    quarantine: 24h\n    disclose: full"))
        .await
        .unwrap();
    let shown = described(&u, "tenant").await;
    assert!(
        shown.require.contains(require) && shown.approval.contains("1000"),
        "{shown:?}"
    );
    let seen = u
        .as_caller("tenant")
        .get_unlock(id(&asked))
        .await
        .unwrap()
        .into_inner();
    assert!(seen.reason.contains("5000"), "{seen:?}");
    u.apply(&PROGRAMS.replace(
        "    quarantine: 24h",
        "    quarantine: 24h\n    disclose: evidence",
    ))
    .await
    .unwrap();
    let shown = described(&u, "tenant").await;
    assert!(shown.checks.is_empty() && shown.evidence.len() == 5, "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_asks_so_often_and_no_more() {
    let mut u = Unlocks::with("[limits]\ntenant_requests = 5\n").await;
    let mut acme = u.as_caller("tenant");
    let unlock = acme.request_unlock(game("mail1")).await.unwrap().into_inner();
    u.until(&unlock.id, &[State::Active, State::Expiring]).await;
    let renew = || v1::RenewUnlockRequest {
        id: unlock.id.clone(),
        lease_seconds: 0,
    };
    // Refused ones count: each is an entry of the audit log.
    for _ in 0..2 {
        assert_eq!(stands(&acme.renew(renew()).await.unwrap_err()), "NOT_RENEWABLE");
        acme.request_unlock(game("mail1")).await.unwrap();
    }
    for refused in [
        acme.request_unlock(game("mail1")).await.unwrap_err(),
        acme.renew(renew()).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let details = refused.get_error_details();
        let wait = details.retry_info().unwrap().retry_delay.unwrap();
        assert!(
            wait > Duration::from_secs(600) && wait <= Duration::from_secs(721),
            "{wait:?}"
        );
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "limits.tenant_requests"
        );
    }
    // It gives back what it likes, others ask, and an operator asks for it.
    acme.release(id(&unlock)).await.unwrap();
    u.as_caller("other").request_unlock(game("web1")).await.unwrap();
    for _ in 0..10 {
        u.api.request_unlock(game("mail1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_unlocks_and_rows() {
    let mut u = Unlocks::with("[limits]\ntenant_unlocks = 2\ntenant_rows = 12\n").await;
    let lasting = lasting();
    let many: Vec<String> = (0..20).map(|n| format!("198.51.{}.0/24", 2 * n)).collect();
    let wide = format!(
        "{lasting}  wide:\n    opens: [{{direction: egress, protocol: tcp, ports: [25], remote: [{}]}}]\n    lease: {{default: 50h}}\n    limits: {{per_endpoint: 9}}\n",
        many.join(", ")
    );
    u.apply(&wide).await.unwrap();
    let first = granted(&mut u, game("mail1")).await;
    // More rows than it may have: rejected, with the numbers, and checked no more.
    let request = v1::RequestUnlockRequest {
        program: "wide".to_string(),
        ..game("mail1")
    };
    let asked = u.api.request_unlock(request.clone()).await.unwrap().into_inner();
    let rejected = u.until(&asked.id, &[State::Rejected, State::Active]).await;
    assert_eq!(rejected.state(), State::Rejected, "{rejected:?}");
    assert!(rejected.reason.contains("limits.tenant_rows"), "{rejected:?}");
    assert!(u.passes("mail1", 465) && !u.passes("mail1", 25));
    // So is one whose approval would open it.
    let manual = wide.replace(
        "lease: {default: 50h}\n    limits: {per_endpoint: 9}",
        "approval: manual\n    lease: {default: 50h}",
    );
    u.apply(&manual).await.unwrap();
    let asked = u.api.request_unlock(request).await.unwrap().into_inner();
    u.until(&asked.id, &[State::AwaitingApproval]).await;
    let decide = v1::DecideUnlockRequest {
        id: asked.id.clone(),
        ..Default::default()
    };
    let refused = u.api.approve(decide).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // Two are under way; a third is refused, and closing one makes room.
    let refused = u.api.request_unlock(game("mail1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("limits.tenant_unlocks"), "{refused:?}");
    granted(&mut u, game("web1")).await;
    u.as_caller("tenant").release(id(&first)).await.unwrap();
    u.until_passes("mail1", 465, false).await;
    granted(&mut u, game("mail1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_what_ended_give_their_places_back() {
    let mut u = Unlocks::new().await;
    u.rig.agent.take().unwrap().stop().await.unwrap();
    // One place, and checks that take a minute.
    let slow = u.rig.more.replace(
        "timeout = \"1s\"",
        "timeout = \"30s\"\ntotal = \"60s\"\nat_once = 1",
    );
    assert_ne!(slow, u.rig.more);
    u.rig.more = slow;
    u.begin().await;
    silence(&u);
    let slow = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(300)).await;
    u.api.release(id(&slow)).await.unwrap();
    u.good_dns();
    let began = tokio::time::Instant::now();
    let next = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    u.until(&next.id, &[State::Active]).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

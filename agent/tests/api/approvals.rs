//! Approvals: what a person has to approve, and for how long an approval stands.

use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::UnlockState as State;

use crate::api::unlock_rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_judges_first_and_stands_while_nothing_else_is_opened() {
    let mut u = Unlocks::new().await;
    let manual = lasting().replace(
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]\n    approval: manual\n    require: 'endpoint.labels.invoice_paid == \"true\"'",
    );
    u.apply(&manual).await.unwrap();
    let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
    u.until(&unlock.id, &[State::AwaitingApproval]).await;
    let unpaid = manual.replace("invoice_paid: \"true\"", "invoice_paid: \"false\"");
    u.apply(&unpaid).await.unwrap();
    let decide = |reason: &str| v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: reason.to_string(),
        quarantine: false,
    };
    let refused = u.api.approve(decide("")).await.unwrap_err();
    assert_eq!(stands(&refused), "UNMET");
    assert!(refused.message().contains("invoice_paid"), "{refused:?}");
    u.apply(&manual).await.unwrap();
    u.api.approve(decide("")).await.unwrap();
    u.until_passes("mail1", 465, true).await;
    // Shorter, and by another expression: the person's word stands.
    let shorter = manual
        .replace("default: 50h, max: 100h", "default: 1h, max: 2h")
        .replace("== \"true\"'\n    lease", "!= \"no\"'\n    lease");
    u.apply(&shorter).await.unwrap();
    let now = u.get(&unlock.id).await;
    assert_eq!(now.state(), State::Active);
    assert!(now.expires_at <= now.granted_at + 2 * 3600 + 2, "{now:?}");
    u.until_passes("mail1", 465, true).await;
    // Another port: nobody approved that.
    let other = shorter.replace("ports: [465]}]\n    approval", "ports: [25]}]\n    approval");
    u.apply(&other).await.unwrap();
    let now = u.get(&unlock.id).await;
    assert_eq!(now.state(), State::AwaitingApproval, "{now:?}");
    u.until_passes("mail1", 465, false).await;
    assert!(!u.passes("mail1", 25));
    u.api.approve(decide("")).await.unwrap();
    u.until_passes("mail1", 25, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_needs_the_approval_that_the_grant_needed() {
    let mut u = Unlocks::new().await;
    let manual = lasting().replace(
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]\n    approval: manual",
    );
    u.apply(&manual).await.unwrap();
    let unlock = u
        .as_caller("tenant")
        .request_unlock(game("mail1"))
        .await
        .unwrap()
        .into_inner();
    u.until(&unlock.id, &[State::AwaitingApproval]).await;
    let decide = |reason: &str| v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: reason.to_string(),
        quarantine: false,
    };
    let granted = u.api.approve(decide("")).await.unwrap().into_inner();
    let renew = || v1::RenewUnlockRequest {
        id: unlock.id.clone(),
        lease_seconds: 100 * 3600,
    };
    let mut acme = u.as_caller("tenant");
    let asked = acme.renew(renew()).await.unwrap().into_inner();
    assert_eq!((asked.renewals, asked.expires_at), (0, granted.expires_at));
    assert!(asked.renewal_awaits_approval, "{asked:?}");
    // Who decides finds it among what waits.
    let waiting = v1::ListUnlocksRequest {
        states: vec![State::AwaitingApproval.into()],
        ..Default::default()
    };
    let found = u
        .api
        .list_unlocks(waiting.clone())
        .await
        .unwrap()
        .into_inner()
        .unlocks;
    assert_eq!(found.len(), 1);
    assert!(
        found[0].id == unlock.id && found[0].state() == State::Active && found[0].renewal_awaits_approval
    );
    u.restart().await;
    let rejected = u.api.reject(decide("not now")).await.unwrap().into_inner();
    assert_eq!(
        (rejected.state(), rejected.renewal_awaits_approval),
        (State::Active, false)
    );
    assert!(
        u.api
            .list_unlocks(waiting)
            .await
            .unwrap()
            .into_inner()
            .unlocks
            .is_empty()
    );
    assert_eq!(
        stands(&u.api.approve(decide("")).await.unwrap_err()),
        "WRONG_STATE"
    );
    u.as_caller("tenant").renew(renew()).await.unwrap();
    let renewed = u.api.approve(decide("known")).await.unwrap().into_inner();
    assert_eq!((renewed.state(), renewed.renewals), (State::Active, 1));
    assert!(renewed.expires_at > granted.expires_at + 40 * 3600, "{renewed:?}");
    // An operator's own renewal is approved.
    let renewed = u.api.renew(renew()).await.unwrap().into_inner();
    assert_eq!((renewed.renewals, renewed.renewal_awaits_approval), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_of_fresh_checks_makes_none() {
    let mut u = Unlocks::new().await;
    u.good_dns();
    let mut much = GOOD;
    much[2] = ("volume_per_day", "2000");
    let unlock = u.api.request_unlock(smtp(&much)).await.unwrap().into_inner();
    let waiting = u.until(&unlock.id, &[State::AwaitingApproval]).await;
    let decide = v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        ..Default::default()
    };
    let approved = u.api.approve(decide).await.unwrap().into_inner();
    let checked = waiting.checks.iter().map(|check| check.at).min().unwrap();
    assert!(
        (approved.recheck_at - checked - 24 * 3600).abs() <= 1,
        "{approved:?}"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    let actions = u.actions().await;
    let own = actions
        .iter()
        .filter(|action| action.ends_with(unlock.id.as_str()));
    let own: Vec<&str> = own
        .map(|action| action.split(' ').nth(2).unwrap_or_default())
        .collect();
    assert!(!own.contains(&"unlock.check"), "{actions:?}");
}

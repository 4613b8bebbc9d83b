//! A grant depends on its inputs: tenants who try to keep, move or widen one, at the API socket.

use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::UnlockState as State;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_testbed::dns::Zone;
use tonic::Code;

use crate::api::unlock_rig::*;

/// How soon a grant has to end whose label says no.
const SOON: Duration = Duration::from_secs(1);

/// Waits until the endpoint's policy lets TCP port 25 out from an address, or does not.
async fn until_local(u: &Unlocks, local: &str, wanted: bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while passes_from(&u.rig.fake.newest(), "mail1", 25, local) != wanted {
        assert!(
            tokio::time::Instant::now() < end,
            "port 25 from {local} is not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_to_another_tenant_takes_no_grant_along() {
    let mut u = Unlocks::new().await;
    u.apply(&lasting()).await.unwrap();
    let unlock = granted(&mut u, game("mail1")).await;
    u.until_passes("mail1", 465, true).await;
    assert_eq!(listed(&u, "tenant").await.len(), 1);

    // Orchestration gives the server to somebody else, with other addresses.
    let mut endpoints = EndpointServiceClient::new(with(&u.channel, "provisioner"));
    let endpoint = endpoints
        .get_endpoint(v1::GetRequest { name: "mail1".into() })
        .await;
    let mut endpoint = endpoint.unwrap().into_inner();
    endpoint.labels.insert("tenant".into(), "other".into());
    endpoint.addresses = vec!["192.0.2.99".into()];
    endpoint.etag = String::new();
    let provision = v1::ProvisionRequest {
        endpoint: Some(endpoint),
    };
    endpoints.provision(provision).await.unwrap();
    u.until_passes("mail1", 465, false).await;
    let ended = u.get(&unlock.id).await;
    assert_eq!(ended.state(), State::Revoked);
    assert!(ended.reason.contains("another tenant"), "{ended:?}");

    // The old tenant reaches nothing of it any more.
    let mut acme = u.as_caller("tenant");
    assert!(listed(&u, "tenant").await.is_empty());
    let renew = v1::RenewUnlockRequest {
        id: unlock.id.clone(),
        lease_seconds: 0,
    };
    assert_eq!(
        acme.renew(renew).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        acme.get_unlock(id(&unlock)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        acme.release(id(&unlock)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        acme.request_unlock(game("mail1")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    // The new one sees what became of its endpoint, and nothing of what the old one said.
    let seen = listed(&u, "other").await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].state(), State::Revoked);
    assert!(seen[0].evidence.is_empty() && seen[0].requested_by.is_empty() && seen[0].tenant.is_empty());
    u.restart().await;
    assert!(listed(&u, "tenant").await.is_empty());
    u.until_passes("mail1", 465, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_an_endpoint_begins_with_its_tenant() {
    let mut u = Unlocks::new().await;
    let old = lasting().replace(
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]\n    require: 'endpoint.age >= duration(\"3s\")'",
    );
    u.apply(&old).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let unlock = granted(&mut u, game("mail1")).await;
    u.api.release(id(&unlock)).await.unwrap();
    u.apply(&old.replace("tenant: acme", "tenant: other"))
        .await
        .unwrap();
    for restarts in [false, true] {
        if restarts {
            u.restart().await;
        }
        let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
        let rejected = u.until(&unlock.id, &[State::Rejected, State::Active]).await;
        assert_eq!(rejected.state(), State::Rejected, "{rejected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_stays_closed_until_it_is_checked() {
    let mut u = Unlocks::new().await;
    u.good_dns();
    let unlock = granted(&mut u, smtp(&GOOD)).await;
    u.until_passes("mail1", 25, true).await;
    // Its address becomes one that reverse DNS says nothing of; checks of it do not come to an end.
    silence(&u);
    let moved = PROGRAMS.replace("addresses: [192.0.2.20]", "addresses: [192.0.2.21]");
    u.apply(&moved).await.unwrap();
    u.until_passes("mail1", 25, false).await;
    assert!(u.get(&unlock.id).await.state == i32::from(State::Active));
    // Back at the old one it is what it was.
    u.apply(PROGRAMS).await.unwrap();
    u.until_passes("mail1", 25, true).await;
    // An address more: the old one stays open.
    let both = PROGRAMS.replace("addresses: [192.0.2.20]", "addresses: [192.0.2.20, 192.0.2.21]");
    u.apply(&both).await.unwrap();
    until_local(&u, "192.0.2.21", false).await;
    until_local(&u, "192.0.2.20", true).await;
    let now = u.get(&unlock.id).await;
    assert!(
        now.opens.iter().all(|rule| rule.local == ["192.0.2.20"]),
        "{now:?}"
    );
    // Checked, it is open for both.
    let zone = ["192.0.2.20", "192.0.2.21"]
        .iter()
        .fold(Zone::new(), |zone, address| {
            let address = address.parse().unwrap();
            zone.ptr(address, "mail.example.com")
                .address("mail.example.com", address)
        });
    let spf = "v=spf1 ip4:192.0.2.20/31 -all";
    u.dns.replace(zone.txt("mail.example.com", &[spf]));
    u.apply(&both.replace("02:00:00:00:00:02", "02:00:00:00:00:0a"))
        .await
        .unwrap();
    until_local(&u, "192.0.2.21", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_says_no_ends_the_grant_in_its_commit() {
    let mut u = Unlocks::new().await;
    let unchecked = lasting().replace(
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]\n    require: 'endpoint.labels.invoice_paid == \"true\"'",
    );
    u.apply(&unchecked).await.unwrap();
    u.good_dns();
    let checked = granted(&mut u, smtp(&GOOD)).await;
    let plain = granted(&mut u, game("mail1")).await;
    u.until_passes("mail1", 25, true).await;
    // Nobody's DNS puts that off.
    silence(&u);
    let unpaid = unchecked.replace("invoice_paid: \"true\"", "invoice_paid: \"false\"");
    let mut policy = PolicyServiceClient::new(with(&u.channel, "operator"));
    let plan = v1::PlanRequest {
        document: unpaid.clone(),
        ..Default::default()
    };
    let closes = policy.plan(plan).await.unwrap().into_inner().closes;
    let mut named: Vec<&str> = closes.iter().map(|closed| closed.id.as_str()).collect();
    let mut both = [checked.id.as_str(), plain.id.as_str()];
    named.sort_unstable();
    both.sort_unstable();
    assert_eq!(named, both, "{closes:?}");
    assert!(
        closes
            .iter()
            .all(|c| c.state == "revoked" && c.reason.contains("invoice_paid"))
    );
    assert_eq!(
        u.get(&plain.id).await.state(),
        State::Active,
        "a plan changes nothing"
    );

    u.apply(&unpaid).await.unwrap();
    let end = tokio::time::Instant::now() + SOON;
    while u.passes("mail1", 25) || u.passes("mail1", 465) {
        assert!(tokio::time::Instant::now() < end, "still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for unlock in [&checked, &plain] {
        let ended = u.get(&unlock.id).await;
        assert_eq!(ended.state(), State::Revoked);
        assert!(ended.reason.contains("invoice_paid"), "{ended:?}");
    }
    // It is nobody's failure: who pays may ask again at once.
    u.apply(&unchecked).await.unwrap();
    granted(&mut u, game("mail1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_back_or_coming_back_avoids_no_revocation() {
    let mut u = Unlocks::new().await;
    let strict = lasting().replace(
        "limits: {per_endpoint: 1000}",
        "limits: {per_endpoint: 1000, cooldown_after_revoke: [1h]}\n    quarantine: 24h",
    );
    u.apply(&strict).await.unwrap();
    let unlock = granted(&mut u, game("mail1")).await;
    u.until_passes("mail1", 465, true).await;
    // The tenant hears of the complaint first, gives it back, and asks again.
    let released = u
        .as_caller("tenant")
        .release(id(&unlock))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(released.state(), State::Released);
    let next = granted(&mut u, game("mail1")).await;
    let revoke = v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: "complaints".to_string(),
        quarantine: true,
    };
    let revoked = u.api.revoke(revoke.clone()).await.unwrap().into_inner();
    assert_eq!(revoked.state(), State::Revoked);
    assert_eq!(revoked.ended_at, released.ended_at);
    assert!(revoked.quarantined_until > revoked.ended_at);
    assert_eq!(u.get(&next.id).await.state(), State::Revoked);
    u.until_passes("mail1", 465, false).await;
    assert_eq!(
        stands(&u.api.request_unlock(game("mail1")).await.unwrap_err()),
        "COOLING_DOWN"
    );

    // Deleted and created again, under its name or another, it is where it was; so it is after a restart.
    let without = strict.replace("  mail1:\n", "  mail2:\n");
    for restarts in [false, true] {
        u.apply(&without).await.unwrap();
        let refused = u.api.request_unlock(game("mail2")).await.unwrap_err();
        assert_eq!(stands(&refused), "COOLING_DOWN");
        assert!(refused.message().contains("tenant `acme`"), "{refused:?}");
        u.apply(&strict).await.unwrap();
        if restarts {
            u.restart().await;
        }
        let refused = u.api.request_unlock(game("mail1")).await.unwrap_err();
        assert_eq!(stands(&refused), "COOLING_DOWN");
        let quarantined = u.get(&unlock.id).await.quarantined_until;
        assert_eq!(quarantined, revoked.quarantined_until);
    }
    // Another tenant that gets the server is not punished.
    u.apply(&strict.replace("tenant: acme", "tenant: other"))
        .await
        .unwrap();
    granted(&mut u, game("mail1")).await;
    u.until_passes("mail1", 465, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_no_check_reaches_stays_closed() {
    let mut u = Unlocks::new().await;
    let wide = PROGRAMS.replace(
        "addresses: [192.0.2.20]",
        "addresses: [192.0.2.20, \"2001:db8:7::/64\"]",
    );
    u.apply(&wide).await.unwrap();
    u.good_dns();
    // IPv4 passes every check, and IPv6 none is made of.
    let unlock = granted(&mut u, smtp(&GOOD)).await;
    assert!(
        unlock.opens.iter().all(|rule| rule.local == ["192.0.2.20"]),
        "{unlock:?}"
    );
    until_local(&u, "192.0.2.20", true).await;
    let intent = u.rig.fake.newest();
    let class = &intent.classes[&intent.endpoints["mail1"].classes.egress];
    let opened = class
        .policy
        .entries
        .iter()
        .filter(|entry| entry.tier == portcullis_policy::Tier::Unlock);
    let local = opened.flat_map(|entry| entry.matcher.local.iter().map(ToString::to_string));
    assert_eq!(
        local.collect::<std::collections::BTreeSet<_>>(),
        ["192.0.2.20/32".to_string()].into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_check_can_be_about_is_said_and_opened_only_by_the_program() {
    let mut u = Unlocks::new().await;
    let wide = PROGRAMS.replace(
        "addresses: [192.0.2.20]",
        "addresses: [192.0.2.20, \"2001:db8:7::/64\"]",
    );
    let applied = u.apply(&wide).await.unwrap();
    assert!(
        !applied
            .findings
            .iter()
            .any(|finding| finding.at == "programs/smtp")
    );
    u.good_dns();
    let unlock = granted(&mut u, smtp(&GOOD)).await;
    let note =
        "2001:db8:7::/64 stays closed: a prefix has too many addresses to be checked (`scope: checked`)";
    assert_eq!(unlock.notes, [note]);
    // The operator wants it open, too: what that means is said before it is done.
    let all = wide.replace("    quarantine: 24h", "    quarantine: 24h\n    scope: all");
    let plan = v1::PlanRequest {
        document: all.clone(),
        ..Default::default()
    };
    let mut policy = PolicyServiceClient::new(with(&u.channel, "operator"));
    let planned = policy.plan(plan).await.unwrap().into_inner();
    let found = planned
        .findings
        .iter()
        .find(|found| found.at == "programs/smtp")
        .unwrap();
    assert_eq!(found.kind, "opens_unchecked");
    assert!(found.text.contains("(now: mail1)"), "{found:?}");
    u.apply(&all).await.unwrap();
    until_local(&u, "2001:db8:7::1", true).await;
    assert!(u.get(&unlock.id).await.notes.is_empty());
    u.apply(&wide).await.unwrap();
    until_local(&u, "2001:db8:7::1", false).await;
    until_local(&u, "192.0.2.20", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_required_alone_is_judged_again_in_time() {
    let mut u = Unlocks::new().await;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = since.unwrap().as_secs() + 8;
    let until = lasting().replace(
        "opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        &format!("opens: [{{direction: egress, protocol: tcp, ports: [465]}}]\n    require: 'now < timestamp({age})'"),
    );
    let often = until.replace(
        "renewable: true}\n    limits",
        "renewable: true, recheck_every: 1s}\n    limits",
    );
    assert_ne!(often, until);
    u.apply(&often).await.unwrap();
    let unlock = granted(&mut u, game("mail1")).await;
    u.until_passes("mail1", 465, true).await;
    let ended = u.until(&unlock.id, &[State::Revoked]).await;
    assert!(ended.reason.contains("timestamp"), "{ended:?}");
    u.until_passes("mail1", 465, false).await;
}

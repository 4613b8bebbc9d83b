//! Datapaths, and waiting for them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use tonic::Code;

use crate::api::support::*;

fn wait(generation: u64, timeout_ms: u32) -> v1::WaitRealizedRequest {
    v1::WaitRealizedRequest {
        generation,
        timeout_ms,
    }
}

#[tokio::test]
async fn targets_tell_how_they_stand() {
    let mut rig = Rig::with_document().await;
    rig.client.targets.wait_realized(wait(0, 0)).await.unwrap();
    let list = rig
        .client
        .targets
        .list_targets(v1::ListTargetsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.generation, 1);
    let [target] = list.targets.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(
        (target.name.as_str(), target.kind.as_str(), target.state.as_str()),
        ("fake", "fake", "InSync")
    );
    assert_eq!(
        (
            target.generation_wanted,
            target.generation_applied,
            target.rows_added
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn waiting_ends_when_the_target_holds_it() {
    let mut rig = Rig::with_document().await;
    rig.fake.held.store(true, Ordering::Relaxed);
    let made = rig.client.provision(endpoint("a", 1)).await.unwrap();
    let late = rig
        .client
        .targets
        .wait_realized(wait(made.generation, 100))
        .await
        .unwrap()
        .into_inner();
    assert!(!late.realized && late.generation == made.generation);
    assert_eq!(
        (
            late.targets[0].generation_wanted,
            late.targets[0].generation_applied
        ),
        (2, 1)
    );
    // The generation before is held.
    assert!(
        rig.client
            .targets
            .wait_realized(wait(1, 100))
            .await
            .unwrap()
            .into_inner()
            .realized
    );

    let mut waiter = rig.client.clone();
    let waiting = tokio::spawn(async move { waiter.targets.wait_realized(wait(0, 20_000)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    rig.fake.held.store(false, Ordering::Relaxed);
    rig.fake.wake.notify_one();
    assert!(waiting.await.unwrap().unwrap().into_inner().realized);
}

#[tokio::test]
async fn waiting_for_what_cannot_be_is_refused() {
    let mut rig = Rig::with_document().await;
    let future = rig.client.targets.wait_realized(wait(7, 0)).await.unwrap_err();
    assert_eq!(future.code(), Code::OutOfRange);
    assert!(
        future.message().contains("the newest generation is 1"),
        "{}",
        future.message()
    );
    let long = rig
        .client
        .targets
        .wait_realized(wait(0, 600_001))
        .await
        .unwrap_err();
    assert_eq!(fields(&long), ["timeout_ms"]);
}

#[tokio::test]
async fn a_stopping_agent_keeps_nobody_waiting() {
    let mut rig = Rig::with_document().await;
    rig.fake.held.store(true, Ordering::Relaxed);
    rig.client.provision(endpoint("a", 1)).await.unwrap();
    let mut waiter = rig.client.clone();
    let waiting = tokio::spawn(async move { waiter.targets.wait_realized(wait(0, 600_000)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    rig.agent.take().unwrap().stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn offload_is_listed_for_all_or_one() {
    let mut rig = Rig::with_document().await;
    rig.client.targets.wait_realized(wait(0, 0)).await.unwrap();
    let ask = |endpoint: &str| v1::ListOffloadRequest {
        endpoint: endpoint.to_string(),
    };
    let all = rig.client.targets.list_offload(ask("")).await.unwrap();
    let all = all.into_inner();
    let flows = Some(v1::Carried {
        hardware: 2,
        software: 1,
        ..v1::Carried::default()
    });
    let [rule] = all.rules.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(
        (rule.target.as_str(), rule.rule.as_str()),
        ("fake", "default/ingress")
    );
    assert_eq!(
        (rule.flows, rule.packets, rule.endpoint_count),
        (flows, flows, 20)
    );
    let [target] = all.targets.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!((target.is_on, target.flows), (true, flows));
    assert_eq!(target.unknown[0].flows, 4);
    for (endpoint, rules) in [("web1", 1), ("mail1", 0)] {
        let one = rig.client.targets.list_offload(ask(endpoint)).await.unwrap();
        assert_eq!(one.into_inner().rules.len(), rules, "{endpoint}");
    }
    let none = rig.client.targets.list_offload(ask("none")).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    rig.fake.deaf.store(true, Ordering::Relaxed);
    let deaf = rig
        .client
        .targets
        .list_offload(ask(""))
        .await
        .unwrap()
        .into_inner();
    assert!(deaf.rules.is_empty() && deaf.targets.is_empty(), "{deaf:?}");
    assert!(deaf.unavailable[0].why.contains("Disconnected"), "{deaf:?}");
}

#[tokio::test]
async fn checks_are_of_the_status_and_of_the_settings() {
    let mut rig = Rig::with_document().await;
    rig.client.targets.wait_realized(wait(0, 0)).await.unwrap();
    let mut listed = async || {
        let checks = rig
            .client
            .targets
            .list_target_checks(v1::ListTargetChecksRequest {})
            .await;
        let checks = checks.unwrap().into_inner().checks;
        assert!(checks.iter().all(|check| check.target == "fake"), "{checks:?}");
        checks
    };
    let result = |checks: &[v1::TargetCheck], name: &str| {
        checks
            .iter()
            .find(|c| c.name == name)
            .map(v1::TargetCheck::result)
    };
    let checks = listed().await;
    assert_eq!(
        result(&checks, "session"),
        Some(v1::TargetCheckResult::Fine),
        "{checks:?}"
    );
    let offload = checks.iter().find(|c| c.name == "offload").unwrap();
    assert_eq!(offload.result(), v1::TargetCheckResult::CostsSpeed);
    assert!(offload.remedy.contains("hw-offload=true"), "{offload:?}");
    rig.fake.deaf.store(true, Ordering::Relaxed);
    let checks = listed().await;
    assert_eq!(
        result(&checks, "settings"),
        Some(v1::TargetCheckResult::Unknown),
        "{checks:?}"
    );
}

#[tokio::test]
async fn hits_are_told_for_all_or_one() {
    let mut rig = Rig::with_document().await;
    rig.client.targets.wait_realized(wait(0, 0)).await.unwrap();
    let ask = |endpoint: &str| v1::ListHitsRequest {
        endpoint: endpoint.to_string(),
    };
    let all = rig.client.targets.list_hits(ask("")).await.unwrap().into_inner();
    let [hit] = all.hits.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(
        (hit.target.as_str(), hit.rule.as_str(), hit.packets),
        ("fake", "default/ingress", 5)
    );
    assert_eq!((hit.endpoints.len(), hit.endpoint_count), (16, 20));
    assert_eq!(
        rig.client
            .targets
            .list_hits(ask("web1"))
            .await
            .unwrap()
            .into_inner()
            .hits,
        all.hits
    );
    assert!(
        rig.client
            .targets
            .list_hits(ask("mail1"))
            .await
            .unwrap()
            .into_inner()
            .hits
            .is_empty()
    );
    assert_eq!(
        rig.client
            .targets
            .list_hits(ask("none"))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    rig.fake.deaf.store(true, Ordering::Relaxed);
    let none = rig.client.targets.list_hits(ask("")).await.unwrap().into_inner();
    assert!(
        none.hits.is_empty() && none.unavailable[0].why.contains("Disconnected"),
        "{none:?}"
    );
}

#[tokio::test]
async fn a_target_that_ends_ends_the_agent() {
    let mut rig = Rig::with_document().await;
    rig.fake.end.notify_one();
    let failure = tokio::time::timeout(Duration::from_secs(5), rig.agent.as_mut().unwrap().failed())
        .await
        .unwrap();
    assert_eq!(failure.to_string(), "target fake exited unexpectedly");
    rig.agent.take().unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_target_that_does_not_end_is_cut_off() {
    let mut rig = Rig::with_document().await;
    rig.fake.stubborn.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let error = rig.agent.take().unwrap().stop().await.unwrap_err();
    assert_eq!(error.to_string(), "cut off while stopping: target fake");
    assert!(began.elapsed() < Duration::from_secs(10));
    // The store was closed nevertheless.
    assert!(!rig.folder.path().join("p.db-wal").exists());
}

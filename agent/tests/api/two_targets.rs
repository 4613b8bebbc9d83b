//! One agent and two datapaths: each receives what is for it, and none waits for the other.

use std::time::Duration;

use portcullis_testbed::p4::P4Server;

use crate::api::pair::*;

/// `web1` is at a port of both switches, `mail1` at one of the second.
const BOTH: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1:
    attachments: [{port: 1, target: tor}, {port: 7, target: leaf}]
    source_guard: false
  mail1:
    attachments: [{port: 8, target: leaf}]
    source_guard: false
"#;

#[tokio::test]
async fn an_endpoint_at_two_switches_is_enforced_on_both() {
    let (tor, leaf) = (P4Server::start().await.unwrap(), P4Server::start().await.unwrap());
    let mut two = Two::start(&[p4runtime("tor", &tor), p4runtime("leaf", &leaf)].concat()).await;
    assert_eq!(two.client.apply(BOTH).await.unwrap().generation, 1);
    two.realized(1).await;
    for (server, port) in [(&tor, 1), (&leaf, 7), (&leaf, 8)] {
        assert_eq!(passes(server, port, 25), Some(false), "{port}");
        assert_eq!(passes(server, port, 80), Some(true), "{port}");
    }
    // What is only at the other switch is nobody here.
    assert_eq!((passes(&tor, 7, 80), passes(&tor, 8, 80)), (None, None));
    assert_eq!(passes(&leaf, 1, 80), None);
    let status = two.status().await;
    let told = |name: &str| {
        let target = &status[name];
        let generations = (target.generation_wanted, target.generation_applied);
        (target.state.as_str(), generations, target.endpoints_realized)
    };
    assert_eq!(told("tor"), ("InSync", (1, 1), 1));
    assert_eq!(told("leaf"), ("InSync", (1, 1), 2));
    for target in status.values() {
        assert_eq!(target.kind, "p4runtime");
        assert!(target.rows_added > 0 && target.pending.is_empty(), "{target:#?}");
    }
    // One endpoint's change reaches both; the endpoint beside it keeps its policy.
    let generation = two.web(Some(80)).await;
    two.realized(generation).await;
    assert_eq!(
        (passes(&tor, 1, 80), passes(&leaf, 7, 80), passes(&leaf, 8, 80)),
        (Some(false), Some(false), Some(true))
    );
    two.agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_switch_that_is_away_keeps_no_other_from_being_realized() {
    let tor = P4Server::start().await.unwrap();
    let mut leaf = P4Server::start().await.unwrap();
    let mut two = Two::start(&[p4runtime("tor", &tor), p4runtime("leaf", &leaf)].concat()).await;
    two.client.apply(BOTH).await.unwrap();
    two.realized(1).await;
    leaf.stop().await;
    two.until("leaf", "lost", |t| t.state == "Disconnected").await;
    let generation = two.web(Some(80)).await;
    two.until("tor", "realized", |t| {
        t.generation_applied == generation && t.state == "InSync"
    })
    .await;
    assert_eq!(passes(&tor, 1, 80), Some(false));
    // Whoever waits for all of them is told which one is not there, and why.
    let late = two.wait(generation, 100).await;
    assert!(!late.realized);
    let leaf_told = late.targets.iter().find(|t| t.name == "leaf").unwrap();
    assert!(leaf_told.generation_applied < generation, "{leaf_told:#?}");
    assert!(
        !leaf_told.detail.is_empty() && leaf_told.disconnects > 0,
        "{leaf_told:#?}"
    );
    // It comes back empty, and is given the newest policy.
    leaf.restart(Duration::ZERO).await.unwrap();
    two.realized(generation).await;
    two.until("leaf", "in sync", |t| t.state == "InSync").await;
    assert_eq!(
        (passes(&leaf, 7, 80), passes(&leaf, 8, 80), passes(&leaf, 8, 25)),
        (Some(false), Some(true), Some(false))
    );
    two.agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_switch_that_was_never_there_is_waited_for_by_nobody_else() {
    let tor = P4Server::start().await.unwrap();
    let mut leaf = P4Server::start().await.unwrap();
    leaf.stop().await;
    let mut two = Two::start(&[p4runtime("tor", &tor), p4runtime("leaf", &leaf)].concat()).await;
    two.client.apply(BOTH).await.unwrap();
    two.until("tor", "realized", |t| {
        t.generation_applied == 1 && t.state == "InSync"
    })
    .await;
    assert_eq!(
        (passes(&tor, 1, 25), passes(&tor, 1, 80)),
        (Some(false), Some(true))
    );
    let status = two.status().await;
    let leaf_told = &status["leaf"];
    assert_eq!(
        (leaf_told.state.as_str(), leaf_told.generation_applied),
        ("Disconnected", 0)
    );
    assert!(leaf_told.detail.contains(&leaf.address()), "{}", leaf_told.detail);
    leaf.restart(Duration::ZERO).await.unwrap();
    two.realized(1).await;
    assert_eq!(passes(&leaf, 8, 25), Some(false));
    two.agent.stop().await.unwrap();
}

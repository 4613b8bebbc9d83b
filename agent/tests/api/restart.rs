//! What a restart keeps: everything.

use std::collections::BTreeMap;

use portcullis_compiler::{ClassId, Intent};
use portcullis_proto::v1;

use crate::support::*;

/// Generation, fingerprints of the classes, classes of the endpoints.
type Essence = (u64, BTreeMap<ClassId, String>, Vec<(String, ClassId, ClassId)>);

fn essence(intent: &Intent) -> Essence {
    let classes = intent
        .classes
        .values()
        .map(|c| (c.id, format!("{:?}", c.fingerprint)))
        .collect();
    let endpoints = intent
        .endpoints
        .values()
        .map(|e| (e.name.to_string(), e.egress, e.ingress))
        .collect();
    (intent.generation, classes, endpoints)
}

#[tokio::test]
async fn state_generation_and_class_ids_stay() {
    let mut rig = Rig::with_document().await;
    // Class ids that are not simply counted up again: classes come and go.
    for port in 1..6 {
        let mut e = endpoint("own", 9);
        e.rules = vec![v1::Rule {
            ports: vec![port.to_string()],
            ..rule("r", v1::Action::Deny, v1::Direction::Egress)
        }];
        rig.client.provision(e).await.unwrap();
    }
    let before = essence(&rig.fake.newest());
    let document = rig.client.document().await;
    let web1 = rig.client.endpoint("web1").await.unwrap();
    let baseline = rig
        .client
        .baseline
        .get_baseline(v1::GetBaselineRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        before.1.keys().next_back().unwrap().0 > before.1.len() as u32,
        "{:?}",
        before.1
    );

    rig.restart().await;
    let after = {
        let intents = rig.fake.intents.lock().unwrap();
        assert_eq!(intents.len(), 1);
        essence(&intents[0])
    };
    assert_eq!(after, before);
    assert_eq!(rig.client.document().await, document);
    assert_eq!(rig.client.endpoint("web1").await.unwrap(), web1);
    assert_eq!(
        rig.client
            .baseline
            .get_baseline(v1::GetBaselineRequest {})
            .await
            .unwrap()
            .into_inner(),
        baseline
    );

    // A class that is new gets an id that was never used.
    let mut e = endpoint("own", 9);
    e.rules = vec![v1::Rule {
        ports: vec!["1".to_string()],
        ..rule("r", v1::Action::Deny, v1::Direction::Egress)
    }];
    rig.client.provision(e).await.unwrap();
    let newest = rig.fake.newest().classes.keys().next_back().copied().unwrap();
    assert!(newest > *before.1.keys().next_back().unwrap());
}

#[tokio::test]
async fn without_a_policy_targets_are_left_alone() {
    let mut rig = Rig::new().await;
    assert!(rig.fake.intents.lock().unwrap().is_empty());
    rig.restart().await;
    assert!(rig.fake.intents.lock().unwrap().is_empty());
    assert_eq!(rig.client.document().await.generation, 0);
}

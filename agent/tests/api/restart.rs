//! What a restart keeps: everything.

use std::collections::BTreeMap;

use portcullis::store::Store;
use portcullis_compiler::{ClassId, Intent};
use portcullis_policy::PerDirection;
use portcullis_proto::v1;

use crate::api::support::*;

/// Generation, fingerprints of the classes, classes of the endpoints.
type Essence = (
    u64,
    BTreeMap<ClassId, String>,
    Vec<(String, PerDirection<ClassId>)>,
);

fn essence(intent: &Intent) -> Essence {
    let classes = intent
        .classes
        .values()
        .map(|c| (c.id, format!("{:?}", c.fingerprint)))
        .collect();
    let endpoints = intent
        .endpoints
        .values()
        .map(|e| (e.name.to_string(), e.classes))
        .collect();
    (intent.generation, classes, endpoints)
}

/// An endpoint with a class that nobody else has. Another prefix is another class: it is not edited in place.
fn with_own_class(n: u8) -> v1::Endpoint {
    let mut e = endpoint("own", 9);
    e.rules = vec![v1::Rule {
        remote: vec![format!("203.0.113.{n}")],
        ..rule("r", v1::Action::Deny, v1::Direction::Egress)
    }];
    e
}

#[tokio::test]
async fn state_generation_and_class_ids_stay() {
    let mut rig = Rig::with_document().await;
    // Class ids that are not simply counted up again: classes come and go.
    for n in 1..6 {
        rig.client.provision(with_own_class(n)).await.unwrap();
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

/// What the store holds of ids that are out of use; the agent is stopped for it and started again.
async fn released(rig: &mut Rig) -> Vec<(ClassId, u64)> {
    rig.agent.take().unwrap().stop().await.unwrap();
    let released = {
        let (_store, loaded) = Store::open(&rig.folder.path().join("p.db")).unwrap();
        loaded.released
    };
    rig.fake = std::sync::Arc::default();
    rig.agent = Some(start(rig.folder.path(), &rig.more, &rig.fake).await.unwrap());
    rig.client = Client::unix(&rig.folder.path().join("agent.sock")).await;
    released
}

/// The class of that endpoint in a generation that the target is about to be given.
async fn own(rig: &Rig, generation: u64) -> ClassId {
    for _ in 0..500 {
        let newest = rig.fake.intents.lock().unwrap().last().cloned();
        if let Some(intent) = newest.filter(|intent| intent.generation == generation) {
            return intent.endpoints["own"].classes.egress;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no intent of generation {generation}");
}

#[tokio::test]
async fn ids_out_of_use_are_kept_until_every_target_follows() {
    let mut rig = Rig::with_document().await;
    rig.client.provision(with_own_class(1)).await.unwrap();
    let first = own(&rig, 2).await;
    // The target takes up nothing: it may still have rows of every class there was.
    rig.fake.held.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.client.provision(with_own_class(2)).await.unwrap();
    let second = own(&rig, 3).await;
    rig.client.provision(with_own_class(3)).await.unwrap();
    assert_eq!(released(&mut rig).await, [(first, 3), (second, 4)]);
    // After the start it follows what there is, and the next change finds that out.
    rig.client
        .targets
        .wait_realized(v1::WaitRealizedRequest::default())
        .await
        .unwrap();
    let third = own(&rig, 4).await;
    rig.client.provision(with_own_class(4)).await.unwrap();
    assert!(own(&rig, 5).await > third);
    assert_eq!(released(&mut rig).await, [(third, 5)]);
}

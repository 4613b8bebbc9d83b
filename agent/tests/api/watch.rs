//! The stream of changes.

use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::event::Event;
use tonic::{Code, Streaming};

use crate::api::support::*;

async fn watch(
    rig: &Rig,
    after_generation: u64,
    from_now: bool,
) -> Result<Streaming<v1::Event>, tonic::Status> {
    let request = v1::WatchRequest {
        after_generation,
        from_now,
    };
    Ok(rig.client.clone().targets.watch(request).await?.into_inner())
}

/// The next generations, up to one.
async fn generations(stream: &mut Streaming<v1::Event>, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last().copied().unwrap_or(0) < last {
        let event = tokio::time::timeout(Duration::from_secs(20), stream.message())
            .await
            .expect("an event");
        let event = event.unwrap().expect("not the end");
        match event.event.unwrap() {
            Event::Committed(_) => seen.push(event.generation),
            // No target holds what was not told.
            Event::Target(t) => assert!(t.generation_applied <= event.generation, "{t:?}"),
        }
    }
    seen
}

#[tokio::test]
async fn nothing_is_missed_or_repeated() {
    let mut rig = Rig::new().await;
    let mut from_start = watch(&rig, 0, false).await.unwrap();
    let changes = {
        let mut client = rig.client.clone();
        tokio::spawn(async move {
            for i in 0..200u8 {
                client.provision(endpoint("e", i)).await.unwrap();
            }
        })
    };
    // Joined, left and resumed at any point, while changes go on.
    let mut at = 0;
    while at < 200 {
        let mut stream = watch(&rig, at, false).await.unwrap();
        let upto = (at + 37).min(200);
        assert_eq!(
            generations(&mut stream, upto).await,
            (at + 1..=upto).collect::<Vec<_>>()
        );
        at = upto;
    }
    changes.await.unwrap();
    assert_eq!(
        generations(&mut from_start, 200).await,
        (1..=200).collect::<Vec<_>>()
    );
    // From the store, after a restart.
    rig.restart().await;
    let mut stream = watch(&rig, 0, false).await.unwrap();
    assert_eq!(generations(&mut stream, 200).await, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_generation_tells_what_changed_and_who_did_it() {
    let rig = Rig::with_document().await;
    let mut stream = watch(&rig, 0, false).await.unwrap();
    let event = stream.message().await.unwrap().unwrap();
    let Some(Event::Committed(committed)) = event.event else {
        panic!("{event:?}")
    };
    let told: Vec<String> = committed
        .changes
        .iter()
        .map(|c| format!("{} {}", c.change, c.resource))
        .collect();
    assert_eq!(
        told,
        [
            "changed baseline",
            "created profiles/web",
            "created endpoints/mail1",
            "created endpoints/web1"
        ]
    );
    assert!(
        committed.by.starts_with("uid ") && committed.at > 1_600_000_000,
        "{committed:?}"
    );
    let event = stream.message().await.unwrap().unwrap();
    let Some(Event::Target(target)) = event.event else {
        panic!("{event:?}")
    };
    assert_eq!((target.name.as_str(), event.generation), ("fake", 1));
}

#[tokio::test]
async fn from_now_begins_with_what_comes() {
    let mut rig = Rig::with_document().await;
    let mut stream = watch(&rig, 0, true).await.unwrap();
    rig.client.provision(endpoint("a", 1)).await.unwrap();
    assert_eq!(generations(&mut stream, 2).await, [2]);
    assert_eq!(fields(&watch(&rig, 1, true).await.unwrap_err()), ["from_now"]);
    let future = watch(&rig, 99, false).await.unwrap_err();
    assert_eq!(future.code(), Code::OutOfRange);
}

#[tokio::test]
async fn what_is_forgotten_is_out_of_range() {
    let mut rig = Rig::with_document().await;
    for i in 0..5 {
        rig.client.provision(endpoint("e", i)).await.unwrap();
    }
    rig.agent.take().unwrap().stop().await.unwrap();
    // As if the history had outgrown its bounds.
    let database = rusqlite::Connection::open(rig.folder.path().join("p.db")).unwrap();
    database
        .execute_batch(
            "DELETE FROM generations WHERE generation < 4; DELETE FROM changes WHERE generation < 4",
        )
        .unwrap();
    drop(database);
    let agent = start(rig.folder.path(), "", &rig.fake).await.unwrap();
    let client = Client::unix(&rig.folder.path().join("agent.sock")).await;
    let rig = Rig {
        agent: Some(agent),
        client,
        ..rig
    };
    for after in [0, 2] {
        let error = watch(&rig, after, false).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange);
        assert!(
            error.message().contains("the oldest that is kept is 4"),
            "{}",
            error.message()
        );
    }
    let mut stream = watch(&rig, 3, false).await.unwrap();
    assert_eq!(generations(&mut stream, 6).await, [4, 5, 6]);
}

#[tokio::test]
async fn a_slow_watcher_holds_nobody_up_and_misses_nothing() {
    let mut rig = Rig::new().await;
    let mut stream = watch(&rig, 0, false).await.unwrap();
    for i in 0..250 {
        rig.client.provision(endpoint("e", i)).await.unwrap();
    }
    assert_eq!(generations(&mut stream, 250).await, (1..=250).collect::<Vec<_>>());
}

#[tokio::test]
async fn watchers_are_counted() {
    let rig = Rig::new().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(watch(&rig, 0, false).await.unwrap());
    }
    let error = watch(&rig, 0, false).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().starts_with("3 watchers"), "{}", error.message());
    streams.clear();
    for _ in 0..100 {
        if watch(&rig, 0, false).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a watcher that left still counts");
}

#[tokio::test]
async fn a_stopping_agent_ends_its_streams() {
    let mut rig = Rig::with_document().await;
    let mut stream = watch(&rig, 1, false).await.unwrap();
    let agent = rig.agent.take().unwrap();
    let stopping = tokio::spawn(agent.stop());
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    stopping.await.unwrap().unwrap();
}

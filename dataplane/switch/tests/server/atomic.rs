//! What of a Write happens together, and when it is answered (P4Runtime 1.6.0, sections 12.2 and 12.3).

use std::time::Duration;

use portcullis_fastpath::{Snapshot, Tally};
use portcullis_proto::p4::v1;
use portcullis_switch::counters::Book;
use tonic::Code;
use v1::update::Type;
use v1::write_request::Atomicity;

use crate::rig::{
    Controller, Entry, Met, Rig, arp, attach, codes, deliver, errors, everything, group, met, policy,
    station, tcp, update,
};

const ALL_OR_NOTHING: [Atomicity; 2] = [Atomicity::RollbackOnError, Atomicity::DataplaneAtomic];

/// Two endpoints that talk, a third that hears floods, and rows of the same priority that overlap.
fn world() -> Vec<v1::Update> {
    let mut updates = vec![
        station(0xa, 1).insert(),
        station(0xb, 2).insert(),
        update(Type::Insert, group(1, &[1, 2, 3])),
        update(Type::Insert, group(2, &[3])),
    ];
    for port in 1..4 {
        updates.extend([attach(port, port).insert(), deliver(port, port).insert()]);
        updates.push(policy("egress_policy", port, (0, 999), 5, true).insert());
        updates.push(policy("egress_policy", port, (80, 90), 5, false).insert());
        updates.push(policy("egress_policy", port, (0, 65535), 1, true).insert());
        updates.push(policy("ingress_policy", port, (20, 25), 9, false).insert());
        updates.push(policy("ingress_policy", port, (0, 65535), 2, true).insert());
    }
    updates
}

/// What frames meet at every port.
fn frames(snapshot: &Snapshot) -> Vec<Met> {
    let mut frames = vec![arp()];
    for mac in [0xa, 0xb, 0xc] {
        frames.extend([22, 25, 26, 79, 80, 85, 91, 443, 8080].map(|port| tcp(mac, port)));
    }
    let each = frames
        .iter()
        .flat_map(|frame| (0..5).map(|port| met(snapshot, frame, port)));
    each.collect()
}

async fn world_of(primary: &mut Controller, rig: &Rig) {
    primary.write(world()).await.unwrap();
    // Rows have been hit before.
    let mut view = rig.view();
    for (round, frame) in [tcp(0xb, 443), tcp(0xb, 80), tcp(0xb, 22)].iter().enumerate() {
        for _ in 0..=round {
            let mut list = Vec::new();
            view.newest()
                .process(frame, 1, &mut list, &mut Book(&rig.counters));
        }
    }
}

/// Requests in which something is wrong, after much that is right.
fn doomed() -> Vec<(Vec<v1::Update>, Code)> {
    let all = world();
    let delete: Vec<v1::Update> = all
        .iter()
        .map(|u| v1::Update {
            r#type: Type::Delete as i32,
            ..u.clone()
        })
        .collect();
    let others: Vec<v1::Update> = (1..4)
        .flat_map(|port| {
            [
                attach(port, 9).modify(),
                deliver(port, 7).modify(),
                policy("egress_policy", port, (80, 90), 5, true).modify(),
                policy("ingress_policy", port, (20, 25), 9, false)
                    .edit(|e| {
                        e.counter_data = Some(v1::CounterData {
                            byte_count: 5,
                            packet_count: 6,
                        })
                    })
                    .modify(),
                update(
                    Type::Modify,
                    policy("egress_policy", port, (0, 999), 5, true).counter(Some((40, 50))),
                ),
            ]
        })
        .chain([
            station(0xa, 3).modify(),
            update(Type::Modify, group(1, &[2])),
            update(Type::Delete, group(2, &[])),
        ])
        .collect();
    let fresh = vec![
        attach(4, 1).insert(),
        station(0xc, 3).insert(),
        policy("egress_policy", 1, (443, 443), 77, false).insert(),
        update(Type::Insert, group(3, &[1])),
    ];
    let mut list = Vec::new();
    let bad = [
        (attach(1, 1).insert(), Code::AlreadyExists),
        (attach(77, 1).modify(), Code::NotFound),
        (attach(77, 1).delete(), Code::NotFound),
        (attach(77, 1).priority(0).insert(), Code::InvalidArgument),
        (update(Type::Insert, group(1, &[700])), Code::AlreadyExists),
        (update(Type::Insert, group(88, &[700])), Code::InvalidArgument),
    ];
    let gone = [attach(1, 1).delete(), station(0xa, 1).delete()];
    let again: Vec<v1::Update> = gone
        .iter()
        .cloned()
        .chain([attach(1, 2).insert(), station(0xa, 2).insert()])
        .collect();
    for (wrong, code) in bad {
        for before in [
            &delete,
            &others,
            &fresh,
            &again,
            &[others.clone(), fresh.clone()].concat(),
        ] {
            // Deleted, an entry can be inserted: then it is not wrong.
            let emptied = before == &delete && code == Code::AlreadyExists;
            let wrong = if emptied {
                attach(1, 1).delete()
            } else {
                wrong.clone()
            };
            let code = if emptied { Code::NotFound } else { code };
            let mut updates = before.clone();
            updates.push(wrong);
            updates.push(attach(99, 1).insert());
            list.push((updates, code));
        }
    }
    // Deleted, made anew with something else, changed, and deleted again.
    let mut round = delete.clone();
    round.extend(all.iter().cloned());
    // The last of them deletes a group.
    round.extend(others.iter().take(others.len() - 1).cloned());
    round.extend(delete);
    round.push(attach(77, 1).delete());
    round.push(attach(99, 1).insert());
    list.push((round, Code::NotFound));
    list
}

#[tokio::test]
async fn of_all_or_nothing_nothing_is_left() {
    let (rig, mut primary) = Rig::running().await;
    world_of(&mut primary, &rig).await;
    let mut view = rig.view();
    let (before, seen) = (primary.read(everything()).await, frames(view.newest()));
    let hit = |met: &Met| !met.hits.is_empty();
    assert!(seen.iter().any(hit) && seen.iter().any(|met| met.ports.len() > 1));
    let counted = before
        .iter()
        .filter(|e| format!("{e:?}").contains("packet_count: 3"));
    assert!(counted.count() > 0, "some counters are not 0");
    for (updates, code) in doomed() {
        for atomicity in ALL_OR_NOTHING {
            let count = updates.len();
            let request = primary.request(updates.clone(), atomicity as i32);
            let told = primary.client.write(request).await.unwrap_err();
            let mut want = vec![Code::Aborted; count];
            want[count - 2] = code;
            assert_eq!(codes(&told), want, "{:?}", errors(&told)[count - 2]);
            assert_eq!(primary.read(everything()).await, before, "after {updates:#?}");
            assert_eq!(frames(view.newest()), seen, "after {updates:#?}");
        }
    }
    // The same goes through when nothing is wrong with it.
    let (mut updates, _) = doomed().pop().unwrap();
    updates.truncate(updates.len() - 2);
    let request = primary.request(updates, Atomicity::DataplaneAtomic as i32);
    primary.client.write(request).await.unwrap();
    assert_eq!(primary.read(everything()).await, []);
}

#[tokio::test]
async fn to_go_on_does_what_can_be_done() {
    let (rig, mut primary) = Rig::running().await;
    world_of(&mut primary, &rig).await;
    let before = primary.read(everything()).await.len();
    let updates = vec![
        attach(4, 1).insert(),
        attach(4, 1).insert(),
        attach(1, 1).delete(),
        attach(1, 1).delete(),
        attach(1, 2).insert(),
        station(0xa, 1).delete(),
        station(0xa, 3).insert(),
    ];
    let told = primary.write(updates).await.unwrap_err();
    use Code::{AlreadyExists, NotFound, Ok};
    assert_eq!(codes(&told), [Ok, AlreadyExists, Ok, NotFound, Ok, Ok, Ok]);
    assert_eq!(primary.read(everything()).await.len(), before + 1);
    let mut view = rig.view();
    // The new rows are what frames meet, not those that went in the same request.
    assert_eq!(met(view.newest(), &tcp(0xa, 443), 2).ports, [3]);
    assert_eq!(
        primary
            .read(vec![attach(1, 0).edit(|e| e.action = None).entity()])
            .await,
        [attach(1, 2).entity()]
    );
}

#[tokio::test]
async fn a_write_is_answered_when_every_worker_has_it() {
    let rig = Rig::start(2).await;
    let mut views = [rig.hub.view(0), rig.hub.view(1)];
    let mut primary = rig.primary(1).await;
    // One polls, and the other does not: first for the program, then for writes.
    for round in 0..4 {
        let before = views[0].newest().generation();
        views[1].newest();
        let request = primary.request(vec![attach(round, 1).insert()], 0);
        let (mut client, mut other) = (primary.client.clone(), primary.client.clone());
        let config = v1::SetForwardingPipelineConfigRequest {
            device_id: crate::rig::DEVICE,
            election_id: request.election_id,
            action: v1::set_forwarding_pipeline_config_request::Action::VerifyAndCommit as i32,
            config: Some(crate::rig::RANGE.config.clone()),
            ..Default::default()
        };
        let answer = tokio::spawn(async move {
            if round == 0 {
                other.set_forwarding_pipeline_config(config).await.map(drop)?;
            }
            client.write(request).await.map(drop)
        });
        if round > 0 {
            let mut watch = rig.view();
            while watch.newest().generation() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (first, second) = views.split_at_mut(1);
            let (quick, slow) = if round % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            };
            // It is there, one has it, and still there is no answer: a read waits behind it, too.
            for _ in 0..200 {
                assert!(quick[0].newest().generation() > before);
                tokio::time::sleep(Duration::from_micros(200)).await;
                assert!(!answer.is_finished(), "answered before both workers have it");
            }
            assert!(slow[0].newest().generation() > before);
        }
        while !answer.is_finished() {
            for view in &mut views {
                view.newest();
            }
            tokio::task::yield_now().await;
        }
        answer.await.unwrap().unwrap();
    }
    // A worker that has ended is not waited for.
    let [mut first, second] = views;
    drop(second);
    let request = primary.request(vec![attach(9, 1).insert()], 0);
    let mut client = primary.client.clone();
    let answer = tokio::spawn(async move { client.write(request).await.map(drop) });
    while !answer.is_finished() {
        first.newest();
        tokio::task::yield_now().await;
    }
    answer.await.unwrap().unwrap();
    // Nobody is waited for in vain: what is wrong changes nothing that workers see.
    let generation = first.newest().generation();
    assert_eq!(
        primary.refused(attach(9, 1).insert()).await.0,
        Code::AlreadyExists
    );
    assert_eq!(first.newest().generation(), generation);
}

#[tokio::test]
async fn a_counter_begins_at_nothing_when_it_is_used_again() {
    let (rig, mut primary) = Rig::running().await;
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    let mut view = rig.view();
    let (mut slots, mut list) = (Vec::new(), Vec::new());
    for round in 0..4u128 {
        let row = policy("egress_policy", 1, (round, 100 + round), 1, true);
        primary.write(vec![row.insert()]).await.unwrap();
        assert_eq!(primary.count(&row).await, (0, 0), "round {round}");
        let frame = tcp(5, 50);
        slots.extend(met(view.newest(), &frame, 1).hits);
        for _ in 0..=round {
            view.newest()
                .process(&frame, 1, &mut list, &mut Book(&rig.counters));
        }
        let count = round as i64 + 1;
        assert_eq!(primary.count(&row).await, (count, count * frame.len() as i64));
        primary.write(vec![row.delete()]).await.unwrap();
        assert_eq!(
            primary.parts(vec![row.counter(None)]).await.0,
            Vec::<Vec<v1::Entity>>::new()
        );
    }
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() < 4, "counters are used again: {slots:?}");
}

#[tokio::test]
async fn a_counter_is_not_given_away_while_a_worker_may_count_in_it() {
    let rig = Rig::start(1).await;
    let mut view = rig.hub.view(0);
    let mut primary = rig.primary(1).await;
    let client = primary.client.clone();
    // Polls until an answer is there.
    async fn done(
        view: &mut portcullis_switch::hub::View,
        answer: tokio::task::JoinHandle<Result<(), tonic::Status>>,
    ) {
        while !answer.is_finished() {
            view.newest();
            tokio::task::yield_now().await;
        }
        answer.await.unwrap().unwrap();
    }
    let config = v1::SetForwardingPipelineConfigRequest {
        device_id: crate::rig::DEVICE,
        election_id: Some(crate::rig::number(1)),
        action: v1::set_forwarding_pipeline_config_request::Action::VerifyAndCommit as i32,
        config: Some(crate::rig::RANGE.config.clone()),
        ..Default::default()
    };
    let mut set = client.clone();
    done(
        &mut view,
        tokio::spawn(async move { set.set_forwarding_pipeline_config(config).await.map(drop) }),
    )
    .await;
    let old = policy("egress_policy", 1, (0, 100), 1, true);
    let new = policy("egress_policy", 1, (0, 100), 2, true);
    let write = |updates: Vec<v1::Update>| {
        let (mut client, request) = (client.clone(), primary.request(updates, 0));
        tokio::spawn(async move { client.write(request).await.map(drop) })
    };
    done(&mut view, write(vec![attach(1, 1).insert(), old.insert()])).await;
    let held = view.newest().clone();
    // In one request, one row goes and one comes: a worker that still has the snapshot of before counts in the old one.
    done(&mut view, write(vec![old.delete(), new.insert()])).await;
    let slot = met(&held, &tcp(5, 50), 1).hits[0];
    Book(&rig.counters).hit(slot, 54);
    assert_eq!(primary.count(&new).await, (0, 0));
}

#[tokio::test]
async fn counters_are_set() {
    let (_rig, mut primary) = Rig::running().await;
    let row = policy("egress_policy", 1, (0, 100), 1, true);
    let begun = row.clone().edit(|e| {
        e.counter_data = Some(v1::CounterData {
            packet_count: 3,
            byte_count: 200,
        })
    });
    primary.write(vec![begun.insert()]).await.unwrap();
    assert_eq!(primary.count(&row).await, (3, 200));
    // Without a count it stays; with one it is set.
    primary.write(vec![row.modify()]).await.unwrap();
    assert_eq!(primary.count(&row).await, (3, 200));
    primary
        .write(vec![update(Type::Modify, row.counter(Some((7, 8))))])
        .await
        .unwrap();
    assert_eq!(primary.count(&row).await, (7, 8));
    primary
        .write(vec![update(Type::Modify, row.counter(None))])
        .await
        .unwrap();
    assert_eq!(primary.count(&row).await, (7, 8));
    primary.write(vec![begun.modify()]).await.unwrap();
    assert_eq!(primary.count(&row).await, (3, 200));
    let other = policy("egress_policy", 2, (0, 100), 1, true);
    for (update, code) in [
        (
            update(Type::Insert, row.counter(Some((1, 1)))),
            Code::InvalidArgument,
        ),
        (update(Type::Delete, row.counter(None)), Code::InvalidArgument),
        (update(Type::Modify, other.counter(Some((1, 1)))), Code::NotFound),
        (
            update(Type::Modify, attach(1, 1).counter(Some((1, 1)))),
            Code::InvalidArgument,
        ),
        (
            update(
                Type::Modify,
                Entry::from_name("egress_policy").counter(Some((1, 1))),
            ),
            Code::InvalidArgument,
        ),
    ] {
        let (found, why) = primary.refused(update).await;
        assert_eq!(found, code, "{why}");
    }
    assert_eq!(primary.count(&row).await, (3, 200));
}

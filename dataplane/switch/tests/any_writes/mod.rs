//! Whatever is written: nothing panics, what is refused changes nothing, and what is read is what a plain model keeps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

mod drawn;
mod model;

use std::collections::BTreeMap;

use drawn::{Dice, from_bytes, mutate, update};
use model::Model;
use portcullis_proto::p4::v1;
use portcullis_switch::engine::SetProgram;
use rig::{Met, OwnProgram, RANGE, Rig, TERNARY, arp, everything, met, sorted, tcp};
use tonic::Code;

/// Requests of one run; many runs make more of them than one long one, for tables fill up.
const REQUESTS: usize = 400;

/// How often each came out.
#[derive(Debug, Default)]
struct Tally {
    codes: BTreeMap<i32, usize>,
    rolled_back: usize,
    decoded: usize,
    frames: [usize; 2],
}

async fn fresh(model: &Model, config: &v1::ForwardingPipelineConfig) -> Rig {
    let rig = Rig::start(0).await;
    let may = || Ok(());
    let config = v1::ForwardingPipelineConfig {
        p4info: Some(model.info.clone()),
        ..config.clone()
    };
    rig.engine
        .set_program(SetProgram::Replace, Some(config), may)
        .await
        .unwrap();
    rig
}

async fn read(rig: &Rig) -> Vec<v1::Entity> {
    let (found, refused) = rig.engine.read(&everything()).await.unwrap();
    assert_eq!(refused, []);
    sorted(found)
}

/// Where frames go, and why not.
fn frames(rig: &Rig) -> Vec<Met> {
    let mut view = rig.view();
    let mut frames = vec![arp()];
    for mac in [0xa, 0xb, 0xc] {
        frames.extend([22, 25, 80].map(|port| tcp(mac, port)));
    }
    let each = frames
        .iter()
        .flat_map(|frame| (0..4).map(move |port| (frame, port)));
    let snapshot = view.newest();
    each.map(|(frame, port)| Met {
        hits: Vec::new(),
        ..met(snapshot, frame, port)
    })
    .collect()
}

/// One request, of the switch and of the model.
async fn write(rig: &Rig, model: &mut Model, request: &v1::WriteRequest, tally: &mut Tally) {
    let all_or_nothing = request.atomicity != 0;
    let count = request.updates.len();
    let refused = rig
        .engine
        .write(&request.updates, all_or_nothing, || Ok(()))
        .await
        .unwrap();
    let refused: BTreeMap<usize, _> = refused.into_iter().collect();
    let before = model.clone();
    let mut failed = None;
    for (at, update) in request.updates.iter().enumerate() {
        let told = refused.get(&at);
        if failed.is_some() && all_or_nothing {
            assert_eq!(told.unwrap().code, Code::Aborted, "{update:#?}");
            continue;
        }
        match (model.update(update), told) {
            (Ok(()), None) => *tally.codes.entry(0).or_default() += 1,
            (Ok(()), Some(told)) if all_or_nothing && told.code == Code::Aborted => {}
            (Err(codes), Some(told)) if codes.contains(&(told.code as i32)) => {
                *tally.codes.entry(told.code as i32).or_default() += 1;
                assert!(!told.why.is_empty());
                failed = failed.or(Some(at));
            }
            (want, told) => panic!("update {at}: {want:?}, and the switch said {told:?}: {update:#?}"),
        }
    }
    if failed.is_some() && all_or_nothing {
        tally.rolled_back += 1;
        assert_eq!(refused.len(), count);
        *model = before;
    } else {
        assert!(refused.values().all(|told| told.code != Code::Aborted));
    }
    assert_eq!(read(rig).await, model.readable(), "after {request:#?}");
}

async fn story(seed: u64, own: &OwnProgram, tally: &mut Tally) {
    let mut dice = Dice(seed);
    let mut info = own.config.p4info.clone().unwrap();
    for table in &mut info.tables {
        // Some are full soon.
        table.size = 3 + dice.below(30) as i64;
    }
    let mut model = Model::new(info);
    let rig = fresh(&model, &own.config).await;
    // Somebody is there, or few frames would get far.
    let mut updates = vec![rig::update(
        v1::update::Type::Insert,
        rig::group(2, &[0, 1, 2, 3]),
    )];
    for port in 0..4 {
        let class = port % 2;
        updates.extend([
            rig::attach(port, class).insert(),
            rig::deliver(port, class).insert(),
        ]);
    }
    let begin = v1::WriteRequest {
        updates,
        ..Default::default()
    };
    write(&rig, &mut model, &begin, tally).await;
    for at in 0..REQUESTS {
        let mut updates: Vec<v1::Update> = Vec::new();
        for _ in 0..1 + dice.below(7) {
            let mut next = update(&mut dice, &model);
            if dice.one_in(6) {
                mutate(&mut dice, &mut next);
            }
            updates.push(next);
        }
        let mut request = v1::WriteRequest {
            updates,
            atomicity: dice.below(3) as i32,
            ..Default::default()
        };
        if dice.one_in(3) {
            let Some(other) = from_bytes(&mut dice, &request) else {
                continue;
            };
            tally.decoded += 1;
            request = other;
        }
        write(&rig, &mut model, &request, tally).await;
        // Frames meet what is read: the same tables, made at once from nothing.
        if at % 40 == 39 {
            let other = fresh(&model, &own.config).await;
            let inserts = model
                .readable()
                .into_iter()
                .map(|entity| rig::update(v1::update::Type::Insert, entity));
            let inserts: Vec<v1::Update> = inserts.collect();
            assert_eq!(other.engine.write(&inserts, true, || Ok(())).await.unwrap(), []);
            let now = frames(&rig);
            assert_eq!(
                now,
                frames(&other),
                "seed {seed}, request {at}: {:#?}",
                model.entries
            );
            for met in now {
                tally.frames[usize::from(met.ports.is_empty())] += 1;
            }
        }
    }
}

#[tokio::test]
async fn what_is_read_is_what_was_written() {
    let mut tally = Tally::default();
    for seed in 1..=12 {
        let own = if seed % 3 == 0 { &*TERNARY } else { &*RANGE };
        story(seed, own, &mut tally).await;
    }
    println!("{tally:?}");
    use Code::{
        AlreadyExists, InvalidArgument, NotFound, Ok, PermissionDenied, ResourceExhausted, Unimplemented,
    };
    let all = [
        Ok,
        AlreadyExists,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        Unimplemented,
    ];
    for code in all {
        let times = tally.codes.get(&(code as i32)).copied().unwrap_or(0);
        assert!(times > 30, "{code:?} came {times} times");
    }
    assert!(tally.rolled_back > 200 && tally.decoded > 200, "{tally:?}");
    assert!(tally.frames.iter().all(|count| *count > 20), "{tally:?}");
}

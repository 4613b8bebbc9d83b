//! Tables that change 2,000 times per second under workers: every frame meets the one document or the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_proto::p4::v1;
use portcullis_switch::engine::SetProgram;
use portcullis_switch::hub::View;
use rig::{Entry, Met, RANGE, Rig, arp, attach, deliver, group, met, policy, station, tcp, update};
use v1::update::Type;

const WORKERS: usize = 2;
const BURST: usize = 32;
const CHANGES: usize = 4000;
/// 2,000 changes per second, where the machine keeps up.
const PERIOD: Duration = Duration::from_micros(500);
/// One at a time: they have a thread per core.
static ALONE: Mutex<()> = Mutex::new(());

/// A generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// What the switch is told of a document.
struct Document {
    rows: Vec<Entry>,
    /// Where classes are, and MACs.
    points: Vec<Entry>,
    /// Who hears what is for all.
    group: v1::Entity,
}

/// Of two documents with classes of their own, or the same ones. The first denies at the sender what the second denies at
/// the receiver, and forwards to other ports: a frame that met some of both would get through, or go nowhere.
fn documents(own_classes: bool) -> [Document; 2] {
    [0u128, 1].map(|which| {
        let first = which == 0;
        let (send, hear, deaf) = if own_classes {
            (1 + 3 * which, 2 + 3 * which, 3 + 3 * which)
        } else {
            (1, 2, 3)
        };
        let mut rows = vec![
            policy("egress_policy", send, (0, 65535), 1, true),
            policy("ingress_policy", hear, (0, 65535), 1, true),
            policy("ingress_policy", deaf, (0, 65535), 1, false),
        ];
        // More pieces than are compared at once.
        for piece in 0..40u128 {
            let ports = (1000 + piece * 1000, 1500 + piece * 1000);
            let (table, class) = if first {
                ("egress_policy", send)
            } else {
                ("ingress_policy", hear)
            };
            rows.push(policy(table, class, ports, 9, false));
        }
        let mut points = vec![attach(1, send), station(0xb, 2 + which)];
        for port in 2..6 {
            let hears = (port % 2 == 0) == first;
            points.push(deliver(port, if hears { hear } else { deaf }));
        }
        let ports: &[u128] = if first { &[2, 4] } else { &[3, 5] };
        Document {
            rows,
            points,
            group: group(1, ports),
        }
    })
}

impl Document {
    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.rows.iter().chain(&self.points)
    }

    fn insert(&self) -> Vec<v1::Update> {
        let mut updates: Vec<v1::Update> = self.all().map(Entry::insert).collect();
        updates.push(update(Type::Insert, self.group.clone()));
        updates
    }

    /// Everything of another one goes, and all of this comes, in one request.
    fn instead_of(&self, other: &Document) -> Vec<Vec<v1::Update>> {
        let mut updates: Vec<v1::Update> = other.all().map(Entry::delete).collect();
        updates.extend(self.all().map(Entry::insert));
        updates.push(update(Type::Modify, self.group.clone()));
        vec![updates]
    }

    /// Make before break, as the agent does it: new classes, then where they are, then the old ones go.
    fn after(&self, other: &Document) -> Vec<Vec<v1::Update>> {
        let mut flip: Vec<v1::Update> = self.points.iter().map(Entry::modify).collect();
        flip.push(update(Type::Modify, self.group.clone()));
        vec![
            self.rows.iter().map(Entry::insert).collect(),
            flip,
            other.rows.iter().map(Entry::delete).collect(),
        ]
    }
}

/// Frames of port 1, and what each meets under both documents.
fn frames() -> Vec<Vec<u8>> {
    let mut dice = Dice(11);
    let mut frames = vec![arp(), tcp(0xb, 80), tcp(0xb, 1200)];
    frames.extend((0..61).map(|_| tcp(0xb, 1000 + (dice.next() % 41_000) as u16)));
    frames
}

/// Without the counters, which are others after each change.
fn plain(met: Met) -> Met {
    Met {
        hits: Vec::new(),
        ..met
    }
}

async fn engine(workers: usize, document: &Document, views: &mut Vec<View>) -> Rig {
    let rig = Rig::start(0).await;
    let may = || Ok(());
    let engine = &rig.engine;
    engine
        .set_program(SetProgram::Replace, Some(RANGE.config.clone()), may)
        .await
        .unwrap();
    assert_eq!(engine.write(&document.insert(), true, may).await.unwrap(), []);
    views.extend((0..workers).map(|_| rig.view()));
    rig
}

/// What the workers are told: 0 the first document stands, 2 the second; between, it changes.
const STANDS: [u64; 2] = [0, 2];

struct Worker {
    view: View,
    frames: Arc<Vec<Vec<u8>>>,
    want: Arc<[Vec<Met>; 2]>,
    state: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// How many frames met each document while it stood, and while it changed.
    fn run(mut self, seed: u64) -> [u64; 3] {
        let (mut dice, mut seen) = (Dice(seed), [0; 3]);
        while !self.stop.load(Ordering::Relaxed) {
            let snapshot = self.view.newest();
            for _ in 0..BURST {
                let at = dice.next() as usize % self.frames.len();
                let before = self.state.load(Ordering::SeqCst);
                let met = plain(met(snapshot, &self.frames[at], 1));
                let after = self.state.load(Ordering::SeqCst);
                let [first, second] = &*self.want;
                assert!(
                    met == first[at] || met == second[at],
                    "frame {at} met {met:?}: {first:?} or {second:?}"
                );
                // Once a Write is answered, no frame meets what was before.
                let stood = STANDS.iter().position(|s| before == after && before % 4 == *s);
                if let Some(which) = stood {
                    assert_eq!(met, self.want[which][at], "frame {at}, after the answer");
                }
                seen[stood.unwrap_or(2)] += 1;
            }
            // There may be fewer cores than threads.
            std::thread::yield_now();
        }
        seen
    }
}

fn alternate(own_classes: bool, steps: fn(&Document, &Document) -> Vec<Vec<v1::Update>>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let documents = documents(own_classes);
    let frames = Arc::new(frames());
    // What each document alone says of them.
    let want = Arc::new([0, 1].map(|which: usize| {
        let mut views = Vec::new();
        let _rig = runtime.block_on(engine(1, &documents[which], &mut views));
        let snapshot = views[0].newest();
        let each = frames.iter().map(|frame| plain(met(snapshot, frame, 1)));
        each.collect::<Vec<Met>>()
    }));
    for at in 0..frames.len() {
        assert_ne!(want[0][at], want[1][at], "a mix would not show in frame {at}");
    }
    let passes = |which: usize| want[which].iter().filter(|m| !m.ports.is_empty()).count();
    assert!(passes(0) > 5 && passes(1) > 5);
    runtime.block_on(run(&documents, frames, want, steps));
}

async fn run(
    documents: &[Document; 2],
    frames: Arc<Vec<Vec<u8>>>,
    want: Arc<[Vec<Met>; 2]>,
    steps: fn(&Document, &Document) -> Vec<Vec<v1::Update>>,
) {
    let rig = Rig::start(WORKERS).await;
    let (state, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let may = || Ok(());
    // The views are there before the tables, and are polled while those are written.
    let mut views: Vec<View> = (0..WORKERS).map(|seat| rig.hub.view(seat)).collect();
    let engine = Arc::clone(&rig.engine);
    let updates = documents[0].insert();
    let begin = tokio::spawn(async move {
        engine
            .set_program(SetProgram::Replace, Some(RANGE.config.clone()), may)
            .await
            .unwrap();
        assert_eq!(engine.write(&updates, true, may).await.unwrap(), []);
    });
    while !begin.is_finished() {
        for view in &mut views {
            view.newest();
        }
        tokio::task::yield_now().await;
    }
    begin.await.unwrap();
    state.store(STANDS[0], Ordering::SeqCst);
    let threads: Vec<_> = views
        .into_iter()
        .zip(1..)
        .map(|(view, seed)| {
            let worker = Worker {
                view,
                frames: Arc::clone(&frames),
                want: Arc::clone(&want),
                state: Arc::clone(&state),
                stop: Arc::clone(&stop),
            };
            std::thread::spawn(move || worker.run(seed))
        })
        .collect();
    let (begun, mut changes) = (Instant::now(), 0usize);
    // A panic of a worker ends the writes, for it leaves its seat.
    while changes < CHANGES && !threads.iter().any(std::thread::JoinHandle::is_finished) {
        changes += 1;
        let (new, old) = (&documents[changes % 2], &documents[(changes + 1) % 2]);
        let next = Instant::now() + PERIOD;
        state.fetch_add(1, Ordering::SeqCst);
        for request in steps(new, old) {
            assert_eq!(rig.engine.write(&request, true, may).await.unwrap(), []);
        }
        state.fetch_add(1, Ordering::SeqCst);
        // It stands for a while, also when the changes are behind.
        let rest = next.saturating_duration_since(Instant::now());
        std::thread::sleep(rest.max(PERIOD / 5));
    }
    println!("{changes} changes in {:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let seen = thread.join().unwrap();
        println!("frames under the first document, the second, and while they changed: {seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

#[test]
fn whole_requests() {
    alternate(false, Document::instead_of);
}

#[test]
fn make_before_break() {
    alternate(true, Document::after);
}

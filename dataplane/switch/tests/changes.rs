//! Policies that change 1,000 times per second under a whole switch at full load, its devices included: every frame meets
//! the one document or the other, and none is lost but where a ring was full.
//!
//! A file is played again and again into port 1. What is allowed leaves by a ring, comes back from it, and is counted by
//! rows that no change touches: a frame that is denied by both documents is not to be among them. As the number of
//! denied frames in each round is known, their counts say of every frame that it met what it should.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_fastpath::DropReason;
use portcullis_proto::p4::v1;
use portcullis_switch::config::{self, Config, Overrides};
use portcullis_switch::counters::PortCount;
use portcullis_switch::engine::SetProgram;
use portcullis_switch::switch::Switch;
use rig::{Entry, PATIENCE, RANGE, arp, attach, deliver, group, policy, station, tcp, update};
use tokio::runtime::Runtime;
use v1::entity::Entity;
use v1::update::Type;

const SOURCE: u16 = 1;
/// Where frames go under the one document and under the other.
const RINGS: [u16; 2] = [2, 3];
const STATION: u64 = 0xb;
/// The class of what comes back from rings, which no document has.
const JUDGES: u128 = 900;
/// 1,000 changes per second, where the machine keeps up.
const PERIOD: Duration = Duration::from_millis(1);
/// Ports that both documents deny: each piece of 1,000 from 1,000 on denies its first 500.
const PIECES: u16 = 40;

/// Changes of each kind: `PORTCULLIS_CHANGES`. Without it 2,000, or what a machine with other work does in some seconds.
fn changes() -> (usize, Duration) {
    match std::env::var("PORTCULLIS_CHANGES") {
        Ok(count) => (count.parse().unwrap(), Duration::MAX),
        Err(_) => (2000, Duration::from_secs(6)),
    }
}

fn is_denied(port: u16) -> bool {
    (1000..1000 + PIECES * 1000).contains(&port) && port % 1000 < 500
}

/// Frames of a round, and whether each is denied: one in two, and some that are for many.
fn frames() -> Vec<(Vec<u8>, bool)> {
    let ports = (0..256u16).map(|n| n * 163 + 7);
    let mut frames: Vec<(Vec<u8>, bool)> = ports.map(|port| (tcp(STATION, port), is_denied(port))).collect();
    for at in [0, 100, 200] {
        frames.insert(at, (arp(), false));
    }
    frames
}

/// Of the first so many frames that were played: how many are denied.
fn denied_among(frames: &[(Vec<u8>, bool)], played: u64) -> u64 {
    let among = |some: &[(Vec<u8>, bool)]| some.iter().filter(|(_, denied)| *denied).count() as u64;
    let (rounds, rest) = (played / frames.len() as u64, played % frames.len() as u64);
    rounds * among(frames) + among(&frames[..rest as usize])
}

fn write_pcap(path: &Path) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for (frame, _) in frames() {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

fn settings(folder: &Path) -> Config {
    let source = folder.join("frames.pcap");
    write_pcap(&source);
    let mut ports = vec![format!("{SOURCE}=pcap:rx={},repeat", source.display())];
    ports.extend(RINGS.map(|ring| format!("{ring}=ring")));
    let over = Overrides {
        ports,
        busy: true,
        mbufs: Some(8191),
        ..Overrides::default()
    };
    config::load(None, over).unwrap()
}

/// What the switch is told of a document.
struct Document {
    rows: Vec<Entry>,
    /// Where classes are, and the MAC.
    points: Vec<Entry>,
    /// Who hears what is for all.
    group: v1::Entity,
}

/// Of two documents. The first denies at the sender what the second denies at the receiver, they forward to different
/// rings, and each lets nobody hear at the other's: whoever met some of both would get through, or go nowhere.
fn documents() -> [Document; 2] {
    [0u128, 1].map(|which| {
        let (send, hear, deaf) = (1 + 3 * which, 2 + 3 * which, 3 + 3 * which);
        let mut rows = vec![
            policy("egress_policy", send, (0, 65535), 1, true),
            policy("ingress_policy", hear, (0, 65535), 1, true),
            policy("ingress_policy", deaf, (0, 65535), 1, false),
        ];
        let (table, class) = [("egress_policy", send), ("ingress_policy", hear)][which as usize];
        for piece in 1..=u128::from(PIECES) {
            rows.push(policy(table, class, (piece * 1000, piece * 1000 + 499), 9, false));
        }
        let [own, other] = if which == 0 { RINGS } else { [RINGS[1], RINGS[0]] };
        Document {
            rows,
            points: vec![
                attach(SOURCE.into(), send),
                station(STATION.into(), own.into()),
                deliver(own.into(), hear),
                deliver(other.into(), deaf),
            ],
            group: group(1, &[own.into()]),
        }
    })
}

/// What counts frames that come back: those that are denied, and all others. They go no further.
fn judges() -> (Vec<Entry>, Entry) {
    let all = policy("egress_policy", JUDGES, (0, 65535), 1, false);
    let mut denied: Vec<Entry> = Vec::new();
    for piece in 1..=u128::from(PIECES) {
        denied.push(policy(
            "egress_policy",
            JUDGES,
            (piece * 1000, piece * 1000 + 499),
            9,
            false,
        ));
    }
    (denied, all)
}

impl Document {
    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.rows.iter().chain(&self.points)
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

async fn write(switch: &Switch, updates: &[v1::Update]) {
    let refused = switch.engine.write(updates, true, || Ok(())).await.unwrap();
    assert_eq!(refused, []);
}

async fn begin(switch: &Switch, document: &Document) {
    let set = switch
        .engine
        .set_program(SetProgram::Replace, Some(RANGE.config.clone()), || Ok(()));
    set.await.unwrap();
    let (denied, all) = judges();
    let mut updates: Vec<v1::Update> = document.rows.iter().chain(&denied).map(Entry::insert).collect();
    updates.push(all.insert());
    updates.extend(RINGS.map(|ring| attach(ring.into(), JUDGES).insert()));
    write(switch, &updates).await;
    // The source last: nothing of it has been let in before.
    let mut points: Vec<v1::Update> = document.points.iter().map(Entry::insert).collect();
    points.push(update(Type::Insert, document.group.clone()));
    write(switch, &points).await;
}

/// What a row's counter says.
async fn hits(switch: &Switch, entry: &Entry) -> i64 {
    let (found, refused) = switch.engine.read(&[entry.counter(None)]).await.unwrap();
    assert_eq!(refused, []);
    let Some(Entity::DirectCounterEntry(counter)) = &found[0].entity else {
        panic!("{found:?}");
    };
    counter.data.as_ref().unwrap().packet_count
}

/// Changes documents again and again, until the first one stands; says how fast, and how many frames there were.
async fn change(
    switch: &Switch,
    documents: &[Document; 2],
    steps: fn(&Document, &Document) -> Vec<Vec<v1::Update>>,
) {
    let frames = || switch.engine.sums().port(SOURCE).received.packets;
    let (begun, before, (most, time)) = (Instant::now(), frames(), changes());
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while count % 2 == 1 || (count < most && begun.elapsed() < time) {
        count += 1;
        let (n, began) = (count, Instant::now());
        for request in steps(&documents[n % 2], &documents[(n + 1) % 2]) {
            write(switch, &request).await;
        }
        slowest = slowest.max(began.elapsed());
        // Tokio's timer counts in milliseconds, and would wait for one that has begun.
        std::thread::sleep((begun + PERIOD * n as u32).saturating_duration_since(Instant::now()));
    }
    let (took, met) = (begun.elapsed(), frames() - before);
    println!(
        "{count} changes in {took:.2?}: {:.0} per second, the slowest in {slowest:.2?}; {met} frames meanwhile",
        count as f64 / took.as_secs_f64()
    );
    assert!(met > 0, "no frame met a change");
}

#[test]
fn no_frame_meets_parts_of_two_documents_on_its_way_through_devices() {
    let folder = tempfile::tempdir().unwrap();
    let frames = frames();
    let mut switch = Switch::start(&settings(folder.path())).unwrap();
    let runtime = Runtime::new().unwrap();
    let documents = documents();
    let received = |switch: &Switch| switch.engine.sums().port(SOURCE).received.packets;
    let count = |switch: &Switch, port| -> PortCount { switch.engine.sums().port(port) };
    runtime.block_on(async {
        begin(&switch, &documents[0]).await;
        change(&switch, &documents, Document::instead_of).await;
        change(&switch, &documents, Document::after).await;
        // And both at rest, for some rounds.
        for which in [1, 0] {
            for request in documents[which].instead_of(&documents[1 - which]) {
                write(&switch, &request).await;
            }
            let (wanted, since) = (received(&switch) + 10 * frames.len() as u64, Instant::now());
            while received(&switch) < wanted {
                assert!(since.elapsed() < PATIENCE, "no more frames");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    assert_eq!(switch.stop(), []);
    let source = count(&switch, SOURCE);
    let drops = source.drops.map(u64::from);
    let of = |why: DropReason| drops[why as usize];
    // Until there were tables, frames came from nobody.
    let judged = source.received.packets - of(DropReason::UnknownSender);
    let denied = of(DropReason::EgressPolicy) + of(DropReason::IngressPolicy);
    let sinks = RINGS.map(|ring| count(&switch, ring));
    let sent: u64 = sinks.iter().map(|s| s.sent.packets).sum();
    let unsent: u64 = sinks.iter().map(|s| s.unsent).sum();
    println!(
        "{judged} frames: {} denied at the sender, {} at the receiver, {sent} sent, {unsent} found a ring full",
        of(DropReason::EgressPolicy),
        of(DropReason::IngressPolicy)
    );
    let others: u64 = drops.iter().sum::<u64>() - denied - of(DropReason::UnknownSender);
    assert_eq!(others, 0, "dropped for another reason: {drops:?}");
    let expected =
        denied_among(&frames, source.received.packets) - denied_among(&frames, of(DropReason::UnknownSender));
    assert_eq!(denied, expected, "frames met a wrong verdict");
    assert_eq!(sent + unsent, judged - expected, "frames are missing");
    assert!(of(DropReason::EgressPolicy) > 0 && of(DropReason::IngressPolicy) > 0);
    assert!(sinks.iter().all(|s| s.sent.packets > 0));
    runtime.block_on(async {
        let (denied, all) = judges();
        for entry in &denied {
            assert_eq!(hits(&switch, entry).await, 0, "a denied frame left: {entry:?}");
        }
        let back: u64 = sinks.iter().map(|s| s.received.packets).sum();
        assert_eq!(hits(&switch, &all).await as u64, back);
        // What is missing waits in the rings.
        assert!(
            back > 0 && back <= sent && sent - back <= 2 * 1024,
            "{back} of {sent} came back"
        );
    });
}

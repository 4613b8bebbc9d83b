//! Frames of a port with one queue, dealt out to two workers: every flow stays in order, and nothing is lost but what is
//! counted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_fastpath::flow;
use portcullis_switch::config::{self, Overrides, Spread};
use portcullis_switch::engine::SetProgram;
use portcullis_switch::switch::Switch;
use rig::{Entry, PATIENCE, RANGE, attach, deliver, policy, station, tcp};
use tokio::runtime::Runtime;

const SOURCE: u16 = 1;
const SINK: u16 = 2;
const WORKERS: usize = 2;
const FLOWS: u16 = 60;
/// Frames of each flow in a round of the file, and frames that are to come out.
const EACH: u32 = 100;
const OUT: u64 = 200_000;
const HEADERS: usize = 54;

/// Frame number `n` of a flow.
fn frame(of: u16, n: u32) -> Vec<u8> {
    let mut frame = tcp(0xb, 1000 + of);
    assert_eq!(frame.len(), HEADERS);
    frame.extend(n.to_be_bytes());
    // Frames of one flow are of several lengths, and belong to it all the same.
    frame.resize(64 + n as usize % 7 * 16, 0);
    frame
}

fn write_pcap(path: &Path) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for n in 0..EACH {
        for of in 0..FLOWS {
            let frame = frame(of, n);
            for word in [0, 0, frame.len() as u32, frame.len() as u32] {
                file.extend(word.to_ne_bytes());
            }
            file.extend(frame);
        }
    }
    std::fs::write(path, file).unwrap();
}

/// The frames of a file.
fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut frames) = (&bytes[24..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

#[test]
fn flows_stay_in_order_over_two_workers() {
    if std::thread::available_parallelism().map_or(1, usize::from) < WORKERS {
        println!("SKIPPED: one core has one worker");
        return;
    }
    let hands: Vec<u64> = (0..FLOWS)
        .map(|of| (u64::from(flow(&frame(of, 0))) * WORKERS as u64) >> 32)
        .collect();
    assert!((0..WORKERS as u64).all(|hand| hands.contains(&hand)));
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
    write_pcap(&from);
    let over = Overrides {
        ports: vec![
            format!("{SOURCE}=pcap:rx={},repeat", from.display()),
            format!("{SINK}=pcap:tx={}", to.display()),
        ],
        cores: (0..WORKERS).collect(),
        spread: Some(Spread::On),
        mbufs: Some(16_383),
        ..Overrides::default()
    };
    let mut switch = Switch::start(&config::load(None, over).unwrap()).unwrap();
    let rows: Vec<Entry> = vec![
        policy("egress_policy", 1, (0, 65535), 1, true),
        policy("ingress_policy", 2, (0, 65535), 1, true),
        station(0xb, SINK.into()),
        deliver(SINK.into(), 2),
        attach(SOURCE.into(), 1),
    ];
    let updates: Vec<_> = rows.iter().map(Entry::insert).collect();
    Runtime::new().unwrap().block_on(async {
        let set = switch
            .engine
            .set_program(SetProgram::Replace, Some(RANGE.config.clone()), || Ok(()));
        set.await.unwrap();
        let refused = switch.engine.write(&updates, true, || Ok(())).await.unwrap();
        assert_eq!(refused, []);
    });
    let (count, since) = (
        |switch: &Switch, port| switch.engine.sums().port(port),
        Instant::now(),
    );
    while count(&switch, SINK).sent.packets < OUT {
        assert!(since.elapsed() < PATIENCE, "too few frames come out");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(switch.stop(), []);
    let (source, sink) = (count(&switch, SOURCE), count(&switch, SINK));
    // Those of before the tables were nobody's.
    let dropped: u64 = source.drops.iter().sum();
    assert_eq!(
        source.received.packets,
        dropped + source.crowded + sink.sent.packets + sink.unsent
    );
    println!(
        "{} frames: {dropped} dropped, {} for a worker that was behind, {} sent, {} found no room",
        source.received.packets, source.crowded, sink.sent.packets, sink.unsent
    );
    let pool = switch.pool.clone();
    drop(switch);
    assert_eq!(pool.in_use(), 0);
    let out = read_pcap(&to);
    assert_eq!(out.len() as u64, sink.sent.packets);
    // A flow begins anew with every round of the file, and at no other time.
    let rounds = source.received.packets / (u64::from(EACH) * u64::from(FLOWS)) + 1;
    let mut seen = vec![(0, 0u64); usize::from(FLOWS)];
    for frame in out {
        let of = u16::from_be_bytes([frame[36], frame[37]]) - 1000;
        let n = u32::from_be_bytes(frame[HEADERS..HEADERS + 4].try_into().unwrap());
        let (last, begun) = &mut seen[usize::from(of)];
        *begun += u64::from(n <= *last);
        *last = n;
    }
    for (of, (_, begun)) in seen.iter().enumerate() {
        assert!(
            *begun <= rounds,
            "flow {of} began {begun} times in {rounds} rounds"
        );
        assert!(*begun > 0, "flow {of} did not come out");
    }
}

//! The codec on the rows of a fleet.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis_benches::documents::Fleet;
use portcullis_benches::offline::{Paper, bundle_adds, flow_stats};
use portcullis_compiler::Compiler;
use portcullis_openflow::{Message, ReplyBody, Version, decode, encode, frame_len};

const ROWS: usize = 50_000;
/// Rows in one part of an answer: about 64 KiB, as Open vSwitch sends them.
const PART: usize = 300;

fn codec(c: &mut Criterion) {
    let endpoints = 500;
    let fleet = Fleet {
        endpoints,
        profiles: endpoints,
        attached: endpoints,
        ports: 24,
        prefixes: 8,
    };
    let intent = Compiler::default()
        .resolve(&fleet.document().unwrap(), 1)
        .unwrap();
    let rows = Paper::new(endpoints).rows(&intent).unwrap();
    let adds: Vec<Message> = bundle_adds(&rows).into_iter().cycle().take(ROWS).collect();
    let stats: Vec<_> = flow_stats(&rows).into_iter().cycle().take(ROWS).collect();
    let mut answer = Vec::new();
    for part in stats.chunks(PART) {
        let body = ReplyBody::Flow(part.to_vec());
        encode(
            &Message::MultipartReply { more: true, body },
            Version::V1_5,
            1,
            &mut answer,
        )
        .unwrap();
    }
    println!(
        "{ROWS} rows of {endpoints} classes in each direction; flow statistics: {} bytes",
        answer.len()
    );
    let mut group = c.benchmark_group("openflow 1.5");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(ROWS as u64));
    let mut out = Vec::new();
    group.bench_function("encode 50,000 flow mods as bundle adds", |b| {
        b.iter(|| {
            out.clear();
            for (xid, add) in (1..).zip(&adds) {
                encode(add, Version::V1_5, xid, &mut out).unwrap();
            }
            black_box(out.len())
        });
    });
    group.bench_function("decode 50,000 flow statistics", |b| {
        b.iter(|| {
            let (mut at, mut seen) = (0, 0);
            while let Some(length) = frame_len(&answer[at..]).unwrap() {
                let (_, message) = decode(&answer[at..at + length]).unwrap();
                at += length;
                if let Message::MultipartReply {
                    body: ReplyBody::Flow(rows),
                    ..
                } = black_box(message)
                {
                    seen += rows.len();
                }
            }
            assert_eq!(seen, ROWS);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = codec
}
criterion_main!(benches);

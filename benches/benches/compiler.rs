//! The compiler's figures: rows and time; allocations and bytes are counted by `compiler_memory`, on their own because
//! counting takes time.
//!
//! `PORTCULLIS_CLASSBENCH=FOLDER` adds filter sets of one's own. Prints a line for each figure; asserts no time.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis_benches::compiled::{Standing, compiled, from_nothing};
use portcullis_benches::documents::{Fleet, changed, endpoint_name, telling_documents, with_blocked};
use portcullis_benches::filters;
use portcullis_policy::{Name, Verdict};

fn filter_sets(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter sets, compiled and proved on p4-ternary");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for set in filters::sets().unwrap() {
        for default in [Verdict::Deny, Verdict::Allow] {
            let intent = set.intent(default).unwrap();
            let rows = compiled(&intent, "p4-ternary");
            let ratio = rows as f64 / set.filters() as f64;
            println!(
                "{}, default {default}: {} filters, {rows} rows, ratio {ratio:.4}",
                set.name,
                set.filters()
            );
            group.bench_function(format!("{}, default {default}", set.name), |b| {
                b.iter(|| black_box(compiled(&intent, "p4-ternary")));
            });
        }
    }
    group.finish();
}

fn documents(c: &mut Criterion) {
    let mut group = c.benchmark_group("documents, resolved, compiled and proved on ovs");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (name, document) in telling_documents().unwrap() {
        println!("{name}: {} rows", from_nothing(&document, "ovs"));
        group.bench_function(name, |b| b.iter(|| black_box(from_nothing(&document, "ovs"))));
    }
    group.finish();
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn one_change(c: &mut Criterion) {
    let mut standing = Standing::new(Fleet::hosting(10_000, 200, 0).document().unwrap());
    let mut n = 0;
    let mut next = |standing: &mut Standing| {
        let name: Name = endpoint_name((n / 2 % 10_000) as u32).parse().unwrap();
        standing.document = changed(&standing.document, &name, n).unwrap();
        n += 1;
        standing.document.clone()
    };
    let (mut times, mut rows) = (Vec::new(), 0);
    for _ in 0..4_000 {
        let document = next(&mut standing);
        let begun = Instant::now();
        let writes = black_box(standing.change(&document));
        times.push(begun.elapsed());
        rows += writes.written + writes.deleted;
    }
    times.sort_unstable();
    println!(
        "one endpoint's change among 10,000: p50 {:?}, p99 {:?}, {:.1} rows of classes written or deleted",
        percentile(&times, 0.50),
        percentile(&times, 0.99),
        rows as f64 / times.len() as f64
    );
    let name = "one endpoint's change among 10,000: resolve, compile, delta, proof";
    c.bench_function(name, |b| {
        b.iter_custom(|rounds| {
            let mut taken = Duration::ZERO;
            for _ in 0..rounds {
                let document = next(&mut standing);
                let begun = Instant::now();
                black_box(standing.change(&document));
                taken += begun.elapsed();
            }
            taken
        });
    });
}

fn baseline_change(c: &mut Criterion) {
    let fleet = Fleet::hosting(5_000, 1_000, 0);
    let plain = fleet.document().unwrap();
    let more = with_blocked(&plain, 11_211).unwrap();
    let mut standing = Standing::new(plain.clone());
    let mut blocked = false;
    let mut toggle = |standing: &mut Standing| {
        blocked = !blocked;
        standing.change(if blocked { &more } else { &plain })
    };
    let writes = toggle(&mut standing);
    println!(
        "baseline change: {} classes, {} rows written, {} deleted, {} endpoints moved to another class",
        writes.classes, writes.written, writes.deleted, writes.endpoints
    );
    let mut group = c.benchmark_group("baseline change");
    group.sample_size(20);
    group.bench_function("touches 1,000 classes", |b| {
        b.iter(|| black_box(toggle(&mut standing)))
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = one_change, baseline_change, filter_sets, documents
}
criterion_main!(benches);

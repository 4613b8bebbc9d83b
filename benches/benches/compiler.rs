//! The compiler's figures: rows and time; allocations and bytes are counted by `compiler_memory`, on their own because
//! counting takes time.
//!
//! `PORTCULLIS_CLASSBENCH=FOLDER` adds filter sets of one's own. Prints a line for each figure; asserts no time.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis_benches::compiled::{Standing, compiled, from_nothing};
use portcullis_benches::documents::{Fleet, changed, endpoint_name, telling_documents, with_blocked};
use portcullis_benches::filters;
use portcullis_compiler::compilation::{Compilation, Found, Part};
use portcullis_compiler::model::Role;
use portcullis_compiler::{Attribution, Compiler, RowCache, StageModel};
use portcullis_policy::{Document, Name, Verdict};

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

/// A table of 4,096 rows at the top of the rack, and a target behind it that holds everything.
struct Rack {
    compiler: Compiler,
    rows: RowCache,
    left: BTreeSet<Part>,
}

impl Rack {
    fn new() -> Self {
        let mut model = StageModel::named("p4-range").unwrap();
        for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
            (table.size, table.reserve) = (Some(4_096), 256);
        }
        Rack {
            compiler: Compiler::default(),
            rows: RowCache::new(model),
            left: BTreeSet::new(),
        }
    }

    /// Places a document, and how long that took without the resolving.
    fn place(&mut self, document: &Document, generation: u64) -> (Duration, Compilation) {
        let intent = self.compiler.resolve(document, generation).unwrap();
        let begun = Instant::now();
        let found = Found {
            left: &self.left,
            ..Found::default()
        };
        let rule = Attribution::Rule;
        let placed = Compilation::beside(&intent, &mut self.rows, rule, found, |_| true).unwrap();
        let taken = begun.elapsed();
        self.rows.keep(&[&intent]);
        self.left = placed.parts_left();
        (taken, placed)
    }
}

fn placement(_: &mut Criterion) {
    for (what, own) in [
        ("200 profiles", 0),
        ("200 profiles, every third with a rule of its own", 3),
    ] {
        let mut document = Fleet::hosting(10_000, 200, 0).document().unwrap();
        for n in (0..if own > 0 { 10_000 } else { 0 }).step_by(own.max(1)) {
            let name: Name = endpoint_name(n).parse().unwrap();
            document = changed(&document, &name, n.into()).unwrap();
        }
        let mut rack = Rack::new();
        let (first, placed) = rack.place(&document, 1);
        let rows: u64 = placed.tables().iter().map(|table| table.rows).sum();
        println!(
            "10,000 endpoints, {what}: planned, compiled and proved in {first:?}; {} classes, {rows} rows, {} parts left",
            placed.classes.len(),
            placed.parts_left().len()
        );
        let (again, _) = rack.place(&document, 2);
        let mut times = Vec::new();
        for n in 0..40u64 {
            let name: Name = endpoint_name(1 + (n as u32 / 2) * 7).parse().unwrap();
            document = changed(&document, &name, n).unwrap();
            times.push(rack.place(&document, 3 + n).0);
        }
        times.sort_unstable();
        println!(
            "    again without a change {again:?}; after one endpoint's change p50 {:?}, p99 {:?}",
            percentile(&times, 0.50),
            percentile(&times, 0.99)
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = placement, one_change, baseline_change, filter_sets, documents
}
criterion_main!(benches);

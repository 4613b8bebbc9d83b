//! From a document to proved rows, and one endpoint's change from a document to the rows that are written.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use portcullis_backend::machine::{Machine, Observed};
use portcullis_benches::documents::{EXAMPLE, Fleet, all_but_the_most_used, changed, endpoint_name};
use portcullis_benches::offline::{Paper, count};
use portcullis_compiler::{Compiler, Programs, StageModel};
use portcullis_ovs::session::OvsMachine;
use portcullis_policy::{Document, Name};

/// Compiles and proves every class of a document from nothing; classes and their rows.
fn from_nothing(document: &Document) -> (usize, usize) {
    let intent = Compiler::default().resolve(document, 1);
    let mut programs = Programs::new(StageModel::ovs());
    let rows = intent
        .classes
        .values()
        .map(|class| programs.get(class).unwrap().rows());
    (intent.classes.len(), rows.sum())
}

fn documents(c: &mut Criterion) {
    let mut group = c.benchmark_group("resolve, compile and prove");
    let fleet = Fleet::hosting(10_000, 200, 0);
    for (name, samples, document) in [
        ("the example", 50, Document::from_yaml(EXAMPLE).unwrap()),
        (
            "all but the 100 most used TCP ports",
            20,
            all_but_the_most_used().unwrap(),
        ),
        ("10,000 endpoints, 200 profiles", 10, fleet.document().unwrap()),
    ] {
        let (classes, rows) = from_nothing(&document);
        println!("{name}: {classes} classes, {rows} rows");
        group.sample_size(samples);
        group.bench_function(name, |b| b.iter(|| black_box(from_nothing(&document))));
    }
    group.finish();
}

/// A machine that has installed what it was told.
fn settle(machine: &mut OvsMachine) -> usize {
    let mut rows = 0;
    while let Some(batch) = machine.next_batch() {
        rows += batch.ops.len();
        machine.acknowledged();
    }
    rows
}

fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("one endpoint's change");
    for (endpoints, attached) in [(1_000, 1_000), (10_000, 2_000)] {
        let mut document = Fleet::hosting(endpoints, 200, attached).document().unwrap();
        let mut compiler = Compiler::default();
        let mut paper = Paper::new(attached);
        let mut machine: OvsMachine = Machine::default();
        machine.connected();
        machine.ready();
        machine.observed(Observed {
            ours: Vec::new(),
            foreign: Vec::new(),
        });
        let intent = compiler.resolve(&document, 1);
        let rows = paper.rows(&intent).unwrap();
        println!(
            "{endpoints} endpoints, {attached} of them attached: {} rows",
            count(&rows)
        );
        machine.set_desired(1, rows);
        settle(&mut machine);
        let (mut n, mut written) = (0, 0);
        group.bench_function(format!("{endpoints} endpoints, {attached} attached"), |b| {
            b.iter_batched(
                || {
                    let name: Name = endpoint_name((n / 2 % attached as u64) as u32).parse().unwrap();
                    document = changed(&document, &name, n).unwrap();
                    n += 1;
                    (document.clone(), n + 1)
                },
                |(document, generation)| {
                    let intent = compiler.resolve(&document, generation);
                    machine.set_desired(generation, paper.rows(&intent).unwrap());
                    written += settle(&mut machine);
                    // Dropped outside of the measurement.
                    document
                },
                BatchSize::PerIteration,
            );
        });
        println!("rows written per change: {:.1}", written as f64 / n as f64);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = documents, one_change
}
criterion_main!(benches);

//! The compiler's figures: allocations and bytes, of the same work that `compiler` takes the time of.
//!
//! `PORTCULLIS_CLASSBENCH=FOLDER` adds filter sets of one's own.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use portcullis_benches::compiled::{Standing, compiled, from_nothing};
use portcullis_benches::documents::{Fleet, changed, endpoint_name, telling_documents, with_blocked};
use portcullis_benches::filters;
use portcullis_policy::Verdict;

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

/// Runs once while allocations are counted, and prints how many, how many bytes, and the most at a time.
fn counted<T>(name: &str, what: impl FnOnce() -> T) -> T {
    let profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get();
    let value = what();
    let stats = dhat::HeapStats::get();
    drop(profiler);
    println!(
        "{name}: {} allocations, {:.2} MB, at most {:.2} MB at a time",
        stats.total_blocks - before.total_blocks,
        (stats.total_bytes - before.total_bytes) as f64 / 1e6,
        stats.max_bytes as f64 / 1e6
    );
    value
}

fn main() {
    for set in filters::sets().unwrap() {
        let intent = set.intent(Verdict::Deny).unwrap();
        counted(&set.name, || compiled(&intent, "p4-ternary"));
    }
    for (name, document) in telling_documents().unwrap() {
        counted(name, || from_nothing(&document, "ovs"));
    }
    let mut standing = Standing::new(Fleet::hosting(10_000, 200, 0).document().unwrap());
    let next = changed(&standing.document, &endpoint_name(1).parse().unwrap(), 1).unwrap();
    counted("one endpoint's change among 10,000", || standing.change(&next));
    let plain = Fleet::hosting(5_000, 1_000, 0).document().unwrap();
    let more = with_blocked(&plain, 11_211).unwrap();
    let mut standing = Standing::new(plain);
    counted("baseline change that touches 1,000 classes", || {
        standing.change(&more)
    });
}

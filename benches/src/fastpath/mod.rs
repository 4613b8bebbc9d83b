//! The fast path without devices: cycles of the policy check, of parsing and of a frame's whole way; memory of an endpoint;
//! and one endpoint's change, until a worker would forward by it.

mod cycles;
mod fleet;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use portcullis_fastpath::{Action, Table};
use portcullis_switch::Hub;

use crate::report::{Section, Times};
use crate::{BenchError, Result};
use fleet::Made;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Rounds of each figure.
    pub rounds: usize,
    /// Endpoints, when one of them changes; and most of those whose memory is told.
    pub endpoints: u32,
    pub changes: usize,
}

/// Changes before those that count.
const WARM_UP: usize = 20;

/// Measures; each section is told when it is there.
pub fn run(options: Options, mut report: impl FnMut(Section)) -> Result<()> {
    report(cycles::section(options.rounds));
    let few = 1000.min(options.endpoints);
    let mut section = Section::new(
        "fastpath: memory, beyond classes that endpoints share",
        &[
            "endpoints",
            "source guard",
            "rows",
            "bytes an endpoint",
            "KiB of 10 classes each way",
        ],
    );
    section.note("rows are those that the agent writes for endpoints with a MAC, an IPv4 and an IPv6 address, 500 ports");
    let mut made = None;
    for guarded in [true, false] {
        for endpoints in [few, options.endpoints] {
            let mut fleet = fleet::made(endpoints, guarded)?;
            let memory = fleet.tables.publish().memory();
            let each = memory.endpoints as f64 / f64::from(endpoints);
            section.row([
                endpoints.to_string(),
                if guarded { "yes" } else { "no" }.to_string(),
                fleet.rows.to_string(),
                format!("{each:.0}"),
                (memory.classes / 1024).to_string(),
            ]);
            let kind = if guarded { "guarded" } else { "unguarded" };
            section.figure(format!("{endpoints} {kind} endpoints, bytes each"), each);
            made = Some(fleet);
        }
    }
    report(section);
    if let Some(made) = made {
        report(changes(made, options)?);
    }
    Ok(())
}

/// One endpoint gets another class, again and again.
fn changes(mut made: Made, options: Options) -> Result<Section> {
    let mut section = Section::new(
        format!(
            "fastpath: one of {} endpoints gets another class, ms",
            options.endpoints
        ),
        &["until", "p50", "p99", "max"],
    );
    section.note(format!(
        "{} changes, one after the other; the snapshot before is freed in between",
        options.changes
    ));
    section.note("published: rows changed, compiled, and the snapshot swapped; taken up: a thread that polls as a worker does forwards by it");
    let hub = Hub::new(made.tables.publish(), 1);
    let mut view = hub.view(0);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let polling = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            std::hint::black_box(view.newest());
        }
    });
    let mut times: [Times; 2] = Default::default();
    let attached = made.attached.len().max(1);
    for n in 0..options.changes + WARM_UP {
        let Some((row, class)) = made.attached.get(n * 7919 % attached).copied() else {
            break;
        };
        // Another profile's class, and the next time its own again.
        let other = made
            .attached
            .get((n * 7919 + 1) % attached)
            .map_or(class, |(_, class)| *class);
        let next = if (n / attached).is_multiple_of(2) {
            other
        } else {
            class
        };
        let began = Instant::now();
        let changed = made.tables.modify(row, Action::SetClass(next));
        let snapshot = made.tables.publish();
        let generation = snapshot.generation();
        hub.publish(snapshot);
        let published = began.elapsed();
        while !hub.adopted(generation) {
            std::hint::spin_loop();
        }
        let taken_up = began.elapsed();
        if !matches!(changed, Ok(true)) {
            return Err(BenchError::Untrue(format!(
                "a row of {:?} does not change: {changed:?}",
                Table::Attach
            )));
        }
        if n >= WARM_UP {
            for (times, time) in times.iter_mut().zip([published, taken_up]) {
                times.push(time);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    // It does not panic.
    let _ended = polling.join();
    for (name, times) in ["published", "taken up"].into_iter().zip(&mut times) {
        section.quantiles(name, times);
    }
    Ok(section)
}

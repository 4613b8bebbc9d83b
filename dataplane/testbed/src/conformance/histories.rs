//! Random histories: documents and faults arrive at any point.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::suite::Run;
use super::{Fault, Scene, Subject};

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A document of [`Scene::ALL`].
    Set(usize),
    /// A fault of [`Fault::ALL`], at a batch or to a row.
    Fault(usize, usize),
    Turns(usize),
    Release,
    RestartAgent,
    OthersLeave,
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..Scene::ALL.len()).prop_map(Event::Set),
        4 => (0..Fault::ALL.len(), 0..40usize).prop_map(|(fault, nth)| Event::Fault(fault, nth)),
        4 => (1..6usize).prop_map(Event::Turns),
        2 => Just(Event::Release),
        1 => Just(Event::RestartAgent),
        1 => Just(Event::OthersLeave),
        1 => Just(Event::Settle),
    ]
}

fn play<S: Subject>(history: &[Event]) {
    let mut run = Run::<S>::at(Scene::CLOSED);
    for event in history {
        match *event {
            Event::Set(scene) => {
                run.set(Scene::ALL[scene]);
            }
            Event::Fault(fault, nth) => {
                let fault = Fault::ALL[fault];
                // A change has four batches at most. A fault that a subject lacks does not happen.
                let nth = if fault.meets_a_write() { nth % 4 } else { nth };
                run.fault(fault, nth);
            }
            Event::Turns(turns) => {
                for _ in 0..turns {
                    run.subject.turn();
                    run.look();
                }
            }
            Event::Release => run.release(),
            Event::RestartAgent => run.subject.restart_agent(),
            Event::OthersLeave => run.subject.others_leave(),
            Event::Settle => {
                run.subject.others_leave();
                run.release();
                run.settle();
            }
        }
        run.look();
    }
    run.subject.others_leave();
    run.release();
    run.settle();
    // What others did to rows that no probe meets is seen by reading back.
    run.subject.read_back();
    run.settle();
    run.a_new_agent_writes_nothing();
}

/// Whatever happens, in the end the datapath has the rows and the verdicts of the newest document, and no others.
pub fn every_history_ends_with_the_newest_document<S: Subject>() {
    let mut runner = TestRunner::new(Config {
        cases: S::HISTORIES,
        failure_persistence: None,
        max_shrink_iters: 200,
        max_shrink_time: 20_000,
        ..Config::default()
    });
    let result = runner.run(&proptest::collection::vec(event(), 1..24), |history| {
        play::<S>(&history);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

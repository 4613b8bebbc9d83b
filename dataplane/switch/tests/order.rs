//! In which order a change reaches NICs and workers: rules that would be wrong go before the new tables, others come after.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use portcullis_fastpath::Tables;
use portcullis_nic::{Offloads, PortReport, RowReport, Senders};
use portcullis_switch::engine::SetProgram;
use portcullis_switch::hub::View;
use portcullis_switch::nic::NicThread;
use portcullis_switch::{Engine, Hub, Sums};

use crate::rig::{Entry, RANGE, attach, policy};

/// Ports whose NICs take rules; every other port has none.
const PORTS: [u16; 2] = [1, 2];

/// What NICs were asked for, with the generation of the tables that workers could have by then.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Before(Vec<u16>, u64),
    After(Vec<u16>, u64),
}

#[derive(Debug)]
struct Recorder {
    ports: BTreeSet<u16>,
    hub: Arc<Hub>,
    asked: Mutex<Vec<Asked>>,
}

impl Recorder {
    fn generation(&self) -> u64 {
        self.hub.view(usize::MAX).newest().generation()
    }

    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Offloads for Recorder {
    fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    fn before(&self, senders: Vec<(u16, Senders)>) -> Vec<String> {
        let ports = senders.iter().map(|(port, _)| *port).collect();
        let asked = Asked::Before(ports, self.generation());
        self.asked.lock().unwrap().push(asked);
        Vec::new()
    }

    fn after(&self, ports: &BTreeSet<u16>) {
        let asked = Asked::After(ports.iter().copied().collect(), self.generation());
        self.asked.lock().unwrap().push(asked);
    }

    fn count(&self, _: u32) -> portcullis_nic::Count {
        portcullis_nic::Count::default()
    }

    fn fill(&self, _: &AtomicBool) {}

    fn look(&self, _: &dyn Fn(u32) -> u64, _: &AtomicBool) {}

    fn report(&self) -> (Vec<PortReport>, Vec<RowReport>) {
        (Vec::new(), Vec::new())
    }
}

/// An engine with a program, for so many workers, and what its NICs are asked for.
async fn engine(workers: usize) -> (Engine, Arc<Recorder>, NicThread, Vec<View>) {
    let tables = Tables::default();
    let hub = Hub::new(tables.current(), workers);
    let mut views: Vec<View> = (0..workers).map(|slot| hub.view(slot)).collect();
    for view in &mut views {
        view.newest();
    }
    let recorder = Arc::new(Recorder {
        ports: PORTS.into(),
        hub: Arc::clone(&hub),
        asked: Mutex::default(),
    });
    let nics: Arc<dyn Offloads> = recorder.clone();
    let thread = NicThread::start(Arc::clone(&nics), Sums::default()).unwrap();
    let engine = Engine::new(tables, hub, Sums::default()).with_nics(nics, thread.wake());
    let config = Some(RANGE.config.clone());
    engine
        .set_program(SetProgram::Replace, config, || Ok(()))
        .await
        .unwrap();
    recorder.take();
    (engine, recorder, thread, views)
}

async fn write(engine: &Engine, entries: &[Entry]) -> bool {
    let updates: Vec<_> = entries.iter().map(Entry::insert).collect();
    let refused = engine.write(&updates, true, || Ok(())).await;
    refused.is_ok_and(|refused| refused.is_empty())
}

#[tokio::test]
async fn a_change_goes_to_nics_before_and_after_the_workers() {
    let (engine, recorder, _thread, _) = engine(0).await;
    let smtp = policy("egress_policy", 7, (25, 25), 9, false);
    assert!(write(&engine, &[attach(1, 7), attach(5, 7), smtp]).await);
    let generation = recorder.generation();
    // Port 5 has no NIC.
    let both = [
        Asked::Before(vec![1], generation - 1),
        Asked::After(vec![1], generation),
    ];
    assert_eq!(recorder.take(), both);
    // A row of the class alone.
    assert!(write(&engine, &[policy("egress_policy", 7, (445, 445), 9, false)]).await);
    assert_eq!(recorder.take().first(), Some(&Asked::Before(vec![1], generation)));
    // Another class is no port's.
    assert!(write(&engine, &[policy("egress_policy", 8, (25, 25), 9, false)]).await);
    assert!(
        recorder.take().iter().all(
            |asked| matches!(asked, Asked::Before(ports, _) | Asked::After(ports, _) if ports.is_empty())
        )
    );
}

#[tokio::test]
async fn ports_of_a_publication_that_failed_come_with_the_next() {
    let (engine, recorder, _thread, mut views) = engine(1).await;
    assert!(
        !write(&engine, &[attach(1, 7)]).await,
        "a worker has not taken it up"
    );
    assert!(
        matches!(recorder.take()[..], [Asked::Before(..)]),
        "and its rules are not created"
    );
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let worker = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Acquire) {
            for view in &mut views {
                view.newest();
            }
            std::thread::yield_now();
        }
    });
    assert!(write(&engine, &[attach(2, 7)]).await);
    stop.store(true, std::sync::atomic::Ordering::Release);
    worker.join().unwrap();
    let asked = recorder.take();
    assert!(
        matches!(&asked[..], [Asked::Before(before, _), Asked::After(after, _)] if before == &[2] && after == &[1, 2]),
        "{asked:?}"
    );
}

//! The conformance suite over the bare session machine and the model switch.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::SessionState;
use portcullis_backend::machine::{Batch, Desired, Machine};
use portcullis_policy::{Document, Verdict};
use portcullis_testbed::conformance::scene::PORTS;
use portcullis_testbed::conformance::{Fault, Plan, Probe, Report, Subject, Watch};
use portcullis_testbed::model::{FakeBody, FakeKey, FakeSwitch};

type Unit = (bool, u32);

/// A row at a port that no endpoint has.
const BESIDE: FakeKey = FakeKey::Port(77);
const MAIL: FakeKey = FakeKey::Port(2);

/// What is on the way.
#[derive(Debug)]
enum Held {
    Answer(bool),
    Batch(Batch<FakeKey, FakeBody>),
}

/// A class denies the TCP ports of its rows: row 0 stands for all others.
#[derive(Debug, Default)]
struct Model {
    switch: FakeSwitch,
    machine: Machine<Unit, FakeKey, FakeBody>,
    /// The ports of each class.
    classes: BTreeMap<BTreeSet<u16>, u32>,
    desired: Desired<Unit, FakeKey, FakeBody>,
    generation: u64,
    watch: Watch,
    plan: Plan,
    held: Option<Held>,
    executed: u64,
    drift: u64,
    /// Others changed our rows, and the machine has not read that yet: its batches may meet what it does not expect.
    meddled: bool,
}

impl Model {
    /// Executes a batch; what its answer says.
    fn execute(&mut self, batch: &Batch<FakeKey, FakeBody>) -> bool {
        let done = self.switch.execute(batch);
        self.executed += batch.ops.len() as u64;
        self.watch.see(|probe| meets(&self.switch, probe));
        // What others did is repaired row by row: until then a class may lack rows.
        assert!(done.is_ok() || self.meddled, "{done:?}");
        done.is_ok()
    }

    fn execute_and_answer(&mut self, batch: &Batch<FakeKey, FakeBody>) {
        if self.execute(batch) {
            self.machine.acknowledged();
        } else {
            self.machine.rejected();
        }
    }

    fn carry(&mut self, batch: Batch<FakeKey, FakeBody>) {
        match self.plan.due() {
            Some(Fault::Refuse) => self.machine.rejected(),
            Some(Fault::BreakBefore) => self.machine.disconnected(),
            Some(Fault::BreakAfter) => {
                self.execute(&batch);
                self.machine.disconnected();
            }
            Some(Fault::Lose) => {
                self.execute(&batch);
                self.machine.rejected();
            }
            Some(Fault::Hold) => {
                let done = self.execute(&batch);
                self.held = Some(Held::Answer(done));
            }
            Some(Fault::HoldBefore) => self.held = Some(Held::Batch(batch)),
            _ => self.execute_and_answer(&batch),
        }
    }

    fn desire(&mut self, document: &Document) -> Desired<Unit, FakeKey, FakeBody> {
        let mut units = Desired::new();
        for (number, endpoint) in [(1, "web"), (2, "mail")] {
            let probes = PORTS.map(|port| Probe { endpoint, port });
            let says = probes.map(|probe| (probe.port, probe.says(document)));
            if says.iter().any(|(_, says)| says.is_none()) {
                continue;
            }
            let denied = says.iter().filter(|(_, says)| *says == Some(Verdict::Deny));
            let denied: BTreeSet<u16> = denied.map(|(port, _)| *port).collect();
            let fresh = self.classes.len() as u32 + 10;
            let class = *self.classes.entry(denied.clone()).or_insert(fresh);
            let size = denied.len() as u32 + 1;
            let rows = std::iter::once(0).chain(denied.into_iter().map(u32::from));
            let rows = rows.map(|row| (FakeKey::Class(class, row), size)).collect();
            units.insert((false, class), Arc::new(rows));
            units.insert((true, number), Arc::new(vec![(FakeKey::Port(number), class)]));
        }
        units
    }

    fn nth(&self, nth: usize) -> Option<(FakeKey, FakeBody)> {
        let rows = &self.switch.rows;
        rows.iter().nth(nth % rows.len().max(1)).map(|(k, b)| (*k, *b))
    }
}

fn meets(switch: &FakeSwitch, probe: &Probe) -> Option<Verdict> {
    let class = *switch.rows.get(&FakeKey::Port(probe.number().into()))?;
    let has = |row: u16| switch.rows.contains_key(&FakeKey::Class(class, row.into()));
    // A class without its rows denies what they would allow.
    Some(if has(0) && !has(probe.port) {
        Verdict::Allow
    } else {
        Verdict::Deny
    })
}

impl Subject for Model {
    const LACKS: &'static [Fault] = &[];
    const HISTORIES: u32 = 500;
    const PATIENCE: usize = 64;

    fn start(watch: Watch) -> Self {
        Model {
            watch,
            ..Model::default()
        }
    }

    fn attachment(endpoint: &str) -> String {
        format!("interface: {endpoint}")
    }

    fn set(&mut self, document: &Document, generation: u64) {
        self.desired = self.desire(document);
        self.generation = generation;
        self.machine.set_desired(generation, self.desired.clone());
    }

    fn turn(&mut self) {
        if self.machine.state() == SessionState::Disconnected {
            self.held = None;
            self.machine.connected();
            self.machine.ready();
        } else if self.machine.begin_observation() {
            let seen = self.switch.observe();
            self.drift += self.machine.observed(seen).len() as u64;
            self.meddled &= self.held.is_some() || self.switch.whole().is_err();
        } else if let Some(batch) = self.machine.next_batch() {
            self.carry(batch);
        } else {
            self.machine.request_resync();
        }
    }

    fn read_back(&mut self) {
        self.machine.request_resync();
        for _ in 0..4 {
            self.turn();
        }
    }

    fn report(&self) -> Report {
        let (wanted, applied) = self.machine.generations();
        Report {
            state: self.machine.state(),
            wanted,
            applied,
            writes: self.machine.writes(),
            drift: self.drift,
            foreign: self.machine.foreign() as u64,
        }
    }

    fn rows(&self) -> BTreeSet<String> {
        self.switch.rows.iter().map(|row| format!("{row:?}")).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        self.switch.foreign.iter().map(|key| format!("{key:?}")).collect()
    }

    fn others_leave(&mut self) {
        self.switch.foreign.clear();
    }

    fn executed(&self) -> u64 {
        self.executed
    }

    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        meets(&self.switch, probe)
    }

    fn fault(&mut self, fault: Fault, nth: usize) -> bool {
        self.meddled |= !fault.meets_a_write();
        match fault {
            Fault::Restart => {
                self.switch.rows.clear();
                self.switch.foreign.clear();
                self.held = None;
                self.machine.disconnected();
            }
            Fault::DeleteRow => {
                if let Some((key, _)) = self.nth(nth) {
                    self.switch.rows.remove(&key);
                }
            }
            Fault::AlterRow => {
                if let Some((key, body)) = self.nth(nth) {
                    self.switch.rows.insert(key, body + 100);
                }
            }
            Fault::ForeignRow => {
                self.switch.foreign.insert(BESIDE);
            }
            Fault::ForeignInPlace => {
                self.switch.rows.remove(&MAIL);
                self.switch.foreign.insert(MAIL);
            }
            _ => self.plan.arm(fault, nth),
        }
        true
    }

    fn met(&self) -> u64 {
        self.plan.met()
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    fn release(&mut self) {
        self.plan.disarm();
        match self.held.take() {
            Some(Held::Answer(true)) => self.machine.acknowledged(),
            Some(Held::Answer(false)) => self.machine.rejected(),
            Some(Held::Batch(batch)) => self.execute_and_answer(&batch),
            None => {}
        }
    }

    fn restart_agent(&mut self) {
        (self.machine, self.held, self.drift) = (Machine::default(), None, 0);
        if self.generation > 0 {
            self.machine.set_desired(self.generation, self.desired.clone());
        }
    }
}

portcullis_testbed::conformance!(Model, lacks: []);

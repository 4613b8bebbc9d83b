//! A switch in memory, with keys of its own, for tests that drive a bare [`Machine`].
//!
//! It states the rules of a running datapath as checks on every single write: a class is complete before dispatch rows lead to it,
//! these never lead to a class that is gone, foreign rows stay, and nothing is written twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::SessionState;
use portcullis_backend::delta::{Key, Layer, Op};
use portcullis_backend::machine::{Batch, Desired, Machine, Observed};

use crate::conformance::Fault;

/// A row of the model switch: a dispatch row of a port leads to a class, a policy row belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FakeKey {
    /// Leads a port to a class.
    Port(u32),
    /// Row `n` of a class.
    Class(u32, u32),
}

impl Key for FakeKey {
    fn layer(&self) -> Layer {
        match self {
            FakeKey::Port(_) => Layer::Dispatch,
            FakeKey::Class(..) => Layer::Policy,
        }
    }

    fn table(&self) -> u8 {
        self.layer() as u8
    }

    fn class(&self) -> Option<u32> {
        match self {
            FakeKey::Port(_) => None,
            FakeKey::Class(class, ..) => Some(*class),
        }
    }

    fn priority(&self) -> i32 {
        0
    }
}

/// The body of a model row: for a dispatch row the class, for a policy row the class's size (how many rows make it whole).
pub type FakeBody = u32;

/// A switch that applies batches in memory and checks after each write that no rule of the running datapath is
/// broken.
#[derive(Debug, Default)]
pub struct FakeSwitch {
    /// Rows with our tag.
    pub rows: BTreeMap<FakeKey, FakeBody>,
    pub foreign: BTreeSet<FakeKey>,
    pub batches: u64,
}

/// A rule of the running datapath that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

impl FakeSwitch {
    /// Executes a batch in one transaction, checking every rule.
    pub fn execute(&mut self, batch: &Batch<FakeKey, FakeBody>) -> Result<(), Violation> {
        let broken = |text: String| Err(Violation(text));
        for op in &batch.ops {
            let there = self.rows.get(op.key()).copied();
            match op {
                _ if self.foreign.contains(op.key()) => {
                    return broken(format!("{op:?} touches a foreign row"));
                }
                Op::Add(..) if there.is_some() => return broken(format!("{op:?}: it is there already")),
                Op::Change(_, body) if there == Some(*body) => {
                    return broken(format!("{op:?} changes nothing"));
                }
                Op::Change(..) | Op::Delete(_) if there.is_none() => {
                    return broken(format!("{op:?}: it is not there"));
                }
                Op::Add(key, body) | Op::Change(key, body) => {
                    self.rows.insert(*key, *body);
                }
                Op::Delete(key) => {
                    self.rows.remove(key);
                }
            }
        }
        self.batches += 1;
        self.whole()
    }

    /// Every class that a port leads to is there as a whole.
    pub fn whole(&self) -> Result<(), Violation> {
        let classes: BTreeSet<(FakeKey, u32)> = self
            .rows
            .iter()
            .filter(|(key, _)| matches!(key, FakeKey::Port(_)))
            .map(|(key, class)| (*key, *class))
            .collect();
        for (port, class) in classes {
            let rows: Vec<u32> = self
                .rows
                .range(FakeKey::Class(class, 0)..=FakeKey::Class(class, u32::MAX))
                .map(|(_, n)| *n)
                .collect();
            if rows.is_empty() || rows.iter().any(|n| rows.len() != *n as usize) {
                return Err(Violation(format!(
                    "{port:?} leads to class {class}, which is not whole: {rows:?}"
                )));
            }
        }
        Ok(())
    }

    /// What a read-back shows.
    pub fn observe(&self) -> Observed<FakeKey, FakeBody> {
        Observed {
            ours: self.rows.iter().map(|(k, b)| (*k, *b)).collect(),
            foreign: self.foreign.iter().copied().collect(),
        }
    }
}

/// The desired state in which each port leads to a class of a given size.
pub fn desired(ports: &[(u32, u32)], size: u32) -> Desired<(bool, u32), FakeKey, FakeBody> {
    let mut units = Desired::new();
    for (port, class) in ports {
        units.insert((true, *port), Arc::new(vec![(FakeKey::Port(*port), *class)]));
        let rows = (0..size).map(|n| (FakeKey::Class(*class, n), size)).collect();
        units.insert((false, *class), Arc::new(rows));
    }
    units
}

/// Drives a machine against the model switch.
#[derive(Debug, Default)]
pub struct Driven {
    pub switch: FakeSwitch,
    /// The machine under test.
    pub machine: Machine<(bool, u32), FakeKey, FakeBody>,
}

impl Driven {
    /// Connects and reads back as often as the machine asks for it, and writes until nothing is left; meets
    /// `fault` at the first batch. An answer within 64 rounds or it is stuck.
    pub fn run(&mut self, mut fault: Option<Fault>) -> Result<(), Violation> {
        for _ in 0..64 {
            if self.machine.state() == SessionState::Disconnected {
                self.machine.connected();
                self.machine.ready();
            }
            if self.machine.begin_observation() {
                let seen = self.switch.observe();
                self.machine.observed(seen);
            }
            let Some(batch) = self.machine.next_batch() else {
                if self.machine.state() == SessionState::InSync {
                    return Ok(());
                }
                return Err(Violation(format!(
                    "stuck in {} with nothing to write",
                    self.machine.state()
                )));
            };
            match fault.take() {
                Some(Fault::Refuse) => self.machine.rejected(),
                Some(Fault::BreakBefore) => self.machine.disconnected(),
                Some(Fault::BreakAfter) => {
                    self.switch.execute(&batch)?;
                    self.machine.disconnected();
                }
                Some(Fault::Restart) => {
                    self.switch.rows.clear();
                    self.machine.disconnected();
                }
                Some(_) | None => {
                    self.switch.execute(&batch)?;
                    self.machine.acknowledged();
                }
            }
        }
        Err(Violation("not in sync after 64 rounds".to_string()))
    }

    /// Another program changes a row of ours; a read-back is asked for.
    pub fn meddle(&mut self, fault: Fault, nth: usize) {
        let Some((key, body)) = self
            .switch
            .rows
            .iter()
            .nth(nth % self.switch.rows.len().max(1))
            .map(|(k, b)| (*k, *b))
        else {
            return;
        };
        match fault {
            Fault::DeleteRow => {
                self.switch.rows.remove(&key);
            }
            _ => {
                self.switch.rows.insert(key, body.wrapping_add(1));
            }
        }
        self.machine.request_resync();
    }
}

//! A switch in memory, with faults, and the conformance suite for whoever drives a [`Machine`].
//!
//! The suite states the rules of a running datapath as checks on every single write: content is complete
//! before wiring leads to it, wiring never leads to content that is gone, foreign rows stay, nothing is
//! written twice, and in the end the switch holds exactly what is desired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delta::{Key, Layer, Op};
use crate::machine::{Batch, Desired, Machine, Observed};
use crate::status::SessionState;

/// A row of the model switch: wiring of a port leads to a class, content belongs to one.
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
            FakeKey::Port(_) => Layer::Wiring,
            FakeKey::Class(..) => Layer::Content,
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

/// The body of a model row: for wiring the class, for content the class's size (how many rows make it whole).
pub type FakeBody = u32;

/// A fault to be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The batch is refused as a whole.
    Refuse,
    /// The connection breaks before the batch is executed.
    BreakBefore,
    /// The connection breaks after the batch was executed and before the answer.
    BreakAfter,
    /// The switch restarts with empty tables.
    Restart,
    /// Somebody deletes a row of ours.
    DeleteRow,
    /// Somebody changes a row of ours.
    AlterRow,
}

/// The model switch.
#[derive(Debug, Default)]
pub struct FakeSwitch {
    /// Rows with our tag.
    pub rows: BTreeMap<FakeKey, FakeBody>,
    /// Rows of others.
    pub foreign: BTreeSet<FakeKey>,
    /// Batches executed.
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

    fn observe(&self) -> Observed<FakeKey, FakeBody> {
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
pub struct Conformance {
    /// The switch.
    pub switch: FakeSwitch,
    /// The machine under test.
    pub machine: Machine<(bool, u32), FakeKey, FakeBody>,
}

impl Conformance {
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
                Some(Fault::DeleteRow | Fault::AlterRow) | None => {
                    self.switch.execute(&batch)?;
                    self.machine.acknowledged();
                }
            }
        }
        Err(Violation("not in sync after 64 rounds".to_string()))
    }

    /// Somebody meddles with a row of ours; a read-back is asked for.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change_of_class_is_prepared_flipped_and_collected() {
        let mut c = Conformance::default();
        c.machine.set_desired(1, desired(&[(1, 10), (2, 10)], 3));
        c.run(None).unwrap();
        assert_eq!(c.machine.generations(), (1, 1));
        assert_eq!(c.switch.batches, 2);
        c.machine.set_desired(2, desired(&[(1, 11), (2, 10)], 3));
        c.run(None).unwrap();
        assert_eq!(c.machine.writes(), [8, 1, 0]);
        c.machine.set_desired(3, desired(&[(1, 11), (2, 11)], 3));
        c.run(None).unwrap();
        assert_eq!(
            c.machine.writes(),
            [8, 2, 3],
            "one flip, and the class nobody uses is collected"
        );
    }

    #[test]
    fn nothing_to_do_is_in_sync_at_once() {
        let mut c = Conformance::default();
        c.machine.set_desired(1, desired(&[(1, 10)], 3));
        c.run(None).unwrap();
        let batches = c.switch.batches;
        c.machine.set_desired(2, desired(&[(1, 10)], 3));
        assert_eq!(
            (c.machine.state(), c.machine.generations()),
            (SessionState::InSync, (2, 2))
        );
        // Another agent process finds everything in place.
        let mut fresh = Conformance {
            switch: std::mem::take(&mut c.switch),
            machine: Machine::default(),
        };
        fresh.machine.set_desired(2, desired(&[(1, 10)], 3));
        fresh.run(None).unwrap();
        assert_eq!(fresh.switch.batches, batches);
    }

    #[test]
    fn a_foreign_row_in_the_way_is_kept_and_reported() {
        let mut c = Conformance::default();
        c.switch.foreign.insert(FakeKey::Port(1));
        c.machine.set_desired(1, desired(&[(1, 10), (2, 10)], 1));
        assert!(c.run(None).is_err(), "it cannot be in sync");
        assert_eq!(c.machine.conflicts(), [&FakeKey::Port(1)]);
        assert_eq!(
            c.switch.rows.get(&FakeKey::Port(2)),
            Some(&10),
            "the others are realized"
        );
        assert!(c.switch.foreign.contains(&FakeKey::Port(1)));
    }

    #[test]
    fn drift_is_told_by_kind() {
        let mut c = Conformance::default();
        c.machine.set_desired(1, desired(&[(1, 10)], 2));
        c.run(None).unwrap();
        c.switch.rows.remove(&FakeKey::Class(10, 0));
        c.switch.rows.insert(FakeKey::Port(1), 99);
        c.switch.rows.insert(FakeKey::Class(7, 7), 1);
        c.machine.request_resync();
        assert!(c.machine.begin_observation());
        let seen = c.switch.observe();
        let drift = c.machine.observed(seen);
        assert_eq!(drift.missing, [FakeKey::Class(10, 0)]);
        assert_eq!(drift.altered, [FakeKey::Port(1)]);
        assert_eq!(drift.surplus, [FakeKey::Class(7, 7)]);
        c.switch.rows.remove(&FakeKey::Port(1));
        assert_eq!(c.machine.state(), SessionState::Applying);
    }

    #[test]
    fn rows_that_end_or_age_by_themselves_are_no_drift() {
        let mut c = Conformance::default();
        c.machine.set_desired(1, desired(&[(1, 10), (2, 10), (3, 10)], 2));
        c.run(None).unwrap();
        let writes = c.machine.writes();
        c.switch.rows.remove(&FakeKey::Port(1));
        c.switch.rows.insert(FakeKey::Port(2), 99);
        c.machine.request_resync();
        assert!(c.machine.begin_observation());
        c.machine.ended([FakeKey::Port(1)], |_| true);
        c.machine.became(FakeKey::Port(2), 99);
        let seen = c.switch.observe();
        assert!(c.machine.observed(seen).is_empty());
        assert_eq!(c.machine.state(), SessionState::Applying);
        let batch = c.machine.next_batch().unwrap();
        assert_eq!(batch.ops, [Op::Change(FakeKey::Port(2), 10)]);
        c.switch.execute(&batch).unwrap();
        c.machine.acknowledged();
        assert_eq!(c.machine.state(), SessionState::InSync);
        assert_eq!(c.machine.writes(), [writes[0], writes[1] + 1, writes[2]]);
        assert_eq!(c.machine.rows_in(Layer::Wiring as u8), 2);
        // Unchanged units bring nothing back; what is asked for anew is written.
        c.machine.set_desired(2, desired(&[(1, 10), (2, 10), (3, 10)], 2));
        assert_eq!(c.machine.state(), SessionState::InSync);
        c.machine.set_desired(3, desired(&[(2, 10), (3, 10)], 2));
        c.run(None).unwrap();
        c.machine.set_desired(4, desired(&[(1, 10), (2, 10), (3, 10)], 2));
        c.run(None).unwrap();
        assert!(c.switch.rows.contains_key(&FakeKey::Port(1)));
    }

    #[test]
    fn abandoned_content_goes_even_under_steady_change() {
        let mut c = Conformance::default();
        c.machine.set_desired(1, desired(&[(1, 1)], 4));
        c.run(None).unwrap();
        // A newer intent arrives after every flip, so that the collect step is never reached.
        for generation in 2..200u32 {
            c.machine
                .set_desired(u64::from(generation), desired(&[(1, generation)], 4));
            for _ in 0..2 {
                let batch = c.machine.next_batch().unwrap();
                c.switch.execute(&batch).unwrap();
                c.machine.acknowledged();
            }
        }
        assert!(c.switch.rows.len() <= 1 + 3 * 4, "{} rows", c.switch.rows.len());
    }

    fn fault() -> impl Strategy<Value = Option<Fault>> {
        prop_oneof![
            Just(None),
            Just(Some(Fault::Refuse)),
            Just(Some(Fault::BreakBefore)),
            Just(Some(Fault::BreakAfter)),
            Just(Some(Fault::Restart)),
        ]
    }

    proptest! {
        #[test]
        fn every_history_ends_in_sync(
            history in proptest::collection::vec(
                (proptest::collection::btree_map(0u32..6, 0u32..4, 0..6), fault(), 0usize..40, any::<bool>()), 1..12)
        ) {
            let mut c = Conformance::default();
            c.switch.foreign.insert(FakeKey::Port(77));
            // No class is edited in place here: each keeps its size.
            for (generation, (ports, fault, nth, delete)) in (1u64..).zip(history) {
                let ports: Vec<(u32, u32)> = ports.into_iter().collect();
                let units = desired(&ports, 3);
                c.machine.set_desired(generation, units.clone());
                c.run(fault).map_err(|v| TestCaseError::fail(v.to_string()))?;
                let wanted: BTreeMap<FakeKey, FakeBody> =
                    units.values().flat_map(|u| u.iter().copied()).collect();
                prop_assert_eq!(&c.switch.rows, &wanted);
                prop_assert_eq!(c.machine.generations(), (generation, generation));
                for layer in [Layer::Content, Layer::Wiring] {
                    let rows = wanted.keys().filter(|k| k.layer() == layer).count() as u64;
                    prop_assert_eq!(c.machine.rows_in(layer as u8), rows);
                }
                if !c.switch.rows.is_empty() {
                    c.meddle(if delete { Fault::DeleteRow } else { Fault::AlterRow }, nth);
                    prop_assert!(c.machine.begin_observation());
                    let seen = c.switch.observe();
                    let drift = c.machine.observed(seen);
                    prop_assert_eq!(drift.len(), 1);
                    // Repaired row by row: a class may be incomplete until then, as somebody made it.
                    while let Some(batch) = c.machine.next_batch() {
                        let _meddled = c.switch.execute(&batch);
                        c.machine.acknowledged();
                    }
                    prop_assert_eq!(&c.switch.rows, &wanted);
                }
            }
            prop_assert!(c.switch.foreign.contains(&FakeKey::Port(77)));
        }
    }
}

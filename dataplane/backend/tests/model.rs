//! The session machine on the model switch, which checks every rule on every write.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use portcullis_backend::SessionState;
use portcullis_backend::delta::{Key, Layer, Op};
use portcullis_backend::machine::Machine;
use portcullis_testbed::conformance::Fault;
use portcullis_testbed::model::{Driven, FakeBody, FakeKey, desired};
use proptest::prelude::*;

#[test]
fn a_change_of_class_is_prepared_flipped_and_collected() {
    let mut c = Driven::default();
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
fn a_target_that_carries_out_a_batch_as_one_gets_all_at_once() {
    let mut c = Driven {
        machine: Machine::atomic(),
        ..Driven::default()
    };
    for (generation, class) in (1..).zip([10, 11, 12]) {
        c.machine
            .set_desired(generation, desired(&[(1, class), (2, class)], 3));
        c.run(None).unwrap();
        assert_eq!(c.switch.batches, generation);
    }
    assert_eq!(c.machine.writes(), [11, 4, 6]);
    // Many rows that nothing needs do not hold up what packets meet.
    c.machine.set_desired(4, desired(&[(1, 20)], 300));
    c.run(None).unwrap();
    let batches = c.switch.batches;
    c.machine.set_desired(5, desired(&[(1, 21)], 3));
    let first = c.machine.next_batch().unwrap();
    assert_eq!(first.ops.len(), 4);
    c.switch.execute(&first).unwrap();
    c.machine.acknowledged();
    c.run(None).unwrap();
    assert_eq!((c.switch.batches, c.switch.rows.len()), (batches + 2, 4));
}

#[test]
fn nothing_to_do_is_in_sync_at_once() {
    let mut c = Driven::default();
    c.machine.set_desired(1, desired(&[(1, 10)], 3));
    c.run(None).unwrap();
    let batches = c.switch.batches;
    c.machine.set_desired(2, desired(&[(1, 10)], 3));
    assert_eq!(
        (c.machine.state(), c.machine.generations()),
        (SessionState::InSync, (2, 2))
    );
    // Another agent process finds everything in place.
    let mut fresh = Driven {
        switch: std::mem::take(&mut c.switch),
        machine: Machine::default(),
    };
    fresh.machine.set_desired(2, desired(&[(1, 10)], 3));
    fresh.run(None).unwrap();
    assert_eq!(fresh.switch.batches, batches);
}

#[test]
fn a_foreign_row_in_the_way_is_kept_and_reported() {
    let mut c = Driven::default();
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
    let mut c = Driven::default();
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
    let mut c = Driven::default();
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
    assert_eq!(c.machine.rows_in(Layer::Dispatch as u8), 2);
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
    let mut c = Driven::default();
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
            (proptest::collection::btree_map(0u32..6, 0u32..4, 0..6), fault(), 0usize..40, any::<bool>()), 1..12),
        atomic in any::<bool>()
    ) {
        let mut c = Driven::default();
        if atomic {
            c.machine = Machine::atomic();
        }
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
            for layer in [Layer::Policy, Layer::Dispatch] {
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

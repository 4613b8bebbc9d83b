//! From a step to requests. P4Runtime lets a server carry out the updates of one request in any order (1.6.0, section
//! 12.2), so what has to come first goes into an earlier request, and waits for its answer.

use std::collections::BTreeSet;

use portcullis_backend::delta::{self, Key, Layer, Op, Step};
use portcullis_backend::machine::Batch;

use crate::entry::{Does, RowKey};
use crate::session::DeviceMachine;

/// Updates of one request at most: a request of them stays far below gRPC's 4 MiB.
pub const UPDATES: usize = 1000;

type Ops = Vec<Op<RowKey, Does>>;

/// Requests that may be on their way together; a group begins when the one before it is confirmed.
pub type Group = Vec<Ops>;

/// The requests of a step, in groups.
pub fn requests(batch: Batch<RowKey, Does>, machine: &DeviceMachine) -> Vec<Group> {
    let (mut groups, abandoned) = match batch.step {
        Step::Prepare => {
            let used = in_use(&batch.ops, machine);
            delta::prepare(batch.ops, |class| used.contains(&class))
        }
        Step::Settle => {
            let desired: BTreeSet<u32> = machine.desired().keys().filter_map(Key::class).collect();
            delta::settle(batch.ops, |class| desired.contains(&class))
        }
        Step::Flip => flip(batch.ops),
        Step::Retire | Step::Collect => (Vec::new(), batch.ops),
    };
    let (classless, abandoned): (Ops, Ops) = abandoned.into_iter().partition(|op| holds_for_all(op.key()));
    groups.extend(delta::from_below(classless));
    let split = |ops: Ops| -> Group { ops.chunks(UPDATES).map(<[_]>::to_vec).collect() };
    let mut groups: Vec<Group> = groups.into_iter().map(split).collect();
    // No packet is on its way to what was abandoned, so that it goes beside whatever goes first.
    match groups.first_mut() {
        Some(first) => first.extend(split(abandoned)),
        None => groups.push(split(abandoned)),
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The classes among those of some writes that have rows on the device.
fn in_use(ops: &Ops, machine: &DeviceMachine) -> BTreeSet<u32> {
    let touched: BTreeSet<u32> = ops.iter().filter_map(|op| op.key().class()).collect();
    let installed = machine.installed().keys().filter_map(Key::class);
    installed.filter(|class| touched.contains(class)).collect()
}

/// Whether packets of every class meet a policy row: one that holds for all classes, or one of a table that has no
/// classes and names ports. No flip takes packets away from such a row.
fn holds_for_all(key: &RowKey) -> bool {
    key.layer() == Layer::Policy && key.class().is_none()
}

/// What a sender may have as its source, the roles it has, and the groups that rows forward to are there before a row leads
/// to them. And the deletions of rows that nothing leads to any more.
fn flip(ops: Ops) -> (Vec<Ops>, Ops) {
    let (mut before, mut now, mut abandoned) = (Vec::new(), Vec::new(), Vec::new());
    for op in ops {
        match (&op, op.key().layer()) {
            (Op::Delete(_), Layer::Policy | Layer::Support) => abandoned.push(op),
            (_, Layer::Support) => before.push(op),
            _ => now.push(op),
        }
    }
    let groups = [before, now].into_iter().filter(|ops| !ops.is_empty());
    (groups.collect(), abandoned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Keyed, Match, Place};
    use portcullis_backend::machine::{Machine, Observed};
    use std::sync::Arc;

    fn key(class: u32, priority: i32) -> RowKey {
        RowKey(Arc::new(Keyed {
            place: Place::Table {
                table: 0,
                priority,
                fields: vec![(1, Match::Exact(class.into()))],
            },
            layer: Layer::Policy,
            class: Some(class),
        }))
    }

    fn does(id: u32) -> Does {
        Does::Action {
            id,
            params: Vec::new(),
        }
    }

    #[test]
    fn a_class_in_use_gets_its_rows_from_above_and_loses_them_from_below() {
        let mut machine: DeviceMachine = Machine::default();
        machine.connected();
        machine.ready();
        assert!(machine.begin_observation());
        machine.observed(Observed {
            ours: vec![(key(1, 5), does(1))],
            foreign: Vec::new(),
        });
        let add = |class, priority| Op::Add(key(class, priority), does(1));
        let ops = vec![add(1, 3), add(2, 1), add(1, 9), add(2, 8), Op::Delete(key(3, 1))];
        let used = in_use(&ops, &machine);
        let (groups, abandoned) = delta::prepare(ops, |class| used.contains(&class));
        assert_eq!(abandoned, [Op::Delete(key(3, 1))]);
        assert_eq!(groups[0], [add(2, 1), add(2, 8)]);
        assert_eq!(groups[1], [add(1, 9)]);
        assert_eq!(groups[2], [add(1, 3)]);
        let gone: Ops = [key(1, 9), key(3, 1), key(1, 3)].map(Op::Delete).to_vec();
        let (gone, abandoned) = delta::settle(gone, |class| class == 1);
        assert_eq!(gone, [[Op::Delete(key(1, 3))], [Op::Delete(key(1, 9))]]);
        assert_eq!(
            abandoned,
            [Op::Delete(key(3, 1))],
            "packets may still be on their way to it"
        );
    }

    /// A row of content that packets of every class, or of none, meet.
    fn shared(priority: i32) -> RowKey {
        let Place::Table { table, fields, .. } = key(1, priority).0.place.clone() else {
            return key(1, priority);
        };
        RowKey(Arc::new(Keyed {
            place: Place::Table {
                table,
                priority,
                fields,
            },
            layer: Layer::Policy,
            class: None,
        }))
    }

    #[test]
    fn rows_without_a_class_go_from_below_whatever_the_step() {
        let machine = DeviceMachine::default();
        for step in [Step::Prepare, Step::Settle, Step::Retire, Step::Collect] {
            let ops = [shared(9), key(3, 5), shared(2), key(3, 1)].map(Op::Delete);
            let batch = Batch {
                step,
                ops: ops.to_vec(),
            };
            assert_eq!(
                requests(batch, &machine),
                [
                    vec![
                        vec![Op::Delete(shared(2))],
                        [key(3, 5), key(3, 1)].map(Op::Delete).to_vec()
                    ],
                    vec![vec![Op::Delete(shared(9))]],
                ],
                "{step:?}"
            );
        }
    }

    #[test]
    fn a_flip_has_what_it_leads_to_first_and_deletes_abandoned_rows_beside_it() {
        let of = |id, layer| {
            RowKey(Arc::new(Keyed {
                place: Place::Group(id),
                layer,
                class: None,
            }))
        };
        let ops = vec![
            Op::Change(of(1, Layer::Dispatch), does(1)),
            Op::Add(of(2, Layer::Support), does(1)),
            Op::Delete(of(3, Layer::Dispatch)),
            Op::Delete(of(4, Layer::Support)),
            Op::Delete(key(5, 1)),
        ];
        let batch = Batch {
            step: Step::Flip,
            ops: ops.clone(),
        };
        let one = |n: usize| ops[n].clone();
        assert_eq!(
            requests(batch, &DeviceMachine::default()),
            [
                vec![vec![one(1)], vec![one(3), one(4)]],
                vec![vec![one(0), one(2)]]
            ]
        );
    }
}

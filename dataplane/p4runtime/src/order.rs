//! From a step to requests. P4Runtime lets a server carry out the updates of one request in any order (1.6.0, section
//! 12.2), so what has to come first goes into an earlier request, and waits for its answer.

use std::collections::BTreeSet;

use portcullis_backend::delta::{self, Key, Op, Step};
use portcullis_backend::machine::Batch;

use crate::device::Device;
use crate::entry::{Does, RowKey};
use crate::own::is_guard;
use crate::session::DeviceMachine;

/// Updates of one request at most: a request of them stays far below gRPC's 4 MiB.
pub const UPDATES: usize = 1000;

type Ops = Vec<Op<RowKey, Does>>;

/// Requests that may be on their way together; a group begins when the one before it is confirmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Packets that were led to these rows before they were abandoned may still be on their way through the device: it
    /// is given a moment first. P4Runtime has no barrier for packets.
    pub drain: bool,
    /// What is written.
    pub requests: Vec<Ops>,
}

/// The requests of a step, in groups.
pub fn requests(device: &Device, batch: Batch<RowKey, Does>, machine: &DeviceMachine) -> Vec<Group> {
    let (groups, abandoned) = match batch.step {
        Step::Prepare => {
            let used = in_use(&batch.ops, machine);
            delta::prepare(batch.ops, |class| used.contains(&class))
        }
        Step::Settle => (delta::settle(batch.ops), Vec::new()),
        Step::Flip => flip(device, batch.ops),
        Step::Collect => (Vec::new(), batch.ops),
    };
    let group = |ops: Ops, drain: bool| Group {
        drain,
        requests: ops.chunks(UPDATES).map(<[_]>::to_vec).collect(),
    };
    let groups = groups.into_iter().map(|ops| group(ops, false));
    groups
        .chain([group(abandoned, true)])
        .filter(|g| !g.requests.is_empty())
        .collect()
}

/// The classes among those of some writes that have rows on the device.
fn in_use(ops: &Ops, machine: &DeviceMachine) -> BTreeSet<u32> {
    let touched: BTreeSet<u32> = ops.iter().filter_map(|op| op.key().class()).collect();
    let installed = machine.installed().keys().filter_map(Key::class);
    installed.filter(|class| touched.contains(class)).collect()
}

/// What a sender may have as its source is there before `attach` leads to it, and goes when it no longer does.
fn flip(device: &Device, ops: Ops) -> (Vec<Ops>, Ops) {
    let (mut before, mut now, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for op in ops {
        let guard = device.table(op.key().table()).is_some_and(|t| is_guard(&t.name));
        match &op {
            Op::Delete(_) => after.push(op),
            _ if guard => before.push(op),
            _ => now.push(op),
        }
    }
    (vec![before, now], after)
}

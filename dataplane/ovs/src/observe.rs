//! Classifies rows that were read back: ours, foreign, ended. Pure: the time is an argument.

use std::collections::HashSet;
use std::time::Duration;

use portcullis_openflow::FlowStats;
use portcullis_openflow::instruction::canonical;

use crate::expiry::{Lifetime, is_due};
use crate::flow::{Flow, FlowBody, FlowIdentity, FlowKey, SharedIdentity};
use crate::regs;
use crate::session::OvsMachine;
use crate::session::former::{Former, Left};
use crate::tables::{Pipeline, Table};

/// What a read-back showed.
#[derive(Debug, Default)]
pub(crate) struct ReadRows {
    /// Ours, as they are installed or desired where they do the same; only those that the machine was not given yet.
    pub ours: Vec<Flow>,
    /// Those of others in our tables; only those that the machine was not given yet.
    pub foreign: Vec<FlowKey>,
    /// Rows that ended by themselves, as they were meant to.
    pub ended: Vec<FlowKey>,
    /// Rows of ours that time alone made wrong: they have too little left, or end a little off.
    pub strayed: Vec<Flow>,
    /// When the next row will have.
    pub refresh_at: Option<Duration>,
    /// How many rows of this agent stand elsewhere, by tag and table.
    pub elsewhere: Left,
}

/// Everything was read: rows whose moment has come and that were not seen have ended as they were meant to.
pub(crate) fn finish(read_rows: &mut ReadRows, machine: &OvsMachine, now: Duration) {
    let known = machine.desired().iter().chain(machine.installed());
    let mut due: HashSet<FlowKey> = known
        .filter(|(_, body)| body.until.is_some_and(|until| is_due(until, now)))
        .map(|(key, _)| key.clone())
        .collect();
    due.retain(|key| !machine.was_read(key));
    if !due.is_empty() {
        for (key, _) in &read_rows.ours {
            due.remove(key);
        }
    }
    read_rows.ended = due.into_iter().collect();
    read_rows.ended.sort_unstable();
}

/// Sorts rows read back between two moments since the Unix epoch. What the switch learned on our behalf is not ours to compare.
pub(crate) fn sort(
    rows: Vec<FlowStats>,
    pipeline: &Pipeline,
    former: &Former,
    machine: &OvsMachine,
    [from, to]: [Duration; 2],
    read_rows: &mut ReadRows,
) {
    for row in rows {
        let tag = regs::tag(row.cookie);
        let was_ours = former.has(tag);
        let ours = tag == pipeline.tag || was_ours;
        let Some(table) = pipeline.table(row.table_id) else {
            if ours {
                *read_rows.elsewhere.entry((tag, row.table_id)).or_default() += 1;
            }
            continue;
        };
        if ours && regs::is_learned(row.cookie, table == Table::Flood) {
            // What was learned under an earlier tag would stay for as long as packets come.
            if was_ours {
                *read_rows.elsewhere.entry((tag, row.table_id)).or_default() += 1;
            }
            continue;
        }
        let place = FlowIdentity {
            table,
            priority: row.priority,
            matching: row.match_,
        };
        let key = SharedIdentity(place.into());
        if !ours {
            read_rows.foreign.push(key);
            continue;
        }
        let age = Duration::new(row.duration_sec.into(), row.duration_nsec);
        let lifetime = Lifetime::new(row.hard_timeout, row.idle_timeout, age, [from, to]);
        let seen = FlowBody {
            instructions: canonical(row.instructions).into(),
            generation: row.cookie & regs::GENERATION,
            until: lifetime.until(),
            former: was_ours,
        };
        let fits = |body: &FlowBody| {
            body.former == was_ours && body.does_the_same(&seen) && lifetime.fits(body.until, to)
        };
        let installed = machine.installed().get_key_value(&key);
        // Of ends that are nearly equal, the one that was written is meant.
        let written = installed.filter(|(_, body)| body.until.is_some() && fits(body));
        // Rows as desired share their memory with what is desired.
        let same = written.or_else(|| {
            machine
                .desired()
                .get_key_value(&key)
                .filter(|(_, body)| fits(body))
        });
        match same {
            Some((key, body)) => {
                let again = lifetime.refresh_at(body.until);
                read_rows.refresh_at = read_rows.refresh_at.into_iter().chain(again).min();
                read_rows.ours.push((key.clone(), body.clone()));
            }
            None => {
                if installed
                    .is_some_and(|(_, body)| body.does_the_same(&seen) && lifetime.has_strayed(body.until))
                {
                    read_rows.strayed.push((key.clone(), seen.clone()));
                }
                read_rows.ours.push((key, seen));
            }
        }
    }
}

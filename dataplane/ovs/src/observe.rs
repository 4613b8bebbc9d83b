//! Sorting rows that were read back. Pure: the time is an argument.

use std::collections::HashSet;
use std::time::Duration;

use portcullis_backend::machine::Observed;
use portcullis_openflow::FlowStats;
use portcullis_openflow::instruction::canonical;

use crate::expiry::{Lifetime, is_due};
use crate::flow::{Flow, FlowBody, FlowKey, Place, SharedPlace};
use crate::regs;
use crate::session::OvsMachine;
use crate::tables::Pipeline;

/// What a read-back showed.
#[derive(Debug)]
pub(crate) struct Sight {
    /// Ours, and those of others in our tables.
    pub observed: Observed<FlowKey, FlowBody>,
    /// Rows that ended by themselves, as they were meant to.
    pub ended: Vec<FlowKey>,
    /// Rows of ours that time alone made wrong: they have too little left, or end a little off.
    pub strayed: Vec<Flow>,
    /// When the next row will have.
    pub refresh_at: Option<Duration>,
}

/// Sorts rows read back between two moments since the Unix epoch. What the switch learned on our behalf is not ours to compare.
pub(crate) fn observe(
    rows: Vec<FlowStats>,
    pipeline: &Pipeline,
    machine: &OvsMachine,
    [from, to]: [Duration; 2],
) -> Sight {
    let mut sight = Sight {
        observed: Observed {
            ours: Vec::with_capacity(rows.len()),
            foreign: Vec::new(),
        },
        ended: Vec::new(),
        strayed: Vec::new(),
        refresh_at: None,
    };
    let known = machine.desired().iter().chain(machine.installed());
    let mut due: HashSet<FlowKey> = known
        .filter(|(_, body)| body.until.is_some_and(|until| is_due(until, to)))
        .map(|(key, _)| key.clone())
        .collect();
    for row in rows {
        let Some(table) = pipeline.table(row.table_id) else {
            continue;
        };
        let ours = regs::is_ours(pipeline.tag, row.cookie);
        if ours && regs::is_learned(row.cookie) {
            continue;
        }
        let place = Place {
            table,
            priority: row.priority,
            matching: row.match_,
        };
        let key = SharedPlace(place.into());
        if !ours {
            sight.observed.foreign.push(key);
            continue;
        }
        due.remove(&key);
        let age = Duration::new(row.duration_sec.into(), row.duration_nsec);
        let lifetime = Lifetime::of(row.hard_timeout, row.idle_timeout, age, [from, to]);
        let seen = FlowBody {
            instructions: canonical(row.instructions).into(),
            generation: row.cookie & regs::GENERATION,
            until: lifetime.until(),
        };
        let fits = |body: &FlowBody| body.does_the_same(&seen) && lifetime.fits(body.until, to);
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
                sight.refresh_at = sight.refresh_at.into_iter().chain(again).min();
                sight.observed.ours.push((key.clone(), body.clone()));
            }
            None => {
                if installed
                    .is_some_and(|(_, body)| body.does_the_same(&seen) && lifetime.has_strayed(body.until))
                {
                    sight.strayed.push((key.clone(), seen.clone()));
                }
                sight.observed.ours.push((key, seen));
            }
        }
    }
    sight.ended = due.into_iter().collect();
    sight.ended.sort_unstable();
    sight
}

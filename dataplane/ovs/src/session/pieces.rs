//! Reads rows back in pieces, so that no change waits for a whole read-back.
//!
//! The switch answers one request at a time, and a whole table is one answer: with tens of thousands of rows a change
//! would wait for it. So a read-back that need not hold up the writing asks for a piece, and for the next one when that is
//! answered; what there is to write goes out in between and waits for one piece at most. A large table is cut by the slice
//! that each row has in its cookie, and rows of others by where their cookie differs from ours. The machine knows which
//! rows were written meanwhile, of which the read-back says nothing.
//!
//! Where the rows are not known, after a connection or a refusal, nothing is written before they are: then all is asked at
//! once.

use std::collections::{BTreeMap, VecDeque};

use portcullis_backend::SessionState;
use portcullis_backend::machine::Observed;
use portcullis_openflow::{FlowStatsRequest, Message};

use super::{Event, Now, Purpose, Reading, Session, SessionError};
use crate::expiry;
use crate::flow::FlowBody;
use crate::observe::{ReadRows, finish, sort};
use crate::regs;
use crate::tables::Table;

/// Rows of a piece, about.
const PIECE: u64 = 1024;
/// Requests of a piece that hardly find anything, but search a whole table each.
const SEARCHES: usize = 4;

/// A read-back under way.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// Whether everything is asked at once, and nothing is written meanwhile.
    whole: bool,
    pieces: VecDeque<Vec<FlowStatsRequest>>,
    read_rows: ReadRows,
    counts: BTreeMap<u8, u64>,
}

impl Session {
    /// Begins a read-back that the machine wants.
    pub(super) fn begin_observation(&mut self) -> Result<(), SessionError> {
        let whole = self.machine.state() == SessionState::Observing;
        if whole && self.observation.as_ref().is_some_and(|o| !o.whole) {
            // What it showed is void: what became of a batch is not known.
            self.observation = None;
            self.readings.retain(|r| !matches!(r.purpose, Purpose::Piece));
            self.machine.observation_failed();
        }
        if !self.machine.begin_observation() {
            return Ok(());
        }
        let pieces = if whole {
            let requests = Table::all().map(|table| FlowStatsRequest {
                table_id: self.pipeline.number(table),
                ..FlowStatsRequest::default()
            });
            let requests = requests.chain(self.former.requests(&self.pipeline));
            VecDeque::from([requests.collect::<Vec<_>>()])
        } else {
            // What was read last, with rows of others, or what was written since.
            let rows = |table: Table, number: u8| {
                let read = self.counts.get(&number).copied().unwrap_or(0);
                read.max(self.machine.rows_in(table as u8))
            };
            Table::all()
                .flat_map(|table| {
                    let number = self.pipeline.number(table);
                    cut(self.pipeline.tag, number, rows(table, number))
                })
                .collect()
        };
        self.observation = Some(Observation {
            whole,
            pieces,
            ..Observation::default()
        });
        // The fragment mode is the bridge's: anybody may have set it.
        self.send(&Message::GetConfigRequest)?;
        Ok(())
    }

    /// Asks for the next piece when the one before was answered; behind what there is to write.
    pub(super) fn observe_next(&mut self, now: Now) -> Result<(), SessionError> {
        let asked = self.readings.iter().any(|r| matches!(r.purpose, Purpose::Piece));
        let next = self
            .observation
            .as_mut()
            .filter(|_| !asked)
            .and_then(|o| o.pieces.pop_front());
        match next {
            Some(piece) => self.start_reading(Purpose::Piece, piece, now.wall),
            None => Ok(()),
        }
    }

    /// A piece was read.
    pub(super) fn finish_piece(&mut self, reading: Reading, now: Now, events: &mut Vec<Event>) {
        let Some(mut observation) = self.observation.take() else {
            return;
        };
        for row in &reading.rows {
            *observation.counts.entry(row.table_id).or_default() += 1;
        }
        let between = [reading.since, now.wall];
        let (pipeline, former) = (&self.pipeline, &self.former);
        sort(
            reading.rows,
            pipeline,
            former,
            &self.machine,
            between,
            &mut observation.read_rows,
        );
        if observation.pieces.is_empty() {
            self.finish_observing(observation, now, events);
            return;
        }
        // Rows of tables that have moved wait for the end, where they are counted.
        if !self.former.moved {
            let read_rows = &mut observation.read_rows;
            self.machine.observed_part(Observed {
                ours: std::mem::take(&mut read_rows.ours),
                foreign: std::mem::take(&mut read_rows.foreign),
            });
        }
        self.observation = Some(observation);
    }

    fn finish_observing(&mut self, observation: Observation, now: Now, events: &mut Vec<Event>) {
        let mut read_rows = observation.read_rows;
        finish(&mut read_rows, &self.machine, now.wall);
        self.counts = observation.counts;
        // Rows written since the read-back began have set a time of their own.
        self.refresh_at = self.refresh_at.into_iter().chain(read_rows.refresh_at).min();
        if observation.whole {
            self.former.left = std::mem::take(&mut read_rows.elsewhere);
            self.former.anywhere = false;
        }
        // Rows of tables that have moved say nothing about the tables of now: they go with the first write.
        let ours = read_rows.ours.len() as u64;
        if self.former.moved && ours + self.left_over() == 0 {
            self.former.moved = false;
        } else if self.former.moved {
            self.former
                .left
                .insert((self.pipeline.tag, self.pipeline.first), ours);
            read_rows.ours.clear();
        }
        if !read_rows.ended.is_empty() {
            let over = |body: &FlowBody| body.until.is_some_and(|until| expiry::is_due(until, now.wall));
            self.machine.ended(read_rows.ended.iter().cloned(), over);
            events.push(Event::Ended(read_rows.ended));
        }
        for (key, body) in read_rows.strayed {
            self.machine.became(key, body);
        }
        let observed = Observed {
            ours: read_rows.ours,
            foreign: read_rows.foreign,
        };
        events.push(Event::Observed(self.machine.observed(observed)));
    }
}

/// The pieces of a table that held about this many rows.
fn cut(tag: u16, table_id: u8, rows: u64) -> Vec<Vec<FlowStatsRequest>> {
    let request = |(cookie, cookie_mask): (u64, u64)| FlowStatsRequest {
        table_id,
        cookie,
        cookie_mask,
        ..FlowStatsRequest::default()
    };
    if rows <= PIECE {
        return vec![vec![request((0, 0))]];
    }
    let bits = rows
        .div_ceil(PIECE)
        .next_power_of_two()
        .ilog2()
        .min(regs::SLICE_BITS);
    let parts = (0..1u64 << bits).map(|number| vec![request(regs::part(tag, number, bits))]);
    let others: Vec<FlowStatsRequest> = regs::other_tags(tag).map(request).collect();
    parts.chain(others.chunks(SEARCHES).map(<[_]>::to_vec)).collect()
}

//! Writes a batch of the machine as one atomic bundle and handles the reply.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_backend::delta::Op;
use portcullis_backend::machine::Batch;
use portcullis_backend::{REFUSED_AT_MOST, RefusedRow};
use portcullis_openflow::{
    BundleAdd, BundleControl, BundleKind, Command, FlowMod, Message, Version, bundle, encode,
};

use super::{Event, InFlight, Now, Session, SessionError};
use crate::expiry;
use crate::flow::{FlowBody, FlowKey, SharedIdentity, text};
use crate::regs;

/// All rows of a bundle or none, in their order.
const BUNDLE: u16 = bundle::flags::ATOMIC | bundle::flags::ORDERED;
/// Stands where no single row is to blame.
const WHOLE: &str = "the bundle";

impl Session {
    /// The messages of a write. A row whose moment has come is removed instead of written: without a timeout it would
    /// stay for ever. A removal is for every tag of this agent, and for no other.
    fn flow_mods(&self, op: &Op<FlowKey, FlowBody>, wall: Duration) -> Vec<FlowMod> {
        let SharedIdentity(place) = op.key();
        let base = FlowMod {
            table_id: self.pipeline.number(place.table),
            priority: place.priority,
            match_: place.matching.clone(),
            ..FlowMod::default()
        };
        let written = match op {
            Op::Add(_, body) | Op::Change(_, body) => match body.until {
                None => Some((body, 0)),
                Some(until) => expiry::timeout(until, wall).map(|seconds| (body, seconds)),
            },
            Op::Delete(_) => None,
        };
        match written {
            Some((body, hard_timeout)) => vec![FlowMod {
                command: Command::Add,
                cookie: regs::cookie(self.pipeline.tag, body.generation) | regs::slice(place),
                hard_timeout,
                instructions: body.instructions.to_vec(),
                ..base
            }],
            None => {
                let tags = self.former.all_tags(&self.pipeline).into_iter();
                tags.map(|tag| FlowMod {
                    command: Command::DeleteStrict,
                    cookie: regs::cookie(tag, 0),
                    cookie_mask: regs::TAG_MASK,
                    ..base.clone()
                })
                .collect()
            }
        }
    }

    fn bundle_control(&mut self, bundle_id: u32, kind: BundleKind) -> Result<u32, SessionError> {
        let control = BundleControl {
            bundle_id,
            kind,
            flags: BUNDLE,
        };
        self.send(&Message::BundleControl(control))
    }

    fn add_to_bundle(&mut self, bundle_id: u32, row: FlowMod) -> Result<u32, SessionError> {
        self.xid = self.xid.wrapping_add(1).max(1);
        let add = Message::BundleAdd(BundleAdd {
            bundle_id,
            flags: BUNDLE,
            message: Box::new((self.xid, Message::FlowMod(row))),
        });
        let version = self.version.unwrap_or(Version::V1_5);
        encode(&add, version, self.xid, &mut self.output)?;
        Ok(self.xid)
    }

    pub(super) fn send_batch(
        &mut self,
        batch: Batch<FlowKey, FlowBody>,
        wall: Duration,
    ) -> Result<(), SessionError> {
        self.bundle = self.bundle.wrapping_add(1).max(1);
        let bundle_id = self.bundle;
        self.bundle_control(bundle_id, BundleKind::OpenRequest)?;
        let moves = std::mem::take(&mut self.former.moved);
        if moves {
            for row in self.former.wipe(&self.pipeline) {
                self.add_to_bundle(bundle_id, row)?;
            }
            // Nothing of the old rows counts as installed, so that this is all of the new ones.
            self.former.left.clear();
        }
        let mut rows = HashMap::new();
        let mut timed = None;
        for op in &batch.ops {
            for row in self.flow_mods(op, wall) {
                let xid = self.add_to_bundle(bundle_id, row)?;
                rows.insert(xid, op.key().clone());
            }
            if let Op::Add(_, FlowBody { until, .. }) | Op::Change(_, FlowBody { until, .. }) = op {
                timed = timed.or(until.map(|_| wall));
                let again = until.and_then(|until| expiry::refresh_at(until, wall));
                self.refresh_at = self.refresh_at.into_iter().chain(again).min();
            }
        }
        let barrier = self.send(&Message::BarrierRequest)?;
        self.in_flight = Some(InFlight {
            bundle: bundle_id,
            timed,
            rows,
            barrier,
            commit: None,
            committed: false,
            refused: Vec::new(),
            moves,
        });
        Ok(())
    }

    pub(super) fn barrier(
        &mut self,
        xid: u32,
        now: Now,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        if self.former.removing.take_if(|barrier| *barrier == xid).is_some() {
            let former = std::mem::take(&mut self.former);
            events.push(Event::Removed(former.left.into_values().sum()));
            return Ok(());
        }
        let Some(mut batch) = self.in_flight.take_if(|b| b.barrier == xid) else {
            return Ok(());
        };
        if batch.commit.is_none() && batch.refused.is_empty() {
            batch.commit = Some(self.bundle_control(batch.bundle, BundleKind::CommitRequest)?);
            batch.barrier = self.send(&Message::BarrierRequest)?;
            self.in_flight = Some(batch);
        } else if batch.committed && batch.refused.is_empty() {
            self.machine.acknowledged();
            events.push(Event::Confirmed);
            // The switch counts from when it wrote a row.
            if batch.timed.is_some_and(|sent| expiry::is_slow(sent, now.wall)) {
                self.read_back();
            }
        } else {
            if batch.commit.is_none() {
                self.bundle_control(batch.bundle, BundleKind::DiscardRequest)?;
            }
            if batch.refused.is_empty() {
                batch.refused.push(RefusedRow {
                    row: WHOLE.to_string(),
                    why: "it was not committed".to_string(),
                });
            }
            self.machine.rejected();
            self.former.moved |= batch.moves;
            self.held = true;
            events.push(Event::Refused(batch.refused));
        }
        Ok(())
    }

    pub(super) fn error(&mut self, xid: u32, why: &str) -> Result<(), SessionError> {
        if let Some(batch) = &mut self.in_flight {
            let known = batch.rows.get(&xid).map(|key| text(&key.0, &[]));
            if known.is_some() || Some(xid) == batch.commit {
                let row = known.unwrap_or_else(|| WHOLE.to_string());
                if batch.refused.len() < REFUSED_AT_MOST {
                    batch.refused.push(RefusedRow {
                        row,
                        why: why.to_string(),
                    });
                }
                return Ok(());
            }
        }
        let what = if self.handshake.contains(&xid) {
            "the handshake"
        } else {
            "a request"
        };
        Err(SessionError::Refused {
            what,
            why: why.to_string(),
        })
    }
    /// Once everything is in force, what is left of earlier settings goes.
    pub(super) fn remove_left_over(&mut self) -> Result<(), SessionError> {
        let settled = self.machine.state() == portcullis_backend::SessionState::InSync;
        if !settled || self.former.is_over() || self.former.removing.is_some() {
            return Ok(());
        }
        for removal in self.former.removals() {
            self.send(&Message::FlowMod(removal))?;
        }
        self.former.removing = Some(self.send(&Message::BarrierRequest)?);
        Ok(())
    }
}

//! Status and log of the target.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_backend::machine::Desired;
use portcullis_backend::{Exposure, SessionState, TableUse, TargetContext, cause};
use portcullis_compiler::{CompileError, Unsupported};
use portcullis_ovsdb::Switch;
use portcullis_policy::text::with_causes;

use super::Driver;
use crate::caches::Progress;
use crate::flow::{FlowBody, FlowKey};
use crate::session::OvsMachine;
use crate::tables::{Pipeline, Table, flood};
use crate::units::UnitId;

/// What status says of a daemon with the fault that `caches.rs` describes.
const PURGES: &str = "purged after each change, because this release may update the wrong cached flow; fixed in \
                      2.17.8, 3.0.5, 3.1.3 and 3.2.0";

/// Drifted or refused rows named in the log; the rest is counted.
const NAMED: usize = 10;

impl Driver {
    pub(super) fn caches_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Nudge => {
                if let Err(error) = self.session.nudge() {
                    self.switch_lost(&with_causes(&error));
                }
            }
            Progress::Daemon { version, purges } => {
                self.status.versions.insert("vswitchd".to_string(), version);
                let note = if purges { PURGES } else { "" };
                self.status
                    .versions
                    .insert("datapath_caches".to_string(), note.to_string());
                self.status.versions.retain(|_, value| !value.is_empty());
            }
            Progress::Done(request) => {
                if self.caches.done(request) {
                    self.changed += 1;
                }
            }
            Progress::Unknown(why) => {
                if self.caches.unknown(why.clone()) {
                    self.changed += 1;
                    tracing::warn!(
                        target = self.name(),
                        why,
                        "it is not known whether cached flows follow the rows"
                    );
                }
            }
        }
    }

    pub(super) fn drifted(&mut self, drift: &portcullis_backend::machine::Drift<FlowKey>) {
        self.status.drift_repaired += drift.len() as u64;
        let kinds = [
            ("missing", &drift.missing),
            ("altered", &drift.altered),
            ("surplus", &drift.surplus),
        ];
        for (kind, keys) in kinds {
            for key in keys.iter().take(NAMED) {
                let row = crate::flow::text(&key.0, &[]);
                tracing::warn!(
                    target = self.name(),
                    kind,
                    row,
                    "a row had drifted; it is put right"
                );
            }
        }
        tracing::warn!(
            target = self.name(),
            missing = drift.missing.len(),
            altered = drift.altered.len(),
            surplus = drift.surplus.len(),
            "repairing drift"
        );
    }

    pub(super) fn ended(&mut self, keys: &[FlowKey]) {
        self.caches.ask_again();
        for key in keys.iter().take(NAMED) {
            let row = crate::flow::text(&key.0, &[]);
            tracing::info!(
                target = self.name(),
                row,
                "the switch removed a row at the end of an unlock"
            );
        }
    }

    pub(super) fn refused(&mut self, rows: &[crate::session::RefusedRow]) {
        for row in rows.iter().take(NAMED) {
            tracing::error!(
                target = self.name(),
                row = row.row,
                why = row.why,
                "the switch refused a row"
            );
        }
        let wait = self.timers.refused(self.time.uptime());
        let first = rows
            .first()
            .map(|r| format!("{}: {}", r.row, r.why))
            .unwrap_or_default();
        self.status.detail =
            format!("the switch refused {first}; the old rows stay; trying again in {wait:?}");
    }

    pub(super) fn publish(&mut self, context: &TargetContext) {
        let machine = &self.session.machine;
        let (wanted, applied) = machine.generations();
        let intent = self.intent.as_ref().map_or(0, |i| i.generation);
        let settled = machine.state() == SessionState::InSync;
        self.status.tables = tables(machine, self.units.pipeline(), &self.limits);
        self.status.foreign_rows = machine.foreign() as u64;
        self.status.left_over_rows = self.session.left_over();
        if settled {
            self.status.realized = self.ports.realized;
        }
        let caught_up = settled && self.caches.reached(applied, machine.writes());
        let uptime = self.time.uptime();
        if settled && !caught_up && self.caches.problem().is_some() {
            self.windows.opened(cause::CACHES, uptime);
        }
        if caught_up && self.mode.is_settled() && self.windows.close(uptime) {
            self.changed += 1;
        }
        self.status.open_millis = self.windows.millis(uptime);
        if self.reported != self.changed {
            self.reported = self.changed;
            self.status.pending = self.ports.pending.clone();
            self.status.unsupported = self.unsupported();
            self.status.exposures = self.exposures();
        }
        // Said as long as it holds, and only where nothing else is.
        let lent = (settled && !caught_up && self.status.detail.is_empty())
            .then(|| self.caches.problem())
            .flatten();
        if let Some(why) = lent {
            self.status.detail = format!(
                "generation {applied} holds for new flows; whether flows that the datapath has cached follow it is not \
                 known: {why}"
            );
        }
        let lent = lent.is_some();
        let status = &mut self.status;
        status.state = match machine.state() {
            _ if self.links.switch.is_none() => SessionState::Disconnected,
            SessionState::InSync if !caught_up => SessionState::Applying,
            state => state,
        };
        status.forget_while_away();
        status.wanted = intent.max(wanted);
        status.confirmed = applied;
        status.applied = self.caches.follow().min(applied);
        status.writes = machine.writes();
        let conflicts = machine.conflicts();
        if let Some(first) = conflicts
            .first()
            .filter(|_| machine.state() == SessionState::Applying)
        {
            status.detail = format!(
                "{} foreign rows stand where ours belong and are left alone; the first: {}; move them or set first_table",
                conflicts.len(),
                crate::flow::text(&first.0, &[])
            );
        }
        context.status.send_if_modified(|published| {
            let news = **published != *status;
            if news {
                *published = Arc::new(status.clone());
            }
            news
        });
        if lent {
            self.status.detail.clear();
        }
    }

    /// What is open, now or when something happens.
    fn exposures(&self) -> Vec<Exposure> {
        self.fail_mode_exposure().into_iter().collect()
    }

    pub(super) fn unsupported(&self) -> Vec<Unsupported> {
        let mut list = self.ports.unsupported.clone();
        if let Some(why) = self.caches.problem() {
            list.push(Unsupported {
                target: self.name().to_string(),
                rule: "flows that are established when a rule changes".to_string(),
                table: "datapath".to_string(),
                why: format!(
                    "whether the datapath's caches follow a change is not known, so that changes count as confirmed and \
                     never as applied: {why}"
                ),
            });
        }
        if let Some(why) = &self.footprint.problem {
            list.push(Unsupported {
                target: self.name().to_string(),
                rule: "removal of rows when `first_table` or `cookie` changes".to_string(),
                table: "every table".to_string(),
                why: format!(
                    "the tag and the tables in use could not be recorded ({why}): keep both settings until the agent was \
                     started again without this message"
                ),
            });
        }
        if let Some(why) = &self.floods.problem {
            list.push(Unsupported {
                target: self.name().to_string(),
                rule: "frames that NORMAL floods".to_string(),
                table: "flood".to_string(),
                why: format!(
                    "policed ports cannot be excepted from flooding ({why}): such frames reach them unpoliced"
                ),
            });
        }
        list
    }

    pub(super) fn uncompiled(&mut self, error: &CompileError) {
        tracing::error!(target = self.name(), %error, "an intent cannot be compiled; the old rows stay");
        self.status.detail = error.to_string();
        if let CompileError::Unsupported(value) = error {
            self.ports.unsupported.push(value.clone());
            self.changed += 1;
        }
    }

    /// Whether a table would hold more rows than it takes: then nothing is written, and the numbers are told.
    pub(super) fn overfull(&mut self, desired: &Desired<UnitId, FlowKey, FlowBody>) -> bool {
        if self.limits.is_empty() {
            return false;
        }
        let mut rows: BTreeMap<Table, u64> = BTreeMap::new();
        for (key, _) in desired.values().flat_map(|unit| unit.iter()) {
            *rows.entry(key.0.table).or_default() += 1;
        }
        let over = rows
            .into_iter()
            .find(|(table, count)| self.limits.get(table).is_some_and(|limit| count > limit));
        let Some((table, count)) = over else { return false };
        let limit = self.limits.get(&table).copied().unwrap_or(0);
        let why = format!(
            "it would hold {count} rows and takes {limit} (Flow_Table:flow_limit): the old rows stay; raise the limit, \
             or let endpoints share profiles instead of having rules of their own"
        );
        tracing::error!(
            target = self.name(),
            table = table.name(),
            count,
            limit,
            "a table is too small"
        );
        self.status.detail = format!("table {}: {why}", table.name());
        let target = self.name().to_string();
        let rule = "the policy as a whole".to_string();
        self.ports.unsupported.push(Unsupported {
            target,
            rule,
            table: table.name().to_string(),
            why,
        });
        true
    }

    pub(super) fn too_many_receivers(&mut self) {
        let receivers = flood::Receivers::new(self.ports.ports.values(), self.ports.forwarding.exit);
        for (vid, count) in receivers.too_many() {
            self.ports.unsupported.push(Unsupported {
                target: self.name().to_string(),
                rule: format!("frames to many receivers in VLAN {vid}"),
                table: "flood".to_string(),
                why: format!(
                    "{count} receivers, and Open vSwitch processes {} per packet: those beyond get no broadcasts; \
                     spread the endpoints over VLANs or bridges",
                    flood::MAX_RECEIVERS
                ),
            });
        }
    }

    pub(super) fn versions(&mut self, switch: &Switch) {
        for (name, value) in [
            ("ovs_version", &switch.ovs_version),
            ("dpdk_version", &switch.dpdk_version),
        ] {
            if let Some(value) = value {
                self.status.versions.insert(name.to_string(), value.clone());
            }
        }
    }
}

fn tables(machine: &OvsMachine, pipeline: &Pipeline, limits: &BTreeMap<Table, u64>) -> Vec<TableUse> {
    Table::all()
        .map(|table| TableUse {
            table: table.name().to_string(),
            number: Some(u32::from(pipeline.number(table))),
            rows: machine.rows_in(table as u8),
            size: limits.get(&table).copied(),
        })
        .collect()
}

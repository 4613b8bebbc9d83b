//! Status and log of the target.

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::delta::Key;
use portcullis_backend::{SessionState, TableUse, TargetContext, cause};
use portcullis_compiler::Unsupported;

use super::Driver;
use crate::config::PipelineSource;
use crate::entry::GROUPS;
use crate::session::{Event, Mastership, RESOURCE_EXHAUSTED, Refused};
use crate::wire::text;

/// Drifted or refused rows named in the log; the rest is counted.
const NAMED: usize = 10;

impl Driver {
    pub(super) fn events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Mastership(mastership) => {
                    if mastership == Mastership::Primary {
                        self.attempts.worked();
                    }
                    self.mastership(mastership);
                }
                Event::Pipeline { pushed } => {
                    tracing::info!(
                        target = self.name(),
                        pushed,
                        "the device runs the program that is wanted"
                    );
                    if let Some(device) = self.session.device() {
                        let (name, version) = &device.program;
                        let program = format!("{name} {version}").trim().to_string();
                        self.status.versions.insert("program".to_string(), program);
                    }
                    self.status.detail.clear();
                }
                Event::NoPolicy => {
                    self.status.detail =
                        "no policy was ever applied: the device keeps the program it runs, if any"
                            .to_string();
                }
                Event::ForeignPipeline(name) => {
                    let named = if name.is_empty() {
                        "a P4 program without a name".to_string()
                    } else {
                        format!("the P4 program `{name}`")
                    };
                    self.status.detail = format!(
                        "the device runs {named}, which is left alone: set overwrite_pipeline = true to replace it, or \
                         program = \"device\" with a mapping to use its tables"
                    );
                    tracing::warn!(
                        target = self.name(),
                        detail = self.status.detail,
                        "a foreign program"
                    );
                }
                Event::PipelineRefused(why) => {
                    tracing::warn!(target = self.name(), why, "the device cannot be used");
                    self.status.detail = why;
                    if self.backend.config().program == PipelineSource::Embedded {
                        self.status.detail += "; a portcullis-switch of another release goes on with its rows until it is restarted";
                    }
                }
                Event::Drifted(drift) => {
                    self.rows_drifted();
                    self.status.drift_repaired += drift.len() as u64;
                    if let Some(device) = self.session.device() {
                        let all = drift.missing.iter().map(|k| ("missing", k));
                        let all = all.chain(drift.altered.iter().map(|k| ("altered", k)));
                        let all = all.chain(drift.surplus.iter().map(|k| ("surplus", k)));
                        for (kind, key) in all.take(NAMED) {
                            let row = text(device, key, None);
                            tracing::warn!(
                                target = self.name(),
                                kind,
                                row,
                                "a row had drifted; it is put right"
                            );
                        }
                    }
                    tracing::warn!(target = self.name(), rows = drift.len(), "repairing drift");
                }
                Event::Unread(why) => {
                    tracing::warn!(target = self.name(), why, "a call failed; the rows are read back");
                    self.status.detail = why;
                    self.again();
                }
                Event::Confirmed => {
                    self.timers.confirmed();
                    self.status.detail.clear();
                }
                Event::Refused { rows, full } => {
                    self.refused(&rows, full);
                    if full {
                        self.narrow();
                        self.problem = Some(self.too_small(&rows));
                    }
                }
            }
        }
    }

    /// Rows were not as they were written: since the last look at them, packets may have passed that they stop. Without any
    /// row our own program passes nothing.
    fn rows_drifted(&mut self) {
        let own = self.session.device().is_some_and(|device| device.is_own());
        if !own || !self.session.machine.installed().is_empty() {
            let now = self.time.uptime();
            self.windows.opened(cause::ROWS, self.read_at.unwrap_or(now));
        }
    }

    /// Tries again, after a wait that grows.
    pub(super) fn again(&mut self) -> Duration {
        self.timers.refused(self.time.uptime())
    }

    fn refused(&mut self, rows: &[Refused], full: bool) {
        let mut told = Vec::new();
        if let Some(device) = self.session.device() {
            for row in rows.iter().take(NAMED) {
                let rule = self.built.as_ref().and_then(|b| b.hits.get(&row.key));
                let rule = rule.map_or(String::new(), |hit| format!(" ({})", hit.rule));
                told.push(format!("{}{rule}: {}", text(device, &row.key, None), row.message));
            }
        }
        for row in &told {
            tracing::error!(target = self.name(), row, "the device refused a row");
        }
        let wait = self.again();
        let first = told.first().cloned().unwrap_or_default();
        let more = if rows.len() > 1 {
            format!(" and {} more rows", rows.len() - 1)
        } else {
            String::new()
        };
        self.status.detail = if full {
            format!(
                "the device has no room for {first}{more}: the old rows stay, and what was written of the new ones is \
                 taken back; trying again in {wait:?}"
            )
        } else {
            format!("the device refused {first}{more}; the old rows stay; trying again in {wait:?}")
        };
    }

    /// What the device cannot do, as long as the newest policy does not fit.
    fn too_small(&self, rows: &[Refused]) -> Unsupported {
        let full = rows.iter().find(|row| row.code == RESOURCE_EXHAUSTED);
        let device = self.session.device();
        let table = full
            .zip(device)
            .and_then(|(row, device)| device.table(Key::table(&row.key)));
        Unsupported {
            target: self.name().to_string(),
            rule: "the policy as a whole".to_string(),
            table: table.map_or_else(String::new, |table| table.name.clone()),
            why: format!(
                "{}; what the newest policy closes is closed, by ending unlocks where there is no other way",
                self.status.detail
            ),
        }
    }

    pub(super) fn publish(&mut self, context: &TargetContext) {
        let state = self.session.state();
        let (wanted, applied) = self.session.machine.generations();
        let intent = self.intent.as_ref().map_or(0, |i| i.generation);
        self.status.tables = self.tables();
        self.status.foreign_rows = self.session.machine.foreign() as u64;
        self.status.pending = self.points.pending.clone();
        self.status.unsupported = self.unsupported();
        let settled = state == SessionState::InSync;
        if settled {
            self.status.realized = self.points.realized;
            if let Some(last) = self.last.as_ref().filter(|last| last.generation == applied) {
                self.held = Some(Arc::clone(last));
            }
        }
        let conflict = self
            .session
            .machine
            .conflicts()
            .first()
            .filter(|_| state == SessionState::Applying)
            .zip(self.session.device())
            .map(|(key, device)| text(device, key, None));
        let status = &mut self.status;
        status.state = match state {
            // Another state that fits is there; the newest is not.
            SessionState::InSync if wanted < intent => SessionState::Applying,
            state => state,
        };
        status.forget_while_away();
        let uptime = self.time.uptime();
        if status.state == SessionState::InSync {
            self.windows.close(uptime);
        }
        status.open_millis = self.windows.millis(uptime);
        status.wanted = intent.max(wanted);
        status.confirmed = applied;
        status.applied = applied;
        status.writes = self.session.machine.writes();
        if let Some(row) = conflict {
            status.detail =
                format!("a foreign row stands where ours belongs and is left alone: {row}; remove it");
        }
        context.status.send_if_modified(|told| {
            let news = **told != *status;
            if news {
                *told = Arc::new(status.clone());
            }
            news
        });
    }

    fn unsupported(&self) -> Vec<Unsupported> {
        let built = self.built.iter().flat_map(|b| b.unsupported.iter().cloned());
        // How a foreign program forwards is its own affair.
        let own = self.session.device().is_some_and(|device| device.is_own());
        let list = self.points.unsupported.iter().filter(|_| own).cloned();
        list.chain(built).chain(self.problem.clone()).collect()
    }

    fn tables(&self) -> Vec<TableUse> {
        let Some(device) = self.session.device() else {
            return Vec::new();
        };
        let rows = |number| self.session.machine.rows_in(number);
        let mut tables: Vec<TableUse> = (0u8..)
            .zip(&device.tables)
            .filter(|(_, t)| device.is_own() || t.stage != portcullis_compiler::model::Role::Other)
            .map(|(number, table)| TableUse {
                table: table.name.clone(),
                number: Some(table.id),
                rows: rows(number),
                size: table.size,
            })
            .collect();
        if device.is_own() {
            tables.push(TableUse {
                table: "multicast_group".to_string(),
                number: None,
                rows: rows(GROUPS),
                size: None,
            });
        }
        tables
    }
}

//! Status and log of the target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::delta::Key;
use portcullis_backend::{LeftRules, Lists, RefusedRow, Report, TableUse};
use portcullis_compiler::{ClassId, Unsupported};

use super::Driver;
use crate::config::PipelineSource;
use crate::device::Device;
use crate::entry::{GROUPS, RowKey};
use crate::limits;
use crate::session::{Event, Mastership, RESOURCE_EXHAUSTED, Refused};
use crate::wire::text;

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
                        self.state.status.versions.insert("program".to_string(), program);
                    }
                    self.state.status.detail.clear();
                }
                Event::NoPolicy => {
                    self.state.status.detail =
                        "no policy was ever applied: the device keeps the program it runs, if any"
                            .to_string();
                }
                Event::ForeignPipeline(name) => {
                    let named = if name.is_empty() {
                        "a P4 program without a name".to_string()
                    } else {
                        format!("the P4 program `{name}`")
                    };
                    self.state.status.detail = format!(
                        "the device runs {named}, which is left alone: set overwrite_pipeline = true to replace it, or \
                         program = \"device\" with a mapping to use its tables"
                    );
                    tracing::warn!(
                        target = self.name(),
                        detail = self.state.status.detail,
                        "a foreign program"
                    );
                }
                Event::PipelineRefused(why) => {
                    tracing::warn!(target = self.name(), why, "the device cannot be used");
                    self.state.status.detail = why;
                    if self.backend.config().program == PipelineSource::Embedded {
                        self.state.status.detail += "; a portcullis-switch of another release goes on with its rows until it is restarted";
                    }
                }
                Event::Drifted(drift) => {
                    self.rows_drifted();
                    let device = self.session.device();
                    self.state.drifted(&drift, |key| shown(device, key));
                }
                Event::Unread(why) => {
                    tracing::warn!(target = self.name(), why, "a call failed; the rows are read back");
                    self.state.status.detail = why;
                    self.state.timers.refused(self.time.uptime());
                }
                Event::Confirmed => self.state.confirmed(),
                Event::Refused { rows, full } => {
                    self.refused(&rows, full);
                    if full {
                        self.state.is_behind = true;
                        self.narrow();
                        self.problem = Some(self.too_small(&rows));
                        self.state.lists_changed();
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
            self.state.drift_opened(self.time.uptime());
        }
    }

    fn refused(&mut self, rows: &[Refused], full: bool) {
        let device = self.session.device();
        let hits = self.built.as_ref().map(|built| &built.hits);
        let rows: Vec<RefusedRow> = rows
            .iter()
            .map(|Refused { key, message, .. }| {
                let rule = hits.and_then(|hits| hits.get(key));
                let rule = rule.map_or(String::new(), |hit| format!(" ({})", hit.rule));
                RefusedRow {
                    row: shown(device, key) + &rule,
                    why: message.clone(),
                }
            })
            .collect();
        self.state.refused(self.time.uptime(), &rows, full);
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
                self.state.status.detail
            ),
        }
    }

    /// How the session stands. A device follows its rows at once.
    pub(super) fn reported(&mut self) -> Report {
        let device = self.session.device();
        let report = Report::from_machine(&self.session.machine, |key| shown(device, key), "remove them");
        let state = self.session.state();
        if self.session.machine.is_in_force()
            && let Some(last) = self.last.as_ref()
            && last.generation == report.confirmed
        {
            self.held = Some(Arc::clone(last));
        }
        Report {
            state,
            tables: self.tables(),
            realized: self.points.resolution.realized,
            ..report
        }
    }

    pub(super) fn listed(&self) -> Lists {
        Lists {
            pending: self.points.resolution.pending.clone(),
            unsupported: self.unsupported(),
            exposures: Vec::new(),
            left: self.left(),
        }
    }

    /// Rules that are left to nearer targets, by the ids that the agent has for classes.
    fn left(&self) -> LeftRules {
        let left = self.built.iter().flat_map(|built| &built.left);
        let by_class = left.filter_map(|(number, left)| {
            let class = self.numbered.numbers().class(number.0)?;
            Some((class, left.rules.clone()))
        });
        let rules: BTreeMap<ClassId, BTreeSet<String>> = by_class.collect();
        match rules.is_empty() {
            true => LeftRules::default(),
            false => LeftRules {
                rules,
                endpoints: self.points.policed_behind.clone(),
            },
        }
    }

    fn unsupported(&self) -> Vec<Unsupported> {
        let built = self.built.iter().flat_map(|b| b.unsupported.iter().cloned());
        // How a foreign program forwards is its own affair.
        let own = self.session.device().is_some_and(|device| device.is_own());
        let list = self.points.resolution.unsupported.iter().filter(|_| own).cloned();
        let ours = self.built.iter().flat_map(|b| b.desired.values());
        let ours = ours.flat_map(|unit| unit.iter().map(|(key, _)| key));
        let beside = self.session.device().filter(|device| !device.is_own());
        let beside = beside.map(|device| limits::beside(device, &self.foreign, ours, self.name()));
        let beside = beside.unwrap_or_default();
        list.chain(built)
            .chain(beside)
            .chain(self.problem.clone())
            .collect()
    }

    fn tables(&self) -> Vec<TableUse> {
        let Some(device) = self.session.device() else {
            return Vec::new();
        };
        let rows = |number| self.session.machine.rows_in(number);
        let bounds = self.backend.bounds();
        let bound = |name: &str| bounds.get(name).copied();
        let mut tables: Vec<TableUse> = (0u8..)
            .zip(&device.tables)
            .filter(|(_, t)| device.is_own() || t.stage != portcullis_compiler::model::Role::Other)
            .map(|(number, table)| TableUse {
                table: table.name.clone(),
                number: Some(table.id),
                rows: rows(number),
                size: bound(&table.name).map_or(table.size, |(size, _)| size),
                reserve: bound(&table.name).map_or(0, |(_, reserve)| reserve),
            })
            .collect();
        if device.is_own() {
            tables.push(TableUse {
                table: "multicast_group".to_string(),
                number: None,
                rows: rows(GROUPS),
                size: None,
                reserve: 0,
            });
        }
        tables
    }
}

/// A row as log and status show it.
fn shown(device: Option<&Arc<Device>>, key: &RowKey) -> String {
    device.map_or_else(String::new, |device| text(device, key, None))
}

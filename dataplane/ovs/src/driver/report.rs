//! Status and log of the target.

use std::collections::BTreeMap;

use portcullis_backend::{LeftRules, Lists, Report, SessionState, TableUse, cause};
use portcullis_compiler::Unsupported;
use portcullis_ovsdb::{Bridge, Datapath, Switch};
use portcullis_policy::text::with_causes;

use super::Driver;
use crate::caches::Progress;
use crate::session::OvsMachine;
use crate::tables::{Pipeline, Table, flood};

/// What status says of a daemon with the fault that `caches.rs` describes.
const PURGES: &str = "purged after each change, because this release may update the wrong cached flow; fixed in \
                      2.17.8, 3.0.5, 3.1.3 and 3.2.0";

impl Driver {
    pub(super) fn caches_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Nudge => {
                if let Err(error) = self.session.nudge() {
                    self.switch_lost(&with_causes(&error));
                }
            }
            Progress::Daemon { version, purges } => {
                self.state.status.versions.insert("vswitchd".to_string(), version);
                let note = if purges { PURGES } else { "" };
                self.state
                    .status
                    .versions
                    .insert("datapath_caches".to_string(), note.to_string());
                self.state.status.versions.retain(|_, value| !value.is_empty());
            }
            Progress::Done(request) => {
                if self.caches.done(request) {
                    self.state.lists_changed();
                }
            }
            Progress::Unknown(why) => {
                if self.caches.unknown(why.clone()) {
                    self.state.lists_changed();
                    tracing::warn!(
                        target = self.name(),
                        why,
                        "it is not known whether cached flows follow the rows"
                    );
                }
            }
        }
    }

    /// How the session stands. What holds for new flows counts as applied once the caches follow.
    pub(super) fn reported(&mut self) -> Report {
        let machine = &self.session.machine;
        let report = Report::from_machine(machine, super::shown, "move them or set first_table");
        let settled = machine.is_in_force();
        let caught_up = settled && self.caches.reached(report.confirmed, report.writes);
        let lags = self.caches.problem().filter(|_| settled && !caught_up);
        if lags.is_some() {
            self.state.windows.opened(cause::CACHES, self.time.uptime());
        }
        let note = lags.map(|why| {
            format!(
                "generation {} holds for new flows; whether flows that the datapath has cached follow it is not known: {why}",
                report.confirmed
            )
        });
        Report {
            state: match self.links.switch {
                Some(_) => report.state,
                None => SessionState::Disconnected,
            },
            applied: self.caches.follow(),
            is_followed: caught_up,
            may_lose_rows: !self.mode.is_settled(),
            left_over: self.session.left_over(),
            tables: tables(machine, self.units.pipeline(), &self.limits),
            realized: self.ports.resolution.realized,
            note,
            ..report
        }
    }

    pub(super) fn listed(&self) -> Lists {
        Lists {
            pending: self.ports.resolution.pending.clone(),
            unsupported: self.unsupported(),
            exposures: self.fail_mode_exposure().into_iter().collect(),
            left: LeftRules::default(),
        }
    }

    fn unsupported(&self) -> Vec<Unsupported> {
        let mut list = self.ports.resolution.unsupported.clone();
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

    pub(super) fn too_many_receivers(&mut self) {
        let receivers = flood::Receivers::new(self.ports.ports.values(), self.ports.forwarding.exit);
        for (vid, count) in receivers.too_many() {
            self.ports.resolution.cannot(
                format!("frames to many receivers in VLAN {vid}"),
                "flood",
                format!(
                    "{count} receivers, and Open vSwitch processes {} per packet: those beyond get no broadcasts; \
                     spread the endpoints over VLANs or bridges",
                    flood::MAX_RECEIVERS
                ),
            );
        }
    }

    pub(super) fn versions(&mut self, switch: &Switch, bridge: &Bridge) {
        let datapath = match bridge.datapath() {
            Datapath::Userspace => "userspace (netdev)".to_string(),
            Datapath::Kernel => "kernel (system)".to_string(),
            Datapath::Other(kind) => kind,
        };
        self.state
            .status
            .versions
            .insert("datapath".to_string(), datapath);
        for (name, value) in [
            ("ovs_version", &switch.ovs_version),
            ("dpdk_version", &switch.dpdk_version),
        ] {
            if let Some(value) = value {
                self.state.status.versions.insert(name.to_string(), value.clone());
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
            reserve: 0,
        })
        .collect()
}

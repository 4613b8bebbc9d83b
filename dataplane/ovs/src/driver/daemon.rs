//! Questions to ovs-vswitchd itself, by its control socket: cached flows and settings.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use portcullis_backend::timers::ANSWERS_WITHIN;
use portcullis_backend::{Answer, Check, Offload, QueryError};
use portcullis_openflow::{FlowStats, Instruction};
use portcullis_ovsdb::Datapath;

use super::Driver;
use super::answers::Asked;
use crate::doctor::{self, Said};
use crate::flow::FlowKey;
use crate::offload::Cached;
use crate::query;
use crate::regs;
use crate::tables::Table;
use crate::unixctl::{Daemon, Where};

const DUMP_FLOWS: &str = "dpctl/dump-flows";
const SHOW_UPCALLS: &str = "upcall/show";

/// Asks by a connection of its own, and gives up a daemon that does not answer.
async fn ask(place: &Where, command: &str, arguments: &[&str]) -> io::Result<(String, Daemon)> {
    let question = async {
        let mut daemon = Daemon::connect(place, command).await?;
        Ok((daemon.call(command, arguments).await?, daemon))
    };
    let late = || {
        let seconds = ANSWERS_WITHIN.as_secs();
        let why = format!("ovs-vswitchd has not answered `{command}` within {seconds} s");
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    tokio::time::timeout(ANSWERS_WITHIN, question)
        .await
        .map_err(|_| late())?
}

impl Driver {
    /// First the daemon's cached flows; then the MACs that the switch learned. The daemon is busy meanwhile, so that those who ask at
    /// the same time share one answer.
    pub(super) fn ask_for_offload(&mut self, answer: Answer<Offload>) {
        let Some(datapath) = self.dpctl_name() else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        self.await_dump.push(answer);
        if self.await_dump.len() > 1 {
            return;
        }
        let place = self.place.clone();
        let dumps = self.dumps.0.clone();
        tokio::spawn(async move {
            let asked = ask(&place, DUMP_FLOWS, &["-m", "--names", datapath]).await;
            // The target's task is gone when nothing receives it, and its questions with it.
            let _gone = dumps.send(asked.map(|(flows, _)| flows));
        });
    }

    /// The datapath of the bridge, as `dpctl` names it: all bridges of a type share one (`ovs-system`, `ovs-netdev`).
    fn dpctl_name(&self) -> Option<&'static str> {
        let switch = self.database.snapshot()?;
        match switch.bridges.get(self.bridge.as_ref()?)?.datapath() {
            Datapath::Kernel => Some("system@ovs-system"),
            Datapath::Userspace => Some("netdev@ovs-netdev"),
            Datapath::Other(_) => None,
        }
    }

    pub(super) fn dumped(&mut self, flows: io::Result<String>) {
        let answers = std::mem::take(&mut self.await_dump);
        let error = match flows {
            Ok(flows) if self.session.is_ready() => {
                let requests = query::table_requests(&[Table::L2], self.units.pipeline());
                return self.ask(Asked::Offload(flows, answers), requests);
            }
            Ok(_) => self.state.not_ready(),
            Err(error) => QueryError::Cache {
                target: self.state.name.clone(),
                why: error.to_string(),
            },
        };
        for answer in answers {
            drop(answer.send(Err(error.clone())));
        }
    }

    /// Finds the rules of the cached flows, beside the session: there may be 100,000 of them. `learned`: the rows of table `l2`, those
    /// that the switch learned among them.
    pub(super) fn answer_offload(
        &self,
        dump: String,
        learned: HashMap<FlowKey, FlowStats>,
        answers: Vec<Answer<Offload>>,
    ) {
        let pipeline = *self.units.pipeline();
        let installed = self.session.machine.installed().iter();
        let installed = installed.filter(|(key, _)| key.0.table != Table::L2);
        let rows: Vec<(FlowKey, Arc<[Instruction]>)> = installed
            .map(|(key, body)| (key.clone(), Arc::clone(&body.instructions)))
            .collect();
        let (ports, intent) = (self.ports.clone(), self.state.intent.clone());
        let switch = self.database.snapshot();
        let setting = switch.and_then(|switch| switch.other_config.get("hw-offload").cloned());
        let is_on = setting.as_deref() == Some("true");
        let backend = Arc::clone(&self.backend);
        tokio::task::spawn_blocking(move || {
            let rows = rows.iter().map(|(key, does)| (key.clone(), &**does));
            let ours = learned
                .iter()
                .filter(|(_, row)| regs::tag(row.cookie) == pipeline.tag);
            let learned = ours.map(|(key, row)| (key.clone(), &*row.instructions));
            let offload = match &intent {
                None => Ok(Offload::default()),
                Some(intent) => {
                    let cached = Cached::new(&dump, rows.chain(learned), &ports, &pipeline);
                    let mut programs = backend.proofs().of_session();
                    cached
                        .by_rule(is_on, intent, &ports, &mut programs, &pipeline)
                        .map_err(QueryError::from)
                }
            };
            for answer in answers {
                // The caller that asked may be gone.
                drop(answer.send(offload.clone()));
            }
        });
    }

    pub(super) fn look_at_settings(&self, answer: Answer<Vec<Check>>) {
        let switch = self.database.snapshot();
        let found = switch.and_then(|switch| {
            let bridge = switch.bridges.get(self.bridge.as_ref()?)?.clone();
            Some((switch, bridge))
        });
        let Some((switch, bridge)) = found else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        let place = self.place.clone();
        tokio::spawn(async move {
            let said = ask(&place, SHOW_UPCALLS, &[]).await;
            let said = said.map(|(upcalls, daemon)| Said {
                upcalls,
                version: daemon.version,
            });
            let said = said.map_err(|error| error.to_string());
            let checks = doctor::checks(&switch, &bridge, said.as_ref().map_err(String::as_str));
            // The caller that asked may be gone.
            let _gone = answer.send(Ok(checks));
        });
    }
}

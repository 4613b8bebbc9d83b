//! Answers to `plan`, `explain` and `hits`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::Duration;

use portcullis_backend::timers::ANSWERS_WITHIN;
use portcullis_backend::{Answer, Check, EnforcingRow, Hit, Offload, Plan, QueryError, SessionState, Trace};
use portcullis_compiler::Intent;
use portcullis_openflow::FlowStats;
use portcullis_ovsdb::Datapath;
use portcullis_policy::text::with_causes;

use super::Driver;
use crate::doctor::{self, Said};
use crate::flow::FlowKey;
use crate::offload::Cached;
use crate::ports::{Attachments, SwitchPort, resolve};
use crate::query;
use crate::tables::Table;
use crate::units::Units;
use crate::unixctl::Daemon;

/// A question that waits for the switch.
pub(super) enum Asked {
    Explain(Vec<FlowKey>, Answer<Vec<EnforcingRow>>),
    Hits(Answer<Vec<Hit>>),
    /// With what the daemon's datapath has cached.
    Offload(String, Answer<Offload>),
}

/// What the daemon said to a question about its cached flows.
pub(crate) struct Dump {
    flows: io::Result<String>,
    answer: Answer<Offload>,
}

const DUMP_FLOWS: &str = "dpctl/dump-flows";
const SHOW_UPCALLS: &str = "upcall/show";

impl Driver {
    pub(super) fn ask_for_hits(&mut self, answer: Answer<Vec<Hit>>) {
        let requests = query::hit_requests(self.units.pipeline());
        self.ask(Asked::Hits(answer), requests);
    }

    /// First the daemon's cached flows, by a connection of its own; then the MACs that the switch learned.
    pub(super) fn ask_for_offload(&mut self, answer: Answer<Offload>) {
        let Some(datapath) = self.dpctl_name() else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        let place = self.place.clone();
        let dumps = self.dumps.0.clone();
        tokio::spawn(async move {
            let ask = async {
                let mut daemon = Daemon::connect(&place, DUMP_FLOWS).await?;
                daemon.call(DUMP_FLOWS, &["-m", "--names", datapath]).await
            };
            let flows = ask.await;
            // The target's task is gone when nothing receives it, and its questions with it.
            let _gone = dumps.send(Dump { flows, answer });
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
            let ask = async {
                let mut daemon = Daemon::connect(&place, SHOW_UPCALLS).await?;
                io::Result::Ok(Said {
                    upcalls: daemon.call(SHOW_UPCALLS, &[]).await?,
                    version: daemon.version,
                })
            };
            let said = ask.await.map_err(|error| error.to_string());
            let checks = doctor::checks(&switch, &bridge, said.as_ref().map_err(String::as_str));
            // The caller that asked may be gone.
            let _gone = answer.send(Ok(checks));
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

    pub(super) fn dumped(&mut self, Dump { flows, answer }: Dump) {
        match flows {
            Ok(_) if !self.session.is_ready() => drop(answer.send(Err(self.state.not_ready()))),
            Ok(flows) => {
                let requests = query::table_requests(&[Table::L2], self.units.pipeline());
                self.ask(Asked::Offload(flows, answer), requests);
            }
            Err(error) => drop(answer.send(Err(QueryError::Cache {
                target: self.state.name.clone(),
                why: error.to_string(),
            }))),
        }
    }

    /// The cached flows by rule. `learned`: the rows of table `l2`, those that the switch learned among them.
    fn offloaded(&self, dump: &str, learned: &HashMap<FlowKey, FlowStats>) -> Result<Offload, QueryError> {
        let Some(intent) = &self.state.intent else {
            return Ok(Offload::default());
        };
        let pipeline = self.units.pipeline();
        let installed = self.session.machine.installed().iter();
        let installed = installed.filter(|(key, _)| key.0.table != Table::L2);
        let rows = installed.map(|(key, body)| (key.clone(), &*body.instructions));
        let learned = learned.iter().map(|(key, row)| (key.clone(), &*row.instructions));
        let cached = Cached::new(dump, rows.chain(learned), &self.ports, pipeline);
        let switch = self.database.snapshot();
        let setting = switch.and_then(|switch| switch.other_config.get("hw-offload").cloned());
        let mut programs = self.backend.proofs().of_session();
        let is_on = setting.as_deref() == Some("true");
        Ok(cached.by_rule(is_on, intent, &self.ports, &mut programs, pipeline)?)
    }

    pub(super) fn planned(&mut self, intent: &Intent) -> Result<Plan, QueryError> {
        let there = self.database.snapshot().zip(self.bridge.as_ref());
        let Some((switch, name)) = there else {
            return Err(self.state.not_ready());
        };
        let Some(bridge) = switch.bridges.get(name) else {
            return Err(self.state.not_ready());
        };
        let index = Attachments::new(intent, self.name());
        let wall = self.time.now().wall;
        let ports = resolve(
            &switch,
            bridge,
            intent,
            &index,
            self.backend.config(),
            wall,
            &self.ports,
        );
        let mut programs = self.backend.proofs().of_session();
        Ok(query::plan(
            intent,
            &ports,
            &self.session.machine,
            Units::new(*self.units.pipeline()),
            &self.limits,
            &mut programs,
        )?)
    }

    pub(super) fn ask_for_rows(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        let ports: Vec<SwitchPort> = self.ports.of(&trace.endpoint).into_iter().cloned().collect();
        let Some(intent) = self.state.intent.clone().filter(|_| !ports.is_empty()) else {
            return drop(answer.send(Err(self.state.not_here(&trace.endpoint))));
        };
        let mut keys: Vec<FlowKey> = Vec::new();
        for port in &ports {
            let mut programs = self.backend.proofs().of_session();
            let machine = &self.session.machine;
            match query::trace(
                trace,
                port,
                &intent,
                &mut programs,
                machine,
                self.units.pipeline(),
            ) {
                Ok(more) => keys.extend(more),
                Err(error) => return drop(answer.send(Err(error.into()))),
            }
        }
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        let requests = query::requests(&keys, self.units.pipeline());
        self.ask(Asked::Explain(keys, answer), requests);
    }

    pub(super) fn ask(&mut self, asked: Asked, requests: Vec<portcullis_openflow::FlowStatsRequest>) {
        self.question += 1;
        self.asked.insert(self.question, (self.time.uptime(), asked));
        if let Err(error) = self.session.read(self.question, requests) {
            self.switch_lost(&with_causes(&error));
        }
    }

    pub(super) fn answer(&mut self, number: u64, rows: Vec<FlowStats>) {
        let Some((_, asked)) = self.asked.remove(&number) else {
            return;
        };
        let pipeline = *self.units.pipeline();
        let seen = query::by_key(rows, &pipeline);
        match asked {
            Asked::Explain(keys, answer) => {
                let rows = query::enforcing(&keys, &seen, &self.session.machine, &pipeline);
                // Status must not call the target in sync while this answer calls a row missing.
                if rows.iter().any(|row| !row.present) {
                    self.session.machine.doubt();
                }
                self.state.after_publishing(move || drop(answer.send(Ok(rows))));
            }
            Asked::Hits(answer) => {
                let hits = match &self.state.intent {
                    Some(intent) => {
                        let mut programs = self.backend.proofs().of_session();
                        query::hits(&seen, intent, &self.ports, &mut programs, &pipeline)
                            .map_err(QueryError::from)
                    }
                    None => Ok(Vec::new()),
                };
                drop(answer.send(hits));
            }
            Asked::Offload(dump, answer) => drop(answer.send(self.offloaded(&dump, &seen))),
        }
    }

    /// Gives up questions that the switch has not answered in time.
    pub(super) fn give_up_late_questions(&mut self) {
        let now = self.time.uptime();
        let late = |since: Duration| now.saturating_sub(since) > ANSWERS_WITHIN;
        for (_, (_, asked)) in self.asked.extract_if(|_, (since, _)| late(*since)) {
            asked.refuse(QueryError::Timeout {
                target: self.state.name.clone(),
                seconds: ANSWERS_WITHIN.as_secs(),
            });
        }
    }

    /// The connection ended: nothing that was asked is answered.
    pub(super) fn refuse_questions(&mut self) {
        for (_, asked) in std::mem::take(&mut self.asked).into_values() {
            asked.refuse(QueryError::NotReady {
                target: self.state.name.clone(),
                state: SessionState::Disconnected,
            });
        }
    }
}

impl Asked {
    /// Answers that there is no answer.
    fn refuse(self, error: QueryError) {
        match self {
            Asked::Explain(_, answer) => drop(answer.send(Err(error))),
            Asked::Hits(answer) => drop(answer.send(Err(error))),
            Asked::Offload(_, answer) => drop(answer.send(Err(error))),
        }
    }
}

//! Answers to `plan`, `explain` and `hits`.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis_backend::timers::ANSWERS_WITHIN;
use portcullis_backend::{Answer, EnforcingRow, Hit, Offload, Plan, QueryError, SessionState, Trace};
use portcullis_compiler::Intent;
use portcullis_openflow::FlowStats;
use portcullis_policy::text::with_causes;

use super::Driver;
use crate::flow::FlowKey;
use crate::ports::{Attachments, SwitchPort, resolve};
use crate::query;
use crate::units::Units;

/// A question that waits for the switch.
pub(super) enum Asked {
    Explain(Vec<FlowKey>, Answer<Vec<EnforcingRow>>),
    Hits(Answer<Vec<Hit>>),
    /// With what the daemon's datapath has cached, and everybody who waits for it.
    Offload(String, Vec<Answer<Offload>>),
}

impl Driver {
    pub(super) fn ask_for_hits(&mut self, answer: Answer<Vec<Hit>>) {
        let requests = query::hit_requests(self.units.pipeline());
        self.ask(Asked::Hits(answer), requests);
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
            Asked::Offload(dump, answers) => self.answer_offload(dump, seen, answers),
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
            Asked::Offload(_, answers) => {
                for answer in answers {
                    drop(answer.send(Err(error.clone())));
                }
            }
        }
    }
}

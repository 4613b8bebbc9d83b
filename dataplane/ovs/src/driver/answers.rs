//! Answers to `plan`, `explain` and `hits`.

use std::collections::BTreeSet;

use portcullis_backend::{EnforcingRow, Hit, Query, QueryError, SessionState, Trace};
use portcullis_compiler::Intent;
use portcullis_openflow::FlowStats;
use portcullis_policy::Name;
use portcullis_policy::text::with_causes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::flow::FlowKey;
use crate::ports::{Attachments, SwitchPort, resolve};
use crate::query;
use crate::units::Units;

type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

/// A question that waits for the switch.
pub(super) enum Asked {
    Explain(Vec<FlowKey>, Answer<Vec<EnforcingRow>>),
    Hits(Answer<Vec<Hit>>),
}

impl Driver {
    pub(super) fn query(&mut self, question: Query) {
        let not_ready = QueryError::NotReady {
            target: self.name().to_string(),
            state: self.session.machine.state(),
        };
        let ready = self.session.is_ready() && self.session.machine.is_known();
        match question {
            Query::Plan(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Explain(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Hits(answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Plan(intent, answer) => drop(answer.send(self.plan(&intent))),
            Query::Explain(trace, answer) => self.explain(&trace, answer),
            Query::Hits(answer) => {
                let requests = query::hit_requests(self.units.pipeline());
                self.ask(Asked::Hits(answer), requests);
            }
        }
    }

    pub(super) fn plan(&mut self, intent: &Intent) -> Result<portcullis_backend::Plan, QueryError> {
        let Some((switch, name)) = self.database.snapshot().zip(self.bridge.as_ref()) else {
            return Err(QueryError::NotReady {
                target: self.name().to_string(),
                state: SessionState::Disconnected,
            });
        };
        let Some(bridge) = switch.bridges.get(name) else {
            return Err(QueryError::NotReady {
                target: self.name().to_string(),
                state: SessionState::Disconnected,
            });
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
        let mut programs = self.backend.programs();
        Ok(query::plan(
            intent,
            &ports,
            &self.session.machine,
            Units::new(*self.units.pipeline()),
            &self.limits,
            &mut programs,
        )?)
    }

    pub(super) fn not_here(&self, endpoint: &Name) -> QueryError {
        let name = endpoint.to_string();
        let pending = self.ports.pending.iter().find(|p| p.endpoint == name);
        let why = pending.map_or_else(|| "it has no attachment here".to_string(), |p| p.why.clone());
        QueryError::NotHere {
            endpoint: name,
            target: self.name().to_string(),
            why,
        }
    }

    pub(super) fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        let ports: Vec<SwitchPort> = self.ports.of(&trace.endpoint).into_iter().cloned().collect();
        let Some(intent) = self.intent.clone().filter(|_| !ports.is_empty()) else {
            return drop(answer.send(Err(self.not_here(&trace.endpoint))));
        };
        let mut keys: Vec<FlowKey> = Vec::new();
        for port in &ports {
            let mut programs = self.backend.programs();
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
        self.asked.insert(self.question, (Instant::now(), asked));
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
                self.explained.push((answer, rows));
            }
            Asked::Hits(answer) => {
                let hits = match &self.intent {
                    Some(intent) => {
                        let mut programs = self.backend.programs();
                        query::hits(&seen, intent, &self.ports, &mut programs, &pipeline)
                            .map_err(QueryError::from)
                    }
                    None => Ok(Vec::new()),
                };
                drop(answer.send(hits));
            }
        }
    }
}

/// Answers to `explain` that are sent when the status that goes with them is published.
pub(super) type Explained = Vec<(Answer<Vec<EnforcingRow>>, Vec<EnforcingRow>)>;

/// Sends answers. The caller that asked may be gone.
pub(super) fn send(explained: &mut Explained) {
    for (answer, rows) in explained.drain(..) {
        drop(answer.send(Ok(rows)));
    }
}

/// Answers that there is no answer.
pub(super) fn refuse(asked: (Instant, Asked), error: QueryError) {
    match asked.1 {
        Asked::Explain(_, answer) => drop(answer.send(Err(error))),
        Asked::Hits(answer) => drop(answer.send(Err(error))),
    }
}

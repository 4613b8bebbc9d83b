//! Answers to `plan`, `explain` and `hits`.

use std::collections::{BTreeMap, HashMap};

use portcullis_backend::delta::{Key, Op};
use portcullis_backend::{EnforcingRow, Hit, Plan, Query, QueryError, TablePlan, Trace};
use portcullis_compiler::Intent;
use portcullis_compiler::model::Role;
use portcullis_policy::{Direction, Name};
use portcullis_proto::p4::v1::CounterData;
use tokio::sync::oneshot;

use super::{Done, Driver, port_max};
use crate::attachment_points::resolve;
use crate::entry::{Does, GROUPS, Row, RowKey};
use crate::numbered::held;
use crate::query;
use crate::units::{Attributions, BuildError, UnitId, Units};
use crate::wire::text;

type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

impl Driver {
    pub(super) fn query(&mut self, question: Query) {
        let ready = self.session.is_ready() && self.session.machine.is_known();
        let not_ready = self.not_ready();
        match question {
            Query::Plan(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Explain(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Hits(answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Plan(intent, answer) => drop(answer.send(self.plan(&intent))),
            Query::Explain(trace, answer) => self.explain(&trace, answer),
            Query::Hits(answer) => self.hits(answer),
        }
    }

    fn plan(&mut self, intent: &Intent) -> Result<Plan, QueryError> {
        let moment = self.time.now().wall;
        let not_ready = || self.not_ready();
        let device = self.session.device().cloned().ok_or_else(not_ready)?;
        let points = resolve(intent, &self.backend.config().known(), port_max(&device)).at(moment);
        let target = self.name().to_string();
        let keeps_ends = self.units.keeps_ends();
        let held = || held(&device, self.session.machine.may_hold());
        let (intent, points) = self
            .numbered
            .preview(intent, points, device.class_limit(), held)
            .map_err(|lack| {
                refusal(
                    BuildError::Numbers {
                        lack,
                        target: target.clone(),
                    },
                    &target,
                )
            })?;
        let built = self
            .backend
            .with_programs(|programs| {
                Units::new(keeps_ends).build(&device, &intent, &points, &target, programs)
            })
            .ok_or_else(not_ready)?
            .map_err(|error| refusal(error, &target))?;
        let machine = &self.session.machine;
        let name = |number: u8| match device.table(number) {
            Some(table) => (table.name.clone(), table.size),
            None => ("multicast_group".to_string(), None),
        };
        let numbers = (0u8..).take(device.tables.len()).chain([GROUPS]);
        let mut tables: BTreeMap<u8, TablePlan> = numbers
            .map(|number| {
                let (table, size) = name(number);
                let now = machine.rows_in(number);
                let plan = TablePlan {
                    table,
                    size,
                    now,
                    ..TablePlan::default()
                };
                (number, plan)
            })
            .collect();
        let mut rows = Vec::new();
        for op in machine.plan(&built.desired) {
            if let Some(table) = tables.get_mut(&op.key().table()) {
                match op.sign() {
                    '+' => table.add += 1,
                    '~' => table.change += 1,
                    _ => table.delete += 1,
                }
            }
            let does = match &op {
                Op::Add(_, does) | Op::Change(_, does) => Some(does),
                Op::Delete(key) => machine.installed().get(key),
            };
            rows.push(format!("{} {}", op.sign(), text(&device, op.key(), does)));
        }
        Ok(Plan {
            tables: tables.into_values().collect(),
            rows,
            warnings: query::lost_tags(&device, machine.installed().keys(), &points),
        })
    }

    fn not_here(&self, endpoint: &Name) -> QueryError {
        let name = endpoint.to_string();
        let pending = self.points.pending.iter().find(|p| p.endpoint == name);
        let why = pending.map_or_else(|| "it has no attachment here".to_string(), |p| p.why.clone());
        QueryError::NotHere {
            endpoint: name,
            target: self.name().to_string(),
            why,
        }
    }

    fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        let (Some(intent), Some(device), Some(mut client)) = (
            self.local.clone(),
            self.session.device().cloned(),
            self.client.clone(),
        ) else {
            return drop(answer.send(Err(self.not_ready())));
        };
        if self.points.of(&trace.endpoint).next().is_none() {
            return drop(answer.send(Err(self.not_here(&trace.endpoint))));
        }
        let mut rows: Vec<Row> = self.dispatch(trace);
        let decided = self
            .backend
            .with_programs(|programs| query::deciding(&device, &intent, trace, &self.points, programs));
        match decided {
            Some(Ok(more)) => rows.extend(more),
            Some(Err(error)) => return drop(answer.send(Err(error.into()))),
            None => return drop(answer.send(Err(self.not_ready()))),
        }
        let target = self.name().to_string();
        let state = self.session.state();
        self.job(async move {
            let keys: Vec<RowKey> = rows.iter().map(|(key, _)| key.clone()).collect();
            let seen = client.counted(&device, Some(&keys)).await.map(|seen| {
                let seen: HashMap<RowKey, (Does, CounterData)> =
                    seen.into_iter().map(|((k, d), c)| (k, (d, c))).collect();
                rows.iter()
                    .map(|(key, does)| {
                        let row = seen.get(key);
                        let table = device.table(key.table());
                        EnforcingRow {
                            table: table.map_or_else(String::new, |t| t.name.clone()),
                            row: text(&device, key, Some(does)),
                            present: row.is_some_and(|(there, _)| there == does),
                            packets: row.map_or(0, |(_, c)| c.packet_count.max(0) as u64),
                            bytes: row.map_or(0, |(_, c)| c.byte_count.max(0) as u64),
                        }
                    })
                    .collect()
            });
            let rows = seen.map_err(|_| QueryError::NotReady { target, state });
            Done::Explained(Box::new((answer, rows)))
        });
    }

    /// The rows that lead the endpoint's packets to its class.
    fn dispatch(&self, trace: &Trace) -> Vec<Row> {
        let Some(device) = self.session.device() else {
            return Vec::new();
        };
        let role = match trace.direction {
            Direction::Egress => Role::Attach,
            Direction::Ingress => Role::Deliver,
        };
        let table = device.stage(role, trace.direction).map(|(number, _)| number);
        let units = self.session.machine.units();
        let points = self.points.of(&trace.endpoint);
        points
            .filter_map(|point| units.get(&UnitId::AttachmentPoint(point.at)))
            .flat_map(|unit| unit.iter())
            .filter(|(key, _)| Some(key.table()) == table)
            .cloned()
            .collect()
    }

    fn hits(&mut self, answer: Answer<Vec<Hit>>) {
        let (Some(device), Some(mut client)) = (self.session.device().cloned(), self.client.clone()) else {
            return drop(answer.send(Err(self.not_ready())));
        };
        let known: Attributions = self.built.as_ref().map(|b| b.hits.clone()).unwrap_or_default();
        let (points, numbers) = (self.points.clone(), self.numbered.numbers().clone());
        let (target, state) = (self.name().to_string(), self.session.state());
        self.job(async move {
            let hits = match client.counted(&device, None).await {
                Ok(seen) => Ok(query::hits(&device, seen, &known, &points, &numbers)),
                Err(error) => {
                    tracing::warn!(
                        target,
                        why = portcullis_policy::text::with_causes(&error),
                        "counters cannot be read"
                    );
                    Err(QueryError::NotReady { target, state })
                }
            };
            drop(answer.send(hits));
            Done::Answered
        });
    }
}

fn refusal(error: BuildError, target: &str) -> QueryError {
    match error {
        BuildError::Compile(error) => QueryError::Compile(error),
        other => match other.unsupported(target) {
            Some(value) => QueryError::Compile(portcullis_compiler::CompileError::Unsupported(value)),
            None => QueryError::Stopping(target.to_string()),
        },
    }
}

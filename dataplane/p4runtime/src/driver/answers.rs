//! Answers to `plan`, `explain` and `hits`.

use std::collections::{BTreeSet, HashMap};

use portcullis_backend::delta::Key;
use portcullis_backend::{Answer, Check, EnforcingRow, Hit, Offload, Plan, QueryError, Trace};
use portcullis_compiler::Intent;
use portcullis_compiler::model::Role;
use portcullis_policy::Direction;
use portcullis_proto::p4::v1::CounterData;

use super::{Done, Driver, port_space};
use crate::attachment_points::resolve;
use crate::client::ClientError;
use crate::entry::{Does, GROUPS, Row, RowKey};
use crate::numbered::{Keys, held};
use crate::units::{BuildError, UnitId};
use crate::wire::text;
use crate::{offload, query};

impl Driver {
    pub(super) fn planned(&mut self, intent: &Intent) -> Result<Plan, QueryError> {
        let moment = self.time.now().wall;
        let not_ready = self.state.not_ready();
        let Some(device) = self.session.device().cloned() else {
            return Err(not_ready);
        };
        let points = resolve(intent, &self.backend.config().known(), port_space(&device)).at(moment);
        let target = self.name().to_string();
        let keeps_ends = self.units.keeps_ends();
        let held = || held(&device, self.session.machine.may_hold());
        let (intent, points) = self
            .numbered
            .preview(intent, points, Keys::new(&device), held)
            .map_err(|lack| {
                refusal(
                    BuildError::Numbers {
                        lack,
                        target: target.clone(),
                    },
                    &target,
                )
            })?;
        let mut units = self.units.anew(keeps_ends);
        let built = self
            .backend
            .with_programs(|programs| units.build(&device, &intent, &points, &target, programs))
            .ok_or(not_ready)?
            .map_err(|error| refusal(error, &target))?;
        let machine = &self.session.machine;
        let own = (0u8..).zip(&device.tables);
        let tables = own.map(|(number, table)| (number, table.name.clone(), table.size));
        let tables = tables.chain([(GROUPS, "multicast_group".to_string(), None)]);
        let plan = portcullis_backend::plan(machine, &built.desired, tables, |key, does| {
            text(&device, key, does)
        });
        let now = self.built.as_ref();
        Ok(Plan {
            leaves: built.leaves_more_than(now, &built, &intent),
            holds_again: now.map_or_else(Vec::new, |now| {
                now.leaves_more_than(Some(&built), &built, &intent)
            }),
            warnings: query::lost_tags(&device, machine.installed().keys(), &points),
            ..plan
        })
    }

    pub(super) fn ask_for_rows(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        let (Some(intent), Some(device), Some(mut client)) = (
            self.local.clone(),
            self.session.device().cloned(),
            self.client.clone(),
        ) else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        if self.points.of(&trace.endpoint).next().is_none() {
            return drop(answer.send(Err(self.state.not_here(&trace.endpoint))));
        }
        let built = self.built.as_ref();
        let mut rows: Vec<Row> = self.dispatch(trace);
        let decided = self
            .backend
            .with_programs(|rows| query::deciding(&device, &intent, trace, &self.points, built, rows));
        match decided {
            Some(Ok(more)) if more.is_empty() && device.model.partial.is_some() => {
                let undecided = QueryError::Undecided(self.name().to_string());
                return drop(answer.send(Err(undecided)));
            }
            Some(Ok(more)) => rows.extend(more),
            Some(Err(error)) => return drop(answer.send(Err(error.into()))),
            None => return drop(answer.send(Err(self.state.not_ready()))),
        }
        let target = self.name().to_string();
        let state = self.session.state();
        let ports: BTreeSet<u32> = self.points.of(&trace.endpoint).map(|point| point.at.0).collect();
        self.job(async move {
            let keys: Vec<RowKey> = rows.iter().map(|(key, _)| key.clone()).collect();
            // A NIC drops packets before they meet these rows. Without an answer it is as if there were none.
            let said = client.offload().await.ok().flatten().unwrap_or_default();
            let nics = offload::of_rows(&device, &said, &keys, &ports);
            let seen = client.counted(&device, Some(&keys)).await.map(|seen| {
                let seen: HashMap<RowKey, (Does, CounterData)> =
                    seen.into_iter().map(|((k, d), c)| (k, (d, c))).collect();
                let rows = rows.iter().map(|(key, does)| {
                    let row = seen.get(key);
                    let table = device.table(key.table());
                    let is_counted = table.is_some_and(|t| t.counted);
                    let count = |of: fn(&CounterData) -> i64| {
                        is_counted.then(|| row.map_or(0, |(_, counter)| of(counter).max(0) as u64))
                    };
                    EnforcingRow {
                        table: table.map_or_else(String::new, |t| t.name.clone()),
                        row: text(&device, key, Some(does)),
                        present: row.is_some_and(|(there, _)| there == does),
                        packets: count(|counter| counter.packet_count),
                        bytes: count(|counter| counter.byte_count),
                    }
                });
                nics.into_iter().chain(rows).collect()
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

    pub(super) fn ask_for_hits(&mut self, answer: Answer<Vec<Hit>>) {
        let (Some(device), Some(mut client)) = (self.session.device().cloned(), self.client.clone()) else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        let policies = || device.tables.iter().filter(|table| table.stage == Role::Policy);
        if policies().all(|table| !table.counted) {
            let not_counted = QueryError::NotCounted {
                target: self.name().to_string(),
                tables: policies().map(|table| table.name.clone()).collect(),
            };
            return drop(answer.send(Err(not_counted)));
        }
        let known = self.known();
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

    /// What NICs of an embedded switch hold. Other switches do not say, and cache no flows.
    pub(super) fn ask_for_offload(&mut self, answer: Answer<Offload>) {
        let (Some(device), Some(mut client)) = (self.session.device().cloned(), self.client.clone()) else {
            return drop(answer.send(Err(self.state.not_ready())));
        };
        let known = self.known();
        let (points, numbers) = (self.points.clone(), self.numbered.numbers().clone());
        let (target, state) = (self.name().to_string(), self.session.state());
        self.job(async move {
            let said = async {
                let Some(said) = client.offload().await? else {
                    return Ok(None);
                };
                Ok(Some((said, client.counted(&device, None).await?)))
            };
            let offload: Result<_, ClientError> = said.await;
            drop(answer.send(match offload {
                Ok(Some((said, counted))) => {
                    let packets = |counter: &CounterData| counter.packet_count.max(0) as u64;
                    let counted = counted
                        .into_iter()
                        .map(|((key, _), counter)| (key, packets(&counter)));
                    let counted = counted.collect();
                    Ok(offload::offload(
                        &device, said, &counted, &known, &points, &numbers,
                    ))
                }
                Ok(None) => Err(QueryError::NotCached(target)),
                Err(error) => {
                    let why = portcullis_policy::text::with_causes(&error);
                    tracing::warn!(target, why, "what its NICs hold cannot be read");
                    Err(QueryError::NotReady { target, state })
                }
            }));
            Done::Answered
        });
    }

    /// What the NICs of an embedded switch cost. Other switches have no settings that the agent could look at.
    pub(super) fn look_at_nics(&mut self, answer: Answer<Vec<Check>>) {
        let Some(mut client) = self.client.clone() else {
            return drop(answer.send(Ok(Vec::new())));
        };
        self.job(async move {
            let checks = match client.offload().await {
                Ok(said) => offload::checks(&said.unwrap_or_default()),
                Err(error) => {
                    let why = portcullis_policy::text::with_causes(&error);
                    vec![Check::unknown("rules on NICs", why)]
                }
            };
            drop(answer.send(Ok(checks)));
            Done::Answered
        });
    }

    fn known(&self) -> query::Known {
        let known = self.built.as_ref().map(|built| query::Known {
            hits: built.hits.clone(),
            overlays: built.overlays.clone(),
        });
        known.unwrap_or_default()
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

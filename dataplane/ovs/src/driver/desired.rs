//! The desired rows of the bridge: built from the newest intent and the ports that are there, or from the last one that fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::machine::Desired;
use portcullis_compiler::{CompileError, Intent, RowCache, Unsupported};
use portcullis_ovsdb::{Bridge, Switch};
use portcullis_policy::text::with_causes;

use super::{Driver, Source};
use crate::flow::{FlowBody, FlowKey};
use crate::ports::{Attachments, OtherClasses, Ports, resolve};
use crate::tables::Table;
use crate::units::{UnitId, Units};

type Rows = Desired<UnitId, FlowKey, FlowBody>;

/// Why an intent has no rows here.
struct NoRows {
    detail: String,
    unsupported: Option<Unsupported>,
}

impl Driver {
    /// Builds the rows of the newest intent for the bridge's ports, and sends those that differ from the installed ones.
    pub(super) async fn set_desired(&mut self) {
        let (Some(intent), Some(switch)) = (self.state.intent.clone(), self.database.snapshot()) else {
            return;
        };
        let Some(bridge) = self.bridge.as_ref().and_then(|name| switch.bridges.get(name)) else {
            return;
        };
        if let Some(changed) = self.follow(&switch, &bridge.name, &intent) {
            let built = self.rows(&intent, |units, ports, programs| {
                units.update(&intent, ports, &changed, programs)
            });
            // What does not fit is found out again below, with everything that goes with it.
            if let Ok(rows) = built {
                self.wanted((&switch, bridge), &intent, rows);
                return;
            }
        }
        let pipeline = *self.units.pipeline();
        let tables = bridge.flow_tables.iter();
        self.limits = tables
            .filter_map(|(number, table)| Some((pipeline.table(*number)?, table.flow_limit?)))
            .collect();
        let index = match self.attachments.take() {
            Some((of, index)) if Arc::ptr_eq(&of, &intent) => index,
            _ => Attachments::new(&intent, &self.state.name),
        };
        let before = std::mem::take(&mut self.ports);
        self.ports = self.resolved((&switch, bridge), &intent, &index, &before);
        self.attachments = Some((Arc::clone(&intent), index));
        self.too_many_receivers();
        self.state.lists_changed();
        let built = self.rows(&intent, |units, ports, programs| {
            units.build(&intent, ports, programs)
        });
        match built {
            Ok(rows) => self.wanted((&switch, bridge), &intent, rows),
            Err(why) => {
                tracing::error!(
                    target = self.name(),
                    why = why.detail,
                    "an intent has no rows here"
                );
                self.state.is_behind = true;
                self.narrow(&intent, (&switch, bridge), &before);
                self.state.status.detail = why.detail;
                self.ports.resolution.unsupported.extend(why.unsupported);
            }
        }
        // The daemon may take its time to answer: rows do not wait for it.
        self.set_floods().await;
    }

    /// Makes the ports those of an intent, where nothing but classes changed since they were resolved. Returns the numbers of those
    /// that changed. Afterwards nothing is known to follow from until rows are made of all of it.
    fn follow(&mut self, switch: &Arc<Switch>, bridge: &str, intent: &Arc<Intent>) -> Option<BTreeSet<u32>> {
        let source = self.source.take()?;
        let same = Arc::ptr_eq(&source.switch, switch) && source.bridge == bridge;
        let changed = OtherClasses::between(&source.intent, intent).filter(|_| same)?;
        let wall = self.now().wall;
        let numbers = self.ports.follow(&changed, wall)?;
        if let Some((of, index)) = &mut self.attachments {
            index.follow(&changed);
            *of = Arc::clone(intent);
        }
        Some(numbers)
    }

    fn wanted(&mut self, (switch, bridge): (&Arc<Switch>, &Bridge), intent: &Arc<Intent>, rows: Rows) {
        self.state.is_behind = false;
        self.held = Some(Arc::clone(intent));
        self.source = Some(Source {
            switch: Arc::clone(switch),
            bridge: bridge.name.clone(),
            intent: Arc::clone(intent),
        });
        self.write(intent, rows);
    }

    fn resolved(
        &mut self,
        (switch, bridge): (&Switch, &Bridge),
        intent: &Intent,
        index: &Attachments,
        before: &Ports,
    ) -> Ports {
        let now = self.now();
        resolve(
            switch,
            bridge,
            intent,
            index,
            self.backend.config(),
            now.wall,
            before,
        )
    }

    /// The rows of an intent at the ports of now, if the tables take them.
    fn rows(
        &mut self,
        intent: &Arc<Intent>,
        build: impl FnOnce(&mut Units, &Ports, &mut RowCache) -> Result<Rows, CompileError>,
    ) -> Result<Rows, NoRows> {
        let built = {
            let mut programs = self.backend.proofs().of_session();
            let built = build(&mut self.units, &self.ports, &mut programs);
            let held = self.held.as_deref().unwrap_or(intent);
            programs.keep(&[intent, held]);
            built
        };
        let rows = built.map_err(|error| NoRows {
            detail: error.to_string(),
            unsupported: match error {
                CompileError::Unsupported(unsupported) => Some(unsupported),
                CompileError::Unproved { .. } => None,
            },
        })?;
        match self.overfull(&rows) {
            Some(why) => Err(why),
            None => Ok(rows),
        }
    }

    fn write(&mut self, intent: &Intent, rows: Rows) {
        self.session.set_desired(intent.generation, rows);
        // Building may have taken a while: timeouts of rows are counted from here.
        let now = self.now();
        if let Err(error) = self.session.advance(now) {
            self.switch_lost(&with_causes(&error));
        }
    }

    /// The newest intent has no rows here. What it closes is closed with rows of the last one that had some, at the present
    /// moment, and the rest of those stays. Ports that came since stay unknown, and so closed.
    fn narrow(&mut self, newest: &Intent, found: (&Switch, &Bridge), before: &Ports) {
        let Some(held) = self.held.clone() else { return };
        let narrowed = held.narrowed(newest).map(Arc::new);
        if narrowed.is_some() {
            tracing::error!(
                target = self.name(),
                "what the newest policy closes is closed by ending every unlock of its endpoints"
            );
        }
        let intent = narrowed.unwrap_or(held);
        let index = Attachments::new(&intent, &self.state.name);
        let mut ports = self.resolved(found, &intent, &index, before);
        ports.ports.retain(|number, _| before.ports.contains_key(number));
        // What waits, and why, is as the newest intent has it.
        let newest = std::mem::replace(&mut self.ports, ports);
        self.ports.resolution.pending = newest.resolution.pending;
        self.ports.resolution.unsupported = newest.resolution.unsupported;
        let built = self.rows(&intent, |units, ports, programs| {
            units.build(&intent, ports, programs)
        });
        match built {
            Ok(rows) => {
                self.held = Some(Arc::clone(&intent));
                self.write(&intent, rows);
            }
            Err(why) => tracing::error!(target = self.name(), why = why.detail, "the old rows stay"),
        }
    }

    /// Whether a table would hold more rows than it takes: then nothing is written, and the status has the numbers.
    fn overfull(&self, desired: &Rows) -> Option<NoRows> {
        if self.limits.is_empty() {
            return None;
        }
        let mut rows: BTreeMap<Table, u64> = BTreeMap::new();
        for (key, _) in desired.values().flat_map(|unit| unit.iter()) {
            *rows.entry(key.0.table).or_default() += 1;
        }
        let over = |(table, count): &(Table, u64)| self.limits.get(table).is_some_and(|limit| count > limit);
        let (table, count) = rows.into_iter().find(over)?;
        let limit = self.limits.get(&table).copied().unwrap_or(0);
        let why = format!(
            "it would hold {count} rows and takes {limit} (Flow_Table:flow_limit): the old rows stay, but for what the \
             newest policy closes; raise the limit, or let endpoints share profiles instead of having rules of their own"
        );
        Some(NoRows {
            detail: format!("table {}: {why}", table.name()),
            unsupported: Some(Unsupported {
                target: self.state.name.clone(),
                rule: "the policy as a whole".to_string(),
                table: table.name().to_string(),
                why,
            }),
        })
    }
}

//! The steps taken when a table is too small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_policy::{Decider, Entry, Policy, Tier};

use super::placement::Planner;
use super::{Compilation, Compiled, Found, Refusal, Saving, Step, TableUse, cost, placed_cost};
use crate::class::{ClassId, EndpointIntent, Intent};
use crate::lower::{Attribution, Cache, Encoder};
use crate::model::TableModel;
use crate::row_cache::{CompileError, RowCache};

/// Rules that a refusal tries to do without.
const TRIED: usize = 5;

impl Compilation {
    /// Takes the steps of the ladder as far as needed.
    pub(super) fn fit(
        &mut self,
        intent: &Intent,
        programs: &mut RowCache,
        attribution: Attribution,
        found: Found<'_>,
        elsewhere: impl Fn(&EndpointIntent) -> bool,
    ) -> Result<(), CompileError> {
        let before = found.left;
        if before.is_empty() {
            self.merge_all(attribution, programs)?;
        }
        let is_full = |table: &TableModel| self.table_use(table).excess() > 0;
        if !before.is_empty() || self.model.tables.iter().any(is_full) {
            let planner = Planner::new(self, intent, programs, attribution, found.demand, &elsewhere)?;
            let plan = planner.plan(before, programs)?;
            self.steps.clear();
            self.leave(plan, attribution, programs)?;
            self.merge_all(attribution, programs)?;
        }
        for table in self.model.tables.clone() {
            let used = self.table_use(&table);
            if let Some(size) = used.size.filter(|size| used.cost > *size) {
                let savings = self.savings(&table, &used);
                self.refusals.push(Refusal {
                    table: table.name.clone(),
                    needed: used.cost,
                    size,
                    savings,
                });
            }
        }
        Ok(())
    }

    /// First step: in every table that is too full, rows of equal verdict are merged.
    fn merge_all(&mut self, attribution: Attribution, programs: &mut RowCache) -> Result<(), CompileError> {
        if attribution != Attribution::Rule {
            return Ok(());
        }
        let tables = self.model.tables.clone();
        let mut taken = None;
        // A step for one table can cost rows in another.
        while taken.replace(self.steps.len()) != Some(self.steps.len()) {
            for table in &tables {
                self.merge(table, programs)?;
            }
        }
        Ok(())
    }

    /// By how much a table is too full; where rules are left, its reserve is to be free, too.
    fn excess(&self, table: &TableModel) -> u64 {
        let used = self.table_use(table);
        let reserve = if self.left.is_empty() { 0 } else { table.reserve };
        let room = used.size.map(|size| size.saturating_sub(reserve));
        room.map_or(0, |room| used.cost.saturating_sub(room))
    }

    /// Merges the rows of classes by verdict where that saves most.
    fn merge(&mut self, table: &TableModel, programs: &mut RowCache) -> Result<(), CompileError> {
        if self.excess(table) == 0 {
            return Ok(());
        }
        let mut gains: Vec<(u64, u64, (bool, ClassId), Compiled)> = Vec::new();
        let both = [(false, &self.classes), (true, &self.apart)];
        let all = both
            .into_iter()
            .flat_map(|(apart, list)| list.iter().map(move |(id, c)| ((apart, *id), c)));
        for (id, compiled) in all {
            let before = cost(table, compiled);
            if before == 0 {
                continue;
            }
            let merged = Compiled {
                program: programs.get_as(&compiled.class, Attribution::Class)?,
                ..compiled.clone()
            };
            let after = cost(table, &merged);
            // Classes are merged and come apart again while packets meet them: their other stages must not change then.
            if after < before && merged.program.leads_like(&compiled.program) {
                gains.push((before, after, id, merged));
            }
        }
        gains.sort_by_key(|(before, after, id, _)| (std::cmp::Reverse(before - after), *id));
        for (from, to, (apart, class), merged) in gains {
            if self.excess(table) == 0 {
                break;
            }
            let list = if apart { &mut self.apart } else { &mut self.classes };
            list.insert(class, merged);
            self.steps.push(Step::Merged {
                class,
                table: table.name.clone(),
                from,
                to,
            });
        }
        Ok(())
    }

    /// What would make room: the rules with the most rows, compiled without them one after the other.
    fn savings(&self, table: &TableModel, used: &TableUse) -> Vec<Saving> {
        let mut by_rule: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, compiled) in self.compiled() {
            let policy = &compiled.class.policy;
            for row in &compiled.program.policy {
                if let Decider::Entry(index) = row.by
                    && let Some(rule) = policy.entries.get(index as usize).and_then(rule_of)
                    && cost(table, compiled) > 0
                {
                    let rows = std::slice::from_ref(row);
                    *by_rule.entry(rule).or_default() += placed_cost(table, compiled, rows, table.weight);
                }
            }
        }
        let mut ranked: Vec<(&str, u64)> = by_rule.into_iter().collect();
        ranked.sort_by_key(|(rule, cost)| (std::cmp::Reverse(*cost), *rule));
        let mut without: BTreeSet<&str> = BTreeSet::new();
        let mut needed = used.cost;
        let mut savings = Vec::new();
        for (rule, _) in ranked.into_iter().take(TRIED) {
            without.insert(rule);
            let Some(now) = self.needed_without(table, used, &without) else {
                without.remove(rule);
                continue;
            };
            let fits = used.size.is_none_or(|size| now <= size);
            savings.push(Saving {
                rule: rule.to_string(),
                saves: needed.saturating_sub(now),
                fits,
            });
            needed = now;
            if fits {
                break;
            }
        }
        savings
    }

    /// What the table would have to hold if these rules were not there.
    fn needed_without(&self, table: &TableModel, used: &TableUse, without: &BTreeSet<&str>) -> Option<u64> {
        let mut needed = used.cost;
        let mut cache = Cache::default();
        for (_, compiled) in self.compiled() {
            let policy = &compiled.class.policy;
            let goes = |e: &Entry| rule_of(e).is_some_and(|rule| without.contains(rule));
            if !policy.entries.iter().any(goes) {
                continue;
            }
            let kept = policy.entries.iter().filter(|e| !goes(e));
            let rest = Policy {
                entries: kept.cloned().collect(),
                ..policy.clone()
            };
            let attribution = if compiled.program.merged {
                Attribution::Class
            } else {
                Attribution::Rule
            };
            let encoder = Encoder::new(&self.model, None);
            let base = compiled.class.base.as_ref().filter(|_| compiled.program.overlay);
            let overlay = base.and_then(|base| encoder.overlay(&rest, &base.policy, &mut cache));
            let program = match overlay {
                Some(overlay) => overlay,
                None => encoder.lower(&rest, attribution, &mut cache).ok()?,
            };
            let trial = Compiled {
                program: Arc::new(program),
                ..compiled.clone()
            };
            needed = needed.saturating_sub(cost(table, compiled)) + cost(table, &trial);
        }
        Some(needed)
    }
}

/// The written rule that an entry stands for: its own, or the one whose replies it lets pass.
fn rule_of(entry: &Entry) -> Option<&str> {
    match entry.tier {
        Tier::Essential => None,
        // ICMP errors are replies to everything.
        Tier::Replies => entry
            .origin
            .strip_prefix("replies/")
            .filter(|rule| rule.contains('/')),
        _ => Some(&entry.origin),
    }
}

//! Tells targets without room for every rule which rules deny most packets, so that they hold those.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portcullis_backend::{Hit, TargetHandle};
use portcullis_compiler::compilation::Demand;
use portcullis_compiler::{ClassId, Intent};
use portcullis_policy::Direction;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::engine::Engine;
use crate::targets::Targets;

/// What counts the packets that a rule denies: a target, a direction, a class and a rule.
type Counter = (String, Direction, u32, String);

/// Counters as they were read last, and what rules deny by them.
#[derive(Debug, Default)]
struct Counted {
    last: HashMap<Counter, u64>,
    /// Packets a minute, by counter. What is denied no longer is forgotten by halves.
    rates: BTreeMap<Counter, u64>,
}

impl Counted {
    /// Takes the counters of all targets that answered.
    fn observe(&mut self, hits: Vec<(String, Vec<Hit>)>, since: Duration) {
        let mut now: HashMap<Counter, u64> = HashMap::new();
        for (target, hits) in hits {
            for hit in hits.into_iter().filter(|hit| hit.action == "deny") {
                let counter = (target.clone(), hit.direction, hit.class.unwrap_or(0), hit.rule);
                *now.entry(counter).or_default() += hit.packets;
            }
        }
        let mut rates = BTreeMap::new();
        for (counter, count) in &now {
            // Without a last count it is not known since when it counts.
            let Some(last) = self.last.get(counter) else {
                continue;
            };
            // A row that was written anew counts from 0.
            let more = count.checked_sub(*last).unwrap_or(*count);
            let rate = u128::from(more) * 60_000 / since.as_millis().max(1);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            let before = self.rates.get(counter).copied().unwrap_or(0);
            rates.insert(counter.clone(), rate.max(before / 2));
        }
        self.last = now;
        self.rates = rates;
    }

    /// What is denied of the traffic that a target sees: what endpoints receive, by any target, since those behind it see what it lets
    /// pass; and what they send, by itself, since what a nearer target denies never gets there.
    fn demand(&self, target: &str, intent: &Intent) -> Demand {
        let mut demand = Demand::default();
        let sees = |(at, direction, ..): &Counter| *direction == Direction::Ingress || at == target;
        for ((_, direction, class, rule), rate) in self.rates.iter().filter(|(counter, _)| sees(counter)) {
            let sum = match rule.starts_with("default/") {
                false => demand.rules.entry((*direction, rule.clone())).or_default(),
                true => {
                    let class = ClassId(*class);
                    let base = intent.classes.get(&class).and_then(|class| class.base.as_ref());
                    demand
                        .defaults
                        .entry(base.map_or(class, |base| base.id))
                        .or_default()
                }
            };
            *sum = sum.saturating_add(*rate);
        }
        demand
    }
}

fn leaves(target: &TargetHandle) -> bool {
    !target.status().left.rules.is_empty()
}

async fn hits(targets: &[TargetHandle]) -> Vec<(String, Vec<Hit>)> {
    let mut asked = JoinSet::new();
    for target in targets {
        asked.spawn(hits_of(target.clone()));
    }
    asked.join_all().await.into_iter().flatten().collect()
}

async fn hits_of(target: TargetHandle) -> Option<(String, Vec<Hit>)> {
    match target.hits().await {
        Ok(hits) => Some((target.name().to_string(), hits)),
        Err(why) => {
            tracing::debug!(target = target.name(), %why, "hits are not counted");
            None
        }
    }
}

/// Counts as often as this while some target leaves rules to others, until it is dropped.
pub async fn promote(engine: Engine, targets: Targets, every: Duration) {
    let mut counted = Counted::default();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = ticks.tick().await;
    loop {
        let now = ticks.tick().await;
        let since = now.duration_since(std::mem::replace(&mut last, now));
        if !targets.handles().iter().any(leaves) {
            counted = Counted::default();
            continue;
        }
        counted.observe(hits(targets.handles()).await, since);
        let intent = engine.read(|state| state.base()).intent;
        for target in targets.handles().iter().filter(|target| leaves(target)) {
            target.demand(counted.demand(target.name(), &intent)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(direction: Direction, rule: &str, action: &str, packets: u64) -> Hit {
        Hit {
            direction,
            rule: rule.to_string(),
            decider: None,
            class: Some(3),
            endpoints: Vec::new(),
            overlays: std::sync::Arc::default(),
            action: action.to_string(),
            packets,
            bytes: 0,
        }
    }

    #[test]
    fn rates_are_those_of_what_a_target_sees_and_fade_by_halves() {
        let ten = Duration::from_secs(10);
        let mut counted = Counted::default();
        let mut observe = |tor: u64, host: u64| {
            let at = |count| {
                vec![
                    hit(Direction::Ingress, "baseline/smb", "deny", count),
                    hit(Direction::Egress, "baseline/smtp", "deny", count),
                    hit(Direction::Ingress, "default/ingress", "deny", count),
                    hit(Direction::Ingress, "profiles/web/http", "allow", count),
                ]
            };
            counted.observe(
                vec![("tor".to_string(), at(tor)), ("host".to_string(), at(host))],
                ten,
            );
            counted.demand("tor", &Intent::default())
        };
        // Nothing is known of counters that were never read.
        assert_eq!(observe(1_000, 5_000), Demand::default());
        let demand = observe(1_010, 5_100);
        let rule = |direction, name: &str, rate| ((direction, name.to_string()), rate);
        assert_eq!(
            demand.rules,
            [
                rule(Direction::Egress, "baseline/smtp", 60),
                rule(Direction::Ingress, "baseline/smb", 660)
            ]
            .into()
        );
        assert_eq!(demand.defaults, [(ClassId(3), 660)].into());
        // Silence, and a row that was written anew.
        let demand = observe(5, 5_100);
        assert_eq!(
            demand.rules[&(Direction::Ingress, "baseline/smb".to_string())],
            30 + 300
        );
    }
}

//! Cached flows by rule, and what carries them out.

use std::collections::BTreeMap;

use portcullis_backend::{Carried, Hit, Nic, Offload, QueryError, RuleOffload, TargetHandle, Unit};
use portcullis_proto::v1;

use super::convert;
use super::hits::{self, Asker};
use super::status::ApiError;

/// Endpoints that are named with a rule.
const NAMED: usize = 16;

/// Asks every target at once.
pub(super) async fn list(
    targets: &[TargetHandle],
    asker: Option<&Asker>,
) -> Result<v1::ListOffloadResponse, ApiError> {
    let ask = |target: &TargetHandle| {
        let target = target.clone();
        tokio::spawn(async move { (target.name().to_string(), target.offload().await) })
    };
    let asked: Vec<_> = targets.iter().map(ask).collect();
    let mut response = v1::ListOffloadResponse::default();
    for answer in asked {
        let (target, offload) = answer.await.map_err(|_| ApiError::Lost)?;
        match offload {
            Ok(offload) => add(&mut response, &target, offload, asker),
            Err(error) => response.unavailable.push(unavailable(target, &error)),
        }
    }
    Ok(response)
}

fn unavailable(target: String, error: &QueryError) -> v1::Unavailable {
    v1::Unavailable {
        target,
        why: error.to_string(),
    }
}

fn add(response: &mut v1::ListOffloadResponse, target: &str, offload: Offload, asker: Option<&Asker>) {
    let Offload {
        unit,
        is_on,
        mut rules,
        flows,
        unknown,
        nics,
    } = offload;
    if let Some(asker) = asker {
        rules.retain(|rule| asker.concerns(&rule.rule));
        for rule in &mut rules {
            rule.rule = asker.named(rule.rule.clone());
        }
    }
    let rules = hits::merged(
        rules,
        |rule| &rule.rule,
        |sum, rule| {
            sum.rule.packets += rule.rule.packets;
            sum.flows += rule.flows;
            sum.packets += rule.packets;
            sum.why.extend(rule.why);
            sum.is_counted &= rule.is_counted;
        },
    );
    response
        .rules
        .extend(rules.into_iter().map(|rule| rule_out(target, rule)));
    response.targets.push(v1::TargetOffload {
        target: target.to_string(),
        is_on,
        flows: Some(carried_out(flows)),
        unknown: unknown_out(unknown),
        unit: match unit {
            Unit::CachedFlows => v1::OffloadUnit::CachedFlows,
            Unit::Ports => v1::OffloadUnit::Ports,
        }
        .into(),
        // A question about one endpoint is about its rules alone.
        nics: match asker {
            None => nics.into_iter().map(nic_out).collect(),
            Some(_) => Vec::new(),
        },
    });
}

fn nic_out(nic: Nic) -> v1::NicOffload {
    let Nic {
        port,
        driver,
        off,
        takes,
        installed,
        wanted,
        is_full,
        fault,
        moves,
    } = nic;
    v1::NicOffload {
        port,
        driver,
        off,
        takes,
        installed,
        wanted,
        is_full,
        fault,
        created: moves.created,
        destroyed: moves.destroyed,
        refused: moves.refused,
        replaced: moves.replaced,
        resets: moves.resets,
    }
}

fn unknown_out(unknown: BTreeMap<String, u64>) -> Vec<v1::UnknownFlows> {
    let unknown = unknown.into_iter();
    unknown
        .map(|(why, flows)| v1::UnknownFlows { why, flows })
        .collect()
}

fn carried_out(carried: Carried) -> v1::Carried {
    let Carried {
        hardware,
        partly,
        tc,
        software,
    } = carried;
    v1::Carried {
        hardware,
        partly,
        tc,
        software,
    }
}

fn rule_out(target: &str, rule: RuleOffload) -> v1::RuleOffload {
    let RuleOffload {
        rule,
        flows,
        packets,
        why,
        is_counted,
    } = rule;
    let Hit {
        direction,
        class,
        endpoints,
        action,
        rule,
        ..
    } = rule;
    v1::RuleOffload {
        target: target.to_string(),
        direction: convert::direction_out(direction).into(),
        rule,
        class: class.unwrap_or(0),
        endpoint_count: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
        endpoints: endpoints.into_iter().take(NAMED).collect(),
        action,
        flows: Some(carried_out(flows)),
        packets: Some(carried_out(packets)),
        why: why.into_iter().collect(),
        is_counted,
    }
}

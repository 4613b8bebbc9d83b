//! Gaps: what a policy denies an endpoint and no target of it holds wholly.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portcullis_backend::{OnGap, TargetHandle};
use portcullis_compiler::{ClassId, EndpointIntent, Intent, Unsupported};

use super::ChangeError;

/// Gaps of classes on targets, looked up once each.
#[derive(Default)]
struct Known(HashMap<(usize, ClassId), Vec<Unsupported>>);

/// Rules with a gap at an endpoint, by direction and rule, each with the first target that has it.
type Gaps = BTreeMap<String, (usize, Unsupported)>;

/// Targets that may hold less than a whole policy, by name.
struct Lacking<'t> {
    targets: &'t [TargetHandle],
    by_name: BTreeMap<&'t str, usize>,
}

impl<'t> Lacking<'t> {
    fn new(targets: &'t [TargetHandle]) -> Self {
        let lacking = targets
            .iter()
            .enumerate()
            .filter(|(_, target)| target.on_gap().is_some());
        Lacking {
            targets,
            by_name: lacking.map(|(at, target)| (target.name(), at)).collect(),
        }
    }

    /// The targets of an endpoint; `None` where one of them holds every policy whole.
    fn of(&self, endpoint: &EndpointIntent) -> Option<BTreeSet<usize>> {
        let names = endpoint.attachments.iter().map(|a| a.target.as_deref());
        let all: Option<BTreeSet<usize>> = names.map(|name| self.by_name.get(name?).copied()).collect();
        all.filter(|targets| !targets.is_empty())
    }

    /// What an endpoint's present classes, and those that its unlocks lead to, leave open at these targets.
    fn gaps(
        &self,
        intent: &Intent,
        endpoint: &EndpointIntent,
        at: &BTreeSet<usize>,
        known: &mut Known,
    ) -> Gaps {
        let later = endpoint
            .transitions
            .iter()
            .flat_map(|transition| transition.classes);
        let classes: BTreeSet<ClassId> = endpoint.classes.into_iter().chain(later).collect();
        let mut gaps = Gaps::new();
        for class in classes.into_iter().filter_map(|id| intent.classes.get(&id)) {
            for target in at {
                let found = known.0.entry((*target, class.id)).or_insert_with(|| {
                    let target = self.targets.get(*target);
                    target.map_or_else(Vec::new, |target| target.gaps(class))
                });
                for gap in found {
                    let place = format!("{} {}", class.policy.direction, gap.rule);
                    gaps.entry(place).or_insert_with(|| (*target, gap.clone()));
                }
            }
        }
        gaps
    }
}

/// Refuses a change that leaves an endpoint with a gap that it did not have before, unless its targets only report gaps. What
/// was there before is no reason: a change that closes something must not wait for it.
pub(super) fn refuse_new(
    targets: &[TargetHandle],
    intent: &Intent,
    before: &Intent,
) -> Result<(), ChangeError> {
    let lacking = Lacking::new(targets);
    if lacking.by_name.is_empty() {
        return Ok(());
    }
    let refuses = |at: &usize| targets.get(*at).and_then(TargetHandle::on_gap) == Some(OnGap::Refuse);
    let (mut now, mut then) = (Known::default(), Known::default());
    for endpoint in intent.endpoints.values() {
        let Some(at) = lacking.of(endpoint).filter(|at| at.iter().any(refuses)) else {
            continue;
        };
        let gaps = lacking.gaps(intent, endpoint, &at, &mut now);
        if gaps.is_empty() {
            continue;
        }
        let old = before.endpoints.get(&endpoint.name);
        let old = old.and_then(|old| Some(lacking.gaps(before, old, &lacking.of(old)?, &mut then)));
        let old = old.unwrap_or_default();
        if let Some((_, (at, gap))) = gaps.into_iter().find(|(place, _)| !old.contains_key(place)) {
            let target = targets
                .get(at)
                .map_or_else(String::new, |target| target.name().to_string());
            return Err(ChangeError::Unsupported {
                unsupported: Box::new(Unsupported {
                    rule: format!("{} of {}", gap.rule, endpoint.name),
                    why: format!(
                        "{}; no other target of the endpoint holds it: attach it to one that does, or set on_gap = \"report\" for {target}",
                        gap.why
                    ),
                    ..gap
                }),
                target,
            });
        }
    }
    Ok(())
}

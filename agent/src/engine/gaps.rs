//! Gaps: what a policy denies an endpoint and no target of it holds wholly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_backend::{Gap, OnGap, TargetHandle};
use portcullis_compiler::{ClassId, EndpointIntent, Intent, Unsupported};

use super::ChangeError;

/// Gaps of classes on targets, looked up once each.
type Known = HashMap<(usize, ClassId), Vec<Gap>>;

/// Gaps of one endpoint by direction and rule, each at one target.
type Gaps = BTreeMap<String, (usize, Gap)>;

/// Targets, and those of them that may hold less than a whole policy.
struct Targets<'t> {
    all: &'t [TargetHandle],
    by_name: BTreeMap<&'t str, (usize, bool)>,
}

impl<'t> Targets<'t> {
    fn new(all: &'t [TargetHandle]) -> Self {
        let named = all.iter().enumerate();
        Targets {
            all,
            by_name: named
                .map(|(at, target)| (target.name(), (at, target.on_gap().is_some())))
                .collect(),
        }
    }

    fn refuses(&self, at: usize) -> bool {
        self.all.get(at).and_then(TargetHandle::on_gap) == Some(OnGap::Refuse)
    }

    /// The targets of an endpoint that may lack something; `None` where another of its targets holds every policy whole.
    fn lacking(&self, endpoint: &EndpointIntent) -> Option<BTreeSet<usize>> {
        let mut lacking = BTreeSet::new();
        for attachment in &endpoint.attachments {
            let found = match attachment.target.as_deref() {
                Some(name) => self.by_name.get(name).copied(),
                // An interface that any bridge may have.
                None => self.by_name.values().copied().find(|(_, lacks)| !lacks),
            };
            match found {
                Some((_, false)) => return None,
                Some((at, true)) => drop(lacking.insert(at)),
                // A target that is not there holds nothing.
                None => {}
            }
        }
        Some(lacking).filter(|lacking| !lacking.is_empty())
    }

    /// What the classes of an endpoint, and those that its unlocks lead to, leave open at one target.
    fn at(&self, at: usize, intent: &Intent, endpoint: &EndpointIntent, known: &mut Known) -> Gaps {
        let mut gaps = Gaps::new();
        let Some(target) = self.all.get(at) else {
            return gaps;
        };
        for gap in target.gaps_of_place(endpoint) {
            gaps.insert(gap.what.rule.clone(), (at, gap));
        }
        let later = endpoint
            .transitions
            .iter()
            .flat_map(|transition| transition.classes);
        let classes: BTreeSet<ClassId> = endpoint.classes.into_iter().chain(later).collect();
        for class in classes.into_iter().filter_map(|id| intent.classes.get(&id)) {
            let found = known.entry((at, class.id)).or_insert_with(|| target.gaps(class));
            for gap in found.iter() {
                let place = format!("{} {}", class.policy.direction, gap.what.rule);
                let other = gaps.entry(place).or_insert_with(|| (at, gap.clone()));
                other.1.passes.extend(&gap.passes);
                other.1.is_all |= gap.is_all;
            }
        }
        gaps
    }

    /// What no target of an endpoint holds wholly: a rule that one of them holds has no gap.
    fn gaps(
        &self,
        intent: &Intent,
        endpoint: &EndpointIntent,
        at: &BTreeSet<usize>,
        known: &mut Known,
    ) -> Gaps {
        let mut each = at.iter().map(|at| self.at(*at, intent, endpoint, known));
        let first = each.next().unwrap_or_default();
        each.fold(first, |mut common, other| {
            common.retain(|rule, _| other.contains_key(rule) || other.contains_key(EVERY_RULE));
            common
        })
    }
}

/// The gap of an attachment that no row can be about.
const EVERY_RULE: &str = "every rule";

/// Whether nothing changed that gaps of an endpoint come from.
fn is_unchanged(endpoint: &Arc<EndpointIntent>, intent: &Intent, before: &Intent) -> bool {
    let Some(old) = before.endpoints.get(&endpoint.name) else {
        return false;
    };
    let later = |e: &EndpointIntent| e.transitions.iter().map(|t| t.classes).collect::<Vec<_>>();
    let same = Arc::ptr_eq(endpoint, old)
        || (endpoint.classes == old.classes
            && endpoint.attachments == old.attachments
            && later(endpoint) == later(old));
    let later = endpoint.transitions.iter().flat_map(|t| t.classes);
    let fingerprint = |intent: &Intent, id| intent.classes.get(&id).map(|class| class.fingerprint);
    same && endpoint
        .classes
        .into_iter()
        .chain(later)
        .all(|id| fingerprint(intent, id) == fingerprint(before, id))
}

/// Refuses a change that leaves an endpoint with a gap that it did not have before, unless its targets only report gaps. A gap that
/// was there before, and lets nothing more pass, is no reason.
pub(super) fn refuse_new(
    targets: &[TargetHandle],
    intent: &Intent,
    before: &Intent,
) -> Result<(), ChangeError> {
    let targets = Targets::new(targets);
    if !targets.by_name.values().any(|(at, _)| targets.refuses(*at)) {
        return Ok(());
    }
    let (mut now, mut then) = (Known::new(), Known::new());
    for endpoint in intent.endpoints.values() {
        let lacking = targets.lacking(endpoint);
        let Some(at) = lacking.filter(|at| at.iter().any(|at| targets.refuses(*at))) else {
            continue;
        };
        if is_unchanged(endpoint, intent, before) {
            continue;
        }
        let gaps = targets.gaps(intent, endpoint, &at, &mut now);
        if gaps.is_empty() {
            continue;
        }
        let old = before.endpoints.get(&endpoint.name);
        let old = old.and_then(|old| Some(targets.gaps(before, old, &targets.lacking(old)?, &mut then)));
        let old = old.unwrap_or_default();
        let is_new = |(place, (_, gap)): &(String, (usize, Gap))| {
            old.get(place).is_none_or(|(_, before)| !gap.is_within(before))
        };
        if let Some((_, (at, gap))) = gaps.into_iter().find(is_new) {
            return Err(refused(&targets, at, gap.what, endpoint));
        }
    }
    Ok(())
}

fn refused(targets: &Targets<'_>, at: usize, gap: Unsupported, endpoint: &EndpointIntent) -> ChangeError {
    let target = targets
        .all
        .get(at)
        .map_or_else(String::new, |target| target.name().to_string());
    ChangeError::Unsupported {
        unsupported: Box::new(Unsupported {
            rule: format!("{} of {}", gap.rule, endpoint.name),
            why: format!(
                "{}; no other target of the endpoint holds it: attach it to one that does, or set on_gap = \"report\" for {target}",
                gap.why
            ),
            ..gap
        }),
        target,
    }
}

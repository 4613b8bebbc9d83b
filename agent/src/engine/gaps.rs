//! Gaps: what a policy denies an endpoint, and a target that is nearest to it does not hold wholly.
//!
//! Every path of a packet passes the nearest target of an endpoint; a target that is cabled behind it (`links`) is not on the way
//! to neighbours. So a rule has a gap where one of the nearest targets lacks it, whatever the others hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_backend::{Gap, OnGap, TargetHandle};
use portcullis_compiler::{Class, ClassId, EndpointIntent, Intent, Unsupported};

use super::ChangeError;

/// Gaps of classes on targets, looked up once each; `None` where a target is not known yet.
type Known = HashMap<(usize, ClassId), Option<Vec<Gap>>>;

/// Gaps of one endpoint, by target, and by direction and rule.
type Gaps = BTreeMap<(usize, String), Gap>;

/// Targets, of which some may hold less than a whole policy.
struct Targets<'t> {
    all: &'t [TargetHandle],
    by_name: BTreeMap<&'t str, usize>,
}

impl<'t> Targets<'t> {
    fn new(all: &'t [TargetHandle]) -> Self {
        let lacking = all
            .iter()
            .enumerate()
            .filter(|(_, target)| target.on_gap().is_some());
        Targets {
            all,
            by_name: lacking.map(|(at, target)| (target.name(), at)).collect(),
        }
    }

    fn refuses(&self, at: usize) -> bool {
        self.all.get(at).and_then(TargetHandle::on_gap) == Some(OnGap::Refuse)
    }

    /// The targets that may lack something, among those that are nearest to an endpoint.
    fn lacking(&self, endpoint: &EndpointIntent) -> BTreeSet<usize> {
        let named = endpoint.attachments.iter().filter_map(|a| a.target.as_deref());
        let lacking = named.filter_map(|name| self.by_name.get(name).copied());
        let nearest = |at: &usize| {
            self.all
                .get(*at)
                .is_some_and(|target| target.nearer(endpoint).is_empty())
        };
        lacking.filter(nearest).collect()
    }

    /// Those of them that refuse gaps.
    fn refusing(&self, endpoint: &EndpointIntent) -> BTreeSet<usize> {
        let mut lacking = self.lacking(endpoint);
        lacking.retain(|at| self.refuses(*at));
        lacking
    }

    /// What the classes of an endpoint, and those that its unlocks lead to, leave open at these targets. One that was never reached is
    /// not known, and has none.
    fn gaps(
        &self,
        intent: &Intent,
        endpoint: &EndpointIntent,
        at: &BTreeSet<usize>,
        known: &mut Known,
    ) -> Gaps {
        let mut gaps = Gaps::new();
        for at in at {
            let found = self.at(*at, intent, endpoint, known).unwrap_or_default();
            gaps.extend(found.into_iter().map(|(rule, gap)| ((*at, rule), gap)));
        }
        gaps
    }

    /// The same at one target, by direction and rule.
    fn at(
        &self,
        at: usize,
        intent: &Intent,
        endpoint: &EndpointIntent,
        known: &mut Known,
    ) -> Option<BTreeMap<String, Gap>> {
        let target = self.all.get(at)?;
        let place = target.place(endpoint);
        let mut gaps: BTreeMap<String, Gap> = BTreeMap::new();
        for class in classes(intent, endpoint) {
            let found = known.entry((at, class.id)).or_insert_with(|| target.gaps(class));
            let of_place = place
                .nothing
                .as_ref()
                .map(|what| Gap::of_policy(&class.policy, what));
            for gap in of_place.as_ref().or(found.as_ref())? {
                let rule = format!("{} {}", class.policy.direction, gap.what.rule);
                let other = gaps.entry(rule).or_insert_with(|| gap.clone());
                other.passes.extend(&gap.passes);
                other.is_all |= gap.is_all;
            }
        }
        let tagged = place.tagged.map(|what| (what.rule.clone(), Gap::all(what)));
        gaps.extend(tagged);
        Some(gaps)
    }
}

/// The classes of an endpoint, and those that its unlocks lead to.
fn classes<'i>(intent: &'i Intent, endpoint: &EndpointIntent) -> impl Iterator<Item = &'i Arc<Class>> {
    let later = endpoint
        .transitions
        .iter()
        .flat_map(|transition| transition.classes);
    let ids: BTreeSet<ClassId> = endpoint.classes.into_iter().chain(later).collect();
    ids.into_iter().filter_map(|id| intent.classes.get(&id))
}

/// Whether nothing changed that gaps of an endpoint come from.
fn is_unchanged(endpoint: &Arc<EndpointIntent>, intent: &Intent, before: &Intent) -> bool {
    let Some(old) = before.endpoints.get(&endpoint.name) else {
        return false;
    };
    let same = Arc::ptr_eq(endpoint, old) || endpoint.attachments == old.attachments;
    let fingerprints = |intent, endpoint: &EndpointIntent| -> Vec<_> {
        classes(intent, endpoint).map(|class| class.fingerprint).collect()
    };
    same && fingerprints(intent, endpoint) == fingerprints(before, old)
}

/// Refuses a change that leaves an endpoint with a gap that it did not have before, unless the target only reports gaps. A gap that
/// was there before, and through which no other kind of packets passes, is no reason; it may move with the endpoint to another target.
pub(super) fn refuse_new(
    targets: &[TargetHandle],
    intent: &Intent,
    before: &Intent,
) -> Result<(), ChangeError> {
    let targets = Targets::new(targets);
    if !targets.by_name.values().any(|at| targets.refuses(*at)) {
        return Ok(());
    }
    let (mut now, mut then) = (Known::new(), Known::new());
    for endpoint in intent.endpoints.values() {
        let at = targets.refusing(endpoint);
        if at.is_empty() || is_unchanged(endpoint, intent, before) {
            continue;
        }
        let gaps = targets.gaps(intent, endpoint, &at, &mut now);
        if gaps.is_empty() {
            continue;
        }
        let old = before.endpoints.get(&endpoint.name);
        let old = old.map(|old| targets.gaps(before, old, &targets.lacking(old), &mut then));
        let old = old.unwrap_or_default();
        let lacking = targets.lacking(endpoint);
        let is_new = |((here, rule), gap): &(&(usize, String), &Gap)| {
            let mut known = old
                .iter()
                .filter(|((was, of), _)| of == rule && (was == here || !lacking.contains(was)));
            !known.any(|(_, before)| gap.is_within(before))
        };
        if let Some(((at, rule), gap)) = gaps.iter().find(is_new) {
            return Err(refused(&targets, *at, rule, gap.what.clone(), endpoint));
        }
    }
    Ok(())
}

fn refused(
    targets: &Targets<'_>,
    at: usize,
    rule: &str,
    gap: Unsupported,
    endpoint: &EndpointIntent,
) -> ChangeError {
    let name = targets.all.get(at).map_or("", TargetHandle::name);
    ChangeError::Unsupported {
        target: gap.target.clone(),
        unsupported: Box::new(Unsupported {
            rule: format!("{rule} of {}", endpoint.name),
            why: format!(
                "{}; no target nearer to the endpoint holds it: attach it to one that does and is cabled to its port (`links` of that \
                 [[target]]), or set on_gap = \"report\" for {name}",
                gap.why
            ),
            ..gap
        }),
    }
}

//! Gaps: what a policy denies an endpoint and no target of it holds wholly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_backend::{Gap, OnGap, TargetHandle};
use portcullis_compiler::{Class, ClassId, EndpointIntent, Intent, Unsupported};

use super::ChangeError;

/// Gaps of classes on targets, looked up once each; `None` where a target is not known yet.
type Known = HashMap<(usize, ClassId), Option<Vec<Gap>>>;

/// Gaps of one endpoint, by direction and rule.
type Gaps = BTreeMap<String, Gap>;

/// Targets, and whether they may hold less than a whole policy.
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

    /// A bridge, which takes interfaces that name no target.
    fn bridge(&self) -> Option<(usize, bool)> {
        let at = self.all.iter().position(|target| target.kind() == "ovs")?;
        Some((at, false))
    }

    /// The targets of an endpoint that may lack something; `None` where another of its targets holds every policy whole.
    fn lacking(&self, endpoint: &EndpointIntent) -> Option<BTreeSet<usize>> {
        let mut lacking = BTreeSet::new();
        for attachment in &endpoint.attachments {
            let found = match attachment.target.as_deref() {
                Some(name) => self.by_name.get(name).copied(),
                None => self.bridge(),
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

    /// What the classes of an endpoint, and those that its unlocks lead to, leave open at one target; `None` where it is not known.
    fn at(&self, at: usize, intent: &Intent, endpoint: &EndpointIntent, known: &mut Known) -> Option<Gaps> {
        let target = self.all.get(at)?;
        let place = target.place(endpoint);
        let mut gaps = Gaps::new();
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

    /// What passes at every target of an endpoint that is known: what one of them denies has no gap.
    fn gaps(
        &self,
        intent: &Intent,
        endpoint: &EndpointIntent,
        at: &BTreeSet<usize>,
        known: &mut Known,
    ) -> Gaps {
        let each = at.iter().filter_map(|at| self.at(*at, intent, endpoint, known));
        let common = each.reduce(|common, other| {
            let both = common.into_iter().filter_map(|(rule, gap)| {
                let gap = gap.common(other.get(&rule)?);
                Some((rule, gap)).filter(|(_, gap)| !gap.passes.is_empty())
            });
            both.collect()
        });
        common.unwrap_or_default()
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

/// Refuses a change that leaves an endpoint with a gap that it did not have before, unless its targets only report gaps. A gap that
/// was there before, and through which no other kind of packets passes, is no reason.
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
        let Some(at) = targets.lacking(endpoint) else {
            continue;
        };
        let Some(refusing) = at.iter().copied().find(|at| targets.refuses(*at)) else {
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
        let is_new = |(rule, gap): &(String, Gap)| old.get(rule).is_none_or(|before| !gap.is_within(before));
        if let Some((rule, gap)) = gaps.into_iter().find(is_new) {
            return Err(refused(&targets, refusing, &rule, gap.what, endpoint));
        }
    }
    Ok(())
}

fn refused(
    targets: &Targets<'_>,
    refusing: usize,
    rule: &str,
    gap: Unsupported,
    endpoint: &EndpointIntent,
) -> ChangeError {
    let refusing = targets
        .all
        .get(refusing)
        .map_or_else(String::new, |target| target.name().to_string());
    ChangeError::Unsupported {
        target: gap.target.clone(),
        unsupported: Box::new(Unsupported {
            rule: format!("{rule} of {}", endpoint.name),
            why: format!(
                "{}; no other target of the endpoint holds it: attach it to one that does, or set on_gap = \"report\" for {refusing}",
                gap.why
            ),
            ..gap
        }),
    }
}

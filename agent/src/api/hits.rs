//! Hits under the names that the asker has for rules. Endpoints whose rules mean the same share a class, and with it
//! the counters; the class bears the names of one of them.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_backend::Hit;
use portcullis_compiler::{ClassId, EndpointIntent, Intent};
use portcullis_policy::{Decider, Direction, Endpoint, Name, PerDirection, Policy, canonical, effective};

use super::status::ApiError;
use crate::engine::Base;
use crate::store::{Key, Kind};

/// One endpoint, and what it calls the rules of its classes.
#[derive(Debug)]
pub(super) struct Asker {
    name: Name,
    endpoint: Arc<EndpointIntent>,
    intent: Arc<Intent>,
    /// Its own policies in the order of its classes'.
    own: PerDirection<Policy>,
    /// The same without the rules and unlocks of the endpoint itself, in the order of the classes below.
    below: PerDirection<Policy>,
}

impl Asker {
    pub(super) fn new(base: &Base, name: Name) -> Result<Self, ApiError> {
        let found = base.intent.endpoints.get(&name);
        let (Some(intent), Some(endpoint)) = (found, base.document.endpoints.get(&name)) else {
            return Err(ApiError::NotFound(Key {
                kind: Kind::Endpoint,
                name: name.to_string(),
            }));
        };
        let own = PerDirection::from_fn(|direction| {
            canonical(&effective(&base.document, name.as_str(), endpoint, direction))
        });
        let plain = Endpoint {
            profiles: endpoint.profiles.clone(),
            ..Endpoint::default()
        };
        let below =
            PerDirection::from_fn(|direction| canonical(&effective(&base.document, "", &plain, direction)));
        Ok(Asker {
            name,
            endpoint: Arc::clone(intent),
            intent: Arc::clone(&base.intent),
            own,
            below,
        })
    }

    pub(super) fn endpoint(&self) -> &Name {
        &self.name
    }

    /// What it calls an entry of its class.
    pub(super) fn name_of(&self, direction: Direction, decider: Decider) -> String {
        self.own[direction].origin(decider)
    }

    /// Whether a hit is about it.
    pub(super) fn concerns(&self, hit: &Hit) -> bool {
        match hit.class {
            Some(0) => false,
            Some(class) => {
                let own = self.endpoint.classes[hit.direction].0;
                own == class || hit.overlays.contains(&own)
            }
            None => hit.endpoints.iter().any(|e| e == self.name.as_str()),
        }
    }

    /// The hit under its own name for the rule.
    pub(super) fn named(&self, hit: Hit) -> Hit {
        let rule = self.own_name(&hit).unwrap_or_else(|| hit.rule.clone());
        Hit { rule, ..hit }
    }

    fn own_name(&self, hit: &Hit) -> Option<String> {
        let decider = hit.decider.filter(|d| matches!(d, Decider::Entry(_)))?;
        let class = self.intent.classes.get(&ClassId(hit.class?))?;
        // A target that is behind or ahead may speak of another policy.
        let same = class.policy.origin(decider) == hit.rule;
        let policy = match self.endpoint.classes[hit.direction] == class.id {
            true => &self.own,
            false => &self.below,
        };
        same.then(|| policy[hit.direction].origin(decider))
    }
}

/// The hits of one target by rule: what one rule decided in several places of a policy is one hit.
pub(super) fn by_rule(hits: Vec<Hit>) -> Vec<Hit> {
    merged(
        hits,
        |hit| hit,
        |sum, hit| {
            sum.packets += hit.packets;
            sum.bytes += hit.bytes;
        },
    )
}

/// The same of what bears a hit.
pub(super) fn merged<T>(items: Vec<T>, hit: impl Fn(&T) -> &Hit, add: impl Fn(&mut T, T)) -> Vec<T> {
    let mut list: Vec<T> = Vec::with_capacity(items.len());
    let mut places: HashMap<(Direction, Option<u32>, String, String), usize> = HashMap::new();
    for item in items {
        let Hit {
            direction,
            class,
            rule,
            action,
            decider,
            ..
        } = hit(&item);
        let key = (*direction, *class, rule.clone(), action.clone());
        let known = places.get(&key).filter(|_| decider.is_some());
        match known.and_then(|at| list.get_mut(*at)) {
            Some(sum) => add(sum, item),
            None => {
                places.insert(key, list.len());
                list.push(item);
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::Compiler;
    use portcullis_policy::Document;

    use super::*;

    #[test]
    fn each_endpoint_hears_its_own_names() {
        let document = Document::from_yaml(
            "
version: portcullis/v1
profiles:
  p: {rules: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]},
              {name: smtp2, action: deny, direction: egress, protocol: tcp, ports: [465]}]}
endpoints:
  a: {profiles: [p]}
  b: {rules: [{name: submission, action: deny, direction: egress, protocol: tcp, ports: [465]},
              {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25]}]}
",
        )
        .unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let class = intent.endpoints["a"].classes.egress;
        assert_eq!(class, intent.endpoints["b"].classes.egress);
        let base = Base::new(Arc::new(document), Arc::clone(&intent));
        let policy = &intent.classes[&class].policy;
        let hits = |decider: Decider| Hit {
            direction: Direction::Egress,
            rule: policy.origin(decider),
            decider: Some(decider),
            class: Some(class.0),
            endpoints: vec!["a".to_string(), "b".to_string()],
            overlays: Arc::default(),
            action: "deny".to_string(),
            packets: 7,
            bytes: 100,
        };
        let names = |endpoint: &str| {
            let asker = Asker::new(&base, endpoint.parse().unwrap()).unwrap();
            [0, 1].map(|n| asker.named(hits(Decider::Entry(n))).rule)
        };
        assert_eq!(names("a"), ["profiles/p/smtp", "profiles/p/smtp2"]);
        assert_eq!(names("b"), ["endpoints/b/mail", "endpoints/b/submission"]);
        let twice = [0, 0, 1].map(|n| hits(Decider::Entry(n)));
        let summed: Vec<u64> = by_rule(twice.to_vec()).iter().map(|h| h.packets).collect();
        assert_eq!(summed, [14, 7]);
    }

    #[test]
    fn rules_of_the_class_below_an_overlay_are_heard_of_where_a_target_has_overlays() {
        let document = Document::from_yaml(
            "
version: portcullis/v1
profiles:
  p: {rules: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}]}
  q: {rules: [{name: mail, action: deny, direction: egress, protocol: tcp, ports: [25]}]}
endpoints:
  a: {profiles: [p]}
  b: {profiles: [q], rules: [{name: irc, action: deny, direction: egress, protocol: tcp, ports: [6667]}]}
",
        )
        .unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let [below, own] = ["a", "b"].map(|name| intent.endpoints[name].classes.egress);
        assert_eq!(
            intent.classes[&own].base.as_ref().map(|base| base.id),
            Some(below)
        );
        let base = Base::new(Arc::new(document), Arc::clone(&intent));
        let hit = |class: ClassId, overlays: &[ClassId], rule: &str| {
            let entries = &intent.classes[&class].policy.entries;
            let at = entries.iter().position(|e| *e.origin == *rule).unwrap();
            Hit {
                direction: Direction::Egress,
                rule: rule.to_string(),
                decider: Some(Decider::Entry(at as u32)),
                class: Some(class.0),
                endpoints: Vec::new(),
                overlays: Arc::new(overlays.iter().map(|id| id.0).collect()),
                action: "deny".to_string(),
                packets: 7,
                bytes: 100,
            }
        };
        let [a, b] = ["a", "b"].map(|name| Asker::new(&base, name.parse().unwrap()).unwrap());
        let name = &*intent.classes[&below].policy.entries[0].origin;
        // The rules of one class have the names of one of its profiles; each endpoint hears its own.
        let below_overlay = hit(below, &[own], name);
        assert!(a.concerns(&below_overlay) && b.concerns(&below_overlay));
        assert_eq!(b.named(below_overlay.clone()).rule, "profiles/q/mail");
        assert_eq!(a.named(below_overlay).rule, "profiles/p/smtp");
        let above = hit(own, &[], "endpoints/b/irc");
        assert!(!a.concerns(&above) && b.concerns(&above));
        assert_eq!(b.named(above).rule, "endpoints/b/irc");
        // A target that writes classes as a whole counts for each class alone.
        assert!(!b.concerns(&hit(below, &[], name)));
    }
}

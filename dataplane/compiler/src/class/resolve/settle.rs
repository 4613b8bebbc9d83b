//! The classes of an intent, after sources moved between them: made, released, or under other names.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_policy::{Endpoint, PerDirection, Policy, canonical};

use super::{NewClass, Round, Want};
use crate::class::compiler::{Source, falls_of};
use crate::class::{Class, ClassId, Fingerprint, Intent};

impl Round<'_> {
    /// Brings the classes of the intent in line with who uses them.
    pub(super) fn settle(&mut self, made: &[ClassId], next: &mut Intent) {
        let new = made.iter().copied().zip(std::mem::take(&mut self.new));
        let mut new: HashMap<ClassId, NewClass> = new.collect();
        for id in std::mem::take(&mut self.touched) {
            let used = self.compiler.uses.get(&id).is_some_and(|u| u.endpoints > 0);
            let changed = match (used, new.remove(&id)) {
                (false, _) => self.release(id, next),
                (true, Some(new)) => {
                    let (policy, fingerprint) = (new.policy, new.fingerprint);
                    let class = Class {
                        id,
                        policy,
                        fingerprint,
                    };
                    next.classes.insert(id, Arc::new(class));
                    true
                }
                (true, None) => self.rename(id, next),
            };
            if changed {
                next.changed.classes.push(id);
            }
        }
        if !self.compiler.restored.is_empty() {
            self.forget_restored(next);
        }
    }

    /// Releases a class that nobody uses.
    fn release(&mut self, id: ClassId, next: &mut Intent) -> bool {
        self.compiler.uses.remove(&id);
        let Some(class) = next.classes.remove(&id) else {
            return false;
        };
        self.compiler.ids.release(id, self.generation);
        if self.compiler.known.get(&class.fingerprint) == Some(&id) {
            self.compiler.known.remove(&class.fingerprint);
        }
        true
    }

    /// Releases what the run before used and this one does not.
    fn forget_restored(&mut self, next: &Intent) {
        for id in std::mem::take(&mut self.compiler.restored) {
            if !next.classes.contains_key(&id) {
                self.compiler.ids.release(id, self.generation);
            }
        }
        let in_use = next.classes.values().map(|class| (class.fingerprint, class.id));
        self.compiler.known = in_use.collect();
    }

    /// Lets a class bear the names that one of its members has now.
    fn rename(&mut self, id: ClassId, next: &mut Intent) -> bool {
        let class = next.classes.get(&id).cloned();
        let Some(used) = self.compiler.uses.get(&id) else {
            return false;
        };
        let still = used
            .named
            .as_ref()
            .filter(|s| class.is_some() && used.members.contains(*s));
        let source = match still {
            Some(source) if !self.resolved.contains_key(source) => return false,
            Some(source) => source.clone(),
            None => match used.members.get_min() {
                Some(source) => source.clone(),
                None => return false,
            },
        };
        let Some((policy, fingerprint)) = self.policy_of(&source, id) else {
            return false;
        };
        if let Some(used) = self.compiler.uses.get_mut(&id) {
            used.named = Some(source);
        }
        if class.is_some_and(|c| c.policy == policy) {
            return false;
        }
        let class = Class {
            id,
            policy,
            fingerprint,
        };
        next.classes.insert(id, Arc::new(class));
        true
    }

    /// The policy by which a source is in a class, under the source's own names.
    fn policy_of(&mut self, source: &Source, id: ClassId) -> Option<(Policy, Fingerprint)> {
        let resolved = self.resolved.get_mut(source).and_then(|resolved| {
            let (direction, _) = resolved.wants.each().find(|(_, want)| *want == Want::Class(id))?;
            resolved.policies[direction].take()
        });
        let candidates = match resolved {
            Some(policy) => vec![policy],
            None => self.effective(source)?.iter().map(canonical).collect(),
        };
        candidates.into_iter().find_map(|policy| {
            let fingerprint = Fingerprint::of_canonical(&policy);
            (self.compiler.known.get(&fingerprint) == Some(&id)).then_some((policy, fingerprint))
        })
    }

    fn effective(&self, source: &Source) -> Option<PerDirection<Policy>> {
        let (lists, document) = (&self.compiler.lists, self.document);
        Some(match source {
            Source::Unmanaged => PerDirection::from_fn(|d| lists.unmanaged(document, d)),
            Source::Profiles(combo) => {
                let endpoint = Endpoint {
                    profiles: combo.to_vec(),
                    ..Endpoint::default()
                };
                lists.both(document, "", &endpoint)
            }
            Source::Endpoint(name) => lists.both(document, name.as_str(), document.endpoints.get(name)?),
            Source::ScheduledTransition(name, number) => {
                let (_, grants) = falls_of(document, name).into_iter().nth(*number as usize)?;
                lists.both_under(document, name.as_str(), document.endpoints.get(name)?, &grants)
            }
        })
    }
}

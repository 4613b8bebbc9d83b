//! The classes of an intent, after sources moved between them: made, released, or under other names.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_policy::{Direction, Endpoint, PerDirection, Policy, canonical};

use super::{NewClass, Round, Want, class_of};
use crate::class::compiler::{Source, Use, falls_of};
use crate::class::{Class, ClassId, Fingerprint, Intent};

impl Round<'_> {
    /// Brings the classes of the intent in line with who uses them.
    pub(super) fn settle(&mut self, made: &[ClassId], next: &mut Intent) {
        let new = made.iter().copied().zip(std::mem::take(&mut self.new));
        let mut new: HashMap<ClassId, NewClass> = new.collect();
        let touched = std::mem::take(&mut self.touched);
        let uses = &self.compiler.uses;
        let (needed, gone): (Vec<ClassId>, Vec<ClassId>) = touched
            .into_iter()
            .partition(|id| uses.get(id).is_some_and(Use::is_needed));
        // Bases before what stands on them.
        let stands = |id: &ClassId| {
            uses.get(id)
                .and_then(|u| u.members.get_min()?.endpoint())
                .is_some()
        };
        let (above, below): (Vec<ClassId>, Vec<ClassId>) = needed.into_iter().partition(stands);
        for id in below.into_iter().chain(above) {
            let changed = match new.remove(&id) {
                Some(new) => {
                    let base = new.base.map(|want| class_of(want, made));
                    let class = Class {
                        id,
                        policy: new.policy,
                        fingerprint: new.fingerprint,
                        base: base.and_then(|id| next.classes.get(&id).cloned()),
                    };
                    next.classes.insert(id, Arc::new(class));
                    true
                }
                None => self.rename(id, next),
            };
            if changed {
                next.changed.classes.push(id);
            }
            match self.compiler.uses.get(&id).is_some_and(|used| used.endpoints > 0) {
                true => next.bases_only.remove(&id),
                false => next.bases_only.insert(id),
            };
        }
        for id in gone {
            if self.release(id, next) {
                next.changed.classes.push(id);
            }
        }
        next.changed.classes.sort_unstable();
        if !self.compiler.restored.is_empty() {
            self.forget_restored(next);
        }
    }

    /// Releases a class that nobody uses.
    fn release(&mut self, id: ClassId, next: &mut Intent) -> bool {
        self.compiler.uses.remove(&id);
        next.bases_only.remove(&id);
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
        let Some(named) = self.class_of(&source, id, next) else {
            return false;
        };
        if let Some(used) = self.compiler.uses.get_mut(&id) {
            used.named = Some(source);
        }
        if class.is_some_and(|c| c.policy == named.policy) {
            return false;
        }
        next.classes.insert(id, Arc::new(named));
        true
    }

    /// A class that a source is in, under the source's own names.
    fn class_of(&mut self, source: &Source, id: ClassId, next: &Intent) -> Option<Class> {
        let resolved = self.resolved.get_mut(source).and_then(|resolved| {
            let (direction, _) = resolved.wants.each().find(|(_, want)| *want == Want::Class(id))?;
            resolved.policies[direction].take()
        });
        let candidates = match resolved {
            Some(policy) => vec![policy],
            None => self.effective(source)?.iter().map(canonical).collect(),
        };
        candidates.into_iter().find_map(|policy| {
            let own = Fingerprint::of_canonical(&policy);
            let base = self.base_of(source, policy.direction, next);
            let base = base.filter(|base| base.fingerprint != own);
            let fingerprint = base.as_ref().map_or(own, |base| own.over(base.fingerprint));
            (self.compiler.known.get(&fingerprint) == Some(&id)).then_some(Class {
                id,
                policy,
                fingerprint,
                base,
            })
        })
    }

    /// The class that the rules and unlocks of a source stand on.
    fn base_of(&self, source: &Source, direction: Direction, next: &Intent) -> Option<Arc<Class>> {
        let endpoint = self.document.endpoints.get(source.endpoint()?)?;
        let bound = self.compiler.combos.get(endpoint.profiles.as_slice())?;
        next.classes.get(&bound.classes[direction]).cloned()
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

//! Findings in the order of the document: a list of rules as it was written, lists by name, `e2` before `e10`.

use std::collections::HashMap;

use super::Finding;
use super::examine::rule_of;
use crate::document::{Document, Rule};
use crate::effective::Policy;
use crate::types::Name;

/// Where things stand, by what findings call them.
#[derive(Default)]
struct Places(HashMap<String, usize>);

impl Places {
    fn add(&mut self, what: String) {
        let next = self.0.len();
        self.0.entry(what).or_insert(next);
    }

    fn rules(&mut self, list: &str, rules: &[Rule]) {
        self.add(list.to_string());
        rules
            .iter()
            .for_each(|rule| self.add(format!("{list}/{}", rule.name)));
    }

    fn sort(&self, found: &mut [Finding]) {
        // Profiles that are bound together stand where the first of them does.
        let place = |at: &str| {
            self.0
                .get(at.split('+').next().unwrap_or(at))
                .copied()
                .unwrap_or(usize::MAX)
        };
        found.sort_by_cached_key(|finding| place(&finding.at));
    }
}

/// Sorts by the place in a document; what has the same place, or none, stays as it is.
pub(super) fn by_document(found: &mut [Finding], document: &Document) {
    if found.len() < 2 {
        return;
    }
    let mut places = Places::default();
    places.rules("mandatory", &document.mandatory);
    places.rules("baseline", &document.baseline);
    for (name, profile) in naturally(document.profiles.iter()) {
        places.rules(&format!("profiles/{name}"), &profile.rules);
    }
    for (name, endpoint) in naturally(document.endpoints.iter()) {
        places.rules(&format!("endpoints/{name}"), &endpoint.rules);
    }
    for (name, program) in naturally(document.programs.iter()) {
        places.add(format!("programs/{name}"));
        let openings = 0..program.opens.len();
        openings.for_each(|n| places.add(format!("programs/{name}/opens-{n}")));
    }
    places.sort(found);
}

/// Sorts by the place in a policy.
pub(super) fn by_policy(found: &mut [Finding], policy: &Policy) {
    let mut places = Places::default();
    policy
        .entries
        .iter()
        .for_each(|entry| places.add(rule_of(&entry.origin).to_string()));
    places.sort(found);
}

fn naturally<'a, T: 'a>(named: impl Iterator<Item = (&'a Name, T)>) -> Vec<(&'a Name, T)> {
    let mut list: Vec<(&Name, T)> = named.collect();
    list.sort_by_cached_key(|(name, _)| natural(name.as_str()));
    list
}

/// Numbers in a name count as numbers: each with how many digits it has, without leading zeros.
fn natural(name: &str) -> Vec<(usize, String)> {
    let mut chunks: Vec<(bool, String)> = Vec::new();
    for c in name.chars() {
        match chunks.last_mut() {
            Some((digits, chunk)) if *digits == c.is_ascii_digit() => chunk.push(c),
            _ => chunks.push((c.is_ascii_digit(), c.to_string())),
        }
    }
    let key = |(digits, chunk): (bool, String)| {
        if !digits {
            return (0, chunk);
        }
        let number = chunk.trim_start_matches('0');
        (number.len().max(1), number.to_string())
    };
    chunks.into_iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = [
            "vm10", "vm2", "a", "vm2-9", "vm2-10", "10", "9", "vm1", "vm", "vm01",
        ];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(
            names,
            [
                "a", "vm", "vm1", "vm01", "vm2", "vm2-9", "vm2-10", "vm10", "9", "10"
            ]
        );
    }
}

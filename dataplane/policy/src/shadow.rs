//! Exact test whether entries decide any packet, below the entries above them.

use crate::direction::Direction;
use crate::effective::{Entry, Policy};
use crate::findings::product::{Planes, Product, cut, family_of};
use crate::matcher::Families;
use crate::types::{Family, Verdict};

/// Pairs of products that are compared at most, for one policy: a few milliseconds. Where that does not suffice, an entry is
/// taken to decide something.
const STEPS: usize = 100_000;

/// Whether some packet is decided by an entry that denies. Allows before it may take all it would match, alone or together;
/// an allow that is not about later fragments takes nothing wholly that is.
pub(crate) fn some_deny_decides(policy: &Policy) -> bool {
    let mut allows = Above::new(policy);
    for entry in &policy.entries {
        if entry.action.passes() {
            allows.add(entry);
        } else if allows.leave(entry, &Family::BOTH) {
            return true;
        }
    }
    false
}

/// The rules of a document that allow some packet, each with the IP versions of which it does: no denies before it take all
/// of that.
pub(crate) fn allowing<'a>(
    rules: impl Iterator<Item = &'a Entry>,
) -> impl Iterator<Item = (&'a Entry, Families)> {
    let mut denies = Above::new(&DOCUMENT);
    rules.filter_map(move |rule| {
        if rule.action.denies() {
            denies.add(rule);
            return None;
        }
        let families = Families {
            v4: denies.leave(rule, &[Family::V4]),
            v6: denies.leave(rule, &[Family::V6]),
        };
        (families.v4 || families.v6).then_some((rule, families))
    })
}

/// A policy of a document, as far as it matters what packets show.
static DOCUMENT: Policy = Policy {
    direction: Direction::Egress,
    entries: Vec::new(),
    default: Verdict::Allow,
    five_tuple: false,
};

/// Entries of one action that stand above another one.
struct Above<'a> {
    policy: &'a Policy,
    /// Cut into planes when first needed.
    entries: Vec<(&'a Entry, Option<Planes>)>,
    steps: usize,
}

impl<'a> Above<'a> {
    fn new(policy: &'a Policy) -> Self {
        Above {
            policy,
            entries: Vec::new(),
            steps: STEPS,
        }
    }

    fn add(&mut self, entry: &'a Entry) {
        self.entries.push((entry, None));
    }

    /// Whether they leave some packet of these IP versions to an entry below them.
    fn leave(&mut self, entry: &Entry, families: &[Family]) -> bool {
        let policy = self.policy;
        let mut over: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(above, _)| above.matcher.fragments || !entry.matcher.fragments)
            .filter(|(above, _)| above.matcher.meets(&entry.matcher, policy.five_tuple))
            .collect();
        if over.iter().any(|(above, _)| above.matcher.covers(&entry.matcher)) {
            return false;
        }
        let own = cut(policy, &entry.matcher);
        let taken: Vec<&Planes> = over
            .iter_mut()
            .map(|(above, planes)| &*planes.get_or_insert_with(|| cut(policy, &above.matcher)))
            .collect();
        own.iter()
            .enumerate()
            .filter(|(plane, _)| families.contains(&family_of(*plane)))
            .any(|(plane, own)| {
                let taken = taken.iter().filter_map(|planes| planes.get(plane)?.as_ref());
                own.as_ref()
                    .is_some_and(|own| is_left(own, taken.collect(), &mut self.steps))
            })
    }
}

/// Whether anything of a product is left by all the others.
fn is_left(own: &Product, taken: Vec<&Product>, steps: &mut usize) -> bool {
    let mut pieces = vec![(own.clone(), 0)];
    while let Some((piece, from)) = pieces.pop() {
        let rest = taken.get(from..).unwrap_or(&[]);
        let next = rest.iter().position(|product| product.overlaps(&piece));
        *steps = steps.saturating_sub(next.map_or(rest.len(), |n| n + 1));
        let Some((n, product)) = next.and_then(|n| Some((n, rest.get(n)?))).filter(|_| *steps > 0) else {
            return true;
        };
        pieces.extend(piece.without(product).into_iter().map(|p| (p, from + n + 1)));
    }
    false
}

#[cfg(test)]
mod tests {
    use crate::direction::Direction;
    use crate::document::Document;
    use crate::effective::{Entry, Policy, Tier, effective};
    use crate::matcher::Matcher;
    use crate::types::Verdict;

    fn policy(rules: &str) -> Policy {
        let text = format!("version: portcullis/v1\nendpoints: {{e: {{rules: [{rules}]}}}}");
        let document = Document::from_yaml(&text).unwrap();
        let endpoint = document.endpoints.values().next().unwrap();
        effective(&document, "e", endpoint, Direction::Egress)
    }

    #[test]
    fn an_allow_for_whole_packets_takes_denies_for_whole_packets_alone() {
        let entry = |action, fragments| Entry {
            tier: Tier::Endpoint,
            origin: "r".into(),
            reason: "".into(),
            action,
            matcher: Matcher {
                fragments,
                ..Matcher::everything()
            }
            .into(),
        };
        for (allowed, denied, denies) in [
            (false, false, false),
            (false, true, true),
            (true, false, false),
            (true, true, false),
        ] {
            let policy = Policy {
                entries: vec![entry(Verdict::Allow, allowed), entry(Verdict::Deny, denied)],
                ..Policy::constant(Direction::Egress, Verdict::Allow)
            };
            assert_eq!(policy.may_deny(), denies, "{allowed} {denied}");
        }
    }

    #[test]
    fn a_deny_counts_unless_allows_before_it_take_all_of_it() {
        let rule = |name: &str, action: &str, rest: &str| {
            format!("{{name: {name}, action: {action}, direction: egress{rest}}}")
        };
        let gre = rule("gre", "deny", ", protocol: 47");
        let mail = rule("mail", "deny", ", protocol: tcp, ports: [25-30]");
        let all = rule("all", "allow", "");
        let low = rule("low", "allow", ", protocol: tcp, ports: [0-27]");
        let high = rule("high", "allow", ", protocol: tcp, ports: [28-65535]");
        let v4 = rule("v4", "allow", ", ip: 4");
        let v6 = rule("v6", "allow", ", ip: 6");
        for (rules, denies) in [
            (vec![], false),
            (vec![&gre], true),
            (vec![&all, &gre], false),
            (vec![&gre, &all], true),
            (vec![&low, &mail], true),
            (vec![&low, &high, &mail], false),
            (vec![&low, &high, &mail, &gre], true),
            (vec![&v4, &gre], true),
            (vec![&v4, &v6, &gre, &mail], false),
        ] {
            let text: Vec<&str> = rules.iter().map(|r| r.as_str()).collect();
            assert_eq!(policy(&text.join(", ")).may_deny(), denies, "{text:?}");
        }
    }
}

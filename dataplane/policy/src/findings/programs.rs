//! Programs that open more than a reader may think.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Finding, FindingKind};
use crate::document::{Document, Rule};
use crate::matcher::Matcher;
use crate::program::{EvidenceType, OpenScope, Opening, Program};
use crate::types::{Family, Name, StrictPrefix, Verdict};

/// Endpoints that a finding names, at most.
const NAMED: usize = 3;

/// What the programs of a document open unchecked, and to everybody.
pub(super) fn report(document: &Document, found: &mut BTreeSet<Finding>) {
    for (name, program) in &document.programs {
        found.extend(unchecked(document, name, program));
        let opens = program.opens.iter().enumerate();
        found.extend(opens.filter_map(|(n, opening)| unbounded(name, program, n, opening)));
    }
}

fn unchecked(document: &Document, name: &Name, program: &Program) -> Option<Finding> {
    if program.scope != OpenScope::All {
        return None;
    }
    let about: BTreeSet<&str> = program.checks.iter().filter_map(|c| c.kind.about()).collect();
    if about.is_empty() {
        return None;
    }
    let mut what = "for prefixes, and for endpoints that declare no addresses".to_string();
    let evidence: Vec<String> = about
        .iter()
        .filter(|about| **about != "endpoint")
        .map(|about| format!("`{about}`"))
        .collect();
    if !evidence.is_empty() {
        what.push_str(&format!(
            ", and for addresses other than that in the evidence {}",
            evidence.join(", ")
        ));
    }
    let prefix = |address: &StrictPrefix| address.0.prefix_len() < address.0.max_prefix_len();
    let mut have = document
        .endpoints
        .iter()
        .filter(|(_, endpoint)| endpoint.addresses.is_empty() || endpoint.addresses.iter().any(prefix))
        .map(|(name, _)| name.as_str());
    let mut names: Vec<&str> = have.by_ref().take(NAMED).collect();
    let more = have.count();
    let more = format!("{more} more");
    if more != "0 more" {
        names.push(&more);
    }
    let now = match names.is_empty() {
        true => String::new(),
        false => format!(" (now: {})", names.join(", ")),
    };
    Some(Finding {
        at: format!("programs/{name}"),
        kind: FindingKind::OpensUnchecked,
        by: Vec::new(),
        text: format!("`scope: all` opens {what}{now}: no check is about them"),
    })
}

fn unbounded(name: &Name, program: &Program, n: usize, opening: &Opening) -> Option<Finding> {
    let from = opening.remote_from.as_ref()?;
    let field = program.evidence.iter().find(|field| field.name == *from)?;
    let EvidenceType::Prefix {
        min_length_v4,
        min_length_v6,
    } = &field.kind
    else {
        return None;
    };
    let open = [
        (Family::V4, min_length_v4, "0.0.0.0/0", "min_length_v4"),
        (Family::V6, min_length_v6, "::/0", "min_length_v6"),
    ];
    let open = open
        .iter()
        .filter(|(family, min, everybody, _)| min.unwrap_or(0) == 0 && takes(opening, *family, everybody));
    let (everybody, bounds): (Vec<&str>, Vec<&str>) =
        open.map(|(_, _, everybody, bound)| (*everybody, *bound)).unzip();
    if everybody.is_empty() {
        return None;
    }
    Some(Finding {
        at: format!("programs/{name}/opens-{n}"),
        kind: FindingKind::Unbounded,
        by: Vec::new(),
        text: format!(
            "`remote_from: {from}` accepts {}, so that a tenant chooses to open to everybody: set {} of `{from}`, or list \
             `remote`",
            everybody.join(" and "),
            bounds.join(" and ")
        ),
    })
}

/// Whether an opening accepts the prefix of all addresses of an IP version.
fn takes(opening: &Opening, family: Family, everybody: &str) -> bool {
    let Ok(prefix) = everybody.parse::<IpNet>() else {
        return false;
    };
    let Ok(name) = "opens".parse::<Name>() else {
        return false;
    };
    let within =
        opening.remote.is_empty() || opening.remote.iter().any(|allowed| allowed.0.contains(&prefix));
    let rule = Rule {
        remote: vec![StrictPrefix(prefix)],
        ..opening.rule(name, Verdict::Allow, "")
    };
    opening.ip.is_none_or(|only| only == family) && within && Matcher::from_rule(&rule).is_some()
}

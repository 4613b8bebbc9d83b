//! Validation of programs, without their expressions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{EvidenceField, EvidenceType, Opening, Program};
use crate::document::Document;
use crate::types::{Name, Verdict};
use crate::validate::Check;

/// Most fields of evidence, checks, openings, and names in a list.
const MAX_LIST: usize = 64;
/// Longest title, prompt and expression, in bytes.
const MAX_TEXT: usize = 4096;
/// Most characters that any evidence may have.
pub const MAX_EVIDENCE: u32 = 4096;

impl Check {
    pub(crate) fn programs(&mut self, document: &Document) {
        for (name, program) in &document.programs {
            let at = format!("programs.{name}");
            self.program(&at, name, program, document);
        }
        self.circles(document);
    }

    fn program(&mut self, at: &str, name: &Name, program: &Program, document: &Document) {
        if program.opens.is_empty() {
            self.fail(
                format!("{at}.opens"),
                "opens nothing: name at least one direction and protocol",
            );
        }
        for (field, length) in [
            ("opens", program.opens.len()),
            ("evidence", program.evidence.len()),
            ("checks", program.checks.len()),
            ("needs", program.needs.len()),
            ("follow_up", program.follow_up.len()),
            (
                "limits.cooldown_after_revoke",
                program.limits.cooldown_after_revoke.len(),
            ),
        ] {
            if length > MAX_LIST {
                self.fail(
                    format!("{at}.{field}"),
                    format!("has {length} entries: at most {MAX_LIST}"),
                );
            }
        }
        self.text(&format!("{at}.title"), &program.title);
        let fields = self.evidence(at, &program.evidence);
        for (index, opening) in program.opens.iter().enumerate() {
            self.opening(&format!("{at}.opens[{index}]"), opening, &fields);
        }
        self.checks(at, program, &fields);
        self.lease(at, program);
        for (list, names) in [("needs", &program.needs), ("follow_up", &program.follow_up)] {
            for (index, other) in names.iter().enumerate() {
                if !document.programs.contains_key(other) {
                    self.fail(
                        format!("{at}.{list}[{index}]"),
                        format!("there is no program `{other}`: define it or remove the reference"),
                    );
                } else if other == name {
                    self.fail(format!("{at}.{list}[{index}]"), "is the program itself");
                }
            }
        }
        for (field, limit) in [
            ("per_endpoint", program.limits.per_endpoint),
            ("per_tenant", program.limits.per_tenant),
        ] {
            if limit == Some(0) {
                self.fail(
                    format!("{at}.limits.{field}"),
                    "0 would refuse every request: remove the program instead",
                );
            }
        }
    }

    fn text(&mut self, at: &str, text: &str) {
        if text.len() > MAX_TEXT {
            self.fail(at, format!("is longer than {MAX_TEXT} bytes"));
        }
    }

    fn evidence<'a>(
        &mut self,
        at: &str,
        evidence: &'a [EvidenceField],
    ) -> BTreeMap<&'a str, &'a EvidenceField> {
        let mut fields = BTreeMap::new();
        for (index, field) in evidence.iter().enumerate() {
            let at = format!("{at}.evidence[{index}]");
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let starts = field.name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
            if !starts || field.name.len() > 63 || !field.name.bytes().all(legal) {
                self.fail(
                    format!("{at}.name"),
                    format!(
                        "`{}` is not a name of evidence: 1 to 63 letters, digits or `_`, a letter first",
                        field.name
                    ),
                );
            }
            if field.name == "endpoint" {
                self.fail(
                    format!("{at}.name"),
                    "`endpoint` means the endpoint's own addresses: choose another",
                );
            }
            if fields.insert(field.name.as_str(), field).is_some() {
                self.fail(
                    format!("{at}.name"),
                    format!("`{}` is asked for twice", field.name),
                );
            }
            self.text(&format!("{at}.prompt"), &field.prompt);
            self.evidence_type(&at, &field.kind);
        }
        fields
    }

    fn evidence_type(&mut self, at: &str, kind: &EvidenceType) {
        match kind {
            EvidenceType::Text {
                min_length,
                max_length,
                ..
            } => {
                for (field, length) in [("min_length", min_length), ("max_length", max_length)] {
                    if length.is_some_and(|l| l > MAX_EVIDENCE) {
                        self.fail(format!("{at}.{field}"), format!("at most {MAX_EVIDENCE}"));
                    }
                }
                self.ordered(at, "min_length", min_length.as_ref(), max_length.as_ref());
            }
            EvidenceType::Integer { min, max } => self.ordered(at, "min", min.as_ref(), max.as_ref()),
            EvidenceType::Prefix {
                min_length_v4,
                min_length_v6,
            } => {
                if min_length_v4.is_some_and(|l| l > 32) {
                    self.fail(format!("{at}.min_length_v4"), "at most 32");
                }
                if min_length_v6.is_some_and(|l| l > 128) {
                    self.fail(format!("{at}.min_length_v6"), "at most 128");
                }
            }
            EvidenceType::Enum { values } => {
                if values.is_empty() || values.len() > MAX_LIST {
                    self.fail(format!("{at}.values"), format!("1 to {MAX_LIST} words"));
                }
                let mut seen = BTreeSet::new();
                for (index, value) in values.iter().enumerate() {
                    if value.is_empty() || !seen.insert(value) {
                        self.fail(format!("{at}.values[{index}]"), "is empty or there twice");
                    }
                }
            }
            // Days are read with the expressions; ISO days are in order as texts.
            EvidenceType::Date {
                not_before,
                not_after,
            } => {
                self.ordered(at, "not_before", not_before.as_ref(), not_after.as_ref());
            }
            EvidenceType::Url { schemes } => {
                if schemes.len() > MAX_LIST {
                    self.fail(format!("{at}.schemes"), format!("at most {MAX_LIST}"));
                }
            }
            EvidenceType::Boolean { .. }
            | EvidenceType::Hostname {}
            | EvidenceType::Email {}
            | EvidenceType::Address {} => {}
        }
    }

    fn ordered<T: Ord + std::fmt::Display>(
        &mut self,
        at: &str,
        field: &str,
        low: Option<&T>,
        high: Option<&T>,
    ) {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            self.fail(
                format!("{at}.{field}"),
                format!("{low} is above {high}: nothing could be submitted"),
            );
        }
    }

    fn opening(&mut self, at: &str, opening: &Opening, fields: &BTreeMap<&str, &EvidenceField>) {
        if let Ok(name) = "opens".parse::<Name>() {
            self.rule(&|| at.to_string(), &opening.rule(name, Verdict::Allow, ""));
        }
        if opening.ports_from.is_some() && opening.ports.is_empty() {
            self.fail(
                format!("{at}.ports"),
                "is missing: ports_from chooses one of ports, and every port is too much to choose from",
            );
        }
        let mut narrows = |field: &str, name: &Option<String>, wanted: &[&str]| {
            let Some(name) = name else { return };
            match fields.get(name.as_str()) {
                None => self.fail(
                    format!("{at}.{field}"),
                    format!("`{name}` is no evidence of this program: add it there"),
                ),
                Some(found) if !wanted.contains(&found.kind.name()) => self.fail(
                    format!("{at}.{field}"),
                    format!(
                        "`{name}` is of type {}: {} is needed",
                        found.kind.name(),
                        wanted.join(" or ")
                    ),
                ),
                Some(found) if !found.required => self.fail(
                    format!("{at}.{field}"),
                    format!(
                        "`{name}` need not be submitted: without it more would be opened than was asked for"
                    ),
                ),
                Some(found) if found.secret => self.fail(
                    format!("{at}.{field}"),
                    format!("`{name}` is secret, and what is open is shown: let something else narrow it"),
                ),
                Some(_) => {}
            }
        };
        narrows("ports_from", &opening.ports_from, &["integer"]);
        narrows("remote_from", &opening.remote_from, &["address", "prefix"]);
    }

    fn checks(&mut self, at: &str, program: &Program, fields: &BTreeMap<&str, &EvidenceField>) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, check) in program.checks.iter().enumerate() {
            let at = format!("{at}.checks[{index}]");
            let name = check.name();
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
            if !starts || name.len() > 63 || !name.bytes().all(legal) {
                self.fail(
                    format!("{at}.name"),
                    format!(
                        "`{name}` is not a name of a check: 1 to 63 letters, digits or `_`, a letter first"
                    ),
                );
            }
            if let Some(first) = seen.insert(name, index) {
                self.fail(
                    format!("{at}.name"),
                    format!("checks[{first}] is called `{name}` already: give one a name of its own"),
                );
            }
            for (field, name, wanted) in check.kind.names() {
                if name == "endpoint" && wanted.contains(&"address") {
                    continue;
                }
                match fields.get(name) {
                    None => self.fail(
                        format!("{at}.{field}"),
                        format!("`{name}` is no evidence of this program: add it there"),
                    ),
                    Some(found) if !wanted.contains(&found.kind.name()) => self.fail(
                        format!("{at}.{field}"),
                        format!(
                            "`{name}` is of type {}: {} is needed",
                            found.kind.name(),
                            wanted.join(" or ")
                        ),
                    ),
                    Some(found) if found.secret => self.fail(
                        format!("{at}.{field}"),
                        format!("`{name}` is secret, and what a check finds is shown: check something else"),
                    ),
                    Some(_) => {}
                }
            }
        }
    }

    fn lease(&mut self, at: &str, program: &Program) {
        let lease = &program.lease;
        for (field, span) in [
            ("default", Some(lease.default)),
            ("max", lease.max),
            ("recheck_every", lease.recheck_every),
        ] {
            if span.is_some_and(|s| s.is_zero()) {
                self.fail(format!("{at}.lease.{field}"), "0 is no time: write 1s or more");
            }
        }
        if lease.max.is_some_and(|max| max < lease.default) {
            self.fail(
                format!("{at}.lease.max"),
                format!("is below default, {}", lease.default),
            );
        }
        if lease.recheck_every.is_some() && program.checks.is_empty() && program.require.is_none() {
            self.fail(
                format!("{at}.lease.recheck_every"),
                "there are no checks to make again and nothing is required: add checks or require, or remove it",
            );
        }
    }

    /// Programs that need each other could never begin; those that follow each other would never stop.
    fn circles(&mut self, document: &Document) {
        for (field, next) in [
            ("needs", (|p: &Program| &p.needs) as fn(&Program) -> &Vec<Name>),
            ("follow_up", |p: &Program| &p.follow_up),
        ] {
            for name in document.programs.keys() {
                let mut seen = BTreeSet::new();
                let mut todo = vec![name];
                while let Some(at) = todo.pop() {
                    let Some(program) = document.programs.get(at) else {
                        continue;
                    };
                    for other in next(program) {
                        if other == name && at != name {
                            self.fail(
                                format!("programs.{name}.{field}"),
                                format!("leads back to `{name}` by `{at}`: break the circle"),
                            );
                            todo.clear();
                            break;
                        }
                        if seen.insert(other) {
                            todo.push(other);
                        }
                    }
                }
            }
        }
    }
}

//! Views of changes and plans: `apply`, `plan`, `endpoint`.

use std::collections::BTreeMap;

use portcullis_policy::Finding;
use portcullis_proto::v1;
use serde::Serialize;

use super::bypass::BypassView;
use super::{bound, bound_text};
use crate::table::Grid;
use crate::term::View;

/// Something legal and yet worth a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindingView {
    /// Path in the document, for example `profiles/web/http`.
    pub at: String,
    /// What sort of thing: `never_matches`.
    pub kind: String,
    /// The rules that make it so, written as in `at`, in the order in which they match.
    pub by: Vec<String>,
    /// What, in words that stand alone.
    pub text: String,
}

impl From<v1::Finding> for FindingView {
    fn from(f: v1::Finding) -> Self {
        FindingView {
            at: f.at,
            kind: f.kind,
            by: f.by,
            text: f.text,
        }
    }
}

impl From<Finding> for FindingView {
    fn from(f: Finding) -> Self {
        FindingView {
            at: f.at,
            kind: f.kind.to_string(),
            by: f.by,
            text: f.text,
        }
    }
}

/// Findings of one kind that are shown one by one at most; of more, the first [`FIRST`].
const SHOWN: usize = 20;
/// Findings of a kind that are shown when there are too many.
const FIRST: usize = 5;
/// Lists of rules that are named where findings are counted.
const LISTS: usize = 6;

impl FindingView {
    /// Findings for people: where there are many of one kind, the first of them and where the others are.
    pub fn lines(findings: &[FindingView]) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in findings {
            *counts.entry(finding.kind.as_str()).or_default() += 1;
        }
        let mut lines = Vec::new();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut left: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
        for finding in findings {
            let kind = finding.kind.as_str();
            let many = counts.get(kind).is_some_and(|count| *count > SHOWN);
            let before = seen.entry(kind).or_default();
            *before += 1;
            if !many || *before <= FIRST {
                lines.push(finding.line());
                continue;
            }
            let list = finding
                .at
                .rsplit_once('/')
                .map_or(finding.at.as_str(), |(list, _)| list);
            let lists = left.entry(kind).or_default();
            match lists.iter_mut().find(|(known, _)| *known == list) {
                Some((_, count)) => *count += 1,
                None => lists.push((list, 1)),
            }
        }
        lines.extend(left.into_iter().map(|(kind, lists)| Self::summary(kind, &lists)));
        lines
    }

    /// How many more there are of a kind, and in which lists.
    fn summary(kind: &str, lists: &[(&str, usize)]) -> String {
        let total: usize = lists.iter().map(|(_, count)| count).sum();
        let named = lists
            .iter()
            .take(LISTS)
            .map(|(list, count)| format!("{list} ({count})"));
        let mut named = named.collect::<Vec<_>>().join(", ");
        if lists.len() > LISTS {
            named.push_str(&format!(" and {} more lists", lists.len() - LISTS));
        }
        format!("note: {total} more ({kind}): {named}; JSON output has all of them")
    }

    /// In one line, without its end. The text names the rules.
    pub fn line(&self) -> String {
        format!("note: {} ({}): {}", self.at, self.kind, self.text)
    }
}

/// Resources that a document changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ChangesView {
    pub created: Vec<String>,
    pub changed: Vec<String>,
    pub deleted: Vec<String>,
    /// What is worth a word.
    pub findings: Vec<FindingView>,
}

impl ChangesView {
    fn new(
        created: Vec<String>,
        changed: Vec<String>,
        deleted: Vec<String>,
        findings: Vec<v1::Finding>,
    ) -> Self {
        ChangesView {
            created,
            changed,
            deleted,
            findings: findings.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether nothing is created, changed or deleted.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.changed.is_empty() && self.deleted.is_empty()
    }

    fn summary(&self) -> String {
        format!(
            "{} created, {} changed, {} deleted",
            self.created.len(),
            self.changed.len(),
            self.deleted.len()
        )
    }

    fn text(&self) -> String {
        let lists = [('+', &self.created), ('~', &self.changed), ('-', &self.deleted)];
        let changes = lists
            .into_iter()
            .flat_map(|(sign, list)| list.iter().map(move |r| format!("{sign} {r}\n")));
        let findings = FindingView::lines(&self.findings);
        let findings = findings.into_iter().map(|line| line + "\n");
        changes.chain(findings).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApplyView {
    /// The generation it made; the last one when nothing changed.
    pub generation: u64,
    /// Nothing was changed, because only a check was asked for.
    pub dry_run: bool,
    #[serde(flatten)]
    pub changes: ChangesView,
    /// Whether every target holds the generation; absent without `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realized: Option<bool>,
}

impl ApplyView {
    pub fn new(answer: v1::ApplyDocumentResponse, dry_run: bool, realized: Option<bool>) -> Self {
        let changes = ChangesView::new(answer.created, answer.changed, answer.deleted, answer.findings);
        ApplyView {
            generation: answer.generation,
            dry_run,
            changes,
            realized,
        }
    }
}

fn realized_text(realized: Option<bool>) -> &'static str {
    match realized {
        None => "",
        Some(true) => ", realized on every target",
        Some(false) => ", not realized yet",
    }
}

impl View for ApplyView {
    fn text(&self, _: Option<u16>) -> String {
        let end = match (self.dry_run, self.changes.is_empty()) {
            (true, true) => "valid; nothing would change\n".to_string(),
            (true, false) => format!("valid; would be {}\n", self.changes.summary()),
            (false, true) => {
                format!(
                    "nothing changed: generation {}{}\n",
                    self.generation,
                    realized_text(self.realized)
                )
            }
            (false, false) => {
                let (summary, realized) = (self.changes.summary(), realized_text(self.realized));
                format!("generation {}: {summary}{realized}\n", self.generation)
            }
        };
        self.changes.text() + &end
    }
}

/// One resource that was changed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommittedView {
    /// Kind and name, for example `endpoints/web1`.
    pub resource: String,
    pub generation: u64,
    /// The resource's etag; absent when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Whether every target holds the generation; absent without `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realized: Option<bool>,
}

impl CommittedView {
    pub fn new(resource: String, answer: v1::Committed, realized: Option<bool>) -> Self {
        let etag = Some(answer.etag).filter(|e| !e.is_empty());
        CommittedView {
            resource,
            generation: answer.generation,
            etag,
            realized,
        }
    }
}

impl View for CommittedView {
    fn text(&self, _: Option<u16>) -> String {
        let done = if self.etag.is_some() {
            "provisioned"
        } else {
            "released"
        };
        format!(
            "{} {done}: generation {}{}\n",
            self.resource,
            self.generation,
            realized_text(self.realized)
        )
    }
}

/// What would change in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePlanView {
    pub table: String,
    pub now: u64,
    pub add: u64,
    pub change: u64,
    pub delete: u64,
    pub after: u64,
    /// Rows it can hold; null when only memory bounds it.
    pub size: Option<u64>,
    /// Rows that still fit afterwards; below 0 when the plan does not fit; null when unbounded.
    pub headroom: Option<i128>,
}

impl From<v1::TablePlan> for TablePlanView {
    fn from(t: v1::TablePlan) -> Self {
        let after = t.now.saturating_add(t.add).saturating_sub(t.delete);
        let size = bound(t.size);
        TablePlanView {
            table: t.table,
            now: t.now,
            add: t.add,
            change: t.change,
            delete: t.delete,
            after,
            size,
            headroom: size.map(|size| i128::from(size) - i128::from(after)),
        }
    }
}

/// What would change on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetPlanView {
    pub target: String,
    /// Why there is no plan for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unavailable: String,
    /// Traffic that stops by what the target itself changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Rules that a table would have no room for, so that nearer targets alone would hold them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<String>,
    /// Rules that nearer targets alone hold now, and that it would hold, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holds_again: Vec<String>,
    pub tables: Vec<TablePlanView>,
    /// The rows, when they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<String>,
}

/// Classes before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClassesView {
    pub now: u32,
    pub after: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanView {
    /// What would change in the policy.
    #[serde(flatten)]
    pub changes: ChangesView,
    pub classes: ClassesView,
    pub targets: Vec<TargetPlanView>,
    /// Bypasses that stay: their endpoints follow the document when they end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bypasses: Vec<BypassView>,
    /// Active unlocks that would be closed.
    pub closes: Vec<ClosedView>,
}

/// An active unlock that would be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClosedView {
    pub id: String,
    pub endpoint: String,
    pub program: String,
    pub tenant: String,
    /// The state that it would be in.
    pub state: String,
    pub reason: String,
}

impl From<v1::ClosedUnlock> for ClosedView {
    fn from(c: v1::ClosedUnlock) -> Self {
        ClosedView {
            id: c.id,
            endpoint: c.endpoint,
            program: c.program,
            tenant: c.tenant,
            state: c.state,
            reason: c.reason,
        }
    }
}

impl From<v1::PlanResponse> for PlanView {
    fn from(p: v1::PlanResponse) -> Self {
        let target = |t: v1::TargetPlan| TargetPlanView {
            target: t.target,
            unavailable: t.unavailable,
            warnings: t.warnings,
            leaves: t.leaves,
            holds_again: t.holds_again,
            tables: t.tables.into_iter().map(TablePlanView::from).collect(),
            rows: t.rows,
        };
        PlanView {
            changes: ChangesView::new(p.created, p.changed, p.deleted, p.findings),
            classes: ClassesView {
                now: p.classes_now,
                after: p.classes_after,
            },
            targets: p.targets.into_iter().map(target).collect(),
            bypasses: p.bypasses.into_iter().map(BypassView::from).collect(),
            closes: p.closes.into_iter().map(ClosedView::from).collect(),
        }
    }
}

impl PlanView {
    /// Whether policy or rows would change.
    pub fn would_change(&self) -> bool {
        let mut tables = self.targets.iter().flat_map(|t| &t.tables);
        !self.changes.is_empty() || tables.any(|t| t.add + t.change + t.delete > 0)
    }
}

/// Rules that a target would leave or take back, the first of them by name.
fn moved(target: &str, rules: &[String], what: &str) -> String {
    if rules.is_empty() {
        return String::new();
    }
    let named: Vec<&str> = rules.iter().take(SHOWN).map(String::as_str).collect();
    let more = match rules.len() - named.len() {
        0 => String::new(),
        more => format!(", and {more} more (-o json shows all)"),
    };
    let rules = if rules.len() == 1 {
        "1 rule".to_string()
    } else {
        format!("{} rules", rules.len())
    };
    format!(
        "\n{target}: {rules} would be {what}: {}{more}\n",
        named.join(", ")
    )
}

impl View for PlanView {
    fn text(&self, width: Option<u16>) -> String {
        let mut text = self.changes.text();
        text += &match self.changes.is_empty() {
            true => "the policy would not change\n".to_string(),
            false => format!(
                "would be {}; policy classes: {} now, {} after\n",
                self.changes.summary(),
                self.classes.now,
                self.classes.after
            ),
        };
        for bypass in &self.bypasses {
            text += &format!(
                "note: {} is bypassed {}; it follows the document when that ends\n",
                bypass.endpoint,
                bypass.words()
            );
        }
        let mut closed = Grid::new(&["UNLOCK", "ENDPOINT", "PROGRAM", "STATE", "REASON"]);
        for c in &self.closes {
            closed.row([&c.id, &c.endpoint, &c.program, &c.state, &c.reason].map(String::clone));
        }
        if !closed.is_empty() {
            text += &format!("\nactive unlocks that would be closed:\n{}", closed.text(width));
        }
        let columns = [
            "TARGET", "TABLE", "#ROWS", "#ADD", "#CHANGE", "#DELETE", "#AFTER", "#SIZE", "#LEFT",
        ];
        let mut grid = Grid::new(&columns);
        for target in &self.targets {
            for t in &target.tables {
                let numbers = [t.now, t.add, t.change, t.delete, t.after].map(|n| n.to_string());
                let left = t
                    .headroom
                    .map_or_else(|| "unbounded".to_string(), |n| n.to_string());
                let row = [target.target.clone(), t.table.clone()]
                    .into_iter()
                    .chain(numbers);
                grid.row(row.chain([bound_text(t.size), left]));
            }
        }
        if !grid.is_empty() {
            text.push('\n');
        }
        text += &grid.text(width);
        for target in &self.targets {
            if !target.unavailable.is_empty() {
                text += &format!("\n{}: no plan: {}\n", target.target, target.unavailable);
            }
            for warning in &target.warnings {
                text += &format!("\n{}: warning: {warning}\n", target.target);
            }
            for (rules, what) in [
                (
                    &target.leaves,
                    "left to nearer targets, because a table has no room",
                ),
                (&target.holds_again, "held here again"),
            ] {
                text += &moved(&target.target, rules, what);
            }
            if !target.rows.is_empty() {
                text += &format!("\nrows on {}:\n", target.target);
                target.rows.iter().for_each(|row| text += &format!("{row}\n"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(at: String, kind: &str) -> FindingView {
        FindingView {
            at,
            kind: kind.to_string(),
            by: Vec::new(),
            text: "why".to_string(),
        }
    }

    #[test]
    fn few_findings_are_shown_and_many_are_counted() {
        let mut findings: Vec<FindingView> = (1..=SHOWN)
            .map(|n| finding(format!("baseline/r{n}"), "redundant"))
            .collect();
        let all = FindingView::lines(&findings);
        assert_eq!(all.len(), SHOWN);
        findings.push(finding("endpoints/web1".to_string(), "one_way"));
        findings.extend((0..300).map(|n| finding(format!("profiles/p{}/r{n}", n % 10), "never_matches")));
        let lines = FindingView::lines(&findings);
        assert_eq!(lines[..SHOWN], all);
        assert_eq!(lines[SHOWN], "note: endpoints/web1 (one_way): why");
        assert_eq!(lines.len(), SHOWN + 1 + FIRST + 1);
        assert_eq!(
            lines[SHOWN + 1 + FIRST],
            "note: 295 more (never_matches): profiles/p5 (30), profiles/p6 (30), profiles/p7 (30), profiles/p8 (30), \
             profiles/p9 (30), profiles/p0 (29) and 4 more lists; JSON output has all of them"
        );
    }
}

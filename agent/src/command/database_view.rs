//! View of a database.

use std::path::Path;

use portcullis_cli::table::facts;
use portcullis_cli::term::View;
use serde::Serialize;

use crate::store::DatabaseReport;

/// A database that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportView {
    pub file: String,
    pub generation: u64,
    /// Resources of the policy.
    pub resources: u64,
    /// Unlocks whose ports are open.
    pub open_unlocks: u64,
    /// Entries of the audit log, whose hashes are right.
    pub audit_entries: u64,
    /// The hash at its end.
    pub audit_head: String,
    /// Unlocks that were closed since the backup was made, and stay closed.
    pub closed_since: u64,
    /// Where the database is that was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

impl ReportView {
    pub fn new(file: &Path, report: DatabaseReport) -> Self {
        ReportView {
            file: file.display().to_string(),
            generation: report.generation,
            resources: report.resources,
            open_unlocks: report.open,
            audit_entries: report.audit_entries,
            audit_head: report.audit_head,
            closed_since: report.closed_since,
            replaced: report.replaced.map(|file| file.display().to_string()),
        }
    }
}

impl View for ReportView {
    fn text(&self, _: Option<u16>) -> String {
        let closed = match self.closed_since {
            0 => String::new(),
            count => format!("{count} unlocks that ended since the backup"),
        };
        facts(&[
            ("file", self.file.clone()),
            ("generation", self.generation.to_string()),
            ("resources", self.resources.to_string()),
            ("open unlocks", self.open_unlocks.to_string()),
            (
                "audit log",
                format!("{} entries, intact, head {}", self.audit_entries, self.audit_head),
            ),
            ("closed again", closed),
            ("replaced", self.replaced.clone().unwrap_or_default()),
        ])
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedView {
    pub done: String,
}

impl View for AcceptedView {
    fn text(&self, _: Option<u16>) -> String {
        format!("{}\n", self.done)
    }
}

//! The audit log.

use portcullis_proto::v1;
use serde::Serialize;

use super::unlock::time;
use crate::table::Grid;
use crate::term::View;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryView {
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub actor: String,
    pub role: String,
    pub action: String,
    pub subject: String,
    pub detail: serde_json::Value,
    pub generation: u64,
    /// Over the entry and the hash before it.
    pub hash: String,
    /// The hash before it.
    pub previous_hash: String,
    /// Not all of it is here: its hash is over more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl From<v1::AuditEntry> for EntryView {
    fn from(entry: v1::AuditEntry) -> Self {
        EntryView {
            number: entry.number,
            at_ms: entry.at_ms,
            actor: entry.actor,
            role: entry.role,
            action: entry.action,
            subject: entry.subject,
            // It is shown as it is when it is not JSON.
            detail: serde_json::from_str(&entry.detail).unwrap_or(serde_json::Value::String(entry.detail)),
            generation: entry.generation,
            hash: entry.hash,
            previous_hash: entry.previous_hash,
            cut: entry.cut,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditView {
    /// In the order in which they were asked for.
    pub entries: Vec<EntryView>,
}

/// What of an entry's detail a line has room for.
fn why(entry: &EntryView) -> String {
    let text = |key: &str| {
        entry
            .detail
            .get(key)
            .and_then(|value| value.as_str())
            .map(str::to_string)
    };
    let listed = || {
        let list = entry.detail.get("changes")?.as_array()?;
        let some: Vec<&str> = list.iter().take(3).filter_map(|value| value.as_str()).collect();
        Some(some.join(", "))
    };
    text("why")
        .or_else(|| text("reason"))
        .or_else(listed)
        .unwrap_or_default()
}

impl View for AuditView {
    fn text(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["#NUMBER", "AT", "ACTOR", "ROLE", "ACTION", "SUBJECT", "WHY"]);
        for entry in &self.entries {
            grid.row([
                entry.number.to_string(),
                time(entry.at_ms.div_euclid(1000)),
                entry.actor.clone(),
                entry.role.clone(),
                entry.action.clone(),
                entry.subject.clone(),
                why(entry),
            ]);
        }
        match grid.is_empty() {
            true => "no entries\n".to_string(),
            false => grid.text(width),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether the log is what was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerdictView {
    pub intact: bool,
    pub entries: u64,
    /// The first that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// Hash of the last one that is right.
    pub head: String,
    /// Entries before them, which are in files.
    #[serde(skip_serializing_if = "is_zero")]
    pub archived: u64,
    /// Archives that were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<ArchiveView>,
}

/// Whether an archive is what was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArchiveView {
    pub file: std::path::PathBuf,
    pub first: u64,
    /// Its last entry, or the last one before the first that is wrong.
    pub last: u64,
    /// The first entry that is not what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

impl ArchiveView {
    fn text(&self) -> String {
        let file = portcullis_policy::text::plain(&self.file.display().to_string()).into_owned();
        match self.broken_at {
            None => format!("intact: entries {} to {} in {file}\n", self.first, self.last),
            Some(number) => format!("BROKEN at entry {number} in {file}: {}\n", self.problem),
        }
    }
}

impl From<v1::VerifyAuditResponse> for VerdictView {
    fn from(answer: v1::VerifyAuditResponse) -> Self {
        VerdictView {
            intact: answer.intact,
            entries: answer.entries,
            broken_at: (answer.broken_at > 0).then_some(answer.broken_at),
            problem: answer.problem,
            head: answer.head,
            archived: answer.archived,
            archives: Vec::new(),
        }
    }
}

impl View for VerdictView {
    fn text(&self, _: Option<u16>) -> String {
        let head = format!("{}:{}", self.archived + self.entries, self.head);
        let archived = match self.archived {
            0 => String::new(),
            count => format!(" behind {count} that are in files"),
        };
        let log = match self.broken_at {
            None => format!("intact: {} entries{archived}, head {head}\n", self.entries),
            Some(number) => format!(
                "BROKEN at entry {number}: {}\n{} entries before it are what was written{archived}, head {head}\n",
                self.problem, self.entries
            ),
        };
        self.archives
            .iter()
            .fold(log, |text, archive| text + &archive.text())
    }
}

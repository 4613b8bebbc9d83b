//! View of one target.

use std::collections::BTreeMap;

use portcullis_proto::v1;
use serde::Serialize;

use super::bound;

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableUseView {
    pub table: String,
    /// Its number on the target.
    pub number: u32,
    pub rows: u64,
    /// Rows it can hold; null when only memory bounds it.
    pub size: Option<u64>,
    /// Rows that still fit; null when unbounded.
    pub headroom: Option<u64>,
}

/// An endpoint that is not realized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PendingView {
    pub endpoint: String,
    /// What it waits for.
    pub why: String,
}

/// Something a target cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnsupportedView {
    pub rule: String,
    pub table: String,
    pub why: String,
}

/// A way in which packets pass without the agent's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExposureView {
    /// Its name in metrics.
    pub cause: String,
    /// When it is open, and what passes then.
    pub what: String,
    pub remedy: String,
    /// Whether it may be open now.
    pub open: bool,
}

/// Rows written since the session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WritesView {
    pub added: u64,
    pub changed: u64,
    pub deleted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetView {
    pub name: String,
    pub kind: String,
    /// Versions and capabilities by name.
    pub versions: BTreeMap<String, String>,
    /// Where its session stands.
    pub state: String,
    /// What it waits for, or what went wrong last.
    pub detail: String,
    /// The generation it shall hold.
    pub generation_wanted: u64,
    /// The generation it is known to hold.
    pub generation_applied: u64,
    /// Endpoints realized on it.
    pub endpoints_realized: u64,
    /// Endpoints that wait for something.
    pub pending: Vec<PendingView>,
    /// Rows per table, in pipeline order.
    pub tables: Vec<TableUseView>,
    /// Rows of others in our tables; untouched.
    pub foreign_rows: u64,
    /// What it cannot do.
    pub unsupported: Vec<UnsupportedView>,
    pub writes: WritesView,
    /// Rows found missing, altered or left over and put right.
    pub drift_repaired: u64,
    /// Connections to the datapath that ended.
    pub disconnects: u64,
    /// Rows of this agent in tables, or under tags, that it no longer uses.
    pub left_over_rows: u64,
    /// Ways in which packets pass without its rows.
    pub exposures: Vec<ExposureView>,
    /// Milliseconds in which packets may have passed that the policy denies, by cause.
    pub open_millis: BTreeMap<String, u64>,
    /// The generation whose rows the datapath confirmed.
    pub generation_confirmed: u64,
}

impl From<v1::Target> for TargetView {
    fn from(t: v1::Target) -> Self {
        let table = |t: v1::TableUse| {
            let size = bound(t.size);
            let headroom = size.map(|size| size.saturating_sub(t.rows));
            TableUseView {
                table: t.table,
                number: t.number,
                rows: t.rows,
                size,
                headroom,
            }
        };
        let unsupported = |u: v1::Unsupported| UnsupportedView {
            rule: u.rule,
            table: u.table,
            why: u.why,
        };
        let exposure = |e: v1::Exposure| ExposureView {
            cause: e.cause,
            what: e.what,
            remedy: e.remedy,
            open: e.open,
        };
        TargetView {
            name: t.name,
            kind: t.kind,
            versions: t.versions.into_iter().collect(),
            state: t.state,
            detail: t.detail,
            generation_wanted: t.generation_wanted,
            generation_applied: t.generation_applied,
            endpoints_realized: t.endpoints_realized,
            pending: t
                .pending
                .into_iter()
                .map(|p| PendingView {
                    endpoint: p.endpoint,
                    why: p.why,
                })
                .collect(),
            tables: t.tables.into_iter().map(table).collect(),
            foreign_rows: t.foreign_rows,
            unsupported: t.unsupported.into_iter().map(unsupported).collect(),
            writes: WritesView {
                added: t.rows_added,
                changed: t.rows_changed,
                deleted: t.rows_deleted,
            },
            drift_repaired: t.drift_repaired,
            disconnects: t.disconnects,
            left_over_rows: t.left_over_rows,
            exposures: t.exposures.into_iter().map(exposure).collect(),
            open_millis: t.open_millis.into_iter().collect(),
            generation_confirmed: t.generation_confirmed,
        }
    }
}

impl TargetView {
    /// Whether the datapath holds `generation` or a later one.
    pub fn holds(&self, generation: u64) -> bool {
        self.state == "InSync" && self.generation_applied >= generation
    }

    /// How long packets may have passed for causes that are no exposure.
    pub(super) fn was_open(&self) -> String {
        let exposed = |cause: &str| self.exposures.iter().any(|e| e.cause == cause);
        let others = self.open_millis.iter().filter(|(cause, _)| !exposed(cause));
        let others: Vec<String> = others
            .map(|(cause, millis)| format!("{cause} {}.{:03} s", millis / 1000, millis % 1000))
            .collect();
        match others.as_slice() {
            [] => String::new(),
            others => format!(
                "packets may have passed that the policy denies, by cause: {}",
                others.join(", ")
            ),
        }
    }

    /// In one line: what it is doing.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{} {}, generation {} of {}, {} realized, {} pending",
            self.name,
            self.state,
            self.generation_applied,
            self.generation_wanted,
            self.endpoints_realized,
            self.pending.len()
        );
        if !self.detail.is_empty() {
            line += &format!(": {}", self.detail);
        }
        line
    }
}

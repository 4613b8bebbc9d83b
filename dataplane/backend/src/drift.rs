//! The log of rows that were not as they were written, and of rows that a target refused.

use crate::machine::Drift;

/// Rows named in the log, of each kind. Of 10,000 rows that a restarted switch lost, ten say as much.
const NAMED: usize = 10;

/// Refused rows of one batch that a session keeps at most, where the other side can send any number of errors.
pub const REFUSED_AT_MOST: usize = 20;

/// A row that the target refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// The row, as status and log show it.
    pub row: String,
    /// The reason that the target gave, as status and log show it.
    pub why: String,
}

/// Logs drift of a target. `text` shows a row.
pub(crate) fn log_drift<K>(target: &str, drift: &Drift<K>, text: impl Fn(&K) -> String) {
    let kinds = [
        ("missing", &drift.missing),
        ("altered", &drift.altered),
        ("surplus", &drift.surplus),
    ];
    for (kind, keys) in kinds {
        for key in keys.iter().take(NAMED) {
            let row = text(key);
            tracing::warn!(target, kind, row, "a row had drifted; it is put right");
        }
    }
    tracing::warn!(
        target,
        missing = drift.missing.len(),
        altered = drift.altered.len(),
        surplus = drift.surplus.len(),
        "repairing drift"
    );
}

/// Logs rows that a target removed by itself, at the end of an unlock.
pub fn log_ended<K>(target: &str, keys: &[K], text: impl Fn(&K) -> String) {
    for key in keys.iter().take(NAMED) {
        let row = text(key);
        tracing::info!(target, row, "the target removed a row at the end of an unlock");
    }
}

/// Logs refused rows. Returns the first one with its reason, and how many more there are.
pub(crate) fn log_refused(target: &str, rows: &[RefusedRow]) -> String {
    for RefusedRow { row, why } in rows.iter().take(NAMED) {
        tracing::error!(target, row, why, "the target refused a row");
    }
    let Some(RefusedRow { row, why }) = rows.first() else {
        return "a row".to_string();
    };
    match rows.len() - 1 {
        0 => format!("{row}: {why}"),
        more if rows.len() == REFUSED_AT_MOST => format!("{row}: {why}, and at least {more} more rows"),
        more => format!("{row}: {why}, and {more} more rows"),
    }
}

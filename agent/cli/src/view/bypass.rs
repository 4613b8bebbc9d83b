//! Bypasses of endpoints' policies.

use portcullis_proto::v1;
use serde::Serialize;

use super::count;
use super::time::utc;
use super::unlock::ClosingView;
use crate::table::{Grid, facts};
use crate::term::View;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BypassView {
    pub endpoint: String,
    pub reason: String,
    pub by: String,
    /// When, in seconds since the Unix epoch.
    pub started_at: i64,
    /// When it ends, likewise.
    pub ends_at: i64,
}

impl From<v1::Bypass> for BypassView {
    fn from(bypass: v1::Bypass) -> Self {
        BypassView {
            endpoint: bypass.endpoint,
            reason: bypass.reason,
            by: bypass.by,
            started_at: bypass.started_at,
            ends_at: bypass.ends_at,
        }
    }
}

impl BypassView {
    /// Until when, by whom and why.
    pub(super) fn words(&self) -> String {
        format!("until {} by {}: {}", utc(self.ends_at), self.by, self.reason)
    }

    /// Several as a table; nothing of none.
    pub(super) fn grid(bypasses: &[BypassView], width: Option<u16>) -> String {
        let mut grid = Grid::new(&["BYPASSED ENDPOINT", "ENDS", "STARTED", "BY", "REASON"]);
        for bypass in bypasses {
            grid.row([
                bypass.endpoint.clone(),
                utc(bypass.ends_at),
                utc(bypass.started_at),
                bypass.by.clone(),
                bypass.reason.clone(),
            ]);
        }
        grid.text(width)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BypassesView {
    pub bypasses: Vec<BypassView>,
}

impl View for BypassesView {
    fn text(&self, width: Option<u16>) -> String {
        if self.bypasses.is_empty() {
            return "no endpoint is bypassed\n".to_string();
        }
        BypassView::grid(&self.bypasses, width) + &format!("{}\n", count(self.bypasses.len(), "endpoint"))
    }
}

/// A bypass that was started or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BypassChangeView {
    #[serde(flatten)]
    pub bypass: BypassView,
    /// Whether it holds now.
    pub active: bool,
    pub generation: u64,
    /// Whether every target holds it; absent without `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realized: Option<bool>,
    /// How far an end got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing: Option<ClosingView>,
}

impl View for BypassChangeView {
    fn text(&self, _: Option<u16>) -> String {
        let state = match self.active {
            true => "everything passes that no quarantine denies",
            false => "ended: the policy holds again",
        };
        let ends = if self.active {
            utc(self.bypass.ends_at)
        } else {
            String::new()
        };
        let closing = self.closing.as_ref();
        facts(&[
            ("endpoint", self.bypass.endpoint.clone()),
            ("bypass", state.to_string()),
            ("ends", ends),
            ("reason", self.bypass.reason.clone()),
            ("by", self.bypass.by.clone()),
            ("generation", self.generation.to_string()),
            (
                "realized",
                self.realized
                    .map(|realized| if realized { "yes" } else { "not yet" }.to_string())
                    .unwrap_or_default(),
            ),
            ("closing", closing.map(ClosingView::words).unwrap_or_default()),
        ])
    }
}

//! View of `explain`.

use portcullis_proto::v1;
use serde::Serialize;

use super::bypass::BypassView;
use super::policy::action;
use crate::table::{Grid, facts};
use crate::term::View;

/// A row as the target itself reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnforcingRowView {
    pub table: String,
    /// The row in the target's own terms.
    pub row: String,
    /// Whether the target holds it.
    pub present: bool,
    /// Packets that hit it; absent where its table does not count.
    pub packets: Option<u64>,
    /// Bytes that hit it; absent like the packets.
    pub bytes: Option<u64>,
}

/// What one target does about the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetExplanationView {
    pub target: String,
    /// Why it shows no rows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unavailable: String,
    /// Targets nearer to the endpoint that its traffic here passes, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearer: Vec<String>,
    /// Its rows, in the order in which the packet meets them.
    pub rows: Vec<EnforcingRowView>,
}

/// A verdict and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainView {
    /// Either `allow` or `deny`.
    pub verdict: Option<&'static str>,
    /// The tier that decided.
    pub tier: String,
    /// The rule that decided.
    pub rule: String,
    pub reason: String,
    /// The packet, in words.
    pub packet: String,
    /// The endpoint's class; 0 when nothing is denied to it.
    pub class: u32,
    pub targets: Vec<TargetExplanationView>,
    /// The endpoint's bypass, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<BypassView>,
}

impl From<v1::ExplainResponse> for ExplainView {
    fn from(e: v1::ExplainResponse) -> Self {
        let row = |r: v1::EnforcingRow| EnforcingRowView {
            table: r.table,
            row: r.row,
            present: r.present,
            packets: r.packets,
            bytes: r.bytes,
        };
        let target = |t: v1::TargetExplanation| TargetExplanationView {
            target: t.target,
            unavailable: t.unavailable,
            nearer: t.nearer,
            rows: t.rows.into_iter().map(row).collect(),
        };
        ExplainView {
            verdict: action(e.verdict),
            tier: e.tier,
            rule: e.rule,
            reason: e.reason,
            packet: e.packet,
            class: e.class,
            targets: e.targets.into_iter().map(target).collect(),
            bypass: e.bypass.map(BypassView::from),
        }
    }
}

impl View for ExplainView {
    fn text(&self, width: Option<u16>) -> String {
        let class = match self.class {
            0 => "0, to which nothing is denied".to_string(),
            n => n.to_string(),
        };
        let mut text = facts(&[
            ("packet", self.packet.clone()),
            ("verdict", self.verdict.unwrap_or("unknown").to_string()),
            ("tier", self.tier.clone()),
            ("rule", self.rule.clone()),
            ("reason", self.reason.clone()),
            ("class", class),
            (
                "bypass",
                self.bypass.as_ref().map(BypassView::words).unwrap_or_default(),
            ),
        ]);
        let mut grid = Grid::new(&["TARGET", "TABLE", "PRESENT", "#PACKETS", "#BYTES", "ROW"]);
        for target in &self.targets {
            for r in &target.rows {
                grid.row([
                    target.target.clone(),
                    r.table.clone(),
                    if r.present { "yes" } else { "MISSING" }.to_string(),
                    r.packets
                        .map_or_else(|| "not counted".to_string(), |count| count.to_string()),
                    r.bytes.map_or_else(String::new, |count| count.to_string()),
                    r.row.clone(),
                ]);
            }
        }
        if !grid.is_empty() {
            text.push('\n');
        }
        text += &grid.text(width);
        for target in self.targets.iter().filter(|t| !t.nearer.is_empty()) {
            text += &format!(
                "\n{}: its traffic here passes {}, too\n",
                target.target,
                target.nearer.join(" or ")
            );
        }
        for target in self.targets.iter().filter(|t| !t.unavailable.is_empty()) {
            text += &format!("\n{}: no rows: {}\n", target.target, target.unavailable);
        }
        text
    }
}

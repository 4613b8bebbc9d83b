//! What `compile` found: rows, statistics, proof.

use portcullis_compiler::{Counterexample, PolicyRow, RemoteRow};
use portcullis_policy::{Direction, Policy};
use serde::Serialize;

use super::bound_text;
use crate::cli::table::{Grid, facts};
use crate::cli::term::View;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowView {
    /// Its table.
    pub table: String,
    /// Its priority; of a `remote` table, the prefix length.
    pub priority: u16,
    /// What it matches, beside the class.
    #[serde(rename = "match")]
    pub key: String,
    /// `allow`, `deny`, or the remote id it sets.
    pub action: String,
    /// Its class; null when it holds for every class.
    pub class: Option<u32>,
    /// The rule whose verdict it is; null in a `remote` table.
    pub rule: Option<String>,
}

impl RowView {
    /// A row of a `remote` stage.
    pub fn remote(direction: Direction, class: u32, row: &RemoteRow) -> Self {
        RowView {
            table: format!("{direction}_remote"),
            priority: row.prefix.prefix_len().into(),
            key: row.prefix.to_string(),
            action: format!("remote={}", row.id),
            class: Some(class),
            rule: None,
        }
    }

    /// A row of a policy stage; of every class when `class` is absent.
    pub fn policy(policy: &Policy, class: Option<u32>, row: &PolicyRow) -> Self {
        RowView {
            table: format!("{}_policy", policy.direction),
            priority: row.priority,
            key: row.key.to_string(),
            action: row.action.to_string(),
            class,
            rule: Some(policy.origin(row.by)),
        }
    }
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassStatsView {
    /// Its number in this compilation; an agent numbers by its own history.
    pub class: u32,
    /// `egress` or `ingress`.
    pub direction: String,
    /// Endpoints in it.
    pub endpoints: u64,
    /// Whether ports without an endpoint are in it.
    pub unmanaged: bool,
    /// Entries of its policy: rules, and what follows from them.
    pub entries: u64,
    /// The verdict where none matches.
    pub default: String,
    /// Its rows.
    pub rows: u64,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableStatsView {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Those of them that hold for every class.
    pub fixed: u64,
    /// Policy entries that the others came from.
    pub entries: u64,
    /// Rows that expanding each entry into prefixes on its own would take; null where nothing is expanded.
    pub naive: Option<u64>,
    /// Rows per entry, without the fixed ones; null without entries.
    pub expansion: Option<f64>,
    /// Rows it can hold; null when only memory bounds it.
    pub size: Option<u64>,
    /// Rows that still fit; below 0 when they do not fit; null when unbounded.
    pub headroom: Option<i128>,
}

/// Figures of a compilation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatsView {
    /// The stage model.
    pub target: String,
    /// Endpoints in the document.
    pub endpoints: u64,
    /// Classes that have rows.
    pub classes: Vec<ClassStatsView>,
    /// Tables with rows of classes, in pipeline order.
    pub tables: Vec<TableStatsView>,
    /// Microseconds from the document to rows.
    pub compile_us: u64,
    /// Microseconds that the proof took.
    pub prove_us: u64,
}

/// Whether the rows are the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofView {
    /// On every packet.
    Equal,
    /// Not on this one.
    Counterexample(CounterexampleView),
}

/// A packet on which rows and policy differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterexampleView {
    /// The class.
    pub class: u32,
    /// The packet.
    pub packet: String,
    /// What the policy says.
    pub wanted: String,
    /// What the rows say; null when nothing certain.
    pub got: Option<String>,
}

impl CounterexampleView {
    /// Of a class.
    pub fn new(class: u32, example: &Counterexample) -> Self {
        CounterexampleView {
            class,
            packet: format!("{:?}", example.packet.frame),
            wanted: example.wanted.to_string(),
            got: example.got.map(|action| action.to_string()),
        }
    }
}

/// A compilation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompiledView {
    /// By table in pipeline order, then rows of every class, then by class and falling priority.
    pub rows: Vec<RowView>,
    /// Figures.
    pub stats: StatsView,
    /// The proof.
    pub proof: ProofView,
    /// Whether people see the figures.
    #[serde(skip)]
    pub with_stats: bool,
}

impl CompiledView {
    fn rows_text(&self) -> String {
        let mut grid = Grid::new(&["TABLE", "#PRIORITY", "#CLASS", "MATCH", "ACTION", "RULE"]);
        for r in &self.rows {
            grid.row([
                r.table.clone(),
                r.priority.to_string(),
                r.class.map_or_else(|| "every".to_string(), |c| c.to_string()),
                r.key.clone(),
                r.action.clone(),
                r.rule.clone().unwrap_or_default(),
            ]);
        }
        // One row is one line, however narrow the terminal.
        if grid.is_empty() {
            "no rows: nothing is denied to anybody\n".to_string()
        } else {
            grid.text(None)
        }
    }

    fn proof_text(&self) -> String {
        match &self.proof {
            ProofView::Equal => "proof: equal, on every packet\n".to_string(),
            ProofView::Counterexample(c) => format!(
                "proof: NOT equal, in class {}: the policy says {} and the rows say {} for {}\n",
                c.class,
                c.wanted,
                c.got.as_deref().unwrap_or("nothing certain"),
                c.packet
            ),
        }
    }
}

impl StatsView {
    fn text(&self, width: Option<u16>) -> String {
        let rows: u64 = self.tables.iter().map(|t| t.rows).sum();
        let time = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
        let mut text = facts(&[
            ("target", self.target.clone()),
            ("endpoints", self.endpoints.to_string()),
            ("classes", self.classes.len().to_string()),
            ("rows", rows.to_string()),
            ("compiled in", time(self.compile_us)),
            ("proved in", time(self.prove_us)),
        ]);
        let mut grid = Grid::new(&[
            "#CLASS",
            "DIRECTION",
            "DEFAULT",
            "#ENDPOINTS",
            "#ENTRIES",
            "#ROWS",
            "NOTE",
        ]);
        for c in &self.classes {
            grid.row([
                c.class.to_string(),
                c.direction.clone(),
                c.default.clone(),
                c.endpoints.to_string(),
                c.entries.to_string(),
                c.rows.to_string(),
                if c.unmanaged {
                    "ports without an endpoint"
                } else {
                    ""
                }
                .to_string(),
            ]);
        }
        if !grid.is_empty() {
            text = format!("{text}\n{}", grid.text(width));
        }
        let columns = [
            "TABLE",
            "#ROWS",
            "#FIXED",
            "#ENTRIES",
            "#ROWS/ENTRY",
            "#NAIVE",
            "#SIZE",
            "#LEFT",
        ];
        let mut grid = Grid::new(&columns);
        for t in &self.tables {
            grid.row([
                t.table.clone(),
                t.rows.to_string(),
                t.fixed.to_string(),
                t.entries.to_string(),
                t.expansion.map(|x| format!("{x:.3}")).unwrap_or_default(),
                t.naive.map(|n| n.to_string()).unwrap_or_default(),
                bound_text(t.size),
                t.headroom
                    .map_or_else(|| "unbounded".to_string(), |n| n.to_string()),
            ]);
        }
        if !grid.is_empty() {
            text = format!("{text}\n{}", grid.text(width));
        }
        text
    }
}

impl View for CompiledView {
    fn text(&self, width: Option<u16>) -> String {
        let stats = if self.with_stats {
            format!("\n{}", self.stats.text(width))
        } else {
            String::new()
        };
        format!("{}{stats}\n{}", self.rows_text(), self.proof_text())
    }
}

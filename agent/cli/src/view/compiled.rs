//! View of `compile`: rows, statistics, proof.

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_compiler::Counterexample;
use portcullis_compiler::compilation::{Placed, Refusal, Step};
use portcullis_compiler::model::Field;
use portcullis_compiler::row::{FieldMatch, RowAction};
use portcullis_compiler::{ClassId, Unsupported};
use portcullis_policy::Protocol;
use serde::Serialize;
use serde_json::Value;

use super::bound_text;
use super::change::FindingView;
use super::enforced::EnforcedView;
use crate::table::{Grid, facts};
use crate::term::View;

/// What a row says about one field. Numbers are numbers; addresses are text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MatchView {
    /// `field & mask == value`.
    Masked {
        value: Value,
        /// The mask; all ones for one value.
        mask: Value,
    },
    /// `low <= field <= high`.
    Range { low: Value, high: Value },
    /// The port that an attachment turns out to be.
    Attachment { attachment: String },
}

/// One field of a row's match.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyView {
    field: Field,
    matching: FieldMatch,
}

impl KeyView {
    fn number(&self, n: u128) -> Value {
        match self.field {
            Field::RemoteIpv4 | Field::LocalIpv4 => Value::String(Ipv4Addr::from(n as u32).to_string()),
            Field::RemoteIpv6 | Field::LocalIpv6 => Value::String(Ipv6Addr::from(n).to_string()),
            _ => u64::try_from(n).map_or_else(|_| Value::String(n.to_string()), Value::from),
        }
    }

    fn view(&self) -> MatchView {
        match &self.matching {
            FieldMatch::Masked { value, mask } => MatchView::Masked {
                value: self.number(*value),
                mask: self.number(*mask),
            },
            FieldMatch::Range { low, high } => MatchView::Range {
                low: self.number(*low),
                high: self.number(*high),
            },
            FieldMatch::Attachment(name) => MatchView::Attachment {
                attachment: name.clone(),
            },
        }
    }

    fn text(&self) -> String {
        let field = self.field;
        match (&self.matching, field) {
            (FieldMatch::Attachment(name), _) => format!("{field}={name:?}"),
            (FieldMatch::Masked { value: 0x0800, .. }, Field::EtherType) => "ipv4".to_string(),
            (FieldMatch::Masked { value: 0x86dd, .. }, Field::EtherType) => "ipv6".to_string(),
            (FieldMatch::Masked { value: 0x0806, .. }, Field::EtherType) => "arp".to_string(),
            (FieldMatch::Masked { value: 1, .. }, Field::IsIpv4) => "ipv4".to_string(),
            (FieldMatch::Masked { value: 1, .. }, Field::IsIpv6) => "ipv6".to_string(),
            (FieldMatch::Masked { value, .. }, Field::EtherType) => format!("ether_type={value:#06x}"),
            (FieldMatch::Masked { value, .. }, Field::Protocol) => {
                let name = u8::try_from(*value).map_or_else(|_| value.to_string(), Protocol::name);
                if name.starts_with(|c: char| c.is_ascii_digit()) {
                    format!("protocol={name}")
                } else {
                    name
                }
            }
            (FieldMatch::Masked { value: 1, .. }, Field::Later) => "later-fragment".to_string(),
            (FieldMatch::Masked { .. }, Field::Later) => "not-later-fragment".to_string(),
            (FieldMatch::Masked { .. }, Field::Unreadable) => "unreadable".to_string(),
            (FieldMatch::Masked { value, mask }, Field::RemoteIpv4 | Field::LocalIpv4) => {
                format!("{field}={}/{}", Ipv4Addr::from(*value as u32), mask.count_ones())
            }
            (FieldMatch::Masked { value, mask }, Field::RemoteIpv6 | Field::LocalIpv6) => {
                format!("{field}={}/{}", Ipv6Addr::from(*value), mask.count_ones())
            }
            (FieldMatch::Masked { value, mask }, Field::SrcPort | Field::DstPort) if *mask != 0xffff => {
                format!("{field}={value:#06x}/{mask:#06x}")
            }
            (FieldMatch::Masked { value, mask }, Field::TcpFlags | Field::SrcCode | Field::DstCode) => {
                format!("{field}={value:#x}/{mask:#x}")
            }
            (FieldMatch::Masked { value, mask }, Field::IcmpType | Field::IcmpCode) if *mask != 0xff => {
                format!("{field}={value:#04x}/{mask:#04x}")
            }
            (FieldMatch::Masked { value, .. }, _) => format!("{field}={value}"),
            (FieldMatch::Range { low, high }, _) if low == high => format!("{field}={low}"),
            (FieldMatch::Range { low, high }, _) => format!("{field}={low}-{high}"),
        }
    }
}

/// The fields of a row's match, in the order of the table's keys.
#[derive(Debug, Clone, PartialEq)]
pub struct KeysView(Vec<KeyView>);

impl Serialize for KeysView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|key| (key.field, key.view())))
    }
}

impl KeysView {
    pub fn text(&self) -> String {
        if self.0.is_empty() {
            return "any".to_string();
        }
        let keys: Vec<String> = self.0.iter().map(KeyView::text).collect();
        keys.join(" ")
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowView {
    pub table: String,
    /// Its priority, the higher wins; the prefix length in a table of longest prefixes, 0 in an exact one.
    pub priority: u32,
    /// What it matches; fields that are not there match anything.
    #[serde(rename = "match")]
    pub keys: KeysView,
    /// `allow`, `deny`, or what it sets.
    pub action: String,
    /// What a row that is no verdict sets or refers to, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Its class; null when it holds for every class.
    pub class: Option<u32>,
    /// The rule whose verdict it is; null where no rule decides.
    pub rule: Option<String>,
}

impl RowView {
    /// Of a compiled row.
    pub fn new(placed: Placed) -> Self {
        let class_key = |field: &Field| *field == Field::Class;
        let keys = placed.row.keys.into_iter().filter(|(field, _)| !class_key(field));
        let parameters = match placed.row.action {
            RowAction::Verdict(_) => None,
            RowAction::Words { set, otherwise } => {
                Some(serde_json::json!({"word_set": set, "otherwise": otherwise.to_string()}))
            }
            RowAction::Set { field, value } => Some(serde_json::json!({field.to_string(): value})),
            RowAction::Word(word) => Some(serde_json::json!({"word": format!("{word:#018x}")})),
        };
        RowView {
            table: placed.row.table,
            priority: placed.row.priority,
            keys: KeysView(
                keys.map(|(field, matching)| KeyView { field, matching })
                    .collect(),
            ),
            action: placed.row.action.to_string(),
            parameters,
            class: placed.class.map(|c| c.0),
            rule: placed.rule,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassStatsView {
    /// Its number in this compilation; an agent numbers by its own history.
    pub class: u32,
    /// Either `egress` or `ingress`.
    pub direction: String,
    pub endpoints: u64,
    /// Whether ports without an endpoint are in it.
    pub unmanaged: bool,
    /// Entries of its policy: rules, and what follows from them.
    pub entries: u64,
    /// The verdict where none matches.
    pub default: String,
    /// What hits on its rows tell: `rule`, or `class` when rows of equal verdict were merged.
    pub attribution: String,
    pub rows: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableStatsView {
    pub table: String,
    pub rows: u64,
    /// Those of them that hold for every class.
    pub fixed: u64,
    /// Classes that have rows in it.
    pub classes: u64,
    /// Policy entries that the others came from.
    pub entries: u64,
    /// Rows that expanding each entry into prefixes on its own would take; null where nothing is expanded.
    pub naive: Option<u64>,
    /// Rows per entry, without the fixed ones; null without entries.
    pub expansion: Option<f64>,
    /// What its rows cost: rows, or lines of a TCAM for ranges.
    pub cost: u64,
    /// What it can hold; null when only memory bounds it.
    pub size: Option<u64>,
    /// What still fits; below 0 when it does not fit; null when unbounded.
    pub headroom: Option<i128>,
}

/// Figures of a compilation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatsView {
    pub target: String,
    /// Rules of the document, or filters of the set.
    pub rules: u64,
    /// Rows of all tables together.
    pub rows: u64,
    /// Rows that expanding each entry of every class into prefixes on its own would take.
    pub naive: u64,
    pub expansion: Option<f64>,
    /// Endpoints in the document.
    pub endpoints: u64,
    /// Endpoints per class, over both directions, of those to whom something is denied; null without classes.
    pub sharing: Option<f64>,
    /// Classes that have rows.
    pub classes: Vec<ClassStatsView>,
    /// Tables with rows of classes, in pipeline order.
    pub tables: Vec<TableStatsView>,
    /// Microseconds from the document to proved rows.
    pub compile_us: u64,
    /// Microseconds that the proof alone takes, run once more.
    pub prove_us: u64,
}

/// Whether the rows are the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofView {
    Equal,
    /// They deny a part of what the policy denies, and nothing else but what is accepted.
    Sound,
    /// Not on this one.
    Counterexample(CounterexampleView),
}

/// A packet on which rows and policy differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterexampleView {
    pub class: u32,
    pub packet: String,
    /// What the policy says.
    pub wanted: String,
    /// What the rows say; null when nothing certain.
    pub got: Option<String>,
}

impl CounterexampleView {
    pub fn new(class: u32, example: &Counterexample) -> Self {
        CounterexampleView {
            class,
            packet: format!("{:?}", example.packet.frame),
            wanted: example.wanted.to_string(),
            got: example.got.map(|action| action.to_string()),
        }
    }
}

/// A class that the target cannot enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnsupportedClassView {
    pub class: u32,
    /// The rule or policy.
    pub rule: String,
    pub table: String,
    /// Why, and what would help.
    pub why: String,
}

impl UnsupportedClassView {
    pub fn new(class: ClassId, unsupported: &Unsupported) -> Self {
        UnsupportedClassView {
            class: class.0,
            rule: unsupported.rule.clone(),
            table: unsupported.table.clone(),
            why: unsupported.why.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompiledView {
    /// By table in pipeline order, then rows of every class, then by class and falling priority.
    pub rows: Vec<RowView>,
    pub stats: StatsView,
    pub proof: ProofView,
    /// Of a partial point: what of each rule that denies something it enforces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enforced: Vec<EnforcedView>,
    /// Of a partial point: kinds of packets that rows may deny although the policy lets them pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// Classes that the target cannot enforce; they have no rows.
    pub unsupported: Vec<UnsupportedClassView>,
    /// What was done so that it fits.
    pub steps: Vec<String>,
    /// Tables that do not fit; nothing may be written then.
    pub refused: Vec<String>,
    /// What the document holds that is worth a word.
    pub findings: Vec<FindingView>,
    /// Whether people see the figures.
    #[serde(skip)]
    pub with_stats: bool,
}

impl CompiledView {
    /// Whether the target can take it as it is.
    pub fn is_whole(&self) -> bool {
        matches!(self.proof, ProofView::Equal | ProofView::Sound)
            && self.unsupported.is_empty()
            && self.refused.is_empty()
    }

    /// The steps and refusals of a ladder, as text.
    pub fn ladder(steps: &[Step], refusals: &[Refusal]) -> (Vec<String>, Vec<String>) {
        (
            steps.iter().map(ToString::to_string).collect(),
            refusals.iter().map(ToString::to_string).collect(),
        )
    }

    fn rows_text(&self) -> String {
        let mut grid = Grid::new(&["TABLE", "#PRIORITY", "#CLASS", "MATCH", "ACTION", "RULE"]);
        for r in &self.rows {
            grid.row([
                r.table.clone(),
                r.priority.to_string(),
                r.class.map_or_else(|| "every".to_string(), |c| c.to_string()),
                r.keys.text(),
                r.action.clone(),
                r.rule.clone().unwrap_or_default(),
            ]);
        }
        // One row is one line, however narrow the terminal.
        if grid.is_empty() && !self.unsupported.is_empty() {
            "no rows: no policy that denies something can be held\n".to_string()
        } else if grid.is_empty() && !self.enforced.is_empty() {
            "no rows: no rule that denies something can be held\n".to_string()
        } else if grid.is_empty() {
            "no rows: nothing is denied to anybody\n".to_string()
        } else {
            grid.text(None)
        }
    }

    fn notes(&self) -> String {
        let mut text = String::new();
        let mut note = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for u in &self.unsupported {
            note(format!(
                "unsupported: class {}: {} cannot enforce {}: {}",
                u.class,
                if u.table.is_empty() {
                    "the target"
                } else {
                    &u.table
                },
                u.rule,
                u.why
            ));
        }
        FindingView::lines(&self.findings).into_iter().for_each(&mut note);
        self.steps.iter().for_each(|s| note(format!("degraded: {s}")));
        self.refused.iter().for_each(|r| note(format!("refused: {r}")));
        text
    }

    fn proof_text(&self) -> String {
        match &self.proof {
            ProofView::Sound if self.accepted.is_empty() => {
                "proof: rows deny only what the policy denies, whatever the parser shows\n".to_string()
            }
            ProofView::Sound => format!(
                "proof: rows deny only what the policy denies, whatever the parser shows, but for what is accepted: {}\n",
                self.accepted.join(", ")
            ),
            ProofView::Equal if !self.unsupported.is_empty() => {
                "proof: of classes that are not named as unsupported, equal on every packet\n".to_string()
            }
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
        let time = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
        let ratio = |x: Option<f64>| x.map_or_else(|| "-".to_string(), |x| format!("{x:.3}"));
        let mut text = facts(&[
            ("target", self.target.clone()),
            ("rules", self.rules.to_string()),
            ("endpoints", self.endpoints.to_string()),
            ("classes", self.classes.len().to_string()),
            ("endpoints per class", ratio(self.sharing)),
            ("rows", self.rows.to_string()),
            ("rows per rule", ratio(self.expansion)),
            ("naive rows", self.naive.to_string()),
            ("compiled and proved in", time(self.compile_us)),
            ("the proof alone", time(self.prove_us)),
        ]);
        let mut grid = Grid::new(&[
            "#CLASS",
            "DIRECTION",
            "DEFAULT",
            "#ENDPOINTS",
            "#ENTRIES",
            "#ROWS",
            "HITS TELL",
            "NOTE",
        ]);
        for c in &self.classes {
            let note = if c.unmanaged {
                "ports without an endpoint"
            } else {
                ""
            };
            grid.row([
                c.class.to_string(),
                c.direction.clone(),
                c.default.clone(),
                c.endpoints.to_string(),
                c.entries.to_string(),
                c.rows.to_string(),
                c.attribution.clone(),
                note.to_string(),
            ]);
        }
        if !grid.is_empty() {
            text = format!("{text}\n{}", grid.text(width));
        }
        let columns = [
            "TABLE",
            "#ROWS",
            "#FIXED",
            "#CLASSES",
            "#ENTRIES",
            "#ROWS/ENTRY",
            "#NAIVE",
            "#COST",
            "#SIZE",
            "#LEFT",
        ];
        let mut grid = Grid::new(&columns);
        for t in &self.tables {
            grid.row([
                t.table.clone(),
                t.rows.to_string(),
                t.fixed.to_string(),
                t.classes.to_string(),
                t.entries.to_string(),
                t.expansion.map(|x| format!("{x:.3}")).unwrap_or_default(),
                t.naive.map(|n| n.to_string()).unwrap_or_default(),
                t.cost.to_string(),
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
        let notes = self.notes();
        let notes = if notes.is_empty() {
            notes
        } else {
            format!("\n{notes}")
        };
        let enforced = EnforcedView::text(&self.enforced, width);
        format!(
            "{}{stats}{enforced}{notes}\n{}",
            self.rows_text(),
            self.proof_text()
        )
    }
}

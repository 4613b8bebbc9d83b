//! View of placement: the targets that traffic passes, and which rule is enforced where.

use portcullis_proto::v1;
use serde::Serialize;

use super::policy::direction;
use super::{bound, count};
use crate::table::Grid;
use crate::term::View;

mod svg;

/// Rules that are named with one reason.
const NAMED: usize = 5;

/// Where rules that deny something are enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementView {
    pub generation: u64,
    pub targets: Vec<PlacementTargetView>,
    pub paths: Vec<PathView>,
}

/// A target on some path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementTargetView {
    pub name: String,
    pub kind: String,
    /// Whether it forwards in hardware, as the configuration says.
    pub hardware: bool,
    /// Where its session stands: it holds what is shown when it is `InSync`.
    pub state: String,
    pub tables: Vec<RoomView>,
    /// Rows of other controllers in its tables.
    pub foreign_rows: u64,
}

/// Rows and room of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoomView {
    pub table: String,
    pub rows: u64,
    /// Rows it can hold; null when only memory bounds it.
    pub size: Option<u64>,
    /// Of these, rows that are kept free once rules were left to nearer targets.
    pub reserve: u64,
}

/// Endpoints whose traffic passes the same targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathView {
    /// The outermost first; traffic to a neighbour turns back at the last.
    pub targets: Vec<String>,
    /// Some of the endpoints.
    pub endpoints: Vec<String>,
    pub endpoint_count: u32,
    pub rules: Vec<PlacedRuleView>,
}

/// Where one rule is enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacedRuleView {
    pub direction: Option<&'static str>,
    pub rule: String,
    /// `hardware`, `partly`, `software`, `refused` or `unknown`.
    pub placement: String,
    /// Some of the endpoints that it is so for.
    pub endpoints: Vec<String>,
    pub endpoint_count: u32,
    /// By target, in the order of the path.
    pub at: Vec<RuleAtTargetView>,
}

/// How much of a rule one target holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleAtTargetView {
    pub target: String,
    /// `whole`, `part`, `none`, `left` or `unknown`.
    pub extent: String,
    /// Why it is not whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// `hardware`, `partly` or `software`: what NICs of an embedded switch hold of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nic: String,
}

impl From<v1::GetPlacementResponse> for PlacementView {
    fn from(answer: v1::GetPlacementResponse) -> Self {
        let room = |t: v1::TableUse| RoomView {
            table: t.table,
            rows: t.rows,
            size: bound(t.size),
            reserve: t.reserve,
        };
        let target = |t: v1::PlacementTarget| PlacementTargetView {
            name: t.name,
            kind: t.kind,
            hardware: t.hardware,
            state: t.state,
            tables: t.tables.into_iter().map(room).collect(),
            foreign_rows: t.foreign_rows,
        };
        let at = |at: v1::RuleAtTarget| RuleAtTargetView {
            target: at.target,
            extent: at.extent,
            why: at.why,
            nic: at.nic,
        };
        let rule = |r: v1::PlacedRule| PlacedRuleView {
            direction: direction(r.direction),
            rule: r.rule,
            placement: r.placement,
            endpoints: r.endpoints,
            endpoint_count: r.endpoint_count,
            at: r.at.into_iter().map(at).collect(),
        };
        let path = |p: v1::PlacementPath| PathView {
            targets: p.targets,
            endpoints: p.endpoints,
            endpoint_count: p.endpoint_count,
            rules: p.rules.into_iter().map(rule).collect(),
        };
        PlacementView {
            generation: answer.generation,
            targets: answer.targets.into_iter().map(target).collect(),
            paths: answer.paths.into_iter().map(path).collect(),
        }
    }
}

impl RuleAtTargetView {
    /// `whole`, or `whole, NIC partly`.
    fn words(&self) -> String {
        match self.nic.as_str() {
            "" => self.extent.clone(),
            nic => format!("{}, NIC {nic}", self.extent),
        }
    }
}

impl RoomView {
    /// `acl: 100 of 128 rows, 8 kept free`.
    fn line(&self) -> String {
        match self.size {
            None => format!("{}: {} rows", self.table, self.rows),
            Some(size) if self.reserve == 0 => format!("{}: {} of {size} rows", self.table, self.rows),
            Some(size) => format!(
                "{}: {} of {size} rows, {} kept free",
                self.table, self.rows, self.reserve
            ),
        }
    }
}

impl PlacementTargetView {
    /// What it is: `p4runtime, hardware, InSync`.
    fn what(&self) -> String {
        let hardware = if self.hardware { "hardware" } else { "software" };
        format!("{}, {hardware}, {}", self.kind, self.state)
    }

    /// The tables that rules may be left for lack of room in.
    fn bounded(&self) -> impl Iterator<Item = &RoomView> {
        self.tables.iter().filter(|room| room.reserve > 0)
    }

    fn room(&self) -> Vec<String> {
        let others = (self.foreign_rows > 0).then(|| format!("{} rows of others", self.foreign_rows));
        self.bounded().map(RoomView::line).chain(others).collect()
    }
}

impl PathView {
    /// Some endpoints by name, and how many more there are.
    fn servers(&self) -> String {
        let more = (self.endpoint_count as usize).saturating_sub(self.endpoints.len());
        let names = self.endpoints.join(", ");
        let number = count(self.endpoint_count as usize, "endpoint");
        match more {
            0 => format!("{number}: {names}"),
            more => format!("{number}: {names} and {more} more"),
        }
    }

    /// The chain of targets, and below each its room.
    fn chain(&self, all: &[PlacementTargetView]) -> String {
        let mut line = "uplink".to_string();
        let mut rooms = Vec::new();
        for name in &self.targets {
            line += " -- ";
            let at = line.len();
            let target = all.iter().find(|target| target.name == *name);
            let what = target.map_or_else(String::new, PlacementTargetView::what);
            line += &format!("{name} ({what})");
            let room = target.map_or_else(Vec::new, PlacementTargetView::room);
            rooms.extend(room.into_iter().map(|room| format!("{:at$}{room}", "")));
        }
        if self.targets.is_empty() {
            line += " -- (no target)";
        }
        let mut text = format!("{line} -- {}\n", self.servers());
        for room in rooms {
            text += &format!("{room}\n");
        }
        text
    }

    fn rules(&self, width: Option<u16>) -> String {
        let mut columns = vec!["RULE", "DIRECTION", "#ENDPOINTS", "PLACEMENT"];
        columns.extend(self.targets.iter().map(String::as_str));
        let mut grid = Grid::new(&columns);
        for rule in &self.rules {
            let own = [
                rule.rule.clone(),
                rule.direction.unwrap_or_default().to_string(),
                rule.endpoint_count.to_string(),
                rule.placement.clone(),
            ];
            let at = rule.at.iter().map(RuleAtTargetView::words);
            grid.row(own.into_iter().chain(at));
        }
        grid.text(width)
    }

    /// Each reason once, with the rules that it is for.
    fn reasons(&self, width: Option<u16>) -> String {
        let mut reasons: Vec<(&RuleAtTargetView, Vec<&str>)> = Vec::new();
        for rule in &self.rules {
            for at in rule.at.iter().filter(|at| !at.why.is_empty()) {
                match reasons.iter_mut().find(|(known, _)| *known == at) {
                    Some((_, rules)) if rules.contains(&rule.rule.as_str()) => {}
                    Some((_, rules)) => rules.push(&rule.rule),
                    None => reasons.push((at, vec![&rule.rule])),
                }
            }
        }
        let mut grid = Grid::new(&["TARGET", "HOLDS", "RULES", "WHY"]);
        for (at, rules) in reasons {
            let more = match rules.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let some: Vec<&str> = rules.into_iter().take(NAMED).collect();
            let rules = format!("{}{more}", some.join(", "));
            let row = [&at.target, &at.extent, &rules, &at.why];
            grid.row(row.map(Clone::clone));
        }
        grid.text(width)
    }
}

impl PlacementView {
    /// The same as a picture (SVG 1.1).
    pub fn svg(&self) -> String {
        svg::picture(self)
    }
}

impl View for PlacementView {
    fn text(&self, width: Option<u16>) -> String {
        if self.paths.is_empty() {
            return format!("generation {}: there is no endpoint\n", self.generation);
        }
        let paths = self.paths.iter().flat_map(|path| {
            let parts = [path.chain(&self.targets), path.rules(width), path.reasons(width)];
            parts.into_iter().filter(|part| !part.is_empty())
        });
        let head = format!("generation {}\n", self.generation);
        std::iter::once(head).chain(paths).collect::<Vec<_>>().join("\n")
    }
}

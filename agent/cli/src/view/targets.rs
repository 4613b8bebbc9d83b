//! Views of targets: status, hits, events.

use std::collections::BTreeMap;

use portcullis_proto::v1;
use serde::Serialize;

use super::bypass::BypassView;
use super::policy::direction;
use super::{bound, bound_text};
use crate::table::Grid;
use crate::term::View;

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
    fn was_open(&self) -> String {
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusView {
    /// The generation that was asked about: the newest unless another was named.
    pub generation: u64,
    /// Whether every target is InSync and holds it; false when there is no target.
    pub realized: bool,
    pub targets: Vec<TargetView>,
    /// How the agent's database stands, where the agent says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreView>,
    /// How the last reading of who may call went, where the agent says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessView>,
    /// Endpoints whose policy is bypassed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bypasses: Vec<BypassView>,
}

/// How the last reading of who may call went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessView {
    /// Why it could not be used; empty when it is in use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// Settings that take effect at the next start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
    /// What is wrong with the files of `[api.tls]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificates_problem: String,
    /// Why the keys that tokens are verified with were not read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub keys_problem: String,
}

impl AccessView {
    /// Nothing while all is well.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, problem: &str| {
            if !problem.is_empty() {
                text += &format!("{what}: {problem}\n");
            }
        };
        line(
            "access is as it was before; its configuration cannot be used",
            &self.problem,
        );
        line(
            "certificates are as they were before; their files cannot be used",
            &self.certificates_problem,
        );
        line(
            "keys that tokens are verified with were not read",
            &self.keys_problem,
        );
        line(
            "settings that take effect when the agent is started again",
            &self.needs_restart.join(", "),
        );
        text
    }
}

/// How the agent's database stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreView {
    /// Why it is not written, and what to do; empty when it is.
    pub problem: String,
    /// Why the journal of closings is not written.
    pub journal_problem: String,
    /// What holds and is not stored yet.
    pub waiting: u64,
    /// The agent runs without it, and touches no row.
    pub unusable: bool,
    /// What is wrong with the end of the audit log.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub audit_problem: String,
}

impl StoreView {
    /// Nothing while all is well.
    fn text(&self) -> String {
        let mut text = String::new();
        if self.unusable {
            text += &format!(
                "no database: nothing can be changed, no row is touched, and leases end at the switch\ndatabase: {}\n",
                self.problem
            );
        } else if !self.problem.is_empty() {
            text += &format!(
                "the database cannot be written: nothing can be opened or changed, closings hold at once\ndatabase: {}\n",
                self.problem
            );
        }
        if !self.journal_problem.is_empty() {
            text += &format!("journal of closings: {}\n", self.journal_problem);
        }
        if !self.audit_problem.is_empty() {
            text += &format!(
                "the audit log was changed while the agent was stopped: {}\n",
                self.audit_problem
            );
        }
        if self.waiting > 0 {
            text += &format!("{} closings hold and wait to be stored\n", self.waiting);
        }
        text
    }
}

impl StatusView {
    /// With what the agent says of its database.
    pub fn with_store(mut self, store: Option<v1::StoreStatus>) -> Self {
        self.store = store.map(|store| StoreView {
            problem: store.problem,
            journal_problem: store.journal_problem,
            waiting: store.waiting,
            unusable: store.unusable,
            audit_problem: store.audit_problem,
        });
        self
    }

    /// With what the agent says of who may call, if there is anything to say.
    pub fn with_access(mut self, access: Option<v1::AccessStatus>) -> Self {
        let access = access.map(|access| AccessView {
            problem: access.problem,
            needs_restart: access.needs_restart,
            certificates_problem: access.certificates_problem,
            keys_problem: access.keys_problem,
        });
        self.access = access.filter(|access| !access.text().is_empty());
        self
    }

    /// With the bypasses that hold.
    pub fn with_bypasses(mut self, bypasses: Vec<v1::Bypass>) -> Self {
        self.bypasses = bypasses.into_iter().map(BypassView::from).collect();
        self
    }

    /// Of targets and a generation.
    pub fn new(generation: u64, targets: Vec<v1::Target>) -> Self {
        let targets: Vec<TargetView> = targets.into_iter().map(TargetView::from).collect();
        let realized = !targets.is_empty() && targets.iter().all(|t| t.holds(generation));
        StatusView {
            generation,
            realized,
            targets,
            store: None,
            access: None,
            bypasses: Vec::new(),
        }
    }

    fn overview(&self, width: Option<u16>) -> String {
        let columns = [
            "TARGET",
            "KIND",
            "STATE",
            "#APPLIED",
            "#WANTED",
            "#REALIZED",
            "#PENDING",
            "#ROWS",
            "#FOREIGN",
            "#DRIFT",
            "#DISCONNECTS",
        ];
        let mut grid = Grid::new(&columns);
        for t in &self.targets {
            let rows: u64 = t.tables.iter().map(|table| table.rows).sum();
            let numbers = [
                t.generation_applied,
                t.generation_wanted,
                t.endpoints_realized,
                t.pending.len() as u64,
                rows,
                t.foreign_rows,
                t.drift_repaired,
                t.disconnects,
            ];
            let names = [t.name.clone(), t.kind.clone(), t.state.clone()];
            grid.row(names.into_iter().chain(numbers.map(|n| n.to_string())));
        }
        let mut text = grid.text(width);
        for t in &self.targets {
            let versions: Vec<String> = t.versions.iter().map(|(k, v)| format!("{k} {v}")).collect();
            let left_over = match t.left_over_rows {
                0 => String::new(),
                rows => format!(
                    "{rows} rows of this agent are left in tables, or under tags, that it no longer uses; they are removed \
                     when the others are in force"
                ),
            };
            let lines = [versions.join(", "), t.detail.clone(), left_over, t.was_open()];
            lines
                .iter()
                .filter(|l| !l.is_empty())
                .for_each(|l| text += &format!("{}: {l}\n", t.name));
        }
        text
    }

    fn tables(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["TARGET", "TABLE", "#NUMBER", "#ROWS", "#SIZE", "#LEFT"]);
        for t in &self.targets {
            for table in &t.tables {
                grid.row([
                    t.name.clone(),
                    table.table.clone(),
                    table.number.to_string(),
                    table.rows.to_string(),
                    bound_text(table.size),
                    bound_text(table.headroom),
                ]);
            }
        }
        grid.text(width)
    }

    fn pending(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["TARGET", "PENDING ENDPOINT", "WAITS FOR"]);
        for t in &self.targets {
            t.pending
                .iter()
                .for_each(|p| grid.row([t.name.clone(), p.endpoint.clone(), p.why.clone()]));
        }
        grid.text(width)
    }

    fn unsupported(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["TARGET", "UNSUPPORTED", "TABLE", "WHY"]);
        for t in &self.targets {
            for u in &t.unsupported {
                grid.row([t.name.clone(), u.rule.clone(), u.table.clone(), u.why.clone()]);
            }
        }
        grid.text(width)
    }

    fn exposures(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&[
            "TARGET",
            "OPEN WITHOUT ITS ROWS",
            "NOW",
            "#SECONDS",
            "WHAT CLOSES IT",
        ]);
        for t in &self.targets {
            for e in &t.exposures {
                let millis = t.open_millis.get(&e.cause).copied().unwrap_or(0);
                let now = if e.open { "open" } else { "closed" };
                let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
                let row = [t.name.as_str(), &e.what, now, &seconds, &e.remedy];
                grid.row(row.map(str::to_string));
            }
        }
        grid.text(width)
    }
}

impl View for StatusView {
    fn text(&self, width: Option<u16>) -> String {
        let head = match (self.realized, self.targets.is_empty()) {
            (_, true) => format!("generation {}: there is no target\n", self.generation),
            (true, _) => format!("generation {}: realized on every target\n", self.generation),
            (false, _) => format!("generation {}: not realized yet\n", self.generation),
        };
        let parts = [
            self.store.as_ref().map_or(String::new(), StoreView::text),
            self.access.as_ref().map_or(String::new(), AccessView::text),
            BypassView::grid(&self.bypasses, width),
            self.overview(width),
            self.tables(width),
            self.pending(width),
            self.unsupported(width),
            self.exposures(width),
        ];
        let shown = parts.into_iter().filter(|p| !p.is_empty());
        std::iter::once(head).chain(shown).collect::<Vec<_>>().join("\n")
    }
}

/// How often one rule decided for one class on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitView {
    pub target: String,
    /// `egress` or `ingress`.
    pub direction: Option<&'static str>,
    pub rule: String,
    /// `allow` or `deny`.
    pub action: String,
    /// The class; 0 where it decided for no class in particular.
    pub class: u32,
    /// Some of the endpoints that share the class.
    pub endpoints: Vec<String>,
    /// How many share it.
    pub endpoint_count: u32,
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitsView {
    /// In the agent's order.
    pub hits: Vec<HitView>,
}

impl From<v1::ListHitsResponse> for HitsView {
    fn from(answer: v1::ListHitsResponse) -> Self {
        let hit = |h: v1::Hit| HitView {
            target: h.target,
            direction: direction(h.direction),
            rule: h.rule,
            action: h.action,
            class: h.class,
            endpoints: h.endpoints,
            endpoint_count: h.endpoint_count,
            packets: h.packets,
            bytes: h.bytes,
        };
        HitsView {
            hits: answer.hits.into_iter().map(hit).collect(),
        }
    }
}

/// Endpoints that a line names; the others are counted.
const NAMED: usize = 3;

impl HitView {
    fn endpoints(&self) -> String {
        let named: Vec<&str> = self.endpoints.iter().take(NAMED).map(String::as_str).collect();
        let more = (self.endpoint_count as usize).saturating_sub(named.len());
        match (named.join(", "), more) {
            (names, 0) => names,
            (names, more) if names.is_empty() => more.to_string(),
            (names, more) => format!("{names} and {more} more"),
        }
    }
}

impl View for HitsView {
    fn text(&self, width: Option<u16>) -> String {
        let columns = [
            "TARGET",
            "DIRECTION",
            "RULE",
            "ACTION",
            "#PACKETS",
            "#BYTES",
            "#CLASS",
            "ENDPOINTS",
        ];
        let mut grid = Grid::new(&columns);
        for h in &self.hits {
            grid.row([
                h.target.clone(),
                h.direction.unwrap_or_default().to_string(),
                h.rule.clone(),
                h.action.clone(),
                h.packets.to_string(),
                h.bytes.to_string(),
                if h.class == 0 {
                    String::new()
                } else {
                    h.class.to_string()
                },
                h.endpoints(),
            ]);
        }
        if grid.is_empty() {
            "no hits\n".to_string()
        } else {
            grid.text(width)
        }
    }
}

/// One resource that a generation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceChangeView {
    /// `created`, `changed` or `deleted`.
    pub change: String,
    pub resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum EventView {
    /// A generation was committed.
    Committed {
        generation: u64,
        /// When, in UTC (RFC 3339).
        at: String,
        by: String,
        changes: Vec<ResourceChangeView>,
    },
    /// A target changed its state or its generation.
    Target {
        /// The generation it was told with.
        generation: u64,
        target: Box<TargetView>,
    },
}

impl EventView {
    /// Of a message; nothing for a sort of event that this command does not know.
    pub fn new(event: v1::Event) -> Option<Self> {
        let generation = event.generation;
        match event.event? {
            v1::event::Event::Committed(c) => {
                let change = |c: v1::ResourceChange| ResourceChangeView {
                    change: c.change,
                    resource: c.resource,
                };
                let changes = c.changes.into_iter().map(change).collect();
                Some(EventView::Committed {
                    generation,
                    at: utc(c.at),
                    by: c.by,
                    changes,
                })
            }
            v1::event::Event::Target(target) => Some(EventView::Target {
                generation,
                target: Box::new(target.into()),
            }),
        }
    }
}

/// Changes that a line names; the others are counted.
const CHANGES: usize = 8;

impl View for EventView {
    fn text(&self, _: Option<u16>) -> String {
        match self {
            EventView::Target { target, .. } => format!("target {}\n", target.line()),
            EventView::Committed {
                generation,
                at,
                by,
                changes,
            } => {
                let named = changes
                    .iter()
                    .take(CHANGES)
                    .map(|c| format!("{} {}", c.change, c.resource));
                let mut named: Vec<String> = named.collect();
                if changes.len() > CHANGES {
                    named.push(format!("{} more", changes.len() - CHANGES));
                }
                format!("generation {generation} by {by} at {at}: {}\n", named.join(", "))
            }
        }
    }
}

/// Seconds since the Unix epoch as date and time in UTC (RFC 3339).
pub(super) fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Counted from 1 March of year 0, so that the leap day is the last of a year; an era is 400 years.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + turn;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_across_leap_years() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(utc(1_709_251_200), "2024-03-01T00:00:00Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59Z");
    }
}

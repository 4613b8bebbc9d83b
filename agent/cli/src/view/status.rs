//! View of `status`: targets, the database, the reading of who may call, bypasses.

use portcullis_proto::v1;
use serde::Serialize;

use super::bound_text;
use super::bypass::BypassView;
use super::targets::TargetView;
use crate::table::Grid;
use crate::term::View;

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

//! What a session keeps beside its connections, tables and machine: intent, timers, and the status it reports.
//!
//! Pure: a time is an argument, since the session's start.

use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::{Intent, Unsupported};
use portcullis_policy::Name;

use crate::delta::Key;
use crate::drift::{RefusedRow, log_drift, log_refused};
use crate::handle::QueryError;
use crate::machine::{Drift, Machine};
use crate::status::{Exposure, LeftRules, Pending, SessionState, TableUse, TargetStatus};
use crate::timers::Timers;
use crate::windows::{Windows, cause};

/// What a session reports; [`TargetState::take`] computes the status from it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Where the session stands.
    pub state: SessionState,
    /// Generation of the desired rows.
    pub wanted: u64,
    /// Generation whose rows are all confirmed; 0 while none is known to be.
    pub confirmed: u64,
    /// Generation that flows follow which the datapath has cached; `confirmed` on one without such a cache.
    pub applied: u64,
    /// Whether packets meet the desired rows of now and nothing else, as far as the rows decide.
    pub in_force: bool,
    /// Whether cached flows follow everything that was written.
    pub is_followed: bool,
    /// Whether the datapath may still lose what it holds, so that nothing counts as closed yet.
    pub may_lose_rows: bool,
    /// Rows added, changed and deleted so far.
    pub writes: [u64; 3],
    /// Rows of others in our tables.
    pub foreign: u64,
    /// Rows of this agent in tables, or under tags, that it no longer uses.
    pub left_over: u64,
    /// What foreign rows in the places of ours mean, and what to do about them.
    pub conflict: Option<String>,
    /// Use of each table, in pipeline order.
    pub tables: Vec<TableUse>,
    /// Endpoints with a port here.
    pub realized: u64,
    /// What to say where nothing else is being waited for or went wrong.
    pub note: Option<String>,
}

/// The parts of a status that grow with the policy, and change with it alone.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    /// Endpoints that are meant for this target and wait for something.
    pub pending: Vec<Pending>,
    /// What this target cannot do.
    pub unsupported: Vec<Unsupported>,
    /// Ways in which packets pass without this agent's rows.
    pub exposures: Vec<Exposure>,
    /// Rules that are left to nearer targets.
    pub left: LeftRules,
}

impl Report {
    /// What a machine shows, on a datapath without caches. `text` shows a row; `remedy` says what to do about foreign rows in
    /// the places of ours.
    pub fn from_machine<U, K, B>(
        machine: &Machine<U, K, B>,
        text: impl Fn(&K) -> String,
        remedy: &str,
    ) -> Self
    where
        U: Ord + Clone,
        K: Key,
        B: Clone + PartialEq,
    {
        let (wanted, applied) = machine.generations();
        let state = machine.state();
        let conflicts = match state {
            SessionState::Applying => machine.conflicts(),
            _ => Vec::new(),
        };
        let conflict = conflicts.first().map(|first| {
            format!(
                "{} foreign rows stand where ours belong and are left alone; the first: {}; {remedy}",
                conflicts.len(),
                text(first)
            )
        });
        Report {
            state,
            wanted,
            confirmed: applied,
            applied,
            in_force: machine.is_in_force(),
            is_followed: true,
            writes: machine.writes(),
            foreign: machine.foreign() as u64,
            conflict,
            ..Report::default()
        }
    }
}

/// What is done once the status is published that goes with it.
type Afterwards = Box<dyn FnOnce() + Send + Sync>;

/// The state that every session has.
pub struct TargetState {
    /// Name of the target, as in `[[target]]`.
    pub name: String,
    /// The newest intent that the agent gave; absent until the first one.
    pub intent: Option<Arc<Intent>>,
    /// When rows are read back and refusals tried again.
    pub timers: Timers,
    /// The status, as it was reported last. A target sets `detail`, `versions`, `disconnects` and `drift_repaired` itself.
    pub status: TargetStatus,
    /// Time in which packets may have passed that the policy denies.
    pub windows: Windows,
    /// Whether the newest intent, at the ports of now, has no rows here: those of an older one, or of fewer ports, stay.
    pub is_behind: bool,
    lists_due: bool,
    /// When rows were read back last.
    read_at: Option<Duration>,
    note: Option<String>,
    afterwards: Vec<Afterwards>,
}

impl std::fmt::Debug for TargetState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetState")
            .field("name", &self.name)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl TargetState {
    /// Of a target that is not connected.
    pub fn new(name: &str, resync_interval: Duration) -> Self {
        TargetState {
            name: name.to_string(),
            intent: None,
            timers: Timers::new(resync_interval),
            status: TargetStatus {
                detail: "not connected yet".to_string(),
                ..TargetStatus::default()
            },
            windows: Windows::default(),
            is_behind: false,
            lists_due: true,
            read_at: None,
            note: None,
            afterwards: Vec::new(),
        }
    }

    /// Something that [`Lists`] are made of has changed.
    pub fn lists_changed(&mut self) {
        self.lists_due = true;
    }

    /// Whether [`Lists`] are to be made anew.
    pub fn are_lists_due(&self) -> bool {
        self.lists_due
    }

    /// Rows were read back.
    pub fn read_back(&mut self, now: Duration) {
        self.read_at = Some(now);
    }

    /// Rows had drifted: they are counted and logged. `text` shows a row.
    pub fn drifted<K>(&mut self, drift: &Drift<K>, text: impl Fn(&K) -> String) {
        self.status.drift_repaired += drift.len() as u64;
        log_drift(&self.name, drift, text);
    }

    /// Since the last read-back, packets may have passed that drifted rows stop.
    pub fn drift_opened(&mut self, now: Duration) {
        if self.windows.opened(cause::ROWS, self.read_at.unwrap_or(now)) {
            self.lists_changed();
        }
    }

    /// The target refused rows, which are logged; none was written, or what was is taken back. The detail says so, and when
    /// they are tried again. `full`: it had no room for them.
    pub fn refused(&mut self, now: Duration, rows: &[RefusedRow], full: bool) {
        let what = log_refused(&self.name, rows);
        let wait = self.timers.refused(now);
        self.status.detail = if full {
            format!(
                "the target has no room for {what}: the old rows stay, and what was written of the new ones is taken back; \
                 trying again in {wait:?}"
            )
        } else {
            format!("the target refused {what}; the old rows stay; trying again in {wait:?}")
        };
    }

    /// A batch was confirmed: the detail of the last refusal goes, unless the newest intent has no rows here. Taking back what
    /// did not fit is confirmed, too; only when the newest rows are all there does [`take`](Self::take) count the next refusal
    /// as a first one.
    pub fn confirmed(&mut self) {
        if !self.is_behind {
            self.status.detail.clear();
        }
    }

    /// Why a question has no answer while the rows are not known.
    pub fn not_ready(&self) -> QueryError {
        QueryError::NotReady {
            target: self.name.clone(),
            state: self.status.state,
        }
    }

    /// Why a question about an endpoint has no answer.
    pub fn not_here(&self, endpoint: &Name) -> QueryError {
        let endpoint = endpoint.to_string();
        let mut pending = self.status.pending.iter();
        let pending = pending.find(|pending| pending.endpoint == endpoint);
        let why = pending.map_or_else(|| "it has no attachment here".to_string(), |p| p.why.clone());
        QueryError::NotHere {
            endpoint,
            target: self.name.clone(),
            why,
        }
    }

    /// Does something once the next status is published: an answer does not contradict the status that is read after it.
    pub fn after_publishing(&mut self, what: impl FnOnce() + Send + Sync + 'static) {
        self.afterwards.push(Box::new(what));
    }

    /// Takes a report.
    ///
    /// In sync means: the rows of the newest intent are confirmed, and cached flows follow them. `realized` counts endpoints
    /// of the rows that were confirmed as a whole last.
    pub fn take(&mut self, now: Duration, report: Report) {
        let newest = self.intent.as_ref().map_or(0, |intent| intent.generation);
        let is_behind = self.is_behind || report.wanted < newest;
        let status = &mut self.status;
        status.state = match report.state {
            // An older state is there as a whole, or cached flows lag.
            SessionState::InSync if is_behind || !report.is_followed => SessionState::Applying,
            state => state,
        };
        if status.state == SessionState::InSync {
            self.timers.confirmed();
        }
        let is_followed = report.in_force && report.is_followed && !is_behind;
        if is_followed && !report.may_lose_rows && self.windows.close(now) {
            self.lists_due = true;
        }
        if report.in_force {
            status.realized = report.realized;
        }
        status.forget_while_away();
        status.open_millis = self.windows.millis(now);
        status.wanted = newest.max(report.wanted);
        status.confirmed = report.confirmed;
        status.applied = report.applied.min(report.confirmed);
        status.writes = report.writes;
        status.foreign_rows = report.foreign;
        status.left_over_rows = report.left_over;
        status.tables = report.tables;
        if let Some(conflict) = report.conflict {
            status.detail = conflict;
        }
        self.note = report.note;
    }

    /// Sets the lists, which are due.
    pub fn set_lists(&mut self, lists: Lists) {
        self.lists_due = false;
        self.status.pending = lists.pending;
        self.status.unsupported = lists.unsupported;
        self.status.exposures = lists.exposures;
        self.status.left = lists.left;
    }

    /// Shows the status as it is to be published, and does what waits for that.
    pub fn publish(&mut self, publish: impl FnOnce(&TargetStatus)) {
        let note = self.note.take().filter(|_| self.status.detail.is_empty());
        let has_note = note.is_some();
        if let Some(note) = note {
            self.status.detail = note;
        }
        publish(&self.status);
        if has_note {
            self.status.detail.clear();
        }
        for what in self.afterwards.drain(..) {
            what();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn state(generation: u64) -> TargetState {
        let mut state = TargetState::new("tor", at(10));
        state.intent = Some(Arc::new(Intent {
            generation,
            ..Intent::default()
        }));
        state.status.detail.clear();
        state
    }

    fn in_sync(generation: u64) -> Report {
        Report {
            state: SessionState::InSync,
            wanted: generation,
            confirmed: generation,
            applied: generation,
            in_force: true,
            is_followed: true,
            realized: 3,
            ..Report::default()
        }
    }

    #[test]
    fn in_sync_is_the_newest_intent_with_caches_that_follow() {
        let mut state = state(7);
        state.take(at(1), in_sync(6));
        let status = &state.status;
        assert_eq!(
            (status.state, status.wanted, status.applied),
            (SessionState::Applying, 7, 6)
        );
        assert_eq!(status.realized, 3);
        let lagging = Report {
            is_followed: false,
            applied: 0,
            ..in_sync(7)
        };
        state.take(at(2), lagging);
        let status = &state.status;
        assert_eq!(
            (status.state, status.confirmed, status.applied),
            (SessionState::Applying, 7, 0)
        );
        // The newest intent has no rows at the ports of now.
        state.is_behind = true;
        state.take(at(3), in_sync(7));
        assert_eq!(state.status.state, SessionState::Applying);
        state.is_behind = false;
        state.take(at(3), in_sync(7));
        assert_eq!(state.status.state, SessionState::InSync);
        state.take(at(4), Report::default());
        assert_eq!(
            (state.status.realized, state.status.applied, state.status.wanted),
            (0, 0, 7)
        );
    }

    #[test]
    fn waits_grow_until_everything_is_there() {
        let mut state = state(7);
        for (second, wait) in [(1, "500ms"), (2, "1s"), (3, "2s")] {
            state.refused(at(second), &[], true);
            assert!(
                state.status.detail.ends_with(&format!("trying again in {wait}")),
                "{}",
                state.status.detail
            );
            // What was written is taken back, and the rows of before are there.
            state.confirmed();
            state.take(at(second), in_sync(6));
        }
        state.take(at(4), in_sync(7));
        state.refused(at(5), &[], true);
        assert!(
            state.status.detail.ends_with("trying again in 500ms"),
            "{}",
            state.status.detail
        );
    }

    #[test]
    fn what_was_open_is_closed_when_all_is_in_force_and_stays() {
        let mut state = state(1);
        state.set_lists(Lists::default());
        state.read_back(at(1));
        state.drift_opened(at(3));
        assert!(state.are_lists_due());
        state.set_lists(Lists::default());
        let unsettled = Report {
            may_lose_rows: true,
            ..in_sync(1)
        };
        state.take(at(5), unsettled);
        assert!(state.windows.is_open(cause::ROWS) && !state.are_lists_due());
        state.take(at(6), in_sync(1));
        assert!(state.are_lists_due());
        assert_eq!(
            state.status.open_millis[cause::ROWS],
            5000,
            "since the read-back before"
        );
    }

    #[test]
    fn a_note_is_published_where_nothing_else_is_said_and_not_kept() {
        let mut state = state(1);
        let said = |state: &mut TargetState| {
            state.take(
                at(1),
                Report {
                    note: Some("cached flows may lag".to_string()),
                    ..in_sync(1)
                },
            );
            let mut detail = String::new();
            state.publish(|status| detail.clone_from(&status.detail));
            detail
        };
        assert_eq!(said(&mut state), "cached flows may lag");
        assert_eq!(state.status.detail, "");
        let row = RefusedRow {
            row: "a".to_string(),
            why: "b".to_string(),
        };
        state.refused(at(1), &[row.clone(), row.clone()], false);
        let refused = "the target refused a: b, and 1 more rows; the old rows stay; trying again in 500ms";
        assert_eq!(said(&mut state), refused);
        state.refused(at(1), &vec![row; crate::drift::REFUSED_AT_MOST], false);
        assert!(
            state.status.detail.contains("at least 19 more rows"),
            "{}",
            state.status.detail
        );
        state.confirmed();
        assert_eq!(said(&mut state), "cached flows may lag");
    }

    #[test]
    fn answers_follow_the_status_they_go_with() {
        let (asked, answered) = std::sync::mpsc::channel();
        let mut state = state(1);
        let answer = asked.clone();
        state.after_publishing(move || answer.send("answer").unwrap());
        state.publish(|_| asked.send("status").unwrap());
        assert_eq!(answered.try_iter().collect::<Vec<_>>(), ["status", "answer"]);
    }
}

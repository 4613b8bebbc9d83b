//! `Bridge:fail_mode`: what ovs-vswitchd does while the agent's rows are not there.
//!
//! On a bridge that is not `secure` every start of ovs-vswitchd puts in a row that passes everything. `secure` drops
//! instead. A change of the mode empties the tables of the bridge. So the agent sets it while no row of its own is there,
//! or where it is allowed to interrupt; and when it is changed, the rows are read back at once, and again for a while,
//! since the database says so before the switch has done it.

use std::time::Duration;

use portcullis_backend::{Exposure, cause};
use portcullis_ovsdb::{Bridge, Switch, Uuid};
use portcullis_policy::text::with_causes;
use tokio::time::Instant;

use super::Driver;
use crate::config::FailMode;

/// The mode in which a bridge without our rows drops.
const SECURE: &str = "secure";
/// How long the switch may take to put a mode into effect.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the rows are read back after the mode was changed by another program.
const WATCH: Duration = Duration::from_secs(3);

/// Where the setting stands.
#[derive(Debug, Default)]
enum Step {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The mode is to be set; whether it may be is known after the read-back. No row is written before.
    Deciding,
    Asked(Instant),
    /// OVSDB has it; the switch has it in effect when `cur_cfg` reaches this number.
    Waiting(i64, Instant),
}

/// What is known of the mode.
#[derive(Debug, Default)]
pub(super) struct Mode {
    /// The bridge, and whether it was secure, as seen last.
    seen: Option<(Uuid, bool)>,
    step: Step,
    /// Why it could not be set.
    problem: Option<String>,
    watch_until: Option<Instant>,
    /// Whether rows were found to be gone since the watch began.
    emptied: bool,
}

impl Mode {
    /// Whether what was open is known to be closed when everything is in force: not while the switch may still empty its
    /// tables.
    pub(super) fn is_settled(&self) -> bool {
        self.watch_until.is_none() || self.emptied
    }

    /// A read-back found `rows` rows missing.
    pub(super) fn missed(&mut self, rows: usize) {
        self.emptied |= rows > 0;
    }
}

fn is_secure(bridge: &Bridge) -> bool {
    bridge.fail_mode.as_deref() == Some(SECURE)
}

impl Driver {
    /// Whether the bridge drops without our rows.
    pub(super) fn is_secure(&self) -> bool {
        self.mode.seen.is_some_and(|(_, secure)| secure)
    }

    fn sets_fail_mode(&self) -> bool {
        self.backend.config().fail_mode == FailMode::Secure
    }

    /// Before a connection: rows are not written before the mode is decided about.
    pub(super) fn fail_mode_before_connecting(&mut self) {
        let decides = self.sets_fail_mode() && !self.is_secure();
        self.mode.step = if decides { Step::Deciding } else { Step::Idle };
        self.mode.problem = None;
        self.session.let_write(!decides);
    }

    /// The rows were read back.
    pub(super) fn fail_mode_observed(&mut self) {
        if !matches!(self.mode.step, Step::Idle | Step::Deciding) {
            return;
        }
        let bare = self.session.machine.installed().is_empty() && self.session.left_over() == 0;
        let may = bare || self.backend.config().allow_interruption;
        let wanted = self.sets_fail_mode() && !self.is_secure() && self.mode.problem.is_none();
        if let Some((bridge, _)) = self.mode.seen.filter(|_| wanted && may) {
            if self.database.set_fail_mode(bridge, SECURE) {
                tracing::info!(
                    target = self.name(),
                    bare,
                    "setting the bridge's fail mode to secure"
                );
                self.mode.step = Step::Asked(Instant::now());
                self.session.let_write(false);
                return;
            }
            self.mode.problem = Some("there is no connection to OVSDB".to_string());
            self.state.lists_changed();
        }
        if matches!(self.mode.step, Step::Deciding) {
            self.fail_mode_decided();
        }
    }

    fn fail_mode_decided(&mut self) {
        self.mode.step = Step::Idle;
        self.state.lists_changed();
        self.session.let_write(true);
        let now = self.now();
        if let Err(error) = self.session.advance(now) {
            self.switch_lost(&with_causes(&error));
        }
    }

    fn fail_mode_failed(&mut self, why: String) {
        tracing::warn!(target = self.name(), why, "cannot set the bridge's fail mode");
        self.mode.problem = Some(why);
        self.fail_mode_decided();
    }

    /// The database changed, or answered.
    pub(super) fn fail_mode_database(&mut self, switch: &Switch, bridge: &Bridge) {
        let secure = is_secure(bridge);
        let before = self.mode.seen.replace((bridge.id, secure));
        match self.database.take_outcome() {
            Some(Ok(sequence)) => self.mode.step = Step::Waiting(sequence, Instant::now()),
            Some(Err(why)) => self.fail_mode_failed(format!("OVSDB refused: {why}")),
            None => {}
        }
        let now = self.time.uptime();
        let ours = !matches!(self.mode.step, Step::Idle | Step::Deciding);
        if before.is_some_and(|(id, was)| id == bridge.id && was != secure) && ours {
            self.state.lists_changed();
        } else if before.is_some_and(|(id, was)| id == bridge.id && was != secure) {
            tracing::warn!(
                target = self.name(),
                fail_mode = bridge.fail_mode.as_deref().unwrap_or("standalone"),
                "the bridge's fail mode was changed, which empties its tables"
            );
            self.state.lists_changed();
            self.mode.watch_until = Some(Instant::now() + WATCH);
            self.mode.emptied = false;
            if !secure {
                self.state.windows.opened(cause::FAIL_MODE, now);
            }
        } else if before.is_none_or(|(id, _)| id != bridge.id) {
            self.state.lists_changed();
        }
        if let Step::Waiting(sequence, _) = self.mode.step
            && switch.cur_cfg.is_some_and(|done| done >= sequence)
        {
            self.session.machine.doubt();
            self.fail_mode_decided();
        }
        self.fail_mode_watch();
    }

    /// Reads the rows back while they may be gone.
    fn fail_mode_watch(&mut self) {
        self.mode.watch_until = self.mode.watch_until.filter(|until| Instant::now() < *until);
        if self.mode.watch_until.is_some() && self.links.switch.is_some() {
            self.caches.ask_again();
            self.session.read_back();
            let now = self.now();
            if let Err(error) = self.session.advance(now) {
                self.switch_lost(&with_causes(&error));
            }
        }
    }

    pub(super) fn fail_mode_tick(&mut self) {
        if let Step::Asked(since) | Step::Waiting(_, since) = self.mode.step
            && since.elapsed() > PATIENCE
        {
            self.fail_mode_failed(format!("the switch has not taken it up within {PATIENCE:?}"));
        }
        self.fail_mode_watch();
    }

    /// What is open on a bridge that is not secure.
    pub(super) fn fail_mode_exposure(&self) -> Option<Exposure> {
        if self.mode.seen.is_none() || self.is_secure() {
            return None;
        }
        let bridge = self.bridge.as_deref().unwrap_or("BRIDGE");
        let by_hand = format!(
            "`ovs-vsctl set-fail-mode {bridge} secure`; it empties the tables, so that nothing passes for the moment in \
             which the rows are written again"
        );
        let remedy = match (&self.mode.problem, self.sets_fail_mode()) {
            (Some(why), _) => format!("the agent could not set it ({why}): {by_hand}"),
            (None, true) => format!(
                "start the agent once with --allow-interruption, which lets it set the mode while its rows are there; or {by_hand}"
            ),
            (None, false) => format!("set fail_mode = \"secure\" for this target; or {by_hand}"),
        };
        Some(Exposure {
            cause: cause::FAIL_MODE.to_string(),
            what: format!(
                "Bridge:fail_mode of {bridge} is not `secure`: after each start of ovs-vswitchd every packet passes until \
                 the agent has written its rows again, and for ever when no agent runs"
            ),
            remedy,
            open: self.state.windows.is_open(cause::FAIL_MODE),
        })
    }
}

//! The session with one device, without I/O and without a clock.
//!
//! ```text
//! connected ─Arbitrate─▶ arbitration ─┬─ backup: waits; writes nothing
//!                                     └─ primary ─GetConfig─▶ config ─┬─ as wanted ───────────────▶ Read ⇄ Write
//!                                                                     ├─ none, or an older of ours ─SetConfig─┘
//!                                                                     └─ foreign: refused, reported, asked again
//!                                  without a policy nothing is set: the device keeps what it runs
//! ```
//!
//! What to write next is the [`Machine`]'s decision; `order.rs` makes requests of it. A request that fails
//! leads to a read-back: what is there is seen, not guessed. The caller executes [`Effect`]s and tells what came of them.

use std::collections::VecDeque;
use std::sync::Arc;

use portcullis_backend::SessionState;
use portcullis_backend::delta::Op;
use portcullis_backend::machine::{Batch, Desired, Drift, Machine, Observed};

use crate::device::Device;
use crate::entry::{Does, RowKey};
use crate::order::{Group, requests};
use crate::units::UnitId;

/// The machine of a device.
pub type DeviceMachine = Machine<UnitId, RowKey, Does>;

/// Requests of a step that may be on their way at a time.
pub const WINDOW: usize = 4;

/// Whether the agent may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mastership {
    /// The device has not answered arbitration yet.
    #[default]
    Unknown,
    /// Another controller has a higher election id.
    Backup,
    /// It is this one.
    Primary,
}

/// How a pipeline is put on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// `RECONCILE_AND_COMMIT`: rows that fit stay, traffic goes on.
    Reconcile,
    /// `VERIFY_AND_COMMIT`: the tables are empty afterwards.
    Verify,
}

/// Why a pipeline is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPushed {
    /// The device does not put pipelines there in this way, or not this one.
    Declined(String),
    /// It says nothing about the pipeline: no answer, or not the primary.
    Failed(String),
}

/// What a device was found to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// Nothing: no pipeline was ever set.
    Nothing,
    /// The wanted program, in the wanted version.
    Wanted,
    /// Our own program, in another version or variant.
    OtherOfOurs,
    /// Another program, of this name.
    Foreign(String),
}

/// What the caller shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask to be the primary.
    Arbitrate,
    /// Find out what the device runs; answer with [`Session::runs`].
    GetConfig,
    /// Put the wanted pipeline on it; answer with [`Session::config_set`].
    SetConfig(Push),
    /// Read back every row; answer with [`Session::observed`].
    Read,
    /// Give packets on their way through the device a moment; then call [`Session::paused`].
    Pause,
    /// Send these writes in one request; answer with [`Session::wrote`].
    Write {
        /// Number to answer with.
        number: u64,
        /// Inserts, modifications and deletions, sent as one batch.
        ops: Vec<Op<RowKey, Does>>,
    },
}

/// A write that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Key of the row that was to be written.
    pub key: RowKey,
    /// The canonical code (`google.rpc.Code`).
    pub code: i32,
    /// What the device said.
    pub message: String,
}

/// gRPC status of a full table (`google.rpc.Code.RESOURCE_EXHAUSTED`).
pub const RESOURCE_EXHAUSTED: i32 = 8;

/// What happened that the caller tells the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The device named another primary, or this agent.
    Mastership(Mastership),
    /// The device runs what is wanted.
    Pipeline {
        /// Whether it had to be put there.
        pushed: bool,
    },
    /// The device does not run what is wanted, and is left alone until there is a policy.
    NoPolicy,
    /// The device runs something else, and is left alone.
    ForeignPipeline(String),
    /// The pipeline could not be put there.
    PipelineRefused(String),
    /// Rows differed from those last confirmed; they are written again.
    Drifted(Drift<RowKey>),
    /// The rows could not be read.
    Unread(String),
    /// A step is confirmed.
    Confirmed,
    /// Writes were refused. `full`: a table has no room; the last state that fit is wanted again.
    Refused {
        /// Which, in the order of the requests.
        rows: Vec<Refused>,
        /// Whether there was no room.
        full: bool,
    },
}

/// A step being written.
#[derive(Debug, Default)]
struct Writing {
    /// Requests that wait, in groups; a group begins when the one before is confirmed.
    groups: VecDeque<Group>,
    /// Numbers of requests on their way, and what they wrote.
    on_the_way: Vec<(u64, Vec<RowKey>)>,
    refused: Vec<Refused>,
    /// A request without an answer: it may have been carried out.
    lost: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Disconnected,
    Arbitrating,
    Backup,
    Asking,
    /// There is nothing to be enforced yet, so that the device keeps what it runs.
    NoPolicy,
    Pushing(Push),
    /// The pipeline is not what is wanted; asked again at the next read-back.
    Stuck,
    Ready,
}

/// State of one device: stream, pipeline, and rows written and wanted. Pure.
#[derive(Debug)]
pub struct Session {
    /// Rows wanted and observed, and the steps between them.
    pub machine: DeviceMachine,
    device: Option<Arc<Device>>,
    overwrite: bool,
    stage: Stage,
    /// The device cannot play its part, as far as is known, also while it is asked again.
    is_unusable: bool,
    reading: bool,
    held: bool,
    /// Whether there is anything to be enforced.
    has_desired: bool,
    writing: Option<Writing>,
    number: u64,
    effects: Vec<Effect>,
    /// The newest state that was there as a whole.
    good: Option<(u64, Desired<UnitId, RowKey, Does>)>,
}

impl Session {
    /// A session. `overwrite`: a foreign pipeline is replaced.
    pub fn new(overwrite: bool) -> Self {
        Session {
            machine: Machine::pausing(),
            device: None,
            overwrite,
            stage: Stage::Disconnected,
            is_unusable: false,
            reading: false,
            held: false,
            has_desired: false,
            writing: None,
            number: 0,
            effects: Vec::new(),
            good: None,
        }
    }

    /// What is to be done now.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The device, as soon as it is known.
    pub fn device(&self) -> Option<&Arc<Device>> {
        self.device.as_ref()
    }

    /// The device's description is known, or is another one: rows are wanted anew.
    pub fn set_device(&mut self, device: Arc<Device>) {
        self.device = Some(device);
    }

    /// Whether rows are being read and written.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Where the session stands, for people.
    pub fn state(&self) -> SessionState {
        match self.stage {
            Stage::Disconnected => SessionState::Disconnected,
            Stage::Ready => self.machine.state(),
            _ if self.is_unusable => SessionState::Unusable,
            _ => SessionState::Handshaking,
        }
    }

    /// The stream is open.
    pub fn connected(&mut self) {
        self.disconnected();
        self.machine.connected();
        self.stage = Stage::Arbitrating;
        self.effects.push(Effect::Arbitrate);
    }

    /// The stream ended; whatever was on its way is unknown.
    pub fn disconnected(&mut self) {
        self.machine.disconnected();
        self.stop();
        self.effects.clear();
        self.is_unusable = false;
        self.stage = Stage::Disconnected;
    }

    /// Forgets what is on its way: the next read-back tells what became of it.
    fn stop(&mut self) {
        self.reading = false;
        self.writing = None;
        self.held = false;
        self.effects
            .retain(|e| !matches!(e, Effect::Write { .. } | Effect::Pause | Effect::Read));
    }

    /// An arbitration update came.
    pub fn arbitrated(&mut self, primary: bool) -> Vec<Event> {
        match (self.stage, primary) {
            (Stage::Disconnected, _) => Vec::new(),
            (Stage::Arbitrating | Stage::Backup, true) => {
                self.ask();
                vec![Event::Mastership(Mastership::Primary)]
            }
            // Still the primary: somebody else came or went.
            (_, true) => Vec::new(),
            (Stage::Backup, false) => Vec::new(),
            (_, false) => {
                self.stop();
                self.machine.connected();
                self.is_unusable = false;
                self.stage = Stage::Backup;
                vec![Event::Mastership(Mastership::Backup)]
            }
        }
    }

    fn ask(&mut self) {
        self.stage = Stage::Asking;
        self.effects.push(Effect::GetConfig);
    }

    /// What the device runs.
    pub fn runs(&mut self, running: Running) -> Vec<Event> {
        if self.stage != Stage::Asking {
            return Vec::new();
        }
        match running {
            Running::Wanted => self.ready(false),
            _ if !self.has_desired => {
                self.is_unusable = false;
                self.stage = Stage::NoPolicy;
                vec![Event::NoPolicy]
            }
            Running::Nothing => self.push(Push::Verify),
            Running::OtherOfOurs => self.push(Push::Reconcile),
            Running::Foreign(_) if self.overwrite => self.push(Push::Verify),
            Running::Foreign(name) => {
                self.stick();
                vec![Event::ForeignPipeline(name)]
            }
        }
    }

    /// What the device runs cannot be used.
    pub fn unusable(&mut self, why: String) -> Vec<Event> {
        // A backup asks nothing: the answer is to an earlier question.
        if self.stage != Stage::Asking {
            return Vec::new();
        }
        self.stick();
        vec![Event::PipelineRefused(why)]
    }

    /// The device could not be asked what it runs: it is asked again.
    pub fn unasked(&mut self, why: String) -> Vec<Event> {
        // A backup asks nothing: the answer is to an earlier question.
        if self.stage != Stage::Asking {
            return Vec::new();
        }
        self.stage = Stage::Stuck;
        vec![Event::PipelineRefused(why)]
    }

    fn stick(&mut self) {
        self.stage = Stage::Stuck;
        self.is_unusable = true;
    }

    fn push(&mut self, how: Push) -> Vec<Event> {
        self.stage = Stage::Pushing(how);
        self.effects.push(Effect::SetConfig(how));
        Vec::new()
    }

    /// The pipeline was set, or not. Reconciling is an offer that servers may decline; a call without an answer
    /// is no reason to empty the tables.
    pub fn config_set(&mut self, result: Result<(), NotPushed>) -> Vec<Event> {
        match (self.stage, result) {
            (Stage::Pushing(_), Ok(())) => self.ready(true),
            (Stage::Pushing(Push::Reconcile), Err(NotPushed::Declined(_))) => self.push(Push::Verify),
            (Stage::Pushing(_), Err(NotPushed::Declined(why))) => {
                self.stick();
                vec![Event::PipelineRefused(why)]
            }
            (Stage::Pushing(_), Err(NotPushed::Failed(why))) => {
                self.stage = Stage::Stuck;
                vec![Event::PipelineRefused(why)]
            }
            _ => Vec::new(),
        }
    }

    fn ready(&mut self, pushed: bool) -> Vec<Event> {
        self.stage = Stage::Ready;
        self.is_unusable = false;
        self.machine.ready();
        self.advance();
        vec![Event::Pipeline { pushed }]
    }

    /// Asks again what the device runs, where that was the trouble; and reads back, where all is well.
    pub fn look_again(&mut self) {
        match self.stage {
            Stage::Stuck => self.ask(),
            Stage::Ready => self.machine.request_resync(),
            _ => {}
        }
        self.advance();
    }

    /// A row was seen to differ from what is known to be installed: every row is read back first.
    pub fn doubt(&mut self) {
        if self.stage == Stage::Ready {
            self.machine.doubt();
            self.advance();
        }
    }

    /// The device was found to run something else while rows were read.
    pub fn pipeline_changed(&mut self) {
        if self.stage == Stage::Ready {
            self.stop();
            self.machine.connected();
            self.ask();
        }
    }

    /// Writes nothing for a while, or writes again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        self.advance();
    }

    /// Sets what the device shall hold.
    pub fn set_desired(&mut self, generation: u64, desired: Desired<UnitId, RowKey, Does>) {
        self.held = false;
        self.has_desired = true;
        self.machine.set_desired(generation, desired);
        if self.stage == Stage::NoPolicy {
            self.ask();
        }
        self.remember();
        self.advance();
    }

    /// What was read back.
    pub fn observed(&mut self, result: Result<Observed<RowKey, Does>, String>) -> Vec<Event> {
        if self.stage != Stage::Ready || !std::mem::take(&mut self.reading) {
            return Vec::new();
        }
        let events = match result {
            Err(why) => {
                self.machine.observation_failed();
                vec![Event::Unread(why)]
            }
            Ok(observed) => {
                let drift = self.machine.observed(observed);
                self.remember();
                if drift.is_empty() {
                    Vec::new()
                } else {
                    vec![Event::Drifted(drift)]
                }
            }
        };
        if !matches!(events.as_slice(), [Event::Unread(_)]) {
            self.advance();
        }
        events
    }

    /// What became of a request.
    pub fn wrote(&mut self, number: u64, result: Result<(), WriteFailure>) -> Vec<Event> {
        let Some(writing) = &mut self.writing else {
            return Vec::new();
        };
        let Some(at) = writing.on_the_way.iter().position(|(n, _)| *n == number) else {
            return Vec::new();
        };
        let (_, keys) = writing.on_the_way.swap_remove(at);
        match result {
            Ok(()) => {}
            Err(WriteFailure::Rows(rows)) => {
                writing
                    .refused
                    .extend(rows.into_iter().filter_map(|(at, code, message)| {
                        let key = keys.get(at)?.clone();
                        Some(Refused { key, code, message })
                    }));
            }
            Err(WriteFailure::Whole(why)) => writing.lost = Some(why),
        }
        let failed = !writing.refused.is_empty() || writing.lost.is_some();
        if failed {
            writing.groups.clear();
        }
        if !writing.on_the_way.is_empty() {
            return Vec::new();
        }
        if failed {
            return self.failed();
        }
        self.advance()
    }

    /// A step failed in part: whatever is there is read back, and a state that does not fit is given up.
    fn failed(&mut self) -> Vec<Event> {
        let writing = self.writing.take().unwrap_or_default();
        self.machine.rejected();
        let full = writing.refused.iter().any(|r| r.code == RESOURCE_EXHAUSTED);
        if full && let Some((generation, desired)) = self.good.clone() {
            self.machine.set_desired(generation, desired);
        } else {
            // The caller says when to try again; new wishes do not wait.
            self.held = true;
        }
        self.request_read();
        let rows = writing.refused;
        match writing.lost {
            Some(why) if rows.is_empty() => vec![Event::Unread(why)],
            _ => vec![Event::Refused { rows, full }],
        }
    }

    fn request_read(&mut self) {
        if self.stage == Stage::Ready && !self.reading && self.machine.begin_observation() {
            self.reading = true;
            self.effects.push(Effect::Read);
        }
    }

    /// Packets that were on their way through the device when [`Effect::Pause`] was asked for have left it.
    pub fn paused(&mut self) -> Vec<Event> {
        self.machine.paused();
        self.advance()
    }

    /// Keeps the state that is there as a whole.
    fn remember(&mut self) {
        if self.stage == Stage::Ready && self.machine.is_in_force() {
            self.good = Some((self.machine.generations().1, self.machine.units().clone()));
        }
    }

    /// Does what comes next.
    fn advance(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.stage != Stage::Ready {
            return events;
        }
        loop {
            if let Some(writing) = &mut self.writing {
                if !next_requests(writing, &mut self.number, &mut self.effects) {
                    return events;
                }
                self.writing = None;
                self.machine.acknowledged();
                self.remember();
                events.push(Event::Confirmed);
            }
            self.request_read();
            let batch = match self.held {
                false => self.machine.next_batch(),
                true => None,
            };
            if self.machine.begin_pause() {
                self.effects.push(Effect::Pause);
            }
            let Some(batch) = batch else {
                return events;
            };
            self.begin(batch);
        }
    }

    fn begin(&mut self, batch: Batch<RowKey, Does>) {
        let groups = requests(batch, &self.machine);
        self.writing = Some(Writing {
            groups: groups.into(),
            ..Writing::default()
        });
    }
}

/// Sends what may be sent; whether the step is through.
fn next_requests(writing: &mut Writing, number: &mut u64, effects: &mut Vec<Effect>) -> bool {
    loop {
        let Some(group) = writing.groups.front_mut() else {
            return writing.on_the_way.is_empty();
        };
        let free = WINDOW.saturating_sub(writing.on_the_way.len()).min(group.len());
        for ops in group.drain(..free) {
            *number += 1;
            let keys = ops.iter().map(|op| op.key().clone()).collect();
            writing.on_the_way.push((*number, keys));
            effects.push(Effect::Write { number: *number, ops });
        }
        if !group.is_empty() || !writing.on_the_way.is_empty() {
            return false;
        }
        writing.groups.pop_front();
    }
}

/// Why a request was not carried out as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteFailure {
    /// These of its writes were refused: place in the request, code, message.
    Rows(Vec<(usize, i32, String)>),
    /// It is not known what became of it.
    Whole(String),
}

#[cfg(test)]
mod tests;

//! The driver: one connection, and calls on it. Decisions are in `session` and `units`; the loop is every target's.
//!
//! ```text
//! context (intents, questions, stop) ─┐
//! stream (arbitration) ────────────┼─▶ driver ─▶ session ─effects─▶ jobs (calls) ─answers─▶ driver
//! ticks ───────────────────────────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::machine::Observed;
use portcullis_backend::ports;
use portcullis_backend::timers::Attempts;
use portcullis_backend::{
    Answer, Check, EnforcingRow, Hit, Lists, Offload, Plan, QueryError, Report, TargetDriver, TargetState,
    Time, Trace, end_unlocks,
};
use portcullis_compiler::Intent;
use portcullis_compiler::compilation::Demand;
use portcullis_policy::text::with_causes;
use portcullis_policy::{Direction, Name};
use portcullis_proto::p4::v1;
use tokio::task::{JoinError, JoinSet};

use crate::attachment_points::{AttachmentPoints, PortSpace};
use crate::backend::P4Backend;
use crate::client::{self, Client, ClientError, Stream};
use crate::device::{Device, DeviceTable};
use crate::entry::{Does, GROUPS, Row, RowKey};
use crate::failure::shown;
use crate::find::Found;
use crate::numbered::Numbered;
use crate::program::OwnProgram;
use crate::session::{Effect, Event, Mastership, Push, Session, WriteFailure};
use crate::units::{Built, Units, by_class};
use crate::value::ones;
use crate::wire::{self, ReplicaPorts, Writer};

mod answers;
mod desired;
mod report;

/// How long a packet may be on its way through a device's tables. Hardware takes microseconds; a software switch that the
/// scheduler interrupts takes milliseconds.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of a job; each belongs to the connection it was made on.
pub(crate) enum Done {
    Connected(Box<Result<(Client, Stream), ClientError>>),
    Found(Box<Result<Result<Found, String>, ClientError>>),
    Pushed(Push, Result<(), ClientError>),
    Read(Box<Result<ReadBack, ClientError>>),
    Wrote(u64, Result<(), WriteFailure>),
    /// Packets that were on their way through the device have left it.
    Paused,
    /// The rows that enforce a verdict, for the caller that asked.
    Explained(Box<Explained>),
    /// A question was answered by the job itself.
    Answered,
}

/// An answer to `explain`, and where it goes.
type Explained = (Answer<Vec<EnforcingRow>>, Result<Vec<EnforcingRow>, QueryError>);

/// What a read-back showed.
pub(crate) struct ReadBack {
    cookie: u64,
    observed: Observed<RowKey, Does>,
    groups: bool,
}

pub(crate) struct Driver {
    backend: Arc<P4Backend>,
    time: Time,
    state: TargetState,
    own: Option<Arc<OwnProgram>>,
    session: Session,
    client: Option<Client>,
    stream: Option<Stream>,
    /// Counts connections: what was asked on an earlier one is not listened to.
    epoch: u64,
    connecting: bool,
    jobs: JoinSet<(u64, Done)>,
    units: Units,
    numbered: Numbered,
    /// Who is where, and the intent that says it, under the device's own class numbers.
    points: AttachmentPoints,
    local: Option<Intent>,
    built: Option<Built>,
    /// The intent whose rows are wanted, and the last one that the device held as a whole.
    last: Option<Arc<Intent>>,
    held: Option<Arc<Intent>>,
    /// The cookie of what the device runs.
    cookie: u64,
    ports: ReplicaPorts,
    attempts: Attempts,
    /// Why the newest intent has no rows.
    problem: Option<portcullis_compiler::Unsupported>,
    /// Rows of others that the last read-back found.
    foreign: Vec<RowKey>,
}

impl Driver {
    pub(crate) fn new(backend: Arc<P4Backend>) -> Self {
        let own = backend.own().cloned();
        let mut session = Session::new(backend.config().overwrite);
        if let Some(own) = &own {
            session.set_device(Arc::new(own.device.clone()));
        }
        let config = backend.config();
        Driver {
            time: Time::new(),
            state: TargetState::new(&config.name, config.resync_interval),
            own,
            session,
            client: None,
            stream: None,
            epoch: 0,
            connecting: false,
            jobs: JoinSet::new(),
            units: Units::default(),
            numbered: Numbered::default(),
            points: AttachmentPoints::default(),
            local: None,
            built: None,
            last: None,
            held: None,
            cookie: 0,
            ports: ReplicaPorts::default(),
            attempts: Attempts::new(3),
            problem: None,
            foreign: Vec::new(),
            backend,
        }
    }

    fn name(&self) -> &str {
        &self.state.name
    }

    fn job(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        let epoch = self.epoch;
        self.jobs.spawn(async move { (epoch, work.await) });
    }

    /// The connection is of no use any more.
    fn lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the connection to the device");
        if self.client.take().is_some() {
            self.state.status.disconnects += 1;
        }
        self.stream = None;
        self.epoch += 1;
        self.connecting = false;
        self.attempts.failed(self.time.uptime());
        self.session.disconnected();
        self.state.status.detail = why.to_string();
        self.state.status.versions.remove("mastership");
    }

    fn streamed(&mut self, message: Result<Option<v1::StreamMessageResponse>, tonic::Status>) {
        use v1::stream_message_response::Update;
        let update = match message {
            Ok(Some(message)) => message.update,
            Ok(None) => return self.lost("the device closed the stream"),
            Err(status) => {
                let why = format!("StreamChannel: {} ({})", shown(status.message()), status.code());
                return self.lost(&why);
            }
        };
        match update {
            Some(Update::Arbitration(update)) => {
                let config = self.backend.config();
                match wire::arbitrated(&update, config.device_id, &config.role) {
                    Ok(primary) => {
                        let events = self.session.arbitrated(primary);
                        if events.contains(&Event::Mastership(Mastership::Backup)) {
                            // Answers that are on their way are older than what another primary writes.
                            self.epoch += 1;
                        }
                        self.events(events);
                    }
                    Err(why) => {
                        tracing::warn!(target = self.name(), why, "an arbitration update for others");
                        if !self.session.is_ready() {
                            self.state.status.detail = why;
                        }
                    }
                }
            }
            Some(Update::Error(error)) => {
                tracing::warn!(
                    target = self.name(),
                    code = error.canonical_code,
                    message = shown(&error.message),
                    "the device sent an error"
                );
            }
            // Packets and digests are for others.
            _ => {}
        }
    }

    fn done(&mut self, epoch: u64, done: Done) {
        if epoch != self.epoch {
            return;
        }
        match done {
            Done::Answered => {}
            Done::Explained(explained) => {
                // Status must not call the target in sync while this answer calls a row missing.
                if let Ok(rows) = &explained.1
                    && rows.iter().any(|row| !row.present)
                {
                    self.session.doubt();
                }
                let (answer, rows) = *explained;
                self.state.after_publishing(move || drop(answer.send(rows)));
            }
            Done::Connected(result) => self.connected(*result),
            Done::Found(result) => self.found(*result),
            Done::Pushed(how, result) => {
                if let Err(error) = &result {
                    tracing::warn!(
                        target = self.name(),
                        ?how,
                        why = with_causes(error),
                        "the device refused our program"
                    );
                }
                let events = self
                    .session
                    .config_set(result.map_err(|e| e.not_pushed(with_causes(&e))));
                if let Some(own) = self.own.as_ref().filter(|_| self.session.is_ready()) {
                    self.cookie = own.cookie();
                }
                self.events(events);
            }
            Done::Read(result) => self.read(*result),
            Done::Wrote(number, result) => {
                let events = self.session.wrote(number, result);
                self.events(events);
            }
            Done::Paused => {
                let events = self.session.paused();
                self.events(events);
            }
        }
    }

    fn connected(&mut self, result: Result<(Client, Stream), ClientError>) {
        self.connecting = false;
        match result {
            Ok((client, stream)) => {
                self.ports = client.replica_ports();
                let keeps_ends = client.keeps_ends;
                let versions = &mut self.state.status.versions;
                versions.insert("p4runtime".to_string(), client.version.clone());
                versions.insert(
                    "device_id".to_string(),
                    self.backend.config().device_id.to_string(),
                );
                self.client = Some(client);
                self.stream = Some(stream);
                self.state.status.detail = "waiting for the device to say who is the primary".to_string();
                self.state.timers.connected(self.time.uptime());
                self.keeps_ends(keeps_ends);
                self.session.connected();
            }
            Err(error) => {
                self.state.status.detail = with_causes(&error);
                self.attempts.failed(self.time.uptime());
            }
        }
    }

    /// Whether rows may carry their ends is known with the connection, and before anything is read or written.
    fn keeps_ends(&mut self, keeps_ends: bool) {
        if self.units.keeps_ends() != keeps_ends {
            self.units = self.units.anew(keeps_ends);
            self.set_desired();
        }
    }

    /// Rows that have ended by themselves since they were written are no drift.
    fn ended(&mut self, seen: &[Row]) {
        let installed = self.session.machine.installed();
        let ended = |(key, does): &&Row| installed.get(key).is_some_and(|had| had.ends_as(does));
        let ended: Vec<Row> = seen.iter().filter(ended).cloned().collect();
        for (key, does) in ended {
            self.session.machine.became(key, does);
        }
    }

    fn found(&mut self, result: Result<Result<Found, String>, ClientError>) {
        let events = match result {
            Err(error) => self.session.unasked(with_causes(&error)),
            Ok(Err(why)) => self.session.unusable(why),
            Ok(Ok(found)) => {
                self.cookie = found.cookie;
                if let Some(device) = found.device
                    && self.session.device().is_none_or(|known| **known != device)
                {
                    self.backend.learn(&device);
                    self.units = Units::new(self.units.keeps_ends());
                    self.session.set_device(Arc::new(device));
                    self.set_desired();
                }
                self.session.runs(found.running)
            }
        };
        self.events(events);
    }

    fn read(&mut self, result: Result<ReadBack, ClientError>) {
        let result = match result {
            Ok(read) if read.cookie != self.cookie => {
                tracing::warn!(
                    target = self.name(),
                    "the device runs another program than before"
                );
                self.session.pipeline_changed();
                // What was asked before says nothing about what the device runs now.
                self.epoch += 1;
                return;
            }
            Ok(mut read) => {
                if !read.groups {
                    // The server cannot read groups: what this session wrote is all that is known.
                    let known = self.session.machine.installed().iter();
                    let groups =
                        known.filter(|(key, _)| portcullis_backend::delta::Key::table(*key) == GROUPS);
                    read.observed
                        .ours
                        .extend(groups.map(|(k, d)| (k.clone(), d.clone())));
                }
                self.ended(&read.observed.ours);
                self.foreign_seen(&read.observed.foreign);
                self.first_seen(&read.observed.ours);
                Ok(read.observed)
            }
            Err(error) => Err(with_causes(&error)),
        };
        let read = result.is_ok();
        let events = self.session.observed(result);
        self.events(events);
        if read {
            self.state.read_back(self.time.uptime());
        }
    }

    /// Does what the session wants done.
    fn effects(&mut self) {
        for effect in self.session.take_effects() {
            let Some(mut client) = self.client.clone() else {
                return;
            };
            match effect {
                // The stream's first message was the request.
                Effect::Arbitrate => {}
                Effect::GetConfig => {
                    let own = self.own.clone();
                    self.job(async move { Done::Found(Box::new(client.find(own.as_deref()).await)) });
                }
                Effect::SetConfig(how) => {
                    let Some(own) = self.own.clone() else { continue };
                    self.job(async move { Done::Pushed(how, client.push(&own, how).await) });
                }
                Effect::Read => {
                    let Some(device) = self.session.device().cloned() else {
                        continue;
                    };
                    self.job(async move { Done::Read(Box::new(read_back(&mut client, &device).await)) });
                }
                Effect::Pause => self.job(async {
                    tokio::time::sleep(PAUSE).await;
                    Done::Paused
                }),
                Effect::Write { number, ops } => {
                    let Some(device) = self.session.device().cloned() else {
                        continue;
                    };
                    let writer = Writer {
                        tag: self.backend.config().tag,
                        generation: self.session.machine.generations().0,
                        ports: self.ports,
                    };
                    self.job(async move { Done::Wrote(number, client.write(&device, &ops, &writer).await) });
                }
            }
        }
    }

    fn mastership(&mut self, mastership: Mastership) {
        let text = match mastership {
            Mastership::Unknown => "unknown",
            Mastership::Backup => "backup",
            Mastership::Primary => "primary",
        };
        tracing::info!(
            target = self.name(),
            mastership = text,
            "the device decided who is the primary"
        );
        self.state
            .status
            .versions
            .insert("mastership".to_string(), text.to_string());
        self.state.status.detail = match mastership {
            Mastership::Backup => {
                "another controller with a higher election id is the primary; this agent writes \
                                   nothing until that one is gone"
                    .to_string()
            }
            _ => String::new(),
        };
    }
}

/// What happens on the connection to a device.
pub(crate) enum Happened {
    /// The stream brought a message, or ended.
    Message(Box<Result<Option<v1::StreamMessageResponse>, tonic::Status>>),
    /// A call was answered.
    Answered(Result<(u64, Done), JoinError>),
}

impl TargetDriver for Driver {
    type Event = Happened;

    fn time(&mut self) -> &mut Time {
        &mut self.time
    }

    fn state(&mut self) -> &mut TargetState {
        &mut self.state
    }

    async fn connect(&mut self) {
        if self.client.is_none() && !self.connecting && self.attempts.is_due(self.time.uptime()) {
            self.connecting = true;
            let config = Arc::clone(self.backend.config());
            self.job(async move { Done::Connected(Box::new(client::connect(config).await)) });
        }
    }

    fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    async fn next(&mut self) -> Happened {
        tokio::select! {
            biased;
            message = next_message(&mut self.stream) => Happened::Message(Box::new(message)),
            Some(done) = self.jobs.join_next() => Happened::Answered(done),
        }
    }

    async fn handle(&mut self, event: Happened) {
        match event {
            Happened::Message(message) => self.streamed(*message),
            Happened::Answered(Ok((epoch, done))) => {
                if matches!(done, Done::Read(_)) {
                    // Nothing that has ended is wanted any more: rows that are gone by themselves are no drift.
                    end_unlocks(self).await;
                }
                self.done(epoch, done);
            }
            // A job that panicked or was aborted: what it was about is read back after the next connection.
            Happened::Answered(Err(error)) => self.lost(&format!("a call ended abnormally: {error}")),
        }
    }

    fn flush(&mut self) {
        self.effects();
    }

    async fn rebuild(&mut self) {
        self.set_desired();
    }

    fn due(&self, wall: Duration) -> BTreeSet<Name> {
        ports::due(self.points.policies(), wall)
    }

    fn ends_by_itself(&self) -> bool {
        self.units.keeps_ends()
    }

    /// The intent is built anew, too: class numbers may have become free.
    async fn try_again(&mut self) {
        self.session.hold(false);
        self.set_desired();
    }

    async fn read_back(&mut self) {
        self.session.look_again();
    }

    fn is_ready(&self) -> bool {
        self.session.is_ready() && self.session.machine.is_known()
    }

    fn plan(&mut self, intent: &Intent) -> Result<Plan, QueryError> {
        self.planned(intent)
    }

    fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        self.ask_for_rows(trace, answer);
    }

    fn demand(&mut self, demand: Demand) {
        self.set_demand(demand);
    }

    fn hits(&mut self, answer: Answer<Vec<Hit>>) {
        self.ask_for_hits(answer);
    }

    fn checkup(&mut self, answer: Answer<Vec<Check>>) {
        self.look_at_nics(answer);
    }

    fn offload(&mut self, answer: Answer<Offload>) {
        self.ask_for_offload(answer);
    }

    fn report(&mut self) -> Report {
        self.reported()
    }

    fn lists(&self) -> Lists {
        self.listed()
    }
}

async fn read_back(client: &mut Client, device: &Device) -> Result<ReadBack, ClientError> {
    let cookie = client.cookie().await?;
    let (observed, groups) = client.read_back(device).await?;
    Ok(ReadBack {
        cookie,
        observed,
        groups,
    })
}

/// The next message; never, without a stream.
async fn next_message(
    stream: &mut Option<Stream>,
) -> Result<Option<v1::StreamMessageResponse>, tonic::Status> {
    match stream {
        Some(stream) => stream.responses.message().await,
        None => std::future::pending().await,
    }
}

/// What a device can tell of the ports that attachments name.
pub(crate) fn port_space(device: &Device) -> PortSpace {
    use portcullis_compiler::model::{Field, Role};
    let width = |t: &DeviceTable| {
        t.fields
            .iter()
            .find(|f| matches!(f.field, Some((Field::Port, _))))
            .map(|f| f.width)
    };
    let stages = [Role::Attach, Role::Policy];
    let widths = stages
        .iter()
        .filter_map(|role| device.stage(*role, Direction::Egress).and_then(|(_, t)| width(t)));
    PortSpace {
        max: ones(widths.min().filter(|w| *w > 0).unwrap_or(32)),
        by_address: device.model.partial.is_some() && !by_class(&device.model),
    }
}

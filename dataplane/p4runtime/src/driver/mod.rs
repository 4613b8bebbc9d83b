//! The driver: one connection in one event loop. Decisions are in `session` and `units`.
//!
//! ```text
//! context (intents, questions, stop) ─┐
//! stream (arbitration) ────────────┼─▶ driver ─▶ session ─effects─▶ jobs (calls) ─answers─▶ driver
//! ticks ───────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::machine::Observed;
use portcullis_backend::timers::{Attempts, TICK, Timers};
use portcullis_backend::{EnforcingRow, QueryError, TargetContext, TargetStatus, Time, Windows, cause};
use portcullis_compiler::Intent;
use portcullis_policy::Direction;
use portcullis_policy::text::with_causes;
use portcullis_proto::p4::v1;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::attachment_points::AttachmentPoints;
use crate::backend::P4Backend;
use crate::client::{self, Client, ClientError, Stream};
use crate::device::{Device, DeviceTable};
use crate::entry::{Does, GROUPS, Row, RowKey};
use crate::failure::shown;
use crate::find::Found;
use crate::numbered::Numbered;
use crate::program::OwnProgram;
use crate::session::{Effect, Event, Mastership, Push, Session, WriteFailure};
use crate::units::{Built, Units};
use crate::value::ones;
use crate::wire::{self, ReplicaPorts, Writer};

mod answers;
mod desired;
mod report;

/// How long a packet may be on its way through a device's tables. Hardware takes microseconds; a software switch that the
/// scheduler interrupts takes milliseconds.
const DRAIN: Duration = Duration::from_millis(20);

/// What came of a job; each belongs to the connection it was made on.
enum Done {
    Connected(Box<Result<(Client, Stream), ClientError>>),
    Found(Box<Result<Result<Found, String>, ClientError>>),
    Pushed(Push, Result<(), ClientError>),
    Read(Box<Result<ReadBack, ClientError>>),
    Wrote(u64, Result<(), WriteFailure>),
    /// The rows that enforce a verdict, for the caller that asked.
    Explained(Box<Explained>),
    /// A question was answered by the job itself.
    Answered,
}

/// An answer to `explain`, and where it goes.
type Explained = (
    oneshot::Sender<Result<Vec<EnforcingRow>, QueryError>>,
    Result<Vec<EnforcingRow>, QueryError>,
);

/// What a read-back showed.
struct ReadBack {
    cookie: u64,
    observed: Observed<RowKey, Does>,
    groups: bool,
}

pub(crate) struct Driver {
    backend: Arc<P4Backend>,
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
    intent: Option<Arc<Intent>>,
    built: Option<Built>,
    /// The intent whose rows are wanted, and the last one that the device held as a whole.
    last: Option<Arc<Intent>>,
    held: Option<Arc<Intent>>,
    /// The cookie of what the device runs.
    cookie: u64,
    ports: ReplicaPorts,
    status: TargetStatus,
    attempts: Attempts,
    timers: Timers,
    /// Answers that are sent when the status that goes with them is published.
    explained: Vec<Explained>,
    /// Why the newest intent has no rows.
    problem: Option<portcullis_compiler::Unsupported>,
    time: Time,
    windows: Windows,
    /// When rows were read back last, since the start.
    read_at: Option<Duration>,
}

impl Driver {
    pub(crate) fn new(backend: Arc<P4Backend>) -> Self {
        let own = backend.own().cloned();
        let mut session = Session::new(backend.config().overwrite);
        if let Some(own) = &own {
            session.set_device(Arc::new(own.device.clone()));
        }
        let timers = Timers::new(backend.config().resync_interval);
        Driver {
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
            intent: None,
            built: None,
            last: None,
            held: None,
            cookie: 0,
            ports: ReplicaPorts::default(),
            status: TargetStatus {
                detail: "not connected yet".to_string(),
                ..TargetStatus::default()
            },
            attempts: Attempts::new(3),
            timers,
            problem: None,
            explained: Vec::new(),
            time: Time::new(),
            windows: Windows::default(),
            read_at: None,
            backend,
        }
    }

    fn name(&self) -> &str {
        &self.backend.config().name
    }

    pub(crate) async fn run(mut self, mut context: TargetContext) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut intents_open = true;
        loop {
            tokio::select! {
                biased;
                changed = context.stop.changed() => {
                    if changed.is_err() || *context.stop.borrow() {
                        return;
                    }
                }
                changed = context.intents.changed(), if intents_open => {
                    intents_open = changed.is_ok();
                    self.intent = context.intents.borrow_and_update().clone();
                    self.time.reset_clock();
                    self.rebuild();
                }
                message = next_message(&mut self.stream) => self.streamed(message),
                Some(done) = self.jobs.join_next() => match done {
                    Ok((epoch, done)) => self.done(epoch, done),
                    // A job that panicked or was aborted: what it was about is read back after the next connection.
                    Err(error) => self.lost(&format!("a call ended abnormally: {error}")),
                },
                question = context.queries.recv() => match question {
                    Some(question) => self.query(question),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
            self.effects();
            self.publish(&context);
            for (answer, rows) in self.explained.drain(..) {
                // The caller that asked may be gone.
                drop(answer.send(rows));
            }
        }
    }

    fn tick(&mut self) {
        self.transitions();
        let now = self.time.uptime();
        if self.client.is_none() && !self.connecting && self.attempts.is_due(now) {
            self.connecting = true;
            let config = Arc::clone(self.backend.config());
            self.job(async move { Done::Connected(Box::new(client::connect(config).await)) });
        }
        if self.timers.is_retry_due(now) {
            self.session.hold(false);
            self.rebuild();
        }
        if self.client.is_some() && self.timers.is_resync_due(now) {
            self.session.look_again();
        }
    }

    fn job(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        let epoch = self.epoch;
        self.jobs.spawn(async move { (epoch, work.await) });
    }

    /// The connection is of no use any more.
    fn lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the connection to the device");
        if self.client.take().is_some() {
            self.status.disconnects += 1;
        }
        self.stream = None;
        self.epoch += 1;
        self.connecting = false;
        self.attempts.failed(self.time.uptime());
        self.session.disconnected();
        self.status.detail = why.to_string();
        self.status.versions.remove("mastership");
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
                            self.status.detail = why;
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
                self.explained.push(*explained);
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
        }
    }

    fn connected(&mut self, result: Result<(Client, Stream), ClientError>) {
        self.connecting = false;
        match result {
            Ok((client, stream)) => {
                self.ports = client.replica_ports();
                let keeps_ends = client.keeps_ends;
                let versions = &mut self.status.versions;
                versions.insert("p4runtime".to_string(), client.version.clone());
                versions.insert(
                    "device_id".to_string(),
                    self.backend.config().device_id.to_string(),
                );
                self.client = Some(client);
                self.stream = Some(stream);
                self.status.detail = "waiting for the device to say who is the primary".to_string();
                self.timers.connected(self.time.uptime());
                self.keeps_ends(keeps_ends);
                self.session.connected();
            }
            Err(error) => {
                self.status.detail = with_causes(&error);
                self.attempts.failed(self.time.uptime());
            }
        }
    }

    /// Whether rows may carry their ends is known with the connection, and before anything is read or written.
    fn keeps_ends(&mut self, keeps_ends: bool) {
        if self.units.keeps_ends() != keeps_ends {
            self.units = Units::new(keeps_ends);
            self.rebuild();
        }
    }

    /// Rows that have ended by themselves since they were written are no drift.
    fn ended(&mut self, seen: &[Row]) {
        // Nothing that has ended is wanted any more.
        self.transitions();
        let installed = self.session.machine.installed();
        let ended = |(key, does): &&Row| installed.get(key).is_some_and(|had| had.ends_as(does));
        let ended: Vec<Row> = seen.iter().filter(ended).cloned().collect();
        for (key, does) in ended {
            self.session.machine.became(key, does);
        }
    }

    fn found(&mut self, result: Result<Result<Found, String>, ClientError>) {
        let events = match result {
            Err(error) => self.session.unusable(with_causes(&error)),
            Ok(Err(why)) => self.session.unusable(why),
            Ok(Ok(found)) => {
                self.cookie = found.cookie;
                if let Some(device) = found.device
                    && self.session.device().is_none_or(|known| **known != device)
                {
                    self.backend.learn(&device);
                    self.units = Units::new(self.units.keeps_ends());
                    self.session.set_device(Arc::new(device));
                    self.rebuild();
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
                self.first_seen(&read.observed.ours);
                Ok(read.observed)
            }
            Err(error) => Err(with_causes(&error)),
        };
        let read = result.is_ok();
        let events = self.session.observed(result);
        self.events(events);
        if read {
            self.read_at = Some(self.time.uptime());
        }
    }

    /// Closes what unlocks opened whose moment has come. The engine says the same with its next intent; the driver does not
    /// wait for it.
    fn transitions(&mut self) {
        let moment = self.time.now().wall;
        let due = self.points.due(moment);
        if due.is_empty() {
            return;
        }
        if !self.units.keeps_ends() {
            // Nobody but this agent ends them.
            self.windows.opened(cause::LATE_END, self.time.uptime());
        }
        self.rebuild();
        for endpoint in due {
            let endpoint = endpoint.as_str();
            tracing::info!(
                target = self.name(),
                endpoint,
                "unlocks ended: their ports are closed"
            );
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
                Effect::Drain { number } => self.job(async move {
                    tokio::time::sleep(DRAIN).await;
                    Done::Wrote(number, Ok(()))
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

    fn not_ready(&self) -> QueryError {
        QueryError::NotReady {
            target: self.name().to_string(),
            state: self.session.state(),
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
        self.status
            .versions
            .insert("mastership".to_string(), text.to_string());
        self.status.detail = match mastership {
            Mastership::Backup => {
                "another controller with a higher election id is the primary; this agent writes \
                                   nothing until that one is gone"
                    .to_string()
            }
            _ => String::new(),
        };
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

/// The highest port number that a device can match.
pub(crate) fn port_max(device: &Device) -> u128 {
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
    ones(widths.min().filter(|w| *w > 0).unwrap_or(32))
}

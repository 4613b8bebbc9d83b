//! The driver: connections to OVSDB and the switch. Decisions are in `session` and `units`; the loop is every target's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::ports;
use portcullis_backend::timers::Attempts;
use portcullis_backend::{
    Answer, Check, EnforcingRow, Hit, Lists, Now, Offload, Plan, QueryError, Report, TargetDriver,
    TargetState, Time, Trace, log_ended,
};
use portcullis_compiler::Intent;
use portcullis_openflow::{Action, Instruction};
use portcullis_ovsdb::{Session as Database, SessionConfig, Switch};
use portcullis_policy::Name;
use portcullis_policy::text::with_causes;
use tokio::sync::mpsc;

use crate::backend::OvsBackend;
use crate::caches::{Caches, Progress};
use crate::discover::choose;
use crate::flow::{FlowKey, text};
use crate::io::{Link, read_some};
use crate::ports::{Attachments, Ports};
use crate::session::{Event, Session, SessionError};
use crate::tables::{Pipeline, Table};
use crate::units::Units;
use crate::unixctl::Where;
use crate::{no_flood, regs};

mod answers;
mod daemon;
mod desired;
mod fail_mode;
mod footprint;
mod report;

use answers::Asked;

/// How often a switch that is not there is looked for.
const RECONNECT: Duration = Duration::from_millis(50);

pub(crate) struct Driver {
    backend: Arc<OvsBackend>,
    time: Time,
    state: TargetState,
    session: Session,
    database: Database,
    links: Links,
    units: Units,
    /// The attachments of an intent.
    attachments: Option<(Arc<Intent>, Attachments)>,
    bridge: Option<String>,
    ports: Ports,
    /// What `ports` were resolved from, if rows were made of all of it.
    source: Option<Source>,
    /// The intent whose rows were made last.
    held: Option<Arc<Intent>>,
    floods: Floods,
    /// Rows that tables take, where Flow_Table:flow_limit says so.
    limits: BTreeMap<Table, u64>,
    asked: HashMap<u64, (Duration, Asked)>,
    question: u64,
    caches: Caches,
    /// Where the daemon can be asked.
    place: Where,
    /// What it said about its cached flows.
    dumps: (mpsc::UnboundedSender<Flows>, mpsc::UnboundedReceiver<Flows>),
    /// Those who wait for it.
    await_dump: Vec<Answer<Offload>>,
    mode: fail_mode::Mode,
    footprint: footprint::Recorded,
}

/// The daemon's list of cached flows.
type Flows = std::io::Result<String>;

/// What ports are resolved from.
struct Source {
    switch: Arc<Switch>,
    bridge: String,
    intent: Arc<Intent>,
}

/// The two connections and when to try each again.
struct Links {
    database: Option<Link>,
    database_attempts: Attempts,
    switch: Option<Link>,
    switch_attempts: Attempts,
    /// When the switch was known not to be there last, since the driver's start.
    absent: Option<Duration>,
}

/// What is known of the flood setting of ports.
#[derive(Default)]
struct Floods {
    /// Ports this process knows to be policed in the switch, now or before.
    policed: BTreeSet<u32>,
    /// The setting as it was last made.
    made: Option<(BTreeSet<u32>, BTreeSet<u32>)>,
    problem: Option<String>,
}

impl Driver {
    pub(crate) fn new(backend: Arc<OvsBackend>) -> Self {
        let config = backend.config();
        let pipeline = Pipeline {
            first: config.first_table,
            tag: config.cookie,
            last: config.final_action,
            opaque: &crate::tables::OPAQUE,
        };
        let place = Where {
            folder: config.run_dir(),
            socket: config.control_socket.clone(),
        };
        Driver {
            time: Time::new(),
            state: TargetState::new(&config.name, config.resync_interval),
            session: Session::new(pipeline),
            database: Database::new(SessionConfig::default()),
            links: Links {
                database: None,
                database_attempts: Attempts::new(1),
                switch: None,
                switch_attempts: Attempts::new(2),
                absent: None,
            },
            units: Units::new(pipeline),
            attachments: None,
            source: None,
            bridge: None,
            ports: Ports::default(),
            held: None,
            floods: Floods::default(),
            limits: BTreeMap::new(),
            asked: HashMap::new(),
            caches: Caches::start(place.clone()),
            place,
            dumps: mpsc::unbounded_channel(),
            await_dump: Vec::new(),
            mode: fail_mode::Mode::default(),
            footprint: footprint::Recorded::default(),
            question: 0,
            backend,
        }
    }

    fn now(&mut self) -> Now {
        self.time.now()
    }

    fn name(&self) -> &str {
        &self.state.name
    }

    async fn connect_database(&mut self) {
        if self.links.database.is_some() || !self.links.database_attempts.is_due(self.time.uptime()) {
            return;
        }
        match Link::connect(&self.backend.config().ovsdb).await {
            Ok(link) => {
                self.links.database = Some(link);
                self.database.connected(self.time.uptime());
            }
            Err(error) => {
                self.links.database_attempts.failed(self.time.uptime());
                self.state.status.detail =
                    format!("no OVSDB server at {}: {error}", self.backend.config().ovsdb);
            }
        }
    }

    fn database_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the connection to OVSDB");
        self.links.database = None;
        self.links.database_attempts.failed(self.time.uptime());
        self.database.disconnected(self.time.uptime());
        self.state.status.detail = format!("lost the connection to OVSDB: {why}");
    }

    /// Whether there is a bridge to connect to.
    fn awaits_switch(&self) -> bool {
        let reachable = self.backend.config().run_dir().is_some();
        self.links.switch.is_none() && self.bridge.is_some() && reachable
    }

    async fn connect_switch(&mut self) {
        let Some(bridge) = self.bridge.clone() else { return };
        if self.links.switch.is_some() || !self.links.switch_attempts.is_due(self.time.uptime()) {
            return;
        }
        let Some(path) = self.backend.config().mgmt_socket(&bridge) else {
            self.state.status.detail =
                "OVSDB is reached over TCP: set `mgmt_dir` to the folder of the bridge's management socket"
                    .to_string();
            return;
        };
        match Link::connect(&format!("unix:{}", path.display())).await {
            Ok(link) => {
                self.links.switch = Some(link);
                self.recall_footprint().await;
                self.fail_mode_before_connecting();
                let now = self.now();
                if let Err(error) = self.session.connected(now) {
                    self.switch_lost(&with_causes(&error));
                }
            }
            Err(error) => {
                // A socket that is not there costs nothing to try, and its switch may pass everything from its start on.
                let now = self.time.uptime();
                self.links.switch_attempts.due_at(now + RECONNECT);
                self.links.absent = Some(now);
                self.state.status.detail = format!("no OpenFlow connection at {}: {error}", path.display());
            }
        }
    }

    fn switch_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the OpenFlow connection");
        self.links.switch = None;
        self.links.switch_attempts.failed(self.time.uptime());
        self.session.disconnected();
        self.floods.made = None;
        self.state.status.disconnects += 1;
        self.state.status.detail = format!("lost the OpenFlow connection: {why}");
        self.refuse_questions();
    }

    async fn database_changed(&mut self) {
        self.links.database_attempts.worked();
        let Some(switch) = self.database.snapshot() else {
            return;
        };
        match choose(&switch, self.backend.config()) {
            Ok(bridge) => {
                self.fail_mode_database(&switch, bridge);
                self.caches.set_datapath(&bridge.datapath());
                if self.bridge.as_ref() != Some(&bridge.name) {
                    tracing::info!(target = self.name(), bridge = bridge.name, "found the bridge");
                    self.bridge = Some(bridge.name.clone());
                    if self.links.switch.is_some() {
                        self.switch_lost("another bridge is meant now");
                    }
                    self.links.switch_attempts.due_at(self.time.uptime());
                    self.connect_switch().await;
                }
                self.versions(&switch, bridge);
            }
            Err(why) => {
                self.state.status.detail = why.to_string();
                self.bridge = None;
                if self.links.switch.is_some() {
                    self.switch_lost("the bridge is gone");
                    self.state.status.detail = why.to_string();
                }
            }
        }
        self.set_desired().await;
    }

    /// ManagedPort ports are not flooded to by NORMAL; ports that were and no longer are, are again.
    async fn set_floods(&mut self) {
        let Some(bridge) = self.bridge.clone().filter(|_| self.session.is_ready()) else {
            return;
        };
        let Some(path) = self.backend.config().mgmt_socket(&bridge) else {
            return;
        };
        let policed: BTreeSet<u32> = self
            .ports
            .ports
            .values()
            .filter(|p| p.policed().is_some())
            .map(|p| p.number)
            .collect();
        let known: BTreeSet<u32> = self.ports.ports.keys().copied().collect();
        let released: BTreeSet<u32> = self
            .floods
            .policed
            .difference(&policed)
            .copied()
            .filter(|n| known.contains(n))
            .collect();
        let wanted = (policed, released);
        if self.floods.made.as_ref() == Some(&wanted) {
            return;
        }
        match no_flood::ensure(&format!("unix:{}", path.display()), &wanted.0, &wanted.1).await {
            Ok(changed) => {
                tracing::debug!(target = self.name(), changed, "set the flood setting of ports");
                self.floods.policed.extend(&wanted.0);
                self.floods.problem = None;
                self.state.lists_changed();
                self.floods.made = Some(wanted);
            }
            Err(error) => {
                let why = with_causes(&error);
                tracing::warn!(target = self.name(), why, "cannot set the flood setting of ports");
                self.floods.problem = Some(why);
                self.state.lists_changed();
            }
        }
    }

    async fn switch_events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ready(features, version) => {
                    self.links.switch_attempts.worked();
                    self.state
                        .status
                        .versions
                        .insert("openflow".to_string(), version.to_string());
                    self.state.status.versions.insert(
                        "datapath_id".to_string(),
                        format!("{:016x}", features.datapath_id),
                    );
                    self.state.status.detail.clear();
                    self.caches.ask_again();
                    self.state.timers.connected(self.time.uptime());
                }
                Event::Observed(drift) => {
                    self.mode.missed(drift.missing.len());
                    self.rows_lost();
                    self.fail_mode_observed();
                    self.recall_policed();
                    self.set_floods().await;
                    if !drift.is_empty() {
                        self.state.drifted(&drift, shown);
                        self.rows_drifted();
                    }
                    self.state.read_back(self.time.uptime());
                }
                Event::Ended(keys) => {
                    self.caches.ask_again();
                    log_ended(&self.state.name, &keys, shown);
                }
                Event::Confirmed => self.state.confirmed(),
                Event::Refused(rows) => self.state.refused(self.time.uptime(), &rows, false),
                Event::Removed(count) => self.left_over_removed(count).await,
                Event::FragmentMode(found) => {
                    self.caches.ask_again();
                    self.state.status.drift_repaired += 1;
                    tracing::warn!(
                        target = self.name(),
                        ?found,
                        "the bridge's fragment mode had been changed"
                    );
                }
                Event::Read(number, rows) => self.answer(number, rows),
                // A restarted switch forgets the setting of its ports.
                Event::Ports => {
                    self.floods.made = None;
                    self.set_floods().await;
                }
            }
        }
    }

    /// Ports that an earlier run policed, read from the rows it left: theirs is the flood setting to undo.
    fn recall_policed(&mut self) {
        for (key, body) in self.session.machine.installed() {
            if key.0.table != Table::Attach {
                continue;
            }
            let sets_policed = body.instructions.iter().any(|i| match i {
                Instruction::ApplyActions(actions) => actions.iter().any(|action| match action {
                    Action::SetField(oxm) => oxm.field == regs::SENDER && oxm.value & regs::POLICED != 0,
                    _ => false,
                }),
                _ => false,
            });
            let port = key.0.matching.get(portcullis_openflow::Field::InPort);
            if let Some(number) = port
                .and_then(|oxm| u32::try_from(oxm.value).ok())
                .filter(|_| sets_policed)
            {
                self.floods.policed.insert(number);
            }
        }
    }
}

/// What happens on the connections of a bridge.
pub(crate) enum Happened {
    /// The switch sent something, or its connection ended.
    Switch(Result<Vec<Event>, String>),
    /// OVSDB sent something, and whether that says anything; or its connection ended.
    Database(Result<bool, String>),
    /// The caches follow, or something about them is known.
    Caches(Progress),
    /// The daemon listed its cached flows.
    Dumped(Flows),
    /// The switch is looked for again.
    SwitchDue,
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
        self.connect_database().await;
        self.connect_switch().await;
    }

    fn is_connected(&self) -> bool {
        self.links.switch.is_some()
    }

    async fn next(&mut self) -> Happened {
        let due = self.time.instant(self.links.switch_attempts.at());
        let awaits_switch = self.awaits_switch();
        tokio::select! {
            biased;
            bytes = read_some(&mut self.links.switch) => {
                let now = self.time.now();
                Happened::Switch(match bytes {
                    Ok(bytes) => self.session.received(bytes, now).map_err(|e| with_causes(&e)),
                    Err(error) => Err(error.to_string()),
                })
            }
            bytes = read_some(&mut self.links.database) => {
                let now = self.time.uptime();
                Happened::Database(match bytes {
                    Ok(bytes) => match self.database.received(bytes, now) {
                        Ok(events) => Ok(!events.is_empty()),
                        Err(error) => Err(with_causes(&error)),
                    },
                    Err(error) => Err(error.to_string()),
                })
            }
            Some(progress) = self.caches.progress.recv() => Happened::Caches(progress),
            Some(dump) = self.dumps.1.recv() => Happened::Dumped(dump),
            () = tokio::time::sleep_until(due), if awaits_switch => Happened::SwitchDue,
        }
    }

    async fn handle(&mut self, event: Happened) {
        match event {
            Happened::Switch(Ok(events)) => self.switch_events(events).await,
            Happened::Switch(Err(why)) => self.switch_lost(&why),
            Happened::Database(Ok(true)) => self.database_changed().await,
            Happened::Database(Ok(false)) => {}
            Happened::Database(Err(why)) => self.database_lost(&why),
            Happened::Caches(progress) => self.caches_progress(progress),
            Happened::Dumped(dump) => self.dumped(dump),
            Happened::SwitchDue => self.connect_switch().await,
        }
    }

    fn flush(&mut self) {
        if let Some(link) = &self.links.switch {
            link.write(self.session.take_output());
        }
        if let Some(link) = &self.links.database {
            link.write(self.database.take_output());
        }
    }

    async fn rebuild(&mut self) {
        self.set_desired().await;
    }

    fn due(&self, wall: Duration) -> BTreeSet<Name> {
        ports::due(self.ports.policies(), wall)
    }

    /// True: OpenFlow rows end by `hard_timeout`, without the agent.
    fn ends_by_itself(&self) -> bool {
        true
    }

    async fn try_again(&mut self) {
        self.session.hold(false);
    }

    async fn read_back(&mut self) {
        self.session.read_back();
        if self.floods.problem.is_some() {
            self.floods.made = None;
            self.set_floods().await;
        }
    }

    async fn tick(&mut self) {
        if self.links.database.is_some() {
            let now = self.time.uptime();
            match self.database.tick(now) {
                Ok(events) if events.is_empty() => {}
                Ok(_) => self.database_changed().await,
                Err(error) => self.database_lost(&with_causes(&error)),
            }
        }
        if self.links.switch.is_some() {
            self.fail_mode_tick();
            let now = self.now();
            if let Err(error) = self.session.tick(now) {
                self.switch_lost(&with_causes(&error));
            }
        }
        self.give_up_late_questions();
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

    fn hits(&mut self, answer: Answer<Vec<Hit>>) {
        self.ask_for_hits(answer);
    }

    fn offload(&mut self, answer: Answer<Offload>) {
        self.ask_for_offload(answer);
    }

    fn checkup(&mut self, answer: Answer<Vec<Check>>) {
        self.look_at_settings(answer);
    }

    fn report(&mut self) -> Report {
        self.reported()
    }

    fn lists(&self) -> Lists {
        self.listed()
    }
}

/// A row as log and status show it.
fn shown(key: &FlowKey) -> String {
    text(&key.0, &[])
}

// The session's errors are shown with their causes; keep that possible.
const _: fn(&SessionError) -> String = |e| with_causes(e);

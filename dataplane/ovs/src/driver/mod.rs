//! The driver: connections to OVSDB and the switch in one event loop. Decisions are in `session` and `units`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::timers::{ANSWERS_WITHIN, Attempts, TICK, Timers};
use portcullis_backend::{Now, QueryError, SessionState, TargetContext, TargetStatus, Time, Windows};
use portcullis_compiler::Intent;
use portcullis_openflow::{Action, Instruction};
use portcullis_ovsdb::{Session as Database, SessionConfig};
use portcullis_policy::text::with_causes;
use tokio::time::Instant;

use crate::backend::OvsBackend;
use crate::caches::{Caches, Where};
use crate::discover::choose;
use crate::io::{Link, read_some};
use crate::ports::{Attachments, Ports, resolve};
use crate::session::{Event, Session, SessionError};
use crate::tables::{Pipeline, Table};
use crate::units::Units;
use crate::{no_flood, regs};

mod answers;
mod fail_mode;
mod footprint;
mod report;

use answers::{Asked, refuse};

/// How often a switch that is not there is looked for.
const RECONNECT: Duration = Duration::from_millis(50);

pub(crate) struct Driver {
    backend: Arc<OvsBackend>,
    time: Time,
    session: Session,
    database: Database,
    links: Links,
    units: Units,
    intent: Option<Arc<Intent>>,
    attachments: Attachments,
    bridge: Option<String>,
    ports: Ports,
    floods: Floods,
    /// Rows that tables take, where Flow_Table:flow_limit says so.
    limits: BTreeMap<Table, u64>,
    status: TargetStatus,
    /// How often something that lists are made of has changed, and what they were made of last.
    changed: u64,
    reported: u64,
    asked: HashMap<u64, (Instant, Asked)>,
    question: u64,
    explained: answers::Explained,
    caches: Caches,
    mode: fail_mode::Mode,
    windows: Windows,
    /// When rows were read back last.
    read_at: Option<Duration>,
    footprint: footprint::Recorded,
    timers: Timers,
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
        Driver {
            time: Time::new(),
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
            intent: None,
            attachments: Attachments::default(),
            bridge: None,
            ports: Ports::default(),
            floods: Floods::default(),
            limits: BTreeMap::new(),
            status: TargetStatus {
                detail: "not connected yet".to_string(),
                ..TargetStatus::default()
            },
            changed: 0,
            reported: 0,
            asked: HashMap::new(),
            caches: Caches::start(Where {
                folder: config.run_dir(),
                socket: config.control_socket.clone(),
            }),
            mode: fail_mode::Mode::default(),
            windows: Windows::default(),
            read_at: None,
            footprint: footprint::Recorded::default(),
            question: 0,
            explained: Vec::new(),
            timers: Timers::new(config.resync_interval),
            backend,
        }
    }

    fn now(&mut self) -> Now {
        self.time.now()
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
                    let intent = context.intents.borrow_and_update().clone();
                    self.take_intent(intent).await;
                }
                bytes = read_some(&mut self.links.switch) => {
                    let now = self.time.now();
                    let got = match bytes {
                        Ok(bytes) => self.session.received(bytes, now).map_err(|e| with_causes(&e)),
                        Err(error) => Err(error.to_string()),
                    };
                    match got {
                        Ok(events) => self.switch_events(events).await,
                        Err(why) => self.switch_lost(&why),
                    }
                }
                bytes = read_some(&mut self.links.database) => {
                    let now = self.time.uptime();
                    let got = match bytes {
                        Ok(bytes) => self.database.received(bytes, now).map_err(|e| with_causes(&e)),
                        Err(error) => Err(error.to_string()),
                    };
                    match got {
                        Ok(events) if events.is_empty() => {}
                        Ok(_) => self.database_changed().await,
                        Err(why) => self.database_lost(&why),
                    }
                }
                Some(progress) = self.caches.progress.recv() => self.caches_progress(progress),
                question = context.queries.recv() => match question {
                    Some(question) => self.query(question),
                    None => return,
                },
                _ = ticks.tick() => self.tick().await,
                () = tokio::time::sleep_until(self.time.instant(self.links.switch_attempts.at())), if self.awaits_switch() => {
                    self.connect_switch().await;
                }
            }
            self.flush();
            self.publish(&context);
            answers::send(&mut self.explained);
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

    async fn tick(&mut self) {
        self.connect_database().await;
        self.connect_switch().await;
        self.transitions().await;
        if self.links.database.is_some() {
            let now = self.time.uptime();
            match self.database.tick(now) {
                Ok(events) if events.is_empty() => {}
                Ok(_) => self.database_changed().await,
                Err(error) => self.database_lost(&with_causes(&error)),
            }
        }
        if self.links.switch.is_some() {
            let now = self.time.uptime();
            if self.timers.is_retry_due(now) {
                self.session.hold(false);
            }
            if self.timers.is_resync_due(now) {
                self.session.read_back();
                if self.floods.problem.is_some() {
                    self.floods.made = None;
                    self.set_floods().await;
                }
            }
            self.fail_mode_tick();
            let now = self.now();
            if let Err(error) = self.session.tick(now) {
                self.switch_lost(&with_causes(&error));
            }
        }
        let target = self.name().to_string();
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (at, _))| at.elapsed() > ANSWERS_WITHIN)
            .map(|(n, _)| *n)
            .collect();
        for asked in late.into_iter().filter_map(|n| self.asked.remove(&n)) {
            let error = QueryError::Timeout {
                target: target.clone(),
                seconds: ANSWERS_WITHIN.as_secs(),
            };
            refuse(asked, error);
        }
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
                self.status.detail = format!("no OVSDB server at {}: {error}", self.backend.config().ovsdb);
            }
        }
    }

    fn database_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the connection to OVSDB");
        self.links.database = None;
        self.links.database_attempts.failed(self.time.uptime());
        self.database.disconnected(self.time.uptime());
        self.status.detail = format!("lost the connection to OVSDB: {why}");
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
            self.status.detail =
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
                self.status.detail = format!("no OpenFlow connection at {}: {error}", path.display());
            }
        }
    }

    fn switch_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the OpenFlow connection");
        self.links.switch = None;
        self.links.switch_attempts.failed(self.time.uptime());
        self.session.disconnected();
        self.floods.made = None;
        self.status.disconnects += 1;
        self.status.detail = format!("lost the OpenFlow connection: {why}");
        let (target, state) = (self.name().to_string(), SessionState::Disconnected);
        for asked in std::mem::take(&mut self.asked).into_values() {
            refuse(
                asked,
                QueryError::NotReady {
                    target: target.clone(),
                    state,
                },
            );
        }
    }

    async fn take_intent(&mut self, intent: Option<Arc<Intent>>) {
        if let Some(intent) = &intent {
            self.attachments = Attachments::new(intent, self.name());
        }
        self.intent = intent;
        self.time.reset_clock();
        self.rebuild().await;
    }

    async fn database_changed(&mut self) {
        self.links.database_attempts.worked();
        let Some(switch) = self.database.snapshot() else {
            return;
        };
        match choose(&switch, self.backend.config()) {
            Ok(bridge) => {
                self.fail_mode_database(&switch, bridge);
                if self.bridge.as_ref() != Some(&bridge.name) {
                    tracing::info!(target = self.name(), bridge = bridge.name, "found the bridge");
                    self.bridge = Some(bridge.name.clone());
                    if self.links.switch.is_some() {
                        self.switch_lost("another bridge is meant now");
                    }
                    self.links.switch_attempts.due_at(self.time.uptime());
                    self.connect_switch().await;
                }
                self.versions(&switch);
            }
            Err(why) => {
                self.status.detail = why.to_string();
                self.bridge = None;
                if self.links.switch.is_some() {
                    self.switch_lost("the bridge is gone");
                    self.status.detail = why.to_string();
                }
            }
        }
        self.rebuild().await;
    }

    /// Sets what the switch shall hold, from the intent and the ports that are there.
    async fn rebuild(&mut self) {
        let (Some(intent), Some(switch)) = (self.intent.clone(), self.database.snapshot()) else {
            return;
        };
        let Some(bridge) = self.bridge.as_ref().and_then(|name| switch.bridges.get(name)) else {
            self.status.wanted = intent.generation;
            return;
        };
        let now = self.now();
        let config = self.backend.config();
        self.ports = resolve(
            &switch,
            bridge,
            &intent,
            &self.attachments,
            config,
            now.wall,
            &self.ports,
        );
        self.too_many_receivers();
        self.changed += 1;
        self.set_floods().await;
        let built = {
            let mut programs = self.backend.programs();
            let built = self.units.build(&intent, &self.ports, &mut programs);
            programs.keep(&[&intent]);
            built
        };
        let pipeline = *self.units.pipeline();
        self.limits = bridge
            .flow_tables
            .iter()
            .filter_map(|(number, table)| Some((pipeline.table(*number)?, table.flow_limit?)))
            .collect();
        match built {
            Ok(desired) if self.overfull(&desired) => {}
            Ok(desired) => {
                self.session.machine.set_desired(intent.generation, desired);
                if let Err(error) = self.session.advance(now) {
                    self.switch_lost(&with_causes(&error));
                }
            }
            Err(error) => self.uncompiled(&error),
        }
    }

    /// Unlocks whose moment has come are closed now. Whoever keeps them says the same with the next intent; whichever is
    /// first, or the switch itself, the others find nothing left to do.
    async fn transitions(&mut self) {
        let wall = self.now().wall;
        let fallen = |ports: &Ports| -> BTreeSet<String> {
            let due = ports.falling().filter(|(_, at)| Duration::from_secs(*at) <= wall);
            due.filter_map(|(port, _)| Some(port.policed()?.endpoint.as_ref()?.to_string()))
                .collect()
        };
        let before = fallen(&self.ports);
        if before.is_empty() {
            return;
        }
        self.rebuild().await;
        let after = fallen(&self.ports);
        for endpoint in before.difference(&after) {
            tracing::info!(
                target = self.name(),
                endpoint,
                "unlocks or bypasses ended: what they opened is closed"
            );
        }
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
                self.changed += 1;
                self.floods.made = Some(wanted);
            }
            Err(error) => {
                let why = with_causes(&error);
                tracing::warn!(target = self.name(), why, "cannot set the flood setting of ports");
                self.floods.problem = Some(why);
                self.changed += 1;
            }
        }
    }

    async fn switch_events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ready(features, version) => {
                    self.links.switch_attempts.worked();
                    self.status
                        .versions
                        .insert("openflow".to_string(), version.to_string());
                    self.status.versions.insert(
                        "datapath_id".to_string(),
                        format!("{:016x}", features.datapath_id),
                    );
                    self.status.detail.clear();
                    self.caches.ask_again();
                    self.timers.connected(self.time.uptime());
                }
                Event::Observed(drift) => {
                    self.mode.missed(drift.missing.len());
                    self.rows_lost();
                    self.fail_mode_observed();
                    self.recall_policed();
                    self.set_floods().await;
                    if !drift.is_empty() {
                        self.drifted(&drift);
                        self.rows_drifted();
                    }
                    self.read_at = Some(self.time.uptime());
                }
                Event::Ended(keys) => self.ended(&keys),
                Event::Confirmed => {
                    self.timers.confirmed();
                    self.status.detail.clear();
                }
                Event::Refused(rows) => self.refused(&rows),
                Event::Removed(count) => self.left_over_removed(count).await,
                Event::FragmentMode(found) => {
                    self.caches.ask_again();
                    self.status.drift_repaired += 1;
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

// The session's errors are shown with their causes; keep that possible.
const _: fn(&SessionError) -> String = |e| with_causes(e);

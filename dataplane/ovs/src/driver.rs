//! The driver: two connections, one intent, one loop. All decisions are made elsewhere, by pure code.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{
    EnforcingRow, Hit, Query, QueryError, Seat, SessionState, TableUse, TargetStatus, Trace,
};
use portcullis_compiler::{CompileError, Intent, Unsupported};
use portcullis_openflow::{FlowStats, Instruction};
use portcullis_ovsdb::{Backoff, Session as Database, SessionConfig, Switch};
use portcullis_policy::Name;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::backend::OvsBackend;
use crate::caches::{self, Progress};
use crate::discover::choose;
use crate::flow::FlowKey;
use crate::io::{Link, read_some};
use crate::ports::{Attachments, Ports, SwitchPort, resolve};
use crate::session::{Event, Session, SessionError};
use crate::tables::{Pipeline, Table, flood};
use crate::units::Units;
use crate::{no_flood, query, regs};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(250);
/// A question is answered or given up after so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Drifted or refused rows named in the log; the rest is counted.
const NAMED: usize = 10;

/// What status says of a daemon with the fault that `caches.rs` describes.
const PURGES: &str = "purged after each change, because this release may update the wrong cached flow; fixed in \
                      2.17.8, 3.0.5, 3.1.3 and 3.2.0";

type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

enum Asked {
    Explain(Vec<FlowKey>, Answer<Vec<EnforcingRow>>),
    Hits(Answer<Vec<Hit>>),
}

pub(crate) struct Driver {
    backend: Arc<OvsBackend>,
    started: Instant,
    session: Session,
    database: Database,
    links: Links,
    units: Units,
    intent: Option<Arc<Intent>>,
    attachments: Attachments,
    bridge: Option<String>,
    ports: Ports,
    floods: Floods,
    status: TargetStatus,
    counted: Option<Instant>,
    asked: HashMap<u64, (Instant, Asked)>,
    question: u64,
    caches: Caches,
    resync_at: Instant,
    retry_at: Option<Instant>,
    retries: u32,
}

/// The two connections and when to try each again.
struct Links {
    database: Option<Link>,
    database_at: Instant,
    database_backoff: Backoff,
    switch: Option<Link>,
    switch_at: Instant,
    switch_backoff: Backoff,
}

/// What the datapath's caches are known to follow.
struct Caches {
    ask: mpsc::UnboundedSender<u64>,
    progress: mpsc::UnboundedReceiver<Progress>,
    /// Rows written when the last request was made.
    writes: [u64; 3],
    /// Number of the last request, and of the last that was answered.
    asked: u64,
    answered: u64,
    /// The newest generation they follow.
    follow: u64,
    problem: Option<String>,
}

impl Caches {
    fn start(folder: Option<std::path::PathBuf>) -> Self {
        let (ask, requests) = mpsc::unbounded_channel();
        let (tell, progress) = mpsc::unbounded_channel();
        if let Some(folder) = folder {
            tokio::spawn(caches::follow(folder, requests, tell));
        }
        Caches {
            ask,
            progress,
            writes: [0; 3],
            asked: 0,
            answered: 0,
            follow: 0,
            problem: None,
        }
    }

    /// The rows of a generation are confirmed, after so many writes. Tells whether the caches follow them.
    fn reached(&mut self, generation: u64, writes: [u64; 3]) -> bool {
        if self.writes != writes {
            self.writes = writes;
            self.asked += 1;
            if self.ask.send(self.asked).is_err() {
                // Nobody can be asked; the status says so.
                self.answered = self.asked;
                self.problem = Some("OVSDB is reached over TCP and `mgmt_dir` is not set".to_string());
            }
        }
        let caught_up = self.answered == self.asked;
        if caught_up {
            self.follow = generation;
        }
        caught_up
    }
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
            opaque: backend.programs().model().opaque_ethertypes,
        };
        let now = Instant::now();
        let backoff = |seed| Backoff::new(Duration::from_millis(100), Duration::from_secs(8), seed);
        Driver {
            started: now,
            session: Session::new(pipeline),
            database: Database::new(SessionConfig::default()),
            links: Links {
                database: None,
                database_at: now,
                database_backoff: backoff(1),
                switch: None,
                switch_at: now,
                switch_backoff: backoff(2),
            },
            units: Units::new(pipeline),
            intent: None,
            attachments: Attachments::default(),
            bridge: None,
            ports: Ports::default(),
            floods: Floods::default(),
            status: TargetStatus {
                detail: "not connected yet".to_string(),
                ..TargetStatus::default()
            },
            counted: None,
            asked: HashMap::new(),
            caches: Caches::start(config.run_dir()),
            question: 0,
            resync_at: now,
            retry_at: None,
            retries: 0,
            backend,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn name(&self) -> &str {
        &self.backend.config().name
    }

    pub(crate) async fn run(mut self, mut seat: Seat) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut intents_open = true;
        loop {
            tokio::select! {
                biased;
                changed = seat.stop.changed() => {
                    if changed.is_err() || *seat.stop.borrow() {
                        return;
                    }
                }
                changed = seat.intents.changed(), if intents_open => {
                    intents_open = changed.is_ok();
                    let intent = seat.intents.borrow_and_update().clone();
                    self.take_intent(intent).await;
                }
                bytes = read_some(&mut self.links.switch) => {
                    let now = self.started.elapsed();
                    let got = match bytes {
                        Ok(bytes) => self.session.received(bytes, now).map_err(|e| explain(&e)),
                        Err(error) => Err(error.to_string()),
                    };
                    match got {
                        Ok(events) => self.switch_events(events).await,
                        Err(why) => self.switch_lost(&why),
                    }
                }
                bytes = read_some(&mut self.links.database) => {
                    let now = self.started.elapsed();
                    let got = match bytes {
                        Ok(bytes) => self.database.received(bytes, now).map_err(|e| explain(&e)),
                        Err(error) => Err(error.to_string()),
                    };
                    match got {
                        Ok(events) if events.is_empty() => {}
                        Ok(_) => self.database_changed().await,
                        Err(why) => self.database_lost(&why),
                    }
                }
                Some(progress) = self.caches.progress.recv() => self.caches_progress(progress),
                question = seat.queries.recv() => match question {
                    Some(question) => self.query(question),
                    None => return,
                },
                _ = ticks.tick() => self.tick().await,
            }
            self.flush();
            self.publish(&seat);
        }
    }

    fn caches_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Nudge => {
                if let Err(error) = self.session.nudge() {
                    self.switch_lost(&explain(&error));
                }
            }
            Progress::Daemon { version, purges } => {
                self.status.versions.insert("vswitchd".to_string(), version);
                let note = if purges { PURGES } else { "" };
                self.status
                    .versions
                    .insert("datapath_caches".to_string(), note.to_string());
                self.status.versions.retain(|_, value| !value.is_empty());
            }
            Progress::Done { request, problem } => {
                self.caches.answered = self.caches.answered.max(request);
                self.caches.problem = problem;
            }
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
        if self.links.database.is_some() {
            let now = self.now();
            match self.database.tick(now) {
                Ok(events) if events.is_empty() => {}
                Ok(_) => self.database_changed().await,
                Err(error) => self.database_lost(&explain(&error)),
            }
        }
        if self.links.switch.is_some() {
            let now = Instant::now();
            if self.retry_at.is_some_and(|at| now >= at) {
                self.retry_at = None;
                self.session.hold(false);
            }
            if now >= self.resync_at {
                self.resync_at = now + self.backend.config().resync_interval;
                self.session.machine.request_resync();
                if self.floods.problem.is_some() {
                    self.floods.made = None;
                    self.set_floods().await;
                }
            }
            let since = self.now();
            if let Err(error) = self.session.tick(since) {
                self.switch_lost(&explain(&error));
            }
        }
        let target = self.name().to_string();
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (at, _))| at.elapsed() > PATIENCE)
            .map(|(n, _)| *n)
            .collect();
        for asked in late.into_iter().filter_map(|n| self.asked.remove(&n)) {
            let error = QueryError::Timeout {
                target: target.clone(),
                seconds: PATIENCE.as_secs(),
            };
            refuse(asked, error);
        }
    }

    async fn connect_database(&mut self) {
        if self.links.database.is_some() || Instant::now() < self.links.database_at {
            return;
        }
        match Link::connect(&self.backend.config().ovsdb).await {
            Ok(link) => {
                self.links.database = Some(link);
                let now = self.now();
                self.database.connected(now);
            }
            Err(error) => {
                self.links.database_at = Instant::now() + self.links.database_backoff.next_wait();
                self.status.detail = format!("no OVSDB server at {}: {error}", self.backend.config().ovsdb);
            }
        }
    }

    fn database_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the connection to OVSDB");
        self.links.database = None;
        self.links.database_at = Instant::now() + self.links.database_backoff.next_wait();
        let now = self.now();
        self.database.disconnected(now);
        self.status.detail = format!("lost the connection to OVSDB: {why}");
    }

    async fn connect_switch(&mut self) {
        let Some(bridge) = self.bridge.clone() else { return };
        if self.links.switch.is_some() || Instant::now() < self.links.switch_at {
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
                let now = self.now();
                if let Err(error) = self.session.connected(now) {
                    self.switch_lost(&explain(&error));
                }
            }
            Err(error) => {
                self.links.switch_at = Instant::now() + self.links.switch_backoff.next_wait();
                self.status.detail = format!("no OpenFlow connection at {}: {error}", path.display());
            }
        }
    }

    fn switch_lost(&mut self, why: &str) {
        tracing::warn!(target = self.name(), why, "lost the OpenFlow connection");
        self.links.switch = None;
        self.links.switch_at = Instant::now() + self.links.switch_backoff.next_wait();
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
            self.attachments = Attachments::of(intent, self.name());
        }
        self.intent = intent;
        self.rebuild().await;
    }

    async fn database_changed(&mut self) {
        self.links.database_backoff.reset();
        let Some(switch) = self.database.snapshot() else {
            return;
        };
        match choose(&switch, self.backend.config()) {
            Ok(bridge) => {
                if self.bridge.as_ref() != Some(&bridge.name) {
                    tracing::info!(target = self.name(), bridge = bridge.name, "found the bridge");
                    self.bridge = Some(bridge.name.clone());
                    if self.links.switch.is_some() {
                        self.switch_lost("another bridge is meant now");
                    }
                    self.links.switch_at = Instant::now();
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

    fn versions(&mut self, switch: &Switch) {
        for (name, value) in [
            ("ovs_version", &switch.ovs_version),
            ("dpdk_version", &switch.dpdk_version),
        ] {
            if let Some(value) = value {
                self.status.versions.insert(name.to_string(), value.clone());
            }
        }
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
        self.ports = resolve(&switch, bridge, &intent, &self.attachments, self.backend.config());
        self.too_many_receivers();
        self.set_floods().await;
        let built = {
            let mut programs = self.backend.programs();
            let built = self.units.build(&intent, &self.ports, &mut programs);
            programs.keep(&[&intent]);
            built
        };
        match built {
            Ok(desired) => {
                self.session.machine.set_desired(intent.generation, desired);
                if let Err(error) = self.session.advance() {
                    self.switch_lost(&explain(&error));
                }
            }
            Err(error) => self.uncompiled(&error),
        }
    }

    fn uncompiled(&mut self, error: &CompileError) {
        tracing::error!(target = self.name(), %error, "an intent cannot be compiled; the old rows stay");
        self.status.detail = error.to_string();
        if let CompileError::Unsupported(value) = error {
            self.ports.unsupported.push(value.clone());
        }
    }

    fn too_many_receivers(&mut self) {
        let receivers = flood::Receivers::of(self.ports.ports.values().filter(|p| p.policed().is_some()));
        for (vid, count) in receivers.too_many() {
            self.ports.unsupported.push(Unsupported {
                target: self.name().to_string(),
                rule: format!("frames to many receivers in VLAN {vid}"),
                table: "flood".to_string(),
                why: format!(
                    "{count} receivers, and Open vSwitch processes {} per packet: those beyond get no broadcasts; \
                     spread the endpoints over VLANs or bridges",
                    flood::MAX_RECEIVERS
                ),
            });
        }
    }

    /// Policed ports are not flooded to by NORMAL; ports that were and no longer are, are again.
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
                self.floods.made = Some(wanted);
            }
            Err(error) => {
                let why = explain(&error);
                tracing::warn!(target = self.name(), why, "cannot set the flood setting of ports");
                self.floods.problem = Some(why);
            }
        }
    }

    async fn switch_events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ready(features, version) => {
                    self.links.switch_backoff.reset();
                    self.status
                        .versions
                        .insert("openflow".to_string(), version.to_string());
                    self.status.versions.insert(
                        "datapath_id".to_string(),
                        format!("{:016x}", features.datapath_id),
                    );
                    self.status.detail.clear();
                    self.resync_at = Instant::now() + self.backend.config().resync_interval;
                }
                Event::Observed(drift) => {
                    self.recall_policed();
                    self.set_floods().await;
                    if !drift.is_empty() {
                        self.drifted(&drift);
                    }
                }
                Event::Confirmed => {
                    self.retries = 0;
                    self.status.detail.clear();
                }
                Event::Refused(rows) => self.refused(&rows),
                Event::FragmentMode(found) => {
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
                Instruction::ApplyActions(actions) => {
                    actions.contains(&portcullis_openflow::Action::set(regs::POLICED, 1u128))
                }
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

    fn drifted(&mut self, drift: &portcullis_backend::machine::Drift<FlowKey>) {
        self.status.drift_repaired += drift.len() as u64;
        let kinds = [
            ("missing", &drift.missing),
            ("altered", &drift.altered),
            ("surplus", &drift.surplus),
        ];
        for (kind, keys) in kinds {
            for key in keys.iter().take(NAMED) {
                let row = crate::flow::text(&key.0, &[]);
                tracing::warn!(
                    target = self.name(),
                    kind,
                    row,
                    "a row had drifted; it is put right"
                );
            }
        }
        tracing::warn!(
            target = self.name(),
            missing = drift.missing.len(),
            altered = drift.altered.len(),
            surplus = drift.surplus.len(),
            "repairing drift"
        );
    }

    fn refused(&mut self, rows: &[crate::session::RefusedRow]) {
        for row in rows.iter().take(NAMED) {
            tracing::error!(
                target = self.name(),
                row = row.row,
                why = row.why,
                "the switch refused a row"
            );
        }
        self.retries = (self.retries + 1).min(6);
        let wait = Duration::from_millis(500) * 2u32.pow(self.retries);
        self.retry_at = Some(Instant::now() + wait);
        let first = rows
            .first()
            .map(|r| format!("{}: {}", r.row, r.why))
            .unwrap_or_default();
        self.status.detail =
            format!("the switch refused {first}; the old rows stay; trying again in {wait:?}");
    }

    fn query(&mut self, question: Query) {
        let not_ready = QueryError::NotReady {
            target: self.name().to_string(),
            state: self.session.machine.state(),
        };
        let ready = self.session.is_ready() && self.session.machine.is_known();
        match question {
            Query::Plan(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Explain(_, answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Hits(answer) if !ready => drop(answer.send(Err(not_ready))),
            Query::Plan(intent, answer) => drop(answer.send(self.plan(&intent))),
            Query::Explain(trace, answer) => self.explain(&trace, answer),
            Query::Hits(answer) => {
                let requests = query::hit_requests(self.units.pipeline());
                self.ask(Asked::Hits(answer), requests);
            }
        }
    }

    fn plan(&self, intent: &Intent) -> Result<portcullis_backend::Plan, QueryError> {
        let Some((switch, name)) = self.database.snapshot().zip(self.bridge.as_ref()) else {
            return Err(QueryError::NotReady {
                target: self.name().to_string(),
                state: SessionState::Disconnected,
            });
        };
        let Some(bridge) = switch.bridges.get(name) else {
            return Err(QueryError::NotReady {
                target: self.name().to_string(),
                state: SessionState::Disconnected,
            });
        };
        let index = Attachments::of(intent, self.name());
        let ports = resolve(&switch, bridge, intent, &index, self.backend.config());
        let mut programs = self.backend.programs();
        Ok(query::plan(
            intent,
            &ports,
            &self.session.machine,
            *self.units.pipeline(),
            &mut programs,
        )?)
    }

    fn not_here(&self, endpoint: &Name) -> QueryError {
        let name = endpoint.to_string();
        let pending = self.ports.pending.iter().find(|p| p.endpoint == name);
        let why = pending.map_or_else(|| "it has no attachment here".to_string(), |p| p.why.clone());
        QueryError::NotHere {
            endpoint: name,
            target: self.name().to_string(),
            why,
        }
    }

    fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        let ports: Vec<SwitchPort> = self.ports.of(&trace.endpoint).into_iter().cloned().collect();
        let Some(intent) = self.intent.clone().filter(|_| !ports.is_empty()) else {
            return drop(answer.send(Err(self.not_here(&trace.endpoint))));
        };
        let mut keys: Vec<FlowKey> = Vec::new();
        for port in &ports {
            let mut programs = self.backend.programs();
            let machine = &self.session.machine;
            match query::trace(
                trace,
                port,
                &intent,
                &mut programs,
                machine,
                self.units.pipeline(),
            ) {
                Ok(more) => keys.extend(more),
                Err(error) => return drop(answer.send(Err(error.into()))),
            }
        }
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        let requests = query::requests(&keys, self.units.pipeline());
        self.ask(Asked::Explain(keys, answer), requests);
    }

    fn ask(&mut self, asked: Asked, requests: Vec<portcullis_openflow::FlowStatsRequest>) {
        self.question += 1;
        self.asked.insert(self.question, (Instant::now(), asked));
        if let Err(error) = self.session.read(self.question, requests) {
            self.switch_lost(&explain(&error));
        }
    }

    fn answer(&mut self, number: u64, rows: Vec<FlowStats>) {
        let Some((_, asked)) = self.asked.remove(&number) else {
            return;
        };
        let pipeline = *self.units.pipeline();
        let seen = query::by_key(rows, &pipeline);
        match asked {
            Asked::Explain(keys, answer) => drop(answer.send(Ok(query::enforcing(&keys, &seen)))),
            Asked::Hits(answer) => {
                let hits = match &self.intent {
                    Some(intent) => {
                        let mut programs = self.backend.programs();
                        query::hits(&seen, intent, &self.ports, &mut programs, &pipeline)
                            .map_err(QueryError::from)
                    }
                    None => Ok(Vec::new()),
                };
                drop(answer.send(hits));
            }
        }
    }

    fn publish(&mut self, seat: &Seat) {
        let machine = &self.session.machine;
        let (wanted, applied) = machine.generations();
        let intent = self.intent.as_ref().map_or(0, |i| i.generation);
        let settled = machine.state() == SessionState::InSync;
        // Counting rows takes a walk over all of them: not at every step of a burst of changes.
        if self.counted.is_none_or(|at| at.elapsed() > TICK) {
            self.counted = Some(Instant::now());
            self.status.tables = tables(machine, self.units.pipeline());
            self.status.foreign_rows = machine.foreign() as u64;
            self.status.pending = self.ports.pending.clone();
            self.status.unsupported = self.unsupported();
            self.status.realized = if settled {
                self.ports.realized
            } else {
                self.status.realized
            };
        }
        let caught_up = settled && self.caches.reached(applied, machine.writes());
        let status = &mut self.status;
        status.state = match machine.state() {
            _ if self.links.switch.is_none() => SessionState::Disconnected,
            SessionState::InSync if !caught_up => SessionState::Applying,
            state => state,
        };
        status.wanted = intent.max(wanted);
        status.confirmed = applied;
        status.applied = self.caches.follow;
        status.writes = machine.writes();
        let conflicts = machine.conflicts();
        if let Some(first) = conflicts
            .first()
            .filter(|_| machine.state() == SessionState::Applying)
        {
            status.detail = format!(
                "{} foreign rows stand where ours belong and are left alone; the first: {}; move them or set first_table",
                conflicts.len(),
                crate::flow::text(&first.0, &[])
            );
        }
        seat.status.send_if_modified(|told| {
            let news = **told != *status;
            if news {
                *told = Arc::new(status.clone());
            }
            news
        });
    }

    fn unsupported(&self) -> Vec<Unsupported> {
        let mut list = self.ports.unsupported.clone();
        if let Some(why) = &self.caches.problem {
            list.push(Unsupported {
                target: self.name().to_string(),
                rule: "flows that are established when a rule changes".to_string(),
                table: "datapath".to_string(),
                why: format!(
                    "it cannot be confirmed when the datapath's caches follow a change ({why}): they do within the \
                     switch's max-revalidator, 500 ms by default"
                ),
            });
        }
        if let Some(why) = &self.floods.problem {
            list.push(Unsupported {
                target: self.name().to_string(),
                rule: "frames that NORMAL floods".to_string(),
                table: "flood".to_string(),
                why: format!(
                    "policed ports cannot be excepted from flooding ({why}): such frames reach them unpoliced"
                ),
            });
        }
        list
    }
}

fn tables(machine: &crate::session::OvsMachine, pipeline: &Pipeline) -> Vec<TableUse> {
    let mut rows: BTreeMap<Table, u64> = BTreeMap::new();
    for key in machine.installed().keys() {
        *rows.entry(key.0.table).or_default() += 1;
    }
    Table::all()
        .map(|table| TableUse {
            table: table.name().to_string(),
            number: Some(u32::from(pipeline.number(table))),
            rows: rows.get(&table).copied().unwrap_or(0),
            size: None,
        })
        .collect()
}

fn refuse(asked: (Instant, Asked), error: QueryError) {
    match asked.1 {
        Asked::Explain(_, answer) => drop(answer.send(Err(error))),
        Asked::Hits(answer) => drop(answer.send(Err(error))),
    }
}

/// An error with its causes, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

// The session's errors are shown with their causes; keep that possible.
const _: fn(&SessionError) -> String = |e| explain(e);

//! A switch in memory: as much of OpenFlow as the session speaks, and rows that end. And the pure part of a backend.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{Footprint, SessionState};
use portcullis_compiler::{ClassId, Compiler, Intent, RowCache, StageModel};
use portcullis_openflow::{
    Action, BundleControl, BundleKind, Command, Features, FlowMod, FlowStats, FlowStatsRequest, Fragments,
    Hello, Instruction, Match, Message, MultipartRequest, ReplyBody, SwitchConfig, Version, decode, encode,
    frame_len,
};
use portcullis_ovs::ports::{Attachments, Ports, resolve};
use portcullis_ovs::session::{Event, Now, Session};
use portcullis_ovs::tables::{Pipeline, Table};
use portcullis_ovs::units::Units;
use portcullis_ovs::{Config, FinalAction, regs};
use portcullis_ovsdb::{Bridge, Interface, Port};
use portcullis_policy::{Direction, Document, Rule};

pub fn pipeline(first: u8, tag: u16) -> Pipeline {
    Pipeline {
        first,
        tag,
        last: FinalAction::Normal,
        opaque: &portcullis_ovs::tables::OPAQUE,
    }
}

/// A rule that allows a port.
pub fn opening(direction: Direction, port: u16) -> Rule {
    let yaml = format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: open, action: allow, direction: {direction}, protocol: tcp, \
         ports: [{port}]}}\n"
    );
    Document::from_yaml(&yaml).unwrap().baseline[0].clone()
}

/// Rows of one part of an answer.
const PART: usize = 200;

type FlowIdentity = (u8, u16, Match);

/// The switch. It has a clock of its own, which is everybody's.
pub struct Switch {
    wall: Duration,
    rows: BTreeMap<FlowIdentity, (FlowMod, Duration)>,
    bundle: Vec<FlowMod>,
    /// It does not get around to removing rows.
    pub lazy: bool,
    /// It takes so long to commit the next bundle.
    pub delay: Option<Duration>,
    /// Bundles that were committed.
    pub commits: usize,
}

impl Switch {
    pub fn at(wall: Duration) -> Self {
        Switch {
            wall,
            rows: BTreeMap::new(),
            bundle: Vec::new(),
            lazy: false,
            delay: None,
            commits: 0,
        }
    }

    pub fn wall(&self) -> Duration {
        self.wall
    }

    pub fn advance(&mut self, time: Duration) {
        self.wall += time;
        if !self.lazy {
            self.expire();
        }
    }

    /// Somebody sets everybody's clock; the switch counts seconds by another.
    pub fn set_clock(&mut self, seconds: i64) {
        let shifted = |t: Duration| {
            let whole = t.as_secs().saturating_add_signed(seconds);
            Duration::new(whole, t.subsec_nanos())
        };
        self.wall = shifted(self.wall);
        for (_, since) in self.rows.values_mut() {
            *since = shifted(*since);
        }
    }

    /// Removes rows whose time is over.
    pub fn expire(&mut self) {
        let wall = self.wall;
        self.rows.retain(|_, (row, since)| {
            row.hard_timeout == 0 || wall < *since + Duration::from_secs(row.hard_timeout.into())
        });
    }

    /// A second that began earlier: every row with a timeout goes.
    pub fn remove_timed(&mut self) {
        self.rows.retain(|_, (row, _)| row.hard_timeout == 0);
    }

    /// Somebody writes the rows with a timeout again without one.
    pub fn make_permanent(&mut self) {
        self.rows.values_mut().for_each(|(row, _)| row.hard_timeout = 0);
    }

    /// Somebody gives every dispatch row this timeout.
    pub fn make_timed(&mut self, seconds: u16) {
        for ((table, ..), (row, since)) in &mut self.rows {
            if [Table::Attach as u8, Table::Deliver as u8].contains(table) {
                (row.hard_timeout, *since) = (seconds, self.wall);
            }
        }
    }

    /// The timeouts of rows that have one.
    pub fn timeouts(&self) -> Vec<u16> {
        let all = self.rows.values().map(|(row, _)| row.hard_timeout);
        all.filter(|t| *t > 0).collect()
    }

    /// The class and the overlay that the endpoint's untagged frames get: by the highest row.
    fn class(&self) -> Option<[ClassId; 2]> {
        let untagged = |m: &Match| {
            m.get(portcullis_openflow::Field::VlanVid)
                .is_some_and(|o| o.value == 0)
                && m.get(portcullis_openflow::Field::InPort).is_some()
        };
        let rows = self
            .rows
            .iter()
            .filter(|((table, _, m), _)| *table == 0 && untagged(m));
        let (_, (row, _)) = rows.max_by_key(|((_, priority, _), _)| *priority)?;
        let sets = |i: &Instruction, register| match i {
            Instruction::ApplyActions(actions) => actions.iter().find_map(|a| match a {
                Action::SetField(oxm) if oxm.field == register => Some(ClassId(oxm.value as u32)),
                _ => None,
            }),
            _ => None,
        };
        Some([regs::CLASS, regs::OVERLAY].map(|register| {
            let mut all = row.instructions.iter();
            all.find_map(|i| sets(i, register)).unwrap_or(ClassId::OPEN)
        }))
    }

    /// Why TCP to a port of others is open to the endpoint: no row of its class drops it, or one of its overlay lets it
    /// pass. One reason, or none.
    ///
    /// The classes here deny single ports, each by a row that is exactly about it.
    pub fn opens(&self, port: u16) -> Vec<String> {
        let Some([class, overlay]) = self.class() else {
            return Vec::new();
        };
        let has = |m: &Match, field, value: u32| m.get(field).is_some_and(|o| o.value == u128::from(value));
        let policy = || {
            self.rows
                .iter()
                .filter(|((table, ..), _)| *table == Table::EgressPolicy as u8)
        };
        let about = policy().filter(|((_, _, m), _)| {
            let ours = has(m, regs::CLASS, class.0) || has(m, regs::OVERLAY, overlay.0);
            ours && has(m, portcullis_openflow::Field::TcpDst, port.into())
        });
        let decides = about.max_by_key(|((_, priority, _), _)| *priority);
        let denies = decides.is_some_and(|(_, (row, _))| row.instructions.is_empty());
        for (register, id) in [(regs::CLASS, class), (regs::OVERLAY, overlay)] {
            assert!(
                id == ClassId::OPEN || policy().any(|((_, _, m), _)| has(m, register, id.0)),
                "a row leads to {register} {id}, which has no rows"
            );
        }
        let why = match overlay {
            ClassId::OPEN => format!("class {class}"),
            overlay => format!("class {overlay}"),
        };
        (!denies).then_some(why).into_iter().collect()
    }

    fn write(&mut self, row: FlowMod) {
        let place = (row.table_id, row.priority, row.match_.clone());
        match row.command {
            Command::Add => {
                self.rows.insert(place, (row, self.wall));
            }
            Command::Delete => {
                let all = portcullis_openflow::flow_mod::ALL_TABLES;
                let meant = |table: u8, cookie: u64| {
                    (row.table_id == all || row.table_id == table)
                        && cookie & row.cookie_mask == row.cookie & row.cookie_mask
                };
                assert!(row.match_.is_empty(), "as much of it as the session speaks");
                self.rows
                    .retain(|(table, ..), (old, _)| !meant(*table, old.cookie));
            }
            Command::DeleteStrict => {
                let ours = |cookie: u64| cookie & row.cookie_mask == row.cookie & row.cookie_mask;
                if self.rows.get(&place).is_some_and(|(old, _)| ours(old.cookie)) {
                    self.rows.remove(&place);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Somebody else writes a row.
    pub fn put(&mut self, row: FlowMod) {
        self.write(row);
    }

    /// Rows of a table: somebody changes or removes some.
    pub fn disturb(&mut self, table: u8, mut change: impl FnMut(usize, &mut FlowMod) -> bool) {
        let mut number = 0;
        self.rows.retain(|(t, ..), (row, _)| {
            if *t != table {
                return true;
            }
            number += 1;
            change(number - 1, row)
        });
    }

    /// Every row: its table and its cookie.
    pub fn cookies(&self) -> Vec<(u8, u64)> {
        self.rows
            .iter()
            .map(|((table, ..), (row, _))| (*table, row.cookie))
            .collect()
    }

    pub fn flows(&self) -> Vec<FlowStats> {
        self.read(&FlowStatsRequest::default())
    }

    /// Rows of a bundle that was not committed yet.
    pub fn waiting(&self) -> usize {
        self.bundle.len()
    }

    /// The bundle is discarded, as when it is refused or its connection ends.
    pub fn forget_bundle(&mut self) {
        self.bundle.clear();
    }

    fn read(&self, request: &FlowStatsRequest) -> Vec<FlowStats> {
        let all = portcullis_openflow::flow_mod::ALL_TABLES;
        let rows = self.rows.iter().filter(|((table, ..), (row, _))| {
            (request.table_id == all || request.table_id == *table)
                && row.cookie & request.cookie_mask == request.cookie & request.cookie_mask
        });
        rows.map(|(_, (row, since))| {
            let age = self.wall - *since;
            FlowStats {
                table_id: row.table_id,
                priority: row.priority,
                hard_timeout: row.hard_timeout,
                cookie: row.cookie,
                duration_sec: age.as_secs() as u32,
                duration_nsec: age.subsec_nanos(),
                match_: row.match_.clone(),
                instructions: row.instructions.clone(),
                ..FlowStats::default()
            }
        })
        .collect()
    }

    /// Rows in messages of at most 64 KiB.
    fn parts(&self, request: &FlowStatsRequest) -> Vec<Message> {
        let rows = self.read(request);
        let count = rows.len().div_ceil(PART).max(1);
        let part = |number: usize| Message::MultipartReply {
            more: number + 1 < count,
            body: ReplyBody::Flow(rows.iter().skip(number * PART).take(PART).cloned().collect()),
        };
        (0..count).map(part).collect()
    }

    /// What it answers to a message.
    pub fn answer(&mut self, message: Message) -> Vec<Message> {
        let answer = match message {
            Message::Hello(_) => Message::Hello(Hello {
                versions: Version::BOTH,
            }),
            Message::FeaturesRequest => Message::FeaturesReply(Features {
                datapath_id: 1,
                n_buffers: 0,
                n_tables: 254,
                auxiliary_id: 0,
                capabilities: 0,
            }),
            Message::GetConfigRequest => Message::GetConfigReply(SwitchConfig {
                fragments: Fragments::NxMatch,
                miss_send_len: 0,
            }),
            Message::MultipartRequest(MultipartRequest::PortDesc { .. }) => Message::MultipartReply {
                more: false,
                body: ReplyBody::PortDesc(Vec::new()),
            },
            Message::MultipartRequest(MultipartRequest::Flow(request)) => {
                return self.parts(&request);
            }
            Message::FlowMod(row) => {
                self.write(row);
                return Vec::new();
            }
            Message::BarrierRequest => Message::BarrierReply,
            Message::EchoRequest(data) => Message::EchoReply(data),
            Message::BundleAdd(add) => {
                let Message::FlowMod(row) = add.message.1 else {
                    panic!("a bundle of rows")
                };
                self.bundle.push(row);
                return Vec::new();
            }
            Message::BundleControl(control) => {
                let kind = match control.kind {
                    BundleKind::OpenRequest => BundleKind::OpenReply,
                    BundleKind::CommitRequest => {
                        if let Some(time) = self.delay.take() {
                            self.advance(time);
                        }
                        self.commits += 1;
                        for row in std::mem::take(&mut self.bundle) {
                            self.write(row);
                        }
                        BundleKind::CommitReply
                    }
                    BundleKind::DiscardRequest => {
                        self.bundle.clear();
                        BundleKind::DiscardReply
                    }
                    other => panic!("{other:?}"),
                };
                Message::BundleControl(BundleControl { kind, ..control })
            }
            _ => return Vec::new(),
        };
        vec![answer]
    }
}

/// What a driver is without its sockets.
pub struct Agent {
    session: Session,
    units: Units,
    programs: RowCache,
    compiler: Compiler,
    intent: Arc<Intent>,
    generation: u64,
    /// Moment of the first transition among the ports.
    transition: Option<u64>,
    pub drift: usize,
    pub ended: usize,
    /// What it said of unlocks that it cannot do.
    pub unsupported: Vec<String>,
    /// Rows of earlier settings that it removed, in so many steps.
    pub removed: Vec<u64>,
}

impl Agent {
    pub fn new(document: &Document) -> Self {
        Self::with(document, pipeline(0, Config::DEFAULT_COOKIE), &[])
    }

    /// With these settings, and what is recorded of earlier ones.
    pub fn with(document: &Document, pipeline: Pipeline, recorded: &[Footprint]) -> Self {
        let mut session = Session::new(pipeline);
        session.remember(recorded);
        let mut compiler = Compiler::default();
        let intent = compiler.resolve(document, 1).unwrap();
        Agent {
            session,
            units: Units::new(pipeline),
            programs: RowCache::new(StageModel::ovs()),
            compiler,
            intent,
            generation: 1,
            transition: None,
            drift: 0,
            ended: 0,
            unsupported: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Rows of others in the tables of the pipeline.
    pub fn foreign(&self) -> usize {
        self.session.machine.foreign()
    }

    pub fn left_over(&self) -> u64 {
        self.session.left_over()
    }

    pub fn state(&self) -> SessionState {
        self.session.machine.state()
    }

    pub fn writes(&self) -> [u64; 3] {
        self.session.machine.writes()
    }

    /// Makes up what shall be there.
    fn build(&mut self, wall: Duration) {
        let interface = Interface {
            name: "web1".to_string(),
            ofport: Some(1),
            ..Interface::default()
        };
        let port = Port {
            name: "web1".to_string(),
            interfaces: BTreeMap::from([("web1".to_string(), interface)]),
            ..Port::default()
        };
        let bridge = Bridge {
            name: "br0".to_string(),
            ports: BTreeMap::from([("web1".to_string(), Arc::new(port))]),
            ..Bridge::default()
        };
        let config = Config::new("ovs", "unix:/nowhere/db.sock");
        let index = Attachments::new(&self.intent, "ovs");
        let switch = portcullis_ovsdb::Switch::default();
        let ports = resolve(
            &switch,
            &bridge,
            &self.intent,
            &index,
            &config,
            wall,
            &Ports::default(),
        );
        let told = ports.resolution.unsupported.iter().map(|u| u.rule.clone());
        self.unsupported = told.filter(|rule| rule.contains("unlocks")).collect();
        let next = ports.policies().filter_map(|policy| policy.transitions.first());
        self.transition = next.map(|transition| transition.at).min();
        let desired = self
            .units
            .build(&self.intent, &ports, &mut self.programs)
            .unwrap();
        self.session.set_desired(self.intent.generation, desired);
    }

    pub fn connect(&mut self, switch: &mut Switch) {
        self.build(switch.wall());
        self.session.connected(now(switch)).unwrap();
        self.exchange(switch);
    }

    /// As after a refusal, until it would be time to try again.
    pub fn hold(&mut self) {
        self.session.hold(true);
    }

    pub fn set(&mut self, document: &Document, switch: &mut Switch) {
        self.generation += 1;
        self.intent = self.compiler.resolve(document, self.generation).unwrap();
        self.build(switch.wall());
        self.session.advance(now(switch)).unwrap();
        self.exchange(switch);
    }

    pub fn die(&mut self) {
        self.session.disconnected();
    }

    /// As the driver's ticks.
    pub fn tick(&mut self, switch: &mut Switch) {
        if self
            .transition
            .is_some_and(|at| Duration::from_secs(at) <= switch.wall())
        {
            self.build(switch.wall());
        }
        // The connection is not what is tried here: it is never silent for long.
        self.session.received(&[], now(switch)).unwrap();
        self.session.tick(now(switch)).unwrap();
        self.exchange(switch);
    }

    pub fn read_back(&mut self, switch: &mut Switch) {
        self.session.read_back();
        self.session.advance(now(switch)).unwrap();
        self.exchange(switch);
    }

    /// Begins to read back, and changes the document when so many pieces were read. Returns the kinds of messages that the
    /// session sent from then on: `read`, `commit`.
    pub fn change_while_reading(
        &mut self,
        switch: &mut Switch,
        pieces: usize,
        document: &Document,
    ) -> Vec<&'static str> {
        self.session.read_back();
        self.session.advance(now(switch)).unwrap();
        let mut sent = Vec::new();
        let mut rounds = 0;
        loop {
            if rounds == pieces {
                self.generation += 1;
                self.intent = self.compiler.resolve(document, self.generation).unwrap();
                self.build(switch.wall());
                self.session.advance(now(switch)).unwrap();
            }
            let asked = self.session.take_output();
            if asked.is_empty() {
                return sent;
            }
            if rounds >= pieces {
                sent.extend(kinds(&asked));
            }
            rounds += 1;
            self.answer(asked, switch);
        }
    }

    fn exchange(&mut self, switch: &mut Switch) {
        loop {
            let asked = self.session.take_output();
            if asked.is_empty() {
                return;
            }
            self.answer(asked, switch);
        }
    }

    fn answer(&mut self, asked: Vec<u8>, switch: &mut Switch) {
        let mut answers = Vec::new();
        let mut rest = asked.as_slice();
        while let Some(length) = frame_len(rest).unwrap() {
            let (header, message) = decode(&rest[..length]).unwrap();
            rest = &rest[length..];
            for answer in switch.answer(message) {
                encode(&answer, Version::V1_5, header.xid, &mut answers).unwrap();
            }
        }
        for event in self.session.received(&answers, now(switch)).unwrap() {
            match event {
                Event::Observed(drift) => self.drift += drift.len(),
                Event::Ended(keys) => self.ended += keys.len(),
                Event::Refused(rows) => panic!("{rows:?}"),
                Event::Removed(count) => self.removed.push(count),
                _ => {}
            }
        }
    }
}

/// What was sent, as far as it matters to the order of reading and writing.
fn kinds(sent: &[u8]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut rest = sent;
    while let Some(length) = frame_len(rest).unwrap() {
        kinds.extend(match decode(&rest[..length]).unwrap().1 {
            Message::MultipartRequest(MultipartRequest::Flow(_)) => Some("read"),
            Message::BundleControl(control) if control.kind == BundleKind::CommitRequest => Some("commit"),
            _ => None,
        });
        rest = &rest[length..];
    }
    kinds
}

fn now(switch: &Switch) -> Now {
    Now {
        uptime: switch.wall(),
        wall: switch.wall(),
    }
}

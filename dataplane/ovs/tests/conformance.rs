//! The conformance suite over the OpenFlow session and a switch in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::memory;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use memory::{Switch, pipeline};
use portcullis_backend::SessionState;
use portcullis_compiler::{Class, Compiler, Intent, RowCache, StageModel};
use portcullis_openflow::{
    Action, BundleKind, ErrorMsg, Field, FlowMod, FlowStats, Instruction, Match, Message, Version, decode,
    encode, frame_len,
};
use portcullis_ovs::ports::{Attachments, Ports, resolve};
use portcullis_ovs::session::{Event, Now, Session};
use portcullis_ovs::tables::{Pipeline, Table};
use portcullis_ovs::units::Units;
use portcullis_ovs::{Config, regs};
use portcullis_ovsdb::{Bridge, Interface, Port};
use portcullis_policy::{Document, Verdict};
use portcullis_testbed::conformance::scene::{FLAGS, REMOTE, REMOTE_MAC, SOURCE_PORT};
use portcullis_testbed::conformance::{Fault, Plan, Probe, Report, Subject, Watch};

const TAG: u16 = Config::DEFAULT_COOKIE;
const OTHER: u16 = 0x7777;
/// Rows of ports that nobody knows yet have this priority in the first table.
const UNKNOWN: u16 = portcullis_ovs::tables::attach::UNKNOWN.lowest;

fn settings() -> Pipeline {
    pipeline(0, TAG)
}

/// A session, its bridge, and what is on the way between them.
struct Ovs {
    switch: Switch,
    session: Session,
    units: Units,
    programs: RowCache,
    compiler: Compiler,
    intent: Option<Arc<Intent>>,
    watch: Watch,
    plan: Plan,
    /// What the bundle meets that is being filled.
    fault: Option<Fault>,
    asked: VecDeque<(u32, Message)>,
    answers: Vec<u8>,
    /// Since then the bridge does not take what it is asked, or nobody hears what it answers.
    held: Option<Fault>,
    executed: u64,
    drift: u64,
}

impl std::fmt::Debug for Ovs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.session.machine.state())
    }
}

/// What a packet shows, and the registers.
type Fields = BTreeMap<Field, u128>;

fn fields(probe: &Probe) -> Fields {
    BTreeMap::from([
        (Field::InPort, u128::from(probe.number())),
        (Field::EthSrc, u128::from(probe.mac())),
        (Field::EthDst, u128::from(REMOTE_MAC)),
        (Field::EthType, 0x0800),
        (Field::IpProto, 6),
        (Field::Ipv4Src, u128::from(u32::from(probe.local()))),
        (Field::Ipv4Dst, u128::from(u32::from(REMOTE))),
        (Field::TcpSrc, u128::from(SOURCE_PORT)),
        (Field::TcpDst, u128::from(probe.port)),
        (Field::TcpFlags, u128::from(FLAGS)),
    ])
}

fn matches(matching: &Match, fields: &Fields) -> bool {
    let met = |field: Field| fields.get(&field).copied().unwrap_or(0);
    matching.opaque().next().is_none()
        && matching
            .iter()
            .all(|o| met(o.field) & o.mask_or_full() == o.value)
}

/// Takes a packet through the tables as OpenFlow says, up to the sender's verdict.
fn meets(rows: &[FlowStats], probe: &Probe) -> Option<Verdict> {
    let mut fields = fields(probe);
    let mut table = 0;
    while table <= Table::EgressPolicy as u8 {
        let here = rows
            .iter()
            .filter(|row| row.table_id == table && matches(&row.match_, &fields));
        let row = here.max_by_key(|row| row.priority);
        let known = row.filter(|row| table > 0 || row.priority > UNKNOWN);
        let Some(row) = known else {
            return (table > 0).then_some(Verdict::Deny);
        };
        let mut next = None;
        for instruction in &row.instructions {
            match instruction {
                Instruction::ApplyActions(actions) => {
                    for action in actions {
                        if let Action::SetField(set) = action {
                            let mask = set.mask_or_full();
                            let value = fields.entry(set.field).or_default();
                            *value = *value & !mask | set.value & mask;
                        }
                    }
                }
                Instruction::GotoTable(number) => next = Some(*number),
                _ => {}
            }
        }
        match next {
            Some(number) => table = number,
            None => return Some(Verdict::Deny),
        }
    }
    Some(Verdict::Allow)
}

fn is_theirs(row: &FlowStats) -> bool {
    regs::tag(row.cookie) == OTHER
}

fn text(row: &FlowStats) -> String {
    let FlowStats {
        table_id,
        priority,
        match_,
        instructions,
        ..
    } = row;
    format!("{table_id} {priority} {match_} {instructions:?}")
}

impl Ovs {
    fn now(&self) -> Now {
        Now {
            uptime: self.switch.wall(),
            wall: self.switch.wall(),
        }
    }

    /// Makes up what shall be there.
    fn build(&mut self) {
        let Some(intent) = self.intent.clone() else { return };
        let port = |(number, name): (u32, &str)| {
            let interface = Interface {
                name: name.to_string(),
                ofport: Some(number),
                ..Interface::default()
            };
            let port = Port {
                name: name.to_string(),
                interfaces: BTreeMap::from([(name.to_string(), interface)]),
                ..Port::default()
            };
            (name.to_string(), Arc::new(port))
        };
        let bridge = Bridge {
            name: "br0".to_string(),
            ports: [(1, "web"), (2, "mail")].into_iter().map(port).collect(),
            ..Bridge::default()
        };
        let config = Config::new("ovs", "unix:/nowhere/db.sock");
        let index = Attachments::new(&intent, "ovs");
        let switch = portcullis_ovsdb::Switch::default();
        let ports = resolve(
            &switch,
            &bridge,
            &intent,
            &index,
            &config,
            self.switch.wall(),
            &Ports::default(),
        );
        let desired = self.units.build(&intent, &ports, &mut self.programs).unwrap();
        self.session.set_desired(intent.generation, desired);
        let now = self.now();
        self.session.advance(now).unwrap();
    }

    fn disconnect(&mut self) {
        self.session.disconnected();
        self.switch.forget_bundle();
        self.asked.clear();
        self.answers.clear();
        (self.held, self.fault) = (None, None);
    }

    /// What the session sent, as messages that wait for the bridge.
    fn take_output(&mut self) -> bool {
        let sent = self.session.take_output();
        let mut rest = sent.as_slice();
        while let Some(length) = frame_len(rest).unwrap() {
            let (header, message) = decode(&rest[..length]).unwrap();
            self.asked.push_back((header.xid, message));
            rest = &rest[length..];
        }
        !sent.is_empty()
    }

    fn answer(&mut self, xid: u32, message: Message) {
        let rows = match &message {
            Message::FlowMod(_) => 1,
            Message::BundleControl(c) if c.kind == BundleKind::CommitRequest => self.switch.waiting(),
            _ => 0,
        };
        for answer in self.switch.answer(message) {
            encode(&answer, Version::V1_5, xid, &mut self.answers).unwrap();
        }
        if rows > 0 {
            self.executed += rows as u64;
            let rows = self.switch.flows();
            self.watch.see(|probe| meets(&rows, probe));
        }
    }

    /// The bridge takes one message; `false` when nothing is left to take.
    fn take(&mut self) -> bool {
        if self.held == Some(Fault::HoldBefore) {
            return false;
        }
        let Some((xid, message)) = self.asked.pop_front() else {
            return false;
        };
        let fault = match &message {
            Message::BundleControl(c) if c.kind == BundleKind::OpenRequest => {
                self.fault = self.plan.due();
                None
            }
            // By turns a row is refused, of which the bridge would commit the rest, and the whole bundle.
            Message::BundleAdd(_) if self.plan.met() % 2 == 1 => self.fault.take_if(|f| *f == Fault::Refuse),
            Message::BundleControl(c) if c.kind == BundleKind::CommitRequest => self.fault.take(),
            _ => None,
        };
        match fault {
            Some(Fault::Refuse) => {
                if matches!(message, Message::BundleControl(_)) {
                    self.switch.forget_bundle();
                }
                let error = Message::Error(ErrorMsg {
                    typ: 17,
                    code: 7,
                    experimenter: None,
                    data: Vec::new(),
                });
                encode(&error, Version::V1_5, xid, &mut self.answers).unwrap();
            }
            Some(Fault::BreakBefore) => self.disconnect(),
            Some(Fault::BreakAfter) => {
                self.answer(xid, message);
                self.disconnect();
            }
            Some(Fault::HoldBefore) => {
                self.asked.push_front((xid, message));
                self.held = fault;
            }
            Some(Fault::Hold) => {
                self.answer(xid, message);
                self.held = fault;
            }
            _ => self.answer(xid, message),
        }
        true
    }

    /// The session hears what was answered.
    fn hear(&mut self) {
        if self.held.is_some() {
            return;
        }
        let answers = std::mem::take(&mut self.answers);
        let now = self.now();
        for event in self.session.received(&answers, now).unwrap() {
            match event {
                Event::Observed(drift) => self.drift += drift.len() as u64,
                Event::Refused(_) => self.session.hold(false),
                _ => {}
            }
        }
        self.session.advance(now).unwrap();
    }

    fn nth(&self, nth: usize) -> Option<FlowStats> {
        let rows = self.switch.flows();
        let ours: Vec<FlowStats> = rows.into_iter().filter(|row| !is_theirs(row)).collect();
        ours.get(nth % ours.len().max(1)).cloned()
    }

    /// Somebody changes a row, or removes it.
    fn disturb(&mut self, row: &FlowStats, mut change: impl FnMut(&mut FlowMod) -> bool) {
        self.switch.disturb(row.table_id, |_, there| {
            let is = there.priority == row.priority && there.match_ == row.match_;
            !is || change(there)
        });
    }

    /// A row about a port that no probe comes from: while ours are not there, it would decide about everybody.
    fn put_beside(&mut self) {
        self.switch.put(FlowMod {
            table_id: 0,
            priority: 77,
            cookie: regs::cookie(OTHER, 1),
            match_: Match::new().exact(Field::InPort, 77u128),
            ..FlowMod::default()
        });
    }

    fn put_in_place(&mut self) {
        let rows = self.switch.flows();
        let of_mail = |row: &&FlowStats| {
            row.table_id == 0
                && row.priority > UNKNOWN
                && matches(&row.match_, &BTreeMap::from([(Field::InPort, 2)]))
                && row.match_.get(Field::InPort).is_some()
        };
        if let Some(row) = rows.iter().filter(of_mail).max_by_key(|row| row.priority) {
            self.disturb(row, |there| {
                there.cookie = regs::cookie(OTHER, 1);
                true
            });
        }
    }
}

impl Subject for Ovs {
    /// TCP loses no answer: what is lost is lost with the connection.
    const LACKS: &'static [Fault] = &[Fault::Lose];
    /// The bridge carries out a bundle as one.
    const BATCHES: usize = 1;
    const HISTORIES: u32 = 60;
    const PATIENCE: usize = 400;

    fn start(watch: Watch) -> Self {
        Ovs {
            switch: Switch::at(Duration::from_secs(1_800_000_000)),
            session: Session::new(settings()),
            units: Units::new(settings()),
            programs: RowCache::new(StageModel::ovs()),
            compiler: Compiler::default(),
            intent: None,
            watch,
            plan: Plan::default(),
            asked: VecDeque::new(),
            answers: Vec::new(),
            fault: None,
            held: None,
            executed: 0,
            drift: 0,
        }
    }

    fn attachment(endpoint: &str) -> String {
        format!("interface: {endpoint}")
    }

    fn set(&mut self, document: &Document, generation: u64) {
        // As the agent does it: classes are edited in place when the target follows, and can.
        let follows = self.session.machine.generations().1 + 1 == generation;
        let programs = std::cell::RefCell::new(&mut self.programs);
        let edits = |old: &Class, new: &Class| follows && programs.borrow_mut().edits(old, new);
        let resolved = self.compiler.resolve_in_place(document, generation, &edits);
        self.intent = Some(resolved.unwrap());
        self.build();
    }

    fn turn(&mut self) {
        if self.session.machine.state() == SessionState::Disconnected {
            let now = self.now();
            self.session.connected(now).unwrap();
            self.build();
        }
        let sent = self.take_output();
        let mut taken = false;
        while self.take() {
            taken = true;
        }
        self.hear();
        if !sent && !taken && self.held.is_none() {
            self.session.read_back();
            let now = self.now();
            self.session.advance(now).unwrap();
        }
    }

    fn read_back(&mut self) {
        self.session.read_back();
        for _ in 0..40 {
            self.turn();
        }
    }

    fn report(&self) -> Report {
        let machine = &self.session.machine;
        let (wanted, applied) = machine.generations();
        Report {
            state: machine.state(),
            wanted,
            applied,
            writes: machine.writes(),
            drift: self.drift,
            foreign: machine.foreign() as u64,
        }
    }

    fn rows(&self) -> BTreeSet<String> {
        let rows = self.switch.flows();
        rows.iter().filter(|row| !is_theirs(row)).map(text).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        let rows = self.switch.flows();
        rows.iter().filter(|row| is_theirs(row)).map(text).collect()
    }

    fn others_leave(&mut self) {
        for row in self.switch.flows().iter().filter(|row| is_theirs(row)) {
            self.disturb(row, |_| false);
        }
    }

    fn executed(&self) -> u64 {
        self.executed
    }

    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        meets(&self.switch.flows(), probe)
    }

    fn fault(&mut self, fault: Fault, nth: usize) -> bool {
        match fault {
            Fault::Lose => return false,
            Fault::Restart => {
                self.switch = Switch::at(self.switch.wall());
                self.disconnect();
            }
            Fault::DeleteRow => {
                if let Some(row) = self.nth(nth) {
                    self.disturb(&row, |_| false);
                }
            }
            Fault::AlterRow => {
                if let Some(row) = self.nth(nth) {
                    self.disturb(&row, |there| {
                        there.instructions = match there.instructions.as_slice() {
                            [] => vec![Instruction::GotoTable(there.table_id + 1)],
                            _ => Vec::new(),
                        };
                        true
                    });
                }
            }
            Fault::ForeignRow => self.put_beside(),
            Fault::ForeignInPlace => self.put_in_place(),
            _ => self.plan.arm(fault, nth),
        }
        true
    }

    fn met(&self) -> u64 {
        self.plan.met()
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    fn release(&mut self) {
        self.plan.disarm();
        (self.held, self.fault) = (None, None);
    }

    fn restart_agent(&mut self) {
        self.disconnect();
        self.session = Session::new(settings());
        self.units = Units::new(settings());
        self.programs = RowCache::new(StageModel::ovs());
        self.drift = 0;
    }
}

portcullis_testbed::conformance!(Ovs, lacks: [Lose]);

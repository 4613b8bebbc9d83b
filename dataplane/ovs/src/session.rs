//! The OpenFlow session: messages in, messages and events out. Pure: no socket, and time is an argument.
//!
//! Hello and version, features, fragment mode, ports; then the [`Machine`] decides what to read and write. A
//! batch is one atomic, ordered bundle: its rows, a barrier, and only when none was refused the commit and
//! another barrier. Open vSwitch commits what is left of a bundle from which it refused rows.

mod errors;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use portcullis_backend::delta::Op;
use portcullis_backend::machine::{Batch, Drift, Machine};
use portcullis_openflow::{
    BundleAdd, BundleControl, BundleKind, Command, Features, FlowMod, FlowStats, FlowStatsRequest, Fragments,
    Hello, Match, Message, MultipartRequest, PortDesc, ReplyBody, SwitchConfig, Version, bundle, decode,
    encode, frame_len,
};

use crate::expiry;
use crate::flow::{FlowBody, FlowKey, SharedPlace, text};
use crate::observe::observe;
use crate::regs;
use crate::tables::{Pipeline, Table};
use crate::units::UnitId;

pub use errors::{RefusedRow, SessionError};

/// The machine of an OVS bridge.
pub type OvsMachine = Machine<UnitId, FlowKey, FlowBody>;

/// An idle connection is probed after so long, and given up after as long again.
const PROBE: Duration = Duration::from_secs(5);
/// In the normal mode first fragments match as if their ports were 0: any port would be open to them.
const CONFIG: SwitchConfig = SwitchConfig {
    fragments: Fragments::NxMatch,
    miss_send_len: 0,
};
/// All rows of a bundle or none, in their order.
const BUNDLE: u16 = bundle::flags::ATOMIC | bundle::flags::ORDERED;
/// Stands where no single row is to blame.
const WHOLE: &str = "the bundle";
/// Refused rows that are named; the rest is counted.
const NAMED_ERRORS: usize = 20;

/// What time it is, as whoever drives the session reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some moment, never going back: how long the other side has been silent.
    pub uptime: Duration,
    /// Since the Unix epoch: when rows end.
    pub wall: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done.
    Ready(Features, Version),
    /// Rows were read back.
    Observed(Drift<FlowKey>),
    /// These rows had ended by themselves, as they were meant to.
    Ended(Vec<FlowKey>),
    /// A batch was confirmed.
    Confirmed,
    /// A batch was refused as a whole; nothing of it happened.
    Refused(Vec<RefusedRow>),
    /// An answer to [`Session::read`].
    Read(u64, Vec<FlowStats>),
    /// Somebody had set the bridge's fragment mode; it is put right.
    FragmentMode(Fragments),
    /// The bridge's ports changed, or are known now.
    Ports,
}

#[derive(Debug)]
enum Purpose {
    Observe,
    Query(u64),
}

#[derive(Debug)]
struct Reading {
    purpose: Purpose,
    since: Duration,
    open: BTreeSet<u32>,
    rows: Vec<FlowStats>,
}

#[derive(Debug)]
struct InFlight {
    bundle: u32,
    /// When rows with an end were written.
    timed: Option<Duration>,
    rows: HashMap<u32, FlowKey>,
    /// The barrier behind the rows, then the one behind the commit.
    barrier: u32,
    commit: Option<u32>,
    committed: bool,
    refused: Vec<RefusedRow>,
}

/// The session of one connection after another.
#[derive(Debug)]
pub struct Session {
    /// What to write next.
    pub machine: OvsMachine,
    pipeline: Pipeline,
    version: Option<Version>,
    input: Vec<u8>,
    output: Vec<u8>,
    xid: u32,
    bundle: u32,
    readings: Vec<Reading>,
    in_flight: Option<InFlight>,
    handshake: BTreeSet<u32>,
    features: Option<Features>,
    ports: Vec<PortDesc>,
    ports_parts: Vec<PortDesc>,
    ports_xid: u32,
    heard: Duration,
    probe: Option<Duration>,
    /// When a row has to be written again because its time runs out before it shall end.
    refresh_at: Option<Duration>,
    held: bool,
}

impl Session {
    /// For a pipeline.
    pub fn new(pipeline: Pipeline) -> Self {
        Session {
            machine: OvsMachine::default(),
            pipeline,
            version: None,
            input: Vec::new(),
            output: Vec::new(),
            xid: 0,
            bundle: 0,
            readings: Vec::new(),
            in_flight: None,
            handshake: BTreeSet::new(),
            features: None,
            ports: Vec::new(),
            ports_parts: Vec::new(),
            ports_xid: 0,
            heard: Duration::ZERO,
            probe: None,
            refresh_at: None,
            held: false,
        }
    }

    /// While held nothing new is read or written: after a refusal, until it is time to try again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The bridge's ports as it describes them.
    pub fn ports(&self) -> &[PortDesc] {
        &self.ports
    }

    /// Takes what is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// A connection exists.
    pub fn connected(&mut self, now: Now) -> Result<(), SessionError> {
        let machine = std::mem::take(&mut self.machine);
        let (xid, bundle) = (self.xid, self.bundle);
        *self = Session {
            machine,
            xid,
            bundle,
            heard: now.uptime,
            ..Session::new(self.pipeline)
        };
        self.machine.connected();
        self.send_as(
            Version::V1_5,
            &Message::Hello(Hello {
                versions: Version::BOTH,
            }),
        )?;
        Ok(())
    }

    /// The connection ended.
    pub fn disconnected(&mut self) {
        self.machine.disconnected();
        self.version = None;
        self.input.clear();
        self.output.clear();
        self.readings.clear();
        self.in_flight = None;
    }

    fn send_as(&mut self, version: Version, message: &Message) -> Result<u32, SessionError> {
        self.xid = self.xid.wrapping_add(1).max(1);
        encode(message, version, self.xid, &mut self.output)?;
        Ok(self.xid)
    }

    fn send(&mut self, message: &Message) -> Result<u32, SessionError> {
        self.send_as(self.version.unwrap_or(Version::V1_5), message)
    }

    /// Bytes arrived. After an error the connection has to be closed.
    pub fn received(&mut self, bytes: &[u8], now: Now) -> Result<Vec<Event>, SessionError> {
        self.heard = now.uptime;
        self.probe = None;
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(length) = frame_len(self.input.get(at..).unwrap_or(&[]))? {
            let Some(frame) = self.input.get(at..at + length) else {
                break;
            };
            let (header, message) = decode(frame)?;
            at += length;
            self.message(header.xid, message, now, &mut events)?;
        }
        self.input.drain(..at);
        self.advance(now)?;
        Ok(events)
    }

    /// Time passed.
    pub fn tick(&mut self, now: Now) -> Result<(), SessionError> {
        let uptime = now.uptime;
        match self.probe {
            Some(since) if uptime >= since + PROBE => {
                return Err(SessionError::Silent(uptime.saturating_sub(self.heard)));
            }
            None if uptime >= self.heard + PROBE => {
                self.probe = Some(uptime);
                self.send(&Message::EchoRequest(Vec::new()))?;
            }
            _ => {}
        }
        // The read-back tells which rows they are.
        if self.refresh_at.take_if(|at| now.wall >= *at).is_some() {
            self.machine.request_resync();
        }
        self.advance(now)
    }

    /// Sends what the machine wants next, if anything: call after changing what is desired.
    pub fn advance(&mut self, now: Now) -> Result<(), SessionError> {
        if self.held {
            return Ok(());
        }
        if self.machine.begin_observation() {
            let requests = Table::all()
                .map(|t| FlowStatsRequest {
                    table_id: self.pipeline.number(t),
                    ..FlowStatsRequest::default()
                })
                .collect();
            self.start_reading(Purpose::Observe, requests, now.wall)?;
            // The fragment mode is the bridge's: anybody may have set it.
            self.send(&Message::GetConfigRequest)?;
        }
        while let Some(batch) = self.machine.next_batch() {
            self.send_batch(&batch, now.wall)?;
        }
        Ok(())
    }

    /// Asks the switch for rows; [`Event::Read`] with this number answers.
    pub fn read(&mut self, number: u64, requests: Vec<FlowStatsRequest>) -> Result<(), SessionError> {
        self.start_reading(Purpose::Query(number), requests, Duration::ZERO)
    }

    /// Writes a row that no packet can meet once more: any write makes the switch check its cached flows now.
    pub fn nudge(&mut self) -> Result<(), SessionError> {
        if !self.is_ready() {
            return Ok(());
        }
        let (generation, _) = self.machine.generations();
        let nowhere = Match::new().exact(regs::FLOOD, u128::from(u32::MAX));
        self.send(&Message::FlowMod(FlowMod {
            table_id: self.pipeline.number(Table::Flood),
            cookie: regs::learned_cookie(self.pipeline.tag) | (generation & regs::GENERATION),
            match_: nowhere,
            ..FlowMod::default()
        }))?;
        Ok(())
    }

    /// Whether questions can be asked.
    pub fn is_ready(&self) -> bool {
        self.version.is_some() && self.handshake.is_empty() && self.features.is_some()
    }

    fn start_reading(
        &mut self,
        purpose: Purpose,
        requests: Vec<FlowStatsRequest>,
        since: Duration,
    ) -> Result<(), SessionError> {
        let mut open = BTreeSet::new();
        for request in requests {
            open.insert(self.send(&Message::MultipartRequest(MultipartRequest::Flow(request)))?);
        }
        self.readings.push(Reading {
            purpose,
            since,
            open,
            rows: Vec::new(),
        });
        Ok(())
    }

    /// A row whose moment has come is removed instead of written: without a timeout it would stay for ever.
    fn flow_mod(&self, op: &Op<FlowKey, FlowBody>, wall: Duration) -> FlowMod {
        let SharedPlace(place) = op.key();
        let base = FlowMod {
            table_id: self.pipeline.number(place.table),
            priority: place.priority,
            match_: place.matching.clone(),
            ..FlowMod::default()
        };
        let written = match op {
            Op::Add(_, body) | Op::Change(_, body) => match body.until {
                None => Some((body, 0)),
                Some(until) => expiry::timeout(until, wall).map(|seconds| (body, seconds)),
            },
            Op::Delete(_) => None,
        };
        match written {
            Some((body, hard_timeout)) => FlowMod {
                command: Command::Add,
                cookie: regs::cookie(self.pipeline.tag, body.generation),
                hard_timeout,
                instructions: body.instructions.to_vec(),
                ..base
            },
            None => FlowMod {
                command: Command::DeleteStrict,
                cookie: regs::cookie(self.pipeline.tag, 0),
                cookie_mask: regs::TAG_MASK,
                ..base
            },
        }
    }

    fn bundle_control(&mut self, bundle_id: u32, kind: BundleKind) -> Result<u32, SessionError> {
        let control = BundleControl {
            bundle_id,
            kind,
            flags: BUNDLE,
        };
        self.send(&Message::BundleControl(control))
    }

    fn send_batch(&mut self, batch: &Batch<FlowKey, FlowBody>, wall: Duration) -> Result<(), SessionError> {
        self.bundle = self.bundle.wrapping_add(1).max(1);
        let bundle_id = self.bundle;
        let version = self.version.unwrap_or(Version::V1_5);
        self.bundle_control(bundle_id, BundleKind::OpenRequest)?;
        let mut rows = HashMap::with_capacity(batch.ops.len());
        let mut timed = None;
        for op in &batch.ops {
            self.xid = self.xid.wrapping_add(1).max(1);
            let inner = Box::new((self.xid, Message::FlowMod(self.flow_mod(op, wall))));
            let add = Message::BundleAdd(BundleAdd {
                bundle_id,
                flags: BUNDLE,
                message: inner,
            });
            encode(&add, version, self.xid, &mut self.output)?;
            rows.insert(self.xid, op.key().clone());
            if let Op::Add(_, FlowBody { until, .. }) | Op::Change(_, FlowBody { until, .. }) = op {
                timed = timed.or(until.map(|_| wall));
                let again = until.and_then(|until| expiry::refresh_at(until, wall));
                self.refresh_at = self.refresh_at.into_iter().chain(again).min();
            }
        }
        let barrier = self.send(&Message::BarrierRequest)?;
        self.in_flight = Some(InFlight {
            bundle: bundle_id,
            timed,
            rows,
            barrier,
            commit: None,
            committed: false,
            refused: Vec::new(),
        });
        Ok(())
    }

    fn message(
        &mut self,
        xid: u32,
        message: Message,
        now: Now,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        match message {
            Message::Hello(hello) => self.hello(&hello)?,
            Message::EchoRequest(data) => {
                let version = self.version.unwrap_or(Version::V1_5);
                encode(&Message::EchoReply(data), version, xid, &mut self.output)?;
            }
            Message::FeaturesReply(features) => {
                self.features = Some(features);
                self.handshake.remove(&xid);
                self.greeted(events);
            }
            Message::GetConfigReply(config) if config.fragments != CONFIG.fragments => {
                self.send(&Message::SetConfig(CONFIG))?;
                events.push(Event::FragmentMode(config.fragments));
            }
            Message::MultipartReply { more, body } => self.reply(xid, more, body, now, events),
            Message::BundleControl(control) if control.kind == BundleKind::CommitReply => {
                if let Some(batch) = self.in_flight.as_mut().filter(|b| b.commit == Some(xid)) {
                    batch.committed = true;
                }
            }
            Message::BarrierReply => self.barrier(xid, now, events)?,
            Message::Error(error) => self.error(xid, &error.explain())?,
            Message::PortStatus(_) => {
                self.ports_parts.clear();
                self.ports_xid = self.send(&Message::MultipartRequest(MultipartRequest::all_ports()))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn hello(&mut self, hello: &Hello) -> Result<(), SessionError> {
        let version = portcullis_openflow::negotiate(Version::BOTH, hello).ok_or(SessionError::Version {
            theirs: hello.versions,
        })?;
        self.version = Some(version);
        let features = self.send(&Message::FeaturesRequest)?;
        self.send(&Message::SetConfig(CONFIG))?;
        let ports = self.send(&Message::MultipartRequest(MultipartRequest::all_ports()))?;
        self.ports_xid = ports;
        self.handshake = BTreeSet::from([features, ports]);
        Ok(())
    }

    fn greeted(&mut self, events: &mut Vec<Event>) {
        if let (true, Some(features), Some(version)) =
            (self.handshake.is_empty(), self.features, self.version)
            && self.machine.state() == portcullis_backend::SessionState::Handshaking
        {
            self.machine.ready();
            events.push(Event::Ready(features, version));
        }
    }

    fn reply(&mut self, xid: u32, more: bool, body: ReplyBody, now: Now, events: &mut Vec<Event>) {
        match body {
            ReplyBody::PortDesc(ports) => {
                // Only the newest question counts; its answer may come in parts.
                if xid == self.ports_xid {
                    self.ports_parts.extend(ports);
                    if !more {
                        self.ports = std::mem::take(&mut self.ports_parts);
                        events.push(Event::Ports);
                    }
                }
                if !more && self.handshake.remove(&xid) {
                    self.greeted(events);
                }
            }
            ReplyBody::Flow(rows) => {
                let Some(at) = self.readings.iter().position(|r| r.open.contains(&xid)) else {
                    return;
                };
                let Some(reading) = self.readings.get_mut(at) else {
                    return;
                };
                reading.rows.extend(rows);
                if !more {
                    reading.open.remove(&xid);
                }
                if reading.open.is_empty() {
                    let reading = self.readings.remove(at);
                    self.finish_reading(reading, now, events);
                }
            }
            _ => {}
        }
    }

    fn finish_reading(&mut self, reading: Reading, now: Now, events: &mut Vec<Event>) {
        match reading.purpose {
            Purpose::Query(number) => events.push(Event::Read(number, reading.rows)),
            Purpose::Observe => {
                let sight = observe(
                    reading.rows,
                    &self.pipeline,
                    &self.machine,
                    [reading.since, now.wall],
                );
                // Rows written since the read-back began have set a time of their own.
                self.refresh_at = self.refresh_at.into_iter().chain(sight.refresh_at).min();
                if !sight.ended.is_empty() {
                    let over =
                        |body: &FlowBody| body.until.is_some_and(|until| expiry::is_due(until, now.wall));
                    self.machine.ended(sight.ended.iter().cloned(), over);
                    events.push(Event::Ended(sight.ended));
                }
                for (key, body) in sight.strayed {
                    self.machine.became(key, body);
                }
                events.push(Event::Observed(self.machine.observed(sight.observed)));
            }
        }
    }

    fn barrier(&mut self, xid: u32, now: Now, events: &mut Vec<Event>) -> Result<(), SessionError> {
        let Some(mut batch) = self.in_flight.take_if(|b| b.barrier == xid) else {
            return Ok(());
        };
        if batch.commit.is_none() && batch.refused.is_empty() {
            batch.commit = Some(self.bundle_control(batch.bundle, BundleKind::CommitRequest)?);
            batch.barrier = self.send(&Message::BarrierRequest)?;
            self.in_flight = Some(batch);
        } else if batch.committed && batch.refused.is_empty() {
            self.machine.acknowledged();
            events.push(Event::Confirmed);
            // The switch counts from when it wrote a row.
            if batch.timed.is_some_and(|sent| expiry::is_slow(sent, now.wall)) {
                self.machine.request_resync();
            }
        } else {
            if batch.commit.is_none() {
                self.bundle_control(batch.bundle, BundleKind::DiscardRequest)?;
            }
            if batch.refused.is_empty() {
                batch.refused.push(RefusedRow {
                    row: WHOLE.to_string(),
                    why: "it was not committed".to_string(),
                });
            }
            self.machine.rejected();
            self.held = true;
            events.push(Event::Refused(batch.refused));
        }
        Ok(())
    }

    fn error(&mut self, xid: u32, why: &str) -> Result<(), SessionError> {
        if let Some(batch) = &mut self.in_flight {
            let known = batch.rows.get(&xid).map(|key| text(&key.0, &[]));
            if known.is_some() || Some(xid) == batch.commit {
                let row = known.unwrap_or_else(|| WHOLE.to_string());
                if batch.refused.len() < NAMED_ERRORS {
                    batch.refused.push(RefusedRow {
                        row,
                        why: why.to_string(),
                    });
                }
                return Ok(());
            }
        }
        let what = if self.handshake.contains(&xid) {
            "the handshake"
        } else {
            "a request"
        };
        Err(SessionError::Refused {
            what,
            why: why.to_string(),
        })
    }
}

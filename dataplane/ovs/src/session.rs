//! The OpenFlow session: messages in, messages and events out. Pure: no socket, and time is an argument.
//!
//! Hello and version, features, fragment mode, ports; then the [`Machine`] decides what to read and write. A
//! batch is one atomic, ordered bundle: its rows, a barrier, and only when none was refused the commit and
//! another barrier. Open vSwitch commits what is left of a bundle from which it refused rows.

mod errors;
pub(crate) mod former;
mod pieces;
mod writing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use portcullis_backend::Now;
use portcullis_backend::machine::{Desired, Drift, Machine};
use portcullis_backend::{Footprint, RefusedRow};
use portcullis_openflow::{
    BundleKind, Features, FlowStats, FlowStatsRequest, Fragments, Hello, Message, MultipartRequest, PortDesc,
    ReplyBody, SwitchConfig, Version, decode, encode, frame_len,
};

use crate::flow::{FlowBody, FlowKey};
use crate::tables::{Pipeline, flood};
use crate::units::UnitId;

pub use errors::SessionError;
use former::Former;
use pieces::Observation;

/// The machine of an OVS bridge.
pub type OvsMachine = Machine<UnitId, FlowKey, FlowBody>;

/// An idle connection is probed after so long, and given up after as long again.
const PROBE: Duration = Duration::from_secs(5);
/// In the normal mode first fragments match as if their ports were 0: any port would be open to them.
const CONFIG: SwitchConfig = SwitchConfig {
    fragments: Fragments::NxMatch,
    miss_send_len: 0,
};

/// What the connection, the switch or the clock tells the session.
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
    /// Rows that were left in tables, or under tags, of earlier settings are gone.
    Removed(u64),
}

#[derive(Debug)]
enum Purpose {
    /// A piece of a read-back.
    Piece,
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
    /// It also removes the rows of tables that have moved.
    moves: bool,
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
    /// Whether rows may be written: what has to be recorded or set first was.
    may_write: bool,
    former: Former,
    observation: Option<Observation>,
    /// Rows in each table of the switch, as they were read last.
    counts: BTreeMap<u8, u64>,
}

impl Session {
    /// A session without a connection; the first is [`Session::connected`].
    pub fn new(pipeline: Pipeline) -> Self {
        Session {
            machine: OvsMachine::atomic(),
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
            may_write: true,
            former: Former::default(),
            observation: None,
            counts: BTreeMap::new(),
        }
    }

    /// Reads the rows back, a piece at a time: no change waits for more than one piece.
    pub fn read_back(&mut self) {
        self.machine.request_resync();
    }

    /// Takes what was recorded of earlier settings on this datapath. Before the connection's first read-back.
    pub fn remember(&mut self, recorded: &[Footprint]) {
        self.former = Former::new(recorded, &self.pipeline);
    }

    /// Whether rows may be written; they are read back all the same.
    pub fn let_write(&mut self, may: bool) {
        self.may_write = may;
    }

    /// Rows of this agent in tables, or under tags, that it no longer uses.
    pub fn left_over(&self) -> u64 {
        self.former.left.values().sum()
    }

    /// Sets the desired rows. They do not wait for the next attempt after a refusal, because they may close something.
    pub fn set_desired(&mut self, generation: u64, desired: Desired<UnitId, FlowKey, FlowBody>) {
        self.held = false;
        self.machine.set_desired(generation, desired);
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

    /// A connection was made: the handshake begins.
    pub fn connected(&mut self, now: Now) -> Result<(), SessionError> {
        let machine = std::mem::take(&mut self.machine);
        let (xid, bundle) = (self.xid, self.bundle);
        *self = Session {
            machine,
            xid,
            bundle,
            may_write: self.may_write,
            former: std::mem::take(&mut self.former),
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

    /// The connection ended; answers to what was sent are lost.
    pub fn disconnected(&mut self) {
        self.machine.disconnected();
        self.version = None;
        self.input.clear();
        self.output.clear();
        self.readings.clear();
        self.observation = None;
        self.former.removing = None;
        if let Some(lost) = self.in_flight.take() {
            self.former.moved |= lost.moves;
        }
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

    /// Time has passed: probes a silent switch, and reads rows back when they are due.
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
            self.read_back();
        }
        self.advance(now)
    }

    /// Sends what the machine wants next, if anything: call after changing what is desired.
    pub fn advance(&mut self, now: Now) -> Result<(), SessionError> {
        if self.held {
            return Ok(());
        }
        self.begin_observation()?;
        if self.may_write {
            while let Some(batch) = self.machine.next_batch() {
                self.send_batch(batch, now.wall)?;
            }
            self.remove_left_over()?;
        }
        self.observe_next(now)
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
        self.send(&Message::FlowMod(flood::nudge(&self.pipeline, generation)))?;
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
            Purpose::Piece => self.finish_piece(reading, now, events),
        }
    }
}

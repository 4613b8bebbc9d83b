//! One connection after another to a database server, and the replica that outlives them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clip::{clip, describe};
use crate::framer::{DEFAULT_MAX_MESSAGE, Framer};
use crate::layout::Layout;
use crate::message::{Message, RemoteError, write_reply, write_request};
use crate::session_error::SessionError;
use crate::switch::Switch;
use crate::tables::{Notation, Tables};
use crate::uuid::Uuid;
use crate::view::View;

/// The id of the one monitor a connection has.
const MONITOR: &str = "portcullis";
/// The id of echo requests.
const ECHO: &str = "echo";
/// The id of a transaction; at most one waits for its answer.
const TRANSACTION: &str = "transaction";

/// Settings of a session, which do not change.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Silence after which the server is asked whether it lives, and then given up. Zero: never.
    pub probe_interval: Duration,
    /// Name of the database.
    pub db: String,
    /// Longest message accepted, in bytes, and most output kept for a server that does not read.
    pub max_message: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(5),
            db: "Open_vSwitch".to_owned(),
            max_message: DEFAULT_MAX_MESSAGE,
        }
    }
}

/// What happened to the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first full state is there.
    Synced,
    /// The replica differs from what it was.
    Changed,
    /// A later connection reached the full state. A [`Event::Changed`] follows if it differs.
    Resumed {
        /// Whether the server sent only what the replica had missed; otherwise it sent everything.
        found: bool,
    },
    /// The transaction was answered: see [`Session::take_outcome`].
    Transacted,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is no connection to the server.
    Disconnected,
    /// Waiting for the schema.
    Schema,
    /// Waiting for the contents.
    Contents,
    /// The replica is complete and follows every change.
    Live,
    /// An error ended the connection, which is to be closed.
    Failed,
}

/// How the server is asked for contents and changes, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    MonitorCondSince,
    MonitorCond,
    Monitor,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::MonitorCondSince => "monitor_cond_since",
            Self::MonitorCond => "monitor_cond",
            Self::Monitor => "monitor",
        }
    }

    fn notification(self) -> &'static str {
        match self {
            Self::MonitorCondSince => "update3",
            Self::MonitorCond => "update2",
            Self::Monitor => "update",
        }
    }

    fn notation(self) -> Notation {
        match self {
            Self::MonitorCondSince | Self::MonitorCond => Notation::Differences,
            Self::Monitor => Notation::Rows,
        }
    }

    fn older(self) -> Option<Self> {
        match self {
            Self::MonitorCondSince => Some(Self::MonitorCond),
            Self::MonitorCond => Some(Self::Monitor),
            Self::Monitor => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    Schema { request: u64 },
    Contents { request: u64, method: Method },
    Live { method: Method },
    Failed,
}

/// What the messages of one read did to the replica.
#[derive(Default)]
struct Batch {
    touched: bool,
    resumed: Option<bool>,
    transacted: bool,
}

/// A session without I/O: bytes and time in, bytes and events out.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    phase: Phase,
    framer: Framer,
    output: Vec<u8>,
    last_request: u64,
    /// Echo requests sent and not answered.
    echoes: u64,
    heard: Duration,
    probed: Option<Duration>,
    layout: Option<Layout>,
    tables: Tables,
    view: View,
    /// The transaction `tables` is current with; zero: unknown, so that everything must be fetched.
    last_transaction: Uuid,
    switch: Option<Arc<Switch>>,
    /// Whether a transaction waits for its answer.
    transacting: bool,
    outcome: Option<Result<i64, String>>,
}

impl Session {
    /// A session without a connection and without a replica.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self {
            framer: Framer::new(config.max_message),
            config,
            phase: Phase::Disconnected,
            output: Vec::new(),
            last_request: 0,
            echoes: 0,
            heard: Duration::ZERO,
            probed: None,
            layout: None,
            tables: Tables::empty(),
            view: View::default(),
            last_transaction: Uuid::ZERO,
            switch: None,
            transacting: false,
            outcome: None,
        }
    }

    /// A connection was made: asks for the schema, then for the contents.
    pub fn connected(&mut self, now: Duration) {
        self.disconnected(now);
        self.heard = now;
        let request = self.request("get_schema", &json!([self.config.db]));
        self.phase = Phase::Schema { request };
    }

    /// The connection is gone. The replica stays, with the transaction from which it can be resumed.
    pub fn disconnected(&mut self, _now: Duration) {
        self.phase = Phase::Disconnected;
        self.framer = Framer::new(self.config.max_message);
        self.output = Vec::new();
        self.last_request = 0;
        self.echoes = 0;
        self.probed = None;
        self.transacting = false;
        self.outcome = None;
    }

    /// Sets `Bridge:fail_mode`, and asks the daemon to tell when that is in effect, as ovs-vsctl does: with a new
    /// `next_cfg`, which the daemon copies to `cur_cfg`. [`Event::Transacted`] answers. Returns whether it was sent: the
    /// session has to be live, and one transaction at a time.
    pub fn set_fail_mode(&mut self, bridge: Uuid, mode: &str) -> bool {
        if !matches!(self.phase, Phase::Live { .. }) || self.transacting {
            return false;
        }
        let params = json!([
            self.config.db,
            {"op": "update", "table": "Bridge", "where": [["_uuid", "==", ["uuid", bridge.to_string()]]],
             "row": {"fail_mode": mode}},
            {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]},
            {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]},
            {"op": "comment", "comment": format!("portcullis: fail_mode={mode}")},
        ]);
        write_request(&mut self.output, &json!(TRANSACTION), "transact", &params);
        self.transacting = true;
        true
    }

    /// What became of the transaction, once: the `next_cfg` that the daemon has to reach, or why it was refused.
    pub fn take_outcome(&mut self) -> Option<Result<i64, String>> {
        self.outcome.take()
    }

    /// Takes bytes as read, in any pieces. The view is derived once per call, however many changes the bytes hold.
    pub fn received(&mut self, bytes: &[u8], now: Duration) -> Result<Vec<Event>, SessionError> {
        if matches!(self.phase, Phase::Disconnected | Phase::Failed) {
            return Err(SessionError::NotConnected);
        }
        if !bytes.is_empty() {
            self.heard = now;
            self.probed = None;
        }
        let outcome = self.process(bytes);
        if outcome.is_err() {
            // The tables may hold half an update: nothing can be resumed from them.
            self.last_transaction = Uuid::ZERO;
            self.phase = Phase::Failed;
        }
        outcome
    }

    /// Lets time pass: asks a silent server whether it lives, and gives it up when it does not answer.
    pub fn tick(&mut self, now: Duration) -> Result<Vec<Event>, SessionError> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return Ok(Vec::new());
        }
        if self.probed.is_some() {
            self.phase = Phase::Failed;
            return Err(SessionError::Unresponsive {
                silent: now.saturating_sub(self.heard),
            });
        }
        self.probed = Some(now);
        self.echoes = self.echoes.saturating_add(1);
        write_request(&mut self.output, &json!(ECHO), "echo", &json!([]));
        Ok(Vec::new())
    }

    /// When to call [`Session::tick`] next, on the caller's clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let interval = self.config.probe_interval;
        let idle = matches!(self.phase, Phase::Disconnected | Phase::Failed) || interval.is_zero();
        if idle {
            None
        } else {
            self.probed.unwrap_or(self.heard).checked_add(interval)
        }
    }

    /// The bytes to send now.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The switch as last seen, kept over a lost connection; `None` until the first full state.
    #[must_use]
    pub fn switch(&self) -> Option<&Switch> {
        self.switch.as_deref()
    }

    /// The same, to keep or hand to another task. A new one is made at every change.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Switch>> {
        self.switch.clone()
    }

    /// Where the session stands. The replica is current in [`Stage::Live`] only.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.phase {
            Phase::Disconnected => Stage::Disconnected,
            Phase::Schema { .. } => Stage::Schema,
            Phase::Contents { .. } => Stage::Contents,
            Phase::Live { .. } => Stage::Live,
            Phase::Failed => Stage::Failed,
        }
    }

    fn request(&mut self, method: &str, params: &Value) -> u64 {
        self.last_request = self.last_request.wrapping_add(1);
        write_request(&mut self.output, &json!(self.last_request), method, params);
        self.last_request
    }

    fn process(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SessionError> {
        let mut batch = Batch::default();
        self.framer.push(bytes);
        while let Some(value) = self.framer.next_value()? {
            match Message::parse(value)? {
                Message::Request { id, method, params } => self.answer(&id, &method, params)?,
                Message::Notification { method, params } => self.notified(&method, params, &mut batch)?,
                Message::Reply { id, outcome } => self.replied(&id, outcome, &mut batch)?,
            }
        }
        Ok(self.publish(&batch))
    }

    fn answer(&mut self, id: &Value, method: &str, params: Value) -> Result<(), SessionError> {
        let outcome = if method == "echo" {
            Ok(params)
        } else {
            Err(RemoteError::UNKNOWN_METHOD)
        };
        write_reply(&mut self.output, id, outcome);
        match self.output.len() {
            bytes if bytes > self.config.max_message => Err(SessionError::OutputFull { bytes }),
            _ => Ok(()),
        }
    }

    /// `locked`, `stolen` and whatever is unknown are not about this session.
    fn notified(&mut self, method: &str, params: Value, batch: &mut Batch) -> Result<(), SessionError> {
        match method {
            "update" | "update2" | "update3" => self.updated(method, params, batch),
            "monitor_canceled" if params.get(0).is_some_and(|id| id == MONITOR) => {
                Err(SessionError::Canceled)
            }
            _ => Ok(()),
        }
    }

    fn updated(&mut self, notification: &str, params: Value, batch: &mut Batch) -> Result<(), SessionError> {
        let id = params.get(0).unwrap_or(&Value::Null);
        let method = match self.phase {
            Phase::Live { method } if id == MONITOR && method.notification() == notification => method,
            _ => {
                let (method, id) = (notification.to_owned(), clip(&id.to_string()));
                return Err(SessionError::UnexpectedUpdate { method, id });
            }
        };
        let (transaction, updates) = match (method, params.as_array().map(Vec::as_slice)) {
            (Method::MonitorCondSince, Some([_, transaction, updates])) => {
                (parse_transaction(transaction)?, updates)
            }
            (Method::MonitorCond | Method::Monitor, Some([_, updates])) => (Uuid::ZERO, updates),
            _ => {
                return Err(SessionError::Malformed {
                    part: "the parameters of an update",
                    expected: "[monitor, updates], with the transaction between them in update3",
                    found: describe(&params),
                });
            }
        };
        self.apply(updates, method.notation())?;
        self.last_transaction = transaction;
        batch.touched = true;
        Ok(())
    }

    fn replied(
        &mut self,
        id: &Value,
        outcome: Result<Value, RemoteError>,
        batch: &mut Batch,
    ) -> Result<(), SessionError> {
        match self.phase {
            _ if id == ECHO && self.echoes > 0 => {
                self.echoes -= 1;
                Ok(())
            }
            _ if id == TRANSACTION && self.transacting => {
                self.transacting = false;
                self.outcome = Some(transacted(outcome));
                batch.transacted = true;
                Ok(())
            }
            Phase::Schema { request } if *id == request => self.schema_replied(outcome),
            Phase::Contents { request, method } if *id == request => {
                self.contents_replied(method, outcome, batch)
            }
            _ => Err(SessionError::UnexpectedReply {
                id: clip(&id.to_string()),
            }),
        }
    }

    fn schema_replied(&mut self, outcome: Result<Value, RemoteError>) -> Result<(), SessionError> {
        let schema = outcome.map_err(|source| match source.error.as_str() {
            "unknown database" => SessionError::UnknownDatabase {
                db: self.config.db.clone(),
            },
            _ => SessionError::Refused {
                method: "get_schema",
                source,
            },
        })?;
        let layout = Layout::parse(&schema)?;
        if self.layout.as_ref() != Some(&layout) {
            // Rows of another layout cannot be resumed.
            self.last_transaction = Uuid::ZERO;
            self.layout = Some(layout);
        }
        self.ask_contents(Method::MonitorCondSince);
        Ok(())
    }

    fn ask_contents(&mut self, method: Method) {
        let requests = self
            .layout
            .as_ref()
            .map(Layout::monitor_requests)
            .unwrap_or_default();
        let params = match method {
            Method::MonitorCondSince => {
                json!([
                    self.config.db,
                    MONITOR,
                    requests,
                    self.last_transaction.to_string()
                ])
            }
            Method::MonitorCond | Method::Monitor => json!([self.config.db, MONITOR, requests]),
        };
        let request = self.request(method.name(), &params);
        self.phase = Phase::Contents { request, method };
    }

    fn contents_replied(
        &mut self,
        method: Method,
        outcome: Result<Value, RemoteError>,
        batch: &mut Batch,
    ) -> Result<(), SessionError> {
        let result = match (outcome, method.older()) {
            (Ok(result), _) => result,
            (Err(error), Some(older)) if error.error == RemoteError::UNKNOWN_METHOD => {
                self.ask_contents(older);
                return Ok(());
            }
            (Err(source), _) => {
                return Err(SessionError::Refused {
                    method: method.name(),
                    source,
                });
            }
        };
        let (found, transaction, contents) = match method {
            Method::MonitorCondSince => parse_since(&result)?,
            Method::MonitorCond | Method::Monitor => (false, Uuid::ZERO, &result),
        };
        // A server cannot find "no transaction"; what it sends then is everything.
        let found = found && !self.last_transaction.is_zero();
        if !found {
            self.tables.clear();
        }
        self.apply(contents, method.notation())?;
        self.last_transaction = transaction;
        self.phase = Phase::Live { method };
        *batch = Batch {
            touched: true,
            resumed: Some(found),
            transacted: batch.transacted,
        };
        Ok(())
    }

    fn apply(&mut self, updates: &Value, notation: Notation) -> Result<(), SessionError> {
        if let Some(layout) = &self.layout {
            self.tables.apply(layout, updates, notation)?;
        }
        Ok(())
    }

    /// Derives the view when rows changed, and tells what that means.
    fn publish(&mut self, batch: &Batch) -> Vec<Event> {
        let mut events = self.derive(batch);
        if batch.transacted {
            events.push(Event::Transacted);
        }
        events
    }

    fn derive(&mut self, batch: &Batch) -> Vec<Event> {
        let Some(layout) = self.layout.as_ref().filter(|_| batch.touched) else {
            return Vec::new();
        };
        let next = self.view.derive(layout, &self.tables);
        let Some(before) = &self.switch else {
            self.switch = Some(Arc::new(next));
            return vec![Event::Synced];
        };
        let mut events: Vec<Event> = batch
            .resumed
            .map(|found| Event::Resumed { found })
            .into_iter()
            .collect();
        if **before != next {
            self.switch = Some(Arc::new(next));
            events.push(Event::Changed);
        }
        events
    }
}

/// The answer to a transaction: one result for each operation, and perhaps an error behind them (RFC 7047, 4.1.3).
fn transacted(outcome: Result<Value, RemoteError>) -> Result<i64, String> {
    let results = outcome.map_err(|error| error.to_string())?;
    let results = results.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(error) = results.iter().find_map(|r| r.get("error")) {
        let details = results.iter().find_map(|r| r.get("details"));
        let text = |value: &Value| clip(value.as_str().unwrap_or("an error without a name"));
        let details = details.map(|d| format!(" ({})", text(d))).unwrap_or_default();
        return Err(format!("{}{details}", text(error)));
    }
    let count = |at: usize| results.get(at).and_then(|r| r.get("count")?.as_i64());
    if count(0) != Some(1) {
        return Err("the bridge is not in the database any more".to_string());
    }
    let selected = results
        .get(2)
        .and_then(|r| r.get("rows")?.get(0)?.get("next_cfg")?.as_i64());
    selected.ok_or_else(|| "the answer does not have the sequence number that was asked for".to_string())
}

/// `[found, last transaction, updates]`.
fn parse_since(result: &Value) -> Result<(bool, Uuid, &Value), SessionError> {
    match result.as_array().map(Vec::as_slice) {
        Some([Value::Bool(found), transaction, updates]) => {
            Ok((*found, parse_transaction(transaction)?, updates))
        }
        _ => Err(SessionError::Malformed {
            part: "the result of monitor_cond_since",
            expected: "[found, transaction, updates]",
            found: describe(result),
        }),
    }
}

fn parse_transaction(value: &Value) -> Result<Uuid, SessionError> {
    let id = value.as_str().and_then(|text| text.parse().ok());
    id.ok_or_else(|| SessionError::Malformed {
        part: "a transaction id",
        expected: "a UUID",
        found: describe(value),
    })
}

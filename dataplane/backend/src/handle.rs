//! The handle the agent holds and the context that the backend works with.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use portcullis_compiler::compilation::Demand;
use portcullis_compiler::model::PacketKind;
use portcullis_compiler::{Class, CompileError, EndpointIntent, Intent, Unsupported};
use portcullis_policy::{Decider, Direction, IpPacket, Name, PerDirection, Policy};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::checkup::Check;
use crate::offload::Offload;
use crate::status::TargetStatus;
use crate::timers::ANSWERS_WITHIN;

/// Queries waiting at most.
const QUEUE: usize = 64;

/// A driver for one datapath: compiles for it and keeps it in step.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What sort it is: `ovs`.
    fn kind(&self) -> &'static str;

    /// Compiles and proves an intent for this target without writing anything. An intent that passes can be
    /// realized as far as rules go.
    fn check(&self, intent: &Intent) -> Result<(), CompileError>;

    /// Whether the rows of a class that this target holds can become those of another class under the same id, each packet
    /// meeting the old verdict or the new one all the while. Where it says no, the class is written anew under another id.
    fn edits(&self, _old: &Class, _new: &Class) -> bool {
        false
    }

    /// The rows that a class takes here, without those that it shares with others; `None` where that is not known.
    fn rows(&self, _class: &Class) -> Option<usize> {
        None
    }

    /// What becomes of a change that leaves a gap here; `None` where every policy is held whole or refused.
    fn on_gap(&self) -> Option<OnGap> {
        None
    }

    /// Rules of a class that are not, or not wholly, enforced here. `None` while the target is not known.
    fn gaps(&self, _class: &Class) -> Option<Vec<Gap>> {
        Some(Vec::new())
    }

    /// What of an endpoint's traffic no row here can be about, because of where it is attached.
    fn place(&self, _endpoint: &EndpointIntent) -> Place {
        Place::default()
    }

    /// Targets nearer to an endpoint that all its traffic here passes, too, so that what is missing here is no gap; none where this is the
    /// nearest.
    fn nearer(&self, _endpoint: &EndpointIntent) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Whether it forwards in hardware, as placement tells it.
    fn is_hardware(&self) -> bool {
        false
    }

    /// Runs until the context says stop: keeps the datapath at the newest intent and answers queries.
    async fn run(self: Arc<Self>, context: TargetContext);
}

/// A rule that a target does not hold wholly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The rule, the table, the reason and what would help.
    pub what: Unsupported,
    /// The kinds of packets that pass.
    pub passes: BTreeSet<PacketKind>,
    /// Whether nothing that the rule denies is denied.
    pub is_all: bool,
}

/// What no row of a target can be about, because of where an endpoint is attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Why no rule is enforced for it.
    pub nothing: Option<Unsupported>,
    /// Why its tagged frames are not judged, on a port where it may send some.
    pub tagged: Option<Unsupported>,
    /// Why no row is about some of its packets of a direction.
    pub lacks: PerDirection<Option<Lack>>,
}

/// Packets of an endpoint that no row of a target can be about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lack {
    /// Whether that is all of its packets of the direction.
    pub is_all: bool,
    /// Why, for people: what the table lacks.
    pub why: String,
}

impl Gap {
    /// Nothing of a rule is enforced.
    pub fn all(what: Unsupported) -> Self {
        let obscure = PacketKind::OBSCURE.into_iter();
        Gap {
            what,
            passes: obscure.chain([PacketKind::Plain, PacketKind::NotIp]).collect(),
            is_all: true,
        }
    }

    /// Nothing is enforced of a policy: each rule that denies something, for one reason.
    pub fn of_policy(policy: &Policy, what: &Unsupported) -> Vec<Self> {
        if !policy.may_deny() {
            return Vec::new();
        }
        let entries = (0u32..)
            .zip(&policy.entries)
            .filter(|(_, entry)| entry.action.denies());
        let rules = entries.map(|(index, _)| Decider::Entry(index));
        let default = policy.default.denies().then_some(Decider::Default);
        let all = rules.chain(default).chain([Decider::Fragment]);
        let names: BTreeSet<String> = all.map(|by| policy.origin(by)).collect();
        let gap = |rule| Gap::all(Unsupported { rule, ..what.clone() });
        names.into_iter().map(gap).collect()
    }

    /// Whether no kind of packets passes that does not pass by another, and something is denied where it denies something.
    pub fn is_within(&self, other: &Self) -> bool {
        self.passes.is_subset(&other.passes) && (other.is_all || !self.is_all)
    }
}

/// What becomes of a change that would leave an endpoint with rules that no target of it holds wholly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnGap {
    /// The change is refused with the rule, the endpoint and the reason; nothing is written.
    #[default]
    Refuse,
    /// It is made, and status lists the gap.
    Report,
}

/// What a backend works with.
#[derive(Debug)]
pub struct TargetContext {
    /// The newest intent; the older ones do not matter.
    pub intents: watch::Receiver<Option<Arc<Intent>>>,
    /// Where it tells how it stands.
    pub status: watch::Sender<Arc<TargetStatus>>,
    /// Questions to answer while the target runs.
    pub queries: mpsc::Receiver<Query>,
    /// Turns true when it shall stop.
    pub stop: watch::Receiver<bool>,
}

/// What an intent would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Plan {
    /// Per table, in pipeline order.
    pub tables: Vec<TablePlan>,
    /// The rows, as `+`, `~` or `-` and the row's text, in the order in which they would be written.
    pub rows: Vec<String>,
    /// Traffic that stops by what the target itself changes, whatever the policy says.
    pub warnings: Vec<String>,
    /// Rules that a table would have no room for, so that nearer targets alone would hold them: `egress baseline/smtp`.
    pub leaves: Vec<String>,
    /// Rules that nearer targets alone hold now, and that it would hold, too.
    pub holds_again: Vec<String>,
}

/// What an intent would change in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct TablePlan {
    /// Name of the table.
    pub table: String,
    /// Rows of ours that it holds now.
    pub now: u64,
    /// Rows to be added.
    pub add: u64,
    /// Rows to be changed.
    pub change: u64,
    /// Rows to be deleted.
    pub delete: u64,
    /// Rows it can hold; unbounded when absent.
    pub size: Option<u64>,
}

/// A packet whose rows are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Endpoint that sends or receives.
    pub endpoint: Name,
    /// Whether the endpoint sends or receives it.
    pub direction: Direction,
    /// The packet from the endpoint's side.
    pub packet: IpPacket,
}

/// A row as the target itself reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnforcingRow {
    /// Table that holds it.
    pub table: String,
    /// The row in the target's own terms.
    pub row: String,
    /// Whether the target holds it.
    pub present: bool,
    /// Packets that hit it; absent where its table does not count.
    pub packets: Option<u64>,
    /// Bytes that hit it; absent like the packets.
    pub bytes: Option<u64>,
}

/// How often a rule decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hit {
    /// Whether it decided about what endpoints send or receive.
    pub direction: Direction,
    /// The rule: `baseline/smtp`, `default/ingress`, `guard/web1`. A class bears the names of one of its members.
    pub rule: String,
    /// What decided, in the policy of the class: finds the names that another member has for it.
    #[serde(skip)]
    pub decider: Option<Decider>,
    /// The class, where the rule decided for one.
    pub class: Option<u32>,
    /// The endpoints of that class on this target.
    pub endpoints: Vec<String>,
    /// Classes that are written as overlays above that class here: it decides about what they leave open.
    #[serde(skip)]
    pub overlays: Arc<BTreeSet<u32>>,
    /// Either `allow` or `deny`.
    pub action: String,
    /// Packets since the rule's rows were written; on some targets, with a delay of seconds.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// Why a query has no answer.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The datapath cannot be asked now.
    #[error("target {target} is {state}: its rows cannot be asked for now; see `portcullis status`")]
    NotReady {
        target: String,
        state: crate::SessionState,
    },
    /// The endpoint is not realized on this target.
    #[error("endpoint {endpoint} is not on target {target}: {why}")]
    NotHere {
        endpoint: String,
        target: String,
        why: String,
    },
    /// The target is a partial point, and leaves the packet to others.
    #[error(
        "target {0} decides nothing about this packet: it is a partial point, which holds a part of the policy and leaves the rest to \
         other targets; see `portcullis status`"
    )]
    Undecided(String),
    /// The target has no flow cache.
    #[error(
        "target {0} caches no flows and has no NICs that could be seen: its tables are the datapath, and `status --placement` says where each rule is"
    )]
    NotCached(String),
    /// The daemon that has the cache cannot be asked.
    #[error("target {target} cannot list the flows that its datapath has cached: {why}")]
    Cache { target: String, why: String },
    /// No table that holds policies counts.
    #[error("target {target} counts no hits: its P4 program has no direct counter at {}", tables.join(", "))]
    NotCounted { target: String, tables: Vec<String> },
    /// The datapath did not answer in time.
    #[error("target {target} did not answer within {seconds} s; see its log")]
    Timeout { target: String, seconds: u64 },
    /// The intent cannot be compiled for this target.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The connection to the datapath ended while it was being asked.
    #[error("target {0} lost its connection before it answered: ask again; see `portcullis status`")]
    Interrupted(String),
    /// The target's task is gone: the agent is stopping.
    #[error("target {0} is stopping")]
    Stopping(String),
}

/// A question to a backend.
#[derive(Debug)]
pub enum Query {
    /// What would this intent change?
    Plan(Arc<Intent>, oneshot::Sender<Result<Plan, QueryError>>),
    /// Which rows decide about this packet?
    Explain(Trace, oneshot::Sender<Result<Vec<EnforcingRow>, QueryError>>),
    /// How often did each rule decide?
    Hits(oneshot::Sender<Result<Vec<Hit>, QueryError>>),
    /// Which cached flows are carried out in hardware?
    Offload(oneshot::Sender<Result<Offload, QueryError>>),
    /// What do the settings of the switch cost policy traffic?
    Checkup(oneshot::Sender<Result<Vec<Check>, QueryError>>),
    /// The packets that each rule denies in a minute. This has no answer.
    Demand(Demand),
}

/// A running target: gives it intents and asks it. Clones share it.
#[derive(Debug, Clone)]
pub struct TargetHandle {
    name: Arc<str>,
    backend: Arc<dyn DynBackend>,
    intents: watch::Sender<Option<Arc<Intent>>>,
    status: watch::Receiver<Arc<TargetStatus>>,
    queries: mpsc::Sender<Query>,
    stop: watch::Sender<bool>,
}

/// [`Backend`] with `Debug`, so that handles have it.
trait DynBackend: Send + Sync {
    fn kind(&self) -> &'static str;
    fn check(&self, intent: &Intent) -> Result<(), CompileError>;
    fn edits(&self, old: &Class, new: &Class) -> bool;
    fn rows(&self, class: &Class) -> Option<usize>;
    fn on_gap(&self) -> Option<OnGap>;
    fn gaps(&self, class: &Class) -> Option<Vec<Gap>>;
    fn place(&self, endpoint: &EndpointIntent) -> Place;
    fn nearer(&self, endpoint: &EndpointIntent) -> BTreeSet<String>;
    fn is_hardware(&self) -> bool;
}

impl<B: Backend> DynBackend for B {
    fn kind(&self) -> &'static str {
        Backend::kind(self)
    }
    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        Backend::check(self, intent)
    }
    fn edits(&self, old: &Class, new: &Class) -> bool {
        Backend::edits(self, old, new)
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        Backend::rows(self, class)
    }

    fn on_gap(&self) -> Option<OnGap> {
        Backend::on_gap(self)
    }

    fn gaps(&self, class: &Class) -> Option<Vec<Gap>> {
        Backend::gaps(self, class)
    }

    fn place(&self, endpoint: &EndpointIntent) -> Place {
        Backend::place(self, endpoint)
    }

    fn nearer(&self, endpoint: &EndpointIntent) -> BTreeSet<String> {
        Backend::nearer(self, endpoint)
    }

    fn is_hardware(&self) -> bool {
        Backend::is_hardware(self)
    }
}

impl std::fmt::Debug for dyn DynBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// Starts a backend's task.
pub fn launch<B: Backend>(name: &str, backend: Arc<B>) -> (TargetHandle, JoinHandle<()>) {
    let (intents, intents_seen) = watch::channel(None);
    let (publish_status, status) = watch::channel(Arc::new(TargetStatus::default()));
    let (queries, queries_asked) = mpsc::channel(QUEUE);
    let (stop, stop_seen) = watch::channel(false);
    let context = TargetContext {
        intents: intents_seen,
        status: publish_status,
        queries: queries_asked,
        stop: stop_seen,
    };
    let task = tokio::spawn(Arc::clone(&backend).run(context));
    (
        TargetHandle {
            name: name.into(),
            backend,
            intents,
            status,
            queries,
            stop,
        },
        task,
    )
}

impl TargetHandle {
    /// Name of the target, as configured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What sort it is.
    pub fn kind(&self) -> &'static str {
        self.backend.kind()
    }

    /// Compiles and proves without writing; see [`Backend::check`].
    pub fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        self.backend.check(intent)
    }

    /// Whether a class can be edited in place here; see [`Backend::edits`].
    pub fn edits(&self, old: &Class, new: &Class) -> bool {
        self.backend.edits(old, new)
    }

    /// The rows that a class takes here; see [`Backend::rows`].
    pub fn rows(&self, class: &Class) -> Option<usize> {
        self.backend.rows(class)
    }

    /// What becomes of a change that leaves a gap here; see [`Backend::on_gap`].
    pub fn on_gap(&self) -> Option<OnGap> {
        self.backend.on_gap()
    }

    /// Rules of a class that are not wholly enforced here; see [`Backend::gaps`].
    pub fn gaps(&self, class: &Class) -> Option<Vec<Gap>> {
        self.backend.gaps(class)
    }

    /// What of an endpoint's traffic no row here can be about; see [`Backend::place`].
    pub fn place(&self, endpoint: &EndpointIntent) -> Place {
        self.backend.place(endpoint)
    }

    /// Targets nearer to an endpoint that all its traffic here passes, too; see [`Backend::nearer`].
    pub fn nearer(&self, endpoint: &EndpointIntent) -> BTreeSet<String> {
        self.backend.nearer(endpoint)
    }

    /// Whether it forwards in hardware; see [`Backend::is_hardware`].
    pub fn is_hardware(&self) -> bool {
        self.backend.is_hardware()
    }

    /// Sets what the datapath shall hold.
    pub fn set_intent(&self, intent: Arc<Intent>) {
        self.intents.send_replace(Some(intent));
    }

    /// The status at this moment.
    pub fn status(&self) -> Arc<TargetStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// A receiver of every change of status.
    pub fn watch(&self) -> watch::Receiver<Arc<TargetStatus>> {
        self.status.clone()
    }

    /// Tells the task to end; await the join handle that [`launch`] gave.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn ask<T>(
        &self,
        query: impl FnOnce(oneshot::Sender<Result<T, QueryError>>) -> Query,
    ) -> Result<T, QueryError> {
        let name = || self.name.to_string();
        let (answer, answered) = oneshot::channel();
        let asked = self.queries.send(query(answer)).await;
        asked.map_err(|_| QueryError::Stopping(name()))?;
        // A question is dropped with the task, or with a connection that ends.
        answered.await.map_err(|_| match self.queries.is_closed() {
            true => QueryError::Stopping(name()),
            false => QueryError::Interrupted(name()),
        })?
    }

    /// A question to the datapath itself, which may never answer.
    async fn ask_datapath<T>(
        &self,
        query: impl FnOnce(oneshot::Sender<Result<T, QueryError>>) -> Query,
    ) -> Result<T, QueryError> {
        let late = |_| QueryError::Timeout {
            target: self.name.to_string(),
            seconds: ANSWERS_WITHIN.as_secs(),
        };
        tokio::time::timeout(ANSWERS_WITHIN, self.ask(query))
            .await
            .map_err(late)?
    }

    /// What would this intent change here?
    pub async fn plan(&self, intent: Arc<Intent>) -> Result<Plan, QueryError> {
        self.ask(|answer| Query::Plan(intent, answer)).await
    }

    /// Which rows decide about this packet, asked back from the datapath?
    pub async fn explain(&self, trace: Trace) -> Result<Vec<EnforcingRow>, QueryError> {
        self.ask_datapath(|answer| Query::Explain(trace, answer)).await
    }

    /// Sends the packets that each rule denies in a minute, by the class ids of the intents. A target without room for every rule holds
    /// those that deny most.
    pub async fn demand(&self, demand: Demand) {
        // A target that is gone holds nothing.
        let _: Result<(), _> = self.queries.send(Query::Demand(demand)).await;
    }

    /// How often did each rule decide?
    pub async fn hits(&self) -> Result<Vec<Hit>, QueryError> {
        self.ask_datapath(Query::Hits).await
    }

    /// Which of the flows that the datapath has cached are carried out in hardware?
    pub async fn offload(&self) -> Result<Offload, QueryError> {
        self.ask_datapath(Query::Offload).await
    }

    /// What do the settings of the switch cost policy traffic?
    pub async fn checkup(&self) -> Result<Vec<Check>, QueryError> {
        self.ask_datapath(Query::Checkup).await
    }
}

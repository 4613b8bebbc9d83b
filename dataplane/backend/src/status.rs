//! Status of a target.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_compiler::{ClassId, Unsupported};
use portcullis_policy::Name;
use serde::Serialize;

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
pub enum SessionState {
    /// No connection to the datapath.
    #[default]
    Disconnected,
    /// Connected; versions and features are being settled.
    Handshaking,
    /// Connected, and the datapath cannot be used as it is: another P4 program, tables that cannot play their part. `detail` says what.
    /// It is looked at again with every read-back.
    Unusable,
    /// Reading back what the datapath holds.
    Observing,
    /// Writing what is missing or different, or deleting rows that no packet meets any more.
    Applying,
    /// The datapath holds what is desired, and no other rows of ours.
    InSync,
}

impl SessionState {
    /// Whether nothing is known of what the datapath holds.
    pub fn is_away(self) -> bool {
        match self {
            SessionState::Disconnected | SessionState::Handshaking | SessionState::Unusable => true,
            SessionState::Observing | SessionState::Applying | SessionState::InSync => false,
        }
    }
}

impl std::fmt::Display for SessionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct TableUse {
    /// Name of the table.
    pub table: String,
    /// Its number on the target, where it has one.
    pub number: Option<u32>,
    /// Rows of ours in it.
    pub rows: u64,
    /// Rows it can hold; unbounded when absent.
    pub size: Option<u64>,
    /// Of these, rows that are kept free once rules were left to nearer targets.
    pub reserve: u64,
}

/// An endpoint that is not realized on this target, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pending {
    /// Name of the endpoint.
    pub endpoint: String,
    /// What it waits for.
    pub why: String,
}

/// A way in which packets pass that the policy would drop, because this agent's rows are not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Exposure {
    /// Its name in metrics: `fail_mode`.
    pub cause: String,
    /// When it is open, and what passes then.
    pub what: String,
    /// The setting or command that closes it.
    pub remedy: String,
    /// Whether it may be open now.
    pub open: bool,
}

/// Rules that a target leaves to those nearer to the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftRules {
    /// By class, under the names that it has for them.
    pub rules: BTreeMap<ClassId, BTreeSet<String>>,
    /// The endpoints that have a nearer target: of others with these classes nothing is left.
    pub endpoints: BTreeSet<Name>,
}

impl LeftRules {
    /// The names of the rules, each once.
    pub fn names(&self) -> BTreeSet<&str> {
        self.rules.values().flatten().map(String::as_str).collect()
    }

    /// Whether a rule of a class is left for an endpoint.
    pub fn has(&self, endpoint: &Name, class: ClassId, rule: &str) -> bool {
        let rules = self.rules.get(&class);
        rules.is_some_and(|rules| rules.contains(rule)) && self.endpoints.contains(endpoint)
    }
}

/// The state of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct TargetStatus {
    /// Where the session stands.
    pub state: SessionState,
    /// What is being waited for, or went wrong last; empty when all is well.
    pub detail: String,
    /// Versions and capabilities by name: `ovs_version`, `dpdk_version`, `openflow`.
    pub versions: BTreeMap<String, String>,
    /// Generation of the newest intent.
    pub wanted: u64,
    /// Generation whose rows the datapath confirmed: new flows meet it. 0 while none is known to be there: without a
    /// connection, and from a loss of rows until all are confirmed again.
    pub confirmed: u64,
    /// Generation that the datapath follows, flows it had cached before included; 0 like `confirmed`, and while it is not
    /// known what cached flows follow.
    pub applied: u64,
    /// Use of each table, in pipeline order.
    pub tables: Vec<TableUse>,
    /// Rows of others in our tables; untouched.
    pub foreign_rows: u64,
    /// Endpoints realized here; 0 without a connection.
    pub realized: u64,
    /// Endpoints that are meant for this target and wait for something.
    pub pending: Vec<Pending>,
    /// What this target cannot do.
    pub unsupported: Vec<Unsupported>,
    /// Rules that are left to targets nearer to the endpoints, because tables have no room.
    #[serde(skip)]
    pub left: LeftRules,
    /// Rows of this agent in tables, or under tags, that it no longer uses; they are removed once the others are in force.
    pub left_over_rows: u64,
    /// Ways in which packets pass without this agent's rows, and what closes them.
    pub exposures: Vec<Exposure>,
    /// Milliseconds in which packets may have passed that the policy denies, by [cause](crate::cause), as far as this process saw
    /// them.
    pub open_millis: BTreeMap<String, u64>,
    /// Rows written since the session began: added, changed and deleted.
    pub writes: [u64; 3],
    /// Rows found missing, altered or left over and put right.
    pub drift_repaired: u64,
    /// Connections to the datapath that ended.
    pub disconnects: u64,
}

impl TargetStatus {
    /// Takes back what cannot be known of a datapath without a session.
    pub fn forget_while_away(&mut self) {
        if self.state.is_away() {
            self.realized = 0;
        }
    }
}

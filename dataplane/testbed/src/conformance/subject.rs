//! What the suite is run against.

use std::collections::BTreeSet;

use portcullis_backend::SessionState;
use portcullis_policy::{Document, Verdict};

use super::{Probe, Watch};

/// What goes wrong in a scenario, at the next batch or at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A batch is refused, as a whole or in part.
    Refuse,
    /// A batch is executed, and its result is lost; the connection stays.
    Lose,
    /// The connection breaks before a batch is executed.
    BreakBefore,
    /// The connection breaks after a batch was executed and before its answer.
    BreakAfter,
    /// A batch is executed, and its answer is held back until it is released.
    Hold,
    /// A batch is on the way and is not executed until it is released.
    HoldBefore,
    /// The datapath restarts with empty tables.
    Restart,
    /// Another program deletes a row of ours.
    DeleteRow,
    /// Another program changes what a row of ours does.
    AlterRow,
    /// Another program writes a row of its own beside ours.
    ForeignRow,
    /// Another program puts a row of its own where the row was that leads `mail` to its class.
    ForeignInPlace,
}

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::Refuse,
        Fault::Lose,
        Fault::BreakBefore,
        Fault::BreakAfter,
        Fault::Hold,
        Fault::HoldBefore,
        Fault::Restart,
        Fault::DeleteRow,
        Fault::AlterRow,
        Fault::ForeignRow,
        Fault::ForeignInPlace,
    ];

    /// Whether it waits for a batch to be written.
    pub fn meets_a_write(self) -> bool {
        self < Fault::Restart
    }
}

/// What a session tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub state: SessionState,
    /// Generation of the newest intent.
    pub wanted: u64,
    /// Generation known to be in force.
    pub applied: u64,
    /// Rows added, changed and deleted since the agent began.
    pub writes: [u64; 3],
    /// Rows found missing, altered or left over since the agent began.
    pub drift: u64,
    /// Rows of others in our tables.
    pub foreign: u64,
}

/// A session and its datapath, with faults. It shows the datapath to its [`Watch`] after every single write.
pub trait Subject: Sized {
    /// The faults that it cannot have.
    const LACKS: &'static [Fault];
    /// Batches in which a change goes out at most.
    const BATCHES: usize = 3;
    /// Random histories that are tried.
    const HISTORIES: u32;
    /// Number of turns after which everything that was begun is over.
    const PATIENCE: usize;

    /// An agent without an intent, and an empty datapath.
    fn start(watch: Watch) -> Self;

    /// The attachment of an endpoint, as documents have it: `port: 1`.
    fn attachment(endpoint: &str) -> String;

    /// Gives the session the newest document; returns at once.
    fn set(&mut self, document: &Document, generation: u64);

    /// Lets the session go on for a while. One that has nothing to do reads the rows back.
    fn turn(&mut self);

    /// Goes on until a read-back is over that began after this moment, where the session can read.
    fn read_back(&mut self);

    /// What the session tells of itself.
    fn report(&self) -> Report;

    /// Our rows on the datapath, without counters and marks.
    fn rows(&self) -> BTreeSet<String>;

    /// The rows of others.
    fn others(&self) -> BTreeSet<String>;

    /// Others remove their rows.
    fn others_leave(&mut self);

    /// Row writes that the datapath carried out.
    fn executed(&self) -> u64;

    /// What the datapath's tables do with a packet; `None` when its port has no rows.
    fn verdict(&self, probe: &Probe) -> Option<Verdict>;

    /// Lets a fault happen: at the `nth` batch from now on, or at once and to the `nth` row. `false`: it cannot have this one.
    fn fault(&mut self, fault: Fault, nth: usize) -> bool;

    /// Batches that met a fault so far.
    fn met(&self) -> u64;

    /// Whether a batch or its answer is held back.
    fn is_held(&self) -> bool;

    /// Lets go of what is held back, and forgets faults that no batch met.
    fn release(&mut self);

    /// A new agent process with the newest document, as far as the datapath can tell.
    fn restart_agent(&mut self);
}

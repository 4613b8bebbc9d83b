//! A launched backend as the suite drives it: its agent without the agent.

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::TargetHandle;
use portcullis_compiler::{Class, Compiler, Intent};
use portcullis_policy::Document;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::Report;

/// How long a turn takes.
const TURN: Duration = Duration::from_millis(2);

/// Starts a backend: [`portcullis_backend::launch`] with its arguments.
pub type Launch = Box<dyn Fn() -> (TargetHandle, JoinHandle<()>)>;

/// A backend's task, and what gives it intents.
pub struct Launched {
    /// Where its task and its datapath run.
    pub runtime: Runtime,
    launch: Launch,
    target: TargetHandle,
    task: Option<JoinHandle<()>>,
    compiler: Compiler,
    intent: Option<Arc<Intent>>,
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?}", self.target.status())
    }
}

impl Launched {
    /// With a runtime of its own.
    pub fn new(runtime: Runtime, launch: Launch) -> Self {
        let (target, task) = runtime.block_on(async { launch() });
        Launched {
            runtime,
            launch,
            target,
            task: Some(task),
            compiler: Compiler::default(),
            intent: None,
        }
    }

    /// Gives the backend a document.
    pub fn set(&mut self, document: &Document, generation: u64) {
        // As the agent does it: classes are edited in place when the target follows, and can.
        let follows = self.target.status().applied + 1 == generation;
        let target = &self.target;
        let edits = |old: &Class, new: &Class| follows && target.edits(old, new);
        let resolved = self.compiler.resolve_in_place(document, generation, &edits);
        let intent = resolved.unwrap_or_else(|error| panic!("{error}"));
        if let Err(error) = self.target.check(&intent) {
            panic!("{error}");
        }
        self.target.set_intent(Arc::clone(&intent));
        self.intent = Some(intent);
    }

    /// Lets the backend run for 2 ms.
    pub fn turn(&self) {
        self.pass(TURN);
    }

    /// Lets the backend run for `time`.
    pub fn pass(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// The target's status, in the suite's terms.
    pub fn report(&self) -> Report {
        let status = self.target.status();
        Report {
            state: status.state,
            wanted: status.wanted,
            applied: status.applied,
            writes: status.writes,
            drift: status.drift_repaired,
            foreign: status.foreign_rows,
        }
    }

    /// Another process with the same intent.
    pub fn restart(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _aborted = self.runtime.block_on(task);
        }
        let launch = &self.launch;
        let (target, task) = self.runtime.block_on(async { launch() });
        if let Some(intent) = &self.intent {
            target.set_intent(Arc::clone(intent));
        }
        (self.target, self.task) = (target, Some(task));
    }
}

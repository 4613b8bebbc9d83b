//! Worker threads that poll queues, pinned to CPUs.

use crate::affinity;
use crate::eal::Eal;
use crate::errno::Errno;
use portcullis_dpdk_sys as sys;
use std::any::Any;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use thiserror::Error;

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The operating system gives no thread.
    #[error("worker {name}: cannot start a thread")]
    Thread {
        /// Name of the worker.
        name: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// There is no such CPU, or this process may not use it.
    #[error(
        "worker {name}: cannot run on CPU {core}: it does not exist, or this process may not use it (taskset -p, cpuset)"
    )]
    Pin {
        /// Name of the worker.
        name: String,
        /// Number of the CPU asked for.
        core: usize,
        /// The error of `sched_setaffinity`.
        #[source]
        source: io::Error,
    },
    /// DPDK knows as many threads as it can.
    #[error("worker {name}: DPDK supports at most {} threads", sys::RTE_MAX_LCORE)]
    Register {
        /// Name of the worker.
        name: String,
        /// What DPDK returned for the registration.
        #[source]
        errno: Errno,
    },
}

/// A worker ended by a panic.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("worker {name} panicked: {message}")]
pub struct WorkerPanic {
    /// Name of the worker.
    pub name: String,
    /// Text of the panic, or a placeholder for a payload that is no text.
    pub message: String,
}

/// A thread that DPDK knows, so that pools keep packets at hand for it. Dropped without [`Worker::join`] it runs on.
#[derive(Debug)]
pub struct Worker<T> {
    name: String,
    lcore: u32,
    thread: JoinHandle<Option<T>>,
}

impl Eal {
    /// Starts a thread that DPDK knows and runs `body` in it, on CPU `core` only when one is given. No other thread's
    /// affinity changes. When this returns, the thread is pinned and registered.
    ///
    /// # Errors
    /// See [`WorkerError`]; `body` did not run then.
    pub fn spawn_worker<T, F>(
        &self,
        name: &str,
        core: Option<usize>,
        body: F,
    ) -> Result<Worker<T>, WorkerError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (report, outcome) = channel();
        let (eal, thread_name) = (self.clone(), name.to_owned());
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(eal, &thread_name, core, &report, body))
            .map_err(|source| WorkerError::Thread {
                name: name.to_owned(),
                source,
            })?;
        match outcome.recv() {
            Ok(Ok(lcore)) => Ok(Worker {
                name: name.to_owned(),
                lcore,
                thread,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(WorkerError::Thread {
                name: name.to_owned(),
                source: io::Error::other("the thread ended too early"),
            }),
        }
    }
}

impl<T> Worker<T> {
    /// Name of the worker and its thread.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// DPDK's number of the thread.
    #[must_use]
    pub fn lcore(&self) -> u32 {
        self.lcore
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end, and gives what it returned.
    ///
    /// # Errors
    /// When it panicked.
    pub fn join(self) -> Result<T, WorkerPanic> {
        let message = match self.thread.join() {
            Ok(Some(value)) => return Ok(value),
            // `spawn_worker` gives no worker whose body does not run.
            Ok(None) => "it never ran".to_owned(),
            Err(payload) => text(payload.as_ref()),
        };
        Err(WorkerPanic {
            name: self.name,
            message,
        })
    }
}

/// What a panic said.
fn text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}

fn run<T>(
    eal: Eal,
    name: &str,
    core: Option<usize>,
    report: &Sender<Result<u32, WorkerError>>,
    body: impl FnOnce() -> T,
) -> Option<T> {
    let registered = pin(name, core).and_then(|()| Registration::new(eal, name));
    match registered {
        Ok(registration) => {
            // The receiver waits for exactly this.
            report.send(Ok(registration.lcore)).ok()?;
            Some(body())
        }
        Err(error) => {
            report.send(Err(error)).ok()?;
            None
        }
    }
}

fn pin(name: &str, core: Option<usize>) -> Result<(), WorkerError> {
    let Some(core) = core else { return Ok(()) };
    affinity::pin(core).map_err(|source| WorkerError::Pin {
        name: name.to_owned(),
        core,
        source,
    })
}

/// The calling thread, known to DPDK until this is dropped, in the same thread.
struct Registration {
    lcore: u32,
    eal: Eal,
}

impl Registration {
    fn new(eal: Eal, name: &str) -> Result<Self, WorkerError> {
        // Before the first cache can exist: see `Pools`.
        eal.pools().worker_starts();
        // SAFETY: DPDK is initialised, as there is an `Eal`.
        let status = unsafe { sys::rte_thread_register() };
        if status != 0 {
            let errno = Errno::last();
            eal.pools().worker_ended();
            return Err(WorkerError::Register {
                name: name.to_owned(),
                errno,
            });
        }
        // SAFETY: reads a variable of the calling thread.
        let lcore = unsafe { sys::pc_lcore_id() };
        Ok(Self { lcore, eal })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Its caches stay with the pools, for the next thread of the same number: what they hold would be out of reach.
        // SAFETY: this thread was registered by `new`; no pool is freed while it counts as a worker.
        unsafe { sys::pc_flush_caches() };
        // SAFETY: as above, and it uses nothing of DPDK as a worker after this.
        unsafe { sys::rte_thread_unregister() };
        self.eal.pools().worker_ended();
    }
}

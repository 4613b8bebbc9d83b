//! Life of EAL, DPDK's environment: initialised once per process on its own thread, cleaned up with its last owner.

use crate::affinity;
use crate::args::{self, EalOptions, OptionError};
use crate::errno::Errno;
use crate::log;
use crate::mempool::Pools;
use portcullis_dpdk_sys as sys;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use thiserror::Error;

/// DPDK initialises once in a process, even after a failure and after it was ended.
static USED: AtomicBool = AtomicBool::new(false);

/// Why DPDK did not start.
#[derive(Debug, Error)]
pub enum EalError {
    /// It started before in this process, or failed to.
    #[error("DPDK was already initialised in this process and can be initialised only once")]
    Again,
    /// The options contradict each other, or one could end the process.
    #[error("DPDK's options are not accepted")]
    Options(#[from] OptionError),
    /// The kernel did not give what is needed before DPDK is even asked.
    #[error("cannot start the thread that initialises DPDK")]
    Thread(#[source] io::Error),
    /// EAL gave an error.
    #[error("DPDK did not initialise{}", log::said(said))]
    Init {
        /// What `rte_eal_init` left in DPDK's errno.
        #[source]
        errno: Errno,
        /// What DPDK logged meanwhile.
        said: Vec<String>,
    },
}

/// DPDK, initialised. Everything else holds a clone; the last one to go ends DPDK and gives its memory back.
///
/// DPDK is initialised by a thread of its own, so that the calling thread keeps its CPU affinity and threads started
/// later inherit no other. The process is never ended from here, with one exception that DPDK leaves no way around: it
/// aborts when `/proc` is not mounted.
///
/// Packets that outlive it keep DPDK's memory mapped: then it is not ended, and a warning says so.
#[derive(Debug, Clone)]
pub struct Eal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    no_pci: bool,
    pools: Mutex<Pools>,
    devices: Mutex<BTreeSet<String>>,
    main: Option<Main>,
}

/// The thread that initialised DPDK, which waits to end it.
#[derive(Debug)]
struct Main {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

/// What the main thread does in the end.
#[derive(Debug)]
enum Order {
    CleanUp,
    Leave,
}

impl Eal {
    /// Initialises DPDK. Once in a process.
    ///
    /// # Errors
    /// See [`EalError`]. After [`EalError::Options`] another try is possible, after the others it is not.
    pub fn init(options: &EalOptions) -> Result<Self, EalError> {
        let cpus = affinity::current().map_err(EalError::Thread)?;
        let arguments = args::arguments(options, &cpus)?;
        if USED.swap(true, Ordering::SeqCst) {
            return Err(EalError::Again);
        }
        let (orders, received) = channel();
        let (report, outcome) = channel();
        let thread = thread::Builder::new()
            .name("dpdk-main".to_owned())
            .spawn(move || main_thread(arguments, &report, &received))
            .map_err(EalError::Thread)?;
        match outcome.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(EalError::Thread(io::Error::other("the thread ended too early"))),
        }
        let shared = Shared {
            no_pci: options.no_pci,
            pools: Mutex::default(),
            devices: Mutex::default(),
            main: Some(Main { orders, thread }),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// DPDK's version, `DPDK 22.11.4`.
    #[must_use]
    pub fn version(&self) -> String {
        // SAFETY: returns a string that lives for ever.
        let version = unsafe { CStr::from_ptr(sys::rte_version()) };
        version.to_string_lossy().into_owned()
    }

    /// Whether PCI devices are left alone.
    pub(crate) fn no_pci(&self) -> bool {
        self.shared.no_pci
    }

    /// Pools without an owner, and the number of threads that have caches.
    pub(crate) fn pools(&self) -> MutexGuard<'_, Pools> {
        lock(&self.shared.pools)
    }

    /// Names of the devices in use. Held while one is attached or detached.
    pub(crate) fn devices(&self) -> MutexGuard<'_, BTreeSet<String>> {
        lock(&self.shared.devices)
    }
}

/// Nothing that is kept behind these locks is left half done by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(main) = self.main.take() else { return };
        // Workers, ports and pools each hold an `Eal`, so that none is left. Packets may be.
        let unmapped = lock(&self.pools).sweep();
        let order = if unmapped { Order::CleanUp } else { Order::Leave };
        if !unmapped {
            tracing::warn!(target: "dpdk", "packets outlive DPDK: its memory stays mapped");
        }
        if main.orders.send(order).is_err() || main.thread.join().is_err() {
            tracing::error!(target: "dpdk", "the thread that ends DPDK is gone");
        }
    }
}

/// Initialises, reports, waits, and ends.
fn main_thread(arguments: Vec<CString>, report: &Sender<Result<(), EalError>>, orders: &Receiver<Order>) {
    let outcome = initialise(arguments);
    let failed = outcome.is_err();
    // The receiver waits for exactly this.
    if report.send(outcome).is_err() || failed {
        return;
    }
    if matches!(orders.recv(), Ok(Order::CleanUp)) {
        // SAFETY: DPDK is initialised, by this thread; nothing of ours uses its memory any longer (see `Shared::drop`).
        let status = unsafe { sys::rte_eal_cleanup() };
        if status != 0 {
            let errno = Errno::from_return_or_last(status);
            tracing::error!(target: "dpdk", "DPDK did not end cleanly: {errno}");
        }
    }
}

fn initialise(arguments: Vec<CString>) -> Result<(), EalError> {
    if !log::redirect() {
        tracing::warn!(target: "dpdk", "the C library gives no stream: DPDK logs to stderr");
    }
    // DPDK keeps pointers into its arguments in some versions: they live as long as the process.
    let arguments: &'static mut [*mut c_char] = arguments
        .into_iter()
        .map(CString::into_raw)
        .collect::<Vec<_>>()
        .leak();
    let count = c_int::try_from(arguments.len()).unwrap_or(c_int::MAX);
    // SAFETY: `arguments` are that many C strings, which live for ever and which nothing else uses.
    let (status, said) = log::listening(|| unsafe { sys::rte_eal_init(count, arguments.as_mut_ptr()) });
    if status < 0 {
        let errno = Errno::last();
        return Err(EalError::Init { errno, said });
    }
    Ok(())
}

//! Ethernet ports: configure, start, stop.
//!
//! ```text
//! Device ─configure─▶ Port<Stopped> ─start─▶ Running { Port<Started>, RxQueue…, TxQueue… }
//!    ▲                   │    ▲                  │
//!    └───into_device─────┘    └──stop, with the queues
//! ```
//!
//! A started port is stopped when the port, its queues and its flow rules are gone, in whichever order; a port is closed
//! after that, and its device detached after its last port.

use crate::config::Granted;
use crate::device::{Core, Device};
use crate::errno::{Errno, check};
use crate::info::{DeviceInfo, MacAddress};
use crate::queue::{RxQueue, TxQueue, discard_received};
use crate::stats::{self, Link, Stats};
use portcullis_dpdk_sys as sys;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// State of a [`Port`]: configured, moves no packets.
#[derive(Debug)]
pub struct Stopped {
    core: Arc<Core>,
}

/// State of a [`Port`]: moves packets, through its queues.
#[derive(Debug)]
pub struct Started {
    run: Arc<Run>,
}

/// A started port, stopped when dropped: by the last of the port, its queues and its rules.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) core: Arc<Core>,
    rx_queues: u16,
}

/// What a port can be: [`Stopped`] or [`Started`].
pub trait State: sealed::Sealed + fmt::Debug {
    #[doc(hidden)]
    fn core(&self) -> sealed::CoreRef<'_>;
}

mod sealed {
    /// Keeps others from adding states.
    pub trait Sealed {}
    impl Sealed for super::Stopped {}
    impl Sealed for super::Started {}

    /// The open port, for this crate only.
    #[derive(Debug)]
    pub struct CoreRef<'a>(pub(crate) &'a std::sync::Arc<super::Core>);
}

impl State for Stopped {
    fn core(&self) -> sealed::CoreRef<'_> {
        sealed::CoreRef(&self.core)
    }
}

impl State for Started {
    fn core(&self) -> sealed::CoreRef<'_> {
        sealed::CoreRef(&self.run.core)
    }
}

/// A configured port. Counters, link and address can be read in both states, and by any thread while others move packets.
#[derive(Debug)]
pub struct Port<S: State> {
    state: S,
    granted: Granted,
}

/// A port that moves packets, and its queues.
#[derive(Debug)]
pub struct Running {
    /// The started port: counters, link and flow rules.
    pub port: Port<Started>,
    /// Its receive queues, in order.
    pub rx: Vec<RxQueue>,
    /// Its send queues, in order.
    pub tx: Vec<TxQueue>,
}

/// Why a port does not do what it was asked for.
#[derive(Debug, Error)]
#[error("port {port}: {step}")]
pub struct PortError {
    /// Name of the device.
    pub port: String,
    /// What it does not do.
    pub step: &'static str,
    /// What DPDK returned for that step.
    #[source]
    pub errno: Errno,
}

/// Why a port was not stopped. It moves packets as before.
#[derive(Debug, Error)]
#[error("port {} is in use: a queue or flow rule of it is still there", port.name())]
pub struct StillInUse {
    /// The port that still runs.
    pub port: Port<Started>,
}

impl Port<Stopped> {
    pub(crate) fn stopped(core: Arc<Core>, granted: Granted) -> Self {
        Self {
            state: Stopped { core },
            granted,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the driver refuses. The port is closed then.
    pub fn start(self) -> Result<Running, PortError> {
        // SAFETY: the port is configured and stopped.
        let started = check(unsafe { sys::rte_eth_dev_start(self.id()) });
        started.map_err(self.fail("it does not start"))?;
        let run = Arc::new(Run {
            core: self.state.core,
            rx_queues: self.granted.rx_queues,
        });
        let rx = (0..self.granted.rx_queues).map(|queue| RxQueue::new(&run, queue));
        let tx = (0..self.granted.tx_queues).map(|queue| TxQueue::new(&run, queue));
        Ok(Running {
            rx: rx.collect(),
            tx: tx.collect(),
            port: Port {
                state: Started { run },
                granted: self.granted,
            },
        })
    }

    /// The device, to be configured anew.
    #[must_use]
    pub fn into_device(self) -> Device {
        Device {
            core: self.state.core,
        }
    }
}

impl Port<Started> {
    /// Stops it. All of its queues have to be given back, and its flow rules dropped before.
    ///
    /// # Errors
    /// When a queue or a rule is somewhere else. The queues given back are gone also then.
    pub fn stop(self, rx: Vec<RxQueue>, tx: Vec<TxQueue>) -> Result<Port<Stopped>, StillInUse> {
        drop((rx, tx));
        let granted = self.granted;
        match Arc::try_unwrap(self.state.run) {
            Ok(run) => Ok(Port::stopped(Arc::clone(&run.core), granted)),
            Err(run) => Err(StillInUse {
                port: Port {
                    state: Started { run },
                    granted,
                },
            }),
        }
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.state.run
    }
}

impl<S: State> Port<S> {
    fn core(&self) -> &Core {
        self.state.core().0
    }

    fn fail(&self, step: &'static str) -> impl Fn(Errno) -> PortError + use<S> {
        let port = self.name().to_owned();
        move |errno| PortError {
            port: port.clone(),
            step,
            errno,
        }
    }

    /// DPDK's number of the port: [`Mbuf::port`](crate::Mbuf::port) of what it receives.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.core().port
    }

    /// Name of the device: its PCI address, or its virtual name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core().info.name
    }

    /// What the device is and can do.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.core().info
    }

    /// What it got of what was asked for.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// Its address now.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn mac(&self) -> Result<MacAddress, PortError> {
        crate::info::mac(self.id()).map_err(self.fail("it does not tell its address"))
    }

    /// Bytes of the Ethernet payload, now.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn mtu(&self) -> Result<u16, PortError> {
        let mut mtu = 0;
        // SAFETY: `mtu` is writable, and the port is open.
        check(unsafe { sys::rte_eth_dev_get_mtu(self.id(), &raw mut mtu) })
            .map_err(self.fail("it does not tell its MTU"))?;
        Ok(mtu)
    }

    /// Its link now, without waiting for one.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn link(&self) -> Result<Link, PortError> {
        stats::link(self.id()).map_err(self.fail("it does not tell its link"))
    }

    /// What it counted since it was started or [`Port::reset_stats`].
    ///
    /// # Errors
    /// When the driver does not count.
    pub fn stats(&self) -> Result<Stats, PortError> {
        stats::stats(self.id()).map_err(self.fail("it does not tell its counters"))
    }

    /// Sets what it counted to zero.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn reset_stats(&self) -> Result<(), PortError> {
        // SAFETY: the port is open.
        let reset = check(unsafe { sys::rte_eth_stats_reset(self.id()) });
        reset
            .map(drop)
            .map_err(self.fail("it does not reset its counters"))
    }

    /// Everything that its driver counts, by the driver's own names.
    ///
    /// # Errors
    /// When the driver does not count.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, PortError> {
        stats::xstats(self.id()).map_err(self.fail("it does not tell its extended counters"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let core = &self.core;
        if core.info.driver == "net_ring" {
            // This driver frees its ring and forgets the packets in it.
            (0..self.rx_queues).for_each(|queue| discard_received(core.port, queue));
        }
        // SAFETY: the port is started, and neither queues nor rules of it are left, as those hold this.
        let stopped = check(unsafe { sys::rte_eth_dev_stop(core.port) });
        stopped.map_or_else(core.failed("it does not stop"), drop);
    }
}

//! Safe layer over DPDK: ownership of packets, life of ports and queues, EAL and worker threads as types.
//!
//! ```text
//! Eal::init ─┬▶ Mempool ──────────────┬▶ Mbuf, Burst
//!            ├▶ Device::probe ─configure▶ Port<Stopped> ─start─▶ Port<Started>, RxQueue…, TxQueue…, FlowRule…
//!            ├▶ Interface::open         (an interface of the kernel, without DPDK: Receiver, Sender…)
//!            ├▶ ring ─▶ RingSender, RingReceiver (packets from one thread to another)
//!            └▶ spawn_worker            (what each is, and who keeps whom alive: see `port`)
//! ```
//!
//! States are types: what is not configured has no queues, and what is not started moves no packets. Packets have one
//! owner, and bytes that several packets share are read-only. A queue is used by one thread at a time. Receiving, sending
//! and freeing each cross into C once per burst.
//!
//! ```no_run
//! use portcullis_dpdk::{Burst, Device, Eal, EalOptions, Mempool, PortConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::init(&EalOptions::without_hardware(64))?;
//! let pool = Mempool::new(&eal, "frames", 4096, 256, 2048)?;
//! let device = Device::probe(&eal, "net_af_packet0,iface=veth0")?;
//! let mut running = device.configure(&PortConfig::new(&pool))?.start()?;
//! let (mut rx, mut tx) = (running.rx.remove(0), running.tx.remove(0));
//! let worker = eal.spawn_worker("echo", Some(1), move || {
//!     let mut burst = Burst::<32>::new();
//!     for _ in 0..1_000_000 {
//!         rx.receive(&mut burst);
//!         tx.send(&mut burst);
//!         burst.clear();
//!     }
//! })?;
//! worker.join()?;
//! println!("{:?}", running.port.stats()?);
//! # Ok(())
//! # }
//! ```

#![deny(clippy::undocumented_unsafe_blocks)]

mod affinity;
mod args;
mod burst;
mod config;
mod device;
mod eal;
mod errno;
pub mod flow;
mod info;
mod interface;
mod log;
mod mbuf;
mod mempool;
mod package;
mod pci;
mod port;
mod queue;
mod ring;
mod stats;
mod worker;

pub use args::{EalOptions, OptionError};
pub use burst::{Burst, Drain};
pub use config::{ConfigureError, Granted, PortConfig};
pub use device::{Device, ProbeError};
pub use eal::{Eal, EalError};
pub use errno::Errno;
pub use info::{DescriptorLimits, DeviceInfo, MacAddress};
pub use interface::{Interface, InterfaceError, InterfaceLoss, Receiver, Sender};
pub use log::LogLevel;
pub use mbuf::{Mbuf, MbufError};
pub use mempool::{HEADROOM, MAX_CACHE, Mempool, PoolError};
pub use port::{Port, PortError, Running, Started, State, StillInUse, Stopped};
pub use queue::{RxQueue, TxQueue};
pub use ring::{RingError, RingReceiver, RingSender};
pub use stats::{Link, Stats};
pub use worker::{Worker, WorkerError, WorkerPanic};

//! Assembles a switch from DPDK, ports, workers and server, and takes it apart again.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_dpdk as dpdk;
use portcullis_dpdk::{Device, Eal, EalOptions, Interface, Mempool, Port, PortConfig, Started, TxQueue};
use portcullis_fastpath::Tables;

use crate::config::{Config, Spread};
use crate::counters::{Counters, Sums};
use crate::distributor::{self, FlowDistributor, Queue, Source};
use crate::engine::Engine;
use crate::hub::Hub;
use crate::nic::{self, NicThread};
use crate::ports::PortSpec;
use crate::worker::{Out, OutPort, Worker};

/// Why a switch cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// DPDK does not start.
    #[error("cannot start DPDK")]
    Eal(#[from] dpdk::EalError),
    /// The pool of packet buffers.
    #[error("cannot allocate packet buffers")]
    Pool(#[from] dpdk::PoolError),
    /// DPDK does not open the device of a port.
    #[error("port {port} cannot be opened")]
    Probe {
        /// The port as it was written.
        port: String,
        source: dpdk::ProbeError,
    },
    /// The device of a port refuses its configuration.
    #[error("port {port} cannot be set up")]
    Configure {
        /// The port as it was written.
        port: String,
        source: dpdk::ConfigureError,
    },
    /// A configured device does not start.
    #[error("cannot start port {port}")]
    Start {
        /// The port as it was written.
        port: String,
        source: dpdk::PortError,
    },
    /// A kernel interface cannot be used.
    #[error("port {port} cannot be opened")]
    Interface {
        /// The port as it was written.
        port: String,
        source: dpdk::InterfaceError,
    },
    /// A configured core does not exist.
    #[error("worker core {core} does not exist: this machine has {online}")]
    Core {
        core: usize,
        /// Cores of this machine, as the kernel lists them.
        online: String,
    },
    /// The rings between workers, by which frames of one queue are spread.
    #[error("cannot set up the flow distributor")]
    Ring(#[from] dpdk::RingError),
    /// The thread that puts rules on NICs.
    #[error("cannot start the thread that puts rules on NICs")]
    NicThread(#[source] std::io::Error),
    /// The thread of a worker.
    #[error("cannot start a worker")]
    Worker(#[from] dpdk::WorkerError),
}

/// A port of a running switch.
#[derive(Debug)]
pub struct LivePort {
    /// Number in P4Runtime, 0 to 510.
    pub number: u16,
    /// The port as it was written.
    pub text: String,
    /// The device behind it.
    pub device: Live,
}

/// What a port sends and receives through.
#[derive(Debug)]
pub enum Live {
    /// A device of DPDK, started.
    Device(Port<Started>),
    /// A kernel interface, through packet sockets.
    Interface(Interface),
}

impl Live {
    /// Whether its link is up; absent when the device does not report it.
    pub fn up(&self) -> Option<bool> {
        match self {
            Live::Device(port) => port.link().ok().map(|link| link.up),
            Live::Interface(interface) => interface.up(),
        }
    }

    /// Frames lost before a worker received them, by reason.
    pub fn missed(&self) -> Missed {
        match self {
            Live::Device(port) => port.stats().map_or_else(
                |_| Missed::default(),
                |stats| Missed {
                    crowded: stats.rx_missed,
                    unbuffered: stats.rx_no_buffers,
                    broken: stats.rx_errors,
                    long: 0,
                },
            ),
            Live::Interface(interface) => {
                let loss = interface.loss();
                Missed {
                    crowded: loss.crowded,
                    unbuffered: loss.unbuffered,
                    broken: 0,
                    long: loss.long,
                }
            }
        }
    }

    /// DPDK's driver, or `packet socket`.
    pub fn driver(&self) -> &str {
        match self {
            Live::Device(port) => &port.info().driver,
            Live::Interface(_) => "packet socket",
        }
    }
}

/// Frames lost before a worker received them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missed {
    /// No room: they were not received in time.
    pub crowded: u64,
    /// No packet buffer was free.
    pub unbuffered: u64,
    /// Frames that the device received with errors; 0 for kernel interfaces.
    pub broken: u64,
    /// They were longer than a packet buffer.
    pub long: u64,
}

/// A running switch. Dropping it stops its workers, then its ports.
pub struct Switch {
    /// Applies changes of tables.
    pub engine: Arc<Engine>,
    /// In the order of the configuration.
    pub ports: Arc<Vec<LivePort>>,
    /// Packet buffers of all ports.
    pub pool: Mempool,
    /// Goes before the ports, whose rules it keeps.
    nic_thread: Option<NicThread>,
    workers: Vec<dpdk::Worker<()>>,
    stop: Arc<AtomicBool>,
    // DPDK goes last.
    eal: Eal,
}

/// What each worker has.
struct Share {
    rx: Vec<(u16, Source)>,
    out: Vec<OutPort>,
}

/// A port, and its queues before workers have them.
struct Opened {
    port: LivePort,
    mtu: u16,
    rx: Vec<Queue>,
    tx: Vec<Out>,
}

impl Switch {
    /// Starts DPDK and a switch.
    pub fn start(config: &Config) -> Result<Switch, SwitchError> {
        check_cores(&config.cores)?;
        let mut options = EalOptions::without_hardware(config.memory_mb);
        options.no_huge = !config.hugepages;
        let hardware = config.ports.iter().filter(|p| p.is_hardware());
        options.allowed_pci = hardware.map(crate::ports::PortSpec::devargs).collect();
        options.no_pci = options.allowed_pci.is_empty();
        options.cores = config.cores.clone();
        let eal = Eal::init(&options)?;
        Switch::on(eal, config)
    }

    /// Starts a switch on a DPDK that is initialised.
    pub fn on(eal: Eal, config: &Config) -> Result<Switch, SwitchError> {
        let count = config.cores.len().max(1);
        let name = format!("switch{}", config.ports.first().map_or(0, |p| p.number));
        let pool = Mempool::new(&eal, &name, config.mbufs, 256, room(config))?;
        let mut shares: Vec<Share> = Vec::new();
        shares.resize_with(count, || Share {
            rx: Vec::new(),
            out: Vec::new(),
        });
        let mut opened = Vec::new();
        for spec in &config.ports {
            opened.push(open(&eal, config, spec, &pool, count)?);
        }
        let queues: usize = opened.iter().map(|port| port.rx.len()).sum();
        let spread = match config.spread {
            Spread::Auto => count > queues,
            Spread::On => count > 1,
            Spread::Off => false,
        };
        let mut ports = Vec::new();
        for port in opened {
            ports.push(deal(&eal, port, &mut shares, spread)?);
        }
        let mut tables = Tables::default();
        let hub = Hub::new(tables.publish(), count);
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Counters::new()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for (seat, (share, own)) in shares.into_iter().zip(&counters).enumerate() {
            let worker = Worker {
                rx: share.rx,
                out: share.out,
                pool: pool.clone(),
                view: hub.view(seat),
                counters: Arc::clone(own),
                busy: config.busy,
                stop: Arc::clone(&stop),
            };
            let core = config.cores.get(seat).copied();
            workers.push(eal.spawn_worker(&format!("worker{seat}"), core, move || worker.run())?);
        }
        let nics = nic::open(&config.offload, &ports);
        let sums = Sums::new(counters).with_nics(nics.clone());
        let mut engine = Engine::new(tables, hub, sums.clone());
        let mut nic_thread = None;
        if let Some(nics) = nics {
            let started = NicThread::start(Arc::clone(&nics), sums).map_err(SwitchError::NicThread)?;
            engine = engine.with_nics(nics, started.wake());
            nic_thread = Some(started);
        }
        Ok(Switch {
            engine: Arc::new(engine),
            nic_thread,
            ports: Arc::new(ports),
            pool,
            workers,
            stop,
            eal,
        })
    }

    /// Version of the DPDK library.
    pub fn dpdk(&self) -> String {
        self.eal.version()
    }

    /// Whether a worker, or the thread that puts rules on NICs, has exited, which none does by itself.
    pub fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(dpdk::Worker::is_finished)
            || self.nic_thread.as_ref().is_some_and(NicThread::has_ended)
    }

    /// Stops the workers. Returns those that panicked.
    pub fn stop(&mut self) -> Vec<dpdk::WorkerPanic> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers
            .drain(..)
            .filter_map(|worker| worker.join().err())
            .collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.nic_thread.take());
        for panic in self.stop() {
            tracing::error!(%panic, "a worker had ended before it should");
        }
    }
}

/// DPDK would print all its options for a core that is not there.
fn check_cores(cores: &[usize]) -> Result<(), SwitchError> {
    // Without that file DPDK is left to find out.
    let Ok(online) = std::fs::read_to_string("/sys/devices/system/cpu/online") else {
        return Ok(());
    };
    let online = online.trim();
    let is_in = |core: usize, part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let bounds = low.parse::<usize>().ok().zip(high.parse::<usize>().ok());
        bounds.is_some_and(|(low, high)| (low..=high).contains(&core))
    };
    let missing = cores
        .iter()
        .find(|core| !online.split(',').any(|part| is_in(**core, part)));
    match missing {
        Some(core) => Err(SwitchError::Core {
            core: *core,
            online: online.to_string(),
        }),
        None => Ok(()),
    }
}

/// Bytes of a frame that a buffer takes: a whole one, so that frames are in one piece.
fn room(config: &Config) -> u16 {
    config.mtu.map_or(2048, |mtu| (mtu + 64).max(2048))
}

fn open(
    eal: &Eal,
    config: &Config,
    spec: &PortSpec,
    pool: &Mempool,
    count: usize,
) -> Result<Opened, SwitchError> {
    let text = spec.to_string();
    if let Some(name) = spec.interface() {
        return open_interface(config, name, (spec.number, text), pool, count);
    }
    let device = Device::probe(eal, &spec.devargs()).map_err(|source| SwitchError::Probe {
        port: text.clone(),
        source,
    })?;
    open_device(config, device, (spec.number, text), pool, count)
}

/// A kernel interface has one receiver, and one sender for each worker.
fn open_interface(
    config: &Config,
    name: &str,
    (number, text): (u16, String),
    pool: &Mempool,
    count: usize,
) -> Result<Opened, SwitchError> {
    let (interface, receiver, senders) =
        Interface::open(name, pool, count, config.mtu).map_err(|source| SwitchError::Interface {
            port: text.clone(),
            source,
        })?;
    Ok(Opened {
        mtu: interface.mtu(),
        port: LivePort {
            number,
            text,
            device: Live::Interface(interface),
        },
        rx: vec![Queue::Interface(receiver)],
        tx: senders.into_iter().map(Out::Interface).collect(),
    })
}

fn open_device(
    config: &Config,
    device: Device,
    (number, text): (u16, String),
    pool: &Mempool,
    count: usize,
) -> Result<Opened, SwitchError> {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    let info = device.info();
    let spread = info.rss && info.max_rx_queues >= count;
    let wanted = PortConfig {
        rx_queues: if spread { count } else { 1 },
        tx_queues: count.min(info.max_tx_queues.max(1)),
        rss: spread && count > 1,
        mtu: config.mtu,
        ..PortConfig::new(pool)
    };
    let configure = |source| SwitchError::Configure {
        port: text.clone(),
        source,
    };
    let start = |source| SwitchError::Start {
        port: text.clone(),
        source,
    };
    let running = device
        .configure(&wanted)
        .map_err(configure)?
        .start()
        .map_err(start)?;
    let mtu = running.port.mtu().map_err(start)?;
    Ok(Opened {
        port: LivePort {
            number,
            text,
            device: Live::Device(running.port),
        },
        mtu,
        rx: running.rx.into_iter().map(Queue::Device).collect(),
        tx: outs(running.tx, usize::from(count)),
    })
}

/// Assigns a port's queues to the workers, and spreads the frames of a single queue if `spread`.
fn deal(eal: &Eal, opened: Opened, shares: &mut [Share], spread: bool) -> Result<LivePort, SwitchError> {
    let Opened { port, mtu, rx, tx } = opened;
    let (number, count, queues) = (port.number, shares.len(), rx.len());
    let spread = spread && queues == 1;
    for (at, queue) in rx.into_iter().enumerate() {
        // Ports with one queue are dealt out to the workers.
        let turn = if queues > 1 { at } else { usize::from(number) } % count;
        let source = if spread {
            let mut senders = Vec::with_capacity(count);
            for (seat, share) in shares.iter_mut().enumerate() {
                if seat == turn {
                    senders.push(None);
                } else {
                    let (sender, receiver) = eal.ring(distributor::ROOM)?;
                    senders.push(Some(sender));
                    share.rx.push((number, Source::Ring(receiver)));
                }
            }
            Source::Dealt(Box::new(FlowDistributor::new(queue, senders.into_iter())))
        } else {
            Source::Queue(queue)
        };
        if let Some(share) = shares.get_mut(turn) {
            share.rx.push((number, source));
        }
    }
    for (share, queue) in shares.iter_mut().zip(tx) {
        share.out.push(OutPort { number, mtu, queue });
    }
    tracing::info!(
        port = port.text,
        driver = port.device.driver(),
        mtu,
        queues,
        spread,
        "a port is up"
    );
    Ok(port)
}

/// A send queue for each worker; with fewer queues than workers they are shared.
fn outs(queues: Vec<TxQueue>, workers: usize) -> Vec<Out> {
    if queues.len() >= workers {
        return queues.into_iter().take(workers).map(Out::Own).collect();
    }
    let shared: Vec<Arc<Mutex<TxQueue>>> = queues.into_iter().map(|q| Arc::new(Mutex::new(q))).collect();
    let dealt = shared.iter().cycle().take(workers);
    dealt.map(|queue| Out::Shared(Arc::clone(queue))).collect()
}

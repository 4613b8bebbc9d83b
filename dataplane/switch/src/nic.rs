//! The NICs of the switch's ports: rules of `rte_flow` on DPDK's devices, and the thread that keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_dpdk::flow::{
    Action, Attributes, Eth, FlowError, FlowErrorKind, FlowRule, Flows, Ipv4, Ipv6, Item, Masked, Ports,
    Resets, Tcp,
};
use portcullis_nic::{
    Address, Counts, Family, FlowApi, FlowCount, Level, Nics, Offload, Offloads, PortMatch, Refusal, Rule,
    Settings, Until,
};
use portcullis_policy::text::with_causes;

use crate::config::OffloadConfig;
use crate::counters::Sums;
use crate::switch::{Live, LivePort};

/// How often counters of NICs are read.
const LOOK: Duration = Duration::from_secs(1);

/// The rules of one port, on DPDK.
#[derive(Debug)]
pub struct PortFlows {
    flows: Flows,
    resets: Resets,
}

impl FlowApi for PortFlows {
    type Handle = FlowRule;

    fn validate(&mut self, rule: &Rule, count: bool) -> Result<(), Refusal> {
        self.flows.validate(&on_dpdk(rule, count)).map_err(refusal)
    }

    fn create(&mut self, rule: &Rule, count: bool) -> Result<FlowRule, Refusal> {
        self.flows.create(&on_dpdk(rule, count)).map_err(refusal)
    }

    fn query(&mut self, handle: &FlowRule) -> Result<FlowCount, Refusal> {
        let read = handle.query().map_err(refusal)?;
        Ok(FlowCount {
            packets: read.packets,
            bytes: read.bytes,
        })
    }

    fn destroy(&mut self, handle: FlowRule) -> Result<(), Refusal> {
        handle.destroy().map_err(refusal)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        self.flows.flush().map_err(refusal)
    }

    fn resets(&self) -> u64 {
        self.resets.count()
    }
}

fn refusal(error: FlowError) -> Refusal {
    let until = match error.errno.number().abs() {
        libc::ENOSPC | libc::ENOMEM => Until::ThereIsRoom,
        libc::EBUSY | libc::EAGAIN => Until::Later,
        _ if error.kind == FlowErrorKind::State => Until::Later,
        _ => Until::Always,
    };
    Refusal {
        why: with_causes(&error),
        until,
    }
}

/// A rule that drops, as DPDK takes it.
fn on_dpdk(rule: &Rule, count: bool) -> portcullis_dpdk::flow::Rule {
    let ip = match rule.family {
        Family::V4 => Item::Ipv4(Ipv4 {
            src: v4(rule.src),
            dst: v4(rule.dst),
            ..Ipv4::default()
        }),
        Family::V6 => Item::Ipv6(Ipv6 {
            src: v6(rule.src),
            dst: v6(rule.dst),
            ..Ipv6::default()
        }),
    };
    let (src, dst) = (port(rule.src_port), port(rule.dst_port));
    let l4 = match rule.protocol {
        Some(6) => Some(Item::Tcp(Tcp {
            src,
            dst,
            ..Tcp::default()
        })),
        Some(17) => Some(Item::Udp(Ports { src, dst })),
        Some(132) => Some(Item::Sctp(Ports { src, dst })),
        _ => None,
    };
    let counts = count.then_some(Action::Count);
    portcullis_dpdk::flow::Rule {
        attributes: Attributes::default(),
        pattern: [Item::Eth(Eth::default()), ip].into_iter().chain(l4).collect(),
        actions: counts.into_iter().chain([Action::Drop]).collect(),
    }
}

fn v4(address: Address) -> Masked<std::net::Ipv4Addr> {
    Masked {
        value: (address.value as u32).into(),
        mask: (address.mask as u32).into(),
        last: None,
    }
}

fn v6(address: Address) -> Masked<std::net::Ipv6Addr> {
    Masked {
        value: address.value.into(),
        mask: address.mask.into(),
        last: None,
    }
}

fn port(port: PortMatch) -> Masked<u16> {
    match port {
        PortMatch::Any => Masked::default(),
        PortMatch::Exact(port) => Masked::exact(port),
        PortMatch::Masked { value, mask } => Masked {
            value,
            mask,
            last: None,
        },
        PortMatch::Range { low, high } => Masked::range(low, high),
    }
}

/// The NICs of the ports that are devices of DPDK, asked what they take; none if it is configured so.
pub fn open(config: &OffloadConfig, ports: &[LivePort]) -> Option<Arc<dyn Offloads>> {
    if !config.on {
        return None;
    }
    let (mut found, counts) = (Vec::new(), Arc::new(Counts::default()));
    for live in ports {
        let Live::Device(port) = &live.device else {
            continue;
        };
        let driver = port.info().driver.clone();
        let settings = Settings {
            facts: config.drivers.facts(&driver),
            accept: config.accept.clone(),
            most: config.rules,
        };
        let flows = port.flows();
        let api = PortFlows {
            resets: flows.resets(),
            flows,
        };
        let offload = Offload::new(driver, api, settings, Arc::clone(&counts));
        let report = offload.report(live.number);
        tracing::info!(
            port = live.text,
            takes = report.takes,
            off = report.off,
            matrix = config
                .drivers
                .level(&report.driver)
                .map_or("not listed", Level::name),
            "the NIC of a port was asked what rules it takes"
        );
        found.push((live.number, offload));
    }
    Some(Arc::new(Nics::new(found, counts)))
}

/// The thread that puts rules on NICs. Dropping it ends the thread; the rules stay.
#[derive(Debug)]
pub struct NicThread {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

/// Wakes the thread that puts rules on NICs, from any other thread.
#[derive(Debug, Clone)]
pub struct Wake(SyncSender<()>);

impl Wake {
    /// There is something to do.
    pub fn now(&self) {
        // It is awake if there is no room.
        let _awake = self.0.try_send(());
    }
}

impl NicThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the operating system has no thread.
    pub fn start(nics: Arc<dyn Offloads>, sums: Sums) -> std::io::Result<NicThread> {
        let (wake, woken) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || keep(&*nics, &sums, &woken, &stopped);
        let thread = std::thread::Builder::new().name("nics".to_string()).spawn(run)?;
        Ok(NicThread {
            thread: Some(thread),
            stop,
            wake,
        })
    }

    /// Whether the thread has exited, which it does not by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// A handle by which others wake the thread.
    pub fn wake(&self) -> Wake {
        Wake(self.wake.clone())
    }
}

impl Drop for NicThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        Wake(self.wake.clone()).now();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that puts rules on NICs had panicked");
        }
    }
}

fn keep(nics: &dyn Offloads, sums: &Sums, woken: &Receiver<()>, stop: &AtomicBool) {
    let mut next = Instant::now() + LOOK;
    while !stop.load(Ordering::Acquire) {
        match woken.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= next {
            nics.look(&|slot| sums.row_of_workers(slot).packets, stop);
            next = Instant::now() + LOOK;
        }
        nics.fill(stop);
    }
}

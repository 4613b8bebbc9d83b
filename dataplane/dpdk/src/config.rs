//! Port configuration: what the caller asks for, checked against what the device offers, in DPDK's structures.

use crate::device::{Core, Device};
use crate::eal::lock;
use crate::errno::{Errno, check};
use crate::info::{DescriptorLimits, raw_info};
use crate::mempool::Mempool;
use crate::port::{Port, Stopped};
use portcullis_dpdk_sys as sys;
use std::mem::zeroed;
use std::ptr;
use thiserror::Error;

/// Ethernet header and two VLAN tags: what a frame has beyond the MTU.
const OVERHEAD: usize = 14 + 8;

/// What is asked of a port.
#[derive(Debug, Clone)]
pub struct PortConfig {
    /// Receive queues, at least 1.
    pub rx_queues: u16,
    /// Send queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors of each receive queue: packets that wait.
    pub rx_descriptors: u16,
    /// Descriptors of each send queue.
    pub tx_descriptors: u16,
    /// Bytes of the Ethernet payload. `None` leaves it as it is.
    pub mtu: Option<u16>,
    /// Receive what is addressed to others, too.
    pub promiscuous: bool,
    /// Spread what is received over the queues by a hash of addresses and ports.
    pub rss: bool,
    /// What received packets are taken from.
    pub pool: Mempool,
}

impl PortConfig {
    /// One queue each way of 1024 descriptors, promiscuous.
    #[must_use]
    pub fn new(pool: &Mempool) -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: true,
            rss: false,
            pool: pool.clone(),
        }
    }
}

/// What a port got, after the limits of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Receive queues, at most [`PortConfig::rx_queues`].
    pub rx_queues: u16,
    /// Send queues, at most [`PortConfig::tx_queues`].
    pub tx_queues: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each send queue.
    pub tx_descriptors: u16,
    /// Bytes of the Ethernet payload.
    pub mtu: u16,
    /// Whether it receives what is addressed to others. Virtual devices without a filter do in any case.
    pub promiscuous: bool,
    /// Whether it spreads what it receives by a hash. With one queue it need not.
    pub rss: bool,
}

/// Why a port is not configured.
#[derive(Debug, Error)]
pub enum ConfigureError {
    /// No queue was asked for.
    #[error("port {0}: needs at least one receive and one transmit queue")]
    NoQueues(String),
    /// The device has no queue in one direction: `net_pcap` with a file to read only, for example.
    #[error("port {0}: the device has no queue to {1}")]
    OneWay(String, &'static str),
    /// Frames do not fit the pool's buffers, and the device does not spread them over several.
    #[error(
        "port {port}: frames of {needed} bytes do not fit buffers of {room} in pool {pool}: use larger buffers or a smaller MTU"
    )]
    PoolTooSmall {
        /// Name of the device.
        port: String,
        /// Name of the pool.
        pool: String,
        /// Bytes of the largest frame.
        needed: usize,
        /// Bytes of a packet.
        room: usize,
    },
    /// DPDK gave an error.
    #[error("port {port}: {step}")]
    Step {
        /// Name of the device.
        port: String,
        /// What it did not do.
        step: &'static str,
        /// What DPDK returned for that step.
        #[source]
        errno: Errno,
    },
}

impl Device {
    /// Configures the port: queues, descriptors and MTU as asked for, within the limits of the device
    /// ([`Port::granted`] says what came of it).
    ///
    /// # Errors
    /// See [`ConfigureError`]; the port is closed then.
    pub fn configure(self, config: &PortConfig) -> Result<Port<Stopped>, ConfigureError> {
        let core = &self.core;
        let fail = |step| failed(core, step);
        let wanted = wanted(core, config)?;
        // Held from before the first queue until after the port is closed.
        *lock(&core.pool) = Some(config.pool.clone());
        let conf = conf(core, config, &wanted)?;
        // SAFETY: the port is open and stopped; `conf` lives as long as the call.
        check(unsafe {
            sys::rte_eth_dev_configure(core.port, wanted.rx_queues, wanted.tx_queues, &raw const conf)
        })
        .map_err(fail("it does not take the configuration"))?;
        let mut granted = wanted;
        // SAFETY: both are writable, and the port is configured.
        check(unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(
                core.port,
                &raw mut granted.rx_descriptors,
                &raw mut granted.tx_descriptors,
            )
        })
        .map_err(fail("the device does not report its descriptor limits"))?;
        queues(core, &granted, &config.pool)?;
        granted.mtu = mtu(core, config.mtu.map(|_| granted.mtu))?;
        granted.promiscuous = promiscuous(core, config.promiscuous)?;
        Ok(Port::stopped(self.core, granted))
    }
}

/// The error of a step, made from its errno.
fn failed(core: &Core, step: &'static str) -> impl Fn(Errno) -> ConfigureError {
    let port = core.info.name.clone();
    move |errno| ConfigureError::Step {
        port: port.clone(),
        step,
        errno,
    }
}

/// What is asked for, within the limits of the device.
fn wanted(core: &Core, config: &PortConfig) -> Result<Granted, ConfigureError> {
    let info = &core.info;
    let name = || info.name.clone();
    if config.rx_queues == 0 || config.tx_queues == 0 {
        return Err(ConfigureError::NoQueues(name()));
    }
    for (most, direction) in [
        (info.max_rx_queues, "receive from"),
        (info.max_tx_queues, "send to"),
    ] {
        if most == 0 {
            return Err(ConfigureError::OneWay(name(), direction));
        }
    }
    let rx_queues = config.rx_queues.min(info.max_rx_queues);
    let mtu = match config.mtu {
        Some(mtu) => mtu.clamp(*info.mtu.start(), (*info.mtu.end()).max(*info.mtu.start())),
        None => current_mtu(core)?,
    };
    Ok(Granted {
        rx_queues,
        tx_queues: config.tx_queues.min(info.max_tx_queues),
        rx_descriptors: within(config.rx_descriptors, &info.rx_descriptors),
        tx_descriptors: within(config.tx_descriptors, &info.tx_descriptors),
        mtu,
        promiscuous: config.promiscuous,
        rss: config.rss && rx_queues > 1 && info.rss,
    })
}

/// `count`, in whole steps, within the limits. DPDK rounds up, which a caller near the upper limit would not survive.
fn within(count: u16, limits: &DescriptorLimits) -> u16 {
    let (least, most) = (*limits.range.start(), *limits.range.end());
    let whole = count.max(1).checked_next_multiple_of(limits.step).unwrap_or(most);
    whole.min(most - most % limits.step).max(least)
}

/// The configuration in DPDK's structures.
fn conf(core: &Core, config: &PortConfig, wanted: &Granted) -> Result<sys::rte_eth_conf, ConfigureError> {
    let raw = raw_info(core.port).map_err(failed(core, "the device does not report its capabilities"))?;
    // SAFETY: the struct is numbers and pointers, for which zero is a value, and the one that means "as usual".
    let mut conf: sys::rte_eth_conf = unsafe { zeroed() };
    conf.rxmode.mtu = u32::from(wanted.mtu);
    let needed = usize::from(wanted.mtu) + OVERHEAD;
    let room = usize::from(config.pool.data_room());
    if needed > room {
        if !core.info.scatter {
            return Err(ConfigureError::PoolTooSmall {
                port: core.info.name.clone(),
                pool: config.pool.name().to_owned(),
                needed,
                room,
            });
        }
        conf.rxmode.offloads |= sys::PC_RX_OFFLOAD_SCATTER;
    }
    // A packet with several segments may come from another port.
    conf.txmode.offloads |= raw.tx_offload_capa & sys::PC_TX_OFFLOAD_MULTI_SEGS;
    if wanted.rss {
        let hash = sys::PC_RSS_IP | sys::PC_RSS_TCP | sys::PC_RSS_UDP | sys::PC_RSS_SCTP;
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = hash & raw.flow_type_rss_offloads;
    }
    Ok(conf)
}

fn queues(core: &Core, granted: &Granted, pool: &Mempool) -> Result<(), ConfigureError> {
    // DPDK takes "any node" as the largest number.
    let node = core.info.numa_node.unwrap_or(u32::MAX);
    for queue in 0..granted.rx_queues {
        // SAFETY: the port is configured with that many queues, and `core` keeps the pool alive.
        check(unsafe {
            sys::rte_eth_rx_queue_setup(
                core.port,
                queue,
                granted.rx_descriptors,
                node,
                ptr::null(),
                pool.raw(),
            )
        })
        .map_err(failed(core, "it does not set up a queue to receive from"))?;
    }
    for queue in 0..granted.tx_queues {
        // SAFETY: the port is configured with that many queues.
        check(unsafe {
            sys::rte_eth_tx_queue_setup(core.port, queue, granted.tx_descriptors, node, ptr::null())
        })
        .map_err(failed(core, "it does not set up a queue to send to"))?;
    }
    Ok(())
}

fn current_mtu(core: &Core) -> Result<u16, ConfigureError> {
    let mut mtu = 0;
    // SAFETY: `mtu` is writable, and the port is open.
    check(unsafe { sys::rte_eth_dev_get_mtu(core.port, &raw mut mtu) })
        .map_err(failed(core, "the device does not report its MTU"))?;
    // Before a port is configured, some drivers have none.
    Ok(if mtu == 0 { 1500 } else { mtu })
}

/// Sets the MTU of the interface behind the device, where there is one, and says what it is.
fn mtu(core: &Core, wanted: Option<u16>) -> Result<u16, ConfigureError> {
    if let Some(wanted) = wanted {
        // SAFETY: the port is configured.
        let set = check(unsafe { sys::rte_eth_dev_set_mtu(core.port, wanted) });
        supported(set).map_err(failed(core, "it does not take the MTU"))?;
    }
    current_mtu(core)
}

/// Switches promiscuous mode, where there is one, and says what it is.
fn promiscuous(core: &Core, wanted: bool) -> Result<bool, ConfigureError> {
    let switch = if wanted {
        sys::rte_eth_promiscuous_enable
    } else {
        sys::rte_eth_promiscuous_disable
    };
    // SAFETY: the port is configured.
    supported(check(unsafe { switch(core.port) }))
        .map_err(failed(core, "it does not switch promiscuous mode"))?;
    // SAFETY: as above.
    Ok(unsafe { sys::rte_eth_promiscuous_get(core.port) } == 1)
}

/// Whether the driver supports it. A driver that does not is no error; the result reports what is in force.
fn supported(result: Result<i32, Errno>) -> Result<bool, Errno> {
    match result {
        Ok(_) => Ok(true),
        Err(errno) if matches!(errno.number(), libc::ENOTSUP | libc::ENOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::{DescriptorLimits, within};

    #[test]
    fn descriptors_stay_within_the_limits_in_whole_steps() {
        let limits = DescriptorLimits {
            range: 64..=4090,
            step: 32,
        };
        for (asked, granted) in [
            (0, 64),
            (64, 64),
            (65, 96),
            (1000, 1024),
            (4070, 4064),
            (u16::MAX, 4064),
        ] {
            assert_eq!(within(asked, &limits), granted, "{asked}");
        }
        let any = DescriptorLimits {
            range: 0..=u16::MAX,
            step: 1,
        };
        assert_eq!(within(512, &any), 512);
    }
}

//! Capabilities and limits of a device.

use crate::errno::{Errno, check};
use portcullis_dpdk_sys as sys;
use std::ffi::CStr;
use std::fmt;
use std::mem::zeroed;
use std::ops::RangeInclusive;

/// An Ethernet address, in the order of its bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many descriptors a queue can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// From this many to that many.
    pub range: RangeInclusive<u16>,
    /// In multiples of this.
    pub step: u16,
}

/// What a device is and can do, as its driver says before it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// PCI address or virtual name.
    pub name: String,
    /// DPDK's driver: `net_tap`, `net_ixgbe`.
    pub driver: String,
    /// Largest number of receive queues; 0 when it only sends.
    pub max_rx_queues: u16,
    /// Largest number of send queues; 0 when it only receives.
    pub max_tx_queues: u16,
    /// Descriptors of a receive queue.
    pub rx_descriptors: DescriptorLimits,
    /// Descriptors of a send queue.
    pub tx_descriptors: DescriptorLimits,
    /// Bytes of an Ethernet payload, smallest and largest limit that can be set.
    pub mtu: RangeInclusive<u16>,
    /// Ethernet address before configuration.
    pub mac: MacAddress,
    /// NUMA node that it is at; `None` when that does not matter.
    pub numa_node: Option<u32>,
    /// Whether it can spread what it receives over queues by a hash of the addresses.
    pub rss: bool,
    /// Entries of the table that the hash is looked up in; 0 when it has none.
    pub rss_table_size: u16,
    /// Whether a received frame may spread over several packet buffers.
    pub scatter: bool,
}

impl DeviceInfo {
    pub(crate) fn read(port: u16, name: &str) -> Result<Self, Errno> {
        let info = raw_info(port)?;
        let driver = if info.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: a driver's name is a C string that lives as long as the driver.
            unsafe { CStr::from_ptr(info.driver_name) }
                .to_string_lossy()
                .into_owned()
        };
        // SAFETY: takes and returns numbers.
        let node = unsafe { sys::rte_eth_dev_socket_id(port) };
        Ok(Self {
            name: name.to_owned(),
            driver,
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            rx_descriptors: DescriptorLimits::from(info.rx_desc_lim),
            tx_descriptors: DescriptorLimits::from(info.tx_desc_lim),
            mtu: info.min_mtu..=info.max_mtu,
            mac: mac(port)?,
            numa_node: u32::try_from(node).ok(),
            rss: info.flow_type_rss_offloads != 0,
            rss_table_size: info.reta_size,
            scatter: info.rx_offload_capa & sys::PC_RX_OFFLOAD_SCATTER != 0,
        })
    }
}

impl From<sys::rte_eth_desc_lim> for DescriptorLimits {
    fn from(limits: sys::rte_eth_desc_lim) -> Self {
        Self {
            range: limits.nb_min..=limits.nb_max,
            step: limits.nb_align.max(1),
        }
    }
}

/// What the driver says about `port`.
pub(crate) fn raw_info(port: u16) -> Result<sys::rte_eth_dev_info, Errno> {
    // SAFETY: the struct is numbers and pointers, for which zero is a value.
    let mut info: sys::rte_eth_dev_info = unsafe { zeroed() };
    // SAFETY: `info` is writable; a port that does not exist is an error.
    check(unsafe { sys::rte_eth_dev_info_get(port, &raw mut info) })?;
    Ok(info)
}

/// The address of `port`.
pub(crate) fn mac(port: u16) -> Result<MacAddress, Errno> {
    let mut address = sys::rte_ether_addr { addr_bytes: [0; 6] };
    // SAFETY: `address` is writable; a port that does not exist is an error.
    check(unsafe { sys::rte_eth_macaddr_get(port, &raw mut address) })?;
    Ok(MacAddress(address.addr_bytes))
}

//! Port counters and link state.

use crate::errno::{Errno, check};
use portcullis_dpdk_sys as sys;
use std::ffi::CStr;
use std::mem::zeroed;

/// What every port counts.
#[allow(missing_docs, reason = "the names of packets and bytes say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Packets that the device dropped because they were not received in time.
    pub rx_missed: u64,
    /// Packets that arrived broken.
    pub rx_errors: u64,
    /// Packets that were not sent.
    pub tx_errors: u64,
    /// Packets that the device dropped as the pool had none left.
    pub rx_no_buffers: u64,
}

/// The link of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Megabits per second; `None` when that is unknown.
    pub speed: Option<u32>,
    /// Whether it sends and receives at once.
    pub full_duplex: bool,
}

pub(crate) fn stats(port: u16) -> Result<Stats, Errno> {
    // SAFETY: the struct is numbers, for which zero is a value.
    let mut raw: sys::rte_eth_stats = unsafe { zeroed() };
    // SAFETY: `raw` is writable; a port that does not exist is an error.
    check(unsafe { sys::rte_eth_stats_get(port, &raw mut raw) })?;
    Ok(Stats {
        rx_packets: raw.ipackets,
        tx_packets: raw.opackets,
        rx_bytes: raw.ibytes,
        tx_bytes: raw.obytes,
        rx_missed: raw.imissed,
        rx_errors: raw.ierrors,
        tx_errors: raw.oerrors,
        rx_no_buffers: raw.rx_nombuf,
    })
}

pub(crate) fn link(port: u16) -> Result<Link, Errno> {
    let (mut speed, mut up, mut full_duplex) = (0, 0, 0);
    // SAFETY: all three are writable; a port that does not exist is an error.
    check(unsafe { sys::pc_link(port, &raw mut speed, &raw mut up, &raw mut full_duplex) })?;
    let known = speed != 0 && speed != sys::RTE_ETH_SPEED_NUM_UNKNOWN;
    Ok(Link {
        up: up != 0,
        speed: known.then_some(speed),
        full_duplex: full_duplex != 0,
    })
}

/// Names and values, as often as it takes for both to be of one length.
pub(crate) fn xstats(port: u16) -> Result<Vec<(String, u64)>, Errno> {
    loop {
        // SAFETY: with no room given it only says how many there are.
        let count = check(unsafe { sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) })?;
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: both structs are numbers and characters, for which zero is a value.
        let (mut names, mut values) = unsafe {
            (
                vec![zeroed::<sys::rte_eth_xstat_name>(); count],
                vec![zeroed::<sys::rte_eth_xstat>(); count],
            )
        };
        // A port has no more counters than fit 32 bits: DPDK gave the number as one.
        let room = count as u32;
        // SAFETY: `names` has that much room.
        let named = check(unsafe { sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), room) })?;
        // SAFETY: `values` has that much room.
        let valued = check(unsafe { sys::rte_eth_xstats_get(port, values.as_mut_ptr(), room) })?;
        if named == valued && usize::try_from(named) == Ok(count) {
            return Ok(values
                .iter()
                .map(|value| (name(&names, value.id), value.value))
                .collect());
        }
    }
}

/// The name with number `id`.
fn name(names: &[sys::rte_eth_xstat_name], id: u64) -> String {
    let found = usize::try_from(id).ok().and_then(|id| names.get(id));
    let Some(name) = found else {
        return format!("unnamed {id}");
    };
    // SAFETY: DPDK ends each name with a zero, within its array.
    let name = unsafe { CStr::from_ptr(name.name.as_ptr()) };
    name.to_string_lossy().into_owned()
}

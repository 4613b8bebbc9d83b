//! Devices: probing, lookup and removal.

use crate::eal::{Eal, lock};
use crate::errno::{Errno, check};
use crate::info::{DeviceInfo, raw_info};
use crate::log;
use crate::mempool::Mempool;
use crate::package;
use crate::pci::{Address, Binding};
use portcullis_dpdk_sys as sys;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use thiserror::Error;

/// Why there is no device.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The description is empty, or holds a zero byte.
    #[error("{0:?} is not a device: write a PCI address, or DRIVER0,option=value,…")]
    Description(String),
    /// It was probed before and is still there.
    #[error("device {0} is in use already")]
    InUse(String),
    /// No driver takes a device of this name.
    #[error(
        "no driver takes {name}: the Debian package {package} has it (with librte-bus-vdev…), and DPDK has to start again \
         after it was installed{}",
        log::said(said)
    )]
    NoDriver {
        /// Name of the device.
        name: String,
        /// The Debian package to install.
        package: String,
        /// What DPDK logged while it probed.
        said: Vec<String>,
    },
    /// A PCI device, and DPDK was initialised without PCI.
    #[error("{0} is a PCI device, and DPDK was initialised without PCI (no_pci)")]
    PciIsOff(String),
    /// No PCI device has that address.
    #[error("there is no PCI device {0}: lspci -D lists those there are")]
    NoPciDevice(String),
    /// A driver of the kernel has the PCI device.
    #[error(
        "PCI device {address} is bound to the kernel driver {driver}: rebind it with `dpdk-devbind.py -b vfio-pci \
         {address}` (its interface disappears from the kernel), or use the interface through net_af_packet"
    )]
    KernelHasIt {
        /// Address of the device.
        address: String,
        /// Name of the kernel's driver, for example `ixgbe`.
        driver: String,
    },
    /// No driver of the kernel has the PCI device, so that none hands it over.
    #[error(
        "PCI device {0} has no user-space driver: run `modprobe vfio-pci` and `dpdk-devbind.py -b vfio-pci {0}`"
    )]
    NotBound(String),
    /// The driver gave an error.
    #[error("cannot use device {name}{}", log::said(said))]
    Refused {
        /// Name of the device.
        name: String,
        /// What the probe returned.
        #[source]
        errno: Errno,
        /// What DPDK logged while it probed.
        said: Vec<String>,
    },
    /// The driver took the device and made no Ethernet port of it.
    #[error("device {0} has no Ethernet port")]
    NoPort(String),
}

/// A probed port of a device, not configured yet. Dropping it closes the port; the last port of a device to be dropped
/// detaches the device, so that a virtual one is gone and its name is free again.
#[derive(Debug)]
pub struct Device {
    pub(crate) core: Arc<Core>,
}

/// A port of DPDK, open. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) port: u16,
    /// What the queues take packets from. Outlives the port being closed.
    pub(crate) pool: Mutex<Option<Mempool>>,
    /// How often all flow rules were flushed, so that older ones are gone. Held while rules are made and removed.
    pub(crate) flushed: Mutex<u64>,
    pub(crate) info: DeviceInfo,
    /// Detached after this is closed.
    _attached: Arc<Attached>,
}

/// A device of DPDK, attached. Detached when dropped, after its ports were closed.
#[derive(Debug)]
struct Attached {
    name: String,
    device: NonNull<sys::rte_device>,
    eal: Eal,
}

// SAFETY: the pointer is only given back to DPDK, which detaches from any thread; `Eal::devices` is locked meanwhile.
unsafe impl Send for Attached {}
// SAFETY: as above; nothing is done through a shared reference.
unsafe impl Sync for Attached {}

impl Device {
    /// Probes what `devargs` describes, a PCI address (`0000:01:00.0`) or a virtual device (`net_tap0,iface=x`), and
    /// gives its first port.
    ///
    /// Virtual devices live in the network namespace of the calling thread. Of PCI devices few have more than one port.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn probe(eal: &Eal, devargs: &str) -> Result<Self, ProbeError> {
        let mut ports = Self::probe_all(eal, devargs)?;
        if ports.is_empty() {
            return Err(ProbeError::NoPort(devargs.to_owned()));
        }
        Ok(ports.swap_remove(0))
    }

    /// The same, with all of its ports.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn probe_all(eal: &Eal, devargs: &str) -> Result<Vec<Self>, ProbeError> {
        let name = name_of(eal, devargs)?;
        let description = || ProbeError::Description(devargs.to_owned());
        let text = CString::new(devargs).map_err(|_| description())?;
        let mut devices = eal.devices();
        if devices.contains(&name) {
            return Err(ProbeError::InUse(name));
        }
        // SAFETY: `text` is a C string; DPDK is initialised, as there is an `Eal`.
        let (status, said) = log::listening(|| unsafe { sys::rte_dev_probe(text.as_ptr()) });
        // It was probed when DPDK started, as an allowed PCI device.
        if status != 0 && status != -libc::EEXIST {
            return Err(refused(name, status, said));
        }
        let ports = ports_of(&name);
        let Some(device) = ports.first().and_then(|port| device_of(*port)) else {
            return Err(ProbeError::NoPort(name));
        };
        let attached = Arc::new(Attached {
            name: name.clone(),
            device,
            eal: eal.clone(),
        });
        devices.insert(name.clone());
        // An error from here on drops `attached`, which takes this lock.
        drop(devices);
        ports
            .into_iter()
            .map(|port| {
                Self::open(port, &attached)
                    .map_err(|errno| refused(name.clone(), -errno.number(), Vec::new()))
            })
            .collect()
    }

    fn open(port: u16, attached: &Arc<Attached>) -> Result<Self, Errno> {
        let core = Core {
            port,
            pool: Mutex::default(),
            flushed: Mutex::default(),
            info: DeviceInfo::read(port, &attached.name)?,
            _attached: Arc::clone(attached),
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// DPDK's number of the port.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.core.port
    }

    /// Name of the device: its PCI address, or its virtual name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.info.name
    }

    /// What the device is and can do.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.core.info
    }
}

impl Core {
    pub(crate) fn failed(&self, what: &'static str) -> impl Fn(Errno) + '_ {
        move |errno| tracing::error!(target: "dpdk", "port {}: {what}: {errno}", self.info.name)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // SAFETY: the port is open, and neither queues nor rules of it are left, as those hold this.
        let closed = check(unsafe { sys::rte_eth_dev_close(self.port) });
        closed.map_or_else(self.failed("it does not close"), drop);
        // Only now are its packets back in the pool.
        drop(lock(&self.pool).take());
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut devices = self.eal.devices();
        // SAFETY: the device is attached, and its ports are closed, as those hold this.
        let removed = check(unsafe { sys::rte_dev_remove(self.device.as_ptr()) });
        if let Err(errno) = removed {
            tracing::error!(target: "dpdk", "device {} does not detach: {errno}", self.name);
        }
        devices.remove(&self.name);
    }
}

/// The name that DPDK will give to the device of `devargs`; errors that are known without DPDK.
fn name_of(eal: &Eal, devargs: &str) -> Result<String, ProbeError> {
    let first = devargs.split(',').next().unwrap_or_default();
    if first.is_empty() {
        return Err(ProbeError::Description(devargs.to_owned()));
    }
    let Some(address) = Address::parse(first) else {
        return Ok(first.to_owned());
    };
    if eal.no_pci() {
        return Err(ProbeError::PciIsOff(address.to_string()));
    }
    match address.holder() {
        Binding::Usable => Ok(address.to_string()),
        Binding::Missing => Err(ProbeError::NoPciDevice(address.to_string())),
        Binding::Nobody => Err(ProbeError::NotBound(address.to_string())),
        Binding::Kernel(driver) => Err(ProbeError::KernelHasIt {
            address: address.to_string(),
            driver,
        }),
    }
}

fn refused(name: String, status: i32, said: Vec<String>) -> ProbeError {
    // DPDK cannot read the name of a virtual device for which it has no driver.
    if status == -libc::EFAULT && Address::parse(&name).is_none() {
        let package = package::of_vdev(&name);
        return ProbeError::NoDriver { name, package, said };
    }
    let errno = Errno::from_return_or_last(status);
    ProbeError::Refused { name, errno, said }
}

/// The ports of the device `name`.
fn ports_of(name: &str) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: takes and returns a number.
        let port = unsafe { sys::rte_eth_find_next(next) };
        if u32::from(port) >= sys::RTE_MAX_ETHPORTS {
            return ports;
        }
        let same = device_of(port).is_some_and(|device| {
            // SAFETY: DPDK gives the name of an attached device, which `Eal::devices` keeps attached.
            let found = unsafe { CStr::from_ptr(sys::rte_dev_name(device.as_ptr())) };
            found.to_bytes() == name.as_bytes()
        });
        if same {
            ports.push(port);
        }
        next = port + 1;
    }
}

/// The device that `port` belongs to.
fn device_of(port: u16) -> Option<NonNull<sys::rte_device>> {
    let info = raw_info(port).ok()?;
    NonNull::new(info.device.cast())
}

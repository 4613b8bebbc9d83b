//! Meanings of the error numbers that DPDK returns, with what to do about each.

use portcullis_dpdk_sys as sys;
use std::fmt;

/// An errno that DPDK gave, as a positive number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// One line of the table.
struct Known {
    number: i32,
    name: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

const fn known(number: i32, name: &'static str, meaning: &'static str, remedy: &'static str) -> Known {
    Known {
        number,
        name,
        meaning,
        remedy,
    }
}

/// Every errno that DPDK's functions used here are documented or seen to give.
const TABLE: [Known; 25] = [
    known(
        libc::EPERM,
        "EPERM",
        "not permitted",
        "run as root, or with the capabilities CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK",
    ),
    known(
        libc::ENOENT,
        "ENOENT",
        "there is no such device or object",
        "check the name, and that the driver's package (librte-net-…) is installed",
    ),
    known(
        libc::EIO,
        "EIO",
        "the device does not answer, or was removed",
        "look into the kernel's log (dmesg); a device that was reset has to be probed again",
    ),
    known(
        libc::E2BIG,
        "E2BIG",
        "more than DPDK can hold",
        "ask for less: fewer packet buffers, or a smaller cache",
    ),
    known(libc::EAGAIN, "EAGAIN", "not possible at this moment", "try again"),
    known(
        libc::ENOMEM,
        "ENOMEM",
        "no memory left that DPDK may use",
        "give it more (memory_mb without hugepages, vm.nr_hugepages with), or ask for fewer and smaller packet buffers",
    ),
    known(
        libc::EACCES,
        "EACCES",
        "access denied",
        "run as root, or give the user the device's files (/dev/vfio, /dev/net/tun, /dev/hugepages)",
    ),
    known(
        libc::EFAULT,
        "EFAULT",
        "the device's description cannot be read, or no driver takes it",
        "check its spelling, and that the driver's package (librte-net-…) is installed",
    ),
    known(
        libc::EBUSY,
        "EBUSY",
        "in use",
        "stop the port, or whatever else uses the device, first",
    ),
    known(
        libc::EEXIST,
        "EEXIST",
        "exists already",
        "choose another name, or use the one that exists",
    ),
    known(
        libc::ENODEV,
        "ENODEV",
        "there is no such device",
        "check the name; a PCI device must be bound to vfio-pci (dpdk-devbind.py --status)",
    ),
    known(
        libc::EINVAL,
        "EINVAL",
        "an argument is not accepted",
        "check counts and sizes against the limits of the device",
    ),
    known(
        libc::ENOSPC,
        "ENOSPC",
        "no room left in a table of DPDK or of the device",
        "remove something first",
    ),
    known(
        libc::EROFS,
        "EROFS",
        "only the primary process may do this",
        "this process must not be a secondary one",
    ),
    known(
        libc::ERANGE,
        "ERANGE",
        "out of range",
        "check the number against the limits of the device",
    ),
    known(
        libc::ENAMETOOLONG,
        "ENAMETOOLONG",
        "the name is too long",
        "choose a shorter one",
    ),
    known(
        libc::ENOSYS,
        "ENOSYS",
        "the driver does not implement this",
        "use another device, or do without",
    ),
    known(
        libc::ENOTSUP,
        "ENOTSUP",
        "the device or its driver does not support this",
        "use another device, or do without",
    ),
    known(
        libc::EADDRINUSE,
        "EADDRINUSE",
        "the address is used already",
        "choose another one",
    ),
    known(
        libc::ENETDOWN,
        "ENETDOWN",
        "the interface is down",
        "bring it up: ip link set DEV up",
    ),
    known(
        libc::ENOBUFS,
        "ENOBUFS",
        "no memory or no packet buffers left",
        "give DPDK more memory (memory_mb without hugepages, vm.nr_hugepages with), or the pool more packet buffers",
    ),
    known(
        libc::ETIMEDOUT,
        "ETIMEDOUT",
        "the device did not answer in time",
        "look into the kernel's log (dmesg), and reset the device",
    ),
    known(
        libc::EALREADY,
        "EALREADY",
        "done already",
        "DPDK is initialised once in a process",
    ),
    known(
        libc::EPROTO,
        "EPROTO",
        "PCI devices are bound to the kernel in a way that DPDK cannot use",
        "bind them to vfio-pci (dpdk-devbind.py), or start without PCI",
    ),
    known(
        libc::ENOEXEC,
        "ENOEXEC",
        "a service or driver did not start",
        "look at what DPDK logged before",
    ),
];

impl Errno {
    /// From what a function returned that gives an errno below zero.
    pub(crate) fn from_return(value: i32) -> Self {
        Self(value.checked_neg().unwrap_or(libc::EINVAL))
    }

    /// The last errno of DPDK in this thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a variable of the calling thread.
        Self(unsafe { sys::pc_errno() })
    }

    /// From what a function returned that gives either an errno below zero, or -1 and leaves it to `rte_errno`.
    pub(crate) fn from_return_or_last(value: i32) -> Self {
        let last = Self::last();
        if value == -1 && last.0 > 0 {
            last
        } else {
            Self::from_return(value)
        }
    }

    /// The number, as in `errno.h`.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Its symbol, `ENOMEM`; `errno` when the table lacks it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.known().map_or("errno", |known| known.name)
    }

    /// What it means here.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.known()
            .map_or("DPDK does not document this one", |known| known.meaning)
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        self.known()
            .map_or("look at what DPDK logged before", |known| known.remedy)
    }

    fn known(self) -> Option<&'static Known> {
        TABLE.iter().find(|known| known.number == self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}; {}",
            self.name(),
            self.0,
            self.meaning(),
            self.remedy()
        )
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl std::error::Error for Errno {}

/// An error when `value` is below zero, for functions that return a negative errno.
pub(crate) fn check(value: i32) -> Result<i32, Errno> {
    if value < 0 {
        Err(Errno::from_return(value))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, TABLE};

    #[test]
    fn every_number_is_explained_once() {
        for (index, known) in TABLE.iter().enumerate() {
            let same = TABLE.iter().filter(|other| other.number == known.number).count();
            assert_eq!(same, 1, "{} is there twice", known.name);
            let text = Errno(known.number).to_string();
            assert!(text.starts_with(known.name), "line {index}: {text}");
            assert!(text.contains(known.remedy), "line {index}: {text}");
        }
    }

    #[test]
    fn returned_numbers_become_positive() {
        assert_eq!(Errno::from_return(-libc::ENOMEM).name(), "ENOMEM");
        assert_eq!(Errno::from_return(i32::MIN).name(), "EINVAL");
        assert_eq!(Errno::from_return(-9999).number(), 9999);
        assert!(Errno::from_return(-9999).to_string().contains("logged"));
    }
}

//! PCI addresses, and the kernel's view of the device at one.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Kernel drivers that hand a device to user space.
const HANDING_OVER: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Kernel drivers that keep a device and let DPDK use it beside them.
const SHARING: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "nicvf"];

/// Address of a PCI device, with its domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(String);

/// Who has a PCI device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// There is no such device.
    Missing,
    Nobody,
    /// One from which DPDK can take it.
    Usable,
    /// One of the kernel's own.
    Kernel(String),
}

impl Address {
    /// `0000:01:00.0`, or `01:00.0`, which is in domain 0.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (bus, rest) = text.rsplit_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let (domain, bus) = bus.split_once(':').unwrap_or(("0000", bus));
        let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
        let octal = function.len() == 1 && function.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let valid = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && octal;
        valid.then(|| Self(format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase()))
    }

    /// Who has the device, as `/sys` says.
    pub(crate) fn holder(&self) -> Binding {
        self.holder_under(Path::new("/sys/bus/pci/devices"))
    }

    fn holder_under(&self, devices: &Path) -> Binding {
        let device = devices.join(&self.0);
        if !device.exists() {
            return Binding::Missing;
        }
        let driver: Option<PathBuf> = fs::read_link(device.join("driver")).ok();
        let Some(driver) = driver.as_deref().and_then(Path::file_name) else {
            return Binding::Nobody;
        };
        let driver = driver.to_string_lossy();
        if HANDING_OVER.contains(&driver.as_ref()) || SHARING.contains(&driver.as_ref()) {
            Binding::Usable
        } else {
            Binding::Kernel(driver.into_owned())
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Binding};
    use std::os::unix::fs::symlink;

    #[test]
    fn addresses_are_told_from_names() {
        let full = Address::parse("0000:01:00.0").unwrap();
        assert_eq!(Address::parse("01:00.0").unwrap(), full);
        assert_eq!(
            Address::parse("10DE:AB:1f.7").unwrap().to_string(),
            "10de:ab:1f.7"
        );
        for name in [
            "net_tap0",
            "eth0",
            "01:00",
            "1:00.0",
            "0000:01:00.8",
            "0000:0g:00.0",
            "0:0:0:0.0",
            "",
        ] {
            assert_eq!(Address::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_kernel_says_who_has_a_device() {
        let sys = tempfile::tempdir().unwrap();
        let holder = |address: &str| Address::parse(address).unwrap().holder_under(sys.path());
        let bind = |address: &str, driver: Option<&str>| {
            let device = sys.path().join(address);
            std::fs::create_dir(&device).unwrap();
            if let Some(driver) = driver {
                symlink(
                    format!("../../../bus/pci/drivers/{driver}"),
                    device.join("driver"),
                )
                .unwrap();
            }
        };
        bind("0000:01:00.0", Some("ixgbe"));
        bind("0000:01:00.1", Some("vfio-pci"));
        bind("0000:01:00.2", Some("mlx5_core"));
        bind("0000:01:00.3", None);
        assert_eq!(holder("0000:01:00.0"), Binding::Kernel("ixgbe".to_owned()));
        assert_eq!(holder("0000:01:00.1"), Binding::Usable);
        assert_eq!(holder("0000:01:00.2"), Binding::Usable);
        assert_eq!(holder("0000:01:00.3"), Binding::Nobody);
        assert_eq!(holder("0000:01:00.4"), Binding::Missing);
    }
}

//! Debian packages of DPDK's drivers, for errors about a missing driver.

use portcullis_dpdk_sys as sys;

/// The Debian package with the driver of the virtual device `name` (`net_tap0` is in `librte-net-tap23`), for the DPDK
/// that runs.
pub(crate) fn of_vdev(name: &str) -> String {
    // SAFETY: the functions take nothing and return numbers.
    let (year, month) = unsafe { (sys::rte_version_year(), sys::rte_version_month()) };
    named(name, abi(year, month))
}

/// The version of DPDK's ABI, which the packages' names carry: it is that of the next November's release, counted in years
/// from 2000, plus one from then on.
fn abi(year: u32, month: u32) -> u32 {
    if month >= 11 { year + 1 } else { year }
}

fn named(vdev: &str, abi: u32) -> String {
    let class = vdev.trim_end_matches(|c: char| c.is_ascii_digit());
    let driver = class.split_once('_').map_or(class, |(_, driver)| driver);
    let driver = match driver.trim_end_matches('_') {
        "tun" => "tap",
        "virtio_user" => "virtio",
        "bonding" => "bond",
        other => other,
    };
    let dash = if driver.ends_with(|c: char| c.is_ascii_digit()) {
        "-"
    } else {
        ""
    };
    format!("librte-net-{}{dash}{abi}", driver.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::{abi, named};

    #[test]
    fn packages_are_named_as_debian_names_them() {
        for (vdev, package) in [
            ("net_tap0", "librte-net-tap23"),
            ("net_tun3", "librte-net-tap23"),
            ("net_af_packet12", "librte-net-af-packet23"),
            ("net_af_xdp0", "librte-net-af-xdp23"),
            ("net_virtio_user0", "librte-net-virtio23"),
            ("net_bonding_1", "librte-net-bond23"),
            ("net_ring", "librte-net-ring23"),
            ("eth_ring0", "librte-net-ring23"),
        ] {
            assert_eq!(named(vdev, 23), package);
        }
    }

    #[test]
    fn the_abi_changes_in_november() {
        assert_eq!(abi(22, 11), 23);
        assert_eq!(abi(23, 7), 23);
        assert_eq!(abi(24, 11), 25);
        assert_eq!(abi(25, 11), 26);
    }
}

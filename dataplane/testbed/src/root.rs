//! Which tests cannot run here, and why: said aloud and counted.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// What this machine or user lacks for tests against a real switch; `None` when nothing is missing.
pub fn missing_for_real_switch() -> Option<&'static str> {
    if !crate::sys::is_root() {
        Some("root, for network namespaces and hugepages")
    } else if !Path::new(VSWITCHD).exists() && !Path::new("/usr/sbin/ovs-vswitchd").exists() {
        Some("Open vSwitch with DPDK (Debian package openvswitch-switch-dpdk)")
    } else {
        None
    }
}

/// Whether `test_name` can run against a real switch here. When it cannot, prints `SKIPPED: …` and appends one line to
/// the file that the environment variable `PORTCULLIS_SKIPPED` names, for `hack/test` to count.
///
/// ```no_run
/// # fn main() {
/// if !portcullis_testbed::need_root("two_endpoints_talk") {
///     return;
/// }
/// # }
/// ```
#[must_use]
pub fn need_root(test_name: &str) -> bool {
    let Some(missing) = missing_for_real_switch() else {
        return true;
    };
    println!("SKIPPED: needs {missing}: {test_name}");
    if let Some(path) = std::env::var_os("PORTCULLIS_SKIPPED") {
        let line = format!("{test_name}: needs {missing}\n");
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            panic!(
                "a skipped test must be counted, and {} is not writable: {error}",
                Path::new(&path).display()
            );
        }
    }
    false
}

//! The clocks of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_unlock::clock::Moment;

/// Now. `CLOCK_BOOTTIME` counts suspended time as well, and cannot be set.
pub fn now() -> Moment {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment {
        wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        boot_ms: since_boot(),
        boot: boot(),
    }
}

fn since_boot() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// The kernel's id of this start of the machine. Where it cannot be read every look is a start of its own, which ends
/// leases early rather than late.
fn boot() -> u128 {
    static BOOT: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let digits = text.map(|text| text.chars().filter(char::is_ascii_hexdigit).collect::<String>());
        let id = digits
            .ok()
            .and_then(|digits| u128::from_str_radix(&digits, 16).ok());
        id.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_nanos()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on() {
        let (a, b) = (now(), now());
        assert_eq!(a.boot, b.boot);
        assert!(a.boot_ms <= b.boot_ms && a.boot_ms > 0 && a.wall_ms > 1_600_000_000_000);
    }
}

//! Which CPUs a thread may run on.

use std::io;
use std::mem::{size_of, zeroed};

/// The CPUs that the calling thread may run on, ascending.
pub(crate) fn current() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the pointer and the size describe `set`; 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let limit = libc::CPU_SETSIZE as usize;
    // SAFETY: every CPU asked for is below CPU_SETSIZE, the number of bits in the set.
    Ok((0..limit)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Lets the calling thread run on `cpu` only.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: cpu_set_t is plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, the number of bits in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size describe `set`; 0 is the calling thread.
    let status = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pinned_thread_runs_on_one_cpu_and_others_on_all() {
        let before = super::current().unwrap();
        let last = *before.last().unwrap();
        let pinned = std::thread::spawn(move || {
            super::pin(last).unwrap();
            super::current().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(super::current().unwrap(), before);
        assert!(super::pin(1 << 20).is_err());
    }
}

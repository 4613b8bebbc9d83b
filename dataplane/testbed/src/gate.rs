//! One thread of a process at a time may hold sandboxes.
//!
//! Plain `cargo test` runs the tests of a binary side by side; each real switch polls a core and takes hugepages.
//! A thread may hold several sandboxes; the others wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

static HOLDER: Mutex<Option<(ThreadId, usize)>> = Mutex::new(None);
static FREED: Condvar = Condvar::new();

fn holder() -> MutexGuard<'static, Option<(ThreadId, usize)>> {
    HOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to hold one sandbox.
pub(crate) struct Pass(());

impl Pass {
    /// Waits until no other thread holds a sandbox.
    pub(crate) fn enter() -> Self {
        let me = thread::current().id();
        let mut holder = holder();
        loop {
            match holder.as_mut() {
                None => *holder = Some((me, 1)),
                Some((owner, count)) if *owner == me => *count += 1,
                Some(_) => {
                    holder = FREED.wait(holder).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            }
            return Self(());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut holder = holder();
        *holder = holder
            .take()
            .filter(|(_, count)| *count > 1)
            .map(|(owner, count)| (owner, count - 1));
        FREED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_thread_at_a_time_and_as_often_as_it_likes() {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let first = Pass::enter();
                    assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0);
                    let second = Pass::enter();
                    drop(first);
                    thread::yield_now();
                    INSIDE.fetch_sub(1, Ordering::SeqCst);
                    drop(second);
                });
            }
        });
    }
}

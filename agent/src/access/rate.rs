//! Rate limits per caller.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::Role;
use crate::config::{Rate, Rates};

/// Callers that are remembered at a time, for each role; further ones share one allowance.
const REMEMBERED: usize = 10_000;
/// Calls after which those who have not asked of late are forgotten.
const SWEEP: u64 = 1024;

/// The allowance of every caller with a role that has one.
#[derive(Debug)]
pub struct Allowances<C: Clock = DefaultClock> {
    roles: Vec<(Role, Allowance<C>)>,
    clock: C,
}

/// Allowances by a name: a caller's, or a tenant's.
pub type Limiter<C> =
    RateLimiter<String, DashMapStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;

#[derive(Debug)]
struct Allowance<C: Clock> {
    limiter: Limiter<C>,
    calls: AtomicU64,
}

impl<C: Clock + Clone> Allowances<C> {
    /// As configured, by this clock.
    pub fn new(rates: &Rates, clock: C) -> Self {
        let role = |role: &Role| {
            let Rate { per_second, burst } = rates.of(*role)?;
            let quota = Quota::per_second(NonZeroU32::new(per_second)?).allow_burst(NonZeroU32::new(burst)?);
            let allowance = Allowance {
                limiter: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
                calls: AtomicU64::new(0),
            };
            Some((*role, allowance))
        };
        Allowances {
            roles: Role::ALL.iter().filter_map(role).collect(),
            clock,
        }
    }

    /// Takes one call from a caller's allowance; the error says when there is one again.
    pub fn take(&self, role: Role, caller: &str) -> Result<(), Duration> {
        let Some((_, allowance)) = self.roles.iter().find(|(r, _)| *r == role) else {
            return Ok(());
        };
        let limiter = &allowance.limiter;
        if allowance.calls.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let key = if limiter.len() < REMEMBERED { caller } else { "" };
        limiter
            .check_key(&key.to_string())
            .map_err(|refused| refused.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn tenants(per_second: u32, burst: u32) -> (Allowances<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let mut rates = Rates::default();
        rates.set(Role::Tenant, Some(Rate { per_second, burst }));
        (Allowances::new(&rates, clock.clone()), clock)
    }

    #[test]
    fn each_caller_has_its_own_allowance() {
        let (rates, clock) = tenants(2, 3);
        for _ in 0..3 {
            assert_eq!(rates.take(Role::Tenant, "a"), Ok(()));
        }
        let wait = rates.take(Role::Tenant, "a").unwrap_err();
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_millis(500),
            "{wait:?}"
        );
        assert_eq!(rates.take(Role::Tenant, "b"), Ok(()));
        clock.advance(wait);
        assert_eq!(rates.take(Role::Tenant, "a"), Ok(()));
        assert!(rates.take(Role::Tenant, "a").is_err());
        for _ in 0..100 {
            assert_eq!(rates.take(Role::Viewer, "a"), Ok(()));
        }
    }

    #[test]
    fn no_number_of_callers_takes_all_memory() {
        let (rates, clock) = tenants(1, 1);
        for i in 0..3 * REMEMBERED {
            let _ = rates.take(Role::Tenant, &format!("caller {i}"));
        }
        let limiter = &rates.roles[0].1.limiter;
        assert!(limiter.len() <= REMEMBERED + 1, "{}", limiter.len());
        clock.advance(Duration::from_secs(10));
        for _ in 0..2 * SWEEP {
            let _ = rates.take(Role::Tenant, "a");
        }
        assert!(limiter.len() <= 2, "{}", limiter.len());
    }
}

//! Budgets of tenants: requests for unlocks, and renewals, in an hour. Each of them makes checks, and an entry of the audit log.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::status::ApiError;
use crate::access::{Caller, Limiter};

/// Requests after which tenants are forgotten that have not asked of late.
const SWEEP: u64 = 1024;

/// What every tenant may ask for.
#[derive(Debug)]
pub(super) struct Budget<C: Clock = DefaultClock> {
    per_hour: NonZeroU32,
    limiter: Limiter<C>,
    clock: C,
    requests: AtomicU64,
}

impl<C: Clock + Clone> Budget<C> {
    /// Each tenant may make `per_hour` requests an hour, at once or spread over it.
    pub fn new(per_hour: u32, clock: C) -> Self {
        let per_hour = NonZeroU32::new(per_hour).unwrap_or(NonZeroU32::MIN);
        Budget {
            per_hour,
            limiter: RateLimiter::new(
                Quota::per_hour(per_hour),
                DashMapStateStore::default(),
                clock.clone(),
            ),
            clock,
            requests: AtomicU64::new(0),
        }
    }

    /// Takes a request from a tenant's budget. Requests of operators are not counted.
    pub fn take(&self, caller: &Caller) -> Result<(), ApiError> {
        let Some(tenant) = &caller.tenant else {
            return Ok(());
        };
        if self.requests.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(tenant).map_err(|refused| {
            let wait = refused.wait_time_from(self.clock.now());
            ApiError::TooManyRequests {
                limit: self.per_hour.get(),
                wait: Duration::from_secs(wait.as_secs() + 1),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::access::Role;

    #[test]
    fn each_tenant_has_its_own_and_operators_none() {
        let clock = FakeRelativeClock::default();
        let budget = Budget::new(60, clock.clone());
        let tenant = |name: &str, tenant: &str| Caller::of_tenant(name, tenant, "tenant".into());
        // Two tokens of one tenant share.
        for n in 0..60 {
            let who = if n % 2 == 0 { "token a" } else { "token b" };
            budget.take(&tenant(who, "acme")).unwrap();
        }
        let Err(ApiError::TooManyRequests { limit: 60, wait }) = budget.take(&tenant("token a", "acme"))
        else {
            panic!("a request more than there may be");
        };
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(61),
            "{wait:?}"
        );
        budget.take(&tenant("token c", "other")).unwrap();
        for _ in 0..100 {
            budget.take(&Caller::new("uid 0", Role::Operator)).unwrap();
        }
        clock.advance(wait);
        budget.take(&tenant("token b", "acme")).unwrap();
        assert!(budget.take(&tenant("token b", "acme")).is_err());
    }
}

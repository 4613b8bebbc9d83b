//! Places for streams that go on until their reader leaves: each caller has some, all together have some, and a part of those is
//! for operators and orchestration alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::status::ApiError;
use crate::access::{Caller, Role};
use crate::config::Limits;

#[derive(Debug)]
pub(super) struct Watchers {
    all: usize,
    each: usize,
    reserved: usize,
    taken: Mutex<TakenStreams>,
}

#[derive(Debug, Default)]
struct TakenStreams {
    all: usize,
    /// By those who have no reserve.
    common: usize,
    by: HashMap<String, usize>,
}

/// A place; dropping it makes it free.
#[derive(Debug)]
pub(super) struct WatchSlot {
    watchers: Arc<Watchers>,
    caller: String,
    common: bool,
}

impl Watchers {
    pub fn new(limits: &Limits) -> Self {
        Watchers {
            all: limits.watchers,
            each: limits.watchers_per_caller.min(limits.watchers),
            reserved: limits.watchers_reserved.min(limits.watchers),
            taken: Mutex::default(),
        }
    }

    /// A place for a caller. The tokens and certificates of one tenant share.
    pub fn place(self: &Arc<Self>, caller: &Caller) -> Result<WatchSlot, ApiError> {
        let common = !matches!(caller.role, Role::Operator | Role::Provisioner);
        let name = match &caller.tenant {
            Some(tenant) => format!("tenant {tenant}"),
            None => caller.name.clone(),
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by.get(&name).copied().unwrap_or(0);
        let open = self.all - self.reserved;
        let full = |limit, whom, setting| Err(ApiError::TooManyWatchers { limit, whom, setting });
        if taken.all >= self.all {
            return full(self.all, "", "watchers");
        }
        if own >= self.each {
            return full(self.each, " for each caller", "watchers_per_caller");
        }
        if common && taken.common >= open {
            return full(open, " for tenants and viewers", "watchers");
        }
        taken.all += 1;
        taken.common += usize::from(common);
        taken.by.insert(name.clone(), own + 1);
        Ok(WatchSlot {
            watchers: Arc::clone(self),
            caller: name,
            common,
        })
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        let mut taken = self.watchers.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        taken.common -= usize::from(self.common);
        match taken.by.get_mut(&self.caller) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by.remove(&self.caller)),
        }
    }
}

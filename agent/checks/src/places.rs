//! Places for checks that run at a time, shared fairly between owners (tenants). An owner has at most a quarter of them, in use or in
//! the queue for one, so that checks which wait for a slow DNS zone of one owner do not keep the checks of others waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The share of one owner: one part in four.
const SHARE: usize = 4;

type Owners = HashMap<Arc<str>, Arc<Semaphore>>;

#[derive(Debug)]
pub(crate) struct Places {
    all: Semaphore,
    each: usize,
    owners: Mutex<Owners>,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    places: &'a Places,
    owner: Arc<str>,
    own: Option<OwnedSemaphorePermit>,
    _all: Option<SemaphorePermit<'a>>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        Places {
            all: Semaphore::new(count),
            each: count.div_ceil(SHARE),
            owners: Mutex::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one of the owner's part. Dropping the future gives up the owner's turn.
    pub(crate) async fn own(&self, owner: &Arc<str>) -> Permit<'_> {
        let own = {
            let mut owners = self.owners();
            let own = owners.entry(Arc::clone(owner));
            Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(self.each))))
        };
        let mut place = Permit {
            places: self,
            owner: Arc::clone(owner),
            own: None,
            _all: None,
        };
        // The semaphores are never closed.
        place.own = own.acquire_owned().await.ok();
        place
    }
}

impl Permit<'_> {
    /// Waits for one of all places, too.
    pub(crate) async fn of_all(mut self) -> Self {
        self._all = self.places.all.acquire().await.ok();
        self
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.own = None;
        let mut owners = self.places.owners();
        // Nobody else of this owner holds a place or waits for one.
        if owners
            .get(&self.owner)
            .is_some_and(|own| Arc::strong_count(own) == 1)
        {
            owners.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn taken<'a>(places: &'a Places, owner: &Arc<str>) -> Permit<'a> {
        places.own(owner).await.of_all().await
    }

    #[tokio::test]
    async fn one_owner_never_takes_the_places_of_others() {
        let places = Places::new(8);
        let (greedy, other): (Arc<str>, Arc<str>) = ("greedy".into(), "other".into());
        let held = [taken(&places, &greedy).await, taken(&places, &greedy).await];
        assert!(
            timeout(SHORT, taken(&places, &greedy)).await.is_err(),
            "a quarter of 8"
        );
        let theirs = timeout(SHORT, taken(&places, &other)).await;
        assert!(theirs.is_ok());
        drop(held);
        assert!(timeout(SHORT, taken(&places, &greedy)).await.is_ok());
        drop(theirs);
        assert!(
            places.owners().is_empty(),
            "nothing is kept of owners without checks"
        );
    }

    #[tokio::test]
    async fn one_place_is_for_everybody() {
        let places = Places::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let held = taken(&places, &a).await;
        assert!(timeout(SHORT, taken(&places, &b)).await.is_err());
        assert_eq!(places.owners().len(), 1);
        drop(held);
        assert!(timeout(SHORT, taken(&places, &b)).await.is_ok());
    }
}

//! No sequence of events, restarts and clock jumps gives traffic without an active lease, nor leaves traffic open that would
//! not be granted today, whatever becomes of tenants, addresses, labels and programs: judged by the reference verdict,
//! against a model that knows the true time.

use proptest::prelude::*;

use events::event;
use world::World;

mod events;
mod leases;
mod model;
mod openings;
mod revocations;
mod world;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_open_that_would_not_be_granted(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
    }
}

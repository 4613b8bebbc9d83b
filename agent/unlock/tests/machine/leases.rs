//! How leases begin, last and end.

use portcullis_policy::Document;
use portcullis_unlock::judge;
use portcullis_unlock::ledger::State;

use super::events::{DOCUMENT, Event, TIMED, UNTIL};
use super::world::{World, active, stands};

#[test]
fn a_life_from_request_to_end() {
    let mut world = World::new();
    world.request(0, 0, None);
    let state = |world: &World| {
        world
            .stored
            .values()
            .map(|u| (u.program.to_string(), u.state))
            .collect::<Vec<_>>()
    };
    assert_eq!(state(&world), [("base".to_string(), State::Checking)]);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    // Granted, and the request that follows it is there.
    assert!(state(&world).contains(&("base".to_string(), State::Active)));
    assert!(state(&world).contains(&("after".to_string(), State::Checking)));
    world.request(1, 0, None);
    let built = world
        .ledger
        .iter()
        .find(|u| u.program.as_str() == "built")
        .cloned()
        .unwrap();
    world.judge(&built, 5);
    world.apply(&Event::Wait(55));
    assert!(state(&world).contains(&("base".to_string(), State::Expiring)));
    world.apply(&Event::Wait(5));
    assert!(state(&world).contains(&("base".to_string(), State::Expired)));
    // What is built on it ends with it.
    assert!(state(&world).contains(&("built".to_string(), State::Revoked)));
    assert_eq!(world.ledger.grants().len(), 0);
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_lease() {
    let (mut world, id) = active();
    world.apply(&Event::Jump(-1000));
    world.apply(&Event::Wait(59));
    assert!(world.stored[&id].state.is_open());
    world.apply(&Event::Wait(1));
    assert_eq!(world.stored[&id].state, State::Expired);
    assert_eq!(world.ledger.grants().len(), 0);
}

#[test]
fn what_is_required_of_the_time_is_judged_within_a_minute() {
    let mut world = World::new();
    world.vary(TIMED);
    world.request(0, 0, Some(200));
    let unlock = world.nth(0).unwrap();
    world.wall = UNTIL - 100;
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    let left = world.ledger.next_ms(&world.now()).unwrap();
    assert!(left <= 60_000, "a deadline, no poll: {left}");
    world.apply(&Event::Wait(99));
    assert!(world.ledger.get(unlock.id.as_str()).unwrap().state.is_open());
    let revision = world.ledger.get(unlock.id.as_str()).unwrap().revision;
    // Looked at every second it is judged once a minute, and nothing is stored of that.
    for _ in 0..60 {
        world.apply(&Event::Wait(1));
        let now = world.ledger.get(unlock.id.as_str());
        assert!(now.is_none_or(|now| !now.state.is_open() || now.revision == revision));
    }
    let ended = &world.stored[&unlock.id];
    assert_eq!(ended.state, State::Revoked);
    assert!(ended.reason.contains("timestamp"), "{}", ended.reason);
    assert!(stands(&world, "a", "t").is_empty(), "it is no revocation");

    // A clock that is set does not wait for a minute.
    let mut world = World::new();
    world.vary(TIMED);
    world.request(0, 0, Some(200));
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    world.wall = UNTIL - 5;
    world.apply(&Event::Wait(1));
    assert!(
        world
            .ledger
            .get(unlock.id.as_str())
            .is_none_or(|unlock| !unlock.state.is_open())
    );
}

#[test]
fn require_alone_is_judged_as_often_as_the_program_says() {
    let text = DOCUMENT.replace(
        "    lease: {default: 500s}",
        "    require: now < timestamp(\"2027-01-15T08:05:00Z\")\n    lease: {default: 500s, recheck_every: 20s}",
    );
    let mut world = World::new();
    world.edit(|document| document.programs = Document::from_yaml(&text).unwrap().programs);
    let by_time = |name: &str| judge::by_time(&world.document, &world.document.programs[name]);
    assert!(
        !by_time("base") && !by_time("built"),
        "the program says how often"
    );
    let (active, _) = active();
    assert!(active.ledger.iter().all(|unlock| !unlock.by_time));
    let refused = DOCUMENT.replace(
        "lease: {default: 500s}",
        "lease: {default: 500s, recheck_every: 20s}",
    );
    let refused = Document::from_yaml(&refused).unwrap_err().to_string();
    assert!(
        refused.contains("programs.built.lease.recheck_every"),
        "{refused}"
    );
}

#[test]
fn a_tenant_has_no_more_under_way_than_the_agent_allows() {
    let (mut world, id) = active();
    world.ledger.limit_tenants(2);
    world.request(2, 1, None);
    let all = stands(&world, "b", "t");
    assert!(all[0].contains("limits.tenant_unlocks"), "{all:?}");
    assert!(stands(&world, "b", "u").is_empty());
    // What ends makes room, and closing is no request.
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    world.note(changes);
    assert!(stands(&world, "b", "t").is_empty());
}

#[test]
fn an_approval_rests_on_checks_that_are_fresh() {
    for (waited, again) in [(0, 30), (10, 20), (40, 0)] {
        let mut world = World::new();
        world.vary(2);
        world.request(0, 0, None);
        let unlock = world.nth(0).unwrap();
        world.judge(&unlock, 5);
        world.apply(&Event::Wait(waited));
        world.apply(&Event::Approve(0));
        let unlock = world.ledger.get(unlock.id.as_str()).unwrap();
        assert!(unlock.state.is_open());
        let due = unlock.recheck.unwrap().left_ms(&world.now());
        assert_eq!(due, again * 1000, "checked {waited} s before, again in {again} s");
    }
}

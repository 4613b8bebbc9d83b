//! What revokes a grant, and what a revocation costs.

use portcullis_policy::Name;
use portcullis_unlock::ledger::{State, Unlock};

use super::events::Event;
use super::world::{World, active, stands};

#[test]
fn a_failing_check_is_borne_for_its_grace_and_revocations_cool_down() {
    let mut world = World::new();
    world.request(0, 0, None);
    let id = world.nth(0).unwrap();
    world.judge(&id, 5);
    world.apply(&Event::Wait(30));
    assert!(world.ledger.to_check(&world.now()).contains(&id.id));
    world.judge(&id, 0);
    assert!(world.ledger.get(id.id.as_str()).unwrap().failing.is_some());
    world.apply(&Event::Wait(9));
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    world.apply(&Event::Wait(1));
    // The grace is over; one answer, and two, are no proof.
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    assert!(
        world.ledger.to_check(&world.now()).contains(&id.id),
        "again after 10 s"
    );
    world.judge(&id, 0);
    assert!(!world.ledger.to_check(&world.now()).contains(&id.id));
    world.apply(&Event::Renew(0, Some(200)));
    world.apply(&Event::Wait(60));
    assert!(world.ledger.to_check(&world.now()).contains(&id.id));
    // What could not be asked is no answer.
    world.judge(&id, 3);
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    world.judge(&id, 0);
    assert_eq!(world.stored[&id.id].state, State::Revoked);
    let stand = |world: &World| {
        let (endpoint, program) = ("a".parse().unwrap(), "base".parse().unwrap());
        let found = world
            .ledger
            .obstacles(&world.document, &endpoint, "t", &program, &world.now());
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        stand(&world),
        ["`base` was revoked on `a`, 1 time(s) so far: a new request is taken in 20s"]
    );
    // Setting the clock forward does not shorten it.
    world.apply(&Event::Jump(10_000));
    assert_eq!(stand(&world).len(), 1);
    world.apply(&Event::Wait(20));
    assert!(stand(&world).is_empty());
}

#[test]
fn nobody_escapes_a_revocation_by_being_quicker() {
    let (mut world, id) = active();
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    let ended = Unlock::clone(&changes[0].unlock);
    world.note(changes);
    assert!(stands(&world, "a", "t").is_empty());
    // Another one under the same program, in the meantime.
    world.request(0, 0, None);
    let next = world.nth(0).unwrap();
    world.judge(&next, 5);
    let document = world.document.clone();
    let mut tried = world.ledger.clone();
    assert!(
        tried
            .revoke_ended(&document, &ended, ("", true), "operator", &now)
            .is_err()
    );
    let changes = tried
        .revoke_ended(&document, &ended, ("spam", true), "operator", &now)
        .unwrap();
    assert_eq!(changes[0].unlock.id, id);
    assert!(changes[0].unlock.quarantine.is_some() && changes[0].unlock.ended_at == ended.ended_at);
    assert_eq!(tried.get(next.id.as_str()).map(|unlock| unlock.state), None);
    assert_eq!(
        tried
            .strikes(&"a".parse().unwrap(), &"base".parse().unwrap())
            .unwrap()
            .times,
        1
    );
    // Again, with a word more: it is counted once.
    let again = Unlock::clone(&changes[0].unlock);
    tried
        .revoke_ended(&document, &again, ("spam, twice", true), "operator", &now)
        .unwrap();
    assert_eq!(
        tried
            .strikes(&"a".parse().unwrap(), &"base".parse().unwrap())
            .unwrap()
            .times,
        1
    );
    world.ledger = tried;
    assert_eq!(stands(&world, "a", "t").len(), 1);
    assert_eq!(stands(&world, "b", "t").len(), 1, "it counts against the tenant");
    assert!(stands(&world, "b", "u").is_empty());
    // Long after, it is over.
    world.wall += 31 * 86_400;
    let now = world.now();
    let late = world
        .ledger
        .clone()
        .revoke_ended(&document, &ended, ("spam", true), "operator", &now);
    assert!(late.is_err());
}

#[test]
fn a_release_while_checks_fail_counts() {
    let (mut world, id) = active();
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 0);
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    assert_eq!(changes[0].unlock.state, State::Released);
    assert_eq!(stands(&world, "a", "t").len(), 1);
}

#[test]
fn an_endpoint_that_is_created_again_is_quarantined_and_cools_down() {
    let (mut world, id) = active();
    let now = world.now();
    let changes = world
        .ledger
        .revoke(&world.document, &id, ("spam", true), "operator", &now)
        .unwrap();
    world.note(changes);
    let denied = world.ledger.grants().clone();
    assert!(!denied.is_empty());
    let before = world.ledger.clone();
    world.bounce(0);
    assert_eq!(*world.ledger.grants(), denied);
    assert_eq!(stands(&world, "a", "t").len(), 1);
    // What the endpoint is relieved of is stored, too, so that no restart brings it back.
    let changed = world.ledger.strikes_since(&before);
    assert_eq!(changed.len(), 1);
    assert!(changed[0].1.is_none());
    // Somebody else's server of that name is not punished.
    world.apply(&Event::Tenant(0, true));
    assert!(world.ledger.grants().is_empty());
    assert!(stands(&world, "a", "u").is_empty());
    world.apply(&Event::Tenant(0, false));
    assert_eq!(stands(&world, "a", "t").len(), 1);
}

#[test]
fn a_tenant_that_makes_checks_undetermined_between_failures_wins_an_hour_at_most() {
    let (mut world, id) = active();
    world.apply(&Event::Renew(0, Some(200)));
    let mut asked = 0;
    for round in 0..200 {
        let unlock = world.ledger.get(id.as_str()).cloned();
        let Some(unlock) = unlock.filter(|unlock| unlock.state.is_open()) else {
            break;
        };
        world.apply(&Event::Renew(0, Some(200)));
        world.judge(&unlock, u8::from(round % 2 == 0));
        asked += 1;
        world.apply(&Event::Wait(30));
    }
    assert_eq!(world.stored[&id].state, State::Revoked);
    assert!((118..=122).contains(&asked), "{asked} times, 30 s apart");
}

#[test]
fn who_gives_an_endpoint_up_while_checks_fail_is_not_spared() {
    for away in [true, false] {
        let (mut world, id) = active();
        world.judge(&world.nth(0).unwrap(), 0);
        match away {
            true => world.bounce(0),
            false => world.apply(&Event::Tenant(0, true)),
        }
        assert_eq!(world.stored[&id].state, State::Revoked);
        assert_eq!(stands(&world, "b", "t").len(), 1, "it counts against the tenant");
        assert!(
            stands(&world, "a", "u").is_empty(),
            "the endpoint has no part in it"
        );
    }
    // Without a failure it is nobody's fault.
    let (mut world, _) = active();
    world.bounce(0);
    assert!(stands(&world, "a", "t").is_empty());
}

#[test]
fn a_late_revocation_does_not_count_against_the_next_tenant() {
    let (mut world, id) = active();
    world.apply(&Event::Tenant(0, true));
    let ended = world.stored[&id].clone();
    let now = world.now();
    let changes = world
        .ledger
        .revoke_ended(&world.document, &ended, ("spam", true), "operator", &now)
        .unwrap();
    world.note(changes);
    assert_eq!(stands(&world, "b", "t").len(), 1);
    assert!(stands(&world, "a", "u").is_empty());
}

#[test]
fn what_is_required_of_other_unlocks_is_judged_when_they_change() {
    let ended = |world: &World, id: &Name| {
        let unlock = &world.stored[id];
        assert_eq!(unlock.state, State::Revoked, "{}", unlock.reason);
        assert!(unlock.reason.contains("unlocks.after"), "{}", unlock.reason);
    };
    // Another one is granted on the endpoint.
    let begin = || {
        let mut world = World::new();
        world.vary(12);
        world.request(0, 0, None);
        let id = world.nth(0).unwrap().id.clone();
        world.judge(&world.nth(0).unwrap(), 5);
        assert!(world.stored[&id].state.is_open());
        let mut all = world.ledger.iter();
        let after = all.position(|unlock| unlock.program.as_str() == "after").unwrap();
        drop(all);
        (after, id, world)
    };
    let (after, id, mut world) = begin();
    world.judge(&world.nth(after).unwrap(), 5);
    assert!(world.stored[&id].state.is_open(), "it is not granted yet");
    world.apply(&Event::Approve(after));
    ended(&world, &id);
    // One is revoked on another endpoint of the tenant.
    let (_, id, mut world) = begin();
    world.request(2, 1, None);
    let other = world.ledger.of_endpoint("b").next().unwrap().clone();
    world.judge(&other, 5);
    let nth = |world: &World| {
        world
            .ledger
            .iter()
            .position(|unlock| unlock.id == other.id)
            .unwrap()
    };
    let at = nth(&world);
    world.apply(&Event::Approve(at));
    assert!(world.stored[&id].state.is_open());
    let at = nth(&world);
    world.apply(&Event::Revoke(at, false));
    ended(&world, &id);
}

#[test]
fn what_a_check_says_may_be_required() {
    let mut world = World::new();
    world.alter(&[(
        "paid == \"yes\"",
        "paid == \"yes\" && checks.banner.detail == \"as it is\"",
    )]);
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    assert!(
        world.stored[&unlock.id].state.is_open(),
        "{}",
        world.stored[&unlock.id].reason
    );
    // A label that says no waits for no check.
    world.apply(&Event::Label(0, false));
    assert_eq!(world.stored[&unlock.id].state, State::Revoked);
}

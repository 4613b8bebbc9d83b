//! What grants open, and when that closes.

use portcullis_unlock::ledger::{State, notes};

use super::events::Event;
use super::world::{World, active};

/// What grants open on `a`, by port.
fn open_ports(world: &World) -> Vec<u16> {
    let grants = world.ledger.grants();
    let rules = grants.get("a").into_iter().flat_map(|grants| grants.iter());
    let ports = rules.flat_map(|grant| &grant.rules).flat_map(|rule| &rule.ports);
    ports.map(|range| range.low).collect()
}

#[test]
fn a_grant_ends_with_its_endpoint_and_does_not_come_back_with_it() {
    let (mut world, id) = active();
    assert_eq!(open_ports(&world), [25]);
    world.bounce(0);
    let state = world.stored[&id].state;
    assert!(state.has_ended(), "{state:?} after its endpoint was gone");
    assert_eq!(open_ports(&world), Vec::<u16>::new());
    world.check();
}

#[test]
fn what_a_program_opens_no_more_closes_while_its_checks_are_made_again() {
    const TWO: (&str, &str) = (
        "ports: [25]}]",
        "ports: [25]}, {direction: egress, protocol: tcp, ports: [2525]}]",
    );
    let mut world = World::new();
    world.alter(&[TWO]);
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    assert_eq!(open_ports(&world), [25, 2525]);
    // Other checks alone close nothing until they are made.
    world.alter(&[TWO, ("kind: banner, port: 25", "kind: banner, port: 26")]);
    assert_eq!(open_ports(&world), [25, 2525]);
    // Other checks again, and less that is opened: the rest waits for no check.
    world.alter(&[("kind: banner, port: 25", "kind: banner, port: 27")]);
    assert_eq!(open_ports(&world), [25]);
    world.judge(&unlock, 5);
    assert_eq!(open_ports(&world), [25]);
}

#[test]
fn a_grant_opens_no_prefix_that_nobody_checked() {
    let mut world = World::new();
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses = ["192.0.2.1", "2001:db8:7::/64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    });
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    let own = |world: &World| {
        let unlock = world.ledger.get(unlock.id.as_str()).unwrap();
        let rules = unlock.rules();
        rules.iter().map(|rule| rule.local.clone()).collect::<Vec<_>>()
    };
    let one = vec!["192.0.2.1".parse().unwrap()];
    assert_eq!(own(&world), std::slice::from_ref(&one));
    // An address more is not checked, either.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses.push("192.0.2.2".parse().unwrap())
    });
    assert_eq!(own(&world), std::slice::from_ref(&one));
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    assert_eq!(own(&world)[0].len(), 2);
    // A prefix alone cannot be checked: nothing of it is opened, whatever a check says.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses = vec!["2001:db8:7::/64".parse().unwrap()];
    });
    assert!(own(&world).is_empty());
    world.judge(&unlock, 5);
    assert!(own(&world).is_empty() && world.ledger.grants().is_empty());
    // Where a program has no checks, everything that the endpoint has was judged.
    world.edit_endpoint(1, |endpoint| {
        endpoint.addresses = vec!["2001:db8:8::/64".parse().unwrap()]
    });
    world.request(2, 1, None);
    let after = world.ledger.of_endpoint("b").next().unwrap().clone();
    world.judge(&after, 5);
    world.apply(&Event::Approve(1));
    let after = world.ledger.of_endpoint("b").next().unwrap().clone();
    assert!(after.state.is_open() && after.local.is_none(), "{after:?}");
}

#[test]
fn scope_all_opens_what_no_check_can_be_about() {
    let both = ["192.0.2.1", "2001:db8:1::/64"].map(|text| text.parse().unwrap());
    let mut world = World::new();
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    world.request(0, 0, None);
    let id = world.nth(0).unwrap().id.clone();
    let now = |world: &World| world.ledger.get(id.as_str()).unwrap().clone();
    let said = |world: &World| notes(&now(world), &world.document);
    let prefix =
        "2001:db8:1::/64 stays closed: a prefix has too many addresses to be checked (`scope: checked`)";
    assert_eq!(said(&world), [prefix], "before it is granted");
    world.judge(&now(&world), 5);
    assert_eq!(said(&world), [prefix]);
    // The program's word is enough, where no person had to give one.
    world.vary(8);
    assert_eq!(now(&world).local, None);
    assert_eq!(said(&world), Vec::<String>::new());
    // An address more is checked first all the same.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses.push("192.0.2.2".parse().unwrap())
    });
    assert_eq!(now(&world).local.as_deref(), Some(&both[..]));
    assert_eq!(
        said(&world),
        ["192.0.2.2 stays closed: its checks have not passed yet"]
    );
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    // Back to what is checked, also together with other checks, it closes in that commit.
    world.vary(4);
    assert_eq!(now(&world).local.as_deref(), Some(&both[..1]));
    // A person approved what was open: the prefix takes another word.
    let mut world = World::new();
    world.vary(2);
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    world.request(0, 0, None);
    world.judge(&world.nth(0).unwrap(), 5);
    world.apply(&Event::Approve(0));
    assert!(world.nth(0).unwrap().state.is_open());
    world.vary(9);
    assert_eq!(world.nth(0).unwrap().state, State::AwaitingApproval);
    assert!(world.ledger.grants().is_empty());
}

#[test]
fn a_new_place_that_is_not_checked_yet_is_said() {
    let (mut world, id) = active();
    let said = |world: &World| notes(world.ledger.get(id.as_str()).unwrap(), &world.document);
    assert!(said(&world).is_empty());
    world.apply(&Event::Move(0, 1));
    assert_eq!(said(&world).len(), 1);
    assert!(said(&world)[0].contains("open at the new place"));
    world.apply(&Event::Restart(None));
    assert_eq!(said(&world).len(), 1);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 1);
    assert_eq!(said(&world).len(), 1, "nothing was found out");
    world.judge(&unlock, 5);
    assert!(said(&world).is_empty());
}

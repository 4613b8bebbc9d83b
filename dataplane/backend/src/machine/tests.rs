//! Every history of a small machine: intents, batches, answers, refusals, lost answers, disconnects and read-backs arrive at
//! any point. Checked in every state that can be reached:
//!
//! * `InSync` means that the switch holds the newest desired rows and nothing else;
//! * in whatever state, `applied` is the newest generation only while packets meet its rows and nothing else;
//! * every class that a port leads to is complete on the switch, after every write;
//! * where packets are given a moment, a class stays complete while one that was led to it may be on its way;
//! * when faults stop, the machine reaches `InSync`.

mod scene;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use scene::{Event, Row, Scene, rows, world, world_with_groups};

/// Tries every history; the first that breaks a rule is the shortest.
fn explore(worlds: &[&[(u8, u8)]], intents: u8, faults: u8, resyncs: u8) -> usize {
    let worlds = Arc::new(worlds.iter().map(|ports| world(ports)).collect());
    explore_from(Scene::new(&worlds, intents, faults, resyncs))
}

fn explore_from(first: Scene) -> usize {
    let mut seen = HashSet::from([first.fingerprint()]);
    // How each scene was reached: the scene before, and the step.
    let mut came: Vec<(usize, Option<Event>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, first)]);
    while let Some((at, scene)) = queue.pop_front() {
        for step in scene.possible() {
            let mut next = scene.clone();
            let result = next.take(step).and_then(|()| next.clone().finish());
            if let Err(why) = result {
                let mut history = vec![step];
                let mut at = at;
                while let (before, Some(step)) = came[at] {
                    history.push(step);
                    at = before;
                }
                history.reverse();
                panic!("{why}\nafter {history:?}");
            }
            if seen.insert(next.fingerprint()) {
                came.push((at, Some(step)));
                queue.push_back((came.len() - 1, next));
            }
        }
    }
    seen.len()
}

#[test]
fn every_history_of_one_port_between_two_classes() {
    let scenes = explore(&[&[], &[(1, 1)], &[(1, 2)]], 4, 1, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_of_two_faults() {
    let scenes = explore(&[&[(1, 1)], &[(1, 2)]], 3, 2, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_of_two_ports_and_a_shared_class() {
    let scenes = explore(&[&[(1, 1), (2, 1)], &[(1, 2), (2, 1)], &[(1, 3)]], 3, 0, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_in_which_packets_are_given_a_moment() {
    let worlds: &[&[(u8, u8)]] = &[&[], &[(1, 1)], &[(1, 2)]];
    let worlds = Arc::new(worlds.iter().map(|ports| world_with_groups(ports)).collect());
    let scenes = explore_from(Scene::new(&worlds, 4, 0, 0).pausing());
    assert!(scenes > 1_000, "{scenes} scenes");
    let rebuilt = Scene {
        rebuilds: 2,
        ..Scene::new(&worlds, 2, 0, 0).pausing()
    };
    let scenes = explore_from(rebuilt);
    assert!(scenes > 1_000, "{scenes} scenes");
    let scenes = explore_from(Scene::new(&worlds, 3, 1, 0).pausing());
    assert!(scenes > 5_000, "{scenes} scenes");
}

/// The shortest history that once ended in sync with the wrong row: a desired row returns while its undoing is in flight.
#[test]
fn a_row_that_returns_while_its_undoing_is_in_flight_is_written_again() {
    let worlds = Arc::new([&[(1, 1)][..], &[(1, 2)]].map(world).to_vec());
    let mut scene = Scene::new(&worlds, 3, 0, 0);
    scene.take(Event::Intent(0)).unwrap();
    scene.clone().finish().unwrap();
    for step in [
        Event::Connect,
        Event::BeginRead,
        Event::ReadOut(0),
        Event::ReadOut(1),
        Event::FinishRead,
    ] {
        scene.take(step).unwrap();
    }
    for _ in 0..2 {
        for step in [Event::Send, Event::Execute, Event::Answer] {
            scene.take(step).unwrap();
        }
    }
    assert_eq!(scene.machine.state(), SessionState::InSync);
    scene.take(Event::Intent(1)).unwrap();
    for step in [Event::Send, Event::Execute, Event::Answer, Event::Send] {
        scene.take(step).unwrap();
    }
    scene.take(Event::Intent(0)).unwrap();
    for step in [Event::Execute, Event::Answer] {
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.state(), SessionState::Applying);
    scene.finish().unwrap();
}

/// Another program removes a row: from the read-back that shows it on, nothing counts as applied until the row is
/// confirmed again.
#[test]
fn a_loss_of_rows_ends_every_claim_until_they_are_confirmed() {
    let worlds = Arc::new([&[(1, 1)][..]].map(world).to_vec());
    let mut scene = Scene::new(&worlds, 1, 0, 0);
    let read = [
        Event::BeginRead,
        Event::ReadOut(0),
        Event::ReadOut(1),
        Event::FinishRead,
    ];
    let write = [Event::Send, Event::Execute, Event::Answer];
    let begin = [Event::Intent(0), Event::Connect];
    for step in begin.into_iter().chain(read).chain(write).chain(write) {
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.generations(), (1, 1));
    scene.switch.remove(&Row::Port(1));
    scene.machine.request_resync();
    assert!(scene.machine.begin_observation());
    let drift = scene.machine.observed(Observed {
        ours: scene.switch.iter().map(|(key, body)| (*key, *body)).collect(),
        foreign: Vec::new(),
    });
    assert_eq!(drift.missing, [Row::Port(1)]);
    for step in write {
        assert_eq!(scene.machine.generations(), (1, 0), "before {step:?}");
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.generations(), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A read-back in parts shows what one at once shows, whatever others did to the rows, and whatever ended or aged meanwhile.
    #[test]
    fn a_read_back_in_parts_is_one_at_once(
        ports in proptest::collection::btree_map(0u8..6, 0u8..4, 0..6),
        tampered in proptest::collection::btree_map(0u8..6, proptest::option::of(0u8..4), 0..4),
        ended in proptest::collection::btree_set(0u8..6, 0..3),
        became in proptest::collection::btree_map(0u8..6, 0u8..4, 0..3),
        cuts in proptest::collection::vec(0usize..4, 20),
    ) {
        let ports: Vec<(u8, u8)> = ports.into_iter().collect();
        let mut machine = Machine::default();
        machine.set_desired(1, world(&ports));
        machine.connected();
        machine.ready();
        prop_assert!(machine.begin_observation());
        let mut switch = rows(&world(&ports));
        machine.observed(Observed { ours: switch.clone().into_iter().collect(), foreign: Vec::new() });
        prop_assert_eq!(machine.state(), SessionState::InSync);
        for (port, class) in tampered {
            match class {
                Some(class) => switch.insert(Row::Port(port), class),
                None => switch.remove(&Row::Port(port)),
            };
        }
        machine.request_resync();
        prop_assert!(machine.begin_observation());
        let mut parts = machine.clone();
        let mut rows: Vec<(Row, u8)> = switch.into_iter().collect();
        let whole = rows.clone();
        for cut in cuts {
            let rest = rows.split_off(cut.min(rows.len()));
            parts.observed_part(Observed { ours: std::mem::replace(&mut rows, rest), foreign: Vec::new() });
        }
        for machine in [&mut machine, &mut parts] {
            machine.ended(ended.iter().map(|port| Row::Port(*port)), |_| true);
            became.iter().for_each(|(port, class)| machine.became(Row::Port(*port), *class));
        }
        let sorted = |mut drift: Drift<Row>| {
            [&mut drift.missing, &mut drift.altered, &mut drift.surplus].map(|keys| {
                keys.sort_unstable();
                keys.clone()
            })
        };
        let at_once = machine.observed(Observed { ours: whole.clone(), foreign: Vec::new() });
        let in_parts = parts.observed(Observed { ours: rows, foreign: Vec::new() });
        prop_assert_eq!(sorted(at_once), sorted(in_parts));
        for machine in [&machine, &parts] {
            prop_assert_eq!(&machine.installed, &whole.iter().copied().collect::<HashMap<Row, u8>>());
            prop_assert!(machine.differences().is_subset(&machine.suspects));
            let counted: u64 = machine.counts.values().sum();
            prop_assert_eq!(counted, machine.installed.len() as u64);
        }
        prop_assert_eq!(machine.state(), parts.state());
        prop_assert_eq!(machine.generations(), parts.generations());
    }

    /// Longer histories over more ports and classes than can be tried one by one.
    #[test]
    fn no_long_history_ends_wrong(
        ports in proptest::collection::vec(proptest::collection::btree_map(0u8..4, 0u8..4, 0..4), 2..6),
        choices in proptest::collection::vec(any::<u16>(), 1..120),
        pauses in any::<bool>(),
    ) {
        let ports: Vec<Vec<(u8, u8)>> = ports.into_iter().map(|p| p.into_iter().collect()).collect();
        let worlds = Arc::new(ports.iter().map(|p| world_with_groups(p)).collect());
        let mut scene = Scene::new(&worlds, 40, 20, 20);
        scene.rebuilds = 20;
        if pauses {
            scene = scene.pausing();
        }
        let mut history = Vec::new();
        for choice in choices {
            let possible = scene.possible();
            let step = possible[usize::from(choice) % possible.len()];
            history.push(step);
            scene.take(step).map_err(|why| TestCaseError::fail(format!("{why}\nafter {history:?}")))?;
        }
        scene.finish().map_err(|why| TestCaseError::fail(format!("{why}\nafter {history:?}")))?;
    }
}

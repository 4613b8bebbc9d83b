//! Random events under continuous traffic over a real ovs-vswitchd, and over the embedded switch, and no wrong verdict outside
//! the times that status announces. `PORTCULLIS_SOAK` is the length of each in seconds, 20 without, and
//! `PORTCULLIS_SOAK_SEED` the seed of an earlier run. `hack/test --long` runs each for half an hour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use portcullis_testbed::need_root;

use crate::bed::Kind;
use crate::soak::events::{Driver, EVENTS, Event};
use crate::soak::judge::{MARGIN, MILLI, Report, SECOND};
use crate::soak::policy::BASELINE;
use crate::soak::traffic::Traffic;
use crate::soak::world::World;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text}: not a number")),
    )
}

/// How long it lasts in seconds by default: every event happens at least once.
const SHORT: u64 = 20;

/// Every flow has frames in this time.
const SEEN: Duration = Duration::from_millis(1_500);

/// How long it lasts in seconds; nothing where it cannot run.
fn length(test: &str) -> Option<u64> {
    need_root(test).then(|| setting("PORTCULLIS_SOAK").unwrap_or(SHORT))
}

/// Runs a world under traffic; what was wrong.
fn soaked(kind: Kind, seconds: u64, seed: u64, happens: impl FnOnce(&mut Driver<'_>)) -> Report {
    println!("PORTCULLIS_SOAK_SEED={seed}");
    let mut world = World::new(kind, seconds);
    let traffic = Traffic::new(&world.hosts);
    let mut driver = Driver::new(&mut world, &traffic, seed);
    traffic.during(|| happens(&mut driver));
    let history = driver.history;
    let flows = traffic.flows.clone();
    let (sent, refused) = traffic.sent();
    let report = history.report(&flows, &sent);
    println!(
        "{} frames sent, {refused} refused by their interface; losses have a margin of {} ms before windows and changes",
        sent.len(),
        MARGIN / MILLI
    );
    println!("{}", report.table());
    report
}

fn no_verdict_is_wrong(kind: Kind, seconds: u64) {
    let seed = setting("PORTCULLIS_SOAK_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    let report = soaked(kind, seconds, seed, |driver| driver.run(seconds * SECOND));
    let sum = report.sum();
    assert_eq!(sum.wrong(), 0, "wrong verdicts: see the table");
    assert!(sum.events >= EVENTS.len() as u64);
    // Both verdicts were put to the test.
    let least = seconds * 20;
    assert!(sum.passed > least && sum.stopped > least, "{sum:?}");
    assert!(
        sum.excused < 2 * sum.passed,
        "two thirds of the time are windows: {sum:?}"
    );
}

#[test]
fn under_random_events_no_verdict_is_wrong() {
    if let Some(seconds) = length("under_random_events_no_verdict_is_wrong") {
        no_verdict_is_wrong(Kind::Ovs, seconds);
    }
}

#[test]
fn under_random_events_no_verdict_of_the_embedded_switch_is_wrong() {
    if let Some(seconds) = length("under_random_events_no_verdict_of_the_embedded_switch_is_wrong") {
        no_verdict_is_wrong(Kind::Embedded, seconds);
    }
}

#[test]
fn rows_that_are_wrong_are_caught() {
    if length("rows_that_are_wrong_are_caught").is_none() {
        return;
    }
    let report = soaked(Kind::Ovs, SHORT, 1, |driver| {
        driver.happens(Event::Baseline);
        let sandbox = &driver.world.bed.sandbox;
        let bridge = sandbox.bridge().to_string();
        let internet = sandbox.ofport("internet").unwrap().unwrap();
        // Somebody lets a denied port out, past all tables.
        let flow = format!("table=0,priority=65535,udp,tp_dst=25,actions=output:{internet}");
        sandbox.ofctl(["add-flow", &bridge, &flow]).unwrap();
        std::thread::sleep(SEEN);
        sandbox.ofctl(["del-flows", &bridge]).unwrap();
        std::thread::sleep(SEEN);
    });
    let sum = report.sum();
    assert!(sum.leaks > 0 && sum.losses > 0, "nobody saw it: {sum:?}");
}

#[test]
fn rows_of_the_embedded_switch_that_are_wrong_are_caught() {
    if length("rows_of_the_embedded_switch_that_are_wrong_are_caught").is_none() {
        return;
    }
    let report = soaked(Kind::Embedded, SHORT, 1, |driver| {
        driver.happens(Event::Baseline);
        // Rows of a document that denies the other ports, of which the judge does not hear.
        let mut other = driver.policy.clone();
        other.baseline = BASELINE
            .into_iter()
            .filter(|port| !driver.policy.baseline.contains(port))
            .collect();
        driver.world.apply(&other).unwrap();
        driver.world.realized();
        std::thread::sleep(SEEN);
    });
    let sum = report.sum();
    assert!(sum.leaks > 0 && sum.losses > 0, "nobody saw it: {sum:?}");
}

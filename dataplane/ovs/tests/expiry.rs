//! The session and a switch in memory that lets rows end, over hours and days.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::memory;

use std::time::Duration;

use memory::{Agent, Switch, opening};
use portcullis_backend::SessionState;
use portcullis_policy::{Direction, Document, Grant, GrantKind};
use proptest::prelude::*;

const START: u64 = 1_800_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const PORTS: [u16; 3] = [25, 587, 2525];

fn base() -> Document {
    let yaml = "
version: portcullis/v1
baseline:
  - {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25, 587, 2525]}
  - {name: inside, action: deny, direction: ingress, protocol: tcp, ports: [2222]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: [\"02:00:00:00:00:01\"]
";
    Document::from_yaml(yaml).unwrap()
}

/// The base with the first ports open for so long, from the start on.
fn unlocked(lasting: &[u64]) -> Document {
    let mut document = base();
    let grants: Vec<Grant> = PORTS
        .iter()
        .zip(lasting)
        .map(|(port, lasts)| Grant {
            unlock: format!("u{port}").parse().unwrap(),
            program: "mail".parse().unwrap(),
            rules: vec![opening(Direction::Egress, *port)],
            kind: GrantKind::Unlock,
            ends: START + lasts,
        })
        .collect();
    document.grants.insert("web1".parse().unwrap(), grants.into());
    document
}

/// A switch, an agent in sync with it under a document, and its start.
fn in_sync(document: &Document) -> (Switch, Agent) {
    let mut switch = Switch::at(Duration::from_secs(START));
    let mut agent = Agent::new(document);
    agent.connect(&mut switch);
    assert_eq!(agent.state(), SessionState::InSync);
    (switch, agent)
}

/// So much time passes while the agent looks every few seconds.
fn pass(switch: &mut Switch, agent: &mut Agent, seconds: u64) {
    let end = switch.wall() + Duration::from_secs(seconds);
    let step = Duration::from_secs((seconds / 50).max(1));
    while switch.wall() < end {
        switch.advance(step.min(end - switch.wall()));
        agent.tick(switch);
    }
}

#[test]
fn a_closing_does_not_wait_for_the_next_attempt_after_a_refusal() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[HOUR]));
    assert!(!switch.opens(25).is_empty());
    agent.hold();
    agent.set(&base(), &mut switch);
    assert!(switch.opens(25).is_empty());
}

#[test]
fn far_ends_are_refreshed_in_time_and_that_is_no_drift() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[100, 2 * DAY]));
    let mut timeouts = switch.timeouts();
    timeouts.sort_unstable();
    assert_eq!(timeouts, [100, 100, 65_535, 65_535]);
    let written = agent.writes();
    pass(&mut switch, &mut agent, 90);
    agent.read_back(&mut switch);
    assert_eq!(agent.writes(), written, "nothing to do yet");
    pass(&mut switch, &mut agent, 20);
    assert_eq!(switch.timeouts(), [65_535, 65_535]);
    pass(&mut switch, &mut agent, 9 * HOUR);
    pass(&mut switch, &mut agent, 9 * HOUR);
    assert_eq!(agent.writes()[1], written[1] + 2, "two rows, written again once");
    pass(&mut switch, &mut agent, DAY);
    assert!(
        switch.timeouts().iter().all(|t| *t < 65_535),
        "{:?}",
        switch.timeouts()
    );
    assert!(switch.opens(25).is_empty() && !switch.opens(587).is_empty());
    pass(&mut switch, &mut agent, DAY);
    assert!(switch.timeouts().is_empty() && switch.opens(587).is_empty());
    assert_eq!((agent.drift, agent.state()), (0, SessionState::InSync));
}

#[test]
fn a_restarted_agent_changes_no_row() {
    let document = unlocked(&[100, 5000, 2 * DAY]);
    let (mut switch, mut agent) = in_sync(&document);
    for wait in [0, 1, 40, 200, 3000, 4000, 20_000] {
        agent.die();
        switch.advance(Duration::from_millis(wait * 1000 + 377));
        let mut again = Agent::new(&document);
        again.connect(&mut switch);
        assert_eq!(again.state(), SessionState::InSync);
        let [added, changed, _] = again.writes();
        assert_eq!([added, changed], [0, 0], "after {wait} s");
        agent = again;
    }
    assert_eq!(agent.drift, 0);
}

#[test]
fn rows_that_ended_by_themselves_are_told_and_not_repaired() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[100]));
    // The switch's second is over before the agent's.
    switch.advance(Duration::from_millis(98_500));
    switch.remove_timed();
    agent.read_back(&mut switch);
    assert_eq!((agent.ended, agent.drift), (2, 0));
    assert_eq!(agent.state(), SessionState::InSync);
    let written = agent.writes();
    switch.advance(Duration::from_secs(3));
    agent.tick(&mut switch);
    agent.read_back(&mut switch);
    assert_eq!(agent.writes()[..2], written[..2]);
    assert!(switch.opens(25).is_empty());
    // And whoever keeps the unlocks says the same in the next moment.
    agent.set(&base(), &mut switch);
    assert_eq!((agent.state(), agent.drift), (SessionState::InSync, 0));
}

#[test]
fn whichever_closes_first_the_other_finds_nothing_to_do() {
    for (agent_first, delay) in [(true, 0), (true, 900), (false, 0), (false, 900)] {
        let (mut switch, mut agent) = in_sync(&unlocked(&[100, 200]));
        switch.lazy = !agent_first;
        switch.advance(Duration::from_millis(100_000 + delay));
        if agent_first {
            switch.expire();
        }
        agent.set(&unlocked(&[0, 200]), &mut switch);
        switch.lazy = false;
        switch.expire();
        assert!(switch.opens(25).is_empty() && !switch.opens(587).is_empty());
        agent.read_back(&mut switch);
        agent.tick(&mut switch);
        assert_eq!((agent.state(), agent.drift), (SessionState::InSync, 0));
        assert_eq!(switch.timeouts().len(), 2);
    }
}

#[test]
fn a_row_that_lasts_otherwise_is_drift_and_put_right() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[DAY / 2]));
    pass(&mut switch, &mut agent, 60);
    let healthy = switch.timeouts();
    switch.make_permanent();
    agent.read_back(&mut switch);
    assert_eq!((agent.drift, switch.timeouts().len()), (2, healthy.len()));
    switch.make_timed(9000);
    agent.read_back(&mut switch);
    assert!(agent.drift > 4);
    assert_eq!(switch.timeouts().len(), healthy.len());
    assert_eq!(agent.state(), SessionState::InSync);
}

#[test]
fn a_restarted_agent_refreshes_what_it_did_not_write() {
    let document = unlocked(&[2 * DAY]);
    let (mut switch, mut agent) = in_sync(&document);
    agent.die();
    switch.advance(Duration::from_secs(HOUR));
    let mut again = Agent::new(&document);
    again.connect(&mut switch);
    assert_eq!(again.writes(), [0; 3]);
    pass(&mut switch, &mut again, 7 * HOUR);
    assert_eq!(again.writes(), [0; 3], "enough time is left");
    pass(&mut switch, &mut again, 2 * HOUR);
    assert_eq!((again.writes(), again.drift), ([0, 2, 0], 0));
    assert_eq!(switch.timeouts(), [65_535, 65_535]);
}

#[test]
fn what_is_sent_too_late_closes_instead_of_staying_for_ever() {
    let mut switch = Switch::at(Duration::from_secs(START));
    let mut agent = Agent::new(&unlocked(&[100]));
    // The switch is found in the last second.
    switch.advance(Duration::from_millis(99_500));
    agent.connect(&mut switch);
    assert!(switch.timeouts().is_empty());
    assert!(switch.opens(25).is_empty());
    switch.advance(Duration::from_secs(1));
    agent.tick(&mut switch);
    agent.read_back(&mut switch);
    assert_eq!((agent.state(), agent.drift), (SessionState::InSync, 0));
    assert!(switch.opens(25).is_empty());
}

#[test]
fn a_slow_switchs_rows_are_put_right_at_once() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[100]));
    switch.delay = Some(Duration::from_secs(5));
    let written = agent.writes();
    // A renewal: only rows that lead to classes there are.
    agent.set(&unlocked(&[200]), &mut switch);
    assert_eq!(
        agent.writes()[1],
        written[1] + 4,
        "two rows, and again with what is left"
    );
    assert_eq!((agent.state(), agent.drift), (SessionState::InSync, 0));
    agent.die();
    switch.advance(Duration::from_secs(194));
    assert!(!switch.opens(25).is_empty());
    switch.advance(Duration::from_secs(1));
    assert!(switch.opens(25).is_empty(), "not five seconds later");
}

#[test]
fn a_clock_that_is_set_is_no_drift() {
    let (mut switch, mut agent) = in_sync(&unlocked(&[1000]));
    for (step, timeout) in [(30, 970), (-40, 1010)] {
        switch.set_clock(step);
        agent.read_back(&mut switch);
        assert_eq!((agent.state(), agent.drift), (SessionState::InSync, 0));
        assert_eq!(switch.timeouts(), [timeout, timeout]);
    }
}

#[test]
fn more_ends_than_rows_are_told_and_none_is_early_with_an_agent() {
    let ports: Vec<u16> = (0..20).map(|n| 1000 + 20 * n).collect();
    let mut document = base();
    let deny = |port: &u16| portcullis_policy::Rule {
        name: format!("p{port}").parse().unwrap(),
        action: portcullis_policy::Verdict::Deny,
        ..opening(Direction::Egress, *port)
    };
    document.baseline = std::sync::Arc::new(ports.iter().map(deny).collect());
    let grant = |(n, port): (usize, &u16)| Grant {
        unlock: format!("u{port}").parse().unwrap(),
        program: "mail".parse().unwrap(),
        rules: vec![opening(Direction::Egress, *port)],
        kind: GrantKind::Unlock,
        ends: START + 100 * (n as u64 + 1),
    };
    let grants: Vec<Grant> = ports.iter().enumerate().map(grant).collect();
    document.grants.insert("web1".parse().unwrap(), grants.into());
    let (mut switch, mut agent) = in_sync(&document);
    assert_eq!(switch.timeouts().len(), 2 * 16);
    assert!(
        agent.unsupported[0].contains("the latest 4 egress ends"),
        "{:?}",
        agent.unsupported
    );
    let mut ends = switch.timeouts();
    ends.sort_unstable();
    assert_eq!(ends.last(), Some(&1600));
    for passed in 0..=20 {
        let open = ports.iter().map(|p| !switch.opens(*p).is_empty());
        assert!(
            open.enumerate().all(|(n, open)| open == (n >= passed)),
            "after {passed} ends"
        );
        if passed == 10 {
            assert!(agent.unsupported.is_empty());
            agent.die();
        }
        // Without an agent all the rest are rows by now.
        switch.advance(Duration::from_secs(100));
        if passed < 10 {
            agent.tick(&mut switch);
        }
    }
    assert_eq!(agent.drift, 0);
}

#[test]
fn an_agent_that_was_away_too_long_opens_again_what_still_holds() {
    let document = unlocked(&[2 * DAY]);
    let (mut switch, mut agent) = in_sync(&document);
    agent.die();
    switch.advance(Duration::from_secs(DAY));
    assert!(switch.opens(25).is_empty(), "the safe side");
    let mut again = Agent::new(&document);
    again.connect(&mut switch);
    assert!(!switch.opens(25).is_empty());
    assert_eq!((again.state(), again.drift), (SessionState::InSync, 0));
}

#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Die,
    Start,
    Renew([u64; 3]),
    Look,
}

fn any_event() -> impl Strategy<Value = Event> {
    let lasts = || prop_oneof![1u64..2000, 1u64..3 * DAY];
    prop_oneof![
        3 => (1u64..1500).prop_map(Event::Pass),
        2 => (1u64..20_000_000).prop_map(Event::Pass),
        1 => Just(Event::Die),
        2 => Just(Event::Start),
        2 => [lasts(), lasts(), lasts()].prop_map(Event::Renew),
        2 => Just(Event::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens, no port is open after its lease, and with an agent in sync each is open until its lease ends.
    #[test]
    fn no_port_is_open_after_its_lease(events in prop::collection::vec(any_event(), 1..30), first in 1u64..4000) {
        let mut lasting = [first, 2 * first, 2 * DAY];
        let (mut switch, mut agent) = in_sync(&unlocked(&lasting));
        let mut alive = true;
        for event in events {
            match event {
                // Milliseconds.
                Event::Pass(time) => switch.advance(Duration::from_millis(time)),
                Event::Die => {
                    agent.die();
                    alive = false;
                }
                Event::Start => {
                    agent = Agent::new(&unlocked(&lasting));
                    agent.connect(&mut switch);
                    alive = true;
                }
                Event::Renew(lasts) if alive => {
                    let gone = (switch.wall() - Duration::from_secs(START)).as_secs();
                    lasting = lasts.map(|l| gone + l);
                    agent.set(&unlocked(&lasting), &mut switch);
                }
                Event::Renew(_) => {}
                Event::Look if alive => {
                    agent.tick(&mut switch);
                    agent.read_back(&mut switch);
                }
                Event::Look => {}
            }
            if alive {
                agent.tick(&mut switch);
                prop_assert_eq!(agent.state(), SessionState::InSync);
            }
            for (port, lasts) in PORTS.iter().zip(lasting) {
                let left = Duration::from_secs(START + lasts).checked_sub(switch.wall());
                let open = !switch.opens(*port).is_empty();
                prop_assert!(!open || left.is_some_and(|l| l > Duration::ZERO), "{} is open after its lease", port);
                if alive && left.is_some_and(|l| l > Duration::from_secs(2)) {
                    prop_assert!(open, "{} is closed before its lease ends, in {:?}", port, left);
                }
            }
            prop_assert_eq!(agent.drift, 0);
        }
    }
}

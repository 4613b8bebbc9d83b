//! What the judge says of frames, without a switch.

use super::judge::{History, MARGIN, Outcome, SECOND, Sent};
use super::policy::{BASELINE, Disguise, Flow, LEASED, Policy, UPLINK};

const FLOW: Flow = Flow {
    from: 0,
    to: UPLINK,
    port: BASELINE[0],
    disguise: Disguise::None,
};

fn denying() -> Policy {
    Policy {
        baseline: [BASELINE[0]].into(),
        ..Policy::default()
    }
}

/// Denied from 10 s on, which was sent at 9 s.
fn history() -> History {
    let mut history = History::default();
    history.proposed(0, Policy::default());
    history.proposed(9 * SECOND, denying());
    history.settled(10 * SECOND, &denying());
    history
}

fn arrived(at: u64) -> Sent {
    Sent {
        at,
        arrived: at + 1,
        ..Sent::default()
    }
}

fn lost(at: u64) -> Sent {
    Sent {
        at,
        ..Sent::default()
    }
}

#[test]
fn both_documents_are_right_until_the_new_one_is_in_force() {
    let history = history();
    for (sent, wanted) in [
        (arrived(SECOND), Outcome::Passed),
        (lost(SECOND), Outcome::Loss),
        (lost(9 * SECOND - MARGIN), Outcome::Stopped),
        (lost(9 * SECOND - MARGIN - 1), Outcome::Loss),
        (arrived(9 * SECOND + 1), Outcome::Passed),
        (lost(9 * SECOND + 1), Outcome::Stopped),
        (arrived(10 * SECOND), Outcome::Passed),
        (arrived(10 * SECOND + 1), Outcome::Leak),
        (lost(10 * SECOND + 1), Outcome::Stopped),
    ] {
        assert_eq!(history.judge(0, &FLOW, &sent), wanted, "{sent:?}");
    }
}

#[test]
fn a_window_excuses_losses_of_its_server_and_no_leak() {
    let mut history = history();
    history.window(3 * SECOND, 4 * SECOND, Some(0));
    history.window(11 * SECOND, 12 * SECOND, None);
    assert_eq!(history.judge(0, &FLOW, &lost(3 * SECOND)), Outcome::Excused);
    assert_eq!(history.judge(0, &FLOW, &lost(4 * SECOND + 1)), Outcome::Loss);
    let other = Flow { from: 1, ..FLOW };
    assert_eq!(history.judge(0, &other, &lost(3 * SECOND)), Outcome::Loss);
    assert_eq!(history.judge(0, &FLOW, &arrived(11 * SECOND + 1)), Outcome::Leak);
    let astray = Sent {
        astray: 2,
        ..arrived(SECOND)
    };
    assert_eq!(history.judge(0, &FLOW, &astray), Outcome::Astray);
}

#[test]
fn an_unlock_is_open_from_its_grant_to_its_end() {
    let mut history = history();
    let flow = Flow { port: LEASED, ..FLOW };
    let lease = history.asked(2 * SECOND, 0);
    history.opened(lease, 3 * SECOND, 6 * SECOND);
    for (sent, wanted) in [
        (arrived(SECOND), Outcome::Leak),
        (arrived(2 * SECOND), Outcome::Passed),
        (lost(2 * SECOND), Outcome::Stopped),
        (lost(3 * SECOND), Outcome::Loss),
        (arrived(7 * SECOND), Outcome::Passed),
        (arrived(7 * SECOND + 1), Outcome::Leak),
    ] {
        assert_eq!(history.judge(0, &flow, &sent), wanted, "{sent:?}");
    }
    // Without an agent the switch ends it.
    history.away(6 * SECOND, 8 * SECOND);
    assert_eq!(history.judge(0, &flow, &arrived(8 * SECOND)), Outcome::Passed);
    assert_eq!(history.judge(0, &flow, &arrived(9 * SECOND + 1)), Outcome::Leak);
}

#[test]
fn a_loss_that_the_switch_counted_is_its_own_and_only_so_many() {
    let mut history = history();
    history.dropped(SECOND, 2 * SECOND, 1);
    let frames = [lost(SECOND), lost(SECOND + 1), lost(3 * SECOND)];
    let sum = history.report(&[FLOW], &frames).sum();
    assert_eq!((sum.switch, sum.losses), (1, 2));
}

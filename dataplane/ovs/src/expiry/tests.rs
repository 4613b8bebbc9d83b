//! Stacks mean what falls say at every moment, and ends never come late.

use std::time::Duration;

use portcullis_compiler::{ClassId, ScheduledTransition};
use portcullis_policy::{Direction, PerDirection};
use proptest::prelude::*;

use super::*;

const START: u64 = 1_800_000_000;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// The class that a port has when only rows are left that have not ended.
fn leads_to(rungs: &[TimedRow], at: u64) -> ClassId {
    let left = rungs.iter().filter(|r| r.until.is_none_or(|until| until > at));
    left.max_by_key(|r| r.rank).unwrap().class
}

/// The class that an endpoint has at a moment.
fn class_at(now: ClassId, transitions: &[ScheduledTransition], direction: Direction, at: u64) -> ClassId {
    let past = transitions.iter().rfind(|transition| transition.at <= at);
    past.map_or(now, |transition| transition.classes[direction])
}

prop_compose! {
    /// Falls over few classes, so that many change nothing in one direction.
    fn any_falls(most: usize)(steps in prop::collection::vec((1u64..50, 0u32..3, 0u32..3), 0..most)) -> Vec<ScheduledTransition> {
        let mut at = START;
        steps.into_iter().map(|(wait, egress, ingress)| {
            at += wait;
            ScheduledTransition { at, classes: PerDirection { egress, ingress }.map(ClassId) }
        }).collect()
    }
}

proptest! {
    #[test]
    fn what_is_left_leads_where_falls_say(transitions in any_falls(ENDS), now in 0u32..3) {
        let now = ClassId(now);
        for direction in Direction::BOTH {
            let rungs = expiry_chain(now, &transitions, direction);
            for at in START..=transitions.last().map_or(START, |f| f.at + 1) {
                prop_assert_eq!(leads_to(&rungs, at), class_at(now, &transitions, direction, at));
            }
        }
    }

    #[test]
    fn when_the_top_ends_those_below_are_unchanged(transitions in any_falls(RANKS as usize), now in 0u32..3) {
        for direction in Direction::BOTH {
            let whole = expiry_chain(ClassId(now), &transitions, direction);
            for (passed, transition) in transitions.iter().enumerate() {
                let class = class_at(ClassId(now), &transitions, direction, transition.at);
                let later = expiry_chain(class, &transitions[passed + 1..], direction);
                for timed_row in whole.iter().filter(|r| r.until.is_none_or(|until| until > transition.at)) {
                    prop_assert!(later.contains(timed_row), "{:?} is not in {:?}", timed_row, later);
                }
            }
        }
    }

    #[test]
    fn however_many_ends_there_are_none_is_late(transitions in any_falls(3 * RANKS as usize), now in 0u32..3) {
        let now = ClassId(now);
        for direction in Direction::BOTH {
            let rungs = expiry_chain(now, &transitions, direction);
            prop_assert!(rungs.len() <= ENDS + 1);
            prop_assert!(rungs.iter().all(|r| r.rank <= RANKS));
            prop_assert!(rungs.is_sorted_by(|a, b| a.rank > b.rank && a.until.is_none_or(|x| b.until.is_none_or(|y| x < y))));
            let last = class_at(now, &transitions, direction, u64::MAX);
            let written = rungs.iter().filter_map(|r| r.until).max().unwrap_or(START);
            for at in START..=transitions.last().map_or(START, |f| f.at + 1) {
                // Up to the last end that is written exactly, and from there on what holds when everything has ended.
                let meant = if at < written { class_at(now, &transitions, direction, at) } else { last };
                prop_assert_eq!(leads_to(&rungs, at), meant);
            }
            prop_assert_eq!(beyond(now, &transitions, direction) > 0, written < ends(now, &transitions, direction).0.last().map_or(0, |e| e.0));
        }
    }

    #[test]
    fn a_row_never_outlives_its_end(until in 0u64..400_000, millis in 0u64..400_000_000) {
        let wall = Duration::from_millis(millis);
        match timeout(until, wall) {
            Some(written) => {
                prop_assert!(written > 0, "0 is for ever");
                let ends = wall + seconds(written.into());
                prop_assert!(ends <= seconds(until));
                prop_assert!(written == MAX || ends + seconds(1) > seconds(until));
                prop_assert_eq!(refresh_at(until, wall).is_some(), ends + seconds(1) <= seconds(until));
            }
            None => prop_assert!(seconds(until) < wall + seconds(1)),
        }
    }

    /// A row that was written is right from then on until its end, or until it is to be written again: then it is not.
    #[test]
    fn rows_are_right_until_they_are_refreshed(left in 3u64..1_000_000, later in 0u64..70_000_000, delay in 0u64..900) {
        let wall = seconds(START) + Duration::from_millis(321);
        let until = START + left;
        let written = timeout(until, wall).unwrap();
        let age = Duration::from_millis(later);
        prop_assume!(age < seconds(written.into()));
        // The row is there a moment after its time was reckoned.
        let now = wall + Duration::from_millis(delay) + age;
        let seen = Lifetime::new(written, 0, age, [now, now]);
        let refresh = refresh_at(until, wall).map(|at| at + Duration::from_millis(delay));
        let fits = seen.fits(Some(until), now);
        let near_its_end = seconds(until) <= wall + seconds(u64::from(MAX) + 2);
        prop_assert_eq!(fits, near_its_end || refresh.is_none_or(|at| now <= at));
        prop_assert!(fits || seen.has_strayed(Some(until)));
        if fits && !near_its_end {
            prop_assert!(seen.refresh_at(Some(until)).is_some_and(|at| at >= now));
        }
    }
}

#[test]
fn a_direction_without_a_change_has_one_row() {
    let transition = |at, egress| ScheduledTransition {
        at,
        classes: PerDirection { egress, ingress: 7 }.map(ClassId),
    };
    let transitions = [transition(10, 2), transition(20, 3)];
    let timed_row = |rank, class, until| TimedRow {
        rank,
        class: ClassId(class),
        until,
    };
    assert_eq!(
        expiry_chain(ClassId(1), &transitions, Direction::Egress),
        [
            timed_row(2, 1, Some(10)),
            timed_row(1, 2, Some(20)),
            timed_row(0, 3, None)
        ]
    );
    assert_eq!(
        expiry_chain(ClassId(7), &transitions, Direction::Ingress),
        [timed_row(0, 7, None)]
    );
}

#[test]
fn what_lasts_otherwise_is_another_row() {
    let wall = seconds(START);
    let lasts = |hard, idle, age| Lifetime::new(hard, idle, seconds(age), [wall, wall]);
    assert!(lasts(0, 0, 100).fits(None, wall));
    assert!(!lasts(0, 0, 100).fits(Some(START + 100), wall), "for ever");
    assert!(!lasts(200, 0, 100).fits(None, wall), "not for ever");
    assert!(!lasts(0, 5, 1).fits(None, wall), "while packets come");
    assert!(lasts(200, 0, 100).fits(Some(START + 100), wall));
    assert!(lasts(200, 0, 100).fits(Some(START + 102), wall));
    assert!(!lasts(200, 0, 100).fits(Some(START + 103), wall), "too early");
    assert!(lasts(200, 0, 100).fits(Some(START + 99), wall));
    assert!(!lasts(200, 0, 100).fits(Some(START + 98), wall), "too late");
    assert!(
        !lasts(40_000, 0, 10).fits(Some(START + 900_000), wall),
        "could last longer"
    );
    assert!(lasts(MAX, 0, 10).fits(Some(START + 900_000), wall));
    assert!(!lasts(MAX, 0, 40_000).fits(Some(START + 900_000), wall), "worn");
}

#[test]
fn a_slow_read_back_alters_no_row() {
    let [from, to] = [START, START + 30].map(seconds);
    for asked in 0..=30 {
        // Written 100 s before, for 500 s, and looked at somewhere on the way.
        let seen = Lifetime::new(500, 0, seconds(100 + asked), [from, to]);
        assert!(seen.fits(Some(START + 400), to), "{asked}");
        assert!(!seen.fits(Some(START + 350), to), "{asked}");
    }
}

#[test]
fn what_is_far_off_is_somebodys_doing() {
    let wall = seconds(START);
    let strayed = |hard, until| Lifetime::new(hard, 0, seconds(100), [wall, wall]).has_strayed(until);
    for off in [-60, -3, 2, 60] {
        assert!(
            strayed(200, Some(START.saturating_add_signed(100 + off))),
            "{off}"
        );
    }
    for off in [-61, 61] {
        assert!(
            !strayed(200, Some(START.saturating_add_signed(100 + off))),
            "{off}"
        );
    }
    assert!(!strayed(200, None) && !strayed(0, Some(START)));
    assert!(strayed(MAX, Some(START + 900_000)));
    assert!(!strayed(MAX - 1, Some(START + 900_000)), "could last longer");
}

#[test]
fn a_row_is_due_when_its_moment_is_near() {
    assert!(is_due(START, seconds(START)));
    assert!(is_due(START, seconds(START - 2)));
    assert!(!is_due(START, seconds(START - 3)));
}

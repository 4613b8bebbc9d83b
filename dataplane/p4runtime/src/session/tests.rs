//! What a session writes, and when it says that a generation is in force.

use portcullis_backend::delta::Layer;

use super::*;
use crate::entry::{Keyed, Place};

fn row(id: u32, layer: Layer, class: Option<u32>, does: u32) -> (RowKey, Does) {
    let key = RowKey(Arc::new(Keyed {
        place: Place::Group(id),
        layer,
        class,
    }));
    let does = Does::Action {
        id: does,
        params: Vec::new(),
    };
    (key, does)
}

/// A port that leads to a class with one row.
fn leads_to(class: u32) -> Desired<UnitId, RowKey, Does> {
    let rows = vec![
        row(0, Layer::Dispatch, None, class),
        row(class, Layer::Policy, Some(class), 7),
    ];
    Desired::unit(UnitId::Shared, Arc::new(rows))
}

/// Answers requests until there is none; what was written.
fn settle(session: &mut Session) -> (Vec<Op<RowKey, Does>>, bool) {
    let (mut written, mut pauses) = (Vec::new(), false);
    loop {
        let effects = session.take_effects();
        if effects.is_empty() {
            return (written, pauses);
        }
        for effect in effects {
            match effect {
                Effect::Write { number, ops } => {
                    written.extend(ops);
                    session.wrote(number, Ok(()));
                }
                Effect::Pause => {
                    assert!(!std::mem::replace(&mut pauses, true), "one pause at a time");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn deleted(class: u32) -> Op<RowKey, Does> {
    Op::Delete(row(class, Layer::Policy, Some(class), 7).0)
}

#[test]
fn a_generation_is_in_force_and_the_next_is_written_while_packets_are_given_a_moment() {
    let mut session = Session::new(false);
    session.connected();
    session.arbitrated(true);
    session.runs(Running::Wanted);
    session.take_effects();
    session.observed(Ok(Observed {
        ours: Vec::new(),
        foreign: Vec::new(),
    }));
    session.set_desired(1, leads_to(1));
    let (_, pauses) = settle(&mut session);
    assert!(!pauses, "nothing was abandoned");

    session.set_desired(2, leads_to(2));
    let (written, pauses) = settle(&mut session);
    assert!(pauses && !written.contains(&deleted(1)), "{written:?}");
    assert_eq!(session.machine.generations(), (2, 2));
    assert!(session.machine.is_in_force());
    assert_eq!(
        session.state(),
        SessionState::Applying,
        "a row is still to be deleted"
    );

    // Nothing waits for the pause: the next change does not.
    session.set_desired(3, leads_to(3));
    let (written, pauses) = settle(&mut session);
    assert!(!pauses && !written.contains(&deleted(1)), "{written:?}");
    assert_eq!(session.machine.generations(), (3, 3));

    // What was abandoned before it began goes when it is over; for the rest there is another.
    session.paused();
    let (written, pauses) = settle(&mut session);
    assert_eq!(written, [deleted(1)]);
    assert!(pauses);
    session.paused();
    assert_eq!(settle(&mut session), (vec![deleted(2)], false));
    assert_eq!(session.state(), SessionState::InSync);
}

#[test]
fn a_device_that_cannot_be_used_is_unusable_until_it_can_and_one_that_was_not_reached_is_not() {
    let mut session = Session::new(false);
    let asked = |session: &mut Session| {
        session.connected();
        session.arbitrated(true);
        session.take_effects();
    };
    asked(&mut session);
    session.unasked("no answer within 30 s".to_string());
    assert_eq!(session.state(), SessionState::Handshaking);
    session.look_again();
    session.unusable("it has no tables".to_string());
    assert_eq!(session.state(), SessionState::Unusable);
    // While it is asked again, too, and when there is no answer.
    session.look_again();
    assert_eq!(session.state(), SessionState::Unusable);
    session.unasked("no answer within 30 s".to_string());
    assert_eq!(session.state(), SessionState::Unusable);
    session.look_again();
    session.runs(Running::Wanted);
    assert!(session.is_ready());
    assert_ne!(session.state(), SessionState::Unusable);
    // Nothing of it outlives the connection.
    session.disconnected();
    asked(&mut session);
    assert_eq!(session.state(), SessionState::Handshaking);
}

//! The manners of a session: one suite for every backend.
//!
//! A [`Subject`] is a session with its datapath, and with faults. The macro `conformance!` makes a test of each
//! scenario of [`suite`] for it. What is checked is said in terms of documents, probes and rows: what a backend calls them, and
//! how it writes them, is its own.
//!
//! * [`scene`] — the documents of the suite, and the packets that are tried.
//! * [`watch`] — asked after every single write: each probe meets the verdict of the old document or of the new one.
//! * [`suite`] — the scenarios, and [`histories`] — random ones.
//! * [`launched`] and [`p4`] — what subjects share that are driven over a network.

pub mod histories;
pub mod launched;
pub mod p4;
mod plan;
pub mod scene;
mod subject;
pub mod suite;
pub mod watch;

pub use plan::Plan;
pub use scene::{Probe, Scene};
pub use subject::{Fault, Report, Subject};
pub use watch::Watch;

/// A test of each scenario for a subject. `lacks` are the faults that it cannot have: a shorter or a longer list fails.
#[macro_export]
macro_rules! conformance {
    ($subject:ty, lacks: [$($fault:ident),*]) => {
        $crate::conformance!(@each $subject:
            changes_are_made_without_a_mix,
            a_restarted_agent_writes_nothing,
            a_restarted_datapath_is_refilled,
            a_refused_batch_is_made_good,
            a_lost_answer_is_found_out,
            a_connection_that_breaks_before_a_batch_is_made_anew,
            a_connection_that_breaks_after_a_batch_is_made_anew,
            drift_is_repaired_and_counted,
            rows_of_others_are_kept_and_reported,
            a_row_of_others_in_our_place_is_kept_and_reported,
            what_returns_while_its_undoing_is_in_flight_is_right,
            applied_never_exceeds_what_was_acknowledged,
        );

        #[test]
        fn it_has_every_fault_but_those_it_cannot_have() {
            $crate::conformance::suite::it_has_every_fault_but_those_it_cannot_have::<$subject>(
                &[$($crate::conformance::Fault::$fault),*],
            );
        }

        #[test]
        fn every_history_ends_with_the_newest_document() {
            $crate::conformance::histories::every_history_ends_with_the_newest_document::<$subject>();
        }
    };
    (@each $subject:ty: $($scenario:ident,)*) => {
        $(#[test]
        fn $scenario() {
            $crate::conformance::suite::$scenario::<$subject>();
        })*
    };
}

//! Answers as values: what `-o json` and `-o yaml` print, and how each looks to people.
//!
//! The messages of the API stop here. Names and shapes are a contract with programs: add, do not rename.

pub mod audit;
pub mod bypass;
pub mod change;
pub mod checks;
pub mod compiled;
pub mod enforced;
pub mod events;
pub mod explained;
pub mod hits;
pub mod offload;
pub mod placement;
pub mod policy;
pub mod status;
pub mod targets;
mod time;
pub mod unlock;

/// `1 endpoint`, `2 endpoints`.
pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// A bound that 0 leaves open.
pub(super) fn bound(size: u64) -> Option<u64> {
    (size != 0).then_some(size)
}

/// A bound for people.
pub(super) fn bound_text(size: Option<u64>) -> String {
    size.map_or_else(|| "unbounded".to_string(), |n| n.to_string())
}

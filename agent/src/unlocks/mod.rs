//! Background tasks that expire, re-check and renew unlocks.

mod ask;
mod inspect;

pub use inspect::inspect;

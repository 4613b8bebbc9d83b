//! What makes unlocks go on by themselves: the clock, and checks of the world.

mod ask;
mod inspect;

pub use inspect::inspect;

//! A soak of one switch: [`policy`] is what is allowed, [`traffic`] sends, [`events`] disturb, [`judge`] counts what was wrong.

pub mod events;
pub mod judge;
mod judged;
pub mod policy;
pub mod traffic;
pub mod world;

//! Unlocks: evidence, expressions, and the ledger of requests and leases.
//!
//! Everything here is pure: no I/O, no clock; whatever is known of the world is an argument.
//!
//! 1. [`check_programs`](check::check_programs) reads what the document's own validation cannot: expressions, patterns
//!    and days. A document is applied only when both are content.
//! 2. [`parse`](evidence::parse) turns what was submitted under a program into [`Evidence`](evidence::Evidence), or
//!    says everything that is wrong with it.
//! 3. [`Expression`](expression::Expression) is a CEL expression bound to what a program declares: whatever it names
//!    exists, and what it costs is bounded.
//! 4. [`rules`](evidence::rules) says what a grant opens: never more than the program does.
//! 5. [`judge`](judge::judge) says whether an unlock would be granted now, and why not.
//! 6. [`Ledger`](ledger::Ledger) is the life of unlocks, with the [`Moment`](clock::Moment) as an argument.

pub mod check;
pub mod clock;
pub mod evidence;
pub mod expression;
pub mod judge;
pub mod ledger;

//! What of a port's policy its NIC can drop.
//!
//! A NIC takes rules of `rte_flow`: a pattern of headers, and "drop". The switch stays the whole enforcement point; a rule on the NIC
//! saves it work. So a rule may only match frames that the switch would drop anyway, whatever the NIC's parser makes of them:
//!
//! 1. [`probe()`] asks a port with canary rules what it takes: its [`Capabilities`].
//! 2. [`lower()`] turns the policy rows of a port's senders into [`Rule`]s within those capabilities and the stated [`ParserFacts`], and
//!    says of every row that denies how much of it the rules cover.
//! 3. [`Offload`] holds what is on the NIC: rules that a change makes wrong are destroyed before the switch forwards by the change,
//!    new ones are created after that, those with most hits first.
//!
//! Nothing here does I/O or reads a clock: the NIC is behind [`FlowApi`].

mod api;
mod capabilities;
mod carve;
mod condition;
mod facts;
mod lower;
mod nics;
mod offload;
mod probe;
mod report;
mod rule;
mod settings;

pub use api::{FlowApi, FlowCount, Refusal, Until};
pub use capabilities::{Capabilities, Level, PortMatching};
pub use carve::Headers;
pub use condition::NotSaid;
pub use facts::{Drivers, Encapsulation, FactsError, Follows, Kind, LaterFragments, ParserFacts, Tags};
pub use lower::{Bounds, Lowered, MOST_RULES, Memo, Policy, RowState, Senders, Why, is_still_denied, lower};
pub use nics::{Nics, Offloads};
pub use offload::{Count, Counts, Moves, Offload, Settings, Step};
pub use probe::{Probed, Traffic, probe};
pub use report::{PortReport, RowReport};
pub use rule::{Address, Family, PortMatch, Rule};
pub use settings::{OffloadSettings, StatedParser, When};

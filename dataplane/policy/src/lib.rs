//! Port policy: the document, its validation, tiers, and the reference verdict.
//!
//! Everything here is pure: no I/O, no clock. The way through the crate:
//!
//! 1. [`Document`] is what an operator writes ([`Document::from_yaml`]) or the API assembles; every field
//!    type refuses bad input where it is parsed, and [`validate`](Document::validate) checks what only the
//!    whole document can tell.
//! 2. [`effective`] resolves tiers, profiles, essentials and replies of one endpoint and direction into a
//!    [`Policy`]: an ordered list, first match wins.
//! 3. [`judge`](Policy::judge) is the reference verdict on a [`Packet`]: the oracle for every compiler and
//!    every target.

mod canonical;
mod claims;
pub mod classbench;
mod direction;
mod document;
mod effective;
mod endpoint;
mod essentials;
mod findings;
pub mod intervals;
mod link_local;
mod matcher;
mod program;
mod protocols;
mod replies;
mod shadow;
pub mod text;
mod types;
mod validate;
mod verdict;
mod yaml;

pub use canonical::canonical;
pub use direction::{Direction, PerDirection};
pub use document::{Defaults, Document, Profile, Rule, Unmanaged, VERSION};
pub use effective::{Decider, Entry, Lists, Policy, Tier, effective, unmanaged};
pub use endpoint::{
    Attachment, Declared, Endpoint, EndpointRole, IdentifiedBy, LinkLocal, Reserved, Vlan, default_network,
};
pub use findings::{Finding, FindingKind, findings, findings_of};
pub use intervals::IntervalSet;
pub use link_local::{LINK_LOCAL, MOST_EXCEPTIONS, MaskedV6, takes_link_local};
pub use matcher::{Families, FlagMatch, Matcher, Ranges};
pub use program::{
    Approval, Check, CheckKind, CheckResult, Disclose, DmarcPolicy, EvidenceField, EvidenceType, Grant,
    GrantKind, Lease, Limits, MAX_EVIDENCE, OpenScope, Opening, Program, Span,
};
pub use types::{Family, IcmpMatch, MacAddr, Name, ParseError, PortRange, Protocol, StrictPrefix, Verdict};
pub use validate::{DocumentError, FieldError};
pub use verdict::{
    Fragment, Frame, IPV6_EXTENSIONS, IPV6_FRAGMENT, IpPacket, L4, Packet, RARP, TCP_ACK, TCP_FLAGS, TCP_SYN,
    View,
};

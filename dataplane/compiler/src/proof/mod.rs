//! The proof that rows are equal to a policy on every packet.
//!
//! Exact, not sampled: each dimension is cut at every bound that the policy or a row mentions, so that within a cell
//! neither can change its mind. Nothing here is shared with the encoder: it reads rows, policy and model.
//!
//! Two engines, chosen by what a class names:
//!
//! - *cells* (`cells.rs`): for each set of entries and rows that some pair of addresses reaches, each protocol is a
//!   *slice* (`slice.rs`), and a slice is swept along its ports (`sweep.rs`). Slices that were proved are remembered by
//!   their content, so that what classes have in common is proved once.
//! - *pairs* (`pairs.rs`): for thousands of pairs of prefixes, whose cells are too many. Two ordered lists of boxes
//!   mean the same when wherever a box of one meets a box of the other that disagrees, something above them takes all
//!   of it.
//!
//! Rows of a program have no key for VLANs, and policies know none: a VLAN cannot change a verdict here, and nothing
//! has to be proved about it. Which VLANs lead to which class is a matter of the tables `attach` and `deliver`.
//!
//! The reference verdict has the last word: every [`Counterexample`] was judged by it.

mod addresses;
mod boxes;
mod case;
mod cells;
mod coverage;
mod linear;
mod pairs;
mod parser_view;
pub mod partial;
mod ports;
mod slice;
mod sweep;

use std::borrow::Borrow;

use portcullis_policy::{Family, Frame, Packet, Policy, RARP, Verdict};

use crate::class_rows::{ClassRows, FrameMatch, PolicyRow};
use crate::model::StageModel;
use addresses::Addresses;
use case::{Case, Proof};
pub use coverage::{Coverage, Extent, Passing, RuleCoverage, example};
pub use linear::{deciding_row, remote_row};
use linear::{is_bare, top};
use parser_view::ParserView;
use ports::KnownCodes;
use slice::Memo;

/// A packet on which rows and policy differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The packet that they judge differently.
    pub packet: Packet,
    /// What the policy says.
    pub wanted: Verdict,
    /// What the rows say; `None` when no row matches or two of equal priority disagree.
    pub got: Option<Verdict>,
}

impl std::fmt::Display for Counterexample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the policy says {} and the rows say ", self.wanted)?;
        match self.got {
            Some(action) => write!(f, "{action}")?,
            None => f.write_str("nothing certain")?,
        }
        write!(f, " for {:?}", self.packet.frame)
    }
}

/// Proves programs of one model, one after the other, and remembers what they have in common.
#[derive(Debug)]
pub struct Prover {
    parser: ParserView,
    fixed: Vec<PolicyRow>,
    memo: Memo,
    codes: KnownCodes,
    engine: Engine,
}

/// How addresses are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    /// By whatever takes less time.
    Auto,
    #[cfg(test)]
    Cells,
    /// By pairs, where that is possible.
    #[cfg(test)]
    Pairs,
}

/// Pairs of address cells from which on pairs of boxes are cheaper.
const CELLS: usize = 256;

impl Engine {
    /// Whether a class goes by pairs. Later fragments only go by cells: whether they pass depends on all ports at
    /// once.
    fn takes(self, case: &Case<'_>, addresses: &Addresses) -> bool {
        case.policy.five_tuple
            && match self {
                Engine::Auto => addresses.pairs() > CELLS,
                #[cfg(test)]
                Engine::Cells => false,
                #[cfg(test)]
                Engine::Pairs => true,
            }
    }
}

/// Checks `program` and the rows that hold for every class against `policy` on `model`. To check many programs, keep
/// a [`Prover`].
pub fn prove(
    policy: &Policy,
    program: &ClassRows,
    fixed: &[PolicyRow],
    model: &StageModel,
) -> Result<(), Box<Counterexample>> {
    Prover::seeing(ParserView::from_model(model), fixed.to_vec()).prove(policy, program)
}

impl Prover {
    /// For a model and the rows that it holds for every class.
    pub fn new(model: impl Borrow<StageModel>, fixed: Vec<PolicyRow>) -> Self {
        Self::seeing(ParserView::from_model(model.borrow()), fixed)
    }

    fn seeing(parser: ParserView, fixed: Vec<PolicyRow>) -> Self {
        Prover {
            parser,
            fixed,
            memo: Memo::default(),
            codes: KnownCodes::default(),
            engine: Engine::Auto,
        }
    }

    /// Checks a program and the rows that hold for every class against a policy: on the whole packet space, exactly.
    pub fn prove(&mut self, policy: &Policy, program: &ClassRows) -> Result<(), Box<Counterexample>> {
        if !policy.may_deny() {
            return permissive(program);
        }
        let codes = &mut self.codes;
        let case = Case::new(policy, program, &self.fixed, &self.parser, |c| codes.get(c))?;
        not_ip(&case)?;
        let named = Addresses::are_named(&case);
        for family in Family::BOTH {
            let addresses = named.then(|| Addresses::new(&case, family)).transpose()?;
            match addresses.as_ref() {
                Some(addresses) if self.engine.takes(&case, addresses) => pairs::prove(&case, addresses)?,
                addresses => cells::compare(&case, family, addresses, &mut self.memo, &|packet, _, got| {
                    case.confirm(packet, got)
                })?,
            }
        }
        Ok(())
    }
}

/// A class that denies nothing is never sent through the policy stage; a row would be a mistake.
fn permissive(program: &ClassRows) -> Proof {
    match program.policy.first() {
        None => Ok(()),
        Some(row) => Err(Box::new(Counterexample {
            packet: Packet { frame: Frame::Other },
            wanted: Verdict::Allow,
            got: Some(row.action).filter(|a| a.denies()),
        })),
    }
}

/// EtherTypes that the parser reads: IPv4, ARP, IPv6.
const READ: [u16; 3] = [0x0800, 0x0806, 0x86dd];

/// Frames that are not IP: ARP, and each EtherType that a row or the model names.
fn not_ip(case: &Case<'_>) -> Proof {
    let bare = || case.rows.iter().copied().filter(|r| is_bare(&r.key));
    let check = |frame: Frame, hit: &dyn Fn(FrameMatch) -> bool| {
        let got = top(bare().filter(|r| hit(r.key.frame)), &case.words, 0);
        case.confirm(Packet { frame }, got.map(|(_, action)| action))
    };
    check(Frame::Arp, &|f| matches!(f, FrameMatch::Any | FrameMatch::Arp))?;
    let opaque = &case.parser.opaque;
    let named = bare().filter_map(|r| match r.key.frame {
        FrameMatch::EtherType(t) => Some(t),
        _ => None,
    });
    let mut types: Vec<u16> = named.chain(opaque.iter().copied()).chain([RARP]).collect();
    types.retain(|t| !READ.contains(t));
    // Stands for all that nobody names. Smaller numbers are lengths (IEEE 802.3).
    types.extend((0x0600..=u16::MAX).find(|t| !READ.contains(t) && !types.contains(t)));
    types.sort_unstable();
    types.dedup();
    for t in types {
        let own = |f| f == FrameMatch::Any || f == FrameMatch::EtherType(t);
        if !opaque.contains(&t) {
            check(if t == RARP { Frame::Rarp } else { Frame::Other }, &own)?;
        }
        if case.parser.unreadable {
            check(Frame::Opaque, &|f| own(f) || f == FrameMatch::Unreadable)?;
        } else if opaque.contains(&t) {
            check(Frame::Opaque, &own)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Encoding of an overlay: what an endpoint's own rules and unlocks change, as rows above those of its class.
//!
//! A class that has a [base](crate::Class::base) is written as the difference between the two. Where both give one
//! verdict no row is needed; where they differ a row gives the verdict of the class. So every row gives the verdict of
//! the class on all that it matches, and rows may also stand where none is needed, if that takes fewer.
//!
//! The packet space is cut as for planes: by IP version, protocol, remote and local prefix. Blocks are written from the
//! outermost to the innermost, so that each knows what rows above the base it inherits (`block.rs`), and each block in the
//! fewest rows that one of a few shapes takes (`cover.rs`).

mod block;
mod cover;
mod layers;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_policy::{Decider, Entry, Family, IPV6_FRAGMENT, Policy, Protocol, Verdict};

use super::capabilities::Capabilities;
use super::encode::Cache;
use super::plane::{Plane, Source};
use super::regions::{AddressRegion, areas, distinct};
use super::{Attribution, Declined, fixed_priority};
use crate::class_rows::{FrameMatch, PolicyRow, RemoteMatch, RowKey};
use crate::model::StageModel;
use block::Block;

/// Blocks that one IP version of an overlay may have.
const MOST_BLOCKS: usize = 4096;

/// Where a row stands among those of its overlay, from the lowest to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Rank {
    names_protocol: bool,
    /// One more than the prefix length; 0 for any address.
    remote: u16,
    local: u16,
    /// Rows above others of their block: one TCP flag state, then later fragments.
    state: u8,
    port: u16,
}

/// A row of an overlay without its priority.
#[derive(Debug, Clone, Copy)]
struct Draft {
    rank: Rank,
    key: RowKey,
    action: Verdict,
    by: Decider,
}

/// A packet that stands for all that one block cannot tell apart from it.
#[derive(Debug, Clone, Copy)]
struct Probe {
    protocol: Option<u8>,
    remote: Option<IpNet>,
    local: Option<IpNet>,
    src: u16,
    dst: u16,
    flags: u16,
    later: bool,
}

/// The draft that decides about a packet; `None` leaves it to the base.
fn decide<'d>(drafts: &'d [Draft], probe: &Probe) -> Option<&'d Draft> {
    let holds = |outer: &IpNet, inner: Option<IpNet>| inner.is_some_and(|inner| outer.contains(&inner));
    let hits = |draft: &&Draft| {
        let key = &draft.key;
        let remote = match &key.remote {
            RemoteMatch::Any => true,
            RemoteMatch::Prefix(prefix) => holds(prefix, probe.remote),
            RemoteMatch::Id(_) => false,
        };
        remote
            && (key.protocol.is_none() || key.protocol == probe.protocol)
            && key.local.is_none_or(|prefix| holds(&prefix, probe.local))
            && key.later.is_none_or(|later| later == probe.later)
            && key.flags.is_none_or(|(value, mask)| probe.flags & mask == value)
            && key.src.hits(probe.src, 0)
            && key.dst.hits(probe.dst, 0)
    };
    drafts.iter().filter(hits).max_by_key(|draft| draft.rank)
}

/// The lowest priority of rows of overlays; those of classes are below, on a model whose policy stages have overlays.
pub(crate) fn floor(model: &StageModel) -> u32 {
    let fixed = fixed_priority(model);
    fixed
        - if fixed <= u32::from(u16::MAX) {
            fixed / 16
        } else {
            1 << 16
        }
}

/// The policy rows of an overlay, highest first.
pub(super) fn lower(
    policy: &Policy,
    base: &Policy,
    model: &StageModel,
    capabilities: &Capabilities,
    cache: &mut Cache,
) -> Result<Vec<PolicyRow>, Declined> {
    let alike = policy.direction == base.direction && policy.default == base.default;
    if !alike || policy.five_tuple || base.five_tuple {
        return Err(Declined::Inexact);
    }
    let mut drafts = Vec::new();
    for family in Family::BOTH {
        let mut part = Part {
            sides: [policy, base].map(|policy| Side::new(policy, family)),
            model,
            capabilities,
            cache,
            family,
            drafts: Vec::new(),
        };
        part.write()?;
        drafts.extend(part.drafts);
    }
    number(&drafts, model)
}

/// Gives rows their priorities: those in use, without gaps.
fn number(drafts: &[Draft], model: &StageModel) -> Result<Vec<PolicyRow>, Declined> {
    let ranks: BTreeSet<Rank> = drafts.iter().map(|draft| draft.rank).collect();
    let ranks: Vec<Rank> = ranks.into_iter().collect();
    let floor = floor(model);
    if ranks.len() as u64 >= u64::from(fixed_priority(model) - floor) {
        return Err(Declined::TooLarge(format!("it takes {} priorities", ranks.len())));
    }
    let row = |draft: &Draft| PolicyRow {
        priority: floor + ranks.partition_point(|rank| *rank < draft.rank) as u32,
        key: draft.key,
        action: draft.action,
        words: None,
        by: draft.by,
    };
    let mut rows: Vec<PolicyRow> = drafts.iter().map(row).collect();
    rows.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.key.cmp(&b.key)));
    Ok(rows)
}

/// The entries of one policy that one IP version can match, and their indices.
struct Side<'a> {
    policy: &'a Policy,
    entries: Vec<(u32, &'a Entry)>,
}

impl<'a> Side<'a> {
    fn new(policy: &'a Policy, family: Family) -> Self {
        let all = (0u32..).zip(&policy.entries);
        Side {
            policy,
            entries: all.filter(|(_, e)| e.matcher.families.contains(family)).collect(),
        }
    }
}

/// The entries of one policy that hold in one block, the first first.
struct Members<'a> {
    entries: Vec<(u32, &'a Entry)>,
    default: Verdict,
}

impl Members<'_> {
    /// Whether both say the same by the same matches.
    fn equals(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .entries
                .iter()
                .zip(&other.entries)
                .all(|((_, a), (_, b))| a.action == b.action && a.matcher == b.matcher)
    }

    fn plane(&self, protocol: Option<u8>, cache: &mut Cache, model: &StageModel) -> Arc<Plane> {
        let source = Source {
            protocol,
            entries: self
                .entries
                .iter()
                .map(|(_, e)| (e.action, Arc::clone(&e.matcher)))
                .collect(),
            default: self.default,
            five_tuple: false,
        };
        cache.draw(source, Attribution::Rule, model).1
    }

    /// The verdict on later fragments that are shown with this protocol.
    fn later(&self, plane: &Plane) -> (Verdict, Decider) {
        let (action, colour) = plane.later.unwrap_or_else(|| plane.at_zero_by());
        let decider = match colour {
            Decider::Entry(n) => self
                .entries
                .get(n as usize)
                .map_or(colour, |(index, _)| Decider::Entry(*index)),
            other => other,
        };
        (action, decider)
    }
}

/// One IP version of an overlay.
struct Part<'a, 'c> {
    /// The class and its base.
    sides: [Side<'a>; 2],
    model: &'a StageModel,
    capabilities: &'a Capabilities,
    cache: &'c mut Cache,
    family: Family,
    drafts: Vec<Draft>,
}

impl<'a> Part<'a, '_> {
    fn write(&mut self) -> Result<(), Declined> {
        let [own, base] = &self.sides;
        let shift = own.policy.entries.len() as u32;
        let shifted = base.entries.iter().map(|(index, e)| (index + shift, *e));
        let all: Vec<(u32, &Entry)> = own.entries.iter().copied().chain(shifted).collect();
        let protocols = self.protocols(&all);
        let regions = (distinct(&all, |e| &e.matcher.remote, self.family) + 1)
            * (distinct(&all, |e| &e.matcher.local, self.family) + 1);
        if regions * protocols.len() > MOST_BLOCKS {
            return Err(Declined::TooLarge("its prefixes".to_string()));
        }
        let remotes = areas(&all, |e| &e.matcher.remote, self.family);
        let locals = areas(&all, |e| &e.matcher.local, self.family);
        for protocol in &protocols {
            for remote in &remotes {
                for local in &locals {
                    self.block(*protocol, remote, local, shift, &protocols)?;
                }
            }
        }
        Ok(())
    }

    /// Every protocol that has a verdict of its own somewhere, behind the one for all others.
    fn protocols(&self, all: &[(u32, &Entry)]) -> Vec<Option<u8>> {
        let mut named: BTreeSet<u8> = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].into();
        named.insert(match self.family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        });
        named.extend(self.is_blind().then_some(IPV6_FRAGMENT));
        named.extend(all.iter().filter_map(|(_, e)| match e.matcher.protocol {
            Protocol::Number(n) => Some(n),
            Protocol::Any => None,
        }));
        std::iter::once(None).chain(named.into_iter().map(Some)).collect()
    }

    /// Whether later fragments of this IP version come without their protocol.
    fn is_blind(&self) -> bool {
        Capabilities::blind(self.model, self.family)
    }

    /// What each policy has to say in one block.
    fn members(
        &self,
        protocol: Option<u8>,
        remote: &AddressRegion,
        local: &AddressRegion,
        shift: u32,
    ) -> [Members<'a>; 2] {
        let about = |e: &Entry| match e.matcher.protocol {
            Protocol::Any => true,
            Protocol::Number(n) => protocol == Some(n),
        };
        let of = |side: &Side<'a>, shift: u32| {
            let here = |index: u32| remote.members.contains(&index) && local.members.contains(&index);
            let entries = side.entries.iter().copied();
            Members {
                entries: entries
                    .filter(|(index, e)| about(e) && here(index + shift))
                    .collect(),
                default: side.policy.default,
            }
        };
        let [own, base] = &self.sides;
        [of(own, 0), of(base, shift)]
    }

    fn block(
        &mut self,
        protocol: Option<u8>,
        remote: &AddressRegion,
        local: &AddressRegion,
        shift: u32,
        protocols: &[Option<u8>],
    ) -> Result<(), Declined> {
        let members = self.members(protocol, remote, local, shift);
        let key = RowKey {
            frame: FrameMatch::Ip(self.family),
            protocol,
            remote: remote.prefix.map_or(RemoteMatch::Any, RemoteMatch::Prefix),
            local: local.prefix,
            ..RowKey::ANY
        };
        let length = |prefix: Option<IpNet>| prefix.map_or(0, |p| u16::from(p.prefix_len()) + 1);
        let rank = Rank {
            names_protocol: protocol.is_some(),
            remote: length(remote.prefix),
            local: length(local.prefix),
            ..Rank::default()
        };
        let probe = Probe {
            protocol,
            remote: remote.prefix,
            local: local.prefix,
            src: 0,
            dst: 0,
            flags: 0,
            later: false,
        };
        let before = self.drafts.len();
        Block::new(key, rank, probe, &members, self.capabilities, &self.drafts)?.write(&mut self.drafts)?;
        let shown = protocol == Some(IPV6_FRAGMENT);
        if shown || !self.is_blind() {
            let later = if shown && self.is_blind() {
                self.later_of_all(remote, local, shift, protocols)
            } else if members[0].equals(&members[1]) && self.drafts.is_empty() {
                return Ok(());
            } else {
                let planes = members
                    .each_ref()
                    .map(|m| m.plane(protocol, self.cache, self.model));
                let [own, base] = &members;
                [own.later(&planes[0]), base.later(&planes[1])]
            };
            self.later(later, key, rank, probe)?;
        }
        let prefixed = (remote.prefix.is_some() && !self.capabilities.remote)
            || (local.prefix.is_some() && !self.capabilities.local);
        if prefixed && self.drafts.len() > before {
            return Err(Declined::Inexact);
        }
        Ok(())
    }

    /// Verdicts on later fragments where all protocols are shown as one: they pass if any would let them.
    fn later_of_all(
        &mut self,
        remote: &AddressRegion,
        local: &AddressRegion,
        shift: u32,
        protocols: &[Option<u8>],
    ) -> [(Verdict, Decider); 2] {
        let mut passes = [false; 2];
        let view = self.model.view;
        let shown =
            |protocol: &&Option<u8>| protocol.is_none_or(|number| !view.hides_protocol(Family::V6, number));
        for protocol in protocols.iter().filter(shown) {
            let members = self.members(*protocol, remote, local, shift);
            for (passes, members) in passes.iter_mut().zip(&members) {
                *passes |= members.plane(*protocol, self.cache, self.model).passes_later();
            }
        }
        passes.map(|passes| (Verdict::from_passes(passes), Decider::Fragment))
    }

    /// The row for later fragments, where neither the base nor the rows so far say what the class does.
    fn later(
        &mut self,
        [(wanted, by), (base, _)]: [(Verdict, Decider); 2],
        key: RowKey,
        rank: Rank,
        probe: Probe,
    ) -> Result<(), Declined> {
        let probe = Probe { later: true, ..probe };
        let got = decide(&self.drafts, &probe).map_or(base, |draft| draft.action);
        if got == wanted {
            return Ok(());
        }
        if !self.capabilities.later {
            return Err(Declined::Inexact);
        }
        self.drafts.push(Draft {
            rank: Rank { state: 3, ..rank },
            key: RowKey {
                later: Some(true),
                ..key
            },
            action: wanted,
            by,
        });
        Ok(())
    }
}

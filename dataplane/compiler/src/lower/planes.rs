//! Encoding of a flattened class: nested complete tables, in which the longest prefix decides.
//!
//! Per IP version the protocols that rules name get tables of their own above the row for all other protocols; per
//! remote region, local prefix and flag state a nested table of source and destination ports:
//!
//! `priority = base + protocol-specific | remote | local | flag state | source length | destination length`
//!
//! No row is renumbered when a rule comes or goes, except where the target's priorities have no room for every
//! prefix length.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_policy::{Decider, Entry, Family, IPV6_FRAGMENT, Policy, Protocol, Verdict};

use super::capabilities::Capabilities;
use super::encode::{Cache, Cell, Encoded, EncodedPlane};
use super::plane::{Source, Space};
use super::regions::{AddressRegion, areas, distinct, remote_ids};
use super::{Attribution, BASE, Declined, Part, ceiling};
use crate::class_rows::{FrameMatch, PolicyRow, RemoteMatch, RemoteRow, RowKey, WordRow};
use crate::model::StageModel;

/// Prefix lengths 0 to 16.
const LENGTHS: u32 = 17;
/// TCP flag states that rows tell apart, and later fragments.
const STATES: u32 = 3;
/// Planes one IP version of a class may have.
const PLANES: usize = 40_000;

/// How remote regions are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remotes {
    /// By the `remote` stage.
    Ids,
    Keys,
}

/// Room for prefix lengths among the priorities.
#[derive(Debug, Clone)]
struct Levels {
    remote: u32,
    local: u32,
    /// Rank of each length in use; where there is room for all, its length and one.
    remote_ranks: BTreeMap<u8, u32>,
    local_ranks: BTreeMap<u8, u32>,
    /// The priorities do not fit below the ceiling: [`compact`] numbers those in use.
    wide: bool,
}

impl Levels {
    /// Where priorities end at 65,535 and class ids are keys, local prefixes have this many ranks.
    const SMALL_LOCAL: u32 = 16;
    /// Every prefix length, and none, in both IP versions.
    const ALL: u32 = 130;

    fn new(
        remotes: &[AddressRegion],
        locals: &[AddressRegion],
        how: Remotes,
        capabilities: &Capabilities,
        top: u32,
    ) -> Self {
        let lengths = |areas: &[AddressRegion]| -> BTreeSet<u8> {
            areas
                .iter()
                .filter_map(|a| a.prefix)
                .map(|p| p.prefix_len())
                .collect()
        };
        let remote_lengths = if how == Remotes::Keys {
            lengths(remotes)
        } else {
            BTreeSet::new()
        };
        let local_lengths = lengths(locals);
        if capabilities.small {
            let (remote, local) = match how {
                // Room for what may come, so that nothing is renumbered then.
                Remotes::Ids if capabilities.ids.is_some() => {
                    (2, (local_lengths.len() as u32 + 1).max(Self::SMALL_LOCAL))
                }
                _ => (remote_lengths.len() as u32 + 1, local_lengths.len() as u32 + 1),
            };
            if BASE + 2 * remote * local * STATES * LENGTHS * LENGTHS <= top {
                let ranks = |lengths: BTreeSet<u8>| lengths.into_iter().zip(1u32..).collect();
                return Levels {
                    remote,
                    local,
                    remote_ranks: ranks(remote_lengths),
                    local_ranks: ranks(local_lengths),
                    wide: false,
                };
            }
        }
        let all = |lengths: BTreeSet<u8>| lengths.into_iter().map(|l| (l, u32::from(l) + 1)).collect();
        Levels {
            remote: Self::ALL,
            local: Self::ALL,
            remote_ranks: all(remote_lengths),
            local_ranks: all(local_lengths),
            wide: capabilities.small,
        }
    }
}

/// Numbers the priorities in use without gaps, in the same order. A rule that comes or goes may renumber others.
fn compact(rows: &mut [PolicyRow], top: u32) -> Result<(), Declined> {
    let used: BTreeSet<u32> = rows.iter().map(|r| r.priority).collect();
    let needed = BASE + used.len() as u32;
    if needed > top {
        return Err(Declined::Priorities(needed));
    }
    let numbers: HashMap<u32, u32> = used.into_iter().zip(BASE..).collect();
    for row in rows {
        row.priority = numbers.get(&row.priority).copied().unwrap_or(row.priority);
    }
    Ok(())
}

/// Where a row stands among the nested tables of its class.
#[derive(Debug, Clone, Copy, Default)]
struct Rank {
    protocol: bool,
    remote: u32,
    local: u32,
    state: u32,
    src: u32,
    dst: u32,
}

impl Rank {
    fn priority(self, levels: &Levels) -> u32 {
        let block = (u32::from(self.protocol) * levels.remote + self.remote) * levels.local + self.local;
        BASE + ((block * STATES + self.state) * LENGTHS + self.src) * LENGTHS + self.dst
    }
}

/// Per remote region, per local area: the plane.
type Vectors = Vec<Vec<EncodedPlane>>;

/// The flattened form of one policy.
pub(super) struct Planes<'a> {
    policy: &'a Policy,
    model: &'a StageModel,
    capabilities: &'a Capabilities,
    attribution: Attribution,
    cache: &'a mut Cache,
    drawn: HashMap<(Option<u8>, Vec<u32>), EncodedPlane>,
    /// Sets of words, shared by IPv4 and IPv6.
    sets: Vec<Vec<(u16, u64)>>,
}

impl<'a> Planes<'a> {
    pub(super) fn new(
        policy: &'a Policy,
        model: &'a StageModel,
        capabilities: &'a Capabilities,
        attribution: Attribution,
        cache: &'a mut Cache,
    ) -> Self {
        Planes {
            policy,
            model,
            capabilities,
            attribution,
            cache,
            drawn: HashMap::new(),
            sets: Vec::new(),
        }
    }

    /// The rows of one IP version.
    pub(super) fn part(&mut self, family: Family) -> Result<Part, Declined> {
        let entries: Vec<(u32, &'a Entry)> = (0u32..)
            .zip(&self.policy.entries)
            .filter(|(_, e)| e.matcher.families.contains(family))
            .collect();
        let named = self.named(&entries, family);
        let regions = (distinct(&entries, |e| &e.matcher.remote, family) + 1)
            * (distinct(&entries, |e| &e.matcher.local, family) + 1);
        if regions.saturating_mul(named.len() + 1) > PLANES {
            return Err(Declined::TooLarge(format!(
                "its prefixes cut {family} into {regions} pairs of regions, of which each protocol has its own table"
            )));
        }
        let remotes = areas(&entries, |e| &e.matcher.remote, family);
        let locals = areas(&entries, |e| &e.matcher.local, family);
        let mut best: Option<Part> = None;
        let mut declined = Declined::Inexact;
        let trivial = remotes.len() == 1;
        for (how, possible) in [
            (Remotes::Ids, self.capabilities.ids.is_some() || trivial),
            (Remotes::Keys, self.capabilities.remote && !trivial),
        ] {
            if !possible {
                continue;
            }
            match self.attempt(&entries, &named, (&remotes, &locals), how, family) {
                Ok(part) => {
                    let weight = if self.capabilities.few_masks { 4 } else { 1 };
                    if best.as_ref().is_none_or(|b| part.rows() * weight < b.rows()) {
                        best = Some(part);
                    }
                }
                Err(why) => declined = why,
            }
        }
        best.ok_or(declined)
    }

    fn named(&self, entries: &[(u32, &Entry)], family: Family) -> BTreeSet<u8> {
        let mut named: BTreeSet<u8> = entries
            .iter()
            .filter_map(|(_, e)| match e.matcher.protocol {
                Protocol::Number(n) => Some(n),
                Protocol::Any => None,
            })
            .collect();
        if !self.policy.five_tuple {
            // Flag states and later fragments need a table of their own even where rules say "any".
            named.extend([Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
            named.insert(match family {
                Family::V4 => Protocol::ICMP,
                Family::V6 => Protocol::ICMPV6,
            });
            named.extend(self.blind(family).then_some(IPV6_FRAGMENT));
        }
        named
    }

    fn attempt(
        &mut self,
        entries: &[(u32, &'a Entry)],
        named: &BTreeSet<u8>,
        (remotes, locals): (&[AddressRegion], &[AddressRegion]),
        how: Remotes,
        family: Family,
    ) -> Result<Part, Declined> {
        let top = ceiling(self.model, self.policy.direction);
        let levels = Levels::new(remotes, locals, how, self.capabilities, top);
        let mut part = Part::default();
        let regions = match how {
            Remotes::Ids => {
                let (ids, sets) = remote_ids(remotes);
                if sets.len() as u64 > u64::from(self.capabilities.ids.unwrap_or(0)) + 1 {
                    return Err(Declined::TooLarge(format!(
                        "they need {} remote ids and there is room for {}",
                        sets.len(),
                        self.capabilities.ids.unwrap_or(0)
                    )));
                }
                for (area, id) in remotes.iter().zip(&ids) {
                    if let Some(prefix) = area.prefix
                        && ids.get(area.parent) != Some(id)
                    {
                        part.remote.push(RemoteRow { prefix, id: *id });
                    }
                }
                let region = |(id, members): (u32, BTreeSet<u32>)| Region {
                    key: if id == 0 {
                        RemoteMatch::Any
                    } else {
                        RemoteMatch::Id(id)
                    },
                    rank: u32::from(id != 0),
                    parent: 0,
                    members,
                };
                (0u32..).zip(sets).map(region).collect()
            }
            Remotes::Keys => remotes
                .iter()
                .map(|area| Region::new(area, &levels))
                .collect::<Vec<_>>(),
        };
        let mut groups: Vec<(Option<u8>, Vectors)> =
            vec![(None, self.vectors(entries, None, &regions, locals))];
        for protocol in named {
            let vectors = self.vectors(entries, Some(*protocol), &regions, locals);
            groups.push((Some(*protocol), vectors));
        }
        let fallback = groups.first().and_then(|(_, others)| constant_of(others));
        if self.blind(family) {
            self.merge_later(&mut groups);
        }
        for (protocol, vectors) in &groups {
            let inherited = match protocol {
                None => Some(Decider::Default),
                Some(_) => fallback,
            };
            let group = Group {
                protocol: *protocol,
                family,
                inherited,
                levels: &levels,
            };
            self.group(&group, vectors, &regions, locals, &mut part)?;
        }
        if levels.wide {
            compact(&mut part.policy, top)?;
        }
        Ok(part)
    }

    /// Whether later fragments of this IP version come without their protocol.
    fn blind(&self, family: Family) -> bool {
        Capabilities::blind(self.model, family) && !self.policy.five_tuple
    }

    /// Gives all later fragments the one verdict they have, in the table of the protocol they are shown with.
    fn merge_later(&self, groups: &mut [(Option<u8>, Vectors)]) {
        let view = self.model.view;
        let shows = |(protocol, _): &&(Option<u8>, Vectors)| {
            protocol.is_none_or(|number| !view.hides_protocol(Family::V6, number))
        };
        let passing: Vec<Vec<bool>> = match groups.first() {
            None => return,
            Some((_, first)) => (0..first.len())
                .map(|remote| {
                    let passes = |local: usize| {
                        groups.iter().filter(shows).any(|(_, vectors)| {
                            let plane = vectors.get(remote).and_then(|v| v.get(local));
                            plane.is_some_and(|p| p.plane.passes_later())
                        })
                    };
                    (0..first.get(remote).map_or(0, Vec::len)).map(passes).collect()
                })
                .collect(),
        };
        for (protocol, vectors) in groups {
            let shown = *protocol == Some(IPV6_FRAGMENT);
            for (planes, passing) in vectors.iter_mut().zip(&passing) {
                for (plane, passes) in planes.iter_mut().zip(passing) {
                    let action = Verdict::from_passes(*passes);
                    let wanted = shown.then_some((action, Decider::Fragment));
                    plane.later = plane.plane.later_as(wanted);
                }
            }
        }
    }

    /// Per region, per local area: the plane.
    fn vectors(
        &mut self,
        entries: &[(u32, &Entry)],
        protocol: Option<u8>,
        regions: &[Region],
        locals: &[AddressRegion],
    ) -> Vectors {
        let matches = |e: &Entry| match (e.matcher.protocol, protocol) {
            (Protocol::Any, _) => true,
            (Protocol::Number(n), Some(p)) => n == p,
            (Protocol::Number(_), None) => false,
        };
        let group: Vec<u32> = entries
            .iter()
            .filter(|(_, e)| matches(e))
            .map(|(i, _)| *i)
            .collect();
        let mut vectors = Vec::with_capacity(regions.len());
        for region in regions {
            let mut vector = Vec::with_capacity(locals.len());
            for local in locals {
                let here = |i: &u32| region.members.contains(i) && local.members.contains(i);
                let members: Vec<u32> = group.iter().copied().filter(here).collect();
                vector.push(self.plane(protocol, members));
            }
            vectors.push(vector);
        }
        vectors
    }

    fn plane(&mut self, protocol: Option<u8>, members: Vec<u32>) -> EncodedPlane {
        let key = (protocol, members);
        if let Some(drawn) = self.drawn.get(&key) {
            return drawn.clone();
        }
        let entry = |index: &u32| {
            let entry = self.policy.entries.get(*index as usize)?;
            Some((entry.action, Arc::clone(&entry.matcher)))
        };
        let source = Source {
            protocol,
            entries: key.1.iter().filter_map(entry).collect(),
            default: self.policy.default,
            five_tuple: self.policy.five_tuple,
        };
        let (id, plane) = self.cache.draw(source, self.attribution, self.model);
        let mut drawn = EncodedPlane {
            later: None,
            plane,
            id,
            members: key.1.as_slice().into(),
            merged: self.attribution == Attribution::Class,
        };
        drawn.later = drawn
            .plane
            .later
            .map(|(action, colour)| (action, drawn.decider(colour)));
        self.drawn.insert(key, drawn.clone());
        drawn
    }

    /// The rows of one protocol, or of all others.
    fn group(
        &mut self,
        group: &Group<'_>,
        vectors: &Vectors,
        regions: &[Region],
        locals: &[AddressRegion],
        part: &mut Part,
    ) -> Result<(), Declined> {
        for (at, (region, vector)) in regions.iter().zip(vectors).enumerate() {
            if at != 0 && vectors.get(region.parent) == Some(vector) {
                continue;
            }
            for (area, plane) in locals.iter().zip(vector) {
                let nested = area.prefix.is_some();
                if nested && vector.get(area.parent) == Some(plane) {
                    continue;
                }
                let length = area.prefix.map(|p| p.prefix_len());
                let block = Block {
                    group,
                    key: RowKey {
                        frame: FrameMatch::Ip(group.family),
                        protocol: group.protocol,
                        remote: region.key,
                        local: area.prefix,
                        ..RowKey::ANY
                    },
                    rank: Rank {
                        protocol: group.protocol.is_some(),
                        remote: region.rank,
                        local: length
                            .and_then(|l| group.levels.local_ranks.get(&l).copied())
                            .unwrap_or(0),
                        ..Rank::default()
                    },
                    inherited: group.inherited.filter(|_| at == 0 && !nested),
                };
                self.block(&block, plane, part)?;
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &Block<'_>, drawn: &EncodedPlane, part: &mut Part) -> Result<(), Declined> {
        let space = Space::new(block.group.protocol, self.policy.five_tuple);
        let encoded = self
            .cache
            .encode(drawn, space, self.capabilities, block.inherited)?;
        let levels = block.group.levels;
        if !self.words(block, drawn, &encoded, part) {
            part.policy
                .extend(encoded.grid.iter().map(|cell| block.row(cell, drawn, levels)));
        }
        part.policy
            .extend(encoded.opening.iter().map(|cell| block.row(cell, drawn, levels)));
        if let Some((action, by)) = drawn.later {
            let rank = Rank {
                state: 2,
                ..block.rank
            };
            part.policy.push(PolicyRow {
                priority: rank.priority(levels),
                key: RowKey {
                    later: Some(true),
                    ..block.key
                },
                action,
                words: None,
                by,
            });
        }
        Ok(())
    }

    /// Refers to words of 64 ports, where they take fewer rows and there is a set left.
    fn words(&mut self, block: &Block<'_>, drawn: &EncodedPlane, encoded: &Encoded, part: &mut Part) -> bool {
        let (Some(room), Some((miss, blocks, colour))) = (self.capabilities.words, &encoded.words) else {
            return false;
        };
        let known = self.sets.iter().position(|set| set == blocks);
        let at = known.unwrap_or_else(|| {
            self.sets.push(blocks.clone());
            self.sets.len() - 1
        });
        let Some(set) = u16::try_from(at).ok().filter(|set| *set <= room) else {
            return false;
        };
        if !part.words.iter().any(|w| w.set == set) {
            let word = |(block, word): &(u16, u64)| WordRow {
                set,
                block: *block,
                word: *word,
            };
            part.words.extend(blocks.iter().map(word));
        }
        part.policy.push(PolicyRow {
            priority: block.rank.priority(block.group.levels),
            key: block.key,
            action: *miss,
            words: Some(set),
            by: drawn.decider(*colour),
        });
        true
    }
}

/// A region of the other side's addresses.
struct Region {
    key: RemoteMatch,
    rank: u32,
    parent: usize,
    members: BTreeSet<u32>,
}

impl Region {
    fn new(area: &AddressRegion, levels: &Levels) -> Self {
        let rank = |p: &IpNet| levels.remote_ranks.get(&p.prefix_len()).copied();
        Region {
            key: area.prefix.map_or(RemoteMatch::Any, RemoteMatch::Prefix),
            rank: area.prefix.as_ref().and_then(rank).unwrap_or(0),
            parent: area.parent,
            members: area.members.clone(),
        }
    }
}

/// What the rows of one protocol have in common.
struct Group<'a> {
    protocol: Option<u8>,
    family: Family,
    /// The colour that rows below this group give to everything in it.
    inherited: Option<Decider>,
    levels: &'a Levels,
}

/// What the rows of one nested table have in common.
#[derive(Clone, Copy)]
struct Block<'a> {
    group: &'a Group<'a>,
    key: RowKey,
    rank: Rank,
    inherited: Option<Decider>,
}

impl Block<'_> {
    fn row(&self, cell: &Cell, drawn: &EncodedPlane, levels: &Levels) -> PolicyRow {
        let rank = Rank {
            state: u32::from(cell.above),
            src: u32::from(cell.src_rank),
            dst: u32::from(cell.dst_rank),
            ..self.rank
        };
        PolicyRow {
            priority: rank.priority(levels),
            key: RowKey {
                src: cell.src,
                dst: cell.dst,
                flags: cell.flags,
                ..self.key
            },
            action: cell.action,
            words: None,
            by: drawn.decider(cell.colour),
        }
    }
}

/// The decider of everything on all planes, if they have one.
fn constant_of(vectors: &[Vec<EncodedPlane>]) -> Option<Decider> {
    let constant = |drawn: &EncodedPlane| {
        let colour = drawn.plane.constant().filter(|_| drawn.later.is_none())?;
        Some(drawn.decider(colour))
    };
    let mut colours = vectors.iter().flatten().map(constant);
    let first = colours.next()??;
    colours.all(|c| c == Some(first)).then_some(first)
}

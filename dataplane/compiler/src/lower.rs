//! The encoder: from a policy to rows of the `remote` and policy stages of a [`StageModel`].
//!
//! Per IP version the protocols that rules name get tables of their own above the row for all other
//! protocols; per remote id, local prefix and flag state a nested table of source and destination prefixes.
//! A nested table is complete, so within its block the longest prefix decides and nothing is renumbered:
//!
//! `priority = base + protocol-specific | remote-specific | local length | flag state | source | destination`

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use ipnet::IpNet;
use portcullis_policy::{Action, Decider, Entry, Family, IPV6_FRAGMENT, Policy, Protocol, TCP_ACK, TCP_SYN};

use crate::cells::{exact_cells, naive, range_cells};
use crate::model::{PortKind, StageModel};
use crate::ortc::ortc;
use crate::plane::{Grid, Line, Plane, Space};
use crate::program::{FrameMatch, PolicyRow, PortMatch, Program, RemoteRow, RowKey, Unsupported};

/// Priority of the row that catches all of a class.
const CATCH_ALL: u16 = 1;
/// Lowest priority of the nested tables.
const BASE: u16 = 10;
/// Priority of the rows that hold for every class, above all nested tables.
const FIXED: u16 = 60_000;
/// Prefix lengths 0 to 16.
const LENGTHS: u16 = 17;
/// TCP flag states that rows tell apart, and later fragments.
const STATES: u16 = 3;
/// Local prefix lengths there is room for.
const LOCALS: u16 = 16;

/// Where a row stands among the nested tables of its class.
#[derive(Debug, Clone, Copy, Default)]
struct Rank {
    protocol: bool,
    remote: bool,
    local: u16,
    state: u16,
    src: u16,
    dst: u16,
}

impl Rank {
    fn priority(self) -> u16 {
        let block = (u16::from(self.protocol) * 2 + u16::from(self.remote)) * LOCALS + self.local;
        BASE + ((block * STATES + self.state) * LENGTHS + self.src) * LENGTHS + self.dst
    }
}

/// The rows that hold for every class that may deny something: ARP passes; what hides its ports does not.
pub fn fixed_rows(model: &StageModel) -> Vec<PolicyRow> {
    let row = |action, by, key| PolicyRow {
        priority: FIXED,
        key,
        action,
        by,
    };
    let deny = |key| row(Action::Deny, Decider::Evasion, key);
    let mut rows = vec![row(
        Action::Allow,
        Decider::Arp,
        RowKey {
            frame: FrameMatch::Arp,
            ..RowKey::ANY
        },
    )];
    rows.extend(model.opaque_ethertypes.iter().map(|t| {
        deny(RowKey {
            frame: FrameMatch::EtherType(*t),
            ..RowKey::ANY
        })
    }));
    for family in Family::BOTH {
        let ip = RowKey {
            frame: FrameMatch::Ip(family),
            ..RowKey::ANY
        };
        rows.push(deny(RowKey {
            protocol: Some(0),
            ..ip
        }));
        if !model.view.short_header {
            let zero = match model.ports {
                PortKind::Masked => PortMatch::Masked {
                    value: 0,
                    mask: u16::MAX,
                },
                PortKind::Range => PortMatch::Range { low: 0, high: 0 },
            };
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                let flags = (protocol == Protocol::TCP).then_some((0, 0xfff));
                rows.push(deny(RowKey {
                    protocol: Some(protocol),
                    later: Some(false),
                    flags,
                    src: zero,
                    dst: zero,
                    ..ip
                }));
            }
        }
    }
    rows
}

/// A region of addresses: everything under `prefix` that no longer prefix takes, and who holds there.
struct Atom {
    prefix: Option<IpNet>,
    parent: usize,
    members: BTreeSet<u32>,
}

/// Splits an address dimension into atoms; the first is "everywhere else".
fn atoms(entries: &[(u32, &Entry)], prefixes: impl Fn(&Entry) -> &[IpNet], family: Family) -> Vec<Atom> {
    let mut all: Vec<IpNet> = entries
        .iter()
        .flat_map(|(_, e)| prefixes(e))
        .copied()
        .filter(|p| Family::of(p.addr()) == family)
        .collect();
    all.sort_unstable_by_key(|p| (p.prefix_len(), p.addr()));
    all.dedup();
    let mut holders: HashMap<IpNet, Vec<u32>> = HashMap::new();
    let mut everywhere = BTreeSet::new();
    for (index, entry) in entries {
        if prefixes(entry).is_empty() {
            everywhere.insert(*index);
        }
        for prefix in prefixes(entry) {
            holders.entry(*prefix).or_default().push(*index);
        }
    }
    let mut list = vec![Atom {
        prefix: None,
        parent: 0,
        members: everywhere,
    }];
    let mut at: HashMap<IpNet, usize> = HashMap::new();
    for prefix in all {
        let parent = std::iter::successors(prefix.supernet(), IpNet::supernet)
            .find_map(|above| at.get(&above).copied())
            .unwrap_or(0);
        let mut members = list.get(parent).map(|a| a.members.clone()).unwrap_or_default();
        members.extend(holders.get(&prefix).into_iter().flatten());
        at.insert(prefix, list.len());
        list.push(Atom {
            prefix: Some(prefix),
            parent,
            members,
        });
    }
    list
}

/// Encodes one policy. The rows are not proved yet.
pub fn lower(policy: &Policy, model: &StageModel) -> Result<Program, Unsupported> {
    let mut program = Program {
        naive: naive(policy),
        ..Program::default()
    };
    if !policy.may_deny() {
        return Ok(program);
    }
    for family in Family::BOTH {
        Lowering::new(policy, model, family).run(&mut program)?;
    }
    program.policy.push(PolicyRow {
        priority: CATCH_ALL,
        key: RowKey::ANY,
        action: policy.default,
        by: Decider::Default,
    });
    program
        .policy
        .sort_unstable_by(|a, b| b.priority.cmp(&a.priority).then(a.key.cmp(&b.key)));
    program.remote.sort_unstable();
    Ok(program)
}

/// Per remote id, per local atom: the plane.
type Vectors = Vec<Vec<Rc<Plane>>>;

/// One IP version of one policy.
struct Lowering<'a> {
    policy: &'a Policy,
    model: &'a StageModel,
    family: Family,
    entries: Vec<(u32, &'a Entry)>,
    planes: HashMap<(Option<u8>, Vec<u32>), Rc<Plane>>,
}

impl<'a> Lowering<'a> {
    fn new(policy: &'a Policy, model: &'a StageModel, family: Family) -> Self {
        let entries = (0u32..)
            .zip(&policy.entries)
            .filter(|(_, e)| e.matcher.families.contains(family))
            .collect();
        Lowering {
            policy,
            model,
            family,
            entries,
            planes: HashMap::new(),
        }
    }

    fn run(mut self, program: &mut Program) -> Result<(), Unsupported> {
        let remotes = atoms(&self.entries, |e| &e.matcher.remote, self.family);
        let locals = atoms(&self.entries, |e| &e.matcher.local, self.family);
        let lengths = self.local_ranks(&locals)?;
        let (ids, sets) = remote_ids(&remotes);
        for (atom, id) in remotes.iter().zip(&ids) {
            if let Some(prefix) = atom.prefix
                && ids.get(atom.parent) != Some(id)
            {
                program.remote.push(RemoteRow { prefix, id: *id });
            }
        }
        let named: BTreeSet<u8> = self
            .entries
            .iter()
            .filter_map(|(_, e)| match e.matcher.protocol {
                Protocol::Number(n) => Some(n),
                Protocol::Any => None,
            })
            // Flag states and later fragments need a table of their own even where rules say "any".
            .chain([Protocol::TCP, Protocol::UDP, Protocol::SCTP])
            .chain([if self.family == Family::V4 {
                Protocol::ICMP
            } else {
                Protocol::ICMPV6
            }])
            .chain(self.blind().then_some(IPV6_FRAGMENT))
            .collect();
        let others = self.vectors(None, &sets, &locals);
        let fallback = constant_of(&others);
        let mut groups: Vec<(Option<u8>, Vectors)> = vec![(None, others)];
        for protocol in named {
            let vectors = self.vectors(Some(protocol), &sets, &locals);
            groups.push((Some(protocol), vectors));
        }
        if self.blind() {
            self.merge_later(&mut groups);
        }
        for (protocol, vectors) in &groups {
            let inherited = match protocol {
                None => Some(Decider::Default),
                Some(_) => fallback,
            };
            self.group(
                *protocol,
                vectors,
                &locals,
                &lengths,
                inherited,
                &mut program.policy,
            );
        }
        Ok(())
    }

    /// Whether later fragments of this IP version come without their protocol.
    fn blind(&self) -> bool {
        self.family == Family::V6 && !self.model.view.later_v6_protocol
    }

    /// Gives all later fragments the one verdict they have, in the table of the protocol they are shown with.
    fn merge_later(&self, groups: &mut [(Option<u8>, Vectors)]) {
        let passing: Vec<Vec<bool>> = match groups.first() {
            None => return,
            Some((_, first)) => (0..first.len())
                .map(|remote| {
                    let passes = |local: usize| {
                        groups.iter().any(|(_, vectors)| {
                            let plane = vectors.get(remote).and_then(|v| v.get(local));
                            plane.is_some_and(|p| p.passes_some(self.policy))
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
                    let action = if *passes { Action::Allow } else { Action::Deny };
                    let wanted = shown.then_some((action, Decider::Fragment));
                    *plane = Rc::new(plane.with_later(self.policy, wanted));
                }
            }
        }
    }

    /// The rank of each local prefix length in use.
    fn local_ranks(&self, locals: &[Atom]) -> Result<BTreeMap<u8, u16>, Unsupported> {
        let lengths: BTreeSet<u8> = locals
            .iter()
            .filter_map(|a| a.prefix)
            .map(|p| p.prefix_len())
            .collect();
        let room = self.model.local_lengths.min(usize::from(LOCALS)) - 1;
        if lengths.len() > room {
            return Err(Unsupported {
                target: self.model.name.to_string(),
                rule: format!("{} rules with `local` prefixes", self.policy.direction),
                table: format!("{}_policy", self.policy.direction),
                why: format!(
                    "they use {} distinct {} prefix lengths and there is room for {room}: use fewer lengths",
                    lengths.len(),
                    self.family
                ),
            });
        }
        Ok(lengths.into_iter().zip(1u16..).collect())
    }

    /// Per remote id, per local atom: the plane.
    fn vectors(&mut self, protocol: Option<u8>, sets: &[BTreeSet<u32>], locals: &[Atom]) -> Vectors {
        let matches = |e: &Entry| match (e.matcher.protocol, protocol) {
            (Protocol::Any, _) => true,
            (Protocol::Number(n), Some(p)) => n == p,
            (Protocol::Number(_), None) => false,
        };
        let group: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, e)| matches(e))
            .map(|(i, _)| *i)
            .collect();
        let mut vectors = Vec::with_capacity(sets.len());
        for remote in sets {
            let mut vector = Vec::with_capacity(locals.len());
            for local in locals {
                let members: Vec<u32> = group
                    .iter()
                    .copied()
                    .filter(|i| remote.contains(i) && local.members.contains(i))
                    .collect();
                vector.push(self.plane(protocol, members));
            }
            vectors.push(vector);
        }
        vectors
    }

    fn plane(&mut self, protocol: Option<u8>, members: Vec<u32>) -> Rc<Plane> {
        let (policy, view) = (self.policy, self.model.view);
        let key = (protocol, members);
        if let Some(plane) = self.planes.get(&key) {
            return Rc::clone(plane);
        }
        let plane = Rc::new(Plane::draw(policy, &key.1, protocol, view));
        self.planes.insert(key, Rc::clone(&plane));
        plane
    }

    /// The rows of one protocol, or of all others.
    fn group(
        &self,
        protocol: Option<u8>,
        vectors: &[Vec<Rc<Plane>>],
        locals: &[Atom],
        lengths: &BTreeMap<u8, u16>,
        inherited: Option<Decider>,
        rows: &mut Vec<PolicyRow>,
    ) {
        let Some(base) = vectors.first() else { return };
        for (id, vector) in (0u32..).zip(vectors) {
            let specific = id != 0;
            if specific && vector == base {
                continue;
            }
            for (atom, plane) in locals.iter().zip(vector) {
                let nested = atom.prefix.is_some();
                if nested && vector.get(atom.parent) == Some(plane) {
                    continue;
                }
                let block = Block {
                    protocol,
                    remote: specific.then_some(id),
                    local: atom.prefix,
                    rank: Rank {
                        protocol: protocol.is_some(),
                        remote: specific,
                        local: atom
                            .prefix
                            .and_then(|p| lengths.get(&p.prefix_len()).copied())
                            .unwrap_or(0),
                        ..Rank::default()
                    },
                    inherited: inherited.filter(|_| !specific && !nested),
                };
                self.block(&block, plane, rows);
            }
        }
    }

    fn block(&self, block: &Block, plane: &Plane, rows: &mut Vec<PolicyRow>) {
        self.grid(block, &plane.grid, 0, rows);
        if let Some(opening) = &plane.opening {
            self.grid(
                &Block {
                    inherited: None,
                    ..*block
                },
                opening,
                1,
                rows,
            );
        }
        if let Some((action, by)) = plane.later {
            let key = RowKey {
                later: Some(true),
                ..self.key(block)
            };
            let rank = Rank {
                state: 2,
                ..block.rank
            };
            rows.push(PolicyRow {
                priority: rank.priority(),
                key,
                action,
                by,
            });
        }
    }

    fn key(&self, block: &Block) -> RowKey {
        RowKey {
            frame: FrameMatch::Ip(self.family),
            protocol: block.protocol,
            remote: block.remote,
            local: block.local,
            ..RowKey::ANY
        }
    }

    fn grid(&self, block: &Block, grid: &Grid, state: u16, rows: &mut Vec<PolicyRow>) {
        let space = Space::of(block.protocol);
        let mut lines: Vec<Rc<Line>> = Vec::new();
        let mut strips: Vec<(u16, usize)> = Vec::new();
        for (start, line) in grid {
            let at = lines.iter().position(|l| l == line).unwrap_or_else(|| {
                lines.push(Rc::clone(line));
                lines.len() - 1
            });
            strips.push((*start, at));
        }
        let flags = (state == 1).then_some((TCP_SYN, TCP_SYN | TCP_ACK));
        for (src, src_rank, at) in self.cells(&strips, space, None) {
            let Some(line) = lines.get(at) else { continue };
            // Only the outermost line may lean on the rows below this block.
            let inherited = block.inherited.filter(|_| src_rank == 0);
            for (dst, dst_rank, by) in self.cells(line, space, inherited) {
                let rank = Rank {
                    state,
                    src: src_rank,
                    dst: dst_rank,
                    ..block.rank
                };
                let key = RowKey {
                    src,
                    dst,
                    flags,
                    ..self.key(block)
                };
                let action = self.action(by);
                rows.push(PolicyRow {
                    priority: rank.priority(),
                    key,
                    action,
                    by,
                });
            }
        }
    }

    fn action(&self, by: Decider) -> Action {
        match by {
            Decider::Entry(i) => self
                .policy
                .entries
                .get(i as usize)
                .map_or(self.policy.default, |e| e.action),
            _ => self.policy.default,
        }
    }

    /// Encodes one dimension: `(match, rank, colour)`.
    fn cells<C: Copy + Ord>(
        &self,
        partition: &[(u16, C)],
        space: Space,
        inherited: Option<C>,
    ) -> Vec<(PortMatch, u16, C)> {
        match (space, self.model.ports) {
            (Space::Point, _) => {
                let colour = partition
                    .first()
                    .map(|(_, c)| *c)
                    .filter(|c| inherited != Some(*c));
                colour.map(|c| (PortMatch::Any, 0, c)).into_iter().collect()
            }
            (Space::Icmp, _) => exact_cells(partition, space, inherited),
            (Space::Ports, PortKind::Masked) => ortc(partition, space.width(), inherited)
                .into_iter()
                .map(|row| {
                    let port = match row.len {
                        0 => PortMatch::Any,
                        len => PortMatch::Masked {
                            value: row.value,
                            mask: u16::MAX << (16 - len),
                        },
                    };
                    (port, u16::from(row.len), row.colour)
                })
                .collect(),
            (Space::Ports, PortKind::Range) => range_cells(partition, u16::MAX, inherited),
        }
    }
}

/// What the rows of one nested table have in common.
#[derive(Clone, Copy)]
struct Block {
    protocol: Option<u8>,
    remote: Option<u32>,
    local: Option<IpNet>,
    rank: Rank,
    /// The colour that rows below this block give to everything in it.
    inherited: Option<Decider>,
}

/// Ids of remote atoms: equal memberships share one, "everywhere else" is 0. Returns the set of each id too.
fn remote_ids(atoms: &[Atom]) -> (Vec<u32>, Vec<BTreeSet<u32>>) {
    let mut sets: Vec<BTreeSet<u32>> = Vec::new();
    let mut known: HashMap<&BTreeSet<u32>, u32> = HashMap::new();
    let ids = atoms
        .iter()
        .map(|atom| {
            *known.entry(&atom.members).or_insert_with(|| {
                sets.push(atom.members.clone());
                u32::try_from(sets.len() - 1).unwrap_or(u32::MAX)
            })
        })
        .collect();
    (ids, sets)
}

/// The one colour of all planes, if they have one.
fn constant_of(vectors: &[Vec<Rc<Plane>>]) -> Option<Decider> {
    let mut colours = vectors.iter().flatten().map(|p| p.constant());
    let first = colours.next()??;
    colours.all(|c| c == Some(first)).then_some(first)
}

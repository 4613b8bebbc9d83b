//! Flattening: the coloured partition of ports (or ICMP types and codes) that a list of entries draws.

use std::rc::Rc;

use portcullis_policy::{Action, Decider, Entry, FlagMatch, Policy, Protocol, View};

/// A partition of a number line: `(first number, colour)`, ascending from 0.
pub(crate) type Line = Vec<(u16, Decider)>;

/// A partition of source ports (ICMP types) into lines over destination ports (codes).
pub(crate) type Grid = Vec<(u16, Rc<Line>)>;

/// The verdict function of one protocol towards one set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plane {
    /// TCP segments that do not open a connection, and everything that is not TCP.
    pub grid: Grid,
    /// TCP segments that open a connection, where they are told apart.
    pub opening: Option<Grid>,
    /// Later fragments, where they have a verdict of their own.
    pub later: Option<(Action, Decider)>,
}

/// What the two 16-bit dimensions mean for a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Source and destination port.
    Ports,
    /// ICMP type and code, 8 bits each.
    Icmp,
    /// None: one verdict for all.
    Point,
}

impl Space {
    pub(crate) fn of(protocol: Option<u8>) -> Self {
        match protocol {
            Some(p) if Protocol::has_ports(p) => Space::Ports,
            Some(Protocol::ICMP | Protocol::ICMPV6) => Space::Icmp,
            _ => Space::Point,
        }
    }

    pub(crate) fn width(self) -> u8 {
        match self {
            Space::Ports => 16,
            Space::Icmp => 8,
            Space::Point => 0,
        }
    }

    fn last(self) -> u16 {
        match self {
            Space::Ports => u16::MAX,
            Space::Icmp => 255,
            Space::Point => 0,
        }
    }

    /// The source and destination intervals an entry covers.
    fn extent(self, entry: &Entry) -> (Intervals, Intervals) {
        let m = &entry.matcher;
        match (self, m.icmp) {
            (Space::Ports, _) => (m.src_ports.iter().collect(), m.dst_ports.iter().collect()),
            (Space::Icmp, Some(icmp)) => {
                let kind = u16::from(icmp.kind);
                let code = icmp.code.map_or((0, 255), |c| (u16::from(c), u16::from(c)));
                (vec![(kind, kind)], vec![code])
            }
            _ => (vec![(0, self.last())], vec![(0, self.last())]),
        }
    }
}

/// Inclusive intervals.
type Intervals = Vec<(u16, u16)>;

struct Shape {
    index: u32,
    src: Vec<(u16, u16)>,
    dst: Vec<(u16, u16)>,
}

impl Plane {
    /// The plane drawn by the entries of `policy` with these indices, in their order.
    pub(crate) fn draw(policy: &Policy, members: &[u32], protocol: Option<u8>, view: View) -> Self {
        let space = Space::of(protocol);
        let entry = |index: &u32| policy.entries.get(*index as usize).map(|e| (*index, e));
        let entries: Vec<(u32, &Entry)> = members.iter().filter_map(entry).collect();
        let shapes = |wanted: &dyn Fn(&Entry) -> bool| -> Vec<Shape> {
            entries
                .iter()
                .filter(|(_, e)| wanted(e))
                .map(|(index, e)| {
                    let (src, dst) = space.extent(e);
                    Shape {
                        index: *index,
                        src,
                        dst,
                    }
                })
                .collect()
        };
        let grid = grid_of(&shapes(&|_| true), space.last());
        let told_apart = protocol == Some(Protocol::TCP)
            && entries
                .iter()
                .any(|(_, e)| e.matcher.flags == FlagMatch::NotOpening);
        let opening = told_apart
            .then(|| grid_of(&shapes(&|e| e.matcher.flags == FlagMatch::Any), space.last()))
            .filter(|opening| *opening != grid);
        let later = later(policy, space, &grid, opening.as_ref(), view);
        Plane { grid, opening, later }
    }

    /// Whether it lets anything pass.
    pub(crate) fn passes_some(&self, policy: &Policy) -> bool {
        let grids = std::iter::once(&self.grid).chain(self.opening.as_ref());
        let mut colours = grids.flatten().flat_map(|(_, line)| line.iter());
        colours.any(|(_, colour)| action_of(policy, *colour) == Action::Allow)
    }

    /// The same with another verdict on later fragments, where zero ports do not give it already.
    pub(crate) fn with_later(&self, policy: &Policy, wanted: Option<(Action, Decider)>) -> Self {
        let at_zero = self
            .grid
            .first()
            .and_then(|(_, line)| line.first())
            .map(|(_, c)| action_of(policy, *c));
        let later = wanted.filter(|(action, _)| at_zero != Some(*action));
        Plane {
            grid: self.grid.clone(),
            opening: self.opening.clone(),
            later,
        }
    }

    /// Its colour when it has only one.
    pub(crate) fn constant(&self) -> Option<Decider> {
        match (self.grid.as_slice(), &self.opening, self.later) {
            ([(_, line)], None, None) => match line.as_slice() {
                [(_, colour)] => Some(*colour),
                _ => None,
            },
            _ => None,
        }
    }
}

fn action_of(policy: &Policy, colour: Decider) -> Action {
    match colour {
        Decider::Entry(index) => policy
            .entries
            .get(index as usize)
            .map_or(policy.default, |e| e.action),
        _ => policy.default,
    }
}

/// The verdict on later fragments, unless the row that zero ports hit gives it already.
fn later(
    policy: &Policy,
    space: Space,
    grid: &Grid,
    opening: Option<&Grid>,
    view: View,
) -> Option<(Action, Decider)> {
    if space == Space::Point {
        return None;
    }
    let colours = |g: &Grid| -> Vec<Action> {
        g.iter()
            .flat_map(|(_, line)| line.iter())
            .map(|(_, c)| action_of(policy, *c))
            .collect()
    };
    let rewritable = !view.fragment_offset && opening.is_some_and(|o| differs(policy, grid, o));
    let mut all = colours(grid);
    all.extend(opening.map(colours).unwrap_or_default());
    let wanted = if rewritable {
        (Action::Deny, Decider::Evasion)
    } else if all.contains(&Action::Allow) {
        (Action::Allow, Decider::Fragment)
    } else {
        (Action::Deny, Decider::Fragment)
    };
    let at_zero = grid
        .first()
        .and_then(|(_, line)| line.first())
        .map(|(_, c)| action_of(policy, *c));
    (at_zero != Some(wanted.0)).then_some(wanted)
}

/// Whether two grids differ in a verdict, not only in colour.
fn differs(policy: &Policy, a: &Grid, b: &Grid) -> bool {
    let by_action = |grid: &Grid| -> Vec<(u16, Vec<(u16, Action)>)> {
        let mut rows: Vec<(u16, Vec<(u16, Action)>)> = grid
            .iter()
            .map(|(start, line)| {
                let mut l: Vec<(u16, Action)> =
                    line.iter().map(|(s, c)| (*s, action_of(policy, *c))).collect();
                l.dedup_by_key(|(_, action)| *action);
                (*start, l)
            })
            .collect();
        rows.dedup_by(|next, kept| next.1 == kept.1);
        rows
    };
    by_action(a) != by_action(b)
}

fn grid_of(shapes: &[Shape], last: u16) -> Grid {
    let mut starts: Vec<u16> = vec![0];
    for shape in shapes {
        for (low, high) in &shape.src {
            starts.push(*low);
            starts.extend(high.checked_add(1).filter(|n| *n <= last));
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut grid: Grid = Vec::with_capacity(starts.len());
    for start in starts {
        let here = shapes
            .iter()
            .filter(|s| s.src.iter().any(|(l, h)| *l <= start && start <= *h));
        let line = paint(here, last);
        if grid.last().is_none_or(|(_, before)| **before != line) {
            grid.push((start, Rc::new(line)));
        }
    }
    grid
}

/// First come, first painted; the rest is the default.
fn paint<'a>(shapes: impl Iterator<Item = &'a Shape>, last: u16) -> Line {
    // Free gaps, ascending; each shape takes its part of them.
    let mut free: Vec<(u16, u16)> = vec![(0, last)];
    let mut painted: Vec<(u16, Decider)> = Vec::new();
    for shape in shapes {
        let mut rest = Vec::with_capacity(free.len());
        for (low, high) in free {
            let mut at = u32::from(low);
            for (from, to) in &shape.dst {
                let (from, to) = (u32::from(*from).max(at), u32::from(*to).min(u32::from(high)));
                if from > to {
                    continue;
                }
                if at < from {
                    rest.push((at as u16, (from - 1) as u16));
                }
                painted.push((from as u16, Decider::Entry(shape.index)));
                at = to + 1;
            }
            if at <= u32::from(high) {
                rest.push((at as u16, high));
            }
        }
        free = rest;
    }
    painted.extend(free.into_iter().map(|(low, _)| (low, Decider::Default)));
    painted.sort_unstable_by_key(|(start, _)| *start);
    painted.dedup_by(|next, kept| next.1 == kept.1);
    painted
}

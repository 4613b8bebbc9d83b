//! Flattening of a list of entries to a coloured partition of ports (or ICMP types and codes).

use std::sync::Arc;

use portcullis_policy::{Decider, FlagMatch, Matcher, Protocol, Ranges, Verdict, View, intervals};

/// A partition of a number line: `(first number, colour)`, ascending from 0.
pub(crate) type Line = Vec<(u16, Decider)>;

/// A partition of source ports (ICMP types) into lines over destination ports (codes).
pub(crate) type Grid = Vec<(u16, Arc<Line>)>;

/// The verdict function of one protocol towards one set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plane {
    /// TCP segments that do not open a connection, and everything that is not TCP.
    pub grid: Grid,
    /// TCP segments that open a connection, where policy distinguishes them.
    pub opening: Option<Grid>,
    /// Later fragments, where they have a verdict of their own.
    pub later: Option<(Verdict, Decider)>,
    /// Whether anything passes of what entries say about later fragments.
    passes: bool,
    /// The entries it was drawn from, the first first, and the default.
    entries: Vec<(Verdict, Arc<Matcher>)>,
    default: Verdict,
    /// There is one colour for each verdict.
    merged: bool,
}

/// What a plane is drawn from. Equal sources of different classes are drawn and encoded once; the colour of entry n is
/// `Decider::Entry(n)`, counted here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub protocol: Option<u8>,
    pub entries: Vec<(Verdict, Arc<Matcher>)>,
    pub default: Verdict,
    pub five_tuple: bool,
}

impl Source {
    /// What entries say about later fragments.
    fn of_fragments(&self) -> Self {
        let about = self.entries.iter().filter(|(_, m)| m.fragments);
        Source {
            entries: about.cloned().collect(),
            ..self.clone()
        }
    }

    /// An entry of [`of_fragments`](Self::of_fragments) as it is counted here.
    fn decider_of_fragments(&self, decider: Decider) -> Decider {
        let Decider::Entry(nth) = decider else {
            return decider;
        };
        let about = (0u32..).zip(&self.entries).filter(|(_, (_, m))| m.fragments);
        about
            .map(|(index, _)| Decider::Entry(index))
            .nth(nth as usize)
            .unwrap_or(Decider::Default)
    }
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
    pub(crate) fn new(protocol: Option<u8>, five_tuple: bool) -> Self {
        match protocol {
            _ if five_tuple => Space::Ports,
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

    pub(crate) fn last(self) -> u16 {
        match self {
            Space::Ports => u16::MAX,
            Space::Icmp => 255,
            Space::Point => 0,
        }
    }

    /// The source and destination intervals an entry covers.
    fn shape(self, index: u32, m: &Matcher) -> Shape<'_> {
        let all = || Intervals::One((0, self.last()));
        let (src, dst) = match (self, m.icmp) {
            (Space::Ports, _) => (Intervals::Many(&m.src_ports), Intervals::Many(&m.dst_ports)),
            (Space::Icmp, Some(icmp)) => {
                let kind = u16::from(icmp.kind);
                let code = icmp.code.map_or((0, 255), |c| (u16::from(c), u16::from(c)));
                (Intervals::One((kind, kind)), Intervals::One(code))
            }
            _ => (all(), all()),
        };
        Shape {
            index,
            any_flags: m.flags == FlagMatch::Any,
            src,
            dst,
        }
    }
}

#[derive(Clone, Copy)]
enum Intervals<'a> {
    One((u16, u16)),
    Many(&'a Ranges),
}

impl Intervals<'_> {
    fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let (one, many) = match self {
            Intervals::One(interval) => (Some(*interval), None),
            Intervals::Many(ranges) => (None, Some(ranges.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn contains(&self, n: u16) -> bool {
        match self {
            Intervals::One((low, high)) => *low <= n && n <= *high,
            Intervals::Many(ranges) => ranges.contains(n),
        }
    }
}

#[derive(Clone, Copy)]
struct Shape<'a> {
    index: u32,
    any_flags: bool,
    src: Intervals<'a>,
    dst: Intervals<'a>,
}

impl Plane {
    /// The plane that these entries draw, the first first.
    pub(crate) fn draw(source: &Source, view: View) -> Self {
        let space = Space::new(source.protocol, source.five_tuple);
        let entries = (0u32..).zip(&source.entries);
        let mut shapes: Vec<Shape<'_>> = entries.map(|(index, (_, m))| space.shape(index, m)).collect();
        let grid = grid_of(&shapes, space.last());
        let told_apart = source.protocol == Some(Protocol::TCP) && shapes.iter().any(|s| !s.any_flags);
        let opening = told_apart
            .then(|| {
                shapes.retain(|s| s.any_flags);
                grid_of(&shapes, space.last())
            })
            .filter(|opening| *opening != grid);
        let mut plane = Plane {
            grid,
            opening,
            later: None,
            passes: true,
            entries: source.entries.clone(),
            default: source.default,
            merged: false,
        };
        let whole_only = source.entries.iter().any(|(_, m)| !m.fragments);
        let of_fragments = whole_only.then(|| Plane::draw(&source.of_fragments(), view));
        plane.passes = match &of_fragments {
            Some(drawn) => drawn.passes,
            None => plane.passes_some(),
        };
        if source.protocol == Some(Protocol::SCTP) && !view.sctp_ports && !source.five_tuple {
            plane.hide_ports();
        }
        plane.later = match (&of_fragments, space) {
            _ if source.five_tuple => None,
            (None, Space::Point) => None,
            // Nothing but the protocol is looked at: an entry decides about later fragments as about whole packets.
            (Some(drawn), Space::Point) => {
                let decider = source.decider_of_fragments(drawn.at_point());
                let wanted = (drawn.action(drawn.at_point()), decider);
                (decider != plane.at_point()).then_some(wanted)
            }
            (drawn, _) => {
                let wanted = drawn.as_ref().unwrap_or(&plane).later_verdict(view);
                plane.later_as(Some(wanted))
            }
        };
        plane
    }

    /// One verdict for all ports: what packets of every port get, or else deny.
    fn hide_ports(&mut self) {
        let all = || {
            self.grid
                .iter()
                .flat_map(|(_, line)| line.iter())
                .map(|(_, colour)| *colour)
        };
        let verdict = Verdict::from_passes(all().all(|colour| self.action(colour).passes()));
        let colour = all().filter(|colour| self.action(*colour) == verdict).min();
        let line = vec![(0, colour.unwrap_or(Decider::Default))];
        self.grid = vec![(0, Arc::new(line))];
    }

    /// The verdict that a colour stands for.
    pub(crate) fn action(&self, colour: Decider) -> Verdict {
        match colour {
            Decider::Entry(index) => {
                let entry = self.entries.get(index as usize);
                entry.map_or(self.default, |(action, _)| *action)
            }
            _ => self.default,
        }
    }

    /// The same with one colour for each verdict: hits then tell verdicts, not rules.
    pub(crate) fn by_verdict(&self) -> Self {
        let merge = |grid: &Grid| -> Grid {
            let mut merged: Grid = Vec::with_capacity(grid.len());
            for (start, line) in grid {
                let colour =
                    |(start, colour): &(u16, Decider)| (*start, self.verdict_colour(self.action(*colour)));
                let mut line: Line = line.iter().map(colour).collect();
                line.dedup_by_key(|(_, colour)| *colour);
                if merged.last().is_none_or(|(_, before)| **before != line) {
                    merged.push((*start, Arc::new(line)));
                }
            }
            merged
        };
        let grid = merge(&self.grid);
        let opening = self
            .opening
            .as_ref()
            .map(merge)
            .filter(|opening| *opening != grid);
        Plane {
            grid,
            opening,
            merged: true,
            ..self.clone()
        }
    }

    /// The entries it was drawn from, each with its colour.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (Decider, &Matcher)> {
        self.entries.iter().enumerate().map(|(index, (action, matcher))| {
            let colour = match self.merged {
                true => self.verdict_colour(*action),
                false => Decider::Entry(index as u32),
            };
            (colour, &**matcher)
        })
    }

    /// The colour that stands for a verdict: the default, or the first entry that gives it.
    fn verdict_colour(&self, action: Verdict) -> Decider {
        if action == self.default {
            return Decider::Default;
        }
        let first = self.entries.iter().position(|(a, _)| *a == action);
        first
            .and_then(|i| u32::try_from(i).ok())
            .map_or(Decider::Default, Decider::Entry)
    }

    /// Whether some later fragment of this protocol passes where it shows its protocol and its offset.
    pub(crate) fn passes_later(&self) -> bool {
        self.passes
    }

    /// Whether it lets anything pass.
    fn passes_some(&self) -> bool {
        let grids = std::iter::once(&self.grid).chain(self.opening.as_ref());
        let mut colours = grids.flatten().flat_map(|(_, line)| line.iter());
        colours.any(|(_, colour)| self.action(*colour).passes())
    }

    /// The verdict on packets that show zero ports, or none.
    pub(crate) fn at_zero_by(&self) -> (Verdict, Decider) {
        let colour = self.at_point();
        (self.action(colour), colour)
    }

    /// The colour of the one point, where the protocol has no ports.
    fn at_point(&self) -> Decider {
        let line = self.grid.first().map(|(_, line)| line);
        line.and_then(|line| line.first())
            .map_or(Decider::Default, |(_, colour)| *colour)
    }

    /// The verdict on the row that zero ports hit.
    fn at_zero(&self) -> Option<Verdict> {
        let line = &self.grid.first()?.1;
        line.first().map(|(_, c)| self.action(*c))
    }

    /// Another verdict on later fragments, where zero ports do not give it already.
    pub(crate) fn later_as(&self, wanted: Option<(Verdict, Decider)>) -> Option<(Verdict, Decider)> {
        wanted.filter(|(action, _)| self.at_zero() != Some(*action))
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

    /// The verdict on later fragments, if all entries are about them.
    fn later_verdict(&self, view: View) -> (Verdict, Decider) {
        let rewritable = !view.fragment_offset && self.opening.as_ref().is_some_and(|o| self.differs(o));
        if rewritable {
            (Verdict::Deny, Decider::Evasion)
        } else if self.passes {
            (Verdict::Allow, Decider::Fragment)
        } else {
            (Verdict::Deny, Decider::Fragment)
        }
    }

    /// Whether openings differ from other segments in a verdict, not only in colour.
    fn differs(&self, opening: &Grid) -> bool {
        let by_action = |grid: &Grid| -> Vec<(u16, Vec<(u16, Verdict)>)> {
            let mut rows: Vec<(u16, Vec<(u16, Verdict)>)> = grid
                .iter()
                .map(|(start, line)| {
                    let mut l: Vec<(u16, Verdict)> =
                        line.iter().map(|(s, c)| (*s, self.action(*c))).collect();
                    l.dedup_by_key(|(_, action)| *action);
                    (*start, l)
                })
                .collect();
            rows.dedup_by(|next, kept| next.1 == kept.1);
            rows
        };
        by_action(&self.grid) != by_action(opening)
    }
}

fn grid_of(shapes: &[Shape<'_>], last: u16) -> Grid {
    let starts = intervals::starts(shapes.iter().flat_map(|shape| shape.src.iter()), last);
    let mut grid: Grid = Vec::with_capacity(starts.len());
    for start in starts {
        let here = shapes.iter().filter(|s| s.src.contains(start));
        let line = paint(here, last);
        if grid.last().is_none_or(|(_, before)| **before != line) {
            grid.push((start, Arc::new(line)));
        }
    }
    grid
}

/// First come, first painted; the rest is the default.
fn paint<'a>(shapes: impl Iterator<Item = &'a Shape<'a>>, last: u16) -> Line {
    // Free gaps, ascending and apart; each shape takes its part of them.
    let mut free: Vec<(u16, u16)> = vec![(0, last)];
    let mut painted: Line = Vec::new();
    let mut rest: Vec<(u16, u16)> = Vec::new();
    for shape in shapes {
        let colour = Decider::Entry(shape.index);
        for (from, to) in shape.dst.iter() {
            let first = free.partition_point(|(_, high)| *high < from);
            let touched = free.get(first..).unwrap_or(&[]);
            let touched = touched.iter().take_while(|(low, _)| *low <= to).count();
            rest.clear();
            for (low, high) in free.iter().skip(first).take(touched) {
                painted.push((from.max(*low), colour));
                rest.extend(
                    from.checked_sub(1)
                        .filter(|end| low <= end)
                        .map(|end| (*low, end)),
                );
                rest.extend(
                    to.checked_add(1)
                        .filter(|start| start <= high)
                        .map(|start| (start, *high)),
                );
            }
            if touched > 0 {
                free.splice(first..first + touched, rest.drain(..));
            }
        }
        if free.is_empty() {
            break;
        }
    }
    painted.extend(free.into_iter().map(|(low, _)| (low, Decider::Default)));
    painted.sort_unstable_by_key(|(start, _)| *start);
    painted.dedup_by(|next, kept| next.1 == kept.1);
    painted
}

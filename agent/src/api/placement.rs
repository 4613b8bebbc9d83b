//! Where rules are enforced: per path, which target holds how much of each rule that denies something.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portcullis_backend::{Carried, Gap, Place, TargetHandle, TargetStatus};
use portcullis_compiler::{Class, ClassId, EndpointIntent, Intent};
use portcullis_policy::{Decider, Direction};
use portcullis_proto::v1;

use super::convert;
use super::hits::Asker;
use super::target::tables_out;

/// Endpoints that are named with a path or a rule.
const NAMED: usize = 16;

/// How much of a rule a target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Extent {
    Whole,
    Part,
    None,
    /// To nearer targets, for lack of room.
    Left,
    /// The target was never reached.
    Unknown,
    /// The endpoint waits for something there.
    Waiting,
}

impl Extent {
    fn text(self) -> &'static str {
        match self {
            Extent::Whole => "whole",
            Extent::Part => "part",
            Extent::None => "none",
            Extent::Left => "left",
            Extent::Unknown => "unknown",
            Extent::Waiting => "waiting",
        }
    }
}

/// A rule at one target of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct At {
    extent: Extent,
    /// Why it is not whole.
    why: String,
    nic: Option<OnNic>,
}

/// How much of a rule the NICs of an embedded switch hold, beside the switch itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum OnNic {
    /// All of it, at each port of its class.
    Whole,
    /// A part of it, or at some ports.
    Part,
    /// They hold nothing of it at any port.
    None,
}

impl OnNic {
    fn new(ports: Carried) -> Self {
        match (ports.hardware, ports.partly) {
            (hardware, _) if hardware == ports.total() => OnNic::Whole,
            (0, 0) => OnNic::None,
            _ => OnNic::Part,
        }
    }

    fn text(self) -> &'static str {
        match self {
            OnNic::Whole => "hardware",
            OnNic::Part => "partly",
            OnNic::None => "software",
        }
    }
}

/// Rules that NICs could hold, by direction, class and name.
pub(super) type NicRules = HashMap<(Direction, u32, String), OnNic>;

/// What the NICs of each embedded switch hold. A target that does not answer has none.
pub(super) async fn on_nics(targets: &[TargetHandle]) -> HashMap<String, NicRules> {
    let mut found = HashMap::new();
    // A bridge of Open vSwitch has cached flows, which say nothing of where a rule is.
    for target in targets.iter().filter(|target| target.kind() == "p4runtime") {
        let Ok(offload) = target.offload().await else {
            continue;
        };
        let rules = offload.rules.into_iter().filter(|rule| rule.flows.total() > 0);
        let rules = rules.map(|rule| {
            let key = (rule.rule.direction, rule.rule.class.unwrap_or(0), rule.rule.rule);
            (key, OnNic::new(rule.flows))
        });
        found.insert(target.name().to_string(), rules.collect());
    }
    found
}

/// A rule on a path, and where it is: endpoints for which these are equal are listed together.
type Rule = (Direction, String, Vec<At>);

/// Names, and how many there are.
#[derive(Debug, Default)]
struct Names {
    some: Vec<String>,
    count: u32,
}

impl Names {
    fn add(&mut self, name: &str) {
        if self.some.len() < NAMED {
            self.some.push(name.to_string());
        }
        self.count += 1;
    }
}

/// A target as it stands now.
struct Point<'t> {
    handle: &'t TargetHandle,
    status: std::sync::Arc<TargetStatus>,
    /// Endpoints that wait for something, and for what.
    pending: HashMap<String, String>,
    /// What each class lacks here; nothing where the target was never reached.
    gaps: HashMap<ClassId, Option<Vec<Gap>>>,
    /// What its NICs hold, if it is an embedded switch.
    nics: Option<&'t NicRules>,
}

/// The targets that endpoints are on, the outermost first, and for each whether none is nearer.
type Path = Vec<(usize, bool)>;

/// Placement of one endpoint, or of all.
pub(super) fn placement(
    intent: &Intent,
    handles: &[TargetHandle],
    nics: &HashMap<String, NicRules>,
    asker: Option<&Asker>,
) -> v1::GetPlacementResponse {
    let points = handles.iter().map(|handle| {
        let status = handle.status();
        let pending = status.pending.iter().map(|p| (p.endpoint.clone(), p.why.clone()));
        Point {
            handle,
            pending: pending.collect(),
            status,
            gaps: HashMap::new(),
            nics: nics.get(handle.name()),
        }
    });
    let mut points: Vec<Point<'_>> = points.collect();
    let mut paths: BTreeMap<Path, (Names, BTreeMap<Rule, Names>)> = BTreeMap::new();
    let asked = |endpoint: &EndpointIntent| asker.is_none_or(|a| *a.endpoint() == endpoint.name);
    for endpoint in intent.endpoints.values().filter(|endpoint| asked(endpoint)) {
        let path = path(endpoint, &points);
        let (names, rules) = paths.entry(path.clone()).or_default();
        names.add(endpoint.name.as_str());
        let places: Vec<Place> = path
            .iter()
            .map(|(at, _)| {
                points
                    .get(*at)
                    .map(|point| point.handle.place(endpoint))
                    .unwrap_or_default()
            })
            .collect();
        for (direction, class) in [Direction::Egress, Direction::Ingress].map(|d| (d, endpoint.classes[d])) {
            let Some(class) = intent.classes.get(&class) else {
                continue;
            };
            for by in denials(class) {
                let rule = class.policy.origin(by);
                let at = path.iter().zip(&places).filter_map(|((at, _), place)| {
                    let point = points.get_mut(*at)?;
                    let (extent, why) = extent(point, endpoint, class, &rule, place);
                    let nic = point.nics.and_then(|nics| on_nic(nics, class, &rule));
                    Some(At { extent, why, nic })
                });
                let at = at.collect();
                let name = asker.map_or_else(|| rule.clone(), |asker| asker.name_of(direction, by));
                rules
                    .entry((direction, name, at))
                    .or_default()
                    .add(endpoint.name.as_str());
            }
        }
    }
    let used: BTreeSet<usize> = paths.keys().flatten().map(|(at, _)| *at).collect();
    let targets = used.iter().filter_map(|at| points.get(*at)).map(target_out);
    v1::GetPlacementResponse {
        generation: intent.generation,
        targets: targets.collect(),
        paths: paths
            .iter()
            .map(|(path, (names, rules))| path_out(path, names, rules, &points))
            .collect(),
    }
}

/// What denies something in a class: entries, then the default.
fn denials(class: &Class) -> impl Iterator<Item = Decider> + '_ {
    let policy = &class.policy;
    let entries = (0u32..).zip(&policy.entries).filter(|(_, e)| e.action.denies());
    let default = policy.default.denies().then_some(Decider::Default);
    entries.map(|(index, _)| Decider::Entry(index)).chain(default)
}

/// The targets that an endpoint's traffic passes: those that it is attached to, the one with the most nearer ones first.
fn path(endpoint: &EndpointIntent, points: &[Point<'_>]) -> Path {
    let named: BTreeSet<&str> = endpoint
        .attachments
        .iter()
        .filter_map(|a| a.target.as_deref())
        .collect();
    let has_interface = endpoint
        .attachments
        .iter()
        .any(|a| a.target.is_none() && a.port.is_none());
    let is_on = |point: &Point<'_>| {
        // An interface without a target is one of the only Open vSwitch.
        named.contains(point.handle.name()) || (has_interface && point.handle.kind() == "ovs")
    };
    let here = (0..).zip(points).filter(|(_, point)| is_on(point));
    let mut path: Vec<(usize, usize)> = here
        .map(|(at, point)| (at, point.handle.nearer(endpoint).len()))
        .collect();
    path.sort_by_key(|(at, nearer)| (std::cmp::Reverse(*nearer), *at));
    path.into_iter().map(|(at, nearer)| (at, nearer == 0)).collect()
}

/// How much of a rule NICs hold. What an overlay leaves open, the class below decides.
fn on_nic(nics: &NicRules, class: &Class, rule: &str) -> Option<OnNic> {
    let of = |class: ClassId, direction| nics.get(&(direction, class.0, rule.to_string())).copied();
    let direction = class.policy.direction;
    let base = || class.base.as_ref().and_then(|base| of(base.id, direction));
    of(class.id, direction).or_else(base)
}

/// How much of a rule a target holds for an endpoint, with the reason where it is not whole.
fn extent(
    point: &mut Point<'_>,
    endpoint: &EndpointIntent,
    class: &Class,
    rule: &str,
    place: &Place,
) -> (Extent, String) {
    if point.status.left.has(&endpoint.name, class.id, rule) {
        let why = "the table has no room for it beside the reserve: nearer targets enforce it";
        return (Extent::Left, why.to_string());
    }
    if let Some(nothing) = &place.nothing {
        return (Extent::None, nothing.why.clone());
    }
    if let Some(why) = point.pending.get(endpoint.name.as_str()) {
        return (Extent::Waiting, why.clone());
    }
    let lack = place.lacks[class.policy.direction].as_ref();
    if let Some(lack) = lack.filter(|lack| lack.is_all) {
        return (Extent::None, lack.why.clone());
    }
    let handle = point.handle;
    let gaps = point.gaps.entry(class.id).or_insert_with(|| handle.gaps(class));
    match gaps {
        None => (Extent::Unknown, "the target was never reached".to_string()),
        Some(gaps) => match gaps.iter().find(|gap| gap.what.rule == rule) {
            None => lack.map_or((Extent::Whole, String::new()), |lack| {
                (Extent::Part, lack.why.clone())
            }),
            Some(gap) if gap.is_all => (Extent::None, gap.what.why.clone()),
            Some(gap) => (Extent::Part, gap.what.why.clone()),
        },
    }
}

/// What a rule's placement is called, from how much of it each target of a path holds.
fn called(path: &Path, at: &[At], points: &[Point<'_>]) -> &'static str {
    let both = || path.iter().zip(at);
    let hardware = |extents: &[Extent], nic: OnNic| {
        both().any(|((target, _), at)| {
            let point = points.get(*target);
            let is_hardware = point.is_some_and(|point| point.handle.is_hardware());
            (extents.contains(&at.extent) && is_hardware) || at.nic == Some(nic)
        })
    };
    let nearest =
        |extents: &[Extent]| both().any(|((_, is_nearest), at)| *is_nearest && extents.contains(&at.extent));
    if path.is_empty() || nearest(&[Extent::None, Extent::Left]) {
        return "refused";
    }
    if nearest(&[Extent::Unknown, Extent::Waiting]) {
        return "unknown";
    }
    let is_part = nearest(&[Extent::Part]) || hardware(&[Extent::Part], OnNic::Part);
    match (hardware(&[Extent::Whole], OnNic::Whole), is_part) {
        (true, _) => "hardware",
        (false, true) => "partly",
        (false, false) => "software",
    }
}

fn target_out(point: &Point<'_>) -> v1::PlacementTarget {
    v1::PlacementTarget {
        name: point.handle.name().to_string(),
        kind: point.handle.kind().to_string(),
        hardware: point.handle.is_hardware(),
        state: point.status.state.to_string(),
        tables: tables_out(&point.status),
        foreign_rows: point.status.foreign_rows,
    }
}

fn path_out(
    path: &Path,
    names: &Names,
    rules: &BTreeMap<Rule, Names>,
    points: &[Point<'_>],
) -> v1::PlacementPath {
    let name = |at: &usize| {
        points
            .get(*at)
            .map_or("", |point| point.handle.name())
            .to_string()
    };
    let rule = |((direction, rule, at), names): (&Rule, &Names)| v1::PlacedRule {
        direction: convert::direction_out(*direction).into(),
        rule: rule.clone(),
        placement: called(path, at, points).to_string(),
        endpoints: names.some.clone(),
        endpoint_count: names.count,
        at: path
            .iter()
            .zip(at)
            .map(|((target, _), at)| v1::RuleAtTarget {
                target: name(target),
                extent: at.extent.text().to_string(),
                why: at.why.clone(),
                nic: at.nic.map_or("", OnNic::text).to_string(),
            })
            .collect(),
    };
    v1::PlacementPath {
        targets: path.iter().map(|(at, _)| name(at)).collect(),
        endpoints: names.some.clone(),
        endpoint_count: names.count,
        rules: rules.iter().map(rule).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_on_nics_if_all_its_ports_have_it() {
        let ports = |hardware, partly, software| Carried {
            hardware,
            partly,
            software,
            ..Carried::default()
        };
        assert_eq!(OnNic::new(ports(3, 0, 0)), OnNic::Whole);
        assert_eq!(OnNic::new(ports(2, 0, 1)), OnNic::Part);
        assert_eq!(OnNic::new(ports(0, 1, 0)), OnNic::Part);
        assert_eq!(OnNic::new(ports(0, 0, 2)), OnNic::None);
    }
}

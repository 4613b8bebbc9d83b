//! What a device cannot do for the ports of an intent, as status lists it.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_backend::Gap;
use portcullis_compiler::compilation::Compilation;
use portcullis_compiler::model::{PacketKind, Role};
use portcullis_compiler::proof::Extent;
use portcullis_compiler::{Class, ClassId, Enforced, Intent, StageModel, Unsupported};
use portcullis_policy::{Decider, Direction, IdentifiedBy, Name};

use crate::attachment_points::{AttachmentPoint, AttachmentPoints};
use crate::device::Device;
use crate::entry::{Place as RowPlace, RowKey};
use crate::own;
use crate::units::is_tagged;
use crate::wire::text;

/// Endpoints that one message names.
const NAMED: usize = 3;

/// What has a class.
fn members<'i>(intent: &'i Intent, class: &Class) -> Vec<&'i str> {
    let direction = class.policy.direction;
    let endpoints = intent.endpoints.values();
    let mut names: Vec<&str> = endpoints
        .filter(|endpoint| endpoint.classes[direction] == class.id)
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    if intent.unmanaged[direction] == class.id {
        names.push("ports without an endpoint");
    }
    if names.is_empty() {
        // Ends of unlocks lead to it, or an overlay stands on it.
        names.push("endpoints with unlocks or rules of their own");
    }
    names
}

/// Why a rule is left to nearer targets.
const NO_ROOM: &str = "the table has no room for these rules: they are left to the targets behind the ports, and hold as far as \
                       these are in sync and have the endpoint realized; `portcullis status --placement` shows each";

/// A rule that is left: its direction and name, and whose default it is if it is one.
pub(crate) type LeftRule = (Direction, String, Option<ClassId>);

/// The rules that a table had no room for, each with its name for people.
pub(crate) fn left_rules(intent: &Intent, compilation: &Compilation) -> BTreeMap<LeftRule, String> {
    let mut rules = BTreeMap::new();
    for left in compilation.left.values() {
        let direction = left.class.policy.direction;
        let default = left.class.policy.origin(Decider::Default);
        for rule in &left.rules {
            let is_default = *rule == default;
            let name = match is_default {
                true => format!("{rule} of {}", some_of(members(intent, &left.class))),
                false => rule.clone(),
            };
            rules.insert(
                (direction, rule.clone(), is_default.then_some(left.class.id)),
                name,
            );
        }
    }
    rules
}

/// Rules that a table had no room for, by table.
pub(crate) fn left(
    rules: &BTreeMap<LeftRule, String>,
    compilation: &Compilation,
    target: &str,
) -> Vec<Unsupported> {
    let mut tables: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for ((direction, ..), name) in rules {
        if let Some(table) = compilation.model.table(Role::Policy, *direction) {
            tables.entry(&table.name).or_default().insert(name.clone());
        }
    }
    let table = |(table, rules): (&str, BTreeSet<String>)| Unsupported {
        target: target.to_string(),
        rule: some_of(rules.iter().map(String::as_str).collect()),
        table: table.to_string(),
        why: NO_ROOM.to_string(),
    };
    tables.into_iter().map(table).collect()
}

/// Policies that the tables cannot hold because of one of their rules: nothing of them is enforced.
pub(crate) fn not_held(intent: &Intent, compilation: &Compilation) -> Vec<Unsupported> {
    let policy = |(id, unsupported): &(ClassId, Unsupported)| {
        let class = intent.classes.get(id)?;
        let names = members(intent, class);
        // The rule that is the reason, unless the whole policy is.
        let because = match unsupported.rule.starts_with("the ") {
            true => String::new(),
            false => format!("{}: ", unsupported.rule),
        };
        Some(Unsupported {
            rule: format!("the {} policy of {}", class.policy.direction, some_of(names)),
            why: format!(
                "{because}{}; no rule of this policy is enforced here",
                unsupported.why
            ),
            ..unsupported.clone()
        })
    };
    compilation.unsupported.iter().filter_map(policy).collect()
}

/// Endpoints on a VLAN of a port, where rows name whole ports: rows for one would hold for all VLANs.
pub(crate) fn not_by_vlan(points: &AttachmentPoints, target: &str) -> Vec<Unsupported> {
    let on_vlans = points.points.values().filter(|p| is_tagged(p.at.1));
    on_vlans
        .filter_map(|p| {
            let name = p.endpoint.as_ref()?;
            Some(Unsupported {
                target: target.to_string(),
                rule: format!("every rule of {name}"),
                table: "attach".to_string(),
                why: format!(
                    "it is on VLAN {} of port {}, and the rows of this P4 program name whole ports: attach it to a port of \
                     its own, or enforce it on another target; {}",
                    p.at.1.unwrap_or(0),
                    p.at.0,
                    if points.tagged_servers.contains(&p.at.0) {
                        "the port has the policy of ports without an endpoint"
                    } else if points.shared_ports.contains(&p.at.0) {
                        "other endpoints of the port are attached by address: attach this one so, too"
                    } else if whole_ports(points).any(|other| other.at.0 == p.at.0) {
                        "the port has the policy of the endpoint that is attached to all of it"
                    } else {
                        "nothing is enforced on the port, which `servers` does not list"
                    }
                ),
            })
        })
        .collect()
}

/// Points that stand for whole ports of servers, where rows name whole ports.
fn whole_ports(points: &AttachmentPoints) -> impl Iterator<Item = &AttachmentPoint> {
    points
        .points
        .values()
        .filter(|p| p.endpoint.is_some() && !is_tagged(p.at.1))
}

/// Endpoints that share a whole port, one as a trunk: rows would be for both.
pub(crate) fn not_apart(points: &AttachmentPoints, target: &str) -> Vec<Unsupported> {
    let mut list = Vec::new();
    for point in whole_ports(points).filter(|p| p.at.1.is_none()) {
        let untagged = whole_ports(points).find(|other| other.at.0 == point.at.0 && other.at != point.at);
        if let (Some(name), Some(other)) = (&point.endpoint, untagged.and_then(|p| p.endpoint.as_ref())) {
            list.push(Unsupported {
                target: target.to_string(),
                rule: format!("every rule of {name} and {other}"),
                table: "attach".to_string(),
                why: format!(
                    "both are attached to port {}, and the rows of this P4 program name whole ports: a packet may meet a rule \
                     of either; attach them to ports of their own, or enforce them on another target",
                    point.at.0
                ),
            });
        }
    }
    list
}

/// What passes at ports whose endpoints are attached by address: what has no address of theirs.
pub(crate) fn not_by_address(points: &AttachmentPoints, target: &str) -> Option<Unsupported> {
    if points.shared_ports.is_empty() {
        return None;
    }
    let ports: Vec<String> = points.shared_ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(", ");
    Some(Unsupported {
        target: target.to_string(),
        rule: format!("packets of port {ports} without an address that its endpoints declare"),
        table: "attach".to_string(),
        why: "its endpoints are attached by address, and rows name the addresses that they declare: what has others, such as link-local \
              addresses, and what is no IP pass here, and are left to the targets behind the port; the policy of ports without an \
              endpoint does not hold there"
            .to_string(),
    })
}

/// Endpoints whose unlocks nobody ends while the agent is away.
pub(crate) fn not_ended(points: &AttachmentPoints, target: &str) -> Vec<Unsupported> {
    let unlocked = points.policies().filter(|policy| !policy.transitions.is_empty());
    let names: BTreeSet<&Name> = unlocked.filter_map(|point| point.endpoint.as_ref()).collect();
    names
        .into_iter()
        .map(|name| Unsupported {
            target: target.to_string(),
            rule: format!("the end of unlocks of {name} while the agent is away"),
            table: "attach".to_string(),
            why: "rows of this device do not end by a moment that they carry: what unlocks opened is closed by the agent \
                  alone, at its moment or when the agent is back; the embedded switch and Open vSwitch close it by \
                  themselves"
                .to_string(),
        })
        .collect()
}

/// Tables of a program that is not ours whose hits nothing counts.
pub(crate) fn not_counted(device: &Device, target: &str) -> Vec<Unsupported> {
    let policies = device
        .tables
        .iter()
        .filter(|table| table.stage == Role::Policy && !table.counted);
    policies
        .map(|table| Unsupported {
            target: target.to_string(),
            rule: "hits".to_string(),
            table: table.name.clone(),
            why: "the table has no direct counter: `hits` and `explain` show no counts of its rows"
                .to_string(),
        })
        .collect()
}

/// What a program that is not ours does not do for endpoints: hold them to their sources.
pub(crate) fn not_guarded(points: &AttachmentPoints, target: &str) -> Vec<Unsupported> {
    let guarded = points.points.values().filter(|p| p.guarded());
    guarded
        .filter_map(|p| {
            let name = p.endpoint.as_ref()?;
            Some(Unsupported {
                target: target.to_string(),
                rule: format!("guard/{name}"),
                table: "guard".to_string(),
                why: "this P4 program has no guard that Portcullis knows: set source_guard: false, or guard the \
                      endpoint on another target"
                    .to_string(),
            })
        })
        .collect()
}

/// Packets that are dropped although the policy lets them pass, or pass or not by what they hold, because nothing says that the
/// parser shows what it takes to tell them from others.
pub(crate) fn not_shown(device: &Device, compilation: &Compilation, target: &str) -> Vec<Unsupported> {
    if device.model.partial.is_some() {
        // What each rule misses is listed by rule.
        return Vec::new();
    }
    let (view, classes) = (device.model.view, || compilation.compiled().map(|(_, c)| c));
    let unsupported = |rule: &str, why: &str| Unsupported {
        target: target.to_string(),
        rule: rule.to_string(),
        table: "parser".to_string(),
        why: why.to_string(),
    };
    let mut list = Vec::new();
    if !view.ipv6_extension_headers && classes().any(|c| c.class.policy.may_deny()) {
        list.push(unsupported(
            "IPv6 packets with extension headers",
            "nothing says that the parser of this P4 program finds the protocol behind them: where it shows the number of a \
             hop-by-hop, routing, fragment, authentication or destination options header instead, the packet is dropped; state \
             ipv6_extension_headers = true in [parser] of the mapping if the parser finds it",
        ));
    }
    if !device.model.ipv4_options && classes().any(|c| c.class.policy.may_deny()) {
        list.push(unsupported(
            "IPv4 packets with options",
            "nothing says that the parser of this P4 program finds the ports behind them: where it reads options as ports, such packets \
             pass or are dropped by what the options hold; state ipv4_options = true in [parser] of the mapping if the parser \
             follows the header length",
        ));
    }
    if !view.sctp_ports && classes().any(|c| c.class.policy.names_sctp_ports()) {
        list.push(unsupported(
            "SCTP packets",
            "nothing says that the parser of this P4 program shows the ports of SCTP: where a rule names such ports, packets pass \
             only if every port is open; enforce SCTP on another target, or state sctp_ports = true in [parser] of the mapping if \
             the parser shows them",
        ));
    }
    list
}

/// What rules have in common that are listed together: direction, extent, the kinds that pass, and why.
type SameGap = (Direction, Extent, Vec<PacketKind>, String);

/// Rules of which a partial point enforces a part or nothing, those with the same reason together.
pub(crate) fn in_part(compilation: &Compilation, target: &str) -> Vec<Unsupported> {
    let Some(point) = &compilation.model.partial else {
        return Vec::new();
    };
    let mut groups: BTreeMap<SameGap, (BTreeSet<String>, String)> = BTreeMap::new();
    for rule in compilation.enforced() {
        if let Some((_, example)) = rule.passes.first() {
            let kinds = rule.passes.iter().map(|(kind, _)| *kind).collect();
            let group = groups.entry((rule.direction, rule.extent, kinds, rule.why));
            let (rules, _) = group.or_insert_with(|| (BTreeSet::new(), example.clone()));
            rules.insert(rule.rule);
        }
    }
    let table = |direction| {
        let table = compilation.model.table(Role::Policy, direction);
        table.map_or_else(String::new, |table| table.name.clone())
    };
    let mut list: Vec<Unsupported> = groups
        .into_iter()
        .map(
            |((direction, extent, kinds, why), (rules, example))| Unsupported {
                target: target.to_string(),
                rule: rules.into_iter().collect::<Vec<_>>().join(", "),
                table: table(direction),
                why: passing(extent, kinds.into_iter(), &example, &why),
            },
        )
        .collect();
    let denies = compilation.compiled().any(|(_, c)| c.class.policy.may_deny());
    if denies {
        list.push(Unsupported {
            target: target.to_string(),
            rule: "packets that hide what they are".to_string(),
            table: "parser".to_string(),
            why: "this target is a partial point: headers that are cut short, chains of headers without an end, TCP fragments at offset \
                  1 and IP behind tags are left to other targets on the way"
                .to_string(),
        });
    }
    if denies && !point.accept.is_empty() {
        let kinds: Vec<String> = point.accept.iter().map(ToString::to_string).collect();
        list.push(Unsupported {
            target: target.to_string(),
            rule: format!("passing {}", kinds.join(", ")),
            table: "parser".to_string(),
            why: "rows for ports may deny some of them although the policy lets them pass: accepted by the configuration (accept)"
                .to_string(),
        });
    }
    list
}

/// Rules of a class that a partial point does not enforce wholly.
pub(crate) fn gaps(rules: &[Enforced], table: &str, target: &str) -> Vec<Gap> {
    let gap = |rule: &Enforced| {
        let (_, example) = rule.passes.first()?;
        let kinds = || rule.passes.iter().map(|(kind, _)| *kind);
        Some(Gap {
            what: Unsupported {
                target: target.to_string(),
                rule: rule.rule.clone(),
                table: table.to_string(),
                why: passing(rule.extent, kinds(), example, &rule.why),
            },
            passes: kinds().collect(),
            is_all: rule.extent == Extent::None,
        })
    };
    rules.iter().filter_map(gap).collect()
}

/// Trunks whose tagged frames the rows of another program than ours do not judge.
pub(crate) fn not_tagged(points: &AttachmentPoints, model: &StageModel, target: &str) -> Vec<Unsupported> {
    let tagged = points.by_address.values().filter(|p| is_tagged(p.at.1));
    let trunks = whole_ports(points).chain(points.by_address.values());
    let trunks = trunks.filter(|p| p.at.1.is_none()).chain(tagged);
    let trunks = trunks.filter(|_| model.opaque_ethertypes.contains(&TAG));
    let what = match model.partial {
        Some(_) => "they pass here",
        None => "they are dropped where the policy denies anything",
    };
    trunks
        .filter_map(|p| {
            let name = p.endpoint.as_ref()?;
            Some(Unsupported {
                target: target.to_string(),
                rule: format!("every rule for tagged frames of {name}"),
                table: "parser".to_string(),
                why: format!(
                    "{}, and nothing says that the parser of this P4 program sees IP behind VLAN tags: {what}; leave 0x8100 \
                     out of opaque_ethertypes in [parser] of the mapping if it does",
                    match p.at.1 {
                        None => format!("port {} is a trunk", p.at.0),
                        Some(vlan) => format!("it is on VLAN {vlan} of port {}", p.at.0),
                    }
                ),
            })
        })
        .collect()
}

/// The EtherType of a VLAN tag (IEEE 802.1Q).
pub(crate) const TAG: u16 = 0x8100;

/// What of a rule passes, and why.
fn passing(extent: Extent, kinds: impl Iterator<Item = PacketKind>, example: &str, why: &str) -> String {
    let kinds: Vec<String> = kinds.map(|kind| kind.to_string()).collect();
    let enforced = match extent {
        Extent::None => "not enforced here",
        Extent::Whole | Extent::Part => "enforced in part",
    };
    format!(
        "{enforced}: {} pass, for example {example}: {why}",
        kinds.join(", ")
    )
}

/// The first of these names, and how many more there are.
fn some_of(mut names: Vec<&str>) -> String {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED);
    format!("{}{more}", names.join(", "))
}

/// Restrictions of policy tables that cannot be read, so that rows may break them.
pub(crate) fn not_read(device: &Device, target: &str) -> Vec<Unsupported> {
    let tables = device.model.tables.iter();
    let restrictions = tables.flat_map(|table| table.restrictions.iter().map(move |r| (table, r)));
    restrictions
        .filter_map(|(table, restriction)| {
            let error = restriction.demand.as_ref().err()?;
            Some(Unsupported {
                target: target.to_string(),
                rule: format!("rows that break `{}`", restriction.text),
                table: table.name.clone(),
                why: format!(
                    "this restriction of the P4 program cannot be read ({error}), and the device may refuse rows that break it"
                ),
            })
        })
        .collect()
}

/// Rows of other controllers in policy tables of a program that is not ours, that `ours` stand above.
pub(crate) fn beside<'k>(
    device: &Device,
    foreign: &[RowKey],
    ours: impl Iterator<Item = &'k RowKey>,
    target: &str,
) -> Vec<Unsupported> {
    if foreign.is_empty() {
        return Vec::new();
    }
    let mut tops: BTreeMap<u8, i32> = BTreeMap::new();
    for key in ours {
        if let RowPlace::Table { table, priority, .. } = &key.0.place {
            let top = tops.entry(*table).or_default();
            *top = (*priority).max(*top);
        }
    }
    let mut list = Vec::new();
    for (number, table) in (0u8..)
        .zip(&device.tables)
        .filter(|(_, t)| t.stage == Role::Policy)
    {
        let top = tops.get(&number).copied().unwrap_or(0);
        let mut below: Vec<&RowKey> = foreign
            .iter()
            .filter(|key| match &key.0.place {
                RowPlace::Table { table, priority, .. } => *table == number && *priority <= top,
                _ => false,
            })
            .collect();
        below.sort_unstable();
        if let Some(first) = below.first() {
            list.push(Unsupported {
                target: target.to_string(),
                rule: match below.len() {
                    1 => "1 row of other controllers".to_string(),
                    count => format!("{count} rows of other controllers"),
                },
                table: table.name.clone(),
                why: format!(
                    "the priorities of ours reach {top}, and what stands below is not met where ours match; the first: {}; give them \
                     higher ones, or ours lower ones (priority_max in the mapping)",
                    text(device, first, None)
                ),
            });
        }
    }
    list
}

/// What a program that is not ours does not hold back from server ports: tags on ports without a VLAN, and what only routers,
/// DHCP servers and bridges send.
pub(crate) fn not_held_back(points: &AttachmentPoints, target: &str) -> Vec<Unsupported> {
    let servers: Vec<&AttachmentPoint> = points.all().filter(|p| !p.uplink).collect();
    let untagged: BTreeSet<u32> = servers
        .iter()
        .filter(|p| p.by == IdentifiedBy::Port && p.endpoint.is_some() && p.at.1 == Some(0))
        .map(|p| p.at.0)
        .collect();
    let unsupported = |rule: &str, table: &str, why: String| Unsupported {
        target: target.to_string(),
        rule: rule.to_string(),
        table: table.to_string(),
        why,
    };
    let mut list = Vec::new();
    if !untagged.is_empty() {
        let ports: Vec<String> = untagged.iter().map(ToString::to_string).collect();
        let why = format!(
            "Portcullis writes no row of this P4 program that drops tagged frames at port {}: make it an untagged port on the \
             switch, or write vlan: any where it is a trunk",
            ports.join(", ")
        );
        list.push(unsupported("attachments without vlan", "attach", why));
    }
    if !servers.is_empty() {
        let why = "Portcullis writes no row of this P4 program that drops router advertisements, redirects, DHCP server messages, \
                   IGMP and MLD queries and link-layer control frames from servers: have the switch drop them (RA guard, DHCP \
                   snooping), or attach the servers to another target"
            .to_string();
        list.push(unsupported("roles", own::contract::ROLES.name, why));
    }
    list
}

//! Derives a stage model from a P4Info: which table serves as which stage, with its keys and actions.
//!
//! **By name.** A table whose alias ends in `attach`, `guard`, `deliver`, `policy`, `remote`, `words`, `src_code` or
//! `dst_code` plays that stage; `policy`, `remote`, `words` and the codes may have `egress_` or `ingress_` before them.
//! Match fields are read by their last component (`meta.class`, `hdr.ipv4.src_addr`) as the table in `names.rs` says:
//! our own names, those of SAI's ACL tables, those of common headers. Source and destination are local and remote by
//! the table's direction. A field of one protocol's header (`hdr.tcp.dst_port`) is not taken for the field of all. Actions
//! are `allow`, `deny` (`permit`, `forward`, `drop`, ... without parameters), `words(set, otherwise)`, and `set…` with one
//! parameter.
//!
//! **An ACL table.** When no table is called `policy`, the one table that could play it without a class, with the port
//! where a frame came in among its keys, does: for what endpoints send, `egress`.
//!
//! **By mapping.** A [`Mapping`] says any of it instead.
//!
//! Nothing is assumed of a parser, unless the policy tables have our own mark `unreadable`: then it is all that
//! [`FrameMatch::Unreadable`](portcullis_compiler::FrameMatch::Unreadable) says. Match fields without a meaning are left
//! out of rows, which then match whatever they hold; where P4Runtime does not allow that, the table is unusable. Sizes,
//! widths, kinds and counters are the P4Info's own.

mod ids;
mod names;
mod needs;
mod restrictions;
mod table;

use portcullis_compiler::lower::{broken, fixed_rows};
use portcullis_compiler::model::{Field, PartialPoint, Role, Weight, shown_flags};
use portcullis_compiler::{ModelError, StageModel, TableModel};
use portcullis_policy::{Direction, View};
use portcullis_proto::p4::config::v1::{P4Info, Table};

use crate::mapping::{Mapping, PRIORITY_MAX, TableMapping};
pub use table::{Bound, BoundAction};
use table::{MappedTable, Part, Pipeline, alias, described, is_called};

/// The highest priority of an ACL table that no mapping describes: switches with TCAM take 16 bits.
const ACL_PRIORITY_MAX: u32 = u16::MAX as u32;

/// What hides IP from a parser that is not known: VLAN tags (802.1Q, 802.1ad, the old 0x9100), MPLS, PPPoE sessions.
const OPAQUE: [u16; 6] = [0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864];

/// Tables that one message lists.
const LISTED: usize = 5;

/// The longest name that messages show, in characters.
const SHOWN: usize = 100;

/// Why no stage model can be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Not the shape of a mapping.
    #[error("{0}")]
    Toml(String),
    /// A value of the mapping that makes no sense.
    #[error("{field}: {why}")]
    Field {
        /// The field, as a path: `table.acl.direction`.
        field: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A table that cannot play its stage.
    #[error("table.{table} cannot serve as `{stage}`: {}", reasons.join("; "))]
    Table {
        /// Alias of the table.
        table: String,
        /// The stage that the mapping gives it.
        stage: String,
        /// All that it lacks, a sentence for each.
        reasons: Vec<String>,
    },
    /// No table, or more than one, could play `policy`.
    #[error("{}", policy_message(*several, tables))]
    Policy {
        /// Whether there are several: those in `tables` without reasons.
        several: bool,
        /// The tables found, those that lack least first.
        tables: Vec<Found>,
    },
    /// A P4Info whose ids or names do not tell its parts from each other: a fault of the compiler or the device.
    #[error("the P4Info is unusable: {0}")]
    Ambiguous(String),
    /// What was drawn is no sound stage model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A table of a P4Info, and why it is no policy stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Alias of the table.
    pub table: String,
    /// Its match fields: name, kind, width.
    pub fields: Vec<String>,
    /// Why it cannot play `policy` by name; empty when it can.
    pub reasons: Vec<String>,
}

fn policy_message(several: bool, tables: &[Found]) -> String {
    let mut text = if several {
        "more than one table can play the stage `policy`, and only a mapping can tell which:".to_string()
    } else if tables.is_empty() {
        "no table can play the stage `policy`: the P4Info has no tables".to_string()
    } else {
        "no table can play the stage `policy`; the tables are:".to_string()
    };
    let found: Vec<&Found> = tables
        .iter()
        .filter(|t| !several || t.reasons.is_empty())
        .collect();
    let more = found.len().saturating_sub(LISTED);
    for found in found.into_iter().take(LISTED) {
        text += &format!("\n  {} ({})", found.table, found.fields.join(", "));
        if !found.reasons.is_empty() {
            text += &format!(": {}", found.reasons.join("; "));
        }
    }
    if more > 0 {
        text += &format!("\n  and {more} more, which lack as much or more");
    }
    text += "\na mapping needs, for a [[table]]: `table` (its name here), `stage = \"policy\"`, `direction`, under \
             `fields` which match field is ether_type, protocol, later, tcp_flags, src_port, dst_port (or unreadable), \
             and class or port, and under `actions` the names of allow and deny";
    text
}

/// A name of a P4Info as messages and plans show it: what is not printable is escaped, and what is too long cut.
fn shown(name: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    name.chars().take(SHOWN).map(plain).collect()
}

/// Draws the stage model of a device; `name` is the model's.
pub fn from_p4info(info: &P4Info, name: &str, mapping: Option<&Mapping>) -> Result<StageModel, MappingError> {
    Ok(bound(info, name, mapping)?.0)
}

/// Draws the stage model of a device, and tells the ids behind each of its tables.
pub fn bound(
    info: &P4Info,
    name: &str,
    mapping: Option<&Mapping>,
) -> Result<(StageModel, Vec<Bound>), MappingError> {
    ids::check(info).map_err(MappingError::Ambiguous)?;
    let pipeline = Pipeline::new(info);
    let mapped = mapping.map_or(&[][..], |m| &m.tables);
    let drawn = if mapped.is_empty() {
        by_name(&pipeline)?
    } else {
        by_mapping(&pipeline, mapped)?
    };
    let mut ids = Vec::with_capacity(drawn.len());
    let (tables, left_out): (Vec<TableModel>, Vec<Vec<String>>) = drawn
        .into_iter()
        .map(|d| {
            ids.push(d.bound);
            (d.model, d.left_out)
        })
        .unzip();
    let mut model = StageModel {
        name: name.to_string(),
        summary: summary(info, &tables, &left_out),
        view: View {
            fragment_offset: false,
            short_header: false,
            begun_header: false,
            later_v6_protocol: false,
            ipv6_extension_headers: false,
            sctp_ports: false,
            tcp_flags: shown_flags(&tables),
        },
        unreadable: false,
        ipv4_options: false,
        ipv6_first_header: false,
        partial: mapping.filter(|m| m.partial).map(|m| PartialPoint {
            accept: m.accept.clone(),
        }),
        priority_min: mapping.and_then(|m| m.priority_min).unwrap_or(1),
        priority_max: PRIORITY_MAX,
        few_masks: mapping.is_some_and(|m| m.few_masks),
        opaque_ethertypes: OPAQUE.to_vec(),
        tables,
    };
    set_facts(&mut model, mapping);
    check(&model)?;
    Ok((model, ids))
}

/// What the parser shows, and the highest priority.
fn set_facts(model: &mut StageModel, mapping: Option<&Mapping>) {
    let mut policies = model.tables.iter().filter(|t| t.stage == Role::Policy);
    let marked =
        policies.clone().next().is_some() && policies.clone().all(|t| t.key(Field::Unreadable).is_some());
    let classes = policies.all(|t| t.key(Field::Class).is_some());
    if let Some(facts) = mapping.and_then(|m| m.parser.as_ref()) {
        model.unreadable = facts.unreadable;
        model.ipv4_options = facts.ipv4_options;
        model.ipv6_first_header = facts.ipv6_first_header;
        model.view = View {
            fragment_offset: facts.fragment_offset,
            short_header: facts.short_header,
            begun_header: facts.begun_header,
            later_v6_protocol: facts.later_ipv6_protocol,
            ipv6_extension_headers: facts.ipv6_extension_headers,
            sctp_ports: facts.sctp_ports,
            tcp_flags: model.view.tcp_flags,
        };
        if let Some(opaque) = &facts.opaque_ethertypes {
            model.opaque_ethertypes.clone_from(opaque);
        }
    } else if marked {
        model.unreadable = true;
        model.ipv4_options = true;
        model.view = View::FULL;
        model.opaque_ethertypes.clear();
    }
    let usual = if classes { PRIORITY_MAX } else { ACL_PRIORITY_MAX };
    model.priority_max = mapping.and_then(|m| m.priority_max).unwrap_or(usual);
}

/// Everything that rows will need is there.
fn check(model: &StageModel) -> Result<(), MappingError> {
    let refuse = |table: &TableModel, reasons| {
        Err(MappingError::Table {
            table: table.name.clone(),
            stage: stage_name(table.stage),
            reasons,
        })
    };
    for table in &model.tables {
        let mut reasons = needs::lacking(table, model.unreadable, model.partial.is_some());
        if !reasons.is_empty() {
            if table.stage == Role::Policy && needs::lacking(table, model.unreadable, true).is_empty() {
                let why = "it can hold a part of a policy: set partial = true in the mapping";
                reasons.push(why.to_string());
            }
            return refuse(table, reasons);
        }
    }
    let fixed = fixed_rows(model);
    for table in model.tables.iter().filter(|t| t.stage == Role::Policy) {
        if let Some((_, restriction)) = broken(table, &fixed, false) {
            let why = format!(
                "rows of every policy would break its restriction `{}`",
                restriction.text
            );
            return refuse(table, vec![why]);
        }
    }
    for (name, why) in needs::unlike(&model.tables) {
        if let Some(table) = model.tables.iter().find(|t| t.name == name) {
            return refuse(table, vec![why]);
        }
    }
    Ok(model.check()?)
}

/// The stage as a mapping writes it.
fn stage_name(role: Role) -> String {
    match role {
        Role::Attach => "attach",
        Role::Guard => "guard",
        Role::Deliver => "deliver",
        Role::Remote => "remote",
        Role::SrcCode => "src_code",
        Role::DstCode => "dst_code",
        Role::Policy => "policy",
        Role::Words => "words",
        Role::Other => "other",
    }
    .to_string()
}

fn summary(info: &P4Info, tables: &[TableModel], left_out: &[Vec<String>]) -> String {
    let mut text = match &info.pkg_info {
        Some(p) => format!("The P4 program {} {}", shown(&p.name), shown(&p.version))
            .trim_end()
            .to_string(),
        None => "A P4 program".to_string(),
    };
    let unused: Vec<String> = tables
        .iter()
        .zip(left_out)
        .flat_map(|(table, fields)| fields.iter().map(|f| format!("{}.{f}", table.name)))
        .collect();
    if !unused.is_empty() {
        text += &format!("; not matched: {}", unused.join(", "));
    }
    text
}

/// Draws the tables a mapping names.
fn by_mapping(pipeline: &Pipeline<'_>, mapped: &[TableMapping]) -> Result<Vec<MappedTable>, MappingError> {
    let mut drawn: Vec<(usize, MappedTable)> = Vec::new();
    for mapping in mapped {
        let field = |field: &str, why: String| MappingError::Field {
            field: format!("table.{}.{field}", shown(&mapping.table)),
            why,
        };
        let mut tables = pipeline.info.tables.iter().enumerate();
        let Some((at, table)) = tables.find(|(_, t)| is_called(t.preamble.as_ref(), &mapping.table)) else {
            let known: Vec<String> = pipeline
                .info
                .tables
                .iter()
                .map(|t| shown(alias(t.preamble.as_ref())))
                .collect();
            let known = if known.is_empty() {
                "none".to_string()
            } else {
                known.join(", ")
            };
            return Err(field(
                "table",
                format!("there is no such table; there are {known}"),
            ));
        };
        if drawn.iter().any(|(other, _)| *other == at) {
            return Err(field(
                "table",
                "is there twice: a table plays one stage".to_string(),
            ));
        }
        let part = Part {
            role: mapping.stage,
            direction: mapping.direction,
            weight: mapping.weight,
            fields: mapping.fields.as_ref(),
            actions: mapping.actions.as_ref(),
        };
        let one = pipeline
            .draw(table, &part)
            .map_err(|reasons| unusable(table, part.role, reasons))?;
        let classless = part.role == Role::Policy && one.model.key(Field::Class).is_none();
        if classless && part.direction.is_none() {
            let why = "is missing: a table without a class serves one direction, what endpoints send (egress) or are \
                       sent (ingress)";
            return Err(field("direction", why.to_string()));
        }
        drawn.push((at, one));
    }
    // In pipeline order, which is the P4Info's.
    drawn.sort_by_key(|(at, _)| *at);
    Ok(drawn.into_iter().map(|(_, drawn)| drawn).collect())
}

fn unusable(table: &Table, role: Role, reasons: Vec<String>) -> MappingError {
    MappingError::Table {
        table: shown(alias(table.preamble.as_ref())),
        stage: stage_name(role),
        reasons,
    }
}

/// Draws the tables that have the names of stages, or the one ACL table there is.
fn by_name(pipeline: &Pipeline<'_>) -> Result<Vec<MappedTable>, MappingError> {
    let tables = pipeline.info.tables.iter();
    let named: Vec<(&Table, (Role, Option<Direction>))> = tables
        .filter_map(|t| Some((t, names::role(alias(t.preamble.as_ref()))?)))
        .collect();
    if !named.iter().any(|(_, (role, _))| *role == Role::Policy) {
        return acl(pipeline).map(|drawn| vec![drawn]);
    }
    let drawn = named.into_iter().map(|(table, (role, direction))| {
        let part = plain(role, direction);
        pipeline
            .draw(table, &part)
            .map_err(|reasons| unusable(table, role, reasons))
    });
    drawn.collect()
}

/// A part that is played by name.
fn plain(role: Role, direction: Option<Direction>) -> Part<'static> {
    Part {
        role,
        direction,
        weight: Weight::Row,
        fields: None,
        actions: None,
    }
}

/// The one table that can play `policy` for what endpoints send, without a class.
fn acl(pipeline: &Pipeline<'_>) -> Result<MappedTable, MappingError> {
    let part = plain(Role::Policy, Some(Direction::Egress));
    let mut usable: Vec<MappedTable> = Vec::new();
    let mut found: Vec<(bool, Found)> = Vec::new();
    for table in &pipeline.info.tables {
        let (drawable, reasons) = match pipeline.draw(table, &part) {
            Err(reasons) => (false, reasons),
            Ok(drawn) => {
                let mut reasons =
                    needs::lacking(&drawn.model, drawn.model.key(Field::Unreadable).is_some(), false);
                if drawn.model.key(Field::Class).is_some() {
                    reasons.push(
                        "it has `class` and is not called `egress_policy` or `ingress_policy`".to_string(),
                    );
                }
                if reasons.is_empty() {
                    usable.push(drawn);
                }
                (true, reasons)
            }
        };
        let one = Found {
            table: shown(alias(table.preamble.as_ref())),
            fields: table.match_fields.iter().map(described).collect(),
            reasons,
        };
        found.push((drawable, one));
    }
    // What lacks least comes first.
    found.sort_by_key(|(drawable, table)| (!drawable, table.reasons.iter().map(String::len).sum::<usize>()));
    let found: Vec<Found> = found.into_iter().map(|(_, table)| table).collect();
    match (usable.pop(), usable.is_empty()) {
        (Some(only), true) => Ok(only),
        (several, _) => Err(MappingError::Policy {
            several: several.is_some(),
            tables: found,
        }),
    }
}

//! Prints the documentation of our P4 program's tables from its P4Info.

use portcullis_backend::delta::Layer;
use portcullis_compiler::model::Role;

use crate::config::PortMatching;
use crate::device::{DeviceAction, DeviceTable};
use crate::own::contract::{EVERYBODY, Groups, Priority, SEVERAL, UNKNOWN, contract};
use crate::program::{OwnProgram, ProgramError};

/// Every table of the program, with the ids that P4Runtime clients use.
pub fn describe() -> Result<String, ProgramError> {
    let range = OwnProgram::new(PortMatching::Range)?;
    let (name, version) = &range.device.program;
    let mut text = format!(
        "# The P4 pipeline\n\nPrinted by `portcullis docs p4-pipeline` from the P4Info of `p4/`; a test compares. Program \
         `{name}`, version {version}. Ids are fixed, and never used again for something else.\n\nPorts match as `range` \
         in the program \"portcullis\" and as `ternary` in \"portcullis-ternary\"; everything else is the same.\n"
    );
    for table in &range.device.tables {
        let info = range.config.p4info.iter().flat_map(|info| &info.tables);
        let missed = info
            .filter(|t| t.preamble.as_ref().is_some_and(|p| p.id == table.id))
            .map(|t| t.const_default_action_id)
            .find(|id| *id != 0);
        text += &one(table, &missed.map_or_else(String::new, |id| named(&range, id)));
    }
    text += "\n## Multicast groups\n\n| group | copies to |\n|---|---|\n";
    for Groups { first, last, copies } in [EVERYBODY, UNKNOWN, SEVERAL] {
        text += &format!("| {} | {copies} |\n", span(first, last));
    }
    Ok(text)
}

/// The name of an action, with its id.
fn named(program: &OwnProgram, id: u32) -> String {
    let actions = program.config.p4info.iter().flat_map(|info| &info.actions);
    let preamble = actions
        .filter_map(|action| action.preamble.as_ref())
        .find(|preamble| preamble.id == id);
    let name = preamble.map_or("?", |p| p.alias.rsplit('.').next().unwrap_or(&p.alias));
    format!(" A packet that no row matches: `{name}` {id:#010x}.")
}

fn span<N: PartialEq + std::fmt::Display>(first: N, last: N) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first} to {last}")
    }
}

fn stage(table: &DeviceTable) -> String {
    let role = match table.stage {
        Role::Attach => "attach",
        Role::Guard => "guard",
        Role::Deliver => "deliver",
        Role::Remote => "remote",
        Role::Policy => "policy",
        Role::SrcCode | Role::DstCode | Role::Words | Role::Other => return String::new(),
    };
    format!("Plays the stage `{role}`. ")
}

fn action(action: &DeviceAction) -> String {
    let parameters: Vec<String> = action
        .params
        .iter()
        .map(|(_, name, width)| format!("{name}: {width} bits"))
        .collect();
    let name = action.name.rsplit('.').next().unwrap_or(&action.name);
    format!("`{name}({})` {:#010x}", parameters.join(", "), action.id)
}

fn one(table: &DeviceTable, missed: &str) -> String {
    let contract = contract(&table.name);
    let size = table.size.map_or("no bound".to_string(), |s| format!("{s} rows"));
    let embedded = contract.map_or_else(String::new, |c| {
        format!(" ({} on the embedded switch)", c.embedded_rows)
    });
    let counted = if table.counted { ", counted" } else { "" };
    let layer = match table.layer() {
        Layer::Policy => "policy",
        Layer::Dispatch => "dispatch",
        Layer::Support => "support",
    };
    let actions: Vec<String> = table.actions.iter().map(action).collect();
    let mut text = format!(
        "\n## `{}` {:#010x}\n\nWhat it decides: {}. Layer: {layer}.\n\n{}{size}{embedded}{counted}. Actions: {}.{missed}\n\n\
         | key | id | match | bits |\n|---|---|---|---|\n",
        table.name,
        table.id,
        contract.map_or("", |c| c.does),
        stage(table),
        actions.join(", ")
    );
    for field in &table.fields {
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            field.name, field.id, field.kind, field.width
        );
    }
    let priorities = contract.map_or(&[][..], |c| c.priorities);
    if !priorities.is_empty() {
        text += "\n| priority | of a VLAN | name | rows |\n|---|---|---|---|\n";
    }
    for priority in priorities {
        let Priority {
            name,
            lowest,
            highest,
            lift,
            rows,
        } = priority;
        let of_vlan = if *lift == 0 {
            String::new()
        } else {
            span(lowest + lift, highest + lift)
        };
        text += &format!(
            "| {} | {of_vlan} | `{name}` | {rows} |\n",
            span(*lowest, *highest)
        );
    }
    text
}

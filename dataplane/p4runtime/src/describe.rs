//! Prints the documentation of our P4 program's tables from its P4Info.

use portcullis_compiler::model::Role;

use crate::config::PortMatching;
use crate::device::{DeviceAction, DeviceTable};
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
        text += &one(table);
    }
    text += "\n## Multicast groups\n\n| group | copies to |\n|---|---|\n| 1 | every port that has rows |\n| 2 | \
             the uplinks: frames for a MAC that `l2` does not have |\n| from 256 | the ports of a MAC that is at several |\n";
    Ok(text)
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

fn one(table: &DeviceTable) -> String {
    let size = table.size.map_or("no bound".to_string(), |s| format!("{s} rows"));
    let counted = if table.counted { ", counted" } else { "" };
    let actions: Vec<String> = table.actions.iter().map(action).collect();
    let mut text = format!(
        "\n## `{}` {:#010x}\n\n{}{size}{counted}. Actions: {}.\n\n| key | id | match | bits |\n|---|---|---|---|\n",
        table.name,
        table.id,
        stage(table),
        actions.join(", ")
    );
    for field in &table.fields {
        text += &format!(
            "| `{}` | {} | {} | {} |\n",
            field.name, field.id, field.kind, field.width
        );
    }
    text
}

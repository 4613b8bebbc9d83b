//! `completions`, and the reference of the command: printed from the command line's definition.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};
use clap_complete::Shell;

use crate::Exit;
use crate::error::Failure;
use crate::term::Term;

/// Prints a shell's completion script.
pub fn completions(shell: Shell, mut root: Command, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let name = root.get_name().to_string();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root, name, &mut script);
    term.write(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// The reference of a command line as Markdown, from its definition and nothing else.
pub fn markdown(mut root: Command) -> String {
    root.build();
    let name = root.get_name().to_string();
    let mut text = format!("# The `{name}` command\n\nPrinted by `{name} docs cli`.\n");
    section(&mut root, &name, &mut text);
    text
}

fn section(command: &mut Command, path: &str, text: &mut String) {
    let _ = write!(text, "\n## `{path}`\n\n{}\n", styled(command.get_about()));
    // clap indents the lines of a usage that has several.
    let usage = command.render_usage().to_string();
    let lines: Vec<&str> = usage
        .trim_start_matches("Usage:")
        .lines()
        .map(str::trim)
        .collect();
    let _ = write!(text, "\n```text\n{}\n```\n", lines.join("\n"));
    let top = !path.contains(' ');
    let shown = |arg: &&Arg| {
        // What holds for every command is told once.
        let repeated = !top && arg.is_global_set();
        !arg.is_hide_set() && !repeated && !matches!(arg.get_id().as_str(), "help" | "version")
    };
    let args: Vec<String> = command.get_arguments().filter(shown).map(argument).collect();
    if !args.is_empty() {
        let title = if top {
            "\nOptions of every command:\n\n"
        } else {
            "\n"
        };
        let _ = write!(text, "{title}{}", args.concat());
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim());
    }
    for sub in command.get_subcommands_mut() {
        if sub.get_name() != "help" && !sub.is_hide_set() {
            let path = format!("{path} {}", sub.get_name());
            section(sub, &path, text);
        }
    }
}

fn styled(text: Option<&StyledStr>) -> String {
    text.map(|t| full_stop(&t.to_string())).unwrap_or_default()
}

/// clap takes the full stop from doc comments.
fn full_stop(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', ':', '!', '?']) {
        text.to_string()
    } else {
        format!("{text}.")
    }
}

fn argument(arg: &Arg) -> String {
    let mut line = format!("- `{}`: {}", spelled(arg), styled(arg.get_help()));
    let quoted = |items: Vec<String>| {
        items
            .iter()
            .map(|i| format!("`{i}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let flag = !arg.get_action().takes_values();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|v| !v.is_hide_set())
        .map(|v| v.get_name().to_string())
        .collect();
    if !flag && !values.is_empty() {
        let _ = write!(line, " One of {}.", quoted(values));
    }
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|v| v.to_string_lossy().into_owned())
        .collect();
    if !flag && !defaults.is_empty() {
        let _ = write!(line, " Default: {}.", quoted(defaults));
    }
    if let Some(env) = arg.get_env() {
        let _ = write!(line, " Environment: `{}`.", env.to_string_lossy());
    }
    line + "\n"
}

/// How it is written on a command line.
fn spelled(arg: &Arg) -> String {
    let names: Vec<String> = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(|name| format!("<{name}>"))
        .collect();
    let value = names.join(" ");
    if arg.is_positional() {
        return if arg.is_required_set() {
            value
        } else {
            format!("[{}]", value.trim_matches(['<', '>']))
        };
    }
    let dashed = [
        arg.get_short().map(|s| format!("-{s}")),
        arg.get_long().map(|l| format!("--{l}")),
    ]
    .into_iter()
    .flatten();
    let name = dashed.collect::<Vec<_>>().join(", ");
    if !arg.get_action().takes_values() {
        return name;
    }
    let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
    if optional {
        format!("{name}[={value}]")
    } else {
        format!("{name} {value}")
    }
}

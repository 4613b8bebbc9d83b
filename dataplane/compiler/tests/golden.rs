//! Documents under `golden/` and the rows that each model gets for them, compared line by line.
//!
//! `UPDATE_GOLDEN=1` writes the rows anew; read the difference before you keep it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::witness;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::{env, fs};

use portcullis_compiler::compilation::{Compilation, Placed};
use portcullis_compiler::model::Field;
use portcullis_compiler::row::FieldMatch;
use portcullis_compiler::{Attribution, Intent, RowCache, StageModel};
use portcullis_policy::{Decider, Document, Protocol};
use witness::pipeline::{Pipeline, unmanaged};
use witness::{Random, intent};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The names of the files with this ending, without it.
fn names(ending: &str) -> BTreeSet<String> {
    let files = fs::read_dir(directory()).unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|n| n.strip_suffix(ending).map(str::to_string))
        .collect()
}

fn document(name: &str) -> Document {
    let text = fs::read_to_string(directory().join(format!("{name}.yaml"))).unwrap();
    Document::from_yaml(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn compile(intent: &Intent, model: &str) -> Compilation {
    let mut programs = RowCache::new(StageModel::named(model).unwrap());
    Compilation::new(intent, &mut programs, Attribution::Rule, &unmanaged(), |_| false)
        .unwrap_or_else(|e| panic!("{model}: {e}"))
}

/// A number as people write that field.
fn value(field: Field, n: u128) -> String {
    match field {
        Field::RemoteIpv4 | Field::LocalIpv4 => Ipv4Addr::from(n as u32).to_string(),
        Field::RemoteIpv6 | Field::LocalIpv6 => Ipv6Addr::from(n).to_string(),
        Field::EtherType => format!("{n:#06x}"),
        Field::TcpFlags => format!("{n:#05x}"),
        Field::Protocol => Protocol::name(n as u8),
        _ => n.to_string(),
    }
}

fn key(field: Field, wanted: &FieldMatch, width: u16) -> String {
    match wanted {
        FieldMatch::Attachment(name) => format!("{field}=[{name}]"),
        FieldMatch::Range { low, high } if low == high => format!("{field}={low}"),
        FieldMatch::Range { low, high } => format!("{field}={low}-{high}"),
        FieldMatch::Masked { value: v, mask } if mask.count_ones() == u32::from(width) => {
            format!("{field}={}", value(field, *v))
        }
        FieldMatch::Masked { value: v, mask } => {
            let mask = match field {
                Field::RemoteIpv4 | Field::LocalIpv4 | Field::RemoteIpv6 | Field::LocalIpv6 => {
                    mask.count_ones().to_string()
                }
                _ => format!("{mask:#x}"),
            };
            format!("{field}={}/{mask}", value(field, *v))
        }
    }
}

fn line(placed: &Placed, model: &StageModel) -> String {
    let row = &placed.row;
    let table = model.tables.iter().find(|t| t.name == row.table).unwrap();
    let mut text = format!("{} {}", row.table, row.priority);
    for (field, wanted) in &row.keys {
        write!(text, " {}", key(*field, wanted, table.key(*field).unwrap().width)).unwrap();
    }
    write!(text, " -> {}", row.action).unwrap();
    if let Some(class) = placed.class {
        write!(text, " | class {class}").unwrap();
    }
    if let Some(rule) = &placed.rule {
        write!(text, " | {rule}").unwrap();
    }
    text
}

fn render(compilation: &Compilation) -> String {
    let mut text = String::new();
    for used in compilation.tables() {
        let size = used.size.map_or("no bound".to_string(), |n| n.to_string());
        writeln!(
            text,
            "# {}: {} rows, {} of {size}",
            used.table, used.rows, used.cost
        )
        .unwrap();
    }
    for (class, unsupported) in &compilation.unsupported {
        writeln!(text, "unsupported: class {class}: {unsupported}").unwrap();
    }
    for step in &compilation.steps {
        writeln!(text, "step: {step}").unwrap();
    }
    for refusal in &compilation.refusals {
        writeln!(text, "refused: {refusal}").unwrap();
    }
    for placed in compilation.rows() {
        writeln!(text, "{}", line(&placed, &compilation.model)).unwrap();
    }
    text
}

#[test]
fn rows_are_the_ones_on_file() {
    let update = env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1");
    let documents = names(".yaml");
    assert!(documents.len() >= 14, "{documents:?}");
    let mut wanted = BTreeSet::new();
    let mut wrong = String::new();
    for name in &documents {
        let intent = intent(&document(name));
        for model in StageModel::names() {
            let name = format!("{name}.{model}");
            let rows = render(&compile(&intent, model));
            let path = directory().join(format!("{name}.rows"));
            if update {
                fs::write(&path, &rows).unwrap();
            } else {
                let kept = fs::read_to_string(&path).unwrap_or_default();
                for change in differences(&kept, &rows) {
                    writeln!(wrong, "{name}: {change}").unwrap();
                }
            }
            wanted.insert(name);
        }
    }
    for surplus in names(".rows").difference(&wanted) {
        if update {
            fs::remove_file(directory().join(format!("{surplus}.rows"))).unwrap();
        } else {
            writeln!(wrong, "{surplus}.rows has no document or no model").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}\nUPDATE_GOLDEN=1 writes what is now");
}

/// The lines that differ, `-` on file and `+` now, or that they stand in another order.
fn differences(kept: &str, now: &str) -> Vec<String> {
    if kept == now {
        return Vec::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), now.lines().collect());
    let gone = old.iter().filter(|l| !new.contains(l)).map(|l| format!("- {l}"));
    let come = new.iter().filter(|l| !old.contains(l)).map(|l| format!("+ {l}"));
    let list: Vec<String> = gone.chain(come).collect();
    if list.is_empty() {
        vec!["the same lines in another order or number".to_string()]
    } else {
        list
    }
}

/// What is on file means the documents: every table read by field, value and mask, against the reference verdict, and
/// the rule that each hit names.
#[test]
fn rows_on_file_mean_the_documents() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut judged, mut attributed) = (0u32, 0u32);
    for name in names(".yaml") {
        let document = document(&name);
        let intent = intent(&document);
        for model in StageModel::names() {
            let compilation = compile(&intent, model);
            let pipeline = Pipeline::from_compilation(&compilation);
            for case in witness::pipeline::ports(&intent, &compilation) {
                let packets = witness::grid(&[&case.policy], 1500, &mut random);
                for packet in &packets {
                    let (wanted, by) = case.policy.judge(packet, compilation.model.view);
                    for shown in witness::ShownFields::new(packet, &compilation.model) {
                        let told = pipeline.judge(case.policy.direction, case.class, &case.port, &shown);
                        let Some((action, rule)) = told else {
                            assert!(case.open, "{name} {model} {}: nothing for {packet:?}", case.port);
                            continue;
                        };
                        assert_eq!(
                            action, wanted,
                            "{name} {model} {}: {packet:?} by {by:?}, {rule:?}",
                            case.port
                        );
                        judged += 1;
                        if let (Decider::Entry(_) | Decider::Default, Some(rule), false) =
                            (by, rule, case.open)
                        {
                            assert!(
                                case.may_name(&compilation, packet, &rule),
                                "{name} {model} {}: {packet:?} by {by:?}, {rule}",
                                case.port
                            );
                            attributed += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{judged} packets judged, {attributed} attributed");
    assert!(judged > 100_000 && attributed > 50_000, "{judged} {attributed}");
}

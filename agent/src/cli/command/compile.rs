//! `compile`: the compiler and its proof, offline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::proof::prove;
use portcullis_compiler::{Class, ClassId, Compiler, Intent, PolicyRow, Program, StageModel, Unsupported};
use portcullis_policy::{Direction, Document};

use super::super::args::{Compile, CompileFormat};
use super::super::error::{Failure, Misuse};
use super::super::term::Term;
use super::super::view::compiled::{
    ClassStatsView, CompiledView, CounterexampleView, ProofView, RowView, StatsView, TableStatsView,
};
use super::super::{Exit, Output};

/// Runs it.
pub fn run(args: &Compile, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let unknown = || Misuse::Target {
        name: args.target.clone(),
        known: StageModel::names(),
    };
    let model = StageModel::named(&args.target).ok_or_else(unknown)?;
    let path = &args.file.file;
    let document = Document::from_yaml(&super::read(path)?).map_err(|source| Failure::Document {
        path: path.clone(),
        source,
    })?;
    let mut view = compile(&document, &model)?;
    view.with_stats = args.stats;
    let output = match args.format {
        None => term.output(),
        Some(CompileFormat::Text) => Output::Table,
        Some(CompileFormat::Json) => Output::Json,
    };
    term.show_as(&view, output)?;
    match view.proof {
        ProofView::Equal => Ok(Exit::Done),
        ProofView::Counterexample(_) => {
            term.complain("error: the rows are not the policy: a bug of the compiler, please report it");
            Ok(Exit::Failed)
        }
    }
}

/// Compiles a document for a model and compares every row with the policy.
pub fn compile(document: &Document, model: &StageModel) -> Result<CompiledView, Unsupported> {
    let begun = Instant::now();
    let intent = Compiler::default().resolve(document, 1);
    let fixed = fixed_rows(model);
    let mut programs: BTreeMap<ClassId, Compiled> = BTreeMap::new();
    for (id, class) in &intent.classes {
        programs.insert(
            *id,
            Compiled {
                class: Arc::clone(class),
                program: lower(&class.policy, model)?,
            },
        );
    }
    let compile_us = micros(begun.elapsed());
    let begun = Instant::now();
    let proof = proof(&programs, &fixed, model);
    let prove_us = micros(begun.elapsed());
    let stats = StatsView {
        target: model.name.to_string(),
        endpoints: intent.endpoints.len() as u64,
        classes: classes(&intent, &programs),
        tables: tables(&programs, &fixed, model),
        compile_us,
        prove_us,
    };
    Ok(CompiledView {
        rows: rows(&programs, &fixed),
        stats,
        proof,
        with_stats: false,
    })
}

/// A class and its rows.
struct Compiled {
    class: Arc<Class>,
    program: Program,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn proof(programs: &BTreeMap<ClassId, Compiled>, fixed: &[PolicyRow], model: &StageModel) -> ProofView {
    let differs = programs.iter().find_map(|(id, c)| {
        let example = prove(&c.class.policy, &c.program, fixed, model).err()?;
        Some(CounterexampleView::new(id.0, &example))
    });
    differs.map_or(ProofView::Equal, ProofView::Counterexample)
}

fn of(
    programs: &BTreeMap<ClassId, Compiled>,
    direction: Direction,
) -> impl Iterator<Item = (u32, &Compiled)> {
    programs
        .iter()
        .filter(move |(_, c)| c.class.policy.direction == direction)
        .map(|(id, c)| (id.0, c))
}

fn rows(programs: &BTreeMap<ClassId, Compiled>, fixed: &[PolicyRow]) -> Vec<RowView> {
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        for (id, c) in of(programs, direction) {
            rows.extend(
                c.program
                    .remote
                    .iter()
                    .map(|row| RowView::remote(direction, id, row)),
            );
        }
        // Rows of every class stand in a table as soon as one class does; any class can name their rules.
        if let Some((_, any)) = of(programs, direction).next() {
            rows.extend(
                fixed
                    .iter()
                    .map(|row| RowView::policy(&any.class.policy, None, row)),
            );
        }
        for (id, c) in of(programs, direction) {
            rows.extend(
                c.program
                    .policy
                    .iter()
                    .map(|row| RowView::policy(&c.class.policy, Some(id), row)),
            );
        }
    }
    rows
}

fn classes(intent: &Intent, programs: &BTreeMap<ClassId, Compiled>) -> Vec<ClassStatsView> {
    let mut members: BTreeMap<ClassId, u64> = BTreeMap::new();
    for endpoint in intent.endpoints.values() {
        *members.entry(endpoint.egress).or_default() += 1;
        *members.entry(endpoint.ingress).or_default() += 1;
    }
    programs
        .iter()
        .map(|(id, c)| ClassStatsView {
            class: id.0,
            direction: c.class.policy.direction.to_string(),
            endpoints: members.get(id).copied().unwrap_or(0),
            unmanaged: intent.unmanaged.0 == *id || intent.unmanaged.1 == *id,
            entries: c.class.policy.entries.len() as u64,
            default: c.class.policy.default.to_string(),
            rows: c.program.rows() as u64,
        })
        .collect()
}

fn tables(
    programs: &BTreeMap<ClassId, Compiled>,
    fixed: &[PolicyRow],
    model: &StageModel,
) -> Vec<TableStatsView> {
    let mut tables = Vec::new();
    for direction in Direction::BOTH {
        let sum = |count: fn(&Compiled) -> usize| of(programs, direction).map(|(_, c)| count(c) as u64).sum();
        let remote: u64 = sum(|c| c.program.remote.len());
        let policy: u64 = sum(|c| c.program.policy.len());
        let entries: u64 = sum(|c| c.class.policy.entries.len());
        let naive = of(programs, direction).map(|(_, c)| c.program.naive).sum();
        let used = of(programs, direction).next().is_some();
        let fixed = if used { fixed.len() as u64 } else { 0 };
        let expansion = (entries > 0).then(|| (policy as f64 / entries as f64 * 1000.0).round() / 1000.0);
        let base = |table: String, rows: u64| {
            let size = model.tables.iter().find(|t| t.name == table).and_then(|t| t.size);
            let headroom = size.map(|size| i128::from(size) - i128::from(rows));
            TableStatsView {
                table,
                rows,
                fixed: 0,
                entries: 0,
                naive: None,
                expansion: None,
                size,
                headroom,
            }
        };
        tables.push(base(format!("{direction}_remote"), remote));
        tables.push(TableStatsView {
            fixed,
            entries,
            naive: Some(naive),
            expansion,
            ..base(format!("{direction}_policy"), policy + fixed)
        });
    }
    tables
}

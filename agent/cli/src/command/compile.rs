//! `compile`: the compiler and its proof, without an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_compiler::compilation::{Compilation, TableUse, UNMANAGED_PORTS};
use portcullis_compiler::model::{PacketKind, Role, TableModel};
use portcullis_compiler::proof::{partial, prove};
use portcullis_compiler::{
    Attribution, Class, ClassId, CompileError, Compiler, EndpointIntent, Fingerprint, Intent, RowCache,
    StageModel,
};
use portcullis_p4runtime::mapping::Mapping;
use portcullis_p4runtime::model::from_p4info;
use portcullis_p4runtime::pipelines;
use portcullis_policy::{Document, Finding, PerDirection, Policy, canonical, classbench, findings};

use crate::args::{Compile, CompileFormat};
use crate::error::{Failure, Misuse};
use crate::term::Term;
use crate::view::compiled::{
    ClassStatsView, CompiledView, CounterexampleView, ProofView, RowView, StatsView, TableStatsView,
    UnsupportedClassView,
};
use crate::view::enforced::EnforcedView;
use crate::{Exit, Output};

pub fn run(args: &Compile, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let model = model(args)?;
    let input = input(args)?;
    let mut view = compile(&input, &model, args.attribution.into())?;
    view.with_stats = args.stats;
    let output = match args.format {
        None => term.output(),
        Some(CompileFormat::Text) => Output::Table,
        Some(CompileFormat::Json) => Output::Json,
    };
    term.show_as(&view, output)?;
    if let ProofView::Counterexample(_) = view.proof {
        term.complain("error: the rows are not the policy: a bug of the compiler, please report it");
    }
    if !view.unsupported.is_empty() {
        term.complain("error: the target cannot enforce all of it; see what is unsupported");
    }
    if !view.refused.is_empty() {
        term.complain("error: the target cannot hold it; see what is refused");
    }
    Ok(if view.is_whole() { Exit::Done } else { Exit::Failed })
}

/// The stage model that `--target` names.
fn model(args: &Compile) -> Result<StageModel, Failure> {
    let read = |path: &str| super::read(Path::new(path));
    let bad = |path: &str, source: portcullis_compiler::ModelError| Failure::Model {
        path: path.into(),
        source,
    };
    match args.target.split_once(':') {
        Some(("model", path)) => StageModel::from_toml(&read(path)?).map_err(|e| bad(path, e)),
        Some(("p4info", path)) => p4info(path, args.mapping.as_deref(), &args.accept),
        _ => StageModel::named(&args.target).ok_or_else(|| {
            Failure::Misuse(Misuse::Target {
                name: args.target.clone(),
                known: StageModel::names(),
            })
        }),
    }
}

/// The stage model of a P4 program, by a mapping or by the names of its tables and fields.
fn p4info(path: &str, mapping: Option<&Path>, accept: &[PacketKind]) -> Result<StageModel, Failure> {
    let failed = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| Failure::P4Info {
        path: path.to_path_buf(),
        source,
    };
    let mapping = match mapping {
        None => None,
        Some(path) => {
            let text = match path.to_str().and_then(pipelines::source) {
                Some(text) => text.to_string(),
                None => super::read(path)?,
            };
            let read = Mapping::from_toml(&text).and_then(|mut mapping| {
                mapping.accept_also(accept.iter().copied())?;
                Ok(mapping)
            });
            Some(read.map_err(|e| failed(path, Box::new(e)))?)
        }
    };
    let path = Path::new(path);
    let bytes = std::fs::read(path).map_err(|source| Failure::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let info = portcullis_p4runtime::p4info::parse(&bytes).map_err(|e| failed(path, Box::new(e)))?;
    let name = path
        .file_stem()
        .map_or_else(|| "p4info".into(), std::ffi::OsStr::to_string_lossy);
    from_p4info(&info, &name, mapping.as_ref()).map_err(|e| failed(path, Box::new(e)))
}

#[derive(Debug)]
pub enum Input {
    Document(Box<Document>),
    /// A filter set: one policy.
    Filters(Box<Policy>),
}

fn input(args: &Compile) -> Result<Input, Failure> {
    if let Some(path) = &args.classbench {
        let default = args.default.ok_or(Misuse::NoDefault)?;
        let policy = classbench::parse(&super::read(path)?, default).map_err(|source| Failure::Filters {
            path: path.clone(),
            source,
        })?;
        return Ok(Input::Filters(Box::new(policy)));
    }
    let path = args.file.as_ref().ok_or(Misuse::NoInput)?;
    let document = Document::from_yaml(&super::read(path)?).map_err(|source| Failure::Document {
        path: path.clone(),
        source,
    })?;
    Ok(Input::Document(Box::new(document)))
}

impl Input {
    fn rules(&self) -> usize {
        match self {
            Input::Filters(policy) => policy.entries.len(),
            Input::Document(d) => {
                let profiles = d.profiles.values().map(|p| p.rules.len()).sum::<usize>();
                let endpoints = d.endpoints.values().map(|e| e.rules.len()).sum::<usize>();
                d.mandatory.len() + d.baseline.len() + profiles + endpoints
            }
        }
    }

    /// The classes. A filter set is the one class of every port.
    fn intent(&self) -> Result<Arc<Intent>, Failure> {
        match self {
            Input::Document(document) => Ok(Compiler::default().resolve(document, 1)?),
            Input::Filters(policy) => {
                let policy = canonical(policy);
                let class = Class {
                    id: ClassId(1),
                    fingerprint: Fingerprint::from_policy(&policy),
                    policy,
                    base: None,
                };
                Ok(Arc::new(Intent {
                    generation: 1,
                    classes: [(class.id, Arc::new(class))].into_iter().collect(),
                    unmanaged: PerDirection {
                        egress: ClassId(1),
                        ingress: ClassId::OPEN,
                    },
                    ..Intent::default()
                }))
            }
        }
    }

    fn findings(&self) -> Vec<Finding> {
        match self {
            Input::Document(document) => findings(document),
            // A set has thousands of filters that others cover; that is its nature.
            Input::Filters(_) => Vec::new(),
        }
    }
}

/// Whether an endpoint is attached to more than one target.
fn elsewhere(endpoint: &EndpointIntent) -> bool {
    let mut targets: Vec<&String> = endpoint
        .attachments
        .iter()
        .filter_map(|a| a.target.as_ref())
        .collect();
    targets.sort_unstable();
    targets.dedup();
    targets.len() > 1
}

/// Compiles for a model, proves every class and fits it into the tables.
pub fn compile(input: &Input, model: &StageModel, attribution: Attribution) -> Result<CompiledView, Failure> {
    let begun = Instant::now();
    let intent = input.intent()?;
    let mut programs = RowCache::new(model.clone());
    let unmanaged = BTreeSet::from([UNMANAGED_PORTS.to_owned()]);
    let compiled = Compilation::new(&intent, &mut programs, attribution, &unmanaged, elsewhere);
    let compile_us = micros(begun.elapsed());
    let findings = input.findings().into_iter().map(Into::into).collect();
    let empty = StatsView {
        target: model.name.clone(),
        rules: input.rules() as u64,
        rows: 0,
        naive: 0,
        expansion: None,
        endpoints: intent.endpoints.len() as u64,
        sharing: None,
        classes: Vec::new(),
        tables: Vec::new(),
        compile_us,
        prove_us: 0,
    };
    let blank = CompiledView {
        rows: Vec::new(),
        stats: empty,
        proof: match model.partial {
            Some(_) => ProofView::Sound,
            None => ProofView::Equal,
        },
        enforced: Vec::new(),
        accepted: accepted(model),
        unsupported: Vec::new(),
        steps: Vec::new(),
        refused: Vec::new(),
        findings,
        with_stats: false,
    };
    Ok(match compiled {
        Ok(compilation) => filled(blank, &compilation, &intent),
        Err(CompileError::Unproved { class, example, .. }) => CompiledView {
            proof: ProofView::Counterexample(CounterexampleView::new(class.0, &example)),
            ..blank
        },
        Err(CompileError::Unsupported(unsupported)) => CompiledView {
            unsupported: vec![UnsupportedClassView::new(ClassId::OPEN, &unsupported)],
            ..blank
        },
    })
}

fn filled(blank: CompiledView, compilation: &Compilation, intent: &Intent) -> CompiledView {
    let begun = Instant::now();
    let proof = proof(compilation);
    let prove_us = micros(begun.elapsed());
    let rows: Vec<RowView> = compilation.rows().into_iter().map(RowView::new).collect();
    let classes = classes(intent, compilation);
    let naive = compilation.classes.values().map(|c| c.program.naive).sum();
    let members: u64 = classes.iter().map(|c| c.endpoints).sum();
    let (steps, refused) = CompiledView::ladder(&compilation.steps, &compilation.refusals);
    let unsupported = compilation.unsupported.iter().map(|(class, u)| (*class, u));
    let unplaced = compilation.unplaced.iter().map(|u| (ClassId::OPEN, u));
    CompiledView {
        stats: StatsView {
            rows: rows.len() as u64,
            naive,
            expansion: ratio(rows.len() as u64, blank.stats.rules),
            sharing: ratio(members, classes.len() as u64),
            classes,
            tables: compilation
                .tables()
                .into_iter()
                .map(|used| table(used, compilation))
                .collect(),
            prove_us,
            ..blank.stats
        },
        rows,
        proof,
        enforced: compilation.enforced().iter().map(EnforcedView::new).collect(),
        unsupported: unsupported
            .chain(unplaced)
            .map(|(class, u)| UnsupportedClassView::new(class, u))
            .collect(),
        steps,
        refused,
        ..blank
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| (a as f64 / b as f64 * 1000.0).round() / 1000.0)
}

/// Kinds of packets that rows of a partial point may deny although the policy lets them pass.
fn accepted(model: &StageModel) -> Vec<String> {
    let point = model.partial.iter();
    let kinds = point.flat_map(|point| point.accept.iter());
    kinds.map(|kind| kind.name().to_string()).collect()
}

fn proof(compilation: &Compilation) -> ProofView {
    if let Some(point) = &compilation.model.partial {
        let differs = compilation.classes.iter().find_map(|(id, c)| {
            let program = compilation.rows_that_decide(c);
            match partial::prove(&c.class.policy, &program, &compilation.model, point) {
                Err(partial::Unproved::Differs(example)) => Some(CounterexampleView::new(id.0, &example)),
                // What is too large was refused before.
                Ok(_) | Err(partial::Unproved::TooLarge) => None,
            }
        });
        return differs.map_or(ProofView::Sound, ProofView::Counterexample);
    }
    let differs = compilation.classes.iter().find_map(|(id, c)| {
        let example = prove(
            &c.class.policy,
            &compilation.rows_that_decide(c),
            &compilation.fixed,
            &compilation.model,
        )
        .err()?;
        Some(CounterexampleView::new(id.0, &example))
    });
    differs.map_or(ProofView::Equal, ProofView::Counterexample)
}

fn classes(intent: &Intent, compilation: &Compilation) -> Vec<ClassStatsView> {
    let mut members: BTreeMap<ClassId, u64> = BTreeMap::new();
    for endpoint in intent.endpoints.values() {
        for class in endpoint.classes {
            *members.entry(class).or_default() += 1;
        }
    }
    let view = |(id, c): (&ClassId, &portcullis_compiler::compilation::Compiled)| ClassStatsView {
        class: id.0,
        direction: c.class.policy.direction.to_string(),
        endpoints: members.get(id).copied().unwrap_or(0),
        unmanaged: intent.unmanaged.iter().any(|class| class == id),
        entries: c.class.policy.entries.len() as u64,
        default: c.class.policy.default.to_string(),
        attribution: if c.program.merged { "class" } else { "rule" }.to_string(),
        rows: c.program.rows() as u64,
    };
    compilation.classes.iter().map(view).collect()
}

/// Figures of one table.
fn table(used: TableUse, compilation: &Compilation) -> TableStatsView {
    let model = compilation.model.tables.iter().find(|t| t.name == used.table);
    let policy = model.is_some_and(|t| t.stage == Role::Policy);
    let in_table = |t: &TableModel, c: &&portcullis_compiler::compilation::Compiled| {
        t.serves(c.class.policy.direction)
            && match t.stage {
                Role::Remote => !c.program.remote.is_empty(),
                Role::Words => !c.program.words.is_empty(),
                Role::Policy => !c.program.policy.is_empty(),
                _ => c.program.codes.is_some(),
            }
    };
    let here: Vec<_> = model
        .map(|t| compilation.classes.values().filter(|c| in_table(t, c)).collect())
        .unwrap_or_default();
    let own: u64 = here.iter().map(|c| c.program.policy.len() as u64).sum();
    let entries: u64 = here.iter().map(|c| c.class.policy.entries.len() as u64).sum();
    let naive = here.iter().map(|c| c.program.naive).sum();
    TableStatsView {
        fixed: if policy && !here.is_empty() {
            compilation.fixed.len() as u64
        } else {
            0
        },
        classes: here.len() as u64,
        entries: if policy { entries } else { 0 },
        naive: policy.then_some(naive),
        expansion: if policy { ratio(own, entries) } else { None },
        headroom: used.size.map(|size| i128::from(size) - i128::from(used.cost)),
        table: used.table,
        rows: used.rows,
        cost: used.cost,
        size: used.size,
    }
}

//! CEL expressions over an endpoint, its evidence, its checks and its unlocks.
//!
//! | variable | what it is |
//! |---|---|
//! | `endpoint` | `name`, `labels`, `age` (a duration), `addresses`, `profiles` |
//! | `evidence` | what the program declares: integers, booleans, dates as timestamps of their first moment (UTC), and text |
//! | `checks.NAME` | `result` (`"passed"`, `"failed"`, `"undetermined"`), `passed`, `detail` |
//! | `unlocks.PROGRAM` | the endpoint's: `active`, `state`, `age`, `revocations`; also `unlocks["smtp-out"]` |
//! | `tenant`, `now`, `request.lease` | a string, a timestamp, a duration |
//!
//! Whatever an expression names is known when it is compiled: variables, fields, functions and types that do not fit
//! are refused there. A label that the endpoint lacks is `""`, by whatever constant it is named; `has(endpoint.labels.x)`
//! and `"x" in endpoint.labels` tell the difference. Optional evidence that was not submitted is an error where it is
//! used and not decided without it: `!has(evidence.x) || evidence.x < 5`. As in CEL everywhere, `false && error` is
//! false and `true || error` is true.
//!
//! Functions: `size`, `duration`, `timestamp`, `string`, `int`, `uint`, `double`, `bool`, `matches`; on strings
//! `contains`, `startsWith`, `endsWith`, `matches`; on durations and timestamps `getHours` and its like; the macros
//! `has`, `all`, `exists`, `exists_one`, `filter` and `map`. Patterns are constants.
//!
//! An expression is at most 4096 bytes, of bounded depth, and what it can cost is counted before it is evaluated.

mod cost;
mod facts;
mod guard;
mod kind;
mod names;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::SourceInfo;
use cel::objects::Value as Cel;
use cel::parser::Expression as Tree;
use cel::{Context, Env, ExecutionError};

pub use facts::{CheckFacts, EndpointFacts, Facts, UnlockFacts};
pub use kind::Scope;

use cost::{MAX_COST, Sizes};
use facts::Named;
use kind::Kind;
use names::{Anchor, Reader, Wrong};

/// The variables that there are.
const VARIABLES: [&str; 7] = [
    "endpoint", "evidence", "checks", "unlocks", "tenant", "now", "request",
];

/// CEL's own functions and macros, without its optional values.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ExpressionError {
    /// Counted from 1 in the expression, not in the document.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong; never a value.
    pub problem: String,
}

impl ExpressionError {
    fn at(text: &str, byte: usize, problem: impl Into<String>) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ExpressionError {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            problem: problem.into(),
        }
    }

    fn start(problem: impl Into<String>) -> Self {
        ExpressionError {
            line: 1,
            column: 1,
            problem: problem.into(),
        }
    }
}

/// An expression that was found good.
#[derive(Clone)]
pub struct Expression {
    text: String,
    tree: Arc<Tree>,
    named: Named,
    /// Evidence that it uses, and the error there when it was not submitted.
    evidence: Vec<(String, ExpressionError)>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.tree == other.tree
    }
}

/// Stack for the parser and the interpreter: what the guard lets through needs a quarter of it, unoptimized. Callers'
/// threads have less. It is mapped, and only what is used of it becomes memory.
const STACK: usize = 16 * 1024 * 1024;

/// Runs the parser or the interpreter. They recurse, on a stack of their own here; and they, and what they are built
/// on, have `unwrap` and `panic!` on paths that no expression is known to reach: one that finds one is refused, and does
/// not end the agent. Nothing but constants is shared with what unwinds.
fn apart<T>(work: impl FnOnce() -> T) -> Option<T> {
    stacker::grow(STACK, || catch_unwind(AssertUnwindSafe(work))).ok()
}

impl Expression {
    /// Compiles an expression whose value is a boolean.
    pub fn compile(text: &str, scope: &Scope) -> Result<Expression, ExpressionError> {
        if text.trim().is_empty() {
            return Err(ExpressionError::start(
                "is empty: remove it, or write an expression",
            ));
        }
        guard::guard(text)?;
        let (mut tree, source) = parse(text)?;
        let place = |wrong: &Wrong| {
            let byte = offset(text, &source, wrong);
            ExpressionError::at(text, byte, wrong.problem.clone())
        };
        let mut reader = Reader::new(scope);
        let kind = reader.value(&mut tree).map_err(|wrong| place(&wrong))?;
        if !matches!(kind, Kind::Bool | Kind::Any) {
            let problem = format!("is of type {}: it must be true or false", kind.word());
            return Err(ExpressionError::start(problem));
        }
        for constant in &reader.constants {
            let value = apart(|| Cel::resolve(constant, &Context::with_env(Arc::clone(&ENV))));
            if !matches!(value, Some(Ok(_))) {
                return Err(place(&Wrong {
                    node: constant.id,
                    place: Anchor::Function,
                    problem:
                        "is not as CEL writes it: duration(\"720h\"), timestamp(\"2026-11-27T00:00:00Z\")"
                            .to_string(),
                }));
            }
        }
        let evidence = reader
            .evidence
            .iter()
            .map(|(name, node)| {
                let wrong = Wrong {
                    node: *node,
                    place: Anchor::Field,
                    problem: format!("evidence `{name}` was not submitted: ask has(evidence.{name}) first"),
                };
                (name.clone(), place(&wrong))
            })
            .collect();
        if Sizes::usual().cost(&tree) > MAX_COST {
            return Err(ExpressionError::start(
                "could take too long: iterate over less, and not within one another",
            ));
        }
        Ok(Expression {
            text: text.to_string(),
            tree: Arc::new(tree),
            named: reader.named,
            evidence,
        })
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The checks that it names.
    pub fn checks(&self) -> impl Iterator<Item = &str> {
        self.named.checks.iter().map(String::as_str)
    }

    /// The programs whose unlocks it names.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.named.programs.iter().map(String::as_str)
    }

    /// Whether its value can change by time alone: it reads `now` or an age.
    pub fn reads_time(&self) -> bool {
        self.named.time
    }

    /// Whether it reads the detail of a check.
    pub fn reads_detail(&self) -> bool {
        self.named.detail
    }

    /// Whether it is true of the facts.
    pub fn evaluate(&self, facts: &Facts) -> Result<bool, ExpressionError> {
        if Sizes::from_facts(facts).cost(&self.tree) > MAX_COST {
            return Err(ExpressionError::start(
                "would take too long for this endpoint: it has very many labels, addresses or profiles",
            ));
        }
        let value = apart(|| {
            let mut context = Context::with_env(Arc::clone(&ENV));
            for (name, value) in facts.variables(&self.named) {
                context.add_variable_from_value(name, value);
            }
            Cel::resolve(&self.tree, &context)
        });
        match value {
            Some(Ok(Cel::Bool(yes))) => Ok(yes),
            Some(Ok(other)) => Err(ExpressionError::start(format!(
                "is of type {}: it must be true or false",
                other.type_of()
            ))),
            Some(Err(error)) => Err(self.explain(&error, facts)),
            None => Err(ExpressionError::start("cannot be evaluated")),
        }
    }

    /// What went wrong, without values: they may be secrets.
    fn explain(&self, error: &ExecutionError, facts: &Facts) -> ExpressionError {
        let problem = match error {
            ExecutionError::NoSuchKey(key) => {
                let absent = |(name, _): &&(String, ExpressionError)| {
                    *name == **key && facts.evidence.get(name).is_none()
                };
                if let Some((_, error)) = self.evidence.iter().find(absent) {
                    return error.clone();
                }
                "looks for a key that is not there"
            }
            ExecutionError::NoSuchOverload(_)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::ValuesNotComparable(..)
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedIndex(..)
            | ExecutionError::UnsupportedKeyType(_) => {
                "has values whose types do not go with what is done to them"
            }
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "divides by zero",
            ExecutionError::Overflow(..) => "has a result that is too large a number",
            ExecutionError::IndexOutOfBounds(_) => "looks for an item that is not there",
            ExecutionError::DuplicateKey(_) => "makes a map with a key twice",
            ExecutionError::FunctionError { function, .. } => {
                return ExpressionError::start(format!("`{function}` cannot make anything of its argument"));
            }
            _ => "cannot be evaluated",
        };
        ExpressionError::start(problem)
    }
}

fn parse(text: &str) -> Result<(Tree, SourceInfo), ExpressionError> {
    let parsed = apart(|| ENV.parser().parse_with_source_info(text));
    match parsed {
        Some(Ok(parsed)) => Ok(parsed),
        Some(Err(errors)) => {
            let first = errors.errors.first();
            let (line, column) = first.map_or((1, 1), |error| error.pos);
            let problem = first.map_or("is no expression", |error| error.msg.as_str());
            let problem: String = problem
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(300)
                .collect();
            Err(ExpressionError {
                line: usize::try_from(line).unwrap_or(1).max(1),
                column: usize::try_from(column).unwrap_or(1).max(1),
                problem,
            })
        }
        None => Err(ExpressionError::start("cannot be parsed")),
    }
}

/// The byte of the text that an error is about.
fn offset(text: &str, source: &SourceInfo, wrong: &Wrong) -> usize {
    let at = source
        .offset_for(wrong.node)
        .map_or(0, |(start, _)| start as usize);
    let space = |c: char| c.is_ascii_whitespace();
    let name_before = |at: usize| match text.get(..at) {
        Some(before) => before
            .trim_end_matches(space)
            .trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_')
            .len(),
        None => at,
    };
    match wrong.place {
        Anchor::Here => at,
        Anchor::Field => match text.get(at..).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) => text.len() - rest.trim_start_matches(space).len(),
            None => at,
        },
        Anchor::Tested => {
            let mut open = 0usize;
            let end = text.get(at..).unwrap_or_default().char_indices().find(|(_, c)| {
                match c {
                    '(' | '[' | '{' => open += 1,
                    ')' | ']' | '}' => open = open.saturating_sub(1),
                    _ => {}
                }
                open == 0
            });
            end.map_or(at, |(end, _)| name_before(at + end))
        }
        Anchor::Function => name_before(at),
    }
}

#[cfg(test)]
mod tests;

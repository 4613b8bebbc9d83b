//! Names and types in an expression, checked before evaluation.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators as op,
};
use cel::parser::Expression as Tree;

use super::facts::Named;
use super::kind::{Kind, Record, Scope};
use crate::evidence::Pattern;

/// What is wrong, and at which node.
pub(super) struct Wrong {
    pub(super) node: u64,
    /// Where at the node.
    pub(super) place: Anchor,
    pub(super) problem: String,
}

/// Where the parser's offset of a node is, and where people look for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// The node's own offset.
    Here,
    /// A field's name, after the dot that the offset is of.
    Field,
    /// A field's name in `has(…)`, at the end of the bracket that the offset is of.
    Tested,
    /// A function's name, before the bracket that the offset is of.
    Function,
}

fn wrong<T>(node: u64, place: Anchor, problem: impl Into<String>) -> Result<T, Wrong> {
    let problem = problem.into();
    Err(Wrong { node, place, problem })
}

/// Reads a tree within a scope, and makes what is named of labels empty where it is missing.
pub(super) struct Reader<'a> {
    scope: &'a Scope,
    locals: Vec<(String, Kind)>,
    pub(super) named: Named,
    /// Evidence, and the nodes that name it otherwise than in `has(…)`.
    pub(super) evidence: Vec<(String, u64)>,
    /// Strings that are to be lengths of time or moments, the function, and the nodes.
    pub(super) constants: Vec<Tree>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(scope: &'a Scope) -> Self {
        Reader {
            scope,
            locals: Vec::new(),
            named: Named::default(),
            evidence: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// The type of a tree that is used as a value.
    pub(super) fn value(&mut self, tree: &mut Tree) -> Result<Kind, Wrong> {
        match self.any(tree)? {
            Kind::Record(record) => {
                let (name, example) = match record {
                    Record::Endpoint => ("`endpoint`", "endpoint.name"),
                    Record::Evidence => ("`evidence`", "evidence.NAME"),
                    Record::Checks => ("`checks`", "checks.NAME.passed"),
                    Record::Check => ("a check", "checks.NAME.passed"),
                    Record::Unlocks => ("`unlocks`", "unlocks.PROGRAM.active"),
                    Record::Unlock => ("an unlock", "unlocks.PROGRAM.active"),
                    Record::Request => ("`request`", "request.lease"),
                };
                let place = if matches!(tree.expr, Expr::Select(_)) {
                    Anchor::Field
                } else {
                    Anchor::Here
                };
                wrong(
                    tree.id,
                    place,
                    format!("{name} is no value by itself: name a field, as {example}"),
                )
            }
            kind => Ok(kind),
        }
    }

    fn any(&mut self, tree: &mut Tree) -> Result<Kind, Wrong> {
        let id = tree.id;
        match &mut tree.expr {
            Expr::Unspecified => wrong(id, Anchor::Here, "is no expression"),
            Expr::Struct(_) => wrong(
                id,
                Anchor::Here,
                "makes a message: there are no types of messages",
            ),
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Kind::Bool,
                LiteralValue::Bytes(_) => Kind::Bytes,
                LiteralValue::Double(_) => Kind::Double,
                LiteralValue::Int(_) => Kind::Int,
                LiteralValue::Null => Kind::Null,
                LiteralValue::String(_) => Kind::Text,
                LiteralValue::UInt(_) => Kind::Uint,
            }),
            Expr::Ident(name) => {
                if let Some((_, kind)) = self.locals.iter().rev().find(|(local, _)| local == name) {
                    return Ok(kind.clone());
                }
                match self.scope.variable(name) {
                    Ok(kind) => {
                        self.named.time |= name == "now";
                        self.named.variables.insert(name.clone());
                        Ok(kind)
                    }
                    Err(problem) => wrong(id, Anchor::Here, problem),
                }
            }
            Expr::Select(select) => {
                let operand = self.any(&mut select.operand)?;
                let (field, test) = (select.field.clone(), select.test);
                let place = if test { Anchor::Tested } else { Anchor::Field };
                match operand {
                    Kind::Record(record) => {
                        let kind = self.field(record, &field, id, place, test)?;
                        Ok(if test { Kind::Bool } else { kind })
                    }
                    Kind::Labels | Kind::Map(_) | Kind::Any if test => Ok(Kind::Bool),
                    Kind::Labels => {
                        or_empty(tree, &field);
                        Ok(Kind::Text)
                    }
                    Kind::Map(of) => Ok(*of),
                    Kind::Any => Ok(Kind::Any),
                    kind => wrong(
                        id,
                        place,
                        format!("a value of type {} has no fields", kind.word()),
                    ),
                }
            }
            Expr::List(list) => {
                let mut kinds = Vec::new();
                for element in &mut list.elements {
                    kinds.push(self.value(element)?);
                }
                Ok(Kind::list(
                    kinds.into_iter().reduce(Kind::or).unwrap_or(Kind::Any),
                ))
            }
            Expr::Map(map) => {
                let mut kinds = Vec::new();
                for entry in &mut map.entries {
                    match &mut entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.value(&mut entry.key)?;
                            kinds.push(self.value(&mut entry.value)?);
                        }
                        EntryExpr::StructField(_) => return wrong(id, Anchor::Here, "is no map"),
                    }
                }
                Ok(Kind::Map(Box::new(
                    kinds.into_iter().reduce(Kind::or).unwrap_or(Kind::Any),
                )))
            }
            Expr::Comprehension(fold) => self.fold(id, fold),
            Expr::Call(call) if call.func_name == op::INDEX && call.args.len() == 2 => {
                let [of, index] = call.args.as_mut_slice() else {
                    return wrong(id, Anchor::Here, "is no index");
                };
                let kind = self.any(of)?;
                let by = self.value(index)?;
                let literal = match &index.expr {
                    Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_string()),
                    _ => None,
                };
                match (kind, literal) {
                    (Kind::Record(record), Some(field)) => {
                        let node = index.id;
                        // Selected rather than indexed: what is missing is told in the same way.
                        self.field(record, &field, node, Anchor::Here, false)
                    }
                    (Kind::Record(_), None) => wrong(
                        index.id,
                        Anchor::Here,
                        "a name in quotes is needed here: what an expression names is known when it is applied",
                    ),
                    (Kind::Labels, Some(field)) => {
                        or_empty(tree, &field);
                        Ok(Kind::Text)
                    }
                    (Kind::Labels, None) if by.meets(&Kind::Text) => Ok(Kind::Text),
                    (Kind::Map(of), _) => Ok(*of),
                    (Kind::List(of), _) if by.meets(&Kind::Int) => Ok(*of),
                    (Kind::Any, _) => Ok(Kind::Any),
                    (kind, _) => wrong(
                        id,
                        Anchor::Here,
                        format!(
                            "a value of type {} has no index of type {}",
                            kind.word(),
                            by.word()
                        ),
                    ),
                }
            }
            Expr::Call(call) => {
                let kind = self.call(id, call)?;
                let literal = matches!(
                    call.args.first().map(|arg| &arg.expr),
                    Some(Expr::Literal(LiteralValue::String(_)))
                );
                if literal && matches!(kind, Kind::Duration | Kind::Timestamp) && call.args.len() == 1 {
                    self.constants.push(tree.clone());
                }
                Ok(kind)
            }
        }
    }

    /// The type of a record's field, which is remembered.
    fn field(
        &mut self,
        record: Record,
        field: &str,
        node: u64,
        place: Anchor,
        test: bool,
    ) -> Result<Kind, Wrong> {
        let kind = match self.scope.field(record, field) {
            Ok(kind) => kind,
            Err(problem) => return wrong(node, place, problem),
        };
        match record {
            Record::Endpoint | Record::Unlock => self.named.time |= field == "age",
            Record::Check => self.named.detail |= field == "detail",
            Record::Checks => {
                self.named.checks.insert(field.to_string());
            }
            Record::Unlocks => {
                self.named.programs.insert(field.to_string());
            }
            Record::Evidence if !test => self.evidence.push((field.to_string(), node)),
            _ => {}
        }
        Ok(kind)
    }

    fn fold(&mut self, id: u64, fold: &mut ComprehensionExpr) -> Result<Kind, Wrong> {
        let item = match self.value(&mut fold.iter_range)? {
            Kind::List(of) => *of,
            Kind::Map(_) | Kind::Any => Kind::Any,
            Kind::Labels => Kind::Text,
            kind => {
                return wrong(
                    id,
                    Anchor::Function,
                    format!("a value of type {} has no items", kind.word()),
                );
            }
        };
        let name = fold.iter_var.clone();
        let taken = self.scope.variable(&name).is_ok() || self.locals.iter().any(|(local, _)| *local == name);
        if taken || fold.iter_var2.is_some() {
            return wrong(
                id,
                Anchor::Function,
                format!("`{name}` means something already: choose another name"),
            );
        }
        let first = self.value(&mut fold.accu_init)?;
        let outer = self.locals.len();
        self.locals.push((name, item));
        self.locals.push((fold.accu_var.clone(), first.clone()));
        let cond = self.value(&mut fold.loop_cond);
        let step = cond.and_then(|_| self.value(&mut fold.loop_step));
        let result = step.and_then(|step| {
            if let Some((_, kind)) = self.locals.last_mut() {
                // A list begins empty, of any type.
                *kind = if matches!(first, Kind::List(_)) {
                    step
                } else {
                    first
                };
            }
            self.value(&mut fold.result)
        });
        self.locals.truncate(outer);
        result
    }

    fn call(&mut self, id: u64, call: &mut CallExpr) -> Result<Kind, Wrong> {
        let member = call.target.is_some();
        let name = call.func_name.clone();
        let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.');
        if !is_operator && !known(&name, member) {
            let problem = if known(&name, !member) && member {
                format!("`{name}` is no method: write {name}(…)")
            } else if known(&name, !member) {
                format!("`{name}` is a method: write VALUE.{name}(…)")
            } else {
                format!("there is no function `{name}`")
            };
            return wrong(id, Anchor::Function, problem);
        }
        let mut kinds = Vec::new();
        if let Some(target) = &mut call.target {
            kinds.push(self.value(target)?);
        }
        for arg in &mut call.args {
            kinds.push(self.value(arg)?);
        }
        let result = if is_operator {
            operator(&name, &kinds)
        } else {
            function(&name, &kinds)
        };
        let Some(kind) = result else {
            let kinds: Vec<String> = kinds.iter().map(Kind::word).collect();
            let (place, what) = if is_operator {
                (
                    Anchor::Here,
                    name.replace('_', "").replace("?:", "? :").replace('@', ""),
                )
            } else {
                (Anchor::Function, name)
            };
            return wrong(
                id,
                place,
                format!("`{what}` does not go with {}", kinds.join(" and ")),
            );
        };
        if name == "matches"
            && let Some(pattern) = call.args.last()
        {
            let Expr::Literal(LiteralValue::String(text)) = &pattern.expr else {
                return wrong(
                    pattern.id,
                    Anchor::Here,
                    "a pattern in quotes is needed here: it is compiled when it is applied",
                );
            };
            if let Err(problem) = Pattern::anywhere(text.inner()) {
                return wrong(pattern.id, Anchor::Here, format!("the pattern {problem}"));
            }
        }
        Ok(kind)
    }
}

/// `labels.x` becomes `has(labels.x) ? labels.x : ""`.
fn or_empty(tree: &mut Tree, field: &str) {
    let labels = match std::mem::take(&mut tree.expr) {
        Expr::Select(select) => *select.operand,
        Expr::Call(call) => call.args.into_iter().next().unwrap_or_default(),
        _ => Tree::default(),
    };
    let id = tree.id;
    let select = |test| Tree {
        id,
        expr: Expr::Select(SelectExpr {
            operand: Box::new(labels.clone()),
            field: field.to_string(),
            test,
        }),
    };
    let empty = Tree {
        id,
        expr: Expr::Literal(LiteralValue::String(String::new().into())),
    };
    tree.expr = Expr::Call(CallExpr {
        func_name: op::CONDITIONAL.to_string(),
        target: None,
        args: vec![select(true), select(false), empty],
    });
}

fn known(name: &str, member: bool) -> bool {
    const FUNCTIONS: [&str; 9] = [
        "size",
        "duration",
        "timestamp",
        "string",
        "int",
        "uint",
        "double",
        "bool",
        "matches",
    ];
    const METHODS: [&str; 15] = [
        "size",
        "matches",
        "contains",
        "startsWith",
        "endsWith",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    ];
    if member {
        METHODS.contains(&name)
    } else {
        FUNCTIONS.contains(&name)
    }
}

/// The type of an operator's result, when it goes with the types.
fn operator(name: &str, kinds: &[Kind]) -> Option<Kind> {
    use Kind::{Any, Bool, Double, Duration, Int, Labels, List, Map, Text, Timestamp};
    let is = |kind: &Kind, wanted: &Kind| kind == wanted || *kind == Any;
    match (name, kinds) {
        (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [a]) => is(a, &Bool).then_some(Bool),
        (op::NEGATE, [a]) => (*a == Any || matches!(a, Int | Double | Duration)).then(|| a.clone()),
        (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => (is(a, &Bool) && is(b, &Bool)).then_some(Bool),
        (op::CONDITIONAL, [a, b, c]) => is(a, &Bool).then(|| b.clone().or(c.clone())),
        (op::EQUALS | op::NOT_EQUALS, [a, b]) => a.meets(b).then_some(Bool),
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            a.ordered(b).then_some(Bool)
        }
        (op::IN, [a, List(of)]) => a.meets(of).then_some(Bool),
        (op::IN, [a, Labels]) => is(a, &Text).then_some(Bool),
        (op::IN, [_, Map(_) | Any]) => Some(Bool),
        (_, [Any, _] | [_, Any]) => Some(Any),
        (op::ADD, [Timestamp, Duration] | [Duration, Timestamp]) => Some(Timestamp),
        (op::SUBSTRACT, [Timestamp, Timestamp]) => Some(Duration),
        (op::SUBSTRACT, [Timestamp, Duration]) => Some(Timestamp),
        (op::ADD | op::SUBSTRACT, [Duration, Duration]) => Some(Duration),
        (op::ADD, [List(a), List(b)]) => Some(Kind::list(if **a == Any {
            (**b).clone()
        } else {
            (**a).clone().or((**b).clone())
        })),
        (op::ADD, [a, b]) if a == b && matches!(a, Text | Kind::Bytes) => Some(a.clone()),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE, [a, b]) => {
            (a == b && a.is_number()).then(|| a.clone())
        }
        (op::MODULO, [a, b]) => (a == b && matches!(a, Int | Kind::Uint)).then(|| a.clone()),
        _ => None,
    }
}

/// The type of a function's result, when it goes with the types; a method's first type is what it is called on.
fn function(name: &str, kinds: &[Kind]) -> Option<Kind> {
    use Kind::{Any, Bool, Bytes, Double, Duration, Int, Labels, List, Map, Text, Timestamp, Uint};
    let all_text = || kinds.iter().all(|kind| matches!(kind, Text | Any));
    match (name, kinds) {
        ("size", [Text | Bytes | List(_) | Map(_) | Labels | Any]) => Some(Int),
        ("duration", [Text | Duration | Any]) => Some(Duration),
        ("timestamp", [Text | Int | Timestamp | Any]) => Some(Timestamp),
        ("string", [Text | Int | Uint | Double | Bool | Bytes | Duration | Timestamp | Any]) => Some(Text),
        ("int", [Text | Int | Uint | Double | Timestamp | Any]) => Some(Int),
        ("uint", [Text | Int | Uint | Double | Any]) => Some(Uint),
        ("double", [Text | Int | Uint | Double | Any]) => Some(Double),
        ("bool", [Text | Bool | Any]) => Some(Bool),
        ("matches" | "contains" | "startsWith" | "endsWith", [_, _]) => all_text().then_some(Bool),
        ("getHours" | "getMinutes" | "getSeconds" | "getMilliseconds", [Duration | Any]) => Some(Int),
        (name, [Timestamp | Any] | [Timestamp | Any, Text | Any]) if name.starts_with("get") => Some(Int),
        _ => None,
    }
}

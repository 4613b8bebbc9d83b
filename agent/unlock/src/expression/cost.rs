//! What an expression may cost, before it is evaluated: nothing in its evaluation could stop it.

use std::collections::BTreeMap;

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::parser::Expression as Tree;

use super::facts::Facts;

/// Most steps: well below a second.
pub(super) const MAX_COST: u64 = 1_000_000;
/// Bytes that are copied or compared in one step.
const BYTES_PER_STEP: u64 = 16;
/// Steps to compile a regular expression of one byte; its automaton is bounded where it is first read.
const COMPILE: u64 = 1_000;

/// How large a value can be.
#[derive(Debug, Clone, Default)]
struct Shape {
    /// Of a list or a map: how many it has.
    items: u64,
    bytes: u64,
    /// One item of it.
    item: Option<Box<Shape>>,
}

impl Shape {
    fn scalar(bytes: u64) -> Self {
        Shape {
            bytes,
            ..Shape::default()
        }
    }

    fn list(items: u64, item: Shape) -> Self {
        Shape {
            items,
            bytes: items.saturating_mul(item.bytes.saturating_add(BYTES_PER_STEP)),
            item: Some(Box::new(item)),
        }
    }

    /// An item of it; what is not known to have items is one itself.
    fn inner(&self) -> Shape {
        self.item
            .as_deref()
            .cloned()
            .unwrap_or_else(|| Shape::scalar(self.bytes))
    }

    /// A shape for either.
    fn or(self, other: Shape) -> Shape {
        Shape {
            items: self.items.max(other.items),
            bytes: self.bytes.max(other.bytes),
            item: either(self.item, other.item),
        }
    }

    /// A shape for both together.
    fn and(self, other: Shape) -> Shape {
        Shape {
            items: self.items.saturating_add(other.items),
            bytes: self.bytes.saturating_add(other.bytes),
            item: either(self.item, other.item),
        }
    }

    fn steps(&self) -> u64 {
        self.bytes / BYTES_PER_STEP + self.items + 1
    }
}

fn either(a: Option<Box<Shape>>, b: Option<Box<Shape>>) -> Option<Box<Shape>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Box::new(a.or(*b))),
        (a, b) => a.or(b),
    }
}

/// How large the facts are.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    labels: (u64, u64),
    addresses: u64,
    profiles: u64,
    text: u64,
}

impl Sizes {
    /// Larger than facts usually are: what an expression is held against when it is compiled.
    pub(super) fn usual() -> Self {
        Sizes {
            labels: (64, 255),
            addresses: 64,
            profiles: 64,
            text: 4 * 4096,
        }
    }

    pub(super) fn from_facts(facts: &Facts) -> Self {
        let endpoint = &facts.endpoint;
        let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0) as u64;
        let label = longest(&mut endpoint.labels.iter().flat_map(|(k, v)| [k.len(), v.len()]));
        let lists = endpoint.addresses.iter().chain(&endpoint.profiles);
        let text = longest(
            &mut facts
                .evidence
                .iter()
                .map(|(_, value)| value.to_string().len())
                .chain(lists.map(String::len))
                .chain(facts.checks.values().map(|check| check.detail.len()))
                .chain(facts.unlocks.values().map(|unlock| unlock.state.len()))
                .chain([facts.tenant.len(), endpoint.name.len(), 32]),
        );
        Sizes {
            labels: (endpoint.labels.len() as u64, label),
            addresses: endpoint.addresses.len() as u64,
            profiles: endpoint.profiles.len() as u64,
            text,
        }
    }

    /// Most steps that evaluating the tree takes.
    pub(super) fn cost(&self, tree: &Tree) -> u64 {
        let mut count = Count {
            sizes: self,
            locals: BTreeMap::new(),
            steps: 0,
        };
        count.shape(tree);
        count.steps
    }
}

struct Count<'a> {
    sizes: &'a Sizes,
    locals: BTreeMap<String, Shape>,
    steps: u64,
}

impl Count<'_> {
    fn spend(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    fn shape(&mut self, tree: &Tree) -> Shape {
        self.spend(1);
        match &tree.expr {
            Expr::Unspecified | Expr::Struct(_) => Shape::default(),
            Expr::Literal(literal) => Shape::scalar(match literal {
                LiteralValue::String(text) => text.inner().len() as u64,
                LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
                _ => 8,
            }),
            Expr::Ident(name) => {
                let local = self.locals.get(name).cloned();
                local.unwrap_or_else(|| Shape::scalar(self.sizes.text))
            }
            Expr::Select(select) => {
                let inner = self.shape(&select.operand);
                let endpoint = matches!(&select.operand.expr, Expr::Ident(name) if name == "endpoint");
                let (labels, label) = self.sizes.labels;
                match select.field.as_str() {
                    _ if select.test => Shape::scalar(1),
                    "labels" if endpoint => Shape::list(labels, Shape::scalar(label)),
                    "addresses" if endpoint => {
                        Shape::list(self.sizes.addresses, Shape::scalar(64.min(self.sizes.text)))
                    }
                    "profiles" if endpoint => {
                        Shape::list(self.sizes.profiles, Shape::scalar(64.min(self.sizes.text)))
                    }
                    _ => inner.inner(),
                }
            }
            Expr::List(list) => {
                let mut whole = Shape::default();
                for element in &list.elements {
                    let item = self.shape(element);
                    whole = whole.and(Shape::list(1, item));
                }
                whole
            }
            Expr::Map(map) => {
                let mut whole = Shape::default();
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        let item = self.shape(&entry.key).or(self.shape(&entry.value));
                        whole = whole.and(Shape::list(1, item));
                    }
                }
                whole
            }
            Expr::Call(call) => {
                let mut args: Vec<Shape> = call.target.iter().map(|target| self.shape(target)).collect();
                args.extend(call.args.iter().map(|arg| self.shape(arg)).collect::<Vec<_>>());
                let all = args.iter().map(Shape::steps).fold(0, u64::saturating_add);
                match (call.func_name.as_str(), args.as_slice()) {
                    (operators::CONDITIONAL, [_, yes, no]) => yes.clone().or(no.clone()),
                    (operators::ADD, [a, b]) => {
                        self.spend(all);
                        a.clone().and(b.clone())
                    }
                    (operators::INDEX, [of, _]) => of.inner(),
                    ("matches", [_, pattern]) => {
                        let compile = pattern.bytes.saturating_mul(COMPILE);
                        self.spend(all.saturating_mul(BYTES_PER_STEP).saturating_add(compile));
                        Shape::scalar(1)
                    }
                    ("string", [of]) => {
                        self.spend(all);
                        Shape::scalar(of.bytes.max(64))
                    }
                    _ => {
                        self.spend(all);
                        Shape::scalar(16)
                    }
                }
            }
            Expr::Comprehension(fold) => {
                let range = self.shape(&fold.iter_range);
                let first = self.shape(&fold.accu_init);
                let outer = [
                    self.locals.insert(fold.iter_var.clone(), range.inner()),
                    self.locals.insert(fold.accu_var.clone(), first.clone()),
                ];
                let before = std::mem::take(&mut self.steps);
                self.shape(&fold.loop_cond);
                let step = self.shape(&fold.loop_step);
                self.spend(1);
                let turn = std::mem::replace(&mut self.steps, before);
                self.spend(turn.saturating_mul(range.items));
                // Accumulators are a yes or no, a number, or a list that grows by one step's items each time.
                let grown = if matches!(&fold.accu_init.expr, Expr::List(_)) {
                    Shape {
                        items: step.items.saturating_mul(range.items),
                        bytes: step.bytes.saturating_mul(range.items),
                        item: step.item,
                    }
                } else {
                    first
                };
                self.locals.insert(fold.accu_var.clone(), grown);
                let result = self.shape(&fold.result);
                for (name, was) in [&fold.iter_var, &fold.accu_var].into_iter().zip(outer) {
                    match was {
                        Some(shape) => self.locals.insert(name.clone(), shape),
                        None => self.locals.remove(name),
                    };
                }
                result
            }
        }
    }
}

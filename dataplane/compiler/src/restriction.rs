//! Restrictions that a P4 program sets on the rows of its tables, in the language of p4-constraints, and whether a row keeps
//! them.
//!
//! The types of the language are followed: a key that is not exact equals a number when it matches that number alone, and
//! numbers wrap to the width of the key that they are compared with. What a row leaves to its device, such as the number of an
//! attachment's port, is not known, and a restriction that hangs on it is not broken.

use portcullis_policy::Family;

use crate::model::{Field, MatchKind};
use crate::row::{FieldMatch, Row, ones};

/// A restriction of a table, as it stands in the P4Info: one of those that semicolons separate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Restriction {
    /// As the P4Info has it, without comments.
    pub text: String,
    /// What it demands, or why it cannot be read.
    pub demand: Result<Expression, String>,
}

/// A match field that a restriction names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// What rows call it; `None` where rows leave it open.
    pub field: Option<Field>,
    /// The IP version of rows that name it, where there is a field for each.
    pub family: Option<Family>,
    /// The kind of match, which decides what parts it has.
    pub kind: MatchKind,
    /// Its width in bits.
    pub width: u16,
}

/// A part of a match.
#[allow(missing_docs, reason = "they are called as in the language")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Value,
    Mask,
    PrefixLength,
    Low,
    High,
}

/// How two values compare.
#[allow(missing_docs, reason = "they are called as in the language")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// An expression of the language.
#[allow(missing_docs, reason = "they are called as in the language")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expression {
    Bool(bool),
    /// A number, or an address.
    Number(u128),
    /// A match field as a whole: compared with a number, it is a match of that number alone.
    Key(KeyName),
    /// One value of a match field.
    Part(KeyName, Part),
    Priority,
    Not(Box<Expression>),
    Minus(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Implies(Box<Expression>, Box<Expression>),
    Compare(Box<Expression>, Comparison, Box<Expression>),
}

/// The value of an expression for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Bool(bool),
    /// A number without a width.
    Int {
        negative: bool,
        size: u128,
    },
    /// A number of this many bits.
    Bits(u128, u16),
    /// A match of this width: its two halves are value and mask, or low and high.
    Match(u128, u128, u16, MatchKind),
    /// One value of this many bits in all of them, which is not known here.
    Whole(u16),
    Unknown,
}

impl Restriction {
    /// Whether a row breaks it. One that cannot be read is broken by none.
    pub fn is_broken_by(&self, row: &Row) -> bool {
        let value = self.demand.as_ref().ok().map(|demand| demand.value(row));
        value == Some(Value::Bool(false))
    }
}

impl Expression {
    /// `Unknown` also where the types of the language forbid the expression.
    fn value(&self, row: &Row) -> Value {
        let truth = |e: &Expression| e.value(row).truth();
        match self {
            Expression::Bool(truth) => Value::Bool(*truth),
            Expression::Number(size) => Value::Int {
                negative: false,
                size: *size,
            },
            Expression::Key(key) => key.matched(row),
            Expression::Part(key, part) => key.matched(row).part(*part),
            Expression::Priority => Value::Int {
                negative: false,
                size: row.priority.into(),
            },
            Expression::Not(inner) => truth(inner).map_or(Value::Unknown, |t| Value::Bool(!t)),
            Expression::Minus(inner) => match inner.value(row) {
                Value::Int { negative, size } => Value::Int {
                    negative: !negative && size != 0,
                    size,
                },
                _ => Value::Unknown,
            },
            Expression::And(a, b) => known(match (truth(a), truth(b)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            }),
            Expression::Or(a, b) => known(either(truth(a), truth(b))),
            Expression::Implies(a, b) => known(either(truth(a).map(|t| !t), truth(b))),
            Expression::Compare(a, how, b) => known(compare(a.value(row), *how, b.value(row))),
        }
    }
}

fn either(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

fn known(truth: Option<bool>) -> Value {
    truth.map_or(Value::Unknown, Value::Bool)
}

impl KeyName {
    /// What a row says about it.
    fn matched(&self, row: &Row) -> Value {
        let named = row.keys.iter().find(|(field, _)| Some(*field) == self.field);
        let of_other = self.family.is_some() && row.family() != self.family;
        let (first, second) = match named.filter(|_| !of_other).map(|(_, given)| given) {
            Some(FieldMatch::Attachment(_)) => return Value::Whole(self.width),
            Some(FieldMatch::Masked { value, mask }) => {
                // Addresses are whole in rows; a key of 64 bits has the first ones.
                let cut = self.field.map_or(0, |field| field.low_bits_missing(self.width));
                (value.unbounded_shr(cut), mask.unbounded_shr(cut))
            }
            Some(FieldMatch::Range { low, high }) => (*low, *high),
            None if self.kind == MatchKind::Range => (0, ones(self.width)),
            None => (0, 0),
        };
        match self.kind {
            MatchKind::Exact => Value::Bits(first, self.width),
            kind => Value::Match(first, second, self.width, kind),
        }
    }
}

impl Value {
    fn truth(self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(truth),
            // A key of type bool has one bit.
            Value::Bits(value, 1) => Some(value == 1),
            _ => None,
        }
    }

    fn part(self, part: Part) -> Value {
        use MatchKind::{Lpm, Optional, Range, Ternary};
        match (self, part) {
            (Value::Bits(..), Part::Value) => self,
            (Value::Match(value, _, width, Ternary | Optional | Lpm), Part::Value) => {
                Value::Bits(value, width)
            }
            (Value::Match(_, mask, width, Ternary | Optional), Part::Mask) => Value::Bits(mask, width),
            (Value::Match(_, mask, _, Lpm), Part::PrefixLength) => Value::Int {
                negative: false,
                size: mask.count_ones().into(),
            },
            (Value::Whole(width), Part::Mask) => Value::Bits(ones(width), width),
            (Value::Whole(width), Part::PrefixLength) => Value::Int {
                negative: false,
                size: width.into(),
            },
            (Value::Match(low, _, width, Range), Part::Low) => Value::Bits(low, width),
            (Value::Match(_, high, width, Range), Part::High) => Value::Bits(high, width),
            _ => Value::Unknown,
        }
    }

    /// A number in this many bits, the higher ones cut off.
    fn bits(self, width: u16) -> Option<u128> {
        let all = ones(width);
        match self {
            Value::Bool(truth) => Some(truth.into()),
            Value::Bits(value, _) => Some(value & all),
            Value::Int {
                negative: false,
                size,
            } => Some(size & all),
            Value::Int { negative: true, size } => Some(size.wrapping_neg() & all),
            Value::Match(..) | Value::Whole(_) | Value::Unknown => None,
        }
    }
}

/// `None` where something is not known or the types do not fit.
fn compare(a: Value, how: Comparison, b: Value) -> Option<bool> {
    use std::cmp::Ordering;
    let order = match (a, b) {
        (Value::Match(first, second, ..), Value::Match(other, others, ..)) => {
            return equality((first, second) == (other, others), how);
        }
        (Value::Match(first, second, width, kind), number)
        | (number, Value::Match(first, second, width, kind)) => {
            let number = number.bits(width)?;
            let whole = if kind == MatchKind::Range {
                number
            } else {
                ones(width)
            };
            return equality((first, second) == (number, whole), how);
        }
        (Value::Bits(_, width), _) | (_, Value::Bits(_, width)) => a.bits(width)?.cmp(&b.bits(width)?),
        (Value::Bool(a), Value::Bool(b)) => return equality(a == b, how),
        (Value::Int { .. }, Value::Int { .. }) => signed(a)?.cmp(&signed(b)?),
        _ => return None,
    };
    Some(match how {
        Comparison::Equal => order == Ordering::Equal,
        Comparison::Unequal => order != Ordering::Equal,
        Comparison::Less => order == Ordering::Less,
        Comparison::AtMost => order != Ordering::Greater,
        Comparison::More => order == Ordering::Greater,
        Comparison::AtLeast => order != Ordering::Less,
    })
}

fn equality(equal: bool, how: Comparison) -> Option<bool> {
    match how {
        Comparison::Equal => Some(equal),
        Comparison::Unequal => Some(!equal),
        _ => None,
    }
}

/// Sign and size in an order: negative numbers by size downwards.
fn signed(value: Value) -> Option<(bool, u128)> {
    match value {
        Value::Int { negative: true, size } => Some((false, u128::MAX - size)),
        Value::Int {
            negative: false,
            size,
        } => Some((true, size)),
        _ => None,
    }
}

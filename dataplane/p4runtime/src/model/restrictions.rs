//! Reads the restrictions that a P4 program sets on rows: `@entry_restriction` in the language of p4-constraints (its language
//! specification, "Grammar" and "Precedence and Associativity").

use portcullis_compiler::model::{Field, MatchKind};
use portcullis_compiler::restriction::{Comparison, Expression, KeyName, Part, Restriction};
use portcullis_policy::{Family, MacAddr};
use portcullis_proto::p4::config::v1::{MatchField, Table};

use super::shown;
use super::table::kind;

/// Parentheses, negations and operators within each other.
const DEPTH: u32 = 64;

/// Restrictions of one table.
const RESTRICTIONS: usize = 256;

/// Tokens of one restriction.
const TOKENS: usize = 2_000;

/// Ids of match fields, what they are, and their IP version.
type BoundFields = [(u32, Field, Option<Family>)];

/// The restrictions of a table; those that cannot be read with the reason.
pub(super) fn of_table(table: &Table, bound: &BoundFields) -> Vec<Restriction> {
    let annotations = table.preamble.iter().flat_map(|p| &p.annotations);
    let own = annotations.filter_map(|text| text.trim_start().strip_prefix("@entry_restriction"));
    let own = own.filter(|text| text.trim_start().starts_with('('));
    let mut list: Vec<Restriction> = own
        .flat_map(|text| match literals(text) {
            Some(text) => conjuncts(&text, table, bound),
            None => vec![Restriction {
                text: shown(text.trim()),
                demand: Err("it is not a string in parentheses".to_string()),
            }],
        })
        .take(RESTRICTIONS + 1)
        .collect();
    if list.len() > RESTRICTIONS {
        list.truncate(RESTRICTIONS);
        list.push(Restriction {
            text: "the rest".to_string(),
            demand: Err(format!("a table may have {RESTRICTIONS} restrictions")),
        });
    }
    list
}

/// The text of `("…" "…")`: literals that follow each other are one.
fn literals(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    let mut joined = String::new();
    let mut characters = inner.trim().chars();
    loop {
        match characters.by_ref().find(|c| !c.is_whitespace()) {
            None => return Some(joined),
            Some('"') => {}
            Some(_) => return None,
        }
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => match characters.next()? {
                    'n' => joined.push('\n'),
                    't' => joined.push('\t'),
                    other => joined.push(other),
                },
                other => joined.push(other),
            }
        }
    }
}

/// A token of the language.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Number(u128),
    Text(String),
    Sign(&'static str),
}

const SIGNS: [&str; 16] = [
    "&&", "||", "->", "::", "==", "!=", ">=", "<=", "!", "(", ")", ">", "<", ".", ";", "-",
];

/// Without comments: `//` to the end of the line, `/* */`.
fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, comment) = rest.split_at(at);
        plain.push_str(before);
        let end = match comment.as_bytes().get(1) {
            Some(b'/') => comment.find('\n').unwrap_or(comment.len()),
            Some(b'*') => comment
                .get(2..)
                .and_then(|c| c.find("*/"))
                .map_or(comment.len(), |n| n + 4),
            _ => {
                plain.push('/');
                rest = comment.get(1..).unwrap_or("");
                continue;
            }
        };
        plain.push(' ');
        rest = comment.get(end..).unwrap_or("");
    }
    plain + rest
}

fn number(text: &str) -> Option<u128> {
    let (digits, radix) = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (text.get(2..)?, 16),
        Some("0b") => (text.get(2..)?, 2),
        Some("0o") => (text.get(2..)?, 8),
        Some("0d") => (text.get(2..)?, 10),
        _ => (text, 10),
    };
    u128::from_str_radix(digits, radix).ok()
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut list = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let while_in = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
        let (token, length) = if first == '\'' {
            let inner = rest.get(1..).unwrap_or("");
            let end = inner.find('\'').ok_or("a string has no end")?;
            (Token::Text(inner.get(..end).unwrap_or("").to_string()), end + 2)
        } else if first.is_ascii_alphanumeric() || first == '_' {
            let end = while_in(|c| c.is_ascii_alphanumeric() || c == '_');
            let word = rest.get(..end).unwrap_or("");
            let token = match first.is_ascii_digit() {
                true => Token::Number(number(word).ok_or_else(|| format!("`{}` is no number", shown(word)))?),
                false => Token::Name(word.to_string()),
            };
            (token, end)
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("`{}` has no meaning", shown(&first.to_string())))?;
            (Token::Sign(sign), sign.len())
        };
        list.push(token);
        if list.len() > TOKENS {
            return Err(format!("it has more than {TOKENS} words and signs"));
        }
        rest = rest.get(length..).unwrap_or("").trim_start();
    }
    Ok(list)
}

/// What semicolons separate, each for itself.
fn conjuncts(text: &str, table: &Table, bound: &BoundFields) -> Vec<Restriction> {
    let plain = without_comments(text);
    let mut open = 0u32;
    let parts = plain.split(|c| {
        match c {
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            _ => {}
        }
        c == ';' && open == 0
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let demand = tokens(part).and_then(|tokens| {
                let mut parser = Parser {
                    tokens: tokens.into_iter().collect(),
                    table,
                    bound,
                    depth: 0,
                };
                let demand = parser.implication()?;
                match parser.tokens.front() {
                    None => Ok(demand),
                    Some(token) => Err(format!("there is more behind its end: {}", named(Some(token)))),
                }
            });
            let words: Vec<&str> = part.split_whitespace().collect();
            Restriction {
                text: shown(&words.join(" ")),
                demand,
            }
        })
        .collect()
}

fn named(token: Option<&Token>) -> String {
    match token {
        None => "the end".to_string(),
        Some(Token::Name(name)) => format!("`{}`", shown(name)),
        Some(Token::Number(number)) => format!("`{number}`"),
        Some(Token::Text(text)) => format!("'{}'", shown(text)),
        Some(Token::Sign(sign)) => format!("`{sign}`"),
    }
}

/// What is left to read of one restriction.
struct Parser<'a> {
    tokens: std::collections::VecDeque<Token>,
    table: &'a Table,
    bound: &'a BoundFields,
    depth: u32,
}

impl Parser<'_> {
    fn take(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.tokens.front(), Some(Token::Sign(next)) if *next == sign);
        if is_next {
            self.tokens.pop_front();
        }
        is_next
    }

    /// What semicolons separate within parentheses; the last one may stand alone.
    fn sequence(&mut self) -> Result<Expression, String> {
        let mut left = self.implication()?;
        while self.take(";") && self.tokens.front() != Some(&Token::Sign(")")) {
            left = Expression::And(Box::new(left), Box::new(self.implication()?));
        }
        Ok(left)
    }

    fn implication(&mut self) -> Result<Expression, String> {
        let condition = self.disjunction()?;
        if !self.take("->") {
            return Ok(condition);
        }
        let then = self.disjunction()?;
        match self.tokens.front() {
            Some(Token::Sign("->")) => Err("`->` stands behind `->` without parentheses".to_string()),
            _ => Ok(Expression::Implies(Box::new(condition), Box::new(then))),
        }
    }

    fn disjunction(&mut self) -> Result<Expression, String> {
        let mut left = self.conjunction()?;
        while self.take("||") {
            left = Expression::Or(Box::new(left), Box::new(self.conjunction()?));
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Result<Expression, String> {
        let mut left = self.comparison()?;
        while self.take("&&") {
            left = Expression::And(Box::new(left), Box::new(self.comparison()?));
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let left = self.unary()?;
        let how = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let Some((_, how)) = how.into_iter().find(|(sign, _)| self.take(sign)) else {
            return Ok(left);
        };
        let right = self.unary()?;
        Ok(Expression::Compare(Box::new(left), how, Box::new(right)))
    }

    fn unary(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!(
                "more than {DEPTH} parentheses and signs are within each other"
            ));
        }
        let read = if self.take("!") {
            self.unary().map(|inner| Expression::Not(Box::new(inner)))
        } else if self.take("-") {
            self.unary().map(|inner| Expression::Minus(Box::new(inner)))
        } else if self.take("(") {
            let inner = self.sequence()?;
            match self.take(")") {
                true => Ok(inner),
                false => Err(format!("{} stands where `)` should", named(self.tokens.front()))),
            }
        } else {
            self.primary()
        };
        self.depth -= 1;
        read
    }

    fn primary(&mut self) -> Result<Expression, String> {
        match self.tokens.pop_front() {
            Some(Token::Number(number)) => Ok(Expression::Number(number)),
            Some(Token::Name(name)) if name == "true" => Ok(Expression::Bool(true)),
            Some(Token::Name(name)) if name == "false" => Ok(Expression::Bool(false)),
            Some(Token::Name(name)) if self.take("(") => self.address(&name),
            Some(Token::Name(name)) => self.key(name),
            Some(Token::Sign("::")) => match self.tokens.pop_front() {
                Some(Token::Name(name)) if name == "priority" => Ok(Expression::Priority),
                other => Err(format!("{} is no attribute of rows", named(other.as_ref()))),
            },
            other => Err(format!("{} stands where a value should", named(other.as_ref()))),
        }
    }

    /// `ipv4('192.0.2.1')`, `ipv6('2001:db8::')`, `mac('02:00:00:00:00:01')`, behind the first parenthesis.
    fn address(&mut self, kind: &str) -> Result<Expression, String> {
        let text = match self.tokens.pop_front() {
            Some(Token::Text(text)) if self.take(")") => text,
            other => return Err(format!("{} is no address", named(other.as_ref()))),
        };
        let number = match kind {
            "ipv4" => text
                .parse::<std::net::Ipv4Addr>()
                .ok()
                .map(|a| u32::from(a).into()),
            "ipv6" => text.parse::<std::net::Ipv6Addr>().ok().map(u128::from),
            "mac" => text.parse::<MacAddr>().ok().map(|mac| mac.to_u64().into()),
            _ => None,
        };
        let number = number.ok_or_else(|| format!("`{}('{}')` is no address", shown(kind), shown(&text)))?;
        Ok(Expression::Number(number))
    }

    /// A match field, and the part of it that `::` names. The names of fields have dots in them.
    fn key(&mut self, first: String) -> Result<Expression, String> {
        let mut name = first;
        while self.take(".") {
            match self.tokens.pop_front() {
                Some(Token::Name(next)) => name = format!("{name}.{next}"),
                other => return Err(format!("{} stands where a name should", named(other.as_ref()))),
            }
        }
        let field = self.table.match_fields.iter().find(|f| f.name == name);
        let key = field.and_then(|field| self.known(field));
        let key = key.ok_or_else(|| format!("there is no match field `{}`", shown(&name)))?;
        if !self.take("::") {
            return Ok(Expression::Key(key));
        }
        let part = match self.tokens.pop_front() {
            Some(Token::Name(part)) => part,
            other => return Err(format!("{} is no part of a match", named(other.as_ref()))),
        };
        let part = match (part.as_str(), key.kind) {
            ("value", MatchKind::Exact | MatchKind::Ternary | MatchKind::Optional | MatchKind::Lpm) => {
                Part::Value
            }
            ("mask", MatchKind::Ternary | MatchKind::Optional) => Part::Mask,
            ("prefix_length", MatchKind::Lpm) => Part::PrefixLength,
            ("low", MatchKind::Range) => Part::Low,
            ("high", MatchKind::Range) => Part::High,
            (part, kind) => return Err(format!("a match that is `{kind}` has no `{}`", shown(part))),
        };
        Ok(Expression::Part(key, part))
    }

    fn known(&self, field: &MatchField) -> Option<KeyName> {
        let bound = self.bound.iter().find(|(id, ..)| *id == field.id);
        Some(KeyName {
            field: bound.map(|(_, field, _)| *field),
            family: bound.and_then(|(.., family)| *family),
            kind: kind(field)?,
            // A field of type bool has no width of its own; one that is translated to a string is never known.
            width: u16::try_from(field.bitwidth).ok().filter(|w| *w <= 128)?.max(1),
        })
    }
}

#[cfg(test)]
mod tests;

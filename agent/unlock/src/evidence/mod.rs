//! Evidence: typed values that a customer submits, and the rules they open.

mod open;
mod pattern;
mod read;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use chrono::NaiveDate;
use ipnet::IpNet;
use portcullis_policy::{EvidenceField, FieldError, MAX_EVIDENCE, Program};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use open::rules;
pub(crate) use pattern::Pattern;
pub(crate) use read::day;
pub use words::{Asked, constraint, describe};

/// Most unknown names that are reported one by one.
const MAX_UNKNOWN: usize = 16;
/// Most characters of an unknown name that are repeated.
const MAX_NAME: usize = 63;

/// A value that was found good, in its normal form: parsing what it prints gives the same value.
///
/// `Debug` tells the type alone, for it may be a secret; `Display` is the value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Value {
    /// Text without white space around it.
    Text(String),
    /// A whole number of 64 bits.
    Integer(i64),
    /// Yes or no, printed `true` or `false`.
    Boolean(bool),
    /// A host name in lower case and ASCII, without a dot at its end.
    Hostname(String),
    /// An e-mail address; its domain is as a host name is.
    Email(String),
    /// A URL in the form the URL standard prints.
    Url(String),
    /// An address; an IPv4 address is never written as an IPv6 one.
    Address(IpAddr),
    /// A prefix without host bits.
    Prefix(IpNet),
    /// One of the program's words.
    Enum(String),
    /// A calendar day without a time zone.
    Date(NaiveDate),
}

impl Value {
    /// Its type, as in documents.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "text",
            Value::Integer(_) => "integer",
            Value::Boolean(_) => "boolean",
            Value::Hostname(_) => "hostname",
            Value::Email(_) => "email",
            Value::Url(_) => "url",
            Value::Address(_) => "address",
            Value::Prefix(_) => "prefix",
            Value::Enum(_) => "enum",
            Value::Date(_) => "date",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text)
            | Value::Hostname(text)
            | Value::Email(text)
            | Value::Url(text)
            | Value::Enum(text) => f.write_str(text),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Boolean(yes) => write!(f, "{yes}"),
            Value::Address(address) => write!(f, "{address}"),
            Value::Prefix(prefix) => write!(f, "{prefix}"),
            Value::Date(day) => write!(f, "{}", day.format("%Y-%m-%d")),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(…)", self.kind())
    }
}

/// A value, and whether it may be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    #[serde(flatten)]
    value: Value,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.secret {
            f.write_str("secret")
        } else {
            write!(f, "{}({:?})", self.value.kind(), self.value.to_string())
        }
    }
}

/// What was submitted under a program. `Debug` does not print secrets; what serde writes holds them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence(BTreeMap<String, Item>);

impl Evidence {
    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(|item| &item.value)
    }

    /// Every value with its name, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, item)| (name.as_str(), &item.value))
    }

    /// Whether a value was marked secret when it was submitted.
    pub fn is_secret(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|item| item.secret)
    }

    /// Whether nothing was submitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may be shown: without secrets, those of then and those that the program marks now.
    pub fn shown(&self, program: &Program) -> BTreeMap<String, String> {
        let hidden = |name: &str| program.evidence.iter().any(|f| f.secret && f.name == name);
        self.0
            .iter()
            .filter(|(name, item)| !item.secret && !hidden(name))
            .map(|(name, item)| (name.clone(), item.value.to_string()))
            .collect()
    }

    /// What submitting it again would take, secrets included: for a renewal, or a program that follows.
    pub fn submitted(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .map(|(name, item)| (name.clone(), item.value.to_string()))
            .collect()
    }

    /// SHA-256 over every name, type and value, each after its length: equal evidence, equal digest.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"portcullis evidence 1");
        for (name, item) in &self.0 {
            for part in [name.as_str(), item.value.kind(), &item.value.to_string()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
        }
        hash.finalize().into()
    }
}

/// Whether a text says nothing: white space around a value is no part of it.
fn blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// The evidence that the program requires and that was not submitted, or only as white space.
pub fn missing<'a>(program: &'a Program, submitted: &BTreeMap<String, String>) -> Vec<&'a EvidenceField> {
    program
        .evidence
        .iter()
        .filter(|field| field.required && submitted.get(&field.name).is_none_or(|text| blank(text)))
        .collect()
}

/// Reads what was submitted, or reports everything that is wrong with it. White space around a value is not part
/// of it, and a value of white space counts as not submitted. Errors never repeat the value of a secret.
pub fn parse(program: &Program, submitted: &BTreeMap<String, String>) -> Result<Evidence, Vec<FieldError>> {
    let mut evidence = BTreeMap::new();
    let mut errors = Vec::new();
    for field in &program.evidence {
        let path = format!("evidence.{}", field.name);
        let text = submitted.get(&field.name).map_or("", |text| text.trim());
        if text.is_empty() {
            if field.required {
                let problem = format!("is missing: submit {}", constraint(field));
                errors.push(FieldError { path, problem });
            }
            continue;
        }
        let read = if text.chars().count() > MAX_EVIDENCE as usize {
            Err(format!("is longer than {MAX_EVIDENCE} characters"))
        } else {
            read::value(&field.kind, text)
        };
        match read {
            Ok(value) => {
                let item = Item {
                    value,
                    secret: field.secret,
                };
                evidence.insert(field.name.clone(), item);
            }
            Err(_) if field.secret => errors.push(FieldError {
                path,
                problem: format!("is not {}", constraint(field)),
            }),
            Err(problem) => errors.push(FieldError { path, problem }),
        }
    }
    errors.extend(unknown(program, submitted));
    if errors.is_empty() {
        Ok(Evidence(evidence))
    } else {
        Err(errors)
    }
}

/// What was submitted and is not asked for.
fn unknown(program: &Program, submitted: &BTreeMap<String, String>) -> Vec<FieldError> {
    let asked = || program.evidence.iter().map(|f| f.name.as_str());
    let names: Vec<&String> = submitted
        .keys()
        .filter(|name| asked().all(|a| a != *name))
        .collect();
    let known = match asked().collect::<Vec<_>>().join(", ") {
        names if names.is_empty() => "asks for nothing".to_string(),
        names => format!("asks for {names}"),
    };
    let mut errors: Vec<FieldError> = names
        .iter()
        .take(MAX_UNKNOWN)
        .map(|name| {
            let name: String = name
                .chars()
                .take(MAX_NAME)
                .flat_map(char::escape_default)
                .collect();
            FieldError {
                path: format!("evidence.{name}"),
                problem: format!("is not asked for: the program {known}"),
            }
        })
        .collect();
    if let Some(more) = names.len().checked_sub(MAX_UNKNOWN).filter(|more| *more > 0) {
        errors.push(FieldError {
            path: "evidence".to_string(),
            problem: format!("has {more} more that are not asked for"),
        });
    }
    errors
}

#[cfg(test)]
mod tests;

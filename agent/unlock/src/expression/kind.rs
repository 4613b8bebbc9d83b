//! Static types of the values that expressions can see.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_policy::{EvidenceType, Program};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not known before it is evaluated.
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Kind>),
    Map(Box<Kind>),
    /// `endpoint.labels`: a map in which what is missing is an empty text.
    Labels,
    /// Something whose fields are known: no value by itself.
    Record(Record),
}

/// Something whose fields are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Endpoint,
    Evidence,
    Checks,
    Check,
    Unlocks,
    Unlock,
    Request,
}

impl Kind {
    pub(super) fn list(of: Kind) -> Kind {
        Kind::List(Box::new(of))
    }

    /// Its name in errors.
    pub(super) fn word(&self) -> String {
        match self {
            Kind::Any => "any".to_string(),
            Kind::Null => "null".to_string(),
            Kind::Bool => "bool".to_string(),
            Kind::Int => "int".to_string(),
            Kind::Uint => "uint".to_string(),
            Kind::Double => "double".to_string(),
            Kind::Text => "string".to_string(),
            Kind::Bytes => "bytes".to_string(),
            Kind::Duration => "duration".to_string(),
            Kind::Timestamp => "timestamp".to_string(),
            Kind::List(of) => format!("list of {}", of.word()),
            Kind::Map(of) => format!("map to {}", of.word()),
            Kind::Labels => "map to string".to_string(),
            Kind::Record(_) => "record".to_string(),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Kind::Int | Kind::Uint | Kind::Double)
    }

    /// Whether a value of one can equal a value of the other.
    pub(super) fn meets(&self, other: &Kind) -> bool {
        match (self, other) {
            (Kind::Any, _) | (_, Kind::Any) => true,
            (Kind::List(a), Kind::List(b)) | (Kind::Map(a), Kind::Map(b)) => a.meets(b),
            (Kind::Labels, Kind::Map(of)) | (Kind::Map(of), Kind::Labels) => of.meets(&Kind::Text),
            (a, b) => a == b || (a.is_number() && b.is_number()),
        }
    }

    /// Whether values of the two are one below the other.
    pub(super) fn ordered(&self, other: &Kind) -> bool {
        let has_order = |kind: &Kind| {
            kind.is_number()
                || matches!(
                    kind,
                    Kind::Any | Kind::Bool | Kind::Text | Kind::Bytes | Kind::Duration | Kind::Timestamp
                )
        };
        has_order(self) && has_order(other) && self.meets(other)
    }

    /// A type for either.
    pub(super) fn or(self, other: Kind) -> Kind {
        if self == other { self } else { Kind::Any }
    }
}

/// What a program's expressions may name.
#[derive(Debug, Clone)]
pub struct Scope {
    evidence: BTreeMap<String, Kind>,
    checks: BTreeSet<String>,
    programs: BTreeSet<String>,
}

impl Scope {
    /// What the program's expressions may name, in a document with these programs.
    pub fn new<'a>(program: &Program, programs: impl IntoIterator<Item = &'a str>) -> Self {
        let kind = |kind: &EvidenceType| match kind {
            EvidenceType::Integer { .. } => Kind::Int,
            EvidenceType::Boolean { .. } => Kind::Bool,
            EvidenceType::Date { .. } => Kind::Timestamp,
            _ => Kind::Text,
        };
        Scope {
            evidence: program
                .evidence
                .iter()
                .map(|field| (field.name.clone(), kind(&field.kind)))
                .collect(),
            checks: program
                .checks
                .iter()
                .map(|check| check.name().to_string())
                .collect(),
            programs: programs.into_iter().map(str::to_string).collect(),
        }
    }

    /// The type of a variable.
    pub(super) fn variable(&self, name: &str) -> Result<Kind, String> {
        Ok(match name {
            "endpoint" => Kind::Record(Record::Endpoint),
            "evidence" => Kind::Record(Record::Evidence),
            "checks" => Kind::Record(Record::Checks),
            "unlocks" => Kind::Record(Record::Unlocks),
            "request" => Kind::Record(Record::Request),
            "tenant" => Kind::Text,
            "now" => Kind::Timestamp,
            _ => {
                return Err(format!(
                    "there is no variable `{name}`: there are {}",
                    super::VARIABLES.join(", ")
                ));
            }
        })
    }

    /// The type of a field.
    pub(super) fn field(&self, record: Record, name: &str) -> Result<Kind, String> {
        const ENDPOINT: &[&str] = &["name", "labels", "age", "addresses", "profiles"];
        const CHECK: &[&str] = &["result", "passed", "detail"];
        const UNLOCK: &[&str] = &["active", "state", "age", "revocations"];
        let listed = |what: &str, names: &mut dyn Iterator<Item = &str>| {
            let mut names: Vec<&str> = names.collect();
            let more = if names.len() > 16 { ", …" } else { "" };
            names.truncate(16);
            match names.join(", ") {
                names if names.is_empty() => format!("there is no {what} `{name}`: there is none at all"),
                names => format!("there is no {what} `{name}`: there are {names}{more}"),
            }
        };
        let known = match (record, name) {
            (Record::Endpoint, "name") => Some(Kind::Text),
            (Record::Endpoint, "labels") => Some(Kind::Labels),
            (Record::Endpoint, "age") => Some(Kind::Duration),
            (Record::Endpoint, "addresses" | "profiles") => Some(Kind::list(Kind::Text)),
            (Record::Check, "result" | "detail") => Some(Kind::Text),
            (Record::Check, "passed") => Some(Kind::Bool),
            (Record::Unlock, "active") => Some(Kind::Bool),
            (Record::Unlock, "state") => Some(Kind::Text),
            (Record::Unlock, "age") => Some(Kind::Duration),
            (Record::Unlock, "revocations") => Some(Kind::Int),
            (Record::Request, "lease") => Some(Kind::Duration),
            (Record::Evidence, name) => self.evidence.get(name).cloned(),
            (Record::Checks, name) => self.checks.get(name).map(|_| Kind::Record(Record::Check)),
            (Record::Unlocks, name) => self.programs.get(name).map(|_| Kind::Record(Record::Unlock)),
            _ => None,
        };
        known.ok_or_else(|| match record {
            Record::Endpoint => listed("field of endpoints", &mut ENDPOINT.iter().copied()),
            Record::Check => listed("field of checks", &mut CHECK.iter().copied()),
            Record::Unlock => listed("field of unlocks", &mut UNLOCK.iter().copied()),
            Record::Request => listed("field of requests", &mut ["lease"].into_iter()),
            Record::Evidence => listed("evidence", &mut self.evidence.keys().map(String::as_str)),
            Record::Checks => listed("check", &mut self.checks.iter().map(String::as_str)),
            Record::Unlocks => listed("program", &mut self.programs.iter().map(String::as_str)),
        })
    }
}

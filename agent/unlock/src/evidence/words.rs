//! Texts about evidence, for forms and errors.

use portcullis_policy::{EvidenceField, EvidenceType, MAX_EVIDENCE, Program};
use serde::Serialize;

/// One question of a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Name of the evidence in the program.
    pub name: String,
    /// What a person is asked; its name when the program says nothing.
    pub prompt: String,
    /// Its type, as in documents: `text`, `integer`, …
    pub kind: &'static str,
    /// Whether a request without it is refused.
    pub required: bool,
    /// Whether it is not to be shown while typed, nor afterwards.
    pub secret: bool,
    /// What it must be, in words.
    pub constraint: String,
    /// The words to choose from; none where anything can be written.
    pub choices: Vec<String>,
}

/// What a program asks for, in its order: enough to make a form.
pub fn describe(program: &Program) -> Vec<Asked> {
    program
        .evidence
        .iter()
        .map(|field| Asked {
            name: field.name.clone(),
            prompt: match field.prompt.as_str() {
                "" => field.name.clone(),
                prompt => prompt.to_string(),
            },
            kind: field.kind.name(),
            required: field.required,
            secret: field.secret,
            constraint: constraint(field),
            choices: match &field.kind {
                EvidenceType::Enum { values } => values.clone(),
                EvidenceType::Boolean { must_be: Some(yes) } => vec![yes.to_string()],
                EvidenceType::Boolean { must_be: None } => vec!["true".to_string(), "false".to_string()],
                _ => Vec::new(),
            },
        })
        .collect()
}

/// What a value must be, in words that follow "submit" or "is not".
pub fn constraint(field: &EvidenceField) -> String {
    match &field.kind {
        EvidenceType::Text {
            min_length,
            max_length,
            pattern,
        } => {
            let max = max_length.unwrap_or(MAX_EVIDENCE);
            let length = match min_length {
                Some(min) if *min == max => format!("text of {min} characters"),
                Some(min) => format!("text of {min} to {max} characters"),
                None => format!("text of at most {max} characters"),
            };
            match pattern {
                Some(pattern) => format!("{length} that matches `{pattern}`"),
                None => length,
            }
        }
        EvidenceType::Integer { min, max } => match (min, max) {
            (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
            (Some(min), None) => format!("a whole number, at least {min}"),
            (None, Some(max)) => format!("a whole number, at most {max}"),
            (None, None) => "a whole number".to_string(),
        },
        EvidenceType::Boolean { must_be: Some(yes) } => yes.to_string(),
        EvidenceType::Boolean { must_be: None } => "true or false".to_string(),
        EvidenceType::Hostname {} => "a host name, as mail.example.com".to_string(),
        EvidenceType::Email {} => "an e-mail address, as postmaster@example.com".to_string(),
        EvidenceType::Url { schemes } if schemes.is_empty() => "a URL, as https://example.com/".to_string(),
        EvidenceType::Url { schemes } => {
            format!("a URL that begins with {}://", schemes.join(":// or "))
        }
        EvidenceType::Address {} => "an address, as 192.0.2.10 or 2001:db8::10".to_string(),
        EvidenceType::Prefix {
            min_length_v4,
            min_length_v6,
        } => {
            let mut words = "a prefix without host bits, as 192.0.2.0/24 or 2001:db8::/32".to_string();
            for (version, min) in [("IPv4", min_length_v4), ("IPv6", min_length_v6)] {
                if let Some(min) = min {
                    words.push_str(&format!(", {version} /{min} or longer"));
                }
            }
            words
        }
        EvidenceType::Enum { values } => match values.as_slice() {
            [one] => one.clone(),
            _ => format!("one of {}", values.join(", ")),
        },
        EvidenceType::Date {
            not_before,
            not_after,
        } => {
            let mut words = "a day, as 2026-11-27".to_string();
            for (limit, day) in [("not before", not_before), ("not after", not_after)] {
                if let Some(day) = day {
                    words.push_str(&format!(", {limit} {day}"));
                }
            }
            words
        }
    }
}

//! Evidence that a program asks for.

use serde::{Deserialize, Serialize};

/// One thing to submit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceField {
    /// How it is called: a letter, then letters, digits and `_`; expressions say `evidence.NAME`.
    pub name: String,
    /// What a person is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Whether a request without it is refused.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub required: bool,
    /// Never logged and never shown again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// Type of the value, with its bounds.
    #[serde(flatten)]
    pub kind: EvidenceType,
}

fn yes() -> bool {
    true
}

/// What evidence is, and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum EvidenceType {
    /// Any text, in characters; at most 4096.
    Text {
        /// Shortest length, in characters; no bound when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_length: Option<u32>,
        /// Longest length, in characters; 4096 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_length: Option<u32>,
        /// A regular expression that the whole text matches.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
    },
    /// A whole number of 64 bits.
    Integer {
        /// Smallest value; no bound when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<i64>,
        /// Largest value; no bound when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<i64>,
    },
    /// Yes or no, written `true` or `false`.
    Boolean {
        /// What it has to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        must_be: Option<bool>,
    },
    /// A host name with at least two labels (RFC 1123).
    Hostname {},
    /// An e-mail address (RFC 5321).
    Email {},
    /// A URL (RFC 3986) with a host.
    Url {
        /// Its scheme is one of these; `https` when absent, which is empty here.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        schemes: Vec<String>,
    },
    /// An IPv4 or IPv6 address.
    Address {},
    /// An IPv4 or IPv6 prefix, written `ADDRESS/LENGTH`.
    Prefix {
        /// An IPv4 prefix is at least so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_length_v4: Option<u8>,
        /// An IPv6 prefix is at least so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_length_v6: Option<u8>,
    },
    /// One of some words.
    Enum {
        /// The words to choose from.
        values: Vec<String>,
    },
    /// A day, written `2026-11-27` (RFC 3339).
    Date {
        /// Not before this day.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<String>,
        /// Not after this day.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_after: Option<String>,
    },
}

impl EvidenceType {
    /// Its name in documents.
    pub fn name(&self) -> &'static str {
        match self {
            EvidenceType::Text { .. } => "text",
            EvidenceType::Integer { .. } => "integer",
            EvidenceType::Boolean { .. } => "boolean",
            EvidenceType::Hostname {} => "hostname",
            EvidenceType::Email {} => "email",
            EvidenceType::Url { .. } => "url",
            EvidenceType::Address {} => "address",
            EvidenceType::Prefix { .. } => "prefix",
            EvidenceType::Enum { .. } => "enum",
            EvidenceType::Date { .. } => "date",
        }
    }
}

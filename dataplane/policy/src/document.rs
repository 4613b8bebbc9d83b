//! The policy document, as written in YAML and as stored.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::direction::{Direction, PerDirection};
use crate::endpoint::{Endpoint, Reserved};
use crate::program::{Grant, Program};
use crate::types::{Family, IcmpMatch, Name, PortRange, Protocol, StrictPrefix, Verdict};
use crate::validate::{DocumentError, FieldError};
use crate::yaml;

/// The only document version there is.
pub const VERSION: &str = "portcullis/v1";

/// How `defaults` are written, for `#[serde(with = "Defaults")]`: a direction that is left out is allowed.
#[derive(Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    remote = "PerDirection<Verdict>",
    expecting = "struct Defaults"
)]
pub struct Defaults {
    #[serde(default = "allow")]
    egress: Verdict,
    #[serde(default = "allow")]
    ingress: Verdict,
}

fn allow() -> Verdict {
    Verdict::Allow
}

fn allow_both() -> PerDirection<Verdict> {
    PerDirection::from_fn(|_| Verdict::Allow)
}

/// How a profile's `default` is written: it may leave out a direction.
#[derive(Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    remote = "PerDirection<Option<Verdict>>",
    expecting = "struct ProfileDefaults"
)]
struct ProfileDefaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingress: Option<Verdict>,
}

fn sets_none(defaults: &PerDirection<Option<Verdict>>) -> bool {
    defaults.iter().all(Option::is_none)
}

/// What holds for a port that is plugged in without an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmanaged {
    /// The mandatory rules, the baseline and the defaults.
    #[default]
    Baseline,
    /// Everything passes, whatever the rules say.
    Allow,
    /// Nothing passes, whatever the rules say.
    Deny,
}

/// A match with a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its list.
    pub name: Name,
    /// What happens to packets that match.
    pub action: Verdict,
    /// The direction it is about.
    pub direction: Direction,
    /// The protocol; any when absent.
    #[serde(default)]
    pub protocol: Protocol,
    /// Destination ports; every port when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Source ports; every port when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// The other side: destination on egress, source on ingress; everywhere when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<StrictPrefix>,
    /// The endpoint's side; every address when absent, which is empty here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<StrictPrefix>,
    /// ICMP type and code, for protocols icmp and icmpv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpMatch>,
    /// Only this IP version; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Family>,
    /// Why the rule exists; shown to customers who ask why a port is closed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A named ordered list of rules, bound to endpoints when they are provisioned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Defaults it sets: `deny` wins over the document's default and over other profiles.
    #[serde(default, with = "ProfileDefaults", skip_serializing_if = "sets_none")]
    pub default: PerDirection<Option<Verdict>>,
    /// In their order: the first match wins.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// The whole policy. Cheap to clone whatever its size: copies share what neither of them changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of the format, [`VERSION`].
    pub version: String,
    /// Verdicts where no rule matches.
    #[serde(default = "allow_both", with = "Defaults")]
    pub defaults: PerDirection<Verdict>,
    /// What holds for ports without an endpoint.
    #[serde(default)]
    pub unmanaged: Unmanaged,
    /// What no endpoint may declare.
    #[serde(default, skip_serializing_if = "Reserved::is_empty")]
    pub reserved: Arc<Reserved>,
    /// The operator's rules, above unlocks and the endpoints' own.
    #[serde(default)]
    pub mandatory: Arc<Vec<Rule>>,
    /// Rules for everybody, below everything else.
    #[serde(default)]
    pub baseline: Arc<Vec<Rule>>,
    /// Profiles by the name that endpoints bind them with.
    #[serde(default)]
    pub profiles: OrdMap<Name, Arc<Profile>>,
    /// Endpoints by name, which also targets and unlocks use.
    #[serde(default)]
    pub endpoints: OrdMap<Name, Arc<Endpoint>>,
    /// Unlock programs by name.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub programs: OrdMap<Name, Arc<Program>>,
    /// Active grants per endpoint. Not serialized; set by the engine.
    #[serde(skip)]
    pub grants: OrdMap<Name, Arc<Vec<Grant>>>,
    /// The label that names an endpoint's tenant. Not written either: it is a setting of the agent.
    #[serde(skip, default = "tenant_label")]
    pub tenant_label: Arc<str>,
}

/// The label that names an endpoint's tenant where nothing else is set.
fn tenant_label() -> Arc<str> {
    static LABEL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("tenant"));
    Arc::clone(&LABEL)
}

impl Default for Document {
    fn default() -> Self {
        Document {
            version: VERSION.to_string(),
            defaults: allow_both(),
            unmanaged: Unmanaged::default(),
            reserved: Arc::default(),
            mandatory: Arc::default(),
            baseline: Arc::default(),
            profiles: OrdMap::new(),
            endpoints: OrdMap::new(),
            programs: OrdMap::new(),
            grants: OrdMap::new(),
            tenant_label: tenant_label(),
        }
    }
}

/// Match lists: absent they match everything, so that an empty one must not be taken for absent.
const MATCH_LISTS: [&str; 5] = ["ports", "source_ports", "remote", "local", "schemes"];

/// Finds match lists that are empty: most often a template found nothing to write there.
fn empty_lists(value: &serde_json::Value, path: &str, attached: bool, found: &mut Vec<FieldError>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let at = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let named = MATCH_LISTS.contains(&key.as_str()) || (attached && key == "macs");
                if named && value.as_array().is_some_and(Vec::is_empty) {
                    let problem = "is empty: name at least one, or leave the field out".to_string();
                    found.push(FieldError { path: at, problem });
                } else {
                    empty_lists(value, &at, key == "attachments", found);
                }
            }
        }
        serde_json::Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                empty_lists(value, &format!("{path}[{index}]"), attached, found);
            }
        }
        _ => {}
    }
}

impl Document {
    /// Parses and validates a YAML (or JSON) document.
    pub fn from_yaml(text: &str) -> Result<Self, DocumentError> {
        let (document, _) = Self::parse(text)?;
        document.validate()?;
        Ok(document)
    }

    /// Parses a YAML (or JSON) document without validating it, and tells which top-level fields it has: a
    /// document to be merged says nothing about the others.
    pub fn parse(text: &str) -> Result<(Self, BTreeSet<String>), DocumentError> {
        let value = yaml::read(text).map_err(|error| DocumentError::Syntax(error.to_string()))?;
        if value.is_null() {
            return Err(DocumentError::Syntax(format!(
                "the document is empty: begin with `version: {VERSION}`"
            )));
        }
        let serde_json::Value::Object(map) = &value else {
            return Err(DocumentError::Syntax(format!(
                "not a mapping: begin with `version: {VERSION}`"
            )));
        };
        let mut empty = Vec::new();
        empty_lists(&value, "", false, &mut empty);
        if !empty.is_empty() {
            return Err(DocumentError::Fields(empty));
        }
        let fields = map.keys().cloned().collect();
        let document = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            DocumentError::Fields(vec![FieldError {
                path,
                problem: error.into_inner().to_string(),
            }])
        })?;
        Ok((document, fields))
    }

    /// Whether it says nothing but its version: applying it would remove everything.
    pub fn is_empty(&self) -> bool {
        let bare = Document {
            grants: OrdMap::new(),
            tenant_label: tenant_label(),
            ..self.clone()
        };
        bare == Document::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_documents_are_read_and_bombs_are_not() {
        let mut text = format!("version: {VERSION}\nendpoints:\n");
        for i in 0..30_000 {
            text.push_str(&format!(
                "  e{i}: {{addresses: [10.0.0.1, 10.0.0.2], labels: {{a: b}}}}\n"
            ));
        }
        assert_eq!(Document::parse(&text).unwrap().0.endpoints.len(), 30_000);
        let mut bomb = format!("version: {VERSION}\nx0: &x0 [a]\n");
        for i in 1..40 {
            let before = i - 1;
            bomb.push_str(&format!("x{i}: &x{i} [*x{before}, *x{before}]\n"));
        }
        let error = Document::parse(&bomb).unwrap_err();
        assert!(matches!(error, DocumentError::Syntax(_)), "{error}");
    }
}

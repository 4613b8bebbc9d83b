//! Checks of a program: DNS, and the endpoint itself.

use serde::{Deserialize, Serialize};

/// A check. Names of evidence, or `endpoint` for the endpoint's own addresses, say what about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// How expressions call it, `checks.NAME`; its kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its failing rejects nothing by itself: expressions look at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advisory: bool,
    /// Kind of the check, with the names of what it is about.
    #[serde(flatten)]
    pub kind: CheckKind,
}

impl Check {
    /// How expressions call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.kind.word())
    }
}

/// A kind of check, and the evidence that it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CheckKind {
    /// Forward-confirmed reverse DNS: every address has a PTR record for the host name, and the name has the address.
    Fcrdns {
        /// `endpoint`, or evidence that is an address.
        address: String,
        /// Evidence that is a host name.
        hostname: String,
    },
    /// Every address has a PTR record, for the host name when one is given.
    Ptr {
        /// `endpoint`, or evidence that is an address.
        address: String,
        /// Evidence that is a host name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hostname: Option<String>,
    },
    /// The host name has A or AAAA records, with every address when one is given.
    Address {
        /// Evidence that is a host name.
        hostname: String,
        /// `endpoint`, or evidence that is an address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        must_have: Option<String>,
    },
    /// The domain's SPF record (RFC 7208) lets every address send.
    Spf {
        /// Evidence that is a host name.
        domain: String,
        /// `endpoint`, or evidence that is an address.
        must_allow: String,
        /// Whether a record counts that passes any address: `+all`, or a prefix shorter than /8 (IPv4) or /16 (IPv6).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_any: bool,
    },
    /// The domain, or its organizational domain, has a DMARC record (RFC 7489).
    Dmarc {
        /// Evidence that is a host name.
        domain: String,
        /// The least strict policy that passes; any when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<DmarcPolicy>,
    },
    /// The domain has a DKIM key (RFC 6376) under the selector.
    Dkim {
        /// Evidence that is a host name.
        domain: String,
        /// Evidence that is the selector.
        selector: String,
    },
    /// A TCP port of the endpoint greets with a line that contains a text.
    Banner {
        /// TCP port to connect to.
        port: u16,
        /// The text; any greeting passes when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// What is checked is as the program asks.
    Passed,
    /// DNS or the endpoint answered, and the answer is not as the program asks.
    Failed,
    /// The check could not be made, or is not made yet. Never as good as passed.
    Undetermined,
}

impl CheckResult {
    /// Its name in expressions (`checks.NAME.result`), JSON and the database.
    pub fn name(self) -> &'static str {
        match self {
            CheckResult::Passed => "passed",
            CheckResult::Failed => "failed",
            CheckResult::Undetermined => "undetermined",
        }
    }
}

/// What a DMARC record asks of receivers; stricter ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// Nothing: receivers report only.
    None,
    /// To treat the mail as suspicious.
    Quarantine,
    /// To reject the mail.
    Reject,
}

impl CheckKind {
    /// Its kind, as written.
    pub fn word(&self) -> &'static str {
        match self {
            CheckKind::Fcrdns { .. } => "fcrdns",
            CheckKind::Ptr { .. } => "ptr",
            CheckKind::Address { .. } => "address",
            CheckKind::Spf { .. } => "spf",
            CheckKind::Dmarc { .. } => "dmarc",
            CheckKind::Dkim { .. } => "dkim",
            CheckKind::Banner { .. } => "banner",
        }
    }

    /// Whose addresses it is about, `endpoint` or evidence that is an address; none when it is about no address.
    pub fn about(&self) -> Option<&str> {
        match self {
            CheckKind::Fcrdns { address, .. } | CheckKind::Ptr { address, .. } => Some(address),
            CheckKind::Address { must_have, .. } => must_have.as_deref(),
            CheckKind::Spf { must_allow, .. } => Some(must_allow),
            CheckKind::Banner { .. } => Some("endpoint"),
            CheckKind::Dmarc { .. } | CheckKind::Dkim { .. } => None,
        }
    }

    /// What it says of evidence: the field, its value, and the types that the evidence may have. An address may be
    /// `endpoint`.
    pub fn names(&self) -> Vec<(&'static str, &str, &'static [&'static str])> {
        const HOST: &[&str] = &["hostname"];
        const ADDRESS: &[&str] = &["address"];
        const TEXT: &[&str] = &["text", "enum", "hostname"];
        match self {
            CheckKind::Fcrdns { address, hostname } => {
                vec![("address", address, ADDRESS), ("hostname", hostname, HOST)]
            }
            CheckKind::Ptr { address, hostname } => {
                let mut names = vec![("address", address.as_str(), ADDRESS)];
                names.extend(hostname.as_deref().map(|h| ("hostname", h, HOST)));
                names
            }
            CheckKind::Address { hostname, must_have } => {
                let mut names = vec![("hostname", hostname.as_str(), HOST)];
                names.extend(must_have.as_deref().map(|a| ("must_have", a, ADDRESS)));
                names
            }
            CheckKind::Spf {
                domain, must_allow, ..
            } => {
                vec![("domain", domain, HOST), ("must_allow", must_allow, ADDRESS)]
            }
            CheckKind::Dmarc { domain, .. } => vec![("domain", domain, HOST)],
            CheckKind::Dkim { domain, selector } => {
                vec![("domain", domain, HOST), ("selector", selector, TEXT)]
            }
            CheckKind::Banner { .. } => Vec::new(),
        }
    }
}

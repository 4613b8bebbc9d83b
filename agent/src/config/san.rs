//! Subject alternative names of certificates (RFC 5280, section 4.2.1.6), and patterns for them.

use std::fmt;
use std::str::FromStr;

/// Longest name that is looked at, in bytes.
const LONGEST: usize = 512;

/// Whether a name may be looked at: printable ASCII, so that it disturbs no log, and not too long.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic())
}

/// One subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A URI, as SPIFFE has it.
    Uri(String),
    Dns(String),
    Email(String),
}

impl San {
    fn text(&self) -> &str {
        match self {
            San::Uri(text) | San::Dns(text) | San::Email(text) => text,
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a certificate's name must be. Hosts are compared without regard to case, the rest as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    Exactly(San),
    /// A host of exactly one more label than this domain.
    Below(String),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !is_plain(text) {
            return Err(format!(
                "`{text}` is no name of a certificate: write a URI, a host or an e-mail address"
            ));
        }
        let (domain, starred) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if domain.contains('*') {
            return Err(format!(
                "`{text}` has a * that is not the first label of a host: write *.DOMAIN"
            ));
        }
        let other = domain.contains(['@', ':', '/']);
        match (starred, other) {
            (true, true) => Err(format!(
                "`{text}` has a * and is no host: write *.DOMAIN, or the whole name"
            )),
            (true, false) if domain.is_empty() => Err(format!("`{text}` has no domain: write *.DOMAIN")),
            (true, false) => Ok(Pattern::Below(domain.to_ascii_lowercase())),
            (false, _) if text.contains(':') => Ok(Pattern::Exactly(San::Uri(text.to_string()))),
            (false, _) if text.contains('@') => Ok(Pattern::Exactly(San::Email(text.to_string()))),
            (false, true) => Err(format!(
                "`{text}` is no host: a URI has a scheme, as in spiffe://HOST/NAME"
            )),
            (false, false) => Ok(Pattern::Exactly(San::Dns(text.to_string()))),
        }
    }
}

impl Pattern {
    /// What the star stands for; empty when there is none. `None` when the name is another.
    pub fn matches(&self, san: &San) -> Option<String> {
        match (self, san) {
            (Pattern::Exactly(San::Dns(wanted)), San::Dns(host)) => {
                wanted.eq_ignore_ascii_case(host).then(String::new)
            }
            (Pattern::Exactly(wanted), san) => (wanted == san).then(String::new),
            (Pattern::Below(domain), San::Dns(host)) => {
                let host = host.to_ascii_lowercase();
                let (label, rest) = host.split_once('.')?;
                let plain = label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                (rest == domain && !label.is_empty() && plain).then(|| label.to_string())
            }
            (Pattern::Below(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(pattern: &str, san: San) -> Option<String> {
        pattern.parse::<Pattern>().unwrap().matches(&san)
    }

    fn dns(text: &str) -> San {
        San::Dns(text.to_string())
    }

    #[test]
    fn patterns_match_names_of_their_own_sort() {
        let uri = "spiffe://host/orchestrator";
        assert!(matched(uri, San::Uri(uri.to_string())).is_some());
        assert!(matched(uri, San::Uri("spiffe://host/Orchestrator".to_string())).is_none());
        assert!(matched(uri, dns(uri)).is_none());
        assert!(matched("ops.example", dns("OPS.example")).is_some());
        assert!(matched("ops.example", San::Email("ops.example".to_string())).is_none());
        assert!(matched("a@b.example", San::Email("a@b.example".to_string())).is_some());
        assert!(matched("a@b.example", San::Uri("a@b.example".to_string())).is_none());
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let star = "*.customers.example";
        assert_eq!(matched(star, dns("Acme.customers.example")).unwrap(), "acme");
        for other in [
            "customers.example",
            ".customers.example",
            "a.b.customers.example",
            "acme.customers.example.",
            "acmecustomers.example",
            "*.customers.example",
            "acme.customers.example.evil",
        ] {
            assert!(matched(star, dns(other)).is_none(), "{other}");
        }
        assert!(matched(star, San::Email("x@acme.customers.example".to_string())).is_none());
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for bad in [
            "",
            "*",
            "*.",
            "a.*.b",
            "*.a@b",
            "spiffe://*/x",
            "*.x*",
            "a b",
            "a/b",
            "ä.example",
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}

//! What a client certificate shows.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{San, is_plain};

/// What of a certificate counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its names, those of other sorts left out.
    pub names: Vec<San>,
    /// Until when it holds.
    pub until: SystemTime,
}

impl Shown {
    /// Reads a certificate; `None` when it cannot be.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let extension = certificate.subject_alternative_name().ok()?;
        let names = extension
            .map(|e| e.value.general_names.as_slice())
            .unwrap_or_default();
        Some(Shown {
            names: names.iter().filter_map(name).collect(),
            until: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until))?,
        })
    }
}

/// A name of the sorts that count; the others, and what could disturb a log, are none.
fn name(general: &GeneralName<'_>) -> Option<San> {
    let (sort, text): (fn(String) -> San, &str) = match general {
        GeneralName::URI(text) => (San::Uri, text),
        GeneralName::DNSName(text) => (San::Dns, text),
        GeneralName::RFC822Name(text) => (San::Email, text),
        _ => return None,
    };
    is_plain(text).then(|| sort(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(Shown::read(b"garbage"), None);
        assert_eq!(Shown::read(&[]), None);
    }
}

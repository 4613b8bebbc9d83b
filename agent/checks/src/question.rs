//! Questions of checks and their answers.

use std::net::IpAddr;

use portcullis_policy::{CheckResult, DmarcPolicy};
use serde::{Deserialize, Serialize};

/// A check with its parameters looked up: evidence is values, `endpoint` is the endpoint's host addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Every address has a PTR record for the host name, and the name has the address.
    Fcrdns {
        /// Addresses that must all have such a record.
        addresses: Vec<IpAddr>,
        /// Host name the records must point to.
        hostname: String,
    },
    /// Every address has a PTR record, for the host name when one is given.
    Ptr {
        /// Addresses that must all have a record.
        addresses: Vec<IpAddr>,
        /// Name the records must point to; any name passes when absent.
        hostname: Option<String>,
    },
    /// The host name has A or AAAA records.
    Address {
        /// Name whose records are looked up.
        hostname: String,
        /// It has them all; none in the list is a check that cannot be made, no list is any address.
        must_have: Option<Vec<IpAddr>>,
    },
    /// The domain's SPF record gives `pass` to every address.
    Spf {
        /// The domain, also the name in HELO.
        domain: String,
        /// Addresses that send mail.
        addresses: Vec<IpAddr>,
        /// The sender that macros speak of; `postmaster@DOMAIN` when absent.
        sender: Option<String>,
        /// Whether a pass counts whose term passes any address: `all`, or a prefix shorter than /8 (IPv4) or /16 (IPv6).
        accept_any: bool,
    },
    /// The domain, or its organizational domain, has a DMARC record.
    Dmarc {
        /// The domain of the From address.
        domain: String,
        /// Its policy is at least so strict.
        policy: Option<DmarcPolicy>,
    },
    /// The domain has a DKIM key under the selector.
    Dkim {
        /// Domain the signatures name (`d=`).
        domain: String,
        /// Selector the signatures name (`s=`).
        selector: String,
    },
    /// A TCP port of the first address that greets does so with a line that contains a text.
    Banner {
        /// The endpoint's own addresses.
        addresses: Vec<IpAddr>,
        /// TCP port, for example 25.
        port: u16,
        /// The text, with its case; any greeting passes when absent.
        contains: Option<String>,
    },
}

/// What came of a check, and why, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What came of it.
    pub result: CheckResult,
    /// Why: at most [`Answer::LONGEST`] characters, none of them a control character.
    pub detail: String,
    /// The check was not made: it got no place, or no resolver answers anything. Such an answer is no sample of the world.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_made: bool,
}

impl Answer {
    /// How many characters a detail has at most.
    pub const LONGEST: usize = 600;

    pub(crate) fn new(result: CheckResult, detail: impl AsRef<str>) -> Self {
        Self {
            result,
            detail: printable(detail.as_ref(), Self::LONGEST),
            not_made: false,
        }
    }

    pub(crate) fn passed(detail: impl AsRef<str>) -> Self {
        Self::new(CheckResult::Passed, detail)
    }

    pub(crate) fn failed(detail: impl AsRef<str>) -> Self {
        Self::new(CheckResult::Failed, detail)
    }

    pub(crate) fn undetermined(detail: impl AsRef<str>) -> Self {
        Self::new(CheckResult::Undetermined, detail)
    }

    pub(crate) fn not_made(detail: impl AsRef<str>) -> Self {
        Self {
            not_made: true,
            ..Self::undetermined(detail)
        }
    }

    /// The answer of a check; `Ok` is what it passed with.
    pub(crate) fn from_result(result: Result<String, Answer>) -> Self {
        result.map_or_else(|answer| answer, Answer::passed)
    }
}

/// Text from elsewhere, fit to be shown: no control characters, and no more than `longest` characters.
pub(crate) fn printable(text: &str, longest: usize) -> String {
    let shown = |c: char| !c.is_control() && c != '\u{feff}' && !('\u{200b}'..='\u{206f}').contains(&c);
    let mut out: String = text
        .chars()
        .take(longest)
        .map(|c| if shown(c) { c } else { '\u{fffd}' })
        .collect();
    if text.chars().nth(longest).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// One thing from each of them, or what failed; what failed outright before what could not be found out.
pub(crate) struct Tally {
    passed: Vec<String>,
    undetermined: Option<Answer>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            passed: Vec::new(),
            undetermined: None,
        }
    }

    /// Counts one; an error when there is nothing more to ask.
    pub(crate) fn add(&mut self, result: Result<String, Answer>) -> Result<(), Answer> {
        match result {
            Ok(detail) => self.passed.push(detail),
            Err(answer) if answer.result == CheckResult::Failed => return Err(answer),
            Err(answer) => match &mut self.undetermined {
                // Part of it was not made, so the whole is no sample.
                Some(kept) => kept.not_made |= answer.not_made,
                none => *none = Some(answer),
            },
        }
        Ok(())
    }

    pub(crate) fn done(self) -> Result<String, Answer> {
        match self.undetermined {
            Some(answer) => Err(answer),
            None => Ok(self.passed.join("; ")),
        }
    }
}

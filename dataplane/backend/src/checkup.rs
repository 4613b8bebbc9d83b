//! What a target's settings and state cost policy traffic, and what changes it.

use serde::Serialize;

/// Whether policy traffic pays with safety or with speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Packets may pass that the policy denies, or be dropped that it allows.
    Safety,
    /// Packets take longer than they need to.
    Speed,
}

/// How one thing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is to be changed. The text says how it is set.
    Fine(String),
    /// Policy traffic pays for it.
    Costs {
        /// Whether safety or speed.
        cost: Cost,
        /// How it is set, and what follows from it.
        what: String,
        /// The command or setting that changes it.
        remedy: String,
    },
    /// It could not be looked at, and why.
    Unknown(String),
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, such as `fail mode`.
    pub name: &'static str,
    /// What was found, with the remedy where there is one.
    pub outcome: Outcome,
}

impl Check {
    /// Nothing is to be changed; `how` it is set.
    pub fn fine(name: &'static str, how: impl Into<String>) -> Self {
        Check {
            name,
            outcome: Outcome::Fine(how.into()),
        }
    }

    /// Policy traffic pays for `what`, and `remedy` changes it.
    pub fn costs(name: &'static str, cost: Cost, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check {
            name,
            outcome: Outcome::Costs {
                cost,
                what: what.into(),
                remedy: remedy.into(),
            },
        }
    }

    /// It could not be looked at.
    pub fn unknown(name: &'static str, why: impl Into<String>) -> Self {
        Check {
            name,
            outcome: Outcome::Unknown(why.into()),
        }
    }
}

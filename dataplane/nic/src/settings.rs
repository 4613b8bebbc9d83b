//! What is configured of rules on NICs: the section `[offload]` of the switch, and of a target that the agent starts.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::facts::{Kind, ParserFacts};

/// Whether rules that drop are put on the NICs of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// On those that take them, and of whose parser enough is stated.
    #[default]
    Auto,
    /// On none, whatever they take.
    Off,
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(When::Auto),
            "off" => Ok(When::Off),
            other => Err(format!("\"{other}\" is neither auto nor off")),
        }
    }
}

/// The section as it is written. What is absent is the default, or is taken from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OffloadSettings {
    /// Whether there are rules.
    pub when: Option<When>,
    /// Frames that a NIC may drop although the policy lets them pass.
    pub accept: Option<BTreeSet<Kind>>,
    /// Rules that the NIC of each port may have at most; absent: as many as it takes.
    pub rules: Option<usize>,
    /// What the parsers of drivers do, by DPDK's names of these.
    pub parsers: BTreeMap<String, ParserFacts>,
}

/// A driver and what its parser does, as it is written on the command line: `mlx5_pci={tags="matched"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedParser(pub String, pub ParserFacts);

impl FromStr for StatedParser {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsers: BTreeMap<String, ParserFacts> =
            toml::from_str(text).map_err(|e| e.message().to_owned())?;
        match parsers.into_iter().next() {
            Some((driver, facts)) => Ok(StatedParser(driver, facts)),
            None => Err("write DRIVER={FACT=\"VALUE\",...}".to_owned()),
        }
    }
}

impl OffloadSettings {
    /// The same on the command line of the switch.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        if self.when == Some(When::Off) {
            add("--offload", "off".to_owned());
        }
        if let Some(accept) = self.accept.as_ref().filter(|accept| !accept.is_empty()) {
            let names: Vec<&str> = accept.iter().map(|kind| kind.name()).collect();
            add("--offload-accept", names.join(","));
        }
        if let Some(rules) = self.rules {
            add("--offload-rules", rules.to_string());
        }
        for (driver, facts) in &self.parsers {
            add("--offload-parser", format!("{driver}={}", facts.inline()));
        }
        arguments
    }

    /// These settings, but for those of `over` that are there.
    #[must_use]
    pub fn overridden(self, over: OffloadSettings) -> Self {
        OffloadSettings {
            when: over.when.or(self.when),
            accept: over.accept.or(self.accept),
            rules: over.rules.or(self.rules),
            parsers: self.parsers.into_iter().chain(over.parsers).collect(),
        }
    }
}

impl ParserFacts {
    /// As an inline table of TOML.
    fn inline(&self) -> String {
        toml::Value::try_from(self).map_or_else(|_| "{}".to_owned(), |value| value.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_section_and_a_command_line_say_the_same() {
        let section = "when = 'off'\naccept = ['encapsulation', 'ip-options']\nrules = 7\n\
                       [parsers.mlx5_pci]\ntags = 'matched'\nlater_fragments = 'never'\n";
        let settings: OffloadSettings = toml::from_str(section).unwrap();
        let arguments = settings.arguments();
        assert_eq!(
            arguments[..6],
            [
                "--offload",
                "off",
                "--offload-accept",
                "ip-options,encapsulation",
                "--offload-rules",
                "7"
            ]
        );
        let StatedParser(driver, facts) = arguments[7].parse().unwrap();
        assert_eq!(
            (driver.as_str(), &facts),
            ("mlx5_pci", &settings.parsers["mlx5_pci"])
        );
        assert_eq!(OffloadSettings::default().arguments(), [""; 0]);
        let over = OffloadSettings {
            rules: Some(9),
            ..OffloadSettings::default()
        };
        let both = settings.clone().overridden(over);
        assert_eq!((both.rules, both.when), (Some(9), settings.when));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = "mlx5_pci={fragments=\"never\"}"
            .parse::<StatedParser>()
            .unwrap_err();
        assert!(wrong.contains("fragments"), "{wrong}");
        assert!("".parse::<StatedParser>().is_err() && "sometimes".parse::<When>().is_err());
    }
}

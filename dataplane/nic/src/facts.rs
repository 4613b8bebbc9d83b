//! What is stated of a NIC's parser, and what a rule may drop beyond the policy because of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::capabilities::Level;

/// What a rule that asks for ports matches of fragments behind the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaterFragments {
    /// It matches none of them.
    Never,
    /// Fragments have ports 0.
    ZeroPorts,
    /// It may read the payload as ports.
    #[default]
    Unknown,
}

/// Whether the parser goes on behind something in the way it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Follows {
    /// What is behind it is found where it is, or not at all.
    Followed,
    /// Something else may be taken for it.
    #[default]
    Unknown,
}

/// Whether a rule without a VLAN matches frames with tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tags {
    /// Frames without a tag alone.
    NotMatched,
    /// Frames of any VLAN.
    Matched,
    /// It may match tagged frames, or not.
    #[default]
    Unknown,
}

/// Whether the parser looks for IP behind headers that are not the switch's business, such as batman-adv, HSR or PPPoE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// It never looks there.
    Closed,
    /// It looks behind some of these.
    Opened,
    /// It may look behind some, or not.
    #[default]
    Unknown,
}

/// What is stated of a NIC's parser. What is not stated is unknown, and a rule has to be right for every possible answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParserFacts {
    /// Fragments behind the first one.
    pub later_fragments: LaterFragments,
    /// What it does with ports behind options of IPv4.
    pub ip_options: Follows,
    /// Extension headers of IPv6: hop-by-hop, routing, destination options, fragment and AH. What is behind any other header, or behind
    /// AH in IPv4, is never found if this is `followed`.
    pub extension_headers: Follows,
    /// Whether rules, which name no VLAN, match tagged frames.
    pub tags: Tags,
    /// IP behind other headers.
    pub encapsulation: Encapsulation,
}

/// Frames that a rule may drop although the policy lets them pass. The names are those of `accept` elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Fragments behind the first one, by payload that reads as ports.
    LaterFragments,
    /// IPv4 packets with options, by options that read as ports.
    IpOptions,
    /// IPv6 packets with extension headers, by bytes of those that read as ports, and packets with AH, by what is behind it.
    ExtensionHeaders,
    /// Frames that carry IP behind a header which the switch does not open.
    Encapsulation,
}

impl Kind {
    /// Every kind, in the order of docs.
    pub const ALL: [Kind; 4] = [
        Kind::LaterFragments,
        Kind::IpOptions,
        Kind::ExtensionHeaders,
        Kind::Encapsulation,
    ];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::LaterFragments => "later-fragments",
            Kind::IpOptions => "ip-options",
            Kind::ExtensionHeaders => "extension-headers",
            Kind::Encapsulation => "encapsulation",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("\"{text}\" is none of {}", names.join(", "))
        })
    }
}

/// What is known of drivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drivers {
    levels: BTreeMap<String, Level>,
    parsers: BTreeMap<String, ParserFacts>,
}

/// Why what is stated of drivers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It is not what it should be.
    #[error("what is known of drivers cannot be read: a fault of the build")]
    Build(#[from] toml::de::Error),
    /// A level that there is none of.
    #[error("drivers.toml has the level {0}: a fault of the build")]
    Level(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    levels: BTreeMap<String, Vec<String>>,
    parsers: BTreeMap<String, ParserFacts>,
}

impl Drivers {
    /// What comes with this program.
    ///
    /// # Errors
    /// If it was built wrong.
    pub fn built_in() -> Result<Self, FactsError> {
        let raw: Raw = toml::from_str(include_str!("drivers.toml"))?;
        let mut levels = BTreeMap::new();
        for (name, drivers) in raw.levels {
            let level = Level::ALL.into_iter().find(|level| level.name() == name);
            let level = level.ok_or(FactsError::Level(name))?;
            levels.extend(drivers.into_iter().map(|driver| (driver, level)));
        }
        Ok(Drivers {
            levels,
            parsers: raw.parsers,
        })
    }

    /// States the facts of a driver's parser, by the name that DPDK gives the driver.
    pub fn state(&mut self, driver: String, facts: ParserFacts) {
        self.parsers.insert(driver, facts);
    }

    /// What is stated of a driver's parser, by the name that DPDK gives the driver.
    #[must_use]
    pub fn facts(&self, driver: &str) -> Option<ParserFacts> {
        self.parsers.get(driver).copied()
    }

    /// What DPDK's feature matrix says of a driver: it calls `net_ice` "ice", and `mlx5_pci` "mlx5".
    #[must_use]
    pub fn level(&self, driver: &str) -> Option<Level> {
        let name = driver.strip_prefix("net_").unwrap_or(driver);
        let name = name.strip_suffix("_pci").unwrap_or(name);
        self.levels.get(name).copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_by_the_names_that_dpdk_has() {
        let drivers = Drivers::built_in().unwrap();
        assert_eq!(drivers.level("net_tap"), Some(Level::Drop));
        assert_eq!(drivers.level("mlx5_pci"), Some(Level::DropAndCount));
        assert_eq!(drivers.level("net_gve"), Some(Level::QueueOnly));
        assert_eq!(drivers.level("net_null"), None);
        assert_eq!(drivers.facts("net_tap").unwrap().tags, Tags::Matched);
        assert_eq!(drivers.facts("net_ice"), None);
    }

    #[test]
    fn kinds_are_read_by_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let wrong = "fragments".parse::<Kind>().unwrap_err();
        assert!(wrong.contains("later-fragments"), "{wrong}");
    }
}

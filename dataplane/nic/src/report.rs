//! What is said of a port's NIC.

use std::collections::BTreeSet;

use crate::api::{FlowApi, Until};
use crate::offload::{Moves, Offload};

/// How a port's NIC stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortReport {
    /// Number of the port.
    pub port: u16,
    /// Driver, by DPDK's name.
    pub driver: String,
    /// Why nothing is offloaded; empty where it is.
    pub off: String,
    /// What rules the NIC takes, in words.
    pub takes: String,
    /// What it refused of the canary rules, in its words.
    pub refused: Vec<String>,
    /// What it promised and did not do.
    pub untrue: Vec<String>,
    /// Rules on the NIC.
    pub installed: usize,
    /// Rules that would be there if it took them all.
    pub wanted: usize,
    /// Whether it has no room for more.
    pub is_full: bool,
    /// How often rules came and went.
    pub moves: Moves,
    /// What is wrong; empty where nothing is.
    pub fault: String,
}

/// How a row that denies stands on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowReport {
    /// Number of the port.
    pub port: u16,
    /// The row's counter in the switch.
    pub slot: u32,
    /// Rules that hold it, or a part of it.
    pub rules: usize,
    /// Those that are on the NIC.
    pub installed: usize,
    /// Why not all of it is, or can be, on the NIC.
    pub why: Vec<String>,
    /// Whether the row's counter has everything that was dropped for it.
    pub is_counted: bool,
    /// What the NIC has dropped and counted for it, in packets.
    pub packets: u64,
}

impl<A: FlowApi> Offload<A> {
    /// How the NIC stands.
    pub fn report(&self, port: u16) -> PortReport {
        let installed = self.installed().count();
        let wanted = self.lowered.rules.len();
        PortReport {
            port,
            driver: self.driver.clone(),
            off: self.why_off(),
            takes: self.probed.capabilities.words(),
            refused: self.probed.refused.clone(),
            untrue: self.probed.untrue.clone(),
            installed,
            wanted,
            is_full: installed < wanted && self.is_full_now(),
            moves: self.moves,
            fault: self.stuck.clone().unwrap_or_default(),
        }
    }

    fn is_full_now(&self) -> bool {
        let installed = self.installed().count();
        self.full_at.is_some() || self.settings.most.is_some_and(|most| installed >= most)
    }

    fn why_off(&self) -> String {
        if !self.probed.capabilities.drop {
            let first = self.probed.refused.first();
            let said = first.map_or_else(String::new, |said| format!(" ({said})"));
            return format!("the driver {} takes no rule that drops{said}", self.driver);
        }
        if self.settings.facts.is_none() {
            return format!(
                "nothing is stated of what the parser of {} does: see [offload.parsers.{}] in the configuration of the switch",
                self.driver, self.driver
            );
        }
        String::new()
    }

    /// How each row that denies stands.
    pub fn rows(&self, port: u16) -> Vec<RowReport> {
        // What is known of rows is about older tables while a change is on its way.
        if !self.is_current() {
            return Vec::new();
        }
        let off = self.why_off();
        let here: BTreeSet<&crate::rule::Rule> = self.installed().map(|(rule, ..)| rule).collect();
        let row = |(slot, state): (&u32, &crate::lower::RowState)| {
            let installed = state.rules.iter().filter(|rule| here.contains(rule)).count();
            let refused = state.rules.iter().find_map(|rule| self.refused.get(rule));
            let mut why: Vec<String> = state.why.iter().map(ToString::to_string).collect();
            if !off.is_empty() {
                why = vec![off.clone()];
            } else if let Some(stuck) = &self.stuck {
                why.insert(0, stuck.clone());
            } else if let Some(refused) = refused {
                why.push(match refused.until {
                    Until::ThereIsRoom => format!("the NIC has no room: {}", refused.why),
                    Until::Always | Until::Later => format!("the NIC refused a rule: {}", refused.why),
                });
            } else if installed < state.rules.len() {
                why.push(match self.is_full_now() {
                    true => "the NIC has no room, and other rules have more hits or came first".to_owned(),
                    false => "not on the NIC yet".to_owned(),
                });
            }
            RowReport {
                port,
                slot: *slot,
                rules: state.rules.len(),
                installed,
                why,
                is_counted: self.is_counted(*slot),
                packets: self.count(*slot).packets,
            }
        };
        self.lowered.rows.iter().map(row).collect()
    }
}

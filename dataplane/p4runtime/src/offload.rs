//! What NICs of an embedded switch hold of each rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portcullis_backend::{
    Carried, Check, Cost, EnforcingRow, Nic, NicMoves, Numbers, Offload, RuleOffload, Unit,
};
use portcullis_proto::p4::v1;
use portcullis_proto::switch::{self, ListOffloadResponse, OffloadedRow};
use prost::Message;

use crate::attachment_points::AttachmentPoints;
use crate::device::Device;
use crate::entry::RowKey;
use crate::query::{Decided, Known, Names};
use crate::wire::{self, Seen, Tag};

/// What a rule's rows sum up to.
#[derive(Debug, Default)]
struct Sum {
    /// Of each port, whether some of it is in hardware, and whether some of it is not.
    at: BTreeMap<u32, (bool, bool)>,
    /// Packets that NICs dropped.
    in_hardware: u64,
    /// Packets that the rows counted in all.
    counted: u64,
    why: BTreeSet<String>,
    is_uncounted: bool,
}

/// What the switch says, by rule. `counted` are the rows with the packets that each counted, in software and hardware.
pub(crate) fn offload(
    device: &Device,
    said: ListOffloadResponse,
    counted: &HashMap<RowKey, u64>,
    known: &Known,
    points: &AttachmentPoints,
    numbers: &Numbers,
) -> Offload {
    let mut sums: BTreeMap<Decided, Sum> = BTreeMap::new();
    let mut seen: HashMap<RowKey, Decided> = HashMap::new();
    for row in &said.rows {
        let Some(key) = key_of(device, row) else { continue };
        let Some(decided) = seen.get(&key).cloned().or_else(|| known.decided(&key)) else {
            continue;
        };
        let sum = sums.entry(decided.clone()).or_default();
        sum.add(row);
        if seen.insert(key.clone(), decided).is_none() {
            sum.counted = sum
                .counted
                .saturating_add(counted.get(&key).copied().unwrap_or(0));
        }
    }
    let names = Names::new(known, points, numbers);
    let rules: Vec<RuleOffload> = sums
        .into_iter()
        .map(|(decided, sum)| sum.of_rule(&names, decided))
        .collect();
    let mut flows = Carried::default();
    for rule in &rules {
        flows += rule.flows;
    }
    Offload {
        unit: Unit::Ports,
        is_on: said.nics.iter().any(|nic| nic.off.is_empty()),
        rules,
        flows,
        unknown: BTreeMap::new(),
        nics: said.nics.into_iter().map(nic).collect(),
    }
}

impl Sum {
    fn add(&mut self, row: &OffloadedRow) {
        let is_whole = row.why.is_empty() && row.installed == row.rules && row.rules > 0;
        let (some, lack) = self.at.entry(row.port).or_default();
        *some |= row.installed > 0;
        *lack |= !is_whole;
        self.in_hardware = self.in_hardware.saturating_add(row.packets);
        self.why.extend(row.why.iter().cloned());
        self.is_uncounted |= !row.is_counted;
    }

    fn of_rule(self, names: &Names<'_>, decided: Decided) -> RuleOffload {
        let mut flows = Carried::default();
        for at in self.at.values() {
            match at {
                (true, false) => flows.hardware += 1,
                (true, true) => flows.partly += 1,
                (false, _) => flows.software += 1,
            }
        }
        RuleOffload {
            rule: names.hit(decided, self.counted, 0),
            flows,
            packets: Carried {
                hardware: self.in_hardware,
                software: self.counted.saturating_sub(self.in_hardware),
                ..Carried::default()
            },
            why: self.why,
            is_counted: !self.is_uncounted,
        }
    }
}

/// What the NICs of some ports hold of rows, as steps of a packet's way. A NIC that holds nothing of them is no step.
pub(crate) fn of_rows(
    device: &Device,
    said: &ListOffloadResponse,
    keys: &[RowKey],
    ports: &BTreeSet<u32>,
) -> Vec<EnforcingRow> {
    let here = said
        .rows
        .iter()
        .filter(|row| ports.contains(&row.port) && row.installed > 0);
    let of_keys = here.filter(|row| key_of(device, row).is_some_and(|key| keys.contains(&key)));
    let step = |row: &OffloadedRow| EnforcingRow {
        table: format!("NIC of port {}", row.port),
        row: match row.why.is_empty() {
            true => format!("{} of {} rules drop it", row.installed, row.rules),
            false => format!(
                "{} of {} rules drop a part of it: {}",
                row.installed,
                row.rules,
                row.why.join("; ")
            ),
        },
        present: row.installed == row.rules,
        packets: row.is_counted.then_some(row.packets),
        bytes: None,
    };
    of_keys.map(step).collect()
}

/// What NICs cost policy traffic.
pub(crate) fn checks(said: &ListOffloadResponse) -> Vec<Check> {
    const NAME: &str = "rules on NICs";
    let check = |nic: &switch::Nic| {
        let head = format!("port {} ({})", nic.port, nic.driver);
        let held = format!("{} of {} rules", nic.installed, nic.wanted);
        if !nic.fault.is_empty() {
            let remedy = "restart the switch; if that does not help, `when = \"off\"` in [offload]";
            return Check::costs(NAME, Cost::Safety, format!("{head}: {}", nic.fault), remedy);
        }
        match (nic.off.is_empty(), nic.is_full) {
            (true, false) => Check::fine(NAME, format!("{head}: {held}")),
            (true, true) => Check::costs(
                NAME,
                Cost::Speed,
                format!("{head}: has room for {held}, and the switch drops the rest"),
                "raise `rules` in [offload] if it is set; else the NIC takes no more",
            ),
            // What a driver cannot do, no setting changes.
            (false, _) if nic.takes.starts_with("no rule") => {
                Check::fine(NAME, format!("{head}: {}", nic.off))
            }
            (false, _) => Check::costs(
                NAME,
                Cost::Speed,
                format!("{head}: nothing is offloaded"),
                format!("state what its parser does in [offload.parsers.{}]", nic.driver),
            ),
        }
    };
    said.nics.iter().map(check).collect()
}

/// The row that the switch speaks of. Whose it is says what is known of hits.
fn key_of(device: &Device, row: &OffloadedRow) -> Option<RowKey> {
    let entry = v1::TableEntry::decode(row.entry.as_slice()).ok()?;
    match wire::seen_entry(device, &entry, Tag(0)) {
        Seen::Ours((key, _)) | Seen::Foreign(key) => Some(key),
        Seen::Nothing => None,
    }
}

fn nic(nic: switch::Nic) -> Nic {
    Nic {
        port: nic.port,
        driver: nic.driver,
        off: nic.off,
        takes: nic.takes,
        installed: nic.installed,
        wanted: nic.wanted,
        is_full: nic.is_full,
        fault: nic.fault,
        moves: NicMoves {
            created: nic.created,
            destroyed: nic.destroyed,
            refused: nic.refusals,
            replaced: nic.replaced,
            resets: nic.resets,
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use portcullis_backend::Outcome;

    use super::*;

    fn nic(port: u32) -> switch::Nic {
        switch::Nic {
            port,
            driver: "net_tap".to_string(),
            takes: "drop, IPv4".to_string(),
            installed: 2,
            wanted: 2,
            ..switch::Nic::default()
        }
    }

    #[test]
    fn checks_say_what_a_nic_costs() {
        let said = ListOffloadResponse {
            nics: vec![
                nic(1),
                switch::Nic {
                    is_full: true,
                    wanted: 9,
                    ..nic(2)
                },
                switch::Nic {
                    off: "nothing is stated".to_string(),
                    ..nic(3)
                },
                switch::Nic {
                    off: "it takes no rule".to_string(),
                    takes: "no rule that drops".to_string(),
                    ..nic(4)
                },
                switch::Nic {
                    fault: "rules cannot be removed".to_string(),
                    ..nic(5)
                },
            ],
            rows: Vec::new(),
        };
        let costs = |check: &Check| match &check.outcome {
            Outcome::Costs { cost, .. } => Some(*cost),
            _ => None,
        };
        let costs: Vec<Option<Cost>> = checks(&said).iter().map(costs).collect();
        assert_eq!(
            costs,
            [
                None,
                Some(Cost::Speed),
                Some(Cost::Speed),
                None,
                Some(Cost::Safety)
            ]
        );
    }

    #[test]
    fn a_rule_counts_once_for_each_port() {
        let row = |port, rules, installed, why: &[&str]| OffloadedRow {
            port,
            entry: Vec::new(),
            rules,
            installed,
            why: why.iter().map(ToString::to_string).collect(),
            is_counted: port != 3,
            packets: 5,
        };
        let mut sum = Sum::default();
        // Two rows of one rule at port 1; a part of it at port 2; nothing at port 3.
        for row in [
            row(1, 1, 1, &[]),
            row(1, 2, 2, &[]),
            row(2, 1, 1, &[]),
            row(2, 2, 1, &["no room"]),
            row(3, 1, 0, &["no room"]),
        ] {
            sum.add(&row);
        }
        assert_eq!(sum.at[&1], (true, false));
        assert_eq!(sum.at[&2], (true, true));
        assert_eq!(sum.at[&3], (false, true));
        assert!(sum.is_uncounted && sum.in_hardware == 25 && sum.why.len() == 1);
    }
}

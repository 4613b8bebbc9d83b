//! What NICs need to know of the rows, and what of the rows they hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_fastpath::{Lead, Table};
use portcullis_nic::{Policy, RowReport, Senders};
use portcullis_proto::p4::v1;
use portcullis_proto::switch::OffloadedRow;
use prost::Message;

use super::Store;

impl Store {
    /// Those of `ports` about whose frames the next snapshot may decide otherwise.
    pub fn changed_senders(&self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.tables.changed_senders(ports)
    }

    /// Who sends by each of `ports`, and by which policy.
    pub fn senders(&self, ports: &BTreeSet<u16>) -> Vec<(u16, Senders)> {
        let mut policies: BTreeMap<Lead, Option<Arc<Policy>>> = BTreeMap::new();
        let mut policy = |lead: Lead| {
            let made = || (lead.class != 0).then(|| Arc::new(Policy::new(&self.tables.egress_rows(lead))));
            policies.entry(lead).or_insert_with(made).clone()
        };
        let mut of = |port: u16| {
            let leads = self.tables.senders(port).into_iter();
            Senders(leads.map(|(vlan, lead)| (vlan, policy(lead))).collect())
        };
        ports.iter().map(|port| (*port, of(*port))).collect()
    }

    /// The entries of rows, by what NICs hold of them.
    pub fn offloaded(&self, rows: Vec<RowReport>) -> Vec<OffloadedRow> {
        let policy = self
            .entries
            .iter()
            .filter(|((table, ..), _)| *table == Table::EgressPolicy);
        let entries: HashMap<u32, &v1::TableEntry> =
            policy.map(|(_, kept)| (kept.slot, &kept.entry)).collect();
        let out = |row: RowReport| {
            let entry = entries.get(&row.slot)?;
            let key = v1::TableEntry {
                table_id: entry.table_id,
                r#match: entry.r#match.clone(),
                priority: entry.priority,
                ..v1::TableEntry::default()
            };
            Some(OffloadedRow {
                port: row.port.into(),
                entry: key.encode_to_vec(),
                rules: row.rules as u64,
                installed: row.installed as u64,
                why: row.why,
                is_counted: row.is_counted,
                packets: row.packets,
            })
        };
        rows.into_iter().filter_map(out).collect()
    }
}

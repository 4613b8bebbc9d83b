//! Rows that this agent wrote under earlier settings: another tag (`cookie`), other tables (`first_table`).
//!
//! * Under a former tag in a table of the pipeline: the row is read as ours and written again, or deleted, like any other.
//! * In a table that the pipeline does not have: it stays until every row of the newest generation is in force, so that
//!   nothing is open meanwhile, and is deleted then.
//! * Where a table's number means another table now, old rows and new ones cannot stand side by side: one atomic bundle
//!   removes the old ones and adds the new ones.
//!
//! What has another tag is another agent's and is not touched.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_backend::Footprint;
use portcullis_openflow::{Command, FlowMod, FlowStatsRequest, flow_mod};

use crate::regs;
use crate::tables::Pipeline;

/// How many rows are left, by tag and table.
pub(crate) type Left = BTreeMap<(u16, u8), u64>;

/// What is known of earlier settings.
#[derive(Debug, Default, Clone)]
pub(crate) struct Former {
    /// Tags of this agent, but the present one.
    tags: BTreeSet<u16>,
    /// Tables that it used under its present tag, and does not now.
    tables: BTreeSet<u8>,
    /// Nothing is recorded: its rows may be in any table.
    pub(super) anywhere: bool,
    /// A table's number means another table now.
    pub(super) moved: bool,
    /// Rows that are left elsewhere, as they were read last.
    pub(super) left: Left,
    /// The barrier behind their removal.
    pub(super) removing: Option<u32>,
}

impl Former {
    /// From what was recorded on a datapath.
    pub(super) fn new(recorded: &[Footprint], pipeline: &Pipeline) -> Self {
        let now = pipeline.footprint();
        let mut former = Former {
            anywhere: recorded.is_empty(),
            ..Former::default()
        };
        for footprint in recorded {
            if footprint.tag != now.tag {
                former.tags.insert(footprint.tag);
            }
            for (number, name) in &footprint.tables {
                match now.tables.get(number) {
                    None if footprint.tag == now.tag => {
                        former.tables.insert(*number);
                    }
                    Some(other) if other != name => former.moved = true,
                    _ => {}
                }
            }
        }
        former
    }

    /// Whether a tag is one that this agent used before.
    pub(crate) fn has(&self, tag: u16) -> bool {
        self.tags.contains(&tag)
    }

    /// Whether nothing is left of earlier settings, on the switch and in the records.
    pub(super) fn is_over(&self) -> bool {
        self.tags.is_empty() && self.tables.is_empty() && self.left.is_empty()
    }

    /// Every tag of this agent.
    pub(super) fn all_tags(&self, pipeline: &Pipeline) -> Vec<u16> {
        std::iter::once(pipeline.tag)
            .chain(self.tags.iter().copied())
            .collect()
    }

    /// What to read beyond the tables of the pipeline.
    pub(super) fn requests(&self, pipeline: &Pipeline) -> Vec<FlowStatsRequest> {
        let request = |tag: u16, table_id: u8| FlowStatsRequest {
            table_id,
            cookie: regs::cookie(tag, 0),
            cookie_mask: regs::TAG_MASK,
            ..FlowStatsRequest::default()
        };
        let mut list: Vec<FlowStatsRequest> = self
            .tags
            .iter()
            .map(|tag| request(*tag, flow_mod::ALL_TABLES))
            .collect();
        if self.anywhere {
            list.push(request(pipeline.tag, flow_mod::ALL_TABLES));
        }
        list.extend(self.tables.iter().map(|table| request(pipeline.tag, *table)));
        list
    }

    /// Deletes what is left elsewhere.
    pub(super) fn removals(&self) -> Vec<FlowMod> {
        self.left
            .keys()
            .map(|(tag, table)| delete_all(*tag, *table))
            .collect()
    }

    /// Deletes every row of this agent, wherever it is.
    pub(super) fn wipe(&self, pipeline: &Pipeline) -> Vec<FlowMod> {
        let tags = self.all_tags(pipeline).into_iter();
        tags.map(|tag| delete_all(tag, flow_mod::ALL_TABLES)).collect()
    }
}

/// Deletes the rows with a tag in a table; no other row is touched.
fn delete_all(tag: u16, table_id: u8) -> FlowMod {
    FlowMod {
        table_id,
        command: Command::Delete,
        cookie: regs::cookie(tag, 0),
        cookie_mask: regs::TAG_MASK,
        ..FlowMod::default()
    }
}

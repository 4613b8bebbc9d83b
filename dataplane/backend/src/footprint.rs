//! Footprint of an agent on a datapath: the tag and tables of its rows.
//!
//! A tag or a table of the configuration can change. Then the rows that were written before are still there, and decide.
//! So a backend records its footprint before it writes the first row, and removes its own rows from tags and tables that
//! it no longer uses. Rows with any other tag are another agent's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// One tag, and the tables that were written under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Footprint {
    /// Tag by which the agent knows its rows, in their cookies.
    pub tag: u16,
    /// What each table was, by its number.
    pub tables: BTreeMap<u8, String>,
}

/// The records could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FootprintError(pub String);

/// The records of an agent. A datapath is named so that the name stays the same as long as its rows can.
#[async_trait]
pub trait Footprints: Send + Sync + std::fmt::Debug {
    /// Every footprint on a datapath.
    async fn recorded(&self, datapath: &str) -> Result<Vec<Footprint>, FootprintError>;

    /// Records a footprint; it is durable when this returns.
    async fn record(&self, datapath: &str, footprint: &Footprint) -> Result<(), FootprintError>;

    /// Forgets footprints: no row of them is left.
    async fn forget(&self, datapath: &str, footprints: &[Footprint]) -> Result<(), FootprintError>;
}

/// Records that end with the process: of an agent without a store, and in tests.
#[derive(Debug, Default)]
pub struct Unstored(Mutex<BTreeMap<String, Vec<Footprint>>>);

#[async_trait]
impl Footprints for Unstored {
    async fn recorded(&self, datapath: &str) -> Result<Vec<Footprint>, FootprintError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.get(datapath).cloned().unwrap_or_default())
    }

    async fn record(&self, datapath: &str, footprint: &Footprint) -> Result<(), FootprintError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = all.entry(datapath.to_string()).or_default();
        if !list.contains(footprint) {
            list.push(footprint.clone());
        }
        Ok(())
    }

    async fn forget(&self, datapath: &str, footprints: &[Footprint]) -> Result<(), FootprintError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = all.get_mut(datapath) {
            list.retain(|known| !footprints.contains(known));
        }
        Ok(())
    }
}

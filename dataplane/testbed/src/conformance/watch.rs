//! What every probe meets, looked at after every single write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_policy::{Document, Verdict};

use super::Probe;

/// What is asked of the datapath at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rule {
    /// Its tables were empty: a port without rows has no verdict, and a port with rows has a verdict of a
    /// document.
    #[default]
    Blank,
    /// Every probe meets a verdict of a document.
    Strict,
    /// Another program changed rows of ours: nothing is checked until they are put right.
    Off,
}

type Verdicts = BTreeMap<Probe, Option<Verdict>>;

#[derive(Debug, Default)]
struct Seen {
    /// The documents between which the datapath may be, oldest first.
    documents: Vec<Verdicts>,
    rule: Rule,
    looks: u64,
    broken: Vec<String>,
}

/// Shared by the suite and the subject.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The datapath was written to: `verdict` says what a probe meets now.
    pub fn see(&self, verdict: impl Fn(&Probe) -> Option<Verdict>) {
        let mut seen = self.seen();
        if seen.rule == Rule::Off || seen.documents.is_empty() {
            return;
        }
        seen.looks += 1;
        for probe in Probe::all() {
            let said: Vec<Option<Verdict>> = seen
                .documents
                .iter()
                .map(|document| document.get(&probe).copied().flatten())
                .collect();
            // Where an endpoint comes or goes, its port is unmanaged before or after: nobody says what it may do.
            if said.contains(&None) {
                continue;
            }
            let met = verdict(&probe);
            let nobody = met.is_none() && seen.rule == Rule::Blank;
            if !nobody && !said.contains(&met) {
                let why = format!("{probe:?} meets {met:?}, and the documents say {said:?}");
                seen.broken.push(why);
            }
        }
    }

    /// The datapath may be at this document from now on.
    pub(super) fn allow(&self, document: &Document) {
        let verdicts = Probe::all().map(|probe| (probe, probe.says(document))).collect();
        self.seen().documents.push(verdicts);
    }

    /// The datapath is at the newest document.
    pub(super) fn settled(&self) {
        let mut seen = self.seen();
        let newest = seen.documents.len().saturating_sub(1);
        seen.documents.drain(..newest);
        seen.rule = Rule::Strict;
    }

    /// The datapath lost its rows.
    pub(super) fn blank(&self) {
        let mut seen = self.seen();
        if seen.rule == Rule::Strict {
            seen.rule = Rule::Blank;
        }
    }

    /// Another program changed rows of ours.
    pub(super) fn off(&self) {
        self.seen().rule = Rule::Off;
    }

    /// What was found to be wrong.
    pub(super) fn broken(&self) -> Vec<String> {
        self.seen().broken.clone()
    }

    /// How often the datapath was looked at.
    pub(super) fn looks(&self) -> u64 {
        self.seen().looks
    }
}

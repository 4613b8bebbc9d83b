//! View of events: commits, and changes of targets.

use portcullis_proto::v1;
use serde::Serialize;

use super::targets::TargetView;
use super::time::utc;
use crate::term::View;

/// One resource that a generation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceChangeView {
    /// `created`, `changed` or `deleted`.
    pub change: String,
    pub resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum EventView {
    /// A generation was committed.
    Committed {
        generation: u64,
        /// When, in UTC (RFC 3339).
        at: String,
        by: String,
        changes: Vec<ResourceChangeView>,
    },
    /// A target changed its state or its generation.
    Target {
        /// The generation it was told with.
        generation: u64,
        target: Box<TargetView>,
    },
}

impl EventView {
    /// Of a message; nothing for a sort of event that this command does not know.
    pub fn new(event: v1::Event) -> Option<Self> {
        let generation = event.generation;
        match event.event? {
            v1::event::Event::Committed(c) => {
                let change = |c: v1::ResourceChange| ResourceChangeView {
                    change: c.change,
                    resource: c.resource,
                };
                let changes = c.changes.into_iter().map(change).collect();
                Some(EventView::Committed {
                    generation,
                    at: utc(c.at),
                    by: c.by,
                    changes,
                })
            }
            v1::event::Event::Target(target) => Some(EventView::Target {
                generation,
                target: Box::new(target.into()),
            }),
        }
    }
}

/// Changes that a line names; the others are counted.
const CHANGES: usize = 8;

impl View for EventView {
    fn text(&self, _: Option<u16>) -> String {
        match self {
            EventView::Target { target, .. } => format!("target {}\n", target.line()),
            EventView::Committed {
                generation,
                at,
                by,
                changes,
            } => {
                let named = changes
                    .iter()
                    .take(CHANGES)
                    .map(|c| format!("{} {}", c.change, c.resource));
                let mut named: Vec<String> = named.collect();
                if changes.len() > CHANGES {
                    named.push(format!("{} more", changes.len() - CHANGES));
                }
                format!("generation {generation} by {by} at {at}: {}\n", named.join(", "))
            }
        }
    }
}

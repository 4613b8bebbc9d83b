//! Records of the tag and tables used on a datapath, and removal of rows under earlier ones.

use portcullis_backend::{Footprint, cause};

use super::Driver;

/// What is recorded of the rows on this datapath.
#[derive(Default)]
pub(super) struct Recorded {
    /// Whether rows of this agent were written there before.
    pub(super) before: bool,
    /// What earlier settings left.
    former: Vec<Footprint>,
    /// Why nothing could be recorded.
    pub(super) problem: Option<String>,
}

impl Driver {
    /// Reads what was recorded of rows on this datapath, and records what will be written.
    pub(super) async fn recall_footprint(&mut self) {
        let Some(datapath) = self.datapath() else { return };
        let own = self.units.pipeline().footprint();
        let records = self.backend.footprints();
        let recorded = match records.recorded(&datapath).await {
            Ok(recorded) if recorded.contains(&own) => Ok(recorded),
            Ok(recorded) => records.record(&datapath, &own).await.map(|()| recorded),
            Err(error) => Err(error),
        };
        let others = &self.backend.config().other_tags;
        let mut list = Vec::new();
        self.footprint.problem = match recorded {
            Ok(recorded) => {
                list = recorded;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        list.retain(|footprint| !others.contains(&footprint.tag));
        self.footprint.before = !list.is_empty();
        self.session.remember(&list);
        list.retain(|footprint| *footprint != own);
        self.footprint.former = list;
        if let Some(why) = &self.footprint.problem {
            let target = self.name();
            tracing::error!(target, why, "cannot record which tables and tag are used");
        }
    }

    /// The name of the datapath in the records: the bridge's row, which stays the same as long as its rows can.
    fn datapath(&self) -> Option<String> {
        let switch = self.database.snapshot()?;
        let bridge = switch.bridges.get(self.bridge.as_ref()?)?;
        Some(format!("ovs:{}", bridge.id))
    }

    pub(super) async fn left_over_removed(&mut self, count: u64) {
        if count > 0 {
            tracing::info!(
                target = self.name(),
                count,
                "removed rows of this agent from tables, or under tags, that it no longer uses"
            );
            self.caches.ask_again();
        }
        let former = std::mem::take(&mut self.footprint.former);
        if let Some(datapath) = self.datapath()
            && let Err(error) = self.backend.footprints().forget(&datapath, &former).await
        {
            // They are found to be gone again at the next start.
            tracing::warn!(target = self.name(), %error, "cannot forget tables and tags of earlier settings");
        }
    }

    /// A switch that lost the rows it had: on a bridge that is not secure everything passed since it was there again.
    pub(super) fn rows_lost(&mut self) {
        let had = self.footprint.before || self.state.status.applied > 0;
        let bare = self.session.machine.installed().is_empty() && self.session.left_over() == 0;
        if had && bare && !self.is_secure() {
            let now = self.time.uptime();
            self.state
                .windows
                .opened(cause::FAIL_MODE, self.links.absent.unwrap_or(now));
            self.state.lists_changed();
        }
        self.links.absent = None;
    }

    /// Some rows were not as they were written: since the last look at them, packets may have passed that they stop. Of a
    /// switch that lost all, [`rows_lost`](Self::rows_lost) tells.
    pub(super) fn rows_drifted(&mut self) {
        let bare = self.session.machine.installed().is_empty();
        if !bare {
            self.state.drift_opened(self.time.uptime());
        }
    }
}

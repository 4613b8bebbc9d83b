//! The datapaths: starting their backends, and waiting for what they tell.

use std::sync::Arc;

use portcullis_backend::TargetHandle;
use portcullis_ovs::OvsBackend;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;

/// A backend that runs.
#[derive(Debug)]
pub struct Launched {
    /// The way to it.
    pub handle: TargetHandle,
    /// Its task; it ends when it is told to stop, or the agent ends with it.
    pub task: JoinHandle<()>,
}

/// Every target, and a signal when one of them has news.
#[derive(Debug, Clone)]
pub struct Targets {
    handles: Arc<[TargetHandle]>,
    changes: watch::Receiver<()>,
}

impl Targets {
    /// Follows these.
    pub fn new(handles: Vec<TargetHandle>) -> Self {
        let (news, changes) = watch::channel(());
        let news = Arc::new(news);
        for handle in &handles {
            let (mut status, news) = (handle.watch(), Arc::clone(&news));
            // Ends with the backend's task, which holds the other side.
            tokio::spawn(async move {
                while status.changed().await.is_ok() {
                    news.send_replace(());
                }
            });
        }
        Targets {
            handles: handles.into(),
            changes,
        }
    }

    /// The targets, in the order of the configuration.
    pub fn handles(&self) -> &[TargetHandle] {
        &self.handles
    }

    /// A receiver that is told when any target's status changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// Returns when every target holds this generation or a later one.
    pub async fn realized(&self, generation: u64) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if self
                .handles
                .iter()
                .all(|target| target.status().applied >= generation)
            {
                return;
            }
            if changes.changed().await.is_err() {
                // The targets are stopping: what is not realized will not be now.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Starts what the configuration names, or what is found when it names nothing. A datapath that is not there yet is
/// started all the same: its session waits for it.
pub async fn start(targets: &config::Targets) -> Vec<Launched> {
    match targets {
        config::Targets::Configured(targets) => targets.iter().map(launch_ovs).collect(),
        config::Targets::Discover(target) => {
            tell_found(target).await;
            vec![launch_ovs(target)]
        }
    }
}

fn launch_ovs(target: &config::Target) -> Launched {
    let (handle, task) = portcullis_backend::launch(&target.name, OvsBackend::new(ovs(target)));
    Launched { handle, task }
}

/// One line that says what was found and what was not.
async fn tell_found(target: &config::Target) {
    const OTHERS: &str = "P4Runtime devices and the embedded DPDK switch are not in this version";
    match portcullis_ovs::discover(&ovs(target)).await {
        Ok(found) => tracing::info!(
            "found Open vSwitch {} with DPDK {} at {}, bridge {}: target {}; not looked for: {OTHERS}",
            found.ovs_version,
            found.dpdk_version,
            target.ovsdb,
            found.bridge,
            target.name
        ),
        Err(why) => tracing::warn!(
            "found no datapath; not found: {why}; target {} waits for it; not looked for: {OTHERS}",
            target.name
        ),
    }
}

fn ovs(target: &config::Target) -> portcullis_ovs::Config {
    portcullis_ovs::Config {
        name: target.name.clone(),
        ovsdb: target.ovsdb.clone(),
        bridge: target.bridge.clone(),
        uplinks: target.uplinks.clone(),
        first_table: target.first_table,
        final_action: match target.final_action {
            config::FinalAction::Normal => portcullis_ovs::FinalAction::Normal,
            config::FinalAction::GotoTable(table) => portcullis_ovs::FinalAction::GotoTable(table),
        },
        resync_interval: target.resync_interval,
        mgmt_dir: target.mgmt_dir.clone(),
        cookie: target.cookie,
    }
}

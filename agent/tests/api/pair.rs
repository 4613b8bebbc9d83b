//! An agent with two targets, and what a packet meets in the tables of a P4Runtime server.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::daemon::Agent;
use portcullis::targets;
use portcullis_proto::v1;
use portcullis_testbed::p4::{Fields, P4Server, State};

use super::support::*;

/// Nothing that is waited for takes so long, milliseconds.
const PATIENCE: u32 = 60_000;

/// What a TCP segment to a port, sent by who is at a port of the switch, meets there; `None` when nobody is.
fn met(state: &State, port: u128, to: u128) -> Option<String> {
    let mut packet: Fields = [
        ("port", port),
        ("ether_type", 0x0800),
        ("kind", 2),
        ("protocol", 6),
        ("src_ipv4", 0xc000_0201),
        ("dst_ipv4", 0xc633_6409),
        ("src_port", 40_000),
        ("dst_port", to),
        ("tcp_flags", 2),
    ]
    .into();
    let (_, values) = state.meets("attach", &packet)?;
    let lead = values.first().copied()?;
    let (class, overlay) = (lead & 0xffff, lead >> 16);
    if class == 0 {
        return Some("open".to_string());
    }
    packet.insert("class", class);
    packet.insert("overlay", overlay);
    packet.insert("remote_id", 0);
    let verdict = state.meets("egress_policy", &packet);
    Some(verdict.map_or_else(|| "nothing".to_string(), |(action, _)| action))
}

/// A P4Runtime server as a target.
pub fn p4runtime(name: &str, server: &P4Server) -> String {
    let address = server.address();
    format!(
        "[[target]]\nname = \"{name}\"\nkind = \"p4runtime\"\naddress = \"{address}\"\nresync_interval = \"1s\"\n"
    )
}

/// Whether that segment passes.
pub fn passes(server: &P4Server, port: u128, to: u128) -> Option<bool> {
    met(&server.state(), port, to).map(|verdict| !verdict.ends_with("deny") && verdict != "nothing")
}

/// An agent with two targets.
pub struct Two {
    _folder: tempfile::TempDir,
    pub agent: Agent,
    pub client: Client,
}

impl Two {
    /// With these targets, as the configuration writes them.
    pub async fn start(targets: &str) -> Two {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), targets);
        let launched = targets::start(&config.targets).await.unwrap();
        let agent = Agent::start(config, launched).await.unwrap();
        let client = Client::unix(&folder.path().join("agent.sock")).await;
        Two {
            _folder: folder,
            agent,
            client,
        }
    }

    pub async fn wait(&mut self, generation: u64, timeout_ms: u32) -> v1::WaitRealizedResponse {
        let request = v1::WaitRealizedRequest {
            generation,
            timeout_ms,
        };
        self.client
            .targets
            .wait_realized(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn realized(&mut self, generation: u64) {
        let answer = self.wait(generation, PATIENCE).await;
        assert!(answer.realized, "{answer:#?}");
    }

    pub async fn status(&mut self) -> BTreeMap<String, v1::Target> {
        let request = v1::ListTargetsRequest {};
        let list = self.client.targets.list_targets(request).await.unwrap();
        let targets = list.into_inner().targets.into_iter();
        targets.map(|t| (t.name.clone(), t)).collect()
    }

    /// Waits until a target tells something.
    pub async fn until(&mut self, name: &str, what: &str, done: impl Fn(&v1::Target) -> bool) {
        let end = std::time::Instant::now() + Duration::from_millis(PATIENCE.into());
        loop {
            let status = self.status().await;
            if done(&status[name]) {
                return;
            }
            assert!(std::time::Instant::now() < end, "not {what} in time: {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `web1` gets a rule of its own that denies a port, or has none of its own.
    pub async fn web(&mut self, denied: Option<u16>) -> u64 {
        let mut web = self.client.endpoint("web1").await.unwrap();
        let own = denied.map(|port| v1::Rule {
            ports: vec![port.to_string()],
            ..rule("own", v1::Action::Deny, v1::Direction::Egress)
        });
        web.rules = own.into_iter().collect();
        self.client.provision(web).await.unwrap().generation
    }
}

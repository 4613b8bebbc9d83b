//! Roles: an agent names the one it has, and keeps apart from controllers with another.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_backend::SessionState;
use portcullis_p4runtime::wire::arbitrated;
use portcullis_proto::p4::v1;
use portcullis_testbed::p4::P4Server;
use rig::{Rig, document, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use v1::p4_runtime_client::P4RuntimeClient;
use v1::stream_message_request::Update as Request;
use v1::stream_message_response::Update as Response;

/// Another controller, without anything of ours.
pub(crate) struct Other {
    rpc: P4RuntimeClient<Channel>,
    role: String,
    election_id: u64,
    _requests: mpsc::Sender<v1::StreamMessageRequest>,
    responses: Streaming<v1::StreamMessageResponse>,
}

impl Other {
    /// Connects, and waits until it is the primary of its role.
    pub(crate) async fn primary(server: &P4Server, role: &str, election_id: u64) -> Other {
        let address = format!("http://{}", server.address());
        let mut rpc = P4RuntimeClient::connect(address).await.unwrap();
        let (requests, queue) = mpsc::channel(4);
        let arbitration = v1::MasterArbitrationUpdate {
            device_id: 1,
            role: (!role.is_empty()).then(|| v1::Role {
                name: role.to_string(),
                ..Default::default()
            }),
            election_id: Some(v1::Uint128 {
                high: 0,
                low: election_id,
            }),
            status: None,
        };
        let first = v1::StreamMessageRequest {
            update: Some(Request::Arbitration(arbitration)),
        };
        requests.send(first).await.unwrap();
        let responses = rpc.stream_channel(ReceiverStream::new(queue)).await.unwrap();
        let mut other = Other {
            rpc,
            role: role.to_string(),
            election_id,
            _requests: requests,
            responses: responses.into_inner(),
        };
        let told = other.told().await;
        assert_eq!(told.status.unwrap().code, 0);
        assert_eq!(told.role.unwrap_or_default().name, role);
        other
    }

    async fn told(&mut self) -> v1::MasterArbitrationUpdate {
        let message = self.responses.message().await.unwrap().unwrap();
        match message.update {
            Some(Response::Arbitration(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    /// Inserts an entry in the name of a role.
    pub(crate) async fn insert(&mut self, role: &str, entry: v1::TableEntry) -> Result<(), Status> {
        let entity = v1::Entity {
            entity: Some(v1::entity::Entity::TableEntry(entry)),
        };
        let request = v1::WriteRequest {
            device_id: 1,
            role: role.to_string(),
            election_id: Some(v1::Uint128 {
                high: 0,
                low: self.election_id,
            }),
            updates: vec![v1::Update {
                r#type: v1::update::Type::Insert as i32,
                entity: Some(entity),
            }],
            ..Default::default()
        };
        self.rpc.write(request).await.map(drop)
    }
}

/// A row like one of the agent's, at a port that nobody else speaks of, with the mark of somebody else.
#[allow(deprecated)]
fn foreign(rig: &Rig, port: u8) -> v1::TableEntry {
    let state = rig.server.state();
    let attach = state.info().unwrap().tables.iter().find_map(|t| {
        let preamble = t.preamble.as_ref()?;
        (preamble.alias == "attach").then_some(preamble.id)
    });
    let mut entry = state
        .entries
        .values()
        .find(|e| Some(e.table_id) == attach)
        .unwrap()
        .clone();
    entry.metadata = b"theirs".to_vec();
    entry.controller_metadata = 7;
    let port_field = entry
        .r#match
        .iter_mut()
        .find_map(|m| match &mut m.field_match_type {
            Some(v1::field_match::FieldMatchType::Exact(port)) => Some(port),
            _ => None,
        });
    port_field.unwrap().value = vec![port];
    entry
}

fn mastership(rig: &Rig) -> Option<String> {
    rig.target.status().versions.get("mastership").cloned()
}

/// Without rules of single endpoints, so that a class keeps its number when its rules change.
fn profiled(blocked: &str) -> String {
    let document = document(blocked, "");
    let rules = document.find("    rules:").unwrap();
    document[..rules].to_string()
}

#[tokio::test]
async fn the_role_is_named_when_it_arbitrates_and_when_it_writes() {
    for role in ["", "ports"] {
        let server = P4Server::start().await.unwrap();
        let mut rig = Rig::with(server, |config| config.role = role.to_string()).await;
        rig.apply(&document("25", "")).await;
        rig.right();
        assert_eq!(rig.server.roles(), BTreeMap::from([(role.to_string(), vec![1])]));
        let state = rig.server.state();
        assert!(state.updates > 0);
        assert_eq!(state.written, BTreeMap::from([(role.to_string(), state.updates)]));
    }
}

#[tokio::test]
async fn controllers_of_other_roles_are_no_rivals() {
    let server = P4Server::start().await.unwrap();
    // They are there first, and their election ids are higher.
    let mut routes = Other::primary(&server, "routes", 1000).await;
    let mut all = Other::primary(&server, "", 2000).await;
    let mut rig = Rig::with(server, |config| config.role = "ports".to_string()).await;
    rig.apply(&profiled("25")).await;
    rig.right();
    assert_eq!(mastership(&rig).as_deref(), Some("primary"));
    let ours = rig.rows();
    // Each may write in its own name only.
    for (who, name) in [(&mut routes, "routes"), (&mut all, "")] {
        let refused = who.insert("ports", foreign(&rig, 77)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{}", who.role);
        let port = if name.is_empty() { 78 } else { 79 };
        who.insert(name, foreign(&rig, port)).await.unwrap();
    }
    rig.until("their rows are seen", |s| {
        s.foreign_rows == 2 && s.state == SessionState::InSync
    })
    .await;
    // The agent goes on, and leaves what is theirs alone.
    rig.apply(&profiled("25, 465")).await;
    rig.right();
    rig.apply(&profiled("25")).await;
    rig.until("their rows are still there", |s| {
        s.foreign_rows == 2 && s.state == SessionState::InSync
    })
    .await;
    let theirs: Vec<v1::TableEntry> = {
        let state = rig.server.state();
        let theirs = state.entries.values().filter(|e| e.metadata == b"theirs");
        theirs.cloned().collect()
    };
    assert_eq!(theirs.len(), 2);
    rig.server.state().entries.retain(|_, e| e.metadata != b"theirs");
    assert_eq!(rig.rows(), ours);
    assert_eq!(rig.target.status().drift_repaired, 0);
    let written = rig.server.state().written.clone();
    assert_eq!((written["routes"], written[""]), (1, 1), "{written:?}");
    assert!(written["ports"] > 2, "{written:?}");
}

/// What a server says of the primary of another role, or of another device, makes nobody the primary here.
#[test]
fn the_primary_of_another_role_is_not_ours() {
    let update = |device_id, role: Option<&str>| v1::MasterArbitrationUpdate {
        device_id,
        role: role.map(|name| v1::Role {
            name: name.to_string(),
            ..v1::Role::default()
        }),
        ..v1::MasterArbitrationUpdate::default()
    };
    for (device_id, role) in [(1, Some("ports")), (1, None), (0, None)] {
        assert_eq!(arbitrated(&update(device_id, role), 1, "ports"), Ok(true));
    }
    for (device_id, role) in [(1, Some("routes")), (1, Some("")), (2, Some("ports"))] {
        assert!(
            arbitrated(&update(device_id, role), 1, "ports").is_err(),
            "{role:?}"
        );
    }
}

#[tokio::test]
async fn a_rival_of_the_same_role_is_one_and_no_other_role_is_concerned() {
    let server = P4Server::start().await.unwrap();
    let mut routes = Other::primary(&server, "routes", 5).await;
    let mut rig = Rig::with(server, |config| config.role = "ports".to_string()).await;
    let intent = rig.apply(&profiled("25")).await;
    let (rival, task) = rig.rival(100);
    until(&rival, "primary", |s| {
        s.versions.get("mastership").is_some_and(|m| m == "primary")
    })
    .await;
    rig.until("backup", |s| s.detail.contains("higher election id"))
        .await;
    let mut ids = rig.server.roles();
    ids.values_mut().for_each(|ids| ids.sort_unstable());
    assert_eq!(
        ids,
        BTreeMap::from([
            ("ports".to_string(), vec![1, 100]),
            ("routes".to_string(), vec![5])
        ])
    );
    routes.insert("routes", foreign(&rig, 77)).await.unwrap();
    rival.stop();
    task.await.unwrap();
    rig.until("primary again", |s| {
        s.foreign_rows == 1 && s.state == SessionState::InSync
    })
    .await;
    rig.target.set_intent(Arc::clone(&intent));
    rig.realized().await;
    assert_eq!(rig.server.roles()["ports"], [1]);
}

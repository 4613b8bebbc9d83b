//! Rows of other controllers in a foreign table that is ours, too: ours have the priorities that the mapping gives them, theirs
//! take room, and those that ours stand above are reported.

use portcullis_backend::SessionState;
use portcullis_p4runtime::{Mapping, PipelineSource, parse};
use portcullis_proto::p4::v1;
use portcullis_testbed::p4::P4Server;

use crate::rig::{Rig, document};
use crate::roles::Other;

const MAPPING: &str = include_str!("fixtures/foreign.toml");
/// The table, and its action that lets pass, by their ids in the P4Info.
const TABLE: u32 = 33_554_433;
const GO_ON: u32 = 16_777_217;

/// A device with the foreign program, whose table holds this many rows, and an agent with this mapping.
async fn rig(size: i64, mapping: &str) -> Rig {
    let server = P4Server::start().await.unwrap();
    let mut info = parse(include_bytes!("fixtures/foreign.txtpb")).unwrap();
    info.tables[0].size = size;
    server.state().config = Some(v1::ForwardingPipelineConfig {
        p4info: Some(info),
        ..Default::default()
    });
    let mapping = Mapping::from_toml(mapping).unwrap();
    Rig::with(server, |config| {
        config.program = PipelineSource::Device(Some(mapping));
        config.role = "ports".to_string();
    })
    .await
}

/// A row of an operator: IPv4 passes, of this protocol.
fn theirs(protocol: u8, priority: i32) -> v1::TableEntry {
    use v1::field_match::{FieldMatchType, Ternary};
    let ternary = |field_id, value: &[u8], mask: &[u8]| v1::FieldMatch {
        field_id,
        field_match_type: Some(FieldMatchType::Ternary(Ternary {
            value: value.to_vec(),
            mask: mask.to_vec(),
        })),
    };
    let action = v1::Action {
        action_id: GO_ON,
        params: Vec::new(),
    };
    v1::TableEntry {
        table_id: TABLE,
        r#match: vec![
            ternary(2, &[8, 0], &[0xff, 0xff]),
            ternary(3, &[protocol], &[0xff]),
        ],
        action: Some(v1::TableAction {
            r#type: Some(v1::table_action::Type::Action(action)),
        }),
        priority,
        metadata: b"theirs".to_vec(),
        ..Default::default()
    }
}

/// What the status says about rows of others.
fn reported(rig: &Rig) -> Option<String> {
    let status = rig.target.status();
    let mut list = status
        .unsupported
        .iter()
        .filter(|u| u.rule.contains("of other controllers"));
    list.next().map(ToString::to_string)
}

/// The priorities of the agent's rows, lowest and highest.
fn priorities(rig: &Rig) -> (i32, i32) {
    let state = rig.server.state();
    let ours = || {
        state
            .entries
            .values()
            .filter(|e| e.metadata != b"theirs")
            .map(|e| e.priority)
    };
    (ours().min().unwrap(), ours().max().unwrap())
}

#[tokio::test]
async fn rows_of_others_keep_their_place_around_a_band() {
    let band = MAPPING.replace(
        "priority_max = 16777215",
        "priority_min = 1000\npriority_max = 5999",
    );
    let mut rig = rig(2048, &band).await;
    let mut operator = Other::primary(&rig.server, "acl", 7).await;
    operator.insert("acl", theirs(47, 6000)).await.unwrap();
    rig.apply(&document("25", "")).await;
    let (low, high) = priorities(&rig);
    assert!(1000 <= low && high <= 5999, "{low} to {high}");
    rig.until("the row is seen", |s| {
        s.foreign_rows == 1 && s.state == SessionState::InSync
    })
    .await;
    assert_eq!(reported(&rig), None);
    // Below ours it is not met from server ports, whose rows match every frame.
    operator.insert("acl", theirs(50, 900)).await.unwrap();
    rig.until("the row below is seen", |s| s.foreign_rows == 2).await;
    let report = reported(&rig).expect("it is reported");
    for part in [
        "1 row of other controllers",
        "what stands below is not met",
        "priority=900",
        "priority_max",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[tokio::test]
async fn rows_of_others_take_room() {
    let mut rig = rig(120, MAPPING).await;
    rig.apply(&document("25", "")).await;
    let ours = rig.rows().len() as u64;
    let mut operator = Other::primary(&rig.server, "acl", 7).await;
    let room = 120 - ours;
    for n in 0..room {
        operator
            .insert("acl", theirs(100 + n as u8, 16_777_214))
            .await
            .unwrap();
    }
    rig.until("the rows are seen", |s| {
        s.foreign_rows == room && s.state == SessionState::InSync
    })
    .await;
    // What is there goes on, and what is more is refused with the numbers, before anything is written.
    let writes = rig.server.state().updates;
    let intent = rig.intent(&document("25, 99, 1025, 4097", ""));
    let error = rig.target.check(&intent).unwrap_err().to_string();
    assert!(error.contains(&format!("and holds {ours}")), "{error}");
    assert_eq!(rig.server.state().updates, writes);
}

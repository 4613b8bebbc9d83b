//! Rows carry the ends of unlocks to a switch that keeps them, so that it closes what they opened when no agent does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_backend::SessionState;
use portcullis_compiler::{ClassId, Intent};
use portcullis_p4runtime::ends;
use portcullis_p4runtime::entry::End;
use portcullis_policy::{Document, Grant, GrantKind};
use portcullis_proto::p4::v1;
use portcullis_testbed::p4::P4Server;
use rig::{Rig, document};

/// The rig has a port without an endpoint, whose MACs nobody declares.
const NO_MACS: &str = "deliver/(unmanaged)";

/// What the target says that it does not do.
fn told(rig: &Rig) -> Vec<String> {
    let status = rig.target.status();
    status.unsupported.iter().map(|u| u.rule.clone()).collect()
}

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

/// TCP ports of `web`, each open until its moment.
fn unlocked(ends: &[(u16, u64)]) -> Document {
    let mut document = Document::from_yaml(&document("25, 465", "")).unwrap();
    let grant = |(port, ends): &(u16, u64)| {
        let rule =
            format!("{{name: opens, action: allow, direction: egress, protocol: tcp, ports: [{port}]}}");
        let opens = Document::from_yaml(&format!("version: portcullis/v1\nbaseline: [{rule}]")).unwrap();
        Grant {
            unlock: format!("u{port}").parse().unwrap(),
            program: "mail".parse().unwrap(),
            rules: opens.baseline.to_vec(),
            kind: GrantKind::Unlock,
            ends: *ends,
        }
    };
    let grants: Vec<Grant> = ends.iter().map(grant).collect();
    document.grants.insert("web".parse().unwrap(), Arc::new(grants));
    document
}

async fn started(keeps_ends: bool) -> Rig {
    let server = P4Server::start().await.unwrap();
    server.faults().keeps_ends.store(keeps_ends, Ordering::Relaxed);
    Rig::with(server, |_| {}).await
}

async fn enforced(rig: &mut Rig, document: &Document) -> Arc<Intent> {
    let intent = rig.intent_of(document);
    rig.target.check(&intent).unwrap();
    rig.target.set_intent(Arc::clone(&intent));
    let generation = intent.generation;
    rig.until("in sync", |s| {
        s.state == SessionState::InSync && s.applied == generation
    })
    .await;
    intent
}

/// Changes the row that leads what port 1 sends to its class.
fn attach<T>(rig: &Rig, what: impl FnOnce(&mut v1::TableEntry) -> T) -> T {
    let mut state = rig.server.state();
    let info = state.info().unwrap().clone();
    let table = info
        .tables
        .iter()
        .find(|t| t.preamble.as_ref().unwrap().alias == "attach")
        .unwrap();
    let id = table.preamble.as_ref().unwrap().id;
    let of_port = |entry: &&mut v1::TableEntry| {
        entry.table_id == id
            && entry.r#match.iter().any(|m| {
                m.field_id == 1
                    && matches!(&m.field_match_type, Some(v1::field_match::FieldMatchType::Exact(e)) if e.value == [1])
            })
    };
    what(state.entries.values_mut().find(of_port).unwrap())
}

fn class(entry: &mut v1::TableEntry) -> &mut Vec<u8> {
    match entry.action.as_mut().unwrap().r#type.as_mut().unwrap() {
        v1::table_action::Type::Action(action) => &mut action.params[0].value,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_row_carries_what_its_class_becomes() {
    let mut rig = started(true).await;
    let (first, last) = (in_seconds(1000), in_seconds(2000));
    let intent = enforced(&mut rig, &unlocked(&[(25, first), (465, last)])).await;
    let transitions = &intent.endpoints["web"].transitions;
    // The overlay is in the upper 16 bits, and the class below it in the lower ones.
    let of = |id: ClassId| match intent.classes.get(&id).and_then(|class| class.base.as_ref()) {
        Some(base) => id.0 << 16 | base.id.0,
        None => id.0,
    };
    let wanted = [
        End {
            at: first,
            value: of(transitions[0].classes.egress),
        },
        End {
            at: last,
            value: of(transitions[1].classes.egress),
        },
    ];
    assert_eq!(attach(&rig, |e| ends::read(&e.metadata)), Some(wanted.to_vec()));
    assert_eq!(told(&rig), [NO_MACS]);
    // A restarted agent writes nothing.
    rig.restart_agent();
    rig.target.set_intent(intent);
    rig.until("in sync", |s| s.state == SessionState::InSync).await;
    assert_eq!(rig.target.status().writes, [0; 3]);
    // The switch's clock is ahead, and the first end is past there. That is no drift; and as it is not past here, the row is
    // written again.
    attach(&rig, |entry| {
        *class(entry) = portcullis_p4runtime::value::encode(wanted[0].value.into());
        entry.metadata.truncate(ends::TAG);
        entry.metadata = ends::append(std::mem::take(&mut entry.metadata), &wanted[1..]);
    });
    rig.until("written again", |s| {
        s.writes[1] == 1 && s.state == SessionState::InSync
    })
    .await;
    assert_eq!(attach(&rig, |e| ends::read(&e.metadata)), Some(wanted.to_vec()));
    assert_eq!(rig.target.status().drift_repaired, 0);
    assert_eq!(rig.server.broken(), Vec::<String>::new());
}

#[tokio::test]
async fn where_rows_do_not_end_status_says_so() {
    let mut rig = started(false).await;
    enforced(&mut rig, &unlocked(&[(25, in_seconds(1000))])).await;
    assert_eq!(attach(&rig, |e| e.metadata.len()), ends::TAG);
    let ends = "the end of unlocks of web while the agent is away";
    assert_eq!(told(&rig), [NO_MACS, ends]);
    // The device is replaced by one that keeps ends: rows get theirs.
    rig.server.faults().keeps_ends.store(true, Ordering::Relaxed);
    rig.server.restart(Duration::from_millis(100)).await.unwrap();
    rig.until("there", |s| s.disconnects > 0 && s.state == SessionState::InSync)
        .await;
    assert_eq!(attach(&rig, |e| ends::read(&e.metadata).unwrap().len()), 1);
    assert_eq!(told(&rig), [NO_MACS]);
}

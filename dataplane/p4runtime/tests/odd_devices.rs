//! Devices whose own description is odd or wrong: what can be used is used, and for all else there is a reason in the
//! status and not one write.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::time::Duration;

use portcullis_backend::SessionState;
use portcullis_p4runtime::{Mapping, P4Info, PipelineSource, PortMatching, parse};
use portcullis_proto::p4::config::v1::match_field::{Match, MatchType};
use portcullis_proto::p4::config::v1::{MatchField, Table};
use portcullis_proto::p4::v1;
use portcullis_testbed::p4::P4Server;
use rig::{Rig, document};

fn foreign() -> P4Info {
    parse(include_bytes!("fixtures/foreign.txtpb")).unwrap()
}

fn own() -> P4Info {
    parse(include_bytes!(
        "../../../p4/compiled/portcullis-range.p4info.txtpb"
    ))
    .unwrap()
}

fn mapping() -> Mapping {
    Mapping::from_toml(include_str!("fixtures/foreign.toml")).unwrap()
}

fn table<'a>(info: &'a mut P4Info, alias: &str) -> &'a mut Table {
    let mut tables = info.tables.iter_mut();
    tables
        .find(|t| t.preamble.as_ref().is_some_and(|p| p.alias == alias))
        .unwrap()
}

fn field<'a>(info: &'a mut P4Info, name: &str) -> &'a mut MatchField {
    let mut fields = table(info, "fw.rules").match_fields.iter_mut();
    fields.find(|f| f.name == name).unwrap()
}

/// A device that runs this program, and an agent that shall use its tables.
async fn device(info: P4Info, mapping: Option<Mapping>) -> Rig {
    let server = P4Server::start().await.unwrap();
    server.state().config = Some(v1::ForwardingPipelineConfig {
        p4info: Some(info),
        ..Default::default()
    });
    let mut rig = Rig::with(server, |config| {
        config.program = PipelineSource::Device(mapping);
        config.servers.clear();
    })
    .await;
    rig.set(&document("25", ""));
    rig
}

/// The device is not written to, and its status says why.
async fn is_left_alone(what: &str, info: P4Info, mapping: Option<Mapping>, reasons: &[&str]) {
    let rig = device(info.clone(), mapping).await;
    rig.until(what, |s| {
        reasons
            .iter()
            .all(|reason| s.detail.contains(reason) || s.unsupported.iter().any(|u| u.why.contains(reason)))
    })
    .await;
    // It is asked again and again, and told the same each time.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let status = rig.target.status();
    assert_ne!(status.state, SessionState::InSync, "{what}: {status:#?}");
    assert_eq!(
        (status.applied, status.writes),
        (0, [0; 3]),
        "{what}: {status:#?}"
    );
    let state = rig.server.state();
    assert_eq!((state.updates, state.pushes), (0, 0), "{what}");
    assert_eq!(state.info(), Some(&info), "{what}");
}

#[tokio::test]
async fn what_does_not_tell_its_parts_apart_is_not_used() {
    let twice = |change: &dyn Fn(&mut P4Info)| {
        let mut info = foreign();
        change(&mut info);
        info
    };
    let table_id = twice(&|info| {
        let mut copy = info.tables[0].clone();
        copy.preamble.as_mut().unwrap().alias = "again".to_string();
        copy.preamble.as_mut().unwrap().name = "again".to_string();
        info.tables.push(copy);
    });
    let table_name = twice(&|info| {
        let mut copy = info.tables[0].clone();
        copy.preamble.as_mut().unwrap().id ^= 0x8000;
        info.tables.push(copy);
    });
    let no_id = twice(&|info| table(info, "fw.rules").preamble.as_mut().unwrap().id = 0);
    let action_id = twice(&|info| {
        let mut copy = info.actions[0].clone();
        copy.preamble.as_mut().unwrap().alias = "again".to_string();
        info.actions.push(copy);
    });
    let field_id = twice(&|info| {
        let fields = &mut table(info, "fw.rules").match_fields;
        fields[1].id = fields[0].id;
    });
    for (what, info, reason) in [
        (
            "a table's id twice",
            table_id,
            "table `again` has the id of another table",
        ),
        (
            "a table's name twice",
            table_name,
            "more than one table is called `",
        ),
        ("no id", no_id, "table `fw.rules` has no id"),
        (
            "an action's id twice",
            action_id,
            "action `again` has the id of another action",
        ),
        (
            "a field's id twice",
            field_id,
            "of table `fw.rules` has the id of another one",
        ),
    ] {
        is_left_alone(what, info, Some(mapping()), &["the P4Info is unusable", reason]).await;
    }
}

#[tokio::test]
async fn tables_that_cannot_hold_the_rows_are_not_used() {
    let change = |change: &dyn Fn(&mut P4Info)| {
        let mut info = foreign();
        change(&mut info);
        info
    };
    let kind = |kind: i32| {
        move |info: &mut P4Info| field(info, "ig_md.lkp.dport").r#match = Some(Match::MatchType(kind))
    };
    let width = |bits: i32| move |info: &mut P4Info| field(info, "ig_md.lkp.dport").bitwidth = bits;
    let no_actions = change(&|info| table(info, "fw.rules").action_refs.clear());
    let cases = [
        (
            "no tables",
            change(&|info| info.tables.clear()),
            vec!["the device runs no P4 program"],
        ),
        (
            "another table",
            change(&|info| {
                info.tables
                    .retain(|t| t.preamble.as_ref().unwrap().alias != "fw.rules")
            }),
            vec!["table.fw.rules.table: there is no such table; there are "],
        ),
        (
            "no fields",
            change(&|info| table(info, "fw.rules").match_fields.clear()),
            vec![
                "table.fw.rules cannot serve as `policy`",
                "there is no match field `ig_md.lkp.dport`",
            ],
        ),
        ("no actions", no_actions, vec!["is no action of its rows"]),
        (
            "a kind of match from the future",
            change(&kind(77)),
            vec!["`ig_md.lkp.dport` cannot be `dst_port`: its kind of match is the architecture's own"],
        ),
        (
            "no kind of match",
            change(&kind(MatchType::Unspecified as i32)),
            vec!["`ig_md.lkp.dport` cannot be `dst_port`: its kind of match is the architecture's own"],
        ),
        (
            "a huge field",
            change(&width(i32::MAX)),
            vec!["`ig_md.lkp.dport` cannot be `dst_port`: it has 2147483647 bits"],
        ),
        (
            "a field without bits",
            change(&width(0)),
            vec!["`ig_md.lkp.dport` cannot be `dst_port`: it has 0 bits"],
        ),
        (
            "a field of less than no bits",
            change(&width(i32::MIN)),
            vec!["it has -2147483648 bits"],
        ),
        (
            "a size below nothing",
            change(&|info| table(info, "fw.rules").size = -1),
            vec!["its size is -1"],
        ),
        (
            "rows that nobody may write",
            change(&|info| table(info, "fw.rules").is_const_table = true),
            vec!["its rows are constant"],
        ),
        (
            "no room",
            change(&|info| table(info, "fw.rules").size = 1),
            vec!["is too small", "holds 1"],
        ),
    ];
    for (what, info, reasons) in cases {
        is_left_alone(what, info, Some(mapping()), &reasons).await;
    }
}

#[tokio::test]
async fn hundreds_of_tables_are_no_trouble_unless_all_are_used() {
    let mut info = foreign();
    let bystander = info.tables[0].clone();
    for n in 0..400u32 {
        let mut more = bystander.clone();
        let preamble = more.preamble.as_mut().unwrap();
        (preamble.id, preamble.name) = (0x0200_8000 + n, format!("more{n}"));
        preamble.alias = format!("more{n}");
        info.tables.insert(0, more);
    }
    let mut rig = device(info, Some(mapping())).await;
    rig.realized().await;
    assert!(rig.server.state().updates > 0);
    // By names, all of these would be stages.
    let mut info = foreign();
    let mut many = parse(include_bytes!("fixtures/logical.txtpb")).unwrap();
    let attach = many.tables.iter().find(|t| {
        let preamble = t.preamble.as_ref().unwrap();
        preamble.alias.ends_with("attach")
    });
    let attach = attach.unwrap().clone();
    for n in 0..300u32 {
        let mut more = attach.clone();
        let preamble = more.preamble.as_mut().unwrap();
        (preamble.id, preamble.name) = (0x0200_9000 + n, format!("t{n}.attach"));
        preamble.alias = format!("t{n}.attach");
        many.tables.push(more);
    }
    info.clone_from(&many);
    is_left_alone("too many stages", info, None, &["can be told from each other"]).await;
}

#[tokio::test]
async fn what_nobody_knows_of_a_usable_device_is_passed_over() {
    let mut info = foreign();
    // Annotations of others, sizes that are not told, ids and names of things we do not use.
    for table in &mut info.tables {
        table.size = 0;
        let preamble = table.preamble.as_mut().unwrap();
        preamble
            .annotations
            .push("@vendor_magic(\"\u{1b}[31m\", 1 << 200)".to_string());
        preamble.annotations.push("@".to_string());
        for field in &mut table.match_fields {
            field
                .annotations
                .push("@sai_field(SAI_ACL_ENTRY_ATTR_X".to_string());
        }
    }
    for action in &mut info.actions {
        let preamble = action.preamble.as_mut().unwrap();
        preamble.annotations.push("@unheard_of".to_string());
    }
    info.pkg_info = None;
    let mut rig = device(info, Some(mapping())).await;
    rig.realized().await;
    let table = &rig.target.status().tables[0];
    assert_eq!((table.table.as_str(), table.size), ("fw.rules", None));
    assert!(rig.server.state().updates > 0);
    assert_eq!(rig.server.state().pushes, 0);
}

#[tokio::test]
async fn names_that_are_garbage_are_told_without_harm() {
    let mut info = foreign();
    let garbage = "\u{1b}]0;owned\u{7}\u{202e}\0".repeat(200);
    for table in &mut info.tables {
        let preamble = table.preamble.as_mut().unwrap();
        preamble.alias = format!("{garbage}{}", preamble.id);
        preamble.name.clone_from(&preamble.alias);
    }
    let rig = device(info, Some(mapping())).await;
    rig.until("told", |s| s.detail.contains("there is no such table"))
        .await;
    let detail = rig.target.status().detail.clone();
    assert!(!detail.chars().any(|c| c.is_control() && c != '\n'), "{detail:?}");
    assert!(detail.chars().count() < 5_000, "{}", detail.len());
    assert_eq!(rig.server.state().updates, 0);
}

/// Who calls itself by our name is believed to be a version of ours: it is replaced by ours, and only then written to.
#[tokio::test]
async fn a_program_that_only_has_our_name_is_replaced_before_anything_is_written() {
    let mut info = foreign();
    info.pkg_info.get_or_insert_default().name = "portcullis".to_string();
    let server = P4Server::start().await.unwrap();
    server.state().config = Some(v1::ForwardingPipelineConfig {
        p4info: Some(info),
        ..Default::default()
    });
    let mut rig = Rig::with(server, |config| {
        config.program = PipelineSource::Own(PortMatching::Range);
    })
    .await;
    rig.apply(&document("25", "")).await;
    rig.right();
    assert_eq!(rig.server.state().pushes, 1);
    assert_eq!(rig.server.state().info(), Some(&own()));
    // As the device's own program, which is never replaced, its tables are judged as they are.
    let mut info = own();
    info.tables
        .retain(|t| t.preamble.as_ref().unwrap().alias != "guard");
    is_left_alone("our program without a table", info, None, &["guard"]).await;
}

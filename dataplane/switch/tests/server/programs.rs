//! SetForwardingPipelineConfig and GetForwardingPipelineConfig (P4Runtime 1.6.0, sections 14 and 15).

use portcullis_proto::p4::v1;
use tonic::{Code, Status};
use v1::ForwardingPipelineConfig as Program;
use v1::get_forwarding_pipeline_config_request::ResponseType;
use v1::set_forwarding_pipeline_config_request::Action as SetAction;

use crate::rig::{
    Controller, DEVICE, RANGE, Rig, TERNARY, attach, everything, group, met, policy, tcp, update,
};

async fn get(controller: &mut Controller, what: i32) -> Result<Option<Program>, Status> {
    let request = v1::GetForwardingPipelineConfigRequest {
        device_id: DEVICE,
        response_type: what,
    };
    let answer = controller.client.get_forwarding_pipeline_config(request).await;
    answer.map(|answer| answer.into_inner().config)
}

fn range() -> Option<Program> {
    Some(RANGE.config.clone())
}

fn ternary() -> Option<Program> {
    Some(TERNARY.config.clone())
}

/// The range program, with something else in it.
fn changed(change: impl FnOnce(&mut portcullis_proto::p4::config::v1::P4Info)) -> Option<Program> {
    let mut program = RANGE.config.clone();
    change(program.p4info.as_mut().unwrap());
    Some(program)
}

#[tokio::test]
async fn what_runs_is_told_in_the_parts_that_are_asked_for() {
    let rig = Rig::start(0).await;
    let mut primary = rig.primary(1).await;
    assert_eq!(get(&mut primary, 0).await.unwrap(), None);
    primary.set(SetAction::VerifyAndCommit, range()).await.unwrap();
    let own = RANGE.config.clone();
    let told = get(&mut primary, ResponseType::All as i32)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told, own);
    let told = get(&mut primary, ResponseType::CookieOnly as i32)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((told.p4info, told.p4_device_config.len()), (None, 0));
    assert_eq!(told.cookie, own.cookie);
    let told = get(&mut primary, ResponseType::P4infoAndCookie as i32)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&told.p4info, told.p4_device_config.len()), (&own.p4info, 0));
    assert_eq!(told.cookie, own.cookie);
    let told = get(&mut primary, ResponseType::DeviceConfigAndCookie as i32)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&told.p4info, &told.p4_device_config),
        (&None, &own.p4_device_config)
    );
    assert_eq!(told.cookie, own.cookie);
    assert_eq!(
        get(&mut primary, 9).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn to_verify_changes_nothing() {
    let rig = Rig::start(0).await;
    let mut primary = rig.primary(1).await;
    primary.set(SetAction::Verify, range()).await.unwrap();
    assert_eq!(get(&mut primary, 0).await.unwrap(), None);
    let told = primary.write(vec![attach(1, 1).insert()]).await.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition);
    for action in [
        SetAction::Verify,
        SetAction::VerifyAndSave,
        SetAction::VerifyAndCommit,
        SetAction::ReconcileAndCommit,
    ] {
        for config in [None, Some(Program::default())] {
            let told = primary.set(action, config).await.unwrap_err();
            assert_eq!(told.code(), Code::InvalidArgument, "{action:?}");
        }
    }
    let told = primary.set(SetAction::Unspecified, range()).await.unwrap_err();
    assert_eq!(told.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_commit_begins_with_empty_tables() {
    let (rig, mut primary) = Rig::running().await;
    let updates = vec![
        attach(1, 0).insert(),
        policy("egress_policy", 1, (0, 9), 1, true).insert(),
        update(v1::update::Type::Insert, group(1, &[1, 2])),
    ];
    primary.write(updates.clone()).await.unwrap();
    assert_eq!(primary.read(everything()).await.len(), 3);
    primary.set(SetAction::VerifyAndCommit, ternary()).await.unwrap();
    assert_eq!(primary.read(everything()).await, []);
    let mut view = rig.view();
    let drops = met(view.newest(), &tcp(5, 80), 1).drops;
    assert_eq!(drops, [portcullis_fastpath::DropReason::UnknownSender]);
    // Ports match as masks now.
    let (code, why) = primary.refused(updates[1].clone()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(
        why.contains("`dst_port`") && why.contains("egress_policy"),
        "{why}"
    );
}

#[tokio::test]
async fn a_saved_program_waits_for_its_commit() {
    let (rig, mut primary) = Rig::running().await;
    let told = primary.set(SetAction::Commit, None).await.unwrap_err();
    assert_eq!(told.code(), Code::NotFound, "nothing was saved");
    primary.write(vec![attach(1, 0).insert()]).await.unwrap();
    let mut view = rig.view();
    let before = view.newest().generation();
    primary.set(SetAction::VerifyAndSave, ternary()).await.unwrap();
    // What is written and read is of the new tables; frames meet the old ones.
    assert_eq!(primary.read(everything()).await, []);
    let row = crate::rig::Entry::from_name("egress_policy")
        .ternary("class", 1, 0xffff)
        .ternary("dst_port", 0x50, 0xfff0)
        .priority(7)
        .action("sender.allow", None);
    primary
        .write(vec![attach(1, 1).insert(), row.insert()])
        .await
        .unwrap();
    primary
        .write(vec![update(v1::update::Type::Insert, group(2, &[4]))])
        .await
        .unwrap();
    assert_eq!(view.newest().generation(), before);
    assert_eq!(get(&mut primary, 0).await.unwrap(), range());
    let told = primary.set(SetAction::Commit, range()).await.unwrap_err();
    assert_eq!(told.code(), Code::InvalidArgument, "a commit brings no program");
    let written = primary.read(everything()).await;
    assert_eq!(written.len(), 3);
    primary.set(SetAction::Commit, None).await.unwrap();
    assert_eq!(primary.read(everything()).await, written);
    assert_eq!(get(&mut primary, 0).await.unwrap(), ternary());
    // The frame is let out by the new row, and flooded to the group.
    let snapshot = view.newest();
    assert_eq!(met(snapshot, &tcp(5, 0x51), 1).hits.len(), 1);
    assert_eq!(
        met(snapshot, &tcp(5, 0x61), 1).drops,
        [portcullis_fastpath::DropReason::EgressPolicy]
    );
    let told = primary.set(SetAction::Commit, None).await.unwrap_err();
    assert_eq!(told.code(), Code::NotFound, "it was committed");
    // What is committed otherwise is the last that was saved.
    primary.set(SetAction::VerifyAndSave, range()).await.unwrap();
    primary.set(SetAction::VerifyAndCommit, ternary()).await.unwrap();
    assert_eq!(
        primary.set(SetAction::Commit, None).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn to_reconcile_keeps_entries_where_they_fit() {
    let (rig, mut primary) = Rig::running().await;
    let rows = [1u128, 2, 3].map(|port| attach(port, 0).insert());
    primary.write(rows.to_vec()).await.unwrap();
    let kept = primary.read(everything()).await;
    // Another size, another cookie.
    let mut larger = changed(|info| info.tables[0].size = 3).unwrap();
    larger.cookie = Some(v1::forwarding_pipeline_config::Cookie { cookie: 5 });
    primary
        .set(SetAction::ReconcileAndCommit, Some(larger.clone()))
        .await
        .unwrap();
    assert_eq!(primary.read(everything()).await, kept);
    assert_eq!(get(&mut primary, 0).await.unwrap(), Some(larger.clone()));
    assert_eq!(
        primary.refused(attach(4, 0).insert()).await.0,
        Code::ResourceExhausted
    );
    // Too small for what is there; ports in another way. Nothing changes.
    for other in [changed(|info| info.tables[0].size = 2), ternary()] {
        let told = primary
            .set(SetAction::ReconcileAndCommit, other)
            .await
            .unwrap_err();
        assert_eq!(told.code(), Code::InvalidArgument, "{told}");
        assert_eq!(primary.read(everything()).await, kept);
        assert_eq!(get(&mut primary, 0).await.unwrap(), Some(larger.clone()));
    }
    let mut view = rig.view();
    assert_eq!(
        met(view.newest(), &tcp(5, 80), 3).drops,
        [portcullis_fastpath::DropReason::NoReceiver]
    );
}

#[tokio::test]
async fn to_reconcile_with_nothing_is_to_begin() {
    let rig = Rig::start(0).await;
    let mut primary = rig.primary(1).await;
    primary
        .set(SetAction::ReconcileAndCommit, ternary())
        .await
        .unwrap();
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    assert_eq!(get(&mut primary, 0).await.unwrap(), ternary());
}

#[tokio::test]
async fn other_programs_are_refused_by_name() {
    let (_rig, mut primary) = Rig::running().await;
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    let kept = primary.read(everything()).await;
    let others = [
        (
            changed(|i| i.pkg_info.as_mut().unwrap().name = "fabric".into()),
            "\"fabric\"",
        ),
        (
            changed(|i| i.pkg_info.as_mut().unwrap().version = "2".into()),
            "\"2\"",
        ),
        (changed(|i| i.pkg_info = None), "runs only"),
        (changed(|i| drop(i.tables.remove(0))), "`attach`"),
        (changed(|i| i.tables[7].match_fields[0].bitwidth = 32), "`l2`"),
        (changed(|i| i.tables.push(i.tables[2].clone())), "twice"),
        (changed(|i| i.tables[8].size = 0), "size 0;"),
        (changed(|i| i.tables[8].size = -1), "size -1;"),
        (changed(|i| i.tables[8].size = (1 << 20) + 1), "`deliver`"),
        (changed(|i| drop(i.actions.remove(3))), "actions"),
        (changed(|i| i.digests.push(Default::default())), "more than"),
        (changed(|i| drop(i.direct_counters.remove(0))), "counters"),
    ];
    for (other, told) in others {
        for action in [
            SetAction::Verify,
            SetAction::VerifyAndSave,
            SetAction::VerifyAndCommit,
            SetAction::ReconcileAndCommit,
        ] {
            let refused = primary.set(action, other.clone()).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(told), "{told}: {refused}");
        }
    }
    assert_eq!(primary.read(everything()).await, kept);
    assert_eq!(get(&mut primary, 0).await.unwrap(), range());
    assert_eq!(
        primary.set(SetAction::Commit, None).await.unwrap_err().code(),
        Code::NotFound
    );
}

//! Who may write (P4Runtime 1.6.0, section 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_proto::p4::v1;
use tonic::Code;
use v1::set_forwarding_pipeline_config_request::Action as SetAction;
use v1::stream_message_request::Update as Said;
use v1::stream_message_response::Update as Heard;

use crate::rig::{DEVICE, Entry, RANGE, Rig, attach, everything};

#[tokio::test]
async fn the_highest_election_id_is_primary_and_all_are_told() {
    let (rig, mut first) = Rig::running().await;
    let mut second = rig.controller().await;
    assert_eq!(second.elect(0).await, (Code::AlreadyExists, Some(1)), "0 is none");
    let mut third = rig.controller().await;
    third.stand(None, DEVICE).await;
    assert_eq!(third.standing().await, (Code::AlreadyExists, Some(1)));
    // Neither may write, whatever it says its id was.
    for controller in [&mut second, &mut third] {
        let refused = controller.write(vec![attach(1, 1).insert()]).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    // One takes over: the primary of before hears of it, and may not write any more.
    assert_eq!(second.elect(1 << 100).await, (Code::Ok, Some(1 << 100)));
    assert_eq!(first.standing().await, (Code::AlreadyExists, Some(1 << 100)));
    assert_eq!(third.standing().await, (Code::AlreadyExists, Some(1 << 100)));
    let refused = first.write(vec![attach(1, 1).insert()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    second.write(vec![attach(1, 1).insert()]).await.unwrap();
    // Its own id grows: the others are told the id that they have to be above.
    assert_eq!(
        second.elect((1 << 100) + 1).await,
        (Code::Ok, Some((1 << 100) + 1))
    );
    assert_eq!(
        first.standing().await,
        (Code::AlreadyExists, Some((1 << 100) + 1))
    );
    // It steps down.
    assert_eq!(second.elect(3).await, (Code::NotFound, Some((1 << 100) + 1)));
    assert_eq!(first.standing().await, (Code::NotFound, Some((1 << 100) + 1)));
    let refused = second.write(vec![attach(1, 1).delete()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Everybody may read.
    assert_eq!(third.read(everything()).await.len(), 1);
}

#[tokio::test]
async fn who_has_a_lower_id_does_not_follow_a_primary_that_left() {
    let (rig, mut backup) = Rig::running().await;
    let mut primary = rig.primary(9).await;
    assert_eq!(backup.standing().await, (Code::AlreadyExists, Some(9)));
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    drop(primary);
    assert_eq!(backup.standing().await, (Code::NotFound, Some(9)));
    let refused = backup.write(vec![attach(1, 1).delete()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(backup.elect(8).await, (Code::NotFound, Some(9)));
    // What was written stays; the id of before is enough to go on.
    assert_eq!(backup.elect(9).await, (Code::Ok, Some(9)));
    backup.write(vec![attach(1, 1).delete()]).await.unwrap();
}

#[tokio::test]
async fn an_election_id_has_one_controller() {
    let (rig, mut primary) = Rig::running().await;
    let mut other = rig.controller().await;
    other.stand(Some(1), DEVICE).await;
    let ended = other.hear().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().contains("is used by another"), "{ended}");
    // The primary notices nothing.
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    // When it has gone, the id is free.
    drop(primary);
    loop {
        let mut again = rig.controller().await;
        again.stand(Some(1), DEVICE).await;
        // The server sees the end of a connection when it sees it.
        match again.hear().await {
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
            Ok(told) => {
                let Some(Heard::Arbitration(told)) = told.unwrap().update else {
                    panic!("an arbitration");
                };
                assert_eq!(told.status.unwrap().code, Code::Ok as i32);
                break;
            }
        }
    }
}

#[tokio::test]
async fn roles_have_primaries_of_their_own() {
    let (rig, mut primary) = Rig::running().await;
    let mut other = rig.controller().await;
    other.role = "qos".to_string();
    assert_eq!(other.elect(5).await, (Code::Ok, Some(5)));
    // The id of one role is nothing in another.
    other.write(vec![attach(1, 1).insert()]).await.unwrap();
    primary.write(vec![attach(1, 2).modify()]).await.unwrap();
    let mut request = primary.request(vec![attach(1, 1).delete()], 0);
    request.role = "qos".to_string();
    let refused = primary.client.write(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // A stream keeps its role.
    other.role = String::new();
    other.stand(Some(8), DEVICE).await;
    assert_eq!(other.hear().await.unwrap_err().code(), Code::FailedPrecondition);
    primary.write(vec![attach(1, 1).delete()]).await.unwrap();
}

#[tokio::test]
async fn there_is_one_device() {
    let (rig, mut primary) = Rig::running().await;
    let mut write = primary.request(vec![attach(1, 1).insert()], 0);
    write.device_id = DEVICE + 1;
    let told = primary.client.write(write).await.unwrap_err();
    assert_eq!(told.code(), Code::NotFound);
    assert!(told.message().contains("7"), "it says which there is: {told}");
    let read = v1::ReadRequest {
        device_id: 0,
        entities: everything(),
        ..Default::default()
    };
    assert_eq!(
        primary.client.read(read).await.unwrap_err().code(),
        Code::NotFound
    );
    let set = v1::SetForwardingPipelineConfigRequest::default();
    let told = primary.client.set_forwarding_pipeline_config(set).await;
    assert_eq!(told.unwrap_err().code(), Code::NotFound);
    let get = v1::GetForwardingPipelineConfigRequest::default();
    let told = primary.client.get_forwarding_pipeline_config(get).await;
    assert_eq!(told.unwrap_err().code(), Code::NotFound);
    let mut stranger = rig.controller().await;
    stranger.stand(Some(4), DEVICE + 1).await;
    assert_eq!(stranger.hear().await.unwrap_err().code(), Code::NotFound);
    // One that is known already and asks for another device.
    primary.stand(Some(4), DEVICE + 1).await;
    assert_eq!(primary.hear().await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn nobody_writes_before_an_election() {
    let rig = Rig::start(0).await;
    let mut nobody = rig.controller().await;
    let set = nobody
        .set(SetAction::VerifyAndCommit, Some(RANGE.config.clone()))
        .await;
    assert_eq!(set.unwrap_err().code(), Code::PermissionDenied);
    let told = nobody.write(vec![attach(1, 1).insert()]).await.unwrap_err();
    assert_eq!(told.code(), Code::PermissionDenied);
    // Elected, but there is no program yet.
    let mut primary = rig.primary(1).await;
    let told = primary.write(vec![attach(1, 1).insert()]).await.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition);
    let (parts, end) = primary.parts(everything()).await;
    assert_eq!(
        (parts.len(), end.unwrap_err().code()),
        (0, Code::FailedPrecondition)
    );
}

#[tokio::test]
async fn a_new_primary_is_told_when_the_writes_of_the_old_one_are_done() {
    let rig = Rig::start(1).await;
    let mut view = rig.hub.view(0);
    let mut old = rig.primary(1).await;
    let set = tokio::spawn({
        let mut client = old.client.clone();
        let request = v1::SetForwardingPipelineConfigRequest {
            device_id: DEVICE,
            election_id: Some(crate::rig::number(1)),
            action: SetAction::VerifyAndCommit as i32,
            config: Some(RANGE.config.clone()),
            ..Default::default()
        };
        async move { client.set_forwarding_pipeline_config(request).await }
    });
    while !set.is_finished() {
        view.newest();
        tokio::task::yield_now().await;
    }
    set.await.unwrap().unwrap();
    // The worker does not look, so that a write hangs, and another behind it.
    let done = Arc::new(AtomicBool::new(false));
    let write = |updates| {
        let (mut client, request) = (old.client.clone(), old.request(updates, 0));
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let answer = client.write(request).await;
            done.store(true, Ordering::SeqCst);
            answer
        })
    };
    let began = write(vec![attach(1, 1).insert()]);
    let generation = view.newest().generation();
    while rig.view().newest().generation() == generation {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waits = write(vec![attach(2, 1).insert()]);
    let mut new = rig.controller().await;
    new.stand(Some(2), DEVICE).await;
    // The old one knows at once, while its write is still under way.
    assert_eq!(old.standing().await, (Code::AlreadyExists, Some(2)));
    assert!(!done.load(Ordering::SeqCst));
    view.newest();
    assert_eq!(new.standing().await, (Code::Ok, Some(2)));
    began.await.unwrap().unwrap();
    // What had not begun is the write of one who is primary no more; it may have come before the election, too.
    if let Err(told) = waits.await.unwrap() {
        assert_eq!(told.code(), Code::PermissionDenied);
        assert_eq!(new.read(everything()).await.len(), 1);
    }
}

#[tokio::test]
async fn packets_and_digests_are_answered_with_an_error() {
    let (_rig, mut primary) = Rig::running().await;
    let packet = v1::PacketOut {
        payload: vec![1, 2, 3],
        metadata: Vec::new(),
    };
    primary.say(Said::Packet(packet.clone())).await;
    let Some(Heard::Error(error)) = primary.hear().await.unwrap().unwrap().update else {
        panic!("no error");
    };
    assert_eq!(error.canonical_code, Code::Unimplemented as i32);
    let Some(v1::stream_error::Details::PacketOut(about)) = error.details else {
        panic!("{error:?}");
    };
    assert_eq!(about.packet_out, Some(packet));
    primary.say(Said::DigestAck(v1::DigestListAck::default())).await;
    let Some(Heard::Error(error)) = primary.hear().await.unwrap().unwrap().update else {
        panic!("no error");
    };
    assert_eq!(error.canonical_code, Code::Unimplemented as i32);
    // The stream lives on, and so does the primary.
    primary
        .write(vec![
            Entry::from_name("l2")
                .exact("dst_mac", 2)
                .action("forward", Some(1))
                .insert(),
        ])
        .await
        .unwrap();
    // A message without anything ends it.
    primary
        .say
        .send(v1::StreamMessageRequest::default())
        .await
        .unwrap();
    assert_eq!(primary.hear().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn it_tells_its_version() {
    let rig = Rig::start(0).await;
    let mut anybody = rig.controller().await;
    let told = anybody
        .client
        .capabilities(v1::CapabilitiesRequest::default())
        .await;
    assert_eq!(told.unwrap().into_inner().p4runtime_api_version, "1.6.0");
}

//! What a Write refuses, and what it says of it (P4Runtime 1.6.0, sections 8, 9 and 12).

use portcullis_proto::p4::v1;
use tonic::Code;
use v1::entity::Entity;
use v1::field_match::{Exact, FieldMatchType, Optional, Range, Ternary};
use v1::update::Type;

use crate::rig::{
    Entry, Rig, attach, bytes, codes, deliver, errors, everything, group, group_of, policy, sorted, station,
    update, wrap,
};

fn exact(value: &[u8]) -> FieldMatchType {
    FieldMatchType::Exact(Exact {
        value: value.to_vec(),
    })
}

fn optional(value: &[u8]) -> FieldMatchType {
    FieldMatchType::Optional(Optional {
        value: value.to_vec(),
    })
}

fn ternary(value: &[u8], mask: &[u8]) -> FieldMatchType {
    FieldMatchType::Ternary(Ternary {
        value: value.to_vec(),
        mask: mask.to_vec(),
    })
}

fn range(low: &[u8], high: &[u8]) -> FieldMatchType {
    FieldMatchType::Range(Range {
        low: low.to_vec(),
        high: high.to_vec(),
    })
}

/// An attach row at a port that is written like this.
fn at(port: FieldMatchType) -> Entry {
    let entry = Entry::from_name("attach").with("port", port).priority(1);
    entry.action("sender.set_class", Some(1))
}

/// An egress row with a condition.
fn out(field: &str, kind: FieldMatchType) -> Entry {
    let entry = Entry::from_name("egress_policy").with(field, kind).priority(1);
    entry.action("sender.deny", None)
}

/// The parameter of an action is written like this.
fn class(value: &[u8]) -> Entry {
    let entry = attach(1, 1);
    entry.edit(|e| params(e, &[(1, value)]))
}

fn params(entry: &mut v1::TableEntry, given: &[(u32, &[u8])]) {
    let Some(v1::table_action::Type::Action(action)) = entry.action.as_mut().unwrap().r#type.as_mut() else {
        panic!("an action");
    };
    let param = |(id, value): &(u32, &[u8])| v1::action::Param {
        param_id: *id,
        value: value.to_vec(),
    };
    action.params = given.iter().map(param).collect();
}

#[tokio::test]
async fn values_are_checked_by_table_and_field() {
    let (_rig, mut primary) = Rig::running().await;
    let wrong: [(Entry, &[&str]); 30] = [
        // Not in the shortest form, or too wide.
        (at(exact(&[])), &["attach", "port", "shortest"]),
        (at(exact(&[0, 1])), &["attach", "port", "shortest"]),
        (at(exact(&[2, 0])), &["attach", "port", "10 bits", "9"]),
        (
            attach(1, 1).with("vlan", optional(&[0x10, 0])),
            &["attach", "vlan", "13 bits"],
        ),
        (
            attach(1, 1).with("vlan", optional(&[0, 9])),
            &["attach", "vlan", "shortest"],
        ),
        (
            out("protocol", ternary(&[0, 6], &[0xff])),
            &["egress_policy", "protocol", "shortest"],
        ),
        (
            out("protocol", ternary(&[6], &[0, 0xff])),
            &["egress_policy", "protocol", "shortest"],
        ),
        (
            out("protocol", ternary(&[6], &[1, 0xff])),
            &["egress_policy", "protocol", "9 bits"],
        ),
        (
            out("unreadable", ternary(&[2], &[3])),
            &["egress_policy", "unreadable", "2 bits"],
        ),
        (
            out("src_ipv6", ternary(&[1; 17], &[1])),
            &["egress_policy", "src_ipv6", "bits"],
        ),
        (
            out("dst_port", range(&[0, 1], &[9])),
            &["egress_policy", "dst_port", "shortest"],
        ),
        (
            out("dst_port", range(&[1], &[1, 0, 0])),
            &["egress_policy", "dst_port", "17 bits"],
        ),
        (class(&[]), &["attach", "parameter", "shortest"]),
        (class(&[0, 1]), &["attach", "parameter", "shortest"]),
        (class(&[1, 0, 0, 0, 0]), &["attach", "parameter", "33 bits"]),
        // Masks and ranges that say nothing, or say it twice.
        (
            out("protocol", ternary(&[0], &[0])),
            &["egress_policy", "protocol", "empty mask"],
        ),
        (
            out("protocol", ternary(&[7], &[6])),
            &["egress_policy", "protocol", "outside its mask"],
        ),
        (
            out("dst_port", range(&[0], &[0xff, 0xff])),
            &["egress_policy", "dst_port", "whole range"],
        ),
        (
            out("dst_port", range(&[9], &[8])),
            &["egress_policy", "dst_port", "from 9 to 8"],
        ),
        // Other kinds of matches than the table has.
        (
            out("dst_port", ternary(&[8], &[8])),
            &["egress_policy", "dst_port", "Range"],
        ),
        (
            out("protocol", exact(&[8])),
            &["egress_policy", "protocol", "Ternary"],
        ),
        (at(optional(&[8])), &["attach", "port", "Exact"]),
        (
            attach(1, 1).with("vlan", exact(&[8])),
            &["attach", "vlan", "Optional"],
        ),
        (
            at(exact(&[1])).edit(|e| e.r#match[0].field_match_type = None),
            &["attach", "port"],
        ),
        // Fields that are missing, twice, or unknown.
        (
            Entry::from_name("attach")
                .optional("vlan", 1)
                .priority(1)
                .action("sender.set_class", Some(1)),
            &["attach", "`port`", "left out"],
        ),
        (
            Entry::from_name("l2").action("forward", Some(1)),
            &["l2", "`dst_mac`", "left out"],
        ),
        (attach(1, 1).exact("port", 1), &["attach", "`port`", "twice"]),
        (
            attach(1, 1).edit(|e| e.r#match[0].field_id = 3),
            &["attach", "id 3"],
        ),
        (
            attach(1, 1).edit(|e| e.r#match[0].field_id = 0),
            &["attach", "id 0"],
        ),
        (
            attach(1, 1).edit(|e| e.r#match[0].field_id = u32::MAX),
            &["attach", "no match field"],
        ),
    ];
    for (entry, told) in wrong {
        for kind in [Type::Insert, Type::Modify] {
            let (code, why) = primary.refused(update(kind, entry.entity())).await;
            assert!(
                code == Code::InvalidArgument || (kind, code) == (Type::Modify, Code::NotFound),
                "{why}"
            );
            let about_match = code == Code::InvalidArgument;
            assert!(
                !about_match || told.iter().all(|t| why.contains(t)),
                "{told:?}: {why}"
            );
            assert!(kind == Type::Modify || about_match);
        }
    }
    assert_eq!(primary.read(everything()).await, []);
}

#[tokio::test]
async fn entries_are_checked() {
    let (_rig, mut primary) = Rig::running().await;
    use Code::{InvalidArgument as Invalid, NotFound, PermissionDenied, Unimplemented};
    let mac = || station(5, 1);
    let wrong: [(Entry, Code, &[&str]); 19] = [
        (attach(1, 1).priority(0), Invalid, &["attach", "priority is 0"]),
        (attach(1, 1).priority(-4), Invalid, &["attach", "priority is -4"]),
        (mac().priority(1), Invalid, &["l2", "priority is 1"]),
        (
            attach(1, 1).action("sender.allow", None),
            Invalid,
            &["attach", "no action"],
        ),
        (
            attach(1, 1).edit(|e| e.action = None),
            Invalid,
            &["attach", "one action"],
        ),
        (
            attach(1, 1).action("sender.set_class", None),
            Invalid,
            &["attach", "gives 0"],
        ),
        (
            attach(1, 1).edit(|e| params(e, &[(2, &[1])])),
            Invalid,
            &["attach", "1 parameters"],
        ),
        (
            attach(1, 1).edit(|e| params(e, &[(1, &[1]), (1, &[1])])),
            Invalid,
            &["attach", "gives 2"],
        ),
        (
            policy("egress_policy", 1, (1, 2), 1, true).action("sender.allow", Some(1)),
            Invalid,
            &["egress_policy", "gives 1"],
        ),
        (
            policy("egress_policy", 1, (1, 2), 1, true).action("receiver.allow", None),
            Invalid,
            &["no action"],
        ),
        // What only packets do that meet no row.
        (
            attach(1, 1).action("unknown", None),
            PermissionDenied,
            &["attach"],
        ),
        (mac().action("flood_unknown", None), PermissionDenied, &["l2"]),
        (
            mac().action("forward", Some(512)),
            Invalid,
            &["l2", "parameter", "10 bits"],
        ),
        (
            attach(1, 1).edit(|e| e.idle_timeout_ns = 5),
            Unimplemented,
            &["attach", "expire"],
        ),
        (
            attach(1, 1).edit(|e| e.meter_config = Some(Default::default())),
            Invalid,
            &["attach", "meters"],
        ),
        (
            attach(1, 1).edit(|e| e.counter_data = Some(Default::default())),
            Invalid,
            &["attach", "counters"],
        ),
        (
            attach(1, 1).edit(|e| e.is_const = true),
            Invalid,
            &["attach", "constant"],
        ),
        (attach(1, 1).edit(|e| e.table_id = 9), NotFound, &["0x9"]),
        (attach(1, 1).edit(|e| e.table_id = 0), NotFound, &["0x0"]),
    ];
    for (entry, code, told) in wrong {
        let (found, why) = primary.refused(entry.insert()).await;
        assert_eq!(found, code, "{why}");
        assert!(told.iter().all(|t| why.contains(t)), "{told:?}: {why}");
    }
    assert_eq!(primary.read(everything()).await, []);
}

#[tokio::test]
async fn default_actions_are_constant() {
    let (_rig, mut primary) = Rig::running().await;
    let default = |kind, change: fn(&mut v1::TableEntry)| {
        let entry = Entry::from_name("egress_policy").action("sender.allow", None);
        update(
            kind,
            entry.edit(|e| e.is_default_action = true).edit(change).entity(),
        )
    };
    for (update, code) in [
        (default(Type::Modify, |_| {}), Code::PermissionDenied),
        (default(Type::Modify, |e| e.action = None), Code::PermissionDenied),
        (default(Type::Modify, |e| e.priority = 1), Code::InvalidArgument),
        (default(Type::Insert, |_| {}), Code::InvalidArgument),
        (default(Type::Delete, |_| {}), Code::InvalidArgument),
    ] {
        let (found, why) = primary.refused(update).await;
        assert_eq!(found, code, "{why}");
        assert!(why.contains("egress_policy"), "{why}");
    }
}

#[tokio::test]
async fn an_entry_is_there_once() {
    let (_rig, mut primary) = Rig::running().await;
    let row = policy("ingress_policy", 3, (20, 25), 9, true);
    assert_eq!(primary.refused(row.modify()).await.0, Code::NotFound);
    assert_eq!(primary.refused(row.delete()).await.0, Code::NotFound);
    let marked = row.clone().edit(|e| e.metadata = b"mine".to_vec());
    primary.write(vec![marked.insert()]).await.unwrap();
    let (code, why) = primary.refused(row.insert()).await;
    assert_eq!(code, Code::AlreadyExists);
    assert!(why.contains("ingress_policy"), "{why}");
    assert_eq!(primary.read(vec![row.entity()]).await, [marked.entity()]);
    // The same with another priority, or one bit of its mask less, is another.
    let others = [
        row.clone().priority(10),
        policy("ingress_policy", 3, (20, 26), 9, true),
        policy("egress_policy", 3, (20, 25), 9, true),
    ];
    for other in &others {
        assert_eq!(primary.refused(other.delete()).await.0, Code::NotFound);
    }
    // The order of fields does not matter, and what it does is changed; without an action only the rest is.
    let reversed = row
        .clone()
        .edit(|e| e.r#match.reverse())
        .action("receiver.deny", None);
    primary.write(vec![reversed.modify()]).await.unwrap();
    assert_eq!(primary.read(vec![row.entity()]).await, []);
    let asked = row.clone().edit(|e| e.action = None);
    assert_eq!(primary.read(vec![asked.entity()]).await, [reversed.entity()]);
    let only = asked.clone().edit(|e| e.metadata = b"other".to_vec());
    primary.write(vec![only.modify()]).await.unwrap();
    let now = only.action("receiver.deny", None);
    assert_eq!(primary.read(vec![asked.entity()]).await, [now.entity()]);
    // To delete, nothing else is looked at.
    primary
        .write(vec![asked.edit(|e| e.idle_timeout_ns = 5).delete()])
        .await
        .unwrap();
    assert_eq!(primary.read(everything()).await, []);
}

#[tokio::test]
async fn every_update_has_an_answer_in_its_place() {
    let (_rig, mut primary) = Rig::running().await;
    let updates = vec![
        attach(1, 1).insert(),
        attach(600, 1).insert(),
        deliver(1, 1).insert(),
        attach(1, 1).insert(),
        update(Type::Unspecified, attach(2, 1).entity()),
        v1::Update {
            r#type: 77,
            entity: Some(attach(2, 1).entity()),
        },
        v1::Update {
            r#type: Type::Insert as i32,
            entity: None,
        },
        update(Type::Insert, wrap(Entity::MeterEntry(v1::MeterEntry::default()))),
        attach(9, 1).delete(),
        station(1, 1).insert(),
    ];
    let told = primary.write(updates.clone()).await.unwrap_err();
    use Code::{AlreadyExists, InvalidArgument as Invalid, NotFound, Ok, Unimplemented};
    let want = [
        Ok,
        Invalid,
        Ok,
        AlreadyExists,
        Invalid,
        Invalid,
        Invalid,
        Unimplemented,
        NotFound,
        Ok,
    ];
    assert_eq!(codes(&told), want);
    for error in errors(&told).iter().filter(|e| e.canonical_code == 0) {
        assert_eq!(*error, v1::Error::default(), "nothing is said of what was done");
    }
    assert!(told.message().contains("7 of 10"), "{told}");
    let there = [
        attach(1, 1).entity(),
        deliver(1, 1).entity(),
        station(1, 1).entity(),
    ];
    assert_eq!(primary.read(everything()).await, sorted(there.to_vec()));
    // An atomicity that there is not, and nothing to do.
    let request = primary.request(vec![attach(2, 1).insert()], 3);
    let told = primary.client.write(request).await.unwrap_err();
    assert_eq!(told.code(), Code::InvalidArgument);
    primary.write(Vec::new()).await.unwrap();
}

#[tokio::test]
async fn what_is_told_fits_into_what_clients_take() {
    let (_rig, mut primary) = Rig::running().await;
    for (count, texts, details) in [(12, true, true), (100, false, true), (5000, false, false)] {
        // All but the first are refused.
        let updates: Vec<v1::Update> = (0..count).map(|_| attach(count % 512, 1).insert()).collect();
        let told = primary.write(updates).await.unwrap_err();
        assert_eq!(told.code(), Code::Unknown);
        assert!(
            told.details().len() + told.message().len() <= 6000,
            "{}",
            told.details().len()
        );
        assert!(told.message().contains("table `attach` has an entry"), "{told}");
        if !details {
            assert!(told.message().contains("number 1: AlreadyExists"), "{told}");
            assert!(told.details().is_empty());
            continue;
        }
        let mut want = vec![Code::AlreadyExists; count as usize];
        want[0] = Code::Ok;
        assert_eq!(codes(&told), want);
        let with = errors(&told)
            .iter()
            .filter(|e| e.message.contains("`attach`"))
            .count();
        assert_eq!(with, if texts { count as usize - 1 } else { 1 });
    }
    // Of all or nothing, the one is told that was refused.
    let mut updates: Vec<v1::Update> = (100..200).map(|port| attach(port, 1).insert()).collect();
    updates[70] = attach(600, 1).insert();
    let request = primary.request(updates, v1::write_request::Atomicity::RollbackOnError as i32);
    // Port 100 is there already: but then it is the first that is refused.
    let told = primary.client.write(request).await.unwrap_err();
    assert_eq!(
        (codes(&told)[0], codes(&told)[70]),
        (Code::AlreadyExists, Code::Aborted)
    );
    assert!(told.message().contains("has an entry"), "{told}");
    assert!(errors(&told)[0].message.contains("has an entry"));
    let mut updates: Vec<v1::Update> = (101..201).map(|port| attach(port, 1).insert()).collect();
    updates[70] = attach(600, 1).insert();
    let request = primary.request(updates, v1::write_request::Atomicity::RollbackOnError as i32);
    let told = primary.client.write(request).await.unwrap_err();
    assert_eq!(
        (codes(&told)[0], codes(&told)[70]),
        (Code::Aborted, Code::InvalidArgument)
    );
    assert!(told.message().contains("10 bits"), "{told}");
    assert!(errors(&told)[70].message.contains("10 bits"));
}

#[tokio::test]
async fn a_full_table_says_so() {
    let rig = Rig::start(0).await;
    let mut primary = rig.primary(1).await;
    let mut config = crate::rig::RANGE.config.clone();
    config.p4info.as_mut().unwrap().tables[7].size = 2;
    let action = v1::set_forwarding_pipeline_config_request::Action::VerifyAndCommit;
    primary.set(action, Some(config)).await.unwrap();
    primary
        .write(vec![station(1, 1).insert(), station(2, 1).insert()])
        .await
        .unwrap();
    let (code, why) = primary.refused(station(3, 1).insert()).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(why.contains("`l2`") && why.contains('2'), "{why}");
    // Other tables have room, and one that goes makes some in the same request.
    let swap = vec![
        deliver(1, 1).insert(),
        station(1, 1).delete(),
        station(3, 1).insert(),
    ];
    primary.write(swap).await.unwrap();
    assert_eq!(
        primary.refused(station(4, 1).insert()).await.0,
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn groups_are_sets_of_ports() {
    let (rig, mut primary) = Rig::running().await;
    let insert = |entity| update(Type::Insert, entity);
    let replica = |change: fn(&mut v1::Replica)| {
        let mut one = v1::Replica {
            port_kind: Some(v1::replica::PortKind::Port(bytes(1))),
            ..Default::default()
        };
        change(&mut one);
        insert(group_of(v1::MulticastGroupEntry {
            multicast_group_id: 4,
            replicas: vec![one],
            ..Default::default()
        }))
    };
    assert_eq!(
        primary.refused(update(Type::Modify, group(4, &[1]))).await.0,
        Code::NotFound
    );
    assert_eq!(
        primary.refused(update(Type::Delete, group(4, &[]))).await.0,
        Code::NotFound
    );
    let wrong = [
        (insert(group(0, &[1])), Code::InvalidArgument, "group 0"),
        (insert(group(4, &[1, 512])), Code::InvalidArgument, "512"),
        (insert(group(4, &[70_000])), Code::InvalidArgument, "70000"),
        (insert(group(4, &[1, 2, 1])), Code::InvalidArgument, "twice"),
        (replica(|r| r.port_kind = None), Code::InvalidArgument, "no port"),
        (
            replica(|r| r.port_kind = Some(v1::replica::PortKind::Port(vec![0, 1]))),
            Code::InvalidArgument,
            "shortest",
        ),
        (
            replica(|r| r.backup_replicas.push(v1::BackupReplica::default())),
            Code::Unimplemented,
            "backup",
        ),
        (
            insert(wrap(Entity::PacketReplicationEngineEntry(
                v1::PacketReplicationEngineEntry {
                    r#type: Some(v1::packet_replication_engine_entry::Type::CloneSessionEntry(
                        v1::CloneSessionEntry::default(),
                    )),
                },
            ))),
            Code::Unimplemented,
            "clone",
        ),
    ];
    for (update, code, told) in wrong {
        let (found, why) = primary.refused(update).await;
        assert_eq!(found, code, "{why}");
        assert!(why.contains(told), "{told}: {why}");
    }
    assert_eq!(primary.read(everything()).await, []);
    primary
        .write(vec![insert(group(4, &[3, 1])), insert(group(9, &[]))])
        .await
        .unwrap();
    assert_eq!(
        primary.refused(insert(group(4, &[2]))).await.0,
        Code::AlreadyExists
    );
    assert_eq!(
        primary.read(vec![group(0, &[])]).await,
        sorted(vec![group(4, &[3, 1]), group(9, &[])])
    );
    assert_eq!(primary.read(vec![group(4, &[])]).await, [group(4, &[3, 1])]);
    assert_eq!(primary.read(vec![group(5, &[])]).await, []);
    primary
        .write(vec![
            update(Type::Modify, group(4, &[2])),
            update(Type::Delete, group(9, &[])),
        ])
        .await
        .unwrap();
    assert_eq!(primary.read(vec![group(0, &[])]).await, [group(4, &[2])]);
    // Frames for all go to group 1.
    let rows = (1..4).flat_map(|port| [attach(port, 0).insert(), deliver(port, 0).insert()]);
    primary.write(rows.collect()).await.unwrap();
    primary.write(vec![insert(group(1, &[3, 1, 2]))]).await.unwrap();
    let mut view = rig.view();
    assert_eq!(
        crate::rig::met(view.newest(), &crate::rig::arp(), 2).ports,
        [1, 3]
    );
    // Controllers of before 1.5 write the port as a number.
    #[allow(deprecated, reason = "as they do")]
    let old = v1::MulticastGroupEntry {
        multicast_group_id: 1,
        replicas: vec![v1::Replica {
            port_kind: Some(v1::replica::PortKind::EgressPort(3)),
            ..Default::default()
        }],
        metadata: b"mine".to_vec(),
    };
    primary
        .write(vec![update(Type::Modify, group_of(old.clone()))])
        .await
        .unwrap();
    assert_eq!(primary.read(vec![group(1, &[])]).await, [group_of(old)]);
    assert_eq!(crate::rig::met(view.newest(), &crate::rig::arp(), 2).ports, [3]);
}

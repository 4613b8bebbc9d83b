//! Read (P4Runtime 1.6.0, sections 9.1.6 and 13).

use portcullis_proto::p4::v1;
use portcullis_switch::counters::Book;
use tonic::Code;
use v1::entity::Entity;

use crate::rig::{
    Entry, Rig, attach, bytes, codes, deliver, everything, group, info, policy, sorted, station, tcp, wrap,
};

/// One table or all, and nothing else.
fn all_of(name: Option<&str>) -> v1::Entity {
    match name {
        Some(name) => Entry::from_name(name).entity(),
        None => wrap(Entity::TableEntry(v1::TableEntry::default())),
    }
}

#[tokio::test]
async fn entries_are_found_by_what_is_asked_for() {
    let (_rig, mut primary) = Rig::running().await;
    let mark = |entry: Entry, mark: &[u8]| entry.edit(|e| e.metadata = mark.to_vec());
    let rows = [
        policy("egress_policy", 1, (1, 5), 10, true),
        mark(policy("egress_policy", 1, (1, 5), 20, false), b"a"),
        mark(policy("egress_policy", 2, (1, 5), 10, false), b"a"),
        Entry::from_name("egress_policy")
            .priority(1)
            .action("sender.allow", None),
        attach(3, 9),
        attach(3, 9).optional("vlan", 0),
        station(0xffff_ffff_ffff, 510),
    ];
    primary
        .write(rows.iter().map(Entry::insert).collect())
        .await
        .unwrap();
    let of = |places: &[usize]| sorted(places.iter().map(|p| rows[*p].entity()).collect());
    let ask = |entry: Entry| entry.entity();
    let bare = |at: usize| {
        rows[at]
            .clone()
            .edit(|e| (e.action, e.metadata) = (None, Vec::new()))
    };
    #[allow(deprecated, reason = "controllers of before 1.4 ask for it")]
    let cookie = Entry::from_name("egress_policy").edit(|e| e.controller_metadata = 4);
    for (asked, want) in [
        (all_of(None), of(&[0, 1, 2, 3, 4, 5, 6])),
        (all_of(Some("egress_policy")), of(&[0, 1, 2, 3])),
        (all_of(Some("ingress_policy")), of(&[])),
        (all_of(Some("l2")), of(&[6])),
        // One entry.
        (ask(bare(0)), of(&[0])),
        (ask(bare(5)), of(&[5])),
        (ask(bare(6)), of(&[6])),
        (ask(bare(1).priority(30)), of(&[])),
        // A match at any priority, and a priority of any match.
        (ask(bare(0).priority(0)), of(&[0, 1])),
        (ask(Entry::from_name("egress_policy").priority(10)), of(&[0, 2])),
        (ask(Entry::from_name("egress_policy").priority(1)), of(&[3])),
        // By action, and by what the controller wrote to it.
        (
            ask(Entry::from_name("egress_policy").action("sender.allow", None)),
            of(&[0, 3]),
        ),
        (ask(mark(Entry::from_name("egress_policy"), b"a")), of(&[1, 2])),
        (
            ask(mark(Entry::from_name("egress_policy"), b"a").priority(20)),
            of(&[1]),
        ),
        (ask(bare(0).action("sender.deny", None)), of(&[])),
        (ask(cookie), of(&[])),
    ] {
        assert_eq!(primary.read(vec![asked.clone()]).await, want, "{asked:?}");
    }
    // Several questions, each with its answers.
    let both = primary
        .read(vec![
            all_of(Some("l2")),
            all_of(Some("attach")),
            all_of(Some("l2")),
        ])
        .await;
    assert_eq!(both, of(&[4, 5, 6, 6]));
    assert_eq!(primary.read(Vec::new()).await, []);
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_in_its_place() {
    let (_rig, mut primary) = Rig::running().await;
    primary.write(vec![attach(1, 1).insert()]).await.unwrap();
    let of_all = |change: fn(&mut v1::TableEntry)| {
        let mut entry = v1::TableEntry::default();
        change(&mut entry);
        wrap(Entity::TableEntry(entry))
    };
    let asked = vec![
        all_of(Some("attach")),
        of_all(|e| e.priority = 1),
        of_all(|e| e.table_id = 5),
        v1::Entity::default(),
        wrap(Entity::DigestEntry(v1::DigestEntry::default())),
        wrap(Entity::MeterEntry(v1::MeterEntry {
            meter_id: 3,
            ..Default::default()
        })),
        // There are none of these, which is an answer.
        wrap(Entity::RegisterEntry(v1::RegisterEntry::default())),
        wrap(Entity::ActionProfileGroup(v1::ActionProfileGroup::default())),
        Entry::from_name("attach").exact("port", 512).priority(1).entity(),
        of_all(|e| e.is_default_action = true),
        policy("egress_policy", 1, (0, 9), 1, true).counter(None),
        all_of(Some("attach")),
    ];
    let (parts, end) = primary.parts(asked).await;
    use Code::{InvalidArgument as Invalid, NotFound, Ok, Unimplemented};
    let want = [
        Ok,
        Invalid,
        NotFound,
        Invalid,
        Unimplemented,
        NotFound,
        Ok,
        Ok,
        Invalid,
        NotFound,
        NotFound,
        Ok,
    ];
    assert_eq!(codes(&end.unwrap_err()), want);
    // What could be answered was.
    assert_eq!(parts.concat(), [attach(1, 1).entity(), attach(1, 1).entity()]);
}

#[tokio::test]
async fn every_table_tells_its_default_action() {
    let (_rig, mut primary) = Rig::running().await;
    for table in &info().tables {
        let name = &table.preamble.as_ref().unwrap().alias;
        let asked = Entry::from_name(name).edit(|e| e.is_default_action = true);
        let found = primary.read(vec![asked.entity()]).await;
        let [
            v1::Entity {
                entity: Some(Entity::TableEntry(entry)),
            },
        ] = found.as_slice()
        else {
            panic!("{name}: {found:?}");
        };
        assert!(entry.is_default_action && entry.r#match.is_empty() && entry.priority == 0);
        let action = entry.action.clone().unwrap().r#type.unwrap();
        let want = v1::Action {
            action_id: table.const_default_action_id,
            params: Vec::new(),
        };
        assert_eq!(action, v1::table_action::Type::Action(want), "{name}");
        let (_, end) = primary.parts(vec![asked.priority(1).entity()]).await;
        assert_eq!(codes(&end.unwrap_err()), [Code::InvalidArgument]);
    }
}

#[tokio::test]
async fn hits_are_counted_by_row() {
    let (rig, mut primary) = Rig::running().await;
    let rows = [
        policy("egress_policy", 1, (0, 79), 5, false),
        policy("egress_policy", 1, (80, 90), 5, true),
        policy("ingress_policy", 2, (0, 65535), 5, true),
    ];
    let points = [attach(1, 1), deliver(2, 2), station(0xb, 2)];
    let inserts = rows.iter().chain(&points).map(Entry::insert);
    primary.write(inserts.collect()).await.unwrap();
    let (mut view, mut list) = (rig.view(), Vec::new());
    let mut send = |dst_port: u16, times: usize| {
        for _ in 0..times {
            let mut book = Book(&rig.counters);
            view.newest()
                .process(&tcp(0xb, dst_port), 1, &mut list, &mut book);
        }
    };
    send(22, 3);
    send(80, 4);
    send(100, 2);
    let length = tcp(0, 0).len() as i64;
    for (row, count) in rows.iter().zip([3, 4, 4]) {
        assert_eq!(primary.count(row).await, (count, count * length));
    }
    // With entries, when they are asked for it.
    let with = |entry: &Entry, count: Option<i64>| {
        let data = |packets| v1::CounterData {
            packet_count: packets,
            byte_count: packets * length,
        };
        entry.clone().edit(|e| e.counter_data = count.map(data)).entity()
    };
    let asked = Entry::from_name("egress_policy").edit(|e| e.counter_data = Some(v1::CounterData::default()));
    let want = sorted(vec![with(&rows[0], Some(3)), with(&rows[1], Some(4))]);
    assert_eq!(primary.read(vec![asked.entity()]).await, want);
    let want = sorted(vec![with(&rows[0], None), with(&rows[1], None)]);
    assert_eq!(primary.read(vec![all_of(Some("egress_policy"))]).await, want);
    // A table without counters has none to tell.
    let asked = Entry::from_name("attach").edit(|e| e.counter_data = Some(v1::CounterData::default()));
    assert_eq!(primary.read(vec![asked.entity()]).await, [points[0].entity()]);
    // All counters of a table, and of all tables.
    let of = |name: &str| primary_counters(name);
    assert_eq!(primary.read(vec![of("egress_policy")]).await.len(), 2);
    assert_eq!(primary.read(vec![of("")]).await.len(), 3);
    assert_eq!(primary.read(vec![of("attach")]).await, []);
}

fn primary_counters(name: &str) -> v1::Entity {
    if name.is_empty() {
        return wrap(Entity::DirectCounterEntry(v1::DirectCounterEntry::default()));
    }
    Entry::from_name(name).counter(None)
}

#[tokio::test]
async fn much_is_told_in_parts() {
    let (_rig, mut primary) = Rig::running().await;
    let rows: Vec<Entry> = (0..2600u128).map(|mac| station(mac, mac % 500)).collect();
    primary
        .write(rows.iter().map(Entry::insert).collect())
        .await
        .unwrap();
    primary
        .write(vec![crate::rig::update(v1::update::Type::Insert, group(1, &[1]))])
        .await
        .unwrap();
    let (parts, end) = primary.parts(everything()).await;
    end.unwrap();
    assert!(parts.len() > 5 && parts.iter().all(|part| !part.is_empty() && part.len() <= 500));
    let mut want: Vec<v1::Entity> = rows.iter().map(Entry::entity).collect();
    want.push(group(1, &[1]));
    assert_eq!(sorted(parts.concat()), sorted(want));
    // The longest values come back as they were.
    let wide = Entry::from_name("egress_policy")
        .ternary("src_ipv6", u128::MAX, u128::MAX)
        .ternary("tcp_flags", 0xfff, 0xfff)
        .range("src_port", 1, 65535)
        .priority(i32::MAX)
        .action("sender.deny", None)
        .edit(|e| e.metadata = bytes(u128::MAX));
    primary.write(vec![wide.insert()]).await.unwrap();
    assert_eq!(
        primary.read(vec![all_of(Some("egress_policy"))]).await,
        [wide.entity()]
    );
}

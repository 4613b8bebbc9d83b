//! Whatever a device answers: a reading of it or a reason, never a panic, and no write without an intent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};

use portcullis_backend::delta::{Key, Op};
use portcullis_backend::machine::{Desired, Observed};
use portcullis_compiler::{Compiler, RowCache};
use portcullis_p4runtime::attachment_points::{KnownPorts, PortSpace, resolve};
use portcullis_p4runtime::device::Device;
use portcullis_p4runtime::entry::Row;
use portcullis_p4runtime::failure;
use portcullis_p4runtime::find::found;
use portcullis_p4runtime::session::{Effect, Event, NotPushed, Push, Running, Session, WINDOW, WriteFailure};
use portcullis_p4runtime::units::Units;
use portcullis_p4runtime::wire::{self, ReplicaPorts, Seen, Writer};
use portcullis_p4runtime::{Mapping, OwnProgram, PipelineSource, PortMatching, Tag, UPDATES, parse};
use portcullis_policy::Document;
use portcullis_proto::google::rpc;
use portcullis_proto::p4::v1;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use v1::entity::Entity;

const TAG: Tag = Tag(0x5043);
const WRITER: Writer = Writer {
    tag: TAG,
    generation: 7,
    ports: ReplicaPorts::Bytes,
};
const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25, "6660-6669"]}
  - {name: scan, action: deny, direction: ingress, protocol: tcp, ports: [22], remote: [203.0.113.0/24, "2001:db8::/32"]}
endpoints:
  web:
    attachments: [{port: 1, target: tor}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
"#;

/// A device, and everything that it shall hold.
struct Known {
    device: Arc<Device>,
    rows: Vec<Row>,
    desired: Desired<
        portcullis_p4runtime::units::UnitId,
        portcullis_p4runtime::entry::RowKey,
        portcullis_p4runtime::entry::Does,
    >,
}

fn known(device: Device) -> Known {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let ports = KnownPorts {
        target: "tor".to_string(),
        uplinks: [9].into(),
        servers: [2].into(),
        ..KnownPorts::default()
    };
    let points = resolve(&intent, &ports, PortSpace::up_to(511));
    let mut programs = RowCache::new(device.model.clone());
    let built = Units::default()
        .build(&device, &intent, &points, "tor", &mut programs)
        .unwrap();
    let rows: Vec<Row> = built.desired.values().flat_map(|u| u.iter().cloned()).collect();
    assert!(rows.len() > 5, "{} rows", rows.len());
    Known {
        device: Arc::new(device),
        rows,
        desired: built.desired,
    }
}

static DEVICES: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let own = |matching| OwnProgram::new(matching).unwrap().device;
    let info = parse(include_bytes!("fixtures/foreign.txtpb")).unwrap();
    let mapping = Mapping::from_toml(include_str!("fixtures/foreign.toml")).unwrap();
    let foreign = Device::new(&info, "tor", Some(&mapping)).unwrap();
    let devices = [own(PortMatching::Range), own(PortMatching::Ternary), foreign];
    devices.into_iter().map(known).collect()
});

/// What one entity of an answer is read as, put back into words and into a message.
fn read_entity(known: &Known, entity: &Entity) {
    let device = &known.device;
    let row = match entity {
        Entity::TableEntry(entry) => match wire::seen_entry(device, entry, TAG) {
            Seen::Ours(row) => row,
            Seen::Foreign(key) => {
                assert!(!TAG.is_on(entry));
                assert!(!wire::text(device, &key, None).is_empty());
                return;
            }
            Seen::Nothing => return,
        },
        Entity::PacketReplicationEngineEntry(v1::PacketReplicationEngineEntry {
            r#type: Some(v1::packet_replication_engine_entry::Type::MulticastGroupEntry(group)),
        }) => wire::seen_group(group),
        _ => return,
    };
    assert!(!wire::text(device, &row.0, Some(&row.1)).is_empty());
    // What is there can be taken away, whatever it is.
    let (key, does) = row;
    assert!(wire::update(device, &Op::Delete(key.clone()), &WRITER).is_some());
    assert!(wire::update(device, &Op::Change(key, does), &WRITER).is_some());
}

fn read_answer(bytes: &[u8]) {
    let Ok(answer) = v1::ReadResponse::decode(bytes) else {
        return;
    };
    for known in DEVICES.iter() {
        for entity in answer.entities.iter().filter_map(|e| e.entity.as_ref()) {
            read_entity(known, entity);
        }
    }
}

/// Blows to some bytes: where, how many of them, and what comes in their place.
type Blows = Vec<(Index, usize, Vec<u8>)>;

fn blows(most: usize) -> impl Strategy<Value = Blows> {
    let bytes = prop::collection::vec(any::<u8>(), 0..4);
    prop::collection::vec((any::<Index>(), 0usize..6, bytes), 1..most)
}

fn damaged(mut bytes: Vec<u8>, blows: Blows) -> Vec<u8> {
    for (at, length, with) in blows {
        let start = at.index(bytes.len() + 1);
        let end = (start + length).min(bytes.len());
        drop(bytes.splice(start..end, with));
    }
    bytes
}

/// No text of a device reaches a terminal as it is, or without an end.
fn is_told_well(text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!text.trim().is_empty(), "an error without words");
    prop_assert!(!text.chars().any(char::is_control), "{text:?}");
    prop_assert!(text.chars().count() < 5_000, "{} characters", text.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_an_answer_to_a_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_answer(&bytes);
    }

    #[test]
    fn damaged_answers_to_a_read(which in 0usize..3, some in prop::collection::vec(any::<Index>(), 1..4), blows in blows(5)) {
        let known = &DEVICES[which];
        let entities = some.iter().filter_map(|at| {
            let (key, does) = &known.rows[at.index(known.rows.len())];
            wire::update(&known.device, &Op::Add(key.clone(), does.clone()), &WRITER)?.entity
        });
        let answer = v1::ReadResponse { entities: entities.collect() };
        read_answer(&damaged(answer.encode_to_vec(), blows));
    }

    /// What was written is read as what was written, by every server that echoes it.
    #[test]
    fn what_is_written_is_ours_when_it_is_read(which in 0usize..3, at in any::<Index>()) {
        let known = &DEVICES[which];
        let row = &known.rows[at.index(known.rows.len())];
        let add = Op::Add(row.0.clone(), row.1.clone());
        let entity = wire::update(&known.device, &add, &WRITER).and_then(|u| u.entity?.entity);
        match entity {
            Some(Entity::TableEntry(entry)) => {
                prop_assert_eq!(wire::seen_entry(&known.device, &entry, TAG), Seen::Ours(row.clone()));
                let other = Tag(TAG.0 ^ 1);
                prop_assert_eq!(wire::seen_entry(&known.device, &entry, other), Seen::Foreign(row.0.clone()));
            }
            Some(Entity::PacketReplicationEngineEntry(_)) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_as_the_details_of_an_error(
        code in any::<i32>(), message in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..200), updates in 0usize..20,
    ) {
        match failure::of_write(code, &message, &bytes, updates) {
            WriteFailure::Whole(why) => {
                is_told_well(&why)?;
                prop_assert!(why.contains(&format!("code {code}")), "{why}");
            }
            WriteFailure::Rows(rows) => {
                prop_assert!(!rows.is_empty());
                for (at, code, why) in rows {
                    prop_assert!(at < updates && code != 0);
                    prop_assert!(!why.chars().any(char::is_control), "{why:?}");
                }
            }
        }
    }

    /// One error per update names the updates it is about; any other number names itself.
    #[test]
    fn errors_of_updates(
        codes in prop::collection::vec(0i32..20, 0..12), message in any::<String>(), more in 0usize..3, blows in prop::option::of(blows(3)),
    ) {
        let error = |code: &i32| v1::Error { canonical_code: *code, message: message.clone(), ..Default::default() };
        let any = |code: &i32| prost_types::Any { value: error(code).encode_to_vec(), ..Default::default() };
        let status = rpc::Status { code: 2, message: message.clone(), details: codes.iter().map(any).collect() };
        let details = status.encode_to_vec();
        let whole = blows.is_none() && more == 0 && codes.iter().any(|c| *c != 0);
        let details = match blows { Some(blows) => damaged(details, blows), None => details };
        let updates = codes.len() + more;
        let told = failure::of_write(2, &message, &details, updates);
        if whole {
            let wanted: Vec<(usize, i32, String)> = codes
                .iter()
                .enumerate()
                .filter(|(_, c)| **c != 0)
                .map(|(at, c)| (at, *c, failure::shown(&message)))
                .collect();
            prop_assert_eq!(told, WriteFailure::Rows(wanted));
        } else if let WriteFailure::Rows(rows) = told {
            prop_assert!(rows.iter().all(|(at, code, _)| *at < updates && *code != 0));
        }
    }

    #[test]
    fn arbitration_about_others_is_named(
        device_id in 0u64..4, role in prop::option::of("[a-z\u{1b}]{0,4}"), code in prop::option::of(any::<i32>()), own in "[a-z]{0,2}",
    ) {
        let update = v1::MasterArbitrationUpdate {
            device_id,
            role: role.clone().map(|name| v1::Role { name, ..Default::default() }),
            election_id: None,
            status: code.map(|code| rpc::Status { code, ..Default::default() }),
        };
        let others = (device_id > 1) || role.as_ref().is_some_and(|r| *r != own);
        match wire::arbitrated(&update, 1, &own) {
            Ok(primary) => {
                prop_assert!(!others);
                prop_assert_eq!(primary, code.unwrap_or(0) == 0);
            }
            Err(why) => {
                prop_assert!(others);
                is_told_well(&why)?;
                let named = if device_id > 1 { format!("device {device_id}") } else { format!("role `{own}`") };
                prop_assert!(why.contains(&named), "{why}");
            }
        }
    }

    #[test]
    fn any_bytes_as_a_pipeline(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_pipeline(&bytes)?;
    }

    #[test]
    fn damaged_pipelines(
        fixture in prop::sample::select(vec![
            include_str!("fixtures/logical.txtpb"), include_str!("fixtures/acl.txtpb"), include_str!("fixtures/foreign.txtpb"),
            include_str!("../../../p4/compiled/portcullis-range.p4info.txtpb"),
        ]),
        blows in blows(4),
    ) {
        let config = v1::ForwardingPipelineConfig { p4info: Some(parse(fixture.as_bytes()).unwrap()), ..Default::default() };
        read_pipeline(&damaged(config.encode_to_vec(), blows))?;
    }
}

/// Reads the answer about a pipeline; and builds everything for the device, when there is one.
fn read_pipeline(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(config) = v1::ForwardingPipelineConfig::decode(bytes) else {
        return Ok(());
    };
    let cookie = config.cookie.as_ref().map_or(0, |c| c.cookie);
    let mapping = Mapping::from_toml(include_str!("fixtures/foreign.toml")).unwrap();
    let programs = [
        PipelineSource::Own(PortMatching::Range),
        PipelineSource::Device(None),
        PipelineSource::Device(Some(mapping)),
    ];
    for program in programs {
        match found(config.clone(), &program, "tor") {
            Err(why) => {
                // Lists of tables are told in lines.
                is_told_well(&why.replace('\n', " "))?;
            }
            Ok(found) => {
                prop_assert_eq!(found.cookie, cookie);
                let Some(device) = found.device else {
                    prop_assert_ne!(found.running, Running::Wanted);
                    continue;
                };
                let document = Document::from_yaml(DOCUMENT).unwrap();
                let intent = Compiler::default().resolve(&document, 1).unwrap();
                let points = resolve(
                    &intent,
                    &KnownPorts {
                        target: "tor".to_string(),
                        ..KnownPorts::default()
                    },
                    PortSpace::up_to(511),
                );
                let mut programs = RowCache::new(device.model.clone());
                if let Err(error) = Units::default().build(&device, &intent, &points, "tor", &mut programs) {
                    is_told_well(&error.to_string().replace('\n', " "))?;
                }
            }
        }
    }
    Ok(())
}

/// What a caller and a device may do to a session, in any order.
#[derive(Debug, Clone)]
enum Happens {
    Connected,
    Disconnected,
    Arbitrated(bool),
    Runs(u8),
    Unusable,
    Pushed(u8),
    Observed(Option<Vec<(Index, bool)>>),
    Wrote(Index, u8),
    WroteNothingKnown(u64),
    Paused,
    LookAgain,
    Held(bool),
    Desired(u64, bool),
    Changed,
}

fn happens() -> impl Strategy<Value = Happens> {
    let rows = prop::collection::vec((any::<Index>(), any::<bool>()), 0..6);
    prop_oneof![
        2 => Just(Happens::Connected),
        1 => Just(Happens::Disconnected),
        4 => any::<bool>().prop_map(Happens::Arbitrated),
        4 => (0u8..4).prop_map(Happens::Runs),
        1 => Just(Happens::Unusable),
        3 => (0u8..3).prop_map(Happens::Pushed),
        5 => prop::option::weighted(0.8, rows).prop_map(Happens::Observed),
        8 => (any::<Index>(), 0u8..6).prop_map(|(at, how)| Happens::Wrote(at, how)),
        1 => any::<u64>().prop_map(Happens::WroteNothingKnown),
        3 => Just(Happens::Paused),
        2 => Just(Happens::LookAgain),
        1 => any::<bool>().prop_map(Happens::Held),
        3 => (1u64..5, any::<bool>()).prop_map(|(generation, all)| Happens::Desired(generation, all)),
        1 => Just(Happens::Changed),
    ]
}

/// A session, and what its caller knows.
struct Drive<'a> {
    known: &'a Known,
    session: Session,
    /// Whether the device said last that this is the primary.
    primary: bool,
    is_pausing: bool,
    on_the_way: Vec<u64>,
}

impl Drive<'_> {
    fn one(&mut self, what: &Happens) -> Vec<Event> {
        let session = &mut self.session;
        match what {
            Happens::Connected => {
                (self.primary, self.is_pausing, self.on_the_way) = (false, false, Vec::new());
                session.connected();
                Vec::new()
            }
            Happens::Disconnected => {
                (self.primary, self.is_pausing, self.on_the_way) = (false, false, Vec::new());
                session.disconnected();
                Vec::new()
            }
            Happens::Arbitrated(primary) => {
                self.primary = *primary;
                if !primary {
                    self.is_pausing = false;
                    self.on_the_way.clear();
                }
                session.arbitrated(*primary)
            }
            Happens::Runs(which) => session.runs(match which {
                0 => Running::Nothing,
                1 => Running::Wanted,
                2 => Running::OtherOfOurs,
                _ => Running::Foreign("theirs".to_string()),
            }),
            Happens::Unusable => session.unusable("for a test".to_string()),
            Happens::Pushed(how) => session.config_set(match how {
                0 => Ok(()),
                1 => Err(NotPushed::Declined("declined".to_string())),
                _ => Err(NotPushed::Failed("failed".to_string())),
            }),
            Happens::Observed(None) => session.observed(Err("unreadable".to_string())),
            Happens::Observed(Some(rows)) => {
                let row = |at: &Index| self.known.rows[at.index(self.known.rows.len())].clone();
                let ours = rows.iter().filter(|(_, ours)| *ours).map(|(at, _)| row(at));
                let foreign = rows.iter().filter(|(_, ours)| !ours).map(|(at, _)| row(at).0);
                let (ours, foreign) = (ours.collect(), foreign.collect());
                session.observed(Ok(Observed { ours, foreign }))
            }
            Happens::Wrote(at, how) => {
                if self.on_the_way.is_empty() {
                    return Vec::new();
                }
                let number = self.on_the_way.swap_remove(at.index(self.on_the_way.len()));
                let refused = |at, code| Err(WriteFailure::Rows(vec![(at, code, "refused".to_string())]));
                session.wrote(
                    number,
                    match how {
                        0 => refused(0, 8),
                        // A device that refuses an update that was not there.
                        1 => refused(usize::MAX, 3),
                        2 => Err(WriteFailure::Whole("lost".to_string())),
                        _ => Ok(()),
                    },
                )
            }
            Happens::WroteNothingKnown(number) => session.wrote(number.wrapping_add(1 << 40), Ok(())),
            Happens::Paused => match std::mem::take(&mut self.is_pausing) {
                true => session.paused(),
                false => Vec::new(),
            },
            Happens::LookAgain => {
                session.look_again();
                Vec::new()
            }
            Happens::Held(held) => {
                session.hold(*held);
                Vec::new()
            }
            Happens::Desired(generation, all) => {
                let desired = if *all {
                    self.known.desired.clone()
                } else {
                    Desired::new()
                };
                session.set_desired(*generation, desired);
                Vec::new()
            }
            Happens::Changed => {
                self.is_pausing = false;
                session.pipeline_changed();
                Vec::new()
            }
        }
    }

    /// What it wants done is allowed now.
    fn effects(&mut self) -> Result<(), TestCaseError> {
        for effect in self.session.take_effects() {
            match effect {
                Effect::Arbitrate => {}
                Effect::GetConfig => prop_assert!(self.primary, "a backup asks nothing"),
                Effect::SetConfig(how) => {
                    prop_assert!(self.primary, "a backup sets no pipeline");
                    prop_assert!(matches!(how, Push::Reconcile | Push::Verify));
                }
                Effect::Read => prop_assert!(self.primary && self.session.is_ready()),
                Effect::Pause => {
                    prop_assert!(self.primary && self.session.is_ready() && !self.is_pausing);
                    self.is_pausing = true;
                }
                Effect::Write { number, ops } => {
                    prop_assert!(self.primary && self.session.is_ready(), "a write nobody may make");
                    prop_assert!(!ops.is_empty() && ops.len() <= UPDATES);
                    for op in &ops {
                        prop_assert!(wire::update(&self.known.device, op, &WRITER).is_some());
                        let _layer = op.key().layer();
                    }
                    self.on_the_way.push(number);
                }
            }
        }
        prop_assert!(self.on_the_way.len() <= WINDOW, "{:?}", self.on_the_way);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// No order of events makes a session panic, or write while it is not the primary of a device that runs what is wanted.
    #[test]
    fn any_history(which in 0usize..3, overwrite in any::<bool>(), history in prop::collection::vec(happens(), 1..120)) {
        let known = &DEVICES[which];
        let mut session = Session::new(overwrite);
        session.set_device(Arc::clone(&known.device));
        let mut drive = Drive { known, session, primary: false, is_pausing: false, on_the_way: Vec::new() };
        for what in &history {
            for event in drive.one(what) {
                match event {
                    Event::PipelineRefused(why) | Event::Unread(why) => is_told_well(&why)?,
                    Event::ForeignPipeline(name) => prop_assert_eq!(name, "theirs"),
                    _ => {}
                }
            }
            drive.effects()?;
        }
    }
}

//! The P4Runtime server over an engine without DPDK, and controllers that speak to it.
#![allow(dead_code, reason = "test binaries use what they need of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use portcullis_fastpath::{DropReason, NO_SLOT, Snapshot, Tables, Tally};
pub use portcullis_p4runtime::OwnProgram;
use portcullis_p4runtime::PortMatching;
use portcullis_proto::p4::config::v1::{P4Info, Table};
use portcullis_proto::p4::v1;
use portcullis_switch::hub::View;
use portcullis_switch::{Counters, Engine, Hub, Service, Sums};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Code, Status, Streaming};
use v1::entity::Entity;
use v1::field_match::{Exact, FieldMatchType, Optional, Range, Ternary};
use v1::p4_runtime_client::P4RuntimeClient;
use v1::set_forwarding_pipeline_config_request::Action as SetAction;
use v1::stream_message_request::Update as Said;
use v1::stream_message_response::Update as Heard;
use v1::update::Type;

pub const DEVICE: u64 = 7;
/// Longer than anything takes: what hangs fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub static RANGE: LazyLock<OwnProgram> = LazyLock::new(|| OwnProgram::new(PortMatching::Range).unwrap());
pub static TERNARY: LazyLock<OwnProgram> = LazyLock::new(|| OwnProgram::new(PortMatching::Ternary).unwrap());

pub fn info() -> &'static P4Info {
    RANGE.config.p4info.as_ref().unwrap()
}

pub fn table(name: &str) -> &'static Table {
    let of = |t: &&Table| t.preamble.as_ref().unwrap().alias == name;
    info().tables.iter().find(of).unwrap()
}

pub fn table_id(name: &str) -> u32 {
    table(name).preamble.as_ref().unwrap().id
}

pub fn action_id(name: &str) -> u32 {
    let actions = info().actions.iter().map(|a| a.preamble.as_ref().unwrap());
    let mut of_name = actions.filter(|p| p.alias == name);
    of_name.next().unwrap_or_else(|| panic!("{name}")).id
}

/// A number in its shortest form.
pub fn bytes(value: u128) -> Vec<u8> {
    let all = value.to_be_bytes();
    let zeros = all.iter().take_while(|b| **b == 0).count().min(15);
    all[zeros..].to_vec()
}

/// An entry, as it is written down.
#[derive(Debug, Clone)]
pub struct Entry(pub v1::TableEntry, &'static Table);

impl Entry {
    pub fn from_name(name: &str) -> Entry {
        let entry = v1::TableEntry {
            table_id: table_id(name),
            ..Default::default()
        };
        Entry(entry, table(name))
    }

    pub fn with(mut self, field: &str, kind: FieldMatchType) -> Entry {
        let key = self.1.match_fields.iter().find(|f| f.name == field).unwrap();
        self.0.r#match.push(v1::FieldMatch {
            field_id: key.id,
            field_match_type: Some(kind),
        });
        self
    }

    pub fn exact(self, field: &str, value: u128) -> Entry {
        let value = bytes(value);
        self.with(field, FieldMatchType::Exact(Exact { value }))
    }

    pub fn optional(self, field: &str, value: u128) -> Entry {
        let value = bytes(value);
        self.with(field, FieldMatchType::Optional(Optional { value }))
    }

    pub fn ternary(self, field: &str, value: u128, mask: u128) -> Entry {
        let (value, mask) = (bytes(value), bytes(mask));
        self.with(field, FieldMatchType::Ternary(Ternary { value, mask }))
    }

    pub fn range(self, field: &str, low: u128, high: u128) -> Entry {
        let (low, high) = (bytes(low), bytes(high));
        self.with(field, FieldMatchType::Range(Range { low, high }))
    }

    pub fn priority(mut self, priority: i32) -> Entry {
        self.0.priority = priority;
        self
    }

    pub fn action(mut self, name: &str, param: Option<u128>) -> Entry {
        let params = param.map(|value| v1::action::Param {
            param_id: 1,
            value: bytes(value),
        });
        self.0.action = Some(v1::TableAction {
            r#type: Some(v1::table_action::Type::Action(v1::Action {
                action_id: action_id(name),
                params: params.into_iter().collect(),
            })),
        });
        self
    }

    pub fn edit(mut self, change: impl FnOnce(&mut v1::TableEntry)) -> Entry {
        change(&mut self.0);
        self
    }

    pub fn entity(&self) -> v1::Entity {
        wrap(Entity::TableEntry(self.0.clone()))
    }

    pub fn insert(&self) -> v1::Update {
        update(Type::Insert, self.entity())
    }

    pub fn modify(&self) -> v1::Update {
        update(Type::Modify, self.entity())
    }

    pub fn delete(&self) -> v1::Update {
        update(Type::Delete, self.entity())
    }

    pub fn counter(&self, data: Option<(i64, i64)>) -> v1::Entity {
        wrap(Entity::DirectCounterEntry(v1::DirectCounterEntry {
            table_entry: Some(self.0.clone()),
            data: data.map(|(packet_count, byte_count)| v1::CounterData {
                packet_count,
                byte_count,
            }),
        }))
    }
}

pub fn wrap(entity: Entity) -> v1::Entity {
    v1::Entity { entity: Some(entity) }
}

pub fn update(kind: Type, entity: v1::Entity) -> v1::Update {
    v1::Update {
        r#type: kind as i32,
        entity: Some(entity),
    }
}

pub fn attach(port: u128, class: u128) -> Entry {
    let entry = Entry::from_name("attach").exact("port", port).priority(1);
    entry.action("sender.set_class", Some(class))
}

pub fn deliver(port: u128, class: u128) -> Entry {
    let entry = Entry::from_name("deliver").exact("port", port).priority(1);
    entry.action("receiver.set_class", Some(class))
}

/// A row of a class about destination ports.
pub fn policy(table: &str, class: u128, ports: (u128, u128), priority: i32, allow: bool) -> Entry {
    let side = if table == "egress_policy" {
        "sender"
    } else {
        "receiver"
    };
    let verdict = if allow { "allow" } else { "deny" };
    let entry = Entry::from_name(table)
        .ternary("class", class, 0xffff)
        .priority(priority);
    let entry = if ports == (0, 65535) {
        entry
    } else {
        entry.range("dst_port", ports.0, ports.1)
    };
    entry.action(&format!("{side}.{verdict}"), None)
}

/// Where a MAC is.
pub fn station(mac: u128, port: u128) -> Entry {
    let entry = Entry::from_name("l2").exact("dst_mac", mac);
    entry.action("forward", Some(port))
}

pub fn group(id: u32, ports: &[u128]) -> v1::Entity {
    let replicas = ports.iter().map(|port| v1::Replica {
        port_kind: Some(v1::replica::PortKind::Port(bytes(*port))),
        ..Default::default()
    });
    group_of(v1::MulticastGroupEntry {
        multicast_group_id: id,
        replicas: replicas.collect(),
        ..Default::default()
    })
}

pub fn group_of(group: v1::MulticastGroupEntry) -> v1::Entity {
    use v1::packet_replication_engine_entry::Type as PreType;
    wrap(Entity::PacketReplicationEngineEntry(
        v1::PacketReplicationEngineEntry {
            r#type: Some(PreType::MulticastGroupEntry(group)),
        },
    ))
}

/// Everything: all entries with their counters, all groups.
pub fn everything() -> Vec<v1::Entity> {
    let entries = v1::TableEntry {
        counter_data: Some(v1::CounterData::default()),
        ..Default::default()
    };
    vec![wrap(Entity::TableEntry(entries)), group(0, &[])]
}

/// A TCP SYN over IPv4.
pub fn tcp(dst_mac: u64, dst_port: u16) -> Vec<u8> {
    let mut frame = dst_mac.to_be_bytes()[2..].to_vec();
    frame.extend([2, 0, 0, 0, 0, 0x77, 8, 0]);
    frame.extend([
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9,
    ]);
    frame.extend([0x9c, 0x40]);
    frame.extend(dst_port.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

/// An ARP request to everybody.
pub fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x77, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 0x77, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
    frame
}

/// What one frame met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Met {
    pub ports: Vec<u16>,
    pub hits: Vec<u32>,
    pub drops: Vec<DropReason>,
}

impl Tally for Met {
    fn hit(&mut self, slot: u32, _: u32) {
        if slot != NO_SLOT {
            self.hits.push(slot);
        }
    }

    fn dropped(&mut self, _: u16, why: DropReason) {
        self.drops.push(why);
    }
}

pub fn met(snapshot: &Snapshot, frame: &[u8], port: u16) -> Met {
    let (mut met, mut list) = (Met::default(), Vec::new());
    met.ports = snapshot
        .process(frame, port, &mut list, &mut met)
        .iter()
        .collect();
    met
}

/// A server, its engine, and the views of workers that nobody runs.
pub struct Rig {
    pub engine: Arc<Engine>,
    pub hub: Arc<Hub>,
    pub counters: Arc<Counters>,
    pub address: String,
}

impl Rig {
    /// With so many workers that have to take up what is written.
    pub async fn start(workers: usize) -> Rig {
        let tables = Tables::default();
        let hub = Hub::new(tables.current(), workers);
        let counters = Counters::new();
        let sums = Sums::new(vec![Arc::clone(&counters)]);
        let engine = Arc::new(Engine::new(tables, Arc::clone(&hub), sums));
        let service = Service::new(Arc::clone(&engine), DEVICE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(service.server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Rig {
            engine,
            hub,
            counters,
            address,
        }
    }

    /// One that has a primary with the range program.
    pub async fn running() -> (Rig, Controller) {
        let rig = Rig::start(0).await;
        let mut primary = rig.primary(1).await;
        primary
            .set(SetAction::VerifyAndCommit, Some(RANGE.config.clone()))
            .await
            .unwrap();
        (rig, primary)
    }

    pub async fn controller(&self) -> Controller {
        let client = P4RuntimeClient::connect(self.address.clone()).await.unwrap();
        let (say, said) = mpsc::channel(16);
        let mut client = client.max_decoding_message_size(64 << 20);
        let heard = client.stream_channel(ReceiverStream::new(said)).await.unwrap();
        Controller {
            client,
            say,
            heard: heard.into_inner(),
            id: 0,
            role: String::new(),
        }
    }

    /// A controller that has been told that it is the primary.
    pub async fn primary(&self, id: u128) -> Controller {
        let mut controller = self.controller().await;
        assert_eq!(controller.elect(id).await.0, Code::Ok);
        controller
    }

    /// What workers forward by.
    pub fn view(&self) -> View {
        self.hub.view(usize::MAX)
    }
}

/// A controller with its stream.
pub struct Controller {
    pub client: P4RuntimeClient<Channel>,
    pub say: mpsc::Sender<v1::StreamMessageRequest>,
    pub heard: Streaming<v1::StreamMessageResponse>,
    pub id: u128,
    pub role: String,
}

pub fn number(id: u128) -> v1::Uint128 {
    v1::Uint128 {
        high: (id >> 64) as u64,
        low: id as u64,
    }
}

impl Controller {
    pub async fn say(&mut self, update: Said) {
        let message = v1::StreamMessageRequest { update: Some(update) };
        self.say.send(message).await.unwrap();
    }

    pub async fn hear(&mut self) -> Result<Option<v1::StreamMessageResponse>, Status> {
        let heard = tokio::time::timeout(PATIENCE, self.heard.message()).await;
        heard.expect("something is said in time")
    }

    /// Says who it is, with this election id or none.
    pub async fn stand(&mut self, id: Option<u128>, device_id: u64) {
        self.id = id.unwrap_or(0);
        let role = (!self.role.is_empty()).then(|| v1::Role {
            name: self.role.clone(),
            ..Default::default()
        });
        self.say(Said::Arbitration(v1::MasterArbitrationUpdate {
            device_id,
            role,
            election_id: id.map(number),
            status: None,
        }))
        .await;
    }

    /// What it is told next of the election: code, and the highest election id.
    pub async fn standing(&mut self) -> (Code, Option<u128>) {
        let Some(Heard::Arbitration(told)) = self.hear().await.unwrap().unwrap().update else {
            panic!("something else than an arbitration");
        };
        assert_eq!(told.device_id, DEVICE);
        assert_eq!(told.role.map(|r| r.name).unwrap_or_default(), self.role);
        let id = told
            .election_id
            .map(|id| u128::from(id.high) << 64 | u128::from(id.low));
        (Code::from_i32(told.status.unwrap().code), id)
    }

    pub async fn elect(&mut self, id: u128) -> (Code, Option<u128>) {
        self.stand(Some(id), DEVICE).await;
        self.standing().await
    }

    pub fn request(&self, updates: Vec<v1::Update>, atomicity: i32) -> v1::WriteRequest {
        v1::WriteRequest {
            device_id: DEVICE,
            role: self.role.clone(),
            election_id: Some(number(self.id)),
            updates,
            atomicity,
            ..Default::default()
        }
    }

    /// Writes, going on after errors.
    pub async fn write(&mut self, updates: Vec<v1::Update>) -> Result<(), Status> {
        let request = self.request(updates, 0);
        self.client.write(request).await.map(drop)
    }

    /// The one update is refused: why.
    pub async fn refused(&mut self, update: v1::Update) -> (Code, String) {
        let errors = errors(
            &self
                .write(vec![update.clone()])
                .await
                .expect_err(&format!("{update:?}")),
        );
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].space, "portcullis-switch");
        (
            Code::from_i32(errors[0].canonical_code),
            errors[0].message.clone(),
        )
    }

    pub async fn set(
        &mut self,
        action: SetAction,
        config: Option<v1::ForwardingPipelineConfig>,
    ) -> Result<(), Status> {
        let request = v1::SetForwardingPipelineConfigRequest {
            device_id: DEVICE,
            role: self.role.clone(),
            election_id: Some(number(self.id)),
            action: action as i32,
            config,
            ..Default::default()
        };
        self.client
            .set_forwarding_pipeline_config(request)
            .await
            .map(drop)
    }

    /// Reads, in the parts that came, and how it ended.
    pub async fn parts(&mut self, entities: Vec<v1::Entity>) -> (Vec<Vec<v1::Entity>>, Result<(), Status>) {
        let request = v1::ReadRequest {
            device_id: DEVICE,
            role: String::new(),
            entities,
        };
        let mut answers = match self.client.read(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (Vec::new(), Err(status)),
        };
        let mut parts = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(answer)) => parts.push(answer.entities),
                Ok(None) => return (parts, Ok(())),
                Err(status) => return (parts, Err(status)),
            }
        }
    }

    pub async fn read(&mut self, entities: Vec<v1::Entity>) -> Vec<v1::Entity> {
        let (parts, end) = self.parts(entities).await;
        end.unwrap();
        sorted(parts.concat())
    }

    /// What a direct counter says.
    pub async fn count(&mut self, entry: &Entry) -> (i64, i64) {
        let found = self.read(vec![entry.counter(None)]).await;
        let [
            v1::Entity {
                entity: Some(Entity::DirectCounterEntry(counter)),
            },
        ] = found.as_slice()
        else {
            panic!("{found:?}");
        };
        let data = counter.data.unwrap();
        (data.packet_count, data.byte_count)
    }
}

/// Entities in an order of their own.
pub fn sorted(mut entities: Vec<v1::Entity>) -> Vec<v1::Entity> {
    entities.sort_by_cached_key(Message::encode_to_vec);
    entities
}

/// The error of each part of a request.
pub fn errors(status: &Status) -> Vec<v1::Error> {
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    let inner = portcullis_proto::google::rpc::Status::decode(status.details()).unwrap();
    assert_eq!(inner.code, Code::Unknown as i32);
    let each = inner.details.iter().map(|any| {
        assert_eq!(any.type_url, "type.googleapis.com/p4.v1.Error");
        v1::Error::decode(any.value.as_slice()).unwrap()
    });
    each.collect()
}

/// The codes of each part.
pub fn codes(status: &Status) -> Vec<Code> {
    errors(status)
        .iter()
        .map(|e| Code::from_i32(e.canonical_code))
        .collect()
}

//! A vendor's switch (`p4/vendor.p4`) on BMv2: an ACL table without fragment bit and TCP flags, and a parser that reads ports where
//! they would stand without IPv4 options, fragment offsets and extension headers.

use std::collections::BTreeSet;

use ipnet::IpNet;
use portcullis_compiler::model::PacketKind;
use portcullis_compiler::proof::{Coverage, Extent};
use portcullis_compiler::{ClassId, RowCache};
use portcullis_p4runtime::behind::{Inner, Takes};
use portcullis_p4runtime::{Mapping, parse, pipelines};
use portcullis_policy::{Decider, Direction, Policy};
use portcullis_proto::p4::v1;
use tokio_stream::wrappers::ReceiverStream;
use v1::p4_runtime_client::P4RuntimeClient;
use v1::packet_replication_engine_entry::Type as Replication;
use v1::set_forwarding_pipeline_config_request::Action;

use super::corpus::craft::{Content, Frame};
use super::corpus::expect::packet;
use super::*;

const P4INFO: &[u8] = include_bytes!("../../../../p4/compiled/vendor.p4info.txtpb");
const JSON: &[u8] = include_bytes!("../../../../p4/compiled/vendor.json");
/// The group of all ports, in `vendor.p4`.
const ALL_PORTS: u32 = 1;

#[allow(
    deprecated,
    reason = "servers before P4Runtime 1.4 know ports of replicas by number alone"
)]
/// The switch's own software: puts the program there, and sets up what is not Portcullis's to set.
async fn set_up(address: &str) {
    let channel = tonic::transport::Endpoint::from_shared(address.to_string()).unwrap();
    let mut client = P4RuntimeClient::new(channel.connect().await.unwrap());
    let election_id = Some(v1::Uint128 { high: 0, low: 1 });
    let (say, said) = tokio::sync::mpsc::channel(1);
    let arbitration = v1::MasterArbitrationUpdate {
        device_id: 1,
        election_id,
        ..Default::default()
    };
    say.send(v1::StreamMessageRequest {
        update: Some(v1::stream_message_request::Update::Arbitration(arbitration)),
    })
    .await
    .unwrap();
    let mut stream = client
        .stream_channel(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    let config = v1::ForwardingPipelineConfig {
        p4info: Some(parse(P4INFO).unwrap()),
        p4_device_config: JSON.to_vec(),
        ..Default::default()
    };
    let request = v1::SetForwardingPipelineConfigRequest {
        device_id: 1,
        election_id,
        action: Action::VerifyAndCommit as i32,
        config: Some(config),
        ..Default::default()
    };
    client.set_forwarding_pipeline_config(request).await.unwrap();
    let replicas = HOSTS.iter().map(|(_, port)| v1::Replica {
        port_kind: Some(v1::replica::PortKind::EgressPort(u32::from(*port))),
        instance: 1,
        ..Default::default()
    });
    let group = v1::MulticastGroupEntry {
        multicast_group_id: ALL_PORTS,
        replicas: replicas.collect(),
        ..Default::default()
    };
    let entry = v1::PacketReplicationEngineEntry {
        r#type: Some(Replication::MulticastGroupEntry(group)),
    };
    let update = v1::Update {
        r#type: v1::update::Type::Insert as i32,
        entity: Some(v1::Entity {
            entity: Some(v1::entity::Entity::PacketReplicationEngineEntry(entry)),
        }),
    };
    let request = v1::WriteRequest {
        device_id: 1,
        election_id,
        updates: vec![update],
        ..Default::default()
    };
    client.write(request).await.unwrap();
    // Who only looks sees what it runs, before anyone is primary of it again.
    let seen = portcullis_p4runtime::look(address).await.unwrap();
    let device = seen.device.unwrap();
    assert_eq!((device.id, seen.ports), (1, None));
    assert_eq!(device.program, Some(parse(P4INFO).unwrap()));
}

/// Where the switch sends a frame that nothing drops.
fn forwarded(frame: &Frame) -> Vec<Host> {
    let (from, dst) = (frame.route.from, frame.route.dst);
    let others = Host::all().filter(|host| *host != from);
    if dst[0] & 1 == 1 {
        return others.collect();
    }
    let others: Vec<Host> = others.collect();
    let owner = match dst[..5] == [2, 0, 0, 0, 0] {
        true => Host::all().find(|host| host.mac() == dst),
        false => Some(INTERNET),
    };
    others.into_iter().filter(|host| Some(*host) == owner).collect()
}

/// The kinds that a frame is of, as `vendor.p4` sees it.
fn kinds(frame: &Frame) -> BTreeSet<PacketKind> {
    let mut kinds = BTreeSet::new();
    let Content::Ip(ip) = &frame.content else {
        return [PacketKind::NotIp].into();
    };
    let packet = &frame.key[14..];
    match ip.fragment {
        portcullis_policy::Fragment::Later { .. } => drop(kinds.insert(PacketKind::LaterFragments)),
        _ if packet[0] >> 4 == 4 && packet[0] & 15 > 5 => drop(kinds.insert(PacketKind::IpOptions)),
        _ => {}
    }
    if packet[0] >> 4 == 6 && Some(packet[6]) != ip.protocol {
        kinds.insert(PacketKind::ExtensionHeaders);
    }
    if ip.protocol == Some(132) {
        kinds.insert(PacketKind::Sctp);
    }
    if kinds.is_empty() {
        kinds.insert(PacketKind::Plain);
    }
    kinds
}

/// Whether the parser of `vendor.p4` sees what the policy is about: behind no tag or one, and in an Ethernet II frame.
fn is_seen(frame: &Frame) -> bool {
    let type_of_ip = matches!(frame.key[12..14], [0x08, 0x00] | [0x86, 0xdd]);
    let tags = match frame.tags.as_slice() {
        [] => true,
        [(tpid, _)] => *tpid == 0x8100,
        _ => false,
    };
    tags && (type_of_ip || !matches!(frame.content, Content::Ip(_)))
}

/// What is enforced for one host in one direction.
struct Enforced {
    policy: Policy,
    coverage: Coverage,
}

impl Enforced {
    fn new(intent: &Intent, rows: &mut RowCache, host: Host, direction: Direction) -> Option<Self> {
        let endpoint = intent.endpoints.get(host.name())?;
        let class = intent.classes.get(&endpoint.classes[direction])?;
        assert_ne!(class.id, ClassId::OPEN);
        let program = rows.get(class).unwrap();
        Some(Enforced {
            policy: class.policy.clone(),
            coverage: program.coverage.as_deref().cloned()?,
        })
    }

    /// Whether a frame must pass, must not, or may do either.
    fn must(&self, frame: &Frame, direction: Direction, accept: &BTreeSet<PacketKind>) -> Option<bool> {
        let (wanted, by) = self.policy.judge(&packet(&frame.content, direction), View::FULL);
        let kinds = kinds(frame);
        if wanted.passes() {
            let accepted = kinds.iter().any(|kind| accept.contains(kind));
            return (!accepted).then_some(true);
        }
        let rule = self.coverage.rules.get(&by);
        let may_pass = rule.is_none_or(|rule| kinds.iter().any(|kind| rule.passes.contains_key(kind)));
        (by != Decider::Evasion && is_seen(frame) && !may_pass).then_some(false)
    }
}

fn mapping(accept: &[PacketKind]) -> Mapping {
    let mut mapping = Mapping::from_toml(pipelines::source("vendor").unwrap()).unwrap();
    mapping.accept_also(accept.iter().copied()).unwrap();
    mapping
}

/// Sends the whole corpus under one document over a vendor's switch, with these kinds of packets accepted.
pub fn corpus_over_a_vendors_switch(test: &str, case: &str, accept: &[PacketKind]) {
    if !need_bmv2(test) {
        return;
    }
    let case: Case = cases().into_iter().find(|c| c.name == case).unwrap();
    let frames = corpus::with_services();
    let program = PipelineSource::Device(Some(mapping(accept)));
    let (mut rig, hosts) = Rig::start_with(Which::Bmv2, program, |config, device, runtime| {
        config.servers = [1, 2, 3, 4].into();
        runtime.block_on(set_up(&device.address()));
    });
    silence(&hosts);
    let yaml = at_ports(&case.yaml, &[]);
    let intent = rig.apply(&yaml);
    let device =
        portcullis_p4runtime::device::Device::new(&parse(P4INFO).unwrap(), "tor", Some(&mapping(accept)));
    let mut rows = RowCache::new(device.unwrap().model);
    let mut enforced = |direction| -> Vec<Option<Enforced>> {
        let hosts = Host::all();
        hosts
            .map(|host| Enforced::new(&intent, &mut rows, host, direction))
            .collect()
    };
    let (egress, ingress) = (enforced(Direction::Egress), enforced(Direction::Ingress));
    let accept: BTreeSet<PacketKind> = accept.iter().copied().collect();
    let (arrivals, _) = Wire::new(&hosts, None, &frames, Which::Bmv2.batch()).send(1);
    let (mut passed, mut denied, mut either, mut wrong) = (0, 0, 0, Vec::new());
    for (index, frame) in frames.iter().enumerate() {
        let out = egress[frame.route.from.0].as_ref();
        let sent = out.map_or(Some(true), |out| out.must(frame, Direction::Egress, &accept));
        for host in forwarded(frame) {
            let received = ingress[host.0].as_ref();
            let received = received.map_or(Some(true), |i| i.must(frame, Direction::Ingress, &accept));
            let arrived = arrivals.get(&index).is_some_and(|got| got.contains_key(&host));
            let must = match (sent, received) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            match must {
                None => either += 1,
                Some(true) => passed += 1,
                Some(false) => denied += 1,
            }
            if must.is_some_and(|must| must != arrived) {
                wrong.push(format!("{} at {}: {arrived}", frame.what, host.name()));
            }
        }
    }
    eprintln!(
        "{}: {passed} must arrive, {denied} must not, {either} may; {} differences",
        case.name,
        wrong.len()
    );
    for line in wrong.iter().take(PRINTED) {
        eprintln!("-- {line}");
    }
    assert_eq!(wrong.len(), 0, "see above");
    assert!(passed > 1000);
    if !accept.is_empty() {
        assert!(denied > 20, "{denied}");
    }
    let rules = egress
        .iter()
        .chain(&ingress)
        .flatten()
        .flat_map(|e| e.coverage.rules.values());
    let extents: BTreeSet<Extent> = rules.map(|rule| rule.extent()).collect();
    eprintln!("rules are enforced: {extents:?}");
}

/// The prefixes of an endpoint that rows of `vendor.p4` name: of IPv6 addresses its key has 64 bits.
fn named_prefixes(intent: &Intent, host: Host) -> Vec<IpNet> {
    let endpoint = intent.endpoints.get(host.name());
    let prefixes = endpoint.into_iter().flat_map(|endpoint| &endpoint.addresses);
    prefixes
        .map(|prefix| prefix.0)
        .filter(|net| net.addr().is_ipv4() || net.prefix_len() <= 64)
        .collect()
}

/// Four servers behind one port, as behind a hypervisor's switch, each with the policy of its addresses.
pub fn servers_behind_one_port(test: &str) {
    if !need_bmv2(test) {
        return;
    }
    let servers: Vec<Host> = Host::all().take(4).collect();
    let case: Case = cases().into_iter().find(|c| c.name == "blocked").unwrap();
    let yaml = servers.iter().fold(case.yaml.clone(), |text, host| {
        let name = host.name();
        let both = format!("{{interface: {name}, target: host}}, {{port: 1, target: tor, by: address}}");
        text.replace(&format!("{{interface: {name}}}"), &both)
    });
    let yaml = yaml
        .replace("source_guard: false", "source_guard: true")
        .replace("addresses: []", "addresses: [192.0.2.4]")
        .replace(
            "version: portcullis/v1",
            "version: portcullis/v1\nunmanaged: deny",
        );
    // Everything that one of them sends comes by the hypervisor's port.
    let mut frames = corpus::with_services();
    frames.retain(|frame| servers.contains(&frame.route.from));
    for frame in &mut frames {
        frame.route.from = servers[0];
    }
    let program = PipelineSource::Device(Some(mapping(&PacketKind::OBSCURE)));
    let (mut rig, hosts) = Rig::start_with(Which::Bmv2, program, |config, device, runtime| {
        config.servers = [1].into();
        let inner = Inner {
            target: "host".to_string(),
            takes: Takes::Interfaces {
                without_target: false,
            },
            is_whole: true,
        };
        config.behind = [(1, vec![inner])].into();
        runtime.block_on(set_up(&device.address()));
    });
    silence(&hosts);
    let intent = rig.apply(&yaml);
    let device = portcullis_p4runtime::device::Device::new(
        &parse(P4INFO).unwrap(),
        "tor",
        Some(&mapping(&PacketKind::OBSCURE)),
    );
    let mut rows = RowCache::new(device.unwrap().model);
    let policies: Vec<(Vec<IpNet>, Option<Enforced>)> = servers
        .iter()
        .map(|host| {
            let enforced = Enforced::new(&intent, &mut rows, *host, Direction::Egress);
            (named_prefixes(&intent, *host), enforced)
        })
        .collect();
    let accept: BTreeSet<PacketKind> = PacketKind::OBSCURE.into();
    // One port takes what four do elsewhere.
    let batch = Which::Bmv2.batch() / 4;
    let (arrivals, _) = Wire::new(&hosts, None, &frames, batch).send(1);
    let (mut passed, mut denied, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for (index, frame) in frames.iter().enumerate() {
        let source = match packet(&frame.content, Direction::Egress).frame {
            portcullis_policy::Frame::Ip(ip) => Some(ip.local),
            _ => None,
        };
        let has = |nets: &[IpNet]| source.is_some_and(|source| nets.iter().any(|net| net.contains(&source)));
        let whose = policies.iter().position(|(nets, _)| has(nets));
        let enforced = whose.and_then(|at| policies[at].1.as_ref());
        let must = enforced.map_or(Some(true), |policy| {
            policy.must(frame, Direction::Egress, &accept)
        });
        for host in forwarded(frame) {
            let arrived = arrivals.get(&index).is_some_and(|got| got.contains_key(&host));
            match must {
                None => continue,
                Some(true) => passed += 1,
                Some(false) => drop(denied.insert((whose, index))),
            }
            if must != Some(arrived) {
                wrong.push(format!("{} at {}: {arrived}", frame.what, host.name()));
            }
        }
    }
    for line in wrong.iter().take(PRINTED) {
        eprintln!("-- {line}");
    }
    let owners: BTreeSet<Option<usize>> = denied.iter().map(|(whose, _)| *whose).collect();
    eprintln!(
        "{passed} must arrive, {} frames of {} servers must not; {} differences",
        denied.len(),
        owners.len(),
        wrong.len()
    );
    assert_eq!(wrong.len(), 0, "see above");
    assert!(
        passed > 500 && denied.len() > 20 && owners.len() > 1,
        "{passed}, {denied:?}"
    );
}

//! The backend's manners that only a P4Runtime device asks for; `suite.rs` has those that every session has.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_backend::SessionState;
use portcullis_compiler::Compiler;
use portcullis_proto::p4::v1;
use portcullis_testbed::p4::P4Server;
use rig::{Rig, document, until};

/// Several generations, small and large.
const STEPS: [&str; 6] = ["25", "25, 465", "25, 465, 587", "25, \"6660-6669\"", "80", "25"];

async fn through_all(rig: &mut Rig) {
    for step in STEPS {
        rig.apply(&document(step, "")).await;
        rig.right();
    }
}

#[tokio::test]
async fn the_pipeline_is_pushed_once_and_groups_have_their_ports() {
    let mut rig = Rig::start().await;
    through_all(&mut rig).await;
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(&document("25", "")).await;
    let state = rig.server.state();
    assert_eq!(state.pushes, 1);
    let replicas = |g: &v1::MulticastGroupEntry| g.replicas.len();
    assert_eq!(state.groups.values().map(replicas).collect::<Vec<_>>(), [4, 1]);
}

#[tokio::test]
async fn class_ids_beyond_the_key_have_numbers_of_this_device() {
    let mut rig = Rig::start().await;
    // Our program has a class key of 16 bits. No id is ever said to be free: another target may be away.
    rig.compiler = Compiler::new(65_530, [], []);
    rig.in_place = false;
    let mut highest = 0;
    for _ in 0..2 {
        for step in STEPS {
            let intent = rig.apply(&document(step, "")).await;
            rig.right();
            highest = intent.classes.keys().map(|id| id.0).max().unwrap();
        }
    }
    assert!(highest > 65_535, "{highest}");
    // Hits name the classes by their ids, of which the device knows nothing.
    let hits = rig.target.hits().await.unwrap();
    assert!(
        hits.iter()
            .any(|hit| hit.class.is_some_and(|class| class > 65_535)),
        "{hits:?}"
    );
    // `mail` has a rule of its own, which stands above the rows of the class of `web`.
    let (intent, rows) = (rig.intent_now(), rig.rows());
    let class = |name: &str| intent.endpoints[name].classes.egress.0;
    let below = hits.iter().find(|hit| hit.rule == "baseline/blocked").unwrap();
    assert_eq!(below.class, Some(class("web")));
    assert_eq!(*below.overlays, [class("mail")].into());
    assert_eq!(below.endpoints, ["(port 5)", "mail", "web"]);
    rig.restart_agent();
    rig.target.set_intent(intent);
    rig.realized().await;
    assert_eq!(
        rig.target.status().writes,
        [0; 3],
        "numbers are found in the rows"
    );
    assert_eq!(rig.rows(), rows);
    // The device may answer before the agent has loaded its policy.
    let intent = rig.intent_now();
    rig.restart_agent();
    rig.until("read", |status| status.tables.iter().any(|table| table.rows > 0))
        .await;
    rig.target.set_intent(intent);
    rig.realized().await;
    let now = rig.rows();
    for r in now.difference(&rows) {
        println!("+ {r}");
    }
    for r in rows.difference(&now) {
        println!("- {r}");
    }
    assert_eq!(
        rig.target.status().writes,
        [0; 3],
        "numbers are found in rows that were read before"
    );
    assert_eq!(rig.rows(), rows);
    // Without the ids of its rows, as after a loss of the database: rows are taken over, and nothing meets a mix.
    rig.compiler = Compiler::new(1, [], []);
    rig.restart_agent();
    rig.apply(&document(STEPS[0], "")).await;
    rig.right();
}

#[tokio::test]
async fn updates_may_be_carried_out_in_any_order_and_slowly() {
    let mut rig = Rig::start().await;
    rig.server.faults().reversed.store(true, Ordering::Relaxed);
    rig.server.faults().delay_ms.store(20, Ordering::Relaxed);
    through_all(&mut rig).await;
}

#[tokio::test]
async fn a_server_of_an_older_version_is_good_enough() {
    let mut rig = Rig::start().await;
    rig.server.faults().old_metadata.store(true, Ordering::Relaxed);
    rig.server
        .faults()
        .groups_unreadable
        .store(true, Ordering::Relaxed);
    through_all(&mut rig).await;
}

#[tokio::test]
async fn updates_that_are_refused_in_part_are_made_good() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    rig.server.faults().refuse.store(7, Ordering::Relaxed);
    rig.apply(&document("25, 465, 587, \"6660-6669\"", "")).await;
    assert_eq!(rig.server.faults().refuse.load(Ordering::Relaxed), 0);
    rig.right();
}

#[tokio::test]
async fn a_broken_stream_is_made_anew() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    for step in STEPS {
        rig.set(&document(step, ""));
        rig.server.break_streams();
        rig.realized().await;
        rig.right();
    }
}

#[tokio::test]
async fn mastership_that_is_stolen_stops_every_write_and_comes_back() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    let (rival, task) = rig.rival(100);
    until(&rival, "primary", |s| {
        s.versions.get("mastership").is_some_and(|m| m == "primary")
    })
    .await;
    rig.until("backup", |s| s.detail.contains("higher election id"))
        .await;
    assert_eq!(rig.target.status().state, SessionState::Handshaking);
    let rows = rig.rows();
    rig.set(&document("80", ""));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(rig.rows(), rows, "a backup writes nothing");
    // The rival has no intent: it leaves everything as it is, and goes.
    rival.stop();
    task.await.unwrap();
    rig.realized().await;
    rig.right();
}

#[tokio::test]
async fn a_full_table_is_told_with_its_rows_and_nothing_is_left_half_done() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    let rows = rig.rows();
    let policy = 0x0200_0006;
    let now = rig.server.state().entries.in_table(policy);
    // Smaller than its P4Info says: only the device itself knows.
    rig.server.state().sizes.insert(policy, now + 2);
    rig.set(&document("3, 5, 9, 17, 33, 65, 129, 257", ""));
    rig.until("told", |s| s.detail.contains("no room for egress_policy"))
        .await;
    let end = std::time::Instant::now() + rig::PATIENCE;
    while rig.rows() != rows {
        assert!(std::time::Instant::now() < end, "what was begun is taken back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rig.server.broken(), Vec::<String>::new());
    let status = rig.target.status();
    assert!(
        status.applied < status.wanted && status.state != SessionState::InSync,
        "{status:#?}"
    );
    rig.server.state().sizes.clear();
    rig.realized().await;
    rig.right();
}

#[tokio::test]
async fn a_foreign_program_is_left_alone_unless_told_otherwise() {
    let server = P4Server::start().await.unwrap();
    let theirs = v1::ForwardingPipelineConfig {
        p4info: Some(portcullis_p4runtime::parse(include_bytes!("fixtures/foreign.txtpb")).unwrap()),
        ..Default::default()
    };
    server.state().config = Some(theirs.clone());
    let mut rig = Rig::with(server, |_| {}).await;
    rig.set(&document("25", ""));
    rig.until("told", |s| s.detail.contains("overwrite_pipeline = true"))
        .await;
    // Also while it is asked again.
    for _ in 0..20 {
        assert_eq!(rig.target.status().state, SessionState::Unusable);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rig.server.state().config, Some(theirs));
    assert_eq!(rig.server.state().pushes, 0);
    rig.config.overwrite = true;
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(&document("25", "")).await;
    assert_eq!(rig.server.state().pushes, 1);
    rig.right();
}

#[tokio::test]
async fn without_a_policy_a_device_keeps_what_it_runs() {
    let server = P4Server::start().await.unwrap();
    let theirs = v1::ForwardingPipelineConfig {
        p4info: Some(portcullis_p4runtime::parse(include_bytes!("fixtures/foreign.txtpb")).unwrap()),
        ..Default::default()
    };
    for config in [None, Some(theirs)] {
        server.state().config.clone_from(&config);
        let mut alone = portcullis_p4runtime::Config::new("tor", &server.address(), 1);
        alone.overwrite = true;
        alone.resync_interval = Duration::from_millis(100);
        let (target, task) =
            portcullis_backend::launch("tor", portcullis_p4runtime::P4Backend::new(alone).unwrap());
        until(&target, "told", |s| {
            s.detail.contains("no policy was ever applied")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(server.state().config, config);
        assert_eq!(server.state().pushes, 0);
        target.stop();
        task.await.unwrap();
    }
    let mut rig = Rig::with(server, |config| config.overwrite = true).await;
    rig.until("told", |s| s.detail.contains("no policy was ever applied"))
        .await;
    rig.apply(&document("25", "")).await;
    assert_eq!(rig.server.state().pushes, 1);
    rig.right();
}

#[tokio::test]
async fn a_device_s_own_tables_are_used_by_mapping() {
    let server = P4Server::start().await.unwrap();
    server.state().config = Some(v1::ForwardingPipelineConfig {
        p4info: Some(portcullis_p4runtime::parse(include_bytes!("fixtures/foreign.txtpb")).unwrap()),
        ..Default::default()
    });
    let mapping = portcullis_p4runtime::Mapping::from_toml(include_str!("fixtures/foreign.toml")).unwrap();
    let mut rig = Rig::with(server, |config| {
        config.program = portcullis_p4runtime::PipelineSource::Device(Some(mapping));
    })
    .await;
    let tagged = "  tagged: {attachments: [{port: 3, vlan: 7, target: tor}], source_guard: false}\n";
    for step in STEPS {
        rig.apply(&document(step, tagged)).await;
    }
    let meets = |port: u128, remote: [u8; 4], dst: u128| {
        let packet = [
            ("ig_md.port", port),
            ("ig_md.lkp.mac_type", 0x0800),
            ("ig_md.lkp.proto", 6),
            ("ig_md.lkp.tcp_bits", 2),
            ("ig_md.lkp.sip4", 0xc000_0200 | port),
            ("ig_md.lkp.dip4", u128::from(u32::from_be_bytes(remote))),
            ("ig_md.lkp.sport", 40_000),
            ("ig_md.lkp.dport", dst),
        ];
        rig.server
            .state()
            .meets("fw.rules", &packet.into())
            .map(|(action, _)| action)
    };
    let (near, far) = ([198, 51, 100, 9], [203, 0, 113, 9]);
    let said = |action: &str| Some(action.to_string());
    assert_eq!(meets(1, near, 25), said("toast"));
    assert_eq!(meets(1, near, 80), said("go_on"));
    assert_eq!(
        (meets(2, near, 25), meets(2, far, 25)),
        (said("go_on"), said("toast"))
    );
    // A server port without an endpoint has the baseline.
    assert_eq!(
        (meets(5, near, 25), meets(5, near, 80)),
        (said("toast"), said("go_on"))
    );
    // No row is about the uplink, and none about a VLAN of a port.
    assert_eq!((meets(9, near, 25), meets(3, near, 25)), (None, None));
    let status = rig.target.status();
    let unsupported: Vec<String> = status.unsupported.iter().map(ToString::to_string).collect();
    for what in [
        "guard/web",
        "guard/mail",
        "every rule of tagged",
        "attachments without vlan",
        "tagged frames at port 1, 2:",
        "roles",
        "the ingress policy",
        "IPv6 packets with extension headers",
    ] {
        assert!(
            unsupported.iter().any(|u| u.contains(what)),
            "{what}: {unsupported:#?}"
        );
    }
    assert_eq!(rig.server.state().pushes, 0);
    let hits = rig.target.hits().await.unwrap();
    assert!(hits.iter().any(|h| h.rule == "baseline/blocked"), "{hits:#?}");
}

#[tokio::test]
async fn another_program_that_appears_is_noticed() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    rig.server.state().config = None;
    rig.server.state().entries.clear();
    let end = std::time::Instant::now() + rig::PATIENCE;
    while rig.server.state().pushes < 2 {
        assert!(std::time::Instant::now() < end, "{:#?}", rig.target.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.until("in sync", |s| s.state == SessionState::InSync).await;
    rig.right();
}

/// A packet of `web` that its policy denies.
fn egress_to_25() -> portcullis_backend::Trace {
    portcullis_backend::Trace {
        endpoint: "web".parse().unwrap(),
        direction: portcullis_policy::Direction::Egress,
        packet: portcullis_policy::IpPacket {
            local: [192, 0, 2, 1].into(),
            remote: [198, 51, 100, 9].into(),
            protocol: Some(6),
            fragment: portcullis_policy::Fragment::Whole,
            l4: portcullis_policy::L4::Ports {
                src: 40_000,
                dst: 25,
                flags: 2,
            },
        },
    }
}

#[tokio::test]
async fn a_plan_warns_where_tagged_frames_will_stop() {
    let mut rig = Rig::start().await;
    let trunk = document("25", "").replace("port: 1,", "port: 1, vlan: any,");
    rig.apply(&trunk).await;
    let same = rig.intent(&trunk);
    let same = rig.target.plan(same).await.unwrap();
    assert_eq!(same.warnings, [""; 0]);
    let untagged = rig.intent(&document("25", ""));
    let untagged = rig.target.plan(untagged).await.unwrap();
    assert_eq!(
        untagged.warnings,
        [
            "tagged frames of port 1 stop, in both directions: a port without `vlan` has the frames without a tag; for a trunk \
             write `vlan: any` in the attachment of web"
        ]
    );
    let one = rig.intent(&trunk.replace("vlan: any", "vlan: 7"));
    let warnings = rig.target.plan(one).await.unwrap().warnings.concat();
    assert!(
        warnings.contains("both directions, other than those of VLAN 7:"),
        "{warnings}"
    );
    rig.apply(&document("25", "")).await;
    let back = rig.intent(&trunk);
    let back = rig.target.plan(back).await.unwrap();
    assert_eq!(back.warnings, [""; 0]);
}

#[tokio::test]
async fn questions_are_answered_from_the_device() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    let next = rig.intent(&document("25, 465", ""));
    let plan = rig.target.plan(next).await.unwrap();
    let policy = plan.tables.iter().find(|t| t.table == "egress_policy").unwrap();
    assert!(
        policy.add > 0 && policy.now > 0 && policy.size == Some(32768),
        "{plan:#?}"
    );
    assert!(
        plan.rows
            .iter()
            .any(|r| r.starts_with("+ egress_policy priority=")),
        "{plan:#?}"
    );
    let trace = egress_to_25();
    let rows = rig.target.explain(trace).await.unwrap();
    let tables: Vec<&str> = rows.iter().map(|r| r.table.as_str()).collect();
    assert_eq!(tables, ["attach", "egress_policy"]);
    assert!(rows.iter().all(|r| r.present), "{rows:#?}");
    assert!(rows[1].row.ends_with("-> sender.deny"), "{}", rows[1].row);
    // Rows that lead to a class are not counted.
    let counts: Vec<bool> = rows
        .iter()
        .map(|r| r.packets.is_some() && r.bytes.is_some())
        .collect();
    assert_eq!(counts, [false, true], "{rows:#?}");
    let hits = rig.target.hits().await.unwrap();
    assert!(
        hits.iter()
            .any(|h| h.rule == "baseline/blocked" && h.action == "deny"),
        "{hits:#?}"
    );
}

#[tokio::test]
async fn explain_and_status_agree() {
    let server = P4Server::start().await.unwrap();
    // No periodic read-back comes to the rescue.
    let mut rig = Rig::with(server, |config| {
        config.resync_interval = Duration::from_secs(3600)
    })
    .await;
    rig.apply(&document("25", "")).await;
    let rows = rig.rows();
    let policy = 0x0200_0006;
    rig.server
        .state()
        .entries
        .retain(|_, entry| entry.table_id != policy);
    // So far only the switch knows.
    assert_eq!(rig.target.status().state, SessionState::InSync);
    let trace = egress_to_25();
    let explained = rig.target.explain(trace.clone()).await.unwrap();
    assert!(explained.iter().any(|row| !row.present), "{explained:#?}");
    assert_ne!(
        rig.target.status().state,
        SessionState::InSync,
        "status contradicts explain"
    );
    rig.until("repaired", |s| s.state == SessionState::InSync).await;
    assert_eq!(rig.rows(), rows);
    let explained = rig.target.explain(trace).await.unwrap();
    assert!(explained.iter().all(|row| row.present), "{explained:#?}");
}

#[tokio::test]
async fn a_device_that_hears_and_does_not_answer_is_given_up_and_found_again() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    rig.server.faults().deaf.store(true, Ordering::Relaxed);
    rig.set(&document("80", ""));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_ne!(rig.target.status().state, SessionState::InSync);
    rig.server.faults().deaf.store(false, Ordering::Relaxed);
    rig.realized().await;
    rig.right();
}

/// An authority and what it signed, as files.
struct Pki {
    folder: tempfile::TempDir,
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        Pki { folder, ca }
    }

    /// Certificate and key for a name.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_string()]).unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

#[tokio::test]
async fn devices_are_spoken_to_over_tls_with_both_sides_known() {
    use tonic::transport::{Certificate, Identity, ServerTlsConfig};
    let pki = Pki::new();
    let (cert, key) = pki.sign("switch.example");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(pki.ca.pem()));
    let server = P4Server::start_with("127.0.0.1:0", Some(tls)).await.unwrap();
    let (cert, key) = pki.sign("agent");
    let files = portcullis_p4runtime::Tls {
        ca: pki.folder.path().join("ca.pem"),
        client: Some((pki.file("cert.pem", &cert), pki.file("key.pem", &key))),
        domain: Some("switch.example".to_string()),
    };
    let mut rig = Rig::with(server, |config| config.tls = Some(files.clone())).await;
    rig.apply(&document("25", "")).await;
    rig.right();
    // Without a certificate of its own, under another name, and without TLS: nobody answers, and it is told why.
    for (what, tls) in [
        (
            "no certificate",
            Some(portcullis_p4runtime::Tls {
                client: None,
                ..files.clone()
            }),
        ),
        (
            "another name",
            Some(portcullis_p4runtime::Tls {
                domain: Some("other.example".to_string()),
                ..files.clone()
            }),
        ),
        ("no TLS", None),
    ] {
        let connections = rig.server.connections();
        rig.config.tls = tls;
        rig.restart_agent();
        rig.until(what, |s| {
            s.state == SessionState::Disconnected && s.detail != "not connected yet" && !s.detail.is_empty()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(rig.server.connections(), connections, "{what}");
    }
    rig.config.tls = Some(portcullis_p4runtime::Tls {
        ca: "/nowhere/ca.pem".into(),
        ..files
    });
    rig.restart_agent();
    rig.until("told", |s| s.detail.contains("/nowhere/ca.pem")).await;
}

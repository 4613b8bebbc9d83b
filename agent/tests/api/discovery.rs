//! An agent without a `[[target]]`, and `portcullis discover`, beside real embedded switches: no root.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_discovery::{Host, sections, server};
use portcullis_p4runtime::{SeenDevice, Server};
use portcullis_proto::switch::Port as SwitchPort;
use portcullis_proto::v1;

use crate::api::process::{PROGRAM, Process};
use crate::api::support::*;

const PATIENCE: Duration = Duration::from_secs(30);

const DOCUMENT: &str = "
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1:
    attachments: [{port: 1, target: local}]
    source_guard: false
";

/// A switch with ports that lead nowhere; killed when it is dropped.
struct Switch(Child);

impl Switch {
    fn start(socket: &Path) -> Self {
        let child = Command::new(switch_program())
            .args(["--grpc", &format!("unix:{}", socket.display())])
            .args(["--port", "1=ring", "--port", "2=null"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let switch = Switch(child.unwrap());
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < end, "the switch does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        switch
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configure(folder: &Path) -> std::path::PathBuf {
    let at = folder.display();
    let text = format!(
        "[store]\npath = \"{at}/p.db\"\n[api]\nsocket = \"{at}/agent.sock\"\n[discovery]\novsdb = \"unix:{at}/db.sock\"\n\
         servers = [\"unix:{at}/a.sock\", \"unix:{at}/b.sock\"]\n"
    );
    let file = folder.join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

async fn until(client: &mut Client, words: &str) -> v1::Target {
    let end = Instant::now() + PATIENCE;
    loop {
        let list = client.targets.list_targets(v1::ListTargetsRequest {}).await;
        let target = list.unwrap().into_inner().targets.remove(0);
        if target.detail.contains(words) {
            return target;
        }
        assert!(Instant::now() < end, "not `{words}` in time: {target:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn it_looks_until_something_appears_and_a_kept_target_is_programmed() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path());
    let socket = folder.path().join("agent.sock");
    let agent = Process::start(&config, &[]);
    let mut client = Client::unix(&socket).await;
    client.apply(DOCUMENT).await.unwrap();
    let none = until(&mut client, "no datapath on this machine").await;
    assert_eq!(
        (none.name.as_str(), none.kind.as_str(), none.generation_wanted),
        ("local", "none", 1)
    );
    let hits = Command::new(PROGRAM)
        .arg("--socket")
        .arg(&socket)
        .arg("hits")
        .output()
        .unwrap();
    let said = String::from_utf8([hits.stdout, hits.stderr].concat()).unwrap();
    assert!(said.contains("target local is Disconnected"), "{said}");
    let at = folder.path().join("a.sock");
    let _switch = Switch::start(&at);
    until(
        &mut client,
        "which is not programmed without a [[target]]: none of its ports",
    )
    .await;
    assert!(!folder.path().join("discovered.toml").exists());
    // A person has said which it is.
    drop(agent);
    let target = format!(
        "[[target]]\nname = \"local\"\nkind = \"embedded\"\naddress = \"unix:{}\"\nuplinks = [2]\nservers = [1]\n",
        at.display()
    );
    std::fs::write(folder.path().join("discovered.toml"), target).unwrap();
    let _agent = Process::start(&config, &[]);
    let mut client = Client::unix(&socket).await;
    let end = Instant::now() + PATIENCE;
    loop {
        let list = client
            .targets
            .list_targets(v1::ListTargetsRequest {})
            .await
            .unwrap();
        let target = list.into_inner().targets.remove(0);
        if target.state == "InSync" && target.generation_applied == 1 {
            assert_eq!(
                (target.name.as_str(), target.kind.as_str()),
                ("local", "p4runtime")
            );
            return;
        }
        assert!(Instant::now() < end, "{target:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn none_of_several_is_programmed_and_discover_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path());
    let sockets = ["a.sock", "b.sock"].map(|name| folder.path().join(name));
    let _switches = [0, 1].map(|n| Switch::start(&sockets[n]));
    let agent = Process::start(&config, &[]);
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    until(&mut client, "the target is chosen once a policy is applied").await;
    client.apply(DOCUMENT).await.unwrap();
    until(&mut client, "looking whether that stays so").await;
    assert!(!folder.path().join("discovered.toml").exists());
    until(&mut client, "several datapaths were found and none is programmed").await;
    let kept = std::fs::read_to_string(folder.path().join("discovered.toml")).unwrap();
    assert!(kept.contains("several = [") && kept.contains("b.sock"), "{kept}");
    drop(agent);
    let shown = Command::new(PROGRAM)
        .args([
            "discover",
            "--ovsdb",
            &format!("unix:{}/db.sock", folder.path().display()),
        ])
        .args(["--server", &format!("unix:{}", sockets[0].display())])
        .args(["--server", &format!("unix:{}", sockets[1].display())])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success(), "{text}");
    for words in [
        "embedded",
        "p4runtime 1.6.0",
        "2, uplink not known",
        "programs none of the 2 datapaths",
        "name = \"embedded1\"",
        "name = \"embedded2\"",
        "servers = [1, 2]",
        "nothing listens at unix:",
    ] {
        assert!(text.contains(words), "`{words}` is not in {text}");
    }
}

#[tokio::test]
async fn a_kept_file_that_is_wrong_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path());
    let kept = folder.path().join("discovered.toml");
    for (text, words) in [
        (
            "[[target]]\nname = \"local\"\nkind = \"wire\"\n",
            "`wire` is no kind of target",
        ),
        ("[[target", "delete it to have the agent look again"),
        ("", "has no [[target]]"),
        ("# several\n", "has no [[target]]"),
        (
            "[[target]]\nname = \"a\"\nkind = \"ovs\"\n[[target]]\nname = \"b\"\nkind = \"ovs\"\nbridge = \"b\"\n",
            "has several [[target]]",
        ),
        (
            "[[target]]\nname = \"a\"\nkind = \"embedded\"\nports = [\"1=ring\"]\n",
            "sets `ports` of an embedded switch",
        ),
    ] {
        std::fs::write(&kept, text).unwrap();
        for check in [true, false] {
            let mut command = Command::new(PROGRAM);
            command.args(["agent", "--config"]).arg(&config);
            if check {
                command.arg("--check");
            }
            let ended = command.output().unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            assert!(
                !ended.status.success() && said.contains(words) && said.contains("discovered.toml"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn servers_that_are_none_are_named_so() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = web.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            let _sent = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let shown = tokio::process::Command::new(PROGRAM)
        .args([
            "discover",
            "--ovsdb",
            "unix:/nowhere",
            "--server",
            &silent,
            "--server",
            &address,
            "--server",
            "here",
        ])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    for words in [
        format!("not found: the server at {silent} did not answer within 3 s"),
        format!("the server at {address} does not speak gRPC without TLS"),
        "`here` is not an address".to_string(),
        "it programs nothing, since there may be a datapath where nothing could be read".to_string(),
    ] {
        assert!(text.contains(&words), "`{words}` is not in {text}");
    }
}

/// A gRPC server that wants credentials is no P4Runtime server until it says so.
#[tokio::test]
async fn a_server_that_refuses_every_call_does_not_count() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let refuse = |_: tonic::Request<()>| Err(tonic::Status::unauthenticated("who are you?"));
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder()
        .layer(tonic::service::InterceptorLayer::new(refuse))
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    let shown = tokio::process::Command::new(PROGRAM)
        .args(["discover", "--ovsdb", "unix:/nowhere", "--server", &address])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("does not serve P4Runtime") && text.contains("No datapath found"),
        "{text}"
    );
}

/// Every section that is printed can be pasted into a configuration.
#[test]
fn printed_sections_are_configurations() {
    let host = Host::default();
    let port = |number: u32, kind: &str, device: &str| SwitchPort {
        number,
        kind: kind.to_string(),
        device: device.to_string(),
    };
    let seen = |ports: Option<Vec<SwitchPort>>, id: u64, program: Option<&str>| Server {
        version: "1.6.0".to_string(),
        device: Ok(SeenDevice {
            id,
            program: program.map(|name| {
                let file = format!(
                    "{}/../p4/compiled/{name}.p4info.txtpb",
                    env!("CARGO_MANIFEST_DIR")
                );
                portcullis_p4runtime::parse(&std::fs::read(file).unwrap()).unwrap()
            }),
        }),
        ports,
    };
    let of_switch = vec![port(1, "tap", "vm\"1"), port(9, "ring", "")];
    let all = [
        server("unix:/run/a.sock", &seen(Some(of_switch.clone()), 1, None), &host),
        server("127.0.0.1:9559", &seen(Some(of_switch.clone()), 1, None), &host),
        server("unix:/run/a.sock", &seen(Some(of_switch), 7, None), &host),
        server("127.0.0.1:9559", &seen(None, 1, None), &host),
        server(
            "127.0.0.1:9559",
            &seen(None, 3, Some("portcullis-ternary")),
            &host,
        ),
        server("unix:/sock/p4rt.sock", &seen(None, 1, Some("vendor")), &host),
    ];
    let printed = all.map(|datapath| {
        let section = sections(std::slice::from_ref(&datapath)).unwrap().remove(0)?;
        let config = portcullis::config::parse(Path::new("agent.toml"), &section);
        assert!(config.is_ok(), "{section}: {config:?}");
        Some(section)
    });
    let are: Vec<bool> = printed.iter().map(Option::is_some).collect();
    assert_eq!(are, [true, false, false, true, true, true], "{printed:#?}");
}

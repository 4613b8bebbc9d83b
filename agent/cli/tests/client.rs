//! Commands against an agent behind a real socket: what is asked, what is printed, how it exits.

use portcullis_cli::term::Term;
use portcullis_cli::{self as cli, Exit, Output};
use portcullis_proto::v1::*;

use crate::support;

use std::io::Write;

use support::agent::{Agent, State};
use support::{messages, parse, root, run};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn document() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "version: portcullis/v1\n").expect("is written");
    file
}

fn waited(realized: bool, target: Target) -> Option<Result<WaitRealizedResponse, Status>> {
    Some(Ok(WaitRealizedResponse {
        bypasses: Vec::new(),
        realized,
        generation: 7,
        targets: vec![target],
        store: None,
    }))
}

#[tokio::test]
async fn apply_passes_its_options_on() {
    let agent = Agent::start(State {
        apply: Some(Ok(messages::applied())),
        ..State::default()
    });
    let file = document();
    let path = file.path().to_str().expect("UTF-8");
    let ran = run(
        agent.socket(),
        &["apply", "-f", path, "--prune=false", "--allow-empty", "--dry-run"],
    )
    .await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Done, ""));
    assert!(ran.out.starts_with("+ profiles/web\n~ baseline\n"), "{}", ran.out);
    run(agent.socket(), &["apply", "-f", path]).await;
    let request = |merge, allow_empty, validate_only| ApplyDocumentRequest {
        document: "version: portcullis/v1\n".to_string(),
        merge,
        allow_empty,
        validate_only,
    };
    assert_eq!(
        agent.state().applies,
        [request(true, true, true), request(false, false, false)]
    );
    assert!(agent.state().waits.is_empty());
}

#[tokio::test]
async fn apply_warns_of_targets_that_are_away_and_of_no_others() {
    let states = ["Disconnected", "Handshaking", "Unusable", "Applying", "InSync"];
    let target = |state: &str| Target {
        detail: "what is the matter".to_string(),
        ..messages::target(state, state, 0, 7)
    };
    let agent = Agent::start(State {
        apply: Some(Ok(messages::applied())),
        targets: ListTargetsResponse {
            targets: states.map(target).to_vec(),
            ..ListTargetsResponse::default()
        },
        ..State::default()
    });
    let file = document();
    let path = file.path().to_str().expect("UTF-8");
    let ran = run(agent.socket(), &["apply", "-f", path]).await;
    let warning = |name: &str| {
        format!(
            "warning: target {name} is {name}, and the change is not enforced there yet: what is the matter\n"
        )
    };
    assert_eq!(
        (ran.exit, ran.err),
        (
            Exit::Done,
            [warning("Disconnected"), warning("Unusable")].concat()
        )
    );
    assert!(!ran.out.is_empty());
    let tried = run(agent.socket(), &["apply", "-f", path, "--dry-run"]).await;
    assert_eq!(tried.err, "", "nothing was changed");
}

#[tokio::test]
async fn a_refused_document_prints_nothing_on_stdout() {
    let details = ErrorDetails::with_bad_request_violation("version", "is missing");
    let status = Status::with_error_details(Code::InvalidArgument, "1 field", details);
    let agent = Agent::start(State {
        apply: Some(Err(status)),
        ..State::default()
    });
    let file = document();
    let path = file.path().to_str().expect("UTF-8");
    let ran = run(agent.socket(), &["apply", "-f", path, "-o", "json"]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Failed, ""));
    assert_eq!(
        ran.err,
        "error: refused, one field is wrong:\n  version: is missing\n"
    );
}

#[tokio::test]
async fn apply_waits_for_its_own_generation() {
    let agent = Agent::start(State {
        apply: Some(Ok(messages::applied())),
        wait: waited(true, messages::target("br0", "InSync", 7, 7)),
        ..State::default()
    });
    let file = document();
    let path = file.path().to_str().expect("UTF-8");
    let ran = run(agent.socket(), &["apply", "-f", path, "--wait=9"]).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Done, ""));
    assert!(ran.out.ends_with(", realized on every target\n"), "{}", ran.out);
    assert_eq!(
        agent.state().waits,
        [WaitRealizedRequest {
            generation: 7,
            timeout_ms: 9000
        }]
    );

    agent.state().wait = waited(false, messages::lagging());
    let ran = run(agent.socket(), &["apply", "-f", path, "--wait=1", "-o", "json"]).await;
    assert_eq!(ran.exit, Exit::NotRealized);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON and nothing else");
    assert_eq!(json["realized"], false);
    assert_eq!(
        ran.err,
        "generation 7 is durable and not realized after 1 s\n  br1 Disconnected, generation 6 of 7, 2 realized, \
         1 pending: connecting to /run/openvswitch/br1.mgmt: no such file\n"
    );
}

#[tokio::test]
async fn plan_has_an_exit_code_when_it_is_asked_for() {
    let agent = Agent::start(State::default());
    let file = document();
    let path = file.path().to_str().expect("UTF-8");
    assert_eq!(run(agent.socket(), &["plan", "-f", path]).await.exit, Exit::Done);
    let ran = run(
        agent.socket(),
        &["plan", "-f", path, "--rows", "--detailed-exitcode"],
    )
    .await;
    assert_eq!(ran.exit, Exit::WouldChange);
    assert_eq!(
        agent.state().plans.iter().map(|p| p.rows).collect::<Vec<_>>(),
        [false, true]
    );
}

#[tokio::test]
async fn status_says_by_its_exit_code_whether_all_is_realized() {
    let targets = |t| ListTargetsResponse {
        bypasses: Vec::new(),
        targets: vec![t],
        generation: 7,
        store: None,
        access: None,
    };
    let agent = Agent::start(State {
        targets: targets(messages::target("br0", "InSync", 7, 7)),
        ..State::default()
    });
    assert_eq!(run(agent.socket(), &["status"]).await.exit, Exit::Done);
    assert_eq!(
        run(agent.socket(), &["status", "--generation", "8"]).await.exit,
        Exit::NotRealized
    );
    agent.state().targets = targets(messages::lagging());
    assert_eq!(run(agent.socket(), &["status"]).await.exit, Exit::NotRealized);
    assert_eq!(
        run(agent.socket(), &["status", "--generation", "5"]).await.exit,
        Exit::NotRealized
    );

    agent.state().wait = waited(true, messages::target("br0", "InSync", 7, 7));
    assert_eq!(run(agent.socket(), &["status", "--wait"]).await.exit, Exit::Done);
    agent.state().wait = Some(Err(Status::deadline_exceeded("30 s")));
    let ran = run(agent.socket(), &["status", "--wait=2", "--generation", "6"]).await;
    assert_eq!(ran.exit, Exit::NotRealized);
    assert!(ran.out.starts_with("generation 6: not realized yet\n") && !ran.err.is_empty());
    let asked = |generation, timeout_ms| WaitRealizedRequest {
        generation,
        timeout_ms,
    };
    assert_eq!(agent.state().waits, [asked(0, 30_000), asked(6, 2_000)]);
}

#[tokio::test]
async fn get_reads_every_page() {
    let endpoints = ["a", "b", "c", "d", "e"].map(messages::endpoint).to_vec();
    let agent = Agent::start(State {
        endpoints,
        ..State::default()
    });
    let ran = run(
        agent.socket(),
        &["get", "endpoints", "-l", "tenant=acme", "-o", "json"],
    )
    .await;
    assert_eq!(ran.exit, Exit::Done);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let names: Vec<&str> = json["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|e| e["name"].as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let asked: Vec<(String, String)> = agent
        .state()
        .lists
        .iter()
        .map(|l| (l.page_token.clone(), l.label.clone()))
        .collect();
    let asked: Vec<(&str, &str)> = asked.iter().map(|(t, l)| (t.as_str(), l.as_str())).collect();
    assert_eq!(
        asked,
        [("", "tenant=acme"), ("2", "tenant=acme"), ("4", "tenant=acme")]
    );
}

#[tokio::test]
async fn get_one_and_get_what_is_not_there() {
    let agent = Agent::start(State {
        endpoints: vec![messages::endpoint("web1")],
        ..State::default()
    });
    let ran = run(agent.socket(), &["get", "endpoint", "web1"]).await;
    assert!(ran.out.starts_with("endpoint      web1\n"), "{}", ran.out);
    let ran = run(agent.socket(), &["get", "endpoint", "web2"]).await;
    assert_eq!(
        (ran.exit, ran.err.as_str()),
        (Exit::Failed, "error: there is no endpoint `web2`\n")
    );
    let ran = run(agent.socket(), &["get", "baseline", "x"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    let ran = run(agent.socket(), &["get", "profiles", "-l", "a=b"]).await;
    assert_eq!(
        (ran.exit, ran.err.as_str()),
        (Exit::Usage, "error: --label is for `get endpoints`\n")
    );
}

#[tokio::test]
async fn get_without_more_is_the_document_as_it_can_be_applied() {
    let agent = Agent::start(State::default());
    let yaml = "version: portcullis/v1\ndefaults:\n  egress: allow\n";
    assert_eq!(run(agent.socket(), &["get"]).await.out, yaml);
    let json = run(agent.socket(), &["get", "document", "-o", "json"]).await.out;
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        value,
        serde_json::json!({"version": "portcullis/v1", "defaults": {"egress": "allow"}})
    );
}

#[tokio::test]
async fn provision_and_release() {
    let agent = Agent::start(State::default());
    let words = [
        "endpoint",
        "provision",
        "web1",
        "--interface",
        "web1",
        "--target",
        "br0",
        "--mac",
        "02:00:00:00:00:01",
        "--address",
        "192.0.2.10",
        "--address",
        "2001:db8::/64",
        "--profile",
        "web",
        "--label",
        "tenant=acme",
    ];
    let ran = run(agent.socket(), &words).await;
    assert_eq!(
        (ran.exit, ran.out.as_str()),
        (Exit::Done, "endpoints/web1 provisioned: generation 8\n")
    );
    let attachment = Attachment {
        interface: "web1".into(),
        target: "br0".into(),
        ..Attachment::default()
    };
    let wanted = Endpoint {
        name: "web1".into(),
        attachments: vec![attachment],
        macs: vec!["02:00:00:00:00:01".into()],
        addresses: vec!["192.0.2.10".into(), "2001:db8::/64".into()],
        profiles: vec!["web".into()],
        labels: [("tenant".to_string(), "acme".to_string())].into(),
        source_guard: Some(true),
        ..Endpoint::default()
    };
    assert_eq!(agent.state().provisions, [wanted]);
    let ran = run(agent.socket(), &["endpoint", "release", "web1"]).await;
    assert_eq!(
        (ran.exit, ran.out.as_str()),
        (Exit::Done, "endpoints/web1 released: generation 9\n")
    );
}

#[tokio::test]
async fn explain_and_hits_reach_the_agent() {
    let agent = Agent::start(State::default());
    let ran = run(
        agent.socket(),
        &["explain", "web1", "egress", "tcp/25", "--remote", "203.0.113.1"],
    )
    .await;
    assert!(
        ran.exit == Exit::Done && ran.out.contains("verdict  deny\n"),
        "{}",
        ran.out
    );
    assert_eq!(agent.state().explains[0].remote, "203.0.113.1");
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("rack.svg");
    let file = picture.to_str().expect("is text");
    let ran = run(agent.socket(), &["status", "--placement", "--svg", file]).await;
    assert!(
        ran.exit == Exit::Done && ran.out.contains("uplink -- tor"),
        "{}",
        ran.out
    );
    let drawn = std::fs::read_to_string(&picture).expect("is written");
    assert!(drawn.starts_with("<svg"), "{drawn}");
    let ran = run(
        agent.socket(),
        &["status", "--placement", "--svg", "/nowhere/rack.svg"],
    )
    .await;
    assert!(
        ran.exit != Exit::Done && ran.err.contains("/nowhere/rack.svg"),
        "{}",
        ran.err
    );
    let ran = run(agent.socket(), &["hits", "web1"]).await;
    assert!(
        ran.exit == Exit::Done && ran.out.contains("baseline/smtp"),
        "{}",
        ran.out
    );
}

fn generations(json_lines: &str) -> Vec<u64> {
    let parsed = json_lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("a line is JSON"));
    parsed
        .filter(|v| v["event"] == "committed")
        .filter_map(|v| v["generation"].as_u64())
        .collect()
}

#[tokio::test]
async fn watch_resumes_where_it_was() {
    let behind = messages::told(9, messages::lagging());
    let streams = [
        Ok(vec![
            Ok(messages::committed(8)),
            Ok(behind),
            Err(Status::unavailable("stopping")),
        ]),
        Err(Status::unavailable("starting")),
        Ok(vec![Ok(messages::committed(9)), Ok(messages::committed(10))]),
    ];
    let agent = Agent::start(State {
        targets: ListTargetsResponse {
            bypasses: Vec::new(),
            targets: Vec::new(),
            generation: 7,
            store: None,
            access: None,
        },
        streams: streams.into(),
        ..State::default()
    });
    let ran = run(agent.socket(), &["watch", "-o", "json"]).await;
    // The test's agent says at its end that the generation is gone, which no repetition can heal.
    assert_eq!(ran.exit, Exit::Failed);
    assert!(ran.err.ends_with("error: the test is over\n"), "{}", ran.err);
    assert_eq!(generations(&ran.out), [8, 9, 10]);
    // An event of a target does not prove that its generation's commit was seen.
    let asked: Vec<(u64, bool)> = agent
        .state()
        .watches
        .iter()
        .map(|w| (w.after_generation, w.from_now))
        .collect();
    assert_eq!(asked, [(7, false), (8, false), (8, false), (10, false)]);
}

#[tokio::test]
async fn watch_begins_where_it_is_told() {
    let agent = Agent::start(State::default());
    run(agent.socket(), &["watch", "--after", "3"]).await;
    assert_eq!(agent.state().watches[0].after_generation, 3);
}

#[tokio::test]
async fn over_tls_with_both_sides_known() {
    let pair =
        |name: &str| rcgen::generate_simple_self_signed(vec![name.to_string()]).expect("a certificate");
    let (server, client) = (pair("localhost"), pair("operator"));
    let folder = tempfile::tempdir().expect("a folder");
    let keep = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("is written");
        path
    };
    let mut globals = parse(&["hits"]).expect("parses").globals;
    globals.ca = Some(keep("ca.pem", server.cert.pem()));
    globals.cert = Some(keep("cert.pem", client.cert.pem()));
    globals.key = Some(keep("key.pem", client.signing_key.serialize_pem()));
    let tls = tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(
            server.cert.pem(),
            server.signing_key.serialize_pem(),
        ))
        .client_ca_root(tonic::transport::Certificate::from_pem(client.cert.pem()));
    let agent = Agent::start_tls(State::default(), tls).await;
    globals.address = Some(format!("https://localhost:{}", agent.port()));

    let hits = async |globals: &cli::Globals| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut term = Term::new(&mut out, &mut err, Output::Table, None);
        let command = parse(&["hits"]).expect("parses").command;
        let exit = cli::execute(command, globals, root(), &mut term).await;
        (exit, String::from_utf8_lossy(&err).into_owned())
    };
    assert_eq!(hits(&globals).await, (Exit::Done, String::new()));
    (globals.cert, globals.key) = (None, None);
    let (exit, err) = hits(&globals).await;
    assert_eq!(exit, Exit::Unreachable, "{err}");
    assert!(err.contains("that --ca, --cert and --key belong to it"), "{err}");
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let agent = Agent::start(State::default());
    let mut globals = parse(&["hits"]).expect("parses").globals;
    globals.socket = agent.socket().to_path_buf();
    let (mut out, mut err) = (Closed, Vec::new());
    let mut term = Term::new(&mut out, &mut err, Output::Table, None);
    let command = parse(&["hits"]).expect("parses").command;
    assert_eq!(
        cli::execute(command, &globals, root(), &mut term).await,
        Exit::Done
    );
    assert!(err.is_empty());
}

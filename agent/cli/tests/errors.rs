//! What goes wrong, as people read it.

use portcullis_cli::client::Client;
use portcullis_cli::error::{Failure, report};
use portcullis_cli::{Exit, Globals};

use crate::support;

use support::{parse, run};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn told(status: Status) -> String {
    let failure = Failure::from(status);
    assert_eq!(failure.exit(), Exit::Failed);
    report(&failure)
}

#[test]
fn fields_are_told_one_by_one() {
    let mut details = ErrorDetails::new();
    details
        .add_bad_request_violation(
            "baseline[0].ports[0]",
            "port 70000 is out of range: ports are 0 to 65535",
        )
        .add_bad_request_violation("", "the document says nothing");
    let status = Status::with_error_details(Code::InvalidArgument, "2 fields", details.clone());
    assert_eq!(
        told(status),
        "error: refused, 2 fields are wrong:\n  \
         baseline[0].ports[0]: port 70000 is out of range: ports are 0 to 65535\n  \
         the document says nothing"
    );
    let one = ErrorDetails::with_bad_request_violation("version", "is missing");
    let status = Status::with_error_details(Code::InvalidArgument, "", one);
    assert_eq!(
        told(status),
        "error: refused, one field is wrong:\n  version: is missing"
    );
}

#[test]
fn numbers_come_with_what_is_exhausted() {
    let details =
        ErrorDetails::with_quota_failure_violation("br0/egress_policy", "needs 70 rows, 40 are left");
    let status = Status::with_error_details(Code::ResourceExhausted, "the rows do not fit", details);
    assert_eq!(
        told(status),
        "error: the rows do not fit\n  br0/egress_policy: needs 70 rows, 40 are left"
    );
}

#[test]
fn every_code_has_words() {
    let codes = (1..=16).map(Code::from_i32);
    let text: Vec<String> = codes
        .flat_map(|code| [("", code), ("the agent's own words", code)])
        .map(|(message, code)| format!("{code:?}\n{}", told(Status::new(code, message))))
        .collect();
    insta::assert_snapshot!(text.join("\n\n"));
}

#[tokio::test]
async fn no_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let ran = run(&socket, &["status"]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Unreachable, ""));
    let head = format!(
        "error: cannot reach the agent at {}: No such file or directory",
        socket.display()
    );
    assert!(ran.err.starts_with(&head), "{}", ran.err);
    assert!(
        ran.err
            .contains("\n  is it running? Start it (`systemctl start portcullis`"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_socket_without_an_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let ran = run(&socket, &["status"]).await;
    assert_eq!(ran.exit, Exit::Unreachable);
    assert!(
        ran.err.contains("Connection refused") && ran.err.contains("is it running?"),
        "{}",
        ran.err
    );
}

async fn refused(change: impl FnOnce(&mut Globals)) -> String {
    let mut globals = parse(&["status"]).expect("parses").globals;
    change(&mut globals);
    let failure = Client::connect(&globals).await.expect_err("is refused");
    format!("{} {}", failure.exit().code(), report(&failure))
}

#[tokio::test]
async fn addresses_that_are_of_no_use() {
    let address = |a: &'static str| move |g: &mut Globals| g.address = Some(a.to_string());
    assert_eq!(
        refused(address("sw1:9443")).await,
        "2 error: --address sw1:9443 is not an agent's address: write https://HOST:PORT or http://HOST:PORT"
    );
    assert_eq!(
        refused(address("https://sw1:9443")).await,
        "2 error: --address https://… needs --ca FILE: the authority that signed the agent's certificate"
    );
    let text = refused(address("http://127.0.0.1:1")).await;
    assert!(
        text.starts_with("4 error: cannot reach the agent at http://127.0.0.1:1: Connection refused"),
        "{text}"
    );
    assert!(
        text.ends_with("is it running, and does its configuration let it listen on TCP?"),
        "{text}"
    );
}

#[tokio::test]
async fn a_key_without_its_certificate() {
    let ca = tempfile::NamedTempFile::new().expect("a file");
    let path = ca.path().to_path_buf();
    let text = refused(move |g| {
        g.address = Some("https://sw1:9443".to_string());
        g.ca = Some(path.clone());
        g.key = Some(path);
    })
    .await;
    assert_eq!(
        text,
        "2 error: --cert and --key come together: give both or neither"
    );
}

#[tokio::test]
async fn tokens_that_are_none_and_tokens_in_the_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let path = file.clone();
    let with = move |address: Option<&'static str>| {
        let path = path.clone();
        move |g: &mut Globals| {
            g.address = address.map(str::to_string);
            g.socket = "/nowhere/agent.sock".into();
            g.token_file = Some(path);
        }
    };
    let text = refused(with(None)).await;
    assert!(text.starts_with("1 error: cannot read"), "{text}");
    for bad in ["", "\n", "two words", "sécret", "a\nb"] {
        std::fs::write(&file, bad).expect("is written");
        let text = refused(with(None)).await;
        assert!(
            text.starts_with("2 error: --token-file") && text.contains("holds no token"),
            "{text}"
        );
        assert!(!text.contains("words"), "{text}");
    }
    std::fs::write(&file, "secret\n").expect("is written");
    for open in [
        "http://sw1:9559",
        "http://192.0.2.1:9559",
        "http://localhost.example:1",
    ] {
        let text = refused(with(Some(open))).await;
        assert!(text.contains("others could read the token"), "{open}: {text}");
    }
    for closed in ["http://127.0.0.1:1", "http://[::1]:1"] {
        let text = refused(with(Some(closed))).await;
        assert!(text.starts_with("4 error: cannot reach"), "{closed}: {text}");
    }
    assert!(refused(with(None)).await.starts_with("4 error: cannot reach"));
}

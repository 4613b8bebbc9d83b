//! Zone files, and the server of one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_checks::{Checker, CheckerConfig, Question};
use portcullis_policy::CheckResult;
use portcullis_testbed::dns::{FileEvent, Server, Zone, serve_file};

const FILE: &str = r#"
; Comments are left out.
mail.example.test            IN A    203.0.113.5
                             IN AAAA 2001:db8::5
5.113.0.203.in-addr.arpa. 60 IN PTR  mail.example.test.
$ORIGIN example.test.
@                            IN TXT  "v=spf1 ip4:203.0.113.5" " -all"
_dmarc                       IN TXT  "v=DMARC1; p=reject"
@                            IN MX   10 mail
;fault bad.example.test servfail
"#;

#[tokio::test]
async fn a_zone_file_is_served() {
    let world = Server::start(Zone::parse(FILE).unwrap()).await.unwrap();
    let checker = checker(world.addr());
    let domain = || "example.test".to_string();
    let addresses = || vec!["203.0.113.5".parse().unwrap()];
    for (question, result) in [
        (
            Question::Fcrdns {
                addresses: addresses(),
                hostname: "mail.example.test".to_string(),
            },
            CheckResult::Passed,
        ),
        (
            Question::Spf {
                domain: domain(),
                addresses: addresses(),
                sender: None,
                accept_any: false,
            },
            CheckResult::Passed,
        ),
        (
            Question::Dmarc {
                domain: domain(),
                policy: None,
            },
            CheckResult::Passed,
        ),
        (
            Question::Address {
                hostname: "bad.example.test".to_string(),
                must_have: None,
            },
            CheckResult::Undetermined,
        ),
    ] {
        let answer = checker.ask(&question).await;
        assert_eq!(answer.result, result, "{question:?}: {answer:?}");
    }
}

#[test]
fn a_wrong_file_is_refused() {
    for wrong in [
        "a.test IN A not-an-address",
        ";fault a.test often",
        ";fault a.test",
    ] {
        assert!(Zone::parse(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_file_that_changes_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zone");
    fs::write(&file, "a.test IN A 192.0.2.1\n").unwrap();
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let served = file.clone();
    let serving = tokio::spawn(async move {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        serve_file(&served, at, |event| drop(say.send(event))).await
    });
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(30), said.recv());
        event.await.unwrap().unwrap()
    };
    let FileEvent::Serving(at) = next().await else {
        panic!("not served");
    };
    let checker = checker(at);
    let question = Question::Address {
        hostname: "b.test".to_string(),
        must_have: None,
    };
    assert_eq!(checker.ask(&question).await.result, CheckResult::Failed);
    fs::write(&file, "b.test IN A wrong\n").unwrap();
    assert!(matches!(next().await, FileEvent::Wrong(_)));
    assert_eq!(checker.ask(&question).await.result, CheckResult::Failed);
    fs::write(&file, "b.test IN A 192.0.2.1\n").unwrap();
    // A file half written may be read in between.
    while next().await != FileEvent::Read {}
    assert_eq!(checker.ask(&question).await.result, CheckResult::Passed);
    serving.abort();
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error() {
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let absent = std::path::Path::new("/nonexistent/zone");
    assert!(serve_file(absent, at, |_| {}).await.is_err());
}

fn checker(at: SocketAddr) -> Checker {
    Checker::new(CheckerConfig {
        resolvers: vec![at],
        timeout: Duration::from_secs(1),
        ..CheckerConfig::default()
    })
}

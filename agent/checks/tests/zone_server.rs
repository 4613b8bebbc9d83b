//! Zone files, and the server of one.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use portcullis_checks::testing::Zone;
use portcullis_checks::{Checker, CheckerConfig, Outcome, Question};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

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
    let world = portcullis_checks::testing::Server::start(Zone::parse(FILE).unwrap())
        .await
        .unwrap();
    let checker = Checker::new(CheckerConfig {
        resolvers: vec![world.addr()],
        timeout: Duration::from_secs(1),
        ..CheckerConfig::default()
    });
    let domain = || "example.test".to_string();
    let addresses = || vec!["203.0.113.5".parse().unwrap()];
    for (question, result) in [
        (
            Question::Fcrdns {
                addresses: addresses(),
                hostname: "mail.example.test".to_string(),
            },
            Outcome::Passed,
        ),
        (
            Question::Spf {
                domain: domain(),
                addresses: addresses(),
                sender: None,
            },
            Outcome::Passed,
        ),
        (
            Question::Dmarc {
                domain: domain(),
                policy: None,
            },
            Outcome::Passed,
        ),
        (
            Question::Address {
                hostname: "bad.example.test".to_string(),
                must_have: None,
            },
            Outcome::Undetermined,
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
async fn the_example_reads_its_file_again() {
    let Some(program) = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("examples/zone_server")))
        .filter(|program| program.exists())
    else {
        panic!("examples/zone_server is not built");
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zone");
    fs::write(&file, "a.test IN A 192.0.2.1\n").unwrap();
    let mut child = Command::new(program)
        .arg(&file)
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let at = line.rsplit(' ').next().unwrap().parse().unwrap();
    let checker = Checker::new(CheckerConfig {
        resolvers: vec![at],
        timeout: Duration::from_secs(1),
        ..CheckerConfig::default()
    });
    let question = Question::Address {
        hostname: "b.test".to_string(),
        must_have: None,
    };
    assert_eq!(checker.ask(&question).await.result, Outcome::Failed);
    fs::write(&file, "b.test IN A 192.0.2.1\n").unwrap();
    let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
    assert!(line.unwrap().unwrap().unwrap().starts_with("read "));
    assert_eq!(checker.ask(&question).await.result, Outcome::Passed);
    child.kill().await.unwrap();
}

//! Greetings.

use std::time::Duration;

use portcullis_checks::{Checker, CheckerConfig, Question};
use portcullis_policy::CheckResult::{Failed, Passed, Undetermined};
use portcullis_testbed::dns::{Server, Zone};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::{World, config, ips};

/// A port that says the parts, a moment apart, and then keeps still or hangs up.
async fn port(at: &str, parts: &[&[u8]], hangs_up: bool) -> u16 {
    let listener = TcpListener::bind(at).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            for part in &parts {
                let _ = stream.write_all(part).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if !hangs_up {
                kept.push(stream);
            }
        }
    });
    port
}

fn banner(addresses: &[&str], port: u16, contains: Option<&str>) -> Question {
    Question::Banner {
        addresses: ips(addresses),
        port,
        contains: contains.map(str::to_string),
    }
}

const LO: &[&str] = &["127.0.0.1"];

#[tokio::test]
async fn greetings_are_read_and_judged() {
    let world = World::new(Zone::new()).await;
    let smtp = port(
        "127.0.0.1:0",
        &[b"220 mail.example.test ES", b"MTP\r\n250 HELP\r\n"],
        false,
    )
    .await;
    world
        .expect(banner(LO, smtp, None), Passed, "`220 mail.example.test ESMTP`")
        .await;
    world.expect(banner(LO, smtp, Some("ESMTP")), Passed, "").await;
    world
        .expect(banner(LO, smtp, Some("HELP")), Failed, "without `HELP`")
        .await;
    world.expect(banner(LO, smtp, Some("esmtp")), Failed, "").await;
    let escape = port("127.0.0.1:0", &[b"\x1b[2J\xff hi\n"], false).await;
    world
        .expect(banner(LO, escape, Some("hi")), Passed, "\u{fffd}[2J\u{fffd} hi")
        .await;
    let endless = port("127.0.0.1:0", &[&[b'x'; 4000]], false).await;
    world.expect(banner(LO, endless, Some("xxx")), Passed, "").await;
    let unfinished = port("127.0.0.1:0", &[b"220 hi"], true).await;
    world
        .expect(banner(LO, unfinished, Some("220")), Passed, "")
        .await;
}

#[tokio::test]
async fn silence_is_no_greeting() {
    let world = World::new(Zone::new()).await;
    let mute = port("127.0.0.1:0", &[], false).await;
    world
        .expect(banner(LO, mute, None), Undetermined, "no greeting in time")
        .await;
    let short = port("127.0.0.1:0", &[], true).await;
    world
        .expect(banner(LO, short, None), Failed, "ended without a greeting")
        .await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    world.expect(banner(LO, free, None), Failed, "closed").await;
    world.expect(banner(LO, 0, None), Undetermined, "port 0").await;
    world
        .expect(banner(&[], 25, None), Undetermined, "no address")
        .await;
    world
        .expect(
            banner(&["0.0.0.0"], 25, None),
            Undetermined,
            "not an address to connect to",
        )
        .await;
    world
        .expect(
            banner(&["224.0.0.1"], 25, None),
            Undetermined,
            "not an address to connect to",
        )
        .await;
}

#[tokio::test]
async fn addresses_are_tried_in_turn() {
    let world = World::new(Zone::new()).await;
    let second = port("127.0.0.2:0", &[b"220 hi\r\n"], false).await;
    let both = &["127.0.0.1", "127.0.0.2"];
    world
        .expect(banner(both, second, Some("220")), Passed, "127.0.0.2")
        .await;
    world
        .expect(
            banner(&["127.0.0.1", "224.0.0.1"], second, None),
            Undetermined,
            "",
        )
        .await;
}

#[tokio::test]
async fn this_machine_is_not_asked() {
    let server = Server::start(Zone::new()).await.unwrap();
    let smtp = port("127.0.0.1:0", &[b"220 hi\r\n"], false).await;
    let checker = Checker::new(CheckerConfig {
        loopback: false,
        ..config(&server)
    });
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let answer = checker.ask(&banner(&[address], smtp, None)).await;
        assert_eq!(answer.result, Undetermined, "{answer:?}");
    }
}

//! Servers that misbehave, and limits.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_checks::{Answer, Checker, CheckerConfig, Question};
use portcullis_policy::CheckResult::{Failed, Passed, Undetermined};
use portcullis_testbed::dns::{Fault, Server, Zone};
use proptest::prelude::*;
use tokio::net::UdpSocket;

use super::{World, config, ip};

fn question() -> Question {
    Question::Address {
        hostname: "mail.example.test".to_string(),
        must_have: None,
    }
}

fn zone() -> Zone {
    Zone::new().address("mail.example.test", ip("203.0.113.5"))
}

#[tokio::test]
async fn an_answer_that_is_none_is_undetermined() {
    for fault in [
        Fault::ServFail,
        Fault::Refused,
        Fault::Silent,
        Fault::Garbage,
        Fault::Truncated,
    ] {
        let world = World::new(zone().fault("mail.example.test", fault)).await;
        world.expect(question(), Undetermined, "cannot look up").await;
        assert!(
            world.server.queries() < 60,
            "{fault:?}: {} queries",
            world.server.queries()
        );
        world.server.replace(zone());
        world.expect(question(), Passed, "203.0.113.5").await;
    }
}

#[tokio::test]
async fn what_is_truncated_comes_over_tcp() {
    let world = World::new(zone().fault("mail.example.test", Fault::TruncatedUdp)).await;
    world.expect(question(), Passed, "203.0.113.5").await;
}

#[tokio::test]
async fn records_of_other_names_do_not_count() {
    let world = World::new(zone().fault("mail.example.test", Fault::OtherOwner)).await;
    world.expect(question(), Failed, "no A or AAAA").await;
}

/// RFC 1034, section 3.6.2: a name with a CNAME has no other records. Others in such an answer are ignored.
#[tokio::test]
async fn records_beside_an_alias_do_not_count() {
    let zone = zone()
        .cname("alias.example.test", "mail.example.test")
        .fault("alias.example.test", Fault::BesideAlias);
    let world = World::new(zone).await;
    let question = |must_have: IpAddr| Question::Address {
        hostname: "alias.example.test".to_string(),
        must_have: Some(vec![must_have]),
    };
    let beside = IpAddr::V4(portcullis_testbed::dns::BESIDE);
    world
        .expect(question(ip("203.0.113.5")), Passed, "203.0.113.5")
        .await;
    world.expect(question(beside), Failed, "203.0.113.5").await;
}

#[tokio::test]
async fn a_resolver_that_is_not_there_is_undetermined() {
    let free = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server::start(zone()).await.unwrap();
    let checker = Checker::new(CheckerConfig {
        resolvers: vec![free],
        ..config(&server)
    });
    let answer = checker.ask(&question()).await;
    assert!(answer.result == Undetermined && answer.not_made, "{answer:?}");
    let checker = Checker::new(CheckerConfig {
        resolvers: vec![free, server.addr()],
        ..config(&server)
    });
    assert_eq!(checker.ask(&question()).await.result, Passed);
}

#[tokio::test]
async fn checks_end_in_time_and_wait_their_turn() {
    let world = World::new(zone().fault("mail.example.test", Fault::Silent)).await;
    let began = Instant::now();
    let checker = Checker::new(CheckerConfig {
        total: Duration::from_millis(500),
        timeout: Duration::from_secs(30),
        max_concurrent: 1,
        ..config(&world.server)
    });
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let checker = checker.clone();
            tokio::spawn(async move { checker.ask(&question()).await })
        })
        .collect();
    let mut waited = 0;
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.result, Undetermined, "{answer:?}");
        // They are all of one tenant.
        assert!(!answer.not_made, "{answer:?}");
        waited += usize::from(answer.detail.contains("too many other checks of this tenant"));
    }
    assert!(waited >= 5, "{waited} waited");
    assert!(began.elapsed() < Duration::from_secs(15));
    world.server.replace(zone());
    assert_eq!(checker.ask(&question()).await.result, Passed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_all_answered() {
    let server = Server::start(zone()).await.unwrap();
    let checker = Checker::new(CheckerConfig {
        max_concurrent: 100,
        timeout: Duration::from_secs(5),
        total: Duration::from_secs(60),
        ..config(&server)
    });
    let asked: Vec<_> = (0..1000)
        .map(|n| {
            let checker = checker.clone();
            let question = Question::Address {
                hostname: if n % 2 == 0 {
                    "mail.example.test"
                } else {
                    "absent.example.test"
                }
                .to_string(),
                must_have: None,
            };
            tokio::spawn(async move { (n, checker.ask(&question).await) })
        })
        .collect();
    for answer in asked {
        let (n, answer) = answer.await.unwrap();
        assert_eq!(
            answer.result,
            if n % 2 == 0 { Passed } else { Failed },
            "{n}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_resolver_may_have_an_ipv6_address() {
    let Ok(server) = Server::start_at("[::1]:0".parse().unwrap(), zone()).await else {
        return;
    };
    let checker = Checker::new(config(&server));
    assert_eq!(checker.ask(&question()).await.result, Passed);
}

/// A server that answers every query with its header and then bytes of its choice.
async fn answers_with(bytes: Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let mut answer = query[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = bytes.len().min(255) as u8;
            answer.extend(&bytes);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    at
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_pass_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let checker = Checker::new(CheckerConfig {
                resolvers: vec![answers_with(bytes).await],
                timeout: Duration::from_millis(100),
                attempts: 1,
                ..CheckerConfig::default()
            });
            checker.ask(&question()).await
        });
        prop_assert_ne!(answer.result, Passed);
        prop_assert!(answer.detail.chars().count() <= Answer::LONGEST);
    }

    #[test]
    fn no_text_panics(text in "[ -~]{0,120}|v=spf1( [+~?-]?(a|mx|ptr|include|exists|ip4|ip6|all|redirect)[:=/%{}a-z0-9.]{0,12}){0,6}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(
                Zone::new()
                    .txt("d.test", &[&text])
                    .txt("_dmarc.d.test", &[&text])
                    .txt("s._domainkey.d.test", &[&text]),
            )
            .await;
            let domain = || "d.test".to_string();
            for question in [
                Question::Spf { domain: domain(), addresses: vec![ip("203.0.113.5")], sender: Some(text.clone()), accept_any: false },
                Question::Dmarc { domain: domain(), policy: None },
                Question::Dkim { domain: domain(), selector: "s".to_string() },
                Question::Dkim { domain: domain(), selector: text.clone() },
                Question::Address { hostname: text.clone(), must_have: None },
            ] {
                world.ask(question).await;
            }
        });
    }
}

#[tokio::test]
async fn what_others_wrote_is_shown_harmlessly() {
    let world = World::new(Zone::new().txt("d.test", &["v=spf1 \u{1b}[31m\nboo"])).await;
    let question = Question::Spf {
        domain: "d.test".to_string(),
        addresses: vec![ip("203.0.113.5")],
        sender: None,
        accept_any: false,
    };
    let answer = world.ask(question).await;
    assert_eq!(answer.result, Failed);
    assert!(!answer.detail.contains(|c: char| c.is_control()), "{answer:?}");
    let json = serde_json::to_string(&answer).unwrap();
    assert!(json.starts_with(r#"{"result":"failed","detail":"#), "{json}");
    assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_a_slow_zone_keeps_no_other_waiting() {
    let world = World::new(zone().fault("slow.example.test", Fault::Silent)).await;
    let checker = Checker::new(CheckerConfig {
        total: Duration::from_secs(4),
        timeout: Duration::from_secs(30),
        max_concurrent: 8,
        ..config(&world.server)
    });
    let slow = Question::Address {
        hostname: "slow.example.test".to_string(),
        must_have: None,
    };
    let hostile: Vec<_> = (0..64)
        .map(|_| {
            let (checker, slow) = (checker.on_behalf_of("hostile"), slow.clone());
            tokio::spawn(async move { checker.ask(&slow).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for tenant in ["one", "two", "three"] {
        let checker = checker.on_behalf_of(tenant);
        for _ in 0..10 {
            assert_eq!(checker.ask(&question()).await.result, Passed, "{tenant}");
        }
    }
    assert!(
        hostile.iter().all(|task| !task.is_finished()),
        "the places were free before"
    );
    for task in hostile {
        let answer = task.await.unwrap();
        assert_eq!(answer.result, Undetermined);
    }
}

#[tokio::test]
async fn a_check_without_a_place_was_not_made() {
    let world = World::new(zone().fault("mail.example.test", Fault::Silent)).await;
    let checker = Checker::new(CheckerConfig {
        total: Duration::from_millis(300),
        timeout: Duration::from_secs(30),
        max_concurrent: 1,
        ..config(&world.server)
    });
    let asked: Vec<_> = (0..6)
        .map(|tenant| {
            let checker = checker.on_behalf_of(&format!("tenant {tenant}"));
            tokio::spawn(async move { checker.ask(&question()).await })
        })
        .collect();
    let mut without = 0;
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.result, Undetermined, "{answer:?}");
        assert_eq!(
            answer.not_made,
            answer.detail.contains("too many other checks"),
            "{answer:?}"
        );
        without += usize::from(answer.not_made);
    }
    assert!(without >= 3, "{without} of 6 had no place");
}

#[tokio::test]
async fn a_zone_that_does_not_answer_is_told_from_a_resolver_that_does_not() {
    let world = World::new(zone().fault("slow.example.test", Fault::Silent)).await;
    let slow = Question::Address {
        hostname: "slow.example.test".to_string(),
        must_have: None,
    };
    let answer = world.ask(slow.clone()).await;
    assert!(answer.result == Undetermined && !answer.not_made, "{answer:?}");
    // A socket that nobody reads: like a resolver that hangs.
    let hangs = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let checker = Checker::new(CheckerConfig {
        resolvers: vec![hangs.local_addr().unwrap()],
        ..config(&world.server)
    });
    let answer = checker.ask(&slow).await;
    assert!(answer.result == Undetermined && answer.not_made, "{answer:?}");
}

//! Checks against a DNS server on the loopback.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use portcullis_checks::{Answer, Checker, CheckerConfig, Question};
use portcullis_policy::CheckResult;
use portcullis_testbed::dns::{Server, Zone};

mod banner;
mod hostile;
mod hosts;
mod mail;
mod spf;

/// A server and a checker that asks it.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) checker: Checker,
}

pub(crate) fn config(server: &Server) -> CheckerConfig {
    CheckerConfig {
        resolvers: vec![server.addr()],
        timeout: Duration::from_millis(600),
        attempts: 2,
        total: Duration::from_secs(10),
        banner_timeout: Duration::from_millis(600),
        max_concurrent: 8,
        loopback: true,
    }
}

impl World {
    pub(crate) async fn new(zone: Zone) -> Self {
        let server = Server::start(zone).await.unwrap();
        let checker = Checker::new(config(&server));
        Self { server, checker }
    }

    pub(crate) async fn ask(&self, question: Question) -> Answer {
        self.checker.ask(&question).await
    }

    pub(crate) async fn expect(&self, question: Question, result: CheckResult, detail: &str) {
        let answer = self.ask(question).await;
        assert!(
            answer.result == result && answer.detail.contains(detail),
            "want {result:?} with `{detail}`, got {answer:?}"
        );
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

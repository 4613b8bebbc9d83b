//! Reverse DNS and addresses of names.

use portcullis_checks::Question;
use portcullis_policy::CheckResult::{self, Failed, Passed, Undetermined};
use portcullis_testbed::dns::{Fault, Zone};

use super::{World, ip, ips};

const V4: &str = "203.0.113.5";
const V6: &str = "2001:db8::5";

fn zone() -> Zone {
    Zone::new()
        .ptr(ip(V4), "mail.example.test")
        .ptr(ip(V4), "other.example.test")
        .ptr(ip(V6), "Mail.Example.TEST")
        .address("mail.example.test", ip(V4))
        .address("mail.example.test", ip(V6))
        .address("v4.example.test", ip(V4))
        .ptr(ip("203.0.113.6"), "v4.example.test")
        .ptr(ip("203.0.113.7"), "gone.example.test")
        .txt("text.example.test", &["only text"])
        // A delegation without an octet boundary, RFC 2317.
        .cname("9.113.0.203.in-addr.arpa", "9.0-15.113.0.203.in-addr.arpa")
        .record("9.0-15.113.0.203.in-addr.arpa", ptr("classless.example.test"))
        .address("classless.example.test", ip("203.0.113.9"))
        .cname("alias.example.test", "mail.example.test")
        .cname("dangling.example.test", "nowhere.example.test")
        .cname("loop.example.test", "pool.example.test")
        .cname("pool.example.test", "loop.example.test")
        .fault("servfail.example.test", Fault::ServFail)
        .fault("5.2.0.192.in-addr.arpa", Fault::ServFail)
}

fn ptr(to: &str) -> portcullis_testbed::dns::rr::RData {
    use portcullis_testbed::dns::rr::{Name, RData, rdata::PTR};
    RData::PTR(PTR(Name::from_ascii(format!("{to}.")).unwrap()))
}

fn fcrdns(addresses: &[&str], hostname: &str) -> Question {
    Question::Fcrdns {
        addresses: ips(addresses),
        hostname: hostname.to_string(),
    }
}

#[tokio::test]
async fn forward_confirmed_reverse_dns() {
    let world = World::new(zone()).await;
    let cases: [(&[&str], &str, CheckResult, &str); 12] = [
        (&[V4], "mail.example.test", Passed, "and back"),
        (&[V6], "mail.example.test", Passed, "and back"),
        (&[V4, V6], "MAIL.example.test.", Passed, "2001:db8::5 is"),
        (
            &["::ffff:203.0.113.5"],
            "mail.example.test",
            Passed,
            "203.0.113.5 is",
        ),
        (&["203.0.113.9"], "classless.example.test", Passed, "and back"),
        (
            &["203.0.113.6"],
            "mail.example.test",
            Failed,
            "points to v4.example.test, not to mail.example.test",
        ),
        (
            &["203.0.113.6"],
            "v4.example.test",
            Failed,
            "has the address 203.0.113.5, not 203.0.113.6",
        ),
        (&["203.0.113.7"], "gone.example.test", Failed, "NXDOMAIN"),
        (
            &["203.0.113.8"],
            "mail.example.test",
            Failed,
            "203.0.113.8 has no PTR record",
        ),
        (
            &["192.0.2.5"],
            "mail.example.test",
            Undetermined,
            "Server Failure",
        ),
        (
            &["192.0.2.5", "203.0.113.8"],
            "mail.example.test",
            Failed,
            "203.0.113.8 has no PTR record",
        ),
        (&[], "mail.example.test", Undetermined, "no address"),
    ];
    for (addresses, hostname, result, detail) in cases {
        world.expect(fcrdns(addresses, hostname), result, detail).await;
    }
    world
        .expect(fcrdns(&[V4], "a..b"), Failed, "not a host name")
        .await;
    let many: Vec<String> = (0..65).map(|n| format!("203.0.113.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world
        .expect(fcrdns(&many, "mail.example.test"), Undetermined, "too many")
        .await;
}

#[tokio::test]
async fn pointers() {
    let world = World::new(zone()).await;
    let cases: [(&[&str], Option<&str>, CheckResult, &str); 7] = [
        (&[V4], None, Passed, "points to"),
        (
            &[V4],
            Some("other.example.test"),
            Passed,
            "points to other.example.test",
        ),
        (
            &[V4, V6],
            Some("other.example.test"),
            Failed,
            "not to other.example.test",
        ),
        (&["203.0.113.7"], Some("gone.example.test"), Passed, "gone"),
        (&["203.0.113.8"], None, Failed, "no PTR"),
        (&[], None, Undetermined, "no address"),
        (&["127.0.0.1"], None, Undetermined, "loopback"),
    ];
    for (addresses, hostname, result, detail) in cases {
        let hostname = hostname.map(str::to_string);
        let addresses = ips(addresses);
        world
            .expect(Question::Ptr { addresses, hostname }, result, detail)
            .await;
    }
}

#[tokio::test]
async fn addresses() {
    let world = World::new(zone()).await;
    let cases: [(&str, Option<&[&str]>, CheckResult, &str); 13] = [
        ("mail.example.test", None, Passed, "203.0.113.5"),
        ("alias.example.test", None, Passed, "203.0.113.5"),
        ("alias.example.test", Some(&[V4, V6]), Passed, "2001:db8::5"),
        (
            "v4.example.test",
            Some(&[V4, V6]),
            Failed,
            "v4.example.test has no AAAA record",
        ),
        (
            "v4.example.test",
            Some(&["203.0.113.77"]),
            Failed,
            "not 203.0.113.77",
        ),
        ("v4.example.test", Some(&[]), Undetermined, "no address"),
        ("text.example.test", None, Failed, "no A or AAAA"),
        ("absent.example.test", None, Failed, "no A or AAAA"),
        ("dangling.example.test", None, Failed, "no A or AAAA"),
        ("this.localhost", None, Failed, "not a host name"),
        ("loop.example.test", None, Failed, "no A or AAAA"),
        ("servfail.example.test", None, Undetermined, "Server Failure"),
        ("", None, Failed, "not a host name"),
    ];
    for (hostname, must_have, result, detail) in cases {
        let question = Question::Address {
            hostname: hostname.to_string(),
            must_have: must_have.map(ips),
        };
        world.expect(question, result, detail).await;
    }
}

#[tokio::test]
async fn a_second_check_sees_what_changed() {
    let world = World::new(Zone::new()).await;
    let question = || fcrdns(&[V4], "mail.example.test");
    world.expect(question(), Failed, "no PTR").await;
    world.server.replace(zone());
    world.expect(question(), Passed, "").await;
    world.server.change(|zone| zone.without("mail.example.test"));
    world.expect(question(), Failed, "no A record").await;
}

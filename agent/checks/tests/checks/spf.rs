//! SPF.

use portcullis_checks::Question;
use portcullis_policy::CheckResult::{self, Failed, Passed, Undetermined};
use portcullis_testbed::dns::{Fault, Zone};

use super::{World, ip, ips};

const V4: &str = "203.0.113.5";
const V6: &str = "2001:db8::5";

fn spf(domain: &str, addresses: &[&str]) -> Question {
    Question::Spf {
        domain: domain.to_string(),
        addresses: ips(addresses),
        sender: None,
        accept_any: true,
    }
}

async fn run(zone: Zone, cases: &[(&str, &[&str], CheckResult, &str)]) {
    let world = World::new(zone).await;
    for (domain, addresses, result, detail) in cases {
        world.expect(spf(domain, addresses), *result, detail).await;
    }
}

#[tokio::test]
async fn mechanisms() {
    let zone = Zone::new()
        .txt(
            "ip.test",
            &["v=spf1 ip4:203.0.113.0/29 ip6:2001:db8::", "/64 -all"],
        )
        .txt("a.test", &["v=spf1 a a:far.test/24//48 -all"])
        .address("a.test", ip(V4))
        .address("a.test", ip("2001:db8:0:1::1"))
        .address("far.test", ip("203.0.114.200"))
        .address("far.test", ip("2001:db8::1"))
        .txt("mx.test", &["v=spf1 mx -all"])
        .mx("mx.test", 10, "in.mx.test")
        .mx("mx.test", 20, "alias.mx.test")
        .address("in.mx.test", ip("203.0.113.1"))
        .cname("alias.mx.test", "a.test")
        .txt("soft.test", &["v=spf1 ip4:192.0.2.1 ~all"])
        .txt("neutral.test", &["v=spf1 ip4:192.0.2.1"])
        .txt("query.test", &["v=spf1 ?all"])
        .txt("ptr.test", &["v=spf1 ptr -all"])
        .ptr(ip(V4), "liar.ptr.test")
        .ptr(ip(V4), "mail.ptr.test")
        .address("mail.ptr.test", ip(V4))
        .address("liar.ptr.test", ip("192.0.2.1"))
        .ptr(ip(V6), "liar.ptr.test")
        .txt("exists.test", &["v=spf1 exists:%{ir}.%{v}.ok.%{d} -all"])
        .address("5.113.0.203.in-addr.ok.exists.test", ip("127.0.0.2"))
        .txt("sender.test", &["v=spf1 exists:%{l}.of.%{o}.by.%{h} -all"])
        .address("postmaster.of.sender.test.by.sender.test", ip("127.0.0.2"))
        .txt("upper.test", &["V=SPF1 IP4:203.0.113.5 -ALL"])
        .txt("none.test", &["something else"])
        .txt("other.test", &["something else"])
        .txt("other.test", &["v=spf1 +all"]);
    run(
        zone,
        &[
            ("ip.test", &[V4], Passed, "`pass`: ip4:203.0.113.0/29 of ip.test"),
            ("ip.test", &[V4, V6], Passed, "2001:db8::5"),
            ("ip.test", &["203.0.113.8"], Failed, "`fail`: -all"),
            ("ip.test", &[V4, "203.0.113.8"], Failed, "203.0.113.8"),
            ("ip.test", &[], Undetermined, "no address"),
            ("a.test", &[V4], Passed, ""),
            ("a.test", &["203.0.114.7"], Passed, "a:far.test"),
            ("a.test", &["2001:db8::77"], Passed, "a:far.test"),
            ("a.test", &["203.0.115.7"], Failed, ""),
            ("mx.test", &["203.0.113.1", V4, "2001:db8:0:1::1"], Passed, ""),
            ("mx.test", &["203.0.113.2"], Failed, ""),
            ("soft.test", &[V4], Failed, "`softfail`"),
            ("neutral.test", &[V4], Failed, "`neutral`"),
            ("query.test", &[V4], Failed, "`neutral`"),
            ("ptr.test", &[V4], Passed, ""),
            ("ptr.test", &[V6], Failed, ""),
            ("exists.test", &[V4], Passed, ""),
            ("exists.test", &["203.0.113.6"], Failed, ""),
            ("sender.test", &[V4], Passed, ""),
            ("upper.test", &[V4], Passed, ""),
            ("none.test", &[V4], Failed, "`none`"),
            ("absent.test", &[V4], Failed, "`none`"),
            ("other.test", &[V4], Passed, ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn includes_redirects_and_errors() {
    let mut zone = Zone::new()
        .txt("inc.test", &["v=spf1 include:one.test include:two.test -all"])
        .txt("one.test", &["v=spf1 ip4:192.0.2.1 -all"])
        .txt("two.test", &["v=spf1 include:three.test ~all"])
        .txt("three.test", &["v=spf1 ip4:203.0.113.5"])
        .txt("red.test", &["v=spf1 redirect=three.test"])
        .txt("redall.test", &["v=spf1 -all redirect=three.test"])
        .txt("rednone.test", &["v=spf1 redirect=absent.test"])
        .txt("incnone.test", &["v=spf1 include:absent.test +all"])
        .txt("double.test", &["v=spf1 +all"])
        .txt("double.test", &["v=spf1 -all"])
        .txt("bad.test", &["v=spf1 +all ip4:300.1.1.1"])
        .txt("incbad.test", &["v=spf1 include:bad.test +all"])
        .fault("broken.test", Fault::ServFail)
        .txt("incbroken.test", &["v=spf1 include:broken.test +all"])
        .txt("abroken.test", &["v=spf1 a:broken.test +all"])
        .txt("early.test", &["v=spf1 ip4:203.0.113.5 a:broken.test -all"])
        .txt("loop.test", &["v=spf1 include:loop.test +all"])
        .txt("redloop.test", &["v=spf1 redirect=redloop.test"])
        .txt(
            "ten.test",
            &[&format!("v=spf1 {}+all", "a:here.test ".repeat(10))],
        )
        .txt(
            "eleven.test",
            &[&format!("v=spf1 {}+all", "a:here.test ".repeat(11))],
        )
        .txt("spread.test", &["v=spf1 include:six.test include:six.test +all"])
        .txt("six.test", &[&format!("v=spf1 {}-all", "a:here.test ".repeat(6))])
        .address("here.test", ip("192.0.2.9"))
        .txt("void2.test", &["v=spf1 a:v1.test exists:v2.test +all"])
        .txt("void3.test", &["v=spf1 a:v1.test exists:v2.test mx:v3.test +all"])
        .txt("manymx.test", &["v=spf1 mx +all"]);
    for n in 0..11 {
        zone = zone
            .mx("manymx.test", n, "here.test")
            .mx("manymx.test", n, &format!("m{n}.test"));
    }
    run(
        zone,
        &[
            ("inc.test", &[V4], Passed, "include:two.test of inc.test"),
            ("inc.test", &[V6], Failed, "-all of inc.test"),
            ("red.test", &[V4], Passed, "of three.test"),
            ("redall.test", &[V4], Failed, "`fail`"),
            ("rednone.test", &[V4], Failed, "`permerror`"),
            ("incnone.test", &[V4], Failed, "`permerror`"),
            ("double.test", &[V4], Failed, "2 SPF records"),
            (
                "bad.test",
                &[V4],
                Failed,
                "`ip4:300.1.1.1` of bad.test is malformed",
            ),
            ("incbad.test", &[V4], Failed, "`permerror`"),
            ("broken.test", &[V4], Undetermined, "`temperror`"),
            ("incbroken.test", &[V4], Undetermined, "`temperror`"),
            ("abroken.test", &[V4], Undetermined, "`temperror`"),
            ("early.test", &[V4], Passed, ""),
            ("loop.test", &[V4], Failed, "more than 10 terms"),
            ("redloop.test", &[V4], Failed, "more than 10 terms"),
            ("ten.test", &[V4], Passed, ""),
            ("eleven.test", &[V4], Failed, "more than 10 terms"),
            ("spread.test", &[V4], Failed, "more than 10 terms"),
            ("void2.test", &[V4], Passed, ""),
            (
                "void3.test",
                &[V4],
                Failed,
                "more than 2 terms ask for what is not there",
            ),
            ("manymx.test", &[V4], Failed, "more than 10 MX"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_long_record_comes_over_tcp() {
    let record: Vec<String> = (0..120).map(|n| format!(" ip4:198.51.100.{n}")).collect();
    let mut strings = vec!["v=spf1".to_string()];
    strings.extend(record);
    strings.push(" ip4:203.0.113.5 -all".to_string());
    let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
    run(
        Zone::new().txt("long.test", &strings),
        &[("long.test", &[V4], Passed, "")],
    )
    .await;
}

#[tokio::test]
async fn a_term_counts_once_when_what_it_asks_for_is_not_there() {
    let mut zone = Zone::new()
        .txt("four.test", &["v=spf1 mx -all"])
        .txt("after.test", &["v=spf1 a:v1.test a:v2.test mx:four.test -all"])
        .txt("three.test", &["v=spf1 a:v1.test a:v2.test mx:empty.test -all"])
        .txt("includes.test", &["v=spf1 include:two.test a:v3.test -all"])
        .txt("two.test", &["v=spf1 a:v1.test a:v2.test -all"])
        .txt("pointers.test", &["v=spf1 ptr ptr:a.test ptr:b.test -all"])
        .address("m4.four.test", ip(V4));
    for n in 1..=4 {
        zone = zone.mx("four.test", n, &format!("m{n}.four.test")).mx(
            "empty.test",
            n,
            &format!("m{n}.empty.test"),
        );
    }
    run(
        zone,
        &[
            // Three of its hosts have no address, in whatever order they are looked at.
            ("four.test", &[V4], Passed, "mx of four.test"),
            ("four.test", &["203.0.113.9"], Failed, "`fail`: -all"),
            ("after.test", &[V4], Passed, "mx:four.test"),
            ("after.test", &["203.0.113.9"], Failed, "`fail`: -all"),
            ("three.test", &[V4], Failed, "more than 2 terms"),
            ("includes.test", &[V4], Failed, "more than 2 terms"),
            ("pointers.test", &[V4], Failed, "more than 2 terms"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_record_that_passes_any_address_proves_nothing() {
    let zone = Zone::new()
        .txt("all.test", &["v=spf1 +all"])
        .txt("include.test", &["v=spf1 include:all.test -all"])
        .txt("redirect.test", &["v=spf1 redirect=all.test"])
        .txt(
            "halves.test",
            &["v=spf1 ip4:0.0.0.0/1 ip4:128.0.0.0/1 ip6:::/0 -all"],
        )
        .txt("a.test", &["v=spf1 a/0//0 -all"])
        .address("a.test", ip("192.0.2.1"))
        .address("a.test", ip("2001:db8::1"))
        .txt("own.test", &["v=spf1 ip4:203.0.113.5 ip6:2001:db8::5 +all"])
        .txt("after.test", &["v=spf1 include:none.test ip4:203.0.0.0/8 -all"])
        .txt("none.test", &["v=spf1 -all"]);
    let world = World::new(zone).await;
    let question = |domain: &str, address: &str, accept_any| Question::Spf {
        domain: domain.to_string(),
        addresses: ips(&[address]),
        sender: None,
        accept_any,
    };
    for domain in [
        "all.test",
        "include.test",
        "redirect.test",
        "halves.test",
        "a.test",
    ] {
        for address in [V4, V6] {
            if domain == "a.test" || domain == "halves.test" || address == V4 {
                let refused = question(domain, address, false);
                world.expect(refused, Failed, "proves nothing").await;
            }
            world.expect(question(domain, address, true), Passed, "").await;
        }
    }
    for (domain, address) in [("own.test", V4), ("own.test", V6), ("after.test", V4)] {
        world.expect(question(domain, address, false), Passed, "").await;
    }
    world
        .expect(
            question("own.test", "192.0.2.7", false),
            Failed,
            "+all of own.test passes any address",
        )
        .await;
}

#[tokio::test]
async fn a_null_mx_is_a_record() {
    let file = "null.test IN MX 0 .\nd.test IN TXT \"v=spf1 a:v1.test a:v2.test mx:null.test -all\"\n";
    let world = World::new(Zone::parse(file).unwrap()).await;
    world.expect(spf("d.test", &[V4]), Failed, "`fail`: -all").await;
}

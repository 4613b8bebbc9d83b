use super::*;
use portcullis_policy::{Document, EvidenceType, Rule};
use proptest::prelude::*;

/// A program with these lines of evidence and openings.
fn program(evidence: &str, opens: &str) -> Program {
    let text = format!(
        "version: portcullis/v1\nprograms:\n  p: {{title: A title, opens: [{opens}], evidence: [{evidence}], \
         lease: {{default: 1h}}}}\n"
    );
    let document = Document::from_yaml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (_, program) = document.programs.iter().next().unwrap();
    Program::clone(program)
}

const OPENS: &str = "{direction: egress, protocol: tcp, ports: [25]}";

fn submitted(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .collect()
}

/// Reads one value of one type, as it is printed afterwards.
fn one(kind: &str, text: &str) -> Result<String, String> {
    let program = program(&format!("{{name: x, {kind}}}"), OPENS);
    match parse(&program, &submitted(&[("x", text)])) {
        Ok(evidence) => Ok(evidence.get("x").unwrap().to_string()),
        Err(errors) => {
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].path, "evidence.x");
            Err(errors[0].problem.clone())
        }
    }
}

/// What is good and how it prints; what is bad and a part of what is said of it.
fn cases(kind: &str, good: &[(&str, &str)], bad: &[(&str, &str)]) {
    for (text, printed) in good {
        assert_eq!(one(kind, text).as_deref(), Ok(*printed), "{kind}: {text}");
        assert_eq!(one(kind, printed).as_deref(), Ok(*printed), "{kind}: {printed}");
    }
    for (text, why) in bad {
        let problem = one(kind, text).expect_err(text);
        assert!(problem.contains(why), "{kind}: {text}: {problem}");
    }
}

#[test]
fn texts() {
    cases(
        "type: text, min_length: 3, max_length: 5",
        &[("abc", "abc"), (" äöü\n", "äöü"), ("a\nb", "a\nb")],
        &[
            ("ab", "at least 3"),
            ("  a  ", "at least 3"),
            ("abcdef", "at most 5"),
            ("a\u{1b}[m", "control characters"),
        ],
    );
    cases(
        "type: text, pattern: '[a-z]+'",
        &[("abc", "abc")],
        &[("ab1", "`[a-z]+`")],
    );
    cases(
        "type: text, pattern: '(a{1000}){1000}'",
        &[],
        &[("a", "cannot be checked")],
    );
    let long = "a".repeat(4096);
    cases(
        "type: text",
        &[(&long, &long)],
        &[(&"ä".repeat(4097), "longer than 4096")],
    );
}

#[test]
fn integers() {
    cases(
        "type: integer, min: -5, max: 100000",
        &[
            ("1", "1"),
            ("-5", "-5"),
            ("007", "7"),
            (" 100000 ", "100000"),
            ("-0", "0"),
        ],
        &[
            ("-6", "at least -5"),
            ("100001", "at most 100000"),
            ("+5", "not a whole number"),
            ("1.5", "not a whole number"),
            ("1e3", "not a whole number"),
            ("-", "not a whole number"),
            ("٣", "not a whole number"),
            ("9223372036854775808", "too large"),
        ],
    );
    let limits = (i64::MIN.to_string(), i64::MAX.to_string());
    cases(
        "type: integer",
        &[(&limits.0, &limits.0), (&limits.1, &limits.1)],
        &[("x", "whole")],
    );
}

#[test]
fn booleans() {
    cases(
        "type: boolean",
        &[("true", "true"), ("false", "false")],
        &[
            ("yes", "true or false"),
            ("True", "true or false"),
            ("1", "true or false"),
        ],
    );
    cases(
        "type: boolean, must_be: true",
        &[("true", "true")],
        &[("false", "must be true")],
    );
}

#[test]
fn hostnames() {
    let label = "a".repeat(63);
    let long = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    cases(
        "type: hostname",
        &[
            ("mail.example.com", "mail.example.com"),
            ("MAIL.Example.COM.", "mail.example.com"),
            ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
            ("münchen.example", "xn--mnchen-3ya.example"),
            ("3com.example", "3com.example"),
            (&long, &long),
        ],
        &[
            ("localhost", "two labels"),
            ("com.", "two labels"),
            ("a..b", "labels are"),
            ("a.b..", "labels are"),
            (".a.b", "labels are"),
            ("-a.example", "labels are"),
            ("a-.example", "labels are"),
            ("a_b.example", "labels are"),
            ("*.example.com", "labels are"),
            ("a b.example", "labels are"),
            ("xn--99999999999.example", "labels are"),
            ("192.0.2.1", "a number"),
            ("１９２.0.2.１", "a number"),
            (&format!("{label}a.example"), "labels are"),
            (&format!("{long}b"), "labels are"),
        ],
    );
}

#[test]
fn emails() {
    cases(
        "type: email",
        &[
            ("Post.Master+x@Example.COM", "Post.Master+x@example.com"),
            ("a@münchen.example", "a@xn--mnchen-3ya.example"),
            ("\"a b\"@example.com", "\"a b\"@example.com"),
        ],
        &[
            ("postmaster", "no `@`"),
            ("@example.com", "not an e-mail address"),
            ("a@b", "two labels"),
            ("a@[192.0.2.1]", "not a host name"),
            ("a..b@example.com", "not an e-mail address"),
            (".a@example.com", "not an e-mail address"),
            ("a b@example.com", "not an e-mail address"),
            ("A <a@example.com>", "not an e-mail address"),
            ("ä@example.com", "ASCII"),
            (
                &format!("{}@example.com", "a".repeat(65)),
                "not an e-mail address",
            ),
            (
                &format!("{}@{}.example", "a".repeat(60), vec!["b".repeat(60); 4].join(".")),
                "not an e-mail address",
            ),
        ],
    );
}

#[test]
fn urls() {
    cases(
        "type: url",
        &[
            ("https://example.com", "https://example.com/"),
            ("HTTPS://EXAMPLE.com:443/a b?c#d", "https://example.com/a%20b?c#d"),
            ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/"),
        ],
        &[
            ("http://example.com/", "https://"),
            ("example.com", "not a URL"),
            ("https://", "not a URL"),
            ("mailto:a@example.com", "https://"),
            ("https://a:b@example.com/", "password"),
            ("javascript:alert(1)", "https://"),
            (&format!("https://example.com/{}", "ä".repeat(4000)), "escaped"),
        ],
    );
    cases(
        "type: url, schemes: [http, SSH]",
        &[
            ("http://example.com/", "http://example.com/"),
            ("ssh://example.com", "ssh://example.com"),
        ],
        &[
            ("https://example.com/", "http or SSH"),
            ("ssh:/a", "no host"),
            ("ssh:a", "no host"),
        ],
    );
}

#[test]
fn addresses_and_prefixes() {
    cases(
        "type: address",
        &[("192.0.2.10", "192.0.2.10"), ("2001:DB8:0::10", "2001:db8::10")],
        &[
            ("192.0.2.0/24", "not an address"),
            ("192.0.2", "not an address"),
            ("192.0.2.010", "not an address"),
            ("fe80::1%eth0", "not an address"),
            ("::ffff:192.0.2.1", "write 192.0.2.1"),
        ],
    );
    cases(
        "type: prefix, min_length_v4: 24, min_length_v6: 48",
        &[
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.10", "192.0.2.10/32"),
            ("2001:db8::/48", "2001:db8::/48"),
        ],
        &[
            ("192.0.2.1/24", "write 192.0.2.0/24"),
            ("192.0.0.0/23", "/24 or longer"),
            ("2001:db8::/32", "/48 or longer"),
            ("192.0.2.0/33", "not a prefix"),
            ("::ffff:192.0.2.0/120", "write 192.0.2.0/24"),
            ("::ffff:192.0.2.1", "write 192.0.2.1"),
            ("x", "not a prefix"),
        ],
    );
    cases(
        "type: prefix",
        &[("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0")],
        &[],
    );
}

#[test]
fn enums_and_dates() {
    cases(
        "type: enum, values: [small, Large]",
        &[("small", "small"), (" Large", "Large")],
        &[("large", "none of small, Large"), ("x", "none of")],
    );
    cases(
        "type: date, not_before: '2026-01-01', not_after: '2026-12-31'",
        &[("2026-01-01", "2026-01-01"), ("2026-12-31", "2026-12-31")],
        &[
            ("2025-12-31", "not before 2026-01-01"),
            ("2027-01-01", "not after 2026-12-31"),
            ("2026-02-29", "not a day"),
            ("2026-2-01", "not a day"),
            ("27.11.2026", "not a day"),
            ("2026-11-27T00:00:00Z", "not a day"),
            ("+026-11-27", "not a day"),
            ("2026-11-2é", "not a day"),
        ],
    );
    cases(
        "type: date",
        &[("2024-02-29", "2024-02-29"), ("0001-01-01", "0001-01-01")],
        &[("0000-01-01", "not a day")],
    );
    cases(
        "type: date, not_before: yesterday",
        &[],
        &[("2026-01-01", "cannot be checked")],
    );
}

const SMTP: &str = "{name: purpose, type: text, min_length: 5}, {name: volume, type: integer, max: 9}, \
     {name: note, type: text, required: false}, {name: key, type: text, pattern: '[0-9]+', secret: true}";

#[test]
fn every_problem_is_told_at_once() {
    let program = program(SMTP, OPENS);
    let wrong = submitted(&[
        ("volume", "10"),
        ("key", "hunter2"),
        ("volum", "1"),
        ("purpose", " "),
        ("note", ""),
    ]);
    let errors = parse(&program, &wrong).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "evidence.purpose: is missing: submit text of 5 to 4096 characters",
            "evidence.volume: 10 is too large: at most 9",
            "evidence.key: is not text of at most 4096 characters that matches `[0-9]+`",
            "evidence.volum: is not asked for: the program asks for purpose, volume, note, key",
        ]
    );
    let names: Vec<&str> = missing(&program, &wrong)
        .iter()
        .map(|f| f.name.as_str())
        .collect();
    assert_eq!(names, ["purpose"]);
    let many: BTreeMap<String, String> = (0..1000)
        .map(|i| (format!("{i}{}", "x".repeat(999)), String::new()))
        .collect();
    let errors = parse(&program, &many).unwrap_err();
    assert_eq!(errors.len(), 3 + 16 + 1);
    assert!(errors.iter().all(|e| e.path.len() < 80));
}

#[test]
fn secrets_are_not_shown() {
    let program = program(SMTP, OPENS);
    let good = submitted(&[("purpose", "to test"), ("volume", "3"), ("key", "4711")]);
    let evidence = parse(&program, &good).unwrap();
    assert_eq!(
        evidence.shown(&program),
        submitted(&[("purpose", "to test"), ("volume", "3")])
    );
    assert_eq!(evidence.submitted(), good);
    let debug = format!("{evidence:?} {:?}", evidence.get("key"));
    assert!(!debug.contains("4711") && debug.contains("to test"), "{debug}");
    let json = serde_json::to_string(&evidence).unwrap();
    assert_eq!(
        json,
        r#"{"key":{"type":"text","value":"4711","secret":true},"purpose":{"type":"text","value":"to test"},"volume":{"type":"integer","value":3}}"#
    );
    let again: Evidence = serde_json::from_str(&json).unwrap();
    assert_eq!(again, evidence);
    assert!(again.is_secret("key") && !again.is_secret("volume"));
    assert_eq!(again.digest(), evidence.digest());
    let other = parse(
        &program,
        &submitted(&[("purpose", "to test"), ("volume", "4"), ("key", "4711")]),
    );
    assert_ne!(other.unwrap().digest(), evidence.digest());
}

#[test]
fn every_type_is_stored_and_read_again() {
    let program = program(
        "{name: a, type: hostname}, {name: b, type: email}, {name: c, type: url}, {name: d, type: address}, \
         {name: e, type: prefix}, {name: f, type: enum, values: [x]}, {name: g, type: date}, {name: h, type: boolean}",
        OPENS,
    );
    let good = submitted(&[
        ("a", "a.example"),
        ("b", "a@a.example"),
        ("c", "https://a.example/"),
        ("d", "2001:db8::1"),
        ("e", "10.0.0.0/8"),
        ("f", "x"),
        ("g", "2026-11-27"),
        ("h", "true"),
    ]);
    let evidence = parse(&program, &good).unwrap();
    let json = serde_json::to_string(&evidence).unwrap();
    assert!(
        json.contains(r#""g":{"type":"date","value":"2026-11-27"}"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    assert_eq!(evidence.submitted(), good);
    let asked = describe(&program);
    assert_eq!(asked.len(), 8);
    assert_eq!(asked[5].choices, ["x"]);
    assert_eq!(asked[5].constraint, "x");
    assert_eq!(asked[0].prompt, "a");
}

const NARROW: &str = "{direction: ingress, protocol: tcp, ports: [25, 1024-2000], ports_from: port}, \
     {direction: egress, protocol: udp, ports: [53], remote: [10.0.0.0/8, 192.0.2.0/24], remote_from: whom}, \
     {direction: egress, protocol: tcp, ports: [443]}";

fn narrowed(port: &str, whom: &str, opens: &str) -> Result<Vec<Rule>, Vec<String>> {
    let program = program("{name: port, type: integer}, {name: whom, type: prefix}", opens);
    let evidence = parse(&program, &submitted(&[("port", port), ("whom", whom)])).unwrap();
    rules(&program, "p", &evidence).map_err(|e| e.iter().map(ToString::to_string).collect())
}

#[test]
fn openings_are_narrowed() {
    let opened = narrowed("1500", "10.1.0.0/16", NARROW).unwrap();
    let text = |rule: &Rule| {
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        let remote: Vec<String> = rule.remote.iter().map(ToString::to_string).collect();
        format!(
            "{} {} {} {} [{}] [{}] {}",
            rule.name,
            rule.action,
            rule.direction,
            rule.protocol,
            ports.join(","),
            remote.join(","),
            rule.reason
        )
    };
    let texts: Vec<String> = opened.iter().map(text).collect();
    assert_eq!(
        texts,
        [
            "opens-0 allow ingress tcp [1500] [] A title",
            "opens-1 allow egress udp [53] [10.1.0.0/16] A title",
            "opens-2 allow egress tcp [443] [] A title",
        ]
    );
    let wrong = narrowed("26", "10.0.0.0/7", NARROW).unwrap_err();
    assert_eq!(
        wrong,
        [
            "evidence.port: must be one of the ports 25, 1024-2000",
            "evidence.whom: must be within 10.0.0.0/8, 192.0.2.0/24",
        ]
    );
    for port in ["-1", "65561", "0", "2001"] {
        assert!(narrowed(port, "10.0.0.0/8", NARROW).is_err(), "{port}");
    }
    let v6 = "{direction: egress, protocol: tcp, ip: 6, remote_from: whom}";
    assert_eq!(
        narrowed("1", "10.0.0.0/8", v6).unwrap_err(),
        ["evidence.whom: must be ipv6"]
    );
    assert!(narrowed("1", "2001:db8::/32", v6).is_ok());
    let icmp = "{direction: egress, protocol: icmp, remote_from: whom}";
    assert_eq!(
        narrowed("1", "2001:db8::/32", icmp).unwrap_err(),
        ["evidence.whom: is of an IP version that has no icmp"]
    );
    let unread = rules(
        &program("{name: port, type: integer}, {name: whom, type: address}", NARROW),
        "p",
        &Evidence::default(),
    );
    assert_eq!(unread.unwrap_err().len(), 2);
}

fn any_type() -> impl Strategy<Value = EvidenceType> {
    let kinds: Vec<EvidenceType> = [
        r#"{"type": "text"}"#,
        r#"{"type": "text", "pattern": "[a-z ]+"}"#,
        r#"{"type": "integer"}"#,
        r#"{"type": "boolean"}"#,
        r#"{"type": "hostname"}"#,
        r#"{"type": "email"}"#,
        r#"{"type": "url", "schemes": ["https", "http", "ssh", "file", "a"]}"#,
        r#"{"type": "address"}"#,
        r#"{"type": "prefix"}"#,
        r#"{"type": "enum", "values": ["a", "b c"]}"#,
        r#"{"type": "date"}"#,
    ]
    .iter()
    .map(|text| serde_json::from_str(text).unwrap())
    .collect();
    proptest::sample::select(kinds)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,40}",
        "[ -~]{0,40}",
        "(https?|ssh|a|file):/{0,3}[a-zA-Z0-9.@:\\[\\]%/ä ]{0,30}",
        "[a-zA-Z0-9äß。．_-]{1,20}(\\.[a-zA-Z0-9ä-]{1,10}){0,3}\\.?",
        "\"?[a-z .+]{1,8}\"?@[a-z0-9ä-]{1,8}\\.[a-z]{2,4}",
        "[0-9a-f:.]{1,20}(/[0-9]{1,3})?",
        "-?[0-9]{1,20}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_printed_is_read_again(kind in any_type(), secret: bool, text in any_text()) {
        let field = EvidenceField { name: "x".to_string(), prompt: String::new(), required: true, secret, kind };
        let mut program = program("", OPENS);
        program.evidence.push(field);
        if let Ok(evidence) = parse(&program, &submitted(&[("x", &text)])) {
            let again = parse(&program, &evidence.submitted());
            prop_assert_eq!(again.as_ref(), Ok(&evidence), "{:?} gives {:?}", text, evidence.submitted());
            let stored = serde_json::to_string(&evidence).unwrap();
            prop_assert_eq!(serde_json::from_str::<Evidence>(&stored).unwrap(), evidence);
        }
    }

    #[test]
    fn any_submission_is_answered(pairs in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..5)) {
        let program = program(SMTP, OPENS);
        let _ = parse(&program, &pairs);
        let _ = missing(&program, &pairs);
    }

    #[test]
    fn no_more_is_opened_than_the_program_does(
        ranges in proptest::collection::vec((0u16..200, 0u16..20), 1..4),
        port in -5i64..260,
        remotes in proptest::collection::vec((any::<u8>(), 0u8..=16), 0..4),
        whom in (any::<u8>(), 0u8..=32),
        family in proptest::option::of(prop_oneof![Just("4"), Just("6")]),
    ) {
        let v4 = |top: u8, length: u8| {
            ipnet::Ipv4Net::new([top, 0, 0, 0].into(), length).unwrap().trunc().to_string()
        };
        let ports: Vec<String> = ranges.iter().map(|(low, more)| format!("{low}-{}", low + more)).collect();
        let remote: Vec<String> = remotes.iter().map(|(top, length)| v4(*top, *length)).collect();
        let ip = match family {
            // An opening whose prefixes and version disagree is refused with the document.
            Some("6") if !remote.is_empty() => String::new(),
            Some(family) => format!("ip: {family}, "),
            None => String::new(),
        };
        // An empty list is refused: absent means everywhere.
        let remote = if remote.is_empty() {
            String::new()
        } else {
            format!("remote: [{}], ", remote.join(", "))
        };
        let opens = format!(
            "{{direction: egress, protocol: tcp, {ip}ports: ['{}'], {remote}ports_from: port, remote_from: whom}}",
            ports.join("', '"),
        );
        let program = program("{name: port, type: integer}, {name: whom, type: prefix}", &opens);
        let given = submitted(&[("port", &port.to_string()), ("whom", &v4(whom.0, whom.1))]);
        let evidence = parse(&program, &given).unwrap();
        let opening = &program.opens[0];
        let whom: IpNet = v4(whom.0, whom.1).parse().unwrap();
        let within = opening.ports.iter().any(|r| (i64::from(r.low)..=i64::from(r.high)).contains(&port))
            && (opening.remote.is_empty() || opening.remote.iter().any(|r| r.0.contains(&whom)))
            && opening.ip.is_none_or(|f| f == portcullis_policy::Family::V4);
        match rules(&program, "p", &evidence) {
            Err(_) => prop_assert!(!within),
            Ok(opened) => {
                prop_assert!(within);
                let rule = &opened[0];
                prop_assert!(rule.ports.iter().all(|r| r.low == r.high && i64::from(r.low) == port));
                prop_assert_eq!(rule.remote.iter().map(|r| r.0).collect::<Vec<_>>(), vec![whom]);
                prop_assert_eq!((rule.direction, rule.protocol, rule.ip), (opening.direction, opening.protocol, opening.ip));
            }
        }
    }
}

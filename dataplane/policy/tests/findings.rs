//! What is reported of documents and policies, and what is not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use portcullis_policy::{
    Direction, Document, Entry, Finding, FindingKind, Tier, effective, findings, findings_of,
};

fn of(text: &str) -> Vec<Finding> {
    findings(&Document::from_yaml(&format!("version: portcullis/v1\n{text}")).unwrap())
}

/// `kind at: by, by`.
fn brief(found: &[Finding]) -> Vec<String> {
    found
        .iter()
        .map(|f| format!("{} {}: {}", f.kind, f.at, f.by.join(", ")))
        .collect()
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = of(text);
    assert_eq!(brief(&found), expected, "{text}\n{found:#?}");
}

#[test]
fn rules_that_never_match() {
    // One cover; covers in several dimensions; nearly covered.
    expect(
        "
baseline:
  - {name: low, action: deny, direction: egress, protocol: tcp, ports: [1-24]}
  - {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25, 465]}
  - {name: one, action: deny, direction: egress, protocol: tcp, ports: [25], remote: [192.0.2.0/24]}
  - {name: both, action: allow, direction: egress, protocol: tcp, ports: [20-25]}
  - {name: more, action: allow, direction: egress, protocol: tcp, ports: [0, 25]}
  - {name: v4, action: deny, direction: egress, protocol: udp, ports: [53], ip: 4}
  - {name: half, action: deny, direction: egress, protocol: udp, ports: [53], remote: ['2001:db8::/33']}
  - {name: rest, action: deny, direction: egress, protocol: udp, ports: [53], remote: ['2001:db8:8000::/33']}
  - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53], remote: ['2001:db8::/32', 10.0.0.0/8]}
",
        &[
            "never_matches baseline/one: baseline/mail",
            "never_matches baseline/both: baseline/low, baseline/mail",
            "redundant baseline/more: default/egress",
            "never_matches baseline/dns: baseline/v4, baseline/half, baseline/rest",
        ],
    );
    // Codes of a type; protocols of "any"; a mandatory rule above.
    expect(
        "
mandatory: [{name: no-icmp, action: deny, direction: ingress, protocol: icmp}]
baseline:
  - {name: ping, action: allow, direction: ingress, protocol: icmp, icmp: {type: 8}}
  - {name: every, action: deny, direction: ingress}
  - {name: gre, action: deny, direction: ingress, protocol: 47}
",
        &[
            "never_matches baseline/ping: mandatory/no-icmp",
            "never_matches baseline/gre: baseline/every",
        ],
    );
    let found = of(
        "baseline: [{name: a, action: deny, direction: egress}, {name: b, action: deny, direction: egress}]",
    );
    assert_eq!(
        found[0].text,
        "can never match: baseline/a before it takes all it would match"
    );
    // A profile that nobody binds is judged by itself.
    expect(
        "
profiles:
  idle:
    rules:
      - {name: web, action: allow, direction: ingress, protocol: tcp, ports: [80-90]}
      - {name: again, action: deny, direction: ingress, protocol: tcp, ports: [81]}
",
        &["never_matches profiles/idle/again: profiles/idle/web"],
    );
}

#[test]
fn rules_that_change_nothing() {
    let both = |defaults: &str, rest: &str| {
        format!(
            "defaults: {{{defaults}}}\nprofiles:\n p: {{rules: [{rest}]}}\nendpoints: {{a: {{profiles: [p]}}}}\n"
        )
    };
    let web = "{name: web, action: allow, direction: ingress, protocol: tcp, ports: [80]}";
    let mail = "{name: mail, action: deny, direction: ingress, protocol: tcp, ports: [25]}";
    let told = "{name: mail, action: deny, direction: ingress, protocol: tcp, ports: [25], reason: spam}";
    let rest = "{name: rest, action: deny, direction: ingress}";
    // An allow under default allow says nothing; a deny does.
    expect(
        &both("", &format!("{web}, {mail}")),
        &["redundant profiles/p/web: default/ingress"],
    );
    let found = of(&both("", web));
    assert_eq!(
        found[0].text,
        "changes nothing: all it decides is allowed anyway by default/ingress"
    );
    // Under default deny it is the other way round; a reason or a closing "the rest" is there on purpose.
    let deny = "ingress: deny, egress: deny";
    expect(
        &both(deny, &format!("{web}, {mail}")),
        &["redundant profiles/p/mail: default/ingress"],
    );
    expect(&both(deny, &format!("{web}, {told}, {rest}")), &[]);
    expect(
        &both(deny, &format!("{mail}, {web}, {rest}")),
        &["redundant profiles/p/mail: profiles/p/rest"],
    );
    // Allowed anyway, and yet needed: what comes back in is a reply to it. Unless that is denied.
    let deny = "ingress: deny";
    let out = "{name: out, action: allow, direction: egress, protocol: udp, ports: [53], remote: [192.0.2.53, '2001:db8::53']}";
    expect(&both(deny, out), &[]);
    expect(
        &both(deny, &format!("{out}, {rest}")),
        &["redundant profiles/p/out: default/egress"],
    );
    // Before a broader rule of the same action, a narrower one says nothing; before one of the other it does.
    let wide = "{name: wide, action: allow, direction: ingress, protocol: tcp, ports: [80-90]}";
    expect(
        &both(deny, &format!("{out}, {web}, {wide}")),
        &["redundant profiles/p/web: profiles/p/wide"],
    );
    let not = "{name: not, action: deny, direction: ingress, protocol: tcp, ports: [81]}";
    expect(&both(deny, &format!("{out}, {not}, {wide}")), &[]);
    // Of two equal rules one is said to never match, and not also the other to be redundant.
    // Replies over TCP come to what is sent by default as well; the one rule that allows something lets ICMP errors in.
    let tls = "{name: tls, action: allow, direction: egress, protocol: tcp, ports: [443]}";
    expect(&both(deny, tls), &["one_way profiles/p: default/ingress"]);
    expect(
        &both(deny, &format!("{out}, {tls}")),
        &["redundant profiles/p/tls: default/egress"],
    );
    let again = web.replace("web", "again");
    expect(
        &both(deny, &format!("{out}, {web}, {again}")),
        &["never_matches profiles/p/again: profiles/p/web"],
    );
}

#[test]
fn what_differs_between_bindings_is_not_redundant() {
    // `web` says nothing for a, and opens a port for b, where another profile denies by default.
    let text = "
profiles:
  web: {rules: [{name: http, action: allow, direction: ingress, protocol: tcp, ports: [80]}]}
  closed:
    default: {ingress: deny}
    rules: [{name: out, action: allow, direction: egress, protocol: udp, ports: [53], remote: [192.0.2.53]}]
endpoints: {a: {profiles: [web]}, b: {profiles: [web, closed]}}
";
    expect(text, &[]);
    expect(
        &text.replace("b: {profiles: [web, closed]}", "b: {profiles: [closed]}"),
        &["redundant profiles/web/http: default/ingress"],
    );
    // What a profile takes from the baseline is not the baseline's fault, however many bind it.
    expect(
        "
baseline: [{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}]
profiles: {mail: {rules: [{name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25]}]}}
endpoints: {a: {profiles: [mail]}}
",
        &[],
    );
}

#[test]
fn what_mandatory_rules_override() {
    let text = "
mandatory: [{name: no-mail, action: deny, direction: egress, protocol: tcp, ports: [25, 465-466]}]
endpoints:
  a:
    rules:
      - {name: bulk, action: allow, direction: egress, protocol: tcp, ports: [20-30], remote: [10.0.0.0/8]}
      - {name: mail, action: allow, direction: egress, protocol: tcp, ports: [25]}
      - {name: lan, action: deny, direction: egress, remote: [10.0.0.0/8]}
      - {name: rest, action: allow, direction: egress}
";
    let found = of(text);
    assert_eq!(
        brief(&found),
        [
            "overridden endpoints/a/bulk: mandatory/no-mail",
            "never_matches endpoints/a/mail: mandatory/no-mail",
            "redundant endpoints/a/rest: default/egress",
        ]
    );
    assert_eq!(
        found[0].text,
        "is partly overridden: mandatory/no-mail denies tcp port 25"
    );
    // A mandatory rule before it may take some of that back.
    let text = text.replace(
        "mandatory: [",
        "mandatory: [{name: relay, action: allow, direction: egress, protocol: tcp, remote: [10.0.0.25]}, ",
    );
    let found = of(&text);
    assert_eq!(
        found[0].text,
        "is partly overridden: mandatory/no-mail denies tcp port 25, as far as mandatory rules before it leave it"
    );
}

#[test]
fn mandatory_rules_are_guards() {
    // Nothing contradicts them yet, under either default.
    for default in ["allow", "deny"] {
        let text = format!(
            "
defaults: {{egress: {default}}}
mandatory:
  - {{name: no-mail, action: deny, direction: egress, protocol: tcp, ports: [25]}}
  - {{name: ntp, action: allow, direction: egress, protocol: udp, ports: [123]}}
"
        );
        expect(&text, &[]);
    }
    expect(
        "
mandatory:
  - {name: narrow, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: wide, action: deny, direction: egress, protocol: tcp, ports: [25-26]}
",
        &["redundant mandatory/narrow: mandatory/wide"],
    );
}

#[test]
fn a_careful_document_is_left_alone() {
    expect(
        "
defaults: {egress: allow, ingress: allow}
mandatory:
  - {name: ssh, action: allow, direction: ingress, protocol: tcp, ports: [22], remote: [192.0.2.0/24]}
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587], reason: ask for the mail program}
  - {name: netbios, action: deny, direction: egress, protocol: udp, ports: [137-139]}
  - {name: memcached, action: deny, direction: ingress, protocol: udp, ports: [11211]}
  - {name: dns, action: deny, direction: ingress, protocol: udp, ports: [53]}
profiles:
  dns: {rules: [{name: dns, action: allow, direction: ingress, protocol: udp, ports: [53]}]}
  mail: {rules: [{name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25, 587]}]}
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443]}
      - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53], remote: [192.0.2.53]}
endpoints:
  a: {profiles: [web]}
  b: {profiles: [dns, mail]}
  c: {profiles: [web, mail], rules: [{name: no-tls, action: deny, direction: ingress, protocol: tcp, ports: [443]}]}
",
        &[],
    );
}

#[test]
fn one_way_is_said() {
    expect(
        "profiles: {closed: {default: {ingress: deny}}}\nendpoints: {a: {profiles: [closed]}, b: {profiles: [closed]}}",
        &["one_way profiles/closed: default/ingress"],
    );
}

#[test]
fn what_replies_open_and_what_gets_no_answer() {
    let text = "
defaults: {ingress: deny}
endpoints:
  a:
    rules:
      - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53]}
      - {name: ntp, action: allow, direction: egress, protocol: udp, ports: [123], source_ports: [123]}
      - {name: near, action: allow, direction: egress, protocol: udp, ports: [500], remote: [192.0.2.0/24]}
      - {name: every, action: allow, direction: egress, protocol: sctp}
      - {name: gre, action: allow, direction: egress, protocol: 47}
      - {name: ping, action: allow, direction: egress, protocol: icmp}
";
    let found = of(text);
    let said: Vec<(&str, &str, &str)> = found
        .iter()
        .filter(|f| matches!(f.kind, FindingKind::OneWay | FindingKind::RepliesOpen))
        .map(|f| (f.kind.as_str(), f.at.as_str(), f.text.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (
                "replies_open",
                "endpoints/a/dns",
                "replies open ingress udp from port 53 of any address to ports 1024 to 65535, whoever asked first: narrow \
                 `remote`; what was sent from a port below 1024 gets no answer unless the rule names `source_ports`"
            ),
            (
                "replies_open",
                "endpoints/a/ntp",
                "replies open ingress udp from port 123 of any address to port 123, whoever asked first: narrow `remote`"
            ),
            (
                "one_way",
                "endpoints/a/every",
                "gets no answer: ingress is denied by default, and replies over sctp come back only to a rule that names \
                 its destination ports; name `ports`"
            ),
            (
                "replies_open",
                "endpoints/a/gre",
                "replies open ingress gre from any address, whoever asked first: narrow `remote`"
            ),
        ]
    );
    let any =
        "defaults: {ingress: deny}\nendpoints: {a: {rules: [{name: all, action: allow, direction: egress}]}}";
    let found = of(any);
    assert_eq!(found[0].kind, FindingKind::OneWay);
    assert_eq!(
        found[0].text,
        "ingress is denied by default: of what it sends by default, TCP alone gets an answer; UDP (DNS, NTP) and ping get \
         none: add egress allow rules that name them, with their ports"
    );
    assert!(
        found[1].text.starts_with("gets an answer over TCP alone"),
        "{found:#?}"
    );
}

#[test]
fn denies_that_stop_essentials_are_said() {
    let text = "
mandatory: [{name: no-nd, action: deny, direction: egress, protocol: icmpv6, ip: 6}]
baseline:
  - {name: no-dhcp, action: deny, direction: ingress, protocol: udp, ports: [68]}
  - {name: other, action: deny, direction: ingress, protocol: udp, ports: [69]}
  - {name: every, action: deny, direction: ingress}
";
    let found: Vec<Finding> = of(text)
        .into_iter()
        .filter(|f| f.kind == FindingKind::OverridesEssential)
        .collect();
    assert_eq!(
        brief(&found),
        [
            "overrides_essential mandatory/no-nd: essential/mld, essential/neighbour-discovery",
            "overrides_essential baseline/no-dhcp: essential/dhcp",
        ]
    );
    assert_eq!(
        found[1].text,
        "stops ingress what the endpoint itself needs, or part of it: dhcp"
    );
}

/// The policy of an endpoint with these unlocks after the mandatory and essential entries.
fn with_unlocks(text: &str, unlocks: &[(&str, &str)]) -> Vec<Finding> {
    let document =
        Document::from_yaml(&format!("version: portcullis/v1\n{text}\nendpoints: {{a: {{}}}}")).unwrap();
    let endpoint = document.endpoints.values().next().unwrap();
    let mut policy = effective(&document, "a", endpoint, Direction::Egress);
    let place = policy
        .entries
        .iter()
        .take_while(|e| e.tier < Tier::Unlock)
        .count();
    for (name, rule) in unlocks.iter().rev() {
        let text = format!(
            "version: portcullis/v1\nmandatory: [{{name: x, action: allow, direction: egress, {rule}}}]"
        );
        let one = Document::from_yaml(&text).unwrap();
        let entry = effective(&one, "a", &Default::default(), Direction::Egress)
            .entries
            .remove(0);
        let origin: Arc<str> = format!("unlock/{name}").into();
        policy.entries.insert(
            place,
            Entry {
                tier: Tier::Unlock,
                origin,
                ..entry
            },
        );
    }
    findings_of(&policy)
}

#[test]
fn unlocks_that_mandatory_rules_defeat() {
    let text = "
mandatory:
  - {name: no-smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: no-irc, action: deny, direction: egress, protocol: tcp, ports: [6667], ip: 4}
baseline: [{name: all, action: deny, direction: egress, protocol: tcp, reason: by default}]
";
    let found = with_unlocks(
        text,
        &[
            ("mail", "protocol: tcp, ports: [25]"),
            ("irc", "protocol: tcp, ports: [6667]"),
            ("many", "protocol: tcp, ports: [20-30, 100]"),
            ("fine", "protocol: tcp, ports: [80]"),
            // Each lease is judged without the others.
            ("fine2", "protocol: tcp, ports: [80]"),
            ("idle", "protocol: udp, ports: [80]"),
        ],
    );
    assert_eq!(
        brief(&found),
        [
            "defeated unlock/mail: mandatory/no-smtp",
            "partly_defeated unlock/irc: mandatory/no-irc",
            "partly_defeated unlock/many: mandatory/no-smtp",
            "redundant unlock/idle: default/egress",
        ]
    );
    let texts: Vec<&str> = found.iter().take(3).map(|f| f.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "has no effect: mandatory/no-smtp denies all it is about, and no unlock overrides a mandatory rule",
            "has only part of its effect: mandatory/no-irc denies IPv4; no unlock overrides a mandatory rule",
            "has only part of its effect: mandatory/no-smtp denies tcp port 25; no unlock overrides a mandatory rule",
        ]
    );
}

#[test]
fn kinds_have_names_of_their_own() {
    let kinds = [
        FindingKind::NeverMatches,
        FindingKind::Redundant,
        FindingKind::Defeated,
        FindingKind::PartlyDefeated,
        FindingKind::Overridden,
        FindingKind::OneWay,
        FindingKind::RepliesOpen,
        FindingKind::OverridesEssential,
    ];
    let names: std::collections::BTreeSet<&str> = kinds.iter().map(|k| k.as_str()).collect();
    assert_eq!(names.len(), kinds.len());
}

#[test]
fn what_never_matches_and_yet_has_replies_is_not_idle() {
    let text = "
defaults: {egress: deny, ingress: allow}
baseline:
  - {name: all, action: allow, direction: ingress}
  - {name: ping, action: allow, direction: ingress, protocol: icmpv6}
  - {name: web, action: allow, direction: ingress, protocol: tcp, ports: [80]}
";
    let never: Vec<String> = of(text)
        .into_iter()
        .filter(|f| f.kind == FindingKind::NeverMatches)
        .map(|f| f.at)
        .collect();
    assert_eq!(
        never,
        ["baseline/web"],
        "without `ping`, echo replies would not leave"
    );
}

#[test]
fn programs_that_open_unchecked_or_to_everybody() {
    let program = |more: &str| {
        format!(
            "
endpoints:
  a: {{attachments: [{{interface: a}}], addresses: ['2001:db8::/64']}}
  b: {{attachments: [{{interface: b}}], addresses: [192.0.2.1]}}
  c: {{attachments: [{{interface: c}}]}}
programs:
  vpn:
    evidence:
      - {{name: peer, type: prefix}}
      - {{name: some, type: prefix, min_length_v4: 8}}
      - {{name: both, type: prefix, min_length_v4: 8, min_length_v6: 16}}
      - {{name: one, type: address}}
    lease: {{default: 1h}}
{more}
"
        )
    };
    let opens = |opens: &str| {
        let found = of(&program(&format!("    opens: [{opens}]")));
        let told = found
            .iter()
            .filter(|finding| finding.at.starts_with("programs/"))
            .map(|finding| format!("{} {}: {}", finding.kind, finding.at, finding.text));
        told.collect::<Vec<_>>()
    };
    let rule = "direction: ingress, protocol: udp, ports: [51820]";
    let everybody = opens(&format!(
        "{{{rule}, remote_from: one}}, {{{rule}, remote_from: peer}}"
    ));
    assert_eq!(
        everybody,
        [
            "unbounded programs/vpn/opens-1: `remote_from: peer` accepts 0.0.0.0/0 and ::/0, so that a tenant chooses to \
             open to everybody: set min_length_v4 and min_length_v6 of `peer`, or list `remote`"
        ]
    );
    let six = opens(&format!("{{{rule}, remote_from: some}}"));
    assert!(
        six[0].contains("accepts ::/0,") && six[0].contains("set min_length_v6 of `some`"),
        "{six:?}"
    );
    for bounded in [
        "remote_from: both",
        "remote_from: some, ip: 4",
        "remote_from: peer, remote: [192.0.2.0/24]",
    ] {
        assert_eq!(
            opens(&format!("{{{rule}, {bounded}}}")),
            Vec::<String>::new(),
            "{bounded}"
        );
    }
    // A list that has everybody in it is no bound.
    let listed = opens(&format!(
        "{{{rule}, remote_from: peer, remote: [0.0.0.0/0, '2001:db8::/32']}}"
    ));
    assert!(listed[0].contains("accepts 0.0.0.0/0,"), "{listed:?}");

    let scope = |check: &str, scope: &str| {
        let checks = format!("    opens: [{{{rule}}}]\n    checks: [{check}]\n    scope: {scope}");
        let found = of(&program(&checks));
        let found = found
            .into_iter()
            .filter(|f| f.kind == FindingKind::OpensUnchecked);
        found.map(|finding| finding.text).collect::<Vec<_>>()
    };
    assert_eq!(
        scope("{kind: banner, port: 25}", "all"),
        [
            "`scope: all` opens for prefixes, and for endpoints that declare no addresses (now: a, c): no check is about them"
        ]
    );
    let named = scope("{kind: ptr, address: one}", "all");
    assert!(
        named[0].contains("other than that in the evidence `one`"),
        "{named:?}"
    );
    assert!(scope("{kind: banner, port: 25}", "checked").is_empty());
    assert!(scope("", "all").is_empty(), "nothing is checked anyway");
}

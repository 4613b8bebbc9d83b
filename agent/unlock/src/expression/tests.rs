use std::collections::BTreeMap;

use portcullis_policy::{CheckResult, Document, Program};
use proptest::prelude::*;

use super::*;
use crate::evidence;

const DOCUMENT: &str = r#"
version: portcullis/v1
programs:
  smtp-out:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    evidence:
      - {name: purpose, type: text}
      - {name: volume_per_day, type: integer}
      - {name: consent, type: boolean, required: false}
      - {name: since, type: date, required: false}
      - {name: key, type: text, secret: true, required: false}
    checks:
      - {kind: banner, port: 25}
      - {kind: banner, name: greets, port: 587}
    lease: {default: 720h}
  web:
    opens: [{direction: ingress, protocol: tcp, ports: [80]}]
    lease: {default: 1h}
"#;

fn program() -> (Program, Scope) {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let program = Program::clone(&document.programs["smtp-out"]);
    let scope = Scope::new(&program, document.programs.keys().map(|name| name.as_str()));
    (program, scope)
}

fn facts(extra: &[(&str, &str)]) -> Facts {
    let mut submitted: BTreeMap<String, String> = [
        ("purpose", "to send (bills) — täglich"),
        ("volume_per_day", "4999"),
    ]
    .map(|(name, text)| (name.to_string(), text.to_string()))
    .into();
    submitted.extend(extra.iter().map(|(n, t)| (n.to_string(), t.to_string())));
    Facts {
        endpoint: EndpointFacts {
            name: "mail1".to_string(),
            labels: [("invoice_paid", "true"), ("a-b", "c")]
                .map(|(key, label)| (key.to_string(), label.to_string()))
                .into(),
            age: 721 * 3600,
            addresses: vec!["192.0.2.10".to_string(), "2001:db8::10".to_string()],
            profiles: vec!["mail".to_string()],
        },
        evidence: evidence::parse(&program().0, &submitted).unwrap(),
        checks: [(
            "banner".to_string(),
            CheckFacts {
                result: CheckResult::Passed,
                detail: "220 mail1".to_string(),
            },
        )]
        .into(),
        unlocks: [(
            "web".to_string(),
            UnlockFacts {
                active: true,
                state: "active".to_string(),
                age: 7200,
                revocations: 1,
            },
        )]
        .into(),
        tenant: "acme".to_string(),
        now: 1_800_000_000,
        lease: 720 * 3600,
    }
}

fn compile(text: &str) -> Result<Expression, ExpressionError> {
    Expression::compile(text, &program().1)
}

fn evaluate(text: &str, facts: &Facts) -> Result<bool, ExpressionError> {
    compile(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .evaluate(facts)
}

const EXAMPLE: &str = r#"endpoint.labels.invoice_paid == "true" && endpoint.age > duration("720h") && evidence.volume_per_day < 5000"#;

#[test]
fn the_example() {
    let good = facts(&[]);
    assert_eq!(evaluate(EXAMPLE, &good), Ok(true));
    let change = |change: fn(&mut Facts)| {
        let mut facts = good.clone();
        change(&mut facts);
        evaluate(EXAMPLE, &facts)
    };
    assert_eq!(change(|f| f.endpoint.age = 720 * 3600), Ok(false));
    assert_eq!(change(|f| f.endpoint.labels.clear()), Ok(false));
    assert_eq!(
        evaluate(EXAMPLE, &facts(&[("volume_per_day", "5000")])),
        Ok(false)
    );
}

#[test]
fn what_is_true() {
    let facts = facts(&[("since", "2026-11-27"), ("key", "hunter2")]);
    for text in [
        "true",
        "endpoint.name == 'mail1' && tenant == \"acme\"",
        "endpoint.labels.nothing == \"\" && endpoint.labels['a-b'] == 'c' && endpoint.labels[\"x\"] == ''",
        "!has(endpoint.labels.nothing) && has(endpoint.labels.invoice_paid)",
        "'a-b' in endpoint.labels && !('b' in endpoint.labels)",
        "endpoint.labels.exists(k, k.startsWith('a-') && endpoint.labels[k] == 'c')",
        "size(endpoint.labels) == 2",
        "endpoint.addresses.exists(a, a.startsWith('192.0.2.')) && 'mail' in endpoint.profiles",
        "endpoint.addresses.filter(a, a.contains(':')).size() == 1",
        "endpoint.addresses.map(a, size(a)) == [10, 12]",
        "endpoint.addresses.exists_one(a, a.endsWith('.10'))",
        "endpoint.addresses.all(a, a.matches('^[0-9a-f:.]+$'))",
        "matches(evidence.purpose, '(a+)+b') || evidence.purpose.contains('täglich')",
        "checks.banner.passed && checks.banner.result == 'passed' && checks.banner.detail.contains('mail1')",
        "checks.greets.result == 'undetermined' && !checks[\"greets\"].passed",
        "unlocks.web.active && unlocks.web.age > duration('1h') && unlocks[\"web\"].revocations <= 1",
        "!unlocks[\"smtp-out\"].active && unlocks['smtp-out'].state == 'none'",
        "now > timestamp('2026-11-27T00:00:00Z') && now.getFullYear() == 2027",
        "evidence.since == timestamp('2026-11-27T00:00:00Z') && now - evidence.since > duration('24h')",
        "request.lease <= duration('30m') || request.lease.getHours() == 720",
        "!has(evidence.consent) || evidence.consent",
        "has(evidence.since) && evidence['volume_per_day'] % 2 == 1",
        "evidence.key == 'hunter2'",
        "(endpoint.age > duration('1h') ? 1 : 2) == 1",
        "evidence.volume_per_day in [1, 4999]",
        "// a comment with (((\n  true",
        "\"(((\" != ')'",
        "false || true || evidence.consent",
    ] {
        assert_eq!(evaluate(text, &facts), Ok(true), "{text}");
    }
    let named = compile("unlocks.web.active && checks.greets.passed").unwrap();
    assert_eq!(named.programs().collect::<Vec<_>>(), ["web"]);
    assert_eq!(named.checks().collect::<Vec<_>>(), ["greets"]);
}

#[test]
fn what_is_refused_when_it_is_compiled() {
    let mut unexpected = Vec::new();
    for (text, line, column, problem) in [
        (
            "evidence.volumme < 5",
            1,
            10,
            "no evidence `volumme`: there are consent, key",
        ),
        (
            "true && checks.spff.passed",
            1,
            16,
            "no check `spff`: there are banner, greets",
        ),
        ("endpoint.lables.x == ''", 1, 10, "no field of endpoints `lables`"),
        ("evidence[\"x\"] == ''", 1, 10, "no evidence `x`"),
        (
            "unlocks.smtp.active",
            1,
            9,
            "no program `smtp`: there are smtp-out, web",
        ),
        ("unlocks[\"web\"].activ", 1, 16, "no field of unlocks `activ`"),
        (
            "unlocks.web.age > 5",
            1,
            17,
            "`>` does not go with duration and int",
        ),
        (
            "true &&\n  endpont.name == 'x'",
            2,
            3,
            "no variable `endpont`: there are endpoint, evidence",
        ),
        ("\"ä\" == evidence.nope", 1, 17, "no evidence `nope`"),
        ("true && foo (1)", 1, 9, "no function `foo`"),
        ("endpoint.name.upper() == ''", 1, 15, "no function `upper`"),
        ("endpoint.name.duration()", 1, 15, "write duration(…)"),
        ("startsWith('a', 'b')", 1, 1, "is a method"),
        ("has(evidence.nope)", 1, 14, "no evidence `nope`"),
        (
            "endpoint.age > 720",
            1,
            14,
            "`>` does not go with duration and int",
        ),
        ("endpoint.age > '720h'", 1, 14, "duration and string"),
        (
            "endpoint.labels.x == true",
            1,
            19,
            "`==` does not go with string and bool",
        ),
        (
            "evidence.volume_per_day && true",
            1,
            25,
            "`&&` does not go with int and bool",
        ),
        ("endpoint.age > duration(\"720x\")", 1, 16, "not as CEL writes it"),
        ("now > timestamp('2026')", 1, 7, "not as CEL writes it"),
        ("endpoint.name", 1, 1, "is of type string"),
        ("5", 1, 1, "is of type int"),
        ("evidence", 1, 1, "`evidence` is no value"),
        ("size(unlocks) > 0", 1, 6, "`unlocks` is no value"),
        ("'x' in evidence", 1, 8, "`evidence` is no value"),
        ("unlocks.web == checks.banner", 1, 9, "an unlock is no value"),
        ("checks[endpoint.name].passed", 1, 16, "in quotes is needed"),
        (
            "evidence.purpose.matches(endpoint.name)",
            1,
            34,
            "in quotes is needed",
        ),
        ("evidence.purpose.matches('(a{1000}){1000}')", 1, 26, "too large"),
        ("evidence.purpose.matches('(a')", 1, 26, "unclosed group"),
        (
            "endpoint.addresses.exists(evidence, true)",
            1,
            20,
            "means something already",
        ),
        ("endpoint.name.exists(x, true)", 1, 15, "no items"),
        ("endpoint.addresses.exists(a.b, true)", 1, 28, "simple name"),
        ("endpoint.name.x == ''", 1, 15, "has no fields"),
        ("endpoint.addresses['x'] == ''", 1, 19, "no index of type string"),
        (".endpoint.name == ''", 1, 2, "no variable `.endpoint`"),
        ("type(1) == int", 1, 1, "no function `type`"),
        ("endpoint.?name == ''", 1, 9, "unsupported syntax"),
        ("a.b{c: 1} == 1", 1, 4, "makes a message"),
        ("true &&", 1, 8, "Syntax error"),
        ("true true", 1, 6, "Syntax error"),
        ("endpoint.name = 'x'", 1, 15, "Syntax error"),
        ("", 1, 1, "is empty"),
        ("1 == 99999999999999999999", 1, 6, "invalid int"),
        (
            "[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, [1,2,3,4,5,6,7,8].all(c, [1,2,3,4,5,6,7,8].all(d, \
             [1,2,3,4,5,6,7,8].all(e, [1,2,3,4,5,6,7,8].all(f, [1,2,3,4,5,6,7,8].all(g, true)))))))",
            1,
            1,
            "too long",
        ),
    ] {
        let error = compile(text).expect_err(text);
        if !error.problem.contains(problem) || (error.line, error.column) != (line, column) {
            unexpected.push(format!("{text}: {error}"));
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let doubled = |n| format!("['x']{}.exists(a, a == '')", ".map(a, a + a)".repeat(n));
    assert!(compile(&doubled(40)).unwrap_err().problem.contains("too deeply"));
    assert!(compile(&doubled(25)).unwrap_err().problem.contains("too long"));
    assert_eq!(evaluate(&doubled(10), &facts(&[])), Ok(false));
    let long = format!("true{}", " && true".repeat(600));
    assert!(compile(&long).unwrap_err().problem.contains("longer than 4096"));
    assert_eq!(evaluate(&long[..4004], &facts(&[])), Ok(true));
    // Within one another: nearly the most that is let through, and more.
    let folded = |n| {
        let list = format!("[{}1]", "1,".repeat(n));
        format!("{list}.all(a, {list}.all(b, a + b == 2))")
    };
    assert_eq!(evaluate(&folded(200), &facts(&[])), Ok(true));
    assert!(compile(&folded(400)).unwrap_err().problem.contains("too long"));
}

#[test]
fn what_fails_when_it_is_evaluated() {
    let facts = facts(&[("key", "hunter2")]);
    for (text, column, problem) in [
        (
            "true && evidence.consent",
            18,
            "`consent` was not submitted: ask has(evidence.consent)",
        ),
        ("evidence[\"consent\"]", 10, "was not submitted"),
        ("evidence.volume_per_day / 0 == 1", 1, "divides by zero"),
        (
            "evidence.volume_per_day + 9223372036854775807 > 0",
            1,
            "too large",
        ),
        ("int(evidence.key) == 1", 1, "cannot make anything"),
        ("{'a': true}[evidence.key]", 1, "a key that is not there"),
        (
            "endpoint.labels[evidence.key] == ''",
            1,
            "a key that is not there",
        ),
        ("[true][evidence.volume_per_day]", 1, "an item that is not there"),
        ("[evidence.key, 1][0] > 1", 1, "types do not go"),
        ("[evidence.key, 1][0]", 1, "is of type string"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('24h') > now", 1, ""),
        ("[evidence.key, 1][0] && true", 1, ""),
    ] {
        let error = evaluate(text, &facts).expect_err(text);
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(!error.problem.contains("hunter2"), "{text}: {error}");
        assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
    }
    let mut huge = facts.clone();
    huge.endpoint.addresses = (0..20_000).map(|i| i.to_string()).collect();
    let text = "endpoint.addresses.exists(a, endpoint.addresses.exists(b, a + b == ''))";
    assert_eq!(evaluate(text, &facts), Ok(false));
    assert!(
        evaluate(text, &huge)
            .unwrap_err()
            .problem
            .contains("too long for this endpoint")
    );
    assert_eq!(
        evaluate("endpoint.addresses.exists(a, a == '19999')", &huge),
        Ok(true)
    );
    let mut extreme = facts.clone();
    (extreme.now, extreme.lease, extreme.endpoint.age) = (u64::MAX, u64::MAX, u64::MAX);
    for text in [
        "now > timestamp('2026-11-27T00:00:00Z')",
        "endpoint.age + request.lease > duration('1h')",
    ] {
        let _ = evaluate(text, &extreme);
    }
}

fn words() -> impl Strategy<Value = String> {
    let words = [
        "endpoint",
        "evidence",
        "checks",
        "unlocks",
        "now",
        "tenant",
        "request",
        ".",
        ".",
        "labels",
        "age",
        "addresses",
        "volume_per_day",
        "purpose",
        "banner",
        "passed",
        "web",
        "active",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "1",
        "2u",
        "1.5",
        "0x1f",
        "-9223372036854775808",
        "true",
        "null",
        "\"x\"",
        "'a'",
        "r'\\d'",
        "b'x'",
        "\"\"\"",
        "'''",
        "\\",
        "\"720h\"",
        "duration(",
        "timestamp(",
        "matches(",
        "has(",
        ".exists(x,",
        ".map(y,",
        ".all(x,",
        ".filter(a,",
        ".exists_one(b,",
        "x",
        "y",
        "size(",
        "string(",
        "int(",
        "\n",
        "//",
        "ä",
        "`",
        "as",
        "for",
        ".getHours()",
        "99999999999999999999",
        "1e999",
        "\"\\u00e4\"",
        "optional.of(",
        "math.",
        "google.protobuf.Any{",
        ".?",
        "[?",
        "\u{0}",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..24).prop_map(|w| w.join(" "))
}

/// Expressions that are well-formed for the most part.
fn trees() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "true",
        "1",
        "-1",
        "9223372036854775807",
        "'x'",
        "1.5",
        "[]",
        "{}",
        "evidence.purpose",
        "evidence.volume_per_day",
        "evidence.consent",
        "evidence.since",
        "endpoint.age",
        "endpoint.labels.x",
        "endpoint.labels",
        "endpoint.addresses",
        "now",
        "request.lease",
        "duration('2562047h')",
        "timestamp('9999-12-31T23:59:59Z')",
        "checks.banner.passed",
        "unlocks.web.revocations",
        "null",
        "b'\\xff'",
        "1u",
        "tenant",
    ])
    // Of one list with something else, so that the type is not known and it is evaluated whatever it is.
    .prop_map(|leaf| match leaf {
        "x" => leaf.to_string(),
        _ => format!("[{leaf}, {}][0]", if leaf == "null" { "1" } else { "null" }),
    });
    leaf.prop_recursive(5, 40, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            (
                pair.clone(),
                proptest::sample::select(vec![
                    "&&", "||", "==", "!=", "<", ">=", "+", "-", "*", "/", "%", "in",
                ])
            )
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (
                pair.clone(),
                proptest::sample::select(vec!["exists", "all", "map", "filter", "exists_one"])
            )
                .prop_map(|((a, b), fold)| format!("{a}.{fold}(x, x == {b})")),
            (
                inner.clone(),
                proptest::sample::select(vec![
                    "size",
                    "string",
                    "int",
                    "uint",
                    "double",
                    "bool",
                    "duration",
                    "timestamp",
                    "!",
                    "-",
                ])
            )
                .prop_map(|(a, f)| format!("{f}({a})")),
            (
                inner.clone(),
                proptest::sample::select(vec![
                    "getHours()",
                    "getFullYear()",
                    "getDayOfYear()",
                    "getMilliseconds()",
                    "getHours('Europe/Berlin')",
                    "contains('a')",
                    "getMonth('x')",
                ])
            )
                .prop_map(|(a, f)| format!("{a}.{f}")),
            pair.clone().prop_map(|(a, b)| format!("{a}[{b}]")),
            pair.clone().prop_map(|(a, b)| format!("[{a}, {b}]")),
            pair.clone().prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (pair, inner).prop_map(|((a, b), c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn anything_is_compiled_or_refused(text in prop_oneof![".{0,60}", "[ -~]{0,60}", words()]) {
        if let Ok(expression) = compile(&text) {
            let _ = expression.evaluate(&facts(&[]));
        }
    }

    #[test]
    fn what_is_compiled_is_evaluated_or_an_error(text in trees()) {
        match compile(&text) {
            Ok(expression) => {
                let _ = expression.evaluate(&facts(&[("since", "2026-11-27")]));
            }
            Err(error) => {
                prop_assert!(error.line == 1 && error.column <= text.len() + 1, "{}: {}", text, error);
            }
        }
    }
}

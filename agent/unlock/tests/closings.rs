//! Closings that are made while something else becomes of the ledger.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use portcullis_policy::{Document, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::evidence;
use portcullis_unlock::ledger::{Judgement, Ledger, Request, State};

const DOCUMENT: &str = r#"
version: portcullis/v1
endpoints:
  a: {}
programs:
  base:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    lease: {default: 60s, max: 900s, renewable: true}
    quarantine: 40s
    limits: {cooldown_after_revoke: [20s]}
  built:
    opens: [{direction: egress, protocol: tcp, ports: [465]}]
    needs: [base]
    lease: {default: 500s, notice: 100s}
"#;

fn at(seconds: u64) -> Moment {
    Moment {
        wall_ms: 1_800_000_000_000 + i64::try_from(seconds).unwrap() * 1000,
        boot_ms: seconds * 1000,
        boot: 1,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Requested, and its checks pass.
fn grant(ledger: &mut Ledger, document: &Document, id: &str, program: &str, now: &Moment) {
    let rules = &document.programs[program];
    let read = evidence::parse(rules, &BTreeMap::new()).unwrap();
    let request = Request {
        id: name(id),
        program: name(program),
        endpoint: name("a"),
        tenant: String::new(),
        opens: evidence::rules(rules, program, &read).unwrap(),
        evidence: read,
        lease_seconds: None,
        by: "somebody".to_string(),
    };
    ledger.request(document, request, now).unwrap();
    let holds = Judgement::Holds { manual: false };
    ledger.judged(document, &name(id), Vec::new(), &holds, now);
    assert!(ledger.get(id).unwrap().is_open(now));
}

fn open(ledger: &Ledger) -> Vec<String> {
    let open = ledger.iter().filter(|unlock| unlock.state.is_open());
    open.map(|unlock| unlock.id.to_string()).collect()
}

#[test]
fn a_closing_holds_over_a_renewal_that_was_on_its_way() {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let mut before = Ledger::default();
    grant(&mut before, &document, "u-base", "base", &at(0));
    grant(&mut before, &document, "u-built", "built", &at(0));
    let mut renewed = before.clone();
    let base = name("u-base");
    renewed
        .renew(&document, &base, Some(900), ("somebody", false), &at(5))
        .unwrap();
    let mut closed = before.clone();
    let closings = closed
        .revoke(&document, &base, ("complaints", true), "operator", &at(5))
        .unwrap();
    assert!(open(&closed).is_empty());
    let mut both = renewed.clone();
    assert!(both.overlay(&document, &closings, &at(6)).is_empty());
    assert_eq!(both.grants(), closed.grants());
    let unlock = both.get("u-base").unwrap();
    assert_eq!(
        (unlock.state, unlock.reason.as_str()),
        (State::Revoked, "complaints")
    );
    assert!(unlock.revision > renewed.get("u-base").unwrap().revision);
}

#[test]
fn what_was_granted_meanwhile_ends_with_what_it_needs() {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let mut before = Ledger::default();
    grant(&mut before, &document, "u-base", "base", &at(0));
    let mut granted = before.clone();
    grant(&mut granted, &document, "u-built", "built", &at(5));
    let closings = before
        .revoke(
            &document,
            &name("u-base"),
            ("complaints", false),
            "operator",
            &at(5),
        )
        .unwrap();
    assert_eq!(closings.len(), 1);
    let ended = granted.overlay(&document, &closings, &at(6));
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].unlock.id.as_str(), "u-built");
    assert!(open(&granted).is_empty() && granted.grants().is_empty());
}

#[test]
fn time_closes_without_lifting_anything() {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let mut ledger = Ledger::default();
    grant(&mut ledger, &document, "u-base", "base", &at(0));
    grant(&mut ledger, &document, "u-built", "built", &at(0));
    ledger
        .revoke(
            &document,
            &name("u-base"),
            ("complaints", true),
            "operator",
            &at(1),
        )
        .unwrap();
    let quarantined = ledger.grants().clone();
    assert!(!quarantined.is_empty());
    // The quarantine is over at 41 s. Closing does not end it; what is stored first does.
    assert!(ledger.tick_closing(&document, &at(100)).is_empty());
    assert_eq!(*ledger.grants(), quarantined);
    let lifted = ledger.tick_rest(&at(100));
    assert_eq!(lifted[0].action, "unlock.quarantine_over");
    assert!(ledger.grants().is_empty());

    grant(&mut ledger, &document, "u-again", "base", &at(200));
    grant(&mut ledger, &document, "u-more", "built", &at(200));
    let ended = ledger.tick_closing(&document, &at(261));
    let actions: Vec<_> = ended.iter().map(|change| change.action).collect();
    assert_eq!(actions, ["unlock.expire", "unlock.revoke"]);
    assert!(open(&ledger).is_empty() && ledger.tick(&document, &at(261)).is_empty());
}

//! Bypasses end: by either clock, with their endpoint, with its tenant; and never by a restart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_policy::{Document, GrantKind, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Bypass, Ledger};
use proptest::prelude::*;

fn at(seconds: u64) -> Moment {
    Moment {
        wall_ms: 1_000_000 + seconds as i64 * 1000,
        boot_ms: 5_000 + seconds * 1000,
        boot: 1,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn bypass(endpoint: &str, now: Moment, seconds: u64) -> Bypass {
    Bypass {
        endpoint: name(endpoint),
        reason: "is it the policy?".to_string(),
        by: "uid 0".to_string(),
        started_at: now.seconds(),
        ends: now.after(seconds),
    }
}

fn bypassed(ledger: &Ledger, endpoint: &str, now: Moment) -> bool {
    let grants = ledger.grants_at(&now);
    let grants = grants.get(endpoint);
    grants.is_some_and(|grants| grants.iter().any(|grant| grant.kind == GrantKind::Bypass))
}

fn document(endpoints: &[(&str, &str)]) -> Document {
    let mut text = "version: portcullis/v1\nendpoints:\n".to_string();
    for (endpoint, tenant) in endpoints {
        text += &format!("  {endpoint}: {{labels: {{tenant: {tenant}}}}}\n");
    }
    Document::from_yaml(&text).unwrap()
}

#[test]
fn one_is_started_replaced_and_ended() {
    let mut ledger = Ledger::default();
    ledger.start_bypass(bypass("a", at(0), 60), 2).unwrap();
    ledger.start_bypass(bypass("b", at(0), 600), 2).unwrap();
    let refused = ledger.start_bypass(bypass("c", at(0), 60), 2).unwrap_err();
    assert_eq!(refused.limit, 2);
    // Another one in its place is no more than there may be.
    ledger.start_bypass(bypass("a", at(30), 60), 2).unwrap();
    assert!(bypassed(&ledger, "a", at(89)) && !bypassed(&ledger, "a", at(90)));
    assert_eq!(ledger.next_ms(&at(30)), Some(60_000));
    let before = ledger.clone();
    assert!(ledger.end_bypass(&name("a")) && !ledger.end_bypass(&name("a")));
    let changes = ledger.bypasses_since(&before);
    assert!(changes.len() == 1 && !changes[0].started && !changes[0].expired(&at(31)));
    assert!(!bypassed(&ledger, "a", at(31)) && bypassed(&ledger, "b", at(31)));

    let before = ledger.clone();
    assert!(ledger.tick_closing(&Document::default(), &at(599)).is_empty());
    assert!(bypassed(&ledger, "b", at(599)));
    ledger.tick_closing(&Document::default(), &at(600));
    assert!(ledger.bypasses().is_empty() && ledger.grants().is_empty());
    assert!(ledger.bypasses_since(&before)[0].expired(&at(600)));
}

#[test]
fn it_ends_with_its_endpoint_and_with_its_tenant() {
    let before = document(&[("a", "acme"), ("b", "acme"), ("c", "acme")]);
    let after = document(&[("b", "other"), ("c", "acme")]);
    let mut ledger = Ledger::default();
    for endpoint in ["a", "b", "c"] {
        ledger.start_bypass(bypass(endpoint, at(0), 60), 3).unwrap();
    }
    ledger.end_bypasses_with(&before, &after);
    let left: Vec<&str> = ledger.bypasses().keys().map(|name| name.as_str()).collect();
    assert_eq!(left, ["c"]);
}

proptest! {
    /// Whatever becomes of the clocks, by jumps, restarts of the agent and of the machine, one holds for no longer than it
    /// was given while the machine runs.
    #[test]
    fn no_restart_and_no_jump_prolongs_it(
        seconds in 1u64..7200,
        steps in proptest::collection::vec((0u64..600, -100_000i64..100_000, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let mut now = at(0);
        let mut ledger = Ledger::default();
        ledger.start_bypass(bypass("a", now, seconds), 1).unwrap();
        let mut ran = 0;
        for (step, jump, agent, machine) in steps {
            now.wall_ms += step as i64 * 1000 + jump;
            now.boot_ms += step * 1000;
            ran += step;
            let seen = now;
            if machine {
                now.boot += 1;
                now.boot_ms = 1;
            }
            if agent || machine {
                let held: Vec<Bypass> = ledger.bypasses().values().map(|b| Bypass::clone(b)).collect();
                ledger = Ledger::default();
                ledger.restore_bypasses(held, &seen, &now);
            }
            if ran >= seconds {
                prop_assert!(!bypassed(&ledger, "a", now));
            }
        }
    }
}

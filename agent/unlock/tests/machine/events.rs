//! The policy that histories begin with, and what may happen in one.

use proptest::prelude::*;

pub const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587, 2525]}
endpoints:
  a: {addresses: [192.0.2.1], labels: {tenant: t, paid: "yes"}}
  b: {addresses: [192.0.2.11], labels: {tenant: t, paid: "yes"}}
programs:
  base:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    checks: [{kind: banner, port: 25}]
    require: endpoint.labels.paid == "yes"
    approval: automatic
    lease: {default: 60s, max: 200s, renewable: true, recheck_every: 30s, grace: 10s}
    limits: {per_endpoint: 2, cooldown_after_revoke: [20s, 60s]}
    quarantine: 40s
    follow_up: [after]
  built:
    opens: [{direction: egress, protocol: tcp, ports: [465]}]
    needs: [base]
    lease: {default: 500s}
  after:
    opens: [{direction: egress, protocol: tcp, ports: [587]}]
    approval: manual
    lease: {default: 90s}
"#;
pub const PORTS: [(&str, u16); 4] = [("base", 25), ("base", 2525), ("built", 465), ("after", 587)];
pub const PROGRAMS: [&str; 3] = ["base", "built", "after"];
/// The addresses that each endpoint may get; the last one is a prefix, which nobody can check.
pub const ADDRESSES: [[&str; 3]; 2] = [
    ["192.0.2.1", "192.0.2.2", "2001:db8:1::/64"],
    ["192.0.2.11", "192.0.2.12", "2001:db8:2::/64"],
];
/// How the program `base` may be changed.
pub const VARIANTS: [&[(&str, &str)]; 13] = [
    &[],
    &[("ports: [25]}]", "ports: [2525]}]")],
    &[("approval: automatic", "approval: manual")],
    &[("default: 60s, max: 200s", "default: 20s, max: 30s")],
    &[("kind: banner, port: 25", "kind: banner, port: 26")],
    &[("paid == \"yes\"", "paid == \"no\"")],
    &[
        ("ports: [25]}]", "ports: [2525]}]"),
        ("approval: automatic", "approval: manual"),
    ],
    &[
        ("ports: [25]}]", "ports: [25, 2525]}]"),
        ("kind: banner, port: 25", "kind: banner, port: 26"),
        (
            "approval: automatic",
            "approval: {manual_if: 'endpoint.labels.paid == \"yes\"'}",
        ),
    ],
    &[("approval: automatic", "approval: automatic\n    scope: all")],
    &[("approval: automatic", "approval: manual\n    scope: all")],
    &[
        ("approval: automatic", "approval: automatic\n    scope: all"),
        ("kind: banner, port: 25", "kind: banner, port: 26"),
    ],
    &[(
        "paid == \"yes\"",
        "paid == \"yes\" && now < timestamp(\"2027-01-15T08:05:00Z\")",
    )],
    &[(
        "paid == \"yes\"",
        "paid == \"yes\" && !unlocks.after.active && unlocks.after.revocations == 0",
    )],
];
/// The variant that holds for a time.
pub const TIMED: usize = 11;

#[derive(Debug, Clone)]
pub enum Event {
    Request(usize, usize, Option<u64>),
    /// Checks of the nth unlock under way begin.
    Ask(usize),
    /// They end, those that began last or all in one moment.
    Judge(usize, u8),
    Approve(usize),
    Reject(usize),
    Renew(usize, Option<u64>),
    Release(usize),
    Revoke(usize, bool),
    /// True seconds that go by; the clock is looked at behind them.
    Wait(u64),
    /// The wall clock is set forward by this many seconds, or back if negative.
    Jump(i64),
    /// The agent starts again; with the machine, and so long away.
    Restart(Option<u64>),
    /// An endpoint goes and comes back.
    Bounce(usize),
    /// It has paid, or has not.
    Label(usize, bool),
    /// It is given to one of two tenants.
    Tenant(usize, bool),
    /// It gets other addresses.
    Addresses(usize, u8),
    /// It gets another MAC and plugs in elsewhere.
    Move(usize, u8),
    /// The program `base` becomes one of its variants.
    Program(usize),
}

/// Until when one of the variants lets anything be granted, in seconds since the Unix epoch: 300 s from the beginning.
pub const UNTIL: i64 = 1_800_000_300;

pub fn event() -> impl Strategy<Value = Event> {
    let lease = || proptest::option::of(prop_oneof![1u64..250, Just(60)]);
    prop_oneof![
        8 => (0usize..3, 0usize..2, lease()).prop_map(|(p, e, l)| Event::Request(p, e, l)),
        10 => (0usize..6, 0u8..6).prop_map(|(n, j)| Event::Judge(n, j)),
        4 => (0usize..6).prop_map(Event::Approve),
        1 => (0usize..6).prop_map(Event::Reject),
        3 => (0usize..6, lease()).prop_map(|(n, l)| Event::Renew(n, l)),
        2 => (0usize..6).prop_map(Event::Release),
        3 => (0usize..6, any::<bool>()).prop_map(|(n, q)| Event::Revoke(n, q)),
        10 => (0u64..80).prop_map(Event::Wait),
        3 => prop_oneof![-5000i64..5000, -20i64..20].prop_map(Event::Jump),
        3 => proptest::option::of(0u64..100).prop_map(Event::Restart),
        1 => (0usize..2).prop_map(Event::Bounce),
        3 => (0usize..6).prop_map(Event::Ask),
        2 => (0usize..2, any::<bool>()).prop_map(|(e, paid)| Event::Label(e, paid)),
        1 => (0usize..2, any::<bool>()).prop_map(|(e, other)| Event::Tenant(e, other)),
        3 => (0usize..2, 0u8..5).prop_map(|(e, how)| Event::Addresses(e, how)),
        1 => (0usize..2, 0u8..4).prop_map(|(e, how)| Event::Move(e, how)),
        3 => (0usize..VARIANTS.len()).prop_map(Event::Program),
    ]
}

//! No sequence of events, restarts and clock jumps gives traffic without an active lease, nor leaves traffic open that would
//! not be granted today, whatever becomes of tenants, addresses, labels and programs: judged by the reference verdict,
//! against a model that knows the true time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use portcullis_policy::{
    Approval, CheckResult, Direction, Document, Endpoint, Fragment, Frame, Grant, GrantKind, IpPacket,
    L4, Name, OpenScope, Packet, PortRange, Verdict, View, effective,
};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{
    Basis, Change, Checked, Ledger, Request, State, StrikeKey, Strikes, Unlock, notes,
};
use portcullis_unlock::{evidence, judge};
use proptest::prelude::*;

const DOCUMENT: &str = r#"
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
const PORTS: [(&str, u16); 4] = [("base", 25), ("base", 2525), ("built", 465), ("after", 587)];
const PROGRAMS: [&str; 3] = ["base", "built", "after"];
/// The addresses that each endpoint may get; the last one is a prefix, which nobody can check.
const ADDRESSES: [[&str; 3]; 2] = [
    ["192.0.2.1", "192.0.2.2", "2001:db8:1::/64"],
    ["192.0.2.11", "192.0.2.12", "2001:db8:2::/64"],
];
/// How the program `base` may be changed.
const VARIANTS: [&[(&str, &str)]; 12] = [
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
];
/// The variant that holds for a time.
const TIMED: usize = 11;

#[derive(Debug, Clone)]
enum Event {
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
    /// The wall clock is set by so many seconds.
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
const UNTIL: i64 = 1_800_000_300;

fn event() -> impl Strategy<Value = Event> {
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

/// What the model knows of a lease: true time, whatever clocks say.
#[derive(Debug, Clone, Copy)]
struct Lease {
    /// True seconds at which it ends at the latest: as long as the machine ran, and somebody could know.
    ends: u64,
    /// What the wall clock says then.
    wall_ends: i64,
    began: u64,
    /// What the wall clock said then.
    wall_began: i64,
}

struct World {
    document: Document,
    ledger: Ledger,
    /// True seconds in which the machine ran.
    ran: u64,
    wall: i64,
    booted: u64,
    boot: u128,
    seen: Moment,
    ids: u32,
    leases: BTreeMap<String, Lease>,
    quarantines: BTreeMap<String, u64>,
    stored: BTreeMap<Name, Unlock>,
    variant: usize,
    /// When the clock was looked at last.
    looked: Moment,
    /// Since when by true time `now` has been past what a program requires, whatever the wall clock said meanwhile.
    late: Option<u64>,
    /// Checks that began: what they are about, and the addresses.
    asked: BTreeMap<Name, (Basis, BTreeSet<String>)>,
    /// Addresses for which checks of an unlock passed.
    judged: BTreeMap<Name, BTreeSet<String>>,
    /// What a person approved: ports, and whether it was for everything that the endpoint has.
    approved: BTreeMap<Name, (Vec<PortRange>, bool)>,
}

impl World {
    fn new() -> Self {
        let document = Document::from_yaml(DOCUMENT).unwrap();
        let mut world = World {
            document,
            ledger: Ledger::default(),
            ran: 1000,
            wall: 1_800_000_000,
            booted: 0,
            boot: 1,
            seen: Moment {
                wall_ms: 0,
                boot_ms: 0,
                boot: 1,
            },
            ids: 0,
            leases: BTreeMap::new(),
            quarantines: BTreeMap::new(),
            stored: BTreeMap::new(),
            variant: 0,
            looked: Moment {
                wall_ms: 0,
                boot_ms: 0,
                boot: 0,
            },
            late: None,
            asked: BTreeMap::new(),
            judged: BTreeMap::new(),
            approved: BTreeMap::new(),
        };
        let empty = Document::default();
        let now = world.now();
        assert!(world.ledger.follow(&empty, &world.document, &now).is_empty());
        world.seen = world.now();
        world
    }

    fn now(&self) -> Moment {
        Moment {
            wall_ms: self.wall * 1000,
            boot_ms: (self.ran - self.booted) * 1000,
            boot: self.boot,
        }
    }

    fn nth(&self, n: usize) -> Option<std::sync::Arc<Unlock>> {
        self.ledger.iter().nth(n).cloned()
    }

    /// What a commit stores, and what it means for the model.
    fn note(&mut self, changes: Vec<Change>) {
        for change in changes {
            let unlock = &change.unlock;
            let begins = change.action == "unlock.activate" && unlock.state == State::Active;
            if begins || change.action == "unlock.renew" {
                let lease = Lease {
                    ends: self.ran + unlock.lease_seconds,
                    wall_ends: self.wall + unlock.lease_seconds as i64,
                    began: self.ran,
                    wall_began: self.wall,
                };
                self.leases.insert(unlock.id.to_string(), lease);
            }
            if change.action == "unlock.revoke" && unlock.quarantine.is_some() {
                self.quarantines.insert(unlock.id.to_string(), self.ran + 40);
            }
            self.stored.insert(unlock.id.clone(), Unlock::clone(unlock));
        }
        self.seen = self.now();
    }

    fn request(&mut self, program: usize, endpoint: usize, lease_seconds: Option<u64>) {
        self.ids += 1;
        let program: Name = PROGRAMS[program].parse().unwrap();
        let tenant = self.tenant(["a", "b"][endpoint]);
        let evidence = evidence::parse(&self.document.programs[&program], &BTreeMap::new()).unwrap();
        let opens = evidence::rules(&self.document.programs[&program], program.as_str(), &evidence).unwrap();
        let request = Request {
            id: format!("u-{}", self.ids).parse().unwrap(),
            program,
            endpoint: ["a", "b"][endpoint].parse().unwrap(),
            tenant,
            evidence,
            opens,
            lease_seconds,
            by: "tenant".to_string(),
        };
        let now = self.now();
        if let Ok(change) = self.ledger.request(&self.document, request, &now) {
            self.note(vec![change]);
        }
    }

    fn tenant(&self, endpoint: &str) -> String {
        self.document.endpoints[endpoint].labels["tenant"].clone()
    }

    fn addresses(&self, endpoint: &str) -> BTreeSet<String> {
        let addresses = &self.document.endpoints[endpoint].addresses;
        addresses.iter().map(ToString::to_string).collect()
    }

    fn ask(&mut self, unlock: &Unlock) {
        if let Some(basis) = Basis::new(&self.document, unlock) {
            let addresses = self.addresses(unlock.endpoint.as_str());
            self.asked.insert(unlock.id.clone(), (basis, addresses));
        }
    }

    /// Checks end: those that began before, or else in this moment.
    fn judge(&mut self, unlock: &Unlock, how: u8) {
        let now = self.now();
        if !self.asked.contains_key(&unlock.id) {
            self.ask(unlock);
        }
        let Some((basis, addresses)) = self.asked.remove(&unlock.id) else {
            return;
        };
        let result = match how {
            0 => CheckResult::Failed,
            1 | 3 => CheckResult::Undetermined,
            _ => CheckResult::Passed,
        };
        let made = &self.document.programs[&unlock.program].checks;
        let checks = made.iter().map(|check| Checked {
            name: check.name().to_string(),
            kind: "banner".to_string(),
            result,
            detail: "as it is".to_string(),
            at: now.seconds(),
            not_made: how == 3,
        });
        let checks = checks.collect();
        if result == CheckResult::Passed {
            self.judged
                .entry(unlock.id.clone())
                .or_default()
                .extend(addresses);
        }
        let changes = self
            .ledger
            .checked(&self.document, &unlock.id, &basis, checks, &now);
        self.note(changes);
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Document)) {
        let before = self.document.clone();
        edit(&mut self.document);
        let now = self.now();
        let changes = self.ledger.follow(&before, &self.document, &now);
        self.note(changes);
    }

    fn edit_endpoint(&mut self, endpoint: usize, edit: impl FnOnce(&mut Endpoint)) {
        self.edit(|document| {
            let endpoint = document.endpoints.get_mut(["a", "b"][endpoint]).unwrap();
            edit(Arc::make_mut(endpoint));
        });
    }

    fn vary(&mut self, variant: usize) {
        self.variant = variant;
        self.alter(VARIANTS[variant]);
    }

    /// Gives the programs as they are in the document, with some texts in place of others.
    fn alter(&mut self, texts: &[(&str, &str)]) {
        let text = texts.iter().fold(DOCUMENT.to_string(), |text, (from, to)| {
            text.replacen(from, to, 1)
        });
        let programs = Document::from_yaml(&text).unwrap().programs;
        self.edit(|document| document.programs = programs);
    }

    fn tick(&mut self) {
        let now = self.now();
        let mut changes = self.ledger.tick(&self.document, &now);
        let more = self.ledger.tick_required(&self.document, &self.looked, &now);
        changes.extend(more);
        self.looked = now;
        self.note(changes);
    }

    /// What is open when all has ended whose time has come, and what needs it.
    fn now_open(&self) -> OrdMap<Name, Arc<Vec<Grant>>> {
        let mut ledger = self.ledger.clone();
        ledger.tick(&self.document, &self.now());
        ledger.grants().clone()
    }

    fn restart(&mut self, with_machine: Option<u64>) {
        if let Some(away) = with_machine {
            // While the machine is off only the wall clock goes on.
            self.wall += away as i64;
            self.boot += 1;
            self.booted = self.ran;
        }
        let live = self
            .stored
            .values()
            .filter(|u| !u.state.has_ended() || u.quarantine.is_some());
        let text = serde_json::to_string(&live.collect::<Vec<_>>()).unwrap();
        let live: Vec<Unlock> = serde_json::from_str(&text).unwrap();
        let strikes: Vec<(StrikeKey, Strikes)> = self
            .ledger
            .all_strikes()
            .map(|(key, strikes)| (key.clone(), *strikes))
            .collect();
        let now = self.now();
        let names = self.document.endpoints.keys().cloned();
        let since: Vec<(Name, i64)> = names
            .map(|name| (name.clone(), self.ledger.since(name.as_str()).unwrap()))
            .collect();
        self.ledger = Ledger::restore(live, strikes, since, &self.seen, &now);
        let open = self.now_open();
        let changes = self.ledger.follow_all(&self.document, &now);
        assert_eq!(self.now_open(), open, "a restart changes no row");
        for change in changes {
            self.stored
                .insert(change.unlock.id.clone(), Unlock::clone(&change.unlock));
        }
        for unlock in self.ledger.iter() {
            self.stored.insert(unlock.id.clone(), Unlock::clone(unlock));
        }
        self.seen = now;
        self.document.grants = self.ledger.grants_at(&now);
        self.check();
    }

    fn bounce(&mut self, endpoint: usize) {
        let name: Name = ["a", "b"][endpoint].parse().unwrap();
        let was = self.document.endpoints[&name].clone();
        self.edit(|document| drop(document.endpoints.remove(&name)));
        let left = self.ledger.grants().get(&name);
        assert!(left.is_none_or(|grants| grants.iter().all(|grant| grant.kind == GrantKind::Quarantine)));
        self.edit(|document| drop(document.endpoints.insert(name, was)));
    }

    fn apply(&mut self, event: &Event) {
        let now = self.now();
        match event {
            Event::Request(program, endpoint, lease) => self.request(*program, *endpoint, *lease),
            Event::Judge(n, how) => {
                if let Some(unlock) = self.nth(*n) {
                    self.judge(&unlock, *how);
                }
            }
            Event::Wait(seconds) => {
                self.ran += seconds;
                self.wall += *seconds as i64;
            }
            Event::Jump(seconds) => self.wall += seconds,
            Event::Restart(with_machine) => self.restart(*with_machine),
            Event::Bounce(endpoint) => self.bounce(*endpoint),
            Event::Ask(n) => {
                if let Some(unlock) = self.nth(*n) {
                    self.ask(&unlock);
                }
            }
            Event::Label(endpoint, paid) => self.edit_endpoint(*endpoint, |endpoint| {
                let paid = if *paid { "yes" } else { "no" };
                endpoint.labels.insert("paid".to_string(), paid.to_string());
            }),
            Event::Tenant(endpoint, other) => {
                let tenant = if *other { "u" } else { "t" };
                self.edit_endpoint(*endpoint, |endpoint| {
                    endpoint.labels.insert("tenant".to_string(), tenant.to_string());
                });
                // Another tenant has nothing to do with it.
                let name = ["a", "b"][*endpoint];
                let stored = &self.stored;
                self.quarantines.retain(|id, _| {
                    let unlock = &stored[&id.parse::<Name>().unwrap()];
                    unlock.endpoint.as_str() != name || unlock.tenant == tenant
                });
            }
            Event::Addresses(endpoint, how) => {
                let all = ADDRESSES[*endpoint];
                let chosen = match how {
                    0 => &all[..1],
                    1 => &all[..2],
                    2 => &all[1..2],
                    3 => &all[1..],
                    _ => &all[2..],
                };
                self.edit_endpoint(*endpoint, |endpoint| {
                    endpoint.addresses = chosen.iter().map(|text| text.parse().unwrap()).collect();
                });
            }
            Event::Move(endpoint, how) => self.edit_endpoint(*endpoint, |endpoint| {
                endpoint.macs = vec![format!("02:00:00:00:00:0{how}").parse().unwrap()];
            }),
            Event::Program(variant) => self.vary(*variant),
            Event::Approve(n)
            | Event::Reject(n)
            | Event::Release(n)
            | Event::Renew(n, _)
            | Event::Revoke(n, _) => {
                let Some(unlock) = self.nth(*n) else { return };
                let (id, document) = (&unlock.id, &self.document);
                let changes = match event {
                    Event::Approve(_) => {
                        let changes = self.ledger.approve(document, id, "", "operator", &now);
                        if changes.is_ok() {
                            let ports = unlock.opens.iter().flat_map(|rule| rule.ports.clone());
                            let all = document.programs[&unlock.program].scope == OpenScope::All;
                            self.approved.insert(id.clone(), (ports.collect(), all));
                        }
                        changes
                    }
                    Event::Reject(_) => self.ledger.reject(id, "no", "operator", &now).map(|c| vec![c]),
                    Event::Release(_) => self.ledger.release(document, id, "tenant", &now),
                    Event::Revoke(_, quarantine) => {
                        self.ledger
                            .revoke(document, id, ("spam", *quarantine), "operator", &now)
                    }
                    Event::Renew(_, lease) => self
                        .ledger
                        .renew(document, id, *lease, ("tenant", false), &now)
                        .map(|c| vec![c]),
                    _ => unreachable!("the others are handled above"),
                };
                if let Ok(changes) = changes {
                    self.note(changes);
                }
            }
        }
        self.late = match self.variant == TIMED && self.wall >= UNTIL {
            true => self.late.or(Some(self.ran)),
            false => None,
        };
        self.tick();
        self.document.grants = self.ledger.grants().clone();
        self.check();
    }

    /// Whether the model lets an unlock open a port for an address now.
    fn grantable(&self, unlock: &Unlock, port: u16, address: &str) -> bool {
        let endpoint = &self.document.endpoints[&unlock.endpoint];
        let program = &self.document.programs[&unlock.program];
        let Some(lease) = self.leases.get(unlock.id.as_str()) else {
            return false;
        };
        let longest = program.lease.longest().as_seconds();
        let in_time = self.ran < lease.ends.min(lease.began + longest)
            && self.wall < lease.wall_ends.min(lease.wall_began + longest as i64);
        let wanted = if self.variant == 5 { "no" } else { "yes" };
        let late = self.late.is_some_and(|since| self.ran >= since + 60);
        let paid = unlock.program.as_str() != "base" || endpoint.labels["paid"] == wanted && !late;
        let opens = program.opens.iter().any(|opening| {
            let within = |range: &PortRange| range.low <= port && port <= range.high;
            opening.ports.iter().any(within)
        });
        // Of a prefix nothing can be checked.
        let is_prefix = address.contains("::/");
        let scope = program.scope == OpenScope::All;
        let judged = program.checks.is_empty()
            || self
                .judged
                .get(&unlock.id)
                .is_some_and(|addresses| addresses.contains(address) && (scope || !is_prefix));
        let manual = program.approval == Approval::Manual;
        let person = self.approved.get(&unlock.id).is_some_and(|(ports, all)| {
            let within = |range: &PortRange| range.low <= port && port <= range.high;
            let checked = program.checks.is_empty() || !is_prefix;
            ports.iter().any(within) && (*all || checked)
        });
        unlock.state.is_open()
            && in_time
            && unlock.tenant == self.tenant(unlock.endpoint.as_str())
            && paid
            && opens
            && judged
            && (person || !manual)
    }

    /// Compares what passes with what the model says may pass.
    fn check(&self) {
        for endpoint in ["a", "b"] {
            let name: Name = endpoint.parse().unwrap();
            let Some(body) = self.document.endpoints.get(&name) else {
                continue;
            };
            let policy = effective(&self.document, endpoint, body, Direction::Egress);
            let addresses = self.addresses(endpoint);
            for ((program, port), address) in PORTS
                .into_iter()
                .flat_map(|one| addresses.iter().map(move |address| (one, address)))
            {
                let passes = policy.judge(&packet(port, address), View::FULL).0 == Verdict::Allow;
                let of = |u: &&Unlock| u.endpoint == name && u.program.as_str() == program;
                let granted = self
                    .stored
                    .values()
                    .filter(of)
                    .any(|unlock| self.grantable(unlock, port, address));
                assert!(
                    !passes || granted,
                    "port {port} of {endpoint} is open for {address}, which would not be granted: {:#?}",
                    self.ledger
                );
                let locked = self.stored.values().filter(of).any(|unlock| {
                    let until = self.quarantines.get(unlock.id.as_str());
                    let denies = unlock
                        .opens
                        .iter()
                        .flat_map(|rule| &rule.ports)
                        .any(|p| p.low == port);
                    unlock.state == State::Revoked && denies && until.is_some_and(|until| self.ran < *until)
                });
                assert!(
                    !passes || !locked,
                    "port {port} of {endpoint} is open in quarantine"
                );
            }
            let is_open = |program: &str| {
                self.ledger
                    .of_endpoint(endpoint)
                    .any(|u| u.program.as_str() == program && u.state.is_open())
            };
            assert!(
                !is_open("built") || is_open("base"),
                "what it is built on has ended"
            );
            let of_base = self
                .ledger
                .of_endpoint(endpoint)
                .filter(|u| u.program.as_str() == "base");
            assert!(
                of_base.filter(|u| !u.state.has_ended()).count() <= 2,
                "more than per_endpoint allows"
            );
        }
        // What a restart would take up is what there is.
        for unlock in self.ledger.iter() {
            assert_eq!(self.stored.get(&unlock.id), Some(&**unlock));
        }
    }
}

/// A SYN to a port of somebody.
fn packet(port: u16, local: &str) -> Packet {
    let local: IpAddr = local.split('/').next().unwrap().parse().unwrap();
    let remote = match local {
        IpAddr::V4(_) => "198.51.100.1",
        IpAddr::V6(_) => "2001:db8:ffff::1",
    };
    Packet {
        frame: Frame::Ip(IpPacket {
            local,
            remote: remote.parse().unwrap(),
            protocol: Some(6),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: 40_000,
                dst: port,
                flags: portcullis_policy::TCP_SYN,
            },
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_open_that_would_not_be_granted(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
    }
}

#[test]
fn a_life_from_request_to_end() {
    let mut world = World::new();
    world.request(0, 0, None);
    let state = |world: &World| {
        world
            .stored
            .values()
            .map(|u| (u.program.to_string(), u.state))
            .collect::<Vec<_>>()
    };
    assert_eq!(state(&world), [("base".to_string(), State::Checking)]);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    // Granted, and the request that follows it is there.
    assert!(state(&world).contains(&("base".to_string(), State::Active)));
    assert!(state(&world).contains(&("after".to_string(), State::Checking)));
    world.request(1, 0, None);
    let built = world
        .ledger
        .iter()
        .find(|u| u.program.as_str() == "built")
        .cloned()
        .unwrap();
    world.judge(&built, 5);
    world.apply(&Event::Wait(55));
    assert!(state(&world).contains(&("base".to_string(), State::Expiring)));
    world.apply(&Event::Wait(5));
    assert!(state(&world).contains(&("base".to_string(), State::Expired)));
    // What is built on it ends with it.
    assert!(state(&world).contains(&("built".to_string(), State::Revoked)));
    assert_eq!(world.ledger.grants().len(), 0);
}

#[test]
fn a_failing_check_is_borne_for_its_grace_and_revocations_cool_down() {
    let mut world = World::new();
    world.request(0, 0, None);
    let id = world.nth(0).unwrap();
    world.judge(&id, 5);
    world.apply(&Event::Wait(30));
    assert!(world.ledger.to_check(&world.now()).contains(&id.id));
    world.judge(&id, 0);
    assert!(world.ledger.get(id.id.as_str()).unwrap().failing.is_some());
    world.apply(&Event::Wait(9));
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    world.apply(&Event::Wait(1));
    // The grace is over; one answer, and two, are no proof.
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    assert!(
        world.ledger.to_check(&world.now()).contains(&id.id),
        "again after 10 s"
    );
    world.judge(&id, 0);
    assert!(!world.ledger.to_check(&world.now()).contains(&id.id));
    world.apply(&Event::Renew(0, Some(200)));
    world.apply(&Event::Wait(60));
    assert!(world.ledger.to_check(&world.now()).contains(&id.id));
    // What could not be asked is no answer.
    world.judge(&id, 3);
    assert!(world.ledger.get(id.id.as_str()).unwrap().state.is_open());
    world.judge(&id, 0);
    assert_eq!(world.stored[&id.id].state, State::Revoked);
    let stand = |world: &World| {
        let (endpoint, program) = ("a".parse().unwrap(), "base".parse().unwrap());
        let found = world
            .ledger
            .obstacles(&world.document, &endpoint, "t", &program, &world.now());
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        stand(&world),
        ["`base` was revoked on `a`, 1 time(s) so far: a new request is taken in 20s"]
    );
    // Setting the clock forward does not shorten it.
    world.apply(&Event::Jump(10_000));
    assert_eq!(stand(&world).len(), 1);
    world.apply(&Event::Wait(20));
    assert!(stand(&world).is_empty());
}

/// Why a request of the program `base` would not be taken.
fn stands(world: &World, endpoint: &str, tenant: &str) -> Vec<String> {
    let (endpoint, program) = (endpoint.parse().unwrap(), "base".parse().unwrap());
    let found = world
        .ledger
        .obstacles(&world.document, &endpoint, tenant, &program, &world.now());
    found.iter().map(ToString::to_string).collect()
}

/// A world in which `base` is active on `a`.
fn active() -> (World, Name) {
    let mut world = World::new();
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    (world, unlock.id.clone())
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_lease() {
    let (mut world, id) = active();
    world.apply(&Event::Jump(-1000));
    world.apply(&Event::Wait(59));
    assert!(world.stored[&id].state.is_open());
    world.apply(&Event::Wait(1));
    assert_eq!(world.stored[&id].state, State::Expired);
    assert_eq!(world.ledger.grants().len(), 0);
}

#[test]
fn nobody_escapes_a_revocation_by_being_quicker() {
    let (mut world, id) = active();
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    let ended = Unlock::clone(&changes[0].unlock);
    world.note(changes);
    assert!(stands(&world, "a", "t").is_empty());
    // Another one under the same program, in the meantime.
    world.request(0, 0, None);
    let next = world.nth(0).unwrap();
    world.judge(&next, 5);
    let document = world.document.clone();
    let mut tried = world.ledger.clone();
    assert!(
        tried
            .revoke_ended(&document, &ended, ("", true), "operator", &now)
            .is_err()
    );
    let changes = tried
        .revoke_ended(&document, &ended, ("spam", true), "operator", &now)
        .unwrap();
    assert_eq!(changes[0].unlock.id, id);
    assert!(changes[0].unlock.quarantine.is_some() && changes[0].unlock.ended_at == ended.ended_at);
    assert_eq!(tried.get(next.id.as_str()).map(|unlock| unlock.state), None);
    assert_eq!(
        tried
            .strikes(&"a".parse().unwrap(), &"base".parse().unwrap())
            .unwrap()
            .times,
        1
    );
    // Again, with a word more: it is counted once.
    let again = Unlock::clone(&changes[0].unlock);
    tried
        .revoke_ended(&document, &again, ("spam, twice", true), "operator", &now)
        .unwrap();
    assert_eq!(
        tried
            .strikes(&"a".parse().unwrap(), &"base".parse().unwrap())
            .unwrap()
            .times,
        1
    );
    world.ledger = tried;
    assert_eq!(stands(&world, "a", "t").len(), 1);
    assert_eq!(stands(&world, "b", "t").len(), 1, "it counts against the tenant");
    assert!(stands(&world, "b", "u").is_empty());
    // Long after, it is over.
    world.wall += 31 * 86_400;
    let now = world.now();
    let late = world
        .ledger
        .clone()
        .revoke_ended(&document, &ended, ("spam", true), "operator", &now);
    assert!(late.is_err());
}

#[test]
fn a_release_while_checks_fail_counts() {
    let (mut world, id) = active();
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 0);
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    assert_eq!(changes[0].unlock.state, State::Released);
    assert_eq!(stands(&world, "a", "t").len(), 1);
}

/// What grants open on `a`, by port.
fn open_ports(world: &World) -> Vec<u16> {
    let grants = world.ledger.grants();
    let rules = grants.get("a").into_iter().flat_map(|grants| grants.iter());
    let ports = rules.flat_map(|grant| &grant.rules).flat_map(|rule| &rule.ports);
    ports.map(|range| range.low).collect()
}

#[test]
fn a_grant_ends_with_its_endpoint_and_does_not_come_back_with_it() {
    let (mut world, id) = active();
    assert_eq!(open_ports(&world), [25]);
    world.bounce(0);
    let state = world.stored[&id].state;
    assert!(state.has_ended(), "{state:?} after its endpoint was gone");
    assert_eq!(open_ports(&world), Vec::<u16>::new());
    world.check();
}

#[test]
fn what_a_program_opens_no_more_closes_while_its_checks_are_made_again() {
    const TWO: (&str, &str) = (
        "ports: [25]}]",
        "ports: [25]}, {direction: egress, protocol: tcp, ports: [2525]}]",
    );
    let mut world = World::new();
    world.alter(&[TWO]);
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    assert_eq!(open_ports(&world), [25, 2525]);
    // Other checks alone close nothing until they are made.
    world.alter(&[TWO, ("kind: banner, port: 25", "kind: banner, port: 26")]);
    assert_eq!(open_ports(&world), [25, 2525]);
    // Other checks again, and less that is opened: the rest waits for no check.
    world.alter(&[("kind: banner, port: 25", "kind: banner, port: 27")]);
    assert_eq!(open_ports(&world), [25]);
    world.judge(&unlock, 5);
    assert_eq!(open_ports(&world), [25]);
}

#[test]
fn an_endpoint_that_is_created_again_is_quarantined_and_cools_down() {
    let (mut world, id) = active();
    let now = world.now();
    let changes = world
        .ledger
        .revoke(&world.document, &id, ("spam", true), "operator", &now)
        .unwrap();
    world.note(changes);
    let denied = world.ledger.grants().clone();
    assert!(!denied.is_empty());
    let before = world.ledger.clone();
    world.bounce(0);
    assert_eq!(*world.ledger.grants(), denied);
    assert_eq!(stands(&world, "a", "t").len(), 1);
    // What the endpoint is relieved of is stored, too, so that no restart brings it back.
    let changed = world.ledger.strikes_since(&before);
    assert_eq!(changed.len(), 1);
    assert!(changed[0].1.is_none());
    // Somebody else's server of that name is not punished.
    world.apply(&Event::Tenant(0, true));
    assert!(world.ledger.grants().is_empty());
    assert!(stands(&world, "a", "u").is_empty());
    world.apply(&Event::Tenant(0, false));
    assert_eq!(stands(&world, "a", "t").len(), 1);
}

#[test]
fn a_grant_opens_no_prefix_that_nobody_checked() {
    let mut world = World::new();
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses = ["192.0.2.1", "2001:db8:7::/64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    });
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    let own = |world: &World| {
        let unlock = world.ledger.get(unlock.id.as_str()).unwrap();
        let rules = unlock.rules();
        rules.iter().map(|rule| rule.local.clone()).collect::<Vec<_>>()
    };
    let one = vec!["192.0.2.1".parse().unwrap()];
    assert_eq!(own(&world), std::slice::from_ref(&one));
    // An address more is not checked, either.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses.push("192.0.2.2".parse().unwrap())
    });
    assert_eq!(own(&world), std::slice::from_ref(&one));
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    assert_eq!(own(&world)[0].len(), 2);
    // A prefix alone cannot be checked: nothing of it is opened, whatever a check says.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses = vec!["2001:db8:7::/64".parse().unwrap()];
    });
    assert!(own(&world).is_empty());
    world.judge(&unlock, 5);
    assert!(own(&world).is_empty() && world.ledger.grants().is_empty());
    // Where a program has no checks, everything that the endpoint has was judged.
    world.edit_endpoint(1, |endpoint| {
        endpoint.addresses = vec!["2001:db8:8::/64".parse().unwrap()]
    });
    world.request(2, 1, None);
    let after = world.ledger.of_endpoint("b").next().unwrap().clone();
    world.judge(&after, 5);
    world.apply(&Event::Approve(1));
    let after = world.ledger.of_endpoint("b").next().unwrap().clone();
    assert!(after.state.is_open() && after.local.is_none(), "{after:?}");
}

#[test]
fn scope_all_opens_what_no_check_can_be_about() {
    let both = ["192.0.2.1", "2001:db8:1::/64"].map(|text| text.parse().unwrap());
    let mut world = World::new();
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    world.request(0, 0, None);
    let id = world.nth(0).unwrap().id.clone();
    let now = |world: &World| world.ledger.get(id.as_str()).unwrap().clone();
    let said = |world: &World| notes(&now(world), &world.document);
    let prefix =
        "2001:db8:1::/64 stays closed: a prefix has too many addresses to be checked (`scope: checked`)";
    assert_eq!(said(&world), [prefix], "before it is granted");
    world.judge(&now(&world), 5);
    assert_eq!(said(&world), [prefix]);
    // The program's word is enough, where no person had to give one.
    world.vary(8);
    assert_eq!(now(&world).local, None);
    assert_eq!(said(&world), Vec::<String>::new());
    // An address more is checked first all the same.
    world.edit_endpoint(0, |endpoint| {
        endpoint.addresses.push("192.0.2.2".parse().unwrap())
    });
    assert_eq!(now(&world).local.as_deref(), Some(&both[..]));
    assert_eq!(
        said(&world),
        ["192.0.2.2 stays closed: its checks have not passed yet"]
    );
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    // Back to what is checked, also together with other checks, it closes in that commit.
    world.vary(4);
    assert_eq!(now(&world).local.as_deref(), Some(&both[..1]));
    // A person approved what was open: the prefix takes another word.
    let mut world = World::new();
    world.vary(2);
    world.edit_endpoint(0, |endpoint| endpoint.addresses = both.to_vec());
    world.request(0, 0, None);
    world.judge(&world.nth(0).unwrap(), 5);
    world.apply(&Event::Approve(0));
    assert!(world.nth(0).unwrap().state.is_open());
    world.vary(9);
    assert_eq!(world.nth(0).unwrap().state, State::AwaitingApproval);
    assert!(world.ledger.grants().is_empty());
}

#[test]
fn a_new_place_that_is_not_checked_yet_is_said() {
    let (mut world, id) = active();
    let said = |world: &World| notes(world.ledger.get(id.as_str()).unwrap(), &world.document);
    assert!(said(&world).is_empty());
    world.apply(&Event::Move(0, 1));
    assert_eq!(said(&world).len(), 1);
    assert!(said(&world)[0].contains("open at the new place"));
    world.apply(&Event::Restart(None));
    assert_eq!(said(&world).len(), 1);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 1);
    assert_eq!(said(&world).len(), 1, "nothing was found out");
    world.judge(&unlock, 5);
    assert!(said(&world).is_empty());
}

#[test]
fn a_tenant_that_makes_checks_undetermined_between_failures_wins_an_hour_at_most() {
    let (mut world, id) = active();
    world.apply(&Event::Renew(0, Some(200)));
    let mut asked = 0;
    for round in 0..200 {
        let unlock = world.ledger.get(id.as_str()).cloned();
        let Some(unlock) = unlock.filter(|unlock| unlock.state.is_open()) else {
            break;
        };
        world.apply(&Event::Renew(0, Some(200)));
        world.judge(&unlock, u8::from(round % 2 == 0));
        asked += 1;
        world.apply(&Event::Wait(30));
    }
    assert_eq!(world.stored[&id].state, State::Revoked);
    assert!((118..=122).contains(&asked), "{asked} times, 30 s apart");
}

#[test]
fn what_is_required_of_the_time_is_judged_within_a_minute() {
    let mut world = World::new();
    world.vary(TIMED);
    world.request(0, 0, Some(200));
    let unlock = world.nth(0).unwrap();
    world.wall = UNTIL - 100;
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    let left = world.ledger.next_ms(&world.now()).unwrap();
    assert!(left <= 60_000, "a deadline, no poll: {left}");
    world.apply(&Event::Wait(99));
    assert!(world.ledger.get(unlock.id.as_str()).unwrap().state.is_open());
    let revision = world.ledger.get(unlock.id.as_str()).unwrap().revision;
    // Looked at every second it is judged once a minute, and nothing is stored of that.
    for _ in 0..60 {
        world.apply(&Event::Wait(1));
        let now = world.ledger.get(unlock.id.as_str());
        assert!(now.is_none_or(|now| !now.state.is_open() || now.revision == revision));
    }
    let ended = &world.stored[&unlock.id];
    assert_eq!(ended.state, State::Revoked);
    assert!(ended.reason.contains("timestamp"), "{}", ended.reason);
    assert!(stands(&world, "a", "t").is_empty(), "it is no revocation");

    // A clock that is set does not wait for a minute.
    let mut world = World::new();
    world.vary(TIMED);
    world.request(0, 0, Some(200));
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    world.apply(&Event::Wait(0));
    world.wall = UNTIL - 5;
    world.apply(&Event::Wait(1));
    assert!(
        world
            .ledger
            .get(unlock.id.as_str())
            .is_none_or(|unlock| !unlock.state.is_open())
    );
}

#[test]
fn require_alone_is_judged_as_often_as_the_program_says() {
    let text = DOCUMENT.replace(
        "    lease: {default: 500s}",
        "    require: now < timestamp(\"2027-01-15T08:05:00Z\")\n    lease: {default: 500s, recheck_every: 20s}",
    );
    let mut world = World::new();
    world.edit(|document| document.programs = Document::from_yaml(&text).unwrap().programs);
    let by_time = |name: &str| judge::by_time(&world.document, &world.document.programs[name]);
    assert!(
        !by_time("base") && !by_time("built"),
        "the program says how often"
    );
    let (active, _) = active();
    assert!(active.ledger.iter().all(|unlock| !unlock.by_time));
    let refused = DOCUMENT.replace(
        "lease: {default: 500s}",
        "lease: {default: 500s, recheck_every: 20s}",
    );
    let refused = Document::from_yaml(&refused).unwrap_err().to_string();
    assert!(
        refused.contains("programs.built.lease.recheck_every"),
        "{refused}"
    );
}

#[test]
fn a_tenant_has_no_more_under_way_than_the_agent_allows() {
    let (mut world, id) = active();
    world.ledger.limit_tenants(2);
    world.request(2, 1, None);
    let all = stands(&world, "b", "t");
    assert!(all[0].contains("limits.tenant_unlocks"), "{all:?}");
    assert!(stands(&world, "b", "u").is_empty());
    // What ends makes room, and closing is no request.
    let now = world.now();
    let changes = world
        .ledger
        .release(&world.document, &id, "tenant", &now)
        .unwrap();
    world.note(changes);
    assert!(stands(&world, "b", "t").is_empty());
}

#[test]
fn an_approval_rests_on_checks_that_are_fresh() {
    for (waited, again) in [(0, 30), (10, 20), (40, 0)] {
        let mut world = World::new();
        world.vary(2);
        world.request(0, 0, None);
        let unlock = world.nth(0).unwrap();
        world.judge(&unlock, 5);
        world.apply(&Event::Wait(waited));
        world.apply(&Event::Approve(0));
        let unlock = world.ledger.get(unlock.id.as_str()).unwrap();
        assert!(unlock.state.is_open());
        let due = unlock.recheck.unwrap().left_ms(&world.now());
        assert_eq!(due, again * 1000, "checked {waited} s before, again in {again} s");
    }
}

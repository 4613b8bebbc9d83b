//! No sequence of events, restarts and clock jumps gives traffic without an active lease: judged by the reference
//! verdict, against a model that knows the true time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use portcullis_policy::{
    Action, Direction, Document, Fragment, Frame, IpPacket, L4, Name, Packet, View, effective,
};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::evidence;
use portcullis_unlock::ledger::{
    Change, CheckResult, Checked, Judgement, Ledger, Request, State, Strikes, Unlock,
};
use proptest::prelude::*;

const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: mail, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587]}
endpoints:
  a: {}
  b: {}
programs:
  base:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    checks: [{kind: banner, port: 25}]
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
const PORTS: [(&str, u16); 3] = [("base", 25), ("built", 465), ("after", 587)];

#[derive(Debug, Clone)]
enum Event {
    Request(usize, usize, Option<u64>),
    /// Of the nth unlock under way.
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
}

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
    ]
}

/// What the model knows of a lease: true time, whatever clocks say.
#[derive(Debug, Clone, Copy)]
struct Lease {
    /// True seconds at which it ends at the latest: as long as the machine ran, and somebody could know.
    ends: u64,
    /// What the wall clock says then.
    wall_ends: i64,
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
        };
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
        let program: Name = PORTS[program].0.parse().unwrap();
        let evidence = evidence::parse(&self.document.programs[&program], &BTreeMap::new()).unwrap();
        let opens = evidence::rules(&self.document.programs[&program], program.as_str(), &evidence).unwrap();
        let request = Request {
            id: format!("u-{}", self.ids).parse().unwrap(),
            program,
            endpoint: ["a", "b"][endpoint].parse().unwrap(),
            tenant: "t".to_string(),
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

    fn judge(&mut self, unlock: &Unlock, how: u8) {
        let now = self.now();
        let (result, judgement) = match how {
            0 => (CheckResult::Failed, Judgement::Fails("no".to_string())),
            1 => (
                CheckResult::Undetermined,
                Judgement::Unknown("no answer".to_string()),
            ),
            _ => (
                CheckResult::Passed,
                Judgement::Holds {
                    manual: unlock.program.as_str() == "after",
                },
            ),
        };
        let checked = Checked {
            name: "banner".to_string(),
            kind: "banner".to_string(),
            result,
            detail: String::new(),
            at: now.seconds(),
        };
        let changes = self
            .ledger
            .judged(&self.document, &unlock.id, vec![checked], &judgement, &now);
        self.note(changes);
    }

    fn tick(&mut self) {
        let now = self.now();
        let changes = self.ledger.tick(&self.document, &now);
        self.note(changes);
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
        let names = ["a", "b"].iter().flat_map(|e| PORTS.map(|(p, _)| (*e, p)));
        let strikes: Vec<((Name, Name), Strikes)> = names
            .filter_map(|(e, p)| {
                let key: (Name, Name) = (e.parse().unwrap(), p.parse().unwrap());
                let strikes = *self.ledger.strikes(&key.0, &key.1)?;
                Some((key, strikes))
            })
            .collect();
        let now = self.now();
        self.ledger = Ledger::restore(live, strikes, &self.seen, &now);
        for unlock in self.ledger.iter() {
            self.stored.insert(unlock.id.clone(), Unlock::clone(unlock));
        }
        self.seen = now;
        self.document.grants = self.ledger.grants_at(&now);
        self.check();
    }

    fn bounce(&mut self, endpoint: usize) {
        let name: Name = ["a", "b"][endpoint].parse().unwrap();
        let now = self.now();
        let was = self.document.endpoints.remove(&name).unwrap();
        let changes = self.ledger.follow(&self.document, &now);
        self.note(changes);
        assert!(self.ledger.grants().get(&name).is_none());
        self.document.endpoints.insert(name, was);
        self.quarantines.retain(|id, _| self.ledger.get(id).is_some());
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
            Event::Approve(n)
            | Event::Reject(n)
            | Event::Release(n)
            | Event::Renew(n, _)
            | Event::Revoke(n, _) => {
                let Some(unlock) = self.nth(*n) else { return };
                let (id, document) = (&unlock.id, &self.document);
                let changes = match event {
                    Event::Approve(_) => self.ledger.approve(document, id, "", "operator", &now),
                    Event::Reject(_) => self.ledger.reject(id, "no", "operator", &now).map(|c| vec![c]),
                    Event::Release(_) => self.ledger.release(document, id, "tenant", &now),
                    Event::Revoke(_, quarantine) => {
                        self.ledger
                            .revoke(document, id, ("spam", *quarantine), "operator", &now)
                    }
                    Event::Renew(_, lease) => self
                        .ledger
                        .renew(document, id, *lease, "tenant", &now)
                        .map(|c| vec![c]),
                    _ => unreachable!("the others are handled above"),
                };
                if let Ok(changes) = changes {
                    self.note(changes);
                }
            }
        }
        self.tick();
        self.document.grants = self.ledger.grants().clone();
        self.check();
    }

    /// Compares what passes with what the model says may pass.
    fn check(&self) {
        for endpoint in ["a", "b"] {
            let name: Name = endpoint.parse().unwrap();
            let Some(body) = self.document.endpoints.get(&name) else {
                continue;
            };
            let policy = effective(&self.document, endpoint, body, Direction::Egress);
            for (program, port) in PORTS {
                let passes = policy.judge(&packet(port), View::FULL).0 == Action::Allow;
                let of = |u: &&Unlock| u.endpoint == name && u.program.as_str() == program;
                let leased = self.stored.values().filter(of).any(|unlock| {
                    let lease = self.leases.get(unlock.id.as_str());
                    unlock.state.is_open()
                        && lease.is_some_and(|lease| self.ran < lease.ends && self.wall < lease.wall_ends)
                });
                assert!(
                    !passes || leased,
                    "port {port} of {endpoint} is open without a lease: {:#?}",
                    self.ledger
                );
                let locked = self.stored.values().filter(of).any(|unlock| {
                    let until = self.quarantines.get(unlock.id.as_str());
                    unlock.state == State::Revoked && until.is_some_and(|until| self.ran < *until)
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
fn packet(port: u16) -> Packet {
    Packet {
        frame: Frame::Ip(IpPacket {
            local: "192.0.2.1".parse().unwrap(),
            remote: "198.51.100.1".parse().unwrap(),
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
    fn nothing_is_open_without_a_lease(events in proptest::collection::vec(event(), 1..60)) {
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

//! The ledger under test, with its document and the true time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use portcullis_policy::{CheckResult, Document, Endpoint, Grant, GrantKind, Name, OpenScope, PortRange};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::evidence;
use portcullis_unlock::ledger::{Basis, Change, Checked, Ledger, Request, State, StrikeKey, Strikes, Unlock};

use super::events::{ADDRESSES, DOCUMENT, Event, PROGRAMS, TIMED, UNTIL, VARIANTS};

/// What the model knows of a lease: true time, whatever clocks say.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// True seconds at which it ends at the latest: as long as the machine ran, and somebody could know.
    pub ends: u64,
    /// What the wall clock says then.
    pub wall_ends: i64,
    pub began: u64,
    /// What the wall clock said then.
    pub wall_began: i64,
}

pub struct World {
    pub document: Document,
    pub ledger: Ledger,
    /// True seconds in which the machine ran.
    pub ran: u64,
    pub wall: i64,
    pub booted: u64,
    pub boot: u128,
    pub seen: Moment,
    pub ids: u32,
    pub leases: BTreeMap<String, Lease>,
    pub quarantines: BTreeMap<String, u64>,
    pub stored: BTreeMap<Name, Unlock>,
    pub variant: usize,
    /// When the clock was looked at last.
    pub looked: Moment,
    /// Since when by true time `now` has been past what a program requires, whatever the wall clock said meanwhile.
    pub late: Option<u64>,
    /// Checks that began: what they are about, and the addresses.
    pub asked: BTreeMap<Name, (Basis, BTreeSet<String>)>,
    /// Addresses for which checks of an unlock passed.
    pub judged: BTreeMap<Name, BTreeSet<String>>,
    /// What a person approved: ports, and whether it was for everything that the endpoint has.
    pub approved: BTreeMap<Name, (Vec<PortRange>, bool)>,
}

impl World {
    pub fn new() -> Self {
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

    pub fn now(&self) -> Moment {
        Moment {
            wall_ms: self.wall * 1000,
            boot_ms: (self.ran - self.booted) * 1000,
            boot: self.boot,
        }
    }

    pub fn nth(&self, n: usize) -> Option<Arc<Unlock>> {
        self.ledger.iter().nth(n).cloned()
    }

    /// What a commit stores, and what it means for the model.
    pub fn note(&mut self, mut changes: Vec<Change>) {
        let now = self.now();
        self.ledger.orphans(&self.document, &mut changes, &now);
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

    pub fn request(&mut self, program: usize, endpoint: usize, lease_seconds: Option<u64>) {
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

    pub fn tenant(&self, endpoint: &str) -> String {
        self.document.endpoints[endpoint].labels["tenant"].clone()
    }

    pub fn addresses(&self, endpoint: &str) -> BTreeSet<String> {
        let addresses = &self.document.endpoints[endpoint].addresses;
        addresses.iter().map(ToString::to_string).collect()
    }

    pub fn ask(&mut self, unlock: &Unlock) {
        if let Some(basis) = Basis::new(&self.document, unlock) {
            let addresses = self.addresses(unlock.endpoint.as_str());
            self.asked.insert(unlock.id.clone(), (basis, addresses));
        }
    }

    /// Checks end: those that began before, or else in this moment.
    pub fn judge(&mut self, unlock: &Unlock, how: u8) {
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

    pub fn edit(&mut self, edit: impl FnOnce(&mut Document)) {
        let before = self.document.clone();
        edit(&mut self.document);
        let now = self.now();
        let changes = self.ledger.follow(&before, &self.document, &now);
        self.note(changes);
    }

    pub fn edit_endpoint(&mut self, endpoint: usize, edit: impl FnOnce(&mut Endpoint)) {
        self.edit(|document| {
            let endpoint = document.endpoints.get_mut(["a", "b"][endpoint]).unwrap();
            edit(Arc::make_mut(endpoint));
        });
    }

    pub fn vary(&mut self, variant: usize) {
        self.variant = variant;
        self.alter(VARIANTS[variant]);
    }

    /// Gives the programs as they are in the document, with some texts in place of others.
    pub fn alter(&mut self, texts: &[(&str, &str)]) {
        let text = texts.iter().fold(DOCUMENT.to_string(), |text, (from, to)| {
            text.replacen(from, to, 1)
        });
        let programs = Document::from_yaml(&text).unwrap().programs;
        self.edit(|document| document.programs = programs);
    }

    pub fn tick(&mut self) {
        let now = self.now();
        let mut changes = self.ledger.tick(&self.document, &now);
        let more = self.ledger.tick_required(&self.document, &self.looked, &now);
        changes.extend(more);
        self.looked = now;
        self.note(changes);
    }

    /// What is open when all has ended whose time has come, and what needs it.
    pub fn now_open(&self) -> OrdMap<Name, Arc<Vec<Grant>>> {
        let mut ledger = self.ledger.clone();
        ledger.tick(&self.document, &self.now());
        ledger.grants().clone()
    }

    pub fn restart(&mut self, with_machine: Option<u64>) {
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

    pub fn bounce(&mut self, endpoint: usize) {
        let name: Name = ["a", "b"][endpoint].parse().unwrap();
        let was = self.document.endpoints[&name].clone();
        self.edit(|document| drop(document.endpoints.remove(&name)));
        let left = self.ledger.grants().get(&name);
        assert!(left.is_none_or(|grants| grants.iter().all(|grant| grant.kind == GrantKind::Quarantine)));
        self.edit(|document| drop(document.endpoints.insert(name, was)));
    }

    pub fn apply(&mut self, event: &Event) {
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
}

/// Why a request of the program `base` would not be taken.
pub fn stands(world: &World, endpoint: &str, tenant: &str) -> Vec<String> {
    let (endpoint, program) = (endpoint.parse().unwrap(), "base".parse().unwrap());
    let found = world
        .ledger
        .obstacles(&world.document, &endpoint, tenant, &program, &world.now());
    found.iter().map(ToString::to_string).collect()
}

/// A world in which `base` is active on `a`.
pub fn active() -> (World, Name) {
    let mut world = World::new();
    world.request(0, 0, None);
    let unlock = world.nth(0).unwrap();
    world.judge(&unlock, 5);
    (world, unlock.id.clone())
}

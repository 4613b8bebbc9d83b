//! Editing a class in place, by the session machine and in the order that targets write in: after every single write or
//! delete, every packet meets the old verdict or the new one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../compiler/tests/witness/mod.rs"]
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_backend::SessionState;
use portcullis_backend::delta::{self, Groups, Key, Layer, Op, Step as Phase};
use portcullis_backend::machine::{Desired, Machine, Observed};
use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::{ClassRows, PolicyRow, RowKey, StageModel};
use portcullis_policy::{
    Direction, Entry, Families, FlagMatch, Matcher, Packet, Policy, PortRange, Protocol, Ranges, Tier,
    Verdict,
};
use witness::{Random, Rows, Says, ShownFields, grid};

const PORTS: [u16; 12] = [0, 1, 22, 25, 80, 443, 1023, 1024, 6000, 32768, 65534, 65535];

fn ports(random: &mut Random, most: u64) -> Ranges {
    let range = |random: &mut Random| {
        let (a, b) = (*random.pick(&PORTS), *random.pick(&PORTS));
        match random.below(3) {
            0 => PortRange {
                low: a.min(b),
                high: a.max(b),
            },
            _ => PortRange { low: a, high: a },
        }
    };
    let list: Vec<PortRange> = (0..=random.below(most)).map(|_| range(random)).collect();
    Ranges::from_ports(&list)
}

fn matcher(random: &mut Random, prefixes: &[&str]) -> Matcher {
    let protocol = match random.below(8) {
        0 => Protocol::Any,
        1 | 2 => Protocol::Number(Protocol::UDP),
        _ => Protocol::Number(Protocol::TCP),
    };
    let mut matcher = Matcher {
        protocol,
        ..Matcher::everything()
    };
    if protocol != Protocol::Any {
        matcher.dst_ports = ports(random, 3);
        if random.below(5) == 0 {
            matcher.src_ports = ports(random, 2);
        }
    }
    if random.below(6) == 0 {
        matcher.flags = FlagMatch::NotOpening;
    }
    if !prefixes.is_empty() && random.below(2) == 0 {
        let prefix: ipnet::IpNet = random.pick(prefixes).parse().unwrap();
        matcher.families = Families {
            v4: prefix.addr().is_ipv4(),
            v6: prefix.addr().is_ipv6(),
        };
        match random.below(4) {
            0 => matcher.local = vec![prefix],
            _ => matcher.remote = vec![prefix],
        }
    }
    matcher
}

fn entry(random: &mut Random, prefixes: &[&str]) -> Entry {
    Entry {
        tier: Tier::Endpoint,
        origin: Arc::from("rule"),
        reason: Arc::from(""),
        action: if random.below(2) == 0 {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        matcher: Arc::new(matcher(random, prefixes)),
    }
}

fn policy(entries: Vec<Entry>, default: Verdict) -> Policy {
    Policy {
        direction: Direction::Egress,
        entries,
        default,
        five_tuple: false,
    }
}

/// Two policies that differ in one to three rules.
fn pair(random: &mut Random, prefixes: &[&str]) -> (Policy, Policy) {
    let default = *random.pick(&[Verdict::Allow, Verdict::Deny]);
    let old: Vec<Entry> = (0..1 + random.below(8))
        .map(|_| entry(random, prefixes))
        .collect();
    let mut new = old.clone();
    for _ in 0..1 + random.below(3) {
        let at = random.below(new.len() as u64 + 1) as usize;
        match random.below(3) {
            0 => new.insert(at, entry(random, prefixes)),
            1 if at < new.len() => drop(new.remove(at)),
            _ if at < new.len() => new[at] = entry(random, prefixes),
            _ => new.push(entry(random, prefixes)),
        }
    }
    (policy(old, default), policy(new, default))
}

/// A row of the policy stage of the one class that is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct EditKey(u32, RowKey);

impl Key for EditKey {
    fn layer(&self) -> Layer {
        Layer::Policy
    }

    fn table(&self) -> u8 {
        0
    }

    fn class(&self) -> Option<u32> {
        Some(1)
    }

    fn priority(&self) -> i32 {
        self.0.try_into().unwrap()
    }
}

/// What decides verdicts: everything but the reason.
type Essence = (Verdict, Option<u16>);
type Step = Op<EditKey, Essence>;
type Table = BTreeMap<EditKey, Essence>;

fn table(program: &ClassRows) -> Table {
    let row = |r: &PolicyRow| (EditKey(r.priority, r.key), (r.action, r.words));
    program.policy.iter().map(row).collect()
}

fn desired(table: &Table) -> Desired<u8, EditKey, Essence> {
    Desired::unit(0, Arc::new(table.iter().map(|(k, b)| (*k, *b)).collect()))
}

fn play_one(table: &mut Table, step: &Step) {
    match step {
        Op::Add(key, body) => assert!(table.insert(*key, *body).is_none(), "{step:?}: the row is there"),
        Op::Change(key, body) => assert!(
            table.insert(*key, *body).is_some(),
            "{step:?}: there is no such row"
        ),
        Op::Delete(key) => assert!(table.remove(key).is_some(), "{step:?}: there is no such row"),
    }
}

fn show(step: &Step) -> String {
    let EditKey(priority, key) = step.key();
    format!("{} {priority} {key}\n", step.sign())
}

/// The groups of writes by which a machine leads a class in use from its old rows to its new ones.
fn groups(old: &Table, new: &Table) -> Groups<EditKey, Essence> {
    let mut machine = Machine::default();
    machine.connected();
    machine.ready();
    machine.set_desired(1, desired(old));
    assert!(machine.begin_observation());
    machine.observed(Observed {
        ours: old.iter().map(|(k, b)| (*k, *b)).collect(),
        foreign: Vec::new(),
    });
    machine.set_desired(2, desired(new));
    let mut all = Vec::new();
    while let Some(batch) = machine.next_batch() {
        match batch.step {
            Phase::Prepare => {
                let (groups, abandoned) = delta::prepare(batch.ops, |class| class == 1);
                assert!(abandoned.is_empty());
                all.extend(groups);
            }
            Phase::Settle => {
                let (groups, abandoned) = delta::settle(batch.ops, |class| class == 1);
                assert!(abandoned.is_empty());
                all.extend(groups);
            }
            step => panic!("{step:?} of a class that stays in use"),
        }
        machine.acknowledged();
    }
    assert_eq!(machine.state(), SessionState::InSync);
    all
}

/// Rows, a line each.
fn text(rows: &[PolicyRow]) -> String {
    let line = |r: &PolicyRow| format!("{} {} {} {:?}\n", r.priority, r.key, r.action, r.words);
    rows.iter().map(line).collect()
}

/// A change of one class, ready to be played.
struct Change<'a> {
    model: &'a StageModel,
    fixed: &'a [PolicyRow],
    old: ClassRows,
    new: ClassRows,
    steps: Vec<Step>,
    /// What packets look like, and their verdicts before and after.
    packets: Vec<(ShownFields, Verdict, Verdict)>,
}

impl<'a> Change<'a> {
    /// `None` when the class cannot be edited in place.
    fn new(
        model: &'a StageModel,
        fixed: &'a [PolicyRow],
        (old, new): (&Policy, &Policy),
        random: &mut Random,
    ) -> Option<Self> {
        let (was, is) = (lower(old, model).unwrap(), lower(new, model).unwrap());
        if was.remote != is.remote || was.words != is.words || was.codes != is.codes {
            return None;
        }
        let mut groups = groups(&table(&was), &table(&is));
        // A target may carry out each group in any order.
        groups.iter_mut().for_each(|group| random.shuffle(group));
        let steps = groups.into_iter().flatten().collect();
        let shows = |packet: &Packet| {
            let (before, after) = (old.judge(packet, model.view).0, new.judge(packet, model.view).0);
            let shown = ShownFields::new(packet, model).into_iter();
            shown.map(|s| (s, before, after)).collect::<Vec<_>>()
        };
        let packets = grid(&[old, new], 800, random).iter().flat_map(shows).collect();
        Some(Change {
            model,
            fixed,
            old: was,
            new: is,
            steps,
            packets,
        })
    }

    /// Plays steps in this order; the first packet that met neither verdict, and after how many steps.
    fn play(&self, steps: &[Step]) -> Result<Table, (usize, ShownFields)> {
        let mut table = table(&self.old);
        let mut program = self.old.clone();
        // Reasons do not decide verdicts: any row of either program lends its own.
        let known = self.new.policy.iter().chain(&self.old.policy);
        let known: BTreeMap<EditKey, &PolicyRow> = known.map(|r| (EditKey(r.priority, r.key), r)).collect();
        for (at, step) in steps.iter().enumerate() {
            play_one(&mut table, step);
            let row = |(key, (action, words)): (&EditKey, &Essence)| PolicyRow {
                action: *action,
                words: *words,
                ..*known[key]
            };
            program.policy = table.iter().map(row).collect();
            let rows = Rows::new(&program, self.fixed);
            let lost = self
                .packets
                .iter()
                .find(|(shown, before, after)| match rows.judge(shown) {
                    Says::Verdict(action, _) => action != *before && action != *after,
                    Says::Nothing => true,
                    // A new row beside an old one of equal priority: a target picks one of them, and either will do.
                    Says::Quarrel => before == after,
                });
            if let Some((shown, ..)) = lost {
                return Err((at + 1, *shown));
            }
        }
        Ok(table)
    }

    fn check(&self) {
        match self.play(&self.steps) {
            Err((steps, shown)) => panic!(
                "{}: after {steps} of {} steps {shown:?} meets neither verdict\nold\n{}\nsteps\n{}",
                self.model.name,
                self.steps.len(),
                text(&self.old.policy),
                self.steps.iter().map(show).collect::<String>()
            ),
            Ok(played) => {
                assert_eq!(played, table(&self.new));
                let rows = Rows::new(&self.new, self.fixed);
                let settled = |(shown, _, after): &(ShownFields, Verdict, Verdict)| {
                    rows.judge(shown).action() == Some(*after)
                };
                assert!(self.packets.iter().all(settled), "{}", self.model.name);
            }
        }
    }
}

/// Random changes on a model: how many could be edited in place, and how many a shuffled order breaks.
fn changes(model: &str, count: u64, prefixes: &[&str]) -> (u64, u64) {
    let model = StageModel::named(model).unwrap();
    let fixed = fixed_rows(&model);
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ count);
    let (mut edited, mut broken) = (0, 0);
    for _ in 0..count {
        let (old, new) = pair(&mut random, prefixes);
        // From or to an open class there is nothing to edit: open classes have no rows.
        if !old.may_deny() || !new.may_deny() {
            continue;
        }
        let Some(change) = Change::new(&model, &fixed, (&old, &new), &mut random) else {
            continue;
        };
        change.check();
        edited += 1;
        let mut steps = change.steps.clone();
        random.shuffle(&mut steps);
        broken += u64::from(change.play(&steps).is_err());
    }
    println!(
        "{}: {edited} of {count} edited in place; a shuffled order breaks {broken}",
        model.name
    );
    (edited, broken)
}

const PREFIXES: [&str; 5] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "2001:db8::/32",
    "2001:db8:1::/48",
];

/// Per model: how many changes at least are edited in place, of ports only and with prefixes.
macro_rules! every_model {
    ($($name:ident: $model:literal, $ports:literal, $prefixes:literal;)*) => {
        $(#[test]
        fn $name() {
            for (count, prefixes, least) in [(300, &[][..], $ports), (150, &PREFIXES[..], $prefixes)] {
                let (edited, broken) = changes($model, count, prefixes);
                assert!(edited >= least, "{edited} of {count}");
                // The order matters: at random, some packet meets neither.
                assert!(broken > edited / 10, "{broken} of {edited}");
            }
        })*
    };
}

every_model! {
    every_step_is_old_or_new_on_ovs: "ovs", 250, 50;
    every_step_is_old_or_new_on_p4_range: "p4-range", 250, 100;
    every_step_is_old_or_new_on_p4_ternary: "p4-ternary", 250, 100;
    every_step_is_old_or_new_on_acl_ternary: "acl-ternary", 250, 100;
    every_step_is_old_or_new_on_exact_bitmap: "exact-bitmap", 200, 80;
}

fn deny(name: usize, ports: &[u16]) -> Entry {
    let ranges: Vec<PortRange> = ports.iter().map(|p| PortRange { low: *p, high: *p }).collect();
    let matcher = Matcher {
        protocol: Protocol::Number(Protocol::TCP),
        dst_ports: Ranges::from_ports(&ranges),
        ..Matcher::everything()
    };
    Entry {
        origin: format!("baseline/{name}").into(),
        action: Verdict::Deny,
        tier: Tier::Baseline,
        reason: Arc::from(""),
        matcher: Arc::new(matcher),
    }
}

/// Rows written and deleted when each of 200 random ports is blocked beside 50 rules: mean and most.
fn one_port(model: &str, in_a_rule: bool) -> (f64, usize) {
    let model = StageModel::named(model).unwrap();
    let mut random = Random(42);
    let rules: Vec<Entry> = (0..50)
        .map(|n| {
            let ports: Vec<u16> = (0..=random.below(3)).map(|_| random.port()).collect();
            deny(n, &ports)
        })
        .collect();
    let old = lower(&policy(rules.clone(), Verdict::Allow), &model).unwrap();
    let (mut sum, mut most) = (0, 0);
    for _ in 0..200 {
        let port = random.port();
        let mut rules = rules.clone();
        let at = random.below(50) as usize;
        if in_a_rule {
            let mut ports: Vec<u16> = rules[at].matcher.dst_ports.iter().map(|(low, _)| low).collect();
            ports.push(port);
            rules[at] = deny(at, &ports);
        } else {
            rules.insert(at, deny(50, &[port]));
        }
        let new = lower(&policy(rules, Verdict::Allow), &model).unwrap();
        assert_eq!(old.remote, new.remote);
        let writes = groups(&table(&old), &table(&new)).iter().map(Vec::len).sum();
        sum += writes;
        most = most.max(writes);
    }
    (sum as f64 / 200.0, most)
}

#[test]
fn one_more_port_writes_a_handful_of_rows() {
    for model in ["ovs", "p4-ternary", "p4-range"] {
        for in_a_rule in [false, true] {
            let (mean, most) = one_port(model, in_a_rule);
            println!("{model}: one more port writes {mean:.2} rows on average, {most} at most");
            // One row for each IP version; at worst a row for each bit of the port, for each version.
            assert!(mean <= 3.0, "{model}: {mean}");
            assert!(most <= 2 * 16, "{model}: {most}");
        }
    }
}

//! Every history of a small machine: intents, batches, answers, refusals, lost answers, disconnects and read-backs arrive at
//! any point. Checked in every state that can be reached:
//!
//! * `InSync` means that the switch holds the newest desired rows and nothing else;
//! * in whatever state, `applied` is the newest generation only while packets meet its rows and nothing else;
//! * every class that a port leads to is complete on the switch, after every write;
//! * where packets are given a moment, a class stays complete while one that was led to it may be on its way;
//! * when faults stop, the machine reaches `InSync`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::delta::Layer;

/// A row of the model: a group, a port that leads to a class and a group, or row `n` of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Row {
    Group(u8),
    Port(u8),
    Class(u8, u8),
}

impl Key for Row {
    fn layer(&self) -> Layer {
        match self {
            Row::Group(_) => Layer::Support,
            Row::Port(_) => Layer::Dispatch,
            Row::Class(..) => Layer::Policy,
        }
    }

    fn table(&self) -> u8 {
        u8::from(self.layer() != Layer::Policy)
    }

    fn class(&self) -> Option<u32> {
        match self {
            Row::Group(_) | Row::Port(_) => None,
            Row::Class(class, _) => Some((*class).into()),
        }
    }

    fn priority(&self) -> i32 {
        0
    }
}

/// Rows of every class.
const ROWS: u8 = 2;

type Rows = BTreeMap<Row, u8>;

/// The desired state in which ports lead to classes.
fn world(ports: &[(u8, u8)]) -> Desired<Row, Row, u8> {
    let mut units = Desired::new();
    for (port, class) in ports {
        units.insert(Row::Port(*port), Arc::new(vec![(Row::Port(*port), *class)]));
        let rows = (0..ROWS).map(|n| (Row::Class(*class, n), 0)).collect();
        units.insert(Row::Class(*class, 0), Arc::new(rows));
    }
    units
}

/// The same, in which a port that leads to a class leads to the group of its number, too.
fn world_with_groups(ports: &[(u8, u8)]) -> Desired<Row, Row, u8> {
    let mut units = world(ports);
    for (_, class) in ports {
        let group = Row::Group(*class);
        units.insert(group, Arc::new(vec![(group, 0)]));
    }
    units
}

fn rows(world: &Desired<Row, Row, u8>) -> Rows {
    world.values().flat_map(|unit| unit.iter().copied()).collect()
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Intent(usize),
    /// Other rows for the newest generation: a port came, an unlock ended.
    Rebuild(usize),
    Send,
    Execute,
    ExecuteInPart,
    Answer,
    Refuse,
    Lose,
    Connect,
    Disconnect,
    /// The same, and the switch comes back without rows.
    Restart,
    AskResync,
    Doubt,
    BeginPause,
    EndPause,
    BeginRead,
    /// The switch reads out one of its two tables.
    ReadOut(usize),
    FinishRead,
    FailRead,
}

/// A machine, its switch, and what is on the way between them.
#[derive(Clone)]
struct Scene {
    machine: Machine<Row, Row, u8>,
    switch: Rows,
    worlds: Arc<Vec<Desired<Row, Row, u8>>>,
    wanted: usize,
    generation: u64,
    /// The batch on the way, and whether the switch executed it.
    batch: Option<(Batch<Row, u8>, bool)>,
    /// The tables read out so far by the read-back on the way.
    reading: Option<[Option<Rows>; 2]>,
    /// Classes that packets may be on their way to although no port leads there any more: since before the pause under way, and
    /// since it began.
    on_the_way: [BTreeSet<u8>; 2],
    pauses: bool,
    is_pausing: bool,
    /// The generation has other rows than those that it was applied with.
    was_rebuilt: bool,
    intents: u8,
    rebuilds: u8,
    faults: u8,
    resyncs: u8,
}

impl Scene {
    fn new(worlds: &Arc<Vec<Desired<Row, Row, u8>>>, intents: u8, faults: u8, resyncs: u8) -> Self {
        Scene {
            machine: Machine::default(),
            on_the_way: Default::default(),
            pauses: false,
            is_pausing: false,
            was_rebuilt: false,
            rebuilds: 0,
            switch: Rows::new(),
            worlds: Arc::clone(worlds),
            wanted: 0,
            generation: 0,
            batch: None,
            reading: None,
            intents,
            faults,
            resyncs,
        }
    }

    /// On a switch in which packets may be on their way to rows that nothing leads to.
    fn pausing(mut self) -> Self {
        self.machine = Machine::pausing();
        self.pauses = true;
        self
    }

    fn possible(&self) -> Vec<Event> {
        let mut steps = Vec::new();
        if self.is_pausing {
            steps.push(Event::EndPause);
        } else if self.machine.clone().begin_pause() {
            steps.push(Event::BeginPause);
        }
        if self.intents > 0 {
            steps.extend((0..self.worlds.len()).map(Event::Intent));
        }
        if self.rebuilds > 0 && self.generation > 0 {
            steps.extend((0..self.worlds.len()).map(Event::Rebuild));
        }
        match (&self.batch, self.machine.state()) {
            (_, SessionState::Disconnected) => steps.push(Event::Connect),
            (None, _) => steps.push(Event::Send),
            (Some((_, false)), _) => steps.push(Event::Execute),
            (Some((_, true)), _) => steps.push(Event::Answer),
        }
        match &self.reading {
            Some(parts) => {
                steps.extend((0..2).filter(|n| parts[*n].is_none()).map(Event::ReadOut));
                if parts.iter().all(Option::is_some) {
                    steps.push(Event::FinishRead);
                }
            }
            None => steps.push(Event::BeginRead),
        }
        if self.resyncs > 0 {
            steps.extend([Event::AskResync, Event::Doubt]);
        }
        if self.faults > 0 {
            match &self.batch {
                Some((_, false)) => {
                    steps.extend([Event::Refuse, Event::Lose, Event::ExecuteInPart]);
                }
                Some((_, true)) => steps.push(Event::Lose),
                None => {}
            }
            if self.machine.state() != SessionState::Disconnected {
                steps.extend([Event::Disconnect, Event::Restart]);
            }
            if self.reading.is_some() {
                steps.push(Event::FailRead);
            }
        }
        steps
    }

    fn take(&mut self, step: Event) -> Result<(), String> {
        let before = self.machine.generations().1;
        match step {
            Event::Intent(world) => {
                self.intents = self.intents.saturating_sub(1);
                self.generation += 1;
                self.wanted = world;
                self.was_rebuilt = false;
                self.machine
                    .set_desired(self.generation, self.worlds[world].clone());
            }
            Event::Rebuild(world) => {
                self.rebuilds = self.rebuilds.saturating_sub(1);
                self.wanted = world;
                self.was_rebuilt = true;
                self.machine
                    .set_desired(self.generation, self.worlds[world].clone());
            }
            Event::Send => self.batch = self.machine.next_batch().map(|batch| (batch, false)),
            Event::Execute => self.execute(usize::MAX)?,
            Event::ExecuteInPart => {
                self.execute(1)?;
                self.fail();
            }
            Event::Answer => {
                self.batch = None;
                self.machine.acknowledged();
            }
            Event::Refuse | Event::Lose => self.fail(),
            Event::Connect => {
                self.machine.connected();
                self.machine.ready();
            }
            Event::Disconnect => {
                self.faults -= 1;
                self.disconnected();
            }
            Event::Restart => {
                self.faults -= 1;
                self.disconnected();
                self.switch.clear();
                self.on_the_way = Default::default();
            }
            Event::BeginPause => {
                self.is_pausing = self.machine.begin_pause();
                let [before, since] = &mut self.on_the_way;
                before.append(since);
            }
            Event::EndPause => {
                self.is_pausing = false;
                self.on_the_way[0].clear();
                self.machine.paused();
            }
            Event::AskResync => {
                self.resyncs -= 1;
                self.machine.request_resync();
            }
            Event::Doubt => {
                self.resyncs -= 1;
                self.machine.doubt();
            }
            Event::BeginRead => {
                if self.machine.begin_observation() {
                    self.reading = Some([None, None]);
                }
            }
            Event::ReadOut(table) => {
                let part = self
                    .switch
                    .iter()
                    .filter(|(key, _)| key.table() as usize == table);
                let part: Rows = part.map(|(key, body)| (*key, *body)).collect();
                let Some(parts) = &mut self.reading else {
                    return self.check(before);
                };
                // One table is passed on when it was read, the other at the end.
                parts[table] = match table {
                    0 => {
                        self.machine.observed_part(Observed {
                            ours: part.into_iter().collect(),
                            foreign: Vec::new(),
                        });
                        Some(Rows::new())
                    }
                    _ => Some(part),
                };
            }
            Event::FinishRead => {
                let parts = self.reading.take().into_iter().flatten().flatten();
                let drift = self.machine.observed(Observed {
                    ours: parts.flatten().collect(),
                    foreign: Vec::new(),
                });
                if !drift.is_empty() {
                    return Err(format!("nobody else writes, yet there is {drift:?}"));
                }
            }
            Event::FailRead => {
                self.faults -= 1;
                self.reading = None;
                self.machine.observation_failed();
            }
        }
        self.check(before)
    }

    fn disconnected(&mut self) {
        self.machine.disconnected();
        (self.batch, self.reading, self.is_pausing) = (None, None, false);
    }

    /// Classes that ports on the switch lead to.
    fn led_to(&self) -> BTreeSet<u8> {
        let leads = |(row, class): (&Row, &u8)| matches!(row, Row::Port(_)).then_some(*class);
        self.switch.iter().filter_map(leads).collect()
    }

    fn fail(&mut self) {
        self.faults = self.faults.saturating_sub(1);
        self.batch = None;
        self.machine.rejected();
    }

    /// Executes the first `count` writes of the batch.
    fn execute(&mut self, count: usize) -> Result<(), String> {
        let led_before = self.led_to();
        let Some((batch, executed)) = &mut self.batch else {
            return Ok(());
        };
        *executed = true;
        let ops: Vec<Op<Row, u8>> = batch.ops.iter().take(count).cloned().collect();
        for op in &ops {
            let there = self.switch.get(op.key()).copied();
            let fits = match op {
                Op::Add(..) => there.is_none(),
                Op::Change(_, body) => there.is_some_and(|b| b != *body),
                Op::Delete(_) => there.is_some(),
            };
            if !fits {
                return Err(format!("{op:?} meets {there:?}"));
            }
            match op {
                Op::Add(key, body) | Op::Change(key, body) => self.switch.insert(*key, *body),
                Op::Delete(key) => self.switch.remove(key),
            };
        }
        let led = self.led_to();
        self.on_the_way[1].extend(led_before.difference(&led));
        for class in &led {
            let group = Row::Group(*class);
            let wanted = self.machine.desired().contains_key(&group);
            let whole = (0..ROWS).all(|n| self.switch.contains_key(&Row::Class(*class, n)));
            if !whole || (wanted && !self.switch.contains_key(&group)) {
                return Err(format!(
                    "a port leads to class {class}, of which rows are missing"
                ));
            }
        }
        let deleted = ops.iter().filter(|op| matches!(op, Op::Delete(_))).map(Op::key);
        let missed = deleted.filter_map(|key| match key {
            Row::Group(class) | Row::Class(class, _) => Some(class),
            Row::Port(_) => None,
        });
        let mut missed = missed.filter(|class| self.on_the_way.iter().any(|classes| classes.contains(class)));
        match missed.next().filter(|_| self.pauses) {
            Some(class) => Err(format!(
                "packets are on their way to class {class}, whose rows are deleted"
            )),
            None => Ok(()),
        }
    }

    /// Whether packets meet the newest desired rows and nothing else: classes aside that no port leads to.
    fn is_in_force(&self) -> bool {
        let wanted = rows(&self.worlds[self.wanted]);
        let led = self.led_to();
        let met = |row: &&Row| match row {
            Row::Class(class, _) => wanted.contains_key(*row) || led.contains(class),
            Row::Group(_) | Row::Port(_) => true,
        };
        let held = self.switch.iter().filter(|(row, _)| met(row));
        held.eq(wanted.iter())
    }

    fn check(&self, before: u64) -> Result<(), String> {
        let (wanted, applied) = self.machine.generations();
        let in_sync = self.machine.state() == SessionState::InSync;
        if in_sync && (applied != self.generation || self.switch != rows(&self.worlds[self.wanted])) {
            return Err(format!(
                "in sync at {applied} of {}: {:?}",
                self.generation, self.switch
            ));
        }
        if self.machine.is_in_force() && (applied != self.generation || !self.is_in_force()) {
            return Err(format!(
                "in force at {applied} of {}: {:?}",
                self.generation, self.switch
            ));
        }
        if applied > 0 && applied == self.generation && !self.was_rebuilt && !self.is_in_force() {
            return Err(format!(
                "{applied} is claimed in {}: {:?}",
                self.machine.state(),
                self.switch
            ));
        }
        if applied > before && applied != self.generation {
            return Err(format!("applied rises to {applied} of {}", self.generation));
        }
        if wanted != self.generation {
            return Err(format!("wanted is {wanted}, the newest is {}", self.generation));
        }
        let mut counts = BTreeMap::new();
        for key in self.machine.installed().keys() {
            *counts.entry(key.table()).or_insert(0) += 1;
        }
        if (0..2).any(|table| self.machine.rows_in(table) != counts.get(&table).copied().unwrap_or(0)) {
            return Err(format!("counts {counts:?} differ"));
        }
        // Numbers are given anew by this: what a row on the switch leads to is never forgotten.
        let held: BTreeSet<(&Row, Option<&u8>)> = self.machine.may_hold().collect();
        let forgotten = |(row, body): &(&Row, &u8)| !held.contains(&(*row, Some(*body)));
        if self.machine.is_known()
            && let Some(row) = self.switch.iter().find(forgotten)
        {
            return Err(format!("{row:?} may be there: {held:?}"));
        }
        Ok(())
    }

    /// Without further faults and intents the machine gets in sync.
    fn finish(mut self) -> Result<(), String> {
        (self.intents, self.rebuilds, self.faults, self.resyncs) = (0, 0, 0, 0);
        if self.generation == 0 {
            return Ok(());
        }
        for _ in 0..60 {
            if self.machine.state() == SessionState::InSync && self.reading.is_none() {
                return Ok(());
            }
            for step in self.possible() {
                // Possible until the step before it was taken.
                if self.possible().contains(&step) {
                    self.take(step)?;
                }
            }
        }
        Err(format!("stuck in {}", self.machine.state()))
    }

    /// Tells scenes apart that may go on differently.
    fn fingerprint(&self) -> String {
        let m = &self.machine;
        let sorted = |rows: &HashMap<Row, u8>| rows.iter().map(|(k, b)| (*k, *b)).collect::<Rows>();
        let mut text = String::new();
        let in_flight = m.in_flight.as_ref();
        let reading = m.reading.as_ref();
        let reading = reading.map(|r| (r.touched.iter().collect::<BTreeSet<_>>(), r.spoiled));
        let _infallible = write!(
            text,
            "{:?}{}{:?}{:?}{:?}{in_flight:?}{:?}{}{}{}{reading:?}|{:?}{}{:?}{:?}{}{}{}",
            m.state,
            self.wanted,
            sorted(&m.installed),
            m.suspects,
            (
                &m.abandoned,
                &self.on_the_way,
                self.is_pausing,
                self.rebuilds,
                self.was_rebuilt
            ),
            m.unknown.iter().collect::<BTreeSet<_>>(),
            m.has_desired,
            m.known,
            m.resync,
            self.switch,
            m.applied == m.wanted,
            self.batch,
            self.reading,
            self.intents,
            self.faults,
            self.resyncs,
        );
        text
    }
}

/// Tries every history; the first that breaks a rule is the shortest.
fn explore(worlds: &[&[(u8, u8)]], intents: u8, faults: u8, resyncs: u8) -> usize {
    let worlds = Arc::new(worlds.iter().map(|ports| world(ports)).collect());
    explore_from(Scene::new(&worlds, intents, faults, resyncs))
}

fn explore_from(first: Scene) -> usize {
    let mut seen = HashSet::from([first.fingerprint()]);
    // How each scene was reached: the scene before, and the step.
    let mut came: Vec<(usize, Option<Event>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, first)]);
    while let Some((at, scene)) = queue.pop_front() {
        for step in scene.possible() {
            let mut next = scene.clone();
            let result = next.take(step).and_then(|()| next.clone().finish());
            if let Err(why) = result {
                let mut history = vec![step];
                let mut at = at;
                while let (before, Some(step)) = came[at] {
                    history.push(step);
                    at = before;
                }
                history.reverse();
                panic!("{why}\nafter {history:?}");
            }
            if seen.insert(next.fingerprint()) {
                came.push((at, Some(step)));
                queue.push_back((came.len() - 1, next));
            }
        }
    }
    seen.len()
}

#[test]
fn every_history_of_one_port_between_two_classes() {
    let scenes = explore(&[&[], &[(1, 1)], &[(1, 2)]], 4, 1, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_of_two_faults() {
    let scenes = explore(&[&[(1, 1)], &[(1, 2)]], 3, 2, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_of_two_ports_and_a_shared_class() {
    let scenes = explore(&[&[(1, 1), (2, 1)], &[(1, 2), (2, 1)], &[(1, 3)]], 3, 0, 1);
    assert!(scenes > 10_000, "{scenes} scenes");
}

#[test]
fn every_history_in_which_packets_are_given_a_moment() {
    let worlds: &[&[(u8, u8)]] = &[&[], &[(1, 1)], &[(1, 2)]];
    let worlds = Arc::new(worlds.iter().map(|ports| world_with_groups(ports)).collect());
    let scenes = explore_from(Scene::new(&worlds, 4, 0, 0).pausing());
    assert!(scenes > 1_000, "{scenes} scenes");
    let rebuilt = Scene {
        rebuilds: 2,
        ..Scene::new(&worlds, 2, 0, 0).pausing()
    };
    let scenes = explore_from(rebuilt);
    assert!(scenes > 1_000, "{scenes} scenes");
    let scenes = explore_from(Scene::new(&worlds, 3, 1, 0).pausing());
    assert!(scenes > 5_000, "{scenes} scenes");
}

/// The shortest history that once ended in sync with the wrong row: a desired row returns while its undoing is in flight.
#[test]
fn a_row_that_returns_while_its_undoing_is_in_flight_is_written_again() {
    let worlds = Arc::new([&[(1, 1)][..], &[(1, 2)]].map(world).to_vec());
    let mut scene = Scene::new(&worlds, 3, 0, 0);
    scene.take(Event::Intent(0)).unwrap();
    scene.clone().finish().unwrap();
    for step in [
        Event::Connect,
        Event::BeginRead,
        Event::ReadOut(0),
        Event::ReadOut(1),
        Event::FinishRead,
    ] {
        scene.take(step).unwrap();
    }
    for _ in 0..2 {
        for step in [Event::Send, Event::Execute, Event::Answer] {
            scene.take(step).unwrap();
        }
    }
    assert_eq!(scene.machine.state(), SessionState::InSync);
    scene.take(Event::Intent(1)).unwrap();
    for step in [Event::Send, Event::Execute, Event::Answer, Event::Send] {
        scene.take(step).unwrap();
    }
    scene.take(Event::Intent(0)).unwrap();
    for step in [Event::Execute, Event::Answer] {
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.state(), SessionState::Applying);
    scene.finish().unwrap();
}

/// Another program removes a row: from the read-back that shows it on, nothing counts as applied until the row is
/// confirmed again.
#[test]
fn a_loss_of_rows_ends_every_claim_until_they_are_confirmed() {
    let worlds = Arc::new([&[(1, 1)][..]].map(world).to_vec());
    let mut scene = Scene::new(&worlds, 1, 0, 0);
    let read = [
        Event::BeginRead,
        Event::ReadOut(0),
        Event::ReadOut(1),
        Event::FinishRead,
    ];
    let write = [Event::Send, Event::Execute, Event::Answer];
    let begin = [Event::Intent(0), Event::Connect];
    for step in begin.into_iter().chain(read).chain(write).chain(write) {
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.generations(), (1, 1));
    scene.switch.remove(&Row::Port(1));
    scene.machine.request_resync();
    assert!(scene.machine.begin_observation());
    let drift = scene.machine.observed(Observed {
        ours: scene.switch.iter().map(|(key, body)| (*key, *body)).collect(),
        foreign: Vec::new(),
    });
    assert_eq!(drift.missing, [Row::Port(1)]);
    for step in write {
        assert_eq!(scene.machine.generations(), (1, 0), "before {step:?}");
        scene.take(step).unwrap();
    }
    assert_eq!(scene.machine.generations(), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A read-back in parts shows what one at once shows, whatever others did to the rows, and whatever ended or aged meanwhile.
    #[test]
    fn a_read_back_in_parts_is_one_at_once(
        ports in proptest::collection::btree_map(0u8..6, 0u8..4, 0..6),
        tampered in proptest::collection::btree_map(0u8..6, proptest::option::of(0u8..4), 0..4),
        ended in proptest::collection::btree_set(0u8..6, 0..3),
        became in proptest::collection::btree_map(0u8..6, 0u8..4, 0..3),
        cuts in proptest::collection::vec(0usize..4, 20),
    ) {
        let ports: Vec<(u8, u8)> = ports.into_iter().collect();
        let mut machine = Machine::default();
        machine.set_desired(1, world(&ports));
        machine.connected();
        machine.ready();
        prop_assert!(machine.begin_observation());
        let mut switch = rows(&world(&ports));
        machine.observed(Observed { ours: switch.clone().into_iter().collect(), foreign: Vec::new() });
        prop_assert_eq!(machine.state(), SessionState::InSync);
        for (port, class) in tampered {
            match class {
                Some(class) => switch.insert(Row::Port(port), class),
                None => switch.remove(&Row::Port(port)),
            };
        }
        machine.request_resync();
        prop_assert!(machine.begin_observation());
        let mut parts = machine.clone();
        let mut rows: Vec<(Row, u8)> = switch.into_iter().collect();
        let whole = rows.clone();
        for cut in cuts {
            let rest = rows.split_off(cut.min(rows.len()));
            parts.observed_part(Observed { ours: std::mem::replace(&mut rows, rest), foreign: Vec::new() });
        }
        for machine in [&mut machine, &mut parts] {
            machine.ended(ended.iter().map(|port| Row::Port(*port)), |_| true);
            became.iter().for_each(|(port, class)| machine.became(Row::Port(*port), *class));
        }
        let sorted = |mut drift: Drift<Row>| {
            [&mut drift.missing, &mut drift.altered, &mut drift.surplus].map(|keys| {
                keys.sort_unstable();
                keys.clone()
            })
        };
        let at_once = machine.observed(Observed { ours: whole.clone(), foreign: Vec::new() });
        let in_parts = parts.observed(Observed { ours: rows, foreign: Vec::new() });
        prop_assert_eq!(sorted(at_once), sorted(in_parts));
        for machine in [&machine, &parts] {
            prop_assert_eq!(&machine.installed, &whole.iter().copied().collect::<HashMap<Row, u8>>());
            prop_assert!(machine.differences().is_subset(&machine.suspects));
            let counted: u64 = machine.counts.values().sum();
            prop_assert_eq!(counted, machine.installed.len() as u64);
        }
        prop_assert_eq!(machine.state(), parts.state());
        prop_assert_eq!(machine.generations(), parts.generations());
    }

    /// Longer histories over more ports and classes than can be tried one by one.
    #[test]
    fn no_long_history_ends_wrong(
        ports in proptest::collection::vec(proptest::collection::btree_map(0u8..4, 0u8..4, 0..4), 2..6),
        choices in proptest::collection::vec(any::<u16>(), 1..120),
        pauses in any::<bool>(),
    ) {
        let ports: Vec<Vec<(u8, u8)>> = ports.into_iter().map(|p| p.into_iter().collect()).collect();
        let worlds = Arc::new(ports.iter().map(|p| world_with_groups(p)).collect());
        let mut scene = Scene::new(&worlds, 40, 20, 20);
        scene.rebuilds = 20;
        if pauses {
            scene = scene.pausing();
        }
        let mut history = Vec::new();
        for choice in choices {
            let possible = scene.possible();
            let step = possible[usize::from(choice) % possible.len()];
            history.push(step);
            scene.take(step).map_err(|why| TestCaseError::fail(format!("{why}\nafter {history:?}")))?;
        }
        scene.finish().map_err(|why| TestCaseError::fail(format!("{why}\nafter {history:?}")))?;
    }
}

//! A small machine, its switch, and what is on the way between them: what may happen next, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::*;
use crate::delta::Layer;

/// A row of the model: a group, a port that leads to a class and a group, or row `n` of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Row {
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
pub(super) const ROWS: u8 = 2;

pub(super) type Rows = BTreeMap<Row, u8>;

/// The desired state in which ports lead to classes.
pub(super) fn world(ports: &[(u8, u8)]) -> Desired<Row, Row, u8> {
    let mut units = Desired::new();
    for (port, class) in ports {
        units.insert(Row::Port(*port), Arc::new(vec![(Row::Port(*port), *class)]));
        let rows = (0..ROWS).map(|n| (Row::Class(*class, n), 0)).collect();
        units.insert(Row::Class(*class, 0), Arc::new(rows));
    }
    units
}

/// The same, in which a port that leads to a class leads to the group of its number, too.
pub(super) fn world_with_groups(ports: &[(u8, u8)]) -> Desired<Row, Row, u8> {
    let mut units = world(ports);
    for (_, class) in ports {
        let group = Row::Group(*class);
        units.insert(group, Arc::new(vec![(group, 0)]));
    }
    units
}

pub(super) fn rows(world: &Desired<Row, Row, u8>) -> Rows {
    world.values().flat_map(|unit| unit.iter().copied()).collect()
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
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
pub(super) struct Scene {
    pub(super) machine: Machine<Row, Row, u8>,
    pub(super) switch: Rows,
    pub(super) worlds: Arc<Vec<Desired<Row, Row, u8>>>,
    pub(super) wanted: usize,
    pub(super) generation: u64,
    /// The batch on the way, and whether the switch executed it.
    pub(super) batch: Option<(Batch<Row, u8>, bool)>,
    /// The tables read out so far by the read-back on the way.
    pub(super) reading: Option<[Option<Rows>; 2]>,
    /// Classes that packets may be on their way to although no port leads there any more: since before the pause under way, and
    /// since it began.
    pub(super) on_the_way: [BTreeSet<u8>; 2],
    pub(super) pauses: bool,
    pub(super) is_pausing: bool,
    /// The generation has other rows than those that it was applied with.
    pub(super) was_rebuilt: bool,
    pub(super) intents: u8,
    pub(super) rebuilds: u8,
    pub(super) faults: u8,
    pub(super) resyncs: u8,
}

impl Scene {
    pub(super) fn new(
        worlds: &Arc<Vec<Desired<Row, Row, u8>>>,
        intents: u8,
        faults: u8,
        resyncs: u8,
    ) -> Self {
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
    pub(super) fn pausing(mut self) -> Self {
        self.machine = Machine::pausing();
        self.pauses = true;
        self
    }

    pub(super) fn possible(&self) -> Vec<Event> {
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

    pub(super) fn take(&mut self, step: Event) -> Result<(), String> {
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

    pub(super) fn disconnected(&mut self) {
        self.machine.disconnected();
        (self.batch, self.reading, self.is_pausing) = (None, None, false);
    }

    /// Classes that ports on the switch lead to.
    pub(super) fn led_to(&self) -> BTreeSet<u8> {
        let leads = |(row, class): (&Row, &u8)| matches!(row, Row::Port(_)).then_some(*class);
        self.switch.iter().filter_map(leads).collect()
    }

    pub(super) fn fail(&mut self) {
        self.faults = self.faults.saturating_sub(1);
        self.batch = None;
        self.machine.rejected();
    }

    /// Executes the first `count` writes of the batch.
    pub(super) fn execute(&mut self, count: usize) -> Result<(), String> {
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
    pub(super) fn is_in_force(&self) -> bool {
        let wanted = rows(&self.worlds[self.wanted]);
        let led = self.led_to();
        let met = |row: &&Row| match row {
            Row::Class(class, _) => wanted.contains_key(*row) || led.contains(class),
            Row::Group(_) | Row::Port(_) => true,
        };
        let held = self.switch.iter().filter(|(row, _)| met(row));
        held.eq(wanted.iter())
    }

    pub(super) fn check(&self, before: u64) -> Result<(), String> {
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
    pub(super) fn finish(mut self) -> Result<(), String> {
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
    pub(super) fn fingerprint(&self) -> String {
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

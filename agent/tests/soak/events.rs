//! What happens under the traffic, drawn from a seed, and what of it is reported to the judge.

use std::time::Duration;

use tonic::Status;

use super::judge::{History, MILLI, Micros};
use super::policy::{BASELINE, ENTERING, Policy, SERVERS};
use super::traffic::Traffic;
use super::world::World;

/// On Open vSwitch, status hears of a port that was plugged in from OVSDB: for so long it may not know yet that there is
/// something to do. An interface of the embedded switch takes as long until frames pass again. What
/// the document denies is no leak less by it; what it allows may be lost.
const UNSEEN: Micros = 500 * MILLI;

/// Threads of ovs-vswitchd add their counts to the sum once a second.
const COUNTED_LATE: Micros = 1_500 * MILLI;

/// Numbers from a seed (SplitMix64).
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Draw(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than a number.
    pub fn below(&mut self, number: usize) -> usize {
        (self.next() % number as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn pause(&mut self, most: usize) {
        std::thread::sleep(Duration::from_millis(self.below(most + 1) as u64));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Baseline,
    Own,
    Burst,
    Lease,
    Revoke,
    Replug,
    KillAgent,
    KillInChange,
    AwayReplug,
    AwaySwitch,
    Switch,
    FullDisk,
}

use Event::*;

/// Every event, each once.
pub const EVENTS: [Event; 12] = [
    Baseline,
    Own,
    Burst,
    Lease,
    Revoke,
    Replug,
    KillAgent,
    KillInChange,
    AwayReplug,
    AwaySwitch,
    Switch,
    FullDisk,
];
/// As often as they are drawn.
const DRAWN: [Event; 24] = [
    Baseline,
    Baseline,
    Baseline,
    Own,
    Own,
    Own,
    Burst,
    Burst,
    Burst,
    Lease,
    Lease,
    Lease,
    Revoke,
    Revoke,
    Replug,
    Replug,
    Replug,
    KillAgent,
    KillInChange,
    AwayReplug,
    AwaySwitch,
    Switch,
    FullDisk,
    FullDisk,
];

impl Event {
    fn cause(self) -> &'static str {
        match self {
            Baseline => "the baseline changes",
            Own => "own rules change",
            Burst => "changes overlap",
            Lease => "an unlock is granted",
            Revoke => "an unlock is taken back",
            Replug => "a port is plugged in again",
            KillAgent => "the agent is killed",
            KillInChange => "the agent is killed in a change",
            AwayReplug => "replug without an agent",
            AwaySwitch => "switch restarts without an agent",
            Switch => "the switch restarts",
            FullDisk => "the disk is full",
        }
    }
}

pub struct Driver<'a> {
    pub world: &'a mut World,
    pub traffic: &'a Traffic,
    pub draw: Draw,
    pub history: History,
    pub policy: Policy,
    /// What this process of the switch had dropped by itself when it was last asked, and when.
    dropped: (Micros, u64),
}

impl<'a> Driver<'a> {
    /// With a first document in force.
    pub fn new(world: &'a mut World, traffic: &'a Traffic, seed: u64) -> Self {
        let mut history = History::default();
        let policy = Policy::default();
        history.proposed(0, policy.clone());
        world.apply(&policy).unwrap();
        world.realized();
        Driver {
            world,
            traffic,
            draw: Draw::new(seed),
            history,
            policy,
            dropped: (0, 0),
        }
    }

    fn now(&self) -> Micros {
        self.traffic.now()
    }

    /// Each event once, and then what is drawn, until the time is over.
    pub fn run(&mut self, until: Micros) {
        let mut first = EVENTS.to_vec();
        while !first.is_empty() || self.now() < until {
            let event = if first.is_empty() {
                self.drawn()
            } else {
                first.swap_remove(self.draw.below(first.len()))
            };
            self.happens(event);
            self.draw.pause(300);
        }
    }

    /// A restart of the switch is a window of seconds for all: every other one that is drawn is drawn again.
    fn drawn(&mut self) -> Event {
        let event = self.draw.one(&DRAWN);
        if matches!(event, Switch | AwaySwitch) && self.draw.coin() {
            return self.drawn();
        }
        event
    }

    pub fn happens(&mut self, event: Event) {
        let from = self.now();
        match event {
            Baseline => {
                let next = self.other_baseline();
                self.change(next, None);
            }
            Own => {
                let server = self.draw.below(SERVERS);
                let next = self.other_rules(server);
                self.change(next, Some(server));
            }
            Burst => self.burst(),
            Lease => self.lease(),
            Revoke => self.revoke(),
            Replug => {
                let changes = self.draw.coin();
                self.replug(changes);
                self.realized();
            }
            KillAgent => {
                self.agent_away(|driver| driver.draw.pause(1_500));
                self.realized();
            }
            KillInChange => self.kill_in_change(),
            AwayReplug => {
                let server = self.agent_away(|driver| driver.replug(false));
                self.world.realized();
                self.history.window(from, self.now(), Some(server));
                self.realized();
            }
            AwaySwitch => {
                self.agent_away(Self::restart_switch);
                self.realized();
                self.history.window(from, self.now(), None);
            }
            Switch => {
                self.restart_switch();
                self.realized();
                self.history.window(from, self.now(), None);
                self.history.away(from, self.now());
            }
            FullDisk => self.full_disk(),
        }
        self.history.happened(from, self.now(), event.cause());
        self.ask_switch();
    }

    /// Asks the switch how many frames it has dropped by itself since it was asked last.
    fn ask_switch(&mut self) {
        let Some(count) = self.world.bed.dropped_by_switch() else {
            return;
        };
        let (since, before) = self.dropped;
        let now = self.now();
        if count > before {
            let from = since.saturating_sub(COUNTED_LATE);
            self.history.dropped(from, now, count - before);
        }
        self.dropped = (now, count);
    }

    fn realized(&mut self) {
        self.world.realized();
        let now = self.now();
        self.history.settled(now, &self.policy);
    }

    /// The document in force with one port of the baseline the other way.
    fn other_baseline(&mut self) -> Policy {
        let mut next = self.policy.clone();
        let port = self.draw.one(&BASELINE);
        if !next.baseline.remove(&port) {
            next.baseline.insert(port);
        }
        next
    }

    /// The document in force with another rule of a server.
    fn other_rules(&mut self, server: usize) -> Policy {
        let mut next = self.policy.clone();
        if self.draw.below(3) == 0 {
            let port = self.draw.one(&ENTERING);
            if !next.entering[server].remove(&port) {
                next.entering[server].insert(port);
            }
        } else {
            let port = self.draw.one(&BASELINE);
            match next.own[server].get(&port) {
                None => next.own[server].insert(port, self.draw.coin()),
                Some(_) => next.own[server].remove(&port),
            };
        }
        next
    }

    /// Sends a change, and keeps it if it was accepted.
    fn send(&mut self, next: Policy, server: Option<usize>) -> Result<(), Status> {
        self.history.proposed(self.now(), next.clone());
        let answer = match server {
            None => self.world.apply(&next),
            Some(server) => self.world.provision(&next, server),
        };
        if answer.is_ok() {
            self.policy = next;
        }
        answer
    }

    fn change(&mut self, next: Policy, server: Option<usize>) {
        self.send(next, server).expect("a change was refused");
        self.realized();
    }

    /// Ports that are denied, allowed and denied again before the first of it is in force.
    fn burst(&mut self) {
        let before = self.policy.clone();
        for _ in 0..2 + self.draw.below(4) {
            let next = if self.draw.coin() && self.policy != before {
                before.clone()
            } else {
                self.other_baseline()
            };
            self.send(next, None).expect("a change was refused");
            self.draw.pause(30);
        }
        self.realized();
    }

    /// An unlock of some seconds, or of an hour; its number in the history and its name.
    fn open(&mut self, seconds: u64) -> (usize, String) {
        let server = self.draw.below(SERVERS);
        let lease = self.history.asked(self.now(), server);
        let traffic = self.traffic;
        let (id, end) = self.world.unlock(server, seconds, || traffic.now()).unwrap();
        self.world.realized();
        self.history.opened(lease, self.now(), end);
        (lease, id)
    }

    fn lease(&mut self) {
        let seconds = 2 + self.draw.below(4) as u64;
        self.open(seconds);
    }

    fn close(&mut self, (lease, id): (usize, String)) {
        self.history.closing(lease, self.now());
        let closing = self.world.revoke(&id);
        assert!(closing.durable || closing.applied, "{closing:?}");
    }

    fn revoke(&mut self) {
        let open = self.open(3_600);
        self.draw.pause(500);
        self.close(open);
        self.realized();
    }

    /// Takes a port out and puts it back; whose. A change may meet it.
    fn replug(&mut self, changes: bool) -> usize {
        let server = self.draw.below(SERVERS);
        let from = self.now();
        self.world.bed.unplug(server);
        self.draw.pause(300);
        if changes {
            let next = self.other_rules(server);
            self.send(next, Some(server)).expect("a change was refused");
        }
        self.world.bed.plug(server);
        let plugged = self.now();
        if self.world.is_there() {
            self.world.realized();
        }
        let to = self.now().max(plugged + UNSEEN);
        self.history.window(from, to, Some(server));
        server
    }

    /// Kills the agent and starts it after something.
    fn agent_away<T>(&mut self, happens: impl FnOnce(&mut Self) -> T) -> T {
        let from = self.now();
        self.world.kill_agent();
        let result = happens(self);
        self.world.start_agent();
        self.world.realized();
        self.history.away(from, self.now());
        result
    }

    fn kill_in_change(&mut self) {
        let before = self.policy.clone();
        let next = self.other_baseline();
        self.history.proposed(self.now(), next.clone());
        self.world.apply_and_forget(&next);
        self.draw.pause(40);
        self.agent_away(|driver| driver.draw.pause(500));
        let found = self.world.rules();
        assert!(
            found == before || found == next,
            "{found:?}, not {before:?} or {next:?}"
        );
        self.policy = found;
        self.realized();
    }

    fn restart_switch(&mut self) {
        self.ask_switch();
        let kill = self.draw.coin();
        self.world.bed.stop_switch(kill);
        self.world.bed.start_switch();
        self.dropped = (self.now(), 0);
    }

    /// A full disk refuses what opens and holds up no closing.
    fn full_disk(&mut self) {
        let open = self.open(3_600);
        self.world.disk.fill();
        let next = self.other_baseline();
        // It may fit into what is left.
        let _ = self.send(next, None);
        self.close(open);
        self.realized();
        if self.draw.coin() {
            self.agent_away(|driver| driver.draw.pause(200));
            self.realized();
        }
        self.draw.pause(500);
        self.world.disk.free();
        self.world.until_stored();
        self.realized();
        assert_eq!(self.world.rules(), self.policy, "after the disk was full");
    }
}

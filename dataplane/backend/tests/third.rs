//! A third kind of target, in memory: what one has to bring, and that the shared half does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use portcullis_backend::machine::{Desired, Machine, Unit};
use portcullis_backend::{
    Answer, Backend, EnforcingRow, Hit, Lists, Plan, PortPolicy, QueryError, RefusedRow, Report, Resolution,
    SessionState, TableUse, TargetContext, TargetDriver, TargetHandle, TargetState, TargetStatus, Time,
    Trace, cause, launch, plan, ports, run,
};
use portcullis_compiler::{Class, ClassId, CompileError, Compiler, Intent, ScheduledTransition};
use portcullis_policy::{Direction, Document, Fragment, IpPacket, L4, Name};
use portcullis_testbed::model::{FakeBody, FakeKey, FakeSwitch};

const DOCUMENT: &str = r"
version: portcullis/v1
baseline: [{name: mail, action: deny, direction: egress, protocol: tcp, ports: [25]}]
endpoints:
  web: {attachments: [{port: 1, target: third}]}
  named: {attachments: [{interface: x, target: third}]}
";

/// The switch: absent while it is away. Its rows are reached without a wire.
#[derive(Debug, Default)]
struct Switch {
    there: Option<FakeSwitch>,
    /// How many of the next batches the target refuses.
    refuses: u32,
    /// Whether its connection ends when it is asked something.
    breaks: bool,
}

#[derive(Debug)]
struct Memory(Arc<Mutex<Switch>>);

#[async_trait]
impl Backend for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn check(&self, _intent: &Intent) -> Result<(), CompileError> {
        Ok(())
    }

    fn edits(&self, _old: &Class, _new: &Class) -> bool {
        false
    }

    async fn run(self: Arc<Self>, context: TargetContext) {
        let driver = MemoryDriver {
            time: Time::new(),
            state: TargetState::new("third", Duration::from_millis(400)),
            machine: Machine::default(),
            switch: Arc::clone(&self.0),
            held: false,
            ports: BTreeMap::new(),
            resolution: Resolution::default(),
        };
        run(driver, context).await;
    }
}

struct MemoryDriver {
    time: Time,
    state: TargetState,
    machine: Machine<(bool, u32), FakeKey, FakeBody>,
    switch: Arc<Mutex<Switch>>,
    held: bool,
    ports: BTreeMap<u32, PortPolicy>,
    resolution: Resolution,
}

impl MemoryDriver {
    fn resolve(&mut self, intent: &Intent) {
        let wall = self.time.now().wall;
        self.resolution = Resolution::new(&self.state.name);
        self.ports.clear();
        for endpoint in intent.endpoints.values() {
            for attachment in &endpoint.attachments {
                let Some(port) = attachment.port else {
                    self.resolution
                        .waits(&endpoint.name, format!("{attachment} has no `port`"));
                    continue;
                };
                let mut policy = PortPolicy::from_endpoint(endpoint, &attachment.macs, intent);
                policy.move_to(wall);
                self.ports.insert(port, policy);
                self.resolution.realized += 1;
            }
        }
        let rule = "ingress policies".to_string();
        self.resolution
            .cannot(rule, "ports", "this switch has one table".to_string());
    }

    /// A row per class, and one per port that leads to it.
    fn desired(&self) -> Desired<(bool, u32), FakeKey, FakeBody> {
        let ports = self
            .ports
            .iter()
            .map(|(port, policy)| (*port, policy.classes.egress.0));
        let rows = ports.flat_map(|(port, class)| -> [((bool, u32), Unit<FakeKey, FakeBody>); 2] {
            [
                ((false, class), Arc::new(vec![(FakeKey::Class(class, 0), 1)])),
                ((true, port), Arc::new(vec![(FakeKey::Port(port), class)])),
            ]
        });
        rows.collect()
    }
}

impl TargetDriver for MemoryDriver {
    /// The switch says nothing by itself.
    type Event = ();

    fn time(&mut self) -> &mut Time {
        &mut self.time
    }

    fn state(&mut self) -> &mut TargetState {
        &mut self.state
    }

    async fn connect(&mut self) {
        let there = self.switch.lock().unwrap().there.is_some();
        if there && !self.is_connected() {
            self.machine.connected();
            self.machine.ready();
            self.state.status.detail.clear();
            self.state.timers.connected(self.time.uptime());
        } else if !there && self.is_connected() {
            self.machine.disconnected();
            self.state.status.disconnects += 1;
        }
    }

    fn is_connected(&self) -> bool {
        self.machine.state() != SessionState::Disconnected
    }

    async fn next(&mut self) {
        std::future::pending().await
    }

    async fn handle(&mut self, _event: ()) {}

    fn flush(&mut self) {
        let mut switch = self.switch.lock().unwrap();
        let Switch {
            there: Some(there),
            refuses,
            ..
        } = &mut *switch
        else {
            return;
        };
        if self.machine.begin_observation() {
            let drift = self.machine.observed(there.observe());
            if !drift.is_empty() {
                self.state.drifted(&drift, |key| format!("{key:?}"));
                self.state.drift_opened(self.time.uptime());
            }
            self.state.read_back(self.time.uptime());
        }
        while !self.held
            && let Some(batch) = self.machine.next_batch()
        {
            if *refuses == 0 {
                there.execute(&batch).unwrap();
                self.machine.acknowledged();
                self.state.confirmed();
            } else {
                *refuses -= 1;
                self.held = true;
                self.machine.rejected();
                let key = batch.ops[0].key();
                let row = RefusedRow {
                    row: format!("{key:?}"),
                    why: "not today".to_string(),
                };
                self.state.refused(self.time.uptime(), &[row], false);
            }
        }
    }

    async fn rebuild(&mut self) {
        if let Some(intent) = self.state.intent.clone() {
            self.resolve(&intent);
            self.state.lists_changed();
            self.machine.set_desired(intent.generation, self.desired());
        }
    }

    fn due(&self, wall: Duration) -> BTreeSet<Name> {
        ports::due(self.ports.values(), wall)
    }

    fn ends_by_itself(&self) -> bool {
        false
    }

    async fn try_again(&mut self) {
        self.held = false;
    }

    async fn read_back(&mut self) {
        self.machine.request_resync();
    }

    fn is_ready(&self) -> bool {
        self.machine.is_known()
    }

    fn plan(&mut self, _intent: &Intent) -> Result<Plan, QueryError> {
        let tables = [
            (0, "classes".to_string(), None),
            (1, "ports".to_string(), Some(64)),
        ];
        let row = |key: &FakeKey, body: Option<&FakeBody>| format!("{key:?} -> {body:?}");
        Ok(plan(&self.machine, &Desired::new(), tables, row))
    }

    fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>) {
        if !self.switch.lock().unwrap().breaks {
            drop(answer.send(Err(self.state.not_here(&trace.endpoint))));
        }
    }

    fn hits(&mut self, answer: Answer<Vec<Hit>>) {
        self.state
            .after_publishing(move || drop(answer.send(Ok(Vec::new()))));
    }

    fn report(&mut self) -> Report {
        Report {
            tables: vec![TableUse {
                table: "ports".to_string(),
                rows: self.machine.rows_in(1),
                ..TableUse::default()
            }],
            realized: self.resolution.realized,
            ..Report::from_machine(&self.machine, |key| format!("{key:?}"), "remove them")
        }
    }

    fn lists(&self) -> Lists {
        Lists {
            pending: self.resolution.pending.clone(),
            unsupported: self.resolution.unsupported.clone(),
            ..Lists::default()
        }
    }
}

fn intent(generation: u64) -> Intent {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let intent = Compiler::default().resolve(&document, generation).unwrap();
    Intent::clone(&intent)
}

async fn until(target: &TargetHandle, what: &str, is: impl FnMut(&Arc<TargetStatus>) -> bool) {
    let mut statuses = target.watch();
    let wait = statuses.wait_for(is);
    let seen = tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok();
    assert!(seen, "{what}: {:#?}", target.status());
}

fn start() -> (Arc<Mutex<Switch>>, TargetHandle) {
    let switch = Arc::new(Mutex::new(Switch::default()));
    let (target, _task) = launch("third", Arc::new(Memory(Arc::clone(&switch))));
    (switch, target)
}

#[tokio::test]
async fn a_third_kind_of_target_is_connected_filled_repaired_and_reported() {
    let (switch, target) = start();
    until(&target, "told that it is away", |s| {
        s.detail == "not connected yet"
    })
    .await;
    assert!(matches!(target.hits().await, Err(QueryError::NotReady { .. })));
    target.set_intent(Arc::new(intent(7)));
    until(&target, "the intent", |s| s.wanted == 7 && s.pending.len() == 1).await;
    switch.lock().unwrap().there = Some(FakeSwitch::default());
    until(&target, "in sync", |s| {
        s.state == SessionState::InSync && s.applied == 7
    })
    .await;
    let status = target.status();
    assert_eq!(
        (status.realized, status.tables[0].rows, status.writes),
        (1, 1, [2, 0, 0])
    );
    assert_eq!(status.pending[0].why, "interface x has no `port`");
    assert_eq!(status.unsupported[0].target, "third");
    let plan = target.plan(Arc::new(intent(8))).await.unwrap();
    assert_eq!(
        (plan.tables[1].now, plan.tables[1].delete, plan.rows.len()),
        (1, 1, 2)
    );
    assert_eq!(target.hits().await.unwrap(), []);
    // Somebody empties it: the next read-back finds that, and since the one before packets may have passed.
    switch.lock().unwrap().there = Some(FakeSwitch::default());
    until(&target, "repaired", |s| {
        s.drift_repaired == 2 && s.state == SessionState::InSync && s.open_millis.contains_key(cause::ROWS)
    })
    .await;
    switch.lock().unwrap().there = None;
    until(&target, "away", |s| {
        s.state == SessionState::Disconnected && s.realized == 0
    })
    .await;
    assert_eq!(target.status().disconnects, 1);
}

#[tokio::test]
async fn a_question_that_a_lost_connection_takes_along_does_not_say_that_the_agent_stops() {
    let (switch, target) = start();
    *switch.lock().unwrap() = Switch {
        there: Some(FakeSwitch::default()),
        breaks: true,
        ..Switch::default()
    };
    target.set_intent(Arc::new(intent(1)));
    until(&target, "in sync", |s| s.state == SessionState::InSync).await;
    let trace = || Trace {
        endpoint: "web".parse().unwrap(),
        direction: Direction::Egress,
        packet: IpPacket {
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.9".parse().unwrap(),
            protocol: Some(6),
            fragment: Fragment::Whole,
            l4: L4::Nothing,
        },
    };
    assert_eq!(
        target.explain(trace()).await.unwrap_err(),
        QueryError::Interrupted("third".to_string())
    );
    target.stop();
    until_stopped(&target, trace).await;
}

async fn until_stopped(target: &TargetHandle, trace: impl Fn() -> Trace) {
    for _ in 0..100 {
        if target.explain(trace()).await == Err(QueryError::Stopping("third".to_string())) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never stopped");
}

#[tokio::test]
async fn what_it_refuses_once_is_tried_again_soon() {
    let (switch, target) = start();
    *switch.lock().unwrap() = Switch {
        there: Some(FakeSwitch::default()),
        refuses: 1,
        ..Switch::default()
    };
    target.set_intent(Arc::new(intent(1)));
    until(&target, "refused", |s| s.detail.contains("not today")).await;
    let refused = Instant::now();
    assert!(
        target
            .status()
            .detail
            .ends_with("the old rows stay; trying again in 500ms")
    );
    until(&target, "in sync", |s| {
        s.state == SessionState::InSync && s.detail.is_empty()
    })
    .await;
    // 500 ms and a tick, on a machine that has time; `timers.rs` has the exact bound.
    assert!(
        refused.elapsed() < Duration::from_secs(5),
        "{:?}",
        refused.elapsed()
    );
}

#[tokio::test]
async fn an_unlock_ends_at_its_moment_without_another_intent() {
    let (switch, target) = start();
    switch.lock().unwrap().there = Some(FakeSwitch::default());
    let mut unlocked = intent(1);
    let web = &unlocked.endpoints[&"web".parse::<Name>().unwrap()];
    let mut web = web.as_ref().clone();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let closed = ScheduledTransition {
        at: wall.as_secs() + 4,
        classes: web.classes,
    };
    web.classes.egress = ClassId(99);
    web.transitions = vec![closed];
    unlocked.endpoints.insert(web.name.clone(), Arc::new(web));
    target.set_intent(Arc::new(unlocked));
    let leads_to = |switch: &Mutex<Switch>| {
        let switch = switch.lock().unwrap();
        switch
            .there
            .as_ref()
            .unwrap()
            .rows
            .get(&FakeKey::Port(1))
            .copied()
    };
    until(&target, "in sync", |s| s.state == SessionState::InSync).await;
    assert_eq!(leads_to(&switch), Some(99));
    until(&target, "closed", |s| s.open_millis.contains_key(cause::LATE_END)).await;
    assert_eq!(leads_to(&switch), Some(closed.classes.egress.0));
    let late = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(closed.at);
    assert!(late < Duration::from_secs(5), "{late:?}");
}

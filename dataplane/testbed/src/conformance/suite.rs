//! The scenarios.

use portcullis_backend::SessionState;
use portcullis_policy::Document;

use super::{Fault, Probe, Report, Scene, Subject, Watch};

/// A subject, the documents it was given, and what is checked at every moment.
#[derive(Debug)]
pub struct Run<S> {
    pub subject: S,
    watch: Watch,
    generation: u64,
    newest: Option<Document>,
    /// Another program changed the datapath, which a session finds out when it reads back: until then status says
    /// what it knew.
    meddled: bool,
    /// The connection ended after that: what is there is read before status claims anything again.
    noticed: bool,
    /// The generation that was applied when an answer was held back.
    held_at: Option<u64>,
}

impl<S: Subject> Run<S> {
    /// Nothing is said and nothing is written.
    pub fn start() -> Self {
        let watch = Watch::default();
        Run {
            subject: S::start(watch.clone()),
            watch,
            generation: 0,
            newest: None,
            meddled: false,
            noticed: false,
            held_at: None,
        }
    }

    /// One that is at a document.
    pub fn at(scene: Scene) -> Self {
        let mut run = Self::start();
        run.apply(scene);
        run
    }

    /// Gives the newest document; its generation.
    pub fn set(&mut self, scene: Scene) -> u64 {
        let document = scene.document::<S>();
        self.watch.allow(&document);
        self.generation += 1;
        self.subject.set(&document, self.generation);
        self.newest = Some(document);
        self.look();
        self.generation
    }

    /// Sets a document and waits for it.
    pub fn apply(&mut self, scene: Scene) {
        self.set(scene);
        self.settle();
    }

    /// Lets a fault happen; `false` when the subject cannot have it.
    pub fn fault(&mut self, fault: Fault, nth: usize) -> bool {
        match fault {
            Fault::Restart => {
                self.watch.blank();
                (self.meddled, self.noticed) = (true, false);
            }
            Fault::DeleteRow | Fault::AlterRow | Fault::ForeignInPlace => {
                self.watch.off();
                (self.meddled, self.noticed) = (true, false);
            }
            _ => {}
        }
        self.subject.fault(fault, nth)
    }

    /// The same, of a subject that has this fault.
    fn meets(&mut self, fault: Fault, nth: usize) {
        assert!(self.fault(fault, nth), "{fault:?} happens to others only");
    }

    /// Lets go of what is held back. What status says at this moment counts, before anything is read back.
    pub fn release(&mut self) {
        self.subject.release();
        self.look();
    }

    /// Whether each probe of endpoints that there are meets the newest document.
    fn is_right(&self) -> bool {
        self.wrong().is_empty()
    }

    fn wrong(&self) -> Vec<String> {
        let Some(document) = &self.newest else {
            return Vec::new();
        };
        let wrong = |probe: Probe| {
            let says = probe.says(document)?;
            let met = self.subject.verdict(&probe);
            let why = format!("{probe:?} meets {met:?}, the document says {says:?}");
            (met != Some(says)).then_some(why)
        };
        Probe::all().filter_map(wrong).collect()
    }

    /// What holds at every moment.
    pub fn look(&mut self) -> Report {
        let held = self.subject.is_held();
        let report = self.subject.report();
        assert_eq!(self.watch.broken(), Vec::<String>::new());
        assert!(
            report.applied <= self.generation && report.wanted <= self.generation,
            "generation {}: {report:?}",
            self.generation
        );
        if let Some(applied) = self.held_at.filter(|_| held) {
            assert!(
                report.applied <= applied,
                "applied rises from {applied} while an answer is held back: {report:?}"
            );
        }
        self.held_at = held.then_some(report.applied);
        if report.state.is_away() {
            assert_eq!(report.applied, 0, "claimed without a connection: {report:?}");
            self.noticed = true;
        }
        let claims = self.generation > 0 && report.applied == self.generation;
        if claims && (self.noticed || !self.meddled) {
            assert_eq!(self.wrong(), Vec::<String>::new(), "{report:?}");
        }
        report
    }

    /// Whether status claims that the newest generation is there.
    fn says_in_sync(&self, report: &Report) -> bool {
        report.state == SessionState::InSync
            && report.wanted == self.generation
            && report.applied == self.generation
    }

    /// Goes on until something holds.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self, &Report) -> bool) {
        for _ in 0..S::PATIENCE {
            self.subject.turn();
            let report = self.look();
            if done(self, &report) {
                return;
            }
        }
        let report = self.subject.report();
        panic!("not {what} in time: {report:#?}\nwrong: {:#?}", self.wrong());
    }

    /// Goes on until the newest generation is there.
    pub fn settle(&mut self) {
        self.until("in sync with the newest document", |run, report| {
            run.says_in_sync(report) && run.is_right()
        });
        (self.meddled, self.noticed) = (false, false);
        self.watch.settled();
    }

    /// Goes on until a batch or an answer is held back, or nothing is left to do.
    fn until_held(&mut self) -> bool {
        self.until("held back", |run, report| {
            run.subject.is_held() || run.says_in_sync(report)
        });
        self.subject.is_held()
    }

    /// A new agent process finds the newest document in force and writes nothing.
    pub fn a_new_agent_writes_nothing(&mut self) {
        let (rows, executed) = (self.subject.rows(), self.subject.executed());
        self.subject.restart_agent();
        self.settle();
        self.subject.read_back();
        self.settle();
        assert_eq!(self.subject.report().writes, [0; 3]);
        assert_eq!(self.subject.executed(), executed);
        assert_eq!(self.subject.rows(), rows);
    }
}

/// Every document from every one before it.
pub fn changes_are_made_without_a_mix<S: Subject>() {
    let mut run = Run::<S>::start();
    for scene in Scene::ALL.into_iter().chain(Scene::ALL.into_iter().rev()) {
        run.apply(scene);
    }
    // Several at once: the session follows the newest.
    for scenes in Scene::ALL.chunks(3) {
        for scene in scenes {
            run.set(*scene);
            run.subject.turn();
            run.look();
        }
        run.settle();
    }
    assert!(run.watch.looks() > 20, "{} looks", run.watch.looks());
    assert_eq!(run.subject.report().drift, 0, "nobody else wrote");
    run.a_new_agent_writes_nothing();
}

/// However it came about.
pub fn a_restarted_agent_writes_nothing<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    assert!(!run.subject.rows().is_empty());
    for scene in Scene::ALL {
        run.apply(scene);
        run.a_new_agent_writes_nothing();
    }
}

/// The datapath comes back empty, once in peace and once in the middle of a change.
pub fn a_restarted_datapath_is_refilled<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    let rows = run.subject.rows();
    run.meets(Fault::Restart, 0);
    run.until("refilled", |run, report| {
        run.says_in_sync(report) && run.subject.rows() == rows
    });
    run.settle();
    for scene in Scene::ALL {
        run.set(scene);
        run.subject.turn();
        run.meets(Fault::Restart, 0);
        run.settle();
    }
    run.a_new_agent_writes_nothing();
}

/// Each of the first batches of each change meets the fault.
fn is_made_good<S: Subject>(fault: Fault) {
    if S::LACKS.contains(&fault) {
        println!("a subject cannot have {fault:?}");
        return;
    }
    let mut run = Run::<S>::at(Scene::CLOSED);
    for nth in 0..S::BATCHES {
        let met = run.subject.met();
        for scene in Scene::ALL {
            run.meets(fault, nth);
            run.apply(scene);
            run.release();
        }
        assert!(run.subject.met() > met, "no change had {} batches", nth + 1);
    }
    run.a_new_agent_writes_nothing();
}

/// What was refused is written again.
pub fn a_refused_batch_is_made_good<S: Subject>() {
    is_made_good::<S>(Fault::Refuse);
}

/// Whether a batch was executed is found out by reading.
pub fn a_lost_answer_is_found_out<S: Subject>() {
    is_made_good::<S>(Fault::Lose);
}

/// Nothing of the batch is there.
pub fn a_connection_that_breaks_before_a_batch_is_made_anew<S: Subject>() {
    is_made_good::<S>(Fault::BreakBefore);
}

/// All of the batch is there.
pub fn a_connection_that_breaks_after_a_batch_is_made_anew<S: Subject>() {
    is_made_good::<S>(Fault::BreakAfter);
}

/// Rows that others delete or change come back.
pub fn drift_is_repaired_and_counted<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    let rows = run.subject.rows();
    for fault in [Fault::DeleteRow, Fault::AlterRow] {
        for nth in 0..rows.len().min(12) {
            let drift = run.subject.report().drift;
            run.meets(fault, nth * rows.len() / rows.len().min(12));
            assert_ne!(run.subject.rows(), rows, "{fault:?} of row {nth}");
            run.until("repaired and counted", |run, report| {
                report.drift == drift + 1 && run.subject.rows() == rows
            });
            run.settle();
        }
    }
    run.a_new_agent_writes_nothing();
}

/// Rows of others stay where they are, whatever is done beside them.
pub fn rows_of_others_are_kept_and_reported<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    run.meets(Fault::ForeignRow, 0);
    let others = run.subject.others();
    assert!(!others.is_empty());
    run.until("reported", |_, report| report.foreign > 0);
    for scene in Scene::ALL {
        run.apply(scene);
    }
    run.a_new_agent_writes_nothing();
    assert_eq!(run.subject.others(), others);
    run.until("reported", |_, report| report.foreign > 0);
    run.subject.others_leave();
    run.until("gone", |_, report| report.foreign == 0);
    assert_eq!(run.subject.report().drift, 0);
}

/// A row of others in the place of ours: it stays, and no status says that all is well.
pub fn a_row_of_others_in_our_place_is_kept_and_reported<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    run.meets(Fault::ForeignInPlace, 0);
    let others = run.subject.others();
    assert!(!others.is_empty());
    run.until("reported", |_, report| {
        report.foreign > 0 && report.state != SessionState::InSync
    });
    let web_is_right = |run: &Run<S>| !run.wrong().iter().any(|w| w.contains("web"));
    for scene in [Scene::OPEN, Scene::CLOSED, Scene::OPEN] {
        let generation = run.set(scene);
        run.until("right for the other endpoint", |run, _| web_is_right(run));
        for _ in 0..5 {
            run.subject.read_back();
            let report = run.look();
            assert!(
                report.state != SessionState::InSync && report.applied < generation,
                "{report:?}"
            );
        }
        assert_eq!(run.subject.others(), others);
        assert!(web_is_right(&run));
    }
    run.subject.others_leave();
    run.settle();
    assert_eq!(run.subject.report().foreign, 0);
    run.a_new_agent_writes_nothing();
}

/// Whatever a change takes back is in flight when the document before it returns.
pub fn what_returns_while_its_undoing_is_in_flight_is_right<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    let mut held = [0; 2];
    for (before, then) in [
        (Scene::CLOSED, Scene::OPEN),
        (Scene::OPEN, Scene::CLOSED),
        (Scene::CLOSED, Scene::ALONE),
        (Scene::CLOSED, Scene::ALL[1]),
        (Scene::ALL[1], Scene::ALL[2]),
    ] {
        for (which, fault) in [Fault::Hold, Fault::HoldBefore].into_iter().enumerate() {
            for nth in 0..S::BATCHES {
                run.apply(before);
                run.meets(fault, nth);
                run.set(then);
                held[which] += usize::from(run.until_held());
                run.set(before);
                for _ in 0..3 {
                    run.subject.turn();
                    run.look();
                }
                run.release();
                run.settle();
            }
            run.subject.read_back();
            run.look();
            assert_eq!(run.subject.report().drift, 0, "nobody else wrote");
        }
    }
    // Of the batches of five changes, twice.
    let least = (8 * S::BATCHES).div_ceil(3);
    assert!(held.iter().all(|held| *held >= least), "{held:?} held back");
    run.a_new_agent_writes_nothing();
}

/// A generation of which an answer is out is not applied, however long that takes.
pub fn applied_never_exceeds_what_was_acknowledged<S: Subject>() {
    let mut run = Run::<S>::at(Scene::CLOSED);
    let mut held = 0;
    for (scene, fault) in Scene::ALL
        .into_iter()
        .flat_map(|scene| [Fault::Hold, Fault::HoldBefore].map(|fault| (scene, fault)))
    {
        run.meets(fault, 0);
        let before = run.subject.report().applied;
        let generation = run.set(scene);
        if run.until_held() {
            held += 1;
            for _ in 0..10 {
                run.subject.turn();
                let report = run.look();
                assert!(
                    report.applied == before && report.state != SessionState::InSync,
                    "{report:?}"
                );
            }
        }
        run.release();
        run.settle();
        assert_eq!(run.subject.report().applied, generation);
    }
    assert!(held >= Scene::ALL.len() / 2, "{held} held back");
}

/// No fault is left out by accident.
pub fn it_has_every_fault_but_those_it_cannot_have<S: Subject>(lacks: &[Fault]) {
    assert_eq!(S::LACKS, lacks);
    for fault in Fault::ALL {
        let mut run = Run::<S>::at(Scene::CLOSED);
        assert_eq!(!run.fault(fault, 0), lacks.contains(&fault), "{fault:?}");
    }
}

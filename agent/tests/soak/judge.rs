//! What a frame may meet, by the time when it was sent; pure.

use std::collections::BTreeMap;

use super::policy::{Flow, LEASED, NAMES, Policy, UPLINK};

/// Microseconds since the beginning.
pub type Micros = u64;
pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;
const EVER: Micros = Micros::MAX;

/// A frame that did not arrive has no time of arrival: it was somewhere between its sender and the switch for so long at
/// most. A window or a change that began by then may have met it. (Two cores with other work keep a polling thread waiting.)
/// Frames that arrived have no margin.
pub const MARGIN: Micros = 250 * MILLI;
/// The switch alone may end a lease so much too early.
const EARLY: Micros = 1_500 * MILLI;
/// A closing is made by the agent within this, and by the switch alone within that.
const CLOSED_BY_AGENT: Micros = SECOND;
const CLOSED_BY_SWITCH: Micros = 3 * SECOND;

/// A document that may be in force.
#[derive(Debug)]
struct Held {
    from: Micros,
    to: Micros,
    policy: Policy,
}

/// An unlock: may be open, is open, may be open still.
#[derive(Debug)]
struct Lease {
    server: usize,
    may_from: Micros,
    sure_from: Micros,
    sure_to: Micros,
    may_to: Micros,
}

/// A time in which frames of a server, or of all, may be lost.
#[derive(Debug)]
struct Window {
    from: Micros,
    to: Micros,
    server: Option<usize>,
}

/// Frames that ovs-vswitchd counted as dropped by itself, and not by a row, between two moments.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    from: Micros,
    to: Micros,
    count: u64,
}

#[derive(Debug)]
struct Span {
    from: Micros,
    to: Micros,
    cause: &'static str,
}

/// What was done, and when.
#[derive(Debug, Default)]
pub struct History {
    held: Vec<Held>,
    leases: Vec<Lease>,
    windows: Vec<Window>,
    spans: Vec<Span>,
    /// When agent or switch were away.
    away: Vec<(Micros, Micros)>,
    dropped: Vec<Dropped>,
}

/// A frame that was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    pub flow: u16,
    pub at: Micros,
    /// Where it was meant to arrive; 0 for never.
    pub arrived: Micros,
    /// One more than the host where it was not meant to arrive; 0 for none.
    pub astray: u8,
    pub copies: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Stopped,
    /// It was lost where that was announced.
    Excused,
    /// It was lost, and the switch counted that it dropped as many for want of a lock or after an error of its own.
    Switch,
    Leak,
    Loss,
    Astray,
}

impl History {
    /// A change is being sent.
    pub fn proposed(&mut self, now: Micros, policy: Policy) {
        self.held.push(Held {
            from: now,
            to: EVER,
            policy,
        });
    }

    /// Status says that this is in force, and nothing else.
    pub fn settled(&mut self, now: Micros, policy: &Policy) {
        let open = |held: &Held| held.to == EVER;
        let kept = self
            .held
            .iter()
            .rposition(|held| open(held) && held.policy == *policy);
        assert!(kept.is_some(), "nobody proposed {policy:?}");
        for (n, held) in self.held.iter_mut().enumerate() {
            if held.to == EVER && Some(n) != kept {
                held.to = now;
            }
        }
    }

    /// An unlock is being asked for; its number.
    pub fn asked(&mut self, now: Micros, server: usize) -> usize {
        self.leases.push(Lease {
            server,
            may_from: now,
            sure_from: EVER,
            sure_to: EVER,
            may_to: EVER,
        });
        self.leases.len() - 1
    }

    /// Status says that it is in force; it ends by itself at a moment.
    pub fn opened(&mut self, lease: usize, now: Micros, end: Micros) {
        let lease = &mut self.leases[lease];
        lease.sure_from = now;
        lease.sure_to = end.saturating_sub(EARLY);
        lease.may_to = end;
    }

    /// It is being taken back, or was not given.
    pub fn closing(&mut self, lease: usize, now: Micros) {
        let lease = &mut self.leases[lease];
        lease.sure_to = lease.sure_to.min(now);
        lease.may_to = lease.may_to.min(now);
    }

    pub fn window(&mut self, from: Micros, to: Micros, server: Option<usize>) {
        self.windows.push(Window { from, to, server });
    }

    pub fn away(&mut self, from: Micros, to: Micros) {
        self.away.push((from, to));
    }

    /// The switch counted frames that it dropped by itself.
    pub fn dropped(&mut self, from: Micros, to: Micros, count: u64) {
        self.dropped.push(Dropped { from, to, count });
    }

    /// Takes one frame from those that the switch dropped by itself in the time when a lost one was under way.
    fn by_switch(left: &mut [Dropped], sent: &Sent) -> bool {
        let until = sent.at + MARGIN;
        let meets = |d: &&mut Dropped| d.count > 0 && d.from <= until && sent.at <= d.to;
        let found = left.iter_mut().find(meets);
        found.map(|dropped| dropped.count -= 1).is_some()
    }

    pub fn happened(&mut self, from: Micros, to: Micros, cause: &'static str) {
        self.spans.push(Span { from, to, cause });
    }

    /// Until when what is closed at a moment may still pass.
    fn late(&self, end: Micros) -> Micros {
        let during = |(from, to): &(Micros, Micros)| {
            *from <= end.saturating_add(CLOSED_BY_AGENT) && to.saturating_add(SECOND) >= end
        };
        let allowance = if self.away.iter().any(during) {
            CLOSED_BY_SWITCH
        } else {
            CLOSED_BY_AGENT
        };
        end.saturating_add(allowance)
    }

    /// Whether an unlock of the sender may be open at some moment, and whether one is all the time.
    fn unlocked(&self, flow: &Flow, from: Micros, to: Micros) -> (bool, bool) {
        if flow.port != LEASED {
            return (false, false);
        }
        let mine = || self.leases.iter().filter(|lease| lease.server == flow.from);
        let may = mine().any(|l| l.may_from <= to && from <= self.late(l.may_to));
        let sure = mine().any(|l| l.sure_from <= from && to <= l.sure_to);
        (may, sure)
    }

    /// Whether some permitted document lets a frame pass that met the switch between two moments, and whether every one does.
    fn verdicts(&self, first: usize, flow: &Flow, from: Micros, to: Micros) -> (bool, bool) {
        let (may, sure) = self.unlocked(flow, from, to);
        let held = self.held.iter().skip(first);
        let mut held = held
            .take_while(|held| held.from <= to)
            .filter(|held| held.to >= from)
            .peekable();
        assert!(held.peek().is_some(), "no document at {from}");
        let (mut some, mut all) = (false, true);
        for held in held {
            some |= held.policy.allows(flow, may);
            all &= held.policy.allows(flow, sure);
        }
        (some, all)
    }

    fn excused(&self, flow: &Flow, from: Micros, to: Micros) -> bool {
        self.windows.iter().any(|w| {
            w.from <= to
                && w.to >= from
                && w.server
                    .is_none_or(|server| server == flow.from || server == flow.to)
        })
    }

    fn cause(&self, at: Micros, until: Micros) -> &'static str {
        let spans = self.spans.iter().rev();
        spans
            .clone()
            .find(|s| s.from <= until && s.to >= at)
            .map_or("between events", |s| s.cause)
    }

    /// What came before a moment, and what after.
    fn around(&self, at: Micros) -> String {
        let before = self.spans.iter().rfind(|span| span.to < at);
        let before = before.map(|span| format!("{} ms after \"{}\"", (at - span.to) / MILLI, span.cause));
        let after = self.spans.iter().find(|span| span.from > at);
        let after = after.map(|span| format!("{} ms before \"{}\"", (span.from - at) / MILLI, span.cause));
        let words: Vec<String> = before.into_iter().chain(after).collect();
        words.join(", ")
    }

    pub fn judge(&self, first: usize, flow: &Flow, sent: &Sent) -> Outcome {
        let lost_by = sent.at + MARGIN;
        if sent.astray > 0 {
            // A frame for a MAC that is nowhere goes to the uplink.
            let (some, _) = self.verdicts(first, &Flow { to: UPLINK, ..*flow }, sent.at, lost_by);
            let out = usize::from(sent.astray - 1) == UPLINK && flow.from != UPLINK;
            if !(out && some && self.excused(flow, sent.at, lost_by)) {
                return Outcome::Astray;
            }
        }
        if sent.arrived > 0 {
            return match self.verdicts(first, flow, sent.at, sent.arrived) {
                (true, _) => Outcome::Passed,
                (false, _) => Outcome::Leak,
            };
        }
        match self.verdicts(first, flow, sent.at, lost_by) {
            (_, false) => Outcome::Stopped,
            (_, true) if self.excused(flow, sent.at, lost_by) => Outcome::Excused,
            (_, true) => Outcome::Loss,
        }
    }

    /// Judges all, which are in the order of their time.
    pub fn report(&self, flows: &[Flow], sent: &[Sent]) -> Report {
        let mut report = Report::default();
        for span in &self.spans {
            let row = report.rows.entry(span.cause).or_default();
            row.events += 1;
            row.longest = row.longest.max(span.to - span.from);
        }
        let mut first = 0;
        let mut dropped = self.dropped.clone();
        for frame in sent {
            while self.held[first].to < frame.at {
                first += 1;
            }
            let flow = &flows[usize::from(frame.flow)];
            let until = frame.arrived.max(frame.at);
            let cause = self.cause(frame.at, until);
            let outcome = match self.judge(first, flow, frame) {
                Outcome::Loss if Self::by_switch(&mut dropped, frame) => Outcome::Switch,
                outcome => outcome,
            };
            report.rows.entry(cause).or_default().count(outcome);
            report.copies += u64::from(frame.copies);
            if !matches!(outcome, Outcome::Passed | Outcome::Stopped | Outcome::Excused)
                && report.wrong.len() < SHOWN
            {
                let at = frame.at / MILLI;
                let arrived = frame.arrived.saturating_sub(frame.at) / MILLI;
                let place = frame
                    .astray
                    .checked_sub(1)
                    .map_or("-", |host| NAMES[usize::from(host)]);
                report.wrong.push(format!(
                    "{outcome:?} at {at} ms: {flow}, during \"{cause}\", under way for {arrived} ms, astray: {place}; {}",
                    self.around(frame.at)
                ));
            }
        }
        report
    }
}

/// Wrong frames that are told one by one.
const SHOWN: usize = 40;

#[derive(Debug, Default, Clone, Copy)]
pub struct Row {
    pub events: u64,
    pub passed: u64,
    pub stopped: u64,
    pub excused: u64,
    /// Dropped and counted by the switch itself.
    pub switch: u64,
    pub leaks: u64,
    pub losses: u64,
    pub astray: u64,
    pub longest: Micros,
}

impl Row {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Stopped => &mut self.stopped,
            Outcome::Excused => &mut self.excused,
            Outcome::Switch => &mut self.switch,
            Outcome::Leak => &mut self.leaks,
            Outcome::Loss => &mut self.losses,
            Outcome::Astray => &mut self.astray,
        } += 1;
    }

    pub fn wrong(&self) -> u64 {
        self.leaks + self.losses + self.astray
    }
}

#[derive(Debug, Default)]
pub struct Report {
    pub rows: BTreeMap<&'static str, Row>,
    /// Frames that arrived more than once.
    pub copies: u64,
    pub wrong: Vec<String>,
}

impl Report {
    pub fn sum(&self) -> Row {
        let mut sum = Row::default();
        for row in self.rows.values() {
            sum.events += row.events;
            sum.passed += row.passed;
            sum.stopped += row.stopped;
            sum.excused += row.excused;
            sum.switch += row.switch;
            sum.leaks += row.leaks;
            sum.losses += row.losses;
            sum.astray += row.astray;
            sum.longest = sum.longest.max(row.longest);
        }
        sum
    }

    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<34}{:>7}{:>9}{:>9}{:>9}{:>7}{:>7}{:>7}{:>7}{:>12}\n",
            "cause",
            "events",
            "passed",
            "stopped",
            "excused",
            "switch",
            "leaks",
            "losses",
            "astray",
            "longest ms"
        );
        let all = [("in all", self.sum())];
        for (cause, row) in self.rows.iter().map(|(cause, row)| (*cause, *row)).chain(all) {
            text += &format!(
                "{cause:<34}{:>7}{:>9}{:>9}{:>9}{:>7}{:>7}{:>7}{:>7}{:>12}\n",
                row.events,
                row.passed,
                row.stopped,
                row.excused,
                row.switch,
                row.leaks,
                row.losses,
                row.astray,
                row.longest / MILLI
            );
        }
        text + &format!("{} frames arrived more than once\n", self.copies)
            + &self
                .wrong
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>()
    }
}

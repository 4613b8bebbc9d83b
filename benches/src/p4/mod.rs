//! A P4Runtime device: how many entries per second our client writes, against a plain Python client with the same
//! entries in the same batches, to the server in this process and to BMv2; and how long one endpoint's change takes.

mod ours;
mod python;
mod rows;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_backend::launch;
use portcullis_p4runtime::session::WINDOW;
use portcullis_p4runtime::{Config, P4Backend, UPDATES};
use portcullis_testbed::device::{BMV2, Device, have_bmv2};
use portcullis_testbed::p4::P4Server;

use crate::daemon::Place;
use crate::documents::Fleet;
use crate::report::{Section, median, ms};
use crate::switch::until;
use crate::{BenchError, Result, change};
use ours::Ours;
use python::Python;
use rows::{Rows, TARGET, Write, at_ports, compiled};

/// How much is written, how often, and which changes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Endpoints whose policy rows are written; each has a profile of its own.
    pub endpoints: u32,
    /// Measured rounds, each one of ours and one of every other client's.
    pub rounds: usize,
    /// Rows at most that are written to BMv2, whose tables get slow when they are large.
    pub bmv2_rows: usize,
    pub changes: change::Options,
}

/// Counts the connections to a device: each has a higher election id than those before it.
#[derive(Debug, Default)]
struct Elections(u128);

impl Elections {
    fn next(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

/// Measures all of it; each section is told when it is there.
pub async fn run(options: Options, program: &Path, mut report: impl FnMut(Section)) -> Result<()> {
    let rows = compiled(options.endpoints)?;
    let python = Python::prepare();
    let server = P4Server::start()
        .await
        .map_err(BenchError::io("start the P4Runtime server"))?;
    let mut section = writes(
        "the server in this process",
        &server.address(),
        &rows,
        &rows.policy,
        python.as_ref(),
        options.rounds,
    )
    .await?;
    through_the_backend(&server, &rows, options.rounds, &mut section).await?;
    report(section);
    drop(server);
    report(on_bmv2(&rows, python.as_ref(), options).await?);
    report(changes(options.changes, program).await?);
    Ok(())
}

fn per_second(rows: usize, time: Duration) -> f64 {
    rows as f64 / time.as_secs_f64().max(1e-9)
}

/// Rates of one round; the Python client's with one request at a time and with as many as ours.
struct Round {
    ours: f64,
    python: Option<[f64; 2]>,
}

async fn writes(
    device: &str,
    address: &str,
    rows: &Rows,
    policy: &[Write],
    python: std::result::Result<&Python, &String>,
    rounds: usize,
) -> Result<Section> {
    let columns = [
        "round",
        "ours, rows/s",
        "Python, 1 in flight, rows/s",
        &format!("Python, {WINDOW} in flight, rows/s"),
        "ours / Python, 1",
        &format!("ours / Python, {WINDOW}"),
    ];
    let title = format!("p4: {} policy rows written to {device}", policy.len());
    let mut section = Section::new(title, &columns);
    section.note(format!(
        "from rows in memory until every one is acknowledged, {UPDATES} to a request; ours has {WINDOW} requests on their \
         way; after each the device is read back and holds just these rows"
    ));
    match python {
        Ok(python) => section.note(format!(
            "Python: grpcio and the official messages ({})",
            python.versions
        )),
        Err(why) => section.note(format!("without the Python client: {why}")),
    }
    let mut elections = Elections::default();
    let mut done: Vec<Round> = Vec::new();
    // The first round does not count: memory is fetched, code is loaded.
    for round in 0..=rounds {
        let measured = one_round(address, rows, policy, python.ok(), &mut elections).await?;
        if round > 0 {
            let mut cells = vec![round.to_string()];
            cells.extend(measured.cells());
            section.row(cells);
            done.push(measured);
        }
    }
    let [ours, one, many] = [
        done.iter().map(|r| r.ours).collect::<Vec<_>>(),
        done.iter().filter_map(|r| Some(r.python?[0])).collect(),
        done.iter().filter_map(|r| Some(r.python?[1])).collect(),
    ]
    .map(|all| median(&all));
    let middle = Round {
        ours,
        python: python.is_ok().then_some([one, many]),
    };
    let mut cells = vec!["median".to_string()];
    cells.extend(middle.cells());
    section.row(cells);
    section.figure("rows", policy.len());
    section.figure("ours, median, rows/s", ours);
    if middle.python.is_some() {
        section.figure("Python, 1 in flight, median, rows/s", one);
        section.figure(format!("Python, {WINDOW} in flight, median, rows/s"), many);
    }
    Ok(section)
}

impl Round {
    fn cells(&self) -> [String; 5] {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_string(), |rate| format!("{rate:.0}"));
        let ratio =
            |rate: Option<f64>| rate.map_or_else(|| "-".to_string(), |r| format!("{:.1}", self.ours / r));
        let [one, many] = [0, 1].map(|which| self.python.map(|p| p[which]));
        [
            rate(Some(self.ours)),
            rate(one),
            rate(many),
            ratio(one),
            ratio(many),
        ]
    }
}

async fn one_round(
    address: &str,
    rows: &Rows,
    policy: &[Write],
    python: Option<&Python>,
    elections: &mut Elections,
) -> Result<Round> {
    let mut ours = Ours::connect(address, elections.next(), &rows.own).await?;
    ours.empty().await?;
    let time = ours.write(policy).await?;
    ours.holds(policy).await?;
    let mut round = Round {
        ours: per_second(policy.len(), time),
        python: None,
    };
    let Some(python) = python else { return Ok(round) };
    python.keep(&rows::lines(&rows.own, policy, ours.writer())?)?;
    let mut rates = [0.0; 2];
    for (rate, in_flight) in rates.iter_mut().zip([1, WINDOW]) {
        ours.empty().await?;
        drop(ours);
        let time = python
            .write(address, elections.next(), in_flight, policy.len())
            .await?;
        *rate = per_second(policy.len(), time);
        ours = Ours::connect(address, elections.next(), &rows.own).await?;
        ours.holds(policy).await?;
    }
    round.python = Some(rates);
    Ok(round)
}

/// The whole way of the backend: what it adds to the client's own work is building, ordering and remembering rows.
async fn through_the_backend(
    server: &P4Server,
    rows: &Rows,
    rounds: usize,
    section: &mut Section,
) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..=rounds {
        server.state().config = None;
        let backend = P4Backend::new(Config::new(TARGET, &server.address(), 1))?;
        let (target, task) = launch(TARGET, backend);
        target.check(&rows.intent)?;
        until(&target, "connected", |s| {
            s.detail.contains("no policy was ever applied")
        })
        .await?;
        let began = Instant::now();
        target.set_intent(Arc::clone(&rows.intent));
        let (confirmed, status) = until(&target, "confirmed", |s| s.confirmed == 1).await?;
        target.stop();
        task.await
            .map_err(|error| BenchError::Untrue(error.to_string()))?;
        if status.writes != [rows.all as u64, 0, 0] {
            return Err(BenchError::Untrue(format!(
                "{} rows were meant; added, changed, deleted: {:?}",
                rows.all, status.writes
            )));
        }
        if round > 0 {
            times.push((confirmed - began).as_secs_f64());
        }
    }
    let middle = Duration::from_secs_f64(median(&times));
    let rate = per_second(rows.all, middle);
    section.note(format!(
        "the whole backend, from a new policy to its {} rows of all tables confirmed, our program put there first: {} ms, \
         {rate:.0} rows/s (median)",
        rows.all,
        ms(middle)
    ));
    section.figure("the whole backend, median, rows/s", rate);
    Ok(())
}

async fn on_bmv2(
    rows: &Rows,
    python: std::result::Result<&Python, &String>,
    options: Options,
) -> Result<Section> {
    if !have_bmv2() {
        let mut section = Section::new("p4: BMv2", &["not measured"]);
        section.note(format!("{BMV2} is not on the PATH"));
        return Ok(section);
    }
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let bmv2 = Device::alone(folder.path())?;
    let policy: Vec<Write> = rows.policy.iter().take(options.bmv2_rows).cloned().collect();
    writes("BMv2", &bmv2.address(), rows, &policy, python, options.rounds).await
}

/// One endpoint's change through the API of an agent's process, to the server in this one.
async fn changes(options: change::Options, program: &Path) -> Result<Section> {
    let attached = options.attached.clamp(1, options.endpoints.max(1));
    let options = change::Options { attached, ..options };
    let fleet = Fleet::hosting(options.endpoints, change::PROFILES, 0).document()?;
    let document = at_ports(&fleet, attached);
    let server = P4Server::start()
        .await
        .map_err(BenchError::io("start the P4Runtime server"))?;
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let target = format!(
        "name = \"{TARGET}\"\nkind = \"p4runtime\"\naddress = \"{}\"\n",
        server.address()
    );
    let place = Place::prepare(program, folder.path(), &target)?;
    let mut section = change::api(&place, &document, options).await?;
    section.title = format!("p4: {}, on the server in this process", section.title);
    section.note(change::which_changes(options, "ports of the switch"));
    section.note(
        "realized: every row is acknowledged; rows that nothing leads to any more are deleted 20 ms after that, and then \
         the agent is in sync",
    );
    section.figure("rows", server.state().entries.len());
    Ok(section)
}

//! Bulk programming: the whole way from a document to confirmed rows, against `ovs-ofctl --bundle` with the same flows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_compiler::{Compiler, Intent};
use portcullis_policy::Document;

use crate::documents::Fleet;
use crate::offline::{Paper, count};
use crate::report::{Section, median, ms};
use crate::switch::{Switch, Target};
use crate::{BenchError, Result};

/// Endpoints that the number of rows is extrapolated from.
const SAMPLE: u32 = 32;

/// How much is programmed, how often.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// At least so many rows.
    pub rows: usize,
    /// Measured rounds, each one of ours and one of `ovs-ofctl`'s.
    pub rounds: usize,
}

/// Times of one round of ours, from the document on.
struct Ours {
    resolve: Duration,
    compile: Duration,
    program: Duration,
    follow: Duration,
}

impl Ours {
    /// Until the switch has confirmed every row.
    fn total(&self) -> Duration {
        self.resolve + self.compile + self.program
    }
}

/// One class in each direction for each endpoint: nothing is shared, so that every row is compiled, proved and sent.
fn fleet(endpoints: u32) -> Fleet {
    Fleet {
        endpoints,
        profiles: endpoints,
        attached: endpoints,
        ports: 24,
        prefixes: 8,
    }
}

/// The smallest such fleet with so many rows, and how many it has.
fn sized(rows: usize) -> Result<(Document, u32, usize)> {
    let counted = |endpoints: u32| -> Result<(Document, usize)> {
        let document = fleet(endpoints).document()?;
        let intent = Compiler::default().resolve(&document, 1)?;
        let rows = count(&Paper::new(endpoints).rows(&intent)?);
        Ok((document, rows))
    };
    let (_, sample) = counted(SAMPLE)?;
    let each = (sample / SAMPLE as usize).max(1);
    let mut endpoints = u32::try_from(rows / each).unwrap_or(u32::MAX).max(1);
    loop {
        let (document, found) = counted(endpoints)?;
        if found >= rows {
            return Ok((document, endpoints, found));
        }
        endpoints += 1 + u32::try_from((rows - found) / each).unwrap_or(0);
    }
}

pub async fn run(options: Options) -> Result<Section> {
    let (document, endpoints, rows) = sized(options.rows)?;
    let switch = Switch::start(endpoints)?;
    let file = switch.sandbox().dir().join("flows.txt");
    warm_up(&switch, &document, &file, rows).await?;
    let mut section = Section::new(
        format!(
            "bulk: {rows} rows into an empty bridge, against ovs-ofctl --bundle add-flows of the same flows"
        ),
        &[
            "round",
            "resolve",
            "compile + prove",
            "send + confirm",
            "ours, ms",
            "ovs-ofctl, ms",
            "ours / ovs-ofctl",
        ],
    );
    section.note(format!(
        "{endpoints} endpoints on dummy ports, each with a profile of its own: 24 scattered ports and 8 + 8 prefixes"
    ));
    section.note(
        "ours: from the document in memory until the switch confirmed every row; a new backend each round",
    );
    section.note(
        "ovs-ofctl: its process, from start to end, reading the text of the flows that ours had written",
    );
    let (mut ours_all, mut theirs_all, mut ratios, mut follow) = (vec![], vec![], vec![], vec![]);
    for round in 0..options.rounds {
        let (ours, theirs) = if round % 2 == 0 {
            let ours = ours(&switch, &document, rows).await?;
            (ours, theirs(&switch, &file)?)
        } else {
            let theirs = theirs(&switch, &file)?;
            (ours(&switch, &document, rows).await?, theirs)
        };
        let ratio = ours.total().as_secs_f64() / theirs.as_secs_f64();
        let parts = [ours.resolve, ours.compile, ours.program, ours.total(), theirs].map(ms);
        let mut cells = vec![(round + 1).to_string()];
        cells.extend(parts);
        cells.push(format!("{ratio:.2}"));
        section.row(cells);
        ours_all.push(ours.total().as_secs_f64() * 1e3);
        theirs_all.push(theirs.as_secs_f64() * 1e3);
        follow.push(ours.follow.as_secs_f64() * 1e3);
        ratios.push(ratio);
    }
    let [ours, theirs, ratio] = [&ours_all, &theirs_all, &ratios].map(|all| median(all));
    let per_second = |ms: f64| format!("{:.0} rows/s", rows as f64 / ms * 1e3);
    section.row(
        [
            "median",
            "",
            "",
            "",
            &format!("{ours:.2}"),
            &format!("{theirs:.2}"),
            &format!("{ratio:.2}"),
        ]
        .map(str::to_string),
    );
    section.note(format!(
        "medians: ours {}, ovs-ofctl {}",
        per_second(ours),
        per_second(theirs)
    ));
    section.note(format!(
        "the datapath's caches follow {:.2} ms after that (median)",
        median(&follow)
    ));
    section.figure("rows", rows);
    section.figure("ours, median, ms", ours);
    section.figure("ovs-ofctl, median, ms", theirs);
    section.figure("ours / ovs-ofctl, median", ratio);
    Ok(section)
}

/// One round of each that does not count: the switch's memory and settings of ports are as in later ones. Writes
/// the flows of ours to `file`, and makes sure that `ovs-ofctl` makes the same of it.
async fn warm_up(switch: &Switch, document: &Document, file: &PathBuf, rows: usize) -> Result<()> {
    ours(switch, document, rows).await?;
    let flows = switch.flows()?;
    if flows.len() != rows {
        return Err(BenchError::Untrue(format!(
            "{rows} rows were meant and {} are there",
            flows.len()
        )));
    }
    std::fs::write(file, flows.join("\n")).map_err(BenchError::io(format!("write {}", file.display())))?;
    theirs(switch, file)?;
    if switch.flows()? != flows {
        return Err(BenchError::Untrue(
            "ovs-ofctl made other flows of the same text".to_string(),
        ));
    }
    Ok(())
}

async fn ours(switch: &Switch, document: &Document, rows: usize) -> Result<Ours> {
    switch.delete_flows()?;
    let target = Target::start(switch).await?;
    switch.settle()?;
    let began = Instant::now();
    let intent: std::sync::Arc<Intent> = Compiler::default().resolve(document, 1)?;
    let resolved = Instant::now();
    target.handle.check(&intent)?;
    let checked = Instant::now();
    target.handle.set_intent(intent);
    let (confirmed, status) = target.until("confirmed", |status| status.confirmed == 1).await?;
    let (applied, _) = target.until("applied", |status| status.applied == 1).await?;
    target.stop().await;
    if status.writes != [rows as u64, 0, 0] {
        return Err(BenchError::Untrue(format!(
            "{rows} rows were meant; added, changed, deleted: {:?}",
            status.writes
        )));
    }
    Ok(Ours {
        resolve: resolved - began,
        compile: checked - resolved,
        program: confirmed - checked,
        follow: applied - confirmed,
    })
}

fn theirs(switch: &Switch, file: &std::path::Path) -> Result<Duration> {
    switch.delete_flows()?;
    switch.settle()?;
    switch.add_flows(file)
}

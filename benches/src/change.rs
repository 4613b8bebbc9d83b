//! One endpoint's change among many: how long until the switch holds it, at the backend and through the API.

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_compiler::Compiler;
use portcullis_openflow::{Command, FlowMod};
use portcullis_policy::{Document, Name};

use crate::Result;
use crate::daemon::{Daemon, End, Place, own_rule};
use crate::documents::{Fleet, changed, endpoint_name};
use crate::floor::{self, Client};
use crate::report::{Section, Times};
use crate::switch::{Switch, Target};

/// Profiles of the fleet.
pub(crate) const PROFILES: u32 = 200;
/// Changes before those that count.
const WARM_UP: u64 = 20;

/// How many changes among how many endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Endpoints in the document.
    pub endpoints: u32,
    /// Those of them that are on a port; their changes are measured.
    pub attached: u32,
    /// Changes that are measured.
    pub changes: u64,
    /// Rest between changes, so that each meets an idle agent.
    pub pause: Duration,
}

/// Measures both ways on one switch.
pub async fn run(options: Options, program: &Path) -> Result<Vec<Section>> {
    let attached = options.attached.clamp(1, options.endpoints.max(1));
    let options = Options { attached, ..options };
    let document = Fleet::hosting(options.endpoints, PROFILES, attached).document()?;
    let switch = Switch::start(attached)?;
    let (section, rows) = backend(&switch, &document, options).await?;
    // The rows of the fleet are still there.
    let mut sections = vec![section, alone(&switch, rows, options)?];
    switch.delete_flows()?;
    switch.settle()?;
    let place = Place::prepare(program, switch.sandbox().dir(), &switch.target())?;
    let mut section = api(&place, &document, options).await?;
    common_notes(&mut section, options);
    sections.push(section);
    Ok(sections)
}

const COLUMNS: [&str; 4] = ["one endpoint's change", "p50, ms", "p99, ms", "max, ms"];

/// What is changed, among what.
pub(crate) fn which_changes(options: Options, ports: &str) -> String {
    format!(
        "{} of {} endpoints on {ports}, {PROFILES} profiles; {} changes, {} ms apart: one endpoint after the other gets a \
         rule of its own (a class nobody had: compiled and proved), the change after that takes it away",
        options.attached,
        options.endpoints,
        options.changes,
        options.pause.as_millis()
    )
}

fn common_notes(section: &mut Section, options: Options) {
    section.note(which_changes(options, "dummy ports"));
    section
        .note("confirmed: new flows meet the rows; realized: what the datapath had cached follows them too");
}

/// Whose turn it is, for change `n`: each endpoint twice.
fn turn(n: u64, options: Options) -> String {
    let endpoint = (n / 2) % u64::from(options.attached);
    endpoint_name(u32::try_from(endpoint).unwrap_or(0))
}

/// Measures the backend. And how many rows it writes when an endpoint gets a class.
async fn backend(switch: &Switch, document: &Document, options: Options) -> Result<(Section, u32)> {
    let target = Target::start(switch).await?;
    let mut compiler = Compiler::default();
    let mut document = document.clone();
    let intent = compiler.resolve(&document, 1)?;
    target.handle.check(&intent)?;
    target.handle.set_intent(intent);
    let (_, before) = target.until("realized", |status| status.applied == 1).await?;
    let mut parts: [Times; 6] = Default::default();
    for n in 0..options.changes + WARM_UP {
        tokio::time::sleep(options.pause).await;
        let generation = n + 2;
        let endpoint: Name = turn(n, options).parse()?;
        document = changed(&document, &endpoint, n)?;
        let began = Instant::now();
        let intent = compiler.resolve(&document, generation)?;
        let resolved = Instant::now();
        target.handle.check(&intent)?;
        let checked = Instant::now();
        target.handle.set_intent(intent);
        let (confirmed, _) = target.until("confirmed", |s| s.confirmed >= generation).await?;
        let (applied, _) = target.until("applied", |s| s.applied >= generation).await?;
        if n < WARM_UP {
            continue;
        }
        let times = [
            resolved - began,
            checked - resolved,
            confirmed - checked,
            confirmed - began,
            applied - checked,
            applied - began,
        ];
        parts
            .iter_mut()
            .zip(times)
            .for_each(|(part, time)| part.push(time));
    }
    let writes = target.handle.status().writes;
    let rows: u64 = target.handle.status().tables.iter().map(|t| t.rows).sum();
    target.stop().await;
    let mut section = Section::new(
        format!("change: at the backend, {} ports", options.attached),
        &COLUMNS,
    );
    common_notes(&mut section, options);
    let written: u64 = writes
        .iter()
        .zip(before.writes)
        .map(|(after, before)| after - before)
        .sum();
    let each = written as f64 / (options.changes + WARM_UP) as f64;
    section.note(format!(
        "{rows} rows on the bridge; {each:.1} rows written per change"
    ));
    section.figure("rows", rows);
    section.figure("rows written per change", each);
    let names = [
        "resolve",
        "compile + prove",
        "set_intent to confirmed",
        "all of it to confirmed",
        "set_intent to realized",
        "all of it to realized",
    ];
    names
        .iter()
        .zip(&mut parts)
        .for_each(|(name, times)| section.quantiles(name, times));
    Ok((section, each.round() as u32))
}

/// Measures what the switch alone takes for changes of that size.
fn alone(switch: &Switch, rows: u32, options: Options) -> Result<Section> {
    let mut client = Client::connect(switch)?;
    let mut parts: [Times; 3] = Default::default();
    let (dispatch, content) = (2, rows.saturating_sub(2).max(1));
    for n in 0..options.changes + WARM_UP {
        std::thread::sleep(options.pause);
        let echo = client.echo()?;
        std::thread::sleep(options.pause);
        let bundles = shaped(n, content, dispatch);
        let time = client.bundles(&bundles)?;
        if n >= WARM_UP {
            let [echoes, two, one] = &mut parts;
            echoes.push(echo);
            if bundles.len() == 2 {
                two.push(time)
            } else {
                one.push(time)
            }
        }
    }
    let mut section = Section::new(
        format!(
            "change: what the switch alone takes for as many rows, {} ports",
            options.attached
        ),
        &COLUMNS,
    );
    section.note(format!(
        "a client that sends ready-made messages: {content} rows come or go and {dispatch} change, on the bridge as it was"
    ));
    section.note("each bundle is sent and checked (one round trip), then committed (another)");
    let names = ["an echo", "in two bundles, one after the other", "in one bundle"];
    names
        .iter()
        .zip(&mut parts)
        .for_each(|(name, times)| section.quantiles(name, times));
    Ok(section)
}

/// Rows of a class come before their dispatch rows, in even changes, and go behind it, in odd ones; now in two bundles, then
/// in one.
fn shaped(n: u64, content: u32, dispatch: u32) -> Vec<Vec<FlowMod>> {
    let comes = n.is_multiple_of(2);
    let command = if comes {
        Command::Add
    } else {
        Command::DeleteStrict
    };
    let class = floor::rows(0..content, command);
    let flip = floor::rows(content..content + dispatch, Command::Add);
    let apart = if comes {
        vec![class, flip]
    } else {
        vec![flip, class]
    };
    if (n / 2).is_multiple_of(2) {
        apart
    } else {
        vec![apart.concat()]
    }
}

/// Measures changes through the API of an agent's process.
pub(crate) async fn api(place: &Place, document: &Document, options: Options) -> Result<Section> {
    let mut daemon = Daemon::start(place)?;
    let mut client = daemon.client().await?;
    let generation = client.apply(document).await?;
    client.realized(generation).await?;
    let mut parts: [Times; 3] = Default::default();
    let histograms = ["portcullis_change_seconds", "portcullis_store_commit_seconds"];
    let mut before = Vec::new();
    for n in 0..options.changes + WARM_UP {
        if n == WARM_UP {
            before = histograms
                .iter()
                .map(|h| daemon.histogram(h))
                .collect::<Result<Vec<_>>>()?;
        }
        let mut endpoint = client.endpoint(&turn(n, options)).await?;
        endpoint.rules = if endpoint.rules.is_empty() {
            vec![own_rule(n)]
        } else {
            Vec::new()
        };
        tokio::time::sleep(options.pause).await;
        let began = Instant::now();
        let generation = client.provision(endpoint).await?;
        let answered = Instant::now();
        client.realized(generation).await?;
        let realized = Instant::now();
        if n >= WARM_UP {
            let times = [answered - began, realized - answered, realized - began];
            parts
                .iter_mut()
                .zip(times)
                .for_each(|(part, time)| part.push(time));
        }
    }
    let mut section = Section::new(
        format!(
            "change: through the API of the agent's process, {} ports",
            options.attached
        ),
        &COLUMNS,
    );
    for (name, (sum, count)) in histograms.iter().zip(before) {
        let (sum_after, count_after) = daemon.histogram(name)?;
        let mean = (sum_after - sum) / (count_after - count).max(1.0) * 1e3;
        section.note(format!("mean of {name}: {mean:.2} ms"));
        section.figure(format!("{name}, mean, ms"), mean);
    }
    let [now, most] = daemon.memory();
    section.note(format!(
        "resident memory of the agent: {now:.0} MiB, at most {most:.0} MiB"
    ));
    daemon.end(End::Term)?;
    let names = [
        "Provision to its answer",
        "answer to WaitRealized's",
        "call to realized",
    ];
    names
        .iter()
        .zip(&mut parts)
        .for_each(|(name, times)| section.quantiles(name, times));
    Ok(section)
}

//! Frames per second on one core: the embedded switch, `dpdk-testpmd` and Open vSwitch on devices of the same kind.
//!
//! The source is a file of frames that DPDK's pcap driver plays again and again, the sink its null driver. All have the
//! same core, and each is stopped while it is not its turn, so that rounds of a second lie side by side. What is counted
//! is frames that a sink was given.

mod embedded;
mod ovs;
mod plot;
mod process;
mod scene;
mod testpmd;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use embedded::Embedded;
use ovs::Ovs;
use plot::Group;
use process::signal;
use scene::{Mix, Scene};
use testpmd::Testpmd;

use crate::report::{Section, median};
use crate::{BenchError, Result};

/// From when one goes on until its figure counts.
const SETTLE: Duration = Duration::from_millis(300);
const NAMES: [&str; 3] = ["testpmd macswap", "embedded switch", "Open vSwitch"];

#[derive(Debug, Clone)]
pub struct Options {
    /// Endpoints of each case.
    pub endpoints: Vec<u32>,
    /// Rounds of each program.
    pub rounds: usize,
    /// Time of each round.
    pub window: Duration,
    /// Why Open vSwitch is left out, when it is.
    pub without_ovs: Option<String>,
    /// Draws the figures to this file, too.
    pub svg: Option<PathBuf>,
}

/// One of those that are measured.
trait Contender {
    fn name(&self) -> &'static str;
    fn pid(&self) -> Result<u32>;
    /// Frames per second that leave it.
    fn rate(&mut self, window: Duration) -> Result<f64>;
}

/// Rows that the agent wrote, and how long it took.
#[derive(Debug, Clone, Copy, Default)]
struct Programmed {
    rows: u64,
    took: Duration,
}

/// The core for everything else, and the one that forwards: the last one, as in the sandbox of Open vSwitch.
fn cores() -> Result<[usize; 2]> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    if count < 2 {
        return Err(BenchError::Untrue(
            "one core forwards and another measures: two are needed".to_string(),
        ));
    }
    Ok([0, count - 1])
}

/// Memory that DPDK is given for packet buffers, MiB.
fn megabytes(buffers: u32) -> u32 {
    128 + buffers / 256
}

/// A rate from a count that rises.
fn counted(window: Duration, count: impl Fn() -> Result<u64>) -> Result<f64> {
    let (before, began) = (count()?, Instant::now());
    std::thread::sleep(window);
    let more = count()?.saturating_sub(before);
    Ok(more as f64 / began.elapsed().as_secs_f64())
}

/// Medians of one case, in the order of [`NAMES`].
struct Figures {
    rates: [Option<f64>; 3],
    notes: Vec<String>,
}

pub async fn run(options: &Options, agent: &Path) -> Result<Section> {
    let [other, core] = cores()?;
    let mut section = Section::new(
        "datapath: millions of frames per second on one core, 64-byte frames, from files to nowhere",
        &[
            "endpoints",
            "denied",
            NAMES[0],
            NAMES[1],
            NAMES[2],
            "embedded / testpmd",
            "embedded / OVS",
        ],
    );
    section.note(format!(
        "core {core} forwards, for all; core {other} is for everything else; medians of {} rounds of {} ms in turns, the \
         others stopped",
        options.rounds,
        options.window.as_millis()
    ));
    section.note("devices: net_pcap (infinite_rx) and net_null (no-rx); UDP over IPv4, every frame of a file a flow of its own");
    section.note("every frame passes the policies of its sender and of its receiver, and leaves; testpmd looks at nothing");
    section.note("rules are the same in both directions; endpoints share 10 profiles; guards are off; rows are the agent's");
    section.note("huge pages: Open vSwitch has them, the other two have ordinary memory");
    let mut groups = Vec::new();
    for endpoints in &options.endpoints {
        for mix in Mix::ALL {
            let scene = Scene {
                endpoints: (*endpoints).max(1),
                mix,
            };
            let figures = one(scene, options, agent).await?;
            groups.push(add(&mut section, scene, figures));
        }
    }
    if let Some(file) = &options.svg {
        let title = "Millions of 64-byte frames per second on one core";
        std::fs::write(file, plot::chart(title, &NAMES, &groups))
            .map_err(BenchError::io(format!("write {}", file.display())))?;
    }
    Ok(section)
}

fn add(section: &mut Section, scene: Scene, figures: Figures) -> Group {
    let [plain, ours, ovs] = figures.rates;
    let ratio = |of: Option<f64>| Some(ours? / of?);
    let shown =
        |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    let millions = figures.rates.map(|rate| rate.map(|r| r / 1e6));
    let mut cells = vec![scene.endpoints.to_string(), scene.mix.name().to_string()];
    cells.extend(millions.map(|m| shown(m, 1)));
    cells.extend([ratio(plain), ratio(ovs)].map(|r| shown(r, 2)));
    section.row(cells);
    let key = format!("{}_endpoints_{}", scene.endpoints, scene.mix.key());
    for (name, value) in [
        ("testpmd_per_s", plain),
        ("embedded_per_s", ours),
        ("ovs_per_s", ovs),
        ("embedded_to_testpmd", ratio(plain)),
        ("embedded_to_ovs", ratio(ovs)),
    ] {
        if let Some(value) = value {
            section.figure(format!("{key}_{name}"), value);
        }
    }
    for note in figures.notes {
        section.note(note);
    }
    Group {
        labels: [
            format!("{} endpoints", scene.endpoints),
            scene.mix.name().to_string(),
        ],
        bars: millions.into(),
    }
}

/// Why there is no Open vSwitch in a case.
fn without_ovs(scene: Scene, options: &Options) -> Option<String> {
    options.without_ovs.clone().or_else(|| {
        (scene.pairs() > 1)
            .then(|| "it attaches an endpoint by its interface, and takes hours to add so many".to_string())
    })
}

async fn one(scene: Scene, options: &Options, agent: &Path) -> Result<Figures> {
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let file = |name: String| folder.path().join(format!("{name}.pcap"));
    let files: Vec<PathBuf> = (0..scene.pairs()).map(|n| file(format!("frames{n}"))).collect();
    for (source, file) in (0..).zip(&files) {
        scene.write_frames(source, file, false)?;
    }
    let mut notes = Vec::new();
    let name = format!("{} endpoints, {}", scene.endpoints, scene.mix.name());
    let cores = cores()?;
    let plain = Testpmd::start(&files, scene.buffers(), cores, &folder.path().join("testpmd.log"))?;
    signal(plain.pid()?, "STOP")?;
    let embedded = Embedded::start(scene, &files, cores[1], agent, folder.path()).await?;
    signal(embedded.pid()?, "STOP")?;
    let written = embedded.programmed;
    let mut said = format!(
        "{name}: {} frames in {} files, {} buffers; embedded: {} rows in {:.1} s",
        scene.frames(),
        files.len(),
        scene.buffers(),
        written.rows,
        written.took.as_secs_f64()
    );
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(plain), Box::new(embedded)];
    match without_ovs(scene, options) {
        None => {
            let untagged = file("untagged".to_string());
            scene.write_frames(0, &untagged, true)?;
            let ovs = Ovs::start(scene, &untagged, agent).await?;
            signal(ovs.pid()?, "STOP")?;
            said.push_str(&format!(
                "; Open vSwitch: {} rows in {:.1} s, {} buffers, all flows of one endpoint, untagged",
                ovs.programmed.rows,
                ovs.programmed.took.as_secs_f64(),
                ovs.buffers
            ));
            contenders.push(Box::new(ovs));
        }
        Some(why) => said.push_str(&format!("; without Open vSwitch: {why}")),
    }
    notes.push(said);
    let rates = in_turns(&mut contenders, options)?;
    Ok(Figures { rates, notes })
}

/// Rounds of each, in turns; the medians.
fn in_turns(contenders: &mut [Box<dyn Contender>], options: &Options) -> Result<[Option<f64>; 3]> {
    let mut seen: [Vec<f64>; 3] = Default::default();
    for _ in 0..options.rounds.max(1) {
        for (contender, seen) in contenders.iter_mut().zip(&mut seen) {
            let pid = contender.pid()?;
            signal(pid, "CONT")?;
            std::thread::sleep(SETTLE);
            let rate = contender.rate(options.window)?;
            signal(pid, "STOP")?;
            if rate < 1.0 {
                return Err(BenchError::Untrue(format!("{} sends nothing", contender.name())));
            }
            seen.push(rate);
        }
    }
    Ok(seen.map(|rates| (!rates.is_empty()).then(|| median(&rates))))
}

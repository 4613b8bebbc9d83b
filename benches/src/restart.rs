//! The agent restarted with nothing changed: how long until it is in sync again, and whether it writes anything.

use std::path::Path;
use std::time::Duration;

use crate::daemon::{Daemon, End, Place};
use crate::documents::{Fleet, PER_VLAN};
use crate::report::{Section, median, ms};
use crate::switch::Switch;
use crate::{BenchError, Result};

/// Profiles of the fleet.
const PROFILES: u32 = 200;

/// How large, how often.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Endpoints in the document.
    pub endpoints: u32,
    /// Those of them that are on a port.
    pub attached: u32,
    pub rounds: usize,
}

/// One start of the agent.
struct Start {
    serving: Duration,
    in_sync: Duration,
    written: u64,
    memory: [f64; 2],
}

pub async fn run(options: Options, program: &Path) -> Result<Section> {
    let attached = options.attached.min(options.endpoints);
    let document = Fleet::hosting(options.endpoints, PROFILES, attached).document()?;
    let switch = Switch::start(attached)?;
    let place = Place::prepare(program, switch.sandbox().dir(), &switch.target())?;
    let mut daemon = Daemon::start(&place)?;
    let mut client = daemon.client().await?;
    let began = std::time::Instant::now();
    let generation = client.apply(&document).await?;
    let answered = began.elapsed();
    client.realized(generation).await?;
    let applied = began.elapsed();
    let (rows, _) = switch.youngest_flow()?;
    let mut section = Section::new(
        format!(
            "restart: the agent of {} endpoints, with nothing changed",
            options.endpoints
        ),
        &[
            "restart after",
            "first answer, ms",
            "in sync, ms",
            "rows written",
            "flows younger",
            "VmRSS, MiB",
            "VmHWM, MiB",
        ],
    );
    section.note(format!(
        "{attached} of {} endpoints are on dummy ports ({PER_VLAN} to a VLAN), the others wait for theirs: the time Open \
         vSwitch takes to add ports grows with their square (2,000: seconds, 10,000: many minutes)",
        options.endpoints
    ));
    section.note(format!(
        "{PROFILES} profiles, {rows} rows on the bridge; times from the start of the process: until a first call is answered, until in sync"
    ));
    section
        .note("flows younger: flows of the bridge that are younger than the process, asked with ovs-ofctl");
    let [now, most] = daemon.memory();
    section.row(
        [
            "first apply",
            &format!("answered {}", ms(answered)),
            &ms(applied),
            &rows.to_string(),
            "",
            &format!("{now:.0}"),
            &format!("{most:.0}"),
        ]
        .map(str::to_string),
    );
    section.figure("first apply, answered, ms", answered.as_secs_f64() * 1e3);
    section.figure("first apply, realized, ms", applied.as_secs_f64() * 1e3);
    section.figure("first apply, VmHWM, MiB", most);
    let (mut in_sync, mut resident, mut written) = (vec![], vec![], 0);
    for round in 0..options.rounds {
        let how = if round % 2 == 0 { End::Term } else { End::Kill };
        daemon.end(how)?;
        let start;
        (daemon, start) = restarted(&place, generation).await?;
        let (left, younger) = younger_flows(&switch, &daemon)?;
        if left != rows {
            return Err(BenchError::Untrue(format!(
                "{rows} flows before the restart, {left} after it"
            )));
        }
        let name = if how == End::Term { "SIGTERM" } else { "SIGKILL" };
        let [now, most] = start.memory;
        section.row(
            [
                name,
                &ms(start.serving),
                &ms(start.in_sync),
                &start.written.to_string(),
                younger,
                &format!("{now:.0}"),
                &format!("{most:.0}"),
            ]
            .map(str::to_string),
        );
        in_sync.push(start.in_sync.as_secs_f64() * 1e3);
        resident.push(most);
        written += start.written;
    }
    daemon.end(End::Term)?;
    section.figure("in sync, median, ms", median(&in_sync));
    section.figure("rows written in all restarts", written);
    section.figure("VmHWM after a restart, median, MiB", median(&resident));
    Ok(section)
}

async fn restarted(place: &Place, generation: u64) -> Result<(Daemon, Start)> {
    let mut daemon = Daemon::start(place)?;
    let mut client = daemon.client().await?;
    let serving = daemon.started.elapsed();
    let target = client.realized(generation).await?;
    let in_sync = daemon.started.elapsed();
    if target.state != "InSync" || target.generation_applied != generation {
        return Err(BenchError::Untrue(format!("realized, and yet {target:?}")));
    }
    let start = Start {
        serving,
        in_sync,
        written: target.rows_added + target.rows_changed + target.rows_deleted,
        memory: daemon.memory(),
    };
    Ok((daemon, start))
}

/// How many flows there are, and whether any was written since the agent started.
fn younger_flows(switch: &Switch, daemon: &Daemon) -> Result<(usize, &'static str)> {
    let (flows, youngest) = switch.youngest_flow()?;
    // Asked after the fact: a flow that is younger now was written after the start.
    let written = youngest < daemon.started.elapsed().as_secs_f64();
    Ok((flows, if written { "some" } else { "none" }))
}

//! `discover`: what datapaths are on this machine. Needs no agent, and reads only.

use clap::Args;
use portcullis_cli::Exit;
use portcullis_cli::error::Failure;
use portcullis_cli::table::Grid;
use portcullis_cli::term::{Term, View};
use portcullis_discovery::{Absent, Datapath, Decision, LOCAL, Places, datapaths, decide, look, sections};
use serde::Serialize;

#[derive(Debug, Clone, Args)]
pub struct Discover {
    /// OVSDB server to ask, `unix:PATH` or `tcp:HOST:PORT`.
    #[arg(long, value_name = "ADDRESS", default_value_t = Places::default().ovsdb)]
    pub ovsdb: String,
    /// P4Runtime servers to ask, `HOST:PORT` or `unix:/PATH`; may be given several times.
    #[arg(long = "server", value_name = "ADDRESS", default_values_t = Places::default().servers)]
    pub servers: Vec<String>,
}

pub async fn run(args: Discover, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let findings = look(&Places {
        ovsdb: args.ovsdb,
        servers: args.servers,
    })
    .await;
    let found = datapaths(&findings);
    let targets = sections(&found).map_err(|error| Failure::Local(Box::new(error)))?;
    let verdict = verdict(&decide(&found, &findings.unread()));
    let found = found.into_iter().zip(targets);
    term.show(&DiscoveryView {
        datapaths: found
            .map(|(datapath, target)| FoundView { datapath, target })
            .collect(),
        absent: findings.absent(),
        without_target: verdict,
    })?;
    Ok(Exit::Done)
}

/// What an agent without a `[[target]]` does that starts here for the first time.
fn verdict(decision: &Decision<'_>) -> String {
    match decision {
        Decision::Nothing => "it waits until there is a datapath".to_string(),
        Decision::Program(one) => format!(
            "it programs {} as target {LOCAL}: it is the only datapath here, and its uplink is known",
            one.title()
        ),
        Decision::Unclear(one, why) => format!("it does not program {}: {why}", one.title()),
        Decision::Unread(why) => format!(
            "it programs nothing, since there may be a datapath where nothing could be read: {}",
            why.join("; ")
        ),
        Decision::Several(several) => format!(
            "it programs none of the {} datapaths: a [[target]] has to say which is meant",
            several.len()
        ),
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct DiscoveryView {
    datapaths: Vec<FoundView>,
    /// Places without a datapath.
    absent: Vec<Absent>,
    /// What an agent without a `[[target]]` does here at its first start.
    without_target: String,
}

/// A datapath, with its settings.
#[derive(Debug, Serialize)]
struct FoundView {
    #[serde(flatten)]
    datapath: Datapath,
    /// The `[[target]]` section for it, as TOML.
    target: Option<String>,
}

impl View for DiscoveryView {
    fn text(&self, width: Option<u16>) -> String {
        let mut grid = Grid::new(&["KIND", "NAME", "VERSIONS", "PORTS", "HOLDS"]);
        for FoundView { datapath, .. } in &self.datapaths {
            let versions = datapath
                .versions
                .iter()
                .map(|(name, version)| format!("{name} {version}"));
            grid.row([
                datapath.kind.as_str().to_string(),
                datapath.name.clone(),
                versions.collect::<Vec<_>>().join(", "),
                ports(datapath),
                datapath.holds.clone(),
            ]);
        }
        let mut text = match grid.is_empty() {
            true => "No datapath found on this machine.\n".to_string(),
            false => grid.text(width) + "\n",
        };
        for absent in self.absent.iter().filter(|absent| !absent.nothing_listens) {
            text += &format!("not found: {}\n", absent.why);
        }
        let nothing = self.absent.iter().filter(|absent| absent.nothing_listens);
        let nothing: Vec<&str> = nothing.map(|absent| absent.address.as_str()).collect();
        if !nothing.is_empty() {
            text += &format!("nothing listens at {}\n", nothing.join(", "));
        }
        text += &format!(
            "\nAn agent without a [[target]], at its first start: {}.\n",
            self.without_target
        );
        let sections = self.datapaths.iter().filter_map(|found| found.target.as_ref());
        for section in sections {
            text += &format!("\n{section}");
        }
        text
    }
}

/// How many, and which of them are uplinks.
fn ports(datapath: &Datapath) -> String {
    let Some(ports) = &datapath.ports else {
        return "not known".to_string();
    };
    let uplinks: Vec<&str> = ports
        .iter()
        .filter(|p| p.uplink)
        .map(|p| p.name.as_str())
        .collect();
    let uplinks = match uplinks.is_empty() {
        true => "uplink not known".to_string(),
        false => format!("uplink {}", uplinks.join(", ")),
    };
    format!("{}, {uplinks}", ports.len())
}

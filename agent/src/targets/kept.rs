//! What earlier looks have decided, kept in a file beside the database.

use std::io::{self, Write};
use std::path::Path;

use portcullis_discovery::{Datapath, LOCAL};

use super::TargetError;
use crate::config::{self, AnyTarget, TargetsConfig};

/// The key of a file that says that there were several datapaths.
const SEVERAL: &str = "several";

/// What a file says.
#[derive(Debug)]
pub(super) enum Kept {
    /// Nothing: there was no datapath, or it was not clear what it is for.
    Undecided,
    /// This target is programmed.
    Target(Box<AnyTarget>),
    /// There were several, and none is programmed.
    Several,
}

/// Reads what is kept.
pub(super) fn read(file: &Path) -> Result<Kept, TargetError> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::Undecided),
        Err(source) => Err(TargetError::DiscoveredFile {
            file: file.display().to_string(),
            source,
        }),
    }
}

fn parse(file: &Path, text: &str) -> Result<Kept, TargetError> {
    let unfit = |what| TargetError::Unfit {
        file: file.display().to_string(),
        what,
    };
    let table: Result<toml::Table, _> = text.parse();
    if table.is_ok_and(|table| table.contains_key(SEVERAL)) {
        return Ok(Kept::Several);
    }
    let config = config::parse(file, text).map_err(|source| TargetError::Discovered {
        file: file.display().to_string(),
        source: Box::new(source),
    })?;
    let TargetsConfig::Configured(mut targets) = config.targets else {
        return Err(unfit("has no [[target]]"));
    };
    match (targets.pop(), targets.is_empty()) {
        (Some(AnyTarget::P4Runtime(target)), true) if target.embedded.is_some() => {
            Err(unfit("sets `ports` of an embedded switch"))
        }
        (Some(target), true) => Ok(Kept::Target(Box::new(target))),
        _ => Err(unfit("has several [[target]]")),
    }
}

/// Why a datapath cannot be kept as the one to program.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("cannot write it")]
    Write(#[from] io::Error),
    #[error("cannot write its settings")]
    Toml(#[from] toml::ser::Error),
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Portcullis has no target for it.
    #[error("it has no settings")]
    Unusable,
}

/// The text that keeps a datapath as the one to program, and its target; nothing is written.
pub(super) fn target_of(file: &Path, datapath: &Datapath) -> Result<(String, AnyTarget), KeepError> {
    let section = datapath.section.as_ref().ok_or(KeepError::Unusable)?;
    let text = format!(
        "# Written by the Portcullis agent, which has no [[target]] in its configuration: it found\n# {}\n# as the only datapath of this \
         machine, and programs it, whether or not it is there. To have the agent look again, stop it and delete\n# this file; to change \
         a setting, move the section to the agent's configuration.\n{}",
        datapath.title(),
        section.toml(LOCAL)?
    );
    match parse(file, &text)? {
        Kept::Target(target) => Ok((text, *target)),
        Kept::Undecided | Kept::Several => Err(KeepError::Unusable),
    }
}

/// Keeps that there were several, so that none is programmed when the others are away.
pub(super) fn write_several(file: &Path, several: &[&Datapath]) -> Result<(), KeepError> {
    let titles = several
        .iter()
        .map(|one| toml::Value::String(one.title()))
        .collect();
    let table = toml::Table::from_iter([(SEVERAL.to_string(), toml::Value::Array(titles))]);
    let text = format!(
        "# Written by the Portcullis agent, which has no [[target]] in its configuration: it found several datapaths and programs none of\n\
         # them. Add a [[target]] to its configuration (`portcullis discover` prints one for each), or stop the agent and delete this\n\
         # file to have it look again.\n{}",
        toml::to_string(&table)?
    );
    Ok(write(file, &text)?)
}

/// Writes a file that is whole or not there, also after a loss of power.
pub(super) fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("toml.new");
    let mut written = std::fs::File::create(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

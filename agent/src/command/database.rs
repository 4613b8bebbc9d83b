//! `database`: works on the agent's database, on its machine.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portcullis_cli::Exit;
use portcullis_cli::error::Failure;
use portcullis_cli::term::Term;

use super::database_view::{AcceptedView, ReportView};
use crate::config;
use crate::store::{self, Leases};

#[derive(Debug, Clone, Subcommand)]
pub enum DatabaseCommand {
    /// Copy the database to a file, while the agent runs or not. The copy is one moment, closings that are only in the
    /// journal included; it is examined before the file gets its name.
    Backup(Backup),
    /// Examine the database, or a backup: every page, the format, and the hashes of the audit log.
    Check(DatabaseCheck),
    /// Put a backup in the place of the database; the agent must be stopped. What was closed since the backup stays closed as
    /// far as the journal and the present database know. The present database is kept under another name.
    Restore(Restore),
    /// Accept the present state: an older database as it is, or a new one without a policy in place of one that is lost or damaged.
    /// The agent must be stopped.
    Accept(DatabasePlace),
}

#[derive(Debug, Clone, Args)]
pub struct DatabasePlace {
    /// The agent's configuration, which says where the database is.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// The database, instead of the one that the configuration names.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub database: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct Backup {
    /// The new file; one that is there is replaced when the copy is whole.
    pub file: PathBuf,
    #[command(flatten)]
    pub place: DatabasePlace,
}

#[derive(Debug, Clone, Args)]
pub struct DatabaseCheck {
    /// A backup; the agent's database when absent.
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub place: DatabasePlace,
}

#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Backup to restore from, as `database backup` wrote it.
    pub file: PathBuf,
    /// What becomes of leases that are open in the backup, where the present database cannot be read and so does not say
    /// which of them ended since.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub leases: Option<RestoreLeases>,
    #[command(flatten)]
    pub place: DatabasePlace,
}

/// What becomes of leases of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestoreLeases {
    /// All are ended: customers request them again.
    End,
    /// They are open as the backup has them, also those that were revoked since.
    Keep,
}

/// A failure on the agent's own files.
fn local(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Local(Box::new(error))
}

fn file(place: &DatabasePlace) -> Result<PathBuf, Failure> {
    match &place.database {
        Some(file) => Ok(file.clone()),
        None => Ok(config::load(&place.config).map_err(local)?.store),
    }
}

pub fn run(command: &DatabaseCommand, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let (file, report) = match command {
        DatabaseCommand::Backup(args) => (
            args.file.clone(),
            store::backup(&file(&args.place)?, &args.file).map_err(local)?,
        ),
        DatabaseCommand::Check(args) => {
            let file = match &args.file {
                Some(file) => file.clone(),
                None => file(&args.place)?,
            };
            let report = store::examine(&file).map_err(local)?;
            (file, report)
        }
        DatabaseCommand::Restore(args) => {
            let file = file(&args.place)?;
            let leases = args.leases.map(|leases| match leases {
                RestoreLeases::End => Leases::End,
                RestoreLeases::Keep => Leases::Keep,
            });
            let report = store::restore(&file, &args.file, leases).map_err(local)?;
            (file, report)
        }
        DatabaseCommand::Accept(place) => {
            let done = store::accept(&file(place)?).map_err(local)?;
            term.show(&AcceptedView { done })?;
            return Ok(Exit::Done);
        }
    };
    term.show(&ReportView::new(&file, report))?;
    Ok(Exit::Done)
}

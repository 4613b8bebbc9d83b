//! `database`: works on the agent's database, on its machine.

use std::path::PathBuf;

use super::super::Exit;
use super::super::args::{DatabaseCommand, DatabasePlace, RestoreLeases};
use super::super::error::Failure;
use super::super::term::Term;
use super::super::view::database::{AcceptedView, ReportView};
use crate::config;
use crate::store::{self, Leases};

fn file(place: &DatabasePlace) -> Result<PathBuf, Failure> {
    match &place.database {
        Some(file) => Ok(file.clone()),
        None => Ok(config::load(&place.config)?.store),
    }
}

pub fn run(command: &DatabaseCommand, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let (file, report) = match command {
        DatabaseCommand::Backup(args) => (args.file.clone(), store::backup(&file(&args.place)?, &args.file)?),
        DatabaseCommand::Check(args) => {
            let file = match &args.file {
                Some(file) => file.clone(),
                None => file(&args.place)?,
            };
            let report = store::examine(&file)?;
            (file, report)
        }
        DatabaseCommand::Restore(args) => {
            let file = file(&args.place)?;
            let leases = args.leases.map(|leases| match leases {
                RestoreLeases::End => Leases::End,
                RestoreLeases::Keep => Leases::Keep,
            });
            let report = store::restore(&file, &args.file, leases)?;
            (file, report)
        }
        DatabaseCommand::Accept(place) => {
            let done = store::accept(&file(place)?)?;
            term.show(&AcceptedView { done })?;
            return Ok(Exit::Done);
        }
    };
    term.show(&ReportView::new(&file, report))?;
    Ok(Exit::Done)
}

//! Logs to stderr, as text or as JSON.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat};

/// Libraries that log what they are asked.
const QUIET: [&str; 3] = ["hickory_net", "hickory_proto", "hickory_resolver"];

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("log.filter is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else logs already.
    #[error("logging cannot begin: {0}")]
    Taken(#[from] TryInitError),
}

pub fn install(log: &Log) -> Result<(), LogError> {
    let filter: Targets = log.filter.parse()?;
    // What is looked up in DNS was submitted by customers.
    let filter = QUIET
        .into_iter()
        .fold(filter, |filter, name| filter.with_target(name, LevelFilter::OFF));
    let layer = match log.format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}

//! Identifies the pipeline that a device runs.

use portcullis_proto::p4::v1::ForwardingPipelineConfig;

use crate::config::PipelineSource;
use crate::device::{Device, OWN};
use crate::failure::shown;
use crate::session::Running;

/// What a device was found to run, its description when that was not known, and its cookie.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Whether that is what is wanted.
    pub running: Running,
    /// Its own description, where that is what counts.
    pub device: Option<Device>,
    /// The cookie of what it runs.
    pub cookie: u64,
}

/// Reads what a device answered: its P4Info and cookie. In words why it cannot be used, when it cannot. `name` is the
/// target's.
pub fn found(
    config: ForwardingPipelineConfig,
    program: &PipelineSource,
    name: &str,
) -> Result<Found, String> {
    let cookie = config.cookie.as_ref().map_or(0, |c| c.cookie);
    let info = config.p4info.filter(|info| !info.tables.is_empty());
    let mapping = match program {
        PipelineSource::Device(mapping) => mapping.as_ref(),
        PipelineSource::Own(_) | PipelineSource::Embedded => {
            let named = info
                .as_ref()
                .and_then(|i| i.pkg_info.as_ref())
                .map(|p| p.name.as_str());
            let running = match (&info, named) {
                (None, _) => Running::Nothing,
                (Some(_), Some(named)) if named == OWN => Running::OtherOfOurs,
                (Some(_), named) => Running::Foreign(shown(named.unwrap_or_default())),
            };
            return Ok(Found {
                running,
                device: None,
                cookie,
            });
        }
    };
    let Some(info) = info else {
        return Err(
            "the device runs no P4 program: set one, or let Portcullis put its own there (program = \"portcullis\")"
                .to_string(),
        );
    };
    let device = Device::new(&info, name, mapping).map_err(|error| error.to_string())?;
    Ok(Found {
        running: Running::Wanted,
        device: Some(device),
        cookie,
    })
}

//! Reads `[access]` again while the agent runs. What cannot be used changes nothing; what needs a start is named.

use portcullis_discovery::Places;
use portcullis_policy::text::with_causes;

use crate::access::Access;
use crate::config::{self, AnyTarget, Config, TargetsConfig};
use crate::metrics;

/// The configuration in use, and what follows its `[access]`.
#[derive(Debug)]
pub struct Reading {
    running: Config,
    access: Access,
}

impl Reading {
    /// Of a configuration that is in use.
    pub fn new(running: Config, access: Access) -> Self {
        Reading { running, access }
    }

    /// Reads the file again, and lets its `[access]` hold.
    pub fn again(&self) {
        let restart = match self.read() {
            Ok(restart) => restart,
            Err(problem) => {
                tracing::error!(
                    %problem,
                    "[access] cannot be used as it is now; what was read before stays in use"
                );
                metrics::access_read(false);
                self.access.report_with(|report| report.problem = problem);
                return;
            }
        };
        metrics::access_read(true);
        tracing::info!("[access] was read again and is in use");
        if !restart.is_empty() {
            let settings = restart.join(", ");
            tracing::warn!(
                settings,
                "these settings are others in the file; they take effect when the agent is started again"
            );
        }
        self.access.report_with(|report| {
            report.problem.clear();
            report.restart = restart;
        });
    }

    /// Settings that need a start.
    fn read(&self) -> Result<Vec<String>, String> {
        let fresh = config::load(&self.running.file).map_err(|error| with_causes(&error))?;
        let restart = differing(&self.running, &fresh);
        match (fresh.access, &self.running.access) {
            (Some(mut access), running) => {
                // Endpoints are known by this label throughout the agent.
                if let Some(label) = running.as_ref().map(|access| &access.tenant_label) {
                    access.tenant_label.clone_from(label);
                }
                self.access
                    .replace(&access)
                    .map_err(|error| with_causes(&error))?;
            }
            (None, None) => {}
            (None, Some(_)) => {
                return Err(format!(
                    "{}: [access] is gone: without it every caller may do everything; start the agent again if you mean that",
                    self.running.file.display()
                ));
            }
        }
        Ok(restart)
    }
}

/// Settings that differ and that only a start takes up.
fn differing(running: &Config, fresh: &Config) -> Vec<String> {
    let (old, new) = (&running.api, &fresh.api);
    let tls = |config: &Config| config.api.tcp.as_ref().and_then(|tcp| tcp.tls.clone());
    let listen = |config: &Config| config.api.tcp.as_ref().map(|tcp| tcp.listen);
    let label = |config: &Config| config.access.as_ref().map(|access| access.tenant_label.clone());
    let settings = [
        ("api.socket", old.socket != new.socket),
        ("api.socket_mode", old.socket_mode != new.socket_mode),
        ("api.socket_group", old.socket_group != new.socket_group),
        ("api.listen", listen(running) != listen(fresh)),
        ("api.drain", old.drain != new.drain),
        ("[api.tls]", tls(running) != tls(fresh)),
        (
            "access.tenant_label",
            label(fresh).is_some_and(|new| label_of(running) != new),
        ),
        ("[checks]", running.checks != fresh.checks),
        ("store.path", running.store != fresh.store),
        ("[audit]", running.audit != fresh.audit),
        (
            "[[target]]",
            configured(&running.targets) != configured(&fresh.targets),
        ),
        (
            "[discovery]",
            places(&running.targets)
                .zip(places(&fresh.targets))
                .is_some_and(|(running, fresh)| running != fresh),
        ),
        ("metrics.listen", running.metrics != fresh.metrics),
        ("[log]", running.log != fresh.log),
        ("[limits]", running.limits != fresh.limits),
    ];
    let differing = settings.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(name, _)| name.to_string()).collect()
}

/// The label in use.
fn label_of(running: &Config) -> String {
    let set = running.access.as_ref().map(|access| access.tenant_label.clone());
    set.unwrap_or_else(|| config::TENANT_LABEL.to_string())
}

/// The configured targets without what the command line adds; none when they are looked for.
fn configured(targets: &TargetsConfig) -> Vec<AnyTarget> {
    let TargetsConfig::Configured(targets) = targets else {
        return Vec::new();
    };
    let mut targets = targets.clone();
    for target in &mut targets {
        if let AnyTarget::Ovs(target) = target {
            target.allow_interruption = false;
        }
    }
    targets
}

/// Where a datapath is looked for, when none is configured.
fn places(targets: &TargetsConfig) -> Option<&Places> {
    match targets {
        TargetsConfig::Discover(discovery) => Some(&discovery.places),
        TargetsConfig::Configured(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_needs_a_start_is_named() {
        let parse = |text: &str| config::parse(Path::new("a.toml"), text).unwrap();
        let running = parse("[access]\n");
        assert!(differing(&running, &parse("[access]\nothers = \"viewer\"\n")).is_empty());
        let mut interrupted = running.clone();
        interrupted.targets.allow_interruption();
        assert!(differing(&interrupted, &running).is_empty());
        for (text, name) in [
            ("[access]\ntenant_label = \"owner\"\n", "access.tenant_label"),
            ("[api]\nsocket = \"/a\"\n", "api.socket"),
            ("[api]\nlisten = \"127.0.0.1:1\"\ninsecure = true\n", "api.listen"),
            ("[store]\npath = \"/a\"\n", "store.path"),
            ("[limits]\nendpoints = 1\n", "[limits]"),
            ("[log]\nformat = \"json\"\n", "[log]"),
            ("[checks]\nattempts = 3\n", "[checks]"),
            ("[audit]\nentries = 0\n", "[audit]"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\n", "metrics.listen"),
            ("[discovery]\novsdb = \"tcp:127.0.0.1:6640\"\n", "[discovery]"),
            ("[[target]]\nname = \"ovs\"\nkind = \"ovs\"\n", "[[target]]"),
        ] {
            assert_eq!(differing(&running, &parse(text)), [name], "{text}");
        }
    }
}

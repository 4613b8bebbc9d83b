//! Cables between targets: `links` of a `[[target]]` names the ports of another one that it is cabled to.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_p4runtime::behind::{Inner, Takes};
use toml::Spanned;

use super::resolve::{Result, refuse};
use super::{AnyTarget, P4Program, raw};

/// A cable as written.
struct Link {
    /// The setting, as a path: `target[0].links[1]`.
    path: String,
    /// The target nearer to the endpoints.
    from: String,
    to: Spanned<String>,
    port: Spanned<u32>,
}

/// All cables of a configuration. They can be resolved once every target is known.
#[derive(Default)]
pub(super) struct Links(Vec<Link>);

impl Links {
    /// Takes the links out of a target.
    pub(super) fn take(&mut self, path: &str, target: &mut raw::Target) {
        let from = target.name.get_ref().clone();
        let links = std::mem::take(&mut target.links).into_iter().enumerate();
        self.0.extend(links.map(|(index, raw::Link { to, port })| Link {
            path: format!("{path}.links[{index}]"),
            from: from.clone(),
            to,
            port,
        }));
    }

    /// Tells each switch what is behind its ports.
    pub(super) fn connect(self, targets: &mut [AnyTarget]) -> Result<()> {
        self.refuse_loops()?;
        let bridges = targets.iter().filter(|t| matches!(t, AnyTarget::Ovs(_))).count();
        let whole: BTreeMap<String, Inner> = targets
            .iter()
            .map(|t| (t.name().to_string(), inner(t, bridges)))
            .collect();
        for Link { path, from, to, port } in self.0 {
            let at = |field: &str| format!("{path}.{field}");
            let known = targets.iter_mut().find(|target| target.name() == to.get_ref());
            let Some(AnyTarget::P4Runtime(outer)) = known else {
                let problem = format!(
                    "`{}` is no target of kind \"p4runtime\" or \"embedded\": name the switch that this one is cabled to",
                    to.get_ref()
                );
                return refuse(&to, at("to"), problem);
            };
            if outer.uplinks.contains(port.get_ref()) {
                let problem = format!("is an uplink of `{}`: nothing is policed there", to.get_ref());
                return refuse(&port, at("port"), problem);
            }
            if let Some(inner) = whole.get(&from) {
                outer
                    .behind
                    .entry(*port.get_ref())
                    .or_default()
                    .push(inner.clone());
            }
        }
        Ok(())
    }

    /// With a loop each target would leave to the other what neither holds.
    fn refuse_loops(&self) -> Result<()> {
        for link in &self.0 {
            let mut reached = BTreeSet::from([link.to.get_ref().as_str()]);
            loop {
                let more: Vec<&str> = self
                    .0
                    .iter()
                    .filter(|next| reached.contains(next.from.as_str()))
                    .map(|next| next.to.get_ref().as_str())
                    .filter(|to| !reached.contains(to))
                    .collect();
                if more.is_empty() {
                    break;
                }
                reached.extend(more);
            }
            if reached.contains(link.from.as_str()) {
                let problem = format!(
                    "leads back to `{}`: one of the two is nearer to the endpoints",
                    link.from
                );
                return refuse(&link.to, format!("{}.to", link.path), problem);
            }
        }
        Ok(())
    }
}

/// A target, seen from the switch that it is cabled to; `bridges` is the number of Open vSwitch targets.
fn inner(target: &AnyTarget, bridges: usize) -> Inner {
    let (takes, is_whole) = match target {
        AnyTarget::Ovs(_) => {
            let without_target = bridges == 1;
            (Takes::Interfaces { without_target }, true)
        }
        AnyTarget::P4Runtime(target) => {
            let uplinks = target.uplinks.iter().copied().collect();
            (
                Takes::Ports { uplinks },
                !matches!(target.program, P4Program::Device(_)),
            )
        }
    };
    Inner {
        target: target.name().to_string(),
        takes,
        is_whole,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, ConfigError, P4Target, TargetsConfig, parse};

    fn read(text: &str) -> std::result::Result<Config, ConfigError> {
        parse(Path::new("agent.toml"), text)
    }

    #[test]
    fn cables_lead_to_switches_and_not_in_a_circle() {
        let two = |ovs: &str, tor: &str| {
            format!(
                "[[target]]\nname = \"host\"\nkind = \"ovs\"\n{ovs}\n[[target]]\nname = \"nic\"\nkind = \"p4runtime\"\naddress = \"a:1\"\n\
                 program = \"device\"\n{tor}\n[[target]]\nname = \"tor\"\nkind = \"p4runtime\"\naddress = \"b:1\"\nuplinks = [9]\n"
            )
        };
        let config = read(&two(
            "links = [{to = \"nic\", port = 1}, {to = \"tor\", port = 2}]",
            "links = [{to = \"tor\", port = 2}]",
        ));
        let TargetsConfig::Configured(targets) = config.unwrap().targets else {
            panic!("no target")
        };
        let [_, AnyTarget::P4Runtime(nic), AnyTarget::P4Runtime(tor)] = targets.as_slice() else {
            panic!("{targets:?}")
        };
        let behind = |target: &P4Target, port: u32| -> Vec<(String, bool, bool)> {
            let list = target.behind.get(&port).into_iter().flatten();
            {
                let takes = |i: &Inner| i.takes == Takes::Interfaces { without_target: true };
                list.map(|i| (i.target.clone(), takes(i), i.is_whole)).collect()
            }
        };
        assert_eq!(behind(nic, 1), [("host".to_string(), true, true)]);
        assert_eq!(
            behind(tor, 2),
            [
                ("host".to_string(), true, true),
                ("nic".to_string(), false, false)
            ]
        );
        for (ovs, tor, words) in [
            (
                "links = [{to = \"x\", port = 1}]",
                "",
                "target[0].links[0].to: `x` is no target",
            ),
            (
                "",
                "links = [{to = \"host\", port = 1}]",
                "`host` is no target of kind",
            ),
            ("", "links = [{to = \"nic\", port = 1}]", "leads back to `nic`"),
            (
                "links = [{to = \"tor\", port = 9}]",
                "",
                "target[0].links[0].port: is an uplink of `tor`",
            ),
            ("links = [{to = \"tor\"}]", "", "port"),
        ] {
            let problem = read(&two(ovs, tor)).unwrap_err().to_string();
            assert!(problem.contains(words), "{problem}");
        }
        // A circle of several, of switches alone.
        let circle = ["a", "b", "c"].iter().zip(["b", "c", "a"]).map(|(from, to)| {
            format!(
                "[[target]]\nname = \"{from}\"\nkind = \"p4runtime\"\naddress = \"{from}:1\"\nlinks = [{{to = \"{to}\", port = 1}}]\n"
            )
        });
        let problem = read(&circle.collect::<String>()).unwrap_err().to_string();
        assert!(problem.contains("leads back to `a`"), "{problem}");
    }
}

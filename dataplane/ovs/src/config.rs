//! Configuration of an Open vSwitch target.

use std::path::PathBuf;
use std::time::Duration;

use portcullis_backend::timers::RESYNC_INTERVAL;

/// What ends the pipeline for packets that no policed port receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalAction {
    /// Uplinks: by rows, or by NORMAL where one of them is a bond.
    Normal,
    /// A foreign pipeline that begins in this table.
    GotoTable(u8),
}

/// Whether the agent sets the bridge's fail mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailMode {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is set to `secure`: without the agent's rows the bridge drops.
    Secure,
}

/// Settings of a target that is one OVS bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the target.
    pub name: String,
    /// The OVSDB server: `unix:PATH` or `tcp:HOST:PORT`.
    pub ovsdb: String,
    /// The bridge; when absent the only one of the userspace datapath. One of the kernel's datapath has to be named.
    pub bridge: Option<String>,
    /// Patterns (`*` stands for anything) of interfaces that are not servers.
    pub uplinks: Vec<String>,
    /// Number of the pipeline's first table; the others follow.
    pub first_table: u8,
    /// What ends the pipeline.
    pub final_action: FinalAction,
    /// MACs that the switch learns at one server port, beside declared ones.
    pub learned_macs: u32,
    /// How often the switch's rows are read back and compared.
    pub resync_interval: Duration,
    /// Folder of the bridge's management socket; that of the OVSDB socket when absent.
    pub mgmt_dir: Option<PathBuf>,
    /// Control socket of ovs-vswitchd, where it is not in that folder.
    pub control_socket: Option<PathBuf>,
    /// Tag in the upper 16 bits of the cookies, by which the agent knows its rows.
    pub cookie: u16,
    /// Tags of other targets of this agent on the same bridge.
    pub other_tags: Vec<u16>,
    /// Whether the fail mode is set.
    pub fail_mode: FailMode,
    /// Whether it may be set while rows of the agent are there, which the change removes for a moment.
    pub allow_interruption: bool,
}

impl Config {
    /// Where a Debian system's Open vSwitch has its database.
    pub const DEFAULT_OVSDB: &'static str = "unix:/run/openvswitch/db.sock";
    /// As many MACs as a server with containers or nested machines has.
    pub const DEFAULT_LEARNED_MACS: u32 = 16;
    /// Default tag: the letters "PC".
    pub const DEFAULT_COOKIE: u16 = 0x5043;

    /// A configuration with every default.
    pub fn new(name: &str, ovsdb: &str) -> Self {
        Config {
            name: name.to_string(),
            ovsdb: ovsdb.to_string(),
            bridge: None,
            uplinks: Vec::new(),
            first_table: 0,
            final_action: FinalAction::Normal,
            learned_macs: Self::DEFAULT_LEARNED_MACS,
            resync_interval: RESYNC_INTERVAL,
            mgmt_dir: None,
            control_socket: None,
            cookie: Self::DEFAULT_COOKIE,
            other_tags: Vec::new(),
            fail_mode: FailMode::Keep,
            allow_interruption: false,
        }
    }

    /// The management socket of a bridge.
    pub fn mgmt_socket(&self, bridge: &str) -> Option<PathBuf> {
        Some(self.run_dir()?.join(format!("{bridge}.mgmt")))
    }

    /// The folder of the daemon's sockets.
    pub fn run_dir(&self) -> Option<PathBuf> {
        match (&self.mgmt_dir, self.ovsdb.strip_prefix("unix:")) {
            (Some(folder), _) => Some(folder.clone()),
            (None, Some(path)) => Some(PathBuf::from(path).parent()?.to_path_buf()),
            (None, None) => None,
        }
    }

    /// Whether an interface is an uplink.
    pub fn is_uplink(&self, interface: &str) -> bool {
        self.uplinks.iter().any(|pattern| matches(pattern, interface))
    }
}

/// Whether `text` matches a pattern in which `*` stands for any characters, or none.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|i| rest.is_char_boundary(*i))
                .any(|i| rest.get(i..).is_some_and(|r| matches(tail, r)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("eth*", "eth12", true),
            ("*-up", "a-up", true),
            ("*-up", "a-up2", false),
            ("a*b*c", "axxbyyc", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_management_socket_is_beside_the_database() {
        let config = Config::new("a", "unix:/run/ovs/db.sock");
        assert_eq!(
            config.mgmt_socket("br0"),
            Some(PathBuf::from("/run/ovs/br0.mgmt"))
        );
        assert_eq!(Config::new("a", "tcp:127.0.0.1:6640").mgmt_socket("br0"), None);
    }
}

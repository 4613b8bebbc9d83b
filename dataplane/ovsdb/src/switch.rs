//! The switch as the replica shows it: bridges, ports, interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::uuid::Uuid;

/// A switch as its database describes it. Columns are those of ovs-vswitchd.conf.db(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// Version of the database schema, such as `8.3.1`.
    pub schema_version: Option<String>,
    /// Version of the daemon, as the distribution's start script sets it; a daemon started by hand leaves it out.
    pub ovs_version: Option<String>,
    /// Whether the daemon runs DPDK. `None`: the database has no such column, or no row yet.
    pub dpdk_initialized: Option<bool>,
    /// Version of the DPDK library; `none` from a daemon built without.
    pub dpdk_version: Option<String>,
    /// Settings of the daemon: `hw-offload`, `vlan-limit`, `dpdk-init` and so on.
    pub other_config: BTreeMap<String, String>,
    /// Labels for others, such as `system-id`.
    pub external_ids: BTreeMap<String, String>,
    /// Datapath types the daemon offers: `netdev`, `system`.
    pub datapath_types: Vec<String>,
    /// Interface types the daemon offers: `dpdk`, `internal`.
    pub iface_types: Vec<String>,
    /// Last configuration sequence number the daemon has put into effect.
    pub cur_cfg: Option<i64>,
    /// Sequence number of the configuration as wanted.
    pub next_cfg: Option<i64>,
    /// Bridges by name, for example `br-int`.
    pub bridges: BTreeMap<String, Bridge>,
}

/// Which part of Open vSwitch forwards a bridge's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// `netdev`: ovs-vswitchd itself, in userspace.
    Userspace,
    /// `system`, the default: the kernel's module `openvswitch`.
    Kernel,
    /// Another one, such as `dummy`.
    Other(String),
}

/// A bridge and its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Its row: stays the same as long as the bridge does, whatever it is called and whatever its ports are.
    pub id: Uuid,
    /// Its name, that of its local port and of its management socket.
    pub name: String,
    /// `netdev` for the userspace datapath; empty means `system`.
    pub datapath_type: String,
    /// OpenFlow datapath identifier, 16 hexadecimal digits; `None` until the daemon has made the bridge.
    pub datapath_id: Option<String>,
    /// `standalone` or `secure`; `None` acts as `standalone`.
    pub fail_mode: Option<String>,
    /// OpenFlow versions offered (`OpenFlow14`); empty means the daemon's own choice.
    pub protocols: Vec<String>,
    /// How many OpenFlow controllers are configured.
    pub controllers: usize,
    /// Configured OpenFlow tables by number.
    pub flow_tables: BTreeMap<u8, FlowTable>,
    /// Addresses of controllers that the bridge lets past its flow tables by hidden flows of its own: those it reaches
    /// in-band.
    pub in_band: Vec<String>,
    /// Whether the bridge prunes multicast by IGMP and MLD.
    pub mcast_snooping_enable: bool,
    /// Settings such as `forward-bpdu` and `mac-aging-time`.
    pub other_config: BTreeMap<String, String>,
    /// Where the bridge sends copies of frames.
    pub mirrors: Vec<Mirror>,
    /// Ports by name, the local port among them; shared with earlier and later views in which they are the same.
    pub ports: BTreeMap<String, Arc<Port>>,
}

impl Bridge {
    /// Which part of Open vSwitch `datapath_type` names.
    pub fn datapath(&self) -> Datapath {
        match self.datapath_type.as_str() {
            "netdev" => Datapath::Userspace,
            "" | "system" => Datapath::Kernel,
            other => Datapath::Other(other.to_owned()),
        }
    }
}

/// A mirror: copies of frames, sent beside the flow tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Name for people; it need not be unique.
    pub name: String,
    /// Name of the port that copies go to.
    pub output_port: Option<String>,
    /// VLAN in which copies go to every port.
    pub output_vlan: Option<u16>,
}

/// Settings of one OpenFlow table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTable {
    /// Name for tools, which has no effect on flows.
    pub name: Option<String>,
    /// Most flows it may hold; `None` is without limit.
    pub flow_limit: Option<u64>,
    /// What happens to a flow too many: `refuse` (the default) or `evict`.
    pub overflow_policy: Option<String>,
}

/// A port: one interface, or several that make a bond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Name, unique in the switch; that of its interface unless it is a bond.
    pub name: String,
    /// Access or native VLAN.
    pub tag: Option<u16>,
    /// VLANs carried, ascending; empty on a trunk means all.
    pub trunks: Vec<u16>,
    /// How VLANs are treated; `None` follows from `tag` and `trunks`.
    pub vlan_mode: Option<VlanMode>,
    /// Settings such as `mcast-snooping-flood`.
    pub other_config: BTreeMap<String, String>,
    /// Its interfaces by name.
    pub interfaces: BTreeMap<String, Interface>,
}

/// How a port treats VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// `access`: one VLAN, untagged.
    Access,
    /// `trunk`: tagged VLANs, those of `trunks`.
    Trunk,
    /// `native-tagged`: a trunk whose untagged frames belong to `tag`, sent tagged.
    NativeTagged,
    /// `native-untagged`: a trunk whose untagged frames belong to `tag`, sent untagged.
    NativeUntagged,
    /// `dot1q-tunnel`: frames get `tag` as an outer VLAN.
    Dot1qTunnel,
    /// A mode this crate does not know, as the database spells it.
    Unknown(String),
}

/// State of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The link has carrier.
    Up,
    /// The link has no carrier.
    Down,
    /// A state this crate does not know, as the database spells it.
    Unknown(String),
}

/// An interface of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name, unique in the switch; for system interfaces that of the kernel.
    pub name: String,
    /// Column `type`: `dpdk`, `internal`, `patch`; empty means `system`.
    pub kind: String,
    /// OpenFlow port number. `None`: not given yet, or the daemon could not make the interface (see `error`).
    pub ofport: Option<u32>,
    /// Why the daemon could not make the interface.
    pub error: Option<String>,
    /// Labels, such as `iface-id` and `attached-mac`.
    pub external_ids: BTreeMap<String, String>,
    /// MAC address in use by the interface itself (not that of a virtual machine behind it).
    pub mac_in_use: Option<String>,
    /// State of the link, where the daemon reports one.
    pub link_state: Option<LinkState>,
    /// Settings by type, such as `dpdk-devargs`.
    pub options: BTreeMap<String, String>,
}

/// An interface with where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<'a> {
    /// The bridge that has the port.
    pub bridge: &'a Bridge,
    /// The port that has the interface.
    pub port: &'a Port,
    /// The interface itself, with its number.
    pub interface: &'a Interface,
}

impl Switch {
    /// Every interface with its port and bridge, in the order of their names.
    pub fn interfaces(&self) -> impl Iterator<Item = Located<'_>> {
        self.bridges.values().flat_map(|bridge| {
            let ports = bridge.ports.values();
            ports.flat_map(move |port| {
                port.interfaces.values().map(move |interface| Located {
                    bridge,
                    port,
                    interface,
                })
            })
        })
    }
}

impl Bridge {
    /// Whether NORMAL forwards frames to the groups that bridges keep to themselves.
    #[must_use]
    pub fn forward_bpdu(&self) -> bool {
        self.other_config.get("forward-bpdu").is_some_and(|v| v == "true")
    }
}

impl Port {
    /// Whether the port joins several interfaces.
    #[must_use]
    pub fn bond(&self) -> bool {
        self.interfaces.len() > 1
    }
}

impl Interface {
    /// `external_ids:iface-id`: the name an orchestrator knows the interface by.
    #[must_use]
    pub fn iface_id(&self) -> Option<&str> {
        self.external_ids.get("iface-id").map(String::as_str)
    }

    /// `external_ids:attached-mac`: the MAC of the machine behind the interface.
    #[must_use]
    pub fn attached_mac(&self) -> Option<&str> {
        self.external_ids.get("attached-mac").map(String::as_str)
    }
}

impl From<&str> for VlanMode {
    fn from(text: &str) -> Self {
        match text {
            "access" => Self::Access,
            "trunk" => Self::Trunk,
            "native-tagged" => Self::NativeTagged,
            "native-untagged" => Self::NativeUntagged,
            "dot1q-tunnel" => Self::Dot1qTunnel,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

impl From<&str> for LinkState {
    fn from(text: &str) -> Self {
        match text {
            "up" => Self::Up,
            "down" => Self::Down,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

//! VLAN membership of a port.

use portcullis_ovsdb::{Port, VlanMode};

/// The VLANs of a port, as Open vSwitch's Port table has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vlans {
    /// One VLAN, without a tag on the wire.
    Access(u16),
    /// Tagged VLANs, and perhaps a native one. Native 0: frames of no VLAN.
    Trunk {
        /// VLAN of untagged frames.
        native: u16,
        /// Whether the native VLAN leaves with a tag.
        native_tagged: bool,
        /// The VLANs it carries; every one when absent.
        only: Option<Vec<u16>>,
    },
}

impl Vlans {
    /// VLAN of frames that come without a tag.
    pub fn native(&self) -> u16 {
        match self {
            Vlans::Access(vid) => *vid,
            Vlans::Trunk { native, .. } => *native,
        }
    }

    /// Whether frames without a tag may pass: a trunk with a list carries them only when it names VLAN 0.
    pub fn takes_untagged(&self) -> bool {
        match self {
            Vlans::Trunk {
                native: 0,
                only: Some(vids),
                ..
            } => vids.contains(&0),
            _ => true,
        }
    }

    /// The VLANs it is in; `None` for every one.
    pub fn members(&self) -> Option<Vec<u16>> {
        match self {
            Vlans::Access(vid) => Some(vec![*vid]),
            Vlans::Trunk { only: None, .. } => None,
            Vlans::Trunk {
                native,
                only: Some(vids),
                ..
            } => {
                let mut all = vids.clone();
                if self.takes_untagged() && !all.contains(native) {
                    all.push(*native);
                }
                Some(all)
            }
        }
    }

    /// What a server's port has of them unless it is a trunk by `vlan: any`: one VLAN, that of frames without a tag.
    pub(super) fn of_server(self) -> Self {
        match self {
            Vlans::Trunk {
                native,
                native_tagged: true,
                ..
            } => Vlans::Trunk {
                native,
                native_tagged: true,
                only: Some(vec![native]),
            },
            vlans if vlans.takes_untagged() => Vlans::Access(vlans.native()),
            _ => Vlans::Trunk {
                native: 0,
                native_tagged: false,
                only: Some(Vec::new()),
            },
        }
    }

    /// Whether both are in one VLAN.
    pub(super) fn meet(&self, other: &Self) -> bool {
        match (self.members(), other.members()) {
            (Some(a), Some(b)) => a.iter().any(|vid| b.contains(vid)),
            _ => true,
        }
    }

    pub(super) fn from_port(port: &Port) -> Result<Self, String> {
        let only = (!port.trunks.is_empty()).then(|| port.trunks.clone());
        let native = port.tag.unwrap_or(0);
        Ok(match (&port.vlan_mode, port.tag) {
            (Some(VlanMode::Access), _) | (None, Some(_)) => Vlans::Access(native),
            (Some(VlanMode::Trunk) | None, _) => Vlans::Trunk {
                native: 0,
                native_tagged: false,
                only,
            },
            (Some(VlanMode::NativeTagged), _) => Vlans::Trunk {
                native,
                native_tagged: true,
                only,
            },
            (Some(VlanMode::NativeUntagged), _) => Vlans::Trunk {
                native,
                native_tagged: false,
                only,
            },
            (Some(other), _) => return Err(format!("{other:?}")),
        })
    }
}

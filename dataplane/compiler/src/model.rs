//! What a target can match: its stages, as data.

use portcullis_policy::View;

/// How a table matches ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// Value and mask.
    Masked,
    /// Inclusive range.
    Range,
}

/// One table of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableModel {
    /// Its name, as status and plans show it.
    pub name: &'static str,
    /// Rows it holds; `None` when only memory bounds it.
    pub size: Option<u64>,
}

/// A target's stages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StageModel {
    /// The model's name.
    pub name: &'static str,
    /// What its parser shows of a packet.
    pub view: View,
    /// How the policy stage matches ports.
    pub ports: PortKind,
    /// Distinct local prefix lengths per IP version that the policy stage's priorities have room for.
    pub local_lengths: usize,
    /// EtherTypes that carry IP where its parser does not see it.
    pub opaque_ethertypes: &'static [u16],
    /// The tables in pipeline order.
    pub tables: Vec<TableModel>,
}

impl StageModel {
    /// Open vSwitch: masked ports, class and remote id in registers, fragments without offsets, later IPv6
    /// fragments without their protocol, and headers that are too short shown as zeros.
    pub fn ovs() -> Self {
        let table = |name| TableModel { name, size: None };
        StageModel {
            name: "ovs",
            view: View {
                fragment_offset: false,
                short_header: false,
                later_v6_protocol: false,
            },
            ports: PortKind::Masked,
            local_lengths: 16,
            // VLAN tags beyond what is parsed (802.1Q, 802.1ad, the old 0x9100), MPLS, PPPoE session.
            opaque_ethertypes: &[0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864],
            tables: [
                "attach",
                "guard",
                "egress_remote",
                "egress_policy",
                "forward",
                "l2",
                "flood",
                "deliver",
                "ingress_remote",
                "ingress_policy",
                "output",
            ]
            .map(table)
            .to_vec(),
        }
    }

    fn built_in() -> [Self; 1] {
        [Self::ovs()]
    }

    /// The built-in model with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::built_in().into_iter().find(|m| m.name == name)
    }

    /// The names of the built-in models.
    pub fn names() -> Vec<&'static str> {
        Self::built_in().iter().map(|m| m.name).collect()
    }
}

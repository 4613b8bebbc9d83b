//! Tables of the pipeline and their keys, by the ids that `p4/include/tables.p4` fixes.

use portcullis_policy::Direction;

/// A table. The number is the lower part of its P4 id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Port and VLAN: the sender's class.
    Attach = 1,
    /// The source MAC of a guarded sender.
    Guard = 2,
    /// Its addresses.
    GuardAddress = 3,
    /// What it says of itself in neighbour discovery.
    GuardNd = 4,
    /// The longest prefix of the destination that a rule of the class names.
    EgressRemote = 5,
    /// The sender's policy.
    EgressPolicy = 6,
    /// Where a MAC is.
    L2 = 7,
    /// Output port and VLAN: the receiver's class.
    Deliver = 8,
    /// The longest prefix of the source that a rule of the class names.
    IngressRemote = 9,
    /// The receiver's policy.
    IngressPolicy = 10,
    /// Whether a server may send what routers, DHCP servers or bridges send.
    Roles = 11,
}

/// A key of a table, by what it is of a frame or of what tables found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the P4 program's keys")]
pub enum Key {
    Port,
    Vlan,
    SrcMac,
    DstMac,
    ArpMalformed,
    Role,
    Kind,
    GuardAddress,
    Protocol,
    SrcPort,
    DstPort,
    NdType,
    NdHidden,
    SrcUnspecified,
    NdTarget,
    NdHasMac,
    NdMac,
    Class,
    EtherType,
    Unreadable,
    Later,
    TcpFlags,
    RemoteId,
    SrcIpv4,
    SrcIpv6,
    DstIpv4,
    DstIpv6,
    IcmpType,
    IcmpCode,
}

use Key as K;

const PLUG: [Key; 2] = [K::Port, K::Vlan];
const POLICY: [Key; 15] = [
    K::Class,
    K::EtherType,
    K::Unreadable,
    K::Protocol,
    K::Later,
    K::TcpFlags,
    K::RemoteId,
    K::SrcIpv4,
    K::SrcIpv6,
    K::DstIpv4,
    K::DstIpv6,
    K::SrcPort,
    K::DstPort,
    K::IcmpType,
    K::IcmpCode,
];

impl Table {
    /// Every table, in the order of its id.
    pub const ALL: [Table; 11] = [
        Table::Attach,
        Table::Guard,
        Table::GuardAddress,
        Table::GuardNd,
        Table::EgressRemote,
        Table::EgressPolicy,
        Table::L2,
        Table::Deliver,
        Table::IngressRemote,
        Table::IngressPolicy,
        Table::Roles,
    ];

    /// Its place among all tables, from 0.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Its P4 id.
    pub fn id(self) -> u32 {
        0x0200_0000 | u32::from(self as u8)
    }

    /// The table with a P4 id.
    pub fn of_id(id: u32) -> Option<Table> {
        Table::ALL.into_iter().find(|t| t.id() == id)
    }

    /// The direction of a table that is about classes; egress for every other one.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Table::IngressPolicy | Table::IngressRemote => Direction::Ingress,
            _ => Direction::Egress,
        }
    }

    /// Its keys: the one with P4 id `n` is at `n - 1`.
    pub fn keys(self) -> &'static [Key] {
        match self {
            Table::Attach | Table::Deliver => &PLUG,
            Table::Guard => &[K::Port, K::Vlan, K::SrcMac, K::ArpMalformed],
            Table::GuardAddress => &[
                K::Port,
                K::Vlan,
                K::SrcMac,
                K::Kind,
                K::GuardAddress,
                K::Protocol,
                K::SrcPort,
                K::DstPort,
            ],
            Table::GuardNd => &[
                K::Port,
                K::Vlan,
                K::SrcMac,
                K::NdType,
                K::NdHidden,
                K::SrcUnspecified,
                K::NdTarget,
                K::NdHasMac,
                K::NdMac,
            ],
            Table::EgressRemote => &[K::Class, K::EtherType, K::DstIpv4, K::DstIpv6],
            Table::IngressRemote => &[K::Class, K::EtherType, K::SrcIpv4, K::SrcIpv6],
            Table::EgressPolicy | Table::IngressPolicy => &POLICY,
            Table::L2 => &[K::DstMac],
            Table::Roles => &[K::Port, K::Vlan, K::Role],
        }
    }

    /// Whether its rows are counted.
    pub fn is_counted(self) -> bool {
        matches!(
            self,
            Table::Roles
                | Table::Guard
                | Table::GuardAddress
                | Table::GuardNd
                | Table::EgressPolicy
                | Table::IngressPolicy
        )
    }
}

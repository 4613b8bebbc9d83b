//! Tables of the pipeline, by the ids that `p4/include/tables.p4` fixes: names, keys, actions. A test of the switch compares them
//! with the P4Info.

use portcullis_policy::Direction;

use crate::row::ActionKind as A;

/// What the fast path knows of a table.
#[derive(Debug, Clone, Copy)]
struct Contract {
    name: &'static str,
    /// The key with P4 id `n` is at `n - 1`.
    keys: &'static [Key],
    actions: &'static [A],
    is_counted: bool,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $id:literal $contract:tt)*) => {
        /// A table. The number is the lower part of its P4 id.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Table {
            $($(#[$doc])* $table = $id,)*
        }

        impl Table {
            /// Every table, in the order of its id.
            pub const ALL: [Table; [$($id),*].len()] = [$(Table::$table),*];

            const fn contract(self) -> Contract {
                match self {
                    $(Table::$table => Contract $contract,)*
                }
            }
        }
    };
}

tables! {
    /// Port and VLAN: the sender's class and overlay.
    Attach = 1 {
        name: "attach",
        keys: POINT,
        actions: &[A::SetClass, A::SetGuardedClass],
        is_counted: false,
    }
    /// The source MAC of a guarded sender.
    Guard = 2 {
        name: "guard",
        keys: &[K::Port, K::Vlan, K::SrcMac, K::ArpMalformed],
        actions: &[A::Allow, A::CheckAddresses, A::Deny],
        is_counted: true,
    }
    /// Source addresses that a guarded sender may use.
    GuardAddress = 3 {
        name: "guard_address",
        keys: &[
            K::Port,
            K::Vlan,
            K::SrcMac,
            K::Kind,
            K::GuardAddress,
            K::Protocol,
            K::SrcPort,
            K::DstPort,
        ],
        actions: &[A::Allow, A::Deny],
        is_counted: true,
    }
    /// What it says of itself in neighbour discovery.
    GuardNd = 4 {
        name: "guard_nd",
        keys: &[
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
        actions: &[A::Allow, A::Deny],
        is_counted: true,
    }
    /// The longest prefix of the destination that a rule of the class names.
    EgressRemote = 5 {
        name: "egress_remote",
        keys: &[K::Class, K::EtherType, K::DstIpv4, K::DstIpv6],
        actions: &[A::SetRemoteId],
        is_counted: false,
    }
    /// Verdict of the sender's egress class.
    EgressPolicy = 6 {
        name: "egress_policy",
        keys: POLICY,
        actions: &[A::Allow, A::Deny],
        is_counted: true,
    }
    /// Where a MAC is.
    L2 = 7 {
        name: "l2",
        keys: &[K::DstMac],
        actions: &[A::Forward, A::ForwardToGroup],
        is_counted: false,
    }
    /// Output port and VLAN: the receiver's class and overlay.
    Deliver = 8 {
        name: "deliver",
        keys: POINT,
        actions: &[A::SetClass],
        is_counted: false,
    }
    /// The longest prefix of the source that a rule of the class names.
    IngressRemote = 9 {
        name: "ingress_remote",
        keys: &[K::Class, K::EtherType, K::SrcIpv4, K::SrcIpv6],
        actions: &[A::SetRemoteId],
        is_counted: false,
    }
    /// Verdict of the receiver's ingress class.
    IngressPolicy = 10 {
        name: "ingress_policy",
        keys: POLICY,
        actions: &[A::Allow, A::Deny],
        is_counted: true,
    }
    /// Whether a server may send what routers, DHCP servers or bridges send.
    Roles = 11 {
        name: "roles",
        keys: &[K::Port, K::Vlan, K::Role],
        actions: &[A::Allow, A::Deny],
        is_counted: true,
    }
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
    Overlay,
}

use Key as K;

const POINT: &[Key] = &[K::Port, K::Vlan];
const POLICY: &[Key] = &[
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
    K::Overlay,
];

impl Table {
    /// Its name in the P4 program.
    pub const fn name(self) -> &'static str {
        self.contract().name
    }

    /// Its place among all tables, from 0.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Id of the table in P4Info.
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
    pub const fn keys(self) -> &'static [Key] {
        self.contract().keys
    }

    /// What its rows may do.
    pub const fn actions(self) -> &'static [A] {
        self.contract().actions
    }

    /// Whether its rows are counted.
    pub const fn is_counted(self) -> bool {
        self.contract().is_counted
    }
}

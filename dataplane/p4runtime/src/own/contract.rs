//! The tables of our P4 program: what each decides, the priorities of its rows, and what the agent has to know of them beside the
//! P4Info, which has their ids, keys, actions and sizes.
//!
//! Rows are written only with priorities of a contract: a [`Level`] is made from nothing else. A test compares the list with the P4Info,
//! and the rows of many documents with both. `describe` prints it.

use crate::attachment_points::At;

/// What a table of the program holds.
#[derive(Debug, Clone, Copy)]
pub struct Contract {
    /// The name in the P4Info.
    pub name: &'static str,
    /// What the table decides, as the docs say it.
    pub does: &'static str,
    /// Its priorities, the highest first; none where every key is exact.
    pub priorities: &'static [Priority],
    /// Whether its rows are there before a row of `attach` leads to them, and go after it.
    pub leads_on: bool,
    /// What denials of its rows count as; none where they count for rules, or are not counted.
    pub denials: Option<&'static str>,
    /// Rows that the embedded switch takes.
    pub embedded_rows: i64,
}

/// A priority with a name, or a range of priorities for rows that are ordered among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    /// Its name in the docs.
    pub name: &'static str,
    /// The lowest number of the range.
    pub lowest: i32,
    /// The highest number, the same as `lowest` for a single priority.
    pub highest: i32,
    /// How much higher a row stands that names a VLAN of its port.
    pub lift: i32,
    /// Which rows have it, as the docs say it.
    pub rows: &'static str,
}

impl Priority {
    const fn new(name: &'static str, number: i32, lift: i32, rows: &'static str) -> Self {
        Priority {
            name,
            lowest: number,
            highest: number,
            lift,
            rows,
        }
    }

    const fn range(name: &'static str, lowest: i32, highest: i32, rows: &'static str) -> Self {
        Priority {
            name,
            lowest,
            highest,
            lift: 0,
            rows,
        }
    }

    /// The priority of a row about a port, or about one VLAN of it.
    pub fn at(self, at: At) -> Level {
        Level(self.lowest + if at.1.is_some() { self.lift } else { 0 })
    }
}

/// The number of a priority that a contract names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// Rows of tables whose keys are all exact have no priority (P4Runtime 9.1).
    pub const NONE: Level = Level(0);

    /// The number on the wire.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// The row of one VLAN wins over the row of the whole port.
pub const POINT: Priority = Priority::new("point", 1, 1, "a port, or one VLAN of it");

pub const HAS_ROLE: Priority = Priority::new("has-role", 3, 2, "what a role of the endpoint allows");
pub const OTHER_ROLES: Priority = Priority::new(
    "other-roles",
    2,
    2,
    "what no role of the endpoint allows: denied; from an uplink everything is allowed",
);

/// Rows of a VLAN lie above all rows of the whole port.
const GUARD_LIFT: i32 = 5;
pub const MALFORMED: Priority = Priority::new(
    "malformed",
    5,
    GUARD_LIFT,
    "ARP that contradicts itself or its frame: denied",
);
pub const ALLOWED: Priority = Priority::new("allowed", 4, GUARD_LIFT, "own MACs and addresses");
pub const NOT_CHOSEN: Priority = Priority::new(
    "not-chosen",
    3,
    GUARD_LIFT,
    "link-local addresses that belong to other hosts: denied",
);
pub const CHOSEN: Priority = Priority::new(
    "chosen",
    2,
    GUARD_LIFT,
    "other link-local addresses, which the host chose",
);
pub const DENIED: Priority = Priority::new("denied", 1, GUARD_LIFT, "everything else: denied");

const PREFIX: Priority = Priority::range(
    "prefix",
    1,
    129,
    "a prefix that a rule of the class names: 1 plus its length",
);
const FIXED_NUMBER: i32 = 1 << 30;
const FIXED: Priority = Priority::range(
    "fixed",
    FIXED_NUMBER,
    FIXED_NUMBER,
    "rows of every class that denies anything: ARP passes; what hides its ports is denied",
);
/// Where rows of overlays begin, as the compiler numbers them.
const OVERLAYS_LOWEST: i32 = FIXED_NUMBER - (1 << 16);
const OVERLAYS: Priority = Priority::range(
    "overlays",
    OVERLAYS_LOWEST,
    FIXED_NUMBER - 1,
    "what rules and unlocks of single endpoints change in their class, ordered by the compiler",
);
const RULES: Priority = Priority::range(
    "rules",
    1,
    OVERLAYS_LOWEST - 1,
    "rows of one class, ordered by the compiler; the lowest one has the direction's default",
);

pub const ATTACH: Contract = Contract {
    name: "attach",
    does: "the sender's class and overlay; what a port without a row sends is dropped",
    priorities: &[POINT],
    leads_on: false,
    denials: None,
    embedded_rows: 1 << 16,
};

pub const ROLES: Contract = Contract {
    name: "roles",
    does: "whether a sender may send what only routers, DHCP servers or bridges send",
    priorities: &[HAS_ROLE, OTHER_ROLES],
    leads_on: true,
    denials: Some("roles"),
    embedded_rows: 1 << 17,
};

pub const GUARD: Contract = Contract {
    name: "guard",
    does: "whether a guarded sender uses its own MAC, and ARP that does not contradict itself",
    priorities: &[MALFORMED, ALLOWED, DENIED],
    leads_on: true,
    denials: Some("guard"),
    embedded_rows: 1 << 18,
};

pub const GUARD_ADDRESS: Contract = Contract {
    name: "guard_address",
    does: "whether a guarded sender uses its own addresses: the source of IP, the sender of ARP",
    priorities: &[ALLOWED, NOT_CHOSEN, CHOSEN, DENIED],
    ..GUARD
};

pub const GUARD_ND: Contract = Contract {
    name: "guard_nd",
    does: "whether a guarded sender speaks only of its own addresses in neighbour discovery",
    priorities: &[ALLOWED, NOT_CHOSEN, CHOSEN, DENIED],
    ..GUARD
};

const EGRESS_REMOTE: Contract = Contract {
    name: "egress_remote",
    does: "remote id of the destination, by the longest prefix that a rule of the class names",
    priorities: &[PREFIX],
    leads_on: false,
    denials: None,
    embedded_rows: 1 << 17,
};

const EGRESS_POLICY: Contract = Contract {
    name: "egress_policy",
    does: "the sender's policy",
    priorities: &[FIXED, OVERLAYS, RULES],
    leads_on: false,
    denials: None,
    embedded_rows: 1 << 17,
};

pub const L2: Contract = Contract {
    name: "l2",
    does: "the port of a declared MAC, or the group of its ports",
    priorities: &[],
    leads_on: false,
    denials: None,
    embedded_rows: 1 << 17,
};

pub const DELIVER: Contract = Contract {
    name: "deliver",
    does: "the receiver's class and overlay; frames to a port without a row are dropped",
    priorities: &[POINT],
    leads_on: false,
    denials: None,
    embedded_rows: 1 << 16,
};

const INGRESS_REMOTE: Contract = Contract {
    name: "ingress_remote",
    does: "remote id of the source, by the longest prefix that a rule of the class names",
    ..EGRESS_REMOTE
};

const INGRESS_POLICY: Contract = Contract {
    name: "ingress_policy",
    does: "the receiver's policy",
    ..EGRESS_POLICY
};

/// Every table, in the order of the P4Info.
pub const TABLES: &[Contract] = &[
    ATTACH,
    ROLES,
    GUARD,
    GUARD_ADDRESS,
    GUARD_ND,
    EGRESS_REMOTE,
    EGRESS_POLICY,
    L2,
    DELIVER,
    INGRESS_REMOTE,
    INGRESS_POLICY,
];

/// The contract of a table of the P4Info.
pub fn contract(table: &str) -> Option<&'static Contract> {
    TABLES.iter().find(|contract| contract.name == table)
}

/// Multicast groups of the program.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    /// The lowest id of the range.
    pub first: u32,
    /// The highest id of the range.
    pub last: u32,
    /// Where copies go, as the docs say it.
    pub copies: &'static str,
}

/// Every port (`group = 1` in `p4/include/tables.p4`).
pub const EVERYBODY: Groups = Groups {
    first: 1,
    last: 1,
    copies: "every port that has rows",
};

/// The uplinks (`flood_unknown` in `p4/include/tables.p4`).
pub const UNKNOWN: Groups = Groups {
    first: 2,
    last: 2,
    copies: "the uplinks: frames for a MAC that `l2` does not have",
};

/// A group for each set of ports that share MACs.
pub const SEVERAL: Groups = Groups {
    first: 256,
    last: u16::MAX as u32,
    copies: "the ports of a MAC that is at several",
};

#[cfg(test)]
mod tests;

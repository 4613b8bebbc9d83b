//! The pipeline: its tables in order, one file each.
//!
//! Docs of it are printed, not kept by hand: [`describe`], `docs/ovs-pipeline.md`, and the test that compares.

pub mod attach;
pub mod control;
pub mod deliver;
pub mod flood;
pub mod forward;
pub mod guard;
pub mod l2;
pub mod learn;
pub mod output;
pub mod policy;
pub mod remote;

use std::fmt::Write as _;

use portcullis_backend::Footprint;
use portcullis_backend::delta::Layer;
use portcullis_openflow::{Field, Match};
use portcullis_policy::Direction;

use crate::config::FinalAction;
use crate::flow::{Flow, Writer};
use crate::regs;

/// A table of the pipeline, in the order in which packets meet them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Port and VLAN tag → sender's class and VLAN.
    Attach,
    /// Source MAC and address of a guarded sender.
    Guard,
    /// Class and destination → remote id.
    EgressRemote,
    /// Class, remote id, protocol, flags, ports → verdict.
    EgressPolicy,
    /// One receiver, or many.
    Forward,
    /// Destination MAC → output port.
    L2,
    /// VLAN → a copy for every receiver.
    Flood,
    /// Output port → receiver's class.
    Deliver,
    /// Class and source → remote id.
    IngressRemote,
    /// Class, remote id, protocol, flags, ports → verdict.
    IngressPolicy,
    /// Output port and VLAN tag → tag as that port has it, and out.
    Output,
    /// Sender and the port that has its MAC → whether the switch learns the MAC. Frames pass it on the side.
    Learn,
}

/// How many tables there are.
pub const COUNT: u8 = 12;

/// One line on each table: name, key, what it does.
type TableInfo = (Table, &'static str, &'static str, &'static str);

const TABLES: [TableInfo; COUNT as usize] = [
    (
        Table::Attach,
        "attach",
        "in_port, vlan_vid",
        "what the sender is, its class and VLAN; drops what comes from ports that the agent does not know yet",
    ),
    (
        Table::Guard,
        "guard",
        "sender, in_port, eth_src, nw_src | ipv6_src | arp | nd",
        "drops what no server may send, and what a guarded one may not use as its source",
    ),
    (
        Table::EgressRemote,
        "egress_remote",
        "class, nw_dst | ipv6_dst",
        "remote id by longest prefix",
    ),
    (
        Table::EgressPolicy,
        "egress_policy",
        "class, remote, eth_type, nw_proto, ip_frag, tcp_flags, ports",
        "the sender's policy",
    ),
    (
        Table::Forward,
        "forward",
        "eth_dst group bit, nw_dst | ipv6_dst",
        "one receiver or many; drops unicast IP in group frames of servers",
    ),
    (
        Table::L2,
        "l2",
        "VLAN, eth_dst",
        "output port of a declared or learned MAC",
    ),
    (
        Table::Flood,
        "flood",
        "part, VLAN",
        "a copy for each receiver of the VLAN, or for each uplink of it",
    ),
    (
        Table::Deliver,
        "deliver",
        "output port",
        "receiver's class; what has no known port goes to uplinks",
    ),
    (
        Table::IngressRemote,
        "ingress_remote",
        "class, nw_src | ipv6_src",
        "remote id by longest prefix",
    ),
    (
        Table::IngressPolicy,
        "ingress_policy",
        "class, remote, eth_type, nw_proto, ip_frag, tcp_flags, ports",
        "the receiver's policy",
    ),
    (
        Table::Output,
        "output",
        "output port, VLAN, vlan_vid",
        "tag as the port has it, then output",
    ),
    (
        Table::Learn,
        "learn",
        "in_port, eth_src, output port of that MAC",
        "whether the switch learns the source; frames pass on the side",
    ),
];

impl Table {
    /// Every table in pipeline order.
    pub fn all() -> impl Iterator<Item = Table> {
        TABLES.iter().map(|(table, ..)| *table)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        TABLES
            .iter()
            .find(|(t, ..)| *t == self)
            .map_or("?", |(_, name, ..)| name)
    }

    /// Whether its rows belong to classes.
    pub fn layer(self) -> Layer {
        match self {
            Table::EgressRemote | Table::EgressPolicy | Table::IngressRemote | Table::IngressPolicy => {
                Layer::Policy
            }
            _ => Layer::Dispatch,
        }
    }

    /// The remote stage of a direction.
    pub fn remote(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Table::EgressRemote,
            Direction::Ingress => Table::IngressRemote,
        }
    }

    /// The policy stage of a direction.
    pub fn policy(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Table::EgressPolicy,
            Direction::Ingress => Table::IngressPolicy,
        }
    }
}

/// EtherTypes that carry IP where the switch does not see it: VLAN tags beyond what is parsed, MPLS, PPPoE session. The
/// `ovs` stage model has the same.
pub const OPAQUE: [u16; 6] = [0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864];
/// EtherTypes of VLAN tags. They show as such only where the switch parses no further tag.
pub const TAG_TYPES: [u16; 2] = [0x8100, 0x88a8];

/// How frames leave that go to uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exit {
    /// By our rows.
    #[default]
    Uplinks,
    /// By NORMAL, which alone balances over the interfaces of a bond.
    Normal,
    /// By a foreign pipeline that begins in this table.
    Table(u8),
}

/// What rows need to know of how the bridge forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// How frames leave that go to uplinks.
    pub exit: Exit,
    /// Whether frames to the groups of bridges go from one uplink to the others (`other_config:forward-bpdu`).
    pub link_control: bool,
    /// MACs that the switch learns at one server port.
    pub learned: u32,
}

/// What rows need to know of the whole: numbers, tag, the end of the pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Pipeline {
    /// Number of the first table; the others follow.
    pub first: u8,
    /// Tag of our cookies.
    pub tag: u16,
    /// What ends the pipeline for packets that no endpoint receives.
    pub last: FinalAction,
    /// EtherTypes that carry IP where the switch does not see it.
    pub opaque: &'static [u16],
}

impl Pipeline {
    /// The number of a table on the switch.
    pub fn number(&self, table: Table) -> u8 {
        self.first.saturating_add(table as u8)
    }

    /// What is recorded of it before its first row is written.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            tag: self.tag,
            tables: Table::all()
                .map(|table| (self.number(table), table.name().to_string()))
                .collect(),
        }
    }

    /// The table with a number on the switch.
    pub fn table(&self, number: u8) -> Option<Table> {
        Table::all().find(|t| self.number(*t) == number)
    }
}

/// Rows that are there whatever the policy: the frame of every table.
pub fn frame(forwarding: Forwarding, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let mut rows = vec![attach::unknown(writer)];
    rows.extend(control::rows(writer));
    rows.extend(forward::rows(forwarding, pipeline, writer));
    rows.extend(deliver::frame(forwarding.exit, pipeline, writer));
    rows.extend(output::frame(writer));
    for direction in Direction::BOTH {
        rows.extend(remote::frame(direction, pipeline, writer));
    }
    // What no row of a table takes is dropped there, visibly.
    for table in [
        Table::Guard,
        Table::Flood,
        Table::Deliver,
        Table::Output,
        Table::EgressPolicy,
        Table::IngressPolicy,
        Table::Learn,
    ] {
        rows.push(writer.drop(table, 0, Match::new()));
    }
    rows
}

/// What the bridge does while our rows are not there.
const WITHOUT_ROWS: &str = "
## Without the agent's rows

**After a start of ovs-vswitchd** the tables are empty. What happens then is the bridge's `fail_mode`: a bridge as
`ovs-vsctl add-br` makes it (`standalone`) passes every packet until the agent has written its rows again, and for ever when
no agent runs; with `secure` it drops. `portcullis status` says so as long as the bridge is not `secure`, and counts the
seconds it saw. `fail_mode = \"secure\"` lets the agent set it. A change of the mode empties the tables of a running bridge,
so the agent makes it before it writes its first row, or when it is started with `--allow-interruption`. When another program
changes the mode, the agent learns it from OVSDB and writes its rows again at once.

**A planned restart** of ovs-vswitchd loses fewer packets with `flow-restore-wait`, under which the switch forwards nothing
until it has its rows:

1. `ovs-vsctl --no-wait set Open_vSwitch . other_config:flow-restore-wait=true`
2. restart ovs-vswitchd
3. wait until `portcullis status` shows the newest generation as confirmed (JSON: `generation_confirmed`). It is not applied
   yet: the switch looks through no cached flows while it waits.
4. `ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-restore-wait`
5. `portcullis status --wait`

**While the agent is away**, what it wrote stays in force, unlocks end by themselves (see above), and nothing new is done. A
server that is plugged in again has a new port number by default, and with it no rows: it sends and receives nothing until
the agent is back. With `ofport_request` of its interface it comes back with its number, and its rows are still there. With
the agent there a new port waits for its rows, some milliseconds.

**When `first_table` or `cookie` changes**, or a new version of the agent has other tables, the rows of before are still on
the bridge. The agent records tag and tables for each bridge before it writes. Rows under a former tag are written again in
their place. Rows in tables that are not used any more go when every new row is in force. Where a table's number means
another table now, one atomic bundle replaces all. `portcullis status` counts what is left over. Rows under any other tag are
another agent's and stay.
";

/// The pipeline as a document.
pub fn describe() -> String {
    let mut text = String::from(
        "# The OVS pipeline\n\nPrinted by `portcullis docs ovs-pipeline`; a test compares. Numbers are relative to \
         `first_table`.\n\n| table | name | key | what it does | layer |\n|---|---|---|---|---|\n",
    );
    for (table, name, key, does) in TABLES {
        // A bar would end the cell.
        let (key, does) = (key.replace('|', "\\|"), does.replace('|', "\\|"));
        let layer = match table.layer() {
            Layer::Policy => "policy",
            Layer::Dispatch => "dispatch",
        };
        let _infallible = writeln!(text, "| +{} | `{name}` | {key} | {does} | {layer} |", table as u8);
    }
    text.push_str(
        "\nPolicy rows belong to a class and are written before dispatch rows lead to it; dispatch rows are flipped in one \
         atomic bundle.\n\n| register | holds |\n|---|---|\n",
    );
    let registers: [(Field, &str); 6] = [
        (
            regs::CLASS,
            "class of the sender, then of the receiver; 0: nothing is denied",
        ),
        (regs::REMOTE, "remote id; 0: no rule names the other side"),
        (regs::VLAN, "VLAN the frame belongs to, tagged or not"),
        (regs::OUT, "output port; 0: not known"),
        (
            regs::SENDER,
            "what the sender is: 1 a server port, 2 a router, 4 a DHCP server, 8 sends tags; 0: an uplink",
        ),
        (regs::FLOOD, "part of the receivers being flooded to"),
    ];
    for (register, holds) in registers {
        let _infallible = writeln!(text, "| {register} | {holds} |");
    }
    let _infallible = write!(
        text,
        "\nThe row of `attach` and of `deliver` that leads a port to a class is a stack while unlocks hold: the lowest row \
         is permanent and leads to what holds when all have ended, and above it stands a row for each end, one priority \
         higher the earlier it is, with a `hard_timeout` of the whole seconds that remain. So the switch closes what \
         unlocks opened even when the agent is dead. At most {} ends of a port and direction are rows; what ends later is \
         then closed with the last of them, unless the agent is there to write its row when earlier ones have ended. A \
         timeout holds {} seconds at most: rows that shall last longer are written again when less than half of that is \
         left, and end early if the agent is away that long.\n",
        crate::expiry::ENDS,
        crate::expiry::MAX,
    );
    text.push_str(WITHOUT_ROWS);
    text.push_str(
        "\n| cookie bits | hold |\n|---|---|\n| 63..48 | the agent's tag (`cookie`), by which it knows its rows |\n\
         | 47 | the row is not compared: learned by the switch, or the nudge (see `caches.rs`) |\n| 46 | learned: bits 31..0 \
         are the port |\n| 45 | learned: a MAC that several ports declare |\n| 46..40 | in other rows: the slice that the row \
         is read back with |\n| 39..0 | in other rows: the generation that wrote the row |\n",
    );
    text
}

#[cfg(test)]
mod model {
    #[test]
    fn the_stage_model_knows_the_same_opaque_types() {
        assert_eq!(
            portcullis_compiler::StageModel::ovs().opaque_ethertypes,
            super::OPAQUE
        );
    }

    #[test]
    fn the_stage_model_names_the_same_tables() {
        let model = portcullis_compiler::StageModel::ovs();
        let names: Vec<&str> = model.tables.iter().map(|t| t.name.as_str()).collect();
        let ours: Vec<String> = super::Table::all().map(|t| t.name().to_string()).collect();
        assert_eq!(names, ours);
    }
}

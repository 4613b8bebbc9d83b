//! `attach`: port and VLAN tag → what the sender is, its class, and the VLAN the frame belongs to.

use portcullis_backend::Overlays;
use portcullis_backend::delta::Layer;
use portcullis_openflow::{Action, Bits, Field, Match, port};
use portcullis_policy::{Direction, EndpointRole};

use super::{Contract, Effect, Exit, Forwarding, Miss, Pipeline, Priority, Table, learn};
use crate::expiry::RANKS;
use crate::flow::{Flow, Writer, then};
use crate::ports::{ManagedPort, Role, SwitchPort, Vlans};
use crate::regs;

/// A tag is present: bit 0x1000 of `vlan_vid` (OXM_OF_VLAN_VID).
pub(crate) const TAGGED: u128 = 0x1000;
/// The table's contract. Foreign rows live in the bridge's first table too, and OpenFlow replaces a row of equal priority and
/// match without an error (1.5, 6.4); so rows of known ports have priorities that others are unlikely to choose.
pub const TABLE: Contract = Contract {
    name: "attach",
    does: "what the sender is, its class and VLAN; drops what comes from ports that the agent does not know yet",
    layer: Layer::Dispatch,
    keys: &[Field::InPort, Field::VlanVid],
    priorities: &[KNOWN, NOT_MEMBER, UNKNOWN],
    effects: &[
        Effect::Drop,
        Effect::Set(regs::SENDER),
        Effect::Set(regs::CLASS),
        Effect::Set(regs::OVERLAY),
        Effect::Set(regs::VLAN),
        Effect::PopVlan,
        Effect::Resubmit(Table::Learn),
        // A copy on the side shows NORMAL where the source is, when NORMAL forwards to uplinks.
        Effect::Set(Field::EthDst),
        Effect::Normal,
        Effect::Goto(Table::Guard),
        Effect::Goto(Table::Forward),
    ],
    miss: Miss::Row(UNKNOWN),
    is_counted: false,
};

const KNOWN_LOWEST: u16 = 20_547;
const KNOWN: Priority = Priority::range(
    "known",
    KNOWN_LOWEST,
    KNOWN_LOWEST + RANKS,
    "frames of a known port in one of its VLANs; a port's timed rows stand above its permanent one",
);
const NOT_MEMBER: Priority = Priority::new(
    "not-member",
    20_537,
    "frames of a known port in VLANs that it is not in: dropped",
);
/// Above 0, where a bridge's own default row is.
pub const UNKNOWN: Priority = Priority::new(
    "unknown",
    1,
    "frames of ports that the agent does not know yet: dropped",
);

/// Teaches NORMAL where this source is without sending anything: to its own source it does not forward.
fn teach_normal() -> Action {
    let mac = |field| Bits::from_field(field);
    Action::Clone(vec![
        Action::Move {
            src: mac(Field::EthSrc),
            dst: mac(Field::EthDst),
            n_bits: 48,
        },
        Action::output(port::NORMAL),
    ])
}

fn vlan_from_tag() -> Action {
    Action::Move {
        src: Bits::from_field(Field::VlanVid),
        dst: Bits::from_field(regs::VLAN),
        n_bits: 12,
    }
}

fn untagged() -> Match {
    Match::new().exact(Field::VlanVid, 0u128)
}

fn vid(v: u16) -> Match {
    Match::new().exact(Field::VlanVid, TAGGED | u128::from(v))
}

/// How the frames of a port tell their VLAN: the match, and the actions that note it.
///
/// A tag of VLAN 0 is a priority, not a VLAN (IEEE 802.1Q). Where a server's port has no tags, this one is removed, so that
/// `guard` sees a second one behind it, which shows as the EtherType. A switch that parses two tags shows the EtherType behind
/// both, and its megaflows do not match on the absence of the second (`xlate_wc_finish` clears it): frames with two tags would
/// take the way of those with one, and keep the second. There no tag is taken from such a port.
fn ways(port: &SwitchPort) -> Vec<(Match, Vec<Action>)> {
    let (vlans, server) = (&port.vlans, port.policed().is_some());
    let noted = |v: u16| -> Vec<Action> {
        let note = (v != 0).then(|| Action::set(regs::VLAN, u128::from(v)));
        note.into_iter().collect()
    };
    let mut list = Vec::new();
    if vlans.takes_untagged() {
        list.push((untagged(), noted(vlans.native())));
    }
    match vlans {
        Vlans::Access(v) => {
            let mut actions = noted(*v);
            actions.extend(server.then_some(Action::PopVlan));
            if !server || port.parses_one_tag {
                list.push((vid(0), actions));
            }
        }
        Vlans::Trunk { only: None, .. } => {
            list.push((
                Match::new().masked(Field::VlanVid, TAGGED, TAGGED),
                vec![vlan_from_tag()],
            ));
        }
        Vlans::Trunk { only: Some(vids), .. } => {
            if vlans.takes_untagged() {
                list.push((vid(0), noted(vlans.native())));
            }
            list.extend(vids.iter().filter(|v| **v != 0).map(|v| (vid(*v), noted(*v))));
        }
    }
    list
}

/// What `sender` holds for a server port.
fn sender(vlans: &Vlans, policed: &ManagedPort) -> u128 {
    let bit = |holds: bool, bit: u128| if holds { bit } else { 0 };
    regs::POLICED
        | bit(policed.has_role(EndpointRole::Router), regs::ROUTER)
        | bit(policed.has_role(EndpointRole::DhcpServer), regs::DHCP_SERVER)
        | bit(!matches!(vlans, Vlans::Access(_)), regs::TAGS)
}

/// The rows of one known port.
pub fn rows(
    switch_port: &SwitchPort,
    overlays: &Overlays,
    forwarding: Forwarding,
    pipeline: &Pipeline,
    writer: &Writer,
) -> Vec<Flow> {
    let number = u128::from(switch_port.number);
    let mut rows = Vec::new();
    for (way, note) in ways(switch_port) {
        let matching = way.exact(Field::InPort, number);
        match &switch_port.role {
            Role::Uplink => {
                let mut actions = note;
                actions.push(learn::ask_of_uplink(pipeline));
                if forwarding.exit == Exit::Normal {
                    actions.push(teach_normal());
                }
                let then = then(actions, pipeline.number(Table::Forward));
                rows.push(writer.flow(Table::Attach, KNOWN, matching, then));
            }
            Role::ManagedPort(policed) => {
                let sender = sender(&switch_port.vlans, policed);
                for timed_row in policed.expiry_chain(Direction::Egress) {
                    let mut actions = vec![Action::set(regs::SENDER, sender)];
                    actions.extend(regs::lead(overlays.lead(timed_row.class), true));
                    actions.extend(note.clone());
                    let then = then(actions, pipeline.number(Table::Guard));
                    let row = writer.flow(Table::Attach, KNOWN.above(timed_row.rank), matching.clone(), then);
                    rows.push(writer.until(row, timed_row.until));
                }
            }
        }
    }
    rows.push(writer.drop(
        Table::Attach,
        NOT_MEMBER,
        Match::new().exact(Field::InPort, number),
    ));
    rows
}

/// Ports that the agent does not know yet are closed: neither their class nor their VLAN is known.
pub fn unknown(writer: &Writer) -> Flow {
    writer.drop(Table::Attach, UNKNOWN, Match::new())
}

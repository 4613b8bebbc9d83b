//! `attach`: port and VLAN tag → the sender's class, and the VLAN the frame belongs to.

use portcullis_compiler::ClassId;
use portcullis_openflow::{Action, Bits, Field, Learn, LearnSpec, Match, port};
use portcullis_policy::Direction;

use super::{Pipeline, Table};
use crate::config::FinalAction;
use crate::flow::{Flow, Writer, then};
use crate::ports::{Role, SwitchPort, Vlans};
use crate::regs;

/// A tag is present: bit 0x1000 of `vlan_vid` (OXM_OF_VLAN_VID).
pub(crate) const TAGGED: u128 = 0x1000;
/// Rows of known ports. The bridge's first table is where foreign rows live too, and OpenFlow replaces a row of
/// equal priority and match without a word (1.5, 6.4); so these are priorities that nobody else would choose.
/// The lowest row of a port's stack; the others are above it.
const KNOWN: u16 = 20_547;
/// What a known port may not send: frames of VLANs it is not in.
const NOT_MEMBER: u16 = 20_537;
/// A port that nobody knows yet. Above 0, where a bridge's own default row is.
pub(crate) const UNKNOWN: u16 = 1;
/// A learned MAC is forgotten after so many seconds, like `mac-aging-time`.
const MAC_AGE: u16 = 300;

pub(crate) fn learn(pipeline: &Pipeline) -> Action {
    Action::Learn(Box::new(Learn {
        idle_timeout: MAC_AGE,
        hard_timeout: 0,
        priority: super::l2::LEARNED,
        cookie: regs::learned_cookie(pipeline.tag),
        flags: 0,
        table_id: pipeline.number(Table::L2),
        fin_idle: 0,
        fin_hard: 0,
        specs: vec![
            LearnSpec::MatchField {
                src: Bits::of(Field::EthSrc),
                dst: Bits::of(Field::EthDst),
                n_bits: 48,
            },
            LearnSpec::LoadField {
                src: Bits::of(Field::InPort16),
                dst: Bits::of(regs::OUT),
                n_bits: 16,
            },
        ],
    }))
}

/// Teaches NORMAL where this source is without sending anything: to its own source it does not forward.
fn teach_normal() -> Action {
    let mac = |field| Bits::of(field);
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
        src: Bits::of(Field::VlanVid),
        dst: Bits::of(regs::VLAN),
        n_bits: 12,
    }
}

/// How the frames of a port tell their VLAN: the match, and the action that notes it.
fn ways(vlans: &Vlans) -> Vec<(Match, Option<Action>)> {
    let untagged = || Match::new().exact(Field::VlanVid, 0u128);
    let vid = |v: u16| Match::new().exact(Field::VlanVid, TAGGED | u128::from(v));
    let noted = |v: u16| (v != 0).then(|| Action::set(regs::VLAN, u128::from(v)));
    let mut list = Vec::new();
    if vlans.takes_untagged() {
        list.push((untagged(), noted(vlans.native())));
    }
    match vlans {
        // A tag of VLAN 0 is a priority, not a VLAN (IEEE 802.1Q).
        Vlans::Access(v) => list.push((vid(0), noted(*v))),
        Vlans::Trunk { only: None, .. } => {
            list.push((
                Match::new().masked(Field::VlanVid, TAGGED, TAGGED),
                Some(vlan_from_tag()),
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

/// The rows of one known port.
pub fn rows(switch_port: &SwitchPort, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let number = u128::from(switch_port.number);
    let mut rows = Vec::new();
    for (way, note) in ways(&switch_port.vlans) {
        let matching = way.exact(Field::InPort, number);
        match &switch_port.role {
            Role::Free => {
                let mut actions = match pipeline.last {
                    FinalAction::Normal => vec![teach_normal()],
                    FinalAction::GotoTable(_) => Vec::new(),
                };
                actions.extend(note);
                let then = then(actions, pipeline.number(Table::Forward));
                rows.push(writer.flow(Table::Attach, KNOWN, matching, then));
            }
            Role::Policed(policed) => {
                let next = pipeline.number(if policed.guarded() {
                    Table::Guard
                } else {
                    Table::EgressRemote
                });
                for rung in policed.stack(Direction::Egress) {
                    let mut actions = Vec::new();
                    if policed.learns() && !policed.guarded() {
                        actions.push(learn(pipeline));
                    }
                    actions.push(Action::set(regs::POLICED, 1u128));
                    if rung.class != ClassId::OPEN {
                        actions.push(Action::set(regs::CLASS, u128::from(rung.class.0)));
                    }
                    actions.extend(note.clone());
                    let then = then(actions, next);
                    let row = writer.flow(Table::Attach, KNOWN + rung.rank, matching.clone(), then);
                    rows.push(writer.until(row, rung.until));
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

/// The rows for ports that nobody knows yet: they are unmanaged from their first packet on.
pub fn unknown(egress: ClassId, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let vlans = Vlans::Trunk {
        native: 0,
        native_tagged: false,
        only: None,
    };
    ways(&vlans)
        .into_iter()
        .map(|(matching, note)| {
            let mut actions = vec![learn(pipeline), Action::set(regs::POLICED, 1u128)];
            if egress != ClassId::OPEN {
                actions.push(Action::set(regs::CLASS, u128::from(egress.0)));
            }
            actions.extend(note);
            writer.flow(
                Table::Attach,
                UNKNOWN,
                matching,
                then(actions, pipeline.number(Table::EgressRemote)),
            )
        })
        .collect()
}

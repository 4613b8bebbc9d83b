//! Layout of registers and cookies.

use portcullis_backend::Lead;
use portcullis_compiler::ClassId;
use portcullis_openflow::{Action, Field};

use crate::flow::FlowIdentity;

/// Class of the sender, then of the receiver. 0: nothing is denied.
pub const CLASS: Field = Field::Reg(0);
/// Remote id of the `remote` stage. 0: no rule names the other side's address.
pub const REMOTE: Field = Field::Reg(1);
/// VLAN the frame belongs to, tagged or not. 0: none.
pub const VLAN: Field = Field::Reg(2);
/// Output port; 0: not known.
pub const OUT: Field = Field::Reg(3);
/// What the sender is: bits [`POLICED`], [`ROUTER`], [`DHCP_SERVER`], [`TAGS`]. 0: an uplink.
pub const SENDER: Field = Field::Reg(4);
/// Part of the receivers being flooded to; 0: begin.
pub const FLOOD: Field = Field::Reg(5);

/// What the sender, then the receiver, has beside its class: rules and unlocks of its own. 0: nothing.
pub const OVERLAY: Field = Field::Reg(6);

/// Bit of [`SENDER`]: a server port.
pub const POLICED: u128 = 1;
/// Bit of [`SENDER`]: it may send what routers send.
pub const ROUTER: u128 = 2;
/// Bit of [`SENDER`]: it may send what DHCP servers send.
pub const DHCP_SERVER: u128 = 4;
/// Bit of [`SENDER`]: it may send frames with VLAN tags.
pub const TAGS: u128 = 8;

/// What [`OUT`] holds for a port: its number in 16 bits, as `in_port` has it in the rows that the switch learns.
pub fn out(number: u32) -> u128 {
    u128::from(number & 0xffff)
}

/// Notes where a port leads for the rows of a policy table. `fresh`: the registers are zero.
pub fn lead(to: Lead, fresh: bool) -> impl Iterator<Item = Action> {
    let registers = [(CLASS, to.class), (OVERLAY, to.overlay)];
    let wanted = registers
        .into_iter()
        .filter(move |(_, id)| !fresh || *id != ClassId::OPEN);
    wanted.map(|(register, id)| Action::set(register, u128::from(id.0)))
}

/// A register of the pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// The register as a match field (`NXM_NX_REG`).
    pub field: Field,
    /// Its name in the docs.
    pub name: &'static str,
    /// What it holds, as the docs say it.
    pub holds: &'static str,
}

/// All of them, to be cleared before a packet leaves for a foreign pipeline.
pub const ALL: [Register; 7] = [
    Register {
        field: CLASS,
        name: "class",
        holds: "class of the sender, then of the receiver; 0: nothing is denied",
    },
    Register {
        field: REMOTE,
        name: "remote",
        holds: "remote id; 0: no rule names the other side",
    },
    Register {
        field: VLAN,
        name: "vlan",
        holds: "VLAN the frame belongs to, tagged or not",
    },
    Register {
        field: OUT,
        name: "out",
        holds: "output port; 0: not known",
    },
    Register {
        field: SENDER,
        name: "sender",
        holds: "what the sender is: 1 a server port, 2 a router, 4 a DHCP server, 8 sends tags; 0: an uplink",
    },
    Register {
        field: FLOOD,
        name: "flood",
        holds: "part of the receivers being flooded to",
    },
    Register {
        field: OVERLAY,
        name: "overlay",
        holds: "what the sender, then the receiver, has beside its class; 0: nothing",
    },
];

/// Bits of the cookie that hold the tag.
pub const TAG_MASK: u64 = 0xffff << 48;
const LEARNED: u64 = 1 << 47;
/// Where the slice of a row begins in its cookie. Rows that are not compared have none.
const SLICE: u32 = 40;
/// How many bits it has.
pub const SLICE_BITS: u32 = 7;
/// With [`LEARNED`]: the row is a MAC that the switch learned, and the lowest 32 bits are its port.
const BY_PORT: u64 = 1 << 46;
/// With [`BY_PORT`]: a MAC that several ports declare.
const ROAMING: u64 = 1 << 45;
/// Bits of the cookie that hold the generation.
pub const GENERATION: u64 = (1 << 40) - 1;

/// The cookie of a row: the agent's tag and the generation that wrote it.
pub fn cookie(tag: u16, generation: u64) -> u64 {
    (u64::from(tag) << 48) | (generation & GENERATION)
}

/// The slice that a row is read back with, as it stands in its cookie. It only spreads rows evenly: a row with another slice
/// is read, too, with that one.
pub fn slice(place: &FlowIdentity) -> u64 {
    // FNV-1a: the same for every version of the agent.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let head = [place.table as u8]
        .into_iter()
        .chain(place.priority.to_be_bytes());
    let hash = head.fold(0xcbf2_9ce4_8422_2325, |hash, byte| step(hash, &byte));
    let hash = place.matching.as_oxm_bytes().iter().fold(hash, step);
    ((hash >> 32) & ((1 << SLICE_BITS) - 1)) << SLICE
}

/// Cookie and mask of every row of ours in one of `1 << bits` parts, but those that are not compared.
pub fn part(tag: u16, number: u64, bits: u32) -> (u64, u64) {
    let mask = ((1 << bits.min(SLICE_BITS)) - 1) << SLICE;
    (
        cookie(tag, 0) | ((number << SLICE) & mask),
        TAG_MASK | LEARNED | mask,
    )
}

/// Cookies and masks that together are every cookie with another tag, each once.
pub fn other_tags(tag: u16) -> impl Iterator<Item = (u64, u64)> {
    // Those that differ first in bit 63, then those that differ first in bit 62, and so on.
    (0..16).map(move |bit: u32| {
        let mask = TAG_MASK & (TAG_MASK << (15 - bit));
        ((cookie(tag, 0) ^ (1 << (63 - bit))) & mask, mask)
    })
}

/// The cookie of the nudge (see `caches.rs`), which is not compared.
pub fn nudge_cookie(tag: u16, generation: u64) -> u64 {
    cookie(tag, generation) | LEARNED
}

/// The cookie of the MACs that the switch learns at a port. They are counted by it, and they go with the row that
/// teaches them.
pub fn learned_cookie(tag: u16, port: u32) -> u64 {
    (u64::from(tag) << 48) | LEARNED | BY_PORT | u64::from(port)
}

/// The same for MACs that several ports declare: they do not count against the port's limit.
pub fn roaming_cookie(tag: u16, port: u32) -> u64 {
    learned_cookie(tag, port) | ROAMING
}

/// The tag of a cookie.
pub fn tag(cookie: u64) -> u16 {
    (cookie >> 48) as u16
}

/// Whether a cookie of ours is of a row that is not compared: a MAC that the switch learned, or in the flood table the
/// nudge. Rows that earlier releases let the switch learn knew no VLAN and no port; they are compared, and so removed.
pub fn is_learned(cookie: u64, flood: bool) -> bool {
    cookie & LEARNED != 0 && (flood || cookie & BY_PORT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_other_tags_are_every_cookie_once() {
        let takes = |(cookie, mask): (u64, u64), row: u64| row & mask == cookie & mask;
        let mut seed = 1u64;
        for round in 0..2000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            let tag = if round % 3 == 0 {
                0x5043
            } else {
                (seed >> 20) as u16
            };
            let row = cookie(tag, seed) | (seed >> 5) & (((1 << SLICE_BITS) - 1) << SLICE);
            for bits in 0..=SLICE_BITS {
                let parts = (0..1u64 << bits)
                    .filter(|n| takes(part(0x5043, *n, bits), row))
                    .count();
                let others = other_tags(0x5043).filter(|o| takes(*o, row)).count();
                assert_eq!(
                    (parts, others),
                    if tag == 0x5043 { (1, 0) } else { (0, 1) },
                    "{row:#x}"
                );
                let aside = [
                    learned_cookie(0x5043, 7),
                    roaming_cookie(0x5043, 7),
                    nudge_cookie(0x5043, seed),
                ];
                for cookie in aside {
                    assert!(!(0..1u64 << bits).any(|n| takes(part(0x5043, n, bits), cookie)));
                }
            }
        }
    }
}

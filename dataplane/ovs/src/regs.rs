//! The one place for register bits and cookies.

use portcullis_openflow::Field;

/// Class of the sender, then of the receiver. 0: nothing is denied.
pub const CLASS: Field = Field::Reg(0);
/// Remote id of the `remote` stage. 0: no rule names the other side's address.
pub const REMOTE: Field = Field::Reg(1);
/// VLAN the frame belongs to, tagged or not. 0: none.
pub const VLAN: Field = Field::Reg(2);
/// Output port; 0: not known.
pub const OUT: Field = Field::Reg(3);
/// 1 when the sender is policed.
pub const POLICED: Field = Field::Reg(4);
/// Part of the receivers being flooded to; 0: begin.
pub const FLOOD: Field = Field::Reg(5);

/// All of them, to be cleared before a packet leaves for a foreign pipeline.
pub const ALL: [Field; 6] = [CLASS, REMOTE, VLAN, OUT, POLICED, FLOOD];

/// Bits of the cookie that hold the tag.
pub const TAG_MASK: u64 = 0xffff << 48;
const LEARNED: u64 = 1 << 47;
/// Bits of the cookie that hold the generation.
pub const GENERATION: u64 = (1 << 40) - 1;

/// The cookie of a row: the agent's tag and the generation that wrote it.
pub fn cookie(tag: u16, generation: u64) -> u64 {
    (u64::from(tag) << 48) | (generation & GENERATION)
}

/// The cookie of rows that are not compared: those the switch learns on our behalf, and the nudge.
pub fn learned_cookie(tag: u16) -> u64 {
    (u64::from(tag) << 48) | LEARNED
}

/// Whether a cookie has our tag.
pub fn is_ours(tag: u16, cookie: u64) -> bool {
    cookie & TAG_MASK == u64::from(tag) << 48
}

/// Whether a cookie of ours is of a row that is not compared.
pub fn is_learned(cookie: u64) -> bool {
    cookie & LEARNED != 0
}

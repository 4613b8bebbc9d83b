//! Flow modification and removal notices (OpenFlow 1.5 §7.3.4.2, §7.4.2).

use crate::error::{DecodeError, EncodeError};
use crate::instruction::{self, Instruction};
use crate::matches::Match;
use crate::oxs::Oxs;
use crate::port;
use crate::version::Version;
use crate::wire::{Reader, Writer};

/// Buffer id of a flow modification that applies to no buffered packet (OFP_NO_BUFFER).
pub const NO_BUFFER: u32 = 0xffff_ffff;
/// The wildcard of table ids, in deletes and requests.
pub const ALL_TABLES: u8 = 0xff;
/// The wildcard of group ids, in deletes and requests.
pub const ANY_GROUP: u32 = 0xffff_ffff;

/// Bits of [`FlowMod::flags`] (OFPFF_*).
pub mod flags {
    /// Tell when the flow goes.
    pub const SEND_FLOW_REM: u16 = 1 << 0;
    /// Refuse a flow that overlaps another of its priority.
    pub const CHECK_OVERLAP: u16 = 1 << 1;
    /// Counters start at zero, also when a flow is replaced.
    pub const RESET_COUNTS: u16 = 1 << 2;
    /// Packets need not be counted.
    pub const NO_PKT_COUNTS: u16 = 1 << 3;
    /// Bytes need not be counted.
    pub const NO_BYT_COUNTS: u16 = 1 << 4;
    /// The flags that say something of the flow; the others are about the change that made it. Compare a flow with
    /// what is wanted in these alone: Open vSwitch reports all of them back.
    pub const STATE: u16 = SEND_FLOW_REM | NO_PKT_COUNTS | NO_BYT_COUNTS;
}

/// What a [`FlowMod`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Command {
    /// Add, or replace the flow of equal match and priority.
    #[default]
    Add,
    /// Change the instructions of every flow the match covers.
    Modify,
    /// Change the instructions of the flow of equal match and priority.
    ModifyStrict,
    /// Remove every flow the match covers.
    Delete,
    /// Remove the flow of equal match and priority.
    DeleteStrict,
}

impl Command {
    const ALL: [Command; 5] = [
        Command::Add,
        Command::Modify,
        Command::ModifyStrict,
        Command::Delete,
        Command::DeleteStrict,
    ];
}

/// Adds, changes or removes flows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowMod {
    /// Cookie of an added flow; in other commands the cookie looked for.
    pub cookie: u64,
    /// Bits of the cookie that must agree, for commands other than [`Command::Add`]; 0 takes any cookie.
    pub cookie_mask: u64,
    /// The table; [`ALL_TABLES`] in deletes.
    pub table_id: u8,
    /// Whether flows are added, changed or deleted.
    pub command: Command,
    /// Seconds without a packet after which the flow goes, 0 for never.
    pub idle_timeout: u16,
    /// Seconds after which the flow goes, 0 for never.
    pub hard_timeout: u16,
    /// Among matching flows the highest wins.
    pub priority: u16,
    /// Packet buffered in the switch to apply the flow to, or [`NO_BUFFER`].
    pub buffer_id: u32,
    /// Deletes only flows that output there; [`port::ANY`] deletes all.
    pub out_port: u32,
    /// Deletes only flows that use this group; [`ANY_GROUP`] deletes all.
    pub out_group: u32,
    /// Bits of [`flags`] for the flow or the change.
    pub flags: u16,
    /// Flows of lower importance are evicted first.
    pub importance: u16,
    /// Packets the flow applies to; in other commands than [`Command::Add`], the flows to change or delete.
    pub match_: Match,
    /// What to do with them; nothing drops them.
    pub instructions: Vec<Instruction>,
}

impl Default for FlowMod {
    fn default() -> Self {
        FlowMod {
            cookie: 0,
            cookie_mask: 0,
            table_id: 0,
            command: Command::Add,
            idle_timeout: 0,
            hard_timeout: 0,
            priority: 0x8000,
            buffer_id: NO_BUFFER,
            out_port: port::ANY,
            out_group: ANY_GROUP,
            flags: 0,
            importance: 0,
            match_: Match::new(),
            instructions: Vec::new(),
        }
    }
}

impl FlowMod {
    pub(crate) fn decode(mut r: Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let (cookie, cookie_mask) = (r.u64()?, r.u64()?);
        let table_id = r.u8()?;
        let command = r.u8()?;
        let command = Command::ALL
            .get(usize::from(command))
            .copied()
            .ok_or(DecodeError::Value {
                what: "flow-mod command",
                value: u64::from(command),
            })?;
        Ok(FlowMod {
            cookie,
            cookie_mask,
            table_id,
            command,
            idle_timeout: r.u16()?,
            hard_timeout: r.u16()?,
            priority: r.u16()?,
            buffer_id: r.u32()?,
            out_port: r.u32()?,
            out_group: r.u32()?,
            flags: r.u16()?,
            importance: r.u16()?,
            match_: Match::decode(&mut r)?,
            instructions: instruction::decode_list(r, version)?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        w.u64(self.cookie);
        w.u64(self.cookie_mask);
        w.u8(self.table_id);
        w.u8(match self.command {
            Command::Add => 0,
            Command::Modify => 1,
            Command::ModifyStrict => 2,
            Command::Delete => 3,
            Command::DeleteStrict => 4,
        });
        w.u16(self.idle_timeout);
        w.u16(self.hard_timeout);
        w.u16(self.priority);
        w.u32(self.buffer_id);
        w.u32(self.out_port);
        w.u32(self.out_group);
        w.u16(self.flags);
        w.u16(self.importance);
        self.match_.encode(w)?;
        instruction::encode_list(&self.instructions, w, version)
    }
}

/// Why a flow went (OFPRR_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovedReason {
    /// No packet for its idle timeout.
    IdleTimeout,
    /// Its hard timeout passed.
    HardTimeout,
    /// Deleted by a flow-mod.
    Delete,
    /// Its group was removed.
    GroupDelete,
    /// Its meter was removed.
    MeterDelete,
    /// Evicted to make room.
    Eviction,
    /// A reason this codec has no name for.
    Other(u8),
}

impl RemovedReason {
    const NAMED: [RemovedReason; 6] = [
        RemovedReason::IdleTimeout,
        RemovedReason::HardTimeout,
        RemovedReason::Delete,
        RemovedReason::GroupDelete,
        RemovedReason::MeterDelete,
        RemovedReason::Eviction,
    ];

    fn from_wire(byte: u8) -> Self {
        Self::NAMED
            .get(usize::from(byte))
            .copied()
            .unwrap_or(RemovedReason::Other(byte))
    }

    fn wire(self) -> u8 {
        match self {
            RemovedReason::IdleTimeout => 0,
            RemovedReason::HardTimeout => 1,
            RemovedReason::Delete => 2,
            RemovedReason::GroupDelete => 3,
            RemovedReason::MeterDelete => 4,
            RemovedReason::Eviction => 5,
            RemovedReason::Other(byte) => byte,
        }
    }
}

/// A flow with [`flags::SEND_FLOW_REM`] went.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowRemoved {
    /// Cookie of the removed flow.
    pub cookie: u64,
    /// Priority of the removed flow.
    pub priority: u16,
    /// Timeout, delete or eviction.
    pub reason: RemovedReason,
    /// Table the flow was in.
    pub table_id: u8,
    /// Its age in seconds.
    pub duration_sec: u32,
    /// Nanoseconds to add to `duration_sec`.
    pub duration_nsec: u32,
    /// Its idle timeout in seconds.
    pub idle_timeout: u16,
    /// Its hard timeout in seconds.
    pub hard_timeout: u16,
    /// Packets the flow matched.
    pub packet_count: u64,
    /// Bytes of those packets.
    pub byte_count: u64,
    /// Match of the removed flow, canonical.
    pub match_: Match,
}

impl FlowRemoved {
    pub(crate) fn decode(r: Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        match version {
            Version::V1_4 => Self::decode_v4(r),
            Version::V1_5 => Self::decode_v5(r),
        }
    }

    fn decode_v4(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(FlowRemoved {
            cookie: r.u64()?,
            priority: r.u16()?,
            reason: RemovedReason::from_wire(r.u8()?),
            table_id: r.u8()?,
            duration_sec: r.u32()?,
            duration_nsec: r.u32()?,
            idle_timeout: r.u16()?,
            hard_timeout: r.u16()?,
            packet_count: r.u64()?,
            byte_count: r.u64()?,
            match_: Match::decode(&mut r)?,
        })
    }

    fn decode_v5(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let table_id = r.u8()?;
        let reason = RemovedReason::from_wire(r.u8()?);
        let (priority, idle_timeout, hard_timeout) = (r.u16()?, r.u16()?, r.u16()?);
        let cookie = r.u64()?;
        let match_ = Match::decode(&mut r)?;
        let oxs = Oxs::decode(&mut r)?;
        Ok(FlowRemoved {
            cookie,
            priority,
            reason,
            table_id,
            duration_sec: oxs.duration_sec,
            duration_nsec: oxs.duration_nsec,
            idle_timeout,
            hard_timeout,
            packet_count: oxs.packet_count,
            byte_count: oxs.byte_count,
            match_,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        match version {
            Version::V1_4 => {
                w.u64(self.cookie);
                w.u16(self.priority);
                w.u8(self.reason.wire());
                w.u8(self.table_id);
                w.u32(self.duration_sec);
                w.u32(self.duration_nsec);
                w.u16(self.idle_timeout);
                w.u16(self.hard_timeout);
                w.u64(self.packet_count);
                w.u64(self.byte_count);
                self.match_.encode(w)
            }
            Version::V1_5 => {
                w.u8(self.table_id);
                w.u8(self.reason.wire());
                w.u16(self.priority);
                w.u16(self.idle_timeout);
                w.u16(self.hard_timeout);
                w.u64(self.cookie);
                self.match_.encode(w)?;
                let oxs = Oxs {
                    duration_sec: self.duration_sec,
                    duration_nsec: self.duration_nsec,
                    idle_secs: None,
                    packet_count: self.packet_count,
                    byte_count: self.byte_count,
                };
                oxs.encode(w)
            }
        }
    }
}

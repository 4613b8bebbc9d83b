//! Switch features, configuration and role (OpenFlow 1.5 §7.3.1, §7.3.2, §7.3.10).

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, Writer};

/// Bits of [`Features::capabilities`] (OFPC_*).
pub mod capabilities {
    /// Keeps counters of flows.
    pub const FLOW_STATS: u32 = 1 << 0;
    /// Keeps counters of tables.
    pub const TABLE_STATS: u32 = 1 << 1;
    /// Keeps counters of ports.
    pub const PORT_STATS: u32 = 1 << 2;
    /// Keeps counters of groups.
    pub const GROUP_STATS: u32 = 1 << 3;
    /// Can reassemble IP fragments.
    pub const IP_REASM: u32 = 1 << 5;
    /// Keeps counters of queues.
    pub const QUEUE_STATS: u32 = 1 << 6;
    /// Blocks ports that form a loop, for example by spanning tree.
    pub const PORT_BLOCKED: u32 = 1 << 8;
    /// Takes bundles, see [`crate::bundle`].
    pub const BUNDLES: u32 = 1 << 9;
    /// Can report changes of flows to a monitor.
    pub const FLOW_MONITORING: u32 = 1 << 10;
}

/// What the switch is and can do (`ofp_switch_features`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// Datapath id; its lower 48 bits are a MAC address.
    pub datapath_id: u64,
    /// Packets the switch can buffer.
    pub n_buffers: u32,
    /// Number of tables, at most 255.
    pub n_tables: u8,
    /// 0 on the main connection.
    pub auxiliary_id: u8,
    /// Bits of [`capabilities`] the switch has.
    pub capabilities: u32,
}

impl Features {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (datapath_id, n_buffers, n_tables, auxiliary_id) = (r.u64()?, r.u32()?, r.u8()?, r.u8()?);
        r.skip(2)?;
        let capabilities = r.u32()?;
        Ok(Features {
            datapath_id,
            n_buffers,
            n_tables,
            auxiliary_id,
            capabilities,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.datapath_id);
        w.u32(self.n_buffers);
        w.u8(self.n_tables);
        w.u8(self.auxiliary_id);
        w.zeros(2);
        w.u32(self.capabilities);
        w.zeros(4);
    }
}

/// How IP fragments are treated (OFPC_FRAG_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fragments {
    /// Later fragments are matched with ports of zero.
    #[default]
    Normal,
    /// Fragments are dropped at the ingress.
    Drop,
    /// Fragments are reassembled before the tables.
    Reassemble,
    /// As `Normal`, except that first fragments show their ports (Open vSwitch's OFPC_FRAG_NX_MATCH).
    NxMatch,
}

/// Settings of the switch (`ofp_switch_config`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SwitchConfig {
    /// How IP fragments are treated.
    pub fragments: Fragments,
    /// Bytes of a packet that a packet-in for a table miss carries; 0xffff is all of it.
    pub miss_send_len: u16,
}

impl SwitchConfig {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let fragments = match r.u16()? & 3 {
            0 => Fragments::Normal,
            1 => Fragments::Drop,
            2 => Fragments::Reassemble,
            _ => Fragments::NxMatch,
        };
        Ok(SwitchConfig {
            fragments,
            miss_send_len: r.u16()?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u16(match self.fragments {
            Fragments::Normal => 0,
            Fragments::Drop => 1,
            Fragments::Reassemble => 2,
            Fragments::NxMatch => 3,
        });
        w.u16(self.miss_send_len);
    }
}

/// Kinds of [`AsyncProp`] (OFPACPT_*): even ones for a controller in the slave role, odd ones for master and equal.
pub mod async_kind {
    /// Reasons for packet-ins in the slave role.
    pub const PACKET_IN_SLAVE: u16 = 0;
    /// Reasons for packet-ins as master or equal.
    pub const PACKET_IN_MASTER: u16 = 1;
    /// Reasons for port status in the slave role.
    pub const PORT_STATUS_SLAVE: u16 = 2;
    /// Reasons for port status as master or equal.
    pub const PORT_STATUS_MASTER: u16 = 3;
    /// Reasons for flow removals in the slave role.
    pub const FLOW_REMOVED_SLAVE: u16 = 4;
    /// Reasons for flow removals as master or equal.
    pub const FLOW_REMOVED_MASTER: u16 = 5;
}

/// Which messages the switch sends unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AsyncProp {
    /// What it is about, one of [`async_kind`].
    pub kind: u16,
    /// Bit *n* lets messages of reason *n* through.
    pub mask: u32,
}

impl AsyncProp {
    pub(crate) fn decode_list(mut r: Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let mut props = Vec::new();
        while !r.is_empty() {
            let (kind, length) = (r.u16()?, usize::from(r.u16()?));
            if length != 8 {
                return Err(DecodeError::Length {
                    what: "asynchronous configuration property",
                    length,
                });
            }
            props.push(AsyncProp { kind, mask: r.u32()? });
        }
        Ok(props)
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        let start = w.len();
        w.u16(self.kind);
        let mark = w.open(start);
        w.u32(self.mask);
        w.close(mark, "asynchronous configuration property")
    }
}

//! Ports: reserved numbers, descriptions, modification and status (OpenFlow 1.5 §7.2.1, §7.3.4.3, §7.4.3).

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, Writer};

/// Largest number of an ordinary port.
pub const MAX: u32 = 0xffff_ff00;
/// Back out by the port the packet came in by; output to the ingress port needs it.
pub const IN_PORT: u32 = 0xffff_fff8;
/// Through the flow tables; packet-out only.
pub const TABLE: u32 = 0xffff_fff9;
/// As a learning switch would.
pub const NORMAL: u32 = 0xffff_fffa;
/// All ports of the VLAN but the ingress port and blocked ones.
pub const FLOOD: u32 = 0xffff_fffb;
/// All ports but the ingress port.
pub const ALL: u32 = 0xffff_fffc;
/// To the controller as a packet-in.
pub const CONTROLLER: u32 = 0xffff_fffd;
/// The switch's own port.
pub const LOCAL: u32 = 0xffff_fffe;
/// No port in particular; the wildcard of requests and deletes.
pub const ANY: u32 = 0xffff_ffff;

/// Bits of [`PortDesc::config`] and [`PortMod::config`] (OFPPC_*).
pub mod config {
    /// The port is taken down.
    pub const PORT_DOWN: u32 = 1 << 0;
    /// Packets coming in by the port are dropped.
    pub const NO_RECV: u32 = 1 << 2;
    /// Packets sent to the port are dropped.
    pub const NO_FWD: u32 = 1 << 5;
    /// Table misses of the port make no packet-in.
    pub const NO_PACKET_IN: u32 = 1 << 6;
}

/// Bits of [`PortDesc::state`] (OFPPS_*).
pub mod state {
    /// The port has no carrier.
    pub const LINK_DOWN: u32 = 1 << 0;
    /// Blocked by a protocol such as spanning tree.
    pub const BLOCKED: u32 = 1 << 1;
    /// Live for fast failover.
    pub const LIVE: u32 = 1 << 2;
}

/// A 16-bit port number of OpenFlow 1.0 and the Nicira extensions as 32 bits.
pub const fn widen(port: u16) -> u32 {
    if port >= 0xff00 {
        0xffff_0000 | port as u32
    } else {
        port as u32
    }
}

/// A port number as 16 bits, if it has such a form.
pub const fn narrow(port: u32) -> Option<u16> {
    if port < 0xff00 || port >= 0xffff_ff00 {
        Some((port & 0xffff) as u16)
    } else {
        None
    }
}

/// Length in bytes of the name field.
const NAME_LEN: usize = 16;
/// Bytes of a port description before its properties.
const DESC_LEN: usize = 40;

/// A port of the switch (`ofp_port`, without its properties).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortDesc {
    /// Number of the port, or [`LOCAL`].
    pub port_no: u32,
    /// MAC address of the interface.
    pub hw_addr: [u8; 6],
    /// Name, at most 15 bytes (the switch cuts longer ones); bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Settings, bits of [`config`].
    pub config: u32,
    /// What is so, bits of [`state`].
    pub state: u32,
}

impl PortDesc {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let port_no = r.u32()?;
        let length = usize::from(r.u16()?);
        let properties = length.checked_sub(DESC_LEN).ok_or(DecodeError::Length {
            what: "port description",
            length,
        })?;
        r.skip(2)?;
        let hw_addr = r.array()?;
        r.skip(2)?;
        let name = text(r.take(NAME_LEN)?);
        let (config, state) = (r.u32()?, r.u32()?);
        r.skip(properties)?;
        Ok(PortDesc {
            port_no,
            hw_addr,
            name,
            config,
            state,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        let start = w.len();
        w.u32(self.port_no);
        let mark = w.open(start);
        w.zeros(2);
        w.bytes(&self.hw_addr);
        w.zeros(2);
        put_text(w, &self.name, NAME_LEN, "port name")?;
        w.u32(self.config);
        w.u32(self.state);
        w.close(mark, "port description")
    }
}

/// Text up to the first zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Text filled with zeros to `width` bytes, at least one of them.
pub(crate) fn put_text(
    w: &mut Writer<'_>,
    text: &str,
    width: usize,
    what: &'static str,
) -> Result<(), EncodeError> {
    let fill = width.checked_sub(text.len()).filter(|n| *n > 0);
    let fill = fill.ok_or(EncodeError::TooLong {
        what,
        length: text.len(),
    })?;
    w.bytes(text.as_bytes());
    w.zeros(fill);
    Ok(())
}

/// Changes settings of a port (`ofp_port_mod`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMod {
    /// Number of the port to change.
    pub port_no: u32,
    /// Its MAC address, as a check.
    pub hw_addr: [u8; 6],
    /// New values, bits of [`config`].
    pub config: u32,
    /// Which bits of `config` to change.
    pub mask: u32,
}

impl PortMod {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let port_no = r.u32()?;
        r.skip(4)?;
        let hw_addr = r.array()?;
        r.skip(2)?;
        Ok(PortMod {
            port_no,
            hw_addr,
            config: r.u32()?,
            mask: r.u32()?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.port_no);
        w.zeros(4);
        w.bytes(&self.hw_addr);
        w.zeros(2);
        w.u32(self.config);
        w.u32(self.mask);
    }
}

/// Why a [`PortStatus`] was sent (OFPPR_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortReason {
    /// The port was added.
    Add,
    /// The port was removed.
    Delete,
    /// Something about the port changed.
    Modify,
}

/// A port came, went or changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortStatus {
    /// Whether the port was added, removed or changed.
    pub reason: PortReason,
    /// The port as it now is, or last was.
    pub port: PortDesc,
}

impl PortStatus {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let reason = match r.u8()? {
            0 => PortReason::Add,
            1 => PortReason::Delete,
            2 => PortReason::Modify,
            other => {
                return Err(DecodeError::Value {
                    what: "port status reason",
                    value: u64::from(other),
                });
            }
        };
        r.skip(7)?;
        Ok(PortStatus {
            reason,
            port: PortDesc::decode(r)?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        w.u8(match self.reason {
            PortReason::Add => 0,
            PortReason::Delete => 1,
            PortReason::Modify => 2,
        });
        w.zeros(7);
        self.port.encode(w)
    }
}

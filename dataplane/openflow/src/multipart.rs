//! Multipart requests and replies (OpenFlow 1.5 §7.3.5).

use crate::error::{DecodeError, EncodeError};
use crate::port::{self, PortDesc, put_text, text};
use crate::stats::{FlowStats, FlowStatsRequest, TableStats};
use crate::version::Version;
use crate::wire::{Reader, Writer};

/// "More parts follow" (OFPMPF_REQ_MORE, OFPMPF_REPLY_MORE).
const MORE: u16 = 1;

mod typ {
    pub(super) const DESC: u16 = 0;
    pub(super) const FLOW: u16 = 1;
    pub(super) const TABLE: u16 = 3;
    pub(super) const PORT_DESC: u16 = 13;
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MultipartRequest {
    /// What the switch is.
    Desc,
    /// Flows that agree with the filter (OFPMP_FLOW in 1.4, OFPMP_FLOW_DESC in 1.5).
    Flow(FlowStatsRequest),
    /// Counters of the tables.
    Table,
    /// Descriptions of the ports (OFPMP_PORT_DESC).
    PortDesc {
        /// Only this one, unless [`port::ANY`]. 1.4 can only ask for all.
        port_no: u32,
    },
    /// A request this codec has no name for, sent on as it came.
    Unknown {
        /// Multipart type (OFPMP_*); 0xffff is an experimenter's.
        typ: u16,
        /// Multipart flags; bit 0 is set when more parts follow.
        flags: u16,
        /// What follows type and flags.
        body: Vec<u8>,
    },
}

impl MultipartRequest {
    /// Asks for all ports.
    pub fn all_ports() -> Self {
        MultipartRequest::PortDesc { port_no: port::ANY }
    }

    /// Asks for all flows whose cookie agrees with `cookie` in the bits of `mask`.
    pub fn flows_with_cookie(cookie: u64, mask: u64) -> Self {
        MultipartRequest::Flow(FlowStatsRequest {
            cookie,
            cookie_mask: mask,
            ..FlowStatsRequest::default()
        })
    }

    pub(crate) fn decode(mut r: Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let (typ, flags) = head(&mut r)?;
        Ok(match typ {
            typ::DESC if flags == 0 => MultipartRequest::Desc,
            typ::FLOW if flags == 0 => MultipartRequest::Flow(FlowStatsRequest::decode(&mut r)?),
            typ::TABLE if flags == 0 => MultipartRequest::Table,
            typ::PORT_DESC if flags == 0 => {
                let port_no = if version == Version::V1_5 {
                    r.u32()?
                } else {
                    port::ANY
                };
                MultipartRequest::PortDesc { port_no }
            }
            _ => MultipartRequest::Unknown {
                typ,
                flags,
                body: r.remainder().to_vec(),
            },
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        match self {
            MultipartRequest::Desc => put_head(w, typ::DESC, 0),
            MultipartRequest::Flow(request) => {
                put_head(w, typ::FLOW, 0);
                request.encode(w)?;
            }
            MultipartRequest::Table => put_head(w, typ::TABLE, 0),
            MultipartRequest::PortDesc { port_no } => {
                put_head(w, typ::PORT_DESC, 0);
                if version == Version::V1_5 {
                    w.u32(*port_no);
                    w.zeros(4);
                } else if *port_no != port::ANY {
                    return Err(EncodeError::NotExpressible {
                        what: "a request for one port's description",
                        version,
                        hint: "ask for all ports",
                    });
                }
            }
            MultipartRequest::Unknown { typ, flags, body } => {
                put_head(w, *typ, *flags);
                w.bytes(body);
            }
        }
        Ok(())
    }
}

/// What the switch says it is (`ofp_desc`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Desc {
    /// Manufacturer, for example `Nicira, Inc.`; at most 255 bytes.
    pub mfr: String,
    /// Hardware description, for example `Open vSwitch`.
    pub hw: String,
    /// Software version, for example `3.5.0`.
    pub sw: String,
    /// Serial number, at most 31 bytes; Open vSwitch sends `None` unless one is set.
    pub serial: String,
    /// Name of the datapath.
    pub dp: String,
}

/// Bytes of a text of [`Desc`], and of its serial number.
const DESC_TEXT: usize = 256;
const DESC_SERIAL: usize = 32;

impl Desc {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Desc {
            mfr: text(r.take(DESC_TEXT)?),
            hw: text(r.take(DESC_TEXT)?),
            sw: text(r.take(DESC_TEXT)?),
            serial: text(r.take(DESC_SERIAL)?),
            dp: text(r.take(DESC_TEXT)?),
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        put_text(w, &self.mfr, DESC_TEXT, "manufacturer")?;
        put_text(w, &self.hw, DESC_TEXT, "hardware description")?;
        put_text(w, &self.sw, DESC_TEXT, "software description")?;
        put_text(w, &self.serial, DESC_SERIAL, "serial number")?;
        put_text(w, &self.dp, DESC_TEXT, "datapath description")
    }
}

/// One part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReplyBody {
    /// What the switch is.
    Desc(Desc),
    /// Flows that agree with the request's filter.
    Flow(Vec<FlowStats>),
    /// Counters of the tables.
    Table(Vec<TableStats>),
    /// Descriptions of the ports.
    PortDesc(Vec<PortDesc>),
    /// An answer this codec has no name for.
    Unknown {
        /// Multipart type (OFPMP_*); 0xffff is an experimenter's.
        typ: u16,
        /// What follows type and flags.
        body: Vec<u8>,
    },
}

impl ReplyBody {
    pub(crate) fn decode(mut r: Reader<'_>, version: Version) -> Result<(bool, Self), DecodeError> {
        let (typ, flags) = head(&mut r)?;
        let body = match typ {
            typ::DESC => ReplyBody::Desc(Desc::decode(&mut r)?),
            typ::FLOW => ReplyBody::Flow(all(r, |r| FlowStats::decode(r, version))?),
            typ::TABLE => ReplyBody::Table(all(r, TableStats::decode)?),
            typ::PORT_DESC => ReplyBody::PortDesc(all(r, PortDesc::decode)?),
            _ => ReplyBody::Unknown {
                typ,
                body: r.remainder().to_vec(),
            },
        };
        Ok((flags & MORE != 0, body))
    }

    pub(crate) fn encode(&self, more: bool, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        let flags = if more { MORE } else { 0 };
        let typ = match self {
            ReplyBody::Desc(_) => typ::DESC,
            ReplyBody::Flow(_) => typ::FLOW,
            ReplyBody::Table(_) => typ::TABLE,
            ReplyBody::PortDesc(_) => typ::PORT_DESC,
            ReplyBody::Unknown { typ, .. } => *typ,
        };
        put_head(w, typ, flags);
        match self {
            ReplyBody::Desc(desc) => desc.encode(w),
            ReplyBody::Flow(flows) => flows.iter().try_for_each(|f| f.encode(w, version)),
            ReplyBody::Table(tables) => {
                tables.iter().for_each(|t| t.encode(w));
                Ok(())
            }
            ReplyBody::PortDesc(ports) => ports.iter().try_for_each(|p| p.encode(w)),
            ReplyBody::Unknown { body, .. } => {
                w.bytes(body);
                Ok(())
            }
        }
    }
}

fn head(r: &mut Reader<'_>) -> Result<(u16, u16), DecodeError> {
    let (typ, flags) = (r.u16()?, r.u16()?);
    r.skip(4)?;
    Ok((typ, flags))
}

fn put_head(w: &mut Writer<'_>, typ: u16, flags: u16) {
    w.u16(typ);
    w.u16(flags);
    w.zeros(4);
}

fn all<'a, T>(
    mut r: Reader<'a>,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::new();
    while !r.is_empty() {
        items.push(one(&mut r)?);
    }
    Ok(items)
}

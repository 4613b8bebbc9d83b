//! Whole messages.

use crate::bundle::{BundleAdd, BundleControl};
use crate::error::{DecodeError, EncodeError};
use crate::error_msg::ErrorMsg;
use crate::flow_mod::{FlowMod, FlowRemoved};
use crate::multipart::{MultipartRequest, ReplyBody};
use crate::port::{PortMod, PortStatus};
use crate::switch::{AsyncProp, Features, SwitchConfig};
use crate::version::{HEADER_LEN, Header, Hello, Version};
use crate::wire::{Reader, Writer};

/// Message types (OFPT_*). [`Message`] has the meaning of each.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const HELLO: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const ECHO_REQUEST: u8 = 2;
    pub const ECHO_REPLY: u8 = 3;
    pub const FEATURES_REQUEST: u8 = 5;
    pub const FEATURES_REPLY: u8 = 6;
    pub const GET_CONFIG_REQUEST: u8 = 7;
    pub const GET_CONFIG_REPLY: u8 = 8;
    pub const SET_CONFIG: u8 = 9;
    pub const PACKET_IN: u8 = 10;
    pub const FLOW_REMOVED: u8 = 11;
    pub const PORT_STATUS: u8 = 12;
    pub const FLOW_MOD: u8 = 14;
    pub const PORT_MOD: u8 = 16;
    pub const MULTIPART_REQUEST: u8 = 18;
    pub const MULTIPART_REPLY: u8 = 19;
    pub const BARRIER_REQUEST: u8 = 20;
    pub const BARRIER_REPLY: u8 = 21;
    pub const SET_ASYNC: u8 = 28;
    pub const BUNDLE_CONTROL: u8 = 33;
    pub const BUNDLE_ADD: u8 = 34;
}

/// A message without its header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Message {
    /// The versions its sender speaks.
    Hello(Hello),
    /// A request failed; the transaction id is the request's.
    Error(ErrorMsg),
    /// To be answered with the same bytes.
    EchoRequest(Vec<u8>),
    /// Answers [`Message::EchoRequest`] with its bytes.
    EchoReply(Vec<u8>),
    /// Asks for [`Message::FeaturesReply`]; the first request after the hello.
    FeaturesRequest,
    /// What the switch is and can do.
    FeaturesReply(Features),
    /// Asks for [`Message::GetConfigReply`]; it has no body.
    GetConfigRequest,
    /// The settings of the switch.
    GetConfigReply(SwitchConfig),
    /// Replaces the settings of the switch; there is no answer.
    SetConfig(SwitchConfig),
    /// A packet for the controller, left undecoded.
    PacketIn(Vec<u8>),
    /// A flow with `SEND_FLOW_REM` expired, was deleted or was evicted.
    FlowRemoved(FlowRemoved),
    /// A port was added, removed or changed.
    PortStatus(PortStatus),
    /// Adds, changes or removes flows.
    FlowMod(FlowMod),
    /// Changes settings of a port.
    PortMod(PortMod),
    /// Asks for something whose answer may come in parts.
    MultipartRequest(MultipartRequest),
    /// One part of such an answer.
    MultipartReply {
        /// Whether another part of the same answer follows.
        more: bool,
        /// Flows, ports or counters, as the request asked.
        body: ReplyBody,
    },
    /// Asks the switch to finish everything before it.
    BarrierRequest,
    /// Everything before the request with this transaction id is done.
    BarrierReply,
    /// Chooses which messages the switch sends unasked.
    SetAsync(Vec<AsyncProp>),
    /// Opens, closes, commits or discards a bundle, or answers that.
    BundleControl(BundleControl),
    /// Adds a message to a bundle.
    BundleAdd(BundleAdd),
    /// A message this codec has no name for.
    Unknown {
        /// Message type (OFPT_*), one not in [`kind`].
        msg_type: u8,
        /// What follows the header.
        body: Vec<u8>,
    },
}

impl Message {
    /// The message type byte.
    pub fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => kind::HELLO,
            Message::Error(_) => kind::ERROR,
            Message::EchoRequest(_) => kind::ECHO_REQUEST,
            Message::EchoReply(_) => kind::ECHO_REPLY,
            Message::FeaturesRequest => kind::FEATURES_REQUEST,
            Message::FeaturesReply(_) => kind::FEATURES_REPLY,
            Message::GetConfigRequest => kind::GET_CONFIG_REQUEST,
            Message::GetConfigReply(_) => kind::GET_CONFIG_REPLY,
            Message::SetConfig(_) => kind::SET_CONFIG,
            Message::PacketIn(_) => kind::PACKET_IN,
            Message::FlowRemoved(_) => kind::FLOW_REMOVED,
            Message::PortStatus(_) => kind::PORT_STATUS,
            Message::FlowMod(_) => kind::FLOW_MOD,
            Message::PortMod(_) => kind::PORT_MOD,
            Message::MultipartRequest(_) => kind::MULTIPART_REQUEST,
            Message::MultipartReply { .. } => kind::MULTIPART_REPLY,
            Message::BarrierRequest => kind::BARRIER_REQUEST,
            Message::BarrierReply => kind::BARRIER_REPLY,
            Message::SetAsync(_) => kind::SET_ASYNC,
            Message::BundleControl(_) => kind::BUNDLE_CONTROL,
            Message::BundleAdd(_) => kind::BUNDLE_ADD,
            Message::Unknown { msg_type, .. } => *msg_type,
        }
    }
}

/// Reads the one message that `frame` is; [`crate::frame_len`] tells where it ends.
pub fn decode(frame: &[u8]) -> Result<(Header, Message), DecodeError> {
    let mut r = Reader::new(frame, "message");
    let header = Header::decode(&mut r)?;
    header.check_version()?;
    if usize::from(header.length) != frame.len() {
        return Err(DecodeError::Length {
            what: "message",
            length: usize::from(header.length),
        });
    }
    let message = decode_body(&header, r, false)?;
    Ok((header, message))
}

/// Reads the message inside a bundle message, which is of the same version.
pub(crate) fn decode_inner(r: &mut Reader<'_>, version: Version) -> Result<(Header, Message), DecodeError> {
    let header = Header::decode(r)?;
    if header.version != version.wire() {
        return Err(DecodeError::Version {
            version: header.version,
            msg_type: header.msg_type,
        });
    }
    let length = usize::from(header.length);
    let body = length.checked_sub(HEADER_LEN).ok_or(DecodeError::Length {
        what: "bundled message",
        length,
    })?;
    let message = decode_body(&header, r.sub(body, "bundled message")?, true)?;
    Ok((header, message))
}

fn decode_body(header: &Header, mut r: Reader<'_>, bundled: bool) -> Result<Message, DecodeError> {
    match header.msg_type {
        kind::HELLO => return Ok(Message::Hello(Hello::decode(r, header.version)?)),
        kind::ERROR => return Ok(Message::Error(ErrorMsg::decode(&mut r)?)),
        _ => {}
    }
    let version = Version::from_wire(header.version).ok_or(DecodeError::Version {
        version: header.version,
        msg_type: header.msg_type,
    })?;
    Ok(match header.msg_type {
        kind::ECHO_REQUEST => Message::EchoRequest(r.remainder().to_vec()),
        kind::ECHO_REPLY => Message::EchoReply(r.remainder().to_vec()),
        kind::FEATURES_REQUEST => Message::FeaturesRequest,
        kind::FEATURES_REPLY => Message::FeaturesReply(Features::decode(&mut r)?),
        kind::GET_CONFIG_REQUEST => Message::GetConfigRequest,
        kind::GET_CONFIG_REPLY => Message::GetConfigReply(SwitchConfig::decode(&mut r)?),
        kind::SET_CONFIG => Message::SetConfig(SwitchConfig::decode(&mut r)?),
        kind::PACKET_IN => Message::PacketIn(r.remainder().to_vec()),
        kind::FLOW_REMOVED => Message::FlowRemoved(FlowRemoved::decode(r, version)?),
        kind::PORT_STATUS => Message::PortStatus(PortStatus::decode(&mut r)?),
        kind::FLOW_MOD => Message::FlowMod(FlowMod::decode(r, version)?),
        kind::PORT_MOD => Message::PortMod(PortMod::decode(&mut r)?),
        kind::MULTIPART_REQUEST => Message::MultipartRequest(MultipartRequest::decode(r, version)?),
        kind::MULTIPART_REPLY => {
            let (more, body) = ReplyBody::decode(r, version)?;
            Message::MultipartReply { more, body }
        }
        kind::BARRIER_REQUEST => Message::BarrierRequest,
        kind::BARRIER_REPLY => Message::BarrierReply,
        kind::SET_ASYNC => Message::SetAsync(AsyncProp::decode_list(r)?),
        kind::BUNDLE_CONTROL => Message::BundleControl(BundleControl::decode(&mut r)?),
        kind::BUNDLE_ADD if bundled => return Err(DecodeError::NestedBundle),
        kind::BUNDLE_ADD => Message::BundleAdd(BundleAdd::decode(r, version)?),
        msg_type => Message::Unknown {
            msg_type,
            body: r.remainder().to_vec(),
        },
    })
}

/// Appends `msg` to `out`. On an error `out` is as before.
pub fn encode(msg: &Message, version: Version, xid: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let done = encode_into(msg, version, xid, &mut Writer::new(out));
    if done.is_err() {
        out.truncate(start);
    }
    done
}

pub(crate) fn encode_into(
    msg: &Message,
    version: Version,
    xid: u32,
    w: &mut Writer<'_>,
) -> Result<(), EncodeError> {
    let start = w.len();
    w.u8(version.wire());
    w.u8(msg.kind());
    let mark = w.open(start);
    w.u32(xid);
    encode_body(msg, version, w)?;
    w.close(mark, "message")
}

fn encode_body(msg: &Message, version: Version, w: &mut Writer<'_>) -> Result<(), EncodeError> {
    match msg {
        Message::Hello(hello) => hello.encode(w),
        Message::Error(error) => error.encode(w),
        Message::EchoRequest(data) | Message::EchoReply(data) | Message::PacketIn(data) => w.bytes(data),
        Message::FeaturesRequest
        | Message::GetConfigRequest
        | Message::BarrierRequest
        | Message::BarrierReply => {}
        Message::FeaturesReply(features) => features.encode(w),
        Message::GetConfigReply(config) | Message::SetConfig(config) => config.encode(w),
        Message::FlowRemoved(removed) => return removed.encode(w, version),
        Message::PortStatus(status) => return status.encode(w),
        Message::FlowMod(flow_mod) => return flow_mod.encode(w, version),
        Message::PortMod(port_mod) => port_mod.encode(w),
        Message::MultipartRequest(request) => return request.encode(w, version),
        Message::MultipartReply { more, body } => return body.encode(*more, w, version),
        Message::SetAsync(props) => return props.iter().try_for_each(|p| p.encode(w)),
        Message::BundleControl(control) => control.encode(w),
        Message::BundleAdd(add) => return add.encode(w, version),
        Message::Unknown { body, .. } => w.bytes(body),
    }
    Ok(())
}

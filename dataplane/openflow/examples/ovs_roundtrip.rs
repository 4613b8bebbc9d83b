//! Sends every flow of the test corpus to a real Open vSwitch and compares what its flow statistics say.
//!
//! `ovs_roundtrip BRIDGE.mgmt [CAPTURE_DIR]`: replaces the flows whose cookie starts with 0xc0de, on a scratch bridge
//! with a port 1. With a directory, what the switch sends is written there as hex, one message a line, flows whose
//! cookie starts with 0xf0e1 (put there by other means) among it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use portcullis_openflow::flow_mod::{ALL_TABLES, flags};
use portcullis_openflow::instruction::canonical;
use portcullis_openflow::message::kind;
use portcullis_openflow::switch::async_kind;
use portcullis_openflow::{
    AsyncProp, BundleAdd, BundleControl, BundleKind, Command, Field, FlowMod, FlowStats, Hello, Match,
    Message, MultipartRequest, PortMod, ReplyBody, SwitchConfig, Version, bundle, decode, encode, frame_len,
    negotiate, port,
};

const OURS: u64 = 0xc0de << 48;
const FOREIGN: u64 = 0xf0e1 << 48;
const TAG: u64 = 0xffff << 48;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Peer {
    stream: UnixStream,
    buf: Vec<u8>,
    version: Version,
    xid: u32,
}

impl Peer {
    fn connect(path: &str, ours: Version) -> Outcome<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        let mut peer = Peer {
            stream,
            buf: Vec::new(),
            version: ours,
            xid: 0,
        };
        peer.send(&Message::Hello(Hello { versions: ours.bit() }))?;
        let (_, hello) = peer.receive()?;
        let Message::Hello(hello) = hello else {
            return Err(format!("no hello but {hello:?}").into());
        };
        peer.version = negotiate(ours.bit(), &hello).ok_or("no version in common")?;
        Ok(peer)
    }

    fn send(&mut self, message: &Message) -> Outcome<u32> {
        self.xid += 1;
        let mut out = Vec::new();
        encode(message, self.version, self.xid, &mut out)?;
        self.stream.write_all(&out)?;
        Ok(self.xid)
    }

    fn frame(&mut self) -> Outcome<Vec<u8>> {
        loop {
            if let Some(n) = frame_len(&self.buf)?.filter(|n| self.buf.len() >= *n) {
                let rest = self.buf.split_off(n);
                return Ok(std::mem::replace(&mut self.buf, rest));
            }
            let mut chunk = [0; 65536];
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Err("the switch closed the connection".into());
            }
            self.buf.extend(&chunk[..n]);
        }
    }

    fn receive(&mut self) -> Outcome<(Vec<u8>, Message)> {
        let frame = self.frame()?;
        let (_, message) = decode(&frame)?;
        Ok((frame, message))
    }

    /// Everything up to the answer of a barrier.
    fn settle(&mut self) -> Outcome<Vec<(Vec<u8>, Message)>> {
        self.send(&Message::BarrierRequest)?;
        let mut seen = Vec::new();
        loop {
            match self.receive()? {
                (_, Message::BarrierReply) => return Ok(seen),
                other => seen.push(other),
            }
        }
    }

    fn ask(&mut self, message: &Message) -> Outcome<Vec<(Vec<u8>, Message)>> {
        self.send(message)?;
        self.settle()
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let socket = args
        .next()
        .ok_or("usage: ovs_roundtrip BRIDGE.mgmt [CAPTURE_DIR]")?;
    let capture = args.next();
    let mut wrong = 0;
    for writer in [Version::V1_4, Version::V1_5] {
        let mut peer = Peer::connect(&socket, writer)?;
        program(&mut peer)?;
        for reader in [Version::V1_4, Version::V1_5] {
            wrong += compare(&mut Peer::connect(&socket, reader)?, writer, reader)?;
        }
    }
    if let Some(dir) = capture {
        for version in [Version::V1_4, Version::V1_5] {
            record(&socket, version, Path::new(&dir))?;
        }
    }
    if wrong == 0 {
        Ok(())
    } else {
        Err(format!("{wrong} flows differ").into())
    }
}

/// Replaces all flows by the corpus, in one bundle.
fn program(peer: &mut Peer) -> Outcome<()> {
    let flags = bundle::flags::ATOMIC | bundle::flags::ORDERED;
    let control = |kind| {
        Message::BundleControl(BundleControl {
            bundle_id: 1,
            kind,
            flags,
        })
    };
    peer.send(&control(BundleKind::OpenRequest))?;
    let clear = FlowMod {
        command: Command::Delete,
        table_id: ALL_TABLES,
        cookie: OURS,
        cookie_mask: TAG,
        ..FlowMod::default()
    };
    let rows = common::corpus().into_iter().map(|(_, row)| row);
    for row in std::iter::once(clear).chain(rows) {
        let inner = (peer.xid + 1, Message::FlowMod(row));
        peer.send(&Message::BundleAdd(BundleAdd {
            bundle_id: 1,
            flags,
            message: Box::new(inner),
        }))?;
    }
    peer.send(&control(BundleKind::CommitRequest))?;
    for (_, message) in peer.settle()? {
        match message {
            Message::BundleControl(c) => println!("{} {:?}", peer.version, c.kind),
            Message::Error(e) => {
                let first = peer.xid - u32::try_from(common::corpus().len())? - 1;
                println!("error: {e}; failed {:?}, corpus starts at {first}", e.failed());
            }
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

fn flows(peer: &mut Peer) -> Outcome<Vec<FlowStats>> {
    let request = Message::MultipartRequest(MultipartRequest::flows_with_cookie(OURS, TAG));
    let mut flows = Vec::new();
    for (_, message) in peer.ask(&request)? {
        match message {
            Message::MultipartReply {
                body: ReplyBody::Flow(part),
                ..
            } => flows.extend(part),
            other => return Err(format!("not flows but {other:?}").into()),
        }
    }
    Ok(flows)
}

fn compare(peer: &mut Peer, writer: Version, reader: Version) -> Outcome<usize> {
    let flows = flows(peer)?;
    let mut wrong = 0;
    for (name, row) in common::corpus() {
        let Some(seen) = flows.iter().find(|f| f.cookie == row.cookie) else {
            println!("{writer} -> {reader}: {name}: missing");
            wrong += 1;
            continue;
        };
        let wanted = FlowStats {
            table_id: row.table_id,
            priority: row.priority,
            idle_timeout: row.idle_timeout,
            hard_timeout: row.hard_timeout,
            flags: (row.flags & flags::STATE) | (seen.flags & !flags::STATE),
            importance: row.importance,
            match_: row.match_,
            instructions: canonical(row.instructions),
            ..seen.clone()
        };
        let split = name == common::SCATTERED && (writer, reader) == (Version::V1_5, Version::V1_4);
        if wanted != *seen && !split {
            println!("{writer} -> {reader}: {name}:\n  wanted {wanted:?}\n  seen   {seen:?}");
            wrong += 1;
        }
    }
    println!(
        "{writer} -> {reader}: {} flows sent, {} seen, {wrong} differ",
        common::corpus().len(),
        flows.len()
    );
    Ok(wrong)
}

/// Saves one of each kind of answer.
fn record(socket: &str, version: Version, dir: &Path) -> Outcome<()> {
    let suffix = match version {
        Version::V1_4 => "1.4",
        Version::V1_5 => "1.5",
    };
    let bad = FlowMod {
        match_: Match::new().exact(Field::TcpDst, 80_u16),
        ..FlowMod::default()
    };
    let gone = FlowMod {
        command: Command::DeleteStrict,
        table_id: 3,
        priority: common::corpus()
            .iter()
            .find(|(n, _)| n.starts_with("timeouts"))
            .map_or(0, |(_, r)| r.priority),
        match_: common::tcp().exact(Field::TcpDst, 80_u16),
        ..FlowMod::default()
    };
    let mut peer = Peer::connect(socket, version)?;
    program(&mut peer)?;
    // A management connection hears of removed flows and ports only once it takes packet-ins, too; those are then
    // switched off by themselves.
    peer.send(&Message::SetConfig(SwitchConfig {
        miss_send_len: 0xffff,
        ..SwitchConfig::default()
    }))?;
    peer.send(&Message::SetAsync(vec![AsyncProp {
        kind: async_kind::PACKET_IN_MASTER,
        mask: 0,
    }]))?;
    let ports = peer.ask(&Message::MultipartRequest(MultipartRequest::all_ports()))?;
    let first = ports.iter().find_map(|(_, m)| match m {
        Message::MultipartReply {
            body: ReplyBody::PortDesc(ports),
            ..
        } => ports.iter().find(|p| p.port_no == 1),
        _ => None,
    });
    let hw_addr = first.ok_or("the bridge has no port 1")?.hw_addr;
    let toggle = |config| PortMod {
        port_no: 1,
        hw_addr,
        config,
        mask: port::config::NO_FWD,
    };
    // Before 1.5 a switch does not tell the one who asked for it of a port's change, so another one asks.
    let mut other = Peer::connect(socket, Version::V1_5)?;
    other.ask(&Message::PortMod(toggle(0)))?;
    let asks = [
        ("features", kind::FEATURES_REPLY, Message::FeaturesRequest),
        (
            "flows",
            kind::MULTIPART_REPLY,
            Message::MultipartRequest(MultipartRequest::flows_with_cookie(OURS, TAG)),
        ),
        (
            "foreign",
            kind::MULTIPART_REPLY,
            Message::MultipartRequest(MultipartRequest::flows_with_cookie(FOREIGN, TAG)),
        ),
        (
            "ports",
            kind::MULTIPART_REPLY,
            Message::MultipartRequest(MultipartRequest::all_ports()),
        ),
        (
            "desc",
            kind::MULTIPART_REPLY,
            Message::MultipartRequest(MultipartRequest::Desc),
        ),
        (
            "tables",
            kind::MULTIPART_REPLY,
            Message::MultipartRequest(MultipartRequest::Table),
        ),
        ("config", kind::GET_CONFIG_REPLY, Message::GetConfigRequest),
        ("error", kind::ERROR, Message::FlowMod(bad)),
        ("removed", kind::FLOW_REMOVED, Message::FlowMod(gone)),
        (
            "port-status",
            kind::PORT_STATUS,
            Message::PortMod(toggle(port::config::NO_FWD)),
        ),
    ];
    for (name, expected, ask) in asks {
        let asker = if expected == kind::PORT_STATUS {
            &mut other
        } else {
            &mut peer
        };
        let mut seen = asker.ask(&ask)?;
        seen.retain(|(_, m)| m.kind() == expected);
        // What comes unasked may come after the barrier.
        while seen.is_empty() {
            let late = peer.receive()?;
            seen.extend((late.1.kind() == expected).then_some(late));
        }
        let hex = |frame: &[u8]| frame.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
        let lines: String = seen.iter().map(|(frame, _)| hex(frame)).collect();
        std::fs::write(dir.join(format!("{name}-{suffix}.hex")), lines)?;
    }
    Ok(())
}

//! What the switch itself takes: the messages of a change, ready-made, sent by a client that does nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portcullis_openflow::{
    BundleAdd, BundleControl, BundleKind, Command, Field, FlowMod, Hello, Match, Message, Version, bundle,
    decode, encode, frame_len,
};

use crate::switch::{PATIENCE, Switch};
use crate::{BenchError, Result};

/// A table that nobody uses.
const TABLE: u8 = 200;
const FLAGS: u16 = bundle::flags::ATOMIC | bundle::flags::ORDERED;

/// A connection to the bridge.
pub struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    xid: u32,
}

impl Client {
    pub fn connect(switch: &Switch) -> Result<Self> {
        let failed = || BenchError::io("talk OpenFlow to the switch");
        let path = switch.sandbox().mgmt_socket(switch.sandbox().bridge());
        let stream = UnixStream::connect(path).map_err(failed())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed())?;
        let mut client = Client {
            stream,
            input: Vec::new(),
            xid: 0,
        };
        let hello = Hello {
            versions: Version::BOTH,
        };
        client.round_trip(&[Message::Hello(hello)])?;
        Ok(client)
    }

    /// Time until an echo comes back.
    pub fn echo(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.send(&[Message::EchoRequest(Vec::new())])?;
        while self.next()? != Message::EchoReply(Vec::new()) {}
        Ok(began.elapsed())
    }

    /// Time that rows take in these bundles, one confirmed before the next begins: sent and checked, then committed.
    pub fn bundles(&mut self, bundles: &[Vec<FlowMod>]) -> Result<Duration> {
        let began = Instant::now();
        for rows in bundles {
            let bundle_id = self.xid.wrapping_add(1);
            let control = |kind| {
                Message::BundleControl(BundleControl {
                    bundle_id,
                    kind,
                    flags: FLAGS,
                })
            };
            let mut messages = vec![control(BundleKind::OpenRequest)];
            // The transaction ids are the ones that sending will give.
            let ids = self.xid.wrapping_add(2)..;
            messages.extend(ids.zip(rows).map(|(xid, row)| {
                Message::BundleAdd(BundleAdd {
                    bundle_id,
                    flags: FLAGS,
                    message: Box::new((xid, Message::FlowMod(row.clone()))),
                })
            }));
            self.round_trip(&messages)?;
            self.round_trip(&[control(BundleKind::CommitRequest)])?;
        }
        Ok(began.elapsed())
    }

    /// Sends messages and a barrier, and waits until it is answered.
    fn round_trip(&mut self, messages: &[Message]) -> Result<()> {
        self.send(messages)?;
        self.send(&[Message::BarrierRequest])?;
        loop {
            match self.next()? {
                Message::BarrierReply => return Ok(()),
                Message::Error(error) => {
                    return Err(BenchError::Untrue(format!(
                        "the switch refused: {}",
                        error.explain()
                    )));
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, messages: &[Message]) -> Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            self.xid = self.xid.wrapping_add(1);
            encode(message, Version::V1_5, self.xid, &mut bytes)?;
        }
        self.stream
            .write_all(&bytes)
            .map_err(BenchError::io("talk OpenFlow to the switch"))
    }

    fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(length) = frame_len(&self.input)?
                && self.input.len() >= length
            {
                let frame: Vec<u8> = self.input.drain(..length).collect();
                return Ok(decode(&frame)?.1);
            }
            let mut bytes = [0; 4096];
            let read = self.stream.read(&mut bytes);
            match read.map_err(BenchError::io("talk OpenFlow to the switch"))? {
                0 => return Err(BenchError::Untrue("the switch closed the connection".to_string())),
                n => self.input.extend(bytes.iter().take(n)),
            }
        }
    }
}

/// Rows like those of a class, one for each number, to be added or to be deleted.
pub fn rows(numbers: std::ops::Range<u32>, command: Command) -> Vec<FlowMod> {
    let row = |n: u32| FlowMod {
        table_id: TABLE,
        command,
        match_: Match::new()
            .exact(Field::Reg(0), u128::from(u32::MAX))
            .exact(Field::EthType, 0x0800_u128)
            .exact(Field::IpProto, 6_u128)
            .exact(Field::TcpDst, u128::from(n & 0xffff)),
        ..FlowMod::default()
    };
    numbers.map(row).collect()
}

//! Our client, driven as the backend drives it: a set number of updates in a request, and of requests on their way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_backend::delta::Op;
use portcullis_p4runtime::client::{Client, Stream, connect};
use portcullis_p4runtime::entry::Row;
use portcullis_p4runtime::session::{Push, WINDOW, WriteFailure};
use portcullis_p4runtime::wire::Writer;
use portcullis_p4runtime::{Config, OwnProgram, UPDATES};
use portcullis_proto::p4::v1::stream_message_response::Update;
use tokio::task::JoinSet;

use crate::p4::rows::{TARGET, Write};
use crate::switch::PATIENCE;
use crate::{BenchError, Result};

/// A connection that is the primary's.
pub struct Ours {
    client: Client,
    /// The stream: whoever drops it is no primary any more.
    _stream: Stream,
    own: Arc<OwnProgram>,
    writer: Writer,
}

fn untrue(what: impl std::fmt::Display) -> BenchError {
    BenchError::Untrue(what.to_string())
}

impl Ours {
    /// Connects, and waits until it may write.
    pub async fn connect(address: &str, election_id: u128, own: &Arc<OwnProgram>) -> Result<Self> {
        let mut config = Config::new(TARGET, address, 1);
        config.election_id = election_id;
        let tag = config.tag;
        let (client, mut stream) = connect(Arc::new(config)).await?;
        let primary = async {
            loop {
                let message = stream
                    .responses
                    .message()
                    .await
                    .map_err(BenchError::call("StreamChannel"))?
                    .ok_or_else(|| untrue("the server closed the stream"))?;
                if let Some(Update::Arbitration(update)) = message.update
                    && update.status.is_none_or(|s| s.code == 0)
                {
                    return Ok::<(), BenchError>(());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, primary).await {
            Ok(update) => update?,
            Err(_) => {
                return Err(BenchError::Late {
                    what: "the primary".to_string(),
                    limit: PATIENCE,
                    seen: "another one is".to_string(),
                });
            }
        }
        let writer = Writer {
            tag,
            generation: 1,
            ports: client.replica_ports(),
        };
        Ok(Ours {
            client,
            _stream: stream,
            own: Arc::clone(own),
            writer,
        })
    }

    /// How rows are written.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Puts our program there; the tables are empty afterwards.
    pub async fn empty(&mut self) -> Result<()> {
        Ok(self.client.push(&self.own, Push::Verify).await?)
    }

    /// Writes, from rows in memory to the last acknowledgement.
    pub async fn write(&self, writes: &[Write]) -> Result<Duration> {
        let began = Instant::now();
        let mut waiting = writes.chunks(UPDATES).map(<[_]>::to_vec);
        let mut on_the_way = JoinSet::new();
        let mut next = |on_the_way: &mut JoinSet<_>| {
            if let Some(ops) = waiting.next() {
                let (mut client, own, writer) = (self.client.clone(), Arc::clone(&self.own), self.writer);
                on_the_way.spawn(async move { client.write(&own.device, &ops, &writer).await });
            }
        };
        for _ in 0..WINDOW {
            next(&mut on_the_way);
        }
        while let Some(answer) = on_the_way.join_next().await {
            match answer.map_err(untrue)? {
                Ok(()) => next(&mut on_the_way),
                Err(WriteFailure::Whole(why)) => return Err(untrue(why)),
                Err(WriteFailure::Rows(rows)) => {
                    let first = rows.first().map(|(_, code, why)| format!("{why} (code {code})"));
                    return Err(untrue(format!(
                        "{} rows were refused; the first: {}",
                        rows.len(),
                        first.unwrap_or_default()
                    )));
                }
            }
        }
        Ok(began.elapsed())
    }

    /// Makes sure that the device holds what these writes add, and nothing else.
    pub async fn holds(&mut self, writes: &[Write]) -> Result<()> {
        let (seen, _) = self.client.read_back(&self.own.device).await?;
        let seen: BTreeSet<Row> = seen.ours.into_iter().collect();
        let added = writes.iter().filter_map(|write| match write {
            Op::Add(key, does) => Some((key.clone(), does.clone())),
            Op::Change(..) | Op::Delete(_) => None,
        });
        let wanted: BTreeSet<Row> = added.collect();
        if seen == wanted {
            return Ok(());
        }
        Err(untrue(format!(
            "{} rows were written, {} are there, {} of them as they should be",
            wanted.len(),
            seen.len(),
            seen.intersection(&wanted).count()
        )))
    }
}

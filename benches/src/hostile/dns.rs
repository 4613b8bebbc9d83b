//! A DNS server with two sorts of zones: those that answer, and those that never do.

use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType, rdata};
use tokio::net::UdpSocket;

use crate::{BenchError, Result};

/// Names that begin with this get no answer.
pub(super) const SLOW: &str = "slow";

/// Answers every query for an IPv4 address at once, and those for slow names never. It runs as long as its task.
pub(super) async fn serve(socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = socket
            .recv_from(&mut buffer)
            .await
            .map_err(BenchError::io("receive a DNS query"))?;
        if let Some(answer) = buffer.get(..length).and_then(answer) {
            // The agent may have given up, or be gone.
            let _sent = socket.send_to(&answer, from).await;
        }
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let asked = query.queries.first()?.clone();
    if asked.name.to_string().starts_with(SLOW) {
        return None;
    }
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(asked.clone());
    if asked.query_type == RecordType::A {
        let data = RData::A(rdata::A::new(192, 0, 2, 7));
        answer.add_answer(Record::from_rdata(asked.name, 60, data));
    }
    answer.to_vec().ok()
}

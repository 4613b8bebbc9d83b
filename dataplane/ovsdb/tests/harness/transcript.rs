//! Recorded conversations: one JSON value a line.

use std::path::PathBuf;
use std::time::Duration;

use portcullis_ovsdb::{Event, Framer, Session, SessionConfig};
use serde_json::{Value, json};

/// One step of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Connected,
    Disconnected,
    Sent(Value),
    Received(Value),
}

/// A conversation of a session with a server.
#[derive(Default)]
pub struct Transcript {
    pub lines: Vec<Line>,
    framer: Framer,
}

impl Transcript {
    pub fn push(&mut self, line: Line) {
        if line == Line::Connected {
            self.framer = Framer::default();
        }
        self.lines.push(line);
    }

    pub fn received(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
        while let Some(value) = self.framer.next_value().expect("a server sends JSON") {
            self.lines.push(Line::Received(value));
        }
    }

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.jsonl"))
    }

    pub fn load(name: &str) -> Vec<Line> {
        let text = std::fs::read_to_string(Self::file(name)).expect("a recorded transcript");
        text.lines()
            .map(|line| Line::parse(&serde_json::from_str(line).expect("JSON")))
            .collect()
    }

    pub fn save(&self, name: &str) {
        let text: String = self
            .lines
            .iter()
            .map(|line| format!("{}\n", line.to_json()))
            .collect();
        std::fs::write(Self::file(name), text).expect("writing a transcript");
    }
}

impl Line {
    fn to_json(&self) -> Value {
        match self {
            Self::Connected => json!("connected"),
            Self::Disconnected => json!("disconnected"),
            Self::Sent(message) => json!({ "sent": message }),
            Self::Received(message) => json!({ "received": message }),
        }
    }

    fn parse(line: &Value) -> Self {
        match (line.as_str(), line.get("sent"), line.get("received")) {
            (Some("connected"), _, _) => Self::Connected,
            (Some("disconnected"), _, _) => Self::Disconnected,
            (_, Some(message), _) => Self::Sent(message.clone()),
            (_, _, Some(message)) => Self::Received(message.clone()),
            _ => panic!("not a line of a transcript: {line}"),
        }
    }
}

/// Plays a conversation to a session in pieces of `piece` bytes, and checks what it sends.
pub fn replay(lines: &[Line], piece: usize) -> (Session, Vec<Event>) {
    let mut session = Session::new(SessionConfig::default());
    let mut events = Vec::new();
    let mut sent = Vec::new();
    for line in lines {
        match line {
            Line::Connected => session.connected(Duration::ZERO),
            Line::Disconnected => session.disconnected(Duration::ZERO),
            Line::Sent(message) => {
                assert!(!sent.is_empty(), "the session did not send {message}");
                assert_eq!(sent.remove(0), *message);
            }
            Line::Received(message) => {
                for bytes in message.to_string().as_bytes().chunks(piece) {
                    events.extend(
                        session
                            .received(bytes, Duration::ZERO)
                            .expect("a recorded message"),
                    );
                }
            }
        }
        let output = session.take_output();
        let messages = serde_json::Deserializer::from_slice(&output).into_iter::<Value>();
        sent.extend(messages.map(|message| message.expect("the session sends JSON")));
    }
    assert_eq!(sent, Vec::<Value>::new(), "sent, but not recorded");
    (session, events)
}

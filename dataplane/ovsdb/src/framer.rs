//! From a byte stream to JSON values. RFC 7047 puts no framing around its messages, so a message ends where
//! its outermost brace closes.

use serde_json::Value;

/// Messages may be this long unless configured otherwise, in bytes.
pub const DEFAULT_MAX_MESSAGE: usize = 64 << 20;

/// Deepest nesting of arrays and objects accepted. OVSDB messages nest about a dozen levels.
pub const MAX_DEPTH: usize = 64;

/// A buffer larger than this is given back to the allocator once it is empty.
const KEEP_CAPACITY: usize = 1 << 20;

/// Why a byte stream cannot be read as OVSDB messages. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A message starts with something else than `{`.
    #[error(
        "byte {offset} of the stream is {byte:#04x} where a message must start with '{{'; is the peer an OVSDB server?"
    )]
    NotAnObject {
        /// Position since the connection was made.
        offset: u64,
        /// The byte where `{` must be.
        byte: u8,
    },
    /// A message is longer than the configured bound.
    #[error(
        "the message at byte {offset} of the stream is longer than {max} bytes; raise the message size limit if the database is that large"
    )]
    TooLong {
        /// Where the message starts.
        offset: u64,
        /// Configured size limit of a message, in bytes.
        max: usize,
    },
    /// Arrays and objects nest deeper than [`MAX_DEPTH`].
    #[error("the message at byte {offset} of the stream nests deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Where the message starts.
        offset: u64,
    },
    /// A message has balanced braces but is not JSON.
    #[error("the message at byte {offset} of the stream is not JSON")]
    Syntax {
        /// Where the message starts.
        offset: u64,
        /// What the JSON parser says; its line and column count from the start of the message.
        #[source]
        source: serde_json::Error,
    },
    /// More was asked of a stream that was refused before.
    #[error("the stream was refused at byte {offset} and cannot be read on; connect again")]
    AlreadyRefused {
        /// Where the refused message starts.
        offset: u64,
    },
}

/// Splits a byte stream into JSON objects.
#[derive(Debug)]
pub struct Framer {
    max_message: usize,
    buffer: Vec<u8>,
    /// Where the current message starts in `buffer`.
    start: usize,
    /// How far the current message was looked at, from the beginning of `buffer`.
    scanned: usize,
    /// Stream position of `start`.
    offset: u64,
    depth: usize,
    in_string: bool,
    escaped: bool,
    refused: bool,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_MESSAGE)
    }
}

impl Framer {
    /// A framer at the start of a stream, for messages of at most `max_message` bytes.
    #[must_use]
    pub fn new(max_message: usize) -> Self {
        Self {
            max_message,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            offset: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            refused: false,
        }
    }

    /// Adds bytes as read from the stream. Call [`Framer::next_value`] until it gives `None` before adding more, so
    /// that the bound on a message bounds the buffer too.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.refused {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole message, or `None` when more bytes are needed. After an error the stream stays refused.
    pub fn next_value(&mut self) -> Result<Option<Value>, ProtocolError> {
        if self.refused {
            return Err(ProtocolError::AlreadyRefused { offset: self.offset });
        }
        let outcome = self.split_off();
        if outcome.is_err() {
            self.refused = true;
            self.buffer = Vec::new();
        }
        outcome
    }

    /// Bytes held of a message that is not complete.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    fn split_off(&mut self) -> Result<Option<Value>, ProtocolError> {
        self.skip_to_message()?;
        let end = self.find_end()?;
        let length = end.unwrap_or(self.buffer.len()).saturating_sub(self.start);
        if length > self.max_message {
            return Err(ProtocolError::TooLong {
                offset: self.offset,
                max: self.max_message,
            });
        }
        let Some(end) = end else {
            self.release();
            return Ok(None);
        };
        let message = self.buffer.get(self.start..end).unwrap_or_default();
        let value = serde_json::from_slice(message).map_err(|source| ProtocolError::Syntax {
            offset: self.offset,
            source,
        })?;
        self.offset = self.offset.saturating_add(length as u64);
        self.start = end;
        self.scanned = end;
        Ok(Some(value))
    }

    /// Passes white space between messages and checks how the next one starts.
    fn skip_to_message(&mut self) -> Result<(), ProtocolError> {
        if self.depth > 0 {
            return Ok(());
        }
        while let Some(&byte) = self.buffer.get(self.start) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.start += 1;
                    self.offset = self.offset.saturating_add(1);
                }
                b'{' => break,
                _ => {
                    return Err(ProtocolError::NotAnObject {
                        offset: self.offset,
                        byte,
                    });
                }
            }
        }
        self.scanned = self.start;
        Ok(())
    }

    /// Looks at the bytes not seen yet, for the brace that closes the message.
    fn find_end(&mut self) -> Result<Option<usize>, ProtocolError> {
        for &byte in self.buffer.get(self.scanned..).unwrap_or_default() {
            self.scanned += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' if self.depth == MAX_DEPTH => {
                    return Err(ProtocolError::TooDeep { offset: self.offset });
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Ok(Some(self.scanned));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Drops what was handed out from the front of the buffer.
    fn release(&mut self) {
        if self.start == 0 {
            return;
        }
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_CAPACITY {
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(framer: &mut Framer, bytes: &[u8]) -> Result<Vec<Value>, ProtocolError> {
        framer.push(bytes);
        let mut values = Vec::new();
        while let Some(value) = framer.next_value()? {
            values.push(value);
        }
        Ok(values)
    }

    #[test]
    fn splits_messages_wherever_the_bytes_are_cut() {
        let text = br#" {"a":"}{\"\\"}{"b":[{},[]]}
            {"c":"\u007d"}"#;
        let want = vec![json!({"a": "}{\"\\"}), json!({"b": [{}, []]}), json!({"c": "}"})];
        for cut in 0..text.len() {
            let mut framer = Framer::default();
            let mut got = all(&mut framer, &text[..cut]).unwrap();
            got.extend(all(&mut framer, &text[cut..]).unwrap());
            assert_eq!(got, want, "cut at {cut}");
            assert_eq!(framer.pending(), 0);
        }
        let mut framer = Framer::default();
        let got: Vec<Value> = text
            .iter()
            .flat_map(|&byte| all(&mut framer, &[byte]).unwrap())
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn says_where_a_message_is_not_one() {
        let mut framer = Framer::default();
        let error = all(&mut framer, b"{} \n[1]").unwrap_err();
        assert!(
            matches!(
                error,
                ProtocolError::NotAnObject {
                    offset: 4,
                    byte: b'['
                }
            ),
            "{error}"
        );
        assert!(matches!(
            framer.next_value(),
            Err(ProtocolError::AlreadyRefused { offset: 4 })
        ));

        let error = all(&mut Framer::default(), b"{}{]").unwrap_err();
        assert!(
            matches!(
                error,
                ProtocolError::NotAnObject { .. } | ProtocolError::Syntax { .. }
            ),
            "{error}"
        );
        let error = all(&mut Framer::default(), b"{}{\"a\":\xff}").unwrap_err();
        assert!(
            matches!(error, ProtocolError::Syntax { offset: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn bounds_length_and_depth() {
        let mut framer = Framer::new(16);
        assert_eq!(all(&mut framer, b"{\"a\":12345678}{\"b\":1}").unwrap().len(), 2);
        let error = all(&mut framer, b"{\"a\":12345678901}").unwrap_err();
        assert!(
            matches!(error, ProtocolError::TooLong { offset: 21, max: 16 }),
            "{error}"
        );
        let error = all(&mut Framer::new(16), b"{\"a\":\"12345678901").unwrap_err();
        assert!(
            matches!(error, ProtocolError::TooLong { offset: 0, .. }),
            "{error}"
        );

        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(all(&mut Framer::default(), nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        let error = all(&mut Framer::default(), nested(MAX_DEPTH).as_bytes()).unwrap_err();
        assert!(matches!(error, ProtocolError::TooDeep { offset: 0 }), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12)) {
            let mut framer = Framer::new(64);
            for chunk in chunks {
                if all(&mut framer, &chunk).is_err() {
                    break;
                }
                prop_assert!(framer.pending() <= 64);
            }
        }

        #[test]
        fn any_split_gives_the_same_values(cuts in prop::collection::vec(1_usize..9, 1..40)) {
            let want: Vec<Value> = (0..6).map(|n| json!({"id": n, "x": ["{", {"y": "\\\"}"}]})).collect();
            let text: String = want.iter().map(Value::to_string).collect();
            let (mut framer, mut rest, mut got) = (Framer::default(), text.as_bytes(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                got.extend(all(&mut framer, head).unwrap());
                rest = tail;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(got, want);
        }
    }
}

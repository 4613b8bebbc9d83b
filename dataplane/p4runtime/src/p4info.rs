//! Reading a P4Info (`p4.config.v1.P4Info`, P4Runtime 1.6.0): protobuf text, as `p4c --p4runtime-files` writes it into
//! `.txtpb` and `.txt`, or binary.

use std::fmt;
use std::sync::LazyLock;

use miette::Diagnostic;
use portcullis_proto::p4::config::v1::P4Info;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

/// Messages in messages that a P4Info may have. Real ones have fewer than ten; the parser recurses, so that some number
/// has to bound it, and it is below what `prost` bounds binary messages with (100).
pub const MAX_DEPTH: usize = 50;

/// A place in a text, both from 1; the column counts characters.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextPosition {
    pub line: usize,
    pub column: usize,
}

impl TextPosition {
    /// Of a byte offset.
    fn new(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        TextPosition {
            line: before.matches('\n').count() + 1,
            column: before.get(start..).unwrap_or("").chars().count() + 1,
        }
    }
}

impl fmt::Display for TextPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What cannot be read as a P4Info.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum P4InfoError {
    /// Text that is no P4Info.
    #[error("{place}: {why}")]
    Text {
        /// Where the text stops being a P4Info.
        place: TextPosition,
        /// What is wrong there.
        why: String,
    },
    /// Messages in messages beyond [`MAX_DEPTH`].
    #[error("{place}: messages are nested more than {MAX_DEPTH} deep")]
    Deep {
        /// Where it becomes too deep.
        place: TextPosition,
    },
    /// Neither text nor a P4Info in binary.
    #[error("neither protobuf text (invalid byte at offset {offset}) nor a binary P4Info: {why}")]
    Binary {
        /// The first byte that does not occur in text, from 0.
        offset: usize,
        /// What is wrong with it as binary.
        why: String,
    },
    /// The definition of P4Info that this program carries is unusable: a fault of the program, not of the input.
    #[error("the definition of P4Info in this program cannot be used: {0}")]
    Definition(String),
}

/// The definition of P4Info.
static DEFINITION: LazyLock<Result<MessageDescriptor, String>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(portcullis_proto::P4RUNTIME_DESCRIPTORS).map_err(|e| e.to_string())?;
    let name = "p4.config.v1.P4Info";
    pool.get_message_by_name(name)
        .ok_or_else(|| format!("it has no {name}"))
});

/// Reads a P4Info. Bytes that are UTF-8 without control characters are read as text, all others as binary: an entity of
/// a P4Info has an id, whose tag in binary is the control character 0x08.
pub fn parse(bytes: &[u8]) -> Result<P4Info, P4InfoError> {
    match as_text(bytes) {
        Ok(text) => parse_text(text),
        Err(offset) => P4Info::decode(bytes).map_err(|e| P4InfoError::Binary {
            offset,
            why: e.to_string(),
        }),
    }
}

/// The text, or the offset of the first byte that does not occur in text.
fn as_text(bytes: &[u8]) -> Result<&str, usize> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.valid_up_to())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    text.find(control)
        .map_or(Ok(text), |at| Err(bytes.len() - text.len() + at))
}

fn parse_text(text: &str) -> Result<P4Info, P4InfoError> {
    if let Some(offset) = too_deep(text) {
        return Err(P4InfoError::Deep {
            place: TextPosition::new(text, offset),
        });
    }
    let definition = DEFINITION
        .as_ref()
        .map_err(|e| P4InfoError::Definition(e.clone()))?;
    let message = DynamicMessage::parse_text_format(definition.clone(), text).map_err(|error| {
        // Without a label it is the end that is wrong.
        let label = error.labels().and_then(|mut labels| labels.next());
        P4InfoError::Text {
            place: TextPosition::new(text, label.map_or(text.len(), |l| l.offset())),
            why: error.to_string(),
        }
    })?;
    message
        .transcode_to()
        .map_err(|e| P4InfoError::Definition(e.to_string()))
}

/// Where the text opens more than [`MAX_DEPTH`] messages in each other.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut bytes = text.bytes().enumerate();
    while let Some((offset, byte)) = bytes.next() {
        match byte {
            b'{' | b'<' => depth += 1,
            b'}' | b'>' => depth = depth.saturating_sub(1),
            // A comment ends with its line.
            b'#' => drop(bytes.find(|(_, b)| *b == b'\n')),
            b'"' | b'\'' => {
                while let Some((_, inner)) = bytes.next() {
                    if inner == b'\\' {
                        bytes.next();
                    } else if inner == byte {
                        break;
                    }
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# a comment {\npkg_info { name: \"a\\\"{\" arch: 'v1model' }\ntables {\n  preamble { id: 33554433 \
                         name: \"i.t\" alias: \"t\" }\n  match_fields < id: 1 name: \"x\" bitwidth: 8 match_type: EXACT >\n}\n";

    #[test]
    fn text_and_binary_are_told_apart() {
        let info = parse(SMALL.as_bytes()).expect("text");
        assert_eq!(info.tables.len(), 1);
        assert_eq!(info.pkg_info.as_ref().map(|p| p.name.as_str()), Some("a\"{"));
        assert_eq!(parse(&info.encode_to_vec()), Ok(info.clone()));
        assert_eq!(parse(format!("\u{feff}{SMALL}").as_bytes()), Ok(info));
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            (
                "tables {\n  preambel { id: 1 }\n}",
                "line 2, column 3: field 'preambel' not found",
            ),
            (
                "tables {\n  size: \"é\" x",
                "line 2, column 9: expected an integer",
            ),
            (
                "tables {\n  size: 1",
                "line 2, column 10: expected '}' or a field name",
            ),
            ("{\"tables\": []}", "line 1, column 1: expected a field name"),
            (
                "tables { match_fields { match_type: FUZZY } }",
                "line 1, column 37: value 'FUZZY'",
            ),
        ];
        for (text, wanted) in cases {
            let error = parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.starts_with(wanted), "{error} is not {wanted}");
        }
        let error = parse(b"tables {\xff}").expect_err("neither").to_string();
        assert!(
            error.starts_with("neither protobuf text (invalid byte at offset 8)"),
            "{error}"
        );
    }

    #[test]
    fn depth_is_bounded() {
        // A tuple of tuples is the one thing in a P4Info that nests without end.
        let nested = |n: usize| {
            format!(
                "type_info {{ headers {{ {}{} }} }}",
                "members {".repeat(n),
                "}".repeat(n)
            )
        };
        assert!(matches!(
            parse(nested(MAX_DEPTH).as_bytes()),
            Err(P4InfoError::Deep { .. })
        ));
        assert!(matches!(
            parse(nested(2).as_bytes()),
            Err(P4InfoError::Text { .. })
        ));
        assert!(matches!(
            parse("<".repeat(1_000_000).as_bytes()),
            Err(P4InfoError::Deep { .. })
        ));
    }
}

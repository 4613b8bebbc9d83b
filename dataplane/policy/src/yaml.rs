//! YAML as it was written. YAML reads `025` as 25.0, `0x19` as 25 and `1e3` as 1000.0; the error shows what
//! was written, and no value becomes another one in silence.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// However large, what is written out is read; aliases cannot make more of a text than its size.
fn options(text: &str) -> serde_saphyr::Options {
    let most = text.len().saturating_mul(2).saturating_add(1000);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: most,
            max_nodes: most,
            max_total_scalar_bytes: most,
        },
        // Of YAML 1.2's booleans only: `no` and `off` are texts.
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
    }
}

/// What a YAML or JSON text says. A number that is not written as JSON writes it is the text that was written.
pub(crate) fn read(text: &str) -> Result<Value, serde_saphyr::Error> {
    let node: Node = serde_saphyr::from_str_with_options(text, options(text))?;
    Ok(value(
        Spanned::new(node, Location::UNKNOWN, Location::UNKNOWN),
        text,
    ))
}

/// A value, and where those in it were written.
enum Node {
    Plain(Value),
    /// Nothing for one that JSON has no number for.
    Number(Option<Number>),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

fn value(node: Spanned<Node>, text: &str) -> Value {
    match node.value {
        Node::Number(number) => {
            let span = node.defined.span();
            let start = span.byte_offset().and_then(|at| usize::try_from(at).ok());
            let length = span.byte_len().and_then(|len| usize::try_from(len).ok());
            let written = start
                .zip(length)
                .and_then(|(start, length)| text.get(start..start.checked_add(length)?));
            // A number ends where its scalar does, whatever the span holds behind it.
            let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}');
            as_written(
                number,
                written.and_then(|text| text.trim_start().split(ends).next()),
            )
        }
        Node::Plain(plain) => plain,
        Node::List(list) => list.into_iter().map(|item| value(item, text)).collect(),
        Node::Map(map) => {
            let fields = map.into_iter().map(|(key, item)| (key, value(item, text)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
    }
}

fn as_written(number: Option<Number>, written: Option<&str>) -> Value {
    let text = |written: &str| Value::String(written.to_string());
    match (number, written) {
        // What a tag makes a number of is not written as one.
        (Some(number), Some(written))
            if written != number.to_string() && written.starts_with(number_begins) =>
        {
            text(written)
        }
        (Some(number), _) => Value::Number(number),
        (None, Some(written)) => text(written),
        (None, None) => text("a number that is not finite"),
    }
}

fn number_begins(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '+' | '-' | '.')
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Plain(Value::Null))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
                Ok(Node::Plain(Value::Bool(v)))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
                Ok(Node::Number(Some(v.into())))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
                Ok(Node::Number(Some(v.into())))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
                Ok(Node::Number(Number::from_f64(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Node, E> {
                Ok(Node::Plain(Value::String(v.to_string())))
            }
            fn visit_string<E>(self, v: String) -> Result<Node, E> {
                Ok(Node::Plain(Value::String(v)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Spanned<Node>>()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry::<String, Spanned<Node>>()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }
        d.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_what_was_written() {
        let list = "[0, 25, -3, 025, 0o31, 0x19, 0b1, 1_000, 1e3, 1.5, 1.50, +7, -0, .5, .inf, .nan, 99999999999999999999, 1e999]";
        let read = read(list).unwrap();
        assert_eq!(
            read,
            json!([
                0,
                25,
                -3,
                "025",
                "0o31",
                "0x19",
                "0b1",
                "1_000",
                "1e3",
                1.5,
                "1.50",
                "+7",
                "-0",
                ".5",
                ".inf",
                ".nan",
                "99999999999999999999",
                "1e999"
            ])
        );
    }

    #[test]
    fn words_are_words() {
        let text = "{a: no, b: off, c: yes, d: true, e: False, f: ~, g: null, h: , i: 2026-11-27, j: 12:30:45, k: '025', l: !!str 7}";
        assert_eq!(
            read(text).unwrap(),
            json!({
                "a": "no", "b": "off", "c": "yes", "d": true, "e": false, "f": null, "g": null, "h": null,
                "i": "2026-11-27", "j": "12:30:45", "k": "025", "l": "7"
            })
        );
    }

    #[test]
    fn what_is_referred_to_is_what_was_written_there() {
        let text =
            "ä: &port 025\nports: [*port, 80]\nbase: &base {x: 0x1, y: 2}\nmore:\n  <<: *base\n  y: 010\n";
        assert_eq!(
            read(text).unwrap(),
            json!({"ä": "025", "ports": ["025", 80], "base": {"x": "0x1", "y": 2}, "more": {"x": "0x1", "y": "010"}})
        );
    }

    #[test]
    fn json_is_read_as_json() {
        let text = r#"{"a": [1, 2.5, -1, "025", null, true], "b": {"c": {}, "d": []}, "e": 1.0}"#;
        assert_eq!(read(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }
}

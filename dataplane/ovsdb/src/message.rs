//! JSON-RPC 1.0 messages as OVSDB uses them (RFC 7047 section 4).

use std::fmt;

use serde_json::{Value, json};

use crate::clip::{clip, describe};

/// What a peer can send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    Notification {
        method: String,
        params: Value,
    },
    Reply {
        id: Value,
        outcome: Result<Value, RemoteError>,
    },
}

/// The error a server answered a request with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteError {
    /// Its name, such as `unknown database` (RFC 7047 section 4.1).
    pub error: String,
    /// What the server says beyond that.
    pub details: Option<String>,
}

/// Why a JSON object is no JSON-RPC message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("member {member:?} of a JSON-RPC message is {found}, expected {expected}")]
pub struct MessageError {
    /// Name of the member, for example `params`.
    pub member: &'static str,
    /// JSON type that belongs there.
    pub expected: &'static str,
    /// JSON type and value sent, cut when long.
    pub found: String,
}

impl Message {
    pub(crate) fn parse(mut message: Value) -> Result<Self, MessageError> {
        let mut take = |member: &str| message.get_mut(member).map(Value::take).unwrap_or_default();
        let (id, method, params) = (take("id"), take("method"), take("params"));
        let (result, error) = (take("result"), take("error"));
        match (method, id) {
            (Value::String(method), Value::Null) => Ok(Self::Notification { method, params }),
            (Value::String(method), id) => Ok(Self::Request { id, method, params }),
            (Value::Null, Value::Null) => Err(MessageError {
                member: "id",
                expected: "the id of a request, where no method is given",
                found: describe(&Value::Null),
            }),
            (Value::Null, id) => {
                let outcome = if error.is_null() {
                    Ok(result)
                } else {
                    Err(RemoteError::parse(&error))
                };
                Ok(Self::Reply { id, outcome })
            }
            (method, _) => Err(MessageError {
                member: "method",
                expected: "a string",
                found: describe(&method),
            }),
        }
    }
}

impl RemoteError {
    /// What servers answer to a method they do not have.
    pub(crate) const UNKNOWN_METHOD: &str = "unknown method";

    fn parse(error: &Value) -> Self {
        let text = |member: &str| error.get(member).and_then(Value::as_str).map(clip);
        match error {
            Value::String(name) => Self {
                error: clip(name),
                details: None,
            },
            Value::Object(_) => Self {
                error: text("error").unwrap_or_else(|| "unnamed error".to_owned()),
                details: text("details"),
            },
            other => Self {
                error: describe(other),
                details: None,
            },
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.error)?;
        match &self.details {
            Some(details) => write!(formatter, " ({details})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RemoteError {}

pub(crate) fn write_request(output: &mut Vec<u8>, id: &Value, method: &str, params: &Value) {
    write(output, &json!({ "id": id, "method": method, "params": params }));
}

/// Appends the answer to a request of the server.
pub(crate) fn write_reply(output: &mut Vec<u8>, id: &Value, outcome: Result<Value, &str>) {
    let (result, error) = match outcome {
        Ok(result) => (result, Value::Null),
        Err(error) => (Value::Null, Value::from(error)),
    };
    write(output, &json!({ "id": id, "result": result, "error": error }));
}

fn write(output: &mut Vec<u8>, message: &Value) {
    output.extend_from_slice(message.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_requests_notifications_and_replies_apart() {
        let parse = |message: Value| Message::parse(message).unwrap();
        assert!(matches!(
            parse(json!({"method": "echo", "params": [], "id": "echo"})),
            Message::Request { .. }
        ));
        assert!(matches!(
            parse(json!({"method": "update", "params": [], "id": null})),
            Message::Notification { .. }
        ));
        let Message::Reply { outcome, .. } = parse(json!({"id": 3, "error": "unknown method"})) else {
            panic!()
        };
        assert_eq!(outcome.unwrap_err().error, RemoteError::UNKNOWN_METHOD);
        let error = json!({"error": "unknown database", "details": "no nodb", "syntax": "x"});
        let Message::Reply { outcome, .. } = parse(json!({"id": 3, "result": null, "error": error})) else {
            panic!()
        };
        assert_eq!(outcome.unwrap_err().to_string(), "unknown database (no nodb)");
    }

    #[test]
    fn refuses_what_is_none_of_them() {
        for message in [
            json!({}),
            json!({"method": 5, "id": 1}),
            json!({"id": null, "result": 1}),
        ] {
            assert!(Message::parse(message.clone()).is_err(), "{message}");
        }
    }
}

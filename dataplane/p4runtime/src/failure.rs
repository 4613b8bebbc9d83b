//! Errors that a device returns, with the update they are about.

use portcullis_proto::google::rpc;
use portcullis_proto::p4::v1;
use prost::Message;

use crate::session::{RESOURCE_EXHAUSTED, WriteFailure};

/// The longest text of a device that messages show, in characters.
const SHOWN: usize = 300;

/// A text of a device as messages and logs show it: what is not printable is escaped, and what is too long is cut.
pub fn shown(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    let mut told: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        told.push('…');
    }
    told
}

/// Why a request of so many updates was not carried out. P4Runtime 1.6.0, section 12.3: an error of a batch has one
/// `p4.v1.Error` per update in its details, `OK` for those that were carried out.
pub fn of_write(code: i32, message: &str, details: &[u8], updates: usize) -> WriteFailure {
    match rows(details, updates) {
        Ok(rows) => WriteFailure::Rows(rows),
        Err(_) if updates == 1 && code == RESOURCE_EXHAUSTED => {
            WriteFailure::Rows(vec![(0, code, shown(message))])
        }
        Err(why) => WriteFailure::Whole(format!(
            "Write: {} (code {code}, {}); {why}",
            shown(message),
            tonic::Code::from_i32(code)
        )),
    }
}

/// The updates that were refused; or why the details do not tell.
fn rows(details: &[u8], updates: usize) -> Result<Vec<(usize, i32, String)>, String> {
    if details.is_empty() {
        return Err("the answer has no details".to_string());
    }
    let unreadable = |what: &str, error: prost::DecodeError| format!("its {what} cannot be read: {error}");
    let status = rpc::Status::decode(details).map_err(|e| unreadable("details", e))?;
    if status.details.len() != updates {
        return Err(format!(
            "its details tell of {} updates, and there were {updates}",
            status.details.len()
        ));
    }
    let errors = status.details.iter().enumerate().map(|(at, any)| {
        v1::Error::decode(any.value.as_slice()).map_err(|e| unreadable(&format!("details of update {at}"), e))
    });
    let errors: Vec<v1::Error> = errors.collect::<Result<_, _>>()?;
    let refused = errors
        .into_iter()
        .enumerate()
        .filter(|(_, e)| e.canonical_code != 0);
    let rows: Vec<(usize, i32, String)> = refused
        .map(|(at, e)| (at, e.canonical_code, shown(&e.message)))
        .collect();
    if rows.is_empty() {
        return Err("its details say that every update was carried out".to_string());
    }
    Ok(rows)
}

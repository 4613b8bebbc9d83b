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

/// Why a request of `updates` updates was not carried out. P4Runtime 1.6.0, section 12.3: an error of a batch has
/// one `p4.v1.Error` per update in its details, `OK` for those that were carried out.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// An answer with an error per code.
    fn details(codes: &[i32]) -> Vec<u8> {
        let any = |code: &i32| prost_types::Any {
            value: v1::Error {
                canonical_code: *code,
                message: format!("code {code}"),
                ..v1::Error::default()
            }
            .encode_to_vec(),
            ..prost_types::Any::default()
        };
        let status = rpc::Status {
            details: codes.iter().map(any).collect(),
            ..rpc::Status::default()
        };
        status.encode_to_vec()
    }

    #[test]
    fn details_are_of_as_many_updates_as_were_sent() {
        let answer = |codes: &[i32], updates| of_write(2, "refused", &details(codes), updates);
        let one = vec![(1, 6, "code 6".to_string())];
        assert_eq!(answer(&[0, 6], 2), WriteFailure::Rows(one));
        // With fewer or more it is not known which of ours were refused, so that none counts as carried out.
        for (codes, updates) in [(&[0, 6][..], 3), (&[0, 6, 6], 2), (&[6], 2)] {
            let WriteFailure::Whole(why) = answer(codes, updates) else {
                panic!("{codes:?} of {updates} updates were read");
            };
            let counts = format!("{} updates, and there were {updates}", codes.len());
            assert!(why.contains(&counts), "{why}");
        }
    }
}

//! Entries of the audit log and the hash over each.

use portcullis_policy::text;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The hash before the first entry.
const GENESIS: [u8; 32] = [0; 32];

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who: `uid 0`, `cert spiffe://…`, `agent`.
    pub actor: String,
    /// `operator`, `provisioner`, `viewer` or `tenant`; `agent` for the agent itself.
    pub role: String,
    /// What: `policy.change`, `unlock.activate`, `access.denied`.
    pub action: String,
    /// About what: `unlocks/u-1`, `generations/7`.
    pub subject: String,
    /// More about it, as JSON.
    pub detail: String,
    /// The generation of the policy that it made, or that was current.
    pub generation: u64,
    /// Digest of the evidence that it is about. The detail gets it with a salt that only the database knows: without it,
    /// evidence of few possible values could be found by trying.
    #[serde(default)]
    pub evidence: Option<[u8; 32]>,
}

/// Longest actor, role, action and subject of an entry, in bytes.
pub const LONGEST_WORD: usize = 256;
/// Longest detail of an entry, in bytes.
pub const LONGEST_DETAIL: usize = 4096;
/// Longest text, and most items of a list, in a detail that is too long.
const SHORT: (usize, usize) = (512, 32);
/// Longest detail that is read to be shortened; of a longer one the beginning is kept.
const READ: usize = 1 << 20;

impl Entry {
    /// The entry as it is stored: cut to the longest an entry may be, which it says where it is cut, and without characters
    /// that steer a terminal. This is the one place for that; everything that is written comes through it.
    pub fn bounded(mut self) -> Self {
        for word in [
            &mut self.actor,
            &mut self.role,
            &mut self.action,
            &mut self.subject,
        ] {
            // Cut before it is escaped, too: a huge one takes no time.
            let plain = text::plain(text::prefix(word, LONGEST_WORD));
            *word = text::cut_of(&plain, word.len(), LONGEST_WORD).into_owned();
        }
        self.detail = short_detail(self.detail);
        self
    }
}

/// A detail that is short enough, as JSON.
fn short_detail(detail: String) -> String {
    let beginning = |detail: &str| {
        let text = text::prefix(detail, LONGEST_DETAIL / 4);
        let short = serde_json::json!({"cut_from_bytes": detail.len(), "beginning": text}).to_string();
        text::plain_json(&short).into_owned()
    };
    if detail.len() > READ {
        return beginning(&detail);
    }
    let plain = text::plain_json(&detail);
    if plain.len() <= LONGEST_DETAIL {
        return plain.into_owned();
    }
    let Ok(mut value) = serde_json::from_str(&plain) else {
        return beginning(&detail);
    };
    shorten(&mut value);
    let short = value.to_string();
    let short = text::plain_json(&short);
    if short.len() <= LONGEST_DETAIL {
        return short.into_owned();
    }
    beginning(&detail)
}

fn shorten(value: &mut serde_json::Value) {
    let (longest, most) = SHORT;
    match value {
        serde_json::Value::String(text) => *text = text::cut(text, longest).into_owned(),
        serde_json::Value::Array(list) => {
            let count = list.len();
            if count > most {
                list.truncate(most);
                list.push(format!("… (cut, {count} items)").into());
            }
            list.iter_mut().for_each(shorten);
        }
        serde_json::Value::Object(map) => map.values_mut().for_each(shorten),
        _ => {}
    }
}

/// SHA-256 over the hash before, the number, and every field behind its length.
pub fn hash(before: &[u8; 32], number: u64, entry: &Entry) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(b"portcullis audit 1\n");
    digest.update(before);
    digest.update(number.to_be_bytes());
    digest.update(entry.at_ms.to_be_bytes());
    digest.update(entry.generation.to_be_bytes());
    for field in [
        &entry.actor,
        &entry.role,
        &entry.action,
        &entry.subject,
        &entry.detail,
    ] {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field.as_bytes());
    }
    digest.finalize().into()
}

/// The end of the log. As text it is `NUMBER:HASH`, the hash in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the newest entry; 0 when there is none.
    pub number: u64,
    /// Its hash; zeros when there is none.
    pub hash: [u8; 32],
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.number, hex(&self.hash))
    }
}

impl std::str::FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (number, digits) = text.split_once(':')?;
            if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let mut hash = [0; 32];
            for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
                *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
            }
            Some(Head {
                number: number.parse().ok()?,
                hash,
            })
        };
        read().ok_or_else(|| {
            "is not NUMBER:HASH, with the 64 hexadecimal digits of an entry's hash".to_string()
        })
    }
}

impl Default for Head {
    fn default() -> Self {
        Head {
            number: 0,
            hash: GENESIS,
        }
    }
}

/// Bytes in hexadecimal digits; as many as a hash has at most.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}

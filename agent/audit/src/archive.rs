//! Archives of the audit log, read without an agent: what they hold, and whether an entry of the log names them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::entry::{Entry, Head, hash, hex};

/// The action of an entry that names an archive.
pub const ARCHIVED: &str = "audit.archive";

/// Longest line of an archive, in bytes: an entry has at most about 5 KiB, and JSON escapes may lengthen it sixfold.
const LONGEST_LINE: u64 = 64 << 10;

/// A line of an archive.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u64,
    at_ms: i64,
    actor: String,
    role: String,
    action: String,
    subject: String,
    detail: String,
    generation: u64,
    hash: String,
}

/// What an entry of the log says about an archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Named {
    /// `NUMBER:HASH` of its last entry.
    pub head: String,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

/// What the log says about archives, by the number of their last entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<u64, Named>);

impl Names {
    /// Takes over what an entry says, if it is about an archive.
    pub fn add(&mut self, action: &str, detail: &str) {
        let named = serde_json::from_str::<Named>(detail).ok();
        if let Some(named) = named.filter(|_| action == ARCHIVED)
            && let Ok(head) = named.head.parse::<Head>()
        {
            self.0.insert(head.number, named);
        }
    }

    /// The entry with this number, if it is the last one of an archive.
    fn head(&self, number: u64) -> Option<Head> {
        self.0.get(&number)?.head.parse().ok()
    }
}

/// An entry that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number; 0 when the file is empty.
    pub number: u64,
    /// What is wrong with it, for people.
    pub problem: String,
}

/// An archive as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Number of the first entry.
    pub first: u64,
    /// The last entry whose hash is right, given the one before the first.
    pub head: Head,
    sha256: String,
    begins: Entry,
    begins_with: [u8; 32],
    names: Names,
    fault: Option<Fault>,
}

impl Archive {
    /// Reads one. Entries are verified from the second on; the first needs the one before it.
    pub fn read(file: impl Read) -> io::Result<Result<Self, Fault>> {
        let mut file = io::BufReader::new(file);
        let mut digest = Sha256::new();
        let mut archive: Option<Archive> = None;
        loop {
            let mut line = Vec::new();
            (&mut file).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                break;
            }
            digest.update(&line);
            let expected = archive.as_ref().map(|archive| archive.head.number + 1);
            match (&mut archive, parsed(&line)) {
                // The digest is over the whole file, also behind a fault.
                (Some(Archive { fault: Some(_), .. }), _) => {}
                (None, Err(problem)) => {
                    return Ok(Err(Fault { number: 1, problem }));
                }
                (Some(archive), Err(problem)) => {
                    archive.fault = expected.map(|number| Fault { number, problem });
                }
                (None, Ok((number, entry, stated))) => archive = Some(Self::begun(number, entry, stated)),
                (Some(archive), Ok((number, entry, stated))) => archive.follow(number, &entry, stated),
            }
        }
        let Some(mut archive) = archive else {
            return Ok(Err(Fault {
                number: 0,
                problem: "the file is empty".to_string(),
            }));
        };
        archive.sha256 = hex(&digest.finalize());
        Ok(Ok(archive))
    }

    fn begun(number: u64, entry: Entry, stated: [u8; 32]) -> Self {
        let mut names = Names::default();
        names.add(&entry.action, &entry.detail);
        Archive {
            first: number,
            head: Head { number, hash: stated },
            sha256: String::new(),
            begins: entry,
            begins_with: stated,
            names,
            fault: None,
        }
    }

    fn follow(&mut self, number: u64, entry: &Entry, stated: [u8; 32]) {
        let wanted = self.head.number + 1;
        let problem = match () {
            () if number != wanted => {
                format!("it is missing: entry {number} follows entry {}", self.head.number)
            }
            () if hash(&self.head.hash, number, entry) != stated => {
                "its hash is not that of its content".to_string()
            }
            () => {
                self.names.add(&entry.action, &entry.detail);
                self.head = Head { number, hash: stated };
                return;
            }
        };
        self.fault = Some(Fault {
            number: wanted,
            problem,
        });
    }

    /// What is wrong with it, given what entries say that are known to be right. Without a fault, what its own entries say
    /// about earlier archives is known to be right, too.
    pub fn verify(&self, names: &mut Names) -> Result<(), Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let last = self.head.number;
        let fault = |number, problem: &str| {
            Err(Fault {
                number,
                problem: problem.to_string(),
            })
        };
        let Some(named) = names.0.get(&last) else {
            return fault(
                last,
                "no entry of the audit log, or of a later archive that was given, names an archive that ends here",
            );
        };
        if named.head != self.head.to_string() || named.sha256 != self.sha256 {
            return fault(
                last,
                "the file is not the one that the audit log names: its SHA-256 or its last hash differs",
            );
        }
        let mut known = names.clone();
        known.0.extend(self.names.0.clone());
        let before = match self.first {
            1 => Some(Head::default()),
            first => known.head(first - 1),
        };
        let Some(before) = before else {
            return fault(self.first, "the hash of the entry before it is not known");
        };
        if hash(&before.hash, self.first, &self.begins) != self.begins_with {
            return fault(
                self.first,
                "its hash is not that of its content and of the entry before it",
            );
        }
        *names = known;
        Ok(())
    }
}

/// Number, entry and hash of a line.
fn parsed(line: &[u8]) -> Result<(u64, Entry, [u8; 32]), String> {
    if !line.ends_with(b"\n") {
        return Err("its line is cut off, or too long".to_string());
    }
    let line: Line =
        serde_json::from_slice(line).map_err(|error| format!("its line is not an entry: {error}"))?;
    let head: Head = format!("{}:{}", line.number, line.hash)
        .parse()
        .map_err(|_| "its hash is not one of 64 hexadecimal digits".to_string())?;
    let entry = Entry {
        at_ms: line.at_ms,
        actor: line.actor,
        role: line.role,
        action: line.action,
        subject: line.subject,
        detail: line.detail,
        generation: line.generation,
        evidence: None,
    };
    Ok((head.number, entry, head.hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(before: &mut Head, action: &str, detail: &str) -> String {
        let number = before.number + 1;
        let entry = Entry {
            at_ms: 1_700_000_000_000,
            actor: "uid 0".to_string(),
            role: "operator".to_string(),
            action: action.to_string(),
            subject: "audit".to_string(),
            detail: detail.to_string(),
            generation: 7,
            evidence: None,
        };
        *before = Head {
            number,
            hash: hash(&before.hash, number, &entry),
        };
        let line = serde_json::json!({
            "number": number, "at_ms": entry.at_ms, "actor": entry.actor, "role": entry.role, "action": entry.action,
            "subject": entry.subject, "detail": entry.detail, "generation": entry.generation, "hash": hex(&before.hash),
        });
        format!("{line}\n")
    }

    fn named(head: &Head, file: &str) -> String {
        let sha256 = hex(&Sha256::digest(file));
        serde_json::json!({"file": "a", "head": head.to_string(), "sha256": sha256}).to_string()
    }

    /// Two archives, the first of which the second names, and what the log says of the second.
    fn two() -> (String, String, Names) {
        let mut head = Head::default();
        let first: String = (0..5)
            .map(|n| line(&mut head, "policy.change", &format!("{n}")))
            .collect();
        let names_first = named(&head, &first);
        let mut second: String = (0..3).map(|_| line(&mut head, "unlock.activate", "{}")).collect();
        second += &line(&mut head, ARCHIVED, &names_first);
        let mut names = Names::default();
        names.add(ARCHIVED, &named(&head, &second));
        (first, second, names)
    }

    fn read(text: &str) -> Result<Archive, Fault> {
        Archive::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn archives_are_right_as_far_as_the_log_names_them() {
        let (first, second, names) = two();
        let mut known = names.clone();
        let (one, other) = (read(&first).unwrap(), read(&second).unwrap());
        assert_eq!(
            (one.first, one.head.number, other.first, other.head.number),
            (1, 5, 6, 9)
        );
        let fault = one.verify(&mut known).unwrap_err();
        assert!(fault.problem.contains("no entry"), "{fault:?}");
        other.verify(&mut known).unwrap();
        one.verify(&mut known).unwrap();
        // An archive that is whole and another one.
        let mut head = Head::default();
        let forged: String = (0..5)
            .map(|_| line(&mut head, "policy.change", "other"))
            .collect();
        let fault = read(&forged).unwrap().verify(&mut known).unwrap_err();
        assert!(fault.problem.contains("SHA-256"), "{fault:?}");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_number() {
        let (first, ..) = two();
        let mut names = Names::default();
        let lines: Vec<&str> = first.lines().collect();
        for (text, number, problem) in [
            (
                first.replace("\"detail\":\"3\"", "\"detail\":\"4\""),
                4,
                "content",
            ),
            (
                [lines[0], lines[2]].map(|line| format!("{line}\n")).concat(),
                2,
                "missing",
            ),
            (first[..first.len() - 1].to_string(), 5, "cut off"),
            (
                first.replace(
                    "\"generation\":7,\"hash\"",
                    "\"more\":1,\"generation\":7,\"hash\"",
                ),
                1,
                "not an entry",
            ),
            (String::new(), 0, "empty"),
        ] {
            let fault = read(&text)
                .and_then(|archive| archive.verify(&mut names))
                .unwrap_err();
            assert!(
                fault.number == number && fault.problem.contains(problem),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn any_changed_bit_is_found() {
        let (first, second, names) = two();
        let mut known = names;
        read(&second).unwrap().verify(&mut known).unwrap();
        for at in 0..first.len() * 8 {
            let mut bytes = first.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let found = Archive::read(bytes.as_slice()).unwrap();
            let verified = found.and_then(|archive| archive.verify(&mut known.clone()));
            assert!(verified.is_err(), "bit {at}");
        }
    }
}

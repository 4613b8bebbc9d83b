use std::os::unix::fs::FileExt;

use super::*;

const DATABASE: DatabaseId = [7; 16];

fn closing(generation: u64) -> Closing {
    Closing {
        bypasses: vec!["web1".parse().unwrap()],
        generation,
        seen: Moment {
            wall_ms: 1,
            boot_ms: 2,
            boot: 3,
        },
        by: "agent".to_string(),
        unlocks: Vec::new(),
        strikes: Vec::new(),
        tenant_strikes: Vec::new(),
        audit: vec![Entry {
            detail: "x".repeat(300),
            ..Entry::default()
        }],
    }
}

fn numbers(records: &[(u64, Closing)]) -> Vec<u64> {
    records.iter().map(|(number, _)| *number).collect()
}

fn small(path: &Path, stored: u64) -> (Journal, Vec<(u64, Closing)>) {
    Journal::open_sized(path, DATABASE, stored, 0, RECORDS + 3000)
}

#[test]
fn what_was_appended_is_read_again_and_what_is_stored_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let (mut journal, records) = small(&path, 0);
    assert!(records.is_empty());
    let size = std::fs::metadata(&path).unwrap().len();
    for number in 1..=3 {
        journal.append(number, &closing(number)).unwrap();
    }
    drop(journal);
    let (journal, records) = small(&path, 0);
    assert_eq!(numbers(&records), [1, 2, 3]);
    assert_eq!((records[2].1.generation, journal.newest()), (3, 3));
    let (_, records) = small(&path, 2);
    assert_eq!(numbers(&records), [3]);
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        size,
        "it takes no more room"
    );
}

#[test]
fn it_is_full_until_the_database_has_everything_and_then_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let (mut journal, _) = small(&path, 0);
    let mut number = 0;
    let error = loop {
        number += 1;
        if let Err(error) = journal.append(number, &closing(number)) {
            break error;
        }
    };
    assert!(
        matches!(error, JournalError::Full { .. }) && number > 3,
        "{error}"
    );
    journal.stored(number - 2, 1);
    assert!(
        journal.append(number, &closing(number)).is_err(),
        "one is not stored"
    );
    journal.stored(number - 1, 2);
    journal.append(number, &closing(number)).unwrap();
    drop(journal);
    let (mut journal, records) = small(&path, number - 1);
    assert_eq!(
        numbers(&records),
        [number],
        "what was there before is not read behind it"
    );
    journal.append(number + 1, &closing(9)).unwrap();
    let (_, records) = small(&path, number - 1);
    assert_eq!(numbers(&records), [number, number + 1]);
}

#[test]
fn a_record_with_any_byte_changed_ends_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let (mut journal, _) = small(&path, 0);
    journal.append(1, &closing(1)).unwrap();
    let second = journal.at;
    journal.append(2, &closing(2)).unwrap();
    let end = journal.at;
    let whole = std::fs::read(&path).unwrap();
    for at in second..end {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
        let (mut journal, records) = small(&path, 0);
        assert_eq!(numbers(&records), [1], "byte {at}");
        assert_eq!(journal.at, second);
        journal.append(3, &closing(3)).unwrap();
        assert_eq!(numbers(&small(&path, 0).1), [1, 3], "byte {at}");
    }
    // Any length of the file is a journal.
    for length in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (_, records) = small(&path, 0);
        assert!(records.len() <= 2, "{length}");
    }
}

#[test]
fn the_journal_of_another_database_is_left_until_there_is_something_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let (mut journal, _) = small(&path, 0);
    journal.append(1, &closing(1)).unwrap();
    drop(journal);
    let (mut other, records) = Journal::open_sized(&path, [8; 16], 0, 0, RECORDS + 3000);
    assert!(records.is_empty());
    assert_eq!(numbers(&small(&path, 0).1), [1]);
    other.append(1, &closing(5)).unwrap();
    assert!(small(&path, 0).1.is_empty());
    assert_eq!(Header::from_file(&path).unwrap().database, [8; 16]);
}

#[test]
fn a_header_is_whole_in_one_of_its_copies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let (mut journal, _) = small(&path, 0);
    for commits in 1..=9 {
        journal.stored(0, commits);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(Header::from_file(&path).unwrap().commits, commits);
        // The copy that is written next is torn.
        let next = (journal.header.counter + 1) % 2 * COPY;
        file.write_all_at(&[0xff; 40], next).unwrap();
        assert_eq!(Header::from_file(&path).unwrap().commits, commits);
        std::fs::write(&path, whole).unwrap();
    }
    forget_commits(&path).unwrap();
    assert_eq!(Header::from_file(&path).unwrap().commits, 0);
    assert!(forget_commits(&folder.path().join("none")).is_ok());
}

use super::*;

fn key(name: &str) -> Key {
    Key {
        kind: Kind::Endpoint,
        name: name.to_string(),
    }
}

fn generation(number: u64, names: &[&str]) -> Generation {
    let changes = names.iter().map(|name| (Change::Created, key(name))).collect();
    Generation {
        number,
        at: 7,
        by: "uid 0".to_string(),
        changes,
    }
}

fn put(name: &str, body: &str) -> Write {
    Write {
        key: key(name),
        change: Change::Created,
        body: Some(body.to_string()),
        anew: false,
    }
}

#[test]
fn what_was_committed_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/portcullis.db");
    let (mut store, loaded) = Store::open(&file).unwrap();
    assert_eq!(
        (loaded.generation, loaded.next_class, loaded.resources.len()),
        (0, 1, 0)
    );
    let classes = ClassChanges {
        added: vec![(Fingerprint([7; 32]), ClassId(3))],
        released: vec![(ClassId(1), 1), (ClassId(2), 1)],
        next: 4,
        ..Default::default()
    };
    store
        .commit(
            &generation(1, &["a", "b"]),
            &[put("a", "1"), put("b", "2")],
            &classes,
        )
        .unwrap();
    let delete = Write {
        key: key("a"),
        change: Change::Deleted,
        body: None,
        anew: false,
    };
    store
        .commit(
            &generation(2, &["a"]),
            &[delete],
            &ClassChanges {
                gone: vec![ClassId(1)],
                next: 4,
                ..Default::default()
            },
        )
        .unwrap();
    // As after a kill: nothing is closed.
    let reader = History::open(&file).unwrap();
    assert_eq!(
        reader.after(0, 10).unwrap(),
        [generation(1, &["a", "b"]), generation(2, &["a"])]
    );
    assert_eq!(reader.after(1, 10).unwrap().len(), 1);
    assert_eq!(reader.oldest().unwrap(), Some(1));
    drop(store);
    let (store, loaded) = Store::open(&file).unwrap();
    assert_eq!((loaded.generation, loaded.next_class), (2, 4));
    assert_eq!(loaded.classes, [(Fingerprint([7; 32]), ClassId(3))]);
    assert_eq!(loaded.released, [(ClassId(2), 1)]);
    assert_eq!(loaded.resources.keys().collect::<Vec<_>>(), [&key("b")]);
    assert_eq!(loaded.resources[&key("b")].revision, 1);
    store.close().unwrap();
}

#[test]
fn a_failed_commit_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.db");
    let (mut store, _) = Store::open(&file).unwrap();
    let twice = ClassChanges {
        added: vec![
            (Fingerprint([1; 32]), ClassId(1)),
            (Fingerprint([1; 32]), ClassId(2)),
        ],
        next: 3,
        ..Default::default()
    };
    let error = store
        .commit(&generation(1, &["a"]), &[put("a", "1")], &twice)
        .unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Sqlite {
                action: "commit a change",
                ..
            }
        ),
        "{error:?}"
    );
    drop(store);
    let (_, loaded) = Store::open(&file).unwrap();
    assert_eq!(
        (loaded.generation, loaded.resources.len(), loaded.classes.len()),
        (0, 0, 0)
    );
}

#[test]
fn only_one_agent_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.db");
    let (store, _) = Store::open(&file).unwrap();
    assert!(matches!(
        Store::open(&file).unwrap_err(),
        StoreError::InUse { .. }
    ));
    drop(store);
    Store::open(&file).unwrap();
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "not a database at all, but long enough to look at".repeat(100),
    )
    .unwrap();
    assert!(matches!(
        Store::open(&text).unwrap_err(),
        StoreError::Damaged { .. }
    ));

    let foreign = folder.path().join("foreign");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE mine (a)")
        .unwrap();
    assert!(matches!(
        Store::open(&foreign).unwrap_err(),
        StoreError::Foreign { .. }
    ));

    let newer = folder.path().join("newer");
    drop(Store::open(&newer).unwrap());
    Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Store::open(&newer).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 99,
                known: 6,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn damage_in_the_middle_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.db");
    let (mut store, _) = Store::open(&file).unwrap();
    let writes: Vec<Write> = (0..500)
        .map(|i| put(&format!("e{i}"), &"x".repeat(200)))
        .collect();
    store
        .commit(
            &generation(1, &["e0"]),
            &writes,
            &ClassChanges {
                next: 1,
                ..Default::default()
            },
        )
        .unwrap();
    store.close().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let error = Store::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn history_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.db");
    let (mut store, _) = Store::open(&file).unwrap();
    let large: Vec<String> = (0..1000).map(|i| format!("e{i}")).collect();
    let names: Vec<&str> = large.iter().map(String::as_str).collect();
    store
        .commit(
            &generation(1, &names),
            &[],
            &ClassChanges {
                next: 1,
                ..Default::default()
            },
        )
        .unwrap();
    // As if almost everything that is kept had been written.
    store.kept.pretend(KEPT_CHANGES - 1);
    store
        .commit(
            &generation(2, &["a", "b"]),
            &[],
            &ClassChanges {
                next: 1,
                ..Default::default()
            },
        )
        .unwrap();
    let reader = History::open(&file).unwrap();
    assert_eq!(reader.oldest().unwrap(), Some(2));
    assert_eq!(reader.after(0, 10).unwrap().len(), 1);
}

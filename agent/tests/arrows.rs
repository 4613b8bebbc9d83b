//! The arrows between crates, and the purity of the pure ones, as ARCHITECTURE.md draws them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate, and what of ours it may import.
const ARROWS: [(&str, &[&str]); 10] = [
    ("dataplane/policy", &[]),
    ("dataplane/compiler", &["policy"]),
    ("dataplane/backend", &["policy", "compiler"]),
    ("dataplane/openflow", &[]),
    ("dataplane/ovsdb", &[]),
    (
        "dataplane/ovs",
        &["policy", "compiler", "backend", "openflow", "ovsdb"],
    ),
    ("dataplane/testbed", &[]),
    ("proto", &[]),
    ("agent", &["policy", "compiler", "backend", "ovs", "proto"]),
    (
        "benches",
        &[
            "policy", "compiler", "backend", "openflow", "ovsdb", "ovs", "testbed", "proto",
        ],
    ),
];

/// Files that decide without I/O: whole crates, and the pure parts of others.
const PURE: [&str; 7] = [
    "dataplane/policy/src",
    "dataplane/compiler/src",
    "dataplane/openflow/src",
    "dataplane/ovsdb/src",
    "dataplane/backend/src/machine.rs",
    "dataplane/ovs/src/session.rs",
    "dataplane/ovs/src/tables",
];

/// What pure code does not name.
const IMPURE: [&str; 9] = [
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "std::process",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { sources(&path) } else { vec![path] }
        })
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The crates of ours in the `[dependencies]` of a manifest.
fn imports(manifest: &str) -> BTreeSet<String> {
    let parsed: toml::Table = manifest.parse().unwrap();
    let dependencies = parsed
        .get("dependencies")
        .and_then(|d| d.as_table())
        .cloned()
        .unwrap_or_default();
    dependencies
        .keys()
        .filter_map(|name| name.strip_prefix("portcullis-"))
        .map(str::to_string)
        .collect()
}

#[test]
fn crates_import_along_the_arrows_only() {
    let workspace: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let members: BTreeSet<&str> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m.as_str())
        .collect();
    assert_eq!(
        members,
        ARROWS.iter().map(|(name, _)| *name).collect(),
        "a crate without arrows"
    );
    for (name, allowed) in ARROWS {
        let imports = imports(&read(&root().join(name).join("Cargo.toml")));
        let allowed: BTreeSet<String> = allowed.iter().map(ToString::to_string).collect();
        let wrong: Vec<&String> = imports.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{name} imports {wrong:?}");
    }
}

#[test]
fn pure_code_does_no_io_and_reads_no_clock() {
    for part in PURE {
        for file in sources(&root().join(part)) {
            let text = read(&file);
            let code = text.split("#[cfg(test)]").next().unwrap_or("");
            for word in IMPURE {
                let named = code
                    .lines()
                    .any(|l| !l.trim_start().starts_with("//") && l.contains(word));
                assert!(!named, "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_is_forbidden_where_it_has_no_business() {
    for (name, _) in ARROWS
        .iter()
        .filter(|(name, _)| !matches!(*name, "dataplane/testbed" | "proto" | "benches"))
    {
        let lib = read(&root().join(name).join("src/lib.rs"));
        assert!(
            lib.contains("#![forbid(unsafe_code)]"),
            "{name} does not forbid unsafe code"
        );
    }
}

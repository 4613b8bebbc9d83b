//! The arrows between crates, and the purity of the pure ones, as ARCHITECTURE.md draws them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate, and what of ours it may import.
const ARROWS: [(&str, &[&str]); 15] = [
    ("dataplane/policy", &[]),
    ("dataplane/compiler", &["policy"]),
    ("dataplane/backend", &["policy", "compiler"]),
    ("dataplane/openflow", &[]),
    ("dataplane/ovsdb", &[]),
    (
        "dataplane/ovs",
        &["policy", "compiler", "backend", "openflow", "ovsdb"],
    ),
    ("dataplane/p4runtime", &["policy", "compiler", "backend", "proto"]),
    ("dataplane/dpdk-sys", &[]),
    ("dataplane/dpdk", &["dpdk-sys"]),
    ("dataplane/fastpath", &[]),
    ("dataplane/switch", &["dpdk", "fastpath", "p4runtime", "proto"]),
    ("dataplane/testbed", &["proto"]),
    ("proto", &[]),
    (
        "agent",
        &["policy", "compiler", "backend", "ovs", "p4runtime", "proto"],
    ),
    (
        "benches",
        &[
            "policy",
            "compiler",
            "backend",
            "openflow",
            "ovsdb",
            "ovs",
            "p4runtime",
            "testbed",
            "proto",
        ],
    ),
];

/// Files that decide without I/O: whole crates, and the pure parts of others.
const PURE: [&str; 29] = [
    "agent/src/access/accounts.rs",
    "agent/src/access/caller.rs",
    "agent/src/access/people.rs",
    "agent/src/access/rights.rs",
    "agent/src/access/role.rs",
    "dataplane/policy/src",
    "dataplane/compiler/src",
    "dataplane/fastpath/src",
    "dataplane/openflow/src",
    "dataplane/switch/src/entry.rs",
    "dataplane/switch/src/server/roles.rs",
    "dataplane/switch/src/store.rs",
    "dataplane/ovsdb/src",
    "dataplane/backend/src/machine.rs",
    "dataplane/ovs/src/session.rs",
    "dataplane/ovs/src/tables",
    "dataplane/p4runtime/src/device.rs",
    "dataplane/p4runtime/src/entry.rs",
    "dataplane/p4runtime/src/failure.rs",
    "dataplane/p4runtime/src/find.rs",
    "dataplane/p4runtime/src/mapping.rs",
    "dataplane/p4runtime/src/model",
    "dataplane/p4runtime/src/order.rs",
    "dataplane/p4runtime/src/own",
    "dataplane/p4runtime/src/p4info.rs",
    "dataplane/p4runtime/src/plugs.rs",
    "dataplane/p4runtime/src/session.rs",
    "dataplane/p4runtime/src/units.rs",
    "dataplane/p4runtime/src/wire.rs",
];

/// Crates that may hold unsafe code: those over libdpdk, what only tests run, and what is generated.
const UNSAFE: [&str; 5] = [
    "dataplane/dpdk-sys",
    "dataplane/dpdk",
    "dataplane/testbed",
    "proto",
    "benches",
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
    for (name, _) in ARROWS.iter().filter(|(name, _)| !UNSAFE.contains(name)) {
        let lib = read(&root().join(name).join("src/lib.rs"));
        assert!(
            lib.contains("#![forbid(unsafe_code)]"),
            "{name} does not forbid unsafe code"
        );
    }
}

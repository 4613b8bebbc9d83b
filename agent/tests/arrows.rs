//! The arrows between crates, and the purity of the pure ones, as ARCHITECTURE.md draws them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate, and what of ours it may import.
const ARROWS: [(&str, &[&str]); 21] = [
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
    ("dataplane/fastpath", &["policy"]),
    ("dataplane/nic", &["policy", "fastpath"]),
    (
        "dataplane/switch",
        &["policy", "dpdk", "fastpath", "nic", "p4runtime", "proto"],
    ),
    ("dataplane/testbed", &["policy", "compiler", "backend", "proto"]),
    ("proto", &[]),
    (
        "agent",
        &[
            "policy",
            "compiler",
            "backend",
            "audit",
            "checks",
            "cli",
            "discovery",
            "nic",
            "ovs",
            "p4runtime",
            "proto",
            "unlock",
        ],
    ),
    ("agent/audit", &["policy"]),
    (
        "agent/cli",
        &["policy", "compiler", "p4runtime", "proto", "audit"],
    ),
    (
        "agent/discovery",
        &["policy", "compiler", "ovs", "ovsdb", "p4runtime", "proto"],
    ),
    ("agent/unlock", &["policy"]),
    ("agent/checks", &["policy"]),
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
            "fastpath",
            "switch",
            "testbed",
            "proto",
        ],
    ),
];

/// The modules of the agent, the lowest first: each uses only those before it.
const LAYERS: [&str; 17] = [
    "clock",
    "grpc_status",
    "config",
    "logging",
    "store",
    "metrics",
    "embedded",
    "access",
    "lifecycle",
    "engine",
    "unlocks",
    "targets",
    "promotion",
    "api",
    "reading",
    "daemon",
    "command",
];

/// Files that decide without I/O: whole crates, or parts of them; and the files of a part that do the I/O.
const PURE: [(&str, &[&str]); 18] = [
    ("agent/audit/src", &[]),
    ("agent/discovery/src", &["look.rs"]),
    ("agent/unlock/src", &[]),
    ("agent/src/access/accounts.rs", &[]),
    ("agent/src/access/caller.rs", &[]),
    ("agent/src/access/authenticator.rs", &[]),
    ("agent/src/access/rights.rs", &[]),
    ("agent/src/config/role.rs", &[]),
    ("dataplane/policy/src", &[]),
    ("dataplane/compiler/src", &[]),
    ("dataplane/fastpath/src", &[]),
    ("dataplane/nic/src", &[]),
    ("dataplane/openflow/src", &[]),
    ("dataplane/ovsdb/src", &[]),
    ("dataplane/backend/src", &["handle.rs", "run.rs", "time.rs"]),
    (
        "dataplane/ovs/src",
        &[
            "backend.rs",
            "caches.rs",
            "discover.rs",
            "driver",
            "io.rs",
            "no_flood.rs",
            "unixctl.rs",
        ],
    ),
    (
        "dataplane/p4runtime/src",
        &["backend.rs", "client.rs", "config.rs", "driver", "look.rs"],
    ),
    (
        "dataplane/switch/src",
        &[
            "config.rs",
            "counters.rs",
            "nic.rs",
            "engine.rs",
            "hub.rs",
            "main.rs",
            "ports.rs",
            "report.rs",
            "serve.rs",
            "server",
            "distributor.rs",
            "switch.rs",
            "top.rs",
            "worker.rs",
        ],
    ),
];

/// Pure files in a folder of which the rest does I/O.
const PURE_BESIDE_IO: [&str; 1] = ["dataplane/switch/src/server/roles.rs"];

/// Crates that may hold unsafe code: those over libdpdk, and what only tests run.
const UNSAFE: [&str; 3] = ["dataplane/dpdk-sys", "dataplane/dpdk", "dataplane/testbed"];

/// What pure code does not name.
const IMPURE: [&str; 15] = [
    "tokio",
    "tonic::transport",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::fs",
    "std::env",
    "std::io::stdin",
    "std::io::stdout",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "getrandom",
    // The names in such a group would not be seen one by one: one `use` for each.
    "std::{",
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

/// The modules of a crate that a file names from the crate's root.
fn from_root(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let mut named = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            named.insert(word(after));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ if begins => {
                    named.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    named
}

#[test]
fn modules_of_the_agent_use_lower_ones_only() {
    let folder = root().join("agent/src");
    let mut found = BTreeSet::new();
    for file in sources(&folder) {
        let inner = file.strip_prefix(&folder).unwrap().with_extension("");
        let module = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let at = LAYERS.iter().position(|layer| *layer == module);
        let at = at.unwrap_or_else(|| panic!("{module} has no layer"));
        found.insert(module.to_string());
        let upper: Vec<String> = from_root(&read(&file))
            .into_iter()
            .filter(|name| LAYERS[at + 1..].contains(&name.as_str()))
            .collect();
        assert!(upper.is_empty(), "{} uses {upper:?}", file.display());
    }
    let layers: BTreeSet<String> = LAYERS.iter().map(ToString::to_string).collect();
    assert_eq!(found, layers, "a layer without a module");
    let groups = from_root("use crate::{a::{x, y}, b, c::z}; crate::d::f(\"crate::e\");");
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

/// The code of a file without comments, literals, white space, and items that are compiled for tests only.
fn code(text: &str) -> String {
    let mut rest = bare(text);
    let mut code = String::new();
    while let Some((before, test)) = rest.split_once("#[cfg(test)]") {
        code.push_str(before);
        let end = item_end(test);
        rest = test[end..].to_string();
    }
    code + &rest
}

/// A file without comments, literals and white space.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(raw) = raw_string(rest) {
            raw
        } else if next == '"' {
            1 + string_end(&rest[1..])
        } else if next == '\'' {
            character(rest)
        } else {
            if !next.is_whitespace() {
                bare.push(next);
            }
            next.len_utf8()
        };
        rest = &rest[skipped..];
    }
    bare
}

/// The length of `r"..."` or `r#"..."#` at the beginning of a text.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let quoted = hashes.trim_start_matches('#');
    let count = hashes.len() - quoted.len();
    let body = quoted.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(count));
    Some(1 + count + 1 + body.find(&close)? + close.len())
}

/// Where a string ends whose opening quote was before this text.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of a character literal at the beginning of a text, or of the tick of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, c))) => {
            let after = at + c.len_utf8();
            text[after..].find('\'').map_or(1, |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Where the item ends that begins here: behind its body or its semicolon.
fn item_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// What a file names that pure code does not.
fn impure(text: &str) -> Vec<&'static str> {
    let code = code(text);
    IMPURE.into_iter().filter(|word| code.contains(word)).collect()
}

/// Every file that has to be pure.
fn pure_files() -> BTreeSet<PathBuf> {
    let parts = PURE.iter().flat_map(|(part, io)| {
        let folder = root().join(part);
        let io: Vec<PathBuf> = io.iter().map(|name| folder.join(name)).collect();
        io.iter()
            .for_each(|path| assert!(path.exists(), "{} is gone", path.display()));
        sources(&folder)
            .into_iter()
            .filter(move |file| !io.iter().any(|path| file.starts_with(path)))
    });
    let beside = PURE_BESIDE_IO.iter().map(|file| root().join(file));
    // Tests may do what they like.
    let is_test =
        |file: &PathBuf| file.ends_with("tests.rs") || file.components().any(|c| c.as_os_str() == "tests");
    parts.chain(beside).filter(|file| !is_test(file)).collect()
}

#[test]
fn pure_code_does_no_io_and_reads_no_clock() {
    for file in pure_files() {
        let named = impure(&read(&file));
        assert!(named.is_empty(), "{} names {named:?}", file.display());
    }
}

#[test]
fn a_file_that_calls_itself_pure_is_checked() {
    let pure = pure_files();
    for (name, _) in ARROWS {
        for file in sources(&root().join(name).join("src")) {
            let text = read(&file);
            let header = text.lines().take_while(|line| line.starts_with("//!"));
            let claims = header.flat_map(|line| line.split(|c: char| !c.is_alphanumeric()));
            if claims.into_iter().any(|word| word.eq_ignore_ascii_case("pure")) {
                assert!(
                    pure.contains(&file),
                    "{} calls itself pure: put it in PURE",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn code_behind_a_test_module_is_seen() {
    let text = "
        #![forbid(unsafe_code)]
        //! std::fs in documentation
        #[cfg(test)]
        mod tests { use std::fs; }
        #[cfg(test)]
        use std::process::Command;
        fn after<'a>(c: char) -> &'a str { if c == '\"' || c == '\\'' { r#\"std::env\"# } else { \"SystemTime\" } }
    ";
    assert_eq!(impure(text), [""; 0]);
    let text =
        format!("{text} fn worse() {{ std :: fs::read(\"x\"); let now = std::time::Instant::now(); }}");
    assert_eq!(impure(&text), ["std::fs", "Instant::now"]);
}

#[test]
fn unsafe_is_forbidden_where_it_has_no_business() {
    let lints = |manifest: &str, table: &str| -> toml::Value {
        let parsed: toml::Table = read(&root().join(manifest)).parse().unwrap();
        let parsed = toml::Value::Table(parsed);
        let found = table.split('.').try_fold(&parsed, |at, key| at.get(key));
        found.unwrap_or_else(|| panic!("{manifest} has no lints")).clone()
    };
    let common = lints("Cargo.toml", "workspace.lints");
    assert_eq!(common["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for (name, _) in ARROWS {
        let own = lints(&format!("{name}/Cargo.toml"), "lints");
        if UNSAFE.contains(&name) {
            let mut wanted = common.clone();
            wanted["rust"].as_table_mut().unwrap().remove("unsafe_code");
            assert_eq!(own, wanted, "{name} has other lints than the workspace");
        } else {
            assert_eq!(
                own["workspace"].as_bool(),
                Some(true),
                "{name} does not take the workspace's lints"
            );
        }
    }
}

/// The test binaries that a manifest names.
fn test_binaries(manifest: &str) -> BTreeSet<String> {
    let parsed: toml::Table = manifest.parse().unwrap();
    let tests = parsed
        .get("test")
        .and_then(|t| t.as_array())
        .cloned()
        .unwrap_or_default();
    tests
        .iter()
        .filter_map(|t| t["name"].as_str())
        .map(str::to_string)
        .collect()
}

#[test]
fn every_test_file_is_part_of_a_binary() {
    for (name, _) in ARROWS {
        let folder = root().join(name);
        let manifest = read(&folder.join("Cargo.toml"));
        if !manifest.contains("\nautotests = false") {
            continue;
        }
        let binaries = test_binaries(&manifest);
        let declared: String = binaries
            .iter()
            .map(|binary| read(&folder.join(format!("tests/{binary}.rs"))))
            .collect();
        for entry in std::fs::read_dir(folder.join("tests")).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
            let is_source = path.extension().is_some_and(|e| e == "rs");
            if !is_source && !path.join("mod.rs").exists() || binaries.contains(&stem) {
                continue;
            }
            assert!(
                declared.contains(&format!("mod {stem};")),
                "{} is in no test binary: add `mod {stem};` to {name}/tests/it.rs",
                path.display()
            );
        }
    }
}

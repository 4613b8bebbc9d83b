//! Docs that the program prints are the ones checked in. `UPDATE_DOCS=1 cargo test -p portcullis --test docs`
//! writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

fn compare(page: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["docs", page])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(format!("{page}.md"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept, printed,
        "docs/{page}.md is not what is printed: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn the_command_reference_is_current() {
    compare("cli");
}

#[test]
fn the_ovs_pipeline_is_current() {
    compare("ovs-pipeline");
}

#[test]
fn the_p4_pipeline_is_current() {
    compare("p4-pipeline");
}

#[test]
fn the_metrics_reference_is_current() {
    compare("metrics");
}

#[test]
fn the_table_of_rights_is_current() {
    compare("access");
}

/// Cells of a table's row: a bar that is not escaped begins and ends each.
fn cells(row: &str) -> usize {
    row.replace("\\|", "").matches('|').count().saturating_sub(1)
}

#[test]
fn every_row_of_a_table_has_as_many_cells_as_its_header() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut tables = 0;
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut header: Option<usize> = None;
        for (number, line) in text.lines().enumerate() {
            if !line.starts_with('|') {
                header = None;
                continue;
            }
            let wanted = *header.get_or_insert_with(|| {
                tables += 1;
                cells(line)
            });
            assert_eq!(cells(line), wanted, "{}:{}: {line}", path.display(), number + 1);
        }
    }
    assert!(tables > 5, "only {tables} tables were found");
}

/// The pages for people, from the top of the repository.
fn pages() -> Vec<std::path::PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(top.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .into_iter()
        .map(|name| top.join(name))
        .chain(docs.filter(|path| path.extension().is_some_and(|e| e == "md")))
        .collect();
    pages.sort();
    assert!(pages.len() > 12, "{pages:?}");
    pages
}

#[test]
fn links_of_the_docs_lead_to_files() {
    let mut links = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            let leads = page.parent().unwrap().join(file);
            assert!(leads.exists(), "{}: {target} leads nowhere", page.display());
        }
    }
    assert!(links > 30, "{links} links");
}

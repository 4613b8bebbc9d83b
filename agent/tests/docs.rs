//! Docs that the program prints are the ones checked in. `UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(/^docs::/)'`
//! writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use portcullis_policy::Document;
use portcullis_unlock::check::check_programs;

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
fn the_pipeline_descriptions_are_current() {
    compare("pipelines");
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
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
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

/// The YAML blocks of a page, each with the number of its first line.
fn yaml_blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().zip(1..);
    while let Some((line, at)) = lines.next() {
        if line == "```yaml" {
            let block = lines
                .by_ref()
                .map_while(|(line, _)| (line != "```").then_some(line));
            blocks.push((at + 1, block.map(|line| format!("{line}\n")).collect()));
        }
    }
    blocks
}

/// What is wrong with a document.
fn problems(text: &str) -> Vec<String> {
    match Document::from_yaml(text) {
        Ok(document) => check_programs(&document)
            .iter()
            .map(ToString::to_string)
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn yaml_of_the_docs_is_the_example_or_a_valid_document() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = top.join("docs/examples/policy.yaml");
    let example = std::fs::read_to_string(&file).unwrap();
    assert_eq!(problems(&example), [""; 0], "{}", file.display());
    let mut shown = String::new();
    let mut others = 0;
    for page in pages() {
        for (line, block) in yaml_blocks(&std::fs::read_to_string(&page).unwrap()) {
            if example.contains(&block) {
                shown += &block;
                continue;
            }
            others += 1;
            let whole = format!("version: portcullis/v1\n{block}");
            assert_eq!(
                problems(&whole),
                [""; 0],
                "{}:{line} is neither a part of {} nor a valid document",
                page.display(),
                file.display()
            );
        }
    }
    assert_eq!(
        shown, example,
        "docs/policy.md and docs/unlocks.md show the whole example"
    );
    assert!(others > 0, "no other document was found");
}

/// Words and phrases for which the field has plainer ones.
const REFUSED: [&str; 9] = [
    "comes to",
    "come to",
    "came to",
    "told",
    "whoever",
    "nobody",
    "somebody",
    "not to be had",
    "so many",
];

fn refused(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let is_word = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    REFUSED.into_iter().find(|phrase| {
        text.match_indices(phrase).any(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at).copied());
            let after = text.as_bytes().get(at + phrase.len()).copied();
            !is_word(before) && !is_word(after)
        })
    })
}

/// Every file below a folder with this extension.
fn files(folder: &Path, extension: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The texts of `#[error("…")]`, which may stand on several lines.
fn error_texts(source: &str) -> Vec<String> {
    let parts = source.split("#[error(").skip(1);
    let text = parts.filter_map(|part| part.trim_start().strip_prefix('"'));
    text.map(|text| {
        let mut escaped = false;
        let end = text.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        text[..end.unwrap_or(text.len())]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    })
    .collect()
}

#[test]
fn texts_for_people_are_in_plain_words() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    let mut whole = pages();
    whole.retain(|page| !page.ends_with("CHANGELOG.md"));
    whole.push(top.join("agent/config/agent.toml"));
    files(&top.join("proto/portcullis"), "proto", &mut whole);
    for file in whole {
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            if let Some(phrase) = refused(line) {
                wrong.push(format!("{}:{}: `{phrase}`", file.display(), number + 1));
            }
        }
    }
    let mut sources = Vec::new();
    for folder in ["agent", "dataplane", "benches"] {
        files(&top.join(folder), "rs", &mut sources);
    }
    let mut texts = 0;
    for file in sources {
        let source = std::fs::read_to_string(&file).unwrap();
        let header = source.lines().filter(|line| line.starts_with("//!"));
        for (phrase, line) in header.filter_map(|line| Some((refused(line)?, line))) {
            wrong.push(format!("{}: `{phrase}` in \"{line}\"", file.display()));
        }
        for text in error_texts(&source) {
            texts += 1;
            if let Some(phrase) = refused(&text) {
                wrong.push(format!("{}: `{phrase}` in \"{text}\"", file.display()));
            }
        }
    }
    assert!(texts > 150, "{texts} texts of errors");
    assert!(wrong.is_empty(), "plainer words, please:\n{}", wrong.join("\n"));
}

/// Words of a doc comment that only repeats the item's name, at most.
const EMPTY: usize = 3;

/// Each doc comment (`///`) of [`EMPTY`] words or fewer, with its line.
fn empty_docs(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in source.lines().chain([""]).enumerate() {
        match (line.trim_start().strip_prefix("///"), &mut block) {
            (Some(text), Some((_, before))) => before.push_str(text),
            (Some(text), None) => block = Some((number + 1, text.to_string())),
            (None, _) => found.extend(block.take()),
        }
    }
    found.retain(|(_, text)| text.split_whitespace().count() <= EMPTY);
    found
}

#[test]
fn doc_comments_say_more_than_the_name_of_their_item() {
    let short = "struct A {\n    /// Its name.\n    name: String,\n    /// Age in\n    /// whole seconds.\n    age: u64,\n}\n///";
    let lines: Vec<usize> = empty_docs(short).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [2, 8]);

    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for folder in ["agent", "dataplane", "benches", "proto"] {
        files(&top.join(folder), "rs", &mut sources);
    }
    assert!(sources.len() > 300, "{} files", sources.len());
    let mut wrong = Vec::new();
    for file in sources {
        for (line, text) in empty_docs(&std::fs::read_to_string(&file).unwrap()) {
            wrong.push(format!("{}:{line}:{text}", file.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "say what a reader needs (unit, range, source, what absent means), or leave the comment out:\n{}",
        wrong.join("\n")
    );
}

//! `compile`: the compiler's rows, figures and proof of the example document.

mod cli_support;

use cli_support::run_offline;
use portcullis::cli::Exit;
use portcullis::cli::command::compile::compile;
use portcullis::cli::term::View;
use portcullis::cli::view::compiled::{CompiledView, CounterexampleView, ProofView};
use portcullis_compiler::{Counterexample, StageModel};
use portcullis_policy::{Action, Document, Frame, Packet};

const EXAMPLE: &str = r#"
version: portcullis/v1
defaults: {egress: allow, ingress: allow}
unmanaged: baseline
mandatory: []
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25], reason: "spam"}
profiles:
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443]}
      - {name: admin, action: allow, direction: ingress, protocol: tcp, ports: [22], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
      - {name: rtp, action: allow, direction: ingress, protocol: udp, ports: ["10000-20000"]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.10, "2001:db8::10"]
    profiles: [web]
    rules: []
    labels: {tenant: acme}
"#;

/// Without what differs from run to run.
fn compiled(text: &str) -> CompiledView {
    let document = Document::from_yaml(text).expect("a document");
    let mut view = compile(&document, &StageModel::ovs()).expect("compiles");
    (view.stats.compile_us, view.stats.prove_us) = (1_234, 56_789);
    view.with_stats = true;
    view
}

#[test]
fn the_example() {
    let view = compiled(EXAMPLE);
    assert_eq!(view.proof, ProofView::Equal);
    insta::assert_snapshot!(view.text(None));
}

#[test]
fn the_example_for_programs() {
    let mut view = compiled(EXAMPLE);
    // One of each shape; the text above has them all.
    let mut tables = std::collections::BTreeSet::new();
    view.rows
        .retain(|row| tables.insert((row.table.clone(), row.class)));
    insta::assert_snapshot!(serde_json::to_string_pretty(&view).expect("JSON"));
}

#[test]
fn figures_agree_with_the_rows() {
    let view = compiled(EXAMPLE);
    for table in &view.stats.tables {
        let rows: Vec<_> = view.rows.iter().filter(|r| r.table == table.table).collect();
        assert_eq!(rows.len() as u64, table.rows, "{}", table.table);
        assert_eq!(
            rows.iter().filter(|r| r.class.is_none()).count() as u64,
            table.fixed
        );
    }
    for class in &view.stats.classes {
        let rows = view.rows.iter().filter(|r| r.class == Some(class.class)).count();
        assert_eq!(rows as u64, class.rows);
    }
    assert_eq!(
        view.stats.tables.iter().map(|t| t.rows).sum::<u64>(),
        view.rows.len() as u64
    );
}

#[test]
fn order_is_stable() {
    assert_eq!(compiled(EXAMPLE), compiled(EXAMPLE));
}

#[test]
fn nothing_denied_is_no_rows() {
    let view = compiled("version: portcullis/v1\n");
    assert!(view.rows.is_empty());
    assert!(
        view.text(None)
            .starts_with("no rows: nothing is denied to anybody\n")
    );
}

#[test]
fn a_counterexample_is_shown() {
    let example = Counterexample {
        packet: Packet { frame: Frame::Arp },
        wanted: Action::Allow,
        got: None,
    };
    let mut view = compiled("version: portcullis/v1\n");
    view.proof = ProofView::Counterexample(CounterexampleView::new(4, &example));
    let text = view.text(None);
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "proof: NOT equal, in class 4: the policy says allow and the rows say nothing certain for Arp"
    );
    let json = serde_json::to_value(&view).expect("JSON");
    let wanted =
        serde_json::json!({"counterexample": {"class": 4, "packet": "Arp", "wanted": "allow", "got": null}});
    assert_eq!(json["proof"], wanted);
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("is written");
    file
}

#[tokio::test]
async fn as_a_command() {
    let file = file(EXAMPLE);
    let path = file.path().to_str().expect("UTF-8");
    let ran = run_offline(&["compile", "-f", path, "--target", "ovs", "--format", "json"]).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Done, ""));
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON and nothing else");
    assert_eq!(json["proof"], "equal");
    assert_eq!(json["stats"]["target"], "ovs");
    let keys: Vec<&String> = json["rows"][0].as_object().expect("a row").keys().collect();
    assert_eq!(keys, ["action", "class", "match", "priority", "rule", "table"]);

    let text = run_offline(&["compile", "-f", path, "--target", "ovs"]).await.out;
    assert!(text.starts_with("TABLE") && text.ends_with("proof: equal, on every packet\n"));
    assert!(!text.contains("proved in"));
    let stats = run_offline(&["compile", "-f", path, "--target", "ovs", "--stats"])
        .await
        .out;
    assert!(stats.contains("proved in"));
}

#[tokio::test]
async fn an_unknown_target_is_told_the_known_ones() {
    let file = file(EXAMPLE);
    let path = file.path().to_str().expect("UTF-8");
    let ran = run_offline(&["compile", "-f", path, "--target", "tofino"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("", "error: there is no kind of target `tofino`: known are ovs\n")
    );
}

#[tokio::test]
async fn a_wrong_document_is_told_field_by_field() {
    let bad =
        "version: portcullis/v2\nbaseline:\n  - {name: a, action: deny, direction: egress, ports: [25]}\n";
    let file = file(bad);
    let path = file.path().to_str().expect("UTF-8");
    let ran = run_offline(&["compile", "-f", path, "--target", "ovs"]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Failed, ""));
    let wanted = format!(
        "error: {path} is not a policy document:\n  \
         version: `portcullis/v2` is not known: write portcullis/v1\n  \
         baseline[0].ports: protocol any has no ports: set protocol to tcp, udp or sctp\n"
    );
    assert_eq!(ran.err, wanted);
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let ran = run_offline(&["compile", "-f", "/nowhere/x.yaml", "--target", "ovs"]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert_eq!(
        ran.err,
        "error: cannot read /nowhere/x.yaml: No such file or directory (os error 2)\n"
    );
}

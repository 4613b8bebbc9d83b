//! `compile`: the compiler's rows, figures and proof of the example document.

use portcullis_cli::Exit;
use portcullis_cli::command::compile::{Input, compile};
use portcullis_cli::term::View;
use portcullis_cli::view::compiled::{CompiledView, CounterexampleView, ProofView};
use portcullis_compiler::{Attribution, Counterexample, StageModel};
use portcullis_policy::{Document, Frame, Packet, Verdict};

use crate::support;

use support::run_offline;

/// The document that the docs show.
const EXAMPLE: &str = include_str!("../../../docs/examples/policy.yaml");

/// Without what differs from run to run.
fn compiled(text: &str) -> CompiledView {
    let document = Document::from_yaml(text).expect("a document");
    let input = Input::Document(Box::new(document));
    let mut view = compile(&input, &StageModel::ovs(), Attribution::Rule).expect("resolves");
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

/// Nothing here sees what endpoints are sent.
#[test]
fn what_cannot_be_held_is_not_called_open_or_proved() {
    let text = "version: portcullis/v1\ndefaults: {ingress: deny}\nendpoints: {web: {attachments: [{port: 1, target: tor}]}}\n";
    let document = Document::from_yaml(text).expect("a document");
    let input = Input::Document(Box::new(document));
    let model = StageModel::named("acl-ternary").expect("built in");
    let view = compile(&input, &model, Attribution::Rule).expect("resolves");
    assert!(!view.unsupported.is_empty());
    let text = view.text(None);
    assert!(
        text.starts_with("no rows: no policy that denies something can be held\n"),
        "{text}"
    );
    assert!(
        text.contains("proof: of classes that are not named as unsupported, equal"),
        "{text}"
    );
}

#[test]
fn an_overlay_is_proved_with_the_class_that_it_stands_on() {
    let ports: Vec<String> = (1..40).map(|n| (n * 100).to_string()).collect();
    let view = compiled(&format!(
        "version: portcullis/v1\n\
         baseline: [{{name: many, action: deny, direction: egress, protocol: tcp, ports: [{}]}}]\n\
         endpoints:\n\
         \x20 web1: {{attachments: [{{target: s, port: 1}}]}}\n\
         \x20 web2: {{attachments: [{{target: s, port: 2}}], rules: [{{name: own, direction: egress, protocol: tcp, ports: [100], action: allow}}]}}\n",
        ports.join(", ")
    ));
    let text = view.text(None);
    assert!(text.contains("overlay=2"), "an overlay is cheaper here: {text}");
    assert_eq!(view.proof, ProofView::Equal);
}

#[test]
fn a_counterexample_is_shown() {
    let example = Counterexample {
        packet: Packet { frame: Frame::Arp },
        wanted: Verdict::Allow,
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
async fn findings_are_shown() {
    let shadowed = EXAMPLE.replace(
        "      - {name: rtp,",
        "      - {name: late, action: deny, direction: ingress, protocol: tcp, ports: [80]}\n      - {name: rtp,",
    );
    let file = file(&shadowed);
    let path = file.path().to_str().expect("UTF-8");
    let ran = run_offline(&["compile", "-f", path, "--target", "ovs"]).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Done, ""));
    let what = "can never match: profiles/web/http before it takes all it would match";
    let line = format!("note: profiles/web/late (never_matches): {what}");
    let of_late = |line: &&str| line.contains("profiles/web/late");
    assert_eq!(ran.out.lines().filter(of_late).collect::<Vec<_>>(), [line]);

    let ran = run_offline(&["compile", "-f", path, "--target", "ovs", "--format", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON and nothing else");
    let late = json["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .find(|f| f["at"] == "profiles/web/late");
    let wanted = serde_json::json!({
        "at": "profiles/web/late",
        "kind": "never_matches",
        "by": ["profiles/web/http"],
        "text": what,
    });
    assert_eq!(late, Some(&wanted));
}

#[tokio::test]
async fn an_unknown_target_is_told_the_known_ones() {
    let file = file(EXAMPLE);
    let path = file.path().to_str().expect("UTF-8");
    let ran = run_offline(&["compile", "-f", path, "--target", "tofino"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        (
            "",
            "error: there is no stage model `tofino`: known are ovs, p4-range, p4-ternary, acl-ternary, exact-bitmap; \
             or write model:FILE or p4info:FILE\n"
        )
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

/// Runs `compile` and reads its JSON.
async fn json(args: &[&str]) -> (Exit, serde_json::Value, String) {
    let mut all = vec!["compile", "--format", "json"];
    all.extend(args);
    let ran = run_offline(&all).await;
    let value = serde_json::from_str(&ran.out).unwrap_or_default();
    (ran.exit, value, ran.err)
}

#[tokio::test]
async fn a_filter_set_is_one_class() {
    let set = file(
        "@192.0.2.0/24\t198.51.100.7/32\t0 : 65535\t1 : 65534\t0x06/0xFF\t0x0000/0x0000\n\
         @0.0.0.0/0\t198.51.100.7/32\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000\tdeny\n",
    );
    let path = set.path().to_str().expect("UTF-8");
    let (exit, value, err) = json(&["--classbench", path, "--default", "deny", "--target", "p4-range"]).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(
        (&value["proof"], &value["stats"]["rules"]),
        (&"equal".into(), &2.into())
    );
    let rows = value["rows"].as_array().expect("rows");
    assert_eq!(value["stats"]["rows"], rows.len());
    let first = rows
        .iter()
        .find(|row| row["rule"] == "filter/1")
        .expect("the filter's row");
    assert_eq!(
        first["match"]["dst_port"],
        serde_json::json!({"low": 1, "high": 65534})
    );
    assert_eq!(
        first["match"]["local_ipv4"],
        serde_json::json!({"value": "192.0.2.0", "mask": "255.255.255.0"})
    );
    assert_eq!((&first["action"], &first["class"]), (&"allow".into(), &1.into()));
}

#[tokio::test]
async fn a_malformed_filter_is_told_with_its_line() {
    let set = file("\n@192.0.2.0/24\t198.51.100.7/32\t0 : 70000\t0 : 65535\t0x06/0xFF\n");
    let path = set.path().to_str().expect("UTF-8");
    let ran = run_offline(&[
        "compile",
        "--classbench",
        path,
        "--default",
        "allow",
        "--target",
        "ovs",
    ])
    .await;
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Failed, ""));
    assert!(
        ran.err.contains("line 2") && ran.err.contains("70000"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn what_a_target_cannot_enforce_is_told() {
    let document = file(EXAMPLE);
    let path = document.path().to_str().expect("UTF-8");
    let (exit, value, err) = json(&["-f", path, "--target", "acl-ternary"]).await;
    assert_eq!(exit, Exit::Failed);
    assert_eq!(value["unsupported"][0]["rule"], "the ingress policy");
    assert!(err.contains("cannot enforce all of it"), "{err}");
}

#[tokio::test]
async fn a_table_that_is_too_small_is_told_with_numbers() {
    let document = file(EXAMPLE);
    let source = StageModel::source("p4-ternary").expect("built in");
    let small = file(&source.replace("size = 32768", "size = 4"));
    let model = format!("model:{}", small.path().display());
    let path = document.path().to_str().expect("UTF-8");
    let (exit, value, err) = json(&["-f", path, "--target", &model]).await;
    assert_eq!(exit, Exit::Failed);
    let refused = value["refused"][0].as_str().expect("a refusal");
    assert!(
        refused.contains("holds 4") && refused.contains("less"),
        "{refused}"
    );
    assert!(err.contains("cannot hold it"), "{err}");
    // A model that makes no sense is told by its field.
    let zero = file(&source.replace("size = 32768", "size = 0"));
    let model = format!("model:{}", zero.path().display());
    let ran = run_offline(&["compile", "-f", path, "--target", &model]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(ran.err.contains("table.egress_policy.size: is 0"), "{}", ran.err);
}

#[tokio::test]
async fn a_p4_program_is_a_target_by_its_description() {
    let document = file(EXAMPLE);
    let path = document.path().to_str().expect("UTF-8");
    let info = concat!(
        "p4info:",
        env!("CARGO_MANIFEST_DIR"),
        "/../../dataplane/p4runtime/tests/fixtures/logical.txtpb"
    );
    let (exit, value, err) = json(&["-f", path, "--target", info]).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(value["proof"], "equal");
    let rows = value["rows"].as_array().expect("rows");
    assert!(rows.iter().any(|row| row["table"] == "ingress_policy"));
    let nothing = run_offline(&["compile", "-f", path, "--target", "p4info:/nowhere"]).await;
    assert_eq!(nothing.exit, Exit::Failed);
    assert!(nothing.err.contains("cannot read /nowhere"), "{}", nothing.err);
}

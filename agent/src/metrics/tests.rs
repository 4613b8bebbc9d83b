use portcullis_compiler::ClassId;

use super::*;

#[test]
fn bypassed_endpoints_are_counted_by_their_time() {
    let (began, mut bypasses) = (Instant::now(), Bypasses::default());
    let at = |millis| began + Duration::from_millis(millis);
    let counted = [(0, 0), (1000, 2), (2500, 1), (2600, 0), (9000, 0)]
        .map(|(millis, count)| begun(bypasses.look(at(millis), count)));
    assert_eq!(counted, [0, 0, 3, 4, 4]);
    assert_eq!(begun(Duration::from_millis(400)), 1, "never less than it was");
}

#[test]
fn every_cause_is_described() {
    use portcullis_backend::cause;
    let text = reference();
    for cause in [
        cause::FAIL_MODE,
        cause::ROWS,
        cause::CACHES,
        cause::LATE_END,
        "bypass",
    ] {
        assert!(text.contains(&format!("| `{cause}` |")), "{cause}");
    }
}

#[test]
fn every_metric_is_described_once_and_named_well() {
    for (index, m) in METRICS.iter().enumerate() {
        assert!(
            METRICS[..index].iter().all(|other| other.name != m.name),
            "{} twice",
            m.name
        );
        assert!(
            m.name.starts_with("portcullis_") && m.help.ends_with('.'),
            "{}",
            m.name
        );
        assert_eq!(m.sort == Sort::Counter, m.name.ends_with("_total"), "{}", m.name);
        assert!(reference().contains(m.name));
    }
}

#[test]
fn the_room_of_tables_and_the_rules_that_lack_it_are_shown() {
    let table = |name: &str, size| portcullis_backend::TableUse {
        table: name.to_string(),
        number: None,
        rows: 7,
        size,
        reserve: 0,
    };
    let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let left = portcullis_backend::LeftRules {
        rules: [
            (ClassId(1), names(&["baseline/a", "baseline/b"])),
            (ClassId(2), names(&["baseline/b"])),
        ]
        .into(),
        ..Default::default()
    };
    let status = TargetStatus {
        tables: vec![table("acl", Some(24)), table("flows", None)],
        left,
        ..TargetStatus::default()
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || observe_gauges("tor", &status));
    let text = recorder.handle().render();
    for line in [
        "portcullis_target_rules_left{target=\"tor\"} 2",
        "portcullis_target_table_size{target=\"tor\",table=\"acl\"} 24",
        "portcullis_target_rows{target=\"tor\",table=\"flows\"} 7",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        !text.contains("portcullis_target_table_size{target=\"tor\",table=\"flows\"}"),
        "{text}"
    );
}

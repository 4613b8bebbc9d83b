//! How every answer looks: to people, wide and narrow, and to programs.

use portcullis_cli::Output;
use portcullis_cli::term::{Term, View};
use portcullis_cli::view::bypass::{BypassChangeView, BypassView, BypassesView};
use portcullis_cli::view::change::{ApplyView, CommittedView, PlanView};
use portcullis_cli::view::checks::ChecksView;
use portcullis_cli::view::events::EventView;
use portcullis_cli::view::explained::ExplainView;
use portcullis_cli::view::hits::HitsView;
use portcullis_cli::view::offload::OffloadView;
use portcullis_cli::view::placement::PlacementView;
use portcullis_cli::view::status::StatusView;
use portcullis_cli::view::unlock::ClosingView;
use portcullis_proto::v1;

use crate::support;

use portcullis_cli::view::policy::{
    BaselineView, DocumentView, EndpointView, EndpointsView, ProfileView, ProfilesView,
};
use support::messages;

fn written(view: &impl View, output: Output, width: Option<u16>) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    Term::new(&mut out, &mut err, output, width)
        .show(view)
        .expect("is written");
    assert!(err.is_empty());
    String::from_utf8(out).expect("UTF-8")
}

/// For people, then for programs.
fn both(view: &impl View) -> String {
    format!(
        "{}\n{}",
        written(view, Output::Table, None),
        written(view, Output::Json, None)
    )
}

#[test]
fn baseline() {
    insta::assert_snapshot!(both(&BaselineView::from(messages::baseline())));
}

#[test]
fn profile() {
    insta::assert_snapshot!(both(&ProfileView::from(messages::profile())));
}

#[test]
fn profiles() {
    let view = ProfilesView {
        profiles: vec![messages::profile().into()],
    };
    insta::assert_snapshot!(written(&view, Output::Table, None));
    assert_eq!(
        written(&ProfilesView { profiles: Vec::new() }, Output::Table, None),
        "no profiles\n"
    );
}

#[test]
fn endpoint() {
    insta::assert_snapshot!(both(&EndpointView::from(messages::endpoint("web1"))));
}

#[test]
fn endpoints() {
    let view = EndpointsView {
        endpoints: vec![messages::endpoint("web1").into()],
    };
    insta::assert_snapshot!(written(&view, Output::Table, None));
    assert_eq!(
        written(
            &EndpointsView {
                endpoints: Vec::new()
            },
            Output::Table,
            None
        ),
        "no endpoints\n"
    );
}

#[test]
fn endpoint_as_yaml() {
    insta::assert_snapshot!(written(
        &EndpointView::from(messages::endpoint("web1")),
        Output::Yaml,
        None
    ));
}

#[test]
fn document() {
    let yaml = "version: portcullis/v1\nbaseline: []\n".to_string();
    let view = DocumentView {
        value: serde_json::json!({"version": "portcullis/v1", "baseline": []}),
        yaml,
    };
    insta::assert_snapshot!(both(&view));
}

#[test]
fn applied() {
    insta::assert_snapshot!(both(&ApplyView::new(messages::applied(), false, Some(true))));
}

#[test]
fn applied_in_other_ways() {
    let same = || v1::ApplyDocumentResponse {
        generation: 7,
        ..Default::default()
    };
    let lines = [
        ApplyView::new(messages::applied(), true, None),
        ApplyView::new(same(), true, None),
        ApplyView::new(same(), false, None),
        ApplyView::new(messages::applied(), false, Some(false)),
    ]
    .map(|view| {
        written(&view, Output::Table, None)
            .lines()
            .last()
            .unwrap_or_default()
            .to_string()
    });
    assert_eq!(
        lines,
        [
            "valid; would be 1 created, 2 changed, 1 deleted",
            "valid; nothing would change",
            "nothing changed: generation 7",
            "generation 7: 1 created, 2 changed, 1 deleted, not realized yet",
        ]
    );
}

#[test]
fn committed() {
    let answer = |etag: &str| v1::Committed {
        generation: 8,
        etag: etag.into(),
    };
    let provisioned = CommittedView::new("endpoints/web1".into(), answer("e8"), None);
    insta::assert_snapshot!(both(&provisioned));
    let released = CommittedView::new("endpoints/web1".into(), answer(""), Some(true));
    assert_eq!(
        written(&released, Output::Table, None),
        "endpoints/web1 released: generation 8, realized on every target\n"
    );
}

#[test]
fn plan() {
    let view = PlanView::from(messages::plan());
    assert!(view.would_change());
    insta::assert_snapshot!(both(&view));
    let nothing = PlanView::from(v1::PlanResponse::default());
    assert!(!nothing.would_change());
    assert_eq!(
        written(&nothing, Output::Table, None),
        "the policy would not change\n"
    );
}

#[test]
fn explained() {
    insta::assert_snapshot!(both(&ExplainView::from(messages::explained())));
}

#[test]
fn explained_on_a_narrow_terminal() {
    let text = written(&ExplainView::from(messages::explained()), Output::Table, Some(72));
    let rows = text.lines().skip_while(|line| !line.starts_with("TARGET"));
    assert!(
        rows.take_while(|line| !line.is_empty())
            .all(|line| line.chars().count() <= 72),
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn status() {
    let view = StatusView::new(
        7,
        vec![messages::target("br0", "InSync", 7, 7), messages::lagging()],
    );
    assert!(!view.realized);
    insta::assert_snapshot!(both(&view));
}

#[test]
fn realized_is_in_sync_and_applied_everywhere() {
    let realized = |targets: &[v1::Target]| StatusView::new(7, targets.to_vec()).realized;
    let good = messages::target("br0", "InSync", 7, 7);
    assert!(realized(std::slice::from_ref(&good)));
    assert!(realized(&[good.clone(), messages::target("br1", "InSync", 8, 8)]));
    assert!(!realized(&[
        good.clone(),
        messages::target("br1", "InSync", 6, 7)
    ]));
    assert!(!realized(&[good, messages::target("br1", "Applying", 7, 8)]));
    assert!(!realized(&[]));
    let none = StatusView::new(7, Vec::new());
    assert_eq!(
        written(&none, Output::Table, None),
        "generation 7: there is no target\n"
    );
}

#[test]
fn hits() {
    insta::assert_snapshot!(both(&HitsView::from(messages::hits())));
    assert_eq!(
        written(
            &HitsView::from(v1::ListHitsResponse::default()),
            Output::Table,
            None
        ),
        "no hits\n"
    );
}

#[test]
fn offload() {
    insta::assert_snapshot!(both(&OffloadView::from(messages::offload())));
}

#[test]
fn checks() {
    let mut view = ChecksView::from(messages::checks());
    insta::assert_snapshot!(both(&view));
    assert!(view.costs_safety());
    view.checks.remove(1);
    assert!(!view.costs_safety());
}

#[test]
fn placement() {
    let view = PlacementView::from(messages::placement());
    insta::assert_snapshot!(both(&view));
    let svg = view.svg();
    let mut texts = 0;
    let parsed: Vec<_> = svg::read(&svg).expect("is SVG").collect();
    for event in &parsed {
        match event {
            svg::parser::Event::Text(text) => {
                assert!(!text.contains('<'), "{text}");
                texts += 1;
            }
            svg::parser::Event::Error(error) => panic!("{error}"),
            _ => {}
        }
    }
    assert!(texts > 20, "{svg}");
    assert!(svg.contains("profiles/web/a&lt;b&amp;c"), "{svg}");
}

#[test]
fn events() {
    let events = [messages::committed(8), messages::told(8, messages::lagging())];
    let mut text = String::new();
    for output in [Output::Table, Output::Json, Output::Yaml] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut term = Term::new(&mut out, &mut err, output, None);
        for event in &events {
            term.show_next(&EventView::new(event.clone()).expect("is known"))
                .expect("is written");
        }
        text += &String::from_utf8(out).expect("UTF-8");
    }
    insta::assert_snapshot!(text);
    assert_eq!(
        EventView::new(v1::Event {
            generation: 1,
            event: None
        }),
        None
    );
}

#[test]
fn a_bypass_is_shown_wherever_the_policy_is() {
    let bypass = || BypassView::from(messages::bypass());
    let change = |active: bool| BypassChangeView {
        bypass: bypass(),
        active,
        generation: 9,
        realized: active.then_some(true),
        closing: (!active).then(|| {
            ClosingView::from(v1::Closing {
                applied: true,
                durable: false,
                waits_for: vec!["the disk: it is full".into()],
            })
        }),
    };
    let explained = v1::ExplainResponse {
        verdict: v1::Action::Allow.into(),
        tier: "bypass".into(),
        rule: "bypass/web1".into(),
        reason: "is it the policy?".into(),
        packet: "egress: tcp from 192.0.2.10:40000 to 203.0.113.1:25, opening a connection".into(),
        bypass: Some(messages::bypass()),
        ..v1::ExplainResponse::default()
    };
    let endpoint = v1::Endpoint {
        bypass: Some(messages::bypass()),
        ..messages::endpoint("web1")
    };
    let plan = v1::PlanResponse {
        bypasses: vec![messages::bypass()],
        ..v1::PlanResponse::default()
    };
    let status = StatusView::new(9, vec![messages::target("br0", "InSync", 9, 9)]);
    let shown = [
        both(&change(true)),
        both(&change(false)),
        both(&BypassesView {
            bypasses: vec![bypass()],
        }),
        both(&BypassesView { bypasses: Vec::new() }),
        both(&ExplainView::from(explained)),
        both(&EndpointView::from(endpoint)),
        both(&PlanView::from(plan)),
        written(
            &status.with_bypasses(vec![messages::bypass()]),
            Output::Table,
            None,
        ),
    ];
    insta::assert_snapshot!(shown.join("\n"));
}

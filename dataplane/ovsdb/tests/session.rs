//! The session's answers to good and bad messages, one by one.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside the test functions fail the test too

use std::time::Duration;

use portcullis_ovsdb::{Event, Session, SessionConfig, SessionError, Stage, UpdateError};
use serde_json::{Value, json};

const ROOT: &str = "00000000-0000-0000-0000-00000000000a";
/// The root row of a database made anew; sorts after [`ROOT`].
const OTHER_ROOT: &str = "00000000-0000-0000-0000-00000000000f";
const BRIDGE: &str = "00000000-0000-0000-0000-00000000000b";
const PORT: &str = "00000000-0000-0000-0000-00000000000c";
const INTERFACE: &str = "00000000-0000-0000-0000-00000000000d";
const NOWHERE: &str = "00000000-0000-0000-0000-00000000000e";
const ZERO: &str = "00000000-0000-0000-0000-000000000000";
const FIRST: &str = "11111111-1111-1111-1111-111111111111";
const SECOND: &str = "22222222-2222-2222-2222-222222222222";

fn schema() -> Value {
    serde_json::from_str(include_str!("fixtures/schema.json")).unwrap()
}

fn give(session: &mut Session, message: &Value) -> Result<Vec<Event>, SessionError> {
    session.received(message.to_string().as_bytes(), Duration::ZERO)
}

fn sent(session: &mut Session) -> Vec<Value> {
    let output = session.take_output();
    serde_json::Deserializer::from_slice(&output)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn contents() -> Value {
    json!({
        "Open_vSwitch": {ROOT: {"initial": {"bridges": ["uuid", BRIDGE], "ovs_version": "3.1.0"}}},
        "Bridge": {BRIDGE: {"initial": {"name": "br0", "ports": ["set", [["uuid", PORT], ["uuid", NOWHERE]]]}}},
        "Port": {PORT: {"initial": {"name": "web1", "interfaces": ["uuid", INTERFACE], "tag": 5}}},
        "Interface": {INTERFACE: {"initial": {"name": "web1", "ofport": 3}}},
    })
}

/// A session that waits for the contents, and what it asked for.
fn asked(session: &mut Session) -> Value {
    session.connected(Duration::ZERO);
    give(session, &json!({"id": 1, "error": null, "result": schema()})).unwrap();
    sent(session).pop().unwrap()
}

fn live() -> Session {
    let mut session = Session::new(SessionConfig::default());
    asked(&mut session);
    let reply = json!({"id": 2, "error": null, "result": [false, FIRST, contents()]});
    assert_eq!(give(&mut session, &reply).unwrap(), [Event::Synced]);
    session
}

fn update(updates: Value) -> Value {
    json!({"id": null, "method": "update3", "params": ["portcullis", SECOND, updates]})
}

#[test]
fn asks_for_the_schema_and_then_for_what_it_has() {
    let mut session = Session::new(SessionConfig::default());
    session.connected(Duration::ZERO);
    assert_eq!(
        sent(&mut session),
        [json!({"id": 1, "method": "get_schema", "params": ["Open_vSwitch"]})]
    );
    assert_eq!(session.stage(), Stage::Schema);

    let mut old = schema();
    old["tables"]["Open_vSwitch"]["columns"]
        .as_object_mut()
        .unwrap()
        .remove("dpdk_initialized");
    give(&mut session, &json!({"id": 1, "error": null, "result": old})).unwrap();
    let request = sent(&mut session).pop().unwrap();
    assert_eq!(request["method"], "monitor_cond_since");
    assert_eq!(request["params"][3], ZERO);
    assert!(!request.to_string().contains("dpdk_initialized"));
    assert!(request.to_string().contains("dpdk_version"));

    give(
        &mut session,
        &json!({"id": 2, "error": null, "result": [false, FIRST, contents()]}),
    )
    .unwrap();
    assert_eq!(session.switch().unwrap().dpdk_initialized, None);
    assert_eq!(live().switch().unwrap().dpdk_initialized, Some(false));
}

#[test]
fn falls_back_to_the_methods_of_older_servers() {
    let mut session = Session::new(SessionConfig::default());
    asked(&mut session);
    give(&mut session, &json!({"id": 2, "error": "unknown method"})).unwrap();
    assert_eq!(sent(&mut session)[0]["method"], "monitor_cond");
    give(
        &mut session,
        &json!({"id": 3, "result": null, "error": {"error": "unknown method"}}),
    )
    .unwrap();
    assert_eq!(sent(&mut session)[0]["method"], "monitor");
    let error = give(&mut session, &json!({"id": 4, "error": "unknown method"})).unwrap_err();
    assert!(
        matches!(
            error,
            SessionError::Refused {
                method: "monitor",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn another_refusal_is_not_a_reason_to_fall_back() {
    let mut session = Session::new(SessionConfig::default());
    asked(&mut session);
    let error = json!({"error": "syntax error", "details": "no table named Nope"});
    let error = give(&mut session, &json!({"id": 2, "result": null, "error": error})).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        error.to_string(),
        "the database server refused monitor_cond_since"
    );
    assert_eq!(source, "syntax error (no table named Nope)");
}

#[test]
fn references_to_missing_rows_are_left_out() {
    let mut session = live();
    let ports = |session: &Session| session.switch().unwrap().bridges["br0"].ports.len();
    assert_eq!(ports(&session), 1, "one of the two ports is there");
    let gone = update(json!({"Interface": {INTERFACE: {"delete": null}}}));
    assert_eq!(give(&mut session, &gone).unwrap(), [Event::Changed]);
    assert_eq!(session.switch().unwrap().interfaces().count(), 0);
    let gone = update(json!({"Bridge": {BRIDGE: {"delete": null}}}));
    assert_eq!(give(&mut session, &gone).unwrap(), [Event::Changed]);
    assert!(session.switch().unwrap().bridges.is_empty());
    let gone = update(json!({"Open_vSwitch": {ROOT: {"delete": null}}}));
    assert_eq!(give(&mut session, &gone).unwrap(), [Event::Changed]);
    assert_eq!(session.switch().unwrap().ovs_version, None);
}

#[test]
fn an_update_that_changes_nothing_seen_is_no_change() {
    let mut session = live();
    let snapshot = session.snapshot().unwrap();
    let same = update(json!({"Port": {NOWHERE.replace('e', "f"): {"insert": {"name": "orphan"}}}}));
    assert_eq!(give(&mut session, &same).unwrap(), []);
    assert!(std::sync::Arc::ptr_eq(&snapshot, &session.snapshot().unwrap()));
}

#[test]
fn many_messages_in_one_read_are_one_change() {
    let mut session = live();
    let one = update(json!({"Port": {PORT: {"modify": {"tag": 6}}}}));
    let two = update(json!({"Port": {PORT: {"modify": {"trunks": ["set", [1, 2]]}}}}));
    let bytes = format!("{one}{two}");
    assert_eq!(
        session.received(bytes.as_bytes(), Duration::ZERO).unwrap(),
        [Event::Changed]
    );
    let port = &session.switch().unwrap().bridges["br0"].ports["web1"];
    assert_eq!((port.tag, &port.trunks), (Some(6), &vec![1, 2]));
}

#[test]
fn resumes_from_the_last_transaction() {
    let mut session = live();
    give(
        &mut session,
        &update(json!({"Port": {PORT: {"modify": {"tag": 6}}}})),
    )
    .unwrap();
    session.disconnected(Duration::ZERO);
    assert_eq!(asked(&mut session)["params"][3], SECOND);
    let missed = json!({"Port": {PORT: {"modify": {"trunks": 9}}}});
    let events = give(
        &mut session,
        &json!({"id": 2, "error": null, "result": [true, FIRST, missed]}),
    )
    .unwrap();
    assert_eq!(events, [Event::Resumed { found: true }, Event::Changed]);
    let port = &session.switch().unwrap().bridges["br0"].ports["web1"];
    assert_eq!((port.tag, &port.trunks), (Some(6), &vec![9]));
}

#[test]
fn a_transaction_not_found_replaces_everything() {
    let mut session = live();
    session.disconnected(Duration::ZERO);
    asked(&mut session);
    let fresh = json!({"Open_vSwitch": {OTHER_ROOT: {"initial": {"ovs_version": "3.2.0"}}}});
    let events = give(
        &mut session,
        &json!({"id": 2, "error": null, "result": [false, SECOND, fresh]}),
    )
    .unwrap();
    assert_eq!(events, [Event::Resumed { found: false }, Event::Changed]);
    assert!(session.switch().unwrap().bridges.is_empty());
    assert_eq!(session.switch().unwrap().ovs_version.as_deref(), Some("3.2.0"));
}

#[test]
fn nothing_is_resumed_after_an_error_or_over_another_schema() {
    let mut session = live();
    let broken = update(json!({"Port": {PORT: {"modify": {"tag": 6}}, NOWHERE: {"modify": {"tag": 6}}}}));
    let error = give(&mut session, &broken).unwrap_err();
    assert!(
        matches!(
            error,
            SessionError::Update(UpdateError::ModifiesUnknownRow { table: "Port", .. })
        ),
        "{error}"
    );
    assert_eq!(
        session.switch().unwrap().bridges["br0"].ports["web1"].tag,
        Some(5),
        "the last whole view"
    );
    assert_eq!(asked(&mut session)["params"][3], ZERO);

    let mut session = live();
    session.connected(Duration::ZERO);
    let mut newer = schema();
    newer["version"] = json!("8.4.0");
    give(&mut session, &json!({"id": 1, "error": null, "result": newer})).unwrap();
    assert_eq!(sent(&mut session).pop().unwrap()["params"][3], ZERO);
}

#[test]
fn answers_echo_and_declines_other_requests() {
    let mut session = live();
    give(
        &mut session,
        &json!({"id": "echo", "method": "echo", "params": ["x", 1]}),
    )
    .unwrap();
    assert_eq!(
        sent(&mut session),
        [json!({"id": "echo", "result": ["x", 1], "error": null})]
    );
    give(
        &mut session,
        &json!({"id": 9, "method": "transact", "params": []}),
    )
    .unwrap();
    assert_eq!(
        sent(&mut session),
        [json!({"id": 9, "result": null, "error": "unknown method"})]
    );
    for method in ["locked", "stolen", "nonsense", "echo"] {
        give(
            &mut session,
            &json!({"id": null, "method": method, "params": ["lock"]}),
        )
        .unwrap();
    }
    give(
        &mut session,
        &json!({"id": null, "method": "monitor_canceled", "params": ["another"]}),
    )
    .unwrap();
    assert_eq!(sent(&mut session), Vec::<Value>::new());
    assert_eq!(session.stage(), Stage::Live);
}

#[test]
fn a_server_that_asks_and_does_not_read_is_given_up() {
    let mut session = Session::new(SessionConfig {
        max_message: 1000,
        ..SessionConfig::default()
    });
    session.connected(Duration::ZERO);
    let echo = json!({"id": "echo", "method": "echo", "params": ["x".repeat(400)]});
    let error = (0..5).find_map(|_| give(&mut session, &echo).err()).unwrap();
    assert!(
        matches!(error, SessionError::OutputFull { bytes } if bytes > 1000),
        "{error}"
    );
}

#[test]
fn probes_only_in_silence() {
    let seconds = Duration::from_secs;
    let mut session = live();
    assert_eq!(session.next_deadline(), Some(seconds(5)));
    session.tick(seconds(4)).unwrap();
    assert_eq!(sent(&mut session), Vec::<Value>::new());
    session.tick(seconds(5)).unwrap();
    assert_eq!(
        sent(&mut session),
        [json!({"id": "echo", "method": "echo", "params": []})]
    );
    session.tick(seconds(9)).unwrap();
    session
        .received(br#"{"id":"echo","result":[],"error":null}"#, seconds(9))
        .unwrap();
    assert_eq!(session.next_deadline(), Some(seconds(14)));
    let unasked = session
        .received(br#"{"id":"echo","result":[],"error":null}"#, seconds(9))
        .unwrap_err();
    assert!(
        matches!(unasked, SessionError::UnexpectedReply { .. }),
        "{unasked}"
    );

    let never = SessionConfig {
        probe_interval: Duration::ZERO,
        ..SessionConfig::default()
    };
    let mut session = Session::new(never);
    session.connected(Duration::ZERO);
    assert_eq!(session.next_deadline(), None);
    session.tick(seconds(1000)).unwrap();
    assert_eq!(session.stage(), Stage::Schema);
}

#[test]
fn an_unresponsive_server_leaves_a_replica_to_resume() {
    let mut session = live();
    session.tick(Duration::from_secs(5)).unwrap();
    let error = session.tick(Duration::from_secs(10)).unwrap_err();
    assert!(
        matches!(error, SessionError::Unresponsive { silent } if silent == Duration::from_secs(10)),
        "{error}"
    );
    assert!(matches!(
        session.received(b"{}", Duration::ZERO),
        Err(SessionError::NotConnected)
    ));
    session.disconnected(Duration::ZERO);
    assert_eq!(asked(&mut session)["params"][3], FIRST);
}

#[test]
fn bad_messages_are_refused_with_what_and_where() {
    let row = |change: Value| update(json!({"Port": {PORT: change}}));
    let cases = [
        (json!({"id": 7, "result": {}, "error": null}), "request 7"),
        (json!({"id": "2", "result": {}, "error": null}), "request \"2\""),
        (
            json!({"id": null, "method": "update3", "params": ["other", SECOND, {}]}),
            "monitor \"other\"",
        ),
        (
            json!({"id": null, "method": "update2", "params": ["portcullis", {}]}),
            "update2",
        ),
        (
            json!({"id": null, "method": "update3", "params": ["portcullis", SECOND]}),
            "parameters of an update",
        ),
        (
            json!({"id": null, "method": "update3", "params": ["portcullis", "x", {}]}),
            "transaction id",
        ),
        (
            json!({"id": null, "method": "update3", "params": {}}),
            "update3 for monitor null",
        ),
        (
            json!({"id": null, "method": "monitor_canceled", "params": ["portcullis"]}),
            "removed",
        ),
        (json!({"id": null}), "id"),
        (update(json!([])), "the body"),
        (update(json!({"Nope": {}})), "\"Nope\""),
        (update(json!({"Port": 5})), "table Port"),
        (
            update(json!({"Port": {"x": {"delete": null}}})),
            "\"x\" is not a UUID",
        ),
        (row(json!(null)), PORT),
        (row(json!({"old": {}})), "\"initial\""),
        (row(json!({"insert": {}, "delete": null})), "one member"),
        (row(json!({"modify": {"nope": 1}})), "\"nope\""),
        (
            row(json!({"modify": {"tag": "five"}})),
            "expected integer, found string \"five\"",
        ),
        (row(json!({"insert": {"tag": ["set", [1, 2]]}})), "2 elements"),
        (
            row(json!({"modify": {"interfaces": ["uuid", "x"]}})),
            "\"x\" is not a UUID",
        ),
    ];
    for (message, want) in cases {
        let mut session = live();
        let error = give(&mut session, &message).unwrap_err();
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            said = format!("{said}: {error}");
            source = error.source();
        }
        assert!(said.contains(want), "{message}\n{said}\nwanted: {want}");
        assert_eq!(session.stage(), Stage::Failed);
    }
}

#[test]
fn an_update_before_the_contents_is_refused() {
    let mut session = Session::new(SessionConfig::default());
    asked(&mut session);
    let error = give(&mut session, &update(json!({}))).unwrap_err();
    assert!(matches!(error, SessionError::UnexpectedUpdate { .. }), "{error}");
    let mut session = Session::new(SessionConfig::default());
    asked(&mut session);
    let error = give(&mut session, &json!({"id": 2, "error": null, "result": {}})).unwrap_err();
    assert!(
        error.to_string().contains("result of monitor_cond_since"),
        "{error}"
    );
}

#[test]
fn an_unknown_database_is_named() {
    let mut session = Session::new(SessionConfig {
        db: "Nowhere".to_owned(),
        ..SessionConfig::default()
    });
    session.connected(Duration::ZERO);
    let error = json!({"error": "unknown database", "details": "…", "syntax": "…"});
    let error = give(&mut session, &json!({"id": 1, "error": error})).unwrap_err();
    assert!(
        matches!(&error, SessionError::UnknownDatabase { db } if db == "Nowhere"),
        "{error}"
    );
}

#[test]
fn sets_the_fail_mode_and_tells_what_became_of_it() {
    let bridge = BRIDGE.parse().unwrap();
    let mut session = Session::new(SessionConfig::default());
    assert!(
        !session.set_fail_mode(bridge, "secure"),
        "nothing is sent without a connection"
    );
    let mut session = live();
    sent(&mut session);
    assert!(session.set_fail_mode(bridge, "secure"));
    assert!(!session.set_fail_mode(bridge, "secure"), "one at a time");
    let request = sent(&mut session).pop().unwrap();
    assert_eq!(request["method"], "transact");
    assert_eq!(request["params"][1]["row"], json!({"fail_mode": "secure"}));
    assert_eq!(
        request["params"][1]["where"],
        json!([["_uuid", "==", ["uuid", BRIDGE]]])
    );
    let mut answer = |result: Value| {
        let id = json!("transaction");
        let events = give(&mut session, &json!({"id": id, "error": null, "result": result})).unwrap();
        assert_eq!(events, [Event::Transacted]);
        let outcome = session.take_outcome().unwrap();
        assert!(session.take_outcome().is_none());
        assert!(session.set_fail_mode(bridge, "secure"), "and then the next");
        outcome
    };
    let done = |count: u64| json!([{"count": count}, {"count": 1}, {"rows": [{"next_cfg": 9}]}, {}]);
    assert_eq!(answer(done(1)), Ok(9));
    assert!(answer(done(0)).unwrap_err().contains("not in the database"));
    let refused = json!([null, null, null, null, {"error": "not allowed", "details": "read-only"}]);
    assert_eq!(answer(refused), Err("not allowed (read-only)".to_string()));
    assert!(answer(json!([])).is_err());
    // An answer that nobody asked for is still an error.
    let mut session = live();
    let stray = json!({"id": "transaction", "error": null, "result": []});
    assert!(matches!(
        give(&mut session, &stray),
        Err(SessionError::UnexpectedReply { .. })
    ));
}

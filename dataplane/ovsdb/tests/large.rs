//! A switch of 10,000 interfaces. `--nocapture` prints how long each step takes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside the test functions fail the test too

use std::time::{Duration, Instant};

use portcullis_ovsdb::{Event, Session, SessionConfig};
use serde_json::{Map, Value, json};

const INTERFACES: usize = 10_000;

fn uuid(space: u32, number: usize) -> String {
    format!("{space:08x}-0000-0000-0000-{number:012x}")
}

fn contents() -> Value {
    let (mut ports, mut interfaces) = (Map::new(), Map::new());
    for number in 0..INTERFACES {
        let name = format!("tap{number}");
        let port = json!({"name": name, "interfaces": ["uuid", uuid(4, number)], "tag": number % 4095});
        ports.insert(uuid(3, number), json!({ "initial": port }));
        let labels = json!([
            "map",
            [
                [
                    "attached-mac",
                    format!("02:00:00:00:{:02x}:{:02x}", number >> 8, number & 255)
                ],
                ["iface-id", uuid(5, number)],
                ["iface-status", "active"],
                ["vm-uuid", uuid(6, number)]
            ]
        ]);
        let interface = json!({"name": name, "type": "dpdkvhostuserclient", "ofport": number + 1,
            "mac_in_use": "00:00:00:00:00:00", "link_state": "up", "external_ids": labels,
            "options": ["map", [["vhost-server-path", format!("/run/vhost/{name}")]]]});
        interfaces.insert(uuid(4, number), json!({ "initial": interface }));
    }
    let references: Vec<Value> = (0..INTERFACES)
        .map(|number| json!(["uuid", uuid(3, number)]))
        .collect();
    json!({
        "Open_vSwitch": {uuid(1, 0): {"initial": {"bridges": ["uuid", uuid(2, 0)]}}},
        "Bridge": {uuid(2, 0): {"initial": {"name": "br0", "ports": ["set", references]}}},
        "Port": ports,
        "Interface": interfaces,
    })
}

fn give(session: &mut Session, what: &str, message: &Value) -> Vec<Event> {
    let bytes = message.to_string().into_bytes();
    let started = Instant::now();
    let events = session.received(&bytes, Duration::ZERO).unwrap();
    println!("{what}: {} bytes in {:?}", bytes.len(), started.elapsed());
    events
}

#[test]
fn follows_ten_thousand_interfaces() {
    let mut session = Session::new(SessionConfig::default());
    session.connected(Duration::ZERO);
    let schema: Value = serde_json::from_str(include_str!("fixtures/schema.json")).unwrap();
    give(
        &mut session,
        "schema",
        &json!({"id": 1, "error": null, "result": schema}),
    );
    let zero = "00000000-0000-0000-0000-000000000000";
    let reply = json!({"id": 2, "error": null, "result": [false, zero, contents()]});
    assert_eq!(give(&mut session, "first full state", &reply), [Event::Synced]);
    assert_eq!(session.switch().unwrap().interfaces().count(), INTERFACES);
    for round in 0..5 {
        let modify = json!({"Interface": {uuid(4, 77): {"modify": {"ofport": 20_000 + round}}}});
        let update = json!({"id": null, "method": "update3", "params": ["portcullis", zero, modify]});
        assert_eq!(give(&mut session, "one change", &update), [Event::Changed]);
        let port = &session.switch().unwrap().bridges["br0"].ports["tap77"];
        assert_eq!(port.interfaces["tap77"].ofport, Some(20_000 + round));
    }
}

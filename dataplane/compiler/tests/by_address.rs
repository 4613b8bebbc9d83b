//! Several endpoints behind one port, distinguished by their addresses: among the packets of each, rows decide as they would at a port
//! of its own, and no row is about any other packet.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_compiler::compilation::{Compilation, Step};
use portcullis_compiler::model::{Field, PartialPoint, Role};
use portcullis_compiler::{EndpointIntent, Intent, StageModel};
use portcullis_policy::{Direction, Frame, Packet, StrictPrefix};
use serde_json::{Value, json};

use crate::witness::pipeline::Pipeline;
use crate::witness::target::{NOWHERE, check_tables, compile, document, random_rule};
use crate::witness::{Random, ShownFields, grid, intent};

/// One table without a class, of a partial point, and without these keys.
fn model(lacking: &[Field]) -> StageModel {
    let mut model = StageModel::named("acl-ternary").unwrap();
    for table in &mut model.tables {
        table.size = None;
        table.keys.retain(|key| !lacking.contains(&key.field));
    }
    model.partial = Some(PartialPoint::default());
    model.check().unwrap();
    model
}

/// Addresses of three endpoints; rules name some of them.
const ADDRESSES: [&[&str]; 3] = [
    // Prefixes of one endpoint may lie in each other, and rules name what lies in both.
    &["192.0.2.1", "192.0.2.0/31", "2001:db8::1"],
    &["192.0.2.2", "192.0.2.128/26"],
    &["10.1.2.0/24", "10.1.2.3", "10.1.2.8/29", "2001:db8:0:1::/64"],
];

const OF_NOBODY: [&str; 4] = ["192.0.2.3", "10.1.3.1", "2001:db8::2", "fe80::1"];

/// A document with three endpoints at one port, or each at its own.
fn pair(random: &mut Random) -> [Arc<Intent>; 2] {
    let list = |random: &mut Random, most: u64| -> Vec<Value> {
        (0..random.below(most))
            .map(|n| random_rule(random, n as usize))
            .collect()
    };
    let baseline = list(random, 4);
    let rules: Vec<Vec<Value>> = (0..3).map(|_| list(random, 4)).collect();
    let default = json!({"egress": random.pick(&["allow", "deny"])});
    let written = |at: &dyn Fn(usize) -> Value| {
        let endpoints = (0..3).map(|n| {
            let endpoint = json!({"attachments": [at(n)], "addresses": ADDRESSES[n], "rules": rules[n]});
            (format!("e{n}"), endpoint)
        });
        intent(&document(&json!({
            "version": "portcullis/v1",
            "unmanaged": "deny",
            "defaults": default,
            "baseline": baseline,
            "endpoints": endpoints.collect::<serde_json::Map<String, Value>>(),
        })))
    };
    [
        written(&|_| json!({"port": 7, "target": "tor", "by": "address"})),
        written(&|n| json!({"port": n, "target": "tor"})),
    ]
}

/// A packet, as sent or received with an address of the same IP version; nothing where it has none.
fn with_local(packet: &Packet, address: IpAddr) -> Option<Packet> {
    let Frame::Ip(ip) = &packet.frame else { return None };
    let mut ip = ip.clone();
    let same_version = ip.remote.is_ipv4() == address.is_ipv4();
    ip.local = address;
    same_version.then_some(Packet { frame: Frame::Ip(ip) })
}

/// The first address of a prefix and the last.
fn ends(prefix: &str) -> [IpAddr; 2] {
    match prefix.parse::<StrictPrefix>().unwrap().0 {
        IpNet::V4(net) => [net.network().into(), net.broadcast().into()],
        IpNet::V6(net) => [net.network().into(), net.broadcast().into()],
    }
}

#[test]
fn rows_decide_for_each_as_at_a_port_of_its_own_and_for_nothing_else() {
    let mut random = Random(0x0add_5e55);
    let (mut denied, mut compared) = (0, 0);
    for round in 0..60 {
        let lacking: &[Field] = [&[][..], &[Field::Later, Field::TcpFlags], &[Field::SrcPort]][round % 3];
        let [shared, apart] = pair(&mut random);
        let [together, alone]: [Compilation; 2] =
            [&shared, &apart].map(|i| compile(i, model(lacking), NOWHERE));
        check_tables(&together);
        assert!(together.unplaced.is_empty(), "{:?}", together.unplaced);
        let [rows, own_rows] = [&together, &alone].map(Pipeline::from_compilation);
        let all = shared.endpoints.iter().enumerate();
        let both = all.flat_map(|(n, (name, endpoint))| {
            Direction::BOTH.map(|direction| (n, name, endpoint, direction))
        });
        for (n, name, endpoint, direction) in both {
            let class = endpoint.classes[direction];
            let Some(known) = shared.classes.get(&class) else {
                continue;
            };
            let lonely = apart.endpoints[name].classes[direction];
            let says = |pipeline: &Pipeline, class, port: &str, packet: &Packet| {
                let shown = ShownFields::new(packet, &together.model);
                let told = shown
                    .iter()
                    .map(|s| pipeline.judge(direction, class, port, s).map(|t| t.0));
                told.collect::<Vec<_>>()
            };
            for packet in grid(&[&known.policy], 200, &mut random) {
                for address in ADDRESSES[n].iter().flat_map(|a| ends(a)) {
                    let Some(packet) = with_local(&packet, address) else {
                        continue;
                    };
                    let told = says(&rows, class, "port 7, by address", &packet);
                    assert_eq!(
                        told,
                        says(&own_rows, lonely, &format!("port {n}"), &packet),
                        "{name}: {packet:?}"
                    );
                    let is_denied = told.iter().any(|t| t.is_some_and(|verdict| verdict.denies()));
                    let (wanted, _) = known.policy.judge(&packet, together.model.view);
                    assert!(!is_denied || wanted.denies(), "{name}: {packet:?}");
                    denied += u32::from(is_denied);
                    compared += 1;
                }
                for address in OF_NOBODY {
                    let Some(packet) = with_local(&packet, address.parse().unwrap()) else {
                        continue;
                    };
                    let told = says(&rows, class, "port 7, by address", &packet);
                    assert!(told.iter().all(Option::is_none), "{packet:?}: {told:?}");
                }
            }
        }
    }
    assert!(compared > 5_000 && denied > 1_000, "{denied} of {compared}");
}

#[test]
fn what_a_table_cannot_name_is_listed_and_the_rest_stands() {
    let mut random = Random(7);
    let [shared, _] = pair(&mut random);
    let unplaced = |model: StageModel| {
        let compilation = compile(&shared, model, NOWHERE);
        check_tables(&compilation);
        let list = compilation
            .unplaced
            .iter()
            .filter(|u| u.rule.starts_with("the egress"));
        list.map(|u| format!("{}: {}", u.rule, u.why)).collect::<Vec<_>>()
    };
    assert!(unplaced(model(&[])).is_empty());
    let without_v6 = unplaced(model(&[Field::LocalIpv6]));
    assert_eq!(without_v6.len(), 2, "{without_v6:?}");
    assert!(
        without_v6[0].starts_with(
            "the egress policy of e0: it is attached by address, and the table cannot match IPv6"
        )
    );
    let mut short = model(&[]);
    for key in short
        .tables
        .iter_mut()
        .flat_map(|t| &mut t.keys)
        .filter(|k| k.field == Field::LocalIpv6)
    {
        key.width = 64;
    }
    let short = unplaced(short);
    assert_eq!(short.len(), 1, "the prefix of 64 bits fits: {short:?}");
    assert!(
        short[0].contains("`local_ipv6` has 64 bits, and 2001:db8::1/128 names more"),
        "{short:?}"
    );
    let whole = StageModel::named("acl-ternary").unwrap();
    assert_eq!(unplaced(whole).len(), 3);
}

/// Others may send with link-local addresses of their MACs and without an address, and declare neither.
#[test]
fn addresses_that_others_send_with_undeclared_have_no_rows() {
    for (address, what) in [
        ("fe80::/64", "link-local addresses"),
        ("fe80::ff:fe00:2", "link-local addresses"),
        ("fe80::/9", "link-local addresses"),
        ("fe00::/7", "link-local addresses"),
        ("::/0", "link-local addresses"),
        ("::/8", "the unspecified address"),
        ("0.0.0.0/0", "the unspecified address"),
        ("128.0.0.0/1", "multicast and broadcast addresses"),
        ("192.0.0.0/2", "multicast and broadcast addresses"),
        ("fec0::/10", ""),
        ("192.0.0.0/3", ""),
        ("2001:db8::/32", ""),
        ("169.254.0.0/16", ""),
    ] {
        let intent = intent(&document(&json!({
            "version": "portcullis/v1",
            "endpoints": {"e": {
                "attachments": [{"port": 1, "target": "tor", "by": "address"}],
                "addresses": [address],
                "rules": [{"name": "r", "action": "deny", "direction": "egress", "protocol": "gre"}],
            }},
        })));
        let compilation = compile(&intent, model(&[]), NOWHERE);
        let why: Vec<&str> = compilation.unplaced.iter().map(|u| u.why.as_str()).collect();
        let of_e = compilation
            .rows()
            .iter()
            .any(|placed| placed.rule.as_deref() == Some("endpoints/e/r"));
        assert_eq!(
            (of_e, why.is_empty()),
            (what.is_empty(), what.is_empty()),
            "{address}: {why:?}"
        );
        assert!(why.iter().all(|why| why.contains(what)), "{address}: {why:?}");
    }
}

/// What one endpoint behind the port leaves, the others may keep: rules go from all of its addresses at once.
#[test]
fn a_full_table_leaves_rules_of_shared_ports() {
    let behind = |_: &EndpointIntent| true;
    let mut random = Random(0x5eed);
    let (mut left, mut kept) = (0, 0);
    for _ in 0..40 {
        let [shared, _] = pair(&mut random);
        let plenty = compile(&shared, model(&[]), behind);
        let mut small = plenty.model.clone();
        for used in plenty.tables() {
            let table = small.tables.iter_mut().find(|t| t.name == used.table).unwrap();
            table.size = Some((used.cost / 2).max(1)).filter(|_| table.stage == Role::Policy);
        }
        let compilation = compile(&shared, small, behind);
        // Ports without an endpoint leave nothing, and may be too many for it.
        check_tables(&compilation);
        let rows = Pipeline::from_compilation(&compilation);
        for (n, endpoint) in shared.endpoints.values().enumerate() {
            let Some(class) = shared.classes.get(&endpoint.classes.egress) else {
                continue;
            };
            let address = ends(ADDRESSES[n][0])[0];
            for packet in grid(&[&class.policy], 100, &mut random) {
                let Some(packet) = with_local(&packet, address) else {
                    continue;
                };
                let (wanted, _) = class.policy.judge(&packet, compilation.model.view);
                for shown in ShownFields::new(&packet, &compilation.model) {
                    let told = rows.judge(Direction::Egress, class.id, "port 7, by address", &shown);
                    let is_denied = told.is_some_and(|(verdict, _)| verdict.denies());
                    assert!(!is_denied || wanted.denies(), "{packet:?}");
                }
            }
        }
        left += compilation
            .steps
            .iter()
            .filter(|s| matches!(s, Step::Left { .. }))
            .count();
        kept += compilation.rows().len();
    }
    assert!(left > 20 && kept > 20, "{left} left, {kept} rows");
}

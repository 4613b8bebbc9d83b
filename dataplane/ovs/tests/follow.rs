//! Ports and rows that follow an intent are those that are made anew of it, whatever changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::{Compiler, Intent, RowCache, StageModel};
use portcullis_ovs::Config;
use portcullis_ovs::ports::{Attachments, OtherClasses, Ports, resolve};
use portcullis_ovs::tables::Pipeline;
use portcullis_ovs::units::Units;
use portcullis_ovsdb::{Bridge, Interface, Port, Switch};
use portcullis_policy::{Direction, Document, Grant, GrantKind};
use proptest::prelude::*;
use serde_json::json;

use crate::memory::{opening, pipeline};

const START: u64 = 1_800_000_000;
const ENDPOINTS: usize = 4;

/// One change, of one of the endpoints where it is about one.
#[derive(Debug, Clone)]
enum Edit {
    OwnRule(usize, Option<u16>),
    /// Unlocks: the port of each, and its duration in seconds.
    Unlocks(usize, Vec<(u16, u64)>),
    Mac(usize, u8),
    IsThere(usize, bool),
    Profile(u16),
    Baseline(u16),
    Unmanaged(bool),
    Passes(u64),
}

fn edits() -> impl Strategy<Value = Edit> {
    let port = || prop_oneof![Just(25u16), Just(26), Just(80), Just(1000)];
    let unlocks = prop::collection::vec((2000u16..2040, 1u64..400), 0..20);
    prop_oneof![
        8 => (0..ENDPOINTS, prop::option::of(port())).prop_map(|(n, port)| Edit::OwnRule(n, port)),
        8 => (0..ENDPOINTS, unlocks).prop_map(|(n, ports)| Edit::Unlocks(n, ports)),
        1 => (0..ENDPOINTS, 0u8..3).prop_map(|(n, mac)| Edit::Mac(n, mac)),
        2 => (0..ENDPOINTS, any::<bool>()).prop_map(|(n, is_there)| Edit::IsThere(n, is_there)),
        2 => port().prop_map(Edit::Profile),
        1 => port().prop_map(Edit::Baseline),
        1 => any::<bool>().prop_map(Edit::Unmanaged),
        6 => (1u64..200).prop_map(Edit::Passes),
    ]
}

#[derive(Debug, Clone)]
struct World {
    own: [Option<u16>; ENDPOINTS],
    unlocks: [Vec<(u16, u64)>; ENDPOINTS],
    macs: [u8; ENDPOINTS],
    there: [bool; ENDPOINTS],
    profile: u16,
    baseline: u16,
    unmanaged: bool,
    wall: u64,
}

impl World {
    fn take(&mut self, edit: &Edit) {
        match edit {
            Edit::OwnRule(n, port) => self.own[*n] = *port,
            Edit::Unlocks(n, ports) => {
                self.unlocks[*n] = ports
                    .iter()
                    .map(|(port, lasts)| (*port, self.wall + lasts))
                    .collect();
            }
            Edit::Mac(n, mac) => self.macs[*n] = *mac,
            Edit::IsThere(n, is_there) => self.there[*n] = *is_there,
            Edit::Profile(port) => self.profile = *port,
            Edit::Baseline(port) => self.baseline = *port,
            Edit::Unmanaged(allowed) => self.unmanaged = *allowed,
            Edit::Passes(seconds) => self.wall += seconds,
        }
    }

    fn document(&self) -> Document {
        let deny = |name: &str, port: u16| json!({"name": name, "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [port]});
        let mut endpoints = serde_json::Map::new();
        for n in (0..ENDPOINTS).filter(|n| self.there[*n]) {
            let own: Vec<_> = self.own[n].map(|port| deny("own", port)).into_iter().collect();
            endpoints.insert(
                format!("e{n}"),
                json!({"attachments": [{"interface": format!("p{n}")}], "profiles": ["web"], "rules": own,
                       "macs": [format!("02:00:00:00:0{}:0{n}", self.macs[n])]}),
            );
        }
        let mut document: Document = serde_json::from_value(json!({
            "version": "portcullis/v1",
            "unmanaged": if self.unmanaged { "allow" } else { "baseline" },
            "baseline": [deny("base", self.baseline),
                {"name": "many", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ["2000-2039"]}],
            "profiles": {"web": {"rules": [deny("profile", self.profile)]}},
            "endpoints": endpoints,
        }))
        .unwrap();
        for n in (0..ENDPOINTS).filter(|n| self.there[*n]) {
            let unlocks = self.unlocks[n]
                .iter()
                .enumerate()
                .filter(|(_, (_, ends))| *ends > self.wall);
            let grants: Vec<Grant> = unlocks
                .map(|(i, (port, ends))| Grant {
                    unlock: format!("u{i}").parse().unwrap(),
                    program: "mail".parse().unwrap(),
                    rules: vec![opening(Direction::Egress, *port)],
                    kind: GrantKind::Unlock,
                    ends: *ends,
                })
                .collect();
            if !grants.is_empty() {
                document
                    .grants
                    .insert(format!("e{n}").parse().unwrap(), grants.into());
            }
        }
        document
    }
}

fn bridge() -> Bridge {
    // One port has no endpoint, one endpoint no port.
    let port = |n: u32| {
        let name = format!("p{}", n + 1);
        let interface = Interface {
            name: name.clone(),
            ofport: Some(n + 1),
            ..Interface::default()
        };
        let port = Port {
            name: name.clone(),
            interfaces: BTreeMap::from([(name.clone(), interface)]),
            ..Port::default()
        };
        (name, Arc::new(port))
    };
    Bridge {
        name: "br0".to_string(),
        ports: (0..4).map(port).collect(),
        ..Bridge::default()
    }
}

fn found(intent: &Intent, index: &Attachments, bridge: &Bridge, wall: Duration) -> Ports {
    let config = Config::new("ovs", "unix:/nowhere/db.sock");
    resolve(
        &Switch::default(),
        bridge,
        intent,
        index,
        &config,
        wall,
        &Ports::default(),
    )
}

fn anew(intent: &Intent, bridge: &Bridge, wall: Duration) -> (Attachments, Ports) {
    let index = Attachments::new(intent, "ovs");
    let ports = found(intent, &index, bridge, wall);
    (index, ports)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_follows_is_what_is_made_anew(edits in prop::collection::vec(edits(), 1..40)) {
        let bridge = bridge();
        let pipeline: Pipeline = pipeline(10, 7);
        let mut world = World {
            own: [None; ENDPOINTS],
            unlocks: Default::default(),
            macs: [0; ENDPOINTS],
            there: [true; ENDPOINTS],
            profile: 80,
            baseline: 25,
            unmanaged: false,
            wall: START,
        };
        let mut compiler = Compiler::default();
        let mut programs = RowCache::new(StageModel::ovs());
        let mut intent = compiler.resolve(&world.document(), 1).unwrap();
        let (mut index, mut ports) = anew(&intent, &bridge, Duration::from_secs(world.wall));
        let mut units = Units::new(pipeline);
        units.build(&intent, &ports, &mut programs).unwrap();
        for (edit, generation) in edits.iter().zip(2..) {
            world.take(edit);
            let wall = Duration::from_secs(world.wall);
            // Time may pass without another intent, too.
            let next = match edit {
                Edit::Passes(n) if n % 2 == 0 => Arc::clone(&intent),
                _ => compiler
                    .resolve_in_place(&world.document(), generation, &|_, _| true)
                    .unwrap(),
            };
            let (new_index, new_ports) = anew(&next, &bridge, wall);
            let rows = Units::new(pipeline).build(&next, &new_ports, &mut programs).unwrap();
            let changed = OtherClasses::between(&intent, &next);
            let followed = changed.and_then(|changed| {
                let numbers = ports.follow(&changed, wall)?;
                index.follow(&changed);
                Some(numbers)
            });
            let own = matches!(edit, Edit::OwnRule(..));
            let few = world.unlocks.iter().all(|unlocks| unlocks.len() <= 4);
            prop_assert!(followed.is_some() || !own || !few, "{edit:?} is followed");
            let made = match followed {
                Some(numbers) => units.update(&next, &ports, &numbers, &mut programs).unwrap(),
                None => {
                    (index, ports) = (new_index, new_ports.clone());
                    units.build(&next, &ports, &mut programs).unwrap()
                }
            };
            prop_assert_eq!(&ports, &new_ports, "after {:?}", edit);
            prop_assert_eq!(&found(&next, &index, &bridge, wall), &new_ports, "after {:?}", edit);
            prop_assert_eq!(&made, &rows, "after {:?}", edit);
            intent = next;
        }
    }
}

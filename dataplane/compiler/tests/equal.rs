//! Three words on every policy: the reference verdict, the rows one by one, the proof.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::support;

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::proof::{Prover, deciding_row};
use portcullis_compiler::{ClassRows, PolicyRow, StageModel};
use portcullis_policy::{Direction, Document, Packet, Policy, Verdict};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use support::grid::Grid;
use support::mutate::{Dice, by_code, mutate};
use support::{document, document_of, packet, policy};

/// The rows of a policy; `None` where a model has no table for that direction.
fn rows(policy: &Policy, model: &StageModel) -> Option<ClassRows> {
    match lower(policy, model) {
        Ok(program) => Some(program),
        Err(_) if model.name == "acl-ternary" && policy.direction == Direction::Ingress => None,
        Err(unsupported) => panic!("{unsupported}: {policy:#?}"),
    }
}

fn says(program: &ClassRows, fixed: &[PolicyRow], packet: &Packet, model: &StageModel) -> Option<Verdict> {
    deciding_row(program, fixed, packet, model).map(|(_, action)| action)
}

proptest! {
    #![proptest_config(Config { cases: 500, ..Config::default() })]

    #[test]
    fn rows_mean_the_policy(document in document(), packets in prop::collection::vec(packet(), 60)) {
        for name in StageModel::names() {
            let model = StageModel::named(name).unwrap();
            let fixed = fixed_rows(&model);
            let mut prover = Prover::new(&model, fixed.clone());
            for direction in Direction::BOTH {
                let policy = policy(&document, direction);
                let Some(plain) = rows(&policy, &model) else { continue };
                let coded = by_code(&plain);
                for program in [&plain, &coded] {
                    if let Err(example) = prover.prove(&policy, program) {
                        return Err(TestCaseError::fail(format!("{name}: {example}\n{policy:#?}\n{program:#?}")));
                    }
                    if !policy.may_deny() {
                        continue;
                    }
                    for packet in &packets {
                        let (wanted, by) = policy.judge(packet, model.view);
                        let got = says(program, &fixed, packet, &model);
                        prop_assert_eq!(got, Some(wanted), "{}: {:?} by {:?}\n{:#?}", name, packet, by, policy);
                    }
                }
            }
        }
    }
}

/// Priorities of 16 bits have no room for a table of port lengths per pair of prefix lengths: those in use do.
#[test]
fn more_prefix_lengths_than_sixteen_bits_of_priority_hold() {
    let rule = |n: u8| {
        json!({
            "name": format!("r{n}"),
            "action": if n.is_multiple_of(2) { "allow" } else { "deny" },
            "direction": "egress",
            "protocol": "tcp",
            "ports": [format!("{}-{}", 1000 - u16::from(n), 1000 + 10 * u16::from(n))],
            "remote": [format!("10.0.0.0/{}", 24 - n)],
            "local": if n.is_multiple_of(5) { json!(["192.0.2.0/24", "192.0.2.8/30"]) } else { json!(["192.0.2.0/26"]) },
        })
    };
    let document = json!({
        "version": "portcullis/v1",
        "endpoints": {"e": {"rules": (0..14).map(rule).collect::<Vec<_>>()}},
    });
    let document = Document::from_yaml(&document.to_string()).unwrap();
    let policy = policy(&document, Direction::Egress);
    for name in StageModel::names() {
        let model = StageModel::named(name).unwrap();
        let program = rows(&policy, &model).unwrap();
        let mut prover = Prover::new(&model, fixed_rows(&model));
        if let Err(example) = prover.prove(&policy, &program) {
            panic!("{name}: {example}");
        }
    }
}

/// What became of the mutations on one model.
#[derive(Debug, Default)]
struct Tally {
    caught: u32,
    harmless: u32,
}

/// Mutates the rows of many policies for a model. Each change must be caught, unless no packet of any kind tells.
fn mutations(name: &str, wanted: u32) {
    let model = StageModel::named(name).unwrap();
    let fixed = fixed_rows(&model);
    let mut prover = Prover::new(&model, fixed.clone());
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut tally = Tally::default();
    for turn in 0u32.. {
        if tally.caught + tally.harmless >= wanted {
            break;
        }
        let document = document_of([2, 3, 2, 3]).new_tree(&mut runner).unwrap().current();
        let direction = if turn.is_multiple_of(2) {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let policy = policy(&document, direction);
        let Some(program) = rows(&policy, &model).filter(|_| policy.may_deny()) else {
            continue;
        };
        let program = if turn.is_multiple_of(3) {
            by_code(&program)
        } else {
            program
        };
        for _ in 0..12 {
            let Some(mutated) = mutate(&program, &mut dice).filter(|m| *m != program) else {
                continue;
            };
            match prover.prove(&policy, &mutated) {
                Err(example) => {
                    tally.caught += 1;
                    // The counter-example is one: the reference verdict and the rows really differ.
                    assert_eq!(policy.judge(&example.packet, model.view).0, example.wanted);
                    assert_eq!(says(&mutated, &fixed, &example.packet, &model), example.got);
                    assert_ne!(Some(example.wanted), example.got);
                }
                Ok(()) => {
                    tally.harmless += 1;
                    let missed = Grid::new(&policy, &mutated, &fixed).find(&model, |packet| {
                        let (wanted, _) = policy.judge(packet, model.view);
                        says(&mutated, &fixed, packet, &model) != Some(wanted)
                    });
                    assert_eq!(missed, None, "proved equal: {policy:#?}\n{mutated:#?}");
                }
            }
        }
    }
    println!("{name}: {tally:?}");
    assert!(
        tally.caught > wanted / 2 && tally.harmless > wanted / 50,
        "{tally:?}"
    );
}

/// One test for each model: together over ten thousand mutations.
macro_rules! mutations_are_caught {
    ($($test:ident: $name:literal),*) => {
        $(#[test]
        fn $test() {
            mutations($name, 2100);
        })*

        #[test]
        fn every_model_is_mutated() {
            assert_eq!([$($name),*].as_slice(), StageModel::names());
        }
    };
}

mutations_are_caught! {
    mutations_are_caught_on_ovs: "ovs",
    mutations_are_caught_on_p4_range: "p4-range",
    mutations_are_caught_on_p4_ternary: "p4-ternary",
    mutations_are_caught_on_acl_ternary: "acl-ternary",
    mutations_are_caught_on_exact_bitmap: "exact-bitmap"
}

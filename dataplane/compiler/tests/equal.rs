//! Three words on every policy: the reference verdict, the rows, the proof.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::proof::{deciding_row, prove};
use portcullis_compiler::{PolicyRow, PortMatch, Program, StageModel};
use portcullis_policy::{Action, Direction, Packet, Policy, View};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use support::{document, packet, policy};

/// Open vSwitch, and one with ranges that sees everything but offsets.
fn models() -> [StageModel; 2] {
    let view = View {
        fragment_offset: false,
        ..View::FULL
    };
    let ranges = StageModel {
        ports: portcullis_compiler::PortKind::Range,
        view,
        ..StageModel::ovs()
    };
    [StageModel::ovs(), ranges]
}

proptest! {
    #![proptest_config(Config { cases: 1500, ..Config::default() })]

    #[test]
    fn rows_mean_the_policy(document in document(), packets in prop::collection::vec(packet(), 40)) {
        for model in models() {
            let fixed = fixed_rows(&model);
            for direction in Direction::BOTH {
                let policy = policy(&document, direction);
                let program = match lower(&policy, &model) {
                    Ok(program) => program,
                    Err(unsupported) => return Err(TestCaseError::fail(unsupported.to_string())),
                };
                if let Err(example) = prove(&policy, &program, &fixed, &model) {
                    return Err(TestCaseError::fail(format!("{example}\n{policy:#?}\n{program:#?}")));
                }
                if policy.may_deny() {
                    for packet in &packets {
                        let (wanted, by) = policy.judge(packet, model.view);
                        let row = deciding_row(&program, &fixed, packet, model.view);
                        prop_assert_eq!(row.map(|r| r.action), Some(wanted), "{:?} by {:?}\n{:#?}", packet, by, policy);
                    }
                }
            }
        }
    }
}

/// Changes one row, in one of the ways a bug or a bit flip would.
fn mutate(program: &Program, seed: u64) -> Option<Program> {
    let mut mutated = program.clone();
    let pick = |n: usize| (seed / 16) as usize % n.max(1);
    let at = pick(mutated.policy.len());
    match seed % 16 {
        0..=2 => drop(mutated.policy.remove(at)),
        3..=5 => {
            let action = if mutated.policy[at].action == Action::Allow {
                Action::Deny
            } else {
                Action::Allow
            };
            mutated.policy[at].action = action;
        }
        6 | 7 => {
            let priority = mutated.policy[at].priority;
            mutated.policy[at].priority = priority.wrapping_add(17 * (1 + (seed >> 32) as u16 % 200));
        }
        8..=10 => match &mut mutated.policy[at].key.dst {
            PortMatch::Masked { value, mask } if *mask == u16::MAX => *value ^= 1 << ((seed >> 40) % 16),
            PortMatch::Masked { mask, value } => {
                *mask <<= 1;
                *value &= *mask;
            }
            other => {
                *other = PortMatch::Masked {
                    value: 25,
                    mask: u16::MAX,
                }
            }
        },
        11 => {
            let mut copy = mutated.policy[at];
            copy.action = if copy.action == Action::Allow {
                Action::Deny
            } else {
                Action::Allow
            };
            mutated.policy.push(copy);
        }
        12 => {
            let later = mutated.policy[at].key.later;
            mutated.policy[at].key.later = if later.is_some() { None } else { Some(true) };
        }
        13 => mutated.policy[at].key.flags = Some((0x02, 0x12)),
        14 if !mutated.remote.is_empty() => {
            let at = pick(mutated.remote.len());
            mutated.remote[at].id += 1;
        }
        15 if !mutated.remote.is_empty() => drop(mutated.remote.remove(pick(program.remote.len()))),
        _ => return None,
    }
    Some(mutated)
}

/// Whether some packet near the edges gets another verdict, or none, or two: the slow way to know.
fn differs(
    policy: &Policy,
    program: &Program,
    fixed: &[PolicyRow],
    model: &StageModel,
    packets: &[Packet],
) -> bool {
    packets.iter().any(|packet| {
        let (wanted, _) = policy.judge(packet, model.view);
        deciding_row(program, fixed, packet, model.view).map(|r| r.action) != Some(wanted)
    })
}

#[test]
fn mutations_are_caught_unless_they_change_nothing() {
    let model = StageModel::ovs();
    let fixed = fixed_rows(&model);
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (mut mutations, mut caught, mut harmless) = (0u32, 0u32, 0u32);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    while mutations < 10_000 {
        let document = document().new_tree(&mut runner).unwrap().current();
        let direction = if mutations.is_multiple_of(2) {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let policy = policy(&document, direction);
        if !policy.may_deny() {
            continue;
        }
        let program = lower(&policy, &model).unwrap();
        let packets: Vec<Packet> = (0..200)
            .map(|_| packet().new_tree(&mut runner).unwrap().current())
            .collect();
        for _ in 0..20 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let Some(mutated) = mutate(&program, seed) else {
                continue;
            };
            mutations += 1;
            match prove(&policy, &mutated, &fixed, &model) {
                Err(example) => {
                    caught += 1;
                    // The counter-example is one: the reference verdict really differs from what the rows say.
                    let (wanted, _) = policy.judge(&example.packet, model.view);
                    assert_eq!(wanted, example.wanted);
                    assert_ne!(Some(wanted), example.got);
                }
                Ok(()) => {
                    harmless += 1;
                    assert!(
                        !differs(&policy, &mutated, &fixed, &model, &packets),
                        "a mutation that changes a verdict was proved equal: {policy:#?}\n{mutated:#?}"
                    );
                }
            }
        }
    }
    println!("{mutations} mutations: {caught} caught, {harmless} change nothing");
    assert!(caught > mutations / 2, "{caught} of {mutations}");
}

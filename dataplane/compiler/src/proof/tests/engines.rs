//! Both engines on the same five-tuples.

use super::*;

/// Entries of plain five-tuples.
fn five_tuples() -> impl Strategy<Value = Policy> {
    let v4 = || {
        prop::sample::select(PREFIXES.get(1..7).unwrap().to_vec()).prop_map(|p| p.parse::<IpNet>().unwrap())
    };
    let protocol = prop::sample::select(vec![None, Some(6u8), Some(17), Some(47)]);
    let one = (
        protocol,
        ranges(),
        ranges(),
        prop::collection::vec(v4(), 0..3),
        prop::collection::vec(v4(), 0..2),
        action(),
    )
        .prop_map(|(protocol, src_ports, dst_ports, remote, local, action)| {
            let matcher = Matcher {
                families: Families::only(Family::V4),
                protocol: protocol.map_or(Protocol::Any, Protocol::Number),
                dst_ports,
                src_ports,
                remote,
                local,
                icmp: None,
                flags: FlagMatch::Any,
                fragments: true,
            };
            entry(action, matcher)
        });
    (prop::collection::vec(one, 1..25), action()).prop_map(|(entries, default)| Policy {
        direction: Direction::Egress,
        entries,
        default,
        five_tuple: true,
    })
}

/// A row for each product of ranges and prefixes of each entry, in order.
fn plain_rows(policy: &Policy) -> Vec<PolicyRow> {
    let mut rows = Vec::new();
    let or_any = |prefixes: &[IpNet]| -> Vec<Option<IpNet>> {
        if prefixes.is_empty() {
            vec![None]
        } else {
            prefixes.iter().copied().map(Some).collect()
        }
    };
    let row = |priority, key, action| PolicyRow {
        priority,
        key,
        action,
        words: None,
        by: Decider::Default,
    };
    for (entry, priority) in policy.entries.iter().zip((10..1000u32).rev()) {
        let m = &entry.matcher;
        for remote in or_any(&m.remote) {
            for local in or_any(&m.local) {
                for (low, high) in m.src_ports.iter() {
                    for (first, last) in m.dst_ports.iter() {
                        let key = RowKey {
                            frame: FrameMatch::Ip(Family::V4),
                            protocol: match m.protocol {
                                Protocol::Any => None,
                                Protocol::Number(n) => Some(n),
                            },
                            remote: remote.map_or(RemoteMatch::Any, RemoteMatch::Prefix),
                            local,
                            src: PortMatch::Range { low, high },
                            dst: PortMatch::Range {
                                low: first,
                                high: last,
                            },
                            ..RowKey::ANY
                        };
                        rows.push(row(priority, key, entry.action));
                    }
                }
            }
        }
    }
    if policy.direction == Direction::Egress && policy.default == Verdict::Deny {
        let announcements = RowKey {
            frame: FrameMatch::EtherType(portcullis_policy::RARP),
            ..RowKey::ANY
        };
        rows.push(row(2, announcements, Verdict::Allow));
    }
    rows.push(row(1, RowKey::ANY, policy.default));
    rows
}
fn flip(action: Verdict) -> Verdict {
    if action == Verdict::Allow {
        Verdict::Deny
    } else {
        Verdict::Allow
    }
}

/// Changes a row in one of the ways in which an encoder errs.
fn spoil(program: &mut ClassRows, how: u8, at: usize, port: PortMatch, delta: u32) {
    let at = at % program.policy.len();
    match how % 8 {
        0 => {}
        1 => drop(program.policy.remove(at)),
        2 => program.policy[at].action = flip(program.policy[at].action),
        3 => program.policy[at].key.src = port,
        4 => program.policy[at].key.dst = port,
        5 => program.policy[at].priority = program.policy[at].priority.saturating_sub(delta).max(1),
        6 => {
            let copy = program.policy[at];
            program.policy.push(PolicyRow {
                action: flip(copy.action),
                ..copy
            });
        }
        _ => program.policy[at].key.remote = RemoteMatch::Id(delta % 3),
    }
}

fn by(
    engine: Engine,
    model: &StageModel,
    policy: &Policy,
    program: &ClassRows,
) -> Result<(), Box<Counterexample>> {
    let mut prover = Prover::new(model, fixed());
    prover.engine = engine;
    prover.prove(policy, program)
}

/// Both engines on one program; whether they found it equal on the model that sees everything. The other one takes
/// zeros for headers that are too short and has no mark.
fn both(policy: &Policy, program: &ClassRows) -> Result<bool, TestCaseError> {
    agree("ovs", policy, program)?;
    agree("p4-range", policy, program)
}

fn agree(name: &str, policy: &Policy, program: &ClassRows) -> Result<bool, TestCaseError> {
    let model = StageModel::named(name).unwrap();
    let [cells, pairs] = [Engine::Cells, Engine::Pairs].map(|e| by(e, &model, policy, program));
    for example in [&cells, &pairs].into_iter().filter_map(|r| r.as_ref().err()) {
        let says = deciding_row(program, &fixed(), &example.packet, &model).map(|(_, action)| action);
        prop_assert_eq!(says, example.got, "{}", example);
        prop_assert_eq!(policy.judge(&example.packet, model.view).0, example.wanted);
        prop_assert_ne!(Some(example.wanted), example.got);
    }
    prop_assert_eq!(
        cells.is_ok(),
        pairs.is_ok(),
        "{:?} {:?} {:#?}",
        cells,
        pairs,
        program
    );
    Ok(cells.is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_engines_agree(
        policy in five_tuples(),
        remote in prop::collection::vec((prefix(), 0u32..3), 0..4),
        codes in codes(),
        spoiled in prop::collection::vec((any::<u8>(), any::<usize>(), port_match(), 0u32..12), 0..3),
    ) {
        prop_assume!(policy.may_deny());
        let mut program = ClassRows {
            policy: plain_rows(&policy),
            remote: remote.into_iter().map(|(prefix, id)| RemoteRow { prefix, id }).collect(),
            codes: Some(Arc::new(codes)),
            ..ClassRows::default()
        };
        prop_assert!(both(&policy, &program)?, "plain rows mean the policy");
        for (how, at, port, delta) in spoiled {
            spoil(&mut program, how, at, port, delta);
            both(&policy, &program)?;
        }
    }

    /// Merging and splitting rows without changing what they mean.
    #[test]
    fn the_engines_see_through_other_shapes(policy in five_tuples(), cuts in prop::collection::vec((any::<usize>(), number()), 0..8)) {
        prop_assume!(policy.may_deny());
        let mut program = ClassRows { policy: plain_rows(&policy), ..ClassRows::default() };
        for (at, cut) in cuts {
            let at = at % program.policy.len();
            let row = program.policy[at];
            if let PortMatch::Range { low, high } = row.key.dst
                && low < cut && cut <= high
            {
                program.policy[at].key.dst = PortMatch::Range { low, high: cut - 1 };
                let mut rest = row;
                rest.key.dst = PortMatch::Range { low: cut, high };
                program.policy.insert(at + 1, rest);
            }
        }
        // What stands below a row of its own action and box says nothing.
        let shadowed = program.policy[0];
        program.policy.push(PolicyRow { priority: 2, action: flip(shadowed.action), ..shadowed });
        prop_assert!(both(&policy, &program)?);
    }
}

//! Answers of an agent, complete enough to show every column.

use portcullis_proto::v1::*;

fn rule(name: &str, action: Action, direction: Direction, protocol: &str, ports: &[&str]) -> Rule {
    Rule {
        name: name.into(),
        action: action.into(),
        direction: direction.into(),
        protocol: protocol.into(),
        ports: ports.iter().map(ToString::to_string).collect(),
        ..Rule::default()
    }
}

pub fn baseline() -> Baseline {
    let smtp = Rule {
        reason: "spam".into(),
        ..rule("smtp", Action::Deny, Direction::Egress, "tcp", &["25"])
    };
    let ping = Rule {
        icmp: Some(IcmpMatch {
            r#type: 8,
            code: Some(0),
        }),
        ip: 4,
        ..rule("ping", Action::Allow, Direction::Ingress, "icmp", &[])
    };
    Baseline {
        mandatory: vec![ping],
        rules: vec![smtp],
        defaults: Some(Defaults {
            egress: Action::Allow.into(),
            ingress: Action::Deny.into(),
        }),
        unmanaged: Unmanaged::Baseline.into(),
        etag: "b1".into(),
        reserved: Some(Reserved {
            macs: vec!["00:00:5e:00:01:01".into()],
            addresses: vec!["192.0.2.1".into()],
            dhcp: vec!["192.0.2.2".into(), "192.0.2.3".into()],
        }),
    }
}

pub fn profile() -> Profile {
    let admin = Rule {
        remote: vec!["198.51.100.0/24".into(), "2001:db8:1::/48".into()],
        source_ports: vec!["1024-65535".into()],
        ..rule("admin", Action::Allow, Direction::Ingress, "tcp", &["22"])
    };
    Profile {
        name: "web".into(),
        defaults: Some(Defaults {
            egress: Action::Unspecified.into(),
            ingress: Action::Deny.into(),
        }),
        rules: vec![
            rule("http", Action::Allow, Direction::Ingress, "tcp", &["80", "443"]),
            admin,
        ],
        etag: "p1".into(),
    }
}

pub fn endpoint(name: &str) -> Endpoint {
    let by_name = Attachment {
        interface: name.into(),
        target: "br0".into(),
        ..Attachment::default()
    };
    let by_id = Attachment {
        iface_id: "8d2c".into(),
        ..Attachment::default()
    };
    Endpoint {
        name: name.into(),
        attachments: vec![by_name, by_id],
        macs: vec!["02:00:00:00:00:01".into()],
        addresses: vec!["192.0.2.10".into(), "2001:db8::10".into()],
        profiles: vec!["web".into()],
        rules: vec![rule("dns", Action::Allow, Direction::Egress, "", &[])],
        labels: [
            ("tenant".to_string(), "acme".to_string()),
            ("row".to_string(), "4".to_string()),
        ]
        .into(),
        source_guard: None,
        etag: "e1".into(),
        ..Endpoint::default()
    }
}

pub fn applied() -> ApplyDocumentResponse {
    ApplyDocumentResponse {
        generation: 7,
        created: vec!["profiles/web".into()],
        changed: vec!["baseline".into(), "endpoints/web1".into()],
        deleted: vec!["endpoints/old".into()],
        findings: vec![Finding {
            at: "profiles/web/late".into(),
            text: "can never match: profiles/web/http before it takes all it would match".into(),
            kind: "never_matches".into(),
            by: vec!["profiles/web/http".into()],
        }],
    }
}

pub fn plan() -> PlanResponse {
    let table = |table: &str, now, add, change, delete, size| TablePlan {
        table: table.into(),
        now,
        add,
        change,
        delete,
        size,
    };
    PlanResponse {
        created: vec!["endpoints/web1".into()],
        changed: Vec::new(),
        deleted: Vec::new(),
        findings: Vec::new(),
        targets: vec![
            TargetPlan {
                target: "br0".into(),
                tables: vec![
                    table("attach", 3, 1, 0, 0, 0),
                    table("egress_policy", 30, 20, 2, 5, 40),
                ],
                rows: vec![
                    "+ attach in_port=4 class=2".into(),
                    "- egress_policy class=1".into(),
                ],
                unavailable: String::new(),
                warnings: vec!["tagged frames of port web1 stop".into()],
                leaves: vec![
                    "egress baseline/smtp".into(),
                    "ingress the default of web1".into(),
                ],
                holds_again: vec!["egress baseline/irc".into()],
            },
            TargetPlan {
                target: "br1".into(),
                unavailable: "target br1 is Disconnected".into(),
                ..TargetPlan::default()
            },
        ],
        classes_now: 1,
        classes_after: 2,
        closes: vec![ClosedUnlock {
            id: "u-1".into(),
            endpoint: "mail1".into(),
            program: "smtp".into(),
            tenant: "acme".into(),
            state: "revoked".into(),
            reason: "what the program requires does not hold: endpoint.labels.paid == \"true\"".into(),
        }],
        bypasses: Vec::new(),
    }
}

pub fn bypass() -> Bypass {
    Bypass {
        endpoint: "web1".into(),
        reason: "is it the policy?".into(),
        by: "uid 0".into(),
        started_at: 1_790_000_000,
        ends_at: 1_790_000_600,
    }
}

pub fn explained() -> ExplainResponse {
    ExplainResponse {
        bypass: None,
        verdict: Action::Deny.into(),
        tier: "baseline".into(),
        rule: "baseline/smtp".into(),
        reason: "spam".into(),
        packet: "tcp 192.0.2.10:40000 > 203.0.113.1:25, opening".into(),
        class: 3,
        targets: vec![
            TargetExplanation {
                target: "br0".into(),
                rows: vec![
                    EnforcingRow {
                        table: "attach".into(),
                        row: "in_port=4 actions=set_field:3->reg0".into(),
                        present: true,
                        packets: None,
                        bytes: None,
                    },
                    EnforcingRow {
                        table: "egress_policy".into(),
                        row: "tcp,reg0=3,tp_dst=25 actions=drop".into(),
                        present: false,
                        packets: Some(0),
                        bytes: Some(0),
                    },
                ],
                unavailable: String::new(),
                nearer: Vec::new(),
            },
            TargetExplanation {
                target: "br1".into(),
                rows: Vec::new(),
                unavailable: "endpoint web1 is not on target br1: no interface".into(),
                nearer: vec!["br0".into()],
            },
        ],
    }
}

pub fn target(name: &str, state: &str, applied: u64, wanted: u64) -> Target {
    Target {
        name: name.into(),
        kind: "ovs".into(),
        versions: [
            ("ovs".to_string(), "3.1.0".to_string()),
            ("dpdk".to_string(), "22.11".to_string()),
        ]
        .into(),
        state: state.into(),
        detail: String::new(),
        generation_wanted: wanted,
        generation_applied: applied,
        tables: vec![
            TableUse {
                table: "attach".into(),
                number: 0,
                rows: 2,
                size: 0,
                reserve: 0,
            },
            TableUse {
                table: "egress_policy".into(),
                number: 3,
                rows: 41,
                size: 1000,
                reserve: 0,
            },
        ],
        foreign_rows: 1,
        endpoints_realized: 2,
        pending: Vec::new(),
        unsupported: Vec::new(),
        rows_added: 43,
        rows_changed: 1,
        rows_deleted: 2,
        drift_repaired: 1,
        disconnects: 0,
        left_over_rows: 0,
        exposures: Vec::new(),
        open_millis: Default::default(),
        generation_confirmed: wanted,
    }
}

/// A target that is behind, in every way.
pub fn lagging() -> Target {
    Target {
        detail: "connecting to /run/openvswitch/br1.mgmt: no such file".into(),
        pending: vec![Pending {
            endpoint: "web2".into(),
            why: "no interface named web2".into(),
        }],
        unsupported: vec![Unsupported {
            rule: "profiles/web/rtp".into(),
            table: "egress_policy".into(),
            why: "too many prefix lengths".into(),
        }],
        tables: Vec::new(),
        left_over_rows: 12,
        exposures: vec![Exposure {
            cause: "fail_mode".into(),
            what: "a start of ovs-vswitchd passes everything".into(),
            remedy: "ovs-vsctl set-fail-mode br1 secure".into(),
            open: true,
        }],
        open_millis: [("fail_mode".to_string(), 1250)].into(),
        ..target("br1", "Disconnected", 6, 7)
    }
}

pub fn hits() -> ListHitsResponse {
    let hit = |rule: &str, class, endpoints: &[&str], count, packets| Hit {
        target: "br0".into(),
        direction: Direction::Egress.into(),
        rule: rule.into(),
        class,
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        endpoint_count: count,
        action: "deny".into(),
        packets,
        bytes: packets * 74,
    };
    ListHitsResponse {
        hits: vec![
            hit("baseline/smtp", 3, &["mail2", "web1"], 2, 9),
            hit("default/egress", 4, &["a", "b", "c", "d"], 20, 1),
            hit("guard/web1", 0, &["web1"], 1, 0),
        ],
        unavailable: vec![],
    }
}

/// A bridge that offloads, one that does not, and a device without a cache.
pub fn offload() -> ListOffloadResponse {
    let carried = |[hardware, partly, tc, software]: [u64; 4]| {
        Some(Carried {
            hardware,
            partly,
            tc,
            software,
        })
    };
    let rule = |target: &str, rule: &str, action: &str, flows: [u64; 4]| RuleOffload {
        target: target.into(),
        direction: Direction::Egress.into(),
        rule: rule.into(),
        class: 3,
        endpoints: vec!["web1".into()],
        endpoint_count: 1,
        action: action.into(),
        flows: carried(flows),
        packets: carried(flows.map(|n| n * 100)),
        why: Vec::new(),
        is_counted: true,
    };
    let target = |target: &str, is_on: bool, flows: [u64; 4], unknown: &[(&str, u64)]| TargetOffload {
        target: target.into(),
        is_on,
        flows: carried(flows),
        unknown: unknown
            .iter()
            .map(|(why, flows)| UnknownFlows {
                why: (*why).into(),
                flows: *flows,
            })
            .collect(),
        unit: OffloadUnit::CachedFlows.into(),
        nics: Vec::new(),
    };
    let nic = |port: u32, off: &str, installed: u64| NicOffload {
        port,
        driver: "net_tap".into(),
        off: off.into(),
        takes: "drop, IPv4, TCP, destination ports (exact)".into(),
        installed,
        wanted: 3,
        is_full: installed > 0,
        ..NicOffload::default()
    };
    let embedded = TargetOffload {
        unit: OffloadUnit::Ports.into(),
        nics: vec![
            nic(1, "", 2),
            nic(2, "the driver net_tap takes no rule that drops", 0),
            NicOffload {
                fault: "rules cannot be removed from the NIC, which may drop what is allowed: busy".into(),
                ..nic(3, "", 2)
            },
        ],
        ..target("switch", true, [1, 1, 0, 1], &[])
    };
    let in_part = |why: &str| RuleOffload {
        why: vec![why.into()],
        is_counted: false,
        ..rule("switch", "baseline/amp", "deny", [1, 1, 0, 1])
    };
    ListOffloadResponse {
        targets: vec![
            target(
                "br0",
                true,
                [7, 1, 2, 1],
                &[("a later pass of packets that were recirculated", 4)],
            ),
            target("br1", false, [0, 0, 0, 9], &[]),
            embedded,
        ],
        rules: vec![
            rule("br0", "baseline/smtp", "deny", [4, 0, 0, 0]),
            rule("br0", "profiles/web/http", "allow", [3, 1, 0, 1]),
            rule("br0", "default/egress", "allow", [0, 0, 2, 0]),
            rule("br0", "baseline/netbios", "deny", [0; 4]),
            rule("br1", "baseline/smtp", "deny", [0, 0, 0, 9]),
            in_part("the NIC has no room, and other rules have more hits"),
        ],
        unavailable: vec![Unavailable {
            target: "tor1".into(),
            why: "target tor1 caches no flows".into(),
        }],
    }
}

/// One check of each result.
pub fn checks() -> ListTargetChecksResponse {
    let check = |name: &str, result: TargetCheckResult, what: &str, remedy: &str| TargetCheck {
        target: "br0".into(),
        name: name.into(),
        result: result.into(),
        what: what.into(),
        remedy: remedy.into(),
    };
    ListTargetChecksResponse {
        checks: vec![
            check("session", TargetCheckResult::Fine, "InSync, generation 7", ""),
            check(
                "fail mode",
                TargetCheckResult::CostsSafety,
                "standalone: the bridge passes every packet",
                "set `fail_mode = \"secure\"` in the [[target]] section",
            ),
            check(
                "offload",
                TargetCheckResult::CostsSpeed,
                "off: software forwards every packet",
                "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true",
            ),
            check("flow limit", TargetCheckResult::Unknown, "no control socket", ""),
        ],
    }
}

/// Two servers behind a top-of-rack switch that is nearly full, and one that is attached to no target.
pub fn placement() -> GetPlacementResponse {
    let at = |target: &str, extent: &str, why: &str| RuleAtTarget {
        target: target.into(),
        extent: extent.into(),
        why: why.into(),
        nic: String::new(),
    };
    let no_room = "the table has no room for it beside the reserve: nearer targets enforce it";
    let part = "enforced in part: packets with IPv4 options pass, for example tcp to port 25";
    let rule = |rule: &str, placement: &str, tor: RuleAtTarget| PlacedRule {
        direction: Direction::Egress.into(),
        rule: rule.into(),
        placement: placement.into(),
        endpoints: vec!["web1".into(), "web2".into()],
        endpoint_count: 2,
        at: vec![tor, at("host", "whole", "")],
    };
    let target = |name: &str, kind: &str, tables| PlacementTarget {
        name: name.into(),
        kind: kind.into(),
        hardware: kind == "p4runtime",
        state: "InSync".into(),
        tables,
        foreign_rows: 0,
    };
    let table = |table: &str, rows, size, reserve| TableUse {
        table: table.into(),
        number: 1,
        rows,
        size,
        reserve,
    };
    let on_nic = RuleAtTarget {
        nic: "partly".into(),
        ..at("tor", "whole", "")
    };
    let rack = PlacementPath {
        targets: vec!["tor".into(), "host".into()],
        endpoints: vec!["web1".into(), "web2".into()],
        endpoint_count: 2,
        rules: vec![
            rule("baseline/smtp", "hardware", at("tor", "whole", "")),
            rule("baseline/amp", "partly", on_nic),
            rule("profiles/web/a<b&c", "partly", at("tor", "part", part)),
            rule("profiles/web/games", "software", at("tor", "left", no_room)),
            rule("default/egress", "software", at("tor", "left", no_room)),
        ],
    };
    let nowhere = PlacementPath {
        targets: Vec::new(),
        endpoints: vec!["spare".into()],
        endpoint_count: 1,
        rules: vec![PlacedRule {
            placement: "refused".into(),
            endpoint_count: 1,
            at: Vec::new(),
            ..rule("baseline/smtp", "refused", at("tor", "none", ""))
        }],
    };
    GetPlacementResponse {
        generation: 7,
        targets: vec![
            target(
                "tor",
                "p4runtime",
                vec![table("acl_ingress", 118, 128, 8), table("other", 3, 0, 0)],
            ),
            target("host", "ovs", vec![table("egress", 40, 0, 0)]),
        ],
        paths: vec![nowhere, rack],
    }
}

pub fn committed(generation: u64) -> Event {
    let changes = vec![
        ResourceChange {
            change: "created".into(),
            resource: "endpoints/web1".into(),
        },
        ResourceChange {
            change: "changed".into(),
            resource: "baseline".into(),
        },
    ];
    let event = GenerationCommitted {
        changes,
        at: 1_700_000_000,
        by: "uid 0".into(),
    };
    Event {
        generation,
        event: Some(event::Event::Committed(event)),
    }
}

pub fn told(generation: u64, target: Target) -> Event {
    Event {
        generation,
        event: Some(event::Event::Target(target)),
    }
}

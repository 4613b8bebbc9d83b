//! Why a packet passes or not.

use std::sync::atomic::Ordering;

use portcullis_proto::v1;
use tonic::Code;

use crate::api::support::*;

fn ask(direction: v1::Direction, protocol: &str, port: u32) -> v1::ExplainRequest {
    v1::ExplainRequest {
        endpoint: "web1".to_string(),
        direction: direction.into(),
        protocol: protocol.to_string(),
        port,
        ..Default::default()
    }
}

/// The answer as `verdict tier rule`.
async fn verdict(rig: &mut Rig, request: v1::ExplainRequest) -> String {
    let answer = rig.client.policy.explain(request).await.unwrap().into_inner();
    let action = if answer.verdict == i32::from(v1::Action::Allow) {
        "allow"
    } else {
        "deny"
    };
    format!("{action} {} {}", answer.tier, answer.rule)
}

#[tokio::test]
async fn the_deciding_rule_is_named() {
    let mut rig = Rig::with_document().await;
    let (egress, ingress) = (v1::Direction::Egress, v1::Direction::Ingress);
    let answer = rig
        .client
        .policy
        .explain(ask(egress, "tcp", 25))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.verdict, i32::from(v1::Action::Deny));
    assert_eq!(
        (answer.tier.as_str(), answer.rule.as_str(), answer.reason.as_str()),
        ("baseline", "baseline/smtp", "spam")
    );
    assert_eq!(
        answer.packet,
        "egress: tcp from 192.0.2.10:40000 to 203.0.113.1:25, opening a connection"
    );
    assert!(answer.class > 0);
    let [target] = answer.targets.as_slice() else {
        panic!("{answer:?}")
    };
    assert!(
        target.rows[0].row.contains("dst: 25") && target.rows[0].present && target.unavailable.is_empty()
    );

    assert_eq!(
        verdict(&mut rig, ask(ingress, "tcp", 443)).await,
        "allow endpoint profiles/web/http"
    );
    assert_eq!(
        verdict(&mut rig, ask(ingress, "tcp", 22)).await,
        "deny default default/ingress"
    );
    let admin = v1::ExplainRequest {
        remote: "198.51.100.7".to_string(),
        ..ask(ingress, "tcp", 22)
    };
    assert_eq!(
        verdict(&mut rig, admin).await,
        "allow endpoint profiles/web/admin"
    );
    let six = v1::ExplainRequest {
        ip: 6,
        ..ask(ingress, "tcp", 443)
    };
    let answer = rig.client.policy.explain(six).await.unwrap().into_inner();
    assert_eq!(
        answer.packet,
        "ingress: tcp from [2001:db8:ffff::1]:40000 to [2001:db8::10]:443, opening a connection"
    );
    let discovery = v1::ExplainRequest {
        icmp: Some(v1::IcmpMatch {
            r#type: 135,
            code: None,
        }),
        ..ask(ingress, "icmpv6", 0)
    };
    assert_eq!(
        verdict(&mut rig, discovery).await,
        "allow essential essential/neighbour-discovery"
    );
    assert_eq!(
        verdict(&mut rig, ask(ingress, "icmp", 0)).await,
        "deny default default/ingress"
    );
    let established = v1::ExplainRequest {
        established: true,
        ..ask(ingress, "tcp", 22)
    };
    let answer = rig.client.policy.explain(established).await.unwrap().into_inner();
    assert!(
        answer.packet.ends_with("of an established connection"),
        "{}",
        answer.packet
    );
    let spoofed = v1::ExplainRequest {
        local: "192.0.2.99".to_string(),
        ..ask(egress, "udp", 53)
    };
    assert_eq!(verdict(&mut rig, spoofed).await, "deny guard guard/web1");
}

#[tokio::test]
async fn a_target_that_cannot_be_asked_is_told() {
    let mut rig = Rig::with_document().await;
    rig.fake.deaf.store(true, Ordering::Relaxed);
    let answer = rig
        .client
        .policy
        .explain(ask(v1::Direction::Egress, "tcp", 25))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.rule, "baseline/smtp");
    assert!(answer.targets[0].unavailable.contains("Disconnected") && answer.targets[0].rows.is_empty());
}

#[tokio::test]
async fn bad_questions_are_told_by_field() {
    let mut rig = Rig::with_document().await;
    let good = || ask(v1::Direction::Egress, "tcp", 25);
    let unknown = v1::ExplainRequest {
        endpoint: "none".to_string(),
        ..good()
    };
    assert_eq!(
        rig.client.policy.explain(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    let icmp = Some(v1::IcmpMatch {
        r#type: 8,
        code: None,
    });
    for (request, expected) in [
        (
            v1::ExplainRequest {
                endpoint: String::new(),
                ..good()
            },
            vec!["endpoint"],
        ),
        (
            v1::ExplainRequest {
                direction: 0,
                ..good()
            },
            vec!["direction"],
        ),
        (
            v1::ExplainRequest {
                protocol: String::new(),
                ..good()
            },
            vec!["protocol"],
        ),
        (
            v1::ExplainRequest {
                protocol: "any".to_string(),
                ..good()
            },
            vec!["protocol"],
        ),
        (
            v1::ExplainRequest {
                port: 70_000,
                source_port: Some(70_000),
                ..good()
            },
            vec!["port", "source_port"],
        ),
        (
            v1::ExplainRequest {
                remote: "x".to_string(),
                local: "y".to_string(),
                ..good()
            },
            vec!["remote", "local"],
        ),
        (
            v1::ExplainRequest {
                remote: "192.0.2.1".to_string(),
                local: "::1".to_string(),
                ..good()
            },
            vec!["local"],
        ),
        (
            v1::ExplainRequest {
                remote: "192.0.2.1".to_string(),
                ip: 6,
                ..good()
            },
            vec!["ip"],
        ),
        (
            v1::ExplainRequest {
                protocol: "icmpv6".to_string(),
                port: 0,
                ip: 4,
                ..good()
            },
            vec!["protocol"],
        ),
        (
            v1::ExplainRequest {
                protocol: "icmp".to_string(),
                ..good()
            },
            vec!["port"],
        ),
        (
            v1::ExplainRequest {
                protocol: "udp".to_string(),
                established: true,
                ..good()
            },
            vec!["established"],
        ),
        (v1::ExplainRequest { icmp, ..good() }, vec!["icmp"]),
    ] {
        let text = format!("{request:?}");
        assert_eq!(
            fields(&rig.client.policy.explain(request).await.unwrap_err()),
            expected,
            "{text}"
        );
    }
}

//! The command line: what parses, what is refused and how, and the reference printed from it.

use portcullis_cli::args::{Label, Service};
use portcullis_cli::command::docs::markdown;
use portcullis_cli::command::endpoint::endpoint;
use portcullis_cli::command::explain::request;
use portcullis_cli::error::Misuse;
use portcullis_cli::{Command, Exit, Output};
use portcullis_proto::v1;

use crate::support;

use support::{parse, root, run_offline};

#[test]
fn the_definition_is_consistent() {
    root().debug_assert();
}

#[test]
fn services() {
    let service = |protocol, port| Ok(Service { protocol, port });
    assert_eq!("tcp/25".parse(), service(6, Some(25)));
    assert_eq!("UDP/0".parse(), service(17, Some(0)));
    assert_eq!("132/65535".parse(), service(132, Some(65535)));
    assert_eq!("icmp".parse(), service(1, None));
    assert_eq!("47".parse(), service(47, None));
    let refused = |text: &str| text.parse::<Service>().expect_err(text).to_string();
    assert_eq!(
        refused("tcp"),
        "tcp has ports: write the destination port, tcp/25"
    );
    assert_eq!(
        refused("grep/1"),
        "`grep` is not a protocol: write any, a number from 0 to 255, or its IANA name, as in tcp, udp, icmp, icmpv6, \
         esp, gre, vrrp"
    );
    assert_eq!(refused("icmp/8"), "protocol icmp has no ports: write icmp alone");
    assert_eq!(
        refused("any"),
        "a packet has one protocol: write it instead of any"
    );
    assert_eq!(
        refused("tcp/70000"),
        "port 70000 is out of range: ports are 0 to 65535"
    );
    assert_eq!(
        refused("tcp/20-25"),
        "a packet has one destination port, not 20-25"
    );
    for text in ["", "/", "tcp/", "/25", "tcp/-1", "256", "tcp/2 5"] {
        refused(text);
    }
}

#[test]
fn ports_of_switches() {
    use portcullis_cli::args::PortArg;
    use portcullis_policy::Vlan;
    let plug = |port, vlan| Ok(PortArg { port, vlan });
    assert_eq!("3".parse(), plug(3, Vlan::Untagged));
    assert_eq!("3:100".parse(), plug(3, Vlan::Id(100)));
    assert_eq!("3:0".parse(), plug(3, Vlan::Untagged));
    assert_eq!("3:any".parse(), plug(3, Vlan::Any));
    let refused = |text: &str| text.parse::<PortArg>().expect_err(text);
    assert_eq!(
        refused("eth0"),
        "`eth0` is no port: write a number, as in 3 or 3:100"
    );
    assert_eq!(
        refused("3:"),
        "`` is not a VLAN: write 1 to 4094, 0 for untagged frames, or any for every frame"
    );
    // A port means nothing without its switch.
    assert!(parse(&["endpoint", "provision", "web1", "--port", "3"]).is_err());
    assert!(parse(&["endpoint", "provision", "web1", "--port", "3", "--target", "tor1"]).is_ok());
}

#[test]
fn labels() {
    let label = |key: &str, value: &str| {
        Ok(Label {
            key: key.into(),
            value: value.into(),
        })
    };
    assert_eq!("a=b".parse(), label("a", "b"));
    assert_eq!("a=b=c".parse(), label("a", "b=c"));
    assert_eq!("a=".parse(), label("a", ""));
    assert!("a".parse::<Label>().is_err());
    assert!("=b".parse::<Label>().is_err());
}

fn apply(words: &[&str]) -> portcullis_cli::args::Apply {
    let Command::Apply(apply) = parse(words).expect("parses").command else {
        unreachable!("not apply")
    };
    apply
}

#[test]
fn apply_options() {
    let plain = apply(&["apply", "-f", "x.yaml"]);
    assert!(plain.prune.prune && !plain.dry_run && !plain.allow_empty);
    assert_eq!(plain.wait.wait, None);
    assert!(!apply(&["apply", "-f", "-", "--prune=false"]).prune.prune);
    assert!(apply(&["apply", "-f", "-", "--prune"]).prune.prune);
    assert_eq!(apply(&["apply", "-f", "-", "--wait"]).wait.wait, Some(30));
    assert_eq!(apply(&["apply", "--wait=5", "-f", "-"]).wait.wait, Some(5));
    for words in [
        &["apply"][..],
        &["apply", "-f", "x", "--wait=0"],
        &["apply", "-f", "x", "--wait=601"],
        &["apply", "-f", "x", "--dry-run", "--wait"],
        &["apply", "-f", "x", "--prune=maybe"],
        &["endpoint", "provision", "web1"],
        &[
            "endpoint",
            "provision",
            "web1",
            "--interface",
            "w",
            "--mac",
            "02:00",
        ],
        &[
            "endpoint",
            "provision",
            "web1",
            "--interface",
            "w",
            "--address",
            "192.0.2.1/24",
        ],
        &["explain", "web1", "sideways", "tcp/25"],
        &["explain", "web1", "egress", "tcp/25", "--ip", "5"],
        &["get", "everything"],
        &["nothing"],
    ] {
        let error = parse(words).expect_err("is refused");
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{words:?}");
    }
}

#[test]
fn both_addresses_have_their_place() {
    let words = [
        "--address",
        "https://sw:9443",
        "endpoint",
        "provision",
        "web1",
        "--interface",
        "w",
        "--address",
        "192.0.2.1",
    ];
    let line = parse(&words).expect("parses");
    assert_eq!(line.globals.address.as_deref(), Some("https://sw:9443"));
    let Command::Endpoint(portcullis_cli::args::EndpointCommand::Provision(args)) = line.command else {
        panic!("not provision")
    };
    assert_eq!(endpoint(&args).addresses, ["192.0.2.1"]);
    assert_eq!(endpoint(&args).source_guard, Some(true));
}

#[test]
fn output_comes_anywhere() {
    assert_eq!(
        parse(&["-o", "json", "status"]).expect("parses").globals.output,
        Output::Json
    );
    assert_eq!(
        parse(&["status", "-o", "yaml"]).expect("parses").globals.output,
        Output::Yaml
    );
}

fn explain(words: &[&str]) -> Result<v1::ExplainRequest, Misuse> {
    let words: Vec<&str> = ["explain", "web1"]
        .into_iter()
        .chain(words.iter().copied())
        .collect();
    let Command::Explain(args) = parse(&words).expect("parses").command else {
        unreachable!("not explain")
    };
    request(&args)
}

#[test]
fn packets_to_explain() {
    let tcp = explain(&[
        "egress",
        "tcp/25",
        "--remote",
        "2001:db8::1",
        "--source-port",
        "9",
        "--established",
    ]);
    assert_eq!(
        tcp,
        Ok(v1::ExplainRequest {
            endpoint: "web1".into(),
            direction: v1::Direction::Egress.into(),
            protocol: "tcp".into(),
            remote: "2001:db8::1".into(),
            local: String::new(),
            port: 25,
            source_port: Some(9),
            icmp: None,
            established: true,
            ip: 6,
        })
    );
    let echo = explain(&["ingress", "icmpv6"]).expect("is a packet");
    assert_eq!(
        (echo.icmp, echo.ip),
        (
            Some(v1::IcmpMatch {
                r#type: 128,
                code: Some(0)
            }),
            6
        )
    );
    let unreachable =
        explain(&["ingress", "icmp", "--icmp-type", "3", "--icmp-code", "1"]).expect("is a packet");
    assert_eq!(
        unreachable.icmp,
        Some(v1::IcmpMatch {
            r#type: 3,
            code: Some(1)
        })
    );
    assert_eq!(
        explain(&["egress", "47"]).map(|r| (r.protocol, r.ip)),
        Ok(("gre".to_string(), 0))
    );
}

#[test]
fn packets_that_cannot_be() {
    use portcullis_policy::Family::{V4, V6};
    assert_eq!(
        explain(&["egress", "udp/53", "--established"]),
        Err(Misuse::Established)
    );
    assert_eq!(
        explain(&["egress", "icmp", "--source-port", "1"]),
        Err(Misuse::SourcePort)
    );
    assert_eq!(
        explain(&["egress", "tcp/1", "--icmp-type", "1"]),
        Err(Misuse::IcmpType)
    );
    assert_eq!(
        explain(&["egress", "icmp", "--remote", "2001:db8::1"]),
        Err(Misuse::Families(V6, V4))
    );
    assert_eq!(
        explain(&["egress", "tcp/1", "--remote", "192.0.2.1", "--ip", "6"]),
        Err(Misuse::Families(V4, V6))
    );
}

#[test]
fn the_reference_names_every_command_and_option() {
    let reference = markdown(root());
    for command in root().get_subcommands().filter(|c| !c.is_hide_set()) {
        let heading = format!("\n## `portcullis {}`\n", command.get_name());
        assert!(reference.contains(&heading), "{heading}");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(reference.contains(&format!("--{option}")), "{option}");
        }
    }
    for line in [
        "- `--prune[=<BOOL>]`: ",
        "- `-f, --file <FILE>`: ",
        "- `<ENDPOINT>`: Name of the endpoint.",
        "- `[ENDPOINT]`: Only rules that hold for this endpoint.",
        " Default: `/run/portcullis/agent.sock`. Environment: `PORTCULLIS_SOCKET`.\n",
        "  4  the agent cannot be reached\n",
        "\n```text\nportcullis endpoint provision [OPTIONS] <NAME>\n```\n",
    ] {
        assert!(reference.contains(line), "{line}\n{reference}");
    }
}

#[tokio::test]
async fn completions_complete() {
    let ran = run_offline(&["completions", "bash"]).await;
    assert_eq!(ran.exit, Exit::Done);
    assert!(ran.out.contains("portcullis__subcmd__explain") || ran.out.contains("portcullis__explain"));
}

use std::path::Path;
use std::time::Duration;

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(Path::new("agent.toml"), text)
}

/// The error of a configuration: `line path problem`.
fn refused(text: &str) -> String {
    read(text).expect_err("was accepted").to_string()
}

#[test]
fn the_example_says_what_holds_by_default() {
    assert_eq!(read(EXAMPLE).unwrap(), read("").unwrap());
}

#[test]
fn every_setting_of_the_example_exists() {
    // A comment that shows a setting has no blank behind its `#`.
    let shown: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .filter(|line| *line != "insecure = false")
        .collect();
    let config = read(&shown.join("\n")).unwrap();
    let Targets::Configured(targets) = config.targets else {
        panic!("no target")
    };
    assert_eq!(targets[0].cookie, 0x5043);
    assert_eq!(
        config.api.tcp.unwrap().tls.unwrap().client_ca.unwrap(),
        Path::new("/etc/portcullis/tls/clients.crt")
    );
}

#[test]
fn unknown_settings_are_refused_by_name_and_line() {
    assert!(refused("[api]\nsockt = \"/x\"\n").starts_with("agent.toml:2: api.sockt: unknown field `sockt`"));
    assert!(
        refused("[[target]]\nname = \"a\"\nkind = \"ovs\"\nbrigde = \"b\"\n")
            .starts_with("agent.toml:4: target[0]")
    );
    assert!(refused("speed = 1\n").contains("unknown field `speed`"));
    assert!(refused("[api\n").starts_with("agent.toml:1:"));
}

#[test]
fn tcp_needs_tls() {
    let text = |address: &str, more: &str| format!("[api]\nlisten = \"{address}\"\n{more}");
    assert!(refused(&text("192.0.2.1:1", "")).contains("api.listen: needs [api.tls]"));
    assert!(refused(&text("192.0.2.1:1", "insecure = true")).contains("not a loopback address"));
    assert!(refused(&text("127.0.0.1:1", "")).contains("insecure = true does without"));
    assert!(
        read(&text("127.0.0.1:1", "insecure = true"))
            .unwrap()
            .api
            .tcp
            .unwrap()
            .tls
            .is_none()
    );
    let tls = "[api.tls]\ncert = \"c\"\nkey = \"k\"\n";
    assert!(refused(&text("192.0.2.1:1", tls)).starts_with("agent.toml:3: api.tls.client_ca: is missing"));
    assert!(read(&text("127.0.0.1:1", tls)).is_ok());
    assert!(read(&text("192.0.2.1:1", &format!("{tls}client_ca = \"a\"\n"))).is_ok());
    assert!(refused(tls).contains("only used with api.listen"));
    assert!(refused("[api]\ninsecure = true\n").contains("api.insecure: contradicts"));
}

#[test]
fn targets_are_checked() {
    let target = |more: &str| format!("[[target]]\nname = \"a\"\nkind = \"ovs\"\n{more}\n");
    let Targets::Configured(targets) = read(&target(
        "first_table = 20\nfinal = { goto_table = 40 }\nresync_interval = \"500s\"\nuplinks = [\"up*\"]",
    ))
    .unwrap()
    .targets
    else {
        panic!("no target")
    };
    assert_eq!(targets[0].final_action, FinalAction::GotoTable(40));
    assert_eq!(targets[0].resync_interval, Duration::from_secs(500));
    for (bad, why) in [
        ("first_table = 250", "target[0].first_table: is too high"),
        (
            "final = { goto_table = 3 }",
            "target[0].final: table 3 cannot follow",
        ),
        ("final = \"drop\"", "target[0].final: `drop` is not an action"),
        (
            "resync_interval = \"10\"",
            "target[0].resync_interval: `10` is not a duration",
        ),
        (
            "resync_interval = \"10ms\"",
            "target[0].resync_interval: is too short",
        ),
        (
            "ovsdb = \"/run/db.sock\"",
            "target[0].ovsdb: `/run/db.sock` is not an OVSDB address",
        ),
        ("uplinks = [\"\"]", "target[0].uplinks[0]: is empty"),
        ("bridge = \"\"", "target[0].bridge: is empty"),
    ] {
        let error = refused(&target(bad));
        assert!(
            error.starts_with("agent.toml:4: ") && error.contains(why),
            "{bad}: {error}"
        );
    }
    assert!(
        refused("[[target]]\nname = \"a\"\nkind = \"bmv2\"\n")
            .contains("target[0].kind: `bmv2` is not in this version")
    );
    let twice = format!("{}{}", target(""), target(""));
    assert!(refused(&twice).contains("target[1].name: `a` is the name of another target"));
    let same = format!("{}{}", target(""), target("").replace("\"a\"", "\"b\""));
    assert!(refused(&same).contains("target[1]: is the same bridge as target `a`"));
}

#[test]
fn the_rest_is_checked() {
    for (bad, why) in [
        ("[log]\nfilter = \"a=b=c\"", "log.filter: is not a filter"),
        ("[log]\nformat = \"xml\"", "log.format: unknown variant"),
        ("[limits]\nwatchers = 0", "limits.watchers"),
        ("[limits]\nmessage_mib = 5000", "limits.message_mib: is too large"),
        (
            "[api]\nsocket = \"agent.sock\"",
            "api.socket: is not an absolute path",
        ),
        (
            "[api]\nsocket_mode = \"0999\"",
            "api.socket_mode: `0999` is not a mode",
        ),
    ] {
        let error = refused(bad);
        assert!(
            error.starts_with("agent.toml:2: ") && error.contains(why),
            "{bad}: {error}"
        );
    }
}

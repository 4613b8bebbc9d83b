use std::path::Path;
use std::time::Duration;

use portcullis_ovs::{FailMode, FinalAction};

use super::Role;
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
    let TargetsConfig::Configured(targets) = config.targets else {
        panic!("no target")
    };
    let [
        AnyTarget::Ovs(ovs),
        AnyTarget::P4Runtime(tor),
        AnyTarget::P4Runtime(switch),
    ] = targets.as_slice()
    else {
        panic!("one of each kind")
    };
    assert!(switch.embedded.is_some() && tor.embedded.is_none());
    assert_eq!(ovs.cookie, 0x5043);
    assert_eq!(
        (tor.address.as_str(), tor.uplinks.as_slice()),
        ("127.0.0.1:9559", [9].as_slice())
    );
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
fn clients_without_certificates_need_tokens() {
    let text = |address: &str, tls: &str, rest: &str| {
        format!("[api]\nlisten = \"{address}:1\"\n[api.tls]\ncert = \"c\"\nkey = \"k\"\n{tls}\n{rest}")
    };
    let token = format!(
        "[[access.token]]\nname = \"t\"\nsha256 = \"{}\"\nrole = \"viewer\"\n",
        "0a".repeat(32)
    );
    let ca = "client_ca = \"a\"";
    let optional = "client_ca = \"a\"\nclient_auth = \"optional\"";
    assert!(read(&text("192.0.2.1", "", &token)).is_ok());
    assert!(refused(&text("192.0.2.1", "", "[access]")).contains("api.tls.client_ca: is missing"));
    let auth = |text: &str| read(text).unwrap().api.tcp.unwrap().tls.unwrap().client_auth;
    assert_eq!(auth(&text("192.0.2.1", ca, "")), ClientAuth::Required);
    assert_eq!(auth(&text("192.0.2.1", optional, &token)), ClientAuth::Optional);
    assert_eq!(auth(&text("127.0.0.1", optional, "")), ClientAuth::Optional);
    assert!(
        refused(&text("192.0.2.1", optional, "[access]"))
            .starts_with("agent.toml:7: api.tls.client_auth: cannot be")
    );
    let alone = "client_auth = \"required\"";
    assert!(
        refused(&text("127.0.0.1", alone, "")).starts_with("agent.toml:6: api.tls.client_auth: goes with")
    );
    let wrong = "client_ca = \"a\"\nclient_auth = \"maybe\"";
    assert!(refused(&text("127.0.0.1", wrong, "")).contains("api.tls.client_auth: unknown variant"));
}

#[test]
fn access_is_checked() {
    let access = read("").unwrap().access;
    assert_eq!(access, None, "without the section nobody is told from anybody");
    let access = read("[access]\n").unwrap().access.unwrap();
    assert_eq!((access.others, access.tenant_label.as_str()), (None, "tenant"));
    assert_eq!(
        access.rates.of(Role::Tenant),
        Some(Rate {
            per_second: 10,
            burst: 20
        })
    );
    assert_eq!(access.rates.of(Role::Operator), None);
    let rate = |text: &str, role| read(text).unwrap().access.unwrap().rates.of(role);
    assert_eq!(
        rate("[access.rate.tenant]\nrequests_per_second = 0\n", Role::Tenant),
        None
    );
    assert_eq!(
        rate("[access.rate.viewer]\nrequests_per_second = 3\n", Role::Viewer).map(|r| r.burst),
        Some(6)
    );
    let digest = "0a".repeat(32);
    let token = |name: &str, sha256: &str| {
        format!("[[access.token]]\nsha256 = \"{sha256}\"\nname = \"{name}\"\nrole = \"viewer\"\n")
    };
    for (bad, line, why) in [
        (
            "[access]\nothers = \"tenant\"".to_string(),
            2,
            "access.others: cannot be",
        ),
        (
            "[access]\nothers = \"root\"".to_string(),
            2,
            "access.others: unknown variant `root`",
        ),
        (
            "[access]\ntenant_label = \"\"".to_string(),
            2,
            "access.tenant_label: is empty",
        ),
        (
            "[[access.user]]\nrole = \"viewer\"".to_string(),
            1,
            "access.user[0]: needs one of",
        ),
        (
            "[[access.user]]\nuid = 1\nuser = \"a\"\nrole = \"viewer\"".to_string(),
            1,
            "access.user[0]: needs one of",
        ),
        (
            "[[access.user]]\nuid = 1\nrole = \"tenant\"".to_string(),
            3,
            "access.user[0].tenant: is missing",
        ),
        (
            "[[access.user]]\nuid = 1\nrole = \"viewer\"\ntenant = \"a\"".to_string(),
            4,
            "access.user[0].tenant: is for role",
        ),
        (
            "[[access.user]]\nuid = 1\nrole = \"tenant\"\ntenant = \"*\"".to_string(),
            4,
            "access.user[0].tenant: is \"*\"",
        ),
        (
            "[[access.certificate]]\nsan = \"a.*\"\nrole = \"viewer\"".to_string(),
            2,
            "access.certificate[0].san: `a.*` has a *",
        ),
        (
            "[[access.certificate]]\nsan = \"a.b\"\nrole = \"tenant\"\ntenant = \"*\"".to_string(),
            4,
            "access.certificate[0].tenant: is \"*\"",
        ),
        (token("a", "secret"), 2, "access.token[0].sha256: is no SHA-256"),
        (token("a b", &digest), 3, "access.token[0].name"),
        (
            token("a", &digest) + &token("a", &"0b".repeat(32)),
            7,
            "access.token[1].name: is the name",
        ),
        (
            token("a", &digest) + &token("b", &digest.to_uppercase()),
            6,
            "access.token[1].sha256: is that",
        ),
        (
            "[access.rate.tenant]\nrequests_per_second = 1\nburst = 0".to_string(),
            3,
            "access.rate.tenant.burst: is 0",
        ),
        (
            "[access.rate.everybody]\nburst = 1".to_string(),
            1,
            "access.rate.everybody: unknown field",
        ),
        (
            "[access]\nother = \"viewer\"".to_string(),
            2,
            "access.other: unknown field",
        ),
    ] {
        let error = refused(&bad);
        assert!(
            error.starts_with(&format!("agent.toml:{line}: ")) && error.contains(why),
            "{bad}: {error}"
        );
        assert!(!error.contains("secret"), "a token is not repeated: {error}");
    }
}

#[test]
fn targets_are_checked() {
    let target = |more: &str| format!("[[target]]\nname = \"a\"\nkind = \"ovs\"\n{more}\n");
    let TargetsConfig::Configured(targets) = read(&target(
        "first_table = 20\nfinal = { goto_table = 40 }\nresync_interval = \"500s\"\nuplinks = [\"up*\"]\nfail_mode = \
         \"secure\"\nlearned_macs = 0\ncontrol_socket = \"/run/x.ctl\"",
    ))
    .unwrap()
    .targets
    else {
        panic!("no target")
    };
    let AnyTarget::Ovs(ovs) = &targets[0] else {
        panic!("no bridge")
    };
    assert_eq!(ovs.final_action, FinalAction::GotoTable(40));
    assert_eq!(ovs.resync_interval, Duration::from_secs(500));
    assert_eq!(
        (ovs.fail_mode, ovs.learned_macs, ovs.allow_interruption),
        (FailMode::Secure, 0, false)
    );
    assert_eq!(ovs.control_socket.as_deref(), Some(Path::new("/run/x.ctl")));
    for (bad, why) in [
        ("first_table = 250", "target[0].first_table: is too high"),
        (
            "final = { goto_table = 3 }",
            "target[0].final: table 3 cannot follow",
        ),
        ("final = \"drop\"", "target[0].final: `drop` is not an action"),
        (
            "fail_mode = \"open\"",
            "unknown variant `open`, expected `keep` or `secure`",
        ),
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
            .contains("target[0].kind: `bmv2` is no kind of target")
    );
    let twice = format!("{}{}", target(""), target(""));
    assert!(refused(&twice).contains("target[1].name: `a` is the name of another target"));
    let same = format!("{}{}", target(""), target("").replace("\"a\"", "\"b\""));
    assert!(refused(&same).contains("target[1]: is the same bridge as target `a`"));
}

#[test]
fn p4runtime_targets_are_checked() {
    let target = |more: &str| format!("[[target]]\nname = \"a\"\nkind = \"p4runtime\"\n{more}\n");
    let address = "address = \"tor:9559\"\n";
    let TargetsConfig::Configured(targets) =
        read(&target(&format!("{address}uplinks = [49]\nservers = [1, 2]")))
            .unwrap()
            .targets
    else {
        panic!("no target")
    };
    let AnyTarget::P4Runtime(tor) = &targets[0] else {
        panic!("no device")
    };
    assert_eq!(tor.program, P4Program::Portcullis { range: true });
    assert_eq!(
        (tor.device_id, tor.election_id, tor.overwrite_pipeline),
        (1, 1, false)
    );
    assert!(refused(&target("")).contains("target[0].address: is missing"));
    for (bad, why) in [
        ("address = \"tor\"", "target[0].address: `tor` is no address"),
        ("device_id = 0", "target[0].device_id: is 0"),
        ("election_id = 0", "target[0].election_id: is 0"),
        ("program = \"basic\"", "target[0].program: `basic` is no program"),
        (
            "mapping = \"m.toml\"",
            "target[0].mapping: goes with program = \"device\"",
        ),
        (
            "accept = [\"ip-options\"]",
            "target[0].accept[0]: goes with the mapping of a partial point",
        ),
        (
            "accept = [\"everything\"]",
            "target[0].accept[0]: `everything` is not one of `later-fragments`,",
        ),
        (
            "on_gap = \"report\"",
            "target[0].on_gap: goes with program = \"device\"",
        ),
        (
            "on_gap = \"ignore\"",
            "target[0].on_gap: `ignore` is neither \"refuse\" nor \"report\"",
        ),
        ("max_rows = 0", "target[0].max_rows: is 0"),
        (
            "reserve = 8\nmax_rows = 8",
            "target[0].reserve: leaves nothing of the 8 rows of max_rows",
        ),
        ("uplinks = [\"eth0\"]", "target[0].uplinks[0]: is no port"),
        (
            "bridge = \"br0\"",
            "target[0].bridge: is a setting of kind = \"ovs\"",
        ),
        (
            "tls = { ca = \"a\", cert = \"c\" }",
            "target[0].tls.key: is missing",
        ),
    ] {
        let rest = if bad.starts_with("address") { "" } else { address };
        let error = refused(&target(&format!("{bad}\n{rest}")));
        assert!(
            error.starts_with("agent.toml:4: ") && error.contains(why),
            "{bad}: {error}"
        );
    }
    let both = "program = \"device\"\noverwrite_pipeline = true\n";
    assert!(refused(&target(&format!("{address}{both}"))).contains("contradicts program"));
    let two = format!("{address}uplinks = [1]\nservers = [1]\n");
    assert!(refused(&target(&two)).contains("target[0].servers[0]: is an uplink, too"));
    let twice = format!("{}{}", target(address), target(address).replace("\"a\"", "\"b\""));
    assert!(refused(&twice).contains("target[1]: is the same device as target `a`"));
    let ovs = "[[target]]\nname = \"a\"\nkind = \"ovs\"\ndevice_id = 3\n";
    assert!(refused(ovs).contains("target[0].device_id: is a setting of kind = \"p4runtime\""));
}

#[test]
fn embedded_targets_are_checked() {
    let target = |more: &str| format!("[[target]]\nname = \"a\"\nkind = \"embedded\"\n{more}\n");
    let one = |more: &str| {
        let TargetsConfig::Configured(targets) = read(&target(more)).unwrap().targets else {
            panic!("no target")
        };
        let AnyTarget::P4Runtime(switch) = &targets[0] else {
            panic!("no device")
        };
        switch.as_ref().clone()
    };
    let bare = one("uplinks = [9]\nservers = [1]");
    assert_eq!(
        bare.embedded, None,
        "without ports it is somebody else's to start"
    );
    assert_eq!(bare.address, "unix:/run/portcullis-switch/p4runtime.sock");
    let switch = one(
        "ports = [\"1=null\", \"2=tap:vm0\", \"9=ring\"]\nuplinks = [9]\ncores = [0, 1]\nbusy = true\naddress = \"unix:/x\"\n\
         offload = { accept = [\"encapsulation\"], rules = 64 }",
    );
    assert_eq!((switch.uplinks, switch.servers), (vec![9], vec![1, 2]));
    let embedded = switch.embedded.unwrap();
    assert!(embedded.outlives_agent);
    let arguments = "--grpc unix:/x --port 1=null --port 2=tap:vm0 --port 9=ring --cores 0,1 --busy \
                     --offload-accept encapsulation --offload-rules 64";
    assert_eq!(embedded.arguments.join(" "), arguments);
    for (bad, why) in [
        ("ports = [\"eth0\"]", "target[0].ports[0]: `eth0` is no port"),
        (
            "ports = [\"1=null\", \"1=ring\"]",
            "target[0].ports[1]: is the second port",
        ),
        (
            "ports = [\"1=null\"]\nuplinks = [2]",
            "target[0].uplinks[0]: is none of the numbers",
        ),
        (
            "address = \"tor:9559\"",
            "target[0].address: `tor:9559` is no socket",
        ),
        (
            "device_id = 2",
            "target[0].device_id: is a setting of kind = \"p4runtime\"",
        ),
        (
            "bridge = \"br0\"",
            "target[0].bridge: is a setting of kind = \"ovs\"",
        ),
        (
            "offload = { accept = [\"everything\"] }",
            "unknown variant `everything`",
        ),
    ] {
        let error = refused(&target(bad));
        assert!(error.contains(why), "{bad}: {error}");
    }
    for kind in ["ovs", "p4runtime"] {
        let other = format!("[[target]]\nname = \"a\"\nkind = \"{kind}\"\nports = [\"1=null\"]\n");
        assert!(refused(&other).contains("target[0].ports: is a setting of kind = \"embedded\""));
    }
    assert!(refused("[[target]]\nname = \"a\"\nkind = \"vpp\"\n").contains("\"embedded\""));
}

#[test]
fn the_rest_is_checked() {
    for (bad, why) in [
        ("[log]\nfilter = \"a=b=c\"", "log.filter: is not a filter"),
        ("[log]\nformat = \"xml\"", "log.format: unknown variant"),
        ("[limits]\nwatchers = 0", "limits.watchers"),
        ("[limits]\ntenant_requests = 0", "limits.tenant_requests"),
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

#[test]
fn tokens_of_an_identity_provider() {
    let text = |more: &str| {
        format!(
            "[access.oidc]\nissuer = \"https://id\"\naudience = \"a\"\n{more}[[access.oidc.role]]\nvalue = \"x\"\nrole = \"viewer\"\n"
        )
    };
    let oidc = |more: &str| read(&text(more)).unwrap().access.unwrap().oidc.unwrap();
    let plain = oidc("jwks = \"https://id/keys\"\n");
    assert_eq!(plain.algorithms, Algorithm::ALL);
    let KeySource::Https(url, ca) = &plain.keys.source else {
        panic!("{:?}", plain.keys.source)
    };
    assert_eq!(
        (url.as_str(), ca.as_path()),
        ("https://id/keys", Path::new("/etc/ssl/certs/ca-certificates.crt"))
    );
    assert_eq!(
        oidc("jwks = \"/keys\"\n").keys.source,
        KeySource::File("/keys".into())
    );
    for (more, problem) in [
        ("", "missing field `jwks`"),
        (
            "jwks = \"http://id/keys\"\n",
            "access.oidc.jwks: is neither an https address nor a file",
        ),
        (
            "jwks = \"https://ann:x@id/keys\"\n",
            "access.oidc.jwks: has a user in it",
        ),
        (
            "jwks = \"/keys\"\nca = \"/ca\"\n",
            "access.oidc.ca: goes with an https address",
        ),
        (
            "jwks = \"/keys\"\nalgorithms = [\"HS256\"]\n",
            "unknown variant `HS256`",
        ),
        (
            "jwks = \"/keys\"\nalgorithms = [\"none\"]\n",
            "unknown variant `none`",
        ),
        (
            "jwks = \"/keys\"\nalgorithms = []\n",
            "access.oidc.algorithms: is empty",
        ),
        (
            "jwks = \"/keys\"\nmax_age = \"1m\"\n",
            "access.oidc.max_age: is shorter than refresh",
        ),
        (
            "jwks = \"/keys\"\nrefresh = \"0s\"\n",
            "access.oidc.refresh: is too short",
        ),
        (
            "jwks = \"/keys\"\nrole_claim = \"\"\n",
            "access.oidc.role_claim: is empty",
        ),
    ] {
        let refusal = refused(&text(more));
        assert!(refusal.contains(problem), "{more}: {refusal}");
    }
    let none = "[access.oidc]\nissuer = \"i\"\naudience = \"a\"\njwks = \"/k\"\n";
    assert!(refused(none).contains("access.oidc.role: is missing"));
    // Such tokens are credentials, as others are.
    let open = format!(
        "[api]\nlisten = \"192.0.2.1:1\"\n[api.tls]\ncert = \"c\"\nkey = \"k\"\n{}",
        text("jwks = \"/k\"\n")
    );
    assert!(read(&open).is_ok());
}

#[test]
fn revocation_lists_go_with_an_authority() {
    let text = |ca: &str| {
        format!(
            "[api]\nlisten = \"127.0.0.1:1\"\n[api.tls]\ncert = \"c\"\nkey = \"k\"\n{ca}client_crls = [\"a\", \"b\"]\n"
        )
    };
    assert!(refused(&text("")).contains("api.tls.client_crls: goes with client_ca"));
    let tls = read(&text("client_ca = \"ca\"\n"))
        .unwrap()
        .api
        .tcp
        .unwrap()
        .tls
        .unwrap();
    assert_eq!(tls.client_crls, [Path::new("a"), Path::new("b")]);
}

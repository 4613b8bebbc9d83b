//! What the settings of an Open vSwitch cost policy traffic, and the command that changes them. Pure.
//!
//! Nothing here advises what newer releases removed (AVX-512 look-ups), and nothing is changed.

use portcullis_backend::{Check, Cost};
use portcullis_ovsdb::{Bridge, Datapath, Switch};

/// Entries of the exact match cache of one polling thread (`EM_FLOW_HASH_ENTRIES`, lib/dpif-netdev-private-dfc.h).
const EXACT_MATCH_ENTRIES: u64 = 8192;
/// A flow table that is fuller than this, in percent, is about to be full.
const NEARLY_FULL: u64 = 90;

/// Flows that are cached at most, where `other_config:flow-limit` is not set (ovs-vswitchd.conf.db(5)).
const FLOW_LIMIT: u64 = 200_000;

/// What the daemon itself said, or why it could not be asked.
pub(crate) type Daemon<'a> = Result<&'a Said, &'a str>;

/// Answers of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its release, such as `3.1.0`.
    pub(crate) version: String,
    /// What `upcall/show` printed: a block for each datapath, with `(current N)` and `(limit N)`.
    pub(crate) upcalls: String,
}

/// Everything that is looked at, in a fixed order.
pub(crate) fn checks(switch: &Switch, bridge: &Bridge, daemon: Daemon<'_>) -> Vec<Check> {
    let datapath = bridge.datapath();
    let mut list = vec![fail_mode(bridge), vlan_limit(switch), offload(switch, &datapath)];
    match daemon {
        Ok(said) => {
            list.extend(releases(&said.version, &datapath));
            let flows = Flows::read(&said.upcalls, &datapath);
            list.push(flow_limit(switch, flows));
            if datapath == Datapath::Userspace {
                list.push(exact_match_cache(switch, flows));
            }
        }
        Err(why) => list.extend(["release", "flow limit"].map(|name| Check::unknown(name, why))),
    }
    if datapath == Datapath::Userspace {
        list.push(polling_cores(switch));
    }
    list
}

fn setting<'a>(switch: &'a Switch, name: &str) -> Option<&'a str> {
    switch.other_config.get(name).map(String::as_str)
}

fn set(name: &str, value: &str) -> String {
    format!("ovs-vsctl set Open_vSwitch . other_config:{name}={value}")
}

fn fail_mode(bridge: &Bridge) -> Check {
    const NAME: &str = "fail mode";
    match bridge.fail_mode.as_deref() {
        Some("secure") => Check::fine(NAME, "secure: without rows the bridge drops"),
        other => Check::costs(
            NAME,
            Cost::Safety,
            format!(
                "{}: after a start of ovs-vswitchd the bridge passes every packet until the agent has written its rows",
                other.unwrap_or("standalone")
            ),
            "set `fail_mode = \"secure\"` in the [[target]] section",
        ),
    }
}

fn vlan_limit(switch: &Switch) -> Check {
    const NAME: &str = "VLAN limit";
    match setting(switch, "vlan-limit").unwrap_or("1") {
        "1" => Check::fine(
            NAME,
            "1: frames with two VLAN tags are dropped from and to trunks that deny anything",
        ),
        limit => Check::fine(
            NAME,
            format!(
                "{limit}: two VLAN tags are looked behind; frames with a priority tag are dropped from endpoints without `vlan: any`"
            ),
        ),
    }
}

fn offload(switch: &Switch, datapath: &Datapath) -> Check {
    const NAME: &str = "offload";
    let on = setting(switch, "hw-offload") == Some("true");
    let policy = setting(switch, "tc-policy").unwrap_or("none");
    match (on, datapath, policy) {
        (false, ..) => Check::costs(
            NAME,
            Cost::Speed,
            "off: software forwards every packet, also where the NIC could",
            format!(
                "{}, and restart ovs-vswitchd; only for NICs that take flow rules, and `portcullis offload` shows what they take",
                set("hw-offload", "true")
            ),
        ),
        (true, Datapath::Kernel, "skip_hw") => Check::costs(
            NAME,
            Cost::Speed,
            "on, but tc-policy=skip_hw keeps every flow from the NIC: tc forwards in software",
            "ovs-vsctl remove Open_vSwitch . other_config tc-policy, and restart ovs-vswitchd",
        ),
        (true, ..) => Check::fine(NAME, "on; `portcullis offload` shows which flows the NIC took"),
    }
}

/// A fault of releases that bears on policies.
struct Fault {
    what: &'static str,
    /// The first releases without it, one of each series; later series have none.
    fixed: &'static [[u32; 3]],
    userspace_only: bool,
    /// The Debian 12 package that has the fix under an older number.
    debian: Option<&'static str>,
    cost: Cost,
}

/// Two faults of the masks of cached flows were fixed in the same releases.
const MASKS_FIXED: &[[u32; 3]] = &[
    [2, 13, 11],
    [2, 14, 9],
    [2, 15, 8],
    [2, 16, 7],
    [2, 17, 6],
    [3, 0, 4],
    [3, 1, 1],
];

const FAULTS: &[Fault] = &[
    Fault {
        what: "CVE-2023-1668: one IP packet of protocol 0 can make the switch treat packets of every protocol alike",
        fixed: MASKS_FIXED,
        userspace_only: false,
        debian: Some("3.1.0-2"),
        cost: Cost::Safety,
    },
    Fault {
        what: "cached flows may lack the mask of ports (\"missing masks on a final stage with ports trie\"): packets to other ports then have \
               the same verdict",
        fixed: MASKS_FIXED,
        userspace_only: false,
        debian: Some("3.1.0-2+deb12u1"),
        cost: Cost::Safety,
    },
    Fault {
        what: "a change may update the wrong one of two overlapping cached flows; the agent purges all of them after each change, which \
               costs slow-path look-ups",
        fixed: &[[2, 17, 8], [3, 0, 5], [3, 1, 3]],
        userspace_only: true,
        debian: None,
        cost: Cost::Speed,
    },
];

impl Fault {
    /// The release of a series that fixed it, where this release is older.
    fn fix(&self, [major, minor, patch]: [u32; 3]) -> Option<String> {
        let [newest_major, newest_minor, _] = *self.fixed.last()?;
        if (major, minor) > (newest_major, newest_minor) {
            return None;
        }
        let same = self.fixed.iter().find(|f| (f[0], f[1]) == (major, minor));
        match same {
            Some(fixed) if patch >= fixed[2] => None,
            Some([major, minor, patch]) => Some(format!("{major}.{minor}.{patch}")),
            None => {
                let next = self.fixed.iter().find(|f| (f[0], f[1]) > (major, minor))?;
                Some(format!("{}.{}.{}", next[0], next[1], next[2]))
            }
        }
    }
}

fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits)?.parse().ok()
    });
    Some([
        parts.next()??,
        parts.next()??,
        parts.next().flatten().unwrap_or(0),
    ])
}

fn releases(version: &str, datapath: &Datapath) -> Vec<Check> {
    const NAME: &str = "release";
    let Some(release) = numbers(version) else {
        return vec![Check::unknown(NAME, format!("`{version}` is no release number"))];
    };
    let mut list = Vec::new();
    for fault in FAULTS {
        if fault.userspace_only && *datapath != Datapath::Userspace {
            continue;
        }
        let Some(fixed) = fault.fix(release) else { continue };
        let what = format!("{version}: {}", fault.what);
        list.push(match fault.debian {
            // The agent works round it in any release that has the number.
            None => Check::costs(NAME, fault.cost, what, format!("upgrade to {fixed}")),
            // A package may have the fix under the older number, which is all that the daemon says.
            Some(package) => Check::unknown(
                NAME,
                format!("{what}. Fixed in {fixed}, in Debian 12 in package version {package}; other packages may have the fix, too"),
            ),
        });
    }
    if list.is_empty() {
        list.push(Check::fine(
            NAME,
            format!("{version}: no fault is known that bears on policies"),
        ));
    }
    list
}

/// `(current 7) (avg 10) (max 207) (limit 200000)` of `upcall/show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flows {
    current: u64,
    limit: u64,
}

impl Flows {
    /// The counts of one datapath, under its heading.
    fn read(text: &str, datapath: &Datapath) -> Option<Flows> {
        let heading = match datapath {
            Datapath::Userspace => "netdev@",
            Datapath::Kernel => "system@",
            Datapath::Other(_) => return None,
        };
        let mut lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
        let line = lines.find(|line| line.trim_start().starts_with("flows "))?;
        let number = |name: &str| {
            let rest = line.split_once(&format!("({name} "))?.1;
            rest.split(')').next()?.trim().parse().ok()
        };
        Some(Flows {
            current: number("current")?,
            limit: number("limit")?,
        })
    }
}

fn flow_limit(switch: &Switch, flows: Option<Flows>) -> Check {
    const NAME: &str = "flow limit";
    let Some(Flows { current, limit }) = flows else {
        return Check::unknown(NAME, "`upcall/show` of ovs-vswitchd has no line of flows");
    };
    let ceiling = setting(switch, "flow-limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(FLOW_LIMIT);
    let is_full = current.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL);
    let full =
        format!("{current} of {limit} flows are cached: packets of further flows are looked up one by one");
    match is_full {
        true if limit >= ceiling => {
            let more = ceiling.saturating_mul(2).to_string();
            Check::costs(NAME, Cost::Speed, full, set("flow-limit", &more))
        }
        // It begins with 10,000 and goes up and down with the time that checking all flows takes.
        true => Check::costs(
            NAME,
            Cost::Speed,
            format!("{full}; ovs-vswitchd sets this limit by itself, up to {ceiling}"),
            format!("where it stays low: {}", set("n-revalidator-threads", "N")),
        ),
        false => Check::fine(
            NAME,
            format!("{current} of {limit} flows are cached; at most {ceiling}"),
        ),
    }
}

fn exact_match_cache(switch: &Switch, flows: Option<Flows>) -> Check {
    const NAME: &str = "signature cache";
    let on = setting(switch, "smc-enable") == Some("true");
    let current = flows.map_or(0, |flows| flows.current);
    if current > EXACT_MATCH_ENTRIES && !on {
        return Check::costs(
            NAME,
            Cost::Speed,
            format!(
                "off, and {current} flows are cached: the exact match cache of a polling thread holds {EXACT_MATCH_ENTRIES} connections"
            ),
            set("smc-enable", "true"),
        );
    }
    let how = match on {
        true => "on".to_string(),
        false => format!("off; it helps with more than {EXACT_MATCH_ENTRIES} cached flows"),
    };
    Check::fine(NAME, how)
}

fn polling_cores(switch: &Switch) -> Check {
    const NAME: &str = "polling cores";
    match setting(switch, "pmd-cpu-mask") {
        Some(mask) => Check::fine(NAME, format!("pmd-cpu-mask={mask}")),
        None => Check::costs(
            NAME,
            Cost::Speed,
            "pmd-cpu-mask is not set: one core of each NUMA node polls, the lowest, which the system uses, too",
            set("pmd-cpu-mask", "MASK"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portcullis_backend::Outcome;

    use super::*;

    const SHOWN: &str = "netdev@ovs-netdev:\n  flows         : (current 9000) (avg 10) (max 207) (limit 10000)\n  dump duration : 1ms\n\
                         system@ovs-system:\n  flows         : (current 3) (avg 1) (max 3) (limit 10000)\n";

    fn looked_at(
        datapath_type: &str,
        settings: &[(&str, &str)],
        version: &str,
    ) -> BTreeMap<&'static str, Vec<Outcome>> {
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let switch = Switch {
            other_config: settings.collect(),
            ..Switch::default()
        };
        let bridge = Bridge {
            datapath_type: datapath_type.to_string(),
            ..Bridge::default()
        };
        let said = Said {
            version: version.to_string(),
            upcalls: SHOWN.to_string(),
        };
        let mut by_name: BTreeMap<_, Vec<Outcome>> = BTreeMap::new();
        for check in checks(&switch, &bridge, Ok(&said)) {
            by_name.entry(check.name).or_default().push(check.outcome);
        }
        by_name
    }

    fn costs(outcomes: &[Outcome]) -> Vec<(Cost, &str)> {
        let cost = |outcome| match outcome {
            &Outcome::Costs { cost, ref what, .. } => Some((cost, what.as_str())),
            _ => None,
        };
        outcomes.iter().filter_map(cost).collect()
    }

    #[test]
    fn a_userspace_bridge_as_it_is_made() {
        let checks = looked_at("netdev", &[], "3.1.0");
        for (name, cost, words) in [
            ("fail mode", Cost::Safety, "standalone"),
            ("offload", Cost::Speed, "off"),
            ("flow limit", Cost::Speed, "9000 of 10000"),
            ("signature cache", Cost::Speed, "off, and 9000 flows"),
            ("polling cores", Cost::Speed, "not set"),
        ] {
            let [(found, what)] = costs(&checks[name])[..] else {
                panic!("{name}: {checks:#?}")
            };
            assert!(found == cost && what.contains(words), "{name}: {what}");
        }
        let [(Cost::Speed, purges)] = costs(&checks["release"])[..] else {
            panic!("{checks:#?}")
        };
        assert!(purges.contains("purges"), "{purges}");
        // Whether the package has the others is not known.
        let unknown = |o: &&Outcome| matches!(o, Outcome::Unknown(why) if why.contains("Debian 12"));
        assert_eq!(checks["release"].iter().filter(unknown).count(), 2, "{checks:#?}");
        let set = [
            ("hw-offload", "true"),
            ("smc-enable", "true"),
            ("pmd-cpu-mask", "0x6"),
            ("vlan-limit", "2"),
        ];
        let checks = looked_at("netdev", &set, "3.3.2");
        let costly: Vec<_> = checks
            .iter()
            .filter(|(_, o)| !costs(o).is_empty())
            .map(|(n, _)| *n)
            .collect();
        assert_eq!(costly, ["fail mode", "flow limit"]);
    }

    #[test]
    fn the_kernels_datapath_has_no_polling_cores() {
        let checks = looked_at("", &[("hw-offload", "true"), ("tc-policy", "skip_hw")], "3.1.1");
        let names: Vec<_> = checks.keys().copied().collect();
        assert_eq!(
            names,
            ["VLAN limit", "fail mode", "flow limit", "offload", "release"]
        );
        assert!(costs(&checks["offload"])[0].1.contains("skip_hw"));
        assert_eq!(costs(&checks["flow limit"]), []);
        // The fault of the userspace datapath is none here.
        assert_eq!(costs(&checks["release"]), []);
    }

    #[test]
    fn a_full_cache_is_raised_only_where_the_setting_is_what_bounds_it() {
        let remedy = |current, limit, set: Option<&str>| {
            let mut switch = Switch::default();
            if let Some(set) = set {
                switch
                    .other_config
                    .insert("flow-limit".to_string(), set.to_string());
            }
            match flow_limit(&switch, Some(Flows { current, limit })).outcome {
                Outcome::Costs { remedy, .. } => remedy,
                outcome => format!("{outcome:?}"),
            }
        };
        assert!(remedy(9500, 10_000, None).contains("n-revalidator-threads"));
        assert!(remedy(199_000, 200_000, None).contains("flow-limit=400000"));
        assert!(remedy(9500, 10_000, Some("10000")).contains("flow-limit=20000"));
        assert!(remedy(100, 10_000, None).starts_with("Fine"));
        assert!(remedy(u64::MAX, u64::MAX, None).contains("flow-limit"));
    }

    #[test]
    fn without_the_daemon_it_is_unknown() {
        let list = checks(&Switch::default(), &Bridge::default(), Err("no control socket"));
        let unknown = list
            .iter()
            .filter(|c| matches!(&c.outcome, Outcome::Unknown(why) if why == "no control socket"));
        assert_eq!(unknown.count(), 2);
        let checks = looked_at("netdev", &[], "unknown");
        assert!(matches!(checks["release"][0], Outcome::Unknown(_)));
    }

    #[test]
    fn each_release_hears_of_its_own_fix() {
        let cached = &FAULTS[2];
        for (version, fixed) in [
            ("2.13.2", Some("2.17.8")),
            ("2.17.7", Some("2.17.8")),
            ("2.17.8", None),
            ("3.0.0", Some("3.0.5")),
            ("3.1.2", Some("3.1.3")),
            ("3.1.3", None),
            ("3.2.0", None),
            ("4.0.0", None),
            ("3.1", Some("3.1.3")),
            ("3.1.0-2+deb12u1", Some("3.1.3")),
        ] {
            assert_eq!(
                cached.fix(numbers(version).unwrap()).as_deref(),
                fixed,
                "{version}"
            );
        }
        assert_eq!(FAULTS[0].fix([2, 13, 10]).as_deref(), Some("2.13.11"));
    }
}

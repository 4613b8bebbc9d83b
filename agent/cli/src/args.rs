//! Command-line arguments, with value types that reject bad input where it is parsed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use portcullis_compiler::Attribution;
use portcullis_compiler::model::PacketKind;
use portcullis_policy::{
    Declared, Direction, EndpointRole, Family, IdentifiedBy, LinkLocal, MacAddr, Name, ParseError, PortRange,
    Protocol, Span, StrictPrefix, Verdict, Vlan,
};

/// Seconds that `--wait` waits when it is given none.
const WAIT: &str = "30";
/// Seconds it can wait at most: as long as the agent does.
const WAIT_MAX: i64 = 600;

#[derive(Debug, Clone, Args)]
pub struct File {
    /// The document, YAML or JSON; `-` reads stdin.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Wait {
    /// Wait until every target enforces it, 30 seconds by default, 600 at most; exit code 3 when they
    /// do not by then.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = WAIT,
        value_parser = clap::value_parser!(u32).range(1..=WAIT_MAX)
    )]
    pub wait: Option<u32>,
}

/// What happens to resources that a document does not name.
#[derive(Debug, Clone, Copy, Args)]
pub struct Prune {
    /// Remove what the document does not name; `--prune=false` merges the document instead.
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub prune: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Apply {
    #[command(flatten)]
    pub file: File,
    #[command(flatten)]
    pub prune: Prune,
    /// Allow an empty document to replace one that is not, and empty baseline or mandatory rules.
    #[arg(long)]
    pub allow_empty: bool,
    /// Validate the document and show what it would change, without applying it.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Args)]
pub struct Plan {
    #[command(flatten)]
    pub file: File,
    #[command(flatten)]
    pub prune: Prune,
    /// List the rows too: `+` added, `~` changed, `-` deleted.
    #[arg(long)]
    pub rows: bool,
    /// Exit code 2 when something would change, 0 when nothing would.
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// The parts of the policy that `get` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum What {
    /// Everything, as a document that `apply` takes.
    #[default]
    Document,
    /// The rules for everybody.
    Baseline,
    /// Profiles with their rules.
    #[value(alias = "profile")]
    Profiles,
    /// Endpoints with their attachments and profiles.
    #[value(alias = "endpoint")]
    Endpoints,
    /// Endpoints whose policy is bypassed.
    #[value(alias = "bypass")]
    Bypasses,
}

#[derive(Debug, Clone, Args)]
pub struct Get {
    /// Which part of the policy to show.
    #[arg(value_enum, default_value_t)]
    pub what: What,
    /// One profile or endpoint.
    pub name: Option<String>,
    /// Only endpoints with this label.
    #[arg(short, long, value_name = "KEY=VALUE", conflicts_with = "name")]
    pub label: Option<Label>,
}

#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// Name of the endpoint.
    pub endpoint: String,
    /// egress is what it sends, ingress what it is sent.
    #[arg(value_name = "DIRECTION")]
    pub direction: Direction,
    /// Protocol and destination port: tcp/25, udp/53, icmp, icmpv6, or a number.
    #[arg(value_name = "PROTOCOL[/PORT]")]
    pub service: Service,
    /// The other side's address; one that no rule names when absent.
    #[arg(long, value_name = "ADDRESS")]
    pub remote: Option<IpAddr>,
    /// The endpoint's address; its first of the same IP version when absent.
    #[arg(long, value_name = "ADDRESS")]
    pub local: Option<IpAddr>,
    /// Source port; 40000 when absent.
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// The TCP segment belongs to a connection that exists; otherwise it opens one.
    #[arg(long)]
    pub established: bool,
    /// ICMP type; an echo request when absent.
    #[arg(long, value_name = "TYPE")]
    pub icmp_type: Option<u8>,
    /// ICMP code; 0 when absent.
    #[arg(long, value_name = "CODE", requires = "icmp_type")]
    pub icmp_code: Option<u8>,
    /// IP version, 4 or 6, if neither an address nor the protocol determines it.
    #[arg(long, value_name = "VERSION", value_parser = ip_version)]
    pub ip: Option<Family>,
}

#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Generation that the targets must enforce; the newest if absent.
    #[arg(long, value_name = "N")]
    pub generation: Option<u64>,
    /// Show which target holds which rule, and why the others do not.
    #[arg(long, conflicts_with_all = ["generation", "wait"])]
    pub placement: bool,
    /// Of this endpoint alone, under its own names for rules.
    #[arg(long, value_name = "NAME", requires = "placement")]
    pub endpoint: Option<String>,
    /// Write the placement as a picture (SVG) to this file, too.
    #[arg(long, value_name = "FILE", requires = "placement")]
    pub svg: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Args)]
pub struct Hits {
    /// Only rules that hold for this endpoint.
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Offload {
    /// Only rules that hold for this endpoint.
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Begin after this generation, 0 for the oldest that the agent keeps; only new ones if absent.
    #[arg(long, value_name = "GENERATION")]
    pub after: Option<u64>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum EndpointCommand {
    /// Create or replace an endpoint. Repeating the command changes nothing.
    Provision(Box<Provision>),
    /// Remove an endpoint. It is no error if it does not exist.
    Release(ReleaseEndpoint),
}

#[derive(Debug, Clone, Args)]
pub struct Provision {
    /// Name of the endpoint.
    pub name: String,
    /// OVS interface it plugs into; may be repeated.
    #[arg(long, value_name = "NAME", required_unless_present_any = ["iface_id", "port"])]
    pub interface: Vec<String>,
    /// Value of external_ids:iface-id of that interface, instead of its name; may be repeated.
    #[arg(long, value_name = "ID")]
    pub iface_id: Vec<String>,
    /// Port of a switch, and the VLAN on it that is the endpoint's: a number, or `any` for a trunk; untagged frames
    /// without a VLAN. Needs --target; may be repeated.
    #[arg(long, value_name = "PORT[:VLAN]", requires = "target")]
    pub port: Vec<PortArg>,
    /// What tells the endpoint's packets from those of others at its ports: `port`, which is its alone, or `address`, where several
    /// endpoints are behind one port and a nearer target guards their sources.
    #[arg(long, value_name = "port|address", requires = "port")]
    pub by: Option<IdentifiedBy>,
    /// Take every VLAN that the interfaces carry, as trunks.
    #[arg(long)]
    pub any_vlan: bool,
    /// Target that has the interface or port; for interfaces any when absent.
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// MAC; may be repeated.
    #[arg(long, value_name = "MAC")]
    pub mac: Vec<MacAddr>,
    /// Address or prefix; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<StrictPrefix>,
    /// Scope in which its MACs and addresses are its alone; `default` when absent.
    #[arg(long, value_name = "NAME")]
    pub network: Option<Name>,
    /// MAC or address of those given that other endpoints of one tenant declare, too, as for VRRP; may be repeated.
    #[arg(long, value_name = "MAC|ADDRESS")]
    pub shared: Vec<Declared>,
    /// Additional role: router or dhcp-server; may be repeated.
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<EndpointRole>,
    /// Profile; may be repeated, their order counts.
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Label; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<Label>,
    /// Let it send with any MAC and address.
    #[arg(long)]
    pub no_source_guard: bool,
    /// IPv6 link-local addresses it may send with: `any` that no other endpoint has, or those of its MACs alone
    /// (`strict`); `any` when absent.
    #[arg(long, value_name = "WHICH")]
    pub link_local: Option<LinkLocal>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Args)]
pub struct ReleaseEndpoint {
    /// Name of the endpoint.
    pub name: String,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A bypass lets everything pass in both directions that no quarantine denies. It lifts the rules of
all tiers, mandatory ones included, replies, the verdicts on what cannot be judged, and the
defaults. It does not lift quarantines, the source guard, roles, or the separation of VLANs. It is
in the audit log, survives a restart of the agent, and ends by itself, also with a dead agent where
the switch can do that. `get bypasses` lists those that hold, and `status` shows them.")]
pub struct Bypass {
    /// Name of the endpoint.
    pub endpoint: String,
    /// How long, as in 10m, at most what the agent's limits.bypass allows (1h unless set). It takes the place of a bypass that
    /// there is.
    #[arg(
        long = "for",
        value_name = "TIME",
        required_unless_present = "end",
        conflicts_with = "end"
    )]
    pub time: Option<Span>,
    /// Why; it is in the audit log, and shown wherever the bypass is.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "end",
        conflicts_with = "end"
    )]
    pub reason: Option<String>,
    /// End the endpoint's bypass now.
    #[arg(long)]
    pub end: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompileFormat {
    /// A line per row.
    Text,
    /// One JSON object for the whole document.
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct Compile {
    /// The document, YAML or JSON; `-` reads stdin.
    #[arg(short, long, value_name = "FILE", conflicts_with = "classbench")]
    pub file: Option<PathBuf>,
    /// A ClassBench filter set instead of a document: one policy class, first match wins.
    #[arg(long, value_name = "FILE", requires = "default")]
    pub classbench: Option<PathBuf>,
    /// Verdict on packets that no filter of the set matches; filters have the other one.
    #[arg(long, value_name = "VERDICT", requires = "classbench", value_parser = verdict)]
    pub default: Option<Verdict>,
    /// Stage model to compile for: a built-in one by name, `model:FILE` in TOML, or `p4info:FILE` of a P4 program.
    #[arg(long, value_name = "MODEL")]
    pub target: String,
    /// TOML file that maps tables and fields of a P4 program to stages, or the name of a pipeline description; for `p4info:FILE`
    /// with other names.
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,
    /// Kinds of packets that rows of a partial point may deny although the policy lets them pass: later-fragments, ip-options,
    /// extension-headers, sctp.
    #[arg(long, value_name = "KIND", value_delimiter = ',', requires = "mapping")]
    pub accept: Vec<PacketKind>,
    /// Attribution of hits: per rule, or per class and verdict with fewer rows.
    #[arg(long, value_enum, default_value_t = HitAttribution::Rule)]
    pub attribution: HitAttribution,
    /// Add statistics: classes, rows per table, time.
    #[arg(long)]
    pub stats: bool,
    /// Output format; that of --output if absent.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<CompileFormat>,
}

/// What hits on rows tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HitAttribution {
    /// The rule that decided.
    Rule,
    /// The class and the verdict.
    Class,
}

impl From<HitAttribution> for Attribution {
    fn from(attribution: HitAttribution) -> Self {
        match attribution {
            HitAttribution::Rule => Attribution::Rule,
            HitAttribution::Class => Attribution::Class,
        }
    }
}

fn verdict(text: &str) -> Result<Verdict, String> {
    match text {
        "allow" => Ok(Verdict::Allow),
        "deny" => Ok(Verdict::Deny),
        _ => Err("write allow or deny".to_string()),
    }
}

/// A protocol and, where it has ports, the destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// IANA protocol number: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Destination port; present exactly when the protocol has ports.
    pub port: Option<u16>,
}

impl FromStr for Service {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (name, port) = match s.split_once('/') {
            Some((name, port)) => (name, Some(port)),
            None => (s, None),
        };
        let Protocol::Number(protocol) = name.to_ascii_lowercase().parse()? else {
            return Err(ParseError(
                "a packet has one protocol: write it instead of any".to_string(),
            ));
        };
        match (port, Protocol::has_ports(protocol)) {
            (None, false) => Ok(Service { protocol, port: None }),
            (None, true) => Err(ParseError(format!(
                "{name} has ports: write the destination port, {name}/25"
            ))),
            (Some(_), false) => Err(ParseError(format!(
                "protocol {name} has no ports: write {name} alone"
            ))),
            (Some(port), true) => {
                let range: PortRange = port.parse()?;
                if range.low != range.high {
                    return Err(ParseError(format!(
                        "a packet has one destination port, not {port}"
                    )));
                }
                Ok(Service {
                    protocol,
                    port: Some(range.low),
                })
            }
        }
    }
}

/// The value of `--port`: `PORT` or `PORT:VLAN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortArg {
    /// Number of a switch port.
    pub port: u32,
    /// The VLAN on it.
    pub vlan: Vlan,
}

impl FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, vlan) = match text.split_once(':') {
            Some((port, vlan)) => (port, Some(vlan)),
            None => (text, None),
        };
        let port = port
            .parse()
            .map_err(|_| format!("`{port}` is no port: write a number, as in 3 or 3:100"))?;
        let vlan = vlan.map(|v| v.parse::<Vlan>().map_err(|error| error.to_string()));
        let vlan = vlan.transpose()?.unwrap_or_default();
        Ok(PortArg { port, vlan })
    }
}

/// A label of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key, not empty.
    pub key: String,
    /// What follows `=`; it may be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Label {
                key: key.to_string(),
                value: value.to_string(),
            }),
            _ => Err(ParseError(format!("`{s}` is not a label: write key=value"))),
        }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

fn ip_version(s: &str) -> Result<Family, ParseError> {
    match s {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err(ParseError(format!("`{s}` is not an IP version: write 4 or 6"))),
    }
}

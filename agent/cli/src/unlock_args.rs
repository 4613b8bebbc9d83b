//! The arguments of `unlock` and `audit`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portcullis_policy::{Direction, Span};

use super::args::{Label, Service};

#[derive(Debug, Clone, Subcommand)]
pub enum UnlockCommand {
    /// Request an unlock. Missing evidence is asked for on a terminal.
    Request(Request),
    /// List unlocks, newest request first.
    List(List),
    /// Show one unlock: evidence, checks, history.
    Show(One),
    /// Approve a request for an unlock.
    Approve(Decide),
    /// Reject a request for an unlock.
    Reject(Decide),
    /// Renew the lease of an unlock.
    Renew(Renew),
    /// Release an unlock, or withdraw a request.
    Release(One),
    /// Revoke an unlock, with a reason.
    Revoke(Revoke),
    /// Show the programs: what they open and which evidence they need.
    Programs(Programs),
    /// Show why a port is closed, and the programs that open it.
    Why(Why),
    /// Follow unlocks as they change, one line each, until interrupted.
    Watch(WatchUnlock),
}

#[derive(Debug, Clone, Args)]
pub struct Request {
    /// Name of the unlock program.
    #[arg(long, value_name = "NAME")]
    pub program: String,
    /// Name of the endpoint.
    #[arg(long, value_name = "NAME")]
    pub endpoint: String,
    /// Evidence; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<Label>,
    /// Evidence whose value is a file's content, for secrets; may be repeated.
    #[arg(long, value_name = "NAME=FILE")]
    pub set_file: Vec<Label>,
    /// Duration of the lease, such as 720h or 7d; the program's default if absent.
    #[arg(long, value_name = "TIME")]
    pub lease: Option<Span>,
    /// Key that makes the request safe to repeat.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Do not ask for missing evidence.
    #[arg(long)]
    pub no_input: bool,
    /// Wait until it is decided, 60 seconds by default; exit code 3 if it is not in that time.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "60")]
    pub wait: Option<u32>,
}

/// A state of unlocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Waits for missing evidence.
    Requested,
    /// Checks are being made.
    Checking,
    /// Waits for an operator.
    AwaitingApproval,
    /// Open until the lease ends.
    Active,
    /// Open, and it ends soon.
    Expiring,
    /// Closed at the end of the lease.
    Expired,
    /// Not granted, by a check or an operator.
    Rejected,
    /// Closed before the end, by an operator or a check.
    Revoked,
    /// Given back by the customer.
    Released,
}

#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only of this endpoint.
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Only under this program.
    #[arg(long, value_name = "NAME")]
    pub program: Option<String>,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only in this state; may be repeated.
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Vec<State>,
    /// Largest number of results.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

#[derive(Debug, Clone, Args)]
pub struct One {
    /// Id of the unlock.
    pub id: String,
}

#[derive(Debug, Clone, Args)]
pub struct Decide {
    /// Id of the unlock.
    pub id: String,
    /// Reason, shown to the customer.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

#[derive(Debug, Clone, Args)]
pub struct Renew {
    /// Id of the unlock.
    pub id: String,
    /// Duration from now, such as 720h or 7d; the program's default if absent.
    #[arg(long, value_name = "TIME")]
    pub lease: Option<Span>,
}

#[derive(Debug, Clone, Args)]
pub struct Revoke {
    /// Id of the unlock.
    pub id: String,
    /// Reason, shown to the customer.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Also deny what it opened, above all rules, for the quarantine time of the program.
    #[arg(long)]
    pub quarantine: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Programs {
    /// One program in full.
    pub program: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Why {
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
}

#[derive(Debug, Clone, Args)]
pub struct WatchUnlock {
    /// Only of this endpoint.
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Only under this program.
    #[arg(long, value_name = "NAME")]
    pub program: Option<String>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// List entries, newest first.
    List(AuditList),
    /// Verify every hash; exit code 1 if an entry was changed.
    Verify(AuditVerify),
    /// Write entries as JSON lines, oldest first.
    Export(AuditExport),
}

#[derive(Debug, Clone, Args)]
pub struct AuditVerify {
    /// An entry that was kept elsewhere, as the agent logs one every day: the log must have it.
    #[arg(long, value_name = "NUMBER:HASH", value_parser = entry)]
    pub expect: Option<portcullis_audit::Head>,
    /// An archive of old entries: verify its hashes, and that the log names it. Repeat it for several.
    #[arg(long, value_name = "FILE")]
    pub archive: Vec<std::path::PathBuf>,
}

fn entry(text: &str) -> Result<portcullis_audit::Head, String> {
    text.parse()
}

#[derive(Debug, Clone, Args)]
pub struct AuditList {
    /// Only by this actor, such as `uid 0`.
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Only actions with this prefix, such as `unlock.`.
    #[arg(long, value_name = "PREFIX")]
    pub action: Option<String>,
    /// Only subjects with this prefix, such as `unlocks/`.
    #[arg(long, value_name = "PREFIX")]
    pub subject: Option<String>,
    /// Largest number of results.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
}

#[derive(Debug, Clone, Args)]
pub struct AuditExport {
    /// Only entries after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub after: u64,
    /// Output file; stdout if absent.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

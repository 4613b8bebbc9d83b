//! Prometheus metrics, and the reference printed from them.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, ExporterFuture, PrometheusBuilder};
use portcullis_backend::{SessionState, TargetHandle, TargetStatus};

/// Bounds of histograms, in seconds.
const BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Counter,
    Gauge,
    Histogram,
}

struct Metric {
    name: &'static str,
    sort: Sort,
    labels: &'static str,
    help: &'static str,
}

const fn metric(name: &'static str, sort: Sort, labels: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        sort,
        labels,
        help,
    }
}

const CALLS: &str = "portcullis_api_calls_total";
const CALL_SECONDS: &str = "portcullis_api_call_seconds";
const CHANGE_SECONDS: &str = "portcullis_change_seconds";
const COMMIT_SECONDS: &str = "portcullis_store_commit_seconds";
const DENIED: &str = "portcullis_access_denied_total";
const DENIALS_DROPPED: &str = "portcullis_access_denials_dropped_total";
const HANDSHAKES_FAILED: &str = "portcullis_tls_handshakes_failed_total";
const CONNECTIONS_REFUSED: &str = "portcullis_connections_refused_total";
const TLS_READS: &str = "portcullis_tls_reads_total";
const TLS_UNTIL: &str = "portcullis_tls_certificate_not_after_seconds";
const LISTS_UNTIL: &str = "portcullis_tls_crl_next_update_seconds";
const KEYS_READS: &str = "portcullis_oidc_key_reads_total";
const ACCESS_READS: &str = "portcullis_access_reads_total";
const GENERATION: &str = "portcullis_generation";
const RESOURCES: &str = "portcullis_resources";
const CLASSES: &str = "portcullis_classes";
const UNLOCKS: &str = "portcullis_unlocks";
const CHECKS: &str = "portcullis_unlock_checks_total";
const STORE_WAITS: &str = "portcullis_store_waiting";
const STORE_FAILS: &str = "portcullis_store_failing";
const WANTED: &str = "portcullis_target_generation_wanted";
const APPLIED: &str = "portcullis_target_generation_applied";
const STATE: &str = "portcullis_target_state";
const ROWS: &str = "portcullis_target_rows";
const FOREIGN: &str = "portcullis_target_foreign_rows";
const REALIZED: &str = "portcullis_target_endpoints_realized";
const PENDING: &str = "portcullis_target_endpoints_pending";
const UNSUPPORTED: &str = "portcullis_target_unsupported";
const LEFT_RULES: &str = "portcullis_target_rules_left";
const SIZES: &str = "portcullis_target_table_size";
const WRITES: &str = "portcullis_target_row_writes_total";
const DRIFT: &str = "portcullis_target_drift_repaired_total";
const LEFT_OVER: &str = "portcullis_target_left_over_rows";
const OPEN: &str = "portcullis_open_seconds_total";
const DISCONNECTS: &str = "portcullis_target_disconnects_total";

const METRICS: &[Metric] = &[
    metric(
        CALLS,
        Sort::Counter,
        "method, code",
        "API calls that were answered; a stream counts when it begins.",
    ),
    metric(
        UNLOCKS,
        Sort::Gauge,
        "",
        "Unlocks under way: requested, being checked, waiting for approval, or active.",
    ),
    metric(
        CHECKS,
        Sort::Counter,
        "kind, result",
        "Checks that were made for unlocks: passed, failed or undetermined.",
    ),
    metric(
        CALL_SECONDS,
        Sort::Histogram,
        "method",
        "Time to the answer of API calls; not of streams and waits.",
    ),
    metric(
        CHANGE_SECONDS,
        Sort::Histogram,
        "",
        "Time to make a change: validate, resolve, check, commit, publish.",
    ),
    metric(
        COMMIT_SECONDS,
        Sort::Histogram,
        "",
        "Time to commit a change to the store.",
    ),
    metric(
        DENIED,
        Sort::Counter,
        "code",
        "API calls that were refused for who made them, or how often.",
    ),
    metric(
        DENIALS_DROPPED,
        Sort::Counter,
        "",
        "Refusals that were not recorded one by one, since there were too many.",
    ),
    metric(
        HANDSHAKES_FAILED,
        Sort::Counter,
        "",
        "TLS connections that did not come about.",
    ),
    metric(
        CONNECTIONS_REFUSED,
        Sort::Counter,
        "",
        "Connections that were closed at once, since there were too many, in all or from one address.",
    ),
    metric(
        TLS_READS,
        Sort::Counter,
        "result",
        "Times the files of [api.tls] were read, and whether they could be used; what was used before stays otherwise.",
    ),
    metric(
        TLS_UNTIL,
        Sort::Gauge,
        "",
        "When the API's certificate ends, in seconds since the Unix epoch.",
    ),
    metric(
        LISTS_UNTIL,
        Sort::Gauge,
        "",
        "When the first list of revoked client certificates expires, in seconds since the Unix epoch.",
    ),
    metric(
        KEYS_READS,
        Sort::Counter,
        "result",
        "Times the keys of [access.oidc] were read, and whether they could be; the last ones are used up to `max_age`.",
    ),
    metric(
        ACCESS_READS,
        Sort::Counter,
        "result",
        "Times [access] was read again, and whether it could be used; what was used before stays otherwise.",
    ),
    metric(GENERATION, Sort::Gauge, "", "Newest committed generation."),
    metric(
        RESOURCES,
        Sort::Gauge,
        "kind",
        "Profiles and endpoints of the policy.",
    ),
    metric(
        STORE_WAITS,
        Sort::Gauge,
        "",
        "Closings, and what came of them, that hold and are not in the database yet.",
    ),
    metric(
        STORE_FAILS,
        Sort::Gauge,
        "",
        "1 while the database cannot be written: nothing can be opened or changed then; 0 else.",
    ),
    metric(CLASSES, Sort::Gauge, "", "Distinct policies in use."),
    metric(
        WANTED,
        Sort::Gauge,
        "target",
        "Generation that the target must enforce.",
    ),
    metric(
        APPLIED,
        Sort::Gauge,
        "target",
        "Generation that the target is known to hold; 0 while none is, as without a connection.",
    ),
    metric(
        STATE,
        Sort::Gauge,
        "target, state",
        "1 for the state the target's session is in, 0 for the others.",
    ),
    metric(ROWS, Sort::Gauge, "target, table", "Rows of this agent."),
    metric(
        FOREIGN,
        Sort::Gauge,
        "target",
        "Rows of others in this agent's tables; they are left alone.",
    ),
    metric(
        REALIZED,
        Sort::Gauge,
        "target",
        "Endpoints realized on the target.",
    ),
    metric(
        PENDING,
        Sort::Gauge,
        "target",
        "Endpoints that wait for something on the target.",
    ),
    metric(UNSUPPORTED, Sort::Gauge, "target", "What the target cannot do."),
    metric(
        LEFT_RULES,
        Sort::Gauge,
        "target",
        "Rules that a table had no room for, so that nearer targets alone hold them, each name once.",
    ),
    metric(
        SIZES,
        Sort::Gauge,
        "target, table",
        "Rows that a table can hold, rows of other controllers included, where that is known.",
    ),
    metric(
        WRITES,
        Sort::Counter,
        "target, operation",
        "Rows added, changed and deleted.",
    ),
    metric(
        DRIFT,
        Sort::Counter,
        "target",
        "Rows found missing, altered or left over and put right.",
    ),
    metric(
        LEFT_OVER,
        Sort::Gauge,
        "target",
        "Rows of this agent in tables, or under tags, that it no longer uses.",
    ),
    metric(
        OPEN,
        Sort::Counter,
        "target, cause",
        "Seconds in which packets may have passed that the policy denies, as far as this agent saw it; causes are below.",
    ),
    metric(
        DISCONNECTS,
        Sort::Counter,
        "target",
        "Connections to the datapath that ended.",
    ),
];

/// What opens, as [`OPEN`] counts it, and what that is known from.
const CAUSES: [(&str, &str); 5] = [
    (
        "fail_mode",
        "The bridge is not `secure`, so that it passes everything without this agent's rows, and they were gone: after a start \
         of ovs-vswitchd, from the moment at which it was known not to be there last, and after a change of the fail mode. \
         Until the rows are in force again, caches included. Open vSwitch only.",
    ),
    (
        "rows",
        "A read-back found rows of this agent missing, altered or added. From the read-back before, at most one \
         `resync_interval` earlier, until they are in force again. Most such rows open nothing; which do is not judged.",
    ),
    (
        "caches",
        "Rows are confirmed, and ovs-vswitchd cannot be asked whether flows follow that the datapath has cached: established \
         flows may go on as before. From the confirmation until it is known. Open vSwitch only.",
    ),
    (
        "late_end",
        "An unlock or a bypass ended on a P4Runtime device whose rows do not end by themselves. From the end until the device \
         confirmed it, also while it is away.",
    ),
    (
        "bypass",
        "Without `target`: seconds of every endpoint whose policy is bypassed, to within five seconds for each.",
    ),
];

/// What [`OPEN`] cannot count.
const NOT_SEEN: &str = "Parts of a second count as a whole one, for each target and cause. Every counter begins at 0 with the \
    agent. Not seen: what passes while no agent runs, and on a target while the agent is not connected to it, except as said \
    above; rows that are changed and put back between two read-backs; late ends by the switch's own clock, which come within \
    about a second. Ports that the agent does not know are closed, and open nothing.";

/// The list of metrics as Markdown.
pub fn reference() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for m in METRICS {
        let sort = match m.sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
            Sort::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {sort} | {} | {} |", m.name, m.labels, m.help);
    }
    let _ = write!(
        text,
        "\n## Causes of `{OPEN}`\n\n| cause | what is counted |\n|---|---|\n"
    );
    for (cause, what) in CAUSES {
        let _ = writeln!(text, "| `{cause}` | {what} |");
    }
    let _ = write!(text, "\n{NOT_SEEN}\n");
    text
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be listened on.
    #[error("cannot serve metrics on {listen}; set another [metrics] listen")]
    Listen { listen: SocketAddr, source: BuildError },
    /// Another recorder is there.
    #[error("metrics are recorded by something else in this process")]
    Taken,
}

/// Begins recording; the future serves what was recorded until it is dropped.
pub fn install(listen: SocketAddr) -> Result<ExporterFuture, MetricsError> {
    let failed = |source| MetricsError::Listen { listen, source };
    let builder = PrometheusBuilder::new()
        .with_http_listener(listen)
        .set_buckets(BUCKETS)
        .map_err(failed)?;
    let (recorder, exporter) = builder.build().map_err(failed)?;
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?;
    for m in METRICS {
        match m.sort {
            Sort::Counter => describe_counter!(m.name, m.help),
            Sort::Gauge => describe_gauge!(m.name, m.help),
            Sort::Histogram => describe_histogram!(m.name, Unit::Seconds, m.help),
        }
    }
    Ok(exporter)
}

/// An API call was answered.
pub(crate) fn called(method: &str, code: i32, took: Option<Duration>) {
    let code = tonic::Code::from_i32(code);
    counter!(CALLS, "method" => method.to_string(), "code" => format!("{code:?}")).increment(1);
    if let Some(took) = took {
        histogram!(CALL_SECONDS, "method" => method.to_string()).record(took.as_secs_f64());
    }
}

/// A call was refused for who made it, or how often.
pub(crate) fn denied(code: tonic::Code) {
    counter!(DENIED, "code" => format!("{code:?}")).increment(1);
}

/// A refusal was not recorded.
pub(crate) fn denial_dropped() {
    counter!(DENIALS_DROPPED).increment(1);
}

/// A TLS connection did not come about.
pub(crate) fn handshake_failed() {
    counter!(HANDSHAKES_FAILED).increment(1);
}

/// A connection found no place.
pub(crate) fn connection_refused() {
    counter!(CONNECTIONS_REFUSED).increment(1);
}

/// The files of TLS were read.
pub(crate) fn tls_read(used: bool) {
    counter!(TLS_READS, "result" => if used { "used" } else { "refused" }).increment(1);
}

/// When the first list of revoked certificates expires.
pub(crate) fn lists_until(until: std::time::SystemTime) {
    let since = until.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    gauge!(LISTS_UNTIL).set(float(since.as_secs()));
}

/// Keys that tokens are verified with were read, or not.
pub(crate) fn keys_read(used: bool) {
    counter!(KEYS_READS, "result" => if used { "used" } else { "refused" }).increment(1);
}

/// Who may call was read again.
pub(crate) fn access_read(used: bool) {
    counter!(ACCESS_READS, "result" => if used { "used" } else { "refused" }).increment(1);
}

/// When the API's certificate ends.
pub(crate) fn tls_until(until: std::time::SystemTime) {
    let since = until.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    gauge!(TLS_UNTIL).set(float(since.as_secs()));
}

/// How many unlocks are under way.
pub fn unlocks(count: usize) {
    gauge!(UNLOCKS).set(count as f64);
}

/// A check was made.
pub fn check_made(kind: &str, result: &'static str) {
    counter!(CHECKS, "kind" => kind.to_string(), "result" => result).increment(1);
}

/// A change was made.
pub(crate) fn change_made(took: Duration) {
    histogram!(CHANGE_SECONDS).record(took.as_secs_f64());
}

/// A change was committed.
pub(crate) fn committed(took: Duration) {
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
}

/// How the store stands.
pub(crate) fn store_waits(waiting: u64, failing: bool) {
    gauge!(STORE_WAITS).set(float(waiting));
    gauge!(STORE_FAILS).set(if failing { 1.0 } else { 0.0 });
}

const STATES: [SessionState; 6] = [
    SessionState::Disconnected,
    SessionState::Handshaking,
    SessionState::Unusable,
    SessionState::Observing,
    SessionState::Applying,
    SessionState::InSync,
];

// Gauges are 64-bit floats; what is counted here stays far below their 53 bits.
fn float(n: u64) -> f64 {
    n as f64
}

/// Records how the policy and the targets stand.
#[derive(Debug, Default)]
pub struct Observer {
    // What each target's counters said last: they begin again when its session does.
    counted: HashMap<String, [u64; 5]>,
    bypasses: Bypasses,
}

/// How long endpoints were bypassed, added up from one look to the next.
#[derive(Debug, Default)]
struct Bypasses {
    total: Duration,
    seen: Option<(Instant, u32)>,
}

impl Bypasses {
    /// Takes note of how many endpoints are bypassed now; returns the time of all until now.
    fn look(&mut self, now: Instant, count: usize) -> Duration {
        if let Some((then, count)) = self.seen {
            self.total += now.saturating_duration_since(then) * count;
        }
        self.seen = Some((now, u32::try_from(count).unwrap_or(u32::MAX)));
        self.total
    }
}

/// Seconds of which each that was begun counts.
fn begun(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// How large the policy in force is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySize {
    pub generation: u64,
    pub profiles: usize,
    pub endpoints: usize,
    /// Distinct policies of one direction.
    pub classes: usize,
    /// Endpoints that are bypassed.
    pub bypasses: usize,
}

impl Observer {
    /// Records how things stand now.
    pub fn observe(&mut self, policy: &PolicySize, targets: &[TargetHandle]) {
        gauge!(GENERATION).set(float(policy.generation));
        gauge!(RESOURCES, "kind" => "profiles").set(float(policy.profiles as u64));
        gauge!(RESOURCES, "kind" => "endpoints").set(float(policy.endpoints as u64));
        gauge!(CLASSES).set(float(policy.classes as u64));
        let bypassed = self.bypasses.look(Instant::now(), policy.bypasses);
        counter!(OPEN, "cause" => "bypass").absolute(begun(bypassed));
        for target in targets {
            let status = target.status();
            observe_gauges(target.name(), &status);
            self.observe_counters(target.name(), &status);
        }
    }

    fn observe_counters(&mut self, target: &str, status: &TargetStatus) {
        let [added, changed, deleted] = status.writes;
        let now = [added, changed, deleted, status.drift_repaired, status.disconnects];
        let before = self.counted.insert(target.to_string(), now).unwrap_or_default();
        let [added, changed, deleted, drift, disconnects] =
            std::array::from_fn(|i| now[i].checked_sub(before[i]).unwrap_or(now[i]));
        for (operation, count) in [("added", added), ("changed", changed), ("deleted", deleted)] {
            counter!(WRITES, "target" => target.to_string(), "operation" => operation).increment(count);
        }
        counter!(DRIFT, "target" => target.to_string()).increment(drift);
        counter!(DISCONNECTS, "target" => target.to_string()).increment(disconnects);
    }
}

fn observe_gauges(target: &str, status: &TargetStatus) {
    let set =
        |metric: &'static str, value: u64| gauge!(metric, "target" => target.to_string()).set(float(value));
    set(WANTED, status.wanted);
    set(APPLIED, status.applied);
    set(FOREIGN, status.foreign_rows);
    set(LEFT_OVER, status.left_over_rows);
    for (cause, millis) in &status.open_millis {
        let seconds = begun(Duration::from_millis(*millis));
        counter!(OPEN, "target" => target.to_string(), "cause" => cause.clone()).absolute(seconds);
    }
    set(REALIZED, status.realized);
    set(PENDING, status.pending.len() as u64);
    set(UNSUPPORTED, status.unsupported.len() as u64);
    set(LEFT_RULES, status.left.names().len() as u64);
    for state in STATES {
        let here = if status.state == state { 1.0 } else { 0.0 };
        gauge!(STATE, "target" => target.to_string(), "state" => state.to_string()).set(here);
    }
    for table in &status.tables {
        let labels = [("target", target.to_string()), ("table", table.table.clone())];
        gauge!(ROWS, &labels).set(float(table.rows));
        if let Some(size) = table.size {
            gauge!(SIZES, &labels).set(float(size));
        }
    }
}

#[cfg(test)]
mod tests;

//! DNS queries and the meaning of their answers.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver, system_conf};

use crate::CheckerConfig;
use crate::question::{Answer, printable};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// CNAMEs beyond these are not followed.
const CNAMES: usize = 16;

/// Resolvers beyond these are not asked.
const RESOLVERS: usize = 4;

/// Why a query gave no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no such name.
    Name,
    /// The name has no such records.
    Records,
    /// The answer is unknown, and why.
    Unknown(String),
    /// No resolver answers anything, and why.
    Unreachable(String),
}

impl Missing {
    /// The answer of a check that needs the records.
    pub(crate) fn answer(&self, name: &Name, what: &str) -> Answer {
        let name = shown(name);
        match self {
            Missing::Name => Answer::failed(format!("{name} has no {what} record: no such name (NXDOMAIN)")),
            Missing::Records => Answer::failed(format!("{name} has no {what} record")),
            Missing::Unknown(why) => Answer::undetermined(format!("cannot look up {what} of {name}: {why}")),
            Missing::Unreachable(why) => Answer::not_made(format!("cannot look up {what} of {name}: {why}")),
        }
    }
}

pub(crate) struct Dns {
    /// With EDNS (RFC 6891), and without.
    options: [ResolverOpts; 2],
    /// One query with its retries and the CNAMEs behind it.
    bound: Duration,
    from: From,
}

enum From {
    Configured(Result<Resolvers, String>),
    /// The system's, built again when its file changes.
    System(PathBuf, Mutex<Option<(Stamp, Result<Resolvers, String>)>>),
}

/// The same servers, asked with EDNS and without.
#[derive(Clone)]
struct Resolvers {
    edns: TokioResolver,
    plain: TokioResolver,
}

type Stamp = Option<(SystemTime, u64)>;

impl Dns {
    pub(crate) fn new(config: &CheckerConfig) -> Self {
        let options = options(config);
        let from = if config.resolvers.is_empty() {
            From::System(PathBuf::from(RESOLV_CONF), Mutex::new(None))
        } else {
            let servers = config.resolvers.iter().map(|at| server(*at)).collect();
            From::Configured(build(servers, &options))
        };
        Self {
            options,
            bound: config
                .timeout
                .saturating_mul(attempts(config))
                .saturating_add(Duration::from_millis(250)),
            from,
        }
    }

    fn resolvers(&self) -> Result<Resolvers, String> {
        let (path, kept) = match &self.from {
            From::Configured(resolver) => return resolver.clone(),
            From::System(path, kept) => (path, kept),
        };
        let stamp = fs::metadata(path).and_then(|m| Ok((m.modified()?, m.len()))).ok();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, resolver)) = kept.as_ref()
            && *of == stamp
        {
            return resolver.clone();
        }
        let resolver = fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|text| system_conf::parse_resolv_conf(text).map_err(|error| error.to_string()))
            .map_err(|error| format!("{}: {error}", path.display()))
            .and_then(|(config, _)| build(config.name_servers().to_vec(), &self.options));
        *kept = Some((stamp, resolver.clone()));
        resolver
    }

    /// The records of a name, followed through CNAMEs; what else an answer brings is left out.
    pub(crate) async fn query(&self, name: &Name, of: RecordType) -> Result<Vec<RData>, Missing> {
        let resolvers = self.resolvers().map_err(Missing::Unreachable)?;
        let mut answer = self.lookup(&resolvers.edns, name, of).await?;
        if knows_no_edns(&answer) {
            answer = self.lookup(&resolvers.plain, name, of).await?;
        }
        let lookup = answer.map_err(|error| missing(&error))?;
        match lookup.message().metadata.response_code {
            ResponseCode::NoError => {}
            code => return Err(Missing::Unknown(format!("the resolver answered {code}"))),
        }
        let answers = lookup.answers();
        let mut owner = name;
        for _ in 0..CNAMES {
            let next = answers.iter().find_map(|record| match &record.data {
                RData::CNAME(to) if record.name.eq_ignore_root(owner) => Some(&to.0),
                _ => None,
            });
            match next {
                Some(next) => owner = next,
                None => break,
            }
        }
        let found: Vec<RData> = answers
            .iter()
            .filter(|record| record.record_type() == of && record.name.eq_ignore_root(owner))
            .map(|record| record.data.clone())
            .collect();
        if found.is_empty() {
            return Err(Missing::Records);
        }
        Ok(found)
    }

    async fn lookup(
        &self,
        resolver: &TokioResolver,
        name: &Name,
        of: RecordType,
    ) -> Result<Result<Lookup, NetError>, Missing> {
        let asked = tokio::time::timeout(self.bound, resolver.lookup(name.clone(), of)).await;
        let late = match &asked {
            Ok(answer) => matches!(answer, Err(NetError::Timeout)),
            Err(_) => true,
        };
        if late && !self.answers(resolver).await {
            let why = "no resolver answers, not even for the root";
            return Err(Missing::Unreachable(why.to_string()));
        }
        asked.map_err(|_| Missing::Unknown("no answer in time".to_string()))
    }

    /// Whether a resolver answers at all: then it is the zone that does not.
    async fn answers(&self, resolver: &TokioResolver) -> bool {
        let asked = tokio::time::timeout(self.bound, resolver.lookup(Name::root(), RecordType::NS)).await;
        matches!(asked, Ok(Ok(_) | Err(NetError::Dns(_))))
    }

    /// The addresses of a name in one family.
    pub(crate) async fn addresses(&self, name: &Name, v6: bool) -> Result<Vec<IpAddr>, Missing> {
        let of = if v6 { RecordType::AAAA } else { RecordType::A };
        let records = self.query(name, of).await?;
        Ok(records.iter().filter_map(RData::ip_addr).collect())
    }

    /// The names that an address points to.
    pub(crate) async fn pointers(&self, address: IpAddr) -> Result<Vec<Name>, Missing> {
        if address.is_loopback() {
            return Err(Missing::Unknown("it is a loopback address".to_string()));
        }
        let records = self.query(&reverse(address), RecordType::PTR).await?;
        let names = records.into_iter().filter_map(|record| match record {
            RData::PTR(name) => Some(name.0),
            _ => None,
        });
        Ok(names.collect())
    }

    /// The TXT records of a name, each with its strings joined.
    pub(crate) async fn texts(&self, name: &Name) -> Result<Vec<String>, Missing> {
        let records = self.query(name, RecordType::TXT).await?;
        let texts = records.into_iter().filter_map(|record| match record {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        });
        Ok(texts.collect())
    }
}

fn attempts(config: &CheckerConfig) -> u32 {
    config.attempts.clamp(1, 10)
}

/// A server that does not know EDNS answers FORMERR, or NOTIMP (RFC 6891 section 7).
fn knows_no_edns(answer: &Result<Lookup, NetError>) -> bool {
    let code = match answer {
        Ok(lookup) => lookup.message().metadata.response_code,
        Err(NetError::Dns(DnsError::ResponseCode(code))) => *code,
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => *response_code,
        Err(_) => return false,
    };
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

fn options(config: &CheckerConfig) -> [ResolverOpts; 2] {
    let edns = edns_options(config);
    let mut plain = edns.clone();
    plain.edns0 = false;
    [edns, plain]
}

fn edns_options(config: &CheckerConfig) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = config.timeout;
    options.attempts = usize::try_from(attempts(config) - 1).unwrap_or(0);
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    // Nothing is kept: a check that is made again sees what the resolvers see.
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.edns_payload_len = 1232;
    // Each check asks one query at a time.
    options.max_active_requests = config.max_concurrent.clamp(32, 4096);
    options
}

fn build(servers: Vec<NameServerConfig>, options: &[ResolverOpts; 2]) -> Result<Resolvers, String> {
    let servers: Vec<NameServerConfig> = servers.into_iter().take(RESOLVERS).collect();
    let resolver = |options: &ResolverOpts| {
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.clone());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options.clone())
            .build()
            .map_err(|error| format!("no resolver: {error}"))
    };
    let [edns, plain] = options;
    Ok(Resolvers {
        edns: resolver(edns)?,
        plain: resolver(plain)?,
    })
}

fn server(at: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    server.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = at.port();
            connection
        })
        .collect();
    server
}

fn missing(error: &NetError) -> Missing {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code,
            soa,
            ns,
            ..
        })) => match response_code {
            ResponseCode::NXDomain => Missing::Name,
            ResponseCode::NoError if soa.is_none() && ns.is_some() => {
                Missing::Unknown("the resolver refers to other servers".to_string())
            }
            ResponseCode::NoError => Missing::Records,
            code => Missing::Unknown(format!("the resolver answered {code}")),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Missing::Unknown(format!("the resolver answered {code}"))
        }
        NetError::Timeout => Missing::Unknown("no answer in time".to_string()),
        NetError::Proto(_) => Missing::Unknown("the answer is malformed".to_string()),
        NetError::Truncated => Missing::Unknown("the answer is truncated, and TCP gives no more".to_string()),
        NetError::NoConnections => Missing::Unreachable("no resolver can be reached".to_string()),
        NetError::Io(error) => Missing::Unreachable(format!("no resolver can be reached: {error}")),
        error => Missing::Unknown(error.to_string()),
    }
}

/// A name from text, without a search list: labels of any bytes, from the root.
pub(crate) fn name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return None;
    }
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// A name from text, or a check that it fails.
pub(crate) fn host(text: &str) -> Result<Name, Answer> {
    let no = || Answer::failed(format!("`{}` is not a host name", printable(text, 80)));
    // Under `localhost` is this machine, which nobody's DNS is asked about (RFC 6761).
    name(text).filter(|name| !name.is_localhost()).ok_or_else(no)
}

/// The name in `in-addr.arpa` or `ip6.arpa`.
pub(crate) fn reverse(address: IpAddr) -> Name {
    Name::from(address.to_canonical())
}

/// A name as people write it.
pub(crate) fn shown(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some(short) if !short.is_empty() => short.to_string(),
        _ => text,
    }
}

/// Some names as people write them.
pub(crate) fn some(names: &[Name]) -> String {
    let mut text = names.iter().take(3).map(shown).collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text.push_str(&format!(" and {} more", names.len() - 3));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for right in [
            "a",
            "a.test",
            "a.test.",
            "_dmarc.a.test",
            "5/26.113.0.203.in-addr.arpa",
        ] {
            assert!(name(right).is_some_and(|name| name.is_fqdn()), "{right}");
        }
        let long = vec!["abcdefghi"; 26].join(".");
        for wrong in ["", ".", "..", "a..b", ".a", &"x".repeat(64), &long] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert!(host("this.localhost").is_err());
    }

    #[test]
    fn the_systems_resolvers_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let dns = Dns {
            from: From::System(path.clone(), Mutex::new(None)),
            ..Dns::new(&CheckerConfig::default())
        };
        let why = dns.resolvers().err();
        assert!(why.is_some_and(|error| error.contains("resolv.conf")));
        fs::write(&path, "# nothing yet\n").unwrap();
        assert!(dns.resolvers().is_err());
        fs::write(&path, "search example.test\nnameserver 192.0.2.53\n").unwrap();
        assert!(dns.resolvers().is_ok());
        fs::remove_file(&path).unwrap();
        assert!(dns.resolvers().is_err());
    }
}

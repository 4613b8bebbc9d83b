//! What of an entry a table can name: exactly, or wider than it is.

use ipnet::IpNet;
use portcullis_policy::{Family, FlagMatch, IPV6_EXTENSIONS, Matcher, Protocol, Ranges};

use super::super::NOT_OPENING;
use super::super::cells::prefixes;
use super::{Point, Reason, looks_inside};
use crate::class_rows::{FrameMatch, PortMatch, RemoteMatch, RowKey};
use crate::model::{Field, MatchKind};

/// Values that a key without masks and ranges is written out for.
const EXACT_VALUES: u32 = 4096;

/// How much of an entry the table can name.
#[derive(Debug, Clone)]
pub(super) struct Named {
    remote: Vec<RemoteMatch>,
    local: Vec<Option<IpNet>>,
    flags: Vec<Option<(u16, u16)>>,
    src: Vec<PortMatch>,
    dst: Vec<PortMatch>,
    /// Why it is wider or narrower than the entry.
    pub(super) differs: Vec<Reason>,
}

fn is_icmp(family: Family, protocol: Protocol) -> bool {
    matches!(
        (protocol, family),
        (Protocol::Number(Protocol::ICMP), Family::V4) | (Protocol::Number(Protocol::ICMPV6), Family::V6)
    )
}

impl Named {
    /// How many rows it takes.
    pub(super) fn rows(&self) -> usize {
        let parts = [
            self.remote.len(),
            self.local.len(),
            self.flags.len(),
            self.src.len(),
            self.dst.len(),
        ];
        parts.into_iter().fold(1, usize::saturating_mul)
    }
}

/// Every row of an entry: one for each prefix, port and flags.
pub(super) fn product<'n>(
    family: Family,
    m: &Matcher,
    named: &'n Named,
) -> impl Iterator<Item = RowKey> + 'n {
    let first = RowKey {
        frame: FrameMatch::Ip(family),
        protocol: match m.protocol {
            Protocol::Any => None,
            Protocol::Number(number) => Some(number),
        },
        ..RowKey::ANY
    };
    let addresses = named
        .remote
        .iter()
        .flat_map(|remote| named.local.iter().map(move |local| (*remote, *local)));
    let inside = named.flags.iter().flat_map(|flags| {
        let pairs = named
            .src
            .iter()
            .flat_map(|src| named.dst.iter().map(move |dst| (*src, *dst)));
        pairs.map(move |(src, dst)| (*flags, src, dst))
    });
    let inside: Vec<_> = inside.collect();
    addresses.flat_map(move |(remote, local)| {
        inside.clone().into_iter().map(move |(flags, src, dst)| RowKey {
            remote,
            local,
            flags,
            src,
            dst,
            ..first
        })
    })
}

/// What one part of an entry is named by; an error says why it cannot be, exactly.
type Part<T> = Result<Vec<T>, Reason>;

impl Point<'_> {
    /// What an entry matches of plain packets and nothing else, or why the table cannot name it. Prefixes that are too long for a key
    /// are left out.
    pub(super) fn name_exactly(&self, family: Family, m: &Matcher) -> Result<Named, Reason> {
        let names = match m.protocol {
            Protocol::Any => None,
            Protocol::Number(number) => Some(number),
        };
        if family == Family::V6 && names.is_some_and(|number| IPV6_EXTENSIONS.contains(&number)) {
            return Err("its protocol is the number of an IPv6 extension header".to_string());
        }
        let (src, dst) = self.ports(family, m);
        let (remote, some_remote) = self.prefixes(family, &m.remote, REMOTE, "remote prefixes")?;
        let (local, some_local) = self.prefixes(family, &m.local, LOCAL, "local prefixes")?;
        Ok(Named {
            remote: as_remote(remote),
            local,
            flags: self.flags(m)?,
            src: src?,
            dst: dst?,
            differs: some_remote.into_iter().chain(some_local).collect(),
        })
    }

    /// What an entry matches and, where the table cannot name it, more.
    pub(super) fn name_wider(&self, family: Family, m: &Matcher) -> Named {
        let mut wider = Vec::new();
        fn or_all<T>(part: Part<T>, all: T, wider: &mut Vec<Reason>) -> Vec<T> {
            part.unwrap_or_else(|why| {
                wider.push(why);
                vec![all]
            })
        }
        let unsure = self.unsure(family, m.protocol);
        let (src, dst) = self.ports(family, m);
        let (mut src, mut dst) = (
            or_all(src, PortMatch::Any, &mut wider),
            or_all(dst, PortMatch::Any, &mut wider),
        );
        let mut flags = or_all(self.flags(m), None, &mut wider);
        if !unsure.is_empty() && looks_inside(m) {
            let kinds: Vec<String> = unsure.iter().map(ToString::to_string).collect();
            wider.push(format!(
                "its ports and types are left open, since the parser may show others for {}, unless they are accepted (accept)",
                kinds.join(", ")
            ));
            (src, dst, flags) = (vec![PortMatch::Any], vec![PortMatch::Any], vec![None]);
        }
        let mut addresses = |prefixes: &[IpNet], fields, what| {
            let why = match self.prefixes(family, prefixes, fields, what) {
                Ok((all, None)) => return all,
                Ok((_, Some(why))) | Err(why) => why,
            };
            wider.push(why);
            self.shortened(family, prefixes, fields)
        };
        let remote = as_remote(addresses(&m.remote, REMOTE, "remote prefixes"));
        let local = addresses(&m.local, LOCAL, "local prefixes");
        Named {
            remote,
            local,
            flags,
            src,
            dst,
            differs: wider,
        }
    }

    fn flags(&self, m: &Matcher) -> Part<Option<(u16, u16)>> {
        match m.flags {
            FlagMatch::Any => Ok(vec![None]),
            FlagMatch::NotOpening if self.masked(Field::TcpFlags) => Ok(NOT_OPENING.to_vec()),
            FlagMatch::NotOpening => Err(lacks(
                "TCP flags, which tell replies from new connections",
                Field::TcpFlags,
            )),
        }
    }

    fn ports(&self, family: Family, m: &Matcher) -> (Part<PortMatch>, Part<PortMatch>) {
        let any = || Ok(vec![PortMatch::Any]);
        if is_icmp(family, m.protocol) {
            let Some(icmp) = m.icmp else { return (any(), any()) };
            let one = |number: Option<u8>, field, what| match (number, self.kind(field)) {
                (None, _) => any(),
                (Some(_), None) => Err(lacks(what, field)),
                (Some(number), Some(MatchKind::Range)) => Ok(vec![PortMatch::Range {
                    low: number.into(),
                    high: number.into(),
                }]),
                (Some(number), Some(_)) => Ok(vec![PortMatch::Masked {
                    value: number.into(),
                    mask: 0xff,
                }]),
            };
            return (
                one(Some(icmp.kind), Field::IcmpType, "ICMP types"),
                one(icmp.code, Field::IcmpCode, "ICMP codes"),
            );
        }
        if m.protocol == Protocol::Any && !m.is_of_all_ports() {
            let why = || Err("it names ports of every protocol".to_string());
            return (why(), why());
        }
        (
            self.port(&m.src_ports, Field::SrcPort, "source ports"),
            self.port(&m.dst_ports, Field::DstPort, "destination ports"),
        )
    }

    fn port(&self, ports: &Ranges, field: Field, what: &str) -> Part<PortMatch> {
        if ports.is_all() {
            return Ok(vec![PortMatch::Any]);
        }
        match self.kind(field) {
            None => Err(lacks(what, field)),
            Some(MatchKind::Range) => Ok(ports
                .iter()
                .map(|(low, high)| PortMatch::Range { low, high })
                .collect()),
            Some(MatchKind::Ternary | MatchKind::Lpm) => {
                Ok(ports.iter().flat_map(|(low, high)| prefixes(low, high)).collect())
            }
            Some(MatchKind::Exact | MatchKind::Optional) if ports.count() > EXACT_VALUES => Err(format!(
                "its key `{field}` matches whole values, and the rule names more than {EXACT_VALUES}"
            )),
            Some(MatchKind::Exact | MatchKind::Optional) => {
                let all = ports.iter().flat_map(|(low, high)| low..=high);
                Ok(all.map(PortMatch::exactly).collect())
            }
        }
    }

    /// Prefixes of one version, as many bits of each as the key has; everywhere where there is none.
    fn shortened(&self, family: Family, prefixes: &[IpNet], (v4, v6): (Field, Field)) -> Vec<Option<IpNet>> {
        let field = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        if !self.masked(field) {
            return vec![None];
        }
        let width = self.table.key(field).map_or(0, |key| key.width);
        let own = prefixes
            .iter()
            .filter(|p| Family::from_address(p.addr()) == family);
        let short = |prefix: &IpNet| {
            let bits = u16::from(prefix.prefix_len()).min(width);
            IpNet::new(prefix.addr(), u8::try_from(bits).ok()?)
                .ok()
                .map(|p| p.trunc())
        };
        own.map(short).collect()
    }

    /// The prefixes of one version that a key can match, `None` for everywhere; and why some are missing, if they are.
    fn prefixes(
        &self,
        family: Family,
        prefixes: &[IpNet],
        (v4, v6): (Field, Field),
        what: &str,
    ) -> Result<Prefixes, Reason> {
        if prefixes.is_empty() {
            return Ok((vec![None], None));
        }
        let field = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        if !self.masked(field) {
            return Err(lacks(what, field));
        }
        let width = self.table.key(field).map_or(0, |key| key.width);
        let own = prefixes
            .iter()
            .filter(|p| Family::from_address(p.addr()) == family);
        let (fitting, longer): (Vec<IpNet>, Vec<IpNet>) =
            own.partition(|prefix| u16::from(prefix.prefix_len()) <= width);
        let why = longer
            .first()
            .map(|prefix| format!("its key `{field}` has {width} bits, and {prefix} names more"));
        match why {
            Some(why) if fitting.is_empty() => Err(why),
            why => Ok((fitting.into_iter().map(Some).collect(), why)),
        }
    }
}

/// Prefixes, `None` for everywhere, and why some are missing.
type Prefixes = (Vec<Option<IpNet>>, Option<Reason>);

fn as_remote(prefixes: Vec<Option<IpNet>>) -> Vec<RemoteMatch> {
    let matches = prefixes
        .into_iter()
        .map(|p| p.map_or(RemoteMatch::Any, RemoteMatch::Prefix));
    matches.collect()
}

/// The keys for addresses of the other side and the endpoint's own, IPv4 and IPv6.
const REMOTE: (Field, Field) = (Field::RemoteIpv4, Field::RemoteIpv6);
const LOCAL: (Field, Field) = (Field::LocalIpv4, Field::LocalIpv6);

fn lacks(what: &str, field: Field) -> Reason {
    format!("it cannot match {what} (no usable key `{field}`)")
}

//! The checks that an unlock program asks for, made by asking the world: DNS, and a greeting of the endpoint itself.
//!
//! Every query, every check and the number of checks at once are bounded. A check that cannot be made (no address to
//! check, no answer in time, SERVFAIL, REFUSED, an answer that is malformed or stays truncated, a limit of time) is
//! *undetermined*: it never passes. A name or record that is not there is a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

mod banner;
mod dkim;
mod dmarc;
mod dns;
mod host;
mod places;
mod question;
mod spf;
mod tags;

use places::Places;
pub use question::{Answer, Question};

/// How checks are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckerConfig {
    /// The resolvers to ask; when empty the system's, from `/etc/resolv.conf`, read again when it changes.
    pub resolvers: Vec<SocketAddr>,
    /// One try of one query.
    pub timeout: Duration,
    /// How often a query is tried, at least once and at most ten times.
    pub attempts: u32,
    /// A whole check; one that waits for others waits no longer than that, too.
    pub total: Duration,
    /// From connecting to one address to the end of its greeting.
    pub banner_timeout: Duration,
    /// Largest number of checks made at the same time.
    pub max_concurrent: usize,
    /// Whether a banner is asked of a loopback address: never but in tests, where the endpoint is this machine.
    pub loopback: bool,
}

impl Default for CheckerConfig {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            timeout: Duration::from_secs(3),
            attempts: 2,
            total: Duration::from_secs(20),
            banner_timeout: Duration::from_secs(5),
            max_concurrent: 32,
            loopback: false,
        }
    }
}

/// Makes checks; clones share their limits.
#[derive(Clone)]
pub struct Checker {
    shared: Arc<Shared>,
    owner: Arc<str>,
}

struct Shared {
    config: CheckerConfig,
    dns: dns::Dns,
    places: Places,
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Checker {
    /// A checker. Resolvers that cannot be used make checks undetermined.
    pub fn new(config: CheckerConfig) -> Self {
        let dns = dns::Dns::new(&config);
        let places = Places::new(config.max_concurrent);
        Self {
            shared: Arc::new(Shared { config, dns, places }),
            owner: Arc::from(""),
        }
    }

    /// The same checker on behalf of an owner, such as a tenant: at most a quarter of the places are one owner's.
    pub fn on_behalf_of(&self, owner: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            owner: Arc::from(owner),
        }
    }

    /// How it makes checks.
    pub fn config(&self) -> &CheckerConfig {
        &self.shared.config
    }

    /// Makes a check: an answer within three times [`CheckerConfig::total`], two thirds of it for waiting its turn. Dropping the
    /// future ends the check.
    pub async fn ask(&self, question: &Question) -> Answer {
        let shared = &*self.shared;
        // Who takes up all of its own part gets no other answer than who has a zone that does not answer.
        let Ok(place) = timeout(shared.config.total, shared.places.own(&self.owner)).await else {
            return Answer::undetermined("too many other checks of this tenant are being made");
        };
        let Ok(_place) = timeout(shared.config.total, place.of_all()).await else {
            return Answer::not_made("too many other checks are being made");
        };
        match timeout(shared.config.total, shared.make(question)).await {
            Ok(answer) => answer,
            Err(_) => Answer::undetermined("the check took too long"),
        }
    }
}

impl Shared {
    async fn make(&self, question: &Question) -> Answer {
        let dns = &self.dns;
        Answer::from_result(match question {
            Question::Fcrdns { addresses, hostname } => host::fcrdns(dns, addresses, hostname).await,
            Question::Ptr { addresses, hostname } => host::ptr(dns, addresses, hostname.as_deref()).await,
            Question::Address { hostname, must_have } => {
                host::address(dns, hostname, must_have.as_deref()).await
            }
            Question::Spf {
                domain,
                addresses,
                sender,
                accept_any,
            } => spf::spf(dns, domain, addresses, sender.as_deref(), *accept_any).await,
            Question::Dmarc { domain, policy } => dmarc::dmarc(dns, domain, *policy).await,
            Question::Dkim { domain, selector } => dkim::dkim(dns, domain, selector).await,
            Question::Banner {
                addresses,
                port,
                contains,
            } => {
                let config = &self.config;
                let each = config.banner_timeout;
                banner::banner(addresses, *port, contains.as_deref(), each, config.loopback).await
            }
        })
    }
}

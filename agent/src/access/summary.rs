//! Refusals as the log gets them: the first of a caller one by one, and those that follow within the minute as one. Callers
//! without a credential are distinguished by address, IPv6 by /64. Addresses beyond a bound are one caller.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::door::network;
use super::{Denial, Role};

/// Refusals of a caller that are logged one by one, within a minute.
const ALONE: u64 = 20;
/// The same of an address without a credential.
const ALONE_NOBODY: u64 = 1;
/// Callers and addresses that are distinguished within a minute.
const APART: usize = 64;
/// Who stands for all others.
const OTHERS: &str = "others";

/// The refusals of a minute.
#[derive(Debug, Default)]
pub struct Summaries {
    /// Minutes since the Unix epoch.
    minute: i64,
    seen: BTreeMap<(Option<Role>, String), SeenDenials>,
}

#[derive(Debug)]
struct SeenDenials {
    told: u64,
    /// Those that were not logged, as the last of them.
    rest: Option<Denial>,
}

/// Where an unauthenticated caller is, without what it can choose at will: the port, and the lower half of an
/// IPv6 address.
fn place(caller: &str) -> String {
    match caller.parse::<SocketAddr>().map(|address| network(address.ip())) {
        Ok(IpAddr::V4(v4)) => v4.to_string(),
        Ok(IpAddr::V6(v6)) => format!("{v6}/64"),
        Err(_) => caller.to_string(),
    }
}

impl Summaries {
    /// A refusal at this time, in milliseconds since the Unix epoch. What is to be logged now, in this order.
    pub fn take(&mut self, denial: Denial, now_ms: i64) -> Vec<Denial> {
        let mut told = self.turn(now_ms);
        let name = match denial.role {
            Some(_) => denial.caller.clone(),
            None => place(&denial.caller),
        };
        let mut key = (denial.role, name);
        if !self.seen.contains_key(&key) && self.seen.len() >= APART {
            key = (denial.role, OTHERS.to_string());
        }
        let alone = match (denial.role, key.1.as_str()) {
            (_, OTHERS) => 0,
            (None, _) => ALONE_NOBODY,
            (Some(_), _) => ALONE,
        };
        let caller = key.1.clone();
        let seen = self
            .seen
            .entry(key)
            .or_insert(SeenDenials { told: 0, rest: None });
        if seen.told < alone {
            seen.told += 1;
            told.push(denial);
            return told;
        }
        let (count, missed) = seen
            .rest
            .as_ref()
            .map_or((0, 0), |rest| (rest.count, rest.missed));
        seen.rest = Some(Denial {
            caller,
            count: count + denial.count,
            missed: missed + denial.missed,
            ..denial
        });
        told
    }

    /// What is to be logged of a minute that is over.
    pub fn turn(&mut self, now_ms: i64) -> Vec<Denial> {
        let minute = now_ms.div_euclid(60_000);
        if minute == self.minute {
            return Vec::new();
        }
        self.minute = minute;
        let seen = std::mem::take(&mut self.seen);
        seen.into_values().filter_map(|seen| seen.rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(from: &str) -> Denial {
        Denial::new(from, None, "m", "no credential")
    }

    #[test]
    fn an_address_is_told_once_and_then_summed_up() {
        let mut summaries = Summaries::default();
        let mut told = Vec::new();
        for port in 1..=1000 {
            told.extend(summaries.take(nobody(&format!("192.0.2.1:{port}")), 60_000));
        }
        assert_eq!(told, [nobody("192.0.2.1:1")]);
        let rest = summaries.turn(120_000);
        assert_eq!(
            rest,
            [Denial {
                count: 999,
                ..nobody("192.0.2.1")
            }]
        );
        assert!(summaries.turn(180_000).is_empty());
    }

    #[test]
    fn no_number_of_addresses_tells_much() {
        let mut summaries = Summaries::default();
        let (mut told, mut all) = (0, 0);
        for n in 0..100_000u32 {
            let from = match n % 3 {
                0 => format!("[2001:db8::{:x}:{:x}]:1", n >> 8, n & 255),
                1 => format!("[2001:db8:{:x}:{:x}::1]:1", n >> 8, n & 255),
                _ => format!("10.{}.{}.1:1", n >> 8 & 255, n & 255),
            };
            told += summaries.take(nobody(&from), 0).len() as u64;
            all += 1;
        }
        let rest = summaries.turn(60_000);
        let summed: u64 = rest.iter().map(|denial| denial.count).sum();
        assert_eq!(told + summed, all);
        assert!(
            told + rest.len() as u64 <= 2 * APART as u64 + 1,
            "{told} and {}",
            rest.len()
        );
    }

    #[test]
    fn callers_with_a_name_are_told_one_by_one_at_first() {
        let mut summaries = Summaries::default();
        let denial = Denial::new("token a", Some(Role::Tenant), "m", "why");
        let mut told = 0;
        for _ in 0..100 {
            told += summaries.take(denial.clone(), 0).len() as u64;
        }
        assert_eq!(told, ALONE);
        assert_eq!(summaries.turn(60_000)[0].count, 100 - ALONE);
    }
}

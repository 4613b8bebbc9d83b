//! Rules that a grant opens.

use ipnet::IpNet;
use portcullis_policy::{
    Family, FieldError, Matcher, Name, Opening, PortRange, Program, Rule, StrictPrefix, Verdict,
};

use super::{Evidence, Value};

/// Longest reason of a rule, in bytes, as documents have it.
const MAX_REASON: usize = 1024;

/// The rules that a grant of the program called `name` opens, one for each opening, narrowed by evidence: never more
/// than the program opens. The reason is the program's title, or its name.
pub fn rules(program: &Program, name: &str, evidence: &Evidence) -> Result<Vec<Rule>, Vec<FieldError>> {
    let title = if program.title.is_empty() {
        name
    } else {
        program.title.as_str()
    };
    let mut end = title.len().min(MAX_REASON);
    while !title.is_char_boundary(end) {
        end -= 1;
    }
    let reason = title.get(..end).unwrap_or_default();
    let mut rules = Vec::with_capacity(program.opens.len());
    let mut errors = Vec::new();
    for (index, opening) in program.opens.iter().enumerate() {
        match rule(index, opening, reason, evidence) {
            Ok(rule) => rules.push(rule),
            Err(wrong) => errors.extend(wrong),
        }
    }
    // Two openings that the same evidence narrows say the same of it.
    let mut seen: Vec<FieldError> = Vec::new();
    for error in errors {
        if !seen.contains(&error) {
            seen.push(error);
        }
    }
    if seen.is_empty() { Ok(rules) } else { Err(seen) }
}

fn rule(index: usize, opening: &Opening, reason: &str, evidence: &Evidence) -> Result<Rule, Vec<FieldError>> {
    let fail = |path: String, problem: String| FieldError { path, problem };
    let name: Name = format!("opens-{index}")
        .parse()
        .map_err(|error| vec![fail(format!("opens[{index}]"), format!("{error}"))])?;
    let mut rule = opening.rule(name, Verdict::Allow, reason);
    let mut errors = Vec::new();
    let of = |name: &str, problem: String| fail(format!("evidence.{name}"), problem);
    if let Some(from) = &opening.ports_from {
        match port(opening, evidence.get(from)) {
            Ok(port) => rule.ports = vec![port],
            Err(problem) => errors.push(of(from, problem)),
        }
    }
    if let Some(from) = &opening.remote_from {
        match remote(opening, evidence.get(from)) {
            Ok(prefix) => {
                rule.remote = vec![prefix];
                if Matcher::from_rule(&rule).is_none() {
                    let problem = format!("is of an IP version that has no {}", opening.protocol);
                    errors.push(of(from, problem));
                }
            }
            Err(problem) => errors.push(of(from, problem)),
        }
    }
    if errors.is_empty() { Ok(rule) } else { Err(errors) }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn port(opening: &Opening, value: Option<&Value>) -> Result<PortRange, String> {
    let Some(Value::Integer(number)) = value else {
        return Err(format!(
            "is missing: it chooses one of the ports {}",
            list(&opening.ports)
        ));
    };
    u16::try_from(*number)
        .ok()
        .filter(|port| opening.ports.iter().any(|r| r.low <= *port && *port <= r.high))
        .map(|port| PortRange {
            low: port,
            high: port,
        })
        .ok_or_else(|| format!("must be one of the ports {}", list(&opening.ports)))
}

fn remote(opening: &Opening, value: Option<&Value>) -> Result<StrictPrefix, String> {
    let net = match value {
        Some(Value::Address(address)) => IpNet::from(*address),
        Some(Value::Prefix(prefix)) => *prefix,
        _ => return Err("is missing: it chooses whom this opens to".to_string()),
    };
    if let Some(family) = opening
        .ip
        .filter(|family| *family != Family::from_address(net.addr()))
    {
        return Err(format!("must be {family}"));
    }
    if !opening.remote.is_empty() && !opening.remote.iter().any(|allowed| allowed.0.contains(&net)) {
        return Err(format!("must be within {}", list(&opening.remote)));
    }
    Ok(StrictPrefix(net))
}

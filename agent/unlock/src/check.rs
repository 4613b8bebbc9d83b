//! Validation of programs beyond the document's own: expressions, patterns, dates.

use portcullis_policy::{
    Approval, Document, EvidenceField, EvidenceType, FieldError, Name, Opening, Program,
};

use crate::evidence::{Pattern, day};
use crate::expression::{Expression, Scope};

/// Checks every program of a document that its own validation found good.
pub fn check_programs(document: &Document) -> Vec<FieldError> {
    document
        .programs
        .keys()
        .flat_map(|name| check_program(document, name))
        .collect()
}

/// Checks one program; what is not there has nothing wrong. Removing or adding one can make others wrong, which name
/// it in their expressions: [`check_programs`] after that.
pub fn check_program(document: &Document, name: &Name) -> Vec<FieldError> {
    let Some(program) = document.programs.get(name) else {
        return Vec::new();
    };
    let at = format!("programs.{name}");
    let mut errors = Vec::new();
    let mut fail = |path: String, problem: String| errors.push(FieldError { path, problem });
    let scope = Scope::new(program, document.programs.keys().map(Name::as_str));
    let manual_if = match &program.approval {
        Approval::ManualIf(text) => Some(text),
        Approval::Automatic | Approval::Manual => None,
    };
    for (field, text) in [
        ("require", program.require.as_ref()),
        ("approval.manual_if", manual_if),
    ] {
        if let Some(Err(error)) = text.map(|text| Expression::compile(text, &scope)) {
            fail(format!("{at}.{field}"), error.to_string());
        }
    }
    for (index, field) in program.evidence.iter().enumerate() {
        for (part, problem) in evidence(field) {
            fail(format!("{at}.evidence[{index}].{part}"), problem);
        }
    }
    for (index, opening) in program.opens.iter().enumerate() {
        if let Some(problem) = unreachable_ports(program, opening) {
            fail(format!("{at}.opens[{index}].ports_from"), problem);
        }
    }
    errors
}

fn evidence(field: &EvidenceField) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    match &field.kind {
        EvidenceType::Text {
            pattern: Some(pattern),
            ..
        } => {
            if let Err(problem) = Pattern::new(pattern) {
                wrong.push(("pattern".to_string(), problem));
            }
        }
        EvidenceType::Date {
            not_before,
            not_after,
        } => {
            for (part, text) in [("not_before", not_before), ("not_after", not_after)] {
                if let Some(text) = text.as_ref().filter(|text| day(text).is_none()) {
                    wrong.push((
                        part.to_string(),
                        format!("`{text}` is not a day: write 2026-11-27"),
                    ));
                }
            }
        }
        EvidenceType::Url { schemes } => {
            for (index, scheme) in schemes.iter().enumerate() {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
                let starts = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
                if !starts || !scheme.chars().all(legal) {
                    wrong.push((
                        format!("schemes[{index}]"),
                        format!("`{scheme}` is not a scheme: write https, without ://"),
                    ));
                }
            }
        }
        EvidenceType::Enum { values } => {
            for (index, value) in values.iter().enumerate() {
                if value.trim() != value || value.chars().any(char::is_control) {
                    wrong.push((
                        format!("values[{index}]"),
                        "has white space around it or control characters: it could not be submitted"
                            .to_string(),
                    ));
                }
            }
        }
        EvidenceType::Text { pattern: None, .. }
        | EvidenceType::Integer { .. }
        | EvidenceType::Boolean { .. }
        | EvidenceType::Hostname {}
        | EvidenceType::Email {}
        | EvidenceType::Address {}
        | EvidenceType::Prefix { .. } => {}
    }
    wrong
}

/// Whether no number that may be submitted is one of the ports.
fn unreachable_ports(program: &Program, opening: &Opening) -> Option<String> {
    let name = opening.ports_from.as_ref()?;
    let field = program.evidence.iter().find(|field| field.name == *name)?;
    let EvidenceType::Integer { min, max } = &field.kind else {
        return None;
    };
    let (min, max) = (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX));
    let reached = opening
        .ports
        .iter()
        .any(|range| i64::from(range.low) <= max && i64::from(range.high) >= min);
    (!reached).then(|| format!("`{name}` can be none of the ports: change its min and max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_programs_is_told_with_its_place() {
        let document = Document::from_yaml(
            r#"
version: portcullis/v1
programs:
  smtp-out:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    lease: {default: 1h}
    require: 'endpoint.age > duration("720h") && unlocks["smtp-out"].revocations == 0'
  web:
    opens:
      - {direction: ingress, protocol: tcp, ports: [80, 443]}
      - {direction: ingress, protocol: tcp, ports: [8000-8100], ports_from: port}
    evidence:
      - {name: note, type: text, pattern: '(a{1000}){1000}'}
      - {name: port, type: integer, max: 7999}
      - {name: since, type: date, not_before: '2026-01-1', not_after: '2026-02-30'}
      - {name: site, type: url, schemes: ['https://']}
      - {name: plan, type: enum, values: ['small ', large]}
    require: 'evidence.volumme < 5'
    approval: {manual_if: 'unlocks.smtp.active'}
    lease: {default: 1h}
"#,
        )
        .unwrap();
        let told: Vec<String> = check_programs(&document)
            .iter()
            .map(ToString::to_string)
            .collect();
        let begin = [
            "programs.web.require: line 1, column 10: there is no evidence `volumme`",
            "programs.web.approval.manual_if: line 1, column 9: there is no program `smtp`: there are smtp-out, web",
            "programs.web.evidence[0].pattern: is too large a regular expression",
            "programs.web.evidence[2].not_before: `2026-01-1` is not a day",
            "programs.web.evidence[2].not_after: `2026-02-30` is not a day",
            "programs.web.evidence[3].schemes[0]: `https://` is not a scheme",
            "programs.web.evidence[4].values[0]: has white space around it",
            "programs.web.opens[1].ports_from: `port` can be none of the ports",
        ];
        assert_eq!(told.len(), begin.len(), "{told:#?}");
        for (told, begin) in told.iter().zip(begin) {
            assert!(told.starts_with(begin), "{told}\n{begin}");
        }
        let name = "smtp-out".parse().unwrap();
        assert_eq!(check_program(&document, &name), []);
    }
}

//! Tag lists such as `v=DMARC1; p=none`, as in DMARC and DKIM records (RFC 6376 section 3.2).

/// Largest number of tags in a list; real lists have a dozen.
const MOST: usize = 100;

/// The tags in order, names as written; nothing when it is not such a list or says a tag twice.
pub(crate) fn tags(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut tags: Vec<(&str, &str)> = Vec::new();
    let text = text.trim();
    let text = text.strip_suffix(';').unwrap_or(text);
    for part in text.split(';') {
        if tags.len() == MOST {
            return None;
        }
        let (name, value) = tag(part)?;
        if tags.iter().any(|(other, _)| *other == name) {
            return None;
        }
        tags.push((name, value));
    }
    Some(tags)
}

/// The tags of a list that can be read, without those that cannot. A name that stands twice is left with both values empty,
/// since neither can be preferred, unless both are the same.
pub(crate) fn readable(text: &str) -> Vec<(&str, &str)> {
    let mut read: Vec<(&str, &str)> = Vec::new();
    for part in text.split(';').take(MOST) {
        let Some(tag) = tag(part) else { continue };
        match read.iter_mut().find(|(name, _)| *name == tag.0) {
            Some(other) if other.1 != tag.1 => other.1 = "",
            Some(_) => {}
            None => read.push(tag),
        }
    }
    read
}

fn tag(part: &str) -> Option<(&str, &str)> {
    let (name, value) = part.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    named.then_some((name, value))
}

/// The value of a tag.
pub(crate) fn value<'a>(tags: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    tags.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_from_other_text() {
        let list = tags(" v=DMARC1 ;p = none; rua=mailto:a@b.test?x=y;").unwrap();
        assert_eq!(list[0], ("v", "DMARC1"));
        assert_eq!(value(&list, "p"), Some("none"));
        assert_eq!(value(&list, "rua"), Some("mailto:a@b.test?x=y"));
        assert_eq!(value(&list, "sp"), None);
        let long: String = (0..1000).map(|n| format!("t{n}=1;")).collect();
        assert_eq!(tags(&long), None);
        for wrong in ["", "hello", "v=1;;p=2", "p=a;p=b", "1=2", "=x"] {
            assert_eq!(tags(wrong), None, "{wrong}");
        }
    }
}

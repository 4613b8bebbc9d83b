//! Text for people: text from outside without what steers a terminal and cut to a length, and errors with their causes.

use std::borrow::Cow;

/// Whether a terminal acts on a character instead of showing it: controls, and what turns the direction of text around.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{feff}')
}

/// A text on one line that a terminal shows as it is: characters that steer are written as Rust writes them.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// The same for a text of several lines.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| steers(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, what: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&what) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match what(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

/// JSON whose strings have no character that steers; it means the same. `text` is JSON.
pub fn plain_json(text: &str) -> Cow<'_, str> {
    // Outside of strings JSON has only blanks and line ends of that kind.
    let what = |c: char| steers(c) && !matches!(c, '\n' | '\t' | '\r');
    if !text.contains(what) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    let mut units = [0u16; 2];
    for c in text.chars() {
        if !what(c) {
            plain.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            plain.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(plain)
}

/// As much of a text as fits into `most` bytes, cut between two characters. A cut text ends by saying how long it was.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    cut_of(text, text.len(), most)
}

/// [`cut`] for the beginning of a text that has `whole` bytes.
pub fn cut_of(text: &str, whole: usize, most: usize) -> Cow<'_, str> {
    if text.len() <= most && whole <= most {
        return Cow::Borrowed(text);
    }
    let end = format!("… (cut, {whole} bytes)");
    let room = most.saturating_sub(end.len());
    Cow::Owned(format!("{}{end}", prefix(text, room)))
}

/// The longest beginning of a text of at most `most` bytes.
pub fn prefix(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// An error and its causes on one line, separated by `: `. A cause that ends the text before it is left out: some errors of
/// libraries repeat theirs.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_once_each() {
        let layer = |text, source| Layer { text, source };
        let cause = layer("disk full", None);
        let repeats = layer("cannot write: disk full", Some(Box::new(cause)));
        let error = layer("cannot start", Some(Box::new(repeats)));
        assert_eq!(with_causes(&error), "cannot start: cannot write: disk full");
    }

    #[test]
    fn nothing_that_steers_is_left() {
        assert_eq!(plain("naïve … 漢字"), "naïve … 漢字");
        assert_eq!(plain("\u{1b}[2J\u{9b}x"), "\\u{1b}[2J\\u{9b}x");
        assert_eq!(plain("a\nb\u{202e}c"), "a\\nb\\u{202e}c");
        assert_eq!(plain_lines("a\nb\rc"), "a\nb\\rc");
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            assert!(!plain(&c.to_string()).contains(steers), "{c:?}");
        }
    }

    #[test]
    fn json_means_the_same() {
        let text = "a\u{1b}\u{7f}\u{85}\u{202e}\u{feff}\n\"b";
        let json = serde_json::to_string(&serde_json::json!({ text: text })).unwrap();
        let plain = plain_json(&json);
        assert!(!plain.contains(steers), "{plain}");
        let read: serde_json::Value = serde_json::from_str(&plain).unwrap();
        assert_eq!(read, serde_json::json!({ text: text }));
    }

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(cut("short", 256), "short");
        for most in 0..100 {
            let long = "ä漢".repeat(50);
            let short = cut(&long, most);
            assert!(short.contains("cut, 250 bytes"), "{short}");
            assert!(short.len() <= most.max(30), "{most}: {}", short.len());
        }
    }
}

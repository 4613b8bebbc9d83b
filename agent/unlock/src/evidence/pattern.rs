//! Regular expressions of operators over text of customers.

use regex_automata::meta::{Config, Regex};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, Look};

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;
/// Largest automaton, in bytes. `\w{1,63}` needs more, for `\w` is the letters of every alphabet: `[0-9A-Za-z_]` does not.
const MAX_AUTOMATON: usize = 1024 * 1024;
/// Most that one search caches, in bytes.
const MAX_CACHE: usize = 256 * 1024;
/// Deepest nesting of groups.
const MAX_NEST: u32 = 32;

/// A compiled regular expression. Matching takes time linear in the text, whatever the pattern.
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// A pattern that the whole text has to match, or why it is refused.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let hir = read(pattern)?;
        // The anchors are put around what was understood, not around the text: `a)|(b` or a comment cannot undo them.
        build(&Hir::concat(vec![
            Hir::look(Look::Start),
            hir,
            Hir::look(Look::End),
        ]))
    }

    /// A pattern that any part of the text has to match, or why it is refused.
    pub(crate) fn anywhere(pattern: &str) -> Result<Self, String> {
        build(&read(pattern)?)
    }

    /// Whether the text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

fn read(pattern: &str) -> Result<Hir, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("is longer than {MAX_PATTERN} bytes"));
    }
    ParserBuilder::new()
        .nest_limit(MAX_NEST)
        .build()
        .parse(pattern)
        .map_err(|error| {
            let (at, why) = match &error {
                regex_syntax::Error::Parse(e) => (e.span().start.column, e.kind().to_string()),
                regex_syntax::Error::Translate(e) => (e.span().start.column, e.kind().to_string()),
                _ => (1, error.to_string()),
            };
            format!("is no regular expression: column {at}: {why}")
        })
}

fn build(hir: &Hir) -> Result<Pattern, String> {
    let config = Config::new()
        .nfa_size_limit(Some(MAX_AUTOMATON))
        .hybrid_cache_capacity(MAX_CACHE);
    Regex::builder()
        .configure(config)
        .build_from_hir(hir)
        .map(Pattern)
        .map_err(|error| match error.size_limit() {
            Some(limit) => {
                format!("is too large a regular expression: its automaton needs more than {limit} bytes; repeat less, or write [0-9A-Za-z_] for \\w")
            }
            None => "is a regular expression that cannot be used".to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_matches() {
        for (pattern, good, bad) in [
            ("a|ab", "ab", "abc"),
            ("[a-z]+", "abc", "abc1"),
            ("(?i)abc", "ABC", "xABC"),
            ("(?x) a b # c", "ab", "ab # c"),
            ("(?m)^a$", "a", "a\nb"),
            ("", "", "a"),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert!(compiled.matches(good), "{pattern}");
            assert!(!compiled.matches(bad), "{pattern}");
        }
        assert!(Pattern::anywhere("b").unwrap().matches("abc"));
        assert!(Pattern::new(r"[0-9A-Za-z_.-]{1,255}\.\w{1,9}").is_ok());
    }

    #[test]
    fn bombs_are_refused_or_linear() {
        for (pattern, why) in [
            ("(a{1000}){1000}", "too large"),
            (r"\pL{1000}", "too large"),
            ("((a{100}){100}){100}", "too large"),
            ("a)|(b", "column 2"),
            ("[a", "column 1"),
            (r"(?=a)b", "look-around"),
            (r"(a)\1", "backreferences"),
        ] {
            let error = Pattern::new(pattern).err().unwrap();
            assert!(error.contains(why), "{pattern}: {error}");
        }
        assert!(
            Pattern::new(&"(".repeat(500))
                .err()
                .unwrap()
                .contains("regular expression")
        );
        let deep = format!("{}a{}", "(".repeat(40), ")".repeat(40));
        assert!(Pattern::new(&deep).err().unwrap().contains("nest"));
        assert!(
            Pattern::new(&"a".repeat(2000))
                .err()
                .unwrap()
                .contains("longer than 1024")
        );
        for bomb in [
            "(a+)+$",
            "(a|a)*$",
            "(a*)*b",
            r"(.*a){12}",
            r"([a-z]*a[a-z]{1,20}){9}",
        ] {
            let compiled = Pattern::new(bomb).unwrap();
            // A search that backtracks would not come back.
            let start = std::time::Instant::now();
            assert!(!compiled.matches(&format!("{}!", "a".repeat(4000))), "{bomb}");
            assert!(start.elapsed().as_secs() < 10, "{bomb}: {:?}", start.elapsed());
        }
    }
}

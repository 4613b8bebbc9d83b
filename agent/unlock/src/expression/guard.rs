//! What is refused before the parser sees it: it recurses, and a stack that overflows ends the process.

use super::ExpressionError;

/// Longest expression, in bytes.
pub(super) const MAX_LENGTH: usize = 4096;
/// Most brackets inside one another.
const MAX_BRACKETS: usize = 24;
/// Most operators, dots and brackets on one way through the expression's tree, `&&`, `||` and `,` not counted.
const MAX_DEPTH: usize = 64;

/// A bracket that is open: what closes it, the depth where it began, and the depth reached since.
struct Level {
    close: char,
    base: usize,
    depth: usize,
}

/// Reads an expression's tokens, as the parser's lexer does: what it would not read as one is refused, so that nothing
/// hides in what one takes for a string and the other does not.
pub(super) fn guard(text: &str) -> Result<(), ExpressionError> {
    if text.len() > MAX_LENGTH {
        let problem = format!("is longer than {MAX_LENGTH} bytes");
        return Err(ExpressionError::start(problem));
    }
    let chars: Vec<char> = text.chars().collect();
    let fail = |at: usize, problem: &str| {
        let before: String = chars.iter().take(at).collect();
        Err(ExpressionError::at(text, before.len(), problem))
    };
    let mut levels = vec![Level {
        close: '\0',
        base: 0,
        depth: 0,
    }];
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let Some(level) = levels.last_mut() else {
            return fail(at, "closes a bracket that is not open");
        };
        match c {
            '"' | '\'' => match string(&chars, at) {
                Ok(end) => {
                    at = end;
                    continue;
                }
                Err((at, problem)) => return fail(at, problem),
            },
            '/' if next == Some('/') => {
                while chars.get(at).is_some_and(|c| *c != '\n') {
                    at += 1;
                }
                continue;
            }
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let start = at;
                while chars
                    .get(at)
                    .is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_')
                {
                    at += 1;
                }
                if chars.get(start..at) == Some(&['i', 'n']) {
                    level.depth += 1;
                }
                if level.depth > MAX_DEPTH {
                    return fail(start, "is nested too deeply");
                }
                continue;
            }
            '(' | '[' | '{' => {
                let (close, depth) = (
                    match c {
                        '(' => ')',
                        '[' => ']',
                        _ => '}',
                    },
                    level.depth + 1,
                );
                level.depth = depth;
                levels.push(Level {
                    close,
                    base: depth,
                    depth,
                });
                if levels.len() > MAX_BRACKETS {
                    return fail(at, "is nested too deeply");
                }
            }
            ')' | ']' | '}' => {
                if level.close != c {
                    return fail(at, "closes a bracket that is not open");
                }
                levels.pop();
            }
            '&' | '|' if next == Some(c) => {
                level.depth = level.base;
                at += 1;
            }
            ',' => level.depth = level.base,
            '?' => {
                level.base += 1;
                level.depth = level.base;
            }
            '.' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' => level.depth += 1,
            ':' | ' ' | '\t' | '\r' | '\n' | '\u{c}' => {}
            _ => return fail(at, "is a character that expressions do not have"),
        }
        if levels.last().is_some_and(|level| level.depth > MAX_DEPTH) {
            return fail(at, "is nested too deeply");
        }
        at += 1;
    }
    if levels.len() > 1 {
        return fail(chars.len(), "ends while a bracket is open");
    }
    Ok(())
}

/// Where the string that begins here ends, or what is wrong with it and where.
fn string(chars: &[char], start: usize) -> Result<usize, (usize, &'static str)> {
    const ENDLESS: &str = "begins a string that has no end";
    let quote = chars.get(start).copied().unwrap_or('"');
    let letter = |at: Option<usize>| {
        at.and_then(|at| chars.get(at))
            .copied()
            .filter(char::is_ascii_alphanumeric)
    };
    // r"…", b"…", rb"…" and br"…": a letter before those would be an identifier's.
    let raw = [start.checked_sub(1), start.checked_sub(2)]
        .into_iter()
        .map_while(letter)
        .take_while(|c| matches!(c, 'r' | 'R' | 'b' | 'B'))
        .any(|c| matches!(c, 'r' | 'R'));
    let is_quote = |at: usize| chars.get(at) == Some(&quote);
    let triple = is_quote(start + 1) && is_quote(start + 2);
    let mut at = start + if triple { 3 } else { 1 };
    loop {
        match chars.get(at) {
            None => return Err((start, ENDLESS)),
            Some('\n' | '\r') if !triple => return Err((start, ENDLESS)),
            Some(c) if *c == quote && (!triple || (is_quote(at + 1) && is_quote(at + 2))) => {
                return Ok(at + if triple { 3 } else { 1 });
            }
            Some('\\') if !raw => at = escape(chars, at)?,
            Some(_) => at += 1,
        }
    }
}

/// Where the escape that begins here ends.
fn escape(chars: &[char], at: usize) -> Result<usize, (usize, &'static str)> {
    let digits = |count: usize, good: fn(&char) -> bool| {
        let found = chars.get(at + 2..at + 2 + count);
        match found {
            Some(found) if found.iter().all(good) => Ok(at + 2 + count),
            _ => Err((at, "is an escape that is cut short")),
        }
    };
    match chars.get(at + 1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '?' | '"' | '\'' | '`') => Ok(at + 2),
        Some('x' | 'X') => digits(2, char::is_ascii_hexdigit),
        Some('u') => digits(4, char::is_ascii_hexdigit),
        Some('U') => digits(8, char::is_ascii_hexdigit),
        Some('0'..='3') => digits(2, |c| ('0'..='7').contains(c)),
        _ => Err((at, "is no escape that strings have: write `\\\\` for a backslash")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_told_with_its_place() {
        for (text, column, problem) in [
            ("a && (b", 8, "bracket is open"),
            ("a)", 2, "not open"),
            ("(a]", 3, "not open"),
            ("a == \"x", 6, "no end"),
            ("a == \"x\ny\"", 6, "no end"),
            ("a == \"\\q\"", 7, "no escape"),
            ("a == \"\\x1\"", 7, "cut short"),
            ("ä == 1", 1, "character"),
            ("\"ä\" == `a`", 8, "character"),
            ("a; b", 2, "character"),
        ] {
            let error = guard(text).unwrap_err();
            assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
        for text in [
            "r\"\\\" == a",
            "rb'\\q' == b\"\\\"\"",
            "'''a\n'b''' == \"\"",
            "a // (\n",
            "\"(((\" == ''",
        ] {
            assert_eq!(guard(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_would_recurse_deeply_is_refused() {
        let deep = |open: &str, close: &str, n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
        for text in [
            deep("(", ")", 2000),
            deep("[", "]", 25),
            deep("{1:", "}", 100),
            deep("a.b(", ")", 100),
            deep("", ".b", 100),
            deep("", "[0]", 100),
            deep("", " + 1", 100),
            deep("", " in a", 100),
            deep("a ? b : ", "", 100),
            deep("!", "", 100),
            deep("((a.b + ", "))", 20),
        ] {
            let error = guard(&text).unwrap_err();
            assert!(error.problem.contains("nested too deeply"), "{text}: {error}");
        }
        assert!(guard(&deep("", " && a.b == 1", 300)).is_ok());
        assert!(guard(&"a".repeat(5000)).is_err());
    }

    /// The deepest that is let through, in a stack half as large as threads have.
    #[test]
    fn what_is_let_through_does_not_overflow_the_stack() {
        use crate::expression::{Expression, Facts, Scope};
        let deep = |open: &str, middle: &str, close: &str, n: usize| {
            format!("{}{middle}{}", open.repeat(n), close.repeat(n))
        };
        let work = move || {
            let program = serde_json::json!({"opens": [], "lease": {"default": "1h"}});
            let program = serde_json::from_value(program).unwrap();
            let scope = Scope::new(&program, []);
            let mut compiled = 0;
            for (open, middle, close) in [
                ("(", "true", ")"),
                ("[", "1", "][0]"),
                ("!(", "true", ")"),
                ("1 + (", "1", ")"),
                ("(1 + 1 + ", "1", ")"),
                ("(1 * (2 + ", "1", "))"),
                ("true ? true : ", "true", ""),
                ("true ? (", "true", ") : false"),
                ("{'a': ", "1", "}['a']"),
                ("{1: {1: ", "1", "}[1]}[1]"),
                ("endpoint.labels.x == '' && (", "true", ")"),
                ("[1].all(x, ", "true", ")"),
                ("[[1].map(x, ", "1", ")][0]"),
                ("string(", "'a'", ")"),
                ("", "1", " + 1"),
                ("", "[[1]]", "[0]"),
                ("", "1", " < 1"),
                ("", "true", " && true || true"),
                ("-", "1", ""),
                ("!", "true", ""),
            ] {
                for (before, after) in [("", ""), ("", " == 1"), ("[", "] != []")] {
                    let whole = |n| format!("{before}{}{after}", deep(open, middle, close, n));
                    let most = (1..400).take_while(|n| guard(&whole(*n)).is_ok()).count();
                    for n in [most, most / 2] {
                        if let Ok(expression) = Expression::compile(&whole(n), &scope) {
                            let _ = expression.evaluate(&Facts::default());
                            compiled += 1;
                        }
                    }
                }
            }
            assert!(compiled > 50, "{compiled}");
        };
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(work);
        thread.unwrap().join().unwrap();
    }
}

//! Where answers and complaints go: answers to stdout, everything else to stderr. Whatever an answer holds, nothing that
//! steers a terminal comes through here: it is escaped, as the form of the answer has it.

use std::io::{self, Write};

use portcullis_policy::text::{plain_json, plain_lines, steers};
use serde::Serialize;

use super::Output;
use super::error::Failure;

/// An answer: for programs through serde, for people as text.
pub trait View: Serialize {
    /// For people, with a newline at its end; `width` in columns, unbounded when absent.
    fn text(&self, width: Option<u16>) -> String;
}

/// Stdout and stderr, and how answers are written.
pub struct Term<'a> {
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
    output: Output,
    width: Option<u16>,
}

impl std::fmt::Debug for Term<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Term")
            .field("output", &self.output)
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

/// Columns of the terminal behind stdout; none when stdout is no terminal.
pub fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

impl<'a> Term<'a> {
    /// Tables are at most `width` columns wide, or as wide as what they show.
    pub fn new(
        out: &'a mut (dyn Write + Send),
        err: &'a mut (dyn Write + Send),
        output: Output,
        width: Option<u16>,
    ) -> Self {
        Term {
            out,
            err,
            output,
            width,
        }
    }

    pub fn output(&self) -> Output {
        self.output
    }

    pub fn show(&mut self, view: &impl View) -> Result<(), Failure> {
        self.show_as(view, self.output)
    }

    /// Writes an answer in a given form.
    pub fn show_as(&mut self, view: &impl View, output: Output) -> Result<(), Failure> {
        let text = match output {
            Output::Table => plain_lines(&view.text(self.width)).into_owned(),
            Output::Json => json(view, true)?,
            Output::Yaml => yaml(view)?,
        };
        self.write(&text)
    }

    /// Writes one answer of a stream: a line, a JSON object on one line, or a YAML document.
    pub fn show_next(&mut self, view: &impl View) -> Result<(), Failure> {
        let text = match self.output {
            Output::Table => plain_lines(&view.text(None)).into_owned(),
            Output::Json => json(view, false)?,
            Output::Yaml => format!("---\n{}", yaml(view)?),
        };
        self.write(&text)
    }

    /// Writes text as it is: it must be of our own making.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(Failure::Write)
    }

    /// Says something on stderr.
    pub fn complain(&mut self, text: &str) {
        // Nobody is left to be told when stderr is gone.
        let _: io::Result<()> = writeln!(self.err, "{}", plain_lines(text));
    }
}

/// An answer as JSON, on one line or on several, with a newline at its end.
pub fn json(view: &impl Serialize, pretty: bool) -> Result<String, Failure> {
    let text = match pretty {
        true => serde_json::to_string_pretty(view),
        false => serde_json::to_string(view),
    };
    Ok(format!("{}\n", plain_json(&text.map_err(Failure::Json)?)))
}

fn yaml(view: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(view).map_err(Failure::Yaml)?;
    if text.contains(|c| steers(c) && c != '\n') {
        // JSON is YAML, too, and can escape every character.
        return json(view, true);
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

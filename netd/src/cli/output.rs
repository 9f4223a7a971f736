//! Where results and notes go. Nothing else of netctl writes to a stream.
//!
//! Results go to standard output as one document, everything else to standard error. A reader that closed its end
//! early (`netctl ps | head -1`) is no failure, and never a panic.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::args::Format;
use super::failure::{BAD_ANSWER, Exit, Failure, OUTPUT_FAILED};

/// The two streams.
pub(super) struct Terminal<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
}

impl Terminal<'_> {
    /// Writes the result.
    pub(super) fn result(&mut self, text: &str) -> Result<(), Failure> {
        match self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
        {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
                OUTPUT_FAILED,
                format!("the result cannot be written to standard output: {error}"),
            )),
            _ => Ok(()),
        }
    }

    /// Writes a line for the person in front of it.
    pub(super) fn note(&mut self, line: &str) {
        // There is nowhere left to say that standard error is closed.
        let _: io::Result<()> =
            writeln!(self.err, "{}", clean(line)).and_then(|()| self.err.flush());
    }

    /// Writes a text of several lines that netctl made itself.
    pub(super) fn text(&mut self, text: &str) {
        let _: io::Result<()> = self
            .err
            .write_all(text.as_bytes())
            .and_then(|()| self.err.flush());
    }

    /// Reports a failure: one line on standard error, and in the machine formats also the document that the result
    /// would have been.
    pub(super) fn failure(&mut self, format: Format, failure: &Failure) -> Exit {
        self.note(&format!("netctl: {} [{}]", failure.message, failure.code));
        if let Some(Ok(document)) = encode(format, &ErrorDocument { error: failure }) {
            // The line on standard error is out; a second failure to write would say nothing new.
            let _ = self.result(&document);
        }
        failure.exit()
    }
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: &'a Failure,
}

/// A value in a machine format; none for tables.
pub(super) fn encode(format: Format, value: &impl Serialize) -> Option<Result<String, Failure>> {
    let encoded = match format {
        Format::Table => return None,
        Format::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
        Format::Yaml => serde_norway::to_string(value).map_err(|error| error.to_string()),
    };
    Some(
        encoded.map_err(|error| {
            Failure::new(BAD_ANSWER, format!("the answer cannot be shown: {error}"))
        }),
    )
}

/// A text on one line that cannot steer a terminal: paths and messages may hold any character.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

//! netctl, the command line.
//!
//! Turns arguments into requests to the daemon and answers into what people or programs read. It holds no logic of
//! networking and changes nothing itself, but for two things: the file of `attach --resolv-conf`, and `purge` when no
//! daemon runs.
//!
//! - A result is one document on standard output; notes, warnings and errors are lines on standard error.
//! - With `-o json` or `-o yaml` an error is also the document `{"error":{code,message,details}}` on standard output.
//! - Exit codes are those of [`Exit`]. A value that is wrong is a failure (1), not a mistake of usage (2).

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};
use netd_model::{api, error};

pub mod args;
pub mod client;
mod doc;
mod events;
mod failure;
mod output;
mod request;
mod resolv;
mod run;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub use failure::{CODES, Exit};

use args::{Cli, Command, Format};
use failure::Failure;
use output::Terminal;
use session::{Page, Session};

/// Purges without a daemon.
pub type OfflinePurge = fn(&args::PurgeOptions) -> error::Result<api::Purged>;

/// The program netctl: `args` begin with its name.
pub fn main(args: impl IntoIterator<Item = OsString>, offline_purge: OfflinePurge) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    run(args, &mut out, &mut err, offline_purge).into()
}

/// The same with streams of the caller.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    offline_purge: OfflinePurge,
) -> Exit {
    let mut terminal = Terminal { out, err };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, &mut terminal),
    };
    let format = cli.output;
    let done = execute(cli, &mut terminal, offline_purge).and_then(|page| {
        page.notes.iter().for_each(|note| terminal.note(note));
        terminal.result(&page.text)
    });
    match done {
        Ok(()) => Exit::Done,
        Err(failure) => terminal.failure(format, &failure),
    }
}

/// The definition of the command line, for documentation made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

fn execute(
    cli: Cli,
    terminal: &mut Terminal<'_>,
    offline_purge: OfflinePurge,
) -> Result<Page, Failure> {
    if let Command::Completion { shell } = cli.command {
        return Ok(run::completion(shell, &mut command()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                error::Code::Internal.as_str(),
                format!("no asynchronous runtime can be had: {error}"),
            )
        })?;
    let session = Session {
        runtime,
        client: client::Client::new(cli.socket),
        format: cli.output,
    };
    session.execute(cli.command, terminal, offline_purge)
}

/// Help and version are results; a value that no command can take is a failure; all else is a mistake of usage.
fn unparsed(error: &clap::Error, terminal: &mut Terminal<'_>) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match terminal.result(&text) {
            Ok(()) => Exit::Done,
            Err(failure) => terminal.failure(Format::Table, &failure),
        },
        // A flag at the end of the line without its value is a missing argument.
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if has_value(error) => {
            terminal.failure(Format::Table, &invalid_value(error))
        }
        _ => {
            terminal.text(&text);
            Exit::Usage
        }
    }
}

fn has_value(error: &clap::Error) -> bool {
    matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if !value.is_empty())
}

fn invalid_value(error: &clap::Error) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let field: String = argument
        .trim_start_matches(['-', '<'])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
        .map(|c| {
            if c == '-' {
                '_'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect();
    let (value, valid) = (
        context(ContextKind::InvalidValue),
        context(ContextKind::ValidValue),
    );
    let remedy = if valid.is_empty() {
        "give a value".to_owned()
    } else {
        format!("use one of {valid}")
    };
    Failure::new(
        &format!("invalid_{field}"),
        format!("{value:?} is no value of {argument}: {remedy}"),
    )
}

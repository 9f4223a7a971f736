//! Running a foreign IPAM plugin, such as `host-local` or `static` (CNI spec 1.1.0, section 4).

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::env::Env;
use crate::error::{CONFIG, CniError, DECODE, FAILED, IO};
use crate::result::CniResult;

/// A plugin to delegate to.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    /// Its `type`: the name of its program.
    pub(crate) plugin: &'a str,
    pub(crate) env: &'a Env,
    /// The complete configuration, as it came.
    pub(crate) stdin: &'a [u8],
}

impl Delegate<'_> {
    /// ADD: the addresses that it chose.
    pub(crate) fn add(&self) -> Result<CniResult, CniError> {
        let out = self.run("ADD")?;
        let value = serde_json::from_slice::<Value>(&out).map_err(|error| {
            CniError::new(
                DECODE,
                format!("{}: its answer is no JSON: {error}", self.plugin),
            )
        })?;
        CniResult::read(&value).map_err(|error| CniError {
            msg: format!("{}: {}", self.plugin, error.msg),
            ..error
        })
    }

    /// Any verb without a result.
    pub(crate) fn run(&self, verb: &str) -> Result<Vec<u8>, CniError> {
        let failed = |error: std::io::Error| {
            CniError::new(IO, format!("{} cannot be run: {error}", self.plugin))
        };
        // The environment is the runtime's, but for the verb.
        let mut child = Command::new(self.program()?)
            .env("CNI_COMMAND", verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input says why by its exit code.
            let _ = stdin.write_all(self.stdin);
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let code = said["code"]
            .as_u64()
            .and_then(|code| u32::try_from(code).ok());
        let msg = said["msg"]
            .as_str()
            .map_or_else(|| output.status.to_string(), ToOwned::to_owned);
        let details = said["details"].as_str().unwrap_or_default();
        let error = CniError::new(code.unwrap_or(FAILED), format!("{}: {msg}", self.plugin));
        Err(error.with(details))
    }

    /// The path of its program.
    pub(crate) fn program(&self) -> Result<PathBuf, CniError> {
        if self.plugin.is_empty() || self.plugin.contains('/') || matches!(self.plugin, "." | "..")
        {
            return Err(CniError::new(
                CONFIG,
                format!("ipam type {:?} is no program's name", self.plugin),
            ));
        }
        let found = self
            .env
            .path
            .iter()
            .map(|dir| dir.join(self.plugin))
            .find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<String> = self
                .env
                .path
                .iter()
                .map(|dir| dir.display().to_string())
                .collect();
            CniError::new(
                CONFIG,
                format!(
                    "ipam plugin {:?} is in none of CNI_PATH ({}): install it",
                    self.plugin,
                    dirs.join(", ")
                ),
            )
        })
    }
}

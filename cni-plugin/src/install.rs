//! `netd-cni install` and `uninstall`.

use std::process::ExitCode;

pub(crate) fn main(_words: &[String]) -> ExitCode {
    ExitCode::from(2)
}

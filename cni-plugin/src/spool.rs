//! DELs while no daemon answers: a file beside the socket, which the daemon carries out when it starts.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use netd_model::cni::{Attachment, SPOOL};

use crate::error::{CniError, IO};

/// Writes a DEL down, by temporary file and rename; the answer is the file. None where nothing can be left to remove:
/// the run-dir, which lives as long as containers do, is not there.
pub(crate) fn put(socket: &Path, attachment: &Attachment) -> Result<Option<PathBuf>, CniError> {
    let Some(run_dir) = socket.parent().filter(|dir| dir.is_dir()) else {
        return Ok(None);
    };
    let dir = run_dir.join(SPOOL);
    let path = dir.join(attachment.spool_name());
    let text = serde_json::to_vec(attachment).unwrap_or_default();
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        std::fs::create_dir_all(&dir)?;
        std::fs::File::create(&fresh)?.write_all(&text)?;
        std::fs::rename(&fresh, &path)
    };
    match write() {
        Ok(()) => Ok(Some(path)),
        Err(error) => {
            let _ = std::fs::remove_file(&fresh);
            Err(CniError::new(
                IO,
                format!(
                    "netd does not answer, and the removal cannot be written down in {}: {error}",
                    dir.display()
                ),
            ))
        }
    }
}

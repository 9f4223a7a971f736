//! `/v1/containers`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use netd_model::api;
use netd_model::counters::{Counters, Dropped};
use netd_model::error::{Code, Error, Result};
use netd_model::request::{Attach, Join};

use super::ApiState;
use super::answer::{Reply, created, done, ok, removed};
use super::find::find;
use super::input::{Change, Json, Nothing, Params, Segments};
use crate::kernel::{Kernel, KernelError, Sandbox, SandboxError};
use crate::reconcile::handle::Request;

pub(super) async fn list(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    ok(&state.handle.snapshot().containers())
}

pub(super) async fn inspect(
    State(state): State<ApiState>,
    Segments(container): Segments<String>,
    _: Params<Nothing>,
) -> Reply {
    let snapshot = state.handle.snapshot();
    let views = snapshot.container_views.iter().map(Arc::as_ref);
    let mut shown = find(views, &container)?.clone();
    let counters = counters(&state).await?;
    shown.counters = Some(counters.of(&shown));
    Ok(ok(&shown))
}

/// What was counted, read on a thread that may block.
pub(super) async fn counters(state: &ApiState) -> Result<Counters> {
    counted(state, |kernel| kernel.counters()).await
}

/// What was dropped, likewise.
pub(super) async fn drops(state: &ApiState) -> Result<Dropped> {
    counted(state, |kernel| kernel.drops()).await
}

async fn counted<T: Send + 'static>(
    state: &ApiState,
    read: impl FnOnce(&dyn Kernel) -> std::result::Result<T, KernelError> + Send + 'static,
) -> Result<T> {
    let kernel = Arc::clone(&state.kernel);
    let read = tokio::task::spawn_blocking(move || read(kernel.as_ref())).await;
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(
            Code::KernelFailed,
            format!("the counters cannot be read: {error}"),
        )
    };
    read.map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

pub(super) async fn attach(
    State(state): State<ApiState>,
    Params(query): Params<Change>,
    Json(raw): Json<api::ContainerAttach>,
) -> Reply {
    let create_only = raw.create_only;
    let attach = Box::new(Attach::try_from(raw)?);
    let sandbox = open(state.kernel, PathBuf::from(&attach.netns)).await?;
    let request = Request::Attach {
        attach,
        sandbox,
        create_only,
    };
    Ok(created(state.handle.ask(request, query.dry_run).await?))
}

pub(super) async fn detach(
    State(state): State<ApiState>,
    Segments(container): Segments<String>,
    Params(query): Params<Change>,
) -> Reply {
    Ok(removed(
        state
            .handle
            .ask(Request::Detach(container), query.dry_run)
            .await?,
    ))
}

pub(super) async fn connect(
    State(state): State<ApiState>,
    Segments(container): Segments<String>,
    Params(query): Params<Change>,
    Json(raw): Json<api::Join>,
) -> Reply {
    let request = Request::Connect {
        container,
        join: Join::try_from(raw)?,
    };
    Ok(done(state.handle.ask(request, query.dry_run).await?))
}

pub(super) async fn disconnect(
    State(state): State<ApiState>,
    Segments((container, network)): Segments<(String, String)>,
    Params(query): Params<Change>,
) -> Reply {
    Ok(removed(
        state
            .handle
            .ask(Request::Disconnect { container, network }, query.dry_run)
            .await?,
    ))
}

/// Opens a namespace on a thread that may block: the path is the client's, and may lie on a dead file system. A process's
/// own entry cannot block, and saves the way there and back, a tenth of an attach.
pub(super) async fn open(kernel: Arc<dyn Kernel>, path: PathBuf) -> Result<Sandbox> {
    if is_in_procfs(&path) {
        return kernel
            .open_sandbox(&path)
            .map_err(|error| invalid_netns(&error));
    }
    let opened = tokio::task::spawn_blocking(move || kernel.open_sandbox(&path)).await;
    opened
        .map_err(|error| {
            Error::new(
                Code::Internal,
                format!("opening the network namespace broke off: {error}"),
            )
        })?
        .map_err(|error| invalid_netns(&error))
}

/// `/proc/PID/ns/net` or `/proc/PID/task/TID/ns/net`, and nothing that leads out of there, such as `/proc/PID/root`.
fn is_in_procfs(path: &Path) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = path.to_str().unwrap_or_default().split('/').collect();
    match parts[..] {
        ["", "proc", pid, "ns", "net"] => is_number(pid),
        ["", "proc", pid, "task", tid, "ns", "net"] => is_number(pid) && is_number(tid),
        _ => false,
    }
}

fn invalid_netns(error: &SandboxError) -> Error {
    if error.is_lack_of_files() {
        let text = format!("{error}: raise netd's limit of open files (LimitNOFILE)");
        return Error::new(Code::TooManyFiles, text);
    }
    let (path, remedy) = match error {
        SandboxError::Open { path, .. } => (
            path,
            "give the path of one that exists, its name under /run/netns, or pid:N",
        ),
        SandboxError::NotNetns { path } => {
            (path, "give /run/netns/NAME, /proc/PID/ns/net, or pid:N")
        }
        SandboxError::Host { path } => (path, "give the namespace of a container"),
    };
    // A path may hold anything but a zero byte; the message is one line.
    let reason: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Error::new(Code::InvalidNetns, format!("{reason}: {remedy}"))
        .with("netns", path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespace_links_of_processes_are_opened_at_once() {
        for path in ["/proc/1/ns/net", "/proc/12/task/345/ns/net"] {
            assert!(is_in_procfs(Path::new(path)), "{path}");
        }
        for path in [
            "/proc/1/root/mnt/nfs/ns/net",
            "/proc/1/cwd/ns/net",
            "/proc/self/ns/net",
            "/proc//ns/net",
            "/proc/1/../../mnt/ns/net",
            "/proc/1/task/../ns/net",
            "/proc/1/ns/net/",
            "proc/1/ns/net",
            "/run/netns/a",
            "",
        ] {
            assert!(!is_in_procfs(Path::new(path)), "{path}");
        }
    }
}

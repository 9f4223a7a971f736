//! The end of serving: running requests are finished, stalled clients are not waited for.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::daemon::{Dir, no_kernel};
use crate::api::serve::serve_with_grace;
use crate::api::{ApiState, Notices};
use crate::limits::Limits;
use crate::reconcile::handle::{Answer, Handle, Message};

struct Server {
    dir: Dir,
    runtime: tokio::runtime::Runtime,
    inbox: mpsc::Receiver<Message>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

fn serve_with(grace: Duration) -> Server {
    let dir = Dir::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (messages, inbox) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = runtime.block_on(async { UnixListener::bind(dir.0.join("s")).unwrap() });
    let handle = Handle {
        journal: std::sync::Arc::default(),
        messages,
        snapshot: Arc::new(ArcSwap::default()),
    };
    let shutdown = async move {
        let _ = stopped.await;
    };
    let state = ApiState {
        spool: std::sync::Arc::default(),
        handle,
        kernel: no_kernel(),
        notices: Notices::default(),
        names: None,
        metrics: crate::api::metrics::Registry::default(),
    };
    let served = runtime.spawn(serve_with_grace(
        listener,
        state,
        Limits::of(1024),
        shutdown,
        grace,
    ));
    Server {
        dir,
        runtime,
        inbox,
        stop,
        served,
    }
}

#[test]
fn a_running_request_is_finished_and_an_idle_connection_is_closed() {
    let mut server = serve_with(Duration::from_mins(1));
    let socket = server.dir.0.join("s");
    let idle = UnixStream::connect(&socket).unwrap();
    let mut busy = UnixStream::connect(&socket).unwrap();
    busy.write_all(b"DELETE /v1/containers/web HTTP/1.1\r\nhost: n\r\n\r\n")
        .unwrap();
    let message = server.runtime.block_on(server.inbox.recv()).unwrap();
    server.stop.send(()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!server.served.is_finished(), "a request is running");
    message.reply.send(Ok(Answer::Done)).unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("{}\n"),
        "{answer}"
    );
    server.runtime.block_on(server.served).unwrap().unwrap();
    drop(idle);
    UnixStream::connect(&socket).unwrap_err();
}

#[test]
fn a_client_that_never_finishes_does_not_keep_the_daemon() {
    let server = serve_with(Duration::from_millis(100));
    let mut stalled = UnixStream::connect(server.dir.0.join("s")).unwrap();
    stalled
        .write_all(b"POST /v1/networks HTTP/1.1\r\nhost: n\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    server.stop.send(()).unwrap();
    server.runtime.block_on(server.served).unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_client_that_hangs_up_cancels_nothing() {
    let mut server = serve_with(Duration::from_mins(1));
    let mut client = UnixStream::connect(server.dir.0.join("s")).unwrap();
    client
        .write_all(b"DELETE /v1/containers/web HTTP/1.1\r\nhost: n\r\n\r\n")
        .unwrap();
    let message = server.runtime.block_on(server.inbox.recv()).unwrap();
    drop(client);
    std::thread::sleep(Duration::from_millis(50));
    // The owner learns of it only when it answers, and then the work is done.
    let _ = message.reply.send(Ok(Answer::Done));
    server.stop.send(()).unwrap();
    server.runtime.block_on(server.served).unwrap().unwrap();
}

//! Connections: how many there are, how long a client may take, and how they end.
//!
//! Whatever clients do, the next one is heard: a connection on which nothing is being worked makes room for it, and
//! requests that change something are bounded in number, while those that only read are always answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderValue, Method, Request, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use netd_model::error::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};

use super::answer::Refusal;
use super::{ApiState, router};
use crate::limits::Limits;
use crate::reconcile::handle::too_many;

/// How long `serve` waits for running requests after the shutdown began: a client that never finishes its request
/// must not keep the daemon alive.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long a client may take for the head of a request, and be silent between two.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// When no connection can be taken: how long until the next try.
const PAUSE: Duration = Duration::from_millis(20);
/// After the log told of a lack: how long until it may again.
const SILENCE: Duration = Duration::from_secs(10);

/// Serves the API until `shutdown` is done; then takes no new connection, finishes running requests and returns, at
/// the latest after [`GRACE`].
pub async fn serve(
    listener: UnixListener,
    state: ApiState,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_with_grace(listener, state, limits, shutdown, GRACE).await
}

pub(super) async fn serve_with_grace(
    listener: UnixListener,
    state: ApiState,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    let book = Arc::new(Book::new(limits));
    let journal = Arc::clone(&state.handle.journal);
    let router = TowerToHyperService::new(router(state));
    let (stop, stopping) = watch::channel(false);
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut shutdown = pin!(shutdown);
    loop {
        let room = book.make_room();
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            // All are being worked on; each takes a bounded time.
            () = tokio::time::sleep(PAUSE), if !room => continue,
            accepted = listener.accept(), if room => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = book.enter();
                let service = Service {
                    router: router.clone(),
                    place,
                };
                tokio::spawn(converse(stream, service, stopping.clone(), alive.clone()));
                // Who has sent its request already is at work before the next one comes.
                tokio::task::yield_now().await;
            }
            Err(error) => book.relieve(&error).await,
        }
    }
    // Nobody connects any more, or waits in a queue that is not served.
    drop((listener, alive));
    // Who follows the events would never finish.
    journal.close();
    let _ = stop.send(true);
    if tokio::time::timeout(grace, all_gone.recv()).await.is_err() {
        tracing::warn!(
            "some clients did not finish their requests in {} s",
            grace.as_secs()
        );
    }
    Ok(())
}

/// Answers on one connection until it ends, by whomever.
async fn converse(
    stream: UnixStream,
    service: Service,
    mut stopping: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
) {
    let place = Arc::clone(&service.place);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let mut conversation = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut told = false;
    loop {
        tokio::select! {
            result = conversation.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            () = place.connection.end.notified() => {
                tracing::debug!("a silent connection made room for another");
                return;
            }
            _ = stopping.wait_for(|stop| *stop), if !told => {
                told = true;
                conversation.as_mut().graceful_shutdown();
            }
        }
    }
}

/// One connection, as those see it who need room.
#[derive(Debug, Default)]
struct Connection {
    /// A request is complete up to its body, and not answered yet.
    working: AtomicBool,
    end: Notify,
}

/// All connections, by age, and how many requests are under way.
#[derive(Debug)]
struct Book {
    limits: Limits,
    open: Mutex<(u64, BTreeMap<u64, Arc<Connection>>)>,
    requests: AtomicUsize,
    /// When the log last told of a lack.
    told: Mutex<Option<Instant>>,
}

/// A connection's entry, for as long as the connection lasts.
#[derive(Debug)]
struct Place {
    book: Arc<Book>,
    number: u64,
    connection: Arc<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.lock().1.remove(&self.number);
    }
}

impl Book {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Mutex::default(),
            requests: AtomicUsize::new(0),
            told: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Connection>>)> {
        // Each change is one insert or remove: a panic leaves it whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Arc<Place> {
        let connection = Arc::new(Connection::default());
        let mut open = self.lock();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, Arc::clone(&connection));
        Arc::new(Place {
            book: Arc::clone(self),
            number,
            connection,
        })
    }

    /// Whether there is room for one more connection, after the oldest without work was closed for it.
    fn make_room(&self) -> bool {
        self.lock().1.len() < self.limits.connections || self.close_oldest()
    }

    fn close_oldest(&self) -> bool {
        let mut open = self.lock();
        let oldest = open
            .1
            .iter()
            .find(|(_, connection)| !connection.working.load(Ordering::Relaxed))
            .map(|(number, _)| *number);
        let Some(connection) = oldest.and_then(|number| open.1.remove(&number)) else {
            return false;
        };
        connection.end.notify_one();
        true
    }

    /// The log of a daemon in need is not flooded.
    fn may_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|at| at.elapsed() > SILENCE);
        if may {
            *told = Some(Instant::now());
        }
        may
    }

    /// After a connection could not be taken. A client that went away is nothing; without a descriptor, one that does
    /// nothing gives back its own.
    async fn relieve(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        let closed = self.close_oldest();
        if self.may_tell() {
            tracing::error!(%error, closed, "a connection cannot be taken: raise the limit of open files (LimitNOFILE)");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A request under way.
#[derive(Debug)]
struct Working {
    place: Arc<Place>,
    counted: bool,
}

impl Working {
    fn begin(place: &Arc<Place>, counted: bool) -> Result<Self, Error> {
        let Book {
            limits, requests, ..
        } = &*place.book;
        if counted && requests.fetch_add(1, Ordering::Relaxed) >= limits.requests {
            requests.fetch_sub(1, Ordering::Relaxed);
            if place.book.may_tell() {
                tracing::warn!(
                    limit = limits.requests,
                    "requests are refused: too many are under way"
                );
            }
            return Err(too_many(limits.requests));
        }
        place.connection.working.store(true, Ordering::Relaxed);
        Ok(Self {
            place: Arc::clone(place),
            counted,
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.place
            .connection
            .working
            .store(false, Ordering::Relaxed);
        if self.counted {
            self.place.book.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What is answered from the snapshot needs no bound: it waits for nobody.
fn is_read<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && request.uri().path() != "/v1/plan"
}

/// The router, behind the bounds.
#[derive(Clone, Debug)]
struct Service {
    router: TowerToHyperService<Router>,
    place: Arc<Place>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match Working::begin(&self.place, !is_read(&request)) {
            Ok(working) => {
                let answer = self.router.call(request);
                Box::pin(async move {
                    let response = answer.await;
                    drop(working);
                    response
                })
            }
            Err(error) => {
                let mut response = Refusal::from(error).into_response();
                // The body is not read.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netd_model::error::Code;

    use super::*;

    fn book(connections: usize, requests: usize) -> Arc<Book> {
        Arc::new(Book::new(Limits {
            connections,
            requests,
            lasting: 0,
        }))
    }

    #[test]
    fn the_oldest_without_work_makes_room() {
        let book = book(2, 2);
        let (a, b) = (book.enter(), book.enter());
        let _working = Working::begin(&a, true).unwrap();
        assert!(book.make_room());
        assert_eq!(book.lock().1.keys().copied().collect::<Vec<_>>(), [1]);
        let c = book.enter();
        drop(b);
        let busy = Working::begin(&c, true).unwrap();
        assert!(!book.make_room(), "both are being worked on");
        drop(busy);
        drop(c);
        assert!(book.make_room());
    }

    #[test]
    fn changes_are_bounded_and_reads_are_not() {
        let book = book(8, 1);
        let place = book.enter();
        let one = Working::begin(&place, true).unwrap();
        let refused = Working::begin(&place, true).unwrap_err();
        assert_eq!(refused.code, Code::TooManyRequests);
        drop(Working::begin(&place, false).unwrap());
        drop(one);
        drop(Working::begin(&place, true).unwrap());
        let get = |uri: &str| is_read(&Request::get(uri).body(()).unwrap());
        assert!(get("/v1/status") && get("/readyz") && !get("/v1/plan"));
        assert!(!is_read(&Request::post("/v1/status").body(()).unwrap()));
    }
}

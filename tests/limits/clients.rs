//! Clients that are too many, too slow, or too loud.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netd_tests::host::Host;
use netd_tests::lab::{self, Netns, PATIENCE};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the other end closes. One that closes before it has read all is no failure.
fn rest(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Lets this process open that many files; tests that need more than the machine allows are left out.
fn files(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < wanted {
        lab::skip(&format!(
            "the hard limit of open files is {hard}, and {wanted} are needed"
        ));
    }
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

pub(super) fn five_thousand_requests() {
    const THREADS: usize = 50;
    const EACH: usize = 100;
    files(8192);
    let host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network=web"]);
    let request =
        b"POST /v1/audit HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let answers: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    // All are asked before the first answer is read.
                    let mut streams: Vec<_> = (0..EACH).map(|_| connect(&host)).collect();
                    for stream in &mut streams {
                        let _ = stream.write_all(request);
                    }
                    streams.iter_mut().map(rest).collect::<Vec<_>>()
                })
            })
            .collect();
        while !clients
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            assert_eq!(
                host.netctl(&["status"]).code,
                0,
                "status answers throughout"
            );
            // Not all of the machine for this.
            std::thread::sleep(Duration::from_millis(200));
        }
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    let count = |status: &str| {
        answers
            .iter()
            .filter(|answer| status_of(answer) == status)
            .count()
    };
    let (done, refused) = (count("200"), count("429"));
    // Who was silent when room was needed is closed without a word, and has changed nothing.
    let closed = answers.iter().filter(|answer| answer.is_empty()).count();
    assert_eq!(
        done + refused + closed,
        THREADS * EACH,
        "{done} done, {refused} refused, {closed} closed"
    );
    assert!(done > 0, "{refused} refused, {closed} closed");
    for answer in answers.iter().filter(|answer| status_of(answer) == "429") {
        assert!(
            answer.contains("too_many_requests") && answer.contains("try again"),
            "{answer}"
        );
    }
    host.assert_healthy();
    host.done();
}

/// More connections than netd takes, on which nobody says a word.
pub(super) fn silent_clients() {
    let mut host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    // 1,024 files: 128 connections.
    host.start_daemon_as("__few", &["1024"]);
    files(2048);
    let mut silent: Vec<_> = (0..500).map(|_| connect(&host)).collect();
    let begin = Instant::now();
    assert_eq!(host.netctl(&["status"]).code, 0);
    let a = Netns::new("a");
    host.attach(&a, &[]);
    host.ok(&["detach", "a"]);
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "before anybody's time is over"
    );
    assert_eq!(rest(&mut silent[0]), "", "the oldest made room");
    host.done();
}

/// Half a head is closed, half a body is told; neither keeps others from anything.
pub(super) fn unfinished_requests() {
    let host = Host::start("h1");
    let (mut head, mut body) = (connect(&host), connect(&host));
    let begin = Instant::now();
    head.write_all(b"POST /v1/networks HTTP/1.1\r\nhost: n\r\n")
        .unwrap();
    body.write_all(
        b"POST /v1/networks HTTP/1.1\r\nhost: n\r\ncontent-length: 40\r\n\r\n{\"name\":",
    )
    .unwrap();
    // A byte now and then does not help: the time is that of the whole.
    let mut drip = body.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        while drip.write_all(b" ").is_ok() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(700));
        }
    });
    host.ok(&["network", "create", "web"]);
    assert_eq!(host.netctl(&["status"]).code, 0);
    let told = rest(&mut body);
    assert_eq!(status_of(&told), "408", "{told}");
    assert!(told.contains("request_timeout"), "{told}");
    let closed = rest(&mut head);
    assert!(closed.is_empty() || status_of(&closed) == "408", "{closed}");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    drop(body);
    dripping.join().unwrap();
    host.done();
}

pub(super) fn a_body_that_is_too_big() {
    let host = Host::start("h1");
    for size in [(1 << 20) + 1, 8 << 20] {
        let answer = host.api("POST", "/v1/networks", &" ".repeat(size));
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (400, &"invalid_json".into())
        );
        assert!(
            answer.body["error"]["message"]
                .to_string()
                .contains("at most"),
            "{answer:?}"
        );
    }
    // Without an end: closed, sooner or later, and nobody else waits.
    let mut endless = connect(&host);
    endless
        .write_all(b"POST /v1/networks HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    while endless.write_all(chunk.as_bytes()).is_ok() {}
    assert_eq!(host.netctl(&["status"]).code, 0);
    host.done();
}

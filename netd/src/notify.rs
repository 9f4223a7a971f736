//! Tells the service manager how far the daemon is (sd_notify(3)).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::api::Notices;
use crate::reconcile::handle::{Handle, Snapshot};

/// Without a watchdog, how often the status text is brought up to date.
const STATUS: Duration = Duration::from_secs(30);

/// Sends states such as `READY=1`, one a line; does nothing without a service manager.
pub(crate) fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let bytes = name.as_bytes();
    let address = match bytes.split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(&name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, state, "the service manager could not be told");
    }
}

/// `RELOADING=1` with the time of now, by which the service manager tells reloads apart.
pub(crate) fn reloading() -> String {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros())
}

/// `READY=1` with what is served.
pub(crate) fn ready(snapshot: &Snapshot, notices: &Notices) -> String {
    format!("READY=1\n{}", status(snapshot, notices))
}

/// One line for `systemctl status`. Pure.
fn status(snapshot: &Snapshot, notices: &Notices) -> String {
    let (networks, containers) = (snapshot.network_views.len(), snapshot.container_views.len());
    let warnings = snapshot.warnings.len() + notices.all().len();
    let begin = if snapshot.ready {
        format!("STATUS={networks} networks, {containers} containers")
    } else {
        "STATUS=Starting: the first audit is not done".to_owned()
    };
    match warnings {
        0 => begin,
        1 => format!("{begin}; 1 warning, see netctl status"),
        many => format!("{begin}; {many} warnings, see netctl status"),
    }
}

/// How long the service manager waits for a sign of life, if it waits for one of this process. Pure.
fn watchdog(microseconds: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|us| *us > 0)?;
    Some(Duration::from_micros(microseconds))
}

/// The watchdog that the environment asks for.
pub(crate) fn watchdog_of_environment() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
        std::process::id(),
    )
}

/// Tells, until the owner is gone, that it lives and what is served. The owner is asked each time: while it does not
/// answer, nothing is sent, and the service manager starts netd anew.
pub(crate) async fn heartbeat(
    handle: Handle,
    notices: Notices,
    watchdog: Option<Duration>,
    send: impl Fn(&str),
) {
    let pause = watchdog.map_or(STATUS, |time| time / 2);
    let mut told = String::new();
    loop {
        if !handle.is_alive().await {
            return;
        }
        let mut lines = Vec::new();
        if watchdog.is_some() {
            lines.push("WATCHDOG=1".to_owned());
        }
        let now = status(&handle.snapshot(), &notices);
        if now != told {
            lines.push(now.clone());
            told = now;
        }
        if !lines.is_empty() {
            send(&lines.join("\n"));
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arc_swap::ArcSwap;
    use tokio::sync::mpsc;

    use super::*;
    use crate::reconcile::handle::{Answer, Request};

    #[test]
    fn the_watchdog_is_for_one_process() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("8"), 7), None);
        for none in [None, Some("0"), Some("x")] {
            assert_eq!(watchdog(none, None, 7), None);
        }
    }

    #[test]
    fn the_status_is_one_line() {
        let notices = Notices::default();
        let mut snapshot = Snapshot::default();
        assert!(status(&snapshot, &notices).starts_with("STATUS=Starting"));
        snapshot.ready = true;
        notices.set(vec!["a".to_owned()]);
        assert_eq!(
            ready(&snapshot, &notices),
            "READY=1\nSTATUS=0 networks, 0 containers; 1 warning, see netctl status"
        );
        let reloading = reloading();
        let time = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_owner_stops_the_signs_of_life() {
        let (messages, mut inbox) = mpsc::channel(4);
        let handle = Handle {
            journal: std::sync::Arc::default(),
            messages,
            snapshot: Arc::new(ArcSwap::default()),
        };
        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&sent);
        let beating = tokio::spawn(heartbeat(
            handle,
            Notices::default(),
            Some(Duration::from_secs(20)),
            move |text| record.lock().unwrap().push(text.to_owned()),
        ));
        let begin = tokio::time::Instant::now();
        for _ in 0..3 {
            let message = inbox.recv().await.unwrap();
            assert!(matches!(message.request, Request::Alive));
            message.reply.send(Ok(Answer::Done)).unwrap();
        }
        let stuck = inbox.recv().await.unwrap();
        assert_eq!(
            begin.elapsed(),
            Duration::from_secs(30),
            "at half of the time"
        );
        tokio::time::sleep(Duration::from_mins(10)).await;
        {
            let sent = sent.lock().unwrap();
            assert_eq!(sent.len(), 3, "{sent:?}");
            assert!(sent.iter().all(|text| text.starts_with("WATCHDOG=1")));
            assert_eq!(
                sent.iter().filter(|text| text.contains("STATUS=")).count(),
                1
            );
        }
        // A late answer is a sign of life again.
        stuck.reply.send(Ok(Answer::Done)).unwrap();
        inbox.recv().await.unwrap();
        assert_eq!(sent.lock().unwrap().len(), 4);
        drop(inbox);
        beating.await.unwrap();
    }
}

//! Namespaces, sandboxes, DNS sockets, and how far a list of operations comes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use socket2::SockRef;

use super::*;
use crate::kernel::{KernelErrorKind, SandboxError};

fn here() -> (u64, u64) {
    ns::identity(ns::own().unwrap()).unwrap()
}

#[test]
fn only_foreign_network_namespaces_are_sandboxes() {
    in_lab("only_foreign_network_namespaces_are_sandboxes", |lab| {
        let open = |path: &str| lab.kernel.open_sandbox(Path::new(path));
        assert!(matches!(
            open("/proc/thread-self/ns/net"),
            Err(SandboxError::Host { .. })
        ));
        for other in [
            "/proc/thread-self/ns/uts",
            "/proc/thread-self/ns/mnt",
            "/proc",
            "/dev/null",
            "/etc/passwd",
        ] {
            assert!(
                matches!(open(other), Err(SandboxError::NotNetns { .. })),
                "{other}"
            );
        }
        let error = open("/nowhere").unwrap_err();
        assert!(matches!(&error, SandboxError::Open { .. }), "{error}");
        // The process's own namespace is another one than this thread's.
        let sandbox = open("/proc/self/ns/net").unwrap();
        assert_ne!(sandbox.identity, here());
    });
}

#[test]
fn a_sandbox_is_there_while_its_path_leads_to_it() {
    in_lab("a_sandbox_is_there_while_its_path_leads_to_it", |lab| {
        let id = lab.container(1);
        assert!(lab.kernel.sandbox_is_there(&id));
        lab.containers.clear();
        assert!(!lab.kernel.sandbox_is_there(&id));
        lab.kernel.remove_sandbox(&id);
        assert!(!lab.kernel.sandbox_is_there(&id));
    });
}

#[test]
fn a_thread_comes_back_whatever_happens_inside() {
    in_lab("a_thread_comes_back_whatever_happens_inside", |lab| {
        let id = lab.container(1);
        let host = here();
        let inside = lab.inside(&id, here);
        assert_ne!(inside, host);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            lab.inside(&id, || panic!("expected by the test"))
        }));
        assert!(panic.is_err());
        assert_eq!(here(), host);
    });
}

#[test]
fn executors_belong_to_the_hosts_namespace() {
    in_lab("executors_belong_to_the_hosts_namespace", |lab| {
        let id = lab.container(1);
        let error = lab.inside(&id, || lab.kernel.executor()).unwrap_err();
        assert!(
            error.to_string().contains("another network namespace"),
            "{error}"
        );
    });
}

#[test]
fn dns_sockets_are_opened_inside_and_handed_over_outside() {
    in_lab(
        "dns_sockets_are_opened_inside_and_handed_over_outside",
        |lab| {
            let id = lab.container(1);
            let owner = Owner::Container(id.clone());
            let dns = Object::DnsSocket(owner.clone());
            // Without any address the kernel lets a socket bind to whatever it likes.
            let both = pair(&id, 1, 1);
            lab.apply(&[
                Op::Add(bridge(1).object()),
                add_pair(&both),
                Op::Add(address(&both.1, "10.1.0.2", 24).object()),
            ])
            .unwrap();
            let error = lab.try_add(&dns).unwrap_err();
            assert!(
                error.to_string().contains("lo is down in the container"),
                "{error}"
            );
            let lo = Object::Loopback(owner);
            assert!(!lab.holds(&lo));
            lab.add(&lo);
            assert!(lab.holds(&lo));
            lab.add(&dns);
            assert!(lab.holds(&dns));
            assert!(
                lab.observe().objects.contains_key(&dns.key()),
                "also when it is not wanted"
            );
            lab.inside(&id, || {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"?", "127.0.0.11:40053").unwrap();
                std::net::TcpStream::connect("127.0.0.11:40053").unwrap();
            });
            let taken = lab.try_add(&dns).unwrap_err();
            assert_eq!(taken.errno(), Some(98), "{taken}");
            let room = |socket: &UdpSocket| SockRef::from(socket).recv_buffer_size().unwrap();
            let usual = room(&UdpSocket::bind("127.0.0.1:0").unwrap());
            let wide = room(&lab.sink.0.lock().unwrap()[&id].0);
            assert!(wide > usual, "a burst of queries overflows {wide} bytes");
            lab.remove(&dns);
            assert!(!lab.holds(&dns));
            lab.add(&dns);
            lab.remove(&dns);
        },
    );
}

#[test]
fn a_list_stops_at_the_first_failure_and_says_how_far_it_came() {
    in_lab(
        "a_list_stops_at_the_first_failure_and_says_how_far_it_came",
        |lab| {
            let id = lab.container(1);
            let both = pair(&id, 1, 1);
            let bad = address(
                &Link {
                    name: name("eth7"),
                    ..both.1.clone()
                },
                "10.1.0.9",
                24,
            );
            let ops = [
                Op::Add(bridge(1).object()),
                add_pair(&both),
                Op::Add(Object::Loopback(Owner::Container(id.clone()))),
                Op::Add(address(&both.1, "10.1.0.2", 24).object()),
                Op::Add(bad.object()),
                Op::Add(address(&both.1, "10.1.0.3", 24).object()),
            ];
            let failed = lab.apply(&ops).unwrap_err();
            assert_eq!(
                (failed.done, failed.failed.as_ref()),
                (4, Some(&ops[4])),
                "{failed}"
            );
            assert!(lab.holds(&address(&both.1, "10.1.0.2", 24)));
            assert!(!lab.holds(&address(&both.1, "10.1.0.3", 24)));
            let undo: Vec<Op> = ops[..4].iter().rev().filter_map(Op::inverse).collect();
            lab.apply(&undo).unwrap();
            assert_eq!(lab.observe().objects.len(), 0);
        },
    );
}

#[test]
fn a_container_without_a_sandbox_is_unseen_and_has_nothing_to_remove() {
    in_lab(
        "a_container_without_a_sandbox_is_unseen_and_has_nothing_to_remove",
        |lab| {
            let id = ContainerId::parse("gone").unwrap();
            let (_, container) = pair(&id, 1, 1);
            let inside = address(&container, "10.1.0.2", 24);
            let error = lab.try_add(&inside).unwrap_err();
            assert_eq!(error.kind, KernelErrorKind::NoSandbox, "{error}");
            lab.remove(&inside);
            lab.remove(&container);
            lab.remove(&Object::DnsSocket(Owner::Container(id.clone())));
            let observed = lab.kernel.observe(&[inside.object()]).unwrap();
            assert_eq!(observed.unseen.into_iter().collect::<Vec<_>>(), [id]);
            assert_eq!(lab.observe().unseen.len(), 0);
        },
    );
}

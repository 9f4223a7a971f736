//! Held host ports.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use netd_model::Proto;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::kernel::KernelErrorKind;
use crate::kernel::real::ops;

fn port(address: &str, proto: Proto, port: u16) -> HostPort {
    let owner = Owner::Container(ContainerId::parse("web").unwrap());
    HostPort {
        ip: ip(address),
        proto,
        port,
        relay: None,
        owner,
    }
}

/// What another program would get.
fn other_bind(address: &str, proto: Proto, port: u16, reuse: bool) -> io::Result<Socket> {
    let address = SocketAddr::new(ip(address), port);
    let kind = if proto == Proto::Tcp {
        Type::STREAM
    } else {
        Type::DGRAM
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(reuse)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if proto == Proto::Tcp {
        socket.listen(1)?;
    }
    Ok(socket)
}

fn is_taken(address: &str, proto: Proto, port: u16) -> bool {
    let taken = [false, true].map(|reuse| match other_bind(address, proto, port, reuse) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            true
        }
    });
    assert_eq!(
        taken[0], taken[1],
        "SO_REUSEADDR makes a difference: {address} {port}/{proto}"
    );
    taken[0]
}

fn with_loopback(test: &'static str, body: impl FnOnce(&mut Lab) + Send + 'static) {
    in_lab(test, |lab| {
        ops::loopback(&mut lab.space).unwrap();
        body(lab);
    });
}

#[test]
fn a_held_port_is_nobody_elses() {
    with_loopback("a_held_port_is_nobody_elses", |lab| {
        for (address, proto) in [
            ("0.0.0.0", Proto::Tcp),
            ("0.0.0.0", Proto::Udp),
            ("::", Proto::Tcp),
            ("::", Proto::Udp),
            ("127.0.0.1", Proto::Tcp),
            ("::1", Proto::Udp),
        ] {
            let held = port(address, proto, 8080);
            lab.add(&held);
            lab.add(&held);
            assert!(lab.holds(&held));
            assert!(is_taken(address, proto, 8080), "{held:?}");
            let error = lab
                .try_add(&HostPort {
                    owner: Owner::Host,
                    ..held.clone()
                })
                .unwrap_err();
            assert_eq!(error.kind, KernelErrorKind::PortInUse, "{error}");
            lab.remove(&held);
            assert!(!lab.holds(&held));
            assert!(!is_taken(address, proto, 8080), "{held:?}");
            lab.remove(&held);
        }
    });
}

#[test]
fn the_families_of_a_port_are_held_apart() {
    with_loopback("the_families_of_a_port_are_held_apart", |lab| {
        for proto in [Proto::Tcp, Proto::Udp] {
            lab.add(&port("::", proto, 81));
            assert!(!is_taken("0.0.0.0", proto, 81));
            lab.add(&port("0.0.0.0", proto, 81));
        }
    });
}

#[test]
fn a_refused_client_is_told_at_once() {
    with_loopback("a_refused_client_is_told_at_once", |lab| {
        lab.add(&port("0.0.0.0", Proto::Tcp, 82));
        let error = TcpStream::connect("127.0.0.1:82").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // UDP is dropped: the buffer of a socket that nobody reads would fill up and stay full.
        lab.add(&port("0.0.0.0", Proto::Udp, 82));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:82").unwrap();
        for _ in 0..100 {
            client.send(&[0; 1000]).unwrap();
        }
        let queues = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        let held = queues
            .lines()
            .find(|line| line.contains(" 00000000:0052 "))
            .unwrap();
        assert!(held.contains(" 00000000:00000000 "), "{held}");
    });
}

#[test]
fn a_port_somebody_uses_is_not_taken() {
    with_loopback("a_port_somebody_uses_is_not_taken", |lab| {
        for proto in [Proto::Tcp, Proto::Udp] {
            let other = other_bind("127.0.0.1", proto, 83, true).unwrap();
            for address in ["127.0.0.1", "0.0.0.0"] {
                let error = lab.try_add(&port(address, proto, 83)).unwrap_err();
                assert_eq!(error.kind, KernelErrorKind::PortInUse, "{error}");
            }
            lab.add(&port("127.0.0.2", proto, 83));
            // With another program beside it, the exact port of ours makes no room for the wildcard.
            let error = lab
                .try_add(&port("0.0.0.0", proto, 83))
                .expect_err(proto.as_str());
            assert_eq!(error.kind, KernelErrorKind::PortInUse, "{error}");
            assert!(is_taken("127.0.0.2", proto, 83) && lab.holds(&port("127.0.0.2", proto, 83)));
            drop(other);
            lab.add(&port("0.0.0.0", proto, 83));
        }
        for number in [83, 184] {
            let error = lab
                .try_add(&port("192.0.2.9", Proto::Tcp, number))
                .unwrap_err();
            assert_eq!(error.kind, KernelErrorKind::AddressNotHere, "{error}");
            assert!(
                error
                    .to_string()
                    .contains("the address is not on this host"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_port_of_one_address_is_held_beside_that_of_all() {
    with_loopback("a_port_of_one_address_is_held_beside_that_of_all", |lab| {
        for proto in [Proto::Tcp, Proto::Udp] {
            for (first, second) in [
                ("0.0.0.0", "127.0.0.1"),
                ("127.0.0.1", "0.0.0.0"),
                ("::", "::1"),
            ] {
                lab.add(&port(first, proto, 84));
                lab.add(&port(second, proto, 84));
                assert!(is_taken(first, proto, 84) && is_taken(second, proto, 84));
                lab.remove(&port(first, proto, 84));
                assert!(lab.holds(&port(second, proto, 84)) && is_taken(second, proto, 84));
                lab.remove(&port(second, proto, 84));
                assert!(!is_taken(first, proto, 84));
            }
        }
    });
}

#[test]
fn a_port_is_handed_over_without_a_gap() {
    with_loopback("a_port_is_handed_over_without_a_gap", |lab| {
        let from = port("0.0.0.0", Proto::Tcp, 85);
        let to = HostPort {
            owner: Owner::Container(ContainerId::parse("b").unwrap()),
            ..from.clone()
        };
        lab.add(&from);
        lab.apply(&[Op::Change {
            from: from.object(),
            to: to.object(),
        }])
        .unwrap();
        assert!(lab.holds(&to) && !lab.holds(&from));
        lab.remove(&from);
        assert!(lab.holds(&to), "the old owner gives nothing back");
        assert!(is_taken("0.0.0.0", Proto::Tcp, 85));
    });
}

#[test]
fn a_port_in_time_wait_can_be_held() {
    with_loopback("a_port_in_time_wait_can_be_held", |lab| {
        let listener = TcpListener::bind("127.0.0.1:86").unwrap();
        let client = TcpStream::connect("127.0.0.1:86").unwrap();
        // The side that closes first waits.
        drop(listener.accept().unwrap());
        drop((client, listener));
        lab.add(&port("0.0.0.0", Proto::Tcp, 86));
    });
}

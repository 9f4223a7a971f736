//! How queries leave for the world: from inside a container, over TLS; and what the log says of them.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use netd_tests::host::Host;
use netd_tests::lab::hickory_proto::op::ResponseCode;
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{self, Netns, PATIENCE, Transport};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::upstream::{self, Upstream};
use super::{BOTH, ask, ips};

/// A resolver at the container's own loopback is reached from nowhere else, so the answer tells where the query came from.
pub(super) fn from_inside_a_container() {
    let netns = Netns::host("h1");
    let (hosts, answer_of_host) = upstream::address([192, 0, 2, 1]);
    let (own, answer_of_own) = upstream::address([192, 0, 2, 2]);
    let _outside = Upstream::start(&netns, "127.0.0.1:53", hosts);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    let [plain, inside] = ["plain", "inside"].map(Netns::new);
    host.ok(&["network", "create", "web"]);
    host.ok(&["network", "create", "own", "--opt", "dns_from=container"]);
    host.attach(&plain, &["--network", "web", "--dns", "127.0.0.1"]);
    host.attach(&inside, &["--network", "own"]);
    let _inside = Upstream::start(&inside, "127.0.0.1:53", own);
    for transport in BOTH {
        let of = |container: &Netns| -> Vec<IpAddr> {
            ask(container, "www.example", RecordType::A, transport).ips()
        };
        assert_eq!(of(&plain), [answer_of_host], "{transport:?}");
        assert_eq!(of(&inside), [answer_of_own], "{transport:?}");
        // Cut over UDP: asked again over TCP, from there too.
        let long = ask(&inside, "long.example", RecordType::TXT, Transport::Tcp);
        assert_eq!(long.answers.len(), 1, "{long:?}");
    }
    let told = host.ok(&["dns", "query", "www.example", "--as", "inside"]);
    assert!(
        told.to_string()
            .contains("from the container's own namespace"),
        "{told}"
    );
    host.ok(&["detach", "inside"]);

    // Its own resolvers as well.
    let own = Netns::new("third");
    host.attach(&own, &["--network", "own", "--dns", "127.0.0.5"]);
    let fails = ask(&own, "www.example", RecordType::A, Transport::Udp);
    assert_eq!(fails.rcode, ResponseCode::ServFail, "nobody listens there");
    let _third = Upstream::start(&own, "127.0.0.5:53", upstream::address([192, 0, 2, 3]).0);
    lab::wait_for("the container's resolver", PATIENCE, || {
        ips(&own, "www.example") == [IpAddr::from([192, 0, 2, 3])]
    });
    assert_eq!(
        host.refused(&["network", "create", "x", "--opt", "dns_from=here"]),
        "invalid_opt"
    );
    host.done();
}

/// A name server over TLS that answers A with one address; the PEM text that vouches for it.
fn tls_server(netns: &Netns, name: &str, answer: [u8; 4]) -> (String, JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = netns.run(|| TcpListener::bind("127.0.0.1:853").unwrap());
    let serving = std::thread::spawn(move || {
        // One that comes in clear text, or does not trust the certificate, is left.
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            while let Some(over) = serve(&mut stream, answer) {
                if over {
                    return;
                }
            }
        }
    });
    (made.cert.pem(), serving)
}

/// One question; whether it was the last, by its name. None at the end of the connection.
fn serve(stream: &mut (impl Read + Write), answer: [u8; 4]) -> Option<bool> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question).ok()?;
    let (name, reply) = upstream::reply_with(&question, answer.into())?;
    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &reply[..]].concat()).ok()?;
    stream.flush().ok()?;
    Some(name == "last.example")
}

/// Strict: a certificate that does not hold is no resolver, and nothing goes out in clear text instead.
pub(super) fn over_tls() {
    let netns = Netns::host("h1");
    let (pem, serving) = tls_server(&netns, "dns.example", [192, 0, 2, 53]);
    let mut host = Host::prepare(netns);
    host.set_resolvers("");
    let ca = host.dir().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let a = Netns::new("a");
    let start = |host: &mut Host, upstream: &str| {
        let mut command = host.daemon_command("__netd", &[]);
        command.args(["--dns", upstream, "--dns-tls-ca"]).arg(&ca);
        host.launch(command);
    };
    start(&mut host, "tls://127.0.0.1#other.example");
    host.attach(&a, &[]);
    let refused = ask(&a, "www.example", RecordType::A, Transport::Udp);
    assert_eq!(refused.rcode, ResponseCode::ServFail, "another name");
    host.stop_daemon();
    start(&mut host, "tls://127.0.0.1#dns.example");
    for (name, transport) in ["www.example", "last.example"].into_iter().zip(BOTH) {
        let reply = ask(&a, name, RecordType::A, transport);
        assert_eq!(reply.ips(), [IpAddr::from([192, 0, 2, 53])], "{name}");
    }
    serving.join().unwrap();
    host.done();
}

/// What its lines have and no others.
const IN_LOG: &str = "dns asker=";

/// A line for each query, with who asked, what, the outcome and the source; none unless asked for.
pub(super) fn query_log() {
    let netns = Netns::host("h1");
    let _upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let mut host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    let a = Netns::new("a");
    let made = host.attach(&a, &[]);
    let id = &made["id"].as_str().unwrap()[..12];
    ips(&a, "quiet.example");
    assert!(!host.log().contains(IN_LOG), "{}", host.log());
    host.stop_daemon();
    let mut command = host.daemon_command("__netd", &[]);
    command.arg("--dns-log");
    host.launch(command);
    for name in ["a", "www.example", "www.example", "www.invalid"] {
        ask(&a, name, RecordType::A, Transport::Udp);
    }
    let expected = [
        ("a. A", "NOERROR", "zone"),
        ("www.example. A", "NOERROR", "upstream 127.0.0.1:53"),
        ("www.example. A", "NOERROR", "cache"),
        ("www.invalid. A", "NXDOMAIN", "upstream 127.0.0.1:53"),
    ];
    lab::wait_for("a line for each query", PATIENCE, || {
        let log = host.log();
        let lines: Vec<&str> = log.lines().filter(|l| l.contains(IN_LOG)).collect();
        lines.len() == expected.len()
            && lines
                .iter()
                .zip(expected)
                .all(|(line, (question, code, from))| {
                    [id, question, code, from]
                        .iter()
                        .all(|part| line.contains(part))
                })
    });
    host.done();
}

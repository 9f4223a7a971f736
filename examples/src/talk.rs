//! Clients: a connection that is greeted, and a question to the name server.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{Transport, dns_query};

use crate::netns;

/// Where netd answers for names in every container.
const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to `ADDRESS:PORT` or `NAME:PORT` and returns what the server says.
pub(crate) fn get(netns: &str, target: &str) -> Result<String> {
    netns::join(netns)?;
    let to = match target.parse() {
        Ok(address) => address,
        Err(_) => resolve(target)?,
    };
    let said = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = said().with_context(|| format!("{target} is not reached from {netns}"))?;
    ensure!(!text.is_empty(), "{target} hung up without a word");
    Ok(text)
}

/// Asks for both families, and prints the answers as host(1) does.
pub(crate) fn lookup(netns: &str, name: &str) -> Result<String> {
    netns::join(netns)?;
    let addresses = addresses(name)?;
    Ok(addresses.iter().fold(String::new(), |mut text, ip| {
        let kind = if ip.is_ipv4() {
            "address"
        } else {
            "IPv6 address"
        };
        let _ = writeln!(text, "{name} has {kind} {ip}");
        text
    }))
}

fn resolve(target: &str) -> Result<SocketAddr> {
    let (name, port) = target.rsplit_once(':').context("HOST:PORT is needed")?;
    let port = port.parse().with_context(|| format!("port {port:?}"))?;
    let ip = addresses(name)?[0];
    Ok(SocketAddr::new(ip, port))
}

/// At least one address.
fn addresses(name: &str) -> Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for record_type in [RecordType::A, RecordType::AAAA] {
        let reply = dns_query(NAME_SERVER, name, record_type, Transport::Udp)
            .with_context(|| format!("asking {NAME_SERVER} for {name}"))?;
        found.extend(reply.ips());
        if found.is_empty() && record_type == RecordType::AAAA {
            bail!("{NAME_SERVER} knows no address of {name}: {}", reply.rcode);
        }
    }
    Ok(found)
}

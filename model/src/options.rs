//! Driver options of a network (`--opt K=V`): the parts of its policy that have no flag of their own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::naming;
use crate::net::{Family, IfName, Prefix};
use crate::overlay::PORT;
use crate::record::{Driver, Mode, Policy};
use crate::request::OverlaySpec;

/// What the options of a network say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Name of its bridge.
    pub bridge: Option<IfName>,
    /// Its modes, where they are given for one family.
    pub modes: [Option<Mode>; 2],
    /// The network identifier of an overlay.
    pub vni: Option<u32>,
    /// The UDP port of an overlay.
    pub port: Option<u16>,
    /// Whether packets of an overlay bear a checksum outside.
    pub udpcsum: Option<bool>,
    /// Everything else.
    pub policy: Policy,
}

/// The keys, for messages.
const KEYS: &str = "bridge, mode4, mode6, host_access, antispoof, snat, trusted, non_masquerade, l3, dns_ttl, \
     dns_search, dns_gateway, dns_from, dns_order; an overlay network vni, port and udpcsum too";

impl Options {
    /// Reads `K=V` options.
    pub fn parse(opts: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = Self::default();
        for (key, value) in opts {
            options.set(key, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "bridge" => self.bridge = Some(device(value, "a bridge")?),
            "mode4" => self.modes[0] = Some(mode(value)?),
            "mode6" => self.modes[1] = Some(mode(value)?),
            "vni" => self.vni = Some(number(key, value, 1..=0xff_ffff)?),
            "port" => self.port = u16::try_from(number(key, value, 1..=0xffff)?).ok(),
            "udpcsum" => self.udpcsum = Some(switch(key, value)?),
            "host_access" => self.policy.host_access = switch(key, value)?,
            "antispoof" => self.policy.antispoof = switch(key, value)?,
            "snat" => self.policy.snat = snat(value)?,
            "trusted" => self.policy.trusted = trusted(value)?,
            "non_masquerade" => self.policy.non_masquerade = prefixes(value)?,
            "l3" => self.policy.l3 = switch(key, value)?,
            // Read by `naming`.
            _ if naming::OPTIONS.contains(&key) => {}
            _ => {
                return Err(Error::new(
                    Code::InvalidOpt,
                    format!(
                        "option {:?} is unknown: a network takes {KEYS}",
                        shorten(key)
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Options {
    /// What makes a network of this driver an overlay.
    pub fn overlay(&self, driver: Driver) -> Result<Option<OverlaySpec>> {
        if driver == Driver::Overlay {
            let port = self.port.unwrap_or(PORT);
            return Ok(Some(OverlaySpec {
                vni: self.vni,
                port,
                udpcsum: self.udpcsum.unwrap_or(true),
            }));
        }
        let asked = [
            ("vni", self.vni.is_some()),
            ("port", self.port.is_some()),
            ("udpcsum", self.udpcsum.is_some()),
        ];
        match asked.into_iter().find(|(_, asked)| *asked) {
            None => Ok(None),
            Some((key, _)) => Err(Error::new(
                Code::InvalidOpt,
                format!("option {key} is one of overlay networks: use --driver overlay"),
            )),
        }
    }
}

fn number(key: &str, text: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
    let parsed = text.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        Error::new(
            Code::InvalidOpt,
            format!(
                "option {key}={:?} is no number from {} to {}",
                shorten(text),
                range.start(),
                range.end()
            ),
        )
    })
}

/// A mode as typed.
pub(crate) fn mode(text: &str) -> Result<Mode> {
    [Mode::Nat, Mode::Routed, Mode::Isolated]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| {
            Error::new(
                Code::InvalidMode,
                format!(
                    "mode {:?} is unknown: use nat, routed or isolated",
                    shorten(text)
                ),
            )
        })
}

/// An interface name that a device of netd's can have; `what` it would be.
pub(crate) fn device(text: &str, what: &str) -> Result<IfName> {
    let name = IfName::parse(text)?;
    if matches!(name.as_str(), "lo" | "all" | "default") {
        return Err(Error::new(
            Code::InvalidIfname,
            format!("{what} cannot be called {name}"),
        ));
    }
    Ok(name)
}

fn switch(key: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        other => Err(Error::new(
            Code::InvalidOpt,
            format!("option {key}={:?}: use on or off", shorten(other)),
        )),
    }
}

fn snat(text: &str) -> Result<Vec<IpAddr>> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for part in text.split(',') {
        let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
        let ip = part.parse().ok().filter(usable).ok_or_else(|| {
            Error::new(
                Code::InvalidOpt,
                format!(
                    "option snat: {:?} is no address that a host can send from",
                    shorten(part)
                ),
            )
        })?;
        if let Some(other) = ips
            .iter()
            .find(|other| Family::of(**other) == Family::of(ip))
        {
            return Err(Error::new(
                Code::InvalidOpt,
                format!("option snat: {ip} comes after {other}, give one address of each family"),
            ));
        }
        ips.push(ip);
    }
    Ok(ips)
}

fn trusted(text: &str) -> Result<Vec<IfName>> {
    let mut names: Vec<IfName> = Vec::new();
    for part in text.split(',') {
        let name = device(part, "a trusted interface")?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn prefixes(text: &str) -> Result<Vec<Prefix>> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for part in text.split(',') {
        let prefix: Prefix = part.parse()?;
        // The kernel keeps them as intervals, which may not overlap.
        if let Some(other) = prefixes.iter().find(|other| other.overlaps(prefix)) {
            return Err(Error::new(
                Code::InvalidOpt,
                format!("option non_masquerade: {prefix} overlaps {other}, give the wider one"),
            ));
        }
        prefixes.push(prefix);
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Options::parse(&pairs.iter().map(own).collect())
    }

    #[test]
    fn every_option_is_read() {
        let options = parse(&[
            ("bridge", "br0"),
            ("mode4", "nat"),
            ("mode6", "routed"),
            ("host_access", "off"),
            ("antispoof", "off"),
            ("snat", "192.0.2.1,2001:db8::1"),
            ("trusted", "wg0,tailscale0,wg0"),
            ("non_masquerade", "10.244.0.0/16,fd00:244::/32"),
            ("l3", "on"),
        ])
        .unwrap();
        let name = |text| IfName::parse(text).unwrap();
        assert_eq!(options.bridge, Some(name("br0")));
        assert_eq!(options.modes, [Some(Mode::Nat), Some(Mode::Routed)]);
        let want = Policy {
            icc: true,
            host_access: false,
            antispoof: false,
            snat: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            trusted: vec![name("wg0"), name("tailscale0")],
            non_masquerade: ["10.244.0.0/16", "fd00:244::/32"]
                .map(|p| p.parse().unwrap())
                .to_vec(),
            l3: true,
        };
        assert_eq!(options.policy, want);
        assert_eq!(parse(&[]).unwrap(), Options::default());
    }

    #[test]
    fn overlays_alone_have_an_outer_checksum() {
        let off = parse(&[("udpcsum", "off")]).unwrap();
        let spec = off.overlay(Driver::Overlay).unwrap();
        assert_eq!(spec.map(|spec| spec.udpcsum), Some(false));
        let default = Options::default().overlay(Driver::Overlay).unwrap();
        assert_eq!(default.map(|spec| spec.udpcsum), Some(true));
        let error = off.overlay(Driver::Bridge).unwrap_err();
        assert!(error.message.contains("--driver overlay"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, code, why) in [
            ("colour", "red", Code::InvalidOpt, "mode4"),
            ("bridge", "lo", Code::InvalidIfname, "cannot be called"),
            ("mode6", "bridge", Code::InvalidMode, "isolated"),
            ("antispoof", "maybe", Code::InvalidOpt, "on or off"),
            ("snat", "127.0.0.1", Code::InvalidOpt, "send from"),
            (
                "snat",
                "192.0.2.1,192.0.2.2",
                Code::InvalidOpt,
                "one address",
            ),
            ("snat", "", Code::InvalidOpt, "send from"),
            ("trusted", "a b", Code::InvalidIfname, "not valid"),
            (
                "non_masquerade",
                "10.0.0.1/8",
                Code::InvalidSubnet,
                "10.0.0.0/8",
            ),
            (
                "non_masquerade",
                "10.0.0.0/8,10.1.0.0/16",
                Code::InvalidOpt,
                "overlaps",
            ),
            ("l3", "yes", Code::InvalidOpt, "on or off"),
            ("udpcsum", "auto", Code::InvalidOpt, "on or off"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err();
            assert_eq!(error.code, code, "{key}={value}");
            assert!(error.message.contains(why), "{key}={value}: {error}");
        }
    }
}

//! The one error of the API: a stable code, one line for people, details for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Short-hand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error as users see it: `{"code","message","details"}` in JSON, `message` on a terminal.
///
/// The message is one line: what, which object, why, what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Stable machine-readable code.
    pub code: Code,
    /// One line for a person.
    pub message: String,
    /// Facts for programs; an object, possibly empty.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Error {
    /// An error with a code and a line of text.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            details: serde_json::Map::new(),
        }
    }

    /// The same error with one more fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:literal, $doc:literal;)*) => {
        /// The stable codes. `docs/errors.md` is checked against this list by a test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $doc] #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The code as text, for example `network_exists`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }

            /// The HTTP status that carries it.
            pub const fn http_status(self) -> u16 {
                match self { $(Code::$variant => $status),* }
            }

            /// What it means, one line.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $doc),* }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", 400, "The body is not the JSON that this request takes, or has an unknown field.";
    InvalidName = "invalid_name", 400, "A network or container name has a wrong character, length or form.";
    InvalidId = "invalid_id", 400, "A container id has a wrong character or length.";
    InvalidReference = "invalid_reference", 400, "An id prefix fits more than one object.";
    InvalidHostname = "invalid_hostname", 400, "The hostname is not a DNS name.";
    InvalidAlias = "invalid_alias", 400, "An alias is not a DNS name.";
    InvalidTrace = "invalid_trace", 400, "What is to be traced is neither a container nor an address, or has no port.";
    InvalidAllow = "invalid_allow", 400, "What an endpoint is allowed to send from is no prefix, overlaps another, or holds a gateway.";
    InvalidLabel = "invalid_label", 400, "A label is not KEY=VALUE or too long.";
    InvalidOpt = "invalid_opt", 400, "An option of a network is unknown or has a wrong value.";
    InvalidDriver = "invalid_driver", 400, "The driver is unknown or not available.";
    InvalidMode = "invalid_mode", 400, "The mode is unknown or not available.";
    InvalidIcc = "invalid_icc", 400, "Inter-container communication cannot be switched off yet.";
    InvalidEncrypted = "invalid_encrypted", 400, "Encryption needs an overlay network.";
    InvalidSubnet = "invalid_subnet", 400, "A subnet is no prefix, has host bits set or is too small.";
    InvalidGateway = "invalid_gateway", 400, "A gateway is in no subnet of the network or not a host address.";
    InvalidIpRange = "invalid_ip_range", 400, "An ip-range is in no subnet of the network.";
    InvalidIpv6 = "invalid_ipv6", 400, "IPv6 was asked for, but the host has it switched off.";
    InvalidMtu = "invalid_mtu", 400, "The MTU is out of range.";
    InvalidIp = "invalid_ip", 400, "A requested address is in no subnet of the network or reserved.";
    InvalidMac = "invalid_mac", 400, "A MAC address is malformed, multicast or zero.";
    InvalidIfname = "invalid_ifname", 400, "An interface name is empty, too long or has a wrong character.";
    InvalidPublish = "invalid_publish", 400, "A port binding is malformed or cannot be served.";
    InvalidDns = "invalid_dns", 400, "A DNS server is not an address.";
    InvalidDnsQuery = "invalid_dns_query", 400, "A name or record type is none that a DNS query can ask for.";
    InvalidNetns = "invalid_netns", 400, "The path is no network namespace, or the host's own.";
    InvalidSource = "invalid_source", 400, "What may open flows, or may not, is neither a prefix nor an address.";
    InvalidRoute = "invalid_route", 400, "A route of a network is malformed, or its gateway is in no subnet of it.";
    InvalidSysctl = "invalid_sysctl", 400, "A setting of an interface is not one that may be set there.";
    InvalidHost = "invalid_host", 400, "An extra host is not NAME:IP or NAME:host-gateway.";
    InvalidNetwork = "invalid_network", 400, "A network attachment is malformed.";
    InvalidBandwidth = "invalid_bandwidth", 400, "A rate or burst of an attachment is out of range, or one is given without the other.";
    InvalidApply = "invalid_apply", 400, "A file of networks cannot be read, or says two things of one network.";
    InvalidReservation = "invalid_reservation", 400, "A reservation names no address and no MAC.";
    ReservationNotFound = "reservation_not_found", 404, "Nothing is reserved for that container on that network.";
    InvalidConfig = "invalid_config", 400, "The daemon's configuration has a wrong value.";
    NetworkNotFound = "network_not_found", 404, "No network has that name or id.";
    ContainerNotFound = "container_not_found", 404, "No container has that name or id.";
    NodeNotFound = "node_not_found", 404, "No host of the cluster has that name.";
    EndpointNotFound = "endpoint_not_found", 404, "The container is not on that network.";
    RouteNotFound = "route_not_found", 404, "The API has no such path or method.";
    NetworkExists = "network_exists", 409, "A network of that name exists.";
    ContainerExists = "container_exists", 409, "A container of that id or name exists with another request.";
    EndpointExists = "endpoint_exists", 409, "The container is on that network already.";
    SubnetInUse = "subnet_in_use", 409, "The subnet overlaps another network, a route of the host or a resolver.";
    AddressInUse = "address_in_use", 409, "The requested address belongs to another container.";
    MacInUse = "mac_in_use", 409, "The requested MAC is on that network already.";
    IfnameInUse = "ifname_in_use", 409, "An interface of that name is there already.";
    PortInUse = "port_in_use", 409, "The host port is held by another container or program.";
    NetnsInUse = "netns_in_use", 409, "The network namespace belongs to another container.";
    NetworkInUse = "network_in_use", 409, "The network has containers.";
    NetworkPredefined = "predefined_in_use", 409, "The network is predefined and always exists.";
    ContainersAttached = "containers_attached", 409, "Containers are attached; detach them or use --force.";
    PoolExhausted = "pool_exhausted", 507, "No free address or subnet is left.";
    NetworkFull = "network_full", 507, "The bridge has as many ports as the kernel allows.";
    Conflict = "conflict", 409, "Another host of the cluster wanted the same at once, or has it already; try again.";
    NodeInUse = "node_in_use", 409, "The host is alive.";
    PoolExhaustedOffline = "pool_exhausted_offline", 507, "The host's own addresses are in use, and the shared store is not there to give more.";
    NotReady = "not_ready", 503, "The daemon is starting or stopping.";
    TooManyRequests = "too_many_requests", 429, "As many requests as the daemon takes are under way; try again.";
    RequestTimeout = "request_timeout", 408, "The client did not finish its request in time.";
    TimedOut = "timed_out", 504, "The daemon had no answer in time; the change may still be made.";
    TooManyFiles = "too_many_files", 507, "The limit of open files is reached; everything was rolled back.";
    StoreUnavailable = "store_unavailable", 503, "A record could not be written, or the shared store does not answer; nothing was changed.";
    StateDamaged = "state_damaged", 500, "A state file cannot be read; it was kept aside.";
    StateTooNew = "state_too_new", 500, "A state file was written by a newer major version.";
    KernelFailed = "kernel_failed", 500, "The kernel refused an operation; everything was rolled back.";
    Internal = "internal", 500, "A bug in netd: please report it.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

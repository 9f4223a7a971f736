//! The command line as contract.md fixes it. Help, completions and manual are made from these definitions.
//!
//! Values stay text here: what a flag means is judged where the request is made, so that a bad value ends with exit
//! code 1 and a code of its own, and only an unknown flag or a missing argument is a mistake of usage.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/netd/netd.sock";

/// What to purge, and where the records are when no daemon runs that knows.
#[derive(Clone, Debug, Default, Args)]
pub struct PurgeOptions {
    /// Even with containers attached
    #[arg(long)]
    pub force: bool,
    /// Without a daemon: its state directory, if not the default
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Without a daemon: its run directory, if not the default
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// Controls netd, the container networking daemon of this host.
#[derive(Debug, Parser)]
#[command(
    name = "netctl",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed, 2 unknown flag or command or missing argument, 3 no daemon.\n\
                  With -o json or yaml an error is also one document, {\"error\":{code,message,details}}, on standard \
                  output.\n\n\
                  Example: netctl network create web && netctl attach web-1 --name web-1 --network web"
)]
pub struct Cli {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "NETD_SOCKET",
        hide_env_values = true,
        help_heading = "Global options",
        default_value = DEFAULT_SOCKET
    )]
    pub socket: PathBuf,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table, help_heading = "Global options")]
    pub output: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // No doc comments here: they would make the help of every command nine lines longer.
    Table,
    Json,
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, show and remove networks
    #[command(subcommand)]
    Network(Network),
    /// Give a network namespace its interfaces, addresses, names and published ports
    #[command(
        after_help = "NETNS is a path, a name under /run/netns, or pid:N. The same request with the same --id gives the \
                      same answer.\n\n\
                      Example: netctl attach pid:4711 --name web --network front,ip=10.1.0.5 --publish 8080:80 \
                      --resolv-conf /run/web/resolv.conf"
    )]
    Attach(Box<Attach>),
    /// Take everything away that attach gave a container
    #[command(after_help = "Example: netctl detach web")]
    Detach {
        /// Name, id or unique prefix of an id
        container: String,
        #[command(flatten)]
        change: Change,
    },
    /// Attach a container to one more network
    #[command(
        after_help = "Keys may be given in each of three ways: back,ip=10.2.0.5 as NETWORK, ip=10.2.0.5 behind \
                            CONTAINER, or --ip 10.2.0.5.\n\n\
                            Example: netctl connect back web --ip 10.2.0.5 --alias db"
    )]
    Connect(Box<Connect>),
    /// Detach a container from one network
    #[command(after_help = "Example: netctl disconnect back web")]
    Disconnect {
        /// Name, id or unique prefix of an id
        network: String,
        /// Name, id or unique prefix of an id
        container: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the containers
    #[command(after_help = "Example: netctl ps -o json")]
    Ps,
    /// Show a container
    #[command(after_help = "Example: netctl inspect web")]
    Inspect {
        /// Name, id or unique prefix of an id
        container: String,
    },
    /// List, show and remove the hosts that share networks
    #[command(subcommand)]
    Node(Node),
    /// Make the networks and reservations that a file declares, as far as they are not there
    #[command(
        after_help = "The file is TOML: [[network]] with the keys of POST /v1/networks, [[reservation]] with network, \
                      container, ip, ip6, mac. The same file twice changes nothing; a network that is there and differs \
                      is an error.\n\nExample: netctl apply -f /etc/netd/networks.d"
    )]
    Apply {
        /// A file, or a directory with *.toml
        #[arg(short, long, value_name = "FILE-or-DIR")]
        file: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// Show whether the daemon is ready, what the kernel can do, and what is wrong
    #[command(
        after_help = "Exits with 0 whenever the daemon answers.\n\nExample: netctl status --wait"
    )]
    Status {
        /// Wait until the daemon is there and ready
        #[arg(long)]
        wait: bool,
    },
    /// Show the repairs that the next audit would make; nothing when healthy
    #[command(after_help = "Example: netctl plan")]
    Plan,
    /// Look for what about this host hinders containers, and tell the remedy
    #[command(after_help = "Example: netctl doctor")]
    Doctor,
    /// Follow a packet on paper, through what the kernel holds: where it goes, what translates it, what drops it
    #[command(
        after_help = "Nothing is sent. Exit code 0 if the packet arrives, 1 if not.\n\n\
                            Example: netctl trace web-1 db:5432\n         \
                            netctl trace 203.0.113.7 192.0.2.1:8080\n         \
                            netctl trace host '[fd00::2]:53/udp'"
    )]
    Trace {
        /// Who sends: a container, host, or an address outside
        from: String,
        /// Where to: a container or an address; without a port it is pinged
        #[arg(value_name = "DST[:PORT[/tcp|udp|sctp]]")]
        to: String,
    },
    /// Show what happened since the daemon's start: attached, detached, repaired and the like
    #[command(
        after_help = "With -o json each event is one line (NDJSON).\n\nExample: netctl events --follow --since 10m"
    )]
    Events {
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
        /// Begin after this: the number of an event, a time (RFC 3339), or how long ago (90s, 10m, 2h)
        #[arg(long, value_name = "T")]
        since: Option<String>,
    },
    /// Look at names as containers see them
    #[command(subcommand)]
    Dns(Dns),
    /// Remove everything of netd's from the kernel and forget it; works without a running daemon too
    #[command(after_help = "Example: netctl purge --force")]
    Purge {
        #[command(flatten)]
        purge: PurgeOptions,
        #[command(flatten)]
        change: Change,
    },
    /// Print the completion script of a shell
    #[command(after_help = "Example: netctl completion bash > /etc/bash_completion.d/netctl")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// The commands on hosts.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the hosts
    #[command(after_help = "Example: netctl node ls")]
    Ls,
    /// Show a host
    #[command(after_help = "Example: netctl node inspect h1")]
    Inspect {
        /// Name or id
        node: String,
    },
    /// Remove a host that is gone: its records, and what it had claimed of addresses
    #[command(
        after_help = "A host that gives signs of life is not removed. One that comes back later has to be set up anew.\n\n\
                      Example: netctl node rm h3"
    )]
    Rm {
        /// Name or id
        node: String,
        #[command(flatten)]
        change: Change,
    },
}

/// The commands on networks.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Create a network
    #[command(
        after_help = "Example: netctl network create web --subnet 10.1.0.0/24 --gateway 10.1.0.1"
    )]
    Create(Box<NetworkCreate>),
    /// List the networks
    #[command(after_help = "Example: netctl network ls")]
    Ls,
    /// Show a network
    #[command(after_help = "Example: netctl network inspect web")]
    Inspect {
        /// Name, id or unique prefix of an id
        #[arg(value_name = "NAME")]
        network: String,
    },
    /// Change from where flows may be opened to the containers of a network
    #[command(
        after_help = "Each list that is given replaces the one there was; none empties it.\n\n\
                      Example: netctl network set web --allow-from 192.0.2.0/24 --block-from none"
    )]
    Set {
        /// Name, id or unique prefix of an id
        network: String,
        /// Who alone may, or none for everybody; may be repeated
        #[arg(long, value_name = "CIDR")]
        allow_from: Vec<String>,
        /// Who may not, or none; may be repeated
        #[arg(long, value_name = "CIDR")]
        block_from: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Keep addresses and a MAC for a container by its name, over detach and reboot
    #[command(
        after_help = "Without addresses those are kept that the container has now.\n\n\
                      Example: netctl network reserve web db --ip 10.1.0.5"
    )]
    Reserve {
        /// Name, id or unique prefix of an id
        network: String,
        /// Name of the container, which need not exist
        container: String,
        /// IPv4 address to keep
        #[arg(long, value_name = "A")]
        ip: Option<String>,
        /// IPv6 address to keep
        #[arg(long, value_name = "A")]
        ip6: Option<String>,
        /// MAC address to keep
        #[arg(long, value_name = "M")]
        mac: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Keep nothing for a container any longer
    #[command(after_help = "Example: netctl network unreserve web db")]
    Unreserve {
        /// Name, id or unique prefix of an id
        network: String,
        /// Name of the container
        container: String,
        #[command(flatten)]
        change: Change,
    },
    /// Remove networks that have no containers
    #[command(
        after_help = "Goes on after a failure and reports each.\n\nExample: netctl network rm web back"
    )]
    Rm {
        /// Names, ids or unique prefixes of ids
        #[arg(required = true, value_name = "NAME")]
        networks: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Remove every network without containers, but the one called bridge
    #[command(after_help = "Example: netctl network prune --dry-run")]
    Prune {
        #[command(flatten)]
        change: Change,
    },
}

/// The commands on names.
#[derive(Debug, Subcommand)]
pub enum Dns {
    /// Show what a name resolves to, and why
    #[command(after_help = "Example: netctl dns query db --as web1")]
    Query {
        /// The name, or with --type PTR an address
        name: String,
        /// Ask as this container would: name, id or unique prefix of an id; without, all networks are looked at
        #[arg(long = "as", value_name = "CONTAINER")]
        container: Option<String>,
        /// The record type
        #[arg(long = "type", value_name = "TYPE", default_value = "A")]
        kind: String,
    },
}

/// What every command takes that changes something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Change {
    /// Print the operations on the kernel and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `network create`.
#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// Its name
    pub name: String,
    /// What it is made of: bridge, or overlay for one that hosts share
    #[arg(long)]
    pub driver: Option<String>,
    /// A prefix of its own; may be given several times, and those of a family are used up in this order
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<String>,
    /// Where automatic addresses come from: a part of a subnet
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<String>,
    /// The host's own address in a subnet; the first one by default
    #[arg(long, value_name = "IP")]
    pub gateway: Vec<String>,
    /// Give it IPv6 too
    #[arg(long)]
    pub ipv6: bool,
    /// Give it IPv4; true by default
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv4: Option<String>,
    /// Cut it off from everything outside
    #[arg(long)]
    pub internal: bool,
    /// How it is reached from outside: nat, routed or isolated
    #[arg(long)]
    pub mode: Option<String>,
    /// Whether its containers reach each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<String>,
    /// Largest packet in bytes; that of the default route's interface by default
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub mtu: Option<String>,
    /// Encrypt what goes between hosts
    #[arg(long)]
    pub encrypted: bool,
    /// A resolver for its containers; may be repeated
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// A label; may be repeated
    #[arg(long, value_name = "K=V")]
    pub label: Vec<String>,
    /// An option of the driver, may be repeated: bridge=NAME, mode4=MODE, mode6=MODE, host_access=off, antispoof=off, snat=IP[,IP6], trusted=IF[,IF], non_masquerade=CIDR[,CIDR], l3=on…
    #[arg(long, value_name = "K=V")]
    pub opt: Vec<String>,
    /// Who alone may open flows to its containers from outside; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub allow_from: Vec<String>,
    /// Who may not; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub block_from: Vec<String>,
    /// A route that its containers get; may be repeated
    #[arg(long, value_name = "CIDR[,via=IP][,metric=N]")]
    pub route: Vec<String>,
    /// `--dry-run`.
    #[command(flatten)]
    pub change: Change,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// A path, a name under /run/netns, or pid:N
    pub netns: String,
    /// The container's name, unique on this host
    #[arg(long)]
    pub name: String,
    /// The container's id; 64 random hex digits by default
    #[arg(long)]
    pub id: Option<String>,
    /// What the container calls itself; its name by default
    #[arg(long, value_name = "H")]
    pub hostname: Option<String>,
    /// A network to join, bridge by default; may be repeated
    #[arg(
        long,
        value_name = "NET[,ip=A][,ip6=A][,mac=M][,ifname=I][,alias=A]…[,allow=CIDR]…[,gw-priority=N][,sysctl=K=V]…"
    )]
    pub network: Vec<String>,
    /// A port to publish on the host, which netd chooses if none is named; may be repeated
    #[arg(
        short,
        long,
        value_name = "[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp][,allow-from=CIDR]…[,block-from=CIDR]…"
    )]
    pub publish: Vec<String>,
    /// A resolver for this container; may be repeated
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// A name that only this container resolves, to an address or to the host; may be repeated
    #[arg(long, value_name = "NAME:IP|NAME:host-gateway")]
    pub add_host: Vec<String>,
    /// A label; may be repeated
    #[arg(long, value_name = "K=V")]
    pub label: Vec<String>,
    /// Write the container's resolv.conf here when it is attached
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// `--dry-run`.
    #[command(flatten)]
    pub change: Change,
}

/// `connect`.
#[derive(Debug, Args)]
pub struct Connect {
    /// Name, id or unique prefix of an id; keys may follow, as in attach --network
    #[arg(value_name = "NETWORK[,KEY=VALUE]…")]
    pub network: String,
    /// Name, id or unique prefix of an id
    pub container: String,
    /// ip=A, ip6=A, mac=M, ifname=I, alias=A, allow=CIDR, gw-priority=N, sysctl=K=V
    #[arg(value_name = "KEY=VALUE")]
    pub keys: Vec<String>,
    /// IPv4 address to take
    #[arg(long, value_name = "A")]
    pub ip: Option<String>,
    /// IPv6 address to take
    #[arg(long, value_name = "A")]
    pub ip6: Option<String>,
    /// MAC address to take
    #[arg(long, value_name = "M")]
    pub mac: Option<String>,
    /// Name of the interface in the container
    #[arg(long, value_name = "I")]
    pub ifname: Option<String>,
    /// A further name on this network; may be repeated
    #[arg(long, value_name = "A")]
    pub alias: Vec<String>,
    /// The network with the highest has the default route and the published ports
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub gw_priority: Option<String>,
    /// A setting of the interface, such as net.ipv4.conf.IFNAME.rp_filter=2; may be repeated
    #[arg(long, value_name = "K=V")]
    pub sysctl: Vec<String>,
    /// `--dry-run`.
    #[command(flatten)]
    pub change: Change,
}

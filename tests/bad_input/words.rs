//! Words that are refused, each with the code it gets.
//!
//! A table has a line for each command: the code, then the words behind those that all lines of it begin with. `␠`
//! stands for a space inside a word, `''` for an empty one.

/// No names, neither of a network nor of a container; nor are they ids.
pub(super) const NAMES: &[&str] = &[
    "",
    " ",
    "a b",
    "a/b",
    "/",
    ".",
    "..",
    ".hidden",
    "_a",
    "-x",
    "größe",
    "名前",
    "a\u{202e}b",
    "a\nb",
    "a\tb",
    "a\u{1b}[31mb",
    "a:b",
    "a,b",
    "a=b",
    "*",
];

/// A table: what all commands begin with, and its lines.
pub(super) struct Table {
    begin: &'static [&'static str],
    lines: &'static str,
}

impl Table {
    /// Each code with the whole command.
    pub(super) fn cases(&self) -> impl Iterator<Item = (&'static str, Vec<String>)> + '_ {
        let lines = self.lines.lines().filter(|line| !line.is_empty());
        lines.map(|line| {
            let (code, words) = line.split_once(' ').expect("a code and words");
            let words = words.trim_start().split(' ');
            let words = words.map(|word| word.replace('␠', " ").replace("''", ""));
            let begin = self.begin.iter().map(|word| (*word).to_owned());
            (code, begin.chain(words).collect())
        })
    }
}

/// What a network cannot be made of. `webbr` belongs to netd, `up0` to the host.
pub(super) const NETWORK: Table = Table {
    begin: &["network", "create", "new"],
    lines: "
invalid_subnet     --subnet=
invalid_subnet     --subnet=␠
invalid_subnet     --subnet=garbage
invalid_subnet     --subnet=10.30.0.0
invalid_subnet     --subnet=10.30.0.0/
invalid_subnet     --subnet=10.30.0.0/33
invalid_subnet     --subnet=10.30.0.0/-1
invalid_subnet     --subnet=10.30.0.0/24/24
invalid_subnet     --subnet=10.30.0.5/24
invalid_subnet     --subnet=300.0.0.0/24
invalid_subnet     --subnet=10.30.0.1/32
invalid_subnet     --subnet=0.0.0.0/0
invalid_subnet     --subnet=127.0.0.0/8
invalid_subnet     --subnet=169.254.0.0/16
invalid_subnet     --subnet=224.0.0.0/8
invalid_subnet     --subnet=fd30::5/64
invalid_subnet     --subnet=fd30::/129
invalid_subnet     --subnet=fd30::1/128
invalid_subnet     --subnet=fe80::/64
invalid_subnet     --subnet=ff00::/64
invalid_subnet     --subnet=::/0
invalid_subnet     --subnet=10.30.0.0/24 --subnet=10.30.0.0/24
invalid_subnet     --subnet=10.30.0.0/24 --subnet=10.30.0.128/25
invalid_subnet     --subnet=fd30::/64 --subnet=10.30.0.0/24 --subnet=fd30::/48
subnet_in_use      --subnet=10.30.0.0/24 --subnet=10.20.0.0/24
invalid_gateway    --subnet=10.30.0.0/24 --subnet=10.31.0.0/24 --gateway=10.31.0.5 --gateway=10.31.0.6
invalid_gateway    --subnet=10.30.0.0/24 --subnet=10.31.0.0/24 --gateway=10.32.0.1
invalid_ip_range   --subnet=10.30.0.0/24 --subnet=10.31.0.0/24 --ip-range=10.31.0.0/25 --ip-range=10.31.0.128/25
subnet_in_use      --subnet=10.20.0.0/24
subnet_in_use      --subnet=10.20.0.0/16
subnet_in_use      --subnet=10.20.0.128/25
subnet_in_use      --subnet=10.21.0.0/30
subnet_in_use      --subnet=fd20::/48
subnet_in_use      --subnet=192.0.2.0/24
subnet_in_use      --subnet=192.0.0.0/16
invalid_gateway    --gateway=10.30.0.1
invalid_gateway    --subnet=10.30.0.0/24 --gateway=
invalid_gateway    --subnet=10.30.0.0/24 --gateway=gw
invalid_gateway    --subnet=10.30.0.0/24 --gateway=10.31.0.1
invalid_gateway    --subnet=10.30.0.0/24 --gateway=10.30.0.0
invalid_gateway    --subnet=10.30.0.0/24 --gateway=10.30.0.255
invalid_gateway    --subnet=10.30.0.0/24 --gateway=fd30::1
invalid_gateway    --subnet=fd30::/64 --gateway=fd30::
invalid_gateway    --subnet=10.30.0.0/24 --gateway=10.30.0.1 --gateway=10.30.0.2
invalid_ip_range   --ip-range=10.30.0.0/25
invalid_ip_range   --subnet=10.30.0.0/24 --ip-range=10.31.0.0/25
invalid_ip_range   --subnet=10.30.0.0/24 --ip-range=10.30.0.0/16
invalid_ip_range   --subnet=10.30.0.0/24 --ip-range=10.30.0.5/25
invalid_ip_range   --subnet=10.30.0.0/24 --ip-range=range
invalid_mtu        --mtu=0
invalid_mtu        --mtu=67
invalid_mtu        --mtu=65536
invalid_mtu        --mtu=99999999999
invalid_mtu        --mtu=-1
invalid_mtu        --mtu=large
invalid_mtu        --mtu=1279 --ipv6
invalid_opt        --opt=unknown=1
invalid_opt        --opt=bridge
invalid_ifname     --opt=bridge=
invalid_ifname     --opt=bridge=sixteen-letters-
invalid_ifname     --opt=bridge=a/b
invalid_ifname     --opt=bridge=a␠b
invalid_ifname     --opt=bridge=lo
invalid_ifname     --opt=bridge=..
ifname_in_use      --opt=bridge=webbr
ifname_in_use      --opt=bridge=up0
invalid_label      --label=label
invalid_label      --label==x
invalid_dns        --dns=resolver
invalid_dns        --dns=0.0.0.0
invalid_driver     --driver=overlay
invalid_driver     --driver=macvlan
invalid_driver     --driver=
invalid_mode       --mode=bridge
invalid_mode       --mode=isolate
invalid_mode       --mode=x
invalid_icc        --icc=0
invalid_icc        --icc=maybe
invalid_encrypted  --encrypted
",
};

/// Everything of a container but its networks, ports and namespace.
pub(super) const CONTAINER: Table = Table {
    begin: &["attach", "{spare}"],
    lines: "
container_exists   --name=held
invalid_hostname   --name=new --hostname=
invalid_hostname   --name=new --hostname=a␠b
invalid_hostname   --name=new --hostname=-a
invalid_hostname   --name=new --hostname=a..b
invalid_alias      --name=new --network=web,alias=a␠b
invalid_alias      --name=new --network=web,alias=ä
invalid_alias      --name=new --network=web,alias=a..b
invalid_label      --name=new --label=label
invalid_label      --name=new --label=a\u{7}=b
invalid_dns        --name=new --dns=resolver
invalid_dns        --name=new --dns=224.0.0.1
",
};

/// Networks to join. Of a list the last is refused: the ones before it are given back.
pub(super) const ATTACHMENT: Table = Table {
    begin: &["attach", "{spare}", "--name=new"],
    lines: "
address_in_use     --network=web,ip=10.20.0.10
address_in_use     --network=web,ip6=fd20::10
address_in_use     --network=inner --network=web,ip=10.20.0.10
invalid_ip         --network=web,ip=10.20.1.1
invalid_ip         --network=web,ip=10.20.0.0
invalid_ip         --network=web,ip=10.20.0.1
invalid_ip         --network=web,ip=10.20.0.255
invalid_ip         --network=web,ip=10.20.0
invalid_ip         --network=web,ip=10.20.0.5/24
invalid_ip         --network=web,ip=fd20::5
invalid_ip         --network=web,ip6=10.20.0.5
invalid_ip         --network=web,ip6=fd21::5
invalid_ip         --network=web,ip6=fd20::
invalid_ip         --network=inner,ip6=fd20::5
mac_in_use         --network=web,mac=02:00:00:00:00:10
invalid_mac        --network=web,mac=01:00:5e:00:00:01
invalid_mac        --network=web,mac=ff:ff:ff:ff:ff:ff
invalid_mac        --network=web,mac=00:00:00:00:00:00
invalid_mac        --network=web,mac=02:00:00:00:00
invalid_mac        --network=web,mac=mac
invalid_ifname     --network=web,ifname=sixteen-letters-
invalid_ifname     --network=web,ifname=a/b
invalid_ifname     --network=web,ifname=a␠b
invalid_ifname     --network=web,ifname=..
invalid_ifname     --network=web,ifname=lo
invalid_ifname     --network=web,ifname=n0 --network=inner,ifname=n0
endpoint_exists    --network=web --network=web
network_not_found  --network=nope
network_not_found  --network=web --network=../web
invalid_network    --network=
invalid_network    --network=,ip=10.20.0.5
invalid_network    --network=ip=10.20.0.5
invalid_network    --network=web,
invalid_network    --network=web,ip
invalid_network    --network=web,ip=
invalid_network    --network=web,color=red
invalid_network    --network=web,ip=10.20.0.5,ip=10.20.0.6
invalid_allow      --network=web,allow=10.0.0.1/8
",
};

/// Ports: 8080 is published by another container, 9090 is another program's, 192.0.2.99 is not on this host; `inner` has
/// no way out and `four` no IPv6.
pub(super) const PUBLISH: Table = Table {
    begin: &["attach", "{spare}", "--name=new"],
    lines: "
invalid_publish    --publish=
invalid_publish    --publish=web
invalid_publish    --publish=0
invalid_publish    --publish=::80
invalid_publish    --publish=127.0.0.1:80
invalid_publish    --publish=8081:
invalid_publish    --publish=70000:80
invalid_publish    --publish=-1:80
invalid_publish    --publish=8081:80/icmp
invalid_publish    --publish=8081-8083:80-81
invalid_publish    --publish=8083-8081:80-82
invalid_publish    --publish=192.0.2:8081:80
invalid_publish    --publish=224.0.0.1:8081:80
invalid_publish    --publish=192.0.2.99:8081:80
invalid_publish    --publish=1-65535:1-65535
invalid_publish    --publish=8081:80 --publish=8081:81
invalid_publish    --publish=8081:80 --publish=127.0.0.1:8081:81
invalid_publish    --publish=8081:80 --network=inner
port_in_use        --publish=8080:80
port_in_use        --publish=127.0.0.1:8080:80
port_in_use        --publish=9090:80
port_in_use        --publish=127.0.0.1:9090:80
port_in_use        --publish=[::1]:9090:80 --network=web
port_in_use        --publish=9090:80/udp
port_in_use        --publish=9089-9091:80-82
port_in_use        --publish=9090-9090:80
",
};

/// No network namespaces of containers.
pub(super) const NETNS: &[&str] = &[
    "",
    " ",
    ".",
    "..",
    "../netns/x",
    "nope",
    "a\nb",
    "/",
    "/dev/null",
    "/proc/self/ns/mnt",
    "/proc/self/ns/user",
    "/proc/self/ns/net",
    "/proc/self/exe",
    "pid:",
    "pid:0",
    "pid:x",
    "pid:-1",
    "pid:999999999",
    "pid:99999999999999999999",
];

/// Commands on what is not there, or not so. `held` publishes a port by its address on `web`.
pub(super) const REFERENCE: Table = Table {
    begin: &[],
    lines: "
network_not_found    network inspect nope
network_not_found    network inspect ␠
network_not_found    network inspect a␠b
network_not_found    network inspect a/b
network_not_found    network inspect ä?x=1#y
network_not_found    network rm nope
network_not_found    connect nope held
network_not_found    disconnect nope held
container_not_found  inspect nope
container_not_found  detach nope
container_not_found  connect web nope
container_not_found  disconnect web nope
invalid_reference    network inspect ''
invalid_reference    detach ''
invalid_reference    network rm ..
invalid_reference    inspect .
endpoint_not_found   disconnect inner held
endpoint_exists      connect web held
invalid_network      connect web,ip held
invalid_ip           connect inner held --ip=10.20.0.5
invalid_publish      disconnect web held
network_in_use       network rm web
predefined_in_use    network rm bridge
containers_attached  purge
",
};

/// Unknown flags and commands, missing arguments.
pub(super) const USAGE: &[&str] = &[
    "",
    "nope",
    "network",
    "network nope",
    "network create",
    "network create a b",
    "network create a --nope",
    "network create a --subnet",
    "network rm",
    "ps --nope",
    "attach",
    "attach /run/netns/x",
    "attach /run/netns/x --name",
    "detach",
    "connect web",
    "-o",
];

/// Commands that need a daemon.
pub(super) const NO_DAEMON: &[&str] = &[
    "network create a",
    "network ls",
    "network inspect a",
    "network rm a b",
    "network prune",
    "attach /run/netns/x --name x",
    "detach x",
    "connect a x",
    "disconnect a x",
    "ps",
    "inspect x",
    "status",
    "plan",
];

//! Bad input through the real API and command line: the contract's code, nothing left behind, and the right input works
//! right after it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS, assert_same, lasting};
use netd_tests::lab::{self, Netns, Proto};

#[path = "bad_input/requests.rs"]
mod requests;
#[path = "bad_input/words.rs"]
mod words;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("words_of_a_network", words_of_a_network),
        lab::test("words_of_a_container", words_of_a_container),
        lab::test("attachments", attachments),
        lab::test("published_ports", published_ports),
        lab::test("namespaces", namespaces),
        lab::test("references", references),
        lab::test("ambiguous_references", ambiguous_references),
        lab::test("what_is_there_already", what_is_there_already),
        lab::test("full_networks", full_networks),
        lab::test("no_subnet_is_left", no_subnet_is_left),
        lab::test("exit_codes_and_lines", exit_codes_and_lines),
        lab::test("bodies", requests::bodies),
        lab::test("broken_clients", requests::broken_clients),
        lab::test("two_attaches_at_once", requests::two_attaches_at_once),
    ])
}

/// A host with an uplink, a network of both families, an internal one, and a container that holds addresses and a port.
struct Stage {
    host: Host,
    /// Attached as `held`.
    held: Netns,
    /// Not attached.
    spare: Netns,
    _outside: Netns,
}

impl Stage {
    fn set() -> Self {
        let (netns, outside) = (Netns::host("h1"), Netns::host("outside"));
        lab::veth(
            netns.end("up0", &["192.0.2.1/24"]),
            outside.end("eth0", &["192.0.2.2/24"]),
        );
        let host = Host::on(netns);
        let (held, spare) = (Netns::new("held"), Netns::new("spare"));
        for create in [
            "web --subnet 10.20.0.0/24 --subnet fd20::/64 --opt bridge=webbr",
            "inner --subnet 10.21.0.0/24 --internal",
            "four --subnet 10.22.0.0/24",
        ] {
            let words: Vec<&str> = create.split(' ').collect();
            host.ok(&[&["network", "create"], &words[..]].concat());
        }
        let join = "web,ip=10.20.0.10,ip6=fd20::10,mac=02:00:00:00:00:10";
        host.attach(&held, &["--network", join, "--publish", "8080:80"]);
        Self {
            host,
            held,
            spare,
            _outside: outside,
        }
    }

    /// Each case is refused and changes nothing; after each the right command would do, and after all it does.
    #[track_caller]
    fn refuse_all(&self, table: &words::Table, right: &str) {
        let before = self.state();
        let right = self.words(right);
        for (code, words) in table.cases() {
            self.refuse_in(&before, code, &self.fill(&words));
            self.would_do(&right);
        }
        self.host.ok(&borrowed(&right));
    }

    /// `{spare}` is the path of the namespace that is not attached.
    fn fill(&self, words: &[String]) -> Vec<String> {
        let path = self.spare.path().to_string_lossy();
        words
            .iter()
            .map(|word| word.replace("{spare}", &path))
            .collect()
    }

    fn words(&self, command: &str) -> Vec<String> {
        self.fill(&command.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[track_caller]
    fn refuse(&self, code: &str, words: &[String]) {
        self.refuse_in(&self.state(), code, words);
    }

    #[track_caller]
    fn refuse_in(&self, before: &[String], code: &str, words: &[String]) {
        assert_eq!(self.host.refused(&borrowed(words)), code, "{words:?}");
        assert_same(&format!("{words:?}"), before, &self.state());
    }

    #[track_caller]
    fn succeed(&self, command: &str) {
        self.host.ok(&borrowed(&self.words(command)));
    }

    /// A dry run says what a command would do, so it finds what a refused one still holds.
    #[track_caller]
    fn would_do(&self, words: &[String]) {
        let dry = [borrowed(words), vec!["--dry-run"]].concat();
        let ops = self.host.ok(&dry)["ops"].clone();
        assert_ne!(ops, serde_json::json!([]), "{words:?}");
    }

    /// The host with its daemon, and the namespace that is not attached.
    fn state(&self) -> Vec<String> {
        let inside = lasting(&self.spare).into_iter();
        let inside = inside.map(|line| format!("spare: {line}"));
        self.host.state().into_iter().chain(inside).collect()
    }

    fn done(&self) {
        self.host.assert_healthy();
        self.host.done();
    }
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn words_of_a_network() {
    let stage = Stage::set();
    let long = "n".repeat(300);
    for (code, word) in words::NAMES
        .iter()
        .map(|name| ("invalid_name", *name))
        .chain([("invalid_name", long.as_str())])
        .chain([("network_exists", "web"), ("network_exists", "bridge")])
    {
        stage.refuse(code, &["network", "create", "--", word].map(str::to_owned));
    }
    let right = "network create new --subnet=10.30.0.0/24 --gateway=10.30.0.254 --ip-range=10.30.0.128/25 --mtu=1400 \
                 --opt=bridge=newbr --driver=bridge --mode=nat --icc=true --label=a=b --dns=192.0.2.53";
    stage.refuse_all(&words::NETWORK, right);
    stage.done();
}

fn words_of_a_container() {
    let stage = Stage::set();
    let path = stage.spare.path().to_string_lossy().into_owned();
    let long = "c".repeat(300);
    let names = words::NAMES.iter().copied().chain([long.as_str()]);
    for name in names {
        for (code, flags) in [
            ("invalid_name", vec![format!("--name={name}")]),
            (
                "invalid_id",
                vec!["--name=new".to_owned(), format!("--id={name}")],
            ),
        ] {
            stage.refuse(
                code,
                &[vec!["attach".to_owned(), path.clone()], flags].concat(),
            );
        }
    }
    let right = "attach {spare} --name=new --id=new-1 --hostname=new.example --label=a=b --dns=192.0.2.53 \
                 --network=web,alias=other";
    stage.refuse_all(&words::CONTAINER, right);
    stage.done();
}

fn attachments() {
    let stage = Stage::set();
    let right = "attach {spare} --name=new --network=inner \
                 --network=web,ip=10.20.0.11,ip6=fd20::11,mac=02:00:00:00:00:11,ifname=fifteen-letters";
    stage.refuse_all(&words::ATTACHMENT, right);
    stage.done();
}

fn published_ports() {
    let stage = Stage::set();
    // Another program, on the middle of a range too: the first port of the range has to be given back.
    let tcp = stage.host.netns.serve(Proto::Tcp, "other", 9090);
    let udp = stage.host.netns.serve(Proto::Udp, "other", 9090);
    let right =
        "attach {spare} --name=new --network=web --publish=9089:80 --publish=127.0.0.1:9092:80/udp";
    stage.refuse_all(&words::PUBLISH, right);
    stage.host.ok(&["detach", "new"]);
    drop((tcp, udp));
    stage.succeed("attach {spare} --name=new --publish=9090:80 --publish=9090:80/udp");
    stage.done();
}

fn namespaces() {
    let stage = Stage::set();
    let dir = stage.host.dir();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&dir.join("fifo"), mode).unwrap();
    let mut dead = stage
        .spare
        .start("dead", lab::self_command("__pause", &[""; 0]));
    dead.kill();
    let own = format!("pid:{}", stage.host.pid());
    let dead = format!("pid:{}", dead.pid());
    let held = stage.held.path().to_string_lossy();
    let place = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let files = [
        place("resolv.conf"),
        place("fifo"),
        place("nowhere"),
        place("run"),
    ];
    let host = stage.host.netns.path().to_string_lossy();
    let long = format!("/{}", "p".repeat(5000));
    let dynamic = [&own, &dead, &long].into_iter().chain(&files);
    let paths = words::NETNS.iter().copied();
    for path in paths.chain(dynamic.map(String::as_str)).chain([&*host]) {
        stage.refuse("invalid_netns", &attach_words(path));
    }
    stage.refuse("netns_in_use", &attach_words(&held));
    stage.succeed("attach {spare} --name=new");
    stage.done();
}

fn attach_words(netns: &str) -> [String; 5] {
    ["attach", "--name", "new", "--", netns].map(str::to_owned)
}

fn references() {
    let stage = Stage::set();
    stage.refuse_all(
        &words::REFERENCE,
        "attach {spare} --name=new --network=inner",
    );
    // What failed because of the container works without it.
    stage.host.ok(&["detach", "held"]);
    stage.host.ok(&["network", "rm", "web"]);
    stage.done();
}

/// Seventeen ids cannot all begin with another digit.
fn ambiguous_references() {
    let host = Host::start("h1");
    let ids: Vec<String> = (0..17)
        .map(|n| host.ok(&["network", "create", &format!("n{n}"), "--internal"])["id"].clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    let count = |digit: char| ids.iter().filter(|id| id.starts_with(digit)).count();
    let digit = ('0'..='9').chain('a'..='f').find(|digit| count(*digit) > 1);
    let digit = digit.unwrap().to_string();
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    for (container, id) in [(&a, "feed-a"), (&b, "feed-b")] {
        host.attach(container, &["--id", id, "--network", "n0"]);
    }
    let before = host.state();
    for words in [
        vec!["network", "inspect", &digit],
        vec!["network", "rm", &digit],
        vec!["connect", &digit, "a"],
        vec!["disconnect", &digit, "a"],
        vec!["inspect", "feed-"],
        vec!["detach", "feed"],
        vec!["connect", "n1", "f"],
        vec!["disconnect", "n0", "fee"],
    ] {
        assert_eq!(host.refused(&words), "invalid_reference", "{words:?}");
        assert_same(&format!("{words:?}"), &before, &host.state());
    }
    assert_eq!(host.ok(&["inspect", "feed-b"])["name"], "b");
    assert_eq!(host.ok(&["network", "inspect", &ids[3]])["name"], "n3");
    the_id_goes_before_the_name(&host, &ids[5]);
    host.done();
}

/// A name may look like an id: every command has to mean the same network by it.
fn the_id_goes_before_the_name(host: &Host, id: &str) {
    host.ok(&["network", "create", id, "--internal"]);
    assert_eq!(host.ok(&["network", "inspect", id])["name"], "n5");
    host.ok(&["network", "rm", id]);
    assert_eq!(
        host.refused(&["network", "inspect", "n5"]),
        "network_not_found"
    );
    assert_eq!(host.ok(&["network", "inspect", id])["name"], id);
}

/// The kernel refuses in the middle of an attach: everything before that is taken back.
fn what_is_there_already() {
    let stage = Stage::set();
    let other = Netns::host("other");
    lab::veth(stage.spare.end("eth0", &[]), other.end("eth0", &[]));
    let attach = |join: &str| {
        let path = stage.spare.path().to_string_lossy().into_owned();
        let words = [
            "attach",
            &path,
            "--name=new",
            "--publish=8081:80",
            "--network",
            join,
        ];
        words.map(str::to_owned)
    };
    stage.refuse("ifname_in_use", &attach("web"));
    stage.refuse("ifname_in_use", &attach("four,ifname=eth0"));
    stage.host.ok(&borrowed(&attach("web,ifname=net0")));
    let connect = ["connect", "inner", "new"].map(str::to_owned);
    stage.refuse("ifname_in_use", &connect);
    let same = ["connect", "inner", "new", "--ifname", "net0"].map(str::to_owned);
    stage.refuse("ifname_in_use", &same);
    stage.host.ok(&["connect", "inner", "new", "--ifname=net1"]);
    assert!(stage.spare.link("eth0").is_some(), "not ours, left alone");
    stage.done();
}

fn full_networks() {
    let host = Host::start("h1");
    for (subnet, room) in [
        ("10.30.0.0/30", 1),
        ("10.31.0.0/29", 5),
        ("10.32.0.0/31", 1),
    ] {
        host.ok(&["network", "create", "full", "--subnet", subnet]);
        let containers: Vec<Netns> = (0..=room).map(|n| Netns::new(&format!("c{n}"))).collect();
        let (last, first) = containers.split_last().unwrap();
        for container in first {
            host.attach(container, &["--network", "full"]);
        }
        let before = host.state();
        let words = Host::attach_words(last, &["--network", "full"]);
        assert_eq!(host.refused(&words), "pool_exhausted", "{subnet}");
        assert_same(subnet, &before, &host.state());
        host.ok(&["detach", "c0"]);
        host.ok(&words);
        host.done();
    }
}

fn no_subnet_is_left() {
    let (netns, outside) = (Netns::host("h1"), Netns::host("outside"));
    lab::veth(
        netns.end("up0", &["192.0.2.1/24"]),
        outside.end("eth0", &["192.0.2.2/24"]),
    );
    let host = Host::on(netns);
    for route in ["172.16.0.0/12", "10.0.0.0/8"] {
        host.netns.add_route(route, "192.0.2.2");
    }
    let before = host.state();
    assert_eq!(
        host.refused(&["network", "create", "auto"]),
        "pool_exhausted"
    );
    assert_same("network create auto", &before, &host.state());
    // Inside a wider route there is room for who asks for it by name.
    host.ok(&["network", "create", "chosen", "--subnet", "10.30.0.0/24"]);
    host.done();
}

fn exit_codes_and_lines() {
    let stage = Stage::set();
    let host = &stage.host;
    for words in words::USAGE {
        let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
        let output = host.netctl_raw(&words);
        assert_eq!(output.code, 2, "{words:?}: {output:?}");
        assert_eq!(output.stdout, "", "{words:?}");
    }
    let format = host.netctl_raw(&["-o", "xml", "ps"]);
    assert_eq!(format.code, 1, "{format:?}");
    for words in words::NO_DAEMON {
        let words = words.split(' ').collect();
        let output = host.netctl(&[vec!["--socket", "/run/nobody/netd.sock"], words].concat());
        assert_eq!(output.code, 3, "{output:?}");
        assert_eq!(output.json()["error"]["code"], "no_daemon", "{output:?}");
    }
    let output = host.netctl_raw(&["network", "rm", "web"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    let line = output.stderr.trim_end();
    assert!(!line.contains('\n'), "{line:?}");
    for part in ["network web", "held", "detach", "[network_in_use]"] {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
    stage.done();
}

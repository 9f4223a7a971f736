//! The laboratory judged by itself: what the other tests rely on must be true.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use netd_tests::lab::{self, Netns, PATIENCE, Process, Signal};

fn main() -> ExitCode {
    lab::dispatch(&[("__greet", greet), ("__sample", sample)]);
    lab::enter();
    lab::main(vec![
        lab::test("own_network_only", own_network_only),
        lab::test("names_and_paths_of_a_namespace", names_and_paths),
        lab::test("a_namespace_held_by_a_process", held_by_a_process),
        lab::test("a_namespace_bound_to_a_file", bound_to_a_file),
        lab::test("programs_run_inside_and_end", programs_run_inside_and_end),
        lab::test("a_dropped_program_is_gone", a_dropped_program_is_gone),
        lab::test("links_addresses_routes", links_addresses_routes),
        lab::test("bridges_alias_and_removal", bridges_alias_and_removal),
        lab::test(
            "panics_and_skips_pass_through",
            panics_and_skips_pass_through,
        ),
        lab::test("the_report_of_a_run", the_report_of_a_run),
    ])
}

/// A program of this binary: prints its arguments and its link names, then waits or exits.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program with the signature of one"
)]
fn greet(args: &[String]) -> i32 {
    println!("hello {}", args.join(" "));
    eprintln!(
        "{}",
        std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
    );
    if args.first().is_some_and(|arg| arg == "stay") {
        std::thread::sleep(PATIENCE * 10);
    }
    7
}

/// A run with one test of each end, to judge what it reports. Its own name, which is the first
/// argument, is taken for a filter, hence the names.
fn sample(_args: &[String]) -> i32 {
    lab::enter();
    let failing = || {
        let program = Process::start("greeter", lab::self_command("__greet", &["from", "below"]));
        lab::wait_for("its greeting", PATIENCE, || !program.stdout().is_empty());
        assert_eq!(1 + 1, 3, "sums");
    };
    let skipping = || -> () { Netns::new("n").run(|| lab::skip("this kernel has no such thing")) };
    let leaving = || drop(lab::self_command::<&str>("__pause", &[]).spawn().unwrap());
    let erring = || anyhow::Result::Err(anyhow::anyhow!("below").context("above"));
    let code = lab::main(vec![
        lab::test("__sample_passes", || ()),
        lab::test("__sample_fails", failing),
        lab::test("__sample_skips", skipping),
        lab::test("__sample_leaves", leaving),
        lab::test("__sample_errs", erring),
    ]);
    i32::from(code != ExitCode::SUCCESS)
}

fn own_network_only() {
    let dev = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names: Vec<_> = dev
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(
        names.iter().map(|name| name.trim()).collect::<Vec<_>>(),
        ["lo"]
    );
    let file = lab::scratch("own").join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(
        file.as_os_str().len() < 60,
        "{} is short enough for a socket",
        file.display()
    );
}

fn names_and_paths() {
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    assert_ne!(a.inode(), b.inode());
    let links = a.links();
    assert_eq!(
        (links.len(), links[0].name.as_str(), links[0].up),
        (1, "lo", false)
    );
    assert!(Netns::host("h").link("lo").unwrap().up);
    assert_eq!(a.pid(), std::process::id());
    let path = a.path().to_owned();
    assert!(std::fs::File::open(&path).is_ok());
    drop(a);
    assert!(
        std::fs::File::open(&path).is_err(),
        "{} ends with its namespace",
        path.display()
    );
}

fn held_by_a_process() {
    let container = Netns::process("c");
    let (pid, path) = (container.pid(), container.path().to_owned());
    assert_ne!(pid, std::process::id());
    assert_eq!(path.to_str().unwrap(), format!("/proc/{pid}/ns/net"));
    let host = Netns::host("h");
    lab::veth(
        host.end("eth0", &["10.0.0.1/24"]),
        container.end("eth0", &["10.0.0.2/24"]),
    );
    let _server = container.tcp_server("c", 80);
    assert_eq!(host.tcp_probe("10.0.0.2:80", PATIENCE).name(), Some("c"));
    drop(container);
    assert!(!path.exists());
}

fn bound_to_a_file() {
    use std::os::unix::fs::MetadataExt;
    let netns = Netns::new("n");
    let bound = netns.bind(lab::scratch("bind").join("cni-1"));
    let path = bound.path().to_owned();
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), netns.inode());
    drop(bound);
    assert!(!path.exists());
}

fn programs_run_inside_and_end() {
    let netns = Netns::host("n");
    netns.add_bridge("mark0");
    let mut program = netns.start("greet", netns.self_command("__greet", &["one", "two"]));
    assert_eq!(program.wait(PATIENCE).code(), Some(7));
    assert_eq!(program.stdout(), "hello one two\n");
    assert!(
        program.stderr().contains("mark0:"),
        "it runs inside: {}",
        program.stderr()
    );
    let output = netns.self_command("__greet", &["direct"]).output().unwrap();
    assert_eq!(output.stdout, b"hello direct\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("mark0:"));
    let mut stopped = netns.start("greet", netns.self_command("__greet", &["stay"]));
    lab::wait_for("its greeting", PATIENCE, || {
        stopped.stdout().contains("hello stay")
    });
    assert!(stopped.try_wait().is_none());
    assert_eq!(stopped.stop().signal(), Some(Signal::SIGTERM as i32));
}

fn a_dropped_program_is_gone() {
    let program = Process::start("greet", lab::self_command("__greet", &["stay"]));
    let proc = format!("/proc/{}", program.pid());
    assert!(std::path::Path::new(&proc).exists());
    drop(program);
    assert!(!std::path::Path::new(&proc).exists());
}

fn links_addresses_routes() {
    let (a, _b) = lab::pair();
    let link = a.link("eth0").unwrap();
    assert_eq!(
        (link.kind.as_str(), link.master, link.running),
        ("veth", None, true)
    );
    let has = |ip: &str, prefix| {
        let ip: IpAddr = ip.parse().unwrap();
        a.addresses()
            .iter()
            .any(|x| x.link == link.index && (x.ip, x.prefix) == (ip, prefix))
    };
    assert!(has("10.0.0.1", 24) && !has("10.0.0.2", 24));
    assert_eq!(has("fd00::1", 64), lab::has_ipv6());
    a.add_route("10.9.0.0/16", "10.0.0.2");
    a.add_link_route("10.8.0.0/16", "eth0");
    let routes = a.routes();
    let to = |ip: &str| {
        routes
            .iter()
            .find(|route| route.target.to_string() == ip)
            .unwrap()
    };
    assert_eq!(to("10.9.0.0").via, Some(Ipv4Addr::new(10, 0, 0, 2).into()));
    assert_eq!(
        (to("10.8.0.0").link, to("10.8.0.0").table),
        (Some(link.index), 254)
    );
    a.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2");
    assert_eq!(
        a.sysctl("net/ipv4/conf/eth0/rp_filter").as_deref(),
        Some("2")
    );
    assert_eq!(a.sysctl("net/ipv4/no_such_key"), None);
}

fn bridges_alias_and_removal() {
    let (a, _b) = lab::pair();
    let before = a.snapshot();
    a.add_bridge("br0");
    a.set_link("br0", |link| link.alias("netd test").mtu(1400));
    a.set_master("eth0", "br0");
    let bridge = a.link("br0").unwrap();
    assert_eq!((bridge.kind.as_str(), bridge.mtu), ("bridge", 1400));
    assert_eq!(bridge.alias.as_deref(), Some("netd test"));
    assert_eq!(a.link("eth0").unwrap().master, Some(bridge.index));
    assert_ne!(a.snapshot(), before, "a leak is seen");
    a.del_link("br0");
    lab::wait_for("the old state", PATIENCE, || a.snapshot() == before);
    a.del_link("eth0");
    assert_eq!(a.link("eth0"), None);
}

fn panics_and_skips_pass_through() {
    let netns = Netns::new("n");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        netns.run(|| lab::skip("a skip inside a namespace reaches the frame"))
    }));
    assert!(caught.is_err());
    let borrowed = String::from("borrowed");
    assert_eq!(netns.run(|| borrowed.len()), 8);
    assert_eq!(netns.spawn(|| 5).join().unwrap(), 5);
}

fn the_report_of_a_run() {
    let output = lab::self_command::<&str>("__sample", &[]).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let text = text.concat();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "lab: ",
        "2 passed; 2 failed; 1 ignored",
        "SKIPPED 1: __sample_skips: this kernel has no such thing",
        "hello from below",
        "sums",
        "Caused by:\n    below",
        "LEFT BEHIND by a test, killed: ",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

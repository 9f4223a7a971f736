//! Arguments become requests, and what is wrong with them is told apart: usage is 2, a bad value is 1.

use clap::Parser as _;
use netd_model::api;
use netd_model::error::Code;
use serde_json::{Value, json};

use super::say;
use crate::api::tests::daemon::Dir;
use crate::cli::Exit;
use crate::cli::args::{Cli, Command, DEFAULT_SOCKET, Format, Network};
use crate::cli::request;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The body that a command line makes.
fn body(line: &str) -> Result<Value, Code> {
    let body = match parse(line).command {
        Command::Network(Network::Create(args)) => {
            request::network_create(*args).map(|body| json!(body))
        }
        Command::Attach(args) => request::attach(*args).map(|body| json!(body)),
        Command::Connect(args) => request::connect(*args).map(|body| json!(body)),
        other => panic!("{other:?} has no body"),
    };
    body.map_err(|error| error.code)
}

#[test]
fn clap_finds_nothing_wrong_with_the_definition() {
    crate::cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_parses() {
    for line in [
        "netctl network create web",
        "netctl network ls",
        "netctl network inspect web",
        "netctl network rm web",
        "netctl network rm web back --dry-run",
        "netctl network prune --dry-run",
        "netctl attach web --name web",
        "netctl detach web --dry-run",
        "netctl connect back web",
        "netctl disconnect back web --dry-run",
        "netctl ps",
        "netctl inspect web",
        "netctl status",
        "netctl status --wait",
        "netctl plan",
        "netctl purge --force --dry-run",
        "netctl completion bash",
    ] {
        let cli = parse(line);
        assert_eq!(cli.output, Format::Table);
        let behind = parse(&format!("{line} --socket /s -o json"));
        assert_eq!(
            (behind.socket.to_str(), behind.output),
            (Some("/s"), Format::Json),
            "{line}"
        );
        let before = parse(&line.replacen("netctl", "netctl --socket=/s --output=yaml", 1));
        assert_eq!(
            (before.socket.to_str(), before.output),
            (Some("/s"), Format::Yaml),
            "{line}"
        );
    }
    assert_eq!(DEFAULT_SOCKET, "/run/netd/netd.sock");
}

#[test]
fn the_flags_of_network_create_fill_its_body() {
    assert_eq!(body("netctl network create web").unwrap()["name"], "web");
    let line = "netctl network create web --driver bridge --subnet 10.1.0.0/24 --subnet fd00::/64 --ip-range \
                10.1.0.128/25 --gateway 10.1.0.1 --gateway fd00::1 --ipv6 --ipv4 --internal --mode nat --icc=false --mtu 1400 \
                --encrypted --dns 9.9.9.9 --dns 1.1.1.1 --label a=b=c --label d= --opt bridge=br0 --route \
                10.9.0.0/16,via=10.1.0.254,metric=5 --route fd09::/64 \
                --allow-from 192.0.2.0/24 --block-from 192.0.2.9 --dry-run";
    let expected = api::NetworkCreate {
        name: "web".to_owned(),
        driver: Some("bridge".to_owned()),
        subnets: vec!["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()],
        ip_ranges: vec!["10.1.0.128/25".to_owned()],
        gateways: vec!["10.1.0.1".to_owned(), "fd00::1".to_owned()],
        ipv6: true,
        ipv4: Some(true),
        internal: true,
        mode: Some("nat".to_owned()),
        icc: Some(false),
        mtu: Some(1400),
        encrypted: true,
        dns: vec!["9.9.9.9".to_owned(), "1.1.1.1".to_owned()],
        labels: [
            ("a".to_owned(), "b=c".to_owned()),
            ("d".to_owned(), String::new()),
        ]
        .into(),
        opts: [("bridge".to_owned(), "br0".to_owned())].into(),
        allow_from: vec!["192.0.2.0/24".to_owned()],
        block_from: vec!["192.0.2.9".to_owned()],
        routes: vec![
            api::StaticRoute {
                destination: "10.9.0.0/16".to_owned(),
                gateway: Some("10.1.0.254".to_owned()),
                metric: Some(5),
            },
            api::StaticRoute {
                destination: "fd09::/64".to_owned(),
                ..api::StaticRoute::default()
            },
        ],
    };
    assert_eq!(body(line).unwrap(), json!(expected));
    assert_eq!(
        body("netctl network create web --icc").unwrap()["icc"],
        true
    );
    assert_eq!(
        body("netctl network create web --icc=true").unwrap()["icc"],
        true
    );
}

#[test]
fn the_flags_of_attach_fill_its_body() {
    let line = "netctl attach pid:42 --name web --id 0abc --hostname w --network \
                front,ip=10.1.0.5,ip6=fd00::5,mac=02:00:00:00:00:01,ifname=net0,alias=a,alias=b --network \
                back,gw-priority=-5,sysctl=net.ipv4.conf.IFNAME.rp_filter=2 --publish 127.0.0.1:8080:80/tcp --publish \
                53:53/udp --dns 9.9.9.9 --add-host db:10.0.0.5 --label a=b --resolv-conf /tmp/r";
    let expected = json!({
        "netns": "pid:42", "name": "web", "id": "0abc", "hostname": "w", "create_only": false,
        "networks": [
            {"network": "front", "ip": "10.1.0.5", "ip6": "fd00::5", "mac": "02:00:00:00:00:01", "ifname": "net0",
             "aliases": ["a", "b"]},
            {"network": "back", "gw_priority": -5, "sysctls": {"net.ipv4.conf.IFNAME.rp_filter": "2"}}
        ],
        "publish": ["127.0.0.1:8080:80/tcp", "53:53/udp"], "dns": ["9.9.9.9"], "extra_hosts": ["db:10.0.0.5"],
        "labels": {"a": "b"}
    });
    assert_eq!(body(line).unwrap(), expected);
    let least = body("netctl attach web --name web").unwrap();
    assert_eq!(
        least,
        json!({"netns": "web", "name": "web", "create_only": false})
    );
}

#[test]
fn connect_takes_its_keys_in_three_places() {
    let expected =
        json!({"network": "back", "ip": "10.2.0.5", "ifname": "eth5", "aliases": ["db", "sql"]});
    for line in [
        "netctl connect back,ip=10.2.0.5,ifname=eth5,alias=db,alias=sql web",
        "netctl connect back web ip=10.2.0.5 ifname=eth5 alias=db,alias=sql",
        "netctl connect back web --ip 10.2.0.5 --ifname eth5 --alias db --alias sql",
        "netctl connect back,alias=db web --ip 10.2.0.5 ifname=eth5 --alias sql",
    ] {
        assert_eq!(body(line).unwrap(), expected, "{line}");
    }
    assert_eq!(
        body("netctl connect back,ip=10.2.0.5 web --ip 10.2.0.6"),
        Err(Code::InvalidNetwork)
    );
}

#[test]
fn a_value_of_a_wrong_form_has_the_code_of_its_field() {
    for (line, code) in [
        (
            "netctl attach a --name a --network front,port=80",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network front,allow=",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network front,ip",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network front,ip=",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network front,",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network ip=10.0.0.1",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network ,ip=10.0.0.1",
            Code::InvalidNetwork,
        ),
        (
            "netctl attach a --name a --network front,mac=1,mac=2",
            Code::InvalidNetwork,
        ),
        ("netctl attach a --name a --label x", Code::InvalidLabel),
        (
            "netctl attach a --name a --label x=1 --label x=2",
            Code::InvalidLabel,
        ),
        ("netctl network create a --mtu big", Code::InvalidMtu),
        ("netctl network create a --mtu -1", Code::InvalidMtu),
        ("netctl network create a --icc=no", Code::InvalidIcc),
        ("netctl network create a --opt bridge", Code::InvalidOpt),
        ("netctl network create a --label x", Code::InvalidLabel),
        ("netctl connect front a port=80", Code::InvalidNetwork),
    ] {
        assert_eq!(body(line), Err(code), "{line}");
        // And it is found before anybody is asked.
        let outcome = say(
            std::path::Path::new("/nowhere"),
            line.trim_start_matches("netctl "),
        );
        assert_eq!(outcome.exit, Exit::Failed, "{line}");
        assert!(
            outcome.err.ends_with(&format!(" [{code}]\n")),
            "{}",
            outcome.err
        );
    }
}

#[test]
fn usage_and_bad_values_have_different_exit_codes() {
    let nowhere = std::path::Path::new("/nowhere");
    for line in [
        "",
        "frobnicate",
        "network",
        "network frobnicate",
        "ps --all",
        "network rm",
        "network create",
        "attach web",
        "attach --name web",
        "attach web --name",
        "connect back",
        "detach",
        "detach a b",
        "inspect",
        "purge --yes",
        "completion",
    ] {
        let outcome = say(nowhere, line);
        assert_eq!(
            (outcome.exit, outcome.out.as_str()),
            (Exit::Usage, ""),
            "{line}: {}",
            outcome.err
        );
        assert!(
            outcome.err.contains("Usage: netctl") || outcome.err.contains("a value is required"),
            "{line}: {}",
            outcome.err
        );
    }
    for (line, err) in [
        (
            "ps -o xml",
            "netctl: \"xml\" is no value of --output <FORMAT>: use one of table, json, yaml [invalid_output]\n",
        ),
        ("completion cmd", "[invalid_shell]\n"),
    ] {
        let outcome = say(nowhere, line);
        assert_eq!(
            (outcome.exit, outcome.out.as_str()),
            (Exit::Failed, ""),
            "{line}"
        );
        assert!(outcome.err.ends_with(err), "{}", outcome.err);
    }
}

#[test]
fn help_version_and_completion_need_no_daemon() {
    let nowhere = std::path::Path::new("/nowhere");
    for (line, expected) in [
        ("--version", concat!("netctl ", env!("CARGO_PKG_VERSION"))),
        ("--help", "Exit codes: 0 done"),
        ("network create --help", "Example: netctl network create"),
        ("completion bash", "complete -F _netctl"),
        ("completion zsh", "#compdef netctl"),
        ("completion fish", "complete -c netctl"),
    ] {
        let outcome = say(nowhere, line);
        assert_eq!(
            (outcome.exit, outcome.err.as_str()),
            (Exit::Done, ""),
            "{line}"
        );
        assert!(outcome.out.contains(expected), "{line}: {}", outcome.out);
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    fn check(command: &clap::Command) {
        assert!(
            command.get_about().is_some(),
            "{} has no help",
            command.get_name()
        );
        if command.has_subcommands() {
            command.get_subcommands().for_each(check);
            return;
        }
        let after = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            after.contains("Example: netctl "),
            "{} has no example",
            command.get_name()
        );
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} {} has no help",
                command.get_name(),
                argument.get_id()
            );
        }
    }
    crate::cli::command().get_subcommands().for_each(check);
}

#[test]
fn an_existing_relative_path_to_a_namespace_is_made_absolute() {
    // The working directory of a test is the crate's.
    let netns = |text: &str| {
        body(&format!("netctl attach {text} --name a")).unwrap()["netns"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let here = std::env::current_dir().unwrap();
    assert_eq!(
        netns("./Cargo.toml"),
        here.join("Cargo.toml").to_str().unwrap()
    );
    let dir = Dir::new();
    let link = dir.0.join("link");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    let link = link.to_str().unwrap().to_owned();
    for same in [
        "web",
        "pid:42",
        "Cargo.toml",
        "no/such/file",
        "/run/netns/web",
        &link,
    ] {
        assert_eq!(netns(same), same);
    }
}

//! What an attach and a detach cost through the API, beside the floor: the same operations replayed straight to the
//! kernel, without API, records or planning, in the same run and turn by turn.
//!
//! `cargo bench -p netd-tests --bench attach` prints medians and ratios. The machine's own network is not touched.

#![allow(
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use netd_model::Op;
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use serde_json::{Value, json};

mod floor;
use floor::{Floor, timed};

/// Pairs measured at each size.
const ROUNDS: usize = 100;
/// Containers of the larger host.
const MANY: usize = 300;

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let host = Host::start("bench");
    host.ok(&["network", "create", "web"]);
    let mut existing = Vec::new();
    let one = measure(&host, &mut existing, 1);
    let hundred = at_rest(&host, &mut existing);
    let many = measure(&host, &mut existing, MANY);
    println!(
        "\nattach at {MANY} / attach at 1: {:.2} (aim: at most 1.2); the floor itself: {:.2}",
        many.attach / one.attach,
        many.floor / one.floor
    );
    println!("nft rules at 1: {}, at {MANY}: {}", one.rules, many.rules);
    println!(
        "at rest with 100 containers: {} kB resident, {:.3} ms CPU in 5 s",
        hundred.0, hundred.1
    );
    crowd(&host, &mut existing);
}

struct Figures {
    attach: f64,
    floor: f64,
    rules: usize,
}

/// Attach and detach beside `size` other containers, turn by turn with the floor.
fn measure(host: &Host, existing: &mut Vec<Netns>, size: usize) -> Figures {
    let mut api = Api::connect(host);
    grow(&mut api, existing, size);
    let mut floor = Floor::new(host);
    let mut times = [const { Vec::new() }; 4];
    let (mut cpu, mut floor_cpu) = (Duration::ZERO, Duration::ZERO);
    // One plan, and a port of its own: the daemon may see what the floor makes, and keep that for an orphan's.
    let place = Netns::new("planned");
    let mut planned = request(&place, "floor", None);
    planned["publish"] = json!(["80"]);
    let mut planned = api.post("/v1/containers?dry_run=true", &planned);
    let ops: Vec<Op> =
        serde_json::from_value(planned["ops"].take()).expect("a dry run has operations");
    for round in 0..ROUNDS + 5 {
        // Of its own each: where the last container has just gone, the kernel may still be busy with that.
        let [sandbox, replayed] = ["measured", "replayed"].map(Netns::new);
        let body = request(&sandbox, "measured", Some(8080));
        let before = lab::cpu_time(host.pid());
        let attach = timed(|| drop(api.post("/v1/containers", &body)));
        let detach = timed(|| drop(api.delete("/v1/containers/measured")));
        let used = lab::cpu_time(host.pid()).saturating_sub(before);
        let (floor_attach, floor_detach, floor_used) = floor.pair(host, &replayed, &ops);
        if round >= 5 {
            cpu += used;
            floor_cpu += floor_used;
            for (list, time) in times
                .iter_mut()
                .zip([attach, detach, floor_attach, floor_detach])
            {
                list.push(time);
            }
        }
    }
    let [attach, detach, floor_attach, floor_detach] = times.map(median);
    let [cpu, floor_cpu] = [cpu, floor_cpu].map(|cpu| cpu.as_secs_f64() * 1e3 / ROUNDS as f64);
    println!(
        "\nbeside {size} containers, one network, DNS, one published port; medians of {ROUNDS}, ms"
    );
    println!(
        "  attach  {attach:6.2}   floor {floor_attach:6.2}   ratio {:.2} (aim: at most 1.5)",
        attach / floor_attach
    );
    println!(
        "  detach  {detach:6.2}   floor {floor_detach:6.2}   ratio {:.2}",
        detach / floor_detach
    );
    println!(
        "  CPU of a pair: daemon {cpu:.2}   floor {floor_cpu:.2}   ratio {:.2} (aim: daemon at most 3)",
        cpu / floor_cpu
    );
    Figures {
        attach,
        floor: floor_attach,
        rules: host.count_rules(),
    }
}

/// Memory and CPU of a daemon that has nothing to do.
fn at_rest(host: &Host, existing: &mut Vec<Netns>) -> (u64, f64) {
    grow(&mut Api::connect(host), existing, 100);
    let before = lab::cpu_time(host.pid());
    std::thread::sleep(Duration::from_secs(5));
    let used = lab::cpu_time(host.pid()).saturating_sub(before);
    (resident(host.pid()), used.as_secs_f64() * 1e3)
}

/// 100 detaches at once: their time against one alone, and what attaches beside them notice.
fn crowd(host: &Host, existing: &mut Vec<Netns>) {
    let mut api = Api::connect(host);
    let alone: Vec<Netns> = (0..20).map(|n| Netns::new(&format!("alone{n}"))).collect();
    let quiet: Vec<f64> = alone
        .iter()
        .map(|sandbox| {
            let body = request(sandbox, sandbox.name(), None);
            let time = timed(|| drop(api.post("/v1/containers", &body)));
            api.delete(&format!("/v1/containers/{}", sandbox.name()));
            time
        })
        .collect();
    let single = timed(|| drop(api.delete("/v1/containers/c0")));
    let begin = Instant::now();
    let leaving: Vec<_> = (1..=100)
        .map(|n| {
            let mut api = Api::connect(host);
            std::thread::spawn(move || drop(api.delete(&format!("/v1/containers/c{n}"))))
        })
        .collect();
    let beside: Vec<f64> = alone
        .iter()
        .take_while(|_| !leaving.iter().all(std::thread::JoinHandle::is_finished))
        .map(|sandbox| {
            let body = request(sandbox, sandbox.name(), None);
            timed(|| drop(api.post("/v1/containers", &body)))
        })
        .collect();
    leaving
        .into_iter()
        .for_each(|thread| thread.join().expect("a detach succeeds"));
    let all = begin.elapsed().as_secs_f64() * 1e3;
    println!(
        "\n1 detach {single:.1} ms, 100 detaches at once {all:.1} ms: {:.2} ms each",
        all / 100.0
    );
    let (quiet, count) = (median(quiet), beside.len());
    if count > 0 {
        let beside = median(beside);
        println!(
            "attach alone {quiet:.2} ms, beside 100 detaches {beside:.2} ms ({count} of them): ratio {:.2}",
            beside / quiet
        );
    } else {
        println!("the detaches were over before one attach began");
    }
    existing.clear();
}

fn grow(api: &mut Api, existing: &mut Vec<Netns>, size: usize) {
    while existing.len() < size {
        let sandbox = Netns::new(&format!("c{}", existing.len()));
        api.post("/v1/containers", &request(&sandbox, sandbox.name(), None));
        existing.push(sandbox);
    }
}

fn request(sandbox: &Netns, name: &str, port: Option<u16>) -> Value {
    let publish: Vec<String> = port.map(|port| format!("{port}:80")).into_iter().collect();
    json!({"netns": sandbox.path(), "name": name, "networks": [{"network": "web"}], "publish": publish})
}

/// A connection to the API that stays open.
struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    fn connect(host: &Host) -> Self {
        Self {
            stream: BufReader::new(UnixStream::connect(host.socket()).expect("the daemon listens")),
        }
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        self.call("POST", path, &body.to_string())
    }

    fn delete(&mut self, path: &str) -> Value {
        self.call("DELETE", path, "")
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> Value {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: netd\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream
            .get_mut()
            .write_all(format!("{head}{body}").as_bytes())
            .expect("the daemon reads");
        let (mut length, mut status) = (0, String::new());
        loop {
            let mut line = String::new();
            self.stream
                .read_line(&mut line)
                .expect("the daemon answers");
            if status.is_empty() {
                status.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).expect("a whole answer");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(status.contains(" 20"), "{method} {path}: {status}{answer}");
        answer
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a resident size");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number")
}

//! End to end: the real binary, real sockets.

mod abuse;
mod audit;
mod authorize;
mod basic;
mod bodies;
mod bodies_kept;
mod cache;
mod cache_disk;
mod cache_keys;
mod cache_large;
mod cache_rules;
mod cache_served;
mod canaries;
mod certificates;
mod client_certificates;
mod cluster;
mod cors;
mod deferred;
mod delivered;
mod demo;
mod described;
mod doctor;
mod drills;
mod examples;
mod exchanges;
mod faults;
mod files;
mod fuzzed;
mod gate;
mod handshakes;
mod idempotency;
mod interim;
mod limits;
mod listeners;
mod load;
mod login;
mod maintenance;
mod mirroring;
mod monitoring;
mod nodes;
mod otlp;
mod packaging;
mod poison;
mod promises;
mod protect;
mod pulled;
mod query;
mod queue_metrics;
mod queues_api;
mod retries;
mod robustness;
mod routing;
mod running;
mod seen;
mod shards;
mod shield;
mod shim;
mod stapling;
mod steering;
mod store;
mod streams;
mod systemd;
mod tenants;
mod time;
mod tokens;
mod top;
mod tunnels;
mod upgrade;
mod upstreams;
mod webhooks;
mod whole;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

fn gate(name: &str, config: &str) -> tidegate_testkit::Gate {
    tidegate_testkit::Gate::start(BINARY, name, config)
}

/// What the control API says to a `GET`, head and body: what its document says.
fn control(gate: &tidegate_testkit::Gate, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let answer = tidegate_testkit::send(gate.control, request.as_bytes());
    described::holds(&format!("GET {path}"), &answer);
    answer
}

/// What a command says over the unix socket of the control API, and whether it went well.
fn command(gate: &tidegate_testkit::Gate, arguments: &[&str]) -> (bool, String) {
    let socket = gate.file.parent().expect("a folder").join("control.sock");
    let out = std::process::Command::new(BINARY)
        .args(arguments)
        .args(["--control", &format!("unix:{}", socket.display())])
        .output()
        .expect("the binary runs");
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// One upstream with these endpoints, and one route to it with these further lines. Whatever has no bound of its own is
/// given more time than a machine loses that builds something else meanwhile.
fn app(endpoints: &[std::net::SocketAddr], upstream: &str, route: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "workers = 2\n[defaults.route]\ndeadline = \"20s\"\n[upstream.app]\nendpoints = [{}]\n{upstream}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n{route}\n",
        endpoints.join(", ")
    )
}

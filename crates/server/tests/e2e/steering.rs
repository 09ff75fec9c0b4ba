//! Points 5 and 11: the control API, and the command that uses it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::Value;
use tidegate_model::credential::Digest;
use tidegate_testkit::{Gate, Origin, Reply, ask, send, until};

use crate::{BINARY, app, control, gate};

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, String::new()))
}

/// A gate with two tokens, a unix socket, and a name of its own for the control API.
fn steered(name: &str, origins: &[&Origin]) -> Gate {
    let socket = Gate::folder(name).join("control.sock");
    let token = |name: &str, scope: &str| {
        let digest = Digest::of(name.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"{name}\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    };
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let config = format!(
        "{}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n[control]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\nhosts = [\"gate.internal\"]\ntokens = [{}, {}]\n",
        app(&addresses, "balance = \"round-robin\"", ""),
        socket.display(),
        token("reader", "read"),
        token("writer", "write")
    );
    Gate::start_whole(BINARY, name, &[], &config)
}

/// The status and the body of an answer.
fn parts(answer: &str) -> (u16, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head[9..12].parse().expect("a status"), body)
}

/// Its code, if it is an error.
fn code(answer: &str) -> String {
    let problem: Value = serde_json::from_str(parts(answer).1).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn only_who_may_is_answered() {
    let origin = ok();
    let gate = steered("tokens", &[&origin]);
    let endpoint = format!("/upstreams/app/endpoints/{}", origin.address);
    let nowhere = "/upstreams/app/endpoints/127.0.0.1:1";
    for (request, token, host, status, told) in [
        ("GET /healthz", "", "localhost", 200, ""),
        ("GET /readyz", "", "127.0.0.1:1", 200, ""),
        ("GET /metrics", "", "[::1]:80", 200, ""),
        ("GET /status", "", "gate.internal", 200, ""),
        ("GET /config", "reader", "localhost", 200, ""),
        ("GET /status", "wrong", "localhost", 401, "control.token"),
        ("GET /tenants/acme/domains?limit=many", "", "localhost", 400, "control.request"),
        ("GET /explain/%ff", "", "localhost", 400, "control.request"),
        ("GET /status", "", "evil.example", 421, "control.host"),
        ("GET /status", "", "", 421, "control.host"),
        ("POST /reload", "", "localhost", 401, "control.token"),
        ("POST /reload", "reader", "localhost", 403, "control.scope"),
        ("POST /reload", "writer", "evil.example", 421, "control.host"),
        ("POST /reload", "writer", "localhost", 200, ""),
        ("GET /reload", "", "localhost", 405, "control.method"),
        ("GET /nothing", "", "localhost", 404, "control.not-found"),
        ("GET /explain/short", "", "localhost", 400, "control.request-id"),
        ("GET /explain/00000000000000000000000000000000", "", "localhost", 404, "control.forgotten"),
        (&format!("POST {endpoint}"), "", "localhost", 401, "control.token"),
        (&format!("POST {endpoint}"), "writer", "localhost", 200, ""),
        (&format!("POST {nowhere}"), "writer", "localhost", 404, "control.endpoint"),
        ("POST /upstreams/app/endpoints/here", "writer", "localhost", 400, "control.address"),
        ("POST /upstreams/none/endpoints/127.0.0.1:1", "writer", "localhost", 404, "control.endpoint"),
    ] {
        let body = if request.contains("/endpoints/") { "{\"state\": \"enabled\"}" } else { "" };
        let token =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let host = if host.is_empty() { String::new() } else { format!("Host: {host}\r\n") };
        let length = body.len();
        let answer = send(
            gate.control,
            format!("{request} HTTP/1.0\r\n{host}{token}Content-Length: {length}\r\n\r\n{body}").as_bytes(),
        );
        assert_eq!(
            (parts(&answer).0, code(&answer).as_str()),
            (status, told),
            "{request}, {token:?}, {host:?}: {answer}"
        );
        if status == 401 {
            assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
        }
    }
    assert!(
        gate.said().contains("who=\"writer\""),
        "changes are told with the token's name: {}",
        gate.said()
    );
}

#[test]
fn whoever_may_open_the_unix_socket_may_change_everything() {
    use std::os::unix::fs::PermissionsExt as _;
    let name = "unix-socket";
    // One that a killed process has left behind.
    let path = Gate::folder(name).join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let gate = steered(name, &[&ok()]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"POST /reload HTTP/1.0\r\nHost: whatever\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(parts(&answer), (200, "{\"reloaded\":true}"));
    assert_eq!(gate.metric("tidegate_config_reloads_total{outcome=\"applied\"}"), Some(1.0));
}

/// Runs `tidegate status` against this gate. What it wrote, and whether all went well.
fn status(gate: &Gate, token: &str, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(BINARY);
    command
        .args(["status", "--control", &gate.control.to_string()])
        .args(arguments)
        .env_remove("TIDEGATE_TOKEN");
    if !token.is_empty() {
        command.env("TIDEGATE_TOKEN", token);
    }
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (text, out.status.success())
}

#[test]
fn an_endpoint_is_drained_and_enabled_by_command() {
    let (first, second) = (ok(), ok());
    let gate = steered("drained", &[&first, &second]);
    let address = first.address.to_string();
    let drain = ["drain", "app", &address];
    let (told, done) = status(&gate, "", &drain);
    assert!(!done && told.contains("a token is needed"), "{told}");
    assert_eq!(status(&gate, "writer", &drain), (format!("{address} of app is draining\n"), true));
    let often =
        |count: usize| (0..count).for_each(|_| assert_eq!(ask(gate.address, "GET /", "").status, 200));
    often(6);
    assert_eq!((first.recorded().len(), second.recorded().len()), (0, 6));
    // It outlives a reload.
    let reload = "POST /reload HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer writer\r\n\r\n";
    assert_eq!(parts(&send(gate.control, reload.as_bytes())).0, 200);
    often(6);
    assert_eq!((first.recorded().len(), second.recorded().len()), (0, 12));
    assert!(
        status(&gate, "", &[]).0.lines().any(|line| line.contains(&address) && line.contains("draining"))
    );
    assert!(status(&gate, "writer", &["enable", "app", &address]).1);
    often(6);
    // Each core goes round by itself.
    let (back, before) = (first.recorded().len(), second.recorded().len());
    assert!(back > 0 && back + before == 18, "{back}, {before}");
    assert!(status(&gate, "writer", &["disable", "app", &second.address.to_string()]).1);
    often(6);
    assert_eq!((first.recorded().len(), second.recorded().len()), (back + 6, before));
    let (told, done) = status(&gate, "writer", &["drain", "app", "127.0.0.1:1"]);
    assert!(!done && told.contains("has no endpoint"), "{told}");
}

#[test]
fn status_tells_upstreams_endpoints_tenants_and_limits() {
    let origin = ok();
    let plan = "[plan.default]\nrate = { limit = \"5/h\", burst = 5 }\nconcurrency = 7\n";
    let gate = gate("status", &format!("{}{plan}", app(&[origin.address], "concurrency = 9", "")));
    (0..6).for_each(|_| drop(ask(gate.address, "GET /", "")));
    let row = |first: &str| {
        let (told, done) = status(&gate, "", &[]);
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let row = told.lines().map(squeezed).find(|line| line.starts_with(first));
        assert!(done, "{told}");
        row.unwrap_or_else(|| panic!("{first} in {told}"))
    };
    let mut tenant = String::new();
    until("all has been counted", || {
        tenant = row("anonymous ");
        tenant == "anonymous default 5 1 0 of 7 default: 0 left, 5 in 3600 s"
    });
    assert!(row("app ").starts_with("app closed 0 0 of 9 0 "), "{}", row("app "));
    assert!(
        row(&origin.address.to_string()).contains(" app up enabled 0 "),
        "{}",
        row(&origin.address.to_string())
    );
    let json: Value = serde_json::from_str(&status(&gate, "", &["--json"]).0).unwrap();
    assert_eq!(json["tenants"]["busiest"][0]["rates"][0]["limit"], 5);
    // Every field is documented.
    let page = include_str!("../../../../docs/control.md");
    let mut rest = vec![&json];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    assert!(page.contains(&format!("`{name}`")), "docs/control.md has no `{name}`");
                    rest.push(value);
                }
            }
            Value::Array(list) => rest.extend(list),
            _ => {}
        }
    }
    drop(gate);
    let (told, done) = status_of("127.0.0.1:1");
    assert!(!done && told.contains("no control API answers at 127.0.0.1:1"), "{told}");
}

fn status_of(address: &str) -> (String, bool) {
    let out = Command::new(BINARY).args(["status", "--control", address]).output().unwrap();
    (String::from_utf8_lossy(&out.stderr).into_owned(), out.status.success())
}

#[test]
fn a_refused_reload_is_told_to_who_asked_and_by_status_and_log() {
    let origin = ok();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = steered("refused-reload", &[&origin]);
    let good = std::fs::read_to_string(&gate.file).unwrap();
    let port = taken.local_addr().unwrap();
    let both = format!("http = [\"127.0.0.1:0\", \"{port}\"]");
    let moved = good
        .replace("http = [\"127.0.0.1:0\"]", &both)
        .replace("name = \"all\"", "name = \"all\"\npath = \"/moved\"");
    let unknown = good.replace("upstream = \"app\"", "upstream = \"ap\"");
    for (text, why) in
        [(&unknown, "did you mean \"app\"?"), (&moved, "the port is in use by another process")]
    {
        std::fs::write(&gate.file, text).unwrap();
        let reload = "POST /reload HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer writer\r\n\r\n";
        let answer = send(gate.control, reload.as_bytes());
        assert_eq!((parts(&answer).0, code(&answer).as_str()), (422, "control.config"), "{answer}");
        let detail: Value = serde_json::from_str(parts(&answer).1).unwrap();
        let detail = detail["detail"].as_str().unwrap();
        assert!(detail.contains(why) && detail.contains("tidegate.toml:"), "{detail}");
        // All of the one before is in force.
        assert_eq!(ask(gate.address, "GET /elsewhere", "").status, 200);
        let state: Value = serde_json::from_str(parts(&control(&gate, "/status")).1).unwrap();
        assert_eq!(state["config"]["last_error"], detail);
        assert!(status(&gate, "", &[]).0.contains("The last reload was refused"));
        assert!(gate.said().contains("configuration not reloaded"), "{}", gate.said());
    }
    std::fs::write(&gate.file, &good).unwrap();
    let reload = "POST /reload HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer writer\r\n\r\n";
    assert_eq!(parts(&send(gate.control, reload.as_bytes())).0, 200);
    let state: Value = serde_json::from_str(parts(&control(&gate, "/status")).1).unwrap();
    assert_eq!(state["config"]["last_error"], Value::Null);
}

//! Point 11 and "bad input": starting, reloading, stopping.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tidegate_testkit::{Gate, Origin, Reply, ask, connect, read_answer, signal, until};

use crate::upstreams::{Switch, holding};
use crate::{BINARY, app, control, gate};

#[test]
fn fifty_reloads_under_load_fail_no_request() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let config = app(&[origin.address], "", "");
    let gate = gate("reloads", &config);
    let stop = AtomicBool::new(false);
    let served: usize = std::thread::scope(|scope| {
        let load = || {
            let mut stream = connect(gate.address);
            let mut count = 0;
            while !stop.load(Relaxed) {
                std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                assert_eq!(read_answer(&mut stream).status, 200);
                count += 1;
            }
            count
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(load)).collect();
        for number in 1..=50 {
            gate.rewrite(&format!("{config}\n[plan.p{number}]\nrate = \"1/s\"\n"));
            gate.signal("-HUP");
            until("the reload", || {
                let metrics = control(&gate, "/metrics");
                let value = metrics.lines().find_map(|line| {
                    line.strip_prefix("tidegate_config_reloads_total{outcome=\"applied\"} ")
                });
                value.and_then(|value| value.parse::<u64>().ok()).is_some_and(|value| value >= number)
            });
        }
        stop.store(true, Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no request failed")).sum()
    });
    assert!(served > 50, "{served}");
}

#[test]
fn a_bad_file_never_replaces_a_good_one() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = gate("bad-reload", &app(&[origin.address], "", ""));
    gate.rewrite("this is not = = toml");
    gate.signal("-HUP");
    until("the refused reload", || {
        gate.metric("tidegate_config_reloads_total{outcome=\"refused\"}").is_some_and(|refused| refused > 0.0)
    });
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert!(control(&gate, "/status").contains("tidegate.toml:1:"), "the place is told");
}

#[test]
fn sigterm_lets_an_exchange_finish_and_exits_0() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let mut gate = gate("drain", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    stream.write_all(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the request arrives", || origin.recorded().len() == 1);
    gate.signal("-TERM");
    until("nobody else is let in", || TcpStream::connect(gate.address).is_err());
    assert!(control(&gate, "/readyz").starts_with("HTTP/1.0 503 "), "a load balancer is told");
    released.set(true);
    let answer = read_answer(&mut stream);
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(gate.wait(), Some(0));
    assert_eq!(gate.access_log().lines().count(), 1, "the last line is there at the end");
}

#[test]
fn a_drain_ends_when_its_time_is_over_or_when_told_again() {
    let config = |origin: &Origin, time: &str| {
        format!("{}[drain]\ntime = \"{time}\"\n", app(&[origin.address], "", "deadline = \"60s\""))
    };
    for (name, time, again, code) in [("drain-time", "100ms", false, 0), ("drain-twice", "60s", true, 1)] {
        let origin = Origin::start(|_| Reply::Never);
        let mut gate = gate(name, &config(&origin, time));
        let mut stream = connect(gate.address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until("the request arrives", || origin.recorded().len() == 1);
        gate.signal("-TERM");
        if again {
            until("it drains", || control(&gate, "/readyz").starts_with("HTTP/1.0 503 "));
            gate.signal("-INT");
        }
        assert_eq!(gate.wait(), Some(code), "{name}");
    }
}

/// Waits for the gate to answer `/` with this status.
fn until_answered(gate: &Gate, status: u16) {
    until("the new configuration is in force", || ask(gate.address, "GET /", "").status == status);
}

/// A configuration whose only route answers by itself.
fn answering(status: u16) -> String {
    format!("workers = 2\n[[route]]\nname = \"all\"\nrespond = {{ status = {status} }}\n")
}

#[test]
fn a_file_that_is_written_is_loaded() {
    let gate = gate("written", &answering(201));
    let text = std::fs::read_to_string(&gate.file).unwrap();
    std::fs::write(&gate.file, text.replace("201", "202")).unwrap();
    until_answered(&gate, 202);
}

#[test]
fn a_file_that_another_replaces_is_loaded() {
    let gate = gate("replaced", &answering(201));
    let text = std::fs::read_to_string(&gate.file).unwrap();
    let beside = gate.file.with_extension("new");
    std::fs::write(&beside, text.replace("201", "202")).unwrap();
    std::fs::rename(&beside, &gate.file).unwrap();
    until_answered(&gate, 202);
}

/// As an orchestrator mounts configuration: a link to a directory that is switched as a whole. Further files are
/// included, and one more appears.
#[test]
fn included_files_behind_a_link_that_is_switched_are_loaded() {
    let folder = Gate::folder("switched");
    for (version, status) in [("one", 201), ("two", 202)] {
        let routes = folder.join(version);
        std::fs::create_dir_all(&routes).unwrap();
        std::fs::write(
            routes.join("all.toml"),
            format!("[[route]]\nname = \"all\"\nrespond = {{ status = {status} }}\n"),
        )
        .unwrap();
    }
    let more = "[[route]]\nname = \"more\"\npath = \"/more\"\nrespond = { status = 203 }\n";
    std::fs::write(folder.join("two").join("more.toml"), more).unwrap();
    let link = folder.join("conf.d");
    std::os::unix::fs::symlink("one", &link).unwrap();
    let gate = gate("switched", "include = [\"conf.d/*.toml\"]\nworkers = 2\n");
    until_answered(&gate, 201);
    std::os::unix::fs::symlink("two", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), &link).unwrap();
    until_answered(&gate, 202);
    // Each core takes the new site in its own turn.
    until("the second file's route is there", || ask(gate.address, "GET /more", "").status == 203);
}

/// HS256 of `{"tenant":"acme","exp":4102444800}` with the secrets below.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ0ZW5hbnQiOiJhY21lIiwiZXhwIjo0MTAyNDQ0ODAwfQ";
const BY_FILE: (&str, &str) =
    ("a secret from a file, of 32 bytes", "KA-4Oi3MnEeeiOXOye7rOgDFtoABNYpgexQdYujAQr0");
const BY_ENV: (&str, &str) =
    ("a secret of the environment, 32 b", "4whi0mIcwiK09h4o20KIGvrxKrBr6bGKmyVaJiiMdRQ");

#[test]
fn secrets_come_from_files_and_environment_and_are_never_shown() {
    let environment = [("TIDEGATE_E2E_SECRET", BY_ENV.0)];
    for (name, own, other) in [("file", BY_FILE.1, BY_ENV.1), ("env", BY_ENV.1, BY_FILE.1)] {
        let folder = Gate::folder(name);
        std::fs::write(folder.join("secret"), format!("{}\n", BY_FILE.0)).unwrap();
        let config = format!(
            "{}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n\
             [jwt.file]\nsecret = {{ file = \"secret\" }}\n[jwt.env]\nsecret = {{ env = \"TIDEGATE_E2E_SECRET\" }}\n\
             [jwt.text]\nsecret = \"a secret in the open, of 32 bytes\"\n\
             [tenants]\nfrom = [{{ jwt = \"{name}\" }}]\nunknown = \"refuse\"\n[tenant.acme]\n",
            answering(204)
        );
        let gate = Gate::start_whole(BINARY, name, &environment, &config);
        let with = |signature: &str| {
            ask(gate.address, "GET /", &format!("Authorization: Bearer {TOKEN}.{signature}\r\n")).status
        };
        assert_eq!((with(own), with(other)), (204, 401), "{name}");
        let mut check = Command::new(BINARY);
        let out = check.args(["check", "--print", "-c"]).arg(&gate.file).envs(environment).output().unwrap();
        let printed = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && printed.contains("[jwt.env]"), "{printed}");
        let shown = printed + &control(&gate, "/config") + &gate.said();
        for secret in [BY_FILE.0, BY_ENV.0, "a secret in the open"] {
            assert!(!shown.contains(secret), "{secret}");
        }
        let mut check = Command::new(BINARY);
        let out =
            check.args(["check", "-c"]).arg(&gate.file).env_remove("TIDEGATE_E2E_SECRET").output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(said.contains("the environment variable `TIDEGATE_E2E_SECRET` is not set"), "{said}");
    }
}

/// Every kind of bad input, each with its place and a way to mend it, all at once.
#[test]
fn a_bad_configuration_is_told_whole_and_ends_with_2() {
    let file = Gate::folder("bad").join("bad.toml");
    let text = r#"worker = 2
[listen]
http = ["127.0.0.1:0", 8080]
https = ["127.0.0.1:0"]
[[tls]]
cert = "no-cert.pem"
key = "no-key.pem"
[upstream.app]
endpoints = ["127.0.0.1:3000"]
balance = "fastest"
[[route]]
name = "a"
path = "/x"
upstream = "ap"
[[route]]
name = "b"
path = "/x/"
upstream = "app"
[[route]]
name = "c"
path = "/c"
upstream = "app"
deadline = 5
[saga.a]
"#;
    std::fs::write(&file, text).unwrap();
    for command in ["run", "check"] {
        let out = Command::new(BINARY).args([command, "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{said}");
        for (place, what, help) in [
            ("1:1", "unknown key `worker`", "did you mean `workers`?"),
            ("3:24", "`http` must be an address with a port", ""),
            ("6:8", "no-cert.pem: there is no such file", ""),
            ("7:7", "no-key.pem: there is no such file", ""),
            ("10:11", "\"fastest\" is no value of `balance`", "write one of \"round-robin\""),
            ("14:12", "there is no upstream `ap`", "did you mean \"app\"?"),
            ("15:1", "routes `a` and `b` match the same requests", "bad.toml:11:1"),
            ("23:12", "`deadline`", "\"5s\""),
            ("24:2", "`saga` is not in this version", ""),
        ] {
            let place = format!("bad.toml:{place}\n");
            let problem = said.split("\n\n").find(|problem| problem.contains(&place));
            let problem = problem.unwrap_or_else(|| panic!("{place} in {said}"));
            assert!(problem.contains(what) && problem.contains(help), "{what}, {help}: {problem}");
        }
        assert!(said.trim_end().ends_with("9 problems"), "{said}");
    }
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn what_cannot_be_listened_on_or_written_is_told_whole_and_ends_with_2() {
    let taken = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (taken(), taken());
    let address = |one: &std::net::TcpListener| one.local_addr().unwrap();
    let file = Gate::folder("taken").join("taken.toml");
    let text = format!(
        "[listen]\nhttp = [\"127.0.0.1:0\", \"{}\"]\n[control]\nlisten = [\"{}\"]\n[log]\naccess = \"/nonexistent/access.log\"\n{}",
        address(&first),
        address(&second),
        answering(204)
    );
    std::fs::write(&file, text.replacen("workers = 2\n", "", 1)).unwrap();
    let out = Command::new(BINARY).args(["run", "--config"]).arg(&file).output().unwrap();
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{said}");
    for (place, what) in [
        ("2:24", format!("cannot listen on {}: the port is in use", address(&first))),
        ("4:11", format!("the control API cannot listen on {}: it is in use", address(&second))),
        ("6:10", "cannot write the access log /nonexistent/access.log".to_owned()),
    ] {
        let place = format!("taken.toml:{place}\n");
        let found = said.split("\n\n").any(|problem| problem.contains(&place) && problem.contains(&what));
        assert!(found, "{place} {what}: {said}");
    }
}

/// `run --to` and `demo` want the ports that a newcomer finds in the documentation: one at a time.
pub static DEFAULT_PORTS: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn to_an_address_needs_no_file_at_all() {
    let _ports = DEFAULT_PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let origin = Origin::start(|_| Reply::Status(200, "there".into()));
    let mut command = Command::new(BINARY);
    command.args(["run", "--to", &origin.address.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let Some(first) = lines.next() else {
        // Somebody else has the port: that is told, then.
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        return assert!(
            said.contains(":8080: the port is in use") || said.contains(":8090: it is in use"),
            "{said}"
        );
    };
    assert_eq!(first.unwrap(), "listening http 0.0.0.0:8080");
    let answer = ask("127.0.0.1:8080".parse().unwrap(), "GET /any?thing", "");
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!((answer.status, answer.body.as_str()), (200, "there"));
}

#[test]
fn an_address_that_is_none_is_told_without_a_file() {
    let out = Command::new(BINARY).args(["run", "--to", "nonsense"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(
        (out.status.code(), said.as_ref()),
        (Some(2), "error: --to: `nonsense` has no port: write \"nonsense:80\"\n")
    );
}

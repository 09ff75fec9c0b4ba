//! A new binary takes over: no request is lost, limits stand, the old process finishes what it has, and a new one that does not
//! come up changes nothing.

mod ends;
mod load;
mod measure;
mod stored;
mod waits;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use serde_json::Value;
use tidegate_testkit::{Gate, Origin, Reply, ask, ask_on, connect, has_ended, nobody, read_answer, until};

use crate::streams::{read_until, sent};
use crate::upstreams::{Switch, holding};
use crate::{BINARY, app, control};

/// A gate whose binary stands in its own folder, where another may take its place.
fn gate(name: &str, config: &str) -> Gate {
    Gate::start(own_binary(name).to_str().unwrap(), name, config)
}

fn own_binary(name: &str) -> PathBuf {
    let path = Gate::folder(name).join("tidegate");
    let _ = std::fs::remove_file(&path);
    // A measure is made of what is built for release.
    let binary = std::env::var("TIDEGATE_BINARY").unwrap_or_else(|_| BINARY.to_owned());
    std::os::unix::fs::symlink(binary, &path).unwrap();
    path
}

/// Puts a script where the binary stood.
fn replaced_by(name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = Gate::folder(name).join("tidegate");
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn status(gate: &Gate) -> Value {
    let told = control(gate, "/status");
    serde_json::from_str(told.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

#[test]
fn the_new_process_serves_and_the_old_one_finishes_and_ends() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let mut gate = gate("upgrade", &app(&[origin.address], "", ""));
    let before = gate.pid();
    let mut held = connect(gate.address);
    held.write_all(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the request arrives", || origin.recorded().len() == 1);
    let after = gate.upgrade().expect("the new one serves");
    assert_ne!(before, after);
    let told = status(&gate);
    assert_eq!((&told["process"]["generation"], &told["process"]["pid"]), (&2.into(), &after.into()));
    until("the old one tells what it has", || {
        let told = status(&gate);
        let old = &told["process"]["draining"][0];
        old["pid"] == before && old["generation"] == 1 && old["connections"] == 1
    });
    released.set(true);
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    let answer = read_answer(&mut held);
    // The connection is the new one's from here on.
    assert_eq!((answer.status, answer.header("connection")), (200, ""));
    assert_eq!(ask_on(&mut held, "GET /", "").status, 200);
    assert_eq!(gate.wait(), Some(0));
    until("nothing is left of the old one", || {
        status(&gate)["process"]["draining"] == Value::Array(Vec::new())
    });
    // What steers the service is the new one's.
    gate.reload();
    gate.signal("-TERM");
    until("the new one ends", || has_ended(after));
}

#[test]
fn a_websocket_lives_on_in_the_old_process_until_it_ends() {
    let origin = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
        visit.echo()
    });
    let mut gate = gate("upgrade-tunnel", &app(&[origin.address], "", ""));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".to_owned();
    let mut tunnel = sent(gate.address, request);
    read_until(&mut tunnel, "\r\n\r\n");
    let first = gate.pid();
    gate.upgrade().expect("the second serves");
    gate.upgrade().expect("the third serves");
    let mut back = [0; 4];
    for word in [b"over", b"here"] {
        tunnel.write_all(word).unwrap();
        tunnel.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    }
    until("the third knows of the first", || {
        let told = status(&gate);
        let all = told["process"]["draining"].as_array().cloned().unwrap_or_default();
        all.iter().any(|old| old["pid"] == first && old["generation"] == 1)
    });
    assert!(!has_ended(first));
    drop(tunnel);
    assert_eq!(gate.wait(), Some(0));
}

#[test]
fn a_tunnel_is_cut_when_its_time_in_the_old_process_is_over() {
    let origin = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
        visit.echo()
    });
    let config = format!("{}\n[upgrade]\nconnections = \"100ms\"\n", app(&[origin.address], "", ""));
    let mut gate = gate("upgrade-bound", &config);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".to_owned();
    let mut tunnel = sent(gate.address, request);
    read_until(&mut tunnel, "\r\n\r\n");
    gate.upgrade().expect("the new one serves");
    assert_eq!(gate.wait(), Some(0));
    let mut rest = Vec::new();
    let _ = tunnel.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn a_new_process_that_does_not_come_up_changes_nothing() {
    let origin = ok();
    let config = format!("{}\n[upgrade]\nstart = \"15s\"\n", app(&[origin.address], "", ""));
    let mut gate = gate("upgrade-fails", &config);
    let before = gate.pid();
    let mut kept = connect(gate.address);
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
    // Crashes at once.
    replaced_by("upgrade-fails", "exit 3");
    let said = gate.upgrade().expect_err("it crashes");
    assert!(
        said.contains("409") && said.contains("control.upgrade") && said.contains("exit status: 3"),
        "{said}"
    );
    // Speaks another protocol.
    replaced_by("upgrade-fails", &format!("TIDEGATE_TAKE_OVER=99 exec {BINARY} \"$@\""));
    let said = gate.upgrade().expect_err("it does not understand");
    assert!(said.contains("exit status: 1"), "{said}");
    assert!(gate.said().contains("by protocol 99, and this one takes over by 1"), "{}", gate.said());
    // Is no program.
    replaced_by("upgrade-fails", "");
    std::fs::remove_file(Gate::folder("upgrade-fails").join("tidegate")).unwrap();
    let said = gate.upgrade().expect_err("there is none");
    assert!(said.contains("cannot be started"), "{said}");
    // Has a configuration that it cannot use.
    own_binary("upgrade-fails");
    let good = std::fs::read_to_string(&gate.file).unwrap();
    std::fs::write(&gate.file, "this is not = = toml").unwrap();
    let said = gate.upgrade().expect_err("the configuration is bad");
    assert!(said.contains("exit status: 2"), "{said}");
    std::fs::write(&gate.file, good).unwrap();
    // All the time the old one served, and it is not too late for another try.
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
    assert_eq!((ask(gate.address, "GET /", "").status, gate.pid()), (200, before));
    let after = gate.upgrade().expect("this one comes up");
    assert_eq!(status(&gate)["process"]["pid"], after);
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
}

#[test]
fn a_new_process_that_hangs_is_ended_in_time() {
    let origin = ok();
    let config = format!("{}\n[upgrade]\nstart = \"200ms\"\n", app(&[origin.address], "", ""));
    let mut gate = gate("upgrade-hangs", &config);
    let folder = Gate::folder("upgrade-hangs");
    replaced_by("upgrade-hangs", &format!("echo $$ > {}/hangs; exec sleep 600", folder.display()));
    let said = gate.upgrade().expect_err("it hangs");
    assert!(said.contains("did not serve within 200ms"), "{said}");
    let pid = std::fs::read_to_string(folder.join("hangs")).ok().and_then(|pid| pid.trim().parse().ok());
    // On a machine that is busy it may have been ended before it told its number.
    if let Some(pid) = pid {
        until("it has ended", || has_ended(pid));
    }
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
}

#[test]
fn a_tenant_at_its_limit_gets_no_second_allowance() {
    let origin = ok();
    let config = format!(
        "{}\nlimits = {{ rate = {{ limit = \"7/day\", burst = 7 }} }}\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n\
         [plan.default]\nrate = {{ limit = \"10/day\", burst = 10 }}\n[tenant.listed]\nplan = \"default\"\n",
        app(&[origin.address], "", "")
    );
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    let binary = own_binary("upgrade-limits");
    let mut gate = Gate::start_listening(binary.to_str().unwrap(), "upgrade-limits", listen, &config);
    let passes = |gate: &Gate, tenant: &str, most: usize| {
        let header = format!("X-Tenant: {tenant}\r\n");
        (0..most).filter(|_| ask(gate.address, "GET /", &header).status == 200).count()
    };
    assert_eq!(passes(&gate, "spent", 20), 7);
    assert_eq!(passes(&gate, "listed", 4), 4);
    gate.upgrade().expect("the new one serves");
    assert_eq!(passes(&gate, "spent", 20), 0, "of the route's");
    assert_eq!(passes(&gate, "listed", 20), 3);
    assert_eq!(passes(&gate, "new", 20), 7);
    gate.upgrade().expect("and another");
    assert_eq!(passes(&gate, "listed", 20) + passes(&gate, "new", 20), 0);
}

#[test]
fn an_endpoint_that_was_drained_stays_drained_and_one_that_is_unhealthy_gets_nothing() {
    let (first, second) = (ok(), ok());
    let health = "health = { path = \"/healthz\", interval = \"20ms\" }\nconcurrency = { min = 2, max = 90, initial = 17 }";
    let config = app(&[first.address, second.address, nobody()], health, "");
    let mut gate = gate("upgrade-endpoints", &config);
    let drain = format!("/upstreams/app/endpoints/{}", second.address);
    let body = "{\"state\": \"draining\"}";
    let socket = Gate::folder("upgrade-endpoints").join("control.sock");
    let mut steer = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let request = format!(
        "POST {drain} HTTP/1.0\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    steer.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    steer.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.0 200 "), "{said}");
    until("the third is found unhealthy", || {
        status(&gate)["upstreams"][0]["endpoints"][2]["health"] == "unhealthy"
    });
    // The limit is 17, however it was found; a process that begins anew would begin with another.
    gate.rewrite(&config.replace("initial = 17", "initial = 60"));
    gate.upgrade().expect("the new one serves");
    let told = status(&gate);
    assert_eq!(told["upstreams"][0]["concurrency"], 17, "{told}");
    let endpoints = &told["upstreams"][0]["endpoints"];
    assert_eq!(endpoints[1]["admin"], "draining", "{endpoints}");
    assert_eq!(endpoints[2]["health"], "unhealthy", "{endpoints}");
    for _ in 0..20 {
        assert_eq!(ask(gate.address, "GET /", "").status, 200);
    }
    let asked =
        |origin: &Origin| origin.recorded().iter().filter(|one| !one.head.contains("/healthz")).count();
    assert_eq!((asked(&first), asked(&second)), (20, 0));
}

#[test]
fn listeners_that_were_removed_close_and_new_ones_open() {
    let origin = ok();
    let config = app(&[origin.address], "", "");
    let listen = "http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]";
    let binary = own_binary("upgrade-listeners");
    let mut gate = Gate::start_listening(binary.to_str().unwrap(), "upgrade-listeners", listen, &config);
    let removed = gate.listeners[1];
    let mut kept = connect(removed);
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
    let text = std::fs::read_to_string(&gate.file).unwrap();
    let port = tidegate_testkit::Port::take();
    let added = port.address;
    // The process before must not reload it first: both happen, in either order, and come to the same.
    std::fs::write(&gate.file, text.replace("127.0.0.2:0", &added.to_string())).unwrap();
    gate.upgrade().expect("the new one serves");
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert_eq!(ask(added, "GET /", "").status, 200);
    until("the old address is closed", || std::net::TcpStream::connect(removed).is_err());
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200, "its connection goes on");
}

#[test]
fn a_signal_upgrades_and_so_does_the_command() {
    let origin = ok();
    let mut gate = gate("upgrade-asked", &app(&[origin.address], "", ""));
    let first = gate.pid();
    let serving = |gate: &Gate| u32::try_from(status(gate)["process"]["pid"].as_u64().unwrap()).unwrap();
    gate.signal("-USR2");
    until("the second serves", || serving(&gate) != first);
    let second = serving(&gate);
    gate.succeeded_by(second);
    assert_eq!(gate.wait(), Some(0));
    let socket = format!("unix:{}", Gate::folder("upgrade-asked").join("control.sock").display());
    let mut command = std::process::Command::new(BINARY);
    let out = command.args(["upgrade", "--control", &socket]).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let third = serving(&gate);
    gate.succeeded_by(third);
    assert_eq!((out.status.code(), said), (Some(0), format!("process {third} serves\n")));
    assert_ne!(second, third);
    until("the second has ended", || has_ended(second));
}

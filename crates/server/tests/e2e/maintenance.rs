//! Maintenance: by order and by file, of everything, of routes and of tenants; over restarts and nodes.

use std::process::Command;

use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, send, until};

use crate::{BINARY, control};

fn config(origin: &Origin, more: &str) -> String {
    format!(
        "workers = 2\n[control]\nlisten = [\"127.0.0.1:0\"]\ntokens = [{{ name = \"ops\", sha256 = \"{TOKEN_HASH}\", scopes = [\"read\", \"write\"] }}]\n\
         [tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n[listen]\nhttp = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]\n\
         [upstream.app]\nendpoints = [\"{}\"]\n\
         [[route]]\nname = \"shop\"\npath = \"/shop\"\nupstream = \"app\"\n\
         [[route]]\nname = \"blog\"\npath = \"/blog\"\nupstream = \"app\"\npriority = \"critical\"\n{more}\n",
        origin.address
    )
}

/// SHA-256 of `token`.
const TOKEN_HASH: &str = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";

/// A gate with exactly this configuration.
fn gate(name: &str, config: &str) -> Gate {
    Gate::start_whole(BINARY, name, &[], config)
}

/// What the commands of the binary say.
fn command(gate: &Gate, arguments: &[&str]) -> String {
    let control = gate.control.to_string();
    let ran = Command::new(BINARY)
        .arg("maintenance")
        .args(arguments)
        .args(["--control", &control, "--token", "token"])
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

fn asked(gate: &Gate, path: &str, tenant: &str, fields: &str) -> Answer {
    ask(gate.address, &format!("GET {path}"), &format!("X-Tenant: {tenant}\r\n{fields}"))
}

/// Statuses of both routes for both tenants.
fn statuses(gate: &Gate) -> [u16; 4] {
    [("/shop", "a"), ("/shop", "b"), ("/blog", "a"), ("/blog", "b")]
        .map(|(path, tenant)| asked(gate, path, tenant, "").status)
}

fn app() -> Origin {
    Origin::start(|_| Reply::Status(200, "ok".to_owned()))
}

#[test]
fn windows_are_opened_and_ended_by_command() {
    let origin = app();
    let gate = gate("windows", &config(&origin, ""));
    assert_eq!(statuses(&gate), [200; 4]);
    for (arguments, expected) in [
        (&["on"][..], [503; 4]),
        (&["on", "--route", "shop"], [503, 503, 200, 200]),
        (&["on", "--tenant", "a"], [503, 200, 503, 200]),
        (&["on", "--tenant", "a", "--route", "blog"], [200, 200, 503, 200]),
    ] {
        let said = command(&gate, arguments);
        assert!(said.contains("is in maintenance until it is ended"), "{said}");
        assert_eq!(statuses(&gate), expected, "{arguments:?}");
    }
    assert!(command(&gate, &["list"]).starts_with("all: tenant a on route blog"));
    assert_eq!(gate.metric("tidegate_maintenance_windows"), Some(1.0));
    assert!(control(&gate, "/status").contains("\"maintenance\":[{\"name\":\"all\""));
    assert_eq!(command(&gate, &["off"]), "all has ended\n");
    assert_eq!(statuses(&gate), [200; 4]);
    assert!(command(&gate, &["off"]).contains("nobody has ordered"));
    assert!(command(&gate, &["on", "--route", "none"]).contains("there is no route `none`"));
    until("what was refused is counted", || {
        gate.metric("tidegate_refusals_total{code=\"route.maintenance\"}") == Some(9.0)
    });
}

#[test]
fn clients_are_told_when_to_come_again_in_their_form() {
    let origin = app();
    let folder = Gate::folder("told-page");
    std::fs::create_dir_all(&folder).unwrap();
    let page = folder.join("down.html");
    std::fs::write(&page, "<h1>soon</h1>").unwrap();
    let more = format!("[maintenance]\nretry_after = \"7s\"\npage = \"{}\"\n", page.display());
    let gate = gate("told", &config(&origin, &more));
    command(&gate, &["on", "--detail", "we move your data"]);
    let told = asked(&gate, "/shop", "a", "");
    assert_eq!((told.status, told.header("retry-after")), (503, "7"), "{}", told.head);
    assert!(
        told.body.contains("route.maintenance") && told.body.contains("we move your data"),
        "{}",
        told.body
    );
    let shown = asked(&gate, "/shop", "a", "Accept: text/html\r\n");
    assert_eq!((shown.status, &*shown.body), (503, "<h1>soon</h1>"), "{}", shown.head);
    assert!(shown.header("content-type").starts_with("text/html"));
    command(&gate, &["on", "--for", "1h"]);
    let seconds: u64 = asked(&gate, "/shop", "a", "").header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
}

#[test]
fn who_is_let_through_is_served() {
    let origin = app();
    let more = "[maintenance]\non = true\nallow = [\"192.0.2.0/24\"]\npass = \"a pass of some length\"\nspare_critical = true\n";
    let gate = gate("let-through", &config(&origin, more));
    assert_eq!(statuses(&gate), [503, 503, 200, 200], "what is critical goes on");
    let pass = "Tidegate-Maintenance-Pass: a pass of some length\r\n";
    assert_eq!(asked(&gate, "/shop", "a", pass).status, 200);
    assert!(!origin.recorded().last().unwrap().head.to_ascii_lowercase().contains("maintenance-pass"));
    assert_eq!(asked(&gate, "/shop", "a", "Tidegate-Maintenance-Pass: another\r\n").status, 503);
    assert_eq!(asked(&gate, "/shop", "a", "X-Forwarded-For: 192.0.2.7\r\n").status, 200);
    command(&gate, &["on", "blog", "--route", "blog"]);
    assert_eq!(statuses(&gate), [503; 4], "a window that names it counts for what is critical, too");
}

#[test]
fn the_file_closes_routes_and_tenants_and_a_reload_opens_them() {
    let origin = app();
    let closed = "maintenance = true\n[tenant.a]\nmaintenance = true\n";
    let gate = gate("by-file", &config(&origin, closed));
    assert_eq!(statuses(&gate), [503, 200, 503, 503]);
    assert!(
        command(&gate, &["list"]).contains("route.blog: route blog until it is ended, by the configuration")
    );
    command(&gate, &["on", "b", "--tenant", "b"]);
    std::fs::write(Gate::folder("by-file").join("tidegate.toml"), config(&origin, "")).unwrap();
    until("the file's windows are gone, and what was ordered is there", || {
        statuses(&gate) == [200, 503, 200, 503]
    });
}

#[test]
fn what_was_ordered_holds_after_a_restart_and_on_other_nodes() {
    let origin = app();
    let data = Gate::folder("windows-kept");
    let store = format!("[store]\nurl = \"sqlite:{}\"\n", data.display());
    let mut first = gate("windows-kept", &config(&origin, &store));
    let said = command(&first, &["on", "shop", "--route", "shop", "--for", "1h"]);
    assert!(said.contains("over restarts"), "{said}");
    first.signal("-TERM");
    assert_eq!(first.wait(), Some(0));
    let again = gate("windows-kept-again", &config(&origin, &store));
    assert_eq!(statuses(&again), [503, 503, 200, 200], "before anything else is answered");
    command(&again, &["off", "shop"]);
    assert_eq!(statuses(&again), [200; 4]);
    drop(again);
    let postgres = tidegate_testkit::Postgres::shared();
    let store = format!("[store]\nurl = \"{}\"\n", postgres.database());
    let nodes = ["one", "two"].map(|name| {
        gate(&format!("windows-{name}"), &config(&origin, &format!("{store}node = \"{name}\"\n")))
    });
    command(&nodes[0], &["on"]);
    assert_eq!(statuses(&nodes[0]), [503; 4]);
    until("the other node has read it", || statuses(&nodes[1]) == [503; 4]);
    command(&nodes[1], &["off"]);
    until("its end is read, too", || statuses(&nodes[0]) == [200; 4]);
}

#[test]
fn an_order_needs_a_token_that_may_change_things() {
    let origin = app();
    let gate = gate("windows-token", &config(&origin, ""));
    let body = "{\"name\":\"all\"}";
    let request = format!(
        "POST /maintenance HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(send(gate.control, request.as_bytes()).starts_with("HTTP/1.0 401"));
    assert_eq!(statuses(&gate), [200; 4]);
}

//! Hosts that tenants have of their own: registered, recognised, and given a certificate when somebody asks.

use std::io::Write as _;

use tidegate_testkit::acme::Authority;
use tidegate_testkit::hello::Hello;
use tidegate_testkit::{Gate, until};

use super::{LISTEN, Scene, awaited, get, handshake, head};
use crate::BINARY;

/// Handshakes that wait at once: more than may look into the store.
const WAITING: usize = 300;

const TENANTS: &str = "[tenants]\nfrom = [{ domain = \"registered\" }, { address = \"client\" }]\n\
                       [tenant.acme]\ndomains = [\"shop.acme.test\"]\n[tenant.beta]\n";

fn steer(gate: &Gate, method: &str, path: &str, fields: &str) -> String {
    let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n");
    let mut stream =
        std::os::unix::net::UnixStream::connect(gate.file.with_file_name("control.sock")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    crate::described::holds(&format!("{method} {path}"), &answer);
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn scene(name: &str, on_demand: &str) -> (Scene, Gate) {
    let scene = Scene::new(name);
    let acme = format!("on_demand = {on_demand}");
    let gate = scene.gate(&format!("acme-{name}"), &acme, TENANTS);
    (scene, gate)
}

#[test]
fn the_first_handshake_for_a_registered_host_waits_for_its_certificate() {
    let (scene, gate) = scene("demand", "{ wait = \"20s\" }");
    let https = gate.listeners[1];
    assert!(handshake(https, "www.beta.test").is_none(), "it is nobody's");
    assert_eq!(scene.authority.orders(), [], "and nobody is asked for it");
    // Both at once: one order.
    let both = [(); 2].map(|()| std::thread::spawn(move || handshake(https, "shop.acme.test").is_some()));
    assert_eq!(both.map(|one| one.join().unwrap()), [true, true]);
    let put = steer(&gate, "PUT", "/tenants/beta/domains/WWW.beta.test", "");
    assert_eq!(status(&put), "200", "{put}");
    assert!(handshake(https, "www.beta.test").is_some(), "known at once");
    let names: Vec<String> = scene.authority.orders().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["shop.acme.test", "www.beta.test"]);
    let mut client = handshake(https, "www.beta.test").unwrap();
    assert!(head(&mut client, "www.beta.test").starts_with("http/1.1 200 "));
    let seen = scene.origin.recorded().pop().unwrap().head.to_ascii_lowercase();
    assert!(seen.contains("tidegate-tenant: beta\r\n"), "{seen}");
}

#[test]
fn who_waits_for_an_order_holds_up_no_other_name() {
    let mut scene = Scene::new("patient");
    let demand = "on_demand = { wait = \"60s\" }";
    let before = scene.gate("acme-patient", demand, TENANTS);
    awaited(before.listeners[1], "shop.acme.test");
    drop(before);
    // It never finds out: it is not told where to look before the end.
    scene.authority = Authority::start(&scene.folder);
    let config = scene.config(&scene.store(), demand, TENANTS) + "[limits]\nhandshake_time = \"60s\"\n";
    let gate = Gate::start_listening(BINARY, "acme-patient", LISTEN, &config);
    let https = gate.listeners[1];
    steer(&gate, "PUT", "/tenants/beta/domains/slow.test", "");
    let hello = Hello { version: 0x0303, suites: &[0xc02b], compressions: &[0], name: "slow.test" };
    let waiting: Vec<_> = (0..WAITING).map(|_| hello.send(https)).collect();
    until("all of them are there", || {
        gate.metric("tidegate_connections").is_some_and(|open| open >= WAITING as f64)
    });
    until("it is ordered", || scene.authority.orders().len() == 1);
    assert!(handshake(https, "shop.acme.test").is_some(), "the store has it");
    drop(waiting);
    scene.authority.looks_at(gate.listeners[0], https);
}

#[test]
fn a_host_belongs_to_one_tenant_and_is_given_back() {
    let (_scene, gate) = scene("owned", "{}");
    let put =
        |tenant: &str, host: &str| steer(&gate, "PUT", &format!("/tenants/{tenant}/domains/{host}"), "");
    let etag = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("etag: ").map(str::to_owned));
        line.unwrap_or_default()
    };
    let first = put("beta", "x.test");
    assert_eq!((status(&first), status(&put("beta", "x.test"))), ("200", "200"));
    assert_eq!(status(&put("gamma", "x.test")), "409", "another's");
    assert_eq!(status(&put("beta", "shop.acme.test")), "409", "the file's");
    for wrong in ["*.x.test", "127.0.0.1", "localhost", "x_%20y.test"] {
        assert_eq!(status(&put("beta", wrong)), "422", "{wrong}");
    }
    let list = steer(&gate, "GET", "/tenants/beta/domains", "");
    assert!(list.contains("\"x.test\""), "{list}");
    assert!(steer(&gate, "GET", "/tenants/acme/domains", "").contains("\"shop.acme.test\""));
    assert_eq!(status(&steer(&gate, "GET", "/tenants/gamma/domains/x.test", "")), "404");
    let found = steer(&gate, "GET", "/tenants/beta/domains/x.test", "");
    assert_eq!(etag(&found), etag(&first));
    let stale = steer(&gate, "DELETE", "/tenants/beta/domains/x.test", "If-Match: \"999999\"\r\n");
    assert_eq!(status(&stale), "412");
    assert_eq!(status(&steer(&gate, "DELETE", "/tenants/gamma/domains/x.test", "")), "404", "another's");
    let current = format!("If-Match: {}\r\n", etag(&first));
    assert_eq!(status(&steer(&gate, "DELETE", "/tenants/beta/domains/x.test", &current)), "200");
    assert_eq!(status(&put("gamma", "x.test")), "200", "free again");
}

#[test]
fn there_are_no_more_than_are_allowed_and_they_are_forgotten_with_their_host() {
    let (scene, gate) = scene("bound", "{ limit = 1, wait = \"1s\" }");
    let https = gate.listeners[1];
    for host in ["one.test", "two.test"] {
        steer(&gate, "PUT", &format!("/tenants/beta/domains/{host}"), "");
    }
    awaited(https, "one.test");
    assert_eq!(get(gate.listeners[0], "GET /", "one.test").header("location"), "https://one.test/");
    assert!(handshake(https, "two.test").is_none(), "one is all there may be");
    steer(&gate, "DELETE", "/tenants/beta/domains/one.test", "");
    until("nobody's host has no certificate in memory", || handshake(https, "one.test").is_none());
    assert_eq!(scene.authority.orders().len(), 1);
    steer(&gate, "PUT", "/tenants/beta/domains/two.test", "");
    awaited(https, "two.test");
}

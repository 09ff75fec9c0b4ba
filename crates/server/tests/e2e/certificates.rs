//! Certificates by themselves: ordered at an authority that looks, renewed when it says so, shared by nodes, and ordered when
//! somebody asks for a tenant's own host.

mod measure;
mod nodes;
mod on_demand;
mod taken_over;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use tidegate_testkit::acme::{Authority, Mood};
use tidegate_testkit::tls::{TlsClient, certificate, shown, tls_connect};
use tidegate_testkit::{Answer, Gate, Origin, Reply, connect, read_answer, until};

use crate::{BINARY, app, control};

const LISTEN: &str = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";

/// An authority, an application, and a folder that outlives gates.
struct Scene {
    authority: Authority,
    origin: Origin,
    folder: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let folder = std::env::temp_dir().join(format!("tidegate-acme-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let origin = Origin::start(|_| Reply::Status(200, "hello".into()));
        Scene { authority: Authority::start(&folder), origin, folder }
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.folder.join("store").display())
    }

    /// A configuration with these further lines in `[acme]`, and these behind all.
    fn config(&self, store: &str, acme: &str, more: &str) -> String {
        format!(
            "{}\n[store]\nurl = \"{store}\"\n[acme]\ndirectory = \"{}\"\nca = \"{}\"\nterms_agreed = true\n\
             retry = \"200ms\"\nsecret = \"a secret of thirty-two bytes, it is\"\n{acme}\n{more}",
            app(&[self.origin.address], "", ""),
            self.authority.directory,
            self.authority.ca.display(),
        )
    }

    /// A gate with that configuration, where the authority looks.
    fn gate(&self, name: &str, acme: &str, more: &str) -> Gate {
        let config = self.config(&self.store(), acme, more);
        let gate = Gate::start_listening(BINARY, name, LISTEN, &config);
        self.authority.looks_at(gate.listeners[0], gate.listeners[1]);
        gate
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Asks for a path of a host.
fn get(address: SocketAddr, line: &str, host: &str) -> Answer {
    let mut stream = connect(address);
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// The head of an answer over TLS, lower case. Its content, `hello`, is read too.
fn head(client: &mut TlsClient, host: &str) -> String {
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    client.read_exact(&mut [0; 5]).unwrap();
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

fn handshake(address: SocketAddr, name: &str) -> Option<TlsClient> {
    tls_connect(address, name, &["http/1.1"]).ok()
}

/// The certificate for a name, once there is one.
fn awaited(address: SocketAddr, name: &str) -> Vec<u8> {
    let mut found = Vec::new();
    until(&format!("a certificate for {name}"), || {
        found = handshake(address, name).map(|client| shown(&client)).unwrap_or_default();
        !found.is_empty()
    });
    found
}

/// What is told of a configured name.
fn told(gate: &Gate, name: &str) -> Value {
    let answer = control(gate, "/certificates");
    let told: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    told["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn names_get_certificates_by_a_request_and_by_a_handshake() {
    for way in ["http-01", "tls-alpn-01"] {
        let scene = Scene::new(way);
        let acme = format!("domains = [\"a.test\", \"B.test\"]\nchallenges = [\"{way}\"]");
        let gate = scene.gate(&format!("acme-{way}"), &acme, "");
        let https = gate.listeners[1];
        let (a, b) = (awaited(https, "a.test"), awaited(https, "b.test"));
        assert_ne!(a, b, "a certificate for each name");
        assert!(handshake(https, "c.test").is_none(), "there is none for others");
        let mut orders = scene.authority.orders();
        orders.sort_by(|one, other| one.name.cmp(&other.name));
        let seen: Vec<_> = orders.iter().map(|one| (&*one.name, one.way, one.issued)).collect();
        assert_eq!(seen, [("a.test", Some(way), true), ("b.test", Some(way), true)]);
        assert_eq!(scene.authority.accounts(), 1);
        assert_eq!(gate.metric("tidegate_acme_orders_total{outcome=\"issued\"}"), Some(2.0));
        // As of the last look, which comes after the handshake that found it.
        until("what is told is what is served", || {
            told(&gate, "a.test")["not_after"].as_str().is_some_and(|at| at.len() > 10)
        });
        assert_eq!(told(&gate, "a.test")["error"], Value::Null);
    }
}

#[test]
fn who_does_not_come_by_https_is_sent_there_and_told_to_stay() {
    let scene = Scene::new("redirect");
    let gate = scene.gate("acme-redirect", "domains = [\"a.test\"]", "");
    let [http, https] = [gate.listeners[0], gate.listeners[1]];
    awaited(https, "a.test");
    until("whoever comes by http is sent away", || get(http, "POST /x?y=1", "a.test:8080").status == 308);
    let answer = get(http, "GET /x?y=1", "a.test:8080");
    assert_eq!((answer.status, answer.header("location")), (308, "https://a.test/x?y=1"));
    assert_eq!(answer.header("strict-transport-security"), "", "by http it says nothing");
    assert_eq!(get(http, "GET /", "other.test").status, 200);
    let challenge = get(http, "GET /.well-known/acme-challenge/unknown", "a.test");
    assert_eq!(challenge.status, 200, "never redirected: it is the application's, if it is not ours");
    let mut client = handshake(https, "a.test").unwrap();
    let told = head(&mut client, "a.test");
    assert!(told.contains("strict-transport-security: max-age=31536000\r\n"), "{told}");
    assert_eq!(get(http, "OPTIONS *", "a.test").header("location"), "https://a.test/", "a star is no path");
    let elsewhere = scene.config(&scene.store(), "domains = [\"a.test\"]\nhttps_port = 8443", "");
    gate.rewrite(&elsewhere);
    gate.reload();
    assert_eq!(get(http, "GET /x", "a.test").header("location"), "https://a.test:8443/x");
    let off = scene.config(&scene.store(), "domains = [\"a.test\"]\nredirect = false\nhsts = \"0s\"", "");
    gate.rewrite(&off);
    gate.reload();
    assert_eq!(get(http, "GET /", "a.test").status, 200);
    assert!(!head(&mut client, "a.test").contains("strict-transport-security"));
}

#[test]
fn what_the_store_has_is_served_without_the_authority() {
    let scene = Scene::new("kept");
    let acme = "domains = [\"a.test\"]";
    let before = {
        let gate = scene.gate("acme-kept", acme, "");
        let found = awaited(gate.listeners[1], "a.test");
        let files = std::fs::read_dir(scene.folder.join("store")).unwrap();
        let kept: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        let kept = String::from_utf8_lossy(&kept);
        assert!(kept.contains("BEGIN CERTIFICATE") && !kept.contains("PRIVATE KEY"), "keys are sealed");
        found
    };
    scene.authority.be(Mood::Away);
    let gate = scene.gate("acme-kept", acme, "");
    assert_eq!(awaited(gate.listeners[1], "a.test"), before);
    assert_eq!(scene.authority.orders().len(), 1);
}

#[test]
fn files_that_the_configuration_names_no_more_are_served_no_more() {
    let scene = Scene::new("unnamed");
    let files = ["cert.pem", "key.pem"].map(|file| scene.folder.join(file));
    let of_file = certificate(&["b.test"], &files[0], &files[1]);
    let tls = format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", files[0].display(), files[1].display());
    let acme = "domains = [\"a.test\"]";
    let gate = scene.gate("acme-unnamed", acme, &tls);
    let https = gate.listeners[1];
    until("a.test has one of its own", || {
        shown(&handshake(https, "a.test").expect("the file's, at least")) != of_file
    });
    for name in ["b.test", "c.test"] {
        assert_eq!(shown(&handshake(https, name).expect("the file's")), of_file, "{name}");
    }
    gate.rewrite(&scene.config(&scene.store(), acme, ""));
    gate.reload();
    assert!(handshake(https, "a.test").is_some());
    for name in ["b.test", "c.test"] {
        assert!(handshake(https, name).is_none(), "{name}");
    }
}

#[test]
fn it_is_renewed_when_the_authority_says_so_and_served_meanwhile() {
    let scene = Scene::new("renewed");
    // A thousandth of it is the shortest time between two looks.
    scene.authority.lasts(2000);
    let gate = scene.gate("acme-renewed", "domains = [\"a.test\"]", "");
    let https = gate.listeners[1];
    let before = awaited(https, "a.test");
    scene.authority.renew_all();
    let mut after = before.clone();
    until("it is renewed", || {
        after = shown(&handshake(https, "a.test").expect("one of the two is served"));
        after != before
    });
    let orders = scene.authority.orders();
    let replaces: Vec<bool> = orders.iter().map(|one| one.replaces.is_some()).collect();
    assert_eq!(replaces, [false, true], "the authority is told what it is instead of");
}

#[test]
fn who_is_refused_tries_again_by_the_other_way_and_says_why() {
    let scene = Scene::new("refused");
    scene.authority.be(Mood::Refusing);
    let gate = scene.gate("acme-refused", "domains = [\"a.test\"]", "");
    until("two orders have failed", || {
        gate.metric("tidegate_acme_orders_total{outcome=\"failed\"}").is_some_and(|failed| failed >= 2.0)
    });
    until("it is told", || told(&gate, "a.test")["failures"].as_u64() >= Some(2));
    let error = told(&gate, "a.test")["error"].to_string();
    assert!(error.contains("it was not found there"), "{error}");
    assert!(handshake(gate.listeners[1], "a.test").is_none());
    let ways: Vec<_> = scene.authority.orders().iter().filter_map(|one| one.way).collect();
    assert_eq!(ways[..2], ["tls-alpn-01", "http-01"]);
    scene.authority.be(Mood::Willing);
    awaited(gate.listeners[1], "a.test");
}

#[test]
fn where_the_authority_wants_to_hear_nothing_nothing_is_ordered() {
    let scene = Scene::new("busy");
    scene.authority.be(Mood::Busy(3600));
    let gate = scene.gate("acme-busy", "domains = [\"a.test\"]", "");
    until("it was said", || {
        let failed = gate.metric("tidegate_acme_orders_total{outcome=\"failed\"}");
        failed.is_some_and(|failed| failed >= 1.0) && told(&gate, "a.test") != Value::Null
    });
    scene.authority.be(Mood::Willing);
    gate.rewrite(&scene.config(&scene.store(), "domains = [\"a.test\", \"b.test\"]", ""));
    gate.reload();
    until("it knows of the other one", || told(&gate, "b.test") != Value::Null);
    assert_eq!(scene.authority.orders(), [], "it said when to come again");
}

//! What is spoken in TLS, and what is not: sessions that are gone on with, versions, suites and key exchanges, as old clients,
//! new ones and another implementation (OpenSSL) find them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidegate_testkit::hello::{Hello, Reply as Said};
use tidegate_testkit::sessions::{Able, Group, Sessions};
use tidegate_testkit::tls::certificate;
use tidegate_testkit::{Gate, Origin, Reply, until};

use crate::{BINARY, app};

const HTTPS: &str = "https = [\"127.0.0.1:0\"]";
/// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
const GOOD: u16 = 0xc02b;
const PROTOCOL_VERSION: u8 = 70;
const HANDSHAKE_FAILURE: u8 = 40;

/// A gate on four cores that has certificates for `a.test` and `b.test`.
struct Scene {
    gate: Gate,
    config: String,
    shown: [Vec<u8>; 2],
    folder: PathBuf,
    _origin: Origin,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let origin = Origin::start(|_| Reply::Status(200, "hello".into()));
        let folder = Gate::folder(name);
        let mut config = app(&[origin.address], "", "").replace("workers = 2", "workers = 4");
        let shown = ["a", "b"].map(|letter| {
            let files = ["cert", "key"].map(|file| folder.join(format!("{letter}-{file}.pem")));
            let [cert, key] = &files;
            config += &format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
            certificate(&[&format!("{letter}.test")], cert, key)
        });
        let gate = Gate::start_listening(BINARY, name, HTTPS, &config);
        Scene { gate, config, shown, folder, _origin: origin }
    }
}

#[test]
fn a_session_is_gone_on_with_on_any_core_and_after_a_reload() {
    let scene = Scene::new("sessions");
    let address = scene.gate.address;
    for able in [Able::Tls13, Able::Tickets12, Able::Numbers12] {
        let client = Sessions::new(able);
        let visit = |name: &str| client.visit(address, name).expect("a handshake");
        let first = visit("a.test");
        assert!(!first.resumed && first.shown == scene.shown[0], "{able:?}");
        // The kernel gives each connection to a core by chance: all are to have it.
        for _ in 0..16 {
            let next = visit("a.test");
            assert!(next.resumed && next.shown == scene.shown[0], "{able:?}");
            assert!(!next.early, "no data is taken before the handshake is over");
        }
        let other = visit("b.test");
        assert!(!other.resumed && other.shown == scene.shown[1], "another name is another session: {able:?}");
    }
    let clients = [Able::Tls13, Able::Tickets12].map(|able| (able, Sessions::new(able)));
    clients.iter().for_each(|(_, client)| drop(client.visit(address, "a.test").expect("a handshake")));
    scene.gate.rewrite(&format!("{}\n[limits]\nrequests = 99999\n", scene.config));
    scene.gate.reload();
    for (able, client) in &clients {
        assert!(client.visit(address, "a.test").expect("a handshake").resumed, "after a reload: {able:?}");
    }
}

#[test]
fn old_versions_and_weak_suites_are_refused_and_nothing_is_compressed() {
    let scene = Scene::new("hellos");
    let said = |version: u16, suites: &[u16], compressions: &[u8]| {
        Hello { version, suites, compressions, name: "a.test" }.ask(scene.gate.address)
    };
    // CBC, with what is good beside it: the version alone is what is wrong.
    for version in [0x0300, 0x0301, 0x0302] {
        assert_eq!(
            said(version, &[0xc009, 0xc013, GOOD], &[0]),
            Said::Alert(PROTOCOL_VERSION),
            "{version:x}"
        );
    }
    let weak: [(&str, &[u16]); 5] = [
        ("CBC", &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028]),
        ("RSA key exchange", &[0x002f, 0x0035, 0x009c, 0x009d]),
        ("finite fields", &[0x0033, 0x0039, 0x009e, 0x009f, 0xccaa]),
        ("RC4 and 3DES", &[0x0004, 0x0005, 0x000a, 0xc007, 0xc008, 0xc011, 0xc012]),
        ("none and anonymous", &[0x0001, 0x0002, 0x003b, 0x0034, 0x00a6, 0xc015, 0xc018]),
    ];
    for (what, suites) in weak {
        assert_eq!(said(0x0303, suites, &[0]), Said::Alert(HANDSHAKE_FAILURE), "{what}");
    }
    let chosen = Said::Chosen { version: 0x0303, suite: GOOD, compression: 0 };
    assert_eq!(said(0x0303, &[0xc009, GOOD], &[1, 0]), chosen);
}

#[test]
fn keys_come_from_a_group_that_holds_against_quantum_computers_where_the_client_has_one() {
    let (hybrid, x25519) = (Group::X25519MLKEM768, Group::X25519);
    let scene = Scene::new("groups");
    for groups in [&[hybrid, x25519][..], &[x25519], &[Group::secp256r1], &[Group::secp384r1]] {
        let shaken = Sessions::of_groups(groups).visit(scene.gate.address, "a.test").expect("a handshake");
        assert_eq!(shaken.group.as_deref(), Some(&*format!("{:?}", groups[0])));
        assert!(!shaken.retried, "its guess was right: {groups:?}");
    }
}

#[test]
fn who_asks_for_no_name_or_an_unknown_one_is_shown_the_first() {
    let scene = Scene::new("names");
    let client = Sessions::new(Able::Tls13);
    for (name, at) in [("a.test", 0), ("b.test", 1), ("c.test", 0), ("127.0.0.1", 0)] {
        assert_eq!(
            client.visit(scene.gate.address, name).expect("a handshake").shown,
            scene.shown[at],
            "{name}"
        );
    }
}

/// OpenSSL's client, with these arguments.
fn openssl(address: SocketAddr, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "a.test"]).args(arguments);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn openssl_goes_on_with_its_sessions() {
    let scene = Scene::new("openssl-sessions");
    let visit = |arguments: &[&str]| {
        let arguments = [&["-ign_eof"], arguments].concat();
        let mut child = openssl(scene.gate.address, &scene.folder, &arguments).spawn().expect("openssl");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.contains("Compression: NONE"), "{said}");
        (said.contains("\nNew, "), said.contains("\nReused, "))
    };
    for way in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
        assert_eq!(visit(&[way, &["-sess_out", "session"]].concat()), (true, false), "{way:?}");
        assert_eq!(visit(&[way, &["-sess_in", "session"]].concat()), (false, true), "{way:?}");
    }
}

#[test]
fn nothing_is_negotiated_anew() {
    let scene = Scene::new("renegotiation");
    let mut child = openssl(scene.gate.address, &scene.folder, &["-tls1_2"]).spawn().expect("openssl");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It stays open until OpenSSL has told what became of it: at its end it would leave.
    stdin.write_all(b"R\n").unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
        said += &line.unwrap();
        if said.contains("no renegotiation") {
            break;
        }
    }
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    until("who asked for it is gone", || scene.gate.metric("tidegate_connections") == Some(0.0));
}

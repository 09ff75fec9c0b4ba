//! `tidegate store`: a store is copied while it is in use, looked at, and put back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Postgres, Reply, connect, read_answer, until};

use crate::BINARY;
use crate::shards::{digest, say};

/// A directory of the test's own, which is removed with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("tidegate-backup-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(data: &Path, origin: &Origin) -> String {
    format!(
        "[store]\nurl = \"sqlite:{}\"\n[upstream.app]\nendpoints = [\"{}\"]\nbreaker = false\noutlier = {{ consecutive = 0 }}\n\
         [[route]]\nname = \"pay\"\nupstream = \"app\"\nidempotency = {{}}\n",
        data.display(),
        origin.address
    )
}

/// What the command says, and whether it went well.
fn check(arguments: &[&str], went_well: bool, says: &str) {
    let told = Command::new(BINARY).arg("store").args(arguments).output().unwrap();
    let text = [told.stdout, told.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(told.status.success(), went_well, "{arguments:?}: {text}");
    assert!(text.contains(says), "{arguments:?}: {text}");
}

fn pay(gate: &Gate) -> (u16, String) {
    use std::io::Write as _;
    let mut stream = connect(gate.address);
    let request = "POST /pay HTTP/1.1\r\nHost: test\r\nIdempotency-Key: \"k\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_answer(&mut stream);
    (answer.status, answer.header("idempotency-replayed").to_owned())
}

#[test]
fn a_store_in_use_is_copied_and_what_is_put_back_is_what_was_there() {
    let place = Place::new("whole");
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let at = |name: &str| place.0.join(name);
    let file = |name: &str, data: &str| {
        let listen = "[listen]\nhttp = [\"127.0.0.1:0\"]\n";
        std::fs::write(at(name), config(&at(data), &origin) + listen).unwrap();
        at(name).display().to_string()
    };
    let (here, there) = (file("here.toml", "data"), file("there.toml", "back"));
    let copy = at("copy").display().to_string();
    let mut gate = Gate::start(BINARY, "store-backup", &config(&at("data"), &origin));
    assert_eq!(pay(&gate), (200, String::new()));
    let socket = format!("unix:{}", Gate::folder("store-backup").join("control.sock").display());
    check(&["check", "-c", &here], false, "another process uses");
    check(&["backup", &copy, "-c", &here, "--control", &socket], true, "bytes");
    check(&["backup", &copy, "-c", &here, "--control", &socket], false, "tidegate.db already");
    check(&["check", &copy], true, "ok");
    assert_eq!(pay(&gate), (200, "true".to_owned()), "it goes on");
    gate.signal("-TERM");
    gate.wait();
    check(&["restore", &copy, "-c", &there], true, "was put back");
    check(&["restore", &copy, "-c", &there], false, "already");
    check(&["backup", &at("second").display().to_string(), "-c", &here], true, "bytes");
    let gate = Gate::start(BINARY, "store-restored", &config(&at("back"), &origin));
    assert_eq!(pay(&gate), (200, "true".to_owned()), "what was answered is known");
}

/// What `tidegate store migrate` brings over is served by the binary as it was: what waited is made, a key's answer is told
/// again, a destination is there.
#[test]
fn a_store_that_was_brought_into_postgresql_is_served_as_it_was() {
    let place = Place::new("migrated");
    let (is_open, origin) = opening();
    let whole = |store: &str| {
        let control =
            format!("tokens = [{{ name = \"t\", sha256 = \"{}\", scopes = [\"write\"] }}]", digest());
        let listen = "[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n";
        format!(
            "workers = 1\n{listen}{control}\n[store]\n{store}\n[webhook]\n[upstream.app]\nendpoints = [\"{}\"]\nbreaker = false\noutlier = {{ consecutive = 0 }}\n\
             [queue.jobs]\nupstream = \"app\"\npath = \"/job\"\nattempts = 1000\nbackoff = {{ first = \"10ms\", max = \"100ms\" }}\n[[route]]\nname = \"pay\"\npath = \"/pay\"\nupstream = \"app\"\n\
             idempotency = {{}}\n",
            origin.address
        )
    };
    let data = place.0.join("data");
    let before = whole(&format!("url = \"sqlite:{}\"", data.display()));
    let file = place.0.join("tidegate.toml");
    std::fs::write(&file, &before).unwrap();
    let mut gate = Gate::start_whole(BINARY, "store-migrates", &[], &before);
    assert_eq!(pay(&gate), (200, String::new()));
    for job in ["one", "two", "three"] {
        let body = json!({"tenant": "a", "key": "k", "body": job});
        let (status, told) = say(&gate, "POST /queues/jobs/deliveries", &body);
        assert_eq!(status, 202, "{told}");
    }
    let wanted = json!({"destination": {"url": "https://hooks.example/"}});
    let (status, told) = say(&gate, "POST /webhooks/destinations/a", &wanted);
    assert_eq!(status, 201, "{told}");
    let destination = told["id"].as_str().expect("it has an id").to_owned();
    gate.signal("-KILL");
    gate.wait();
    let url = format!("{}?sslmode=disable", Postgres::shared().database());
    let (config, brought) = (file.display().to_string(), ["migrate", "--to", &url, "-c"]);
    let arguments: Vec<&str> = brought.into_iter().chain([config.as_str()]).collect();
    check(&arguments, true, "3 deliveries, 1 keys");
    check(&arguments, false, "there is something in");
    is_open.store(true, SeqCst);
    let gate = Gate::start_whole(BINARY, "store-migrated", &[], &whole(&format!("url = \"{url}\"")));
    until("all are made", || {
        let (_, told) = say(&gate, "GET /queues/jobs", &Value::Null);
        told["counts"]["delivered"] == 3
    });
    assert_eq!(pay(&gate), (200, "true".to_owned()));
    let (status, told) = say(&gate, &format!("GET /webhooks/destinations/a/{destination}"), &Value::Null);
    assert_eq!((status, &told["destination"]["url"]), (200, &json!("https://hooks.example/")), "{told}");
}

/// An application that answers what is paid, and jobs once it is told so.
fn opening() -> (Arc<AtomicBool>, Origin) {
    let is_open = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_open);
    let origin = Origin::start(move |path| match path {
        "/job" if !told.load(SeqCst) => Reply::Status(503, String::new()),
        _ => Reply::Status(200, String::new()),
    });
    (is_open, origin)
}

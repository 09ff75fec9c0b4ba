//! `tidegate store`: a store is copied while it is in use, looked at, and put back.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_testkit::{Gate, Origin, connect, read_answer};

use crate::BINARY;

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
        "[store]\nurl = \"sqlite:{}\"\n[upstream.app]\nendpoints = [\"{}\"]\n\
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
    check(&["backup", &copy, "-c", &here, "--control", &socket], false, "something in");
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

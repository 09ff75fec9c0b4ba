//! `tidegate top` with the real binary: in a pipe, and on a terminal of the test's own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tidegate_testkit::{Origin, Reply, ask, signal, until};

use crate::{BINARY, app, control, gate};

fn origin() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

/// The binary on a terminal of 80 columns and 24 lines.
struct Screen {
    child: Child,
    keys: File,
    slave: File,
    seen: Arc<Mutex<vt100::Parser>>,
    raw: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn start(arguments: &[&str]) -> Screen {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(Path::new(name.to_str().unwrap())).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let end = || slave.try_clone().unwrap();
        let child = Command::new(BINARY)
            .arg("top")
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(master);
        let mut output = keys.try_clone().unwrap();
        let seen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let (told, kept) = (Arc::clone(&seen), Arc::clone(&raw));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                told.lock().unwrap().process(&bytes[..count]);
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Screen { child, keys, slave, seen, raw }
    }

    fn shows(&self, words: &str) -> bool {
        self.seen.lock().unwrap().screen().contents().contains(words)
    }

    fn until_it_shows(&self, words: &str) {
        until(&format!("the screen shows {words:?}"), || self.shows(words));
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for its end; the terminal must be as it was before.
    fn ends(&mut self, code: i32) {
        let mut ended = None;
        until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(code));
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{modes:?}");
        let raw = Arc::clone(&self.raw);
        until("the usual screen is there again", || {
            let raw = raw.lock().unwrap();
            raw.windows(8).any(|bytes| bytes == b"\x1b[?1049l")
        });
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_endpoint_is_drained_and_used_again_by_keys() {
    let (one, two) = (origin(), origin());
    let gate = gate("top-drain", &app(&[one.address, two.address], "", ""));
    let socket = format!("unix:{}", gate.file.with_file_name("control.sock").display());
    let mut screen = Screen::start(&["--control", &socket]);
    screen.until_it_shows("requests/s");
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    screen.press("4");
    screen.until_it_shows(&one.address.to_string());
    screen.until_it_shows(&two.address.to_string());
    let draining = || control(&gate, "/status").matches("\"admin\":\"draining\"").count();
    screen.press("d");
    screen.until_it_shows("y / n");
    assert_eq!(draining(), 0);
    screen.press("y");
    until("it is drained", || draining() == 1);
    screen.until_it_shows("draining");
    screen.press("ey");
    until("it is used again", || draining() == 0);
    screen.press("?");
    screen.until_it_shows("drain the chosen endpoint");
    screen.press("xq");
    screen.ends(0);
}

#[test]
fn it_outlives_the_control_api_and_gives_the_terminal_back_when_told_to_stop() {
    let one = origin();
    let mut gate = gate("top-away", &app(&[one.address], "", ""));
    let mut screen = Screen::start(&["--control", &gate.control.to_string()]);
    screen.until_it_shows("connections");
    screen.press("4");
    screen.until_it_shows(&one.address.to_string());
    screen.press("dy");
    // Over TCP a change needs a token: that is said, and nothing changed.
    screen.until_it_shows("token");
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    screen.until_it_shows("AWAY");
    assert!(screen.shows(&one.address.to_string()), "what was seen last stays");
    signal(screen.child.id(), "-TERM");
    screen.ends(0);
}

#[test]
fn tables_are_printed_into_a_pipe() {
    let one = origin();
    let gate = gate("top-once", &app(&[one.address], "", ""));
    let address = gate.control.to_string();
    let run = |arguments: &[&str]| Command::new(BINARY).arg("top").args(arguments).output().unwrap();
    let output = run(&["--once", "--control", &address]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" requests/s") && text.contains(&one.address.to_string()), "{text}");
    let output = run(&["--control", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--once"), "{output:?}");
    let output = run(&["--once", "--control", &tidegate_testkit::nobody().to_string()]);
    assert_eq!(output.status.code(), Some(1));
}

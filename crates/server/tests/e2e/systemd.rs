//! What systemd is told, and sockets that it opens.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tidegate_testkit::{Gate, Origin, Reply, ask, has_ended, until};

use crate::{BINARY, app};

/// Where systemd would hear.
struct Ear {
    socket: UnixDatagram,
    path: String,
}

impl Ear {
    fn new(name: &str) -> Ear {
        let path = Gate::folder(name).join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Ear { socket, path }
    }

    /// Waits until something is said that begins so: all of it.
    fn hears(&self, what: &str) -> String {
        let mut buffer = [0; 1024];
        let mut heard = String::new();
        until(what, || {
            let Ok(length) = self.socket.recv(&mut buffer) else { return false };
            heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            heard.starts_with(what)
        });
        heard
    }
}

fn config(name: &str, origin: &Origin, http: &str) -> String {
    let socket = Gate::folder(name).join("control.sock");
    format!(
        "{}\n[listen]\nhttp = [\"{http}\"]\n[control]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n[log]\naccess = \"off\"\n[protect]\nlag = \"0s\"\n",
        app(&[origin.address], "", ""),
        socket.display()
    )
}

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

#[test]
fn it_is_told_of_each_step_and_whose_process_it_is() {
    let origin = ok();
    let ear = Ear::new("notify");
    let environment = [("NOTIFY_SOCKET", ear.path.as_str())];
    let text = config("notify", &origin, "127.0.0.1:0");
    let mut gate = Gate::start_whole(BINARY, "notify", &environment, &text);
    ear.hears("READY=1\nSTATUS=Serving");
    gate.signal("-HUP");
    let said = ear.hears("RELOADING=1\nMONOTONIC_USEC=");
    let micros: u64 = said.rsplit('=').next().unwrap().parse().expect("microseconds");
    assert!(micros > 0);
    ear.hears("READY=1");
    let pid = gate.upgrade().expect("another process takes over");
    ear.hears(&format!("MAINPID={pid}"));
    ear.hears("READY=1\nSTATUS=Serving");
    assert_eq!(gate.wait(), Some(0));
    gate.signal("-TERM");
    ear.hears("STOPPING=1");
    ear.hears("EXTEND_TIMEOUT_USEC=15000000");
    until("it ends", || has_ended(pid));
}

#[test]
fn the_watchdog_is_answered_while_the_cores_do_what_they_are_told() {
    let origin = ok();
    let ear = Ear::new("watchdog");
    let environment = [("NOTIFY_SOCKET", ear.path.as_str()), ("WATCHDOG_USEC", "300000")];
    let text = config("watchdog", &origin, "127.0.0.1:0");
    let mut gate = Gate::start_whole(BINARY, "watchdog", &environment, &text);
    ear.hears("WATCHDOG=1");
    ear.hears("WATCHDOG=1");
    // Whoever takes over answers it, too.
    let pid = gate.upgrade().expect("another process takes over");
    ear.hears(&format!("MAINPID={pid}"));
    assert_eq!(gate.wait(), Some(0));
    ear.hears("WATCHDOG=1");
    ear.hears("WATCHDOG=1");
}

#[test]
fn a_socket_that_it_has_opened_is_listened_on_by_every_core_and_handed_on() {
    let origin = ok();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // Nobody accepts yet, and it waits.
    let early = std::net::TcpStream::connect(address).unwrap();
    let text = config("activated", &origin, &address.to_string());
    let mut gate = Gate::start_activated(BINARY, "activated", socket, &text);
    assert_eq!(gate.address, address);
    let mut early = early;
    assert_eq!(tidegate_testkit::ask_on(&mut early, "GET /", "").status, 200);
    let pid = gate.upgrade().expect("another process takes over");
    assert_eq!(gate.wait(), Some(0));
    for _ in 0..10 {
        assert_eq!(ask(address, "GET /", "").status, 200);
    }
    gate.signal("-TERM");
    until("it ends", || has_ended(pid));
    until("nobody listens any more", || std::net::TcpStream::connect(address).is_err());
}

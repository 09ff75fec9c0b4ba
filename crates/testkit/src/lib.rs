//! Dev-only: real counterparts for tests. Origins on loopback, clients that send exact bytes or frames, the real
//! binary.
//!
//! Everything is bounded in time: a read that waits longer than [`PATIENCE`] fails the test.

pub mod acme;
pub mod collector;
pub mod frames;
mod gate;
mod h2_peers;
pub mod hello;
mod names;
pub mod oidc;
mod origin;
mod port;
mod postgres;
mod raw;
mod redis;
pub mod sessions;
pub mod tls;
mod tls_origin;

pub use gate::Gate;
pub use h2;
pub use h2_peers::{
    H2Call, H2Client, H2Origin, beside, block_on, h2_connect, h2_over, h2_read, websocket_accept,
};
pub use names::{NameServer, Record};
pub use opentelemetry_proto;
pub use origin::{Origin, Recorded, Reply, Visit};
pub use port::{Port, nobody};
pub use postgres::{Ends, Postgres, Talk};
pub use raw::{Answer, ask, ask_on, connect, read_answer, read_answer_or_end, send, send_all};
pub use redis::Redis;
pub use tls_origin::TlsOrigin;

/// How long a test waits for anything. Well above what the product itself allows before it asks or tries again (ten
/// seconds, at most), and above what a machine needs that builds something else meanwhile.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(25);

/// Sends a signal to a process, as `-TERM`. By the shell: not every machine has a program for it. After `-STOP` none of its threads
/// runs any more.
///
/// # Panics
/// If it cannot be sent, or does not stop.
pub fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill {name} {process}")]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
    if name == "-STOP" {
        // A thread that is in the middle of something hears of it a little later.
        until("it has stopped", || threads(process).all(|state| state == 'T'));
    }
}

/// The states of a process's threads: the letter behind the name, which may hold anything.
fn threads(process: u32) -> impl Iterator<Item = char> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let states = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    states.filter_map(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next())
}

/// Whether a process has ended.
#[must_use]
pub fn has_ended(process: u32) -> bool {
    // Whoever has ended is there until its parent has asked how.
    threads(process).all(|state| state == 'Z')
}

/// Waits until something holds.
///
/// # Panics
/// When it does not hold in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

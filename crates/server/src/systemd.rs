//! What systemd is told (`sd_notify`) and asks for (its watchdog): a few lines of text in a datagram. Without `NOTIFY_SOCKET` there
//! is nobody to be told, and nothing here does anything.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::{clock, task};

use crate::run::Process;

/// How often systemd is asked for more time while what is under way ends, and for how much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// Tells systemd, if it listens.
pub fn notify(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// Tells that the configuration is read again; to be followed by `READY=1`.
pub fn reloading() {
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::machine_micros()));
}

/// Tells that the process ends, and asks for as much time as it takes, again and again. Must be called on the control runtime.
pub fn stopping() {
    notify("STOPPING=1\nSTATUS=Finishing what is under way");
    task::spawn(async {
        loop {
            notify(&format!("EXTEND_TIMEOUT_USEC={}", EXTEND_BY.as_micros()));
            clock::sleep(EXTEND_EVERY).await;
        }
    });
}

/// Answers its watchdog as long as every core does what it is told. Must be called on the control runtime.
pub fn watch(process: &Arc<Process>) {
    let Some(most) = watchdog() else { return };
    let process = Arc::downgrade(process);
    task::spawn(async move {
        let mut said = false;
        while let Some(process) = process.upgrade() {
            if process.generation.successor().is_some() {
                // That one answers: nobody does in its place.
                return;
            }
            let begun = clock::now();
            let reached = clock::timeout_at(begun.after(most / 2), process.gate.reached()).await == Ok(true);
            drop(process);
            if reached {
                notify("WATCHDOG=1");
            } else if !std::mem::replace(&mut said, true) {
                tracing::error!("a core hangs: the watchdog is not answered");
            }
            clock::sleep_until(begun.after(most / 3)).await;
        }
    });
}

/// How long it may be left without an answer, where it waits for this process.
fn watchdog() -> Option<Duration> {
    let told = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if told("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    told("WATCHDOG_USEC").filter(|micros| *micros > 0).map(Duration::from_micros)
}

//! Clients that mean harm: they take connections and give nothing.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate_model::tick::Tick;
use tidegate_wire::{clock, task};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Connections that are held at once. A process has a thousand files or so.
const HELD_MAX: usize = 512;

/// An attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Hostile {
    /// What it does with a connection.
    pub kind: Kind,
    /// When it begins and ends, in seconds of the run.
    pub seconds: std::ops::Range<f64>,
    /// New connections per second.
    pub rate: f64,
}

/// What an attacker does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends a request's head, a byte at a time, and never all of it.
    Slowloris,
    /// Sends nothing at all.
    Silent,
}

/// What became of an attack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Harm {
    /// Connections that were made.
    pub made: usize,
    /// Connections that are held.
    pub held: usize,
    /// The most that were held at once.
    pub held_most: usize,
    /// Connections that were closed by the other side.
    pub closed: usize,
}

impl Hostile {
    /// Attacks, and lets go when its time is over.
    pub(super) async fn attack(self, address: SocketAddr, begin: Tick, harm: &RefCell<Harm>) {
        let end = begin.after(Duration::from_secs_f64(self.seconds.end));
        let (told, mut tell) = tokio::sync::mpsc::channel::<bool>(HELD_MAX);
        let mut due = begin.after(Duration::from_secs_f64(self.seconds.start));
        let pause = Duration::from_secs_f64(1.0 / self.rate);
        while due < end {
            tokio::select! {
                () = clock::sleep_until(due) => {
                    due = due.after(pause);
                    if harm.borrow().held < HELD_MAX {
                        let (told, kind) = (told.clone(), self.kind);
                        harm.borrow_mut().connected();
                        task::spawn(async move {
                            let closed = hold(address, kind, end).await;
                            // Whoever would hear it may have gone.
                            let _ = told.send(closed).await;
                        });
                    }
                }
                Some(closed) = tell.recv() => harm.borrow_mut().gone(closed),
            }
        }
        drop(told);
        while let Some(closed) = tell.recv().await {
            harm.borrow_mut().gone(closed);
        }
    }
}

impl Harm {
    fn connected(&mut self) {
        self.made += 1;
        self.held += 1;
        self.held_most = self.held_most.max(self.held);
    }

    fn gone(&mut self, closed: bool) {
        self.held -= 1;
        self.closed += usize::from(closed);
    }
}

/// Holds a connection as long as it is let. Whether the other side closed it.
async fn hold(address: SocketAddr, kind: Kind, end: Tick) -> bool {
    /// Between two bytes: slow, and never quiet for long.
    const DRIP: Duration = Duration::from_millis(250);
    let Ok(mut stream) = TcpStream::connect(address).await else { return true };
    let mut bytes = [0; 256];
    if kind == Kind::Slowloris && stream.write_all(b"GET / HTTP/1.1\r\nHost: drill\r\nX-A: ").await.is_err() {
        return true;
    }
    while clock::now() < end {
        tokio::select! {
            read = stream.read(&mut bytes) => if !matches!(read, Ok(length) if length > 0) { return true },
            () = clock::sleep(DRIP) => if kind == Kind::Slowloris && stream.write_all(b"a").await.is_err() { return true },
        }
    }
    false
}

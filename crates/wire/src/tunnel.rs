//! A tunnel after an Upgrade: bytes both ways until both sides have ended, one failed, or neither has sent for too long.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, Request};
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::clock;
use crate::stream::Hold;

/// Bytes read at once.
const BUFFER: usize = 16 * 1024;

/// The client's side of a tunnel: the right to its connection, once the Upgrade is done.
pub struct ClientSide {
    upgrade: OnUpgrade,
    /// Over HTTP/2 the connection is not the tunnel's alone.
    _hold: Option<Arc<Hold>>,
}

impl ClientSide {
    /// The side of the client whose request has these extensions. They are taken.
    #[must_use]
    pub fn of(extensions: &mut Extensions) -> ClientSide {
        let hold = extensions.remove::<Arc<Hold>>();
        let mut request = Request::new(());
        *request.extensions_mut() = std::mem::take(extensions);
        ClientSide { upgrade: on(request), _hold: hold }
    }
}

/// Says when bytes that were read may be written.
pub trait Throttle {
    /// The most bytes to read at once, at least one.
    fn most(&self) -> usize;

    /// How long so many bytes have to wait.
    fn wait(&self, bytes: usize) -> Duration;
}

/// Waits for the client's side and copies until the tunnel ends. Bytes from the client, bytes from the upstream.
pub async fn run(
    client: ClientSide,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    throttles: [&impl Throttle; 2],
) -> (u64, u64) {
    let ClientSide { upgrade, _hold } = client;
    let Ok(client) = upgrade.await else { return (0, 0) };
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let active_at = Cell::new(clock::now());
    let both = async {
        let up = copy(client_read, upstream_write, &up, &active_at, throttles[0]);
        let down = copy(upstream_read, client_write, &down, &active_at, throttles[1]);
        // A side that has ended is passed on as a shutdown; the other may go on. An error ends both.
        let _ = futures_util::future::try_join(up, down).await;
    };
    let quiet = async {
        loop {
            let until = active_at.get().after(idle);
            if clock::now() >= until {
                return;
            }
            clock::sleep_until(until).await;
        }
    };
    tokio::select! { () = both => {}, () = quiet => {} }
    (up.get(), down.get())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &Cell<u64>,
    active_at: &Cell<tidegate_model::tick::Tick>,
    throttle: &impl Throttle,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer[..throttle.most().clamp(1, BUFFER)]).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let wait = throttle.wait(length);
        if !wait.is_zero() {
            clock::sleep(wait).await;
        }
        active_at.set(clock::latest());
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        count.set(count.get() + length as u64);
    }
}

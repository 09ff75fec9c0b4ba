//! A tunnel after an Upgrade: bytes both ways until both sides have ended, one failed, or neither has sent for too long.

use std::cell::Cell;
use std::io;
use std::time::Duration;

/// The right to the connection of a request or response, once its Upgrade is done.
pub use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::clock;

/// Bytes read at once.
const BUFFER: usize = 16 * 1024;

/// Waits for the client's side and copies until the tunnel ends. Bytes from the client, bytes from the upstream.
pub async fn run(
    client: OnUpgrade,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) -> (u64, u64) {
    let Ok(client) = client.await else { return (0, 0) };
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let active_at = Cell::new(clock::now());
    let both = async {
        let up = copy(client_read, upstream_write, &up, &active_at);
        let down = copy(upstream_read, client_write, &down, &active_at);
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
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        active_at.set(clock::now());
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        count.set(count.get() + length as u64);
    }
}

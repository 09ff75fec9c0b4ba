//! A tunnel after an Upgrade: bytes both ways until both sides have ended, one failed, or neither has sent for too long.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, Request};
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::clock;
use crate::h2_stream::Hold;
use crate::seat::Seat;
use crate::socket::Socket;

/// Bytes read at once.
const BUFFER: usize = 16 * 1024;

/// The client's side of a tunnel: the right to its connection, once the Upgrade is done.
pub struct ClientSide(Side);

enum Side {
    /// The connection itself.
    Http1(oneshot::Receiver<Client>),
    /// A stream, whose connection is not the tunnel's alone.
    Http2(OnUpgrade, Option<Arc<Hold>>),
    /// Nobody asked for it.
    Nobody,
}

/// What a connection gives away when it becomes a tunnel.
pub(crate) type Offer = oneshot::Sender<Client>;

/// The other end of an [`Offer`] among the extensions of a request, until somebody takes it.
#[derive(Clone)]
struct Offered(Arc<Mutex<Option<oneshot::Receiver<Client>>>>);

/// Offers the connection to whoever answers the request with these extensions.
pub(crate) fn offer(extensions: &mut Extensions) -> Offer {
    let (offer, taken) = oneshot::channel();
    extensions.insert(Offered(Arc::new(Mutex::new(Some(taken)))));
    offer
}

/// An HTTP/1.1 connection that is none any more. Nothing of it was read beyond the request.
pub(crate) type Client = (Socket, Seat);

impl ClientSide {
    /// The side of the client whose request has these extensions. They are taken.
    #[must_use]
    pub fn of(extensions: &mut Extensions) -> ClientSide {
        if let Some(Offered(offered)) = extensions.remove::<Offered>() {
            return ClientSide(offered.lock().take().map_or(Side::Nobody, Side::Http1));
        }
        let hold = extensions.remove::<Arc<Hold>>();
        let mut request = Request::new(());
        *request.extensions_mut() = std::mem::take(extensions);
        ClientSide(Side::Http2(on(request), hold))
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
    match client.0 {
        Side::Http1(offered) => match offered.await {
            Ok((client, _seat)) => join(client, upstream, idle, throttles).await,
            Err(_) => (0, 0),
        },
        Side::Http2(upgrade, _hold) => match upgrade.await {
            Ok(client) => join(TokioIo::new(client), upstream, idle, throttles).await,
            Err(_) => (0, 0),
        },
        Side::Nobody => (0, 0),
    }
}

async fn join(
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    throttles: [&impl Throttle; 2],
) -> (u64, u64) {
    let (client_read, client_write) = tokio::io::split(client);
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

//! Where the control API accepts connections, until another process does. Those that it has accepted go on: a request that was sent
//! to it is answered.

use std::io;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::guard::Peer;
use crate::run::Process;

/// A listener that stops accepting when it is told so.
pub struct Door<L> {
    listener: L,
    /// Given back once it has stopped: see [`Generation::control`](crate::upgrade::Generation::control).
    stop: Option<watch::Receiver<bool>>,
}

impl<L> Door<L> {
    /// Of this process.
    pub fn new(listener: L, process: &Process) -> Door<L> {
        Door { listener, stop: Some(process.generation.control.subscribe()) }
    }
}

impl<L: Listener> Listener for Door<L> {
    type Io = L::Io;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (L::Io, L::Addr) {
        if let Some(stop) = &mut self.stop {
            tokio::select! {
                biased;
                // The process holds the other end.
                _ = stop.wait_for(|stop| *stop) => {}
                accepted = self.listener.accept() => return accepted,
            }
        }
        self.stop = None;
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door<TcpListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door<TcpListener>>) -> Peer {
        let peer: SocketAddr = *stream.remote_addr();
        Peer::Tcp(peer)
    }
}

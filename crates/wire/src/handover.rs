//! A connection on its way to the process that takes over.
//!
//! Between two requests an HTTP/1.1 connection without TLS is nothing but its socket, and what was read of it: both are given
//! away, and its client notices nothing. The keys of one with TLS cannot be given away: this process goes on to decrypt, and
//! carries the bytes to the other over a loopback connection, until the answer to the next request ends it. So no connection
//! is closed at a moment at which its client may just be sending. HTTP/2 needs none of it: its GOAWAY says which requests were
//! heard.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::tls::TlsClient;

/// Connections that may wait to be given away.
pub const PASSED_MAX: usize = 256;

/// A connection between two requests.
#[derive(Debug)]
pub struct Passed {
    /// Its socket, or our end of the way to whoever decrypts it.
    pub stream: TcpStream,
    /// Its client.
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: SocketAddr,
    /// Whether its client speaks TLS.
    pub tls: bool,
    /// The name it asked for in TLS.
    pub server_name: Option<String>,
    /// Its client, where that has shown a certificate.
    pub client: Option<Arc<TlsClient>>,
    /// Whether it had a request.
    pub begun: bool,
    /// Whether the answer to its next request ends it.
    pub last: bool,
    /// What was read of it and not answered.
    pub read: Vec<u8>,
}

/// Where connections are given to.
pub type Heir = mpsc::Sender<Passed>;

/// Both ends of a loopback connection. Nobody else can have come between.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    // Whoever else on this machine tries to be first is passed over.
    loop {
        let (far, peer) = listener.accept()?;
        if peer == own {
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn both_ends_belong_together() {
        let (mut near, mut far) = pair().expect("loopback");
        assert_eq!(near.peer_addr().expect("connected"), far.local_addr().expect("connected"));
        near.write_all(b"there").expect("sent");
        far.set_nonblocking(false).expect("set");
        let mut read = [0; 5];
        far.read_exact(&mut read).expect("it comes");
        assert_eq!(&read, b"there");
    }
}

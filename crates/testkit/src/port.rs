//! Ports that are nobody else's, whoever comes and goes on the same machine meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

/// A port that is taken and not listened at: who connects is refused, and the system gives it to nobody else. A server of
/// the test's own may still be told to listen there, as servers allow addresses to be used again.
pub struct Port {
    /// Where it is.
    pub address: SocketAddr,
    _socket: Socket,
}

impl Port {
    /// Takes a free one on loopback.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn take() -> Port {
        Port::hold(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port")
    }

    /// Takes this one, if nobody listens there.
    pub(crate) fn hold(address: SocketAddr) -> std::io::Result<Port> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Port { address, _socket: socket })
    }
}

/// An address that refuses connections for as long as the tests run.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn nobody() -> SocketAddr {
    static HELD: Mutex<Vec<Port>> = Mutex::new(Vec::new());
    let port = Port::take();
    let address = port.address;
    HELD.lock().push(port);
    address
}

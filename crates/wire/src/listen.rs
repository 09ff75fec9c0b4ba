//! Listening sockets: one a core for each address (SO_REUSEPORT), so that no core waits for another.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that the kernel keeps for a core that is busy.
pub const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(.source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted (a port below 1024 needs CAP_NET_BIND_SERVICE)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        _ => error.to_string(),
    }
}

/// Binds one socket for each of `cores`. With port 0 the kernel chooses one port for all of them.
///
/// # Errors
/// [`BindError`], also when another process listens there already with SO_REUSEPORT.
pub fn bind(address: SocketAddr, cores: usize) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError { address, source };
    // Bound once without SO_REUSEPORT, a port that another process shares is found to be in use.
    let probe = socket(address, false).map_err(failed)?;
    let address = probe.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
    drop(probe);
    (0..cores.max(1)).map(|_| socket(address, true).map(Into::into).map_err(failed)).collect()
}

/// Sockets for so many cores where another process has listened: its own, and further ones beside them if there are more cores
/// and the kernel may spread connections over several. Where it may not, cores share. None is closed for want of a core: the
/// kernel would reset what waits in it.
///
/// # Errors
/// The system's.
pub fn widen(
    address: SocketAddr,
    mut sockets: Vec<TcpListener>,
    cores: usize,
) -> io::Result<Vec<TcpListener>> {
    let spread = sockets.iter().all(|one| SockRef::from(one).reuse_port().unwrap_or(false));
    let had = sockets.len();
    for place in had..cores {
        let further = match had {
            0 => return Err(io::ErrorKind::NotFound.into()),
            _ if spread => socket(address, true)?.into(),
            _ => sockets[place % had].try_clone()?,
        };
        sockets.push(further);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses: each is listed if it is wanted.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// How full the kernel's list of connections is that wait to be accepted, 0 to 1. `None`: the system does not tell.
#[must_use]
pub fn backlog(socket: &impl std::os::fd::AsRawFd) -> Option<f64> {
    let (waiting, most) = accept_queue(socket.as_raw_fd())?;
    Some(f64::from(waiting) / f64::from(most.max(1)))
}

/// For a listening socket `unacked` and `sacked` are the accept queue's length and its maximum (`tcp_get_info` of the
/// kernel).
#[cfg(target_os = "linux")]
fn accept_queue(socket: std::os::fd::RawFd) -> Option<(u32, u32)> {
    // SAFETY: the structure is plain numbers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    let into = (&raw mut info).cast();
    // SAFETY: it writes at most `length` bytes into `info`, and how many it wrote into `length`.
    let told = unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) };
    (told == 0).then_some((info.tcpi_unacked, info.tcpi_sacked))
}

#[cfg(not(target_os = "linux"))]
fn accept_queue(_: std::os::fd::RawFd) -> Option<(u32, u32)> {
    None
}

/// Whether an address stands for all of the machine's.
#[must_use]
pub fn is_unspecified(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => *v4.ip() == Ipv4Addr::UNSPECIFIED,
        SocketAddr::V6(v6) => *v6.ip() == Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_share_the_port_that_the_kernel_chose() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: std::collections::HashSet<u16> =
            sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_eq!((sockets.len(), ports.len()), (3, 1));
    }

    #[test]
    fn further_sockets_are_opened_beside_those_that_can_be_shared_and_copied_from_one_that_cannot() {
        let address = "127.0.0.1:0".parse().unwrap();
        let inode = |socket: &TcpListener| rustix::fs::fstat(socket).unwrap().st_ino;
        let different = |sockets: &[TcpListener]| {
            sockets.iter().map(inode).collect::<std::collections::HashSet<_>>().len()
        };
        let two = bind(address, 2).unwrap();
        let at = two[0].local_addr().unwrap();
        let four = widen(at, two, 4).unwrap();
        assert_eq!((four.len(), different(&four)), (4, 4));
        let one = widen(at, four, 1).unwrap();
        assert_eq!((one.len(), different(&one)), (4, 4), "none is closed");
        let alone = TcpListener::bind(address).unwrap();
        let at = alone.local_addr().unwrap();
        let shared = widen(at, vec![alone], 3).unwrap();
        assert_eq!((shared.len(), different(&shared)), (3, 1));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn connections_that_wait_to_be_accepted_are_counted() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        assert_eq!(
            accept_queue(std::os::fd::AsRawFd::as_raw_fd(&listener)).map(|(waiting, _)| waiting),
            Some(0)
        );
        let _waiting: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let (waiting, most) = accept_queue(std::os::fd::AsRawFd::as_raw_fd(&listener)).unwrap();
        assert_eq!(waiting, 3);
        assert_eq!(backlog(&listener), Some(3.0 / f64::from(most)));
    }

    #[test]
    fn a_port_in_use_is_told() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(other.local_addr().unwrap(), 2).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
    }
}

//! The first bytes of a connection: a PROXY header where one is due, and whether it speaks HTTP/2.
//!
//! They are looked at where they lie: whoever comes next reads them. A socket with unread bytes stays readable for
//! tokio, so its readiness is taken back until further bytes have come: a client that sends byte by byte costs one
//! look a packet, and no clock.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use crate::proxy_protocol::{self, Parsed};

/// The first bytes of an HTTP/2 connection by prior knowledge.
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads a PROXY header, and nothing beyond it: what it tells of the client and its destination.
///
/// # Errors
/// The connection ended, or does not begin with a header.
pub(crate) async fn proxy_header(stream: &mut TcpStream) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut buffer = vec![0; proxy_protocol::HEADER_MAX];
    let mut seen = 0;
    loop {
        seen = peek_more(stream, &mut buffer, seen).await?;
        match proxy_protocol::parse(&buffer[..seen]) {
            Parsed::Header { length, addresses } => {
                stream.read_exact(&mut buffer[..length]).await?;
                return Ok(addresses);
            }
            Parsed::Partial if seen < buffer.len() => {}
            Parsed::Partial | Parsed::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Whether the connection begins with HTTP/2's preface.
///
/// # Errors
/// The connection ended first.
pub(crate) async fn is_h2(stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; H2_PREFACE.len()];
    let mut seen = 0;
    loop {
        seen = peek_more(stream, &mut buffer, seen).await?;
        if seen == H2_PREFACE.len() || !H2_PREFACE.starts_with(&buffer[..seen]) {
            return Ok(buffer == *H2_PREFACE);
        }
    }
}

/// Waits until more than `seen` bytes have come, and looks at all of them that fit.
async fn peek_more(stream: &TcpStream, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || match peek(stream, buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length if length > seen => Ok(length),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        });
        match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // After the client's FIN nothing more will come, and the socket stays ready for ever.
                if ready.is_read_closed() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            peeked => return peeked,
        }
    }
}

fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let buffer: *mut [u8] = buffer;
    // SAFETY: the same bytes under another type; `peek` writes initialised bytes only.
    let buffer = unsafe { &mut *(buffer as *mut [MaybeUninit<u8>]) };
    SockRef::from(stream).peek(buffer)
}

//! The bytes of a TCP connection, to and from the kernel by the shortest way.
//!
//! In a process of several threads libc makes `recv` and `send` points at which a thread may be cancelled: each switches that on and
//! off again, by atomic operations that nobody here needs. These calls leave libc out. All else is as tokio's own reading and
//! writing: the runtime knows when a socket is ready, and what was read or written only in part has emptied or filled it, so
//! that no call is made in vain to find that out.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what has come into the room that there is behind `read`. Ready with 0 at the end, or without room.
pub(crate) fn poll_read(
    stream: &TcpStream,
    context: &mut Context<'_>,
    read: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let length = ready!(poll_io(context, stream, Interest::READABLE, read.capacity() - read.len(), || {
        let (filled, _) = recv(stream, read.spare_capacity_mut(), RecvFlags::empty())?.0;
        Ok(filled.len())
    }))?;
    // SAFETY: so many of the bytes behind it were filled just now.
    unsafe { read.set_len(read.len() + length) };
    Poll::Ready(Ok(length))
}

/// Writes what the kernel takes of `bytes`.
pub(crate) fn poll_write(
    stream: &TcpStream,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    poll_io(context, stream, Interest::WRITABLE, bytes.len(), || {
        Ok(send(stream, bytes, SendFlags::NOSIGNAL)?)
    })
}

/// Calls once the socket is ready, and again until it is: `call` would move `most` bytes at once.
fn poll_io(
    context: &mut Context<'_>,
    stream: &TcpStream,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        match interest.is_readable() {
            true => ready!(stream.poll_read_ready(context))?,
            false => ready!(stream.poll_write_ready(context))?,
        }
        let mut moved = None;
        let tried = stream.try_io(interest, || {
            let length = call()?;
            moved = Some(length);
            // It would block now: whoever comes next waits until the kernel says otherwise.
            if 0 < length && length < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (moved, tried) {
            (Some(length), _) => return Poll::Ready(Ok(length)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (there, here) = tokio::join!(TcpStream::connect(address), listener.accept());
        (there.expect("connected"), here.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_comes_in_parts_is_read_in_parts_until_the_end() {
        let (mut there, here) = pair().await;
        let mut read = BytesMut::with_capacity(4);
        for part in ["ab", "c", "d"] {
            there.write_all(part.as_bytes()).await.expect("sent");
            let length = poll_fn(|context| poll_read(&here, context, &mut read)).await.expect("read");
            assert_eq!(length, part.len());
        }
        assert_eq!(&read[..], b"abcd");
        read.clear();
        there.write_all(b"0123456789").await.expect("sent");
        drop(there);
        let mut all = Vec::new();
        loop {
            read.reserve(4);
            match poll_fn(|context| poll_read(&here, context, &mut read)).await.expect("read") {
                0 => break,
                _ => all.extend_from_slice(&read.split()),
            }
        }
        assert_eq!(all, b"0123456789");
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_written_when_there_is_room_again() {
        let (mut there, here) = pair().await;
        let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
        let writes = async {
            let mut left = sent.as_slice();
            while !left.is_empty() {
                let length = poll_fn(|context| poll_write(&here, context, left)).await.expect("written");
                left = &left[length..];
            }
            drop(here);
        };
        let mut read = Vec::new();
        let (_, length) = tokio::join!(writes, there.read_to_end(&mut read));
        assert_eq!(length.expect("read"), sent.len());
        assert!(read == sent);
    }

    #[tokio::test]
    async fn a_connection_that_was_reset_is_an_error_in_both_directions() {
        let (there, here) = pair().await;
        there.set_zero_linger().expect("set");
        drop(there);
        let mut read = BytesMut::with_capacity(4);
        let error = poll_fn(|context| poll_read(&here, context, &mut read)).await.expect_err("it is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = poll_fn(|context| poll_write(&here, context, b"x")).await.expect_err("and stays so");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

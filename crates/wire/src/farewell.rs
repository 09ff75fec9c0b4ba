//! The last words of a connection: an answer written as it is, and a close that lets the client read it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tidegate_model::message::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::socket::Socket;

/// How long a refused client may take to read why, and how much of what it still sends is read meanwhile.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// The bytes of a response that closes the connection.
pub(crate) fn encode(response: &Response<Bytes>) -> Vec<u8> {
    let status = response.status();
    let mut out =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    response.headers().write(&mut out, |_, _| true);
    out.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\n\r\n", response.body().len()).as_bytes(),
    );
    out.extend_from_slice(response.body());
    out
}

/// Writes the last answer, then reads a little on: a close with unread bytes would reset the connection, and the
/// client would not see the answer.
pub(crate) async fn linger(mut socket: Socket, bytes: &[u8]) {
    let by = clock::now().after(LINGER);
    let _ = clock::timeout_at(by, say_and_listen(&mut socket, bytes)).await;
}

async fn say_and_listen(stream: &mut Socket, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut left = LINGER_BYTES;
    // Not in the future itself: that would be room in every connection's task for what most never do.
    let mut buffer = vec![0; 16 * 1024];
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

//! A client for HTTP/1.1: enough to probe a proxy, to walk through many tenants, and to send at a fixed rate.
//!
//! Blocking sockets and threads, because a benchmark needs dozens of connections here and not thousands. It reads only
//! responses with a Content-Length, which is all that the benchmark's origin sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any pause that a benchmark means to see.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// No response here is so long.
const RESPONSE_BYTES_MAX: usize = 160 << 10;

/// A connection that is kept for many requests.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What has been read and not yet taken lies from here...
    from: usize,
    /// ...to here.
    filled: usize,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&address, SILENCE_MAX).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(SILENCE_MAX)).map_err(|error| error.to_string())?;
        Ok(Self { stream, buffer: vec![0; RESPONSE_BYTES_MAX], from: 0, filled: 0 })
    }

    /// Sends a request and reads its whole response.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer, String> {
        self.send(request)?;
        let answer = self.receive()?;
        if self.from == self.filled { Ok(answer) } else { Err("more bytes than one response".to_owned()) }
    }

    /// Sends requests without waiting for answers. All of them, and what they make of answers, must fit into the
    /// buffers of sockets.
    pub fn send(&mut self, requests: &[u8]) -> Result<(), String> {
        self.stream.write_all(requests).map_err(|error| error.to_string())
    }

    /// Reads the next response.
    pub fn receive(&mut self) -> Result<Answer, String> {
        let end = loop {
            let read = &self.buffer[self.from..self.filled];
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let (status, body_bytes) = head(&self.buffer[self.from..self.from + end])?;
        while self.filled - self.from < end + body_bytes {
            self.fill()?;
        }
        let begin = self.from + end;
        self.from = begin + body_bytes;
        Ok(Answer { status, body: self.buffer[begin..self.from].to_vec() })
    }

    fn fill(&mut self) -> Result<(), String> {
        self.buffer.copy_within(self.from..self.filled, 0);
        (self.from, self.filled) = (0, self.filled - self.from);
        if self.filled == self.buffer.len() {
            return Err(format!("a response of more than {RESPONSE_BYTES_MAX} bytes"));
        }
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Err("closed in the middle of a response".to_owned()),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Status and Content-Length of a response.
fn head(bytes: &[u8]) -> Result<(u16, usize), String> {
    let text = String::from_utf8_lossy(bytes);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status line")?;
    if status == 204 || status == 304 {
        // The second may tell the length of what it does not send.
        return Ok((status, 0));
    }
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    length.map(|length| (status, length)).ok_or_else(|| format!("status {status} without Content-Length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: Option<(u16, usize)>) {
        assert_eq!(head(bytes.as_bytes()).ok(), expected, "{bytes:?}");
    }

    #[test]
    fn reads_pipelined_responses_one_by_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 503 No\r\n").unwrap();
        let first = connection.receive().unwrap();
        server.write_all(b"Content-Length: 0\r\n\r\n").unwrap();
        let second = connection.receive().unwrap();
        assert_eq!(
            (first, second),
            (Answer { status: 200, body: b"ok".to_vec() }, Answer { status: 503, body: Vec::new() })
        );
    }

    #[test]
    fn reads_status_and_length_of_a_head() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n", Some((200, 1024)));
        check("HTTP/1.1 429 Too Many\r\ncontent-length:0\r\n\r\n", Some((429, 0)));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None);
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 1024\r\n\r\n", Some((304, 0)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, 0)));
        check("nonsense\r\n\r\n", None);
    }
}

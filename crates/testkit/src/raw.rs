//! A client that sends exact bytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// An answer, as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, lower case.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The value of a header; empty: it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default()
    }
}

/// Connects.
///
/// # Panics
/// If nobody listens.
#[must_use]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the gate listens");
    stream.set_nodelay(true).expect("a socket can be told");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    stream
}

/// Sends bytes on a connection of their own and reads all that comes back until it is closed.
///
/// # Panics
/// If it is not closed in time.
#[must_use]
pub fn send(address: SocketAddr, bytes: &[u8]) -> String {
    send_all(address, &[bytes])
}

/// Sends pieces one after another on a connection of their own and reads all that comes back until it is closed.
///
/// # Panics
/// If it is not closed in time.
#[must_use]
pub fn send_all(address: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = connect(address);
    for piece in pieces {
        // A refusal may come before the last of them.
        let _ = stream.write_all(piece);
    }
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => out.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("not closed: {error}, after {}", String::from_utf8_lossy(&out)),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A request on a connection of its own, with these header lines.
///
/// # Panics
/// If the answer is not HTTP.
#[must_use]
pub fn ask(address: SocketAddr, request_line: &str, headers: &str) -> Answer {
    ask_on(&mut connect(address), request_line, headers)
}

/// A request on a connection that stays open, with these header lines.
///
/// # Panics
/// If the answer is not HTTP.
#[must_use]
pub fn ask_on(stream: &mut TcpStream, request_line: &str, headers: &str) -> Answer {
    let request = format!("{request_line} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("bytes can be sent");
    read_answer(stream)
}

/// Reads until the connection ends, fails or an answer's head is there: what came.
pub fn read_answer_or_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !got.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => got.extend_from_slice(&buffer[..length]),
        }
    }
    got
}

/// Reads one answer with a Content-Length, or one without a body.
///
/// # Panics
/// If it is not HTTP.
#[must_use]
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).expect("an answer comes"),
            1,
            "closed: {}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head[9..12].parse().expect("a status has three digits");
    let mut answer = Answer { status, head, body: String::new() };
    let mut body = vec![0; answer.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).expect("the body comes whole");
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}

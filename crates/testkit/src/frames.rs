//! An HTTP/2 client that sends exact frames, also such as no library would.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::connect;

/// Frame types (RFC 9113 section 6).
pub mod kind {
    /// Content.
    pub const DATA: u8 = 0;
    /// A head.
    pub const HEADERS: u8 = 1;
    /// The end of one stream.
    pub const RST_STREAM: u8 = 3;
    /// Settings.
    pub const SETTINGS: u8 = 4;
    /// Is somebody there?
    pub const PING: u8 = 6;
    /// The end of the connection.
    pub const GOAWAY: u8 = 7;
    /// More may be sent.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a head.
    pub const CONTINUATION: u8 = 9;
}

/// The stream ends with this frame.
pub const END_STREAM: u8 = 1;
/// These SETTINGS, or this PING, acknowledge the other side's.
pub const ACK: u8 = 1;
/// The head ends with this frame.
pub const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
    }
}

/// A connection.
pub struct Frames {
    /// The socket.
    pub stream: TcpStream,
}

impl Frames {
    /// Connects, and sends the preface and empty settings.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Frames {
        Frames::connect_with(address, &[])
    }

    /// Connects, and sends the preface and these settings.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Frames {
        let mut frames = Frames { stream: connect(address) };
        frames.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the preface can be sent");
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frames.send(kind::SETTINGS, 0, 0, &payload).expect("settings can be sent");
        frames
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The server has closed.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&encode(kind, flags, stream, payload))
    }

    /// Sends a whole head with these fields.
    ///
    /// # Errors
    /// The server has closed.
    pub fn request(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) -> io::Result<()> {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(kind::HEADERS, flags, stream, &block(fields))
    }

    /// Reads a frame, and answers it if it is a ping. `None`: the server has closed.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let mut stream = &self.stream;
        let mut read = |bytes: &mut [u8]| match stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("nothing comes: {error}")
            }
            Err(_) => None,
        };
        read(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        read(&mut payload)?;
        if (kind, flags) == (kind::PING, 0) {
            let _ = self.send(kind::PING, ACK, 0, &payload);
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }

    /// Reads until a frame is as wanted. `None`: the server closed first.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads until this stream has ended: all that came of it.
    ///
    /// # Panics
    /// If nothing comes in time, or the server closes first.
    pub fn whole(&mut self, stream: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.read().unwrap_or_else(|| panic!("closed after {frames:?}"));
            let last = frame.kind == kind::RST_STREAM
                || (frame.flags & END_STREAM != 0 && matches!(frame.kind, kind::DATA | kind::HEADERS));
            if frame.stream == stream {
                frames.push(frame);
                if last {
                    return frames;
                }
            }
        }
    }

    /// Reads until the server closes: all that came.
    ///
    /// # Panics
    /// If it does not close in time.
    pub fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.read()).collect()
    }
}

/// A frame's bytes.
///
/// # Panics
/// If the payload is longer than a frame can be.
#[must_use]
pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is shorter").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields, without Huffman's code and without the dynamic table (RFC 7541 section 6.2.2).
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            length(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(mut value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push((value % 128 + 128) as u8);
        value /= 128;
    }
    out.push(value as u8);
}

/// The fields of a GET for this path.
#[must_use]
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
}

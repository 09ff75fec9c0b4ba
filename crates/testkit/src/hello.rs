//! A client's first words in TLS, byte by byte: what no library says any more.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::connect;

/// A ClientHello (RFC 5246 section 7.4.1.2).
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// The version that it offers: 0x0303 is TLS 1.2.
    pub version: u16,
    /// Suites, by their numbers.
    pub suites: &'a [u16],
    /// Ways to compress; 0 is none.
    pub compressions: &'a [u8],
    /// The name that it asks for.
    pub name: &'a str,
}

/// What is said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is refused, for this reason (RFC 8446 section 6).
    Alert(u8),
    /// A ServerHello.
    Chosen {
        /// The version.
        version: u16,
        /// The suite.
        suite: u16,
        /// The way to compress.
        compression: u8,
    },
    /// The connection ends.
    Closed,
}

impl Hello<'_> {
    /// Sends it on a connection of its own.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn send(&self, address: SocketAddr) -> TcpStream {
        let mut stream = connect(address);
        stream.write_all(&self.record()).expect("bytes can be sent");
        stream
    }

    /// Sends it, and reads what is said to it.
    ///
    /// # Panics
    /// If nobody listens, or says anything in time.
    #[must_use]
    pub fn ask(&self, address: SocketAddr) -> Reply {
        let mut stream = self.send(address);
        let mut head = [0; 5];
        if stream.read_exact(&mut head).is_err() {
            return Reply::Closed;
        }
        let mut said = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut said).expect("a whole record");
        if head[0] == 21 {
            return Reply::Alert(said[1]);
        }
        // Kind and length, then version, 32 bytes by chance, the session's number with its length.
        let behind = 4 + 2 + 32 + 1 + usize::from(said[38]);
        Reply::Chosen {
            version: u16::from_be_bytes([said[4], said[5]]),
            suite: u16::from_be_bytes([said[behind], said[behind + 1]]),
            compression: said[behind + 2],
        }
    }

    fn record(&self) -> Vec<u8> {
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let name = [&[0][..], &long(self.name.as_bytes())].concat();
        let extensions = [
            extension(0, &long(&name)),
            // X25519 and P-256.
            extension(10, &long(&[0, 29, 0, 23])),
            extension(11, &[1, 0]),
            // ECDSA, RSA-PSS and RSA with SHA-256, and what was there before.
            extension(13, &long(&[4, 3, 8, 4, 4, 1, 2, 3, 2, 1])),
            // The extended master secret, and that nothing is negotiated anew.
            extension(23, &[]),
            extension(0xff01, &[0]),
        ]
        .concat();
        let hello = [
            &self.version.to_be_bytes()[..],
            &[7; 32],
            &[0],
            &long(&suites),
            &[u8::try_from(self.compressions.len()).expect("few")],
            self.compressions,
            &long(&extensions),
        ]
        .concat();
        let message = [&[1, 0][..], &long(&hello)].concat();
        [&[22, 3, 1][..], &long(&message)].concat()
    }
}

/// Bytes behind their length, as two bytes.
fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("not as many");
    [&length.to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

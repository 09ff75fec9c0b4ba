//! The chunked transfer coding (RFC 9112 section 7.1), read out of bytes that are not trusted. Pure.
//!
//! The same for requests and responses but for [`Rules`]: what a client sends has to be exact, for nobody has to take it;
//! what servers send has been sloppy in known, harmless ways for long. Trailers are read by whoever reads the heads.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::request_head::is_value;

/// The most hexadecimal digits of a chunk's size.
const DIGITS_MAX: usize = 15;

/// What is taken for a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most bytes of the line that begins a chunk.
    pub line_max: usize,
    /// Whether the size may be followed by spaces.
    pub padded: bool,
}

/// What clients send.
pub const OF_CLIENTS: Rules = Rules { line_max: 256, padded: false };
/// What servers send.
pub const OF_SERVERS: Rules = Rules { line_max: 4 * 1024, padded: true };

/// A chunked body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// A line with a size is next.
    Size,
    /// This much of a chunk's data is left.
    Data(u64),
    /// The line end after a chunk's data is next.
    End,
    /// Trailers are next, and the empty line that ends all.
    Trailers,
}

/// What a chunked body holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// Trailers begin here.
    Trailers,
    /// More bytes are needed.
    More,
}

/// The chunks are not what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl Chunks {
    /// Takes the next piece from what was read.
    ///
    /// # Errors
    /// The chunks are not what they say.
    pub fn take(&mut self, read: &mut BytesMut, rules: Rules) -> Result<Piece, Malformed> {
        loop {
            match *self {
                Chunks::Size => {
                    let Some((size, line)) = size(read, rules)? else { return Ok(Piece::More) };
                    read.advance(line);
                    *self = if size == 0 { Chunks::Trailers } else { Chunks::Data(size) };
                }
                Chunks::Data(_) if read.is_empty() => return Ok(Piece::More),
                Chunks::Data(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
                    let data = read.split_to(length).freeze();
                    let left = left - length as u64;
                    *self = if left == 0 { Chunks::End } else { Chunks::Data(left) };
                    return Ok(Piece::Data(data));
                }
                Chunks::End => {
                    match &read[..read.len().min(2)] {
                        [] | [b'\r'] => return Ok(Piece::More),
                        b"\r\n" => read.advance(2),
                        _ => return Err(Malformed("a chunk is longer than its size")),
                    }
                    *self = Chunks::Size;
                }
                Chunks::Trailers => return Ok(Piece::Trailers),
            }
        }
    }
}

/// The size of the next chunk and the length of its line, once that is whole.
fn size(read: &[u8], rules: Rules) -> Result<Option<(u64, usize)>, Malformed> {
    const LONG: Malformed = Malformed("a chunk's size line is too long");
    let Some(end) = memchr(b'\n', &read[..read.len().min(rules.line_max)]) else {
        return if read.len() >= rules.line_max { Err(LONG) } else { Ok(None) };
    };
    let line = read[..end].strip_suffix(b"\r").ok_or(Malformed("a chunk's size line ends with a bare LF"))?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > DIGITS_MAX {
        return Err(Malformed("a chunk's size is not a hexadecimal number"));
    }
    let rest = &line[digits..];
    let extension = if rules.padded { rest.trim_ascii_start() } else { rest };
    if !(extension.is_empty() || extension[0] == b';') || !extension.iter().all(|&byte| is_value(byte)) {
        return Err(Malformed("a chunk's size is followed by something that is no extension"));
    }
    let size = line[..digits]
        .iter()
        .fold(0u64, |size, &digit| size << 4 | u64::from(char::from(digit).to_digit(16).unwrap_or_default()));
    Ok(Some((size, end + 1)))
}

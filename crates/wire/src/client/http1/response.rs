//! What a server answers over HTTP/1.1: heads and bodies, out of bytes that are not trusted. Pure.
//!
//! A response whose length could be read in two ways is an error: who guesses hands the rest of one client's answer to
//! the next (RFC 9112 section 6.3).

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode, Version};

use super::fields::{self, Coding, Fields, NoEnd, line_end};
use crate::chunked;
use crate::request_head::value_length;

/// The most header fields of a response.
pub(crate) const HEADERS_MAX: usize = 128;
/// The most bytes of a response's head, and of its trailers.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The answer is not HTTP/1.1 as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A response's head.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// Its fields, without those that only the connection is told.
    pub headers: tidegate_model::fields::Fields,
    /// How long its body is.
    pub framing: Framing,
    /// Whether the connection outlives the response.
    pub keep: bool,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Until the last chunk.
    Chunked,
    /// Until the server closes.
    Close,
}

/// Takes a head from the bytes read so far, if it is whole. `seen` bytes were searched for its end before: mostly it comes
/// whole and is read at once; what comes in parts is read when its end has been found.
///
/// # Errors
/// It is no head, it is too large, or the length of its body can be read in two ways. The verdict is the same for any split
/// of the bytes: what is wrong with it is told when it has ended.
pub fn take_head(read: &mut BytesMut, seen: &mut usize, method: &Method) -> Result<Option<Head>, Malformed> {
    // Each request looks once before anything can have come.
    if read.is_empty() || *seen > 0 && ended(read, seen)?.is_none() {
        return Ok(None);
    }
    match parse(read, method) {
        Ok(Some((head, end))) if end <= HEAD_BYTES_MAX => {
            read.advance(end);
            Ok(Some(head))
        }
        parsed => match (ended(read, seen)?, parsed) {
            (None, _) => Ok(None),
            (Some(_), Err(malformed)) => Err(malformed),
            (Some(_), Ok(_)) => Err(TOO_LARGE),
        },
    }
}

const TOO_LARGE: Malformed = Malformed("the response's head is too large");

/// Where lines end with an empty one, if that has come. `seen` bytes were searched for it before.
#[cold]
fn ended(read: &[u8], seen: &mut usize) -> Result<Option<usize>, Malformed> {
    let (end, length) = match fields::end_of_lines(read, std::mem::take(seen)) {
        Ok(end) => (Some(end), end),
        Err(searched) => {
            *seen = searched;
            (None, read.len())
        }
    };
    if length > HEAD_BYTES_MAX { Err(TOO_LARGE) } else { Ok(end) }
}

/// The head, and where it ends. `None`: it has not come whole.
fn parse(read: &[u8], method: &Method) -> Result<Option<(Head, usize)>, Malformed> {
    // One empty line before it is what some send after a body (RFC 9112 section 2.2).
    let first = match line_end(read, 0) {
        Some(Ok(next)) => next,
        _ => 0,
    };
    let first_end = first + value_length(&read[first..]);
    let Some(begin) = line_end(read, first_end) else { return Ok(None) };
    let begin = begin.map_err(|NoEnd| BAD)?;
    let (version, status) = status_line(&read[first..first_end])?;
    let upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
    let Some((mut fields, end)) = Fields::of(read, begin, upgrade)? else { return Ok(None) };
    let framing = framing(method, status, version, &fields)?;
    let mut keep = framing != Framing::Close && is_kept(version, &fields);
    if status == StatusCode::NO_CONTENT {
        // Who tells of content in an answer that cannot have any may send it, too: to the next one who asks. Nobody else
        // is told.
        keep &= fields.coding == Coding::None && fields.length.unwrap_or_default() == 0;
        fields.headers.remove(CONTENT_LENGTH);
    }
    Ok(Some((Head { status, version, headers: fields.headers, framing, keep }, end)))
}

const BAD: Malformed = Malformed("the response is malformed");

/// `HTTP/1.1 200 OK`. The reason may be missing.
fn status_line(line: &[u8]) -> Result<(Version, StatusCode), Malformed> {
    let (version, rest) = match line.split_first_chunk::<9>().ok_or(BAD)? {
        (b"HTTP/1.1 ", rest) => (Version::HTTP_11, rest),
        (b"HTTP/1.0 ", rest) => (Version::HTTP_10, rest),
        _ => return Err(BAD),
    };
    let (code, reason) = rest.split_first_chunk::<3>().ok_or(BAD)?;
    if !matches!(reason, [] | [b' ', ..]) {
        return Err(BAD);
    }
    let status = StatusCode::from_bytes(code).map_err(|_| Malformed("the response's status is not one"))?;
    Ok((version, status))
}

fn framing(
    method: &Method,
    status: StatusCode,
    version: Version,
    fields: &Fields,
) -> Result<Framing, Malformed> {
    let bodyless =
        method == Method::HEAD || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    match (fields.coding, fields.length) {
        _ if bodyless => Ok(Framing::Length(0)),
        (Coding::None, Some(length)) => Ok(Framing::Length(length)),
        (Coding::None, None) => Ok(Framing::Close),
        (Coding::Other, _) => Err(Malformed("the response's transfer coding is not `chunked`")),
        (Coding::Chunked, _) if version == Version::HTTP_10 => {
            Err(Malformed("the response's transfer coding is not `chunked`"))
        }
        (Coding::Chunked, Some(_)) => {
            Err(Malformed("the response has Content-Length beside Transfer-Encoding"))
        }
        (Coding::Chunked, None) => Ok(Framing::Chunked),
    }
}

fn is_kept(version: Version, fields: &Fields) -> bool {
    (fields.keep_alive || version != Version::HTTP_10) && !fields.close
}

/// A chunked body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// Chunks are next.
    Coded(chunked::Chunks),
    /// Trailers are next. So many bytes were searched for their end before.
    Trailers(usize),
    /// All is read.
    Done,
}

/// What a chunked body holds next.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// Fields after the body.
    Trailers(HeaderMap),
    /// All is read.
    End,
    /// More bytes are needed.
    More,
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks::Coded(chunked::Chunks::Size)
    }
}

impl Chunks {
    /// Takes the next piece from what was read.
    ///
    /// # Errors
    /// The chunks are not what they say.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Piece, Malformed> {
        if let Chunks::Coded(coded) = self {
            match coded.take(read, chunked::OF_SERVERS).map_err(|error| Malformed(error.0))? {
                chunked::Piece::Data(data) => return Ok(Piece::Data(data)),
                chunked::Piece::More => return Ok(Piece::More),
                chunked::Piece::Trailers => *self = Chunks::Trailers(0),
            }
        }
        let Chunks::Trailers(seen) = self else { return Ok(Piece::End) };
        let Some(trailers) = trailers(read, seen)? else { return Ok(Piece::More) };
        *self = Chunks::Done;
        Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) })
    }
}

/// The trailers, once they are whole.
fn trailers(read: &mut BytesMut, seen: &mut usize) -> Result<Option<HeaderMap>, Malformed> {
    match &read[..read.len().min(2)] {
        [] | [b'\r'] => return Ok(None),
        b"\r\n" => {
            read.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        _ => {}
    }
    let Some(end) = ended(read, seen)? else { return Ok(None) };
    let fields = fields::all(&read[..end])?;
    read.advance(end);
    Ok(Some(fields.into_map()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str, method: &Method) -> Result<(u16, Framing, bool), &'static str> {
        let mut read = BytesMut::from(text);
        match take_head(&mut read, &mut 0, method) {
            Ok(Some(head)) => Ok((head.status.as_u16(), head.framing, head.keep)),
            Ok(None) => Err("more"),
            Err(Malformed(why)) => Err(why),
        }
    }

    fn check(text: &str, framing: Framing, keep: bool) {
        assert_eq!(
            head(text, &Method::GET).map(|(_, framing, keep)| (framing, keep)),
            Ok((framing, keep)),
            "{text:?}"
        );
    }

    #[test]
    fn knows_how_long_a_body_is() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true);
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\nContent-Length: 5\r\n\r\n",
            Framing::Length(5),
            true,
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true);
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x, Close\r\n\r\n",
            Framing::Chunked,
            false,
        );
        check("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false);
        check("HTTP/1.1 200\nserver: bare\n\n", Framing::Close, false);
        check("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), false);
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n",
            Framing::Length(5),
            true,
        );
        check("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true);
        check("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Framing::Length(0), true);
        check("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing::Length(0), false);
        check("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0), false);
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, close\r\n\r\n",
            Framing::Length(5),
            false,
        );
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Framing::Length(0), true);
        check("HTTP/1.1 100 Continue\r\n\r\n", Framing::Length(0), true);
        let of_head = head("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", &Method::HEAD);
        assert_eq!(of_head, Ok((200, Framing::Length(0), true)));
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for fields in [
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 1, 2",
            "content-length: +1",
            "content-length: 0x1",
            "content-length:",
            "content-length: 1234567890123456789",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "folded: a\r\n b",
            "spaced : a",
        ] {
            let found = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), &Method::GET);
            assert!(matches!(found, Err(why) if why != "more"), "{fields:?}: {found:?}");
        }
        assert!(head("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &Method::GET).is_err());
    }

    #[test]
    fn bounds_a_head_that_never_ends() {
        let mut read = BytesMut::new();
        let mut seen = 0;
        read.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        loop {
            match take_head(&mut read, &mut seen, &Method::GET) {
                Ok(None) => read.extend_from_slice(&[b'a'; 1000]),
                Ok(Some(_)) => panic!("it has no end"),
                Err(why) => break assert_eq!(why, TOO_LARGE),
            }
            assert!(read.len() < 2 * HEAD_BYTES_MAX);
        }
    }

    /// All of a chunked body that comes in these parts, or why not.
    fn chunked(parts: &[&[u8]]) -> Result<(Vec<u8>, HeaderMap, usize), &'static str> {
        let (mut read, mut chunks) = (BytesMut::new(), Chunks::default());
        let (mut data, mut fields) = (Vec::new(), HeaderMap::new());
        let mut parts = parts.iter();
        loop {
            match chunks.take(&mut read).map_err(|Malformed(why)| why)? {
                Piece::Data(piece) => data.extend_from_slice(&piece),
                Piece::Trailers(trailers) => fields = trailers,
                Piece::End => return Ok((data, fields, read.len())),
                Piece::More => read.extend_from_slice(parts.next().ok_or("more")?),
            }
        }
    }

    #[test]
    fn reads_chunks_extensions_and_trailers() {
        let (data, trailers, left) =
            chunked(&[b"3;a=b\r\nabc\r\n0A \r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\nHTTP"]).unwrap();
        assert_eq!((data.as_slice(), left), (b"abc0123456789".as_slice(), 4));
        assert_eq!(trailers["x-sum"], "7");
    }

    #[test]
    fn refuses_chunks_that_are_not_what_they_say() {
        for bad in
            ["x\r\n", "\r\n", "3\nabc", "3\r\nabcd\r\n", "-1\r\n", "1ffffffffffffffff\r\n", "3 a\r\nabc\r\n"]
        {
            let found = chunked(&[bad.as_bytes()]);
            assert!(matches!(found, Err(why) if why != "more"), "{bad:?}: {found:?}");
        }
        assert!(matches!(chunked(&[&[b'0'; chunked::OF_SERVERS.line_max + 1]]), Err(why) if why != "more"));
        assert!(matches!(chunked(&[b"0\r\nbad trailer\r\n\r\n"]), Err(why) if why != "more"));
        // An empty line that not everybody takes for one would hide what follows.
        let hidden = b"0\r\n\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(chunked(&[hidden]), Err(why) if why != "more"));
    }

    proptest! {
        #[test]
        fn the_same_bytes_mean_the_same_however_they_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(1usize..9, 1..60),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\na: b\r\n\r\n");
            let mut parts = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (part, left) = rest.split_at((*cut).min(rest.len()));
                parts.push(part);
                rest = left;
            }
            let (data, trailers, left) = chunked(&parts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!((&trailers["a"], left), (&http::HeaderValue::from_static("b"), 0));
        }

        #[test]
        fn a_head_is_found_however_it_arrives(cut in 1usize..9, value in "[a-z ]{0,20}") {
            let text = format!("HTTP/1.1 200 OK\r\na: {value}\r\ncontent-length: 3\r\n\r\nabc");
            let (mut read, mut seen) = (BytesMut::new(), 0);
            let mut found = None;
            for part in text.as_bytes().chunks(cut) {
                read.extend_from_slice(part);
                if found.is_none() {
                    found = take_head(&mut read, &mut seen, &Method::GET).unwrap();
                }
            }
            prop_assert_eq!(found.map(|head| head.framing), Some(Framing::Length(3)));
            prop_assert_eq!(&read[..], b"abc");
        }

        #[test]
        fn nothing_that_a_server_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut read = BytesMut::from(bytes.as_slice());
            let _ = take_head(&mut read, &mut 0, &Method::GET);
            let (mut read, mut chunks) = (BytesMut::from(bytes.as_slice()), Chunks::default());
            while let Ok(Piece::Data(_)) = chunks.take(&mut read) {}
        }
    }
}

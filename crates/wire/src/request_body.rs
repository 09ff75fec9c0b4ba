//! The bodies of HTTP/1 requests, out of bytes that are not trusted: where they end, and what is in them. Pure.
//!
//! It never takes a byte that may belong to the next request.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::chunked::{Chunks, OF_CLIENTS, Piece};
use crate::request_head::{Facts, HeadLimits, HeadReader, Violation, framing};

/// What is to come of a body.
#[derive(Debug)]
pub enum RequestBody {
    /// Nothing.
    Ended,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Trailers.
    Trailers(Box<HeadReader>),
}

/// What a body holds next.
#[derive(Debug)]
pub enum Next {
    /// Bytes of it.
    Data(Bytes),
    /// Fields after it. It has ended.
    Trailers(HeaderMap),
    /// It has ended.
    End,
    /// More bytes are needed.
    More,
}

impl RequestBody {
    /// The body of a request whose head says so.
    #[must_use]
    pub fn of(facts: &Facts) -> RequestBody {
        match (facts.chunked, facts.length) {
            (true, _) => RequestBody::Chunked(Chunks::Size),
            (false, Some(length)) if length > 0 => RequestBody::Length(length),
            (false, _) => RequestBody::Ended,
        }
    }

    /// Takes what comes next from what was read.
    ///
    /// # Errors
    /// Its chunks are not what they say, or its trailers are none.
    pub fn take(&mut self, read: &mut BytesMut, limits: HeadLimits) -> Result<Next, Violation> {
        loop {
            match self {
                RequestBody::Ended => return Ok(Next::End),
                RequestBody::Length(_) if read.is_empty() => return Ok(Next::More),
                RequestBody::Length(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                    *left -= length as u64;
                    if *left == 0 {
                        *self = RequestBody::Ended;
                    }
                    return Ok(Next::Data(read.split_to(length).freeze()));
                }
                RequestBody::Chunked(chunks) => {
                    match chunks.take(read, OF_CLIENTS).map_err(|error| framing(error.0))? {
                        Piece::Data(data) => return Ok(Next::Data(data)),
                        Piece::More => return Ok(Next::More),
                        Piece::Trailers => {
                            *self = RequestBody::Trailers(Box::new(HeadReader::of_trailers(limits)));
                        }
                    }
                }
                RequestBody::Trailers(reader) => {
                    let Some(end) = reader.read(read)? else { return Ok(Next::More) };
                    let trailers = reader.take_fields(&read.split_to(end));
                    *self = RequestBody::Ended;
                    return Ok(if trailers.is_empty() {
                        Next::End
                    } else {
                        Next::Trailers(trailers.into_map())
                    });
                }
            }
        }
    }
}

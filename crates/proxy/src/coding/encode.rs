//! The codings of answers, piece by piece. Whatever is put in comes out with the next flush at the latest.
//!
//! Windows are bounded, so that what a stream holds is known before it begins ([`Encoder::BYTES`]) and whoever decodes it needs
//! no more than any client has (zstd: RFC 9659 lets clients refuse more than 8 MiB).

use std::io;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct};
use flate2::{Compress, Compression, FlushCompress, Status};
use tidegate_model::coding::Coding;
use zstd::stream::raw::{CParameter, Encoder as Zstd, InBuffer, Operation as _, OutBuffer};

/// Bytes of an answer that Brotli looks back on, as a power of two.
const BROTLI_WINDOW: u32 = 18;
/// The same of Zstandard.
const ZSTD_WINDOW: u32 = 19;
/// What is given to an encoder at a time to write into.
const ROOM: usize = 8 << 10;

/// How hard a route's answers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// 1 to 9.
    pub gzip: u8,
    /// 1 to 9.
    pub br: u8,
    /// 1 to 12.
    pub zstd: u8,
}

/// An answer's encoder.
pub enum Encoder {
    Gzip(Compress),
    Brotli(Box<BrotliEncoderStateStruct<StandardAlloc>>),
    Zstd(Zstd<'static>),
}

/// What is to become of what was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It may wait for more.
    Wait,
    /// It comes out now.
    Flush,
    /// It comes out, and nothing follows.
    Finish,
}

impl Encoder {
    /// About what one holds at most, in bytes, whichever it is.
    pub const BYTES: u64 = 2 << 20;

    /// An encoder for content of this length, where it is known.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn new(coding: Coding, levels: Levels, length: Option<u64>) -> io::Result<Encoder> {
        Ok(match coding {
            Coding::Gzip => Encoder::Gzip(Compress::new_gzip(Compression::new(levels.gzip.into()), 15)),
            Coding::Brotli => {
                let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
                let hint = length.and_then(|length| u32::try_from(length).ok()).unwrap_or_default();
                for (parameter, value) in [
                    (BrotliEncoderParameter::BROTLI_PARAM_QUALITY, levels.br.into()),
                    (BrotliEncoderParameter::BROTLI_PARAM_LGWIN, BROTLI_WINDOW),
                    (BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, hint),
                ] {
                    state.set_parameter(parameter, value);
                }
                Encoder::Brotli(Box::new(state))
            }
            Coding::Zstd => {
                let mut encoder = Zstd::new(levels.zstd.into())?;
                encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW))?;
                encoder.set_pledged_src_size(length)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Puts `input` in; what comes out is written behind what `out` has.
    ///
    /// # Errors
    /// The content is not as long as was said.
    pub fn put(&mut self, input: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => gzip(encoder, input, then, out),
            Encoder::Brotli(encoder) => brotli(encoder, input, then, out),
            Encoder::Zstd(encoder) => zstd(encoder, input, then, out),
        }
    }
}

fn gzip(encoder: &mut Compress, mut input: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
    let flush = match then {
        Then::Wait => FlushCompress::None,
        Then::Flush => FlushCompress::Sync,
        Then::Finish => FlushCompress::Finish,
    };
    loop {
        out.reserve(ROOM);
        let before = encoder.total_in();
        let status = encoder.compress_vec(input, out, flush).map_err(io::Error::other)?;
        input = &input[(encoder.total_in() - before) as usize..];
        // Room that is left over says that nothing more is to come out.
        let all = input.is_empty() && out.len() < out.capacity();
        if status == Status::StreamEnd || all && then != Then::Finish {
            return Ok(());
        }
    }
}

fn brotli(
    encoder: &mut BrotliEncoderStateStruct<StandardAlloc>,
    input: &[u8],
    then: Then,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let operation = |then| match then {
        Then::Wait => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
        Then::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        Then::Finish => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut left, mut at) = (input.len(), 0);
    loop {
        let from = out.len();
        out.resize(from + ROOM, 0);
        let (mut room, mut written) = (ROOM, 0);
        let went = encoder.compress_stream(
            operation(then),
            &mut left,
            input,
            &mut at,
            &mut room,
            &mut out[from..],
            &mut written,
            &mut None,
            &mut |_, _, _, _| (),
        );
        out.truncate(from + written);
        if !went {
            return Err(io::Error::other("brotli gave up"));
        }
        let ended = then != Then::Finish || encoder.is_finished();
        if left == 0 && !encoder.has_more_output() && ended {
            return Ok(());
        }
    }
}

fn zstd(encoder: &mut Zstd<'static>, input: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
    let mut input = InBuffer::around(input);
    while input.pos() < input.src.len() {
        within(out, |room| encoder.run(&mut input, room))?;
    }
    loop {
        let left = match then {
            Then::Wait => 0,
            Then::Flush => within(out, |room| encoder.flush(room))?,
            Then::Finish => within(out, |room| encoder.finish(room, true))?,
        };
        if left == 0 {
            return Ok(());
        }
    }
}

/// Lets something be written behind what `out` has.
fn within(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
) -> io::Result<usize> {
    out.reserve(ROOM);
    let from = out.len();
    write(&mut OutBuffer::around_pos(out, from))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const LEVELS: Levels = Levels { gzip: 5, br: 4, zstd: 3 };

    /// Content in one coding, whole.
    pub(crate) fn coded(coding: Coding, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(coding, LEVELS, None).unwrap();
        encoder.put(content, Then::Finish, &mut out).unwrap();
        out
    }

    #[test]
    fn text_becomes_smaller_and_what_is_flushed_is_out() {
        let text = "so be it. ".repeat(10_000);
        for coding in Coding::ALL {
            assert!(coded(coding, text.as_bytes()).len() < text.len() / 50, "{coding:?}");
            let mut encoder = Encoder::new(coding, LEVELS, None).unwrap();
            let mut out = Vec::new();
            encoder.put(b"first", Then::Flush, &mut out).unwrap();
            assert!(!out.is_empty(), "{coding:?}");
            let before = out.len();
            encoder.put(b"", Then::Finish, &mut out).unwrap();
            assert!(out.len() > before, "{coding:?} tells that it has ended");
        }
    }
}
